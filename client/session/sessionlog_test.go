package session

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/session/quote"
	"github.com/affidavit-log/affidavit/client/session/sessiontest"
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

// TestSessionLog is the whole way with the log itself: a vendor's TD starts a session, the customer's gate lets its
// data through to the TD's TLS key, the process dies and another finishes, and an auditor gets bundle and disclosure.
func TestSessionLog(t *testing.T) {
	const origin, token = "log.example.org/2026", "the-vendors-token"
	dir := t.TempDir()
	pki := tdxsim.NewPKI([]byte("session test"), time.Now().Add(-time.Hour))
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
	c, err := client.New(srv.URL, client.Config{Token: token, LogPolicy: pol})
	if err != nil {
		t.Fatal(err)
	}

	// The vendor's key and release, which a world of its own makes.
	w := bundletest.NewWorld(t, bundletest.LogOptions{Origin: origin})
	for _, index := range []uint64{w.AddVendorKey(vendor), w.AddRelease(vendor)} {
		leaf, err := record.ParseLeaf(w.Leaf(index))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Submit(t.Context(), leaf.(*record.VendorLeaf).Entry); err != nil {
			t.Fatal(err)
		}
	}
	appraisal, err := verifier.ParsePolicy(fmt.Appendf(nil, "release-keys:\n  - vendor: %s\n    keys: [%s]\ntime: {allow-unproven: true}\n", vendor.ID, spki))
	if err != nil {
		t.Fatal(err)
	}
	check := bundle.Options{LogPolicy: pol, AllowQuorumNone: true, Appraisal: appraisal, Root: root}

	// In the TD: a TLS server, whose key the start names.
	td := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	defer td.Close()
	mem := sessiontest.Memory(t)
	cfg := Config{
		Log: c, Quotes: quote.Sim(pki.NewPlatform(tdxsim.PlatformOptions{}), vendor.Quote()), Dir: mem, AnyFileSystem: checkMemory(mem) != nil,
		Vendor: vendor.ID, Environment: record.Environment{Release: vendor.Image, PersistentStorage: record.StorageNone},
		pause: func(ctx context.Context, d time.Duration) error { return pause(ctx, min(d, 20*time.Millisecond)) },
	}
	month := time.Now().UTC().Format("2006-01")
	challenge := client.ChallengeDigest([32]byte{1}, [32]byte{2})
	s, err := Start(t.Context(), cfg, Options{
		Tenant: record.TenantPseudonym([]byte("key"), origin, vendor.ID, month), TenantEpoch: month,
		Channels: []record.Channel{TLSChannel(td.Certificate().RawSubjectPublicKeyInfo)}, Challenge: &challenge,
	})
	if err != nil {
		t.Fatal(err)
	}

	// At the customer's: nothing but the start's statement digest from the vendor, which may be wrong.
	g, err := client.NewGate(t.Context(), client.GateConfig{Log: c, Statement: s.StartRef().Statement, Check: check, Challenge: &challenge, Vendor: vendor.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	resp, err := (&http.Client{Transport: g}).Post(td.URL, "text/plain", strings.NewReader("code"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	mustAct(t, s, 20)
	if err := s.Close(); err != nil { // as if the process had died
		t.Fatal(err)
	}
	if s, err = Resume(t.Context(), cfg, s.ID()); err != nil {
		t.Fatal(err)
	}
	mustAct(t, s, 5)
	r, err := s.Finish(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	if err := s.WriteFile(&file); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}

	// At the auditor's.
	b, err := r.Bundle.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := bundle.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	f, err := bundle.Check(parsed, check)
	if err != nil || !f.Allowed() {
		t.Fatalf("got %v, %v", f, err)
	}
	ds, err := Disclose(&file, func(a *record.Action) bool { return a.Index == 22 })
	if err != nil || len(ds) != 1 {
		t.Fatal(ds, err)
	}
	if err := ds[0].VerifySession(f.Subject.Entry().Statement().Session); err != nil {
		t.Error(err)
	}
}
