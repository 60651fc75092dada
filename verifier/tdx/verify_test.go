package tdx_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"math/big"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// checkOutcome compares a verification with what is wanted: a status, or a reason.
func checkOutcome(t *testing.T, r *tdx.Result, err error, status tdx.Status, reason tdx.Reason) {
	t.Helper()
	if reason == "" {
		if err != nil || r.Status != status {
			t.Errorf("got %+v, %v; want status %s", r, err, status)
		}
		return
	}
	if r != nil || reasonOf(err) != reason {
		t.Errorf("got %+v, %v; want reason %s", r, err, reason)
		return
	}
	var e *tdx.Error
	errors.As(err, &e)
	if e.Status != status {
		t.Errorf("error %v has status %q, want %q", err, e.Status, status)
	}
}

// statuses are the statuses of a platform's TCB level, with what becomes of them
// when a component is out of date.
var statuses = map[tdx.Status]tdx.Status{
	tdx.StatusUpToDate:                          tdx.StatusOutOfDate,
	tdx.StatusSWHardeningNeeded:                 tdx.StatusOutOfDate,
	tdx.StatusConfigurationNeeded:               tdx.StatusOutOfDateConfigurationNeeded,
	tdx.StatusConfigurationAndSWHardeningNeeded: tdx.StatusOutOfDateConfigurationNeeded,
	tdx.StatusOutOfDate:                         tdx.StatusOutOfDate,
	tdx.StatusOutOfDateConfigurationNeeded:      tdx.StatusOutOfDateConfigurationNeeded,
}

// levels returns a single platform level of that status, which the default
// platform reaches.
func levels(status tdx.Status) []tdxsim.Level {
	l := tdxsim.DefaultLevels()[:1]
	l[0].Status = string(status)
	l[0].Advisories = []string{"INTEL-SA-P"}
	return l
}

func module(status tdx.Status) []tdxsim.ModuleIdentity {
	return []tdxsim.ModuleIdentity{{ID: "TDX_01", Levels: []tdxsim.ISVLevel{
		{ISVSVN: 5, Status: string(status), Advisories: []string{"INTEL-SA-M"}},
	}}}
}

func qe(status tdx.Status) []tdxsim.ISVLevel {
	return []tdxsim.ISVLevel{{ISVSVN: tdxsim.DefaultQESVN, Status: string(status), Advisories: []string{"INTEL-SA-Q"}}}
}

// TestMerge goes through every combination of statuses of platform, module and
// quoting enclave.
func TestMerge(t *testing.T) {
	for platform, outdated := range statuses {
		for _, m := range []tdx.Status{tdx.StatusUpToDate, tdx.StatusOutOfDate, tdx.StatusRevoked} {
			// The quoting enclave's last two count as out of date.
			for _, q := range []tdx.Status{tdx.StatusUpToDate, tdx.StatusOutOfDate, tdx.StatusRevoked,
				tdx.StatusConfigurationNeeded, tdx.StatusOutOfDateConfigurationNeeded} {
				s := newScenario()
				s.collateral.Levels = levels(platform)
				s.collateral.Modules = module(m)
				s.collateral.QE.Levels = qe(q)
				r, err := s.verify(t)
				if m == tdx.StatusRevoked || q == tdx.StatusRevoked {
					checkOutcome(t, r, err, tdx.StatusRevoked, tdx.ReasonRevoked)
					continue
				}
				want := platform
				if m != tdx.StatusUpToDate || q != tdx.StatusUpToDate {
					want = outdated
				}
				checkOutcome(t, r, err, want, "")
				if err != nil {
					continue
				}
				if r.Platform.Status != platform || r.Module.Status != m || r.QE.Status != q || r.SGX != platform {
					t.Errorf("components %s, %s, %s, %s; want %s, %s, %s", r.Platform.Status, r.Module.Status, r.QE.Status, r.SGX, platform, m, q)
				}
				if want := []tdx.Advisory{{"INTEL-SA-P", tdx.SourcePlatform}, {"INTEL-SA-M", tdx.SourceModule}, {"INTEL-SA-Q", tdx.SourceQE}}; !slices.Equal(r.Advisories, want) {
					t.Errorf("advisories %v, want %v", r.Advisories, want)
				}
			}
		}
	}
}

func TestRevokedLevel(t *testing.T) {
	s := newScenario()
	s.collateral.Levels = levels(tdx.StatusRevoked)
	r, err := s.verify(t)
	checkOutcome(t, r, err, tdx.StatusRevoked, tdx.ReasonRevoked)

	// The TDX level decides. A higher level that only the SGX components reach
	// may be revoked: Intel's library says of that "do not exit".
	s = newScenario()
	s.collateral.Levels = tdxsim.DefaultLevels()
	s.collateral.Levels[0].Status = "Revoked"
	s.platform.TEETCBSVN = &[16]byte{5, 1, 1}
	r, err = s.verify(t)
	checkOutcome(t, r, err, tdx.StatusOutOfDate, "")
}

