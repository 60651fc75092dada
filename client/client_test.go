package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

var witnessed = bundletest.LogOptions{Witnesses: 3, Threshold: 2}

// serve serves a world, and returns a client of it that doesn't wait.
func serve(t *testing.T, h http.Handler, c Config) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	cl, err := New(srv.URL, c)
	if err != nil {
		t.Fatal(err)
	}
	cl.sleep = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	return cl
}

// entry returns an entry that the world's log admits.
func entry(t *testing.T, w *bundletest.World) *record.Entry {
	t.Helper()
	index := w.AddVendorKey(w.Vendor)
	leaf, err := record.ParseLeaf(w.Leaf(index))
	if err != nil {
		t.Fatal(err)
	}
	return leaf.(*record.VendorLeaf).Entry
}

// fresh returns a world with some leaves, and an entry that isn't in its log.
func fresh(t *testing.T) (*bundletest.World, *record.Entry) {
	t.Helper()
	other := bundletest.NewWorld(t, witnessed)
	e := entry(t, other)
	w := bundletest.NewWorld(t, witnessed)
	w.Filler(5)
	w.Publish(w.Now)
	return w, e
}

func TestSubmit(t *testing.T) {
	w, e := fresh(t)
	var auth []string
	h := w.Handler()
	c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		auth = append(auth, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization"))
		if r.Method == "POST" && r.Header.Get("Content-Type") != "application/octet-stream" {
			t.Errorf("content type %q", r.Header.Get("Content-Type"))
		}
		h.ServeHTTP(rw, r)
	}), Config{Token: "secret", LogPolicy: w.Policy()})
	p, err := c.Submit(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.Submit(t.Context(), e)
	if err != nil || again.Index != p.Index || p.Index != 5 {
		t.Errorf("index %d, submitted again %v, %v", p.Index, again, err)
	}
	if _, err := p.Verify(record.LeafHash(p.Extra), w.Policy()); err != nil {
		t.Error(err)
	}
	if _, err := c.Checkpoint(t.Context()); err != nil {
		t.Error(err)
	}
	// The token goes with submissions, and with nothing else.
	if want := []string{"POST /add Bearer secret", "POST /add Bearer secret", "GET /checkpoint "}; !slices.Equal(auth, want) {
		t.Errorf("requests %q, want %q", auth, want)
	}
}

// script answers requests by one handler after another, and the rest by the last.
type script struct {
	mu       sync.Mutex
	steps    []http.HandlerFunc
	requests int
}

func (s *script) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	step := s.steps[min(s.requests, len(s.steps)-1)]
	s.requests++
	s.mu.Unlock()
	step(rw, r)
}

func answer(status int, header ...string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(header); i += 2 {
			rw.Header().Set(header[i], header[i+1])
		}
		rw.WriteHeader(status)
	}
}

