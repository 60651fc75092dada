package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/monitor/deliver"
	"github.com/affidavit-log/affidavit/client/printable"
	"github.com/affidavit-log/affidavit/log/record"
)

func TestUsage(t *testing.T) {
	good := []string{"--log", "http://127.0.0.1:1", "--log-policy", "p", "--dir", "d"}
	if _, status, ok := parseFlags(good, &bytes.Buffer{}, &bytes.Buffer{}); !ok {
		t.Fatalf("good flags: status %d", status)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"x"}, `unexpected argument "x"`},
		{[]string{"--nonsense"}, "nonsense"},
		{[]string{"--interval", "0s"}, "--interval must be positive"},
		{[]string{"--only-new"}, "--only-new goes with --once"},
		{[]string{"--once", "--listen", ":0"}, "--once serves nothing"},
		{[]string{"--once", "--metrics-listen", ":0"}, "--once serves nothing"},
		{[]string{"--public-listen", ":0"}, "nothing to serve"},
		{[]string{"--web-token-file", "f"}, "goes with --listen"},
		{[]string{"--appraiser-key", "k"}, "needs --public-listen or --listen"},
		{[]string{"--exceptions", "e"}, "go with --appraiser-key"},
		{[]string{"--witness", "https://w.example"}, "want NAME=URL"},
		{[]string{"--witness", "https://w.example/?a=b"}, "want NAME=URL"},
		{[]string{"--witness", "w="}, "want NAME=URL"},
		{[]string{"--webhook", "https://siem.example"}, "no secret to sign with"},
		{[]string{"--webhook-secret", "f"}, "goes with --webhook"},
		{[]string{"--findings", "a", "--findings", "b"}, `two receivers named "findings"`},
		{[]string{"--findings", "a", "--findings", "name=findings file=b"}, `two receivers named "findings"`},
		{[]string{"--findings", "a b"}, "write it as 'name=… file=…'"},
		{[]string{"--findings", "name=x"}, "file= is missing"},
		{[]string{"--findings", "name=x file=a file=b"}, "given twice"},
		{[]string{"--findings", "name=x file=a url=b"}, "want words of the form KEY=VALUE"},
		{[]string{"--findings", "name=x file=a class=fraud"}, `class "fraud" is none of`},
		{[]string{"--findings", "name=x file=a severity=worst"}, `severity "worst" is none of`},
		{[]string{"--findings", "name=x file="}, "has no value"},
		{[]string{"--on-finding", "program=x timeout=2h"}, "up to 1h"},
		{[]string{"--webhook", "url=http://a secret=f plain-http=no"}, "it is yes, or left out"},
	} {
		var out, errs bytes.Buffer
		_, status, ok := parseFlags(append(good[:len(good):len(good)], tt.args...), &out, &errs)
		if ok || status != exitUsage || !strings.Contains(errs.String(), tt.want) || out.Len() > 0 {
			t.Errorf("%q: status %d, %s, want %q", tt.args, status, &errs, tt.want)
		}
	}
	for i := 0; i < len(good); i += 2 {
		var errs bytes.Buffer
		_, status, ok := parseFlags(append(good[:i:i], good[i+2:]...), &bytes.Buffer{}, &errs)
		if ok || status != exitUsage || !strings.Contains(errs.String(), good[i]+" is missing") {
			t.Errorf("without %s: status %d, %s", good[i], status, &errs)
		}
	}
}

func TestReceivers(t *testing.T) {
	for _, tt := range []struct {
		kind  kind
		value string
		want  receiver
	}{
		{kindFindings, "-", receiver{name: "findings", target: "-"}},
		{kindFindings, "/var/log/a=b.jsonl", receiver{name: "findings", target: "/var/log/a=b.jsonl"}},
		{kindFindings, "name=b file=/var/log/a=b.jsonl", receiver{name: "b", target: "/var/log/a=b.jsonl"}},
		{kindWebhook, "https://a.example/?name=x&url=y", receiver{name: "webhook", target: "https://a.example/?name=x&url=y"}},
		{kindWebhook, " url=https://a.example/?a=b  secret=f name=soc class=tamper,identity severity=high plain-http=yes ", receiver{
			name: "soc", target: "https://a.example/?a=b", secret: "f", plainHTTP: true,
			filter: deliver.Filter{Classes: []monitor.Class{"tamper", "identity"}, Least: "high"},
		}},
		{kindCommand, "/usr/bin/page", receiver{name: "on-finding", target: "/usr/bin/page"}},
		{kindCommand, "program=/usr/bin/page timeout=90s", receiver{name: "on-finding", target: "/usr/bin/page", timeout: 90 * time.Second}},
	} {
		got, err := parseReceiver(tt.kind, tt.value)
		tt.want.kind = tt.kind
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %+v, %v; want %+v", tt.value, got, err, tt.want)
		}
	}
}

