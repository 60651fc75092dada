package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A Result says what is known of the platform that made a genuine quote. It
// doesn't alias the quote, and must not be modified. It says nothing of the TD,
// whose fields are in the [Quote].
type Result struct {
	// Status is the platform's TCB status, of all components together; it is
	// never StatusRevoked. Whether it is good enough is for the caller to judge.
	Status     Status
	Advisories []Advisory // of all components: Platform, then Module, then QE

	// The TCB levels that the parts of the platform reached. The platform's is
	// the one whose SGX and TDX components it reached. Module is zero for TDX
	// modules of version 0, whose SVN is one of the platform's components.
	Platform, Module, QE Component

	// SGX is the status of the highest level whose SGX components the platform
	// reached, whatever its TDX components. It matters for TDRelaunchAdvised only.
	SGX Status

	FMSPC      string   // kind of platform, lowercase hex
	PCEID      string   // lowercase hex
	PPID       string   // identity of the processor package for provisioning, lowercase hex
	PCKChain   [32]byte // SHA-256 of the DER of PCK certificate, CA and root
	PCKSerial  string   // serial number of the PCK certificate, lowercase hex
	PCKCA      string   // CAPlatform or CAProcessor
	SGXType    uint8    // of memory protection; 0: standard, 1: scalable, 2: scalable with integrity
	InstanceID string   // of a platform with several packages, lowercase hex; else ""
	// Configuration is nil unless Intel certified a platform with several packages.
	Configuration *Configuration

	TCBComponents [16]byte // SVNs of the SGX TCB components, of the PCK certificate
	CPUSVN        [16]byte // of the PCK certificate
	PCESVN        uint16   // of the PCK certificate

	TEETCBSVN  [16]byte  // of the quote: when the TD was launched
	TEETCBSVN2 *[16]byte // of the quote: when it was made; nil unless the body type is 3
	ModuleID   string    // such as "TDX_01"; "" for version 0
	QEISVSVN   uint16

	TCBEvaluationDataNumber, QEEvaluationDataNumber uint32

	At                           time.Time // when the quote was judged
	CollateralFrom, CollateralTo time.Time // [Set.Window] of the collateral
	PCKFrom, PCKTo               time.Time // when the PCK chain is valid, likewise
}

// A Component is a TCB level: how far a part of the platform is up to date.
type Component struct {
	Status     Status
	Date       time.Time // tcbDate: the TCB level has all fixes that were published by then
	Advisories []string  // ids of security advisories that affect this level
}

// An Advisory is a security advisory of Intel that affects the platform.
type Advisory struct {
	ID     string // such as "INTEL-SA-00837"
	Source Source
}

// A Source is the part of the platform that an advisory comes with.
type Source string

const (
	SourcePlatform Source = "platform"
	SourceModule   Source = "module" // the TDX module
	SourceQE       Source = "qe"     // the quoting enclave
)

// A Configuration is how a platform with several packages was set up.
type Configuration struct {
	DynamicPlatform bool // packages can be added
	CachedKeys      bool // Intel keeps the platform's root keys
	SMTEnabled      bool // hyper-threading is on
}

// A Verifier verifies quotes under a root. It can be used concurrently.
//
// It remembers the PCK certificate chains that it verified, by SHA-256 of their
// raw bytes: their facts and validity windows, never a verdict. What changes with
// time or collateral is checked for every quote.
type Verifier struct {
	root *Root

	// mu guards platforms, and is never held while a chain is verified. The
	// values are immutable.
	mu        sync.Mutex
	platforms *simplelru.LRU[[32]byte, *platform]
}

// NewVerifier returns a Verifier that trusts root, and remembers the PCK
// certificate chains of at most that many platforms, about 3 KB each. It panics
// unless platforms is positive.
func NewVerifier(root *Root, platforms int) *Verifier {
	lru, err := simplelru.NewLRU[[32]byte, *platform](platforms, nil)
	if err != nil {
		panic("tdx: NewVerifier: " + err.Error())
	}
	return &Verifier{root: root, platforms: lru}
}

// Root returns the root that v trusts.
func (v *Verifier) Root() *Root { return v.root }

// platform returns the facts of a verified PCK certificate chain.
func (v *Verifier) platform(pem []byte) (*platform, error) {
	sum := sha256.Sum256(pem)
	v.mu.Lock()
	p, ok := v.platforms.Get(sum)
	v.mu.Unlock()
	if ok {
		return p, nil
	}
	p, err := parsePCKChain(pem, v.root)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	v.platforms.Add(sum, p)
	v.mu.Unlock()
	return p, nil
}

