package tdxsim

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tdx-guest/verify"
)

var testTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// handlerGetter has go-tdx-guest ask a PCS without a network.
type handlerGetter struct{ h http.Handler }

func (g handlerGetter) Get(u string) (map[string][]string, []byte, error) {
	parsed, err := url.Parse(u)
	if err != nil {
		return nil, nil, err
	}
	w := httptest.NewRecorder()
	g.h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, parsed.RequestURI(), nil))
	if w.Code != http.StatusOK {
		return nil, nil, fmt.Errorf("%s: status %d", u, w.Code)
	}
	h := make(map[string][]string)
	for k, v := range w.Header() {
		h[http.CanonicalHeaderKey(k)] = v // as an HTTP client would
	}
	return h, w.Body.Bytes(), nil
}

// TestGoTDXGuest checks quotes, collateral and service against code that isn't
// ours: a wrong offset, size, extension, header, or signature in what we make
// would make it fail. That code (v0.3.1) knows no Processor CA and no version 5,
// and wants the FMSPC in lower case.
func TestGoTDXGuest(t *testing.T) {
	pki := NewPKI([]byte("go-tdx-guest"), testTime)
	roots := x509.NewCertPool()
	root, err := x509.ParseCertificate(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(root)
	lower := CollateralOptions{FMSPC: strings.ToLower(DefaultFMSPC)}
	pcs := pki.PCS(PCSOptions{Sets: []CollateralOptions{lower}})
	check := func(q []byte) error {
		return verify.RawTdxQuote(q, &verify.Options{
			CheckRevocations: true, GetCollateral: true,
			Getter: handlerGetter{pcs}, Now: testTime.Add(time.Hour), TrustedRoots: roots,
		})
	}
	pl := pki.NewPlatform(PlatformOptions{Name: "a"})
	for _, fresh := range []bool{false, true} {
		q, err := pl.Quote(QuoteOptions{ReportData: [64]byte{1, 2, 3}, FreshQE: fresh})
		if err != nil {
			t.Fatal(err)
		}
		if err := check(q); err != nil {
			t.Errorf("fresh %v: %v", fresh, err)
		}
		q[200] ^= 1
		if err := check(q); err == nil {
			t.Errorf("fresh %v: a changed quote is accepted", fresh)
		}
	}
	if n := pcs.Requests("/tdx/certification/v4/tcb"); n != 4 {
		t.Errorf("%d requests for TCB info, want one for each quote", n)
	}

	lower.PCKCRL.Revoked = append(lower.PCKCRL.Revoked, pl.PCKSerial())
	pcs.Swap(lower)
	q, err := pl.Quote(QuoteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := check(q); err == nil {
		t.Error("a revoked platform is accepted")
	}
}

func TestDeterministic(t *testing.T) {
	make := func(seed string) [][]byte {
		pki := NewPKI([]byte(seed), testTime)
		q, err := pki.NewPlatform(PlatformOptions{Name: "a"}).Quote(QuoteOptions{Version: 5, Body: 3})
		if err != nil {
			t.Fatal(err)
		}
		c, err := pki.Collateral(CollateralOptions{})
		if err != nil {
			t.Fatal(err)
		}
		parts := c.Components()
		return append(parts[:], q)
	}
	a, b, other := make("seed"), make("seed"), make("other seed")
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			t.Errorf("part %d differs between two runs with one seed", i)
		}
		if bytes.Equal(a[i], other[i]) {
			t.Errorf("part %d doesn't depend on the seed", i)
		}
	}
}

func BenchmarkQuote(b *testing.B) {
	pl := NewPKI([]byte("bench"), testTime).NewPlatform(PlatformOptions{})
	for _, o := range []struct {
		name string
		QuoteOptions
	}{
		{"v4", QuoteOptions{}},
		{"v5-body3", QuoteOptions{Version: 5, Body: 3}},
		{"v4-fresh-qe", QuoteOptions{FreshQE: true}},
	} {
		b.Run(o.name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := pl.Quote(o.QuoteOptions); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "quotes/s")
		})
	}
}
