package checkpoint

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"filippo.io/mldsa"
	"golang.org/x/crypto/cryptobyte"
)

// A Kind is a signature type of c2sp.org/signed-note, "Signature types".
type Kind byte

const (
	// Ed25519 signs the note's text, for logs.
	Ed25519 Kind = 0x01

	// CosignatureEd25519 is "Timestamped Ed25519 checkpoint cosignatures", for
	// witnesses.
	CosignatureEd25519 Kind = 0x04

	// CosignatureMLDSA44 is "Timestamped ML-DSA-44 (sub)tree cosignatures", for
	// witnesses and for logs.
	CosignatureMLDSA44 Kind = 0x06
)

// String returns the name of k, such as "Ed25519 cosignature".
func (k Kind) String() string {
	switch k {
	case Ed25519:
		return "Ed25519"
	case CosignatureEd25519:
		return "Ed25519 cosignature"
	case CosignatureMLDSA44:
		return "ML-DSA-44 cosignature"
	}
	return fmt.Sprintf("unknown type %#02x", byte(k))
}

// publicKeySize returns the length of a public key, and 0 if k is unknown.
func (k Kind) publicKeySize() int {
	switch k {
	case Ed25519, CosignatureEd25519:
		return ed25519.PublicKeySize
	case CosignatureMLDSA44:
		return mldsa.MLDSA44PublicKeySize
	}
	return 0
}

// signatureSize returns the length of what follows a signature's key ID.
func (k Kind) signatureSize() int {
	switch k {
	case Ed25519:
		return ed25519.SignatureSize
	case CosignatureEd25519:
		return 8 + ed25519.SignatureSize
	case CosignatureMLDSA44:
		return 8 + mldsa.MLDSA44SignatureSize
	}
	return 0
}

// maxOpaque8 is the longest cosigner name or log origin that an ML-DSA-44
// cosignature can cover: "opaque cosigner_name<1..2^8-1>; opaque
// log_origin<1..2^8-1>" (tlog-cosignature, "ML-DSA-44 signed message").
const maxOpaque8 = 1<<8 - 1

// A VerifierKey is a public key with a name (a "vkey" of signed-note).
type VerifierKey struct {
	name string
	id   uint32
	kind Kind
	pub  []byte
	ml   *mldsa.PublicKey // for CosignatureMLDSA44
}

// ParseVKey parses a vkey, "<key name>+hex(32-bit key ID)+base64(signature
// type || public key)", of one of the three kinds. The key ID must be the one
// that the specifications define for the kind. The error wraps [ErrMalformed].
func ParseVKey(s string) (*VerifierKey, error) {
	name, rest, _ := strings.Cut(s, "+")
	id, b64, ok := strings.Cut(rest, "+")
	if !ok {
		return nil, fmt.Errorf("%w vkey %.100q: want name, key ID and key, separated by plus signs", ErrMalformed, s)
	}
	key, err := decodeBase64(b64)
	if err != nil {
		return nil, fmt.Errorf("%w vkey %.100q: key %v", ErrMalformed, s, err)
	}
	if len(key) == 0 {
		return nil, fmt.Errorf("%w vkey %.100q: no key", ErrMalformed, s)
	}
	k, err := NewVerifierKey(Kind(key[0]), name, key[1:])
	if err != nil {
		return nil, err
	}
	if want := fmt.Sprintf("%08x", k.id); id != want {
		return nil, fmt.Errorf("%w vkey %.100q: key ID is %q, but the name and key have %q", ErrMalformed, s, id, want)
	}
	return k, nil
}

// NewVerifierKey returns the verifier key for a public key of 32 bytes
// (Ed25519) or 1312 (ML-DSA-44). The error wraps [ErrMalformed].
func NewVerifierKey(kind Kind, name string, pub []byte) (*VerifierKey, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	switch want := kind.publicKeySize(); {
	case want == 0:
		return nil, fmt.Errorf("%w key %.100q: signature type %#02x, want 01, 04 or 06", ErrMalformed, name, byte(kind))
	case len(pub) != want:
		return nil, fmt.Errorf("%w key %.100q: %v public key of %d bytes, want %d", ErrMalformed, name, kind, len(pub), want)
	}
	k := &VerifierKey{name: name, kind: kind, pub: bytes.Clone(pub)}
	if kind == CosignatureMLDSA44 {
		if len(name) > maxOpaque8 {
			return nil, fmt.Errorf("%w key %.100q: name of %d bytes, more than %d", ErrMalformed, name, len(name), maxOpaque8)
		}
		var err error
		if k.ml, err = mldsa.NewPublicKey(mldsa.MLDSA44(), pub); err != nil {
			return nil, fmt.Errorf("%w key %.100q: %v", ErrMalformed, name, err)
		}
	}
	// "key ID = SHA-256(key name || 0x0A || signature type || public
	// key)[:4]" (signed-note, "Signatures").
	h := sha256.New()
	io.WriteString(h, name)
	h.Write([]byte{'\n', byte(kind)})
	h.Write(pub)
	k.id = binary.BigEndian.Uint32(h.Sum(nil))
	return k, nil
}

