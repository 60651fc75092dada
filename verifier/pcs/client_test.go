package pcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	guesttesting "github.com/google/go-tdx-guest/testing"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

const (
	day     = 24 * time.Hour
	fmspc   = tdxsim.DefaultFMSPC
	tcbPath = "/tdx/certification/v4/tcb"
	qePath  = "/tdx/certification/v4/qe/identity"
	crlPath = "/sgx/certification/v4/pckcrl"
)

// A service is a made-up PCS that tests can bend. Clients reach it without a
// network, so that it can be used in a synctest bubble.
type service struct {
	pki  *tdxsim.PKI
	pcs  *tdxsim.PCS
	root *tdx.Root

	mu   sync.Mutex
	bend func(path string, w http.ResponseWriter, r *http.Request) bool // whether it answered
	edit func(path string, r *response)
}

func newService(t testing.TB, sets ...tdxsim.CollateralOptions) *service {
	t.Helper()
	pki := tdxsim.NewPKI([]byte(t.Name()), time.Now())
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	return &service{pki: pki, pcs: pki.PCS(tdxsim.PCSOptions{Sets: sets}), root: root}
}

func (s *service) set(bend func(string, http.ResponseWriter, *http.Request) bool, edit func(string, *response)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bend, s.edit = bend, edit
}

func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	bend, edit := s.bend, s.edit
	s.mu.Unlock()
	w := httptest.NewRecorder()
	if bend == nil || !bend(r.URL.Path, w, r) {
		s.pcs.ServeHTTP(w, r)
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	res := w.Result()
	res.Header = make(http.Header)
	for name, values := range w.Header() {
		res.Header[http.CanonicalHeaderKey(name)] = values // as a real client has them
	}
	if edit != nil && res.StatusCode == http.StatusOK {
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return nil, err
		}
		e := &response{res.Header, body}
		edit(r.URL.Path, e)
		res.Header, res.Body = e.header, io.NopCloser(bytes.NewReader(e.body))
	}
	return res, nil
}

// client returns a client of the service. Its log goes to the test's.
func (s *service) client(t testing.TB, cfg Config) *Client {
	t.Helper()
	if cfg.URL == "" {
		cfg.URL = "https://pcs.example"
	}
	cfg.Root = s.root
	cfg.HTTPClient = &http.Client{Transport: s}
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func get(c Source, at time.Time) (*tdx.Collateral, error) {
	return c.Collateral(context.Background(), fmspc, PlatformCA, at)
}

func mustGet(t testing.TB, c Source, at time.Time) *tdx.Collateral {
	t.Helper()
	got, err := get(c, at)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// wantErr fails unless err wraps one of the two sentinels, and not the other.
func wantErr(t testing.TB, err, want error) {
	t.Helper()
	other := ErrNoCollateral
	if want == ErrNoCollateral {
		other = ErrUnreachable
	}
	if !errors.Is(err, want) || errors.Is(err, other) {
		t.Fatalf("error %v, want one that wraps %v only", err, want)
	}
}

// TestLoopback has a client ask PCS and PCCS over HTTP, and a quote judged by
// the answer. It fails if a path, parameter, header, or encoding is wrong.
func TestLoopback(t *testing.T) {
	now := time.Now()
	pki := tdxsim.NewPKI([]byte("loopback"), now)
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	for _, pccs := range []bool{false, true} {
		for _, path := range []string{"", "/", "/sgx/certification/v4/", "/tdx/certification/v4"} {
			t.Run(fmt.Sprintf("pccs=%v,path=%s", pccs, path), func(t *testing.T) {
				pcs := pki.PCS(tdxsim.PCSOptions{PCCS: pccs})
				server := httptest.NewServer(pcs)
				defer server.Close()
				c, err := New(Config{URL: server.URL + path, Root: root})
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				for _, ca := range []string{PlatformCA, ProcessorCA} {
					pl := pki.NewPlatform(tdxsim.PlatformOptions{CA: ca})
					raw, err := pl.Quote(tdxsim.QuoteOptions{})
					if err != nil {
						t.Fatal(err)
					}
					q, err := tdx.ParseQuote(raw)
					if err != nil {
						t.Fatal(err)
					}
					got, err := c.Collateral(t.Context(), pl.FMSPC(), ca, now)
					if err != nil {
						t.Fatal(err)
					}
					want, err := pki.Collateral(tdxsim.CollateralOptions{CA: ca})
					if err != nil {
						t.Fatal(err)
					}
					for i, part := range got.Components() {
						if !bytes.Equal(part, want.Components()[i]) {
							t.Errorf("component %d isn't as served", i)
						}
					}
					set, err := tdx.Compile(got, root)
					if err != nil {
						t.Fatal(err)
					}
					if r, err := tdx.NewVerifier(root, 1).Verify(q, set, now); err != nil || r.Status != tdx.StatusUpToDate {
						t.Errorf("%s: %+v, %v", ca, r, err)
					}
				}
				// The default client refuses headers that a PCS doesn't have.
				flood := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("TCB-Info-Issuer-Chain", strings.Repeat("A", 2*maxHeader))
				}))
				defer flood.Close()
				f, err := newFetcher(flood.URL, defaultClient(), time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.getOnce(t.Context(), flood.URL+tcbPath); err == nil {
					t.Error("a header of 128 KiB is accepted")
				}
			})
		}
	}
}

