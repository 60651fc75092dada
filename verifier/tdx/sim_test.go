package tdx_test

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// simTime is when tdxsim's collateral is issued.
var simTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// A scenario is a platform, collateral, a TD and a time. The zero value but for
// pki is one that is up to date.
type scenario struct {
	pki        *tdxsim.PKI
	platform   tdxsim.PlatformOptions
	collateral tdxsim.CollateralOptions
	quote      tdxsim.QuoteOptions
	at         time.Time // an hour after simTime by default
}

var simPKI = tdxsim.NewPKI([]byte("verifier/tdx"), simTime)

func newScenario() *scenario {
	return &scenario{pki: simPKI, at: simTime.Add(time.Hour)}
}

// make makes the quote, the collateral and the root.
func (s *scenario) make(tb testing.TB) ([]byte, *tdx.Collateral, *tdx.Root) {
	tb.Helper()
	q, err := s.pki.NewPlatform(s.platform).Quote(s.quote)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := s.pki.Collateral(s.collateral)
	if err != nil {
		tb.Fatal(err)
	}
	root, err := tdx.ParseRoot(s.pki.Root())
	if err != nil {
		tb.Fatal(err)
	}
	return q, c, root
}

// verify makes everything, and verifies it with nothing cached.
func (s *scenario) verify(tb testing.TB) (*tdx.Result, error) {
	tb.Helper()
	raw, c, root := s.make(tb)
	return verifyAll(raw, c, root, s.at)
}

func verifyAll(raw []byte, c *tdx.Collateral, root *tdx.Root, at time.Time) (*tdx.Result, error) {
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		return nil, err
	}
	set, err := tdx.Compile(c, root)
	if err != nil {
		return nil, err
	}
	return tdx.NewVerifier(root, 1).Verify(q, set, at)
}

// A mapGetter has go-tdx-guest ask Intel's service without a network, or a
// server in between.
type mapGetter map[string]response

type response struct {
	header map[string][]string
	body   []byte
}

func newMapGetter(c *tdx.Collateral) mapGetter {
	chain := func(name string, pem []byte) map[string][]string {
		return map[string][]string{name: {strings.ReplaceAll(url.QueryEscape(string(pem)), "+", "%20")}}
	}
	return mapGetter{
		"/tdx/certification/v4/tcb":         {chain("Tcb-Info-Issuer-Chain", c.TCBInfoChain), c.TCBInfo},
		"/tdx/certification/v4/qe/identity": {chain("Sgx-Enclave-Identity-Issuer-Chain", c.QEIdentityChain), c.QEIdentity},
		"/sgx/certification/v4/pckcrl":      {chain("Sgx-Pck-Crl-Issuer-Chain", c.PCKCRLChain), c.PCKCRL},
		"/IntelSGXRootCA.der":               {nil, c.RootCRL},
	}
}

func (g mapGetter) Get(u string) (map[string][]string, []byte, error) {
	parsed, err := url.Parse(u)
	if err != nil {
		return nil, nil, err
	}
	r, ok := g[parsed.Path]
	if !ok {
		return nil, nil, fmt.Errorf("%s: not found", u)
	}
	return r.header, r.body, nil
}

func certPool(tb testing.TB, pki *tdxsim.PKI) *x509.CertPool {
	tb.Helper()
	c, err := x509.ParseCertificate(pki.Root())
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c)
	return pool
}

func TestSimDefault(t *testing.T) {
	for _, version := range []struct{ version, body int }{{4, 2}, {5, 2}, {5, 3}} {
		s := newScenario()
		s.quote.Version, s.quote.Body = version.version, version.body
		r, err := s.verify(t)
		if err != nil || r.Status != tdx.StatusUpToDate {
			t.Errorf("%+v: got %+v, %v", version, r, err)
		}
	}
}
