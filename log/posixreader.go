package sessionlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api/layout"
)

// A posixReader is Tessera's reader of a directory, that also reads parts of entry bundles. It is a partReader.
type posixReader struct {
	tileReader
	dir string // Tessera's
}

func (r posixReader) ReadEntryPart(_ context.Context, index uint64, offset int64, length int) ([]byte, error) {
	f, err := os.Open(filepath.Join(r.dir, filepath.FromSlash(layout.EntriesPath(index, 0))))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, length)
	if _, err := f.ReadAt(b, offset); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", f.Name(), io.ErrUnexpectedEOF)
	} else if err != nil {
		return nil, err
	}
	return b, nil
}
