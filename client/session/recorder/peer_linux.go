package recorder

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Listener accepts connections to a unix socket from these users only. The user at the
// other end is the one that the kernel names (SO_PEERCRED, unix(7)); a connection's
// RemoteAddr tells it, see UID.
type Listener struct {
	*net.UnixListener
	// Allowed are user ids.
	Allowed []int
	// Refused is called for each connection that is refused, with its user id.
	Refused func(uid int)
}

// Listen makes the socket, for everybody to connect to: who may is decided by user id, which a mode
// could only say for one group. A socket that a process left behind is replaced.
func Listen(path string, allowed []int) (*Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s is in use", path)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, err
	}
	return &Listener{UnixListener: l, Allowed: allowed}, nil
}

// Accept returns the next connection of a user who is allowed.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.UnixListener.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := credentials(c)
		if err == nil && slices.Contains(l.Allowed, uid) {
			return &conn{c, addr(uid)}, nil
		}
		c.Close()
		if l.Refused != nil {
			l.Refused(uid)
		}
	}
}

func credentials(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Nobody, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if cerr != nil || err != nil {
		return Nobody, fmt.Errorf("peer credentials: %v", err)
	}
	return int(cred.Uid), nil
}

type conn struct {
	*net.UnixConn
	addr addr
}

func (c *conn) RemoteAddr() net.Addr { return c.addr }

type addr int

func (a addr) Network() string { return "unix" }
func (a addr) String() string  { return "uid:" + strconv.Itoa(int(a)) }

// UID is the user id that a connection's remote address tells, in its text form as in
// http.Request, or Nobody.
func UID(remote string) int {
	s, ok := strings.CutPrefix(remote, "uid:")
	n, err := strconv.Atoi(s)
	if !ok || err != nil || n < 0 {
		return Nobody
	}
	return n
}

func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: another recorder uses this directory: %w", path, err)
	}
	return f, nil
}
