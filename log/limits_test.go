package sessionlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// A clock is the log's, ahead of the real one by as much as a test says.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// What was fresh and in force isn't any more after a while.
func TestAges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := new(clock)
	w.now = c.now
	w.cfg = func(cfg *Config) { cfg.TimeInterval = 10 * time.Millisecond }
	s := w.open()
	old := w.newTD().start(t, s.freshness())
	s.mustAdd(w.newTD().start(t, s.freshness()))

	c.advance(11 * time.Minute)
	if a := s.add(old); a.status != 422 || a.name() != "stale-freshness" || !strings.Contains(a.problem.Detail, "11m") {
		t.Errorf("stale freshness note: %d %s", a.status, a.body)
	}
	s.close()
	w.cfg = func(cfg *Config) { cfg.TimeInterval, cfg.AdmitLate = 10*time.Millisecond, 10*time.Minute }
	s = w.open()
	if a := s.add(old); a.status != 422 || a.name() != "stale-freshness" {
		t.Errorf("later than late records may be: %d %s", a.status, a.body)
	}
	s.close()
	w.cfg = func(cfg *Config) { cfg.TimeInterval, cfg.AdmitLate = 10*time.Millisecond, time.Hour }
	s = w.open()
	s.mustAdd(old)
	// An idle log makes a new one when asked.
	s.mustAdd(w.newTD().start(t, s.freshness()))

	// The only collateral there is expires after 30 days.
	c.advance(40 * 24 * time.Hour)
	if a := s.add(w.newTD().start(t, s.freshness())); a.status != 503 || a.name() != "no-collateral" {
		t.Errorf("expired collateral: %d %s", a.status, a.body)
	}
	// With news from Intel all is well again, and a record names the new set.
	w.pcs.Swap(tdxsim.CollateralOptions{IssueDate: c.now().Add(-time.Hour), TCBEvaluationDataNumber: 19})
	s.close()
	s = w.open()
	p := s.mustAdd(w.newTD().start(t, s.freshness()))
	newest := collateralOf(t, p.Extra)
	if l := s.checkProof(s.get(fmt.Sprintf("/proof/by-collateral/%x", newest)).body); l.Index < 4 {
		t.Errorf("the record names the collateral leaf %d", l.Index)
	}
}

func collateralOf(t *testing.T, leaf []byte) record.Digest {
	t.Helper()
	l, err := record.ParseLeaf(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return l.(*record.RecordLeaf).Collateral
}

// A new set is used by the next record, an older one never again, and while the source is away the newest is good.
func TestCollateralMoves(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := new(switchSource)
	w.cfg = func(cfg *Config) { src.set(t, w, 18, 0); cfg.Collateral = src }
	s := w.open()
	add := func() record.Digest { return collateralOf(t, s.mustAdd(w.newTD().start(t, s.freshness())).Extra) }
	first := add()
	if got := add(); got != first {
		t.Errorf("the same set was logged twice: %x and %x", first, got)
	}
	src.set(t, w, 19, 0)
	var second record.Digest
	waitFor(t, "use of the new set", func() bool { second = add(); return second != first })
	for _, back := range []uint32{18, 17} {
		src.set(t, w, back, time.Minute) // issued later, but with an earlier number
		if got := add(); got != second {
			t.Errorf("evaluation data number went back to %d: %x", back, got)
		}
	}
	src.fail(pcs.ErrUnreachable)
	if got := add(); got != second {
		t.Errorf("with the source away: %x", got)
	}
	s.close()
	w.cfg = func(cfg *Config) { cfg.Collateral = src }
	s = w.open()
	if got := add(); got != second {
		t.Errorf("after a restart with the source away: %x", got)
	}
	src.set(t, w, 18, 2*time.Minute)
	if got := add(); got != second {
		t.Errorf("after a restart the number went back: %x", got)
	}
}

func TestCollateralUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := new(switchSource)
	src.fail(pcs.ErrUnreachable)
	w.cfg = func(cfg *Config) { cfg.Collateral = src }
	s := w.open()
	e := w.newTD().start(t, s.freshness())
	a := s.add(e)
	if a.status != http.StatusServiceUnavailable || a.name() != "no-collateral" || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	src.set(t, w, 18, 0)
	s.mustAdd(e)
}

