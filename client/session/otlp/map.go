package otlp

import (
	"encoding/binary"
	"strings"
	"sync"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// A Mapper turns decoded telemetry into events. It can be used concurrently.
type Mapper struct {
	Hasher *activity.Hasher
	// Clear names attributes whose text is kept as it is although it isn't known to be
	// free of content.
	Clear map[string]bool
	// GeminiRelatives are prefixes of event names, without the dot, of agents that descend
	// from Gemini CLI, beside those that MAPPING.md names.
	GeminiRelatives []string

	mu     sync.Mutex
	counts map[string]uint64 // guarded by mu
}

// What Counts counts, beside events that became actions.
const (
	CountUnknown   = "unknown"   // events of a known agent that no table has: kept as generic actions
	CountForeign   = "foreign"   // spans and logs that aren't about an agent: not kept
	CountDuplicate = "duplicate" // a second signal about what another one reports: not kept
	CountInvalid   = "invalid"   // without the ids that they must have: rejected
)

func (m *Mapper) count(what string) {
	m.mu.Lock()
	if m.counts == nil {
		m.counts = make(map[string]uint64)
	}
	m.counts[what]++
	m.mu.Unlock()
}

// Counts returns how many spans and log records there were of each Count.
func (m *Mapper) Counts() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(map[string]uint64, len(m.counts))
	for k, v := range m.counts {
		c[k] = v
	}
	return c
}

// A class says what becomes of an attribute.
type class uint8

const (
	unlisted  class = iota // numbers are kept, text is withheld
	clear                  // kept
	arguments              // content: the action's arguments
	result                 // content: the action's result
	digested               // content of another kind, which package session digests too
	withheld               // text of which nobody knows what it is: only its name is kept
	identity               // of a person or a machine: not even its name is kept
	handled                // has a place of its own
)

// genAI classifies attributes of the GenAI conventions (OpenTelemetry semantic
// conventions, "gen-ai"), and of the agents that add some to its spans.
var genAI = map[string]class{
	"gen_ai.operation.name":  handled,
	"gen_ai.conversation.id": handled,

	"gen_ai.provider.name": clear, "gen_ai.system": clear,
	"gen_ai.agent.id": clear, "gen_ai.agent.name": clear, "gen_ai.agent.version": clear,
	"gen_ai.request.model": clear, "gen_ai.response.model": clear, "gen_ai.response.id": clear,
	"gen_ai.response.finish_reasons": clear, "gen_ai.output.type": clear, "gen_ai.token.type": clear,
	"gen_ai.request.encoding_formats": clear,
	"gen_ai.tool.name":                clear, "gen_ai.tool.type": clear, "gen_ai.tool.call.id": clear,
	"gen_ai.data_source.id": clear, "gen_ai.evaluation.name": clear, "gen_ai.evaluation.score.label": clear,
	"error.type": clear, "server.address": clear, "network.protocol.name": clear, "network.transport": clear,
	"mcp.method.name": clear, "mcp.session.id": clear, "mcp.protocol.version": clear, "jsonrpc.request.id": clear,
	"openai.request.service_tier": clear, "openai.response.service_tier": clear, "aws.bedrock.guardrail.id": clear,
	"affidavit.outcome": handled, "affidavit.policy": clear,

	"gen_ai.tool.call.arguments": arguments, "gen_ai.input.messages": arguments, "gen_ai.prompt": arguments,
	"gen_ai.tool.call.result": result, "gen_ai.output.messages": result, "gen_ai.completion": result,

	"gen_ai.system_instructions": digested, "gen_ai.tool.definitions": digested, "gen_ai.evaluation.explanation": digested,
	"gen_ai.retrieval.documents": digested, "gen_ai.retrieval.query.text": digested,
	"gen_ai.tool.description": withheld, "gen_ai.agent.description": withheld, "gen_ai.request.stop_sequences": withheld,

	"user.id": identity, "user.email": identity, "user.name": identity, "user.full_name": identity, "user.account_uuid": identity,
	"user.account_id": identity, "enduser.id": identity, "organization.id": identity, "installation.id": identity,
	"client.address": identity, "host.name": identity, "process.command_line": identity, "process.command_args": identity,
	"process.executable.path": identity, "process.owner": identity,
}

// add puts one attribute where its class says.
func (m *Mapper) add(e *activity.Event, a *activity.Attributes, c class, name string, v *commonpb.AnyValue) {
	switch c {
	case handled, identity:
		return
	case arguments:
		if e.Arguments == nil {
			e.Arguments = content(v)
			return
		}
		a.Content(name, content(v))
		return
	case result:
		if e.Result == nil {
			e.Result = content(v)
			return
		}
		a.Content(name, content(v))
		return
	case digested:
		a.Content(name, content(v))
		return
	case withheld:
		if !m.Clear[name] {
			a.Withhold(name)
			return
		}
	}
	switch x := v.GetValue().(type) {
	case *commonpb.AnyValue_IntValue:
		a.Int(name, x.IntValue)
		return
	case *commonpb.AnyValue_BoolValue:
		a.Bool(name, x.BoolValue)
		return
	case *commonpb.AnyValue_DoubleValue:
		a.Float(name, x.DoubleValue)
		return
	case nil:
		return
	}
	if c == unlisted && !m.Clear[name] {
		a.Withhold(name)
		return
	}
	if l, ok := stringList(v); ok {
		a.Strings(name, l)
		return
	}
	if s, ok := text(v); ok {
		a.String(name, s)
		return
	}
	a.Withhold(name)
}

// lookup finds an attribute.
func lookup(kvs []*commonpb.KeyValue, name string) *commonpb.AnyValue {
	for _, kv := range kvs {
		if kv.GetKey() == name {
			return kv.GetValue()
		}
	}
	return nil
}

// maxLooked bounds how many attributes of a span or record are looked at.
const maxLooked = 2048

// unixNano is a time of OTLP, or none if it is absent or can't be one.
func unixNano(n uint64) time.Time {
	if n == 0 || n > 1<<62 {
		return time.Time{}
	}
	return time.Unix(0, int64(n)).UTC()
}

func spanKey(trace [16]byte, span [8]byte) (k activity.Key) {
	// A span id is random; with half of the trace id it is unique among any spans
	// that one recorder sees.
	copy(k[:8], span[:])
	binary.BigEndian.PutUint64(k[8:], binary.BigEndian.Uint64(trace[:8])^binary.BigEndian.Uint64(trace[8:]))
	return k
}

// conversation is the agent's name for its conversation, bounded.
func conversation(v *commonpb.AnyValue) string {
	s, _ := text(v)
	return activity.Text(strings.TrimSpace(s), 256)
}
