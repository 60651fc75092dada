package tdxsim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A synthetic is a case of the shared synthetic vectors, made by this package.
type synthetic struct {
	platform   PlatformOptions
	quote      QuoteOptions
	collateral CollateralOptions
	editQuote  func(pki *PKI, pl *Platform, q []byte) []byte
	edit       func(c *tdx.Collateral)
	otherRoot  bool

	want   string     // status, or
	reason tdx.Reason // why it isn't genuine
}

// Offsets in a version 4 quote with the default authentication data.
const (
	offSignedSize = headerSize + bodySize2
	offSignature  = offSignedSize + 4
	offKey        = offSignature + 64
	offQEReport   = offKey + 64 + 6
	offQESig      = offQEReport + 384
	offAuthSize   = offQESig + 64
)

func flip(off int) func(*PKI, *Platform, []byte) []byte {
	return func(_ *PKI, _ *Platform, q []byte) []byte { q[off] ^= 1; return q }
}

func levels(edit func(l []Level)) []Level {
	l := DefaultLevels()
	edit(l)
	return l
}

// status has the platform's level answer a status, as in the shared vectors.
func status(s string, tcb *[16]byte) synthetic {
	return synthetic{
		quote: QuoteOptions{TEETCBSVN: tcb},
		collateral: CollateralOptions{Levels: levels(func(l []Level) {
			l[0].Status, l[0].Advisories = s, []string{"INTEL-SA-00001"}
		})},
		want: s,
	}
}

var module0 = &[16]byte{5, 0, 2}

