package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace/noop"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/affidavit-log/affidavit/cmd/internal/observe"
)

// A span has the pattern, the status and the request's id, continues the caller's trace, and nothing of what a client wrote
// is in it. Fails if a span is named by the path, or the exporter isn't flushed at the end.
func TestTraces(t *testing.T) {
	var mu sync.Mutex
	var got []byte
	sink := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		mu.Lock()
		got = append(got, b...) // concatenated messages are one message
		mu.Unlock()
	}))
	defer sink.Close()
	var o observe.Options
	logger := o.Logger(io.Discard)
	end, err := startTraces(t.Context(), sink.URL+"/v1/traces", 1, "log.example/1", logger)
	if err != nil {
		t.Fatal(err)
	}
	defer otel.SetTracerProvider(noop.NewTracerProvider())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /proof/{index}", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	s := httptest.NewServer(o.Requests(logger, traced(mux)))
	defer s.Close()
	r, _ := http.NewRequest("GET", s.URL+"/proof/secret-path", nil)
	r.Header.Set("X-Request-Id", "abcdef-0123")
	r.Header.Set("traceparent", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	s.Close()
	if err := end(context.Background()); err != nil {
		t.Fatal(err)
	}
	var req collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(got, &req); err != nil || len(req.ResourceSpans) != 1 {
		t.Fatalf("%v, %d resources", err, len(req.ResourceSpans))
	}
	text := req.String()
	for _, want := range []string{`"GET /proof/{index}"`, `"affidavit-log"`, `"abcdef-0123"`, "503", "STATUS_CODE_ERROR"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if strings.Contains(text, "secret-path") {
		t.Errorf("what the client sent is in %s", text)
	}
	if id := req.ResourceSpans[0].ScopeSpans[0].Spans[0].TraceId; string(id) != "\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef" {
		t.Errorf("trace id %x", id)
	}
}
