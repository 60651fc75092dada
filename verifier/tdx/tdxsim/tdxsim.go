// Package tdxsim is a made-up Intel: a provisioning certification service with
// its certificates and collateral, and TDX platforms that issue quotes under
// it. What it makes has the structure, names and extensions of the real thing,
// and none of the trust: a verifier accepts it only under the made-up root.
// Tests, demos and load generators use it.
//
// Keys, certificates, collateral and quotes are the same whenever the seed and
// the options are the same (signatures are those of RFC 6979), unless
// [QuoteOptions.FreshQE] asks otherwise. That also means that whoever knows the
// seed can sign: a made-up root must never be configured where real evidence
// is judged.
package tdxsim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The two certificate authorities under Intel's root that issue PCK
// certificates, as the ca parameter of Intel's service names them. Platforms
// with several packages are registered and use the first.
const (
	PlatformCA  = "platform"
	ProcessorCA = "processor"
)

// DefaultFMSPC is the family of the default platform and collateral.
const DefaultFMSPC = "90C06F000000"

// A PKI is a made-up Intel: the root, the two PCK authorities, and the key that
// signs TCB information. It is immutable and can be used concurrently.
type PKI struct {
	seed []byte
	from time.Time

	root, platform, processor, tcb *authority
}

// An authority is a key with its certificate.
type authority struct {
	key  *ecdsa.PrivateKey
	der  []byte
	cert *x509.Certificate
	pem  []byte
}

// NewPKI returns the PKI of a seed. Its certificates are valid from one year
// before from (so that archived collateral can be made) until at least seven
// years after. Collateral is issued at from unless its options name a date, so
// that a PKI made with the current time gives collateral in force now.
func NewPKI(seed []byte, from time.Time) *PKI {
	p := &PKI{seed: append([]byte(nil), seed...), from: from.UTC().Truncate(time.Second)}
	start := p.from.AddDate(-1, 0, 0)

	// Intel's root is valid until the end of 2049, the authorities for 15
	// years, the TCB signing and PCK certificates for 7.
	p.root = p.issue(certificate{
		label: "root", name: "Intel SGX Root CA", keyIDSerial: true,
		from: start, to: p.from.AddDate(30, 0, 0), ca: true, pathLen: 1, crl: rootCRLURL,
	}, nil)
	p.platform = p.issue(certificate{
		label: "platform-ca", name: "Intel SGX PCK Platform CA", keyIDSerial: true,
		from: start, to: p.from.AddDate(15, 0, 0), ca: true, crl: rootCRLURL,
	}, p.root)
	p.processor = p.issue(certificate{
		label: "processor-ca", name: "Intel SGX PCK Processor CA", keyIDSerial: true,
		from: start, to: p.from.AddDate(15, 0, 0), ca: true, crl: rootCRLURL,
	}, p.root)
	p.tcb = p.issue(certificate{
		label: "tcb-signing", name: "Intel SGX TCB Signing", keyIDSerial: true,
		from: start, to: p.from.AddDate(7, 0, 0), crl: rootCRLURL,
	}, p.root)
	return p
}

// Root returns the DER encoding of the root certificate, in a new slice.
func (p *PKI) Root() []byte { return append([]byte(nil), p.root.der...) }

// RootPEM returns the root certificate as PEM.
func (p *PKI) RootPEM() []byte { return append([]byte(nil), p.root.pem...) }

// CASerial returns the serial number of a PCK authority's certificate, for the
// root's revocation list.
func (p *PKI) CASerial(ca string) *big.Int {
	return new(big.Int).Set(p.authority(ca).cert.SerialNumber)
}

// TCBSigningSerial returns the serial number of the certificate that signs TCB
// information and QE identities, for the root's revocation list.
func (p *PKI) TCBSigningSerial() *big.Int { return new(big.Int).Set(p.tcb.cert.SerialNumber) }

// authority returns the PCK authority named ca. It panics if there is none,
// which is a mistake in the test that asked.
func (p *PKI) authority(ca string) *authority {
	switch ca {
	case PlatformCA, "":
		return p.platform
	case ProcessorCA:
		return p.processor
	}
	panic(fmt.Sprintf("tdxsim: unknown PCK CA %q", ca))
}

