package record

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/crypto/cryptobyte"
)

// A Profile says who signs an entry's statement, and how its evidence is bound
// to it.
type Profile string

// Binding profiles of version 1. Other names ending in a version are reserved.
const (
	// ProfileStatement: an in-TD key named by the statement signs, and the quote's
	// REPORTDATA is ReportData of the statement.
	ProfileStatement Profile = "statement/v1"
	// ProfileVendorSigned: a release key of the vendor signs; there is no quote.
	ProfileVendorSigned Profile = "vendor-signed/v1"
	// ProfileUnbound: a release key of the vendor signs; the quote's REPORTDATA isn't ours.
	ProfileUnbound Profile = "unbound/v1"

	// ProfileDstackProxy: a release key of the vendor signs; the quote's REPORTDATA
	// commits to a key that signs responses, and to a nonce (DstackBinding).
	ProfileDstackProxy Profile = "dstack-proxy/v1"
	// ProfileTLSHPKE: a release key of the vendor signs; the quote's REPORTDATA is
	// the fingerprint of a TLS key and an HPKE key, and nothing that shows when.
	ProfileTLSHPKE Profile = "tls-hpke/v2"
	// ProfileITANonce: a release key of the vendor signs; the quote's REPORTDATA
	// commits to a verifier's nonce and to data of the attester's (NonceBinding).
	ProfileITANonce Profile = "ita-nonce/v1"
	// ProfileAzureParavisor: an in-TD key named by the statement signs; a quote of the
	// paravisor's virtual TPM commits to the statement, and the quote's REPORTDATA
	// to that TPM's key (VTPMBinding).
	ProfileAzureParavisor Profile = "azure-paravisor/v1"
)

// Profiles returns all profiles of version 1, the strongest first.
func Profiles() []Profile {
	return []Profile{
		ProfileStatement, ProfileAzureParavisor, ProfileDstackProxy, ProfileITANonce, ProfileTLSHPKE, ProfileUnbound, ProfileVendorSigned,
	}
}

// InTD reports whether the statement's sessionKey, which is made in the TD, signs
// the envelope, and the evidence vouches for it. Under other profiles a key of the
// vendor signs.
func (p Profile) InTD() bool { return p == ProfileStatement || p == ProfileAzureParavisor }

// Import reports whether the evidence was made for something else than its
// statement, by interfaces that vendors already have.
func (p Profile) Import() bool {
	switch p {
	case ProfileUnbound, ProfileDstackProxy, ProfileTLSHPKE, ProfileITANonce:
		return true
	}
	return false
}

// binds reports whether entries of the profile have a Binding.
func (p Profile) binds() bool {
	return p == ProfileDstackProxy || p == ProfileITANonce || p == ProfileAzureParavisor
}

// An EvidenceType says what an entry's evidence item is.
type EvidenceType uint8

const (
	EvidenceTDXQuote EvidenceType = 1 // a raw TDX quote without padding
	EvidenceDigest   EvidenceType = 2 // an EvidenceRef to evidence that is too large to log
	EvidenceBinding  EvidenceType = 3 // a Binding: what the quote's REPORTDATA is made of
)

func (t EvidenceType) String() string {
	switch t {
	case EvidenceTDXQuote:
		return "tdx-quote"
	case EvidenceDigest:
		return "digest"
	case EvidenceBinding:
		return "binding"
	}
	return fmt.Sprintf("%d", uint8(t))
}

// Evidence is an evidence item of an entry.
type Evidence struct {
	Type EvidenceType
	Data []byte
}

// maxEvidence is the most items that an entry may have: a quote, and a digest
// for each evidence that a statement can name. A binding takes the place of one.
const maxEvidence = 1 + 1 + maxAccelerators

// maxUnnamed is the most digests that an import may have: its statement names none.
// They are of event logs, which whoever has them compares with the quote.
const maxUnnamed = 4

// NewQuoteEvidence returns a raw TDX quote as evidence.
func NewQuoteEvidence(quote []byte) Evidence { return Evidence{EvidenceTDXQuote, quote} }

// An EvidenceRef names evidence that isn't in the entry. Who has it may serve it
// as a blob.
type EvidenceRef struct {
	SHA256    Digest
	Size      uint64
	MediaType string
}