// syntheticCases has a case for each of the shared vectors, under its name.
func syntheticCases(pki *PKI) map[string]synthetic {
	at := testTime
	revoked := status("Revoked", nil)
	revoked.want, revoked.reason = "", tdx.ReasonRevoked
	revokedPlatform := pki.NewPlatform(PlatformOptions{Name: "revoked"})
	return map[string]synthetic{
		"valid_v4_TDX01": {want: "UpToDate"},
		"valid_v4_mod0":  {quote: QuoteOptions{TEETCBSVN: module0}, want: "UpToDate"},
		"valid_v5_body2": {quote: QuoteOptions{Version: 5}, want: "UpToDate"},
		"valid_v5_body3": {quote: QuoteOptions{Version: 5, Body: 3}, want: "UpToDate"},
		"authdata_64":    {quote: QuoteOptions{AuthDataSize: new(64)}, want: "UpToDate"},
		"trailing_bytes": {
			quote: QuoteOptions{Version: 5, Body: 3}, want: "UpToDate",
			editQuote: func(_ *PKI, _ *Platform, q []byte) []byte { return tdx.TrimPadding(append(q, make([]byte, 64)...)) },
		},

		"attest_key_swapped": {reason: tdx.ReasonSignature, editQuote: func(pki *PKI, _ *Platform, q []byte) []byte {
			// Key and signature of a platform with the same QE and TD, and the
			// first one's certification of its own key.
			other, err := pki.NewPlatform(PlatformOptions{Name: "other"}).Quote(QuoteOptions{})
			if err != nil {
				panic(err)
			}
			return append(other[:offQEReport-6], q[offQEReport-6:]...)
		}},
		"attkey_type_3": {reason: tdx.ReasonParse, editQuote: flip(2)},
		"authdata_size_ffff": {reason: tdx.ReasonParse, editQuote: func(_ *PKI, _ *Platform, q []byte) []byte {
			binary.LittleEndian.PutUint16(q[offAuthSize:], 0xffff)
			return q
		}},
		"signed_size_huge": {reason: tdx.ReasonParse, editQuote: func(_ *PKI, _ *Platform, q []byte) []byte {
			binary.LittleEndian.PutUint32(q[offSignedSize:], 0xffffffff)
			return q
		}},
		"trunc_1030": {reason: tdx.ReasonParse, editQuote: func(_ *PKI, _ *Platform, q []byte) []byte { return q[:1030] }},
		"v5_body_size_lie": {quote: QuoteOptions{Version: 5, Body: 3}, reason: tdx.ReasonParse,
			editQuote: func(_ *PKI, _ *Platform, q []byte) []byte {
				binary.LittleEndian.PutUint32(q[headerSize+2:], bodySize2)
				return q
			}},
		"quote_sig_flip":     {reason: tdx.ReasonSignature, editQuote: flip(offSignature + 10)},
		"qe_report_sig_flip": {reason: tdx.ReasonSignature, editQuote: flip(offQESig + 10)},
		"report_data_flip":   {reason: tdx.ReasonSignature, editQuote: flip(headerSize + offReportData)},
		"sig_r_s_zero": {reason: tdx.ReasonSignature, editQuote: func(_ *PKI, _ *Platform, q []byte) []byte {
			clear(q[offSignature : offSignature+64])
			return q
		}},

		"fmspc_mismatch":             {collateral: CollateralOptions{FMSPC: "00806f050000"}, reason: tdx.ReasonFMSPC},
		"fmspc_uppercase_in_tcbinfo": {collateral: CollateralOptions{FMSPC: "90C06F000000"}, want: "UpToDate"},
		"levels_unsorted": {collateral: CollateralOptions{Levels: levels(func(l []Level) {
			l[0], l[1] = l[1], l[0]
		})}, want: "UpToDate"},
		"platform_old_pce_TDX01":                           {platform: PlatformOptions{PCESVN: new(uint16(11))}, want: "OutOfDate"},
		"platform_ConfigurationNeeded_mod0":                status("ConfigurationNeeded", module0),
		"platform_OutOfDateConfigurationNeeded_mod0":       status("OutOfDateConfigurationNeeded", module0),
		"platform_OutOfDate_TDX01":                         status("OutOfDate", nil),
		"platform_SWHardeningNeeded_TDX01":                 status("SWHardeningNeeded", nil),
		"platform_ConfigurationAndSWHardeningNeeded_TDX01": status("ConfigurationAndSWHardeningNeeded", nil),
		"platform_Revoked_TDX01":                           revoked,
		"mod1_svn0_below_platform_comp0": {collateral: CollateralOptions{Levels: levels(func(l []Level) {
			l[0].TDX[0] = 7
		})}, want: "UpToDate"},
		"module_OutOfDate_TDX01":  {quote: QuoteOptions{TEETCBSVN: &[16]byte{2, 1, 2}}, want: "OutOfDate"},
		"module_below_all_levels": {quote: QuoteOptions{TEETCBSVN: &[16]byte{1, 1, 2}}, reason: tdx.ReasonModule},
		"module_identity_missing": {collateral: CollateralOptions{Modules: DefaultModules()[:1]}, reason: tdx.ReasonModule},
		"mrsignerseam_mismatch":   {platform: PlatformOptions{MRSignerSEAM: [48]byte{1}}, reason: tdx.ReasonModule},
		"relaunch_advised_v5_body3": {want: "TDRelaunchAdvised", quote: QuoteOptions{
			Version: 5, Body: 3, TEETCBSVN: &[16]byte{2, 1, 2}, TEETCBSVN2: &[16]byte{5, 1, 2},
		}},

		"qe_OutOfDate":         {platform: PlatformOptions{QE: QEOptions{ISVSVN: new(uint16(2))}}, want: "OutOfDate"},
		"qe_below_all_levels":  {platform: PlatformOptions{QE: QEOptions{ISVSVN: new(uint16(0))}}, reason: tdx.ReasonQE},
		"qe_mrsigner_mismatch": {platform: PlatformOptions{QE: QEOptions{MRSigner: &[32]byte{1}}}, reason: tdx.ReasonQE},
		"qe_attributes_debug":  {platform: PlatformOptions{QE: QEOptions{Attributes: &[16]byte{0x13}}}, reason: tdx.ReasonQE},

		"pck_crl_bad_signature": {edit: func(c *tdx.Collateral) { c.PCKCRL[len(c.PCKCRL)-1] ^= 1 }, reason: tdx.ReasonSignature},
		"pck_crl_expired":       {collateral: CollateralOptions{PCKCRL: CRL{NextUpdate: at.AddDate(0, 0, -1)}}, reason: tdx.ReasonExpired},
		"pck_leaf_expired":      {platform: PlatformOptions{NotAfter: at.AddDate(0, 0, -1)}, reason: tdx.ReasonExpired},
		"pck_leaf_revoked": {
			platform:   PlatformOptions{Name: "revoked"},
			collateral: CollateralOptions{PCKCRL: CRL{Revoked: []*big.Int{revokedPlatform.PCKSerial()}}},
			reason:     tdx.ReasonRevoked,
		},
		"tcb_signer_revoked":  {collateral: CollateralOptions{RootCRL: CRL{Revoked: []*big.Int{pki.TCBSigningSerial()}}}, reason: tdx.ReasonRevoked},
		"tcb_expired":         {collateral: CollateralOptions{TCBInfoDates: Dates{NextUpdate: at.AddDate(0, 0, -1)}}, reason: tdx.ReasonExpired},
		"tcb_issue_in_future": {collateral: CollateralOptions{TCBInfoDates: Dates{Issue: at.AddDate(0, 0, 1)}}, reason: tdx.ReasonNotYetValid},
		"tcb_id_sgx":          {collateral: CollateralOptions{ID: "SGX"}, reason: tdx.ReasonTCB},
		"tcb_info_tampered": {reason: tdx.ReasonSignature, edit: func(c *tdx.Collateral) {
			c.TCBInfo = bytes.ReplaceAll(c.TCBInfo, []byte(`"OutOfDate"`), []byte(`"UpToDate"`))
		}},
		"untrusted_root": {otherRoot: true, reason: tdx.ReasonRoot},

		// What a policy judges is genuine.
		"policy_td_debug":    {quote: QuoteOptions{TDAttributes: new(AttrSEPTVEDisable | AttrDebug)}, want: "UpToDate"},
		"policy_migratable":  {quote: QuoteOptions{TDAttributes: new(AttrSEPTVEDisable | AttrMigratable)}, want: "UpToDate"},
		"policy_sept_ve_off": {quote: QuoteOptions{TDAttributes: new(uint64(0))}, want: "UpToDate"},
	}
}

