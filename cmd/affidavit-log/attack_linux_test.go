package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"math"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/cmd/internal/load"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// attackEnv says that this process is the log of TestAttacks.
const attackEnv = "AFFIDAVIT_LOG_ATTACKED"

func TestMain(m *testing.M) {
	if os.Getenv(attackEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

var attackTime = flag.Duration("attack", 100*time.Millisecond, "how long TestAttacks measures before, during and after each attack; figures want 10s")

// An attacker does what it can until ctx is done.
type attacker struct {
	addr  string
	entry []byte // genuine, but not ours to submit
	token string // of a vendor that isn't the honest one
}

// keep opens connections, says something, and leaves them open and unread, so many a second.
func (a *attacker) keep(ctx context.Context, persecond float64, first string) {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for l := rate.NewLimiter(rate.Limit(persecond), 50); l.Wait(ctx) == nil; {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", a.addr)
		if err != nil {
			continue
		}
		io.WriteString(c, first)
		if conns = append(conns, c); len(conns) > 8*attackConns {
			conns[0].Close() // as many as file descriptors allow
			conns = conns[1:]
		}
	}
}

// pour sends a body without end over each of some connections.
func (a *attacker) pour(ctx context.Context, head string, chunk []byte) {
	var wg sync.WaitGroup
	l := rate.NewLimiter(2000, 100)
	for range 32 {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", a.addr)
				if err != nil {
					continue
				}
				stop := context.AfterFunc(ctx, func() { c.Close() })
				_, err = io.WriteString(c, head)
				for err == nil && l.Wait(ctx) == nil {
					_, err = c.Write(chunk)
				}
				stop()
				c.Close()
			}
		})
	}
	wg.Wait()
}

// flood sends requests over kept connections, so many a second, whatever they are answered.
func (a *attacker) flood(ctx context.Context, persecond float64, request func() []byte) {
	var wg sync.WaitGroup
	l := rate.NewLimiter(rate.Limit(persecond), 50)
	for range 32 {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", a.addr)
				if err != nil {
					continue
				}
				stop := context.AfterFunc(ctx, func() { c.Close() })
				for r := bufio.NewReader(c); l.Wait(ctx) == nil; {
					if _, err := c.Write(request()); err != nil {
						break
					}
					resp, err := http.ReadResponse(r, nil)
					if err != nil {
						break
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.Close {
						break
					}
				}
				stop()
				c.Close()
			}
		})
	}
	wg.Wait()
}

func (a *attacker) post(token string, header string, body []byte) []byte {
	return fmt.Appendf(nil, "POST /add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/octet-stream\r\n%sContent-Length: %d\r\n\r\n%s", token, header, len(body), body)
}

// mutated is the entry with one byte changed.
func (a *attacker) mutated() []byte {
	b := bytes.Clone(a.entry)
	b[mrand.IntN(len(b))] ^= 0x55
	return b
}

// attackConns is how many connections the log has at most, so that attackers needn't open thousands.
const attackConns = 256

