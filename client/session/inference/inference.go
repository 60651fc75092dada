// Package inference is a reverse proxy in front of a model server with an API like
// OpenAI's. It passes calls through as they are, streams included, digests each with
// a salt, and logs model-run records of them, one per call or per interval.
//
// It belongs into the trust domain of the model server, or of a gateway to one.
package inference

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/client/session/private"
	"github.com/affidavit-log/affidavit/log/record"
)

// Headers by which a caller that records a session names it. They aren't passed on.
const (
	HeaderSession = "Affidavit-Session"     // the session's id
	HeaderStart   = "Affidavit-Start"       // statement digest of its start
	HeaderKey     = "Affidavit-Session-Key" // its key id; only needed for a record per call
)

// Config configures Open. Fields are required unless they say otherwise.
type Config struct {
	// Session is for the runs. Its Dir is set by Open.
	Session session.Config

	// Dir is a directory in guest memory, of this proxy's user alone. Out gets what is left of a run:
	// ID.affidavit and ID.session, by the id of its journal.
	Dir, Out string

	// Upstream is the model server's base URL.
	Upstream *url.URL

	// Provider is gen_ai.provider.name.
	Provider string

	// Channel is the key by which callers reach this trust domain.
	Channel record.Channel

	// Weights is the digest of the weights that the server has loaded: optional.
	Weights *record.Digest

	// Hops are where the upstream is, if it isn't in this trust domain.
	Hops []record.Upstream

	// Interval is the time that one record is for. Zero means a record per call.
	Interval time.Duration

	Log *slog.Logger // slog.Default by default
}

const (
	// maxRequest bounds a request, which is held until its answer is recorded.
	maxRequest = 32 << 20
	// maxKept bounds what is held of an answer; of a longer one a digest stands in its place.
	maxKept = 8 << 20
	// maxCalls is how many calls are under way at a time.
	maxCalls = 256
	// maxModels bounds the models with a run of their own: a caller can name any.
	maxModels = 64
	maxRuns   = 16_384 // sessions whose runs are remembered
	longest   = time.Minute
)

// A RunInfo says where the record of a run is, for the session that it served.
type RunInfo struct {
	Statement     string `json:"statement"`
	Origin        string `json:"origin"`
	Index         uint64 `json:"index"`
	Provider      string `json:"provider"`
	RequestModel  string `json:"requestModel"`
	ResponseModel string `json:"responseModel,omitempty"`
	Calls         uint64 `json:"calls"` // for this session
}

// Runs is what a proxy answers about a session.
type Runs struct {
	Runs    []RunInfo `json:"runs"`
	Pending uint64    `json:"pending"` // calls of this session that are in no record yet
}

// options are what of a run's record isn't in its journal.
type options struct {
	RequestModel, ResponseModel string
	Session                     string // of a record per call
	Start                       string
	PeerKeyID                   string
}

// run is a model run that takes calls. Guarded by Proxy.mu, but for Finish.
type run struct {
	r      *session.Run
	o      options
	calls  map[record.SessionID]uint64
	served bool
	begun  time.Time
	users  sync.WaitGroup // calls under way, which are part of it
}

// A Proxy is an http.Handler.
type Proxy struct {
	cfg    Config
	proxy  *httputil.ReverseProxy
	slots  chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex // guards the rest
	current map[string]*run
	open    map[*run]struct{} // those without a record, whether they take calls or not
	logged  *simplelru.LRU[record.SessionID, []RunInfo]
	calls   uint64
	records uint64
}

// Open takes up the runs that a process left, and returns a Proxy.
func Open(c Config) (*Proxy, error) {
	if c.Upstream == nil || c.Provider == "" || c.Dir == "" || c.Out == "" {
		return nil, errors.New("inference: Upstream, Provider, Dir and Out are required")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Session.Dir = filepath.Join(c.Dir, "journals")
	for _, d := range []string{c.Session.Dir, filepath.Join(c.Dir, "runs"), c.Out} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	p := &Proxy{cfg: c, slots: make(chan struct{}, maxCalls), current: make(map[string]*run), open: make(map[*run]struct{})}
	p.logged, _ = simplelru.NewLRU[record.SessionID, []RunInfo](maxRuns, nil) // the error is about sizes below one
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(c.Upstream)
			r.Out.Host = c.Upstream.Host
			for _, h := range []string{HeaderSession, HeaderStart, HeaderKey} {
				r.Out.Header.Del(h)
			}
			// What can't be read can't be digested as what the model said.
			r.Out.Header.Set("Accept-Encoding", "identity")
		},
		FlushInterval:  -1, // a stream's parts go on as they come
		ModifyResponse: p.modify,
		ErrorHandler:   p.failed,
	}
	_, ids, err := session.Journals(c.Session.Dir)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := p.resume(id); err != nil {
			return nil, err
		}
	}
	if c.Interval > 0 {
		p.wg.Go(p.tick)
	}
	return p, nil
}

