package appraiser

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const testOrigin = "log.test/2026"

func hash(s string) string { return strings.Repeat(s, 64/len(s)) }

var (
	header = "affidavit-exceptions/v1\nlog " + testOrigin + "\n"
	line1  = "exception 17 " + hash("ab") + " 2026-11-24 its quote was made under a root that isn't Intel's, see ticket 4\n"
	line2  = "exception 3 " + hash("0f") + " 2026-11-25 collateral regressed; harmless – looked into by A. B.\n"
	line3  = "exception 17 " + hash("ac") + " 2026-11-25 the right hash this time\n"
)

func TestParseExceptions(t *testing.T) {
	x, err := ParseExceptions([]byte(header + line1 + line2 + line3))
	if err != nil {
		t.Fatal(err)
	}
	if len(x.List) != 3 || x.Origin != testOrigin || x.List[1].Index != 3 || x.List[1].LeafHash[31] != 0x0f || x.List[0].Date != "2026-11-24" ||
		x.List[2].Reason != "the right hash this time" {
		t.Errorf("%+v", x)
	}
	if _, err := ParseExceptions([]byte(header)); err != nil {
		t.Errorf("empty list: %v", err)
	}
	edit := func(old, new string) string { return header + strings.Replace(line1, old, new, 1) }
	for name, text := range map[string]string{
		"nothing":             "",
		"cut short":           strings.TrimSuffix(header+line1, "\n"),
		"another format":      strings.Replace(header, "v1", "v2", 1),
		"no log":              "affidavit-exceptions/v1\n",
		"empty origin":        "affidavit-exceptions/v1\nlog \n",
		"origin with a space": "affidavit-exceptions/v1\nlog a b\n",
		"CRLF":                strings.ReplaceAll(header+line1, "\n", "\r\n"),
		"blank line":          header + "\n" + line1,
		"comment":             header + "# why\n" + line1,
		"another word":        edit("exception", "exempt"),
		"leading zero":        edit("17", "017"),
		"negative":            edit("17", "-17"),
		"beyond 2^63":         edit("17", "9223372036854775808"),
		"uppercase hash":      edit("abab", "ABab"),
		"short hash":          edit("abab", "ab"),
		"no such day":         edit("2026-11-24", "2026-11-31"),
		"date without zero":   edit("2026-11-24", "2026-9-24"),
		"no reason":           header + strings.Split(line1, " its")[0] + "\n",
		"empty reason":        header + strings.Split(line1, "its")[0] + "\n",
		"two spaces":          edit(" its", "  its"),
		"space at the end":    edit("ticket 4", "ticket 4 "),
		"tab in the reason":   edit("its quote", "its\tquote"),
		"direction override":  edit("its quote", "its\u202equote"),
		"not UTF-8":           edit("its quote", "its\xffquote"),
		"long reason":         edit("its", strings.Repeat("x", 500)),
		"twice":               header + line1 + strings.Replace(line1, "its", "again its", 1),
		"dates go back":       header + line2 + line1,
		"too long":            header + strings.Repeat(line1, 1<<20/len(line1)+1),
	} {
		if x, err := ParseExceptions([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %+v", name, x)
		}
	}
}

func FuzzParseExceptions(f *testing.F) {
	for _, s := range []string{header, header + line1, header + line1 + line2 + line3} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ParseExceptions(b)
		if err != nil {
			return
		}
		if got := x.Bytes(); !bytes.Equal(got, b) {
			t.Errorf("two encodings of %+v:\n%q\n%q", x, got, b)
		}
		// A list cut off at any line is one that this one extends.
		for i := range x.List {
			part, err := ParseExceptions((&Exceptions{x.Origin, x.List[:i]}).Bytes())
			if err != nil || part.Origin != x.Origin || len(part.List) != i || i > 0 && !reflect.DeepEqual(part.List, x.List[:i]) {
				t.Errorf("the first %d: %+v, %v", i, part, err)
			}
		}
	})
}

// The list only grows, whatever becomes of the operator's file, and what is in force is what is on disk.
func TestExceptionsGrow(t *testing.T) {
	dir := t.TempDir()
	file, kept := filepath.Join(dir, "exceptions"), filepath.Join(dir, "state.exceptions")
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	tick := at
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		tick = tick.Add(time.Second) // so that the times differ on any file system
		if err := os.Chtimes(file, tick, tick); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openExceptions(testOrigin, file, kept, at); err == nil || !strings.Contains(err.Error(), "affidavit-exceptions/v1") {
		t.Errorf("without the file: %v", err)
	}
	write(header + line1)
	x, err := openExceptions(testOrigin, file, kept, at)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what, want string) {
		t.Helper()
		b, err := os.ReadFile(kept)
		if err != nil || string(b) != want || string(x.text) != want || string(x.now.Bytes()) != want {
			t.Errorf("%s: kept %q, %v; in force %q; want %q", what, b, err, x.text, want)
		}
	}
	check("at first", header+line1)
	if !x.cover(Dispute{Index: 17, LeafHash: x.now.List[0].LeafHash}) || x.cover(Dispute{Index: 17}) || x.cover(Dispute{Index: 3, LeafHash: x.now.List[0].LeafHash}) {
		t.Error("exceptions are for an index and a leaf hash")
	}
	for name, text := range map[string]string{
		"taken back":     header,
		"changed":        header + strings.Replace(line1, "ticket 4", "ticket 5", 1),
		"put before":     header + strings.Replace(line2, "25", "24", 1) + line1,
		"of another log": strings.Replace(header, "2026", "2027", 1) + line1,
		"malformed":      header + line1 + "x\n",
		"half written":   header + line1 + line2[:40],
		"in the future":  header + line1 + strings.Replace(line2, "11-25", "11-27", 1),
		"cleared":        "",
	} {
		write(text)
		if changed, err := x.refresh(at); changed || err == nil {
			t.Errorf("%s: %v, %v", name, changed, err)
		}
		check(name, header+line1)
	}
	if _, err := openExceptions(testOrigin, file, kept, at); err == nil {
		t.Error("opened with an unusable file")
	}
	write(header + line1 + line2)
	if changed, err := x.refresh(at); !changed || err != nil {
		t.Errorf("grown: %v, %v", changed, err)
	}
	check("grown", header+line1+line2)
	if changed, err := x.refresh(at); changed || err != nil {
		t.Errorf("unchanged: %v, %v", changed, err)
	}
	// They hold without the file.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := x.refresh(at); err == nil {
		t.Error("nobody is told that the file is gone")
	}
	check("removed", header+line1+line2)
	if x, err = openExceptions(testOrigin, "", kept, at); err != nil {
		t.Fatal(err)
	}
	check("reopened without it", header+line1+line2)

	// What can't be kept isn't in force.
	next := header + line1 + line2 + line3
	other := filepath.Join(t.TempDir(), "exceptions")
	if err := os.WriteFile(other, []byte(next), 0o644); err != nil {
		t.Fatal(err)
	}
	x.file = other
	x.copy = filepath.Join(dir, "no such directory", "state.exceptions")
	if changed, err := x.refresh(at); changed || err == nil {
		t.Errorf("where nothing can be written: %v, %v", changed, err)
	}
	if string(x.text) != header+line1+line2 {
		t.Errorf("in force %q", x.text)
	}
	if _, err := openExceptions("log.test/2027", "", kept, at); err == nil {
		t.Error("opened the exceptions of another log")
	}
}
