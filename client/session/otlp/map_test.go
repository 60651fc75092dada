package otlp

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/log/record"
)

func newMapper() *Mapper { return &Mapper{Hasher: activity.NewHasher(make([]byte, 32))} }

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// mapFile maps a file of OTLP/JSON, directly and through the binary encoding, which must give the same.
func mapFile(t testing.TB, m *Mapper, name string) ([]activity.Event, []activity.Edge) {
	t.Helper()
	b := read(t, name)
	var events, again []activity.Event
	var edges []activity.Edge
	if strings.HasSuffix(name, ".traces.json") {
		td, err := DecodeTraces(b, true)
		if err != nil {
			t.Fatal(err)
		}
		var rejected int
		if events, edges, rejected = m.Spans(td); rejected != 0 {
			t.Fatalf("%d spans rejected", rejected)
		}
		p, err := proto.Marshal(td)
		if err != nil {
			t.Fatal(err)
		}
		if td, err = DecodeTraces(p, false); err != nil {
			t.Fatal(err)
		}
		again, _, _ = (&Mapper{Hasher: m.Hasher}).Spans(td)
	} else {
		ld, err := DecodeLogs(b, true)
		if err != nil {
			t.Fatal(err)
		}
		var rejected int
		if events, rejected = m.Logs(ld); rejected != 0 {
			t.Fatalf("%d records rejected", rejected)
		}
		p, err := proto.Marshal(ld)
		if err != nil {
			t.Fatal(err)
		}
		if ld, err = DecodeLogs(p, false); err != nil {
			t.Fatal(err)
		}
		again, _ = (&Mapper{Hasher: m.Hasher}).Logs(ld)
	}
	if a, b := fmt.Sprint(events), fmt.Sprint(again); a != b {
		t.Errorf("%s: JSON and protobuf give different events:\n%s\n%s", name, a, b)
	}
	return events, edges
}

// line is what the tests compare of an event.
func line(e activity.Event) string {
	kind := map[activity.Kind]string{activity.Open: " open", activity.TurnEnd: " turn-end", activity.Close: " close"}[e.Kind]
	what := ""
	for _, k := range []string{"event.name", "gen_ai.tool.name", "gen_ai.request.model"} {
		if v, ok := e.Attributes[k]; ok {
			what += fmt.Sprintf(" %v", v)
			break
		}
	}
	content := ""
	if e.Arguments != nil {
		content += " args"
	}
	if e.Result != nil {
		content += " result"
	}
	return e.Agent + " " + e.Operation + what + " " + e.Outcome + content + kind
}

// Change a row of a table, an outcome rule or the class of an attribute, and this fails.
func TestAgents(t *testing.T) {
	gemini := func(agent string) []string {
		var l []string
		for _, s := range []string{
			"agent_event config executed",
			"user_prompt executed args",
			"request_model gemini-2.5-pro executed args",
			"chat gemini-2.5-pro executed result",
			"execute_tool run_shell_command executed args",
			"execute_tool write_file denied args",
			"execute_tool github.create_issue errored args",
			"chat gemini-2.5-pro timed_out",
			"invoke_agent executed",
			" executed turn-end",
			"agent_event novelty executed",
		} {
			l = append(l, agent+" "+s)
		}
		return l
	}
	for file, want := range map[string][]string{
		"copilot-chat.traces.json": {
			"copilot-chat chat gpt-4o executed args",
			"copilot-chat execute_tool readFile executed args result",
			"copilot-chat chat gpt-4o executed",
			"copilot-chat execute_tool searchFiles errored",
			"copilot-chat invoke_agent executed",
			"copilot-chat execute_tool runSubagent executed",
			"copilot-chat execute_tool fetch blocked",
			"copilot-chat execute_tool slow timed_out",
			"copilot-chat invoke_agent gpt-4o executed close",
		},
		"claude-code.logs.json": {
			"claude-code user_prompt executed args",
			"claude-code chat claude-sonnet-4-6 executed",
			"claude-code decide_tool Bash executed",
			"claude-code execute_tool Bash executed args",
			"claude-code decide_tool Write denied",
			"claude-code decide_tool Bash blocked",
			"claude-code execute_tool Read errored",
			"claude-code chat claude-sonnet-4-6 errored",
			"claude-code agent_event compaction executed",
			"claude-code agent_event some_future_event executed",
		},
		"codex.logs.json": {
			"codex agent_event conversation_starts executed",
			"codex user_prompt gpt-5-codex executed args",
			"codex request_model gpt-5-codex executed",
			"codex chat gpt-5-codex executed",
			"codex decide_tool shell executed",
			"codex execute_tool shell executed args result",
			"codex decide_tool shell denied",
			"codex decide_tool shell blocked",
			"codex execute_tool shell errored args result",
			"codex agent_event sandbox_outcome blocked",
			"codex request_model gpt-5-codex errored",
			"codex chat gpt-5-codex errored",
			"codex agent_event brand_new executed",
		},
		"gemini-cli.logs.json":  gemini("gemini-cli"),
		"tabnine-cli.logs.json": gemini("tabnine-cli"),
		"qwen-code.logs.json":   gemini("qwen-code"),
	} {
		t.Run(file, func(t *testing.T) {
			m := newMapper()
			events, _ := mapFile(t, m, file)
			var got []string
			for _, e := range events {
				got = append(got, line(e))
			}
			if !slices.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			wantUnknown := uint64(1)
			if strings.HasPrefix(file, "copilot") {
				wantUnknown = 0
			}
			if got := m.Counts()[CountUnknown]; got != wantUnknown {
				t.Errorf("%d unknown events counted, want %d", got, wantUnknown)
			}
			for _, e := range events {
				checkDocument(t, e)
			}
		})
	}
}

