package monitor

import (
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/affidavit-log/affidavit/client/printable"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// An item is a leaf on its way through the audit. Each stage fills in what it finds out, and no two work on it at once.
type item struct {
	index uint64
	raw   []byte
	hash  record.Digest

	// Of parse.
	leaf       record.Leaf // nil if it can't be parsed
	parseErr   error
	statement  record.Digest // of an entry
	noteDigest record.Digest // of a time leaf
	note       *noteFact     // what it says, nil if it isn't a checkpoint
	noteErr    error         // why the note doesn't satisfy the log policy
	byLog      bool          // the log has signed the note

	// Of learn.
	again bool     // a time or collateral leaf whose note or set was logged before
	set   *setFact // of a collateral leaf
	setID record.Digest

	// Of judge.
	verdict   *verifier.Verdict // of a genuine entry
	err       error             // why it isn't
	notBefore time.Time         // of its freshness
	findings  []*Finding        // that follow from this leaf and facts
}

// entry returns the leaf's entry, or nil.
func (it *item) entry() *record.Entry { return entryOf(it.leaf) }

// time returns the log's own time in the leaf, in ms, and 0 if there is none.
func (it *item) time() int64 {
	switch l := it.leaf.(type) {
	case *record.RecordLeaf:
		return l.AdmittedAt
	case *record.VendorLeaf:
		return l.AdmittedAt
	case *record.TimeLeaf:
		return l.LoggedAt
	}
	return 0
}

// finding adds what was found about the leaf. About makes findings of one kind different; it is mostly the leaf itself.
func (it *item) finding(kind Kind, about, format string, args ...any) *Finding {
	f := it.about(kind, about, format, args...)
	it.findings = append(it.findings, f)
	return f
}

// about returns a finding about the leaf.
func (it *item) about(kind Kind, about, format string, args ...any) *Finding {
	if about == "" {
		about = fmt.Sprintf("leaf %d %x", it.index, it.hash)
	}
	f := newFinding(kind, about, format, args...).at(it.index).leaf(it.raw)
	if e := it.entry(); e != nil {
		st := e.Statement()
		f.with("vendor", clean(st.Vendor)).with("statement", hex.EncodeToString(it.statement[:]))
		if id, ok := st.SessionID(); ok {
			f.with("session", Hash(id.Digest()).String())
		}
		if i := sessionInfo(st); i != nil {
			f.with("tenant", Hash(i.Tenant).String())
		}
		if env := st.Environment(); env != nil {
			f.with("release", Hash(env.Release.SHA256).String())
		}
	}
	if it.verdict != nil && it.verdict.TDX != nil {
		f.with("platform", it.verdict.TDX.PPID)
	}
	return f
}

func sessionInfo(st *record.Statement) *record.SessionInfo {
	switch {
	case st.Start != nil:
		return &st.Start.SessionInfo
	case st.Session != nil:
		return &st.Session.SessionInfo
	}
	return nil
}

// clean makes text of others fit for a line.
func clean(s string) string { return printable.Excerpt(s, 300) }

// parse parses the leaf, and verifies the note in a time leaf.
func (m *Monitor) parse(it *item) {
	leaf, err := record.ParseLeaf(it.raw)
	if err != nil {
		it.parseErr = err
		kind, what := KindUnparsable, "is not a leaf"
		if errors.As(err, new(*record.UnsupportedError)) {
			kind, what = KindUnsupported, "can't be judged by this version of the monitor"
		}
		it.finding(kind, "", "leaf %d %s: %s", it.index, what, clean(err.Error()))
		return
	}
	it.leaf = leaf
	switch l := leaf.(type) {
	case *record.RecordLeaf:
		it.statement = l.Entry.StatementDigest()
	case *record.VendorLeaf:
		it.statement = l.Entry.StatementDigest()
	case *record.TimeLeaf:
		m.parseTime(it, l)
	}
}

// parseTime reads the note in a time leaf: a checkpoint of this log that covers no leaf from here on, and satisfies the
// log policy.
func (m *Monitor) parseTime(it *item, l *record.TimeLeaf) {
	it.noteDigest = l.NoteDigest()
	n, err := checkpoint.ParseNote(l.Note)
	if err != nil {
		it.noteErr = err
		return
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		it.noteErr = err
		return
	}
	it.note = &noteFact{Index: it.index, LoggedAt: l.LoggedAt, Origin: cp.Origin, Size: cp.Size, Root: cp.Root}
	checked, err := m.cfg.LogPolicy.Check(l.Note)
	it.byLog = err == nil && cp.Origin == m.cfg.Origin
	if err != nil && cp.Origin == m.cfg.Origin {
		_, lerr := m.cfg.LogPolicy.CheckLog(l.Note)
		it.byLog = lerr == nil
	}
	switch {
	case err != nil:
		it.noteErr = err
	case cp.Origin != m.cfg.Origin:
		it.noteErr = fmt.Errorf("a checkpoint of log %q", cp.Origin)
	case cp.Size > it.index:
		it.noteErr = fmt.Errorf("a checkpoint of size %d covers the leaf itself", cp.Size)
	default:
		if t, ok := m.cfg.LogPolicy.NotBefore(checked); ok {
			it.note.NotBefore = t.Unix()
		}
		if t, ok := m.cfg.LogPolicy.NotAfter(checked); ok {
			it.note.NotAfter = t.Unix()
		}
	}
}

// judge verifies an entry again: by the log's own rules of admission, as far as leaves let one redo them.
func (m *Monitor) judge(it *item) error {
	e := it.entry()
	if e == nil {
		return nil
	}
	st := e.Statement()
	var set *tdx.Set
	admittedAt := fromMillis(it.time())
	judgedAt := admittedAt
	if l, ok := it.leaf.(*record.RecordLeaf); ok {
		judgedAt = fromMillis(l.JudgedAt)
		if l.Collateral != (record.Digest{}) {
			s, fact, err := m.facts.set(l.Collateral, it.index)
			switch {
			case err != nil:
				return err
			case fact == nil:
				it.err = &verifier.NotGenuine{Reason: string(tdx.ReasonCollateral), Err: fmt.Errorf("no leaf before it holds its collateral, id %x", l.Collateral)}
				it.finding(KindCollateralLate, "", "record %d was judged by collateral that no leaf before it holds, so that it can't be verified", it.index).
					with("collateral", Hash(l.Collateral).String())
				return nil
			case s == nil:
				it.err = &verifier.NotGenuine{Reason: string(tdx.ReasonCollateral), Err: errors.New(fact.Reason)}
				it.finding(KindInvalidRecord, "", "record %d was judged by collateral that can't be used, leaf %d, so that it can't be verified: %s", it.index, fact.Index, clean(fact.Reason)).
					with("collateral", Hash(l.Collateral).String()).with("reason", string(tdx.ReasonCollateral))
				return nil
			}
			set = s
		}
	}

	// What the functions find out, and errors of the database.
	var dbErr error
	var fresh *noteFact
	a := &verifier.Admission{
		Origin: m.cfg.Origin, VendorID: st.Vendor, AllowImports: true,
		// How late is judged below: an operator may allow it.
		LateUntil: math.MaxInt64,
		Freshness: func(note record.Digest) (time.Time, checkpoint.Checkpoint, bool) {
			n, err := m.facts.note(note, it.index)
			if n == nil || err != nil {
				dbErr = errors.Join(dbErr, err)
				return time.Time{}, checkpoint.Checkpoint{}, false
			}
			fresh = n
			return fromMillis(n.LoggedAt), n.checkpoint(), true
		},
		VendorKeys: func(vendor, keyid string) (ed25519.PublicKey, bool) {
			pub, ok, err := m.facts.vendorKey(vendor, keyid, it.index)
			dbErr = errors.Join(dbErr, err)
			return pub, ok && err == nil
		},
		// What is in the shard before, this log's leaves don't say: whoever has the session's bundle can tell.
		PreviousStart: func(record.StatementRef) (time.Time, bool) { return admittedAt, true },
		// Whom the operator lists, leaves don't say.
		ListedKeys: func(string, string) (ed25519.PublicKey, bool) { return st.VendorKey.Key.PublicKey, true },
	}
	admitted, admitErr := m.v.Admit(e, set, admittedAt, judgedAt, a)
	if dbErr != nil {
		return dbErr
	}
	in := verifier.Input{Entry: e, Collateral: set, At: judgedAt}
	if fresh != nil {
		it.notBefore = fromSeconds(fresh.NotBefore)
	}
	var img *image
	env := st.Environment()
	if env != nil && e.Quote() != nil {
		var err error
		if img, err = m.imageInput(&in, st.Vendor, env, it.index); err != nil {
			return err
		}
	}
	if admitErr != nil {
		m.inadmissible(it, in, admitErr)
	} else {
		it.verdict = &verifier.Verdict{Entry: e, At: judgedAt, Quote: admitted.Quote(), TDX: admitted.TDX()}
	}
	if it.verdict == nil {
		return nil
	}
	if fresh != nil {
		if age := admittedAt.Sub(fromMillis(fresh.LoggedAt)); age > m.cfg.MaxFreshnessAge {
			it.finding(KindStale, "", "record %d was admitted %s after the checkpoint that it was made after, more than %s", it.index, age.Round(time.Second), m.cfg.MaxFreshnessAge)
		}
	}
	if img != nil && admitted != nil {
		m.judgeRelease(it, img, env, m.v.CheckRelease(admitted, in))
	}
	m.watch(it)
	return nil
}

// imageInput adds to in what is logged about the image that a statement names.
func (m *Monitor) imageInput(in *verifier.Input, vendor string, env *record.Environment, index uint64) (*image, error) {
	img, err := m.facts.image(vendor, env.Release.SHA256)
	if err != nil || len(img.releases) == 0 {
		return img, err
	}
	keys, err := m.facts.keysOf(vendor)
	in.Releases, in.Withdrawn, in.VendorKeys = before(img.releases, index), before(img.withdrawals, index), before(keys, index)
	return img, err
}

// inadmissible names the rule of admission that an entry breaks, and verifies it as far as that goes.
func (m *Monitor) inadmissible(it *item, in verifier.Input, err error) {
	var ae *verifier.AdmissionError
	if !errors.As(err, &ae) {
		// Times that contradict each other, which ParseLeaf refuses.
		it.err = &verifier.NotGenuine{Reason: verifier.ReasonStatement, Err: err}
		it.finding(KindInvalidRecord, "", "leaf %d: %s", it.index, clean(err.Error()))
		return
	}
	what := fmt.Sprintf("leaf %d should not have been admitted: %s", it.index, clean(ae.Error()))
	kind := KindInvalidRecord
	switch ae.Problem {
	case verifier.ProblemUnknownKey:
		kind = KindUnknownKey
	case verifier.ProblemUnknownFreshness:
		kind = KindFreshness
	case verifier.ProblemStaleFreshness:
		kind = KindStale
	case verifier.ProblemUnknownStart:
		kind = KindUnknownStart
	}
	// The rule that was broken first isn't the only one that counts: the evidence is verified all the same. Keys of
	// vendors are those that were logged before.
	var verr error
	if it.entry().Profile.InTD() {
		it.verdict, verr = m.v.Verify(in, m.audit)
	} else {
		verr = &verifier.NotGenuine{Reason: verifier.ReasonKey, Err: ae.Err}
		if ae.Problem == verifier.ProblemNotGenuine {
			verr = &verifier.NotGenuine{Reason: ae.Reason, Err: ae.Err}
		}
	}
	it.err = verr
	reason := ae.Reason
	if n := new(verifier.NotGenuine); errors.As(verr, &n) && reason == "" {
		reason = n.Reason
	}
	it.finding(kind, "", "%s", what).with("problem", string(ae.Problem)).with("reason", reason)
	if verr != nil && kind != KindInvalidRecord && kind != KindUnknownKey {
		it.finding(KindInvalidRecord, "", "record %d is not genuine: %s", it.index, clean(verr.Error())).with("reason", reason)
	}
}

// judgeRelease compares a quote with the release that its statement names.
func (m *Monitor) judgeRelease(it *item, img *image, env *record.Environment, refusals []verifier.Refusal) {
	st := it.entry().Statement()
	name := clean(env.Release.Name)
	if len(before(img.releases, it.index)) == 0 {
		it.finding(KindReleaseUnknown, fmt.Sprintf("%q %x", st.Vendor, env.Release.SHA256),
			"record %d, and maybe others, names the image %s, of which its vendor has logged no release before", it.index, name)
		return
	}
	for _, r := range refusals {
		kind := KindReleaseMismatch
		if withdrawn := before(img.withdrawals, it.index); slices.ContainsFunc(withdrawn, func(w *record.Entry) bool {
			return slices.ContainsFunc(before(img.releases, it.index), func(r *record.Entry) bool {
				return r.StatementDigest() == w.Statement().Withdrawn.Statement
			})
		}) {
			kind = KindReleaseWithdrawnUsed
		}
		it.finding(kind, "", "record %d names the image %s: %s", it.index, name, clean(r.Message))
	}
}

// watch raises the findings that the watch list asks for.
func (m *Monitor) watch(it *item) {
	st := it.entry().Statement()
	w := &m.cfg.Watch
	if slices.Contains(w.Vendors, st.Vendor) {
		it.finding(KindWatchVendor, "", "leaf %d is of vendor %s", it.index, clean(st.Vendor))
	}
	if i := sessionInfo(st); i != nil && slices.Contains(w.Tenants, i.Tenant) {
		it.finding(KindWatchTenant, "", "record %d is of tenant %x", it.index, i.Tenant)
	}
	release := record.Digest{}
	switch env := st.Environment(); {
	case env != nil:
		release = env.Release.SHA256
	case st.Release != nil:
		release = st.Release.Image.SHA256
	case st.Withdrawn != nil:
		release = st.Withdrawn.Image.SHA256
	}
	if slices.Contains(w.Releases, release) {
		it.finding(KindWatchRelease, "", "leaf %d names the image %x", it.index, release).with("release", Hash(release).String())
	}
	if res := it.verdict.TDX; res != nil && slices.Contains(w.Platforms, res.PPID) {
		it.finding(KindWatchPlatform, "", "record %d was made on platform %s", it.index, res.PPID)
	}
	if id, ok := st.SessionID(); ok && slices.Contains(w.Sessions, id.Digest()) {
		it.finding(KindWatchSession, "", "record %d is of session %s", it.index, Hash(id.Digest()))
	}
}
