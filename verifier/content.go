package verifier

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
)

// content claims what the statement says, in the order of importance.
func (s *subject) content() {
	st := s.st
	if id, ok := st.SessionID(); ok {
		s.claim("session.id", "Session", id.String(), s.said(), StatusAsserted, "")
	}
	s.claim("vendor", "Vendor", clean(st.Vendor), SourceVendor, StatusAsserted, "The log admits entries only from whom it knows as this vendor.")
	s.freshness()
	s.late()
	s.interval()
	switch {
	case st.Start != nil:
		s.start(st.Start)
	case st.Session != nil:
		s.final(st.Session)
	case st.Abandoned != nil:
		s.abandoned(st.Abandoned)
	case st.ModelRun != nil:
		s.modelRun(st.ModelRun)
	case st.Release != nil:
		s.releaseStatement(st.Release)
	case st.Withdrawn != nil:
		s.say("withdrawn", "Release that is withdrawn", fmt.Sprintf("%s, statement %x", clean(st.Withdrawn.Image.Name), st.Withdrawn.Statement), "")
		s.say("reason", "Reason", clean(st.Withdrawn.Reason), "")
		s.say("time.withdrawn", "Withdrawn on", timestamp(st.Withdrawn.WithdrawnOn), "The vendor's clock.")
	case st.VendorKey != nil:
		s.say("key", "Release key", st.VendorKey.Key.KeyID, "The key signed this statement itself.")
	case st.Evidence != nil:
		s.claim("time.collected", "Collected on", timestamp(st.Evidence.CollectedOn), SourceVendor, StatusAsserted,
			"Only the vendor says when this quote was made. It was judged by Intel's data of that time.")
		if st.Evidence.Source != "" {
			s.claim("source", "Where the evidence comes from", clean(st.Evidence.Source), SourceVendor, StatusAsserted, "")
		}
	}
	s.eventLogs()
}

// say claims what the statement says, and nobody checks.
func (s *subject) say(id, label, value, note string) {
	s.claim(id, label, value, s.said(), StatusAsserted, note)
}

// freshness says after what the statement was made. The statement holds the
// hash of a note, and the quote the hash of the statement, so both are younger;
// that the note exists, and what its cosignatures prove about time, the caller
// checks.
func (s *subject) freshness() {
	f := s.st.Freshness()
	if f == nil {
		return
	}
	const id, label = "freshness", "Made after the log's checkpoint"
	value := fmt.Sprintf("%s, size %d", clean(f.Origin), f.Size)
	if s.in.Interval != nil && !s.in.Interval.NotBefore.IsZero() {
		note := "The quote commits to that checkpoint with its cosignatures, and so can't be older."
		if s.in.Entry.Profile.Import() {
			note = "The quote's nonce is made of that checkpoint with its cosignatures, and so the quote can't be older."
		}
		s.claim(id, label, value, SourceVerifier, StatusHolds, note)
		return
	}
	s.claim(id, label, value, s.said(), StatusAsserted, "When that checkpoint was made isn't proven here.")
}

// late shows that the log admitted the statement long after the checkpoint that it was made after.
func (s *subject) late() {
	if age := s.in.FreshnessAge; age > DefaultMaxFreshnessAge {
		s.claim("late", "Admitted late", age.Round(time.Second).String()+" after that checkpoint", SourceLog, StatusAsserted,
			fmt.Sprintf("By the log's own times. Usually it is %s at most: this log lets late records in, which may have been made long after what they report.", DefaultMaxFreshnessAge))
	}
}

const honestWitness = "Proven by witnesses, if every set of them that satisfies the log policy's quorum has an honest one."