func hangUp(rw http.ResponseWriter, r *http.Request) {
	conn, _, err := rw.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// TestRetries fails if something is repeated that is not to be, or the other way around, or too fast.
func TestRetries(t *testing.T) {
	for _, tt := range []struct {
		name     string
		step     http.HandlerFunc
		repeated bool
		atLeast  time.Duration
	}{
		{"hangs up", hangUp, true, firstBackoff / 2},
		{"429", answer(429, "Retry-After", "2"), true, 2 * time.Second},
		{"502", answer(502), true, firstBackoff / 2},
		{"503", answer(503), true, firstBackoff / 2},
		{"503 with a pause", answer(503, "Retry-After", "7"), true, 7 * time.Second},
		{"503 with a very long pause", answer(503, "Retry-After", "86400"), true, maxRetryAfter},
		{"503 with a date", answer(503, "Retry-After", "Tue, 24 Nov 2026 07:00:00 GMT"), true, firstBackoff / 2},
		{"504", answer(504), true, firstBackoff / 2},
		{"400", answer(400), false, 0},
		{"401", answer(401), false, 0},
		{"403", answer(403), false, 0},
		{"404", answer(404), false, 0},
		{"409", answer(409), false, 0},
		{"413", answer(413), false, 0},
		{"422", answer(422), false, 0},
		{"500", answer(500), false, 0},
		{"501", answer(501), false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, e := fresh(t)
			s := &script{steps: []http.HandlerFunc{tt.step, tt.step, w.Handler().ServeHTTP}}
			c := serve(t, s, Config{Token: "secret", LogPolicy: w.Policy()})
			var pauses []time.Duration
			c.sleep = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
			_, err := c.Submit(t.Context(), e)
			if !tt.repeated {
				var p *Problem
				if !errors.As(err, &p) || s.requests != 1 {
					t.Errorf("got %v after %d requests, want a Problem after one", err, s.requests)
				}
				return
			}
			if err != nil || s.requests != 3 || len(pauses) != 2 {
				t.Fatalf("got %v after %d requests with pauses %v", err, s.requests, pauses)
			}
			for _, d := range pauses {
				if d < tt.atLeast || d > tt.atLeast*5/4+2*firstBackoff {
					t.Errorf("pause of %v, want about %v", d, tt.atLeast)
				}
			}
		})
	}
}

func TestRetriesEnd(t *testing.T) {
	w, e := fresh(t)
	s := &script{steps: []http.HandlerFunc{answer(503)}}
	c := serve(t, s, Config{LogPolicy: w.Policy()})
	_, err := c.Submit(t.Context(), e)
	var p *Problem
	if !errors.As(err, &p) || p.Status != 503 || s.requests != maxAttempts {
		t.Errorf("got %v after %d requests, want a Problem 503 after %d", err, s.requests, maxAttempts)
	}

	ctx, cancel := context.WithCancel(t.Context())
	s = &script{steps: []http.HandlerFunc{func(rw http.ResponseWriter, r *http.Request) { cancel(); rw.WriteHeader(503) }}}
	c = serve(t, s, Config{LogPolicy: w.Policy()})
	if _, err := c.Submit(ctx, e); !errors.Is(err, context.Canceled) || s.requests != 1 {
		t.Errorf("got %v after %d requests, want context.Canceled after one", err, s.requests)
	}
}

