package tdx

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// A testCert is a certificate with its key, of a chain in which one thing can be
// changed that tdxsim can't.
type testCert struct {
	cert *x509.Certificate
	key  crypto.Signer
}

var certTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

func testName(cn string) pkix.Name {
	return pkix.Name{CommonName: cn, Organization: []string{"Intel Corporation"}, Locality: []string{"Santa Clara"},
		Province: []string{"CA"}, Country: []string{"US"}}
}

func newKey(tb testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// issueCert makes a certificate; a nil parent means self-signed. The templates
// are right, but for what edit does.
func issueCert(tb testing.TB, cn string, serial int64, parent *testCert, edit func(*x509.Certificate, *crypto.Signer)) *testCert {
	tb.Helper()
	t := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               testName(cn),
		NotBefore:             certTime,
		NotAfter:              certTime.AddDate(1, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		CRLDistributionPoints: []string{"https://example.org/crl"},
		SubjectKeyId:          []byte{byte(serial)},
		AuthorityKeyId:        []byte{byte(serial)}, // a template's is used for self-signed ones
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
	}
	switch cn {
	case cnRoot, cnPlatformCA, cnProcessorCA:
		t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		t.MaxPathLen, t.MaxPathLenZero = 1, false
		if cn != cnRoot {
			t.MaxPathLen, t.MaxPathLenZero = 0, true
		}
	case cnPCK:
		t.ExtraExtensions = []pkix.Extension{{Id: oidSGX, Value: goodSGXExtension()}}
	}
	key := crypto.Signer(newKey(tb, elliptic.P256()))
	if edit != nil {
		edit(t, &key)
	}
	p := &testCert{t, key}
	if parent != nil {
		p = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, t, p.cert, key.Public(), p.key)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return &testCert{c, key}
}

func chainPEM(certs ...*testCert) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})...)
	}
	return b
}