// TestIntel serves what Intel's service answered in 2023, and the client wants
// it under Intel's root from Intel's hosts. It fails if the client can't read
// Intel's own answers, or changes a byte.
func TestIntel(t *testing.T) {
	at := time.Date(2023, 7, 1, 0, 0, 0, 0, time.UTC)
	responses := guesttesting.TestGetter.Responses
	c, err := New(Config{
		Now: func() time.Time { return at },
		HTTPClient: &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			a, ok := responses[r.URL.String()]
			if !ok {
				return nil, fmt.Errorf("unexpected request for %s", r.URL)
			}
			h := make(http.Header)
			maps.Copy(h, a.Header)
			return &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(bytes.NewReader(a.Body))}, nil
		})},
		CacheDir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := c.Collateral(t.Context(), "50806F000000", PlatformCA, at)
	if err != nil {
		t.Fatal(err)
	}
	// The fixture's TCB info has a final newline.
	body := func(path string) []byte { return bytes.TrimSuffix(responses[IntelURL+path].Body, []byte("\n")) }
	if !bytes.Equal(got.TCBInfo, body("/tdx/certification/v4/tcb?fmspc=50806f000000")) ||
		!bytes.Equal(got.QEIdentity, body(qePath)) ||
		!bytes.Equal(got.PCKCRL, body(crlPath+"?ca=platform&encoding=der")) ||
		!bytes.Equal(got.RootCRL, responses[intelRootCRL].Body) {
		t.Error("the set isn't what Intel served")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestMemory fails if a set in force is asked for again, is copied, or depends
// on the letter case of the family.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		c := s.client(t, Config{})
		first := mustGet(t, c, time.Now())
		n := s.pcs.Requests("")
		time.Sleep(29 * day)
		second, err := c.Collateral(t.Context(), strings.ToLower(fmspc), PlatformCA, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if first != second || s.pcs.Requests("") != n {
			t.Errorf("same pointer: %v; %d requests after %d", first == second, s.pcs.Requests(""), n)
		}
		// Before it was issued, and with no archive, there is nothing; and
		// asking for the past is no reason to ask the service.
		_, err = get(c, time.Now().Add(-40*day))
		wantErr(t, err, ErrNoCollateral)
		if s.pcs.Requests("") != n {
			t.Error("the service was asked for the past")
		}
		// It expires: the service still has the old one only.
		time.Sleep(day)
		_, err = get(c, time.Now())
		wantErr(t, err, ErrUnreachable)
		var stale *tdx.StaleError
		if !errors.As(err, &stale) {
			t.Errorf("error %v doesn't say what is stale", err)
		}
		time.Sleep(failedFor)
		s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: time.Now()})
		if third := mustGet(t, c, time.Now()); third == first {
			t.Error("the expired set is served")
		}
	})
}

