package export

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/affidavit-log/affidavit/log/record"
)

// A Line is one event, row or statement as it goes out, without its end.
type Line struct {
	UID  string
	Data []byte
}

// An Output takes lines, which are durable once Commit returns.
type Output interface {
	// Write takes lines, whose Data it doesn't retain.
	Write([]Line) error
	// Commit makes everything that was written durable, and then the cursor.
	Commit(Cursor) error
	Close() error
}

// A Format says what lines look like.
type Format string

const (
	FormatOCSF   Format = "ocsf"
	FormatOSCAL  Format = "oscal" // one document, not lines: see [OSCAL]
	FormatCSV    Format = "csv"
	FormatSyslog Format = "syslog"
	FormatInToto Format = "in-toto" // envelopes as logged
	FormatSVR    Format = "svr"     // verification results
)

// Formats lists all formats.
var Formats = []Format{FormatOCSF, FormatOSCAL, FormatCSV, FormatSyslog, FormatInToto, FormatSVR}

// end is what ends a line in files.
func (f Format) end() string {
	if f == FormatCSV {
		return "\r\n"
	}
	return "\n"
}

// header is the first line of a file.
func (f Format) header() []byte {
	if f == FormatCSV {
		return AppendCSVHeader(nil)
	}
	return nil
}

var errForeign = errors.New("not a line of such an export")

// uid finds out what a line of a file is.
func (f Format) uid(line []byte) (string, error) {
	switch f {
	case FormatSyslog:
		i := bytes.Index(line, []byte(`"] {`))
		if i < 0 || !bytes.HasPrefix(line, []byte("<")) {
			return "", errForeign
		}
		line = line[i+3:]
		fallthrough
	case FormatOCSF:
		var v struct{ Metadata struct{ UID string } }
		if json.Unmarshal(line, &v) != nil || v.Metadata.UID == "" {
			return "", errForeign
		}
		return v.Metadata.UID, nil
	case FormatCSV:
		uid, _, ok := bytes.Cut(line, []byte(","))
		if _, err := hex.DecodeString(string(uid)); err != nil || !ok || len(uid) != 64 {
			return "", errForeign
		}
		return string(uid), nil
	}
	// The digest of the statement in an envelope names the record, and that of the
	// first subject the one that a verification result is about.
	var v struct {
		PayloadType string
		Payload     string
		Subject     []struct{ Digest struct{ SHA256 string } }
	}
	if json.Unmarshal(line, &v) != nil {
		return "", errForeign
	}
	if v.Payload != "" {
		payload, err := base64.StdEncoding.DecodeString(v.Payload)
		if err != nil {
			return "", errForeign
		}
		if f == FormatInToto {
			digest := record.StatementDigest(v.PayloadType, payload)
			return hexOf(digest[:]), nil
		}
		if json.Unmarshal(payload, &v) != nil {
			return "", errForeign
		}
	}
	if len(v.Subject) == 0 || v.Subject[0].Digest.SHA256 == "" {
		return "", errForeign
	}
	return v.Subject[0].Digest.SHA256, nil
}

// lead is what a line of a file begins with, for telling a torn one from somebody
// else's text.
func (f Format) lead() string {
	switch f {
	case FormatSyslog:
		return "<1"
	case FormatOCSF:
		return `{"category_uid":`
	case FormatCSV:
		return ""
	}
	return `{"`
}

// A FileOutput appends lines to a file, each event once, whatever happens in between:
// when it is opened it looks at what was written after the last cursor, cuts off a
// torn line, and skips what is there.
type FileOutput struct {
	format Format
	f      *os.File
	w      *bufio.Writer
	size   uint64
	cursor string // name of the cursor's file, or empty
	there  *Seen  // what is in the file after the last cursor
}

// OpenFile opens or creates an output. The cursor's Output is where the part of the
// file ends that is known to be good. A file that is shorter was put in place of the
// old one, and is looked at from its beginning. cursorName is where Commit writes the
// cursor to; it may be empty.
func OpenFile(name string, f Format, c Cursor, cursorName string) (*FileOutput, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	o := &FileOutput{format: f, f: file, cursor: cursorName, there: NewSeen()}
	if err := o.recover(name, int64(c.Output)); err != nil {
		file.Close()
		return nil, err
	}
	o.w = bufio.NewWriterSize(file, 256<<10)
	return o, nil
}

