package sessionlog

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	tlogwitness "github.com/affidavit-log/affidavit/witness"
)

// A testAppraiser is a real witness that cosigns what the test says it has verified, and keeps what it was asked about.
type testAppraiser struct {
	*testWitness
	t        testing.TB
	verified atomic.Uint64 // size

	mu    sync.Mutex
	asked []uint64
}

func (a *testAppraiser) approve(_ context.Context, c checkpoint.Checkpoint, _ *checkpoint.Note) error {
	a.mu.Lock()
	a.asked = append(a.asked, c.Size)
	a.mu.Unlock()
	if n := a.verified.Load(); c.Size > n {
		return &tlogwitness.DeferError{Reason: fmt.Sprintf("verified %d", n)}
	}
	return nil
}

func (a *testAppraiser) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.asked)
}

// appraised is witnessed with an appraiser of two keys, which has verified all there is.
func appraised(t testing.TB, n, k int) (*world, []*testWitness, *testAppraiser) {
	t.Helper()
	w, all := witnessed(t, n, k, nil)
	a := &testAppraiser{t: t}
	a.verified.Store(1 << 40)
	a.testWitness = newTestCosigner(t, "monitor.test/appraiser", nil, a.approve)
	lines, quorum, _ := strings.Cut(w.policy.String(), "group ")
	p, err := checkpoint.ParsePolicy([]byte(lines + fmt.Sprintf("witness m %s %s/\nwitness m-pq %s %s\ngroup ", a.keys[0].VKey(), a.url, a.keys[1].VKey(), a.url) + quorum))
	if err != nil {
		t.Fatal(err)
	}
	w.policy = p
	cfg := w.cfg
	w.cfg = func(c *Config) { cfg(c); c.Appraisers = []string{"m"} }
	return w, all, a
}

// submitSome submits one entry after the other: each answer means a publication of its own.
func (s *server) submitSome(n int) {
	s.t.Helper()
	f := s.freshness()
	for range n {
		s.mustAdd(s.newTD().start(s.t, f))
	}
}

// quiet waits until everything is published and no time leaf is due.
func (s *server) quiet() {
	s.t.Helper()
	waitFor(s.t, "an idle log", func() bool {
		size, _ := s.index.position()
		_, due := s.times.due()
		return !due && s.pub.size() == size && size == s.tree.size.Load()
	})
}

// What is published gets the appraiser's cosignatures, and is never offered to it before.
func TestAppraiser(t *testing.T) {
	t.Parallel()
	w, _, a := appraised(t, 3, 2)
	s := w.open()
	// What was ever served, in the order in which it was.
	var mu sync.Mutex
	var served []string
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			pub := s.pub.now.Load()
			if pub == nil {
				select {
				case <-s.pub.first:
				case <-stop:
					return
				}
				continue
			}
			mu.Lock()
			served = append(served, string(pub.note))
			mu.Unlock()
			select {
			case <-pub.next:
			case <-stop:
				return
			}
		}
	})
	s.submitSome(5)
	s.quiet()
	waitFor(t, "the last one", func() bool { return s.cosigners()[a.name] == 2 })
	close(stop)
	wg.Wait()

	published := map[uint64]bool{}
	lines, size := 0, uint64(0)
	for _, note := range served {
		c, err := w.policy.Check([]byte(note))
		if err != nil {
			t.Fatalf("served without a quorum: %v", err)
		}
		n := strings.Count(note, "\n— ")
		if c.Size < size || c.Size == size && n < lines {
			t.Errorf("size %d with %d signatures was served after size %d with %d", c.Size, n, size, lines)
		}
		size, lines = c.Size, n
		published[c.Size] = true
	}
	a.mu.Lock()
	for _, n := range a.asked {
		if !published[n] {
			t.Errorf("asked about size %d, which isn't among the published %v", n, published)
		}
	}
	a.mu.Unlock()
	// It comes after the quorum's, in the note too.
	note := string(s.get("/checkpoint").body)
	if i, j := strings.Index(note, "\n— "+a.name), strings.LastIndex(note, "\n— w"); i < j {
		t.Errorf("not in order:\n%s", note)
	}
	for name, least := range map[string]float64{
		`affidavit_log_appraiser_requests_total{appraiser="m",result="cosigned"}`: 1,
		`affidavit_log_appraiser_size{appraiser="m"}`:                             float64(size),
		`affidavit_log_appraised_checkpoints_total{appraiser="m"}`:                1,
	} {
		if v := s.metric(name); v < least {
			t.Errorf("%s is %v, want %v at least", name, v, least)
		}
	}
	if v := s.metric(`affidavit_log_witness_requests_total{result="cosigned",witness="m"}`); v != 0 {
		t.Errorf("it counts as a witness too: %v", v)
	}
	if p := string(s.get("/").body); !strings.Contains(p, "Appraisers") || strings.Contains(p, "<th>m-pq") {
		t.Error("the page doesn't show the appraiser once")
	}

	// A restart keeps the cosignatures, and asks for none that are there.
	s.close()
	n := a.count()
	s = w.open()
	if got := s.cosigners()[a.name]; got != 2 {
		t.Errorf("after a restart %d cosignatures", got)
	}
	if got := a.count(); got != n {
		t.Errorf("asked %d times more", got-n)
	}
	s.submitSome(1)
	waitFor(t, "the next one", func() bool { return s.cosigners()[a.name] == 2 })
}

