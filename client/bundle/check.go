package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// admittedTolerance is how far outside the proven interval the log's own time of admission may be: clocks of witnesses
// and logs differ (FORMAT.md, 10).
const admittedTolerance = 60 * time.Second

// Numbers of facts that a Checker remembers. A compiled set of collateral takes some 50 KB, a checked note some 20 KB.
const (
	cachedSets    = 64
	cachedNotes   = 256
	cachedVendors = 1024
)

// A Checker checks bundles and proofs under the same options. It remembers facts, such as collateral that it has
// compiled and platforms whose certificates it has verified, and never verdicts: what it answers does not depend on
// what it was asked before. It can be used concurrently.
type Checker struct {
	o          Options
	v          *verifier.Verifier
	appraisers []*checkpoint.VerifierKey

	// sets holds compiled collateral by its id, which determines every byte that it was compiled from. notes holds
	// checkpoints by SHA-256 of the note: what the log policy, which never changes, makes of them. vendors holds the
	// leaf hashes of vendors' entries whose signatures verify: an entry names its key by SHA-256.
	sets    *lru.Cache[record.Digest, *tdx.Set]
	notes   *lru.Cache[record.Digest, *checkpoint.Checked]
	vendors *lru.Cache[record.Digest, struct{}]
}

// NewChecker returns a Checker. The error says what is wrong with the options; it wraps [ErrQuorumNone] if it is that.
func NewChecker(o Options) (*Checker, error) {
	switch {
	case o.LogPolicy == nil:
		return nil, errors.New("no log policy")
	case o.Appraisal == nil:
		return nil, errors.New("no appraisal policy")
	case o.LogPolicy.IsQuorumNone() && !o.AllowQuorumNone:
		return nil, ErrQuorumNone
	}
	if o.Root == nil {
		o.Root = tdx.IntelRoot()
	}
	c := &Checker{o: o, v: verifier.New(o.Root)}
	for _, vkey := range o.Appraisal.Appraisers() {
		key, err := checkpoint.ParseVKey(vkey)
		if err != nil {
			return nil, fmt.Errorf("appraisal policy: appraiser %.80q: %w", vkey, err)
		}
		c.appraisers = append(c.appraisers, key)
	}
	var err1, err2, err3 error
	c.sets, err1 = lru.New[record.Digest, *tdx.Set](cachedSets)
	c.notes, err2 = lru.New[record.Digest, *checkpoint.Checked](cachedNotes)
	c.vendors, err3 = lru.New[record.Digest, struct{}](cachedVendors)
	return c, errors.Join(err1, err2, err3)
}

// Check verifies b, and judges it under o. It is the function that an auditor has to trust: it needs nothing but its
// arguments, does no I/O, and gives the same answer at any time. An error is a *[NotProven], unless NewChecker would
// return it for o. The Finding is nil exactly when the error isn't; whether it is good is [Finding.Allowed].
//
// What was checked when the error is nil:
//
//   - The checkpoint is signed by a log of the log policy, and its quorum has cosigned it. Every leaf is in its tree, at
//     its index.
//   - Nothing is in the bundle twice, nothing is there that the subject has nothing to do with, and nothing is missing
//     that is needed to judge the records.
//   - Every time leaf holds a checkpoint of the same log that satisfies the log policy, and that is proven to be a
//     prefix of the bundle's.
//   - Every record is genuine: its evidence is verified as of the leaf's judged-at, with the collateral that the leaf
//     names, which was logged before it. Its statement's freshness is that of the time leaf with the note, which was
//     logged before it.
//   - Every signature by a vendor is by a key which that vendor had logged before.
//
// Refusals say which of these, and of the appraisal policy, does not hold: a start without which a final says little,
// linked statements that contradict each other or are in an impossible order, two ends of one session, a time of
// admission outside the proven interval, a missing appraiser, and all that [verifier.Policy] rules.
//
// Nothing is proven about what is not in the bundle: that a session has no second final record, or that a release was
// not withdrawn later, only a monitor of the whole log can say.
//
// # Shards
//
// The start of a session may be in the log of the year before, of the same operator by its name. It is then in a bundle
// of its own within this one, all of the above holds for both, and the log policy has both logs.
//
// # Time
//
// A statement commits to a note by its hash, so it was made after the note was: [checkpoint.Policy.NotBefore]. It was
// made before any checkpoint that covers it: [checkpoint.Policy.NotAfter] of the first given time leaf whose checkpoint
// does, or of the bundle's checkpoint, whichever is earlier. Both rest on one assumption: every set of witnesses that
// satisfies the quorum has an honest one, whose clock is right. That an earlier checkpoint covers a record is not
// assumed, but follows from its consistency proof; that nobody was shown another history takes a quorum any two of
// which share an honest witness. Under "quorum none" no time is proven, and the interval is nil.
func Check(b *Bundle, o Options) (*Finding, error) {
	c, err := NewChecker(o)
	if err != nil {
		return nil, err
	}
	return c.Check(b)
}

