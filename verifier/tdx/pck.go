package tdx

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// The certificate authorities of PCK certificates, as Intel's PCS names them.
const (
	CAPlatform  = "platform"
	CAProcessor = "processor"
)

// A pckExtension is the SGX extension of a PCK certificate (Intel SGX PCK
// Certificate and CRL Profile Specification, section 1.3.5): what Intel certified
// about the platform.
type pckExtension struct {
	ppid       [16]byte
	components [16]byte // SVNs of the SGX TCB components
	pcesvn     uint16
	cpusvn     [16]byte
	pceid      [2]byte
	fmspc      [6]byte
	sgxType    uint8
	platform   *pckPlatform // nil unless the platform has several packages
}

// A pckPlatform is the part that only platform CAs certify.
type pckPlatform struct {
	instanceID [16]byte
	config     Configuration
}

// parseSGXExtension parses the value of the SGX extension. All elements are
// required, but for the last two, of which there are both or none, as the 5 or 7
// elements that PckCertificate.cpp demands; more, others, and duplicates are
// refused. Their order is left open, as Intel does.
func parseSGXExtension(der []byte) (*pckExtension, error) {
	e := new(pckExtension)
	var config *Configuration
	var instanceID *[16]byte
	seen, err := parseElements(cryptobyte.String(der), oidSGX, 7, func(arc int, v *cryptobyte.String) bool {
		switch arc {
		case 1:
			return readOctets(v, e.ppid[:])
		case 2:
			return e.parseTCB(v)
		case 3:
			return readOctets(v, e.pceid[:])
		case 4:
			return readOctets(v, e.fmspc[:])
		case 5:
			var n int
			ok := v.ReadASN1Enum(&n)
			e.sgxType = uint8(n)
			return ok && n >= 0 && n <= 255
		case 6:
			instanceID = new([16]byte)
			return readOctets(v, instanceID[:])
		default:
			config = new(Configuration)
			return config.parse(v)
		}
	})
	if err != nil {
		return nil, err
	}
	switch seen {
	case 0b0011111:
	case 0b1111111:
		e.platform = &pckPlatform{*instanceID, *config}
	default:
		return nil, fmt.Errorf("elements %#b, want all of the first 5, and both or none of the last 2", seen)
	}
	return e, nil
}

// parseTCB parses the TCB element: 16 component SVNs, PCESVN and CPUSVN.
func (e *pckExtension) parseTCB(v *cryptobyte.String) bool {
	var seq cryptobyte.String
	if !v.ReadASN1Element(&seq, cbasn1.SEQUENCE) {
		return false
	}
	seen, err := parseElements(seq, append(slices.Clone(oidSGX), 2), 18, func(arc int, v *cryptobyte.String) bool {
		switch arc {
		case 17:
			return v.ReadASN1Integer(&e.pcesvn)
		case 18:
			return readOctets(v, e.cpusvn[:])
		default:
			return v.ReadASN1Integer(&e.components[arc-1])
		}
	})
	return err == nil && seen == 1<<18-1
}

// parse parses the configuration element.
func (c *Configuration) parse(v *cryptobyte.String) bool {
	var seq cryptobyte.String
	if !v.ReadASN1Element(&seq, cbasn1.SEQUENCE) {
		return false
	}
	flags := [3]*bool{&c.DynamicPlatform, &c.CachedKeys, &c.SMTEnabled}
	seen, err := parseElements(seq, append(slices.Clone(oidSGX), 7), 3, func(arc int, v *cryptobyte.String) bool {
		return v.ReadASN1Boolean(flags[arc-1])
	})
	return err == nil && seen == 1<<3-1
}

// parseElements parses a SEQUENCE of SEQUENCEs of an object identifier and a
// value. The identifiers must be base followed by an arc from 1 to n, and must not
// repeat; read is called with the arc, and must consume the value. The bits of
// seen are the arcs, less 1, that occurred.
func parseElements(der cryptobyte.String, base asn1.ObjectIdentifier, n int, read func(arc int, v *cryptobyte.String) bool) (seen uint32, err error) {
	var list cryptobyte.String
	if !der.ReadASN1(&list, cbasn1.SEQUENCE) || !der.Empty() {
		return 0, errors.New("not a single sequence")
	}
	for !list.Empty() {
		var element cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !list.ReadASN1(&element, cbasn1.SEQUENCE) || !element.ReadASN1ObjectIdentifier(&oid) {
			return 0, errors.New("element isn't a sequence with an object identifier")
		}
		if len(oid) != len(base)+1 || !oid[:len(base)].Equal(base) || oid[len(base)] < 1 || oid[len(base)] > n {
			return 0, fmt.Errorf("unknown element %v", oid)
		}
		arc := oid[len(base)]
		if seen&(1<<(arc-1)) != 0 {
			return 0, fmt.Errorf("second element %v", oid)
		}
		seen |= 1 << (arc - 1)
		if !read(arc, &element) || !element.Empty() {
			return 0, fmt.Errorf("element %v is malformed", oid)
		}
	}
	return seen, nil
}

