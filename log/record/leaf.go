package record

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
)

// A LeafKind says what a leaf holds.
type LeafKind uint8

const (
	LeafRecord           LeafKind = 1
	LeafTime             LeafKind = 2
	LeafCollateral       LeafKind = 3
	LeafRelease          LeafKind = 4
	LeafReleaseWithdrawn LeafKind = 5
	LeafVendorKey        LeafKind = 6

	// LeafRecordDigest is reserved: an entry that only authorised readers get,
	// and that can be erased. Version 1 refuses it.
	LeafRecordDigest LeafKind = 7
)

func (k LeafKind) String() string {
	switch k {
	case LeafRecord:
		return "record"
	case LeafTime:
		return "time"
	case LeafCollateral:
		return "collateral"
	case LeafRelease:
		return "release"
	case LeafReleaseWithdrawn:
		return "release-withdrawn"
	case LeafVendorKey:
		return "vendor-key"
	case LeafRecordDigest:
		return "record-digest"
	}
	return fmt.Sprintf("leaf kind %d", uint8(k))
}

// RulesetV1 names the admission rules of version 1 (FORMAT.md, "admission/v1").
const RulesetV1 = "admission/v1"

// TEETDX is the TEE of a collateral leaf for Intel TDX.
const TEETDX uint8 = 1

const leafVersion = 1

// recordHeaderLen is the length of a record leaf up to its entry: version, kind,
// ruleset with its length, two times, collateral. No other leaf has more before an entry.
const recordHeaderLen = 1 + 1 + 1 + len(RulesetV1) + 8 + 8 + sha256.Size

// A Leaf is what is logged: a *RecordLeaf, *TimeLeaf, *CollateralLeaf or
// *VendorLeaf.
type Leaf interface {
	Kind() LeafKind
	// Bytes returns the leaf's only encoding. It panics if a field is out of
	// the bounds that ParseLeaf checks, which is a bug in the caller. The
	// result of ParseLeaf returns the bytes that were parsed, without a copy.
	Bytes() []byte
}

// RecordLeaf holds a record, and what the log chose for it.
type RecordLeaf struct {
	Ruleset string // RulesetV1
	// AdmittedAt and JudgedAt are in milliseconds since the epoch, and equal
	// except for imports, which are judged at their collectedOn.
	AdmittedAt, JudgedAt int64
	// Collateral is the collateral id by which the quote was judged. It is zero exactly
	// if the entry has no quote: a session-abandoned statement of the vendor.
	Collateral Digest
	Entry      *Entry

	raw []byte
}

// TimeLeaf holds a checkpoint of the log with its cosignatures.
type TimeLeaf struct {
	LoggedAt int64  // milliseconds since the epoch, by the log's clock
	Note     []byte // the signed note, which this package doesn't parse

	raw []byte
}

// NoteDigest is the name by which statements commit to the note.
func (l *TimeLeaf) NoteDigest() Digest { return sha256.Sum256(l.Note) }

// CollateralLeaf names the components of a collateral set, which are blobs.
type CollateralLeaf struct {
	TEE uint8 // TEETDX
	// Components are the SHA-256 hashes of TCB info, its issuer chain, QE
	// identity, its issuer chain, root CRL, PCK CRL, and its issuer chain.
	Components [7]Digest

	raw []byte
}

// ID is the collateral id: SHA-256 of the leaf's bytes.
func (l *CollateralLeaf) ID() Digest { return sha256.Sum256(l.Bytes()) }

// VendorLeaf holds a release, release-withdrawn or vendor-key entry. Its kind
// follows from the entry's predicate.
type VendorLeaf struct {
	AdmittedAt int64 // milliseconds since the epoch
	Entry      *Entry

	raw []byte
}

// vendorKinds has the kinds of leaves for statements that have their own.
func vendorKind(s *Statement) (LeafKind, bool) {
	switch {
	case s.Release != nil:
		return LeafRelease, true
	case s.Withdrawn != nil:
		return LeafReleaseWithdrawn, true
	case s.VendorKey != nil:
		return LeafVendorKey, true
	}
	return 0, false
}

func (l *RecordLeaf) Kind() LeafKind     { return LeafRecord }
func (l *TimeLeaf) Kind() LeafKind       { return LeafTime }
func (l *CollateralLeaf) Kind() LeafKind { return LeafCollateral }
func (l *VendorLeaf) Kind() LeafKind {
	kind, _ := vendorKind(l.Entry.statement)
	return kind
}