// A set that isn't in force is none, whatever the source says.
func TestCollateralExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := new(switchSource)
	src.set(t, w, 18, -31*24*time.Hour)
	w.cfg = func(cfg *Config) { cfg.Collateral = src }
	s := w.open()
	if a := s.add(w.newTD().start(t, s.freshness())); a.status != 422 || a.name() != "no-collateral" || !strings.Contains(a.problem.Detail, "valid") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if _, ok, err := s.index.indexAt(digestKey(keyCollateral, leafOf(src.c).ID())); ok || err != nil {
		t.Errorf("it was logged: %v %v", ok, err)
	}
}

// A submission is refused before anybody is asked for collateral if a rule that needs none is broken.
func TestCheapRulesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	src := new(switchSource)
	src.set(t, w, 18, 0)
	w.cfg = func(cfg *Config) { cfg.Collateral = src }
	s := w.open()
	f := s.freshness()
	f.Note[0] ^= 1
	if a := s.add(w.newTD().start(t, f)); a.name() != "unknown-freshness" {
		t.Errorf("%d %s", a.status, a.body)
	}
	d := w.newTD()
	d.platform = tdxsim.NewPKI([]byte("another"), time.Now()).NewPlatform(tdxsim.PlatformOptions{})
	if a := s.add(d.start(t, s.freshness())); a.name() != "not-genuine" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if n := src.asked.Load(); n != 0 {
		t.Errorf("the source was asked %d times", n)
	}
}

// Beyond the limit of submissions in flight the answer is 503, and those in flight are unharmed.
func TestOverload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gate := make(chan struct{})
	var hold atomic.Bool
	w.cfg = func(cfg *Config) {
		cfg.MaxInFlight = 2
		cfg.addFn = func(next tessera.AddFn) tessera.AddFn {
			return func(ctx context.Context, e *tessera.Entry) tessera.IndexFuture {
				if hold.Load() {
					<-gate
				}
				return next(ctx, e)
			}
		}
	}
	s := w.open()
	f := s.freshness()
	s.mustAdd(w.newTD().start(t, f)) // so that collateral is there
	hold.Store(true)
	var wg sync.WaitGroup
	for range 2 {
		e := w.newTD().start(t, f)
		wg.Go(func() {
			if a := s.add(e); a.status != 200 {
				t.Errorf("in flight: %d %s", a.status, a.body)
			}
		})
	}
	waitFor(t, "two submissions in flight", func() bool { n, _ := s.flight.inUse(); return n == 2 })
	a := s.add(w.newTD().start(t, f))
	if a.status != 503 || a.name() != "overloaded" || a.header.Get("Retry-After") == "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	hold.Store(false)
	close(gate)
	wg.Wait()
	if n := s.metric(`affidavit_log_submissions_total{result="overloaded"}`); n != 1 {
		t.Errorf("metric says %v overloads", n)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.writeVendors(w.vendorsYAML("{rate: 0.001, burst: 2}"))
	w.cfg = func(c *Config) { c.poll = time.Hour } // the test has the file read, and nobody else
	s := w.open()
	f := s.freshness()
	for range 2 {
		s.mustAdd(w.newTD().start(t, f))
	}
	a := s.add(w.newTD().start(t, f))
	if a.status != 429 || a.name() != "quota-exceeded" || a.header.Get("Retry-After") == "" || a.header.Get("Retry-After") == "0" {
		t.Errorf("%d %s %q", a.status, a.body, a.header.Get("Retry-After"))
	}
	// The other vendor has a quota of its own, and a wrong token uses up nobody's.
	if a := s.post([]byte("x"), tokenB, binaryType); a.status != 400 {
		t.Errorf("other vendor: %d", a.status)
	}
	// Reading the file again gives no new burst.
	w.writeVendors("# changed\n" + w.vendorsYAML("{rate: 0.001, burst: 2}"))
	s.Log.vendors.reload()
	if a := s.add(w.newTD().start(t, f)); a.status != 429 {
		t.Errorf("after reloading: %d", a.status)
	}
}

