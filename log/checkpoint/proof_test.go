package checkpoint

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	fproof "github.com/transparency-dev/formats/proof"
)

func testProof(t testing.TB, w *world, index int, extra []byte) *Proof {
	t.Helper()
	return &Proof{Extra: extra, Index: uint64(index), Hashes: testTree(7).inclusion(index), Checkpoint: w.note(t, "a5 b6")}
}

func TestProof(t *testing.T) {
	w := newWorld(t)
	pol := mustPolicy(t, w.head+"group q 2 a b c\nquorum q\n")
	leaves := testTree(7)
	for i := range 7 {
		p := testProof(t, w, i, bytes.Repeat([]byte{byte(i)}, i*9362)) // up to 56 kB
		b := p.Bytes()
		got, err := ParseProof(b)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), b) || got.Index != p.Index || !bytes.Equal(got.Extra, p.Extra) || !slices.Equal(got.Hashes, p.Hashes) {
			t.Errorf("proof %d isn't the same after parsing", i)
		}
		c, err := got.Verify(leaves[i], pol)
		if err != nil || c.Size != 7 {
			t.Errorf("proof %d: %v", i, err)
		}
		if _, err := got.Verify(leaves[(i+1)%7], pol); !errors.Is(err, ErrBadProof) {
			t.Errorf("proof %d of another leaf: %v, want ErrBadProof", i, err)
		}
		var q *QuorumError
		if _, err := got.Verify(leaves[i], mustPolicy(t, w.head+"group q all a b c\nquorum q\n")); !errors.As(err, &q) {
			t.Errorf("proof %d under a stricter policy: %v, want a QuorumError", i, err)
		}
	}
	// A tree of one leaf has no hashes.
	one := Checkpoint{Origin: "example.com/log", Size: 1, Root: leaves[0]}
	p := &Proof{Checkpoint: mustNote(t, one.Text(), mustSign(t, w.log, one.Text(), 0))}
	if got, err := ParseProof(p.Bytes()); err != nil {
		t.Error(err)
	} else if _, err := got.Verify(leaves[0], mustPolicy(t, w.head+"quorum none\n")); err != nil {
		t.Error(err)
	}
}

func TestParseProofRefuses(t *testing.T) {
	w := newWorld(t)
	good := string(testProof(t, w, 3, []byte("extra")).Bytes())
	if _, err := ParseProof([]byte(good)); err != nil {
		t.Fatal(err) // otherwise every row below passes for the wrong reason
	}
	first := strings.Split(good, "\n")[3]
	sub := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("nothing to replace for %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, tt := range []struct{ name, text string }{
		{"empty", ""},
		{"header only", proofHeader},
		{"version 2", sub("@v1", "@v2")},
		{"CR after the header", sub("@v1\n", "@v1\r\n")},
		{"no header", sub(proofHeader, "")},
		{"empty extra line", sub("extra ZXh0cmE=", "extra ")},
		{"extra without space", sub("extra ZXh0cmE=", "extra")},
		{"extra with two spaces", sub("extra ZXh0cmE=", "extra  ZXh0cmE=")},
		{"extra twice", sub("extra ZXh0cmE=\n", "extra ZXh0cmE=\nextra ZXh0cmE=\n")},
		{"extra after the index", sub("extra ZXh0cmE=\nindex 3\n", "index 3\nextra ZXh0cmE=\n")},
		{"spare bits in extra", sub("ZXh0cmE=", "ZXh0cmF=")},
		{"no padding in extra", sub("ZXh0cmE=", "ZXh0cmE")},
		{"no index", sub("index 3\n", "")},
		{"index 03", sub("index 3", "index 03")},
		{"index +3", sub("index 3", "index +3")},
		{"index 3 and a space", sub("index 3", "index 3 ")},
		{"index twice", sub("index 3\n", "index 3\nindex 3\n")},
		{"index equals size", sub("index 3", "index 7")},
		{"index 2^63", sub("index 3", "index 9223372036854775808")},
		{"index of another depth", sub("index 3", "index 6")},
		{"one hash less", sub(first+"\n", "")},
		{"one hash more", sub(first+"\n", first+"\n"+first+"\n")},
		{"hash of 31 bytes", sub(first, base64.StdEncoding.EncodeToString(make([]byte, 31)))},
		{"hash with CR", sub(first, first[:10]+"\r"+first[10:])},
		{"space before a hash", sub(first, " "+first)},
		{"two empty lines", sub("\n\nexample.com", "\n\n\nexample.com")},
		{"no empty line", sub("\n\nexample.com", "\nexample.com")},
		{"no checkpoint", good[:strings.Index(good, "\n\n")+2]},
		{"note cut short", good[:len(good)-1]},
		{"trailing newline", good + "\n"},
		{"size 07", sub("\n7\n", "\n07\n")},
		{"too large", good[:strings.Index(good, "extra ")] + "extra " + strings.Repeat("AAAA", MaxProof/4) + good[strings.Index(good, "\nindex"):]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if p, err := ParseProof([]byte(tt.text)); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %+v, %v; want ErrMalformed", p, err)
			}
		})
	}
}

