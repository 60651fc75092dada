package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/verifier"
)

// growing is a monitor whose log grows: each look shows some more records, and, after
// all of them, a finding.
type growing struct {
	total int
	shown atomic.Int64
}

func (g *growing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	after, _ := strconv.Atoi(r.URL.Query().Get("after"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	e := json.NewEncoder(w)
	switch r.URL.Path {
	case "/api/results":
		shown := int(g.shown.Add(3))
		allowed := true
		for i := after; i < min(after+limit, shown, g.total); i++ {
			at := time.Date(2026, 11, 24, 7, 0, i, 0, time.UTC)
			e.Encode(&monitorapi.Result{
				Record: &monitorapi.Record{
					Index: uint64(i), LeafHash: monitorapi.Hash{1, byte(i)}, Statement: monitorapi.Hash{2, byte(i)}, Role: bundle.RoleFinal,
					Vendor: "https://vendor.example", Genuine: true, AdmittedAt: at, NotAfter: at,
				},
				Log: "log.example.org/2026", Allowed: &allowed,
				Claims: []verifier.Claim{{ID: "tee", Value: "Intel TDX", Source: verifier.SourceHardware, Status: verifier.StatusHolds}},
			})
		}
	case "/api/findings":
		if int(g.shown.Load()) > g.total && after == 0 {
			e.Encode(map[string]any{"id": "f1", "seq": 1, "class": "tamper", "severity": "critical", "kind": "rollback", "log": "log.example.org/2026", "found_at": "2026-11-24T08:00:00Z", "message": "it shows a smaller tree"})
		}
	default:
		http.NotFound(w, r)
	}
}

// await waits until the monitor has been looked at often enough, however slow the
// machine is.
func (g *growing) await(t *testing.T, shown int64, cmd *exec.Cmd, stderr *bytes.Buffer) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); g.shown.Load() < shown; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			t.Fatalf("it doesn't ask the monitor: %v: %s", cmd.Wait(), stderr)
		}
	}
}

// start runs the command in a process of its own.
func start(t *testing.T, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	// TestMain tells the command from the tests by the name that it is called by.
	cmd := &exec.Cmd{Path: exe, Args: append([]string{"affidavit"}, args...), Stderr: &stderr}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, &stderr
}

// killed runs the command again and again, and kills it each time without a word,
// until done says that everything is there; then it stops it as an operator would.
func killed(t *testing.T, g *growing, done func() bool, args ...string) {
	t.Helper()
	for round := 0; !done(); round++ {
		if round == 1000 {
			t.Fatal("it doesn't get anywhere")
		}
		before := g.shown.Load()
		cmd, stderr := start(t, args...)
		g.await(t, before+3*rand.N[int64](4), cmd, stderr)
		time.Sleep(rand.N(20 * time.Millisecond))
		cmd.Process.Kill()
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Fatalf("%v: %s", err, stderr)
		}
	}
	before := g.shown.Load()
	cmd, stderr := start(t, args...)
	g.await(t, before+3, cmd, stderr) // it has begun, and so listens to signals
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("stopped: %v: %s", err, stderr)
	}
}

// TestExportKilled: an export that follows a monitor is killed at any moments, and the
// file has each event exactly once, byte for byte.
func TestExportKilled(t *testing.T) {
	const total = 40
	g := &growing{total: total}
	g.shown.Store(total + 1)
	srv := httptest.NewServer(g)
	defer srv.Close()
	status, want, stderr := runCommand(t, "export", "--monitor", srv.URL)
	if n := strings.Count(want, "\n"); status != exitGood || n != 2*total+1 { // a stop and a finding each, and the monitor's
		t.Fatalf("status %d, %d lines, %s", status, n, stderr)
	}
	g.shown.Store(0)
	dir := t.TempDir()
	file := filepath.Join(dir, "events")
	killed(t, g, func() bool {
		b, _ := os.ReadFile(file)
		return len(b) >= len(want)
	}, "export", "--monitor", srv.URL, "--follow", "--interval", "10ms", "--out", file, "--cursor", filepath.Join(dir, "cursor"))
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%d bytes in %d lines, want %d in %d", len(got), bytes.Count(got, []byte("\n")), len(want), strings.Count(want, "\n"))
	}
}

// TestExportOutage: the exporter is killed at any moments, and the receiver fails in
// all ways; after dropping what it has already, it has each event, in order.
func TestExportOutage(t *testing.T) {
	const total = 20
	g := &growing{total: total}
	monitor := httptest.NewServer(g)
	defer monitor.Close()
	var mu sync.Mutex
	var events []string
	seen := make(map[string]bool)
	n := 0
	receiver := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if n++; n%4 == 3 || err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		for line := range bytes.Lines(b) {
			var v struct{ Metadata struct{ UID string } }
			if err := json.Unmarshal(line, &v); err != nil {
				t.Error(err)
			}
			if !seen[v.Metadata.UID] {
				seen[v.Metadata.UID] = true
				events = append(events, v.Metadata.UID)
			}
		}
		if n%4 == 2 {
			w.WriteHeader(http.StatusInternalServerError) // though it has them
		}
	}))
	defer receiver.Close()
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, certificatePEM(receiver), 0o600); err != nil {
		t.Fatal(err)
	}
	killed(t, g, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(events) >= 2*total+1
	}, "export", "--monitor", monitor.URL, "--follow", "--interval", "10ms", "--queue", filepath.Join(dir, "queue"), "--post", receiver.URL, "--ca", ca)
	mu.Lock()
	defer mu.Unlock()
	for i, uid := range events[:2*total] {
		want := fmt.Sprintf("01%02x%060d", i/2, 0)
		if i%2 == 0 {
			want += ":stop"
		}
		if uid != want {
			t.Fatalf("event %d is %s, want %s", i, uid, want)
		}
	}
	if events[2*total] != "f1" || len(events) != 2*total+1 {
		t.Errorf("%d events, the last %s", len(events), events[len(events)-1])
	}
}

func certificatePEM(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}