// moreCases are cases that the shared vectors don't have.
func moreCases(pki *PKI) map[string]synthetic {
	at := testTime
	other := NewPKI([]byte("other"), testTime)
	return map[string]synthetic{
		"processor CA": {
			platform: PlatformOptions{CA: ProcessorCA}, collateral: CollateralOptions{CA: ProcessorCA}, want: "UpToDate"},
		"processor platform, platform collateral": {platform: PlatformOptions{CA: ProcessorCA}, reason: tdx.ReasonChain},
		"other PCEID":                    {collateral: CollateralOptions{PCEID: "0001"}, reason: tdx.ReasonFMSPC},
		"platform CA revoked":            {collateral: CollateralOptions{RootCRL: CRL{Revoked: []*big.Int{pki.CASerial(PlatformCA)}}}, reason: tdx.ReasonRevoked},
		"another CA revoked":             {collateral: CollateralOptions{RootCRL: CRL{Revoked: []*big.Int{pki.CASerial(ProcessorCA)}}}, want: "UpToDate"},
		"another platform revoked":       {collateral: CollateralOptions{PCKCRL: CRL{Revoked: []*big.Int{big.NewInt(4711)}}}, want: "UpToDate"},
		"root CRL expired":               {collateral: CollateralOptions{RootCRL: CRL{NextUpdate: at.AddDate(0, 0, -1)}}, reason: tdx.ReasonExpired},
		"QE identity expired":            {collateral: CollateralOptions{QE: QEIdentity{Dates: Dates{NextUpdate: at.AddDate(0, 0, -1)}}}, reason: tdx.ReasonExpired},
		"QE identity of SGX":             {collateral: CollateralOptions{QE: QEIdentity{ID: "QE"}}, reason: tdx.ReasonQE},
		"CRL of another PKI":             {collateral: CollateralOptions{PCKCRL: CRL{Issuer: other}}, reason: tdx.ReasonSignature},
		"root CRL of another PKI":        {collateral: CollateralOptions{RootCRL: CRL{Issuer: other}}, reason: tdx.ReasonSignature},
		"as SGX TCB info is":             {collateral: CollateralOptions{ID: "SGX", OmitTDX: true}, reason: tdx.ReasonTCB},
		"PCK not yet valid":              {platform: PlatformOptions{NotBefore: at.AddDate(0, 0, 1)}, reason: tdx.ReasonNotYetValid},
		"SEAM attributes":                {platform: PlatformOptions{SEAMAttributes: [8]byte{1}}, reason: tdx.ReasonModule},
		"fresh QE signature":             {quote: QuoteOptions{FreshQE: true}, want: "UpToDate"},
		"no authentication data":         {quote: QuoteOptions{AuthDataSize: new(0)}, want: "UpToDate"},
		"SVNs below all levels":          {platform: PlatformOptions{SVNs: &[16]byte{}}, reason: tdx.ReasonNoLevel},
		"other measurements, everywhere": {quote: QuoteOptions{MRTD: [48]byte{1}, RTMR: [4][48]byte{{1}, {2}, {3}, {4}}, MRConfigID: [48]byte{5}, XFAM: new(uint64(3)), Version: 5, Body: 3, MRServiceTD: [48]byte{6}, ReportData: [64]byte{7}}, want: "UpToDate"},
	}
}

