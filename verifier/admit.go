package verifier

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Ruleset names the admission rules of [Verifier.Admit] in leaves. Changed rules
// need a new name, and code for the old ones stays.
const Ruleset = record.RulesetV1

// DefaultMaxFreshnessAge is how old a freshness note may be at admission unless
// an [Admission] says otherwise.
const DefaultMaxFreshnessAge = 10 * time.Minute

// clockTolerance is how far apart clocks of different machines may be.
const clockTolerance = time.Minute

// An Admission is the context of one submission: what the log knows, and who
// submits. All functions are required, and are called by the goroutine that calls
// [Verifier.Admit].
type Admission struct {
	// Origin is the log's. A statement's freshness must be a checkpoint of it.
	Origin string

	// VendorID is the vendor whose credentials the submitter has presented.
	VendorID string

	// Freshness returns the checkpoint in a cosigned note that a time leaf of
	// this log holds, by the note's SHA-256, and when the leaf was logged.
	Freshness func(note record.Digest) (loggedAt time.Time, cp checkpoint.Checkpoint, ok bool)

	// MaxFreshnessAge defaults to DefaultMaxFreshnessAge.
	MaxFreshnessAge time.Duration

	// LateUntil admits statements whose freshness is older than MaxFreshnessAge,
	// up to this age: a vendor that was cut off can still log its records. They
	// stay visibly late, see Input.FreshnessAge. With zero there are none.
	LateUntil time.Duration

	// VendorKeys returns a release key of a vendor by its key id, if a
	// vendor-key leaf of this log holds it.
	VendorKeys func(vendor, keyid string) (ed25519.PublicKey, bool)

	// ListedKeys returns a release key by its key id, if the operator lists it
	// for the vendor. Only vendor-key/v1 statements ask for it.
	ListedKeys func(vendor, keyid string) (ed25519.PublicKey, bool)

	// PreviousStart returns when the shard before this log, record.NextShard, has
	// admitted the session-start record that an end names, if it has it. If it is
	// nil, sessions of another log don't end in this one.
	PreviousStart func(record.StatementRef) (admittedAt time.Time, ok bool)

	// AllowImports allows evidence that isn't bound to a statement, or to no more
	// than a key: entries of profiles for which [record.Profile.Import] holds.
	AllowImports bool
}

// A Problem names a rule of admission that an entry broke. The log's problem
// documents use the same words.
type Problem string

const (
	ProblemMalformed         Problem = "malformed"
	ProblemVendorMismatch    Problem = "vendor-mismatch"
	ProblemImportsNotAllowed Problem = "imports-not-allowed"
	ProblemUnknownKey        Problem = "unknown-key"
	ProblemUnknownFreshness  Problem = "unknown-freshness"
	ProblemStaleFreshness    Problem = "stale-freshness"
	ProblemUnknownStart      Problem = "unknown-start"
	ProblemNoCollateral      Problem = "no-collateral"
	ProblemNotGenuine        Problem = "not-genuine"
)

// An AdmissionError says why an entry isn't admitted.
type AdmissionError struct {
	Problem Problem
	// Reason is set if Problem is ProblemNotGenuine: that of a [NotGenuine], or
	// ReasonDebug.
	Reason string
	Err    error
}

// ReasonDebug is the reason for which a debug TD isn't admitted: its quote is
// genuine, but the host can make it say anything.
const ReasonDebug = "debug"

func (e *AdmissionError) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("%s (%s): %v", e.Problem, e.Reason, e.Err)
	}
	return fmt.Sprintf("%s: %v", e.Problem, e.Err)
}

// Unwrap returns e.Err.
func (e *AdmissionError) Unwrap() error { return e.Err }

// An Admitted is an entry that satisfies the rules of [Ruleset]. Only
// [Verifier.Admit] makes one.
type Admitted struct {
	entry                *record.Entry
	admittedAt, judgedAt time.Time
	set                  *tdx.Set
	quote                *tdx.Quote
	result               *tdx.Result
}

// Entry returns the entry.
func (a *Admitted) Entry() *record.Entry { return a.entry }

