package monitorapi

import (
	"encoding/json"
	"time"
)

// A State says which log a monitor has audited how far: what an answer rests on.
type State struct {
	Log  string `json:"log"` // origin
	Size uint64 `json:"size"`
	Root Hash   `json:"root"`
}

// A Family is a kind of platforms that made quotes in the log: what collateral is for.
type Family struct {
	FMSPC string `json:"fmspc"` // lowercase hex
	CA    string `json:"ca"`    // tdx.CAPlatform or tdx.CAProcessor
}

// NotABreach goes with every answer about vulnerable platforms.
const NotABreach = "A vulnerable platform is not a breach: nothing here says that anybody used the vulnerability."

// A RecallQuery asks which sessions something touches. One of Advisory, FMSPC, Release and Platform is required; if there
// are several, all must hold. The rest narrows the answer down.
type RecallQuery struct {
	Advisory string // such as "INTEL-SA-00837"
	FMSPC    string // in any case
	Release  string // SHA-256 of the image
	Platform string // PPID, in any case

	Vendor, Tenant string
	Since, Until   time.Time // of admission, see [Query]

	// After skips sessions whose first touched record is below; Limit bounds the number of sessions that are listed.
	// The summary always counts all.
	After uint64
	Limit int
}

// A TouchedSession is a session with records that a recall is about.
type TouchedSession struct {
	Session Hash    `json:"session"`
	Records uint64  `json:"records"` // of the session, that are touched
	First   *Record `json:"first"`   // the first of them

	// Today is how today's collateral judges the platform as it was when First was made. It is nil unless the recall was
	// asked with collateral.
	Today *Judgement `json:"today,omitempty"`
}

// A RecallSummary counts what a recall found.
type RecallSummary struct {
	State
	Examined       uint64 `json:"examined"`        // genuine records with evidence of hardware, within vendor, tenant and time
	Records        uint64 `json:"records"`         // of these, that are touched
	Sessions       uint64 `json:"sessions"`        // of touched records
	WithoutSession uint64 `json:"without_session"` // touched records about no session, or many
	Listed         uint64 `json:"listed"`          // sessions in this answer

	// Today says that records were judged with the collateral that was given, beside what the log's own collateral said of
	// them. NotCovered is how many of those examined are of platforms that it isn't for.
	Today      bool   `json:"today"`
	NotCovered uint64 `json:"not_covered"`
	Note       string `json:"note"` // [NotABreach]
}

// A RecallLine is a line of a recall: one of its members is set. The last has the summary.
type RecallLine struct {
	Touched *TouchedSession `json:"touched,omitempty"`
	Summary *RecallSummary  `json:"summary,omitempty"`
}

// A Judgement is what Intel's rules say of a platform by one set of collateral.
type Judgement struct {
	Genuine    bool      `json:"genuine"`
	Reason     string    `json:"reason,omitempty"` // the verifier's word, if it isn't genuine
	Detail     string    `json:"detail,omitempty"`
	TCBStatus  string    `json:"tcb_status,omitempty"`
	TCBDate    time.Time `json:"tcb_date,omitzero"`
	Advisories []string  `json:"advisories,omitempty"` // sorted
}

// A Change says how a judgement with today's collateral differs from that of its time. The words are stable.
type Change string

const (
	// ChangeSame: the same status and advisories.
	ChangeSame Change = "same"
	// ChangeVulnerable: Intel has since published advisories that affect the platform as it was, or calls its firmware
	// worse. The platform was vulnerable then, whether or not anybody knew.
	ChangeVulnerable Change = "platform-vulnerable-then"
	// ChangeRevoked: Intel has revoked the platform's certificate, its TCB level, its TDX module or its quoting enclave.
	ChangeRevoked Change = "platform-revoked"
	// ChangeBetter: fewer advisories, or a better status.
	ChangeBetter Change = "better"
	// ChangeUnrecognised: by today's rules the platform isn't one that Intel knows.
	ChangeUnrecognised Change = "not-recognised"
	// ChangeExpired: the platform's certificates, or the collateral, weren't valid at the time to judge for.
	ChangeExpired Change = "expired"
	// ChangeNotCovered: there is no collateral for this kind of platform among what was given.
	ChangeNotCovered Change = "not-covered"
)

// Changes are all words for changes, the gravest first.
var Changes = []Change{ChangeRevoked, ChangeUnrecognised, ChangeVulnerable, ChangeExpired, ChangeNotCovered, ChangeBetter, ChangeSame}

