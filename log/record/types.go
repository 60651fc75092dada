package record

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Predicate types of version 1. They are identifiers; nothing is fetched from them.
const (
	PredicateSessionStart     = predicatePrefix + "session-start/v1"
	PredicateSession          = predicatePrefix + "session/v1"
	PredicateSessionAbandoned = predicatePrefix + "session-abandoned/v1"
	PredicateModelRun         = predicatePrefix + "model-run/v1"
	PredicateRelease          = predicatePrefix + "release/v1"
	PredicateReleaseWithdrawn = predicatePrefix + "release-withdrawn/v1"
	PredicateVendorKey        = predicatePrefix + "vendor-key/v1"
	PredicateEvidence         = predicatePrefix + "evidence/v1"

	predicatePrefix = "https://affidavit-log.github.io/"
)

// A Statement is a parsed in-toto statement. Exactly one of its pointers is
// set, the one that PredicateType names. FORMAT.md says what the fields mean,
// which are optional, and their bounds.
//
// Optional digests, times and structures are nil when absent, optional strings
// empty, and optional integers zero.
type Statement struct {
	PredicateType string
	Subjects      []Subject
	Vendor        string // vendor.id

	Start     *SessionStart
	Session   *Session
	Abandoned *SessionAbandoned
	ModelRun  *ModelRun
	Release   *Release
	Withdrawn *ReleaseWithdrawn
	VendorKey *VendorKey
	Evidence  *ImportedEvidence
}

// A Subject is one of a statement's subjects.
type Subject struct {
	Name   string
	SHA256 Digest
}

// Names of subjects with a fixed meaning. A release's subject is its image.
const (
	SubjectSession        = "session"         // SessionID.Digest
	SubjectOutputCommit   = "output-commit"   // salted commitment to a git commit
	SubjectSessionsServed = "sessions-served" // root of a model run's tree of sessions
	SubjectKey            = "key"             // SHA-256 of the SPKI
	SubjectEvidence       = "evidence"        // SHA-256 of the quote
)

// A SessionID is 16 random bytes from the enclave.
type SessionID [16]byte

// String returns 32 lowercase hexadecimal digits.
func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

// Digest is the digest of subject "session", the join key of all entries of a
// session: SHA-256 of the 32 ASCII characters of String.
func (id SessionID) Digest() Digest { return sha256.Sum256([]byte(id.String())) }

// Kinds of sessions.
const (
	KindCodingSession = "coding-session"
	KindModelRun      = "model-run"
)

// Isolation scopes: how long the trust domain outlives the session.
const (
	IsolationSession  = "session"
	IsolationWorktree = "worktree"
	IsolationProject  = "project"
)

// Reasons why a session ended.
const (
	EndCompleted = "completed"
	EndAborted   = "aborted"
	EndTimeout   = "timeout"
)

// Execution classes of a model.
const (
	ExecutionTEE        = "tee"        // in a trusted execution environment
	ExecutionPolicyZDR  = "policy-zdr" // zero retention by the provider's word only
	ExecutionUnattested = "unattested" // nothing is known
)

// Kinds of persistent storage of an environment.
const (
	StorageNone               = "none"                // nothing writable outlives the TD
	StorageEncryptedEphemeral = "encrypted-ephemeral" // under a key that exists in the TD's memory only
	StoragePersistent         = "persistent"
)

// Types of channel keys.
const (
	ChannelTLSSPKI = "tls_spki_sha256" // SHA-256 of the SPKI of a TLS certificate, in DER
	ChannelHPKEKey = "hpke_key_sha256" // SHA-256 of an encoded HPKE public key (RFC 9180, SerializePublicKey)
)

// Outcomes of actions.
const (
	OutcomeExecuted = "executed"
	OutcomeBlocked  = "blocked"
	OutcomeDenied   = "denied"
	OutcomeErrored  = "errored"
	OutcomeTimedOut = "timed_out"
)

// Claims about retention, and what enforces them.
const (
	RetentionZero    = "zero-data-retention"
	RetentionLimited = "limited-retention"
	RetentionNone    = "no-claim"

	EnforcementTechnical = "technical"
	EnforcementPolicy    = "policy"
)

// Reasons for which a session was abandoned.
const (
	AbandonedUnused     = "unused"     // started, never given work
	AbandonedCrashed    = "crashed"    // the recorder or the TD stopped by itself
	AbandonedTerminated = "terminated" // somebody stopped the TD
	AbandonedLost       = "lost"       // its end is unknown
)