// Check is the function [Check] under the Checker's options.
func (c *Checker) Check(b *Bundle) (*Finding, error) {
	if err := b.wellFormed(); err != nil {
		return nil, &NotProven{Rule: RuleBundle, Err: err}
	}
	s := &state{c: c, b: b}
	for _, step := range []func() error{
		s.readLeaves, s.index, s.checkTimeLeaves, s.link, s.checkPrevious, s.checkVendorKeys, s.checkRecords, s.checkAppraisers,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return s.finding(), nil
}

// CheckProof verifies and judges a lone proof, whose Extra is the leaf of a record or of a vendor's entry. For a record
// with a quote, collateral is what the leaf names, down to its bytes; else it is nil.
//
// It does what [Check] does as far as one leaf goes. The note that a statement commits to isn't there, so nothing
// bounds its time from below; nor are releases, so only a pinned measurement identifies the code; nor is the start of
// a session, so that a final record is refused; nor are the records of where a model run sent calls on to, so that
// those of class tee are refused; nor are vendors' keys, so that only those which the appraisal policy trusts count.
func CheckProof(p *checkpoint.Proof, collateral *tdx.Collateral, o Options) (*Finding, error) {
	c, err := NewChecker(o)
	if err != nil {
		return nil, err
	}
	return c.CheckProof(p, collateral)
}

// state is the state of one check. Its steps are in the order of Check.
type state struct {
	c *Checker
	b *Bundle

	checked *checkpoint.Checked
	leaves  []*Leaf // in ascending order of indices

	subject      *Leaf
	byStatement  map[record.Digest]*Leaf
	byCollateral map[record.Digest]*Leaf
	byNote       map[record.Digest]*Leaf
	byKey        map[vendorKey]*Leaf
	times        []*Leaf
	timeChecked  map[*Leaf]*checkpoint.Checked // what the log policy makes of the notes in times

	appraisers []*checkpoint.VerifierKey
	refusals   []verifier.Refusal // about the checkpoint

	previous *Finding // of the session's start in the shard before, nil if there is none
}

type vendorKey struct{ vendor, keyid string }

func notProven(rule Rule, l *Leaf, format string, args ...any) error {
	e := &NotProven{Rule: rule, Err: fmt.Errorf(format, args...)}
	if l != nil {
		index := l.Index
		e.Index = &index
	}
	return e
}

// checkNote returns what the log policy makes of a checkpoint.
func (c *Checker) checkNote(note []byte) (*checkpoint.Checked, error) {
	id := sha256.Sum256(note)
	if checked, ok := c.notes.Get(id); ok {
		return checked, nil
	}
	// A result keeps parts of the note, which the caller may modify later.
	checked, err := c.o.LogPolicy.Check(bytes.Clone(note))
	if err == nil {
		c.notes.Add(id, checked)
	}
	return checked, err
}

// readLeaves checks that all leaves are in the tree of the checkpoint, and parses them.
func (s *state) readLeaves() (err error) {
	if s.checked, err = s.c.checkNote(s.b.Proofs[0].Checkpoint); err != nil {
		return notProven(RuleCheckpoint, nil, "checkpoint: %w", err)
	}
	for _, p := range s.b.Proofs {
		l := &Leaf{Index: p.Index, Hash: record.LeafHash(p.Extra)}
		s.leaves = append(s.leaves, l)
		if err := checkpoint.VerifyInclusion(l.Hash, s.checked.Root, p.Index, s.checked.Size, p.Hashes); err != nil {
			return notProven(RuleInclusion, l, "%w", err)
		}
		if err := l.parse(p.Extra); err != nil {
			return err
		}
		if p.Index == s.b.Subject {
			s.subject = l
		}
	}
	return nil
}

// parse parses the leaf's bytes.
func (l *Leaf) parse(b []byte) (err error) {
	if l.Leaf, err = record.ParseLeaf(b); err != nil {
		return notProven(RuleLeaf, l, "%w", err)
	}
	l.Role = role(l.Leaf)
	if e := l.Entry(); e != nil {
		digest := e.StatementDigest()
		l.Statement = &digest
	}
	return nil
}

func role(leaf record.Leaf) Role {
	var e *record.Entry
	switch l := leaf.(type) {
	case *record.TimeLeaf:
		return RoleTime
	case *record.CollateralLeaf:
		return RoleCollateral
	case *record.RecordLeaf:
		e = l.Entry
	case *record.VendorLeaf:
		e = l.Entry
	}
	switch st := e.Statement(); {
	case st.Start != nil:
		return RoleStart
	case st.Session != nil:
		return RoleFinal
	case st.Abandoned != nil:
		return RoleAbandoned
	case st.ModelRun != nil:
		return RoleModelRun
	case st.Evidence != nil:
		return RoleImport
	case st.Release != nil:
		return RoleRelease
	case st.Withdrawn != nil:
		return RoleWithdrawal
	default:
		return RoleVendorKey
	}
}

// index finds leaves by what others call them. Everything has one place.
func (s *state) index() error {
	s.byStatement = make(map[record.Digest]*Leaf)
	s.byCollateral = make(map[record.Digest]*Leaf)
	s.byNote = make(map[record.Digest]*Leaf)
	s.byKey = make(map[vendorKey]*Leaf)
	for _, l := range s.leaves {
		var other *Leaf
		var what string
		switch leaf := l.Leaf.(type) {
		case *record.TimeLeaf:
			other, what = put(s.byNote, leaf.NoteDigest(), l), "the same note"
			s.times = append(s.times, l)
		case *record.CollateralLeaf:
			other, what = put(s.byCollateral, leaf.ID(), l), "the same collateral"
		default:
			other, what = put(s.byStatement, *l.Statement, l), "the same statement"
			if e := l.Entry(); l.Role == RoleVendorKey && other == nil {
				other, what = put(s.byKey, vendorKey{e.Statement().Vendor, e.KeyID}, l), "the same key"
			}
		}
		if other != nil {
			return notProven(RuleDuplicate, l, "%s as leaf %d", what, other.Index)
		}
	}
	switch s.subject.Role {
	case RoleTime, RoleCollateral:
		return notProven(RuleSubject, s.subject, "a %s leaf is nothing that a bundle can be about", s.subject.Role)
	}
	return nil
}

// put adds l to m, or returns the leaf that is already there.
func put[K comparable](m map[K]*Leaf, key K, l *Leaf) *Leaf {
	if other, ok := m[key]; ok {
		return other
	}
	m[key] = l
	return nil
}

// checkTimeLeaves checks that time leaves hold what they should: earlier checkpoints of this log that satisfied the
// log policy. It needs all of them, since a time leaf is worth something only by its note.
func (s *state) checkTimeLeaves() error {
	s.timeChecked = make(map[*Leaf]*checkpoint.Checked)
	used := make(map[uint64]bool)
	for _, l := range s.times {
		note, err := s.c.checkNote(l.Leaf.(*record.TimeLeaf).Note)
		if err != nil {
			return notProven(RuleTimeLeaf, l, "%w", err)
		}
		if note.Origin != s.checked.Origin {
			return notProven(RuleTimeLeaf, l, "a checkpoint of log %q in log %q", note.Origin, s.checked.Origin)
		}
		// A checkpoint exists before it is logged.
		if note.Size > l.Index {
			return notProven(RuleTimeLeaf, l, "holds a checkpoint of size %d, which covers the leaf itself", note.Size)
		}
		// The size is smaller than that of the bundle's checkpoint, because the leaf is in its tree. For size 0 there
		// are no hashes.
		used[note.Size] = true
		hashes, ok := s.b.Consistency[note.Size]
		if !ok && note.Size != 0 {
			return notProven(RuleMissing, l, "there is no consistency proof for its checkpoint of size %d", note.Size)
		}
		if err := checkpoint.VerifyConsistency(note.Root, s.checked.Root, note.Size, s.checked.Size, hashes); err != nil {
			return notProven(RuleConsistency, l, "%w", err)
		}
		s.timeChecked[l] = note
	}
	for size := range s.b.Consistency {
		if !used[size] {
			return notProven(RuleUnlinked, nil, "no time leaf has a checkpoint of size %d, for which there is a consistency proof", size)
		}
	}
	return nil
}

// link follows references from the subject to all that it has to do with, and refuses what is not reached: a bundle
// holds what a reader should look at, and nothing that could pass for it.
func (s *state) link() error {
	linked := make(map[*Leaf]bool)
	var queue []*Leaf
	reach := func(l *Leaf) {
		if l != nil && !linked[l] {
			linked[l] = true
			queue = append(queue, l)
		}
	}
	blobs := make(map[record.Digest]bool)
	reach(s.subject)
	for len(queue) > 0 {
		l := queue[0]
		queue = queue[1:]
		switch leaf := l.Leaf.(type) {
		case *record.CollateralLeaf:
			for _, digest := range leaf.Components {
				blobs[digest] = true
			}
		case *record.RecordLeaf:
			for _, ev := range leaf.Entry.Evidence {
				if ref, err := ev.Ref(); err == nil {
					blobs[ref.SHA256] = true
				}
			}
			reach(s.byCollateral[leaf.Collateral])
			if f := leaf.Entry.Statement().Freshness(); f != nil {
				reach(s.byNote[f.Note])
			}
			for _, release := range s.releases(l) {
				reach(release)
			}
		}
		if s.judged(l) {
			reach(s.covering(l))
		}
		if e := l.Entry(); e != nil {
			reach(s.byKey[vendorKey{e.Statement().Vendor, e.KeyID}])
			for _, digest := range refers(e.Statement()) {
				reach(s.byStatement[digest])
			}
		}
		// An end of a session, a model run for it, and a withdrawal are not known to what they refer to.
		if l.Statement == nil {
			continue
		}
		for _, other := range s.leaves {
			switch other.Role {
			case RoleFinal, RoleAbandoned, RoleModelRun, RoleWithdrawal:
				if slices.Contains(refers(other.Entry().Statement()), *l.Statement) {
					reach(other)
				}
			}
		}
	}
	for _, l := range s.leaves {
		if !linked[l] {
			return notProven(RuleUnlinked, l, "a %s leaf that has nothing to do with the subject, leaf %d", l.Role, s.subject.Index)
		}
	}
	for digest := range s.b.Blobs {
		if !blobs[digest] {
			return notProven(RuleUnlinked, nil, "no collateral leaf, and no record, names the blob %x", digest)
		}
	}
	return nil
}

// checkPrevious checks the bundle from the shard before, by all the rules for one: it is of the log that this one follows,
// and about the start of the session that the leaves here belong to.
func (s *state) checkPrevious() error {
	if s.b.Previous == nil {
		return nil
	}
	f, err := s.c.Check(s.b.Previous)
	if err != nil {
		if n := (*NotProven)(nil); errors.As(err, &n) {
			return &NotProven{Rule: n.Rule, Err: fmt.Errorf("in the bundle from the shard before: %w", err)}
		}
		return err
	}
	if !record.NextShard(f.Log.Origin, s.checked.Origin) {
		return notProven(RuleUnlinked, nil, "the bundle from the shard before is of the log %q, which this log, %q, doesn't follow", f.Log.Origin, s.checked.Origin)
	}
	if f.Subject.Role == RoleStart {
		for _, l := range s.leaves {
			if e := l.Entry(); e != nil && slices.Contains(refers(e.Statement()), *f.Subject.Statement) {
				s.previous = f
				return nil
			}
		}
	}
	return notProven(RuleUnlinked, nil, "the bundle from the shard before is about leaf %d there, which isn't the start of a session that a leaf here belongs to", f.Subject.Index)
}

// judged reports whether there is to be a verdict on l: records, and the subject whatever it is.
func (s *state) judged(l *Leaf) bool {
	_, ok := l.Leaf.(*record.RecordLeaf)
	return ok || l == s.subject
}

// refers returns the statements that s names.
func refers(s *record.Statement) (digests []record.Digest) {
	switch {
	case s.Session != nil:
		digests = append(digests, s.Session.Start.Statement)
		for _, m := range s.Session.Models {
			if m.ModelRun != nil {
				digests = append(digests, *m.ModelRun)
			}
		}
	case s.Abandoned != nil:
		digests = append(digests, s.Abandoned.Start.Statement)
	case s.ModelRun != nil:
		if s.ModelRun.Session != nil {
			digests = append(digests, s.ModelRun.Session.Statement)
		}
		for _, u := range s.ModelRun.Upstream {
			if u.ModelRun != nil {
				digests = append(digests, *u.ModelRun)
			}
		}
	case s.Withdrawn != nil:
		digests = append(digests, s.Withdrawn.Statement)
	}
	return digests
}

// covering returns the first time leaf whose checkpoint covers l, or nil.
func (s *state) covering(l *Leaf) *Leaf {
	for _, t := range s.times {
		if s.timeChecked[t].Size > l.Index {
			return t
		}
	}
	return nil
}

// releases returns the releases that l's statement could name: those of its vendor for the image that were logged
// before it. A release that is logged after its use says nothing about it.
func (s *state) releases(l *Leaf) (releases []*Leaf) {
	st := l.Entry().Statement()
	env := st.Environment()
	if env == nil {
		return nil
	}
	for _, r := range s.leaves {
		if r.Role != RoleRelease || r.Index > l.Index {
			continue
		}
		if rs := r.Entry().Statement(); rs.Vendor == st.Vendor && rs.Release.Image.SHA256 == env.Release.SHA256 {
			releases = append(releases, r)
		}
	}
	return releases
}

// checkVendorKeys checks the signatures of vendors: that the key was logged before by the same vendor, and, in leaves of
// vendors, the signature itself. Those of records are verified with the record.
func (s *state) checkVendorKeys() error {
	for _, l := range s.leaves {
		e := l.Entry()
		if e == nil || e.Profile.InTD() {
			continue
		}
		st := e.Statement()
		key := s.byKey[vendorKey{st.Vendor, e.KeyID}]
		switch {
		case key == nil:
			return notProven(RuleMissing, l, "signed by key %s of vendor %q, for which there is no vendor-key leaf", e.KeyID, st.Vendor)
		case key.Index > l.Index:
			return notProven(RuleVendorKey, l, "signed by key %s of vendor %q, which was logged later, as leaf %d", e.KeyID, st.Vendor, key.Index)
		}
		if _, ok := l.Leaf.(*record.VendorLeaf); !ok || s.c.vendors.Contains(l.Hash) {
			continue
		}
		if err := e.VerifySignature(key.Entry().Statement().VendorKey.Key.PublicKey); err != nil {
			return notProven(RuleVendorKey, l, "%w", err)
		}
		s.c.vendors.Add(l.Hash, struct{}{})
	}
	return nil
}

// checkRecords verifies the evidence of all records, as of when the log judged it, and has it appraised; and the
// subject, if it is an entry of another kind. Records are verified in parallel, since each takes two P-256
// verifications: they don't depend on each other, and the error is that of the first.
//
// Their collateral is compiled before, one set after another: a component may be as large as a bundle, and nobody has
// vouched for it yet. The first set that doesn't verify is the last that costs anything.
func (s *state) checkRecords() error {
	sets := make([]*tdx.Set, len(s.leaves))
	for i, l := range s.leaves {
		if !s.judged(l) {
			continue
		}
		var err error
		if sets[i], err = s.checkCollateral(l); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(s.leaves))
	for i, l := range s.leaves {
		if s.judged(l) {
			wg.Go(func() { errs[i] = s.checkRecord(l, sets[i]) })
		}
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRecord modifies l, and nothing else that others read.
func (s *state) checkRecord(l *Leaf, set *tdx.Set) error {
	in := verifier.Input{Entry: l.Entry(), Collateral: set, At: l.judgedAt(), Evidence: s.b.Blobs}
	if err := s.checkFreshness(l); err != nil {
		return err
	}
	if l.Freshness != nil {
		in.FreshnessAge = l.AdmittedAt().Sub(time.UnixMilli(s.at(*l.Freshness).Leaf.(*record.TimeLeaf).LoggedAt))
	}
	refusals := s.checkTime(l)
	in.Interval = l.Interval
	for _, r := range s.releases(l) {
		in.Releases = append(in.Releases, r.Entry())
	}
	for _, o := range s.leaves {
		switch o.Role {
		case RoleWithdrawal:
			in.Withdrawn = append(in.Withdrawn, o.Entry())
		case RoleVendorKey: // each was logged before what it signed, see checkVendorKeys
			in.VendorKeys = append(in.VendorKeys, o.Entry())
		}
	}
	return s.verify(l, in, refusals)
}

// verify has a record verified and appraised. The refusals become those of the verdict, before its own.
func (s *state) verify(l *Leaf, in verifier.Input, refusals []verifier.Refusal) error {
	verdict, err := s.c.v.Verify(in, s.c.o.Appraisal)
	if err != nil {
		return notProven(RuleGenuine, l, "%w", err)
	}
	if len(refusals) > 0 {
		v := *verdict
		v.Refusals = append(refusals, v.Refusals...)
		verdict = &v
	}
	l.Verdict = verdict
	return nil
}

// checkCollateral finds and compiles the collateral that a record names, nil if it has none.
func (s *state) checkCollateral(l *Leaf) (*tdx.Set, error) {
	id := l.collateral()
	if id == (record.Digest{}) {
		return nil, nil
	}
	cl := s.byCollateral[id]
	switch {
	case cl == nil:
		return nil, notProven(RuleMissing, l, "there is no leaf with its collateral, id %x", id)
	case cl.Index > l.Index:
		return nil, notProven(RuleOrder, l, "its collateral was logged later, as leaf %d", cl.Index)
	}
	l.Collateral = &cl.Index
	leaf := cl.Leaf.(*record.CollateralLeaf)
	var parts [7][]byte
	for i, digest := range leaf.Components {
		// wellFormed has compared blobs with their digests.
		blob, ok := s.b.Blobs[digest]
		if !ok {
			return nil, notProven(RuleMissing, cl, "there is no blob %x, component %d of the collateral", digest, i)
		}
		parts[i] = blob
	}
	set, err := s.c.compile(id, parts)
	if err != nil {
		return nil, notProven(RuleCollateral, cl, "%w", err)
	}
	return set, nil
}

// compile returns the compiled collateral of the given components, whose digests the id determines.
func (c *Checker) compile(id record.Digest, parts [7][]byte) (*tdx.Set, error) {
	if set, ok := c.sets.Get(id); ok {
		return set, nil
	}
	for i := range parts {
		parts[i] = bytes.Clone(parts[i]) // the set may keep them
	}
	set, err := c.v.Compile(&tdx.Collateral{
		TCBInfo: parts[0], TCBInfoChain: parts[1], QEIdentity: parts[2], QEIdentityChain: parts[3],
		RootCRL: parts[4], PCKCRL: parts[5], PCKCRLChain: parts[6],
	})
	if err == nil {
		c.sets.Add(id, set)
	}
	return set, err
}

// checkFreshness checks that the checkpoint which a statement names is the one in the note that it names, and that the
// log had that note before.
func (s *state) checkFreshness(l *Leaf) error {
	f := l.Entry().Statement().Freshness()
	if f == nil {
		return nil
	}
	t := s.byNote[f.Note]
	switch {
	case t == nil:
		return notProven(RuleMissing, l, "there is no time leaf with its freshness note, SHA-256 %x", f.Note)
	case t.Index > l.Index:
		return notProven(RuleFreshness, l, "its freshness note was logged later, as leaf %d", t.Index)
	}
	if cp := s.timeChecked[t]; f.Origin != cp.Origin || f.Size != cp.Size || f.Root != cp.Root {
		return notProven(RuleFreshness, l, "it names checkpoint (%q, %d, %x), but the note that it names is of (%q, %d, %x)",
			f.Origin, f.Size, f.Root, cp.Origin, cp.Size, cp.Root)
	}
	l.Freshness = &t.Index
	return nil
}

// checkTime works out when l's statement was made, and compares that with when the log says that it admitted it.
func (s *state) checkTime(l *Leaf) []verifier.Refusal {
	pol := s.c.o.LogPolicy
	var i verifier.Interval
	var from, to bool
	if l.Freshness != nil {
		i.NotBefore, from = pol.NotBefore(s.timeChecked[s.at(*l.Freshness)])
	}
	i.NotAfter, to = pol.NotAfter(s.checked)
	if t := s.covering(l); t != nil {
		l.Covering = &t.Index
		if earlier, ok := pol.NotAfter(s.timeChecked[t]); ok && (!to || earlier.Before(i.NotAfter)) {
			i.NotAfter, to = earlier, true
		}
	}
	if !from && !to {
		return nil
	}
	l.Interval = &i
	admitted := rfc3339(l.AdmittedAt())
	switch {
	case from && l.AdmittedAt().Before(i.NotBefore.Add(-admittedTolerance)):
		return []verifier.Refusal{{
			Code: CodeAdmittedAt, Field: "admittedAt", Got: admitted, Want: "not before " + rfc3339(i.NotBefore),
			Message: fmt.Sprintf("the log says that it admitted the record at %s, but witnesses prove that the statement was not made before %s", admitted, rfc3339(i.NotBefore)),
		}}
	case to && l.AdmittedAt().After(i.NotAfter.Add(admittedTolerance)):
		return []verifier.Refusal{{
			Code: CodeAdmittedAt, Field: "admittedAt", Got: admitted, Want: "not after " + rfc3339(i.NotAfter),
			Message: fmt.Sprintf("the log says that it admitted the record at %s, but witnesses had seen it in the log at %s", admitted, rfc3339(i.NotAfter)),
		}}
	}
	return nil
}

// judgedAt returns the time as of which l's evidence was judged.
func (l *Leaf) judgedAt() time.Time {
	if r, ok := l.Leaf.(*record.RecordLeaf); ok {
		return time.UnixMilli(r.JudgedAt).UTC()
	}
	return l.AdmittedAt()
}

// collateral returns the id of the collateral that l's evidence was judged with. It is zero exactly if there is no
// quote in it, as record.ParseLeaf has checked.
func (l *Leaf) collateral() record.Digest {
	if r, ok := l.Leaf.(*record.RecordLeaf); ok {
		return r.Collateral
	}
	return record.Digest{}
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// at returns the leaf at index, which there is.
func (s *state) at(index uint64) *Leaf {
	i, _ := slices.BinarySearchFunc(s.leaves, index, func(l *Leaf, index uint64) int {
		switch {
		case l.Index < index:
			return -1
		case l.Index > index:
			return 1
		}
		return 0
	})
	return s.leaves[i]
}

// checkAppraisers checks that all appraisers which the appraisal policy requires have cosigned the checkpoint.
func (s *state) checkAppraisers() error {
	if len(s.c.appraisers) == 0 {
		return nil
	}
	n, err := checkpoint.ParseNote(s.b.Proofs[0].Checkpoint)
	if err != nil {
		return notProven(RuleCheckpoint, nil, "checkpoint: %w", err)
	}
	for _, key := range s.c.appraisers {
		signed := false
		for _, sig := range n.Signatures {
			if !key.Matches(sig) {
				continue
			}
			if _, err := key.Verify(n.Text, sig); err != nil {
				return notProven(RuleCheckpoint, nil, "checkpoint: appraiser: %w", err)
			}
			signed = true
		}
		if signed {
			s.appraisers = append(s.appraisers, key)
			continue
		}
		s.refusals = append(s.refusals, verifier.Refusal{
			Code: CodeAppraiser, Field: "appraisers", Got: "no signature by " + key.Name(), Want: key.String(),
			Message: fmt.Sprintf("appraiser %s, which the appraisal policy requires, has not signed the checkpoint", key.Name()),
		})
	}
	return nil
}

// finding puts together what is about the session as a whole.
func (s *state) finding() *Finding {
	f := &Finding{
		Interval: s.subject.Interval,
		Subject:  s.subject,
		Leaves:   s.leaves,
		Claims:   slices.Clone(s.subject.Verdict.Claims),
		Refusals: slices.Clone(s.subject.Verdict.Refusals),
		Log: Log{
			Checkpoint: s.checked.Checkpoint, Keys: s.checked.LogKeys, Cosignatures: s.checked.Cosignatures,
			Quorum: s.c.o.LogPolicy.Quorum(), Appraisers: s.appraisers,
		},
	}
	var ends, runs []*verifier.PlacedRecord
	if f.Previous = s.previous; f.Previous != nil {
		for _, r := range f.Previous.Refusals {
			r.Message = fmt.Sprintf("in the shard before, %s: %s", f.Previous.Log.Origin, r.Message)
			f.Refusals = append(f.Refusals, r)
		}
		for _, l := range f.Previous.Leaves {
			if l.Role == RoleModelRun {
				runs = append(runs, placed(f.Previous.Log.Origin, l))
			}
		}
	}
	for _, l := range s.leaves {
		switch l.Role {
		case RoleFinal, RoleAbandoned:
			ends = append(ends, s.placed(l))
		case RoleModelRun:
			runs = append(runs, s.placed(l))
			continue // what of it counts, verifier.ModelRuns says
		}
		if l.Verdict != nil && l != s.subject {
			for _, r := range l.Verdict.Refusals {
				r.Message = fmt.Sprintf("the %s record, leaf %d: %s", l.Role, l.Index, r.Message)
				f.Refusals = append(f.Refusals, r)
			}
		}
	}
	if s.subject.Role == RoleModelRun {
		claims, refusals := verifier.Upstreams(s.placed(s.subject), runs, s.c.o.Appraisal)
		f.Claims = verifier.Merge(f.Claims, claims)
		f.Refusals = append(f.Refusals, refusals...)
	}
	own := len(ends) // those of this log
	if f.Previous != nil {
		for _, l := range f.Previous.Leaves {
			if l.Role == RoleFinal || l.Role == RoleAbandoned {
				ends = append(ends, placed(f.Previous.Log.Origin, l))
			}
		}
	}
	f.Refusals = append(f.Refusals, verifier.Ends(ends)...)
	for _, end := range ends[:own] {
		start := s.start(end)
		claims, refusals := verifier.Pair(start, end)
		for _, r := range refusals {
			if r.Code == verifier.CodeStartMissing {
				r.Message += fmt.Sprintf(": get a bundle that has it with \"affidavit bundle --log URL %d\"", end.Index)
			}
			f.Refusals = append(f.Refusals, r)
		}
		if s.subject.Index == end.Index || start != nil && start.Origin == end.Origin && s.subject.Index == start.Index {
			f.Claims = verifier.Merge(f.Claims, claims)
		}
		claims, refusals = verifier.ModelRuns(start, end, runs, s.c.o.Appraisal)
		f.Refusals = append(f.Refusals, refusals...)
		if s.subject.Index == end.Index {
			f.Claims = verifier.Merge(f.Claims, claims)
		}
	}
	f.Refusals = append(f.Refusals, s.refusals...)
	return f
}

// start returns the start that the end of a session names, or nil.
func (s *state) start(end *verifier.PlacedRecord) *verifier.PlacedRecord {
	st := end.Verdict.Entry.Statement()
	digest := refers(st)[0]
	if p := s.previous; p != nil && *p.Subject.Statement == digest {
		return placed(p.Log.Origin, p.Subject)
	}
	l := s.byStatement[digest]
	if l == nil || l.Verdict == nil {
		return nil
	}
	return s.placed(l)
}

func (s *state) placed(l *Leaf) *verifier.PlacedRecord { return placed(s.checked.Origin, l) }

func placed(origin string, l *Leaf) *verifier.PlacedRecord {
	return &verifier.PlacedRecord{Origin: origin, Index: l.Index, Verdict: l.Verdict, AdmittedAt: l.AdmittedAt()}
}

// CheckProof is the function [CheckProof] under the Checker's options.
func (c *Checker) CheckProof(p *checkpoint.Proof, collateral *tdx.Collateral) (*Finding, error) {
	s := &state{c: c, b: &Bundle{Subject: p.Index, Proofs: []*checkpoint.Proof{p}}}
	if err := s.readLeaves(); err != nil {
		return nil, err
	}
	if err := s.index(); err != nil {
		return nil, err
	}
	l := s.subject
	in := verifier.Input{Entry: l.Entry(), At: l.judgedAt()}
	if want := l.collateral(); want != (record.Digest{}) {
		if collateral == nil {
			return nil, notProven(RuleMissing, l, "its collateral must be given, id %x", want)
		}
		parts := collateral.Components()
		leaf := &record.CollateralLeaf{TEE: record.TEETDX}
		for i, part := range parts {
			leaf.Components[i] = sha256.Sum256(part)
		}
		id := leaf.ID()
		if id != want {
			return nil, notProven(RuleCollateral, l, "it was judged with collateral %x, and %x was given", want, id)
		}
		set, err := c.compile(id, parts)
		if err != nil {
			return nil, notProven(RuleCollateral, l, "%w", err)
		}
		in.Collateral = set
	}
	refusals := s.checkTime(l)
	in.Interval = l.Interval
	if err := s.verify(l, in, refusals); err != nil {
		return nil, err
	}
	if err := s.checkAppraisers(); err != nil {
		return nil, err
	}
	return s.finding(), nil
}
