package recorder

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	"github.com/affidavit-log/affidavit/log/record"
)

// childEnv has what a child process is to do: URL, directory, and first event, or "before" or "after" to die when it
// tells the session of its models.
const childEnv = "AFFIDAVIT_RECORDER_TEST_CHILD"

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

const conversations = 3

func event(h *activity.Hasher, i int) activity.Event {
	return activity.Event{
		Source: activity.SourceLog, Agent: "test", Conversation: fmt.Sprint("conversation ", i%conversations), Key: h.Key([]byte("event"), []byte(strconv.Itoa(i))),
		Operation: activity.OpExecuteTool, Outcome: activity.Executed,
		Attributes: map[string]any{"test.number": int64(i), "gen_ai.tool.name": "shell"}, Arguments: bytes.Repeat([]byte("ls "), 2000),
	}
}

// child records until it is killed, and says what was acknowledged.
func child(args []string) {
	l := &lab{sessiontest.At(childTB{}, args[0]), childTB{}}
	c := l.config(args[1])
	c.Linger, c.Idle = time.Hour, time.Hour
	if when := args[2]; when == "before" || when == "after" {
		c.setModels = func(s *session.Session, models []record.Model) (err error) {
			if when == "after" {
				err = s.SetModels(models)
			}
			fmt.Println(err)
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
		chats(childTB{}, l.open(c), 3)
		select {}
	}
	r := l.open(c)
	first, _ := strconv.Atoi(args[2])
	for i := first; ; i++ {
		if _, err := r.Take(1000, []activity.Event{event(r.Hasher(), i)}, nil); err != nil {
			childTB{}.Fatal(err)
		}
		fmt.Println(i)
	}
}

// chats opens a session that calls a model n times, and ends it.
func chats(t testing.TB, r *Recorder, n int) {
	t.Helper()
	s, err := r.Begin(1000, Request{Agent: "test", Conversation: "chats"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		chat(t, r, s.ID, i)
	}
	if _, err := r.Finish(1000, false, s.ID, record.EndCompleted, ""); err != nil {
		t.Fatal(err)
	}
}

// chat reports a call of a model.
func chat(t testing.TB, r *Recorder, id string, i int) {
	t.Helper()
	e := event(r.Hasher(), i)
	e.Operation, e.Attributes = activity.OpChat, map[string]any{"gen_ai.provider.name": "agent's name for it", "gen_ai.request.model": "qwen3"}
	if _, err := r.Add(1000, id, []activity.Event{e}); err != nil {
		t.Fatal(err)
	}
}

// A recorder that dies just before or just after its session is told of the models that it used, or that is told that
// the write failed, whether it did or not, has each call counted once.
func TestModelsCountedOnce(t *testing.T) {
	check := func(t *testing.T, l *lab, c Config, r *Recorder) {
		t.Helper()
		sessiontest.Until(t, "the session finishes", func() bool { return r.Counts()["sessions_finished"] == 1 })
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		for _, o := range l.results(c.Out) {
			if len(o.session.Models) != 1 || o.session.Models[0].Calls != 3 || len(o.actions) != 3 {
				t.Errorf("%d actions, models %+v", len(o.actions), o.session.Models)
			}
		}
	}
	for _, when := range []string{"before", "after"} {
		t.Run("killed "+when, func(t *testing.T) {
			l, dir := newLab(t), sessiontest.Memory(t)
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{l.URL, dir, when}, " "))
			cmd.Stderr = os.Stderr
			if out, err := cmd.Output(); err == nil || !strings.Contains(err.Error(), "killed") || string(out) != "<nil>\n" {
				t.Fatalf("the child wasn't killed, but said %q: %v", out, err)
			}
			c := l.config(dir)
			check(t, l, c, l.open(c))
		})
	}
	for name, happened := range map[string]bool{"failed": false, "said to have failed": true} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.config(sessiontest.Memory(t))
			told := 0
			c.setModels = func(s *session.Session, models []record.Model) error {
				if told++; told > 1 {
					return s.SetModels(models)
				}
				if happened {
					if err := s.SetModels(models); err != nil {
						t.Error(err)
					}
				}
				return errors.New("no space left")
			}
			r := l.open(c)
			chats(t, r, 3)
			check(t, l, c, r)
			if told != 2 {
				t.Errorf("the session was told %d times", told)
			}
		})
	}
}

// A recorder that dies when a session is finished, at any step of removing what it had of it, isn't kept busy by the rest,
// and leaves nothing of it.
func TestKilledWhileRemoving(t *testing.T) {
	for name, remove := range map[string]func(t *testing.T, journal string){
		"before the key is gone": func(t *testing.T, journal string) {
			if err := os.Rename(journal, journal+".gone"); err != nil {
				t.Fatal(err)
			}
		},
		"after the journal is gone": func(t *testing.T, journal string) {
			if err := os.RemoveAll(filepath.Dir(journal)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.config(sessiontest.Memory(t))
			r := l.open(c)
			s, err := r.Begin(1000, Request{Agent: "test", Conversation: "removed"})
			if err != nil {
				t.Fatal(err)
			}
			sessiontest.Until(t, "the session starts", func() bool { return r.Counts()["sessions_recording"] == 1 })
			l.Mu.Lock()
			l.Down = true // so that it isn't finished
			l.Mu.Unlock()
			if _, err := r.Finish(1000, false, s.ID, record.EndCompleted, ""); err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			journals, _ := filepath.Glob(filepath.Join(c.Dir, "journals", "*", "journal"))
			if len(journals) != 1 {
				t.Fatalf("journals: %v", journals)
			}
			remove(t, journals[0])
			r = l.open(c)
			defer r.Close()
			sessiontest.Until(t, "nothing is left", func() bool {
				left, _ := filepath.Glob(filepath.Join(c.Dir, "[tj]*", "*")) // tracks and journals
				return len(left) == 0 && len(r.List(1000, false)) == 0
			})
		})
	}
}