// TestAccepted: 202 is polled until there is a proof, and not at another host.
func TestAccepted(t *testing.T) {
	w, e := fresh(t)
	h := w.Handler()
	record202 := func(location string) http.HandlerFunc {
		return func(rw http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(httptest.NewRecorder(), r) // logged, but the submitter doesn't get the proof
			answer(202, "Location", location)(rw, r)
		}
	}
	digest := e.StatementDigest()
	location := fmt.Sprintf("/proof/by-statement/%x", digest)
	s := &script{steps: []http.HandlerFunc{record202(location), answer(404), answer(202, "Retry-After", "3"), answer(503), h.ServeHTTP}}
	c := serve(t, s, Config{LogPolicy: w.Policy()})
	var pauses []time.Duration
	c.sleep = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	p, err := c.Submit(t.Context(), e)
	if err != nil || p.Index != 5 {
		t.Fatalf("got %v, %v", p, err)
	}
	if len(pauses) != 4 || pauses[2] < 3*time.Second {
		t.Errorf("pauses %v, want four, the third as long as the log asked for", pauses)
	}

	for _, location := range []string{"http://169.254.169.254/latest", "//elsewhere.example/x", "file:///etc/passwd", "", "http://[::1"} {
		c := serve(t, answer(202, "Location", location), Config{})
		if _, err := c.Submit(t.Context(), e); err == nil || !strings.Contains(err.Error(), "Location") {
			t.Errorf("Location %q: got %v, want an error about it", location, err)
		}
	}

	c = serve(t, answer(202, "Location", "/proof/7"), Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	c.sleep = func(context.Context, time.Duration) error { cancel(ErrNotLogged); return ErrNotLogged }
	if _, err := c.Submit(ctx, e); !errors.Is(err, ErrNotLogged) {
		t.Errorf("got %v, want ErrNotLogged", err)
	}
}

// TestSubmitChecks starts from a good proof and changes one thing in the log's answer.
func TestSubmitChecks(t *testing.T) {
	w, e := fresh(t)
	index := w.Append(w.LeafFor(e))
	otherIndex := w.AddVendorKey(w.Gateway)
	note := w.Publish(w.Now)
	good := w.Proof(index, note)
	stranger := bundletest.Key(t, checkpoint.Ed25519, "stranger.example")
	for _, tt := range []struct {
		name string
		edit func(p *checkpoint.Proof)
	}{
		{"good", func(*checkpoint.Proof) {}},
		{"another entry", func(p *checkpoint.Proof) { *p = *w.Proof(otherIndex, note) }},
		{"another index", func(p *checkpoint.Proof) { p.Index ^= 1 }},
		{"another leaf", func(p *checkpoint.Proof) { p.Extra[5]++ }},
		{"no leaf", func(p *checkpoint.Proof) { p.Extra = nil }},
		{"another hash", func(p *checkpoint.Proof) { p.Hashes[0][0]++ }},
		{"another log", func(p *checkpoint.Proof) {
			n, err := checkpoint.ParseNote(note)
			if err != nil {
				t.Fatal(err)
			}
			p.Checkpoint = bundletest.SignNote(t, n.Text, w.Now, stranger)
		}},
		{"no quorum", func(p *checkpoint.Proof) { p.Checkpoint = w.Sign(w.Head(w.Size()), w.Now, 0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := checkpoint.ParseProof(good.Bytes())
			if err != nil {
				t.Fatal(err)
			}
			tt.edit(p)
			c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { rw.Write(p.Bytes()) }), Config{LogPolicy: w.Policy()})
			_, err = c.Submit(t.Context(), e)
			if (err == nil) != (tt.name == "good") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestProblem(t *testing.T) {
	w, e := fresh(t)
	for _, tt := range []struct {
		contentType, body string
		want              string
		index             uint64
	}{
		{"application/problem+json", `{"type":"https://affidavit-log.github.io/problems/statement-exists","title":"Exists","status":409,"detail":"other evidence","index":7}`,
			"log answered 409 (statement-exists): other evidence (index 7)", 7},
		{"application/problem+json; charset=utf-8", `{"type":"https://affidavit-log.github.io/problems/not-genuine","detail":"a\u001b[31mred\nline","reason":"revoked"}`,
			"log answered 409 (not-genuine): a [31mred line [revoked]", 0},
		{"application/problem+json", `{"type":5,"title":"T","index":"x","detail":null}`, "log answered 409: T", 0},
		{"application/problem+json", `nonsense`, "log answered 409", 0},
		{"text/plain", "no such thing\n", "log answered 409: no such thing", 0},
		{"text/html", "<html>nginx</html>", "log answered 409: Conflict", 0},
	} {
		c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", tt.contentType)
			rw.WriteHeader(409)
			io.WriteString(rw, tt.body)
		}), Config{LogPolicy: w.Policy()})
		_, err := c.Submit(t.Context(), e)
		var p *Problem
		if !errors.As(err, &p) || err.Error() != tt.want {
			t.Errorf("%s: got %q, want %q", tt.body, err, tt.want)
			continue
		}
		if tt.index != 0 && (p.Index == nil || *p.Index != tt.index) {
			t.Errorf("%s: index %v, want %d", tt.body, p.Index, tt.index)
		}
	}
}

// TestNew: a token never travels where others can read it, and URLs that can't be meant are refused.
func TestNew(t *testing.T) {
	for _, tt := range []struct {
		url   string
		c     Config
		valid bool
	}{
		{"https://log.example/2026", Config{Token: "t"}, true},
		{"https://log.example/2026/", Config{}, true},
		{"http://log.example", Config{}, true},
		{"http://log.example", Config{Token: "t"}, false},
		{"http://log.example", Config{Token: "t", AllowPlainHTTP: true}, true},
		{"http://127.0.0.1:8080", Config{Token: "t"}, true},
		{"http://[::1]:8080", Config{Token: "t"}, true},
		{"http://localhost:8080", Config{Token: "t"}, true},
		{"http://127.0.0.1.evil.example", Config{Token: "t"}, false},
		{"http://localhost.evil.example", Config{Token: "t"}, false},
		{"https://log.example", Config{Token: "a\nb"}, false},
		{"https://log.example", Config{Token: "a b"}, false},
		{"https://log.example", Config{Token: strings.Repeat("x", 5000)}, false},
		{"ftp://log.example", Config{}, false},
		{"log.example", Config{}, false},
		{"https://", Config{}, false},
		{"https://user:pass@log.example", Config{}, false},
		{"https://log.example/?x=y", Config{}, false},
		{"https://log.example/#x", Config{}, false},
		{"https://log.example:port", Config{}, false},
	} {
		if _, err := New(tt.url, tt.c); (err == nil) != tt.valid {
			t.Errorf("New(%q, %+v): %v", tt.url, tt.c, err)
		} else if err != nil && strings.Contains(err.Error(), "pass") {
			t.Errorf("the error shows a password: %v", err)
		}
	}
}

// TestRedirects: a submission, with its token, goes where it was told to and nowhere else.
func TestRedirects(t *testing.T) {
	w, e := fresh(t)
	var reached, asked atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" || r.Header.Get("Authorization") != "" {
			reached.Add(1)
		}
		w.Handler().ServeHTTP(rw, r)
	}))
	defer elsewhere.Close()
	c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(rw, r, elsewhere.URL+r.URL.Path, http.StatusTemporaryRedirect)
	}), Config{Token: "secret", LogPolicy: w.Policy()})
	if _, err := c.Submit(t.Context(), e); !errors.Is(err, errRedirect) || reached.Load() != 0 || asked.Load() != 1 {
		t.Errorf("got %v after %d requests; the submission reached another host %d times", err, asked.Load(), reached.Load())
	}
	if _, err := c.Checkpoint(t.Context()); err != nil { // reads may be served elsewhere
		t.Error(err)
	}
	if reached.Load() != 0 {
		t.Error("the token reached another host")
	}
	loop := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, "/again", http.StatusFound) }), Config{})
	if _, err := loop.Checkpoint(t.Context()); err == nil {
		t.Error("a loop of redirects ended well")
	}
}