// AdmittedAt returns when the entry was admitted, in whole milliseconds.
func (a *Admitted) AdmittedAt() time.Time { return a.admittedAt }

// JudgedAt returns the time for which the evidence was judged, in whole
// milliseconds. It is AdmittedAt except for imports.
func (a *Admitted) JudgedAt() time.Time { return a.judgedAt }

// Collateral returns what the evidence was judged by, nil for a vendor-signed
// entry.
func (a *Admitted) Collateral() *tdx.Set { return a.set }

// Quote returns the entry's quote, nil for a vendor-signed entry.
func (a *Admitted) Quote() *tdx.Quote { return a.quote }

// TDX returns the result for the quote, nil for a vendor-signed entry.
func (a *Admitted) TDX() *tdx.Result { return a.result }

// Admit judges an entry by the admission rules [Ruleset], the cheap ones first:
//
//  1. The entry is well-formed and of a known profile; imports only if
//     a.AllowImports.
//  2. Its vendor is the one who submits it.
//  3. Whoever's key signed it is known: for vendors' entries, a key that is in the
//     log; for a vendor-key entry, one that the operator lists.
//  4. The checkpoint that it was made after is in a time leaf of this log, and
//     no older than a.MaxFreshnessAge, or than a.LateUntil if that is more.
//  5. It is genuine, as [Verifier.Verify] has it, by collateral that was valid at
//     judgedAt.
//  6. The TD isn't a debug TD.
//
// judgedAt must be admittedAt, but for evidence/v1 it must be when the evidence
// was collected, which can't be later. Both are rounded down to milliseconds,
// which is what leaves hold. set is nil for vendor-signed entries.
//
// The error is an *[AdmissionError], unless the times are wrong. Nothing is
// remembered: that a statement isn't there yet is for the log to check.
func (v *Verifier) Admit(e *record.Entry, set *tdx.Set, admittedAt, judgedAt time.Time, a *Admission) (*Admitted, error) {
	admittedAt, judgedAt = milliseconds(admittedAt), milliseconds(judgedAt)
	st := e.Statement()
	if st == nil {
		return nil, inadmissible(ProblemMalformed, "the entry wasn't parsed")
	}
	if st.Evidence == nil && !judgedAt.Equal(admittedAt) {
		return nil, fmt.Errorf("verifier: judged at %s, but admitted at %s", timestamp(judgedAt), timestamp(admittedAt))
	}
	if e.Profile.Import() && !a.AllowImports {
		return nil, inadmissible(ProblemImportsNotAllowed, "this log takes no evidence that isn't bound to a statement")
	}
	if ev := st.Evidence; ev != nil {
		if collected := ev.CollectedOn; collected.After(admittedAt) {
			return nil, refuseEntry(notGenuine(ReasonStatement, "the evidence was collected at %s, which is later than %s", timestamp(collected), timestamp(admittedAt)))
		}
	}
	if st.Vendor != a.VendorID {
		return nil, inadmissible(ProblemVendorMismatch, "the statement is of vendor %.200q, but was submitted by vendor %.200q", st.Vendor, a.VendorID)
	}
	if err := a.checkKey(e, st); err != nil {
		return nil, err
	}
	if err := a.checkFreshness(st.Freshness(), admittedAt); err != nil {
		return nil, err
	}
	if e.Quote() != nil {
		if set == nil {
			return nil, inadmissible(ProblemNoCollateral, "there is no collateral to judge the quote by")
		}
		if err := set.ValidAt(judgedAt); err != nil {
			return nil, &AdmissionError{Problem: ProblemNoCollateral, Err: err}
		}
	} else {
		set = nil
	}
	q, res, err := v.genuine(e, set, judgedAt, a.VendorKeys)
	if err != nil {
		return nil, refuseEntry(err)
	}
	if q != nil && q.Body.TDAttributes.Debug() {
		return nil, &AdmissionError{Problem: ProblemNotGenuine, Reason: ReasonDebug, Err: errors.New("the quote is of a debug TD, whose host can make it say anything")}
	}
	if err := a.checkStart(startOf(st), admittedAt); err != nil {
		return nil, err
	}
	return &Admitted{entry: e, admittedAt: admittedAt, judgedAt: judgedAt, set: set, quote: q, result: res}, nil
}

