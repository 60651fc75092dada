package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/affidavit-log/affidavit/client/monitor"
)

// deliverers answers GET /api/deliverers: a list of deliver.Status.
func (d *daemon) deliverers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	// An error means that the client has gone.
	_ = json.NewEncoder(w).Encode(d.receivers.Status(d.monitor.Status().Findings))
}

// privateHandler is for operators: /metrics, /health (200 while the process works), /ready (200 once a checkpoint is
// audited), /debug/pprof/. It must not be public.
func (d *daemon) privateHandler() http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(metrics{d}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if _, _, note := d.monitor.Verified(); note == nil {
			http.Error(w, "no checkpoint is audited yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// metrics is a collector of what the daemon's parts say about themselves. Labels come from fixed sets: the kinds of
// findings, and the names in the flags.
type metrics struct{ *daemon }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("affidavit_monitor_"+name, help, labels, nil)
}

var (
	descVerified  = desc("verified_size", "Size of the newest checkpoint of which everything is audited.")
	descAudited   = desc("audited_size", "Leaves that are audited.")
	descPublished = desc("published_size", "Size of the newest checkpoint that the log has shown.")
	descLag       = desc("lag", "Published leaves that aren't audited yet.")
	descRate      = desc("audit_rate", "Leaves audited a second while catching up, else 0.")
	descRemaining = desc("audit_remaining_seconds", "How long the rest of a catch-up will take at audit_rate, else 0.")
	descHalted    = desc("halted", "1 while a finding of class tamper keeps the audit from going on.")
	descError     = desc("poll_failed", "1 if the last look at the log didn't end as it should.")
	descFailures  = desc("poll_failures_total", "Looks at the log that didn't end as they should.")
	descPoll      = desc("last_poll_timestamp_seconds", "When the last look at the log ended.")
	descContact   = desc("last_contact_timestamp_seconds", "When the log last showed a good checkpoint.")
	descClock     = desc("log_clock_timestamp_seconds", "The largest time in an audited leaf.")
	descFindings  = desc("findings", "Findings by kind. The class and severity follow from the kind.", "class", "severity", "kind")
	descWitness   = desc("witness_size", "Size of the newest checkpoint that a witness has shown.", "witness")
	descSilent    = desc("witness_failed", "1 if the witness couldn't be asked the last time.", "witness")
	descQueue     = desc("deliverer_queue", "Findings that a receiver hasn't got yet, wanted or not.", "deliverer")
	descDelivered = desc("deliverer_delivered_total", "Findings delivered to a receiver.", "deliverer")
	descFailed    = desc("deliverer_failures_total", "Failed attempts to deliver to a receiver.", "deliverer")
	descBlocked   = desc("appraiser_blocked", "1 while a disputed entry keeps the appraiser from cosigning.")
	descMirror    = desc("mirror_size", "Size of the checkpoint that the mirror serves.")
)

// Describe implements prometheus.Collector.
func (m metrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements prometheus.Collector.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := func(d *prometheus.Desc, set bool, labels ...string) {
		v := 0.0
		if set {
			v = 1
		}
		gauge(d, v, labels...)
	}
	st := m.monitor.Status()
	gauge(descVerified, float64(st.Verified))
	gauge(descAudited, float64(st.Audited))
	gauge(descPublished, float64(st.Published))
	gauge(descLag, float64(st.Lag))
	gauge(descRate, st.Rate)
	gauge(descRemaining, st.Remaining)
	flag(descHalted, st.Halted != "")
	flag(descError, st.Error != "")
	ch <- prometheus.MustNewConstMetric(descFailures, prometheus.CounterValue, float64(st.Failures))
	if !st.LastPoll.IsZero() {
		gauge(descPoll, float64(st.LastPoll.UnixMilli())/1000)
	}
	if !st.LastContact.IsZero() {
		gauge(descContact, float64(st.LastContact.UnixMilli())/1000)
	}
	if !st.LogClock.IsZero() {
		gauge(descClock, float64(st.LogClock.UnixMilli())/1000)
	}
	for _, k := range monitor.Kinds() {
		class, severity := k.Class(), k.Severity()
		gauge(descFindings, float64(st.ByKind[k]), string(class), string(severity), string(k))
	}
	for _, w := range st.Witnesses {
		gauge(descWitness, float64(w.Size), w.Name)
		flag(descSilent, w.Error != "", w.Name)
	}
	for _, s := range m.receivers.Status(st.Findings) {
		gauge(descQueue, float64(s.Queue), s.Name)
		ch <- prometheus.MustNewConstMetric(descDelivered, prometheus.CounterValue, float64(s.Delivered), s.Name)
		ch <- prometheus.MustNewConstMetric(descFailed, prometheus.CounterValue, float64(s.Failed), s.Name)
	}
	if m.appraiser != nil {
		flag(descBlocked, m.appraiser.Blocked() != nil)
	}
	if m.mirror != nil {
		if size, ok := m.mirror.Size(); ok {
			gauge(descMirror, float64(size))
		}
	}
}