// NewDigestEvidence returns ref as evidence. NewEntry refuses it if it isn't
// within bounds.
func NewDigestEvidence(ref EvidenceRef) Evidence {
	var b cryptobyte.Builder
	b.AddBytes(ref.SHA256[:])
	b.AddUint64(ref.Size)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(ref.MediaType)) })
	data, err := b.Bytes()
	if err != nil {
		data = nil // a media type of more than 255 bytes; nil isn't within bounds
	}
	return Evidence{EvidenceDigest, data}
}

// Ref decodes evidence of type EvidenceDigest.
func (e Evidence) Ref() (EvidenceRef, error) {
	var ref EvidenceRef
	var mediaType cryptobyte.String
	s := cryptobyte.String(e.Data)
	if e.Type != EvidenceDigest {
		return ref, fmt.Errorf("%w: evidence %s is not a digest", ErrMalformed, e.Type)
	}
	if !s.CopyBytes(ref.SHA256[:]) || !s.ReadUint64(&ref.Size) || !s.ReadUint8LengthPrefixed(&mediaType) || !s.Empty() {
		return ref, fmt.Errorf("%w: truncated evidence digest or trailing data", ErrMalformed)
	}
	if ref.Size < 1 || ref.Size > maxInt {
		return ref, fmt.Errorf("%w: evidence of %d bytes, want 1 to 2^53", ErrMalformed, ref.Size)
	}
	ref.MediaType = string(mediaType)
	if err := checkMediaType(ref.MediaType); err != nil {
		return ref, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return ref, nil
}

// An Entry is what is submitted: a signed statement with its evidence. Its
// fields must not be modified.
type Entry struct {
	Profile     Profile
	PayloadType string
	Payload     []byte
	KeyID       string
	Signature   []byte
	Evidence    []Evidence

	statement *Statement
	raw       []byte
}

const entryVersion = 1

// ParseEntry parses an entry in its canonical form (FORMAT.md, "Entry"), and its
// statement. It checks that profile, predicate type, key id and evidence fit together,
// and no signature. It retains b, which must not be modified afterwards.
//
// The error wraps ErrMalformed. It is an *UnsupportedError for a version,
// profile or predicate type that isn't known, and wraps ErrTooLarge if b is longer than
// MaxEntry or its statement than MaxPayload.
func ParseEntry(b []byte) (*Entry, error) {
	e, err := parseEnvelope(b)
	if err != nil {
		return nil, err
	}
	if e.statement, err = ParseStatement(e.Payload); err != nil {
		return nil, err
	}
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return e, nil
}

// parseEnvelope parses an entry but for its statement.
func parseEnvelope(b []byte) (*Entry, error) {
	if len(b) > MaxEntry {
		return nil, fmt.Errorf("%w: %w: entry of %d bytes, more than %d", ErrMalformed, ErrTooLarge, len(b), MaxEntry)
	}
	var version uint8
	var profile, payloadType, payload, keyid, signature, evidence cryptobyte.String
	s := cryptobyte.String(b)
	if s.ReadUint8(&version) && version != entryVersion {
		return nil, &UnsupportedError{What: "entry version", Got: fmt.Sprint(version)}
	}
	if !s.ReadUint8LengthPrefixed(&profile) || !s.ReadUint8LengthPrefixed(&payloadType) ||
		!s.ReadUint16LengthPrefixed(&payload) || !s.ReadUint8LengthPrefixed(&keyid) ||
		!s.ReadUint16LengthPrefixed(&signature) || !s.ReadUint16LengthPrefixed(&evidence) || !s.Empty() {
		return nil, fmt.Errorf("%w: truncated entry or trailing data", ErrMalformed)
	}
	// Slices are clipped, so that no append to one can write into the next.
	e := &Entry{
		Profile:     Profile(profile),
		PayloadType: string(payloadType),
		Payload:     slices.Clip([]byte(payload)),
		KeyID:       string(keyid),
		Signature:   slices.Clip([]byte(signature)),
		raw:         b,
	}
	for !evidence.Empty() {
		var typ uint8
		var data cryptobyte.String
		if !evidence.ReadUint8(&typ) || !evidence.ReadUint16LengthPrefixed(&data) {
			return nil, fmt.Errorf("%w: truncated evidence", ErrMalformed)
		}
		if len(e.Evidence) == maxEvidence {
			return nil, fmt.Errorf("%w: more than %d evidence items", ErrMalformed, maxEvidence)
		}
		e.Evidence = append(e.Evidence, Evidence{EvidenceType(typ), slices.Clip([]byte(data))})
	}
	if !slices.Contains(Profiles(), e.Profile) {
		return nil, &UnsupportedError{What: "profile", Got: fmt.Sprintf("%q", e.Profile)}
	}
	if e.PayloadType != PayloadType {
		return nil, fmt.Errorf("%w: payload type %q, want %q", ErrMalformed, e.PayloadType, PayloadType)
	}
	if len(e.Payload) == 0 {
		return nil, fmt.Errorf("%w: empty payload", ErrMalformed)
	}
	if err := checkKeyID(e.KeyID); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if len(e.Signature) != ed25519.SignatureSize {
		return nil, fmt.Errorf("%w: signature of %d bytes, want %d", ErrMalformed, len(e.Signature), ed25519.SignatureSize)
	}
	return e, nil
}

// check checks that profile, predicate, key id and evidence fit together.
func (e *Entry) check() error {
	s := e.statement
	mayBe := func(ok bool) error {
		if !ok {
			return fmt.Errorf("profile %s is not for a statement of type %s", e.Profile, s.PredicateType)
		}
		return nil
	}
	switch e.Profile {
	case ProfileStatement, ProfileAzureParavisor:
		if err := mayBe(s.Start != nil || s.Session != nil || s.ModelRun != nil || s.Abandoned != nil); err != nil {
			return err
		}
		if s.SessionKey() == nil {
			return errors.New("a session-abandoned statement without sessionKey is the vendor's: profile vendor-signed/v1")
		}
		return e.checkKeyed()
	case ProfileVendorSigned:
		if err := mayBe(s.Release != nil || s.Withdrawn != nil || s.VendorKey != nil || s.Abandoned != nil); err != nil {
			return err
		}
		if s.Abandoned != nil && s.Abandoned.SessionKey != nil {
			return errors.New("a session-abandoned statement with sessionKey is the TD's: profile statement/v1")
		}
		if s.VendorKey != nil && e.KeyID != s.VendorKey.Key.KeyID {
			return fmt.Errorf("key id %s is not the statement's key.keyid %s: a vendor-key statement is signed by the key that it names", e.KeyID, s.VendorKey.Key.KeyID)
		}
		if len(e.Evidence) > 0 {
			return fmt.Errorf("profile %s has no evidence", e.Profile)
		}
	case ProfileDstackProxy, ProfileITANonce:
		if err := mayBe(s.ModelRun != nil || s.Evidence != nil); err != nil {
			return err
		}
		if s.ModelRun == nil {
			return e.checkImport()
		}
		if err := e.checkKeyed(); err != nil {
			return err
		}
		id, ok := e.Binding().Session()
		if !ok {
			return errors.New("a model run whose binding names no session: its nonce can't be shown to be fresh")
		}
		if served := s.ModelRun.Session; served != nil && served.ID != id {
			return fmt.Errorf("the binding names session %s, the statement %s", id, served.ID)
		}
	case ProfileTLSHPKE, ProfileUnbound:
		if err := mayBe(s.Evidence != nil); err != nil {
			return err
		}
		return e.checkImport()
	}
	return nil
}

// checkKeyed checks an entry that is signed by the sessionKey of its statement.
func (e *Entry) checkKeyed() error {
	if key := e.statement.SessionKey(); e.KeyID != key.KeyID {
		return fmt.Errorf("key id %s is not the statement's sessionKey.keyid %s", e.KeyID, key.KeyID)
	}
	named := e.statement.evidence()
	return e.checkEvidence(func(d Digest) bool { return slices.Contains(named, d) })
}

// checkImport checks that an evidence/v1 statement is about the entry's quote.
func (e *Entry) checkImport() error {
	unnamed := 0
	if err := e.checkEvidence(func(Digest) bool {
		unnamed++
		return e.Profile != ProfileUnbound && unnamed <= maxUnnamed
	}); err != nil {
		return err
	}
	if b := e.Binding(); b != nil {
		if _, ok := b.Session(); ok {
			return errors.New("a binding that names a session, whose statement has no freshness to compare the nonce with: leave the session out")
		}
	}
	quote, imported := e.Quote(), e.statement.Evidence
	if uint64(len(quote)) != imported.Size {
		return fmt.Errorf("quote of %d bytes, evidence.size %d", len(quote), imported.Size)
	}
	if h := sha256.Sum256(quote); h != imported.SHA256 {
		return fmt.Errorf("quote with SHA-256 %x, evidence.sha256 %x", h, imported.SHA256)
	}
	return nil
}

// evidence returns the digests of evidence that the statement names.
func (s *Statement) evidence() []Digest {
	env := s.Environment()
	if env == nil {
		return nil
	}
	var named []Digest
	if env.EventLog != nil {
		named = append(named, *env.EventLog)
	}
	for _, a := range env.Accelerators {
		named = append(named, a.Evidence)
	}
	return named
}

// checkEvidence checks that a quote comes first, then the binding that the profile
// asks for, and then only digests that may be there, ascending, none twice: nothing
// that nobody compares with the quote travels along, and there is one order.
func (e *Entry) checkEvidence(mayBe func(Digest) bool) error {
	if len(e.Evidence) == 0 || e.Evidence[0].Type != EvidenceTDXQuote {
		return fmt.Errorf("profile %s needs a TDX quote as first evidence", e.Profile)
	}
	if len(e.Evidence[0].Data) == 0 {
		return errors.New("empty quote")
	}
	rest := e.Evidence[1:]
	if e.Profile.binds() {
		if len(rest) == 0 || rest[0].Type != EvidenceBinding {
			return fmt.Errorf("profile %s needs a binding as second evidence", e.Profile)
		}
		if _, err := ParseBinding(e.Profile, rest[0].Data); err != nil {
			return err
		}
		rest = rest[1:]
	}
	var last Digest
	for i, ev := range rest {
		switch ev.Type {
		case EvidenceTDXQuote:
			return errors.New("more than one TDX quote")
		case EvidenceBinding:
			return fmt.Errorf("a binding that profile %s has no place for", e.Profile)
		case EvidenceDigest:
		default:
			return &UnsupportedError{What: "evidence type", Got: ev.Type.String()}
		}
		ref, err := ev.Ref()
		if err != nil {
			return err
		}
		if !mayBe(ref.SHA256) {
			return fmt.Errorf("evidence with SHA-256 %x is not named by the statement", ref.SHA256)
		}
		if i > 0 && bytes.Compare(last[:], ref.SHA256[:]) >= 0 {
			return errors.New("evidence digests are not in ascending order")
		}
		last = ref.SHA256
	}
	return nil
}

// NewEntry makes an entry of its parts, and checks it like ParseEntry. It
// copies its arguments.
func NewEntry(p Profile, payload []byte, keyid string, sig []byte, ev ...Evidence) (*Entry, error) {
	return newEntry(p, &Envelope{PayloadType: PayloadType, Payload: payload, KeyID: keyid, Signature: sig}, ev)
}

func newEntry(p Profile, env *Envelope, ev []Evidence) (*Entry, error) {
	if len(env.Payload) > MaxPayload {
		return nil, fmt.Errorf("%w: %w: statement of %d bytes, more than %d", ErrMalformed, ErrTooLarge, len(env.Payload), MaxPayload)
	}
	bytesOf := func(v []byte) cryptobyte.BuilderContinuation {
		return func(b *cryptobyte.Builder) { b.AddBytes(v) }
	}
	n := len(env.Payload) + len(env.Signature) + 512
	for _, ev := range ev {
		n += len(ev.Data) + 3
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, n))
	b.AddUint8(entryVersion)
	b.AddUint8LengthPrefixed(bytesOf([]byte(p)))
	b.AddUint8LengthPrefixed(bytesOf([]byte(env.PayloadType)))
	b.AddUint16LengthPrefixed(bytesOf(env.Payload))
	b.AddUint8LengthPrefixed(bytesOf([]byte(env.KeyID)))
	b.AddUint16LengthPrefixed(bytesOf(env.Signature))
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) {
		for _, ev := range ev {
			b.AddUint8(uint8(ev.Type))
			b.AddUint16LengthPrefixed(bytesOf(ev.Data))
		}
	})
	raw, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: %w: %v", ErrMalformed, ErrTooLarge, err) // a part is longer than its length prefix can say
	}
	return ParseEntry(raw)
}

