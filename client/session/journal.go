package session

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/crypto/cryptobyte"

	"github.com/affidavit-log/affidavit/log/record"
)

// A journal is one file that is only appended to:
//
//	journal = "affidavit-journal/v1" newline frame*
//	frame   = length [4] checksum [4] type [1] payload
//
// Integers are big-endian. The length is that of type and payload; the checksum is CRC-32C of length, type and payload.
// The first frame is a header. A frame counts once it is whole: a process that is killed while it writes leaves a file
// that ends too early, never one with a wrong byte, since the kernel copies a write from its front and moves the end of
// the file along. So what is cut off at the end is dropped, and a wrong checksum is an error.
//
// What is in the file stays there when the process dies, since it is in the kernel's memory; nothing is synchronised to
// a disk, where it must not be. It doesn't survive the trust domain, and neither does the key in it.
const journalMagic = "affidavit-journal/v1\n"

// journalName is the file in a session's directory.
const journalName = "journal"

type frameType byte

const (
	frameHeader  frameType = 1  // kind, id, seed of the key
	frameStart   frameType = 2  // entry of the start, before it is submitted
	frameStarted frameType = 3  // index, origin
	frameAction  frameType = 4  // as encoder.append makes it
	frameModel   frameType = 5  // a model that was used
	frameServed  frameType = 6  // salt, session and its start
	frameEnd     frameType = 7  // entry of the end, before it is submitted, and what its owner must know
	frameEnded   frameType = 8  // index, origin
	frameRefused frameType = 9  // statement digest of the pending start or end, which the log can't admit any more
	frameModels  frameType = 10 // models that were used, in the place of those before
)

const (
	frameOverhead = 9
	// maxFrame bounds a frame: an action with 257 contents, all kept, is the largest.
	maxFrame = 1 << 29
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Errors that callers act on.
var (
	// ErrNotMemory says that a directory isn't in memory only, see [Config].
	ErrNotMemory = errors.New("not in guest memory only")
	// ErrInUse says that another process, or this one, has the session open.
	ErrInUse = errors.New("session is in use")
	// ErrCorrupt says that a journal or a session file isn't what this package has written.
	ErrCorrupt = errors.New("corrupt")
	// ErrNotStarted says that the process stopped before a start was submitted. There is nothing to resume.
	ErrNotStarted = errors.New("session was never started")
	// ErrEnded says that a session has its final or abandoned record already, or is getting it.
	ErrEnded = errors.New("session has ended")
)

// file is what a journal needs of an *os.File. Tests make it fail.
type file interface {
	io.WriterAt
	io.ReaderAt
	Truncate(size int64) error
	Close() error
}

// journal is an open journal. Its methods must not be called concurrently, except for reads below size.
type journal struct {
	f      file
	dir    string
	size   int64 // of what counts
	broken error // why nothing can be written any more
}

func putUint32(b []byte, n uint32)           { binary.BigEndian.PutUint32(b, n) }
func appendUint32(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }

// beginFrame appends what precedes a payload, and endFrame fills it in: start is where the frame begins in b.
func beginFrame(b []byte, t frameType) []byte { return append(b, 0, 0, 0, 0, 0, 0, 0, 0, byte(t)) }

func endFrame(b []byte, start int) []byte {
	putUint32(b[start:], uint32(len(b)-start-8))
	sum := crc32.Update(crc32.Checksum(b[start:start+4], castagnoli), castagnoli, b[start+8:])
	putUint32(b[start+4:], sum)
	return b
}

func frame(t frameType, payload []byte) []byte {
	return endFrame(append(beginFrame(nil, t), payload...), 0)
}

// createJournal makes the journal of a new session in its own directory.
func createJournal(dir string, header []byte) (_ *journal, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	// It gets its name when it has its header, so that a journal without one is never seen.
	name := filepath.Join(dir, journalName)
	f, err := os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(err, os.Remove(dir))
	}
	j := &journal{f: f, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.RemoveAll(dir))
		}
	}()
	if err := lock(f); err != nil {
		return nil, err
	}
	if err := j.write(append([]byte(journalMagic), frame(frameHeader, header)...)); err != nil {
		return nil, err
	}
	return j, os.Rename(name+".new", name)
}