// TestResult checks every field of a result against what went in.
func TestResult(t *testing.T) {
	s := newScenario()
	s.platform.PPID = &[16]byte{0xab, 15: 1}
	s.platform.CPUSVN = &[16]byte{9, 9}
	s.platform.PCEID = "0a00"
	s.collateral.PCEID = "0A00"
	s.collateral.TCBEvaluationDataNumber = 18
	s.collateral.QE.TCBEvaluationDataNumber = 17
	date := func(day int) time.Time { return time.Date(2025, 1, day, 0, 0, 0, 0, time.UTC) }
	s.collateral.Levels = levels(tdx.StatusUpToDate)
	s.collateral.Levels[0].Date = date(1)
	s.collateral.Modules = module(tdx.StatusUpToDate)
	s.collateral.Modules[0].Levels[0].Date = date(2)
	s.collateral.QE.Levels = qe(tdx.StatusUpToDate)
	s.collateral.QE.Levels[0].Date = date(3)
	s.quote = tdxsim.QuoteOptions{Version: 5, Body: 3, TEETCBSVN2: &[16]byte{6, 1, 3}}
	r, err := s.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	pl := s.pki.NewPlatform(s.platform)
	raw, _, _ := s.make(t) // the chain is the same in each quote
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		t.Fatal(err)
	}
	chain := sha256.New()
	for block, rest := pem.Decode(q.PCKChain); block != nil; block, rest = pem.Decode(rest) {
		chain.Write(block.Bytes)
	}
	if len(r.InstanceID) != 32 {
		t.Errorf("instance id %q", r.InstanceID)
	}
	want := &tdx.Result{
		Status: tdx.StatusUpToDate,
		Advisories: []tdx.Advisory{
			{"INTEL-SA-P", tdx.SourcePlatform}, {"INTEL-SA-M", tdx.SourceModule}, {"INTEL-SA-Q", tdx.SourceQE},
		},
		Platform:      tdx.Component{tdx.StatusUpToDate, date(1), []string{"INTEL-SA-P"}},
		Module:        tdx.Component{tdx.StatusUpToDate, date(2), []string{"INTEL-SA-M"}},
		QE:            tdx.Component{tdx.StatusUpToDate, date(3), []string{"INTEL-SA-Q"}},
		SGX:           tdx.StatusUpToDate,
		FMSPC:         "90c06f000000",
		PCEID:         "0a00",
		PPID:          "ab000000000000000000000000000001",
		PCKChain:      [32]byte(chain.Sum(nil)),
		PCKSerial:     pl.PCKSerial().Text(16),
		PCKCA:         tdx.CAPlatform,
		SGXType:       1,
		InstanceID:    r.InstanceID,
		Configuration: &tdx.Configuration{DynamicPlatform: true, CachedKeys: true, SMTEnabled: true},
		TCBComponents: tdxsim.DefaultSVNs,
		CPUSVN:        [16]byte{9, 9},
		PCESVN:        13,
		TEETCBSVN:     tdxsim.DefaultTEETCBSVN,
		TEETCBSVN2:    &[16]byte{6, 1, 3},
		ModuleID:      "TDX_01",
		QEISVSVN:      4,

		TCBEvaluationDataNumber: 18,
		QEEvaluationDataNumber:  17,

		At:             s.at,
		CollateralFrom: simTime,
		CollateralTo:   simTime.AddDate(0, 0, 30),
		PCKFrom:        simTime.AddDate(-1, 0, 0),
		PCKTo:          simTime.AddDate(6, 0, 0).Add(time.Nanosecond),
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got\n%+v\nwant\n%+v", r, want)
	}

	// A processor CA, and a module without a version.
	s = newScenario()
	s.platform.CA, s.collateral.CA = tdxsim.ProcessorCA, tdxsim.ProcessorCA
	s.platform.TEETCBSVN = &[16]byte{5, 0, 2}
	if r, err = s.verify(t); err != nil {
		t.Fatal(err)
	}
	if r.PCKCA != tdx.CAProcessor || r.InstanceID != "" || r.Configuration != nil || r.ModuleID != "" ||
		r.Module.Status != "" || r.TEETCBSVN2 != nil || r.SGXType != 0 {
		t.Errorf("got %+v", r)
	}
}

