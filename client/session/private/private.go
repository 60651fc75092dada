// Package private writes files that only this user can read.
package private

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Put writes a file, at once or not at all: a reader, also after a crash of the machine, finds what was there before or
// the whole of what write writes. When it returns without an error, the file is on the disk under its name.
func Put(name string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name+".new"))
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	// The name is in the directory, which a file's Sync doesn't reach (fsync(2)).
	return syncDir(filepath.Dir(name))
}

// PutBytes is Put for what is in memory.
func PutBytes(name string, b []byte) error {
	return Put(name, func(w io.Writer) error { _, err := w.Write(b); return err })
}
