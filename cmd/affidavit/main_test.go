package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/client/webui/verifypage"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"affidavit": main,
		// With the clock of the fixtures, for what depends on it.
		"affidavit-then": func() {
			os.Exit(mainAt(func() time.Time { return time.Date(2026, 11, 24, 7, 5, 0, 0, time.UTC) }))
		},
		"affidavit-page":    withModule(standInModule()),
		"affidavit-no-page": withModule(nil, verifypage.ErrNoModule),
	})
}

// TestScripts runs the sessions in testdata. Each has the files of newFixtures
// in its directory, and a log at $LOG.
func TestScripts(t *testing.T) {
	// Scripts run at the same time, and submit changes the log under the others.
	reading, writing := newFixtures(t), newFixtures(t)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"status":   cmdStatus,
			"flip":     cmdFlip,
			"mode":     cmdMode,
			"jsonkeys": cmdJSONKeys,
		},
		Setup: func(e *testscript.Env) error {
			files := reading
			if name := filepath.Base(e.WorkDir); name == "script-submit" || name == "script-release" {
				files = writing
			}
			for name, data := range files.all {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), data, 0o600); err != nil {
					return err
				}
			}
			server := files.serve()
			e.Defer(server.Close)
			e.Setenv("LOG", server.URL)
			for name, value := range files.env {
				e.Setenv(name, value)
			}
			return nil
		},
	})
}

// cmdStatus runs a command and compares its exit status:
//
//	status 4 affidavit appraise …
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE COMMAND ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		e := new(exec.ExitError)
		if !errors.As(err, &e) {
			ts.Fatalf("%v", err)
		}
		got = e.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
	// Scripts have no terminal, so nothing may try to steer one. A bundle on
	// stdout isn't text.
	if out := ts.ReadFile("stdout") + ts.ReadFile("stderr"); utf8.ValidString(out) && strings.ContainsAny(out, "\x1b\r") {
		ts.Fatalf("control characters without a terminal: %q", out)
	}
}

// cmdFlip copies a file with one bit changed: flip FROM OFFSET TO. A negative
// offset counts from the end.
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: flip FROM OFFSET TO")
	}
	b := []byte(ts.ReadFile(args[0]))
	i, err := strconv.Atoi(args[1])
	ts.Check(err)
	if i < 0 {
		i += len(b)
	}
	b[i] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b, 0o600))
}

// cmdMode checks the permissions of a file: mode FILE 0600.
func cmdMode(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: mode FILE MODE")
	}
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// cmdJSONKeys checks that every line of stdout is an object with exactly the
// given members: the shape that scripts depend on.
func cmdJSONKeys(ts *testscript.TestScript, neg bool, args []string) {
	slices.Sort(args)
	for line := range strings.Lines(ts.ReadFile("stdout")) {
		var v map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			ts.Fatalf("%v in %s", err, line)
		}
		var got []string
		for k := range v {
			got = append(got, k)
		}
		slices.Sort(got)
		if !slices.Equal(got, args) {
			ts.Fatalf("members are %v, want %v", got, args)
		}
	}
}

// runCommand runs the command in this process, without a terminal.
func runCommand(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &console{
		stdin: strings.NewReader(""), stdout: &out, stderr: &errs,
		now: func() time.Time { return time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC) },
	}
	status = run(c, args)
	return status, out.String(), errs.String()
}

// flagsOf lists the flags that a command has.
func flagsOf(cmd *command) (names []string) {
	fs, _ := cmd.flags()
	fs.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	slices.Sort(names)
	return names
}

