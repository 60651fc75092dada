package load

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

var vendors = []string{"https://a.example", "https://b.example"}

func recipe(n int) Recipe {
	return Recipe{Entries: n, Platforms: 3, Vendors: vendors, Freshness: record.Freshness{Origin: "log.test/2026", Root: [32]byte{1}, Size: 1}}
}

func mustMake(t *testing.T, r Recipe) (*Stock, *tdxsim.PKI) {
	t.Helper()
	pki := tdxsim.NewPKI([]byte("load tests"), time.Now().Add(-time.Hour))
	s, err := Make(pki, r, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, pki
}

// Entries are what their kind says, by the verifier that the log uses, and about as long as was asked for.
func TestMake(t *testing.T) {
	r := recipe(60)
	r.Duplicates, r.Invalid, r.NewPlatforms, r.Size = 0.2, 0.2, 0.3, 7500
	s, pki := mustMake(t, r)
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.Collateral(tdxsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := verifier.New(root).Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	v := tdx.NewVerifier(root, 100)
	var count [3]int
	chains := map[string]bool{}
	for i, it := range s.Items {
		count[it.Kind]++
		if it.Kind == Duplicate {
			if of := s.Items[it.Of]; it.Of >= i || of.Kind != Fresh || string(of.Entry) != string(it.Entry) || of.Vendor != it.Vendor {
				t.Errorf("item %d repeats %d, which is %+v", i, it.Of, of.Kind)
			}
			continue
		}
		e, err := record.ParseEntry(it.Entry)
		if err != nil {
			t.Fatalf("item %d of kind %d: %v", i, it.Kind, err)
		}
		q, err := tdx.ParseQuote(e.Quote())
		if err != nil {
			t.Fatal(err)
		}
		chains[string(q.PCKChain)] = true
		if _, err := v.Verify(q, set, time.Now()); (err == nil) != (it.Kind == Fresh) {
			t.Errorf("item %d of kind %d: %v", i, it.Kind, err)
		}
		if n := len(it.Entry); n < 7300 || n > 7700 {
			t.Errorf("item %d has %d bytes", i, n)
		}
	}
	if count[Fresh] == 0 || count[Duplicate] == 0 || count[Invalid] == 0 {
		t.Errorf("kinds: %v", count)
	}
	if len(chains) <= r.Platforms {
		t.Errorf("%d platforms, though some should be new", len(chains))
	}
}

func TestRecipe(t *testing.T) {
	for want, edit := range map[string]func(*Recipe){
		"0 entries":                    func(r *Recipe) { r.Entries = 0 },
		"0 platforms":                  func(r *Recipe) { r.Platforms = 0 },
		"no vendors":                   func(r *Recipe) { r.Vendors = nil },
		"share of new platforms is -1": func(r *Recipe) { r.NewPlatforms = -1 },
		"are 1.5 together":             func(r *Recipe) { r.Duplicates, r.Invalid = 0.75, 0.75 },
	} {
		r := recipe(1)
		edit(&r)
		if _, err := Make(nil, r, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// A fakeLog answers as a log would, but for what its faults say.
type fakeLog struct {
	mu    sync.Mutex
	seen  map[string]int
	sick  map[string]bool // entries that are invalid
	fault func(n int) (status int, index int)
	n     int
	stall func(n int) time.Duration
}

func (f *fakeLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	n := f.n
	f.n++
	index, ok := f.seen[string(b)]
	if !ok {
		index = len(f.seen)
	}
	status := 200
	if f.sick[string(b)] {
		status = 422
	}
	if f.fault != nil {
		if s, i := f.fault(n); s != 0 {
			status, index = s, i
		}
	}
	if status == 200 {
		f.seen[string(b)] = index
	}
	f.mu.Unlock()
	if f.stall != nil {
		time.Sleep(f.stall(n))
	}
	if status == 503 {
		w.Header().Set("Retry-After", "0")
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, "c2sp.org/tlog-proof@v1\nextra AAAA\nindex %d\n\n", index)
}

func serve(t *testing.T, s *Stock, f *fakeLog) string {
	f.seen, f.sick = map[string]int{}, map[string]bool{}
	for _, it := range s.Items {
		if it.Kind == Invalid {
			f.sick[string(it.Entry)] = true
		}
	}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return srv.URL
}

// A log that answers as it should is wrong in nothing; each that doesn't is found.
func TestRun(t *testing.T) {
	r := recipe(80)
	r.Duplicates, r.Invalid = 0.2, 0.2
	s, _ := mustMake(t, r)
	for _, tt := range []struct {
		name    string
		fault   func(n int) (int, int)
		wrong   string
		retries bool
	}{
		{"good", nil, "", false},
		{"busy", func(n int) (int, int) {
			if n%3 == 0 && n < 30 {
				return 503, 0
			}
			return 0, 0
		}, "", true},
		{"index twice", func(n int) (int, int) {
			if n < 10 {
				return 200, 7
			}
			return 0, 0
		}, "are both at index 7", false},
		{"broken", func(n int) (int, int) {
			if n == 20 {
				return 500, 0
			}
			return 0, 0
		}, "500", false},
		{"admits all", func(n int) (int, int) { return 200, 1000 + n }, "an invalid entry was answered 200", false},
		{"duplicates anew", func(n int) (int, int) { return 200, 1000 + n }, "a duplicate got another index", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, err := Run{URL: serve(t, s, &fakeLog{fault: tt.fault}), Tokens: []string{"a", "b"}, Clients: 1}.Do(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			found := fmt.Sprint(res.Wrong)
			if tt.wrong == "" && len(res.Wrong) > 0 || !strings.Contains(found, tt.wrong) {
				t.Errorf("wrong: %v, want %q", res.Wrong, tt.wrong)
			}
			if (res.Retries > 0) != tt.retries {
				t.Errorf("%d retries", res.Retries)
			}
			if tt.wrong == "" && res.Admitted+res.Refused != 80 {
				t.Errorf("%d admitted and %d refused of 80", res.Admitted, res.Refused)
			}
		})
	}
}

// In an open loop, a stall of the server counts for all requests that were due during it, not only for the one that it hit.
func TestOpenLoopCountsWaiting(t *testing.T) {
	s, _ := mustMake(t, recipe(40))
	f := &fakeLog{stall: func(n int) time.Duration {
		if n == 10 {
			return 300 * time.Millisecond
		}
		return 0
	}}
	res, err := Run{URL: serve(t, s, f), Tokens: []string{"a", "b"}, Clients: 1, Rate: 200}.Do(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	// The 30 entries after the stall were due within 150 ms: all of them waited.
	if res.Admitted != 40 || res.Latency.P50 < 50 {
		t.Errorf("%d admitted, latency %+v", res.Admitted, res.Latency)
	}
}

// Proofs of other records than those asked for are found.
func TestProofs(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := strings.TrimPrefix(r.URL.Path, "/proof/")
		if n == "3" {
			n = "4"
		}
		fmt.Fprintf(w, "c2sp.org/tlog-proof@v1\nindex %s\n\n", n)
	}))
	defer srv.Close()
	if rate, _, err := Proofs(t.Context(), srv.URL, 3, 2, 50*time.Millisecond, func(int64) int64 { return 2 }); err != nil || rate <= 0 {
		t.Errorf("%v a second, %v", rate, err)
	}
	if _, _, err := Proofs(t.Context(), srv.URL, 4, 1, 50*time.Millisecond, func(int64) int64 { return 3 }); err == nil {
		t.Error("the proof of another record is taken")
	}
}

// The operating system's account of this process grows with what it does.
func TestWatch(t *testing.T) {
	if _, err := os.Stat("/proc/self/io"); err != nil {
		t.Skip("no /proc/self/io here")
	}
	stop, err := Watch(context.Background(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	x := make([]byte, 1<<20)
	for from := time.Now(); time.Since(from) < 150*time.Millisecond; {
		for i := range x {
			x[i]++
		}
	}
	u, err := stop()
	if err != nil || u.CPU < clockTick || u.RSS < 1<<20 || u.PeakRSS < 1<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := Watch(context.Background(), 1<<30); err == nil {
		t.Error("a process that isn't there is watched")
	}
}
