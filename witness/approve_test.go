package witness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// approver is a Config.Approve that a test controls.
type approver struct {
	mu    sync.Mutex // guards err and asked
	err   error
	asked []uint64
	wait  chan struct{} // if not nil, approval waits for it
}

func (a *approver) approve(ctx context.Context, c checkpoint.Checkpoint, n *checkpoint.Note) error {
	a.mu.Lock()
	a.asked = append(a.asked, c.Size)
	err, wait := a.err, a.wait
	a.mu.Unlock()
	if len(n.Signatures) == 0 {
		return errors.New("no signatures")
	}
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (a *approver) set(err error, wait chan struct{}) {
	a.mu.Lock()
	a.err, a.wait = err, wait
	a.mu.Unlock()
}

func (a *approver) sizes() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprint(a.asked)
}

// What isn't approved isn't cosigned, and doesn't change the state; approval is asked for only after all else is right.
func TestApprove(t *testing.T) {
	l := newTestLog(t, "log.example/2026", 20)
	cfg := testConfig(t, l)
	a := &approver{}
	cfg.Approve = a.approve
	cfg.Statement = "Its cosignatures state <more>."
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 5)

	a.set(&DeferError{Reason: "entry 6 isn't verified yet", RetryAfter: 1500 * time.Millisecond}, nil)
	ans := w.add(l.request(5, 8))
	ans.check(t, "deferred", 503, "entry 6 isn't verified yet")
	if ra := ans.header.Get("Retry-After"); ra != "2" {
		t.Errorf("Retry-After %q", ra)
	}
	a.set(fmt.Errorf("wrapped: %w", &DeferError{Reason: "later"}), nil)
	if ans = w.add(l.request(5, 8)); ans.status != 503 || ans.header.Get("Retry-After") != "1" {
		t.Errorf("deferred without a time: %d, Retry-After %q", ans.status, ans.header.Get("Retry-After"))
	}
	a.set(errors.New("a secret of the operator"), nil)
	if ans = w.add(l.request(5, 8)); ans.status != 500 || strings.Contains(ans.body, "secret") {
		t.Errorf("internal error: %d %q", ans.status, ans.body)
	}
	if got := a.sizes(); got != "[5 8 8 8]" {
		t.Errorf("asked about %v", got)
	}
	// None of this was cosigned.
	w.add(l.request(8, 9)).check(t, "state", 409, "5\n")
	// What is refused anyway isn't asked about.
	w.add(requestBody(5, nil, l.note(8))).check(t, "no proof", 422, "")
	w.add(l.request(4, 8)).check(t, "old size", 409, "5\n")
	if got := a.sizes(); got != "[5 8 8 8]" {
		t.Errorf("asked about %v", got)
	}
	a.set(nil, nil)
	w.mustAdd(l, 5, 8)
	if p := httpGet(t, w.Handler(), "/"); !strings.Contains(p, "Its cosignatures state &lt;more&gt;.") {
		t.Error("the page doesn't have the statement")
	}
}

// Approval takes its time without holding up other requests, and what was cosigned meanwhile isn't rolled back.
func TestApproveSlow(t *testing.T) {
	l := newTestLog(t, "log.example/2026", 20)
	cfg := testConfig(t, l)
	a := &approver{}
	cfg.Approve = a.approve
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 5)

	wait := make(chan struct{})
	a.set(nil, wait)
	slow := make(chan answer)
	go func() { slow <- w.add(l.request(5, 8)) }()
	for a.sizes() != "[5 8]" {
		time.Sleep(time.Millisecond)
	}
	a.set(nil, nil)
	w.mustAdd(l, 5, 12) // would wait for ever behind the first
	close(wait)
	(<-slow).check(t, "the slow one", 409, "12\n")
	w.add(l.request(12, 12)).check(t, "state", 200, "")
}

// A fork that only the approver knows of is kept as one that the witness finds itself.
func TestApproveFork(t *testing.T) {
	l := newTestLog(t, "log.example/2026", 20)
	cfg := testConfig(t, l)
	a := &approver{}
	cfg.Approve = a.approve
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 5)
	fork := l.fork(5).grow(5, "fork")
	a.set(&ForkError{Reason: "the log published another tree", Evidence: []byte("It published:\n\n" + string(l.note(10)))}, nil)
	for range 2 {
		w.add(fork.request(5, 10)).check(t, "fork", 422, "the log published another tree")
	}
	hash := originHash(l.origin)
	e := httpGet(t, w.Handler(), "/"+hash+"/evidence")
	for _, want := range []string{string(l.note(10)), string(fork.request(5, 10)), "forked"} {
		if strings.Count(e, want) != 1 {
			t.Errorf("evidence has %q %d times:\n%s", want, strings.Count(e, want), e)
		}
	}
	if m := httpGet(t, w.MetricsHandler(), "/metrics"); !strings.Contains(m, `affidavit_witness_log_forks_total{origin="log.example/2026"} 1`) {
		t.Error("no metric of the fork")
	}
	a.set(nil, nil)
	w.mustAdd(l, 5, 10)
}
