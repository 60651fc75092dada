package sessionlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/imports"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

func (s *server) putEvidence(path, token string, b []byte) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut, s.url+path, bytes.NewReader(b))
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return s.do(req)
}

func evidencePath(b []byte) string { return fmt.Sprintf("/evidence/%x", sha256.Sum256(b)) }

// namedBy returns an entry that names evidence.
func namedBy(t testing.TB, s *server, b []byte) *record.Entry {
	td := s.newTD()
	quote, err := td.platform.Quote(td.quote)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(quote)
	ref := record.NewDigestEvidence(record.EvidenceRef{SHA256: sha256.Sum256(b), Size: uint64(len(b)), MediaType: record.MediaTypeCCEL})
	return vendorEntry(t, s.relA, record.ProfileTLSHPKE, &record.Statement{Vendor: vendorA, Evidence: &record.ImportedEvidence{
		MediaType: record.MediaTypeTDXQuote, SHA256: sum, Size: uint64(len(quote)), CollectedOn: time.Now().UTC().Truncate(time.Second),
	}}, record.NewQuoteEvidence(quote), ref)
}

// Vendors put evidence, anybody gets it, and what no entry names goes.
func TestEvidenceStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := time.Now()
	clock := func() time.Time { return now }
	dir := t.TempDir()
	o := EvidenceOptions{MaxSize: 1 << 10, MaxTotal: 3 << 10, Keep: 24 * time.Hour, now: clock}
	store, err := OpenEvidence(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	w.cfg = func(c *Config) { c.AllowImports, c.Evidence = true, store }
	s := w.open()
	s.mustAdd(vendorKeyEntry(t, vendorA, s.relA))

	named, unnamed := bytes.Repeat([]byte("n"), 1<<10), bytes.Repeat([]byte("u"), 1<<10)
	path := evidencePath(named)
	for _, tt := range []struct {
		name, path, token string
		b                 []byte
		want              int
	}{
		{"no token", path, "", named, 401},
		{"another token", path, "wrong", named, 401},
		{"another digest", evidencePath(unnamed), tokenA, named, 400},
		{"upper case", "/evidence/" + strings.ToUpper(path[len("/evidence/"):]), tokenA, named, 400},
		{"no digest", "/evidence/x", tokenA, named, 400},
		{"too large", evidencePath(append(named, 0)), tokenA, append(bytes.Clone(named), 0), 413},
		{"empty", evidencePath(nil), tokenA, nil, 400},
		{"good", path, tokenA, named, 204},
		{"again", path, tokenA, named, 204},
		{"another", evidencePath(unnamed), tokenA, unnamed, 204},
	} {
		if a := s.putEvidence(tt.path, tt.token, tt.b); a.status != tt.want {
			t.Errorf("%s: %d %s, want %d", tt.name, a.status, a.body, tt.want)
		}
	}
	if a := s.get(path); a.status != 200 || !bytes.Equal(a.body, named) {
		t.Errorf("get: %d, %d bytes", a.status, len(a.body))
	}
	if a := s.get(evidencePath([]byte("absent"))); a.status != 404 {
		t.Errorf("absent: %d", a.status)
	}
	s.mustAdd(namedBy(t, s, named))

	third, fourth := bytes.Repeat([]byte("3"), 1<<10), []byte("4")
	if a := s.putEvidence(evidencePath(third), tokenA, third); a.status != 204 {
		t.Errorf("third: %d %s", a.status, a.body)
	}
	if a := s.putEvidence(evidencePath(fourth), tokenA, fourth); a.status != 429 || a.name() != "quota-exceeded" {
		t.Errorf("full: %d %s", a.status, a.body)
	}
	// An hour later what no entry names is gone, and there is room again.
	now = now.Add(61 * time.Minute)
	if a := s.putEvidence(evidencePath(fourth), tokenA, fourth); a.status != 204 {
		t.Errorf("room again: %d %s", a.status, a.body)
	}
	if a := s.get(evidencePath(unnamed)); a.status != 404 {
		t.Errorf("unnamed: %d", a.status)
	}
	if a := s.get(path); a.status != 200 {
		t.Errorf("named: %d", a.status)
	}
	// After a day, what an entry names goes by the operator's rule, also when the store is opened.
	now = now.Add(24 * time.Hour)
	if _, err := OpenEvidence(dir, o); err != nil {
		t.Fatal(err)
	}
	if a := s.get(path); a.status != 404 {
		t.Errorf("after the time to keep it: %d", a.status)
	}
	for _, folder := range []string{evidenceWaiting, evidenceNamed} {
		if left, err := os.ReadDir(filepath.Join(dir, folder)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", folder, left, err)
		}
	}
}

