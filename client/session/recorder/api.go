package recorder

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed" // openapi.yaml
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/client/session/hooks"
	hook "github.com/affidavit-log/affidavit/client/session/hooks/send"
	"github.com/affidavit-log/affidavit/log/record"
)

//go:embed openapi.yaml
var openAPI []byte

// maxBody is the size in bytes of the largest request, but for hook events.
const maxBody = 16 << 20

// maxBatch is the largest number of actions in one request.
const maxBatch = 10_000

// API is the plain HTTP API, described by openapi.yaml. Requests must come from a Listener, or over
// TCP from loopback.
type API struct {
	r      *Recorder
	admins []int
	mux    *http.ServeMux
	slots  chan struct{} // bounds the bodies in memory
}

// route is one line of the API.
type route struct {
	method, path string
	serve        func(a *API, w http.ResponseWriter, r *http.Request) error
}

// routes are compared with openapi.yaml by a test.
var routes = []route{
	{"POST", "/sessions", (*API).begin},
	{"GET", "/sessions", (*API).list},
	{"GET", "/sessions/{id}", (*API).get},
	{"POST", "/sessions/{id}/actions", (*API).add},
	{"POST", "/sessions/{id}/finish", (*API).finish},
	{"GET", "/sessions/{id}/start", (*API).startBundle},
	{"GET", "/sessions/{id}/bundle", (*API).bundle},
	{"GET", "/sessions/{id}/file", (*API).file},
	{"POST", "/hooks/{agent}", (*API).hook},
	{"GET", "/openapi.yaml", (*API).description},
}

// NewAPI returns the API of a recorder. Users in admins may see everybody's sessions, and get the private files.
func NewAPI(r *Recorder, admins []int) *API {
	a := &API{r: r, admins: admins, mux: http.NewServeMux(), slots: make(chan struct{}, 64)}
	for _, rt := range routes {
		a.mux.HandleFunc(rt.method+" "+rt.path, func(w http.ResponseWriter, req *http.Request) {
			if err := rt.serve(a, w, req); err != nil {
				a.fail(w, err)
			}
		})
	}
	return a
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// Local wraps a handler that listens on loopback: it refuses requests that a browser was
// tricked into (DNS rebinding), whose Host isn't a loopback address.
func Local(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if host != "localhost" && (err != nil || !ip.IsLoopback()) || r.Header.Get("Origin") != "" {
			http.Error(w, "only for programs on this machine", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (a *API) admin(r *http.Request) bool {
	uid := UID(r.RemoteAddr)
	return uid != Nobody && slices.Contains(a.admins, uid)
}

type apiError struct {
	status int
	name   string
	detail string
}

func (e *apiError) Error() string { return e.detail }

func bad(format string, args ...any) error {
	return &apiError{http.StatusBadRequest, "malformed", fmt.Sprintf(format, args...)}
}

// fail answers with a problem (RFC 9457).
func (a *API) fail(w http.ResponseWriter, err error) {
	e := &apiError{http.StatusInternalServerError, "internal", "see the recorder's log"}
	switch {
	case errors.As(err, &e):
	case errors.Is(err, ErrNotFound):
		e = &apiError{http.StatusNotFound, "not-found", err.Error()}
	case errors.Is(err, ErrEnded):
		e = &apiError{http.StatusConflict, "session-ended", err.Error()}
	case errors.Is(err, ErrBusy):
		w.Header().Set("Retry-After", "1")
		e = &apiError{http.StatusServiceUnavailable, "busy", err.Error()}
	case errors.Is(err, hooks.ErrMalformed):
		e = &apiError{http.StatusBadRequest, "malformed", err.Error()}
	default:
		a.r.cfg.Log.Error("request failed", "error", err)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(e.status)
	json.NewEncoder(w).Encode(Problem{"https://affidavit-log.github.io/problems/" + e.name, http.StatusText(e.status), e.status, e.detail})
}

// A Problem is an error of the API (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// body reads a JSON request of at most limit bytes.
func (a *API) body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if t, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); t != "application/json" {
		return nil, &apiError{http.StatusUnsupportedMediaType, "unsupported-media-type", "content type must be application/json"}
	}
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close")
		return nil, &apiError{http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("request of %d bytes, more than %d", r.ContentLength, limit)}
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-r.Context().Done():
		return nil, ErrBusy
	}
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return nil, &apiError{http.StatusRequestEntityTooLarge, "too-large", fmt.Sprintf("request of more than %d bytes", limit)}
		}
		return nil, bad("the request ends too early: %v", err)
	}
	return b.Bytes(), nil
}

