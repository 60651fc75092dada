package witness

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// moodySigner is a key elsewhere, such as in an SSH agent, which isn't always there.
type moodySigner struct {
	ed25519.PrivateKey
	away bool
}

func (s *moodySigner) Sign(rand io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.away {
		return nil, errors.New("the agent is away")
	}
	return s.PrivateKey.Sign(rand, message, opts)
}

func TestSignerAway(t *testing.T) {
	signer := &moodySigner{PrivateKey: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32)), away: true}
	k, err := checkpoint.NewSigningKey(checkpoint.CosignatureEd25519, testName, signer)
	if err != nil {
		t.Fatal(err)
	}
	l := newTestLog(t, "log.example/a", 20)
	cfg := testConfig(t, l)
	cfg.Keys = []*checkpoint.SigningKey{k, cfg.Keys[1]}
	w := startWitness(t, cfg)
	w.add(l.request(0, 5)).check(t, "agent away", 500, "internal error")
	signer.away = false
	w.mustAdd(l, 0, 5) // nothing was recorded when it couldn't sign
}

// TestBastion has a bastion that takes two connections of a backend, and asks
// through them.
func TestBastion(t *testing.T) {
	l := newTestLog(t, "log.example/a", 20)
	w := startWitness(t, testConfig(t, l))
	path := filepath.Join(t.TempDir(), "bastion.pem")
	key, err := LoadBastionKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := LoadBastionKey(path); err != nil || !again.Equal(key) {
		t.Errorf("the key isn't kept: %v", err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadBastionKey(path); err == nil {
		t.Error("junk as key")
	}

	serverKey := ed25519.NewKeyFromSeed(make([]byte, 32))
	cert, err := selfSigned(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	// A certificate for 127.0.0.1, which selfSigned's isn't.
	tmpl := &x509.Certificate{SerialNumber: leaf(t, cert).SerialNumber, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(nil, tmpl, tmpl, serverKey.Public(), serverKey)
	if err != nil {
		t.Fatal(err)
	}
	cert.Certificate = [][]byte{der}
	roots := x509.NewCertPool()
	roots.AddCert(leaf(t, cert))
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"bastion/0"}, MinVersion: tls.VersionTLS13,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var logged bytes.Buffer
	b := &Bastion{Addr: ln.Addr().String(), Key: key, Handler: w.Handler(), RootCAs: roots, Logger: slog.New(slog.NewTextHandler(&lockedWriter{w: &logged}, nil))}
	if len(b.Prefix()) != 64 || strings.ToLower(b.Prefix()) != b.Prefix() {
		t.Errorf("prefix %q", b.Prefix())
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()

	size := int64(0)
	for range 2 { // it connects again
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.(*tls.Conn).Handshake(); err != nil {
			t.Fatal(err)
		}
		cs := conn.(*tls.Conn).ConnectionState()
		if pub, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) || cs.Version != tls.VersionTLS13 || cs.NegotiatedProtocol != "bastion/0" {
			t.Errorf("certificate of %T, TLS %x, protocol %q", cs.PeerCertificates[0].PublicKey, cs.Version, cs.NegotiatedProtocol)
		}
		used := false
		tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) {
			if used {
				return nil, io.ErrClosedPipe
			}
			used = true
			return struct{ net.Conn }{conn}, nil
		}}
		tr.Protocols.SetUnencryptedHTTP2(true)
		client := &http.Client{Transport: tr}
		for range 3 {
			resp, err := client.Post("http://witness/add-checkpoint", "", bytes.NewReader(l.request(size, size+3)))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != 200 || resp.ProtoMajor != 2 {
				t.Fatalf("status %d, HTTP/%d: %s %v", resp.StatusCode, resp.ProtoMajor, body, err)
			}
			size += 3
			verifyLines(t, w.cfg.Keys, l.checkpoint(size), string(body), 0)
		}
		conn.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if s := b.server(); s.IdleTimeout < 24*time.Hour || s.ReadHeaderTimeout < 24*time.Hour {
		t.Error("an idle connection would end") // net/http falls back on ReadTimeout
	}
	// Not the bastion: a certificate that nobody vouches for.
	b.RootCAs = x509.NewCertPool()
	go func() {
		if c, err := ln.Accept(); err == nil {
			c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	if err := b.serve(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown authority: %v", err)
	}
}

func leaf(t *testing.T, c tls.Certificate) *x509.Certificate {
	x, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestClosed(t *testing.T) {
	l := newTestLog(t, "log.example/a", 5)
	w := startWitness(t, testConfig(t, l))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	w.add(l.request(0, 5)).check(t, "closed", 500, "internal error")
}

func TestClockBefore1970(t *testing.T) {
	l := newTestLog(t, "log.example/a", 5)
	w := startWitness(t, testConfig(t, l))
	w.now.Store(0)
	a := w.add(l.request(0, 5))
	a.check(t, "clock at 0", 500, "internal error") // timestamp 0 must not be answered
	w.now.Store(1)
	w.mustAdd(l, 0, 5)
}

func TestOverload(t *testing.T) {
	cfg := testConfig(t, newTestLog(t, "log.example/a", 5))
	w := startWitness(t, cfg)
	s := slots{large: make(chan struct{}, 1), inFlight: make(chan struct{}, 1)}
	try := func(size int) *httptest.ResponseRecorder {
		rw := httptest.NewRecorder()
		w.post("add-checkpoint", s, w.addCheckpoint)(rw, httptest.NewRequest("POST", "/add-checkpoint", bytes.NewReader(make([]byte, size))))
		return rw
	}
	for range 3 { // slots are given back
		for _, size := range []int{0, smallBody - 1, smallBody, smallBody + 1, maxBody} {
			if rw := try(size); rw.Code != 400 {
				t.Errorf("%d bytes: status %d, want 400", size, rw.Code)
			}
		}
	}
	busy := func(rw *httptest.ResponseRecorder) bool {
		return rw.Code == 503 && rw.Header().Get("Retry-After") == "1"
	}
	s.large <- struct{}{}
	if !busy(try(smallBody+1)) || busy(try(smallBody-1)) {
		t.Error("large bodies are under way: want 503 for another, and for no small one")
	}
	<-s.large
	s.inFlight <- struct{}{}
	if !busy(try(0)) || !busy(try(maxBody)) {
		t.Error("requests are under way: want 503")
	}
}
