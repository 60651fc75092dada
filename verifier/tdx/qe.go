package tdx

import (
	"encoding/binary"
	"fmt"

	"github.com/go-json-experiment/json"
)

type qeIdentityJSON struct {
	ID                      *string        `json:"id"`
	Version                 *uint32        `json:"version"`
	IssueDate               *string        `json:"issueDate"`
	NextUpdate              *string        `json:"nextUpdate"`
	TCBEvaluationDataNumber *uint32        `json:"tcbEvaluationDataNumber"`
	MiscSelect              *string        `json:"miscselect"`
	MiscSelectMask          *string        `json:"miscselectMask"`
	Attributes              *string        `json:"attributes"`
	AttributesMask          *string        `json:"attributesMask"`
	MRSigner                *string        `json:"mrsigner"`
	ISVProdID               *uint16        `json:"isvprodid"`
	TCBLevels               []isvLevelJSON `json:"tcbLevels"`
}

// A qeIdentity is a parsed identity, version 2, of the TD quoting enclave.
type qeIdentity struct {
	window                     window
	evaluation                 uint32
	miscSelect, miscSelectMask [4]byte
	attributes, attributesMask [16]byte
	mrsigner                   [32]byte
	isvProdID                  uint16
	levels                     []isvLevel // in the order of the text; not empty
}

// parseQEIdentity parses the signed text of a QE identity. Errors have ReasonQE.
func parseQEIdentity(text []byte) (*qeIdentity, error) {
	q, err := parseQEIdentityText(text)
	if err != nil {
		return nil, refuse(ReasonQE, "QE identity: %w", err)
	}
	return q, nil
}

func parseQEIdentityText(text []byte) (*qeIdentity, error) {
	var j qeIdentityJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, err
	}
	if j.ID == nil || *j.ID != "TD_QE" {
		return nil, fmt.Errorf("id %s, want \"TD_QE\"", show(j.ID))
	}
	if j.Version == nil || *j.Version != 2 {
		return nil, fmt.Errorf("version %s, want 2", show(j.Version))
	}
	if j.TCBEvaluationDataNumber == nil || j.ISVProdID == nil {
		return nil, fmt.Errorf("tcbEvaluationDataNumber or isvprodid missing")
	}
	q := &qeIdentity{evaluation: *j.TCBEvaluationDataNumber, isvProdID: *j.ISVProdID}
	var err error
	if q.window, err = parseWindow("QE identity", j.IssueDate, j.NextUpdate); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name string
		src  *string
		dst  []byte
	}{
		{"miscselect", j.MiscSelect, q.miscSelect[:]},
		{"miscselectMask", j.MiscSelectMask, q.miscSelectMask[:]},
		{"attributes", j.Attributes, q.attributes[:]},
		{"attributesMask", j.AttributesMask, q.attributesMask[:]},
		{"mrsigner", j.MRSigner, q.mrsigner[:]},
	} {
		if err := parseHex(f.name, f.src, f.dst); err != nil {
			return nil, err
		}
	}
	if q.levels, err = parseISVLevels(j.TCBLevels); err != nil {
		return nil, err
	}
	for i, l := range q.levels {
		if !l.component.Status.validQE() {
			return nil, fmt.Errorf("tcbLevels[%d]: unknown tcbStatus %q", i, l.component.Status)
		}
	}
	return q, nil
}

// check checks that report, an SGX enclave report of enclaveReportSize bytes, is
// of the enclave that q identifies, and returns the enclave's TCB level and SVN.
//
// The rules are those of EnclaveReportVerifier.cpp: the masked MISCSELECT and
// attributes (which excludes debug enclaves), MRSIGNER and ISVPRODID must be
// equal. The level is the first in the order of the text that the enclave's ISVSVN
// reaches (getTcbStatus in EnclaveIdentityV2.cpp). Offsets in the report are those
// of EnclaveReport in QuoteStructures.h.
func (q *qeIdentity) check(report []byte) (*isvLevel, uint16, error) {
	for i := range q.miscSelect {
		if report[16+i]&q.miscSelectMask[i] != q.miscSelect[i] {
			return nil, 0, refuse(ReasonQE, "quoting enclave has MISCSELECT %x, want %x under the mask %x", report[16:20], q.miscSelect, q.miscSelectMask)
		}
	}
	for i := range q.attributes {
		if report[48+i]&q.attributesMask[i] != q.attributes[i] {
			return nil, 0, refuse(ReasonQE, "quoting enclave has attributes %x, want %x under the mask %x", report[48:64], q.attributes, q.attributesMask)
		}
	}
	if string(report[128:160]) != string(q.mrsigner[:]) {
		return nil, 0, refuse(ReasonQE, "quoting enclave has MRSIGNER %x, want %x", report[128:160], q.mrsigner)
	}
	if id := binary.LittleEndian.Uint16(report[256:]); id != q.isvProdID {
		return nil, 0, refuse(ReasonQE, "quoting enclave has ISVPRODID %d, want %d", id, q.isvProdID)
	}
	svn := binary.LittleEndian.Uint16(report[258:])
	for i := range q.levels {
		if svn >= q.levels[i].svn {
			return &q.levels[i], svn, nil
		}
	}
	return nil, 0, refuse(ReasonQE, "no TCB level for ISVSVN %d of the quoting enclave", svn)
}