func TestLimits(t *testing.T) {
	bomb := func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(rw)
		zeros := make([]byte, 1<<20)
		for range 64 {
			z.Write(zeros)
		}
		z.Close()
	}
	s := &script{steps: []http.HandlerFunc{bomb}}
	c := serve(t, s, Config{})
	if _, err := c.Checkpoint(t.Context()); !errors.Is(err, errTooLarge) || s.requests != 1 {
		t.Errorf("got %v after %d requests, want errTooLarge after one", err, s.requests)
	}
	c = serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Encoding", "br")
		io.WriteString(rw, "x")
	}), Config{})
	c.sleep = func(context.Context, time.Duration) error { return errors.New("no patience") }
	if _, err := c.Checkpoint(t.Context()); err == nil {
		t.Error("an encoding that was not asked for was accepted")
	}
}

type failing struct{ err error }

func (f failing) RoundTrip(*http.Request) (*http.Response, error) { return nil, f.err }

// TestHopeless: what would fail again in the same way is not repeated.
func TestHopeless(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS() // under a certificate that nobody knows
	defer srv.Close()
	for _, tt := range []struct {
		name, url string
		rt        http.RoundTripper
		repeated  bool
	}{
		{"certificate", srv.URL, nil, false},
		{"no such host", "https://log.example", failing{&net.DNSError{Err: "no such host", IsNotFound: true}}, false},
		{"no resolver", "https://log.example", failing{&net.DNSError{Err: "server misbehaving", IsTemporary: true}}, true},
		{"refused", "https://log.example", failing{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}, true},
	} {
		var cfg Config
		if tt.rt != nil {
			cfg.HTTPClient = &http.Client{Transport: tt.rt}
		}
		c, err := New(tt.url, cfg)
		if err != nil {
			t.Fatal(err)
		}
		repeated := false
		c.sleep = func(context.Context, time.Duration) error { repeated = true; return context.Canceled }
		if _, err := c.Checkpoint(t.Context()); err == nil || repeated != tt.repeated {
			t.Errorf("%s: got %v, repeated: %t", tt.name, err, repeated)
		}
	}
}

