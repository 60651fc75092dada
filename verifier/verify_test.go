package verifier_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

var update = flag.Bool("update", false, "write golden files")

func TestGoodSession(t *testing.T) {
	w := newWorld(t)
	for name, v := range map[string]*verifier.Verdict{"start": w.verifyStart(), "final": w.verifyFinal(), "model run": w.verifyRun()} {
		if !v.Allowed() {
			t.Errorf("%s: %v", name, v.Refusals)
		}
		if v.Identity.By != "release" || v.TDX.Status != tdx.StatusUpToDate || v.Quote == nil {
			t.Errorf("%s: identity %+v, result %+v", name, v.Identity, v.TDX)
		}
	}
}

// TestClaims compares every claim of typical records with a golden file, so that
// no word of them changes unnoticed.
func TestClaims(t *testing.T) {
	var b bytes.Buffer
	section := func(title string, claims []verifier.Claim, refusals []verifier.Refusal) {
		fmt.Fprintf(&b, "# %s\n", title)
		for _, c := range claims {
			fmt.Fprintf(&b, "%-8s %-13s %-25s %s: %s\n", c.Status, c.Source, c.ID, c.Label, c.Value)
			if c.Note != "" {
				fmt.Fprintf(&b, "%-8s %-13s %-25s   %s\n", "", "", "", c.Note)
			}
		}
		for _, r := range refusals {
			fmt.Fprintf(&b, "REFUSED  %s: %s: got %q, want %q\n         %s\n", r.Code, r.Field, r.Got, r.Want, r.Message)
		}
		b.WriteByte('\n')
	}

	w := newWorld(t)
	start, final, run := w.place(w.startPlace, w.verifyStart()), w.place(w.finalPlace, w.verifyFinal()), w.place(w.runPlace, w.verifyRun())
	section("start, release trusted", start.Verdict.Claims, start.Verdict.Refusals)
	claims, refusals := verifier.ModelRuns(start, final, []*verifier.PlacedRecord{run}, parse(t, w.policy))
	pair, refused := verifier.Pair(start, final)
	section("session with its start and model run, release trusted",
		verifier.Merge(verifier.Merge(final.Verdict.Claims, claims), pair), slices.Concat(final.Verdict.Refusals, refusals, refused))
	section("model run, release trusted", run.Verdict.Claims, run.Verdict.Refusals)

	w = newWorld(t)
	w.policy, w.withoutReleases = pinPolicy(), true
	w.finalInterval = nil
	v := w.verifyFinal()
	section("session, measurements pinned, no time proven", v.Claims, v.Refusals)

	w = newWorld(t)
	w.policy = releasePolicy("another")
	v = w.verifyFinal()
	section("session, release key not trusted", v.Claims, v.Refusals)

	w = newWorld(t)
	w.policy = ""
	w.finalQuote.TDAttributes = new(tdxsim.AttrDebug | tdxsim.AttrMigratable | tdxsim.AttrPerfMon | 1<<20)
	w.finalQuote.Version, w.finalQuote.Body = 5, 3
	w.finalQuote.MRServiceTD[0] = 1
	w.finalSet = w.collateral(tdxsim.CollateralOptions{Modules: []tdxsim.ModuleIdentity{{ID: "TDX_01", Levels: []tdxsim.ISVLevel{
		{ISVSVN: 5, Status: "OutOfDate", Advisories: []string{"INTEL-SA-01036"}},
	}}}})
	v = w.verifyFinal()
	section("session in a debug TD on an outdated platform, empty policy", v.Claims, v.Refusals)

	w = newWorld(t)
	v = w.must(w.verify(w.input(w.imported(tdxsim.QuoteOptions{}, nil), epoch.Add(time.Hour), nil)))
	section("imported evidence, strict policy", v.Claims, v.Refusals)

	abandoned := &record.Statement{Vendor: vendor, Abandoned: &record.SessionAbandoned{
		ID: w.info.ID, Start: record.StatementRef{Origin: origin, Index: 100, Statement: w.startEntry().StatementDigest()},
		Reason: record.AbandonedCrashed, AbandonedOn: now,
	}}
	v = w.must(w.verify(w.input(w.signVendor(abandoned, "release"), now, nil)))
	section("session abandoned by the vendor, strict policy", v.Claims, v.Refusals)

	w.policy += "profiles: [vendor-signed/v1]\ntime: {allow-unproven: true}\n"
	v = w.must(w.verify(w.input(w.releaseEntry(), now, nil)))
	section("release", v.Claims, v.Refusals)
	w.withdraw()
	v = w.must(w.verify(w.input(w.signVendor(w.withdrawn, "release"), now, nil)))
	section("withdrawal", v.Claims, v.Refusals)
	v = w.must(w.verify(w.input(w.vendorKey("release"), now, nil)))
	section("vendor key", v.Claims, v.Refusals)

	quote, err := w.platform.Quote(tdxsim.QuoteOptions{Version: 5, Body: 3, MRConfigID: [48]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	q, err := tdx.ParseQuote(quote)
	if err != nil {
		t.Fatal(err)
	}
	a, err := w.verifier.Appraise(q, w.set, now, verifier.StrictPolicy())
	if err != nil {
		t.Fatal(err)
	}
	section("bare quote, strict policy", a.Claims, a.Refusals)

	file := filepath.Join("..", "testdata", "verifier", "claims.golden")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for i := range gotLines {
			if i >= len(wantLines) || gotLines[i] != wantLines[i] {
				t.Fatalf("%s, line %d (run with -update if the change is meant):\n got %q\nwant %q", file, i+1, gotLines[i], wantLines[min(i, len(wantLines)-1)])
			}
		}
		t.Fatalf("%s has %d lines, want %d", file, len(wantLines), len(gotLines))
	}
}

// TestNotGenuine changes one thing each in a genuine record.
func TestNotGenuine(t *testing.T) {
	for _, tt := range []struct {
		name   string
		reason string
		entry  func(w *world) verifier.Input
	}{
		{"quote of another statement", verifier.ReasonBinding, func(w *world) verifier.Input {
			w.finalQuote.ReportData = w.startEntry().ReportData()
			return w.finalInput()
		}},
		{"REPORTDATA differs in its last bit", verifier.ReasonBinding, func(w *world) verifier.Input {
			w.finalQuote.ReportData = w.finalEntry().ReportData()
			w.finalQuote.ReportData[63] ^= 1
			return w.finalInput()
		}},
		{"signature flipped", verifier.ReasonEnvelope, func(w *world) verifier.Input {
			in := w.finalInput()
			e, err := record.NewEntry(in.Entry.Profile, in.Entry.Payload, in.Entry.KeyID, flip(in.Entry.Signature, 10), in.Entry.Evidence...)
			if err != nil {
				w.t.Fatal(err)
			}
			in.Entry = e
			return in
		}},
		{"statement changed under the signature", verifier.ReasonEnvelope, func(w *world) verifier.Input {
			in := w.finalInput()
			payload := bytes.Replace(in.Entry.Payload, []byte(`"workspaceErased":true`), []byte(`"workspaceErased":false`), 1)
			e, err := record.NewEntry(in.Entry.Profile, payload, in.Entry.KeyID, in.Entry.Signature, in.Entry.Evidence...)
			if err != nil {
				w.t.Fatal(err)
			}
			in.Entry = e
			return in
		}},
		{"quote flipped", "signature", func(w *world) verifier.Input {
			in := w.finalInput()
			const mrtd = 48 + 136
			e, err := record.NewEntry(in.Entry.Profile, in.Entry.Payload, in.Entry.KeyID, in.Entry.Signature, record.NewQuoteEvidence(flip(in.Entry.Quote(), mrtd)))
			if err != nil {
				w.t.Fatal(err)
			}
			in.Entry = e
			return in
		}},
		{"quote padded", "parse", func(w *world) verifier.Input {
			in := w.finalInput()
			e, err := record.NewEntry(in.Entry.Profile, in.Entry.Payload, in.Entry.KeyID, in.Entry.Signature, record.NewQuoteEvidence(append(bytes.Clone(in.Entry.Quote()), 0)))
			if err != nil {
				w.t.Fatal(err)
			}
			in.Entry = e
			return in
		}},
		{"collateral expired", "expired", func(w *world) verifier.Input {
			w.at = epoch.AddDate(0, 0, 31)
			return w.finalInput()
		}},
		{"collateral from the future", "not-yet-valid", func(w *world) verifier.Input {
			w.at = epoch.Add(-time.Second)
			return w.finalInput()
		}},
		{"no collateral", "collateral", func(w *world) verifier.Input {
			in := w.finalInput()
			in.Collateral = nil
			return in
		}},
		{"collateral of other platforms", "fmspc", func(w *world) verifier.Input {
			w.finalSet = w.collateral(tdxsim.CollateralOptions{FMSPC: "00906ed50000"})
			return w.finalInput()
		}},
		{"platform revoked", "revoked", func(w *world) verifier.Input {
			levels := tdxsim.DefaultLevels()
			levels[0].Status = "Revoked"
			w.finalSet = w.collateral(tdxsim.CollateralOptions{Levels: levels})
			return w.finalInput()
		}},
		{"release under a key that nobody knows", verifier.ReasonKey, func(w *world) verifier.Input {
			w.releaseKey, w.loggedKeys = "another", nil
			return w.input(w.releaseEntry(), w.at, nil)
		}},
		{"release under another vendor's key", verifier.ReasonKey, func(w *world) verifier.Input {
			w.releaseKey, w.loggedKeys = "another", nil
			in := w.input(w.releaseEntry(), w.at, nil)
			in.VendorKeys = []*record.Entry{w.signVendor(&record.Statement{Vendor: "https://other.example",
				VendorKey: &record.VendorKey{Key: record.NewSessionKey(public("another"))}}, "another")}
			return in
		}},
		{"release under a key whose possession isn't proven", verifier.ReasonKey, func(w *world) verifier.Input {
			w.releaseKey, w.loggedKeys = "another", nil
			in := w.input(w.releaseEntry(), w.at, nil)
			k := w.vendorKey("another")
			k, err := record.NewEntry(k.Profile, k.Payload, k.KeyID, flip(k.Signature, 0))
			if err != nil {
				w.t.Fatal(err)
			}
			in.VendorKeys = []*record.Entry{k}
			return in
		}},
		{"release signed by another", verifier.ReasonEnvelope, func(w *world) verifier.Input {
			in := w.input(w.releaseEntry(), w.at, nil)
			e, err := record.NewEntry(in.Entry.Profile, in.Entry.Payload, in.Entry.KeyID, flip(in.Entry.Signature, 0))
			if err != nil {
				w.t.Fatal(err)
			}
			in.Entry = e
			return in
		}},
		{"vendor key signed by another", verifier.ReasonEnvelope, func(w *world) verifier.Input {
			in := w.input(w.vendorKey("release"), w.at, nil)
			e, err := record.NewEntry(in.Entry.Profile, in.Entry.Payload, in.Entry.KeyID, flip(in.Entry.Signature, 0))
			if err != nil {
				w.t.Fatal(err)
			}
			in.Entry = e
			return in
		}},
		{"import judged at another time than collected", verifier.ReasonStatement, func(w *world) verifier.Input {
			return w.input(w.imported(tdxsim.QuoteOptions{}, nil), epoch.Add(2*time.Hour), nil)
		}},
		{"import under a key that nobody knows", verifier.ReasonKey, func(w *world) verifier.Input {
			w.releaseKey, w.loggedKeys = "another", nil
			return w.input(w.imported(tdxsim.QuoteOptions{}, nil), epoch.Add(time.Hour), nil)
		}},
		{"entry that wasn't parsed", verifier.ReasonStatement, func(w *world) verifier.Input {
			return verifier.Input{Entry: new(record.Entry), Collateral: w.set, At: w.at}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			v, err := w.verify(tt.entry(w))
			if v != nil || reason(err) != tt.reason {
				t.Fatalf("got %+v, %v; want reason %q", v, err, tt.reason)
			}
			if tdx := new(tdx.Error); errors.As(err, &tdx) && string(tdx.Reason) != tt.reason {
				t.Errorf("wraps reason %q", tdx.Reason)
			}
		})
	}
}

// TestRefusals changes one thing each in a good record or policy, and expects
// one refusal.
func TestRefusals(t *testing.T) {
	type edit func(w *world)
	attributes := func(a uint64) edit {
		return func(w *world) { w.finalQuote.TDAttributes = &a }
	}
	const good = tdxsim.AttrSEPTVEDisable
	levels := func(status string, advisories ...string) edit {
		return func(w *world) {
			l := tdxsim.DefaultLevels()
			l[0].Status, l[0].Advisories = status, advisories
			w.finalSet = w.collateral(tdxsim.CollateralOptions{Levels: l})
		}
	}
	body3 := func(w *world) { w.finalQuote.Version, w.finalQuote.Body = 5, 3 }
	serviceTD := func(w *world) { body3(w); w.finalQuote.MRServiceTD = [48]byte{7} }
	serviceTDHex := "07" + strings.Repeat("00", 47)
	xfam := func(w *world) { w.finalQuote.XFAM = new(tdxsim.DefaultXFAM | 1<<10) }
	platformsPolicy := func(w *world) { w.policy += "platforms:\n  - " + fmt.Sprintf("%x", w.platform.PPID()) + "\n" }
	execution := func(class string) edit {
		return func(w *world) { w.final.Session.Models[0].Execution = class }
	}
	policy := func(s string) edit { return func(w *world) { w.policy += s } }
	do := func(edits ...edit) edit {
		return func(w *world) {
			for _, e := range edits {
				e(w)
			}
		}
	}
	for _, tt := range []struct {
		code  verifier.Code // empty: allowed
		name  string
		edit  edit
		claim string // that fails
	}{
		{verifier.CodeNoMeasurement, "empty policy", func(w *world) { w.policy = "" }, "code"},
		{verifier.CodeMeasurement, "other MRTD than released", func(w *world) { w.release.Release.Measurements[0].MRTD[0]++; w.policy += "" }, ""},
		{"", "pinned", func(w *world) { w.policy = pinPolicy(); w.withoutReleases = true }, ""},
		{verifier.CodeMeasurement, "pinned, other RTMR1", func(w *world) {
			w.policy, w.withoutReleases = pinPolicy(), true
			w.finalQuote.RTMR = [4][48]byte{1: {1}}
		}, "code"},
		{"", "pinned, other RTMR3, which is open", func(w *world) {
			w.policy, w.withoutReleases = pinPolicy(), true
			w.finalQuote.RTMR = [4][48]byte{{}, tdxsim.Measurement("rtmr1"), tdxsim.Measurement("rtmr2"), {9}}
		}, ""},
		{verifier.CodeMeasurement, "pinned, MRCONFIGID set", func(w *world) {
			w.policy, w.withoutReleases = pinPolicy()+"    mrconfigid: "+strings.Repeat("00", 48)+"\n", true
			w.finalQuote.MRConfigID = [48]byte{1}
		}, "code"},
		{verifier.CodeMeasurement, "release not given", func(w *world) { w.withoutReleases = true }, "code"},
		{verifier.CodeMeasurement, "release key not trusted", func(w *world) { w.policy = releasePolicy("another") }, "code"},
		{verifier.CodeMeasurement, "release not valid yet", func(w *world) { w.release.Release.NotBefore = now.Add(time.Second) }, ""},
		{"", "release valid since now", func(w *world) { w.release.Release.NotBefore = now }, ""},
		{verifier.CodeMeasurement, "release not valid any more", func(w *world) { w.release.Release.NotAfter = &now }, ""},
		{verifier.CodeMeasurement, "release of another image", func(w *world) { w.release.Subjects[0].SHA256 = digest("other") }, "code"},
		{verifier.CodeMeasurement, "release of another vendor", func(w *world) {
			w.release.Vendor = "https://other.example"
			w.policy += fmt.Sprintf("  - vendor: https://other.example\n    keys: [%s]\n", spki64("release"))
		}, "code"},
		{verifier.CodeMeasurement, "release withdrawn", func(w *world) { w.withdraw() }, ""},
		{"", "another release withdrawn", func(w *world) { w.withdraw(); w.withdrawn.Withdrawn.Statement[0]++ }, ""},
		{verifier.CodeMeasurement, "release withdrawn by a key that isn't known", func(w *world) { w.withdraw(); w.withdrawnKey = "another" }, ""},
		{"", "forged withdrawal", func(w *world) {
			w.withdraw()
			w.withdrawn.Vendor = "https://other.example"
		}, ""},
		{verifier.CodeRelease, "pinned, but release has other measurements", func(w *world) {
			w.policy = pinPolicy()
			w.release.Release.Measurements[0].MRTD[0]++
		}, "release"},
		{verifier.CodeRelease, "pinned, but release withdrawn", func(w *world) { w.policy = pinPolicy(); w.withdraw() }, "release"},
		{"", "pinned, release by a key that isn't trusted", func(w *world) { w.policy = pinPolicy() }, ""},
		{"", "pinned, release by a key that isn't known", func(w *world) { w.policy = pinPolicy(); w.loggedKeys = nil }, ""},

		{verifier.CodeTCBStatus, "OutOfDate", levels("OutOfDate"), "tcb"},
		{"", "OutOfDate accepted", do(levels("OutOfDate"), policy("tcb: {statuses: [UpToDate, OutOfDate]}\n")), ""},
		{verifier.CodeTCBStatus, "UpToDate not accepted", policy("tcb: {statuses: [OutOfDate]}\n"), "tcb"},
		{verifier.CodeAdvisory, "advisory", levels("UpToDate", "INTEL-SA-1"), "advisories"},
		{"", "advisory tolerated", do(levels("UpToDate", "INTEL-SA-1"), policy("tcb: {advisories: [{id: INTEL-SA-1, until: 2026-11-24T07:03:01Z}]}\n")), ""},
		{verifier.CodeAdvisory, "advisory not tolerated any more", do(levels("UpToDate", "INTEL-SA-1"), policy("tcb: {advisories: [{id: INTEL-SA-1, until: 2026-11-24T07:03:00Z}]}\n")), "advisories"},
		{verifier.CodeAdvisory, "another advisory tolerated", do(levels("UpToDate", "INTEL-SA-1"), policy("tcb: {advisories: [{id: INTEL-SA-2, until: 2027-11-24T07:03:00Z}]}\n")), "advisories"},
		{verifier.CodeCollateralAge, "collateral too old", policy("tcb: {collateral-max-age: 7h}\n"), "tcb.collateral"},
		{"", "collateral young enough", policy("tcb: {collateral-max-age: 7h3m}\n"), ""},

		{verifier.CodeDebug, "debug", attributes(good | tdxsim.AttrDebug), "td.debug"},
		{"", "debug allowed", do(attributes(good|tdxsim.AttrDebug), policy("td: {allow-debug: true}\n")), ""},
		{verifier.CodeMigratable, "migratable", attributes(good | tdxsim.AttrMigratable), "td.migratable"},
		{"", "migratable allowed", do(attributes(good|tdxsim.AttrMigratable), policy("td: {allow-migratable: true}\n")), ""},
		{verifier.CodeSEPTVE, "SEPT_VE_DISABLE not set", attributes(0), "td.sept-ve"},
		{"", "SEPT_VE_DISABLE not set, allowed", do(attributes(0), policy("td: {allow-sept-ve: true}\n")), ""},
		{verifier.CodePerfMon, "PERFMON", attributes(good | tdxsim.AttrPerfMon), "td.attributes"},
		{"", "PERFMON allowed", do(attributes(good|tdxsim.AttrPerfMon), policy("td: {allow-perfmon: true}\n")), ""},
		{verifier.CodeReserved, "reserved bit", attributes(good | 1<<40), "td.attributes"},
		{"", "reserved bit allowed", do(attributes(good|1<<40), policy("td: {allow-reserved-attributes: true}\n")), ""},
		{verifier.CodeXFAM, "XFAM", xfam, "td.xfam"},
		{"", "XFAM allowed", do(xfam, policy("td: {xfam: 00000000000fffff}\n")), ""},
		{verifier.CodeXFAM, "XFAM restricted", policy("td: {xfam: 00000000000000e7}\n"), "td.xfam"},
		{"", "no service TD", do(body3, policy("td: {require-known-service-td: true}\n")), ""},
		{verifier.CodeServiceTD, "service TD", serviceTD, "td.service-td"},
		{"", "service TD named", do(serviceTD, policy("td: {service-tds: ["+serviceTDHex+"]}\n")), ""},
		{verifier.CodeServiceTD, "service TD unknown", policy("td: {require-known-service-td: true}\n"), "td.service-td"},
		{"", "platform named", platformsPolicy, ""},
		{verifier.CodePlatform, "platform not named", policy("platforms: [00000000000000000000000000000000]\n"), "platform.id"},
		{verifier.CodeProfile, "profile", policy("profiles: [unbound/v1]\n"), "binding"},

		{verifier.CodeTimeUnproven, "no time", func(w *world) { w.finalInterval = nil }, "time.proven"},
		{verifier.CodeTimeUnproven, "no lower bound", func(w *world) { w.finalInterval.NotBefore = time.Time{} }, "time.proven"},
		{verifier.CodeTimeUnproven, "no upper bound", func(w *world) { w.finalInterval.NotAfter = time.Time{} }, "time.proven"},
		{"", "no time, allowed", func(w *world) { w.finalInterval = nil; w.policy += "time: {allow-unproven: true}\n" }, ""},
		{verifier.CodeTimeWidth, "more than an hour", func(w *world) { w.finalInterval.NotBefore = now.Add(-59*time.Minute - time.Second) }, "time.proven"},
		{"", "an hour", func(w *world) { w.finalInterval.NotBefore = now.Add(-59 * time.Minute) }, ""},
		{verifier.CodeTimeWidth, "more than a minute", policy("time: {max-width: 1m}\n"), "time.proven"},
		{"", "two minutes", policy("time: {max-width: 2m}\n"), ""},
		{verifier.CodeTimeWidth, "backwards", func(w *world) {
			w.finalInterval.NotBefore = now.Add(30 * time.Second)
			w.finalInterval.NotAfter = now.Add(-31 * time.Second)
		}, "time.proven"},
		{verifier.CodeClock, "finished later than proven", func(w *world) { w.final.Session.FinishedOn = now.Add(2*time.Minute + time.Second) }, "time.finished"},
		{"", "finished a minute later than proven", func(w *world) { w.final.Session.FinishedOn = now.Add(2 * time.Minute) }, ""},
		{verifier.CodeClock, "finished earlier than proven", func(w *world) { w.final.Session.FinishedOn = now.Add(-2*time.Minute - time.Second) }, "time.finished"},

		{verifier.CodeModelExecution, "policy-zdr", execution(record.ExecutionPolicyZDR), "model.0"},
		{"", "policy-zdr accepted", do(execution(record.ExecutionPolicyZDR), policy("models: {execution: [tee, policy-zdr]}\n")), ""},
		{verifier.CodeModelExecution, "unattested", do(execution(record.ExecutionUnattested), policy("models: {execution: [tee, policy-zdr]}\n")), "model.0"},
		{"", "no models", func(w *world) { w.final.Session.Models = nil }, ""},
		{verifier.CodeRetention, "retention by policy", func(w *world) { w.final.Session.Retention.Enforcement = record.EnforcementPolicy }, "retention"},
		{"", "retention by policy accepted", func(w *world) {
			w.final.Session.Retention.Enforcement = record.EnforcementPolicy
			w.policy += "retention: {enforcement: [policy]}\n"
		}, ""},
		{verifier.CodeStorage, "persistent storage", func(w *world) { w.final.Session.Environment.PersistentStorage = record.StoragePersistent }, "environment.storage"},
		{"", "persistent storage allowed", func(w *world) {
			w.final.Session.Environment.PersistentStorage = record.StoragePersistent
			w.policy += "retention: {allow-persistent-storage: true}\n"
		}, ""},
		{"", "ephemeral storage", func(w *world) { w.final.Session.Environment.PersistentStorage = record.StorageEncryptedEphemeral }, ""},
		{verifier.CodeErasure, "not erased", func(w *world) { w.final.Session.WorkspaceErased = false }, "teardown"},
		{"", "not erased, allowed", func(w *world) {
			w.final.Session.WorkspaceErased = false
			w.policy += "retention: {allow-unerased: true}\n"
		}, ""},
		{verifier.CodeAccelerator, "GPU nonce of another key", func(w *world) {
			w.final.Session.Environment.Accelerators = []record.Accelerator{{Type: record.AcceleratorNVIDIA, Count: 1, Binding: record.BindingNonceChained,
				Nonce: record.GPUNonce(record.SPKI(public("other")), freshness(115).Note), Evidence: digest("gpu")}}
		}, "accelerator.0"},
		{"", "GPU nonce", func(w *world) {
			w.final.Session.Environment.Accelerators = []record.Accelerator{{Type: record.AcceleratorNVIDIA, Count: 1, Binding: record.BindingNonceChained,
				Nonce: record.GPUNonce(record.SPKI(public("session")), freshness(115).Note), Evidence: digest("gpu")}}
		}, ""},
	} {
		t.Run(string(tt.code)+"/"+tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.edit(w)
			v := w.verifyFinal()
			var want []verifier.Code
			if tt.code != "" {
				want = []verifier.Code{tt.code}
			}
			got := codes(v.Refusals)
			if tt.code == verifier.CodeMeasurement && slices.Contains(got, verifier.CodeRelease) {
				// The release that the statement names is the only one.
				want = append(want, verifier.CodeRelease)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("refusals %v, want %v", v.Refusals, want)
			}
			if tt.claim != "" {
				if c := claim(t, v.Claims, tt.claim); c.Status != verifier.StatusFailed {
					t.Errorf("claim %+v, want it failed", c)
				}
			}
			checkVerdict(t, v)
		})
	}
}

