package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sessionlog "github.com/affidavit-log/affidavit/log"
)

func command(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if status, _, stderr := w.run(t, ctx, nil); status != 0 {
		t.Fatal(stderr)
	}
	storage, policy := "--storage=posix:"+w.path("log"), "--log-policy="+w.path("log.policy")
	status, stdout, stderr := command(t, "check", storage, policy)
	if status != 0 || stderr != "" || !strings.HasSuffix(stdout, "all as it should be\n") || !strings.Contains(stdout, "log.example/1: ") {
		t.Errorf("status %d, %s%s", status, stdout, stderr)
	}
	note := filepath.Join(w.path("log"), "checkpoint")
	b, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(note, bytes.Replace(b, []byte("\n\n"), []byte("\nx\n\n"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	// An extension line is refused by nobody who doesn't look at signatures.
	if status, stdout, _ := command(t, "check", storage); status != 0 {
		t.Errorf("status %d, %s", status, stdout)
	}
	status, stdout, _ = command(t, "check", storage, policy)
	if status != 4 || !strings.Contains(stdout, "damage   checkpoint-invalid checkpoint: ") || !strings.HasSuffix(stdout, "DAMAGED (1)\n") {
		t.Errorf("status %d, %s", status, stdout)
	}
	status, stdout, _ = command(t, "check", storage, policy, "--json")
	var r sessionlog.CheckReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || status != 4 || r.Damage != 1 || r.Findings[0].Kind != sessionlog.CheckpointInvalid {
		t.Errorf("status %d, %s: %v", status, stdout, err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{}, 64, "either --storage or --dir"},
		{[]string{storage, "--dir=x"}, 64, "either --storage or --dir"},
		{[]string{"--storage=" + w.path("log")}, 64, "want posix:DIR"},
		{[]string{storage, "x"}, 64, `unexpected argument "x"`},
		{[]string{storage, "--nonsense"}, 64, "nonsense"},
		{[]string{"--storage=posix:" + w.path("none")}, 1, "no log there"},
		{[]string{"--dir=" + w.path("none")}, 1, "no log there"},
		{[]string{storage, "--log-policy=" + w.path("none")}, 1, "no such file"},
		{[]string{storage, "--log-policy=" + w.path("log.key")}, 1, "malformed policy"},
	} {
		if status, stdout, stderr := command(t, append([]string{"check"}, tt.args...)...); status != tt.status || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: status %d, want %d; %s%s", tt.args, status, tt.status, stdout, stderr)
		}
	}
	if status, stdout, _ := command(t, "check", "--help"); status != 0 || !strings.Contains(stdout, "--storage posix:DIR") {
		t.Errorf("status %d, %s", status, stdout)
	}
}
