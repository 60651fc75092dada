package bundle_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

var witnessed = bundletest.LogOptions{Witnesses: 3, Threshold: 2}

// goodSession is a session whose bundle is good, made once: tests copy the bundle, and don't touch the world.
var goodSession = sync.OnceValues(func() (*bundletest.Session, []byte) {
	s := bundletest.NewSession(quiet{}, witnessed, bundletest.Steps{})
	file, err := s.Bundle().Bytes()
	if err != nil {
		panic(err)
	}
	return s, file
})

// quiet is a testing.TB for what is made outside of a test: failures panic.
type quiet struct{ testing.TB }

func (quiet) Helper()                   {}
func (quiet) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (quiet) Fatalf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

// good returns the good session and a new copy of its bundle.
func good(tb testing.TB) (*bundletest.Session, *bundle.Bundle) {
	tb.Helper()
	s, file := goodSession()
	b, err := bundle.Parse(slices.Clone(file))
	if err != nil {
		tb.Fatal(err)
	}
	return s, b
}

// wantAllowed fails unless b is good.
func wantAllowed(tb testing.TB, b *bundle.Bundle, o bundle.Options) *bundle.Finding {
	tb.Helper()
	f, err := bundle.Check(b, o)
	if err != nil {
		tb.Fatal(err)
	}
	for _, r := range f.Refusals {
		tb.Errorf("refused: %v", r)
	}
	return f
}

// wantRule fails unless b is not proven, by a rule.
func wantRule(tb testing.TB, b *bundle.Bundle, o bundle.Options, rule bundle.Rule) error {
	tb.Helper()
	f, err := bundle.Check(b, o)
	var e *bundle.NotProven
	if !errors.As(err, &e) || e.Rule != rule {
		tb.Errorf("got %+v, %v; want a NotProven error by rule %q", f, err, rule)
	}
	return err
}

// wantRefusal fails unless b is proven, and refused with a code.
func wantRefusal(tb testing.TB, b *bundle.Bundle, o bundle.Options, code verifier.Code) *bundle.Finding {
	tb.Helper()
	f, err := bundle.Check(b, o)
	if err != nil {
		tb.Fatal(err)
	}
	if f.Allowed() || !slices.ContainsFunc(f.Refusals, func(r verifier.Refusal) bool { return r.Code == code }) {
		tb.Errorf("refusals %v, want one with code %q", f.Refusals, code)
	}
	return f
}

func claim(tb testing.TB, f *bundle.Finding, id string) verifier.Claim {
	tb.Helper()
	for _, c := range f.Claims {
		if c.ID == id {
			return c
		}
	}
	tb.Errorf("no claim %q", id)
	return verifier.Claim{}
}

func TestGood(t *testing.T) {
	s, b := good(t)
	f := wantAllowed(t, b, s.Options())

	if f.Subject.Index != s.Final || f.Subject.Role != bundle.RoleFinal || f.Log.Origin != s.Origin || f.Log.Size != s.Size() || f.Log.Quorum != "all-witnesses" {
		t.Errorf("finding about %+v in %+v", f.Subject, f.Log)
	}
	if len(f.Log.Keys) != 1 || len(f.Log.Cosignatures) != 3 {
		t.Errorf("%d log keys and %d cosignatures, want 1 and 3", len(f.Log.Keys), len(f.Log.Cosignatures))
	}
	roles := map[uint64]bundle.Role{
		s.VendorKey: bundle.RoleVendorKey, s.GatewayKey: bundle.RoleVendorKey, s.Release: bundle.RoleRelease, s.GatewayRelease: bundle.RoleRelease,
		s.Collateral: bundle.RoleCollateral, s.FreshStart: bundle.RoleTime, s.Start: bundle.RoleStart, s.CoverStart: bundle.RoleTime,
		s.ModelRun: bundle.RoleModelRun, s.CoverModelRun: bundle.RoleTime, s.Final: bundle.RoleFinal, s.CoverFinal: bundle.RoleTime,
	}
	for _, l := range f.Leaves {
		if l.Role != roles[l.Index] || l.Hash != record.LeafHash(s.Leaf(l.Index)) {
			t.Errorf("leaf %d is %q, want %q", l.Index, l.Role, roles[l.Index])
		}
		isRecord := l.Role == bundle.RoleStart || l.Role == bundle.RoleModelRun || l.Role == bundle.RoleFinal
		if isRecord != (l.Verdict != nil) || isRecord != (l.Interval != nil) {
			t.Errorf("leaf %d, %s: verdict %v, interval %v", l.Index, l.Role, l.Verdict, l.Interval)
		}
	}
	if len(f.Leaves) != len(roles) {
		t.Errorf("%d leaves, want %d", len(f.Leaves), len(roles))
	}
	if *f.Subject.Collateral != s.Collateral || *f.Subject.Freshness != s.CoverModelRun || *f.Subject.Covering != s.CoverFinal || *f.Subject.Statement != s.Statement(s.Final) {
		t.Errorf("subject %+v", f.Subject)
	}
	// Freshness was signed 76 s after the epoch, the covering checkpoint 141 s after it, all witnesses at once.
	want := verifier.Interval{NotBefore: bundletest.Epoch.Add(76 * time.Second), NotAfter: bundletest.Epoch.Add(141 * time.Second)}
	if *f.Interval != want || *f.Subject.Interval != want {
		t.Errorf("interval %v, want %v", f.Interval, want)
	}
	if c := claim(t, f, "tee"); c.Source != verifier.SourceHardware {
		t.Errorf("claim %+v", c)
	}
	if c := claim(t, f, "model.0"); c.Source != verifier.SourceVerifier || c.Status != verifier.StatusHolds {
		t.Errorf("claim %+v", c)
	}
	if c := claim(t, f, "session.pair"); c.Source != verifier.SourceMeasuredCode {
		t.Errorf("claim %+v", c)
	}
	if f.Claims[0].ID != "tee" {
		t.Errorf("the first claim is %+v", f.Claims[0])
	}
}

// TestPure: Check leaves its argument alone, and its answer doesn't depend on what was checked before, or at the same time.
func TestPure(t *testing.T) {
	s, b := good(t)
	before := mustBytes(t, b)
	o := s.Options()
	cold, err := bundle.Check(b, o)
	if err != nil {
		t.Fatal(err)
	}
	c, err := bundle.NewChecker(o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				warm, err := c.Check(b)
				if err != nil || !reflect.DeepEqual(warm.Claims, cold.Claims) || !reflect.DeepEqual(warm.Interval, cold.Interval) || len(warm.Refusals) != 0 {
					t.Errorf("warm: %v", err)
				}
				other, ok := bad(t, b)
				if _, err := c.Check(other); err == nil {
					t.Errorf("a bundle with a changed %s was accepted by a warm Checker", ok)
				}
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(mustBytes(t, b), before) {
		t.Error("Check changed the bundle")
	}
}

// bad returns a copy of b with a change in a leaf.
func bad(tb testing.TB, b *bundle.Bundle) (*bundle.Bundle, string) {
	c := *b
	c.Proofs = slices.Clone(b.Proofs)
	p := *c.Proofs[len(c.Proofs)/2]
	p.Extra = slices.Clone(p.Extra)
	p.Extra[len(p.Extra)-1] ^= 1
	c.Proofs[len(c.Proofs)/2] = &p
	return &c, "leaf"
}

func TestOptions(t *testing.T) {
	s, b := good(t)
	none := bundletest.NewSession(t, bundletest.LogOptions{}, bundletest.Steps{})
	for _, tt := range []struct {
		name string
		edit func(o *bundle.Options)
		want string
	}{
		{"no log policy", func(o *bundle.Options) { o.LogPolicy = nil }, "no log policy"},
		{"no appraisal policy", func(o *bundle.Options) { o.Appraisal = nil }, "no appraisal policy"},
		{"quorum none", func(o *bundle.Options) { o.LogPolicy = none.Policy() }, "quorum none"},
	} {
		o := s.Options()
		tt.edit(&o)
		_, err := bundle.Check(b, o)
		if err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, new(*bundle.NotProven)) {
			t.Errorf("%s: got %v", tt.name, err)
		}
		if errors.Is(err, bundle.ErrQuorumNone) != (tt.name == "quorum none") {
			t.Errorf("%s: ErrQuorumNone: %v", tt.name, err)
		}
		if _, err := bundle.CheckProof(b.Proofs[0], nil, o); err == nil {
			t.Errorf("%s: CheckProof accepted it", tt.name)
		}
	}
	// A log policy with a quorum doesn't need the permission, and isn't weakened by it.
	o := s.Options()
	o.AllowQuorumNone = true
	wantAllowed(t, b, o)
	for _, p := range b.Proofs {
		p.Checkpoint = s.Sign(s.Head(s.Size()), s.Now, 0)
	}
	wantRule(t, b, o, bundle.RuleCheckpoint)
}

