// Package webui shows what a monitor has audited as pages for people: the state of the log and what is wrong with it, each
// record with who vouches for what, searches, vendors and recalls. Pages are made on the server, work without script, ask
// nothing of anybody else, and change nothing.
package webui

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/client/report"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A Monitor is what the pages show; [monitor.Monitor] is one. Its methods are called concurrently.
type Monitor interface {
	Status() monitor.Status
	Findings(after uint64, limit int) ([]*monitor.Finding, error)
	Finding(id string) (*monitor.Finding, error)
	Checkpoints(before uint64, limit int) ([]*monitor.Checkpoint, error)
	Checkpoint(size uint64) (*monitor.Checkpoint, error)
	Record(index uint64) (*monitor.Record, error)
	Search(ctx context.Context, q monitor.Query) iter.Seq2[*monitor.Record, error]
	Bundle(ctx context.Context, index uint64) (*bundle.Bundle, error)
	Recall(ctx context.Context, q monitorapi.RecallQuery, today *monitor.Today, f func(*monitorapi.TouchedSession) bool) (*monitorapi.RecallSummary, error)
	VendorCheck(ctx context.Context, q monitorapi.VendorCheckQuery) (*monitorapi.VendorCheck, error)
}

// Config configures [New]. Fields are required unless they name a default or are said to be optional.
type Config struct {
	Monitor Monitor

	// LogPolicy, AllowQuorumNone and Root are what records are checked under, as in [bundle.Options]. Root defaults to
	// Intel's.
	LogPolicy       *checkpoint.Policy
	AllowQuorumNone bool
	Root            *tdx.Root

	// Appraisal judges records. Without one they are judged by [verifier.StrictPolicy], and pages say so.
	Appraisal *verifier.Policy

	// Token is what a reader has to know: the password of HTTP's basic authentication, with any user name, or a bearer
	// token. Empty shows everything to whoever can reach the pages. Nothing here encrypts it.
	Token string

	// Rate is how many requests a second an address may make in the long run, and Burst how many at once. They default to
	// 20 and 120.
	Rate  float64
	Burst int

	// Tool is named in reports, such as "affidavit-monitor v1.2.0". It is optional.
	Tool string

	// Now is the clock for reports' dates and limits. It defaults to time.Now.
	Now func() time.Time

	// Logger gets what went wrong. It defaults to none.
	Logger *slog.Logger
}

// Limits on what whoever can reach the pages may ask for.
const (
	// maxAsking bounds the requests that are answered at once, maxEvents the pages that wait for news.
	maxAsking = 32
	maxEvents = 64

	// maxQuery is the longest query, in bytes: several digests and a vendor.
	maxQuery = 4096

	// maxAddresses bounds the addresses whose requests are counted. IPv6 counts by /64, which is what one customer has.
	maxAddresses = 8192

	// maxPage bounds how long a page may take, and maxWrite how long its reader may take for it.
	maxPage  = 20 * time.Second
	maxWrite = 30 * time.Second
)

// A UI serves the pages. It is an [http.Handler], and can be used concurrently.
type UI struct {
	cfg     Config
	checker *bundle.Checker
	policy  *verifier.Policy // Appraisal, or the strict one
	token   [32]byte         // SHA-256 of Token, so that comparing takes as long for every guess
	mux     *http.ServeMux
	style   asset
	script  asset

	asking, events chan struct{} // one element for each request that is answered

	limits limits
	tally  tally
	jobs   jobs

	stop chan struct{} // closed when Run ends
}

