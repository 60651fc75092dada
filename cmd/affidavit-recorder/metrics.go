package main

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"

	"github.com/affidavit-log/affidavit/client/session/inference"
	"github.com/affidavit-log/affidavit/client/session/otlp"
	"github.com/affidavit-log/affidavit/client/session/recorder"
)

// metrics serves the recorder's numbers in the Prometheus text format, which takes too little for a library in the trust
// domain. All are there from the beginning, so that an alert can tell zero from absent.
type metrics struct {
	recorder *recorder.Recorder
	mapper   *otlp.Mapper
	proxy    *inference.Proxy // nil without inference
	ready    atomic.Bool      // set once everything listens
}

// series are the names without prefix, in the order in which they are served. what is the recorder's own name of the
// count, by which Counts has it.
var series = []struct{ name, what, kind, help string }{
	{"actions_total", "actions", "counter", "Actions that were acknowledged, and are in a session's journal."},
	{"duplicates_total", "duplicates", "counter", "Events that had been delivered before."},
	{"late_total", "late", "counter", "Events that came after the end of their session, and were rejected."},
	{"refused_total", "refused", "counter", "Events that no session could take, because there are too many."},
	{"unknown_events_total", "unknown_events", "counter", "Hook events that no table has."},
	{"unlinked_calls_total", "unlinked_calls", "counter", "Calls of models that are said to have records, of which none was had."},
	{"retries_total", "retries", "counter", "Attempts to log a record that failed and were put off."},
	{"sessions_started_total", "sessions_started", "counter", "Sessions whose start is logged."},
	{"sessions_finished_total", "sessions_finished", "counter", "Sessions whose final record is logged."},
	{"sessions_starting", "sessions_starting", "gauge", "Sessions whose start isn't logged yet."},
	{"sessions_recording", "sessions_recording", "gauge", "Sessions that are being recorded."},
	{"sessions_ending", "sessions_ending", "gauge", "Sessions whose final record isn't logged yet."},
}

// telemetryKinds are what becomes of spans and log records that don't become actions of a kind that is known.
var telemetryKinds = []string{otlp.CountUnknown, otlp.CountForeign, otlp.CountDuplicate, otlp.CountInvalid}

func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if !m.ready.Load() {
			http.Error(w, "not everything listens yet", http.StatusServiceUnavailable)
			return
		}
		io.WriteString(w, "ready\n")
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		head := func(name, kind, help string) {
			fmt.Fprintf(w, "# HELP affidavit_recorder_%s %s\n# TYPE affidavit_recorder_%[1]s %[3]s\n", name, help, kind)
		}
		counts := m.recorder.Counts()
		for _, s := range series {
			head(s.name, s.kind, s.help)
			fmt.Fprintf(w, "affidavit_recorder_%s %d\n", s.name, counts[s.what])
		}
		head("telemetry_total", "counter", "Spans and log records that did not become actions of a known kind.")
		kinds := m.mapper.Counts()
		for _, k := range telemetryKinds {
			fmt.Fprintf(w, "affidavit_recorder_telemetry_total{kind=%q} %d\n", k, kinds[k])
		}
		if m.proxy != nil {
			calls, runs := m.proxy.Counts()
			head("model_calls_total", "counter", "Calls of the model that are in the journal.")
			fmt.Fprintf(w, "affidavit_recorder_model_calls_total %d\n", calls)
			head("model_runs_total", "counter", "Records of model runs that are logged.")
			fmt.Fprintf(w, "affidavit_recorder_model_runs_total %d\n", runs)
		}
	})
	return mux
}