// remove takes leaves out of b.
func remove(b *bundle.Bundle, indices ...uint64) {
	b.Proofs = slices.DeleteFunc(b.Proofs, func(p *checkpoint.Proof) bool { return slices.Contains(indices, p.Index) })
}

// tidy removes what nothing refers to once leaves were removed: blobs and consistency proofs.
func tidy(tb testing.TB, b *bundle.Bundle) {
	tb.Helper()
	blobs, sizes := make(map[record.Digest]bool), make(map[uint64]bool)
	for _, p := range b.Proofs {
		leaf, err := record.ParseLeaf(p.Extra)
		if err != nil {
			tb.Fatal(err)
		}
		switch l := leaf.(type) {
		case *record.TimeLeaf:
			n, err := checkpoint.ParseNote(l.Note)
			if err != nil {
				tb.Fatal(err)
			}
			cp, err := checkpoint.ParseCheckpoint(n.Text)
			if err != nil {
				tb.Fatal(err)
			}
			sizes[cp.Size] = true
		case *record.CollateralLeaf:
			for _, d := range l.Components {
				blobs[d] = true
			}
		}
	}
	maps.DeleteFunc(b.Blobs, func(d record.Digest, _ []byte) bool { return !blobs[d] })
	maps.DeleteFunc(b.Consistency, func(n uint64, _ [][32]byte) bool { return !sizes[n] })
}

// proof returns b's proof for index.
func proof(tb testing.TB, b *bundle.Bundle, index uint64) *checkpoint.Proof {
	tb.Helper()
	for _, p := range b.Proofs {
		if p.Index == index {
			return p
		}
	}
	tb.Fatalf("no proof for %d", index)
	return nil
}

func first[V any](m map[record.Digest]V) record.Digest {
	return slices.SortedFunc(maps.Keys(m), func(a, b record.Digest) int { return bytes.Compare(a[:], b[:]) })[0]
}

// TestBundleRules starts from a good bundle and changes one thing in it.
func TestBundleRules(t *testing.T) {
	s, _ := good(t)
	note := s.Published()
	filler := s.Start - 1
	other := bundletest.NewLog(t, bundletest.LogOptions{Origin: "other.example/log", Witnesses: 3, Threshold: 2})
	setNote := func(b *bundle.Bundle, note []byte) {
		for _, p := range b.Proofs {
			p.Checkpoint = note
		}
	}
	for _, tt := range []struct {
		name string
		rule bundle.Rule
		edit func(b *bundle.Bundle)
	}{
		{"not well-formed", bundle.RuleBundle, func(b *bundle.Bundle) { b.Proofs = nil }},
		{"a blob under another's name", bundle.RuleBundle, func(b *bundle.Bundle) { b.Blobs[first(b.Blobs)] = []byte("x") }},

		{"no checkpoint", bundle.RuleCheckpoint, func(b *bundle.Bundle) { setNote(b, nil) }},
		{"a checkpoint of another log", bundle.RuleCheckpoint, func(b *bundle.Bundle) {
			cp := s.Head(s.Size())
			cp.Origin = other.Origin
			setNote(b, other.Sign(cp, s.Now))
		}},
		{"a checkpoint that only witnesses signed", bundle.RuleCheckpoint, func(b *bundle.Bundle) {
			setNote(b, bundletest.SignNote(t, s.Head(s.Size()).Text(), s.Now, s.Witnesses[0][0], s.Witnesses[1][0], s.Witnesses[2][0]))
		}},
		{"a checkpoint without a quorum", bundle.RuleCheckpoint, func(b *bundle.Bundle) { setNote(b, s.Sign(s.Head(s.Size()), s.Now, 1)) }},
		{"a checkpoint with a wrong signature beside the quorum", bundle.RuleCheckpoint, func(b *bundle.Bundle) {
			older := bytes.SplitAfter(s.Sign(s.Head(s.Size()-1), s.Now, 2), []byte("\n"))
			setNote(b, append(s.Sign(s.Head(s.Size()), s.Now, 0, 1), older[len(older)-2]...))
		}},
		{"a checkpoint of an earlier size", bundle.RuleInclusion, func(b *bundle.Bundle) { setNote(b, s.Sign(s.Head(s.Size()-1), s.Now)) }},
		{"a checkpoint with another root", bundle.RuleInclusion, func(b *bundle.Bundle) {
			cp := s.Head(s.Size())
			cp.Root[0]++
			setNote(b, s.Sign(cp, s.Now))
		}},

		{"a changed leaf", bundle.RuleInclusion, func(b *bundle.Bundle) { p := proof(t, b, s.Final); p.Extra[len(p.Extra)/2] ^= 1 }},
		{"another leaf of the log", bundle.RuleInclusion, func(b *bundle.Bundle) { proof(t, b, s.Final).Extra = s.Leaf(s.Start) }},
		{"a wrong index", bundle.RuleInclusion, func(b *bundle.Bundle) { proof(t, b, s.CoverFinal).Index++ }},
		{"a wrong hash", bundle.RuleInclusion, func(b *bundle.Bundle) { proof(t, b, s.Final).Hashes[3][31] ^= 0x80 }},
		{"a hash too many", bundle.RuleInclusion, func(b *bundle.Bundle) {
			p := proof(t, b, s.Final)
			p.Hashes = append(p.Hashes, [32]byte{})
		}},
		{"a hash too few", bundle.RuleInclusion, func(b *bundle.Bundle) {
			p := proof(t, b, s.Final)
			p.Hashes = p.Hashes[1:]
		}},
		{"hashes in another order", bundle.RuleInclusion, func(b *bundle.Bundle) { slices.Reverse(proof(t, b, s.Final).Hashes) }},

		{"a leaf that isn't one", bundle.RuleLeaf, func(b *bundle.Bundle) { *b = *s.Log.Bundle(s.Final, note, append(s.Indices(), filler)...) }},
		{"a leaf of another vendor", bundle.RuleUnlinked, func(b *bundle.Bundle) { b.Subject = s.Start; remove(b, s.ModelRun, s.Final); tidy(t, b) }},
		{"about a time leaf", bundle.RuleSubject, func(b *bundle.Bundle) { b.Subject = s.CoverFinal }},
		{"about collateral", bundle.RuleSubject, func(b *bundle.Bundle) { b.Subject = s.Collateral }},
		{"about a key, with much else", bundle.RuleUnlinked, func(b *bundle.Bundle) { b.Subject = s.VendorKey }},

		{"without a vendor's key", bundle.RuleMissing, func(b *bundle.Bundle) { remove(b, s.VendorKey) }},
		{"without collateral", bundle.RuleMissing, func(b *bundle.Bundle) { remove(b, s.Collateral); tidy(t, b) }},
		{"without collateral, with its blobs", bundle.RuleUnlinked, func(b *bundle.Bundle) { remove(b, s.Collateral) }},
		{"without a component of collateral", bundle.RuleMissing, func(b *bundle.Bundle) { delete(b.Blobs, first(b.Blobs)) }},
		{"without the start's freshness", bundle.RuleMissing, func(b *bundle.Bundle) { remove(b, s.FreshStart); tidy(t, b) }},
		{"without the final's freshness", bundle.RuleMissing, func(b *bundle.Bundle) { remove(b, s.CoverModelRun); tidy(t, b) }},
		{"without the start, with its freshness", bundle.RuleUnlinked, func(b *bundle.Bundle) { remove(b, s.Start) }},
		{"without the model run, with its release", bundle.RuleUnlinked, func(b *bundle.Bundle) { remove(b, s.ModelRun) }},
		{"without the model's release, with its key", bundle.RuleUnlinked, func(b *bundle.Bundle) { remove(b, s.GatewayRelease) }},

		{"a blob too many", bundle.RuleUnlinked, func(b *bundle.Bundle) { b.Blobs[sha256.Sum256(nil)] = nil }},
		{"consistency with a size that no time leaf has", bundle.RuleUnlinked, func(b *bundle.Bundle) { b.Consistency[7] = s.Consistency(7, note) }},
		{"without a consistency proof", bundle.RuleMissing, func(b *bundle.Bundle) { delete(b.Consistency, s.CoverFinal) }},
		{"a wrong consistency proof", bundle.RuleConsistency, func(b *bundle.Bundle) { b.Consistency[s.CoverFinal][0][0]++ }},
		{"a consistency proof that is too long", bundle.RuleConsistency, func(b *bundle.Bundle) {
			b.Consistency[s.CoverFinal] = append(b.Consistency[s.CoverFinal], [32]byte{})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, b := good(t)
			tt.edit(b)
			wantRule(t, b, s.Options(), tt.rule)
		})
	}
}