func (o *FileOutput) recover(name string, from int64) error {
	if err := lock(o.f); err != nil {
		return err
	}
	info, err := o.f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file, so that nobody can tell what is in it already", name)
	}
	size := info.Size()
	if from > size {
		from = 0
	}
	header := o.format.header()
	if from == 0 && len(header) > 0 && size > 0 {
		head := make([]byte, min(int64(len(header)), size))
		if _, err := o.f.ReadAt(head, 0); err != nil {
			return err
		}
		if !bytes.HasPrefix(header, head) {
			return fmt.Errorf("%s: its first line isn't the header of this export: give another file", name)
		}
		if from = int64(len(header)); size < from {
			size, from = 0, 0 // a torn header
		}
	}
	n := 0
	end, torn, err := tailLines(o.f, from, size, func(line []byte) error {
		n++
		uid, err := o.format.uid(line)
		if err != nil {
			return fmt.Errorf("%s: line %d after byte %d is %w: give another file", name, n, from, err)
		}
		o.there.Add("line", uid)
		return nil
	})
	if err != nil {
		return err
	}
	if lead := o.format.lead(); len(torn) > 0 && string(torn[:min(len(torn), len(lead))]) != lead[:min(len(torn), len(lead))] {
		return fmt.Errorf("%s: its last line is %w: give another file", name, errForeign)
	}
	if err := o.f.Truncate(end); err != nil {
		return err
	}
	if _, err := o.f.Seek(end, io.SeekStart); err != nil {
		return err
	}
	o.size = uint64(end)
	if end == 0 && len(header) > 0 {
		if _, err := o.f.Write(header); err != nil {
			return err
		}
		o.size = uint64(len(header))
	}
	return syncDir(filepath.Dir(name))
}

// Write implements Output.
func (o *FileOutput) Write(lines []Line) error {
	end := o.format.end()
	for _, l := range lines {
		if !o.there.Empty() && o.there.Has("line", l.UID) {
			continue
		}
		if _, err := o.w.Write(l.Data); err != nil {
			return err
		}
		if _, err := o.w.WriteString(end); err != nil {
			return err
		}
		o.size += uint64(len(l.Data) + len(end))
	}
	return nil
}

// Commit implements Output.
func (o *FileOutput) Commit(c Cursor) error {
	if err := o.w.Flush(); err != nil {
		return err
	}
	if err := o.f.Sync(); err != nil {
		return err
	}
	if o.cursor == "" {
		return nil
	}
	c.Output = o.size
	return WriteCursor(o.cursor, c)
}

// Close implements Output. What was not committed may be in the file.
func (o *FileOutput) Close() error { return o.f.Close() }

// A StreamOutput writes lines to a stream such as standard output. Nobody knows what
// becomes of them there: the cursor says what was written.
type StreamOutput struct {
	Format Format
	W      io.Writer
	Flush  func() error // makes W write; may be nil
	Cursor string       // name of the cursor's file, or empty

	begun bool
}

// Write implements Output.
func (o *StreamOutput) Write(lines []Line) error {
	if !o.begun {
		if _, err := o.W.Write(o.Format.header()); err != nil {
			return err
		}
		o.begun = true
	}
	for _, l := range lines {
		if _, err := o.W.Write(l.Data); err != nil {
			return err
		}
		if _, err := io.WriteString(o.W, o.Format.end()); err != nil {
			return err
		}
	}
	return nil
}

// Commit implements Output.
func (o *StreamOutput) Commit(c Cursor) error {
	if err := o.Write(nil); err != nil { // the header, at least
		return err
	}
	if o.Flush != nil {
		if err := o.Flush(); err != nil {
			return err
		}
	}
	if o.Cursor == "" {
		return nil
	}
	return WriteCursor(o.Cursor, c)
}

// Close implements Output.
func (o *StreamOutput) Close() error { return nil }
