// Package appraiser is the monitor's cosigner: a c2sp.org/tlog-witness under a key of its own that cosigns a tree of one
// log only once a monitor has verified every entry in it. It reuses package witness whole, with its state, status codes
// and evidence; README.md has the statement that its cosignatures make, and how to run it.
package appraiser

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/witness"
)

// NameSuffix is what the name of each appraiser, and so of its keys, ends with. A key states one thing
// (c2sp.org/tlog-cosignature: "A given tuple MUST imply a single set of statements"), so that whoever reads a policy
// should see which.
const NameSuffix = checkpoint.AppraiserSuffix

// A Source has verified a log's entries itself; a monitor is one. Its methods can be called concurrently.
type Source interface {
	// Verified returns the size of the tree of which every entry was looked at, its root, computed from the entries, and
	// a note in which the log has signed that tree. The size never shrinks.
	Verified() (size uint64, root [32]byte, note []byte)

	// RootAt returns the root of the first size entries, size being at most the verified one, computed from the entries
	// or proven to be a prefix of what was.
	RootAt(size uint64) ([32]byte, error)

	// WaitVerified returns nil once the verified size is at least size. The caller says by it that the log has such a
	// tree: a source that looks for news from time to time looks now.
	WaitVerified(ctx context.Context, size uint64) error

	// Disputes returns entries that are not what a log may hold, in the order in which they were found, beginning after a
	// cursor, 0 at first, and the cursor to go on from, equal to the given one if there are no more. Whatever was found
	// below the verified size, as of the call, is among them.
	Disputes(cursor uint64) ([]Dispute, uint64, error)
}

// A Prover is a Source that can prove to others which root a prefix of the verified tree has. Without that, evidence of
// a fork holds both notes all the same.
type Prover interface {
	// Consistency returns the RFC 6962 proof between two sizes of the verified tree.
	Consistency(from, to uint64) ([][32]byte, error)
}

// A Dispute is an entry that keeps trees with it from being cosigned until it is excepted.
type Dispute struct {
	Index    uint64
	LeafHash [32]byte
	Reason   string // why, in words for the public
}

// Config configures [Open]. Fields are required unless they name a default.
type Config struct {
	// Witness configures the witness underneath: names, keys, state, and in Logs the log with each of its keys. The name
	// must end with [NameSuffix]; LogLists must be empty, and Approve and Statement unset.
	Witness witness.Config

	// Source has verified the log's entries.
	Source Source

	// ExceptionsFile is the path of the operator's list of exceptions, see [ParseExceptions]. It is looked at again when
	// it is needed, and may then only have grown. What was ever in it is kept beside Witness.State, as that path with
	// ".exceptions". The default is none.
	ExceptionsFile string

	// Wait is how long a request for a tree that isn't verified yet is held before it is answered 503. It defaults to 2
	// seconds: an appraiser that didn't wait would always be one checkpoint behind a busy log, which asks right after
	// publishing.
	Wait time.Duration

	disputeRetry time.Duration // after which to ask again about a tree with a disputed entry; a minute
}

// maxWaiting bounds how many requests are held at once. Anybody can send a log's newest checkpoint; the log itself is
// answered 503 then, and comes again.
const maxWaiting = 16

// maxPending bounds the disputes that are kept in memory. Beyond it nothing is cosigned, as with any of them.
const maxPending = 1000

// disputeRetry is when to ask again about a disputed entry: it takes a person to except it.
const disputeRetry = time.Minute

// verifyRate is how many entries one verifies in a second, roughly, for Retry-After.
const verifyRate = 4000

// An Appraiser is an open appraiser. Its methods can be called concurrently.
type Appraiser struct {
	*witness.Witness
	cfg     Config
	logger  *slog.Logger
	origin  string
	waiting chan struct{} // one element for each request that is held

	// mu guards what follows, and is held while disputes and exceptions are read, which is brief.
	mu         sync.Mutex
	exceptions *exceptions
	fileErr    string // why the operator's file can't be used, "" if it can
	cursor     uint64
	pending    map[uint64]Dispute // not excepted
	blocked    *Dispute           // the lowest of those that kept something from being cosigned, for Status
	announced  map[uint64]bool    // disputes that were logged
}

