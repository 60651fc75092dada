package sessionlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/storage"
)

// A publisher makes checkpoints public. One goroutine takes the size that the index has reached as the candidate,
// makes it durable, signs it, has it cosigned, and when the log policy's quorum is met, makes it what is served. There
// is one candidate at a time until its quorum is met: a log that always asks for the newest never gets there when its
// witnesses are slower than its writers.
//
// What was published is never withdrawn and never replaced by something smaller.
type publisher struct {
	l   *Log
	now atomic.Pointer[published] // nil until something is published
	due atomic.Int64              // nanoseconds since the epoch: when the next candidate may be chosen

	first    chan struct{} // closed when something is published for the first time
	kicked   chan struct{} // has an element when there may be something to do
	cosigned chan cosignatures

	mu     sync.Mutex // guards hurry, resign, ahead and lost
	lost   func()     // ends the lead, of a log whose storage is shared
	hurry  bool       // the log is shutting down: don't keep the interval
	resign bool       // somebody wants newer cosignatures on the same tree
	ahead  uint64     // size of the largest tree of this log that a witness is known to have cosigned

	witnesses  []*witness      // asked about candidates
	appraisers []*witness      // asked about what is published
	appraising map[string]bool // URLs of the appraisers
	stopOnce   sync.Once
	cancel     context.CancelFunc // ends the witnesses' workers
	workers    sync.WaitGroup

	// The goroutine owns what follows.
	cand      *candidate
	persisted []byte         // the text in the object storage.Candidate, nil if that isn't known
	retry     time.Time      // after an error of the storage, not to try again before
	late      []cosignatures // that couldn't be added to what is published
}

// published is a published checkpoint. It is never modified.
type published struct {
	note []byte
	cp   checkpoint.Checkpoint
	text []byte
	sigs sigs
	at   time.Time
	next chan struct{} // closed when there is a newer one
}

// sigs are a checkpoint's signature lines. cosigs are by vkey; the map is replaced, never modified.
type sigs struct {
	log    [][]byte
	cosigs map[string][]byte
}

// A candidate is what is to be published next.
type candidate struct {
	cp    checkpoint.Checkpoint
	text  []byte
	note  []byte // signed by the log, without cosignatures
	sigs  sigs
	fresh bool // cosignatures of what is published don't count: newer ones are wanted
	begun time.Time
}

// newPublisher reads what was published and what was about to be, and checks both against the tree.
func newPublisher(ctx context.Context, l *Log) (*publisher, error) {
	p := &publisher{l: l, first: make(chan struct{}), kicked: make(chan struct{}, 1), cosigned: make(chan cosignatures), appraising: l.cfg.appraiserURLs()}
	wctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	if l.cfg.Role.publishes() {
		p.witnesses, p.appraisers = newWitnesses(l, p)
	}
	for _, w := range p.all() {
		p.workers.Go(func() { w.run(wctx) })
	}
	if n := p.largestNote(); n > maxNote {
		l.logger.Warn("the log policy has more witnesses than fit into a time leaf: cosignatures of the last ones are left out", "bytes", n, "limit", maxNote)
	}
	if l.shared != nil {
		return p, nil // see shared.look and shared.begin
	}
	note, err := l.objects.Get(ctx, storage.Published)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		pub, err := p.parsePublished(note)
		if err != nil {
			return nil, fmt.Errorf("published checkpoint: %w", err)
		}
		if err := p.checkTree(ctx, pub.cp); err != nil {
			return nil, fmt.Errorf("published checkpoint: %w", err)
		}
		p.now.Store(pub)
		close(p.first)
	}
	text, err := l.objects.Get(ctx, storage.Candidate)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := p.restoreCandidate(ctx, text); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// restoreCandidate goes on with what was to be signed. It may have been signed, and witnesses may have seen it.
func (p *publisher) restoreCandidate(ctx context.Context, text []byte) error {
	cp, err := checkpoint.ParseCheckpoint(text)
	if err != nil {
		return fmt.Errorf("candidate checkpoint: %w", err)
	}
	if err := p.checkTree(ctx, cp); err != nil {
		return fmt.Errorf("candidate checkpoint: %w", err)
	}
	p.persisted = text
	if pub := p.now.Load(); pub == nil || cp.Size > pub.cp.Size {
		p.cand, err = p.sign(cp, false)
	}
	return err
}

// all returns the witnesses and the appraisers.
func (p *publisher) all() []*witness { return slices.Concat(p.witnesses, p.appraisers) }

// parsePublished reads the note that this log published last.
func (p *publisher) parsePublished(note []byte) (*published, error) {
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		return nil, err
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	pub := &published{note: note, cp: cp, text: n.Text, sigs: sigs{cosigs: map[string][]byte{}}, next: make(chan struct{})}
	for _, s := range n.Signatures {
		if k := p.witnessKey(s); k != nil {
			pub.sigs.cosigs[k.String()] = s.Line
		} else {
			pub.sigs.log = append(pub.sigs.log, s.Line)
		}
	}
	return pub, nil
}

