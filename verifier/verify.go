package verifier

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Verify checks that an entry is what it claims to be, by the rules of its
// binding profile (FORMAT.md, "Profiles"), and judges it by an appraisal policy.
//
//   - statement/v1: the session key in the statement signed the envelope; the
//     quote's REPORTDATA commits to the statement; the quote is genuine under
//     Intel's rules, by the given collateral, at the given time.
//   - vendor-signed/v1: a release key of the vendor signed the envelope.
//   - azure-paravisor/v1: as statement/v1, but a virtual TPM commits to the
//     statement, and REPORTDATA to that TPM's key.
//   - dstack-proxy/v1, ita-nonce/v1, tls-hpke/v2: a release key of the vendor signed
//     the envelope; the quote is genuine, and its REPORTDATA commits to what the
//     entry's binding says; the nonce of a model run is that of its freshness.
//   - unbound/v1: both a release key of the vendor signed the envelope, and the
//     quote, which the statement names by digest, is genuine.
//
// Whether a vendor's key is its key, the policy or in.VendorKeys say; a
// vendor-key statement says it of itself.
//
// The error is a *[NotGenuine], and the Verdict is nil exactly when the error
// isn't. That a policy doesn't allow an entry is no error: see
// [Verdict.Allowed]. A policy that names no measurement allows no record with a
// quote ([CodeNoMeasurement]).
//
// Verify doesn't know what was logged, nor where and when: that in.Releases,
// in.Withdrawn and in.VendorKeys were, that in.Interval is proven, and that
// in.At and in.Collateral are the leaf's, is the caller's to check. Rules over
// several records are those of [Pair] and [ModelRuns].
//
// Verify doesn't modify its arguments. The Verdict retains in.Entry.
func (v *Verifier) Verify(in Input, p *Policy) (*Verdict, error) {
	keys := func(vendor, keyid string) (ed25519.PublicKey, bool) {
		if k, ok := p.trusts(vendor, keyid); ok {
			return k, true
		}
		return v.loggedKey(in.VendorKeys, vendor, keyid)
	}
	q, res, err := v.genuine(in.Entry, in.Collateral, in.At, keys)
	if err != nil {
		return nil, err
	}
	st := in.Entry.Statement()
	r := &report{p: p, claims: make([]Claim, 0, usualClaims)}
	s := &subject{report: r, v: v, in: &in, st: st, quote: q}
	if q != nil {
		r.platform(v.root, q, res, in.At)
		s.identify()
	}
	s.binding()
	if q != nil {
		r.td(q)
	}
	s.content()
	if q != nil {
		r.machine(res)
		r.tdDetails(q)
		r.collateral(res, in.At)
		r.measured(q)
	}
	return &Verdict{
		Entry: in.Entry, At: in.At, Quote: q, TDX: res, Identity: s.identity, Interval: in.Interval,
		Claims: r.claims, Refusals: r.refusals,
	}, nil
}

// usualClaims is about how many claims a verdict has.
const usualClaims = 48

// CheckRelease compares the quote of an admitted entry with the release that the
// statement names, as [Verifier.Verify] does: by in.Releases, in.Withdrawn and
// in.VendorKeys. It refuses what no appraisal policy allows: that the release was
// withdrawn, or has other measurements. It is for those who read a whole log, and
// have no policy.
func (v *Verifier) CheckRelease(a *Admitted, in Input) []Refusal {
	if a.quote == nil {
		return nil
	}
	in.Entry, in.Collateral, in.At = a.entry, a.set, a.judgedAt
	s := &subject{report: &report{p: new(Policy)}, v: v, in: &in, st: a.entry.Statement(), quote: a.quote}
	if found := s.findReleases(); found.refused() {
		s.refuseRelease(found)
	}
	return s.refusals
}