// Open opens the appraiser's state, and reads its exceptions.
func Open(cfg Config) (*Appraiser, error) {
	w := &cfg.Witness
	switch {
	case !strings.HasSuffix(w.Name, NameSuffix) || len(w.Name) == len(NameSuffix):
		return nil, fmt.Errorf("an appraiser's name must end in %s, so that nobody takes it for a plain witness: %q", NameSuffix, w.Name)
	case w.Approve != nil || w.Statement != "" || len(w.LogLists) > 0:
		return nil, errors.New("approval, statement and log lists are not for the caller to give")
	case len(w.Logs) == 0:
		return nil, errors.New("no log to appraise")
	case cfg.Source == nil:
		return nil, errors.New("no source of verified entries")
	}
	a := &Appraiser{cfg: cfg, logger: w.Logger, origin: w.Logs[0].Origin, waiting: make(chan struct{}, maxWaiting),
		pending: make(map[uint64]Dispute), announced: make(map[uint64]bool)}
	for _, l := range w.Logs {
		if l.Origin != a.origin {
			return nil, fmt.Errorf("an appraiser has one log: %q and %q", a.origin, l.Origin)
		}
	}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if a.cfg.Wait == 0 {
		a.cfg.Wait = 2 * time.Second
	}
	if a.cfg.disputeRetry == 0 {
		a.cfg.disputeRetry = disputeRetry
	}
	var err error
	if a.exceptions, err = openExceptions(a.origin, cfg.ExceptionsFile, w.State+".exceptions", a.now()); err != nil {
		return nil, err
	}
	inner := a.cfg.Witness
	inner.Approve = a.approve
	inner.Statement = fmt.Sprintf("It is an appraiser: by its cosignature it also states that it has verified every entry of the log's tree itself, "+
		"by Affidavit's rules, except for those entries that are listed, each with a reason, at %s.", a.exceptionsPath())
	if a.Witness, err = witness.Open(inner); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Appraiser) now() time.Time {
	if a.cfg.Witness.Now != nil {
		return a.cfg.Witness.Now()
	}
	return time.Now()
}

func (a *Appraiser) exceptionsPath() string {
	h := sha256.Sum256([]byte(a.origin))
	return "/" + hex.EncodeToString(h[:]) + "/exceptions"
}

// Handler returns the public interface: the witness's, and besides it
//
//	GET /<origin hash>/exceptions    the exceptions in force, a list that only grows
//
// where the origin hash is that of the monitoring interface: the SHA-256 of the log's origin in lowercase hexadecimal.
func (a *Appraiser) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", a.Witness.Handler())
	mux.HandleFunc("GET "+a.exceptionsPath(), func(rw http.ResponseWriter, req *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		rw.Header().Set("X-Content-Type-Options", "nosniff")
		rw.Header().Set("Cache-Control", "no-cache")
		rw.Write(a.exceptionsText())
	})
	return mux
}

// exceptionsText returns the list in force.
func (a *Appraiser) exceptionsText() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refreshExceptions()
	return a.exceptions.text
}

// Exceptions returns the exceptions in force.
func (a *Appraiser) Exceptions() *Exceptions {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refreshExceptions()
	return &Exceptions{Origin: a.origin, List: slices.Clone(a.exceptions.now.List)}
}

// Blocked returns the disputed entry of lowest index that keeps trees from being cosigned, as far as is known from the
// last request, or nil.
func (a *Appraiser) Blocked() *Dispute {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.blocked
}

// refreshExceptions looks at the operator's file. a.mu is held.
func (a *Appraiser) refreshExceptions() {
	changed, err := a.exceptions.refresh(a.now())
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != a.fileErr && text != "" {
		a.logger.Error("exceptions can't be used; those before still hold", "err", err)
	}
	a.fileErr = text
	if changed {
		a.logger.Info("exceptions read", "number", len(a.exceptions.now.List))
	}
}

// approve is witness.Config.Approve.
func (a *Appraiser) approve(ctx context.Context, c checkpoint.Checkpoint, note *checkpoint.Note) error {
	size, _, published := a.cfg.Source.Verified()
	if c.Size > size {
		if err := a.wait(ctx, c.Size); err != nil {
			size, _, _ := a.cfg.Source.Verified()
			if size < c.Size {
				return later(size, c.Size)
			}
		}
		// Everything that was found before the size got there is among the disputes that are read below.
		if size, _, published = a.cfg.Source.Verified(); size < c.Size {
			return later(size, c.Size)
		}
	}
	if c.Size > 0 { // the empty tree's root is the witness's to check, and it holds no entry
		root, err := a.cfg.Source.RootAt(c.Size)
		if err != nil {
			return fmt.Errorf("root of size %d: %w", c.Size, err)
		}
		if root != c.Root {
			return a.forked(c, root, size, published)
		}
	}
	return a.undisputed(c.Size)
}

