package sessionlog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	tlogwitness "github.com/affidavit-log/affidavit/witness"
)

// A testWitness is a real witness, or a handler that pretends to be one, which can be away or slow.
type testWitness struct {
	name     string
	keys     []*checkpoint.SigningKey
	url      string
	state    string
	down     atomic.Bool
	delay    atomic.Int64
	requests atomic.Int64

	mu      sync.Mutex
	handler http.Handler
}

func newTestWitness(t testing.TB, n int, now func() time.Time) *testWitness {
	t.Helper()
	return newTestCosigner(t, fmt.Sprintf("w%d.test/witness", n), now, nil)
}

// newTestCosigner is newTestWitness for a name, and for a witness that states more.
func newTestCosigner(t testing.TB, name string, now func() time.Time, approve func(context.Context, checkpoint.Checkpoint, *checkpoint.Note) error) *testWitness {
	t.Helper()
	x := &testWitness{name: name, state: filepath.Join(t.TempDir(), "state.db")}
	for _, kind := range []checkpoint.Kind{checkpoint.CosignatureEd25519, checkpoint.CosignatureMLDSA44} {
		k, err := checkpoint.GenerateKey(kind, x.name, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		x.keys = append(x.keys, k)
	}
	var logs []tlogwitness.Log
	for _, k := range commonKeys() {
		logs = append(logs, tlogwitness.Log{Origin: testOrigin, Key: k.Verifier()})
	}
	w, err := tlogwitness.Open(tlogwitness.Config{Name: x.name, Keys: x.keys, State: x.state, Init: true, Logs: logs, Now: now, Approve: approve})
	if err != nil {
		t.Fatal(err)
	}
	x.handler = w.Handler()
	ended := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		x.requests.Add(1)
		if x.down.Load() {
			panic(http.ErrAbortHandler)
		}
		select {
		case <-time.After(time.Duration(x.delay.Load())):
		case <-ended:
			return
		}
		x.mu.Lock()
		h := x.handler
		x.mu.Unlock()
		h.ServeHTTP(rw, r)
	}))
	srv.Config.ErrorLog = nil
	x.url = srv.URL
	t.Cleanup(func() { close(ended); srv.Close(); w.Close() })
	return x
}

func (x *testWitness) set(h http.Handler) {
	x.mu.Lock()
	x.handler = h
	x.mu.Unlock()
}

// witnessed returns a world with n witnesses, of which k must cosign with either key.
func witnessed(t testing.TB, n, k int, now func() time.Time) (*world, []*testWitness) {
	t.Helper()
	w := newWorld(t)
	w.now = now
	var all []*testWitness
	var lines, groups string
	for i := range n {
		x := newTestWitness(t, i, now)
		all = append(all, x)
		lines += fmt.Sprintf("witness w%d %s %s\nwitness w%dpq %s %s\ngroup g%d any w%d w%dpq\n", i, x.keys[0].VKey(), x.url, i, x.keys[1].VKey(), x.url, i, i, i)
		groups += fmt.Sprintf(" g%d", i)
	}
	w.policy = parsePolicy(t, lines+fmt.Sprintf("group all %d%s\nquorum all\n", k, groups))
	w.cfg = func(c *Config) { c.AllowQuorumNone = false; c.retry = 20 * time.Millisecond }
	return w, all
}

// cosigners returns the names of the witnesses that cosigned what is published.
func (s *server) cosigners() map[string]int {
	s.t.Helper()
	c, err := s.policy.Check(s.get("/checkpoint").body)
	if err != nil {
		s.t.Fatal(err)
	}
	names := map[string]int{}
	for _, x := range c.Cosignatures {
		names[x.Key.Name()]++
	}
	return names
}

