package appraiser

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

const (
	// exceptionsFormat is the first line of a list of exceptions. A new format is a new line.
	exceptionsFormat = "affidavit-exceptions/v1"

	// maxExceptions bounds a list in bytes: thousands of exceptions. A log that needs more has other problems.
	maxExceptions = 1 << 20

	// maxReason bounds a reason in bytes. It is a sentence that points to more.
	maxReason = 500
)

// An Exception is an entry that the appraiser cosigns over, though the entry isn't genuine, because somebody has looked
// into it.
type Exception struct {
	Index    uint64   // of the entry, less than 2^63
	LeafHash [32]byte // SHA-256(0x00 || leaf), RFC 6962
	Date     string   // when the exception was made, as 2026-11-24
	Reason   string   // in words: printable, 1 to 500 bytes
}

// Exceptions is an appraiser's list for one log. Exceptions are added at its end and never removed or changed, since
// what was cosigned under them stays cosigned.
type Exceptions struct {
	Origin string
	List   []Exception
}

var errExceptions = errors.New("malformed list of exceptions")

// ParseExceptions parses a list, in its one encoding (README.md, "Exceptions"):
//
//	affidavit-exceptions/v1
//	log <origin>
//	exception <index> <leaf hash in lowercase hexadecimal> <date> <reason>
//
// with one exception line or more or none, dates not before those above them, no exception twice, and a newline at the
// end of each line. The same index with another hash is allowed: a mistyped hash can't be taken back.
func ParseExceptions(b []byte) (*Exceptions, error) {
	bad := func(line int, format string, a ...any) (*Exceptions, error) {
		return nil, fmt.Errorf("%w: line %d: %s", errExceptions, line, fmt.Sprintf(format, a...))
	}
	if len(b) > maxExceptions {
		return nil, fmt.Errorf("%w: more than %d bytes", errExceptions, maxExceptions)
	}
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: not UTF-8", errExceptions)
	}
	if len(b) == 0 || b[len(b)-1] != '\n' {
		return nil, fmt.Errorf("%w: no newline at the end", errExceptions) // so that a list cut short isn't taken
	}
	lines := strings.Split(string(b[:len(b)-1]), "\n")
	if lines[0] != exceptionsFormat {
		return bad(1, "%.60q, want %q", lines[0], exceptionsFormat)
	}
	if len(lines) < 2 {
		return bad(2, "missing, want: log <origin>")
	}
	x := &Exceptions{}
	var ok bool
	if x.Origin, ok = strings.CutPrefix(lines[1], "log "); !ok {
		return bad(2, "%.60q, want: log <origin>", lines[1])
	}
	if err := record.CheckOrigin(x.Origin); err != nil {
		return bad(2, "%v", err)
	}
	seen := make(map[entryName]bool)
	last := ""
	for i, l := range lines[2:] {
		f := strings.SplitN(l, " ", 5)
		if len(f) != 5 || f[0] != "exception" {
			return bad(i+3, "%.80q, want: exception <index> <leaf hash> <date> <reason>", l)
		}
		var e Exception
		var err error
		if e.Index, err = checkpoint.ParseSize(f[1]); err != nil {
			return bad(i+3, "index %.40q: %v", f[1], err)
		}
		h, err := hex.DecodeString(f[2])
		if err != nil || len(h) != len(e.LeafHash) || hex.EncodeToString(h) != f[2] {
			return bad(i+3, "leaf hash %.80q, want 64 lowercase hexadecimal digits", f[2])
		}
		e.LeafHash = [32]byte(h)
		e.Date, e.Reason = f[3], f[4]
		if d, err := time.Parse(time.DateOnly, e.Date); err != nil || d.Format(time.DateOnly) != e.Date {
			return bad(i+3, "date %.40q, want one like 2026-11-24", e.Date)
		}
		if e.Date < last {
			return bad(i+3, "date %s is before that of the line above, %s: exceptions are added at the end", e.Date, last)
		}
		last = e.Date
		if err := checkReason(e.Reason); err != nil {
			return bad(i+3, "%v", err)
		}
		if seen[e.name()] {
			return bad(i+3, "entry %d is excepted already", e.Index)
		}
		seen[e.name()] = true
		x.List = append(x.List, e)
	}
	return x, nil
}