// TestUnknown fails if an unknown family can't be told from a service that is
// down or a wrong URL, or is asked for again and again.
func TestUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		c := s.client(t, Config{})
		unknown := func() error {
			_, err := c.Collateral(t.Context(), "00906ed50000", PlatformCA, time.Now())
			return err
		}
		wantErr(t, unknown(), ErrNoCollateral)
		n := s.pcs.Requests(tcbPath)
		wantErr(t, unknown(), ErrNoCollateral)
		if got := s.pcs.Requests(tcbPath); got != n {
			t.Errorf("asked %d times", got)
		}
		mustGet(t, c, time.Now()) // others aren't affected
		time.Sleep(unknownFor)
		s.pcs.Swap(tdxsim.CollateralOptions{FMSPC: "00906ED50000"})
		if err := unknown(); err != nil {
			t.Errorf("still unknown: %v", err)
		}

		// Everything is 404: the URL is wrong.
		c = s.client(t, Config{})
		s.pcs.Fail(http.StatusNotFound)
		_, err := get(c, time.Now())
		wantErr(t, err, ErrUnreachable)
		// What isn't a family can't be asked for.
		for _, k := range []key{{"", PlatformCA}, {"../../../etc", PlatformCA}, {"90C06F00000g", PlatformCA}, {fmspc, ""}, {fmspc, "root"}} {
			if _, err := c.Collateral(t.Context(), k.fmspc, k.ca, time.Now()); err == nil ||
				errors.Is(err, ErrNoCollateral) || errors.Is(err, ErrUnreachable) {
				t.Errorf("%+v: %v", k, err)
			}
		}
	})
}

