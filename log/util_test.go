package sessionlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

const (
	testOrigin = "log.test/2026"
	vendorA    = "https://a.example"
	vendorB    = "https://b.example"
	tokenA     = "the-token-of-vendor-a"
	tokenB     = "the-token-of-vendor-b"
)

// TestMain keeps Tessera's own words out of the tests' output.
func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	if c := os.Getenv(childEnv); c != "" {
		fmt.Fprintln(os.Stderr, child(c))
		os.Exit(1)
	}
	status := m.Run()
	for _, f := range atEnd {
		f()
	}
	os.Exit(status)
}

// atEnd are called when all tests are done.
var atEnd []func()

// A world is everything around a log: an Intel, platforms, two vendors, a directory, and a policy.
type world struct {
	t        testing.TB
	pki      *tdxsim.PKI
	pcs      *tdxsim.PCS
	pcsURL   string
	platform *tdxsim.Platform
	root     *tdx.Root
	keys     []*checkpoint.SigningKey
	policy   *checkpoint.Policy
	dir      string
	vendors  string // file
	relA     ed25519.PrivateKey
	cfg      func(*Config) // changes the configuration of every open
	token    string
	now      func() time.Time // the clock of the log and of its source of collateral, time.Now if nil
}

// tempDir is t.TempDir for what Tessera writes to: when its context ends, one of its goroutines may still be writing its
// own checkpoint, for a moment, and nothing says when it is done.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sessionlog")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 100 {
			if os.RemoveAll(dir) == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s can't be removed", dir)
	})
	return dir
}

// commonPKI is expensive to make and never changes.
var commonPKI = sync.OnceValue(func() *tdxsim.PKI { return tdxsim.NewPKI([]byte("log tests"), time.Now().Add(-time.Hour)) })

var commonKeys = sync.OnceValue(func() []*checkpoint.SigningKey {
	var keys []*checkpoint.SigningKey
	for _, kind := range []checkpoint.Kind{checkpoint.Ed25519, checkpoint.CosignatureMLDSA44} {
		k, err := checkpoint.GenerateKey(kind, testOrigin, rand.Reader)
		if err != nil {
			panic(err)
		}
		keys = append(keys, k)
	}
	return keys
})

func newWorld(t testing.TB) *world {
	w := &world{t: t, pki: commonPKI(), keys: commonKeys(), dir: filepath.Join(tempDir(t), "log"), token: tokenA}
	w.pcs = w.pki.PCS(tdxsim.PCSOptions{})
	srv := httptest.NewServer(w.pcs)
	t.Cleanup(srv.Close)
	w.pcsURL = srv.URL
	w.platform = w.pki.NewPlatform(tdxsim.PlatformOptions{})
	var err error
	if w.root, err = tdx.ParseRoot(w.pki.Root()); err != nil {
		t.Fatal(err)
	}
	w.policy = parsePolicy(t, "quorum none\n")
	w.relA = commonRelease()
	w.vendors = filepath.Join(t.TempDir(), "vendors.yaml")
	w.writeVendors(w.vendorsYAML("{rate: 100000, burst: 100000}"))
	return w
}

// commonRelease returns vendor A's release key.
func commonRelease() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{'a'}, 32)) }

// parsePolicy returns the policy with the common keys' log lines before the given lines.
func parsePolicy(t testing.TB, lines string) *checkpoint.Policy {
	t.Helper()
	var text string
	for _, k := range commonKeys() {
		text += "log " + k.VKey() + "\n"
	}
	p, err := checkpoint.ParsePolicy([]byte(text + lines))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) vendorsYAML(quotaA string) string {
	a, b := sha256.Sum256([]byte(tokenA)), sha256.Sum256([]byte(tokenB))
	spki := base64.StdEncoding.EncodeToString(record.SPKI(w.relA.Public().(ed25519.PublicKey)))
	return fmt.Sprintf("vendors:\n  - id: %s\n    token-sha256: %x\n    release-keys: [%s]\n    quota: %s\n  - id: %s\n    token-sha256: %x\n", vendorA, a, spki, quotaA, vendorB, b)
}

