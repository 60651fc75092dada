package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
)

// testRand is a reader of reproducible bytes, for keys.
type testRand struct{ *rand.ChaCha8 }

func newRand(seed byte) testRand {
	return testRand{rand.NewChaCha8([32]byte{seed})}
}

func testKey(t testing.TB, kind Kind, name string, seed byte) *SigningKey {
	t.Helper()
	k, err := GenerateKey(kind, name, newRand(seed))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustSign(t testing.TB, k *SigningKey, text []byte, at int64) []byte {
	t.Helper()
	line, err := k.Sign(text, time.Unix(at, 0))
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func mustNote(t testing.TB, text []byte, lines ...[]byte) []byte {
	t.Helper()
	n, err := Sign(text, lines...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustPolicy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A tree is an RFC 6962 tree, computed by definition.
type tree [][32]byte

func testTree(n int) tree {
	t := make(tree, n)
	for i := range t {
		t[i] = sha256.Sum256(binary.BigEndian.AppendUint64([]byte{0}, uint64(i)))
	}
	return t
}

func (t tree) root() [32]byte {
	switch len(t) {
	case 0:
		return EmptyRoot()
	case 1:
		return t[0]
	}
	k := split2(len(t))
	l, r := t[:k].root(), t[k:].root()
	return sha256.Sum256(slicesConcat([]byte{1}, l[:], r[:]))
}

func slicesConcat(bs ...[]byte) []byte { return bytes.Join(bs, nil) }

// split2 is the largest power of two smaller than n.
func split2(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

// inclusion is PATH of RFC 6962, section 2.1.1.
func (t tree) inclusion(i int) [][32]byte {
	if len(t) == 1 {
		return nil
	}
	k := split2(len(t))
	if i < k {
		return append(t[:k].inclusion(i), t[k:].root())
	}
	return append(t[k:].inclusion(i-k), t[:k].root())
}

// consistency is SUBPROOF of RFC 6962, section 2.1.2.
func (t tree) consistency(m int, known bool) [][32]byte {
	if m == 0 {
		return nil
	}
	if m == len(t) {
		if known {
			return nil
		}
		return [][32]byte{t.root()}
	}
	k := split2(len(t))
	if m <= k {
		return append(t[:k].consistency(m, known), t[k:].root())
	}
	return append(t[k:].consistency(m-k, false), t[:k].root())
}

// subtree is SUBTREE_SUBPROOF of draft-ietf-plants-merkle-tree-certs-03,
// section 4.4.1.
func (t tree) subtree(start, end int, known bool) [][32]byte {
	if start == 0 && end == len(t) {
		if known {
			return nil
		}
		return [][32]byte{t.root()}
	}
	k := split2(len(t))
	switch {
	case end <= k:
		return append(t[:k].subtree(start, end, known), t[k:].root())
	case k <= start:
		return append(t[k:].subtree(start-k, end-k, known), t[:k].root())
	default:
		return append(t[k:].subtree(0, end-k, false), t[:k].root())
	}
}
