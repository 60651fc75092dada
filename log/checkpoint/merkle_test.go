package checkpoint

import (
	"errors"
	"math"
	"testing"
)

// TestMerkleExhaustively tries every proof of trees up to 34 leaves, and checks
// that it proves nothing else.
func TestMerkleExhaustively(t *testing.T) {
	const most = 34
	all := testTree(most)
	roots := make([][32]byte, most+1)
	for n := range roots {
		roots[n] = all[:n].root()
	}
	bad := func(err error) bool { return errors.Is(err, ErrBadProof) }
	flip := func(h [][32]byte, i int) [][32]byte {
		h = append([][32]byte(nil), h...)
		h[i][7] ^= 4
		return h
	}
	for n := 1; n <= most; n++ {
		size, root := uint64(n), roots[n]
		for i := range n {
			index, proof := uint64(i), all[:n].inclusion(i)
			if len(proof) != inclusionProofLen(index, size) {
				t.Errorf("inclusion (%d, %d): %d hashes, computed %d", i, n, len(proof), inclusionProofLen(index, size))
			}
			if err := VerifyInclusion(all[i], root, index, size, proof); err != nil {
				t.Error(err)
			}
			if n > 1 && !bad(VerifyInclusion(all[i], root, (index+1)%size, size, proof)) {
				t.Errorf("inclusion (%d, %d) proves the next index", i, n)
			}
			if !bad(VerifyInclusion(all[i], root, index, size, append(proof[:len(proof):len(proof)], root))) {
				t.Errorf("inclusion (%d, %d) with one more hash", i, n)
			}
			if len(proof) > 0 && (!bad(VerifyInclusion(all[i], root, index, size, proof[1:])) ||
				!bad(VerifyInclusion(all[i], root, index, size, flip(proof, n%len(proof))))) {
				t.Errorf("inclusion (%d, %d) without or with another hash", i, n)
			}
			if !bad(VerifyInclusion(all[i], root, size, size, proof)) {
				t.Errorf("inclusion of index %d in size %d", n, n)
			}
		}
		for m := 0; m <= n; m++ {
			old, proof := uint64(m), all[:n].consistency(m, true)
			if err := VerifyConsistency(roots[m], root, old, size, proof); err != nil {
				t.Error(err)
			}
			if m > 0 && m < n {
				// A log whose first leaf differs forks at every size, which its
				// own proofs show unless they leave out the old root.
				fork := append(tree(nil), all[:n]...)
				fork[0][0] ^= 1
				if got, want := ProvesFork(roots[m], fork.root(), old, size, fork.consistency(m, true)), m&(m-1) != 0; got != want {
					t.Errorf("fork (%d, %d): %v, want %v", m, n, got, want)
				}
				if ProvesFork(roots[m], root, old, size, proof) || ProvesFork(roots[m], fork.root(), old, size, proof) || ProvesFork(roots[m], root, old, size, nil) {
					t.Errorf("fork (%d, %d) proven by consistency or by garbage", m, n)
				}
			}
			other := roots[m]
			other[0] ^= 1
			if m > 0 && !ProvesFork(other, roots[m], old, old, nil) {
				t.Errorf("two roots of size %d are no fork", m)
			}
			if !bad(VerifyConsistency(other, root, old, size, proof)) {
				t.Errorf("consistency (%d, %d) of another old root", m, n)
			}
			other = root
			other[0] ^= 1
			if m > 0 && !bad(VerifyConsistency(roots[m], other, old, size, proof)) {
				t.Errorf("consistency (%d, %d) of another new root", m, n)
			}
			if !bad(VerifyConsistency(roots[m], root, old, size, append(proof[:len(proof):len(proof)], root))) {
				t.Errorf("consistency (%d, %d) with one more hash", m, n)
			}
			if len(proof) > 0 && (!bad(VerifyConsistency(roots[m], root, old, size, proof[1:])) ||
				!bad(VerifyConsistency(roots[m], root, old, size, flip(proof, n%len(proof))))) {
				t.Errorf("consistency (%d, %d) without or with another hash", m, n)
			}
		}
		for start := range n {
			for end := start + 1; end <= n; end++ {
				s, e := uint64(start), uint64(end)
				ceil := 1
				for ceil < end-start {
					ceil *= 2
				}
				if got, want := ValidSubtree(s, e), start%ceil == 0; got != want {
					t.Fatalf("ValidSubtree(%d, %d) = %v, want %v", start, end, got, want)
				}
				hash := all[start:end].root()
				if !ValidSubtree(s, e) {
					if !bad(VerifySubtreeConsistency(s, e, size, hash, root, nil)) {
						t.Errorf("proved the invalid subtree [%d, %d)", start, end)
					}
					continue
				}
				proof := all[:n].subtree(start, end, true)
				if err := VerifySubtreeConsistency(s, e, size, hash, root, proof); err != nil {
					t.Error(err)
				}
				if !bad(VerifySubtreeConsistency(s, e, size, root2(hash), root, proof)) {
					t.Errorf("subtree [%d, %d) of %d: another hash", start, end, n)
				}
				if !bad(VerifySubtreeConsistency(s, e, size, hash, root2(root), proof)) {
					t.Errorf("subtree [%d, %d) of %d: another root", start, end, n)
				}
				if !bad(VerifySubtreeConsistency(s, e, size, hash, root, append(proof[:len(proof):len(proof)], root))) {
					t.Errorf("subtree [%d, %d) of %d: one more hash", start, end, n)
				}
				if len(proof) > 0 && (!bad(VerifySubtreeConsistency(s, e, size, hash, root, proof[1:])) ||
					!bad(VerifySubtreeConsistency(s, e, size, hash, root, flip(proof, n%len(proof))))) {
					t.Errorf("subtree [%d, %d) of %d: without or with another hash", start, end, n)
				}
			}
		}
	}
}

func root2(h [32]byte) [32]byte { h[0] ^= 1; return h }

func TestMerkleBounds(t *testing.T) {
	var h [32]byte
	for _, err := range []error{
		VerifyInclusion(h, h, 0, 0, nil),
		VerifyInclusion(h, h, 0, 1<<63, nil),
		VerifyInclusion(h, h, math.MaxUint64, math.MaxUint64, nil),
		VerifyConsistency(h, h, 0, 1, nil), // the old root isn't EmptyRoot
		VerifyConsistency(EmptyRoot(), h, 0, 1, make([][32]byte, 1)),
		VerifyConsistency(h, h, 2, 1, nil),
		VerifyConsistency(h, h, 1<<63, 1<<63, nil),
		VerifyConsistency(h, h, 1, math.MaxInt64, make([][32]byte, 1000)),
		VerifySubtreeConsistency(0, 0, 1, h, h, nil),
		VerifySubtreeConsistency(0, 2, 1, h, h, nil),
		VerifySubtreeConsistency(0, 1<<63, 1<<63, h, h, nil),
		VerifySubtreeConsistency(1<<62, 1<<62+1, math.MaxInt64, h, h, make([][32]byte, 1000)),
	} {
		if !errors.Is(err, ErrBadProof) {
			t.Errorf("%v, want ErrBadProof", err)
		}
	}
}