// SignEntry signs payload and makes an entry of it. For ProfileStatement, key is
// the session key that the payload names, and the first evidence is a quote with
// ReportData(PayloadType, payload) as its REPORTDATA.
func SignEntry(p Profile, payload []byte, key ed25519.PrivateKey, ev ...Evidence) (*Entry, error) {
	keyid := KeyID(SPKI(key.Public().(ed25519.PublicKey)))
	return NewEntry(p, payload, keyid, ed25519.Sign(key, PAE(PayloadType, payload)), ev...)
}

// Bytes returns the entry in its canonical form, without a copy.
func (e *Entry) Bytes() []byte { return e.raw }

// Statement returns the parsed statement.
func (e *Entry) Statement() *Statement { return e.statement }

// StatementDigest returns the digest of the statement. It hashes at each call.
func (e *Entry) StatementDigest() Digest { return StatementDigest(e.PayloadType, e.Payload) }

// ReportData returns the REPORTDATA that profile statement/v1 asks of the
// quote. It hashes at each call.
func (e *Entry) ReportData() [64]byte { return ReportData(e.PayloadType, e.Payload) }

// Quote returns the TDX quote, or nil if there is none.
func (e *Entry) Quote() []byte {
	if len(e.Evidence) > 0 && e.Evidence[0].Type == EvidenceTDXQuote {
		return e.Evidence[0].Data
	}
	return nil
}

