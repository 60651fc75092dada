package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	otrace "go.opentelemetry.io/otel/trace"
)

// An agent is an AI coding agent that knows nothing of Affidavit: it reports what
// it does through OpenTelemetry's own SDK, by the conventions for generative AI.
type agent struct {
	ctx          context.Context
	tracer       otrace.Tracer
	conversation string
	spans        int
}

// runAgent runs an agent that reports to the recorder's unix socket, and returns
// how many spans it reported.
func runAgent(socket string) int {
	ctx := context.Background()
	exporter, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL("http://recorder/v1/traces"),
		otlptracehttp.WithHTTPClient(&http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			},
		}}))
	check(err)
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(resource.NewSchemaless(attribute.String("service.name", "demo-agent"))))
	a := &agent{ctx: ctx, tracer: provider.Tracer("demo-agent"), conversation: "conversation-1"}
	a.work()
	check(provider.Shutdown(ctx))
	return a.spans
}

// span reports one operation around what do does.
func (a *agent) span(name, operation string, do func(), attrs ...attribute.KeyValue) {
	before := a.ctx
	attrs = append(attrs, attribute.String("gen_ai.operation.name", operation), attribute.String("gen_ai.conversation.id", a.conversation))
	ctx, span := a.tracer.Start(a.ctx, name, otrace.WithAttributes(attrs...))
	a.ctx = ctx
	a.spans++
	if do != nil {
		do()
	}
	a.ctx = before
	span.End()
}

func (a *agent) chat(prompt string) {
	a.span("chat coder-large", "chat", nil,
		attribute.String("gen_ai.provider.name", "provider.example"),
		attribute.String("gen_ai.request.model", "coder-large"),
		attribute.String("gen_ai.response.model", "coder-large"),
		attribute.Int("gen_ai.usage.output_tokens", 40+len(prompt)),
		attribute.String("gen_ai.input.messages", prompt))
}

func (a *agent) tool(name, arguments, errorType string) {
	attrs := []attribute.KeyValue{
		attribute.String("gen_ai.tool.name", name),
		attribute.String("gen_ai.tool.call.id", fmt.Sprintf("call_%d", a.spans)),
		attribute.String("gen_ai.tool.call.arguments", arguments),
	}
	if errorType != "" {
		attrs = append(attrs, attribute.String("error.type", errorType))
	}
	a.span("execute_tool "+name, "execute_tool", func() {
		if errorType != "" {
			otrace.SpanFromContext(a.ctx).SetStatus(codes.Error, errorType)
		}
	}, attrs...)
}

// work is a session: reading, thinking, a sub-agent that runs the tests, a call to
// the network that the sandbox blocks, a command that fails, and a fix.
func (a *agent) work() {
	a.span("invoke_agent coder", "invoke_agent", func() {
		for i := range 12 {
			a.chat(fmt.Sprintf("what next? step %d", i))
			a.tool("read_file", fmt.Sprintf("src/file%d.go", i), "")
		}
		a.span("invoke_agent tester", "invoke_agent", func() {
			for i := range 8 {
				a.chat(fmt.Sprintf("which test? %d", i))
				a.tool("run_test", fmt.Sprintf("Test%d", i), "")
			}
			a.tool("run_test", "TestLast", "exit_status_1")
		}, attribute.String("gen_ai.agent.name", "tester"))
		a.tool("http_request", "https://elsewhere.example/", "egress_denied")
		for i := range 3 {
			a.chat(fmt.Sprintf("fix it, %d", i))
			a.tool("edit_file", fmt.Sprintf("src/file%d.go", i), "")
		}
	}, attribute.String("gen_ai.agent.name", "coder"))
}
