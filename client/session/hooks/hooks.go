// Package hooks turns the events that Cursor, Windsurf Cascade and Claude Code give
// to their hooks into activity events, and writes and removes the agents' hook
// configuration. HOOKS.md says what becomes of each event. Package send hands events
// to the recorder.
package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/client/session/hooks/send"
)

// maxDepth bounds the nesting of an event.
const maxDepth = 64

// ErrMalformed is wrapped by errors about an event that can't be one of the agent's.
var ErrMalformed = errors.New("malformed hook event")

// Agents lists the agents whose hooks are known.
func Agents() []string { return send.Agents() }

// An agent says how one agent reports.
type agent struct {
	name         string   // the member that names the event
	conversation string   // the member that names the conversation
	nested       string   // an object whose members are read as if they were the event's own
	ours         []string // events that Install asks for
	rows         map[string]row
	// clear are members that are kept, under this name if it isn't "". Of other members
	// numbers and booleans are kept, and the names of the rest.
	clear map[string]string
	// dropped are members of which not even the name is kept: they are there in every event.
	dropped []string
}

// A row is a line of a table of HOOKS.md.
type row struct {
	operation string
	kind      activity.Kind
	tool      string   // gen_ai.tool.name, if the event doesn't say
	arguments []string // members that are the arguments
	result    []string
	outcome   func(get func(string) string) string // nil for executed
	end       func(get func(string) string) string // nil for completed
}

var agents = map[string]*agent{
	"cursor": {
		name: "hook_event_name", conversation: "conversation_id",
		ours: []string{
			"beforeSubmitPrompt", "beforeShellExecution", "afterShellExecution", "beforeMCPExecution", "afterMCPExecution",
			"beforeReadFile", "afterFileEdit", "postToolUseFailure", "subagentStop", "stop", "sessionEnd",
		},
		rows: map[string]row{
			"sessionStart":         {kind: activity.Open},
			"beforeSubmitPrompt":   {operation: activity.OpUserPrompt, arguments: []string{"prompt"}},
			"beforeShellExecution": {operation: activity.OpRequestTool, tool: "shell", arguments: []string{"command"}},
			"afterShellExecution":  {operation: activity.OpExecuteTool, tool: "shell", arguments: []string{"command"}, result: []string{"output"}},
			"beforeMCPExecution":   {operation: activity.OpRequestTool, arguments: []string{"tool_input"}},
			"afterMCPExecution":    {operation: activity.OpExecuteTool, arguments: []string{"tool_input"}, result: []string{"result_json"}},
			"beforeReadFile":       {operation: activity.OpRequestTool, tool: "read_file", arguments: []string{"file_path"}, result: []string{"content"}},
			"afterFileEdit":        {operation: activity.OpExecuteTool, tool: "edit_file", arguments: []string{"edits", "file_path"}},
			"postToolUseFailure": {operation: activity.OpExecuteTool, arguments: []string{"tool_input"}, result: []string{"error_message"},
				outcome: func(get func(string) string) string { return activity.OutcomeOf(get("failure_type")) }},
			"subagentStart":      {operation: activity.OpAgentEvent},
			"subagentStop":       {operation: activity.OpInvokeAgent, arguments: []string{"task"}, result: []string{"summary"}, outcome: stopOutcome},
			"afterAgentResponse": {operation: activity.OpAgentEvent, result: []string{"text"}},
			"preCompact":         {operation: activity.OpAgentEvent},
			"stop":               {operation: activity.OpAgentEvent, kind: activity.TurnEnd, outcome: stopOutcome},
			"sessionEnd": {kind: activity.Close, end: func(get func(string) string) string {
				switch get("reason") {
				case "aborted", "error":
					return activity.Aborted
				}
				return activity.Completed
			}},
		},
		clear: map[string]string{
			"generation_id": "", "model": "gen_ai.request.model", "cursor_version": "", "tool_name": "gen_ai.tool.name",
			"tool_use_id": "gen_ai.tool.call.id", "duration": "", "duration_ms": "", "status": "", "loop_count": "", "failure_type": "error.type",
			"subagent_type": "gen_ai.agent.name", "subagent_id": "gen_ai.agent.id", "sandbox": "", "reason": "", "trigger": "",
			"mcp_server_name": "", "is_interrupt": "", "composer_mode": "",
		},
		dropped: []string{"user_email", "transcript_path", "workspace_roots"},
	},
	"windsurf": {
		name: "agent_action_name", conversation: "trajectory_id", nested: "tool_info",
		ours: []string{
			"pre_user_prompt", "pre_read_code", "post_read_code", "pre_write_code", "post_write_code", "pre_run_command",
			"post_run_command", "pre_mcp_tool_use", "post_mcp_tool_use", "post_cascade_response", "post_setup_worktree",
		},
		rows: map[string]row{
			"pre_user_prompt":       {operation: activity.OpUserPrompt, arguments: []string{"user_prompt"}},
			"pre_read_code":         {operation: activity.OpRequestTool, tool: "read_code", arguments: []string{"file_path"}},
			"post_read_code":        {operation: activity.OpExecuteTool, tool: "read_code", arguments: []string{"file_path"}},
			"pre_write_code":        {operation: activity.OpRequestTool, tool: "write_code", arguments: []string{"edits", "file_path"}},
			"post_write_code":       {operation: activity.OpExecuteTool, tool: "write_code", arguments: []string{"edits", "file_path"}},
			"pre_run_command":       {operation: activity.OpRequestTool, tool: "run_command", arguments: []string{"command_line"}},
			"post_run_command":      {operation: activity.OpExecuteTool, tool: "run_command", arguments: []string{"command_line"}},
			"pre_mcp_tool_use":      {operation: activity.OpRequestTool, arguments: []string{"mcp_tool_arguments"}},
			"post_mcp_tool_use":     {operation: activity.OpExecuteTool, arguments: []string{"mcp_tool_arguments"}, result: []string{"mcp_result"}},
			"post_cascade_response": {operation: activity.OpAgentEvent, kind: activity.TurnEnd, result: []string{"response"}},
			"post_setup_worktree":   {operation: activity.OpAgentEvent},
		},
		clear: map[string]string{
			"execution_id": "", "timestamp": "affidavit.reported.end", "model_name": "gen_ai.request.model",
			"mcp_tool_name": "gen_ai.tool.name", "mcp_server_name": "",
		},
		dropped: []string{"cwd"},
	},
	"claude-code": {
		name: "hook_event_name", conversation: "session_id",
		ours: []string{
			"SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "PostToolUseFailure", "SubagentStop", "Stop", "SessionEnd",
		},
		rows: map[string]row{
			"SessionStart":     {kind: activity.Open},
			"UserPromptSubmit": {operation: activity.OpUserPrompt, arguments: []string{"prompt"}},
			"PreToolUse":       {operation: activity.OpRequestTool, arguments: []string{"tool_input"}},
			"PostToolUse":      {operation: activity.OpExecuteTool, arguments: []string{"tool_input"}, result: []string{"tool_response"}},
			"PostToolUseFailure": {operation: activity.OpExecuteTool, arguments: []string{"tool_input"}, result: []string{"error"},
				outcome: func(get func(string) string) string { return activity.OutcomeOf(get("error_type")) }},
			"PermissionDenied": {operation: activity.OpDecideTool, arguments: []string{"tool_input"},
				outcome: func(func(string) string) string { return activity.Blocked }},
			"SubagentStart": {operation: activity.OpAgentEvent},
			"SubagentStop":  {operation: activity.OpInvokeAgent, result: []string{"last_assistant_message"}},
			"PreCompact":    {operation: activity.OpAgentEvent},
			"Notification":  {operation: activity.OpAgentEvent},
			"Stop":          {operation: activity.OpAgentEvent, kind: activity.TurnEnd, result: []string{"last_assistant_message"}},
			"SessionEnd":    {kind: activity.Close},
		},
		clear: map[string]string{
			"tool_name": "gen_ai.tool.name", "tool_use_id": "gen_ai.tool.call.id", "permission_mode": "", "source": "", "reason": "",
			"agent_id": "gen_ai.agent.id", "agent_type": "gen_ai.agent.name", "trigger": "", "notification_type": "",
			"model": "gen_ai.request.model", "error_type": "error.type",
		},
		dropped: []string{"transcript_path", "agent_transcript_path", "cwd"},
	},
}

