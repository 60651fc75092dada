package sessionlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A store keeps the log's own small files under one directory: what it has published, what it is about to sign,
// blobs. Every put is atomic and durable before it returns: a reader, also after a loss of power, finds the old
// bytes or the new ones. Concurrent calls are fine; two puts of one name leave either one.
type store struct {
	dir string

	// fault, if a test set it, is called with "before" and "after" around the step of put that makes the file
	// visible. An error from "before" is a write that failed; one from "after" is a write that happened and was
	// reported as failed. Set once, before the first put.
	fault func(when, name string) error
}

// tmpDir holds files that are being written. It lies on the same file system as their destination, so that a
// rename is atomic, and is emptied when the log is opened: nothing in it was ever acknowledged.
const tmpDir = "tmp"

// newStore prepares dir, which must exist, for puts.
func newStore(dir string) (*store, error) {
	tmp := filepath.Join(dir, tmpDir)
	if err := os.RemoveAll(tmp); err != nil {
		return nil, err
	}
	if err := mkdirSync(tmp); err != nil {
		return nil, err
	}
	return &store{dir: dir}, nil
}

func (s *store) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// get returns the bytes of the file name. The error wraps fs.ErrNotExist if there is none.
func (s *store) get(name string) ([]byte, error) { return os.ReadFile(s.path(name)) }

// put replaces or creates the file name, a slash-separated path under the store's directory. After an error the
// file has its old bytes or the new ones, and the caller must be content with either.
func (s *store) put(name string, data []byte) (err error) {
	dst := s.path(name)
	if err := mkdirSync(filepath.Dir(dst)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "put-")
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
	if s.fault != nil {
		if err := s.fault("before", name); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	if err := os.Rename(f.Name(), dst); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(dst)); err != nil {
		return err
	}
	if s.fault != nil {
		if err := s.fault("after", name); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
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

// mkdirSync makes dir and its parents, each durable in the one above it.
func mkdirSync(dir string) error {
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
		if err := mkdirSync(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent)
}

// lockName is the file whose lock says that a process has the log open.
const lockName = "lock"

// lockDir takes the exclusive lock on a log's directory, and writes who holds it into the lock file for the person
// who looks for that process. Two appenders on one Tessera directory hand out the same indices, so nothing else is
// touched before this succeeds. The lock ends when the file is closed or the process ends, however it ends.
//
// flock, not fcntl: an fcntl lock belongs to the process, and a second Open in the same process would get it.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(f.Name())
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s is locked by %q", ErrInUse, dir, strings.TrimSpace(string(holder)))
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
