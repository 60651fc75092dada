package hooks

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const command = "/usr/local/bin/affidavit record hook --agent "

// users have hooks of their own, in the formats of the agents' documentation.
var users = map[string]string{
	"cursor": `{
  "version": 1,
  "hooks": {
    "stop": [
      {
        "command": "./hooks/audit.sh"
      }
    ],
    "afterFileEdit": [
      {
        "command": "./hooks/format.sh --with affidavit record hook --agent cursor",
        "timeout": 30
      }
    ],
    "beforeTabFileRead": []
  }
}
`,
	"windsurf": `{
  "hooks": {
    "pre_read_code": [
      {
        "command": "python3 /path/to/your/script.py",
        "show_output": true
      }
    ]
  }
}
`,
	"claude-code": `{
  "model": "opus",
  "permissions": {
    "allow": [
      "Bash(npm run test:*)"
    ],
    "weight": 1.50e1
  },
  "hooks": {
    "PreToolUse": [
      {
        "matcher": "Bash",
        "hooks": [
          {
            "type": "command",
            "command": "~/bin/check \"$CLAUDE_PROJECT_DIR\""
          }
        ]
      }
    ]
  },
  "env": {
    "FOO": "<&>"
  }
}
`,
}

func TestEdit(t *testing.T) {
	for _, agent := range Agents() {
		t.Run(agent, func(t *testing.T) {
			for name, before := range map[string]string{"no file": "", "the user's": users[agent]} {
				with, err := Edit(agent, []byte(before), command+agent)
				if err != nil {
					t.Fatal(err)
				}
				if n := strings.Count(string(with), `"`+command+agent+`"`); n != len(agents[agent].ours) {
					t.Errorf("%s: %d hooks, want %d:\n%s", name, n, len(agents[agent].ours), with)
				}
				twice, err := Edit(agent, with, command+agent)
				if err != nil || string(twice) != string(with) {
					t.Errorf("%s: installing twice isn't the same as once (%v):\n%s", name, err, cmp.Diff(string(with), string(twice)))
				}
				moved, err := Edit(agent, with, "'/opt/my tools/affidavit' record hook --agent "+agent+" --socket /s")
				if err != nil || strings.Contains(string(moved), "/usr/local/bin") || !strings.Contains(string(moved), "my tools") {
					t.Errorf("%s: an installation elsewhere didn't replace this one (%v):\n%s", name, err, moved)
				}
				after, err := Edit(agent, moved, "")
				if err != nil || string(after) != before {
					t.Errorf("%s: uninstalling doesn't restore the file (%v):\n%s", name, err, cmp.Diff(before, string(after)))
				}
			}
			// Somebody else's hook beside ours in one group stays.
			if agent == "claude-code" {
				both := `{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"x"},{"type":"command","command":"` + command + agent + `"}]}]}}`
				after, err := Edit(agent, []byte(both), "")
				if err != nil || !strings.Contains(string(after), `"x"`) || strings.Contains(string(after), "affidavit") {
					t.Errorf("%v: %s", err, after)
				}
			}
			for _, bad := range []string{"{", "[]", `{"hooks":[]}`, `{"hooks":{"stop":{}}}`, "// comment\n{}", `{"hooks":{},"hooks":{}}`} {
				if out, err := Edit(agent, []byte(bad), command+agent); err == nil {
					t.Errorf("%s was edited to %s", bad, out)
				}
			}
		})
	}
}

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	path, err := ConfigPath("claude-code", ScopeProject, dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, ".claude", "settings.json"); path != want {
		t.Errorf("path %s, want %s", path, want)
	}
	if err := Install("claude-code", path, Command("/x/affidavit", "claude-code", "")); err != nil {
		t.Fatal(err)
	}
	if err := Install("claude-code", path, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the file that we made is still there: %v", err)
	}
	if err := Install("claude-code", path, ""); err != nil {
		t.Errorf("uninstalling what isn't there: %v", err)
	}

	// A file behind a link keeps its mode, and the link stays one.
	real := filepath.Join(dir, "real.json")
	if err := os.WriteFile(real, []byte(users["claude-code"]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, path); err != nil {
		t.Fatal(err)
	}
	if err := Install("claude-code", path, Command("/x/affidavit", "claude-code", "/run/s")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v", err)
	}
	info, err := os.Stat(real)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	b, err := os.ReadFile(real)
	if err != nil || !strings.Contains(string(b), "--socket /run/s") {
		t.Errorf("%v: %s", err, b)
	}

	// What can't be understood is left as it is.
	if err := os.WriteFile(real, []byte("{ // my notes\n}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Install("claude-code", path, Command("/x/affidavit", "claude-code", "")); err == nil {
		t.Error("a file with comments was rewritten")
	}
	if b, _ := os.ReadFile(real); string(b) != "{ // my notes\n}" {
		t.Errorf("the file is now %q", b)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
}

// What is installed is removed again, and nothing else changes.
func FuzzEdit(f *testing.F) {
	for agent, c := range users {
		f.Add(agent, []byte(c))
	}
	f.Fuzz(func(t *testing.T, agent string, config []byte) {
		without, err := Edit(agent, config, "")
		if err != nil {
			return
		}
		with, err := Edit(agent, without, command+agent)
		if err != nil {
			t.Fatalf("%v: %s", err, without)
		}
		after, err := Edit(agent, with, "")
		if err != nil {
			t.Fatal(err)
		}
		again, err := Edit(agent, after, "")
		if err != nil || string(again) != string(after) {
			t.Errorf("uninstalling twice: %v\n%s\n%s", err, after, again)
		}
		if strings.Contains(string(after), command+agent+`"`) && !strings.Contains(string(config), command+agent) {
			t.Errorf("our hook is still there: %s", after)
		}
	})
}

// TestCommandSmall: agents run affidavit-hook if it lies beside affidavit and can be run; its entries are taken out
// again, and take the place of those that an installation without it made.
func TestCommandSmall(t *testing.T) {
	dir := t.TempDir()
	path, small := filepath.Join(dir, "affidavit"), filepath.Join(dir, "affidavit-hook")
	if got, want := Command(path, "cursor", ""), path+" record hook --agent cursor"; got != want {
		t.Errorf("without it: %q, want %q", got, want)
	}
	if err := os.WriteFile(small, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := Command(path, "cursor", ""); strings.Contains(got, small) {
		t.Errorf("a file that can't be run: %q", got)
	}
	if err := os.Chmod(small, 0o755); err != nil {
		t.Fatal(err)
	}
	got := Command(path, "cursor", "/run/s")
	if want := small + " --agent cursor --socket /run/s"; got != want {
		t.Errorf("with it: %q, want %q", got, want)
	}
	before, err := Edit("cursor", nil, path+" record hook --agent cursor")
	if err != nil {
		t.Fatal(err)
	}
	after, err := Edit("cursor", before, got)
	if err != nil || bytes.Contains(after, []byte("record hook")) || bytes.Count(after, []byte(small)) != len(agents["cursor"].ours) {
		t.Errorf("%v: %s", err, after)
	}
	empty, err := Edit("cursor", after, "")
	if err != nil || bytes.Contains(empty, []byte("affidavit")) {
		t.Errorf("%v: uninstalling left %s", err, empty)
	}
}

// TestAgents: the agents whose events package send takes are those that this package knows.
func TestAgents(t *testing.T) {
	if got := slices.Sorted(maps.Keys(agents)); !slices.Equal(got, slices.Sorted(slices.Values(Agents()))) {
		t.Errorf("events are sent for %v, and known of %v", Agents(), got)
	}
}
