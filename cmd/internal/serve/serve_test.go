package serve

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/affidavit-log/affidavit/cmd/internal/keys"
)

// writePair writes a certificate for 127.0.0.1 with a serial number, and its key. Both files are replaced, as tools for
// renewal do.
func writePair(t *testing.T, dir string, serial int64) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	replace(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	replace(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	x, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(x)
	return cert, key, pool
}

func replace(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// started serves h behind a front, until the test ends.
func started(t testing.TB, f *Front, h http.Handler) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 20 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	ended := make(chan error, 1)
	go func() { ended <- f.Serve(s, l) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func fixed(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/large" {
			w.Write(make([]byte, 16<<20)) // more than sockets hold
		} else if _, err := io.Copy(io.Discard, r.Body); err == nil {
			io.WriteString(w, text)
		}
	})
}

// A lockedBuffer is read while others write to it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A new certificate is used soon after its files are there, and what can't be used changes nothing. Time is that of the
// bubble, so that nothing waits for the files to be looked at.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		cert, key, _ := writePair(t, dir, 1)
		var logged lockedBuffer
		o := &Options{cert: cert, key: key, conns: 1}
		ctx, cancel := context.WithCancel(t.Context())
		f, err := o.Open(ctx, new(keys.Ring), slog.New(slog.NewTextHandler(&logged, nil)))
		if err != nil {
			t.Fatal(err)
		}
		serial := func() int64 {
			time.Sleep(certPoll + 1)
			synctest.Wait()
			return f.cert.now.Load().Leaf.SerialNumber.Int64()
		}
		if n := serial(); n != 1 {
			t.Fatalf("serial number %d", n)
		}
		old, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		writePair(t, dir, 2)
		if n := serial(); n != 2 {
			t.Errorf("serial number %d after a new certificate", n)
		}
		now, err := os.ReadFile(key)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, key, old) // half way through a renewal
		if n := serial(); n != 2 {
			t.Errorf("serial number %d with another's key", n)
		}
		serial()
		if n := strings.Count(logged.String(), "can't be used"); n != 1 {
			t.Errorf("the same trouble was logged %d times:\n%s", n, &logged)
		}
		if strings.Contains(logged.String(), "PRIVATE") {
			t.Error("a private key is in the log")
		}
		replace(t, key, now)
		if n := serial(); n != 2 {
			t.Errorf("serial number %d", n)
		}
		writePair(t, dir, 3)
		if err := os.Chmod(key, 0o644); err != nil {
			t.Fatal(err)
		}
		if n := serial(); n != 2 || !strings.Contains(logged.String(), "chmod 600") {
			t.Errorf("serial number %d with a key that others can read:\n%s", n, &logged)
		}
		if err := os.Chmod(key, 0o600); err != nil {
			t.Fatal(err)
		}
		if n := serial(); n != 3 {
			t.Errorf("serial number %d", n)
		}
		cancel()
		synctest.Wait()
	})
}

func TestTLS(t *testing.T) {
	cert, key, pool := writePair(t, t.TempDir(), 1)
	o := &Options{cert: cert, key: key, conns: 100}
	f, err := o.Open(t.Context(), new(keys.Ring), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var ask atomic.Bool
	f.AskClients(ask.Load)
	addr := started(t, f, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, len(r.TLS.PeerCertificates)) }))
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	get := func(protocol int) string {
		tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}, Protocols: new(http.Protocols)}
		defer tr.CloseIdleConnections()
		tr.Protocols.SetHTTP1(protocol == 1)
		tr.Protocols.SetHTTP2(protocol == 2)
		resp, err := (&http.Client{Transport: tr}).Get("https://" + addr)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.ProtoMajor != protocol {
			t.Errorf("HTTP/%d, %v", resp.ProtoMajor, err)
		}
		return string(b)
	}
	for _, protocol := range []int{1, 2} {
		ask.Store(false)
		if n := get(protocol); n != "0" {
			t.Errorf("HTTP/%d: %s client certificates that weren't asked for", protocol, n)
		}
		ask.Store(true)
		if n := get(protocol); n != "1" {
			t.Errorf("HTTP/%d: %s client certificates", protocol, n)
		}
	}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		if c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, MinVersion: version, MaxVersion: version}); err == nil {
			c.Close()
			t.Errorf("TLS %#x", version)
		}
	}
	for name, o := range map[string]*Options{
		"no certificate": {cert: cert + "x", key: key, conns: 1}, "no key": {cert: cert, key: key + "x", conns: 1}, "the wrong way round": {cert: key, key: cert, conns: 1},
	} {
		if _, err := o.Open(t.Context(), new(keys.Ring), slog.New(slog.DiscardHandler)); err == nil || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := (&Options{cert: cert, conns: 1}).Check(); err == nil {
		t.Error("a certificate without a key")
	}
	if err := (&Options{}).Check(); err == nil {
		t.Error("no connections at all")
	}
}

