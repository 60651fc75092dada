package webui

import (
	"context"
	"sync"
	"time"
)

// Limits of jobs, which read much of the index: a vendor with a million records takes seconds.
const (
	jobWorkers = 2
	jobQueue   = 16
	maxJobs    = 64               // results that are kept
	jobTimeout = 5 * time.Minute  // of one: nobody waits for it
	jobFresh   = 10 * time.Second // how long a result is good although the log has grown
	jobWait    = 20 * time.Millisecond
)

// jobs computes answers in the background, and keeps them: a page never waits long, and however many readers ask for the
// same, it is computed once.
type jobs struct {
	mu    sync.Mutex
	by    map[string]*job
	queue chan *job
}

// A job is one answer. The fields below done are written before it is closed.
type job struct {
	key  string
	size uint64 // of the log when it was asked for
	run  func(context.Context) (any, error)

	done  chan struct{}
	value any
	err   error
	ended time.Time

	used time.Time // guarded by jobs.mu
	next *job      // its successor under way, guarded by jobs.mu
}

func (j *jobs) init() {
	j.by, j.queue = make(map[string]*job), make(chan *job, jobQueue)
}

// get returns the newest answer to a question, which may be of a smaller log, or pending if there is none so far.
func (j *jobs) get(ctx context.Context, key string, size uint64, now time.Time, run func(context.Context) (any, error)) (value any, pending bool, err error) {
	wait, old, err := j.start(key, size, now, run)
	if err != nil {
		return nil, false, err
	}
	if wait != nil {
		t := time.NewTimer(jobWait)
		defer t.Stop()
		select {
		case <-wait.done:
			return wait.value, false, wait.err
		case <-t.C:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	if old == nil {
		return nil, true, nil
	}
	return old.value, false, old.err
}

// start returns the job to wait for, and the one whose answer is there already; either may be nil.
func (j *jobs) start(key string, size uint64, now time.Time, run func(context.Context) (any, error)) (wait, old *job, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	old = j.by[key]
	if old != nil {
		old.used = now
		if old.next != nil && closed(old.next.done) {
			old.next.used, old = now, old.next
			j.by[key] = old
		}
		switch {
		case !closed(old.done):
			return old, nil, nil
		case old.size == size && old.err == nil, now.Sub(old.ended) < jobFresh:
			return nil, old, nil
		case old.next != nil:
			return old.next, old, nil
		}
	}
	n := &job{key: key, size: size, run: run, done: make(chan struct{}), used: now}
	select {
	case j.queue <- n:
	default:
		if old != nil {
			return nil, old, nil
		}
		return nil, nil, errBusy
	}
	if old != nil {
		old.next = n
		return n, old, nil
	}
	if len(j.by) >= maxJobs {
		j.evict()
	}
	j.by[key] = n
	return n, nil, nil
}

// evict forgets the answer that was asked for longest ago. Jobs under way aren't more than the queue and the workers hold.
func (j *jobs) evict() {
	var oldest *job
	for _, x := range j.by {
		if closed(x.done) && (oldest == nil || x.used.Before(oldest.used)) {
			oldest = x
		}
	}
	if oldest != nil {
		delete(j.by, oldest.key)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// work does jobs until ctx is done.
func (j *jobs) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-j.queue:
			jctx, cancel := context.WithTimeout(ctx, jobTimeout)
			n.value, n.err = n.run(jctx)
			if ctx.Err() != nil {
				n.err = errStopping
			}
			cancel()
			n.ended = time.Now()
			close(n.done)
		}
	}
}
