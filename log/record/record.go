// Package record defines what a log of attestation records holds: statements,
// the envelope that signs them, entries (what is submitted) and leaves (what
// is logged), how a TDX quote's REPORTDATA commits to a statement, and the tree
// of a session's actions. FORMAT.md beside this file is the specification.
//
// Everything here is a pure function of its arguments: no clock, network, file
// or logger. Parsing checks the form of things and the rules that a statement
// must keep within itself. It verifies no signature and no quote, and knows
// nothing of a log's contents; package verifier does that.
//
// Parsed values keep the bytes they came from, because these are what is hashed
// and signed. They must not be modified; they can then be used concurrently.
package record

//go:generate go run ./internal/vectors ../../testdata/record

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// PayloadType is the only DSSE payload type of version 1
// (in-toto attestation v1, "Envelope").
const PayloadType = "application/vnd.in-toto+json"

// MaxPayload is the size in bytes of the largest statement (FORMAT.md, "Statements").
const MaxPayload = 16 << 10

// MaxLeaf is the size in bytes of the largest leaf: entry bundles carry a
// 16-bit length before each leaf (c2sp.org/tlog-tiles, "Log entries").
const MaxLeaf = 1<<16 - 1

// MaxEntry is the size in bytes of the largest entry: it fits into a leaf of
// every kind.
const MaxEntry = MaxLeaf - recordHeaderLen

// ErrMalformed is wrapped by every error of this package's parsers.
var ErrMalformed = errors.New("malformed")

// ErrTooLarge is wrapped, besides ErrMalformed, by the errors of inputs that are
// longer than FORMAT.md allows.
var ErrTooLarge = errors.New("too large")

// An UnsupportedError reports an entry or a leaf of a version, kind, profile,
// predicate type or ruleset that this software doesn't know. A later one may. It matches
// ErrMalformed, since whoever doesn't know a format can't accept it.
type UnsupportedError struct {
	What string // such as "leaf kind"
	Got  string
	Need string // what would be needed, or empty
}

func (e *UnsupportedError) Error() string {
	s := fmt.Sprintf("malformed: unsupported %s %s", e.What, e.Got)
	if e.Need != "" {
		s += ": " + e.Need
	}
	return s
}

// Is reports whether target is ErrMalformed.
func (e *UnsupportedError) Is(target error) bool { return target == ErrMalformed }

// A Digest is a SHA-256 hash.
type Digest = [32]byte

// PAE is DSSE's pre-authentication encoding, the bytes that a signature and
// REPORTDATA cover (github.com/secure-systems-lab/dsse, protocol.md v1.0.0).
func PAE(payloadType string, payload []byte) []byte {
	b := appendPAEHead(make([]byte, 0, len(payloadType)+len(payload)+40), payloadType, len(payload))
	return append(b, payload...)
}

// appendPAEHead appends what comes before the payload, of size bytes.
func appendPAEHead(b []byte, payloadType string, size int) []byte {
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(payloadType)), 10)
	b = append(b, ' ')
	b = append(b, payloadType...)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(size), 10)
	return append(b, ' ')
}

// StatementDigest is SHA-256(PAE), the name by which statements refer to each
// other.
func StatementDigest(payloadType string, payload []byte) (d Digest) {
	h := sha256.New()
	h.Write(appendPAEHead(make([]byte, 0, 96), payloadType, len(payload)))
	h.Write(payload)
	h.Sum(d[:0])
	return d
}

// reportDataLabel keeps REPORTDATA hashes apart from every other use of SHA-512
// by a TD, together with the zero byte after it (FORMAT.md, "REPORTDATA"). A new
// label is a new profile.
const reportDataLabel = "affidavit/reportdata/v1"

// ReportData is the REPORTDATA by which a quote commits to a whole statement,
// under profile statement/v1: SHA-512(label ‖ 0x00 ‖ PAE).
func ReportData(payloadType string, payload []byte) (d [64]byte) {
	b := append(make([]byte, 0, 96), reportDataLabel...)
	b = append(b, 0)
	h := sha512.New()
	h.Write(appendPAEHead(b, payloadType, len(payload)))
	h.Write(payload)
	h.Sum(d[:0])
	return d
}