// New returns the pages of a monitor. Answers that take a pass over the index are computed by [UI.Run].
func New(cfg Config) (*UI, error) {
	if cfg.Root == nil {
		cfg.Root = tdx.IntelRoot()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Rate <= 0 {
		cfg.Rate = 20
	}
	if cfg.Burst <= 0 {
		cfg.Burst = 120
	}
	u := &UI{
		cfg: cfg, policy: cfg.Appraisal, token: sha256.Sum256([]byte(cfg.Token)), mux: http.NewServeMux(),
		asking: make(chan struct{}, maxAsking), events: make(chan struct{}, maxEvents), stop: make(chan struct{}),
	}
	if u.policy == nil {
		u.policy = verifier.StrictPolicy()
	}
	var err error
	u.checker, err = bundle.NewChecker(bundle.Options{LogPolicy: cfg.LogPolicy, AllowQuorumNone: cfg.AllowQuorumNone, Appraisal: u.policy, Root: cfg.Root})
	if err != nil {
		return nil, fmt.Errorf("webui: %w", err)
	}
	u.jobs.init()
	u.tally.init()
	prepare()
	u.style = newAsset("style", "css", "text/css; charset=utf-8", []byte(report.Stylesheet()+appStyle))
	u.script = newAsset("live", "js", "text/javascript; charset=utf-8", appScript)

	for pattern, f := range map[string]page{
		"GET /{$}":                        u.logPage,
		"GET /findings":                   u.findingsPage,
		"GET /findings/{id}":              u.findingPage,
		"GET /checkpoints":                u.checkpointsPage,
		"GET /checkpoints/{size}":         u.checkpointPage,
		"GET /search":                     u.searchPage,
		"GET /records/{index}":            u.recordPage,
		"GET /records/{index}/{download}": u.download,
		"POST /records/{index}/actions":   u.disclosurePage,
		"GET /vendors":                    u.vendorPage,
		"GET /recall":                     u.recallPage,
		"GET /":                           func(*http.Request) (*answer, error) { return nil, errNotFound },
	} {
		u.mux.Handle(pattern, u.handle(f))
	}
	u.mux.Handle("/", u.handle(func(r *http.Request) (*answer, error) { return nil, errMethod }))
	for _, a := range []asset{u.style, u.script} {
		u.mux.HandleFunc("GET "+a.path, a.serve)
	}
	u.mux.HandleFunc("GET /events", u.serveEvents)
	return u, nil
}

//go:embed app.css
var appStyle string

//go:embed app.js
var appScript []byte

// policyHeader lets a page have our style and script and nothing else; connect-src is for news of the state. Nothing is
// inline, so that text of others that got into a page as markup would still do nothing.
const policyHeader = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// downloadPolicy is for files that a browser may show: a report brings its own style, and nothing else.
const downloadPolicy = "default-src 'none'; style-src 'unsafe-inline'; sandbox; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"

// Patterns are those of an [http.ServeMux] under which the pages are, for servers that have something else at other paths.
var Patterns = []string{"/{$}", "/findings", "/findings/", "/checkpoints", "/checkpoints/", "/search", "/records/", "/vendors", "/recall", "/assets/", "/events"}

// ServeHTTP implements http.Handler.
func (u *UI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policyHeader)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store") // errors; answers say otherwise
	if !u.limits.allow(r.RemoteAddr, u.cfg.Now(), u.cfg.Rate, u.cfg.Burst) {
		h.Set("Retry-After", "2")
		u.fail(w, r, http.StatusTooManyRequests, "This address asks too often. Try again in a moment.")
		return
	}
	if len(r.URL.RawQuery) > maxQuery {
		u.fail(w, r, http.StatusRequestURITooLong, fmt.Sprintf("The query has %d bytes, more than %d.", len(r.URL.RawQuery), maxQuery))
		return
	}
	u.Protect(u.mux).ServeHTTP(w, r)
}

// Protect returns a handler that asks for the token, if there is one, before it has h answer: for what is served beside the
// pages and tells as much. It also refuses requests over the loopback interface that aren't meant for it: a web page that
// has its own name resolve to this machine (DNS rebinding) would otherwise read what only this machine's users should.
func (u *UI) Protect(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !monitor.HostAllowed(r):
			u.fail(w, r, http.StatusForbidden, fmt.Sprintf("%s is not a name of this machine’s own: a web page could have had a browser ask.", show(r.Host)))
		case u.cfg.Token != "" && !u.knows(r):
			w.Header().Set("WWW-Authenticate", `Basic realm="Affidavit monitor", charset="UTF-8"`)
			u.fail(w, r, http.StatusUnauthorized, "This monitor is private: the password is its token, with any user name.")
		default:
			h.ServeHTTP(w, r)
		}
	})
}