// TestRetry fails if errors that pass aren't outlived, if others are tried
// again, or if the service decides how long we wait.
func TestRetry(t *testing.T) {
	for _, tt := range []struct {
		name       string
		code       int // of the first answers for TCB info
		times      int
		retryAfter string
		ok         bool
		requests   int
		from, to   time.Duration
	}{
		{name: "passing 503", code: 503, times: 3, ok: true, requests: 4, from: 875 * time.Millisecond, to: 2 * time.Second},
		{name: "lasting 503", code: 503, times: 9, requests: 4, from: 875 * time.Millisecond, to: 2 * time.Second},
		{name: "429", code: 429, times: 1, retryAfter: "3", ok: true, requests: 2, from: 3 * time.Second, to: 4 * time.Second},
		{name: "429 forever", code: 429, times: 1, retryAfter: "60000", ok: true, requests: 2, from: maxRetryAfter, to: maxRetryAfter + time.Second},
		{name: "429 nonsense", code: 429, times: 1, retryAfter: "-1", ok: true, requests: 2, to: time.Second},
		{name: "400", code: 400, times: 9, requests: 1},
		{name: "401", code: 401, times: 9, requests: 1},
		{name: "redirect", code: 302, times: 9, requests: 1},
		{name: "PCCS 461", code: 461, times: 9, requests: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t)
				n := 0
				s.set(func(path string, w http.ResponseWriter, _ *http.Request) bool {
					if path != tcbPath {
						return false
					}
					if n++; n > tt.times {
						return false
					}
					w.Header().Set("Retry-After", tt.retryAfter)
					w.WriteHeader(tt.code)
					return true
				}, nil)
				c := s.client(t, Config{})
				start := time.Now()
				_, err := get(c, start)
				if d := time.Since(start); d < tt.from || d > tt.to {
					t.Errorf("took %v, want %v to %v", d, tt.from, tt.to)
				}
				if n != tt.requests {
					t.Errorf("%d requests, want %d", n, tt.requests)
				}
				if !tt.ok {
					wantErr(t, err, ErrUnreachable)
					if _, err := get(c, time.Now()); err == nil || n != tt.requests {
						t.Errorf("asked again at once: %d requests, %v", n, err)
					}
				} else if err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestUnusable fails if a set that shouldn't be used is, or ends up in the cache,
// or does harm to the good set that is there.
func TestUnusable(t *testing.T) {
	replace := func(path string, edit func(b []byte) []byte) func(*service) {
		return func(s *service) {
			s.set(nil, func(p string, r *response) {
				if p == path {
					r.body = edit(bytes.Clone(r.body))
				}
			})
		}
	}
	header := func(path, name string, edit func([]string) []string) func(*service) {
		return func(s *service) {
			s.set(nil, func(p string, r *response) {
				if p == path {
					if r.header[name] = edit(r.header[name]); r.header[name] == nil {
						delete(r.header, name)
					}
				}
			})
		}
	}
	const chain = "Tcb-Info-Issuer-Chain"
	for _, tt := range []struct {
		name  string
		spoil func(s *service)
	}{
		{"garbage", replace(tcbPath, func([]byte) []byte { return []byte("<html>maintenance</html>") })},
		{"empty", replace(tcbPath, func([]byte) []byte { return nil })},
		{"truncated", replace(qePath, func(b []byte) []byte { return b[:len(b)-1] })},
		{"trailing", replace(qePath, func(b []byte) []byte { return append(b, '}') })},
		{"spaced", replace(tcbPath, func(b []byte) []byte { return append([]byte{'{', ' '}, b[1:]...) })},
		{"changed", replace(tcbPath, func(b []byte) []byte { return bytes.Replace(b, []byte("OutOfDate"), []byte("UpToDate"), 1) })},
		{"huge", replace(tcbPath, func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), maxBody)...) })},
		{"huge CRL", replace(crlPath, func(b []byte) []byte { return append(b, make([]byte, maxBody)...) })},
		{"CRL garbage", replace(crlPath, func([]byte) []byte { return []byte("3082zz") })},
		{"CRL truncated", replace(crlPath, func(b []byte) []byte { return b[:len(b)-1] })},
		{"CRL changed", replace(crlPath, func(b []byte) []byte { b[len(b)-1] ^= 1; return b })},
		{"root CRL empty", replace("/IntelSGXRootCA.der", func([]byte) []byte { return nil })},
		{"no header", header(tcbPath, chain, func([]string) []string { return nil })},
		{"two headers", header(tcbPath, chain, func(v []string) []string { return append(v, v[0]) })},
		{"empty header", header(tcbPath, chain, func([]string) []string { return []string{""} })},
		{"bad escape", header(tcbPath, chain, func(v []string) []string { return []string{v[0] + "%4"} })},
		{"not PEM", header(tcbPath, chain, func(v []string) []string { return []string{v[0] + "x"} })},
		{"huge header", header(tcbPath, chain, func(v []string) []string { return []string{strings.Repeat(v[0], 10)} })},
		{"one certificate", header(tcbPath, chain, func(v []string) []string {
			return []string{v[0][:strings.Index(v[0], "-----BEGIN%20CERTIFICATE-----%0A")+len(v[0])/2]}
		})},
		{"another family", func(s *service) {
			other := s.pki.PCS(tdxsim.PCSOptions{Sets: []tdxsim.CollateralOptions{{FMSPC: "00906ED50000"}}})
			s.set(func(p string, w http.ResponseWriter, r *http.Request) bool {
				if p != tcbPath {
					return false
				}
				r = r.Clone(r.Context())
				r.URL.RawQuery = "fmspc=00906ED50000"
				other.ServeHTTP(w, r)
				return true
			}, nil)
		}},
		{"another CA", func(s *service) {
			s.set(func(p string, w http.ResponseWriter, r *http.Request) bool {
				if p != crlPath {
					return false
				}
				r = r.Clone(r.Context())
				r.URL.RawQuery = "ca=processor&encoding=der"
				s.pcs.ServeHTTP(w, r)
				return true
			}, nil)
		}},
		{"another root", func(s *service) {
			other := tdxsim.NewPKI([]byte("another"), time.Now()).PCS(tdxsim.PCSOptions{})
			s.set(func(_ string, w http.ResponseWriter, r *http.Request) bool { other.ServeHTTP(w, r); return true }, nil)
		}},
		{"expired", func(s *service) {
			s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: time.Now().Add(-31 * day)})
		}},
		{"of the future", func(s *service) {
			s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: time.Now().Add(time.Second)})
		}},
		{"signer revoked", func(s *service) {
			o := tdxsim.CollateralOptions{IssueDate: time.Now()}
			o.RootCRL.Revoked = append(o.RootCRL.Revoked, s.pki.TCBSigningSerial())
			s.pcs.Swap(o)
		}},
		{"hangs", func(s *service) {
			s.set(func(_ string, _ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }, nil)
		}},
		{"down", func(s *service) { s.pcs.Fail(http.StatusBadGateway) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t)
				dir := t.TempDir()
				good := s.client(t, Config{CacheDir: dir})
				want := mustGet(t, good, time.Now())

				time.Sleep(2 * day)
				tt.spoil(s)
				empty := t.TempDir()
				_, err := get(s.client(t, Config{CacheDir: empty}), time.Now())
				wantErr(t, err, ErrUnreachable)
				if names := files(t, empty); len(names) > 0 {
					t.Errorf("cached: %v", names)
				}

				// With a good set, a refresh changes nothing.
				if _, err := good.fetch(t.Context(), key{strings.ToLower(fmspc), PlatformCA}, true); err == nil {
					t.Error("refresh succeeded")
				}
				if got := mustGet(t, good, time.Now()); got != want {
					t.Error("the good set is lost")
				}
				s.pcs.Fail(http.StatusBadGateway)
				again := mustGet(t, s.client(t, Config{CacheDir: dir}), time.Now())
				if !bytes.Equal(again.TCBInfo, want.TCBInfo) {
					t.Error("the good set is lost from the cache")
				}
			})
		})
	}
}

