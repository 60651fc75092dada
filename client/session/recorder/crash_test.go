package recorder

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/log/record"
)

// childEnv has what a child process is to do: URL, directory and first event.
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
		Attributes: map[string]any{"test.number": int64(i), "gen_ai.tool.name": "shell"}, Arguments: []byte("ls"),
	}
}

// child records until it is killed, and says what was acknowledged.
func child(args []string) {
	l := &lab{World: bundletest.NewWorld(childTB{}, bundletest.LogOptions{Witnesses: 3, Threshold: 2}), t: childTB{}, url: args[0]}
	c := l.config(args[1])
	c.Linger, c.Idle = time.Hour, time.Hour
	r := l.open(c)
	first, _ := strconv.Atoi(args[2])
	for i := first; ; i++ {
		if _, err := r.Take(1000, []activity.Event{event(r.Hasher(), i)}, nil); err != nil {
			childTB{}.Fatal(err)
		}
		fmt.Println(i)
	}
}

// A recorder that is killed at any time, again and again, before sessions have started and
// after, loses no action that it has acknowledged, and records none twice.
func TestKill(t *testing.T) {
	l := newLab(t)
	dir := memory(t)
	acknowledged := -1
	for _, after := range []int{0, 3, 40, 900, 2500} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+strings.Join([]string{l.url, dir, strconv.Itoa(acknowledged + 1)}, " "))
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
	until(t, "sessions finish", func() bool { return r.Counts()["sessions_finished"] == conversations })
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