// ParseLeaf parses a leaf and the entry in it. It retains b, which must not be
// modified afterwards. The error wraps ErrMalformed. It is an *UnsupportedError
// for a version, kind, ruleset or TEE that isn't known.
func ParseLeaf(b []byte) (Leaf, error) {
	if len(b) > MaxLeaf {
		return nil, fmt.Errorf("%w: %w: leaf of %d bytes, more than %d", ErrMalformed, ErrTooLarge, len(b), MaxLeaf)
	}
	s := cryptobyte.String(b)
	var version, kind uint8
	if s.ReadUint8(&version) && version != leafVersion {
		return nil, &UnsupportedError{What: "leaf version", Got: fmt.Sprint(version)}
	}
	if !s.ReadUint8(&kind) {
		return nil, fmt.Errorf("%w: truncated leaf", ErrMalformed)
	}
	var l Leaf
	var err error
	switch LeafKind(kind) {
	case LeafRecord:
		l, err = parseRecordLeaf(b, s)
	case LeafTime:
		l, err = parseTimeLeaf(b, s)
	case LeafCollateral:
		l, err = parseCollateralLeaf(b, s)
	case LeafRelease, LeafReleaseWithdrawn, LeafVendorKey:
		l, err = parseVendorLeaf(b, s, LeafKind(kind))
	case LeafRecordDigest:
		return nil, &UnsupportedError{What: "leaf kind", Got: "record-digest (7)", Need: "reserved for a version after leaf version 1"}
	default:
		return nil, &UnsupportedError{What: "leaf kind", Got: fmt.Sprint(kind)}
	}
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			err = fmt.Errorf("%w: %s leaf: %w", ErrMalformed, LeafKind(kind), err)
		}
		return nil, err
	}
	return l, nil
}

var errTruncated = errors.New("truncated")

func parseRecordLeaf(b []byte, s cryptobyte.String) (Leaf, error) {
	l := &RecordLeaf{raw: b}
	var ruleset cryptobyte.String
	var admitted, judged uint64
	if !s.ReadUint8LengthPrefixed(&ruleset) || !s.ReadUint64(&admitted) || !s.ReadUint64(&judged) || !s.CopyBytes(l.Collateral[:]) {
		return nil, errTruncated
	}
	if l.Ruleset = string(ruleset); l.Ruleset != RulesetV1 {
		return nil, &UnsupportedError{What: "admission ruleset", Got: fmt.Sprintf("%q", l.Ruleset)}
	}
	var err error
	if l.AdmittedAt, err = milliseconds("admitted-at", admitted); err != nil {
		return nil, err
	}
	if l.JudgedAt, err = milliseconds("judged-at", judged); err != nil {
		return nil, err
	}
	if l.Entry, err = ParseEntry(s); err != nil {
		return nil, err
	}
	return l, l.check()
}

// check checks what the log chose against the entry.
func (l *RecordLeaf) check() error {
	if kind, ok := vendorKind(l.Entry.statement); ok {
		return fmt.Errorf("entry of type %s belongs into a %s leaf", l.Entry.statement.PredicateType, kind)
	}
	if hasQuote := l.Entry.Quote() != nil; hasQuote != (l.Collateral != Digest{}) {
		return fmt.Errorf("collateral id %x, though the entry has a quote: %t", l.Collateral, hasQuote)
	}
	if ev := l.Entry.statement.Evidence; ev != nil {
		if want := ev.CollectedOn.UnixMilli(); l.JudgedAt != want {
			return fmt.Errorf("judged-at %d is not the collectedOn %d of imported evidence", l.JudgedAt, want)
		}
		if l.JudgedAt > l.AdmittedAt {
			return fmt.Errorf("judged-at %d is after admitted-at %d", l.JudgedAt, l.AdmittedAt)
		}
	} else if l.JudgedAt != l.AdmittedAt {
		return fmt.Errorf("judged-at %d is not admitted-at %d, though this is no import", l.JudgedAt, l.AdmittedAt)
	}
	return nil
}

func parseTimeLeaf(b []byte, s cryptobyte.String) (Leaf, error) {
	var logged uint64
	if !s.ReadUint64(&logged) {
		return nil, errTruncated
	}
	at, err := milliseconds("logged-at", logged)
	if err != nil {
		return nil, err
	}
	if s.Empty() {
		return nil, errors.New("empty note")
	}
	return &TimeLeaf{LoggedAt: at, Note: slices.Clip([]byte(s)), raw: b}, nil
}

func parseCollateralLeaf(b []byte, s cryptobyte.String) (Leaf, error) {
	l := &CollateralLeaf{raw: b}
	var digests cryptobyte.String
	if !s.ReadUint8(&l.TEE) || !s.ReadUint16LengthPrefixed(&digests) || !s.Empty() {
		return nil, errors.New("truncated or trailing data")
	}
	if l.TEE != TEETDX {
		return nil, &UnsupportedError{What: "TEE", Got: fmt.Sprint(l.TEE)}
	}
	for i := range l.Components {
		if !digests.CopyBytes(l.Components[i][:]) {
			return nil, fmt.Errorf("%d component digests, want %d", i, len(l.Components))
		}
	}
	if !digests.Empty() {
		return nil, fmt.Errorf("more than %d component digests", len(l.Components))
	}
	return l, nil
}

