package client

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// oneSet is a source of collateral that has one set.
type oneSet struct{ set *tdx.Collateral }

func (s oneSet) Collateral(context.Context, string, string, time.Time) (*tdx.Collateral, error) {
	return s.set, nil
}

// TestSessionLog runs a session against the log itself over HTTP, and checks what comes out of it.
func TestSessionLog(t *testing.T) {
	const origin, token = "log.example.org/2026", "the-vendors-token"
	dir := t.TempDir()
	pki := tdxsim.NewPKI([]byte("client test"), time.Now().Add(-time.Hour))
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	set, err := pki.Collateral(tdxsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	vendor := bundletest.NewVendor("sandbox")
	spki := base64.StdEncoding.EncodeToString(record.SPKI(vendor.Key.Public().(ed25519.PublicKey)))
	vendorsFile := filepath.Join(dir, "vendors.yaml")
	if err := os.WriteFile(vendorsFile, fmt.Appendf(nil, "vendors:\n  - id: %s\n    token-sha256: %x\n    release-keys: [%s]\n    quota: {rate: 100, burst: 100}\n",
		vendor.ID, sha256.Sum256([]byte(token)), spki), 0o600); err != nil {
		t.Fatal(err)
	}
	key := bundletest.Key(t, checkpoint.Ed25519, origin)
	pol, err := checkpoint.ParsePolicy([]byte("log " + key.VKey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	log, err := sessionlog.Open(t.Context(), sessionlog.Config{
		Origin: origin, Keys: []*checkpoint.SigningKey{key}, Dir: filepath.Join(dir, "log"), Create: true,
		LogPolicy: pol, AllowQuorumNone: true, VendorsFile: vendorsFile, Root: root, Collateral: oneSet{set},
		CheckpointInterval: 50 * time.Millisecond, TimeInterval: 200 * time.Millisecond, MaxWait: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(log.Handler())
	defer func() {
		srv.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := log.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	}()
	c, err := New(srv.URL, Config{Token: token, LogPolicy: pol})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()

	submit := func(e *record.Entry) *checkpoint.Proof {
		t.Helper()
		p, err := c.Submit(ctx, e)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	// A world of its own makes the entries; only what refers to the log is set by hand.
	w := bundletest.NewWorld(t, bundletest.LogOptions{Origin: origin})
	w.Platform = pki.NewPlatform(tdxsim.PlatformOptions{})
	entryAt := func(index uint64) *record.Entry {
		t.Helper()
		leaf, err := record.ParseLeaf(w.Leaf(index))
		if err != nil {
			t.Fatal(err)
		}
		return entryOf(leaf)
	}
	submit(entryAt(w.AddVendorKey(vendor)))
	submit(entryAt(w.AddRelease(vendor)))

	w.Now = time.Now()
	w.CollateralID = record.Digest{1} // the log chooses its own
	fresh := func() record.Freshness {
		t.Helper()
		f, err := c.Freshness(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return f.Freshness
	}
	w.Fresh = fresh()
	startEntry := entryAt(w.AddStart())
	start := submit(startEntry)
	// The end commits to a checkpoint that covers the start.
	for w.Fresh.Size <= start.Index {
		time.Sleep(20 * time.Millisecond)
		w.Fresh = fresh()
	}
	startIndex := w.Append(start.Extra)
	finalEntry := entryAt(w.AddFinal(startIndex, nil, func(d *bundletest.Draft) { d.Statement.Session.Start.Index = start.Index }))
	final := submit(finalEntry)
	if again := submit(finalEntry); again.Index != final.Index {
		t.Errorf("submitted again: index %d, want %d", again.Index, final.Index)
	}

	var covering *checkpoint.Proof
	for covering == nil {
		if covering, err = c.ProofCovering(ctx, final.Index); err != nil && !NotFound(err) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	b, err := c.AssembleBundle(ctx, final.Index)
	if err != nil {
		t.Fatal(err)
	}
	file, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if b, err = bundle.Parse(file); err != nil {
		t.Fatal(err)
	}
	appraisal, err := verifier.ParsePolicy(fmt.Appendf(nil, "release-keys:\n  - vendor: %s\n    keys: [%s]\ntime:\n  allow-unproven: true\n", vendor.ID, spki))
	if err != nil {
		t.Fatal(err)
	}
	o := bundle.Options{LogPolicy: pol, AllowQuorumNone: true, Appraisal: appraisal, Root: root}
	f, err := bundle.Check(b, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Refusals {
		t.Errorf("refused: %v", r)
	}
	if f.Subject.Index != final.Index || *f.Subject.Covering != covering.Index {
		t.Errorf("subject %+v, want covered by %d", f.Subject, covering.Index)
	}
	if again, err := c.AssembleBundleOf(ctx, startEntry.StatementDigest()); err != nil {
		t.Error(err)
	} else if f, err := bundle.Check(again, o); err != nil || !f.Allowed() {
		t.Errorf("%+v, %v", f, err)
	}

	// The log's answers to what it refuses.
	other, err := w.Platform.Quote(func() tdxsim.QuoteOptions {
		q := vendor.Quote()
		q.FreshQE, q.ReportData = true, startEntry.ReportData()
		return q
	}())
	if err != nil {
		t.Fatal(err)
	}
	requoted, err := record.NewEntry(startEntry.Profile, startEntry.Payload, startEntry.KeyID, startEntry.Signature, record.NewQuoteEvidence(other))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Submit(ctx, requoted)
	var p *Problem
	if !errors.As(err, &p) || p.Status != 409 || p.Name() != "statement-exists" || p.Index == nil || *p.Index != start.Index {
		t.Errorf("the same statement with another quote: %v", err)
	}
	wrong, err := New(srv.URL, Config{Token: "wrong", LogPolicy: pol})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = wrong.Submit(ctx, startEntry); !errors.As(err, &p) || p.Status != 401 || p.Name() != "unauthorized" {
		t.Errorf("with a wrong token: %v", err)
	}
}