// VerifySignature checks that pub made the envelope's signature, and is the key
// that its key id names. It doesn't check whose key that is.
func (e *Entry) VerifySignature(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize {
		return fmt.Errorf("public key of %d bytes, want %d", len(pub), ed25519.PublicKeySize)
	}
	if id := KeyID(SPKI(pub)); id != e.KeyID {
		return fmt.Errorf("signed by key %s, not by %s", e.KeyID, id)
	}
	// Who reads a whole log verifies millions, of which each would leave a copy of the statement to be collected.
	buf := paeBuffers.Get().(*[]byte)
	defer paeBuffers.Put(buf)
	*buf = append(appendPAEHead((*buf)[:0], e.PayloadType, len(e.Payload)), e.Payload...)
	if !ed25519.Verify(pub, *buf, e.Signature) {
		return fmt.Errorf("signature by key %s does not verify", e.KeyID)
	}
	return nil
}

var paeBuffers = sync.Pool{New: func() any { return new([]byte) }}

// An Envelope is a DSSE envelope with its one signature.
type Envelope struct {
	PayloadType string
	Payload     []byte
	KeyID       string
	Signature   []byte
}

// MaxEntryJSON is the size in bytes of the longest JSON form of an entry, or
// envelope, that is read.
const MaxEntryJSON = 128 << 10

