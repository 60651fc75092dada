package sessionlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"mime"
	"net/http"
	"net/http/pprof"
	"net/url"
	"strconv"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/log/storage"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/pcs"
)

// problemPrefix begins the types of problems (RFC 9457). Their last elements are stable.
const problemPrefix = "https://affidavit-log.github.io/problems/"

// A problem is an error as readers and submitters see it.
type problem struct {
	Type   string  `json:"type"`
	Title  string  `json:"title"`
	Status int     `json:"status"`
	Detail string  `json:"detail,omitempty"`
	Index  *uint64 `json:"index,omitempty"`  // of statement-exists
	Reason string  `json:"reason,omitempty"` // of not-genuine

	name  string
	retry time.Duration // for Retry-After
}

// An httpError is an error with the problem that it is.
type httpError struct {
	name   string
	detail string
	retry  time.Duration
}

func (e *httpError) Error() string { return e.name + ": " + e.detail }

func refuse(name, format string, args ...any) *httpError {
	return &httpError{name: name, detail: fmt.Sprintf(format, args...)}
}

// problems has every problem's status and title.
var problems = map[string]struct {
	status int
	title  string
}{
	"malformed":              {http.StatusBadRequest, "The request can't be read"},
	"unauthorized":           {http.StatusUnauthorized, "No vendor has this token or certificate"},
	"vendor-mismatch":        {http.StatusForbidden, "The statement is another vendor's"},
	"imports-not-allowed":    {http.StatusForbidden, "This log takes no evidence that isn't bound to a statement"},
	"not-found":              {http.StatusNotFound, "There is no such thing here"},
	"method-not-allowed":     {http.StatusMethodNotAllowed, "This can't be done here"},
	"statement-exists":       {http.StatusConflict, "The statement is in the log in another entry"},
	"frozen":                 {http.StatusGone, "The log has ended, and takes nothing any more"},
	"too-large":              {http.StatusRequestEntityTooLarge, "The entry is too large"},
	"unsupported-media-type": {http.StatusUnsupportedMediaType, "Entries come as application/octet-stream or application/json"},
	"not-genuine":            {http.StatusUnprocessableEntity, "The entry isn't genuine"},
	"stale-freshness":        {http.StatusUnprocessableEntity, "The statement was made after a checkpoint that is too old"},
	"unknown-freshness":      {http.StatusUnprocessableEntity, "The statement was made after a checkpoint that isn't in this log"},
	"unknown-start":          {http.StatusUnprocessableEntity, "The session was started in another log, which doesn't have the start, or whose sessions don't end here"},
	"no-collateral":          {http.StatusUnprocessableEntity, "There is no collateral to judge the quote by"},
	"unknown-key":            {http.StatusUnprocessableEntity, "The key isn't known to be the vendor's"},
	"quota-exceeded":         {http.StatusTooManyRequests, "Too many submissions"},
	"internal":               {http.StatusInternalServerError, "Something is wrong here"},
	"overloaded":             {http.StatusServiceUnavailable, "Too much to do; try again"},
	"collateral-unreachable": {http.StatusServiceUnavailable, "The collateral service can't be reached; try again"},
	"unavailable":            {http.StatusServiceUnavailable, "The log can't answer this now"},
}

