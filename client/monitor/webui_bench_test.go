package monitor_test

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/webui"
)

// records is how many records BenchmarkPages has. A million of them take some minutes to make.
var records = flag.Int("pages.records", 100_000, "records in the index of BenchmarkPages")

// BenchmarkPages has what pages of a monitor with many records cost, first while their figures are computed in the
// background and then with these, beside a handler that does nothing. It is here since the records are made up behind
// the monitor's back.
func BenchmarkPages(b *testing.B) {
	m := monitor.OpenSynthetic(b, *records)
	w := bundletest.NewWorld(b, bundletest.LogOptions{Witnesses: 2})
	ui, err := webui.New(webui.Config{Monitor: m, LogPolicy: w.Policy(), Root: w.Root(), Appraisal: w.Appraisal(), Rate: 1e9, Burst: 1e9})
	if err != nil {
		b.Fatal(err)
	}
	ask := func(tb testing.TB, h http.Handler, path string) string {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		if rec.Code != 200 {
			tb.Fatalf("%s: %d: %.500s", path, rec.Code, rec.Body)
		}
		return rec.Body.String()
	}
	paths := []string{
		"/", "/findings", "/search", "/search?vendor=https%3A%2F%2Fvendor-1.example", "/search?advisory=INTEL-SA-00002&tcb-status=UpToDate", "/search?role=final", "/checkpoints", "/vendors",
		"/vendors?id=https%3A%2F%2Fvendor-1.example", "/recall?advisory=INTEL-SA-00001",
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = ui.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	ms := func(f func()) float64 {
		begun := time.Now()
		f()
		return float64(time.Since(begun).Microseconds()) / 1000
	}
	megabyte := make([]byte, 1<<20)
	for _, path := range paths {
		// What the machine does at the time is told by the hash of a megabyte.
		hash := ms(func() { sha256.Sum256(megabyte) })
		fmt.Printf("first time: %-60s %6.1f ms; a megabyte hashed: %.1f ms\n", path, ms(func() { ask(b, ui, path) }), hash)
	}
	for _, path := range paths {
		for strings.Contains(ask(b, ui, path), `http-equiv="refresh"`) {
			time.Sleep(50 * time.Millisecond)
		}
	}
	trivial := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("ok")) })
	b.Run("trivial", func(b *testing.B) {
		for b.Loop() {
			ask(b, trivial, "/")
		}
	})
	for _, path := range paths {
		b.Run(path, func(b *testing.B) {
			for b.Loop() {
				ask(b, ui, path)
			}
		})
	}
}