func TestReadToken(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		text, want string
		valid      bool
	}{
		{"secret\n", "secret", true},
		{"secret", "secret", true},
		{"\n", "", false},
		{"two words", "", false},
	} {
		file := filepath.Join(dir, "token")
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadToken(file); got != tt.want || (err == nil) != tt.valid {
			t.Errorf("%q: got %q, %v", tt.text, got, err)
		}
	}
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadToken(open); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a token that others can read: %v", err)
	}
	if _, err := ReadToken(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want os.ErrNotExist", err)
	}
}

// fillerLog returns a served log of n leaves and its client.
func fillerLog(t *testing.T, n int, c Config) (*bundletest.World, *Client) {
	t.Helper()
	w := bundletest.NewWorld(t, witnessed)
	w.Filler(n)
	w.Publish(w.Now)
	c.LogPolicy = w.Policy()
	return w, serve(t, w.Handler(), c)
}

// TestTree reads leaves and proofs from tiles, at sizes around the borders of tiles of all levels.
func TestTree(t *testing.T) {
	for _, size := range []int{1, 2, 255, 256, 257, 300, 512, 65535, 65536, 65537, 70000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w, c := fillerLog(t, size, Config{})
			tree, err := c.Tree(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range []int{0, 1, 200, 255, 256, 511, 65535, 65536, 69999, size / 2, size - 2, size - 1} {
				if i < 0 || i >= size {
					continue
				}
				p, err := tree.Proof(t.Context(), uint64(i))
				if err != nil {
					t.Fatalf("index %d: %v", i, err)
				}
				if want := w.Proof(uint64(i), tree.Note()); !bytes.Equal(p.Bytes(), want.Bytes()) {
					t.Errorf("index %d: another proof than the log's", i)
				}
				hashes, err := tree.Consistency(t.Context(), uint64(i))
				if err != nil || !slices.Equal(hashes, w.Consistency(uint64(i), tree.Note())) {
					t.Errorf("consistency from %d: %v", i, err)
				}
				if root, err := tree.Root(t.Context(), uint64(i)); err != nil || root != w.Head(uint64(i)).Root {
					t.Errorf("root of %d: %v", i, err)
				}
			}
			if _, err := tree.Leaf(t.Context(), uint64(size)); err == nil {
				t.Error("a leaf beyond the tree")
			}
			if _, err := tree.Consistency(t.Context(), uint64(size)+1); err == nil {
				t.Error("consistency from beyond the tree")
			}
		})
	}
}

func TestLeaves(t *testing.T) {
	w, c := fillerLog(t, 700, Config{})
	tree, err := c.Tree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]uint64{{0, 700}, {0, 0}, {255, 257}, {300, 699}, {512, 700}, {700, 700}} {
		i := r[0]
		for leaf, err := range tree.Leaves(t.Context(), r[0], r[1]) {
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(leaf, w.Leaf(i)) {
				t.Fatalf("leaf %d is %q", i, leaf)
			}
			i++
		}
		if i != r[1] {
			t.Errorf("leaves %v ended at %d", r, i)
		}
	}
	for _, r := range [][2]uint64{{0, 701}, {5, 4}} {
		for _, err := range tree.Leaves(t.Context(), r[0], r[1]) {
			if err == nil {
				t.Errorf("leaves %v", r)
			}
		}
	}
	for range tree.Leaves(t.Context(), 0, 700) {
		break // must not panic
	}
}

