package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

var update = flag.Bool("update", false, "write the golden files anew")

// witnessed describes a log of three witnesses, two of which are needed.
var witnessed = bundletest.LogOptions{Witnesses: 3, Threshold: 2}

var reportDate = time.Date(2026, 12, 1, 9, 30, 0, 0, time.UTC)

// metaFor is what a report on the file b says beside what was found.
func metaFor(t testing.TB, o bundle.Options, b *bundle.Bundle) Meta {
	t.Helper()
	raw, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return Meta{
		Date: reportDate, Tool: "affidavit v0.0.0", LogPolicy: o.LogPolicy, Appraisal: o.Appraisal, Root: o.Root,
		Args:  []string{"--log-policy", "log.policy", "--appraisal-policy", "ours.yaml", "--root", "root.pem"},
		Files: []File{{Name: "session.affidavit", Data: raw, Size: int64(len(raw)), SHA: sha256.Sum256(raw)}},
	}
}

// reportOn checks a bundle and returns the report on it.
func reportOn(t testing.TB, b *bundle.Bundle, o bundle.Options) *Report {
	t.Helper()
	m := metaFor(t, o, b)
	f, err := bundle.Check(b, o)
	if err != nil {
		e, ok := err.(*bundle.NotProven)
		if !ok {
			t.Fatal(err)
		}
		return Unproven(e, m)
	}
	return Record(f, m)
}