// TestLevels checks how levels are searched. Each row changes one thing in a
// platform that is exactly at the highest level.
func TestLevels(t *testing.T) {
	svns := func(edit func(*[16]byte)) *[16]byte {
		s := tdxsim.DefaultSVNs
		edit(&s)
		return &s
	}
	for _, tt := range []struct {
		name   string
		edit   func(*scenario)
		status tdx.Status
		reason tdx.Reason
	}{
		{"last SGX component lower", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].SGX[15] = 1
		}, tdx.StatusOutOfDate, ""},
		{"SGX component higher", func(s *scenario) { s.platform.SVNs = svns(func(v *[16]byte) { v[0] = 255 }) }, tdx.StatusUpToDate, ""},
		{"one SGX component lower, others higher", func(s *scenario) {
			s.platform.SVNs = svns(func(v *[16]byte) { v[0], v[4], v[7] = 200, 3, 200 })
		}, tdx.StatusOutOfDate, ""},
		{"PCESVN lower", func(s *scenario) { s.platform.PCESVN = new(uint16(12)) }, tdx.StatusOutOfDate, ""},
		{"PCESVN higher than a byte", func(s *scenario) { s.platform.PCESVN = new(uint16(256)) }, tdx.StatusUpToDate, ""},
		{"PCESVN below all", func(s *scenario) { s.platform.PCESVN = new(uint16(4)) }, "", tdx.ReasonNoLevel},
		{"SGX components below all", func(s *scenario) { s.platform.SVNs = &[16]byte{} }, "", tdx.ReasonNoLevel},
		{"TDX components below all", func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{5, 1, 0} }, "", tdx.ReasonNoLevel},
		{"TDX component 2 lower", func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{5, 1, 1} }, tdx.StatusOutOfDate, ""},
		{"last TDX component lower", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].TDX[15] = 1
		}, tdx.StatusOutOfDate, ""},
		// The SVN of a module with a version is judged by its identity only.
		{"TDX components 0 and 1 skipped", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].TDX[0], s.collateral.Levels[0].TDX[1] = 255, 255
		}, tdx.StatusUpToDate, ""},
		{"TDX component 0 of a module without version", func(s *scenario) {
			s.platform.TEETCBSVN = &[16]byte{3, 0, 2}
		}, tdx.StatusOutOfDate, ""},
		{"TDX component 1 of a module without version", func(s *scenario) {
			s.platform.TEETCBSVN = &[16]byte{5, 0, 2}
			s.collateral.Levels = levels(tdx.StatusUpToDate)
			s.collateral.Levels[0].TDX[1] = 1
		}, "", tdx.ReasonNoLevel},
		{"lowest level first", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			slices.Reverse(s.collateral.Levels)
		}, tdx.StatusUpToDate, ""},
		// Sorted by SGX components, then PCESVN, then TDX components: the higher
		// of two that differ in one of them only is found.
		{"sorted by PCESVN", func(s *scenario) {
			s.collateral.Levels = levels(tdx.StatusOutOfDate)
			s.collateral.Levels[0].PCESVN--
			s.collateral.Levels = append(s.collateral.Levels, levels(tdx.StatusUpToDate)...)
		}, tdx.StatusUpToDate, ""},
		{"sorted by TDX components", func(s *scenario) {
			s.collateral.Levels = levels(tdx.StatusOutOfDate)
			s.collateral.Levels[0].TDX[2]--
			s.collateral.Levels = append(s.collateral.Levels, levels(tdx.StatusUpToDate)...)
		}, tdx.StatusUpToDate, ""},
		{"sorted by SGX before PCESVN", func(s *scenario) {
			s.collateral.Levels = levels(tdx.StatusOutOfDate)
			s.collateral.Levels[0].SGX[0]--
			s.collateral.Levels = append(s.collateral.Levels, levels(tdx.StatusUpToDate)...)
			s.collateral.Levels[1].PCESVN--
		}, tdx.StatusUpToDate, ""},
		{"two equal levels", func(s *scenario) {
			s.collateral.Levels = append(levels(tdx.StatusOutOfDate), levels(tdx.StatusUpToDate)...)
		}, "", tdx.ReasonTCB},
		{"no levels", func(s *scenario) { s.collateral.Levels = []tdxsim.Level{} }, "", tdx.ReasonTCB},
		{"unknown status in a level that isn't reached", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[2].Status = "Fine"
		}, "", tdx.ReasonTCB},

		{"module SVN lower", func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{4, 1, 2} }, tdx.StatusOutOfDate, ""},
		{"module SVN below all", func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{1, 1, 2} }, "", tdx.ReasonModule},
		{"module levels, lowest first", func(s *scenario) {
			s.collateral.Modules = tdxsim.DefaultModules()
			slices.Reverse(s.collateral.Modules[1].Levels)
		}, tdx.StatusUpToDate, ""},
		{"module version unknown", func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{5, 2, 2} }, "", tdx.ReasonModule},
		{"no module identities", func(s *scenario) { s.collateral.Modules = []tdxsim.ModuleIdentity{} }, "", tdx.ReasonModule},
		{"module version in hex, lower case", func(s *scenario) {
			s.platform.TEETCBSVN = &[16]byte{5, 0xab, 2}
			s.collateral.Modules = module(tdx.StatusUpToDate)
			s.collateral.Modules[0].ID = "tdx_ab"
		}, tdx.StatusUpToDate, ""},
		{"two module identities with one id", func(s *scenario) {
			s.collateral.Modules = append(module(tdx.StatusUpToDate), module(tdx.StatusUpToDate)...)
			s.collateral.Modules[1].ID = "tdx_01"
		}, "", tdx.ReasonTCB},
		{"two module levels with one SVN", func(s *scenario) {
			s.collateral.Modules = module(tdx.StatusUpToDate)
			s.collateral.Modules[0].Levels = append(s.collateral.Modules[0].Levels, s.collateral.Modules[0].Levels...)
		}, "", tdx.ReasonTCB},
		{"module status unknown", func(s *scenario) {
			s.collateral.Modules = module(tdx.StatusConfigurationNeeded)
		}, "", tdx.ReasonModule},
		{"module signer of the identity, not of tdxModule", func(s *scenario) {
			s.platform.MRSignerSEAM = [48]byte{1}
			s.collateral.Modules = module(tdx.StatusUpToDate)
			s.collateral.Modules[0].MRSigner = [48]byte{1}
		}, tdx.StatusUpToDate, ""},
		{"module signer of tdxModule, not of the identity", func(s *scenario) {
			s.platform.MRSignerSEAM = [48]byte{1}
			s.collateral.Module.MRSigner = [48]byte{1}
		}, "", tdx.ReasonModule},
		{"module signer of tdxModule, module without version", func(s *scenario) {
			s.platform.TEETCBSVN = &[16]byte{5, 0, 2}
			s.platform.MRSignerSEAM = [48]byte{1}
			s.collateral.Module.MRSigner = [48]byte{1}
		}, tdx.StatusUpToDate, ""},
		{"SEAM attributes", func(s *scenario) { s.platform.SEAMAttributes = [8]byte{7: 1} }, "", tdx.ReasonModule},
		{"SEAM attributes equal but not zero", func(s *scenario) {
			s.platform.SEAMAttributes = [8]byte{1}
			s.collateral.Modules = module(tdx.StatusUpToDate)
			s.collateral.Modules[0].Attributes = [8]byte{1}
		}, "", tdx.ReasonModule},
		{"SEAM attributes zero, but not in the identity", func(s *scenario) {
			s.collateral.Modules = module(tdx.StatusUpToDate)
			s.collateral.Modules[0].Attributes = [8]byte{1}
		}, "", tdx.ReasonModule},
		{"SEAM attributes masked", func(s *scenario) {
			s.platform.SEAMAttributes = [8]byte{1}
			s.collateral.Modules = module(tdx.StatusUpToDate)
			s.collateral.Modules[0].AttributesMask = &[8]byte{}
		}, "", tdx.ReasonModule},

		{"QE SVN lower", func(s *scenario) { s.platform.QE.ISVSVN = new(uint16(3)) }, tdx.StatusOutOfDate, ""},
		{"QE SVN below all", func(s *scenario) { s.platform.QE.ISVSVN = new(uint16(0)) }, "", tdx.ReasonQE},
		{"QE levels in the order of the text", func(s *scenario) {
			s.collateral.QE.Levels = tdxsim.DefaultQELevels()
			slices.Reverse(s.collateral.QE.Levels)
		}, tdx.StatusOutOfDate, ""},
		{"QE status unknown", func(s *scenario) { s.collateral.QE.Levels = qe("SWHardeningNeeded") }, "", tdx.ReasonQE},
		{"QE signer", func(s *scenario) { s.platform.QE.MRSigner = &[32]byte{31: 1} }, "", tdx.ReasonQE},
		{"QE product", func(s *scenario) { s.platform.QE.ISVProdID = new(uint16(1)) }, "", tdx.ReasonQE},
		{"QE MISCSELECT", func(s *scenario) { s.platform.QE.MiscSelect = [4]byte{3: 1} }, "", tdx.ReasonQE},
		{"QE MISCSELECT masked", func(s *scenario) {
			s.platform.QE.MiscSelect = [4]byte{3: 1}
			s.collateral.QE.MiscMask = &[4]byte{0xff, 0xff, 0xff, 0}
		}, tdx.StatusUpToDate, ""},
		{"QE debug attribute", func(s *scenario) {
			a := tdxsim.DefaultQEAttributes
			a[0] |= 2
			s.platform.QE.Attributes = &a
		}, "", tdx.ReasonQE},
		{"QE masked attribute", func(s *scenario) {
			a := tdxsim.DefaultQEAttributes
			a[15] = 0xff
			s.platform.QE.Attributes = &a
		}, tdx.StatusUpToDate, ""},
		{"QE identity of an SGX QE", func(s *scenario) { s.collateral.QE.ID = "QE" }, "", tdx.ReasonQE},

		{"FMSPC of another", func(s *scenario) { s.collateral.FMSPC = "90C06F000001" }, "", tdx.ReasonFMSPC},
		{"FMSPC in lower case", func(s *scenario) { s.collateral.FMSPC = "90c06f000000" }, tdx.StatusUpToDate, ""},
		{"PCEID of another", func(s *scenario) { s.collateral.PCEID = "0100" }, "", tdx.ReasonFMSPC},
		{"TCB info for SGX", func(s *scenario) { s.collateral.ID, s.collateral.OmitTDX = "SGX", true }, "", tdx.ReasonTCB},
		{"TCB info without TDX module", func(s *scenario) { s.collateral.OmitTDX = true }, "", tdx.ReasonTCB},
		{"CRL of another CA", func(s *scenario) { s.collateral.CA = tdxsim.ProcessorCA }, "", tdx.ReasonChain},
		{"authentication data empty", func(s *scenario) { s.quote.AuthDataSize = new(0) }, tdx.StatusUpToDate, ""},
		{"authentication data of the largest size", func(s *scenario) { s.quote.AuthDataSize = new(65535) }, tdx.StatusUpToDate, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScenario()
			tt.edit(s)
			r, err := s.verify(t)
			checkOutcome(t, r, err, tt.status, tt.reason)
		})
	}
}