// TestPCKChain changes one thing in a PCK chain, in each row.
func TestPCKChain(t *testing.T) {
	type chain struct {
		root, ca, pck func(*x509.Certificate, *crypto.Signer)
	}
	drop := func(oid asn1.ObjectIdentifier) func(*x509.Certificate, *crypto.Signer) {
		return func(c *x509.Certificate, _ *crypto.Signer) {
			switch {
			case oid.Equal(oidSubjectKeyID):
				c.SubjectKeyId = nil
			case oid.Equal(oidKeyUsage):
				c.KeyUsage = 0
			case oid.Equal(oidBasicConstraints):
				c.BasicConstraintsValid = false
			case oid.Equal(oidCRLPoints):
				c.CRLDistributionPoints = nil
			}
		}
	}
	unknown := func(c *x509.Certificate, _ *crypto.Signer) {
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
	}
	p384 := func(_ *x509.Certificate, k *crypto.Signer) { *k = newKey(t, elliptic.P384()) }
	rsaKey := func(_ *x509.Certificate, k *crypto.Signer) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		*k = key
	}
	sha384 := func(c *x509.Certificate, _ *crypto.Signer) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 }
	rename := func(edit func(*pkix.Name)) func(*x509.Certificate, *crypto.Signer) {
		return func(c *x509.Certificate, _ *crypto.Signer) { edit(&c.Subject) }
	}
	usage := func(u x509.KeyUsage) func(*x509.Certificate, *crypto.Signer) {
		return func(c *x509.Certificate, _ *crypto.Signer) { c.KeyUsage = u }
	}
	sgx := func(v []byte) func(*x509.Certificate, *crypto.Signer) {
		return func(c *x509.Certificate, _ *crypto.Signer) { c.ExtraExtensions[0].Value = v }
	}
	for _, tt := range []struct {
		name   string
		chain  chain
		reason Reason
	}{
		{"good", chain{}, ""},
		{"good, SGX extension critical", chain{pck: func(c *x509.Certificate, _ *crypto.Signer) { c.ExtraExtensions[0].Critical = true }}, ""},
		{"good, unknown extension", chain{pck: func(c *x509.Certificate, _ *crypto.Signer) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: []byte{5, 0}})
		}}, ""},
		{"good, root without path length", chain{root: func(c *x509.Certificate, _ *crypto.Signer) { c.MaxPathLen = -1 }}, ""},

		{"PCK with P-384 key", chain{pck: p384}, ReasonChain},
		{"PCK with RSA key", chain{pck: rsaKey}, ReasonChain},
		{"CA with P-384 key", chain{ca: p384, pck: sha384}, ReasonChain},
		{"PCK signed with SHA-384", chain{pck: sha384}, ReasonChain},
		{"CA signed with SHA-384", chain{ca: sha384}, ReasonChain},
		{"PCK is a CA", chain{pck: func(c *x509.Certificate, _ *crypto.Signer) { c.IsCA = true }}, ReasonChain},
		{"CA isn't a CA", chain{ca: func(c *x509.Certificate, _ *crypto.Signer) {
			c.IsCA, c.MaxPathLen, c.MaxPathLenZero = false, 0, false
		}}, ReasonChain},
		{"PCK without basic constraints", chain{pck: drop(oidBasicConstraints)}, ReasonChain},
		{"PCK without subject key id", chain{pck: drop(oidSubjectKeyID)}, ReasonChain},
		{"PCK without key usage", chain{pck: drop(oidKeyUsage)}, ReasonChain},
		{"PCK without CRL distribution points", chain{pck: drop(oidCRLPoints)}, ReasonChain},
		{"PCK without authority key id", chain{pck: func(c *x509.Certificate, _ *crypto.Signer) { c.AuthorityKeyId = nil }}, ReasonChain},
		{"PCK for key agreement", chain{pck: usage(x509.KeyUsageKeyAgreement)}, ReasonChain},
		{"CA may not sign CRLs", chain{ca: usage(x509.KeyUsageCertSign)}, ReasonChain},
		{"CA may not sign certificates", chain{ca: usage(x509.KeyUsageCRLSign)}, ReasonChain},
		{"root with path length 0", chain{root: func(c *x509.Certificate, _ *crypto.Signer) { c.MaxPathLen, c.MaxPathLenZero = 0, true }}, ReasonChain},
		{"PCK with an unknown critical extension", chain{pck: unknown}, ReasonChain},
		{"CA with an unknown critical extension", chain{ca: unknown}, ReasonChain},
		{"PCK with name constraints", chain{pck: func(c *x509.Certificate, _ *crypto.Signer) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 36}, Critical: true, Value: []byte{0x30, 0}})
		}}, ReasonChain},
		{"PCK with another common name", chain{pck: rename(func(n *pkix.Name) { n.CommonName = "Intel SGX PCK Certificate 2" })}, ReasonChain},
		{"PCK of another organization", chain{pck: rename(func(n *pkix.Name) { n.Organization = []string{"Outel Corporation"} })}, ReasonChain},
		{"PCK of two organizations", chain{pck: rename(func(n *pkix.Name) { n.Organization = append(n.Organization, "Other") })}, ReasonChain},
		{"PCK with a unit", chain{pck: rename(func(n *pkix.Name) { n.OrganizationalUnit = []string{"Unit"} })}, ReasonChain},
		{"CA with another common name", chain{ca: rename(func(n *pkix.Name) { n.CommonName = "Intel SGX PCK CA" })}, ReasonChain},
		{"CA of another country", chain{ca: rename(func(n *pkix.Name) { n.Country = []string{"DE"} })}, ReasonChain},
		{"PCK without SGX extension", chain{pck: func(c *x509.Certificate, _ *crypto.Signer) { c.ExtraExtensions = nil }}, ReasonChain},
		{"SGX extension empty", chain{pck: sgx([]byte{0x30, 0})}, ReasonChain},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := issueCert(t, cnRoot, 1, nil, tt.chain.root)
			ca := issueCert(t, cnPlatformCA, 2, root, tt.chain.ca)
			parent := *ca
			if tt.name == "PCK without authority key id" { // which comes from the parent
				c := *ca.cert
				c.SubjectKeyId, parent.cert = nil, &c
			}
			pck := issueCert(t, cnPCK, 3, &parent, tt.chain.pck)
			trusted, err := ParseRoot(root.cert.Raw)
			if err != nil {
				t.Fatal(err)
			}
			p, err := parsePCKChain(chainPEM(pck, ca, root), trusted)
			checkReason(t, err, tt.reason)
			if tt.reason == "" && (err != nil || p.serial != "03" || p.caSerial != "02" || p.ca != CAPlatform || p.fmspc != "0a0b0c0d0e0f") {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func checkReason(t *testing.T, err error, want Reason) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("got %v", err)
		}
		return
	}
	var e *Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Errorf("got %v, want reason %s", err, want)
	}
}

