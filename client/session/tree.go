package session

import (
	"crypto/sha256"

	"github.com/affidavit-log/affidavit/log/record"
)

// tree computes the root of an RFC 6962 tree from its leaf hashes, one after another, in memory that grows with the
// logarithm of their number.
type tree struct {
	size uint64
	// peaks are the roots of the complete subtrees that the leaves so far make up, the largest first: one for each bit
	// that is set in size.
	peaks []record.Digest
}

func (t *tree) add(leaf record.Digest) {
	t.peaks = append(t.peaks, leaf)
	for n := t.size; n&1 == 1; n >>= 1 {
		last := len(t.peaks) - 1
		t.peaks[last-1] = nodeHash(t.peaks[last-1], t.peaks[last])
		t.peaks = t.peaks[:last]
	}
	t.size++
}

// tree returns size and root.
func (t *tree) tree() record.Tree {
	if t.size == 0 {
		return record.Tree{Root: sha256.Sum256(nil)}
	}
	root := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		root = nodeHash(t.peaks[i], root)
	}
	return record.Tree{Size: t.size, Root: root}
}

// nodeHash is the hash of an inner node (RFC 6962, Section 2.1).
func nodeHash(l, r record.Digest) record.Digest {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}