// Locations of revocation lists that Intel's certificates name.
const (
	rootCRLURL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
	pckCRLURL  = "https://api.trustedservices.intel.com/sgx/certification/v4/pckcrl?ca=%s&encoding=der"
)

// derive returns n bytes that depend on the seed and the label.
func (p *PKI) derive(label string, n int) []byte {
	b, err := hkdf.Key(sha256.New, p.seed, []byte("tdxsim"), label, n)
	if err != nil {
		panic("tdxsim: hkdf: " + err.Error()) // n is a constant far below the limit
	}
	return b
}

// key returns the P-256 key of a label. ecdsa.GenerateKey doesn't honor a
// deterministic source of randomness, so the scalar is derived: a candidate out
// of range, one in 2³², makes way for the next.
func (p *PKI) key(label string) *ecdsa.PrivateKey {
	for i := 0; ; i++ {
		k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), p.derive(fmt.Sprintf("key %s %d", label, i), 32))
		if err == nil {
			return k
		}
	}
}

// certificate describes a certificate in Intel's style.
type certificate struct {
	label       string // derives the key and the serial number
	name        string // common name
	from, to    time.Time
	ca          bool
	pathLen     int // of a CA
	keyIDSerial bool
	crl         string
	extra       []pkix.Extension
}

// issue makes a certificate; a nil issuer means self-signed. The extensions
// come in the order of Intel's certificates, which isn't the order in which
// crypto/x509 would write them.
func (p *PKI) issue(c certificate, issuer *authority) *authority {
	key := p.key(c.label)
	keyID := subjectKeyID(&key.PublicKey)
	issuerKey, issuerKeyID := key, keyID
	subject := rawName(c.name)
	parent := &x509.Certificate{RawSubject: subject}
	if issuer != nil {
		parent, issuerKey, issuerKeyID = issuer.cert, issuer.key, issuer.cert.SubjectKeyId
	}

	// The serial numbers of Intel's authorities are their key identifiers;
	// those of the others are 20 bytes as well.
	serial := new(big.Int).SetBytes(keyID)
	if !c.keyIDSerial {
		b := p.derive("serial "+c.label, 20)
		b[0] = b[0]&0x7f | 0x40 // positive in DER, and always 20 bytes
		serial.SetBytes(b)
	}

	usage, constraints := x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment, []byte{0x30, 0x00}
	usageDER := []byte{0x03, 0x02, 0x06, 0xc0}
	if c.ca {
		usage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
		usageDER = []byte{0x03, 0x02, 0x01, 0x06}
		constraints = []byte{0x30, 0x06, 0x01, 0x01, 0xff, 0x02, 0x01, byte(c.pathLen)}
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		RawSubject:            subject,
		NotBefore:             c.from,
		NotAfter:              c.to,
		KeyUsage:              usage,
		IsCA:                  c.ca,
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID,
		SignatureAlgorithm:    x509.ECDSAWithSHA256,
		ExtraExtensions: append([]pkix.Extension{
			{Id: asn1.ObjectIdentifier{2, 5, 29, 35}, Value: append([]byte{0x30, 0x16, 0x80, 0x14}, issuerKeyID...)},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 31}, Value: crlDistributionPoint(c.crl)},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 14}, Value: append([]byte{0x04, 0x14}, keyID...)},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: true, Value: usageDER},
			{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: constraints},
		}, c.extra...),
	}
	// A nil source of randomness gives the deterministic signature of RFC 6979.
	der, err := x509.CreateCertificate(nil, template, parent, &key.PublicKey, issuerKey)
	if err != nil {
		panic(fmt.Sprintf("tdxsim: certificate %q: %v", c.name, err))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(fmt.Sprintf("tdxsim: certificate %q: %v", c.name, err))
	}
	return &authority{key, der, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// subjectKeyID returns the key identifier of RFC 5280, section 4.2.1.2, (1).
func subjectKeyID(pub *ecdsa.PublicKey) []byte {
	point, err := pub.Bytes()
	if err != nil {
		panic("tdxsim: public key: " + err.Error())
	}
	sum := sha1.Sum(point)
	return sum[:]
}

// rawName encodes a distinguished name in the order and with the string types
// of Intel's certificates.
func rawName(common string) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		for _, a := range []struct {
			id    int // under 2.5.4
			tag   cbasn1.Tag
			value string
		}{
			{3, cbasn1.UTF8String, common},
			{10, cbasn1.UTF8String, "Intel Corporation"},
			{7, cbasn1.UTF8String, "Santa Clara"},
			{8, cbasn1.UTF8String, "CA"},
			{6, cbasn1.PrintableString, "US"},
		} {
			b.AddASN1(cbasn1.SET, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(asn1.ObjectIdentifier{2, 5, 4, a.id})
					b.AddASN1(a.tag, func(b *cryptobyte.Builder) { b.AddBytes([]byte(a.value)) })
				})
			})
		}
	})
	return b.BytesOrPanic()
}