// resume finishes a run whose process has died. One that served nobody has no record.
func (p *Proxy) resume(id record.SessionID) error {
	r, err := session.ResumeRun(p.cfg.Session, id)
	if err != nil {
		return err
	}
	u := &run{r: r, calls: make(map[record.SessionID]uint64)}
	b, err := os.ReadFile(p.optionsFile(id))
	if errors.Is(err, fs.ErrNotExist) { // it died before it took a call
		return r.Remove()
	} else if err == nil {
		err = json.Unmarshal(b, &u.o)
	}
	if err != nil {
		return errors.Join(err, r.Close())
	}
	var file bytes.Buffer
	if err := r.WriteFile(&file); err != nil {
		return errors.Join(err, r.Close())
	}
	rd, err := session.NewReader(&file)
	if err != nil {
		return errors.Join(err, r.Close())
	}
	u.served = rd.Header().Served.Size > 0 || u.o.Session != ""
	for {
		_, a, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return errors.Join(err, r.Close())
		}
		u.calls[a.Session]++
	}
	if !u.served || len(u.calls) == 0 {
		return errors.Join(r.Remove(), os.Remove(p.optionsFile(id)))
	}
	p.mu.Lock()
	p.open[u] = struct{}{}
	p.mu.Unlock()
	p.wg.Go(func() { p.finish(u) })
	return nil
}

func (p *Proxy) optionsFile(id record.SessionID) string {
	return filepath.Join(p.cfg.Dir, "runs", id.String()+".json")
}

// Close stops. Runs that are under way are taken up by the next Open.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.cancel() // with mu held, so that nothing is begun afterwards
	p.mu.Unlock()
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []error
	for _, u := range p.current {
		all = append(all, u.r.Close())
	}
	return errors.Join(all...)
}

// Counts returns the number of calls, and of records that were logged.
func (p *Proxy) Counts() (calls, records uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls, p.records
}

// caller is who a call is for.
type caller struct {
	id    record.SessionID
	start record.Digest
	named bool
	key   string
}

func callerOf(h http.Header) (c caller, err error) {
	s := h.Get(HeaderSession)
	if s == "" {
		rand.Read(c.id[:]) // a session of nobody's
		return c, nil
	}
	if c.id, err = record.ParseSessionID(s); err != nil {
		return c, fmt.Errorf("%s: not a session id", HeaderSession)
	}
	d, err := hex.DecodeString(h.Get(HeaderStart))
	if err != nil || len(d) != 32 {
		return c, fmt.Errorf("%s: not a statement digest", HeaderStart)
	}
	copy(c.start[:], d)
	if c.key = h.Get(HeaderKey); c.key != "" {
		if k, err := hex.DecodeString(c.key); err != nil || len(k) != 32 || c.key != strings.ToLower(c.key) {
			return c, fmt.Errorf("%s: not a key id", HeaderKey)
		}
	}
	c.named = true
	return c, nil
}

// call is a call under way.
type call struct {
	u         *run
	who       caller
	path      string
	model     string
	stream    bool
	request   []byte
	begun     time.Time
	status    int
	kept      []byte
	sum       hash.Hash
	size      int64
	recorded  bool
	mediaType string
}

type callKey struct{}

