package tdx

import (
	"bytes"
	"encoding/hex"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Collateral is what Intel publishes to judge quotes by, as bytes. A value of
// this type says nothing about their validity: see [Compile].
type Collateral struct {
	TCBInfo         []byte // body {"tcbInfo":{…},"signature":"…"}, as served by Intel
	TCBInfoChain    []byte // PEM: TCB signing certificate, root
	QEIdentity      []byte // body {"enclaveIdentity":{…},"signature":"…"}, as served by Intel
	QEIdentityChain []byte // PEM: TCB signing certificate, root
	RootCRL         []byte // DER
	PCKCRL          []byte // DER
	PCKCRLChain     []byte // PEM: PCK platform or processor CA, root
}

// The member of a response body that is signed.
const (
	tcbInfoMember    = "tcbInfo"
	qeIdentityMember = "enclaveIdentity"
)

// Components returns the components in the order of the struct's fields, which
// is that of a log's collateral leaves.
func (c *Collateral) Components() [7][]byte {
	return [7][]byte{c.TCBInfo, c.TCBInfoChain, c.QEIdentity, c.QEIdentityChain, c.RootCRL, c.PCKCRL, c.PCKCRLChain}
}

// clone returns a deep copy of c.
func (c *Collateral) clone() *Collateral {
	return &Collateral{
		TCBInfo:         bytes.Clone(c.TCBInfo),
		TCBInfoChain:    bytes.Clone(c.TCBInfoChain),
		QEIdentity:      bytes.Clone(c.QEIdentity),
		QEIdentityChain: bytes.Clone(c.QEIdentityChain),
		RootCRL:         bytes.Clone(c.RootCRL),
		PCKCRL:          bytes.Clone(c.PCKCRL),
		PCKCRLChain:     bytes.Clone(c.PCKCRLChain),
	}
}

// collateralJSON is the form in which dcap-qvl and dstack exchange collateral:
// signed texts as strings, signatures and CRLs in hex, chains in PEM. Every
// member is required. Pointers tell missing members, and null, from empty ones.
type collateralJSON struct {
	PCKCRLChain     *string `json:"pck_crl_issuer_chain"`
	RootCRL         *string `json:"root_ca_crl"`
	PCKCRL          *string `json:"pck_crl"`
	TCBInfoChain    *string `json:"tcb_info_issuer_chain"`
	TCBInfo         *string `json:"tcb_info"`
	TCBInfoSig      *string `json:"tcb_info_signature"`
	QEIdentityChain *string `json:"qe_identity_issuer_chain"`
	QEIdentity      *string `json:"qe_identity"`
	QEIdentitySig   *string `json:"qe_identity_signature"`
	PCKChain        *string `json:"pck_certificate_chain,omitzero"` // by newer versions of dcap-qvl; ignored, the quote has its own
}

// ParseCollateralJSON parses the JSON form of collateral. Duplicate and unknown
// members are refused, and so are signed texts that aren't JSON objects. Nothing
// is verified. The error is an *[Error] with ReasonCollateral.
func ParseCollateralJSON(b []byte) (*Collateral, error) {
	var j collateralJSON
	if err := json.Unmarshal(b, &j, json.RejectUnknownMembers(true)); err != nil {
		return nil, refuse(ReasonCollateral, "collateral file: %v", err)
	}
	c := new(Collateral)
	for _, f := range []struct {
		dst    *[]byte
		name   string
		src    *string
		decode func(string) ([]byte, error)
	}{
		{&c.TCBInfoChain, "tcb_info_issuer_chain", j.TCBInfoChain, text},
		{&c.QEIdentityChain, "qe_identity_issuer_chain", j.QEIdentityChain, text},
		{&c.RootCRL, "root_ca_crl", j.RootCRL, hex.DecodeString},
		{&c.PCKCRL, "pck_crl", j.PCKCRL, hex.DecodeString},
		{&c.PCKCRLChain, "pck_crl_issuer_chain", j.PCKCRLChain, text},
	} {
		if f.src == nil {
			return nil, refuse(ReasonCollateral, "collateral file: member %q missing", f.name)
		}
		var err error
		if *f.dst, err = f.decode(*f.src); err != nil {
			return nil, refuse(ReasonCollateral, "collateral file: %s: %v", f.name, err)
		}
	}
	var err error
	if c.TCBInfo, err = joinBody(tcbInfoMember, j.TCBInfo, j.TCBInfoSig); err != nil {
		return nil, err
	}
	if c.QEIdentity, err = joinBody(qeIdentityMember, j.QEIdentity, j.QEIdentitySig); err != nil {
		return nil, err
	}
	return c, nil
}

func text(s string) ([]byte, error) { return []byte(s), nil }

// JSON returns the JSON form of c, which [ParseCollateralJSON] turns into c
// again. It is an error if that can't be, because a body isn't spaced and ordered
// as Intel serves it.
func (c *Collateral) JSON() ([]byte, error) {
	tcbText, tcbSig, err := splitBody(tcbInfoMember, c.TCBInfo)
	if err != nil {
		return nil, err
	}
	qeText, qeSig, err := splitBody(qeIdentityMember, c.QEIdentity)
	if err != nil {
		return nil, err
	}
	str := func(b []byte) *string { s := string(b); return &s }
	hexStr := func(b []byte) *string { s := hex.EncodeToString(b); return &s }
	b, err := json.Marshal(&collateralJSON{
		PCKCRLChain:     str(c.PCKCRLChain),
		RootCRL:         hexStr(c.RootCRL),
		PCKCRL:          hexStr(c.PCKCRL),
		TCBInfoChain:    str(c.TCBInfoChain),
		TCBInfo:         str(tcbText),
		TCBInfoSig:      &tcbSig,
		QEIdentityChain: str(c.QEIdentityChain),
		QEIdentity:      str(qeText),
		QEIdentitySig:   &qeSig,
	})
	if err != nil {
		return nil, refuse(ReasonCollateral, "collateral: %v", err)
	}
	again, err := ParseCollateralJSON(b)
	if err != nil {
		return nil, err
	}
	for i, part := range again.Components() {
		if !bytes.Equal(part, c.Components()[i]) {
			return nil, refuse(ReasonCollateral, "component %d of the collateral isn't spaced and ordered as Intel serves it", i)
		}
	}
	return b, nil
}

// joinBody makes a response body of a signed text and its signature.
func joinBody(member string, text, sig *string) ([]byte, error) {
	if text == nil || sig == nil {
		return nil, refuse(ReasonCollateral, "collateral file: text or signature of %s missing", member)
	}
	b := make([]byte, 0, len(*text)+len(*sig)+len(member)+20)
	b = append(b, `{"`...)
	b = append(b, member...)
	b = append(b, `":`...)
	b = append(b, *text...)
	b = append(b, `,"signature":"`...)
	b = append(b, *sig...)
	b = append(b, `"}`...)
	// The text must not reach beyond its place.
	gotText, gotSig, err := splitBody(member, b)
	if err != nil {
		return nil, err
	}
	if string(gotText) != *text || gotSig != *sig {
		return nil, refuse(ReasonCollateral, "collateral file: text or signature of %s isn't a single value", member)
	}
	return b, nil
}

// splitBody splits a response body into the exact text that is signed, as it
// stands in the body, and the signature, 128 hexadecimal digits. The body must
// have these two members only; duplicate members are refused at any depth.
func splitBody(member string, body []byte) (text []byte, sig string, err error) {
	bad := func(format string, args ...any) ([]byte, string, error) {
		return nil, "", refuse(ReasonCollateral, member+" body: "+format, args...)
	}
	d := jsontext.NewDecoder(bytes.NewReader(body))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return bad("not a JSON object: %v", err)
	}
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil {
			return bad("%v", err)
		}
		key := name.String()
		switch v, err := d.ReadValue(); {
		case err != nil:
			return bad("%v", err)
		case key == member && v.Kind() == '{':
			text = bytes.Clone(v)
		case key == "signature" && v.Kind() == '"':
			sig = string(v[1 : len(v)-1])
		default:
			return bad("unexpected member %q or value", key)
		}
	}
	if _, err := d.ReadToken(); err != nil {
		return bad("%v", err)
	}
	if rest := body[d.InputOffset():]; len(bytes.Trim(rest, " \t\r\n")) > 0 {
		return bad("%d bytes follow", len(rest))
	}
	if text == nil {
		return bad("no %q", member)
	}
	if len(sig) != 2*signatureSize {
		return bad("signature of %d hexadecimal digits, want %d", len(sig), 2*signatureSize)
	}
	if _, err := hex.DecodeString(sig); err != nil {
		return bad("signature: %v", err)
	}
	return text, sig, nil
}
