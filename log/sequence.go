package sessionlog

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/log/storage"
)

// A sequencer hands leaves to Tessera in batches. One goroutine owns the batches; each is integrated, durably, before
// the next is handed over, so that what arrives meanwhile makes up the next.
//
// Every batch that doesn't end at a bundle's end rewrites the partial bundle, 128 entries on average: with 6 KB entries
// at 100/s and a batch every 10 ms that is 75 times what was submitted. Nobody sees a leaf before the next checkpoint,
// so a batch is held back until it fills its bundle or until just before the next checkpoint is due, whichever is
// first. That is about one partial bundle for each checkpoint, at any load, and costs submitters no time.
type sequencer struct {
	add    tessera.AddFn
	shared *shared          // is used instead of add if it isn't nil
	next   func() time.Time // when the next checkpoint may be signed
	before func([]*pending) // called with each batch before it is handed over
	done   func(*pending)   // called with each leaf that was appended or not, before its waiters know

	mu     sync.Mutex // guards the following, held for no longer than it takes to read or change them
	queue  []*pending
	urgent bool // somebody waits for what is in the queue
	closed bool

	wake  chan struct{} // has an element when the queue, urgent or closed has changed
	ended chan struct{} // closed when the goroutine has ended

	tree func() uint64 // size of the tree, when the follower last looked
	size uint64        // size after the last batch; owned by the goroutine
}

// A pending is a leaf that was handed to the sequencer. Its index and err are set before done is closed.
type pending struct {
	entry *tessera.Entry
	leaf  record.Leaf
	since time.Time
	done  chan struct{}
	index uint64
	err   error

	// What follows is for a storage that is shared, see storage.Leaf. dup and has are set like index: whether another
	// leaf had the key, and what value that one has.
	appending
	dup bool
	has record.Digest
}

// appending says how a leaf is to be appended.
type appending struct {
	urgent bool // somebody waits, so that others of the same batch needn't be waited for

	key     []byte
	value   record.Digest
	known   uint64 // how many leaves were looked through before, for one with the key
	atLeast []storage.Number
	epoch   uint64 // only while this is the epoch of the publisher's lease, unless it is 0
}

const (
	// gather is how long the first of a batch waits for others when a checkpoint could be signed at once. Integrating
	// a batch of one takes about as long.
	gather = 5 * time.Millisecond

	// lead is how long before the next checkpoint a batch is handed over: integrating, reading back and indexing it
	// takes about 15 ms.
	lead = 25 * time.Millisecond

	// maxHold bounds how long a batch is held back when checkpoints are rare.
	maxHold = time.Second
)

func newSequencer(add tessera.AddFn, l *Log) *sequencer {
	s := &sequencer{
		add:    add,
		next:   func() time.Time { return l.pub.nextDue() },
		before: func(b []*pending) { l.index.expect(b) },
		done:   func(p *pending) { l.index.appended(p) },
		tree:   func() uint64 { return l.tree.size.Load() },
		wake:   make(chan struct{}, 1),
		ended:  make(chan struct{}),
	}
	if l.shared != nil {
		// Integration comes later, in batches of its own.
		s.shared, s.next = l.shared, func() time.Time { return time.Time{} }
	}
	go s.run()
	return s
}

// append takes a leaf, which urgent ones don't let wait. The result's done is closed when it is durably in the tree, or
// when that failed.
func (s *sequencer) append(leaf record.Leaf, how appending) (*pending, error) {
	p := &pending{entry: tessera.NewEntry(leaf.Bytes()), leaf: leaf, since: time.Now(), done: make(chan struct{}), appending: how}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	s.queue = append(s.queue, p)
	s.urgent = s.urgent || how.urgent
	s.signal()
	return p, nil
}

func (s *sequencer) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close appends what is in the queue and ends the sequencer.
func (s *sequencer) close() {
	s.mu.Lock()
	s.closed = true
	s.signal()
	s.mu.Unlock()
	<-s.ended
}

func (s *sequencer) run() {
	defer close(s.ended)
	for {
		batch, wait, closed := s.take(time.Now())
		if len(batch) > 0 {
			s.flush(batch)
			continue
		}
		if closed {
			return
		}
		if wait == 0 { // the queue is empty
			<-s.wake
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// take removes the next batch from the queue, or says how long to wait for it: until something changes if that is 0.
func (s *sequencer) take(now time.Time) (batch []*pending, wait time.Duration, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.queue)
	if n == 0 {
		return nil, 0, s.closed
	}
	if !s.urgent && !s.closed {
		oldest := s.queue[0].since
		due := s.next().Add(-lead)
		if last := oldest.Add(maxHold); due.After(last) {
			due = last
		}
		if first := oldest.Add(gather); due.Before(first) {
			due = first
		}
		if wait := due.Sub(now); wait > 0 {
			room := tileWidth - int(max(s.size, s.tree())%tileWidth)
			if n < room {
				return nil, wait, false
			}
			n = room + (n-room)/tileWidth*tileWidth // as many bundles as are full
		}
	}
	batch, s.queue = s.queue[:n:n], append([]*pending(nil), s.queue[n:]...)
	if len(s.queue) == 0 {
		s.urgent = false
	}
	return batch, 0, false
}

// flush hands a batch to Tessera and waits until it is integrated.
func (s *sequencer) flush(batch []*pending) {
	s.before(batch)
	if s.shared != nil {
		s.shared.sequence(batch)
		return
	}
	// The context is for traces only: a future can't be cancelled.
	futures := make([]tessera.IndexFuture, len(batch))
	for i, p := range batch {
		futures[i] = s.add(context.Background(), p.entry)
	}
	for i, p := range batch {
		idx, err := futures[i]()
		if p.index, p.err = idx.Index, err; err != nil {
			p.err = fmt.Errorf("appending: %w", err)
		} else {
			s.size = max(s.size, p.index+1)
		}
		s.done(p)
		close(p.done)
	}
}
