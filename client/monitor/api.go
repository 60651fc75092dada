package monitor

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

// Limits of the API on what whoever can reach it may ask for.
const (
	// maxAsking and maxHeavy bound the requests that are answered at once; heavy are those that may read the whole index.
	// Others are told to come again.
	maxAsking = 32
	maxHeavy  = 2

	// maxAnswer bounds how long an answer may take, and maxWrite how long its reader may take for a part of it.
	maxAnswer = 10 * time.Minute
	maxWrite  = 30 * time.Second

	// maxCollateralBody has room for some hundred sets, maxSessionsBody for monitorapi.MaxRows sessions.
	maxCollateralBody = 16 << 20
	maxSessionsBody   = 40 << 20

	// maxSets bounds the sets of collateral in a request: there are a few dozen kinds of platforms.
	maxSets = 256

	// pageSteps bounds the steps in the index for a page of a search: about 10 ms. A search for records that have two
	// common values, but hardly ever both, goes on with the next page.
	pageSteps = 10_000
)

const problemPrefix = "https://affidavit-log.github.io/problems/"

// Handler returns the monitor's HTTP API. It tells everything to everybody who can reach it, and changes nothing: what it
// knows is what is in the log, but for the customer's own list in a request to reconcile, which isn't kept. Times and
// sizes of answers are bounded; how long a client may take for its request is for the server to bound.
//
//	GET  /api/status             [Status]
//	GET  /api/state              [monitorapi.State]
//	GET  /api/findings           JSON lines of [Finding]: after, limit
//	GET  /api/records            JSON lines of [Record]: the parameters of [monitorapi.ParseQuery]
//	GET  /api/records/{index}    [Record]
//	GET  /api/results            JSON lines of [Result], likewise
//	GET  /api/results/{index}    [Result]
//	GET  /api/bundles/{index}    an .affidavit file
//	GET  /api/families           a list of [monitorapi.Family]
//	GET  /api/recall             JSON lines of [monitorapi.RecallLine]: the parameters of [monitorapi.ParseRecallQuery]
//	POST /api/recall             likewise, for a [monitorapi.ReappraiseRequest]
//	POST /api/reappraise         JSON lines of [monitorapi.ReappraiseLine], for a [monitorapi.ReappraiseRequest]
//	POST /api/reconcile          JSON lines of [monitorapi.ReconcileLine], for a [monitorapi.ReconcileRequest]
//	GET  /api/vendor-check       [monitorapi.VendorCheck]: vendor, since, until
//
// Errors are problem documents (RFC 9457). An answer that can't be finished breaks off: its connection is closed.
func (m *Monitor) Handler() http.Handler {
	a := &api{m: m, asking: make(chan struct{}, maxAsking), heavy: make(chan struct{}, maxHeavy)}
	mux := http.NewServeMux()
	light := func(pattern string, f handler) { mux.Handle(pattern, a.handle(a.asking, f)) }
	heavy := func(pattern string, f handler) { mux.Handle(pattern, a.handle(a.heavy, f)) }
	light("GET /api/status", a.status)
	light("GET /api/state", a.state)
	light("GET /api/findings", a.findings)
	light("GET /api/records", a.records)
	light("GET /api/records/{index}", a.record)
	light("GET /api/results", a.results)
	light("GET /api/results/{index}", a.result)
	light("GET /api/bundles/{index}", a.bundle)
	light("GET /api/families", a.families)
	heavy("GET /api/recall", a.recall)
	heavy("POST /api/recall", a.recallToday)
	heavy("POST /api/reappraise", a.reappraise)
	heavy("POST /api/reconcile", a.reconcile)
	heavy("GET /api/vendor-check", a.vendorCheck)
	mux.Handle("/", a.handle(a.asking, func(http.ResponseWriter, *http.Request) error { return errNotFound }))
	return mux
}

type api struct {
	m             *Monitor
	asking, heavy chan struct{} // one element for each request that is answered
}

type handler func(http.ResponseWriter, *http.Request) error