// openJournal opens a journal, calls replay for each of its frames, and drops what was cut off at its end. Payloads are
// valid during the call only.
func openJournal(dir string, replay func(frameType, []byte) error) (_ *journal, err error) {
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		// One whose process died while it was being destroyed: the key may still be there.
		if gone, gerr := os.OpenFile(filepath.Join(dir, goneName), os.O_RDWR, 0); gerr == nil {
			err = errors.Join(err, (&journal{f: gone, dir: dir}).destroy())
		}
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s: %w", f.Name(), errors.Join(err, f.Close()))
		}
	}()
	if err := lock(f); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size, err := readJournal(f, info.Size(), replay)
	if err != nil {
		return nil, err
	}
	if size < info.Size() {
		if err := f.Truncate(size); err != nil {
			return nil, err
		}
	}
	return &journal{f: f, dir: dir, size: size}, nil
}

// readJournal calls replay for each frame of a journal of size bytes. It returns the length of what is whole.
func readJournal(r io.ReaderAt, size int64, replay func(frameType, []byte) error) (int64, error) {
	br := bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16)
	magic := make([]byte, len(journalMagic))
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != journalMagic {
		return 0, fmt.Errorf("%w journal: it doesn't begin with %q", ErrCorrupt, journalMagic)
	}
	at := int64(len(magic))
	var head [frameOverhead]byte
	var payload []byte
	for first := true; ; first = false {
		if size-at < frameOverhead {
			break
		}
		if _, err := io.ReadFull(br, head[:]); err != nil {
			return 0, err
		}
		n := int64(binary.BigEndian.Uint32(head[:]))
		if n < 1 || n > maxFrame {
			return 0, fmt.Errorf("%w journal: frame of %d bytes at offset %d", ErrCorrupt, n, at)
		}
		if size-at-8 < n {
			break
		}
		if n--; int64(cap(payload)) < n {
			payload = make([]byte, n)
		}
		payload = payload[:n]
		if _, err := io.ReadFull(br, payload); err != nil {
			return 0, err
		}
		sum := crc32.Checksum(head[:4], castagnoli)
		sum = crc32.Update(crc32.Update(sum, castagnoli, head[8:]), castagnoli, payload)
		if sum != binary.BigEndian.Uint32(head[4:]) {
			return 0, fmt.Errorf("%w journal: wrong checksum at offset %d", ErrCorrupt, at)
		}
		if t := frameType(head[8]); first != (t == frameHeader) {
			return 0, fmt.Errorf("%w journal: frame of type %d at offset %d", ErrCorrupt, t, at)
		} else if err := replay(t, payload); err != nil {
			return 0, fmt.Errorf("at offset %d: %w", at, err)
		}
		at += frameOverhead + n
	}
	if at == int64(len(magic)) {
		return 0, fmt.Errorf("%w journal: no header", ErrCorrupt)
	}
	return at, nil
}

// write appends frames. If it fails, they aren't there, or nothing can be written any more.
func (j *journal) write(frames []byte) error {
	if j.broken != nil {
		return j.broken
	}
	n, err := j.f.WriteAt(frames, j.size)
	if err == nil && n == len(frames) {
		j.size += int64(n)
		return nil
	}
	if err == nil {
		err = io.ErrShortWrite
	}
	// What was written must not count: nobody will be told that it does.
	if terr := j.f.Truncate(j.size); terr != nil {
		j.broken = fmt.Errorf("the journal can't be written any more: %w", errors.Join(err, terr))
		return j.broken
	}
	return fmt.Errorf("journal: %w", err)
}

// each calls fn for each frame so far.
func (j *journal) each(fn func(frameType, []byte) error) error {
	_, err := readJournal(j.f, j.size, fn)
	return err
}

// goneName is a journal's name while it is being destroyed.
const goneName = journalName + ".gone"

