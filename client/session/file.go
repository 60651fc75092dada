package session

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"

	"github.com/affidavit-log/affidavit/log/record"
)

// fileMagic is the first line of a session file.
const fileMagic = "affidavit-session/v1"

// Kinds of files.
const (
	FileSession  = "session"
	FileModelRun = "model-run"
)

// A FileHeader says what a session file is about.
type FileHeader struct {
	Kind    string               // FileSession or FileModelRun
	Session *record.SessionID    // nil for a model run
	Start   *record.StatementRef // nil for a model run
	End     *record.StatementRef // the final, abandoned or model-run record; nil if it isn't logged yet

	// Commit is the git commit that the session made, with the salt of the commitment in its final statement; empty if
	// there is none.
	Commit     string
	CommitSalt [32]byte

	Documents record.Tree // of actions, or of a model run's calls
	Served    record.Tree // of the sessions that a model run served
}

// A Document is an action document with its salt, and its contents in the order of their names.
type Document struct {
	Salt     [32]byte
	Document []byte // see record.ParseAction
	Contents []Content
}

// Served is a session that a model run served.
type Served struct {
	Salt  [32]byte
	ID    record.SessionID
	Start record.Digest // statement
}

func (s *Served) leaf() record.Digest {
	return record.ActionLeaf(s.Salt, record.ServedSessionDocument(s.ID, s.Start))
}

const servedSize = 32 + 16 + 32

func (s *Served) marshal() []byte {
	b := append(s.Salt[:len(s.Salt):len(s.Salt)], s.ID[:]...)
	return append(b, s.Start[:]...)
}

func parseServed(b []byte) (s Served, err error) {
	if len(b) != servedSize {
		return s, fmt.Errorf("%w: served session of %d bytes", ErrCorrupt, len(b))
	}
	copy(s.Salt[:], b)
	copy(s.ID[:], b[32:])
	copy(s.Start[:], b[48:])
	return s, nil
}

// documentReader reads what encoder.append makes. It has one for each part, so that a file need not fit into memory.
type documentReader interface {
	read(n int) ([]byte, error) // the next n bytes, valid until the next call
}

func readDocument(r documentReader) (d Document, err error) {
	b, err := r.read(4)
	if err != nil {
		return d, err
	}
	n := binary.BigEndian.Uint32(b)
	if n < 34 || n > 33+record.MaxAction {
		return d, fmt.Errorf("%w: document of %d bytes", ErrCorrupt, n)
	}
	if b, err = r.read(int(n)); err != nil {
		return d, err
	}
	if b[0] != 0 {
		return d, fmt.Errorf("%w: leaf that begins with %#02x", ErrCorrupt, b[0])
	}
	copy(d.Salt[:], b[1:])
	d.Document = bytes.Clone(b[33:])
	if b, err = r.read(1); err != nil {
		return d, err
	}
	for count := b[0]; count > 0; count-- {
		var c Content
		if b, err = r.read(1); err != nil {
			return d, err
		}
		if b, err = r.read(int(b[0])); err != nil {
			return d, err
		}
		c.Name = string(b)
		if i := len(d.Contents); i > 0 && d.Contents[i-1].Name >= c.Name {
			return d, fmt.Errorf("%w: content %.80q out of order", ErrCorrupt, c.Name)
		}
		if b, err = r.read(33); err != nil {
			return d, err
		}
		switch copy(c.Salt[:], b); b[32] {
		case 0:
		case 1:
			if b, err = r.read(4); err != nil {
				return d, err
			}
			n := binary.BigEndian.Uint32(b)
			if n > maxContent {
				return d, fmt.Errorf("%w: content of %d bytes", ErrCorrupt, n)
			}
			if b, err = r.read(int(n)); err != nil {
				return d, err
			}
			c.Bytes = append([]byte{}, b...)
		default:
			return d, fmt.Errorf("%w: content with mark %d", ErrCorrupt, b[32])
		}
		d.Contents = append(d.Contents, c)
	}
	return d, nil
}

// stringReader reads from memory.
type stringReader struct{ s cryptobyte.String }

func (r *stringReader) read(n int) (b []byte, err error) {
	if !r.s.ReadBytes(&b, n) {
		return nil, fmt.Errorf("%w: truncated document", ErrCorrupt)
	}
	return b, nil
}

// parseDocument parses one whole document.
func parseDocument(b []byte) (Document, error) {
	r := stringReader{b}
	d, err := readDocument(&r)
	if err == nil && !r.s.Empty() {
		err = fmt.Errorf("%w: document with trailing data", ErrCorrupt)
	}
	return d, err
}

