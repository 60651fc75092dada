package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// A shell runs the project's commands in the demo's directory as a person would,
// and shows each of them.
type shell struct {
	bin     string // absolute directory of the commands
	dir     string // where everything is kept
	servers []*server
	cleanup []string // directories elsewhere
}

// run runs a command, shows what it printed, and fails the demo unless it exits
// with the status want.
func (s *shell) run(want int, args ...string) {
	out := s.quiet(want, args...)
	for line := range strings.Lines(out) {
		fmt.Printf("  | %s", line)
	}
	if out != "" && !strings.HasSuffix(out, "\n") {
		fmt.Println()
	}
	if want != 0 {
		fmt.Printf("  (exit status %d)\n", want)
	}
}

// quiet is run, but returns what the command printed instead of showing it.
func (s *shell) quiet(want int, args ...string) string {
	fmt.Printf("\n  $ %s\n", strings.Join(args, " "))
	out, status := s.exec(args...)
	if status != want {
		fatalf("%s: exit status %d, expected %d\n%s", args[0], status, want, out)
	}
	return out
}

// keygen makes a key, and returns its public half.
func (s *shell) keygen(kind, name, file string) string {
	args := []string{"affidavit", "keygen", "--type", kind, "--name", name, "--out", file}
	fmt.Printf("  $ %s\n", strings.Join(args, " "))
	out, status := s.exec(args...)
	if status != 0 {
		fatalf("%s: exit status %d\n%s", args[0], status, out)
	}
	return strings.TrimSpace(out)
}

func (s *shell) exec(args ...string) (output string, status int) {
	cmd := exec.Command(filepath.Join(s.bin, args[0]), args[1:]...)
	cmd.Dir = s.dir
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return out.String(), exit.ExitCode()
	}
	check(err)
	return out.String(), 0
}

// A server is one of the project's daemons.
type server struct {
	name string
	cmd  *exec.Cmd
	url  string
	addr chan string // where it listens, once it says so
	done chan struct{}
}

var listening = regexp.MustCompile(`\baddr="?(127\.0\.0\.1:\d+)`)

// start starts a daemon that listens on a port of the kernel's choice, and
// waits until it says which.
func (s *shell) start(args ...string) *server {
	srv := s.launch(args...)
	srv.await("its address", func() bool {
		select {
		case a := <-srv.addr:
			srv.url = "http://" + a
			return true
		default:
			return false
		}
	})
	return srv
}

// launch starts a daemon. What it logs goes to a file of its name.
func (s *shell) launch(args ...string) *server {
	fmt.Printf("  $ %s &\n", strings.Join(args, " "))
	cmd := exec.Command(filepath.Join(s.bin, args[0]), args[1:]...)
	cmd.Dir = s.dir
	log, err := os.OpenFile(filepath.Join(s.dir, args[0]+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(err)
	r, w, err := os.Pipe()
	check(err)
	cmd.Stderr = w
	check(cmd.Start())
	w.Close()
	srv := &server{name: args[0], cmd: cmd, addr: make(chan string, 1), done: make(chan struct{})}
	go func() {
		lines := bufio.NewScanner(io.TeeReader(r, log))
		for lines.Scan() {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case srv.addr <- m[1]: // the first address is the public one
				default:
				}
			}
		}
		cmd.Wait()
		log.Close()
		close(srv.done)
	}()
	s.servers = append(s.servers, srv)
	return srv
}

// await waits until ok, or ends the demo if the daemon does, or after a while.
func (srv *server) await(what string, ok func() bool) {
	for end := time.Now().Add(40 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		select {
		case <-srv.done:
			fatalf("%s stopped before %s was there; see %s.log", srv.name, what, srv.name)
		default:
		}
		if time.Now().After(end) {
			fatalf("%s: %s was not there after 40 s; see %s.log", srv.name, what, srv.name)
		}
	}
}

// stop asks the daemon to shut down and waits for it.
func (srv *server) stop() {
	srv.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-srv.done:
	case <-time.After(20 * time.Second):
		srv.cmd.Process.Kill()
		<-srv.done
	}
}

func (s *shell) stopAll() {
	for i := len(s.servers) - 1; i >= 0; i-- {
		s.servers[i].stop()
	}
	s.servers = nil
	for _, dir := range s.cleanup {
		os.RemoveAll(dir)
	}
}

// write writes a file below the demo's directory.
func (s *shell) write(name string, data []byte) {
	mode := os.FileMode(0o644)
	if strings.Contains(name, "token") {
		mode = 0o600
	}
	check(os.WriteFile(filepath.Join(s.dir, name), data, mode))
}

func (s *shell) read(name string) []byte {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	check(err)
	return b
}
