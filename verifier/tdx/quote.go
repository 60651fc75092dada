package tdx

import "encoding/binary"

// Sizes in bytes and constants of the quote formats: Intel TDX DCAP Quoting
// Library API, appendix 3, and QuoteConstants.h of Intel's Quote Verification
// Library.
const (
	headerSize         = 48
	bodyHeaderSize     = 6 // version 5: uint16 body type, uint32 body size
	tdReport10Size     = 584
	tdReport15Size     = 648
	enclaveReportSize  = 384 // SGX report
	signatureSize      = 64
	attestationKeySize = 64

	attKeyECDSAP256  = 2
	teeTDX           = 0x81
	certDataPCKChain = 5
	certDataQEReport = 6

	// BodyTDX10 and BodyTDX15 are the body types of version 5. Version 4 has
	// no body type, and its body is BodyTDX10's.
	BodyTDX10 = 2
	BodyTDX15 = 3
)

// intelQEVendorID is the vendor of the quoting enclave (INTEL_QE_VENDOR_ID).
const intelQEVendorID = "\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07"

// A Quote is a parsed TDX quote, verified or not. Byte slices have the sizes
// given, and point into the input of [ParseQuote], which must not be modified
// while the Quote is in use. Neither must the fields.
type Quote struct {
	Version  uint16 // 4 or 5
	BodyType uint16 // BodyTDX10 or BodyTDX15; BodyTDX10 for version 4

	QESVN, PCESVN uint16 // of the header; reserved and meaningless in current quotes
	UserData      []byte // 20, of the header

	Body TDBody

	Signature         []byte // 64: r and s, by AttestationKey over header and body
	AttestationKey    []byte // 64: x and y of a P-256 point
	QEReport          []byte // 384: the SGX report of the quoting enclave
	QEReportSignature []byte // 64: r and s, by the PCK over QEReport
	QEAuthData        []byte // hashed with AttestationKey into the QE report
	PCKChain          []byte // PEM: PCK certificate, CA, root; often ends in a NUL byte

	raw    []byte // the whole
	signed []byte // header and body, with the body's type and size in version 5
}

// Raw returns the quote's bytes, the input of [ParseQuote].
func (q *Quote) Raw() []byte { return q.raw }

// ParseQuote parses a TDX quote of version 4, or of version 5 with a TD report
// of TDX 1.0 or 1.5, with an ECDSA-P256 attestation key, Intel's quoting
// enclave, and QE report certification data around a PCK certificate chain.
// It must be all of b: see [TrimPadding]. The PCK chain isn't parsed.
//
// The error is an *[Error] with ReasonParse. The Quote retains b.
func ParseQuote(b []byte) (*Quote, error) {
	bodyType, from, to, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	q := &Quote{
		Version:  binary.LittleEndian.Uint16(b),
		BodyType: bodyType,
		QESVN:    binary.LittleEndian.Uint16(b[8:]),
		PCESVN:   binary.LittleEndian.Uint16(b[10:]),
		UserData: b[28:headerSize:headerSize],
		raw:      b,
		signed:   b[:to:to],
	}
	q.Body.parse(b[from:to])

	// Every size field must agree exactly with what it covers, so that a quote
	// has one encoding; Intel's library, like us, allows no gap in the
	// certification data, but it ignores what follows the signature data.
	c := cursor{rest: b[to:]}
	size, ok := c.uint32()
	if !ok || uint64(size) != uint64(len(c.rest)) {
		return nil, refuse(ReasonParse, "signature data of %d bytes where %d remain", size, len(c.rest))
	}
	if q.Signature, ok = c.bytes(signatureSize); !ok {
		return nil, refuse(ReasonParse, "signature data of %d bytes is truncated", size)
	}
	if q.AttestationKey, ok = c.bytes(attestationKeySize); !ok {
		return nil, refuse(ReasonParse, "signature data of %d bytes is truncated", size)
	}
	if err := c.certification(certDataQEReport); err != nil {
		return nil, err
	}
	if q.QEReport, ok = c.bytes(enclaveReportSize); !ok {
		return nil, refuse(ReasonParse, "QE report is truncated")
	}
	if q.QEReportSignature, ok = c.bytes(signatureSize); !ok {
		return nil, refuse(ReasonParse, "QE report signature is truncated")
	}
	authSize, ok := c.uint16()
	if !ok {
		return nil, refuse(ReasonParse, "QE authentication data is truncated")
	}
	if q.QEAuthData, ok = c.bytes(int(authSize)); !ok {
		return nil, refuse(ReasonParse, "QE authentication data of %d bytes where %d remain", authSize, len(c.rest))
	}
	if err := c.certification(certDataPCKChain); err != nil {
		return nil, err
	}
	q.PCKChain = c.rest
	return q, nil
}

