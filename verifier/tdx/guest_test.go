package tdx_test

import (
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
	guesttest "github.com/google/go-tdx-guest/testing"
	guestdata "github.com/google/go-tdx-guest/testing/testdata"
	"github.com/google/go-tdx-guest/verify"
)

// guestCollateral returns the collateral for go-tdx-guest's sample quote, as Intel
// served it in June 2023.
func guestCollateral(tb testing.TB) *tdx.Collateral {
	chain := func(header map[string][]string, name string) []byte {
		s, err := url.PathUnescape(header[name][0])
		if err != nil {
			tb.Fatal(err)
		}
		return []byte(s)
	}
	return &tdx.Collateral{
		TCBInfo:         guestdata.TcbInfoBody,
		TCBInfoChain:    chain(guesttest.TcbInfoHeader, "Tcb-Info-Issuer-Chain"),
		QEIdentity:      guestdata.QeIdentityBody,
		QEIdentityChain: chain(guesttest.QeIdentityHeader, "Sgx-Enclave-Identity-Issuer-Chain"),
		RootCRL:         guestdata.RootCrlBody,
		PCKCRL:          guestdata.PckCrlBody,
		PCKCRLChain:     chain(guesttest.PckCrlHeader, "Sgx-Pck-Crl-Issuer-Chain"),
	}
}

// guestTime is when go-tdx-guest judges its sample.
var guestTime = time.Date(2023, 7, 1, 1, 0, 0, 0, time.UTC)

