package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/affidavit-log/affidavit/log/record"
)

// A running is a gate in a process of its own, as users have it.
type running struct {
	url  string
	cmd  *exec.Cmd
	rest *bufio.Reader
}

// startGate runs a gate with the clock of the fixtures, and waits for its URL.
func startGate(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	args = append([]string{"affidavit-then", "gate", "--bundle", at("begun.affidavit"), "--log-policy", at("log.policy"),
		"--appraisal-policy", at("ours.yaml"), "--root", at("root.der"), "--challenge-file", at("challenge")}, args...)
	g := &running{cmd: &exec.Cmd{Path: exe, Args: args, Stderr: os.Stderr}}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.cmd.Process.Kill(); g.cmd.Wait() })
	g.rest = bufio.NewReader(out)
	line, err := g.rest.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	g.url = strings.TrimSpace(line)
	return g
}

// stop interrupts the gate, which is how users end it, and that is good.
func (g *running) stop(t *testing.T) {
	t.Helper()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, g.rest)
	if err := g.cmd.Wait(); err != nil {
		t.Errorf("interrupted: %v", err)
	}
}

func post(t *testing.T, c *http.Client, url, body string) (int, string) {
	t.Helper()
	resp, err := c.Post(url, "text/plain", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// What an agent sends to the gate reaches the trust domain whose key the start
// names, and no other server, not even one that the same agent could reach by itself.
func TestGate(t *testing.T) {
	dir := fixtureDir(t)
	g := startGate(t, dir, "--upstream", endpoint().URL+"/v1")
	if !strings.HasPrefix(g.url, "http://127.0.0.1:") {
		t.Fatalf("URL %q", g.url)
	}
	if status, body := post(t, http.DefaultClient, g.url+"/chat", "secret"); status != http.StatusOK || body != "POST /v1/chat: 6 bytes received" {
		t.Errorf("status %d: %s", status, body)
	}
	// A web page that has its name resolve to this machine.
	req, err := http.NewRequest(http.MethodGet, g.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "attacker.example"
	// And one that sends a form here.
	form, err := http.NewRequest(http.MethodPost, g.url, strings.NewReader("a=b"))
	if err != nil {
		t.Fatal(err)
	}
	form.Header.Set("Origin", "https://attacker.example")
	for _, r := range []*http.Request{req, form} {
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s for %s from %q: status %d", r.Method, r.Host, r.Header.Get("Origin"), resp.StatusCode)
		}
	}
	g.stop(t)
	if conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", strings.TrimPrefix(g.url, "http://")); err == nil {
		conn.Close()
		t.Error("it listens still")
	}

	// The same address with another key, which nothing but the gate would notice:
	// net/http/httptest has one certificate for all, so this one is made anew.
	cert, key := selfSigned(t, dir)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	var got int
	other := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got++ }))
	other.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	other.StartTLS()
	defer other.Close()
	g = startGate(t, dir, "--upstream", other.URL)
	status, body := post(t, http.DefaultClient, g.url, "secret")
	if status != http.StatusBadGateway || !strings.Contains(body, "is not one that the session's start names") {
		t.Errorf("status %d: %s", status, body)
	}
	if got != 0 {
		t.Error("the request was sent")
	}
	g.stop(t)
}

// With a certificate the gate listens with https, and JSON says where.
func TestGateHTTPS(t *testing.T) {
	dir := fixtureDir(t)
	cert, key := selfSigned(t, dir)
	g := startGate(t, dir, "--upstream", endpoint().URL, "--tls-cert", cert, "--tls-key", key, "--json", "--listen", "[::1]:0")
	var j gateJSON
	if err := json.Unmarshal([]byte(g.url), &j); err != nil {
		t.Fatal(err)
	}
	if !j.Open || !strings.HasPrefix(j.URL, "https://[::1]:") || j.Upstream != endpoint().URL {
		t.Errorf("%+v", j)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	if status, body := post(t, c, j.URL+"/x", "secret"); status != http.StatusOK || body != "POST /x: 6 bytes received" {
		t.Errorf("status %d: %s", status, body)
	}
	g.stop(t)
}

// A port that is taken is an error, and not another port.
func TestGatePortTaken(t *testing.T) {
	dir := fixtureDir(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := func(name string) string { return filepath.Join(dir, name) }
	status, stdout, stderr := runCommand(t, "gate", "--upstream", endpoint().URL, "--listen", l.Addr().String(), "--max-age", "2h",
		"--bundle", at("begun.affidavit"), "--log-policy", at("log.policy"), "--appraisal-policy", at("ours.yaml"), "--root", at("root.der"))
	if status != exitError || stdout != "" || !strings.Contains(stderr, fmt.Sprintf("--listen %s: ", l.Addr())) {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
}

// Many paths cost little more than one, and are those of package record.
func TestPaths(t *testing.T) {
	var leaves []record.Digest
	for n := range 40 {
		leaves = append(leaves, record.Digest{byte(n), 1})
		p := paths{leaves: leaves}
		for i := range leaves {
			if got, want := p.of(uint64(i)), record.ActionProof(leaves, uint64(i)); !slices.Equal(got, want) {
				t.Fatalf("leaf %d of %d: %x, want %x", i, len(leaves), got, want)
			}
		}
	}
}