// Verify checks that genuine hardware made q, which must come from [ParseQuote],
// by the rules of Intel's Quote Verification Library and the collateral s, with
// everything judged at the time at. Both signatures, of the QE report and of the
// quote, are verified every time.
//
// The error is an *[Error], and the Result is nil exactly when the error isn't.
// Verify does no I/O, and doesn't modify or retain its arguments.
//
// Verify doesn't judge the TD: its attributes, measurements and report data are
// what genuine hardware reported, even of a TD under debug. Nor does it know whether
// somebody extracted this platform's keys by physical means.
func (v *Verifier) Verify(q *Quote, s *Set, at time.Time) (*Result, error) {
	if q.signed == nil {
		return nil, refuse(ReasonParse, "quote wasn't parsed")
	}
	if s.root.sum != v.root.sum {
		return nil, refuse(ReasonRoot, "collateral was compiled under %v, want %v", s.root, v.root)
	}
	p, err := v.platform(q.PCKChain)
	if err != nil {
		return nil, err
	}
	if err := checkTimes(p, s, at); err != nil {
		return nil, err
	}
	if err := checkRevocation(p, s); err != nil {
		return nil, err
	}

	// From here in the order of QuoteVerifier.cpp.
	if p.fmspc != s.tcb.fmspc {
		return nil, refuse(ReasonFMSPC, "platform has FMSPC %s, collateral is for %s", p.fmspc, s.tcb.fmspc)
	}
	if p.pceid != s.tcb.pceid {
		return nil, refuse(ReasonFMSPC, "platform has PCEID %s, collateral is for %s", p.pceid, s.tcb.pceid)
	}
	module, err := checkModule(&q.Body, s.tcb)
	if err != nil {
		return nil, err
	}
	if err := checkQEReport(q, p); err != nil {
		return nil, err
	}
	qe, qeSVN, err := s.qe.check(q.QEReport)
	if err != nil {
		return nil, err
	}
	if err := checkQuoteSignature(q); err != nil {
		return nil, err
	}
	l, err := judge(q, p, s.tcb, module, qe)
	if err != nil {
		return nil, err
	}

	r := &Result{
		Status:   l.status,
		Platform: l.tdx.component,
		QE:       qe.component,
		SGX:      l.sgx.component.Status,

		FMSPC:      p.fmspc,
		PCEID:      p.pceid,
		PPID:       p.ppid,
		PCKChain:   p.chain,
		PCKSerial:  p.serial,
		PCKCA:      p.ca,
		SGXType:    p.ext.sgxType,
		InstanceID: p.instanceID,

		TCBComponents: p.ext.components,
		CPUSVN:        p.ext.cpusvn,
		PCESVN:        p.ext.pcesvn,

		TEETCBSVN: [16]byte(q.Body.TEETCBSVN),
		QEISVSVN:  qeSVN,

		TCBEvaluationDataNumber: s.tcb.evaluation,
		QEEvaluationDataNumber:  s.qe.evaluation,

		At:             at,
		CollateralFrom: s.from,
		CollateralTo:   s.to,
		PCKFrom:        p.from,
		PCKTo:          p.to,
	}
	if p.ext.platform != nil {
		r.Configuration = &p.ext.platform.config
	}
	if q.Body.TEETCBSVN2 != nil {
		svn2 := [16]byte(q.Body.TEETCBSVN2)
		r.TEETCBSVN2 = &svn2
	}
	if module != nil {
		r.ModuleID = module.id
	}
	if l.module != nil {
		r.Module = l.module.component
	}
	if n := len(r.Platform.Advisories) + len(r.Module.Advisories) + len(r.QE.Advisories); n > 0 {
		r.Advisories = make([]Advisory, 0, n)
		for _, id := range r.Platform.Advisories {
			r.Advisories = append(r.Advisories, Advisory{id, SourcePlatform})
		}
		for _, id := range r.Module.Advisories {
			r.Advisories = append(r.Advisories, Advisory{id, SourceModule})
		}
		for _, id := range r.QE.Advisories {
			r.Advisories = append(r.Advisories, Advisory{id, SourceQE})
		}
	}
	return r, nil
}

// checkTimes checks that the PCK chain and all collateral is valid at that time.
// Intel's library only asks whether something has expired (and of the PCK
// certificate's beginning nothing): we also refuse what lies in the future.
func checkTimes(p *platform, s *Set, at time.Time) error {
	for i := range p.windows {
		if err := p.windows[i].check(at); err != nil {
			return err
		}
	}
	for i := range s.windows {
		if err := s.windows[i].check(at); err != nil {
			return err
		}
	}
	return nil
}

