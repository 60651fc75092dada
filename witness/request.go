package witness

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// maxProof: "The client MUST NOT send more than 63 consistency proof lines"
// (tlog-witness, "add-checkpoint" and "sign-subtree").
const maxProof = 63

// An addRequest is the body of add-checkpoint. The note's text hasn't been
// parsed: unknown logs and bad signatures are answered before malformed
// checkpoints.
type addRequest struct {
	old   uint64
	proof [][32]byte
	note  *checkpoint.Note
}

// A subtreeRequest is the body of sign-subtree.
type subtreeRequest struct {
	start, end uint64
	hash       [32]byte
	proof      [][32]byte
	note       *checkpoint.Note
	checkpoint checkpoint.Checkpoint
}

// cut returns the line that b begins with, without its newline, and the rest.
func cut(b []byte) (line string, rest []byte, err error) {
	l, rest, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return "", nil, errors.New("the request ends within a line")
	}
	return string(l), rest, nil
}

// parseProof parses hashes up to an empty line.
func parseProof(b []byte) (proof [][32]byte, rest []byte, err error) {
	for {
		var line string
		if line, b, err = cut(b); err != nil {
			return nil, nil, err
		}
		if line == "" {
			return proof, b, nil
		}
		if len(proof) == maxProof {
			return nil, nil, fmt.Errorf("more than %d proof lines", maxProof)
		}
		h, err := checkpoint.ParseHash(line)
		if err != nil {
			return nil, nil, fmt.Errorf("proof line %d: %w", len(proof)+1, err)
		}
		proof = append(proof, h)
	}
}

func parseAddRequest(body []byte) (*addRequest, error) {
	line, rest, err := cut(body)
	if err != nil {
		return nil, err
	}
	size, ok := strings.CutPrefix(line, "old ")
	if !ok {
		return nil, fmt.Errorf("line %.60q, want: old <size>", line)
	}
	var r addRequest
	if r.old, err = checkpoint.ParseSize(size); err != nil {
		return nil, fmt.Errorf("old %w", err)
	}
	if r.proof, rest, err = parseProof(rest); err != nil {
		return nil, err
	}
	if r.note, err = checkpoint.ParseNote(rest); err != nil {
		return nil, err
	}
	return &r, nil
}

// bytes returns the encoding of r, the inverse of parseAddRequest.
func (r *addRequest) bytes() []byte {
	b := strconv.AppendUint([]byte("old "), r.old, 10)
	b = append(b, '\n')
	b = appendProof(b, r.proof)
	return append(b, r.note.Bytes()...)
}

func appendProof(b []byte, proof [][32]byte) []byte {
	for _, h := range proof {
		b = base64.StdEncoding.AppendEncode(b, h[:])
		b = append(b, '\n')
	}
	return append(b, '\n')
}

func parseSubtreeRequest(body []byte) (*subtreeRequest, error) {
	line, rest, err := cut(body)
	if err != nil {
		return nil, err
	}
	f := strings.Split(line, " ")
	if len(f) != 3 || f[0] != "subtree" {
		return nil, fmt.Errorf("line %.60q, want: subtree <start> <end>", line)
	}
	var r subtreeRequest
	if r.start, err = checkpoint.ParseSize(f[1]); err != nil {
		return nil, fmt.Errorf("start %w", err)
	}
	if r.end, err = checkpoint.ParseSize(f[2]); err != nil {
		return nil, fmt.Errorf("end %w", err)
	}
	if !checkpoint.ValidSubtree(r.start, r.end) {
		return nil, fmt.Errorf("[%d, %d) isn't a subtree", r.start, r.end)
	}
	if line, rest, err = cut(rest); err != nil {
		return nil, err
	}
	if r.hash, err = checkpoint.ParseHash(line); err != nil {
		return nil, fmt.Errorf("subtree %w", err)
	}
	if r.proof, rest, err = parseProof(rest); err != nil {
		return nil, err
	}
	if r.note, err = checkpoint.ParseNote(rest); err != nil {
		return nil, err
	}
	if r.checkpoint, err = checkpoint.ParseCheckpoint(r.note.Text); err != nil {
		return nil, err
	}
	if r.end > r.checkpoint.Size {
		return nil, fmt.Errorf("subtree ends at %d, after the checkpoint's size %d", r.end, r.checkpoint.Size)
	}
	return &r, nil
}

// cosignatureTime returns the timestamp that a cosignature begins with.
func cosignatureTime(s checkpoint.NoteSignature) uint64 {
	if len(s.Sig) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(s.Sig)
}