// TestWithout: what only makes a bundle say more can be left out, and then it says less.
func TestWithout(t *testing.T) {
	s, b := good(t)

	// The bundle's checkpoint covers the final as well: the interval is wider.
	remove(b, s.CoverFinal)
	tidy(t, b)
	f := wantAllowed(t, b, s.Options())
	if want := s.Now; !f.Interval.NotAfter.Equal(want) || f.Subject.Covering != nil {
		t.Errorf("not after %v, want %v, the time of the checkpoint", f.Interval.NotAfter, want)
	}

	_, b = good(t)
	remove(b, s.Release, s.VendorKey)
	f = wantRefusal(t, b, s.Options(), verifier.CodeMeasurement)
	if c := claim(t, f, "retention"); c.Source != verifier.SourceVendor {
		t.Errorf("what unknown code said is %+v", c)
	}

	_, b = good(t)
	remove(b, s.ModelRun, s.GatewayRelease, s.GatewayKey)
	f = wantRefusal(t, b, s.Options(), verifier.CodeModelRun)
	if c := claim(t, f, "model.0"); c.Source != verifier.SourceVendor {
		t.Errorf("a model without its record is %+v", c)
	}
	wantAllowed(t, b, s.Options("models:\n  allow-no-record: true"))

	// A final without its start says how to get it.
	_, b = good(t)
	remove(b, s.Start, s.ModelRun, s.GatewayRelease, s.GatewayKey, s.FreshStart, s.CoverStart)
	tidy(t, b)
	f = wantRefusal(t, b, s.Options("models:\n  allow-no-record: true"), verifier.CodeStartMissing)
	if len(f.Refusals) != 1 || !strings.Contains(f.Refusals[0].Message, fmt.Sprintf("affidavit bundle --log URL %d", s.Final)) {
		t.Errorf("refusals %v, want one that says how to get the start", f.Refusals)
	}

	// The start alone, without its end.
	b = s.Log.Bundle(s.Start, s.Published(), s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart)
	f = wantAllowed(t, b, s.Options())
	if f.Subject.Role != bundle.RoleStart {
		t.Errorf("subject %+v", f.Subject)
	}
	// The start, with its end: the same leaves, seen from the other side.
	_, b = good(t)
	b.Subject = s.Start
	f = wantAllowed(t, b, s.Options())
	claim(t, f, "session.pair")

	// A model run by itself, and a release.
	b = s.Log.Bundle(s.ModelRun, s.Published(), s.VendorKey, s.Release, s.GatewayKey, s.GatewayRelease, s.Collateral, s.FreshStart, s.Start, s.CoverStart, s.ModelRun, s.CoverModelRun)
	wantAllowed(t, b, s.Options())
	b = s.Log.Bundle(s.Release, s.Published(), s.VendorKey, s.Release)
	wantRefusal(t, b, s.Options(), verifier.CodeProfile)
	wantAllowed(t, b, s.Options("profiles: [vendor-signed/v1]", "time:\n  allow-unproven: true"))
	// With the time leaf that covers it, it has an upper bound.
	b = s.Log.Bundle(s.Release, s.Published(), s.VendorKey, s.Release, s.FreshStart)
	f = wantRefusal(t, b, s.Options("profiles: [vendor-signed/v1]"), verifier.CodeTimeUnproven)
	if want := bundletest.Epoch.Add(5 * time.Second); *f.Subject.Covering != s.FreshStart || !f.Interval.NotAfter.Equal(want) {
		t.Errorf("interval of a release %v, want until %v", f.Interval, want)
	}
}

// session makes a session with one thing changed.
func session(t *testing.T, steps bundletest.Steps) *bundletest.Session {
	t.Helper()
	return bundletest.NewSession(t, witnessed, steps)
}

// resign returns e's entry with another signature.
func resign(t *testing.T, d *bundletest.Draft, key ed25519.PrivateKey) {
	t.Helper()
	e := d.Make(t)
	sig := ed25519.Sign(key, record.PAE(e.PayloadType, e.Payload))
	forged, err := record.NewEntry(e.Profile, e.Payload, e.KeyID, sig, e.Evidence...)
	if err != nil {
		t.Fatal(err)
	}
	d.Entry = forged
}

// TestRecordRules makes sessions in which one thing about a record is wrong, as a hostile vendor or log would.
func TestRecordRules(t *testing.T) {
	stranger := bundletest.KeyFrom("stranger")
	for _, tt := range []struct {
		name  string
		rule  bundle.Rule
		steps bundletest.Steps
	}{
		{"a quote for another statement", bundle.RuleGenuine, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.KeepReportData, d.Quote.ReportData = true, record.ReportData(record.PayloadType, []byte("{}"))
		}}},
		{"a quote of another root", bundle.RuleGenuine, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Platform = tdxsim.NewPKI([]byte("another"), bundletest.Epoch.Add(-time.Hour)).NewPlatform(tdxsim.PlatformOptions{})
		}}},
		{"a platform of another family", bundle.RuleGenuine, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Platform = tdxsim.NewPKI([]byte("bundletest"), bundletest.Epoch.Add(-time.Hour)).NewPlatform(tdxsim.PlatformOptions{FMSPC: "00806F050000"})
		}}},
		{"the start's signature by a stranger", bundle.RuleGenuine, bundletest.Steps{Start: func(d *bundletest.Draft) { resign(t, d, stranger) }}},
		{"the model run's signature by a stranger", bundle.RuleGenuine, bundletest.Steps{ModelRun: func(d *bundletest.Draft) { resign(t, d, stranger) }}},
		{"judged before it was admitted", bundle.RuleLeaf, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Judged = d.Judged.Add(-time.Second) }}},
		{"collateral that nobody logged", bundle.RuleMissing, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Collateral[0]++ }}},
		{"admitted after its collateral expired", bundle.RuleGenuine, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Admitted = d.Admitted.AddDate(0, 0, 40)
			d.Judged = d.Admitted
		}}},
		{"admitted before its collateral was issued", bundle.RuleGenuine, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Admitted = d.Admitted.AddDate(0, 0, -2)
			d.Judged = d.Admitted
		}}},
		{"a freshness note that is nowhere", bundle.RuleMissing, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Statement.Session.Freshness.Note[0]++ }}},
		{"freshness with another root than the note", bundle.RuleFreshness, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Statement.Session.Freshness.Root[0]++ }}},
		{"freshness with another size than the note", bundle.RuleFreshness, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Statement.Session.Freshness.Size++ }}},
		{"freshness with another origin than the note", bundle.RuleFreshness, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Statement.Session.Freshness.Origin = "other.example/log"
			d.Statement.Session.Start.Origin = "other.example/log"
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := session(t, tt.steps)
			b := s.Bundle()
			wantRule(t, b, s.Options(), tt.rule)
			// The same in a file.
			if parsed, err := bundle.Parse(mustBytes(t, b)); err != nil {
				t.Error(err)
			} else {
				wantRule(t, parsed, s.Options(), tt.rule)
			}
		})
	}
}

