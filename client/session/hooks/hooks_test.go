package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/client/session/hooks/send"
	"github.com/affidavit-log/affidavit/log/record"
)

func lines(t testing.TB, agent string) [][]byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + agent + ".ndjson")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(b), []byte("\n"))
}

func line(e activity.Event) string {
	kind := map[activity.Kind]string{activity.Open: " open", activity.TurnEnd: " turn-end", activity.Close: " close " + e.EndReason}[e.Kind]
	tool := ""
	if v, ok := e.Attributes["gen_ai.tool.name"]; ok {
		tool = fmt.Sprintf(" %v", v)
	}
	return fmt.Sprintf("%v: %s%s %s [%s] [%s]%s", e.Attributes["event.name"], e.Operation, tool, e.Outcome, e.Arguments, e.Result, kind)
}

// Change a row of a table, and this fails.
func TestReplay(t *testing.T) {
	for agent, want := range map[string][]string{
		"cursor": {
			"beforeSubmitPrompt: user_prompt executed [SECRET prompt] []",
			"beforeReadFile: request_tool read_file executed [/SECRET/main.go] [package SECRET]",
			"beforeShellExecution: request_tool shell executed [git status SECRET] []",
			"afterShellExecution: execute_tool shell executed [git status SECRET] [SECRET output]",
			`beforeMCPExecution: request_tool create_issue executed [{"title":"SECRET"}] []`,
			`afterMCPExecution: execute_tool create_issue executed [{"title":"SECRET"}] [{"ok":"SECRET"}]`,
			`afterFileEdit: execute_tool edit_file executed [{"edits":[{"old_string":"SECRET","new_string":"SECRET2"}],"file_path":"/SECRET/main.go"}] []`,
			`postToolUseFailure: execute_tool Shell timed_out [{"command":"SECRET"}] [SECRET]`,
			`postToolUseFailure: execute_tool Shell blocked [{"command":"SECRET"}] [SECRET]`,
			"subagentStop: invoke_agent executed [SECRET] [SECRET]",
			"somethingNew: agent_event executed [] []",
			"stop: agent_event executed [] [] turn-end",
			"sessionEnd:  executed [] [] close completed",
		},
		"windsurf": {
			"pre_user_prompt: user_prompt executed [SECRET] []",
			"pre_read_code: request_tool read_code executed [/SECRET/a.py] []",
			"post_read_code: execute_tool read_code executed [/SECRET/a.py] []",
			`pre_write_code: request_tool write_code executed [{"edits":[{"old_string":"SECRET","new_string":"x"}],"file_path":"/SECRET/a.py"}] []`,
			`post_write_code: execute_tool write_code executed [{"edits":[{"old_string":"SECRET","new_string":"x"}],"file_path":"/SECRET/a.py"}] []`,
			"pre_run_command: request_tool run_command executed [npm install SECRET] []",
			"post_run_command: execute_tool run_command executed [npm install SECRET] []",
			`pre_mcp_tool_use: request_tool list_commits executed [{"owner":"SECRET","perPage":1}] []`,
			`post_mcp_tool_use: execute_tool list_commits executed [{"owner":"SECRET","perPage":1}] [SECRET]`,
			"post_setup_worktree: agent_event executed [] []",
			"post_teleport: agent_event executed [] []",
			"post_cascade_response: agent_event executed [] [SECRET response] turn-end",
		},
		"claude-code": {
			"SessionStart:  executed [] [] open",
			"UserPromptSubmit: user_prompt executed [SECRET] []",
			`PreToolUse: request_tool Bash executed [{"command":"ls SECRET","description":"SECRET"}] []`,
			`PostToolUse: execute_tool Bash executed [{"command":"ls SECRET","description":"SECRET"}] [{"stdout":"SECRET","stderr":"","interrupted":false,"isImage":false}]`,
			`PreToolUse: request_tool mcp__github__create_issue executed [{"title":"SECRET"}] []`,
			`PostToolUseFailure: execute_tool mcp__github__create_issue errored [{"title":"SECRET"}] [SECRET]`,
			"SubagentStop: invoke_agent executed [] [SECRET]",
			"Elicitation: agent_event executed [] []",
			"Stop: agent_event executed [] [SECRET] turn-end",
			"SessionEnd:  executed [] [] close completed",
		},
	} {
		t.Run(agent, func(t *testing.T) {
			var got []string
			unknown := 0
			for _, l := range lines(t, agent) {
				e, known, err := Parse(agent, l)
				if err != nil {
					t.Fatalf("%s: %v", l, err)
				}
				if !known {
					unknown++
				}
				if e.Agent != agent || len(e.Conversation) != 36 {
					t.Errorf("agent %q, conversation %q", e.Agent, e.Conversation)
				}
				got = append(got, line(e))
				checkDocument(t, e)
			}
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if unknown != 1 {
				t.Errorf("%d unknown events, want 1", unknown)
			}
			for _, name := range agents[agent].ours {
				if _, ok := agents[agent].rows[name]; !ok {
					t.Errorf("%s is installed and has no row", name)
				}
			}
		})
	}
}