// TestChainOrder puts good certificates into other places, and other things into
// the PEM.
func TestChainOrder(t *testing.T) {
	root := issueCert(t, cnRoot, 1, nil, nil)
	ca := issueCert(t, cnPlatformCA, 2, root, nil)
	pck := issueCert(t, cnPCK, 3, ca, nil)
	signing := issueCert(t, cnTCBSigning, 4, root, nil)
	below := issueCert(t, cnPCK, 5, root, nil)         // by the root itself
	twin := issueCert(t, cnRoot, 1, nil, nil)          // another root of the same name
	twinCA := issueCert(t, cnPlatformCA, 2, twin, nil) // below it
	other := issueCert(t, cnPlatformCA, 6, root, nil)  // another CA of the same name
	process := issueCert(t, cnProcessorCA, 7, root, nil)
	trusted, err := ParseRoot(root.cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	good := string(chainPEM(pck, ca, root))
	for _, tt := range []struct {
		name   string
		pem    string
		reason Reason
	}{
		{"good", good, ""},
		{"final NUL", good + "\x00", ""},
		{"final white space and NUL", good + "\n \x00", ""},
		{"no final newline", strings.TrimSuffix(good, "\n"), ""},
		{"carriage returns", strings.ReplaceAll(good, "\n", "\r\n"), ""},
		{"empty lines between", strings.ReplaceAll(good, "-----BEGIN", "\n-----BEGIN"), ""},
		{"two NULs", good + "\x00\x00", ReasonChain},
		{"NUL inside", strings.Replace(good, "-----\n-----", "-----\x00-----", 1), ReasonChain},
		{"text before", "x" + good, ReasonChain},
		{"text between", strings.Replace(good, "-----\n-----", "-----\nx\n-----", 1), ReasonChain},
		{"text after", good + "x", ReasonChain},
		{"PEM header", strings.Replace(good, "CERTIFICATE-----\n", "CERTIFICATE-----\na: b\n\n", 1), ReasonChain},
		{"another type", strings.ReplaceAll(good, "CERTIFICATE", "CERTIFICATES"), ReasonChain},
		{"spare bits", strings.Replace(good, "=\n-----END", "B\n-----END", 1), ReasonChain},
		{"no end", good[:len(good)-10], ReasonChain},
		{"empty", "", ReasonChain},
		{"PCK only", string(chainPEM(pck)), ReasonChain},
		{"no root", string(chainPEM(pck, ca)), ReasonChain},
		{"root twice", good + string(chainPEM(root)), ReasonChain},
		{"upside down", string(chainPEM(root, ca, pck)), ReasonRoot},
		{"PCK twice", string(chainPEM(pck, pck, root)), ReasonChain},
		{"TCB signing certificate in the PCK's place", string(chainPEM(signing, ca, root)), ReasonChain},
		{"TCB signing certificate in the CA's place", string(chainPEM(pck, signing, root)), ReasonChain},
		{"root in the CA's place", string(chainPEM(below, root, root)), ReasonChain},
		{"PCK by the root", string(chainPEM(below, ca, root)), ReasonChain},
		{"PCK by the other CA", string(chainPEM(pck, process, root)), ReasonChain},
		{"another CA of the same name", string(chainPEM(pck, other, root)), ReasonSignature},
		{"another root of the same name", string(chainPEM(pck, ca, twin)), ReasonRoot},
		{"CA by another root of the same name", string(chainPEM(pck, twinCA, root)), ReasonSignature},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parsePCKChain([]byte(tt.pem), trusted)
			checkReason(t, err, tt.reason)
		})
	}
}

