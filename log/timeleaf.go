package sessionlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
)

// A timekeeper logs time leaves: published checkpoints with their cosignatures, which statements commit to, and which
// bound the time of what they cover. It logs one every TimeInterval while there is a record that none covers yet, or
// while somebody asks for freshness; an idle log that nobody asks logs none.
type timekeeper struct {
	l      *Log
	kicked chan struct{}

	mu     sync.Mutex // guards what follows, held briefly
	leaves []timeLeaf // the newest, oldest first, at most keepNotes
	state  timesState
	wanted time.Time // when somebody last asked for freshness
}

// keepNotes is how many of the newest time leaves are kept in memory: the newest isn't published for a moment.
const keepNotes = 4

func newTimekeeper(l *Log) (*timekeeper, error) {
	return &timekeeper{l: l, kicked: make(chan struct{}, 1)}, nil
}

// load reads the newest time leaf. The index must have caught up.
func (t *timekeeper) load(ctx context.Context) error {
	state := t.l.index.times
	var leaves []timeLeaf
	if state.any {
		raw, err := t.l.tree.leaf(ctx, state.last)
		if err != nil {
			return err
		}
		leaf, err := record.ParseLeaf(raw)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", state.last, err)
		}
		tl, ok := leaf.(*record.TimeLeaf)
		if !ok {
			return fmt.Errorf("leaf %d is not a time leaf", state.last)
		}
		parsed, err := parseTimeLeaf(state.last, tl)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", state.last, err)
		}
		leaves = append(leaves, parsed)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.state = state
	if n := len(t.leaves); len(leaves) > 0 && (n == 0 || t.leaves[n-1].index < leaves[0].index) {
		t.leaves = append(t.leaves, leaves...)
	}
	return nil
}

// logged is called by the follower for each time leaf.
func (t *timekeeper) logged(tl timeLeaf) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaves = append(t.leaves, tl)
	if len(t.leaves) > keepNotes {
		t.leaves = append([]timeLeaf(nil), t.leaves[len(t.leaves)-keepNotes:]...)
	}
}

// progress is called by the follower after each step.
func (t *timekeeper) progress(s timesState) {
	t.mu.Lock()
	t.state = s
	t.mu.Unlock()
	t.kick()
}

func (t *timekeeper) kick() {
	select {
	case t.kicked <- struct{}{}:
	default:
	}
}

// newest returns the newest time leaf that a published checkpoint covers.
func (t *timekeeper) newest() (timeLeaf, bool) {
	size := t.l.pub.size()
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.leaves) - 1; i >= 0; i-- {
		if t.leaves[i].index < size {
			return t.leaves[i], true
		}
	}
	return timeLeaf{}, false
}

// freshness returns the newest published time leaf, for the next statement to commit to. If it has lived through half of
// the time for which statements may use it, a newer one is made, and waited for, at most until ctx is done.
func (t *timekeeper) freshness(ctx context.Context) (timeLeaf, error) {
	t.mu.Lock()
	t.wanted = t.l.cfg.now()
	t.mu.Unlock()
	t.kick()
	if s := t.l.shared; s != nil {
		s.want(ctx)
	}
	old := func(tl timeLeaf, d time.Duration) bool { return t.l.cfg.now().Sub(tl.loggedAt) >= d }
	for {
		pub := t.l.pub.now.Load()
		tl, ok := t.newest()
		if ok && !old(tl, t.l.cfg.MaxFreshnessAge/2) {
			return tl, nil
		}
		next := t.l.pub.first
		if pub != nil {
			next = pub.next
		}
		select {
		case <-next:
		case <-ctx.Done():
			if ok && !old(tl, t.l.cfg.MaxFreshnessAge) {
				return tl, nil
			}
			return timeLeaf{}, fmt.Errorf("%w: no fresh checkpoint is in the log yet", ErrOverloaded)
		case <-t.l.haltedc:
			return timeLeaf{}, ErrClosed
		}
	}
}

// want is called when somebody asks for freshness elsewhere.
func (t *timekeeper) want() {
	t.mu.Lock()
	t.wanted = t.l.cfg.now()
	t.mu.Unlock()
	t.kick()
}

// due returns how long it is until a time leaf should be logged, or false if there is no reason to.
func (t *timekeeper) due() (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.state.any || len(t.leaves) == 0 {
		return 0, true // at first start immediately: without one there can be no record
	}
	uncovered := t.state.other > t.state.covered
	newest := t.leaves[len(t.leaves)-1].loggedAt
	if !uncovered && !t.wanted.After(newest) {
		return 0, false
	}
	age := t.l.cfg.now().Sub(newest)
	if age < 0 {
		age = t.l.cfg.TimeInterval // the clock went back
	}
	return max(t.l.cfg.TimeInterval-age, 0), true
}

// run logs time leaves until ctx is done.
func (t *timekeeper) run(ctx context.Context) {
	var failed time.Time // when it last failed
	for ctx.Err() == nil && t.l.Err() == nil {
		if !t.l.leading() {
			select {
			case <-ctx.Done():
			case <-t.l.haltedc:
			case <-t.kicked:
			}
			continue
		}
		wait, ok := t.due()
		wait = max(wait, t.l.cfg.retry-time.Since(failed))
		if ok && wait <= 0 {
			if err := t.log(ctx); errors.Is(err, ErrClosed) {
				return
			} else if err != nil && ctx.Err() == nil {
				t.l.logger.Warn("time leaf is delayed", "err", err)
				failed = time.Now()
			}
			continue
		}
		var timer <-chan time.Time
		if ok {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
		case <-t.l.haltedc:
		case <-timer:
		case <-t.kicked:
		}
	}
}

// log logs the newest published checkpoint, once it covers all that it should, in a time leaf.
func (t *timekeeper) log(ctx context.Context) error {
	t.mu.Lock()
	state := t.state
	t.mu.Unlock()
	// The newest time leaf must be covered too: a note is logged once.
	need := state.other
	if state.any {
		need = max(need, state.last+1)
	}
	began := t.l.cfg.now()
	pub, err := t.l.pub.wait(ctx, func(p *published) bool { return p.cp.Size >= need })
	if err != nil {
		return err
	}
	// Cosignatures say when they were made. Those of a log that was idle are old news.
	if len(t.l.pub.witnesses) > 0 && began.Sub(pub.at) > t.l.cfg.TimeInterval/2 {
		rctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		newer, err := t.l.pub.renew(rctx)
		cancel()
		if err == nil {
			pub = newer
		}
	}
	leaf := &record.TimeLeaf{LoggedAt: t.l.cfg.now().UnixMilli(), Note: pub.note}
	digest := leaf.NoteDigest()
	how := appending{urgent: true, key: sharedKey(keyNote, digest), value: digest}
	if s := t.l.shared; s != nil {
		if how.epoch = s.epoch.Load(); how.epoch == 0 {
			return nil // it is somebody else's to log
		}
	}
	i, err := t.l.appendOnce(ctx, leaf, how, func() (uint64, bool, error) {
		tl, ok, err := t.l.index.note(digest)
		return tl.index, ok, err
	})
	if err != nil {
		return err
	}
	return t.l.index.wait(ctx, i+1)
}
