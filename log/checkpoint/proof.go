package checkpoint

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// MaxProof is the size in bytes of the largest proof that [ParseProof] accepts:
// room for the largest note and for the largest leaf of a log (64 KiB) as extra
// data, several times over.
const MaxProof = 512 << 10

// proofHeader: "The first line MUST be the string c2sp.org/tlog-proof@v1".
const proofHeader = "c2sp.org/tlog-proof@v1\n"

// A Proof is a transparency log proof (c2sp.org/tlog-proof), by custom a file
// with the extension .tlog-proof. Nothing about it has been verified.
type Proof struct {
	// Extra is what the application put there, nil if nothing. It isn't
	// authenticated.
	Extra []byte

	Index      uint64     // of the leaf
	Hashes     [][32]byte // inclusion proof, from the leaf's sibling to the root's child
	Checkpoint []byte     // the signed note, verbatim
}

// ParseProof parses a proof of at most [MaxProof] bytes. The checkpoint must be
// a well-formed signed note, its tree must be larger than the index, and there
// must be exactly as many hashes as that calls for. The error wraps
// [ErrMalformed]. The Checkpoint points into b.
func ParseProof(b []byte) (*Proof, error) {
	if len(b) > MaxProof {
		return nil, fmt.Errorf("%w proof: %d bytes, more than %d", ErrMalformed, len(b), MaxProof)
	}
	rest, ok := bytes.CutPrefix(b, []byte(proofHeader))
	if !ok {
		return nil, fmt.Errorf("%w proof: doesn't begin with the line %q", ErrMalformed, strings.TrimSpace(proofHeader))
	}
	// The first empty line ends the proof's own part: an inclusion proof has
	// "zero or more non-empty lines".
	head, note, ok := bytes.Cut(rest, []byte("\n\n"))
	if !ok {
		return nil, fmt.Errorf("%w proof: no empty line before the checkpoint", ErrMalformed)
	}
	lines := strings.Split(string(head), "\n")
	p := &Proof{Checkpoint: note}
	if b64, ok := strings.CutPrefix(lines[0], "extra "); ok {
		extra, err := decodeBase64(b64)
		if err != nil {
			return nil, fmt.Errorf("%w proof: extra data %v", ErrMalformed, err)
		}
		// "If no extra data is present, this line is omitted."
		if len(extra) == 0 {
			return nil, fmt.Errorf("%w proof: a line for extra data without any", ErrMalformed)
		}
		p.Extra, lines = extra, lines[1:]
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("%w proof: no index", ErrMalformed)
	}
	index, ok := strings.CutPrefix(lines[0], "index ")
	if !ok {
		return nil, fmt.Errorf("%w proof: line %.60q, want extra data or an index", ErrMalformed, lines[0])
	}
	var err error
	if p.Index, err = parseDecimal(index, MaxSize-1); err != nil {
		return nil, fmt.Errorf("%w proof: index %v", ErrMalformed, err)
	}
	for _, l := range lines[1:] {
		if len(p.Hashes) == 63 { // the depth of the largest tree
			return nil, fmt.Errorf("%w proof: more than 63 hashes", ErrMalformed)
		}
		h, err := ParseHash(l)
		if err != nil {
			return nil, fmt.Errorf("proof: %w", err)
		}
		p.Hashes = append(p.Hashes, h)
	}
	n, err := ParseNote(note)
	if err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		return nil, fmt.Errorf("proof: %w", err)
	}
	if p.Index >= c.Size {
		return nil, fmt.Errorf("%w proof: index %d in a tree of size %d", ErrMalformed, p.Index, c.Size)
	}
	if got, want := len(p.Hashes), inclusionProofLen(p.Index, c.Size); got != want {
		return nil, fmt.Errorf("%w proof: %d hashes, want %d for index %d of size %d", ErrMalformed, got, want, p.Index, c.Size)
	}
	return p, nil
}

// Bytes returns the encoding of p. It is the inverse of [ParseProof], and
// doesn't check p.
func (p *Proof) Bytes() []byte {
	b := make([]byte, 0, len(proofHeader)+64+base64.StdEncoding.EncodedLen(len(p.Extra))+45*len(p.Hashes)+len(p.Checkpoint))
	b = append(b, proofHeader...)
	if len(p.Extra) > 0 {
		b = append(b, "extra "...)
		b = base64.StdEncoding.AppendEncode(b, p.Extra)
		b = append(b, '\n')
	}
	b = append(b, "index "...)
	b = strconv.AppendUint(b, p.Index, 10)
	b = append(b, '\n')
	for _, h := range p.Hashes {
		b = base64.StdEncoding.AppendEncode(b, h[:])
		b = append(b, '\n')
	}
	b = append(b, '\n')
	return append(b, p.Checkpoint...)
}

// Verify checks that the leaf with the given RFC 6962 leaf hash is at p.Index in
// the tree of p's checkpoint, and that pol accepts that checkpoint. It doesn't
// look at p.Extra, and says nothing about time: see [Policy.NotAfter]. The error
// is one of [Policy.Check], or wraps [ErrBadProof].
func (p *Proof) Verify(leafHash [32]byte, pol *Policy) (*Checked, error) {
	c, err := pol.Check(p.Checkpoint)
	if err != nil {
		return nil, err
	}
	if err := VerifyInclusion(leafHash, c.Root, p.Index, c.Size, p.Hashes); err != nil {
		return nil, err
	}
	return c, nil
}
