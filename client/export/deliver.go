package export

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// A Sender gives lines to a receiver. One goroutine uses it.
type Sender interface {
	// Send returns nil once the receiver has taken all lines, as far as its protocol
	// says. With any other error than a *RefusedError the receiver may have taken none,
	// some or all: they are sent again, and the receiver has to know an event by its
	// uid.
	Send(ctx context.Context, lines [][]byte) error

	// Check returns an error if what was sent since the Sender's settling time may have
	// got lost meanwhile.
	Check() error

	// Settle returns how long what was sent may still get lost without an error of
	// Send; zero if the receiver confirms what it takes.
	Settle() time.Duration

	// Close ends the connection, in order if it can.
	Close() error
}

// A RefusedError says that the receiver will never take these lines, though it took
// none of them.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns e.Err.
func (e *RefusedError) Unwrap() error { return e.Err }

// A DeniedError says that the receiver doesn't take lines from us until somebody
// changes something, such as a token.
type DeniedError struct{ Err error }

func (e *DeniedError) Error() string { return e.Err.Error() }

// Unwrap returns e.Err.
func (e *DeniedError) Unwrap() error { return e.Err }

// A BusyError says when a receiver wants to be asked again.
type BusyError struct {
	After time.Duration
	Err   error
}

func (e *BusyError) Error() string { return e.Err.Error() }

// Unwrap returns e.Err.
func (e *BusyError) Unwrap() error { return e.Err }

// DeliverOptions says how a queue is emptied.
type DeliverOptions struct {
	// Lines and Bytes bound what is sent at once: 500 and 512 KiB if they are zero.
	Lines, Bytes int

	// MinWait and MaxWait bound the time between attempts, which doubles each time: one
	// second and one minute if they are zero. A receiver that asks for more gets it, up
	// to an hour.
	MinWait, MaxWait time.Duration

	// GiveUp ends delivery when nothing was taken for so long though there was
	// something, or at once if the receiver denies. Zero is never.
	GiveUp time.Duration

	// Report is called with each error that is not the end, if it is not nil.
	Report func(error)
}

// ErrRefused says that the receiver has refused events, which are in the queue's file
// "refused".
var ErrRefused = errors.New("the receiver refused events, which are in the queue's file \"refused\"")

// Deliver gives the receiver what is in a queue, in order, until the queue is finished
// and empty, or ctx ends, or it gives up. What was sent and has not settled when ctx ends
// is sent again next time.
func Deliver(ctx context.Context, q *Queue, s Sender, o DeliverOptions) error {
	if o.Lines == 0 {
		o.Lines = 500
	}
	if o.Bytes == 0 {
		o.Bytes = 512 << 10
	}
	if o.MinWait == 0 {
		o.MinWait = time.Second
	}
	if o.MaxWait == 0 {
		o.MaxWait = time.Minute
	}
	if o.Report == nil {
		o.Report = func(error) {}
	}
	d := &delivery{q: q, s: s, o: o, good: time.Now()}
	err := d.run(ctx)
	if err == nil && d.refused {
		return ErrRefused
	}
	return err
}

type delivery struct {
	q *Queue
	s Sender
	o DeliverOptions

	sent    []sentBatch // not settled yet, oldest first
	good    time.Time   // of the last success
	failed  int         // attempts since then
	refused bool

	// broken is how often something failed since anything has settled. As long as it
	// isn't zero, less is sent at once, and only when what was sent has settled: a
	// receiver that breaks down again and again still gets everything at last.
	broken int
}

type sentBatch struct {
	after Place
	at    time.Time
}

func (d *delivery) run(ctx context.Context) error {
	defer d.s.Close()
	for {
		if err := d.settle(); err != nil {
			if err := d.failure(ctx, err); err != nil {
				return err
			}
			continue
		}
		if d.broken > 0 && len(d.sent) > 0 {
			select {
			case <-time.After(max(d.s.Settle()/4, time.Millisecond)):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		changed := d.q.Changed()
		lines, after, done, err := d.q.Next(max(1, d.o.Lines>>min(d.broken, 20)), d.o.Bytes)
		if err != nil {
			return err
		}
		if len(lines) == 0 {
			if done && len(d.sent) == 0 {
				return nil
			}
			d.good = time.Now()
			var wait <-chan time.Time
			if len(d.sent) > 0 {
				wait = time.After(max(d.s.Settle()/4, time.Millisecond))
			}
			select {
			case <-changed:
			case <-wait:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		if err := d.send(ctx, lines, after); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := d.failure(ctx, err); err != nil {
				return err
			}
		}
	}
}

// send gives the receiver lines, one by one if it refuses some of them.
func (d *delivery) send(ctx context.Context, lines [][]byte, after Place) error {
	if err := d.try(ctx, lines); err != nil {
		return err
	}
	d.good, d.failed = time.Now(), 0
	d.sent = append(d.sent, sentBatch{after, d.good})
	return nil
}

func (d *delivery) try(ctx context.Context, lines [][]byte) error {
	err := d.s.Send(ctx, lines)
	if !errors.As(err, new(*RefusedError)) {
		return err
	}
	if len(lines) == 1 {
		d.refused = true
		d.o.Report(fmt.Errorf("an event was refused, and put aside: %w", err))
		return d.q.Refused(lines[0])
	}
	half := len(lines) / 2
	if err := d.try(ctx, lines[:half]); err != nil {
		return err
	}
	return d.try(ctx, lines[half:])
}

// settle makes what can't get lost any more durable, as delivered.
func (d *delivery) settle() error {
	if len(d.sent) == 0 {
		return nil
	}
	if err := d.s.Check(); err != nil {
		return err
	}
	n := 0
	for n < len(d.sent) && time.Since(d.sent[n].at) >= d.s.Settle() {
		n++
	}
	if n == 0 {
		return nil
	}
	if err := d.q.Delivered(d.sent[n-1].after); err != nil {
		return err
	}
	d.sent = d.sent[n:]
	d.broken = 0
	return nil
}

// failure goes back to what is known to be delivered, and waits.
func (d *delivery) failure(ctx context.Context, err error) error {
	if d.o.GiveUp > 0 && (errors.As(err, new(*DeniedError)) || time.Since(d.good) >= d.o.GiveUp) {
		return err
	}
	d.o.Report(err)
	d.sent = nil
	d.broken++
	if err := d.q.Rewind(); err != nil {
		return err
	}
	wait := d.o.MaxWait
	if d.failed < 20 {
		wait = min(wait, d.o.MinWait<<d.failed)
	}
	d.failed++
	wait -= rand.N(wait/4 + 1) // so that exporters don't come back all at once
	if busy := new(BusyError); errors.As(err, &busy) {
		wait = max(wait, min(busy.After, time.Hour))
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