// TestReplay: a quote that was good in one record is no good in another.
func TestReplay(t *testing.T) {
	s, _ := good(t)
	leaf, err := record.ParseLeaf(s.Leaf(s.Start))
	if err != nil {
		t.Fatal(err)
	}
	quote := leaf.(*record.RecordLeaf).Entry.Quote()
	again := session(t, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Replay = quote }})
	err = wantRule(t, again.Bundle(), again.Options(), bundle.RuleGenuine)
	var e *verifier.NotGenuine
	if !errors.As(err, &e) || e.Reason != verifier.ReasonBinding {
		t.Errorf("got %v, want a NotGenuine error for the binding", err)
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name  string
		code  verifier.Code
		steps bundletest.Steps
	}{
		{"a debug TD at the end", verifier.CodeDebug, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Quote.TDAttributes = new(tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug)
		}}},
		// The subject is the final record, but a session is as good as its start.
		{"a debug TD at the start", verifier.CodeDebug, bundletest.Steps{Start: func(d *bundletest.Draft) {
			d.Quote.TDAttributes = new(tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug)
		}}},
		{"a debug TD behind the model", verifier.CodeModelRun, bundletest.Steps{ModelRun: func(d *bundletest.Draft) {
			d.Quote.TDAttributes = new(tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug)
		}}},
		{"other code at the end", verifier.CodeMeasurement, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Quote.RTMR[2][0]++ }}},
		{"other code at the start", verifier.CodeMeasurement, bundletest.Steps{Start: func(d *bundletest.Draft) { d.Quote.RTMR[2][0]++ }}},
		{"another session key", verifier.CodePair, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Key = bundletest.KeyFrom("another session")
			d.Statement.Session.SessionKey = record.NewSessionKey(d.Key.Public().(ed25519.PublicKey))
		}}},
		{"another place of the start", verifier.CodePair, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Statement.Session.Start.Index-- }}},
		{"another tenant", verifier.CodePair, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Statement.Session.Tenant[0]++ }}},
		{"another start", verifier.CodeStartMissing, bundletest.Steps{NoModelRun: true, Final: func(d *bundletest.Draft) { d.Statement.Session.Start.Statement[0]++ }}},
		{"another channel of the model", verifier.CodeModelRun, bundletest.Steps{ModelRun: func(d *bundletest.Draft) { d.Statement.ModelRun.PeerChannel.SHA256[0]++ }}},
		{"admitted in the future", bundle.CodeAdmittedAt, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Admitted = d.Admitted.Add(5*time.Second + 61*time.Second)
			d.Judged = d.Admitted
		}}},
		{"admitted in the past", bundle.CodeAdmittedAt, bundletest.Steps{Final: func(d *bundletest.Draft) {
			d.Admitted = d.Admitted.Add(-time.Minute - 61*time.Second)
			d.Judged = d.Admitted
		}}},
		{"the start admitted in the past", bundle.CodeAdmittedAt, bundletest.Steps{Start: func(d *bundletest.Draft) {
			d.Admitted = d.Admitted.Add(-5*time.Second - 61*time.Second)
			d.Judged = d.Admitted
		}}},
		{"the model run admitted in the past", verifier.CodeModelRun, bundletest.Steps{ModelRun: func(d *bundletest.Draft) {
			d.Admitted = d.Admitted.Add(-65*time.Second - 61*time.Second)
			d.Judged = d.Admitted
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := session(t, tt.steps)
			b := s.Bundle()
			if tt.code == verifier.CodeStartMissing {
				remove(b, s.Start, s.FreshStart)
				b.Consistency = s.Bundle().Consistency
				tidy(t, b)
			}
			wantRefusal(t, b, s.Options(), tt.code)
		})
	}
}

// TestModelRunRefused: what a reader allows to be missing may as well be there and not good, as long as it is genuine.
func TestModelRunRefused(t *testing.T) {
	s := session(t, bundletest.Steps{ModelRun: func(d *bundletest.Draft) { d.Quote.RTMR[2][0]++ }})
	wantRefusal(t, s.Bundle(), s.Options(), verifier.CodeModelRun)
	f := wantAllowed(t, s.Bundle(), s.Options("models:\n  allow-no-record: true"))
	if c := claim(t, f, "model.0"); c.Source != verifier.SourceVendor {
		t.Errorf("claim %+v", c)
	}
}

// TestAdmittedWithin: a minute outside of the interval is forgiven, on both sides.
func TestAdmittedWithin(t *testing.T) {
	for _, d := range []time.Duration{5*time.Second + 60*time.Second, -60*time.Second - 60*time.Second} {
		s := session(t, bundletest.Steps{Final: func(dr *bundletest.Draft) {
			dr.Admitted = dr.Admitted.Add(d)
			dr.Judged = dr.Admitted
		}})
		wantAllowed(t, s.Bundle(), s.Options())
	}
}

func TestTwoFinals(t *testing.T) {
	var second uint64
	s := session(t, bundletest.Steps{After: func(s *bundletest.Session) {
		second = s.AddFinal(s.Start, []uint64{s.ModelRun}, func(d *bundletest.Draft) { d.Statement.Session.Actions.Size = 6 })
	}})
	wantAllowed(t, s.Bundle(), s.Options()) // the bundle cannot know
	wantRefusal(t, s.Bundle(second), s.Options(), verifier.CodeTwoFinals)

	s = session(t, bundletest.Steps{After: func(s *bundletest.Session) { second = s.AddAbandoned(s.Start) }})
	wantAllowed(t, s.Bundle(), s.Options())
	wantRefusal(t, s.Bundle(second), s.Options("profiles: [statement/v1, vendor-signed/v1]"), verifier.CodeTwoFinals)
}

func TestAbandoned(t *testing.T) {
	var end uint64
	s := session(t, bundletest.Steps{Between: func(s *bundletest.Session) { end = s.AddAbandoned(s.Start) }})
	b := s.Log.Bundle(end, s.Publish(s.Now), s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart, end, s.CoverFinal)
	f := wantRefusal(t, b, s.Options(), verifier.CodeProfile)
	if f.Subject.Verdict.Quote != nil || f.Subject.Collateral != nil || f.Interval == nil || !f.Interval.NotBefore.IsZero() {
		t.Errorf("subject %+v, interval %v", f.Subject, f.Interval)
	}
	wantAllowed(t, b, s.Options("profiles: [statement/v1, vendor-signed/v1]", "time:\n  allow-unproven: true"))
}

// TestDuplicates: the same thing at two indices is refused, whichever of the two is in use.
func TestDuplicates(t *testing.T) {
	var again uint64
	for name, add := range map[string]func(s *bundletest.Session) uint64{
		"record":       func(s *bundletest.Session) uint64 { return s.Append(s.Leaf(s.Start)) },
		"release":      func(s *bundletest.Session) uint64 { return s.Append(s.Leaf(s.Release)) },
		"key":          func(s *bundletest.Session) uint64 { return s.Append(s.Leaf(s.VendorKey)) },
		"collateral":   func(s *bundletest.Session) uint64 { return s.Append(s.Leaf(s.Collateral)) },
		"time":         func(s *bundletest.Session) uint64 { return s.Append(s.Leaf(s.FreshStart)) },
		"note":         func(s *bundletest.Session) uint64 { return s.Append(relog(t, s.Leaf(s.FreshStart))) },
		"other quotes": func(s *bundletest.Session) uint64 { return s.Append(requote(t, s, s.Leaf(s.Start))) },
	} {
		t.Run(name, func(t *testing.T) {
			s := session(t, bundletest.Steps{Between: func(s *bundletest.Session) { again = add(s) }})
			wantAllowed(t, s.Bundle(), s.Options())
			wantRule(t, s.Bundle(again), s.Options(), bundle.RuleDuplicate)
		})
	}
}