// TestIntelSigned verifies what Intel and its hardware signed, under Intel's root,
// with nothing that isn't in the module cache. The platform was an engineering
// sample that no TCB level covers, which is the last thing to be found, after both
// signatures were verified.
func TestIntelSigned(t *testing.T) {
	raw, c := guestQuote(t), guestCollateral(t)
	_, err := verifyAll(raw, c, tdx.IntelRoot(), guestTime)
	checkOutcome(t, nil, err, "", tdx.ReasonNoLevel)

	// So these are found before.
	for _, i := range []int{60, 48 + 584 + 4 + 40, 48 + 584 + 4 + 128 + 6 + 300, 48 + 584 + 4 + 128 + 6 + 384 + 40} {
		bad := slices.Clone(raw)
		bad[i] ^= 0x10
		if _, err := verifyAll(bad, c, tdx.IntelRoot(), guestTime); reasonOf(err) != tdx.ReasonSignature {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	if _, err := verifyAll(raw, c, tdx.IntelRoot(), guestTime.AddDate(0, 1, 0)); reasonOf(err) != tdx.ReasonExpired {
		t.Errorf("a month later: %v", err)
	}
	if _, err := verifyAll(raw, c, tdx.IntelRoot(), guestTime.AddDate(0, -1, 0)); reasonOf(err) != tdx.ReasonNotYetValid {
		t.Errorf("a month earlier: %v", err)
	}
}

// guestVerify verifies a quote with go-tdx-guest, with everything that it can
// check, and turns a panic into an error.
func guestVerify(raw []byte, o *verify.Options) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return verify.RawTdxQuote(raw, o)
}

// TestAgainstGoTDXGuest compares our answers with those of go-tdx-guest v0.3.1. It
// knows good, which is UpToDate and genuine, and bad. Where it is right, both
// agree: good is what we call UpToDate. Where they don't, the row says why it is
// wrong, or only different.
func TestAgainstGoTDXGuest(t *testing.T) {
	// In lower case, as go-tdx-guest renders the PCK certificate's FMSPC.
	lower := func() *scenario {
		s := newScenario()
		s.collateral.FMSPC = "90c06f000000"
		return s
	}
	for _, tt := range []struct {
		name     string
		edit     func(*scenario)
		differs  string // why go-tdx-guest's answer isn't ours; empty if it is
		mutate   func([]byte) []byte
		wantGood bool // ours
	}{
		{name: "good", edit: func(s *scenario) {}, wantGood: true},
		{name: "good, module without version", edit: func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{5, 0, 2} }, wantGood: true},
		{name: "good, processor CA", edit: func(s *scenario) {
			s.platform.CA, s.collateral.CA = tdxsim.ProcessorCA, tdxsim.ProcessorCA
		}, wantGood: true, differs: "it knows no CA of PCK certificates but the platform CA"},
		{name: "good, no authentication data", edit: func(s *scenario) { s.quote.AuthDataSize = new(0) }, wantGood: true},
		{name: "newer than all levels", edit: func(s *scenario) {
			s.platform.PCESVN, s.platform.TEETCBSVN = new(uint16(99)), &[16]byte{9, 1, 9}
		}, wantGood: true},
		{name: "platform out of date", edit: func(s *scenario) { s.platform.PCESVN = new(uint16(12)) }},
		{name: "platform below all levels", edit: func(s *scenario) { s.platform.PCESVN = new(uint16(1)) }},
		{name: "platform revoked", edit: func(s *scenario) { s.collateral.Levels = levels(tdx.StatusRevoked) }},
		{name: "hardening needed", edit: func(s *scenario) { s.collateral.Levels = levels(tdx.StatusSWHardeningNeeded) }},
		{name: "module out of date", edit: func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{3, 1, 2} }},
		{name: "module revoked", edit: func(s *scenario) { s.collateral.Modules = module(tdx.StatusRevoked) }},
		{name: "module unknown", edit: func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{5, 7, 2} }},
		{name: "module signer", edit: func(s *scenario) { s.platform.MRSignerSEAM = [48]byte{1} }},
		{name: "SEAM attributes", edit: func(s *scenario) { s.platform.SEAMAttributes = [8]byte{1} }},
		{name: "QE out of date", edit: func(s *scenario) { s.platform.QE.ISVSVN = new(uint16(1)) }},
		{name: "QE revoked", edit: func(s *scenario) { s.collateral.QE.Levels = qe(tdx.StatusRevoked) }},
		{name: "QE signer", edit: func(s *scenario) { s.platform.QE.MRSigner = &[32]byte{1} }},
		{name: "QE debug", edit: func(s *scenario) { s.platform.QE.Attributes = &[16]byte{0x13} }},
		{name: "FMSPC of another", edit: func(s *scenario) { s.collateral.FMSPC = "90c06f000001" }},
		{name: "PCEID of another", edit: func(s *scenario) { s.collateral.PCEID = "0001" }},
		{name: "TCB info for SGX", edit: func(s *scenario) { s.collateral.ID = "SGX" }},
		{name: "PCK certificate revoked", edit: func(s *scenario) {
			s.collateral.PCKCRL.Revoked = []*big.Int{s.pki.NewPlatform(s.platform).PCKSerial()}
		}},
		{name: "CA revoked", edit: func(s *scenario) {
			s.collateral.RootCRL.Revoked = []*big.Int{s.pki.CASerial(tdxsim.PlatformCA)}
		}},
		{name: "TCB signing certificate revoked", edit: func(s *scenario) {
			s.collateral.RootCRL.Revoked = []*big.Int{s.pki.TCBSigningSerial()}
		}},
		{name: "CRL of another", edit: func(s *scenario) { s.collateral.PCKCRL.Issuer = otherPKI }},
		{name: "collateral expired", edit: func(s *scenario) { s.at = simTime.AddDate(0, 2, 0) }},
		{name: "PCK certificate expired", edit: func(s *scenario) { s.platform.NotAfter = simTime }},
		{name: "quote changed", edit: func(s *scenario) {}, mutate: flip(100)},
		{name: "quote signature changed", edit: func(s *scenario) {}, mutate: flip(48 + 584 + 4)},
		{name: "QE report changed", edit: func(s *scenario) {}, mutate: flip(48 + 584 + 4 + 128 + 6)},
		{name: "QE report signature changed", edit: func(s *scenario) {}, mutate: flip(48 + 584 + 4 + 128 + 6 + 384)},
		{name: "truncated", edit: func(s *scenario) {}, mutate: func(b []byte) []byte { return b[:len(b)-1] }},

		{name: "version 5, TDX 1.0", edit: func(s *scenario) { s.quote.Version = 5 }, wantGood: true,
			differs: "it knows no quotes of version 5"},
		{name: "version 5, TDX 1.5", edit: func(s *scenario) { s.quote.Version, s.quote.Body = 5, 3 }, wantGood: true,
			differs: "it knows no quotes of version 5"},
		{name: "FMSPC in capitals", edit: func(s *scenario) { s.collateral.FMSPC = "90C06F000000" }, wantGood: true,
			differs: "it compares FMSPC case-sensitively, though Intel serves both"},
		{name: "levels unsorted", edit: func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			slices.Reverse(s.collateral.Levels)
		}, wantGood: true,
			differs: "it takes the first level in the order of the text, Intel the highest"},
		{name: "two equal levels", edit: func(s *scenario) {
			s.collateral.Levels = append(levels(tdx.StatusUpToDate), levels(tdx.StatusOutOfDate)...)
		}, differs: "it takes the first of two equal levels, Intel refuses them"},
		{name: "module id in lower case", edit: func(s *scenario) {
			s.collateral.Modules = module(tdx.StatusUpToDate)
			s.collateral.Modules[0].ID = "tdx_01"
		}, wantGood: true, differs: "it compares ids of module identities case-sensitively"},
		{name: "module signer of the identity", edit: func(s *scenario) {
			s.platform.MRSignerSEAM = [48]byte{1}
			s.collateral.Modules = module(tdx.StatusUpToDate)
			s.collateral.Modules[0].MRSigner = [48]byte{1}
		}, wantGood: true, differs: "it compares the module's signer with tdxModule, whatever its version"},
		{name: "module signer of tdxModule", edit: func(s *scenario) {
			s.platform.MRSignerSEAM = [48]byte{1}
			s.collateral.Module.MRSigner = [48]byte{1}
		}, differs: "it compares the module's signer with tdxModule, whatever its version"},
		{name: "SEAM attributes masked", edit: func(s *scenario) {
			s.platform.SEAMAttributes = [8]byte{1}
			s.collateral.Module.AttributesMask = &[8]byte{}
		}, differs: "it applies the mask to SEAMATTRIBUTES, Intel wants them zero"},
		{name: "collateral from the future", edit: func(s *scenario) { s.at = simTime.Add(-time.Hour) },
			differs: "it doesn't look at issueDate and thisUpdate"},
		{name: "TCB info from the future", edit: func(s *scenario) {
			s.collateral.TCBInfoDates.Issue = simTime.AddDate(0, 0, 1)
		}, differs: "it doesn't look at issueDate and thisUpdate"},
		{name: "at nextUpdate", edit: func(s *scenario) { s.at = simTime.AddDate(0, 0, 30) },
			differs: "it accepts the moment of nextUpdate itself; ours is stricter"},
		{name: "trailing bytes", edit: func(s *scenario) {}, mutate: func(b []byte) []byte { return append(b, 0, 0) },
			differs: "it returns what follows a quote as extra bytes; ours is stricter"},
		{name: "signature data huge", edit: func(s *scenario) {}, mutate: huge(48 + 584)},
		{name: "certification data huge", edit: func(s *scenario) {}, mutate: huge(48 + 584 + 4 + 128 + 2)},
		{name: "PCK chain huge", edit: func(s *scenario) {}, mutate: huge(48 + 584 + 4 + 128 + 6 + 384 + 64 + 2 + 32 + 2)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := lower()
			tt.edit(s)
			raw, c, root := s.make(t)
			if tt.mutate != nil {
				raw = tt.mutate(raw)
			}
			r, err := verifyAll(raw, c, root, s.at)
			good := err == nil && r.Status == tdx.StatusUpToDate
			theirs := guestVerify(raw, &verify.Options{
				CheckRevocations: true, GetCollateral: true, Getter: newMapGetter(c), Now: s.at, TrustedRoots: certPool(t, s.pki),
			})
			if good != tt.wantGood {
				t.Errorf("good is %v, want %v: %+v, %v", good, tt.wantGood, r, err)
			}
			if differs := good != (theirs == nil); differs != (tt.differs != "") {
				t.Errorf("ours: good is %v (%v); theirs: %v; expected to differ: %q", good, err, theirs, tt.differs)
			}
		})
	}
}

