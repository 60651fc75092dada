package otlp

import (
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// serviceName is the service.name of a resource.
func serviceName(kvs []*commonpb.KeyValue) string { return str(lookup(kvs, "service.name")) }

// agentOf names the agent for the service names of those we know.
var agentOf = map[string]string{
	"copilot-chat": "copilot-chat", "claude-code": "claude-code", "gemini-cli": "gemini-cli",
	"codex_cli_rs": "codex", "codex_exec": "codex", "codex_tui": "codex", "codex-cli": "codex", "codex_vscode": "codex",
	"qwen-code": "qwen-code", "tabnine-cli": "tabnine-cli",
}

// logAgents report the same in log events, which have a table; their spans would count everything twice.
var logAgents = map[string]bool{
	"claude-code": true, "gemini-cli": true, "codex": true, "qwen-code": true, "tabnine-cli": true,
}

// Spans maps the spans of td, in their order. A span without gen_ai.operation.name
// isn't kept, but still tells which spans are below others: it is returned as an
// activity.Edge. rejected counts spans without valid ids.
func (m *Mapper) Spans(td *tracepb.TracesData) (events []activity.Event, edges []activity.Edge, rejected int) {
	n := 0
	for _, r := range td.GetResourceSpans() {
		for _, sc := range r.GetScopeSpans() {
			n += len(sc.GetSpans())
		}
	}
	events = make([]activity.Event, 0, n)
	for _, r := range td.GetResourceSpans() {
		service := serviceName(r.GetResource().GetAttributes())
		agent := agentOf[service]
		if agent == "" {
			agent = "otel"
		}
		for _, sc := range r.GetScopeSpans() {
			for _, s := range sc.GetSpans() {
				var e activity.Event
				if !id(e.Trace[:], s.GetTraceId()) || !id(e.Span[:], s.GetSpanId()) {
					m.count(CountInvalid)
					rejected++
					continue
				}
				id(e.Parent[:], s.GetParentSpanId())
				op := lookup(s.GetAttributes(), "gen_ai.operation.name")
				if op == nil || logAgents[agent] {
					edges = append(edges, activity.Edge{Trace: e.Trace, Span: e.Span, Parent: e.Parent})
					if op == nil {
						m.count(CountForeign)
					} else {
						m.count(CountDuplicate)
					}
					continue
				}
				e.Agent = agent
				m.span(&e, s, str(op))
				events = append(events, e)
			}
		}
	}
	return events, edges, rejected
}

func (m *Mapper) span(e *activity.Event, s *tracepb.Span, op string) {
	e.Kind, e.Source = activity.Action, activity.SourceSpan
	e.Key = spanKey(e.Trace, e.Span)
	e.Operation = activity.Operation(op)
	if e.Operation == "" {
		e.Operation = activity.OpAgentEvent
	}
	start, end := unixNano(s.GetStartTimeUnixNano()), unixNano(s.GetEndTimeUnixNano())
	e.Time = end

	kvs := s.GetAttributes()
	a := activity.NewAttributes(len(kvs) + 6)
	if len(kvs) > maxLooked {
		a.Drop(len(kvs) - maxLooked)
		kvs = kvs[:maxLooked]
	}
	var errorType, outcome string
	for _, kv := range kvs {
		name, v := kv.GetKey(), kv.GetValue()
		switch name {
		case "gen_ai.conversation.id":
			e.Conversation = conversation(v)
		case "gen_ai.tool.call.id":
			e.CallID = activity.Text(str(v), 256)
		case "error.type":
			errorType = str(v)
		case "affidavit.outcome":
			outcome = str(v)
		}
		m.add(e, a, genAI[name], name, v)
	}
	failed := s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR
	if errorType == "" && failed {
		// The convention wants error.type; an exception event names it too.
		for _, ev := range s.GetEvents() {
			if ev.GetName() == "exception" {
				errorType = str(lookup(ev.GetAttributes(), "exception.type"))
				a.String("error.type", errorType)
				break
			}
		}
	}
	switch {
	case activity.IsOutcome(outcome):
		e.Outcome = outcome
	case errorType != "":
		e.Outcome = activity.OutcomeOf(errorType)
	case failed:
		e.Outcome = activity.Errored
	default:
		e.Outcome = activity.Executed
	}
	if !start.IsZero() {
		a.String(activity.AttrStart, start.Format(time.RFC3339Nano))
		if !end.IsZero() && !end.Before(start) {
			a.Int(activity.AttrDuration, end.Sub(start).Milliseconds())
		}
	}
	e.Attributes = a.Map()
	if e.Operation == activity.OpInvokeAgent {
		// The end of an agent that nobody invoked is the end of the conversation. One that
		// has a parent may be a sub-agent: package recorder finds out.
		e.EndReason = activity.Completed
		switch e.Outcome {
		case activity.TimedOut:
			e.EndReason = activity.Timeout
		case activity.Executed:
		default:
			e.EndReason = activity.Aborted
		}
		if e.Parent == ([8]byte{}) {
			e.Kind = activity.Close
		}
	}
}