// relog returns a time leaf with another time.
func relog(t *testing.T, leaf []byte) []byte {
	l, err := record.ParseLeaf(leaf)
	if err != nil {
		t.Fatal(err)
	}
	tl := l.(*record.TimeLeaf)
	return (&record.TimeLeaf{LoggedAt: tl.LoggedAt + 1, Note: tl.Note}).Bytes()
}

// requote returns a record leaf with another quote for the same statement.
func requote(t *testing.T, s *bundletest.Session, leaf []byte) []byte {
	l, err := record.ParseLeaf(leaf)
	if err != nil {
		t.Fatal(err)
	}
	r := l.(*record.RecordLeaf)
	o := s.Vendor.Quote()
	o.FreshQE, o.ReportData = true, r.Entry.ReportData()
	quote, err := s.Platform.Quote(o)
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.NewEntry(r.Entry.Profile, r.Entry.Payload, r.Entry.KeyID, r.Entry.Signature, record.NewQuoteEvidence(quote))
	if err != nil {
		t.Fatal(err)
	}
	return (&record.RecordLeaf{Ruleset: r.Ruleset, AdmittedAt: r.AdmittedAt, JudgedAt: r.JudgedAt, Collateral: r.Collateral, Entry: e}).Bytes()
}

// custom makes a world in which every step is the test's.
func custom(t *testing.T) *bundletest.World {
	w := bundletest.NewWorld(t, witnessed)
	w.Filler(10)
	return w
}

// TestOrder logs in an order that an honest log cannot come to.
func TestOrder(t *testing.T) {
	t.Run("collateral after the record", func(t *testing.T) {
		w := custom(t)
		scratch := custom(t)
		scratch.AddCollateral(w.Set)
		w.CollateralID = scratch.CollateralID
		key, release, fresh := w.AddVendorKey(w.Vendor), w.AddRelease(w.Vendor), w.AddTime()
		start := w.AddStart()
		collateral := w.AddCollateral(w.Set)
		wantRule(t, w.Log.Bundle(start, w.Publish(w.Now), key, release, fresh, start, collateral), w.Options(), bundle.RuleOrder)
	})
	t.Run("freshness after the record", func(t *testing.T) {
		w := custom(t)
		key, release, collateral := w.AddVendorKey(w.Vendor), w.AddRelease(w.Vendor), w.AddCollateral(w.Set)
		note := w.Sign(w.Head(w.Size()), w.Now)
		cp := w.Head(w.Size())
		start := w.AddStart(func(d *bundletest.Draft) {
			d.Statement.Start.Freshness = record.Freshness{Note: sha256.Sum256(note), Origin: cp.Origin, Size: cp.Size, Root: cp.Root}
		})
		fresh := w.AddNote(note)
		wantRule(t, w.Log.Bundle(start, w.Publish(w.Now), key, release, fresh, start, collateral), w.Options(), bundle.RuleFreshness)
	})
	t.Run("key after the release", func(t *testing.T) {
		w := custom(t)
		release, key, collateral, fresh := w.AddRelease(w.Vendor), w.AddVendorKey(w.Vendor), w.AddCollateral(w.Set), w.AddTime()
		start := w.AddStart()
		wantRule(t, w.Log.Bundle(start, w.Publish(w.Now), key, release, fresh, start, collateral), w.Options(), bundle.RuleVendorKey)
	})
	t.Run("release after the record", func(t *testing.T) {
		w := custom(t)
		key, collateral, fresh := w.AddVendorKey(w.Vendor), w.AddCollateral(w.Set), w.AddTime()
		start := w.AddStart()
		release := w.AddRelease(w.Vendor)
		note := w.Publish(w.Now)
		wantRule(t, w.Log.Bundle(start, note, key, release, fresh, start, collateral), w.Options(), bundle.RuleUnlinked)
		wantRefusal(t, w.Log.Bundle(start, note, fresh, start, collateral), w.Options(), verifier.CodeMeasurement)
	})
	t.Run("model run before the start", func(t *testing.T) {
		// The statement of a start can be known before it is logged.
		w, scratch := custom(t), custom(t)
		var all []uint64
		for _, w := range []*bundletest.World{w, scratch} {
			all = []uint64{w.AddVendorKey(w.Vendor), w.AddRelease(w.Vendor), w.AddVendorKey(w.Gateway), w.AddRelease(w.Gateway), w.AddCollateral(w.Set), w.AddTime()}
		}
		early := scratch.AddStart()
		leaf := scratch.Leaf(early)
		run := scratch.AddModelRun(early)
		runLeaf := scratch.Leaf(run)
		run = w.Append(runLeaf)
		start := w.Append(leaf)
		w.Tick(time.Second)
		cover := w.AddTime()
		final := w.AddFinal(start, []uint64{run})
		b := w.Log.Bundle(final, w.Publish(w.Now), append(all, run, start, cover, final)...)
		wantRefusal(t, b, w.Options(), verifier.CodeOrder)
	})
}

// TestVendorSignatures: releases and keys count only if they are signed as they say.
func TestVendorSignatures(t *testing.T) {
	stranger := bundletest.KeyFrom("stranger")
	for _, tt := range []struct {
		name string
		rule bundle.Rule
		make func(w *bundletest.World) []uint64 // key and release
	}{
		{"release with a wrong signature", bundle.RuleVendorKey, func(w *bundletest.World) []uint64 {
			return []uint64{w.AddVendorKey(w.Vendor), w.AddRelease(w.Vendor, func(d *bundletest.Draft) { resign(t, d, stranger) })}
		}},
		{"key with a wrong signature", bundle.RuleVendorKey, func(w *bundletest.World) []uint64 {
			return []uint64{w.AddVendorKey(w.Vendor, func(d *bundletest.Draft) { resign(t, d, stranger) }), w.AddRelease(w.Vendor)}
		}},
		{"release by a key that was never logged", bundle.RuleMissing, func(w *bundletest.World) []uint64 {
			return []uint64{w.AddRelease(w.Vendor, func(d *bundletest.Draft) { d.Key = stranger })}
		}},
		{"release by the key of another vendor", bundle.RuleMissing, func(w *bundletest.World) []uint64 {
			w.AddVendorKey(w.Gateway)
			return []uint64{w.AddRelease(w.Vendor, func(d *bundletest.Draft) { d.Key = w.Gateway.Key })}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := custom(t)
			all := append(tt.make(w), w.AddCollateral(w.Set), w.AddTime(), w.AddStart())
			start := all[len(all)-1]
			wantRule(t, w.Log.Bundle(start, w.Publish(w.Now), all...), w.Options(), tt.rule)
		})
	}
	t.Run("release under a key that the reader doesn't trust", func(t *testing.T) {
		w := custom(t)
		v := *w.Vendor
		v.Key = stranger
		all := []uint64{w.AddVendorKey(&v), w.AddRelease(&v), w.AddCollateral(w.Set), w.AddTime(), w.AddStart()}
		wantRefusal(t, w.Log.Bundle(all[4], w.Publish(w.Now), all...), w.Options(), verifier.CodeMeasurement)
	})
}

