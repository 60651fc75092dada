package bundle

import (
	"errors"
	"fmt"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// ErrQuorumNone says that the log policy asks for no witnesses, and that [Options] doesn't allow that.
var ErrQuorumNone = errors.New("the log policy says \"quorum none\", so that the log alone vouches for its history and no time is proven")

// Options is what a reader brings along: whom to trust, and for what.
type Options struct {
	// LogPolicy says whose signatures make a leaf logged. It is required.
	LogPolicy *checkpoint.Policy

	// AllowQuorumNone accepts a log policy that says "quorum none". Without witnesses a log can show every reader
	// another history, and no time is proven.
	AllowQuorumNone bool

	// Appraisal says which records are good enough. It is required; see [verifier.StrictPolicy].
	Appraisal *verifier.Policy

	// Root is what hardware is trusted under. If it is nil, it is Intel's.
	Root *tdx.Root
}

// A Rule names what [Check] found broken. The words are stable.
type Rule string

const (
	RuleBundle      Rule = "bundle"      // not a well-formed bundle
	RuleCheckpoint  Rule = "checkpoint"  // the checkpoint's signatures, or its quorum
	RuleInclusion   Rule = "inclusion"   // a leaf is not in the checkpoint's tree
	RuleLeaf        Rule = "leaf"        // a leaf that cannot be parsed
	RuleDuplicate   Rule = "duplicate"   // the same thing at two indices
	RuleSubject     Rule = "subject"     // the bundle is about a leaf that says nothing by itself
	RuleUnlinked    Rule = "unlinked"    // a leaf, blob or consistency proof to which nothing refers
	RuleMissing     Rule = "missing"     // something that a leaf refers to and that is needed to judge it
	RuleCollateral  Rule = "collateral"  // collateral that does not verify
	RuleTimeLeaf    Rule = "time-leaf"   // a time leaf whose note is not a checkpoint of this log
	RuleConsistency Rule = "consistency" // an earlier checkpoint is not a prefix of the bundle's
	RuleFreshness   Rule = "freshness"   // a statement's freshness is not that of the note it names
	RuleOrder       Rule = "order"       // leaves in an order that cannot have come about
	RuleVendorKey   Rule = "vendor-key"  // a vendor's signature by a key that it had not logged
	RuleGenuine     Rule = "genuine"     // a record that is not what it claims to be: Err is a *verifier.NotGenuine
)

// Codes of refusals that this package makes beside those of package verifier.
const (
	CodeAdmittedAt verifier.Code = "admitted-at" // the log's own time contradicts that which witnesses prove
	CodeAppraiser  verifier.Code = "appraiser"   // an appraiser that the appraisal policy requires has not signed the checkpoint
)

// A NotProven error says that a bundle or proof does not show what it should: something in it is not genuine, not
// logged, or not there.
type NotProven struct {
	Rule  Rule
	Index *uint64 // of the leaf, if it is about one
	Err   error
}

func (e *NotProven) Error() string {
	if e.Index == nil {
		return fmt.Sprintf("not proven (%s): %v", e.Rule, e.Err)
	}
	return fmt.Sprintf("not proven (%s): leaf %d: %v", e.Rule, *e.Index, e.Err)
}

// Unwrap returns e.Err.
func (e *NotProven) Unwrap() error { return e.Err }

// A Role is what a leaf is in its bundle.
type Role string

const (
	RoleStart      Role = "start"
	RoleFinal      Role = "final"
	RoleAbandoned  Role = "abandoned"
	RoleModelRun   Role = "model-run"
	RoleImport     Role = "import"
	RoleRelease    Role = "release"
	RoleWithdrawal Role = "withdrawal"
	RoleVendorKey  Role = "vendor-key"
	RoleTime       Role = "time"
	RoleCollateral Role = "collateral"
)

// A Finding is what a bundle proves, under the options that it was checked with. Nothing in it may be modified.
type Finding struct {
	// Claims are about the subject, and the session that it belongs to, most important first.
	Claims []verifier.Claim

	// Refusals are why the appraisal policy, or a rule that no policy can switch off, refuses what is genuine. They
	// are about the subject and about the records that it rests on.
	Refusals []verifier.Refusal

	// Interval is when the subject's statement was made, as far as witnesses prove it, or nil.
	Interval *verifier.Interval

	Log     Log
	Subject *Leaf
	Leaves  []*Leaf // all, the subject included, in ascending order of indices

	// Previous is about the session's start, if that is in the shard before this log, else nil. Its refusals are in
	// Refusals, too.
	Previous *Finding
}

// Allowed reports whether the finding is good: nothing is refused.
func (f *Finding) Allowed() bool { return len(f.Refusals) == 0 }

// Log is what the checkpoint's signatures say.
type Log struct {
	checkpoint.Checkpoint
	Keys         []*checkpoint.VerifierKey // the log's that signed
	Cosignatures []checkpoint.Cosignature  // by the log policy's witnesses
	Quorum       string                    // the log policy's; "none" if it asks for no witnesses
	Appraisers   []*checkpoint.VerifierKey // those that the appraisal policy requires and that signed
}

// A Leaf is a leaf of the bundle, and what was found about it. Pointers are nil where a leaf of its kind has none.
type Leaf struct {
	Role  Role
	Index uint64
	Hash  record.Digest // RFC 6962 leaf hash
	Leaf  record.Leaf

	Statement  *record.Digest // of an entry
	Collateral *uint64        // index of the collateral leaf that a record was judged with
	Freshness  *uint64        // index of the time leaf with the note that a statement names
	Covering   *uint64        // index of the first time leaf in the bundle whose checkpoint covers this one

	Interval *verifier.Interval // proven time of the statement
	Verdict  *verifier.Verdict  // of a record
}

// Entry returns the leaf's entry, or nil if it has none.
func (l *Leaf) Entry() *record.Entry {
	switch leaf := l.Leaf.(type) {
	case *record.RecordLeaf:
		return leaf.Entry
	case *record.VendorLeaf:
		return leaf.Entry
	}
	return nil
}

// AdmittedAt returns when the log says that it admitted the leaf's entry; the zero time if it has none.
func (l *Leaf) AdmittedAt() time.Time {
	switch leaf := l.Leaf.(type) {
	case *record.RecordLeaf:
		return time.UnixMilli(leaf.AdmittedAt).UTC()
	case *record.VendorLeaf:
		return time.UnixMilli(leaf.AdmittedAt).UTC()
	}
	return time.Time{}
}