// checkVerdict checks what every verdict keeps.
func checkVerdict(t *testing.T, v *verifier.Verdict) {
	t.Helper()
	seen := make(map[string]bool)
	failed := 0
	for _, c := range v.Claims {
		if seen[c.ID] {
			t.Errorf("two claims %q", c.ID)
		}
		seen[c.ID] = true
		if c.ID == "" || c.Label == "" || c.Value == "" || strings.ContainsAny(c.Value+c.Label+c.Note, "\n\r") {
			t.Errorf("claim %+v", c)
		}
		if c.Status == verifier.StatusFailed {
			failed++
		}
		if c.Source == verifier.SourceMeasuredCode && !v.Identity.Known() {
			t.Errorf("claim %+v, though the code isn't known", c)
		}
		if c.Source == verifier.SourceHardware && v.Quote == nil {
			t.Errorf("claim %+v, though there is no quote", c)
		}
	}
	if (failed > 0) != (len(v.Refusals) > 0) {
		t.Errorf("%d failed claims, but %d refusals: %v", failed, len(v.Refusals), v.Refusals)
	}
	for _, r := range v.Refusals {
		if r.Code == "" || r.Field == "" || r.Message == "" {
			t.Errorf("refusal %+v", r)
		}
	}
	if v.Quote != nil {
		for _, id := range []string{"tee", "tcb", "platform.physical", "platform.location", "memory-encryption"} {
			claim(t, v.Claims, id)
		}
	}
}

