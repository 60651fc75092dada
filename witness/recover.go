package witness

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// holdAll marks all logs as to be recovered, durably: a witness that was
// restored from a backup may have cosigned more than it remembers, for any of
// them, and a restart must not make it forget that.
func (w *Witness) holdAll() error {
	var origins []string
	for _, l := range w.all() {
		origins = append(origins, l.origin)
	}
	if err := w.store.hold(origins); err != nil {
		return err
	}
	for _, l := range w.all() {
		l.held.Store(true)
	}
	return nil
}

// recoverHeld tries to recover all logs that are held.
func (w *Witness) recoverHeld(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(16)
	for _, l := range w.all() {
		if !l.held.Load() {
			continue
		}
		g.Go(func() error {
			if err := w.recoverLog(ctx, l); err != nil && ctx.Err() == nil {
				w.cfg.Logger.Error("log not recovered, will try again", "origin", l.origin, "err", err)
			}
			return nil
		})
	}
	_ = g.Wait() // errors were logged
}

// recoverLog advances l to the largest checkpoint with an own cosignature among
// those found, if it is larger than what the state has, and releases l. An own
// cosignature says that a past self of this witness had verified everything up
// to there.
//
// Every place that was named must answer: if one of two is down, it might be the
// one that shows the larger.
func (w *Witness) recoverLog(ctx context.Context, l *logState) error {
	places := w.cfg.RecoverFrom[l.origin]
	if len(places) == 0 {
		places = []string{"https://" + l.origin + "/checkpoint"}
	}
	var best *value
	for _, where := range places {
		b, err := w.fetch(ctx, where, checkpoint.MaxNote)
		if err != nil {
			return err
		}
		v, err := w.ownCheckpoint(l, b)
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if v == nil {
			continue
		}
		if best != nil && best.size == v.size && best.root != v.root {
			return fmt.Errorf("two checkpoints of size %d with own cosignatures differ: the witness's key is in use elsewhere, or was", v.size)
		}
		if best == nil || v.size > best.size {
			best = v
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.held.Load() {
		return nil
	}
	last := l.head.Load()
	if best != nil && last != nil {
		switch {
		case best.size == last.size && best.root != last.root:
			return fmt.Errorf("the state has another root of size %d than an own cosignature: the witness's key is in use elsewhere, or was", best.size)
		case best.size <= last.size:
			best = nil
		}
	}
	if err := w.store.release(l.origin, last, best); err != nil {
		return err
	}
	if best != nil {
		h, err := w.headOf(*best)
		if err != nil {
			return err
		}
		l.head.Store(h)
	}
	l.held.Store(false)
	h := l.head.Load()
	if h == nil {
		h = &head{}
	}
	w.cfg.Logger.Info("log recovered", "origin", l.origin, "size", h.size, "advanced", best != nil)
	return nil
}

// ownCheckpoint returns what to record of a signed checkpoint of l: nil if it
// has no own cosignature. The error says that it isn't a checkpoint of l.
func (w *Witness) ownCheckpoint(l *logState, note []byte) (*value, error) {
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	if c.Origin != l.origin {
		return nil, fmt.Errorf("a checkpoint of %.300q", c.Origin)
	}
	signed, err := l.verify(n)
	if err != nil {
		return nil, err
	}
	var own []checkpoint.NoteSignature
	for _, s := range n.Signatures {
		for _, k := range w.cfg.Keys {
			if !k.Verifier().Matches(s) {
				continue
			}
			if _, err := k.Verifier().Verify(n.Text, s); err != nil {
				return nil, err
			}
			own = append(own, s)
		}
	}
	if own == nil {
		return nil, nil
	}
	if c.Size == 0 && c.Root != checkpoint.EmptyRoot() {
		return nil, errors.New("size 0 with another root than the empty tree's")
	}
	return &value{c.Size, c.Root, (&checkpoint.Note{Text: n.Text, Signatures: append(signed, own...)}).Bytes()}, nil
}
