package verifier

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
)

// A PlacedRecord is a record's verdict with its place in a log, which the caller
// has proven.
type PlacedRecord struct {
	Origin  string
	Index   uint64
	Verdict *Verdict

	// AdmittedAt is the log's time of admission. It is compared only where start
	// and end are in two logs.
	AdmittedAt time.Time
}

func (r *PlacedRecord) statement() *record.Statement { return r.Verdict.Entry.Statement() }

// said is the source of what holds only if the code of both records is honest.
func said(records ...*PlacedRecord) Source {
	for _, r := range records {
		v := r.Verdict
		if v.Entry.Profile != record.ProfileStatement || !v.Identity.Known() || v.Quote.Body.TDAttributes.Debug() {
			return SourceVendor
		}
	}
	return SourceMeasuredCode
}

func refused(r *PlacedRecord, c Code) bool {
	return slices.ContainsFunc(r.Verdict.Refusals, func(f Refusal) bool { return f.Code == c })
}

// Pair judges whether the end of a session, a session or session-abandoned
// record, belongs to its start. If start is nil, it says that it is missing.
// The claims and refusals are about the session as a whole, and come in addition
// to those of the records.
func Pair(start, end *PlacedRecord) ([]Claim, []Refusal) {
	r := new(report)
	st := end.statement()
	ref := startOf(st)
	const id, label = "session.pair", "Start and end belong together"
	if start == nil {
		if ref == nil {
			r.refuse(CodePair, "predicateType", st.PredicateType, record.PredicateSession, "the record isn't the end of a session")
			return nil, r.refusals
		}
		r.claim(id, label, "no start", SourceVerifier, StatusFailed, "Without its start, nothing says when the session began, or that it was logged before it did anything.")
		r.refuse(CodeStartMissing, "session.start", "none", fmt.Sprintf("statement %x at index %d", ref.Statement, ref.Index), "the start of the session is missing")
		return r.claims, r.refusals
	}
	r.pair(start, end, ref)
	if len(r.refusals) > 0 {
		r.claim(id, label, "no", SourceVerifier, StatusFailed, sentence(r.refusals[0].Message))
		return r.claims, r.refusals
	}
	if end.Verdict.Quote == nil {
		r.claim(id, label, "yes, by the vendor's word", SourceVendor, StatusAsserted, "The vendor gave the session up. The enclave didn't say how it ended.")
		return r.claims, nil
	}
	source := said(start, end)
	note := "Same session key, id, release and kind of trust domain. Hardware gives trust domains no identity: that only one had the key is for the code to ensure."
	r.claim(id, label, "yes", source, StatusAsserted, note)

	const memory, memoryLabel = "memory-encryption.session", "Memory encryption throughout the session"
	a, b := start.Verdict.Quote.Body.TDAttributes, end.Verdict.Quote.Body.TDAttributes
	switch {
	case a.Debug() || b.Debug():
		// The records' own verdicts have refused it, unless the policy allows it.
		r.claim(memory, memoryLabel, "readable by the host", SourceHardware, judged(!refused(start, CodeDebug) && !refused(end, CodeDebug)),
			"In debug mode the host reads memory in the clear.")
	case a.Migratable() || b.Migratable():
		r.claim(memory, memoryLabel, "unknown", SourceUnknown, StatusUnknown, "A migratable trust domain may have been somewhere else in between.")
	default:
		r.claim(memory, memoryLabel, "private memory was encrypted", source, StatusAsserted,
			"Hardware says so of the start and of the end, and a trust domain's attributes never change. That both were the same one follows from the session key.")
	}
	return r.claims, r.refusals
}

