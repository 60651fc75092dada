package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if os.Getenv("AFFIDAVIT_TEST_HOOK") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// hook runs the program as an agent does.
func hook(t *testing.T, debug, event string, args ...string) (said string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "AFFIDAVIT_TEST_HOOK=1", "AFFIDAVIT_HOOK_DEBUG="+debug)
	cmd.Stdin = strings.NewReader(event)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Errorf("%v: %v", args, err) // another status than 0 stops some agents
	}
	if stdout.Len() > 0 || debug == "" && stderr.Len() > 0 {
		t.Errorf("%v printed %q, and said %q", args, &stdout, &stderr)
	}
	return stderr.String()
}

// TestSilent: whatever goes wrong, the agent doesn't notice; who asks is told.
func TestSilent(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent")
	for _, args := range [][]string{
		{"--agent", "cursor", "--socket", absent}, {"--agent", "emacs", "--socket", absent}, {"--nonsense"}, {"--help"},
		{"--agent", "cursor", "surplus"}, {},
	} {
		hook(t, "", "{}", args...)
		if said := hook(t, "1", "{}", args...); !strings.HasPrefix(said, "affidavit-hook: ") {
			t.Errorf("%v: said %q", args, said)
		}
	}
}

// TestSend: the event arrives as it is. The test tries again, since a busy machine may miss the deadline.
func TestSend(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 100)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, err := io.ReadAll(r.Body); err == nil {
			got <- r.URL.Path + " " + string(b)
		}
		w.WriteHeader(http.StatusNoContent)
	})}
	go srv.Serve(l)
	defer srv.Close()
	for range 50 {
		hook(t, "", `{"hook_event_name":"stop"}`, "--agent=cursor", "--socket", filepath.Join(dir, "s"))
		select {
		case g := <-got:
			if want := `/hooks/cursor {"hook_event_name":"stop"}`; g != want {
				t.Errorf("the recorder got %q, want %q", g, want)
			}
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Error("no event arrived in 50 attempts")
}
