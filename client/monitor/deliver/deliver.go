// Package deliver gets a monitor's findings to those who act on them: files, webhooks and programs. README.md is for
// operators and receivers.
//
// The queue is the monitor's own database: findings are there, numbered, before anybody hears of them, and each receiver
// has a cursor beside them, which moves on once the receiver has acknowledged. So nothing is lost over restarts and
// outages, and nothing is kept twice. What a crash does between an acknowledgement and the cursor is a finding delivered
// again: its id says so.
package deliver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/printable"
)

const (
	// pageSize is how many findings are read at once. With evidence one can take half a megabyte.
	pageSize = 16

	// firstBackoff doubles with each failure up to maxBackoff: an outage of a day costs a receiver that comes back at
	// most ten minutes, and one that is down a few hundred requests.
	firstBackoff = time.Second
	maxBackoff   = 10 * time.Minute

	// maxRetryAfter bounds for how long a receiver can ask to be left alone.
	maxRetryAfter = time.Hour

	// grace is how long an attempt that is under way may go on when the monitor stops: most then end, and the finding
	// isn't delivered twice.
	grace = 5 * time.Second
)

// A Source has findings and keeps cursors; a [monitor.Monitor] is one. Its methods can be called concurrently.
type Source interface {
	// Findings returns up to limit findings whose Seq is greater than after, in order.
	Findings(after uint64, limit int) ([]*monitor.Finding, error)

	// Wait returns nil once there is a finding whose Seq is greater than after, or the error of ctx.
	Wait(ctx context.Context, after uint64) error

	// Cursor returns what SetCursor was last told under a name, 0 if it wasn't.
	Cursor(name string) (uint64, error)

	// SetCursor keeps a number under a name. It is durable when it returns.
	SetCursor(name string, seq uint64) error
}

// A Receiver takes findings, one at a time.
type Receiver interface {
	// Send delivers a finding, and returns nil once the receiver has it for good. It ends soon after ctx does. Any error
	// means that the finding is sent again later; a [*RetryError] says when.
	Send(ctx context.Context, f *monitor.Finding) error
}

// A RetryError is an error of a receiver that has said when it can be tried again.
type RetryError struct {
	After time.Duration
	Err   error
}

func (e *RetryError) Error() string { return e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// A Filter says which findings a receiver wants. The zero Filter wants all.
type Filter struct {
	Classes []monitor.Class  // any of these; all if empty
	Least   monitor.Severity // this or a worse one; all if empty
}

// Classes and Severities are the words that there are; the worst severity is first.
var (
	Classes    = []monitor.Class{monitor.ClassTamper, monitor.ClassInvalid, monitor.ClassIdentity, monitor.ClassOperational}
	Severities = []monitor.Severity{monitor.SeverityCritical, monitor.SeverityHigh, monitor.SeverityMedium, monitor.SeverityLow, monitor.SeverityInfo}
)

// Match reports whether f wants a finding. A severity that it doesn't know counts as the worst.
func (f Filter) Match(x *monitor.Finding) bool {
	return (len(f.Classes) == 0 || slices.Contains(f.Classes, x.Class)) &&
		(f.Least == "" || slices.Index(Severities, x.Severity) <= slices.Index(Severities, f.Least))
}

// check refuses words that nothing would ever match.
func (f Filter) check() error {
	for _, c := range f.Classes {
		if !slices.Contains(Classes, c) {
			return fmt.Errorf("class %q is none of %v", c, Classes)
		}
	}
	if f.Least != "" && !slices.Contains(Severities, f.Least) {
		return fmt.Errorf("severity %q is none of %v", f.Least, Severities)
	}
	return nil
}

// A Route is a receiver, what it wants, and the name under which its cursor is kept.
type Route struct {
	// Name has lowercase letters, digits and hyphens. A receiver under a new name gets all findings, from the first.
	Name     string
	Filter   Filter
	Receiver Receiver
}

// names bounds the label values of metrics, and what becomes a key in a database.
var names = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// A Status is how a route is doing.
type Status struct {
	Name string `json:"name"`

	// Cursor is the Seq of the last finding that was delivered, or that the receiver doesn't want; Queue is how many
	// findings come after it, wanted or not, as of Status's argument.
	Cursor uint64 `json:"cursor"`
	Queue  uint64 `json:"queue"`

	// Delivered and Failed count since the start of the process.
	Delivered uint64 `json:"delivered"`
	Failed    uint64 `json:"failed"`

	// LastError is empty if the last attempt succeeded.
	LastError   string    `json:"last_error,omitempty"`
	LastAttempt time.Time `json:"last_attempt,omitzero"`
	NextAttempt time.Time `json:"next_attempt,omitzero"` // set while waiting after an error
}

// A Set delivers findings to several receivers, each at its own pace: one that is down holds up no other.
type Set struct {
	source Source
	logger *slog.Logger
	routes []*route
}

type route struct {
	Route
	noted uint64 // the durable cursor; owned by the goroutine that delivers

	mu     sync.Mutex // guards status, and is held for no call
	status Status
}

// New returns a set. It reads the cursors, and sends nothing before [Set.Run] or [Set.Drain].
func New(source Source, logger *slog.Logger, routes ...Route) (*Set, error) {
	s := &Set{source: source, logger: logger}
	seen := make(map[string]bool)
	for _, r := range routes {
		switch {
		case !names.MatchString(r.Name):
			return nil, fmt.Errorf("receiver %q: a name has up to 40 lowercase letters, digits and hyphens", r.Name)
		case seen[r.Name]:
			return nil, fmt.Errorf("receiver %q: two of one name; give one of them another", r.Name)
		}
		if err := r.Filter.check(); err != nil {
			return nil, fmt.Errorf("receiver %q: %w", r.Name, err)
		}
		seen[r.Name] = true
		cursor, err := source.Cursor(r.Name)
		if err != nil {
			return nil, fmt.Errorf("receiver %q: %w", r.Name, err)
		}
		s.routes = append(s.routes, &route{Route: r, noted: cursor, status: Status{Name: r.Name, Cursor: cursor}})
	}
	return s, nil
}

// Run delivers what there is and what comes, until ctx is done. It must not run twice at once.
func (s *Set) Run(ctx context.Context) { s.all(ctx, false) }

// Drain delivers what there is. It returns nil once every receiver has it, and an error that names those that don't when
// ctx is done. Like with Run, what isn't delivered stays in the queue.
func (s *Set) Drain(ctx context.Context) error {
	s.all(ctx, true)
	var late []string
	for _, r := range s.routes {
		left, err := s.source.Findings(r.at(), 1)
		if err != nil {
			return err
		}
		if len(left) > 0 {
			r.mu.Lock()
			late = append(late, fmt.Sprintf("%s (%s)", r.Name, r.status.LastError))
			r.mu.Unlock()
		}
	}
	if len(late) > 0 {
		return fmt.Errorf("findings stay queued for %s", strings.Join(late, ", "))
	}
	return nil
}

func (s *Set) all(ctx context.Context, drain bool) {
	var wg sync.WaitGroup
	for _, r := range s.routes {
		wg.Go(func() { s.run(ctx, r, drain) })
	}
	wg.Wait()
}

// Status returns how each route is doing, in the order of New. Newest is the Seq of the newest finding.
func (s *Set) Status(newest uint64) []Status {
	all := make([]Status, len(s.routes))
	for i, r := range s.routes {
		r.mu.Lock()
		all[i] = r.status
		r.mu.Unlock()
		if newest > all[i].Cursor {
			all[i].Queue = newest - all[i].Cursor
		}
	}
	return all
}

// at returns r's cursor.
func (r *route) at() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.Cursor
}