// SchemeSalted names the only tree scheme of version 1: RFC 6962 with SHA-256
// over salted leaves.
const SchemeSalted = "rfc6962-sha256-salted/v1"

// MediaTypeTDXQuote is the media type of a raw TDX quote without padding.
const MediaTypeTDXQuote = "application/vnd.intel.tdx-quote"

// Media types of event logs, which evidence digests name.
const (
	MediaTypeCCEL      = "application/vnd.tcg.ccel"                        // a CC event log of ACPI table CCEL, without padding
	MediaTypeDstackLog = "application/vnd.affidavit.dstack-event-log+json" // the event_log of dstack's interfaces
)

// AcceleratorNVIDIA and BindingNonceChained are the only accelerator type and
// binding of version 1.
const (
	AcceleratorNVIDIA   = "nvidia-gpu-cc"
	BindingNonceChained = "nonce-chained" // its nonce is GPUNonce
)

// TEEIntelTDX is the only TEE of a release's measurements in version 1.
const TEEIntelTDX = "intel-tdx"

// A SessionKey is an Ed25519 key with its two other forms.
type SessionKey struct {
	KeyID     string // KeyID(SPKI)
	PublicKey ed25519.PublicKey
	SPKI      []byte
}

// NewSessionKey returns pub with its other forms. It panics if pub doesn't have
// 32 bytes.
func NewSessionKey(pub ed25519.PublicKey) SessionKey {
	spki := SPKI(pub)
	return SessionKey{KeyID: KeyID(spki), PublicKey: pub, SPKI: spki}
}

// Freshness names a checkpoint of the log: the statement was made after it.
type Freshness struct {
	Note   Digest // SHA-256 of the whole cosigned note, which a time leaf holds
	Origin string
	Size   uint64
	Root   Digest
}

// A Channel is the key at the far end of a connection.
type Channel struct {
	Type   string // ChannelTLSSPKI or ChannelHPKEKey
	SHA256 Digest
}

// An Image names a release.
type Image struct {
	Name   string
	SHA256 Digest
}

// An Environment is what a TD says it runs.
type Environment struct {
	Release           Image
	PersistentStorage string // required in session statements
	EgressPolicy      *Digest
	EventLog          *Digest
	Accelerators      []Accelerator
}

// An Accelerator is a set of GPUs whose evidence is named by digest.
type Accelerator struct {
	Type     string
	Count    uint64
	Binding  string
	Nonce    Digest // GPUNonce; not checked by this package
	Evidence Digest
}

// A StatementRef says which statement, and where it was logged.
type StatementRef struct {
	Origin    string
	Index     uint64
	Statement Digest
}

// SessionInfo is what start and final say alike.
type SessionInfo struct {
	ID             SessionID
	Kind           string
	Tenant         Digest // TenantPseudonym
	TenantEpoch    string // "2026-11"
	Sequence       uint64 // from 1 within tenant and month; 0 if absent
	StartedOn      time.Time
	IsolationScope string
}

// SessionStart is session-start/v1.
type SessionStart struct {
	SessionInfo
	SessionKey  SessionKey
	Freshness   Freshness
	Environment Environment
	Channels    []Channel
	Challenge   *Digest
}

// Session is session/v1, the final statement of a session.
type Session struct {
	SessionInfo
	FinishedOn      time.Time
	EndReason       string
	Start           StatementRef
	SessionKey      SessionKey
	Freshness       Freshness
	Environment     Environment
	Models          []Model
	Actions         Actions
	Retention       Retention
	WorkspaceErased bool    // teardown.workspaceErased
	OutputCommit    *Digest // subject "output-commit"
}

// A Model is one model that a session used.
type Model struct {
	Provider      string
	RequestModel  string
	ResponseModel string // optional
	Calls         uint64
	Execution     string
	Channel       Channel
	ModelRun      *Digest // statement of the model run; only with ExecutionTEE
}

// A Tree is the size and root of a salted tree.
type Tree struct {
	Size uint64
	Root Digest
}

// Actions commits to the actions of a session. The counts are optional; each
// map's sum is at most Size.
type Actions struct {
	Tree
	Counts   map[string]uint64 // by gen_ai.operation.name
	Outcomes map[string]uint64
}

// Retention is what is claimed about the customer's data afterwards.
type Retention struct {
	Claim       string
	Enforcement string
	Basis       []string
}

