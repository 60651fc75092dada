package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/printable"
	"github.com/affidavit-log/affidavit/cmd/internal/keys"
)

// maxInput is the size in bytes of the largest file that any command reads. The
// largest thing we know is a bundle; a little more lets the bundle's own check
// name the limit.
const maxInput = bundle.MaxSize + 1

// read returns the contents of a file, or of the standard input if its name is
// "-". Errors name the file.
func (c *console) read(name string) ([]byte, error) {
	f, err := c.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(name, f, f.size)
}

// An input is a file that is read from its beginning, or the standard input.
type input struct {
	io.Reader
	io.Closer
	size int64 // 0 if not known
}

// open returns a file, or the standard input if its name is "-", for reading.
func (c *console) open(name string) (*input, error) {
	if name == "-" {
		return &input{c.stdin, io.NopCloser(nil), 0}, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fileError(name, err)
	}
	in := &input{f, f, 0}
	if info, err := f.Stat(); err == nil {
		if info.IsDir() {
			f.Close()
			return nil, fmt.Errorf("%s: is a directory, want a file", name)
		}
		in.size = info.Size()
	}
	return in, nil
}

// readAll reads r, the file called name, whose size is only a hint.
func readAll(name string, r io.Reader, size int64) ([]byte, error) {
	// Memory that grows step by step is most of what a verification would touch.
	var buf bytes.Buffer
	buf.Grow(int(min(size, maxInput)) + bytes.MinRead)
	if _, err := buf.ReadFrom(io.LimitReader(r, maxInput+1)); err != nil {
		return nil, fileError(name, err)
	}
	b := buf.Bytes()
	if len(b) > maxInput {
		return nil, fmt.Errorf("%s: larger than %d bytes, which nothing that this command reads is", name, maxInput)
	}
	return b, nil
}

// readPublic is read for what people write by hand. A private key in its place
// is a mistake that parsers' messages must not make worse by quoting it.
func (c *console) readPublic(name string) ([]byte, error) {
	b, err := c.read(name)
	if err == nil && holdsPrivateKey(b) {
		return nil, fmt.Errorf("%s: holds a private key, which doesn't belong here: keep it to yourself, and give its public half", name)
	}
	return b, err
}

func holdsPrivateKey(b []byte) bool {
	return bytes.Contains(b, []byte("PRIVATE+KEY+")) || bytes.Contains(b, []byte("PRIVATE KEY-----"))
}

// readSecret is read for private keys and tokens: it refuses files that other
// users of the machine could have read or changed.
func (c *console) readSecret(name string) ([]byte, error) {
	if name == "-" {
		return c.read(name)
	}
	b, err := keys.ReadFile(name)
	if errors.As(err, new(*fs.PathError)) {
		return nil, fileError(name, err)
	}
	return b, err
}

// readKey reads a vendor's private key, of a file that may be encrypted under
// the passphrase in another.
func (c *console) readKey(name, passphraseFile string) (ed25519.PrivateKey, error) {
	ring, err := keys.Open(passphraseFile)
	if err != nil {
		return nil, err
	}
	b, err := c.readSecret(name)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	plain, err := ring.Decrypt(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer clear(plain)
	k, err := keys.ParseEd25519(plain)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

// passphraseFlag defines the flag for readKey.
func passphraseFlag(fs *pflag.FlagSet) *string {
	return fs.String("passphrase-file", "", "`FILE` with the passphrase of a key that is encrypted (\"affidavit keygen --passphrase-file\")")
}

// fileError drops the name of the system call, which helps nobody, and keeps
// the file's.
func fileError(name string, err error) error {
	if e := new(fs.PathError); errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// writeNew creates a file that doesn't exist yet. A file that could be written
// in part only is removed again.
func writeNew(name string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fileError(name, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(name)
		return fileError(name, err)
	}
	return nil
}

// write is writeFile, but takes the name "-" for the standard output.
func (c *console) write(name string, data []byte) error {
	if name == "-" {
		_, err := c.stdout.Write(data)
		return err
	}
	return writeFile(name, data)
}

// writeFile creates or replaces a file at once, so that nobody ever sees, or
// keeps after a crash, a part of it.
func writeFile(name string, data []byte) error { return writeFileMode(name, data, 0o644) }

// writeFileMode is writeFile with other permissions.
func writeFileMode(name string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".affidavit-*")
	if err != nil {
		return fileError(name, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if e := new(os.LinkError); errors.As(err, &e) {
		err = e.Err
	}
	if err != nil {
		return fileError(name, err)
	}
	return nil
}

// printJSON writes v as one line, which is how every command answers --json:
// one object for each input.
func (c *console) printJSON(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := c.stdout.Write(escapeUnprintable(b.Bytes()))
	return err
}

// escapeUnprintable escapes what could steer a terminal, or change the direction
// of text, in JSON: encoding/json leaves C1 controls and format characters as they
// are, and people look at what is meant for scripts. No character that isn't ASCII
// is outside of a string, so that the JSON means the same.
func escapeUnprintable(b []byte) []byte {
	ok := func(r rune) bool { return r == '\n' || r != unicode.ReplacementChar && unicode.IsPrint(r) }
	if !bytes.ContainsFunc(b, func(r rune) bool { return !ok(r) }) {
		return b
	}
	escaped := make([]byte, 0, len(b)+64)
	for _, r := range string(b) {
		switch {
		case ok(r):
			escaped = utf8.AppendRune(escaped, r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, hi, lo)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
	}
	return escaped
}

// complain prints a message on the standard error. It may quote files, their
// names, and what servers say.
func (c *console) complain(format string, a ...any) {
	lines := strings.Split(fmt.Sprintf(format, a...), "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	fmt.Fprintln(c.stderr, strings.Join(lines, "\n"))
}

// clean makes text from a file or a server fit to print: one line, and nothing
// that could steer a terminal or hide what follows.
func clean(s string) string {
	return printable.Line(s)
}

// parseTime parses a point in time as people and scripts write it: RFC 3339, or
// whole seconds since 1970.
func parseTime(s string) (time.Time, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		// RFC 3339, which all our output uses, has no year 10000.
		if n < 0 || n >= 253402300800 {
			return time.Time{}, fmt.Errorf("time %q is not between the years 1970 and 9999", s)
		}
		return time.Unix(n, 0).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("time %q is neither RFC 3339, such as 2026-11-24T07:00:03Z, nor seconds since 1970", s)
	}
	return t.UTC(), nil
}
