package client

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// enclave is a TLS server with a key of its own, as a trust domain has.
type enclave struct {
	*httptest.Server
	spki  []byte
	cert  *x509.Certificate
	calls atomic.Int32 // requests
}

func newEnclave(t testing.TB, h http.Handler, edit ...func(*tls.Config)) *enclave {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sandbox.example"}, DNSNames: []string{"sandbox.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	e := new(enclave)
	if e.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	e.spki = e.cert.RawSubjectPublicKeyInfo
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.calls.Add(1)
		h.ServeHTTP(w, r)
	}))
	e.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	for _, f := range edit {
		f(e.TLS)
	}
	e.EnableHTTP2 = true
	e.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, b)
})

// gated is a world whose log has the start of a session that names an enclave's key.
type gated struct {
	*bundletest.World
	*enclave
	challenge record.Digest
	statement record.Digest
	start     uint64
	config    GateConfig
}

func newGated(t testing.TB, h http.Handler, o bundletest.LogOptions, edit ...func(*bundletest.Draft)) *gated {
	t.Helper()
	g := &gated{World: bundletest.NewWorld(t, o), enclave: newEnclave(t, h), challenge: ChallengeDigest([32]byte{1}, [32]byte{2})}
	g.AddVendorKey(g.Vendor)
	g.AddRelease(g.Vendor)
	g.AddCollateral(g.Set)
	g.Tick(time.Second)
	g.AddTime()
	g.Tick(5 * time.Second)
	edit = append([]func(*bundletest.Draft){func(d *bundletest.Draft) {
		st := d.Statement.Start
		st.Channels = append(st.Channels, record.Channel{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256(g.spki)})
		st.Channels = append(st.Channels, record.Channel{Type: record.ChannelHPKEKey, SHA256: sha256.Sum256([]byte("hpke"))})
		st.Challenge = &g.challenge
	}}, edit...)
	g.start = g.AddStart(edit...)
	g.statement = g.Statement(g.start)
	g.Tick(5 * time.Second)
	g.AddTime()
	g.Tick(time.Second)
	g.Publish(g.Now)
	g.config = GateConfig{
		Log: serveTB(t, g.World.Handler(), Config{LogPolicy: g.Policy()}), Statement: g.statement, Check: g.Options(),
		Challenge: &g.challenge, Vendor: g.Vendor.ID, Now: func() time.Time { return g.Now.Add(time.Minute) },
	}
	return g
}

func serveTB(t testing.TB, h http.Handler, c Config) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	cl, err := New(srv.URL, c)
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

func (g *gated) open(t testing.TB) *Gate {
	t.Helper()
	gate, err := NewGate(context.Background(), g.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(gate.Close)
	return gate
}

// post sends a secret, and returns what was answered.
func post(rt http.RoundTripper, u string) (string, error) {
	c := &http.Client{Transport: rt, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Post(u, "text/plain", strings.NewReader("secret"))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestGate(t *testing.T) {
	g := newGated(t, echo, witnessed)
	gate := g.open(t)
	if got, err := post(gate, g.URL+"/v1?x=1"); err != nil || got != "POST /v1?x=1 secret" {
		t.Errorf("got %q, %v", got, err)
	}
	// The other way: a tls.Config for whatever dials by itself.
	conn, err := tls.Dial("tcp", g.Listener.Addr().String(), gate.TLSConfig())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := gate.CheckChannel(record.ChannelHPKEKey, []byte("hpke")); err != nil {
		t.Error(err)
	}
	if err := gate.CheckChannel(record.ChannelHPKEKey, g.spki); !errors.Is(err, ErrGate) {
		t.Errorf("a TLS key as an HPKE key: %v", err)
	}
	if gate.Finding().Subject.Index != g.start || gate.Start().ID != g.Session {
		t.Errorf("opened to %v", gate.Start())
	}
	// With the bundle in hand, nothing is fetched.
	b, err := g.config.Log.AssembleBundleOf(t.Context(), g.statement)
	if err != nil {
		t.Fatal(err)
	}
	g.config.Log, g.config.Bundle = nil, b
	g.open(t)
}

// eavesdropper is a TCP listener that counts what arrives. It passes it on to a TLS server, if there is one.
func eavesdropper(t *testing.T, to string) (addr string, received *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	received = new(atomic.Int64)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				up, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer up.Close()
				go io.Copy(conn, up)
				n, _ := io.Copy(up, conn)
				received.Add(n)
			}()
		}
	}()
	return l.Addr().String(), received
}