func (w *world) writeVendors(text string) {
	w.t.Helper()
	tmp := w.vendors + ".new"
	if err := os.WriteFile(tmp, []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(tmp, w.vendors); err != nil {
		w.t.Fatal(err)
	}
}

// config returns the configuration, for a new log if there is none.
func (w *world) config() Config {
	src, err := pcs.New(pcs.Config{URL: w.pcsURL, Root: w.root, Now: w.now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(src.Close)
	c := Config{
		Origin: testOrigin, Keys: w.keys, Dir: w.dir, Create: Exists(w.dir) != nil,
		LogPolicy: w.policy, AllowQuorumNone: true, VendorsFile: w.vendors, Root: w.root, Collateral: src,
		CheckpointInterval: 20 * time.Millisecond, TimeInterval: 100 * time.Millisecond, Logger: testLogger(w.t), now: w.now,
	}
	if w.cfg != nil {
		w.cfg(&c)
	}
	return c
}

// testLogger logs to the test, for as long as it runs.
func testLogger(t testing.TB) *slog.Logger {
	tw := &testWriter{t: t}
	t.Cleanup(func() { tw.mu.Lock(); tw.t = nil; tw.mu.Unlock() })
	return slog.New(slog.NewTextHandler(tw, nil))
}

type testWriter struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// A server is an open log with its public interface.
type server struct {
	*world
	*Log
	url    string
	http   *httptest.Server
	client *client.Client
	closed bool
}

// open opens the log and serves it.
func (w *world) open() *server {
	w.t.Helper()
	l, err := Open(w.t.Context(), w.config())
	if err != nil {
		w.t.Fatal(err)
	}
	s := &server{world: w, Log: l}
	s.http = httptest.NewUnstartedServer(l.Handler())
	s.http.Config = l.NewServer(l.Handler())
	s.http.Start()
	w.t.Cleanup(s.close)
	s.url = s.http.URL
	if s.client, err = client.New(s.url, client.Config{Token: w.token, LogPolicy: w.policy}); err != nil {
		w.t.Fatal(err)
	}
	return s
}

// close shuts the log down as the command does.
func (s *server) close() {
	s.t.Helper()
	if s.closed {
		return
	}
	s.closed = true
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.http.Config.Shutdown(ctx); err != nil {
		s.t.Errorf("server: %v", err)
	}
	if err := s.Log.Shutdown(ctx); err != nil {
		s.t.Errorf("log: %v", err)
	}
}

// freshness returns what a statement says of the newest note.
func (s *server) freshness() record.Freshness {
	s.t.Helper()
	f, err := s.client.Freshness(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return f.Freshness
}

// A td is a trust domain with a session.
type td struct {
	platform *tdxsim.Platform
	key      ed25519.PrivateKey
	vendor   string
	info     record.SessionInfo
	quote    tdxsim.QuoteOptions
}

var testImage = record.Image{Name: "pkg:oci/sandbox", SHA256: sha256.Sum256([]byte("sandbox"))}

func (w *world) newTD() *td {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	d := &td{platform: w.platform, key: key, vendor: vendorA}
	now := time.Now().UTC()
	d.info = record.SessionInfo{
		Kind: record.KindCodingSession, TenantEpoch: now.Format("2006-01"), Sequence: 1,
		StartedOn: now.Truncate(time.Second), IsolationScope: record.IsolationSession,
	}
	rand.Read(d.info.ID[:])
	rand.Read(d.info.Tenant[:])
	return d
}

// start returns a session-start entry.
func (d *td) start(t testing.TB, f record.Freshness) *record.Entry {
	t.Helper()
	payload, err := (&record.Statement{
		PredicateType: record.PredicateSessionStart,
		Subjects:      []record.Subject{{Name: record.SubjectSession, SHA256: d.info.ID.Digest()}},
		Vendor:        d.vendor,
		Start: &record.SessionStart{
			SessionInfo: d.info,
			SessionKey:  record.NewSessionKey(d.key.Public().(ed25519.PublicKey)),
			Freshness:   f,
			Environment: record.Environment{Release: testImage, PersistentStorage: record.StorageNone},
			Channels:    []record.Channel{{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256([]byte("tls"))}},
		},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return d.seal(t, payload)
}

// seal signs a payload and has it quoted.
func (d *td) seal(t testing.TB, payload []byte) *record.Entry {
	t.Helper()
	o := d.quote
	o.ReportData = record.ReportData(record.PayloadType, payload)
	q, err := d.platform.Quote(o)
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.SignEntry(record.ProfileStatement, payload, d.key, record.NewQuoteEvidence(q))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// vendorEntry returns an entry that the vendor's release key signed.
func vendorEntry(t testing.TB, key ed25519.PrivateKey, p record.Profile, s *record.Statement, ev ...record.Evidence) *record.Entry {
	t.Helper()
	payload, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.SignEntry(p, payload, key, ev...)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func vendorKeyEntry(t testing.TB, vendor string, key ed25519.PrivateKey) *record.Entry {
	k := record.NewSessionKey(key.Public().(ed25519.PublicKey))
	return vendorEntry(t, key, record.ProfileVendorSigned, &record.Statement{
		PredicateType: record.PredicateVendorKey,
		Subjects:      []record.Subject{{Name: record.SubjectKey, SHA256: keyDigest(t, k.KeyID)}},
		Vendor:        vendor,
		VendorKey:     &record.VendorKey{Key: k},
	})
}

func keyDigest(t testing.TB, id string) record.Digest {
	b, err := hex.DecodeString(id)
	if err != nil {
		t.Fatal(err)
	}
	return record.Digest(b)
}

func releaseEntry(t testing.TB, vendor string, key ed25519.PrivateKey, version string) *record.Entry {
	return vendorEntry(t, key, record.ProfileVendorSigned, &record.Statement{
		PredicateType: record.PredicateRelease,
		Subjects:      []record.Subject{{Name: testImage.Name, SHA256: testImage.SHA256}},
		Vendor:        vendor,
		Release: &record.Release{
			Image: testImage, Version: version,
			Measurements: []record.Measurement{{MRTD: tdxsim.Measurement("mrtd")}},
			NotBefore:    time.Now().UTC().Truncate(time.Second),
		},
	})
}

// An answer is what POST /add or a GET said.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	problem problem // if it is one
}

func (a answer) name() string { return strings.TrimPrefix(a.problem.Type, problemPrefix) }

func (s *server) do(req *http.Request) answer {
	s.t.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: b}
	if resp.Header.Get("Content-Type") == "application/problem+json" {
		if err := json.Unmarshal(b, &a.problem); err != nil {
			s.t.Fatalf("%s: %v", b, err)
		}
		if a.problem.Status != a.status {
			s.t.Errorf("problem says status %d, HTTP says %d", a.problem.Status, a.status)
		}
	} else if a.status >= 400 {
		s.t.Errorf("%s %s: status %d without a problem: %q", req.Method, req.URL.Path, a.status, b)
	}
	return a
}

func (s *server) get(path string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.do(req)
}

// post submits bytes with a token.
func (s *server) post(body []byte, token, contentType string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "POST", s.url+"/add", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return s.do(req)
}

func (s *server) add(e *record.Entry) answer {
	s.t.Helper()
	return s.post(e.Bytes(), tokenA, binaryType)
}

// mustAdd submits an entry and returns its verified proof.
func (s *server) mustAdd(e *record.Entry) *checkpoint.Proof {
	s.t.Helper()
	a := s.add(e)
	if a.status != http.StatusOK {
		s.t.Fatalf("status %d: %s", a.status, a.body)
	}
	return s.checkProof(a.body)
}

// checkProof verifies a tlog-proof with the leaf as extra data.
func (s *server) checkProof(b []byte) *checkpoint.Proof {
	s.t.Helper()
	p, err := checkpoint.ParseProof(b)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, b)
	}
	if _, err := p.Verify(record.LeafHash(p.Extra), s.policy); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// audit reads the whole published log from its tiles, and checks it against the checkpoint. It returns the leaves.
func (s *server) audit() [][]byte {
	s.t.Helper()
	note := s.get("/checkpoint").body
	c, err := s.policy.Check(note)
	if err != nil {
		s.t.Fatal(err)
	}
	r := rangeFactory.NewEmptyRange(0)
	var leaves [][]byte
	for n := uint64(0); n*tileWidth < c.Size; n++ {
		width := min(c.Size-n*tileWidth, tileWidth)
		a := s.get("/tile/entries/" + tilePath(n, width))
		if a.status != http.StatusOK {
			s.t.Fatalf("bundle %d: status %d", n, a.status)
		}
		offsets, ok := bundleOffsets(a.body)
		if !ok || uint64(len(offsets)) != width+1 {
			s.t.Fatalf("bundle %d of width %d has %d entries", n, width, len(offsets)-1)
		}
		b := &bundleData{a.body, offsets}
		for i := range width {
			h := record.LeafHash(b.entry(i))
			r.Append(h[:], nil)
			leaves = append(leaves, b.entry(i))
		}
	}
	if root, err := rangeRoot(r); err != nil || root != c.Root {
		s.t.Fatalf("root of the %d entries is %x, of the checkpoint %x", c.Size, root, c.Root)
	}
	return leaves
}

// tilePath spells a tile's index and width.
func tilePath(n, width uint64) string {
	s := fmt.Sprintf("%03d", n%1000)
	for n /= 1000; n > 0; n /= 1000 {
		s = fmt.Sprintf("x%03d/", n%1000) + s
	}
	if width < tileWidth {
		s += fmt.Sprintf(".p/%d", width)
	}
	return s
}

func hexSum(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }

// A switchSource gives the set, or the error, that a test says.
type switchSource struct {
	mu    sync.Mutex
	c     *tdx.Collateral
	err   error
	asked atomic.Int64
}

func (s *switchSource) Collateral(context.Context, string, string, time.Time) (*tdx.Collateral, error) {
	s.asked.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c, s.err
}

// set makes the source give a set with the given number, issued an hour ago and some time later.
func (s *switchSource) set(t testing.TB, w *world, number uint32, later time.Duration) {
	t.Helper()
	c, err := w.pki.Collateral(tdxsim.CollateralOptions{TCBEvaluationDataNumber: number, IssueDate: time.Now().Add(-time.Hour + later)})
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.c, s.err = c, nil
	s.mu.Unlock()
}

func (s *switchSource) fail(err error) {
	s.mu.Lock()
	s.c, s.err = nil, err
	s.mu.Unlock()
}

// metric returns the value of a metric, 0 if there is none.
func (s *server) metric(name string) float64 {
	s.t.Helper()
	rec := httptest.NewRecorder()
	s.PrivateHandler().ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(rec.Body.String()) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(v), 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return f
		}
	}
	return 0
}

// raw is get with an Accept-Encoding of the test's choice, and no decompression.
func (s *server) raw(path, acceptEncoding string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", acceptEncoding)
	return s.do(req)
}

func gunzip(t testing.TB, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