// interval judges the proven time of the statement.
func (s *subject) interval() {
	const id, label = "time.proven", "Proven time"
	i := s.in.Interval
	switch {
	case i == nil || i.NotBefore.IsZero() && i.NotAfter.IsZero():
		s.unproven(id, label, "none", "No time is proven: a quote holds none, and no witnesses vouch for one.")
	case i.NotBefore.IsZero():
		s.unproven(id, label, "not after "+timestamp(i.NotAfter), "How much older it is isn't proven. "+honestWitness)
	case i.NotAfter.IsZero():
		s.unproven(id, label, "not before "+timestamp(i.NotBefore), "How much younger it is isn't proven. "+honestWitness)
	default:
		value := fmt.Sprintf("%s to %s", timestamp(i.NotBefore), timestamp(i.NotAfter))
		width, widest := i.NotAfter.Sub(i.NotBefore), s.p.widest()
		ok := width <= widest && width >= -clockTolerance
		note := honestWitness
		if s.in.Entry.Profile.Import() {
			note = "It is when the key was attested, not when any response was made. " + note
		}
		s.claim(id, label, value, SourceVerifier, judged(ok), note)
		switch {
		case width < -clockTolerance:
			s.refuse(CodeTimeWidth, "time.max-width", width.String(), "a positive width", "witnesses contradict each other: not before %s, but not after %s", timestamp(i.NotBefore), timestamp(i.NotAfter))
		case width > widest:
			s.refuse(CodeTimeWidth, "time.max-width", width.String(), "at most "+widest.String(), "the proven time is %s wide", width)
		}
	}
}

func (s *subject) unproven(id, label, value, note string) {
	status := StatusUnknown
	if !s.p.allowUnproven {
		status = StatusFailed
		s.refuse(CodeTimeUnproven, "time.allow-unproven", value, "bounds on both sides", "when the statement was made isn't proven")
	}
	s.claim(id, label, value, SourceUnknown, status, note)
}

// clock claims a time by the enclave's own clock. The statement was signed after
// it, so it must not lie beyond the proven interval; if it is when the statement
// was made, nor before. Clocks may differ by clockTolerance.
func (s *subject) clock(id, label string, t time.Time, madeThen bool) {
	note := "By the enclave's own clock, which the host can set."
	if s.said() == SourceVendor {
		note = "By a clock that nothing vouches for."
	}
	i := s.in.Interval
	var want string
	switch {
	case i == nil:
	case !i.NotAfter.IsZero() && t.After(i.NotAfter.Add(clockTolerance)):
		want = "not after " + timestamp(i.NotAfter)
	case madeThen && !i.NotBefore.IsZero() && t.Before(i.NotBefore.Add(-clockTolerance)):
		want = "not before " + timestamp(i.NotBefore)
	}
	if want != "" {
		s.refuse(CodeClock, id, timestamp(t), want, "the statement says %q %s, which contradicts the proven time: %s", label, timestamp(t), want)
		s.claim(id, label, timestamp(t), s.said(), StatusFailed, "Contradicts the proven time: "+want+".")
		return
	}
	s.claim(id, label, timestamp(t), s.said(), StatusAsserted, note)
}

func (s *subject) start(st *record.SessionStart) {
	s.clock("time.started", "Started", st.StartedOn, true)
	for i, c := range st.Channels {
		s.say(fmt.Sprintf("channel.%d", i), "Key that customers talk to", fmt.Sprintf("%s %x", c.Type, c.SHA256),
			"Compare it with the key at the other end of your connection before you send anything.")
	}
	if st.Challenge != nil {
		s.say("challenge", "Customer's challenge", fmt.Sprintf("%x", *st.Challenge), "")
	}
	s.environment(&st.Environment, st.SessionKey, &st.Freshness)
	s.info(&st.SessionInfo)
}

func (s *subject) final(st *record.Session) {
	s.clock("time.started", "Started", st.StartedOn, false)
	s.clock("time.finished", "Finished", st.FinishedOn, true)
	s.say("end", "How it ended", st.EndReason, "")
	s.models(st.Models)
	s.actions(&st.Actions)
	s.environment(&st.Environment, st.SessionKey, &st.Freshness)
	s.retention(&st.Retention)
	s.teardown(st.WorkspaceErased)
	if st.OutputCommit != nil {
		s.say("output-commit", "Commitment to the commit that it made", fmt.Sprintf("%x", *st.OutputCommit), "")
	}
	s.say("session.start", "Start of the session", fmt.Sprintf("%s, index %d, statement %x", clean(st.Start.Origin), st.Start.Index, st.Start.Statement),
		"Whether that record is there, and fits, is a claim of its own, about both.")
	s.info(&st.SessionInfo)
}