// files lists the JSON files below a folder.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.json", "*/*.json"} {
		m, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, m...)
	}
	return names
}

// TestSlowBody fails if a service that sends a byte now and then holds a fetch
// for longer than the time for its attempts.
func TestSlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := New(Config{Timeout: 10 * time.Second, HTTPClient: &http.Client{
			Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: make(http.Header), Body: io.NopCloser(drip{r.Context()})}, nil
			})}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		start := time.Now()
		_, err = get(c, start)
		wantErr(t, err, ErrUnreachable)
		if d := time.Since(start); d < 10*time.Second || d > attempts*10*time.Second+2*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// TestEndlessBody fails if a service decides how much memory we use.
func TestEndlessBody(t *testing.T) {
	body := &endless{}
	f, err := newFetcher("https://pcs.example", &http.Client{
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: make(http.Header), Body: io.NopCloser(body)}, nil
		})}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.get(t.Context(), "https://pcs.example/"); !errors.Is(err, errTooLarge) {
		t.Errorf("error %v", err)
	}
	if body.n > maxBody+1 {
		t.Errorf("read %d bytes, once or more often", body.n)
	}
}

// endless gives more than anybody should read.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	if e.n > 4*maxBody {
		return 0, errors.New("read too much")
	}
	e.n += len(p)
	return len(p), nil
}

// drip gives a byte each second until its context is done.
type drip struct{ ctx context.Context }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(time.Second):
		return copy(p, "x"), nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

// TestOneFetch fails if callers who want the same set at the same time each ask
// for it, or if the first one's impatience hurts the others.
func TestOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		release := make(chan struct{})
		s.set(func(path string, _ http.ResponseWriter, _ *http.Request) bool { <-release; return false }, nil)
		c := s.client(t, Config{})

		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error)
		go func() {
			_, err := c.Collateral(ctx, fmspc, PlatformCA, time.Now())
			first <- err
		}()
		synctest.Wait()
		var wg sync.WaitGroup
		errs := make([]error, 50)
		for i := range errs {
			wg.Go(func() { _, errs[i] = get(c, time.Now()) })
		}
		synctest.Wait()
		cancel()
		err := <-first
		wantErr(t, err, ErrUnreachable)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v doesn't wrap that of the context", err)
		}
		close(release)
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Error(err)
		}
		if n := s.pcs.Requests(tcbPath); n != 1 {
			t.Errorf("%d requests for TCB info", n)
		}
	})
}