// checkStart judges the end of a session that was started in another log. That of
// one that was started in this log is for readers to find: its index is enough.
func (a *Admission) checkStart(ref *record.StatementRef, at time.Time) error {
	if ref == nil || ref.Origin == a.Origin {
		return nil
	}
	if !record.NextShard(ref.Origin, a.Origin) || a.PreviousStart == nil {
		return inadmissible(ProblemUnknownStart, "the session was started in the log %.200q, whose sessions don't end in this log, %q", ref.Origin, a.Origin)
	}
	started, ok := a.PreviousStart(*ref)
	if !ok {
		return inadmissible(ProblemUnknownStart, "the log %.200q has no start of a session with the statement %x at index %d", ref.Origin, ref.Statement, ref.Index)
	}
	if d := at.Sub(started); d > record.ShardOverlap {
		return inadmissible(ProblemUnknownStart, "the session was started in the log %.200q at %s, more than seven days ago", ref.Origin, timestamp(started))
	}
	return nil
}

// milliseconds rounds down, also before 1970.
func milliseconds(t time.Time) time.Time { return time.UnixMilli(t.UnixMilli()).UTC() }

func inadmissible(p Problem, format string, args ...any) *AdmissionError {
	return &AdmissionError{Problem: p, Err: fmt.Errorf(format, args...)}
}

// refuseEntry makes an AdmissionError of a *NotGenuine.
func refuseEntry(err error) *AdmissionError {
	e := &AdmissionError{Problem: ProblemNotGenuine, Err: err}
	if n := new(NotGenuine); errors.As(err, &n) {
		e.Reason, e.Err = n.Reason, n.Err
		if n.Reason == ReasonKey {
			e.Problem, e.Reason = ProblemUnknownKey, ""
		}
	}
	return e
}

func (a *Admission) checkKey(e *record.Entry, st *record.Statement) error {
	switch {
	case e.Profile.InTD():
		return nil // the quote vouches for the key
	case st.VendorKey != nil:
		k := &st.VendorKey.Key
		if pub, ok := a.ListedKeys(st.Vendor, k.KeyID); !ok || !pub.Equal(k.PublicKey) {
			return inadmissible(ProblemUnknownKey, "key %s isn't one that the operator lists for vendor %.200q", k.KeyID, st.Vendor)
		}
		return nil
	}
	if _, ok := a.VendorKeys(st.Vendor, e.KeyID); !ok {
		return inadmissible(ProblemUnknownKey, "release key %.64q of vendor %.200q isn't in this log: its own entry comes first", e.KeyID, st.Vendor)
	}
	return nil
}

func (a *Admission) checkFreshness(f *record.Freshness, at time.Time) error {
	if f == nil {
		return nil
	}
	if f.Origin != a.Origin {
		return inadmissible(ProblemUnknownFreshness, "the statement was made after a checkpoint of %.200q, not of this log, %q", f.Origin, a.Origin)
	}
	logged, cp, ok := a.Freshness(f.Note)
	if !ok {
		return inadmissible(ProblemUnknownFreshness, "no time leaf of this log holds the note with SHA-256 %x", f.Note)
	}
	if cp.Origin != f.Origin || cp.Size != f.Size || cp.Root != f.Root {
		return refuseEntry(notGenuine(ReasonStatement, "the statement says that the note is of size %d and root %x, but it is of size %d and root %x", f.Size, f.Root, cp.Size, cp.Root))
	}
	limit := a.MaxFreshnessAge
	if limit == 0 {
		limit = DefaultMaxFreshnessAge
	}
	if age := at.Sub(logged); age > max(limit, a.LateUntil) {
		return inadmissible(ProblemStaleFreshness, "the statement was made after a checkpoint that was logged %s ago, more than %s", age, max(limit, a.LateUntil))
	} else if age < -clockTolerance {
		// The log's clock went back: what it calls fresh means nothing.
		return inadmissible(ProblemStaleFreshness, "the statement was made after a checkpoint that was logged %s from now", -age)
	}
	return nil
}