// document is the action document that a session makes of an event.
func document(t testing.TB, e activity.Event) ([]byte, error) {
	t.Helper()
	attributes := make(map[string]any)
	for k, v := range e.Attributes {
		if session.IsContent(k) {
			attributes[k+".sha256"] = strings.Repeat("0", 64)
			continue
		}
		attributes[k] = v
	}
	attributes[record.AttrOperationName] = e.Operation
	a := record.Action{Time: time.Unix(1, 0).UTC(), Outcome: e.Outcome, Attributes: attributes, TraceID: [16]byte{1}, SpanID: [8]byte{1}}
	return a.Marshal()
}

// checkDocument checks that the event makes a document, and that no content is in it.
// Every content of the fixtures has SECRET in it.
func checkDocument(t testing.TB, e activity.Event) {
	t.Helper()
	if e.Operation == "" {
		return
	}
	doc, err := document(t, e)
	if err != nil {
		t.Errorf("%s: %v", line(e), err)
	}
	if i := bytes.Index(doc, []byte("SECRET")); i >= 0 {
		t.Errorf("%s: content in the clear: %s", line(e), doc)
	}
}

func TestContentAndIDs(t *testing.T) {
	events, edges := mapFile(t, newMapper(), "copilot-chat.traces.json")
	chat, tool := events[0], events[1]
	if got := string(chat.Arguments); got != `[{"role":"user","content":"SECRET-PROMPT"}]` {
		t.Errorf("arguments %s are not the prompt's own bytes", got)
	}
	if got := chat.Attributes["gen_ai.system_instructions"]; got != "SECRET-SYSTEM" || !session.IsContent("gen_ai.system_instructions") {
		t.Errorf("system instructions %v are not left to package session to digest", got)
	}
	if got := fmt.Sprint(tool.Attributes[activity.AttrWithheld]); got != "[gen_ai.tool.description]" {
		t.Errorf("withheld %s", got)
	}
	if got := fmt.Sprintf("%x %x %x", tool.Trace, tool.Span, tool.Parent); got != "5b8efff798038103d269b633813fc60c 0000000000000003 0000000000000001" {
		t.Errorf("ids %s", got)
	}
	if tool.CallID != "call_readFile" || tool.Conversation != "" || chat.Conversation != "a1b2c3d4-0000-4000-8000-00000000c0de" {
		t.Errorf("call %q, conversations %q and %q", tool.CallID, tool.Conversation, chat.Conversation)
	}
	if n := chat.Attributes["gen_ai.usage.input_tokens"]; n != int64(1500) {
		t.Errorf("input tokens %v", n)
	}
	if v := chat.Attributes["gen_ai.request.temperature"]; v != "0.1" {
		t.Errorf("temperature %v, want it as a string", v)
	}
	if len(edges) != 1 || edges[0].Parent != [8]byte{7: 3} {
		t.Errorf("edges %v, want that of the HTTP span", edges)
	}
	claude, _ := mapFile(t, newMapper(), "claude-code.logs.json")
	if n := claude[1].Attributes["gen_ai.usage.output_tokens"]; n != int64(88) {
		t.Errorf("output tokens %v: a number that comes as text is one", n)
	}
	if p := claude[1].Attributes["gen_ai.provider.name"]; p != "anthropic" {
		t.Errorf("provider %v", p)
	}
	for _, e := range claude {
		if e.Conversation != "6f1c9a52-7a0f-4d62-9b0c-3f1f2e0b8a11" {
			t.Errorf("conversation %q", e.Conversation)
		}
	}
}

// The same record again has the same key, another record another one.
func TestKeys(t *testing.T) {
	seen := make(map[activity.Key]string)
	for _, file := range []string{"copilot-chat.traces.json", "claude-code.logs.json", "codex.logs.json", "gemini-cli.logs.json"} {
		m := newMapper()
		events, _ := mapFile(t, m, file)
		again, _ := mapFile(t, m, file)
		for i, e := range events {
			if e.Key != again[i].Key {
				t.Errorf("%s: key differs when it is sent again", line(e))
			}
			if other, twice := seen[e.Key]; twice {
				t.Errorf("%s and %s have the same key", line(e), other)
			}
			seen[e.Key] = line(e)
		}
	}
	other := &Mapper{Hasher: activity.NewHasher(bytes.Repeat([]byte{1}, 32))}
	events, _ := mapFile(t, other, "claude-code.logs.json")
	if _, same := seen[events[0].Key]; same {
		t.Error("a key doesn't depend on the secret: it would confirm guesses of content")
	}
}