// TestClose fails if Close leaves something running, or if a closed client
// forgets what it has.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		c := s.client(t, Config{})
		want := mustGet(t, c, time.Now())
		s.set(func(_ string, _ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }, nil)
		result := make(chan error)
		go func() {
			_, err := c.Collateral(t.Context(), "00906ed50000", PlatformCA, time.Now())
			result <- err
		}()
		synctest.Wait()
		start := time.Now()
		c.Close() // synctest also fails if a goroutine stays behind
		if d := time.Since(start); d > 0 {
			t.Errorf("Close waited %v for a service that hangs", d)
		}
		wantErr(t, <-result, ErrUnreachable)
		_, err := c.Collateral(t.Context(), "00906ed50001", PlatformCA, time.Now())
		wantErr(t, err, ErrUnreachable)
		if mustGet(t, c, time.Now()) != want {
			t.Error("lost")
		}
		c.Close()
	})
}

// TestCache restarts the client while the service is down. It fails if the cache
// isn't used, is used too long, or is believed.
func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		dir := t.TempDir()
		want := mustGet(t, s.client(t, Config{CacheDir: dir}), time.Now())
		path := filepath.Join(dir, strings.ToLower(fmspc)+"-platform.json")
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
			t.Fatalf("cache file: %v, %v", info, err)
		}
		s.pcs.Fail(http.StatusServiceUnavailable)

		time.Sleep(29 * day)
		c := s.client(t, Config{CacheDir: dir})
		got := mustGet(t, c, time.Now())
		for i, part := range got.Components() {
			if !bytes.Equal(part, want.Components()[i]) {
				t.Errorf("component %d differs", i)
			}
		}
		time.Sleep(day)
		_, err := get(c, time.Now())
		wantErr(t, err, ErrUnreachable)

		// Damage.
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-2 * day)
		for name, b := range map[string][]byte{
			"empty": nil, "cut short": file[:len(file)/2], "zeros": make([]byte, len(file)),
			"changed": bytes.Replace(file, []byte("OutOfDate"), []byte("UpToDate"), 1),
		} {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := get(s.client(t, Config{CacheDir: dir}), at)
			wantErr(t, err, ErrUnreachable)
			if err == nil {
				t.Errorf("%s: served", name)
			}
		}
		// A file under another's name.
		if err := os.WriteFile(path, file, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, filepath.Join(dir, "00906ed50000-platform.json")); err != nil {
			t.Fatal(err)
		}
		_, err = s.client(t, Config{CacheDir: dir}).Collateral(t.Context(), "00906ed50000", PlatformCA, at)
		wantErr(t, err, ErrUnreachable)
		// Leftovers of a crash go away.
		if err := os.WriteFile(filepath.Join(dir, tempPrefix+"1"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		s.client(t, Config{CacheDir: dir})
		if m, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*")); err != nil || len(m) > 0 {
			t.Errorf("left: %v, %v", m, err)
		}
	})
}

