package sessionlog

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/storage"
)

// A log whose storage is shared has any number of processes. Each follows the tree with an index of its own and serves
// what is published. Those that admit append with the keys of what they append in one transaction (storage.Shared), so
// that a statement, a set of collateral and a note are in the log once, whoever submits them where and when. One holds
// the publisher's lease: it logs time leaves, asks witnesses and publishes, and whatever it writes is refused once another
// one has the lease. The others take over from it when it is gone.

// A Role says what a process of a log does.
type Role string

const (
	RoleAll       Role = "all"       // everything; the only one for a log in a directory
	RoleFrontend  Role = "frontend"  // admits, appends and serves; needs no key of the log
	RolePublisher Role = "publisher" // logs time leaves, has checkpoints cosigned, publishes and serves
	RoleReader    Role = "reader"    // serves what is published, from the objects alone
)

// admits reports whether the process takes submissions.
func (r Role) admits() bool { return r == RoleAll || r == RoleFrontend }

// publishes reports whether the process may become the publisher.
func (r Role) publishes() bool { return r == RoleAll || r == RolePublisher }

const (
	// sharedPoll is how often a process looks for what others have integrated and published.
	sharedPoll = 50 * time.Millisecond

	// bucketPoll is how often a reader looks for a new checkpoint, which is a request that costs money.
	bucketPoll = 500 * time.Millisecond

	// leaseRenewal is how often the publisher renews its lease, which lasts for five seconds, and how often others try to
	// get it.
	leaseRenewal = time.Second

	// leaseGrace is how long after its last renewal a publisher takes the lease to be its own. It is no more than a
	// courtesy to its successor: what it writes later is refused.
	leaseGrace = 4 * time.Second

	// sharedTimeout bounds what is done in the storage at once.
	sharedTimeout = 15 * time.Second

	// sequenceTimeout is how long the sequencer tries to append a batch before its submitters are told to come again.
	sequenceTimeout = 8 * time.Second

	// keptKeys is how many of the newest leaves' keys are kept in the shared storage. What is older, every process knows
	// from its index.
	keptKeys = 1 << 20

	// unreadyAfter is how long the storage may be away before the process says that it isn't ready.
	unreadyAfter = 3 * time.Second
)

// shared is what a log has beside everything else when its storage isn't a directory of its own.
type shared struct {
	l       *Log
	storage storage.Shared // nil for a reader
	holder  string         // our name in the lease

	epoch atomic.Uint64 // of the lease, 0 while we aren't the publisher
	size  atomic.Uint64 // of a reader: the published size, which is that of its tree

	mu      sync.Mutex // held while it is looked for something new
	looked  time.Time  // when that was last begun
	err     error      // how it went
	version uint64     // of the state that was looked at
	failing bool

	// writing is held while something is published, from before others can know to after this process shows it.
	writing sync.Mutex

	wantMu sync.Mutex
	wanted time.Time // when the publisher was last told that somebody asks for freshness
}

func newShared(l *Log) (*shared, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	var id [8]byte
	rand.Read(id[:])
	return &shared{l: l, storage: l.cfg.Shared, holder: fmt.Sprintf("%.40s %d %x", host, os.Getpid(), id)}, nil
}

// leading reports whether this process is the publisher, as far as it knows. A log in a directory always is.
func (l *Log) leading() bool { return l.shared == nil || l.shared.epoch.Load() != 0 }

// openShared makes the tree readable and, unless this process only reads, starts what integrates it.
func (l *Log) openShared(ctx context.Context) error {
	s := l.shared
	if s.storage == nil {
		l.tree = newTree(l.wrapped(objectReader{l.objects, func(context.Context) (uint64, error) { return s.size.Load(), nil }}))
		return nil
	}
	_, _, err := l.startTessera(
		func(context.Context) (tessera.Driver, error) { return s.storage.Driver(ctx) },
		tessera.NewAppendOptions().WithCheckpointInterval(max(l.cfg.CheckpointInterval, time.Second))) // the drivers' least
	if err != nil {
		return err
	}
	l.tree = newTree(l.wrapped(objectReader{l.objects, s.storage.IntegratedSize}))
	l.seq = newSequencer(nil, l)
	return nil
}

