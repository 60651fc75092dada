// Package checkpoint reads and checks what transparency logs and witnesses
// sign: strict signed notes, checkpoints, verifier keys, cosignatures,
// tlog-policy and tlog-proof files; and it says what cosignatures prove about
// time.
//
// It implements, from the C2SP repository at commit 5ba5ee8, signed-note,
// tlog-checkpoint, tlog-cosignature, tlog-policy and tlog-proof. Everything it
// accepts has exactly one encoding: what is parsed and printed again gives the
// same bytes, or it is refused. (A policy, which people write, is the
// exception: see [ParsePolicy].)
//
// The package does no I/O and reads no clock. All of its types can be used by
// several goroutines at once once they have been made, and none of its
// functions modifies its arguments.
package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Errors that callers act on. Each may be wrapped with the value that was
// wrong. See also [QuorumError].
var (
	// ErrMalformed is wrapped by the error of every parser of this package.
	ErrMalformed = errors.New("malformed")

	// ErrUnknownLog says that a policy lists no log with a checkpoint's origin.
	ErrUnknownLog = errors.New("unknown log")

	// ErrBadSignature says that a signature that should verify does not, or
	// that a note lacks a signature by the log it names.
	ErrBadSignature = errors.New("bad signature")

	// ErrBadProof says that an inclusion or consistency proof doesn't verify.
	ErrBadProof = errors.New("proof does not verify")
)

const (
	// MaxNote is the size in bytes of the largest note that [ParseNote]
	// accepts. "Verifiers SHOULD apply a maximum limit to the number of
	// signatures in a note (or, equivalently, to the overall size of a note),
	// but MUST accept at least up to 16 signatures. Remember that post-quantum
	// signatures can be up to nearly 5kB in size" (signed-note, "Format"): 16
	// of them take 107 kB in base64.
	MaxNote = 128 << 10

	// MaxSignatures is the largest number of signature lines in a note. It
	// bounds the work that one note can cause, and leaves room for two keys of
	// each of 32 witnesses, and as many again that nobody knows.
	MaxSignatures = 128

	// MaxSize is the largest tree size. The specifications sign sizes as 64-bit
	// numbers, but implementations use signed ones.
	MaxSize = math.MaxInt64
)

// A Checkpoint is the head of a log's Merkle tree (c2sp.org/tlog-checkpoint).
type Checkpoint struct {
	Origin string   // the log's name, non-empty, an opaque string
	Size   uint64   // number of leaves, at most [MaxSize]
	Root   [32]byte // RFC 6962 Merkle tree hash

	// Extensions are the lines after the root, without newlines, each
	// non-empty. ML-DSA-44 cosignatures don't cover them, see
	// [SigningKey.Sign].
	Extensions []string
}

// ParseCheckpoint parses the text of a checkpoint's note, which ends with a
// newline. The error wraps [ErrMalformed].
//
// The root of an empty tree isn't compared with [EmptyRoot]: witnesses have to
// tell that error from others.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	if err := checkNoteBytes(text); err != nil {
		return Checkpoint{}, err
	}
	lines := strings.Split(string(text), "\n")
	// "The note text is a sequence of at least three non-empty lines, separated
	// by newlines" (tlog-checkpoint, "Note text"); and a note's text ends with
	// one, after which Split finds an empty string.
	if len(lines) < 4 || lines[len(lines)-1] != "" {
		return Checkpoint{}, fmt.Errorf("%w checkpoint: %d complete lines, want at least 3", ErrMalformed, len(lines)-1)
	}
	lines = lines[:len(lines)-1]
	for i, l := range lines {
		if l == "" {
			return Checkpoint{}, fmt.Errorf("%w checkpoint: line %d is empty", ErrMalformed, i+1)
		}
	}
	size, err := ParseSize(lines[1])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	root, err := ParseHash(lines[2])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: root %w", err)
	}
	c := Checkpoint{Origin: lines[0], Size: size, Root: root}
	if len(lines) > 3 {
		c.Extensions = lines[3:]
	}
	return c, nil
}

// Text returns the note text of c. It is the inverse of [ParseCheckpoint], and
// doesn't check that c is valid; [SigningKey.Sign] does.
func (c Checkpoint) Text() []byte {
	b := make([]byte, 0, len(c.Origin)+1+20+1+44+1)
	b = append(b, c.Origin...)
	b = append(b, '\n')
	b = strconv.AppendUint(b, c.Size, 10)
	b = append(b, '\n')
	b = base64.StdEncoding.AppendEncode(b, c.Root[:])
	b = append(b, '\n')
	for _, e := range c.Extensions {
		b = append(b, e...)
		b = append(b, '\n')
	}
	return b
}