func TestParseRoot(t *testing.T) {
	if r := IntelRoot(); !r.IsIntel() || r.String() != "Intel SGX Root CA (SHA-256 "+intelRootSHA256+")" {
		t.Errorf("got %v", r)
	}
	if r, err := ParseRoot(IntelRoot().cert.Raw); err != nil || r.Fingerprint() != IntelRoot().Fingerprint() {
		t.Errorf("DER: got %v, %v", r, err)
	}
	root := issueCert(t, cnRoot, 1, nil, nil)
	for _, in := range [][]byte{root.cert.Raw, chainPEM(root), append([]byte("\n"), chainPEM(root)...)} {
		if r, err := ParseRoot(in); err != nil || r.IsIntel() {
			t.Errorf("got %v, %v", r, err)
		}
	}
	noCA := func(c *x509.Certificate, _ *crypto.Signer) { c.IsCA, c.MaxPathLen = false, 0 }
	signed := issueCert(t, cnRoot, 2, root, nil) // by another key of the same name
	for name, in := range map[string][]byte{
		"empty":           nil,
		"two":             append(chainPEM(root), chainPEM(root)...),
		"trailing":        append(bytes.Clone(root.cert.Raw), 0),
		"not self-signed": signed.cert.Raw,
		"a CA below":      issueCert(t, cnPlatformCA, 3, root, nil).cert.Raw,
		"no CA":           issueCert(t, cnRoot, 4, nil, noCA).cert.Raw,
		"another name":    issueCert(t, "Some Root CA", 5, nil, nil).cert.Raw,
	} {
		if r, err := ParseRoot(in); r != nil {
			t.Errorf("%s: got %v", name, r)
		} else {
			checkReason(t, err, ReasonRoot)
		}
	}
}

// TestCRL changes one thing in a CRL, in each row.
func TestCRL(t *testing.T) {
	root := issueCert(t, cnRoot, 1, nil, nil)
	twin := issueCert(t, cnRoot, 1, nil, nil)
	ca := issueCert(t, cnPlatformCA, 2, root, nil)
	make := func(issuer *testCert, edit func(*x509.RevocationList)) []byte {
		l := &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: certTime, NextUpdate: certTime.AddDate(0, 1, 0), SignatureAlgorithm: x509.ECDSAWithSHA256,
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(0x80), RevocationTime: certTime.AddDate(1, 0, 0)}},
		}
		if edit != nil {
			edit(l)
		}
		der, err := x509.CreateRevocationList(rand.Reader, l, issuer.cert, issuer.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}} // issuing distribution point
	good := make(root, nil)
	for _, tt := range []struct {
		name   string
		der    []byte
		reason Reason
	}{
		{"good", good, ""},
		{"empty list", make(root, func(l *x509.RevocationList) { l.RevokedCertificateEntries = nil }), ""},
		{"another issuer", make(ca, nil), ReasonChain},
		{"another issuer of the same name", make(twin, nil), ReasonSignature},
		{"critical extension", make(root, func(l *x509.RevocationList) { l.ExtraExtensions = []pkix.Extension{critical} }), ReasonChain},
		{"critical extension of an entry", make(root, func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}}
		}), ReasonChain},
		{"signed with SHA-384", make(root, func(l *x509.RevocationList) { l.SignatureAlgorithm = x509.ECDSAWithSHA384 }), ReasonChain},
		{"no next update", bareCRL(t, root, oidCRLNumber, oidAuthorityKeyID), ReasonChain},
		{"no number", bareCRL(t, root, oidAuthorityKeyID), ReasonChain},
		{"no authority key id", bareCRL(t, root, oidCRLNumber), ReasonChain},
		{"changed", func() []byte { b := bytes.Clone(good); b[len(b)-1] ^= 1; return b }(), ReasonSignature},
		{"trailing byte", append(bytes.Clone(good), 0), ReasonCollateral},
		{"PEM", pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: good}), ReasonCollateral},
		{"empty", nil, ReasonCollateral},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := parseCRL("root CA CRL", tt.der, root.cert)
			checkReason(t, err, tt.reason)
			if tt.name == "good" && (!l.has("80") || l.has("81") || l.has("0080") || l.window != window{"root CA CRL", certTime, certTime.AddDate(0, 1, 0)}) {
				t.Errorf("got %+v", l)
			}
		})
	}
}

// bareCRL makes a CRL of version 2 that has nothing optional but the extensions
// named, and no next update.
func bareCRL(t *testing.T, issuer *testCert, extensions ...asn1.ObjectIdentifier) []byte {
	algorithm := func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2})
		})
	}
	values := map[string][]byte{oidCRLNumber.String(): {2, 1, 1}, oidAuthorityKeyID.String(): {0x30, 3, 0x80, 1, 1}}
	var tbs cryptobyte.Builder
	tbs.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Uint64(1)
		algorithm(b)
		b.AddBytes(issuer.cert.RawSubject)
		b.AddASN1UTCTime(certTime)
		b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for _, oid := range extensions {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
						b.AddASN1ObjectIdentifier(oid)
						b.AddASN1OctetString(values[oid.String()])
					})
				}
			})
		})
	})
	raw := tbs.BytesOrPanic()
	h := crypto.SHA256.New()
	h.Write(raw)
	sig, err := issuer.key.Sign(rand.Reader, h.Sum(nil), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(raw)
		algorithm(b)
		b.AddASN1BitString(sig)
	})
	return b.BytesOrPanic()
}