// TestWriteFaults fails a write, and has one succeed that reports failure, then
// restarts from disk with the service down.
func TestWriteFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(path string, b []byte) error
		after bool // whether the set is there after a restart
	}{
		{"failed", func(string, []byte) error { return errors.New("disk full") }, false},
		{"cut short", func(path string, b []byte) error {
			return errors.Join(os.WriteFile(path, b[:100], 0o644), errors.New("disk full"))
		}, false},
		{"happened but reported failed", func(path string, b []byte) error {
			return errors.Join(writeFile(path, b), errors.New("fsync: input/output error"))
		}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newService(t)
				dir := t.TempDir()
				c := s.client(t, Config{CacheDir: dir})
				c.write = tt.write
				first := mustGet(t, c, time.Now())
				if mustGet(t, c, time.Now()) != first {
					t.Error("not served from memory")
				}

				// A refresh with the same fault: archive and cache both fail.
				time.Sleep(2 * day)
				s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: time.Now()})
				if _, err := c.fetch(t.Context(), key{strings.ToLower(fmspc), PlatformCA}, true); err != nil {
					t.Fatal(err)
				}
				second := mustGet(t, c, time.Now())
				if second == first {
					t.Error("not replaced")
				}

				s.pcs.Fail(http.StatusServiceUnavailable)
				got, err := get(s.client(t, Config{CacheDir: dir}), time.Now())
				if !tt.after {
					wantErr(t, err, ErrUnreachable)
				} else if err != nil || !bytes.Equal(got.TCBInfo, second.TCBInfo) {
					t.Errorf("after a restart: %v", err)
				}

				// Once the disk works again, so does everything.
				s.pcs.Fail(0)
				c = s.client(t, Config{CacheDir: dir})
				mustGet(t, c, time.Now())
				s.pcs.Fail(http.StatusServiceUnavailable)
				mustGet(t, s.client(t, Config{CacheDir: dir}), time.Now())
			})
		})
	}
}

// TestWriteFile fails if a failed write damages what is there, or leaves
// something behind.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := writeFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	// A folder can't be replaced by a file.
	if err := os.MkdirAll(filepath.Join(dir, "d", "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(filepath.Join(dir, "d"), []byte("x")); err == nil {
		t.Error("a folder was replaced")
	}
	if err := writeFile(filepath.Join(dir, "missing", "f"), nil); err == nil {
		t.Error("wrote into a folder that doesn't exist")
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "new" {
		t.Errorf("%q, %v", b, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

// TestRun fails if sets aren't refreshed daily and before they expire, if a
// recovered TCB isn't noticed, or if what was replaced is lost.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := newService(t)
		dir := t.TempDir()
		c := s.client(t, Config{CacheDir: dir})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { c.Run(ctx); close(done) }()

		first := mustGet(t, c, start)
		n := s.pcs.Requests(tcbPath)
		time.Sleep(20 * time.Hour)
		if got := s.pcs.Requests(tcbPath); got != n {
			t.Errorf("%d requests on the first day", got)
		}
		time.Sleep(5 * time.Hour)
		if got := s.pcs.Requests(tcbPath); got != n+1 {
			t.Errorf("%d requests after a day, want %d", got, n+1)
		}
		if mustGet(t, c, time.Now()) != first {
			t.Error("an unchanged set has a new address")
		}
		if names := files(t, dir); len(names) != 1 {
			t.Errorf("an unchanged set is archived: %v", names)
		}

		// A TCB recovery, seen within a day.
		time.Sleep(3 * day)
		recovery := time.Now()
		s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: recovery, TCBEvaluationDataNumber: 19})
		time.Sleep(day + time.Minute)
		second := mustGet(t, c, time.Now())
		if !bytes.Contains(second.TCBInfo, []byte(`"tcbEvaluationDataNumber":19`)) {
			t.Error("the recovery wasn't noticed")
		}
		// Old evidence is judged by what was in force then.
		if got := mustGet(t, c, recovery.Add(-day)); !bytes.Equal(got.TCBInfo, first.TCBInfo) {
			t.Error("the past isn't answered from the archive")
		}
		if got := mustGet(t, c, recovery); got != second {
			t.Error("where both are in force, the newer one should be given")
		}
		_, err := get(c, start.Add(-time.Second))
		wantErr(t, err, ErrNoCollateral)

		// An older number, as of a cache behind, or of somebody who withholds news.
		s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: time.Now(), TCBEvaluationDataNumber: 18})
		time.Sleep(3 * day)
		if mustGet(t, c, time.Now()) != second {
			t.Error("rolled back")
		}

		// The service goes away, and comes back an hour before the set expires.
		s.pcs.Fail(http.StatusServiceUnavailable)
		time.Sleep(time.Until(recovery.Add(30*day - 2*time.Hour)))
		if mustGet(t, c, time.Now()) != second {
			t.Error("not served during the outage")
		}
		s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: time.Now(), TCBEvaluationDataNumber: 19})
		s.pcs.Fail(0)
		time.Sleep(maxRefresh)
		third := mustGet(t, c, time.Now())
		if third == second {
			t.Error("not refreshed after the outage")
		}
		cancel()
		<-done

		// All of it survives a restart.
		s.pcs.Fail(http.StatusServiceUnavailable)
		c = s.client(t, Config{CacheDir: dir})
		for at, want := range map[time.Time]*tdx.Collateral{
			start: first, recovery.Add(day): second, time.Now(): third,
		} {
			if got := mustGet(t, c, at); !bytes.Equal(got.TCBInfo, want.TCBInfo) {
				t.Errorf("another set for %v after a restart", at)
			}
		}
	})
}

