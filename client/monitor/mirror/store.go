package mirror

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// tmpDir holds files that are being written. It lies on the file system of their destination, so that a rename is
// atomic, and is emptied when the mirror is opened: nothing in it was ever acknowledged.
const tmpDir = "tmp"

// A store writes files that are complete when they get their names, and durable once sync has returned. Many files are
// written between two syncs, since each directory is synced only once. Its methods can be called concurrently, but sync
// covers only files whose write has returned.
type store struct {
	dir string

	mu    sync.Mutex // guards dirty, and is not held during writes
	dirty map[string]bool

	// fault, if a test set it, is called with "before" and "after" around each step that makes something visible: the
	// rename of a file, and the sync of a directory. An error from "before" is a step that failed; one from "after" is a
	// step that happened and was reported as failed. Set once, before the first write.
	fault func(when, path string) error
}

// newStore prepares dir, which is made if there is none.
func newStore(dir string) (*store, error) {
	tmp := filepath.Join(dir, tmpDir)
	if err := os.RemoveAll(tmp); err != nil {
		return nil, err
	}
	s := &store{dir: dir, dirty: make(map[string]bool)}
	if err := s.mkdir(tmp); err != nil {
		return nil, err
	}
	return s, s.sync()
}

func (s *store) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// read returns the bytes of a file. The error wraps fs.ErrNotExist if there is none.
func (s *store) read(name string) ([]byte, error) { return os.ReadFile(s.path(name)) }

// has reports whether there is a file.
func (s *store) has(name string) (bool, error) {
	_, err := os.Stat(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// write makes or replaces a file. After an error it has its old bytes or the new ones.
func (s *store) write(name string, data []byte) error { return s.put(name, data, true) }

// draft is write of what needn't survive a loss of power, after which the file can hold anything. See keep.
func (s *store) draft(name string, data []byte) error { return s.put(name, data, false) }

// keep makes a draft as durable as what is written.
func (s *store) keep(name string) error {
	f, err := os.Open(s.path(name))
	if err != nil {
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("syncing %s: %w", name, err)
	}
	// The folder may have been made by an earlier process, which didn't come to sync it.
	for dir := filepath.Dir(s.path(name)); len(dir) >= len(s.dir); dir = filepath.Dir(dir) {
		s.mark(dir)
	}
	return nil
}

func (s *store) put(name string, data []byte, sync bool) (err error) {
	dst := s.path(name)
	if err := s.mkdir(filepath.Dir(dst)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "put-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name()) // or it was renamed, and there is nothing to remove
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o644) // of what is public
	}
	if err == nil && sync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := s.step(name, func() error { return os.Rename(f.Name(), dst) }); err != nil {
		return err
	}
	s.mark(filepath.Dir(dst))
	return nil
}

// remove removes a file or a folder, if there is one.
func (s *store) remove(name string) error { return os.RemoveAll(s.path(name)) }

// mkdir makes dir and its parents.
func (s *store) mkdir(dir string) error {
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
		if err := s.mkdir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.mark(parent)
	return nil
}

func (s *store) mark(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty[dir] = true
}

// sync makes the names of all files durable that were written. After an error none counts as durable.
func (s *store) sync() error {
	s.mu.Lock()
	var dirs []string
	for dir := range s.dirty {
		dirs = append(dirs, dir)
	}
	s.mu.Unlock()
	for _, dir := range dirs {
		if err := s.step(dir, func() error { return syncDir(dir) }); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, dir := range dirs {
		delete(s.dirty, dir)
	}
	return nil
}

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

// step does something between two points at which a test may fail it.
func (s *store) step(path string, do func() error) error {
	if s.fault != nil {
		if err := s.fault("before", path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := do(); err != nil {
		return err
	}
	if s.fault != nil {
		if err := s.fault("after", path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