var errNotFound = errors.New("there is no such resource")

// A badRequest is the client's mistake.
type badRequest struct{ error }

func (e badRequest) Unwrap() error { return e.error }

// handle calls f when there is room, and turns its error into a problem document, or the end of the connection if the
// answer has begun.
func (a *api) handle(room chan struct{}, f handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Content-Security-Policy", "default-src 'none'")
		if !HostAllowed(r) {
			problem(w, http.StatusForbidden, "forbidden", fmt.Sprintf("%.80q is not a name of this machine's own: a web page could have had a browser ask", r.Host))
			return
		}
		select {
		case room <- struct{}{}:
			defer func() { <-room }()
		default:
			w.Header().Set("Retry-After", "5")
			problem(w, http.StatusServiceUnavailable, "overloaded", "the monitor is answering as many requests as it can: ask again later")
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), maxAnswer)
		defer cancel()
		aw := &answer{ResponseWriter: w}
		err := f(aw, r.WithContext(ctx))
		switch {
		case err == nil:
		case aw.begun:
			if r.Context().Err() == nil {
				a.m.cfg.Logger.Warn("an answer breaks off", "path", r.URL.Path, "err", err)
			}
			panic(http.ErrAbortHandler)
		default:
			status, name := errorStatus(err)
			if status == http.StatusInternalServerError {
				a.m.cfg.Logger.Error("request", "path", r.URL.Path, "err", err)
			}
			problem(w, status, name, err.Error())
		}
	})
}

// HostAllowed reports whether a request that came in over the loopback interface is for it. A web page that has its own
// name resolve to this machine (DNS rebinding) would otherwise read what only this machine's users should, such as who is
// on the watch list. A proxy in front has to name the address that it asks.
func HostAllowed(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if !ok || !local.IP.IsLoopback() {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// errorStatus returns the HTTP status and the name of the problem for an error.
func errorStatus(err error) (int, string) {
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return http.StatusRequestEntityTooLarge, "too-large"
	case errors.Is(err, errMediaType):
		return http.StatusUnsupportedMediaType, "unsupported-media-type"
	case errors.As(err, new(badRequest)):
		return http.StatusBadRequest, "malformed"
	case errors.Is(err, ErrNoRecord), errors.Is(err, errNotFound):
		return http.StatusNotFound, "not-found"
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "overloaded"
	default:
		return http.StatusInternalServerError, "internal"
	}
}

func problem(w http.ResponseWriter, status int, name, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	// An error means that the client has gone.
	_ = json.NewEncoder(w).Encode(&monitorapi.Problem{
		Type: problemPrefix + name, Title: http.StatusText(status), Status: status, Detail: detail,
	})
}

// An answer notes whether anything of it was sent.
type answer struct {
	http.ResponseWriter
	begun bool
}

func (a *answer) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(append(b, '\n'))
	return err
}

// lineSize is about how much is sent at once.
const lineSize = 32 << 10

// A lineWriter sends JSON lines. It remembers the first error.
type lineWriter struct {
	c   *http.ResponseController
	w   *bufio.Writer
	err error
}

func newLines(w http.ResponseWriter) *lineWriter {
	w.Header().Set("Content-Type", "application/jsonl")
	l := &lineWriter{c: http.NewResponseController(w)}
	l.w = bufio.NewWriterSize(deadlineWriter{w, l.c}, lineSize)
	return l
}

// deadlineWriter gives the client some time for every part.
type deadlineWriter struct {
	w io.Writer
	c *http.ResponseController
}