func (p *publisher) witnessKey(s checkpoint.NoteSignature) *checkpoint.VerifierKey {
	for _, w := range p.l.cfg.LogPolicy.Witnesses() {
		if w.Key.Matches(s) {
			return w.Key
		}
	}
	return nil
}

// checkTree checks that what was signed once is a prefix of the tree.
func (p *publisher) checkTree(ctx context.Context, cp checkpoint.Checkpoint) error {
	if cp.Origin != p.l.cfg.Origin {
		return fmt.Errorf("it is of %q", cp.Origin)
	}
	if size := p.l.tree.size.Load(); cp.Size > size {
		return fmt.Errorf("%w: it has %d leaves, the tree only %d: data was lost, and going on would fork the log", ErrInconsistent, cp.Size, size)
	}
	root, err := p.l.tree.root(ctx, cp.Size)
	if transient(err) {
		return fmt.Errorf("reading the tree: %w", err)
	}
	if err != nil {
		return fmt.Errorf("%w: reading the tree: %w", ErrInconsistent, err)
	}
	if root != cp.Root {
		return fmt.Errorf("%w: of %d leaves it has the root %x, the tree %x", ErrInconsistent, cp.Size, cp.Root, root)
	}
	return nil
}

// size returns the published size, 0 if nothing is published.
func (p *publisher) size() uint64 {
	if pub := p.now.Load(); pub != nil {
		return pub.cp.Size
	}
	return 0
}

// nextDue returns when the next candidate may be chosen.
func (p *publisher) nextDue() time.Time { return time.Unix(0, p.due.Load()) }

// kick tells the publisher that there may be something to do.
func (p *publisher) kick() {
	select {
	case p.kicked <- struct{}{}:
	default:
	}
}

// wait returns the first checkpoint published from now on, or the present one, that ok accepts.
func (p *publisher) wait(ctx context.Context, ok func(*published) bool) (*published, error) {
	for {
		pub := p.now.Load()
		var next chan struct{}
		if pub != nil {
			if ok(pub) {
				return pub, nil
			}
			next = pub.next
		} else {
			next = p.first
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-p.l.haltedc:
			return nil, ErrClosed
		}
	}
}

// renew asks for newer cosignatures, and returns the first checkpoint published after that.
func (p *publisher) renew(ctx context.Context) (*published, error) {
	asked := p.l.cfg.now()
	p.mu.Lock()
	p.resign = true
	p.mu.Unlock()
	p.kick()
	return p.wait(ctx, func(pub *published) bool { return pub.at.After(asked) })
}

// flush waits until all that is indexed is published, which it hurries.
func (p *publisher) flush(ctx context.Context) error {
	p.mu.Lock()
	p.hurry = true
	p.mu.Unlock()
	p.kick()
	size, _ := p.l.index.position()
	_, err := p.wait(ctx, func(pub *published) bool { return pub.cp.Size >= size })
	return err
}

// stop ends the witnesses' workers.
func (p *publisher) stop() {
	p.stopOnce.Do(p.cancel)
	p.workers.Wait()
}

// run publishes until ctx is done, or while this process is the publisher.
func (p *publisher) run(ctx context.Context) {
	if p.l.shared != nil {
		p.l.shared.run(ctx)
		return
	}
	p.lead(ctx)
}

// lead publishes until ctx is done.
func (p *publisher) lead(ctx context.Context) {
	if p.cand != nil {
		p.offer()
	}
	p.offerPublished(false)
	for {
		wait := p.advance(ctx)
		var timer <-chan time.Time
		var t *time.Timer
		if wait > 0 {
			t = time.NewTimer(wait)
			timer = t.C
		}
		select {
		case <-ctx.Done():
		case <-p.l.haltedc:
		case <-p.kicked:
		case <-timer:
		case c := <-p.cosigned:
			p.merge(ctx, c)
		}
		if t != nil {
			t.Stop()
		}
		if ctx.Err() != nil || p.l.Err() != nil {
			return
		}
	}
}

// storageRetry is how long the publisher and others wait after the storage has failed.
const storageRetry = time.Second

