package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/cmd/internal/observe"
	"github.com/affidavit-log/affidavit/log/record"
)

// free is a loopback address with a port that was free a moment ago.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// logOf serves a world's log, which makes a time leaf after each submission.
func logOf(t *testing.T, w *bundletest.World) string {
	w.AddVendorKey(w.Vendor)
	w.AddRelease(w.Vendor)
	w.AddCollateral(w.Set)
	w.AddTime()
	w.Publish(w.Now)
	h := w.Handler()
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r)
		if r.Method == "POST" {
			w.Tick(2 * time.Second)
			w.AddTime()
			w.Tick(2 * time.Second)
			w.Publish(w.Now)
		}
		maps.Copy(rw.Header(), answer.Header())
		rw.WriteHeader(answer.Code)
		rw.Write(answer.Body.Bytes())
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// The OpenTelemetry SDK, pointed at the recorder as an agent's is, over HTTP and over gRPC: each
// conversation becomes a bundle that verifies, and a private file with its actions.
func TestSDK(t *testing.T) {
	w := bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 3, Threshold: 2})
	url := logOf(t, w)
	dir, err := os.MkdirTemp("/dev/shm", "affidavit-test-")
	if err != nil {
		t.Skip("no file system in memory: ", err)
	}
	defer os.RemoveAll(dir)
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("a-token-of-some-length-0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tenant := record.TenantPseudonym([]byte("key"), w.Origin, w.Vendor.ID, "2026-11")
	httpAddr, grpcAddr, metricsAddr := free(t), free(t), free(t)
	month := time.Now().UTC().Format("2006-01")
	config := fmt.Sprintf(`
log: %s
token-file: %s
vendor: %s
quotes: sim:bundletest:%d
release: {name: %q, sha256: %x}
persistent-storage: none
tenants: {%q: %x}
dir: %s/run
out: %s/out
socket: %s/s
users: [%d]
otlp-http: %s
otlp-grpc: %s
metrics: %s
linger: 100ms
`, url, token, w.Vendor.ID, bundletest.Epoch.Add(-time.Hour).Unix(), w.Vendor.Image.Name, w.Vendor.Image.SHA256, month, tenant, dir, dir, dir, os.Getuid(), httpAddr, grpcAddr, metricsAddr)
	name := filepath.Join(dir, "recorder.yaml")
	if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if err := serve(context.Background(), log, new(observe.Options), name, true); err != nil {
		t.Skip("this machine can't keep keys in memory, or has no quotes: ", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- serve(ctx, log, new(observe.Options), name, false) }()
	until(t, done, "the recorder listens", func() bool {
		r, err := http.Get("http://" + metricsAddr + "/ready")
		if err == nil {
			r.Body.Close()
		}
		return err == nil
	})

	overHTTP, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL("http://"+httpAddr+"/v1/traces"), otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	if err != nil {
		t.Fatal(err)
	}
	overGRPC, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(grpcAddr), otlptracegrpc.WithInsecure())
	if err != nil {
		t.Fatal(err)
	}
	for conversation, exporter := range map[string]sdktrace.SpanExporter{"http": overHTTP, "grpc": overGRPC} {
		p := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter))
		tr := p.Tracer("agent")
		attrs := func(operation string, more ...attribute.KeyValue) []attribute.KeyValue {
			return append(more, attribute.String("gen_ai.operation.name", operation), attribute.String("gen_ai.conversation.id", conversation))
		}
		root, agent := tr.Start(ctx, "invoke_agent")
		agent.SetAttributes(attrs("invoke_agent")...)
		for i := range 30 {
			_, s := tr.Start(root, "chat")
			s.SetAttributes(attrs("chat", attribute.String("gen_ai.provider.name", "p"), attribute.String("gen_ai.request.model", "m"),
				attribute.String("gen_ai.input.messages", "SECRET"))...)
			s.End()
			_, s = tr.Start(root, "execute_tool")
			s.SetAttributes(attrs("execute_tool", attribute.String("gen_ai.tool.name", "shell"))...)
			if i == 7 {
				s.SetAttributes(attribute.String("error.type", "egress_denied"))
				s.SetStatus(codes.Error, "no")
			}
			s.End()
		}
		agent.End()
		if err := p.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var files []string
	until(t, done, "both sessions finish", func() bool {
		files, _ = filepath.Glob(filepath.Join(dir, "out", "*.affidavit"))
		return len(files) == 2
	})
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		bu, err := bundle.Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bundle.Check(bu, w.Options()); err != nil {
			t.Error(err)
		}
		private, err := os.ReadFile(strings.TrimSuffix(f, ".affidavit") + ".session")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(private, []byte("SECRET")) {
			t.Error("content in the clear")
		}
		rd, err := session.NewReader(bytes.NewReader(private))
		if err != nil {
			t.Fatal(err)
		}
		outcomes := make(map[string]int)
		for {
			_, a, err := rd.Next()
			if err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			outcomes[a.Outcome]++
		}
		if outcomes["executed"] != 60 || outcomes["blocked"] != 1 {
			t.Errorf("outcomes %v, want 60 executed and 1 blocked", outcomes)
		}
	}
	r, err := http.Get("http://" + metricsAddr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if b, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(b), "affidavit_recorder_actions_total 122\n") {
		t.Errorf("metrics: %s, %v", b, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func until(t *testing.T, done <-chan error, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		select {
		case err := <-done:
			t.Fatalf("the recorder stopped: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	t.Fatal("never: " + what)
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--help"}, 0, "OTEL_EXPORTER_OTLP_ENDPOINT"},
		{nil, 64, "--config"},
		{[]string{"--version"}, 0, ""},
		{[]string{"--nonsense"}, 64, "nonsense"},
		{[]string{"--config", "x", "y"}, 64, "no other arguments"},
		{[]string{"--config", "/nonexistent"}, 1, "no such file"},
	} {
		var stdout, stderr bytes.Buffer
		if status := run(tt.args, &stdout, &stderr); status != tt.status || !strings.Contains(stderr.String(), tt.says) {
			t.Errorf("%v: status %d: %s", tt.args, status, &stderr)
		}
		if got := strings.HasPrefix(stdout.String(), "affidavit-recorder "); got != slices.Contains(tt.args, "--version") {
			t.Errorf("%v prints %q", tt.args, &stdout)
		}
	}
}
