package witness

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// TestRecover restores an old state, and shows what --recover is for.
func TestRecover(t *testing.T) {
	dir := t.TempDir()
	l := newTestLog(t, "log.example/a", 40)
	cfg := testConfig(t, l)
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 5)
	w.Close()
	backup, err := os.ReadFile(cfg.State)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Init = false
	w = startWitness(t, cfg)
	published := filepath.Join(dir, "checkpoint")
	publish := func(note string) {
		t.Helper()
		if err := os.WriteFile(published, []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	publish(string(l.note(20)) + w.mustAdd(l, 5, 20))
	w.Close()
	restore := func(edit func(c *Config)) *testWitness {
		t.Helper()
		c := cfg
		c.State = filepath.Join(t.TempDir(), "state.db")
		if err := os.WriteFile(c.State, backup, 0o600); err != nil {
			t.Fatal(err)
		}
		c.RecoverFrom = map[string][]string{l.origin: {published}}
		edit(&c)
		return startWitness(t, c)
	}
	fork := l.fork(5).grow(35, "fork")

	// Without --recover, the restored witness is rolled back: this is the danger.
	restore(func(*Config) {}).mustAdd(fork, 5, 20)

	// With it, nothing is cosigned before the log's checkpoint was seen.
	w = restore(func(c *Config) { c.Recover = true })
	w.add(fork.request(5, 20)).check(t, "before recovery", 503, "restored")
	w.add(l.request(20, 40)).check(t, "before recovery", 503, "restored")
	if !strings.Contains(httpGet(t, w.MetricsHandler(), "/metrics"), "affidavit_witness_logs_held 1") {
		t.Error("no metric of held logs")
	}
	ready := func() int {
		r := httptest.NewRecorder()
		w.MetricsHandler().ServeHTTP(r, httptest.NewRequest("GET", "/ready", nil))
		return r.Code
	}
	if s := ready(); s != 503 {
		t.Errorf("/ready is %d while its only log is held", s)
	}
	w.recoverHeld(t.Context())
	if s := ready(); s != 200 {
		t.Errorf("/ready is %d after the recovery", s)
	}
	w.add(fork.request(5, 20)).check(t, "after recovery", 409, "20\n")
	w.mustAdd(l, 20, 40)
	if a := w.do("GET", "/"+originHash(l.origin)+"/checkpoint", nil); !strings.HasPrefix(a.body, string(l.note(40))) {
		t.Errorf("served %s", a.body)
	}

	// A restart doesn't end the hold; Run retries.
	w = restore(func(c *Config) { c.Recover = true; c.RecoverFrom = map[string][]string{l.origin: {dir + "/nothing"}} })
	w.recoverHeld(t.Context())
	w.add(l.request(5, 20)).check(t, "unreachable", 503, "restored")
	w.Close()
	c := w.cfg
	c.Recover = false
	w = startWitness(t, c)
	w.recoverHeld(t.Context())
	w.add(fork.request(5, 20)).check(t, "unreachable, restarted", 503, "restored")
	w.Close()
	c.RecoverFrom = map[string][]string{l.origin: {published}}
	w = startWitness(t, c)
	w.recoverHeld(t.Context())
	w.add(fork.request(5, 20)).check(t, "recovered at last", 409, "20\n")
	w.Close()
	w = startWitness(t, c) // the hold is over for good
	w.mustAdd(l, 20, 20)

	own := func(l *testLog, size int64) string {
		return string(l.sign(l.checkpoint(size).Text(), l.key, w.cfg.Keys[0]))
	}
	forged := strings.Replace(own(l, 20), "\n20\n", "\n21\n", 1)
	other := newTestLog(t, "log.example/b", 30)
	stranger := l.clone()
	stranger.key = testKey(t, checkpoint.Ed25519, l.origin, 55)
	for _, tt := range []struct {
		name string
		note string
		size string // known afterwards, "" if held
	}{
		{"smaller than the state", own(l, 3), "5\n"},
		{"the state's", own(l, 5), "5\n"},
		{"no own cosignature", string(l.note(20)), "5\n"},
		{"larger", own(l, 33), "33\n"},
		{"another root than the state's", own(l.fork(3).grow(2, "fork"), 5), ""},
		{"another log", own(other, 20), ""},
		{"not signed by the log", own(stranger, 20), ""},
		{"bad signatures", forged, ""},
		{"garbage", "garbage", ""},
		{"size 0, another root", string(l.sign([]byte(l.origin+"\n0\n"+b64([32]byte{1})+"\n"), l.key, w.cfg.Keys[0])), ""},
	} {
		publish(tt.note)
		w := restore(func(c *Config) { c.Recover = true })
		w.recoverHeld(context.Background())
		if tt.size == "" {
			w.add(l.request(0, 40)).check(t, tt.name, 503, "")
		} else {
			w.add(l.request(0, 40)).check(t, tt.name, 409, tt.size)
		}
		w.Close()
	}

	// The largest of several places counts, and all must answer.
	second := filepath.Join(dir, "second")
	if err := os.WriteFile(second, []byte(own(l, 30)), 0o600); err != nil {
		t.Fatal(err)
	}
	publish(own(l, 20))
	w = restore(func(c *Config) {
		c.Recover = true
		c.RecoverFrom = map[string][]string{l.origin: {published, second}}
	})
	w.recoverHeld(t.Context())
	w.add(l.request(0, 40)).check(t, "two places", 409, "30\n")
	publish(own(fork, 30))
	w = restore(func(c *Config) {
		c.Recover = true
		c.RecoverFrom = map[string][]string{l.origin: {published, second}}
	})
	w.recoverHeld(t.Context())
	w.add(l.request(0, 40)).check(t, "own cosignatures on a fork", 503, "")

	// A log that appears in a list after the restore is held too.
	list := filepath.Join(dir, "list")
	if err := os.WriteFile(list, formatLogList(Log{other.origin, other.key.Verifier(), 86400}), 0o600); err != nil {
		t.Fatal(err)
	}
	publish(own(other, 30))
	w = restore(func(c *Config) {
		c.Recover = true
		c.LogLists = []string{list}
		c.RecoverFrom = map[string][]string{other.origin: {published}}
	})
	w.add(other.request(0, 5)).check(t, "listed log", 503, "")
	w.recoverHeld(t.Context())
	w.add(other.request(0, 5)).check(t, "listed log, recovered", 409, "30\n")
}

// TestDamagedState cuts the database off, as a full disk or a broken copy does.
func TestDamagedState(t *testing.T) {
	l := newTestLog(t, "log.example/a", 5)
	cfg := testConfig(t, l)
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 5)
	w.Close()
	cfg.Init = false
	whole, err := os.ReadFile(cfg.State)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	for _, size := range []int{0, 1, page, 2 * page, 3 * page} {
		if err := os.WriteFile(cfg.State, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := Open(cfg); err == nil {
			w.Close()
			t.Errorf("opened the first %d of %d bytes", size, len(whole))
		} else if !strings.Contains(err.Error(), cfg.State) {
			t.Errorf("%d bytes: %v, which names no file", size, err)
		}
	}
}