func crlDistributionPoint(url string) []byte {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.Tag(0).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.Tag(6).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes([]byte(url)) })
				})
			})
		})
	})
	return b.BytesOrPanic()
}

// PlatformOptions describes a machine. The zero value is the default platform,
// which the default collateral calls UpToDate.
type PlatformOptions struct {
	// Name tells platforms of one PKI apart: it derives keys, PPID, and serial
	// number. Platforms with the same name have the same keys.
	Name string

	FMSPC string // 12 hex digits, DefaultFMSPC by default
	PCEID string // 4 hex digits, "0000" by default
	CA    string // PlatformCA by default

	SVNs   *[16]byte // SGX component SVNs, DefaultSVNs by default
	PCESVN *uint16   // DefaultPCESVN by default
	CPUSVN *[16]byte // the SVNs by default, as Intel's certificates have it
	PPID   *[16]byte // derived from the name by default

	// NotBefore and NotAfter are the PCK certificate's validity, by default
	// from one year before the PKI's time to six years after.
	NotBefore, NotAfter time.Time

	// TEETCBSVN is what the TDX module and the CPU report: byte 0 is the
	// module's SVN, byte 1 its major version, byte 2 the late microcode's SVN.
	// It is DefaultTEETCBSVN by default.
	TEETCBSVN      *[16]byte
	MRSEAM         [48]byte // Measurement("mrseam") by default
	MRSignerSEAM   [48]byte // zero is Intel's
	SEAMAttributes [8]byte

	QE QEOptions
}

// QEOptions describes the quoting enclave of a platform as its report has it.
type QEOptions struct {
	MRSigner   *[32]byte // DefaultQEMRSigner by default
	MREnclave  [32]byte  // derived by default
	ISVProdID  *uint16   // 2 by default
	ISVSVN     *uint16   // DefaultQESVN by default
	MiscSelect [4]byte
	Attributes *[16]byte // DefaultQEAttributes by default
}

// What the default platform has. The default collateral's newest levels ask for
// exactly this. Copy the arrays to change them.
var (
	DefaultSVNs         = [16]byte{3, 3, 2, 2, 4, 1, 0, 5}
	DefaultPCESVN       = uint16(13)
	DefaultTEETCBSVN    = [16]byte{5, 1, 2}
	DefaultQESVN        = uint16(4)
	DefaultQEMRSigner   = sha256.Sum256([]byte("quoting enclave signer"))
	DefaultQEAttributes = [16]byte{0: 0x15, 8: 0xe7}
)

// Measurement returns SHA-384 of a label. The measurements of a quote whose
// options don't name any are Measurement("mrtd"), Measurement("rtmr0") and so
// on.
func Measurement(label string) [48]byte { return sha512.Sum384([]byte(label)) }

// A Platform is a machine with a PCK certificate, a quoting enclave, and an
// attestation key that the enclave's report vouches for. It is immutable and
// can be used concurrently.
type Platform struct {
	options PlatformOptions
	pck     *authority
	chain   []byte // PEM of PCK, authority, and root, with the zero byte that real quotes have behind it
	attest  *ecdsa.PrivateKey
	point   []byte // of attest, X and Y
	qeID    [16]byte
	body    [bodySize3]byte // what doesn't depend on the quote
	report  [384]byte       // of the QE, without report data
	suffix  []byte          // certification data for the default auth data
}

