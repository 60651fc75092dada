package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // exporters may compress
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// A Sink takes events. It returns when they are safe: the exporter forgets them then.
// rejected is how many it can never take. An error means that none were taken, and
// the exporter should try again.
type Sink interface {
	Take(ctx context.Context, events []activity.Event, edges []activity.Edge) (rejected int, err error)
}

// A Server receives OTLP: as an http.Handler under /v1/traces, /v1/logs and
// /v1/metrics (opentelemetry.io/docs/specs/otlp), and over gRPC, see Register. Metrics
// are accepted and dropped, so that an agent that exports all three signals to one endpoint is content.
type Server struct {
	mapper *Mapper
	sink   Sink
	slots  chan struct{} // bounds the requests that are being decoded, and so the memory for them
	bodies chan struct{} // bounds the HTTP requests whose bodies are in memory
	mux    *http.ServeMux
}

// maxDecoding is how many requests are decoded at a time. One takes up to about 150 MB.
const maxDecoding = 4

// maxBodies is how many HTTP bodies are in memory at a time, of up to twice MaxBody each.
// Others wait with nothing read.
const maxBodies = 32

// NewServer returns a Server that hands what it receives to sink.
func NewServer(m *Mapper, sink Sink) *Server {
	s := &Server{mapper: m, sink: sink, slots: make(chan struct{}, maxDecoding), bodies: make(chan struct{}, maxBodies), mux: http.NewServeMux()}
	s.mux.HandleFunc("POST /v1/traces", s.http(s.traces))
	s.mux.HandleFunc("POST /v1/logs", s.http(s.logs))
	s.mux.HandleFunc("POST /v1/metrics", s.http(s.metrics))
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// errBusy means that the exporter should send again later.
var errBusy = errors.New("the recorder can't take more at the moment")

func (s *Server) traces(ctx context.Context, body []byte, json bool) (int, error) {
	td, err := DecodeTraces(body, json)
	if err != nil {
		return 0, err
	}
	events, edges, invalid := s.mapper.Spans(td)
	rejected, err := s.sink.Take(ctx, events, edges)
	return invalid + rejected, err
}

func (s *Server) logs(ctx context.Context, body []byte, json bool) (int, error) {
	ld, err := DecodeLogs(body, json)
	if err != nil {
		return 0, err
	}
	events, invalid := s.mapper.Logs(ld)
	rejected, err := s.sink.Take(ctx, events, nil)
	return invalid + rejected, err
}

func (s *Server) metrics(context.Context, []byte, bool) (int, error) { return 0, nil }

type receive func(ctx context.Context, body []byte, json bool) (rejected int, err error)

// serve runs f when there is a slot. It goes on when the exporter has given up: what it
// sent is still worth recording.
func (s *Server) serve(ctx context.Context, body []byte, json bool, f receive) (int, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return 0, errBusy
	}
	defer func() { <-s.slots }()
	rejected, err := f(context.WithoutCancel(ctx), body, json)
	if err != nil && !errors.Is(err, ErrMalformed) {
		err = fmt.Errorf("%w: %v", errBusy, err)
	}
	return rejected, err
}

func (s *Server) http(f receive) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		json := false
		switch t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t {
		case "application/x-protobuf":
		case "application/json":
			json = true
		default:
			s.fail(w, false, http.StatusUnsupportedMediaType, codes.InvalidArgument, "content type must be application/x-protobuf or application/json")
			return
		}
		// A body that says it is too large is refused before a byte of it is read.
		if r.ContentLength > MaxBody {
			w.Header().Set("Connection", "close")
			s.fail(w, json, http.StatusRequestEntityTooLarge, codes.InvalidArgument, "request of more than "+strconv.Itoa(MaxBody)+" bytes")
			return
		}
		select {
		case s.bodies <- struct{}{}:
			defer func() { <-s.bodies }()
		case <-r.Context().Done():
			return
		}
		body, err := readBody(w, r)
		if err != nil {
			code := http.StatusBadRequest
			if errors.As(err, new(*http.MaxBytesError)) || errors.Is(err, errTooLarge) {
				code = http.StatusRequestEntityTooLarge
				w.Header().Set("Connection", "close")
			}
			s.fail(w, json, code, codes.InvalidArgument, err.Error())
			return
		}
		rejected, err := s.serve(r.Context(), body, json, f)
		switch {
		case errors.Is(err, ErrMalformed):
			s.fail(w, json, http.StatusBadRequest, codes.InvalidArgument, err.Error())
		case err != nil:
			w.Header().Set("Retry-After", "1")
			s.fail(w, json, http.StatusServiceUnavailable, codes.Unavailable, err.Error())
		case json:
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, answerJSON(r.URL.Path, rejected))
		default:
			w.Header().Set("Content-Type", "application/x-protobuf")
			w.Write(answer(rejected))
		}
	}
}