// TestSources checks who vouches for what the statement says.
func TestSources(t *testing.T) {
	// said are the claims that known code is a source of.
	said := []string{"session.id", "end", "environment.storage", "environment.egress-policy", "retention", "teardown", "time.finished"}
	for _, tt := range []struct {
		name string
		want verifier.Source
		edit func(w *world)
	}{
		{"trusted release", verifier.SourceMeasuredCode, func(w *world) {}},
		{"pinned measurement", verifier.SourceMeasuredCode, func(w *world) { w.policy = pinPolicy() }},
		{"no policy", verifier.SourceVendor, func(w *world) { w.policy = "" }},
		{"measurement unknown", verifier.SourceVendor, func(w *world) {
			w.policy = pinPolicy()
			w.finalQuote.MRTD = [48]byte{1}
		}},
		{"release key not trusted", verifier.SourceVendor, func(w *world) { w.policy = releasePolicy("another") }},
		{"release withdrawn", verifier.SourceVendor, func(w *world) { w.withdraw() }},
		{"release not logged", verifier.SourceVendor, func(w *world) { w.withoutReleases = true }},
		{"release not valid any more", verifier.SourceVendor, func(w *world) { w.release.Release.NotAfter = &now }},
		{"release of other measurements", verifier.SourceVendor, func(w *world) { w.finalQuote.MRTD = [48]byte{1} }},
		{"debug TD", verifier.SourceVendor, func(w *world) {
			w.finalQuote.TDAttributes = new(tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug)
		}},
		{"debug TD, allowed", verifier.SourceVendor, func(w *world) {
			w.finalQuote.TDAttributes = new(tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug)
			w.policy += "td: {allow-debug: true}\n"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.edit(w)
			v := w.verifyFinal()
			for _, id := range said {
				if c := claim(t, v.Claims, id); c.Source != tt.want {
					t.Errorf("claim %+v, want source %s", c, tt.want)
				}
			}
			// Whatever the code is, these are not its to say.
			for id, want := range map[string]verifier.Source{
				"tcb": verifier.SourceVerifier, "binding": verifier.SourceVerifier, "td.debug": verifier.SourceHardware,
				"memory-encryption": verifier.SourceHardware, "vendor": verifier.SourceVendor, "session.tenant": verifier.SourceVendor,
				"model.0": verifier.SourceVendor, "platform.physical": verifier.SourceUnknown, "platform.location": verifier.SourceUnknown,
				"measurement.mrtd": verifier.SourceHardware,
			} {
				if c := claim(t, v.Claims, id); c.Source != want {
					t.Errorf("claim %+v, want source %s", c, want)
				}
			}
			wantValue := "the measured code reports erasure"
			if tt.want == verifier.SourceVendor {
				wantValue = "the vendor reports erasure"
			}
			if c := claim(t, v.Claims, "teardown"); c.Value != wantValue || c.Status != verifier.StatusAsserted {
				t.Errorf("claim %+v, want it asserted, with value %q", c, wantValue)
			}
			checkVerdict(t, v)
		})
	}
}