// Appraise judges bare evidence by an appraisal policy: the platform and the
// TD's attributes. Measurements are reported, and judged only if the policy pins
// some; release keys, times, and what else only statements have, are not judged.
//
// The error is a *[NotGenuine] that wraps a *[tdx.Error].
func (v *Verifier) Appraise(q *tdx.Quote, s *tdx.Set, at time.Time, p *Policy) (*Appraisal, error) {
	res, err := v.tdx.Verify(q, s, at)
	if err != nil {
		return nil, quoteError(err)
	}
	r := &report{p: p}
	r.platform(v.root, q, res, at)
	identity := r.appraiseCode(q)
	r.td(q)
	r.machine(res)
	r.tdDetails(q)
	r.collateral(res, at)
	r.measured(q)
	return &Appraisal{At: at, Quote: q, TDX: res, Identity: identity, Claims: r.claims, Refusals: r.refusals}, nil
}

func quoteError(err error) *NotGenuine {
	reason := string(tdx.ReasonParse)
	if e := new(tdx.Error); errors.As(err, &e) {
		reason = string(e.Reason)
	}
	return &NotGenuine{Reason: reason, Err: err}
}

// genuine checks what an entry claims to be, cheap things first. The error is
// a *NotGenuine.
func (v *Verifier) genuine(e *record.Entry, set *tdx.Set, at time.Time, keys func(vendor, keyid string) (ed25519.PublicKey, bool)) (*tdx.Quote, *tdx.Result, error) {
	st := e.Statement()
	if st == nil {
		return nil, nil, notGenuine(ReasonStatement, "the entry wasn't parsed")
	}
	raw := e.Quote()
	if err := checkStatement(e, st, raw, at); err != nil {
		return nil, nil, err
	}

	var pub ed25519.PublicKey
	switch key := st.SessionKey(); {
	case e.Profile.InTD():
		// The record package checks that the key's three forms agree; here it is
		// this key's signature, and no other's, that counts.
		if e.KeyID != key.KeyID {
			return nil, nil, notGenuine(ReasonEnvelope, "signed by key %.64q, but the statement's session key is %s", e.KeyID, key.KeyID)
		}
		pub = key.PublicKey
	case st.VendorKey != nil:
		if e.KeyID != st.VendorKey.Key.KeyID {
			return nil, nil, notGenuine(ReasonEnvelope, "signed by key %.64q, but the statement is about key %s", e.KeyID, st.VendorKey.Key.KeyID)
		}
		pub = st.VendorKey.Key.PublicKey
	default:
		var ok bool
		if pub, ok = keys(st.Vendor, e.KeyID); !ok {
			return nil, nil, notGenuine(ReasonKey, "%.64q isn't known to be a release key of vendor %.200q", e.KeyID, st.Vendor)
		}
	}
	if err := e.VerifySignature(pub); err != nil {
		return nil, nil, &NotGenuine{Reason: ReasonEnvelope, Err: err}
	}
	if raw == nil {
		return nil, nil, nil
	}

	q, err := tdx.ParseQuote(raw)
	if err != nil {
		return nil, nil, quoteError(err)
	}
	if err := profileRules[e.Profile].bound(e, st, [64]byte(q.Body.ReportData)); err != nil {
		return nil, nil, err
	}
	if set == nil {
		return nil, nil, notGenuine(string(tdx.ReasonCollateral), "there is no collateral to judge the quote by")
	}
	res, err := v.tdx.Verify(q, set, at)
	if err != nil {
		return nil, nil, quoteError(err)
	}
	return q, res, nil
}