// TestGoTDXGuestPanics has the malformed sizes on which go-tdx-guest panics.
func TestGoTDXGuestPanics(t *testing.T) {
	good, _, _ := newScenario().make(t)
	for _, tt := range []struct {
		name string
		off  int
		size []byte
	}{
		{"signature data empty", 48 + 584, make([]byte, 4)},
		{"signature data of 100 bytes", 48 + 584, []byte{100, 0, 0, 0}},
		{"authentication data of 65535 bytes", 48 + 584 + 4 + 128 + 6 + 384 + 64, []byte{0xff, 0xff}},
	} {
		raw := slices.Clone(good)
		copy(raw[tt.off:], tt.size)
		if _, err := tdx.ParseQuote(raw); reasonOf(err) != tdx.ReasonParse {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := guestVerify(raw, &verify.Options{Now: simTime}); err == nil || !strings.HasPrefix(err.Error(), "panic: ") {
			t.Errorf("%s: go-tdx-guest doesn't panic any more: %v", tt.name, err)
		}
	}
}

func flip(i int) func([]byte) []byte {
	return func(b []byte) []byte { b[i] ^= 1; return b }
}

func huge(i int) func([]byte) []byte {
	return func(b []byte) []byte { copy(b[i:], "\xff\xff\xff\xff"); return b }
}