// TestPartialTilesGone: a reader of an older checkpoint finds only full tiles where there were partial ones.
func TestPartialTilesGone(t *testing.T) {
	w := bundletest.NewWorld(t, witnessed)
	w.Filler(300)
	old := w.Publish(w.Now)
	w.Filler(65536)
	w.Publish(w.Now)
	h := w.Handler()
	c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, ".p/") {
			http.NotFound(rw, r)
			return
		}
		h.ServeHTTP(rw, r)
	}), Config{LogPolicy: w.Policy()})
	tree, err := c.TreeAt(old)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := tree.Proof(t.Context(), 299); err != nil || !bytes.Equal(p.Bytes(), w.Proof(299, old).Bytes()) {
		t.Errorf("got %v", err)
	}
	if _, err := tree.Consistency(t.Context(), 17); err != nil {
		t.Error(err)
	}
}

// TestDamage changes one byte of each resource that a proof needs. Nothing may come of it but an error, also when the
// damage is in the cache, where it may not even lead to one.
func TestDamage(t *testing.T) {
	w := bundletest.NewWorld(t, witnessed)
	w.Filler(700)
	w.Publish(w.Now)
	h := w.Handler()
	var mu sync.Mutex // guards paths while requests are under way
	var paths []string
	c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		paths = append(paths, r.URL.Path)
		mu.Unlock()
		h.ServeHTTP(rw, r)
	}), Config{LogPolicy: w.Policy()})
	prove := func(c *Client) error {
		tree, err := c.Tree(t.Context())
		if err != nil {
			return err
		}
		_, err = tree.Proof(t.Context(), 300)
		return err
	}
	if err := prove(c); err != nil {
		t.Fatal(err)
	}
	if len(paths) < 4 {
		t.Fatalf("only %q were read", paths)
	}
	for _, path := range paths {
		c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			r.Header.Del("Accept-Encoding")
			h.ServeHTTP(rec, r)
			b := rec.Body.Bytes()
			if rec.Header().Get("Content-Encoding") == "gzip" {
				z, err := gzip.NewReader(rec.Body)
				if err != nil {
					t.Error(err)
				}
				b, _ = io.ReadAll(z)
			}
			if r.URL.Path == path {
				// Leaf 300 is the 45th of its bundle, and "filler 300" there.
				if i := bytes.Index(b, []byte("filler 300")); i >= 0 {
					b[i]++
				} else {
					b[len(b)/2]++
				}
			}
			rw.Write(b)
		}), Config{LogPolicy: w.Policy()})
		if err := prove(c); err == nil {
			t.Errorf("a damaged %s went unnoticed", path)
		}
	}

	dir := t.TempDir()
	c = serve(t, h, Config{LogPolicy: w.Policy(), CacheDir: dir})
	if err := prove(c); err != nil {
		t.Fatal(err)
	}
	damaged := 0
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		damaged++
		for i := range b {
			b[i]++
		}
		return os.WriteFile(path, b, 0o600)
	}); err != nil || damaged < 2 {
		t.Fatalf("%d cached files, %v", damaged, err)
	}
	c = serve(t, h, Config{LogPolicy: w.Policy(), CacheDir: dir})
	if err := prove(c); err != nil {
		t.Errorf("with a damaged cache: %v", err)
	}
	// It was repaired, and serves without the log.
	var served atomic.Int32
	c = serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/tile/") && !strings.Contains(r.URL.Path, ".p/") {
			served.Add(1)
		}
		h.ServeHTTP(rw, r)
	}), Config{LogPolicy: w.Policy(), CacheDir: dir})
	if err := prove(c); err != nil || served.Load() != 0 {
		t.Errorf("%v; %d full tiles were read from the log, not from the repaired cache", err, served.Load())
	}
}