// Meaning says for people what a change means.
func (c Change) Meaning() string {
	switch c {
	case ChangeSame:
		return "judged as before"
	case ChangeVulnerable:
		return "platform vulnerable then"
	case ChangeRevoked:
		return "platform revoked by its maker since"
	case ChangeBetter:
		return "judged better than before"
	case ChangeUnrecognised:
		return "platform not recognised by its maker's newer data"
	case ChangeExpired:
		return "can't be judged: expired"
	case ChangeNotCovered:
		return "not judged: no collateral for this kind of platform"
	}
	return string(c)
}

// Worse reports whether somebody should look at the change.
func (c Change) Worse() bool {
	return c == ChangeVulnerable || c == ChangeRevoked || c == ChangeUnrecognised
}

// A ReappraiseQuery narrows down what is judged again. The zero value judges every genuine record with evidence of
// hardware.
type ReappraiseQuery struct {
	Vendor, Tenant string
	Since, Until   time.Time // of admission, see [Query]

	// All lists records whose judgement is the same, too.
	All bool

	// After skips the first After leaves in the list; Limit bounds the number of records that are listed. The summary
	// always counts all.
	After uint64
	Limit int
}

// A ReappraiseRequest is the body of a request to judge again, or to recall with collateral.
type ReappraiseRequest struct {
	// Collateral is one or more sets in the JSON form of tdx.ParseCollateralJSON, at most one for each kind of platform.
	Collateral []json.RawMessage `json:"collateral"`

	// At is the time for which to judge. Zero is the monitor's present.
	At time.Time `json:"at,omitzero"`
}

// A Reappraised is a record judged again.
type Reappraised struct {
	Record *Record   `json:"record"`
	Change Change    `json:"change"`
	Now    Judgement `json:"now"`
	New    []string  `json:"new_advisories,omitempty"`  // in Now, and not in the record
	Gone   []string  `json:"gone_advisories,omitempty"` // the other way round
}

// A ReappraiseSummary counts what came of it.
type ReappraiseSummary struct {
	State
	At       time.Time         `json:"at"`
	Examined uint64            `json:"examined"` // genuine records with evidence of hardware, within vendor, tenant and time
	Classes  uint64            `json:"classes"`  // different kinds of evidence among them, each judged once
	Records  map[Change]uint64 `json:"records"`  // of those examined
	Sessions map[Change]uint64 `json:"sessions"` // sessions by the gravest change of their records
	Listed   uint64            `json:"listed"`
	Note     string            `json:"note"` // [NotABreach]
}

// A ReappraiseLine is a line of the answer: one of its members is set. The last has the summary.
type ReappraiseLine struct {
	Record  *Reappraised       `json:"reappraised,omitempty"`
	Summary *ReappraiseSummary `json:"summary,omitempty"`
}

// A ReconcileRow is a session in the customer's own list.
type ReconcileRow struct {
	Line    int       `json:"line"`    // in the customer's file
	Session Hash      `json:"session"` // the digest of its id, see [Record]
	Vendor  string    `json:"vendor"`
	Started time.Time `json:"started"`

	Sequence uint64 `json:"sequence,omitempty"` // zero if the list doesn't say
	Tenants  []Hash `json:"tenants,omitempty"`  // pseudonyms, one of which it must have; empty if the list doesn't say
}

// A ReconcileRequest is a customer's list of sessions, and what to compare it with.
type ReconcileRequest struct {
	Rows []ReconcileRow `json:"rows"`

	// Tenants are the customer's pseudonyms: the log's sessions under one of them that aren't in the list are surplus.
	// Without any, nobody knows which sessions are the customer's, and none is surplus.
	Tenants []Hash `json:"tenants,omitempty"`

	// Since and Until bound surplus sessions by when the log admitted their start.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`

	// Tolerance is how far Started may lie from the start's proven interval, or, if that isn't known, from the
	// enclave's clock, in seconds.
	Tolerance int64 `json:"tolerance_seconds,omitempty"`
}

// DefaultTolerance is how far a customer's clock may differ, in seconds, if a request doesn't say.
const DefaultTolerance = 300

// A ReconcileState says what became of a row. The words are stable.
type ReconcileState string

