package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// lines gives the lines that are written to it, and keeps them.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
	w   *io.PipeWriter
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	l.all.Write(b)
	l.mu.Unlock()
	return l.w.Write(b)
}

var listening = regexp.MustCompile(`msg=listening what=(\w+) addr=(\S+)`)

// started runs the command until the test stops it, and returns the addresses of its interfaces.
func started(t *testing.T, args ...string) (public, private string, stop func() int) {
	t.Helper()
	r, w := io.Pipe()
	out := &lines{w: w}
	ctx, cancel := context.WithCancel(context.Background())
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, args, io.Discard, out)
		w.Close()
	}()
	addr := make(chan [2]string)
	go func() {
		defer close(addr)
		s := bufio.NewScanner(r)
		for s.Scan() {
			if m := listening.FindStringSubmatch(s.Text()); m != nil {
				addr <- [2]string{m[1], m[2]}
			}
		}
	}()
	for public == "" || private == "" {
		a, ok := <-addr
		if !ok {
			t.Fatalf("exit status %d:\n%s", <-status, out.all.String())
		}
		if a[0] == "public" {
			public = "http://" + a[1]
		} else {
			private = "http://" + a[1]
		}
	}
	stopped := false
	stop = func() int {
		if stopped {
			return 0
		}
		stopped = true
		cancel()
		s := <-status
		if s != 0 {
			t.Logf("%s", out.all.String())
		}
		return s
	}
	t.Cleanup(func() { stop() })
	return public, private, stop
}

// From an empty directory to a proof, and again after a restart.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const origin, vendor, token = "log.test/2026", "https://vendor.example", "token"
	var policy string
	var keys []string
	for i, kind := range []checkpoint.Kind{checkpoint.Ed25519, checkpoint.CosignatureMLDSA44} {
		k, err := checkpoint.GenerateKey(kind, origin, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		text, err := k.PrivateText()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, "--key", file(fmt.Sprintf("key%d", i), text+"\n", 0o600))
		policy += "log " + k.VKey() + "\n"
	}
	policy += "quorum none\n"
	pki := tdxsim.NewPKI([]byte("cmd"), time.Now().Add(-time.Hour))
	pcs := httptest.NewServer(pki.PCS(tdxsim.PCSOptions{}))
	defer pcs.Close()
	pub, priv, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	vendors := fmt.Sprintf("vendors:\n  - id: %s\n    token-sha256: %s\n    release-keys: [%s]\n", vendor, sha256Hex(token), base64.StdEncoding.EncodeToString(record.SPKI(pub)))
	args := append([]string{"--origin", origin, "--storage", "posix:" + filepath.Join(dir, "log"), "--log-policy", file("policy", policy, 0o644), "--allow-quorum-none",
		"--vendors", file("vendors.yaml", vendors, 0o644), "--root", file("root.pem", string(pki.RootPEM()), 0o644), "--pcs-url", pcs.URL,
		"--checkpoint-interval", "20ms", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}, keys...)

	public, private, stop := started(t, append(args, "--init")...)
	p, err := checkpoint.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(public, client.Config{Token: token, LogPolicy: p})
	if err != nil {
		t.Fatal(err)
	}
	e := vendorKey(t, vendor, priv)
	proof, err := c.Submit(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/health": "ok", "/ready": "ready", "/metrics": "affidavit_log_published_size", "/debug/pprof/": "heap"} {
		var resp *http.Response
		var b []byte
		// The first checkpoint is logged after it is published, which the proof above didn't wait for.
		for wait := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			if resp, err = http.Get(private + path); err != nil {
				t.Fatal(err)
			}
			b, _ = io.ReadAll(resp.Body)
			resp.Body.Close()
			if path != "/ready" || resp.StatusCode == 200 || time.Now().After(wait) {
				break
			}
		}
		if resp.StatusCode != 200 || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %.200q", path, resp.StatusCode, b)
		}
		if resp, err := http.Get(public + path); err != nil || resp.StatusCode != 404 {
			t.Errorf("%s is public", path)
		}
	}
	if s := stop(); s != 0 {
		t.Errorf("exit status %d", s)
	}

	public, _, stop = started(t, args...)
	if c, err = client.New(public, client.Config{Token: token, LogPolicy: p}); err != nil {
		t.Fatal(err)
	}
	again, err := c.Submit(t.Context(), e)
	if err != nil || again.Index != proof.Index {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	if s := stop(); s != 0 {
		t.Errorf("exit status %d", s)
	}
}
