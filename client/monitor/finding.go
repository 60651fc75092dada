package monitor

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"time"
)

// A Class says whom a finding is about.
type Class string

const (
	// ClassTamper: the log contradicts what it signed, or shows different things to different readers. Nothing that it
	// says after that should be believed before somebody has looked into it.
	ClassTamper Class = "tamper"
	// ClassInvalid: something is in the log, rightly logged, that the rules of FORMAT.md forbid.
	ClassInvalid Class = "invalid"
	// ClassIdentity: something is in the log that concerns a name on the watch list.
	ClassIdentity Class = "identity"
	// ClassOperational: the log works badly, or something is missing that may still come.
	ClassOperational Class = "operational"
)

// A Severity says how soon somebody should look at a finding.
type Severity string

const (
	SeverityCritical Severity = "critical" // now: the log lies
	SeverityHigh     Severity = "high"     // today: a record, or the log, can't be relied on
	SeverityMedium   Severity = "medium"   // soon
	SeverityLow      Severity = "low"      // when there is time
	SeverityInfo     Severity = "info"     // nothing is wrong
)

// A Kind says what was found. The words are stable. README.md says what to do about each.
type Kind string

const (
	// The log contradicts itself.
	KindSplitView      Kind = "split-view"        // it signed two checkpoints of which neither continues the other
	KindSameSizeFork   Kind = "same-size-fork"    // it signed two checkpoints of one size with different roots
	KindRollback       Kind = "rollback"          // it shows a smaller tree than before
	KindChangedEntry   Kind = "changed-entry"     // an entry that it serves isn't the one in its tree
	KindWrongRoot      Kind = "wrong-root"        // its entries don't give the root that it signed, nor do its hashes tell why
	KindMalformed      Kind = "malformed-bundle"  // an entry bundle is cut short, or isn't one
	KindSurplusEntries Kind = "surplus-entries"   // an entry bundle has more in it than it should
	KindMissingEntries Kind = "missing-entries"   // entries, or hashes, that a checkpoint covers aren't served
	KindSwappedTile    Kind = "swapped-tile"      // a tile of hashes that it serves isn't that of its tree
	KindBadCheckpoint  Kind = "bad-checkpoint"    // what it serves as its checkpoint doesn't satisfy the log policy
	KindBadWitnessNote Kind = "bad-witness-note"  // what a witness serves isn't a checkpoint of this log with its signature
	KindWithheld       Kind = "withheld"          // a witness has seen a checkpoint that the log doesn't show
	KindBadTimeLeaf    Kind = "bad-time-leaf"     // a time leaf whose note isn't an earlier checkpoint that satisfies the log policy
	KindUnparsable     Kind = "unparsable-leaf"   // a leaf that isn't one
	KindUnsupported    Kind = "unsupported-leaf"  // a leaf of a version that this monitor doesn't know
	KindInvalidRecord  Kind = "invalid-record"    // a record or vendor's entry that isn't genuine, or is of a debug TD
	KindUnknownKey     Kind = "unknown-key"       // signed by a vendor's key that wasn't logged before
	KindFreshness      Kind = "unknown-freshness" // made after a checkpoint that no earlier time leaf has
	KindStale          Kind = "stale-freshness"   // admitted long after the checkpoint that it was made after

	KindWrongCollateral      Kind = "wrong-collateral"        // a record judged by a set that was superseded, or for another kind of platform
	KindCollateralLate       Kind = "collateral-late"         // a record judged by a set that wasn't logged before it
	KindCollateralInvalid    Kind = "collateral-invalid"      // a set that isn't Intel's
	KindCollateralBlob       Kind = "collateral-missing-blob" // a set of which a component isn't served, or is another
	KindCollateralRegress    Kind = "collateral-regress"      // a set older than one that was logged before, and not for imports
	KindCollateralStale      Kind = "collateral-stale"        // records are judged by data for which Intel has newer
	KindDuplicateCollateral  Kind = "duplicate-collateral"    // a set that was logged before
	KindDuplicateNote        Kind = "duplicate-note"          // a time leaf with a note that was logged before
	KindDuplicateStatement   Kind = "duplicate-statement"     // a statement that was logged before; the lowest index is the record
	KindTwoFinals            Kind = "two-finals"              // two ends of one session: both fail
	KindUnknownStart         Kind = "unknown-start"           // the end of a session, or a model run, names a start that isn't there
	KindPairMismatch         Kind = "pair-mismatch"           // start and end of a session contradict each other
	KindUnpairedStart        Kind = "unpaired-start"          // a session that began long ago has no end
	KindModelRunMismatch     Kind = "model-run-mismatch"      // a session and its model runs contradict each other
	KindSequenceGap          Kind = "sequence-gap"            // a vendor's numbering of a tenant's sessions leaves some out
	KindSequenceTwice        Kind = "sequence-twice"          // two sessions with one number
	KindWideInterval         Kind = "wide-interval"           // it is proven only roughly when a statement was made
	KindAdmittedAt           Kind = "admitted-at"             // the log's own time contradicts what witnesses prove
	KindReleaseUnknown       Kind = "release-unknown"         // a vendor's sessions name an image of which no release was logged
	KindReleaseMismatch      Kind = "release-mismatch"        // the quote isn't that of the release which the statement names
	KindReleaseWithdrawnUsed Kind = "release-withdrawn-used"  // a session names a release that had been withdrawn

	KindDeadLog       Kind = "dead-log"       // no checkpoint could be read for a long time
	KindFrozenLog     Kind = "frozen-log"     // the newest checkpoint is old
	KindSlowLog       Kind = "slow-log"       // the log shows checkpoints, and its entries can't be read
	KindWitnessSilent Kind = "witness-silent" // a witness couldn't be asked for a long time

	KindWatchVendor   Kind = "watch-vendor"
	KindWatchTenant   Kind = "watch-tenant"
	KindWatchRelease  Kind = "watch-release"
	KindWatchPlatform Kind = "watch-platform"
	KindWatchSession  Kind = "watch-session"
)