func (l *Log) wrapped(r tileReader) tileReader {
	if l.cfg.wrap != nil {
		return l.cfg.wrap(r)
	}
	return r
}

// An objectReader reads tiles and bundles of a distributed storage. What Tessera integrates there was sequenced, durably,
// before, so that any object is right that is there, also one that a crash left behind; and a full one, cut, stands for
// the partial ones that were removed because it is there.
type objectReader struct {
	objects storage.Objects
	size    func(context.Context) (uint64, error)
}

func (r objectReader) IntegratedSize(ctx context.Context) (uint64, error) { return r.size(ctx) }

func (r objectReader) ReadTile(ctx context.Context, level, index uint64, p uint8) ([]byte, error) {
	return r.read(ctx, p, func(p uint8) string { return layout.TilePath(level, index, p) }, func(b []byte) []byte {
		return b[:min(len(b), int(p)*32)]
	})
}

func (r objectReader) ReadEntryBundle(ctx context.Context, index uint64, p uint8) ([]byte, error) {
	return r.read(ctx, p, func(p uint8) string { return layout.EntriesPath(index, p) }, func(b []byte) []byte {
		if offsets, ok := bundleOffsets(b); ok && len(offsets) > int(p) {
			return b[:offsets[p]]
		}
		return b
	})
}

func (r objectReader) read(ctx context.Context, p uint8, name func(uint8) string, cut func([]byte) []byte) ([]byte, error) {
	b, err := r.objects.Get(ctx, name(p))
	if p == 0 || !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	if b, err = r.objects.Get(ctx, name(0)); err != nil {
		return nil, err
	}
	return cut(b), nil
}

// look looks for what others have published, unless that was begun after the call. The storage's errors are returned, and
// told to the operator once.
func (s *shared) look(ctx context.Context) error {
	asked := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.looked.After(asked) {
		return s.err
	}
	if s.l.leading() {
		// Nobody else publishes. But what this process is publishing may be known already, and is waited for.
		s.writing.Lock()
		defer s.writing.Unlock()
		return nil
	}
	s.looked = time.Now()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedTimeout)
	defer cancel()
	s.err = s.lookNow(ctx)
	switch {
	case s.err != nil && !s.failing:
		s.l.logger.Error("the storage can't be asked for what is published", "err", s.err)
	case s.err == nil && s.failing:
		s.l.logger.Info("the storage answers again")
	}
	if s.failing = s.err != nil; s.failing {
		s.l.metrics.storageErrors.WithLabelValues("state").Inc()
	}
	return s.err
}

func (s *shared) lookNow(ctx context.Context) error {
	if s.storage == nil {
		b, err := s.l.objects.Get(ctx, storage.Published)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return s.adopt(ctx, b)
	}
	v, err := s.storage.Version(ctx)
	if err != nil || v == s.version {
		return err
	}
	st, err := s.storage.State(ctx)
	if err != nil {
		return err
	}
	if st.Published != nil {
		if err := s.adopt(ctx, st.Published); err != nil {
			return err
		}
	}
	s.version = st.Version
	return nil
}