// With three of four witnesses there, everything is published with both kinds of cosignatures, and one that comes late
// still joins.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	w, all := witnessed(t, 4, 3, nil)
	all[3].down.Store(true)
	s := w.open()
	var last *checkpoint.Proof
	for range 5 {
		last = s.mustAdd(w.newTD().start(t, s.freshness())) // whose proof is under the policy
	}
	if c := s.cosigners(); c[all[3].name] != 0 || len(c) < 3 {
		t.Errorf("cosigners %v", c)
	}
	if p := string(s.get("/").body); !strings.Contains(p, "w3") || !strings.Contains(p, "has not cosigned") {
		t.Error("the page doesn't say that a witness is away")
	}
	waitFor(t, "a covering time leaf", func() bool { return s.get(fmt.Sprintf("/proof/covering/%d", last.Index)).status == 200 })
	cov, err := s.client.ProofCovering(t.Context(), last.Index)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := record.ParseLeaf(cov.Extra)
	c, err := w.policy.Check(leaf.(*record.TimeLeaf).Note)
	if err != nil {
		t.Fatal(err)
	}
	if at, ok := w.policy.NotAfter(c); !ok || time.Since(at) > time.Minute {
		t.Errorf("the covering time leaf proves %v, %v", at, ok)
	}

	all[3].down.Store(false)
	waitFor(t, "the late witness", func() bool { return s.cosigners()[all[3].name] == 2 })
	if n := s.metric(`affidavit_log_witness_size{witness="w3"}`); n == 0 {
		t.Error("no metric of the late witness")
	}
	if c := s.cosigners(); len(c) != 4 {
		t.Errorf("cosigners %v", c)
	}
	s.audit()
	s.close()
	s = w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
}