// Name returns the key's name.
func (k *VerifierKey) Name() string { return k.name }

// KeyID returns the 32-bit key ID.
func (k *VerifierKey) KeyID() uint32 { return k.id }

// Kind returns the signature type.
func (k *VerifierKey) Kind() Kind { return k.kind }

// PublicKey returns a copy of the public key: 32 or 1312 bytes.
func (k *VerifierKey) PublicKey() []byte { return bytes.Clone(k.pub) }

// String returns the vkey that [ParseVKey] parses.
func (k *VerifierKey) String() string {
	return fmt.Sprintf("%s+%08x+%s", k.name, k.id, base64.StdEncoding.EncodeToString(append([]byte{byte(k.kind)}, k.pub...)))
}

// Matches reports whether sig claims to be by k: whether name and ID agree.
func (k *VerifierKey) Matches(sig NoteSignature) bool {
	return k.id == sig.KeyID && k.name == sig.Name
}

// Verify verifies a signature that k matches over a note's text, and returns
// its POSIX timestamp. The timestamp is 0 for the kind [Ed25519], which has
// none, and for cosignatures that don't state one. The error wraps
// [ErrBadSignature].
//
// A cosignature needs the text of a checkpoint, and if it is an ML-DSA-44 one,
// without extension lines, since it wouldn't cover them.
func (k *VerifierKey) Verify(text []byte, sig NoteSignature) (timestamp uint64, err error) {
	if k.kind == Ed25519 {
		return k.verify(text, nil, sig)
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return 0, fmt.Errorf("%w by %q: cosigns what isn't a checkpoint: %v", ErrBadSignature, sig.Name, err)
	}
	return k.verify(text, &c, sig)
}

// verify is Verify with the checkpoint that text holds, which may be nil if k
// isn't a cosigner's.
func (k *VerifierKey) verify(text []byte, c *Checkpoint, sig NoteSignature) (timestamp uint64, err error) {
	if !k.Matches(sig) {
		return 0, fmt.Errorf("%w: made by %s+%08x, not by %s+%08x", ErrBadSignature, sig.Name, sig.KeyID, k.name, k.id)
	}
	if len(sig.Sig) != k.kind.signatureSize() {
		return 0, fmt.Errorf("%w by %q: %d bytes, want %d for %v", ErrBadSignature, k.name, len(sig.Sig), k.kind.signatureSize(), k.kind)
	}
	raw := sig.Sig
	if k.kind != Ed25519 {
		// "struct { u64 timestamp; ... } timestamped_signature" and "It MUST NOT
		// exceed 2^63 - 1" (tlog-cosignature, "Format").
		timestamp, raw = binary.BigEndian.Uint64(raw), raw[8:]
		if timestamp > math.MaxInt64 {
			return 0, fmt.Errorf("%w by %q: timestamp %d exceeds 2^63-1", ErrBadSignature, k.name, timestamp)
		}
	}
	ok := false
	switch k.kind {
	case Ed25519:
		ok = ed25519.Verify(k.pub, text, raw)
	case CosignatureEd25519:
		ok = ed25519.Verify(k.pub, ed25519Message(timestamp, text), raw)
	case CosignatureMLDSA44:
		msg, err := checkpointMessage(k.name, timestamp, c)
		if err != nil {
			return 0, fmt.Errorf("%w by %q: %v", ErrBadSignature, k.name, err)
		}
		ok = mldsa.Verify(k.ml, msg, raw, nil) == nil
	}
	if !ok {
		return 0, fmt.Errorf("%w by %s+%08x (%v)", ErrBadSignature, k.name, k.id, k.kind)
	}
	return timestamp, nil
}