// Whoever adds a command or a flag has to explain it, on its page and in the
// manual.
func TestHelpMentionsEverything(t *testing.T) {
	for _, cmd := range commands() {
		t.Run(cmd.name, func(t *testing.T) {
			status, page, stderr := runCommand(t, append(strings.Fields(cmd.name), "--help")...)
			if status != exitGood || stderr != "" {
				t.Fatalf("status %d, stderr %q", status, stderr)
			}
			for _, name := range flagsOf(cmd) {
				if !strings.Contains(page, "--"+name) {
					t.Errorf("the page doesn't mention --%s", name)
				}
			}
			for _, part := range []string{"Usage: affidavit " + cmd.name, "What it trusts:", "Examples:\n  affidavit " + cmd.name, "Exit status:", "  64  ", "  1   ", "  0   "} {
				if !strings.Contains(page, part) {
					t.Errorf("the page has no %q", part)
				}
			}
			for line := range strings.Lines(page) {
				if n := len([]rune(strings.TrimRight(line, "\n"))); n > 100 {
					t.Errorf("a line of %d characters: %s", n, line)
				}
			}
			if _, again, _ := runCommand(t, append([]string{"help"}, strings.Fields(cmd.name)...)...); again != page {
				t.Error("help and --help differ")
			}
			if cmd.program != "" {
				return // the flags are that program's
			}
			// The examples must parse: no flag in them may be unknown.
			for _, flag := range regexp.MustCompile(`--[a-z-]+`).FindAllString(cmd.examples, -1) {
				if !slices.Contains(flagsOf(cmd), flag[2:]) {
					t.Errorf("an example has the flag %s, which %s doesn't", flag, cmd.name)
				}
			}
		})
	}
	_, page, _ := runCommand(t, "--help")
	for _, cmd := range commands() {
		if !strings.Contains(page, "\n  "+cmd.name+" ") {
			t.Errorf("the tool's page doesn't list %q", cmd.name)
		}
	}
}

// The manual has a section for every command, which names exactly its flags and
// its exit statuses.
func TestManual(t *testing.T) {
	b, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := make(map[string]string)
	for _, s := range strings.Split(string(b), "\n## ")[1:] {
		title, text, _ := strings.Cut(s, "\n")
		sections[title] = text
	}
	for _, cmd := range commands() {
		text, ok := sections["affidavit "+cmd.name]
		if !ok {
			t.Errorf("no section \"affidavit %s\"", cmd.name)
			continue
		}
		documented := make(map[string]bool)
		for _, m := range regexp.MustCompile("(?m)^\\| `--([a-z-]+)").FindAllStringSubmatch(text, -1) {
			documented[m[1]] = true
		}
		for _, name := range flagsOf(cmd) {
			if name != "help" && !documented[name] {
				t.Errorf("affidavit %s: --%s isn't documented", cmd.name, name)
			}
			delete(documented, name)
		}
		for name := range documented {
			t.Errorf("affidavit %s: --%s is documented, and doesn't exist", cmd.name, name)
		}
		for code := range cmd.exits {
			if !strings.Contains(text, fmt.Sprintf("| %d |", code)) {
				t.Errorf("affidavit %s: exit status %d isn't documented", cmd.name, code)
			}
		}
	}
}

// The members of the JSON that scripts read are documented one by one.
func TestManualJSON(t *testing.T) {
	b, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	for kind := range kinds {
		if !strings.Contains(string(b), "`"+kind+"`") {
			t.Errorf("kind `%s` of inspect isn't documented", kind)
		}
	}
	for _, v := range []any{&appraisalJSON{}, &judge.Answer{}, &judge.Log{}, &judge.Interval{}, &judge.Leaf{}, &logPolicyJSON{}, &judge.Cosignature{}, &judge.Disclosure{}, &judge.Content{}, &gateJSON{}} {
		j, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(j, &members); err != nil {
			t.Fatal(err)
		}
		for name := range members {
			if !strings.Contains(string(b), "`"+name+"`") {
				t.Errorf("%T: `%s` isn't documented", v, name)
			}
		}
	}
}