// adopt makes what another process has published what is served. Called with s.mu held.
func (s *shared) adopt(ctx context.Context, note []byte) error {
	p := s.l.pub
	old := p.now.Load()
	if old != nil && bytes.Equal(old.note, note) {
		return nil
	}
	pub, err := p.parsePublished(note)
	if err == nil {
		_, err = s.l.cfg.LogPolicy.Check(note)
	}
	if err != nil {
		return fmt.Errorf("published checkpoint: %w", err)
	}
	if old != nil && pub.cp.Size < old.cp.Size {
		return nil // a late answer
	}
	if s.storage == nil {
		s.size.Store(max(s.size.Load(), pub.cp.Size))
	}
	if s.l.tree.size.Load() < pub.cp.Size {
		if _, err := s.l.tree.refresh(ctx); err != nil {
			return err
		}
	}
	if err := p.checkTree(ctx, pub.cp); err != nil {
		err = fmt.Errorf("published checkpoint: %w", err)
		if errors.Is(err, ErrInconsistent) {
			s.l.halt(err)
		}
		return err
	}
	pub.at = s.l.cfg.now()
	p.show(old, pub)
	if s.storage == nil && s.l.index != nil {
		s.l.index.kick()
	}
	return nil
}

// show makes pub what is served instead of old.
func (p *publisher) show(old, pub *published) {
	if !p.now.CompareAndSwap(old, pub) {
		panic("sessionlog: two publishers") // only one goroutine at a time publishes, or adopts
	}
	if old != nil {
		close(old.next)
	} else {
		close(p.first)
	}
	p.l.times.kick()
}

// fresher is called when something isn't there that another process may have published already. It returns once this
// one knows all that was published before the call, or can't.
func (l *Log) fresher(ctx context.Context) {
	if l.shared != nil && l.Err() == nil {
		_ = l.shared.look(ctx) // the operator was told
	}
}

// known is fresher for what is looked up in the index.
func (l *Log) known(ctx context.Context) {
	if l.shared == nil || l.Err() != nil {
		return
	}
	_ = l.shared.look(ctx)
	_ = l.index.catchUp(ctx)
}

// run follows what others publish, and publishes itself while it has the lease, until ctx is done.
func (s *shared) run(ctx context.Context) {
	poll := sharedPoll
	if s.storage == nil {
		poll = bucketPoll
	}
	t := time.NewTicker(poll)
	defer t.Stop()
	var tried time.Time
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.l.haltedc:
			return
		case <-s.l.pub.cosigned: // too late
			continue
		case <-t.C:
		}
		_ = s.look(ctx)
		if !s.l.cfg.Role.publishes() || time.Since(tried) < leaseRenewal {
			continue
		}
		tried = time.Now()
		lctx, cancel := context.WithTimeout(ctx, sharedTimeout)
		epoch, err := s.storage.Lease(lctx, s.holder)
		cancel()
		if err == nil && epoch != 0 {
			err = s.lead(ctx, epoch, tried)
		}
		if err != nil && !failing && ctx.Err() == nil {
			s.l.logger.Error("the publisher's lease can't be had or used", "err", err)
		}
		failing = err != nil
	}
}

// lead publishes until the lease is lost or ctx is done.
func (s *shared) lead(ctx context.Context, epoch uint64, since time.Time) error {
	p := s.l.pub
	if err := s.begin(ctx, epoch); err != nil {
		s.release(epoch)
		return err
	}
	s.l.logger.Info("publisher", "epoch", epoch)
	lctx, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() {
		defer cancel()
		s.renew(lctx, epoch, since)
	})
	p.mu.Lock()
	p.lost = cancel
	p.mu.Unlock()
	s.l.times.kick()
	p.lead(lctx)
	cancel()
	renewal.Wait()
	for _, w := range p.all() {
		w.offer(nil)
	}
	s.mu.Lock()
	s.epoch.Store(0)
	s.version = 0 // what was published since must be read
	s.mu.Unlock()
	p.cand, p.persisted, p.late = nil, nil, nil
	s.release(epoch)
	if ctx.Err() == nil {
		s.l.logger.Warn("not the publisher any more", "epoch", epoch)
	}
	return nil
}

func (s *shared) release(epoch uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.storage.Release(ctx, epoch); err != nil {
		s.l.logger.Warn("the publisher's lease ends by itself", "err", err)
	}
}

