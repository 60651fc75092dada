package main

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestFreeze(t *testing.T) {
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
	var args []string
	for k, v := range w.args {
		if v != "" {
			args = append(args, "--"+k+"="+v)
		}
	}
	if status, stdout, stderr := command(t, append([]string{"freeze", "--init"}, args...)...); status != 1 || stdout != "" {
		t.Errorf("--init: status %d, %s%s", status, stdout, stderr)
	}
	// Once, and again.
	for range 2 {
		status, stdout, stderr := command(t, append([]string{"freeze"}, args...)...)
		if status != 0 || !strings.HasPrefix(stdout, "log.example/1 is frozen with ") {
			t.Errorf("status %d, %s%s", status, stdout, stderr)
		}
	}
	// It is served with the same flags, or without a key, and can't be made anew.
	for _, edits := range []map[string]string{nil, {"key": ""}} {
		if status, _, stderr := run(edits); status != 0 || !strings.Contains(stderr, "the log is frozen") {
			t.Errorf("status %d, %s", status, stderr)
		}
	}
	if status, _, stderr := run(map[string]string{"init": "true"}); status != 1 || !strings.Contains(stderr, "can't be created again") {
		t.Errorf("--init: status %d, %s", status, stderr)
	}
	if status, stdout, _ := command(t, "freeze", "--help"); status != 0 || !strings.Contains(stdout, "ends a log") {
		t.Errorf("status %d, %s", status, stdout)
	}
}