var envelopeFields = []field[Envelope]{
	req("payloadType", func(c *codec, e *Envelope) { c.checked(&e.PayloadType, checkName) }),
	req("payload", func(c *codec, e *Envelope) { c.base64(&e.Payload, 1, MaxPayload) }),
	req("signatures", func(c *codec, e *Envelope) {
		one := []*Envelope{e}
		list(c, &one, 1, 1, func(c *codec, v **Envelope) {
			*v = e
			object(c, signatureFields, e)
		})
	}),
}

var signatureFields = []field[Envelope]{
	req("keyid", func(c *codec, e *Envelope) { c.checked(&e.KeyID, checkKeyID) }),
	req("sig", func(c *codec, e *Envelope) { c.base64(&e.Signature, ed25519.SignatureSize, ed25519.SignatureSize) }),
}

// ParseEnvelope parses a bare DSSE envelope in JSON. It doesn't parse the
// payload.
func ParseEnvelope(b []byte) (*Envelope, error) {
	if len(b) > MaxEntryJSON {
		return nil, fmt.Errorf("%w: %w: envelope of %d bytes, more than %d", ErrMalformed, ErrTooLarge, len(b), MaxEntryJSON)
	}
	e := new(Envelope)
	if err := readJSON(b, false, "", func(c *codec) { object(c, envelopeFields, e) }); err != nil {
		return nil, err
	}
	return e, nil
}

// JSON returns the envelope in JSON, deterministically.
func (e *Envelope) JSON() []byte {
	return writeJSON(func(c *codec) { object(c, envelopeFields, e) })
}

