package export

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// A Queue keeps lines on disk until a receiver has taken them, across restarts and
// outages. Lines go in together with the cursor after them, so that none is lost or
// there twice if either end stops at any time.
//
// A directory holds segments "<16 hex digits>.queue", which are sequences of frames,
// and a file "delivered" that says up to where the receiver has everything. A frame is
// its body's length and CRC-32C, each four bytes in big-endian order, and the body:
// the cursor's text and the lines, each after its length in four bytes. A frame that a
// crash cut short ends the last segment, and is cut off.
//
// One goroutine may write (Output), and one may read.
type Queue struct {
	dir     string
	segment int64 // largest size of a segment but for its last frame
	limit   int64 // see QueueOptions
	lock    *os.File

	// Owned by the writer.
	w       *os.File
	wSeq    uint64
	wSize   int64
	pending []byte // lines of the frame to come
	cursor  Cursor
	config  [32]byte

	// Owned by the reader.
	r     *os.File
	rSeq  uint64
	rOff  int64
	frame [][]byte // lines of the frame at rOff that are still to be read
	rSkip int      // how many of it were read
	rLen  int64    // the frame's whole length

	mu        sync.Mutex
	end       Place // where the last frame ends; guarded by mu
	delivered Place // guarded by mu
	closed    bool  // the writer is done; guarded by mu
	sizes     map[uint64]int64
	changed   chan struct{} // closed and replaced at each change; guarded by mu
}

// A Place is between two lines of a queue.
type Place struct {
	Segment uint64
	Offset  int64 // of a frame
	Lines   int   // of that frame before it
}

// QueueOptions bounds a queue.
type QueueOptions struct {
	// Limit is the number of bytes on disk at which WaitRoom waits for the receiver; 1 GiB
	// if it is zero. What isn't in the queue yet, the source still has.
	Limit int64

	// Segment is the size of a segment; 64 MiB if it is zero. The space of a segment is
	// free once all of it is delivered.
	Segment int64
}

var crcTable = crc32.MakeTable(crc32.Castagnoli)

const (
	frameHeader  = 8
	queueHeader  = "affidavit export queue v1"
	segmentEnd   = ".queue"
	deliveredEnd = "delivered"
)

// maxFrame is the size in bytes of the largest frame's body: Commit comes at the
// latest when the lines of a few records more than commitBytes are there.
const maxFrame = 256 << 20

// OpenQueue opens or makes the queue in a directory, and locks it. The queue's cursor
// goes with config.
func OpenQueue(dir string, config [32]byte, o QueueOptions) (*Queue, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	q := &Queue{
		dir: dir, segment: o.Segment, limit: o.Limit, config: config,
		sizes: make(map[uint64]int64), changed: make(chan struct{}),
	}
	if q.segment == 0 {
		q.segment = 64 << 20
	}
	if q.limit == 0 {
		q.limit = 1 << 30
	}
	var err error
	if q.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := errors.Join(lock(q.lock), q.open()); err != nil {
		q.Close()
		return nil, fmt.Errorf("queue %s: %w", dir, err)
	}
	return q, nil
}

func (q *Queue) name(seq uint64) string {
	return filepath.Join(q.dir, fmt.Sprintf("%016x%s", seq, segmentEnd))
}