func TestReads(t *testing.T) {
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	s.Publish(s.Now)
	c := serve(t, s.Handler(), Config{LogPolicy: s.Policy()})
	ctx := t.Context()
	leaf, err := record.ParseLeaf(s.Leaf(s.Start))
	if err != nil {
		t.Fatal(err)
	}
	start := leaf.(*record.RecordLeaf).Entry.Statement()
	want := func(index uint64) func(p *checkpoint.Proof, err error) {
		return func(p *checkpoint.Proof, err error) {
			t.Helper()
			if err != nil || p.Index != index {
				t.Errorf("got %v, %v; want index %d", p, err, index)
			}
		}
	}
	want(s.Start)(c.Proof(ctx, s.Start))
	want(s.Start)(c.ProofByStatement(ctx, s.Statement(s.Start)))
	want(s.FreshStart)(c.ProofByNote(ctx, start.Start.Freshness.Note))
	want(s.Collateral)(c.ProofByCollateral(ctx, s.CollateralID))
	want(s.Release)(c.ProofByRelease(ctx, s.Vendor.ID, s.Vendor.Image.SHA256))
	want(s.CoverStart)(c.ProofCovering(ctx, s.Start))
	keyid := record.NewSessionKey(s.Vendor.Key.Public().(ed25519.PublicKey)).KeyID
	want(s.VendorKey)(c.ProofByKey(ctx, s.Vendor.ID, keyid))

	f, err := c.Freshness(ctx)
	if err != nil || f.Freshness != s.Fresh {
		t.Errorf("freshness %+v, %v; want %+v", f, err, s.Fresh)
	}
	for _, b := range s.Set.Components() {
		if got, err := c.Blob(ctx, sha256.Sum256(b)); err != nil || !bytes.Equal(got, b) {
			t.Errorf("blob: %v", err)
		}
	}
	if _, err := c.ProofByStatement(ctx, record.Digest{}); !NotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
	if _, err := c.ProofCovering(ctx, s.Size()); !NotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
	if _, err := c.Blob(ctx, record.Digest{}); !NotFound(err) {
		t.Errorf("got %v, want not found", err)
	}

	// A log that answers with something else than what was asked for.
	liar := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { rw.Write(s.Proof(s.Final, s.Publish(s.Now)).Bytes()) }), Config{LogPolicy: s.Policy()})
	for name, call := range map[string]func() (*checkpoint.Proof, error){
		"index":      func() (*checkpoint.Proof, error) { return liar.Proof(ctx, s.Start) },
		"statement":  func() (*checkpoint.Proof, error) { return liar.ProofByStatement(ctx, s.Statement(s.Start)) },
		"note":       func() (*checkpoint.Proof, error) { return liar.ProofByNote(ctx, start.Start.Freshness.Note) },
		"collateral": func() (*checkpoint.Proof, error) { return liar.ProofByCollateral(ctx, s.CollateralID) },
		"release":    func() (*checkpoint.Proof, error) { return liar.ProofByRelease(ctx, s.Vendor.ID, s.Vendor.Image.SHA256) },
		"covering":   func() (*checkpoint.Proof, error) { return liar.ProofCovering(ctx, s.Start) },
		"key":        func() (*checkpoint.Proof, error) { return liar.ProofByKey(ctx, s.Vendor.ID, keyid) },
	} {
		if p, err := call(); err == nil {
			t.Errorf("%s: another leaf was accepted: %v", name, p.Index)
		}
	}
	liar = serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "x") }), Config{})
	if _, err := liar.Blob(ctx, sha256.Sum256([]byte("y"))); err == nil {
		t.Error("another blob was accepted")
	}
}

