// Package verifier decides what evidence proves. It has the log's admission
// rules ([Verifier.Admit]), readers' appraisal policies ([ParsePolicy]), and the
// table of claims with their sources that verdicts consist of
// ([Verifier.Verify], [Verifier.Appraise], [Pair], [ModelRuns]).
//
// Everything is a function of its arguments: the package knows no clock, network
// or files, and the same arguments give the same result, years later too.
package verifier

import (
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// platformCache is the number of platforms whose PCK chains a [Verifier]
// remembers as verified. A chain takes about 10 KB.
const platformCache = 4096

// vendorCache is the number of vendors' entries whose signatures a [Verifier]
// remembers. An entry takes a few KB.
const vendorCache = 512

// A Verifier verifies evidence under one root of trust. It caches facts, never
// verdicts, and can be used concurrently.
type Verifier struct {
	root *tdx.Root
	tdx  *tdx.Verifier

	// vendors holds whether the signature on a vendor's entry is that of the key
	// which the entry names by its SHA-256: entries don't change.
	vendors *lru.Cache[*record.Entry, bool]
}

// New returns a Verifier of evidence that hardware under the given root signed,
// see [tdx.IntelRoot].
func New(root *tdx.Root) *Verifier {
	vendors, err := lru.New[*record.Entry, bool](vendorCache)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &Verifier{root: root, tdx: tdx.NewVerifier(root, platformCache), vendors: vendors}
}

// Root returns the root that v was made with.
func (v *Verifier) Root() *tdx.Root { return v.root }

// Compile verifies collateral under v's root, see [tdx.Compile].
func (v *Verifier) Compile(c *tdx.Collateral) (*tdx.Set, error) { return tdx.Compile(c, v.root) }

// An Interval is when a statement was made, as far as witnesses prove it. A
// zero time means that there is no proven bound on that side.
type Interval struct{ NotBefore, NotAfter time.Time }

// An Input is what a verdict is computed from.
type Input struct {
	Entry *record.Entry

	// Collateral is what the leaf names, and At the time that the leaf says the
	// evidence was judged at. For a vendor-signed entry, Collateral is nil.
	Collateral *tdx.Set
	At         time.Time

	// Releases, Withdrawn and VendorKeys are entries for releases, withdrawals of
	// releases, and vendors' keys, whose logging the caller has proven. Entries
	// that have nothing to do with Entry are ignored.
	Releases, Withdrawn, VendorKeys []*record.Entry

	// Evidence has what the entry names by digest, such as event logs, as far as the
	// caller has it. The caller has compared it with the digests.
	Evidence map[record.Digest][]byte

	// Interval is the proven time of the statement, nil if none is proven.
	Interval *Interval

	// FreshnessAge is how old the statement's freshness note was when the log
	// admitted it, by what the log says of both. Zero if that isn't known. Beyond
	// DefaultMaxFreshnessAge the record is late.
	FreshnessAge time.Duration
}

// A NotGenuine error says that an entry isn't what it claims to be: its
// signature, the binding of the quote to the statement, the quote itself, or
// what the statement says about these don't hold together.
type NotGenuine struct {
	// Reason is one of the constants of this package or, if Err is a
	// *[tdx.Error], its Reason.
	Reason string
	Err    error
}

// Reasons of a [NotGenuine] beside those of package tdx.
const (
	ReasonEnvelope  = "envelope"  // the envelope's signature, or its key id
	ReasonKey       = "key"       // a vendor's key that isn't known to be its key
	ReasonBinding   = "binding"   // the quote commits to another statement
	ReasonStatement = "statement" // the statement contradicts itself, or what it is bound to
)

func (e *NotGenuine) Error() string { return fmt.Sprintf("not genuine (%s): %v", e.Reason, e.Err) }

// Unwrap returns e.Err.
func (e *NotGenuine) Unwrap() error { return e.Err }

func notGenuine(reason, format string, args ...any) *NotGenuine {
	return &NotGenuine{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// An Identity says what identified the code in a TD.
type Identity struct {
	// By is "measurement" for a set that the appraisal policy pins, "release"
	// for a logged release under a key that it trusts, or empty.
	By   string `json:"by,omitempty"`
	Name string `json:"name,omitempty"` // of the set, or of the release with its version
}

// Known reports whether the code is known to the reader.
func (i Identity) Known() bool { return i.By != "" }

// A Verdict is what is known about one genuine entry, and whether an appraisal
// policy allows it. Nothing in it may be modified.
type Verdict struct {
	Entry    *record.Entry
	At       time.Time
	Quote    *tdx.Quote  // nil for a vendor-signed entry
	TDX      *tdx.Result // nil for a vendor-signed entry
	Identity Identity
	Interval *Interval
	Claims   []Claim   // most important first
	Refusals []Refusal // empty if the policy allows the entry
}

// Allowed reports whether the policy allows the entry.
func (v *Verdict) Allowed() bool { return len(v.Refusals) == 0 }

// An Appraisal is what is known about bare evidence.
type Appraisal struct {
	At       time.Time
	Quote    *tdx.Quote
	TDX      *tdx.Result
	Identity Identity
	Claims   []Claim
	Refusals []Refusal
}

// Allowed reports whether the policy allows the platform and the TD.
func (a *Appraisal) Allowed() bool { return len(a.Refusals) == 0 }