// checkStatement checks what a statement says about itself and its evidence.
// The error is a *NotGenuine. Most of it follows from what record.ParseEntry
// accepts, and is checked again because everything else rests on it.
func checkStatement(e *record.Entry, st *record.Statement, quote []byte, at time.Time) error {
	switch rule := profileRules[e.Profile]; {
	case e.Profile == record.ProfileVendorSigned:
		if quote != nil {
			return notGenuine(ReasonStatement, "a %s entry with a quote", e.Profile)
		}
	case rule == nil:
		return notGenuine(ReasonStatement, "unknown binding profile %.100q", e.Profile)
	case quote == nil:
		return notGenuine(ReasonStatement, "a %s entry without a quote", e.Profile)
	case st.Evidence != nil && e.Profile.Import():
		ev := st.Evidence
		if sum := sha256.Sum256(quote); sum != ev.SHA256 || uint64(len(quote)) != ev.Size {
			return notGenuine(ReasonBinding, "the statement is about evidence of %d bytes, SHA-256 %x, but the entry has %d bytes, SHA-256 %x", ev.Size, ev.SHA256, len(quote), sum)
		}
		if got := ev.CollectedOn; got.UnixMilli() != at.UnixMilli() {
			return notGenuine(ReasonStatement, "the evidence was collected on %s, but judged at %s", timestamp(got), timestamp(at))
		}
	case st.SessionKey() == nil:
		return notGenuine(ReasonStatement, "a %s entry without a session key", e.Profile)
	case e.Profile.Import():
		if key := st.SessionKey(); e.KeyID != key.KeyID {
			return notGenuine(ReasonEnvelope, "signed by key %.64q, but the statement names key %s", e.KeyID, key.KeyID)
		}
	}
	if start, f := startOf(st), st.Freshness(); start != nil && f != nil {
		// "`session-start`'s index < the size of the final's freshness checkpoint"
		// (FORMAT.md, 11): the start was there to be seen.
		if start.Origin == f.Origin && start.Index >= f.Size {
			return notGenuine(ReasonStatement, "names a start at index %d, which isn't in the checkpoint of size %d that it was made after", start.Index, f.Size)
		}
	}
	return nil
}

// startOf returns where the end of a session says that its start is.
func startOf(st *record.Statement) *record.StatementRef {
	switch {
	case st.Session != nil:
		return &st.Session.Start
	case st.Abandoned != nil:
		return &st.Abandoned.Start
	}
	return nil
}

// loggedKey finds a vendor's key among vendor-key entries. They prove
// possession themselves, by their signature.
func (v *Verifier) loggedKey(entries []*record.Entry, vendor, keyid string) (ed25519.PublicKey, bool) {
	for _, e := range entries {
		st := e.Statement()
		if st == nil || st.VendorKey == nil || st.Vendor != vendor || st.VendorKey.Key.KeyID != keyid {
			continue
		}
		pub := st.VendorKey.Key.PublicKey
		if e.KeyID == keyid && v.signed(e, pub) {
			return pub, true
		}
	}
	return nil, false
}

// signed reports whether pub is the key that a vendor's entry names, and has signed
// it. A release is compared with every record that names it, so that its signature
// is looked up rather than verified again.
func (v *Verifier) signed(e *record.Entry, pub ed25519.PublicKey) bool {
	if len(pub) != ed25519.PublicKeySize || record.KeyID(record.SPKI(pub)) != e.KeyID {
		return false
	}
	if ok, known := v.vendors.Get(e); known {
		return ok
	}
	ok := e.VerifySignature(pub) == nil
	v.vendors.Add(e, ok)
	return ok
}

// appraiseCode compares a quote with the pinned measurements, if there are any.
func (r *report) appraiseCode(q *tdx.Quote) Identity {
	const id, label = "code", "Identity of the code"
	if len(r.p.measurements) == 0 {
		r.claim(id, label, "not judged", SourceUnknown, StatusUnknown, "The appraisal policy pins no measurements. They are listed below.")
		return Identity{}
	}
	i, note, why := r.pinned(q)
	if !i.Known() {
		r.claim(id, label, "unknown", SourceVerifier, StatusFailed, "The quote's measurements are none that the appraisal policy pins.")
		r.refuse(CodeMeasurement, "measurements", "mrtd "+fmt.Sprintf("%x", q.Body.MRTD), "a pinned set of measurements",
			"the code isn't known: %s", why)
		return i
	}
	r.claim(id, label, "the pinned measurements "+quoted(i.Name), SourceVerifier, StatusHolds, afterMeasuring(q, note))
	return i
}

// afterMeasuring adds to a note that a debug TD's code can have been changed.
func afterMeasuring(q *tdx.Quote, note string) string {
	if !q.Body.TDAttributes.Debug() {
		return note
	}
	return strings.TrimSpace(note + " In debug mode the host can have changed the code since it was measured.")
}