// A new log starts without witnesses, sequences, and shows nothing until the quorum is there.
func TestWitnessesAway(t *testing.T) {
	t.Parallel()
	w, all := witnessed(t, 3, 2, nil)
	for _, x := range all {
		x.down.Store(true)
	}
	cfg := w.cfg
	w.cfg = func(c *Config) { cfg(c); c.MaxWait = 50 * time.Millisecond }
	s := w.open()
	key := vendorKeyEntry(t, vendorA, s.relA)
	if a := s.add(key); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for _, path := range []string{"/checkpoint", "/tile/0/000.p/1", "/tile/entries/000.p/1", "/proof/0", "/freshness",
		fmt.Sprintf("/proof/by-statement/%x", key.StatementDigest())} {
		if a := s.get(path); a.status != 503 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if s.notReady() == "" {
		t.Error("the log says that it is ready")
	}
	all[0].down.Store(false)
	waitFor(t, "one cosignature", func() bool {
		return s.metric(`affidavit_log_witness_requests_total{result="cosigned",witness="w0"}`) > 0
	})
	if a := s.get("/checkpoint"); a.status != 503 {
		t.Errorf("with one of two: %d", a.status)
	}
	all[2].down.Store(false)
	waitFor(t, "publication", func() bool { return s.get(fmt.Sprintf("/proof/by-statement/%x", key.StatementDigest())).status == 200 })
	s.audit()
}

// A witness that is slow delays nobody, while the others are a quorum.
func TestSlowWitness(t *testing.T) {
	t.Parallel()
	w, all := witnessed(t, 3, 2, nil)
	s := w.open()
	f := s.freshness()
	s.mustAdd(w.newTD().start(t, f))
	all[1].delay.Store(int64(time.Hour))
	before := all[1].requests.Load()
	for range 5 {
		s.mustAdd(w.newTD().start(t, f))
	}
	if n := all[1].requests.Load() - before; n > 1 {
		t.Errorf("a witness that doesn't answer had %d requests at once", n)
	}
	all[1].delay.Store(0)
}

// A log that has lost data, and whose witnesses have seen it, doesn't start, and if they were away then, it stops.
func TestWitnessKnowsMore(t *testing.T) {
	t.Parallel()
	w, all := witnessed(t, 1, 1, nil)
	s := w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	s.close()
	snapshot := filepath.Join(t.TempDir(), "snapshot")
	if err := os.CopyFS(snapshot, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	s = w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	s.close()
	size := s.pub.size()
	if err := os.RemoveAll(w.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(w.dir, os.DirFS(snapshot)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), w.config()); !errors.Is(err, ErrInconsistent) || !strings.Contains(err.Error(), fmt.Sprint(size)) {
		t.Fatalf("on an old copy: %v", err)
	}

	// Nor does a new log under the keys of the old one.
	c := w.config()
	c.Dir, c.Create = filepath.Join(tempDir(t), "log"), true
	if _, err := Open(t.Context(), c); !errors.Is(err, ErrInconsistent) {
		t.Fatalf("anew: %v", err)
	}
	if err := Exists(c.Dir); !errors.Is(err, ErrNoLog) {
		t.Errorf("a log was made all the same: %v", err)
	}

	all[0].down.Store(true)
	s = w.open()
	all[0].down.Store(false)
	// Whatever is appended now makes a fork.
	go s.submit(context.Background(), s.Log.vendors.now.Load().byID[vendorA], vendorKeyEntry(t, vendorA, w.relA))
	select {
	case <-s.Halted():
	case <-time.After(15 * time.Second):
		t.Fatal("the log goes on")
	}
	if err := s.Err(); !errors.Is(err, ErrInconsistent) {
		t.Errorf("halted by %v", err)
	}
	// What was published is still served, and nothing is taken.
	if a := s.get("/checkpoint"); a.status != 200 {
		t.Errorf("checkpoint: %d", a.status)
	}
	if a := s.add(vendorKeyEntry(t, vendorA, w.relA)); a.status != 503 {
		t.Errorf("submission: %d %s", a.status, a.body)
	}
	if s.metric("affidavit_log_halted") != 1 || !strings.Contains(s.notReady(), "halted") || !strings.Contains(string(s.get("/").body), "halted") {
		t.Error("nobody is told")
	}
}

// What witnesses have cosigned and the log didn't get to publish is no reason to stop: the log goes on from there.
func TestWitnessAhead(t *testing.T) {
	t.Parallel()
	w, _ := witnessed(t, 2, 2, nil)
	s := w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	s.close()
	old := map[string][]byte{}
	for _, name := range []string{publishedName, candidateName} {
		b, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		old[name] = b
	}
	s = w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	s.close()
	size := s.pub.size()
	for name, b := range old {
		if err := os.WriteFile(filepath.Join(w.dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s = w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	if s.pub.size() < size {
		t.Errorf("published %d after %d", s.pub.size(), size)
	}
}

// No witness can make the log loop, publish less, or hold more than a bounded answer, whatever it answers.
func TestHostileWitness(t *testing.T) {
	t.Parallel()
	answer := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			w.Write([]byte(body))
		}
	}
	var n atomic.Int64
	foreign, err := checkpoint.GenerateKey(checkpoint.CosignatureEd25519, "foreign.test/w", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range map[string]http.HandlerFunc{
		"always another size": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(409)
			fmt.Fprintf(w, "%d\n", n.Add(1)%7)
		},
		"ahead":      answer(409, "text/x.tlog.size", "1000000\n"),
		"not a size": answer(409, "text/x.tlog.size", "01\n"),
		"endless": func(w http.ResponseWriter, r *http.Request) {
			b := make([]byte, 1<<16)
			for range 1 << 8 {
				w.Write(b)
			}
		},
		"nothing":           answer(200, "text/plain", ""),
		"refuses the proof": answer(422, "text/plain", "no"),
		"not found":         answer(404, "text/plain", "no"),
		"come back in a century": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "999999")
			w.WriteHeader(429)
		},
		"redirects": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		},
		"foreign key": func(w http.ResponseWriter, r *http.Request) {
			line, _ := foreign.Sign(checkpoint.Checkpoint{Origin: testOrigin, Root: checkpoint.EmptyRoot()}.Text(), time.Now())
			w.Write(line)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, all := witnessed(t, 2, 1, nil)
			all[1].set(h)
			s := w.open()
			for range 3 {
				s.mustAdd(w.newTD().start(t, s.freshness()))
			}
			if c := s.cosigners(); c[all[1].name] != 0 {
				t.Errorf("cosigners %v", c)
			}
			if err := s.Err(); err != nil {
				t.Errorf("a witness's word stopped the log: %v", err)
			}
			time.Sleep(200 * time.Millisecond)
			if n := all[1].requests.Load(); n > 40 {
				t.Errorf("%d requests", n)
			}
		})
	}
	t.Run("bad signature", func(t *testing.T) {
		t.Parallel()
		w, all := witnessed(t, 2, 1, nil)
		for _, at := range []time.Time{{}, time.Now()} {
			all[1].set(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				// Time 0, or over another text.
				text := checkpoint.Checkpoint{Origin: testOrigin, Root: checkpoint.EmptyRoot()}.Text()
				line, err := all[1].keys[1].Sign(text, at)
				if err != nil {
					t.Error(err)
				}
				rw.Write(line)
			}))
			s := w.open()
			s.mustAdd(w.newTD().start(t, s.freshness()))
			if c := s.cosigners(); c[all[1].name] != 0 {
				t.Errorf("at %v: cosigners %v", at, c)
			}
			s.close()
		}
	})
}

