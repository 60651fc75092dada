package deliver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/affidavit-log/affidavit/client/monitor"
)

// Lines is a [Receiver] that writes findings as JSON lines to a stream.
type Lines struct{ W io.Writer }

// Send implements [Receiver].
func (l Lines) Send(_ context.Context, f *monitor.Finding) error {
	line, err := line(f)
	if err != nil {
		return err
	}
	_, err = l.W.Write(line)
	return err
}

func line(f *monitor.Finding) ([]byte, error) {
	b, err := json.Marshal(f)
	return append(b, '\n'), err
}

// File is a [Receiver] that appends findings as JSON lines to the file with this name. The file is opened anew for each,
// so that it can be rotated by renaming it.
type File string

// lastLine is how much of a file's end is looked at. A line with all its evidence fits.
const lastLine = 2 << 20

// Send implements [Receiver]. The line is durable when it returns. A line that a crash has cut short is replaced, and one
// that is there already, because a crash kept the cursor from moving, isn't written again.
func (name File) Send(_ context.Context, f *monitor.Finding) (err error) {
	want, err := line(f)
	if err != nil {
		return err
	}
	_, missing := os.Stat(string(name))
	// Who may read what somebody watches is for the directory and the umask to say.
	file, err := os.OpenFile(string(name), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := file.Close(); err == nil {
			err = cerr
		}
	}()
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() { // a pipe or a terminal
		_, err := file.Write(want)
		return err
	}
	end := make([]byte, min(lastLine, fi.Size()))
	if _, err := file.ReadAt(end, fi.Size()-int64(len(end))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	whole := bytes.HasSuffix(end, []byte{'\n'})
	end = end[bytes.LastIndexByte(bytes.TrimSuffix(end, []byte{'\n'}), '\n')+1:]
	// Not the whole line: the proofs in a finding's evidence are of the newest checkpoint.
	begin := fmt.Appendf(nil, `{"id":%q,"seq":%d,`, f.ID, f.Seq)
	// After a crash a page of findings may come again, of which the last line is the end, or a part of it.
	again := false
	if last := new(struct{ Seq uint64 }); !whole || json.Unmarshal(end, last) == nil && last.Seq > f.Seq {
		size := fi.Size()
		if !whole {
			size -= int64(len(end))
		}
		if again, err = hasLine(file, size, begin, f.Seq); err != nil {
			return err
		}
	}
	switch {
	case again, whole && bytes.HasPrefix(end, begin):
		want = nil
	case whole || len(end) == 0:
	case bytes.HasPrefix(end, begin[:min(len(begin), len(end))]):
		if err := file.Truncate(fi.Size() - int64(len(end))); err != nil {
			return err
		}
	default: // what isn't ours is left alone
		want = append([]byte{'\n'}, want...)
	}
	if _, err := file.Write(want); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if missing == nil {
		return nil
	}
	dir, err := os.Open(filepath.Dir(string(name)))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", dir.Name(), err)
	}
	return nil
}

// hasLine reports whether a line of file, which has size bytes, begins with begin. Of lines that are in order, it reads no
// more than those after the finding number seq and some before.
func hasLine(file *os.File, size int64, begin []byte, seq uint64) (bool, error) {
	for n := int64(lastLine); ; n *= 2 {
		tail := make([]byte, min(n, size))
		if _, err := file.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if bytes.Contains(tail, append([]byte{'\n'}, begin...)) {
			return true, nil
		}
		if int64(len(tail)) == size {
			return bytes.HasPrefix(tail, begin), nil
		}
		_, tail, _ = bytes.Cut(tail, []byte{'\n'})
		first, _, _ := bytes.Cut(tail, []byte{'\n'})
		if f := new(struct{ Seq uint64 }); json.Unmarshal(first, f) == nil && f.Seq < seq {
			return false, nil
		}
	}
}