// An appraiser that is away, or never answers, or is behind for ever, keeps nothing from being published, and is asked
// by one request at a time.
func TestAppraiserAway(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(a *testAppraiser, asked *atomic.Int64){
		"away": func(a *testAppraiser, _ *atomic.Int64) { a.down.Store(true) },
		"never answers": func(a *testAppraiser, asked *atomic.Int64) {
			ended := make(chan struct{})
			a.t.Cleanup(func() { close(ended) })
			a.set(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if r.Method == "GET" {
					rw.WriteHeader(404) // it would hold up the start for 5 seconds
					return
				}
				asked.Add(1)
				io.Copy(io.Discard, r.Body)
				select {
				case <-r.Context().Done():
				case <-ended:
				}
			}))
		},
		"behind": func(a *testAppraiser, _ *atomic.Int64) { a.verified.Store(0) },
		"come back in a century": func(a *testAppraiser, _ *atomic.Int64) {
			a.set(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Retry-After", "4000000000000")
				rw.WriteHeader(503)
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _, a := appraised(t, 2, 2)
			var asked atomic.Int64
			set(a, &asked)
			cfg := w.cfg
			w.cfg = func(c *Config) { cfg(c); c.MaxWait = time.Minute } // a submission that had to wait would show
			s := w.open()
			first, began := s.pub.size(), time.Now()
			s.submitSome(6) // each answer is a proof under a published checkpoint
			if n := s.pub.size() - first; n < 6 {
				t.Errorf("%d leaves were published", n)
			}
			if got := s.cosigners(); got[a.name] != 0 || len(got) != 2 {
				t.Errorf("cosigners %v", got)
			}
			if n := asked.Load(); n > 1 {
				t.Errorf("%d requests at once", n)
			}
			// It is told to come again after a second.
			if n := a.count(); name == "behind" && n > 3+int(time.Since(began)/time.Second) {
				t.Errorf("asked %d times in %v", n, time.Since(began))
			}
		})
	}
}

// While the appraiser is behind, it is asked again, and what it has verified in the end is cosigned, without another
// publication.
func TestAppraiserCatchesUp(t *testing.T) {
	t.Parallel()
	w, _, a := appraised(t, 1, 1)
	a.verified.Store(0)
	s := w.open()
	s.submitSome(3)
	s.quiet()
	waitFor(t, "an answer", func() bool {
		return s.metric(`affidavit_log_appraiser_requests_total{appraiser="m",result="behind"}`) > 0
	})
	if p := string(s.get("/").body); !strings.Contains(p, "leaves behind") {
		t.Errorf("the page doesn't say that it is behind: %+v", states(s.pub.appraisers, s.pub.now.Load(), time.Now()))
	}
	s.close() // and over a restart
	s = w.open()
	size := s.pub.size()
	a.verified.Store(1 << 40)
	waitFor(t, "its cosignatures", func() bool { return s.cosigners()[a.name] == 2 })
	if got := s.pub.size(); got != size {
		t.Errorf("published size %d, then %d", size, got)
	}
	// The next time leaf has them.
	last := s.mustAdd(w.newTD().start(t, s.freshness()))
	waitFor(t, "a covering time leaf", func() bool { return s.get(fmt.Sprintf("/proof/covering/%d", last.Index)).status == 200 })
	found := false
	for _, b := range s.audit() {
		leaf, err := record.ParseLeaf(b)
		if err != nil {
			t.Fatal(err)
		}
		if tl, ok := leaf.(*record.TimeLeaf); ok {
			if _, err := w.policy.Check(tl.Note); err != nil {
				t.Errorf("time leaf: %v", err)
			}
			found = found || strings.Contains(string(tl.Note), "\n— "+a.name)
		}
	}
	t.Logf("a time leaf has its cosignature: %v", found) // nothing waits for it
}

