package sessionlog

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// A session's start, a release and its key go in and come out with proofs that verify, in every way to ask for them.
func TestAddAndProve(t *testing.T) {
	t.Parallel()
	s := newWorld(t).open()
	key := vendorKeyEntry(t, vendorA, s.relA)
	rel := releaseEntry(t, vendorA, s.relA, "1")
	start := s.newTD().start(t, s.freshness())
	fresh := start.Statement().Freshness()

	pk, pr, ps := s.mustAdd(key), s.mustAdd(rel), s.mustAdd(start)
	for i, tt := range []struct {
		e *record.Entry
		p []byte
	}{{key, pk.Extra}, {rel, pr.Extra}, {start, ps.Extra}} {
		leaf, err := record.ParseLeaf(tt.p)
		if err != nil {
			t.Fatal(err)
		}
		var got *record.Entry
		switch l := leaf.(type) {
		case *record.RecordLeaf:
			got = l.Entry
		case *record.VendorLeaf:
			got = l.Entry
		}
		if !bytes.Equal(got.Bytes(), tt.e.Bytes()) {
			t.Errorf("entry %d: the leaf holds another entry", i)
		}
	}
	leaf, _ := record.ParseLeaf(ps.Extra)
	collateral := leaf.(*record.RecordLeaf).Collateral

	// The JSON form is the same entry.
	if a := s.post(start.JSON(), tokenA, "application/json; charset=utf-8"); a.status != 200 || s.checkProof(a.body).Index != ps.Index {
		t.Errorf("JSON form: %d %s", a.status, a.body)
	}

	digest := start.StatementDigest()
	rd := rel.Statement().Release.Image.SHA256
	for path, want := range map[string]uint64{
		fmt.Sprintf("/proof/%d", ps.Index):                                                      ps.Index,
		fmt.Sprintf("/proof/by-statement/%x", digest):                                           ps.Index,
		fmt.Sprintf("/proof/by-release/%x?vendor=%s", rd, vendorA):                              pr.Index,
		fmt.Sprintf("/proof/by-key/%s?vendor=%s", key.Statement().VendorKey.Key.KeyID, vendorA): pk.Index,
	} {
		if p := s.checkProof(s.get(path).body); p.Index != want {
			t.Errorf("%s: index %d, want %d", path, p.Index, want)
		}
	}
	p := s.checkProof(s.get(fmt.Sprintf("/proof/by-note/%x", fresh.Note)).body)
	if l, _ := record.ParseLeaf(p.Extra); l.(*record.TimeLeaf).NoteDigest() != fresh.Note {
		t.Error("by-note answered another time leaf")
	}
	p = s.checkProof(s.get(fmt.Sprintf("/proof/by-collateral/%x", collateral)).body)
	cl, _ := record.ParseLeaf(p.Extra)
	if cl.(*record.CollateralLeaf).ID() != collateral || p.Index >= ps.Index {
		t.Errorf("collateral leaf %d of record %d", p.Index, ps.Index)
	}
	for _, d := range cl.(*record.CollateralLeaf).Components {
		if _, err := s.client.Blob(t.Context(), d); err != nil {
			t.Errorf("blob %x: %v", d, err)
		}
	}
	waitFor(t, "a covering time leaf", func() bool { return s.get(fmt.Sprintf("/proof/covering/%d", ps.Index)).status == 200 })
	cov, err := s.client.ProofCovering(t.Context(), ps.Index)
	if err != nil {
		t.Fatal(err)
	}
	if cov.Index <= ps.Index {
		t.Errorf("time leaf %d can't cover leaf %d", cov.Index, ps.Index)
	}
	for _, path := range []string{
		"/proof/999999", "/proof/by-statement/" + strings.Repeat("00", 32), "/proof/covering/999999",
		fmt.Sprintf("/proof/by-release/%x?vendor=%s", rd, vendorB), fmt.Sprintf("/proof/by-key/%s?vendor=%s", key.KeyID, vendorB),
		"/blob/" + strings.Repeat("00", 32), "/nothing", "/proof/by-nothing/" + strings.Repeat("00", 32),
	} {
		if a := s.get(path); a.status != 404 || a.name() != "not-found" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	for _, path := range []string{"/proof/007", "/proof/+1", "/proof/by-statement/00", "/proof/by-statement/" + strings.Repeat("AA", 32),
		"/proof/by-key/" + strings.Repeat("00", 32), "/blob/xyz"} {
		if a := s.get(path); a.status != 400 || a.name() != "malformed" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	b, err := s.client.AssembleBundle(t.Context(), ps.Index)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Bytes(); err != nil {
		t.Fatal(err)
	}
	s.audit()
}

// waitFor waits until ok says so, for as long as the test may run.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s after 15 s", what)
		}
	}
}