// The vendors file is read again when it changes, and a broken one changes nothing.
func TestVendorsReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg = func(cfg *Config) { cfg.poll = 5 * time.Millisecond }
	s := w.open()
	good := w.vendorsYAML("{rate: 10, burst: 10}")
	status := func(token string) int { return s.post([]byte("x"), token, binaryType).status }
	if status(tokenA) != 400 || status("new-token") != 401 {
		t.Fatal("the test is wrong")
	}
	reloads := func(result string) float64 {
		return s.metric(`affidavit_log_vendors_reloads_total{result="` + result + `"}`)
	}
	w.writeVendors(good + "\n  - id: https://a.example\n    token-sha256: 00\n")
	waitFor(t, "report of the broken file", func() bool { return reloads("failed") == 1 })
	if status(tokenA) != 400 {
		t.Error("a broken file locked a vendor out")
	}
	time.Sleep(30 * time.Millisecond)
	if n := reloads("failed"); n != 1 {
		t.Errorf("one broken file was reported %v times", n)
	}
	w.writeVendors(strings.Replace(good, hexSum(tokenA), hexSum("new-token"), 1))
	waitFor(t, "new token", func() bool { return status("new-token") == 400 })
	if status(tokenA) != 401 {
		t.Error("the old token is still good")
	}
}

// What can't be published in time is answered 202, and is there later, also after a restart.
func TestAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg = func(cfg *Config) { cfg.CheckpointInterval = time.Hour; cfg.MaxWait = 50 * time.Millisecond }
	s := w.open()
	// The first checkpoint is of the empty tree, the next one is due in an hour.
	key := vendorKeyEntry(t, vendorA, s.relA)
	a := s.add(key)
	digest := key.StatementDigest()
	if want := fmt.Sprintf("proof/by-statement/%x", digest); a.status != 202 || a.header.Get("Location") != want {
		t.Fatalf("%d %s, Location %q", a.status, a.body, a.header.Get("Location"))
	}
	if a := s.get("/" + a.header.Get("Location")); a.status != 404 {
		t.Errorf("not published yet: %d %s", a.status, a.body)
	}
	if a := s.add(key); a.status != 202 {
		t.Errorf("again: %d %s", a.status, a.body)
	}
	s.close()
	s = w.open()
	s.checkProof(s.get(fmt.Sprintf("/proof/by-statement/%x", digest)).body)
}

// After Shutdown nothing is taken, and what was taken is published.
func TestShutdown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	f := s.freshness()
	s.mustAdd(w.newTD().start(t, f))
	type result struct {
		e *record.Entry
		a answer
	}
	results := make(chan result)
	const n = 100
	for range n {
		e := w.newTD().start(t, f)
		go func() {
			r := result{e: e}
			req, _ := http.NewRequest("POST", s.url+"/add", bytes.NewReader(e.Bytes()))
			req.Header.Set("Content-Type", binaryType)
			req.Header.Set("Authorization", "Bearer "+tokenA)
			if resp, err := http.DefaultClient.Do(req); err == nil { // else it came after the end
				r.a.status = resp.StatusCode
				r.a.body, err = io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil {
					t.Errorf("an answer was cut off: %v", err)
				}
			}
			results <- r
		}()
	}
	first := <-results
	closed := make(chan struct{})
	go func() { s.close(); close(closed) }()
	acked := map[record.Digest]uint64{}
	take := func(r result) {
		switch r.a.status {
		case 200:
			acked[r.e.StatementDigest()] = s.checkProof(r.a.body).Index
		case 0, 503:
		default:
			t.Errorf("%d %s", r.a.status, r.a.body)
		}
	}
	take(first)
	for range n - 1 {
		take(<-results)
	}
	<-closed
	if _, err := s.Log.submit(t.Context(), s.Log.vendors.now.Load().byID[vendorA], w.newTD().start(t, f)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Shutdown: %v", err)
	}
	s = w.open()
	for d, i := range acked {
		if p := s.checkProof(s.get(fmt.Sprintf("/proof/by-statement/%x", d)).body); p.Index != i {
			t.Errorf("index %d became %d", i, p.Index)
		}
	}
	if len(acked) == 0 {
		t.Error("nothing was acknowledged")
	}
}

