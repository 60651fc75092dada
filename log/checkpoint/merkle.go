package checkpoint

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// VerifyInclusion verifies an RFC 6962 inclusion proof, ordered from the leaf's
// sibling to the root's child, of the leaf at index in the tree of the given
// size and root. It needs index < size <= [MaxSize], and exactly as many hashes
// as the tree calls for. The error wraps [ErrBadProof].
func VerifyInclusion(leafHash, root [32]byte, index, size uint64, hashes [][32]byte) error {
	if size > MaxSize || index >= size {
		return fmt.Errorf("%w: index %d in a tree of size %d", ErrBadProof, index, size)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leafHash[:], slices2(hashes), root[:]); err != nil {
		return inclusionError(err, "inclusion", index, size)
	}
	return nil
}

// VerifyConsistency verifies an RFC 6962 consistency proof between the trees of
// two sizes and roots. It needs oldSize <= newSize <= [MaxSize], and exactly as
// many hashes as the trees call for: none if oldSize is 0 (when oldRoot must be
// [EmptyRoot]) or equals newSize (when the roots must be equal). The error
// wraps [ErrBadProof].
func VerifyConsistency(oldRoot, newRoot [32]byte, oldSize, newSize uint64, hashes [][32]byte) error {
	if newSize > MaxSize || oldSize > newSize {
		return fmt.Errorf("%w: consistency of size %d with size %d", ErrBadProof, oldSize, newSize)
	}
	if oldSize == 0 && oldRoot != EmptyRoot() {
		return fmt.Errorf("%w: the root of size 0 isn't that of the empty tree", ErrBadProof)
	}
	if oldSize == 0 {
		// Later versions of the library refuse this as meaningless; c2sp.org/tlog-witness defines it:
		// "If the old size is zero, the consistency proof MUST be empty".
		if len(hashes) != 0 {
			return fmt.Errorf("%w: %d hashes from the empty tree, want none", ErrBadProof, len(hashes))
		}
		if newSize == 0 && newRoot != EmptyRoot() {
			return fmt.Errorf("%w: the root of size 0 isn't that of the empty tree", ErrBadProof)
		}
		return nil
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, oldSize, newSize, slices2(hashes), oldRoot[:], newRoot[:]); err != nil {
		return inclusionError(err, "consistency", oldSize, newSize)
	}
	return nil
}

// ProvesFork reports whether hashes prove that the tree of the size newSize and
// the given root does not continue the tree of the size oldSize: either the
// sizes are equal and the roots aren't, or the hashes are a consistency proof
// from another root of size oldSize. If a log signed both trees, it forked.
//
// A proof that fails otherwise proves nothing: whoever sent it may have made a
// mistake. If oldSize is a power of two, proofs don't tell which root they are
// from, and ProvesFork is false for larger trees.
func ProvesFork(oldRoot, newRoot [32]byte, oldSize, newSize uint64, hashes [][32]byte) bool {
	if oldSize == newSize {
		return oldRoot != newRoot
	}
	if oldSize == 0 || oldSize > newSize || newSize > MaxSize {
		return false
	}
	old, tree, ok := rebuildSubtree(0, oldSize, newSize, &oldRoot, hashes)
	return ok && tree == newRoot && old != oldRoot
}

func inclusionError(err error, what string, a, b uint64) error {
	if _, ok := err.(proof.RootMismatchError); ok { // prints 64 decimal numbers
		return fmt.Errorf("%w: %s (%d, %d): the hashes lead to another root", ErrBadProof, what, a, b)
	}
	return fmt.Errorf("%w: %s (%d, %d): %v", ErrBadProof, what, a, b, err)
}

func slices2(hashes [][32]byte) [][]byte {
	s := make([][]byte, len(hashes))
	for i := range hashes {
		s[i] = hashes[i][:]
	}
	return s
}

// inclusionProofLen returns the number of hashes in an inclusion proof for
// index < size: one for each level on which the paths to index and to the last
// leaf share a node only at its parent or above, and one for each complete
// subtree left of there.
func inclusionProofLen(index, size uint64) int {
	inner := bits.Len64(index ^ (size - 1))
	return inner + bits.OnesCount64(index>>inner)
}

// ValidSubtree reports whether [start, end) is a subtree in the sense of
// draft-ietf-plants-merkle-tree-certs-03, section 4.1: start < end <= [MaxSize],
// and start is a multiple of the smallest power of two that is >= end - start.
func ValidSubtree(start, end uint64) bool {
	if start >= end || end > MaxSize {
		return false
	}
	ceil := uint64(1) << bits.Len64(end-start-1)
	return start%ceil == 0
}

// VerifySubtreeConsistency verifies that the subtree [start, end), which must
// be valid ([ValidSubtree]), with the given hash, is part of the tree of the
// given size and root (draft-ietf-plants-merkle-tree-certs-03, section 4.4).
// The error wraps [ErrBadProof].
func VerifySubtreeConsistency(start, end, size uint64, hash, root [32]byte, hashes [][32]byte) error {
	if !ValidSubtree(start, end) || end > size || size > MaxSize {
		return fmt.Errorf("%w: subtree [%d, %d) of size %d", ErrBadProof, start, end, size)
	}
	s, r, ok := rebuildSubtree(start, end, size, &hash, hashes)
	if !ok {
		return fmt.Errorf("%w: subtree [%d, %d) of size %d: wrong number of hashes, %d", ErrBadProof, start, end, size, len(hashes))
	}
	if s != hash || r != root {
		return fmt.Errorf("%w: subtree [%d, %d) of size %d: the hashes lead to another root", ErrBadProof, start, end, size)
	}
	return nil
}

// rebuildSubtree computes the hashes of the subtree [start, end) and of the
// tree of n leaves around it from a proof. It follows the definition of
// SUBTREE_SUBPROOF, by which proofs are made, case by case; known is the
// subtree's hash where that definition's flag is true, and nil elsewhere. The
// recursion halves n.
func rebuildSubtree(start, end, n uint64, known *[32]byte, proof [][32]byte) (subtree, tree [32]byte, ok bool) {
	if start == 0 && end == n {
		switch {
		case known != nil && len(proof) == 0:
			return *known, *known, true
		case known == nil && len(proof) == 1:
			return proof[0], proof[0], true
		}
		return subtree, tree, false
	}
	if len(proof) == 0 {
		return subtree, tree, false
	}
	rest, last := proof[:len(proof)-1], proof[len(proof)-1]
	k := uint64(1) << (bits.Len64(n-1) - 1) // the largest power of two below n
	switch {
	case end <= k:
		subtree, tree, ok = rebuildSubtree(start, end, k, known, rest)
		return subtree, hashChildren(tree, last), ok
	case k <= start:
		subtree, tree, ok = rebuildSubtree(start-k, end-k, n-k, known, rest)
		return subtree, hashChildren(last, tree), ok
	default: // start < k < end: since the subtree is valid, start is 0
		subtree, tree, ok = rebuildSubtree(0, end-k, n-k, nil, rest)
		return hashChildren(last, subtree), hashChildren(last, tree), ok
	}
}

func hashChildren(l, r [32]byte) [32]byte {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}
