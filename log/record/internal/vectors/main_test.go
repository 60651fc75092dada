package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// The vectors in the repository are those that this command writes. A change
// of a format, or a generator that isn't deterministic, makes this fail.
func TestUpToDate(t *testing.T) {
	made := t.TempDir()
	if err := run(made); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join("..", "..", "..", "..", "testdata", "record")
	a, b := files(t, made), files(t, kept)
	for name := range a {
		if _, ok := b[name]; !ok {
			t.Errorf("%s is missing: run go generate ./log/record", name)
		} else if !bytes.Equal(a[name], b[name]) {
			t.Errorf("%s differs: run go generate ./log/record", name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			t.Errorf("%s is not made by the generator", name)
		}
	}
	if len(a) == 0 {
		t.Error("no vectors")
	}
}

func files(t *testing.T, dir string) map[string][]byte {
	m := make(map[string][]byte)
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		m[filepath.ToSlash(name)] = b
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return m
}
