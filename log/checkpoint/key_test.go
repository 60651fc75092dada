package checkpoint

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"filippo.io/mldsa"
	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

var kinds = []Kind{Ed25519, CosignatureEd25519, CosignatureMLDSA44}

func sofa(t testing.TB) Checkpoint {
	t.Helper()
	n, err := ParseNote([]byte(sofaNote))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCheckpoint(n.Text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestSignAndVerify(t *testing.T) {
	c := sofa(t)
	for _, kind := range kinds {
		t.Run(kind.String(), func(t *testing.T) {
			k := testKey(t, kind, "example.com/k", 1)
			line, err := k.Sign(c.Text(), time.Unix(1234567890, 999))
			if err != nil {
				t.Fatal(err)
			}
			sigs, err := ParseSignatures(line)
			if err != nil {
				t.Fatal(err)
			}
			ts, err := k.Verifier().Verify(c.Text(), sigs[0])
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]uint64{true: 0, false: 1234567890}[kind == Ed25519]; ts != want {
				t.Errorf("timestamp %d, want %d", ts, want)
			}
			// Every part is signed.
			for _, edit := range []func(c *Checkpoint){
				func(c *Checkpoint) { c.Origin += "x" },
				func(c *Checkpoint) { c.Size++ },
				func(c *Checkpoint) { c.Root[31] ^= 1 },
				func(c *Checkpoint) { c.Extensions = []string{"x"} },
			} {
				d := c
				edit(&d)
				if _, err := k.Verifier().Verify(d.Text(), sigs[0]); !errors.Is(err, ErrBadSignature) {
					t.Errorf("%+v: %v, want ErrBadSignature", d, err)
				}
			}
			for i := range sigs[0].Sig {
				if i > 80 && i%97 != 0 {
					continue
				}
				bad := sigs[0]
				bad.Sig = bytes.Clone(bad.Sig)
				bad.Sig[i] ^= 1
				if _, err := k.Verifier().Verify(c.Text(), bad); !errors.Is(err, ErrBadSignature) {
					t.Errorf("byte %d flipped: %v, want ErrBadSignature", i, err)
				}
			}
			for _, bad := range [][]byte{sigs[0].Sig[1:], append(bytes.Clone(sigs[0].Sig), 0)} {
				sig := sigs[0]
				sig.Sig = bad
				if _, err := k.Verifier().Verify(c.Text(), sig); !errors.Is(err, ErrBadSignature) {
					t.Errorf("%d bytes: %v, want ErrBadSignature", len(bad), err)
				}
			}
		})
	}
}

func TestTimestamps(t *testing.T) {
	c := sofa(t)
	for _, kind := range kinds[1:] {
		k := testKey(t, kind, "example.com/k", 1)
		// A witness with a broken clock, or a signer not ours, may state any.
		at := func(ts uint64) NoteSignature {
			msg := ed25519Message(ts, c.Text())
			if kind == CosignatureMLDSA44 {
				b := append([]byte("subtree/v1\n\x00"), byte(len(k.Name())))
				b = append(b, k.Name()...)
				b = binary.BigEndian.AppendUint64(b, ts)
				b = append(b, byte(len(c.Origin)))
				b = append(b, c.Origin...)
				b = binary.BigEndian.AppendUint64(b, 0)
				b = binary.BigEndian.AppendUint64(b, c.Size)
				msg = append(b, c.Root[:]...)
			}
			line, err := k.sign(ts, msg)
			if err != nil {
				t.Fatal(err)
			}
			sigs, err := ParseSignatures(line)
			if err != nil {
				t.Fatal(err)
			}
			return sigs[0]
		}
		for _, ts := range []uint64{0, 1, 1679315147, maxTime, math.MaxInt64} {
			if got, err := k.Verifier().Verify(c.Text(), at(ts)); err != nil || got != ts {
				t.Errorf("%v at %d: %d, %v", kind, ts, got, err)
			}
		}
		for _, ts := range []uint64{1 << 63, math.MaxUint64} {
			if _, err := k.Verifier().Verify(c.Text(), at(ts)); !errors.Is(err, ErrBadSignature) {
				t.Errorf("%v at %d: %v, want ErrBadSignature", kind, ts, err)
			}
		}
		if _, err := k.Sign(c.Text(), time.Unix(0, 0)); err == nil {
			t.Errorf("%v signed at 1970", kind)
		}
		if _, err := k.Sign(c.Text(), time.Unix(-5, 0)); err == nil {
			t.Errorf("%v signed before 1970", kind)
		}
		line, err := k.Sign(c.Text(), time.Time{})
		if (err == nil) != (kind == CosignatureMLDSA44) {
			t.Errorf("%v at no time: %v", kind, err)
		}
		if err == nil {
			sigs, _ := ParseSignatures(line)
			if ts, err := k.Verifier().Verify(c.Text(), sigs[0]); ts != 0 || err != nil {
				t.Errorf("at no time: %d, %v", ts, err)
			}
		}
	}
}

func TestMLDSALimits(t *testing.T) {
	c := sofa(t)
	k := testKey(t, CosignatureMLDSA44, strings.Repeat("n", 255), 1)
	if _, err := GenerateKey(CosignatureMLDSA44, strings.Repeat("n", 256), newRand(1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("name of 256 bytes: %v", err)
	}
	if _, err := GenerateKey(CosignatureEd25519, strings.Repeat("n", 256), newRand(1)); err != nil {
		t.Errorf("Ed25519 name of 256 bytes: %v", err)
	}
	c.Origin = strings.Repeat("o", 255)
	mustSign(t, k, c.Text(), 1)
	c.Origin += "o"
	if _, err := k.Sign(c.Text(), time.Unix(1, 0)); err == nil {
		t.Error("signed an origin of 256 bytes")
	}
	c.Origin, c.Extensions = "o", []string{"x"}
	if _, err := k.Sign(c.Text(), time.Unix(1, 0)); err == nil {
		t.Error("signed extension lines that it doesn't cover")
	}
	for _, kind := range kinds[1:] {
		if _, err := testKey(t, kind, "k", 1).Sign([]byte("not a checkpoint\n"), time.Unix(1, 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: cosigned what isn't a checkpoint: %v", kind, err)
		}
	}
}

// TestAgainstFormats exchanges keys and cosignatures with
// github.com/transparency-dev/formats.
func TestAgainstFormats(t *testing.T) {
	c := sofa(t)
	for _, kind := range kinds[1:] {
		t.Run(kind.String(), func(t *testing.T) {
			ours := testKey(t, kind, "example.com/k", 1)
			text, err := ours.PrivateText()
			if err != nil {
				t.Fatal(err)
			}
			signer, err := fnote.NewSignerForCosignatureV1(text)
			if err != nil {
				t.Fatal(err)
			}
			if signer.Name() != ours.Name() || signer.KeyHash() != ours.KeyID() {
				t.Errorf("they call it %s+%08x, we %s+%08x", signer.Name(), signer.KeyHash(), ours.Name(), ours.KeyID())
			}
			verifier, err := fnote.NewVerifierForCosignatureV1(ours.VKey())
			if err != nil {
				t.Fatal(err)
			}
			mine := mustNote(t, c.Text(), mustSign(t, ours, c.Text(), 1700000000))
			opened, err := note.Open(mine, note.VerifierList(verifier))
			if err != nil {
				t.Fatalf("they refuse ours: %v", err)
			}
			if at, err := fnote.CoSigV1Timestamp(opened.Sigs[0]); err != nil || at.Unix() != 1700000000 {
				t.Errorf("they read time %v, %v", at, err)
			}
			theirs, err := note.Sign(&note.Note{Text: string(c.Text())}, signer)
			if err != nil {
				t.Fatal(err)
			}
			n, err := ParseNote(theirs)
			if err != nil {
				t.Fatal(err)
			}
			if ts, err := ours.Verifier().Verify(n.Text, n.Signatures[0]); err != nil || ts == 0 {
				t.Errorf("we refuse theirs: %d, %v", ts, err)
			}
		})
	}
	skey, vkey, err := fnote.GenerateMLDSAKey("example.com/theirs")
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseSigningKey(skey + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if k.VKey() != vkey {
		t.Error("their ML-DSA key has another vkey here")
	}
	// Subtrees, for which they have an interface too.
	line, err := k.SignSubtree("o", 8, 13, c.Root)
	if err != nil {
		t.Fatal(err)
	}
	sigs, _ := ParseSignatures(line)
	v, err := fnote.NewMLDSAVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if !v.VerifySubtree(0, "o", 8, 13, c.Root[:], sigs[0].Sig) {
		t.Error("they refuse our subtree cosignature")
	}
	if err := k.Verifier().VerifySubtree("o", 8, 13, c.Root, sigs[0]); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		k.Verifier().VerifySubtree("p", 8, 13, c.Root, sigs[0]),
		k.Verifier().VerifySubtree("o", 0, 13, c.Root, sigs[0]),
		k.Verifier().VerifySubtree("o", 8, 12, c.Root, sigs[0]),
		k.Verifier().VerifySubtree("o", 8, 13, [32]byte{}, sigs[0]),
	} {
		if !errors.Is(err, ErrBadSignature) {
			t.Errorf("another subtree: %v, want ErrBadSignature", err)
		}
	}
	if _, err := testKey(t, CosignatureEd25519, "k", 1).SignSubtree("o", 8, 13, c.Root); err == nil {
		t.Error("an Ed25519 key signed a subtree")
	}
}

func TestParseVKeyRefuses(t *testing.T) {
	ml := testKey(t, CosignatureMLDSA44, "example.com/foo", 1).VKey()
	vkey := func(kind Kind, pub []byte) string {
		return (&VerifierKey{name: "n", kind: kind, pub: pub}).String()
	}
	for _, tt := range []struct{ name, vkey string }{
		{"empty", ""},
		{"name only", "example.com/foo"},
		{"no key", "example.com/foo+530d903a"},
		{"empty key", "example.com/foo+530d903a+"},
		{"another name", strings.Replace(specVKey, "foo", "bar", 1)},
		{"no name", strings.TrimPrefix(specVKey, "example.com/foo")},
		{"another ID", strings.Replace(specVKey, "530d903a", "530d903b", 1)},
		{"upper case ID", strings.Replace(specVKey, "530d903a", "530D903A", 1)},
		{"long ID", strings.Replace(specVKey, "530d903a", "0530d903a", 1)},
		{"space", specVKey + " "},
		{"newline", specVKey + "\n"},
		{"newline in the key", specVKey[:50] + "\n" + specVKey[50:]},
		{"spare bits", specVKey[:len(specVKey)-1] + "l"},
		{"ECDSA", vkey(2, make([]byte, 91))},
		{"RFC 6962", vkey(5, make([]byte, 91))},
		{"type ff", vkey(0xff, make([]byte, 32))},
		{"31 bytes", vkey(1, make([]byte, 31))},
		{"33 bytes", vkey(4, make([]byte, 33))},
		{"Ed25519 size as ML-DSA", vkey(6, make([]byte, 32))},
		{"ML-DSA cut short", ml[:len(ml)-4]},
		{"signing key", privatePrefix + specVKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if k, err := ParseVKey(tt.vkey); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, %v; want ErrMalformed", k, err)
			}
		})
	}
	if k, err := ParseVKey(ml); err != nil || k.String() != ml {
		t.Errorf("ML-DSA vkey: %v", err)
	}
}

func TestSigningKeys(t *testing.T) {
	for _, kind := range kinds {
		k := testKey(t, kind, "example.com/k", 7)
		text, err := k.PrivateText()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSigningKey(text + "\n")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := again.PrivateText(); got != text || again.VKey() != k.VKey() {
			t.Errorf("%v: another key after parsing", kind)
		}
		secret := base64.StdEncoding.EncodeToString(append([]byte{byte(kind)}, k.seed()...))[4:24]
		if !strings.Contains(text, secret) {
			t.Fatal("the test doesn't know the secret") // else it passes for the wrong reason
		}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			out := fmt.Sprintf(verb, k)
			if strings.Contains(out, secret) || strings.Contains(out, fmt.Sprintf("%x", k.seed()[:4])) || !strings.Contains(out, "example.com/k+") {
				t.Errorf("%s prints %.200s", verb, out)
			}
		}
		for name, bad := range map[string]string{
			"no prefix":     strings.TrimPrefix(text, "PRIVATE+"),
			"two newlines":  text + "\n\n",
			"CR":            text + "\r\n",
			"other name":    strings.Replace(text, "/k+", "/l+", 1),
			"other ID":      strings.Replace(text, fmt.Sprintf("%08x", k.KeyID()), "00000000", 1),
			"other key":     strings.Replace(text, secret, strings.Repeat("A", 20), 1),
			"cut short":     text[:len(text)-4],
			"trailing data": text + "AAAA",
			"a vkey":        k.VKey(),
		} {
			_, err := ParseSigningKey(bad)
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v, %s: %v, want ErrMalformed", kind, name, err)
			} else if strings.Contains(err.Error(), secret) {
				t.Errorf("%v, %s: the error holds the key: %v", kind, name, err)
			}
		}
		outside, err := NewSigningKey(kind, "example.com/k", k.signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := outside.PrivateText(); err == nil {
			t.Error("printed a key that is elsewhere")
		}
		if outside.VKey() != k.VKey() {
			t.Error("another vkey for the same signer")
		}
	}
	ed := ed25519.NewKeyFromSeed(make([]byte, 32))
	if _, err := NewSigningKey(CosignatureMLDSA44, "k", ed); !errors.Is(err, ErrMalformed) {
		t.Errorf("Ed25519 key as ML-DSA: %v", err)
	}
	ml, err := mldsa.GenerateKey(mldsa.MLDSA44())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigningKey(Ed25519, "k", ml); !errors.Is(err, ErrMalformed) {
		t.Errorf("ML-DSA key as Ed25519: %v", err)
	}
	if _, err := GenerateKey(2, "k", newRand(1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("ECDSA: %v", err)
	}
	if _, err := GenerateKey(Ed25519, "k", bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("made a key from 31 bytes")
	}
}

func FuzzParseVKey(f *testing.F) {
	f.Add(specVKey)
	for _, kind := range kinds {
		f.Add(testKey(f, kind, "example.com/k", 1).VKey())
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseVKey(s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v isn't ErrMalformed", err)
			}
			return
		}
		if k.String() != s {
			t.Errorf("accepted two encodings:\n%s\n%s", k, s)
		}
	})
}

func FuzzParseSigningKey(f *testing.F) {
	for _, kind := range kinds {
		s, err := testKey(f, kind, "example.com/k", 1).PrivateText()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseSigningKey(s)
		if err != nil {
			return
		}
		if got, err := k.PrivateText(); err != nil || got != strings.TrimSuffix(s, "\n") {
			t.Errorf("accepted two encodings of %v", k)
		}
	})
}