// knows reports whether a request has the token.
func (u *UI) knows(r *http.Request) bool {
	_, guess, ok := r.BasicAuth()
	if !ok {
		guess, ok = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	sum := sha256.Sum256([]byte(guess))
	return subtle.ConstantTimeCompare(sum[:], u.token[:]) == 1 && ok
}

// An answer is what a request gets: a page, a file, or where to go.
type answer struct {
	body     []byte
	typ      string
	file     string // name, of a download
	redirect string
	status   int  // 200 if it is zero
	pending  bool // the page loads itself again: it mustn't be kept
}

type page func(*http.Request) (*answer, error)

var (
	errNotFound = errors.New("there is no such page")
	errMethod   = errors.New("pages are only read")
	errBusy     = errors.New("the monitor is computing as many answers as it can: try again in a moment")
	errStopping = errors.New("the monitor is shutting down")
)

// A badRequest is the reader's mistake.
type badRequest struct{ error }

func (e badRequest) Unwrap() error { return e.error }

func errorStatus(err error) int {
	switch {
	case errors.As(err, new(badRequest)):
		return http.StatusBadRequest
	case errors.Is(err, errNotFound), errors.Is(err, monitor.ErrNoRecord):
		return http.StatusNotFound
	case errors.Is(err, errMethod):
		return http.StatusMethodNotAllowed
	case errors.Is(err, errBusy), errors.Is(err, errStopping), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// handle answers with what f returns, when there is room.
func (u *UI) handle(f page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case u.asking <- struct{}{}:
			defer func() { <-u.asking }()
		default:
			w.Header().Set("Retry-After", "2")
			u.fail(w, r, http.StatusServiceUnavailable, "The monitor is answering as many requests as it can. Try again in a moment.")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), maxPage)
		defer cancel()
		if r.Method == http.MethodPost {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(maxPage))
		}
		a, err := f(r.WithContext(ctx))
		if err != nil {
			status := errorStatus(err)
			text := sentence(err.Error())
			switch status {
			case http.StatusInternalServerError:
				u.cfg.Logger.Error("page", "path", r.URL.Path, "err", err)
			case http.StatusMethodNotAllowed:
				w.Header().Set("Allow", "GET, HEAD")
			case http.StatusServiceUnavailable:
				w.Header().Set("Retry-After", "2")
			}
			u.fail(w, r, status, text)
			return
		}
		u.send(w, r, a)
	})
}

func (u *UI) send(w http.ResponseWriter, r *http.Request, a *answer) {
	h := w.Header()
	if a.redirect != "" {
		http.Redirect(w, r, a.redirect, http.StatusSeeOther)
		return
	}
	// A server that can't has limits of its own.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(maxWrite))
	h.Set("Content-Type", a.typ)
	if a.file != "" {
		h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", a.file))
		h.Set("Content-Security-Policy", downloadPolicy)
	}
	if a.status != 0 || a.pending {
		w.WriteHeader(max(a.status, http.StatusOK))
		_, _ = w.Write(a.body) // an error means that the reader has gone
		return
	}
	// What is shown changes with the log: a browser asks each time, and gets it again only if it did. With a token, only
	// the reader's own browser may keep it.
	h.Set("Cache-Control", "no-cache")
	if u.cfg.Token != "" {
		h.Set("Cache-Control", "private, no-cache")
	}
	sum := sha256.Sum256(a.body)
	h.Set("ETag", fmt.Sprintf(`"%x"`, sum[:16]))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}

