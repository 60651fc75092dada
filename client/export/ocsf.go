package export

import (
	"maps"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// Event classes of OCSF 1.8.0 that this package uses.
const (
	ClassComplianceFinding    = 2003
	ClassDetectionFinding     = 2004
	ClassApplicationLifecycle = 6002
	ClassAPIActivity          = 6003
)

// Severities of OCSF 1.8.0 that this package uses.
const (
	severityInformational = 1
	severityLow           = 2
	severityMedium        = 3
	severityHigh          = 4
	severityCritical      = 5
)

var severityNames = map[int]string{
	severityInformational: "Informational", severityLow: "Low", severityMedium: "Medium", severityHigh: "High", severityCritical: "Critical",
}

// An Event is one OCSF event.
type Event struct {
	UID      string // metadata.uid, by which receivers know an event that they have already
	Class    int
	Severity int // severity_id
	Time     time.Time
	JSON     []byte // one line without its end, printable ASCII
}

// OCSF encodes events. The zero value encodes them whole.
type OCSF struct {
	// MaxEvent is the size in bytes of the largest event. A larger one is encoded
	// again without what the evidence holds in detail and with shorter texts, and says
	// so in metadata.is_truncated. Zero is no limit.
	MaxEvent int
}

// MinEvent is the smallest MaxEvent that makes sense: with the header of a syslog message
// it is 8 KiB, where many receivers cut. Every shortened event fits, which has a check
// for each row of checks, few refusals, and about 40 texts of up to shortText bytes.
// That is the length of a digest, since half an identifier would be another one.
const (
	MinEvent  = 8<<10 - 256
	shortText = 64
)

// Events appends the events of a record to b, in a fixed order, and calls yield with
// each when it is there. An event's JSON may be used until yield returns.
func (o OCSF) Events(b []byte, r *Record, yield func(*Event)) []byte {
	ev := &Event{}
	e := &encoder{b: b, limit: maxText}
	emit := func(uid string, f func(e *encoder, ev *Event, short bool)) {
		ev.UID = uid
		start := len(e.b)
		f(e, ev, false)
		if n := len(e.b) - start; o.MaxEvent > 0 && n > o.MaxEvent {
			e.b, e.limit, e.full = e.b[:start], shortText, uint64(n)
			f(e, ev, true)
			e.limit, e.full = maxText, 0
		}
		ev.JSON = e.b[start:]
		yield(ev)
	}
	if r.Verdict == VerdictNotProven {
		emit(r.UID, func(e *encoder, ev *Event, _ bool) { e.notProven(ev, r) })
		return e.b
	}
	start := func(r *Record) {
		emit(r.UID+":start", func(e *encoder, ev *Event, _ bool) {
			e.lifecycle(ev, r, activityStart, "Start", "confidential AI session started", r.StartedOn)
		})
	}
	if r.Start != nil {
		start(r.Start)
	}
	switch r.Role {
	case bundle.RoleStart:
		start(r)
	case bundle.RoleFinal:
		for i := range r.Models {
			emit(r.UID+":model:"+strconv.Itoa(i), func(e *encoder, ev *Event, _ bool) { e.model(ev, r, &r.Models[i]) })
		}
		for _, a := range r.Disclosed {
			emit(r.UID+":action:"+strconv.FormatUint(a.Index, 10), func(e *encoder, ev *Event, _ bool) { e.action(ev, r, a) })
		}
		emit(r.UID+":stop", func(e *encoder, ev *Event, _ bool) {
			e.lifecycle(ev, r, activityStop, "Stop", "confidential AI session ended", r.FinishedOn)
		})
	case bundle.RoleAbandoned:
		emit(r.UID+":stop", func(e *encoder, ev *Event, _ bool) {
			e.lifecycle(ev, r, activityStop, "Stop", "confidential AI session abandoned", r.FinishedOn)
		})
	case bundle.RoleModelRun:
		for i := range r.Models {
			emit(r.UID+":model:"+strconv.Itoa(i), func(e *encoder, ev *Event, _ bool) { e.model(ev, r, &r.Models[i]) })
		}
	}
	emit(r.UID, func(e *encoder, ev *Event, short bool) { e.compliance(ev, r, short) })
	return e.b
}

// FindingEvent is Events for a monitor's finding.
func (o OCSF) FindingEvent(b []byte, f *Finding, monitor string, yield func(*Event)) []byte {
	ev := &Event{UID: Clean(f.ID)}
	e := &encoder{b: b, limit: maxText}
	e.finding(ev, f, monitor)
	if n := len(e.b) - len(b); o.MaxEvent > 0 && n > o.MaxEvent {
		e.b, e.limit, e.full = e.b[:len(b)], shortText, uint64(n)
		e.finding(ev, f, monitor)
	}
	ev.JSON = e.b[len(b):]
	yield(ev)
	return e.b
}

const (
	activityStart = 3
	activityStop  = 4
	activityOther = 99
)

// Version is the version of this module, as the toolchain wrote it into the program.
var Version = sync.OnceValue(func() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
})

