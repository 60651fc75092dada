package session

import (
	"encoding/binary"
	"fmt"
	"io"
)

// WriteFile writes a session file of documents that weren't recorded by this
// package, such as those of imported model runs. h's trees must be those of docs and
// served; documents have no contents.
func WriteFile(w io.Writer, h *FileHeader, docs []Document, served []Served) error {
	if h.Documents.Size != uint64(len(docs)) || h.Served.Size != uint64(len(served)) {
		return fmt.Errorf("session file with trees of %d and %d leaves, but %d documents and %d sessions", h.Documents.Size, h.Served.Size, len(docs), len(served))
	}
	b := []byte(h.text())
	for _, d := range docs {
		if len(d.Contents) > 0 {
			return fmt.Errorf("session file with %d contents of a document", len(d.Contents))
		}
		b = binary.BigEndian.AppendUint32(b, uint32(1+len(d.Salt)+len(d.Document)))
		b = append(b, 0)
		b = append(b, d.Salt[:]...)
		b = append(b, d.Document...)
		b = append(b, 0)
	}
	for i := range served {
		b = append(b, served[i].marshal()...)
	}
	_, err := w.Write(b)
	return err
}
