package otlp

import (
	"strings"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// serviceFamily finds the family by service.name, for events whose name has no
// prefix: Claude Code's event.name has none, only its body has.
func serviceFamily(agent string) (*family, string) {
	for _, f := range families {
		for _, p := range f.prefixes {
			if p.agent == agent {
				return f, agent
			}
		}
	}
	return nil, ""
}

// event finds the family, agent and short name of a log record.
func (m *Mapper) event(l *logspb.LogRecord, service string) (f *family, agent, name string) {
	named := [3]string{l.GetEventName(), str(lookup(l.GetAttributes(), "event.name")), ""}
	if s, ok := l.GetBody().GetValue().(*commonpb.AnyValue_StringValue); ok && len(s.StringValue) <= 128 {
		named[2] = s.StringValue
	}
	for _, full := range named {
		for _, f := range families {
			for _, p := range f.prefixes {
				if rest, ok := strings.CutPrefix(full, p.text+"."); ok && rest != "" {
					return f, p.agent, rest
				}
			}
		}
		for _, p := range m.GeminiRelatives {
			if rest, ok := strings.CutPrefix(full, p+"."); ok && rest != "" {
				return gemini, p, rest
			}
		}
	}
	name = first(named[0], named[1])
	if f, agent = serviceFamily(agentOf[service]); f != nil && name != "" && !duplicates[name] {
		return f, agent, name
	}
	return nil, "", name
}

// Logs maps the log records of ld, in their order. rejected counts events of a
// known agent that don't name their conversation.
func (m *Mapper) Logs(ld *logspb.LogsData) (events []activity.Event, rejected int) {
	for _, r := range ld.GetResourceLogs() {
		resource := r.GetResource().GetAttributes()
		service := serviceName(resource)
		for _, sc := range r.GetScopeLogs() {
			for _, l := range sc.GetLogRecords() {
				f, agent, name := m.event(l, service)
				if f == nil {
					if duplicates[name] {
						m.count(CountDuplicate)
						continue
					}
					e, ok := m.foreign(l, name)
					if !ok {
						m.count(CountForeign)
						continue
					}
					m.count(CountUnknown)
					events = append(events, e)
					continue
				}
				row, known := f.rows[name]
				if !known {
					m.count(CountUnknown)
					row.operation = activity.OpAgentEvent
				}
				if row.operation == "" && row.kind == activity.Action {
					continue
				}
				e := activity.Event{Kind: row.kind, Source: activity.SourceLog, Agent: agent, Operation: row.operation}
				e.Conversation = conversation(lookup(l.GetAttributes(), f.conversation))
				if e.Conversation == "" {
					e.Conversation = conversation(lookup(resource, f.conversation))
				}
				if m.log(&e, l, f, row, name, known) {
					if e.Conversation == "" && e.Trace == ([16]byte{}) {
						m.count(CountInvalid)
						rejected++
						continue
					}
					events = append(events, e)
				}
			}
		}
	}
	return events, rejected
}

// ids fills in what a log record says of time and trace, and its key.
func (m *Mapper) ids(e *activity.Event, l *logspb.LogRecord, scope string) {
	id(e.Trace[:], l.GetTraceId())
	id(e.Parent[:], l.GetSpanId()) // the span during which it was logged
	e.Time = unixNano(l.GetTimeUnixNano())
	if e.Time.IsZero() {
		e.Time = unixNano(l.GetObservedTimeUnixNano())
	}
	// A record has no identity but itself: what an exporter sends again is the same bytes.
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(l)
	if err != nil {
		b = []byte(err.Error()) // not UTF-8: the decoder refuses that
	}
	e.Key = m.Hasher.Key([]byte("log"), []byte(scope), []byte(e.Conversation), b)
}

func (m *Mapper) log(e *activity.Event, l *logspb.LogRecord, f *family, row row, name string, known bool) bool {
	kvs := l.GetAttributes()
	a := activity.NewAttributes(len(kvs) + 6)
	if len(kvs) > maxLooked {
		a.Drop(len(kvs) - maxLooked)
		kvs = kvs[:maxLooked]
	}
	get := func(name string) string { return str(lookup(kvs, name)) }
	if f == codex && name == "sse_event" && !sseKept(get) {
		return false
	}
	m.ids(e, l, e.Agent)
	e.Outcome = activity.Executed
	if rule := outcomes[row.outcome]; rule != nil {
		e.Outcome = rule(get)
	}
	if e.Operation == activity.OpAgentEvent {
		a.String("event.name", name)
	}
	if row.model {
		a.String("gen_ai.provider.name", f.provider)
	}
	for _, kv := range kvs {
		name, v := kv.GetKey(), kv.GetValue()
		at, ok := f.attributes[name]
		c := at.class
		if !ok {
			c = genAI[name]
		}
		if !known && c != handled && c != identity && c != clear {
			c = unlisted // of an event that nobody has looked at: text is withheld
		}
		as := name
		if at.as != "" {
			as = at.as
		}
		if as == "gen_ai.tool.call.id" {
			e.CallID = activity.Text(str(v), 256)
		}
		if _, isText := v.GetValue().(*commonpb.AnyValue_StringValue); isText && c == clear {
			if n, ok := integer(str(v)); ok && numeric[as] { // numbers that come as text
				a.Int(as, n)
				continue
			}
		}
		m.add(e, a, c, as, v)
	}
	if !e.Time.IsZero() {
		a.String(activity.AttrEnd, e.Time.Format(time.RFC3339Nano))
	}
	e.Attributes = a.Map()
	return true
}

// numeric are attributes that the conventions have as integers.
var numeric = map[string]bool{
	"gen_ai.usage.input_tokens": true, "gen_ai.usage.output_tokens": true, "gen_ai.usage.cache_read.input_tokens": true,
	"gen_ai.usage.cache_creation.input_tokens": true, "http.response.status_code": true, "duration_ms": true, "attempt": true,
}

func integer(s string) (int64, bool) {
	if s == "" || len(s) > 15 {
		return 0, false
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, true
}

// foreign keeps a record of no agent that we know if it names a conversation by
// OpenTelemetry's attribute.
func (m *Mapper) foreign(l *logspb.LogRecord, name string) (activity.Event, bool) {
	kvs := l.GetAttributes()
	conv := conversation(lookup(kvs, "gen_ai.conversation.id"))
	if conv == "" {
		return activity.Event{}, false
	}
	e := activity.Event{
		Source: activity.SourceLog, Agent: "otel", Conversation: conv,
		Operation: activity.OpAgentEvent, Outcome: activity.Executed,
	}
	m.ids(&e, l, "otel")
	a := activity.NewAttributes(len(kvs) + 4)
	if len(kvs) > maxLooked {
		a.Drop(len(kvs) - maxLooked)
		kvs = kvs[:maxLooked]
	}
	a.String("event.name", activity.Operation(name))
	for _, kv := range kvs {
		if kv.GetKey() == "event.name" {
			continue
		}
		m.add(&e, a, genAI[kv.GetKey()], kv.GetKey(), kv.GetValue())
	}
	e.Attributes = a.Map()
	return e, true
}
