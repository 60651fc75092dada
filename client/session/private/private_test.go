package private

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestPut: a file is there as a whole, for this user only, or it is as it was, and nothing is left beside it.
func TestPut(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	check := func(want string) {
		t.Helper()
		b, err := os.ReadFile(name)
		if err != nil || string(b) != want {
			t.Errorf("got %q, %v; want %q", b, err, want)
		}
		info, err := os.Stat(name)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
			t.Errorf("left beside it: %v, %v", all, err)
		}
	}
	if err := PutBytes(name, []byte("one")); err != nil {
		t.Fatal(err)
	}
	check("one")
	bad := errors.New("bad")
	if err := Put(name, func(w io.Writer) error { io.WriteString(w, "half"); return bad }); !errors.Is(err, bad) {
		t.Errorf("got %v", err)
	}
	check("one")
	// What a process left that died is in nobody's way, whatever its length.
	if err := os.WriteFile(name+".new", []byte("something long"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := PutBytes(name, []byte("two")); err != nil {
		t.Fatal(err)
	}
	check("two")
	if err := PutBytes(filepath.Join(dir, "absent", "file"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
