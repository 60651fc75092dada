package witness

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// Two logs, the second with an origin that isn't its key's name.
func testList(t testing.TB) string {
	a := testKey(t, checkpoint.Ed25519, "log.example/a", 1).VKey()
	b := testKey(t, checkpoint.Ed25519, "log.example/b", 1).VKey()
	return "# Logs that somebody knows.\nlogs/v0\n\nvkey " + a + "\nqpd 86400\ncontact sysadmin (at) example.com\n\n" +
		"# the other\nvkey " + b + "\norigin another origin\nqpd 2147483647\ncontact https://example.com/\n"
}

func TestParseLogList(t *testing.T) {
	good := testList(t)
	logs, err := ParseLogList([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if len(logs) != 2 || logs[0].Origin != "log.example/a" || logs[0].QPD != 86400 || logs[1].Origin != "another origin" || logs[1].Key.Name() != "log.example/b" {
		t.Errorf("%+v", logs)
	}
	if logs, err := ParseLogList([]byte("logs/v0\n")); err != nil || len(logs) != 0 {
		t.Errorf("no logs: %v", err)
	}
	sub := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("nothing to replace for %q", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	a := strings.Split(good, "\n")[3]
	for _, tt := range []struct{ name, list string }{
		{"empty", ""},
		{"comments only", "# logs/v0\n"},
		{"a private key", "PRIVATE+KEY+w+00000000+AQID\n"},
		{"version 1", sub("logs/v0", "logs/v1")},
		{"no header", sub("logs/v0\n", "")},
		{"no final newline", good[:len(good)-1]},
		{"CR", sub("qpd 86400\n", "qpd 86400\r\n")},
		{"ends within an entry", good[:strings.LastIndex(good, "contact")]},
		{"no qpd", sub("qpd 86400\n", "")},
		{"no contact", sub("contact sysadmin (at) example.com\n", "")},
		{"qpd before vkey", sub(a+"\nqpd 86400\n", "qpd 86400\n"+a+"\n")},
		{"contact before qpd", sub("qpd 86400\ncontact sysadmin (at) example.com\n", "contact sysadmin (at) example.com\nqpd 86400\n")},
		{"origin after qpd", sub("origin another origin\nqpd 2147483647\n", "qpd 2147483647\norigin another origin\n")},
		{"two origins", sub("origin another origin\n", "origin another origin\norigin x\n")},
		{"two vkeys", sub(a+"\n", a+"\n"+a+"\n")},
		{"unknown keyword", sub("qpd 86400", "rate 86400")},
		{"qpd 0", sub("qpd 86400", "qpd 0")},
		{"qpd 08", sub("qpd 86400", "qpd 08")},
		{"qpd +8", sub("qpd 86400", "qpd +8")},
		{"qpd 2^31", sub("qpd 86400", "qpd 2147483648")},
		{"empty origin", sub("origin another origin", "origin ")},
		{"empty contact", sub("contact sysadmin (at) example.com", "contact")},
		{"leading blank", sub("qpd 86400", " qpd 86400")},
		{"malformed vkey", sub(a, a+"=")},
		{"ML-DSA vkey", sub(a, "vkey "+testKey(t, checkpoint.CosignatureMLDSA44, "log.example/a", 1).VKey())},
		{"witness's vkey", sub(a, "vkey "+testKey(t, checkpoint.CosignatureEd25519, "log.example/a", 1).VKey())},
		{"an origin twice", sub("origin another origin", "origin log.example/a")},
		{"origin isn't UTF-8", sub("another origin", "another\xff")},
		{"escape in the origin", sub("another origin", "another\x1b")},
	} {
		if logs, err := ParseLogList([]byte(tt.list)); err == nil {
			t.Errorf("%s: accepted as %+v", tt.name, logs)
		}
	}
}

func FuzzParseLogList(f *testing.F) {
	f.Add([]byte(testList(f)))
	f.Add([]byte("logs/v0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		logs, err := ParseLogList(b)
		if err != nil {
			return
		}
		for _, l := range logs {
			text := formatLogList(l)
			again, err := ParseLogList(text)
			if err != nil || len(again) != 1 || again[0].Origin != l.Origin || again[0].QPD != l.QPD || again[0].Key.String() != l.Key.String() {
				t.Errorf("%+v is kept as %q, which is %+v, %v", l, text, again, err)
			}
			if !bytes.Equal(formatLogList(again[0]), text) {
				t.Errorf("kept in two ways: %q", text)
			}
		}
	})
}

// TestListOnlyAdds replaces a list by hostile ones.
func TestListOnlyAdds(t *testing.T) {
	l := newTestLog(t, "log.example/a", 20)
	list := filepath.Join(t.TempDir(), "list")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(list, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entry := func(origin string, k *checkpoint.SigningKey, qpd int) string {
		return fmt.Sprintf("vkey %s\norigin %s\nqpd %d\ncontact x\n", k.VKey(), origin, qpd)
	}
	write("logs/v0\n" + entry(l.origin, l.key, 86400))
	cfg := testConfig(t)
	cfg.LogLists = []string{list}
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 5)

	// Another key for the known log, and a limit that would stop it; and a new log.
	evil := l.clone()
	evil.key = testKey(t, checkpoint.Ed25519, l.origin, 66)
	other := newTestLog(t, "log.example/other", 5)
	write("logs/v0\n" + entry(l.origin, evil.key, 1) + entry(other.origin, other.key, 86400))
	w.readLists(context.Background(), cfg.LogLists)
	w.add(evil.request(5, 6)).check(t, "the list's other key", 403, "")
	for i := int64(5); i < 18; i++ { // more than qpd 1 lets through
		w.mustAdd(l, i, i+1)
	}
	w.mustAdd(other, 0, 5)

	// Malformed, empty, gone: nothing is forgotten, also not after a restart
	// with an empty list. Then a flag adds a second key for the log.
	for _, s := range []string{"junk", "logs/v0\n"} {
		write(s)
		w.readLists(context.Background(), cfg.LogLists)
		w.mustAdd(l, 18, 18)
	}
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	w.readLists(context.Background(), cfg.LogLists)
	if got := w.m.failedLists(); len(got) != 1 {
		t.Errorf("failed lists: %v", got)
	}
	w.mustAdd(l, 18, 19)
	w.Close()
	write("logs/v0\n")
	cfg.Init = false
	again := startWitness(t, cfg)
	again.mustAdd(l, 19, 20)
	again.mustAdd(other, 5, 5)
	again.Close()
	rotated := l.clone()
	rotated.key = testKey(t, checkpoint.Ed25519, l.origin, 9)
	cfg.Logs = []Log{{Origin: l.origin, Key: rotated.key.Verifier()}, {Origin: l.origin, Key: l.key.Verifier()}}
	third := startWitness(t, cfg)
	third.mustAdd(l, 20, 20)
	third.mustAdd(rotated, 20, 20)
	third.Close()

	// The new key alone is a further one: what the list said stays known.
	cfg.Logs = cfg.Logs[:1]
	fourth := startWitness(t, cfg)
	fourth.mustAdd(l, 20, 20)
	fourth.mustAdd(rotated, 20, 20)
	fourth.Close()
	cfg.Logs = append(cfg.Logs, cfg.Logs[0])
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("the same key twice: %v", err)
	}
}

// TestStateOfUnlistedLog takes a log from a flag to a list: its state goes with it.
func TestStateOfUnlistedLog(t *testing.T) {
	l := newTestLog(t, "log.example/a", 20)
	cfg := testConfig(t, l)
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 9)
	w.Close()
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, formatLogList(Log{l.origin, l.key.Verifier(), 86400}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Init, cfg.Logs, cfg.LogLists = false, nil, []string{list}
	again := startWitness(t, cfg)
	again.add(l.request(0, 5)).check(t, "rollback through a list", 409, "9\n")
	again.mustAdd(l, 9, 20)
}

// TestListPolling reads a list at a URL that is down at first.
func TestListPolling(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		var up atomic.Bool
		list := testList(t)
		cfg := Config{Name: testName, Keys: testKeys(t), State: filepath.Join(dir, "state.db"), Init: true, LogLists: []string{"https://list.example/logs"}}
		cfg.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			reads.Add(1)
			rec := httptest.NewRecorder()
			if up.Load() && r.URL.String() == "https://list.example/logs" {
				rec.WriteString(list)
			} else {
				rec.WriteHeader(http.StatusBadGateway)
			}
			return rec.Result(), nil
		})}
		w, err := Open(cfg)
		if err != nil {
			t.Fatal(err) // it may be down
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		time.Sleep(150 * time.Second)
		synctest.Wait()
		if n := reads.Load(); n != 3 { // at the start, after one minute and after two
			t.Errorf("%d reads while down, want 3", n)
		}
		up.Store(true)
		time.Sleep(time.Minute)
		synctest.Wait()
		if w.lookup("another origin") == nil {
			t.Error("the list wasn't read when it was up again")
		}
		reads.Store(0)
		time.Sleep(3 * time.Hour)
		synctest.Wait()
		if n := reads.Load(); n != 3 {
			t.Errorf("%d reads in three hours, want 3", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