// stopOutcome is the outcome of a run of an agent by Cursor's status.
func stopOutcome(get func(string) string) string {
	switch get("status") {
	case "aborted", "cancelled":
		return activity.Denied
	case "error":
		return activity.Errored
	}
	return activity.Executed
}

// Parse maps one event of an agent, at most send.MaxEvent bytes of JSON. known is false if
// no table has it; it is then a generic action. The key is the caller's to set: two equal
// events may both have happened.
func Parse(name string, b []byte) (e activity.Event, known bool, err error) {
	ag := agents[name]
	if ag == nil {
		return e, false, fmt.Errorf("%w: unknown agent %.40q", ErrMalformed, name)
	}
	if len(b) > send.MaxEvent {
		return e, false, fmt.Errorf("%w: %d bytes, more than %d", ErrMalformed, len(b), send.MaxEvent)
	}
	members, order, err := object(b, 0)
	if err != nil {
		return e, false, err
	}
	if ag.nested != "" {
		if raw, ok := members[ag.nested]; ok && raw.Kind() == '{' {
			inner, innerOrder, err := object(raw, 1)
			if err != nil {
				return e, false, err
			}
			delete(members, ag.nested)
			order = slices.DeleteFunc(order, func(s string) bool { return s == ag.nested })
			for _, k := range innerOrder {
				if _, twice := members[k]; !twice {
					members[k] = inner[k]
					order = append(order, k)
				}
			}
		}
	}
	get := func(k string) string { return scalar(members[k]) }
	event := get(ag.name)
	if event == "" {
		return e, false, fmt.Errorf("%w: no %s", ErrMalformed, ag.name)
	}
	e = activity.Event{Source: activity.SourceHook, Agent: name, Conversation: activity.Text(get(ag.conversation), 256)}
	if e.Conversation == "" {
		return e, false, fmt.Errorf("%w: no %s", ErrMalformed, ag.conversation)
	}
	r, known := ag.rows[event]
	if !known {
		r = row{operation: activity.OpAgentEvent}
	}
	e.Kind, e.Operation, e.Outcome = r.kind, r.operation, activity.Executed
	if r.outcome != nil {
		e.Outcome = r.outcome(get)
	}
	if e.Kind == activity.Close {
		e.EndReason = activity.Completed
		if r.end != nil {
			e.EndReason = r.end(get)
		}
	}
	e.Arguments, e.Result = contentOf(members, r.arguments), contentOf(members, r.result)
	if t, err := time.Parse(time.RFC3339Nano, get("timestamp")); err == nil {
		e.Time = t.UTC()
	}

	a := activity.NewAttributes(len(members) + 4)
	a.String("event.name", event)
	for _, k := range order {
		v := members[k]
		switch {
		case k == ag.name, k == ag.conversation, slices.Contains(ag.dropped, k), slices.Contains(r.arguments, k), slices.Contains(r.result, k):
			continue
		}
		as, clear := ag.clear[k]
		if as == "" {
			as = k
		}
		if as == "gen_ai.tool.call.id" {
			e.CallID = activity.Text(scalar(v), 256)
		}
		switch v.Kind() {
		case 't', 'f':
			a.Bool(as, v.Kind() == 't')
		case '0':
			if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
				a.Int(as, n)
			} else if f, err := strconv.ParseFloat(string(v), 64); err == nil {
				a.Float(as, f)
			}
		case '"':
			if clear {
				a.String(as, scalar(v))
			} else {
				a.Withhold(k)
			}
		case 'n':
		default:
			a.Withhold(k)
		}
	}
	if r.tool != "" {
		a.String("gen_ai.tool.name", r.tool)
	}
	e.Attributes = a.Map()
	return e, known, nil
}