// destroy overwrites the key and removes the session's directory. The journal loses its name before its first byte is
// changed: a process that dies in between leaves no journal, rather than one that looks corrupt. See [openJournal] for
// what it does leave.
func (j *journal) destroy() error {
	if err := os.Rename(filepath.Join(j.dir, journalName), filepath.Join(j.dir, goneName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// The header follows the magic line, and the seed is at its end.
	header := int64(len(journalMagic) + frameOverhead)
	_, werr := j.f.WriteAt(make([]byte, headerSize), header)
	j.broken = os.ErrClosed
	return errors.Join(werr, j.f.Close(), os.RemoveAll(j.dir))
}

// close leaves the journal for another process.
func (j *journal) close() error {
	j.broken = os.ErrClosed
	return j.f.Close()
}

const headerSize = 1 + 16 + 32

// header is what a frameHeader holds.
type header struct {
	kind byte // kindSession or kindRun
	id   record.SessionID
	seed [32]byte
}

const (
	kindSession = 1
	kindRun     = 2
)

func (h *header) marshal() []byte {
	b := append([]byte{h.kind}, h.id[:]...)
	return append(b, h.seed[:]...)
}

func (h *header) parse(b []byte) error {
	s := cryptobyte.String(b)
	var kind uint8
	if !s.ReadUint8(&kind) || !s.CopyBytes(h.id[:]) || !s.CopyBytes(h.seed[:]) || !s.Empty() || kind < kindSession || kind > kindRun {
		return fmt.Errorf("%w journal: header", ErrCorrupt)
	}
	h.kind = kind
	return nil
}

// marshalLogged and parseLogged are for where a record was logged.
func marshalLogged(index uint64, origin string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, index), origin...)
}

func parseLogged(b []byte) (index uint64, origin string, err error) {
	if len(b) < 9 || record.CheckOrigin(string(b[8:])) != nil {
		return 0, "", fmt.Errorf("%w journal: place in the log", ErrCorrupt)
	}
	return binary.BigEndian.Uint64(b), string(b[8:]), nil
}

// marshalModel and parseModel are for a model that was used.
func marshalModel(m *record.Model) ([]byte, error) {
	var b cryptobyte.Builder
	for _, s := range []string{m.Provider, m.RequestModel, m.ResponseModel, m.Execution, m.Channel.Type} {
		b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
	}
	b.AddUint64(m.Calls)
	b.AddBytes(m.Channel.SHA256[:])
	if m.ModelRun != nil {
		b.AddBytes(m.ModelRun[:])
	}
	return b.Bytes()
}

// marshalModels and parseModels are for a list of them.
func marshalModels(ms []record.Model) ([]byte, error) {
	var b cryptobyte.Builder
	for i := range ms {
		m, err := marshalModel(&ms[i])
		if err != nil {
			return nil, err
		}
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(m) })
	}
	return b.Bytes()
}

func parseModels(b []byte) (ms []record.Model, err error) {
	for s := cryptobyte.String(b); !s.Empty(); {
		var one cryptobyte.String
		if !s.ReadUint16LengthPrefixed(&one) {
			return nil, fmt.Errorf("%w journal: models", ErrCorrupt)
		}
		m, err := parseModel(one)
		if err != nil {
			return nil, err
		}
		ms = append(ms, m)
	}
	return ms, nil
}

func parseModel(b []byte) (record.Model, error) {
	var m record.Model
	s := cryptobyte.String(b)
	ok := true
	for _, p := range []*string{&m.Provider, &m.RequestModel, &m.ResponseModel, &m.Execution, &m.Channel.Type} {
		var v cryptobyte.String
		ok = ok && s.ReadUint8LengthPrefixed(&v)
		*p = string(v)
	}
	ok = ok && s.ReadUint64(&m.Calls) && s.CopyBytes(m.Channel.SHA256[:])
	if ok && !s.Empty() {
		m.ModelRun = new(record.Digest)
		ok = s.CopyBytes(m.ModelRun[:]) && s.Empty()
	}
	if !ok {
		return m, fmt.Errorf("%w journal: model", ErrCorrupt)
	}
	return m, nil
}

// commit is a git commit that a session made, with the salt of its commitment.
type commit struct {
	salt [32]byte
	id   string // empty if there is none
}

// marshalEnd and parseEnd are for the entry of an end, with the commit that its statement commits to.
func marshalEnd(c *commit, entry []byte) []byte {
	b := append([]byte{byte(len(c.id))}, c.id...)
	if c.id != "" {
		b = append(b, c.salt[:]...)
	}
	return append(b, entry...)
}

func parseEnd(b []byte) (c commit, entry []byte, err error) {
	s := cryptobyte.String(b)
	var id cryptobyte.String
	ok := s.ReadUint8LengthPrefixed(&id)
	if c.id = string(id); c.id != "" {
		ok = ok && isCommit(c.id) && s.CopyBytes(c.salt[:])
	}
	if !ok {
		return c, nil, fmt.Errorf("%w journal: end", ErrCorrupt)
	}
	return c, s, nil
}

// isCommit reports whether s is a git object id.
func isCommit(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 40 || len(s) == 64
}
