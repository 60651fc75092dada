package tdxsim

import (
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// PCSOptions describes a made-up provisioning certification service.
type PCSOptions struct {
	// Sets is what the service knows: TCB info of the families that the sets
	// are for, and revocation lists of their authorities. QE identity and root
	// revocation list are the last set's. If there are none, it knows the
	// default family and both authorities.
	Sets []CollateralOptions

	// PCCS makes the service behave as Intel's caching service, PCCS, does:
	// the root revocation list is at /sgx/certification/v4/rootcacrl in
	// hexadecimal, and so is the PCK revocation list unless DER is asked for.
	PCCS bool
}

// A PCS is a made-up Intel SGX and TDX Provisioning Certification Service, API
// version 4. It can be used concurrently.
type PCS struct {
	pki  *PKI
	pccs bool

	// mu guards the fields below. The maps in served are never modified.
	mu      sync.Mutex
	served  *served
	counts  map[string]int
	failure int
}

// served is what a PCS serves.
type served struct {
	byFMSPC map[string]*tdx.Collateral // in upper case
	byCA    map[string]*tdx.Collateral
	last    *tdx.Collateral
}

// PCS returns a service. It panics if a set can't be made, such as one of an
// unknown authority.
func (p *PKI) PCS(o PCSOptions) *PCS {
	s := &PCS{pki: p, pccs: o.PCCS, counts: make(map[string]int)}
	s.Swap(o.Sets...)
	return s
}

// Swap replaces what the service knows, as a TCB recovery does, see
// [PCSOptions.Sets]. It panics as [PKI.PCS] does.
func (s *PCS) Swap(sets ...CollateralOptions) {
	if len(sets) == 0 {
		sets = []CollateralOptions{{CA: ProcessorCA}, {CA: PlatformCA}}
	}
	next := &served{byFMSPC: make(map[string]*tdx.Collateral), byCA: make(map[string]*tdx.Collateral)}
	for _, o := range sets {
		c, err := s.pki.Collateral(o)
		if err != nil {
			panic("tdxsim: collateral: " + err.Error())
		}
		s.pki.setDefaults(&o)
		next.byFMSPC[strings.ToUpper(o.FMSPC)] = c
		next.byCA[o.CA] = c
		next.last = c
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served = next
}

// Fail makes every request fail with an HTTP status from now on, until Fail(0).
func (s *PCS) Fail(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failure = status
}

// Requests returns how many requests there were for a path, such as
// "/tdx/certification/v4/tcb", or for all if path is empty.
func (s *PCS) Requests(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if path != "" {
		return s.counts[path]
	}
	n := 0
	for _, c := range s.counts {
		n += c
	}
	return n
}

// ServeHTTP answers as Intel's service does (Intel SGX and Intel TDX
// Provisioning Certification Service API, version 4): 400 without a body for
// bad parameters, 404 for unknown families, and certificate chains as
// percent-encoded PEM in headers.
func (s *PCS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.counts[r.URL.Path]++
	known, failure := s.served, s.failure
	s.mu.Unlock()

	w.Header().Set("Request-ID", fmt.Sprintf("%x", s.pki.derive("request "+r.URL.Path, 16)))
	switch {
	case failure != 0:
		w.WriteHeader(failure)
		return
	case r.Method != http.MethodGet:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case "/tdx/certification/v4/tcb":
		if !isHex(q.Get("fmspc"), 12) || !validUpdate(q) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c := known.byFMSPC[strings.ToUpper(q.Get("fmspc"))]
		if c == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		reply(w, "application/json", "TCB-Info-Issuer-Chain", c.TCBInfoChain, c.TCBInfo)
	case "/tdx/certification/v4/qe/identity":
		if !validUpdate(q) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		reply(w, "application/json", "SGX-Enclave-Identity-Issuer-Chain", known.last.QEIdentityChain, known.last.QEIdentity)
	case "/sgx/certification/v4/pckcrl":
		s.pckCRL(w, q, known)
	case "/IntelSGXRootCA.der":
		if s.pccs {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		reply(w, "application/pkix-crl", "", nil, known.last.RootCRL)
	case "/sgx/certification/v4/rootcacrl":
		if !s.pccs {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		reply(w, "application/pkix-crl", "", nil, hex.AppendEncode(nil, known.last.RootCRL))
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *PCS) pckCRL(w http.ResponseWriter, q url.Values, known *served) {
	ca, encoding := q.Get("ca"), q.Get("encoding")
	if ca != PlatformCA && ca != ProcessorCA || encoding != "" && encoding != "der" && encoding != "pem" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c := known.byCA[ca]
	if c == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	body, contentType := c.PCKCRL, "application/pkix-crl"
	switch {
	case encoding == "der":
	case s.pccs:
		body, contentType = hex.AppendEncode(nil, body), "application/x-pem-file"
	default:
		body, contentType = pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: body}), "application/x-pem-file"
	}
	reply(w, contentType, "SGX-PCK-CRL-Issuer-Chain", c.PCKCRLChain, body)
}

// reply answers 200. Header names are written as Intel writes them, which isn't
// Go's canonical form.
func reply(w http.ResponseWriter, contentType, chainName string, chain, body []byte) {
	if chainName != "" {
		// Intel escapes all but unreserved characters, and spaces as %20.
		w.Header()[chainName] = []string{strings.ReplaceAll(url.QueryEscape(string(chain)), "+", "%20")}
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body) // nobody is left to tell
}

func validUpdate(q url.Values) bool {
	u := q.Get("update")
	return u == "" || u == "early" || u == "standard"
}

func isHex(s string, n int) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == n
}