// pair refuses what start and end have in contradiction.
func (r *report) pair(start, end *PlacedRecord, ref *record.StatementRef) {
	a, b := start.statement(), end.statement()
	differ := func(field string, got, want any) {
		r.refuse(CodePair, field, fmt.Sprint(got), fmt.Sprint(want), "start and end of the session differ in %s: %v and %v", field, want, got)
	}
	if a.Start == nil || ref == nil {
		r.refuse(CodePair, "predicateType", b.PredicateType, record.PredicateSession, "the records aren't the start and the end of a session")
		return
	}
	if digest := start.Verdict.Entry.StatementDigest(); ref.Statement != digest {
		r.refuse(CodePair, "session.start.statement", fmt.Sprintf("%x", ref.Statement), fmt.Sprintf("%x", digest), "the end of the session names another start")
	}
	if ref.Origin != start.Origin || ref.Index != start.Index {
		r.refuse(CodePair, "session.start.index", fmt.Sprintf("%s, index %d", clean(ref.Origin), ref.Index), fmt.Sprintf("%s, index %d", clean(start.Origin), start.Index),
			"the end of the session says that its start is somewhere else")
	}
	switch {
	case end.Origin == start.Origin:
	case record.NextShard(start.Origin, end.Origin):
		// "A session that was started in the shard before may end in this one" (FORMAT.md, 11). Indices of two logs can't
		// be compared; their times can, within what witnesses prove of each.
		if d := end.AdmittedAt.Sub(start.AdmittedAt); d < 0 || d > record.ShardOverlap {
			r.refuse(CodeOrder, "admittedAt", timestamp(end.AdmittedAt), "within 7 days after "+timestamp(start.AdmittedAt),
				"the session was started in the log %s at %s, and ended in the next one at %s, which isn't within seven days", clean(start.Origin), timestamp(start.AdmittedAt), timestamp(end.AdmittedAt))
		}
	default:
		differ("log", clean(end.Origin), clean(start.Origin))
	}
	if end.Origin == start.Origin && end.Index <= start.Index {
		r.refuse(CodeOrder, "index", fmt.Sprint(end.Index), fmt.Sprintf("more than %d", start.Index), "the end of the session was logged before its start")
	}
	// "`session-start`'s index < the size of the final's freshness checkpoint"
	// (FORMAT.md, 11). The statement promises it for the index that it names; this is
	// the index that is proven.
	if f := b.Freshness(); f != nil && f.Origin == start.Origin && start.Index >= f.Size {
		r.refuse(CodeOrder, "freshness.checkpoint", fmt.Sprintf("size %d", f.Size), fmt.Sprintf("more than %d", start.Index), "the end of the session was made after a checkpoint that doesn't cover its start")
	}
	if err := record.CheckPair(a, b); err != nil {
		r.refuse(CodePair, "session", "", "", "start and end of the session don't belong together: %v", err)
	}
	r.sameTD(start.Verdict, end.Verdict, differ)
}

// sameTD compares what never changes in the life of a TD. RTMRs do.
func (r *report) sameTD(start, end *Verdict, differ func(field string, got, want any)) {
	if start.Quote == nil || end.Quote == nil {
		return
	}
	a, b := &start.Quote.Body, &end.Quote.Body
	if a.TDAttributes != b.TDAttributes {
		differ("TD attributes", attributes(b.TDAttributes), attributes(a.TDAttributes))
	}
	if a.XFAM != b.XFAM {
		differ("XFAM", fmt.Sprintf("%x", b.XFAM), fmt.Sprintf("%x", a.XFAM))
	}
	for _, f := range (&measurements{}).fields() {
		switch f.name {
		case "mrtd", "mrconfigid", "mrowner", "mrownerconfig":
			if !bytes.Equal(f.of(a), f.of(b)) {
				differ(f.name, fmt.Sprintf("%x", f.of(b)), fmt.Sprintf("%x", f.of(a)))
			}
		}
	}
	if !a.TDAttributes.Migratable() && start.TDX.PPID != end.TDX.PPID {
		differ("platform", end.TDX.PPID, start.TDX.PPID)
	}
}

