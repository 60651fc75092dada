package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcgzip "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// sink keeps what it is given.
type sink struct {
	mu     sync.Mutex
	events []activity.Event
	reject int
	err    error
}

func (s *sink) Take(_ context.Context, events []activity.Event, _ []activity.Edge) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, s.err
	}
	s.events = append(s.events, events...)
	return s.reject, nil
}

func (s *sink) take() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.events)
	s.events = nil
	return n
}

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var w bytes.Buffer
	z := gzip.NewWriter(&w)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

func TestHTTP(t *testing.T) {
	s := new(sink)
	srv := httptest.NewServer(NewServer(newMapper(), s))
	defer srv.Close()
	post := func(path, contentType, encoding string, body []byte) (int, string) {
		t.Helper()
		r, err := http.NewRequest("POST", srv.URL+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", contentType)
		if encoding != "" {
			r.Header.Set("Content-Encoding", encoding)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Header.Get("Content-Type") != contentType && resp.StatusCode != 415 {
			t.Errorf("%s: answer of type %q to one of type %q", path, resp.Header.Get("Content-Type"), contentType)
		}
		return resp.StatusCode, string(b)
	}
	traces := read(t, "copilot-chat.traces.json")
	td, err := DecodeTraces(traces, true)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := proto.Marshal(td)
	if err != nil {
		t.Fatal(err)
	}
	logs := read(t, "codex.logs.json")
	const pb, js = "application/x-protobuf", "application/json"
	for _, tt := range []struct {
		path, contentType, encoding string
		body                        []byte
		status, events              int
	}{
		{"/v1/traces", js, "", traces, 200, 9},
		{"/v1/traces", js, "gzip", zipped(t, traces), 200, 9},
		{"/v1/traces", pb, "", binary, 200, 9},
		{"/v1/traces", pb, "gzip", zipped(t, binary), 200, 9},
		{"/v1/logs", js, "", logs, 200, 13},
		{"/v1/metrics", pb, "", []byte("anything"), 200, 0},
		{"/v1/traces", "text/plain", "", binary, 415, 0},
		{"/v1/traces", pb, "br", binary, 400, 0},
		{"/v1/traces", pb, "gzip", binary, 400, 0},
		{"/v1/traces", pb, "", binary[:len(binary)-1], 400, 0},
		{"/v1/traces", js, "", traces[:len(traces)-2], 400, 0},
		{"/v1/traces", pb, "", make([]byte, MaxBody+1), 413, 0},
		{"/v1/traces", pb, "gzip", zipped(t, make([]byte, MaxBody+1)), 413, 0}, // 16 KiB that unpack to 16 MiB
		{"/v1/traces", pb, "", bytes.Repeat([]byte{0x0a, 0}, maxMessages+1), 400, 0},
		{"/v1/traces", js, "", []byte(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"zz","spanId":"00"}]}]}]}`), 400, 0},
	} {
		if code, body := post(tt.path, tt.contentType, tt.encoding, tt.body); code != tt.status {
			t.Errorf("%s %s %s: status %d, want %d: %.200s", tt.path, tt.contentType, tt.encoding, code, tt.status, body)
		}
		if n := s.take(); n != tt.events {
			t.Errorf("%s %s %s: %d events, want %d", tt.path, tt.contentType, tt.encoding, n, tt.events)
		}
	}
	s.reject = 2
	if code, body := post("/v1/logs", js, "", logs); code != 200 || !strings.Contains(body, `"rejectedLogRecords":"2"`) {
		t.Errorf("partial success: status %d: %s", code, body)
	}
	s.err = errors.New("full")
	if code, _ := post("/v1/logs", js, "", logs); code != 503 {
		t.Errorf("a full recorder: status %d, want 503: the exporter tries again", code)
	}
}

// A body of 100 MB is refused by its head: not a byte of it is asked for.
func TestHugeBodyIsRefusedEarly(t *testing.T) {
	srv := httptest.NewServer(NewServer(newMapper(), new(sink)))
	defer srv.Close()
	c, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 100000000\r\n\r\n")
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil || !strings.Contains(string(b[:n]), " 413 ") {
		t.Errorf("%q, %v; want 413 before the body", b[:n], err)
	}
}

func TestGRPC(t *testing.T) {
	s := new(sink)
	srv := NewServer(newMapper(), s)
	g := grpc.NewServer(GRPCOptions()...)
	srv.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go g.Serve(l)
	defer g.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const service = "/opentelemetry.proto.collector."
	call := func(method string, in proto.Message, opts ...grpc.CallOption) error {
		return conn.Invoke(context.Background(), service+method, in, new(tracepb.Status), opts...)
	}
	td, err := DecodeTraces(read(t, "copilot-chat.traces.json"), true)
	if err != nil {
		t.Fatal(err)
	}
	ld, err := DecodeLogs(read(t, "gemini-cli.logs.json"), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		method string
		in     proto.Message
		opts   []grpc.CallOption
		events int
	}{
		{"trace.v1.TraceService/Export", td, nil, 9},
		{"trace.v1.TraceService/Export", td, []grpc.CallOption{grpc.UseCompressor(grpcgzip.Name)}, 9},
		{"logs.v1.LogsService/Export", ld, nil, 11},
		{"metrics.v1.MetricsService/Export", td, nil, 0},
	} {
		if err := call(tt.method, tt.in, tt.opts...); err != nil {
			t.Errorf("%s: %v", tt.method, err)
		}
		if n := s.take(); n != tt.events {
			t.Errorf("%s: %d events, want %d", tt.method, n, tt.events)
		}
	}
	huge := &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{SchemaUrl: strings.Repeat("x", MaxBody)}}}
	for _, opts := range [][]grpc.CallOption{nil, {grpc.UseCompressor(grpcgzip.Name)}} {
		if err := call("trace.v1.TraceService/Export", huge, opts...); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("too large: %v", err)
		}
	}
	s.err = errors.New("full")
	if err := call("trace.v1.TraceService/Export", td); status.Code(err) != codes.Unavailable {
		t.Errorf("a full recorder: %v, want Unavailable: the exporter tries again", err)
	}
}

// one is a request with one chat span of these attributes.
func one(attributes ...*commonpb.KeyValue) *tracepb.TracesData {
	attributes = append(attributes, &commonpb.KeyValue{Key: "gen_ai.operation.name", Value: text1("chat")})
	return &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{
		TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{2}, 8), Attributes: attributes,
	}}}}}}}
}

func text1(s string) *commonpb.AnyValue {
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: s}}
}

// Spans with 10,000 attributes, deep values and hostile names make documents within the bounds.
func TestHostileSpans(t *testing.T) {
	many := make([]*commonpb.KeyValue, 10_000)
	for i := range many {
		many[i] = &commonpb.KeyValue{Key: fmt.Sprintf("gen_ai.x%d", i), Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: int64(i)}}}
	}
	deep := func(n int) *commonpb.AnyValue {
		v := text1("SECRET")
		for range n {
			v = &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{Values: []*commonpb.AnyValue{v}}}}
		}
		return v
	}
	var long []*commonpb.KeyValue
	for _, k := range []string{"gen_ai.tool.name", "gen_ai.agent.id", "gen_ai.agent.name", "error.type", "server.address", "gen_ai.response.id"} {
		long = append(long, &commonpb.KeyValue{Key: k, Value: text1(strings.Repeat("\"\\\x00é", 100_000))})
	}
	var names []*commonpb.KeyValue
	for _, k := range []string{"", ".", "a..b", "A B", "é", strings.Repeat("x", 300), "gen_ai.input.messages.sha256", "gen_ai.input.messages", "gen_ai.prompt", "__proto__", "affidavit.event.key"} {
		names = append(names, &commonpb.KeyValue{Key: k, Value: text1("SECRET")}, &commonpb.KeyValue{Key: k, Value: deep(3)}, nil)
	}
	for name, td := range map[string]*tracepb.TracesData{
		"many": one(many...), "long": one(long...), "names": one(names...), "deep": one(&commonpb.KeyValue{Key: "gen_ai.input.messages", Value: deep(10)}),
	} {
		for i, kv := range td.ResourceSpans[0].ScopeSpans[0].Spans[0].Attributes {
			if kv == nil {
				td.ResourceSpans[0].ScopeSpans[0].Spans[0].Attributes[i] = new(commonpb.KeyValue)
			}
		}
		b, err := proto.Marshal(td)
		if err != nil {
			t.Fatal(err)
		}
		got, err := DecodeTraces(b, false)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		events, _, rejected := newMapper().Spans(got)
		if len(events) != 1 || rejected != 0 {
			t.Fatalf("%s: %d events, %d rejected", name, len(events), rejected)
		}
		if n := len(events[0].Attributes); n > activity.MaxAttributes+8 {
			t.Errorf("%s: %d attributes", name, n)
		}
		checkDocument(t, events[0])
		if name == "many" && events[0].Attributes[activity.AttrDropped] == nil {
			t.Errorf("attributes were dropped, and not counted: %v", events[0].Attributes)
		}
	}
	for _, n := range []int{maxDepth, 5000} {
		b, err := proto.Marshal(one(&commonpb.KeyValue{Key: "x", Value: deep(n)}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeTraces(b, false); !errors.Is(err, ErrMalformed) {
			t.Errorf("nested %d deep: %v, want ErrMalformed", n, err)
		}
	}
	nested := `{"resourceSpans":[{"resource":{"attributes":[{"key":"x","value":` + strings.Repeat(`{"arrayValue":{"values":[`, 5000)
	if _, err := DecodeTraces([]byte(nested), true); !errors.Is(err, ErrMalformed) {
		t.Errorf("JSON nested deep: %v, want ErrMalformed", err)
	}
}

// Whatever decodes becomes events that documents can say; the same input always becomes the same; and
// the text of attributes that nobody knows is in none.
func FuzzTraces(f *testing.F) {
	td, err := DecodeTraces(read(f, "copilot-chat.traces.json"), true)
	if err != nil {
		f.Fatal(err)
	}
	b, err := proto.Marshal(td)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, false)
	f.Add(read(f, "copilot-chat.traces.json"), true)
	f.Fuzz(func(t *testing.T, b []byte, json bool) {
		td, err := DecodeTraces(b, json)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error that isn't ErrMalformed: %v", err)
			}
			return
		}
		events, edges, rejected := newMapper().Spans(td)
		n := 0
		for _, r := range td.GetResourceSpans() {
			for _, s := range r.GetScopeSpans() {
				n += len(s.GetSpans())
			}
		}
		if len(events)+len(edges)+rejected != n {
			t.Errorf("%d spans became %d events, %d edges and %d rejected", n, len(events), len(edges), rejected)
		}
		again, _, _ := newMapper().Spans(td)
		for i, e := range events {
			if doc, err := document(t, e); err != nil {
				t.Errorf("event that no document can say: %v: %s", err, doc)
			}
			if fmt.Sprint(e) != fmt.Sprint(again[i]) {
				t.Errorf("the same span mapped in two ways")
			}
		}
	})
}

func FuzzLogs(f *testing.F) {
	for _, name := range []string{"claude-code", "codex", "gemini-cli"} {
		b := read(f, name+".logs.json")
		f.Add(b, true)
		ld, err := DecodeLogs(b, true)
		if err != nil {
			f.Fatal(err)
		}
		if b, err = proto.Marshal(ld); err != nil {
			f.Fatal(err)
		}
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, json bool) {
		ld, err := DecodeLogs(b, json)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error that isn't ErrMalformed: %v", err)
			}
			return
		}
		events, _ := newMapper().Logs(ld)
		again, _ := newMapper().Logs(ld)
		for i, e := range events {
			if e.Operation != "" {
				if doc, err := document(t, e); err != nil {
					t.Errorf("event that no document can say: %v: %s", err, doc)
				}
			}
			if fmt.Sprint(e) != fmt.Sprint(again[i]) {
				t.Errorf("the same record mapped in two ways")
			}
		}
	})
}

// batch is a request of n spans like an agent's.
func batch(b *testing.B, n int) []byte {
	td, err := DecodeTraces(read(b, "copilot-chat.traces.json"), true)
	if err != nil {
		b.Fatal(err)
	}
	sc := td.ResourceSpans[0].ScopeSpans[0]
	spans := sc.Spans[:8] // without the one that ends the session
	sc.Spans = nil
	for i := range n {
		s := proto.Clone(spans[i%len(spans)]).(*tracepb.Span)
		s.SpanId[0], s.SpanId[1], s.SpanId[2] = byte(i>>16), byte(i>>8), byte(i)
		sc.Spans = append(sc.Spans, s)
	}
	out, err := proto.Marshal(td)
	if err != nil {
		b.Fatal(err)
	}
	return out
}

// BenchmarkSpans compares decoding and mapping with what protobuf alone takes.
func BenchmarkSpans(b *testing.B) {
	const n = 512
	body := batch(b, n)
	rate := func(b *testing.B) { b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "spans/s") }
	b.Run("protobuf", func(b *testing.B) {
		for b.Loop() {
			if err := proto.Unmarshal(body, new(tracepb.TracesData)); err != nil {
				b.Fatal(err)
			}
		}
		rate(b)
	})
	b.Run("mapped", func(b *testing.B) {
		m := newMapper()
		for b.Loop() {
			td, err := DecodeTraces(body, false)
			if err != nil {
				b.Fatal(err)
			}
			if events, _, _ := m.Spans(td); len(events) != n {
				b.Fatal(len(events))
			}
		}
		rate(b)
	})
}
