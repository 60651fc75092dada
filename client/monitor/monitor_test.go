package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

func TestOpenRefuses(t *testing.T) {
	l := newLab(t, witnesses)
	l.open()
	good := l.cfg
	l.m.Close()
	none := newLab(t, bundletest.LogOptions{})
	for _, tt := range []struct {
		name, want string
		edit       func(*Config)
	}{
		{"no log", "no log", func(c *Config) { c.Log = nil }},
		{"no log policy", "no log policy", func(c *Config) { c.LogPolicy = nil }},
		{"quorum none", "quorum none", func(c *Config) { c.LogPolicy = none.Policy() }},
		{"no directory", "no directory", func(c *Config) { c.Dir = "" }},
		{"another origin", "names no log", func(c *Config) { c.Origin = "other.example/log" }},
		{"a witness without a URL", "not an http or https URL", func(c *Config) { c.Witnesses = []Witness{{Name: "w", URL: "w.example"}} }},
		{"negative duration", "duration of -1s", func(c *Config) { c.UnpairedAfter = -time.Second }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.edit(&c)
			if m, err := Open(c); err == nil {
				m.Close()
				t.Error("opened")
			} else if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q", err, tt.want)
			}
		})
	}
}

// Whoever waits is woken: for a size by a poll that it asks for, for a finding by its commit; and by the end.
func TestWait(t *testing.T) {
	l := newLab(t, witnesses)
	m := l.open(func(c *Config) { c.Interval = time.Hour })
	l.Publish(l.Now)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := m.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	if err := m.WaitVerified(ctx, l.Size()); err != nil {
		t.Fatal(err)
	}
	found := make(chan error, 1)
	wg.Go(func() { found <- m.Wait(ctx, 0) })
	l.Append([]byte("no leaf"))
	l.Publish(l.Now)
	if err := m.WaitVerified(ctx, l.Size()); err != nil {
		t.Fatal(err)
	}
	if err := <-found; err != nil {
		t.Error(err)
	}
	late := make(chan error, 2)
	wg.Go(func() { late <- m.Wait(context.Background(), 100) })
	wg.Go(func() { late <- m.WaitVerified(context.Background(), 1<<30) })
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-late; !errors.Is(err, errClosed) {
			t.Errorf("waiting ended with %v", err)
		}
	}
	if err := m.Step(context.Background()); !errors.Is(err, errClosed) {
		t.Errorf("Step after Close: %v", err)
	}
	wg.Wait()
}

func TestProofs(t *testing.T) {
	l := newLab(t, witnesses)
	l.fill(300)
	m := l.open()
	l.publish()
	to := l.Head(l.Size())
	for _, from := range []uint64{0, 1, 255, 256, 257, to.Size} {
		p, err := m.Consistency(from, to.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkpoint.VerifyConsistency(l.Head(from).Root, to.Root, from, to.Size, p); err != nil {
			t.Errorf("from %d: %v", from, err)
		}
	}
	for _, tt := range []func() error{
		func() error { _, err := m.RootAt(to.Size + 1); return err },
		func() error { _, err := m.Consistency(1, to.Size+1); return err },
		func() error { _, err := m.Consistency(2, 1); return err },
		func() error { _, err := m.Inclusion(to.Size, to.Size); return err },
		func() error { _, err := m.Tile(0, 9, 1); return err },
		func() error { _, err := m.Tile(0, 1, 200); return err },
	} {
		if tt() == nil {
			t.Error("something beyond the tree")
		}
	}
	if b, err := m.Tile(0, 0, 256); err != nil || len(b) != 256*32 {
		t.Errorf("tile of %d bytes, %v", len(b), err)
	}
}

// A monitor is polite: it asks for nothing twice, and for little at once.
func TestReads(t *testing.T) {
	l := newLab(t, witnesses)
	l.session()
	l.fill(2000)
	var now, most atomic.Int32
	l.answer = func(rw http.ResponseWriter, r *http.Request) bool {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		time.Sleep(2 * time.Millisecond)
		if !strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			t.Errorf("%s without gzip", r.URL.Path)
		}
		return false
	}
	l.open(func(c *Config) { c.Reads = 3 })
	l.publish()
	l.wantNone()
	// The bundle's tile is read after the bundle, and the proof's tiles beside it.
	if got := most.Load(); got > 4 {
		t.Errorf("%d requests at once", got)
	}
	l.step()
	l.mu.Lock()
	defer l.mu.Unlock()
	for path, n := range l.reads {
		if n > 1 && path != "/checkpoint" && !strings.HasPrefix(path, "/tile/1/") && !strings.HasPrefix(path, "/tile/0/007") {
			t.Errorf("%s was read %d times", path, n)
		}
	}
}

// stalePCS has newer collateral than the log.
type stalePCS struct {
	set *tdx.Collateral
	err error
}

func (p *stalePCS) Collateral(context.Context, string, string, time.Time) (*tdx.Collateral, error) {
	return p.set, p.err
}

func TestStaleCollateral(t *testing.T) {
	l := newLab(t, witnesses)
	source := &stalePCS{set: l.Set}
	l.open(func(c *Config) { c.PCS = source })
	l.publish()
	l.wantNone()
	source.set = l.collateral(30)
	l.Tick(47 * time.Hour)
	l.AddTime()
	l.publish()
	l.wantNone() // there is time yet
	l.Tick(2 * time.Hour)
	l.AddTime()
	l.publish()
	l.want(KindCollateralStale)
	source.err = pcs.ErrUnreachable
	l.Tick(2 * time.Hour)
	l.AddTime()
	l.Publish(l.Now)
	if err := l.m.Step(t.Context()); err == nil {
		t.Error("a source that can't be reached is no error")
	}
	source.set, source.err = l.Set, nil
	l.AddCollateral(l.collateral(30))
	l.Tick(2 * time.Hour)
	l.AddTime()
	l.publish()
	l.want(KindCollateralStale)
}

