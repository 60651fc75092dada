package sessionlog

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// final returns the end of a session that was started elsewhere.
func (d *td) final(t testing.TB, start record.StatementRef, f record.Freshness) *record.Entry {
	t.Helper()
	payload, err := (&record.Statement{
		PredicateType: record.PredicateSession,
		Subjects:      []record.Subject{{Name: record.SubjectSession, SHA256: d.info.ID.Digest()}},
		Vendor:        d.vendor,
		Session: &record.Session{
			SessionInfo: d.info, FinishedOn: time.Now().UTC().Truncate(time.Second), EndReason: record.EndCompleted, Start: start,
			SessionKey: record.NewSessionKey(d.key.Public().(ed25519.PublicKey)), Freshness: f,
			Environment:     record.Environment{Release: testImage, PersistentStorage: record.StorageNone},
			Actions:         record.Actions{Tree: record.Tree{Size: 1, Root: sha256.Sum256([]byte("actions"))}},
			Retention:       record.Retention{Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage"}},
			WorkspaceErased: true,
		},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return d.seal(t, payload)
}

// A session starts in the log of a year, which is frozen, and ends in that of the next; one file proves it.
func TestShards(t *testing.T) {
	t.Parallel()
	old := newWorld(t)
	s := old.open()
	s.mustAdd(vendorKeyEntry(t, vendorA, old.relA))
	s.mustAdd(releaseEntry(t, vendorA, old.relA, "1"))
	d, other := old.newTD(), old.newTD()
	start := d.start(t, s.freshness())
	ps := s.mustAdd(start)
	s.close()
	if _, err := Freeze(t.Context(), old.config()); err != nil {
		t.Fatal(err)
	}
	s = old.open()
	down := false
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down {
			http.Error(w, "down", http.StatusBadRequest)
			return
		}
		s.http.Config.Handler.ServeHTTP(w, r)
	}))
	defer front.Close()

	const next = "log.test/2027"
	w := *old
	w.dir = filepath.Join(tempDir(t), "next")
	key, err := checkpoint.GenerateKey(checkpoint.Ed25519, next, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.keys = []*checkpoint.SigningKey{key}
	w.policy = parsePolicy(t, "log "+key.VKey()+"\nquorum none\n") // with the keys of both
	w.cfg = func(c *Config) { c.Origin = next }
	n := w.open()
	n.mustAdd(vendorKeyEntry(t, vendorA, old.relA))
	n.mustAdd(releaseEntry(t, vendorA, old.relA, "1"))
	ref := record.StatementRef{Origin: testOrigin, Index: ps.Index, Statement: start.StatementDigest()}
	if a := n.add(d.final(t, ref, n.freshness())); a.status != 422 || a.name() != "unknown-start" {
		t.Errorf("by a log that takes none: %d %s", a.status, a.body)
	}
	n.close()
	w.cfg = func(c *Config) { c.Origin, c.PreviousShard = next, front.URL }
	n = w.open()

	down = true
	final := d.final(t, ref, n.freshness())
	if a := n.add(final); a.status != 503 {
		t.Errorf("while the old shard can't be asked: %d %s", a.status, a.body)
	}
	down = false
	wrong := ref
	wrong.Index++
	for what, ref := range map[string]record.StatementRef{
		"another index":     wrong,
		"another statement": {Origin: testOrigin, Index: ps.Index, Statement: sha256.Sum256([]byte("x"))},
		"no start":          {Origin: testOrigin, Index: 1, Statement: releaseEntry(t, vendorA, old.relA, "2").StatementDigest()},
		"two years before":  {Origin: "log.test/2025", Index: ps.Index, Statement: start.StatementDigest()},
		"another log":       {Origin: "log.example/2026", Index: ps.Index, Statement: start.StatementDigest()},
	} {
		if a := n.add(other.final(t, ref, n.freshness())); a.status != 422 || a.name() != "unknown-start" {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	p := n.mustAdd(final)

	previous, err := client.New(front.URL, client.Config{LogPolicy: w.policy})
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(n.url, client.Config{LogPolicy: w.policy, Previous: previous})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.AssembleBundle(t.Context(), p.Index)
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
	appraisal, err := verifier.ParsePolicy(fmt.Appendf(nil, "release-keys:\n  - vendor: %s\n    keys: [%s]\n", vendorA, base64.StdEncoding.EncodeToString(record.SPKI(old.relA.Public().(ed25519.PublicKey)))))
	if err != nil {
		t.Fatal(err)
	}
	f, err := bundle.Check(b, bundle.Options{LogPolicy: w.policy, AllowQuorumNone: true, Appraisal: appraisal, Root: w.root})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range f.Refusals {
		if r.Code == verifier.CodePair || r.Code == verifier.CodeStartMissing || r.Code == verifier.CodeOrder {
			t.Errorf("%+v", r)
		}
	}
	if f.Previous == nil || f.Previous.Log.Origin != testOrigin || f.Previous.Subject.Index != ps.Index {
		t.Errorf("%+v", f.Previous)
	}
	t.Logf("refusals: %v", f.Refusals)
}

// A log doesn't start that couldn't check what the shard before it says.
func TestPreviousShardPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg = func(c *Config) { c.PreviousShard = "http://127.0.0.1:1" }
	if l, err := Open(t.Context(), w.config()); err == nil {
		l.Shutdown(t.Context())
		t.Error("it opened")
	}
}