func htmlOf(t testing.TB, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.HTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func pdfOf(t testing.TB, r *Report, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := r.PDF(&b, files...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var debugTD = tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug

// cases are the reports of which there are golden files.
func cases(t testing.TB) map[string]*Report {
	good := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	debug := bundletest.NewSession(t, witnessed, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Quote.TDAttributes = &debugTD }})
	replay := bundletest.NewSession(t, witnessed, bundletest.Steps{Final: func(d *bundletest.Draft) { d.KeepReportData = true }})
	lone := bundletest.NewSession(t, bundletest.LogOptions{Origin: "lone.example.org/2026"}, bundletest.Steps{NoModelRun: true})
	release := good.Log.Bundle(good.Release, good.Publish(good.Now), good.VendorKey, good.Release)
	start := good.Log.Bundle(good.Start, good.Publish(good.Now), good.VendorKey, good.Release, good.Collateral, good.FreshStart, good.Start, good.CoverStart)
	return map[string]*Report{
		"good":     reportOn(t, good.Bundle(), good.Options()),
		"debug":    reportOn(t, debug.Bundle(), debug.Options()),
		"replay":   reportOn(t, replay.Bundle(), replay.Options()),
		"lone":     reportOn(t, lone.Bundle(), lone.Options()),
		"release":  reportOn(t, release, good.Options("profiles: [vendor-signed/v1]", "time:", "  allow-unproven: true")),
		"start":    reportOn(t, start, good.Options()),
		"period":   periodOf(t, good.Options(), 2000),
		"monitor":  monitorPeriod(t),
		"one-file": oneSession(t, good),
	}
}

func periodOf(t testing.TB, o bundle.Options, n int) *Report {
	t.Helper()
	r, err := Period(sessions(n), Meta{Date: reportDate, LogPolicy: o.LogPolicy, Appraisal: o.Appraisal, Root: o.Root, Args: []string{"--log-policy", "log.policy", "--appraisal-policy", "ours.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func monitorPeriod(t testing.TB) *Report {
	t.Helper()
	r, err := Period(sessions(50), Meta{Date: reportDate, Monitor: "https://monitor.example"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func oneSession(t testing.TB, s *bundletest.Session) *Report {
	t.Helper()
	b, o := s.Bundle(), s.Options()
	f, err := bundle.Check(b, o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Period(func(yield func(*Session, error) bool) { yield(SessionOf("session.affidavit", f), nil) }, metaFor(t, o, b))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sessions yields n made-up sessions, always the same.
func sessions(n int) iter.Seq2[*Session, error] {
	return func(yield func(*Session, error) bool) {
		rnd := rand.New(rand.NewPCG(1, 2))
		for i := range n {
			at := time.Date(2026, 10, 1, 8, 0, 0, 0, time.UTC).Add(time.Duration(rnd.IntN(60*24*3600)) * time.Second)
			s := &Session{
				Name: fmt.Sprintf("sessions/%06d.affidavit", i), Outcome: Good, Final: true, Statement: sha256.Sum256(fmt.Append(nil, "statement", i)),
				Vendor: fmt.Sprintf("https://vendor%d.example", rnd.IntN(4)), ID: fmt.Sprintf("%032x", i), Release: "pkg:oci/sandbox", Known: true,
				Platform: fmt.Sprintf("%032x", rnd.IntN(200)), TCBStatus: "UpToDate", AdmittedAt: at, Technical: rnd.IntN(10) > 0, Erased: rnd.IntN(20) > 0,
				Models: []SessionModel{{Name: "gateway/qwen3-coder-480b", Execution: record.ExecutionTEE, Proven: rnd.IntN(5) > 0}},
			}
			s.Interval.NotAfter = at
			s.Interval.NotBefore = at.Add(-time.Duration(20+rnd.ExpFloat64()*60) * time.Second)
			if rnd.IntN(3) == 0 {
				s.Models = append(s.Models, SessionModel{Name: "provider/large", Execution: record.ExecutionPolicyZDR})
			}
			if at.Day() > 20 && rnd.IntN(4) == 0 {
				s.TCBStatus = "OutOfDate"
				s.Outcome, s.Reason, s.Codes = Refused, "the platform's TCB status was OutOfDate", []string{"tcb-status"}
			}
			if rnd.IntN(500) == 0 {
				s = &Session{Name: s.Name, Outcome: NotProven, Reason: "the quote has REPORTDATA of another statement", Codes: []string{"binding"}}
			}
			if !yield(s, nil) {
				return
			}
		}
	}
}

// Golden files show what a change does to what people see. A report that depended on the clock or on the order of a map
// would differ from them now and then.
func TestGolden(t *testing.T) {
	for name, r := range cases(t) {
		got := htmlOf(t, r)
		file := filepath.Join("testdata", name+".html")
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s.html differs from the golden file at %s; see the difference with go test -run TestGolden -update and git diff", name, firstDifference(got, string(want)))
		}
	}
}

func firstDifference(a, b string) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("byte %d: got %q, want %q", i, a[i:min(i+80, len(a))], b[i:min(i+80, len(b))])
		}
	}
	return fmt.Sprintf("lengths %d and %d", len(a), len(b))
}

// The JSON form is the content, and has nothing that would not survive a way through JSON.
func TestJSON(t *testing.T) {
	t.Parallel()
	for name, r := range cases(t) {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var back Report
		d := json.NewDecoder(bytes.NewReader(b))
		d.DisallowUnknownFields()
		if err := d.Decode(&back); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := htmlOf(t, &back), htmlOf(t, r); got != want {
			t.Errorf("%s: printed from JSON it differs at %s", name, firstDifference(got, want))
		}
	}
}

// Words that say more than is proven, or that frighten without reason, are in no report; the assumptions and the limits
// are in all of them (DESIGN, principle 5).
func TestWords(t *testing.T) {
	t.Parallel()
	for name, r := range cases(t) {
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		page := strings.ToLower(string(b))
		for _, w := range []string{"tamper", "breached", "unhackable", "guarantee", "100%", "secure by", "military"} {
			if strings.Contains(page, w) {
				t.Errorf("%s says %q", name, w)
			}
		}
		for _, w := range []string{"by physical attack", "does what you think it does", "an honest one in it, whose clock is right", "nothing can prove that data is gone", "hardware gives it none", "an outdated machine is not a breach", "completeness:"} {
			if name == "lone" && strings.Contains(w, "clock") {
				w = "no witness is asked"
			}
			if !strings.Contains(page, w) {
				t.Errorf("%s doesn't say %q", name, w)
			}
		}
	}
}

// Each claim of the finding is in the report, with its source.
func TestEveryClaimIsShown(t *testing.T) {
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	for _, tt := range []struct {
		name string
		b    *bundle.Bundle
		o    bundle.Options
	}{
		{"final", s.Bundle(), s.Options()},
		{"start", s.Log.Bundle(s.Start, s.Publish(s.Now), s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart), s.Options()},
		{"model run", s.Log.Bundle(s.ModelRun, s.Publish(s.Now), s.GatewayKey, s.GatewayRelease, s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart, s.ModelRun, s.CoverModelRun), s.Options()},
		{"release", s.Log.Bundle(s.Release, s.Publish(s.Now), s.VendorKey, s.Release), s.Options("profiles: [vendor-signed/v1]", "time:", "  allow-unproven: true")},
	} {
		f, err := bundle.Check(tt.b, tt.o)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		shown := make(map[string]Value)
		var walk func(s []Section)
		walk = func(s []Section) {
			for _, s := range s {
				for _, b := range s.Blocks {
					for _, v := range b.Values {
						if _, twice := shown[v.ID]; twice {
							t.Errorf("%s: claim %s is shown twice", tt.name, v.ID)
						}
						shown[v.ID] = v
					}
				}
				walk(s.Sections)
			}
		}
		walk(Record(f, metaFor(t, tt.o, tt.b)).Sections)
		for _, c := range f.Claims {
			if got, ok := shown[c.ID]; !ok || got.Source != c.Source || got.Status != c.Status || got.Label != c.Label || got.Value != c.Value {
				t.Errorf("%s: claim %+v is shown as %+v", tt.name, c, got)
			}
		}
	}
}

// The sentences on top are about what the record is, and no better.
func TestVerdicts(t *testing.T) {
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	given := s.AddAbandoned(s.Start)
	s.AddTime()
	collected := s.AddImport(s.Now.Add(-time.Minute))
	note := s.Publish(s.Now)
	strict, lax := s.Options(), s.Options("profiles: [vendor-signed/v1, unbound/v1, statement/v1]", "time: {allow-unproven: true}")
	for _, tt := range []struct {
		name    string
		b       *bundle.Bundle
		o       bundle.Options
		intel   bool
		want    []string
		without string
	}{
		{"simulated", s.Bundle(), strict, false, []string{"comes from simulated hardware, for a test, and meets", "This is a test"}, "genuine confidential"},
		{"Intel's", s.Bundle(), strict, true, []string{"comes from genuine confidential hardware, and meets", "Genuine confidential hardware of Intel (TDX) made the evidence"}, "a test"},
		{"given up", s.Log.Bundle(given, note, s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart, given), lax, true,
			[]string{"is signed with the vendor’s key, and meets", "Nothing ties what it says to hardware", "It is only proven that it was not after"}, "hardware’s signature covers"},
		{"import", s.Log.Bundle(collected, note, s.VendorKey, s.Collateral, collected), lax, true, []string{"holds a report of hardware that nothing ties to it", "Nothing ties what it says to hardware"}, "comes from genuine"},
	} {
		f, err := bundle.Check(tt.b, tt.o)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		m := metaFor(t, tt.o, tt.b)
		if tt.intel {
			m.Root = tdx.IntelRoot()
		}
		page := htmlOf(t, Record(f, m))
		checkPage(t, tt.name, page)
		screen := firstScreen(t, page)
		for _, want := range tt.want {
			if !strings.Contains(screen, want) {
				t.Errorf("%s: the first section doesn't say %q:\n%s", tt.name, want, screen)
			}
		}
		if strings.Contains(screen, tt.without) {
			t.Errorf("%s: the first section says %q:\n%s", tt.name, tt.without, screen)
		}
	}
}

// A fragment is the page without its head and foot: another page can't show less than the report does, nor other ids.
func TestFragmentIsThePagesContent(t *testing.T) {
	r := cases(t)["good"]
	f, err := r.Fragment()
	if err != nil {
		t.Fatal(err)
	}
	if page := htmlOf(t, r); !strings.Contains(page, "<main>\n"+string(f)+"</main>") {
		t.Error("the fragment isn't what the page has between its head and its foot")
	}
	if strings.Contains(string(f), "style=") || strings.Contains(string(f), "<style") {
		t.Error("the fragment has a style of its own")
	}
}