// begin reads what the publisher before this one has left, and goes on from there: what it was having cosigned may have
// been, and is published first.
func (s *shared) begin(ctx context.Context, epoch uint64) error {
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.storage.State(ctx)
	if err != nil {
		return err
	}
	if st.Published != nil {
		if err := s.adopt(ctx, st.Published); err != nil {
			return err
		}
		// It may have ended between the two writes.
		if err := s.storage.Publish(ctx, epoch, st.Published, s.l.pub.size()); err != nil {
			return err
		}
	}
	if _, err := s.l.tree.refresh(ctx); err != nil {
		return err
	}
	if st.Candidate != nil {
		if err := s.l.pub.restoreCandidate(ctx, st.Candidate); err != nil {
			if errors.Is(err, ErrInconsistent) {
				s.l.halt(err)
			}
			return err
		}
	}
	s.epoch.Store(epoch)
	return nil
}

// renew renews the lease until that fails for too long, or ctx is done. It also learns whether others are asked for
// freshness.
func (s *shared) renew(ctx context.Context, epoch uint64, last time.Time) {
	t := time.NewTicker(leaseRenewal)
	defer t.Stop()
	var wanted uint64
	forgot := time.Now()
	for first := true; ; first = false {
		rctx, cancel := context.WithDeadline(ctx, last.Add(leaseGrace))
		began := time.Now()
		got, err := s.storage.Lease(rctx, s.holder)
		if err == nil && got != epoch {
			cancel()
			return
		}
		if err == nil {
			last = began
			if st, err := s.storage.State(rctx); err == nil {
				if !first && st.Wanted != wanted {
					s.l.times.want()
				}
				wanted = st.Wanted
			}
		}
		cancel()
		if time.Since(last) >= leaseGrace || ctx.Err() != nil {
			return
		}
		if time.Since(forgot) > time.Minute {
			forgot = time.Now()
			s.forget(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// forget lets go of the keys that all processes find in their indexes.
func (s *shared) forget(ctx context.Context) {
	size, _ := s.l.index.position()
	if size <= keptKeys {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaseGrace/2)
	defer cancel()
	if err := s.storage.Forget(ctx, size-keptKeys); err != nil && ctx.Err() == nil {
		s.l.logger.Warn("old keys are kept for longer", "err", err)
	}
}

// want tells the publisher, now and then, that somebody asks for freshness here.
func (s *shared) want(ctx context.Context) {
	if s.storage == nil || s.l.leading() {
		return
	}
	s.wantMu.Lock()
	due := time.Since(s.wanted) >= min(s.l.cfg.TimeInterval/2, time.Second)
	if due {
		s.wanted = time.Now()
	}
	s.wantMu.Unlock()
	if due {
		if err := s.storage.Want(ctx); err != nil && ctx.Err() == nil {
			s.l.logger.Warn("the publisher can't be told that freshness is wanted", "err", err)
		}
	}
}

// unready says for how long the storage hasn't answered, or "".
func (l *Log) unready() string {
	if l.shared == nil {
		return ""
	}
	if d := time.Since(time.Unix(0, l.index.good.Load())); d > unreadyAfter {
		return fmt.Sprintf("the storage hasn't answered for %v", d.Round(time.Second))
	}
	return ""
}

// sequence appends a batch to the shared storage.
func (s *shared) sequence(batch []*pending) {
	// A transaction has one epoch, and should be no larger than what databases take by default.
	const maxLeaves, maxBytes = 1024, 4 << 20
	for len(batch) > 0 {
		n, bytes := 0, 0
		for n < len(batch) && n < maxLeaves && bytes < maxBytes && batch[n].epoch == batch[0].epoch {
			bytes += len(batch[n].entry.Data())
			n++
		}
		s.sequenceSome(batch[:n])
		batch = batch[n:]
	}
}

func (s *shared) sequenceSome(batch []*pending) {
	leaves := make([]storage.Leaf, len(batch))
	known := batch[0].known
	for i, p := range batch {
		leaves[i] = storage.Leaf{Entry: p.entry, Key: p.key, Value: p.value, AtLeast: p.atLeast}
		known = min(known, p.known)
	}
	began := time.Now()
	var outcomes []storage.Outcome
	var err error
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), sharedTimeout)
		outcomes, err = s.storage.Append(ctx, leaves, known, batch[0].epoch)
		cancel()
		if err == nil || !errors.Is(err, storage.ErrUnavailable) || time.Since(began) > sequenceTimeout {
			break
		}
		// Whether it was appended isn't known; asked again, the storage tells.
		s.l.metrics.storageErrors.WithLabelValues("append").Inc()
		time.Sleep(pause)
	}
	for i, p := range batch {
		switch {
		case errors.Is(err, storage.ErrFenced):
			p.err = err
		case err != nil:
			p.err = fmt.Errorf("%w: appending: %w", ErrOverloaded, err)
		case outcomes[i].Older != nil:
			p.err = &olderError{*outcomes[i].Older}
		default:
			p.index, p.dup, p.has = outcomes[i].Index, outcomes[i].Dup, outcomes[i].Value
		}
		if p.err != nil || p.dup {
			s.l.index.unexpect(p)
		}
		close(p.done)
	}
	s.l.index.kick()
}

// An olderError says that a leaf wasn't appended since a number of its kind was larger before.
type olderError struct{ now storage.Number }

func (e *olderError) Error() string {
	return fmt.Sprintf("%s is %d in the log already", e.now.Name, e.now.N)
}

// sharedKey is the key of a leaf, which no two leaves share.
func sharedKey(kind byte, d [32]byte) []byte { return append([]byte{kind}, d[:]...) }

// transient reports whether an error of the storage may go away by itself.
func transient(err error) bool {
	return errors.Is(err, storage.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// checkShared checks what is in the storage against what is configured, and reports whether there is a log.
func (l *Log) checkShared(ctx context.Context) (bool, error) {
	if l.cfg.Create {
		if err := l.shared.storage.Create(ctx); err != nil {
			return false, err
		}
	}
	got, err := l.objects.Get(ctx, storage.Meta)
	switch {
	case errors.Is(err, fs.ErrNotExist) && l.cfg.Create:
		return false, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%w: the bucket has no object %s (a new log must be asked for; a log that was lost must not be made anew)", ErrNoLog, storage.Meta)
	case err != nil:
		return false, err
	case l.cfg.Create:
		return false, errors.New("the bucket holds a log already: it can't be created again")
	}
	if want := l.cfg.meta(); !bytes.Equal(got, want) {
		return false, fmt.Errorf("the bucket holds another log than configured: it says %q, not %q", got, want)
	}
	if l.shared.storage == nil {
		return true, nil
	}
	// The database may have been restored from a copy, or be another log's.
	if _, err := l.shared.storage.State(ctx); errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("%w: %w", ErrInconsistent, err)
	} else if err != nil {
		return false, err
	}
	object, err := l.objects.Get(ctx, storage.Published)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	in, err := noteSize(object)
	if err != nil {
		return false, fmt.Errorf("published checkpoint in the bucket: %w", err)
	}
	// The row is written before the object, and so is read after it.
	st, err := l.shared.storage.State(ctx)
	if err != nil {
		return false, err
	}
	row := uint64(0)
	if st.Published != nil {
		if row, err = noteSize(st.Published); err != nil {
			return false, fmt.Errorf("published checkpoint in the database: %w", err)
		}
	}
	if in > row {
		return false, fmt.Errorf("%w: a checkpoint of %d leaves is published in the bucket, the database knows of %d: it has lost data, or is another log's", ErrInconsistent, in, row)
	}
	return true, nil
}

// noteSize returns the size that a checkpoint's note says, without a look at its signatures.
func noteSize(note []byte) (uint64, error) {
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		return 0, err
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	return cp.Size, err
}
