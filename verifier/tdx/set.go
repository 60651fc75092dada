package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// A Set is collateral whose parts were parsed, and whose signatures and chains
// were verified under a root. It says nothing about time: see [Set.ValidAt]. It
// is immutable, and can be used concurrently.
type Set struct {
	collateral *Collateral
	root       *Root
	tcb        *tcbInfo
	qe         *qeIdentity
	rootCRL    *crl
	pckCRL     *crl
	ca         string // whose CRL pckCRL is
	caName     []byte // DER of the CA's subject
	caKey      []byte // DER of the CA's public key
	windows    []window
	from, to   time.Time
}

// Compile parses c and verifies everything in it that doesn't depend on a
// platform or on time: the certificate chains to root, that none of their
// certificates is on a CRL, the signatures of TCB info, QE identity and CRLs, and
// that TCB info and QE identity are for TDX. The Set retains a copy of c.
//
// The error is an *[Error].
func Compile(c *Collateral, root *Root) (*Set, error) {
	c = c.clone()
	s := &Set{collateral: c, root: root}
	s.addWindow(certWindow(root.cert))

	// Chains first: the wrong root should be called that, not a bad signature.
	tcbKey, tcbSerial, err := s.parseSigner(c.TCBInfoChain)
	if err != nil {
		return nil, err
	}
	qeKey, qeSerial, err := s.parseSigner(c.QEIdentityChain)
	if err != nil {
		return nil, err
	}
	ders, err := splitPEM(c.PCKCRLChain, 2)
	if err != nil {
		return nil, err
	}
	ca, kind, err := parseCA(ders[0], ders[1], root)
	if err != nil {
		return nil, err
	}
	s.addWindow(certWindow(ca))
	s.ca, s.caName, s.caKey = kind, ca.RawSubject, ca.RawSubjectPublicKeyInfo

	if s.rootCRL, err = parseCRL("root CA CRL", c.RootCRL, root.cert); err != nil {
		return nil, err
	}
	s.addWindow(s.rootCRL.window)
	if s.pckCRL, err = parseCRL("PCK CRL", c.PCKCRL, ca); err != nil {
		return nil, err
	}
	s.addWindow(s.pckCRL.window)
	for _, issued := range []struct{ name, serial string }{
		{cnTCBSigning, tcbSerial}, {cnTCBSigning, qeSerial}, {ca.Subject.CommonName, serialKey(ca.SerialNumber)},
	} {
		if s.rootCRL.has(issued.serial) {
			return nil, refuse(ReasonRevoked, "%s certificate %s is on the root CA CRL", issued.name, issued.serial)
		}
	}

	text, err := verifyBody(tcbInfoMember, c.TCBInfo, tcbKey)
	if err != nil {
		return nil, err
	}
	if s.tcb, err = parseTCBInfo(text); err != nil {
		return nil, err
	}
	s.addWindow(s.tcb.window)
	if text, err = verifyBody(qeIdentityMember, c.QEIdentity, qeKey); err != nil {
		return nil, err
	}
	if s.qe, err = parseQEIdentity(text); err != nil {
		return nil, err
	}
	s.addWindow(s.qe.window)
	return s, nil
}

// parseSigner verifies a chain of a TCB signing certificate and the root
// (TCBSigningChain.cpp of Intel's library), and returns the certificate's key and
// serial number.
func (s *Set) parseSigner(chain []byte) (*ecdsa.PublicKey, string, error) {
	ders, err := splitPEM(chain, 2)
	if err != nil {
		return nil, "", err
	}
	if !bytes.Equal(ders[1], s.root.cert.Raw) {
		return nil, "", refuse(ReasonRoot, "TCB signing chain doesn't end in %v", s.root)
	}
	c, err := parseCert(ders[0], cnTCBSigning, false)
	if err != nil {
		return nil, "", err
	}
	if err := checkIssuer(c, s.root.cert, 0); err != nil {
		return nil, "", err
	}
	s.addWindow(certWindow(c))
	return c.PublicKey.(*ecdsa.PublicKey), serialKey(c.SerialNumber), nil
}

// verifyBody verifies a response body with the TCB signing key, and returns the
// signed text (TCBInfoVerifier.cpp and EnclaveIdentityVerifier.cpp).
//
// Intel's library verifies a text that it writes anew from the parsed JSON. The
// signature is over the text as Intel's service sends it, so that is used here, and
// nothing can be lost between the two.
func verifyBody(member string, body []byte, key *ecdsa.PublicKey) ([]byte, error) {
	text, sig, err := splitBody(member, body)
	if err != nil {
		return nil, err
	}
	rs, err := hex.DecodeString(sig)
	if err != nil { // splitBody checked it
		return nil, refuse(ReasonCollateral, "%s: signature: %v", member, err)
	}
	sum := sha256.Sum256(text)
	if !verifyP256(key, sum[:], rs) {
		return nil, refuse(ReasonSignature, "signature of %s doesn't verify", member)
	}
	return text, nil
}

// addWindow narrows the set's window by w.
func (s *Set) addWindow(w window) {
	if len(s.windows) == 0 || w.from.After(s.from) {
		s.from = w.from
	}
	if len(s.windows) == 0 || w.to.Before(s.to) {
		s.to = w.to
	}
	s.windows = append(s.windows, w)
}

// Collateral returns what s was compiled from. It must not be modified.
func (s *Set) Collateral() *Collateral { return s.collateral }

// Root returns the root under which s was compiled.
func (s *Set) Root() *Root { return s.root }

// FMSPC returns the kind of platform that the TCB info is for, in lowercase hex.
func (s *Set) FMSPC() string { return s.tcb.fmspc }

// PCEID returns the id of the provisioning certification enclave that the TCB
// info is for, in lowercase hex.
func (s *Set) PCEID() string { return s.tcb.pceid }

// PCKCA returns whose revocations s knows: CAPlatform or CAProcessor.
func (s *Set) PCKCA() string { return s.ca }

// TCBEvaluationDataNumber returns the number of the TCB info, which Intel
// increases with each TCB recovery event.
func (s *Set) TCBEvaluationDataNumber() uint32 { return s.tcb.evaluation }

// QEEvaluationDataNumber returns the number of the QE identity.
func (s *Set) QEEvaluationDataNumber() uint32 { return s.qe.evaluation }

// Window returns when all of s is valid: from is the earliest time at which it
// is, and to the first after that at which it isn't any more. If from isn't before
// to, there is no such time.
func (s *Set) Window() (from, to time.Time) { return s.from, s.to }

// ValidAt returns nil if everything in s is valid at that time: issueDate and
// thisUpdate ≤ at < nextUpdate, and certificates from notBefore to notAfter, both
// included. Else the error is a *[StaleError] for the first part that isn't.
func (s *Set) ValidAt(at time.Time) error {
	for i := range s.windows {
		if err := s.windows[i].check(at); err != nil {
			return err.Err
		}
	}
	return nil
}