// TestProofBits flips every bit. Only those of the extra data, and bits of
// signatures that the policy doesn't know, may leave a valid proof.
func TestProofBits(t *testing.T) {
	w := newWorld(t)
	pol := mustPolicy(t, w.head+"group q 2 a b c\nquorum q\n")
	leaf := testTree(7)[3]
	good := testProof(t, w, 3, nil).Bytes()
	if p, err := ParseProof(good); err != nil {
		t.Fatal(err)
	} else if _, err := p.Verify(leaf, pol); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			bad := slices.Clone(good)
			bad[i] ^= 1 << bit
			p, err := ParseProof(bad)
			if err == nil {
				_, err = p.Verify(leaf, pol)
			}
			if err == nil {
				t.Errorf("bit %d of byte %d (%q) doesn't matter", bit, i, good[max(0, i-10):min(len(good), i+10)])
			}
		}
	}
}

func TestProofAgainstFormats(t *testing.T) {
	w := newWorld(t)
	for i, extra := range [][]byte{nil, []byte("x"), bytes.Repeat([]byte{7}, 40000)} {
		ours := testProof(t, w, i, extra)
		var theirs fproof.TLogProof
		if err := theirs.Unmarshal(ours.Bytes()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(theirs.Checkpoint, ours.Checkpoint) || theirs.Index != ours.Index || !slices.Equal(theirs.Hashes, ours.Hashes) || !bytes.Equal(theirs.ExtraData, extra) {
			t.Errorf("proof %d: they read something else", i)
		}
		if !bytes.Equal(theirs.Marshal(), ours.Bytes()) {
			t.Errorf("proof %d: they print it differently", i)
		}
	}
	// The largest leaf, which their parser refuses for its line's length.
	p := testProof(t, w, 2, bytes.Repeat([]byte{7}, 1<<16-1))
	if got, err := ParseProof(p.Bytes()); err != nil || len(got.Extra) != 1<<16-1 {
		t.Errorf("extra data of 65535 bytes: %v", err)
	}
}

func FuzzParseProof(f *testing.F) {
	w := newWorld(f)
	for i := range 7 {
		f.Add(testProof(f, w, i, bytes.Repeat([]byte{1}, i)).Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParseProof(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v isn't ErrMalformed", err)
			}
			return
		}
		if got := p.Bytes(); !bytes.Equal(got, b) {
			t.Errorf("accepted two encodings:\n%q\n%q", got, b)
		}
		var theirs fproof.TLogProof
		if err := theirs.Unmarshal(b); err == nil && (theirs.Index != p.Index || !bytes.Equal(theirs.Checkpoint, p.Checkpoint)) {
			t.Errorf("formats reads another proof: %+v, %+v", theirs, p)
		}
	})
}

func ExamplePolicy_Lint() {
	p, err := ParsePolicy([]byte("quorum none\n"))
	if err != nil {
		panic(err)
	}
	for _, w := range p.Lint() {
		fmt.Println(w)
	}
	// Output:
	// no-log: the policy lists no log, so that no checkpoint satisfies it
	// quorum-none: no cosignature is needed: the log can show everybody another tree, and no time is proven
}
