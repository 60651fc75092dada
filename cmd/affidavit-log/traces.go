package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// startTraces has spans sent to a collector: those of requests, and Tessera's below them. end sends what is left. A
// collector that is away costs spans, and nothing else: they wait in a bounded queue.
func startTraces(ctx context.Context, endpoint string, ratio float64, origin string, logger *slog.Logger) (end func(context.Context) error, err error) {
	e, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(endpoint))
	if err != nil {
		return nil, fmt.Errorf("--otlp-traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Debug("traces", "err", err) }))
	p := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(e),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio), sdktrace.WithRemoteParentSampled(sdktrace.TraceIDRatioBased(ratio)))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "affidavit-log"), attribute.String("service.namespace", origin))),
	)
	otel.SetTracerProvider(p)
	return p.Shutdown, nil
}

// checkTraces checks the value of --otlp-traces.
func checkTraces(endpoint string) error {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--otlp-traces %q: want a URL such as http://127.0.0.1:4318/v1/traces", endpoint)
	}
	return nil
}

// traced makes each request a span that continues the caller's (W3C traceparent). The names of spans are patterns of the
// interface, never what a client sent. Whether one is kept is decided here: a stranger can't have everything traced.
func traced(mux http.Handler) http.Handler {
	tracer := otel.Tracer("github.com/affidavit-log/affidavit/cmd/affidavit-log")
	var context propagation.TraceContext
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, "request", trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		s := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		r = r.WithContext(ctx)
		mux.ServeHTTP(s, r)
		if r.Pattern != "" { // which the mux has set
			span.SetName(r.Pattern)
			span.SetAttributes(attribute.String("http.route", r.Pattern))
		}
		span.SetAttributes(attribute.Int("http.response.status_code", s.status), attribute.String("affidavit.request", w.Header().Get("X-Request-Id")))
		if s.status >= 500 {
			span.SetStatus(codes.Error, "")
		}
	})
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (s *statusWriter) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }
