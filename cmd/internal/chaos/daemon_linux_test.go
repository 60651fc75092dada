package chaos

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// binaries is the directory of the commands: AFFIDAVIT_BIN, or one to which they are built once.
var binaries = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("AFFIDAVIT_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.MkdirTemp("", "affidavit-chaos-bin-")
	if err != nil {
		return "", err
	}
	builtBinaries = dir
	args := []string{"build", "-o", dir}
	for _, c := range []string{"affidavit", "affidavit-log", "affidavit-witness", "affidavit-monitor", "affidavit-recorder"} {
		args = append(args, "github.com/affidavit-log/affidavit/cmd/"+c)
	}
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

var builtBinaries string // to be removed

func TestMain(m *testing.M) {
	status := m.Run()
	if builtBinaries != "" {
		os.RemoveAll(builtBinaries)
	}
	os.Exit(status)
}

// A front is the address of a daemon that keeps its port when the daemon comes back on another one. It forwards
// connections, and refuses them while there is no daemon.
type front struct {
	ln     net.Listener
	target atomic.Pointer[string]
}

func newFront(t testing.TB) *front {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &front{ln: ln}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { f.serve(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() { ln.Close() })
	return f
}

func (f *front) serve(c *net.TCPConn) {
	defer c.Close()
	addr := f.target.Load()
	if addr == nil {
		return
	}
	d, err := net.Dial("tcp", *addr)
	if err != nil {
		return
	}
	defer d.Close()
	done := make(chan struct{}, 2)
	for _, p := range [][2]*net.TCPConn{{c, d.(*net.TCPConn)}, {d.(*net.TCPConn), c}} {
		go func() {
			io.Copy(p[1], p[0])
			p[1].CloseWrite()
			done <- struct{}{}
		}()
	}
	<-done
	// The rest of what the other side has to say, and then both are closed: a daemon that was killed says nothing.
	select {
	case <-done:
	case <-time.After(5 * time.Second):
	}
}

func (f *front) url() string { return "http://" + f.ln.Addr().String() }

// A daemon is one of the project's commands that is started again and again.
type daemon struct {
	t     testing.TB
	name  string // of the instance, such as witness1
	bin   string
	args  []string
	env   []string
	dir   string // working directory
	state string // directory or file that it writes to, which tells when to kill it
	front *front // nil if it serves nothing
	sys   *syscall.SysProcAttr
	ready func() bool // whether it works; nil if it does as soon as it says where it listens
	once  []string    // arguments of the first start only

	log *os.File

	mu   sync.Mutex // guards what follows
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // of Wait, once done
	priv string        // its private address, if it has one
}

var listening = regexp.MustCompile(`msg=listening what="?([a-z ]+)"? addr="?(127\.0\.0\.1:\d+)`)

// start starts the daemon, and waits until it is ready. The error says that it ended before.
func (d *daemon) start() error {
	args := append(append([]string{}, d.args...), d.once...)
	d.once = nil
	cmd := exec.Command(filepath.Join(d.bin, args[0]), args[1:]...)
	cmd.Dir, cmd.SysProcAttr = d.dir, d.sys
	cmd.Env = append(os.Environ(), d.env...)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stderr = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	addr := make(chan string, 1)
	done := make(chan struct{})
	d.mu.Lock()
	d.cmd, d.done, d.err = cmd, done, nil
	d.mu.Unlock()
	go func() {
		lines := bufio.NewScanner(io.TeeReader(r, d.log))
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			m := listening.FindStringSubmatch(lines.Text())
			if m == nil {
				continue
			}
			if m[1] == "private" || m[1] == "metrics" {
				d.mu.Lock()
				d.priv = m[2]
				d.mu.Unlock()
				continue
			}
			select {
			case addr <- m[2]:
			default:
			}
		}
		io.Copy(d.log, r) // a line that is too long
		r.Close()
		err := cmd.Wait()
		d.mu.Lock()
		d.err = err
		d.mu.Unlock()
		close(done)
	}()
	deadline := time.After(time.Minute)
	if d.front != nil {
		select {
		case a := <-addr:
			d.front.target.Store(&a)
		case <-done:
			return fmt.Errorf("%s ended: %w\n%s", d.name, d.exit(), d.tail())
		case <-deadline:
			return fmt.Errorf("%s doesn't listen\n%s", d.name, d.tail())
		}
	}
	for d.ready != nil && !d.ready() {
		select {
		case <-done:
			return fmt.Errorf("%s ended: %w\n%s", d.name, d.exit(), d.tail())
		case <-deadline:
			return fmt.Errorf("%s isn't ready\n%s", d.name, d.tail())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

func (d *daemon) exit() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// signal sends a signal.
func (d *daemon) signal(s syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		d.cmd.Process.Signal(s)
	}
}

// pid is the daemon's process id, 0 if it wasn't started.
func (d *daemon) pid() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// kill kills the daemon and waits for its end. It fails the test if the daemon had ended by itself.
func (d *daemon) kill() {
	d.t.Helper()
	d.signal(syscall.SIGKILL)
	<-d.done
	if err := d.exit(); err == nil || !strings.Contains(err.Error(), "killed") {
		d.t.Errorf("%s ended by itself: %v\n%s", d.name, err, d.tail())
	}
}

// stop stops the daemon as an operator does, and returns how it ended.
func (d *daemon) stop() error {
	if d.pid() == 0 {
		return nil
	}
	d.signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(40 * time.Second):
		d.signal(syscall.SIGKILL)
		<-d.done
		return errors.New(d.name + " doesn't stop")
	}
	return d.exit()
}

// cleanup ends a daemon at the end of a test, whatever state it is in.
func (d *daemon) cleanup() {
	if d.pid() == 0 {
		return
	}
	d.signal(syscall.SIGCONT)
	d.signal(syscall.SIGKILL)
	<-d.done
}

// tail is the end of what the daemon has said.
func (d *daemon) tail() string {
	b, err := os.ReadFile(d.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// event waits for the n-th time that something happens to a file below the daemon's state: one is made, written to, closed
// or renamed. It returns what happened, or "" if it didn't in time.
func (d *daemon) event(n int, timeout time.Duration) string {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	names := make(map[int32]string)
	add := func(dir string) {
		filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() && path != dir {
				return nil
			}
			if wd, err := unix.InotifyAddWatch(fd, path, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_DELETE); err == nil {
				names[int32(wd)] = path
			}
			return nil
		})
	}
	add(d.state)
	buf := make([]byte, 64<<10)
	for end := time.Now().Add(timeout); time.Now().Before(end); {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, int(time.Until(end).Milliseconds())+1); err != nil && err != unix.EINTR {
			return ""
		}
		k, err := unix.Read(fd, buf)
		if err != nil {
			continue
		}
		for b := buf[:k]; len(b) >= unix.SizeofInotifyEvent; {
			wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			name := filepath.Join(names[wd], strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00"))
			b = b[size:]
			if mask&unix.IN_ISDIR != 0 && mask&unix.IN_CREATE != 0 {
				add(name)
			}
			if n--; n > 0 {
				continue
			}
			what := "changed"
			for bit, word := range map[uint32]string{unix.IN_CREATE: "made", unix.IN_MODIFY: "written", unix.IN_CLOSE_WRITE: "closed", unix.IN_MOVED_TO: "renamed", unix.IN_DELETE: "removed"} {
				if mask&bit != 0 {
					what = word
				}
			}
			rel, err := filepath.Rel(filepath.Dir(d.state), name)
			if err != nil {
				rel = name
			}
			return rel + " " + what
		}
	}
	return ""
}