func (q *Queue) open() error {
	entries, err := os.ReadDir(q.dir)
	if err != nil {
		return err
	}
	var seqs []uint64
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), segmentEnd)
		if !ok {
			continue
		}
		seq, err := strconv.ParseUint(hex, 16, 64)
		if err != nil || len(hex) != 16 {
			return fmt.Errorf("file %s is not a segment", e.Name())
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		seqs = append(seqs, seq)
		q.sizes[seq] = info.Size()
	}
	slices.Sort(seqs)
	if len(seqs) == 0 {
		q.cursor = Cursor{Config: q.config}
		if err := q.begin(1); err != nil {
			return err
		}
		q.delivered = Place{Segment: 1}
		return q.rewind()
	}
	for i, seq := range seqs {
		if seq != seqs[0]+uint64(i) {
			return fmt.Errorf("segment %016x is missing", seqs[0]+uint64(i))
		}
	}
	if err := q.recover(seqs[len(seqs)-1]); err != nil {
		return err
	}
	q.delivered = Place{Segment: seqs[0]}
	b, err := os.ReadFile(filepath.Join(q.dir, deliveredEnd))
	if err == nil {
		if q.delivered, err = parsePlace(b); err != nil {
			return err
		}
		// Older segments are those that a crash left over.
		for len(seqs) > 1 && seqs[0] < q.delivered.Segment {
			os.Remove(q.name(seqs[0]))
			delete(q.sizes, seqs[0])
			seqs = seqs[1:]
		}
		if q.delivered.Segment < seqs[0] || q.delivered.Segment > q.wSeq {
			return fmt.Errorf("segment %016x, up to which events were delivered, is missing", q.delivered.Segment)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return q.rewind()
}

// recover opens the last segment for writing: it finds the last whole frame, which
// has the cursor, and cuts off what is behind it.
func (q *Queue) recover(seq uint64) error {
	f, err := os.OpenFile(q.name(seq), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	q.w, q.wSeq = f, seq
	size := q.sizes[seq]
	found := false
	for q.wSize < size {
		body, err := readFrame(f, q.wSize, size)
		if err != nil {
			later, lerr := laterFrame(f, q.wSize, size)
			if later || lerr != nil {
				return fmt.Errorf("segment %016x is damaged at byte %d: %w", seq, q.wSize, cmp.Or(lerr, err))
			}
			break // torn
		}
		if q.cursor, _, err = parseFrame(body); err != nil {
			return fmt.Errorf("segment %016x at byte %d: %w", seq, q.wSize, err)
		}
		found = true
		q.wSize += frameHeader + int64(len(body))
	}
	if !found {
		return fmt.Errorf("segment %016x has no whole frame", seq)
	}
	if q.cursor.Config != q.config {
		return ErrConfig
	}
	if err := f.Truncate(q.wSize); err != nil {
		return err
	}
	q.sizes[seq] = q.wSize
	q.end = Place{Segment: seq, Offset: q.wSize}
	return f.Sync()
}

// laterFrame reports whether a whole frame is anywhere behind the broken one at off:
// then it isn't the end of the file that is broken.
func laterFrame(f *os.File, off, size int64) (bool, error) {
	rest := make([]byte, size-off)
	if _, err := f.ReadAt(rest, off); err != nil {
		return false, err
	}
	for at := 1; ; at++ {
		// Every frame begins with its header and the length of its cursor.
		i := bytes.Index(rest[at:], []byte(cursorHeader))
		if i < 0 {
			return false, nil
		}
		at += i
		if start := at - 4 - frameHeader; start > 0 {
			if _, err := readFrame(bytes.NewReader(rest), int64(start), int64(len(rest))); err == nil {
				return true, nil
			}
		}
	}
}

var errTorn = errors.New("a frame that is cut short or damaged")

// readFrame returns the body of the frame at off in a file of a size.
func readFrame(f io.ReaderAt, off, size int64) ([]byte, error) {
	var head [frameHeader]byte
	if size-off < frameHeader {
		return nil, errTorn
	}
	if _, err := f.ReadAt(head[:], off); err != nil {
		return nil, err
	}
	n := int64(binary.BigEndian.Uint32(head[:4]))
	if n > maxFrame || size-off-frameHeader < n {
		return nil, errTorn
	}
	body := make([]byte, n)
	if _, err := f.ReadAt(body, off+frameHeader); err != nil {
		return nil, err
	}
	if crc32.Checksum(body, crcTable) != binary.BigEndian.Uint32(head[4:]) {
		return nil, errTorn
	}
	return body, nil
}

// parseFrame returns the cursor and the lines of a frame's body.
func parseFrame(body []byte) (c Cursor, lines [][]byte, err error) {
	var parts [][]byte
	for len(body) > 0 {
		if len(body) < 4 || uint64(len(body)-4) < uint64(binary.BigEndian.Uint32(body)) {
			return c, nil, errors.New("a frame whose parts don't fit into it")
		}
		n := 4 + int(binary.BigEndian.Uint32(body))
		parts = append(parts, body[4:n])
		body = body[n:]
	}
	if len(parts) == 0 {
		return c, nil, errors.New("a frame without a cursor")
	}
	c, err = ParseCursor(parts[0])
	return c, parts[1:], err
}

func appendPart[T string | []byte](b []byte, part T) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part)))
	return append(b, part...)
}

