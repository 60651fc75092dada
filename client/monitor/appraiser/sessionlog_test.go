package appraiser

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/monitor"
	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
	"github.com/affidavit-log/affidavit/witness"
)

func TestMain(m *testing.M) {
	klog.SetSlogLogger(slog.New(slog.DiscardHandler)) // Tessera's own words
	os.Exit(m.Run())
}

// A reader is a source that reads the log when it is asked to, as a monitor does: it takes leaves from the tiles of
// published checkpoints, and disputes those that the test says.
type reader struct {
	c   *client.Client
	bad func(index uint64) bool

	reading sync.Mutex // held by poll

	mu       sync.Mutex // guards what follows
	tree     *client.Tree
	disputes []Dispute
	polls    int
}

func (r *reader) Verified() (uint64, [32]byte, []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tree == nil {
		return 0, checkpoint.EmptyRoot(), nil
	}
	cp := r.tree.Checkpoint()
	return cp.Size, cp.Root, r.tree.Note()
}

func (r *reader) RootAt(size uint64) ([32]byte, error) {
	r.mu.Lock()
	tree := r.tree
	r.mu.Unlock()
	return tree.Root(context.Background(), size)
}

func (r *reader) WaitVerified(ctx context.Context, size uint64) error {
	for ctx.Err() == nil {
		if n, _, _ := r.Verified(); n >= size {
			return nil
		}
		if err := r.poll(ctx); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// poll verifies what is published.
func (r *reader) poll(ctx context.Context) error {
	r.reading.Lock()
	defer r.reading.Unlock()
	tree, err := r.c.Tree(ctx)
	if err != nil {
		return err
	}
	i, _, _ := r.Verified()
	var more []Dispute
	for leaf, err := range tree.Leaves(ctx, i, tree.Checkpoint().Size) {
		if err != nil {
			return err
		}
		if _, err := record.ParseLeaf(leaf); err != nil || r.bad(i) {
			more = append(more, Dispute{i, record.LeafHash(leaf), "the test says so"})
		}
		i++
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tree, r.disputes = tree, append(r.disputes, more...)
	r.polls++
	return nil
}

func (r *reader) Disputes(cursor uint64) ([]Dispute, uint64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.disputes[cursor:], uint64(len(r.disputes)), nil
}

// handlerSlot is a server's handler that can be replaced, or be away.
type handlerSlot struct {
	h    atomic.Pointer[http.Handler]
	url  string
	seen atomic.Int64
}

func newSlot(t *testing.T) *handlerSlot {
	s := &handlerSlot{}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.seen.Add(1)
		if h := s.h.Load(); h != nil {
			(*h).ServeHTTP(rw, r)
			return
		}
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

func (s *handlerSlot) set(h http.Handler) {
	if h == nil {
		s.h.Store(nil)
		return
	}
	s.h.Store(&h)
}

const token = "the-vendors-token"

// A system is a log with three witnesses, of which two must cosign, and an appraiser.
type system struct {
	t         *testing.T
	vendor    *bundletest.Vendor
	policy    *checkpoint.Policy
	root      *tdx.Root
	cfg       sessionlog.Config
	log       *sessionlog.Log
	front     *handlerSlot // the log's
	c         *client.Client
	reader    *reader
	slot      *handlerSlot // the appraiser's
	acfg      Config
	appraiser *Appraiser
	file      string // exceptions
	bad       atomic.Int64
	n         atomic.Int64 // releases
}

// Its source is a reader, or what the test makes.
func newSystem(t *testing.T, source ...func(*system) Source) *system {
	t.Helper()
	// Not t.TempDir: one of Tessera's goroutines may write its own checkpoint after the end.
	dir, err := os.MkdirTemp("", "appraiser")
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
	})
	s := &system{t: t, vendor: bundletest.NewVendor("sandbox"), front: newSlot(t), slot: newSlot(t), file: filepath.Join(dir, "exceptions")}
	s.bad.Store(-1)
	pki := tdxsim.NewPKI([]byte("appraiser test"), time.Now().Add(-time.Hour))
	if s.root, err = tdx.ParseRoot(pki.Root()); err != nil {
		t.Fatal(err)
	}
	spki := base64.StdEncoding.EncodeToString(record.SPKI(s.vendor.Key.Public().(ed25519.PublicKey)))
	vendors := filepath.Join(dir, "vendors.yaml")
	if err := os.WriteFile(vendors, fmt.Appendf(nil, "vendors:\n  - id: %s\n    token-sha256: %x\n    release-keys: [%s]\n    quota: {rate: 100000, burst: 100000}\n",
		s.vendor.ID, sha256.Sum256([]byte(token)), spki), 0o600); err != nil {
		t.Fatal(err)
	}
	var keys []*checkpoint.SigningKey
	var logs []witness.Log
	text := ""
	for _, kind := range []checkpoint.Kind{checkpoint.Ed25519, checkpoint.CosignatureMLDSA44} {
		k := bundletest.Key(t, kind, testOrigin)
		keys = append(keys, k)
		logs = append(logs, witness.Log{Origin: testOrigin, Key: k.Verifier()})
		text += "log " + k.VKey() + "\n"
	}
	for i := range 3 {
		name := fmt.Sprintf("w%d.test/witness", i)
		k := bundletest.Key(t, checkpoint.CosignatureEd25519, name)
		w, err := witness.Open(witness.Config{Name: name, Keys: []*checkpoint.SigningKey{k}, State: filepath.Join(dir, fmt.Sprintf("w%d.db", i)), Init: true, Logs: logs})
		if err != nil {
			t.Fatal(err)
		}
		slot := newSlot(t)
		slot.set(w.Handler())
		t.Cleanup(func() { w.Close() })
		text += fmt.Sprintf("witness w%d %s %s\n", i, k.VKey(), slot.url)
	}
	s.acfg.Witness = witness.Config{Name: testName, State: filepath.Join(dir, "appraiser.db"), Init: true, Logs: logs}
	for i, kind := range []checkpoint.Kind{checkpoint.CosignatureEd25519, checkpoint.CosignatureMLDSA44} {
		k := bundletest.Key(t, kind, testName)
		s.acfg.Witness.Keys = append(s.acfg.Witness.Keys, k)
		text += fmt.Sprintf("witness m%d %s %s\n", i, k.VKey(), s.slot.url)
	}
	if s.policy, err = checkpoint.ParsePolicy([]byte(text + "group q 2 w0 w1 w2\nquorum q\n")); err != nil {
		t.Fatal(err)
	}
	s.cfg = sessionlog.Config{
		Origin: testOrigin, Keys: keys, Dir: filepath.Join(dir, "log"), Create: true, LogPolicy: s.policy, Appraisers: []string{"m0"},
		VendorsFile: vendors, Root: s.root, Collateral: noCollateral{}, CheckpointInterval: 100 * time.Millisecond, TimeInterval: 300 * time.Millisecond,
	}
	if s.c, err = client.New(s.front.url, client.Config{Token: token, LogPolicy: s.policy}); err != nil {
		t.Fatal(err)
	}
	s.reader = &reader{c: s.c, bad: func(i uint64) bool { return int64(i) == s.bad.Load() }}
	if err := os.WriteFile(s.file, []byte(header), 0o644); err != nil {
		t.Fatal(err)
	}
	s.acfg.Source, s.acfg.ExceptionsFile, s.acfg.disputeRetry = s.reader, s.file, time.Second
	s.openLog()
	t.Cleanup(s.closeLog)
	for _, f := range source {
		s.acfg.Source = f(s)
	}
	s.openAppraiser()
	t.Cleanup(func() { s.appraiser.Close() })
	return s
}

type noCollateral struct{}

func (noCollateral) Collateral(context.Context, string, string, time.Time) (*tdx.Collateral, error) {
	return nil, fmt.Errorf("this log gets no quotes")
}

func (s *system) openLog() {
	s.t.Helper()
	var err error
	if s.log, err = sessionlog.Open(s.t.Context(), s.cfg); err != nil {
		s.t.Fatal(err)
	}
	s.cfg.Create = false
	s.front.set(s.log.Handler())
}

func (s *system) closeLog() {
	s.t.Helper()
	s.front.set(nil)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.log.Shutdown(ctx); err != nil {
		s.t.Error(err)
	}
}

func (s *system) openAppraiser() {
	s.t.Helper()
	var err error
	if s.appraiser, err = Open(s.acfg); err != nil {
		s.t.Fatal(err)
	}
	s.acfg.Witness.Init = false
	s.slot.set(s.appraiser.Handler())
}

func (s *system) closeAppraiser() {
	s.t.Helper()
	s.slot.set(nil)
	if err := s.appraiser.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// submit logs an entry.
func (s *system) submit(st *record.Statement) *checkpoint.Proof {
	s.t.Helper()
	st.Vendor = s.vendor.ID
	payload, err := st.Marshal()
	if err != nil {
		s.t.Fatal(err)
	}
	e, err := record.SignEntry(record.ProfileVendorSigned, payload, s.vendor.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	p, err := s.c.Submit(s.t.Context(), e)
	if err != nil {
		s.t.Error(err)
	}
	return p
}

func (s *system) submitKey() *checkpoint.Proof {
	k := record.NewSessionKey(s.vendor.Key.Public().(ed25519.PublicKey))
	id := sha256.Sum256(record.SPKI(s.vendor.Key.Public().(ed25519.PublicKey)))
	return s.submit(&record.Statement{PredicateType: record.PredicateVendorKey, VendorKey: &record.VendorKey{Key: k},
		Subjects: []record.Subject{{Name: record.SubjectKey, SHA256: id}}})
}

func (s *system) submitRelease() *checkpoint.Proof {
	return s.submit(&record.Statement{
		PredicateType: record.PredicateRelease,
		Subjects:      []record.Subject{{Name: s.vendor.Image.Name, SHA256: s.vendor.Image.SHA256}},
		Release: &record.Release{Image: s.vendor.Image, Version: fmt.Sprint(s.n.Add(1)),
			Measurements: []record.Measurement{{MRTD: tdxsim.Measurement("mrtd")}}, NotBefore: time.Now().UTC().Truncate(time.Second)},
	})
}

// served returns what is served as the checkpoint, and whether the appraiser has cosigned it with all keys.
func (s *system) served() (*checkpoint.Checked, bool) {
	s.t.Helper()
	note, err := s.c.Checkpoint(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := s.policy.Check(note)
	if err != nil {
		s.t.Fatal(err)
	}
	n := 0
	for _, x := range c.Cosignatures {
		if x.Key.Name() == testName {
			n++
		}
	}
	return c, n == 2
}

func (s *system) waitFor(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("no %s", what)
		}
	}
}

func (s *system) appraised() bool { _, ok := s.served(); return ok }

// It keeps up with a busy log: on an idle machine most trees get its cosignature while they are served, and in any case it
// follows, and the last one gets it. A bundle that requires it is refused without and good with it.
func TestBusyLog(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.submitKey()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					s.submitRelease()
				}
			}
		})
	}
	sizes, good := map[uint64]bool{}, map[uint64]bool{}
	for len(sizes) < 15 {
		c, ok := s.served()
		sizes[c.Size] = true
		if ok {
			good[c.Size] = true
		}
		time.Sleep(2 * time.Millisecond)
	}
	published, _ := s.served()
	note := httptest.NewRecorder()
	s.appraiser.Handler().ServeHTTP(note, httptest.NewRequest("GET", strings.TrimSuffix(s.appraiser.exceptionsPath(), "exceptions")+"checkpoint", nil))
	close(stop)
	wg.Wait()
	t.Logf("of %d checkpoints that were seen, %d had its cosignature before the next one", len(sizes), len(good))
	n, err := checkpoint.ParseNote(note.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	cosigned, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil || cosigned.Size <= 2 {
		t.Errorf("it has cosigned a tree of %d when one of %d was published, %v", cosigned.Size, published.Size, err)
	}
	s.waitFor("cosignature of the last one", s.appraised)

	keys := s.acfg.Witness.Keys
	appraisal, err := verifier.ParsePolicy(fmt.Appendf(nil, "release-keys:\n  - vendor: %s\n    keys: [%s]\ntime:\n  allow-unproven: true\nprofiles: [vendor-signed/v1]\nappraisers:\n  - %s\n  - %s\n",
		s.vendor.ID, base64.StdEncoding.EncodeToString(record.SPKI(s.vendor.Key.Public().(ed25519.PublicKey))), keys[0].VKey(), keys[1].VKey()))
	if err != nil {
		t.Fatal(err)
	}
	o := bundle.Options{LogPolicy: s.policy, Appraisal: appraisal, Root: s.root}
	check := func(c *client.Client, index uint64) *bundle.Finding {
		t.Helper()
		b, err := c.AssembleBundle(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		f, err := bundle.Check(b, o)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	s.slot.set(nil)
	p := s.submitRelease()
	f := check(s.c, p.Index)
	refused := 0
	for _, r := range f.Refusals {
		if r.Code == bundle.CodeAppraiser {
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("without its cosignatures: %v", f.Refusals)
	}
	waiting, err := client.New(s.front.url, client.Config{LogPolicy: s.policy, Appraisers: []*checkpoint.VerifierKey{keys[0].Verifier(), keys[1].Verifier()}})
	if err != nil {
		t.Fatal(err)
	}
	s.slot.set(s.appraiser.Handler())
	f = check(waiting, p.Index)
	for _, r := range f.Refusals {
		if r.Code == bundle.CodeAppraiser {
			t.Errorf("with its cosignatures: %v", r)
		}
	}
	if len(f.Log.Appraisers) != 2 {
		t.Errorf("appraisers %v", f.Log.Appraisers)
	}
}

// While it is behind, or an entry isn't genuine, or it is away, the log publishes all the same; what it cosigns when
// that is over is what was published meanwhile. Restarts of either change nothing.
func TestOverTime(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.submitKey()
	s.waitFor("first cosignature", s.appraised)

	// Away: each submission is answered with a proof, so that it was published.
	s.closeAppraiser()
	seen := s.slot.seen.Load()
	for range 5 {
		s.submitRelease()
	}
	if s.appraised() {
		t.Error("cosigned by one who is away")
	}
	if n := s.slot.seen.Load() - seen; n > 12 {
		t.Errorf("one who is away was asked %d times", n)
	}
	s.openAppraiser()
	s.waitFor("cosignature after a restart of the appraiser", s.appraised)

	// A restart of the log keeps the cosignature.
	s.closeLog()
	s.openLog()
	s.waitFor("cosignature after a restart of the log", s.appraised)

	// An entry that isn't genuine.
	c, _ := s.served()
	s.bad.Store(int64(c.Size)) // what is logged next
	p := s.submitRelease()
	for range 3 {
		s.submitRelease()
	}
	s.waitFor("refusal", func() bool { return s.appraiser.Blocked() != nil })
	if d := s.appraiser.Blocked(); int64(d.Index) != s.bad.Load() {
		t.Errorf("blocked by %+v", d)
	}
	for range 3 {
		s.submitRelease()
		if s.appraised() {
			t.Error("cosigned with a disputed entry")
		}
	}
	s.closeAppraiser()
	s.openAppraiser()
	s.submitRelease()
	s.waitFor("refusal after a restart", func() bool { return s.appraiser.Blocked() != nil })
	if s.appraised() {
		t.Error("cosigned with a disputed entry after a restart")
	}
	d := s.appraiser.Blocked()
	if err := os.WriteFile(s.file, fmt.Appendf([]byte(header), "exception %d %x 2026-11-24 for the test\n", d.Index, d.LeafHash), 0o644); err != nil {
		t.Fatal(err)
	}
	s.waitFor("cosignature with an exception", s.appraised)
	resp, err := http.Get(s.slot.url + s.appraiser.exceptionsPath())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if len(s.appraiser.Exceptions().List) != 1 {
		t.Errorf("exceptions %+v", s.appraiser.Exceptions())
	}
	if e := s.log.Err(); e != nil {
		t.Error(e)
	}
	_ = p
}

// With the monitor itself, which looks for news once a minute unless it is asked, the appraiser is there within the time
// that it waits, and finds nothing to dispute in an honest log.
func TestMonitor(t *testing.T) {
	t.Parallel()
	var m *monitor.Monitor
	s := newSystem(t, func(s *system) Source {
		var err error
		if m, err = monitor.Open(monitor.Config{Log: s.c, LogPolicy: s.policy, Dir: t.TempDir(), Root: s.root, Interval: time.Hour}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { m.Run(ctx) })
		t.Cleanup(func() { cancel(); wg.Wait(); m.Close() })
		return FromMonitor(m)
	})
	s.submitKey()
	for range 10 {
		s.submitRelease()
	}
	s.waitFor("cosignature", s.appraised)
	size, root, note := m.Verified()
	c, ok := s.served()
	if !ok || size < c.Size || len(note) == 0 {
		t.Errorf("cosigned %d of %d verified", c.Size, size)
	}
	if got, err := m.RootAt(c.Size); err != nil || got != c.Root {
		t.Errorf("root %x, %v; want %x, as of %x", got, err, c.Root, root)
	}
	found, err := m.Findings(0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Index != nil && disputing[f.Kind] {
			t.Errorf("an honest log is disputed: %+v", f)
		}
	}
}

// A log that lost data, and whose witnesses are away, is kept from going on by what the appraiser has cosigned.
func TestLostData(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.submitKey()
	s.waitFor("first cosignature", s.appraised)
	s.closeLog()
	old := s.cfg.Dir + ".old"
	if err := os.CopyFS(old, os.DirFS(s.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	s.openLog()
	s.submitRelease()
	s.waitFor("next cosignature", s.appraised)
	s.closeLog()
	cfg := s.cfg
	cfg.Dir = old
	text := s.policy.String()
	for _, w := range s.policy.Witnesses() {
		if strings.HasPrefix(w.Name, "w") {
			text = strings.ReplaceAll(text, w.URL, "http://127.0.0.1:1")
		}
	}
	var err error
	if cfg.LogPolicy, err = checkpoint.ParsePolicy([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if l, err := sessionlog.Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "m0") {
		t.Errorf("an old copy went on: %v", err)
		if err == nil {
			l.Shutdown(t.Context())
		}
	}
	s.openLog()
}

// What the monitor itself finds invalid is never cosigned until it is excepted.
func TestMonitorFinds(t *testing.T) {
	t.Parallel()
	w := bundletest.NewWorld(t, bundletest.LogOptions{Origin: testOrigin, Witnesses: 2})
	w.AddTime()
	bad := w.Append([]byte("not a leaf"))
	w.Tick(time.Minute)
	w.AddVendorKey(w.Vendor)
	w.Publish(w.Now)
	srv := httptest.NewServer(w.Handler())
	t.Cleanup(srv.Close)
	c, err := client.New(srv.URL, client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := monitor.Open(monitor.Config{Log: c, LogPolicy: w.Policy(), Dir: t.TempDir(), Root: w.Root(), Now: func() time.Time { return w.Now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "exceptions")
	if err := os.WriteFile(file, []byte(header), 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHarness(t, 0, func(cfg *Config) {
		cfg.Source, cfg.ExceptionsFile = FromMonitor(m), file
		cfg.Witness.Logs = []witness.Log{{Origin: testOrigin, Key: w.Keys[0].Verifier()}}
	})
	h.log = w.Log
	h.want(bad, 200, "")
	h.want(bad+1, 503, fmt.Sprintf("entry %d is disputed and not excepted: unsupported-leaf", bad))
	h.want(bad+2, 503, "unsupported-leaf")
	if err := os.WriteFile(file, fmt.Appendf([]byte(header), "exception %d %x 2026-11-24 for the test\n", bad, record.LeafHash(w.Leaf(bad))), 0o644); err != nil {
		t.Fatal(err)
	}
	h.want(bad+2, 200, "")
}