const (
	StateMatched    ReconcileState = "matched"
	StateMissing    ReconcileState = "missing"    // the log has no start of this session
	StateMismatched ReconcileState = "mismatched" // it has one, and it says something else
	StateSurplus    ReconcileState = "surplus"    // in the log, and not in the list
)

// A Reconciled is a session of the list, or of the log, compared.
type Reconciled struct {
	State ReconcileState `json:"state"`
	Line  int            `json:"line,omitempty"` // in the customer's file; none if it is surplus
	// Session is the digest of the id.
	Session Hash `json:"session"`
	// Problems says in words what doesn't agree.
	Problems []string `json:"problems,omitempty"`
	// Record is the session's start in the log, nil if it is missing. Its Ended says where its end is.
	Record *Record `json:"record,omitempty"`
}

// A ReconcileSummary counts. Rows is the number of rows; Surplus is meaningful only if SurplusChecked is true.
type ReconcileSummary struct {
	State
	Rows           uint64 `json:"rows"`
	Matched        uint64 `json:"matched"`
	Missing        uint64 `json:"missing"`
	Mismatched     uint64 `json:"mismatched"`
	Open           uint64 `json:"open"` // matched, without an end so far
	SurplusChecked bool   `json:"surplus_checked"`
	Logged         uint64 `json:"logged"` // sessions under the given pseudonyms, within the time
	Surplus        uint64 `json:"surplus"`
}

// A ReconcileLine is a line of the answer: one of its members is set. The last has the summary.
type ReconcileLine struct {
	Session *Reconciled       `json:"session,omitempty"`
	Summary *ReconcileSummary `json:"summary,omitempty"`
}

// A VendorCheckQuery asks about one vendor.
type VendorCheckQuery struct {
	Vendor       string
	Since, Until time.Time // of admission, see [Query]
}

// A Share is a number of things, and of how many.
type Share struct {
	N  uint64 `json:"n"`
	Of uint64 `json:"of"`
}

// A VendorCheck answers what a buyer asks about a vendor, from the log alone. Each number comes with what it is a part
// of. It says nothing about sessions that the vendor didn't log: see the Monitor's Reconcile for these.
type VendorCheck struct {
	State
	Vendor string    `json:"vendor"`
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`

	Records Share `json:"records"` // genuine, of all that were logged
	Imports Share `json:"imports"` // evidence that isn't bound to a statement, of all that were logged

	// HardwareBound: sessions all of whose records are genuine and signed by hardware, and that have a start, of all.
	HardwareBound Share `json:"hardware_bound"`
	Completed     Share `json:"completed"` // sessions with start and final, both hardware-bound, of all sessions
	Abandoned     Share `json:"abandoned"` // of all sessions
	// Unpaired: starts that are older than a day, by the newest record of the log, and have no end; Open: younger ones.
	Unpaired Share `json:"unpaired"` // of all starts
	Open     Share `json:"open"`     // of all starts

	Models      map[string]Share `json:"models"`       // by execution class, of all models that finals name
	ModelRuns   Share            `json:"model_runs"`   // models of class tee with a record of their own, of all of class tee
	TCBStatuses map[string]Share `json:"tcb_statuses"` // records by status, of those with evidence of hardware
	Advisories  map[string]Share `json:"advisories"`   // records that an advisory affected, likewise
	Retention   map[string]Share `json:"retention"`    // finals by claim and enforcement, such as "zero-data-retention, technical"
	Technical   Share            `json:"technical"`    // finals whose retention is enforced technically, of all finals

	Intervals IntervalWidths `json:"intervals"`
	Releases  Share          `json:"releases"`  // images whose release is logged, of all images that sessions ran
	Withdrawn Share          `json:"withdrawn"` // images of which a release was withdrawn, likewise
	Platforms uint64         `json:"platforms"` // different platforms
	Tenants   uint64         `json:"tenants"`   // different pseudonyms, which change each month
}

// IntervalWidths says how closely witnesses prove when hardware-bound statements were made.
type IntervalWidths struct {
	Proven Share `json:"proven"` // with both bounds, of all hardware-bound records
	// Up to a minute, ten minutes, an hour, and wider, of those proven.
	Minute     Share `json:"up_to_1m"`
	TenMinutes Share `json:"up_to_10m"`
	Hour       Share `json:"up_to_1h"`
	Wider      Share `json:"wider"`
	// In seconds.
	Median float64 `json:"median_seconds"`
	P95    float64 `json:"p95_seconds"`
	Max    float64 `json:"max_seconds"`
}