func TestWithdrawn(t *testing.T) {
	var withdrawal uint64
	s := session(t, bundletest.Steps{Between: func(s *bundletest.Session) { withdrawal = s.AddWithdrawal(s.Vendor, s.Release) }})
	wantAllowed(t, s.Bundle(), s.Options()) // the bundle cannot know
	wantRefusal(t, s.Bundle(withdrawal), s.Options(), verifier.CodeMeasurement)
	wantRefusal(t, s.Bundle(withdrawal), s.Options(), verifier.CodeRelease)

	// A withdrawal of another vendor's release has nothing to do with it.
	s = session(t, bundletest.Steps{NoModelRun: true, Between: func(s *bundletest.Session) { withdrawal = s.AddWithdrawal(s.Gateway, s.GatewayRelease) }})
	wantRule(t, s.Bundle(withdrawal), s.Options(), bundle.RuleUnlinked)
}

// TestSwappedCollateral: a log cannot swap the collateral that it judged with, nor can who hands on the bundle.
func TestSwappedCollateral(t *testing.T) {
	var other uint64
	s := session(t, bundletest.Steps{Between: func(s *bundletest.Session) {
		id, set := s.CollateralID, s.Set
		better, err := s.PKI.Collateral(tdxsim.CollateralOptions{TCBEvaluationDataNumber: 19})
		if err != nil {
			t.Fatal(err)
		}
		other = s.AddCollateral(better)
		s.CollateralID, s.Set = id, set
	}})
	wantRule(t, s.Bundle(other), s.Options(), bundle.RuleUnlinked)
	b := s.Bundle(other)
	remove(b, s.Collateral)
	tidy(t, b)
	wantRule(t, b, s.Options(), bundle.RuleUnlinked)

	// Collateral under another root than the reader's.
	o := s.Options()
	o.Root = nil // Intel's
	wantRule(t, s.Bundle(), o, bundle.RuleCollateral)
}

// TestTimeLeaves puts notes into time leaves that don't belong there.
func TestTimeLeaves(t *testing.T) {
	other := bundletest.NewLog(t, bundletest.LogOptions{Origin: "other.example/log", Witnesses: 3, Threshold: 2})
	for i := range 5 {
		other.Append(fmt.Append(nil, i))
	}
	for _, tt := range []struct {
		name string
		rule bundle.Rule
		note func(s *bundletest.Session) []byte
	}{
		{"no quorum", bundle.RuleTimeLeaf, func(s *bundletest.Session) []byte { return s.Sign(s.Head(s.Size()), s.Now, 1) }},
		{"not signed by the log", bundle.RuleTimeLeaf, func(s *bundletest.Session) []byte {
			return bundletest.SignNote(t, s.Head(s.Size()).Text(), s.Now, s.Witnesses[0][0], s.Witnesses[1][0])
		}},
		{"of another log", bundle.RuleTimeLeaf, func(s *bundletest.Session) []byte { return other.Sign(other.Head(3), s.Now) }},
		{"that covers itself", bundle.RuleTimeLeaf, func(s *bundletest.Session) []byte {
			cp := s.Head(s.Size())
			cp.Size++
			return s.Sign(cp, s.Now)
		}},
		{"of a fork", bundle.RuleConsistency, func(s *bundletest.Session) []byte {
			cp := s.Head(s.Size())
			cp.Root[7]++
			return s.Sign(cp, s.Now)
		}},
		{"of an empty tree with a root", bundle.RuleConsistency, func(s *bundletest.Session) []byte {
			return s.Sign(checkpoint.Checkpoint{Origin: s.Origin, Root: [32]byte{1}}, s.Now)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// As the note that the final's statement commits to.
			var fresh uint64
			s := session(t, bundletest.Steps{NoModelRun: true, Between: func(s *bundletest.Session) {
				note := tt.note(s)
				n, err := checkpoint.ParseNote(note)
				if err != nil {
					t.Fatal(err)
				}
				cp, err := checkpoint.ParseCheckpoint(n.Text)
				if err != nil {
					t.Fatal(err)
				}
				fresh = s.Append((&record.TimeLeaf{LoggedAt: s.Now.UnixMilli(), Note: note}).Bytes())
				s.Fresh = record.Freshness{Note: sha256.Sum256(note), Origin: cp.Origin, Size: max(cp.Size, s.Start+1), Root: cp.Root}
			}})
			b := s.Bundle(fresh)
			wantRule(t, b, s.Options(), tt.rule)
		})
	}
	// A policy that accepts two logs doesn't let one's notes count in the other.
	t.Run("of another accepted log", func(t *testing.T) {
		var fresh uint64
		s := session(t, bundletest.Steps{NoModelRun: true, Between: func(s *bundletest.Session) {
			fresh = s.Append((&record.TimeLeaf{LoggedAt: s.Now.UnixMilli(), Note: other.Sign(other.Head(3), s.Now)}).Bytes())
		}})
		o := s.Options()
		both, err := checkpoint.ParsePolicy([]byte("log " + other.Keys[0].VKey() + "\n" + s.Policy().String()))
		if err != nil {
			t.Fatal(err)
		}
		o.LogPolicy = both
		wantAllowed(t, s.Bundle(), o)
		b := s.Bundle()
		p := s.Proof(fresh, b.Proofs[0].Checkpoint)
		b.Proofs = append(b.Proofs, p)
		slices.SortFunc(b.Proofs, func(a, b *checkpoint.Proof) int { return int(a.Index) - int(b.Index) })
		wantRule(t, b, o, bundle.RuleTimeLeaf)
	})
}

// TestEmptyTree: the first time leaf of a log holds the checkpoint of nothing.
func TestEmptyTree(t *testing.T) {
	w := bundletest.NewWorld(t, witnessed)
	fresh := w.AddTime()
	all := []uint64{fresh, w.AddVendorKey(w.Vendor), w.AddRelease(w.Vendor), w.AddCollateral(w.Set), w.AddStart()}
	w.Tick(time.Second)
	b := w.Log.Bundle(all[4], w.Publish(w.Now), all...)
	if len(b.Consistency) != 0 {
		t.Errorf("consistency proofs %v", b.Consistency)
	}
	wantAllowed(t, b, w.Options())
}

// TestInterval: witnesses sign at different times, and some state none.
func TestInterval(t *testing.T) {
	at := func(s int) time.Time { return bundletest.Epoch.Add(time.Duration(s) * time.Second) }
	sign := func(w *bundletest.World, times ...int) []byte {
		cp := w.Head(w.Size())
		note := bundletest.SignNote(t, cp.Text(), at(0), w.Keys...)
		for i, s := range times {
			if s == 0 {
				continue
			}
			line, err := w.Witnesses[i][0].Sign(cp.Text(), at(s))
			if err != nil {
				t.Fatal(err)
			}
			note = append(note, line...)
		}
		return note
	}
	for _, tt := range []struct {
		fresh, cover, last  []int // seconds after the epoch, by witness; 0: did not sign
		notBefore, notAfter int
	}{
		// Two of three have signed the freshness note at 20 or later; two of three the covering one at 60 or sooner.
		{[]int{10, 20, 30}, []int{50, 60, 70}, []int{90, 90, 90}, 20, 60},
		{[]int{0, 10, 20}, []int{70, 0, 50}, []int{90, 90, 90}, 10, 70},
		// One witness alone, with a wrong clock, moves nothing.
		{[]int{10, 10, 9999}, []int{60, 60, 1}, []int{90, 90, 90}, 10, 60},
		// The checkpoint can have been signed before the covering one was, by whoever is slow.
		{[]int{10, 10, 10}, []int{80, 80, 80}, []int{70, 70, 90}, 10, 70},
	} {
		w := custom(t)
		all := []uint64{w.AddVendorKey(w.Vendor), w.AddRelease(w.Vendor), w.AddCollateral(w.Set), w.AddNote(sign(w, tt.fresh...))}
		w.Now = at(40)
		start := w.AddStart()
		cover := w.AddNote(sign(w, tt.cover...))
		b := w.Log.Bundle(start, sign(w, tt.last...), append(all, start, cover)...)
		f := wantAllowed(t, b, w.Options())
		if want := (verifier.Interval{NotBefore: at(tt.notBefore), NotAfter: at(tt.notAfter)}); *f.Interval != want {
			t.Errorf("%+v: interval %v, want %v", tt, f.Interval, want)
		}
	}
}

