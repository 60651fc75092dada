package record

import (
	"crypto/sha256"
	"crypto/sha512"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// nonceLabel keeps nonces for others' attestation interfaces apart from every
// other use of SHA-256, together with the zero byte after it (FORMAT.md, "Nonce").
const nonceLabel = "affidavit/nonce/v1"

// Nonce is what is passed as the nonce to an attestation interface of somebody
// else's, so that its quote is bound to a session and is as fresh as a note:
// SHA-256("affidavit/nonce/v1" ‖ 0x00 ‖ SHA-256(freshness note) ‖ session id).
func Nonce(note Digest, session SessionID) Digest {
	b := append([]byte(nonceLabel+"\x00"), note[:]...)
	return sha256.Sum256(append(b, session[:]...))
}

// A Binding is what the REPORTDATA of somebody else's quote is made of: evidence
// of type EvidenceBinding, in the form of the entry's profile. The REPORTDATA
// commits to it, so that nobody needs to sign it.
type Binding interface {
	// ReportData returns the REPORTDATA that the profile's rule makes of it.
	ReportData() [64]byte
	// Session returns the session that the nonce was made for, if one is named.
	Session() (SessionID, bool)
	// nonce returns what must be Nonce for that session, nil if the profile has none.
	nonce() []byte
	append(b *cryptobyte.Builder)
}

// Bounds of the parts of bindings, in bytes.
const (
	MaxRuntimeData   = 1 << 14 // of Azure's paravisor, some 2 KB
	maxVerifierNonce = 128     // Intel Trust Authority's have 32 to 80
	maxIssuedAt      = 64
	maxAttest        = 1 << 10 // TPMS_ATTEST; TPM2B_ATTEST has at most about 130
	maxTPMSignature  = 1 << 10 // TPMT_SIGNATURE; with RSA 4096, 518
)

// A KeyType says how a key signs responses of dstack-proxy/v1.
type KeyType uint8

const (
	KeySecp256k1 KeyType = 1 // ECDSA over EIP-191 personal messages; named by its Ethereum address, 20 bytes
	KeyEd25519   KeyType = 2 // named by its 32 bytes
)

func (t KeyType) String() string {
	switch t {
	case KeySecp256k1:
		return "ecdsa"
	case KeyEd25519:
		return "ed25519"
	}
	return fmt.Sprint(uint8(t))
}

// size returns the length of a key's name, 0 for an unknown type.
func (t KeyType) size() int {
	switch t {
	case KeySecp256k1:
		return 20
	case KeyEd25519:
		return 32
	}
	return 0
}

// A DstackBinding is that of dstack-proxy/v1.
type DstackBinding struct {
	KeyType KeyType
	Key     []byte  // 20 or 32 bytes
	TLS     *Digest // SHA-256 of the SPKI of the proxy's certificate; nil if the quote doesn't commit to one
	Nonce   Digest
	For     *SessionID // nil if the nonce isn't ours
}

// ReportData is key ‖ zeros to 32 bytes, or with a certificate SHA-256(key ‖
// fingerprint), and the nonce.
func (d *DstackBinding) ReportData() (r [64]byte) {
	if d.TLS != nil {
		first := sha256.Sum256(append(append([]byte(nil), d.Key...), d.TLS[:]...))
		copy(r[:32], first[:])
	} else {
		copy(r[:32], d.Key)
	}
	copy(r[32:], d.Nonce[:])
	return r
}

// Session returns d.For.
func (d *DstackBinding) Session() (SessionID, bool) { return sessionOf(d.For) }

func (d *DstackBinding) nonce() []byte { return d.Nonce[:] }

func (d *DstackBinding) append(b *cryptobyte.Builder) {
	b.AddUint8(uint8(d.KeyType))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(d.Key) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) {
		if d.TLS != nil {
			b.AddBytes(d.TLS[:])
		}
	})
	b.AddBytes(d.Nonce[:])
	appendSession(b, d.For)
}

// A NonceBinding is that of ita-nonce/v1: a verifier's nonce, the time at which
// the verifier says that it issued it, and what the attester added.
type NonceBinding struct {
	Value       []byte // the nonce, 1 to 128 bytes
	IssuedAt    []byte // at most 64 bytes; empty if there is none
	RuntimeData []byte // at most MaxRuntimeData
	For         *SessionID
}

// ReportData is SHA-512(nonce ‖ issued at ‖ runtime data). The boundaries between
// the three aren't committed to.
func (n *NonceBinding) ReportData() (r [64]byte) {
	h := sha512.New()
	h.Write(n.Value)
	h.Write(n.IssuedAt)
	h.Write(n.RuntimeData)
	h.Sum(r[:0])
	return r
}

// Session returns n.For.
func (n *NonceBinding) Session() (SessionID, bool) { return sessionOf(n.For) }

func (n *NonceBinding) nonce() []byte { return n.Value }

func (n *NonceBinding) append(b *cryptobyte.Builder) {
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(n.Value) })
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(n.IssuedAt) })
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(n.RuntimeData) })
	appendSession(b, n.For)
}

// A VTPMBinding is that of azure-paravisor/v1: the paravisor's runtime data, which
// names the attestation key of its virtual TPM, and a quote of that TPM.
type VTPMBinding struct {
	RuntimeData []byte // JSON
	Quoted      []byte // TPMS_ATTEST
	Signature   []byte // TPMT_SIGNATURE
}

