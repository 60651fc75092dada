//go:build !linux

package session

import (
	"fmt"
	"os"
)

// checkMemory knows of no file system in memory but Linux's, where trust domains run.
func checkMemory(dir string) error {
	return fmt.Errorf("%w: %s: file systems are told apart on Linux only", ErrNotMemory, dir)
}

// lock does nothing: on systems where no trust domain runs, one process at a time is up to the caller.
func lock(*os.File) error { return nil }