// wait waits for the source to have verified size entries.
func (a *Appraiser) wait(ctx context.Context, size uint64) error {
	select {
	case a.waiting <- struct{}{}:
	default:
		return errors.New("too many requests are held already")
	}
	defer func() { <-a.waiting }()
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Wait)
	defer cancel()
	return a.cfg.Source.WaitVerified(ctx, size)
}

// later says that the entries from size on aren't verified yet.
func later(size, want uint64) error {
	return &witness.DeferError{
		Reason:     fmt.Sprintf("verified %d of %d entries so far", size, want),
		RetryAfter: time.Duration(min((want-size)/verifyRate, 60)) * time.Second,
	}
}

// forked returns the error for a checkpoint that is signed by the log, and isn't of the tree that it has published.
func (a *Appraiser) forked(c checkpoint.Checkpoint, root [32]byte, size uint64, published []byte) error {
	a.logger.Error("the log forked", "origin", c.Origin, "published size", size, "size", c.Size,
		"published root", fmt.Sprintf("%x", root), "root", fmt.Sprintf("%x", c.Root))
	e := fmt.Appendf(nil, "It had published this, whose entries this appraiser has read:\n\n%s\nThe root of the first %d of those entries is %x", published, c.Size, root)
	if p, ok := a.cfg.Source.(Prover); ok && c.Size < size {
		if proof, err := p.Consistency(c.Size, size); err != nil {
			a.logger.Error("no proof for the evidence of the fork", "err", err)
		} else {
			e = append(e, ", as this consistency proof (RFC 6962) to the published size shows:\n\n"...)
			for _, h := range proof {
				e = fmt.Appendf(e, "%x\n", h)
			}
			return &witness.ForkError{Reason: "the log has published another tree", Evidence: e}
		}
	}
	return &witness.ForkError{Reason: "the log has published another tree", Evidence: append(e, ".\n"...)}
}

// undisputed returns nil if every dispute about the first size entries is excepted.
func (a *Appraiser) undisputed(size uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	complete, err := a.readDisputes()
	if err != nil {
		return fmt.Errorf("disputed entries: %w", err)
	}
	if complete && len(a.pending) == 0 {
		a.blocked = nil
		return nil
	}
	// There may be an exception that wasn't there before.
	a.refreshExceptions()
	for {
		excepted := false
		for i, d := range a.pending {
			if a.exceptions.cover(d) {
				delete(a.pending, i)
				excepted = true
			}
		}
		if complete || !excepted {
			break
		}
		if complete, err = a.readDisputes(); err != nil {
			return fmt.Errorf("disputed entries: %w", err)
		}
	}
	var lowest *Dispute
	for _, d := range a.pending {
		if lowest == nil || d.Index < lowest.Index {
			lowest = &d
		}
	}
	if complete && (lowest == nil || lowest.Index >= size) {
		a.blocked = nil
		return nil
	}
	a.blocked = lowest
	if !a.announced[lowest.Index] {
		a.announced[lowest.Index] = true
		a.logger.Error("nothing more is cosigned until this entry is excepted", "index", lowest.Index, "leaf hash", fmt.Sprintf("%x", lowest.LeafHash), "reason", lowest.Reason)
	}
	return &witness.DeferError{
		Reason:     fmt.Sprintf("entry %d is disputed and not excepted: %s", lowest.Index, lowest.Reason),
		RetryAfter: a.cfg.disputeRetry,
	}
}

// readDisputes reads what the source has found since the last time, and reports whether that was all; it isn't if too
// many are pending. a.mu is held.
func (a *Appraiser) readDisputes() (complete bool, err error) {
	for len(a.pending) < maxPending {
		ds, next, err := a.cfg.Source.Disputes(a.cursor)
		if err != nil {
			return false, err
		}
		if next == a.cursor {
			return true, nil
		}
		a.cursor = next
		for _, d := range ds {
			if !a.exceptions.cover(d) {
				a.pending[d.Index] = d
			}
		}
	}
	return false, nil
}
