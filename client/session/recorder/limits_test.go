package recorder

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/client/session/otlp"
	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	"github.com/affidavit-log/affidavit/log/record"
)

// A thousand sessions at once, while the log is down at first.
func TestThousandSessions(t *testing.T) {
	const n = 1000
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	c.Linger, c.Idle = time.Hour, time.Hour
	l.Down = true
	r := l.open(c)
	defer r.Close()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			m := &otlp.Mapper{Hasher: r.Hasher()}
			for _, p := range split(spans(t, i)) {
				send(t, r, m, p)
			}
		})
	}
	wg.Wait()
	if got := r.Counts(); got["sessions_starting"] != n || got["actions"] != 9*n {
		t.Fatalf("%v", got)
	}
	if all := r.List(1000, false); len(all) != n {
		t.Errorf("%d sessions are listed", len(all))
	}
	if other := r.List(1001, false); len(other) != 0 {
		t.Errorf("another user sees %d sessions", len(other))
	}
	l.Mu.Lock()
	l.Down = false
	l.Mu.Unlock()
	// Starting a thousand sessions takes a log a while; a few show that what waited arrives.
	sessiontest.Until(t, "sessions start", func() bool { return r.Counts()["sessions_started"] >= 20 })
	for _, s := range r.List(1000, false) {
		if s.State == Recording && s.Actions != 9 {
			t.Errorf("session %s has %d actions, want 9", s.ID, s.Actions)
		}
	}
}

func TestMaxSessions(t *testing.T) {
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	c.MaxSessions = 2
	r := l.open(c)
	defer r.Close()
	take := func(conversation string) error {
		e := event(r.Hasher(), 1)
		e.Conversation = conversation
		_, err := r.Take(1000, []activity.Event{e}, nil)
		return err
	}
	if err := errors.Join(take("a"), take("b"), take("a")); err != nil {
		t.Fatal(err)
	}
	if err := take("c"); !errors.Is(err, ErrBusy) {
		t.Errorf("a session too many: %v", err)
	}
	if n := r.Counts()["refused"]; n != 1 {
		t.Errorf("%d events refused, want 1", n)
	}
}

// Two users, or two agents, with the same name for their conversation have two sessions, and
// can't reach each other's.
func TestOwners(t *testing.T) {
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	r := l.open(c)
	defer r.Close()
	for i, o := range []owner{{1000, "a", "x"}, {1001, "a", "x"}, {1000, "b", "x"}, {1000, "a", "x"}} {
		e := event(r.Hasher(), i)
		e.Agent, e.Conversation = o.agent, o.conversation
		if _, err := r.Take(o.uid, []activity.Event{e}, nil); err != nil {
			t.Fatal(err)
		}
	}
	mine, other := r.List(1000, false), r.List(1001, false)
	if len(mine) != 2 || len(other) != 1 {
		t.Fatalf("%d and %d sessions, want 2 and 1", len(mine), len(other))
	}
	if _, err := r.Status(1000, false, other[0].ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("another user's session: %v", err)
	}
	if _, err := r.Add(1000, other[0].ID, []activity.Event{event(r.Hasher(), 9)}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another user's session took an action: %v", err)
	}
	if _, err := r.Finish(1000, false, other[0].ID, "", ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("another user's session was finished: %v", err)
	}
	if _, err := r.Status(1000, true, other[0].ID); err != nil {
		t.Errorf("an administrator: %v", err)
	}
}

// What is reported after the end is late; a conversation that goes on later has another session.
func TestLateAndAgain(t *testing.T) {
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	r := l.open(c)
	m := &otlp.Mapper{Hasher: r.Hasher()}
	parts := split(spans(t, 1))
	late, root := parts[0], parts[len(parts)-1]
	for _, p := range parts[1:] {
		send(t, r, m, p)
	}
	sessiontest.Until(t, "the session finishes", func() bool { return r.Counts()["sessions_finished"] == 1 })
	if n := send(t, r, m, late); n != 1 {
		t.Errorf("%d late spans rejected, want 1", n)
	}
	if n := r.Counts()["late"]; n != 1 {
		t.Errorf("%d late spans counted, want 1", n)
	}
	s := root.ResourceSpans[0].ScopeSpans[0].Spans[0]
	s.TraceId[15]++
	s.StartTimeUnixNano += uint64(time.Hour)
	s.EndTimeUnixNano += uint64(time.Hour)
	if n := send(t, r, m, root); n != 0 {
		t.Errorf("%d spans of the next turn rejected", n)
	}
	sessiontest.Until(t, "the next session finishes", func() bool { return r.Counts()["sessions_finished"] == 2 })
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n := len(l.results(c.Out)); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
}

