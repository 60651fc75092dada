// Package activity has the one form in which everything that an agent reports
// reaches a session: telemetry spans, log events, hook events and API calls.
//
// An agent isn't trusted. Whatever it sends becomes an Event that package record
// accepts as an action, within bounds, and without a byte of content (prompts,
// arguments, results, paths) in the clear unless somebody asked for it.
package activity

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strings"
	"time"
)

// Kind says what an event does to its session.
type Kind uint8

// Kinds of events.
const (
	Action  Kind = iota // the agent did something
	Open                // the conversation began
	TurnEnd             // the agent is done until its user asks again
	Close               // the conversation ended
)

// Sources of events: the same tool call may be reported by two of them.
const (
	SourceSpan = "span"
	SourceLog  = "log"
	SourceHook = "hook"
	SourceAPI  = "api"
)

// Operations of our own, beside OpenTelemetry's well-known values of
// gen_ai.operation.name. One reported event is one action: a tool call that an
// agent reports before and after it ran is two, and what is missing can be seen.
const (
	OpChat         = "chat"
	OpExecuteTool  = "execute_tool"
	OpInvokeAgent  = "invoke_agent"
	OpRequestTool  = "request_tool"  // the agent wants to run a tool
	OpDecideTool   = "decide_tool"   // somebody or some rule allowed or refused a tool
	OpRequestModel = "request_model" // a request left for a model; the answer is another action
	OpUserPrompt   = "user_prompt"
	OpAgentEvent   = "agent_event" // anything else that the agent reports, named by event.name
)

// Outcomes, as in record.Action.
const (
	Executed = "executed"
	Blocked  = "blocked"   // a technical control stopped it: sandbox, egress, content filter, hook, configuration
	Denied   = "denied"    // a person said no
	Errored  = "errored"   //
	TimedOut = "timed_out" //
)

// Reasons for the end of a session, as in record.Session.
const (
	Completed = "completed"
	Aborted   = "aborted"
	Timeout   = "timeout"
)

// A Key tells two events apart: an event that is delivered again has the same.
type Key [16]byte

// An Event is one thing that an agent reported.
type Event struct {
	Kind   Kind
	Source string // one of the Source constants
	Agent  string // a word such as "claude-code"; "otel" for telemetry of an agent that isn't known
	// Conversation is the agent's own name for its session. If empty, it is the one
	// that other events of the same trace name.
	Conversation string
	Key          Key
	Time         time.Time // by the agent's clock; zero if it didn't say
	Trace        [16]byte  // W3C trace id; zero if there is none
	Span, Parent [8]byte   // W3C span ids; zero if there is none
	Operation    string    // what becomes an action; "" if nothing does, which only other kinds than Action may have
	Outcome      string
	EndReason    string // with Close, and with an agent's end that may turn out to be one
	CallID       string // the tool call's id
	Attributes   map[string]any
	// Arguments and Result are content; nil if they weren't reported. Package session
	// digests them with a salt.
	Arguments, Result []byte
}

// An Edge says whose child a span is that isn't about an agent.
type Edge struct {
	Trace        [16]byte
	Span, Parent [8]byte
}

// A Hasher makes keys of events that have no identity of their own. Its secret
// keeps a key, which is stored with the action, from confirming a guess of the
// content that it was made from.
type Hasher struct{ secret []byte }

// NewHasher returns a Hasher. The secret is at least 32 random bytes, and stays the
// same for as long as events may be delivered again.
func NewHasher(secret []byte) *Hasher {
	if len(secret) < 32 {
		panic("activity: secret of fewer than 32 bytes")
	}
	return &Hasher{secret}
}

// New returns a hash for the parts of an event; its sum, cut to 16 bytes, is the key.
func (h *Hasher) New() hash.Hash { return hmac.New(sha256.New, h.secret) }

// Key is the key of these parts, in this order.
func (h *Hasher) Key(parts ...[]byte) Key {
	m := h.New()
	var n [8]byte
	for _, p := range parts {
		l := uint64(len(p))
		for i := range n {
			n[i] = byte(l >> (8 * i))
		}
		m.Write(n[:])
		m.Write(p)
	}
	return Key(m.Sum(nil)[:16])
}

// String returns the key in hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// OutcomeOf is the outcome of something that failed with this type of error
// (OpenTelemetry's error.type, or an agent's own word for it). Only words that
// say so plainly are taken for a block, a denial or a timeout.
func OutcomeOf(errorType string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(errorType) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		}
		if b.Len() > 64 {
			return Errored
		}
	}
	if o, ok := errorOutcomes[b.String()]; ok {
		return o
	}
	return Errored
}

// errorOutcomes is in lower case, letters and digits only. MAPPING.md of package
// otlp has the same table, and a test compares them.
var errorOutcomes = map[string]string{
	"timeout": TimedOut, "timedout": TimedOut, "timeouterror": TimedOut, "timeoutexception": TimedOut,
	"deadlineexceeded": TimedOut, "etimedout": TimedOut, "requesttimeout": TimedOut,
	"denied": Denied, "userdenied": Denied, "userrejected": Denied, "rejected": Denied, "userabort": Denied,
	"userreject": Denied, "userrejection": Denied,
	"blocked": Blocked, "egressdenied": Blocked, "policydenied": Blocked, "policyviolation": Blocked,
	"permissiondenied": Blocked, "sandboxdenied": Blocked, "contentfilter": Blocked, "contentfiltered": Blocked,
	"hookblocked": Blocked, "guardrail": Blocked,
}

// ErrorOutcomes returns a copy of the table behind OutcomeOf.
func ErrorOutcomes() map[string]string {
	m := make(map[string]string, len(errorOutcomes))
	for k, v := range errorOutcomes {
		m[k] = v
	}
	return m
}

// IsModelCall reports whether an operation is a call of a model (OpenTelemetry's
// well-known values of gen_ai.operation.name).
func IsModelCall(operation string) bool {
	switch operation {
	case OpChat, "text_completion", "generate_content", "embeddings":
		return true
	}
	return false
}

// IsOutcome reports whether s is one of the outcomes.
func IsOutcome(s string) bool {
	switch s {
	case Executed, Blocked, Denied, Errored, TimedOut:
		return true
	}
	return false
}

// Operation makes a *word* of s (FORMAT.md, section 2.2), the form that
// gen_ai.operation.name must have, or returns "" if nothing is left of it.
func Operation(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	ok := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_'
	}
	for i := range len(s) {
		if !ok(s[i]) {
			b := []byte(strings.ToLower(s))
			for j := range b {
				if !ok(b[j]) {
					b[j] = '_'
				}
			}
			if len(b) > 64 { // lower case may be longer
				b = b[:64]
			}
			return string(b)
		}
	}
	return s
}
