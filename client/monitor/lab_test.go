package monitor

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
)

// A lab is a log that a monitor follows, and whose answers can be tampered with.
type lab struct {
	*bundletest.World
	t   testing.TB
	url string
	dir string
	cfg Config
	m   *Monitor

	mu     sync.Mutex
	answer func(rw http.ResponseWriter, r *http.Request) bool // answers instead of the log, if it wants to
	reads  map[string]int                                     // requests by path

	sessions int
}

// newLab returns a lab whose log has vendors, collateral and a first time leaf.
func newLab(t testing.TB, o bundletest.LogOptions) *lab {
	t.Helper()
	l := &lab{World: bundletest.NewWorld(t, o), t: t, dir: t.TempDir(), reads: make(map[string]int)}
	l.AddVendorKey(l.Vendor)
	l.AddVendorKey(l.Gateway)
	l.AddRelease(l.Vendor)
	l.AddRelease(l.Gateway)
	l.AddCollateral(l.Set)
	l.Tick(time.Second)
	l.AddTime()
	l.url = l.serve(l.World.Handler())
	return l
}

// witnesses are the usual options.
var witnesses = bundletest.LogOptions{Witnesses: 2}

// serve serves a handler, through what the test does to answers.
func (l *lab) serve(h http.Handler) string {
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		l.mu.Lock()
		l.reads[r.URL.Path]++
		answer := l.answer
		l.mu.Unlock()
		if answer == nil || !answer(rw, r) {
			h.ServeHTTP(rw, r)
		}
	}))
	l.t.Cleanup(s.Close)
	return s.URL
}

// tamper has requests for a path answered by f.
func (l *lab) tamper(path string, f func(honest []byte) []byte) {
	h := l.World.Handler()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, path) {
			return false
		}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		body := rec.Body.Bytes()
		if rec.Header().Get("Content-Encoding") == "gzip" {
			body = gunzip(l.t, body)
		}
		b := f(body)
		if b == nil {
			http.NotFound(rw, r)
			return true
		}
		rw.Write(b)
		return true
	}
}

// honest has nothing tampered with any more.
func (l *lab) honest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = nil
}

// open opens the monitor.
func (l *lab) open(edit ...func(*Config)) *Monitor {
	l.t.Helper()
	c, err := client.New(l.url, client.Config{})
	if err != nil {
		l.t.Fatal(err)
	}
	l.cfg = Config{
		Log: c, LogPolicy: l.Policy(), AllowQuorumNone: len(l.Witnesses) == 0, Dir: l.dir, Root: l.Root(),
		Now: func() time.Time { return l.Now },
	}
	for _, e := range edit {
		e(&l.cfg)
	}
	m, err := Open(l.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { m.Close() })
	l.m = m
	return m
}

// step polls once.
func (l *lab) step() {
	l.t.Helper()
	if err := l.m.Step(context.Background()); err != nil {
		l.t.Fatal(err)
	}
}

// publish publishes the log, and polls.
func (l *lab) publish() {
	l.t.Helper()
	l.Publish(l.Now)
	l.step()
}

// findings returns all findings.
func (l *lab) findings() []*Finding {
	l.t.Helper()
	found, err := l.m.Findings(0, 1<<20)
	if err != nil {
		l.t.Fatal(err)
	}
	return found
}

// wantNone fails if there is a finding.
func (l *lab) wantNone() {
	l.t.Helper()
	for _, f := range l.findings() {
		l.t.Errorf("finding %s: %s", f.Kind, f.Message)
	}
}

// want fails unless the findings are of these kinds, in any order, and returns the first.
func (l *lab) want(kinds ...Kind) *Finding {
	l.t.Helper()
	found := l.findings()
	var got []Kind
	for _, f := range found {
		got = append(got, f.Kind)
	}
	slices.Sort(got)
	kinds = slices.Sorted(slices.Values(kinds))
	if !slices.Equal(got, kinds) {
		for _, f := range found {
			l.t.Logf("%s: %s", f.Kind, f.Message)
		}
		l.t.Fatalf("findings %v, want %v", got, kinds)
	}
	if len(found) == 0 {
		return nil
	}
	return found[0]
}

// A session has the indices of its leaves.
type session struct {
	start, run, final uint64
	number            int
}

// another makes the next session's names: a session has a key, an id and a number of its own.
func (l *lab) another() {
	l.sessions++
	l.name(l.sessions)
}

// name takes the names of a session up again.
func (l *lab) name(n int) {
	label := fmt.Sprint(n)
	l.World.Session = record.SessionID(sha256Sum("session " + label))
	l.SessionKey = bundletest.KeyFrom("session " + label)
}

// session logs a whole session with a model run, and time leaves that cover it.
func (l *lab) session(edit ...func(*bundletest.Draft)) (s session) {
	l.another()
	l.Tick(5 * time.Second)
	s.start = l.AddStart(edit...)
	l.Tick(5 * time.Second)
	l.AddTime()
	l.Tick(time.Minute)
	s.run = l.AddModelRun(s.start)
	l.Tick(5 * time.Second)
	l.AddTime()
	l.Tick(time.Minute)
	s.final = l.AddFinal(s.start, []uint64{s.run})
	l.Tick(5 * time.Second)
	l.AddTime()
	l.Tick(time.Second)
	return s
}

// netDNSError is an error that isn't tried again.
var netDNSError = net.DNSError{Err: "no such host", Name: "log.invalid", IsNotFound: true}

func unused(testing.TB) string { return "log.invalid" }

// fill logs time leaves until the log has a size.
func (l *lab) fill(size uint64) {
	for l.Size() < size {
		l.Tick(time.Second)
		l.AddTime()
	}
}