// ServeHTTP passes a request on. POST requests are calls; others, such as the list of models, are not recorded.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/.affidavit/sessions/"):
		p.serveRuns(w, r)
		return
	case r.Method == http.MethodPost && r.URL.Path == "/.affidavit/flush":
		p.Flush()
		w.WriteHeader(http.StatusAccepted)
		return
	case r.Method != http.MethodPost:
		p.proxy.ServeHTTP(w, r)
		return
	}
	if r.ContentLength > maxRequest {
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusRequestEntityTooLarge, "the request is too large")
		return
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-r.Context().Done():
		return
	}
	who, err := callerOf(r.Header)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "the request is too large, or ends too early")
		return
	}
	// Only these two are read; whatever else the request says is the model's business.
	var q struct {
		Model  string `json:"model"`
		Stream bool   `json:"stream"`
	}
	_ = json.Unmarshal(body, &q) // a request that isn't JSON is refused by the model server, and recorded like others
	c := &call{who: who, path: r.URL.Path, model: name(q.Model), stream: q.Stream, request: body, begun: time.Now(), sum: sha256.New()}
	if c.model == "" {
		c.model = "unknown"
	}
	// A call that can't be recorded isn't made.
	if c.u, err = p.join(c); err != nil {
		p.cfg.Log.Error("a call can't be recorded, and was refused", "error", err)
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "the call can't be recorded at the moment")
		return
	}
	defer c.u.users.Done()
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	defer func() {
		// The caller went away, or the server did: what there is of the answer is recorded.
		if err := p.record(c, "incomplete"); err != nil {
			p.cfg.Log.Error("a call isn't recorded", "error", err)
		}
	}()
	p.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, c)))
}

// refuse answers as OpenAI's API does.
func refuse(w http.ResponseWriter, status int, msg string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"message": msg, "type": "affidavit_recorder"}})
}

// join finds the run that a call belongs to, and begins one if there is none.
func (p *Proxy) join(c *call) (*run, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return nil, errors.New("the proxy is stopping")
	}
	perCall := p.cfg.Interval == 0
	key := c.model
	if !perCall {
		if p.current[key] == nil && len(p.current) >= maxModels {
			key = "other"
			c.model = key
		}
		if u := p.current[key]; u != nil {
			return u, p.enter(u, c)
		}
	}
	r, err := session.NewRun(p.cfg.Session)
	if err != nil {
		return nil, err
	}
	u := &run{r: r, o: options{RequestModel: c.model}, calls: make(map[record.SessionID]uint64), begun: time.Now()}
	if perCall && c.who.named && c.who.key != "" {
		u.o.Session, u.o.Start, u.o.PeerKeyID = c.who.id.String(), hex.EncodeToString(c.who.start[:]), c.who.key
		u.served = true
	}
	if err := p.save(u); err != nil {
		return nil, errors.Join(err, r.Remove())
	}
	if !perCall {
		p.current[key] = u
	}
	p.open[u] = struct{}{}
	return u, p.enter(u, c)
}

// enter adds a call to a run. p.mu is held.
func (p *Proxy) enter(u *run, c *call) error {
	if c.who.named && u.o.Session == "" {
		if err := u.r.Served(c.who.id, c.who.start); err != nil {
			return err
		}
		u.served = true
	}
	u.users.Add(1)
	return nil
}

func (p *Proxy) save(u *run) error {
	b, err := json.Marshal(&u.o)
	if err != nil {
		return err
	}
	return private.PutBytes(p.optionsFile(u.r.ID()), b)
}

// modify puts the recorder between the answer and the caller.
func (p *Proxy) modify(r *http.Response) error {
	c, ok := r.Request.Context().Value(callKey{}).(*call)
	if !ok {
		return nil
	}
	c.status, c.mediaType = r.StatusCode, r.Header.Get("Content-Type")
	r.Body = &tee{p: p, c: c, body: r.Body}
	return nil
}

// tee records an answer when it has been read to its end, before the caller is told of the end:
// who has a complete answer has one that is recorded.
type tee struct {
	p    *Proxy
	c    *call
	body io.ReadCloser
}

func (t *tee) Read(b []byte) (int, error) {
	n, err := t.body.Read(b)
	if n > 0 {
		c := t.c
		c.sum.Write(b[:n])
		c.size += int64(n)
		if room := maxKept - len(c.kept); room > 0 {
			c.kept = append(c.kept, b[:min(n, room)]...)
		}
	}
	if err == io.EOF {
		if rerr := t.p.record(t.c, ""); rerr != nil {
			t.p.cfg.Log.Error("a call isn't recorded; its answer was cut off", "error", rerr)
			return n, rerr
		}
	}
	return n, err
}