// Envelope returns the entry's envelope, whose parts are the entry's.
func (e *Entry) Envelope() *Envelope {
	return &Envelope{PayloadType: e.PayloadType, Payload: e.Payload, KeyID: e.KeyID, Signature: e.Signature}
}

// DSSE returns the entry's bare DSSE envelope in JSON.
func (e *Entry) DSSE() []byte { return e.Envelope().JSON() }

// entryJSON is the JSON form of an entry.
type entryJSON struct {
	profile  string
	envelope Envelope
	evidence []evidenceJSON
}

type evidenceJSON struct {
	typ       string
	data      []byte // of "tdx-quote" and "binding", and the three below of "digest"
	sha256    *Digest
	size      uint64
	mediaType string
}

var entryFields = []field[entryJSON]{
	req("profile", func(c *codec, e *entryJSON) { c.checked(&e.profile, checkName) }),
	req("envelope", func(c *codec, e *entryJSON) { object(c, envelopeFields, &e.envelope) }),
	req("evidence", func(c *codec, e *entryJSON) {
		list(c, &e.evidence, 0, maxEvidence, func(c *codec, v *evidenceJSON) { object(c, itemFields, v) })
	}),
}

var itemFields = []field[evidenceJSON]{
	req("type", func(c *codec, v *evidenceJSON) {
		c.enum(&v.typ, EvidenceTDXQuote.String(), EvidenceDigest.String(), EvidenceBinding.String())
	}),
	opt("data", func(v *evidenceJSON) bool { return v.data != nil }, func(c *codec, v *evidenceJSON) {
		c.base64(&v.data, 1, MaxEntry)
	}),
	opt("sha256", isRef, func(c *codec, v *evidenceJSON) {
		if !c.writing {
			v.sha256 = new(Digest)
		}
		c.digest(v.sha256)
	}),
	opt("size", isRef, func(c *codec, v *evidenceJSON) { c.integer(&v.size, 1, maxInt) }),
	opt("mediaType", isRef, func(c *codec, v *evidenceJSON) { c.checked(&v.mediaType, checkMediaType) }),
}

func isRef(v *evidenceJSON) bool { return v.typ == EvidenceDigest.String() }

// ParseEntryJSON parses the JSON form of an entry (FORMAT.md, "Entry in JSON"),
// and returns the same as ParseEntry of its canonical form.
func ParseEntryJSON(b []byte) (*Entry, error) {
	if len(b) > MaxEntryJSON {
		return nil, fmt.Errorf("%w: %w: entry of %d bytes in JSON, more than %d", ErrMalformed, ErrTooLarge, len(b), MaxEntryJSON)
	}
	var j entryJSON
	if err := readJSON(b, false, "", func(c *codec) { object(c, entryFields, &j) }); err != nil {
		return nil, err
	}
	var ev []Evidence
	for i, v := range j.evidence {
		all := v.sha256 != nil && v.size != 0 && v.mediaType != ""
		none := v.sha256 == nil && v.size == 0 && v.mediaType == ""
		switch {
		case isRef(&v) && all && v.data == nil:
			ev = append(ev, NewDigestEvidence(EvidenceRef{*v.sha256, v.size, v.mediaType}))
		case !isRef(&v) && none && v.data != nil:
			typ := EvidenceTDXQuote
			if v.typ == EvidenceBinding.String() {
				typ = EvidenceBinding
			}
			ev = append(ev, Evidence{typ, v.data})
		default:
			return nil, fmt.Errorf("%w: evidence.%d: type %s needs %s and nothing else", ErrMalformed, i, v.typ,
				map[bool]string{true: "sha256, size and mediaType", false: "data"}[isRef(&v)])
		}
	}
	return newEntry(Profile(j.profile), &j.envelope, ev)
}

// JSON returns the JSON form of the entry, deterministically.
func (e *Entry) JSON() []byte {
	j := entryJSON{profile: string(e.Profile), envelope: *e.Envelope()}
	for _, ev := range e.Evidence {
		v := evidenceJSON{typ: ev.Type.String()}
		if ref, err := ev.Ref(); err == nil {
			v.sha256, v.size, v.mediaType = &ref.SHA256, ref.Size, ref.MediaType
		} else {
			v.data = ev.Data
		}
		j.evidence = append(j.evidence, v)
	}
	return writeJSON(func(c *codec) { object(c, entryFields, &j) })
}