func (d deadlineWriter) Write(b []byte) (int, error) {
	// Not every server can: then its own limits hold.
	if err := d.c.SetWriteDeadline(time.Now().Add(maxWrite)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return d.w.Write(b)
}

// line sends a line, and reports whether to go on.
func (l *lineWriter) line(v any) bool {
	if l.err != nil {
		return false
	}
	var b []byte
	if b, l.err = json.Marshal(v); l.err == nil {
		if _, l.err = l.w.Write(b); l.err == nil {
			l.err = l.w.WriteByte('\n')
		}
	}
	return l.err == nil
}

// end sends the rest. err is that of what made the lines.
func (l *lineWriter) end(err error) error {
	if err = cmp.Or(err, l.err); err != nil {
		return err
	}
	return l.w.Flush()
}

// readBody returns a request's body, of at most limit bytes. It must be said to be JSON: a web page can't have a browser
// send that elsewhere without being asked.
func readBody(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return fmt.Errorf("%w: %.80q", errMediaType, r.Header.Get("Content-Type"))
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return err
		}
		return badRequest{err}
	}
	if err := jsonv2.Unmarshal(b, v, jsonv2.RejectUnknownMembers(true)); err != nil {
		return badRequest{err}
	}
	return nil
}

var errMediaType = errors.New("the body must be application/json")

func (a *api) status(w http.ResponseWriter, r *http.Request) error {
	return writeJSON(w, a.m.Status())
}

func (a *api) state(w http.ResponseWriter, r *http.Request) error {
	s, err := a.m.State()
	if err != nil {
		return err
	}
	return writeJSON(w, &s)
}

func (a *api) findings(w http.ResponseWriter, r *http.Request) error {
	after, limit, err := monitorapi.ParseFindingsQuery(r.URL.Query())
	if err != nil {
		return badRequest{err}
	}
	found, err := a.m.Findings(after, limit)
	if err != nil {
		return err
	}
	l := newLines(w)
	for _, f := range found {
		if !l.line(f) {
			break
		}
	}
	return l.end(nil)
}

// page sends the lines of a search, and as a trailer where to go on.
func (a *api) page(w http.ResponseWriter, size uint64, search func(line func(any) bool) (next uint64, err error)) error {
	w.Header().Set("Trailer", monitorapi.AfterTrailer)
	l := newLines(w)
	next, err := search(l.line)
	if err == nil && next < size {
		w.Header().Set(monitorapi.AfterTrailer, strconv.FormatUint(next, 10))
	}
	if err != nil {
		w.Header().Del("Trailer")
	}
	return l.end(err)
}

func (a *api) records(w http.ResponseWriter, r *http.Request) error {
	q, err := monitorapi.ParseQuery(r.URL.Query(), monitorapi.MaxRecords)
	if err != nil {
		return badRequest{err}
	}
	rd, err := a.m.reader()
	if err != nil {
		return err
	}
	defer rd.close()
	return a.page(w, rd.state.Size, func(line func(any) bool) (uint64, error) {
		left := q.Limit
		return rd.search(r.Context(), q, pageSteps, func(rec *Record) bool {
			left--
			return line(rec) && left > 0
		})
	})
}

func (a *api) results(w http.ResponseWriter, r *http.Request) error {
	q, err := monitorapi.ParseQuery(r.URL.Query(), monitorapi.MaxResults)
	if err != nil {
		return badRequest{err}
	}
	as, err := a.m.assembly()
	if err != nil {
		return err
	}
	defer as.close()
	return a.page(w, as.state.Size, func(line func(any) bool) (uint64, error) {
		return as.results(r.Context(), q, pageSteps, func(res *Result) bool { return line(res) })
	})
}

func pathIndex(r *http.Request) (uint64, error) {
	s := r.PathValue("index")
	i, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(i, 10) != s {
		return 0, badRequest{fmt.Errorf("%.80q is not an index in decimal", s)}
	}
	return i, nil
}

func (a *api) record(w http.ResponseWriter, r *http.Request) error {
	i, err := pathIndex(r)
	if err != nil {
		return err
	}
	rec, err := a.m.Record(i)
	if err != nil {
		return err
	}
	return writeJSON(w, rec)
}

func (a *api) result(w http.ResponseWriter, r *http.Request) error {
	i, err := pathIndex(r)
	if err != nil {
		return err
	}
	res, err := a.m.Verify(r.Context(), i)
	if err != nil {
		return err
	}
	return writeJSON(w, res)
}