func (t *tee) Close() error { return t.body.Close() }

// failed answers for a model server that can't be reached.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	p.cfg.Log.Warn("the model server", "error", err)
	if c, ok := r.Context().Value(callKey{}).(*call); ok && c.status == 0 {
		c.status = http.StatusBadGateway
	}
	refuse(w, http.StatusBadGateway, "the model server can't be reached")
}

// record journals a call once. It is called from the goroutine that serves it.
func (p *Proxy) record(c *call, problem string) error {
	if c.recorded {
		return nil
	}
	c.recorded = true
	a := activity.NewAttributes(16)
	operation := activity.OpChat
	switch {
	case strings.HasSuffix(c.path, "/embeddings"):
		operation = "embeddings"
	case strings.HasSuffix(c.path, "/completions") && !strings.HasSuffix(c.path, "/chat/completions"):
		operation = "text_completion"
	}
	a.String("gen_ai.provider.name", p.cfg.Provider)
	a.String("gen_ai.request.model", c.model)
	a.Int("http.response.status_code", int64(c.status))
	a.Int(activity.AttrDuration, time.Since(c.begun).Milliseconds())
	a.Bool("affidavit.stream", c.stream)
	outcome := activity.Executed
	switch {
	case c.status == http.StatusRequestTimeout || c.status == http.StatusGatewayTimeout:
		outcome = activity.TimedOut
	case c.status < 200 || c.status > 299:
		outcome = activity.Errored
	case problem != "":
		outcome = activity.Errored
		a.String("error.type", problem)
	}
	said := answerOf(c.kept, strings.HasPrefix(c.mediaType, "text/event-stream"))
	a.String("gen_ai.response.model", said.Model)
	a.String("gen_ai.response.id", said.ID)
	if said.Usage.Prompt > 0 {
		a.Int("gen_ai.usage.input_tokens", said.Usage.Prompt)
	}
	if said.Usage.Completion > 0 {
		a.Int("gen_ai.usage.output_tokens", said.Usage.Completion)
	}
	result := c.kept
	if c.size > int64(len(c.kept)) {
		// Too long to be held: whoever has the answer can still compute this.
		result = []byte("sha256:" + hex.EncodeToString(c.sum.Sum(nil)))
		a.Bool("affidavit.result.hashed", true)
	}
	attributes := a.Map()
	attributes[record.AttrOperationName] = operation

	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := c.u.r.Call(c.who.id, session.Action{Outcome: outcome, Attributes: attributes, Arguments: c.request, Result: result}); err != nil {
		return err
	}
	p.calls++
	c.u.calls[c.who.id]++
	if m := name(said.Model); m != "" && c.u.o.ResponseModel != m {
		// One record has room for one; that of the newest answer is as good as another.
		c.u.o.ResponseModel = m
		if err := p.save(c.u); err != nil {
			return err
		}
	}
	switch {
	case p.cfg.Interval > 0:
	case p.ctx.Err() != nil:
		return c.u.r.Close() // the next process logs it
	default:
		p.wg.Go(func() { p.finish(c.u) })
	}
	return nil
}

// modelAnswer is what is read of a model's answer.
type modelAnswer struct {
	ID    string `json:"id"`
	Model string `json:"model"`
	Usage struct {
		Prompt     int64 `json:"prompt_tokens"`
		Completion int64 `json:"completion_tokens"`
	} `json:"usage"`
}

// answerOf reads an answer, or the parts of a stream of server-sent events.
func answerOf(b []byte, stream bool) (a modelAnswer) {
	if !stream {
		_ = json.Unmarshal(b, &a) // an answer of another form says nothing
		return a
	}
	for line := range bytes.Lines(b) {
		data, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("data:"))
		if !ok {
			continue
		}
		var part modelAnswer
		if json.Unmarshal(bytes.TrimSpace(data), &part) != nil {
			continue
		}
		if part.Model != "" {
			a.ID, a.Model = part.ID, part.Model
		}
		if part.Usage.Prompt+part.Usage.Completion > 0 {
			a.Usage = part.Usage
		}
	}
	return a
}