// NewPlatform makes a platform. It panics if the options make no sense, such as
// an FMSPC that isn't 12 hex digits.
func (p *PKI) NewPlatform(o PlatformOptions) *Platform {
	setDefault(&o.FMSPC, DefaultFMSPC)
	setDefault(&o.PCEID, "0000")
	setDefault(&o.CA, PlatformCA)
	setDefault(&o.SVNs, &DefaultSVNs)
	setDefault(&o.PCESVN, &DefaultPCESVN)
	setDefault(&o.CPUSVN, o.SVNs)
	setDefault(&o.TEETCBSVN, &DefaultTEETCBSVN)
	setDefault(&o.MRSEAM, Measurement("mrseam"))
	setDefault(&o.NotBefore, p.from.AddDate(-1, 0, 0))
	setDefault(&o.NotAfter, p.from.AddDate(6, 0, 0))
	setDefault(&o.QE.MRSigner, &DefaultQEMRSigner)
	setDefault(&o.QE.MREnclave, [32]byte(p.derive("quoting enclave", 32)))
	setDefault(&o.QE.ISVProdID, new(uint16(2)))
	setDefault(&o.QE.ISVSVN, &DefaultQESVN)
	setDefault(&o.QE.Attributes, &DefaultQEAttributes)
	label := "platform " + o.Name
	if o.PPID == nil {
		o.PPID = new([16]byte(p.derive("ppid "+label, 16)))
	}

	pl := &Platform{options: o}
	issuer := p.authority(o.CA)
	pl.pck = p.issue(certificate{
		label: label, name: "Intel SGX PCK Certificate",
		from: o.NotBefore, to: o.NotAfter,
		crl: fmt.Sprintf(pckCRLURL, o.CA),
		extra: []pkix.Extension{{
			Id:    asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1},
			Value: sgxExtension(o, p.derive("instance "+label, 16)),
		}},
	}, issuer)
	pl.chain = append(append(append(append(pl.chain, pl.pck.pem...), issuer.pem...), p.root.pem...), 0)

	pl.attest = p.key("attestation " + label)
	point, err := pl.attest.PublicKey.Bytes()
	if err != nil {
		panic("tdxsim: attestation key: " + err.Error())
	}
	pl.point = point[1:] // without the 04 of an uncompressed point
	copy(pl.qeID[:], p.derive("qe id "+label, 16))

	copy(pl.body[offTEETCBSVN:], o.TEETCBSVN[:])
	copy(pl.body[offMRSEAM:], o.MRSEAM[:])
	copy(pl.body[offMRSignerSEAM:], o.MRSignerSEAM[:])
	copy(pl.body[offSEAMAttributes:], o.SEAMAttributes[:])

	copy(pl.report[0:], o.CPUSVN[:])
	copy(pl.report[16:], o.QE.MiscSelect[:])
	copy(pl.report[48:], o.QE.Attributes[:])
	copy(pl.report[64:], o.QE.MREnclave[:])
	copy(pl.report[128:], o.QE.MRSigner[:])
	binary.LittleEndian.PutUint16(pl.report[256:], *o.QE.ISVProdID)
	binary.LittleEndian.PutUint16(pl.report[258:], *o.QE.ISVSVN)

	if pl.suffix, err = pl.certify(DefaultAuthDataSize, false); err != nil {
		panic("tdxsim: " + err.Error())
	}
	return pl
}

// setDefault sets *v to def if it is zero.
func setDefault[T comparable](v *T, def T) {
	if *v == *new(T) {
		*v = def
	}
}

// FMSPC returns the platform's family as 12 hex digits, as its options have it.
func (pl *Platform) FMSPC() string { return pl.options.FMSPC }

// CA returns which authority issued the platform's PCK certificate.
func (pl *Platform) CA() string { return pl.options.CA }

// PCKSerial returns the serial number of the PCK certificate, for that
// authority's revocation list.
func (pl *Platform) PCKSerial() *big.Int { return new(big.Int).Set(pl.pck.cert.SerialNumber) }