func parseVendorLeaf(b []byte, s cryptobyte.String, kind LeafKind) (Leaf, error) {
	var admitted uint64
	if !s.ReadUint64(&admitted) {
		return nil, errTruncated
	}
	at, err := milliseconds("admitted-at", admitted)
	if err != nil {
		return nil, err
	}
	e, err := ParseEntry(s)
	if err != nil {
		return nil, err
	}
	if k, ok := vendorKind(e.statement); !ok || k != kind {
		return nil, fmt.Errorf("entry of type %s", e.statement.PredicateType)
	}
	return &VendorLeaf{AdmittedAt: at, Entry: e, raw: b}, nil
}

// maxMilliseconds is the last millisecond of the year 9999, the last year that
// a timestamp in a statement can have.
const maxMilliseconds = 253402300799999

func milliseconds(what string, v uint64) (int64, error) {
	if v > maxMilliseconds {
		return 0, fmt.Errorf("%s %d is after the year 9999", what, v)
	}
	return int64(v), nil
}

// Bytes implements Leaf.
func (l *RecordLeaf) Bytes() []byte {
	if l.raw != nil {
		return l.raw
	}
	if l.Ruleset != RulesetV1 {
		panic(fmt.Sprintf("record: record leaf with ruleset %q", l.Ruleset))
	}
	checkTime("AdmittedAt", l.AdmittedAt)
	checkTime("JudgedAt", l.JudgedAt)
	if err := l.check(); err != nil {
		panic("record: record leaf: " + err.Error())
	}
	b := newLeaf(LeafRecord, recordHeaderLen+len(l.Entry.raw))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(l.Ruleset)) })
	b.AddUint64(uint64(l.AdmittedAt))
	b.AddUint64(uint64(l.JudgedAt))
	b.AddBytes(l.Collateral[:])
	b.AddBytes(l.Entry.raw)
	return b.BytesOrPanic()
}

// Bytes implements Leaf.
func (l *TimeLeaf) Bytes() []byte {
	if l.raw != nil {
		return l.raw
	}
	checkTime("LoggedAt", l.LoggedAt)
	if len(l.Note) == 0 || len(l.Note) > MaxNote {
		panic(fmt.Sprintf("record: time leaf with a note of %d bytes", len(l.Note)))
	}
	b := newLeaf(LeafTime, timeHeaderLen+len(l.Note))
	b.AddUint64(uint64(l.LoggedAt))
	b.AddBytes(l.Note)
	return b.BytesOrPanic()
}

const timeHeaderLen = 1 + 1 + 8

// MaxNote is the size in bytes of the longest note that a time leaf can hold.
const MaxNote = MaxLeaf - timeHeaderLen

// Bytes implements Leaf.
func (l *CollateralLeaf) Bytes() []byte {
	if l.raw != nil {
		return l.raw
	}
	if l.TEE != TEETDX {
		panic(fmt.Sprintf("record: collateral leaf with TEE %d", l.TEE))
	}
	b := newLeaf(LeafCollateral, 1+1+1+2+len(l.Components)*sha256.Size)
	b.AddUint8(l.TEE)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, d := range l.Components {
			b.AddBytes(d[:])
		}
	})
	return b.BytesOrPanic()
}

// Bytes implements Leaf.
func (l *VendorLeaf) Bytes() []byte {
	if l.raw != nil {
		return l.raw
	}
	kind, ok := vendorKind(l.Entry.statement)
	if !ok {
		panic("record: vendor leaf with an entry of type " + l.Entry.statement.PredicateType)
	}
	checkTime("AdmittedAt", l.AdmittedAt)
	b := newLeaf(kind, 1+1+8+len(l.Entry.raw))
	b.AddUint64(uint64(l.AdmittedAt))
	b.AddBytes(l.Entry.raw)
	return b.BytesOrPanic()
}

func newLeaf(kind LeafKind, size int) *cryptobyte.Builder {
	b := cryptobyte.NewBuilder(make([]byte, 0, size))
	b.AddUint8(leafVersion)
	b.AddUint8(uint8(kind))
	return b
}

func checkTime(what string, ms int64) {
	if ms < 0 || ms > maxMilliseconds {
		panic(fmt.Sprintf("record: leaf with %s %d", what, ms))
	}
}

// LeafHash is the hash of a leaf in the log's tree, SHA-256(0x00 ‖ leaf)
// (RFC 6962, Section 2.1).
func LeafHash(leaf []byte) Digest {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(leaf)
	return Digest(h.Sum(nil))
}