func TestAssembleBundle(t *testing.T) {
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	s.Publish(s.Now)
	c := serve(t, s.Handler(), Config{LogPolicy: s.Policy()})
	b, err := c.AssembleBundle(t.Context(), s.Final)
	if err != nil {
		t.Fatal(err)
	}
	file, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want, err := s.Bundle().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, want) {
		t.Error("another file than the one made from the log directly")
	}
	if _, err := bundle.Parse(file); err != nil {
		t.Error(err)
	}
	f, err := bundle.Check(b, s.Options())
	if err != nil || !f.Allowed() {
		t.Errorf("%+v, %v", f, err)
	}

	b, err = c.AssembleBundleOf(t.Context(), s.Statement(s.Final))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.Bytes(); err != nil || !bytes.Equal(again, file) {
		t.Errorf("by statement: another file, %v", err)
	}
	for _, index := range []uint64{s.Start, s.ModelRun, s.Release, s.VendorKey} {
		b, err := c.AssembleBundle(t.Context(), index)
		if err != nil {
			t.Errorf("leaf %d: %v", index, err)
			continue
		}
		if _, err := bundle.Check(b, s.Options()); err != nil {
			t.Errorf("leaf %d: %v", index, err)
		}
	}
	if _, err := c.AssembleBundle(t.Context(), s.Size()); !NotFound(err) {
		t.Errorf("got %v, want not found", err)
	}
}

// TestAssembleUpstream: a gateway's record is worth little without those of where it sent calls on to.
func TestAssembleUpstream(t *testing.T) {
	named := new(record.Digest)
	var backend record.Channel
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{
		BeforeModelRun: func(s *bundletest.Session) {
			*named = s.Statement(s.AddModelRun(s.Start, func(d *bundletest.Draft) {
				d.Statement.ModelRun.PeerChannel.SHA256[0]++
				backend = d.Statement.ModelRun.PeerChannel
			}))
		},
		ModelRun: func(d *bundletest.Draft) {
			d.Statement.ModelRun.Upstream = []record.Upstream{{Provider: "backend", Execution: record.ExecutionTEE, Channel: backend, ModelRun: named}}
		},
	})
	s.Publish(s.Now)
	c := serve(t, s.Handler(), Config{LogPolicy: s.Policy()})
	for _, index := range []uint64{s.Final, s.ModelRun} {
		b, err := c.AssembleBundle(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		if f, err := bundle.Check(b, s.Options()); err != nil || !f.Allowed() {
			t.Errorf("leaf %d: %+v, %v", index, f, err)
		}
	}
}

// TestAssembleFork: what the log has shown as a leaf must be what its tree holds.
func TestAssembleFork(t *testing.T) {
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	s.Publish(s.Now)
	fork := bundletest.NewSession(t, witnessed, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Statement.Session.Actions.Size++ }})
	fork.Publish(fork.Now)
	h, h2 := s.Handler(), fork.Handler()
	c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/proof/") || strings.HasPrefix(r.URL.Path, "/blob/") {
			h.ServeHTTP(rw, r)
			return
		}
		h2.ServeHTTP(rw, r)
	}), Config{LogPolicy: s.Policy()})
	if _, err := c.AssembleBundle(t.Context(), s.Final); err == nil || !strings.Contains(err.Error(), "two different leaves") {
		t.Errorf("got %v, want an error about two different leaves", err)
	}
}

func TestTilePath(t *testing.T) {
	for n, want := range map[int64]string{0: "tile/entries/000", 1234067: "tile/entries/x001/x234/067", 1000: "tile/entries/x001/000"} {
		if got := tilePath(tlog.Tile{H: 8, L: -1, N: n, W: 256}); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := tilePath(tlog.Tile{H: 8, L: 2, N: 5, W: 17}); got != "tile/2/005.p/17" {
		t.Errorf("got %s", got)
	}
}