// checkRevocation checks the PCK chain against both CRLs (PckCertVerifier.cpp).
//
// Intel verifies the PCK CRL with the CA certificate of the PCK chain. Compile
// verified it with that of the collateral: the same holds if both have the same
// name and key. (The certificates may differ, since Intel can issue one anew.)
func checkRevocation(p *platform, s *Set) error {
	if p.ca != s.ca || !bytes.Equal(p.caName, s.caName) || !bytes.Equal(p.caKey, s.caKey) {
		return refuse(ReasonChain, "PCK certificate is from the %s CA, collateral has the CRL of a %s CA", p.ca, s.ca)
	}
	if s.rootCRL.has(p.caSerial) {
		return refuse(ReasonRevoked, "%s CA certificate %s is on the root CA CRL", p.ca, p.caSerial)
	}
	if s.pckCRL.has(p.serial) {
		return refuse(ReasonRevoked, "PCK certificate %s is on the PCK CRL", p.serial)
	}
	return nil
}

// checkModule checks that TCB info recognises the TDX module's signer and
// attributes, and returns the module's identity, nil if the module has version 0.
//
// QuoteVerifier.cpp: modules of version 0 are compared with tdxModule, others with
// the identity of their version. MRSIGNERSEAM must be equal, and SEAMATTRIBUTES
// must be both zero and equal; the mask isn't used.
func checkModule(d *TDBody, t *tcbInfo) (*moduleIdentity, error) {
	want, found := &t.module, (*moduleIdentity)(nil)
	if version := d.TEETCBSVN[1]; version > 0 {
		found = t.identity(moduleID(version))
		if found == nil {
			return nil, refuse(ReasonModule, "TCB info has no identity for TDX module %s", moduleID(version))
		}
		want = found
	}
	if !bytes.Equal(d.MRSignerSEAM, want.mrsigner[:]) {
		return nil, refuse(ReasonModule, "TDX module has MRSIGNERSEAM %x, want %x", d.MRSignerSEAM, want.mrsigner)
	}
	if [8]byte(d.SEAMAttributes) != [8]byte{} || want.attributes != [8]byte{} {
		return nil, refuse(ReasonModule, "TDX module has SEAMATTRIBUTES %x, want %x and zero", d.SEAMAttributes, want.attributes)
	}
	return found, nil
}

// checkQEReport checks that the PCK certifies the quoting enclave's report, and
// the report the attestation key.
func checkQEReport(q *Quote, p *platform) error {
	sum := sha256.Sum256(q.QEReport)
	if !verifyP256(p.key, sum[:], q.QEReportSignature) {
		return refuse(ReasonSignature, "signature of the QE report doesn't verify")
	}
	// The first half of the report data is the hash; QuoteVerifier.cpp doesn't
	// look at the second, which Intel's quoting enclave leaves zero: it is the
	// enclave's, whose identity is checked, to say.
	h := sha256.New()
	h.Write(q.AttestationKey)
	h.Write(q.QEAuthData)
	const reportData = 320
	if !bytes.Equal(h.Sum(sum[:0]), q.QEReport[reportData:reportData+sha256.Size]) {
		return refuse(ReasonSignature, "QE report isn't for the quote's attestation key and authentication data")
	}
	return nil
}

// checkQuoteSignature checks that the attestation key signed header and body.
func checkQuoteSignature(q *Quote) error {
	point := [1 + attestationKeySize]byte{4} // uncompressed
	copy(point[1:], q.AttestationKey)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point[:])
	if err != nil {
		return refuse(ReasonSignature, "attestation key: %v", err)
	}
	sum := sha256.Sum256(q.signed)
	if !verifyP256(key, sum[:], q.Signature) {
		return refuse(ReasonSignature, "signature of the quote doesn't verify")
	}
	return nil
}

// verifyP256 verifies a signature of 64 bytes, r and s.
func verifyP256(key *ecdsa.PublicKey, sum, rs []byte) bool {
	var buf [2 + 2*(2+33)]byte
	der := append(buf[:0], 0x30, 0)
	der = appendInteger(der, rs[:32])
	der = appendInteger(der, rs[32:])
	der[1] = byte(len(der) - 2)
	return ecdsa.VerifyASN1(key, sum, der)
}

// appendInteger appends the DER of an unsigned big-endian number of at most 32
// bytes.
func appendInteger(der, n []byte) []byte {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	pad := n[0] >> 7 // else the number would be negative
	der = append(der, 2, byte(len(n))+pad)
	if pad == 1 {
		der = append(der, 0)
	}
	return append(der, n...)
}
