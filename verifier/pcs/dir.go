package pcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

const (
	// maxFile bounds a collateral file's size in bytes: hexadecimal doubles
	// the revocation lists.
	maxFile = 4 * maxBody

	// maxFiles bounds how many files of a directory are read.
	maxFiles = 10_000

	// scanInterval is how long a directory isn't looked at again, so that
	// every submission doesn't cost a system call for every file.
	scanInterval = time.Second
)

// parseFile parses and verifies a collateral file in the JSON form of
// [tdx.ParseCollateralJSON].
func parseFile(b []byte, root *tdx.Root) (*tdx.Set, error) {
	c, err := tdx.ParseCollateralJSON(b)
	if err != nil {
		return nil, err
	}
	return tdx.Compile(c, root)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxFile)
	}
	return b, nil
}

func setKey(s *tdx.Set) key { return key{s.FMSPC(), s.PCKCA()} }

// A Directory is a [Source] that serves the collateral files of a directory, see
// [Dir].
type Directory struct {
	path string
	root *tdx.Root

	// mu guards the fields below, and is held during a scan. Values are
	// replaced, never modified.
	mu      sync.Mutex
	scanned time.Time
	err     error // of the last scan
	files   map[string]*file
	byKey   map[key][]*tdx.Set
}

// A file is what was read of a file.
type file struct {
	info os.FileInfo
	set  *tdx.Set // nil if err isn't
	err  error
}

// Dir returns a source that serves the files in a directory whose names end in
// .json: collateral sets in the JSON form of [tdx.ParseCollateralJSON], current
// or archived, that verify under root, or Intel's root if it is nil. Subfolders
// are not read. A set is chosen by what it says, whatever its file is called.
//
// The directory is read at the first use, see also [Directory.Check]. Changes
// are noticed within a second of use; files should be replaced by renaming.
func Dir(path string, root *tdx.Root) *Directory {
	if root == nil {
		root = tdx.IntelRoot()
	}
	return &Directory{path: path, root: root}
}

// Check reads the directory, and returns what is wrong with it and with each
// file that can't be used: malformed, or not verifying under the root. Sets that
// are not in force now are not wrong. Those who start a service on a directory
// should show the error, since the source otherwise just lacks these files.
func (d *Directory) Check() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.scan()
	errs := []error{d.err}
	for _, name := range slices.Sorted(maps.Keys(d.files)) {
		if err := d.files[name].err; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", filepath.Join(d.path, name), err))
		}
	}
	if d.err == nil && len(d.byKey) == 0 {
		errs = append(errs, fmt.Errorf("%w in %s", ErrNoCollateral, d.path))
	}
	return errors.Join(errs...)
}

// Collateral implements [Source]. It ignores ctx. The error wraps
// ErrUnreachable if the directory can't be read, and a [*tdx.StaleError] besides
// ErrNoCollateral if there are sets for other times only.
func (d *Directory) Collateral(_ context.Context, fmspc, ca string, at time.Time) (*tdx.Collateral, error) {
	k, err := newKey(fmspc, ca)
	if err != nil {
		return nil, err
	}
	set, err := d.find(k, at)
	if err != nil {
		return nil, err
	}
	return set.Collateral(), nil
}

// find returns the newest set for k that is in force at the time.
func (d *Directory) find(k key, at time.Time) (*tdx.Set, error) {
	d.mu.Lock()
	if now := time.Now(); d.files == nil || now.Sub(d.scanned) >= scanInterval || now.Before(d.scanned) {
		d.scan()
	}
	sets, err := d.byKey[k], d.err
	d.mu.Unlock()

	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	var best *tdx.Set
	var stale error
	for _, s := range sets {
		switch err := s.ValidAt(at); {
		case err != nil:
			stale = err
		case best == nil || newer(s, best):
			best = s
		}
	}
	switch {
	case best != nil:
		return best, nil
	case stale != nil:
		return nil, fmt.Errorf("%w for FMSPC %s, %s CA, in force at %s: %w",
			ErrNoCollateral, k.fmspc, k.ca, at.UTC().Format(time.RFC3339), stale)
	}
	return nil, fmt.Errorf("%w for FMSPC %s, %s CA in %s", ErrNoCollateral, k.fmspc, k.ca, d.path)
}

// rescan has the next use read the directory again.
func (d *Directory) rescan() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.scanned = time.Time{}
}

// scan reads the files that changed. The caller holds mu.
func (d *Directory) scan() {
	d.scanned = time.Now()
	files, byKey := make(map[string]*file), make(map[key][]*tdx.Set)
	entries, err := os.ReadDir(d.path)
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".json") || strings.HasPrefix(name, ".") || e.IsDir() {
			continue
		}
		if len(files) == maxFiles {
			err = fmt.Errorf("%s: more than %d files", d.path, maxFiles)
			break
		}
		// Stat follows links: Kubernetes mounts files as links into a folder
		// that it replaces.
		info, err := os.Stat(filepath.Join(d.path, name))
		if err != nil {
			files[name] = &file{err: err}
			continue
		}
		f := d.files[name]
		if f == nil || f.info == nil || !os.SameFile(f.info, info) ||
			f.info.Size() != info.Size() || !f.info.ModTime().Equal(info.ModTime()) {
			f = d.read(name, info)
		}
		files[name] = f
		if f.set != nil {
			byKey[setKey(f.set)] = append(byKey[setKey(f.set)], f.set)
		}
	}
	d.err, d.files, d.byKey = err, files, byKey
}

func (d *Directory) read(name string, info os.FileInfo) *file {
	f := &file{info: info}
	b, err := readFile(filepath.Join(d.path, name))
	if err == nil {
		f.set, err = parseFile(b, d.root)
	}
	f.err = err
	return f
}