func digestText(d *record.Digest) string {
	if d == nil {
		return "none"
	}
	return fmt.Sprintf("%x", *d)
}

// Ends refuses more than one end of a session: of different statements by one
// vendor that name the same start, none counts. Another vendor's is no end of it,
// or anybody whom a log admits could spoil a session.
func Ends(ends []*PlacedRecord) []Refusal {
	r := new(report)
	type session struct {
		vendor string
		start  record.Digest
	}
	bySession := make(map[session]*PlacedRecord)
	for _, e := range ends {
		ref := startOf(e.statement())
		if ref == nil {
			continue
		}
		s := session{e.statement().Vendor, ref.Statement}
		other, ok := bySession[s]
		if !ok {
			bySession[s] = e
			continue
		}
		if other.Verdict.Entry.StatementDigest() != e.Verdict.Entry.StatementDigest() {
			r.refuse(CodeTwoFinals, "session.start.statement", fmt.Sprintf("indices %d and %d", other.Index, e.Index), "one end",
				"the session has two ends, at indices %d and %d", other.Index, e.Index)
		}
	}
	return r.refusals
}

// ModelRuns judges the models of a final record by the model-run records that it
// names, and these by those that they name as upstream. The claims replace those
// of the final's verdict with the same ids, see [Merge]. A model, or an upstream,
// of class tee without a good record is refused, unless the policy allows it.
//
// A run that names the session and its key, and that neither the final nor a run's
// upstream names or went to, is refused: the session keeps quiet about a model.
// Other records in runs are ignored. The records' own refusals are the caller's to
// report, too.
func ModelRuns(start, final *PlacedRecord, runs []*PlacedRecord, p *Policy) ([]Claim, []Refusal) {
	r := &report{p: p}
	session := final.statement().Session
	if session == nil {
		return nil, nil
	}
	byStatement := modelRuns(runs)
	for i := range session.Models {
		m := &session.Models[i]
		if m.Execution != record.ExecutionTEE {
			continue
		}
		r.model(modelID(i), m, start, final, byStatement)
	}
	r.unnamed(final, byStatement)
	return r.claims, r.refusals
}

// unnamed refuses runs that name the final's session, which doesn't name them.
func (r *report) unnamed(final *PlacedRecord, runs map[record.Digest]*PlacedRecord) {
	session := final.statement().Session
	named, hops := make(map[record.Digest]bool), make(map[record.Channel]bool)
	for i := range session.Models {
		if d := session.Models[i].ModelRun; d != nil {
			named[*d] = true
		}
	}
	for _, run := range runs {
		for _, u := range run.statement().ModelRun.Upstream {
			hops[u.Channel] = true
			if u.ModelRun != nil {
				named[*u.ModelRun] = true
			}
		}
	}
	var surplus []*PlacedRecord
	for d, run := range runs {
		mr := run.statement().ModelRun
		if !named[d] && !hops[mr.PeerChannel] && mr.PeerKeyID == session.SessionKey.KeyID &&
			mr.Session.ID == session.ID && mr.Session.Statement == session.Start.Statement {
			surplus = append(surplus, run)
		}
	}
	slices.SortFunc(surplus, func(a, b *PlacedRecord) int { return cmp.Compare(a.Index, b.Index) })
	for _, run := range surplus {
		r.refuse(CodeModelRun, "models", "none", fmt.Sprintf("the record at index %d", run.Index),
			"the record of model %s, index %d, names this session, whose final record doesn't name it", quoted(run.statement().ModelRun.RequestModel), run.Index)
	}
}

// modelRuns finds model runs by their statements' digests.
func modelRuns(records []*PlacedRecord) map[record.Digest]*PlacedRecord {
	runs := make(map[record.Digest]*PlacedRecord)
	for _, r := range records {
		if r.statement().ModelRun != nil {
			runs[r.Verdict.Entry.StatementDigest()] = r
		}
	}
	return runs
}

