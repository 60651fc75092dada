package report

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
	"golang.org/x/net/html"
)

// firstScreen returns the text of the page's first section.
func firstScreen(t testing.TB, page string) string {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Type == html.ElementNode && n.Data == "section" {
			return strings.Join(strings.Fields(textIn(n)), " ")
		}
	}
	t.Fatal("the page has no section")
	return ""
}

func textIn(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data + " ")
		}
	}
	return b.String()
}

// For each claim that a good record makes, a record that breaks it gives a report that says so in its first section. The
// table is complete: a new claim needs a row, or a reason not to have one.
func TestFaults(t *testing.T) {
	t.Parallel()
	broken := make(map[string]bool)
	attributes := func(a uint64) func(*bundletest.Draft) {
		return func(d *bundletest.Draft) { d.Quote.TDAttributes = &a }
	}
	session := func(edit func(*record.Session)) bundletest.Steps {
		return bundletest.Steps{Final: func(d *bundletest.Draft) { edit(d.Statement.Session) }}
	}
	good := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	goodFinding, err := bundle.Check(good.Bundle(), good.Options())
	if err != nil || !goodFinding.Allowed() {
		t.Fatal(err, "the record that is broken below isn't good")
	}
	goodScreen := firstScreen(t, htmlOf(t, reportOn(t, good.Bundle(), good.Options())))
	pcesvn := uint16(11)
	migratable := tdxsim.AttrSEPTVEDisable | 1<<29
	wider := uint64(tdxsim.DefaultXFAM | 1<<62)

	for _, tt := range []struct {
		claims string // ids
		steps  bundletest.Steps
		policy []string
		bundle func(*bundletest.Session, *bundle.Options) *bundle.Bundle
		want   []string // in the first section, and not in that of the good record
	}{
		{claims: "tee", bundle: func(s *bundletest.Session, o *bundle.Options) *bundle.Bundle { o.Root = nil; return s.Bundle() }, want: []string{"Not proven", "the data of the processor’s maker"}},
		{claims: "binding", steps: bundletest.Steps{Final: func(d *bundletest.Draft) { d.KeepReportData = true }}, want: []string{"Not proven", "REPORTDATA", "the hardware’s signature, or what it covers, does not check"}},
		{claims: "tcb advisories", steps: bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Platform = tdxsim.NewPKI([]byte("bundletest"), bundletest.Epoch.Add(-time.Hour)).NewPlatform(tdxsim.PlatformOptions{PCESVN: &pcesvn})
		}}, want: []string{"Refused", "TCB status was OutOfDate", "INTEL-SA-"}},
		{claims: "code", steps: bundletest.Steps{Final: func(d *bundletest.Draft) { d.Quote.MRTD = tdxsim.Measurement("other") }}, want: []string{"Refused", "The code isn't known", "Identity of the code: unknown", "The vendor reports erasure"}},
		{claims: "release", policy: []string{"measurements:", "  - name: the image", "    mrtd: \"" + hexed(mrtd(good)) + "\"", "    rtmr0: any", "    rtmr1: any", "    rtmr2: any", "    rtmr3: any"},
			bundle: func(s *bundletest.Session, o *bundle.Options) *bundle.Bundle {
				w := s.AddWithdrawal(s.Vendor, s.Release)
				return s.Bundle(w)
			}, want: []string{"Refused", "withdrawn"}},
		{claims: "td.debug memory-encryption", steps: bundletest.Steps{Final: attributes(debugTD)}, want: []string{"Refused", "debug TD", "Debug mode: on", "Memory encryption: readable by the host"}},
		{claims: "memory-encryption.session", steps: bundletest.Steps{Start: attributes(debugTD), Final: attributes(debugTD)}, want: []string{"Refused", "debug TD", "Memory encryption throughout the session: readable by the host"}},
		{claims: "td.migratable", steps: bundletest.Steps{Final: attributes(migratable), Start: attributes(migratable)}, want: []string{"Refused", "Migration to other machines: possible", "Memory encryption throughout the session: unknown"}},
		{claims: "td.sept-ve td.attributes", steps: bundletest.Steps{Final: attributes(0)}, want: []string{"Refused", "SEPT_VE_DISABLE isn't set"}},
		{claims: "td.attributes", steps: bundletest.Steps{Final: attributes(tdxsim.AttrSEPTVEDisable | 1<<63)}, want: []string{"Refused", "PERFMON"}},
		{claims: "td.xfam", steps: bundletest.Steps{Final: func(d *bundletest.Draft) { d.Quote.XFAM = &wider }}, want: []string{"Refused", "processor features that aren't allowed"}},
		{claims: "td.service-td", steps: bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Quote.Version, d.Quote.Body, d.Quote.MRServiceTD = 5, 3, tdxsim.Measurement("service")
		}}, want: []string{"Refused", "a service TD is bound to the TD"}},
		{claims: "platform.id", policy: []string{"platforms: [00000000000000000000000000000000]"}, want: []string{"Refused", "isn't one that the appraisal policy names"}},
		{claims: "tcb.collateral", policy: []string{"tcb: {collateral-max-age: 1m}"}, want: []string{"Refused", "by data of Intel that was"}},
		{claims: "time.proven", steps: bundletest.Steps{Between: func(s *bundletest.Session) { s.Tick(3 * time.Hour) }}, want: []string{"Refused", "3h1m5s wide"}},
		{claims: "freshness", steps: session(func(s *record.Session) { s.Freshness.Root[0]++ }), want: []string{"Not proven", "what the record says about when it was made does not fit"}},
		{claims: "time.started", steps: session(func(s *record.Session) { s.StartedOn = s.StartedOn.Add(time.Second) }), want: []string{"Refused", "session.startedOn differs"}},
		{claims: "time.finished", steps: session(func(s *record.Session) {
			s.FinishedOn = s.FinishedOn.Add(-70 * time.Minute)
			s.StartedOn = s.FinishedOn
		}), want: []string{"Refused", "contradicts the proven time", "Finished"}},
		{claims: "model.0", steps: session(func(s *record.Session) { s.Models[0].Execution, s.Models[0].ModelRun = record.ExecutionUnattested, nil }), want: []string{"Refused", "ran in class unattested", "Model: gateway/qwen3-coder-480b"}},
		{claims: "model.0", steps: bundletest.Steps{ModelRun: func(d *bundletest.Draft) { d.Statement.ModelRun.PeerChannel.SHA256[0]++ }}, want: []string{"Refused", "differ in channel"}},
		{claims: "environment.storage", steps: session(func(s *record.Session) { s.Environment.PersistentStorage = record.StoragePersistent }), want: []string{"Refused", "persistent storage"}},
		{claims: "retention", steps: session(func(s *record.Session) { s.Retention.Enforcement = record.EnforcementPolicy }), want: []string{"Refused", "retention is enforced by policy"}},
		{claims: "teardown", steps: session(func(s *record.Session) { s.WorkspaceErased = false }), want: []string{"Refused", "wasn't erased"}},
		{claims: "session.pair", steps: session(func(s *record.Session) { s.Tenant[0]++ }), want: []string{"Refused", "don't belong together"}},
		{claims: "session.pair", bundle: func(s *bundletest.Session, o *bundle.Options) *bundle.Bundle {
			return s.Log.Bundle(s.Final, s.Publish(s.Now), s.VendorKey, s.Release, s.Collateral, s.CoverModelRun, s.Final, s.CoverFinal)
		}, want: []string{"Refused", "the start of the session is missing", "Start and end belong together: no start"}},
		// What the log and its witnesses vouch for is no claim of the verifier, and is proven all the same.
		{bundle: func(s *bundletest.Session, o *bundle.Options) *bundle.Bundle {
			b := s.Bundle()
			b.Proofs[0].Hashes[0][0]++
			return b
		}, want: []string{"Not proven", "does not show that the record is in the log"}},
		{bundle: func(s *bundletest.Session, o *bundle.Options) *bundle.Bundle {
			b, note := s.Bundle(), s.Sign(s.Head(s.Size()), s.Now, 1)
			for _, p := range b.Proofs {
				p.Checkpoint = note
			}
			return b
		}, want: []string{"Not proven", "those of the witnesses whom your log policy asks for"}},
		{bundle: func(s *bundletest.Session, o *bundle.Options) *bundle.Bundle {
			b := s.Bundle()
			b.Consistency[s.CoverFinal][0][0]++
			return b
		}, want: []string{"Not proven", "the log has shown two histories"}},
		{steps: bundletest.Steps{Final: func(d *bundletest.Draft) { d.Admitted = d.Admitted.Add(-5 * time.Minute); d.Judged = d.Admitted }}, want: []string{"Refused", "admitted"}},
		{bundle: func(s *bundletest.Session, o *bundle.Options) *bundle.Bundle {
			second := s.AddFinal(s.Start, []uint64{s.ModelRun}, func(d *bundletest.Draft) { d.Statement.Session.EndReason = record.EndAborted })
			s.AddTime()
			return s.Bundle(second)
		}, want: []string{"Refused", "two ends"}},
	} {
		name := tt.claims
		if name == "" {
			name = tt.want[1]
		}
		t.Run(name, func(t *testing.T) {
			s := bundletest.NewSession(t, witnessed, tt.steps)
			o := s.Options(tt.policy...)
			var b *bundle.Bundle
			if tt.bundle != nil {
				b = tt.bundle(s, &o)
			} else {
				b = s.Bundle()
			}
			m := metaFor(t, s.Options(), good.Bundle()) // the file in the annex doesn't matter
			m.Root = o.Root
			if m.Root == nil {
				m.Root = s.Root()
			}
			f, err := bundle.Check(b, o)
			var r *Report
			if e := new(bundle.NotProven); errors.As(err, &e) {
				r = Unproven(e, m)
			} else if err != nil {
				t.Fatal(err)
			} else {
				if f.Allowed() {
					t.Fatal("the record is good")
				}
				r = Record(f, m)
			}
			screen := strings.ToLower(firstScreen(t, htmlOf(t, r)))
			for i, want := range tt.want {
				want = strings.ToLower(want)
				if !strings.Contains(screen, want) {
					t.Errorf("the first section doesn't say %q:\n%s", want, screen)
				}
				if i > 0 && strings.Contains(strings.ToLower(goodScreen), want) {
					t.Errorf("the first section of the good record says %q, too", want)
				}
			}
			if f == nil {
				return
			}
			// Whatever failed is there, by its label.
			for _, c := range f.Claims {
				if c.Status == verifier.StatusFailed && !strings.Contains(screen, strings.ToLower(c.Label)) {
					t.Errorf("claim %s failed, and the first section doesn't say so", c.ID)
				}
			}
		})
		for _, id := range strings.Fields(tt.claims) {
			broken[id] = true
		}
	}
	// Claims that nothing in a file can break: values that identify something, or that are asserted or unknown at best.
	free := []string{
		"session.id", "vendor", "session.kind", "session.tenant", "session.isolation", "session.start", "end", "actions", "actions.completeness",
		"environment.egress-policy", "environment.event-log", "platform.physical", "platform.location",
	}
	for _, c := range goodFinding.Claims {
		if !broken[c.ID] && !slices.Contains(free, c.ID) && !strings.HasPrefix(c.ID, "measurement.") {
			t.Errorf("no row breaks claim %s", c.ID)
		}
	}
}

func mrtd(s *bundletest.Session) []byte {
	m := s.Vendor.Quote().MRTD
	return m[:]
}