// appendFrame appends a frame of a cursor and encoded lines.
func appendFrame(b []byte, c Cursor, lines []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, frameHeader)...)
	b = appendPart(b, c.String())
	b = append(b, lines...)
	body := b[at+frameHeader:]
	binary.BigEndian.PutUint32(b[at:], uint32(len(body)))
	binary.BigEndian.PutUint32(b[at+4:], crc32.Checksum(body, crcTable))
	return b
}

// begin makes a segment, which has the cursor in it before anybody can see it.
func (q *Queue) begin(seq uint64) error {
	frame := appendFrame(nil, q.cursor, nil)
	if err := replaceFile(q.name(seq), frame); err != nil {
		return err
	}
	f, err := os.OpenFile(q.name(seq), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if q.w != nil {
		q.w.Close()
	}
	q.w, q.wSeq, q.wSize = f, seq, int64(len(frame))
	q.publish()
	return nil
}

// publish makes what was written known to the reader.
func (q *Queue) publish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.end = Place{Segment: q.wSeq, Offset: q.wSize}
	q.sizes[q.wSeq] = q.wSize
	q.wake()
}

// wake tells whoever waits that something has changed. The caller holds mu.
func (q *Queue) wake() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// Changed returns a channel that is closed at the next change of the queue.
func (q *Queue) Changed() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.changed
}

// Cursor returns the cursor after the last lines.
func (q *Queue) Cursor() Cursor { return q.cursor }

// Write implements Output.
func (q *Queue) Write(lines []Line) error {
	for _, l := range lines {
		q.pending = appendPart(q.pending, l.Data)
	}
	return nil
}

// Backlog returns how many bytes of segments aren't delivered, and whether the queue
// is over its limit.
func (q *Queue) Backlog() (bytes int64, full bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for seq, n := range q.sizes {
		switch {
		case seq == q.delivered.Segment:
			bytes += n - q.delivered.Offset
		case seq > q.delivered.Segment:
			bytes += n
		}
	}
	return bytes, bytes > q.limit
}