// A witness gets no more requests than its budget.
func TestWitnessBudget(t *testing.T) {
	t.Parallel()
	w, all := witnessed(t, 2, 1, nil)
	text, _, _ := strings.Cut(w.policy.String(), "quorum ")
	var err error
	if w.policy, err = checkpoint.ParsePolicy([]byte(text + "quorum none\n")); err != nil {
		t.Fatal(err)
	}
	w.cfg = func(c *Config) { c.WitnessBudget = 48 } // 2 at once
	s := w.open()
	f := s.freshness()
	for range 10 {
		s.mustAdd(w.newTD().start(t, f))
	}
	for _, x := range all {
		if n := x.requests.Load(); n > 3 { // and one to ask what it has seen
			t.Errorf("%s: %d requests", x.name, n)
		}
	}
}

// An idle log has its checkpoint cosigned again when somebody asks for freshness, so that it is fresh.
func TestIdleFreshness(t *testing.T) {
	t.Parallel()
	c := new(clock)
	w, _ := witnessed(t, 3, 2, c.now)
	s := w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	for range 2 {
		// A clock that jumps while a time leaf is being made would make it look fresh.
		waitFor(t, "an idle log", func() bool {
			size, _ := s.index.position()
			_, due := s.times.due()
			return !due && s.pub.size() == size
		})
		c.advance(6 * time.Minute)
		asked := c.now()
		f, err := s.client.Freshness(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		from, ok := w.policy.NotBefore(f.Checked)
		if !ok || from.Before(asked.Add(-2*time.Second)) {
			t.Errorf("freshness asked for at %v is from %v", asked, from)
		}
		s.mustAdd(w.newTD().start(t, f.Freshness))
	}
}

// While keys are rotated, those who know the old one and those who know the new one are both served.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	s.close()
	next, err := checkpoint.GenerateKey(checkpoint.Ed25519, testOrigin, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.keys = append(append([]*checkpoint.SigningKey(nil), w.keys...), next)
	s = w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	p, err := checkpoint.ParsePolicy([]byte("log " + next.VKey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Check(s.get("/checkpoint").body); err != nil {
		t.Errorf("by the new key: %v", err)
	}
	if _, err := w.policy.Check(s.get("/checkpoint").body); err != nil {
		t.Errorf("by the old key: %v", err)
	}
	s.close()
	w.keys = []*checkpoint.SigningKey{next}
	if _, err := Open(t.Context(), w.config()); err == nil {
		t.Error("opened with keys that the log policy doesn't name")
	}
}