func (s *subject) info(i *record.SessionInfo) {
	s.say("session.kind", "Kind of session", i.Kind, "")
	s.say("session.isolation", "The trust domain lives for one", i.IsolationScope, "")
	// Tenant and sequence are given to the enclave from outside.
	s.claim("session.tenant", "Customer (pseudonym)", fmt.Sprintf("%x, %s", i.Tenant, clean(i.TenantEpoch)), SourceVendor, StatusAsserted, "Only the customer can recompute it, with a key of its own.")
	if i.Sequence != 0 {
		s.claim("session.sequence", "Number within customer and month", fmt.Sprint(i.Sequence), SourceVendor, StatusAsserted, "That no number is missing, only the customer can see.")
	}
}

func (s *subject) models(models []record.Model) {
	const label = "Model"
	if len(models) == 0 {
		s.say("models", "Models", "none", "")
		return
	}
	for i, m := range models {
		ok := slices.Contains(s.p.acceptedExecution(), m.Execution)
		if !ok {
			s.refuse(CodeModelExecution, "models.execution", m.Execution, join(s.p.acceptedExecution(), "or"),
				"model %s ran in class %s", quoted(m.RequestModel), m.Execution)
		}
		// Where a model ran isn't for the session's code to know: its vendor
		// says so, unless the model's own record shows it (ModelRuns).
		status := StatusAsserted
		if !ok {
			status = StatusFailed
		}
		s.claim(modelID(i), label, modelValue(&m), SourceVendor, status, executionNotes[m.Execution])
	}
}

func modelID(i int) string { return fmt.Sprintf("model.%d", i) }

func modelValue(m *record.Model) string {
	name := clean(m.Provider) + "/" + clean(m.RequestModel)
	if m.ResponseModel != "" && m.ResponseModel != m.RequestModel {
		name += " (answered by " + clean(m.ResponseModel) + ")"
	}
	return fmt.Sprintf("%s, %s, execution %s", name, plural(m.Calls, "call"), m.Execution)
}

var executionNotes = map[string]string{
	record.ExecutionTEE:        "Said to run in confidential hardware. This record alone doesn't show it.",
	record.ExecutionPolicyZDR:  "The provider promises not to keep prompts. Nothing enforces it.",
	record.ExecutionUnattested: "Nothing is known about what the provider does with prompts.",
}

func (s *subject) actions(a *record.Actions) {
	value := plural(a.Size, "action") + fmt.Sprintf(", root %x", a.Root)
	if n := a.Outcomes[record.OutcomeBlocked] + a.Outcomes[record.OutcomeDenied]; n > 0 {
		value += fmt.Sprintf(", %d of them blocked or denied", n)
	}
	note := "The actions themselves are private. One of them can be disclosed, and proven to be in the list."
	switch {
	case s.said() == SourceVendor:
		s.claim("actions", "Actions of the agent", value, SourceVendor, StatusAsserted, note)
		s.claim("actions.completeness", "That no action is missing", "unknown", SourceUnknown, StatusUnknown, "The vendor chose what to list.")
	case s.trusted != nil && s.trusted.AgentMeasured:
		s.claim("actions", "Actions of the agent", value, SourceMeasuredCode, StatusAsserted, note)
		s.claim("actions.completeness", "That no action is missing", "said by the measured code", SourceMeasuredCode, StatusAsserted,
			"The trusted release says that the agent itself is measured, so that it can't act past the list.")
	default:
		// The list is the code's, but what others reported to it is theirs.
		s.claim("actions", "Actions of the agent", value, SourceVendor, StatusAsserted, note+" The measured code keeps the list; what is in it was reported to it.")
		s.claim("actions.completeness", "That no action is missing", "unknown", SourceUnknown, StatusUnknown, "No trusted release says that the agent itself is measured.")
	}
}

var storageNotes = map[string]string{
	record.StorageNone:               "Means that nothing which the code writes outlives the trust domain.",
	record.StorageEncryptedEphemeral: "Means that it is encrypted, under a key that exists in the trust domain's memory only.",
	record.StoragePersistent:         "Means that what the code writes can outlive the session.",
}

