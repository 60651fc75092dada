package witness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// maxEvidence is how many proofs of forks are kept for each log. One is enough
// to know; a log that signs many must not fill the disk.
const maxEvidence = 8

// A refusal is an answer that isn't 200. Its message goes to the client.
type refusal struct {
	status int
	msg    string
	size   uint64        // for 409: the size of the last cosigned checkpoint
	retry  time.Duration // for 429 and 503: after which to try again
}

func (r *refusal) Error() string { return r.msg }

func refuse(status int, format string, a ...any) error {
	return &refusal{status: status, msg: fmt.Sprintf(format, a...)}
}

// addCheckpoint answers add-checkpoint. The order of the checks is that of the
// specification's text and of its reference implementation, so that all
// witnesses give the same answer to the same mistake. The error is a *refusal,
// or an internal error.
func (w *Witness) addCheckpoint(ctx context.Context, body []byte) (lines []byte, err error) {
	r, err := parseAddRequest(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	// "If the checkpoint origin is unknown, the witness MUST respond with a "404
	// Not Found" HTTP status code."
	l, err := w.logOf(r.note)
	if err != nil {
		return nil, err
	}
	// "... "403 Forbidden" HTTP status code if either no signature from a trusted
	// key for the origin is present, or a signature line's key name and ID match
	// a trusted key but the signature itself fails to verify".
	signed, err := l.verify(r.note)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.ParseCheckpoint(r.note.Text)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	// "The old size MUST be equal to or lower than the checkpoint size.
	// Otherwise, the witness MUST respond with a "400 Bad Request"".
	if r.old > c.Size {
		return nil, refuse(http.StatusBadRequest, "old size %d is larger than the checkpoint's, %d", r.old, c.Size)
	}
	// "A checkpoint of size zero MUST have the root hash of the empty tree".
	if c.Size == 0 && c.Root != checkpoint.EmptyRoot() {
		return nil, refuse(http.StatusUnprocessableEntity, "the root isn't that of the empty tree")
	}
	if !slices.ContainsFunc(w.cfg.Keys, func(k *checkpoint.SigningKey) bool { return canSign(k, &c) }) {
		return nil, refuse(http.StatusUnprocessableEntity, "ML-DSA-44 cosignatures don't cover extension lines, or an origin of more than 255 bytes")
	}

	if w.cfg.Approve != nil {
		// Approval may take a while, during which l.mu must not be held. Hence all
		// is checked before it, so that it isn't asked about what is refused anyway,
		// and again after it, since meanwhile another checkpoint may have been
		// cosigned.
		if err := l.checked(w, r, &c, signed, func(*head) error { return nil }); err != nil {
			return nil, err
		}
		if err := w.approve(ctx, l, r, &c, signed); err != nil {
			return nil, err
		}
	}
	err = l.checked(w, r, &c, signed, func(last *head) error {
		lines, err = w.cosign(l, last, r, &c, signed)
		return err
	})
	if err != nil {
		return nil, err
	}
	return lines, nil
}

// checked checks a request against what was last cosigned for l, and if it
// continues that, calls then, with l.mu held.
func (l *logState) checked(w *Witness, r *addRequest, c *checkpoint.Checkpoint, signed []checkpoint.NoteSignature, then func(last *head) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held.Load() {
		return &refusal{status: http.StatusServiceUnavailable, retry: time.Minute,
			msg: "this witness was restored from a backup and hasn't seen the log's published checkpoint yet"}
	}
	if w.Err() != nil {
		return refuse(http.StatusServiceUnavailable, "this witness can't write its state, and cosigns nothing")
	}
	last := l.head.Load()
	if last == nil {
		last = &head{root: checkpoint.EmptyRoot()} // for comparisons; nothing was cosigned
	}
	if err := w.keepFork(l, last, r, c, signed); err != nil {
		return err
	}
	// "The witness MUST check that the old size matches the size of the latest
	// checkpoint it cosigned for the checkpoint's origin (or zero if it never
	// cosigned a checkpoint for that origin)."
	if r.old != last.size {
		return &refusal{status: http.StatusConflict, size: last.size}
	}
	// "If the old size is zero, the consistency proof MUST be empty", "If the old
	// size matches the checkpoint size, the witness MUST check that the root
	// hashes are also identical": both are rules of VerifyConsistency.
	if err := checkpoint.VerifyConsistency(last.root, c.Root, r.old, c.Size, r.proof); err != nil {
		return refuse(http.StatusUnprocessableEntity, "%v", err)
	}
	return then(last)
}

// cosign cosigns a checked request. l.mu is held.
func (w *Witness) cosign(l *logState, last *head, r *addRequest, c *checkpoint.Checkpoint, signed []checkpoint.NoteSignature) ([]byte, error) {
	now := w.cfg.Now()
	budget := l.grow
	if c.Size == last.size && l.head.Load() != nil {
		budget = l.refresh
	}
	if err := take(budget, now); err != nil {
		return nil, err
	}
	lines, err := w.sign(c, r.note.Text, now)
	if err != nil {
		return nil, err
	}
	// "The witness MUST persist the new checkpoint before responding", and
	// "checking the old size against the latest checkpoint and persisting the new
	// checkpoint must be performed atomically": l.mu does that among requests,
	// and the transaction compares again.
	note := append((&checkpoint.Note{Text: r.note.Text, Signatures: signed}).Bytes(), lines...)
	err = w.store.advance(l.origin, l.head.Load(), value{c.Size, c.Root, note})
	if err != nil {
		// Whether it was written is unknown. Nothing was answered, and nothing
		// will be until the database has been opened and read again.
		return nil, err
	}
	l.head.Store(&head{size: c.Size, root: c.Root, timestamp: uint64(now.Unix())})
	return lines, nil
}

// approve asks Config.Approve. The error is a *refusal or an internal one.
func (w *Witness) approve(ctx context.Context, l *logState, r *addRequest, c *checkpoint.Checkpoint, signed []checkpoint.NoteSignature) error {
	err := w.cfg.Approve(ctx, *c, &checkpoint.Note{Text: r.note.Text, Signatures: signed})
	var later *DeferError
	var fork *ForkError
	switch {
	case errors.As(err, &later):
		return &refusal{status: http.StatusServiceUnavailable, retry: max(later.RetryAfter, time.Second), msg: later.Reason}
	case errors.As(err, &fork):
		l.mu.Lock()
		defer l.mu.Unlock()
		if err := w.addFork(l, r, c, signed, fork.Evidence); err != nil {
			return err
		}
		return refuse(http.StatusUnprocessableEntity, "%s", fork.Reason)
	}
	return err
}

// logOf returns the log whose checkpoint n claims to be.
func (w *Witness) logOf(n *checkpoint.Note) (*logState, error) {
	origin, _, _ := bytes.Cut(n.Text, []byte("\n"))
	l := w.lookup(string(origin))
	if l == nil {
		return nil, refuse(http.StatusNotFound, "unknown log %.300q", origin)
	}
	return l, nil
}

// verify verifies each signature of n that names one of l's keys, and returns
// the first of each key: at least one.
func (l *logState) verify(n *checkpoint.Note) (signed []checkpoint.NoteSignature, err error) {
	for _, s := range n.Signatures {
		for _, k := range l.keys {
			if !k.Matches(s) {
				continue
			}
			if _, err := k.Verify(n.Text, s); err != nil {
				return nil, refuse(http.StatusForbidden, "%v", err)
			}
			if !slices.ContainsFunc(signed, k.Matches) {
				signed = append(signed, s)
			}
		}
	}
	if signed == nil {
		return nil, refuse(http.StatusForbidden, "not signed by a key that this witness knows for log %.300q", l.origin)
	}
	return signed, nil
}

// take takes one from a budget at the time now.
func take(budget *rate.Limiter, now time.Time) error {
	if budget == nil {
		return nil
	}
	r := budget.ReserveN(now, 1)
	if d := r.DelayFrom(now); d > 0 {
		r.CancelAt(now)
		return &refusal{status: http.StatusTooManyRequests, retry: d, msg: "the log's queries per day are used up"}
	}
	return nil
}

// keepFork keeps the request as evidence if it proves that the log, which
// signed both, doesn't continue the tree that was last cosigned; whatever the
// answer will be. l.mu is held.
func (w *Witness) keepFork(l *logState, last *head, r *addRequest, c *checkpoint.Checkpoint, signed []checkpoint.NoteSignature) error {
	old := r.old
	if c.Size == last.size {
		old = c.Size // two roots of one size need no proof
	}
	if l.head.Load() == nil || old != last.size || !checkpoint.ProvesFork(last.root, c.Root, old, c.Size, r.proof) {
		return nil
	}
	if l.forks[sizeAndRoot(c.Size, c.Root)] {
		return nil
	}
	cosigned, err := w.store.note(l.origin)
	if err != nil {
		return err
	}
	w.cfg.Logger.Error("the log forked", "origin", l.origin, "cosigned size", last.size, "cosigned root", fmt.Sprintf("%x", last.root),
		"size", c.Size, "root", fmt.Sprintf("%x", c.Root))
	return w.addFork(l, r, c, signed, append([]byte("This witness had cosigned:\n\n"), cosigned...))
}

// addFork counts a fork of the log, and keeps the request with the evidence
// against it, unless that is known. l.mu is held.
func (w *Witness) addFork(l *logState, r *addRequest, c *checkpoint.Checkpoint, signed []checkpoint.NoteSignature, evidence []byte) error {
	key := sizeAndRoot(c.Size, c.Root)
	if l.forks[key] {
		return nil
	}
	l.forkCount.Add(1)
	if len(l.forks) >= maxEvidence {
		return nil
	}
	text := fmt.Appendf(nil, "This log forked, as was seen at %s. ", w.cfg.Now().UTC().Format(time.RFC3339))
	text = append(text, evidence...)
	text = append(text, "\nThen it was asked to cosign this, which the log signed too:\n\n"...)
	text = append(text, (&addRequest{r.old, r.proof, &checkpoint.Note{Text: r.note.Text, Signatures: signed}}).bytes()...)
	if err := w.store.addEvidence(l.origin, key, text); err != nil {
		return err
	}
	if l.forks == nil {
		l.forks = make(map[[40]byte]bool)
	}
	l.forks[key] = true
	return nil
}

// signSubtree answers sign-subtree. The error is a *refusal or an internal one.
func (w *Witness) signSubtree(_ context.Context, body []byte) (lines []byte, err error) {
	r, err := parseSubtreeRequest(body)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	l, err := w.logOf(r.note)
	if err != nil {
		return nil, err
	}
	// "The witness MUST verify that the checkpoint includes a valid cosignature
	// from one of its own keys. If the witness can't verify the checkpoint, it
	// MUST respond with a "403 Forbidden"".
	own := false
	for _, s := range r.note.Signatures {
		for _, k := range w.cfg.Keys {
			if !k.Verifier().Matches(s) {
				continue
			}
			if _, err := k.Verifier().Verify(r.note.Text, s); err != nil {
				return nil, refuse(http.StatusForbidden, "%v", err)
			}
			own = true
		}
	}
	if !own {
		return nil, refuse(http.StatusForbidden, "the checkpoint isn't cosigned by this witness")
	}
	if err := checkpoint.VerifySubtreeConsistency(r.start, r.end, r.checkpoint.Size, r.hash, r.checkpoint.Root, r.proof); err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, "%v", err)
	}
	if err := take(l.subtree, w.cfg.Now()); err != nil {
		return nil, err
	}
	for _, k := range w.cfg.Keys {
		if k.Kind() != checkpoint.CosignatureMLDSA44 {
			continue
		}
		line, err := k.SignSubtree(r.checkpoint.Origin, r.start, r.end, r.hash)
		if err != nil { // an origin that is too long
			return nil, refuse(http.StatusUnprocessableEntity, "%v", err)
		}
		lines = append(lines, line...)
	}
	return lines, nil
}

// signsSubtrees reports whether w has a key that can.
func (w *Witness) signsSubtrees() bool {
	return slices.ContainsFunc(w.cfg.Keys, func(k *checkpoint.SigningKey) bool { return k.Kind() == checkpoint.CosignatureMLDSA44 })
}