// TestRevokedCA checks that the CA certificate of the PCK chain is looked up on
// the root CRL, which matters when it isn't the one that comes with the PCK CRL:
// Intel can issue a certificate anew for the same key. Another key isn't the same
// CA.
func TestRevokedCA(t *testing.T) {
	revoked := func(serials ...string) *crl {
		c := &crl{revoked: map[string]struct{}{}}
		for _, s := range serials {
			c.revoked[s] = struct{}{}
		}
		return c
	}
	p := &platform{serial: "03", caSerial: "02", ca: CAPlatform, caName: []byte("name"), caKey: []byte("key")}
	for _, tt := range []struct {
		name   string
		set    *Set
		reason Reason
	}{
		{"good", &Set{ca: CAPlatform, caName: p.caName, caKey: p.caKey, rootCRL: revoked("03"), pckCRL: revoked("02")}, ""},
		{"CA revoked", &Set{ca: CAPlatform, caName: p.caName, caKey: p.caKey, rootCRL: revoked("02"), pckCRL: revoked()}, ReasonRevoked},
		{"PCK revoked", &Set{ca: CAPlatform, caName: p.caName, caKey: p.caKey, rootCRL: revoked(), pckCRL: revoked("03")}, ReasonRevoked},
		{"another key", &Set{ca: CAPlatform, caName: p.caName, caKey: []byte("other"), rootCRL: revoked(), pckCRL: revoked()}, ReasonChain},
		{"another name", &Set{ca: CAPlatform, caName: []byte("other"), caKey: p.caKey, rootCRL: revoked(), pckCRL: revoked()}, ReasonChain},
		{"another CA", &Set{ca: CAProcessor, caName: p.caName, caKey: p.caKey, rootCRL: revoked(), pckCRL: revoked()}, ReasonChain},
	} {
		t.Run(tt.name, func(t *testing.T) { checkReason(t, checkRevocation(p, tt.set), tt.reason) })
	}
}

// A sgxElement is an element of the SGX extension: an arc and a value.
type sgxElement struct {
	arcs  []int
	value func(*cryptobyte.Builder)
}

func sgxSequence(elements ...sgxElement) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for _, e := range elements {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(slices.Concat(oidSGX, asn1.ObjectIdentifier(e.arcs)))
					e.value(b)
				})
			}
		})
	}
}

func octets(v ...byte) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) }
}

func integer(v int64) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) { b.AddASN1Int64(v) }
}

func boolean(v bool) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) { b.AddASN1Boolean(v) }
}

func enum(v byte) func(*cryptobyte.Builder) {
	return func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.ENUM, func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(v)) })
	}
}

// elements returns the elements that encode e.
func (e *pckExtension) elements() (top, tcb, config []sgxElement) {
	for i, svn := range e.components {
		tcb = append(tcb, sgxElement{[]int{2, i + 1}, integer(int64(svn))})
	}
	tcb = append(tcb, sgxElement{[]int{2, 17}, integer(int64(e.pcesvn))}, sgxElement{[]int{2, 18}, octets(e.cpusvn[:]...)})
	enumerated := func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.ENUM, func(b *cryptobyte.Builder) {
			if e.sgxType >= 0x80 {
				b.AddUint8(0)
			}
			b.AddUint8(e.sgxType)
		})
	}
	top = []sgxElement{
		{[]int{1}, octets(e.ppid[:]...)}, {[]int{2}, sgxSequence(tcb...)}, {[]int{3}, octets(e.pceid[:]...)},
		{[]int{4}, octets(e.fmspc[:]...)}, {[]int{5}, enumerated},
	}
	if p := e.platform; p != nil {
		config = []sgxElement{
			{[]int{7, 1}, boolean(p.config.DynamicPlatform)}, {[]int{7, 2}, boolean(p.config.CachedKeys)}, {[]int{7, 3}, boolean(p.config.SMTEnabled)},
		}
		top = append(top, sgxElement{[]int{6}, octets(p.instanceID[:]...)}, sgxElement{[]int{7}, sgxSequence(config...)})
	}
	return top, tcb, config
}