// PPID returns the platform's identity, which its PCK certificate holds.
func (pl *Platform) PPID() [16]byte { return *pl.options.PPID }

// PCKChain returns the PEM certificates that the platform's quotes hold, PCK
// first.
func (pl *Platform) PCKChain() []byte {
	return append([]byte(nil), pl.chain[:len(pl.chain)-1]...)
}

// sgxExtension encodes the extension of a PCK certificate that names the
// platform (Intel SGX PCK Certificate and Certificate Revocation List Profile
// Specification, section 1.3.5). Certificates of the Processor CA don't have
// the platform instance and its configuration.
func sgxExtension(o PlatformOptions, instance []byte) []byte {
	sub := func(b *cryptobyte.Builder, id []int, value func(*cryptobyte.Builder)) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, id...))
			value(b)
		})
	}
	octets := func(v []byte) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) }
	}
	integer := func(v uint16) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(v)) }
	}
	yes := func(b *cryptobyte.Builder) { b.AddASN1Boolean(true) }

	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		sub(b, []int{1}, octets(o.PPID[:]))
		sub(b, []int{2}, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for i, svn := range o.SVNs {
					sub(b, []int{2, i + 1}, integer(uint16(svn)))
				}
				sub(b, []int{2, 17}, integer(*o.PCESVN))
				sub(b, []int{2, 18}, octets(o.CPUSVN[:]))
			})
		})
		sub(b, []int{3}, octets(unhex("PCEID", o.PCEID, 2)))
		sub(b, []int{4}, octets(unhex("FMSPC", o.FMSPC, 6)))
		sgxType := uint64(1) // scalable
		if o.CA == ProcessorCA {
			sgxType = 0 // standard
		}
		sub(b, []int{5}, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.ENUM, func(b *cryptobyte.Builder) { b.AddUint8(uint8(sgxType)) })
		})
		if o.CA == ProcessorCA {
			return
		}
		sub(b, []int{6}, octets(instance))
		sub(b, []int{7}, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				sub(b, []int{7, 1}, yes) // dynamic platform
				sub(b, []int{7, 2}, yes) // cached keys
				sub(b, []int{7, 3}, yes) // SMT enabled
			})
		})
	})
	return b.BytesOrPanic()
}

// unhex decodes n bytes of hex, and panics if there are more or fewer.
func unhex(what, s string, n int) []byte {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != n {
		panic(fmt.Sprintf("tdxsim: %s %q is not %d hex digits", what, s, 2*n))
	}
	return b
}

// TD attributes, as bits of the little-endian field of a quote (Intel TDX
// Module Base Architecture Specification, TD attributes).
const (
	AttrDebug         uint64 = 1 << 0
	AttrSEPTVEDisable uint64 = 1 << 28
	AttrMigratable    uint64 = 1 << 29
	AttrPKS           uint64 = 1 << 30
	AttrKL            uint64 = 1 << 31
	AttrPerfMon       uint64 = 1 << 63
)

// DefaultXFAM is the extended features mask that Linux guests get.
const DefaultXFAM uint64 = 0x602e7

// DefaultAuthDataSize is the size in bytes of the QE's authentication data in
// the quotes of Intel's quoting enclave.
const DefaultAuthDataSize = 32

// QuoteOptions describes a trust domain and the quote that it asks for. The
// zero value is a version 4 quote of a TD that a strict policy allows.
type QuoteOptions struct {
	Version int // 4 (default) or 5
	Body    int // of version 5: 2 (default, TDX 1.0) or 3 (TDX 1.5); 2 for version 4

	// TDAttributes is AttrSEPTVEDisable by default: a debug TD is
	// new(AttrSEPTVEDisable|AttrDebug).
	TDAttributes *uint64
	XFAM         *uint64 // DefaultXFAM by default

	MRTD [48]byte // Measurement("mrtd") by default
	// RTMR values that are all zero become Measurement("rtmr0") and so on,
	// except for RTMR 3, which is zero on many real TDs.
	RTMR                             [4][48]byte
	MRConfigID, MROwner, MROwnerConf [48]byte
	MRServiceTD                      [48]byte // body 3 only

	ReportData [64]byte

	TEETCBSVN *[16]byte // the platform's by default
	// TEETCBSVN2 is what the platform could have now without a reboot of the
	// TD (body 3 only), and equal to TEETCBSVN by default.
	TEETCBSVN2 *[16]byte

	// AuthDataSize is the size of the QE's authentication data, or
	// DefaultAuthDataSize if nil. Another size costs a second signature.
	AuthDataSize *int

	// FreshQE has the QE report signed anew, with randomness, as on real
	// platforms, where no two quotes share that signature. It costs a second
	// signature. Without it all quotes of a platform share one.
	FreshQE bool
}