// TestShortLived fails if a set that lives for less than a day isn't refreshed
// in time, or if one that is always about to expire is asked for all the time.
func TestShortLived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.pcs.Swap(tdxsim.CollateralOptions{NextUpdate: time.Now().Add(time.Hour)})
		c := s.client(t, Config{})
		go c.Run(t.Context())
		mustGet(t, c, time.Now())
		n := s.pcs.Requests(tcbPath)
		time.Sleep(31 * time.Minute)
		if got := s.pcs.Requests(tcbPath); got != n+1 {
			t.Errorf("%d requests in half of the set's life, want one", got-n)
		}
		time.Sleep(28 * time.Minute)
		if got := s.pcs.Requests(tcbPath); got > n+10 {
			t.Errorf("%d requests for a set that expires", got-n)
		}
		time.Sleep(day)
		if got := s.pcs.Requests(tcbPath); got > n+200 {
			t.Errorf("%d requests for a set that has expired", got-n)
		}
	})
}

// TestArchiveAtOnce fails if a set that was just replaced can't be had.
func TestArchiveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		c := s.client(t, Config{CacheDir: t.TempDir()})
		start := time.Now()
		first := mustGet(t, c, start)
		time.Sleep(time.Hour)
		s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: time.Now()})
		_, err := get(c, start.Add(-day)) // has the archive looked at
		wantErr(t, err, ErrNoCollateral)
		if _, err := c.fetch(t.Context(), key{strings.ToLower(fmspc), PlatformCA}, true); err != nil {
			t.Fatal(err)
		}
		if got := mustGet(t, c, start); !bytes.Equal(got.TCBInfo, first.TCBInfo) {
			t.Error("not from the archive")
		}
	})
}

// TestArchiveBound fails if the archive grows without bound, or loses the newest.
func TestArchiveBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		dir := t.TempDir()
		c := s.client(t, Config{CacheDir: dir, Archive: 3})
		start := time.Now()
		for i := range 8 {
			s.pcs.Swap(tdxsim.CollateralOptions{IssueDate: start.Add(time.Duration(i) * 31 * day)})
			mustGet(t, c, time.Now())
			time.Sleep(31 * day)
		}
		if names := files(t, filepath.Join(dir, "archive")); len(names) != 3 {
			t.Errorf("archive: %v", names)
		}
		for i := range 8 {
			_, err := get(c, start.Add(time.Duration(i)*31*day))
			if i < 4 {
				wantErr(t, err, ErrNoCollateral)
			} else if err != nil {
				t.Errorf("set %d: %v", i, err)
			}
		}
	})
}

func TestBadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []Config{
		{URL: "api.trustedservices.intel.com"}, {URL: "ftp://host"}, {URL: "https://user@host"}, {URL: "https://host?x"},
		{URL: "https://"}, {URL: "https://host/%zz"},
		{RefreshEvery: 25 * time.Hour}, {RefreshEvery: -1}, {Archive: -1}, {Timeout: -1}, {CacheDir: file},
	} {
		if c, err := New(cfg); err == nil {
			c.Close()
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