// What a finding looks like is a contract.
func TestFindingJSON(t *testing.T) {
	f := newFinding(KindDuplicateStatement, "x", "leaf %d", 3).at(3).with("vendor", "v").with("tenant", "")
	f.ID = f.id("log.example")
	b, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"` + f.ID + `","seq":0,"class":"operational","severity":"low","kind":"duplicate-statement","log":"","index":3,"found_at":"0001-01-01T00:00:00Z","message":"leaf 3","subject":{"vendor":"v"}}`
	if string(b) != want {
		t.Errorf("got %s\nwant %s", b, want)
	}
	if len(f.ID) != 32 || f.ID == f.id("log.example/2") || f.ID == newFinding(KindTwoFinals, "x", "").id("log.example") {
		t.Errorf("ID %q doesn't depend on log and kind", f.ID)
	}
}

func TestSequence(t *testing.T) {
	s := &sequence{Next: 1}
	for i, step := range []struct {
		n    uint64
		want bool
	}{{3, true}, {5, true}, {4, true}, {1, true}, {1, false}, {4, false}, {2, true}, {6, true}, {3, false}, {9, true}, {12, true}} {
		if got := s.use(step.n); got != step.want {
			t.Fatalf("step %d: use(%d) = %v; %+v", i, step.n, got, s)
		}
	}
	if g := s.miss(); g != [2]uint64{7, 8} || s.Next != 10 {
		t.Errorf("missed %v, next %d", g, s.Next)
	}
	if !s.use(8) || s.use(8) || !s.use(7) || s.use(7) || len(s.Missed) != 0 {
		t.Errorf("numbers that were missed: %+v", s)
	}
}

// Any order of distinct numbers is accepted once each, and leaves no gap.
func FuzzSequence(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{3, 1, 2, 0})
	f.Add([]byte{200, 1, 100, 50})
	f.Fuzz(func(t *testing.T, order []byte) {
		s := &sequence{Next: 1}
		seen := make(map[uint64]bool)
		for i, b := range order {
			n := uint64(b)%32 + 1
			if got := s.use(n); got == seen[n] {
				t.Fatalf("use(%d) = %v, the %d-th", n, got, i)
			}
			seen[n] = true
			if i%7 == 6 && len(s.Ahead) > 0 {
				s.miss()
			}
		}
		for n := uint64(1); n <= 33; n++ {
			if got := s.use(n); got == seen[n] {
				t.Fatalf("at the end, use(%d) = %v", n, got)
			}
		}
		if len(s.Ahead) != 0 || len(s.Missed) != 0 || s.Next != 34 {
			t.Fatalf("all numbers to 33 leave %+v", s)
		}
	})
}

// What is kept of a start has one encoding, and is all that a pair is judged by.
func FuzzOpen(f *testing.F) {
	l := newLab(f, witnesses)
	start := l.AddStart()
	run := l.AddModelRun(start)
	for _, index := range []uint64{start, run} {
		leaf, err := record.ParseLeaf(l.Leaf(index))
		if err != nil {
			f.Fatal(err)
		}
		q, err := tdx.ParseQuote(entryOf(leaf).Quote())
		if err != nil {
			f.Fatal(err)
		}
		p := &verifier.PlacedRecord{Origin: l.Origin, Index: index, Verdict: &verifier.Verdict{Entry: entryOf(leaf), Quote: q, TDX: &tdx.Result{PPID: "00112233"}}}
		b := encodeOpen(p)
		got, err := decodeOpen(l.Origin, b)
		if err != nil {
			f.Fatal(err)
		}
		if got.Index != index || got.Verdict.Entry.StatementDigest() != p.Verdict.Entry.StatementDigest() || got.Verdict.TDX.PPID != "00112233" || !bytes.Equal(got.Verdict.Quote.Body.MRTD, q.Body.MRTD) {
			f.Errorf("leaf %d: %+v", index, got)
		}
		f.Add(b)
	}
	f.Add(bytes.Repeat([]byte{255}, 264)) // a part whose length and its own byte don't fit into a byte
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodeOpen("log.example", b)
		if err != nil {
			return
		}
		if got := encodeOpen(p); !bytes.Equal(got, b) {
			t.Errorf("two encodings:\n%x\n%x", b, got)
		}
	})
}

// Who waits for the audit doesn't wait for a witness that doesn't answer.
func TestSlowWitness(t *testing.T) {
	l := newLab(t, witnesses)
	release := make(chan struct{})
	asked := make(chan struct{}, 10)
	slow := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-release
		http.NotFound(rw, r)
	}))
	t.Cleanup(slow.Close)
	free := sync.OnceFunc(func() { close(release) })
	t.Cleanup(free)
	l.Publish(l.Now)
	var now atomic.Int64 // the lab's clock, which sessions advance while the monitor looks at it
	now.Store(l.Now.UnixNano())
	m := l.open(func(c *Config) {
		c.Witnesses = []Witness{{Name: "slow", URL: slow.URL}}
		c.Now = func() time.Time { return time.Unix(0, now.Load()) }
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	<-asked
	for range 3 {
		l.session()
		now.Store(l.Now.UnixNano())
		l.Publish(l.Now)
		if err := m.WaitVerified(ctx, l.Size()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(asked); n > 0 {
		t.Errorf("the witness was asked %d times more, though it hasn't answered", n)
	}
	if w := m.Status().Witnesses; len(w) > 0 && w[0].Error != "" {
		t.Errorf("witness: %+v", w)
	}
	free()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	l.wantNone()
}