// A stranger may have had it cosign a checkpoint first, since they are public.
func TestAppraiserAhead(t *testing.T) {
	t.Parallel()
	w, _, a := appraised(t, 1, 1)
	var shut atomic.Bool
	inner := a.handler
	a.set(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if shut.Load() && r.UserAgent() == "affidavit-log" {
			rw.WriteHeader(503)
			return
		}
		inner.ServeHTTP(rw, r)
	}))
	s := w.open()
	s.submitSome(1)
	waitFor(t, "its cosignature", func() bool { return s.cosigners()[a.name] == 2 })
	shut.Store(true)
	s.submitSome(2)
	s.quiet()
	pub := s.pub.now.Load()
	stranger := &witness{l: s.Log, p: s.pub, name: "m", url: a.url, client: http.DefaultClient, keys: s.pub.appraisers[0].keys}
	if _, err := stranger.cosign(t.Context(), &candidate{cp: pub.cp, text: pub.text, note: pub.note}); err == nil {
		t.Error("the log's name didn't keep it away")
	}
	stranger.client = &http.Client{Transport: renamed{}}
	if _, err := stranger.cosign(t.Context(), &candidate{cp: pub.cp, text: pub.text, note: pub.note}); err != nil {
		t.Fatal(err)
	}
	if got := s.cosigners()[a.name]; got != 0 {
		t.Errorf("%d cosignatures that the log wasn't given", got)
	}
	shut.Store(false)
	waitFor(t, "its cosignatures of what it has cosigned", func() bool { return s.cosigners()[a.name] == 2 })
	if err := s.Err(); err != nil {
		t.Error(err)
	}
}

// renamed makes requests in another name.
type renamed struct{}

func (renamed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", "a stranger")
	return http.DefaultTransport.RoundTrip(r)
}

// A late cosignature that can't be stored is added later.
func TestAppraiserStorage(t *testing.T) {
	t.Parallel()
	w, _, a := appraised(t, 1, 1)
	a.verified.Store(0)
	var fail atomic.Bool
	var failed atomic.Int64
	cfg := w.cfg
	w.cfg = func(c *Config) {
		cfg(c)
		c.fault = func(when, name string) error {
			if fail.Load() && name == publishedName {
				failed.Add(1)
				return fmt.Errorf("%s %s: no space", when, name)
			}
			return nil
		}
	}
	s := w.open()
	s.submitSome(2)
	s.quiet()
	fail.Store(true)
	a.verified.Store(1 << 40)
	waitFor(t, "the failure", func() bool { return failed.Load() > 1 })
	if got := s.cosigners()[a.name]; got != 0 {
		t.Errorf("%d cosignatures that aren't on disk", got)
	}
	fail.Store(false)
	waitFor(t, "its cosignatures", func() bool { return s.cosigners()[a.name] == 2 })
}

// What can't work is refused at the start.
func TestAppraiserConfig(t *testing.T) {
	t.Parallel()
	w, _, _ := appraised(t, 1, 1)
	for name, tt := range map[string]struct {
		lines string
		names []string
		want  string
	}{
		"unknown":             {"", []string{"x"}, "no witness line"},
		"a group":             {"", []string{"all"}, "no witness line"},
		"twice":               {"", []string{"m", "m"}, "twice"},
		"in the quorum":       {"", []string{"w0"}, "quorum needs"},
		"no URL":              {"witness n " + key(t, "n.test/appraiser") + "\n", []string{"n"}, "no URL"},
		"a URL in the quorum": {"", []string{"w0pq"}, "quorum needs"},
	} {
		c := w.config()
		lines, quorum, _ := strings.Cut(w.policy.String(), "group ")
		p, err := checkpoint.ParsePolicy([]byte(lines + tt.lines + "group " + quorum))
		if err != nil {
			t.Fatal(err)
		}
		c.LogPolicy, c.Appraisers = p, tt.names
		if l, err := Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				l.Shutdown(t.Context())
			}
		}
	}
	// Both of its lines may be named.
	c := w.config()
	c.Appraisers = []string{"m", "m-pq"}
	if err := c.setDefaults(); err != nil {
		t.Error(err)
	}
}

func key(t *testing.T, name string) string {
	k, err := checkpoint.GenerateKey(checkpoint.CosignatureEd25519, name, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k.VKey()
}