// EmptyRoot returns the root of a tree of size zero, SHA-256 of nothing (RFC
// 6962, section 2.1).
func EmptyRoot() [32]byte { return sha256.Sum256(nil) }

// A Note is a signed note (c2sp.org/signed-note). Nothing about it has been
// verified.
type Note struct {
	Text       []byte          // what is signed, including its last newline
	Signatures []NoteSignature // at least one, in the order of the note
}

// A NoteSignature is a line of a note's signature block.
type NoteSignature struct {
	Name  string // key name
	KeyID uint32
	Sig   []byte // what follows the key ID, at least one byte
	Line  []byte // the whole line, with its newline
}

// ParseNote parses a signed note of at most [MaxNote] bytes and
// [MaxSignatures] signatures. The error wraps [ErrMalformed]. Slices of the
// result point into b.
func ParseNote(b []byte) (*Note, error) {
	if len(b) > MaxNote {
		return nil, fmt.Errorf("%w note: %d bytes, more than %d", ErrMalformed, len(b), MaxNote)
	}
	if err := checkNoteBytes(b); err != nil {
		return nil, err
	}
	// "The note text MAY contain empty lines; the text is separated from the
	// signatures by the last empty line in the note" (signed-note, "Format").
	i := bytes.LastIndex(b, []byte("\n\n"))
	if i < 0 {
		return nil, fmt.Errorf("%w note: no empty line before the signatures", ErrMalformed)
	}
	sigs, err := ParseSignatures(b[i+2:])
	if err != nil {
		return nil, err
	}
	return &Note{Text: b[: i+1 : i+1], Signatures: sigs}, nil
}

// ParseSignatures parses one or more signature lines, the end of a note and
// the body of a witness's answer (c2sp.org/tlog-witness), with the limits of
// [ParseNote]. The error wraps [ErrMalformed]. Slices of the result point into
// b.
func ParseSignatures(b []byte) ([]NoteSignature, error) {
	if len(b) > MaxNote {
		return nil, fmt.Errorf("%w signatures: %d bytes, more than %d", ErrMalformed, len(b), MaxNote)
	}
	if err := checkNoteBytes(b); err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, fmt.Errorf("%w note: no signature", ErrMalformed)
	}
	var sigs []NoteSignature
	for len(b) > 0 {
		if len(sigs) == MaxSignatures {
			return nil, fmt.Errorf("%w note: more than %d signatures", ErrMalformed, MaxSignatures)
		}
		n := bytes.IndexByte(b, '\n') + 1
		if n == 0 {
			return nil, fmt.Errorf("%w note: the last line %.100q has no newline", ErrMalformed, b)
		}
		sig, err := parseSignature(b[:n:n])
		if err != nil {
			return nil, err
		}
		sigs = append(sigs, sig)
		b = b[n:]
	}
	return sigs, nil
}

// signaturePrefix is an em dash and a space: "signature lines of this form: em
// dash (U+2014), space (U+0020), key name, space, base64-encoded signature,
// newline" (signed-note, "Format").
const signaturePrefix = "— "

func parseSignature(line []byte) (NoteSignature, error) {
	rest, ok := strings.CutPrefix(string(line[:len(line)-1]), signaturePrefix)
	if !ok {
		return NoteSignature{}, fmt.Errorf("%w note: signature line %.100q doesn't begin with an em dash and a space", ErrMalformed, line)
	}
	name, b64, _ := strings.Cut(rest, " ")
	if err := checkName(name); err != nil {
		return NoteSignature{}, err
	}
	sig, err := decodeBase64(b64)
	if err != nil {
		return NoteSignature{}, fmt.Errorf("%w note: signature by %q %v", ErrMalformed, name, err)
	}
	// "Signatures are the base64 encoding of 4+n bytes. The first four bytes in
	// the signature are the uint32 key ID stored in big-endian order."
	if len(sig) < 5 {
		return NoteSignature{}, fmt.Errorf("%w note: signature by %q has %d bytes, want a key ID and a signature", ErrMalformed, name, len(sig))
	}
	return NoteSignature{
		Name:  strings.Clone(name),
		KeyID: binary.BigEndian.Uint32(sig),
		Sig:   sig[4:],
		Line:  line,
	}, nil
}

