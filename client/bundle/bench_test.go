package bundle_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
)

// benchBundle returns the bundle of a session with two records (start and final), their release and key, one set of
// collateral and three time leaves, under three witnesses: what an auditor gets for the simplest session.
func benchBundle(b *testing.B) (bundle.Options, []byte) {
	s := bundletest.NewSession(b, witnessed, bundletest.Steps{NoModelRun: true})
	return s.Options(), mustBytes(b, s.Bundle())
}

// BenchmarkCheckWarm checks a bundle with a Checker that knows the collateral, the platform and the notes.
func BenchmarkCheckWarm(b *testing.B) {
	o, file := benchBundle(b)
	c, err := bundle.NewChecker(o)
	if err != nil {
		b.Fatal(err)
	}
	bun, err := bundle.Parse(file)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if f, err := c.Check(bun); err != nil || !f.Allowed() {
			b.Fatal(f, err)
		}
	}
}

// BenchmarkCheckCold checks a bundle with a Checker that knows nothing.
func BenchmarkCheckCold(b *testing.B) {
	o, file := benchBundle(b)
	bun, err := bundle.Parse(file)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if f, err := bundle.Check(bun, o); err != nil || !f.Allowed() {
			b.Fatal(f, err)
		}
	}
}

// BenchmarkParse reads the file, which comes before both.
func BenchmarkParse(b *testing.B) {
	_, file := benchBundle(b)
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		if _, err := bundle.Parse(file); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBareCryptoWarm is the floor of BenchmarkCheckWarm: for each of two records, two P-256 verifications (QE
// report and quote) and one of Ed25519 (envelope).
func BenchmarkBareCryptoWarm(b *testing.B) {
	bareCrypto(b, 4, 2)
}

// BenchmarkBareCryptoCold is the floor of BenchmarkCheckCold: besides, P-256 for the PCK chain (3), the TCB signing chain
// (2), TCB info, QE identity and two CRLs (4); and Ed25519 for four notes with a log's and three witnesses' signatures
// (16), and the release's and its key's (2).
func BenchmarkBareCryptoCold(b *testing.B) {
	bareCrypto(b, 4+9, 2+18)
}

func bareCrypto(b *testing.B, p256, ed int) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("digest"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	msg := make([]byte, 2048)
	edSig := ed25519.Sign(priv, msg)
	for b.Loop() {
		for range p256 {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) {
				b.Fatal("no")
			}
		}
		for range ed {
			if !ed25519.Verify(pub, msg, edSig) {
				b.Fatal("no")
			}
		}
	}
}