func TestSourceOfActions(t *testing.T) {
	for _, tt := range []struct {
		name                 string
		edit                 func(w *world)
		actions, completness verifier.Source
	}{
		{"agent measured", func(w *world) {}, verifier.SourceMeasuredCode, verifier.SourceMeasuredCode},
		{"agent measured by a release beside the pinned set", func(w *world) { w.policy += pinPolicy() }, verifier.SourceMeasuredCode, verifier.SourceMeasuredCode},
		{"agent not measured", func(w *world) { w.release.Release.AgentMeasured = false }, verifier.SourceVendor, verifier.SourceUnknown},
		{"release key not trusted", func(w *world) { w.policy = pinPolicy() }, verifier.SourceVendor, verifier.SourceUnknown},
		{"code unknown", func(w *world) { w.policy = releasePolicy("another") }, verifier.SourceVendor, verifier.SourceUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.edit(w)
			v := w.verifyFinal()
			if c := claim(t, v.Claims, "actions"); c.Source != tt.actions {
				t.Errorf("claim %+v, want source %s", c, tt.actions)
			}
			if c := claim(t, v.Claims, "actions.completeness"); c.Source != tt.completness || c.Status == verifier.StatusHolds {
				t.Errorf("claim %+v, want source %s, and not that it holds", c, tt.completness)
			}
		})
	}
}

