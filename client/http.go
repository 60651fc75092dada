package client

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/printable"
)

const (
	// requestTimeout bounds one request from dial to the end of the body. A log holds a submission back until its
	// checkpoint is cosigned, which takes seconds, and answers 202 after a limit of its own.
	requestTimeout = 60 * time.Second

	// maxAttempts, firstBackoff and maxBackoff bound how often and how fast a request is repeated that nobody has
	// answered: about 35 seconds in all, enough for a restart of the log.
	maxAttempts  = 10
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second

	// maxRetryAfter bounds how long a log can make a client wait for one repetition.
	maxRetryAfter = time.Minute

	// maxProblem bounds the body of an error.
	maxProblem = 64 << 10
)

// A Problem is an error that the log has answered (RFC 9457).
type Problem struct {
	Type   string // a URI, such as "https://affidavit-log.github.io/problems/statement-exists"; "about:blank" if unknown
	Title  string
	Status int // the HTTP status
	Detail string

	// Index is where a statement already is, in a problem of type statement-exists, and nil elsewhere.
	Index *uint64
	// Reason is the verifier's word in a problem of type not-genuine.
	Reason string

	retryAfter time.Duration
}

// Name returns the last element of p's type, such as "statement-exists", which is stable, or "".
func (p *Problem) Name() string {
	if name, ok := strings.CutPrefix(p.Type, problemPrefix); ok {
		return name
	}
	return ""
}

const problemPrefix = "https://affidavit-log.github.io/problems/"

func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "log answered %d", p.Status)
	if name := p.Name(); name != "" {
		fmt.Fprintf(&b, " (%s)", printable.Excerpt(name, maxQuoted))
	}
	if text := cmp.Or(p.Detail, p.Title); text != "" {
		fmt.Fprintf(&b, ": %s", printable.Excerpt(text, maxQuoted))
	}
	if p.Reason != "" {
		fmt.Fprintf(&b, " [%s]", printable.Excerpt(p.Reason, maxQuoted))
	}
	if p.Index != nil {
		fmt.Fprintf(&b, " (index %d)", *p.Index)
	}
	return b.String()
}

// maxQuoted is the length in bytes of the longest text of a server in an error.
const maxQuoted = 500

// errTooLarge is wrapped by the error for a body beyond its limit, and errRedirect by that for a redirect that is not
// followed: a repetition would end the same.
var (
	errTooLarge = errors.New("answer too large")
	errRedirect = errors.New("redirected")
)

// hopeless reports whether a request that was not answered would not be answered the next time either: a mistyped host,
// a certificate that isn't the log's.
func hopeless(err error) bool {
	var dns *net.DNSError
	return errors.Is(err, errTooLarge) || errors.Is(err, errRedirect) ||
		errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, &dns) && dns.IsNotFound
}

// response is what the log has answered, with the whole body.
type response struct {
	status   int
	body     []byte
	location string
	retry    time.Duration // Retry-After, 0 if there was none
	from     *url.URL      // what was asked last
}

// request is one exchange that can be repeated: reads, and submissions, which the log deduplicates.
type request struct {
	method      string
	url         *url.URL
	body        []byte
	contentType string
	accept      string
	limit       int    // of the answer's body in bytes, decompressed
	cut         bool   // a longer body is cut off at the limit and one byte, and no error
	into        []byte // where the answer's body goes, if there is room
	auth        bool   // with the token, and no redirects
}