// verify makes a case and has it judged.
func (s *synthetic) verify(t *testing.T, pki *PKI) (*tdx.Quote, *tdx.Result, error) {
	t.Helper()
	pl := pki.NewPlatform(s.platform)
	raw, err := pl.Quote(s.quote)
	if err != nil {
		t.Fatal(err)
	}
	if s.editQuote != nil {
		raw = s.editQuote(pki, pl, raw)
	}
	o := s.collateral
	o.IssueDate = testTime.AddDate(0, 0, -10)
	c, err := pki.Collateral(o)
	if err != nil {
		t.Fatal(err)
	}
	if s.edit != nil {
		s.edit(c)
	}
	root := pki
	if s.otherRoot {
		root = NewPKI([]byte("another root"), testTime)
	}
	trusted, err := tdx.ParseRoot(root.Root())
	if err != nil {
		t.Fatal(err)
	}
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		return nil, nil, err
	}
	set, err := tdx.Compile(c, trusted)
	if err != nil {
		return nil, nil, err
	}
	r, err := tdx.NewVerifier(trusted, 10).Verify(q, set, testTime)
	return q, r, err
}

// TestCases fails if a knob of the options does nothing, or something else than
// it says: the verifier judges each case for the one thing that was changed.
func TestCases(t *testing.T) {
	pki := NewPKI([]byte("cases"), testTime)
	cases := syntheticCases(pki)
	for name, c := range moreCases(pki) {
		cases[name] = c
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, r, err := c.verify(t, pki)
			if c.reason == "" {
				if err != nil || string(r.Status) != c.want {
					t.Fatalf("got %+v, %v; want status %s", r, err, c.want)
				}
				return
			}
			var e *tdx.Error
			if !errors.As(err, &e) || e.Reason != c.reason {
				t.Fatalf("got %+v, %v; want reason %q", r, err, c.reason)
			}
		})
	}
}

