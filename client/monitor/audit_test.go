package monitor

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"io"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
)

func sha256Sum(s string) [16]byte {
	h := sha256.Sum256([]byte(s))
	return [16]byte(h[:16])
}

func gunzip(t testing.TB, b []byte) []byte {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	b, err = io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// An honest log gives no finding, under every kind of quorum: else the tests of lies pass for the wrong reason.
func TestHonest(t *testing.T) {
	for _, o := range []bundletest.LogOptions{witnesses, {}, {Witnesses: 3, Threshold: 2, MLDSA: true}} {
		l := newLab(t, o)
		l.open()
		l.publish()
		for range 3 {
			l.session()
			l.publish()
		}
		l.fill(300)
		l.session()
		l.publish()
		l.wantNone()
		size, root, note := l.m.Verified()
		if want := l.Head(l.Size()); size != want.Size || root != want.Root || !bytes.Equal(note, l.Published()) {
			t.Errorf("verified size %d, root %x; want %d, %x", size, root, want.Size, want.Root)
		}
		for _, n := range []uint64{0, 1, 100, 255, 256, 257, size} {
			if got, err := l.m.RootAt(n); err != nil || got != l.Head(n).Root {
				t.Errorf("RootAt(%d) = %x, %v; want %x", n, got, err, l.Head(n).Root)
			}
		}
		if s := l.m.Status(); s.Verified != size || s.Lag != 0 || s.Halted != "" || s.Error != "" {
			t.Errorf("status %+v", s)
		}
	}
}

func sha256Of(b []byte) [32]byte { return sha256.Sum256(b) }