func (s *subject) environment(env *record.Environment, key record.SessionKey, f *record.Freshness) {
	if env.PersistentStorage != "" {
		status := StatusAsserted
		if env.PersistentStorage == record.StoragePersistent && !s.p.allowPersistent {
			status = StatusFailed
			s.refuse(CodeStorage, "retention.allow-persistent-storage", env.PersistentStorage,
				join([]string{record.StorageNone, record.StorageEncryptedEphemeral}, "or"), "the environment has persistent storage")
		}
		s.claim("environment.storage", "Persistent storage", env.PersistentStorage, s.said(), status, storageNotes[env.PersistentStorage])
	}
	if env.EgressPolicy != nil {
		s.say("environment.egress-policy", "Network rules", fmt.Sprintf("SHA-256 %x", *env.EgressPolicy), "What the rules say, whoever has them can show.")
	}
	if env.EventLog != nil {
		note := "It wasn't replayed here."
		if _, ok := s.in.Evidence[*env.EventLog]; ok {
			note = "What it is, is a claim of its own."
		}
		s.say("environment.event-log", "Event log of the boot", fmt.Sprintf("SHA-256 %x", *env.EventLog), note)
	}
	for i, a := range env.Accelerators {
		id, label := fmt.Sprintf("accelerator.%d", i), "Accelerators"
		value := fmt.Sprintf("%d × %s, evidence SHA-256 %x", a.Count, a.Type, a.Evidence)
		want := record.GPUNonce(key.SPKI, f.Note)
		if b := s.in.Entry.Binding(); b != nil && s.in.Entry.Profile.Import() {
			// The interface gives its accelerators the nonce that it was given.
			session, _ := b.Session()
			want = record.Nonce(f.Note, session)
		}
		if a.Nonce != want {
			s.claim(id, label, value, s.said(), StatusFailed, "The nonce isn't the one that binds the evidence to this statement's key and checkpoint.")
			s.refuse(CodeAccelerator, "environment.accelerators", fmt.Sprintf("%x", a.Nonce), fmt.Sprintf("%x", want), "the nonce of the accelerators' evidence isn't derived from this statement's key and checkpoint")
			continue
		}
		s.claim(id, label, value, s.said(), StatusAsserted, "The evidence is named, and wasn't verified here. The nonce is the right one.")
	}
}

func (s *subject) retention(r *record.Retention) {
	value := fmt.Sprintf("%s, enforced by %s", r.Claim, map[string]string{
		record.EnforcementTechnical: "technical means", record.EnforcementPolicy: "policy",
	}[r.Enforcement])
	if len(r.Basis) > 0 {
		basis := make([]string, len(r.Basis))
		for i, b := range r.Basis {
			basis[i] = clean(b)
		}
		value += " (" + strings.Join(basis, ", ") + ")"
	}
	// Whatever the code says, a policy is what people promise to do.
	source, note := SourceVendor, "A promise of the vendor. Nothing enforces it."
	if r.Enforcement == record.EnforcementTechnical {
		source, note = s.said(), "Covers what happens in the trust domain, not what models and tools outside keep."
		if source == SourceVendor {
			note = "Said of code that isn't known. " + note
		}
	}
	status := StatusAsserted
	if !slices.Contains(s.p.acceptedEnforcement(), r.Enforcement) {
		status = StatusFailed
		s.refuse(CodeRetention, "retention.enforcement", r.Enforcement, join(s.p.acceptedEnforcement(), "or"), "retention is enforced by %s", r.Enforcement)
	}
	s.claim("retention", "Data retention", value, source, status, note)
}

func (s *subject) teardown(erased bool) {
	const id, label = "teardown", "Erasure of the workspace"
	if !erased {
		status := StatusAsserted
		if !s.p.allowUnerased {
			status = StatusFailed
			s.refuse(CodeErasure, "retention.allow-unerased", "not erased", "erased", "the workspace wasn't erased when the statement was made")
		}
		s.claim(id, label, "not reported", s.said(), status, "")
		return
	}
	value := "the measured code reports erasure"
	if s.said() == SourceVendor {
		value = "the vendor reports erasure"
	}
	s.claim(id, label, value, s.said(), StatusAsserted, "Erasure cannot be proven, and the key that signed this can't vouch for its own.")
}

