package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"slices"
	"time"
)

// The common names of Intel's attestation PKI (X509Constants.cpp of Intel's
// Quote Verification Library). The rest of each name is the same.
const (
	cnRoot        = "Intel SGX Root CA"
	cnPlatformCA  = "Intel SGX PCK Platform CA"
	cnProcessorCA = "Intel SGX PCK Processor CA"
	cnPCK         = "Intel SGX PCK Certificate"
	cnTCBSigning  = "Intel SGX TCB Signing"
)

// splitPEM returns the DER of the certificates in b, which must be nothing but
// want PEM blocks of certificates, white space, and at the end at most one NUL
// byte, which the quoting library copies from a C string into the quote.
//
// encoding/pem skips whatever it doesn't understand, so it isn't used here.
func splitPEM(b []byte, want int) ([][]byte, error) {
	const begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
	const space = " \t\r\n"
	var ders [][]byte
	rest := bytes.Trim(bytes.TrimSuffix(b, []byte{0}), space)
	for len(rest) > 0 {
		body, ok := bytes.CutPrefix(rest, []byte(begin))
		if !ok {
			return nil, refuse(ReasonChain, "not a PEM certificate after certificate %d", len(ders))
		}
		if body, rest, ok = bytes.Cut(body, []byte(end)); !ok {
			return nil, refuse(ReasonChain, "certificate %d has no end", len(ders)+1)
		}
		text := make([]byte, 0, len(body))
		for _, c := range body {
			switch c {
			case ' ', '\t', '\r', '\n':
			default:
				text = append(text, c)
			}
		}
		der := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		n, err := base64.StdEncoding.Strict().Decode(der, text)
		if err != nil {
			return nil, refuse(ReasonChain, "certificate %d: %v", len(ders)+1, err)
		}
		ders = append(ders, der[:n])
		rest = bytes.TrimLeft(rest, space)
	}
	if len(ders) != want {
		return nil, refuse(ReasonChain, "%d certificates, want %d", len(ders), want)
	}
	return ders, nil
}

// isName reports whether n is the name in Intel's PKI with the common name cn,
// with its attributes in any order: some of Intel's certificates start with the
// country, others with the common name.
func isName(n pkix.Name, cn string) bool {
	return len(n.Names) == 5 && n.CommonName == cn &&
		slices.Equal(n.Organization, []string{"Intel Corporation"}) &&
		slices.Equal(n.Locality, []string{"Santa Clara"}) &&
		slices.Equal(n.Province, []string{"CA"}) &&
		slices.Equal(n.Country, []string{"US"})
}

var (
	oidSubjectKeyID     = asn1.ObjectIdentifier{2, 5, 29, 14}
	oidKeyUsage         = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidCRLNumber        = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
	oidCRLPoints        = asn1.ObjectIdentifier{2, 5, 29, 31}
	oidAuthorityKeyID   = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidSGX              = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

	// requiredExtensions is REQUIRED_X509_EXTENSIONS in X509Constants.h of
	// Intel's parsers.
	requiredExtensions = []asn1.ObjectIdentifier{oidAuthorityKeyID, oidCRLPoints, oidSubjectKeyID, oidKeyUsage, oidBasicConstraints}
	knownExtensions    = append(slices.Clone(requiredExtensions), oidSGX)
)

// parseCert parses the certificate of the given name, and checks all that can be
// told from it alone: a P-256 key, ECDSA with SHA-256 as signature
// algorithm, the extensions that all certificates of Intel's PKI have and no
// critical ones that are unknown, a CA (that may sign certificates and CRLs) or an
// end entity (that may sign data) by its constraints.
func parseCert(der []byte, cn string, ca bool) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, refuse(ReasonChain, "%s: %v", cn, err)
	}
	if !isName(c.Subject, cn) {
		return nil, refuse(ReasonChain, "certificate of %q, want %q", c.Subject, cn)
	}
	if key, ok := c.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, refuse(ReasonChain, "%s: public key isn't a P-256 key", cn)
	}
	if c.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, refuse(ReasonChain, "%s: signed with %v, want ECDSA with SHA-256", cn, c.SignatureAlgorithm)
	}
	for _, oid := range requiredExtensions {
		if !slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oid) }) {
			return nil, refuse(ReasonChain, "%s: certificate without extension %v", cn, oid)
		}
	}
	for _, e := range c.Extensions { // crypto/x509 knows more of them than are judged here
		if known := slices.ContainsFunc(knownExtensions, e.Id.Equal); e.Critical && !known {
			return nil, refuse(ReasonChain, "%s: unknown critical extension %v", cn, e.Id)
		}
	}
	usage := x509.KeyUsageDigitalSignature
	if ca {
		usage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if c.KeyUsage&usage != usage {
		return nil, refuse(ReasonChain, "%s: key usage %#x lacks some of %#x", cn, c.KeyUsage, usage)
	}
	if !c.BasicConstraintsValid || c.IsCA != ca {
		return nil, refuse(ReasonChain, "%s: basic constraints say CA %v, want %v", cn, c.IsCA, ca)
	}
	return c, nil
}

