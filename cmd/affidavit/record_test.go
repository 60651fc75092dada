package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/session/hooks/send"
)

// recordHook runs the command with an event, as an agent does.
func recordHook(t *testing.T, stdin io.Reader, args ...string) {
	t.Helper()
	t.Setenv("AFFIDAVIT_HOOK_DEBUG", "")
	var out, errs bytes.Buffer
	c := &console{stdin: stdin, stdout: &out, stderr: &errs, now: time.Now}
	if status := run(c, append([]string{"record", "hook"}, args...)); status != 0 || out.Len() > 0 || errs.Len() > 0 {
		t.Errorf("status %d, output %q, errors %q; want 0 and silence", status, &out, &errs)
	}
}

// A hook is silent and exits with 0, whatever happens to its event.
func TestRecordHook(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	type request struct{ path, id, body string }
	got := make(chan request, 100)
	var status atomic.Int64
	status.Store(http.StatusNoContent)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- request{r.URL.Path, r.Header.Get(send.Header), string(b)}
		w.WriteHeader(int(status.Load()))
	})}
	go srv.Serve(l)
	defer srv.Close()

	event := `{"hook_event_name":"Stop","session_id":"x"}`
	// deliver tries again: a hook gives up at its deadline, which a busy machine may miss.
	deliver := func(agent string) request {
		t.Helper()
		for range 50 {
			recordHook(t, strings.NewReader(event), "--agent", agent, "--socket", socket)
			select {
			case r := <-got:
				return r
			case <-time.After(200 * time.Millisecond):
			}
		}
		t.Fatal("no event arrived in 50 attempts")
		panic("unreachable")
	}
	ids := make(map[string]bool)
	for range 2 {
		r := deliver("claude-code")
		if r.path != "/hooks/claude-code" || r.body != event || len(r.id) != 32 || ids[r.id] {
			t.Errorf("the recorder got %+v", r)
		}
		ids[r.id] = true
	}
	status.Store(http.StatusServiceUnavailable)
	deliver("cursor")
	recordHook(t, strings.NewReader(""), "--agent", "cursor", "--socket", socket)
	recordHook(t, strings.NewReader(event), "--agent", "emacs", "--socket", socket)
	recordHook(t, strings.NewReader(event), "--agent", "windsurf", "--socket", filepath.Join(dir, "absent"))
	// An agent that never closes the input, and a recorder that never answers, hold nobody up.
	never, w := io.Pipe()
	defer w.Close()
	recordHook(t, never, "--agent", "cursor", "--socket", socket)
	deaf := filepath.Join(dir, "d")
	d, err := net.Listen("unix", deaf)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	recordHook(t, strings.NewReader(event), "--agent", "cursor", "--socket", deaf)
	recordHook(t, broken{}, "--agent", "cursor", "--socket", socket)
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestRecordHookInstall(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hooks.json")
	before := "{\n  \"hooks\": {\n    \"stop\": [\n      {\n        \"command\": \"./mine.sh\"\n      }\n    ]\n  },\n  \"version\": 1\n}\n"
	if err := os.WriteFile(file, []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := runCommand(t, "record", "hook", "--agent", "cursor", "--install", "--config", file, "--socket", "/run/x.sock"); status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	b, err := os.ReadFile(file)
	if err != nil || strings.Count(string(b), "record hook --agent cursor --socket /run/x.sock") != 11 || !strings.Contains(string(b), "./mine.sh") {
		t.Errorf("%v: %s", err, b)
	}
	if status, _, errs := runCommand(t, "record", "hook", "--agent", "cursor", "--uninstall", "--config", file); status != 0 {
		t.Fatalf("status %d: %s", status, errs)
	}
	if b, _ := os.ReadFile(file); string(b) != before {
		t.Errorf("uninstalling left %s", b)
	}
	for _, args := range [][]string{
		{"--install"}, {"--agent", "cursor", "--install", "--uninstall"}, {"--agent", "emacs", "--install"}, {"--agent", "cursor", "--install", "--scope", "world"},
	} {
		if status, _, _ := runCommand(t, append([]string{"record", "hook"}, args...)...); status != exitUsage {
			t.Errorf("%v: status %d, want %d", args, status, exitUsage)
		}
	}
}
