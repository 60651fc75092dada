package tdx

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/hex"
	"errors"
	"sync"
)

// A Root is a certificate that all trust in quotes rests on: Intel's, or that of
// a made-up PKI for tests and demonstrations. It is immutable.
type Root struct {
	cert *x509.Certificate
	sum  [32]byte
}

// ParseRoot parses a root certificate, as DER or as a single PEM block. It must
// be a self-signed CA with the name and key type of Intel's root. Its validity
// isn't checked here, but at each verification.
func ParseRoot(pemOrDER []byte) (*Root, error) {
	der := pemOrDER
	if bytes.HasPrefix(bytes.TrimLeft(der, " \t\r\n"), []byte("-----BEGIN ")) {
		ders, err := splitPEM(der, 1)
		if err != nil {
			return nil, asRoot(err)
		}
		der = ders[0]
	}
	c, err := parseCert(der, cnRoot, true)
	if err != nil {
		return nil, asRoot(err)
	}
	if err := checkIssuer(c, c, 0); err != nil {
		return nil, asRoot(err)
	}
	return &Root{c, sha256.Sum256(c.Raw)}, nil
}

// asRoot gives err, an *Error, ReasonRoot.
func asRoot(err error) error {
	var e *Error
	if errors.As(err, &e) {
		err = e.Err
	}
	return &Error{Reason: ReasonRoot, Err: err}
}

// Fingerprint returns the SHA-256 of the certificate's DER encoding.
func (r *Root) Fingerprint() [32]byte { return r.sum }

// IsIntel reports whether r is [IntelRoot]. If it isn't, nothing that is
// verified under r is evidence of hardware.
func (r *Root) IsIntel() bool { return r.sum == IntelRoot().sum }

// String returns the root's common name and fingerprint.
func (r *Root) String() string {
	return r.cert.Subject.CommonName + " (SHA-256 " + hex.EncodeToString(r.sum[:]) + ")"
}

// intelRootPEM is Intel's SGX Root CA, which also covers TDX, as published at
// https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem.
//
//go:embed intel-sgx-root-ca.pem
var intelRootPEM []byte

// intelRootSHA256 guards against a changed file: whoever replaces it replaces
// what all verification rests on.
const intelRootSHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"

var intelRoot = sync.OnceValue(func() *Root {
	r, err := ParseRoot(intelRootPEM)
	if err != nil {
		panic("tdx: embedded root: " + err.Error())
	}
	if hex.EncodeToString(r.sum[:]) != intelRootSHA256 {
		panic("tdx: embedded root isn't Intel's: " + r.String())
	}
	return r
})

// IntelRoot returns Intel's SGX Root CA.
func IntelRoot() *Root { return intelRoot() }