// ask sends a request over its own connection, and returns the answer's body.
func ask(addr, body string) (string, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// However many connections strangers open, and whatever they leave undone, others are served at once, and no more are
// open than may be.
func TestConnections(t *testing.T) {
	const most = 16
	for name, first := range map[string]string{
		"nothing":                   "",
		"half a header":             "POST / HTTP/1.1\r\nHost: x\r\nX: ",
		"half a body":               "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx",
		"a chunk of many":           "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
		"a request, and idle":       "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
		"a request, and no reading": "GET /large HTTP/1.1\r\nHost: x\r\n\r\n",
		"half a huge chunk":         "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffff\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := started(t, (&Options{conns: most}).Plain(), fixed("served"))
			var conns []net.Conn
			for range 4 * most {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				io.WriteString(c, first)
				conns = append(conns, c)
				if len(conns)%most == 0 {
					if got, err := ask(addr, "body"); err != nil || got != "served" {
						t.Fatalf("after %d connections: %q, %v", len(conns), got, err)
					}
				}
			}
			open := 0
			for _, c := range conns {
				c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				if _, err := io.Copy(io.Discard, io.LimitReader(c, 1<<20)); errors.Is(err, os.ErrDeadlineExceeded) {
					open++
				}
			}
			if open >= most {
				t.Errorf("%d connections are open, of at most %d", open, most)
			}
		})
	}
}

// A connection that we are at work for isn't closed for others, and there are never more than the most.
func TestBusyConnections(t *testing.T) {
	const most = 4
	release := make(chan struct{})
	var busy atomic.Int64
	addr := started(t, (&Options{conns: most}).Plain(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		busy.Add(1)
		<-release
		io.WriteString(w, "served")
	}))
	answers := make(chan string, most)
	for range most {
		go func() {
			got, err := ask(addr, "body")
			answers <- fmt.Sprint(got, err)
		}()
	}
	for busy.Load() < most {
		time.Sleep(time.Millisecond)
	}
	for range 3 * most {
		if got, err := ask(addr, "body"); err == nil {
			t.Errorf("one more than there may be was answered %q", got)
		}
	}
	close(release)
	for range most {
		if got := <-answers; got != "served<nil>" {
			t.Errorf("a request under way: %s", got)
		}
	}
	for range 3 * most {
		if got, err := ask(addr, "body"); err != nil || got != "served" {
			t.Fatalf("afterwards: %q, %v", got, err)
		}
	}
}

// rapidReset opens and resets streams on one connection of HTTP/2 as fast as it can, and returns what the server says when
// it ends the connection.
func rapidReset(t testing.TB, addr string, pool *x509.CertPool, streams int) http2.ErrCode {
	c, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	w := bufio.NewWriterSize(c, 64<<10)
	io.WriteString(w, http2.ClientPreface)
	fr := http2.NewFramer(w, c)
	fr.WriteSettings()
	code := make(chan http2.ErrCode, 1)
	go func() {
		defer close(code)
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.GoAwayFrame); ok {
				code <- f.ErrCode
				return
			}
		}
	}()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for i := range streams {
		block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/"}} {
			enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		id := uint32(2*i + 1)
		if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}) != nil ||
			fr.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	w.Flush()
	return <-code
}

// Streams that are opened and reset at once don't have the server start more handlers than one connection may have, and
// end the connection.
func TestRapidReset(t *testing.T) {
	cert, key, pool := writePair(t, t.TempDir(), 1)
	f, err := (&Options{cert: cert, key: key, conns: 16}).Open(t.Context(), new(keys.Ring), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var running, most atomic.Int64
	addr := started(t, f, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if r.URL.Path == "/" {
			<-release // as a handler that doesn't notice that nobody waits any more
		}
		io.WriteString(w, "served")
	}))
	if code := rapidReset(t, addr, pool, 10_000); code != http2.ErrCodeEnhanceYourCalm {
		t.Errorf("streams are opened and reset, and the server says %v", code)
	}
	if m := most.Load(); m > int64(http2Config().MaxConcurrentStreams) {
		t.Errorf("%d handlers at once for one connection", m)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("https://" + addr + "/other")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 200 {
		t.Errorf("another client: HTTP/%d %s", resp.ProtoMajor, resp.Status)
	}
	close(release)
}
