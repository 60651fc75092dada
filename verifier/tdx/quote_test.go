package tdx_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"testing"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
	guestdata "github.com/google/go-tdx-guest/testing/testdata"
)

// encodeQuote is the inverse of ParseQuote: it uses the exported fields only.
func encodeQuote(q *tdx.Quote) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, q.Version)
	b = le.AppendUint16(b, 2)
	b = le.AppendUint32(b, 0x81)
	b = le.AppendUint16(b, q.QESVN)
	b = le.AppendUint16(b, q.PCESVN)
	b = append(b, 0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07)
	b = append(b, q.UserData...)
	d := &q.Body
	body := bytes.Join([][]byte{
		d.TEETCBSVN, d.MRSEAM, d.MRSignerSEAM, d.SEAMAttributes, d.TDAttributes[:], d.XFAM[:], d.MRTD, d.MRConfigID, d.MROwner,
		d.MROwnerConfig, d.RTMR[0], d.RTMR[1], d.RTMR[2], d.RTMR[3], d.ReportData, d.TEETCBSVN2, d.MRServiceTD,
	}, nil)
	if q.Version == 5 {
		b = le.AppendUint16(b, q.BodyType)
		b = le.AppendUint32(b, uint32(len(body)))
	}
	b = append(b, body...)

	cert := le.AppendUint16(nil, 5)
	cert = le.AppendUint32(cert, uint32(len(q.PCKChain)))
	cert = append(cert, q.PCKChain...)
	qe := bytes.Join([][]byte{q.QEReport, q.QEReportSignature, le.AppendUint16(nil, uint16(len(q.QEAuthData))), q.QEAuthData, cert}, nil)
	auth := bytes.Join([][]byte{q.Signature, q.AttestationKey, le.AppendUint16(nil, 6), le.AppendUint32(nil, uint32(len(qe))), qe}, nil)
	b = le.AppendUint32(b, uint32(len(auth)))
	return append(b, auth...)
}

// guestQuote returns go-tdx-guest's sample, which Intel's hardware signed. It is
// followed by a text there, which that library returns as extra bytes.
func guestQuote(tb testing.TB) []byte {
	b, ok := bytes.CutSuffix(guestdata.RawQuote, []byte("\nextra bytes(only for testing purpose)\n"))
	if !ok {
		tb.Fatal("go-tdx-guest's sample quote doesn't end as expected")
	}
	return b
}

// seedQuotes returns quotes of all kinds, and real ones.
func seedQuotes(tb testing.TB) [][]byte {
	quotes := [][]byte{guestQuote(tb)}
	for _, o := range []tdxsim.QuoteOptions{{}, {Version: 5}, {Version: 5, Body: 3}, {AuthDataSize: new(0)}} {
		s := newScenario()
		s.quote = o
		raw, _, _ := s.make(tb)
		quotes = append(quotes, raw)
	}
	for _, v := range vectors(tb) {
		quotes = append(quotes, v.quote)
	}
	return quotes
}

func TestParseQuoteErrors(t *testing.T) {
	put16 := func(off int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[off:], v); return b }
	}
	put32 := func(off int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[off:], v); return b }
	}
	add32 := func(off int, v int) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.LittleEndian.PutUint32(b[off:], uint32(int(binary.LittleEndian.Uint32(b[off:]))+v))
			return b
		}
	}
	const (
		body = 48 + 6
		sig  = body + 648
		cert = sig + 4 + 128
		auth = cert + 6 + 384 + 64
		pck  = auth + 2 + 32
	)
	s := newScenario()
	s.quote = tdxsim.QuoteOptions{Version: 5, Body: 3}
	good, _, _ := s.make(t)
	if q, err := tdx.ParseQuote(good); err != nil || !bytes.Equal(encodeQuote(q), good) {
		t.Fatal(err) // else every row passes for the wrong reason
	}
	for _, tt := range []struct {
		name string
		edit func([]byte) []byte
	}{
		{"empty", func(b []byte) []byte { return nil }},
		{"trailing byte", func(b []byte) []byte { return append(b, 0) }},
		{"version 3", put16(0, 3)},
		{"version 4 with a body header", put16(0, 4)},
		{"version 6", put16(0, 6)},
		{"attestation key of P-384", put16(2, 3)},
		{"TEE SGX", put32(4, 0)},
		{"QE vendor", put16(12, 0)},
		{"body of an SGX enclave", put16(48, 1)},
		{"body type 2 with size of 3", put16(48, 2)},
		{"body type 4", put16(48, 4)},
		{"body type beyond a byte", put16(48, 0x103)},
		{"body size", add32(50, -64)},
		{"body size huge", put32(50, math.MaxUint32)},
		{"signature data one shorter", add32(sig, -1)},
		{"signature data one longer", add32(sig, 1)},
		{"signature data huge", put32(sig, math.MaxUint32)},
		{"signature data of 2 GiB", put32(sig, 1<<31)},
		{"signature data empty", put32(sig, 0)},
		{"certification data of type 5", put16(cert, 5)},
		{"certification data one shorter", add32(cert+2, -1)},
		{"certification data one longer", add32(cert+2, 1)},
		{"certification data huge", put32(cert+2, math.MaxUint32)},
		{"authentication data one shorter", put16(auth, 31)},
		{"authentication data one longer", put16(auth, 33)},
		{"authentication data of the largest size", put16(auth, math.MaxUint16)},
		{"PCK chain of type 3", put16(pck, 3)},
		{"PCK chain one shorter", add32(pck+2, -1)},
		{"PCK chain one longer", add32(pck+2, 1)},
		{"PCK chain huge", put32(pck+2, math.MaxUint32)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, err := tdx.ParseQuote(tt.edit(bytes.Clone(good)))
			if q != nil || reasonOf(err) != tdx.ReasonParse {
				t.Errorf("got %+v, %v", q, err)
			}
		})
	}
	for i := range good {
		if _, err := tdx.ParseQuote(good[:i]); reasonOf(err) != tdx.ReasonParse {
			t.Errorf("first %d bytes: %v", i, err)
		}
	}
}