// pinned looks for a pinned set of measurements. Else it says why there is none.
func (r *report) pinned(q *tdx.Quote) (i Identity, note, why string) {
	var differ []string
	for _, m := range r.p.measurements {
		fields := m.match(&q.Body)
		if fields != nil {
			differ = append(differ, fmt.Sprintf("%s differs in %s", quoted(m.name), join(fields, "and")))
			continue
		}
		note := ""
		if free := m.free(); free != nil {
			note = "The set leaves " + join(free, "and") + " open: any value passes."
		}
		return Identity{By: "measurement", Name: clean(m.name)}, note, ""
	}
	return Identity{}, "", strings.Join(differ, "; ")
}

func quoted(s string) string { return "“" + clean(s) + "”" }

// A subject is a statement under judgement.
type subject struct {
	*report
	v        *Verifier
	in       *Input
	st       *record.Statement
	quote    *tdx.Quote
	identity Identity
	trusted  *record.Release // that ran, if it is logged under a key that the policy trusts
}

// said is the source of what the statement says: it counts as said by measured
// code only if the quote commits to it, the reader knows the code, and the host
// couldn't change it.
func (s *subject) said() Source {
	if s.in.Entry.Profile == record.ProfileStatement && s.identity.Known() && !s.quote.Body.TDAttributes.Debug() {
		return SourceMeasuredCode
	}
	return SourceVendor
}

// identify finds out what identifies the code, and whether it is the release
// that the statement names.
func (s *subject) identify() {
	identity, note, why := s.pinned(s.quote)
	found := s.findReleases()
	if !identity.Known() && found.trusted != nil {
		identity, note = found.trusted.identity(), found.trusted.note()
	}
	s.identity = identity
	note = afterMeasuring(s.quote, note)

	const id, label = "code", "Identity of the code"
	switch {
	case identity.By == "measurement":
		if s.in.Entry.Profile == record.ProfileAzureParavisor {
			note = strings.TrimSpace(note + " They are the paravisor's, and not those of the code in the guest.")
		}
		s.claim(id, label, "the pinned measurements "+quoted(identity.Name), SourceVerifier, StatusHolds, note)
	case identity.By == "release":
		s.claim(id, label, identity.Name, SourceVerifier, StatusHolds, note)
	case !s.p.NamesMeasurement():
		s.claim(id, label, "unknown", SourceUnknown, StatusFailed, "Nothing says which code ran, so that all that it says is the vendor's assertion.")
		s.refuse(CodeNoMeasurement, "measurements", "", "measurements or release-keys", "%s", WhatToPin)
	default:
		s.claim(id, label, "unknown", SourceVerifier, StatusFailed, "All that the code says is the vendor's assertion.")
		reasons := make([]string, 0, 2)
		for _, r := range []string{why, found.why()} {
			if r != "" {
				reasons = append(reasons, r)
			}
		}
		switch {
		case len(reasons) > 0:
		case s.st.Environment() == nil:
			reasons = append(reasons, "the statement names no release, and the appraisal policy pins no measurements")
		default:
			reasons = append(reasons, "the release that the statement names wasn't given, and the appraisal policy pins no measurements")
		}
		s.refuse(CodeMeasurement, "measurements, release-keys", fmt.Sprintf("mrtd %x", s.quote.Body.MRTD), "a pinned set of measurements, or a logged release under a trusted key",
			"the code isn't known: %s", strings.Join(reasons, "; "))
	}
	s.claimRelease(found)
}

// A releaseFound is a release entry that the statement's environment names.
type releaseFound struct {
	entry   *record.Entry
	release *record.Release
	set     *record.Measurement // that equals the quote's
}

func (f *releaseFound) identity() Identity {
	return Identity{By: "release", Name: fmt.Sprintf("release %s %s", clean(f.release.Image.Name), clean(f.release.Version))}
}

func (f *releaseFound) note() string {
	m := measurementsOf(f.set)
	note := "A logged release under a release key that your appraisal policy trusts, not withdrawn as far as this evidence shows."
	if free := m.free(); free != nil {
		note += " It leaves " + join(free, "and") + " open: any value passes."
	}
	return note
}

