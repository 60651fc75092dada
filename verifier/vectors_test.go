package verifier_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// TestSharedVectors appraises the shared vectors as `affidavit appraise` does, by
// the strict default.
func TestSharedVectors(t *testing.T) {
	dir := os.Getenv("AFFIDAVIT_SHARED")
	if dir == "" {
		dir = "../../shared"
	}
	dir = filepath.Join(dir, "vectors", "tdx")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("no shared vectors: set AFFIDAVIT_SHARED to the folder that has vectors/tdx")
	}
	read := func(path ...string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(append([]string{dir}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	synthetic, err := tdx.ParseRoot(read("synthetic", "root.der"))
	if err != nil {
		t.Fatal(err)
	}
	cases, err := filepath.Glob(filepath.Join(dir, "*", "*", "expected.json"))
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases in %s: %v", dir, err)
	}
	// What a strict policy refuses, by the vectors' classes of reasons.
	policyCodes := map[string]verifier.Code{"debug": verifier.CodeDebug, "migratable": verifier.CodeMigratable, "sept_ve": verifier.CodeSEPTVE}
	for _, c := range cases {
		name, _ := filepath.Rel(dir, filepath.Dir(c))
		t.Run(name, func(t *testing.T) {
			var want struct {
				At     int64
				Expect string
				Status string `json:"tcbStatus"`
				Reason string
			}
			if err := json.Unmarshal(read(name, "expected.json"), &want); err != nil {
				t.Fatal(err)
			}
			root := tdx.IntelRoot()
			if filepath.Dir(name) == "synthetic" {
				root = synthetic
			}
			quote, collateral := tdx.TrimPadding(read(name, "quote.bin")), read(name, "collateral.json")
			a, err := appraise(root, quote, collateral, time.Unix(want.At, 0), verifier.StrictPolicy())
			admitted, admitErr := importEvidence(t, root, quote, collateral, time.Unix(want.At, 0).UTC())
			if (admitted != nil) != (want.Expect != "reject" && want.Reason != "debug") {
				t.Errorf("imported: %+v, %v", admitted, admitErr)
			}
			if want.Expect == "reject" {
				var e *tdx.Error
				if a != nil || !errors.As(err, &e) {
					t.Fatalf("got %+v, %v; want it not genuine", a, err)
				}
				if want.Status != "" && string(e.Status) != want.Status {
					t.Errorf("status %q, want %q", e.Status, want.Status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var refused []verifier.Code
			switch want.Expect {
			case "accept":
				if want.Status != string(tdx.StatusUpToDate) {
					refused = append(refused, verifier.CodeTCBStatus)
				}
				if len(a.TDX.Advisories) > 0 {
					refused = append(refused, verifier.CodeAdvisory)
				}
			case "refuse-by-policy":
				code, ok := policyCodes[want.Reason]
				if !ok {
					t.Fatalf("unknown reason %q", want.Reason)
				}
				refused = append(refused, code)
			default:
				t.Fatalf("unknown expectation %q", want.Expect)
			}
			if want.Status != "" && string(a.TDX.Status) != want.Status {
				t.Errorf("status %s, want %s", a.TDX.Status, want.Status)
			}
			got := codes(a.Refusals)
			slices.Sort(refused)
			if want.Reason == "debug" {
				// Debug TDs are seldom configured well in other respects.
				if !slices.Contains(got, verifier.CodeDebug) {
					t.Errorf("refusals %v, want one for debug", a.Refusals)
				}
			} else if !slices.Equal(got, refused) {
				t.Errorf("refusals %v, want %v", a.Refusals, refused)
			}

			// A policy that accepts the platform and pins what the quote has allows it,
			// unless the TD is misconfigured; one that pins something else doesn't.
			policy := "measurements:\n  - name: seen\n    mrtd: %x\n    rtmr0: %x\n    rtmr1: %x\n    rtmr2: %x\n    rtmr3: %x\n" +
				"tcb:\n  statuses: [%s]\n"
			if ids := advisories(a); len(ids) > 0 {
				policy += "  advisories:\n"
				for _, id := range ids {
					policy += "    - {id: " + id + ", until: 2030-01-01T00:00:00Z}\n"
				}
			}
			m := a.Quote.Body
			mrtd := slices.Clone(m.MRTD)
			p := parse(t, fmt.Sprintf(policy, mrtd, m.RTMR[0], m.RTMR[1], m.RTMR[2], m.RTMR[3], a.TDX.Status))
			a, err = appraise(root, quote, collateral, time.Unix(want.At, 0), p)
			if err != nil || a.Allowed() != (want.Expect == "accept") || a.Identity != (verifier.Identity{By: "measurement", Name: "seen"}) {
				t.Errorf("by a policy that fits: %+v, %v", a, err)
			}
			mrtd[47] ^= 1
			p = parse(t, fmt.Sprintf(policy, mrtd, m.RTMR[0], m.RTMR[1], m.RTMR[2], m.RTMR[3], a.TDX.Status))
			if a, err = appraise(root, quote, collateral, time.Unix(want.At, 0), p); err != nil || !slices.Contains(codes(a.Refusals), verifier.CodeMeasurement) {
				t.Errorf("by a policy that pins something else: %+v, %v", a, err)
			}
		})
	}
}

// importEvidence submits a quote as evidence/v1 to a log that allows imports.
func importEvidence(t *testing.T, root *tdx.Root, quote, collateral []byte, at time.Time) (*verifier.Admitted, error) {
	t.Helper()
	v := verifier.New(root)
	c, err := tdx.ParseCollateralJSON(collateral)
	if err != nil {
		return nil, err
	}
	set, err := v.Compile(c)
	if err != nil {
		return nil, err // a log wouldn't have it
	}
	st := &record.Statement{Vendor: vendor, Evidence: &record.ImportedEvidence{
		MediaType: record.MediaTypeTDXQuote, SHA256: sha256.Sum256(quote), Size: uint64(len(quote)), CollectedOn: at,
	}}
	e, err := record.SignEntry(record.ProfileUnbound, marshal(t, st), key("release"), record.NewQuoteEvidence(quote))
	if err != nil {
		t.Fatal(err)
	}
	s := newSubmission(t)
	return v.Admit(e, set, now, at, &s.admission)
}

func advisories(a *verifier.Appraisal) (ids []string) {
	for _, a := range a.TDX.Advisories {
		ids = append(ids, a.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func appraise(root *tdx.Root, quote, collateral []byte, at time.Time, p *verifier.Policy) (*verifier.Appraisal, error) {
	v := verifier.New(root)
	q, err := tdx.ParseQuote(quote)
	if err != nil {
		return nil, err
	}
	c, err := tdx.ParseCollateralJSON(collateral)
	if err != nil {
		return nil, err
	}
	set, err := v.Compile(c)
	if err != nil {
		return nil, err
	}
	a, err := v.Appraise(q, set, at, p)
	if e := new(verifier.NotGenuine); err != nil && !errors.As(err, &e) {
		return nil, fmt.Errorf("not a *NotGenuine: %v", err)
	}
	return a, err
}
