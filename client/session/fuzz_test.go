package session

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/log/record"
)

// memFile is a file in memory.
type memFile struct{ b []byte }

func (f *memFile) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(f.b).ReadAt(b, at) }
func (f *memFile) WriteAt(b []byte, at int64) (int, error) {
	f.b = append(f.b[:at], b...)
	return len(b), nil
}
func (f *memFile) Truncate(n int64) error { f.b = f.b[:n]; return nil }
func (f *memFile) Close() error           { return nil }

// vectors returns a journal and an owner's file of a session that has all that one can have, and those of a model run.
func vectors(tb testing.TB) (journals, files [][]byte) {
	tb.Helper()
	l := newLab(tb)
	var mem *memFile
	c := l.config()
	c.KeepContent = true
	c.wrap = func(f file) file {
		b, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		if err != nil {
			tb.Fatal(err)
		}
		f.Close()
		mem = &memFile{b: b}
		return mem
	}
	s := l.start(c)
	mustAct(tb, s, 3)
	if err := s.ModelRun(record.Model{Provider: "p", RequestModel: "m", Execution: record.ExecutionTEE, ModelRun: &record.Digest{1}, Channel: TLSChannel(nil)}); err != nil {
		tb.Fatal(err)
	}
	if err := s.SetModels([]record.Model{{Provider: "p", RequestModel: "n", Execution: record.ExecutionUnattested, Channel: TLSChannel(nil)}, {Provider: "p", RequestModel: "m", Execution: record.ExecutionTEE, ModelRun: &record.Digest{1}, Channel: TLSChannel(nil)}}); err != nil {
		tb.Fatal(err)
	}
	files = append(files, ownersFile(tb, s))
	o := good
	o.Commit = strings.Repeat("12", 20)
	if _, err := s.Finish(tb.Context(), o); err != nil {
		tb.Fatal(err)
	}
	journals, files = append(journals, mem.b), append(files, ownersFile(tb, s))

	run, err := NewRun(c)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range 3 {
		if err := run.Served(record.SessionID{byte(i)}, record.Digest{2}); err != nil {
			tb.Fatal(err)
		}
		if _, err := run.Call(record.SessionID{byte(i)}, action(i)); err != nil {
			tb.Fatal(err)
		}
	}
	files = append(files, ownersFile(tb, run))
	if _, err := run.Finish(tb.Context(), RunOptions{Provider: "p", RequestModel: "m", Channel: TLSChannel(nil)}); err != nil {
		tb.Fatal(err)
	}
	return append(journals, mem.b), append(files, ownersFile(tb, run))
}

// rewrite makes a session file again from what Reader returns.
func rewrite(b []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	out := []byte(r.Header().text())
	for {
		d, _, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		out = appendUint32(out, uint32(33+len(d.Document)))
		out = append(append(append(out, 0), d.Salt[:]...), d.Document...)
		out = append(out, byte(len(d.Contents)))
		for _, c := range d.Contents {
			out = append(append(out, byte(len(c.Name))), c.Name...)
			out = append(out, c.Salt[:]...)
			if c.Bytes == nil {
				out = append(out, 0)
				continue
			}
			out = appendUint32(append(out, 1), uint32(len(c.Bytes)))
			out = append(out, c.Bytes...)
		}
	}
	for r.Header().Served.Size > 0 {
		s, err := r.NextServed()
		if err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		out = append(out, s.marshal()...)
	}
	return out, nil
}

// TestFileStrict: the bytes of a session file count, each of them.
func TestFileStrict(t *testing.T) {
	_, files := vectors(t)
	for _, f := range files {
		again, err := rewrite(f)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, f) {
			t.Fatal("not the same when it is made again")
		}
		header := bytes.Index(f, []byte("\n\n")) + 2
		for i := range f {
			if i > header+1200 && i%13 > 0 { // the third document is like the first
				continue
			}
			b := slices.Clone(f)
			b[i] ^= 1
			again, err := rewrite(b)
			switch {
			case err != nil && !errors.Is(err, ErrCorrupt):
				t.Errorf("byte %d: %v is not ErrCorrupt", i, err)
			case err == nil && !bytes.Equal(again, b):
				t.Errorf("byte %d: two encodings", i)
			case err == nil && i >= header && !isSalt(f, i):
				t.Errorf("byte %d, %q, can be changed without notice", i, f[max(0, i-20):i+1])
			}
		}
		for i := 0; i < len(f); i += 3 {
			if _, err := rewrite(f[:i]); !errors.Is(err, ErrCorrupt) {
				t.Fatalf("truncated to %d bytes: %v", i, err)
			}
		}
		if _, err := rewrite(append(slices.Clone(f), 0)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("trailing byte: %v", err)
		}
	}
	for name, edit := range map[string]func(string) string{
		"version":      func(s string) string { return strings.Replace(s, "/v1", "/v2", 1) },
		"CRLF":         func(s string) string { return strings.Replace(s, "\n", "\r\n", 1) },
		"leading zero": func(s string) string { return strings.Replace(s, "documents ", "documents 0", 1) },
		"kind":         func(s string) string { return strings.Replace(s, "kind session", "kind model-run", 1) },
		"no session": func(s string) string {
			return s[:strings.Index(s, "session 3")+8] + "none" + s[strings.Index(s, "\nstart"):]
		},
		"upper case":      func(s string) string { i := strings.Index(s, "\nstart"); return strings.ToUpper(s[:i]) + s[i:] },
		"spare bits":      func(s string) string { return strings.Replace(s, "=\nserved", "=\n served", 1) },
		"one line more":   func(s string) string { return strings.Replace(s, "\n\n", "\nserved none\n\n", 1) },
		"without the end": func(s string) string { return s[:20] },
		"endless line":    func(s string) string { return fileMagic + "\n" + strings.Repeat("x", 1<<20) },
		"endless header":  func(s string) string { return fileMagic + "\n" + strings.Repeat("x\n", 1<<20) },
	} {
		s := string(files[1])
		if edited := edit(s); edited == s {
			t.Errorf("%s: edits nothing", name)
		} else if _, err := rewrite([]byte(edited)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// isSalt reports whether byte i of a session file is in the salt of a content that wasn't kept: nothing in the file
// depends on it.
func isSalt(f []byte, i int) bool {
	r, err := NewReader(bytes.NewReader(f))
	if err != nil {
		return false
	}
	for {
		d, _, err := r.Next()
		if err != nil {
			return false
		}
		for _, c := range d.Contents {
			if at := bytes.Index(f, c.Salt[:]); c.Bytes == nil && at <= i && i < at+32 {
				return true
			}
		}
	}
}

func FuzzFile(f *testing.F) {
	_, files := vectors(f)
	for _, b := range files {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := rewrite(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v is not ErrCorrupt", err)
			}
			return
		}
		if !bytes.Equal(again, b) {
			t.Errorf("accepted two encodings:\n%q\n%q", again, b)
		}
	})
}