// do makes a request until it is answered with something other than an overload. Connections that fail, 502, 503, 504
// and 429 are repeated with growing pauses, or those that the log asks for; nothing else is: 4xx would be answered the
// same again. Statuses other than 2xx are *Problem errors.
func (c *Client) do(ctx context.Context, r request) (*response, error) {
	backoff := firstBackoff
	for attempt := 1; ; attempt++ {
		resp, err := c.once(ctx, r)
		if err == nil {
			return resp, nil
		}
		var p *Problem
		var wait time.Duration
		switch {
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%s %s: %w", r.method, r.url, context.Cause(ctx))
		case errors.As(err, &p):
			switch p.Status {
			case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
				wait = min(p.retryAfter, maxRetryAfter)
			default:
				return nil, err
			}
		case hopeless(err):
			return nil, err
		}
		if attempt == maxAttempts {
			return nil, fmt.Errorf("after %d attempts: %w", attempt, err)
		}
		// Half of the pause is random, so that clients that a restart has cut off don't all come back at once. A pause
		// that the log has asked for is only made longer.
		pause := backoff/2 + rand.N(backoff/2+1)
		if wait > 0 {
			pause = wait + rand.N(wait/4+1)
		}
		if c.cfg.Retrying != nil {
			c.cfg.Retrying(err, pause)
		}
		if serr := c.sleep(ctx, pause); serr != nil {
			return nil, fmt.Errorf("%w, the last attempt having failed: %v", context.Cause(ctx), err)
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// once makes a request once.
func (c *Client) once(ctx context.Context, r request) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	// "Clients SHOULD include gzip and identity in their Accept-Encoding headers" (c2sp.org/tlog-tiles). Setting it
	// keeps net/http from decompressing without a limit.
	req.Header.Set("Accept-Encoding", "gzip, identity")
	req.Header.Set("User-Agent", "affidavit-client")
	hc := c.reads
	if r.auth {
		hc = c.adds
		if c.cfg.Token != "" {
			req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
		}
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	good := resp.StatusCode >= 200 && resp.StatusCode <= 299
	limit := r.limit
	if !good {
		limit = maxProblem
	}
	body, err := readBody(resp, limit, r.into)
	if good && r.cut && errors.Is(err, errTooLarge) {
		err = nil
	}
	if err != nil {
		if !good {
			// The status says more than what is wrong with the explanation.
			return nil, &Problem{Type: "about:blank", Status: resp.StatusCode, retryAfter: retryAfter(resp.Header)}
		}
		return nil, fmt.Errorf("%s %s: %w", r.method, r.url, err)
	}
	if !good {
		return nil, parseProblem(resp, body)
	}
	return &response{resp.StatusCode, body, resp.Header.Get("Location"), retryAfter(resp.Header), resp.Request.URL}, nil
}

// readBody returns the whole body, decompressed. It is no longer than limit, which is checked on what comes out, so
// that a small body cannot grow without bounds; of a longer one the beginning is returned beside the error. It is in into,
// if that has room for it.
func readBody(resp *http.Response, limit int, into []byte) ([]byte, error) {
	var r io.Reader = resp.Body
	switch e := resp.Header.Get("Content-Encoding"); e {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		r = z
	default:
		return nil, fmt.Errorf("content encoding %q was not asked for", e)
	}
	// A hint, so that large bodies aren't copied again and again: leaves compress to a third or so.
	if n, err := strconv.Atoi(resp.Header.Get("Content-Length")); err == nil && n > 0 {
		if _, compressed := r.(*gzip.Reader); compressed {
			n *= 3
		}
		if n = min(n, limit) + bytes.MinRead; n > cap(into) {
			into = make([]byte, 0, n+n/16) // the next one may be a bit larger
		}
	}
	buf := bytes.NewBuffer(into[:0])
	if _, err := buf.ReadFrom(io.LimitReader(r, int64(limit)+1)); err != nil {
		return nil, err
	}
	b := buf.Bytes()
	if len(b) > limit {
		return b, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	}
	return b, nil
}

// parseProblem makes the best of an error's body. It never fails: the status is what counts.
func parseProblem(resp *http.Response, body []byte) *Problem {
	p := &Problem{Type: "about:blank", Status: resp.StatusCode, retryAfter: retryAfter(resp.Header)}
	if mt, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); mt != "application/problem+json" {
		// Answered by something in between, most likely.
		p.Detail = strings.TrimSpace(string(body))
		if strings.HasPrefix(p.Detail, "<") {
			p.Detail = http.StatusText(p.Status)
		}
		return p
	}
	// Other members are extensions, "clients consuming problem details MUST ignore any such extensions that they don't
	// recognize" (RFC 9457 section 3.2), and one of a wrong type is to be ignored by itself (section 3.1).
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) != nil {
		return p
	}
	str := func(name string, to *string) {
		var s string
		if json.Unmarshal(members[name], &s) == nil && s != "" {
			*to = s
		}
	}
	str("type", &p.Type)
	str("title", &p.Title)
	str("detail", &p.Detail)
	str("reason", &p.Reason)
	if index, ok := members["index"]; ok {
		var n uint64
		if json.Unmarshal(index, &n) == nil && string(index) != "null" {
			p.Index = &n
		}
	}
	return p
}

// retryAfter returns the delay in h's Retry-After, or 0. The form with a date is not used by our logs, and would need a
// clock that agrees with theirs.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// at returns the URL of a path below the log's prefix. The path's elements are safe in URLs as they are.
func (c *Client) at(path string) *url.URL { return c.base.JoinPath(path) }

// get reads a resource.
func (c *Client) get(ctx context.Context, u *url.URL, limit int) (*response, error) {
	return c.do(ctx, request{method: http.MethodGet, url: u, limit: limit})
}

// isNotFound reports whether the log has answered that there is no such thing.
func isNotFound(err error) bool {
	var p *Problem
	return errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusGone)
}