// parseHeader checks the header of a quote, and returns the type of its body,
// and where the body is in b, which is long enough for that.
func parseHeader(b []byte) (bodyType uint16, from, to int, err error) {
	if len(b) < headerSize {
		return 0, 0, 0, refuse(ReasonParse, "quote of %d bytes is shorter than its header", len(b))
	}
	version := binary.LittleEndian.Uint16(b)
	if keyType := binary.LittleEndian.Uint16(b[2:]); keyType != attKeyECDSAP256 {
		return 0, 0, 0, refuse(ReasonParse, "attestation key type %d, want %d (ECDSA P-256)", keyType, attKeyECDSAP256)
	}
	if tee := binary.LittleEndian.Uint32(b[4:]); tee != teeTDX {
		return 0, 0, 0, refuse(ReasonParse, "TEE type %#x, want %#x (TDX)", tee, teeTDX)
	}
	if string(b[12:28]) != intelQEVendorID {
		return 0, 0, 0, refuse(ReasonParse, "QE vendor %x isn't Intel", b[12:28])
	}
	want := tdReport10Size
	switch version {
	case 4:
		bodyType, from = BodyTDX10, headerSize
	case 5:
		from = headerSize + bodyHeaderSize
		if len(b) < from {
			return 0, 0, 0, refuse(ReasonParse, "quote of %d bytes is shorter than its body header", len(b))
		}
		bodyType = binary.LittleEndian.Uint16(b[headerSize:])
		switch bodyType {
		case BodyTDX10:
		case BodyTDX15:
			want = tdReport15Size
		default:
			return 0, 0, 0, refuse(ReasonParse, "body type %d isn't a TD report of TDX 1.0 or 1.5", bodyType)
		}
		if size := binary.LittleEndian.Uint32(b[headerSize+2:]); size != uint32(want) {
			return 0, 0, 0, refuse(ReasonParse, "body type %d with size %d, want %d", bodyType, size, want)
		}
	default:
		return 0, 0, 0, refuse(ReasonParse, "quote version %d, want 4 or 5", version)
	}
	to = from + want
	if len(b) < to {
		return 0, 0, 0, refuse(ReasonParse, "quote of %d bytes is shorter than its body", len(b))
	}
	return bodyType, from, to, nil
}

// parse sets d from a body of tdReport10Size or tdReport15Size bytes.
func (d *TDBody) parse(b []byte) {
	take := func(n int) []byte {
		f := b[:n:n]
		b = b[n:]
		return f
	}
	d.TEETCBSVN = take(16)
	d.MRSEAM = take(48)
	d.MRSignerSEAM = take(48)
	d.SEAMAttributes = take(8)
	d.TDAttributes = TDAttributes(take(8))
	d.XFAM = [8]byte(take(8))
	d.MRTD = take(48)
	d.MRConfigID = take(48)
	d.MROwner = take(48)
	d.MROwnerConfig = take(48)
	for i := range d.RTMR {
		d.RTMR[i] = take(48)
	}
	d.ReportData = take(64)
	if len(b) > 0 {
		d.TEETCBSVN2 = take(16)
		d.MRServiceTD = take(48)
	}
}

// A cursor reads from the front of rest. Its methods return false, and read
// nothing, if too little remains.
type cursor struct{ rest []byte }

func (c *cursor) bytes(n int) ([]byte, bool) {
	if n > len(c.rest) {
		return nil, false
	}
	b := c.rest[:n:n]
	c.rest = c.rest[n:]
	return b, true
}

func (c *cursor) uint16() (uint16, bool) {
	b, ok := c.bytes(2)
	if !ok {
		return 0, false
	}
	return binary.LittleEndian.Uint16(b), true
}

func (c *cursor) uint32() (uint32, bool) {
	b, ok := c.bytes(4)
	if !ok {
		return 0, false
	}
	return binary.LittleEndian.Uint32(b), true
}

// certification reads the header of certification data, which must be of the
// type want, and take all that remains.
func (c *cursor) certification(want uint16) error {
	typ, _ := c.uint16()
	size, ok := c.uint32()
	switch {
	case !ok:
		return refuse(ReasonParse, "certification data is truncated")
	case typ != want:
		return refuse(ReasonParse, "certification data of type %d, want %d", typ, want)
	case uint64(size) != uint64(len(c.rest)):
		return refuse(ReasonParse, "certification data of %d bytes where %d remain", size, len(c.rest))
	}
	return nil
}

// TrimPadding drops zero bytes that follow the quote at the start of b: some
// interfaces return a quote in a buffer of fixed size. It returns b unchanged if
// it doesn't start with a quote, or if anything but zeros follows.
func TrimPadding(b []byte) []byte {
	_, _, to, err := parseHeader(b)
	if err != nil || to > len(b)-4 {
		return b
	}
	size := uint64(to) + 4 + uint64(binary.LittleEndian.Uint32(b[to:]))
	if size > uint64(len(b)) {
		return b
	}
	for _, c := range b[size:] {
		if c != 0 {
			return b
		}
	}
	return b[:size:size]
}