// VerifySubtree verifies an ML-DSA-44 cosignature of the subtree [start, end)
// of the log origin. Its timestamp must be zero, as it must be in answers to
// sign-subtree (c2sp.org/tlog-witness). The error wraps [ErrBadSignature].
func (k *VerifierKey) VerifySubtree(origin string, start, end uint64, hash [32]byte, sig NoteSignature) error {
	if k.kind != CosignatureMLDSA44 {
		return fmt.Errorf("%w by %q: %v keys don't sign subtrees", ErrBadSignature, k.name, k.kind)
	}
	if !k.Matches(sig) || len(sig.Sig) != k.kind.signatureSize() {
		return fmt.Errorf("%w: by another key than %s+%08x, or of %d bytes", ErrBadSignature, k.name, k.id, len(sig.Sig))
	}
	if t := binary.BigEndian.Uint64(sig.Sig); t != 0 {
		return fmt.Errorf("%w by %q: timestamp %d on a subtree, want 0", ErrBadSignature, k.name, t)
	}
	msg, err := subtreeMessage(k.name, 0, origin, start, end, hash)
	if err != nil {
		return fmt.Errorf("%w by %q: %v", ErrBadSignature, k.name, err)
	}
	if mldsa.Verify(k.ml, msg, sig.Sig[8:], nil) != nil {
		return fmt.Errorf("%w by %s+%08x (subtree)", ErrBadSignature, k.name, k.id)
	}
	return nil
}

// A SigningKey is a private key with a name. Printing one with package fmt
// shows the name and key ID only; see [SigningKey.PrivateText].
type SigningKey struct {
	vkey   *VerifierKey
	signer crypto.Signer
	ours   bool // the signer was made from a seed here
}

// seed returns a copy of the 32 bytes that k was made from, nil if the private
// key is elsewhere. The only lasting copy is the signer's.
func (k *SigningKey) seed() []byte {
	if !k.ours {
		return nil
	}
	switch p := k.signer.(type) {
	case ed25519.PrivateKey:
		return p.Seed()
	case *mldsa.PrivateKey:
		return p.Bytes()
	}
	return nil
}

// GenerateKey makes a key from 32 bytes read from rand, which should be
// [crypto/rand.Reader]. ML-DSA-44 names have at most 255 bytes.
func GenerateKey(kind Kind, name string, rand io.Reader) (*SigningKey, error) {
	seed := make([]byte, 32)
	defer clear(seed)
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, fmt.Errorf("random seed: %v", err)
	}
	return newKeyFromSeed(kind, name, seed)
}

func newKeyFromSeed(kind Kind, name string, seed []byte) (*SigningKey, error) {
	if len(seed) != 32 {
		return nil, fmt.Errorf("%w signing key %.100q: private key of %d bytes, want 32", ErrMalformed, name, len(seed))
	}
	var signer crypto.Signer
	switch kind {
	case Ed25519, CosignatureEd25519:
		signer = ed25519.NewKeyFromSeed(seed)
	case CosignatureMLDSA44:
		k, err := mldsa.NewPrivateKey(mldsa.MLDSA44(), seed)
		if err != nil {
			return nil, fmt.Errorf("%w signing key %.100q: %v", ErrMalformed, name, err)
		}
		signer = k
	default:
		return nil, fmt.Errorf("%w signing key %.100q: signature type %#02x, want 01, 04 or 06", ErrMalformed, name, byte(kind))
	}
	k, err := NewSigningKey(kind, name, signer)
	if err != nil {
		return nil, err
	}
	k.ours = true
	return k, nil
}

// NewSigningKey returns a signing key whose private key is elsewhere, such as
// in an SSH agent. The signer's public key must be an [ed25519.PublicKey] or a
// *[mldsa.PublicKey], as kind demands; it signs messages, not hashes.
func NewSigningKey(kind Kind, name string, signer crypto.Signer) (*SigningKey, error) {
	var pub []byte
	switch p := signer.Public().(type) {
	case ed25519.PublicKey:
		if kind == Ed25519 || kind == CosignatureEd25519 {
			pub = p
		}
	case *mldsa.PublicKey:
		if kind == CosignatureMLDSA44 {
			pub = p.Bytes()
		}
	}
	if pub == nil {
		return nil, fmt.Errorf("%w signing key %.100q: %T can't make %v signatures", ErrMalformed, name, signer.Public(), kind)
	}
	v, err := NewVerifierKey(kind, name, pub)
	if err != nil {
		return nil, err
	}
	return &SigningKey{vkey: v, signer: signer}, nil
}