// decode is strict: an unknown or repeated member is an error, so that a misspelt one isn't ignored.
func decode(b []byte, v any) error {
	if len(bytes.TrimSpace(b)) == 0 {
		return nil
	}
	// A value may nest, an object of ours is flat: 64 levels are plenty, and the library has no bound that low.
	depth, most, objects := 0, 0, 0
	for _, c := range b {
		switch c {
		case '{', '[':
			objects++
			depth++
			most = max(most, depth)
		case '}', ']':
			depth--
		}
	}
	if most > 64 {
		return bad("nested more than 64 deep")
	}
	if objects > 200_000 { // each takes a hundred times the memory that it takes here
		return bad("more than 200,000 objects and lists")
	}
	if err := jsonv2.Unmarshal(b, v, jsonv2.RejectUnknownMembers(true)); err != nil {
		var se *jsonv2.SemanticError
		if errors.As(err, &se) {
			return bad("%s: not what openapi.yaml says", se.JSONPointer)
		}
		return bad("not JSON") // the library's message quotes content
	}
	return nil
}

func answer(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}

// A BeginRequest asks for a session. All members are optional.
type BeginRequest struct {
	Agent        string `json:"agent,omitempty"`
	Conversation string `json:"conversation,omitempty"`
	Tenant       string `json:"tenant,omitempty"`
	TenantEpoch  string `json:"tenantEpoch,omitempty"`
	Sequence     uint64 `json:"sequence,omitempty"`
	Challenge    string `json:"challenge,omitempty"`
}

func digest(name, s string) (*record.Digest, error) {
	if s == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 32 || hex.EncodeToString(b) != s {
		return nil, bad("%s is not 64 hexadecimal digits in lower case", name)
	}
	return (*record.Digest)(b), nil
}

// patience is how long a request waits for the log, unless it says so with ?wait=SECONDS.
const (
	patience    = 30 * time.Second
	maxPatience = 5 * time.Minute
)

func wait(r *http.Request) (context.Context, context.CancelFunc, error) {
	d := patience
	if s := r.URL.Query().Get("wait"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return nil, nil, bad("wait must be a number of seconds")
		}
		d = min(time.Duration(n)*time.Second, maxPatience)
	}
	ctx, cancel := context.WithTimeout(r.Context(), d)
	return ctx, cancel, nil
}

func (a *API) begin(w http.ResponseWriter, r *http.Request) error {
	b, err := a.body(w, r, 64<<10)
	if err != nil {
		return err
	}
	var q BeginRequest
	if err := decode(b, &q); err != nil {
		return err
	}
	if q.Agent == "" {
		q.Agent = "api"
	}
	if activity.Operation(q.Agent) != q.Agent {
		return bad("agent must be a word of a-z, 0-9, -, . and _, of at most 64 bytes")
	}
	if len(q.Conversation) > 256 {
		return bad("conversation of more than 256 bytes")
	}
	if (q.Tenant == "") != (q.TenantEpoch == "") {
		return bad("tenant and tenantEpoch go together")
	}
	if q.TenantEpoch != "" {
		if t, err := time.Parse("2006-01", q.TenantEpoch); err != nil || t.Year() < 1970 {
			return bad("tenantEpoch must be a month such as 2026-11")
		}
	}
	if q.Sequence > 1<<53 {
		return bad("sequence is too large")
	}
	req := Request{Agent: q.Agent, Conversation: q.Conversation, TenantEpoch: q.TenantEpoch, Sequence: q.Sequence}
	if req.Tenant, err = digest("tenant", q.Tenant); err != nil {
		return err
	}
	if req.Challenge, err = digest("challenge", q.Challenge); err != nil {
		return err
	}
	ctx, cancel, err := wait(r)
	if err != nil {
		return err
	}
	defer cancel()
	uid := UID(r.RemoteAddr)
	s, err := a.r.Begin(uid, req)
	if err != nil {
		return err
	}
	if s, err = a.r.Wait(ctx, uid, false, s.ID, Starting); err != nil {
		return err
	}
	w.Header().Set("Location", "/sessions/"+s.ID)
	if s.State == Starting {
		return answer(w, http.StatusAccepted, s)
	}
	return answer(w, http.StatusCreated, s)
}

func (a *API) list(w http.ResponseWriter, r *http.Request) error {
	return answer(w, http.StatusOK, ListAnswer{a.r.List(UID(r.RemoteAddr), a.admin(r))})
}