// fail answers with a page that says what is wrong.
func (u *UI) fail(w http.ResponseWriter, r *http.Request, status int, text string) {
	body, err := u.render("error", &layout{Title: http.StatusText(status)}, text)
	if err != nil {
		http.Error(w, text, status)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// An asset is a file whose path names its content, so that browsers keep it for good.
type asset struct {
	path, typ string
	body      []byte
}

func newAsset(name, ext, typ string, body []byte) asset {
	return asset{fmt.Sprintf("/assets/%s-%x.%s", name, sha256.Sum256(body), ext), typ, body}
}

func (a *asset) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", a.typ)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}

// limits count requests by address.
type limits struct {
	mu sync.Mutex
	by map[netip.Prefix]*rate.Limiter
}

func (l *limits) allow(remote string, now time.Time, perSecond float64, burst int) bool {
	var key netip.Prefix
	if ap, err := netip.ParseAddrPort(remote); err == nil {
		a := ap.Addr().Unmap().WithZone("")
		bits := a.BitLen()
		if a.Is6() {
			bits = 64
		}
		key, _ = a.Prefix(bits) // the bits are in range
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lim, ok := l.by[key]
	if !ok {
		if l.by == nil || len(l.by) >= maxAddresses {
			// Whose requests aren't counted any more begins anew: with so many addresses, that is the smaller evil.
			l.by = make(map[netip.Prefix]*rate.Limiter)
		}
		lim = rate.NewLimiter(rate.Limit(perSecond), burst)
		l.by[key] = lim
	}
	return lim.AllowN(now, 1)
}

// serveEvents tells a page, by server-sent events, when there is something new to load: an event "state" whose data names
// the state. It says nothing else, so that a page shows what the server renders and nothing that a script made up.
func (u *UI) serveEvents(w http.ResponseWriter, r *http.Request) {
	select {
	case u.events <- struct{}{}:
		defer func() { <-u.events }()
	default:
		w.Header().Set("Retry-After", "30")
		u.fail(w, r, http.StatusServiceUnavailable, "As many pages wait for news as can.")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // for a proxy that would collect events
	c := http.NewResponseController(w)
	tick := time.NewTicker(eventInterval)
	defer tick.Stop()
	end := time.NewTimer(maxStream)
	defer end.Stop()
	last, quiet := "", 0
	for {
		text := ""
		if state := u.stateName(); state != last {
			last, quiet = state, 0
			text = "event: state\nretry: 3000\ndata: " + state + "\n\n"
		} else if quiet++; quiet >= int(keepAlive/eventInterval) {
			quiet = 0
			text = ": still here\n\n" // or a proxy takes the connection for dead
		}
		if text != "" {
			_ = c.SetWriteDeadline(time.Now().Add(maxWrite))
			if _, err := io.WriteString(w, text); err != nil || c.Flush() != nil {
				return
			}
		}
		select {
		case <-tick.C:
		case <-end.C:
			return // the browser comes again
		case <-r.Context().Done():
			return
		case <-u.stop:
			return
		}
	}
}

const (
	eventInterval = time.Second
	keepAlive     = 15 * time.Second
	maxStream     = 10 * time.Minute
)

// stateName is another whenever the log page is.
func (u *UI) stateName() string {
	s := u.cfg.Monitor.Status()
	h := sha256.New()
	fmt.Fprintln(h, s.Verified, s.Audited, s.Published, s.Findings, s.Halted, s.Error, s.LastPoll.Unix(), u.tally.counted())
	for _, w := range s.Witnesses {
		fmt.Fprintln(h, w.Name, w.Size, w.Error)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// Run computes what takes a pass over the index, until ctx is done: counts by day, vendors' figures, recalls and searches.
// Without it, pages that need these stay at saying that they are being computed. It is called once.
func (u *UI) Run(ctx context.Context) error {
	defer close(u.stop)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for range jobWorkers {
		wg.Go(func() { u.jobs.work(ctx) })
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		more, err := u.advance(ctx, tallyRun)
		if err != nil && ctx.Err() == nil {
			u.cfg.Logger.Warn("counting records", "err", err)
		}
		if more && err == nil {
			continue
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
