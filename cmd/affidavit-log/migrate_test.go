package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestMigrate(t *testing.T) {
	w := newWorld(t)
	run := func(edits map[string]string) (int, string, string) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return w.run(t, ctx, edits)
	}
	if status, _, stderr := run(nil); status != 0 {
		t.Fatal(stderr)
	}
	w.args["init"] = ""
	from, to, policy := "--from=posix:"+w.path("log"), "--to=posix:"+w.path("new"), "--log-policy="+w.path("log.policy")
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{from, to}, 64, "--log-policy is missing"},
		{[]string{from, policy}, 64, "--to is missing"},
		{[]string{from, "--to=" + w.path("new"), policy}, 64, "want posix:DIR"},
		{[]string{from, to, policy, "x"}, 64, "unexpected argument"},
		{[]string{"--from=posix:" + w.path("none"), to, policy}, 1, "no log there"},
		{[]string{"--from=" + w.path("log"), to, policy}, 1, "isn't frozen"},
		{[]string{from, to, "--log-policy=" + w.path("log.key")}, 1, "malformed policy"},
	} {
		if status, stdout, stderr := command(t, append([]string{"migrate"}, tt.args...)...); status != tt.status || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: status %d, want %d; %s%s", tt.args, status, tt.status, stdout, stderr)
		}
	}
	if status, stdout, stderr := command(t, "migrate", from, to, policy); status != 0 || !strings.HasPrefix(stdout, "log.example/1 is at posix:") {
		t.Fatalf("status %d, %s%s", status, stdout, stderr)
	}
	if status, _, stderr := run(nil); status != 1 || !strings.Contains(stderr, "was moved away") {
		t.Errorf("the old place: status %d, %s", status, stderr)
	}
	if status, _, stderr := run(map[string]string{"storage": "posix:" + w.path("new")}); status != 0 {
		t.Errorf("the new place: status %d, %s", status, stderr)
	}
	if status, stdout, _ := command(t, "migrate", "--help"); status != 0 || !strings.Contains(stdout, "A log never lives twice") {
		t.Errorf("status %d, %s", status, stdout)
	}
}