// TestCoversSharedVectors fails if the shared synthetic vectors have a case that
// this package doesn't reproduce, or reproduces with another outcome.
func TestCoversSharedVectors(t *testing.T) {
	dir := os.Getenv("AFFIDAVIT_SHARED")
	if dir == "" {
		dir = "../../../../shared"
	}
	dir = filepath.Join(dir, "vectors", "tdx", "synthetic")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Skipf("shared vectors not found: %v", err)
	}
	cases := syntheticCases(NewPKI([]byte("cases"), testTime))
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "expected.json"))
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			At        int64
			Expect    string
			TCBStatus string
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		c, ok := cases[e.Name()]
		switch {
		case !ok:
			t.Errorf("%s isn't reproduced", e.Name())
		case want.At != testTime.Unix():
			t.Errorf("%s is judged at %v, ours at %v", e.Name(), time.Unix(want.At, 0).UTC(), testTime)
		case want.Expect == "accept" && c.want != want.TCBStatus, want.Expect == "reject" && c.reason == "", want.Expect == "refuse-by-policy" && c.reason != "":
			t.Errorf("%s: ours has status %q, reason %q; want %+v", e.Name(), c.want, c.reason, want)
		}
	}
}

// TestDefaults fails if the zero options don't give what a strict policy allows.
func TestDefaults(t *testing.T) {
	pki := NewPKI([]byte("defaults"), testTime)
	for _, o := range []QuoteOptions{{}, {Version: 5}, {Version: 5, Body: 3}} {
		o.ReportData = [64]byte{1, 2, 3}
		s := synthetic{quote: o, want: "UpToDate"}
		q, r, err := s.verify(t, pki)
		if err != nil {
			t.Fatal(err)
		}
		mrtd, rtmr1 := Measurement("mrtd"), Measurement("rtmr1")
		a := q.Body.TDAttributes
		if a.Debug() || a.Migratable() || !a.SEPTVEDisable() || a.Reserved() != 0 ||
			!bytes.Equal(q.Body.MRTD, mrtd[:]) || !bytes.Equal(q.Body.RTMR[1], rtmr1[:]) ||
			!bytes.Equal(q.Body.ReportData, o.ReportData[:]) {
			t.Errorf("body of %+v: %+v", o, q.Body)
		}
		pl := pki.NewPlatform(PlatformOptions{})
		ppid := pl.PPID()
		if r.PCKCA != PlatformCA || r.FMSPC != "90c06f000000" || r.PCKSerial != pl.PCKSerial().Text(16) ||
			r.PPID != hex.EncodeToString(ppid[:]) || len(r.Advisories) != 0 || r.Configuration == nil {
			t.Errorf("result: %+v", r)
		}
	}
}