// An agent below a web server's span ends the session once that span has come; a
// sub-agent doesn't, whatever comes first; and an idle session ends by itself.
func TestNestedAgents(t *testing.T) {
	id := func(n byte) (s [8]byte) { s[7] = n; return s }
	agent := func(span, parent byte) activity.Event {
		e := activity.Event{
			Source: activity.SourceSpan, Agent: "otel", Conversation: "c", Trace: [16]byte{1}, Span: id(span), Key: activity.Key{span},
			Operation: activity.OpInvokeAgent, Outcome: activity.Executed, EndReason: activity.Completed,
		}
		if parent != 0 {
			e.Parent = id(parent)
		}
		return e
	}
	tool := agent(3, 2)
	tool.Operation, tool.EndReason = activity.OpExecuteTool, ""
	edge := func(span, parent byte) activity.Edge {
		e := activity.Edge{Trace: [16]byte{1}, Span: id(span)}
		if parent != 0 {
			e.Parent = id(parent)
		}
		return e
	}
	for name, tt := range map[string]struct {
		steps []any
		ends  bool
	}{
		"below a web server, which comes last":          {[]any{agent(2, 1), edge(1, 0)}, true},
		"below a web server, which comes first":         {[]any{edge(1, 0), agent(2, 1)}, true},
		"below two, the upper one last":                 {[]any{agent(2, 9), edge(9, 1), edge(1, 0)}, true},
		"below two, the upper one first":                {[]any{edge(1, 0), agent(2, 9), edge(9, 1)}, true},
		"sub-agent of a tool, which comes last":         {[]any{agent(4, 3), tool}, false},
		"sub-agent of a tool, with spans between":       {[]any{agent(4, 9), edge(9, 3), tool, edge(1, 0)}, false},
		"sub-agent of a tool, which comes first":        {[]any{tool, agent(4, 3)}, false},
		"the parent is never heard of":                  {[]any{agent(4, 3)}, false},
		"spans that say that they are above each other": {[]any{edge(8, 9), edge(9, 8), agent(4, 8)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			c := l.config(sessiontest.Memory(t))
			c.Linger = time.Millisecond
			r := l.open(c)
			defer r.Close()
			for _, step := range tt.steps {
				var err error
				switch x := step.(type) {
				case activity.Event:
					_, err = r.Take(1, []activity.Event{x}, nil)
				case activity.Edge:
					_, err = r.Take(1, nil, []activity.Edge{x})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			r.mu.Lock()
			var closing string
			for _, tr := range r.tracks {
				tr.mu.Lock()
				closing = tr.m.Closing
				tr.mu.Unlock()
			}
			n := len(r.tracks)
			r.mu.Unlock()
			if n != 1 || (closing != "") != tt.ends {
				t.Errorf("%d sessions, closing %q; want it to end: %v", n, closing, tt.ends)
			}
		})
	}
}

func TestIdle(t *testing.T) {
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	c.Idle = 50 * time.Millisecond
	r := l.open(c)
	for i, kind := range []activity.Kind{activity.Action, activity.TurnEnd} {
		e := event(r.Hasher(), i)
		e.Kind, e.Conversation = kind, fmt.Sprint(i)
		if _, err := r.Take(1, []activity.Event{e}, nil); err != nil {
			t.Fatal(err)
		}
	}
	sessiontest.Until(t, "sessions finish", func() bool { return r.Counts()["sessions_finished"] == 2 })
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	reasons := make(map[string]int)
	for _, o := range l.results(c.Out) {
		reasons[o.session.EndReason]++
	}
	if reasons[record.EndTimeout] != 1 || reasons[record.EndCompleted] != 1 {
		t.Errorf("ends %v, want one timeout, and one completed after the agent's last turn", reasons)
	}
	if left, _ := filepath.Glob(filepath.Join(c.Out, "*.new")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A tool call that a hook and telemetry report is one action; two calls with one id that
// one source reports are two.
func TestCallsOfTwoSources(t *testing.T) {
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	r := l.open(c)
	defer r.Close()
	for i, source := range []string{activity.SourceHook, activity.SourceLog, activity.SourceHook} {
		e := event(r.Hasher(), i)
		e.Source, e.Conversation, e.CallID = source, "c", "toolu_01"
		e.Attributes["gen_ai.tool.call.id"] = e.CallID
		if _, err := r.Take(1, []activity.Event{e}, nil); err != nil {
			t.Fatal(err)
		}
		sessiontest.Until(t, "the session starts", func() bool { return r.List(1, false)[0].State == Recording })
	}
	if s := r.List(1, false)[0]; s.Actions != 2 {
		t.Errorf("%d actions, want 2", s.Actions)
	}
}
