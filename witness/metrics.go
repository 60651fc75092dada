package witness

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics are the witness's numbers. Their labels are from fixed sets: calls,
// statuses that this package answers, configured lists, and origins of known
// logs. Nothing in a request becomes a label.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec

	mu    sync.Mutex // guards lists
	lists map[string]listStatus
}

type listStatus struct {
	failed bool
	read   time.Time // the last success
}

func newMetrics(w *Witness) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "affidavit_witness_requests_total",
			Help: "Answers by call and HTTP status.",
		}, []string{"call", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "affidavit_witness_request_seconds",
			Help:    "Time from the request's header to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}, []string{"call"}),
		lists: make(map[string]listStatus),
	}
	m.registry.MustRegister(m.requests, m.duration, &logCollector{w}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, call := range []string{"add-checkpoint", "sign-subtree"} {
		m.requests.WithLabelValues(call, strconv.Itoa(http.StatusOK))
		m.duration.WithLabelValues(call)
	}
	return m
}

func (m *metrics) observe(call string, status int, d time.Duration) {
	m.requests.WithLabelValues(call, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(call).Observe(d.Seconds())
}

func (m *metrics) listRead(where string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.lists[where]
	s.failed = err != nil
	if err == nil {
		s.read = time.Now()
	}
	m.lists[where] = s
}

// failedLists returns the lists whose last reading failed.
func (m *metrics) failedLists() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var failed []string
	for where, s := range m.lists {
		if s.failed {
			failed = append(failed, where)
		}
	}
	slices.Sort(failed)
	return failed
}

// logCollector makes the metrics about logs when they are asked for, from the
// state that there is anyway: with 10,000 logs, gauges would take megabytes.
type logCollector struct{ w *Witness }

var (
	descLogs   = prometheus.NewDesc("affidavit_witness_logs", "Known logs.", nil, nil)
	descHeld   = prometheus.NewDesc("affidavit_witness_logs_held", "Logs not cosigned for until recovered after a restore.", nil, nil)
	descFailed = prometheus.NewDesc("affidavit_witness_state_failed", "1 if the state can't be written and nothing is cosigned.", nil, nil)
	descSize   = prometheus.NewDesc("affidavit_witness_log_size", "Size of the last cosigned checkpoint.", []string{"origin"}, nil)
	descTime   = prometheus.NewDesc("affidavit_witness_log_cosigned_seconds", "POSIX time of the last cosignature.", []string{"origin"}, nil)
	descForks  = prometheus.NewDesc("affidavit_witness_log_forks_total", "Trees, signed by the log, that prove that it forked.", []string{"origin"}, nil)
	descList   = prometheus.NewDesc("affidavit_witness_log_list_read_seconds", "POSIX time when the list was last read without error.", []string{"list"}, nil)
)

func (c *logCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLogs, descHeld, descFailed, descSize, descTime, descForks, descList} {
		ch <- d
	}
}

func (c *logCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	all := c.w.all()
	held := 0
	for _, l := range all {
		if l.held.Load() {
			held++
		}
		if h := l.head.Load(); h != nil {
			gauge(descSize, float64(h.size), l.origin)
			gauge(descTime, float64(h.timestamp), l.origin)
		}
		ch <- prometheus.MustNewConstMetric(descForks, prometheus.CounterValue, float64(l.forkCount.Load()), l.origin)
	}
	gauge(descLogs, float64(len(all)))
	gauge(descHeld, float64(held))
	failed := 0.0
	if c.w.Err() != nil {
		failed = 1
	}
	gauge(descFailed, failed)
	c.w.m.mu.Lock()
	defer c.w.m.mu.Unlock()
	for where, s := range c.w.m.lists {
		if !s.read.IsZero() {
			gauge(descList, float64(s.read.Unix()), where)
		}
	}
}

// originHash is how monitoring URLs name a log.
func originHash(origin string) string {
	h := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(h[:])
}