// What was in a spool when the process died in the middle of a write, wherever that was cut off, is there; and so is what
// the next process takes before the session has started.
func TestCutOffSpool(t *testing.T) {
	l := newLab(t)
	r := &Recorder{hasher: activity.NewHasher(make([]byte, 32))}
	frame, err := appendFrame(nil, []activity.Event{event(r.hasher, 2)})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 7, 8, 9, len(frame) / 2, len(frame) - 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			c := l.config(sessiontest.Memory(t))
			down := func(d bool) { l.Mu.Lock(); l.Down = d; l.Mu.Unlock() }
			take := func(r *Recorder, i int) {
				t.Helper()
				e := event(r.Hasher(), i)
				e.Conversation = "cut off"
				if _, err := r.Take(1000, []activity.Event{e}, nil); err != nil {
					t.Fatal(err)
				}
			}
			down(true)
			r := l.open(c)
			take(r, 0)
			take(r, 1)
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			spools, _ := filepath.Glob(filepath.Join(c.Dir, "tracks", "*", "spool"))
			if len(spools) != 1 {
				t.Fatalf("spools: %v", spools)
			}
			f, err := os.OpenFile(spools[0], os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.Write(frame[:n])
			}
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			r = l.open(c)
			take(r, 3)
			take(r, 4)
			down(false)
			for _, s := range r.List(1000, false) {
				if _, err := r.Finish(1000, false, s.ID, record.EndCompleted, ""); err != nil {
					t.Fatal(err)
				}
			}
			sessiontest.Until(t, "the session finishes", func() bool { return r.Counts()["sessions_finished"] == 1 })
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			var got []int64
			for _, o := range l.results(c.Out) {
				for _, a := range o.actions {
					got = append(got, a.Attributes["test.number"].(int64))
				}
			}
			if want := []int64{0, 1, 3, 4}; !slices.Equal(got, want) {
				t.Errorf("actions %v, want %v", got, want)
			}
		})
	}
}

// A spool with a frame that is whole and wrong, which no kill leaves behind, is no reason to forget what follows.
func TestWrongSpool(t *testing.T) {
	good, err := appendFrame(nil, []activity.Event{event(activity.NewHasher(make([]byte, 32)), 1)})
	if err != nil {
		t.Fatal(err)
	}
	if events, rest, err := readFrame(append(bytes.Clone(good), 1)); err != nil || len(events) != 1 || len(rest) != 1 {
		t.Fatal(events, rest, err)
	}
	for i := 4; i < len(good); i++ {
		b := bytes.Clone(good)
		b[i] ^= 1
		if _, _, err := readFrame(b); err == nil || errors.Is(err, errCutOff) {
			t.Fatalf("byte %d is wrong: %v", i, err)
		}
	}
	track := &track{dir: t.TempDir()}
	good[len(good)-1] ^= 1
	if err := os.WriteFile(filepath.Join(track.dir, "spool"), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := track.openSpool(); err == nil {
		t.Error("it was opened")
	}
	if err := track.flush(); err == nil {
		t.Error("it was flushed")
	}
}

// A recorder that is killed at any time, again and again, before sessions have started and
// after, loses no action that it has acknowledged, and records none twice.
func TestKill(t *testing.T) {
	l := newLab(t)
	dir := sessiontest.Memory(t)
	acknowledged := -1
	for round, after := range []int{0, 3, 40, 300, 300, 900, 2500} {
		l.Mu.Lock()
		l.Down = round == 3 || round == 4 // sessions don't start, and all waits in spools
		l.Mu.Unlock()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{l.URL, dir, strconv.Itoa(acknowledged + 1)}, " "))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if acknowledged, err = strconv.Atoi(lines.Text()); err != nil {
				t.Fatal(err)
			}
			if n == after {
				cmd.Process.Kill() // what it says until it is dead counts
			}
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("the child wasn't killed: %v", err)
		}
	}
	c := l.config(dir)
	r := l.open(c)
	// What was sent last and not acknowledged is sent again, and so is some of what was.
	for i := max(0, acknowledged-50); i <= acknowledged+1; i++ {
		if _, err := r.Take(1000, []activity.Event{event(r.Hasher(), i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range r.List(1000, false) {
		if _, err := r.Finish(1000, false, s.ID, record.EndCompleted, ""); err != nil {
			t.Fatal(err)
		}
	}
	sessiontest.Until(t, "sessions finish", func() bool { return r.Counts()["sessions_finished"] == conversations })
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	seen := make(map[int64]int)
	results := l.results(c.Out)
	if len(results) != conversations {
		t.Errorf("%d sessions, want %d", len(results), conversations)
	}
	for _, o := range results {
		for _, a := range o.actions {
			seen[a.Attributes["test.number"].(int64)]++
		}
	}
	for i := range acknowledged + 2 {
		if seen[int64(i)] != 1 {
			t.Errorf("action %d is there %d times", i, seen[int64(i)])
		}
	}
	if len(seen) != acknowledged+2 {
		t.Errorf("%d actions, want %d", len(seen), acknowledged+2)
	}
}
