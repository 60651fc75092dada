package sessionlog

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/transparency-dev/tessera/api/layout"
)

// An entry that is read as a part of its bundle is the one that the whole bundle has, and damage to the file is an error,
// never the proof of something else.
func TestEntryParts(t *testing.T) {
	s := newWorld(t).open()
	s.fill(t, 2*tileWidth, 3000)
	pub := s.pub.now.Load()
	var want [tileWidth][]byte
	for i := range want {
		b, err := s.tree.bundle(t.Context(), 0, tileWidth)
		if err != nil {
			t.Fatal(err)
		}
		want[i] = bytes.Clone(b.entry(uint64(i)))
	}
	s.tree.bundles.Purge()
	for i := range want {
		got, err := s.tree.leaf(t.Context(), uint64(i))
		if err != nil || !bytes.Equal(got, want[i]) {
			t.Fatalf("entry %d: %v, %d bytes, want %d", i, err, len(got), len(want[i]))
		}
		if _, err := s.proof(t.Context(), pub, uint64(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	if s.tree.bundles.Contains(0) {
		t.Error("the whole bundle was read for a part")
	}

	file := filepath.Join(s.dir, tesseraDir, filepath.FromSlash(layout.EntriesPath(0, 0)))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Clone(whole)
	changed[len(changed)-5] ^= 1
	if err := os.WriteFile(file, changed, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.proof(t.Context(), pub, tileWidth-1, nil); err == nil {
		t.Error("a changed entry got a proof")
	}
	if err := os.WriteFile(file, whole[:len(whole)-5], 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.proof(t.Context(), pub, tileWidth-1, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a bundle that was cut: %v", err)
	}
	if err := os.WriteFile(file, whole, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.proof(t.Context(), pub, tileWidth-1, nil); err != nil {
		t.Error(err)
	}
}