// frames returns what readJournal makes of b, encoded again.
func frames(b []byte) ([]byte, error) {
	out := []byte(journalMagic)
	n, err := readJournal(bytes.NewReader(b), int64(len(b)), func(t frameType, p []byte) error {
		out = append(out, frame(t, p)...)
		return nil
	})
	if err == nil && int(n) != len(out) {
		err = errors.New("wrong length")
	}
	return out, err
}

// TestJournalTorn cuts a journal at many of its bytes, and changes as many: what is cut off is dropped, and what is
// changed is refused, unless it makes the last frame longer than the file, as if it were cut off.
func TestJournalTorn(t *testing.T) {
	journals, _ := vectors(t)
	for _, j := range journals {
		whole, err := frames(j)
		if err != nil || !bytes.Equal(whole, j) {
			t.Fatal(err)
		}
		var bounds []int
		at := len(journalMagic)
		readJournal(bytes.NewReader(j), int64(len(j)), func(_ frameType, p []byte) error {
			at += frameOverhead + len(p)
			bounds = append(bounds, at)
			return nil
		})
		for i := range len(j) {
			if !near(bounds, i) {
				continue
			}
			want := 0
			for _, b := range bounds {
				if b <= i {
					want = b
				}
			}
			got, err := frames(j[:i])
			if want == 0 {
				if !errors.Is(err, ErrCorrupt) {
					t.Fatalf("cut to %d bytes: %v", i, err)
				}
			} else if err != nil || !bytes.Equal(got, j[:want]) {
				t.Fatalf("cut to %d bytes: %d bytes, want %d: %v", i, len(got), want, err)
			}
		}
		for i := range j {
			if !near(bounds, i) {
				continue
			}
			b := slices.Clone(j)
			b[i] ^= 4
			if got, err := frames(b); err == nil && !bytes.HasPrefix(j, got) {
				t.Fatalf("byte %d was changed, and read", i)
			} else if err == nil && !isLength(j, bounds, i) {
				t.Fatalf("byte %d was changed without notice", i)
			}
		}
	}
}

// near selects the bytes around the bounds of frames, and some of the others.
func near(bounds []int, i int) bool {
	for _, b := range append([]int{len(journalMagic)}, bounds...) {
		if b-2 <= i && i <= b+frameOverhead {
			return true
		}
	}
	return i%17 == 0
}

// isLength reports whether byte i is in the length of a frame.
func isLength(j []byte, bounds []int, i int) bool {
	for _, b := range append([]int{len(journalMagic)}, bounds...) {
		if b <= i && i < b+4 {
			return true
		}
	}
	return false
}

// replayBytes takes up a journal, as open does.
func replayBytes(b []byte) (*ledger, error) {
	l := newLedger(Config{})
	_, err := readJournal(bytes.NewReader(b), int64(len(b)), l.replay)
	return l, err
}

// FuzzJournal: what is accepted has one encoding, and whatever is replayed can be written as a session file again.
func FuzzJournal(f *testing.F) {
	journals, _ := vectors(f)
	for _, j := range journals {
		f.Add(j, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, sum bool) {
		if sum { // mend the checksums, so that it gets further
			for at := len(journalMagic); at+frameOverhead <= len(b); {
				n := int(uint32(b[at])<<24 | uint32(b[at+1])<<16 | uint32(b[at+2])<<8 | uint32(b[at+3]))
				if n < 1 || n > len(b)-at-8 {
					break
				}
				endFrame(b[at:at+8+n:at+8+n], 0)
				at += 8 + n
			}
		}
		again, err := frames(b)
		if err == nil && !bytes.HasPrefix(b, again) {
			t.Fatalf("accepted two encodings:\n%q\n%q", again, b)
		}
		l, err := replayBytes(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%v is not ErrCorrupt", err)
			}
			return
		}
		if l.kind == kindSession && !l.start.logged {
			return
		}
		l.j = &journal{f: &memFile{b: b}, size: int64(len(again))}
		var out bytes.Buffer
		if err := l.writeFile(&out); err != nil {
			t.Fatal(err)
		}
		if _, err := rewrite(out.Bytes()); err != nil && l.kind == kindSession && !strings.Contains(err.Error(), "of session") && !strings.Contains(err.Error(), "digest") {
			t.Errorf("the file of this journal can't be read: %v", err)
		}
	})
}
