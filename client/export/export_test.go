package export

import (
	"bytes"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"flag"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

var update = flag.Bool("update", false, "write the golden files")

var testTime = time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)

// found returns the record of a bundle of s, and the whole entry's envelope with it.
func found(t testing.TB, s *bundletest.Session, b *bundle.Bundle) *Record {
	t.Helper()
	f, err := bundle.Check(b, s.Options())
	if err != nil {
		t.Fatal(err)
	}
	r := FromFinding(f)
	raw, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	r.Bundle, r.BundleSHA256 = string(r.Role)+".affidavit", hexOf(sum[:])
	r.Envelope = f.Subject.Entry().DSSE()
	return r
}

// samples returns records of every role and verdict.
func samples(t testing.TB) map[string]*Record {
	t.Helper()
	s := bundletest.NewSession(t, bundletest.LogOptions{Witnesses: 3, Threshold: 2}, bundletest.Steps{})
	note := s.Publish(s.Now)
	m := make(map[string]*Record)
	m["final"] = found(t, s, s.Bundle())
	m["final"].Disclosed = []*record.Action{{
		Session: s.World.Session, Index: 3, Time: bundletest.Epoch.Add(3 * time.Second), TraceID: [16]byte{1}, SpanID: [8]byte{2},
		Outcome: record.OutcomeBlocked, Arguments: &record.Digest{7},
		Attributes: map[string]any{
			"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "http_request", "gen_ai.tool.call.id": "call_03",
			"gen_ai.agent.id": "origin-agent", "error.type": "egress_denied",
		},
	}}
	m["start"] = found(t, s, s.Log.Bundle(s.Start, note, s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart))
	m["model-run"] = found(t, s, s.Log.Bundle(s.ModelRun, note, s.GatewayKey, s.GatewayRelease, s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart, s.ModelRun, s.CoverModelRun))
	m["release"] = found(t, s, s.Log.Bundle(s.Release, note, s.VendorKey, s.Release))

	debug := tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug
	d := bundletest.NewSession(t, bundletest.LogOptions{Witnesses: 3, Threshold: 2}, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Quote.TDAttributes = &debug }})
	m["debug"] = found(t, d, d.Bundle())

	m["not-proven"] = FromNotProven(sha256.Sum256([]byte("a forged file")), "binding", "the quote commits to another statement", testTime)
	return m
}

func TestMain(m *testing.M) {
	Version = func() string { return "0.0.0-test" } // golden files don't depend on the checkout
	os.Exit(m.Run())
}

// evil has everything by which text can do harm to what shows or splits it.
const evil = "=cmd|' /C calc'!A0\r\n<script>alert(1)</script>\u202egnp.exe\u2028;+1\x00\x1b[2J\",@SUM(1)\xff 漢字😀] \"}"

// hostile is a record in which every text is evil, and every number as large as it
// can be.
func hostile() *Record {
	most := uint64(math.MaxUint64)
	r := &Record{
		UID: strings.Repeat("ab", 32), Verdict: VerdictRefused, VerifiedBy: evil, Log: evil, Index: most, Statement: evil,
		Role: bundle.Role(evil), Profile: record.Profile(evil), Vendor: evil, Session: evil, SessionKind: evil, Tenant: evil, TenantEpoch: evil,
		Sequence: most, ReleaseName: evil, Release: evil, Version: evil,
		AdmittedAt: testTime, NotBefore: testTime, NotAfter: testTime, StartedOn: testTime, FinishedOn: testTime,
		EndReason: evil, TCBStatus: evil, Advisories: []string{evil, "INTEL-SA-1"}, FMSPC: evil, Platform: evil,
		Models: []Model{{evil, strings.Repeat("m", 16<<10), "", evil, most}, {strings.Repeat("\u202e", 16<<10), evil, evil, evil, most}},
		Calls:  most, Actions: &most, Blocked: most, Retention: evil, Enforcement: evil,
		Bundle: evil, BundleSHA256: evil,
		Envelope: []byte(`{"payload":"e30=","payloadType":"x","signatures":[]}`),
		Disclosed: []*record.Action{{Index: most, Time: testTime, TraceID: [16]byte{1}, SpanID: [8]byte{1}, Outcome: evil, Attributes: map[string]any{
			"gen_ai.operation.name": evil, "gen_ai.tool.name": evil, "gen_ai.agent.id": evil, "gen_ai.request.model": evil, "error.type": evil,
		}}},
	}
	for _, c := range checks {
		r.Claims = append(r.Claims, verifier.Claim{ID: c.claim, Label: evil, Value: evil, Source: verifier.SourceVendor, Status: verifier.StatusAsserted, Note: evil})
	}
	r.Claims = append(r.Claims, verifier.Claim{ID: evil, Value: evil, Source: evil, Status: evil, Note: evil})
	r.Refusals = []verifier.Refusal{{Code: evil, Field: evil, Got: evil, Want: evil, Message: evil}}
	return r
}