// TestQuorumNone: without witnesses nothing is proven about time, and that is said.
func TestQuorumNone(t *testing.T) {
	s := bundletest.NewSession(t, bundletest.LogOptions{}, bundletest.Steps{})
	f := wantRefusal(t, s.Bundle(), s.Options(), verifier.CodeTimeUnproven)
	if f.Interval != nil || f.Log.Quorum != "none" {
		t.Errorf("interval %v, quorum %q", f.Interval, f.Log.Quorum)
	}
	f = wantAllowed(t, s.Bundle(), s.Options("time:\n  allow-unproven: true"))
	if c := claim(t, f, "time.proven"); c.Status != verifier.StatusUnknown {
		t.Errorf("claim %+v", c)
	}
	// Times that nobody vouches for are not compared with those that nobody proves.
	s = bundletest.NewSession(t, bundletest.LogOptions{}, bundletest.Steps{Final: func(d *bundletest.Draft) {
		d.Admitted = d.Admitted.Add(time.Hour)
		d.Judged = d.Admitted
	}})
	wantAllowed(t, s.Bundle(), s.Options("time:\n  allow-unproven: true"))
}

// TestLate: a record that the log admitted long after its freshness says so.
func TestLate(t *testing.T) {
	for _, tt := range []struct {
		wait time.Duration
		want int // claims that say late
	}{{9 * time.Minute, 0}, {11 * time.Minute, 1}} {
		s := bundletest.NewSession(t, witnessed, bundletest.Steps{Between: func(s *bundletest.Session) { s.Tick(tt.wait) }})
		f := wantAllowed(t, s.Bundle(), s.Options())
		late := slices.DeleteFunc(slices.Clone(f.Claims), func(c verifier.Claim) bool { return c.ID != "late" })
		if len(late) != tt.want {
			t.Errorf("%s after its freshness: claims %+v, want %d", tt.wait, late, tt.want)
		}
		for _, c := range late {
			if c.Source != verifier.SourceLog || c.Status != verifier.StatusAsserted {
				t.Errorf("%s after its freshness: claim %+v", tt.wait, c)
			}
		}
	}
}

// TestMLDSA: logs and witnesses with keys of both types work as well.
func TestMLDSA(t *testing.T) {
	s := bundletest.NewSession(t, bundletest.LogOptions{Witnesses: 3, Threshold: 2, MLDSA: true}, bundletest.Steps{})
	f := wantAllowed(t, s.Bundle(), s.Options())
	if len(f.Log.Keys) != 2 || len(f.Log.Cosignatures) != 6 {
		t.Errorf("%d log keys, %d cosignatures, want 2 and 6", len(f.Log.Keys), len(f.Log.Cosignatures))
	}
}

func TestAppraisers(t *testing.T) {
	s, b := good(t)
	key := bundletest.Key(t, checkpoint.CosignatureEd25519, "appraiser.example")
	o := s.Options("appraisers:\n  - " + key.VKey())
	wantRefusal(t, b, o, bundle.CodeAppraiser)

	n, err := checkpoint.ParseNote(b.Proofs[0].Checkpoint)
	if err != nil {
		t.Fatal(err)
	}
	line, err := key.Sign(n.Text, s.Now)
	if err != nil {
		t.Fatal(err)
	}
	note := append(slices.Clone(b.Proofs[0].Checkpoint), line...)
	for _, p := range b.Proofs {
		p.Checkpoint = note
	}
	f := wantAllowed(t, b, o)
	if len(f.Log.Appraisers) != 1 || f.Log.Appraisers[0].Name() != "appraiser.example" {
		t.Errorf("appraisers %v", f.Log.Appraisers)
	}

	// One signature of another checkpoint doesn't do.
	line, err = key.Sign(s.Head(3).Text(), s.Now)
	if err != nil {
		t.Fatal(err)
	}
	_, b = good(t)
	note = append(slices.Clone(b.Proofs[0].Checkpoint), line...)
	for _, p := range b.Proofs {
		p.Checkpoint = note
	}
	wantRule(t, b, o, bundle.RuleCheckpoint)
	wantAllowed(t, b, s.Options()) // nobody's business
}

func TestNoMeasurement(t *testing.T) {
	s, b := good(t)
	o := s.Options()
	o.Appraisal = verifier.StrictPolicy()
	f := wantRefusal(t, b, o, verifier.CodeNoMeasurement)
	if !strings.Contains(f.Refusals[0].Message, "pin") {
		t.Errorf("refusal %v doesn't say what to pin", f.Refusals[0])
	}
	for _, c := range f.Claims {
		if c.Source == verifier.SourceMeasuredCode {
			t.Errorf("claim %+v of unknown code", c)
		}
	}
}

func TestImport(t *testing.T) {
	w := custom(t)
	all := []uint64{w.AddVendorKey(w.Vendor), w.AddCollateral(w.Set)}
	w.Tick(24 * time.Hour)
	index := w.AddImport(w.Now.Add(-20 * time.Hour))
	w.Tick(time.Second)
	all = append(all, index, w.AddTime())
	b := w.Log.Bundle(index, w.Publish(w.Now), all...)
	f := wantRefusal(t, b, w.Options(), verifier.CodeProfile)
	if f.Subject.Role != bundle.RoleImport || f.Subject.Freshness != nil || !f.Interval.NotBefore.IsZero() || !f.Interval.NotAfter.Equal(w.Now) {
		t.Errorf("subject %+v, interval %v", f.Subject, f.Interval)
	}
	// Judged at a time of the log's own choice.
	index = w.AddImport(w.Now.Add(-20*time.Hour), func(d *bundletest.Draft) { d.Judged = d.Judged.Add(time.Hour) })
	all[2] = index
	wantRule(t, w.Log.Bundle(index, w.Publish(w.Now), all[:3]...), w.Options(), bundle.RuleLeaf)
}