// name makes a *name* of s (FORMAT.md, section 2.2).
func name(s string) string {
	b := []byte(strings.TrimSpace(s))
	if len(b) > 255 {
		b = b[:255]
	}
	for i, c := range b {
		if c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			b[i] = '?'
		}
	}
	return strings.TrimSpace(string(b))
}

func (p *Proxy) tick() {
	t := time.NewTicker(p.cfg.Interval)
	defer t.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-t.C:
			p.Flush()
		}
	}
}

// Flush logs the records of the runs so far, without waiting for them. A run that has served no session goes on:
// there would be nobody to prove anything to.
func (p *Proxy) Flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil {
		return
	}
	for model, u := range p.current {
		if u.served {
			delete(p.current, model)
			p.wg.Go(func() { p.finish(u) })
		}
	}
}

// finish logs a run's record, and tries until it has.
func (p *Proxy) finish(u *run) {
	done := make(chan struct{})
	go func() { u.users.Wait(); close(done) }()
	select {
	case <-done:
	case <-p.ctx.Done():
		u.r.Close() // the next process logs it
		return
	}
	id := u.r.ID()
	for wait := time.Second; ; wait = min(2*wait, longest) {
		err := p.log(u)
		if err == nil {
			return
		}
		if p.ctx.Err() == nil {
			p.cfg.Log.Warn("a model run isn't logged yet", "run", id, "error", err)
		}
		select {
		case <-p.ctx.Done():
			u.r.Close() // the next process logs it
			return
		case <-time.After(wait):
		}
	}
}

func (p *Proxy) log(u *run) error {
	p.mu.Lock()
	o, served := u.o, u.served
	p.mu.Unlock()
	if !served { // a call by nobody, with a record per call
		p.mu.Lock()
		delete(p.open, u)
		p.mu.Unlock()
		return errors.Join(u.r.Remove(), os.Remove(p.optionsFile(u.r.ID())))
	}
	ro := session.RunOptions{
		Provider: p.cfg.Provider, RequestModel: o.RequestModel, ResponseModel: o.ResponseModel, Weights: p.cfg.Weights,
		Channel: p.cfg.Channel, Upstream: p.cfg.Hops,
	}
	if o.Session != "" {
		id, err := record.ParseSessionID(o.Session)
		if err != nil {
			return err
		}
		start, err := hex.DecodeString(o.Start)
		if err != nil || len(start) != 32 {
			return fmt.Errorf("start %.80q", o.Start)
		}
		ro.Session, ro.PeerKeyID = &record.ServedSession{ID: id, Statement: record.Digest(start)}, o.PeerKeyID
	}
	result, err := u.r.Finish(p.ctx, ro)
	if err != nil {
		return err
	}
	b, err := result.Bundle.Bytes()
	if err != nil {
		return err
	}
	file := filepath.Join(p.cfg.Out, u.r.ID().String())
	if err := private.Put(file+".session", u.r.WriteFile); err != nil {
		return err
	}
	if err := private.PutBytes(file+".affidavit", b); err != nil {
		return err
	}
	p.mu.Lock()
	p.records++
	delete(p.open, u)
	for id, calls := range u.calls {
		l, _ := p.logged.Get(id)
		p.logged.Add(id, append(l, RunInfo{
			hex.EncodeToString(result.Ref.Statement[:]), result.Ref.Origin, result.Ref.Index, p.cfg.Provider, o.RequestModel, o.ResponseModel, calls,
		}))
	}
	p.mu.Unlock()
	if err := errors.Join(u.r.Remove(), os.Remove(p.optionsFile(u.r.ID()))); err != nil {
		p.cfg.Log.Error("a logged run's key isn't removed", "error", err)
	}
	return nil
}

// serveRuns answers which runs have served a session: GET /.affidavit/sessions/ID. The session's own
// recorder names them in its final record. Who knows the session's random id may ask.
func (p *Proxy) serveRuns(w http.ResponseWriter, r *http.Request) {
	id, err := record.ParseSessionID(strings.TrimPrefix(r.URL.Path, "/.affidavit/sessions/"))
	if err != nil {
		refuse(w, http.StatusBadRequest, "not a session id")
		return
	}
	p.mu.Lock()
	l, _ := p.logged.Get(id)
	answer := Runs{Runs: append([]RunInfo{}, l...)}
	for u := range p.open {
		answer.Pending += u.calls[id]
	}
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(answer)
}