// TestParseQuoteTruncated cuts the signature data at every byte, with all sizes
// around the cut made to fit, as an attacker would.
func TestParseQuoteTruncated(t *testing.T) {
	const (
		sig  = 48 + 584
		cert = sig + 4 + 128
		auth = cert + 6 + 384 + 64
		pck  = auth + 2 + 32
	)
	good, _, _ := newScenario().make(t)
	for n := sig + 4; n < pck+100; n++ {
		b := bytes.Clone(good[:n])
		for _, size := range []int{sig, cert + 2, pck + 2} {
			if size+4 <= n {
				binary.LittleEndian.PutUint32(b[size:], uint32(n-size-4))
			}
		}
		if n >= auth+2 && n < pck {
			binary.LittleEndian.PutUint16(b[auth:], uint16(n-auth-2))
		}
		q, err := tdx.ParseQuote(b)
		if n < pck+6 {
			if reasonOf(err) != tdx.ReasonParse {
				t.Errorf("%d bytes: %v", n, err)
			}
			continue
		}
		if err != nil || len(q.PCKChain) != n-pck-6 {
			t.Errorf("%d bytes: %+v, %v", n, q, err)
		}
	}
}

func TestTrimPadding(t *testing.T) {
	for _, good := range seedQuotes(t)[:5] {
		for _, tt := range []struct {
			name      string
			in, after []byte
		}{
			{"none", good, good},
			{"one", append(bytes.Clone(good), 0), good},
			{"many", append(bytes.Clone(good), make([]byte, 5000)...), good},
			{"not only zeros", append(bytes.Clone(good), 0, 1), nil},
			{"truncated", good[:len(good)-1], nil},
			{"nothing but a header", good[:48], nil},
			{"body only", good[:48+584], nil},
			{"zeros", make([]byte, 5000), nil},
			{"empty", nil, nil},
		} {
			after := tt.after
			if after == nil {
				after = tt.in // unchanged
			}
			if got := tdx.TrimPadding(tt.in); !bytes.Equal(got, after) {
				t.Errorf("%s: %d bytes, want %d", tt.name, len(got), len(after))
			}
		}
	}
}

// TestParseQuoteAllocates nothing but the result: quotes are parsed on the way in
// of a log, before anything about them is known.
func TestParseQuoteAllocates(t *testing.T) {
	raw := seedQuotes(t)[0]
	if n := testing.AllocsPerRun(100, func() {
		if _, err := tdx.ParseQuote(raw); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("%v allocations, want 1", n)
	}
}

// FuzzParseQuote checks that a quote has one encoding, and that padding is told
// from it.
func FuzzParseQuote(f *testing.F) {
	for _, b := range seedQuotes(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := tdx.ParseQuote(b)
		if err != nil {
			if reasonOf(err) != tdx.ReasonParse {
				t.Errorf("error without reason: %v", err)
			}
			tdx.TrimPadding(b)
			return
		}
		if got := encodeQuote(q); !bytes.Equal(got, b) {
			t.Errorf("accepted two encodings:\n%x\n%x", got, b)
		}
		if got := tdx.TrimPadding(b); !bytes.Equal(got, b) {
			t.Errorf("TrimPadding took %d bytes of a quote", len(b)-len(got))
		}
		if got := tdx.TrimPadding(append(bytes.Clone(b), 0, 0)); !bytes.Equal(got, b) {
			t.Errorf("TrimPadding left %d bytes of %d", len(got), len(b))
		}
	})
}

