package export

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle"
)

// numbered returns n records as a monitor's: their place in the list is their index.
func numbered(n int) []*Item {
	var items []*Item
	for i := range n {
		r := &Record{
			UID: fmt.Sprintf("%064x", i+1), Verdict: VerdictGood, VerifiedBy: testMonitor, Log: "log.example.org/2026", Index: uint64(i),
			Statement: fmt.Sprintf("%064x", i+1000), Role: bundle.RoleStart, Vendor: "https://vendor.example", AdmittedAt: testTime,
			ReleaseName: strings.Repeat("x", i%7), Envelope: nil,
		}
		items = append(items, &Item{Load: func() (*Record, error) { return r, nil }, Records: uint64(i) + 1})
	}
	return items
}

// after returns what a source yields to whom has a cursor.
func after(items []*Item, c Cursor) iter.Seq2[*Item, error] { return source(items[c.Records:]) }

// TestFileOnce: an export to a file is killed at any byte, with any older cursor; the
// next one makes the file as if nothing had happened.
func TestFileOnce(t *testing.T) {
	items := numbered(6)
	for _, x := range []*Exporter{
		{Format: FormatOCSF}, {Format: FormatCSV}, {Format: FormatSyslog}, {Format: FormatSVR, SVR: SVR{At: testTime}},
		{Format: FormatSVR, SVR: exporters()["svr-signed.ndjson"].SVR},
	} {
		t.Run(string(x.Format), func(t *testing.T) {
			dir := t.TempDir()
			file, cursorFile := filepath.Join(dir, "out"), filepath.Join(dir, "cursor")
			run := func(items []*Item) {
				t.Helper()
				cur, err := ReadCursor(cursorFile, [32]byte{})
				if err != nil {
					t.Fatal(err)
				}
				out, err := OpenFile(file, x.Format, cur, cursorFile)
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				if err := x.Run(t.Context(), after(items, cur), out, &cur); err != nil {
					t.Fatal(err)
				}
			}
			run(items[:2])
			early, err := os.ReadFile(cursorFile)
			if err != nil {
				t.Fatal(err)
			}
			half, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			run(items)
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(want, half) || len(want) < 2*len(half) {
				t.Fatalf("%d bytes, then %d", len(half), len(want))
			}
			step := max(1, (len(want)-len(half))/24)
			for cut := len(half); cut <= len(want); cut += step {
				if err := os.WriteFile(file, want[:cut], 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(cursorFile, early, 0o600); err != nil {
					t.Fatal(err)
				}
				run(items)
				if got, _ := os.ReadFile(file); !bytes.Equal(got, want) {
					t.Fatalf("cut at %d: %q, want %q", cut, got, want)
				}
			}
			// Without a cursor, from nothing, and from every part of the first lines.
			for cut := 0; cut < len(half); cut += max(1, len(half)/8) {
				os.Remove(cursorFile)
				if err := os.WriteFile(file, want[:cut], 0o600); err != nil {
					t.Fatal(err)
				}
				run(items)
				if got, _ := os.ReadFile(file); !bytes.Equal(got, want) {
					t.Fatalf("cut at %d without a cursor: %q, want %q", cut, got, want)
				}
			}
			// A file that was moved away: the rest goes into the new one.
			if err := os.Rename(file, file+".1"); err != nil {
				t.Fatal(err)
			}
			os.WriteFile(cursorFile, []byte(strings.Replace(string(early), "output", "output", 1)), 0o600)
			run(items)
			got, _ := os.ReadFile(file)
			if rest := append(bytes.Clone(x.Format.header()), want[len(half):]...); !bytes.Equal(got, rest) {
				t.Errorf("in a new file %q, want %q", got, rest)
			}
		})
	}
}

// A file that isn't of such an export must stay as it is, a torn line at its end
// included.
func TestForeignFile(t *testing.T) {
	for _, f := range []Format{FormatOCSF, FormatCSV, FormatSyslog, FormatInToto, FormatSVR} {
		for _, text := range []string{"hello\n", "hello", "{}\n", "leaf_hash,verdict\r\n", `{"metadata":{}}` + "\n", "{\"a\":1}\nhello"} {
			name := filepath.Join(t.TempDir(), "mine")
			if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := OpenFile(name, f, Cursor{}, ""); err == nil {
				out.Close()
				t.Errorf("%s: %q was taken for an export", f, text)
			}
			if got, _ := os.ReadFile(name); string(got) != text {
				t.Errorf("%s: %q became %q", f, text, got)
			}
		}
	}
}

// Two exports into one file would write into each other's lines.
func TestFileLock(t *testing.T) {
	name := filepath.Join(t.TempDir(), "out")
	out, err := OpenFile(name, FormatOCSF, Cursor{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(name, FormatOCSF, Cursor{}, ""); err == nil || !strings.Contains(err.Error(), "another export is writing it") {
		t.Errorf("opened twice: %v", err)
	}
	out.Close()
	out, err = OpenFile(name, FormatOCSF, Cursor{}, "")
	if err != nil {
		t.Fatal(err)
	}
	out.Close()
}

// failing is an Output whose nth Commit fails, after or without doing its work.
type failing struct {
	Output
	n    int
	done bool
}

var errDisk = errors.New("the disk is full")

func (f *failing) Commit(c Cursor) error {
	if f.n--; f.n < 0 {
		if f.done {
			if err := f.Output.Commit(c); err != nil {
				return err
			}
		}
		return errDisk
	}
	return f.Output.Commit(c)
}

// TestSeen: what many bundles say comes out once, over several runs, even if a commit
// fails, or works and says that it failed.
func TestSeen(t *testing.T) {
	m := samples(t)
	item := func(name string) *Item {
		return &Item{Load: func() (*Record, error) { return m[name], nil }, File: name}
	}
	bundles := []*Item{item("start"), item("final"), item("final"), item("model-run"), item("start")}
	x := &Exporter{Format: FormatOCSF, Seen: NewSeen()}
	want := export(t, x, bundles)
	if n := bytes.Count(want, []byte(`"activity_name":"Start"`)); n != 1 {
		t.Fatalf("%d starts", n)
	}
	for _, done := range []bool{false, true} {
		dir := t.TempDir()
		file, cursorFile := filepath.Join(dir, "out"), filepath.Join(dir, "cursor")
		for n, part := range [][]*Item{bundles[:1], bundles[:3], bundles, bundles, bundles} {
			cur, err := ReadCursor(cursorFile, [32]byte{})
			if err != nil {
				t.Fatal(err)
			}
			seen, err := OpenSeen(cursorFile+".seen", cur.Seen)
			if err != nil {
				t.Fatal(err)
			}
			out, err := OpenFile(file, FormatOCSF, cur, cursorFile)
			if err != nil {
				t.Fatal(err)
			}
			x := &Exporter{Format: FormatOCSF, Seen: seen}
			err = x.Run(t.Context(), source(part), &failing{out, n % 2, done}, &cur)
			if n%2 == 0 && !errors.Is(err, errDisk) || n%2 == 1 && err != nil {
				t.Fatal(err)
			}
			out.Close()
			seen.Close()
		}
		if got, _ := os.ReadFile(file); !bytes.Equal(got, want) {
			t.Errorf("done %v: %d bytes, want %d", done, len(got), len(want))
		}
	}
}

// The set must not know what it wasn't told, nor forget, when it grows or is read again.
func TestSeenGrows(t *testing.T) {
	name := filepath.Join(t.TempDir(), "seen")
	s, err := OpenSeen(name, 0)
	if err != nil {
		t.Fatal(err)
	}
	const n = 5000
	for i := range n {
		if what := fmt.Sprint(i); !s.Add("k", what) || s.Add("k", what) {
			t.Fatal("added twice or not at all:", i)
		}
	}
	saved, err := s.Sync()
	if err != nil || saved != n {
		t.Fatal(saved, err)
	}
	s.Add("k", "never synced")
	s.Close()
	for _, keep := range []uint64{n, 10} {
		if s, err = OpenSeen(name, keep); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if got := s.Has("k", fmt.Sprint(i)); got != (uint64(i) < keep) {
				t.Fatalf("%d of %d: %v", i, keep, got)
			}
		}
		if s.Has("k", "never synced") || s.Has("other", "1") {
			t.Error("it knows what it was never told")
		}
		s.Close()
	}
	if _, err := OpenSeen(name, n); err == nil {
		t.Error("a file with fewer members than the cursor says is accepted")
	}
}

// An error in the middle leaves everything before it, in order, and nothing after it.
func TestRunStops(t *testing.T) {
	items := numbered(1000)
	broken := errors.New("broken")
	for _, at := range []int{0, 1, 63, 64, 700} {
		var b bytes.Buffer
		var cur Cursor
		src := func(yield func(*Item, error) bool) {
			for i, item := range items {
				if i == at {
					yield(nil, broken)
					return
				}
				if !yield(item, nil) {
					return
				}
			}
		}
		x := &Exporter{Format: FormatCSV}
		err := x.Run(t.Context(), src, &StreamOutput{Format: FormatCSV, W: &b}, &cur)
		if !errors.Is(err, broken) || cur.Records != uint64(at) || bytes.Count(b.Bytes(), []byte("\n")) != at+1 {
			t.Errorf("at %d: %v, cursor %d, %d lines", at, err, cur.Records, bytes.Count(b.Bytes(), []byte("\n")))
		}
		b.Reset()
		cur = Cursor{}
		bad := append([]*Item{}, items...)
		bad[at] = &Item{Load: func() (*Record, error) { return nil, broken }}
		err = x.Run(t.Context(), source(bad), &StreamOutput{Format: FormatCSV, W: &b}, &cur)
		if !errors.Is(err, broken) || cur.Records != uint64(at) || bytes.Count(b.Bytes(), []byte("\n")) != at+1 {
			t.Errorf("load of %d: %v, cursor %d, %d lines", at, err, cur.Records, bytes.Count(b.Bytes(), []byte("\n")))
		}
	}
	// In order, though on all processors.
	got := export(t, &Exporter{Format: FormatCSV}, items)
	want := AppendCSVHeader(nil)
	for _, item := range items {
		r, _ := item.Load()
		want = AppendCSV(want, r)
	}
	if !bytes.Equal(got, want) {
		t.Error("out of order")
	}
}