// problemFor is the one place where errors become problems and statuses.
func problemFor(err error) *problem {
	p := &problem{name: "internal", Detail: err.Error()}
	var (
		he *httpError
		ae *verifier.AdmissionError
		ee *ExistsError
	)
	switch {
	case errors.As(err, &he):
		p.name, p.Detail, p.retry = he.name, he.detail, he.retry
	case errors.As(err, &ee):
		p.name, p.Index = "statement-exists", &ee.Index
	case errors.As(err, &ae):
		p.name, p.Reason, p.Detail = string(ae.Problem), ae.Reason, ae.Err.Error()
	case errors.Is(err, record.ErrTooLarge):
		p.name = "too-large"
	case errors.Is(err, record.ErrMalformed):
		p.name = "malformed"
	case errors.Is(err, pcs.ErrNoCollateral):
		p.name = "no-collateral"
	case errors.Is(err, pcs.ErrUnreachable):
		p.name, p.retry = "collateral-unreachable", 5*time.Second
	case errors.Is(err, ErrFrozen):
		p.name = "frozen"
	case errors.Is(err, ErrOverloaded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		p.name, p.retry = "overloaded", time.Second
	case errors.Is(err, storage.ErrUnavailable):
		p.name, p.retry = "unavailable", 2*time.Second
	case errors.Is(err, ErrClosed):
		p.name, p.retry = "unavailable", 10*time.Second
	}
	def, ok := problems[p.name]
	if !ok {
		p.name, def = "internal", problems["internal"]
	}
	if p.name == "internal" {
		p.Detail = "" // it is for the operator's log
	}
	p.Type, p.Status, p.Title = problemPrefix+p.name, def.status, def.title
	if p.name == "collateral-unreachable" {
		// To clients it is the same problem as having none, at another status.
		p.Type = problemPrefix + "no-collateral"
	}
	return p
}

// fail answers with an error, and returns the problem's name for the metrics.
func (l *Log) fail(w http.ResponseWriter, r *http.Request, err error) string {
	p := problemFor(err)
	if p.name == "internal" {
		l.logger.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	b, merr := json.Marshal(p)
	if merr != nil {
		panic(merr) // strings and numbers
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Encoding")
	if p.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int((p.retry+time.Second-1)/time.Second)))
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="affidavit-log"`)
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(p.Status)
	w.Write(b)
	return p.name
}

const (
	textType    = "text/plain; charset=utf-8"
	binaryType  = "application/octet-stream"
	immutable   = "public, max-age=31536000, immutable" // tiles, bundles and blobs never change
	briefly     = "no-cache"                            // may be kept, must be asked for again
	neverStored = "no-store"
)

// Handler returns the public interface, README.md, "What it serves". Of the ways to find a leaf
//
//	GET /proof/by-note/{sha256}                  the time leaf that holds a note
//	GET /proof/by-collateral/{sha256}            the collateral leaf with an id
//	GET /proof/by-release/{sha256}?vendor=ID     the vendor's newest release of an image; &before=INDEX of those before a leaf
//	GET /proof/by-withdrawal/{sha256}?vendor=ID  the vendor's withdrawal of a release, by the release's statement digest
//	GET /proof/by-key/{sha256}?vendor=ID         the leaf by which a release key became known
//	GET /proof/covering/{index}                  the first time leaf whose checkpoint covers a leaf
//
// each answered by a tlog-proof under the newest published checkpoint, whose extra data is the leaf.
func (l *Log) Handler() http.Handler {
	mux := http.NewServeMux()
	get := func(pattern string, f func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) {
			// Everything here is public, also for a page of somebody else's that verifies it.
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			if err := f(w, r); err != nil {
				l.fail(w, r, err)
			}
		})
	}
	if l.cfg.Role.admits() {
		mux.HandleFunc("POST /add", l.add)
	}
	get("/checkpoint", l.getCheckpoint)
	get("/tile/entries/{path...}", fewAtOnce(make(chan struct{}, bundlesAtOnce), l.getBundle))
	get("/tile/{level}/{path...}", l.getTile)
	get("/blob/{digest}", l.getBlob)
	mux.HandleFunc("PUT /evidence/{digest}", l.putEvidence)
	get("/evidence/{digest}", l.getEvidence)
	get("/freshness", l.getFreshness)
	get("/frozen", l.getFrozen)
	get("/proof/{index}", l.getProof)
	get("/proof/{by}/{what}", l.getProofBy)
	get("/{$}", l.getPage)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			l.fail(w, r, refuse("not-found", "nothing is at %.200q", r.URL.Path))
			return
		}
		// Such as POST /2026/add, where a proxy should have taken the prefix away.
		if _, pattern := mux.Handler(&http.Request{Method: http.MethodGet, Host: r.Host, URL: r.URL}); pattern == "/" {
			l.fail(w, r, refuse("not-found", "nothing is at %.200q", r.URL.Path))
			return
		}
		l.fail(w, r, refuse("method-not-allowed", "%.20q %.200q", r.Method, r.URL.Path))
	})
	return mux
}

// PrivateHandler returns what operators see: /metrics (Prometheus), /health (200 while the process works), /ready (200
// while submissions are taken, or the log has ended and is served; that witnesses keep them from being published is for alerts, since readers are served) and /debug/pprof/. It must not be public.
func (l *Log) PrivateHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(l.cfg.Registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		if why := l.notReady(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
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

// notReady says why the log shouldn't get submissions, or "".
func (l *Log) notReady() string {
	if err := l.Err(); err != nil {
		return "halted: " + err.Error()
	}
	l.mu.Lock()
	closing := l.closing
	l.mu.Unlock()
	if closing {
		return "shutting down"
	}
	if why := l.unready(); why != "" {
		return why
	}
	if l.pub.now.Load() == nil {
		return "nothing is published yet"
	}
	if l.frozen != nil {
		return "" // it has everything that it will ever be asked for
	}
	if _, ok := l.times.newest(); !ok {
		return "no checkpoint is in the log yet"
	}
	return ""
}

// NewServer returns a server for one of the log's handlers, with a limit on everything that a client can make it wait
// for or hold: headers, slow bodies, idle connections. It leaves an answer to POST /add the time it needs.
func (l *Log) NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      l.cfg.MaxWait + appendTimeout + 30*time.Second, // also profiles, which take 30 seconds
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
}

// add is POST /add. The cheap checks come first, and nothing is read from anybody who isn't a vendor.
func (l *Log) add(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	w.Header().Set("X-Content-Type-Options", "nosniff")
	result, err := l.tryAdd(w, r)
	if err != nil {
		result = l.fail(w, r, err)
	} else {
		l.metrics.addSeconds.Observe(time.Since(began).Seconds())
	}
	l.metrics.submissions.WithLabelValues(result).Inc()
}

func (l *Log) tryAdd(w http.ResponseWriter, r *http.Request) (string, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	v := l.vendors.authenticate(token, r.TLS)
	switch {
	case v != nil:
	case !ok:
		return "", refuse("unauthorized", "a submission needs the header Authorization: Bearer TOKEN, or a client certificate whose key the operator lists")
	default:
		return "", refuse("unauthorized", "the token isn't one that the operator lists, or lacks the client certificate that goes with it")
	}
	if why := l.Err(); why != nil {
		return "", ErrClosed
	}
	if res := v.limiter.Reserve(); res.Delay() > 0 {
		delay := res.Delay()
		res.Cancel()
		return "", &httpError{"quota-exceeded", fmt.Sprintf("vendor %s may submit %v entries a second", v.id, v.quota.rate), delay}
	}
	parse, limit, err := entryParser(r)
	if err != nil {
		return "", err
	}

	if !l.flight.take(v.id) {
		return "", fmt.Errorf("%w: this vendor's share of the %d submissions that may be in flight is used up", ErrOverloaded, l.cfg.MaxInFlight)
	}
	inFlight := true
	land := func() {
		if inFlight {
			l.flight.leave(v.id)
			inFlight = false
		}
	}
	defer land()

	body, err := readBody(w, r, limit)
	if err != nil {
		return "", err
	}
	// A body can take long, and who was a vendor when it began may not be one any more.
	if now := l.vendors.authenticate(token, r.TLS); now == nil || now.id != v.id {
		return "", refuse("unauthorized", "the operator has taken the vendor from the list")
	}
	e, err := parse(body)
	if err != nil {
		return "", err
	}
	// Not r's context alone: the time until the record is in the tree counts too.
	ctx, cancel := context.WithTimeout(r.Context(), l.cfg.MaxWait+appendTimeout)
	defer cancel()
	waited := time.Now()
	added, err := l.submit(ctx, v, e)
	if err != nil {
		return "", err
	}
	if err := l.cfg.Evidence.keep(e); err != nil {
		l.logger.Error("evidence that an entry names may be lost", "index", added.index, "err", err)
	}
	index := added.index
	// Waiting for a checkpoint is cheap; what is in flight is only what costs.
	land()
	wctx, cancel := context.WithTimeout(r.Context(), max(l.cfg.MaxWait-time.Since(waited), 0))
	defer cancel()
	pub, err := l.pub.wait(wctx, func(p *published) bool { return p.cp.Size > index })
	if err != nil {
		// It is in the tree, durably, and will be published.
		digest := e.StatementDigest()
		h := w.Header()
		h.Set("Location", "proof/by-statement/"+hex.EncodeToString(digest[:]))
		h.Set("Retry-After", "1")
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", neverStored)
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintf(w, "{\"index\":%d,\"statement\":\"%x\"}\n", index, digest)
		return "accepted", nil
	}
	proof, err := l.proof(r.Context(), pub, index, added.leaf)
	if err != nil {
		return "", err
	}
	h := w.Header()
	h.Set("Content-Type", textType)
	h.Set("Cache-Control", neverStored)
	h.Set("Content-Length", strconv.Itoa(len(proof)))
	w.Write(proof)
	if added.dup {
		return "duplicate", nil
	}
	return "admitted", nil
}

// entryParser returns what parses the body by its media type, and the limit of its size.
func entryParser(r *http.Request) (func([]byte) (*record.Entry, error), int64, error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, 0, refuse("unsupported-media-type", "content encoding %.40q", e)
	}
	ct := r.Header.Get("Content-Type")
	mt, _, err := mime.ParseMediaType(ct)
	switch {
	case err == nil && mt == binaryType:
		return record.ParseEntry, int64(record.MaxEntry), nil
	case err == nil && mt == "application/json":
		return record.ParseEntryJSON, int64(record.MaxEntryJSON), nil
	}
	return nil, 0, refuse("unsupported-media-type", "content type %.80q", ct)
}

// readBody reads a body of at most limit bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	tooLarge := refuse("too-large", "the body has more than %d bytes", limit)
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return nil, tooLarge
		}
		return nil, refuse("malformed", "reading the body: %v", err)
	}
	return b.Bytes(), nil
}

// proof returns the tlog-proof of a leaf under a published checkpoint. A proof that doesn't verify isn't handed out. The
// leaf is read from the tree if it is nil.
func (l *Log) proof(ctx context.Context, pub *published, index uint64, leaf []byte) ([]byte, error) {
	if leaf == nil {
		var err error
		if leaf, err = l.tree.leaf(ctx, index); err != nil {
			return nil, err
		}
	}
	hashes, err := l.tree.inclusion(ctx, index, pub.cp.Size)
	if err != nil {
		return nil, err
	}
	if err := checkpoint.VerifyInclusion(record.LeafHash(leaf), pub.cp.Root, index, pub.cp.Size, hashes); err != nil {
		l.metrics.storageErrors.WithLabelValues("proof").Inc()
		return nil, fmt.Errorf("leaf %d in the tree of size %d: %w", index, pub.cp.Size, err)
	}
	p := checkpoint.Proof{Extra: leaf, Index: index, Hashes: hashes, Checkpoint: pub.note}
	return p.Bytes(), nil
}

// published returns what is served.
func (l *Log) published() (*published, error) {
	pub := l.pub.now.Load()
	if pub == nil {
		return nil, &httpError{"unavailable", "nothing is published yet: the witnesses' quorum isn't met", 5 * time.Second}
	}
	return pub, nil
}

// send answers with a resource.
func send(w http.ResponseWriter, r *http.Request, contentType, cache string, b []byte) error {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", cache)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if r.Method != http.MethodHead {
		w.Write(b) // an error means that the client is gone
	}
	return nil
}

func (l *Log) getCheckpoint(w http.ResponseWriter, r *http.Request) error {
	pub, err := l.published()
	if err != nil {
		return err
	}
	return send(w, r, textType, briefly, pub.note)
}

// resource returns which tile or bundle is asked for, if the published size covers it.
func (l *Log) resource(r *http.Request, level string) (id tileID, width uint64, err error) {
	none := refuse("not-found", "no such tile in the published tree")
	n, err := strconv.ParseUint(level, 10, 6) // 0 to 63, c2sp.org/tlog-tiles
	if err != nil || strconv.FormatUint(n, 10) != level {
		return id, 0, none
	}
	index, width, err := parseTilePath(r.PathValue("path"))
	if err != nil {
		return id, 0, none
	}
	id = tileID{n, index}
	pub, err := l.published()
	if err != nil {
		return id, 0, err
	}
	if widthAt(id, pub.cp.Size) < width {
		l.fresher(r.Context())
		pub = l.pub.now.Load()
	}
	if widthAt(id, pub.cp.Size) < width {
		return id, 0, none
	}
	return id, width, nil
}

func (l *Log) getTile(w http.ResponseWriter, r *http.Request) error {
	id, width, err := l.resource(r, r.PathValue("level"))
	if err != nil {
		return err
	}
	b, err := l.tree.tileBytes(r.Context(), id, width)
	if err != nil {
		return err
	}
	return send(w, r, binaryType, immutable, b)
}

const (
	// bundlesAtOnce bounds the entry bundles that are in memory for answers. They have a megabyte or two, and up to 16, and
	// a client that doesn't read holds one for bundleTime.
	bundlesAtOnce = 64

	// bundleTime is how long a client may take to read one, and bundleWait how long it waits while too many do.
	bundleTime = 30 * time.Second
	bundleWait = 100 * time.Millisecond
)

// fewAtOnce returns f for as many requests at once as there are slots. More wait a moment, and are then answered 503.
func fewAtOnce(slots chan struct{}, f func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		wait := time.NewTimer(bundleWait)
		defer wait.Stop()
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-wait.C:
			return fmt.Errorf("%w: %d entry bundles are being read", ErrOverloaded, cap(slots))
		case <-r.Context().Done():
			return r.Context().Err()
		}
		// Not possible with a writer of a test: then there is no client that is slow.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(bundleTime))
		return f(w, r)
	}
}

func (l *Log) getBundle(w http.ResponseWriter, r *http.Request) error {
	id, width, err := l.resource(r, "0")
	if err != nil {
		return err
	}
	w.Header().Add("Vary", "Accept-Encoding")
	if !acceptsGzip(r) {
		b, err := l.tree.bundleBytes(r.Context(), id.index, width)
		if err != nil {
			return err
		}
		return send(w, r, binaryType, immutable, b)
	}
	key := bundleKey{id.index, width}
	z, ok := l.zipped.Get(key)
	if !ok {
		b, err := l.tree.bundleBytes(r.Context(), id.index, width)
		if err != nil {
			return err
		}
		var buf bytes.Buffer
		g, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
		if err != nil {
			return err
		}
		if _, err := g.Write(b); err != nil {
			return err
		}
		if err := g.Close(); err != nil {
			return err
		}
		z = buf.Bytes()
		l.zipped.Add(key, z)
	}
	w.Header().Set("Content-Encoding", "gzip")
	return send(w, r, binaryType, immutable, z)
}

// A bundleKey names a compressed bundle in the cache.
type bundleKey struct{ index, width uint64 }

// zippedBundles bounds the cache of compressed bundles, which take about 1 MB each when full. It holds what monitors that
// follow the log ask for one after the other.
const zippedBundles = 32

func newZipped() *lru.Cache[bundleKey, []byte] {
	c, err := lru.New[bundleKey, []byte](zippedBundles)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return c
}

// acceptsGzip reports whether the client asks for gzip (RFC 9110, section 12.5.3).
func acceptsGzip(r *http.Request) bool {
	for _, h := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(h, ",") {
			coding, params, _ := strings.Cut(strings.TrimSpace(part), ";")
			if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				continue
			}
			q, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(params, " ", "")), "q=")
			weight, err := strconv.ParseFloat(q, 64)
			return !ok || err == nil && weight > 0
		}
	}
	return false
}

func (l *Log) getBlob(w http.ResponseWriter, r *http.Request) error {
	d, err := parseDigest(r.PathValue("digest"))
	if err != nil {
		return err
	}
	b, err := l.objects.Get(r.Context(), blobObject(d))
	if errors.Is(err, fs.ErrNotExist) {
		return refuse("not-found", "no blob %x", d)
	}
	if err != nil {
		return err
	}
	return send(w, r, binaryType, immutable, b)
}

// parseDigest parses a SHA-256 in lowercase hexadecimal, the only spelling.
func parseDigest(s string) (record.Digest, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(record.Digest{}) || strings.ToLower(s) != s {
		return record.Digest{}, refuse("malformed", "%.80q is not a SHA-256 in lowercase hexadecimal", s)
	}
	return record.Digest(b), nil
}

// parseIndex parses a decimal number without sign or leading zeros.
func parseIndex(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, refuse("malformed", "%.40q is not an index", s)
	}
	return n, nil
}

func (l *Log) getFreshness(w http.ResponseWriter, r *http.Request) error {
	if l.frozen != nil {
		return ErrFrozen
	}
	ctx, cancel := context.WithTimeout(r.Context(), l.cfg.MaxWait)
	defer cancel()
	tl, err := l.times.freshness(ctx)
	if err != nil {
		return err
	}
	return send(w, r, textType, neverStored, tl.note)
}

func (l *Log) getProof(w http.ResponseWriter, r *http.Request) error {
	index, err := parseIndex(r.PathValue("index"))
	if err != nil {
		return err
	}
	return l.sendProof(w, r, index)
}

// sendProof answers with the proof of a leaf, if it is published.
func (l *Log) sendProof(w http.ResponseWriter, r *http.Request, index uint64) error {
	pub, err := l.published()
	if err != nil {
		return err
	}
	if index >= pub.cp.Size {
		l.fresher(r.Context())
		pub = l.pub.now.Load()
	}
	if index >= pub.cp.Size {
		return refuse("not-found", "index %d is not in the published tree of size %d", index, pub.cp.Size)
	}
	p, err := l.proof(r.Context(), pub, index, nil)
	if err != nil {
		return err
	}
	return send(w, r, textType, briefly, p)
}

func (l *Log) getProofBy(w http.ResponseWriter, r *http.Request) error {
	by, what := r.PathValue("by"), r.PathValue("what")
	index, ok, err := l.lookup(by, what, r.URL.Query())
	if !ok && err == nil && l.shared != nil {
		l.known(r.Context())
		index, ok, err = l.lookup(by, what, r.URL.Query())
	}
	if err != nil {
		return err
	}
	if !ok {
		return refuse("not-found", "%.40s %.80q is not in the log", by, what)
	}
	return l.sendProof(w, r, index)
}

// lookup returns the index of the leaf that is asked for.
func (l *Log) lookup(by, what string, query url.Values) (uint64, bool, error) {
	if by == "covering" {
		index, err := parseIndex(what)
		if err != nil {
			return 0, false, err
		}
		return l.index.covering(index)
	}
	switch by {
	case "by-statement", "by-note", "by-collateral", "by-release", "by-withdrawal", "by-key":
	default:
		return 0, false, refuse("not-found", "nothing is found %.40q", by)
	}
	d, err := parseDigest(what)
	if err != nil {
		return 0, false, err
	}
	vendor := query.Get("vendor")
	switch by {
	case "by-release", "by-withdrawal", "by-key":
		if err := record.CheckVendorID(vendor); err != nil {
			return 0, false, refuse("malformed", "vendor: %v", err)
		}
	}
	switch by {
	case "by-statement":
		i, _, ok, err := l.index.statement(d)
		return i, ok, err
	case "by-note":
		t, ok, err := l.index.note(d)
		return t.index, ok, err
	case "by-collateral":
		return l.index.indexAt(digestKey(keyCollateral, d))
	case "by-release":
		before := uint64(math.MaxInt64)
		if query.Has("before") {
			if before, err = parseIndex(query.Get("before")); err != nil {
				return 0, false, err
			}
		}
		return l.index.release(vendor, d, before)
	case "by-withdrawal":
		return l.index.indexAt(withdrawnKey(vendor, d))
	default:
		i, _, ok, err := l.index.vendorKey(vendor, what)
		return i, ok, err
	}
}