// check checks a document against its place, and its contents against the digests in it.
func (d *Document) check(h *FileHeader, index uint64) (*record.Action, error) {
	a, err := record.ParseAction(d.Document)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: document %d: %w", ErrCorrupt, index, err)
	case a.Index != index:
		return nil, fmt.Errorf("%w: document %d says it is %d", ErrCorrupt, index, a.Index)
	case h.Session != nil && a.Session != *h.Session:
		return nil, fmt.Errorf("%w: document %d is of session %s", ErrCorrupt, index, a.Session)
	}
	for _, c := range d.Contents {
		if _, ok := digestIn(a, c.Name); !ok {
			return nil, fmt.Errorf("%w: document %d has no digest of %.80q", ErrCorrupt, index, c.Name)
		}
		if c.Bytes == nil {
			continue
		}
		if err := VerifyContent(a, c.Name, c.Salt, c.Bytes); err != nil {
			return nil, fmt.Errorf("%w: document %d: %w", ErrCorrupt, index, err)
		}
	}
	return a, nil
}

// text returns the header's lines.
func (h *FileHeader) text() string {
	var b strings.Builder
	ref := func(name string, r *record.StatementRef) {
		if r == nil {
			fmt.Fprintf(&b, "%s none\n", name)
			return
		}
		fmt.Fprintf(&b, "%s %s %d %x\n", name, r.Origin, r.Index, r.Statement)
	}
	tree := func(name string, t record.Tree) {
		fmt.Fprintf(&b, "%s %d %s\n", name, t.Size, base64.StdEncoding.EncodeToString(t.Root[:]))
	}
	fmt.Fprintf(&b, "%s\nkind %s\n", fileMagic, h.Kind)
	if h.Session != nil {
		fmt.Fprintf(&b, "session %s\n", h.Session)
	} else {
		b.WriteString("session none\n")
	}
	ref("start", h.Start)
	ref("end", h.End)
	if h.Commit != "" {
		fmt.Fprintf(&b, "commit %s %x\n", h.Commit, h.CommitSalt)
	} else {
		b.WriteString("commit none\n")
	}
	tree("documents", h.Documents)
	tree("served", h.Served)
	b.WriteString("\n")
	return b.String()
}

// maxHeader is more than the longest header has: two origins of 255 bytes are most of it.
const maxHeader = 2048

// parseHeader parses the header's lines, whose values it takes generously: the header is made again and compared.
func parseHeader(text string) (*FileHeader, error) {
	h := new(FileHeader)
	lines := strings.Split(text, "\n")
	if lines[0] != fileMagic {
		return nil, fmt.Errorf("%w: a session file begins with the line %q, this with %.40q", ErrCorrupt, fileMagic, lines[0])
	}
	values := func(i int, name string) []string {
		if i < len(lines) {
			if v, ok := strings.CutPrefix(lines[i], name+" "); ok && v != "none" {
				return strings.Split(v, " ")
			}
		}
		return nil
	}
	unhex := func(dst []byte, s string) {
		if b, err := hex.DecodeString(s); err == nil {
			copy(dst, b)
		}
	}
	ref := func(i int, name string) *record.StatementRef {
		v := values(i, name)
		if len(v) != 3 || record.CheckOrigin(v[0]) != nil {
			return nil
		}
		r := &record.StatementRef{Origin: v[0]}
		r.Index, _ = strconv.ParseUint(v[1], 10, 64)
		unhex(r.Statement[:], v[2])
		return r
	}
	tree := func(i int, name string) (t record.Tree) {
		if v := values(i, name); len(v) == 2 {
			t.Size, _ = strconv.ParseUint(v[0], 10, 53)
			if b, err := base64.StdEncoding.DecodeString(v[1]); err == nil {
				copy(t.Root[:], b)
			}
		}
		return t
	}
	if v := values(1, "kind"); len(v) == 1 && (v[0] == FileSession || v[0] == FileModelRun) {
		h.Kind = v[0]
	}
	if v := values(2, "session"); len(v) == 1 {
		if id, err := record.ParseSessionID(v[0]); err == nil {
			h.Session = &id
		}
	}
	h.Start, h.End = ref(3, "start"), ref(4, "end")
	if v := values(5, "commit"); len(v) == 2 && isCommit(v[0]) {
		h.Commit = v[0]
		unhex(h.CommitSalt[:], v[1])
	}
	h.Documents, h.Served = tree(6, "documents"), tree(7, "served")
	if again := h.text(); again != text {
		return nil, fmt.Errorf("%w: the header is not in its only form", ErrCorrupt)
	}
	if h.Kind == FileSession != (h.Session != nil) || h.Kind == FileSession != (h.Start != nil) ||
		h.Kind == FileSession && h.Served.Size > 0 || h.Kind == FileModelRun && h.Commit != "" {
		return nil, fmt.Errorf("%w: the header's lines don't go together for kind %s", ErrCorrupt, h.Kind)
	}
	return h, nil
}

// A Reader reads a session file, in memory that doesn't grow with it. What it returns has been checked: documents are
// well-formed and in their places, and contents are what the documents have digests of. At the end of the file, the
// trees' roots have been compared with those in the header.
//
// The header itself proves nothing: compare its trees with those in the final statement that it names, once a bundle
// has shown that. A [record.Disclosure] does that for one action.
type Reader struct {
	r         *bufio.Reader
	buf       []byte
	header    *FileHeader
	documents tree
	served    tree
}

