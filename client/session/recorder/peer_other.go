//go:build !linux

package recorder

import (
	"errors"
	"net"
	"os"
)

// A Listener needs Linux: elsewhere there is no trust domain to record in.
type Listener struct {
	*net.UnixListener
	Allowed []int
	Refused func(uid int)
}

// Listen fails.
func Listen(string, []int) (*Listener, error) { return nil, errors.ErrUnsupported }

// UID returns Nobody.
func UID(string) int { return Nobody }

func lock(string) (*os.File, error) { return nil, errors.ErrUnsupported }
