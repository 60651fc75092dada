package tdxsim

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// CollateralOptions describes what the made-up Intel says about one family of
// platforms. With the zero value it says that the default platform is UpToDate,
// from the PKI's time for 30 days. What the options hold is signed as it is,
// also if it makes no sense: statuses, dates and names are not checked.
type CollateralOptions struct {
	FMSPC string // DefaultFMSPC by default, and written with the letter case given
	PCEID string // "0000" by default
	CA    string // whose revocation list is included: PlatformCA by default
	ID    string // of the TCB info: "TDX" by default

	// OmitTDX leaves the TDX module and components out of the TCB info, as
	// Intel does in those with the id "SGX".
	OmitTDX bool

	// IssueDate and NextUpdate bound the validity of TCB info, QE identity, and
	// PCK revocation list: by default the PKI's time, and 30 days after
	// IssueDate. TCBInfoDates and the other fields override them one by one.
	IssueDate, NextUpdate time.Time

	// TCBEvaluationDataNumber is that of TCB info and QE identity, by default
	// DefaultTCBEvaluationDataNumber. It grows with every TCB recovery.
	TCBEvaluationDataNumber uint32

	Levels []Level // of the platform; DefaultLevels() if nil

	// Module is what quotes of modules of major version 0 must have.
	Module Module
	// Modules are the identities of modules with a major version, and
	// DefaultModules() if nil. An empty list is none.
	Modules []ModuleIdentity

	QE QEIdentity

	TCBInfoDates Dates
	PCKCRL       CRL
	RootCRL      CRL // valid for a year by default, and never for less time than the rest
}

// DefaultTCBEvaluationDataNumber is that of collateral whose options name none.
const DefaultTCBEvaluationDataNumber = 18

// Dates override the dates of an item where they aren't zero.
type Dates struct{ Issue, NextUpdate time.Time }

// A Level is a TCB level of a platform: it covers platforms that have at least
// these SVNs. Intel lists levels from the newest to the oldest.
type Level struct {
	SGX, TDX   [16]byte
	PCESVN     uint16
	Status     string // in Intel's words, such as "UpToDate"
	Advisories []string
	Date       time.Time // the collateral's IssueDate by default
}

// DefaultLevels returns the platform levels of collateral whose options have
// none: the default platform is exactly at the first. Callers may change them.
func DefaultLevels() []Level {
	return []Level{
		{SGX: DefaultSVNs, TDX: [16]byte{5, 0, 2}, PCESVN: DefaultPCESVN, Status: "UpToDate"},
		{SGX: [16]byte{2, 2, 2, 2, 3, 1, 0, 3}, TDX: [16]byte{3, 0, 2}, PCESVN: 11, Status: "OutOfDate",
			Advisories: []string{"INTEL-SA-00960"}},
		{SGX: [16]byte{1, 1, 1, 1, 1, 1, 0, 1}, TDX: [16]byte{1, 0, 1}, PCESVN: 5, Status: "OutOfDate",
			Advisories: []string{"INTEL-SA-00837", "INTEL-SA-00960"}},
	}
}

// Module is the identity of TDX modules: what their signer and attributes must
// be. The zero value is Intel's.
type Module struct {
	MRSigner       [48]byte
	Attributes     [8]byte
	AttributesMask *[8]byte // all ones by default
}

// A ModuleIdentity is the identity of the TDX modules of one major version, and
// their TCB levels.
type ModuleIdentity struct {
	ID string // such as "TDX_01"
	Module
	Levels []ISVLevel
}

// An ISVLevel is a TCB level of a TDX module or a quoting enclave.
type ISVLevel struct {
	ISVSVN     uint16
	Status     string
	Advisories []string
	Date       time.Time // the collateral's IssueDate by default
}

// DefaultModules returns the module identities of collateral whose options have
// none. Callers may change them.
func DefaultModules() []ModuleIdentity {
	return []ModuleIdentity{
		{ID: "TDX_03", Levels: []ISVLevel{{ISVSVN: 3, Status: "UpToDate"}}},
		{ID: "TDX_01", Levels: []ISVLevel{
			{ISVSVN: 5, Status: "UpToDate"},
			{ISVSVN: 2, Status: "OutOfDate", Advisories: []string{"INTEL-SA-01036"}},
		}},
	}
}

