package main

import (
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What the manuals tell people to type must work: every command and flag in them exists.
func TestRoleManuals(t *testing.T) {
	for _, r := range roleManuals {
		status, page, stderr := runCommand(t, "help", r.name)
		if status != exitGood || stderr != "" || !strings.Contains(page, r.text) {
			t.Errorf("help %s: status %d, %s", r.name, status, stderr)
		}
		n := 0
		for line := range strings.Lines(r.text) {
			if len(line) > 101 {
				t.Errorf("a line of %d characters: %s", len(line), line)
			}
		}
		for line := range strings.Lines(strings.ReplaceAll(r.text, "\\\n", "")) {
			args, ok := strings.CutPrefix(line, "  affidavit ")
			if !ok {
				continue
			}
			n++
			cmd, rest, err := find(strings.Fields(strings.Split(args, " > ")[0]))
			if err != nil {
				t.Errorf("%s: %v", line, err)
				continue
			}
			fs, _ := cmd.flags()
			if err := fs.Parse(rest); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			if got := fs.NArg(); got < cmd.minArgs || got > cmd.maxArgs {
				t.Errorf("%s: %d arguments", line, got)
			}
		}
		if n < 2 {
			t.Errorf("help %s has %d examples", r.name, n)
		}
	}
}

// The manual pages have everything that the help pages have, and no line of text is
// taken for a request.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if status, _, stderr := runCommand(t, "help", "--man", dir); status != exitGood {
		t.Fatal(stderr)
	}
	pages := manPages()
	macros := regexp.MustCompile(`^\.(TH|SH|TP|B|BI|BR|br|nf|fi)( |$)`)
	for _, cmd := range commands() {
		page := pages[manName(cmd)+".1"]
		for _, name := range flagsOf(cmd) {
			if !strings.Contains(page, roff("--"+name)) {
				t.Errorf("the page of %s doesn't have --%s", cmd.name, name)
			}
		}
		if !strings.Contains(pages["affidavit.1"], roff(manName(cmd))) {
			t.Errorf("affidavit.1 doesn't name %s", manName(cmd))
		}
		for line := range strings.Lines(page) {
			if strings.HasPrefix(line, ".") && !macros.MatchString(strings.TrimRight(line, "\n")) || strings.HasPrefix(line, "'") {
				t.Errorf("%s: %q would be a request", cmd.name, line)
			}
		}
	}
	for in, want := range map[string]string{".so x": `\&.so x`, "'x": `\&'x`, `a\b`: `a\eb`, "--x": `\-\-x`} {
		if got := roff(in); got != want {
			t.Errorf("roff(%q) = %q, want %q", in, got, want)
		}
	}
}

// Whatever a command has, each shell completes.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		status, script, stderr := runCommand(t, "completion", shell)
		if status != exitGood || stderr != "" {
			t.Fatalf("%s: status %d, %s", shell, status, stderr)
		}
		for _, cmd := range commands() {
			for _, word := range strings.Fields(cmd.name) {
				if !strings.Contains(script, word) {
					t.Errorf("%s: no %s", shell, word)
				}
			}
			for _, name := range flagsOf(cmd) {
				flag := map[string]string{"bash": "--" + name, "zsh": "--" + name + "[", "fish": "-l " + name + " "}[shell]
				if !strings.Contains(script, flag) {
					t.Errorf("%s: no --%s of %s", shell, name, cmd.name)
				}
			}
		}
		if path, err := exec.LookPath(shell); err == nil {
			check := exec.Command(path, "-n")
			check.Stdin = strings.NewReader(script)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s -n: %v: %s", shell, err, out)
			}
		}
	}
}

// TestCompletionBash asks a real shell.
func TestCompletionBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	_, script, _ := runCommand(t, "completion", "bash")
	for _, tt := range []struct {
		words string // the last one is completed
		want  []string
	}{
		{"affidavit ver", []string{"verify", "verify-page", "version"}},
		{"affidavit log-policy ", []string{"check"}},
		{"affidavit log-policy check --j", []string{"--json"}},
		{"affidavit export --fo", []string{"--follow", "--format"}},
		{"affidavit help aud", []string{"auditor"}},
		{"affidavit completion z", []string{"zsh"}},
		{"affidavit verify sess", nil}, // the shell's own names of files
	} {
		run := script + "\nCOMP_WORDS=("
		for _, w := range strings.Split(tt.words, " ") {
			run += shellQuoted(w) + " "
		}
		run += ")\nCOMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_affidavit\nprintf '%s\\n' \"${COMPREPLY[@]}\"\n"
		out, err := exec.Command(bash, "--norc", "-c", run).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := strings.Fields(string(out)); !slices.Equal(slices.Sorted(slices.Values(got)), tt.want) {
			t.Errorf("%q completes to %v, want %v", tt.words, got, tt.want)
		}
	}
}
