// Package sessiontest makes what tests of recorders need: a log that answers over HTTP, with vendors whose trust domain is
// the test's own process, and a directory in memory. Tests only.
package sessiontest

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
)

// A Log is a log over HTTP. Its world's Now is the time in it and in all trust domains.
type Log struct {
	*bundletest.World
	URL string

	// Mu is held while a request is handled. It guards the world, and what follows.
	Mu sync.Mutex

	Down  bool                                                               // it answers nothing
	Idle  bool                                                               // it makes no time leaves of its own
	Gate  func(w http.ResponseWriter, r *http.Request, e *record.Entry) bool // may answer a submission itself
	After func(e *record.Entry) bool                                         // may lose the answer to one
	Adds  []*record.Entry                                                    // what was submitted

	t testing.TB
}

// NewWorld is the world that all logs of this package begin with: the same in every process.
func NewWorld(t testing.TB) *bundletest.World {
	return bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 3, Threshold: 2})
}

// At is the log at a URL, in another process than its own: its vendors and policies are here, and nothing of its state.
func At(t testing.TB, url string) *Log { return &Log{World: NewWorld(t), URL: url, t: t} }

// New starts a log that has the keys and releases of the world's vendor and gateway.
func New(t testing.TB) *Log {
	t.Helper()
	l := At(t, "")
	for _, v := range []*bundletest.Vendor{l.Vendor, l.Gateway} {
		l.AddVendorKey(v)
		l.AddRelease(v)
	}
	l.AddCollateral(l.Set)
	l.AddTime()
	l.Publish(l.Now)
	h := l.Handler()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.Mu.Lock()
		defer l.Mu.Unlock()
		l.serve(h, w, r)
	}))
	t.Cleanup(srv.Close)
	l.URL = srv.URL
	return l
}

func (l *Log) serve(h http.Handler, w http.ResponseWriter, r *http.Request) {
	if l.Down {
		panic(http.ErrAbortHandler)
	}
	if r.Method != http.MethodPost {
		h.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	e, err := record.ParseEntry(body)
	if err != nil {
		l.t.Errorf("submitted: %v", err)
		return
	}
	l.Adds = append(l.Adds, e)
	if l.Gate != nil && l.Gate(w, r, e) {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, r)
	if l.After != nil && l.After(e) {
		panic(http.ErrAbortHandler)
	}
	if !l.Idle {
		l.Covered()
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	w.Write(answer.Body.Bytes())
}

// Covered makes a time leaf that covers all before it. Mu is held.
func (l *Log) Covered() {
	l.Tick(2 * time.Second)
	l.AddTime()
	l.Tick(2 * time.Second)
	l.Publish(l.Now)
}

// Time is the time in the world.
func (l *Log) Time() time.Time {
	l.Mu.Lock()
	defer l.Mu.Unlock()
	return l.Now
}

// Client is a client of the log that knows its policy.
func (l *Log) Client() *client.Client {
	l.t.Helper()
	c, err := client.New(l.URL, client.Config{LogPolicy: l.Policy()})
	if err != nil {
		l.t.Fatal(err)
	}
	return c
}

// Memory returns a directory in memory, or on a disk if the machine has no /dev/shm.
func Memory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "affidavit-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Until waits for something that another goroutine does.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}