// FuzzVerifyMutated overwrites part of a quote, or of a component of its
// collateral: whatever is accepted says exactly what the original said.
func FuzzVerifyMutated(f *testing.F) {
	type genuine struct {
		quote      *tdx.Quote
		collateral *tdx.Collateral
		root       *tdx.Root
		set        *tdx.Set
		verifier   *tdx.Verifier
		scenario   *scenario
		result     *tdx.Result
	}
	var all []genuine
	add := func(s *scenario, raw []byte, c *tdx.Collateral, root *tdx.Root) {
		g := genuine{collateral: c, root: root, verifier: tdx.NewVerifier(root, 1), scenario: s}
		var err error
		if g.quote, err = tdx.ParseQuote(raw); err != nil {
			f.Fatal(err)
		}
		if g.set, err = tdx.Compile(c, root); err != nil {
			f.Fatal(err)
		}
		if g.result, err = g.verifier.Verify(g.quote, g.set, s.at); err != nil {
			f.Fatal(err)
		}
		all = append(all, g)
	}
	for _, o := range []tdxsim.QuoteOptions{{}, {Version: 5}, {Version: 5, Body: 3}} {
		s := newScenario()
		s.quote = o
		raw, c, root := s.make(f)
		add(s, raw, c, root)
	}
	for _, v := range vectors(f) {
		if v.Expect != "accept" || v.name == "synthetic/trailing_bytes" {
			continue
		}
		c, err := tdx.ParseCollateralJSON(v.collateral)
		if err != nil {
			f.Fatal(err)
		}
		add(&scenario{at: unix(v.At)}, v.quote, c, v.root)
	}
	for i, g := range all {
		f.Add(uint8(i), uint8(0), uint16(0), []byte{})
		f.Add(uint8(i), uint8(0), uint16(60), []byte("\xff\xff"))
		f.Add(uint8(i), uint8(0), uint16(48+584), []byte("\xff\xff\xff\xff"))
		f.Add(uint8(i), uint8(0), uint16(len(g.quote.Raw())-1), []byte("\n"))
		for part := range g.collateral.Components() {
			f.Add(uint8(i), uint8(part+1), uint16(20*part), []byte(" "))
		}
	}
	f.Fuzz(func(t *testing.T, which, part uint8, offset uint16, patch []byte) {
		g := &all[int(which)%len(all)]
		overwrite := func(b []byte) []byte {
			b = bytes.Clone(b)
			if int(offset) < len(b) {
				copy(b[offset:], patch)
			}
			return b
		}
		q, set := g.quote, g.set
		var err error
		if part %= 8; part == 0 {
			if q, err = tdx.ParseQuote(overwrite(g.quote.Raw())); err != nil {
				return
			}
		} else {
			c := *g.collateral
			dst := []*[]byte{&c.TCBInfo, &c.TCBInfoChain, &c.QEIdentity, &c.QEIdentityChain, &c.RootCRL, &c.PCKCRL, &c.PCKCRLChain}[part-1]
			*dst = overwrite(*dst)
			if set, err = tdx.Compile(&c, g.root); err != nil {
				if reasonOf(err) == "" {
					t.Errorf("error without reason: %v", err)
				}
				return
			}
		}
		r, err := g.verifier.Verify(q, set, g.scenario.at)
		if err != nil {
			if r != nil || reasonOf(err) == "" {
				t.Errorf("got %+v, %v", r, err)
			}
			return
		}
		if !equalJSON(t, r, g.result) {
			t.Errorf("accepted with another result:\n%+v\n%+v", r, g.result)
		}
		signedEnd := len(q.Raw()) - len(q.PCKChain) - 6 - len(q.QEAuthData) - 2 - 64 - 384 - 6 - 128 - 4
		if !bytes.Equal(q.Raw()[:signedEnd], g.quote.Raw()[:signedEnd]) || !bytes.Equal(q.QEReport, g.quote.QEReport) ||
			!bytes.Equal(q.AttestationKey, g.quote.AttestationKey) || !bytes.Equal(q.QEAuthData, g.quote.QEAuthData) {
			t.Error("accepted a change in what is signed")
		}
	})
}