func TestCheckProof(t *testing.T) {
	s, b := good(t)
	o := s.Options("time:\n  allow-unproven: true", "measurements:\n"+measurementYAML(s.Vendor))
	start := proof(t, b, s.Start)
	f, err := bundle.CheckProof(start, s.Set, o)
	if err != nil || !f.Allowed() {
		t.Fatalf("%+v, %v", f, err)
	}
	if f.Subject.Index != s.Start || !f.Interval.NotBefore.IsZero() || !f.Interval.NotAfter.Equal(s.Now) || len(f.Leaves) != 1 {
		t.Errorf("subject %+v, interval %v", f.Subject, f.Interval)
	}

	refused := func(name string, p *checkpoint.Proof, o bundle.Options, code verifier.Code) {
		t.Helper()
		f, err := bundle.CheckProof(p, s.Set, o)
		if err != nil || !slices.ContainsFunc(f.Refusals, func(r verifier.Refusal) bool { return r.Code == code }) {
			t.Errorf("%s: got %+v, %v; want a refusal %q", name, f, err, code)
		}
	}
	refused("strict about time", start, s.Options("measurements:\n"+measurementYAML(s.Vendor)), verifier.CodeTimeUnproven)
	refused("no measurement pinned", start, s.Options(), verifier.CodeMeasurement)
	refused("a final", proof(t, b, s.Final), o, verifier.CodeStartMissing)
	refused("a release", proof(t, b, s.Release), o, verifier.CodeProfile)

	worse, err := s.PKI.Collateral(tdxsim.CollateralOptions{TCBEvaluationDataNumber: 19})
	if err != nil {
		t.Fatal(err)
	}
	stranger := bundletest.NewLog(t, bundletest.LogOptions{Origin: "other.example/log", Witnesses: 3})
	for _, tt := range []struct {
		name string
		rule bundle.Rule
		call func() (*bundle.Finding, error)
	}{
		{"no collateral", bundle.RuleMissing, func() (*bundle.Finding, error) { return bundle.CheckProof(start, nil, o) }},
		{"other collateral", bundle.RuleCollateral, func() (*bundle.Finding, error) { return bundle.CheckProof(start, worse, o) }},
		{"a time leaf", bundle.RuleSubject, func() (*bundle.Finding, error) { return bundle.CheckProof(proof(t, b, s.FreshStart), nil, o) }},
		{"another log's policy", bundle.RuleCheckpoint, func() (*bundle.Finding, error) {
			o := o
			o.LogPolicy = stranger.Policy()
			return bundle.CheckProof(start, s.Set, o)
		}},
		{"Intel's root", bundle.RuleCollateral, func() (*bundle.Finding, error) { o := o; o.Root = nil; return bundle.CheckProof(start, s.Set, o) }},
		{"a changed leaf", bundle.RuleInclusion, func() (*bundle.Finding, error) {
			p := *start
			p.Extra = slices.Clone(p.Extra)
			p.Extra[len(p.Extra)-1] ^= 1
			return bundle.CheckProof(&p, s.Set, o)
		}},
		{"no leaf", bundle.RuleInclusion, func() (*bundle.Finding, error) { p := *start; p.Extra = nil; return bundle.CheckProof(&p, s.Set, o) }},
		{"a wrong index", bundle.RuleInclusion, func() (*bundle.Finding, error) { p := *start; p.Index++; return bundle.CheckProof(&p, s.Set, o) }},
	} {
		f, err := tt.call()
		var e *bundle.NotProven
		if !errors.As(err, &e) || e.Rule != tt.rule {
			t.Errorf("%s: got %+v, %v; want rule %q", tt.name, f, err, tt.rule)
		}
	}

	// Every bit of a proof counts, but for one thing: a changed name or key id makes a cosignature one by somebody whom
	// nobody knows, which is to be ignored (c2sp.org/signed-note), and two of three are enough here.
	file := start.Bytes()
	c, err := bundle.NewChecker(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range sample(t, 8*len(file), 1000) {
		file[i/8] ^= 1 << (i % 8)
		p, err := checkpoint.ParseProof(file)
		if err == nil {
			_, err = c.CheckProof(p, s.Set)
		}
		if err == nil {
			n, err := checkpoint.ParseNote(p.Checkpoint)
			if err != nil {
				t.Fatal(err)
			}
			known := 0
			for _, sig := range n.Signatures {
				for _, w := range s.Witnesses {
					if w[0].Verifier().Matches(sig) {
						known++
					}
				}
			}
			if known != 2 {
				t.Errorf("bit %d of byte %d was flipped, and nobody noticed", i%8, i/8)
			}
		}
		file[i/8] ^= 1 << (i % 8)
	}
}

func measurementYAML(v *bundletest.Vendor) string {
	q := v.Quote()
	return fmt.Sprintf("  - name: pinned\n    mrtd: %x\n    rtmr0: %x\n    rtmr1: %x\n    rtmr2: %x\n    rtmr3: any\n", q.MRTD, q.RTMR[0], q.RTMR[1], q.RTMR[2])
}

// sample returns some n numbers below size, some at a fixed stride and some at random, with the seed in the test's log.
func sample(t *testing.T, size, n int) []int {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var all []int
	for i := range n / 2 {
		all = append(all, i*size/(n/2), r.IntN(size))
	}
	return all
}

// TestFlippedBits flips bits of a file, as it is, and then of each member, packed again so that no checksum tells. None
// may be accepted, with one exception, which the next test is about.
func TestFlippedBits(t *testing.T) {
	s, file := goodSession()
	file = slices.Clone(file)
	c, err := bundle.NewChecker(s.Options())
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range sample(t, 8*len(file), 2000) {
		file[i/8] ^= 1 << (i % 8)
		if _, err := bundle.Parse(file); !errors.Is(err, bundle.ErrMalformed) {
			t.Errorf("bit %d of byte %d: got %v, want ErrMalformed", i%8, i/8, err)
		}
		file[i/8] ^= 1 << (i % 8)
	}

	names, data := members(t, file)
	for _, name := range names {
		b := data[name]
		for _, i := range sample(t, 8*len(b), 40) {
			b[i/8] ^= 1 << (i % 8)
			if err := check(c, pack(t, names, data, nil)); err == nil {
				t.Errorf("%s, bit %d of byte %d was flipped, and nobody noticed", name, i%8, i/8)
			}
			b[i/8] ^= 1 << (i % 8)
		}
	}
	if err := check(c, pack(t, names, data, nil)); err != nil {
		t.Fatal(err) // otherwise everything above passed for the wrong reason
	}
}

// check returns nil only for a file that is good, or refused for what it is.
func check(c *bundle.Checker, file []byte) error {
	b, err := bundle.Parse(file)
	if err != nil {
		return err
	}
	_, err = c.Check(b)
	return err
}

// TestUnknownSignature: "verifiers MUST ignore" signatures by keys that they don't know (c2sp.org/signed-note), so bits
// of one can change, if they change in all proofs alike. In one proof alone they can't.
func TestUnknownSignature(t *testing.T) {
	s, b := good(t)
	c, err := bundle.NewChecker(s.Options())
	if err != nil {
		t.Fatal(err)
	}
	stranger := bundletest.Key(t, checkpoint.CosignatureEd25519, "stranger.example")
	line, err := stranger.Sign(s.Head(s.Size()).Text(), s.Now)
	if err != nil {
		t.Fatal(err)
	}
	original := b.Proofs[0].Checkpoint
	signature := bytes.LastIndexByte(line, ' ') + 1
	var accepted, refused int
	for i := range 8 * len(line) {
		flipped := slices.Clone(line)
		flipped[i/8] ^= 1 << (i % 8)
		note := append(slices.Clone(original), flipped...)
		for _, p := range b.Proofs {
			p.Checkpoint = note
		}
		_, err := c.Check(b)
		if err == nil {
			accepted++
			// What was accepted is still a note with a line by somebody: the name, or bytes of the base64.
			if n, perr := checkpoint.ParseNote(note); perr != nil || len(n.Signatures) != 5 || i/8 < len("— ") || i/8 == len(line)-1 {
				t.Errorf("bit %d of byte %d of an unknown signature: accepted, %v", i%8, i/8, perr)
			}
		} else {
			refused++
		}
		if i/8 < signature {
			continue
		}
		b.Proofs[1].Checkpoint = append(slices.Clone(original), line...)
		if _, err := c.Check(b); err == nil {
			t.Errorf("bit %d of byte %d of an unknown signature in one proof only was accepted", i%8, i/8)
		}
	}
	if accepted == 0 || refused == 0 {
		t.Errorf("%d accepted, %d refused", accepted, refused)
	}
	t.Logf("%d bits of an unknown signature line can be flipped in all proofs at once, %d cannot", accepted, refused)
}

// FuzzCheck edits a member of a good file and packs it again: the result is never good, unless nothing changed.
func FuzzCheck(f *testing.F) {
	s, file := goodSession()
	names, data := members(f, file)
	c, err := bundle.NewChecker(s.Options())
	if err != nil {
		f.Fatal(err)
	}
	for i := range names {
		f.Add(uint8(i), uint32(0), uint32(1), []byte("x"))
		f.Add(uint8(i), uint32(len(data[names[i]])/2), uint32(0), []byte("x"))
		f.Add(uint8(i), uint32(len(data[names[i]])-1), uint32(1), []byte{})
	}
	f.Add(uint8(0), uint32(0), uint32(0), []byte{})
	f.Fuzz(func(t *testing.T, member uint8, offset, length uint32, with []byte) {
		name := names[int(member)%len(names)]
		old := data[name]
		from := int(offset) % (len(old) + 1)
		to := from + int(length)%(len(old)-from+1)
		edited := maps.Clone(data)
		edited[name] = slices.Concat(old[:from], with, old[to:])
		if len(edited[name]) > bundle.MaxSize {
			return
		}
		err := check(c, pack(t, names, edited, nil))
		if same := bytes.Equal(edited[name], old); same != (err == nil) {
			t.Errorf("%s: bytes %d to %d replaced by %x: %v", name, from, to, with, err)
		}
	})
}