// A promise is the vendor's, whoever repeats it.
func TestRetentionByPolicyIsTheVendors(t *testing.T) {
	w := newWorld(t)
	w.final.Session.Retention.Enforcement = record.EnforcementPolicy
	w.policy += "retention: {enforcement: [policy]}\n"
	if c := claim(t, w.verifyFinal().Claims, "retention"); c.Source != verifier.SourceVendor {
		t.Errorf("claim %+v, want source vendor", c)
	}
}

func TestRelease(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(w *world)
		status verifier.ClaimStatus
		source verifier.Source
	}{
		{"trusted", func(w *world) {}, verifier.StatusHolds, verifier.SourceVerifier},
		{"consistent", func(w *world) { w.policy = pinPolicy() }, verifier.StatusHolds, verifier.SourceVerifier},
		{"key unknown", func(w *world) { w.policy = pinPolicy(); w.loggedKeys = nil }, verifier.StatusUnknown, verifier.SourceMeasuredCode},
		{"not given", func(w *world) { w.policy = pinPolicy(); w.withoutReleases = true }, verifier.StatusUnknown, verifier.SourceMeasuredCode},
		{"withdrawn", func(w *world) { w.withdraw() }, verifier.StatusFailed, verifier.SourceVerifier},
		{"second set of measurements fits", func(w *world) {
			r := w.release.Release
			other := r.Measurements[0]
			other.MRTD[0]++
			r.Measurements = []record.Measurement{other, r.Measurements[0]}
		}, verifier.StatusHolds, verifier.SourceVerifier},
		{"RTMR3 constrained", func(w *world) { w.release.Release.Measurements[0].RTMR[3] = new([48]byte) }, verifier.StatusHolds, verifier.SourceVerifier},
		{"RTMR3 differs", func(w *world) { w.release.Release.Measurements[0].RTMR[3] = &[48]byte{1} }, verifier.StatusFailed, verifier.SourceVerifier},
		{"MRCONFIGID differs", func(w *world) { w.release.Release.Measurements[0].MRConfigID = &[48]byte{1} }, verifier.StatusFailed, verifier.SourceVerifier},
		{"MROWNER differs", func(w *world) { w.release.Release.Measurements[0].MROwner = &[48]byte{1} }, verifier.StatusFailed, verifier.SourceVerifier},
		{"MROWNERCONFIG differs", func(w *world) { w.release.Release.Measurements[0].MROwnerConfig = &[48]byte{1} }, verifier.StatusFailed, verifier.SourceVerifier},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.edit(w)
			v := w.verifyFinal()
			if c := claim(t, v.Claims, "release"); c.Status != tt.status || c.Source != tt.source {
				t.Errorf("claim %+v, want %s by %s", c, tt.status, tt.source)
			}
		})
	}
}