// TestRelaunch checks when a TD should be relaunched. Each row changes one thing
// in a TD that was launched with module SVN 3 and microcode SVN 1, on a platform
// that has both up to date since.
func TestRelaunch(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*scenario)
		status tdx.Status
		reason tdx.Reason
	}{
		{"base", func(s *scenario) {}, tdx.StatusTDRelaunchAdvised, ""},
		{"body of TDX 1.0", func(s *scenario) { s.quote.Body = 2 }, tdx.StatusOutOfDate, ""},
		{"current module SVN lower", func(s *scenario) { s.quote.TEETCBSVN2 = &[16]byte{4, 1, 2} }, tdx.StatusOutOfDate, ""},
		{"current microcode SVN lower", func(s *scenario) { s.quote.TEETCBSVN2 = &[16]byte{5, 1, 1} }, tdx.StatusOutOfDate, ""},
		{"current module of another version", func(s *scenario) { s.quote.TEETCBSVN2 = &[16]byte{3, 3, 2} }, tdx.StatusTDRelaunchAdvised, ""},
		{"current module without version", func(s *scenario) { s.quote.TEETCBSVN2 = &[16]byte{5, 0, 2} }, tdx.StatusTDRelaunchAdvised, ""},
		{"current module without version, SVN lower", func(s *scenario) { s.quote.TEETCBSVN2 = &[16]byte{4, 0, 2} }, tdx.StatusOutOfDate, ""},
		{"current module unknown", func(s *scenario) { s.quote.TEETCBSVN2 = &[16]byte{5, 9, 2} }, "", tdx.ReasonModule},
		// The remaining components of TEE_TCB_SVN_2 don't count.
		{"other current components lower", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].TDX[5] = 9
		}, tdx.StatusTDRelaunchAdvised, ""},
		// After the module merge: the TD's own level is up to date, only the
		// merge with the module makes it out of date.
		{"only the module was out of date", func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{3, 1, 2} }, tdx.StatusTDRelaunchAdvised, ""},
		{"only the microcode was out of date", func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{5, 1, 1} }, tdx.StatusOutOfDate, ""},
		{"nothing was out of date", func(s *scenario) { s.platform.TEETCBSVN = &[16]byte{5, 1, 2} }, tdx.StatusUpToDate, ""},
		// Before the QE merge: an outdated quoting enclave leaves OutOfDate.
		{"QE out of date", func(s *scenario) { s.platform.QE.ISVSVN = new(uint16(1)) }, tdx.StatusOutOfDate, ""},
		{"QE needs configuration", func(s *scenario) { s.collateral.QE.Levels = qe("ConfigurationNeeded") }, tdx.StatusOutOfDate, ""},
		{"QE revoked", func(s *scenario) { s.collateral.QE.Levels = qe("Revoked") }, tdx.StatusRevoked, tdx.ReasonRevoked},
		{"SGX out of date", func(s *scenario) { s.platform.PCESVN = new(uint16(12)) }, tdx.StatusOutOfDate, ""},
		{"SGX needs hardening", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].Status = "SWHardeningNeeded"
		}, tdx.StatusTDRelaunchAdvised, ""},
		{"SGX needs configuration", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].Status = "ConfigurationNeeded"
		}, tdx.StatusTDRelaunchAdvisedConfigurationNeeded, ""},
		{"SGX needs both", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].Status = "ConfigurationAndSWHardeningNeeded"
		}, tdx.StatusTDRelaunchAdvisedConfigurationNeeded, ""},
		{"SGX out of date and needs configuration", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].Status = "OutOfDateConfigurationNeeded"
		}, tdx.StatusOutOfDate, ""},
		{"SGX revoked", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[0].Status = "Revoked"
		}, tdx.StatusOutOfDate, ""},
		{"TD needs configuration", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[2].Status = "OutOfDateConfigurationNeeded"
		}, tdx.StatusTDRelaunchAdvisedConfigurationNeeded, ""},
		{"TD needs configuration and the module is out of date", func(s *scenario) {
			s.collateral.Levels = tdxsim.DefaultLevels()
			s.collateral.Levels[2].Status = "ConfigurationNeeded"
		}, tdx.StatusTDRelaunchAdvisedConfigurationNeeded, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScenario()
			s.platform.TEETCBSVN = &[16]byte{3, 1, 1}
			s.quote = tdxsim.QuoteOptions{Version: 5, Body: 3, TEETCBSVN2: &[16]byte{5, 1, 2}}
			tt.edit(s)
			r, err := s.verify(t)
			checkOutcome(t, r, err, tt.status, tt.reason)
		})
	}
}