func (r *report) model(id string, m *record.Model, start, final *PlacedRecord, runs map[record.Digest]*PlacedRecord) {
	const label = "Model"
	value := modelValue(m)
	field := strings.Replace(id, ".", "s.", 1) + ".modelRun"
	accepted := slices.Contains(r.p.acceptedExecution(), m.Execution)
	asserted := func(ok bool) ClaimStatus {
		if ok && accepted {
			return StatusAsserted
		}
		return StatusFailed
	}
	var run *PlacedRecord
	if m.ModelRun != nil {
		run = runs[*m.ModelRun]
	}
	if run == nil {
		ok := r.p.allowUnlinked
		if !ok {
			r.refuse(CodeModelRun, field, digestText(m.ModelRun), "the record of the model run", "model %s is said to run in confidential hardware, and there is no record of it", quoted(m.RequestModel))
		}
		r.claim(id, label, value, SourceVendor, asserted(ok), "Said to run in confidential hardware. There is no record that shows it.")
		return
	}
	before := len(r.refusals)
	r.compareModel(field, m, start, final, run)
	if len(r.refusals) > before {
		r.claim(id, label, value, SourceVerifier, StatusFailed, sentence(r.refusals[before].Message))
		return
	}
	if !run.Verdict.Allowed() {
		ok := r.p.allowUnlinked
		if !ok {
			r.refuse(CodeModelRun, field, string(run.Verdict.Refusals[0].Code), "an allowed record", "the record of model %s isn't allowed by the appraisal policy: %s", quoted(m.RequestModel), run.Verdict.Refusals[0].Message)
		}
		r.claim(id, label, value, SourceVendor, asserted(ok), "Its own record is genuine, but the appraisal policy doesn't allow it.")
		return
	}
	u := &upstreams{report: r, start: start, final: final, runs: runs, seen: make(map[*PlacedRecord]bool)}
	u.follow(field, run)
	switch {
	case len(r.refusals) > before:
		r.claim(id, label, value, SourceVerifier, StatusFailed, sentence(r.refusals[before].Message))
	case run.statement().ModelRun.Session == nil:
		r.claim(id, label, value, SourceVendor, asserted(true), fmt.Sprintf("Its own record, index %d, is good, but it covers many sessions, and doesn't show this one.", run.Index))
	case u.unshown != "":
		r.claim(id, label, value, SourceVendor, asserted(true), fmt.Sprintf("Its own record, index %d, names this session, but it sent calls on to %s, and no record shows where they ended.", run.Index, u.unshown))
	case run.Verdict.Entry.Profile.Import():
		r.claim(id, label, value, SourceVendor, asserted(true), fmt.Sprintf("Its own record, index %d, names this session, and shows a key in confidential hardware that was attested for it. That these calls were answered there isn't shown by that.", run.Index))
	case said(run) != SourceMeasuredCode:
		r.claim(id, label, value, SourceVendor, asserted(true), fmt.Sprintf("Its own record, index %d, names this session, but the host could change the code that made it.", run.Index))
	default:
		note := fmt.Sprintf("Its own record, index %d, names this session, and both name the same key of their channel.", run.Index)
		if n := len(run.statement().ModelRun.Environment.Accelerators); n > 0 {
			note += " The evidence of its accelerators wasn't verified here."
		}
		if n := len(run.statement().ModelRun.Upstream); n > 0 {
			note += " It sent calls on to others, whose records are good, too."
		}
		r.claim(id, label, value, SourceVerifier, judged(accepted), note)
	}
}