// privatePrefix begins signing keys, as made by golang.org/x/mod/sumdb/note and
// github.com/transparency-dev/formats.
const privatePrefix = "PRIVATE+KEY+"

// ParseSigningKey parses the text of a key file, without or with a newline at
// its end: "PRIVATE+KEY+<name>+<key ID>+base64(type || 32-byte seed)". The
// error wraps [ErrMalformed], and never holds the key.
func ParseSigningKey(text string) (*SigningKey, error) {
	return ParseSigningKeyBytes([]byte(text))
}

// ParseSigningKeyBytes is [ParseSigningKey] for callers that overwrite text
// afterwards: no copy of it, nor of what it encodes, is left but the key's own.
func ParseSigningKeyBytes(text []byte) (*SigningKey, error) {
	rest, ok := bytes.CutPrefix(bytes.TrimSuffix(text, []byte("\n")), []byte(privatePrefix))
	if !ok {
		return nil, fmt.Errorf("%w signing key: doesn't begin with %s", ErrMalformed, privatePrefix)
	}
	n, rest, _ := bytes.Cut(rest, []byte("+"))
	name := string(n)
	id, b64, ok := bytes.Cut(rest, []byte("+"))
	if !ok {
		return nil, fmt.Errorf("%w signing key %.100q: want name, key ID and key, separated by plus signs", ErrMalformed, name)
	}
	// What package base64 would say of what it can't decode is not for an error:
	// it is about the key.
	key := make([]byte, base64.StdEncoding.DecodedLen(len(b64)))
	defer clear(key)
	l, err := base64.StdEncoding.Strict().Decode(key, b64)
	if err != nil || l == 0 || bytes.ContainsAny(b64, "\r\n") {
		return nil, fmt.Errorf("%w signing key %.100q: the key isn't canonical base64", ErrMalformed, name)
	}
	k, err := newKeyFromSeed(Kind(key[0]), name, key[1:l])
	if err != nil {
		return nil, err
	}
	if want := fmt.Sprintf("%08x", k.KeyID()); string(id) != want {
		return nil, fmt.Errorf("%w signing key %.100q: key ID is %.20q, but the name and key have %q", ErrMalformed, name, id, want)
	}
	return k, nil
}

// PrivateText returns the secret text that [ParseSigningKey] parses, without a
// newline. It is an error if the private key is elsewhere.
func (k *SigningKey) PrivateText() (string, error) {
	seed := k.seed()
	if seed == nil {
		return "", fmt.Errorf("the private key of %s+%08x isn't in this process", k.Name(), k.KeyID())
	}
	defer clear(seed)
	return fmt.Sprintf("%s%s+%08x+%s", privatePrefix, k.Name(), k.KeyID(),
		base64.StdEncoding.EncodeToString(append([]byte{byte(k.Kind())}, seed...))), nil
}

// Format implements [fmt.Formatter], so that no verb prints the private key.
func (k *SigningKey) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "signing key %s+%08x", k.Name(), k.KeyID())
}

// Name returns the key's name.
func (k *SigningKey) Name() string { return k.vkey.name }

// KeyID returns the 32-bit key ID.
func (k *SigningKey) KeyID() uint32 { return k.vkey.id }

// Kind returns the signature type.
func (k *SigningKey) Kind() Kind { return k.vkey.kind }

// Verifier returns the public half of k.
func (k *SigningKey) Verifier() *VerifierKey { return k.vkey }

// VKey returns the public half of k as text, for [ParseVKey].
func (k *SigningKey) VKey() string { return k.vkey.String() }

// Sign returns the signature line, with its newline, for a note's text; see the
// function [Sign] for whole notes. A key of kind [Ed25519] signs any text, and
// at isn't used.
//
// A cosigner's key signs only the text of a checkpoint, and states the time at
// in seconds, which must be later than 1970. An ML-DSA-44 key can also sign at
// the zero time.Time, which states no time (timestamp 0): a log may do that, a
// witness must not. It refuses checkpoints with extension lines, since it
// wouldn't cover them, and origins of more than 255 bytes.
func (k *SigningKey) Sign(text []byte, at time.Time) (line []byte, err error) {
	if k.Kind() == Ed25519 {
		return k.sign(0, text)
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return nil, err
	}
	timestamp := at.Unix()
	if k.Kind() == CosignatureMLDSA44 && at.IsZero() {
		timestamp = 0
	} else if timestamp <= 0 {
		return nil, fmt.Errorf("cosignature by %q at %v: the time must be later than 1970", k.Name(), at)
	}
	msg := ed25519Message(uint64(timestamp), text)
	if k.Kind() == CosignatureMLDSA44 {
		if msg, err = checkpointMessage(k.Name(), uint64(timestamp), &c); err != nil {
			return nil, fmt.Errorf("cosignature by %q: %v", k.Name(), err)
		}
	}
	return k.sign(uint64(timestamp), msg)
}

