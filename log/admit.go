package sessionlog

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// appendTimeout bounds how long a submission waits for collateral. Appending itself isn't given up: its outcome would
// be unknown.
const appendTimeout = 20 * time.Second

// maxAdmissionAge is how long after its admission an entry may reach the sequencer, so that admitted-at stays within the
// minute that readers allow around the proven interval.
const maxAdmissionAge = 30 * time.Second

// places are those of submissions in flight. A vendor gets another only while it has fewer than twice as many as are free:
// alone it gets two thirds of them, each of two that flood two fifths, and the last ones are left for vendors that have
// few or none, however many the others want.
type places struct {
	mu    sync.Mutex // guards what follows
	free  int
	taken map[string]int // by vendor; those that have none aren't in it
}

func newPlaces(n int) *places { return &places{free: n, taken: make(map[string]int)} }

// take takes a place for a vendor, if it gets one.
func (p *places) take(vendor string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken[vendor] >= 2*p.free {
		return false
	}
	p.free--
	p.taken[vendor]++
	return true
}

// leave gives a vendor's place back.
func (p *places) leave(vendor string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	if p.taken[vendor]--; p.taken[vendor] == 0 {
		delete(p.taken, vendor)
	}
}

// inUse returns how many places are taken, and by how many vendors.
func (p *places) inUse() (n, vendors int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.taken {
		n += k
	}
	return n, len(p.taken)
}

// claims are the statements that are being judged or appended. Whoever claims one is the only one who looks it up and
// appends it, and keeps the claim until the index has it; others wait for the outcome.
type claims struct {
	mu sync.Mutex // guards m
	m  map[record.Digest]*claim
}

// A claim's added and err are set before done is closed.
type claim struct {
	entry record.Digest // SHA-256 of the entry
	done  chan struct{}
	added added
	err   error
}

// added says where an entry is in the log.
type added struct {
	index uint64
	dup   bool   // it was there before
	leaf  []byte // nil if it was
}

// do calls f, or waits for another call for the same statement. f is called in a goroutine of its own and is not
// abandoned when ctx ends, since what it has begun to append may be in the log.
func (c *claims) do(ctx context.Context, statement, entry record.Digest, f func() (added, error)) (added, error) {
	for {
		c.mu.Lock()
		cl, ok := c.m[statement]
		if !ok {
			cl = &claim{entry: entry, done: make(chan struct{})}
			c.m[statement] = cl
			go func() {
				defer func() {
					c.mu.Lock()
					delete(c.m, statement)
					c.mu.Unlock()
					close(cl.done)
				}()
				defer func() {
					// net/http would have kept the process alive too, had this been its goroutine.
					if r := recover(); r != nil {
						cl.err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
					}
				}()
				cl.added, cl.err = f()
			}()
		}
		c.mu.Unlock()
		select {
		case <-cl.done:
		case <-ctx.Done():
			return added{}, ctx.Err()
		}
		exists := new(ExistsError)
		switch {
		case cl.entry == entry:
			a := cl.added
			a.dup = a.dup || ok
			return a, cl.err
		case cl.err == nil:
			return added{}, &ExistsError{cl.added.index}
		case errors.As(cl.err, &exists):
			// Neither is the entry in the log; this one may be.
		}
	}
}

// uncertainty counts appends that failed, so that nothing is looked up before the follower has caught up with what may
// have been appended all the same.
type uncertainty struct {
	failed, settled atomic.Uint64
}

// settle returns once the index knows of all that was appended, whatever was reported.
func (l *Log) settle(ctx context.Context) error {
	n := l.uncertain.failed.Load()
	if l.uncertain.settled.Load() >= n {
		return nil
	}
	if err := l.index.catchUp(ctx); err != nil {
		return fmt.Errorf("%w: after a failed write: %w", ErrOverloaded, err)
	}
	for old := l.uncertain.settled.Load(); old < n && !l.uncertain.settled.CompareAndSwap(old, n); old = l.uncertain.settled.Load() {
	}
	return nil
}

// appendOnce appends a leaf unless find finds it, and returns its index once the index has it. The caller makes sure
// that nobody else appends the same leaf meanwhile. ctx isn't observed once the leaf is handed over.
func (l *Log) appendOnce(ctx context.Context, leaf record.Leaf, how appending, find func() (uint64, bool, error)) (uint64, error) {
	if err := l.settle(ctx); err != nil {
		return 0, err
	}
	how.known, _ = l.index.position()
	if i, ok, err := find(); ok || err != nil {
		return i, err
	}
	p, err := l.append(ctx, leaf, how, find)
	if err != nil {
		return 0, err
	}
	if p == nil {
		i, _, err := find()
		return i, err
	}
	return p.index, nil
}

