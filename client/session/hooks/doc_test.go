package hooks

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/session/activity"
)

// HOOKS.md has exactly the rows of the tables.
func TestHooksDocument(t *testing.T) {
	b, err := os.ReadFile("HOOKS.md")
	if err != nil {
		t.Fatal(err)
	}
	for agent, title := range map[string]string{"cursor": "Cursor", "windsurf": "Windsurf Cascade", "claude-code": "Claude Code"} {
		_, text, ok := strings.Cut(string(b), "\n## "+title+"\n")
		if !ok {
			t.Fatalf("no section %s", title)
		}
		text, _, _ = strings.Cut(text, "\n## ")
		var got, want []string
		for l := range strings.Lines(text) {
			if strings.HasPrefix(l, "| `") {
				got = append(got, strings.TrimSpace(l))
			}
		}
		ag := agents[agent]
		for name, r := range ag.rows {
			code := func(l []string) string {
				if len(l) == 0 {
					return ""
				}
				return "`" + strings.Join(l, "` `") + "`"
			}
			var what []string
			if r.operation != "" {
				what = append(what, "`"+r.operation+"`")
			}
			if k, ok := map[activity.Kind]string{activity.Open: "opens the session", activity.TurnEnd: "ends a turn", activity.Close: "ends the session"}[r.kind]; ok {
				what = append(what, k)
			}
			installed := ""
			if slices.Contains(ag.ours, name) {
				installed = "yes"
			}
			want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s | %s |", name, strings.Join(what, ", "), code(r.arguments), code(r.result), installed))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("section %s has\n%s\nthe table has\n%s", title, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if !strings.Contains(text, "`"+ag.conversation+"`") {
			t.Errorf("section %s doesn't name %s", title, ag.conversation)
		}
	}
}
