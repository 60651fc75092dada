package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// world is a directory with what a log needs to start, and the arguments that say so.
type world struct {
	dir  string
	args map[string]string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	k, err := checkpoint.GenerateKey(checkpoint.Ed25519, "log.example/1", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.PrivateText()
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "log.key", text+"\n", 0o600)
	w.write(t, "log.policy", fmt.Sprintf("log %s\nquorum none\n", k.VKey()), 0o644)
	w.write(t, "vendors.yaml", "vendors: []\n", 0o644)
	w.args = map[string]string{
		"origin": "log.example/1", "key": w.path("log.key"), "storage": "posix:" + w.path("log"), "log-policy": w.path("log.policy"),
		"vendors": w.path("vendors.yaml"), "listen": "127.0.0.1:0", "init": "true", "allow-quorum-none": "true",
	}
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// run runs the command with the world's arguments, of which edits replace or, where they are empty, remove some.
func (w *world) run(t *testing.T, ctx context.Context, edits map[string]string) (status int, stdout, stderr string) {
	t.Helper()
	var args []string
	for k, v := range w.args {
		if e, ok := edits[k]; ok {
			v = e
		}
		if v != "" {
			args = append(args, "--"+k+"="+v)
		}
	}
	for k, v := range edits {
		if _, ok := w.args[k]; !ok {
			args = append(args, "--"+k+"="+v)
		}
	}
	var out, errs bytes.Buffer
	status = run(ctx, args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestHelp(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"--help"}, &out, &errs); status != 0 || errs.Len() > 0 || !strings.Contains(out.String(), "--log-policy FILE") {
		t.Errorf("status %d, stdout %q, stderr %q", status, &out, &errs)
	}
}

func TestVersion(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"--version"}, &out, &errs); status != 0 || errs.Len() > 0 || !strings.HasPrefix(out.String(), "affidavit-log ") {
		t.Errorf("status %d, stdout %q, stderr %q", status, &out, &errs)
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	// Otherwise every row below could fail for another reason.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	status, _, stderr := w.run(t, ctx, nil)
	cancel()
	if status != 0 || !strings.Contains(stderr, "shut down") {
		t.Fatalf("a good start and stop: status %d, %s", status, stderr)
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	w.write(t, "open.key", "", 0o644)
	w.write(t, "file", "", 0o644)
	for _, tt := range []struct {
		name   string
		edits  map[string]string
		status int
		want   string
	}{
		{"no origin", map[string]string{"origin": ""}, 64, "--origin is missing"},
		{"origin with a scheme", map[string]string{"origin": "https://log.example/1"}, 64, "without its scheme"},
		{"unknown flag", map[string]string{"nonsense": "1"}, 64, "--nonsense"},
		{"no time", map[string]string{"max-wait": "0s"}, 64, "must be positive"},
		{"storage without a kind", map[string]string{"storage": "dir"}, 1, "want posix:DIR"},
		{"a bucket with a prefix", map[string]string{"storage": "aws:bucket/prefix"}, 1, "a bucket of its own"},
		{"an unknown option of the bucket", map[string]string{"storage": "aws:bucket?nonsense=1"}, 1, "nonsense is unknown"},
		{"a bucket without a directory for state", map[string]string{"storage": "aws:bucket"}, 1, "--state-dir is missing"},
		{"a bucket without a database", map[string]string{"storage": "aws:bucket?endpoint=http://127.0.0.1:1", "state-dir": w.path("new")}, 1, "--database is missing"},
		{"a reader of a directory", map[string]string{"role": "reader", "init": ""}, 1, "can't be a reader"},
		{"an unknown role", map[string]string{"role": "writer"}, 1, "is none of all, frontend"},
		{"state of a directory", map[string]string{"state-dir": w.path("new")}, 1, "in a cloud's storage"},
		{"storage is a file", map[string]string{"storage": "posix:" + w.path("file")}, 1, "is not a directory"},
		{"no such log", map[string]string{"init": "", "storage": "posix:" + w.path("new")}, 1, "see --init"},
		{"a log already", map[string]string{"storage": "posix:" + w.path("log")}, 1, "can't be created again"},
		{"a key that others can read", map[string]string{"key": w.path("open.key")}, 1, "chmod 600"},
		{"a key as log policy", map[string]string{"log-policy": w.path("log.key")}, 1, "log.key: malformed policy"},
		{"quorum none", map[string]string{"allow-quorum-none": "", "storage": "posix:" + w.path("new")}, 1, "quorum none"},
		{"public address in use", map[string]string{"listen": taken.Addr().String(), "storage": "posix:" + w.path("new")}, 1, "--listen: "},
		{"private address in use", map[string]string{"metrics-listen": taken.Addr().String(), "storage": "posix:" + w.path("new")}, 1, "--metrics-listen: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			status, stdout, stderr := w.run(t, ctx, tt.edits)
			if status != tt.status || !strings.Contains(stderr, tt.want) || stdout != "" {
				t.Errorf("status %d, stdout %q, stderr %s; want status %d and %q", status, stdout, stderr, tt.status, tt.want)
			}
			if ctx.Err() != nil {
				t.Error("it didn't end by itself")
			}
			if strings.Contains(stderr, "PRIVATE+KEY") {
				t.Errorf("a private key in %s", stderr)
			}
			// What failed must not be in the way of the next attempt.
			if _, err := os.Stat(filepath.Join(w.path("new"), "affidavit-log")); err == nil {
				t.Error("it made a log")
			}
		})
	}
}