// WaitRoom waits until the queue is within its limit.
func (q *Queue) WaitRoom(ctx context.Context) error {
	for {
		changed := q.Changed()
		if _, full := q.Backlog(); !full {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Commit implements Output: the lines and the cursor are durable together.
func (q *Queue) Commit(c Cursor) error {
	if len(q.pending) == 0 && c == q.cursor {
		return nil
	}
	if q.wSize >= q.segment {
		if err := q.begin(q.wSeq + 1); err != nil { // with the cursor before the lines
			return err
		}
	}
	frame := appendFrame(nil, c, q.pending)
	_, err := q.w.WriteAt(frame, q.wSize)
	if err == nil {
		err = q.w.Sync()
	}
	if err != nil {
		// What was written in part is behind the end that recover finds.
		return err
	}
	q.cursor = c
	q.wSize += int64(len(frame))
	q.pending = q.pending[:0]
	q.publish()
	return nil
}

// Finish says that nothing more will be written.
func (q *Queue) Finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

// Close closes the queue's files, without waiting for anything.
func (q *Queue) Close() error {
	for _, f := range []*os.File{q.w, q.r, q.lock} {
		if f != nil {
			f.Close()
		}
	}
	return nil
}

// rewind makes the reader go on after what was delivered.
func (q *Queue) rewind() error {
	q.mu.Lock()
	p := q.delivered
	q.mu.Unlock()
	if q.r != nil {
		q.r.Close()
		q.r = nil
	}
	q.rSeq, q.rOff, q.rSkip, q.frame, q.rLen = p.Segment, p.Offset, 0, nil, 0
	if p.Lines == 0 {
		return nil
	}
	if ok, err := q.load(); err != nil || !ok || p.Lines > len(q.frame) {
		return fmt.Errorf("segment %016x has no line %d of the frame at byte %d, up to which events were delivered: %v", p.Segment, p.Lines, p.Offset, err)
	}
	q.frame, q.rSkip = q.frame[p.Lines:], p.Lines
	return nil
}

// Rewind makes Next go on after the last Place that was delivered.
func (q *Queue) Rewind() error { return q.rewind() }

// load reads the frame at the reader's place; false if there is none yet.
func (q *Queue) load() (bool, error) {
	q.mu.Lock()
	end := q.end
	q.mu.Unlock()
	for {
		if q.rSeq == end.Segment && q.rOff >= end.Offset {
			return false, nil
		}
		if q.r == nil {
			var err error
			if q.r, err = os.Open(q.name(q.rSeq)); err != nil {
				return false, err
			}
		}
		size := end.Offset
		if q.rSeq != end.Segment {
			info, err := q.r.Stat()
			if err != nil {
				return false, err
			}
			if size = info.Size(); q.rOff >= size {
				q.r.Close()
				q.r, q.rSeq, q.rOff = nil, q.rSeq+1, 0
				continue
			}
		}
		body, err := readFrame(q.r, q.rOff, size)
		if err != nil {
			return false, fmt.Errorf("segment %016x at byte %d: %w", q.rSeq, q.rOff, err)
		}
		_, lines, err := parseFrame(body)
		if err != nil {
			return false, fmt.Errorf("segment %016x at byte %d: %w", q.rSeq, q.rOff, err)
		}
		q.frame, q.rSkip, q.rLen = lines, 0, frameHeader+int64(len(body))
		return true, nil
	}
}

// Next returns up to max lines of together up to size bytes, at least one, and the
// place behind them; none if there are none. done says that there never will be.
func (q *Queue) Next(max, size int) (lines [][]byte, after Place, done bool, err error) {
	q.mu.Lock()
	closed := q.closed
	q.mu.Unlock()
	for len(q.frame) == 0 {
		// The frame is read to its end, and the place after it is that of the next one.
		q.rOff += q.rLen
		q.rLen, q.rSkip = 0, 0
		ok, err := q.load()
		if err != nil {
			return nil, Place{}, false, err
		}
		if !ok {
			return nil, Place{q.rSeq, q.rOff, 0}, closed, nil
		}
	}
	n, total := 0, 0
	for n < len(q.frame) && n < max && (n == 0 || total+len(q.frame[n]) <= size) {
		total += len(q.frame[n])
		n++
	}
	lines, q.frame = q.frame[:n], q.frame[n:]
	q.rSkip += n
	after = Place{q.rSeq, q.rOff, q.rSkip}
	if len(q.frame) == 0 {
		after = Place{q.rSeq, q.rOff + q.rLen, 0}
	}
	return lines, after, false, nil
}

// Delivered makes durable that the receiver has everything up to a place, and frees
// the space of segments before it.
func (q *Queue) Delivered(p Place) error {
	text := fmt.Sprintf("%s\nsegment %d\noffset %d\nlines %d\n", queueHeader, p.Segment, p.Offset, p.Lines)
	if err := replaceFile(filepath.Join(q.dir, deliveredEnd), []byte(text)); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.delivered = p
	for seq := range q.sizes {
		if seq < p.Segment {
			os.Remove(q.name(seq)) // what stays for now goes when the queue is opened again
			delete(q.sizes, seq)
		}
	}
	q.wake()
	return nil
}

func parsePlace(b []byte) (p Place, err error) {
	if _, err := fmt.Fscanf(bytes.NewReader(b), queueHeader+"\nsegment %d\noffset %d\nlines %d\n", &p.Segment, &p.Offset, &p.Lines); err != nil {
		return p, fmt.Errorf("%s: not a place in a queue", deliveredEnd)
	}
	if text := fmt.Sprintf("%s\nsegment %d\noffset %d\nlines %d\n", queueHeader, p.Segment, p.Offset, p.Lines); text != string(b) || p.Offset < 0 || p.Lines < 0 {
		return p, fmt.Errorf("%s: not in the form that it was written in", deliveredEnd)
	}
	return p, nil
}

// Refused appends a line that the receiver will never take to the file "refused", so
// that it is not lost and holds up nothing.
func (q *Queue) Refused(line []byte) error {
	f, err := os.OpenFile(filepath.Join(q.dir, "refused"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(bytes.Clone(line), '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}