// run delivers to one receiver until ctx is done, or, to drain, until there is nothing left.
func (s *Set) run(ctx context.Context, r *route, drain bool) {
	backoff := firstBackoff
	for ctx.Err() == nil {
		page, err := s.source.Findings(r.at(), pageSize)
		if err == nil && len(page) == 0 {
			if drain {
				return
			}
			err = s.source.Wait(ctx, r.at())
		}
		if err != nil && ctx.Err() == nil {
			s.logger.Error("findings can't be read", "receiver", r.Name, "err", err)
			sleep(ctx, backoff)
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		backoff = firstBackoff
		for _, f := range page {
			if r.Filter.Match(f) && !s.send(ctx, r, f) {
				return // what isn't delivered is still there next time
			}
			r.mu.Lock()
			r.status.Cursor = f.Seq
			r.mu.Unlock()
		}
		// One write for a page: after a crash, at most a page is delivered again.
		s.note(r)
	}
}

// note makes r's cursor durable, if it has moved.
func (s *Set) note(r *route) {
	at := r.at()
	if at == r.noted {
		return
	}
	if err := s.source.SetCursor(r.Name, at); err != nil {
		s.logger.Error("what was delivered can't be noted, and will be delivered again after a restart", "receiver", r.Name, "err", err)
		return
	}
	r.noted = at
}

// send delivers a finding, however long it takes. It returns false if ctx is done first.
func (s *Set) send(ctx context.Context, r *route, f *monitor.Finding) bool {
	backoff := firstBackoff
	for {
		err := attempt(ctx, r.Receiver, f)
		now := time.Now()
		r.mu.Lock()
		r.status.LastAttempt, r.status.LastError, r.status.NextAttempt = now, "", time.Time{}
		if err == nil {
			r.status.Delivered++
			r.mu.Unlock()
			return true
		}
		// Half of the pause is random, so that receivers that a restart has cut off aren't all tried at once.
		pause := backoff/2 + rand.N(backoff/2+1)
		if retry := new(RetryError); errors.As(err, &retry) {
			pause = max(pause, min(retry.After, maxRetryAfter))
		}
		r.status.Failed++
		r.status.LastError = printable.Excerpt(err.Error(), maxQuoted)
		r.status.NextAttempt = now.Add(pause)
		r.mu.Unlock()
		s.note(r) // what was delivered before: this can take long
		if ctx.Err() != nil {
			return false
		}
		s.logger.Warn("a finding isn't delivered yet", "receiver", r.Name, "seq", f.Seq, "id", f.ID, "again in", pause.Round(time.Second), "err", printable.Excerpt(err.Error(), maxQuoted))
		if !sleep(ctx, pause) {
			return false
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// attempt sends once. The attempt outlives ctx by a moment.
func attempt(ctx context.Context, r Receiver, f *monitor.Finding) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	actx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		sleep(actx, grace)
		cancel()
	})
	defer stop()
	return r.Send(actx, f)
}

// sleep waits for d, and reports whether it did; it doesn't if ctx is done first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// maxQuoted is the length in bytes of the longest text of a receiver in an error.
const maxQuoted = 500