// TestGateWrongPeer: nothing of a request reaches a peer with another key, though its certificate has the same name.
func TestGateWrongPeer(t *testing.T) {
	g := newGated(t, echo, witnessed)
	gate := g.open(t)
	other := newEnclave(t, echo)
	for range 3 {
		if _, err := post(gate, other.URL); !errors.Is(err, ErrGate) {
			t.Errorf("got %v, want ErrGate", err)
		}
	}
	if n := other.calls.Load(); n != 0 {
		t.Errorf("%d requests have arrived", n)
	}
	// It isn't only the handler that didn't get to see them: after a whole handshake, no record of the application's
	// can be on the wire. What a client sends until it has verified is its first message, of less than 2 KB.
	addr, received := eavesdropper(t, other.Listener.Addr().String())
	big := strings.NewReader(strings.Repeat("secret", 1<<16))
	req, err := http.NewRequest("POST", "https://"+addr, big)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gate.RoundTrip(req); !errors.Is(err, ErrGate) {
		t.Errorf("got %v, want ErrGate", err)
	}
	time.Sleep(50 * time.Millisecond) // for bytes that should not come
	if n := received.Load(); n > 3000 || big.Len() != 6<<16 {
		t.Errorf("%d bytes were sent, %d of the body are unread", n, big.Len())
	}
	// A peer that has the right certificate and not its key.
	thief := newEnclave(t, echo, func(c *tls.Config) { c.Certificates[0].Certificate = [][]byte{g.cert.Raw} })
	if _, err := post(gate, thief.URL); err == nil || thief.calls.Load() != 0 {
		t.Errorf("got %v", err)
	}
	// An older TLS, without TLS at all, and a URL that doesn't ask for it.
	old := newEnclave(t, echo, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	if _, err := post(gate, old.URL); err == nil || old.calls.Load() != 0 {
		t.Errorf("got %v", err)
	}
	plain := httptest.NewServer(echo)
	defer plain.Close()
	if _, err := post(gate, plain.URL); !errors.Is(err, ErrGate) {
		t.Errorf("got %v, want ErrGate", err)
	}
	if _, err := post(gate, strings.Replace(plain.URL, "http", "https", 1)); err == nil {
		t.Error("no TLS, and no error")
	}
}

// TestGateRefuses: each thing that a start must be.
func TestGateRefuses(t *testing.T) {
	good := newGated(t, echo, witnessed)
	good.open(t) // otherwise every row below passes for the wrong reason
	for _, tt := range []struct {
		name, want string
		edit       func(*gated)
	}{
		{"another challenge", "another challenge", func(g *gated) { g.config.Challenge = &record.Digest{} }},
		{"another vendor", `of vendor "https://sandbox.example"`, func(g *gated) { g.config.Vendor = "https://other.example" }},
		{"too old", "the start is 22m11s old", func(g *gated) { g.Tick(21 * time.Minute) }},
		{"older than asked", "the start is 1m11s old, more than 30s", func(g *gated) { g.config.MaxAge = 30 * time.Second }},
		{"from the future", "from the future", func(g *gated) { g.Tick(-time.Hour) }},
		{"no measurement", "any code would do", func(g *gated) { g.config.Check.Appraisal = verifier.StrictPolicy() }},
		{"another measurement", "the start is refused", func(g *gated) {
			p, err := verifier.ParsePolicy([]byte("measurements:\n  - name: other\n    mrtd: " + strings.Repeat("ab", 48) + "\n    rtmr0: any\n    rtmr1: any\n    rtmr2: any\n    rtmr3: any\n    mrconfigid: any\n"))
			if err != nil {
				t.Fatal(err)
			}
			g.config.Check.Appraisal = p
		}},
		{"another root", "not proven", func(g *gated) { g.config.Check.Root = nil }},
		{"another log", "not proven", func(g *gated) {
			g.config.Check.LogPolicy = bundletest.NewLog(t, bundletest.LogOptions{Origin: "other.example", Witnesses: 1}).Policy()
		}},
		{"neither", "neither the start's bundle nor", func(g *gated) { g.config.Statement = record.Digest{} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := *good
			w := *good.World // its clock is the test's own
			g.World = &w
			g.config.Now = func() time.Time { return g.Now.Add(time.Minute) }
			tt.edit(&g)
			_, err := NewGate(t.Context(), g.config)
			if !errors.Is(err, ErrGate) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	b, err := good.config.Log.AssembleBundleOf(t.Context(), good.statement)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		edit       func(*GateConfig)
	}{
		{"another statement", "not 0100000", func(c *GateConfig) { c.Statement = record.Digest{1} }},
		{"missing leaf", "not proven", func(c *GateConfig) {
			c.Bundle = &bundle.Bundle{Subject: b.Subject, Proofs: b.Proofs[1:], Blobs: b.Blobs, Consistency: b.Consistency}
		}},
	} {
		c := good.config
		c.Bundle, c.Log = b, nil
		tt.edit(&c)
		if _, err := NewGate(t.Context(), c); !errors.Is(err, ErrGate) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	// Not logged.
	c := good.config
	c.Statement = record.Digest{7}
	if _, err := NewGate(t.Context(), c); !NotFound(err) {
		t.Errorf("a start that isn't logged: %v", err)
	}
	// What is logged, and isn't good.
	for _, tt := range []struct {
		name, want string
		edit       func(*bundletest.Draft)
	}{
		{"debug", "refused", func(d *bundletest.Draft) { d.Quote.TDAttributes = new(uint64(1 | 1<<28)) }},
		{"no challenge", "no challenge", func(d *bundletest.Draft) { d.Statement.Start.Challenge = nil }},
		{"no channels", "no key to talk to", func(d *bundletest.Draft) { d.Statement.Start.Channels = []record.Channel{} }},
		{"another TD", "refused", func(d *bundletest.Draft) { d.Quote.MRTD[0] ^= 1 }},
		{"quote of another statement", "not proven", func(d *bundletest.Draft) { d.KeepReportData = true }},
	} {
		g := newGated(t, echo, witnessed, tt.edit)
		if _, err := NewGate(t.Context(), g.config); !errors.Is(err, ErrGate) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.name, err, tt.want)
		}
	}
	// A session's end.
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	c = GateConfig{Bundle: s.Bundle(), Check: s.Options(), Now: func() time.Time { return s.Now }}
	if _, err := NewGate(t.Context(), c); !errors.Is(err, ErrGate) || !strings.Contains(err.Error(), "not about the start") {
		t.Errorf("a final record: %v", err)
	}
	c.Bundle.Subject = s.Start
	if _, err := NewGate(t.Context(), c); !errors.Is(err, ErrGate) {
		t.Errorf("a start whose end is in the bundle: %v", err)
	}
}

// TestGateWithoutWitnesses: the age is the log's word then, and only if the customer accepts that.
func TestGateWithoutWitnesses(t *testing.T) {
	g := newGated(t, echo, bundletest.LogOptions{})
	if _, err := NewGate(t.Context(), g.config); !errors.Is(err, ErrGate) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("no proven time under the strict policy: %v", err)
	}
	g.config.Check.Appraisal = g.Appraisal("time: {allow-unproven: true}")
	g.open(t)
	g.Tick(time.Hour)
	if _, err := NewGate(t.Context(), g.config); !errors.Is(err, ErrGate) || !strings.Contains(err.Error(), "old, more than") {
		t.Errorf("got %v", err)
	}
	g.config.Check.AllowQuorumNone = false
	if _, err := NewGate(t.Context(), g.config); !errors.Is(err, bundle.ErrQuorumNone) {
		t.Errorf("got %v", err)
	}
}

// TestGateCloses: no connection is made, or used, when the start is too old.
func TestGateCloses(t *testing.T) {
	g := newGated(t, echo, witnessed)
	gate := g.open(t)
	if _, err := post(gate, g.URL); err != nil {
		t.Fatal(err)
	}
	g.Tick(25 * time.Hour)
	if _, err := post(gate, g.URL); !errors.Is(err, ErrGate) || g.calls.Load() != 1 {
		t.Errorf("got %v after %d requests", err, g.calls.Load())
	}
	if _, err := tls.Dial("tcp", g.Listener.Addr().String(), gate.TLSConfig()); !errors.Is(err, ErrGate) {
		t.Errorf("got %v", err)
	}
}

// TestGateTLS: the caller's own demands hold, too.
func TestGateTLS(t *testing.T) {
	g := newGated(t, echo, witnessed)
	pool := x509.NewCertPool()
	pool.AddCert(g.cert)
	refuse := errors.New("not this one")
	for name, tt := range map[string]struct {
		c  *tls.Config
		ok bool
	}{
		"root and name": {&tls.Config{RootCAs: pool, ServerName: "sandbox.example"}, true},
		"another name":  {&tls.Config{RootCAs: pool, ServerName: "other.example"}, false},
		"another root":  {&tls.Config{RootCAs: x509.NewCertPool(), ServerName: "sandbox.example"}, false},
		"its own check": {&tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return refuse }}, false},
		"old versions":  {&tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS12}, true},
	} {
		g.config.TLS = tt.c
		before := g.calls.Load()
		_, err := post(g.open(t), g.URL)
		if (err == nil) != tt.ok || !tt.ok && g.calls.Load() != before {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGateHandler(t *testing.T) {
	var target *url.URL
	mux := http.NewServeMux()
	mux.Handle("/api/", echo)
	mux.HandleFunc("/api/redirect", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Alt-Svc", `h3="evil.example:443"`)
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	release := make(chan struct{})
	mux.HandleFunc("/api/stream", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "first\n")
		w.(http.Flusher).Flush()
		<-release
		io.WriteString(w, "second\n")
	})
	g := newGated(t, mux, witnessed)
	target, err := url.Parse(g.URL + "/api")
	if err != nil {
		t.Fatal(err)
	}
	gate := g.open(t)
	for _, bad := range []string{"http://sandbox.example", "https:///x", "https://u:p@sandbox.example", "https://sandbox.example/?q"} {
		u, err := url.Parse(bad)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gate.Handler(u); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	h, err := gate.Handler(target)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	if got, err := post(http.DefaultTransport, srv.URL+"/x/y?z=1"); err != nil || got != "POST /api/x/y?z=1 secret" {
		t.Errorf("got %q, %v", got, err)
	}

	noFollow := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for to, want := range map[string]string{
		"/api/there?q=1":             "/there?q=1",
		"there":                      "/there",
		g.URL + "/api/there":         "/there",
		g.URL + "/api//evil/there":   "/evil/there",
		g.URL + "/api":               "/",
		g.URL + "/elsewhere":         "",
		g.URL + "/apis":              "",
		"https://evil.example/":      "",
		"//evil.example/":            "",
		"http" + g.URL[5:] + "/api/": "",
		"%zz":                        "",
	} {
		resp, err := noFollow.Get(srv.URL + "/redirect?to=" + url.QueryEscape(to))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		got, status := resp.Header.Get("Location"), resp.StatusCode
		if got != want || (status == http.StatusBadGateway) != (want == "") || resp.Header.Get("Alt-Svc") != "" {
			t.Errorf("redirected to %q: %d with Location %q, want %q", to, status, got, want)
		}
	}

	resp, err := http.Get(srv.URL + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	if line, err := lines.ReadString('\n'); err != nil || line != "first\n" { // would block if it were held back
		t.Errorf("got %q, %v", line, err)
	}
	close(release)
	if line, err := lines.ReadString('\n'); err != nil || line != "second\n" {
		t.Errorf("got %q, %v", line, err)
	}

	// A web page whose name resolves to this machine.
	req, err := http.NewRequest("GET", srv.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	before := g.calls.Load()
	for host, status := range map[string]int{"evil.example": 403, "localhost:8080": 200, "[::1]:1": 200, "": 200} {
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("host %q: %d, want %d", host, resp.StatusCode, status)
		}
	}
	if n := g.calls.Load() - before; n != 3 {
		t.Errorf("%d requests have arrived, want 3", n)
	}

	// To another peer: nothing arrives, and the reason is told.
	other := newEnclave(t, echo)
	to, err := url.Parse(other.URL)
	if err != nil {
		t.Fatal(err)
	}
	if h, err = gate.Handler(to); err != nil {
		t.Fatal(err)
	}
	refused := httptest.NewServer(h)
	defer refused.Close()
	if got, err := post(http.DefaultTransport, refused.URL); err != nil || !strings.Contains(got, "not one that the session's start names") || other.calls.Load() != 0 {
		t.Errorf("got %q, %v, %d requests", got, err, other.calls.Load())
	}
}

func TestChallengeDigest(t *testing.T) {
	b := append([]byte("affidavit/challenge/v1"), 0)
	b = append(b, make([]byte, 64)...)
	b[len(b)-1], b[23] = 2, 1
	if got := ChallengeDigest([32]byte{1}, [32]byte{31: 2}); got != sha256.Sum256(b) {
		t.Errorf("got %x", got)
	}
}