// append appends a leaf, and returns once the index has it. The result is nil without an error if appending it failed,
// and find finds it all the same. If the storage is shared it returns once the leaf has its index, durably: until it is
// integrated, the storage answers for the index.
func (l *Log) append(ctx context.Context, leaf record.Leaf, how appending, find func() (uint64, bool, error)) (*pending, error) {
	if err := l.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrClosed, err)
	}
	p, err := l.seq.append(leaf, how)
	if err != nil {
		return nil, err
	}
	<-p.done // a future resolves, whatever happens: see Log.shutdown
	if l.shared != nil {
		return p, p.err
	}
	if p.err != nil {
		l.metrics.storageErrors.WithLabelValues("append").Inc()
		l.uncertain.failed.Add(1)
		if err := l.settle(ctx); err != nil {
			return nil, errors.Join(p.err, err)
		}
		if _, ok, err := find(); ok || err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrOverloaded, p.err)
	}
	if err := l.index.wait(context.Background(), p.index+1); err != nil {
		return nil, err
	}
	return p, nil
}

// Add appends an entry that [verifier.Verifier.Admit] has admitted, and returns its index, which the next published
// checkpoint covers. An entry that is in the log already keeps its index. The error is an *[ExistsError] if its
// statement is there in another entry.
//
// The caller is responsible for the rest of admission: that vendor, keys and freshness are those of this log.
func (l *Log) Add(ctx context.Context, a *verifier.Admitted) (uint64, error) {
	r, err := l.once(ctx, a.Entry(), func() (*verifier.Admitted, record.Digest, error) {
		if a.Collateral() == nil {
			return a, record.Digest{}, nil
		}
		s, err := l.coll.logSet(context.WithoutCancel(ctx), a.Collateral().Collateral(), a.Collateral())
		if err != nil {
			return nil, record.Digest{}, err
		}
		return a, s.id, nil
	})
	return r.index, err
}

// once appends what admit admits, unless the entry's statement is in the log. It reports whether it was.
func (l *Log) once(ctx context.Context, e *record.Entry, admit func() (*verifier.Admitted, record.Digest, error)) (added, error) {
	statement, entry := e.StatementDigest(), record.Digest(sha256.Sum256(e.Bytes()))
	find := func() (uint64, bool, error) {
		i, other, ok, err := l.index.statement(statement)
		if ok && other != entry {
			return i, true, &ExistsError{i}
		}
		return i, ok, err
	}
	return l.claims.do(ctx, statement, entry, func() (added, error) {
		if l.frozen != nil {
			// Whoever never got the answer to what was admitted still gets it.
			i, ok, err := find()
			if !ok && err == nil {
				err = ErrFrozen
			}
			return added{index: i, dup: ok}, err
		}
		if err := l.begin(); err != nil {
			return added{}, err
		}
		defer l.adding.Done()
		ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
		defer cancel()
		if err := l.settle(ctx); err != nil {
			return added{}, err
		}
		how := appending{key: sharedKey(keyStatement, statement), value: entry}
		how.known, _ = l.index.position()
		if i, ok, err := find(); ok || err != nil {
			return added{index: i, dup: ok}, err
		}
		a, id, err := admit()
		if err != nil {
			return added{}, err
		}
		if age := l.cfg.now().Sub(a.AdmittedAt()); age > maxAdmissionAge {
			return added{}, fmt.Errorf("%w: admission took %v", ErrOverloaded, age)
		}
		leaf := leafFor(a, id)
		p, err := l.append(ctx, leaf, how, find)
		if err != nil {
			return added{}, err
		}
		if p == nil { // it was appended though that failed, maybe in another leaf
			i, _, err := find()
			return added{index: i}, err
		}
		switch {
		case p.dup && p.has != entry:
			return added{}, &ExistsError{p.index}
		case p.dup: // another process was faster, or an attempt of this one that seemed to fail
			return added{index: p.index, dup: true}, nil
		}
		return added{index: p.index, leaf: p.entry.Data()}, nil
	})
}

// leafFor returns the leaf of an admitted entry, with what the log chose.
func leafFor(a *verifier.Admitted, collateral record.Digest) record.Leaf {
	e := a.Entry()
	switch st := e.Statement(); {
	case st.Release != nil, st.Withdrawn != nil, st.VendorKey != nil:
		return &record.VendorLeaf{AdmittedAt: a.AdmittedAt().UnixMilli(), Entry: e}
	}
	return &record.RecordLeaf{
		Ruleset:    verifier.Ruleset,
		AdmittedAt: a.AdmittedAt().UnixMilli(),
		JudgedAt:   a.JudgedAt().UnixMilli(),
		Collateral: collateral,
		Entry:      e,
	}
}

