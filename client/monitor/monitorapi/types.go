// Package monitorapi has what a monitor answers, as values, and a client that asks it over HTTP. It links neither the
// monitor nor its database, so that small programs can use it.
package monitorapi

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// A Hash is a SHA-256 hash, in JSON 64 lowercase hexadecimal digits.
type Hash [32]byte

// String returns 64 lowercase hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(b []byte) error {
	v, err := ParseHash(string(b))
	if err == nil {
		*h = v
	}
	return err
}

// ParseHash parses 64 lowercase hexadecimal digits.
func ParseHash(s string) (h Hash, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) || hex.EncodeToString(b) != s {
		return h, fmt.Errorf("%.80q is not a SHA-256 hash of 64 lowercase hexadecimal digits", s)
	}
	return Hash(b), nil
}

// A Record is a summary of one leaf that holds an entry, with what the monitor found out about it. It is what a search
// finds; the verdict with all claims is in a [Result]. Values that the entry doesn't have, or that nobody vouches for
// because it isn't genuine, are zero.
//
// Who vouches for what: the platform, its TCB status and its evidence class are what the verifier computed from the
// quote; times named admitted and judged are the log's word; not_before and not_after are proven by witnesses; all the
// rest is what the statement says, whose source is in the claims of a Result.
type Record struct {
	Index     uint64 `json:"index"`
	LeafHash  Hash   `json:"leaf_hash"`
	Statement Hash   `json:"statement"` // digest

	Role    bundle.Role    `json:"role"`
	Profile record.Profile `json:"profile"`
	Vendor  string         `json:"vendor"`

	// Session is the digest of subject "session" (FORMAT.md, section 9): SHA-256 of the session id in hexadecimal. It
	// joins all records of a session, and is zero for records about no session, or many.
	Session     Hash      `json:"session,omitzero"`
	Kind        string    `json:"kind,omitempty"`         // of the session: record.KindCodingSession or record.KindModelRun
	Tenant      Hash      `json:"tenant,omitzero"`        // the customer's pseudonym
	TenantEpoch string    `json:"tenant_epoch,omitempty"` // its month
	Sequence    uint64    `json:"sequence,omitempty"`
	StartedOn   time.Time `json:"started_on,omitzero"` // by the enclave's clock, of starts and finals

	// Release is the SHA-256 of the image: of the environment, or of a release or its withdrawal itself.
	Release     Hash   `json:"release,omitzero"`
	ReleaseName string `json:"release_name,omitempty"`

	Models      []Model `json:"models,omitempty"`      // of finals, and the one of a model run
	Retention   string  `json:"retention,omitempty"`   // of finals: what is claimed
	Enforcement string  `json:"enforcement,omitempty"` // and what makes it so

	// Start is the statement digest of the session's start that an end or model run names, and Ended the index of the
	// lowest leaf that names a start as its own and is an end. Ended is looked up when a record is read.
	Start Hash    `json:"start,omitzero"`
	Ended *uint64 `json:"ended,omitempty"`

	Genuine bool   `json:"genuine"`
	Reason  string `json:"reason,omitempty"` // the verifier's word, if it isn't genuine

	// HardwareBound says that genuine hardware signed this very statement: a genuine record of profile statement/v1.
	HardwareBound bool `json:"hardware_bound"`

	FMSPC         string    `json:"fmspc,omitempty"`         // kind of platform, lowercase hex
	Platform      string    `json:"platform,omitempty"`      // PPID, lowercase hex, as verdicts and appraisal policies have it
	TCBStatus     string    `json:"tcb_status,omitempty"`    // in Intel's words, by the collateral of its time
	TCBDate       time.Time `json:"tcb_date,omitzero"`       // of the platform's TCB level
	Advisories    []string  `json:"advisories,omitempty"`    // ids, sorted
	EvidenceClass Hash      `json:"evidence_class,omitzero"` // what Intel's rules look at in the quote: equal classes get equal judgements
	Collateral    Hash      `json:"collateral,omitzero"`     // id

	AdmittedAt time.Time `json:"admitted_at"`
	JudgedAt   time.Time `json:"judged_at,omitzero"`

	// NotBefore and NotAfter bound when the statement was made, as far as witnesses prove it. NotAfter is known once a
	// time leaf covers the record, whose index is Covering.
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	Covering  *uint64   `json:"covering,omitempty"`
}

// A Model is a model that a session used. The execution class is empty for the model of a model run, whose own record
// this is.
type Model struct {
	Provider      string `json:"provider"`
	Name          string `json:"name"` // as requested
	ResponseModel string `json:"response_model,omitempty"`
	Execution     string `json:"execution,omitempty"`
	Record        bool   `json:"record"` // whether the session names a model run's own record
}

// A Result is a record with all that is known about it, computed anew from the log's leaves by [bundle.Check].
type Result struct {
	*Record
	Log    string           `json:"log"`  // the origin
	Size   uint64           `json:"size"` // of the tree that it was judged in
	Claims []verifier.Claim `json:"claims"`

	// Allowed and Refusals are the judgement of the monitor's appraisal policy. Allowed is nil if it has none, and false
	// if the record isn't proven.
	Allowed  *bool              `json:"allowed,omitempty"`
	Refusals []verifier.Refusal `json:"refusals,omitempty"`

	// NotProven is set if the record can't be shown to be what it should be: Rule is that of a [bundle.NotProven].
	Rule      bundle.Rule `json:"rule,omitempty"`
	NotProven string      `json:"not_proven,omitempty"`
}

// A Query says which records to find: those that have all the given values. The zero Query finds all.
type Query struct {
	Session   string // digest of subject "session", or a session id of 32 hexadecimal digits
	Statement string // digest
	Tenant    string // pseudonym
	Vendor    string
	Release   string // SHA-256 of the image
	FMSPC     string // in any case
	Platform  string // PPID, in any case
	TCBStatus string
	Advisory  string
	Model     string // provider's name, as requested or as answered
	Role      string

	// Since and Until bound when the log admitted the record, by its own word, which the monitor compares with the proven
	// time: Since ≤ admitted < Until. Zero is unbounded.
	Since, Until time.Time

	// After skips the first After leaves of the log. To continue a search, set it to the last record's index plus one.
	After uint64

	// Limit bounds the number of records. Zero is no limit in the library, and the server's default over HTTP.
	Limit int
}

// A Problem is an error that the monitor has answered (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	return fmt.Sprintf("the monitor answered %d: %s", p.Status, text)
}