// A release whose signature was changed counts for nothing, and isn't held
// against others.
func TestForgedRelease(t *testing.T) {
	w := newWorld(t)
	in := w.finalInput()
	forged, err := record.NewEntry(record.ProfileVendorSigned, in.Releases[0].Payload, in.Releases[0].KeyID, flip(in.Releases[0].Signature, 3))
	if err != nil {
		t.Fatal(err)
	}
	good := in.Releases[0]
	in.Releases = []*record.Entry{forged}
	if v := w.must(w.verify(in)); v.Identity.Known() || v.Allowed() {
		t.Errorf("identity %+v, refusals %v", v.Identity, v.Refusals)
	}
	in.Releases = []*record.Entry{forged, good}
	if v := w.must(w.verify(in)); !v.Identity.Known() || !v.Allowed() {
		t.Errorf("identity %+v, refusals %v", v.Identity, v.Refusals)
	}
	// Nor does a forged withdrawal.
	w.withdraw()
	wd := w.signVendor(w.withdrawn, "release")
	if wd, err = record.NewEntry(wd.Profile, wd.Payload, wd.KeyID, flip(wd.Signature, 3)); err != nil {
		t.Fatal(err)
	}
	in.Withdrawn = []*record.Entry{wd}
	if v := w.must(w.verify(in)); !v.Allowed() {
		t.Errorf("forged withdrawal: %v", v.Refusals)
	}
}