// Each refusal has its status, its problem, and says what was wrong.
func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	fresh := s.freshness()
	good := w.newTD().start(t, fresh)
	if a := s.add(good); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body) // otherwise every row below passes for the wrong reason
	}
	other := w.newTD()
	other.info = good.Statement().Start.SessionInfo

	debug := w.newTD()
	debug.quote.TDAttributes = new(uint64)
	*debug.quote.TDAttributes = tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug
	unknownFamily := w.newTD()
	unknownFamily.platform = w.pki.NewPlatform(tdxsim.PlatformOptions{FMSPC: "112233445566"})
	foreign := w.newTD()
	foreign.platform = tdxsim.NewPKI([]byte("another intel"), time.Now().Add(-time.Hour)).NewPlatform(tdxsim.PlatformOptions{})
	replay, err := record.SignEntry(record.ProfileStatement, w.newTD().start(t, fresh).Payload, w.relA)
	_ = replay
	if err == nil {
		t.Fatal("an entry without a quote was made")
	}
	honest, thief := w.newTD(), w.newTD()
	stolen := honest.start(t, fresh).Quote()
	replayed, err := record.SignEntry(record.ProfileStatement, thief.start(t, fresh).Payload, thief.key, record.NewQuoteEvidence(stolen))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := fresh
	elsewhere.Origin = "other.test/log"
	unknown := fresh
	unknown.Note[0] ^= 1
	flipped := bytes.Clone(good.Bytes())
	flipped[len(flipped)-1] ^= 1
	relB := vendorKeyEntry(t, vendorA, w.newTD().key)

	for _, tt := range []struct {
		name    string
		body    []byte
		token   string
		ct      string
		status  int
		problem string
		reason  string
		detail  string
	}{
		{"no token", good.Bytes(), "", binaryType, 401, "unauthorized", "", "Bearer"},
		{"wrong token", good.Bytes(), tokenA + "x", binaryType, 401, "unauthorized", "", "token"},
		{"another vendor's token", good.Bytes(), tokenB, binaryType, 403, "vendor-mismatch", "", vendorB},
		{"wrong media type", good.Bytes(), tokenA, "text/plain", 415, "unsupported-media-type", "", "text/plain"},
		{"not an entry", []byte("hello"), tokenA, binaryType, 400, "malformed", "", ""},
		{"not JSON", []byte("hello"), tokenA, "application/json", 400, "malformed", "", ""},
		{"trailing byte", append(bytes.Clone(good.Bytes()), 0), tokenA, binaryType, 400, "malformed", "", ""},
		{"an entry of 65,536 bytes", make([]byte, 65536), tokenA, binaryType, 413, "too-large", "", "65472"},
		{"a leaf of 65,536 bytes", make([]byte, record.MaxEntry+1), tokenA, binaryType, 413, "too-large", "", ""},
		{"JSON too large", bytes.Repeat([]byte(" "), record.MaxEntryJSON+1), tokenA, "application/json", 413, "too-large", "", ""},
		{"same statement with another quote", w.sameStatement(good, other), tokenA, binaryType, 409, "statement-exists", "", "index"},
		{"debug TD", debug.start(t, fresh).Bytes(), tokenA, binaryType, 422, "not-genuine", "debug", "debug"},
		{"replayed quote", replayed.Bytes(), tokenA, binaryType, 422, "not-genuine", "binding", ""},
		{"another root", foreign.start(t, fresh).Bytes(), tokenA, binaryType, 422, "not-genuine", "root", "doesn't end in"},
		{"unknown family", unknownFamily.start(t, fresh).Bytes(), tokenA, binaryType, 422, "no-collateral", "", "112233445566"},
		{"freshness of another log", w.newTD().start(t, elsewhere).Bytes(), tokenA, binaryType, 422, "unknown-freshness", "", "other.test/log"},
		{"unknown freshness", w.newTD().start(t, unknown).Bytes(), tokenA, binaryType, 422, "unknown-freshness", "", hex.EncodeToString(unknown.Note[:])},
		{"release before its key", releaseEntry(t, vendorA, w.relA, "1").Bytes(), tokenA, binaryType, 422, "unknown-key", "", "isn't in this log"},
		{"key that isn't listed", relB.Bytes(), tokenA, binaryType, 422, "unknown-key", "", "operator lists"},
		{"import", w.importEntry(fresh).Bytes(), tokenA, binaryType, 403, "imports-not-allowed", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := s.post(tt.body, tt.token, tt.ct)
			if a.status != tt.status || a.name() != tt.problem || a.problem.Reason != tt.reason || !strings.Contains(a.problem.Detail, tt.detail) {
				t.Errorf("got %d %s; want %d %s %s, about %q", a.status, a.body, tt.status, tt.problem, tt.reason, tt.detail)
			}
			if tt.status == 409 && (a.problem.Index == nil || *a.problem.Index != s.checkProof(s.get(fmt.Sprintf("/proof/by-statement/%x", good.StatementDigest())).body).Index) {
				t.Errorf("index of the statement: %s", a.body)
			}
		})
	}
	if n := len(s.audit()); n > 6 {
		t.Errorf("%d leaves: something that was refused is in the log", n)
	}
	if a := s.post(nil, tokenA, binaryType); a.status != 400 {
		t.Errorf("empty body: %d", a.status)
	}
	req, _ := http.NewRequest("PUT", s.url+"/add", nil)
	if a := s.do(req); a.status != 405 && a.status != 404 {
		t.Errorf("PUT: %d", a.status)
	}
}