// A log without a store has none.
func TestNoEvidenceStore(t *testing.T) {
	t.Parallel()
	s := newWorld(t).open()
	if a := s.putEvidence(evidencePath([]byte("x")), tokenA, []byte("x")); a.status != 404 {
		t.Errorf("put: %d", a.status)
	}
	if a := s.get(evidencePath([]byte("x"))); a.status != 404 {
		t.Errorf("get: %d", a.status)
	}
}

// What dstack's interface answered for a quote that Intel hardware signed is admitted with the collateral of then,
// comes out in a bundle with its event log replayed, and isn't with one byte changed.
func TestSharedDstackImport(t *testing.T) {
	t.Parallel()
	shared := os.Getenv("AFFIDAVIT_SHARED")
	if shared == "" {
		shared = "../../shared"
	}
	report, err := os.ReadFile(filepath.Join(shared, "vectors", "dstack", "quote-report.json"))
	if err != nil {
		t.Skipf("no vectors in %s: set AFFIDAVIT_SHARED", shared)
	}
	collateral, err := os.ReadFile(filepath.Join(shared, "vectors", "tdx", "real", "dstack-v4", "collateral.json"))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1772707803, 0)
	// The application's REPORTDATA was 0x1234 and zeros: an address and a nonce by form.
	all, err := imports.ParseDstack(report, "0x1234"+strings.Repeat("00", 18))
	if err != nil || len(all) != 1 {
		t.Fatal(len(all), err)
	}
	s := importer(t, map[string][]byte{"dstack": collateral})
	made, err := all[0].Evidence(vendorA, s.relA, at, "https://dstack.example")
	if err != nil {
		t.Fatal(err)
	}
	a := s.add(made.Entry)
	if a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	b, err := s.client.AssembleBundle(t.Context(), s.checkProof(a.body).Index)
	if err != nil {
		t.Fatal(err)
	}
	opts := bundle.Options{LogPolicy: s.policy, AllowQuorumNone: true, Appraisal: verifier.StrictPolicy()}
	check := func(want verifier.ClaimStatus) {
		t.Helper()
		f, err := bundle.Check(b, opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range f.Claims {
			if c.ID == "event-log" && c.Status == want {
				return
			}
		}
		t.Errorf("no claim event-log that is %s in %+v", want, f.Claims)
	}
	check(verifier.StatusUnknown) // the log keeps none
	for digest, file := range made.Evidence {
		b.Blobs[digest] = file
	}
	check(verifier.StatusHolds)

	// One byte of the quote's signed part, and of its binding.
	quote := bytes.Clone(made.Entry.Quote())
	quote[48+136] ^= 1
	st := *made.Entry.Statement()
	imported := *st.Evidence
	imported.SHA256, st.Evidence, st.Subjects = sha256.Sum256(quote), &imported, nil
	if a := s.add(vendorEntry(t, s.relA, made.Entry.Profile, &st, append([]record.Evidence{record.NewQuoteEvidence(quote)}, made.Entry.Evidence[1:]...)...)); a.status != 422 || a.name() != "not-genuine" {
		t.Errorf("one byte of the quote: %d %s", a.status, a.body)
	}
	binding := bytes.Clone(made.Entry.Evidence[1].Data)
	binding[3] ^= 1
	st = *made.Entry.Statement()
	imported = *st.Evidence
	imported.Source, st.Evidence = "https://dstack.example/2", &imported
	if a := s.add(vendorEntry(t, s.relA, made.Entry.Profile, &st, made.Entry.Evidence[0], record.Evidence{Type: record.EvidenceBinding, Data: binding})); a.status != 422 || a.problem.Reason != verifier.ReasonBinding {
		t.Errorf("one byte of the binding: %d %s", a.status, a.body)
	}

	// One digit of an event's payload in the interface's answer.
	var v struct {
		Quote    string `json:"quote"`
		EventLog string `json:"event_log"`
	}
	if err := json.Unmarshal(report, &v); err != nil {
		t.Fatal(err)
	}
	const compose = "f552dfc1998cba2d60da27e7"
	changed := strings.Replace(string(report), compose, "e"+compose[1:], 1)
	if _, err := imports.ParseDstack([]byte(changed), "0x1234"+strings.Repeat("00", 18)); err == nil {
		t.Error("an event log with one digit changed is accepted")
	}
	if raw, err := hex.DecodeString(v.Quote); err != nil || !bytes.HasPrefix(raw, tdx.TrimPadding(made.Entry.Quote())) {
		t.Error("not the sample's quote")
	}
}