func hostileFinding() *Finding {
	index := uint64(math.MaxUint64)
	return &Finding{ID: "f0f0", Seq: index, Class: evil, Severity: evil, Kind: evil, Log: evil, Index: &index, FoundAt: testTime, Message: evil, Subject: map[string]string{evil: evil, "session": evil}}
}

// result is what a monitor says about a record.
func result() *monitorapi.Result {
	allowed := false
	return &monitorapi.Result{
		Record: &monitorapi.Record{
			Index: 73951, LeafHash: monitorapi.Hash{1}, Statement: monitorapi.Hash{2}, Role: bundle.RoleFinal, Profile: record.ProfileStatement,
			Vendor: "https://vendor.example", Session: monitorapi.Hash{3}, Kind: record.KindCodingSession, Tenant: monitorapi.Hash{4}, TenantEpoch: "2026-11",
			Sequence: 7, StartedOn: testTime.Add(-time.Hour), Release: monitorapi.Hash{5}, ReleaseName: "pkg:oci/sandbox",
			Models:  []monitorapi.Model{{Provider: "p", Name: "m", ResponseModel: "m-1", Execution: record.ExecutionPolicyZDR}},
			Genuine: true, TCBStatus: "OutOfDate", Advisories: []string{"INTEL-SA-00960", "INTEL-SA-00982"}, FMSPC: "90c06f000000",
			AdmittedAt: testTime, NotBefore: testTime.Add(-time.Minute), NotAfter: testTime.Add(time.Second),
		},
		Log: "log.example.org/2026", Size: 73960, Allowed: &allowed,
		Claims: []verifier.Claim{
			{ID: "tee", Label: "Confidential hardware", Value: "Intel TDX", Source: verifier.SourceHardware, Status: verifier.StatusHolds},
			{ID: "tcb", Label: "TCB", Value: "OutOfDate", Source: verifier.SourceVerifier, Status: verifier.StatusFailed},
			{ID: "session.id", Label: "Session", Value: "86d2a347fe8f13f25f63c3d992647032", Source: verifier.SourceMeasuredCode, Status: verifier.StatusAsserted},
			{ID: "time.finished", Label: "Finished", Value: "2026-11-24T07:59:00Z", Source: verifier.SourceMeasuredCode, Status: verifier.StatusAsserted},
			{ID: "end", Label: "How it ended", Value: "completed", Source: verifier.SourceMeasuredCode, Status: verifier.StatusAsserted},
			{ID: "model.0", Label: "Model", Value: "p/m", Source: verifier.SourceVendor, Status: verifier.StatusAsserted, Note: "The provider promises not to keep prompts."},
		},
		Refusals: []verifier.Refusal{{Code: verifier.CodeTCBStatus, Field: "tcb.statuses", Got: "OutOfDate", Want: "UpToDate", Message: "the TCB status is OutOfDate"}},
	}
}

func finding() *Finding {
	index := uint64(12)
	return &Finding{
		ID: "5f3c1d", Seq: 4, Class: "tamper", Severity: "critical", Kind: "split-view", Log: "log.example.org/2026", Index: &index, FoundAt: testTime,
		Message: "the log has signed two checkpoints of which neither continues the other", Subject: map[string]string{"vendor": "https://vendor.example"},
	}
}

const testMonitor = "https://monitor.example"