func checkReason(s string) error {
	switch {
	case s == "":
		return errors.New("no reason")
	case len(s) > maxReason:
		return fmt.Errorf("a reason of %d bytes, more than %d", len(s), maxReason)
	case strings.TrimSpace(s) != s:
		return errors.New("the reason begins or ends with a space")
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return errors.New("the reason has an unprintable character")
	}
	return nil
}

// Bytes returns the list's one encoding.
func (x *Exceptions) Bytes() []byte {
	b := fmt.Appendf(nil, "%s\nlog %s\n", exceptionsFormat, x.Origin)
	for _, e := range x.List {
		b = fmt.Appendf(b, "exception %d %x %s %s\n", e.Index, e.LeafHash, e.Date, e.Reason)
	}
	return b
}

// entryName is what an exception is for.
type entryName struct {
	index    uint64
	leafHash [32]byte
}

func (e *Exception) name() entryName { return entryName{e.Index, e.LeafHash} }

// exceptions are the list in force, which only grows: the copy that the appraiser keeps beside its state, extended by
// the operator's file. Nothing is cosigned under an exception before the copy with it is durable, so that whatever
// happens to the file, the list that is served explains every cosignature. Its owner guards it.
type exceptions struct {
	origin string
	file   string // the operator's, "" if there is none
	copy   string
	now    *Exceptions
	set    map[entryName]bool // of now
	text   []byte             // of now
	seen   fs.FileInfo        // of the file, when it was last read
}

// openExceptions reads the kept copy and the operator's file at the time at. Both must be usable.
func openExceptions(origin, file, copy string, at time.Time) (*exceptions, error) {
	x := &exceptions{origin: origin, file: file, copy: copy}
	empty := &Exceptions{Origin: origin}
	x.put(empty, empty.Bytes())
	b, err := readLimited(copy)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		kept, err := ParseExceptions(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", copy, err)
		}
		if kept.Origin != origin {
			return nil, fmt.Errorf("%s: exceptions of %s, not of %s", copy, kept.Origin, origin)
		}
		x.put(kept, b)
	}
	if _, err := x.refresh(at); err != nil {
		return nil, err
	}
	return x, nil
}

// refresh reads the operator's file if it has changed, and reports whether the list has. If the file can't be used, the
// list stays as it is.
func (x *exceptions) refresh(at time.Time) (changed bool, err error) {
	if x.file == "" {
		return false, nil
	}
	fi, err := os.Stat(x.file)
	if err != nil {
		return false, fmt.Errorf("exceptions: %w (an empty list is the lines %q and %q)", err, exceptionsFormat, "log "+x.origin)
	}
	if x.seen != nil && os.SameFile(fi, x.seen) && fi.ModTime().Equal(x.seen.ModTime()) && fi.Size() == x.seen.Size() {
		return false, nil
	}
	b, err := readLimited(x.file)
	if err != nil {
		return false, err
	}
	if bytes.Equal(b, x.text) {
		x.seen = fi
		return false, nil
	}
	next, err := ParseExceptions(b)
	if err != nil {
		return false, fmt.Errorf("%s: %w", x.file, err)
	}
	if next.Origin != x.origin {
		return false, fmt.Errorf("%s: exceptions of %s, not of %s", x.file, next.Origin, x.origin)
	}
	if !bytes.HasPrefix(b, x.text) {
		return false, fmt.Errorf("%s: it doesn't begin with the %d exceptions that were in force: they can't be changed or taken back, since trees were cosigned under them (%s has them)",
			x.file, len(x.now.List), x.copy)
	}
	// A day of grace, since the date is of some time zone.
	if d := next.List[len(next.List)-1].Date; d > at.UTC().AddDate(0, 0, 1).Format(time.DateOnly) {
		return false, fmt.Errorf("%s: the last exception is dated %s, which is in the future", x.file, d)
	}
	if err := writeDurably(x.copy, b); err != nil {
		return false, err
	}
	x.put(next, b)
	x.seen = fi
	return true, nil
}

// put makes now, whose encoding is text, the list in force.
func (x *exceptions) put(now *Exceptions, text []byte) {
	x.now, x.text = now, text
	x.set = make(map[entryName]bool, len(now.List))
	for _, e := range now.List {
		x.set[e.name()] = true
	}
}

// cover reports whether a dispute is excepted.
func (x *exceptions) cover(d Dispute) bool { return x.set[entryName{d.Index, d.LeafHash}] }

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxExceptions+1)) // one too many is for the parser to refuse
}

// writeDurably replaces a file, and returns once that would survive a power failure.
func writeDurably(path string, b []byte) (err error) {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
