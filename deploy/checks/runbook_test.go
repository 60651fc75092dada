// Package checks tries what an operator is given: the units with their examples, the runbooks' commands, metrics,
// dashboards and alerts, the proxy's configuration. "make check-deploy" builds the commands and runs it; without
// AFFIDAVIT_BIN, a directory with the commands, what needs them is skipped.
package checks

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

const repo = "../.."

// bin returns the directory of the commands.
func bin(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("AFFIDAVIT_BIN")
	if dir == "" {
		t.Skip("AFFIDAVIT_BIN is not set: see make check-deploy")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(abs, "affidavit-log")); err != nil {
		t.Fatal(err)
	}
	return abs
}

// A block is what a runbook has between fences.
type block struct {
	line, indent int
	kind         string // sh, "sh fails", output
	text         string
}

var fence = regexp.MustCompile("^```(.*)$")

// blocks returns what of a runbook is tried. Blocks of other kinds, such as "console", are shown only. A comment of the form
// <!-- harness: COMMAND --> is a command that stands for what other people do.
func blocks(t *testing.T, name string) []block {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	var in *block
	for i, line := range strings.Split(string(b), "\n") {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		if in != nil {
			indent = min(indent, in.indent) // of a fence in a list
		}
		line = line[indent:]
		m := fence.FindStringSubmatch(line)
		switch {
		case m != nil && in == nil:
			in = &block{line: i + 1, kind: m[1], indent: indent}
		case m != nil:
			switch in.kind {
			case "sh", "sh fails", "output":
				all = append(all, *in)
			case "console", "":
			default:
				t.Errorf("%s:%d: a fence of kind %q", name, in.line, in.kind)
			}
			in = nil
		case in != nil:
			in.text += line + "\n"
		case strings.HasPrefix(line, "<!-- harness: "):
			all = append(all, block{line: i + 1, kind: "sh", text: strings.TrimSuffix(strings.TrimPrefix(line, "<!-- harness: "), " -->") + "\n"})
		}
	}
	if in != nil {
		t.Fatalf("%s:%d: the fence isn't closed", name, in.line)
	}
	return all
}

var portNumber = regexp.MustCompile(`127\.0\.0\.1:(\d{4,5})\b`)

// A machine is a directory that the commands of a runbook take for a whole machine.
type machine struct {
	root  string
	ports map[string]string // by the number that is written in documents
	pairs []string          // for strings.NewReplacer
}