// SignSubtree returns the signature line, with its newline, that says that the
// subtree [start, end) of the log origin has the given hash. Only ML-DSA-44
// keys can. The timestamp is 0, as c2sp.org/tlog-witness demands.
func (k *SigningKey) SignSubtree(origin string, start, end uint64, hash [32]byte) (line []byte, err error) {
	if k.Kind() != CosignatureMLDSA44 {
		return nil, fmt.Errorf("%v keys don't sign subtrees", k.Kind())
	}
	msg, err := subtreeMessage(k.Name(), 0, origin, start, end, hash)
	if err != nil {
		return nil, fmt.Errorf("subtree signature by %q: %v", k.Name(), err)
	}
	return k.sign(0, msg)
}

func (k *SigningKey) sign(timestamp uint64, msg []byte) ([]byte, error) {
	sig, err := k.signer.Sign(nil, msg, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("signature by %s+%08x: %v", k.Name(), k.KeyID(), err)
	}
	if k.Kind() != Ed25519 {
		sig = append(binary.BigEndian.AppendUint64(nil, timestamp), sig...)
	}
	if len(sig) != k.Kind().signatureSize() {
		return nil, fmt.Errorf("signature by %s+%08x: the signer made %d bytes, want %d", k.Name(), k.KeyID(), len(sig), k.Kind().signatureSize())
	}
	return formatSignature(k.Name(), k.KeyID(), sig), nil
}

// ed25519Message returns what an Ed25519 cosignature signs: "two newline
// (U+000A) terminated lines (one header line and one timestamp line) followed
// by the whole note body of the cosigned checkpoint" (tlog-cosignature).
func ed25519Message(timestamp uint64, text []byte) []byte {
	b := make([]byte, 0, len("cosignature/v1\ntime \n")+20+len(text))
	b = append(b, "cosignature/v1\ntime "...)
	b = strconv.AppendUint(b, timestamp, 10)
	b = append(b, '\n')
	return append(b, text...)
}

// checkpointMessage returns what an ML-DSA-44 cosignature of c signs.
func checkpointMessage(cosigner string, timestamp uint64, c *Checkpoint) ([]byte, error) {
	// "Note that checkpoint extension lines are not included in the signed
	// message for ML-DSA-44 cosignatures, and no statement is made about them"
	// (tlog-cosignature). A reader would still think that they are signed.
	if len(c.Extensions) > 0 {
		return nil, fmt.Errorf("the checkpoint has extension lines, which ML-DSA-44 cosignatures don't cover")
	}
	return subtreeMessage(cosigner, timestamp, c.Origin, 0, c.Size, c.Root)
}

// subtreeMessage returns the struct cosigned_message of tlog-cosignature,
// "ML-DSA-44 signed message".
func subtreeMessage(cosigner string, timestamp uint64, origin string, start, end uint64, hash [32]byte) ([]byte, error) {
	switch {
	case cosigner == "" || len(cosigner) > maxOpaque8:
		return nil, fmt.Errorf("cosigner name of %d bytes, want 1 to %d", len(cosigner), maxOpaque8)
	case origin == "" || len(origin) > maxOpaque8:
		return nil, fmt.Errorf("log origin of %d bytes, want 1 to %d", len(origin), maxOpaque8)
	case timestamp > math.MaxInt64 || start > MaxSize || end > MaxSize || start > end:
		return nil, fmt.Errorf("timestamp %d, start %d or end %d out of range", timestamp, start, end)
	case start != 0 && timestamp != 0:
		// "If start is not zero, timestamp MUST be zero."
		return nil, fmt.Errorf("timestamp %d on a subtree that starts at %d, want 0", timestamp, start)
	}
	b := cryptobyte.NewBuilder(make([]byte, 0, 12+1+len(cosigner)+8+1+len(origin)+8+8+32))
	b.AddBytes([]byte("subtree/v1\n\x00"))
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(cosigner)) })
	b.AddUint64(timestamp)
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(origin)) })
	b.AddUint64(start)
	b.AddUint64(end)
	b.AddBytes(hash[:])
	return b.Bytes()
}
