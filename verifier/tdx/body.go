package tdx

import "encoding/binary"

// A TDBody is the TD report in a quote: what the TDX module said about the TD,
// and about itself. The fields are named as in Intel's TDX DCAP Quoting Library
// API, appendix 3. Byte slices have the sizes given, and point into the input of
// [ParseQuote].
type TDBody struct {
	TEETCBSVN      []byte // 16: SVNs of the TDX module (0: ISV SVN, 1: version) and the platform when the TD was launched
	MRSEAM         []byte // 48: measurement of the TDX module
	MRSignerSEAM   []byte // 48: signer of the TDX module, zero for Intel
	SEAMAttributes []byte // 8: attributes of the TDX module, zero for a production module
	TDAttributes   TDAttributes
	XFAM           [8]byte // extended features that are enabled for the TD, little endian
	MRTD           []byte  // 48: measurement of the TD's initial contents
	MRConfigID     []byte  // 48: set by the host at launch, not measured
	MROwner        []byte  // 48: set by the host at launch
	MROwnerConfig  []byte  // 48: set by the host at launch
	RTMR           [4][]byte
	ReportData     []byte // 64: chosen by code in the TD

	// The following are nil unless the quote's body type is 3 (TDX 1.5).
	TEETCBSVN2  []byte // 16: the current SVNs, at the time of the quote
	MRServiceTD []byte // 48: measurement of the service TDs bound to this one, zero if none are
}

// TDAttributes are a TD's ATTRIBUTES (Intel TDX Module 1.5 Base Architecture
// Specification, "ATTRIBUTES"; little endian): what the host configured for the
// TD, which the hardware enforces.
type TDAttributes [8]byte

const (
	// attrTUD is the group "TD Under Debug": "if any of the bits in this group
	// are set to 1, the TD is untrusted".
	attrTUD           = 0xff
	attrLASS          = 1 << 27
	attrSEPTVEDisable = 1 << 28
	attrMigratable    = 1 << 29
	attrPKS           = 1 << 30
	attrKeyLocker     = 1 << 31
	attrTPA           = 1 << 62
	attrPerfMon       = 1 << 63
	attrKnown         = 1 | attrLASS | attrSEPTVEDisable | attrMigratable | attrPKS | attrKeyLocker | attrTPA | attrPerfMon
)

// Uint64 returns the attributes as a number whose bit 0 is DEBUG.
func (a TDAttributes) Uint64() uint64 { return binary.LittleEndian.Uint64(a[:]) }

func (a TDAttributes) has(bits uint64) bool { return a.Uint64()&bits != 0 }

// Debug reports whether the host can read and change the TD's memory and
// registers: bit 0, or any other of the "TD Under Debug" bits 7:0, which Intel
// reserves for more of the same.
func (a TDAttributes) Debug() bool { return a.has(attrTUD) }

// LASS reports whether linear address space separation is enabled.
func (a TDAttributes) LASS() bool { return a.has(attrLASS) }

// SEPTVEDisable reports whether an access to a page that the host took away
// stops the TD instead of raising an exception in it, which the host could use
// to interfere with the TD's code.
func (a TDAttributes) SEPTVEDisable() bool { return a.has(attrSEPTVEDisable) }

// Migratable reports whether the TD can be moved to another machine by a
// migration TD, see MRServiceTD.
func (a TDAttributes) Migratable() bool { return a.has(attrMigratable) }

// PKS reports whether supervisor protection keys are enabled.
func (a TDAttributes) PKS() bool { return a.has(attrPKS) }

// KeyLocker reports whether the TD may use Key Locker.
func (a TDAttributes) KeyLocker() bool { return a.has(attrKeyLocker) }

// TPA reports whether the TD is a TDX Connect provisioning agent.
func (a TDAttributes) TPA() bool { return a.has(attrTPA) }

// PerfMon reports whether the TD may use performance monitoring.
func (a TDAttributes) PerfMon() bool { return a.has(attrPerfMon) }

// Reserved returns the bits that are set and have no meaning known to this
// package.
func (a TDAttributes) Reserved() uint64 { return a.Uint64() &^ attrKnown }