// ReportData is SHA-256(runtime data) ‖ 32 zero bytes.
func (v *VTPMBinding) ReportData() (r [64]byte) {
	first := sha256.Sum256(v.RuntimeData)
	copy(r[:], first[:])
	return r
}

// Session returns false: the TPM's quote commits to the whole statement.
func (v *VTPMBinding) Session() (SessionID, bool) { return SessionID{}, false }

func (v *VTPMBinding) nonce() []byte { return nil }

func (v *VTPMBinding) append(b *cryptobyte.Builder) {
	for _, p := range [][]byte{v.RuntimeData, v.Quoted, v.Signature} {
		b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(p) })
	}
}

func sessionOf(id *SessionID) (SessionID, bool) {
	if id == nil {
		return SessionID{}, false
	}
	return *id, true
}

func appendSession(b *cryptobyte.Builder, id *SessionID) {
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) {
		if id != nil {
			b.AddBytes(id[:])
		}
	})
}

func readSession(s *cryptobyte.String) (*SessionID, bool) {
	var b cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&b) {
		return nil, false
	}
	switch len(b) {
	case 0:
		return nil, true
	case len(SessionID{}):
		id := SessionID(b)
		return &id, true
	}
	return nil, false
}

// NewBindingEvidence returns b as evidence. NewEntry refuses it if it isn't within
// bounds.
func NewBindingEvidence(b Binding) Evidence {
	var builder cryptobyte.Builder
	b.append(&builder)
	data, err := builder.Bytes()
	if err != nil {
		data = nil // a part longer than its length prefix can say; nil isn't within bounds
	}
	return Evidence{EvidenceBinding, data}
}

// ParseBinding parses a binding in the form of profile p. It retains b. The error
// wraps ErrMalformed.
func ParseBinding(p Profile, b []byte) (Binding, error) {
	s := cryptobyte.String(b)
	malformed := func(format string, args ...any) (Binding, error) {
		return nil, fmt.Errorf("%w: binding of %s: %s", ErrMalformed, p, fmt.Sprintf(format, args...))
	}
	switch p {
	case ProfileDstackProxy:
		d := new(DstackBinding)
		var typ uint8
		var key, tls cryptobyte.String
		var ok bool
		if !s.ReadUint8(&typ) || !s.ReadUint8LengthPrefixed(&key) || !s.ReadUint8LengthPrefixed(&tls) || !s.CopyBytes(d.Nonce[:]) {
			return malformed("truncated")
		}
		if d.For, ok = readSession(&s); !ok || !s.Empty() {
			return malformed("truncated, a session id that is not 16 bytes, or trailing data")
		}
		d.KeyType, d.Key = KeyType(typ), key
		if n := d.KeyType.size(); n == 0 || len(key) != n {
			return malformed("key type %s with %d bytes", d.KeyType, len(key))
		}
		switch len(tls) {
		case 0:
		case len(Digest{}):
			fp := Digest(tls)
			d.TLS = &fp
		default:
			return malformed("TLS fingerprint of %d bytes, want 32 or none", len(tls))
		}
		return d, nil
	case ProfileITANonce:
		n := new(NonceBinding)
		var value, iat, data cryptobyte.String
		var ok bool
		if !s.ReadUint8LengthPrefixed(&value) || !s.ReadUint8LengthPrefixed(&iat) || !s.ReadUint16LengthPrefixed(&data) {
			return malformed("truncated")
		}
		if n.For, ok = readSession(&s); !ok || !s.Empty() {
			return malformed("truncated, a session id that is not 16 bytes, or trailing data")
		}
		if len(value) < 1 || len(value) > maxVerifierNonce || len(iat) > maxIssuedAt || len(data) > MaxRuntimeData {
			return malformed("nonce of %d bytes, issued at of %d, runtime data of %d", len(value), len(iat), len(data))
		}
		n.Value, n.IssuedAt, n.RuntimeData = value, iat, data
		return n, nil
	case ProfileAzureParavisor:
		v := new(VTPMBinding)
		var data, quoted, sig cryptobyte.String
		if !s.ReadUint16LengthPrefixed(&data) || !s.ReadUint16LengthPrefixed(&quoted) || !s.ReadUint16LengthPrefixed(&sig) || !s.Empty() {
			return malformed("truncated or trailing data")
		}
		if len(data) < 1 || len(data) > MaxRuntimeData || len(quoted) < 1 || len(quoted) > maxAttest || len(sig) < 1 || len(sig) > maxTPMSignature {
			return malformed("runtime data of %d bytes, TPM quote of %d, signature of %d", len(data), len(quoted), len(sig))
		}
		v.RuntimeData, v.Quoted, v.Signature = data, quoted, sig
		return v, nil
	}
	return nil, fmt.Errorf("%w: profile %s has no binding", ErrMalformed, p)
}

// Binding returns what the quote's REPORTDATA is made of, nil if the profile has
// no such evidence. It parses at each call.
func (e *Entry) Binding() Binding {
	if len(e.Evidence) < 2 || e.Evidence[1].Type != EvidenceBinding {
		return nil
	}
	b, err := ParseBinding(e.Profile, e.Evidence[1].Data)
	if err != nil {
		return nil // ParseEntry has parsed it
	}
	return b
}

// Fresh reports whether a binding's nonce is Nonce of the note and of the session
// that the binding names.
func Fresh(b Binding, note Digest) bool {
	id, ok := b.Session()
	if !ok {
		return false
	}
	want := Nonce(note, id)
	return string(b.nonce()) == string(want[:])
}