func newMachine(t *testing.T, texts ...string) *machine {
	t.Helper()
	dir := bin(t)
	m := &machine{root: t.TempDir(), ports: make(map[string]string)}
	pki := tdxsim.NewPKI([]byte("runbook"), time.Now().Add(-time.Hour))
	pcs := httptest.NewServer(pki.PCS(tdxsim.PCSOptions{}))
	t.Cleanup(pcs.Close)
	m.write(t, "etc/affidavit/root.pem", string(pki.RootPEM()))
	if err := os.MkdirAll(filepath.Join(m.root, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"affidavit", "affidavit-log", "affidavit-witness", "affidavit-monitor", "affidavit-recorder", "affidavit-load"} {
		if err := os.Symlink(filepath.Join(dir, c), filepath.Join(m.root, "usr/bin", c)); err != nil {
			t.Fatal(err)
		}
	}
	abs, err := filepath.Abs(filepath.Join(repo, "deploy"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(abs, filepath.Join(m.root, "deploy")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/etc/affidavit", "/etc/systemd", "/var/lib/affidavit", "/var/log/affidavit", "/run/affidavit", "/run/credentials", "/usr/bin/affidavit", "/srv/", "/root/"} {
		m.pairs = append(m.pairs, p, m.root+p)
	}
	m.pairs = append(m.pairs, "https://api.trustedservices.intel.com", pcs.URL)
	examples, err := filepath.Glob(filepath.Join(repo, "deploy/systemd/examples/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range examples {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(b))
	}
	// Listened to all at once, so that they differ.
	for _, text := range texts {
		for _, p := range portNumber.FindAllStringSubmatch(text, -1) {
			if m.ports[p[1]] == "" {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				_, m.ports[p[1]], _ = net.SplitHostPort(l.Addr().String())
				m.pairs = append(m.pairs, p[0], l.Addr().String())
			}
		}
	}
	var sed strings.Builder
	for i := 0; i < len(m.pairs); i += 2 {
		// What is substituted already isn't a second time.
		end := ""
		if strings.HasPrefix(m.pairs[i], "127.") {
			end = `\b` // not the beginning of another port
		}
		fmt.Fprintf(&sed, "s#\\(^\\|[^a-z0-9]\\)%s%s#\\1%s#g\n", regexp.QuoteMeta(m.pairs[i]), end, m.pairs[i+1])
	}
	m.write(t, "subst.sed", sed.String())
	return m
}

func (m *machine) subst(text string) string { return strings.NewReplacer(m.pairs...).Replace(text) }

func (m *machine) write(t *testing.T, name, text string) {
	t.Helper()
	name = filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const marker = "\x01block "

// run runs a script on the machine, and returns what it printed. All that it leaves running is ended.
func (m *machine) run(t *testing.T, script string) (string, error) {
	t.Helper()
	preamble, err := filepath.Abs("runbook.sh")
	if err != nil {
		t.Fatal(err)
	}
	m.write(t, "script", fmt.Sprintf("set -euo pipefail\nROOT=%s\n. %s\n%s", m.root, preamble, script))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", filepath.Join(m.root, "script"))
	cmd.Dir = m.root
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TERM=dumb", "http_proxy=", "no_proxy=*")
	// A group of its own, so that daemons end with the script, whatever becomes of it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nothing, as a rule
	}
	return out.String(), err
}

// The commands of each runbook work as they are written there, those that must fail do, and say what the runbook shows.
// Fails if a flag is renamed, an example doesn't start, or a message that operators are told to look for changes.
func TestRunbooks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(repo, "docs/runbooks/*.md"))
	if err != nil || len(files) < 5 {
		t.Fatalf("%d runbooks, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".md"), func(t *testing.T) {
			t.Parallel()
			all := blocks(t, name)
			if len(all) == 0 {
				return // it is about decisions
			}
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			m := newMachine(t, string(text))
			var script strings.Builder
			for i, b := range all {
				text := m.subst(b.text)
				switch b.kind {
				case "sh":
					fmt.Fprintf(&script, "echo '%s%d'\n%s", marker, i, text)
				case "sh fails":
					fmt.Fprintf(&script, "echo '%s%d'\nset +e\n(set -e\n%s)\nstatus=$?\nset -e\n[ $status -ne 0 ] || { echo 'this must fail, and did not'; exit 99; }\n", marker, i, text)
				}
			}
			fmt.Fprintf(&script, "echo '%s%d'\n", marker, len(all))
			out, err := m.run(t, script.String())
			parts := make(map[int]string)
			last := 0
			for _, p := range strings.Split(out, marker)[1:] {
				head, body, _ := strings.Cut(p, "\n")
				fmt.Sscan(head, &last)
				parts[last] = body
			}
			if err != nil {
				at := all[min(last, len(all)-1)]
				journals, _ := filepath.Glob(filepath.Join(m.root, "journal/*"))
				var logs strings.Builder
				for _, j := range journals {
					b, _ := os.ReadFile(j)
					lines := strings.Split(string(b), "\n")
					fmt.Fprintf(&logs, "--- %s\n", filepath.Base(j))
					for _, line := range lines[max(0, len(lines)-8):] {
						fmt.Fprintf(&logs, "%.300s\n", line)
					}
				}
				t.Fatalf("%s:%d: %v\n%s\nprinted:\n%s\n%s", name, at.line, err, at.text, parts[last], logs.String())
			}
			for i, b := range all {
				if b.kind != "output" {
					continue
				}
				rest := parts[i-1]
				for want := range strings.Lines(m.subst(b.text)) {
					if want = strings.TrimSpace(want); want == "" || want == "…" {
						continue
					}
					re := regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*?"))
					loc := re.FindStringIndex(rest)
					if loc == nil {
						t.Errorf("%s:%d: the command before doesn't print\n%s\nbut\n%s", name, b.line, want, parts[i-1])
						break
					}
					rest = rest[loc[1]:]
				}
			}
		})
	}
}
