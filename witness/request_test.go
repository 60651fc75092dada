package witness

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

func FuzzParseAddRequest(f *testing.F) {
	l := newTestLog(f, "log.example/a", 20)
	f.Add(l.request(0, 0))
	f.Add(l.request(0, 5))
	f.Add(l.request(5, 5))
	f.Add(l.request(7, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseAddRequest(b)
		if err != nil {
			return
		}
		if got := r.bytes(); !bytes.Equal(got, b) {
			t.Errorf("accepted two encodings:\n%q\n%q", got, b)
		}
		if len(r.proof) > maxProof {
			t.Errorf("%d proof lines", len(r.proof))
		}
	})
}

func FuzzParseSubtreeRequest(f *testing.F) {
	l := newTestLog(f, "log.example/a", 14)
	for _, r := range []string{"0 14", "8 13", "13 14"} {
		f.Add(slices.Concat([]byte("subtree "+r+"\n"+b64([32]byte{1})+"\n"+b64([32]byte{2})+"\n\n"), l.note(14)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseSubtreeRequest(b)
		if err != nil {
			return
		}
		got := fmt.Appendf(nil, "subtree %d %d\n%s\n", r.start, r.end, b64(r.hash))
		got = append(appendProof(got, r.proof), r.note.Bytes()...)
		if !bytes.Equal(got, b) {
			t.Errorf("accepted two encodings:\n%q\n%q", got, b)
		}
		if r.start >= r.end || r.end > r.checkpoint.Size {
			t.Errorf("subtree [%d, %d) of %d", r.start, r.end, r.checkpoint.Size)
		}
	})
}

// FuzzAddCheckpoint sends mutated requests to a witness: none may make it
// cosign anything but the log's own tree.
func FuzzAddCheckpoint(f *testing.F) {
	l := newTestLog(f, "log.example/a", 20)
	fork := l.fork(5).grow(15, "fork")
	fork.key = testKey(f, 1, l.origin, 66) // not a key that the witness knows
	for _, b := range [][]byte{l.request(0, 5), l.request(7, 20), l.request(7, 7), fork.request(7, 20), fork.request(7, 7)} {
		f.Add(b)
	}
	w, err := Open(testConfig(f, l))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { w.Close() })
	if _, err := w.addCheckpoint(f.Context(), l.request(0, 7)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := w.lookup(l.origin).head.Load()
		_, err := w.addCheckpoint(t.Context(), b)
		after := w.lookup(l.origin).head.Load()
		if after.size < before.size || after.root != l.checkpoint(int64(after.size)).Root {
			t.Errorf("%v: from size %d to %d, root %x", err, before.size, after.size, after.root)
		}
		if err != nil && *after != *before {
			t.Errorf("refused with %v, but changed", err)
		}
	})
}
