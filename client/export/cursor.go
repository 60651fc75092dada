package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// A Cursor says what an export has got out for good, so that the next run goes on
// from there.
type Cursor struct {
	// Config is a digest of what is exported, and how. A cursor goes with no other.
	Config [32]byte

	Records  uint64 // a monitor's records: everything below this index
	Findings uint64 // a monitor's findings: everything up to this number
	Seen     uint64 // bundles: the number of keys in the file beside the cursor
	Output   uint64 // the size of the output file, 0 if there is none
}

const cursorHeader = "affidavit export cursor v1"

// String returns the cursor as its file has it.
func (c Cursor) String() string {
	return fmt.Sprintf("%s\nconfig %x\nrecords %d\nfindings %d\nseen %d\noutput %d\n",
		cursorHeader, c.Config, c.Records, c.Findings, c.Seen, c.Output)
}

// ErrCursor is wrapped by the errors of ParseCursor.
var ErrCursor = errors.New("not a cursor of affidavit export")

// ParseCursor parses what String returns, and nothing else.
func ParseCursor(b []byte) (Cursor, error) {
	var c Cursor
	lines := strings.Split(string(b), "\n")
	if version, ok := strings.CutPrefix(lines[0], cursorHeader[:len(cursorHeader)-1]); ok && lines[0] != cursorHeader {
		return c, fmt.Errorf("%w of this version: it is of version %.20q, and this command knows 1", ErrCursor, version)
	}
	if len(b) > 1024 || lines[0] != cursorHeader {
		return c, ErrCursor
	}
	values := make(map[string]string)
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, " ")
		values[name] = value
	}
	digest, err := hex.DecodeString(values["config"])
	if err != nil || len(digest) != len(c.Config) {
		return c, fmt.Errorf("%w: config %.80q is not a SHA-256", ErrCursor, values["config"])
	}
	copy(c.Config[:], digest)
	for name, n := range map[string]*uint64{"records": &c.Records, "findings": &c.Findings, "seen": &c.Seen, "output": &c.Output} {
		if *n, err = strconv.ParseUint(values[name], 10, 64); err != nil {
			return c, fmt.Errorf("%w: %s %.80q is not a number", ErrCursor, name, values[name])
		}
	}
	if c.String() != string(b) {
		return c, fmt.Errorf("%w: not in the form that it was written in", ErrCursor)
	}
	return c, nil
}

// ErrConfig says that a cursor belongs to another export.
var ErrConfig = errors.New("the cursor is of an export with other flags or policies: use a file of its own for each export")

// ReadCursor returns the cursor in a file, or an empty one of config if there is no
// such file.
func ReadCursor(name string, config [32]byte) (Cursor, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Cursor{Config: config}, nil
	}
	if err != nil {
		return Cursor{}, err
	}
	c, err := ParseCursor(b)
	if err != nil {
		return c, fmt.Errorf("%s: %w", name, err)
	}
	if c.Config != config {
		return c, fmt.Errorf("%s: %w", name, ErrConfig)
	}
	return c, nil
}

// WriteCursor replaces the cursor in a file at once, and returns when it is durable.
func WriteCursor(name string, c Cursor) error { return replaceFile(name, []byte(c.String())) }

// replaceFile replaces a file, durably: after a crash it is the old one or the new one.
func replaceFile(name string, b []byte) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".affidavit-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// A Seen is a set of what was exported. In memory a member takes about 24 bytes. It
// may have a file, to which new members are appended, and which is good for as many
// as the cursor says. It can be used concurrently.
type Seen struct {
	mu sync.Mutex // guards everything below

	table []seenKey // open addressing; a power of two, at most three quarters full
	used  uint64
	zero  bool // whether the zero key is in it

	f       *os.File
	pending []byte // members that are not in the file yet
	saved   uint64 // members in the file
}

type seenKey [16]byte

// keyOf is a member: cut to 128 bits, SHA-256 has no collisions that anybody could
// find, by which an event could be made to get lost.
func keyOf(kind, what string) seenKey {
	h := sha256.Sum256([]byte(kind + "\x00" + what))
	return seenKey(h[:16])
}

// NewSeen returns an empty set without a file.
func NewSeen() *Seen { return &Seen{table: make([]seenKey, 1<<10)} }