// Upstreams judges where a model run sent calls on to, by the records that it
// names, as [ModelRuns] does for those of a session. The claims replace those of
// the run's verdict with the same ids, see [Merge].
func Upstreams(run *PlacedRecord, runs []*PlacedRecord, p *Policy) ([]Claim, []Refusal) {
	u := &upstreams{report: &report{p: p}, runs: modelRuns(runs)}
	if mr := run.statement().ModelRun; mr != nil {
		for i := range mr.Upstream {
			before := len(u.refusals)
			u.unshown, u.seen = "", make(map[*PlacedRecord]bool)
			u.hop(fmt.Sprintf("upstream.%d", i), run, &mr.Upstream[i])
			if mr.Upstream[i].Execution != record.ExecutionTEE {
				continue // the run's own verdict says all
			}
			id, label, value := upstreamClaim(i, &mr.Upstream[i])
			switch {
			case len(u.refusals) > before:
				u.claim(id, label, value, SourceVerifier, StatusFailed, sentence(u.refusals[before].Message))
			case u.unshown != "":
				u.claim(id, label, value, SourceVendor, judgedAsserted(slices.Contains(p.acceptedExecution(), record.ExecutionTEE)), executionNotes[record.ExecutionTEE])
			default:
				u.claim(id, label, value, SourceVerifier, judged(slices.Contains(p.acceptedExecution(), record.ExecutionTEE)), "Its own record is good, and names the same key of their channel.")
			}
		}
	}
	return u.claims, u.refusals
}

// judgedAsserted is the status of what somebody says, and a policy was asked
// about.
func judgedAsserted(ok bool) ClaimStatus {
	if ok {
		return StatusAsserted
	}
	return StatusFailed
}

// upstreams follows model runs to those that they sent calls on to. Without
// that, a gateway in confidential hardware could hide that the model isn't.
type upstreams struct {
	*report
	start, final *PlacedRecord // nil if there is none
	runs         map[record.Digest]*PlacedRecord

	// seen has the runs that were followed: many ways may lead to one. There is
	// no way round, since statements name others by their hashes.
	seen map[*PlacedRecord]bool

	unshown string // who got calls without a record that shows where, the first
}

func (u *upstreams) follow(field string, run *PlacedRecord) {
	if u.seen[run] {
		return
	}
	u.seen[run] = true
	mr := run.statement().ModelRun
	for i := range mr.Upstream {
		u.hop(fmt.Sprintf("%s.upstream.%d", field, i), run, &mr.Upstream[i])
	}
}

// hop judges one element of a run's upstream.
func (u *upstreams) hop(field string, run *PlacedRecord, to *record.Upstream) {
	unshown := func() {
		if u.unshown == "" {
			u.unshown = quoted(to.Provider)
		}
	}
	if to.Execution != record.ExecutionTEE {
		unshown() // whether that class is good enough, the run's own verdict says
		return
	}
	var next *PlacedRecord
	if to.ModelRun != nil {
		next = u.runs[*to.ModelRun]
	}
	if next == nil {
		unshown()
		if !u.p.allowUnlinked {
			u.refuse(CodeModelRun, field, digestText(to.ModelRun), "the record of the model run", "calls went on to %s, which is said to be in confidential hardware, and there is no record of it", quoted(to.Provider))
		}
		return
	}
	a, b := run.statement().ModelRun, next.statement().ModelRun
	differ := func(what string, got, want any) {
		u.refuse(CodeModelRun, field, fmt.Sprint(got), fmt.Sprint(want), "a model run and the one that it sent calls on to differ in %s: %v and %v", what, want, got)
	}
	if next.Origin != run.Origin {
		differ("log", clean(next.Origin), clean(run.Origin))
	}
	if b.PeerChannel != to.Channel {
		differ("channel", channelText(b.PeerChannel), channelText(to.Channel))
	}
	if a.Session != nil && b.Session != nil && a.Session.Statement != b.Session.Statement {
		differ("start statement", fmt.Sprintf("%x", b.Session.Statement), fmt.Sprintf("%x", a.Session.Statement))
	}
	if u.final != nil && next.Origin == u.final.Origin && next.Index >= u.final.Index ||
		u.start != nil && next.Origin == u.start.Origin && b.Session != nil && next.Index <= u.start.Index {
		u.refuse(CodeOrder, field, fmt.Sprintf("index %d", next.Index), "between start and end", "the model run that calls were sent on to was logged at index %d, which isn't between the start and the end of the session", next.Index)
	}
	switch v := next.Verdict; {
	case !v.Allowed() && !u.p.allowUnlinked:
		u.refuse(CodeModelRun, field, string(v.Refusals[0].Code), "an allowed record", "the record of %s, to which calls were sent on, isn't allowed by the appraisal policy: %s", quoted(to.Provider), v.Refusals[0].Message)
		return
	case !v.Allowed(), b.Session == nil && a.Session != nil, said(next) != SourceMeasuredCode:
		unshown()
	}
	u.follow(field, next)
}