// A ListAnswer lists sessions that aren't done.
type ListAnswer struct {
	Sessions []*Status `json:"sessions"`
}

func (a *API) get(w http.ResponseWriter, r *http.Request) error {
	s, err := a.r.Status(UID(r.RemoteAddr), a.admin(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, s)
}

// An ActionsRequest reports what an agent did.
type ActionsRequest struct {
	Actions []ActionRequest `json:"actions"`
}

// An ActionRequest is one action. Operation is required.
type ActionRequest struct {
	Key        string                    `json:"key,omitempty"`
	Operation  string                    `json:"operation"`
	Outcome    string                    `json:"outcome,omitempty"`
	TraceID    string                    `json:"traceId,omitempty"`
	SpanID     string                    `json:"spanId,omitempty"`
	Attributes map[string]jsontext.Value `json:"attributes,omitempty"`
	Arguments  jsontext.Value            `json:"arguments,omitempty"`
	Result     jsontext.Value            `json:"result,omitempty"`
}

// An ActionsAnswer says how many actions were taken, those among them that were known by their key included.
type ActionsAnswer struct {
	Accepted int `json:"accepted"`
}

// event makes an event of an action that the API is given.
func (a *API) event(id string, q *ActionRequest) (activity.Event, error) {
	e := activity.Event{Source: activity.SourceAPI, Agent: "api", Operation: q.Operation, Outcome: q.Outcome}
	if e.Operation == "" || activity.Operation(e.Operation) != e.Operation {
		return e, bad("operation must be a word of a-z, 0-9, -, . and _, of at most 64 bytes")
	}
	if e.Outcome == "" {
		e.Outcome = activity.Executed
	}
	if !activity.IsOutcome(e.Outcome) {
		return e, bad("outcome must be executed, blocked, denied, errored or timed_out")
	}
	for _, f := range []struct {
		name, text string
		to         []byte
	}{{"traceId", q.TraceID, e.Trace[:]}, {"spanId", q.SpanID, e.Span[:]}} {
		if f.text == "" {
			continue
		}
		b, err := hex.DecodeString(f.text)
		if err != nil || len(b) != len(f.to) || f.text != strings.ToLower(f.text) {
			return e, bad("%s must be %d hexadecimal digits in lower case", f.name, 2*len(f.to))
		}
		copy(f.to, b)
	}
	if q.Key != "" {
		if len(q.Key) > 256 {
			return e, bad("key of more than 256 bytes")
		}
		e.Key = a.r.hasher.Key([]byte("api"), []byte(id), []byte(q.Key))
	} else {
		rand.Read(e.Key[:])
	}
	attrs := activity.NewAttributes(len(q.Attributes))
	for _, name := range slices.Sorted(keys(q.Attributes)) {
		if name == record.AttrOperationName || name == record.AttrConversationID || strings.HasPrefix(name, "affidavit.") {
			return e, bad("attribute %.80q is the recorder's", name)
		}
		if !addAttribute(attrs, name, q.Attributes[name]) {
			return e, bad("attribute %.80q must be a string, number, boolean or list of strings", name)
		}
	}
	e.Attributes = attrs.Map()
	if id, ok := e.Attributes["gen_ai.tool.call.id"].(string); ok {
		e.CallID = id
	}
	e.Arguments, e.Result = contentOf(q.Arguments), contentOf(q.Result)
	return e, nil
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func addAttribute(a *activity.Attributes, name string, v jsontext.Value) bool {
	if session.IsContent(name) {
		a.Content(name, contentOf(v))
		return true
	}
	var x any
	if jsonv2.Unmarshal(v, &x) != nil {
		return false
	}
	switch x := x.(type) {
	case string:
		a.String(name, x)
	case bool:
		a.Bool(name, x)
	case float64:
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil {
			a.Int(name, n)
		} else {
			a.Float(name, x)
		}
	case []any:
		l := make([]string, 0, len(x))
		for _, e := range x {
			s, ok := e.(string)
			if !ok {
				return false
			}
			l = append(l, s)
		}
		a.Strings(name, l)
	default:
		return false
	}
	return true
}

// contentOf is the content whose salted digest is kept: a string's own bytes, or
// compact JSON of anything else.
func contentOf(v jsontext.Value) []byte {
	if len(v) == 0 || v.Kind() == 'n' {
		return nil
	}
	if v.Kind() == '"' {
		b, err := jsontext.AppendUnquote(nil, v)
		if err != nil {
			return nil
		}
		return b
	}
	v = bytes.Clone(v)
	if v.Compact() != nil {
		return nil
	}
	return v
}

func (a *API) add(w http.ResponseWriter, r *http.Request) error {
	b, err := a.body(w, r, maxBody)
	if err != nil {
		return err
	}
	var q ActionsRequest
	if err := decode(b, &q); err != nil {
		return err
	}
	if len(q.Actions) == 0 || len(q.Actions) > maxBatch {
		return bad("%d actions, want 1 to %d", len(q.Actions), maxBatch)
	}
	id := r.PathValue("id")
	events := make([]activity.Event, len(q.Actions))
	for i := range q.Actions {
		if events[i], err = a.event(id, &q.Actions[i]); err != nil {
			return bad("action %d: %v", i, err)
		}
	}
	dropped, err := a.r.Add(UID(r.RemoteAddr), id, events)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, ActionsAnswer{len(events) - dropped})
}

// A FinishRequest ends a session. Both members are optional.
type FinishRequest struct {
	EndReason string `json:"endReason,omitempty"`
	Commit    string `json:"commit,omitempty"`
}

func (a *API) finish(w http.ResponseWriter, r *http.Request) error {
	b, err := a.body(w, r, 64<<10)
	if err != nil {
		return err
	}
	var q FinishRequest
	if err := decode(b, &q); err != nil {
		return err
	}
	switch q.EndReason {
	case "", activity.Completed, activity.Aborted, activity.Timeout:
	default:
		return bad("endReason must be completed, aborted or timeout")
	}
	if q.Commit != "" {
		if c, err := hex.DecodeString(q.Commit); err != nil || len(c) != 20 && len(c) != 32 || q.Commit != strings.ToLower(q.Commit) {
			return bad("commit must be a git object id")
		}
	}
	ctx, cancel, err := wait(r)
	if err != nil {
		return err
	}
	defer cancel()
	uid, id := UID(r.RemoteAddr), r.PathValue("id")
	if _, err := a.r.Finish(uid, a.admin(r), id, q.EndReason, q.Commit); err != nil {
		return err
	}
	s, err := a.r.Wait(ctx, uid, a.admin(r), id, Starting, Recording, Ending)
	if err != nil {
		return err
	}
	if s.State != Done {
		return answer(w, http.StatusAccepted, s)
	}
	return answer(w, http.StatusOK, s)
}

func (a *API) startBundle(w http.ResponseWriter, r *http.Request) error {
	t, s, err := a.r.find(UID(r.RemoteAddr), a.admin(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	if s != nil {
		return ErrEnded
	}
	b, err := t.startBundle(r.Context())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/zip")
	_, err = w.Write(b)
	return err
}

func (a *API) bundle(w http.ResponseWriter, r *http.Request) error {
	return a.serveFile(w, r, ".affidavit", "application/zip")
}

// file serves what the customer alone may see: the agent reported it, but has no business reading it back.
func (a *API) file(w http.ResponseWriter, r *http.Request) error {
	if !a.admin(r) {
		return &apiError{http.StatusForbidden, "forbidden", "the private file is for the recorder's administrators"}
	}
	return a.serveFile(w, r, ".session", "application/octet-stream")
}

func (a *API) serveFile(w http.ResponseWriter, r *http.Request, suffix, mediaType string) error {
	s, err := a.r.Status(UID(r.RemoteAddr), a.admin(r), r.PathValue("id"))
	if err != nil {
		return err
	}
	if s.State != Done {
		return fmt.Errorf("%w: the session is %s", ErrBusy, s.State)
	}
	f, err := os.Open(filepath.Join(a.r.cfg.Out, s.Session+suffix))
	if errors.Is(err, os.ErrNotExist) {
		return ErrNotFound // it was collected
	} else if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Content-Type", mediaType)
	_, err = io.Copy(w, f)
	return err
}

func (a *API) hook(w http.ResponseWriter, r *http.Request) error {
	b, err := a.body(w, r, hook.MaxEvent)
	if err != nil {
		return err
	}
	e, known, err := hooks.Parse(r.PathValue("agent"), b)
	if err != nil {
		return err
	}
	if id := r.Header.Get(hook.Header); id != "" {
		e.Key = a.r.hasher.Key([]byte("hook"), []byte(id))
	} else {
		rand.Read(e.Key[:])
	}
	if !known {
		a.r.count(countUnknown, 1)
	}
	if _, err := a.r.Take(UID(r.RemoteAddr), []activity.Event{e}, nil); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *API) description(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml")
	_, err := w.Write(openAPI)
	return err
}
