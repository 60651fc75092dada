// Package export turns verified records into what other people's systems take in:
// OCSF events, an OSCAL document, CSV, syslog messages and in-toto statements; and
// gets them there, each exactly once as far as the receiver allows.
//
// A [Record] is made of a finding of package bundle, or of what a monitor answers,
// and says so. The text in it is somebody else's: see [Clean]. Nothing here verifies
// anything.
package export

import (
	"encoding/hex"
	"slices"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A Verdict says what became of a record.
type Verdict string

const (
	// VerdictGood: logged, genuine, and allowed by the appraisal policy.
	VerdictGood Verdict = "good"
	// VerdictRefused: logged and genuine, but refused by the appraisal policy.
	VerdictRefused Verdict = "refused"
	// VerdictGenuine: logged and genuine, and no appraisal policy was asked.
	VerdictGenuine Verdict = "genuine"
	// VerdictNotProven: something is not genuine, not logged, or not there. Nothing
	// that the evidence says may be relied on.
	VerdictNotProven Verdict = "not-proven"
)

// A Record is one entry of a log with what is known about it. Values that nobody
// knows are zero. FromFinding, FromNotProven and FromResult make Records; a Record
// may share memory with what it was made of, and must not be modified.
type Record struct {
	// UID is the lowercase hex leaf hash, by which receivers know the record. For
	// evidence that isn't proven it is the SHA-256 of the file.
	UID string

	Verdict Verdict
	// VerifiedBy says whose word the verdict is: "bundle" for evidence that this
	// machine has checked, or the URL of the monitor that did.
	VerifiedBy string

	Log       string // origin
	Index     uint64
	Statement string // digest, hex
	Role      bundle.Role
	Profile   record.Profile
	Vendor    string

	Session     string // id, 32 hex digits; a monitor may know its digest only, 64
	SessionKind string
	Tenant      string // pseudonym, hex
	TenantEpoch string
	Sequence    uint64

	ReleaseName, Release string // image, SHA-256 in hex
	Version              string // of the release in a release record

	AdmittedAt            time.Time // by the log
	NotBefore, NotAfter   time.Time // proven by witnesses
	StartedOn, FinishedOn time.Time // by the enclave's clock
	EndReason             string

	TCBStatus       string
	Advisories      []string
	FMSPC, Platform string

	Models  []Model
	Calls   uint64 // of a model run
	Actions *uint64
	Blocked uint64 // actions that were blocked or denied

	Retention, Enforcement string

	Claims   []verifier.Claim
	Refusals []verifier.Refusal

	// Reason and Detail say why evidence isn't proven, in a word and in a sentence, and
	// CheckedAt when somebody found that out; nothing in it has a time to rely on.
	Reason, Detail string
	CheckedAt      time.Time

	// Start is the record of the session's start, of one that ends it.
	Start *Record

	// Disclosed holds actions of the session that its owner has disclosed, and that
	// are proven to be in its list.
	Disclosed []*record.Action

	// Bundle and BundleSHA256 name the file with the evidence.
	Bundle, BundleSHA256 string

	// Envelope is the bare DSSE envelope in JSON as the vendor signed it, if there is one.
	Envelope []byte
}

// A Model is a model that a session used, or that a model run ran.
type Model struct {
	Provider  string
	Name      string // as requested
	Answered  string // the response model, if it is another
	Execution string // class; empty for a model run
	Calls     uint64 // 0 if not known
}

// name is the model that answered.
func (m *Model) name() string {
	if m.Answered != "" {
		return m.Answered
	}
	return m.Name
}

// ByBundle is the VerifiedBy of what FromFinding returns.
const ByBundle = "bundle"

// FromFinding returns the record that a bundle, which [bundle.Check] has checked, is
// about. Its Bundle, BundleSHA256, Disclosed and Envelope are for the caller to set.
func FromFinding(f *bundle.Finding) *Record {
	r := fromLeaf(f, f.Subject)
	r.Verdict = VerdictGood
	if !f.Allowed() {
		r.Verdict = VerdictRefused
	}
	r.Claims, r.Refusals = f.Claims, f.Refusals
	if f.Interval != nil {
		r.NotBefore, r.NotAfter = f.Interval.NotBefore, f.Interval.NotAfter
	}
	if f.Subject.Role == bundle.RoleFinal || f.Subject.Role == bundle.RoleAbandoned {
		for _, l := range f.Leaves {
			if l.Role == bundle.RoleStart && startOf(f.Subject) == *l.Statement {
				r.Start = fromLeaf(f, l)
			}
		}
	}
	return r
}

// startOf returns the statement of the start that an end of a session names.
func startOf(l *bundle.Leaf) record.Digest {
	if s := l.Entry().Statement(); s.Session != nil {
		return s.Session.Start.Statement
	}
	return l.Entry().Statement().Abandoned.Start.Statement
}

// fromLeaf returns what a leaf of a finding says, without a verdict.
func fromLeaf(f *bundle.Finding, l *bundle.Leaf) *Record {
	r := &Record{
		UID: hex.EncodeToString(l.Hash[:]), VerifiedBy: ByBundle,
		Log: f.Log.Origin, Index: l.Index, Role: l.Role, AdmittedAt: l.AdmittedAt(),
	}
	if l.Interval != nil {
		r.NotBefore, r.NotAfter = l.Interval.NotBefore, l.Interval.NotAfter
	}
	if l.Statement != nil {
		r.Statement = hex.EncodeToString(l.Statement[:])
	}
	e := l.Entry()
	if e == nil {
		return r
	}
	r.Profile = e.Profile
	st := e.Statement()
	r.Vendor = st.Vendor
	if id, ok := st.SessionID(); ok {
		r.Session = id.String()
	}
	if env := st.Environment(); env != nil {
		r.image(env.Release)
	}
	switch {
	case st.Start != nil:
		r.info(&st.Start.SessionInfo)
	case st.Session != nil:
		s := st.Session
		r.info(&s.SessionInfo)
		r.FinishedOn, r.EndReason = s.FinishedOn, s.EndReason
		r.Retention, r.Enforcement = s.Retention.Claim, s.Retention.Enforcement
		r.Actions = &s.Actions.Size
		r.Blocked = s.Actions.Outcomes[record.OutcomeBlocked] + s.Actions.Outcomes[record.OutcomeDenied]
		r.Models = make([]Model, len(s.Models))
		for i, m := range s.Models {
			r.Models[i] = Model{m.Provider, m.RequestModel, m.ResponseModel, m.Execution, m.Calls}
		}
	case st.Abandoned != nil:
		r.Sequence, r.FinishedOn, r.EndReason = st.Abandoned.Sequence, st.Abandoned.AbandonedOn, st.Abandoned.Reason
	case st.ModelRun != nil:
		m := st.ModelRun
		r.Models = []Model{{m.Provider, m.RequestModel, m.ResponseModel, "", m.Calls.Size}}
		r.Calls = m.Calls.Size
	case st.Release != nil:
		r.image(st.Release.Image)
		r.Version = st.Release.Version
	case st.Withdrawn != nil:
		r.image(st.Withdrawn.Image)
	}
	if v := l.Verdict; v != nil && v.TDX != nil {
		r.TCBStatus, r.FMSPC, r.Platform = string(v.TDX.Status), v.TDX.FMSPC, v.TDX.PPID
		r.Advisories = advisories(v.TDX)
	}
	return r
}

func (r *Record) info(i *record.SessionInfo) {
	r.SessionKind, r.TenantEpoch, r.Sequence, r.StartedOn = i.Kind, i.TenantEpoch, i.Sequence, i.StartedOn
	r.Tenant = hex.EncodeToString(i.Tenant[:])
}

func (r *Record) image(i record.Image) {
	r.ReleaseName, r.Release = i.Name, hex.EncodeToString(i.SHA256[:])
}

// advisories returns the ids of all advisories in a result, sorted, none twice.
func advisories(res *tdx.Result) (ids []string) {
	for _, a := range res.Advisories {
		ids = append(ids, a.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// FromNotProven returns a record of a file that proves nothing: sum is its SHA-256,
// reason a word, detail a sentence, and at when it was checked. Nothing else of the
// file goes into it.
func FromNotProven(sum [32]byte, reason, detail string, at time.Time) *Record {
	digest := hex.EncodeToString(sum[:])
	return &Record{
		UID: digest, BundleSHA256: digest, Verdict: VerdictNotProven, VerifiedBy: ByBundle,
		Reason: reason, Detail: detail, CheckedAt: at,
	}
}

// FromResult returns what the monitor at a URL says about a leaf. It is the
// monitor's word.
func FromResult(res *monitorapi.Result, url string) *Record {
	r := &Record{
		UID: res.LeafHash.String(), VerifiedBy: url, Log: res.Log, Index: res.Index, Statement: digest(res.Statement),
		Role: res.Role, Profile: res.Profile, Vendor: res.Vendor,
		Session: digest(res.Session), SessionKind: res.Kind, Tenant: digest(res.Tenant), TenantEpoch: res.TenantEpoch, Sequence: res.Sequence,
		ReleaseName: res.ReleaseName, Release: digest(res.Release),
		AdmittedAt: res.AdmittedAt, NotBefore: res.NotBefore, NotAfter: res.NotAfter, StartedOn: res.StartedOn,
		TCBStatus: res.TCBStatus, Advisories: res.Advisories, FMSPC: res.FMSPC, Platform: res.Platform,
		Retention: res.Retention, Enforcement: res.Enforcement, Claims: res.Claims, Refusals: res.Refusals,
	}
	for _, m := range res.Models {
		r.Models = append(r.Models, Model{Provider: m.Provider, Name: m.Name, Answered: m.ResponseModel, Execution: m.Execution})
	}
	for _, c := range res.Claims {
		switch c.ID {
		case "session.id":
			if _, err := record.ParseSessionID(c.Value); err == nil {
				r.Session = c.Value
			}
		case "time.finished", "time.abandoned":
			if t, err := time.Parse(time.RFC3339Nano, c.Value); err == nil {
				r.FinishedOn = t
			}
		case "end":
			r.EndReason = c.Value
		}
	}
	switch {
	case !res.Genuine || res.NotProven != "" || res.Rule != "":
		r.Verdict, r.Reason, r.Detail = VerdictNotProven, string(res.Rule), res.NotProven
		if r.Reason == "" {
			r.Reason = res.Reason
		}
	case res.Allowed == nil:
		r.Verdict = VerdictGenuine
	case *res.Allowed:
		r.Verdict = VerdictGood
	default:
		r.Verdict = VerdictRefused
	}
	return r
}

// digest returns a hash in hex, "" for the zero hash, which stands for none.
func digest(h monitorapi.Hash) string {
	if h == (monitorapi.Hash{}) {
		return ""
	}
	return h.String()
}

// A Finding is what a monitor found wrong with a log, as it answers it in JSON.
type Finding struct {
	ID       string            `json:"id"`
	Seq      uint64            `json:"seq"`
	Class    string            `json:"class"`
	Severity string            `json:"severity"`
	Kind     string            `json:"kind"`
	Log      string            `json:"log"`
	Index    *uint64           `json:"index"`
	FoundAt  time.Time         `json:"found_at"`
	Message  string            `json:"message"`
	Subject  map[string]string `json:"subject"`
}
