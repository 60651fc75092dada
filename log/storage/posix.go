package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A Posix is a directory of one log on one machine. Every Put is atomic and durable before it returns. It implements
// [Objects].
type Posix struct {
	dir string

	// Fault, if a test set it, is called with "before" and "after" around the step of Put that makes the object
	// visible. An error from "before" is a write that failed; one from "after" is a write that happened and was
	// reported as failed. Set once, before the first Put.
	Fault func(when, name string) error
}

// TmpDir holds files that are being written. It lies on the same file system as their destination, so that a
// rename is atomic.
const TmpDir = "tmp"

// TesseraDir is Tessera's directory below that of the log. No server must be pointed at it: its checkpoint is one that no
// witness has seen, under a key that nobody knows.
const TesseraDir = "tessera"

// Candidate is the text of the checkpoint that is being signed and cosigned, or was last. Other storages keep it in their
// shared state.
const Candidate = "candidate"

// NewPosix returns the log's directory, which needn't exist yet and isn't touched.
func NewPosix(dir string) *Posix { return &Posix{dir: dir} }

// Clean empties the directory of files that are being written: nothing in it was ever acknowledged. Whoever calls it
// must hold the lock, see [LockDir].
func (s *Posix) Clean() error { return os.RemoveAll(filepath.Join(s.dir, TmpDir)) }

// Path returns the file of an object.
func (s *Posix) Path(name string) string {
	switch h, ok := strings.CutPrefix(name, BlobPrefix); {
	case ok && len(h) > 2:
		name = "blobs/" + h[:2] + "/" + h
	case strings.HasPrefix(name, TilePrefix):
		name = TesseraDir + "/" + name
	}
	return filepath.Join(s.dir, filepath.FromSlash(name))
}

// Get returns the bytes of an object.
func (s *Posix) Get(_ context.Context, name string) ([]byte, error) { return os.ReadFile(s.Path(name)) }

// Put replaces or creates an object.
func (s *Posix) Put(_ context.Context, name string, data []byte) (err error) {
	dst, tmp := s.Path(name), filepath.Join(s.dir, TmpDir)
	for _, d := range []string{filepath.Dir(dst), tmp} {
		if err := MkdirSync(d); err != nil {
			return err
		}
	}
	f, err := os.CreateTemp(tmp, "put-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name()) // it may have been renamed already, and then there is nothing to remove
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if s.Fault != nil {
		if err := s.Fault("before", name); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	if err := os.Rename(f.Name(), dst); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(dst)); err != nil {
		return err
	}
	if s.Fault != nil {
		if err := s.Fault("after", name); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}

// List yields the names of objects. It reads the directories as it goes, so that what is written or removed meanwhile may
// be yielded or not.
func (s *Posix) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		// The last directory that the prefix names in full.
		dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
		blobs := strings.HasPrefix(prefix, BlobPrefix)
		root := s.Path(dir)
		if blobs {
			root = filepath.Join(s.dir, "blobs")
		}
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			case e.IsDir():
				return nil
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			name := dir + filepath.ToSlash(rel)
			if blobs {
				name = BlobPrefix + e.Name()
			}
			if strings.HasPrefix(name, prefix) && !yield(name, nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield("", err)
		}
	}
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}

// MkdirSync makes dir and its parents, each durable in the one above it.
func MkdirSync(dir string) error {
	if fi, err := os.Stat(dir); err == nil {
		if !fi.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := MkdirSync(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return SyncDir(parent)
}

// ErrLocked says that another process, or this one, has the directory open.
var ErrLocked = errors.New("log directory is in use")

// LockName is the file whose lock says that a process has the log open.
const LockName = "lock"

// LockDir takes the exclusive lock on a log's directory, and writes who holds it into the lock file for the person
// who looks for that process. Two appenders on one Tessera directory hand out the same indices, so nothing else is
// touched before this succeeds. The lock ends when the file is closed or the process ends, however it ends.
//
// flock, not fcntl: an fcntl lock belongs to the process, and a second Open in the same process would get it.
func LockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, LockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(f.Name())
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s is locked by %q", ErrLocked, dir, strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "pid %d\n", os.Getpid()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