// QEIdentity is the identity of the quoting enclave. The zero value fits the
// default platform.
type QEIdentity struct {
	ID                      string    // "TD_QE" by default
	MRSigner                *[32]byte // DefaultQEMRSigner by default
	ISVProdID               *uint16   // 2 by default
	MiscSelect, MiscMask    *[4]byte  // zero, and all ones, by default
	Attributes, Mask        *[16]byte // 0x11 (INIT, PROVISION_KEY), and Intel's mask without bit 2, by default
	TCBEvaluationDataNumber uint32    // the collateral's by default
	Levels                  []ISVLevel
	Dates                   Dates
}

// DefaultQELevels returns the levels of a QE identity that has none. Callers
// may change them.
func DefaultQELevels() []ISVLevel {
	return []ISVLevel{
		{ISVSVN: DefaultQESVN, Status: "UpToDate"},
		{ISVSVN: 1, Status: "OutOfDate", Advisories: []string{"INTEL-SA-01010"}},
	}
}

// CRL describes a revocation list.
type CRL struct {
	Revoked                []*big.Int // serial numbers
	Number                 int64      // 1 by default, as in Intel's lists
	ThisUpdate, NextUpdate time.Time
	// Issuer signs the list, and is the one whose list it should be if nil: a
	// list signed by somebody else.
	Issuer *PKI
}

// Collateral makes a collateral set. Equal options give equal bytes.
func (p *PKI) Collateral(o CollateralOptions) (*tdx.Collateral, error) {
	p.setDefaults(&o)
	tcbInfo, err := p.signed("tcbInfo", o.tcbInfo())
	if err != nil {
		return nil, err
	}
	identity, err := p.signed("enclaveIdentity", o.qeIdentity())
	if err != nil {
		return nil, err
	}
	rootCRL, err := p.crl(o.RootCRL, func(p *PKI) *authority { return p.root })
	if err != nil {
		return nil, err
	}
	pckCRL, err := p.crl(o.PCKCRL, func(p *PKI) *authority { return p.authority(o.CA) })
	if err != nil {
		return nil, err
	}
	signer := slices.Concat(p.tcb.pem, p.root.pem)
	return &tdx.Collateral{
		TCBInfo:         tcbInfo,
		TCBInfoChain:    signer,
		QEIdentity:      identity,
		QEIdentityChain: bytes.Clone(signer),
		RootCRL:         rootCRL,
		PCKCRL:          pckCRL,
		PCKCRLChain:     slices.Concat(p.authority(o.CA).pem, p.root.pem),
	}, nil
}