// submit admits and appends a vendor's entry, or finds it in the log.
func (l *Log) submit(ctx context.Context, v *vendor, e *record.Entry) (added, error) {
	// Before the claim: nobody's entry waits for somebody else's.
	if st := e.Statement(); st.Vendor != v.id {
		return added{}, &verifier.AdmissionError{Problem: verifier.ProblemVendorMismatch,
			Err: fmt.Errorf("the statement is of vendor %.200q, but was submitted by vendor %.200q", st.Vendor, v.id)}
	}
	return l.once(ctx, e, func() (*verifier.Admitted, record.Digest, error) {
		a, id, err := l.admit(v.id, e)
		if ae := (*verifier.AdmissionError)(nil); l.shared != nil && errors.As(err, &ae) && (ae.Problem == verifier.ProblemUnknownFreshness || ae.Problem == verifier.ProblemUnknownKey) {
			// Another process may have published it a moment ago.
			l.known(ctx)
			a, id, err = l.admit(v.id, e)
		}
		return a, id, err
	})
}

// admit judges an entry by the admission rules, with collateral that is in the log.
func (l *Log) admit(vendor string, e *record.Entry) (*verifier.Admitted, record.Digest, error) {
	var lookup error // an error of the index, which the verifier's functions can't return
	adm := &verifier.Admission{
		Origin:          l.cfg.Origin,
		VendorID:        vendor,
		MaxFreshnessAge: l.cfg.MaxFreshnessAge,
		LateUntil:       l.cfg.AdmitLate,
		AllowImports:    l.cfg.AllowImports,
		ListedKeys:      l.vendors.listed,
		VendorKeys: func(vendor, keyid string) (ed25519.PublicKey, bool) {
			// A key that the operator doesn't list any more isn't taken from, though it stays in the log.
			listed, ok := l.vendors.listed(vendor, keyid)
			if !ok {
				return nil, false
			}
			_, spki, ok, err := l.index.vendorKey(vendor, keyid)
			if !ok || err != nil {
				lookup = errors.Join(lookup, err)
				return nil, false
			}
			pub, err := record.ParseSPKI(spki)
			if err != nil || !pub.Equal(listed) {
				lookup = errors.Join(lookup, err)
				return nil, false
			}
			return pub, true
		},
		Freshness: func(note record.Digest) (time.Time, checkpoint.Checkpoint, bool) {
			t, ok, err := l.index.note(note)
			lookup = errors.Join(lookup, err)
			return t.loggedAt, t.cp, ok
		},
	}
	if ref, ok := l.startElsewhere(e.Statement()); ok {
		at, ok, err := l.previous.start(context.Background(), ref)
		if err != nil {
			return nil, record.Digest{}, err
		}
		adm.PreviousStart = func(record.StatementRef) (time.Time, bool) { return at, ok }
	}
	judge := func(set *tdx.Set) (*verifier.Admitted, error) {
		now := l.cfg.now()
		judged := now
		if ev := e.Statement().Evidence; ev != nil {
			judged = ev.CollectedOn
		}
		// Judging is all computing. If hundreds of goroutines did it at once, the few that append and publish would
		// queue behind them after every write.
		l.judging <- struct{}{}
		defer func() { <-l.judging }()
		a, err := l.verifier.Admit(e, set, now, judged, adm)
		if lookup != nil {
			return nil, lookup
		}
		return a, err
	}
	if e.Quote() == nil {
		a, err := judge(nil)
		return a, record.Digest{}, err
	}

	// Without collateral, the rules that don't need it are checked all the same: nobody is asked for collateral, and
	// nothing is logged, for an entry that breaks one of them.
	_, err := judge(nil)
	if ae := (*verifier.AdmissionError)(nil); !errors.As(err, &ae) || ae.Problem != verifier.ProblemNoCollateral {
		if err == nil {
			err = errors.New("a quote was admitted without collateral") // a bug of the verifier
		}
		return nil, record.Digest{}, err
	}
	q, err := tdx.ParseQuote(e.Quote())
	if err != nil {
		ae := &verifier.AdmissionError{Problem: verifier.ProblemNotGenuine, Reason: string(tdx.ReasonParse), Err: err}
		if te := (*tdx.Error)(nil); errors.As(err, &te) {
			ae.Reason, ae.Err = string(te.Reason), te.Err
		}
		return nil, record.Digest{}, ae
	}
	kind, err := l.coll.platform(q)
	if err != nil {
		return nil, record.Digest{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	var set *loggedSet
	if ev := e.Statement().Evidence; ev != nil {
		set, err = l.coll.archive(ctx, kind, ev.CollectedOn)
	} else {
		set, err = l.coll.get(ctx, kind, l.cfg.now())
	}
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("%w: %w", pcs.ErrUnreachable, err)
		}
		return nil, record.Digest{}, err
	}
	a, err := judge(set.set)
	if err != nil {
		return nil, record.Digest{}, err
	}
	return a, set.id, nil
}
