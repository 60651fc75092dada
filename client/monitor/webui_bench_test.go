package monitor_test

import (
	"context"
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

// BenchmarkPages has what pages of a monitor with 100,000 records cost, first while their figures are computed in the
// background and then with these, beside a handler that does nothing. It is here since the records are made up behind
// the monitor's back.
func BenchmarkPages(b *testing.B) {
	m := monitor.OpenSynthetic(b, 100_000)
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
		"/", "/findings", "/search?vendor=https%3A%2F%2Fvendor-1.example", "/search?advisory=INTEL-SA-00002&tcb-status=UpToDate", "/vendors",
		"/vendors?id=https%3A%2F%2Fvendor-1.example", "/recall?advisory=INTEL-SA-00001",
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = ui.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	for _, path := range paths {
		begun := time.Now()
		ask(b, ui, path)
		fmt.Printf("first time: %-60s %6.1f ms\n", path, float64(time.Since(begun).Microseconds())/1000)
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
