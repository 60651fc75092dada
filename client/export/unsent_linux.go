package export

import (
	"crypto/tls"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent returns how many bytes of a TCP connection the other side has not
// acknowledged (tcp(7), SIOCOUTQ).
func unsent(c net.Conn) (n int, ok bool) {
	if t, isTLS := c.(*tls.Conn); isTLS {
		c = t.NetConn()
	}
	sc, isSyscall := c.(syscall.Conn)
	if !isSyscall {
		return 0, false
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var ioctl error
	if err := rc.Control(func(fd uintptr) { n, ioctl = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }); err != nil || ioctl != nil {
		return 0, false
	}
	return n, true
}