// OpenSeen returns the set of the first n members of a file. What is behind them
// was never made good by a cursor, and is cut off.
func OpenSeen(name string, n uint64) (*Seen, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := NewSeen()
	s.f = f
	r := io.NewSectionReader(f, 0, int64(n)*16)
	buf := make([]byte, 64<<10)
	for s.saved < n {
		m, err := io.ReadFull(r, buf[:min(uint64(len(buf)), (n-s.saved)*16)])
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: holds %d keys, and the cursor was written with %d: use the two together", name, s.saved+uint64(m)/16, n)
		}
		for b := buf[:m]; len(b) > 0; b = b[16:] {
			s.insert(seenKey(b[:16]))
			s.saved++
		}
	}
	if err := f.Truncate(int64(n) * 16); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return nil, err
	}
	return s, nil
}

// insert adds a member, and reports whether it is new.
func (s *Seen) insert(k seenKey) bool {
	if k == (seenKey{}) { // which stands for a free place
		was := s.zero
		s.zero = true
		return !was
	}
	if s.used*4 >= uint64(len(s.table))*3 {
		old := s.table
		s.table = make([]seenKey, 2*len(old))
		for _, k := range old {
			if k != (seenKey{}) {
				s.table[s.place(k)] = k
			}
		}
	}
	i := s.place(k)
	if s.table[i] == k {
		return false
	}
	s.table[i] = k
	s.used++
	return true
}

// place returns where k is, or would be.
func (s *Seen) place(k seenKey) uint64 {
	mask := uint64(len(s.table) - 1)
	i := binary.LittleEndian.Uint64(k[:]) & mask
	for s.table[i] != k && s.table[i] != (seenKey{}) {
		i = (i + 1) & mask
	}
	return i
}

func (s *Seen) has(k seenKey) bool {
	if k == (seenKey{}) {
		return s.zero
	}
	return s.table[s.place(k)] == k
}

// Add adds what, of some kind, and reports whether it is new.
func (s *Seen) Add(kind, what string) bool {
	k := keyOf(kind, what)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.insert(k) {
		return false
	}
	if s.f != nil {
		s.pending = append(s.pending, k[:]...)
	}
	return true
}

// Has reports whether what, of some kind, is in the set.
func (s *Seen) Has(kind, what string) bool {
	k := keyOf(kind, what)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.has(k)
}

// Empty reports whether nothing is in the set.
func (s *Seen) Empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used == 0 && !s.zero
}

// Sync makes all members durable, and returns how many the file has, which the
// cursor needs.
func (s *Seen) Sync() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.f == nil {
		return 0, nil
	}
	if len(s.pending) > 0 {
		if _, err := s.f.WriteAt(s.pending, int64(s.saved)*16); err != nil {
			return 0, err
		}
		if err := s.f.Sync(); err != nil {
			return 0, err
		}
		s.saved += uint64(len(s.pending)) / 16
		s.pending = s.pending[:0]
	}
	return s.saved, nil
}

// Close closes the file, if there is one.
func (s *Seen) Close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}

// tailLines calls visit with each whole line of a file from an offset on, without its
// end, and returns where the last one ends and what is behind it.
func tailLines(f io.ReaderAt, from, size int64, visit func(line []byte) error) (end int64, torn []byte, err error) {
	const chunk = 1 << 20
	end = from
	var buf []byte
	for at := from; at < size; {
		n := min(chunk, size-at)
		buf = append(buf, make([]byte, n)...)
		if _, err := f.ReadAt(buf[int64(len(buf))-n:], at); err != nil {
			return 0, nil, err
		}
		at += n
		for {
			i := bytes.IndexByte(buf, '\n')
			if i < 0 {
				break
			}
			if err := visit(bytes.TrimSuffix(buf[:i], []byte("\r"))); err != nil {
				return 0, nil, err
			}
			end += int64(i) + 1
			buf = buf[i+1:]
		}
		buf = bytes.Clone(buf)
		if len(buf) > maxLine {
			return 0, nil, fmt.Errorf("a line of more than %d bytes, which no export has written", maxLine)
		}
	}
	return end, buf, nil
}

// maxLine is the size in bytes of the longest line that an export writes: an event of
// a record with all texts as long as can be stays far below.
const maxLine = 64 << 20