func encodeSGX(elements []sgxElement) []byte {
	var b cryptobyte.Builder
	sgxSequence(elements...)(&b)
	return b.BytesOrPanic()
}

func goodSGX() *pckExtension {
	return &pckExtension{
		ppid: [16]byte{1, 15: 2}, components: [16]byte{3, 255, 15: 4}, pcesvn: 65535, cpusvn: [16]byte{5, 15: 6}, pceid: [2]byte{7, 8},
		fmspc: [6]byte{10, 11, 12, 13, 14, 15}, sgxType: 1,
		platform: &pckPlatform{instanceID: [16]byte{9, 15: 10}, config: Configuration{DynamicPlatform: true, SMTEnabled: true}},
	}
}

func goodSGXExtension() []byte {
	top, _, _ := goodSGX().elements()
	return encodeSGX(top)
}

func TestSGXExtension(t *testing.T) {
	type lists struct{ top, tcb, config []sgxElement }
	replace := func(l []sgxElement, i int, e ...sgxElement) []sgxElement {
		return slices.Concat(l[:i], e, l[i+1:])
	}
	top := func(i int, e ...sgxElement) func(*lists) {
		return func(l *lists) { l.top = replace(l.top, i, e...) }
	}
	tcb := func(i int, e ...sgxElement) func(*lists) {
		return func(l *lists) { l.top[1].value = sgxSequence(replace(l.tcb, i, e...)...) }
	}
	config := func(i int, e ...sgxElement) func(*lists) {
		return func(l *lists) { l.top[6].value = sgxSequence(replace(l.config, i, e...)...) }
	}
	both := func(b ...func(*cryptobyte.Builder)) func(*cryptobyte.Builder) {
		return func(c *cryptobyte.Builder) {
			for _, f := range b {
				f(c)
			}
		}
	}
	for _, tt := range []struct {
		name string
		edit func(*lists)
		ok   bool
	}{
		{"good", func(l *lists) {}, true},
		{"without the platform's", func(l *lists) { l.top = l.top[:5] }, true},
		{"reversed", func(l *lists) { slices.Reverse(l.top) }, true},
		{"without instance id", top(5), false},
		{"without configuration", top(6), false},
		{"without PPID", top(0), false},
		{"without TCB", top(1), false},
		{"without PCEID", top(2), false},
		{"without FMSPC", top(3), false},
		{"without type", top(4), false},
		{"FMSPC twice", top(3, sgxElement{[]int{4}, octets(1, 2, 3, 4, 5, 6)}, sgxElement{[]int{4}, octets(1, 2, 3, 4, 5, 6)}), false},
		{"FMSPC twice, no PPID", func(l *lists) { l.top[0] = l.top[3] }, false},
		{"unknown element", top(4, sgxElement{[]int{5}, enum(1)}, sgxElement{[]int{8}, enum(1)}), false},
		{"element 0", top(4, sgxElement{[]int{0}, enum(1)}), false},
		{"element of another arc", top(4, sgxElement{[]int{5, 1}, enum(1)}), false},
		{"FMSPC too short", top(3, sgxElement{[]int{4}, octets(1, 2, 3, 4, 5)}), false},
		{"FMSPC too long", top(3, sgxElement{[]int{4}, octets(1, 2, 3, 4, 5, 6, 7)}), false},
		{"FMSPC an integer", top(3, sgxElement{[]int{4}, integer(1)}), false},
		{"FMSPC with something behind", top(3, sgxElement{[]int{4}, both(octets(1, 2, 3, 4, 5, 6), integer(1))}), false},
		{"PCEID too long", top(2, sgxElement{[]int{3}, octets(1, 2, 3)}), false},
		{"type an integer", top(4, sgxElement{[]int{5}, integer(1)}), false},
		{"instance id too short", top(5, sgxElement{[]int{6}, octets(1)}), false},
		{"SVN of 256", tcb(3, sgxElement{[]int{2, 4}, integer(256)}), false},
		{"SVN of -1", tcb(3, sgxElement{[]int{2, 4}, integer(-1)}), false},
		{"SVN an enumerated", tcb(3, sgxElement{[]int{2, 4}, enum(1)}), false},
		{"SVN missing", tcb(3), false},
		{"SVN twice", tcb(3, sgxElement{[]int{2, 4}, integer(1)}, sgxElement{[]int{2, 4}, integer(1)}), false},
		{"SVN twice, another missing", tcb(3, sgxElement{[]int{2, 5}, integer(1)}), false},
		{"PCESVN of 65536", tcb(16, sgxElement{[]int{2, 17}, integer(65536)}), false},
		{"PCESVN missing", tcb(16), false},
		{"CPUSVN too short", tcb(17, sgxElement{[]int{2, 18}, octets(1)}), false},
		{"TCB element 19", tcb(17, sgxElement{[]int{2, 18}, octets(make([]byte, 16)...)}, sgxElement{[]int{2, 19}, integer(1)}), false},
		{"flag missing", config(1), false},
		{"flag an integer", config(1, sgxElement{[]int{7, 2}, integer(1)}), false},
		{"flag with a value of 1", config(1, sgxElement{[]int{7, 2}, func(b *cryptobyte.Builder) { b.AddBytes([]byte{1, 1, 1}) }}), false},
		{"flag 4", config(1, sgxElement{[]int{7, 4}, boolean(true)}), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var l lists
			l.top, l.tcb, l.config = goodSGX().elements()
			tt.edit(&l)
			e, err := parseSGXExtension(encodeSGX(l.top))
			if (err == nil) != tt.ok {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
	good := goodSGXExtension()
	e, err := parseSGXExtension(good)
	if err != nil {
		t.Fatal(err)
	}
	want := goodSGX()
	if *e.platform != *want.platform {
		t.Errorf("got %+v, want %+v", e.platform, want.platform)
	}
	want.platform = e.platform
	if *e != *want {
		t.Errorf("got %+v, want %+v", e, want)
	}
	for i := range good {
		if _, err := parseSGXExtension(good[:i]); err == nil {
			t.Errorf("first %d bytes accepted", i)
		}
	}
	if _, err := parseSGXExtension(append(good, 0)); err == nil {
		t.Error("trailing byte accepted")
	}
}

// FuzzPCKExtension checks that an accepted SGX extension says nothing but what is
// understood of it: encoded anew, it has as many bytes, since DER leaves no choice
// but the order of elements, and is understood the same.
func FuzzPCKExtension(f *testing.F) {
	f.Add(goodSGXExtension())
	small := goodSGX()
	small.platform, small.sgxType = nil, 200
	top, _, _ := small.elements()
	f.Add(encodeSGX(top))
	slices.Reverse(top)
	f.Add(encodeSGX(top))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseSGXExtension(b)
		if err != nil {
			return
		}
		top, _, _ := e.elements()
		again := encodeSGX(top)
		if len(again) != len(b) {
			t.Errorf("accepted %d bytes for what takes %d:\n%x\n%x", len(b), len(again), b, again)
		}
		e2, err := parseSGXExtension(again)
		if err != nil {
			t.Fatal(err)
		}
		if (e.platform == nil) != (e2.platform == nil) || e.platform != nil && *e.platform != *e2.platform {
			t.Errorf("got %+v, want %+v", e2.platform, e.platform)
		}
		e2.platform = e.platform
		if *e2 != *e {
			t.Errorf("got %+v, want %+v", e2, e)
		}
	})
}

// TestAppendInteger checks the DER of numbers against the standard library's.
func TestAppendInteger(t *testing.T) {
	for _, n := range [][]byte{
		make([]byte, 32),
		append(make([]byte, 31), 1),
		append(make([]byte, 31), 0x80),
		append(make([]byte, 30), 1, 0),
		bytes.Repeat([]byte{0xff}, 32),
		append([]byte{0x7f}, make([]byte, 31)...),
		append([]byte{0x80}, make([]byte, 31)...),
		append([]byte{0, 0x80}, make([]byte, 30)...),
	} {
		want, err := asn1.Marshal(new(big.Int).SetBytes(n))
		if err != nil {
			t.Fatal(err)
		}
		if got := appendInteger(nil, n); !bytes.Equal(got, want) {
			t.Errorf("%x: got %x, want %x", n, got, want)
		}
	}
}

// TestAttestationKey has an attestation key that isn't a point of the curve. A QE
// report that vouches for one can't be had, so the step is tested by itself.
func TestAttestationKey(t *testing.T) {
	q := &Quote{AttestationKey: make([]byte, attestationKeySize), Signature: make([]byte, signatureSize), signed: []byte{1}}
	checkReason(t, checkQuoteSignature(q), ReasonSignature)
}