// advance does what can be done now, and returns when to look again, 0 if something has to happen first.
func (p *publisher) advance(ctx context.Context) time.Duration {
	for {
		if wait := time.Until(p.retry); wait > 0 {
			return wait
		}
		if late := p.late; late != nil {
			p.late = nil
			for _, c := range late {
				p.merge(ctx, c)
			}
			continue
		}
		if p.cand == nil {
			if wait, ok := p.choose(ctx); !ok {
				return wait
			}
		}
		p.mu.Lock()
		ahead := p.ahead
		p.mu.Unlock()
		if p.cand.cp.Size < ahead {
			// A witness has cosigned a later tree of this log, which was lost before it was published. It won't cosign an
			// earlier one.
			if size, _ := p.l.index.position(); size < ahead {
				return 0 // the follower is still to read it
			}
			p.cand = nil
			continue
		}
		if !p.quorum() {
			return 0
		}
		if err := p.publish(ctx); err != nil {
			p.failed("published checkpoint", err)
			continue
		}
	}
}

func (p *publisher) failed(what string, err error) {
	if errors.Is(err, storage.ErrFenced) {
		p.mu.Lock()
		p.lost()
		p.mu.Unlock()
	}
	p.l.logger.Error("publishing is delayed", "what", what, "err", err)
	p.l.metrics.storageErrors.WithLabelValues("publish").Inc()
	p.retry = time.Now().Add(p.l.cfg.retry)
}

// choose makes what the index has reached the candidate, if there is reason to. Else it returns when to try again.
func (p *publisher) choose(ctx context.Context) (time.Duration, bool) {
	if !p.l.index.whole() {
		return 0, false // the follower is about to get there
	}
	size, root := p.l.index.position()
	pub := p.now.Load()
	p.mu.Lock()
	resign, hurry := p.resign, p.hurry
	p.mu.Unlock()
	if pub != nil && size == pub.cp.Size && !resign {
		return 0, false
	}
	if wait := time.Until(p.nextDue()); wait > 0 && !hurry {
		return wait, false
	}
	cp := checkpoint.Checkpoint{Origin: p.l.cfg.Origin, Size: size, Root: root}
	if p.l.shared == nil {
		// Tessera's state is visible before it is durable. What is signed must not be lost.
		if err := storage.SyncDir(filepath.Join(p.l.cfg.Dir, storage.TesseraDir, ".state")); err != nil {
			p.failed("tree state", err)
			return p.l.cfg.retry, false
		}
	}
	if text := cp.Text(); !bytes.Equal(text, p.persisted) {
		p.persisted = nil
		if err := p.putCandidate(ctx, text); err != nil {
			p.failed("candidate", err)
			return p.l.cfg.retry, false
		}
		p.persisted = text
	}
	cand, err := p.sign(cp, pub != nil && size == pub.cp.Size)
	if err != nil {
		// Such as a key in an agent that is away.
		p.failed("signature", err)
		return p.l.cfg.retry, false
	}
	p.mu.Lock()
	p.resign = false
	p.mu.Unlock()
	p.cand = cand
	p.due.Store(time.Now().Add(p.l.cfg.CheckpointInterval).UnixNano())
	p.offer()
	return 0, true
}

// sign makes a candidate that is durable.
func (p *publisher) sign(cp checkpoint.Checkpoint, fresh bool) (*candidate, error) {
	c := &candidate{cp: cp, text: cp.Text(), fresh: fresh, begun: time.Now(), sigs: sigs{cosigs: map[string][]byte{}}}
	for _, k := range p.l.cfg.Keys {
		line, err := k.Sign(c.text, p.l.cfg.now())
		if err != nil {
			return nil, fmt.Errorf("signing with %s: %w", k.VKey(), err)
		}
		c.sigs.log = append(c.sigs.log, line)
	}
	var err error
	c.note, err = checkpoint.Sign(c.text, c.sigs.log...)
	return c, err
}

// offer gives the candidate to the witnesses.
func (p *publisher) offer() {
	for _, w := range p.witnesses {
		w.offer(p.cand)
	}
}

// offerPublished gives what is published to the appraisers. Those that have cosigned it are asked again only if that is
// to be renewed. An appraiser that is slow or away delays nobody: each has a worker of its own.
func (p *publisher) offerPublished(renew bool) {
	pub := p.now.Load()
	if pub == nil {
		return
	}
	c := &candidate{cp: pub.cp, text: pub.text, note: pub.note}
	for _, w := range p.appraisers {
		missing := slices.ContainsFunc(w.keys, func(k *checkpoint.VerifierKey) bool { return pub.sigs.cosigs[k.String()] == nil })
		if missing || renew {
			w.offer(c)
		}
	}
}

// maxNote bounds a published note, which must fit into a time leaf. Cosignatures that the quorum doesn't need are left
// out where they would not.
const maxNote = 60 << 10

// largestNote returns about how long a note with all cosignatures is.
func (p *publisher) largestNote() int {
	n := 200 + 4000*len(p.l.cfg.Keys)
	for _, w := range p.l.cfg.LogPolicy.Witnesses() {
		n += 120 + len(w.Key.Name())
		if w.Key.Kind() == checkpoint.CosignatureMLDSA44 {
			n += 3244 - 104 // c2sp.org/tlog-cosignature: 2,432 bytes in base64 instead of 76
		}
	}
	return n
}