// SessionAbandoned is session-abandoned/v1. SessionKey, Freshness and
// Environment are set if the TD made it, and nil if the vendor did.
type SessionAbandoned struct {
	ID          SessionID
	Sequence    uint64 // 0 if absent
	Start       StatementRef
	Reason      string
	AbandonedOn time.Time
	SessionKey  *SessionKey
	Freshness   *Freshness
	Environment *Environment
}

// ModelRun is model-run/v1. At least one of Session and SessionsServed is set.
type ModelRun struct {
	Provider       string
	RequestModel   string
	ResponseModel  string  // optional
	Weights        *Digest // optional
	BOM            *Document
	Calls          Tree
	SessionKey     SessionKey
	Freshness      Freshness
	Environment    Environment
	PeerKeyID      string  // peer.sessionKeyid; set exactly if Session is
	PeerChannel    Channel // peer.channelBinding
	Session        *ServedSession
	SessionsServed *Tree
	Upstream       []Upstream
}

// A ServedSession names the session that a model run served, and its start
// statement.
type ServedSession struct {
	ID        SessionID
	Statement Digest
}

// Upstream is one hop that a gateway went on to.
type Upstream struct {
	Provider  string
	Execution string
	Channel   Channel
	ModelRun  *Digest // only with ExecutionTEE
}

// A Document is named by media type and digest.
type Document struct {
	MediaType string
	SHA256    Digest
}

// Release is release/v1.
type Release struct {
	Image         Image // the statement's subject
	Version       string
	Measurements  []Measurement
	Source        *Source
	Provenance    *Document
	AgentMeasured bool // the agent that acts, too, is part of the measured image
	NotBefore     time.Time
	NotAfter      *time.Time // nil: unlimited
}

// A Measurement is a set of expected TDX measurements. Nil means not
// constrained.
type Measurement struct {
	MRTD          [48]byte
	RTMR          [4]*[48]byte
	MRConfigID    *[48]byte
	MROwner       *[48]byte
	MROwnerConfig *[48]byte
	Note          string
}

// Source says what a release was built from. One of GitCommit and SHA256 is set.
type Source struct {
	URI       string
	GitCommit string // 40 or 64 lowercase hexadecimal digits
	SHA256    *Digest
}

// ReleaseWithdrawn is release-withdrawn/v1.
type ReleaseWithdrawn struct {
	Image       Image  // the statement's subject, that of the release
	Statement   Digest // of the release that is withdrawn
	Reason      string // a sentence for people
	WithdrawnOn time.Time
}

// VendorKey is vendor-key/v1: a release key, which signs this statement itself.
type VendorKey struct {
	Key SessionKey
}

// ImportedEvidence is evidence/v1: a quote that isn't bound to a statement.
type ImportedEvidence struct {
	MediaType   string
	SHA256      Digest
	Size        uint64
	CollectedOn time.Time // the vendor's assertion
	Source      string    // optional URI
}

// Freshness returns the statement's freshness, or nil if it has none.
func (s *Statement) Freshness() *Freshness {
	switch {
	case s.Start != nil:
		return &s.Start.Freshness
	case s.Session != nil:
		return &s.Session.Freshness
	case s.ModelRun != nil:
		return &s.ModelRun.Freshness
	case s.Abandoned != nil:
		return s.Abandoned.Freshness
	}
	return nil
}

// SessionKey returns the in-TD key that the statement names, or nil if it names
// none.
func (s *Statement) SessionKey() *SessionKey {
	switch {
	case s.Start != nil:
		return &s.Start.SessionKey
	case s.Session != nil:
		return &s.Session.SessionKey
	case s.ModelRun != nil:
		return &s.ModelRun.SessionKey
	case s.Abandoned != nil:
		return s.Abandoned.SessionKey
	}
	return nil
}

// Environment returns the statement's environment, or nil if it has none.
func (s *Statement) Environment() *Environment {
	switch {
	case s.Start != nil:
		return &s.Start.Environment
	case s.Session != nil:
		return &s.Session.Environment
	case s.ModelRun != nil:
		return &s.ModelRun.Environment
	case s.Abandoned != nil:
		return s.Abandoned.Environment
	}
	return nil
}

// SessionID returns the session that the statement is about, or false if it is
// about none or about many.
func (s *Statement) SessionID() (SessionID, bool) {
	switch {
	case s.Start != nil:
		return s.Start.ID, true
	case s.Session != nil:
		return s.Session.ID, true
	case s.Abandoned != nil:
		return s.Abandoned.ID, true
	case s.ModelRun != nil && s.ModelRun.Session != nil:
		return s.ModelRun.Session.ID, true
	}
	return SessionID{}, false
}
