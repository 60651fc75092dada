package otlp

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// MAPPING.md has exactly the rows of the tables, with their operations and rules.
func TestMappingDocument(t *testing.T) {
	b, err := os.ReadFile("MAPPING.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := make(map[string]string)
	for _, s := range strings.Split(string(b), "\n## ")[1:] {
		title, text, _ := strings.Cut(s, "\n")
		sections[title] = text
	}
	rows := func(title string) []string {
		text, ok := sections[title]
		if !ok {
			t.Fatalf("no section %q", title)
		}
		var l []string
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "| `") {
				l = append(l, strings.TrimSpace(line))
			}
		}
		return l
	}
	for title, f := range map[string]*family{"Claude Code": claudeCode, "Codex": codex, "Gemini CLI and its relatives": gemini} {
		var want []string
		for name, r := range f.rows {
			what := "not kept"
			switch {
			case r.operation != "":
				what = "`" + r.operation + "`"
			case r.kind == activity.TurnEnd:
				what = "the end of a turn"
			}
			rule := " |"
			if r.outcome != "" {
				rule = " `" + r.outcome + "` |"
			}
			want = append(want, fmt.Sprintf("| `%s` | %s |%s", name, what, rule))
			if _, ok := outcomes[r.outcome]; !ok {
				t.Errorf("%s: %s: no rule %q", title, name, r.outcome)
			}
		}
		got := rows(title)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("section %q has\n%s\nthe table has\n%s", title, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for _, p := range f.prefixes {
			if !strings.Contains(sections[title], "`"+p.text+".`") {
				t.Errorf("section %q doesn't name the prefix %s", title, p.text)
			}
		}
		if !strings.Contains(sections[title], "`"+f.conversation+"`") {
			t.Errorf("section %q doesn't name the conversation attribute", title)
		}
	}
	for name := range duplicates {
		if !strings.Contains(sections["Log events that repeat spans"], "| `"+name+"` |") {
			t.Errorf("duplicate %s is not in the document", name)
		}
	}
	for name := range outcomes {
		if name != "" && !strings.Contains(sections["Outcome rules"], "| `"+name+"` |") {
			t.Errorf("rule %s is not in the document", name)
		}
	}
	words := make(map[string][]string)
	for w, o := range activity.ErrorOutcomes() {
		words[o] = append(words[o], "`"+w+"`")
	}
	for _, o := range slices.Sorted(maps.Keys(words)) {
		slices.Sort(words[o])
		if line := "| `" + o + "` | " + strings.Join(words[o], " ") + " |"; !strings.Contains(string(b), line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
}
