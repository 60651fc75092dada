package sessionlog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/affidavit-log/affidavit/log/record"
)

// dirFiles are the files below a directory, for reading.
type dirFiles struct{ dir string }

// get reads a regular file. Anything else that has its name, such as a pipe, which a reader would wait for, is an error.
func (d dirFiles) get(_ context.Context, name string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, filepath.FromSlash(name)), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	if fi.Size() > limit {
		return nil, fmt.Errorf("%w: %d bytes", errTooLong, fi.Size())
	}
	b := make([]byte, 0, fi.Size()+1)
	for {
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case errors.Is(err, io.EOF):
			return b, nil
		case err != nil:
			return nil, err
		case int64(len(b)) > limit:
			return nil, fmt.Errorf("%w: it grows", errTooLong)
		case len(b) == cap(b):
			b = append(b, 0)[:len(b)]
		}
	}
}

func (d dirFiles) list(_ context.Context, f func(name string) error) error {
	return filepath.WalkDir(d.dir, func(file string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && file != d.dir {
			return nil // removed meanwhile
		}
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(d.dir, file)
		if err != nil {
			return err
		}
		return f(filepath.ToSlash(name))
	})
}

// A posixRepository is a log's directory.
type posixRepository struct{ dirFiles }

func (posixRepository) tile(p string) string        { return tesseraDir + "/" + p }
func (posixRepository) blob(d record.Digest) string { return blobName(d) }
func (posixRepository) meta() string                { return metaName }
func (posixRepository) candidate() string           { return candidateName }

func (r posixRepository) state(ctx context.Context) (uint64, [32]byte, bool, error) {
	b, err := r.get(ctx, tesseraDir+"/.state/treeState", 1<<16)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errTooLong) {
		err = fmt.Errorf("%w: %w", errState, err)
	}
	if err != nil {
		return 0, [32]byte{}, false, err
	}
	size, root, err := parseState(b)
	return size, root, err == nil, err
}

var blobPath = regexp.MustCompile(`^blobs/([0-9a-f]{2})/([0-9a-f]{2})[0-9a-f]{62}$`)

func (posixRepository) class(name string) CheckKind {
	switch name {
	case metaName, publishedName, candidateName, lockName, frozenName, movedName, migratingName, tesseraDir + "/checkpoint":
		return ""
	}
	if m := blobPath.FindStringSubmatch(name); m != nil && m[1] == m[2] {
		return ""
	}
	top, rest, _ := strings.Cut(name, "/")
	switch {
	case top == tmpDir:
		return TempFile
	case top == "index", top == "collateral": // can be removed at any time
		return ""
	case top == tesseraDir && strings.HasPrefix(rest, ".state/"):
		if strings.TrimRight(path.Base(rest), "0123456789") != path.Base(rest) {
			return TempFile
		}
		return ""
	case top == tesseraDir && strings.TrimRight(rest, "0123456789") == "checkpoint":
		return TempFile
	}
	return UnknownFile
}

// A tilesRepository is a directory in the layout of c2sp.org/tlog-tiles, such as a mirror's.
type tilesRepository struct{ dirFiles }

func (tilesRepository) tile(p string) string        { return p }
func (tilesRepository) blob(d record.Digest) string { return "blob/" + hex.EncodeToString(d[:]) }
func (tilesRepository) meta() string                { return "" }
func (tilesRepository) candidate() string           { return "" }

func (tilesRepository) state(context.Context) (uint64, [32]byte, bool, error) {
	return 0, [32]byte{}, false, nil
}

func (tilesRepository) class(name string) CheckKind {
	switch top, rest, _ := strings.Cut(name, "/"); {
	case name == publishedName, name == frozenName, name == "progress.json", name == lockName:
		return ""
	case top == tmpDir:
		return TempFile
	case top == "blob":
		if b, err := hex.DecodeString(rest); err == nil && len(b) == 32 && hex.EncodeToString(b) == rest {
			return ""
		}
	}
	return UnknownFile
}
