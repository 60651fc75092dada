package witness

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// maxBody is the size in bytes of the largest request: room for 16
	// signatures of 5 kB ([checkpoint.MaxNote]) and a proof of 63 hashes.
	maxBody = 128 << 10

	// smallBody is enough for logs with a few signatures. Larger bodies are read
	// maxLarge at a time, so that many connections can't fill the memory.
	smallBody = 16 << 10
	maxLarge  = 128

	// maxInFlight is how many requests are handled at once. To more, the answer
	// is 503.
	maxInFlight = 512
)

// slots bound the work under way.
type slots struct{ large, inFlight chan struct{} }

func newSlots() slots {
	return slots{make(chan struct{}, maxLarge), make(chan struct{}, maxInFlight)}
}

// take takes a slot of c. The error is a *refusal.
func (slots) take(c chan struct{}) (release func(), err error) {
	select {
	case c <- struct{}{}:
		return func() { <-c }, nil
	default:
		return nil, &refusal{status: http.StatusServiceUnavailable, retry: time.Second, msg: "too many requests at once"}
	}
}

// NewServer returns a server for one of w's handlers with limits that suit a
// witness: small headers, quick requests, long idle connections, since "Clients
// SHOULD use, and witnesses SHOULD support, HTTP keep-alive".
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      2 * time.Minute, // profiles take 30 seconds
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// Handler returns the public interface: c2sp.org/tlog-witness with / as both
// prefixes, and besides it
//
//	GET /                              the page about this witness
//	GET /health                        200, or 503 and a reason
//	GET /<origin hash>/evidence        proofs that the log forked, if there are
func (w *Witness) Handler() http.Handler {
	mux := http.NewServeMux()
	slots := newSlots()
	mux.HandleFunc("POST /add-checkpoint", w.post("add-checkpoint", slots, w.addCheckpoint))
	if w.signsSubtrees() {
		mux.HandleFunc("POST /sign-subtree", w.post("sign-subtree", slots, w.signSubtree))
	}
	mux.HandleFunc("GET /{hash}/checkpoint", w.getCheckpoint)
	mux.HandleFunc("GET /{hash}/evidence", w.getEvidence)
	mux.HandleFunc("GET /health", w.getHealth)
	mux.HandleFunc("GET /{$}", w.getPage)
	return mux
}

// MetricsHandler returns the private interface: /metrics (Prometheus), /health, /ready
// (200 while there is a log that it would cosign for) and /debug/pprof/. It must not be public.
func (w *Witness) MetricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.m.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", w.getHealth)
	mux.HandleFunc("GET /ready", w.getReady)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// post returns the handler of a call that maps a body to signature lines.
func (w *Witness) post(call string, s slots, f func(ctx context.Context, body []byte) ([]byte, error)) http.HandlerFunc {
	return func(rw http.ResponseWriter, req *http.Request) {
		start := time.Now()
		lines, err := handle(rw, req, s, f)
		status := http.StatusOK
		if err != nil {
			status = w.answerError(rw, call, err)
		} else {
			rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
			rw.Header().Set("Content-Length", strconv.Itoa(len(lines)))
			rw.Write(lines) // an error means that the client is gone
		}
		w.m.observe(call, status, time.Since(start))
	}
}

// handle reads a body of at most maxBody bytes and calls f with it.
func handle(rw http.ResponseWriter, req *http.Request, s slots, f func(ctx context.Context, body []byte) ([]byte, error)) ([]byte, error) {
	tooLarge := refuse(http.StatusRequestEntityTooLarge, "the request has more than %d bytes", maxBody)
	if req.ContentLength > maxBody {
		return nil, tooLarge
	}
	body := http.MaxBytesReader(rw, req.Body, maxBody)
	var b bytes.Buffer
	_, err := io.CopyN(&b, body, smallBody)
	if err == nil { // there may be more
		release, err := s.take(s.large)
		if err != nil {
			return nil, err
		}
		defer release()
		_, err = b.ReadFrom(body)
		if errors.As(err, new(*http.MaxBytesError)) {
			return nil, tooLarge
		}
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "reading the request: %v", err)
		}
	} else if err != io.EOF {
		return nil, refuse(http.StatusBadRequest, "reading the request: %v", err)
	}
	release, err := s.take(s.inFlight)
	if err != nil {
		return nil, err
	}
	defer release()
	return f(req.Context(), b.Bytes())
}