// Sizes in bytes and offsets in the quote (Intel TDX DCAP Quoting Library API,
// appendix A.3 and A.4).
const (
	headerSize = 48
	bodySize2  = 584
	bodySize3  = 648
	signedSize = 2 * 64 // signature and attestation key

	offTEETCBSVN      = 0
	offMRSEAM         = 16
	offMRSignerSEAM   = 64
	offSEAMAttributes = 112
	offTDAttributes   = 120
	offXFAM           = 128
	offMRTD           = 136
	offMRConfigID     = 184
	offMROwner        = 232
	offMROwnerConfig  = 280
	offRTMR           = 328
	offReportData     = 520
	offTEETCBSVN2     = 584
	offMRServiceTD    = 600
)

// intelQEVendor is the vendor id of Intel's quoting enclaves.
var intelQEVendor = []byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// Quote issues a quote. The error says that the options make no sense, such as
// a TDX 1.5 body in a version 4 quote. The result is new and the caller's.
func (pl *Platform) Quote(o QuoteOptions) ([]byte, error) {
	setDefault(&o.Version, 4)
	setDefault(&o.Body, 2)
	if o.Version != 4 && o.Version != 5 {
		return nil, fmt.Errorf("quote version %d is neither 4 nor 5", o.Version)
	}
	size := bodySize2
	switch {
	case o.Body == 3 && o.Version == 5:
		size = bodySize3
	case o.Body != 2:
		return nil, fmt.Errorf("no body type %d in a version %d quote", o.Body, o.Version)
	}

	suffix := pl.suffix
	if o.AuthDataSize != nil || o.FreshQE {
		authSize := DefaultAuthDataSize
		if o.AuthDataSize != nil {
			authSize = *o.AuthDataSize
		}
		var err error
		if suffix, err = pl.certify(authSize, o.FreshQE); err != nil {
			return nil, err
		}
	}

	q := make([]byte, headerSize, headerSize+6+size+4+signedSize+len(suffix))
	binary.LittleEndian.PutUint16(q[0:], uint16(o.Version))
	binary.LittleEndian.PutUint16(q[2:], 2) // ECDSA P-256
	binary.LittleEndian.PutUint32(q[4:], 0x81)
	copy(q[12:], intelQEVendor)
	copy(q[28:], pl.qeID[:])
	if o.Version == 5 {
		q = binary.LittleEndian.AppendUint16(q, uint16(o.Body))
		q = binary.LittleEndian.AppendUint32(q, uint32(size))
	}
	start := len(q)
	q = append(q, pl.body[:size]...)
	o.body(q[start:])

	digest := sha256.Sum256(q)
	q = binary.LittleEndian.AppendUint32(q, uint32(signedSize+len(suffix)))
	q, err := appendSignature(q, pl.attest, digest[:])
	if err != nil {
		return nil, err
	}
	q = append(q, pl.point...)
	return append(q, suffix...), nil
}