func (a *api) bundle(w http.ResponseWriter, r *http.Request) error {
	i, err := pathIndex(r)
	if err != nil {
		return err
	}
	b, err := a.m.Bundle(r.Context(), i)
	if err != nil {
		return err
	}
	file, err := b.Bytes()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/zip")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%d.affidavit"`, i))
	w.Header().Set("Content-Length", strconv.Itoa(len(file)))
	_, err = w.Write(file)
	return err
}

func (a *api) families(w http.ResponseWriter, r *http.Request) error {
	families, err := a.m.Families()
	if err != nil {
		return err
	}
	if families == nil {
		families = []monitorapi.Family{}
	}
	return writeJSON(w, families)
}

func (a *api) recall(w http.ResponseWriter, r *http.Request) error { return a.answerRecall(w, r, nil) }

func (a *api) recallToday(w http.ResponseWriter, r *http.Request) error {
	today, err := a.today(w, r)
	if err != nil {
		return err
	}
	return a.answerRecall(w, r, today)
}

func (a *api) answerRecall(w http.ResponseWriter, r *http.Request, today *Today) error {
	q, err := monitorapi.ParseRecallQuery(r.URL.Query())
	if err == nil && today != nil && q.Advisory == "" {
		err = errNoAdvisory
	}
	if err != nil {
		return badRequest{err}
	}
	l := newLines(w)
	s, err := a.m.Recall(r.Context(), q, today, func(t *monitorapi.TouchedSession) bool {
		return l.line(&monitorapi.RecallLine{Touched: t})
	})
	if err == nil && s != nil {
		l.line(&monitorapi.RecallLine{Summary: s})
	}
	return l.end(err)
}

// today reads collateral from a request's body.
func (a *api) today(w http.ResponseWriter, r *http.Request) (*Today, error) {
	var q monitorapi.ReappraiseRequest
	if err := readBody(w, r, maxCollateralBody, &q); err != nil {
		return nil, err
	}
	if len(q.Collateral) > maxSets {
		return nil, badRequest{fmt.Errorf("%d sets of collateral, more than %d", len(q.Collateral), maxSets)}
	}
	t, err := a.m.parseToday(&q)
	if err != nil {
		return nil, badRequest{err}
	}
	return t, nil
}

func (a *api) reappraise(w http.ResponseWriter, r *http.Request) error {
	q, err := monitorapi.ParseReappraiseQuery(r.URL.Query())
	if err != nil {
		return badRequest{err}
	}
	today, err := a.today(w, r)
	if err != nil {
		return err
	}
	l := newLines(w)
	s, err := a.m.Reappraise(r.Context(), q, today, func(re *monitorapi.Reappraised) bool {
		return l.line(&monitorapi.ReappraiseLine{Record: re})
	})
	if err == nil && s != nil {
		l.line(&monitorapi.ReappraiseLine{Summary: s})
	}
	return l.end(err)
}

func (a *api) reconcile(w http.ResponseWriter, r *http.Request) error {
	if len(r.URL.Query()) > 0 {
		return badRequest{errors.New("what to reconcile is in the body; there are no parameters")}
	}
	var q monitorapi.ReconcileRequest
	if err := readBody(w, r, maxSessionsBody, &q); err != nil {
		return err
	}
	if err := q.Check(); err != nil {
		return badRequest{err}
	}
	l := newLines(w)
	s, err := a.m.Reconcile(r.Context(), &q, func(re *monitorapi.Reconciled) bool {
		return l.line(&monitorapi.ReconcileLine{Session: re})
	})
	if err == nil && s != nil {
		l.line(&monitorapi.ReconcileLine{Summary: s})
	}
	return l.end(err)
}

func (a *api) vendorCheck(w http.ResponseWriter, r *http.Request) error {
	q, err := monitorapi.ParseVendorCheckQuery(r.URL.Query())
	if err != nil {
		return badRequest{err}
	}
	c, err := a.m.VendorCheck(r.Context(), q)
	if err != nil {
		return err
	}
	return writeJSON(w, c)
}
