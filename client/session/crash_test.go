package session

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	"github.com/affidavit-log/affidavit/log/record"
)

// childEnv has what a child process is to do: URL, directory, and the session to resume, or nothing.
const childEnv = "AFFIDAVIT_SESSION_TEST_CHILD"

func TestMain(m *testing.M) {
	if args := os.Getenv(childEnv); args != "" {
		child(strings.Split(args, " "))
		return
	}
	os.Exit(m.Run())
}

// childTB makes failures end the child.
type childTB struct{ testing.TB }

func (childTB) Helper()                   {}
func (childTB) Fatal(args ...any)         { fmt.Fprintln(os.Stderr, args...); os.Exit(1) }
func (childTB) Fatalf(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...); os.Exit(1) }
func (childTB) Cleanup(func())            {}

// child records a session until it is killed, and says on its output what was acknowledged.
func child(args []string) {
	// The platform is that of the parent's world, which depends on constants only.
	l := &lab{sessiontest.At(childTB{}, args[0]), childTB{}}
	c := l.configIn(args[1])
	var s *Session
	var err error
	if len(args) == 2 {
		s, err = Start(context.Background(), c, l.options())
	} else {
		var id record.SessionID
		if id, err = record.ParseSessionID(args[2]); err == nil {
			s, err = Resume(context.Background(), c, id)
		}
	}
	if err != nil {
		childTB{}.Fatal(err)
	}
	fmt.Println("id", s.ID())
	in := bufio.NewScanner(os.Stdin)
	go func() { // the parent says when to finish
		for in.Scan() {
			_, err := s.Finish(context.Background(), good)
			fmt.Println("finished", err)
		}
	}()
	for i := int(s.Count()); ; i++ {
		index, err := s.Action(action(i))
		if errors.Is(err, ErrEnded) {
			select {} // until it is killed
		} else if err != nil {
			childTB{}.Fatal(err)
		}
		fmt.Println("acknowledged", index)
	}
}

type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Scanner
	in  io.WriteCloser
}

func spawn(t *testing.T, args ...string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t, cmd, bufio.NewScanner(out), in}
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	return p
}

// line returns the value of the next line with the given name, or "" at the end.
func (p *process) line(name string) string {
	for p.out.Scan() {
		if v, ok := strings.CutPrefix(p.out.Text(), name+" "); ok {
			return v
		}
	}
	return ""
}

// kill kills the process with SIGKILL, and returns the last index that it has said was acknowledged, or "".
func (p *process) kill() (last string) {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	for v := p.line("acknowledged"); v != ""; v = p.line("acknowledged") {
		last = v
	}
	p.cmd.Wait()
	return last
}

// TestKill kills a recorder in the middle of writing, several times, and checks that nothing that was acknowledged is
// missing, and that the session can be finished.
func TestKill(t *testing.T) {
	l := newLab(t)
	c := l.config()
	args := []string{l.URL, c.Dir}
	var s *Session
	for round := range 4 {
		p := spawn(t, args...)
		id := p.line("id")
		if round == 0 {
			args = append(args, id)
		}
		for range 50 + 300*round {
			p.line("acknowledged")
		}
		last := p.kill()
		sid, err := record.ParseSessionID(id)
		if err != nil {
			t.Fatal(err)
		}
		if s, err = Resume(t.Context(), c, sid); err != nil {
			t.Fatal(err)
		}
		var acknowledged uint64
		fmt.Sscan(last, &acknowledged)
		if n := s.Count(); n < acknowledged+1 || n > acknowledged+2 && last != "" {
			t.Errorf("round %d: %d actions, %d acknowledged", round, n, acknowledged+1)
		}
		if round < 3 {
			s.Close()
		}
	}
	defer s.Close()
	n := s.Count()
	r := l.finish(s, good)
	if got := r.Entry.Statement().Session.Actions.Size; got != n {
		t.Errorf("%d actions in the final, of %d", got, n)
	}
	if _, err := Disclose(bytes.NewReader(ownersFile(t, s)), func(*record.Action) bool { return false }); err != nil {
		t.Error(err)
	}
}

// TestKillInFinish kills a recorder while its final is on its way: before and after the log has taken it.
func TestKillInFinish(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprintf("taken=%v", taken), func(t *testing.T) {
			l := newLab(t)
			c := l.config()
			p := spawn(t, l.URL, c.Dir)
			id, err := record.ParseSessionID(p.line("id"))
			if err != nil {
				t.Fatal(err)
			}
			p.line("acknowledged")
			submitted := make(chan struct{}, 64)
			stop := func(e *record.Entry) bool {
				if e.Statement().Session != nil {
					submitted <- struct{}{}
					return true
				}
				return false
			}
			l.Mu.Lock()
			if taken {
				l.After = stop
			} else {
				l.Gate = func(_ http.ResponseWriter, _ *http.Request, e *record.Entry) bool {
					if stop(e) {
						panic(http.ErrAbortHandler)
					}
					return false
				}
			}
			l.Mu.Unlock()
			fmt.Fprintln(p.in, "finish")
			select {
			case <-submitted:
			case <-time.After(20 * time.Second):
				t.Fatal("the final was not submitted")
			}
			p.kill()
			l.Mu.Lock()
			l.After, l.Gate = nil, nil
			l.Covered()
			l.Mu.Unlock()
			if got := l.ends() > 0; got != taken {
				t.Fatalf("the log has the final: %v", got)
			}
			s, err := Resume(t.Context(), c, id)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Action(action(0)); !errors.Is(err, ErrEnded) {
				t.Errorf("an action after the final was made: %v", err)
			}
			r := l.finish(s, FinishOptions{})
			var finals int
			for _, e := range l.Adds {
				if e.Statement().Session != nil {
					if finals++; !bytes.Equal(e.Bytes(), r.Entry.Bytes()) {
						t.Error("two finals were submitted")
					}
				}
			}
			if l.ends() != 1 || finals < 2 {
				t.Errorf("%d ends in the log, %d submissions", l.ends(), finals)
			}
		})
	}
}