// head appends what all events have. The class's name and category are ours.
func (e *encoder) head(ev *Event, category int, categoryName string, class int, className string, activity int, activityName string, severity int, at time.Time) {
	ev.Class, ev.Severity, ev.Time = class, severity, at
	e.open('{')
	e.num(`"category_uid":`, uint64(category))
	e.lit(`"category_name":`, categoryName)
	e.num(`"class_uid":`, uint64(class))
	e.lit(`"class_name":`, className)
	e.num(`"activity_id":`, uint64(activity))
	if activityName != "" {
		e.str(`"activity_name":`, activityName)
	}
	e.num(`"type_uid":`, uint64(class*100+activity))
	e.key(`"time":`)
	e.b = strconv.AppendInt(e.b, at.UnixMilli(), 10) // required, so that a zero time is there too
	e.num(`"severity_id":`, uint64(severity))
	e.lit(`"severity":`, severityNames[severity])
}

func (e *encoder) metadata(ev *Event, r *Record, profiles ...string) {
	e.metadataHead(ev.UID, profiles)
	e.opt(`"correlation_uid":`, r.Session)
	e.opt(`"tenant_uid":`, r.Tenant)
	e.opt(`"log_name":`, r.Log)
	e.opt(`"log_provider":`, r.Vendor)
	if original := r.said(); !original.IsZero() {
		e.stamp(`"original_time":`, original)
	}
	e.millis(`"logged_time":`, r.AdmittedAt)
	e.close('}')
}

func (e *encoder) metadataHead(uid string, profiles []string) {
	e.object(`"metadata":`)
	e.lit(`"version":`, "1.8.0")
	e.object(`"product":`)
	e.lit(`"name":`, "affidavit exporter")
	e.lit(`"vendor_name":`, "affidavit")
	e.str(`"version":`, Version())
	e.close('}')
	e.array(`"profiles":`)
	for _, p := range profiles {
		e.comma()
		e.text(p)
	}
	e.close(']')
	e.key(`"uid":`)
	limit := e.limit // a uid is never cut: it would be another
	e.limit = maxText
	e.text(uid)
	e.limit = limit
	if e.full > 0 {
		e.bool(`"is_truncated":`, true)
		e.num(`"untruncated_size":`, e.full)
	}
}

// said is when the record was made, by its own clock.
func (r *Record) said() time.Time {
	if r.FinishedOn.IsZero() {
		return r.StartedOn
	}
	return r.FinishedOn
}

// at is the time of a finding: the end of the proven interval, or, if none is
// proven, when the log says that it admitted the record.
func (r *Record) at() time.Time {
	if r.NotAfter.IsZero() {
		return r.AdmittedAt
	}
	return r.NotAfter
}

// clock is t or, if the enclave's clock said nothing, the time of the finding.
func (r *Record) clock(t time.Time) time.Time {
	if t.IsZero() {
		return r.at()
	}
	return t
}

const (
	applicationActivity = "Application Activity"
	findings            = "Findings"
)

func (e *encoder) lifecycle(ev *Event, r *Record, activity int, name, message string, at time.Time) {
	e.head(ev, 6, applicationActivity, ClassApplicationLifecycle, "Application Lifecycle", activity, name, severityInformational, r.clock(at))
	e.lit(`"message":`, message)
	e.metadata(ev, r)
	e.object(`"app":`)
	name = r.ReleaseName
	if name == "" {
		name = "confidential-coding-sandbox"
	}
	e.str(`"name":`, name)
	e.opt(`"uid":`, r.Session)
	e.opt(`"version":`, r.Release)
	e.opt(`"vendor_name":`, r.Vendor)
	e.close('}')
	e.status(activity != activityStop || r.Role == bundle.RoleFinal && r.EndReason == record.EndCompleted, r.EndReason, activity == activityStop)
	e.object(`"unmapped":`)
	e.opt(`"affidavit.role":`, string(r.Role))
	e.place(r)
	e.close('}')
	e.close('}')
}