// A vendor's flood leaves places for others, and what was taken is given back.
func TestPlaces(t *testing.T) {
	take := func(p *places, vendor string) (n int) {
		for p.take(vendor) {
			n++
		}
		return n
	}
	for _, tt := range []struct{ total, first, second int }{{512, 342, 114}, {4, 3, 1}, {3, 2, 1}, {2, 2, 0}, {1, 1, 0}} {
		p := newPlaces(tt.total)
		if n := take(p, "a"); n != tt.first {
			t.Errorf("of %d places the first gets %d, want %d", tt.total, n, tt.first)
		}
		if n := take(p, "b"); n != tt.second {
			t.Errorf("of %d places the second gets %d, want %d", tt.total, n, tt.second)
		}
		if n, vendors := p.inUse(); n != tt.first+tt.second || vendors != min(tt.second, 1)+1 {
			t.Errorf("of %d places %d are in use by %d", tt.total, n, vendors)
		}
		for range tt.first {
			p.leave("a")
		}
		for range tt.second {
			p.leave("b")
		}
		if n, vendors := p.inUse(); n != 0 || vendors != 0 || p.free != tt.total || len(p.taken) != 0 {
			t.Errorf("%d places are still in use by %d, %d are free", n, vendors, p.free)
		}
	}
	// Both want all there is, and give back and take at random: neither is kept out.
	p := newPlaces(30)
	for i := range 1000 {
		p.take("a")
		p.take("b")
		if i%3 == 0 {
			p.leave("a")
		}
		if i > 100 && (p.taken["a"] < 9 || p.taken["b"] < 9) {
			t.Fatalf("step %d: %v", i, p.taken)
		}
	}
}

// While one vendor floods the log and nothing gets done, another still gets its submissions in.
func TestFairness(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gate := make(chan struct{})
	var hold atomic.Bool
	w.cfg = func(cfg *Config) {
		cfg.MaxInFlight = 9
		cfg.addFn = func(next tessera.AddFn) tessera.AddFn {
			return func(ctx context.Context, e *tessera.Entry) tessera.IndexFuture {
				if hold.Load() {
					<-gate
				}
				return next(ctx, e)
			}
		}
	}
	s := w.open()
	f := s.freshness()
	s.mustAdd(w.newTD().start(t, f))
	hold.Store(true)
	var wg sync.WaitGroup
	var refused atomic.Int64
	for range 20 {
		e := w.newTD().start(t, f)
		wg.Go(func() {
			if a := s.add(e); a.status == 503 {
				refused.Add(1)
			} else if a.status != 200 {
				t.Errorf("flood: %d %s", a.status, a.body)
			}
		})
	}
	waitFor(t, "the flood", func() bool { n, _ := s.flight.inUse(); return n == 6 && refused.Load() == 14 })
	d := w.newTD()
	d.vendor = vendorB
	e := d.start(t, f)
	wg.Go(func() {
		if a := s.post(e.Bytes(), tokenB, binaryType); a.status != 200 {
			t.Errorf("the other vendor: %d %s", a.status, a.body)
		}
	})
	waitFor(t, "the other vendor's place", func() bool { n, vendors := s.flight.inUse(); return n == 7 && vendors == 2 })
	hold.Store(false)
	close(gate)
	wg.Wait()
	if n, vendors := s.flight.inUse(); n != 0 || vendors != 0 {
		t.Errorf("%d places are still taken by %d vendors", n, vendors)
	}
}