// releasesFound is what the given releases say about the statement's.
type releasesFound struct {
	trusted    *releaseFound // good, under a key that the policy trusts
	consistent *releaseFound // good, under a logged key
	bad        bool          // at least one says otherwise, or was withdrawn
	withdrawn  string        // what is to be said of those that were withdrawn

	reasons []func() string // why none is trusted: in words only if somebody asks
}

// why says why none is trusted. It is empty if there is none at all.
func (f *releasesFound) why() string {
	words := make([]string, len(f.reasons))
	for i, r := range f.reasons {
		words[i] = r()
	}
	return strings.Join(words, "; ")
}

// refused reports whether all that was found says that it isn't the release that ran. Withdrawn or differing releases
// beside a good one don't matter: vendors log an image again with corrected measurements.
func (f *releasesFound) refused() bool { return f.trusted == nil && f.consistent == nil && f.bad }

// findReleases looks through the given releases for the one that the
// statement's environment names: of the same vendor, for the same image.
func (s *subject) findReleases() (found releasesFound) {
	env := s.st.Environment()
	if env == nil {
		return found
	}
	for _, e := range s.in.Releases {
		st := e.Statement()
		if st == nil || st.Release == nil || st.Vendor != s.st.Vendor || st.Release.Image.SHA256 != env.Release.SHA256 {
			continue
		}
		f := &releaseFound{entry: e, release: st.Release}
		name := clean(st.Release.Version)
		fail := func(bad bool, format string, args ...any) {
			found.bad = found.bad || bad
			found.reasons = append(found.reasons, func() string { return "release " + quoted(name) + " " + fmt.Sprintf(format, args...) })
		}
		pub, trusted := s.p.trusts(st.Vendor, e.KeyID)
		if !trusted {
			var ok bool
			if pub, ok = s.v.loggedKey(s.in.VendorKeys, st.Vendor, e.KeyID); !ok {
				fail(false, "is signed by a key that isn't known")
				continue
			}
		}
		if !s.v.signed(e, pub) {
			fail(true, "has a wrong signature")
			continue
		}
		if at := s.in.At; at.Before(st.Release.NotBefore) {
			fail(true, "isn't valid before %s", timestamp(st.Release.NotBefore))
			continue
		} else if end := st.Release.NotAfter; end != nil && !at.Before(*end) {
			fail(true, "wasn't valid any more after %s", timestamp(*end))
			continue
		}
		if w := s.withdrawal(e); w != nil {
			fail(true, "was withdrawn (%s)", clean(w.Reason))
			found.withdrawn = fmt.Sprintf(" But another release of this image, %s, was withdrawn (%s).", quoted(name), clean(w.Reason))
			continue
		}
		var differ []string
		for i := range st.Release.Measurements {
			m := &st.Release.Measurements[i]
			expected := measurementsOf(m)
			if differ = expected.match(&s.quote.Body); differ == nil {
				f.set = m
				break
			}
		}
		if f.set == nil {
			fail(true, "has other measurements than the quote: the last set differs in %s", join(differ, "and"))
			continue
		}
		if trusted {
			if found.trusted == nil {
				found.trusted = f
			}
			continue
		}
		if found.consistent == nil {
			found.consistent = f
		}
		fail(false, "is signed by a key that the appraisal policy doesn't trust")
	}
	return found
}

// withdrawal returns the withdrawal of a release, nil if there is none. One whose
// signature can't be checked counts: the log admitted it by the vendor's key.
func (s *subject) withdrawal(release *record.Entry) *record.ReleaseWithdrawn {
	if len(s.in.Withdrawn) == 0 {
		return nil // before anything is hashed
	}
	digest, vendor := release.StatementDigest(), release.Statement().Vendor
	for _, e := range s.in.Withdrawn {
		st := e.Statement()
		if st == nil || st.Withdrawn == nil || st.Vendor != vendor || st.Withdrawn.Statement != digest {
			continue
		}
		pub, ok := s.p.trusts(vendor, e.KeyID)
		if !ok {
			pub, ok = s.v.loggedKey(s.in.VendorKeys, vendor, e.KeyID)
		}
		if !ok || s.v.signed(e, pub) {
			return st.Withdrawn
		}
	}
	return nil
}