// body fills in what the TD determines.
func (o *QuoteOptions) body(b []byte) {
	attributes, xfam := AttrSEPTVEDisable, DefaultXFAM
	if o.TDAttributes != nil {
		attributes = *o.TDAttributes
	}
	if o.XFAM != nil {
		xfam = *o.XFAM
	}
	if o.TEETCBSVN != nil {
		copy(b[offTEETCBSVN:], o.TEETCBSVN[:])
	}
	binary.LittleEndian.PutUint64(b[offTDAttributes:], attributes)
	binary.LittleEndian.PutUint64(b[offXFAM:], xfam)
	measured(b[offMRTD:], &o.MRTD, &defaultMRTD)
	copy(b[offMRConfigID:], o.MRConfigID[:])
	copy(b[offMROwner:], o.MROwner[:])
	copy(b[offMROwnerConfig:], o.MROwnerConf[:])
	for i := range o.RTMR {
		measured(b[offRTMR+48*i:], &o.RTMR[i], &defaultRTMR[i])
	}
	copy(b[offReportData:], o.ReportData[:])
	if o.Body == 3 {
		copy(b[offTEETCBSVN2:], b[offTEETCBSVN:offTEETCBSVN+16])
		if o.TEETCBSVN2 != nil {
			copy(b[offTEETCBSVN2:], o.TEETCBSVN2[:])
		}
		copy(b[offMRServiceTD:], o.MRServiceTD[:])
	}
}

var (
	defaultMRTD = Measurement("mrtd")
	defaultRTMR = [4][48]byte{Measurement("rtmr0"), Measurement("rtmr1"), Measurement("rtmr2")}
)

func measured(dst []byte, v, def *[48]byte) {
	if *v == ([48]byte{}) {
		v = def
	}
	copy(dst, v[:])
}

// certify returns the certification data of a quote: the QE report, which
// commits to the attestation key and the authentication data, the PCK key's
// signature of it, and the PCK certificates.
func (pl *Platform) certify(authSize int, fresh bool) ([]byte, error) {
	if authSize < 0 || authSize > 1<<16-1 {
		return nil, fmt.Errorf("authentication data of %d bytes", authSize)
	}
	auth := make([]byte, authSize)
	for i := range auth {
		auth[i] = byte(i) // what Intel's quoting enclave has
	}
	report := pl.report
	h := sha256.New()
	h.Write(pl.point)
	h.Write(auth)
	h.Sum(report[320:320])

	const fixed = 384 + 64 + 2 + 2 + 4
	b := make([]byte, 0, 6+fixed+len(auth)+len(pl.chain))
	b = binary.LittleEndian.AppendUint16(b, 6) // QE report certification data
	b = binary.LittleEndian.AppendUint32(b, uint32(fixed+len(auth)+len(pl.chain)))
	b = append(b, report[:]...)
	digest := sha256.Sum256(report[:])
	var err error
	if fresh {
		b, err = appendRandomSignature(b, pl.pck.key, digest[:])
	} else {
		b, err = appendSignature(b, pl.pck.key, digest[:])
	}
	if err != nil {
		return nil, err
	}
	b = binary.LittleEndian.AppendUint16(b, uint16(len(auth)))
	b = append(b, auth...)
	b = binary.LittleEndian.AppendUint16(b, 5) // PCK certificate chain
	b = binary.LittleEndian.AppendUint32(b, uint32(len(pl.chain)))
	return append(b, pl.chain...), nil
}

// appendSignature appends the deterministic signature of a digest as the 64
// bytes R and S.
func appendSignature(b []byte, key *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	der, err := key.Sign(nil, digest, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign: %v", err)
	}
	return appendRS(b, der)
}

// appendRS appends a DER signature as the 64 bytes R and S.
func appendRS(b, der []byte) ([]byte, error) {
	s := cryptobyte.String(der)
	var inner cryptobyte.String
	var r, v []byte
	if !s.ReadASN1(&inner, cbasn1.SEQUENCE) || !inner.ReadASN1Integer(&r) || !inner.ReadASN1Integer(&v) ||
		len(r) > 32 || len(v) > 32 {
		return nil, errors.New("signature is not of P-256")
	}
	var rs [64]byte
	copy(rs[32-len(r):32], r)
	copy(rs[64-len(v):], v)
	return append(b, rs[:]...), nil
}

// appendRandomSignature is like appendSignature with a signature that differs
// each time.
func appendRandomSignature(b []byte, key *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	der, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		return nil, fmt.Errorf("sign: %v", err)
	}
	return appendRS(b, der)
}