// object splits an object into its members, raw, and their order. Members that come
// twice are refused: readers would disagree about which one counts.
func object(b []byte, depth int) (map[string]jsontext.Value, []string, error) {
	if deep(b) > maxDepth {
		return nil, nil, fmt.Errorf("%w: nested more than %d deep", ErrMalformed, maxDepth)
	}
	d := jsontext.NewDecoder(bytes.NewReader(b))
	if d.PeekKind() != '{' {
		return nil, nil, fmt.Errorf("%w: not a JSON object", ErrMalformed)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, nil, fmt.Errorf("%w: not JSON", ErrMalformed) // the library's message quotes content
	}
	m := make(map[string]jsontext.Value)
	var order []string
	for d.PeekKind() != '}' {
		t, err := d.ReadToken()
		if err != nil {
			return nil, nil, fmt.Errorf("%w: not JSON", ErrMalformed)
		}
		k := t.String()
		v, err := d.ReadValue()
		if err != nil {
			return nil, nil, fmt.Errorf("%w: not JSON", ErrMalformed)
		}
		if len(m) == 2048 {
			return nil, nil, fmt.Errorf("%w: more than 2048 members", ErrMalformed)
		}
		m[k] = bytes.Clone(v)
		order = append(order, k)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, nil, fmt.Errorf("%w: not JSON", ErrMalformed)
	}
	if rest := bytes.TrimSpace(b[d.InputOffset():]); depth == 0 && len(rest) > 0 {
		return nil, nil, fmt.Errorf("%w: data after the event", ErrMalformed)
	}
	return m, order, nil
}

// deep is how deep JSON nests, at least: it also counts brackets in strings that
// aren't closed there, and is then too high.
func deep(b []byte) int {
	depth, most, text := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case text:
		case c == '{' || c == '[':
			depth++
			most = max(most, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return most
}

// scalar is a string, number or boolean as text.
func scalar(v jsontext.Value) string {
	switch v.Kind() {
	case '"':
		s, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return ""
		}
		return string(s)
	case '0', 't', 'f':
		return string(v)
	}
	return ""
}

// contentOf is the content in members: of one its own bytes, a string's text or compact
// JSON; of several, a JSON object of them in this order, which is alphabetical.
func contentOf(members map[string]jsontext.Value, names []string) []byte {
	value := func(v jsontext.Value) []byte {
		v = bytes.Clone(v)
		if v.Compact() != nil {
			return nil
		}
		return v
	}
	if len(names) == 1 {
		v, ok := members[names[0]]
		switch {
		case !ok || v.Kind() == 'n':
			return nil
		case v.Kind() == '"':
			return []byte(scalar(v))
		}
		return value(v)
	}
	var b []byte
	for _, n := range names {
		v, ok := members[n]
		if !ok {
			continue
		}
		if b == nil {
			b = append(b, '{')
		} else {
			b = append(b, ',')
		}
		b = strconv.AppendQuote(b, n)
		b = append(b, ':')
		b = append(b, value(v)...)
	}
	if b == nil {
		return nil
	}
	return append(b, '}')
}
