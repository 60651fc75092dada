//go:build unix

package export

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock keeps another process from writing the same file as long as f is open.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%s: another export is writing it", f.Name())
	}
	return err
}
