//go:build unix

package deliver

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/monitor"
)

func script(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestCommand: the program gets the finding, and nothing of the monitor's environment that could be a secret.
func TestCommand(t *testing.T) {
	t.Setenv("AFFIDAVIT_TOKEN", "sesame")
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
	out := filepath.Join(t.TempDir(), "out")
	f := newMemory().tamper()
	c := &Command{Path: script(t, "cat > "+out+"; env > "+out+".env; pwd > "+out+".pwd\n")}
	if err := c.Send(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got monitor.Finding
	if err := json.Unmarshal(b, &got); err != nil || got.ID != f.ID || got.Message != f.Message {
		t.Errorf("input %s: %v", b, err)
	}
	env, _ := os.ReadFile(out + ".env")
	for _, want := range []string{"AFFIDAVIT_FINDING_ID=" + f.ID, "AFFIDAVIT_FINDING_CLASS=tamper", "AFFIDAVIT_FINDING_SEVERITY=critical", "AFFIDAVIT_FINDING_KIND=split-view", "AFFIDAVIT_FINDING_SEQ=1", "PATH="} {
		if !strings.Contains(string(env), want) {
			t.Errorf("no %s in %s", want, env)
		}
	}
	if strings.Contains(string(env), "sesame") || strings.Contains(string(env), "CREDENTIALS") {
		t.Errorf("environment %s", env)
	}
	if pwd, _ := os.ReadFile(out + ".pwd"); string(pwd) != "/\n" {
		t.Errorf("in %s", pwd)
	}
}

// TestCommandFails: an exit status other than 0, a program that doesn't end and one that isn't there are errors that say
// what is known; what a program leaves behind doesn't outlive it, nor is it waited for.
func TestCommandFails(t *testing.T) {
	f := newMemory().tamper()
	pid := filepath.Join(t.TempDir(), "pid")
	for _, tt := range []struct {
		name string
		c    Command
		want string // "" for success
	}{
		{"refuses", Command{Path: script(t, "echo >&2 no route to pager; exit 3\n")}, "exit status 3: no route to pager"},
		{"never ends", Command{Path: script(t, "echo waiting; sleep 300 & echo $! > "+pid+"; wait\n"), Timeout: 300 * time.Millisecond}, "killed after 300ms: waiting"},
		{"isn't there", Command{Path: filepath.Join(t.TempDir(), "none")}, "no such file"},
		{"doesn't read", Command{Path: script(t, "exit 0\n")}, ""},
		{"leaves something behind", Command{Path: script(t, "sleep 300 & echo $! > "+pid+"\n")}, ""},
		{"says much", Command{Path: script(t, "i=0; while [ $i -lt 3000 ]; do echo 0123456789; i=$((i+1)); done; echo >&2 the end; exit 1\n")}, "exit status 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			os.Remove(pid)
			err := tt.c.Send(t.Context(), f)
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if err != nil && len(err.Error()) > 800 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			b, err := os.ReadFile(pid)
			if err != nil {
				return
			}
			var n int
			if err := json.Unmarshal(b, &n); err != nil {
				t.Fatal(err)
			}
			// It is gone, or dead and not yet buried by whoever inherits it.
			for wait := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
				if syscall.Kill(n, 0) != nil {
					break
				}
				if stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat"); err == nil && strings.Contains(string(stat), ") Z ") {
					break
				}
				if time.Now().After(wait) {
					t.Fatal("what it has started is still running")
				}
			}
		})
	}
}
