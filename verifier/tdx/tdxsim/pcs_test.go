package tdxsim

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestPCS checks answers against those of Intel's service and PCCS. It fails if
// a client could tell them apart by what it may rely on.
func TestPCS(t *testing.T) {
	pki := NewPKI([]byte("pcs"), testTime)
	want, err := pki.Collateral(CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	processor, err := pki.Collateral(CollateralOptions{CA: ProcessorCA})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method, url string
		pccs        bool
		code        int
		header      string
		chain, body []byte
	}{
		{url: "/tdx/certification/v4/tcb?fmspc=90C06F000000", code: 200, header: "TCB-Info-Issuer-Chain", chain: want.TCBInfoChain, body: want.TCBInfo},
		{url: "/tdx/certification/v4/tcb?fmspc=90c06f000000", code: 200, header: "TCB-Info-Issuer-Chain", chain: want.TCBInfoChain, body: want.TCBInfo},
		{url: "/tdx/certification/v4/tcb?fmspc=90c06f000000&update=early", code: 200, header: "TCB-Info-Issuer-Chain", chain: want.TCBInfoChain, body: want.TCBInfo},
		{url: "/tdx/certification/v4/tcb?fmspc=90c06f000000&update=now", code: 400},
		{url: "/tdx/certification/v4/tcb?fmspc=90c06f0000", code: 400},
		{url: "/tdx/certification/v4/tcb?fmspc=90c06f00000g", code: 400},
		{url: "/tdx/certification/v4/tcb", code: 400},
		{url: "/tdx/certification/v4/tcb?fmspc=%zz", code: 400},
		{url: "/tdx/certification/v4/tcb?fmspc=00906ed50000", code: 404},
		{method: "POST", url: "/tdx/certification/v4/tcb?fmspc=90c06f000000", code: 405},
		{url: "/tdx/certification/v4/qe/identity", code: 200, header: "SGX-Enclave-Identity-Issuer-Chain", chain: want.QEIdentityChain, body: want.QEIdentity},
		{url: "/tdx/certification/v4/qe/identity?update=now", code: 400},
		{url: "/sgx/certification/v4/pckcrl?ca=platform&encoding=der", code: 200, header: "SGX-PCK-CRL-Issuer-Chain", chain: want.PCKCRLChain, body: want.PCKCRL},
		{url: "/sgx/certification/v4/pckcrl?ca=processor&encoding=der", code: 200, header: "SGX-PCK-CRL-Issuer-Chain", chain: processor.PCKCRLChain, body: processor.PCKCRL},
		{url: "/sgx/certification/v4/pckcrl?ca=platform", code: 200, header: "SGX-PCK-CRL-Issuer-Chain", chain: want.PCKCRLChain,
			body: pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: want.PCKCRL})},
		{url: "/sgx/certification/v4/pckcrl?ca=platform", pccs: true, code: 200, header: "SGX-PCK-CRL-Issuer-Chain", chain: want.PCKCRLChain,
			body: []byte(hex.EncodeToString(want.PCKCRL))},
		{url: "/sgx/certification/v4/pckcrl?ca=root", code: 400},
		{url: "/sgx/certification/v4/pckcrl?ca=platform&encoding=hex", code: 400},
		{url: "/IntelSGXRootCA.der", code: 200, body: want.RootCRL},
		{url: "/IntelSGXRootCA.der", pccs: true, code: 404},
		{url: "/sgx/certification/v4/rootcacrl", pccs: true, code: 200, body: []byte(hex.EncodeToString(want.RootCRL))},
		{url: "/sgx/certification/v4/rootcacrl", code: 404},
		{url: "/sgx/certification/v4/tcb?fmspc=90c06f000000", code: 404},
	} {
		if tt.method == "" {
			tt.method = http.MethodGet
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(tt.method, "/", nil)
		r.URL.Path, r.URL.RawQuery, _ = strings.Cut(tt.url, "?")
		pki.PCS(PCSOptions{PCCS: tt.pccs}).ServeHTTP(w, r)
		if w.Code != tt.code || !bytes.Equal(w.Body.Bytes(), tt.body) {
			t.Errorf("%s %s, PCCS %v: status %d, %d bytes; want %d, %d bytes", tt.method, tt.url, tt.pccs, w.Code, w.Body.Len(), tt.code, len(tt.body))
		}
		if tt.header == "" {
			continue
		}
		values := w.Header()[tt.header] // Intel's spelling
		if len(values) != 1 {
			t.Errorf("%s: header %s: %q", tt.url, tt.header, values)
			continue
		}
		// What decodeURIComponent and form decoding agree on is safe.
		a, err := url.PathUnescape(values[0])
		b, err2 := url.QueryUnescape(values[0])
		if err != nil || err2 != nil || a != string(tt.chain) || b != a || strings.ContainsAny(values[0], "+/= \n") {
			t.Errorf("%s: chain %v, %v: %q", tt.url, err, err2, values[0])
		}
	}
}

// TestPCSSwap checks that a recovery and an outage are seen at once, and counted.
func TestPCSSwap(t *testing.T) {
	pki := NewPKI([]byte("swap"), testTime)
	pcs := pki.PCS(PCSOptions{Sets: []CollateralOptions{{FMSPC: "00906ED50000"}, {}}})
	ask := func(fmspc string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		pcs.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/tdx/certification/v4/tcb?fmspc="+fmspc, nil))
		return w
	}
	before := ask(DefaultFMSPC)
	if other := ask("00906ed50000"); before.Code != 200 || other.Code != 200 || bytes.Equal(before.Body.Bytes(), other.Body.Bytes()) {
		t.Errorf("two families: %d, %d", before.Code, other.Code)
	}
	pcs.Fail(http.StatusBadGateway)
	if w := ask(DefaultFMSPC); w.Code != http.StatusBadGateway {
		t.Errorf("outage: %d", w.Code)
	}
	pcs.Fail(0)
	pcs.Swap(CollateralOptions{TCBEvaluationDataNumber: 19})
	if w := ask(DefaultFMSPC); w.Code != 200 || !bytes.Contains(w.Body.Bytes(), []byte(`"tcbEvaluationDataNumber":19`)) {
		t.Errorf("recovery: %d %s", w.Code, w.Body)
	}
	if w := ask("00906ED50000"); w.Code != 404 {
		t.Errorf("a family that was swapped out: %d", w.Code)
	}
	if a, b := pcs.Requests("/tdx/certification/v4/tcb"), pcs.Requests(""); a != 5 || b != 5 || pcs.Requests("/other") != 0 {
		t.Errorf("counted %d and %d", a, b)
	}
}