// kinds has the class and severity of each kind.
var kinds = map[Kind]struct {
	class    Class
	severity Severity
}{
	KindSplitView:      {ClassTamper, SeverityCritical},
	KindSameSizeFork:   {ClassTamper, SeverityCritical},
	KindRollback:       {ClassTamper, SeverityHigh},
	KindChangedEntry:   {ClassTamper, SeverityCritical},
	KindWrongRoot:      {ClassTamper, SeverityCritical},
	KindMalformed:      {ClassTamper, SeverityHigh},
	KindSurplusEntries: {ClassTamper, SeverityHigh},
	KindMissingEntries: {ClassTamper, SeverityHigh},
	KindSwappedTile:    {ClassTamper, SeverityHigh},

	KindBadCheckpoint:        {ClassInvalid, SeverityHigh},
	KindBadTimeLeaf:          {ClassInvalid, SeverityHigh},
	KindUnparsable:           {ClassInvalid, SeverityHigh},
	KindUnsupported:          {ClassInvalid, SeverityMedium},
	KindInvalidRecord:        {ClassInvalid, SeverityHigh},
	KindUnknownKey:           {ClassInvalid, SeverityHigh},
	KindFreshness:            {ClassInvalid, SeverityHigh},
	KindStale:                {ClassInvalid, SeverityLow},
	KindWrongCollateral:      {ClassInvalid, SeverityHigh},
	KindCollateralLate:       {ClassInvalid, SeverityHigh},
	KindCollateralInvalid:    {ClassInvalid, SeverityHigh},
	KindCollateralBlob:       {ClassInvalid, SeverityHigh},
	KindCollateralRegress:    {ClassInvalid, SeverityHigh},
	KindTwoFinals:            {ClassInvalid, SeverityHigh},
	KindUnknownStart:         {ClassInvalid, SeverityHigh},
	KindPairMismatch:         {ClassInvalid, SeverityHigh},
	KindModelRunMismatch:     {ClassInvalid, SeverityHigh},
	KindSequenceGap:          {ClassInvalid, SeverityMedium},
	KindSequenceTwice:        {ClassInvalid, SeverityMedium},
	KindWideInterval:         {ClassInvalid, SeverityLow},
	KindAdmittedAt:           {ClassInvalid, SeverityMedium},
	KindReleaseUnknown:       {ClassInvalid, SeverityLow},
	KindReleaseMismatch:      {ClassInvalid, SeverityHigh},
	KindReleaseWithdrawnUsed: {ClassInvalid, SeverityHigh},

	KindBadWitnessNote:      {ClassOperational, SeverityMedium},
	KindWithheld:            {ClassOperational, SeverityHigh},
	KindCollateralStale:     {ClassOperational, SeverityMedium},
	KindDuplicateCollateral: {ClassOperational, SeverityLow},
	KindDuplicateNote:       {ClassOperational, SeverityLow},
	KindDuplicateStatement:  {ClassOperational, SeverityLow},
	KindUnpairedStart:       {ClassOperational, SeverityMedium},
	KindDeadLog:             {ClassOperational, SeverityHigh},
	KindFrozenLog:           {ClassOperational, SeverityHigh},
	KindSlowLog:             {ClassOperational, SeverityMedium},
	KindWitnessSilent:       {ClassOperational, SeverityLow},

	KindWatchVendor:   {ClassIdentity, SeverityInfo},
	KindWatchTenant:   {ClassIdentity, SeverityInfo},
	KindWatchRelease:  {ClassIdentity, SeverityInfo},
	KindWatchPlatform: {ClassIdentity, SeverityInfo},
	KindWatchSession:  {ClassIdentity, SeverityInfo},
}

