package sessionlog

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// clientCertificate returns a certificate that nobody vouches for, long expired, and the digest of its key.
func clientCertificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1e9, 0)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, fmt.Sprintf("%x", sha256.Sum256(spki))
}

// A vendor is known by what the file lists for it: a token, a client certificate's key, or both together.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	own, ownSum := clientCertificate(t)
	both, bothSum := clientCertificate(t)
	next, nextSum := clientCertificate(t)
	other, _ := clientCertificate(t)
	w.writeVendors(fmt.Sprintf("vendors:\n- id: %s\n  client-key-sha256: [%s]\n- id: %s\n  token-sha256: %s\n  client-key-sha256: [%s, %s]\n- id: https://c.example\n  token-sha256: %s\n",
		vendorA, ownSum, vendorB, hexSum(tokenB), bothSum, nextSum, hexSum(tokenA)))
	s := w.open()
	if !s.AsksForCertificates() {
		t.Error("servers wouldn't ask for certificates")
	}
	https := httptest.NewUnstartedServer(s.Handler())
	https.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	https.StartTLS()
	defer https.Close()
	for _, tt := range []struct {
		name  string
		cert  *tls.Certificate
		token string
		want  int // 400 is a vendor's: the body is no entry
	}{
		{"nothing", nil, "", 401},
		{"key alone", &own, "", 400},
		{"key, and a token of nobody", &own, "x", 401},
		{"key, and the token of another", &own, tokenA, 400}, // that one's, whom the token is enough for
		{"token that needs a key", nil, tokenB, 401},
		{"key that needs a token", &both, "", 401},
		{"both", &both, tokenB, 400},
		{"both, with the next key", &next, tokenB, 400},
		{"token with another's key", &own, tokenB, 401},
		{"a key that nobody has", &other, "", 401},
		{"token with a key that nobody has", &other, tokenB, 401},
		{"token alone", nil, tokenA, 400},
		{"long token", nil, strings.Repeat("x", maxToken+1), 401},
	} {
		tr := https.Client().Transport.(*http.Transport).Clone()
		if tt.cert != nil {
			tr.TLSClientConfig.Certificates = []tls.Certificate{*tt.cert}
		}
		req, err := http.NewRequest("POST", https.URL+"/add", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", binaryType)
		if tt.token != "" {
			req.Header.Set("Authorization", "Bearer "+tt.token)
		}
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, resp.StatusCode, tt.want)
		}
		tr.CloseIdleConnections()
	}
	for _, bad := range []string{
		"vendors:\n- id: https://a.example\n",
		"vendors:\n- id: https://a.example\n  client-key-sha256: [00]\n",
		fmt.Sprintf("vendors:\n- id: https://a.example\n  client-key-sha256: [%s, %s]\n", ownSum, ownSum),
		fmt.Sprintf("vendors:\n- id: https://a.example\n  client-key-sha256: [%s]\n- id: https://b.example\n  client-key-sha256: [%s]\n", ownSum, ownSum),
	} {
		if _, err := parseVendors([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

// A vendor that is taken from the list is refused within a second, with the interval that logs have. Time is that of the
// bubble: an interval of a second or more would make this fail.
func TestRevocation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vendors.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := "vendors:\n- id: https://a.example\n  token-sha256: " + hexSum(tokenA) + "\n"
	write(good)
	synctest.Test(t, func(t *testing.T) {
		v, err := newVendors(file)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		l := &Log{cfg: Config{poll: vendorsPoll}, vendors: v, logger: testLogger(t)}
		l.metrics = newMetrics(prometheus.NewRegistry(), l)
		done := make(chan struct{})
		go func() { l.watchVendors(ctx); close(done) }()
		for _, after := range []time.Duration{1, vendorsPoll - 1, vendorsPoll / 2} {
			write(good)
			time.Sleep(2 * time.Second)
			if v.authenticate(tokenA, nil) == nil {
				t.Fatal("the test is wrong")
			}
			time.Sleep(after) // anywhere between two looks
			write("vendors: []\n")
			time.Sleep(time.Second - 1)
			synctest.Wait()
			if v.authenticate(tokenA, nil) != nil {
				t.Error("a token is good a second after it was taken from the list")
			}
		}
		cancel()
		<-done
	})
}

// Somebody who is no vendor any more when the body has arrived isn't one.
func TestRevokedWhileSending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg = func(c *Config) { c.poll = time.Hour } // the test has the file read, and nobody else
	s := w.open()
	e := w.newTD().start(t, s.freshness())
	c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body := e.Bytes()
	fmt.Fprintf(c, "POST /add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", tokenA, binaryType, len(body), body[:100])
	waitFor(t, "the submission", func() bool { n, _ := s.flight.inUse(); return n == 1 })
	w.writeVendors(strings.Replace(w.vendorsYAML("{rate: 10, burst: 10}"), hexSum(tokenA), hexSum("another"), 1))
	s.Log.vendors.reload()
	c.Write(body[100:])
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("%s", resp.Status)
	}
}

// More readers of bundles than there are slots wait, and are then told to come again; a slot is given back.
func TestFewAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := fewAtOnce(make(chan struct{}, 2), func(w http.ResponseWriter, r *http.Request) error { <-release; return nil })
		ask := func() error {
			return h(httptest.NewRecorder(), httptest.NewRequest("GET", "/tile/entries/000", http.NoBody))
		}
		done := make(chan error)
		for range 2 {
			go func() { done <- ask() }()
		}
		synctest.Wait()
		began := time.Now()
		if err := ask(); problemFor(err).name != "overloaded" || time.Since(began) != bundleWait {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		go func() { done <- ask() }()
		time.Sleep(bundleWait / 2)
		close(release)
		for range 3 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
