package verifier

import "fmt"

// A Source says who vouches for a claim. Only this package assigns sources.
type Source string

const (
	// SourceHardware: a field of a quote that genuine hardware signed, or what
	// follows from such a field alone by the hardware's architecture.
	SourceHardware Source = "hardware"
	// SourceVerifier: computed from evidence that was checked.
	SourceVerifier Source = "verifier"
	// SourceMeasuredCode: said by code in the TD, whose quote matches a
	// measurement that the reader pinned, or a logged release, not withdrawn,
	// under a release key that the reader trusts.
	SourceMeasuredCode Source = "measured-code"
	// SourceLog: said by the operator of the log.
	SourceLog Source = "log"
	// SourceVendor: said by the vendor, or by code in a TD that nobody whom the
	// reader trusts has identified.
	SourceVendor Source = "vendor"
	// SourceUnknown: nobody vouches for it.
	SourceUnknown Source = "unknown"
)

// A ClaimStatus says what became of a claim.
type ClaimStatus string

const (
	// StatusHolds: checked, and true if the source is to be trusted with it.
	StatusHolds ClaimStatus = "holds"
	// StatusAsserted: said by the source, and checked by nobody.
	StatusAsserted ClaimStatus = "asserted"
	// StatusUnknown: the evidence doesn't say.
	StatusUnknown ClaimStatus = "unknown"
	// StatusFailed: checked, and not so. There is a [Refusal] for it.
	StatusFailed ClaimStatus = "failed"
)

// A Claim is one thing that evidence says about a session or a platform. Value
// and Note may contain text of the vendor's choice, and no line breaks.
type Claim struct {
	ID     string      `json:"id"`    // stable, such as "tcb" or "environment.egress-policy"
	Label  string      `json:"label"` // for people, such as "TCB status"
	Value  string      `json:"value"`
	Source Source      `json:"source"`
	Status ClaimStatus `json:"status"`
	Note   string      `json:"note,omitempty"` // what the claim doesn't mean, or why it isn't known
}

// A Code classifies a refusal by an appraisal policy. The words are stable.
// POLICY.md says what each means for the reader.
type Code string

const (
	CodeNoMeasurement  Code = "no-measurement"      // the policy names neither a measurement nor a release key
	CodeMeasurement    Code = "measurement"         // no pinned measurement and no trusted release matches the quote
	CodeRelease        Code = "release"             // the release that the statement names isn't the one that ran; or the release was withdrawn
	CodeReleaseKey     Code = "release-key"         // signed by a release key that the policy doesn't trust
	CodeTCBStatus      Code = "tcb-status"          // the policy doesn't accept the TCB status
	CodeAdvisory       Code = "advisory"            // the policy doesn't tolerate a security advisory, or not any more
	CodeCollateralAge  Code = "collateral-age"      // the collateral was older than the policy allows
	CodeDebug          Code = "debug"               // debug TD
	CodeMigratable     Code = "migratable"          // migratable TD
	CodeSEPTVE         Code = "sept-ve"             // SEPT_VE_DISABLE isn't set
	CodePerfMon        Code = "perfmon"             // PERFMON is set
	CodeReserved       Code = "reserved-attributes" // an attribute of unknown meaning is set
	CodeXFAM           Code = "xfam"                // XFAM enables a feature that the policy doesn't allow
	CodeServiceTD      Code = "service-td"          // a service TD is bound that the policy doesn't name, or nobody knows
	CodePlatform       Code = "platform"            // not one of the platforms that the policy names
	CodeProfile        Code = "profile"             // binding profile
	CodeTimeUnproven   Code = "time-unproven"       // no proven time
	CodeTimeWidth      Code = "time-width"          // the proven interval is too wide, or contradicts itself
	CodeClock          Code = "clock"               // the enclave's clock contradicts the proven interval
	CodeModelExecution Code = "model-execution"     // a model ran in a class that the policy doesn't accept
	CodeModelRun       Code = "model-run"           // a model's own record is missing, or isn't good, or says something else
	CodeAccelerator    Code = "accelerator"         // the nonce of GPU evidence isn't the one that the rules derive
	CodeEventLog       Code = "event-log"           // an event log isn't that of the quote
	CodeRetention      Code = "retention"           // how retention is enforced
	CodeStorage        Code = "persistent-storage"  // the environment has persistent storage
	CodeErasure        Code = "erasure"             // the workspace wasn't reported as erased
	CodeStartMissing   Code = "start-missing"       // the end of a session without its start
	CodePair           Code = "pair"                // two ends of a session that don't belong together
	CodeOrder          Code = "order"               // linked records in an impossible order
	CodeTwoFinals      Code = "two-finals"          // two ends for one start
)

// A Refusal is one reason for which an appraisal policy doesn't allow genuine
// evidence.
type Refusal struct {
	Code    Code   `json:"code"`
	Field   string `json:"field"` // the policy's, such as "td.allow-debug", or the statement's
	Got     string `json:"got"`
	Want    string `json:"want"`
	Message string `json:"message"` // one sentence for people
}

func (r Refusal) String() string {
	return fmt.Sprintf("%s: %s", r.Code, r.Message)
}