// TestFields checks that fields land where they belong: each is set to another value.
func TestFields(t *testing.T) {
	pki := NewPKI([]byte("fields"), testTime)
	o := QuoteOptions{
		Version: 5, Body: 3,
		TDAttributes: new(AttrSEPTVEDisable | AttrPKS | AttrPerfMon),
		XFAM:         new(uint64(0x0102030405060708)),
		MRTD:         [48]byte{1}, RTMR: [4][48]byte{{2}, {3}, {4}, {5}},
		MRConfigID: [48]byte{6}, MROwner: [48]byte{7}, MROwnerConf: [48]byte{8}, MRServiceTD: [48]byte{9},
		ReportData: [64]byte{10}, TEETCBSVN: &[16]byte{11, 1}, TEETCBSVN2: &[16]byte{12, 1},
	}
	raw, err := pki.NewPlatform(PlatformOptions{MRSEAM: [48]byte{13}, MRSignerSEAM: [48]byte{14}, SEAMAttributes: [8]byte{15}}).Quote(o)
	if err != nil {
		t.Fatal(err)
	}
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		t.Fatal(err)
	}
	b := &q.Body
	for name, f := range map[string]struct{ got, want []byte }{
		"MRTD": {b.MRTD, o.MRTD[:]}, "RTMR0": {b.RTMR[0], o.RTMR[0][:]}, "RTMR1": {b.RTMR[1], o.RTMR[1][:]},
		"RTMR2": {b.RTMR[2], o.RTMR[2][:]}, "RTMR3": {b.RTMR[3], o.RTMR[3][:]},
		"MRCONFIGID": {b.MRConfigID, o.MRConfigID[:]}, "MROWNER": {b.MROwner, o.MROwner[:]},
		"MROWNERCONFIG": {b.MROwnerConfig, o.MROwnerConf[:]}, "MRSERVICETD": {b.MRServiceTD, o.MRServiceTD[:]},
		"REPORTDATA": {b.ReportData, o.ReportData[:]}, "TEE_TCB_SVN": {b.TEETCBSVN, o.TEETCBSVN[:]},
		"TEE_TCB_SVN_2": {b.TEETCBSVN2, o.TEETCBSVN2[:]}, "XFAM": {b.XFAM[:], []byte{8, 7, 6, 5, 4, 3, 2, 1}},
		"MRSEAM": {b.MRSEAM[:1], []byte{13}}, "MRSIGNERSEAM": {b.MRSignerSEAM[:1], []byte{14}},
		"SEAMATTRIBUTES": {b.SEAMAttributes[:1], []byte{15}},
	} {
		if !bytes.Equal(f.got, f.want) {
			t.Errorf("%s is %x, want %x", name, f.got, f.want)
		}
	}
	if a := b.TDAttributes; !a.PKS() || !a.PerfMon() || !a.SEPTVEDisable() || a.Debug() {
		t.Errorf("TD attributes %x", a)
	}
}

// TestBadOptions checks that options that make no sense aren't ignored.
func TestBadOptions(t *testing.T) {
	pki := NewPKI([]byte("bad"), testTime)
	pl := pki.NewPlatform(PlatformOptions{})
	for _, o := range []QuoteOptions{
		{Version: 3}, {Version: 6}, {Body: 3}, {Version: 5, Body: 1}, {Version: 5, Body: 4},
		{AuthDataSize: new(-1)}, {AuthDataSize: new(1 << 16)},
	} {
		if q, err := pl.Quote(o); err == nil {
			t.Errorf("%+v: %d bytes, no error", o, len(q))
		}
	}
	for _, o := range []PlatformOptions{{FMSPC: "12"}, {FMSPC: "zz"}, {PCEID: "000000"}, {CA: "root"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("NewPlatform(%+v) didn't panic", o)
				}
			}()
			pki.NewPlatform(o)
		}()
	}
}

// TestDistinct checks that platforms of one PKI are as different as machines
// are, and that only FreshQE changes the QE report's signature.
func TestDistinct(t *testing.T) {
	pki := NewPKI([]byte("distinct"), testTime)
	a, b := pki.NewPlatform(PlatformOptions{Name: "a"}), pki.NewPlatform(PlatformOptions{Name: "b"})
	if a.PPID() == b.PPID() || a.PCKSerial().Cmp(b.PCKSerial()) == 0 || bytes.Equal(a.PCKChain(), b.PCKChain()) {
		t.Error("two platforms share an identity")
	}
	sig := func(o QuoteOptions) []byte {
		raw, err := a.Quote(o)
		if err != nil {
			t.Fatal(err)
		}
		q, err := tdx.ParseQuote(raw)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Clone(q.QEReportSignature)
	}
	if !bytes.Equal(sig(QuoteOptions{}), sig(QuoteOptions{ReportData: [64]byte{1}})) {
		t.Error("the QE signature differs without FreshQE")
	}
	if bytes.Equal(sig(QuoteOptions{FreshQE: true}), sig(QuoteOptions{FreshQE: true})) {
		t.Error("the QE signature doesn't differ with FreshQE")
	}
}