// formatSignature returns a signature line with its newline.
func formatSignature(name string, keyID uint32, sig []byte) []byte {
	raw := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(sig)), keyID)
	raw = append(raw, sig...)
	line := make([]byte, 0, len(signaturePrefix)+len(name)+1+base64.StdEncoding.EncodedLen(len(raw))+1)
	line = append(line, signaturePrefix...)
	line = append(line, name...)
	line = append(line, ' ')
	line = base64.StdEncoding.AppendEncode(line, raw)
	return append(line, '\n')
}

// Bytes returns the encoding of n, the inverse of [ParseNote].
func (n *Note) Bytes() []byte {
	size := len(n.Text) + 1
	for _, s := range n.Signatures {
		size += len(s.Line)
	}
	b := make([]byte, 0, size)
	b = append(b, n.Text...)
	b = append(b, '\n')
	for _, s := range n.Signatures {
		b = append(b, s.Line...)
	}
	return b
}

// Sign returns the note with the given text and signature lines, each made by
// [SigningKey.Sign] or taken from a [NoteSignature].
func Sign(text []byte, lines ...[]byte) ([]byte, error) {
	b := append(bytes.Clone(text), '\n')
	for _, l := range lines {
		b = append(b, l...)
	}
	n, err := ParseNote(b)
	if err != nil {
		return nil, err
	}
	if len(n.Text) != len(text) {
		return nil, fmt.Errorf("%w note: the text doesn't end with a newline", ErrMalformed)
	}
	return b, nil
}

// checkNoteBytes enforces: "Signed notes MUST be valid UTF-8 and MUST NOT
// contain any ASCII control characters (those below U+0020) other than
// newline" (signed-note, "Format").
func checkNoteBytes(b []byte) error {
	for i, c := range b {
		if c < 0x20 && c != '\n' {
			return fmt.Errorf("%w note: control character %#02x at offset %d", ErrMalformed, c, i)
		}
	}
	if !utf8.Valid(b) {
		return fmt.Errorf("%w note: not UTF-8", ErrMalformed)
	}
	return nil
}

// checkName enforces: "Key names MUST be non-empty and MUST NOT contain any
// Unicode spaces or plus (U+002B) characters" (signed-note, "Format").
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w key name: empty", ErrMalformed)
	case strings.ContainsRune(name, '+') || strings.ContainsFunc(name, unicode.IsSpace):
		return fmt.Errorf("%w key name %.100q: contains a space or a plus", ErrMalformed, name)
	case checkNoteBytes([]byte(name)) != nil:
		return fmt.Errorf("%w key name %.100q: control character or not UTF-8", ErrMalformed, name)
	}
	return nil
}

// decodeBase64 decodes the one encoding of RFC 4648, section 4, with padding.
// The package encoding/base64 skips line breaks, and unless strict also spare
// bits.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("contains a line break")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("is not canonical base64: %v", err)
	}
	return b, nil
}

// ParseHash parses a hash as all of the specifications write it: 32 bytes in
// canonical base64, without a newline. The error wraps [ErrMalformed].
func ParseHash(s string) ([32]byte, error) {
	b, err := decodeBase64(s)
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w hash: %.60q %v", ErrMalformed, s, err)
	}
	if len(b) != 32 {
		return [32]byte{}, fmt.Errorf("%w hash: %.60q has %d bytes, want 32", ErrMalformed, s, len(b))
	}
	return [32]byte(b), nil
}

// ParseSize parses a tree size of at most [MaxSize], in decimal without sign or
// leading zero. The error wraps [ErrMalformed].
func ParseSize(s string) (uint64, error) {
	n, err := parseDecimal(s, MaxSize)
	if err != nil {
		return 0, fmt.Errorf("%w size: %v", ErrMalformed, err)
	}
	return n, nil
}

// parseDecimal parses digits without sign or leading zero. The functions of
// strconv accept both.
func parseDecimal(s string, limit uint64) (uint64, error) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%.60q is not a decimal number", s)
		}
	}
	if s == "" || len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%.60q is not a decimal number without leading zeros", s)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > limit {
		return 0, fmt.Errorf("%.60q is more than %d", s, limit)
	}
	return n, nil
}