// readOctets reads an OCTET STRING that fills dst.
func readOctets(v *cryptobyte.String, dst []byte) bool {
	var s cryptobyte.String
	return v.ReadASN1(&s, cbasn1.OCTET_STRING) && len(s) == len(dst) && copy(dst, s) == len(dst)
}

// A platform holds facts about a PCK certificate chain whose signatures and
// contents were verified under a root. What depends on time or collateral isn't
// among them, so that they can be cached. It is immutable.
type platform struct {
	windows  [3]window // of PCK certificate, CA, root
	from, to time.Time // when all of them are valid
	serial   string    // of the PCK certificate, in hex, see serialKey
	caSerial string
	ca       string // CAPlatform or CAProcessor
	caName   []byte // DER of the CA's subject
	caKey    []byte // DER of the CA's public key
	key      *ecdsa.PublicKey
	ext      *pckExtension
	chain    [32]byte // SHA-256 of the three certificates' DER

	// Rendered for results.
	fmspc, pceid, ppid, instanceID string
}

// parsePCKChain parses and verifies the PCK certificate chain of a quote: PCK
// certificate, CA, root, in this order.
func parsePCKChain(pem []byte, root *Root) (*platform, error) {
	ders, err := splitPEM(pem, 3)
	if err != nil {
		return nil, err
	}
	ca, kind, err := parseCA(ders[1], ders[2], root)
	if err != nil {
		return nil, err
	}
	leaf, err := parseCert(ders[0], cnPCK, false)
	if err != nil {
		return nil, err
	}
	if err := checkIssuer(leaf, ca, 0); err != nil {
		return nil, err
	}
	p := &platform{
		windows:  [3]window{certWindow(leaf), certWindow(ca), certWindow(root.cert)},
		serial:   serialKey(leaf.SerialNumber),
		caSerial: serialKey(ca.SerialNumber),
		ca:       kind,
		caName:   ca.RawSubject,
		caKey:    ca.RawSubjectPublicKeyInfo,
		key:      leaf.PublicKey.(*ecdsa.PublicKey),
		chain:    sha256.Sum256(bytes.Join(ders, nil)),
	}
	p.from, p.to = p.windows[0].from, p.windows[0].to
	for _, w := range p.windows[1:] {
		if w.from.After(p.from) {
			p.from = w.from
		}
		if w.to.Before(p.to) {
			p.to = w.to
		}
	}
	for _, e := range leaf.Extensions { // crypto/x509 refuses duplicates
		if e.Id.Equal(oidSGX) {
			if p.ext, err = parseSGXExtension(e.Value); err != nil {
				return nil, refuse(ReasonChain, "SGX extension of the PCK certificate: %w", err)
			}
		}
	}
	if p.ext == nil {
		return nil, refuse(ReasonChain, "PCK certificate without SGX extension")
	}
	p.fmspc = hex.EncodeToString(p.ext.fmspc[:])
	p.pceid = hex.EncodeToString(p.ext.pceid[:])
	p.ppid = hex.EncodeToString(p.ext.ppid[:])
	if p.ext.platform != nil {
		p.instanceID = hex.EncodeToString(p.ext.platform.instanceID[:])
	}
	return p, nil
}

// parseCA parses a PCK CA certificate, and verifies that the root issued it.
// The root of the chain must be the trusted one to the last byte.
func parseCA(der, rootDER []byte, root *Root) (c *x509.Certificate, kind string, err error) {
	if !bytes.Equal(rootDER, root.cert.Raw) {
		return nil, "", refuse(ReasonRoot, "PCK certificate chain doesn't end in %v", root)
	}
	kind = CAPlatform
	if c, err = parseCert(der, cnPlatformCA, true); err != nil {
		var err2 error
		if c, err2 = parseCert(der, cnProcessorCA, true); err2 != nil {
			return nil, "", err
		}
		kind = CAProcessor
	}
	if err := checkIssuer(c, root.cert, 1); err != nil {
		return nil, "", err
	}
	return c, kind, nil
}