func measurementsOf(m *record.Measurement) *measurements {
	opt := func(b *[48]byte) []byte {
		if b == nil {
			return nil
		}
		return b[:]
	}
	return &measurements{
		mrtd:       m.MRTD[:],
		rtmr:       [4][]byte{opt(m.RTMR[0]), opt(m.RTMR[1]), opt(m.RTMR[2]), opt(m.RTMR[3])},
		mrConfigID: opt(m.MRConfigID), mrOwner: opt(m.MROwner), mrOwnerConfig: opt(m.MROwnerConfig),
	}
}

// refuseRelease says that the release which the statement names isn't the one that ran.
func (s *subject) refuseRelease(found releasesFound) {
	s.refuse(CodeRelease, "environment.release", fmt.Sprintf("%x", s.st.Environment().Release.SHA256), "a logged release, not withdrawn, whose measurements equal the quote's",
		"the statement names a release that isn't the one that ran: %s", found.why())
}

// claimRelease says whether the release that the statement names is the one
// that ran.
func (s *subject) claimRelease(found releasesFound) {
	env := s.st.Environment()
	if env == nil {
		return
	}
	const id, label = "release", "Release that the statement names"
	value := fmt.Sprintf("%s (image SHA-256 %x)", clean(env.Release.Name), env.Release.SHA256)
	switch {
	case found.trusted != nil:
		s.trusted = found.trusted.release
		s.claim(id, label, value, SourceVerifier, StatusHolds, "The logged release has the quote's measurements."+found.withdrawn)
	case found.consistent != nil:
		s.claim(id, label, value, SourceVerifier, StatusHolds,
			"The logged release has the quote's measurements, but your appraisal policy doesn't trust its release key: the vendor alone says what the image is."+found.withdrawn)
	case found.refused():
		s.claim(id, label, value, SourceVerifier, StatusFailed, sentence(found.why()))
		s.refuseRelease(found)
	case len(found.reasons) > 0:
		s.claim(id, label, value, s.said(), StatusUnknown, sentence(found.why()))
	default:
		s.claim(id, label, value, s.said(), StatusUnknown, "No logged release of that image was given to compare with.")
	}
}

// sentence makes a sentence of a reason.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// binding judges the binding profile.
func (s *subject) binding() {
	const id, label = "binding", "Statement bound to the hardware"
	e := s.in.Entry
	ok := false
	for _, p := range s.p.acceptedProfiles() {
		ok = ok || p == e.Profile
	}
	if !ok {
		s.refuse(CodeProfile, "profiles", string(e.Profile), join(s.p.acceptedProfiles(), "or"), "the entry's binding profile is %s", e.Profile)
	}
	rule := profileRules[e.Profile]
	if rule == nil {
		s.claim(id, label, "no hardware involved (vendor-signed/v1)", SourceVerifier, judged(ok), "The vendor says all of it.")
	} else {
		s.claim(id, label, rule.value, SourceVerifier, judged(ok), rule.note)
		if rule.not != "" {
			s.claim("binding.not", "Not bound to the hardware", rule.not, SourceUnknown, StatusUnknown, "")
		}
		if rule.claims != nil {
			rule.claims(s)
		}
	}
	if e.Profile.InTD() {
		return
	}
	const signer, by = "signer", "Signed by"
	value := "release key " + e.KeyID
	if _, trusted := s.p.trusts(s.st.Vendor, e.KeyID); trusted {
		s.claim(signer, by, value, SourceVerifier, StatusHolds, "Your appraisal policy trusts this key of the vendor.")
		return
	}
	s.claim(signer, by, value, SourceVerifier, StatusFailed, "Your appraisal policy doesn't trust this key.")
	s.refuse(CodeReleaseKey, "release-keys", e.KeyID, "a release key of the vendor that the appraisal policy trusts",
		"the entry is signed by a release key of vendor %s that the appraisal policy doesn't trust", quoted(s.st.Vendor))
}