// TestWithdrawnBeside: a vendor that withdraws a release, and logs the image again, can't make the withdrawal go away.
func TestWithdrawnBeside(t *testing.T) {
	for _, policy := range []string{releasePolicy("release"), pinPolicy()} {
		w := newWorld(t)
		w.policy = policy
		w.withdraw()
		in := w.finalInput()
		w.release.Release.Version = "2026.11.4"
		in.Releases = append(in.Releases, w.releaseEntry())
		v := w.must(w.verify(in))
		if c := claim(t, v.Claims, "release"); c.Status != verifier.StatusHolds || !strings.Contains(c.Note, "was withdrawn") {
			t.Errorf("claim %+v, want it to mention the withdrawal", c)
		}
	}
}

func TestVendorSigned(t *testing.T) {
	const open = "profiles: [vendor-signed/v1, unbound/v1]\ntime: {allow-unproven: true}\n"
	for _, tt := range []struct {
		name  string
		want  []verifier.Code
		edit  func(w *world)
		entry func(w *world) *record.Entry
	}{
		{"release", nil, func(w *world) { w.policy += open }, (*world).releaseEntry},
		{"release, strict policy", []verifier.Code{verifier.CodeProfile, verifier.CodeTimeUnproven}, func(w *world) {}, (*world).releaseEntry},
		{"release, key not trusted", []verifier.Code{verifier.CodeReleaseKey}, func(w *world) { w.policy = releasePolicy("another") + open }, (*world).releaseEntry},
		{"release, withdrawn", []verifier.Code{verifier.CodeRelease}, func(w *world) { w.policy += open; w.withdraw() }, (*world).releaseEntry},
		{"release, another one withdrawn", nil, func(w *world) { w.policy += open; w.withdraw(); w.withdrawn.Withdrawn.Statement[0]++ }, (*world).releaseEntry},
		{"import", []verifier.Code{verifier.CodeMeasurement}, func(w *world) { w.policy += open }, func(w *world) *record.Entry { return w.imported(tdxsim.QuoteOptions{}, nil) }},
		{"import, measurement pinned", nil, func(w *world) { w.policy += open + pinPolicy() }, func(w *world) *record.Entry { return w.imported(tdxsim.QuoteOptions{}, nil) }},
		{"import, key not trusted", []verifier.Code{verifier.CodeReleaseKey}, func(w *world) { w.policy = pinPolicy() + open }, func(w *world) *record.Entry { return w.imported(tdxsim.QuoteOptions{}, nil) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.edit(w)
			v := w.must(w.verify(w.input(tt.entry(w), epoch.Add(time.Hour), nil)))
			if got := codes(v.Refusals); !slices.Equal(got, tt.want) {
				t.Errorf("refusals %v, want %v", v.Refusals, tt.want)
			}
			for _, c := range v.Claims {
				if c.Source == verifier.SourceMeasuredCode {
					t.Errorf("claim %+v, though the vendor says it", c)
				}
			}
			checkVerdict(t, v)
		})
	}
}

// TestMadeUpRoot: nobody may take a demonstration for the real thing.
func TestMadeUpRoot(t *testing.T) {
	c := claim(t, newWorld(t).verifyFinal().Claims, "tee")
	if !strings.Contains(c.Value, "made up") || !strings.Contains(c.Note, "isn't Intel's") {
		t.Errorf("claim %+v, want it to say that the root isn't Intel's", c)
	}
}