func TestRevocation(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(*scenario)
		reason tdx.Reason
	}{
		{"PCK certificate", func(s *scenario) {
			s.collateral.PCKCRL.Revoked = []*big.Int{big.NewInt(1), s.pki.NewPlatform(s.platform).PCKSerial()}
		}, tdx.ReasonRevoked},
		{"CA certificate", func(s *scenario) {
			s.collateral.RootCRL.Revoked = []*big.Int{s.pki.CASerial(tdxsim.PlatformCA)}
		}, tdx.ReasonRevoked},
		{"TCB signing certificate", func(s *scenario) {
			s.collateral.RootCRL.Revoked = []*big.Int{s.pki.TCBSigningSerial()}
		}, tdx.ReasonRevoked},
		// A serial number means something to its issuer only.
		{"serials on the wrong lists", func(s *scenario) {
			s.collateral.RootCRL.Revoked = []*big.Int{s.pki.NewPlatform(s.platform).PCKSerial()}
			s.collateral.PCKCRL.Revoked = []*big.Int{s.pki.CASerial(tdxsim.PlatformCA), s.pki.TCBSigningSerial()}
		}, ""},
		{"other CA", func(s *scenario) {
			s.collateral.RootCRL.Revoked = []*big.Int{s.pki.CASerial(tdxsim.ProcessorCA)}
		}, ""},
		{"root CRL of another root", func(s *scenario) { s.collateral.RootCRL.Issuer = otherPKI }, tdx.ReasonSignature},
		{"PCK CRL of another CA of the same name", func(s *scenario) { s.collateral.PCKCRL.Issuer = otherPKI }, tdx.ReasonSignature},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScenario()
			tt.edit(s)
			r, err := s.verify(t)
			status := tdx.StatusUpToDate
			if tt.reason != "" {
				status = ""
			}
			checkOutcome(t, r, err, status, tt.reason)
		})
	}
}

var otherPKI = tdxsim.NewPKI([]byte("other"), simTime)