func TestFind(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string // in the error
	}{
		{"verfy", `did you mean "verify"?`},
		{"verifyy", `did you mean "verify"?`},
		{"insp", `did you mean "inspect"?`},
		{"evrify", `did you mean "verify"?`},
		{"log-policy lint", `did you mean "log-policy check"?`},
		{"frobnicate", `unknown command "frobnicate"`},
		{"--json verify", "write the command first"},
	} {
		_, _, err := find(strings.Fields(tt.args))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.args, err, tt.want)
		}
	}
	for _, name := range []string{"verify", "log-policy check", "log-policy"} {
		if _, _, err := find(strings.Fields(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWorse(t *testing.T) {
	order := []int{exitGood, exitRefused, exitError, exitNotGenuine}
	for i, a := range order {
		for j, b := range order {
			if got := worse(a, b); got != order[max(i, j)] {
				t.Errorf("worse(%d, %d) = %d", a, b, got)
			}
		}
	}
}

// Colour and progress are for people at a terminal.
func TestTerminal(t *testing.T) {
	var out bytes.Buffer
	c := &console{stdout: &out, colour: true}
	c.headline(exitGood, "GOOD: fine.")
	if got := out.String(); got != "\x1b[1;32mGOOD: fine.\x1b[0m\n" {
		t.Errorf("%q", got)
	}
	out.Reset()
	c.colour = false
	c.headline(exitNotGenuine, "NOT PROVEN: bad.")
	if got := out.String(); got != "NOT PROVEN: bad.\n" {
		t.Errorf("%q", got)
	}
	out.Reset()
	p := newProgress(&console{stderr: &out, progress: true}, "logged", 2)
	p.step(func() { fmt.Fprintln(&out, "one") })
	p.end()
	if got := out.String(); !strings.Contains(got, "logged 0 of 2\r\x1b[Kone\nlogged 1 of 2\r\x1b[K") {
		t.Errorf("%q", got)
	}
	for _, quiet := range []*console{{stderr: &out}, {stderr: &out, progress: true}} {
		out.Reset()
		total := 2
		if quiet.progress {
			total = 1 // nothing to count
		}
		p := newProgress(quiet, "logged", total)
		p.step(func() {})
		p.end()
		if out.Len() > 0 {
			t.Errorf("%q", out.String())
		}
	}
}

// Text from files must not be able to forge lines of a report or steer a
// terminal.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":             "plain",
		"a\nGOOD: b":        "a?GOOD: b",
		"\x1b[2Jx":          "?[2Jx",
		"\u202egnp.exe":     "?gnp.exe",
		"\xff":              "?",
		"Straße – 東京":       "Straße – 東京",
		"nbsp\u00a0":        "nbsp?",
		"tab\tcarriage\r\n": "tab?carriage??",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestParseTime(t *testing.T) {
	want := time.Date(2026, 3, 5, 10, 50, 3, 0, time.UTC)
	for _, s := range []string{"1772707803", "2026-03-05T10:50:03Z", "2026-03-05T11:50:03+01:00"} {
		if got, err := parseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "yesterday", "2026-03-05", "-1", "253402300800", "1772707803.5", "99999999999999999999"} {
		if got, err := parseTime(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestWrap(t *testing.T) {
	digest := strings.Repeat("0123456789abcdef", 6)
	got := wrap("short words and "+digest+" after", 20)
	want := []string{"short words and", digest, "after"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A script must not take a verdict for good that never reached its log file.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("needs /dev/full: %v", err)
	}
	defer full.Close()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]int{"version": exitError, "help nothing": exitUsage} {
		var stderr bytes.Buffer
		// TestMain tells the command from the tests by the name that it is called by.
		cmd := &exec.Cmd{Path: exe, Args: append([]string{"affidavit"}, strings.Fields(args)...), Stdout: full, Stderr: &stderr}
		err := cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: exit status %d (%v), want %d; stderr %q", args, got, err, want, stderr.String())
		}
		if want == exitError && stderr.String() != "affidavit: standard output: no space left on device\n" {
			t.Errorf("%s: %q", args, stderr.String())
		}
	}
}