// NewReader reads the header of a session file.
func NewReader(r io.Reader) (*Reader, error) {
	f := &Reader{r: bufio.NewReaderSize(r, 1<<16)}
	var text []byte
	for !bytes.HasSuffix(text, []byte("\n\n")) {
		line, err := f.r.ReadSlice('\n')
		if text = append(text, line...); err != nil || len(text) > maxHeader {
			if err == nil || err == io.EOF || err == bufio.ErrBufferFull {
				err = fmt.Errorf("%w: no header of a session file", ErrCorrupt)
			}
			return nil, err
		}
	}
	var err error
	f.header, err = parseHeader(string(text))
	return f, err
}

// Header returns the file's header.
func (f *Reader) Header() *FileHeader { return f.header }

// read implements documentReader. The file may end between documents only, and only when all are there.
func (f *Reader) read(n int) ([]byte, error) {
	if n > cap(f.buf) {
		f.buf = make([]byte, n)
	}
	b := f.buf[:n]
	if _, err := io.ReadFull(f.r, b); err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("%w: it ends after %d of %d documents and %d of %d served sessions", ErrCorrupt,
			f.documents.size, f.header.Documents.Size, f.served.size, f.header.Served.Size)
	} else if err != nil {
		return nil, err
	}
	return b, nil
}

// Next returns the next document, which is the caller's, and the action in it. After the last it returns io.EOF; then
// [Reader.NextServed] has the rest of the file.
func (f *Reader) Next() (*Document, *record.Action, error) {
	index := f.documents.size
	if index == f.header.Documents.Size {
		if t := f.documents.tree(); t != f.header.Documents {
			return nil, nil, fmt.Errorf("%w: the documents have the root %x, and the header %x", ErrCorrupt, t.Root, f.header.Documents.Root)
		}
		if f.header.Served.Size == 0 {
			return nil, nil, f.end()
		}
		return nil, nil, io.EOF
	}
	d, err := readDocument(f)
	if err != nil {
		return nil, nil, err
	}
	a, err := d.check(f.header, index)
	if err != nil {
		return nil, nil, err
	}
	f.documents.add(record.ActionLeaf(d.Salt, d.Document))
	return &d, a, nil
}

// NextServed returns the next session that a model run served, after all documents. After the last it returns io.EOF.
func (f *Reader) NextServed() (*Served, error) {
	if f.documents.size != f.header.Documents.Size {
		return nil, errors.New("documents have not been read")
	}
	if f.served.size == f.header.Served.Size {
		return nil, f.end()
	}
	b, err := f.read(servedSize)
	if err != nil {
		return nil, err
	}
	s, err := parseServed(b)
	if err != nil {
		return nil, err
	}
	f.served.add(s.leaf())
	return &s, nil
}

// end checks that nothing follows, and returns io.EOF.
func (f *Reader) end() error {
	if t := f.served.tree(); t != f.header.Served {
		return fmt.Errorf("%w: the served sessions have the root %x, and the header %x", ErrCorrupt, t.Root, f.header.Served.Root)
	}
	if _, err := f.r.ReadByte(); err == nil {
		return fmt.Errorf("%w: trailing data", ErrCorrupt)
	} else if err != io.EOF {
		return err
	}
	return io.EOF
}

// Disclose reads a session file, and returns a disclosure of each action that want selects: what shows this action, and
// nothing of the others. It keeps 32 bytes of each action in memory, and all of those that are selected.
func Disclose(r io.Reader, want func(*record.Action) bool) ([]*record.Disclosure, error) {
	f, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	var leaves []record.Digest
	var ds []*record.Disclosure
	for {
		d, a, err := f.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		leaves = append(leaves, record.ActionLeaf(d.Salt, d.Document))
		if want(a) {
			ds = append(ds, &record.Disclosure{Salt: d.Salt, Bytes: d.Document, Index: a.Index, Tree: f.header.Documents, Action: a})
		}
	}
	for _, d := range ds {
		d.Path = record.ActionProof(leaves, d.Index)
	}
	return ds, nil
}

// writeFile writes the owner's file from the journal. Documents can be added meanwhile; they aren't in it.
func (l *ledger) writeFile(w io.Writer) error {
	l.mu.Lock()
	h := &FileHeader{Kind: FileModelRun, Documents: l.documents.tree(), Served: l.served.tree()}
	if l.kind == kindSession {
		h.Kind, h.Session, h.Start = FileSession, new(l.id), new(l.start.ref())
	}
	if l.end.logged {
		h.End = new(l.end.ref())
		h.Commit, h.CommitSalt = l.commit.id, l.commit.salt
	}
	j := *l.j // for reading what there is
	l.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	bw := bufio.NewWriterSize(w, 1<<16)
	bw.WriteString(h.text())
	for _, t := range []frameType{frameAction, frameServed} {
		if t == frameServed && h.Served.Size == 0 {
			break
		}
		err := j.each(func(got frameType, b []byte) error {
			if got != t {
				return nil
			}
			_, err := bw.Write(b)
			return err
		})
		if err != nil {
			return err
		}
	}
	return bw.Flush()
}