// sameStatement returns an entry with e's statement and another quote for it.
func (w *world) sameStatement(e *record.Entry, d *td) []byte {
	d.quote.ReportData = record.ReportData(record.PayloadType, e.Payload)
	d.quote.FreshQE = true
	q, err := w.platform.Quote(d.quote)
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := record.NewEntry(e.Profile, e.Payload, e.KeyID, e.Signature, record.NewQuoteEvidence(q))
	if err != nil {
		w.t.Fatal(err)
	}
	return n.Bytes()
}

// importEntry returns an import of a quote that the world's platform made now.
func (w *world) importEntry(record.Freshness) *record.Entry {
	q, err := w.platform.Quote(tdxsim.QuoteOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return importOf(w.t, w.relA, q, time.Now())
}

// A submission that comes again gets the same index, whether it comes after, at the same time, or after a restart.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	e := w.newTD().start(t, s.freshness())
	const n = 20
	indices := make(chan uint64, n)
	for range n {
		go func() {
			a := s.add(e)
			if a.status != 200 {
				t.Errorf("%d %s", a.status, a.body)
				indices <- 0
				return
			}
			indices <- s.checkProof(a.body).Index
		}()
	}
	want := <-indices
	for range n - 1 {
		if got := <-indices; got != want {
			t.Errorf("indices %d and %d", got, want)
		}
	}
	if p := s.mustAdd(e); p.Index != want {
		t.Errorf("index %d, want %d", p.Index, want)
	}
	s.close()
	s = w.open()
	if p := s.mustAdd(e); p.Index != want {
		t.Errorf("after a restart: index %d, want %d", p.Index, want)
	}
	count := 0
	for _, raw := range s.audit() {
		leaf, err := record.ParseLeaf(raw)
		if err != nil {
			t.Fatal(err)
		}
		if r, ok := leaf.(*record.RecordLeaf); ok && r.Entry.StatementDigest() == e.StatementDigest() {
			count++
		}
	}
	if count != 1 {
		t.Errorf("the statement is in the log %d times", count)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.config()
	c.Create = false
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrNoLog) {
		t.Errorf("missing directory: %v", err)
	}
	s := w.open()
	c = w.config()
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrInUse) {
		t.Errorf("second open: %v", err)
	}
	s.close()
	for _, tt := range []struct {
		name string
		edit func(*Config)
	}{
		{"create again", func(c *Config) { c.Create = true }},
		{"another origin", func(c *Config) { c.Origin = "other.test/log"; c.Keys = nil }},
		{"quorum none not allowed", func(c *Config) { c.AllowQuorumNone = false }},
		{"another root", func(c *Config) { c.Root = nil }},
		{"no Ed25519 key", func(c *Config) { c.Keys = c.Keys[1:] }},
		{"no vendors", func(c *Config) { c.VendorsFile += "x" }},
	} {
		c := w.config()
		tt.edit(&c)
		if l, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: opened", tt.name)
			l.Shutdown(t.Context())
		}
	}
	w.open()
}