// A Finding is something that somebody should know about a log.
type Finding struct {
	// ID names what was found: the same fault of the same log has the same ID, whoever finds it, and however often. It is
	// 32 hexadecimal digits.
	ID string `json:"id"`
	// Seq is the finding's place in this monitor's list, from 1.
	Seq uint64 `json:"seq"`

	Class    Class     `json:"class"`
	Severity Severity  `json:"severity"`
	Kind     Kind      `json:"kind"`
	Log      string    `json:"log"`             // origin
	Index    *uint64   `json:"index,omitempty"` // of the leaf, if it is about one
	FoundAt  time.Time `json:"found_at"`        // by the monitor's clock
	Message  string    `json:"message"`         // a sentence for people. It may quote text of others, without line breaks

	// Subject names what the finding is about, as far as it is known: vendor, session, tenant, release, platform (as in
	// [Record]), reason (the verifier's word), statement, collateral.
	Subject map[string]string `json:"subject,omitempty"`

	Evidence *Evidence `json:"evidence,omitempty"`

	about string // what ID is made of, beside log and kind
}

// Evidence is what somebody needs who is to be shown that a finding is true, beside the log policy.
type Evidence struct {
	// Notes are signed notes. Of two that contradict each other, the first is of the smaller tree.
	Notes []string `json:"notes,omitempty"`

	// Consistency is the consistency proof, in base64, between PrefixSize and the size of the last note, and PrefixRoot the
	// root which the last note's tree had at that size. For a fork it isn't the root in the first note.
	PrefixSize  uint64   `json:"prefix_size,omitempty"`
	PrefixRoot  string   `json:"prefix_root,omitempty"` // base64
	Consistency []string `json:"consistency,omitempty"`

	// Leaf is the leaf at the finding's Index. Inclusion is the proof, in base64, that it is in the tree of Checkpoint, the
	// newest that the monitor has audited. It is left out as long as there is no such checkpoint.
	Leaf       []byte   `json:"leaf,omitempty"`
	Checkpoint string   `json:"checkpoint,omitempty"`
	Inclusion  []string `json:"inclusion,omitempty"`

	// Others are the indices of other leaves that the finding is about.
	Others []uint64 `json:"others,omitempty"`

	// Path is what was asked of the log, and Served the beginning of what it answered: what a log serves isn't signed, so
	// that others have to ask for themselves.
	Path   string `json:"path,omitempty"`
	Served []byte `json:"served,omitempty"`
}

// maxServed bounds [Evidence.Served].
const maxServed = 16 << 10

// newFinding returns a finding of a kind. What it is about makes its ID.
func newFinding(kind Kind, about, format string, args ...any) *Finding {
	k, ok := kinds[kind]
	if !ok {
		panic("monitor: undocumented kind of finding " + string(kind))
	}
	return &Finding{Class: k.class, Severity: k.severity, Kind: kind, Message: fmt.Sprintf(format, args...), about: about}
}

// at says which leaf a finding is about.
func (f *Finding) at(index uint64) *Finding {
	f.Index = &index
	return f
}

// with adds to the subject.
func (f *Finding) with(name, value string) *Finding {
	if value == "" {
		return f
	}
	if f.Subject == nil {
		f.Subject = make(map[string]string)
	}
	f.Subject[name] = value
	return f
}

// evidence returns the finding's evidence, to be filled.
func (f *Finding) evidence() *Evidence {
	if f.Evidence == nil {
		f.Evidence = new(Evidence)
	}
	return f.Evidence
}

// id returns the ID of a finding in a log.
func (f *Finding) id(origin string) string {
	h := sha256.New()
	fmt.Fprintf(h, "affidavit/finding/v1\x00%d:%s%d:%s%s", len(origin), origin, len(f.Kind), f.Kind, f.about)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func base64Hashes(hashes [][32]byte) []string {
	s := make([]string, len(hashes))
	for i, h := range hashes {
		s[i] = base64.StdEncoding.EncodeToString(h[:])
	}
	return s
}

func base64Hash(h [32]byte) string { return base64.StdEncoding.EncodeToString(h[:]) }