func (p *PKI) setDefaults(o *CollateralOptions) {
	setDefault(&o.FMSPC, DefaultFMSPC)
	setDefault(&o.PCEID, "0000")
	setDefault(&o.CA, PlatformCA)
	setDefault(&o.ID, "TDX")
	setDefault(&o.IssueDate, p.from)
	setDefault(&o.NextUpdate, o.IssueDate.AddDate(0, 0, 30))
	setDefault(&o.TCBEvaluationDataNumber, DefaultTCBEvaluationDataNumber)
	setDefault(&o.TCBInfoDates.Issue, o.IssueDate)
	setDefault(&o.TCBInfoDates.NextUpdate, o.NextUpdate)
	setDefault(&o.PCKCRL.ThisUpdate, o.IssueDate)
	setDefault(&o.PCKCRL.NextUpdate, o.NextUpdate)
	setDefault(&o.RootCRL.ThisUpdate, o.IssueDate)
	setDefault(&o.RootCRL.NextUpdate, latest(o.IssueDate.AddDate(1, 0, 0), o.NextUpdate))
	if o.Levels == nil {
		o.Levels = DefaultLevels()
	}
	if o.Modules == nil {
		o.Modules = DefaultModules()
	}
	q := &o.QE
	setDefault(&q.ID, "TD_QE")
	setDefault(&q.MRSigner, &DefaultQEMRSigner)
	setDefault(&q.ISVProdID, new(uint16(2)))
	setDefault(&q.MiscSelect, new([4]byte{}))
	setDefault(&q.MiscMask, new([4]byte(bytes.Repeat([]byte{0xff}, 4))))
	setDefault(&q.Attributes, &[16]byte{0x11})
	setDefault(&q.Mask, &[16]byte{0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	setDefault(&q.TCBEvaluationDataNumber, o.TCBEvaluationDataNumber)
	setDefault(&q.Dates.Issue, o.IssueDate)
	setDefault(&q.Dates.NextUpdate, o.NextUpdate)
	if q.Levels == nil {
		q.Levels = DefaultQELevels()
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// signed returns {"NAME":TEXT,"signature":"HEX"}: Intel signs the text of the
// member, byte by byte.
func (p *PKI) signed(name string, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(text)
	sig, err := appendSignature(nil, p.tcb.key, digest[:])
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, `{%q:%s,"signature":"%x"}`, name, text, sig), nil
}

// crl makes a revocation list of the authority that pick finds.
func (p *PKI) crl(o CRL, pick func(*PKI) *authority) ([]byte, error) {
	if o.Issuer != nil {
		p = o.Issuer
	}
	a := pick(p)
	setDefault(&o.Number, 1)
	list := &x509.RevocationList{
		SignatureAlgorithm: x509.ECDSAWithSHA256,
		Number:             big.NewInt(o.Number),
		ThisUpdate:         o.ThisUpdate,
		NextUpdate:         o.NextUpdate,
	}
	for _, serial := range o.Revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{
			SerialNumber: serial, RevocationTime: o.ThisUpdate, ReasonCode: 1, // key compromise
		})
	}
	return x509.CreateRevocationList(nil, list, a.cert, a.key)
}

// The JSON of Intel's service, API version 4. Members come in Intel's order.
type (
	tcbInfoJSON struct {
		ID                      string           `json:"id"`
		Version                 int              `json:"version"`
		IssueDate               string           `json:"issueDate"`
		NextUpdate              string           `json:"nextUpdate"`
		FMSPC                   string           `json:"fmspc"`
		PCEID                   string           `json:"pceId"`
		TCBType                 int              `json:"tcbType"`
		TCBEvaluationDataNumber uint32           `json:"tcbEvaluationDataNumber"`
		Module                  *moduleJSON      `json:"tdxModule,omitempty"`
		Modules                 []moduleInfoJSON `json:"tdxModuleIdentities,omitempty"`
		Levels                  []levelJSON      `json:"tcbLevels"`
	}
	moduleJSON struct {
		MRSigner       string `json:"mrsigner"`
		Attributes     string `json:"attributes"`
		AttributesMask string `json:"attributesMask"`
	}
	moduleInfoJSON struct {
		ID string `json:"id"`
		moduleJSON
		Levels []levelJSON `json:"tcbLevels"`
	}
	levelJSON struct {
		TCB        any      `json:"tcb"`
		Date       string   `json:"tcbDate"`
		Status     string   `json:"tcbStatus"`
		Advisories []string `json:"advisoryIDs,omitempty"`
	}
	platformTCBJSON struct {
		SGX    []componentJSON `json:"sgxtcbcomponents"`
		PCESVN uint16          `json:"pcesvn"`
		TDX    []componentJSON `json:"tdxtcbcomponents,omitempty"`
	}
	isvTCBJSON struct {
		ISVSVN uint16 `json:"isvsvn"`
	}
	componentJSON struct {
		SVN      byte   `json:"svn"`
		Category string `json:"category,omitempty"`
		Type     string `json:"type,omitempty"`
	}
	qeIdentityJSON struct {
		ID                      string      `json:"id"`
		Version                 int         `json:"version"`
		IssueDate               string      `json:"issueDate"`
		NextUpdate              string      `json:"nextUpdate"`
		TCBEvaluationDataNumber uint32      `json:"tcbEvaluationDataNumber"`
		MiscSelect              string      `json:"miscselect"`
		MiscSelectMask          string      `json:"miscselectMask"`
		Attributes              string      `json:"attributes"`
		AttributesMask          string      `json:"attributesMask"`
		MRSigner                string      `json:"mrsigner"`
		ISVProdID               uint16      `json:"isvprodid"`
		Levels                  []levelJSON `json:"tcbLevels"`
	}
)

// Where a component belongs, in Intel's words.
var (
	sgxComponents = map[int]componentJSON{
		0: {Category: "BIOS", Type: "Early Microcode Update"},
		1: {Category: "OS/VMM", Type: "SGX Late Microcode Update"},
		2: {Category: "OS/VMM", Type: "TXT SINIT"},
		3: {Category: "BIOS"},
		4: {Category: "BIOS"},
		5: {Category: "BIOS"},
		7: {Category: "OS/VMM", Type: "SEAMLDR ACM"},
	}
	tdxComponents = map[int]componentJSON{
		0: {Category: "OS/VMM", Type: "TDX Module"},
		1: {Category: "OS/VMM", Type: "TDX Module"},
		2: {Category: "OS/VMM", Type: "TDX Late Microcode Update"},
	}
)

func components(svns [16]byte, names map[int]componentJSON) []componentJSON {
	c := make([]componentJSON, len(svns))
	for i, svn := range svns {
		c[i] = names[i]
		c[i].SVN = svn
	}
	return c
}

// date is a time in the format of Intel's service.
func date(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func upperHex(b []byte) string { return string(bytes.ToUpper(hex.AppendEncode(nil, b))) }

func (m *Module) json() moduleJSON {
	mask := bytes.Repeat([]byte{0xff}, 8)
	if m.AttributesMask != nil {
		mask = m.AttributesMask[:]
	}
	return moduleJSON{upperHex(m.MRSigner[:]), upperHex(m.Attributes[:]), upperHex(mask)}
}

func isvLevels(levels []ISVLevel, issued time.Time) []levelJSON {
	l := make([]levelJSON, len(levels))
	for i, level := range levels {
		setDefault(&level.Date, issued)
		l[i] = levelJSON{isvTCBJSON{level.ISVSVN}, date(level.Date), level.Status, level.Advisories}
	}
	return l
}

func (o *CollateralOptions) tcbInfo() tcbInfoJSON {
	t := tcbInfoJSON{
		ID:                      o.ID,
		Version:                 3,
		IssueDate:               date(o.TCBInfoDates.Issue),
		NextUpdate:              date(o.TCBInfoDates.NextUpdate),
		FMSPC:                   o.FMSPC,
		PCEID:                   o.PCEID,
		TCBEvaluationDataNumber: o.TCBEvaluationDataNumber,
		Levels:                  make([]levelJSON, len(o.Levels)),
	}
	if !o.OmitTDX {
		t.Module = new(o.Module.json())
		for _, m := range o.Modules {
			t.Modules = append(t.Modules, moduleInfoJSON{m.ID, m.Module.json(), isvLevels(m.Levels, o.IssueDate)})
		}
	}
	for i, level := range o.Levels {
		setDefault(&level.Date, o.IssueDate)
		tcb := platformTCBJSON{SGX: components(level.SGX, sgxComponents), PCESVN: level.PCESVN}
		if !o.OmitTDX {
			tcb.TDX = components(level.TDX, tdxComponents)
		}
		t.Levels[i] = levelJSON{tcb, date(level.Date), level.Status, level.Advisories}
	}
	return t
}

func (o *CollateralOptions) qeIdentity() qeIdentityJSON {
	q := &o.QE
	return qeIdentityJSON{
		ID:                      q.ID,
		Version:                 2,
		IssueDate:               date(q.Dates.Issue),
		NextUpdate:              date(q.Dates.NextUpdate),
		TCBEvaluationDataNumber: q.TCBEvaluationDataNumber,
		MiscSelect:              upperHex(q.MiscSelect[:]),
		MiscSelectMask:          upperHex(q.MiscMask[:]),
		Attributes:              upperHex(q.Attributes[:]),
		AttributesMask:          upperHex(q.Mask[:]),
		MRSigner:                upperHex(q.MRSigner[:]),
		ISVProdID:               *q.ISVProdID,
		Levels:                  isvLevels(q.Levels, o.IssueDate),
	}
}
