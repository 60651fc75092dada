package tdx_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
	"github.com/google/go-tdx-guest/verify"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A workload is what all benchmarks share: quotes of one platform whose QE
// report signatures all differ, as on real platforms.
type workload struct {
	root   *tdx.Root
	set    *tdx.Set
	at     time.Time
	quotes [][]byte
	roots  *x509.CertPool // for go-tdx-guest
	getter mapGetter      // likewise
}

var benchmarkWorkload *workload

func newWorkload(b *testing.B) *workload {
	if benchmarkWorkload != nil {
		return benchmarkWorkload
	}
	pki := tdxsim.NewPKI([]byte("benchmark"), simTime)
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		b.Fatal(err)
	}
	c, err := pki.Collateral(tdxsim.CollateralOptions{FMSPC: "90c06f000000"})
	if err != nil {
		b.Fatal(err)
	}
	w := &workload{root: root, at: simTime.Add(time.Hour), roots: certPool(b, pki), getter: newMapGetter(c)}
	if w.set, err = tdx.Compile(c, root); err != nil {
		b.Fatal(err)
	}
	pl := pki.NewPlatform(tdxsim.PlatformOptions{})
	for i := range 64 {
		q, err := pl.Quote(tdxsim.QuoteOptions{FreshQE: true, ReportData: [64]byte{byte(i)}})
		if err != nil {
			b.Fatal(err)
		}
		w.quotes = append(w.quotes, q)
	}
	benchmarkWorkload = w
	return w
}

func (w *workload) verify(b *testing.B, v *tdx.Verifier, raw []byte) {
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		b.Fatal(err)
	}
	r, err := v.Verify(q, w.set, w.at)
	if err != nil || r.Status != tdx.StatusUpToDate {
		b.Fatalf("got %+v, %v", r, err)
	}
}

// BenchmarkVerifyKnownPlatform parses and verifies quotes of a platform whose
// PCK chain is cached. Both signatures are verified for every quote.
func BenchmarkVerifyKnownPlatform(b *testing.B) {
	w := newWorkload(b)
	v := tdx.NewVerifier(w.root, 16)
	w.verify(b, v, w.quotes[0])
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.verify(b, v, w.quotes[i%len(w.quotes)])
	}
}

// BenchmarkVerifyCold parses and verifies quotes of platforms that weren't seen
// before: certificates are parsed, and their signatures verified, as well. The
// collateral is compiled.
func BenchmarkVerifyCold(b *testing.B) {
	w := newWorkload(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		w.verify(b, tdx.NewVerifier(w.root, 1), w.quotes[i%len(w.quotes)])
	}
}

// BenchmarkGoTDXGuestFull verifies quotes with go-tdx-guest, with collateral and
// CRLs from memory.
func BenchmarkGoTDXGuestFull(b *testing.B) {
	w := newWorkload(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		err := verify.RawTdxQuote(w.quotes[i%len(w.quotes)], &verify.Options{
			CheckRevocations: true, GetCollateral: true, Getter: w.getter, Now: w.at, TrustedRoots: w.roots,
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// A signed is a bare input of an ECDSA verification.
type signed struct {
	key *ecdsa.PublicKey
	sum [32]byte
	der []byte
}

func (s *signed) verify(b *testing.B) {
	if !ecdsa.VerifyASN1(s.key, s.sum[:], s.der) {
		b.Fatal("signature doesn't verify")
	}
}

// bare returns the two signatures of each quote: that of the quote, and that of
// the QE report.
func (w *workload) bare(b *testing.B) [][2]signed {
	der := func(rs []byte) []byte {
		var c cryptobyte.Builder
		c.AddASN1(cbasn1.SEQUENCE, func(c *cryptobyte.Builder) {
			c.AddASN1BigInt(new(big.Int).SetBytes(rs[:32]))
			c.AddASN1BigInt(new(big.Int).SetBytes(rs[32:]))
		})
		return c.BytesOrPanic()
	}
	var all [][2]signed
	for _, raw := range w.quotes {
		q, err := tdx.ParseQuote(raw)
		if err != nil {
			b.Fatal(err)
		}
		block, _ := pem.Decode(q.PCKChain)
		pck, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			b.Fatal(err)
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.AttestationKey...))
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, [2]signed{
			{key, sha256.Sum256(raw[:48+584]), der(q.Signature)},
			{pck.PublicKey.(*ecdsa.PublicKey), sha256.Sum256(q.QEReport), der(q.QEReportSignature)},
		})
	}
	return all
}

// BenchmarkP256VerifyOnce verifies bare signatures: keys parsed, digests
// computed, signatures encoded beforehand.
func BenchmarkP256VerifyOnce(b *testing.B) {
	all := newWorkload(b).bare(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		all[i/2%len(all)][i%2].verify(b)
	}
}

// BenchmarkP256VerifyTwice is the floor for a quote.
func BenchmarkP256VerifyTwice(b *testing.B) {
	all := newWorkload(b).bare(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		all[i%len(all)][0].verify(b)
		all[i%len(all)][1].verify(b)
	}
}

func BenchmarkParseQuote(b *testing.B) {
	w := newWorkload(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := tdx.ParseQuote(w.quotes[i%len(w.quotes)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompile(b *testing.B) {
	w := newWorkload(b)
	c := w.set.Collateral()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tdx.Compile(c, w.root); err != nil {
			b.Fatal(err)
		}
	}
}