// assemble returns the note with the cosignatures, first witnesses' and then appraisers', in the policy's order.
func (p *publisher) assemble(text []byte, s sigs) ([]byte, error) {
	lines := slices.Clone(s.log)
	n := len(text)
	for _, l := range lines {
		n += len(l)
	}
	for _, last := range []bool{false, true} { // appraisers' must not take the place of witnesses'
		for _, w := range p.l.cfg.LogPolicy.Witnesses() {
			if line := s.cosigs[w.Key.String()]; line != nil && p.appraising[trimURL(w.URL)] == last && n+len(line) <= maxNote {
				lines = append(lines, line)
				n += len(line)
			}
		}
	}
	return checkpoint.Sign(text, lines...)
}

// quorum reports whether the candidate has a quorum.
func (p *publisher) quorum() bool {
	note, err := p.assemble(p.cand.text, p.cand.sigs)
	if err == nil {
		_, err = p.l.cfg.LogPolicy.Check(note)
	}
	if q := (*checkpoint.QuorumError)(nil); err != nil && !errors.As(err, &q) {
		// Readers would refuse the signature that was just made.
		p.l.halt(fmt.Errorf("own checkpoint of size %d: %w", p.cand.cp.Size, err))
	}
	return err == nil
}

// publish makes the candidate what is served.
func (p *publisher) publish(ctx context.Context) error {
	c, old := p.cand, p.now.Load()
	if old != nil && c.fresh {
		// Cosignatures that weren't renewed are still good.
		c.sigs.cosigs = union(old.sigs.cosigs, c.sigs.cosigs)
	}
	note, err := p.assemble(c.text, c.sigs)
	if err != nil {
		return err
	}
	if err := p.replace(ctx, &published{note: note, cp: c.cp, text: c.text, sigs: c.sigs, at: p.l.cfg.now(), next: make(chan struct{})}); err != nil {
		return err
	}
	p.l.metrics.publishSeconds.Observe(time.Since(c.begun).Seconds())
	p.cand = nil
	p.offerPublished(true)
	return nil
}

func union(a, b map[string][]byte) map[string][]byte {
	u := make(map[string][]byte, len(a)+len(b))
	for k, v := range a {
		u[k] = v
	}
	for k, v := range b {
		u[k] = v
	}
	return u
}

// replace makes pub what is served, on disk and then in memory.
func (p *publisher) replace(ctx context.Context, pub *published) error {
	old := p.now.Load()
	if old != nil && (pub.cp.Size < old.cp.Size || pub.cp.Size == old.cp.Size && pub.cp.Root != old.cp.Root) {
		err := fmt.Errorf("%w: size %d and root %x would replace the published size %d and root %x", ErrInconsistent, pub.cp.Size, pub.cp.Root, old.cp.Size, old.cp.Root)
		p.l.halt(err)
		return err
	}
	if s := p.l.shared; s != nil {
		s.writing.Lock()
		defer s.writing.Unlock()
	}
	if err := p.putPublished(ctx, pub); err != nil {
		return err
	}
	p.show(old, pub)
	return nil
}

func (p *publisher) putCandidate(ctx context.Context, text []byte) error {
	s := p.l.shared
	if s == nil {
		return p.l.objects.Put(ctx, storage.Candidate, text)
	}
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	return s.storage.SetCandidate(ctx, s.epoch.Load(), text)
}

func (p *publisher) putPublished(ctx context.Context, pub *published) error {
	s := p.l.shared
	if s == nil {
		return p.l.objects.Put(ctx, storage.Published, pub.note)
	}
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	return s.storage.Publish(ctx, s.epoch.Load(), pub.note, pub.cp.Size)
}

// merge adds a witness's cosignatures to the candidate, or late ones to what is published.
func (p *publisher) merge(ctx context.Context, c cosignatures) {
	// A candidate can have the text of an earlier one, when newer cosignatures are wanted.
	if c.cand == p.cand {
		p.cand.sigs.cosigs = union(p.cand.sigs.cosigs, c.lines)
		return
	}
	pub := p.now.Load()
	if pub == nil || !bytes.Equal(c.cand.text, pub.text) {
		return // too late
	}
	next := *pub
	next.sigs.cosigs = union(pub.sigs.cosigs, c.lines)
	next.next = make(chan struct{})
	var err error
	if next.note, err = p.assemble(next.text, next.sigs); err == nil && !bytes.Equal(next.note, pub.note) {
		err = p.replace(ctx, &next)
	}
	if err != nil {
		p.late = append(p.late, c)
		p.failed("late cosignatures", err)
		return
	}
	if c.from.appraiser {
		p.l.metrics.appraised.WithLabelValues(c.from.name).Inc()
	}
}