func TestWatch(t *testing.T) {
	id := record.SessionID{1, 2, 3}
	digest := id.Digest()
	hash := strings.Repeat("ab", 32)
	got, err := parseWatch([]byte("# ours\n\nvendor https://vendor.example # the one\n tenant\t" + hash + "\nrelease " + hash + "\nplatform " + hash[:32] + "\n" +
		"session " + hex.EncodeToString(id[:]) + "\r\nsession " + hash))
	sum := record.Digest(bytes.Repeat([]byte{0xab}, 32))
	want := monitor.Watch{
		Vendors: []string{"https://vendor.example"}, Tenants: []record.Digest{sum}, Releases: []record.Digest{sum}, Platforms: []string{hash[:32]},
		Sessions: []record.Digest{digest, sum},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, tt := range []struct{ line, want string }{
		{"vendor", "line 2: want a kind and a name"}, {"vendor a b", "want a kind and a name"}, {"vendor nobody", "line 2: "}, {"tenant x", "not a SHA-256"},
		{"tenant " + strings.ToUpper(hash), "not a SHA-256"}, {"release " + hash[2:], "not a SHA-256"}, {"platform " + hash, "not a PPID"}, {"session abc", "not a SHA-256"},
		{"advisory INTEL-SA-1", "is none of vendor"},
	} {
		if got, err := parseWatch([]byte("\n" + tt.line + "\n")); err == nil || !strings.Contains(err.Error(), tt.want) || !reflect.DeepEqual(got, monitor.Watch{}) {
			t.Errorf("%q: %+v, %v; want %q", tt.line, got, err, tt.want)
		}
	}
}

// TestSystemdUnit: the unit's command line is one that the command takes, with the flags of the example and all that it
// says can be added.
func TestSystemdUnit(t *testing.T) {
	read := func(name ...string) string {
		b, err := os.ReadFile(filepath.Join(append([]string{"..", "..", "deploy", "systemd"}, name...)...))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	_, env, _ := strings.Cut(read("examples", "monitor.env"), "FLAGS=\"")
	flags, more, ok := strings.Cut(env, "\"")
	if !ok {
		t.Fatalf("no FLAGS in %q", env)
	}
	flags = strings.ReplaceAll(flags, "\\\n", " ")
	for l := range strings.Lines(more) {
		if l, is := strings.CutPrefix(l, "#  --"); is {
			flags += " --" + strings.TrimSpace(l)
		}
	}
	unit := strings.ReplaceAll(read("affidavit-monitor.service"), "$FLAGS", flags)
	_, line, ok := strings.Cut(unit, "ExecStart=")
	var args []string
	for ok {
		var l string
		l, line, _ = strings.Cut(line, "\n")
		l, ok = strings.CutSuffix(l, "\\")
		args = append(args, strings.Fields(l)...)
	}
	// And the lines to add, which are comments.
	for l := range strings.Lines(line) {
		if l, is := strings.CutPrefix(l, "#   --"); is {
			args = append(args, strings.Fields("--"+l)...)
		}
	}
	var errs bytes.Buffer
	if _, status, ok := parseFlags(args[1:], &bytes.Buffer{}, &errs); !ok {
		t.Errorf("%q: status %d, %s", args, status, &errs)
	}
	if len(args) < 20 {
		t.Errorf("only %q", args)
	}
}

// FuzzParseReceiver: what is accepted, written out in full, is accepted again and means the same.
func FuzzParseReceiver(f *testing.F) {
	f.Add("webhook", "https://a.example/?name=x")
	f.Add("webhook", "name=soc url=https://a.example secret=f class=tamper,identity severity=high plain-http=yes")
	f.Add("findings", "-")
	f.Add("on-finding", "program=/usr/bin/page timeout=90s name=x")
	f.Fuzz(func(t *testing.T, k, value string) {
		r, err := parseReceiver(kind(k), value)
		if err != nil {
			return
		}
		words := []string{targets[r.kind] + "=" + r.target, "name=" + r.name}
		if len(r.filter.Classes) > 0 {
			var classes []string
			for _, c := range r.filter.Classes {
				classes = append(classes, string(c))
			}
			words = append(words, "class="+strings.Join(classes, ","))
		}
		if r.filter.Least != "" {
			words = append(words, "severity="+string(r.filter.Least))
		}
		if r.secret != "" {
			words = append(words, "secret="+r.secret)
		}
		if r.plainHTTP {
			words = append(words, "plain-http=yes")
		}
		if r.timeout != 0 {
			words = append(words, "timeout="+r.timeout.String())
		}
		again, err := parseReceiver(r.kind, strings.Join(words, " "))
		if err != nil || !reflect.DeepEqual(again, r) || r.target == "" {
			t.Errorf("%q is read as %+v, and %q as %+v, %v", value, r, words, again, err)
		}
	})
}

// FuzzParseWatch: what is accepted, written out in full, is accepted again and means the same.
func FuzzParseWatch(f *testing.F) {
	hash := strings.Repeat("ab", 32)
	f.Add([]byte("# ours\nvendor https://vendor.example # the one\ntenant " + hash + "\nrelease " + hash + "\nplatform " + hash[:32] + "\nsession " + hash[:32]))
	f.Add([]byte("session " + hash + "\r\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		w, err := parseWatch(b)
		if err != nil {
			return
		}
		var lines []string
		for _, v := range w.Vendors {
			lines = append(lines, "vendor "+v)
		}
		for _, p := range w.Platforms {
			lines = append(lines, "platform "+p)
		}
		for word, list := range map[string][]record.Digest{"tenant": w.Tenants, "release": w.Releases, "session": w.Sessions} {
			for _, d := range list {
				lines = append(lines, word+" "+hex.EncodeToString(d[:]))
			}
		}
		again, err := parseWatch([]byte(strings.Join(lines, "\n")))
		if err != nil || !reflect.DeepEqual(again, w) {
			t.Errorf("%q is read as %+v, and %q as %+v, %v", b, w, lines, again, err)
		}
	})
}

func TestStatusOfFindings(t *testing.T) {
	for _, tt := range []struct {
		s    summary
		want int
	}{
		{summary{}, 0}, {summary{info: 5}, 0}, {summary{other: 1, info: 1}, 3}, {summary{grave: 1, other: 1}, 4}, {summary{halted: true}, 4},
	} {
		if got := tt.s.status(); got != tt.want {
			t.Errorf("%+v: %d, want %d", tt.s, got, tt.want)
		}
	}
}

func TestProgressLine(t *testing.T) {
	for _, tt := range []struct {
		st   monitor.Status
		want string
	}{
		{monitor.Status{}, "waiting for the log"},
		{monitor.Status{Audited: 5, Published: 10}, "audited 5 of 10 leaves"},
		{monitor.Status{Audited: 5, Published: 100, Rate: 2, Remaining: 47.5, Findings: 3}, "audited 5 of 100 leaves, 2 a second, about 48s left, 3 findings"},
	} {
		if got := progressLine(tt.st); got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
	if got := printable.Line("a\x1b[2J\u202eb\nc"); strings.ContainsAny(got, "\x1b\u202e\n") {
		t.Errorf("%q", got)
	}
}

// A long catch-up says each minute how far it is, to who has no terminal; a short one, or none, says nothing.
func TestLogProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines bytes.Buffer
		var st atomic.Pointer[monitor.Status]
		st.Store(&monitor.Status{Audited: 5, Published: 1000, Rate: 2, Remaining: 497.5})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			logProgress(ctx, func() monitor.Status { return *st.Load() }, slog.New(slog.NewTextHandler(&lines, nil)))
		}()
		time.Sleep(150 * time.Second)
		synctest.Wait()
		st.Store(&monitor.Status{Audited: 5, Published: 1000, Rate: 2, Remaining: 5})
		time.Sleep(150 * time.Second)
		cancel()
		<-done
		if got := lines.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "audited=5 published=1000") || !strings.Contains(got, "left=8m18s") {
			t.Errorf("logged\n%s", got)
		}
	})
}