// KeyID is the lowercase hexadecimal SHA-256 of a key's SPKI in DER.
func KeyID(spki []byte) string {
	h := sha256.Sum256(spki)
	return hex.EncodeToString(h[:])
}

// spkiPrefix precedes the 32 bytes of every Ed25519 key in its SPKI: RFC 8410
// leaves no choice but the key itself.
const spkiPrefix = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"

// SPKI returns the SubjectPublicKeyInfo of pub in DER (RFC 8410). It panics if
// pub doesn't have 32 bytes.
func SPKI(pub ed25519.PublicKey) []byte {
	if len(pub) != ed25519.PublicKeySize {
		panic("record: SPKI of an Ed25519 key of " + strconv.Itoa(len(pub)) + " bytes")
	}
	return append([]byte(spkiPrefix), pub...)
}

// smallOrderY are the y-coordinates of the eight points of small order of
// edwards25519, little-endian as RFC 8032 encodes them, and those of their encodings
// that aren't reduced modulo p = 2^255 - 19, which crypto/ed25519 takes, too.
var smallOrderY = map[[32]byte]bool{
	{}:                                       true, // order 4
	{0: 1}:                                   true, // order 1
	[32]byte([]byte("\xec" + ones + "\x7f")): true, // p - 1, order 2
	[32]byte([]byte("\xed" + ones + "\x7f")): true, // p, which is 0
	[32]byte([]byte("\xee" + ones + "\x7f")): true, // p + 1, which is 1
	// Order 8.
	[32]byte([]byte("\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05")): true,
	[32]byte([]byte("\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a")): true,
}

const ones = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"

// smallOrder reports whether pub is a point of small order, in any encoding. For
// such a key one signature may verify for many messages (RFC 8032, Section 5.1.7,
// doesn't exclude it), so that it identifies nobody.
func smallOrder(pub ed25519.PublicKey) bool {
	y := [32]byte(pub)
	y[31] &= 0x7f // the sign of x
	return smallOrderY[y]
}

// ParseSPKI returns the Ed25519 key of a SubjectPublicKeyInfo in DER. Keys of
// other algorithms are malformed, and so are points of small order.
func ParseSPKI(spki []byte) (ed25519.PublicKey, error) {
	if len(spki) == len(spkiPrefix)+ed25519.PublicKeySize && string(spki[:len(spkiPrefix)]) == spkiPrefix {
		pub := ed25519.PublicKey(spki[len(spkiPrefix):])
		if smallOrder(pub) {
			return nil, fmt.Errorf("%w: Ed25519 key %x is a point of small order, which nobody needs a private key to sign for", ErrMalformed, []byte(pub))
		}
		return pub, nil
	}
	if k, err := x509.ParsePKIXPublicKey(spki); err == nil {
		return nil, fmt.Errorf("%w: a key of type %T, want Ed25519", ErrMalformed, k)
	}
	return nil, fmt.Errorf("%w: %d bytes are no Ed25519 SubjectPublicKeyInfo", ErrMalformed, len(spki))
}

// GPUNonce is the nonce that a TD must give to its accelerators, so that their
// evidence is bound to the TD's key and is as fresh as its statement:
// SHA-256("affidavit/gpu-nonce/v1" ‖ 0x00 ‖ SPKI ‖ SHA-256(freshness note)).
func GPUNonce(spki []byte, note Digest) Digest {
	b := append([]byte("affidavit/gpu-nonce/v1\x00"), spki...)
	return sha256.Sum256(append(b, note[:]...))
}

// TenantPseudonym is the value of session.tenant of a customer who holds key:
// HMAC-SHA-256 over origin, vendor id and month ("2026-11"), each after its
// length as a 16-bit big-endian integer. Nobody without the key can compute or
// recognise it. It panics if one of the three is longer than 65,535 bytes.
func TenantPseudonym(key []byte, origin, vendor, month string) Digest {
	mac := hmac.New(sha256.New, key)
	for _, s := range []string{origin, vendor, month} {
		if len(s) > 1<<16-1 {
			panic("record: part of a tenant pseudonym has " + strconv.Itoa(len(s)) + " bytes")
		}
		mac.Write(binary.BigEndian.AppendUint16(nil, uint16(len(s))))
		mac.Write([]byte(s))
	}
	return Digest(mac.Sum(nil))
}

func sha256sum(b []byte) Digest { return sha256.Sum256(b) }