var errTooLarge = errors.New("compressed request of too many bytes")

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body := io.Reader(http.MaxBytesReader(w, r.Body, MaxBody))
	switch r.Header.Get("Content-Encoding") {
	case "", "identity":
		// The length is a promise of at most MaxBody; room for it is made in one piece.
		var b bytes.Buffer
		if r.ContentLength > 0 {
			b.Grow(int(r.ContentLength) + bytes.MinRead)
		}
		_, err := b.ReadFrom(body)
		return b.Bytes(), err
	case "gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(z, MaxBody+1))
		if err == nil && len(b) > MaxBody {
			err = errTooLarge
		}
		return b, err
	}
	return nil, fmt.Errorf("content encoding %.20q is not supported", r.Header.Get("Content-Encoding"))
}

// fail answers with a google.rpc.Status, as OTLP/HTTP wants it.
func (s *Server) fail(w http.ResponseWriter, json bool, code int, c codes.Code, msg string) {
	if json {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		w.Write(append(append([]byte(`{"code":`+strconv.Itoa(int(c))+`,"message":`), appendString(nil, msg)...), '}'))
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.WriteHeader(code)
	b := protowire.AppendTag(nil, 1, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(c))
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	w.Write(protowire.AppendString(b, msg))
}

// rejectedMessage says why part of a request was rejected.
const rejectedMessage = "without a trace id, span id or conversation, or over the recorder's bounds"

// answer is an ExportTraceServiceResponse, which has the encoding of the others:
// {partial_success 1: {rejected 1, error_message 2}}.
func answer(rejected int) []byte {
	if rejected == 0 {
		return []byte{}
	}
	p := protowire.AppendTag(nil, 1, protowire.VarintType)
	p = protowire.AppendVarint(p, uint64(rejected))
	p = protowire.AppendTag(p, 2, protowire.BytesType)
	p = protowire.AppendString(p, rejectedMessage)
	b := protowire.AppendTag(nil, 1, protowire.BytesType)
	return protowire.AppendBytes(b, p)
}

func answerJSON(path string, rejected int) string {
	if rejected == 0 {
		return "{}"
	}
	member := "rejectedSpans"
	if path == "/v1/logs" {
		member = "rejectedLogRecords"
	}
	return `{"partialSuccess":{"` + member + `":"` + strconv.Itoa(rejected) + `","errorMessage":"` + rejectedMessage + `"}}`
}

// Register adds OTLP's three services to g, which must have been made with GRPCOptions.
func (s *Server) Register(g *grpc.Server) {
	for name, f := range map[string]receive{
		"opentelemetry.proto.collector.trace.v1.TraceService":     s.traces,
		"opentelemetry.proto.collector.logs.v1.LogsService":       s.logs,
		"opentelemetry.proto.collector.metrics.v1.MetricsService": s.metrics,
	} {
		g.RegisterService(&grpc.ServiceDesc{
			ServiceName: name,
			HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: "Export", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				var body []byte
				if err := decode(&body); err != nil {
					return nil, err
				}
				rejected, err := s.serve(ctx, body, false, f)
				switch {
				case errors.Is(err, ErrMalformed):
					return nil, status.Error(codes.InvalidArgument, err.Error())
				case err != nil:
					return nil, status.Error(codes.Unavailable, err.Error())
				}
				return answer(rejected), nil
			}}},
		}, s)
	}
}

// GRPCOptions are the options that a gRPC server for Register needs. Messages are
// bounded before and after decompression.
func GRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(rawCodec{}), grpc.MaxRecvMsgSize(MaxBody), grpc.MaxConcurrentStreams(8), grpc.MaxHeaderListSize(16 << 10),
	}
}

// rawCodec leaves messages as they are: they are checked before they are decoded, see scan.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("otlp: can't send a %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("otlp: can't receive a %T", v)
	}
	*b = data.Materialize()
	return nil
}

func (rawCodec) Name() string { return "proto" }