// answerError translates an error to an answer, and returns its status.
func (w *Witness) answerError(rw http.ResponseWriter, call string, err error) int {
	var r *refusal
	if !errors.As(err, &r) {
		w.cfg.Logger.Error("internal error", "call", call, "err", err)
		http.Error(rw, "internal error", http.StatusInternalServerError)
		return http.StatusInternalServerError
	}
	if r.retry > 0 {
		rw.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(r.retry.Seconds()))))
	}
	if r.status == http.StatusConflict {
		// "The response body MUST consist of the tree size of the latest cosigned
		// checkpoint in decimal, followed by a newline (U+000A). The response MUST
		// have a Content-Type of text/x.tlog.size."
		rw.Header().Set("Content-Type", "text/x.tlog.size")
		rw.WriteHeader(r.status)
		io.WriteString(rw, strconv.FormatUint(r.size, 10)+"\n")
		return r.status
	}
	http.Error(rw, r.msg, r.status)
	return r.status
}

// logByHash returns the log of a monitoring URL, nil if there is none. "The
// origin hash is the SHA-256 hash of the log's origin, hex encoded, in
// lowercase."
func (w *Witness) logByHash(s string) *logState {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 || hex.EncodeToString(b) != s {
		return nil
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.byHash[[32]byte(b)]
}

// getCheckpoint is the monitor retrieval mechanism of tlog-witness.
func (w *Witness) getCheckpoint(rw http.ResponseWriter, req *http.Request) {
	var note []byte
	if l := w.logByHash(req.PathValue("hash")); l != nil {
		var err error
		if note, err = w.store.note(l.origin); err != nil {
			w.answerError(rw, "checkpoint", err)
			return
		}
	}
	if note == nil {
		http.Error(rw, "no checkpoint was cosigned for this log", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("Cache-Control", "public, max-age=5")
	rw.Write(note)
}

func (w *Witness) getEvidence(rw http.ResponseWriter, req *http.Request) {
	var texts [][]byte
	if l := w.logByHash(req.PathValue("hash")); l != nil {
		var err error
		if texts, err = w.store.evidence(l.origin); err != nil {
			w.answerError(rw, "evidence", err)
			return
		}
	}
	if len(texts) == 0 {
		http.Error(rw, "nothing known against this log", http.StatusNotFound)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Write(bytes.Join(texts, []byte("\n\n")))
}

func (w *Witness) getHealth(rw http.ResponseWriter, _ *http.Request) {
	if err := w.Err(); err != nil {
		// The error may name paths, which are for the operator's log.
		http.Error(rw, "the state can't be written; nothing is cosigned", http.StatusServiceUnavailable)
		return
	}
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(rw, "ok\n")
}

// getReady is getHealth, and fails as well while no log is known or all are held.
func (w *Witness) getReady(rw http.ResponseWriter, req *http.Request) {
	if w.Err() == nil && !slices.ContainsFunc(w.all(), func(l *logState) bool { return !l.held.Load() }) {
		http.Error(rw, "no log is known that isn't held until it is recovered", http.StatusServiceUnavailable)
		return
	}
	w.getHealth(rw, req)
}

// pageCache holds the public page for a moment: with thousands of logs it is
// some work, which strangers must not cause at will.
type pageCache struct {
	mu   sync.Mutex
	at   time.Time
	html []byte
}

const pageAge = 5 * time.Second

func (w *Witness) getPage(rw http.ResponseWriter, _ *http.Request) {
	w.page.mu.Lock()
	if now := w.cfg.Now(); w.page.html == nil || now.Sub(w.page.at) > pageAge || now.Before(w.page.at) {
		var b bytes.Buffer
		if err := pageTemplate.Execute(&b, w.pageData()); err != nil {
			w.page.mu.Unlock()
			w.answerError(rw, "page", fmt.Errorf("page: %w", err))
			return
		}
		w.page.at, w.page.html = now, b.Bytes()
	}
	html := w.page.html
	w.page.mu.Unlock()
	h := rw.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "public, max-age=5")
	rw.Write(html)
}

type pageLog struct {
	Origin, Hash, Size, Time string
	VKeys                    []string
	Held                     bool
	Forks                    int64
}

func (w *Witness) pageData() any {
	d := struct {
		Name, URL string
		VKeys     []string
		Lists     []string
		Interval  time.Duration
		Subtrees  bool
		Failed    bool
		Statement string
		Logs      []pageLog
	}{
		Name: w.cfg.Name, URL: w.cfg.PublicURL, Interval: w.cfg.LogListInterval,
		Subtrees: w.signsSubtrees(), Failed: w.Err() != nil, Statement: w.cfg.Statement,
	}
	for _, k := range w.cfg.Keys {
		d.VKeys = append(d.VKeys, k.VKey())
	}
	for _, where := range w.cfg.LogLists {
		if u, err := url.Parse(where); err == nil && isURL(where) {
			d.Lists = append(d.Lists, u.Redacted())
		} else {
			d.Lists = append(d.Lists, "a file") // its path is nobody's business
		}
	}
	for _, l := range w.all() {
		p := pageLog{Origin: l.origin, Hash: originHash(l.origin), Held: l.held.Load(), Forks: l.forkCount.Load()}
		for _, k := range l.keys {
			p.VKeys = append(p.VKeys, k.String())
		}
		if h := l.head.Load(); h != nil {
			p.Size = strconv.FormatUint(h.size, 10)
			p.Time = time.Unix(int64(h.timestamp), 0).UTC().Format(time.RFC3339)
		}
		d.Logs = append(d.Logs, p)
	}
	return d
}

var pageTemplate = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Witness {{.Name}}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
code { overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ccc; vertical-align: top }
.bad { color: #b00; font-weight: bold }
</style>
<h1>Witness {{.Name}}</h1>
{{if .Failed}}<p class="bad">This witness can't write its state, and cosigns nothing.</p>{{end}}
<p>This is a <a href="https://c2sp.org/tlog-witness">transparency log witness</a>. It cosigns the checkpoints of the logs
below as long as they continue each other, so that a log can't show two people two histories.</p>
{{if .Statement}}<p>{{.Statement}}</p>{{end}}
<h2>Keys</h2>
{{range .VKeys}}{{if gt (len .) 200}}<details><summary><code>{{slice . 0 80}}…</code></summary><code>{{.}}</code></details>
{{else}}<p><code>{{.}}</code></p>
{{end}}{{end}}
<h2>Interface</h2>
<ul>
<li><code>POST {{.URL}}/add-checkpoint</code></li>
{{if .Subtrees}}<li><code>POST {{.URL}}/sign-subtree</code></li>{{end}}
<li><code>GET {{.URL}}/&lt;SHA-256 of the origin, in hex&gt;/checkpoint</code></li>
<li><code>GET {{.URL}}/&lt;SHA-256 of the origin, in hex&gt;/evidence</code>, of forks</li>
</ul>
{{if .Lists}}<h2>Lists of logs</h2>
<p>Read every {{.Interval}}; logs are only ever added.</p>
<ul>{{range .Lists}}<li><code>{{.}}</code></li>{{end}}</ul>{{end}}
<h2>Logs</h2>
<table>
<tr><th>Origin<th>Size<th>Cosigned at<th>
{{range .Logs}}<tr><td title="{{range .VKeys}}{{.}} {{end}}"><code>{{.Origin}}</code><td>{{.Size}}<td>{{.Time}}<td>
{{- if .Size}}<a href="{{.Hash}}/checkpoint">checkpoint</a>{{end}}
{{- if .Forks}} <a class="bad" href="{{.Hash}}/evidence">forked</a>{{end}}
{{- if .Held}} being recovered{{end}}
{{end}}</table>
`))