// checkDocument checks that the event makes an action document without content: all
// content of the fixtures has SECRET in it.
func checkDocument(t testing.TB, e activity.Event) {
	t.Helper()
	attributes := maps.Clone(e.Attributes)
	if attributes == nil {
		attributes = map[string]any{}
	}
	attributes[record.AttrOperationName] = "x"
	a := record.Action{Time: time.Unix(1, 0).UTC(), Outcome: activity.Executed, Attributes: attributes, TraceID: [16]byte{1}, SpanID: [8]byte{1}}
	doc, err := a.Marshal()
	if err != nil {
		t.Errorf("%s: %v", line(e), err)
	}
	if bytes.Contains(doc, []byte("SECRET")) {
		t.Errorf("content in the clear: %s", doc)
	}
	if e.Operation != "" && !activity.IsOutcome(e.Outcome) {
		t.Errorf("%s: not an outcome", line(e))
	}
}

func TestMalformed(t *testing.T) {
	good := string(lines(t, "cursor")[2])
	if _, _, err := Parse("cursor", []byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{
		"no event name":   strings.Replace(good, "hook_event_name", "hook", 1),
		"no conversation": strings.Replace(good, "conversation_id", "conversation", 1),
		"member twice":    strings.Replace(good, `"sandbox":false`, `"conversation_id":"other"`, 1),
		"truncated":       good[:len(good)-1],
		"more after it":   good + `{}`,
		"a list":          "[" + good + "]",
		"empty":           "",
		"not UTF-8":       strings.Replace(good, "SECRET", "\xff", 1),
		"nested deep":     strings.Replace(good, "false", strings.Repeat("[", 100)+strings.Repeat("]", 100), 1),
		"too large":       good + strings.Repeat(" ", send.MaxEvent),
	} {
		if e, _, err := Parse("cursor", []byte(b)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v; want ErrMalformed", name, e, err)
		} else if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error quotes content: %v", name, err)
		}
	}
	if _, _, err := Parse("emacs", []byte(good)); !errors.Is(err, ErrMalformed) {
		t.Errorf("unknown agent: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, agent := range Agents() {
		for _, l := range lines(f, agent) {
			f.Add(agent, l)
		}
	}
	f.Fuzz(func(t *testing.T, agent string, b []byte) {
		e, _, err := Parse(agent, b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error that isn't ErrMalformed: %v", err)
			}
			return
		}
		if e.Conversation == "" || e.Source != activity.SourceHook {
			t.Errorf("event without conversation or source: %+v", e)
		}
		attributes := maps.Clone(e.Attributes)
		attributes[record.AttrOperationName] = "x"
		a := record.Action{Time: time.Unix(1, 0).UTC(), Outcome: activity.Executed, Attributes: attributes, TraceID: [16]byte{1}, SpanID: [8]byte{1}}
		if _, err := a.Marshal(); err != nil {
			t.Errorf("event that no document can say: %v\n%+v", err, e)
		}
		again, _, err := Parse(agent, b)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(e) {
			t.Errorf("the same event mapped in two ways: %+v, %+v", e, again)
		}
	})
}