// all returns the items of every sample, in a fixed order.
func all(t testing.TB) []*Item {
	m := samples(t)
	m["monitor"] = FromResult(result(), testMonitor)
	m["zz-hostile"] = hostile()
	var items []*Item
	for _, name := range slices.Sorted(mapKeys(m)) {
		items = append(items, &Item{Load: func() (*Record, error) { return m[name], nil }})
	}
	return append(items, &Item{Finding: finding()}, &Item{Finding: hostileFinding()})
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func source(items []*Item) func(func(*Item, error) bool) {
	return func(yield func(*Item, error) bool) {
		for _, i := range items {
			if !yield(i, nil) {
				return
			}
		}
	}
}

// export returns what an exporter makes of items.
func export(t testing.TB, x *Exporter, items []*Item) []byte {
	t.Helper()
	var b bytes.Buffer
	x.Monitor = testMonitor
	out := &StreamOutput{Format: x.Format, W: &b}
	if err := x.Run(t.Context(), source(items), out, new(Cursor)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func oscalOf(t testing.TB, items []*Item) []byte {
	t.Helper()
	d, err := NewOSCAL(OSCALOptions{At: testTime, Monitor: testMonitor, PolicySHA256: strings.Repeat("0", 64), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, i := range items {
		if i.Finding != nil {
			err = d.AddFinding(i.Finding)
		} else {
			r, _ := i.Load()
			err = d.Add(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if err := d.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// exporters are all formats but OSCAL, by the names of golden files.
func exporters() map[string]*Exporter {
	return map[string]*Exporter{
		"ocsf.ndjson":       {Format: FormatOCSF},
		"short.ndjson":      {Format: FormatOCSF, OCSF: OCSF{MaxEvent: MinEvent}},
		"export.csv":        {Format: FormatCSV},
		"syslog.txt":        {Format: FormatSyslog, Syslog: Syslog{Hostname: "auditor.example"}},
		"envelopes.ndjson":  {Format: FormatInToto},
		"svr.ndjson":        {Format: FormatSVR, SVR: SVR{At: testTime}},
		"svr-signed.ndjson": {Format: FormatSVR, SVR: SVR{At: testTime, Key: bundletest.KeyFrom("auditor"), VerifierID: "https://auditor.example/v1", PolicySHA256: strings.Repeat("0", 64)}},
		"hec.ndjson":        {Format: FormatOCSF, Wrap: WrapHEC},
	}
}

// What receivers have set up must not change by accident.
func TestGolden(t *testing.T) {
	items := all(t)
	outputs := map[string][]byte{"oscal.json": indentJSON(t, oscalOf(t, items))}
	for name, x := range exporters() {
		outputs[name] = export(t, x, items)
	}
	for name, got := range outputs {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what testdata has; if that is meant, run the test with -update and look at the difference", name)
		}
	}
}

func indentJSON(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", " "); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Whatever a record says, an export is lines of printable characters, each as many as
// there should be, and parses back to what Clean makes of it.
func TestHostile(t *testing.T) {
	items := []*Item{{Load: func() (*Record, error) { return hostile(), nil }}}
	for name, x := range exporters() {
		out := export(t, x, items)
		lines := bytes.Split(bytes.TrimSuffix(out, []byte("\n")), []byte("\n"))
		// hostile's role is no known one, so that there is one event; CSV has a header.
		if want := map[bool]int{true: 2, false: 1}[x.Format == FormatCSV]; len(lines) != want {
			t.Errorf("%s: %d lines, want %d", name, len(lines), want)
		}
		for _, r := range string(out) {
			if r != '\n' && !(r == '\r' && x.Format == FormatCSV) && !unicode.IsPrint(r) {
				t.Errorf("%s has the character %U", name, r)
				break
			}
		}
		if x.Format != FormatCSV {
			for _, bad := range []string{"<script", "\u202e", "漢"} {
				if bytes.Contains(out, []byte(bad)) {
					t.Errorf("%s has %q as it is", name, bad)
				}
			}
		}
		for _, line := range lines {
			if x.Format == FormatCSV {
				continue
			}
			line = line[bytes.IndexByte(line, '{'):]
			if !json.Valid(line) {
				t.Errorf("%s: not JSON: %.200s", name, line)
			}
		}
	}
	var event struct {
		Metadata  struct{ Tenant_UID string }
		Evidences []struct {
			Data struct{ Log_Index json.Number }
		}
		Unmapped map[string]any
	}
	d := json.NewDecoder(bytes.NewReader(export(t, exporters()["ocsf.ndjson"], items)))
	d.UseNumber()
	if err := d.Decode(&event); err != nil {
		t.Fatal(err)
	}
	if event.Metadata.Tenant_UID != Clean(evil) {
		t.Errorf("tenant %q, want %q", event.Metadata.Tenant_UID, Clean(evil))
	}
	for _, n := range []any{event.Evidences[0].Data.Log_Index, event.Unmapped["affidavit.sequence"], event.Unmapped["affidavit.actions.count"]} {
		if n != json.Number("18446744073709551615") {
			t.Errorf("number %v", n)
		}
	}

	rows, err := csv.NewReader(bytes.NewReader(export(t, exporters()["export.csv"], items))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, field := range rows[1] {
		if field != "" && strings.ContainsRune("=+-@\t\r＝＋－＠", []rune(field)[0]) {
			t.Errorf("column %s begins a formula: %.40q", rows[0][i], field)
		}
		if want := Clean(columns[i].value(hostile())); restore(field) != want {
			t.Errorf("column %s: %.80q, want %.80q", rows[0][i], restore(field), want)
		}
	}

	// What could be taken for Markdown in an OSCAL document is ours.
	doc := oscalOf(t, items)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, v := range v {
				walk(path+"."+k, v)
			}
		case []any:
			for _, v := range v {
				walk(path, v)
			}
		case string:
			for _, markup := range []string{".title", ".description", ".statement", ".remarks"} {
				if strings.HasSuffix(path, markup) && strings.Contains(v, "cmd") {
					t.Errorf("%s has a record's text: %.80q", path, v)
				}
			}
		}
	}
	var v any
	if err := json.Unmarshal(doc, &v); err != nil {
		t.Fatal(err)
	}
	walk("", v)
}

// Nothing that a record says makes an event larger than what a receiver takes.
func TestMaxEvent(t *testing.T) {
	for _, r := range []*Record{hostile(), samples(t)["debug"]} {
		for _, role := range []bundle.Role{bundle.RoleFinal, bundle.RoleStart, bundle.RoleModelRun} {
			r.Role = role
			var n int
			OCSF{MaxEvent: MinEvent}.Events(nil, r, func(ev *Event) {
				n++
				if len(ev.JSON) > MinEvent {
					t.Errorf("%s: %d bytes", ev.UID, len(ev.JSON))
				}
				var v struct {
					Metadata struct {
						UID              string
						Is_Truncated     bool
						Untruncated_Size int
					}
				}
				if err := json.Unmarshal(ev.JSON, &v); err != nil {
					t.Fatalf("%v in %s", err, ev.JSON)
				}
				if v.Metadata.UID != ev.UID {
					t.Errorf("uid %s, want %s", v.Metadata.UID, ev.UID)
				}
				if v.Metadata.Is_Truncated != (v.Metadata.Untruncated_Size > MinEvent) {
					t.Errorf("is_truncated %v, size %d", v.Metadata.Is_Truncated, v.Metadata.Untruncated_Size)
				}
			})
			if n == 0 {
				t.Fatal("no event")
			}
		}
	}
	f := hostileFinding()
	for i := range 100 {
		f.Subject[strings.Repeat("k", i)+evil] = evil
	}
	OCSF{MaxEvent: MinEvent}.FindingEvent(nil, f, evil, func(ev *Event) {
		if len(ev.JSON) > MinEvent || !json.Valid(ev.JSON) {
			t.Errorf("%d bytes: %s", len(ev.JSON), ev.JSON)
		}
	})
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                          "plain",
		" a b ":                          "a b",
		"a\nb\r\x00":                     "a\uFFFDb\uFFFD\uFFFD",
		"\u202egnp\u2066":                "\uFFFDgnp\uFFFD",
		"größer 模型":                      "größer 模型",
		"\xff":                           "\uFFFD",
		"a\u00a0b":                       "a\uFFFDb",
		strings.Repeat("x", maxText):     strings.Repeat("x", maxText),
		strings.Repeat("x", maxText+1):   strings.Repeat("x", maxText-3) + "…",
		strings.Repeat("é", maxText/2+1): strings.Repeat("é", maxText/2-2) + "…",
	} {
		got := Clean(in)
		if got != want {
			t.Errorf("Clean(%.40q) = %.40q, want %.40q", in, got, want)
		}
		if again := Clean(got); again != got {
			t.Errorf("Clean(%.40q) = %.40q: not the same again", got, again)
		}
	}
}
