// Package interop tries the log and the witness against other people's
// implementations of the same specifications, on the loopback interface.
package interop

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/torchwood"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"github.com/transparency-dev/witness/persistence/inmemory"
	theirwitness "github.com/transparency-dev/witness/witness"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/client"
	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
	"github.com/affidavit-log/affidavit/witness"
)

const (
	origin = "interop.example/log"
	vendor = "https://vendor.example"
	token  = "interop-token"
)

func key(t *testing.T, kind checkpoint.Kind, name string) *checkpoint.SigningKey {
	t.Helper()
	k, err := checkpoint.GenerateKey(kind, name, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// openLog serves a new log of ours under a log policy, and returns its URL and
// a vendor's release key that it accepts.
func openLog(t *testing.T, policy string, keys ...*checkpoint.SigningKey) (logURL string, release ed25519.PrivateKey) {
	t.Helper()
	p, err := checkpoint.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	pub, release, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	vendors := filepath.Join(dir, "vendors.yaml")
	text := fmt.Sprintf("vendors:\n  - id: %s\n    token-sha256: %x\n    release-keys: [%s]\n",
		vendor, sha256.Sum256([]byte(token)), base64.StdEncoding.EncodeToString(record.SPKI(pub)))
	if err := os.WriteFile(vendors, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pki := tdxsim.NewPKI([]byte("interop"), time.Now().Add(-time.Hour))
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	intel := httptest.NewServer(pki.PCS(tdxsim.PCSOptions{}))
	t.Cleanup(intel.Close)
	source, err := pcs.New(pcs.Config{URL: intel.URL, Root: root})
	if err != nil {
		t.Fatal(err)
	}
	l, err := sessionlog.Open(t.Context(), sessionlog.Config{
		Origin: origin, Keys: keys, Dir: filepath.Join(dir, "log"), Create: true, LogPolicy: p,
		VendorsFile: vendors, Root: root, Collateral: source, CheckpointInterval: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(l.Handler())
	t.Cleanup(func() {
		srv.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return srv.URL, release
}

// addVendorKey logs an entry and returns its proof.
func addVendorKey(t *testing.T, logURL string, release ed25519.PrivateKey) *checkpoint.Proof {
	t.Helper()
	k := record.NewSessionKey(release.Public().(ed25519.PublicKey))
	s := &record.Statement{
		PredicateType: record.PredicateVendorKey,
		Subjects:      []record.Subject{{Name: record.SubjectKey, SHA256: sha256.Sum256(k.SPKI)}},
		Vendor:        vendor,
		VendorKey:     &record.VendorKey{Key: k},
	}
	payload, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.SignEntry(record.ProfileVendorSigned, payload, release)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(logURL, client.Config{Token: token})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	proof, err := c.Submit(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

// theirs serves the witness of transparency-dev, which knows our log.
func theirs(t *testing.T, log *checkpoint.SigningKey) (vkey, witnessURL string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(nil, "their.witness.example")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		t.Fatal(err)
	}
	if vkey, err = fnote.VKeyToCosignatureV1(vkey); err != nil {
		t.Fatal(err)
	}
	logKey, err := note.NewVerifier(log.VKey())
	if err != nil {
		t.Fatal(err)
	}
	w, err := theirwitness.New(t.Context(), theirwitness.Opts{
		Persistence: inmemory.New(),
		Signers:     []note.Signer{signer},
		VerifierForLog: func(_ context.Context, o string) (note.Verifier, bool, error) {
			return logKey, o == origin, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", theirwitness.NewHTTPHandler(w).AddCheckpoint)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return vkey, srv.URL
}

// TestTheirWitnessCosignsOurLog also verifies our proof with torchwood, under
// the same log policy that our log publishes by.
func TestTheirWitnessCosignsOurLog(t *testing.T) {
	classic, pq := key(t, checkpoint.Ed25519, origin), key(t, checkpoint.CosignatureMLDSA44, origin)
	vkey, witnessURL := theirs(t, classic)
	policy := fmt.Sprintf("log %s\nwitness their %s %s\nquorum their\n", classic.VKey(), vkey, witnessURL)
	logURL, release := openLog(t, policy, classic, pq)
	proof := addVendorKey(t, logURL, release)

	p, err := checkpoint.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	leaf := record.LeafHash(proof.Extra)
	checked, err := proof.Verify(leaf, p)
	if err != nil {
		t.Fatalf("our own verdict: %v", err)
	}
	if len(checked.Cosignatures) != 1 || checked.Size <= proof.Index {
		t.Fatalf("got %d cosignatures of size %d, want 1 of a tree with the leaf", len(checked.Cosignatures), checked.Size)
	}

	tp, err := torchwood.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatalf("torchwood: policy: %v", err)
	}
	if err := torchwood.VerifyProof(tp, tlog.Hash(leaf), proof.Bytes()); err != nil {
		t.Errorf("torchwood refuses our proof: %v", err)
	}
	extra, err := torchwood.ProofExtraData(proof.Bytes())
	if err != nil || !bytes.Equal(extra, proof.Extra) {
		t.Errorf("torchwood reads the extra data as %d bytes, %v; want our leaf of %d bytes", len(extra), err, len(proof.Extra))
	}
	leaf[0] ^= 1
	if err := torchwood.VerifyProof(tp, tlog.Hash(leaf), proof.Bytes()); err == nil {
		t.Error("torchwood accepts our proof for another leaf: it proves nothing")
	}
}

// TestTorchwoodReadsOurTiles follows our log with another client.
func TestTorchwoodReadsOurTiles(t *testing.T) {
	classic := key(t, checkpoint.Ed25519, origin)
	vkey, witnessURL := theirs(t, classic)
	logURL, release := openLog(t, fmt.Sprintf("log %s\nwitness their %s %s\nquorum their\n", classic.VKey(), vkey, witnessURL), classic)
	proof := addVendorKey(t, logURL, release)

	f, err := torchwood.NewTileFetcher(logURL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := torchwood.NewClient(f)
	if err != nil {
		t.Fatal(err)
	}
	signed := get(t, logURL+"/checkpoint")
	p, err := torchwood.ParsePolicy([]byte("log " + classic.VKey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	cp, _, err := torchwood.VerifyCheckpoint(signed, p)
	if err != nil {
		t.Fatal(err)
	}
	entry, _, err := c.Entry(t.Context(), cp.Tree, int64(proof.Index))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(entry, proof.Extra) {
		t.Errorf("torchwood reads %d other bytes at index %d than the proof has", len(entry), proof.Index)
	}
}

func get(t *testing.T, u string) []byte {
	t.Helper()
	resp, err := http.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", u, resp.Status, err)
	}
	return b
}

// TestOurWitnessCosignsTessera has a plain Tessera log publish by a quorum of
// our witness alone.
func TestOurWitnessCosignsTessera(t *testing.T) {
	const name = "tessera.example/log"
	skey, vkey, err := note.GenerateKey(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	logKey, err := checkpoint.ParseVKey(vkey)
	if err != nil {
		t.Fatal(err)
	}
	ours := key(t, checkpoint.CosignatureEd25519, "our.witness.example")
	w, err := witness.Open(witness.Config{
		Name: "our.witness.example", Keys: []*checkpoint.SigningKey{ours}, State: filepath.Join(t.TempDir(), "w.db"), Init: true,
		Logs: []witness.Log{{Origin: name, Key: logKey}},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(w.Handler())
	t.Cleanup(func() { srv.Close(); w.Close() })
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	tw, err := tessera.NewWitness(ours.VKey(), u)
	if err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	opts := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(100*time.Millisecond).
		WithBatching(16, 10*time.Millisecond).
		WithWitnesses(tessera.NewWitnessGroup(1, tw), &tessera.WitnessOptions{Timeout: 5 * time.Second})
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer shutdown(ctx)
	await := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 20*time.Millisecond)

	p, err := checkpoint.ParsePolicy(fmt.Appendf(nil, "log %s\nwitness ours %s\nquorum ours\n", vkey, ours.VKey()))
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for i := range 5 { // growing, so that consistency proofs are made and checked
		index, signed, err := await.Await(ctx, appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", i))))
		if err != nil {
			t.Fatal(err)
		}
		checked, err := p.Check(signed)
		if err != nil {
			t.Fatalf("checkpoint of Tessera with our cosignature: %v\n%s", err, signed)
		}
		if checked.Size <= index.Index || checked.Size < last {
			t.Fatalf("checkpoint of size %d after index %d and size %d", checked.Size, index.Index, last)
		}
		last = checked.Size
	}
	if got := string(get(t, srv.URL+fmt.Sprintf("/%x/checkpoint", sha256.Sum256([]byte(name))))); !strings.HasPrefix(got, fmt.Sprintf("%s\n%d\n", name, last)) {
		t.Errorf("our witness says %q, want size %d", got, last)
	}
}
