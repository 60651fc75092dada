package sessionlog

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are the log's. Labels come from fixed sets: names of problems, kinds of storage, and the witnesses of the log
// policy.
type metrics struct {
	submissions    *prometheus.CounterVec // by result
	addSeconds     prometheus.Histogram
	publishSeconds prometheus.Histogram
	storageErrors  *prometheus.CounterVec // by what
	vendorsReloads *prometheus.CounterVec // by result

	witnessRequests *prometheus.CounterVec // by witness and result
	witnessSeconds  *prometheus.HistogramVec
	witnessSize     *prometheus.GaugeVec

	appraiserRequests *prometheus.CounterVec // by appraiser and result
	appraiserSeconds  *prometheus.HistogramVec
	appraiserSize     *prometheus.GaugeVec
	appraised         *prometheus.CounterVec // by appraiser
}

func newMetrics(r *prometheus.Registry, l *Log) *metrics {
	const ns = "affidavit_log"
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Name: name, Help: help}, labels)
	}
	buckets := []float64{.005, .01, .02, .05, .1, .2, .5, 1, 1.5, 2, 5, 10, 30}
	m := &metrics{
		submissions:       counter("submissions_total", "Answered submissions, by result: admitted, duplicate, accepted, or the name of a problem.", "result"),
		addSeconds:        prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Name: "add_seconds", Help: "Time from a submission's arrival to the proof.", Buckets: buckets}),
		publishSeconds:    prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: ns, Name: "publish_seconds", Help: "Time from a candidate to its publication.", Buckets: buckets}),
		storageErrors:     counter("storage_errors_total", "Failed reads and writes, by what for.", "what"),
		vendorsReloads:    counter("vendors_reloads_total", "Changes of the vendors file, by result.", "result"),
		witnessRequests:   counter("witness_requests_total", "Requests to witnesses, by witness and result.", "witness", "result"),
		witnessSeconds:    prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Name: "witness_seconds", Help: "Time a witness took to cosign.", Buckets: buckets}, []string{"witness"}),
		witnessSize:       prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Name: "witness_size", Help: "Size that a witness has cosigned."}, []string{"witness"}),
		appraiserRequests: counter("appraiser_requests_total", "Requests to appraisers, by appraiser and result: cosigned, behind, failed.", "appraiser", "result"),
		appraiserSeconds:  prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Name: "appraiser_seconds", Help: "Time an appraiser took to cosign.", Buckets: buckets}, []string{"appraiser"}),
		appraiserSize:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Name: "appraiser_size", Help: "Size that an appraiser has cosigned."}, []string{"appraiser"}),
		appraised:         counter("appraised_checkpoints_total", "Checkpoints that an appraiser's cosignature joined while they were served.", "appraiser"),
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: name, Help: help}, f)
	}
	r.MustRegister(m.submissions, m.addSeconds, m.publishSeconds, m.storageErrors, m.vendorsReloads, m.witnessRequests, m.witnessSeconds, m.witnessSize,
		m.appraiserRequests, m.appraiserSeconds, m.appraiserSize, m.appraised,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("in_flight", "Submissions being judged or appended.", func() float64 { n, _ := l.flight.inUse(); return float64(n) }),
		gauge("in_flight_vendors", "Vendors that have submissions being judged or appended.", func() float64 { _, n := l.flight.inUse(); return float64(n) }),
		gauge("halted", "1 if the log was halted.", func() float64 {
			if l.Err() != nil {
				return 1
			}
			return 0
		}),
		gauge("frozen", "1 if the log has ended.", func() float64 {
			if l.frozen != nil {
				return 1
			}
			return 0
		}),
		gauge("integrated_size", "Leaves in the tree.", func() float64 {
			if l.tree == nil {
				return 0
			}
			return float64(l.tree.size.Load())
		}),
		gauge("published_size", "Leaves that the published checkpoint covers.", func() float64 {
			if l.pub == nil {
				return 0
			}
			return float64(l.pub.size())
		}),
		gauge("published_age_seconds", "Time since the last publication by this process, 0 if there was none.", func() float64 {
			if l.pub == nil {
				return 0
			}
			pub := l.pub.now.Load()
			if pub == nil || pub.at.IsZero() {
				return 0
			}
			return time.Since(pub.at).Seconds()
		}),
	)
	return m
}
