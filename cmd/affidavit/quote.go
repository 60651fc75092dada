package main

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// decodeQuote parses a quote as tools hand them around: raw, in hexadecimal
// (with any white space, with or without 0x), or in base64, each with or without
// the zero bytes that pad a quote to the size of its buffer. It returns the
// quote's own bytes even if they can't be parsed.
func decodeQuote(b []byte) (raw []byte, q *tdx.Quote, err error) {
	if raw = b; isText(b) {
		if raw, err = decodeText(string(b)); err != nil {
			return nil, nil, err
		}
	}
	raw = tdx.TrimPadding(raw)
	q, err = tdx.ParseQuote(raw)
	return raw, q, err
}

// isText reports whether b can only be text. No quote is: its version number has
// a zero byte.
func isText(b []byte) bool {
	for _, c := range b {
		if c >= 0x7f || c < 0x20 && c != '\n' && c != '\r' && c != '\t' {
			return false
		}
	}
	return len(bytes.TrimSpace(b)) > 0
}

func decodeText(s string) ([]byte, error) {
	s = strings.Join(strings.Fields(s), "")
	digits := s
	if len(s) > 1 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') {
		digits = s[2:]
	}
	// A base64 quote begins with BA or BQ and always has letters beyond f.
	if b, err := hex.DecodeString(digits); err == nil {
		return b, nil
	}
	s = strings.TrimRight(s, "=")
	for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := enc.DecodeString(s); err == nil {
			return b, nil
		}
	}
	return nil, errors.New("text that is neither hexadecimal nor base64")
}

// quoteFields is what a quote says, in JSON. Nothing in it is verified by itself.
// Digests and the like are in lowercase hexadecimal, in the order of the quote's
// bytes.
type quoteFields struct {
	QuoteVersion  uint16    `json:"quoteVersion"`
	BodyType      uint16    `json:"bodyType"`
	FMSPC         string    `json:"fmspc"`
	PCEID         string    `json:"pceid"`
	MRTD          string    `json:"mrtd"`
	RTMR          [4]string `json:"rtmr"`
	ReportData    string    `json:"reportData"`
	TDAttributes  string    `json:"tdAttributes"`
	XFAM          string    `json:"xfam"`
	MRConfigID    string    `json:"mrConfigId"`
	MROwner       string    `json:"mrOwner"`
	MROwnerConfig string    `json:"mrOwnerConfig"`
	MRServiceTD   string    `json:"mrServiceTd"` // empty unless the body is of type 3
	MRSEAM        string    `json:"mrSeam"`
	TEETCBSVN     string    `json:"teeTcbSvn"`
}

func fieldsOf(q *tdx.Quote) quoteFields {
	f := quoteFields{
		QuoteVersion:  q.Version,
		BodyType:      q.BodyType,
		MRTD:          hex.EncodeToString(q.Body.MRTD),
		ReportData:    hex.EncodeToString(q.Body.ReportData),
		TDAttributes:  hex.EncodeToString(q.Body.TDAttributes[:]),
		XFAM:          hex.EncodeToString(q.Body.XFAM[:]),
		MRConfigID:    hex.EncodeToString(q.Body.MRConfigID),
		MROwner:       hex.EncodeToString(q.Body.MROwner),
		MROwnerConfig: hex.EncodeToString(q.Body.MROwnerConfig),
		MRServiceTD:   hex.EncodeToString(q.Body.MRServiceTD),
		MRSEAM:        hex.EncodeToString(q.Body.MRSEAM),
		TEETCBSVN:     hex.EncodeToString(q.Body.TEETCBSVN),
	}
	for i, r := range q.Body.RTMR {
		f.RTMR[i] = hex.EncodeToString(r)
	}
	if p := pckOf(q); p != nil {
		f.FMSPC, f.PCEID = p.fmspc, p.pceid
	}
	return f
}

// attributeWords lists what a TD's attributes mean, for people.
func attributeWords(a tdx.TDAttributes) string {
	var words []string
	for _, w := range []struct {
		set  bool
		text string
	}{
		{a.Debug(), "DEBUG: the host can read and change the trust domain"},
		{a.Migratable(), "MIGRATABLE"},
		{a.SEPTVEDisable(), "SEPT_VE_DISABLE"},
		{a.PKS(), "PKS"}, {a.KeyLocker(), "KL"}, {a.PerfMon(), "PERFMON"},
		{a.LASS(), "LASS"}, {a.TPA(), "TPA"},
	} {
		if w.set {
			words = append(words, w.text)
		}
	}
	if r := a.Reserved(); r != 0 {
		words = append(words, fmt.Sprintf("reserved bits %#x", r))
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

// printQuote prints what a quote says.
func printQuote(w io.Writer, q *tdx.Quote) {
	f := fieldsOf(q)
	row := func(label, value string) {
		if value == "" {
			value = "-"
		}
		hang(w, fmt.Sprintf("  %-18s  ", label), value)
	}
	row("version", fmt.Sprintf("%d, body type %d", f.QuoteVersion, f.BodyType))
	row("MRTD", f.MRTD)
	for i, r := range f.RTMR {
		row(fmt.Sprintf("RTMR%d", i), r)
	}
	row("REPORTDATA", f.ReportData)
	row("TD attributes", f.TDAttributes+" ("+attributeWords(q.Body.TDAttributes)+")")
	row("XFAM", f.XFAM)
	row("MRCONFIGID", f.MRConfigID)
	row("MROWNER", f.MROwner)
	row("MROWNERCONFIG", f.MROwnerConfig)
	if f.MRServiceTD != "" {
		row("MRSERVICETD", f.MRServiceTD)
	}
	row("MRSEAM", f.MRSEAM)
	row("TEE TCB SVN", f.TEETCBSVN)
	if p := pckOf(q); p != nil {
		row("platform", fmt.Sprintf("FMSPC %s, PCEID %s", p.fmspc, p.pceid))
		row("PCK certificate", fmt.Sprintf("serial %s, issued by %s, valid from %s until %s",
			p.cert.SerialNumber.Text(16), clean(p.cert.Issuer.CommonName), stamp(p.cert.NotBefore), stamp(p.cert.NotAfter)))
	}
}

// pck is what a quote's first certificate says, without any check of it.
type pck struct {
	cert         *x509.Certificate
	fmspc, pceid string
}

var (
	oidSGX   = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
	oidPCEID = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 3}
	oidFMSPC = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1, 4}
)

// pckOf returns nil if the certificate can't be read.
func pckOf(q *tdx.Quote) *pck {
	block, _ := pem.Decode(q.PCKChain)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	p := &pck{cert: cert}
	for _, ext := range cert.Extensions {
		if !ext.Id.Equal(oidSGX) {
			continue
		}
		var elements []struct {
			ID    asn1.ObjectIdentifier
			Value asn1.RawValue
		}
		if _, err := asn1.Unmarshal(ext.Value, &elements); err != nil {
			return p
		}
		for _, e := range elements {
			switch {
			case e.ID.Equal(oidFMSPC):
				p.fmspc = hex.EncodeToString(e.Value.Bytes)
			case e.ID.Equal(oidPCEID):
				p.pceid = hex.EncodeToString(e.Value.Bytes)
			}
		}
	}
	return p
}