func (s *subject) abandoned(st *record.SessionAbandoned) {
	s.clock("time.abandoned", "Given up", st.AbandonedOn, st.Freshness != nil)
	s.say("end", "Why there will be no final record", st.Reason, "What happened in the session isn't known.")
	s.say("session.start", "Start of the session", fmt.Sprintf("%s, index %d, statement %x", clean(st.Start.Origin), st.Start.Index, st.Start.Statement), "")
	if st.Environment != nil && st.SessionKey != nil && st.Freshness != nil {
		s.environment(st.Environment, *st.SessionKey, st.Freshness)
	}
}

func (s *subject) modelRun(st *record.ModelRun) {
	name := clean(st.Provider) + "/" + clean(st.RequestModel)
	if st.ResponseModel != "" && st.ResponseModel != st.RequestModel {
		name += " (answered by " + clean(st.ResponseModel) + ")"
	}
	s.say("model", "Model", name, "")
	note := ""
	if s.in.Entry.Profile == record.ProfileDstackProxy {
		note = "Each can be shown with its signature by the attested key. That there were no others is the vendor's word."
	}
	s.say("model.calls", "Calls", plural(st.Calls.Size, "call")+fmt.Sprintf(", root %x", st.Calls.Root), note)
	if st.Weights != nil {
		s.say("model.weights", "Weights of the model", fmt.Sprintf("SHA-256 %x", *st.Weights), "")
	}
	for i, u := range st.Upstream {
		status := StatusAsserted
		if !slices.Contains(s.p.acceptedExecution(), u.Execution) {
			status = StatusFailed
			s.refuse(CodeModelExecution, "models.execution", u.Execution, join(s.p.acceptedExecution(), "or"), "calls went on to %s, in class %s", quoted(u.Provider), u.Execution)
		}
		id, label, value := upstreamClaim(i, &u)
		s.claim(id, label, value, SourceVendor, status, executionNotes[u.Execution])
	}
	s.environment(&st.Environment, st.SessionKey, &st.Freshness)
	if st.Session != nil {
		s.say("peer", "Session that it served", fmt.Sprintf("statement %x, key %s", st.Session.Statement, st.PeerKeyID), "")
	}
	if st.SessionsServed != nil {
		s.say("sessions-served", "Sessions that it served", plural(st.SessionsServed.Size, "session")+fmt.Sprintf(", root %x", st.SessionsServed.Root), "")
	}
}

func upstreamClaim(i int, u *record.Upstream) (id, label, value string) {
	return fmt.Sprintf("upstream.%d", i), "Calls went on to", fmt.Sprintf("%s, execution %s", clean(u.Provider), u.Execution)
}

func (s *subject) releaseStatement(st *record.Release) {
	s.say("release", "Release", fmt.Sprintf("%s %s (image SHA-256 %x)", clean(st.Image.Name), clean(st.Version), st.Image.SHA256), "")
	// "A release that was withdrawn stays so. Whoever judges a record shows the
	// withdrawal, whenever it was logged" (FORMAT.md, section 2.9).
	if w := s.withdrawal(s.in.Entry); w != nil {
		s.claim("release.withdrawn", "Withdrawn", clean(w.Reason), SourceVerifier, StatusFailed, "A logged withdrawal of the vendor names this release.")
		s.refuse(CodeRelease, "release", "withdrawn", "not withdrawn", "the release was withdrawn (%s)", clean(w.Reason))
	}
	until := "without end"
	if st.NotAfter != nil {
		until = "to " + timestamp(*st.NotAfter)
	}
	s.say("release.validity", "Valid", "from "+timestamp(st.NotBefore)+" "+until, "")
	agent := "no"
	if st.AgentMeasured {
		agent = "yes"
	}
	s.say("release.agent-measured", "The agent itself is measured", agent, "")
	for i := range st.Measurements {
		m := measurementsOf(&st.Measurements[i])
		var fixed []string
		for _, f := range m.fields() {
			if f.want != nil {
				fixed = append(fixed, fmt.Sprintf("%s %x", f.name, f.want))
			}
		}
		s.say(fmt.Sprintf("release.measurements.%d", i), "Expected measurements", strings.Join(fixed, ", "), "")
	}
	if st.Source != nil {
		s.say("release.source", "Built from", clean(st.Source.URI), "")
	}
}
