package recorder

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/inference"
	"github.com/affidavit-log/affidavit/client/session/quote"
	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// pair is a recorder, and an inference proxy of another vendor that its agent's calls go to.
type pair struct {
	t       testing.TB
	cfg     Config
	proxy   inference.Config
	tls     *httptest.Server
	handler atomic.Pointer[inference.Proxy]
	check   bundle.Options
	settle  bool // the gateway's records, one per call, are in the log before the session ends
}

// newPair doesn't start anything: a test may change the configurations first. own and gateway are for sessions and runs.
func newPair(t testing.TB, own, gateway session.Config, options func(time.Time) (session.Options, error), check bundle.Options) *pair {
	t.Helper()
	dir := sessiontest.Memory(t)
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"id":"chatcmpl-1","model":"qwen3-coder","choices":[],"usage":{"prompt_tokens":11,"completion_tokens":7}}`)
	}))
	t.Cleanup(model.Close)
	up, err := url.Parse(model.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{t: t, check: check}
	p.tls = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.handler.Load().ServeHTTP(w, r) }))
	p.tls.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelError)
	t.Cleanup(p.tls.Close)
	at, err := url.Parse(p.tls.URL)
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	channel := session.TLSChannel(p.tls.Certificate().RawSubjectPublicKeyInfo)
	weights := record.Digest(sha256.Sum256([]byte("weights")))
	p.proxy = inference.Config{
		Session: gateway, Dir: filepath.Join(dir, "gateway"), Out: filepath.Join(dir, "gateway-out"), Upstream: up, Provider: "example",
		Channel: channel, Weights: &weights, Log: quiet,
	}
	p.cfg = Config{
		Session: own, Dir: filepath.Join(dir, "recorder"), Out: filepath.Join(dir, "out"), Options: options, Log: quiet, RunsWait: 20 * time.Second,
		Models: []Model{{Provider: "*", Model: "*", Execution: record.ExecutionTEE, Channel: channel, Runs: at}},
		Retention: record.Retention{
			Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage"},
		},
		Erase: func(context.Context) error { return nil },
	}
	return p
}

// record runs a session: the agent makes calls, and reports as many. It returns what an auditor finds, and the final.
func (p *pair) record(calls, reported int) (*bundle.Finding, *record.Session) {
	t := p.t
	t.Helper()
	proxy, err := inference.Open(p.proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	p.handler.Store(proxy)
	r, err := Open(p.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s, err := r.Begin(1000, Request{Agent: "test", Conversation: "c"})
	if err == nil {
		s, err = r.Wait(t.Context(), 1000, false, s.ID, Starting)
	}
	if err != nil || s.State != Recording {
		t.Fatalf("%+v, %v", s, err)
	}
	for range calls {
		q, err := http.NewRequest(http.MethodPost, p.tls.URL+"/v1/chat/completions", strings.NewReader(`{"model":"qwen3","messages":[]}`))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set(inference.HeaderSession, s.Session)
		q.Header.Set(inference.HeaderStart, s.Start.Statement)
		q.Header.Set(inference.HeaderKey, s.Key)
		resp, err := p.tls.Client().Do(q)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("the proxy answered with status %d", resp.StatusCode)
		}
	}
	if p.settle {
		sessiontest.Until(t, "the calls' records are logged", func() bool { _, n := proxy.Counts(); return n == uint64(calls) })
	}
	for i := range reported {
		chat(t, r, s.ID, i)
	}
	if _, err := r.Finish(1000, false, s.ID, record.EndCompleted, ""); err != nil {
		t.Fatal(err)
	}
	if s, err = r.Wait(t.Context(), 1000, false, s.ID, Recording, Ending); err != nil || s.State != Done {
		t.Fatalf("%+v, %v", s, err)
	}
	b, err := os.ReadFile(filepath.Join(p.cfg.Out, s.Session+".affidavit"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := bundle.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	f, err := bundle.Check(parsed, p.check)
	if err != nil {
		t.Fatal(err)
	}
	return f, f.Subject.Entry().Statement().Session
}

// oneSet is a source of collateral that has one set.
type oneSet struct{ set *tdx.Collateral }

func (s oneSet) Collateral(context.Context, string, string, time.Time) (*tdx.Collateral, error) {
	return s.set, nil
}

// realPair is a pair with the log itself.
func realPair(t *testing.T) *pair {
	const origin = "log.example.org/2026"
	dir := t.TempDir()
	pki := tdxsim.NewPKI([]byte("recorder test"), time.Now().Add(-time.Hour))
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	set, err := pki.Collateral(tdxsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	vendors := []*bundletest.Vendor{bundletest.NewVendor("sandbox"), bundletest.NewVendor("gateway")}
	file, releases := "vendors:\n", "release-keys:\n"
	for _, v := range vendors {
		spki := base64.StdEncoding.EncodeToString(record.SPKI(v.Key.Public().(ed25519.PublicKey)))
		file += fmt.Sprintf("  - id: %s\n    token-sha256: %x\n    release-keys: [%s]\n    quota: {rate: 100, burst: 100}\n", v.ID, sha256.Sum256([]byte(v.ID)), spki)
		releases += fmt.Sprintf("  - vendor: %s\n    keys: [%s]\n", v.ID, spki)
	}
	vendorsFile := filepath.Join(dir, "vendors.yaml")
	if err := os.WriteFile(vendorsFile, []byte(file), 0o600); err != nil {
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
	t.Cleanup(func() {
		srv.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := log.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	w := bundletest.NewWorld(t, bundletest.LogOptions{Origin: origin})
	platform := pki.NewPlatform(tdxsim.PlatformOptions{})
	var all []session.Config
	for _, v := range vendors {
		c, err := client.New(srv.URL, client.Config{Token: v.ID, LogPolicy: pol})
		if err != nil {
			t.Fatal(err)
		}
		for _, index := range []uint64{w.AddVendorKey(v), w.AddRelease(v)} {
			leaf, err := record.ParseLeaf(w.Leaf(index))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Submit(t.Context(), leaf.(*record.VendorLeaf).Entry); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, session.Config{
			Log: c, Quotes: quote.Sim(platform, v.Quote()), AnyFileSystem: true, Vendor: v.ID, Environment: record.Environment{Release: v.Image},
		})
	}
	all[0].Environment.PersistentStorage = record.StorageNone
	appraisal, err := verifier.ParsePolicy([]byte(releases + "time: {allow-unproven: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return newPair(t, all[0], all[1], func(now time.Time) (session.Options, error) {
		month := now.UTC().Format("2006-01")
		return session.Options{Tenant: record.TenantPseudonym([]byte("key"), origin, vendors[0].ID, month), TenantEpoch: month}, nil
	}, bundle.Options{LogPolicy: pol, AllowQuorumNone: true, Appraisal: appraisal, Root: root})
}

// TestLinked: with the log itself, session and model runs name each other, and an auditor who accepts confidential models
// only accepts the session.
func TestLinked(t *testing.T) {
	for name, interval := range map[string]time.Duration{"a record per call": 0, "a record for many": time.Hour} {
		t.Run(name, func(t *testing.T) {
			p := realPair(t)
			p.proxy.Interval = interval
			f, s := p.record(3, 3)
			for _, refusal := range f.Refusals {
				t.Errorf("refused: %v", refusal)
			}
			calls, runs := uint64(0), 0
			for _, m := range s.Models {
				calls += m.Calls
				if m.ModelRun == nil || m.Provider != "example" || m.RequestModel != "qwen3" || m.ResponseModel != "qwen3-coder" || m.Channel != p.proxy.Channel {
					t.Errorf("model %+v", m)
				}
			}
			for _, l := range f.Leaves {
				if l.Role == bundle.RoleModelRun {
					runs++
				}
			}
			if want := map[bool]int{true: 3, false: 1}[interval == 0]; calls != 3 || len(s.Models) != want || runs != want {
				t.Errorf("%d calls of %d models, %d records; want %d", calls, len(s.Models), runs, want)
			}
			shown := slices.ContainsFunc(f.Claims, func(c verifier.Claim) bool {
				return strings.HasPrefix(c.ID, "model.") && c.Source == verifier.SourceVerifier && c.Status == verifier.StatusHolds
			})
			if shown != (interval == 0) {
				t.Errorf("a model is shown to be one in confidential hardware: %v", shown)
			}
		})
	}
}

// TestNotLinked: calls of which no good record can be had stay what the vendor says, are seen, and fail under a policy
// that wants records; and the session ends all the same.
func TestNotLinked(t *testing.T) {
	fast := func(t *testing.T) *pair {
		l := newLab(t)
		own := l.config(sessiontest.Memory(t))
		gateway := own.Session
		gateway.Vendor, gateway.Quotes, gateway.Environment = l.Gateway.ID, quote.Sim(l.Platform, l.Gateway.Quote()), record.Environment{Release: l.Gateway.Image}
		p := newPair(t, own.Session, gateway, own.Options, l.Options())
		p.cfg.RunsWait = time.Minute
		return p
	}
	for _, tt := range []struct {
		name            string
		edit            func(p *pair)
		calls, reported int
		unlinked        uint64 // calls that are named without a record
		linked          uint64
	}{
		{"good", func(*pair) {}, 2, 2, 0, 2},
		{"more calls than the gateway has seen", func(p *pair) { p.settle, p.cfg.RunsWait = true, 5*time.Second }, 2, 5, 3, 2},
		{"calls that the agent keeps quiet about", func(*pair) {}, 2, 0, 0, 2},
		{"a gateway with another key", func(p *pair) { p.cfg.Models[0].Channel.SHA256[0]++; p.cfg.RunsWait = time.Second }, 2, 2, 2, 0},
		{"records that name another key", func(p *pair) { p.proxy.Channel.SHA256[0]++; p.cfg.RunsWait = time.Second }, 2, 2, 2, 0},
		{"a gateway that isn't there", func(p *pair) { p.cfg.Models[0].Runs.Host = "127.0.0.1:1"; p.cfg.RunsWait = time.Second }, 2, 2, 2, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := fast(t)
			tt.edit(p)
			f, s := p.record(tt.calls, tt.reported)
			var linked, unlinked uint64
			for _, m := range s.Models {
				switch {
				case m.Execution != record.ExecutionTEE:
					t.Errorf("model %+v", m)
				case m.ModelRun != nil:
					linked += m.Calls
				default:
					unlinked += m.Calls
				}
			}
			if linked != tt.linked || unlinked != tt.unlinked {
				t.Errorf("%d calls linked and %d not, want %d and %d", linked, unlinked, tt.linked, tt.unlinked)
			}
			refused := slices.ContainsFunc(f.Refusals, func(r verifier.Refusal) bool { return r.Code == verifier.CodeModelRun })
			if refused != (tt.unlinked > 0) || f.Allowed() == refused {
				t.Errorf("refusals %v", f.Refusals)
			}
		})
	}
}

// TestLinkRun: a record that contradicts the session isn't named.
func TestLinkRun(t *testing.T) {
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	c.Session.Dir = sessiontest.Memory(t)
	s, err := session.Start(t.Context(), c.Session, session.Options{Tenant: record.Digest{1}, TenantEpoch: "2026-11"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	channel := session.TLSChannel([]byte("gateway"))
	run := func(o session.RunOptions, calls int) (index uint64, leaf []byte) {
		t.Helper()
		rc := c.Session
		rc.Environment = record.Environment{Release: l.Vendor.Image}
		r, err := session.NewRun(rc)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for range calls {
			if _, err := r.Call(s.ID(), session.Action{Attributes: map[string]any{record.AttrOperationName: "chat"}}); err != nil {
				t.Fatal(err)
			}
		}
		if o.Session == nil {
			if err := r.Served(s.ID(), s.StartRef().Statement); err != nil {
				t.Fatal(err)
			}
		}
		o.Provider, o.RequestModel, o.Channel = "example", "qwen3", channel
		r.Finish(t.Context(), o) // it is logged; of a run that names no session that is logged, there is no bundle
		l.Mu.Lock()
		last := l.Adds[len(l.Adds)-1].StatementDigest()
		l.Mu.Unlock()
		p, err := c.Session.Log.ProofByStatement(t.Context(), last)
		if err != nil {
			t.Fatal(err)
		}
		return p.Index, p.Extra
	}
	served := func(edit func(*record.ServedSession)) *record.ServedSession {
		v := &record.ServedSession{ID: s.ID(), Statement: s.StartRef().Statement}
		edit(v)
		return v
	}
	mine, key := served(func(*record.ServedSession) {}), s.Key().KeyID
	good, goodLeaf := run(session.RunOptions{Session: mine, PeerKeyID: key}, 2)
	if m, err := linkRun(s, channel, 99, good, goodLeaf); err != nil || m.Calls != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	many, manyLeaf := run(session.RunOptions{}, 2)
	if m, err := linkRun(s, channel, 1, many, manyLeaf); err != nil || m.Calls != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	otherID, otherIDLeaf := run(session.RunOptions{Session: served(func(v *record.ServedSession) { v.ID[0]++ }), PeerKeyID: key}, 1)
	otherStart, otherStartLeaf := run(session.RunOptions{Session: served(func(v *record.ServedSession) { v.Statement[0]++ }), PeerKeyID: key}, 1)
	otherKey, otherKeyLeaf := run(session.RunOptions{Session: mine, PeerKeyID: strings.Repeat("0", 64)}, 1)
	l.Mu.Lock()
	start := l.Leaf(s.StartRef().Index)
	l.Mu.Unlock()
	for _, tt := range []struct {
		name    string
		channel record.Channel
		calls   uint64
		index   uint64
		leaf    []byte
	}{
		{"another channel", session.TLSChannel([]byte("another")), 2, good, goodLeaf},
		{"another session", channel, 1, otherID, otherIDLeaf},
		{"another start", channel, 1, otherStart, otherStartLeaf},
		{"another key", channel, 1, otherKey, otherKeyLeaf},
		{"before the start", channel, 2, s.StartRef().Index, goodLeaf},
		{"more calls than there are", channel, 3, many, manyLeaf},
		{"no calls", channel, 0, many, manyLeaf},
		{"no model run", channel, 1, good, start},
		{"no leaf", channel, 1, good, []byte("nonsense")},
	} {
		if m, err := linkRun(s, tt.channel, tt.calls, tt.index, tt.leaf); err == nil {
			t.Errorf("%s: %+v", tt.name, m)
		}
	}
}

// TestModelsDontFit: when there is no room for all models, none of the calls goes unmentioned.
func TestModelsDontFit(t *testing.T) {
	long := strings.Repeat("x", 200)
	var all []record.Model
	for i := range 60 {
		all = append(all, record.Model{
			Provider: long, RequestModel: long, Calls: uint64(i + 1), Execution: record.ExecutionTEE, ModelRun: &record.Digest{byte(i)}, Channel: session.TLSChannel(nil),
		}, record.Model{
			Provider: long, RequestModel: fmt.Sprint(i, long), Calls: 1, Execution: record.ExecutionUnattested, Channel: session.TLSChannel(nil),
		})
	}
	sum := func(models []record.Model) (n uint64) {
		for _, m := range models {
			n += m.Calls
		}
		return n
	}
	want := sum(all)
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	c.Session.Dir = sessiontest.Memory(t)
	s, err := session.Start(t.Context(), c.Session, session.Options{Tenant: record.Digest{1}, TenantEpoch: "2026-11"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var said []record.Model
	r := &Recorder{cfg: Config{setModels: func(s *session.Session, models []record.Model) error {
		said = models
		return s.SetModels(models)
	}}}
	if err := r.setModels(s, all); err != nil {
		t.Fatal(err)
	}
	if sum(said) != want || !slices.ContainsFunc(said, func(m record.Model) bool { return m.Provider == "other" && m.Execution == record.ExecutionUnattested }) {
		t.Errorf("%d calls of %d, as %d models", sum(said), want, len(said))
	}
	r.cfg.setModels = func(*session.Session, []record.Model) error { return record.ErrTooLarge }
	if err := r.setModels(s, all); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("no room at all: %v", err)
	}
}