// TestOtherPKI mixes two PKIs with the same names in every way: one component, or
// the platform, is of the other.
func TestOtherPKI(t *testing.T) {
	s := newScenario()
	raw, c, root := s.make(t)
	s.pki = otherPKI
	otherRaw, other, otherRoot := s.make(t)
	if _, err := verifyAll(raw, c, root, s.at); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyAll(otherRaw, other, otherRoot, s.at); err != nil {
		t.Fatal(err)
	}
	if _, err := verifyAll(otherRaw, c, root, s.at); reasonOf(err) != tdx.ReasonRoot {
		t.Errorf("platform of the other: %v", err)
	}
	if _, err := verifyAll(raw, c, otherRoot, s.at); reasonOf(err) != tdx.ReasonRoot {
		t.Errorf("the other root: %v", err)
	}
	if _, err := verifyAll(raw, c, tdx.IntelRoot(), s.at); reasonOf(err) != tdx.ReasonRoot {
		t.Errorf("Intel's root: %v", err)
	}
	for i := range c.Components() {
		mixed := *c
		dst := []*[]byte{&mixed.TCBInfo, &mixed.TCBInfoChain, &mixed.QEIdentity, &mixed.QEIdentityChain, &mixed.RootCRL, &mixed.PCKCRL, &mixed.PCKCRLChain}
		*dst[i] = other.Components()[i]
		if _, err := verifyAll(raw, &mixed, root, s.at); err == nil {
			t.Errorf("component %d of the other is accepted", i)
		}
	}

	// Our root below certificates that it didn't issue.
	mixed := *c
	i := bytes.LastIndex(c.TCBInfoChain, []byte("-----BEGIN"))
	mixed.TCBInfoChain = slices.Concat(other.TCBInfoChain[:bytes.LastIndex(other.TCBInfoChain, []byte("-----BEGIN"))], c.TCBInfoChain[i:])
	if _, err := tdx.Compile(&mixed, root); reasonOf(err) != tdx.ReasonSignature {
		t.Errorf("TCB signing certificate of the other: %v", err)
	}
	mixed.TCBInfoChain = c.PCKCRLChain
	if _, err := tdx.Compile(&mixed, root); reasonOf(err) != tdx.ReasonChain {
		t.Errorf("CA as TCB signing certificate: %v", err)
	}
	mixed.TCBInfoChain, mixed.PCKCRLChain = c.TCBInfoChain, c.TCBInfoChain
	if _, err := tdx.Compile(&mixed, root); reasonOf(err) != tdx.ReasonChain {
		t.Errorf("TCB signing certificate as CA: %v", err)
	}

	// A set that was compiled under one root isn't good for a verifier with
	// another.
	q, err := tdx.ParseQuote(otherRaw)
	if err != nil {
		t.Fatal(err)
	}
	set, err := tdx.Compile(c, root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tdx.NewVerifier(otherRoot, 1).Verify(q, set, s.at); reasonOf(err) != tdx.ReasonRoot {
		t.Errorf("verifier with the other root: %v", err)
	}
}

// TestValidity checks both edges of every validity period: each row has one that
// is shorter than all others.
func TestValidity(t *testing.T) {
	from, to := simTime.AddDate(0, 0, 10), simTime.AddDate(0, 0, 20)
	for _, tt := range []struct {
		item string
		edit func(*scenario)
	}{
		{"TCB info", func(s *scenario) { s.collateral.TCBInfoDates = tdxsim.Dates{Issue: from, NextUpdate: to} }},
		{"QE identity", func(s *scenario) { s.collateral.QE.Dates = tdxsim.Dates{Issue: from, NextUpdate: to} }},
		{"PCK CRL", func(s *scenario) { s.collateral.PCKCRL = tdxsim.CRL{ThisUpdate: from, NextUpdate: to} }},
		{"root CA CRL", func(s *scenario) { s.collateral.RootCRL = tdxsim.CRL{ThisUpdate: from, NextUpdate: to} }},
		// RFC 5280 includes the end of a certificate's validity.
		{"Intel SGX PCK Certificate certificate", func(s *scenario) {
			s.platform.NotBefore, s.platform.NotAfter = from, to.Add(-time.Second)
		}},
	} {
		t.Run(tt.item, func(t *testing.T) {
			end := to // the first time that is too late
			if tt.item == "Intel SGX PCK Certificate certificate" {
				end = to.Add(-time.Second).Add(time.Nanosecond)
			}
			for _, at := range []struct {
				at     time.Time
				reason tdx.Reason
			}{
				{from.Add(-1), tdx.ReasonNotYetValid},
				{from, ""},
				{end.Add(-1), ""},
				{end, tdx.ReasonExpired},
			} {
				s := newScenario()
				tt.edit(s)
				s.at = at.at
				r, err := s.verify(t)
				if at.reason == "" {
					checkOutcome(t, r, err, tdx.StatusUpToDate, "")
					continue
				}
				checkOutcome(t, r, err, "", at.reason)
				var stale *tdx.StaleError
				if !errors.As(err, &stale) {
					t.Errorf("%v isn't a StaleError", err)
				} else if want := (tdx.StaleError{Item: tt.item, From: from, To: end, At: at.at}); *stale != want {
					t.Errorf("got %+v, want %+v", *stale, want)
				}

				// The set says the same of its parts.
				if tt.item == "Intel SGX PCK Certificate certificate" {
					continue
				}
				_, c, root := s.make(t)
				set, err := tdx.Compile(c, root)
				if err != nil {
					t.Fatal(err)
				}
				if err := set.ValidAt(from); err != nil {
					t.Errorf("ValidAt: %v", err)
				}
				if err := set.ValidAt(at.at); !errors.As(err, &stale) || stale.Item != tt.item {
					t.Errorf("ValidAt: %v", err)
				}
				if f, e := set.Window(); !f.Equal(from) || !e.Equal(to) {
					t.Errorf("window from %s to %s", f, e)
				}
			}
		})
	}
}

// TestCertificateValidity lets time pass until certificates above the PCK
// certificate expire, with collateral and PCK certificates that are valid longer.
func TestCertificateValidity(t *testing.T) {
	for _, tt := range []struct {
		item string
		end  time.Time // notAfter, by tdxsim
	}{
		{"Intel SGX TCB Signing certificate", simTime.AddDate(7, 0, 0)},
		{"Intel SGX PCK Platform CA certificate", simTime.AddDate(15, 0, 0)},
		{"Intel SGX Root CA certificate", simTime.AddDate(30, 0, 0)},
	} {
		s := newScenario()
		s.platform.NotAfter = simTime.AddDate(40, 0, 0)
		s.collateral.NextUpdate = simTime.AddDate(40, 0, 0)
		raw, c, root := s.make(t)
		_, err := verifyAll(raw, c, root, tt.end.Add(1))
		var stale *tdx.StaleError
		if reasonOf(err) != tdx.ReasonExpired || !errors.As(err, &stale) {
			t.Errorf("%s: got %v", tt.item, err)
			continue
		}
		if tt.item == "Intel SGX TCB Signing certificate" {
			if stale.Item != tt.item {
				t.Errorf("%s: got %v", tt.item, err)
			}
			if _, err := verifyAll(raw, c, root, tt.end); err != nil {
				t.Errorf("%s, last moment: %v", tt.item, err)
			}
		}
		// The others end after the TCB signing certificate, so ask the set.
		set, err := tdx.Compile(c, root)
		if err != nil {
			t.Fatal(err)
		}
		if !set.ExpiredItems(tt.end.Add(1))[tt.item] || set.ExpiredItems(tt.end)[tt.item] {
			t.Errorf("%s isn't judged by its notAfter", tt.item)
		}
	}
	s := newScenario()
	s.collateral.IssueDate = simTime.AddDate(-2, 0, 0)
	s.collateral.NextUpdate = simTime.AddDate(1, 0, 0)
	s.at = simTime.AddDate(-1, 0, -1) // the day before all certificates
	r, err := s.verify(t)
	checkOutcome(t, r, err, "", tdx.ReasonNotYetValid)
}

// TestCacheHoldsFacts checks that a platform that was found good is refused as
// soon as anything says so.
func TestCacheHoldsFacts(t *testing.T) {
	s := newScenario()
	s.platform.NotAfter = simTime.AddDate(0, 0, 5)
	raw, c, root := s.make(t)
	compile := func(edit func(*tdxsim.CollateralOptions)) *tdx.Set {
		o := s.collateral
		if edit != nil {
			edit(&o)
		}
		c, err := s.pki.Collateral(o)
		if err != nil {
			t.Fatal(err)
		}
		set, err := tdx.Compile(c, root)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		t.Fatal(err)
	}
	good, err := tdx.Compile(c, root)
	if err != nil {
		t.Fatal(err)
	}
	v := tdx.NewVerifier(root, 4)
	check := func(name string, set *tdx.Set, at time.Time, status tdx.Status, reason tdx.Reason) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			r, err := v.Verify(q, set, at)
			checkOutcome(t, r, err, status, reason)
		})
		if n := v.Cached(); n != 1 {
			t.Errorf("%s: %d platforms cached, want 1", name, n)
		}
	}
	check("first", good, s.at, tdx.StatusUpToDate, "")
	check("again", good, s.at, tdx.StatusUpToDate, "")
	check("PCK certificate expired", good, simTime.AddDate(0, 0, 6), "", tdx.ReasonExpired)
	check("back in time", good, s.at, tdx.StatusUpToDate, "")
	check("before the collateral", good, simTime.Add(-1), "", tdx.ReasonNotYetValid)
	check("revoked", compile(func(o *tdxsim.CollateralOptions) {
		o.PCKCRL.Revoked = []*big.Int{s.pki.NewPlatform(s.platform).PCKSerial()}
	}), s.at, "", tdx.ReasonRevoked)
	check("not revoked by the old list", good, s.at, tdx.StatusUpToDate, "")
	check("TCB recovery", compile(func(o *tdxsim.CollateralOptions) {
		o.Levels = tdxsim.DefaultLevels()
		o.Levels[0].Status = "OutOfDate"
	}), s.at, tdx.StatusOutOfDate, "")
	check("other family", compile(func(o *tdxsim.CollateralOptions) { o.FMSPC = "000000000001" }), s.at, "", tdx.ReasonFMSPC)

	// The cached chain doesn't make up for a bad signature.
	for _, i := range []int{100, 48 + 584 + 4 + 5, 48 + 584 + 4 + 128 + 6 + 5, 48 + 584 + 4 + 128 + 6 + 384 + 5} {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		q, err := tdx.ParseQuote(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(q, good, s.at); reasonOf(err) != tdx.ReasonSignature {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	// Nor does it stand for another chain with the same certificate.
	bad := bytes.Clone(raw)
	i := bytes.LastIndex(bad, []byte("-----BEGIN"))
	bad[i+40] ^= 1
	if q, err = tdx.ParseQuote(bad); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(q, good, s.at); err == nil {
		t.Error("changed root certificate accepted")
	}
	if n := v.Cached(); n != 1 {
		t.Errorf("%d platforms cached, want 1: chains that don't verify must not be", n)
	}
}

func TestCacheBounded(t *testing.T) {
	s := newScenario()
	_, c, root := s.make(t)
	set, err := tdx.Compile(c, root)
	if err != nil {
		t.Fatal(err)
	}
	v := tdx.NewVerifier(root, 3)
	if v.Root() != root {
		t.Errorf("root %v", v.Root())
	}
	for i := range 8 {
		s.platform.Name = string(rune('a' + i))
		raw, _, _ := s.make(t)
		q, err := tdx.ParseQuote(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(q, set, s.at); err != nil {
			t.Fatal(err)
		}
		if n := v.Cached(); n != min(i+1, 3) {
			t.Fatalf("%d platforms cached after %d, want at most 3", n, i+1)
		}
	}
}

// TestConcurrent is for the race detector: one verifier, few places in its cache,
// sets with other answers.
func TestConcurrent(t *testing.T) {
	s := newScenario()
	_, c, root := s.make(t)
	good, err := tdx.Compile(c, root)
	if err != nil {
		t.Fatal(err)
	}
	s.collateral.Levels = levels(tdx.StatusSWHardeningNeeded)
	_, c, _ = s.make(t)
	other, err := tdx.Compile(c, root)
	if err != nil {
		t.Fatal(err)
	}
	v := tdx.NewVerifier(root, 2)
	var wg sync.WaitGroup
	for i := range 4 {
		s.platform.Name = string(rune('a' + i))
		raw, _, _ := s.make(t)
		wg.Go(func() {
			for range 8 {
				q, err := tdx.ParseQuote(raw)
				if err != nil {
					t.Error(err)
					return
				}
				for set, want := range map[*tdx.Set]tdx.Status{good: tdx.StatusUpToDate, other: tdx.StatusSWHardeningNeeded} {
					if r, err := v.Verify(q, set, s.at); err != nil || r.Status != want {
						t.Errorf("got %+v, %v; want %s", r, err, want)
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestNewVerifierPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a cache of no platforms is accepted")
		}
	}()
	tdx.NewVerifier(tdx.IntelRoot(), 0)
}

// TestUnparsedQuote checks that a quote that didn't come from ParseQuote doesn't
// panic.
func TestUnparsedQuote(t *testing.T) {
	s := newScenario()
	_, c, root := s.make(t)
	set, err := tdx.Compile(c, root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tdx.NewVerifier(root, 1).Verify(&tdx.Quote{}, set, s.at); reasonOf(err) != tdx.ReasonParse {
		t.Errorf("got %v", err)
	}
}

// TestSignatures changes what is signed, or the signatures, at every byte, one
// at a time, of a quote of each kind: nothing may be accepted, nor panic.
func TestSignatures(t *testing.T) {
	for _, o := range []tdxsim.QuoteOptions{{}, {Version: 5}, {Version: 5, Body: 3}} {
		s := newScenario()
		s.quote = o
		raw, c, root := s.make(t)
		set, err := tdx.Compile(c, root)
		if err != nil {
			t.Fatal(err)
		}
		v := tdx.NewVerifier(root, 1)
		q, err := tdx.ParseQuote(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(q, set, s.at); err != nil {
			t.Fatal(err)
		}
		end := len(raw) - len(q.PCKChain)
		for i := range end {
			bad := bytes.Clone(raw)
			bad[i] ^= 1 << (i % 8)
			q, err := tdx.ParseQuote(bad)
			if err != nil {
				continue
			}
			if _, err := v.Verify(q, set, s.at); err == nil {
				t.Errorf("%+v: byte %d of %d changed, and accepted", o, i, end)
			}
		}
	}
}

// TestZeroSignatures checks signatures that broken implementations accept.
func TestZeroSignatures(t *testing.T) {
	s := newScenario()
	raw, c, root := s.make(t)
	order, _ := new(big.Int).SetString("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		t.Fatal(err)
	}
	sigs := map[string][]byte{
		"zero":      make([]byte, 64),
		"r zero":    slices.Concat(make([]byte, 32), q.Signature[32:]),
		"s zero":    slices.Concat(q.Signature[:32], make([]byte, 32)),
		"r order":   slices.Concat(order.Bytes(), q.Signature[32:]),
		"both ones": slices.Concat(make([]byte, 31), []byte{1}, make([]byte, 31), []byte{1}),
		"all ones":  bytes.Repeat([]byte{0xff}, 64),
	}
	for name, sig := range sigs {
		for _, off := range []int{48 + 584 + 4, 48 + 584 + 4 + 128 + 6 + 384} {
			bad := bytes.Clone(raw)
			copy(bad[off:], sig)
			if _, err := verifyAll(bad, c, root, s.at); reasonOf(err) != tdx.ReasonSignature {
				t.Errorf("%s at %d: %v", name, off, err)
			}
		}
	}
	// The QE report doesn't vouch for it, see also TestAttestationKey.
	bad := bytes.Clone(raw)
	copy(bad[48+584+4+64:], make([]byte, 64))
	if _, err := verifyAll(bad, c, root, s.at); reasonOf(err) != tdx.ReasonSignature {
		t.Errorf("zero attestation key: %v", err)
	}
}

func TestTDAttributes(t *testing.T) {
	s := newScenario()
	for bit := range 64 {
		s.quote.TDAttributes = new(uint64(1) << bit)
		raw, _, _ := s.make(t)
		q, err := tdx.ParseQuote(raw)
		if err != nil {
			t.Fatal(err)
		}
		a := q.Body.TDAttributes
		got := map[string]bool{"Debug": a.Debug(), "LASS": a.LASS(), "SEPTVEDisable": a.SEPTVEDisable(), "Migratable": a.Migratable(),
			"PKS": a.PKS(), "KeyLocker": a.KeyLocker(), "TPA": a.TPA(), "PerfMon": a.PerfMon(), "Reserved": a.Reserved() != 0}
		want := map[int]string{27: "LASS", 28: "SEPTVEDisable", 29: "Migratable", 30: "PKS", 31: "KeyLocker", 62: "TPA", 63: "PerfMon"}[bit]
		for name, set := range got {
			expect := name == want || want == "" && name == "Reserved" && bit > 0 || name == "Debug" && bit < 8
			if set != expect {
				t.Errorf("bit %d: %s is %v", bit, name, set)
			}
		}
		if a.Uint64() != 1<<bit {
			t.Errorf("bit %d: Uint64 is %#x", bit, a.Uint64())
		}
	}
}

// TestBody checks that every field of the body comes from its place.
func TestBody(t *testing.T) {
	s := newScenario()
	fill := func(b byte) (m [48]byte) {
		for i := range m {
			m[i] = b
		}
		return m
	}
	xfam := uint64(0x1122334455667788)
	s.platform.MRSEAM, s.platform.MRSignerSEAM, s.platform.SEAMAttributes = fill(1), fill(2), [8]byte{3}
	s.quote = tdxsim.QuoteOptions{
		Version: 5, Body: 3, XFAM: &xfam, MRTD: fill(4), MRConfigID: fill(5), MROwner: fill(6), MROwnerConf: fill(7),
		RTMR: [4][48]byte{fill(8), fill(9), fill(10), fill(11)}, MRServiceTD: fill(12), ReportData: [64]byte{13, 63: 14},
		TEETCBSVN: &[16]byte{15}, TEETCBSVN2: &[16]byte{16},
	}
	raw, _, _ := s.make(t)
	q, err := tdx.ParseQuote(raw)
	if err != nil {
		t.Fatal(err)
	}
	b := &q.Body
	for i, got := range [][]byte{b.MRSEAM, b.MRSignerSEAM, nil, b.MRTD, b.MRConfigID, b.MROwner, b.MROwnerConfig,
		b.RTMR[0], b.RTMR[1], b.RTMR[2], b.RTMR[3], b.MRServiceTD} {
		if want := fill(byte(i + 1)); got != nil && !bytes.Equal(got, want[:]) {
			t.Errorf("measurement %d is %x", i+1, got)
		}
	}
	if !bytes.Equal(b.ReportData, s.quote.ReportData[:]) || b.TEETCBSVN[0] != 15 || b.TEETCBSVN2[0] != 16 || b.SEAMAttributes[0] != 3 ||
		binary.LittleEndian.Uint64(b.XFAM[:]) != xfam || q.Version != 5 || q.BodyType != tdx.BodyTDX15 {
		t.Errorf("got %+v", q)
	}
	if !bytes.Equal(q.Raw(), raw) {
		t.Error("Raw isn't the input")
	}

	s.quote = tdxsim.QuoteOptions{}
	raw, _, _ = s.make(t)
	if q, err = tdx.ParseQuote(raw); err != nil {
		t.Fatal(err)
	}
	if q.Version != 4 || q.BodyType != tdx.BodyTDX10 || q.Body.MRServiceTD != nil || q.Body.TEETCBSVN2 != nil {
		t.Errorf("got %+v", q)
	}
}