// checkIssuer checks that parent, which has below further CAs below it in the
// chain, issued c.
func checkIssuer(c, parent *x509.Certificate, below int) error {
	cn := c.Subject.CommonName
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		return refuse(ReasonChain, "%s: issued by %q, not by %q", cn, c.Issuer, parent.Subject)
	}
	if parent.MaxPathLen >= 0 && below > parent.MaxPathLen {
		return refuse(ReasonChain, "%s: more CAs than the path length %d of %q allows", cn, parent.MaxPathLen, parent.Subject)
	}
	// This also demands of parent what parseCert does.
	if err := c.CheckSignatureFrom(parent); err != nil {
		return refuse(ReasonSignature, "%s: certificate: %v", cn, err)
	}
	return nil
}

// certWindow returns the validity period of c. RFC 5280 includes notAfter.
func certWindow(c *x509.Certificate) window {
	return window{c.Subject.CommonName + " certificate", c.NotBefore, c.NotAfter.Add(time.Nanosecond)}
}

// A crl holds the facts of a CRL whose signature was verified.
type crl struct {
	window  window
	revoked map[string]struct{} // by serial number, see serialKey
}

// parseCRL parses a DER CRL and verifies that issuer signed it.
//
// As in PckCrlVerifier.cpp of Intel's library, the issuer's name must be equal,
// and the CRL must have a number and an authority key id. A next update, which
// Intel also relies on, is demanded, and no critical extension is accepted: those
// would make it a delta CRL, or one that covers only some of the certificates, or
// those of other issuers.
func parseCRL(item string, der []byte, issuer *x509.Certificate) (*crl, error) {
	l, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, refuse(ReasonCollateral, "%s: %v", item, err)
	}
	if len(l.Raw) != len(der) { // crypto/x509 lets that through
		return nil, refuse(ReasonCollateral, "%s: %d bytes follow", item, len(der)-len(l.Raw))
	}
	if !bytes.Equal(l.RawIssuer, issuer.RawSubject) {
		return nil, refuse(ReasonChain, "%s: issued by %q, not by %q", item, l.Issuer, issuer.Subject)
	}
	if l.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, refuse(ReasonChain, "%s: signed with %v, want ECDSA with SHA-256", item, l.SignatureAlgorithm)
	}
	if err := l.CheckSignatureFrom(issuer); err != nil {
		return nil, refuse(ReasonSignature, "%s: %v", item, err)
	}
	var number, authority bool
	for _, e := range l.Extensions {
		number = number || e.Id.Equal(oidCRLNumber)
		authority = authority || e.Id.Equal(oidAuthorityKeyID)
		if e.Critical {
			return nil, refuse(ReasonChain, "%s: critical extension %v", item, e.Id)
		}
	}
	if !number || !authority {
		return nil, refuse(ReasonChain, "%s: CRL number or authority key id missing", item)
	}
	if l.NextUpdate.IsZero() {
		return nil, refuse(ReasonChain, "%s: no next update", item)
	}
	c := &crl{
		window:  window{item, l.ThisUpdate, l.NextUpdate},
		revoked: make(map[string]struct{}, len(l.RevokedCertificateEntries)),
	}
	for _, r := range l.RevokedCertificateEntries {
		for _, e := range r.Extensions {
			if e.Critical {
				return nil, refuse(ReasonChain, "%s: entry %x: critical extension %v", item, r.SerialNumber, e.Id)
			}
		}
		c.revoked[serialKey(r.SerialNumber)] = struct{}{}
	}
	return c, nil
}

// has reports whether c revokes the certificate with that serial number. Neither
// the revocation date nor the reason matters, as in Intel's library (CrlStore.cpp).
func (c *crl) has(serial string) bool {
	_, ok := c.revoked[serial]
	return ok
}

// serialKey returns a serial number in hex, the key of crl.revoked. The serial
// numbers of certificates are positive, or crypto/x509 refuses them.
func serialKey(n *big.Int) string { return hex.EncodeToString(n.Bytes()) }
