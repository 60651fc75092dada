package otlp

import (
	"strings"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// A family is the agents whose log events have the same names and attributes.
type family struct {
	conversation string   // the attribute that names the conversation
	provider     string   // of the models, where events don't say
	prefixes     []prefix // of event names, without the dot
	rows         map[string]row
	// attributes says what becomes of attributes in every row: the name under which
	// it is kept, or its class.
	attributes map[string]attribute
}

type prefix struct{ text, agent string }

type attribute struct {
	class class
	as    string // name under which it is kept, if another one
}

// A row is a line of a table of MAPPING.md.
type row struct {
	operation string // "" if the event isn't kept
	kind      activity.Kind
	outcome   string // name of a rule in outcomes; "" for executed
	model     bool   // a call of a model
}

// outcomes has the rules by which an event's attributes decide the outcome.
var outcomes = map[string]func(get func(string) string) string{
	"": func(func(string) string) string { return activity.Executed },
	// success is a boolean or its text.
	"success": func(get func(string) string) string {
		if get("success") == "false" {
			return activity.OutcomeOf(first(get("error_type"), get("error.type"), get("error_category")))
		}
		return activity.Executed
	},
	// claude-tool adds Claude Code's word for a permission that was refused.
	"claude-tool": func(get func(string) string) string {
		if get("decision_type") == "reject" {
			return refusal(get("decision_source"))
		}
		if get("success") == "false" {
			return activity.OutcomeOf(get("error_type"))
		}
		return activity.Executed
	},
	"claude-decision": func(get func(string) string) string {
		if get("decision") == "reject" {
			return refusal(get("source"))
		}
		return activity.Executed
	},
	"codex-decision": func(get func(string) string) string {
		switch d := get("decision"); {
		case strings.HasPrefix(d, "approved"), d == "":
			return activity.Executed
		case d == "timed_out" || d == "timedout":
			return activity.TimedOut
		case strings.HasPrefix(get("source"), "user"), d == "abort":
			return activity.Denied
		}
		return activity.Blocked
	},
	"codex-sandbox": func(get func(string) string) string {
		o := get("outcome")
		if strings.Contains(o, "denied") {
			return activity.Blocked
		}
		if strings.Contains(o, "timed_out") || strings.Contains(o, "timeout") {
			return activity.TimedOut
		}
		return activity.Executed
	},
	"error": func(get func(string) string) string {
		return activity.OutcomeOf(first(get("error_type"), get("error.type")))
	},
	"maybe-error": func(get func(string) string) string {
		if get("error.message") != "" || get("success") == "false" {
			return activity.OutcomeOf(get("error.type"))
		}
		return activity.Executed
	},
	"http": func(get func(string) string) string {
		if s := get("http.response.status_code"); get("error.message") != "" || s != "" && !strings.HasPrefix(s, "2") {
			return activity.Errored
		}
		return activity.Executed
	},
	"gemini-tool": func(get func(string) string) string {
		if get("decision") == "reject" || get("status") == "cancelled" {
			return activity.Denied
		}
		if get("success") == "false" || get("status") == "error" {
			return activity.OutcomeOf(get("error_type"))
		}
		return activity.Executed
	},
	"status": func(get func(string) string) string {
		switch get("status") {
		case "error", "failed":
			return activity.Errored
		}
		return activity.Executed
	},
	"gemini-agent": func(get func(string) string) string {
		switch get("terminate_reason") {
		case "GOAL", "":
			return activity.Executed
		case "TIMEOUT":
			return activity.TimedOut
		case "ABORTED":
			return activity.Denied
		}
		return activity.Errored
	},
}

// refusal tells a person's no from a rule's, by Claude Code's decision source.
func refusal(source string) string {
	if strings.HasPrefix(source, "user_") {
		return activity.Denied
	}
	return activity.Blocked
}

func first(s ...string) string {
	for _, s := range s {
		if s != "" {
			return s
		}
	}
	return ""
}

var claudeCode = &family{
	conversation: "session.id",
	provider:     "anthropic",
	prefixes:     []prefix{{"claude_code", "claude-code"}},
	rows: map[string]row{
		"user_prompt":             {operation: activity.OpUserPrompt},
		"assistant_response":      {operation: activity.OpAgentEvent},
		"tool_decision":           {operation: activity.OpDecideTool, outcome: "claude-decision"},
		"tool_result":             {operation: activity.OpExecuteTool, outcome: "claude-tool"},
		"api_request":             {operation: activity.OpChat, model: true},
		"api_error":               {operation: activity.OpChat, outcome: "error", model: true},
		"api_refusal":             {operation: activity.OpAgentEvent},
		"api_retries_exhausted":   {operation: activity.OpAgentEvent, outcome: "error"},
		"api_request_body":        {operation: activity.OpRequestModel},
		"api_response_body":       {operation: activity.OpAgentEvent},
		"permission_mode_changed": {operation: activity.OpAgentEvent},
		"mcp_server_connection":   {operation: activity.OpAgentEvent, outcome: "status"},
		"skill_activated":         {operation: activity.OpAgentEvent},
		"subagent_completed":      {operation: activity.OpInvokeAgent},
		"compaction":              {operation: activity.OpAgentEvent, outcome: "success"},
		"hook_execution_start":    {},
		"hook_execution_complete": {operation: activity.OpAgentEvent},
		"hook_registered":         {},
		"plugin_loaded":           {},
		"plugin_installed":        {operation: activity.OpAgentEvent},
		"at_mention":              {operation: activity.OpAgentEvent, outcome: "success"},
		"internal_error":          {operation: activity.OpAgentEvent, outcome: "error"},
		"auth":                    {operation: activity.OpAgentEvent, outcome: "success"},
		"feedback_survey":         {},
	},
	attributes: map[string]attribute{
		"event.name": {handled, ""}, "event.timestamp": {handled, ""}, "session.id": {handled, ""},
		"event.sequence": {clear, ""}, "prompt.id": {clear, ""}, "message.uuid": {clear, ""},
		"tool_name": {clear, "gen_ai.tool.name"}, "tool_use_id": {clear, "gen_ai.tool.call.id"},
		"model": {clear, "gen_ai.request.model"}, "request_id": {clear, "gen_ai.response.id"},
		"input_tokens": {clear, "gen_ai.usage.input_tokens"}, "output_tokens": {clear, "gen_ai.usage.output_tokens"},
		"cache_read_tokens": {clear, "gen_ai.usage.cache_read.input_tokens"}, "cache_creation_tokens": {clear, "gen_ai.usage.cache_creation.input_tokens"},
		"error_type": {clear, "error.type"}, "status_code": {clear, "http.response.status_code"},
		"success": {clear, ""}, "duration_ms": {clear, ""}, "decision_type": {clear, ""}, "decision_source": {clear, ""},
		"decision": {clear, ""}, "source": {clear, ""}, "tool_source": {clear, ""}, "attempt": {clear, ""}, "cost_usd": {clear, ""},
		"speed": {clear, ""}, "effort": {clear, ""}, "query_source": {clear, ""}, "prompt_length": {clear, ""},
		"tool_input_size_bytes": {clear, ""}, "tool_result_size_bytes": {clear, ""}, "mcp_server_scope": {clear, ""},
		"from_mode": {clear, ""}, "to_mode": {clear, ""}, "trigger": {clear, ""}, "status": {clear, ""},
		"transport_type": {clear, ""}, "server_scope": {clear, ""}, "error_code": {clear, ""}, "action": {clear, ""},
		"hook_event": {clear, ""}, "num_hooks": {clear, ""}, "num_success": {clear, ""}, "num_blocking": {clear, ""},
		"num_non_blocking_error": {clear, ""}, "num_cancelled": {clear, ""}, "total_duration_ms": {clear, ""},
		"mention_type": {clear, ""}, "pre_tokens": {clear, ""}, "post_tokens": {clear, ""}, "body_length": {clear, ""},
		"terminal.type": {handled, ""}, "app.version": {clear, ""},
		"prompt": {arguments, ""}, "tool_parameters": {arguments, ""}, "tool_input": {arguments, ""}, "body": {arguments, ""},
		"response": {result, ""}, "error": {withheld, ""}, "body_ref": {withheld, ""}, "hook_definitions": {withheld, ""},
	},
}

var codex = &family{
	conversation: "conversation.id",
	provider:     "openai",
	prefixes:     []prefix{{"codex", "codex"}},
	rows: map[string]row{
		"conversation_starts": {operation: activity.OpAgentEvent},
		"user_prompt":         {operation: activity.OpUserPrompt},
		"tool_decision":       {operation: activity.OpDecideTool, outcome: "codex-decision"},
		"tool_result":         {operation: activity.OpExecuteTool, outcome: "maybe-error"},
		"sandbox_outcome":     {operation: activity.OpAgentEvent, outcome: "codex-sandbox"},
		"api_request":         {operation: activity.OpRequestModel, outcome: "http"},
		"websocket_request":   {operation: activity.OpRequestModel, outcome: "maybe-error"},
		"websocket_connect":   {operation: activity.OpAgentEvent, outcome: "maybe-error"},
		"websocket_event":     {},
		// Only the event that ends an answer; see sseKept.
		"sse_event":     {operation: activity.OpChat, outcome: "maybe-error", model: true},
		"auth_recovery": {operation: activity.OpAgentEvent},
	},
	attributes: map[string]attribute{
		"event.name": {handled, ""}, "event.timestamp": {handled, ""}, "conversation.id": {handled, ""},
		"terminal.type": {handled, ""}, "auth_mode": {handled, ""}, "slug": {clear, ""}, "env": {handled, ""}, "app.version": {clear, ""},
		"tool_name": {clear, "gen_ai.tool.name"}, "call_id": {clear, "gen_ai.tool.call.id"},
		"model": {clear, "gen_ai.request.model"}, "provider_name": {clear, "gen_ai.provider.name"},
		"input_token_count": {clear, "gen_ai.usage.input_tokens"}, "output_token_count": {clear, "gen_ai.usage.output_tokens"},
		"cached_token_count": {clear, "gen_ai.usage.cache_read.input_tokens"}, "reasoning_token_count": {clear, ""}, "tool_token_count": {clear, ""},
		"success": {clear, ""}, "duration_ms": {clear, ""}, "decision": {clear, ""}, "source": {clear, ""}, "attempt": {clear, ""},
		"outcome": {clear, ""}, "initial_duration_ms": {clear, ""}, "escalated_duration_ms": {clear, ""},
		"event.kind": {clear, ""}, "http.response.status_code": {clear, ""}, "endpoint": {clear, ""}, "prompt_length": {clear, ""},
		"approval_policy": {clear, ""}, "sandbox_policy": {clear, ""}, "reasoning_effort": {clear, ""}, "reasoning_summary": {clear, ""},
		"context_window": {clear, ""}, "mcp_server": {clear, ""}, "error.type": {clear, ""},
		"auth.mode": {clear, ""}, "auth.step": {clear, ""}, "auth.outcome": {clear, ""},
		"prompt": {arguments, ""}, "arguments": {arguments, ""}, "output": {result, ""},
		"error.message": {withheld, ""}, "mcp_servers": {withheld, ""}, "mcp_server_origin": {withheld, ""},
	},
}

var gemini = &family{
	conversation: "session.id",
	provider:     "gcp.gen_ai",
	prefixes: []prefix{
		{"gemini_cli", "gemini-cli"}, {"qwen-code", "qwen-code"}, {"tabnine_cli", "tabnine-cli"}, {"tabnine-cli", "tabnine-cli"},
	},
	rows: map[string]row{
		"config":                     {operation: activity.OpAgentEvent},
		"user_prompt":                {operation: activity.OpUserPrompt},
		"tool_call":                  {operation: activity.OpExecuteTool, outcome: "gemini-tool"},
		"api_request":                {operation: activity.OpRequestModel},
		"api_response":               {operation: activity.OpChat, model: true},
		"api_error":                  {operation: activity.OpChat, outcome: "error", model: true},
		"file_operation":             {}, // by a tool that has its own tool_call
		"tool_output_truncated":      {},
		"edit_strategy":              {},
		"edit_correction":            {},
		"next_speaker_check":         {},
		"slash_command":              {operation: activity.OpAgentEvent, outcome: "status"},
		"slash_command.model":        {operation: activity.OpAgentEvent},
		"model_routing":              {operation: activity.OpAgentEvent},
		"flash_fallback":             {operation: activity.OpAgentEvent},
		"ripgrep_fallback":           {},
		"web_fetch_fallback_attempt": {operation: activity.OpAgentEvent},
		"malformed_json_response":    {operation: activity.OpAgentEvent, outcome: "error"},
		"chat_compression":           {operation: activity.OpAgentEvent},
		"chat.invalid_chunk":         {},
		"chat.content_retry":         {},
		"chat.content_retry_failure": {operation: activity.OpAgentEvent, outcome: "error"},
		"conversation_finished":      {kind: activity.TurnEnd},
		"extension_install":          {operation: activity.OpAgentEvent, outcome: "status"},
		"extension_uninstall":        {operation: activity.OpAgentEvent, outcome: "status"},
		"extension_enable":           {operation: activity.OpAgentEvent},
		"extension_disable":          {operation: activity.OpAgentEvent},
		"extension_update":           {operation: activity.OpAgentEvent, outcome: "status"},
		"agent.start":                {operation: activity.OpAgentEvent},
		"agent.finish":               {operation: activity.OpInvokeAgent, outcome: "gemini-agent"},
		"ide_connection":             {},
	},
	attributes: map[string]attribute{
		"event.name": {handled, ""}, "event.timestamp": {handled, ""}, "session.id": {handled, ""},
		"auth_type": {handled, ""}, "interactive": {handled, ""}, "active_approval_mode": {clear, ""},
		"function_name": {clear, "gen_ai.tool.name"}, "call_id": {clear, "gen_ai.tool.call.id"}, "tool_type": {clear, "gen_ai.tool.type"},
		"model": {clear, "gen_ai.request.model"}, "response_id": {clear, "gen_ai.response.id"},
		"finish_reasons":    {clear, "gen_ai.response.finish_reasons"},
		"input_token_count": {clear, "gen_ai.usage.input_tokens"}, "output_token_count": {clear, "gen_ai.usage.output_tokens"},
		"cached_content_token_count": {clear, "gen_ai.usage.cache_read.input_tokens"}, "thoughts_token_count": {clear, ""},
		"tool_token_count": {clear, ""}, "total_token_count": {clear, ""},
		"error_type": {clear, "error.type"}, "error.type": {clear, ""}, "status_code": {clear, "http.response.status_code"},
		"success": {clear, ""}, "status": {clear, ""}, "duration_ms": {clear, ""}, "decision": {clear, ""}, "prompt_id": {clear, ""},
		"prompt_length": {clear, ""}, "mcp_server_name": {clear, ""}, "extension_name": {clear, ""}, "extension_version": {clear, ""},
		"approval_mode": {clear, ""}, "sandbox_enabled": {clear, ""}, "core_tools_enabled": {clear, ""}, "output_format": {clear, ""},
		"agent_id": {clear, "gen_ai.agent.id"}, "agent_name": {clear, "gen_ai.agent.name"}, "terminate_reason": {clear, ""}, "turn_count": {clear, ""},
		"decision_model": {clear, ""}, "decision_source": {clear, ""}, "model_name": {clear, ""}, "reason": {clear, ""},
		"prompt": {arguments, ""}, "function_args": {arguments, ""}, "request_text": {arguments, ""},
		"response_text": {result, ""}, "error": {withheld, ""}, "error.message": {withheld, ""}, "metadata": {withheld, ""},
		"command": {withheld, ""}, "subcommand": {withheld, ""}, "mcp_servers": {withheld, ""}, "reasoning": {withheld, ""},
	},
}

var families = []*family{claudeCode, codex, gemini}

// duplicates are events beside the tables that repeat what a span or a tabled event
// reports. Kept, they would count every call twice.
var duplicates = map[string]bool{
	"gen_ai.client.inference.operation.details": true, // Copilot Chat's chat span, Gemini CLI's api_response
	"copilot_chat.tool.call":                    true, // Copilot Chat's execute_tool span
	"copilot_chat.session.start":                true, // its invoke_agent span
	"copilot_chat.agent.turn":                   true,
}

// sseKept reports whether a codex.sse_event ends an answer, or fails.
func sseKept(get func(string) string) bool {
	return get("event.kind") == "response.completed" || get("error.message") != ""
}