func channelText(c record.Channel) string { return fmt.Sprintf("%s %x", c.Type, c.SHA256) }

// compareModel refuses what the two sides of a model run have in contradiction:
// "both sides name each other, a mismatch fails" (FIELDS.md).
func (r *report) compareModel(field string, m *record.Model, start, final, run *PlacedRecord) {
	session, mr := final.statement().Session, run.statement().ModelRun
	differ := func(what string, got, want any) {
		r.refuse(CodeModelRun, field, fmt.Sprint(got), fmt.Sprint(want), "session and model run differ in %s: %v and %v", what, want, got)
	}
	if run.Origin != final.Origin && (start == nil || run.Origin != start.Origin) {
		differ("log", clean(run.Origin), clean(final.Origin))
	}
	for _, c := range []struct{ what, got, want string }{
		{"provider", quoted(mr.Provider), quoted(m.Provider)},
		{"requestModel", quoted(mr.RequestModel), quoted(m.RequestModel)},
		{"responseModel", quoted(mr.ResponseModel), quoted(m.ResponseModel)},
	} {
		if c.got != c.want {
			differ(c.what, c.got, c.want)
		}
	}
	// A record that covers many sessions must be of whom this one talked to.
	if mr.PeerChannel != m.Channel {
		differ("channel", channelText(mr.PeerChannel), channelText(m.Channel))
	}
	if s := mr.Session; s != nil {
		if s.ID != session.ID {
			differ("session id", s.ID, session.ID)
		}
		if s.Statement != session.Start.Statement {
			differ("start statement", fmt.Sprintf("%x", s.Statement), fmt.Sprintf("%x", session.Start.Statement))
		}
		if mr.PeerKeyID != session.SessionKey.KeyID {
			differ("session key", mr.PeerKeyID, session.SessionKey.KeyID)
		}
		if mr.Calls.Size != m.Calls {
			differ("number of calls", mr.Calls.Size, m.Calls)
		}
	} else if mr.Calls.Size < m.Calls {
		differ("number of calls", mr.Calls.Size, fmt.Sprintf("at least %d", m.Calls))
	}
	// "`session-start` < `model-run` < `session`" (FORMAT.md, 11)
	if start != nil && run.Origin == start.Origin && run.Index <= start.Index || run.Origin == final.Origin && run.Index >= final.Index {
		r.refuse(CodeOrder, field, fmt.Sprintf("index %d", run.Index), "between start and end", "the model run was logged at index %d, which isn't between the start and the end of the session", run.Index)
	}
}

// Merge returns claims in which those of newer replace those with the same id.
// Others of newer come before the claims about the platform and other details,
// or at the end if there are none.
func Merge(claims, newer []Claim) []Claim {
	merged := slices.Clone(claims)
	at := slices.IndexFunc(merged, func(c Claim) bool { return c.ID == "platform.id" })
	if at < 0 {
		at = len(merged)
	}
	for _, c := range newer {
		if i := slices.IndexFunc(merged, func(o Claim) bool { return o.ID == c.ID }); i >= 0 {
			merged[i] = c
			continue
		}
		merged = slices.Insert(merged, at, c)
		at++
	}
	return merged
}