var attacks = []struct {
	name string
	do   func(context.Context, *attacker)
}{
	{"idle connections", func(ctx context.Context, a *attacker) { a.keep(ctx, 2000, "") }},
	{"slow headers", func(ctx context.Context, a *attacker) { a.keep(ctx, 2000, "POST /add HTTP/1.1\r\nHost: x\r\nX-A: ") }},
	{"slow bodies", func(ctx context.Context, a *attacker) {
		a.keep(ctx, 2000, "POST /add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wrong\r\nContent-Type: application/octet-stream\r\nContent-Length: 9000\r\n\r\nx")
	}},
	{"slow bodies, another vendor's", func(ctx context.Context, a *attacker) {
		a.keep(ctx, 2000, "POST /add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+a.token+"\r\nContent-Type: application/octet-stream\r\nContent-Length: 9000\r\n\r\nx")
	}},
	{"bodies without end", func(ctx context.Context, a *attacker) {
		a.pour(ctx, "POST /add HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n", append(append([]byte("4000\r\n"), make([]byte, 0x4000)...), "\r\n"...))
	}},
	{"tiny chunks, another vendor's", func(ctx context.Context, a *attacker) {
		a.pour(ctx, "POST /add HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+a.token+"\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n", []byte("1\r\nx\r\n1\r\nx\r\n"))
	}},
	{"invalid quotes", func(ctx context.Context, a *attacker) {
		a.flood(ctx, 2000, func() []byte { return a.post("wrong", "", a.mutated()) })
	}},
	{"invalid quotes, another vendor's", func(ctx context.Context, a *attacker) {
		a.flood(ctx, 2000, func() []byte { return a.post(a.token, "", a.mutated()) })
	}},
	{"compressed bodies", func(ctx context.Context, a *attacker) {
		a.flood(ctx, 2000, func() []byte { return a.post(a.token, "Content-Encoding: gzip\r\n", []byte("\x1f\x8b")) })
	}},
	{"readers that don't read", func(ctx context.Context, a *attacker) {
		a.keep(ctx, 500, strings.Repeat("GET /tile/entries/000.p/200 HTTP/1.1\r\nHost: x\r\n\r\n", 8))
	}},
	{"paths of nothing", func(ctx context.Context, a *attacker) {
		a.flood(ctx, 2000, func() []byte {
			return fmt.Appendf(nil, "GET /proof/by-statement/%064x HTTP/1.1\r\nHost: x\r\n\r\n", mrand.Uint64())
		})
	}},
}

// An honest vendor submits, as fast as it is answered, before, during and after attacks by strangers and by another vendor.
// None of what it sends is answered wrongly at any time; the log's memory stays below a bound; and with -attack 10s, what
// comes in during each attack is half of what came in before it, and after it as much as before.
func TestAttacks(t *testing.T) {
	if testing.Short() {
		t.Skip("several processes")
	}
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const origin, honest, other, token, otherToken = "log.test/2026", "https://vendor.example", "https://other.example", "token", "other-token"
	k, err := checkpoint.GenerateKey(checkpoint.Ed25519, origin, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.PrivateText()
	if err != nil {
		t.Fatal(err)
	}
	policy := "log " + k.VKey() + "\nquorum none\n"
	pki := tdxsim.NewPKI([]byte("attacks"), time.Now().Add(-time.Hour))
	pcs := httptest.NewServer(pki.PCS(tdxsim.PCSOptions{}))
	defer pcs.Close()
	vendors := fmt.Sprintf("vendors:\n  - id: %s\n    token-sha256: %s\n    quota: {rate: 100000, burst: 100000}\n  - id: %s\n    token-sha256: %s\n", honest, sha256Hex(token), other, sha256Hex(otherToken))
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "--init", "--origin", origin, "--key", file("key", text), "--storage", "posix:"+filepath.Join(dir, "log"), "--log-policy", file("policy", policy), "--allow-quorum-none",
		"--vendors", file("vendors.yaml", vendors), "--root", file("root.pem", string(pki.RootPEM())), "--pcs-url", pcs.URL,
		"--checkpoint-interval", "50ms", "--listen", "127.0.0.1:0", "--max-connections", fmt.Sprint(attackConns))
	cmd.Env = append(os.Environ(), attackEnv+"=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the log: %v", err)
		}
	}()
	lines := bufio.NewScanner(stderr)
	addr := ""
	for addr == "" && lines.Scan() {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			addr = m[2]
		}
	}
	go func() {
		for lines.Scan() {
		}
	}()

	p, err := checkpoint.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New("http://"+addr, client.Config{LogPolicy: p})
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.Freshness(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Statements are good for ten minutes after the checkpoint that they name: a long run makes them anew for each attack.
	perPhase := max(40, int(attackTime.Seconds()*400))
	stock := func(n int) *load.Stock {
		if f, err = c.Freshness(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := load.Make(pki, load.Recipe{Entries: n, Platforms: 4, Vendors: []string{honest}, Freshness: f.Freshness, Seed: mrand.Uint64()}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := stock(300)
	run := func(s *load.Stock, d time.Duration) float64 {
		t.Helper()
		r, err := load.Run{URL: "http://" + addr, Tokens: []string{token}, Clients: 8, Duration: d}.Do(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		for wrong, n := range r.Wrong {
			// A connection that was idle between two requests can be closed in a flood of others, and clients ask again.
			if !strings.Contains(wrong, "EOF") && !strings.Contains(wrong, "reset") {
				t.Errorf("%d times: %s", n, wrong)
			}
		}
		s.Items = s.Items[min(len(s.Items), r.Records+len(r.Wrong)+16):]
		return r.Rate
	}
	run(s, time.Minute) // a bundle and more, for readers
	a := &attacker{addr: addr, entry: s0(t, pki, f, honest), token: otherToken}
	for _, attack := range attacks {
		t.Run(attack.name, func(t *testing.T) {
			s := stock(3 * perPhase)
			before := run(s, *attackTime)
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { attack.do(ctx, a) })
			time.Sleep(*attackTime / 10)
			during := run(s, *attackTime)
			u, err := load.UsageOf(cmd.Process.Pid)
			cancel()
			wg.Wait()
			if err != nil {
				t.Fatal(err)
			}
			after := run(s, *attackTime)
			t.Logf("admitted a second: %.0f before, %.0f during (%.0f %%), %.0f after; memory %d MB, at most %d", before, during, 100*during/before, after, u.RSS>>20, u.PeakRSS>>20)
			if during == 0 || after == 0 || math.IsNaN(during) {
				t.Errorf("nothing was admitted")
			}
			if *attackTime >= 5*time.Second && (during < before/2 || after < before*3/4) {
				t.Errorf("%.0f admitted a second before, %.0f during, %.0f after", before, during, after)
			}
			const bound = 768 << 20
			if u.PeakRSS > bound {
				t.Errorf("the log has used %d MB", u.PeakRSS>>20)
			}
		})
	}
}

// s0 is a genuine entry of the honest vendor that nobody submits.
func s0(t *testing.T, pki *tdxsim.PKI, f *client.Freshness, vendor string) []byte {
	t.Helper()
	s, err := load.Make(pki, load.Recipe{Entries: 1, Platforms: 1, Vendors: []string{vendor}, Freshness: f.Freshness}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.Items[0].Entry
}