// status appends the outcome of an activity.
func (e *encoder) status(ok bool, detail string, detailed bool) {
	if ok {
		e.raw(`,"status_id":1,"status":"Success"`)
	} else {
		e.raw(`,"status_id":2,"status":"Failure"`)
	}
	if detailed {
		e.opt(`"status_detail":`, detail)
	}
}

// place appends where a record is, and whose word the event is, to unmapped.
func (e *encoder) place(r *Record) {
	e.num(`"affidavit.index":`, r.Index)
	e.stamp(`"affidavit.quote_not_before":`, r.NotBefore)
	e.stamp(`"affidavit.quote_not_after":`, r.NotAfter)
	e.str(`"affidavit.verified_by":`, r.VerifiedBy)
}

// endpoint appends who acted, and where: inside the trust domain.
func (e *encoder) endpoint(r *Record, agent string) {
	e.object(`"actor":`)
	e.str(`"app_name":`, agent)
	if r.Session != "" {
		e.object(`"session":`)
		e.str(`"uid":`, r.Session)
		e.close('}')
	}
	e.close('}')
	e.object(`"src_endpoint":`)
	e.lit(`"name":`, "tee-session")
	e.opt(`"uid":`, r.Session)
	e.close('}')
}

func (e *encoder) aiModel(m *Model) {
	e.object(`"ai_model":`)
	e.str(`"ai_provider":`, orUnknown(m.Provider))
	e.str(`"name":`, orUnknown(m.name()))
	e.close('}')
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func (e *encoder) message(r *Record, agent string) {
	e.object(`"message_context":`)
	e.opt(`"uid":`, r.Session)
	e.num(`"ai_role_id":`, 4)
	e.lit(`"ai_role":`, "Agent")
	e.object(`"application":`)
	e.str(`"name":`, agent)
	e.close('}')
	e.close('}')
}

// model appends the event for the calls of one model.
func (e *encoder) model(ev *Event, r *Record, m *Model) {
	severity, by := severityInformational, "session"
	if r.Role == bundle.RoleModelRun {
		by = "model-run"
	} else if m.Execution != record.ExecutionTEE {
		severity = severityLow
	}
	e.head(ev, 6, applicationActivity, ClassAPIActivity, "API Activity", activityOther, "chat", severity, r.clock(r.FinishedOn))
	e.lit(`"message":`, "calls of a model by a confidential AI session")
	e.metadata(ev, r, "ai_operation")
	e.endpoint(r, "agent")
	e.raw(`,"api":{"operation":"chat","service":{"name":"model"}}`)
	e.aiModel(m)
	e.message(r, "agent")
	e.raw(`,"status_id":1,"status":"Success"`)
	if m.Calls > 0 {
		e.num(`"count":`, m.Calls)
	}
	e.object(`"unmapped":`)
	e.lit(`"gen_ai.operation.name":`, "chat")
	e.str(`"gen_ai.request.model":`, m.Name)
	e.opt(`"affidavit.execution":`, m.Execution)
	e.lit(`"affidavit.reported_by":`, by)
	e.place(r)
	e.close('}')
	e.close('}')
}

// action appends the event for one disclosed action.
func (e *encoder) action(ev *Event, r *Record, a *record.Action) {
	text := func(name string) string {
		s, _ := a.Attributes[name].(string)
		return s
	}
	operation := orUnknown(text("gen_ai.operation.name"))
	severity, ok := severityInformational, a.Outcome == record.OutcomeExecuted
	switch a.Outcome {
	case record.OutcomeBlocked, record.OutcomeDenied:
		severity = severityMedium
	case record.OutcomeErrored, record.OutcomeTimedOut:
		severity = severityLow
	}
	e.head(ev, 6, applicationActivity, ClassAPIActivity, "API Activity", activityOther, operation, severity, a.Time)
	e.str(`"message":`, "agent action "+a.Outcome)
	e.metadata(ev, r, "ai_operation", "trace")
	agent := text("gen_ai.agent.id")
	if agent == "" {
		agent = "agent"
	}
	e.endpoint(r, agent)
	e.object(`"api":`)
	call := text("gen_ai.tool.name")
	if call == "" {
		call = operation
	}
	e.str(`"operation":`, call)
	if id := text("gen_ai.tool.call.id"); id != "" {
		e.object(`"request":`)
		e.str(`"uid":`, id)
		e.close('}')
	}
	e.raw(`,"service":{"name":"agent-tools"}}`)
	m := Model{Provider: text("gen_ai.provider.name"), Name: text("gen_ai.request.model"), Answered: text("gen_ai.response.model")}
	if m.name() == "" && len(r.Models) == 1 {
		m = r.Models[0]
	}
	if m.name() != "" {
		e.aiModel(&m)
	}
	e.message(r, agent)
	e.status(ok, text("error.type"), true)
	e.object(`"trace":`)
	e.lit(`"uid":`, hexOf(a.TraceID[:]))
	e.object(`"span":`)
	e.lit(`"uid":`, hexOf(a.SpanID[:]))
	e.key(`"start_time":`)
	e.b = strconv.AppendInt(e.b, a.Time.UnixMilli(), 10)
	e.key(`"end_time":`)
	e.b = strconv.AppendInt(e.b, a.Time.UnixMilli(), 10)
	e.close('}')
	e.close('}')
	e.object(`"unmapped":`)
	e.str(`"gen_ai.operation.name":`, operation)
	e.num(`"affidavit.action.index":`, a.Index)
	e.str(`"affidavit.outcome":`, a.Outcome)
	for _, d := range []struct {
		name   string
		digest *record.Digest
	}{{`"affidavit.arguments.sha256":`, a.Arguments}, {`"affidavit.result.sha256":`, a.Result}, {`"affidavit.policy.sha256":`, a.Policy}} {
		if d.digest != nil {
			e.lit(d.name, hexOf(d.digest[:]))
		}
	}
	e.place(r)
	e.close('}')
	e.close('}')
}

// A check is one row of a compliance finding.
type check struct {
	uid, name string
	claim     string // whose status is the check's
}

// checks lists the checks of compliance findings. Those whose claim a record doesn't
// have are left out.
var checks = []check{
	{"quote-chain", "quote verifies to the trusted root certificate", "tee"},
	{"statement-binding", "REPORTDATA commits to the DSSE PAE of the statement", "binding"},
	{"signer", "the envelope is signed by a key that is known to be the vendor's", "signer"},
	{"code", "the code is identified by a pinned measurement or a trusted release", "code"},
	{"release", "the release that the statement names is the one that ran", "release"},
	{"not-debug", "TD ATTRIBUTES.DEBUG = 0", "td.debug"},
	{"not-migratable", "TD ATTRIBUTES.MIGRATABLE = 0", "td.migratable"},
	{"memory-encryption", "private memory is encrypted", "memory-encryption"},
	{"memory-encryption-session", "private memory was encrypted from the start to the end of the session", "memory-encryption.session"},
	{"tcb", "TCB status by the collateral that the log archived", "tcb"},
	{"advisories", "security advisories that affect the platform", "advisories"},
	{"fresh", "made after a cosigned checkpoint of the log", "freshness"},
	{"time", "time is bounded by witnesses", "time.proven"},
	{"paired", "start and final records belong together", "session.pair"},
	{"storage", "persistent storage of the environment", "environment.storage"},
	{"retention", "data retention", "retention"},
	{"teardown", "erasure of the workspace is reported", "teardown"},
}

var checkOf = func() map[string]int {
	m := make(map[string]int)
	for i, c := range checks {
		m[c.claim] = i
	}
	return m
}()

// A checkStatus is OCSF's status_id of a check: 1 Pass, 2 Warning, 3 Fail, 0 Unknown.
type checkStatus int

const (
	checkUnknown checkStatus = 0
	checkPass    checkStatus = 1
	checkWarning checkStatus = 2
	checkFail    checkStatus = 3
)

var checkNames = [...]string{"Unknown", "Pass", "Warning", "Fail"}

// statusOf judges a claim as a check. What only the vendor says is not checked by
// anybody, and doesn't pass.
func statusOf(c *verifier.Claim, r *Record) checkStatus {
	switch c.Status {
	case verifier.StatusFailed:
		return checkFail
	case verifier.StatusHolds:
	case verifier.StatusAsserted:
		if c.Source != verifier.SourceMeasuredCode {
			return checkUnknown
		}
	default:
		return checkUnknown
	}
	// What the appraisal policy tolerates isn't as it should be.
	if c.ID == "tcb" && r.TCBStatus != upToDate || c.ID == "advisories" && len(r.Advisories) > 0 {
		return checkWarning
	}
	return checkPass
}

const upToDate = "UpToDate"

// warned reports whether the platform is not as Intel would have it.
func (r *Record) warned() bool {
	return r.TCBStatus != "" && r.TCBStatus != upToDate || len(r.Advisories) > 0
}

// severe are the refusals by which nothing of what the code says can be believed.
var severe = map[verifier.Code]bool{
	verifier.CodeMeasurement: true, verifier.CodeNoMeasurement: true, verifier.CodeDebug: true, verifier.CodeMigratable: true,
	verifier.CodeRelease: true, verifier.CodePair: true, verifier.CodeTwoFinals: true, verifier.CodeOrder: true, verifier.CodeServiceTD: true,
	bundle.CodeAdmittedAt: true,
}

// judgement is a record's verdict in OCSF's words.
func (r *Record) judgement() (severity int, status checkStatus) {
	switch r.Verdict {
	case VerdictGood, VerdictGenuine:
		severity, status = severityInformational, checkPass
		if r.Verdict == VerdictGenuine {
			status = checkUnknown
		}
		if r.warned() {
			severity, status = severityLow, checkWarning
		}
		return severity, status
	}
	severity = severityMedium
	for _, f := range r.Refusals {
		if severe[f.Code] {
			severity = severityHigh
		}
	}
	return severity, checkFail
}

// subjects name what a role is about, for titles.
var subjects = map[bundle.Role]string{
	bundle.RoleStart: "Start of an attested AI session", bundle.RoleFinal: "Attested AI session", bundle.RoleAbandoned: "Abandoned AI session",
	bundle.RoleModelRun: "Attested model run", bundle.RoleImport: "Imported evidence", bundle.RoleRelease: "Release of an image",
	bundle.RoleWithdrawal: "Withdrawal of a release", bundle.RoleVendorKey: "Release key of a vendor",
}

var outcomes = map[Verdict]string{
	VerdictGood: "verified", VerdictRefused: "refused by the appraisal policy", VerdictGenuine: "genuine, not appraised", VerdictNotProven: "not proven",
}

func (r *Record) title() string {
	subject := subjects[r.Role]
	if subject == "" {
		subject = "Record"
	}
	return subject + " " + outcomes[r.Verdict]
}

// controls are NIST SP 800-53 Rev. 5 controls to which the finding is related. That
// one is satisfied is for nobody here to say.
var controls = []string{"SC-28", "SC-39", "SI-7", "AU-10"}

const objective = "AI code processed only inside an attested TEE"

func (e *encoder) compliance(ev *Event, r *Record, short bool) {
	severity, status := r.judgement()
	at := r.at()
	e.head(ev, 2, findings, ClassComplianceFinding, "Compliance Finding", 1, "Create", severity, at)
	e.millis(`"start_time":`, r.StartedOn)
	e.millis(`"end_time":`, r.FinishedOn)
	e.raw(`,"status_id":1,"status":"New"`)
	title := r.title()
	e.str(`"message":`, title)
	e.metadata(ev, r)
	e.object(`"finding_info":`)
	e.str(`"uid":`, r.UID)
	e.str(`"title":`, title)
	e.raw(`,"types":["confidential-computing-attestation"]`)
	e.millis(`"created_time":`, at)
	e.close('}')
	e.object(`"compliance":`)
	e.lit(`"control":`, objective)
	e.raw(`,"standards":["NIST SP 800-53 Rev. 5"]`)
	e.strs(`"requirements":`, controls)
	e.num(`"status_id":`, uint64(status))
	e.lit(`"status":`, checkNames[status])
	if len(r.Refusals) > 0 {
		e.str(`"status_code":`, string(r.Refusals[0].Code))
		e.array(`"status_details":`)
		for i := range r.Refusals {
			if short && i == 8 {
				break
			}
			e.comma()
			e.text(r.Refusals[i].Message)
		}
		e.close(']')
	}
	e.checks(r, short)
	e.close('}')

	e.array(`"resources":`)
	e.open('{')
	if r.Session != "" {
		e.str(`"uid":`, r.Session)
		e.str(`"type":`, "ai-"+orString(r.SessionKind, "session"))
	} else {
		e.str(`"uid":`, r.UID)
		e.lit(`"type":`, "log-record")
	}
	e.opt(`"name":`, orString(r.SessionKind, string(r.Role)))
	e.opt(`"version":`, r.Release)
	e.close('}')
	e.close(']')

	e.array(`"evidences":`)
	e.open('{')
	e.lit(`"name":`, "offline evidence bundle")
	e.str(`"uid":`, r.UID)
	e.object(`"data":`)
	e.str(`"leaf_hash":`, r.UID)
	e.num(`"log_index":`, r.Index)
	e.str(`"log_origin":`, r.Log)
	e.opt(`"statement":`, r.Statement)
	e.opt(`"bundle":`, r.Bundle)
	e.opt(`"bundle_sha256":`, r.BundleSHA256)
	e.opt(`"tcb_status":`, r.TCBStatus)
	if !short {
		e.strs(`"advisories":`, r.Advisories)
	}
	e.opt(`"fmspc":`, r.FMSPC)
	e.opt(`"platform":`, r.Platform)
	if !short {
		e.object(`"claims":`)
		for i := range r.Claims {
			e.claim(&r.Claims[i])
		}
		e.close('}')
	}
	e.close('}')
	e.close('}')
	e.close(']')

	e.object(`"unmapped":`)
	e.lit(`"affidavit.verdict":`, string(r.Verdict))
	e.opt(`"affidavit.role":`, string(r.Role))
	e.opt(`"affidavit.profile":`, string(r.Profile))
	e.opt(`"affidavit.vendor":`, r.Vendor)
	e.opt(`"affidavit.tenant_epoch":`, r.TenantEpoch)
	if r.Sequence > 0 {
		e.num(`"affidavit.sequence":`, r.Sequence)
	}
	e.opt(`"affidavit.end_reason":`, r.EndReason)
	if len(r.Models) > 0 && !short {
		e.array(`"affidavit.models":`)
		for i := range r.Models {
			e.comma()
			e.text(r.Models[i].name())
		}
		e.close(']')
	}
	if r.Actions != nil {
		e.num(`"affidavit.actions.count":`, *r.Actions)
		e.num(`"affidavit.actions.blocked":`, r.Blocked)
	}
	e.opt(`"affidavit.retention":`, r.Retention)
	e.opt(`"affidavit.retention.enforcement":`, r.Enforcement)
	e.place(r)
	e.close('}')
	e.close('}')
}

func orString(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (e *encoder) checks(r *Record, short bool) {
	var found [32]*verifier.Claim
	for i := range r.Claims {
		if n, ok := checkOf[r.Claims[i].ID]; ok {
			found[n] = &r.Claims[i]
		}
	}
	e.array(`"checks":`)
	for n := range checks {
		c := found[n]
		if c == nil {
			continue
		}
		e.comma()
		e.open('{')
		e.lit(`"uid":`, checks[n].uid)
		if !short {
			e.lit(`"name":`, checks[n].name)
			e.str(`"desc":`, "source: "+string(c.Source))
		}
		e.checkStatus(statusOf(c, r))
		e.close('}')
	}
	// That a leaf is in the log is what has to be true for there to be a record.
	e.comma()
	e.raw(`{"uid":"inclusion","name":"inclusion proof to a checkpoint that satisfies the log policy","status_id":1,"status":"Pass"}`)
	for i := range r.Refusals {
		if short && i == 8 {
			break
		}
		f := &r.Refusals[i]
		e.comma()
		e.open('{')
		e.str(`"uid":`, "appraisal-policy."+string(f.Code))
		if !short {
			e.str(`"name":`, f.Message)
			e.opt(`"desc":`, f.Field)
		}
		e.checkStatus(checkFail)
		e.close('}')
	}
	e.close(']')
}

func (e *encoder) checkStatus(s checkStatus) {
	e.num(`"status_id":`, uint64(s))
	e.lit(`"status":`, checkNames[s])
}

func (e *encoder) claim(c *verifier.Claim) {
	e.comma()
	e.text(c.ID)
	e.raw(`:{`)
	e.str(`"source":`, string(c.Source))
	e.str(`"status":`, string(c.Status))
	e.opt(`"value":`, c.Value)
	if c.Status != verifier.StatusHolds {
		e.opt(`"reason":`, c.Note)
	}
	e.close('}')
}

// notProven appends the event for evidence that proves nothing. What the evidence
// says is not in it, but for where it came from.
func (e *encoder) notProven(ev *Event, r *Record) {
	at := r.AdmittedAt
	if at.IsZero() {
		at = r.CheckedAt
	}
	e.head(ev, 2, findings, ClassDetectionFinding, "Detection Finding", 1, "Create", severityHigh, at)
	e.raw(`,"status_id":1,"status":"New","is_alert":true`)
	const title = "Evidence that proves nothing"
	e.lit(`"message":`, title)
	e.opt(`"status_code":`, r.Reason)
	e.opt(`"status_detail":`, r.Detail)
	e.metadata(ev, &Record{Log: r.Log, AdmittedAt: r.AdmittedAt})
	e.object(`"finding_info":`)
	e.str(`"uid":`, r.UID)
	e.lit(`"title":`, title)
	e.opt(`"desc":`, r.Detail)
	e.raw(`,"types":["confidential-computing-attestation"]`)
	e.millis(`"created_time":`, at)
	e.close('}')
	e.array(`"evidences":`)
	e.open('{')
	e.str(`"uid":`, r.UID)
	e.object(`"data":`)
	if r.Log != "" {
		e.str(`"log_origin":`, r.Log)
		e.num(`"log_index":`, r.Index)
	}
	e.opt(`"bundle":`, r.Bundle)
	e.opt(`"bundle_sha256":`, r.BundleSHA256)
	e.str(`"reason":`, r.Reason)
	e.close('}')
	e.close('}')
	e.close(']')
	e.object(`"unmapped":`)
	e.lit(`"affidavit.verdict":`, string(VerdictNotProven))
	e.str(`"affidavit.verified_by":`, r.VerifiedBy)
	e.close('}')
	e.close('}')
}

var monitorSeverities = map[string]int{
	"info": severityInformational, "low": severityLow, "medium": severityMedium, "high": severityHigh, "critical": severityCritical,
}

func (e *encoder) finding(ev *Event, f *Finding, monitor string) {
	severity, ok := monitorSeverities[f.Severity]
	if !ok {
		severity = severityHigh // a word that came later than this program is not to be played down
	}
	e.head(ev, 2, findings, ClassDetectionFinding, "Detection Finding", 1, "Create", severity, f.FoundAt)
	e.raw(`,"status_id":1,"status":"New"`)
	e.bool(`"is_alert":`, severity >= severityMedium)
	e.str(`"message":`, f.Message)
	e.opt(`"status_code":`, f.Kind)
	e.metadataHead(ev.UID, nil)
	e.opt(`"correlation_uid":`, f.Subject["session"])
	e.opt(`"tenant_uid":`, f.Subject["tenant"])
	e.opt(`"log_name":`, f.Log)
	e.close('}')
	e.object(`"finding_info":`)
	e.str(`"uid":`, f.ID)
	e.str(`"title":`, orUnknown(strings.ReplaceAll(f.Kind, "-", " ")))
	e.opt(`"desc":`, f.Message)
	e.array(`"types":`)
	e.comma()
	e.text("transparency-log-" + f.Class)
	e.close(']')
	e.raw(`,"analytic":{"name":"affidavit monitor","type_id":1,"type":"Rule"}`)
	if f.Seq > 0 { // with the evidence, which can be large
		e.str(`"src_url":`, monitor+"/api/findings?after="+strconv.FormatUint(f.Seq-1, 10)+"&limit=1")
	}
	e.millis(`"created_time":`, f.FoundAt)
	e.close('}')
	e.array(`"evidences":`)
	e.open('{')
	e.str(`"uid":`, f.ID)
	e.object(`"data":`)
	e.opt(`"log_origin":`, f.Log)
	if f.Index != nil {
		e.num(`"log_index":`, *f.Index)
	}
	e.object(`"subject":`)
	for i, k := range slices.Sorted(maps.Keys(f.Subject)) {
		if i == 64 || e.full > 0 && i == 8 {
			break // what we know has a dozen
		}
		e.comma()
		e.text(k)
		e.open(':')
		e.text(f.Subject[k])
	}
	e.close('}')
	e.close('}')
	e.close('}')
	e.close(']')
	e.object(`"unmapped":`)
	e.opt(`"affidavit.kind":`, f.Kind)
	e.opt(`"affidavit.class":`, f.Class)
	e.num(`"affidavit.seq":`, f.Seq)
	e.str(`"affidavit.verified_by":`, monitor)
	e.close('}')
	e.close('}')
}

func hexOf(b []byte) string {
	s := make([]byte, 0, 64)
	for _, c := range b {
		s = append(s, hexDigits[c>>4], hexDigits[c&15])
	}
	return string(s)
}
