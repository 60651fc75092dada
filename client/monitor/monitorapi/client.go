package monitorapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

const (
	// DefaultURL is where a monitor listens unless it is told otherwise.
	DefaultURL = "http://127.0.0.1:8474"

	// AfterTrailer is the HTTP trailer with the cursor to continue a search with. It is absent if the search is at its
	// end.
	AfterTrailer = "Affidavit-After"

	// maxLine bounds one line of an answer: a result with its claims is a few ten thousand bytes.
	maxLine = 4 << 20

	// maxBundle bounds a bundle; it is bundle.MaxSize.
	maxBundle = 16 << 20

	maxProblem = 64 << 10
)

// A Client asks one monitor over HTTP. It can be used concurrently.
//
// A monitor is the reader's own, or somebody's whom the reader trusts to answer: what it says isn't signed. Bundles are,
// and package bundle checks them.
type Client struct {
	base  *url.URL
	http  *http.Client
	token string // "" if the monitor asks for none
}

// NewClient returns a client for the monitor at the URL prefix base. hc makes the requests; nil is a client without a
// limit on how long an answer takes, since answers are long: contexts are for that.
func NewClient(base string, hc *http.Client) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%.200q is not the URL of a monitor, such as %s", withoutPassword(base), DefaultURL)
	}
	if u.User != nil {
		// URLs are shown: in reports and exports, in errors, in lists of processes.
		return nil, fmt.Errorf("%s has a name or a password in it, which everybody sees who sees the URL: give the monitor's token by itself", u.Redacted())
	}
	if hc == nil {
		hc = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	return &Client{base: u, http: hc}, nil
}

// withoutPassword returns what isn't a monitor's URL so that it can be shown.
func withoutPassword(base string) string {
	if i := strings.LastIndexByte(base, '@'); i >= 0 {
		return "…" + base[i:]
	}
	return base
}

// WithToken returns a client that shows the monitor a token, that of its --web-token-file. It follows no redirects. It is
// an error if the token would go to another machine unencrypted.
func (c *Client) WithToken(token string) (*Client, error) {
	if ip := net.ParseIP(c.base.Hostname()); c.base.Scheme != "https" && c.base.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s: a token would go to another machine unencrypted: use https", c.base)
	}
	hc := *c.http
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: c.base, http: &hc, token: token}, nil
}

// URL returns where the monitor is.
func (c *Client) URL() string { return c.base.String() }

// do sends a request, and returns its answer if that is 200. The caller closes its body.
func (c *Client) do(ctx context.Context, method, path string, q url.Values, body any) (*http.Response, error) {
	u := *c.base
	u.Path += path
	u.RawQuery = q.Encode()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the monitor: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	p := &Problem{Status: resp.StatusCode, Title: http.StatusText(resp.StatusCode)}
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t == "application/problem+json" {
		var sent Problem
		if json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(&sent) == nil {
			p.Type, p.Detail = sent.Type, sent.Detail
			if sent.Title != "" {
				p.Title = sent.Title
			}
		}
	}
	return nil, p
}

// get decodes an answer of one JSON object.
func (c *Client) get(ctx context.Context, path string, q url.Values, v any) error {
	resp, err := c.do(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLine)).Decode(v); err != nil {
		return fmt.Errorf("the monitor's answer: %w", err)
	}
	return nil
}

// lines decodes an answer of JSON lines, and calls f with each until f returns false. It reports whether the answer was
// read to its end.
func lines[T any](resp *http.Response, f func(*T) bool) (ended bool, err error) {
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		v := new(T)
		if err := json.Unmarshal(s.Bytes(), v); err != nil {
			return false, fmt.Errorf("the monitor's answer: %w", err)
		}
		if !f(v) {
			return false, nil
		}
	}
	if err := s.Err(); err != nil {
		return false, fmt.Errorf("the monitor's answer breaks off: %w", err)
	}
	return true, nil
}

// pages yields what a search finds, page after page, up to q.Limit.
func pages[T any](ctx context.Context, c *Client, path string, q Query, page int, index func(*T) uint64) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		left := q.Limit
		for {
			n := page
			if q.Limit > 0 {
				n = min(n, left)
			}
			ask := q
			ask.Limit = n
			resp, err := c.do(ctx, http.MethodGet, path, ask.Values(), nil)
			if err != nil {
				yield(nil, err)
				return
			}
			got, last := 0, uint64(0)
			ended, err := lines(resp, func(v *T) bool {
				got, last = got+1, index(v)
				return yield(v, nil)
			})
			resp.Body.Close()
			if err != nil {
				yield(nil, err)
				return
			}
			if !ended {
				return
			}
			left -= got
			if q.Limit > 0 && left <= 0 {
				return
			}
			after, err := strconv.ParseUint(resp.Trailer.Get(AfterTrailer), 10, 64)
			switch {
			case err == nil && after > q.After:
				q.After = after
			case got == n && last+1 > q.After: // a proxy can have dropped the trailer
				q.After = last + 1
			default:
				return
			}
		}
	}
}

// Records yields the records that q is about, in the order of the log. It stops after an error.
func (c *Client) Records(ctx context.Context, q Query) iter.Seq2[*Record, error] {
	return pages(ctx, c, "/api/records", q, MaxRecords, func(r *Record) uint64 { return r.Index })
}

// Results yields the records that q is about with all their claims, in the order of the log. It stops after an error.
// The monitor computes each anew, which takes milliseconds.
func (c *Client) Results(ctx context.Context, q Query) iter.Seq2[*Result, error] {
	return pages(ctx, c, "/api/results", q, MaxResults, func(r *Result) uint64 {
		if r.Record == nil {
			return 0
		}
		return r.Index
	})
}

// Record returns the record at index.
func (c *Client) Record(ctx context.Context, index uint64) (*Record, error) {
	r := new(Record)
	return r, c.get(ctx, "/api/records/"+strconv.FormatUint(index, 10), nil, r)
}

// Bundle returns the .affidavit file of the record at index.
func (c *Client) Bundle(ctx context.Context, index uint64) ([]byte, error) {
	resp, err := c.do(ctx, http.MethodGet, "/api/bundles/"+strconv.FormatUint(index, 10), nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBundle+1))
	if err != nil {
		return nil, fmt.Errorf("the monitor's answer breaks off: %w", err)
	}
	if len(b) > maxBundle {
		return nil, errors.New("the monitor's answer is larger than any bundle")
	}
	return b, nil
}

// Status returns the monitor's status, as JSON.
func (c *Client) Status(ctx context.Context) (json.RawMessage, error) {
	var v json.RawMessage
	return v, c.get(ctx, "/api/status", nil, &v)
}

// State returns what the monitor has audited.
func (c *Client) State(ctx context.Context) (*State, error) {
	s := new(State)
	return s, c.get(ctx, "/api/state", nil, s)
}

// Families returns the kinds of platforms that made quotes in the log.
func (c *Client) Families(ctx context.Context) ([]Family, error) {
	var v []Family
	return v, c.get(ctx, "/api/families", nil, &v)
}

// Findings yields the findings of the monitor's list after the one with the sequence number after, as JSON. It stops
// after an error, and at the end of what there is so far.
func (c *Client) Findings(ctx context.Context, after uint64) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		for {
			resp, err := c.do(ctx, http.MethodGet, "/api/findings", url.Values{
				"after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(MaxRecords)},
			}, nil)
			if err != nil {
				yield(nil, err)
				return
			}
			got, bad := 0, error(nil)
			ended, err := lines(resp, func(v *json.RawMessage) bool {
				var f struct {
					Seq uint64 `json:"seq"`
				}
				if bad = json.Unmarshal(*v, &f); bad != nil || f.Seq <= after {
					bad = fmt.Errorf("the monitor's answer: finding %d after finding %d: %v", f.Seq, after, bad)
					return false
				}
				after = f.Seq
				got++
				return yield(*v, nil)
			})
			resp.Body.Close()
			if err = errors.Join(err, bad); err != nil {
				yield(nil, err)
				return
			}
			if !ended || got < MaxRecords {
				return
			}
		}
	}
}

// summed reads an answer whose last line is a summary. Without one it isn't whole.
func summed[L, S any](resp *http.Response, f func(*L) bool, summary func(*L) *S) (*S, error) {
	defer resp.Body.Close()
	var sum *S
	var stopped bool
	_, err := lines(resp, func(l *L) bool {
		if s := summary(l); s != nil {
			sum = s
			return true
		}
		stopped = !f(l)
		return !stopped
	})
	switch {
	case err != nil:
		return nil, err
	case sum == nil && !stopped:
		return nil, errors.New("the monitor's answer breaks off: there is no summary")
	}
	return sum, nil
}

// Recall calls f with each session that q is about, in the order of the log, until f returns false, and returns the
// summary: nil if f did. With a request, records are also judged with today's collateral.
func (c *Client) Recall(ctx context.Context, q RecallQuery, today *ReappraiseRequest, f func(*TouchedSession) bool) (*RecallSummary, error) {
	method, body := http.MethodGet, any(nil)
	if today != nil {
		method, body = http.MethodPost, today
	}
	resp, err := c.do(ctx, method, "/api/recall", q.Values(), body)
	if err != nil {
		return nil, err
	}
	return summed(resp, func(l *RecallLine) bool { return l.Touched == nil || f(l.Touched) }, func(l *RecallLine) *RecallSummary { return l.Summary })
}

// Reappraise calls f with each record whose judgement has changed, in the order of the log, until f returns false, and
// returns the summary: nil if f did.
func (c *Client) Reappraise(ctx context.Context, q ReappraiseQuery, r *ReappraiseRequest, f func(*Reappraised) bool) (*ReappraiseSummary, error) {
	resp, err := c.do(ctx, http.MethodPost, "/api/reappraise", q.Values(), r)
	if err != nil {
		return nil, err
	}
	return summed(resp, func(l *ReappraiseLine) bool { return l.Record == nil || f(l.Record) }, func(l *ReappraiseLine) *ReappraiseSummary { return l.Summary })
}

// Reconcile calls f with each session of the customer's list, and then each surplus one, until f returns false, and
// returns the summary: nil if f did.
func (c *Client) Reconcile(ctx context.Context, r *ReconcileRequest, f func(*Reconciled) bool) (*ReconcileSummary, error) {
	resp, err := c.do(ctx, http.MethodPost, "/api/reconcile", nil, r)
	if err != nil {
		return nil, err
	}
	return summed(resp, func(l *ReconcileLine) bool { return l.Session == nil || f(l.Session) }, func(l *ReconcileLine) *ReconcileSummary { return l.Summary })
}

// VendorCheck returns what the log says about a vendor.
func (c *Client) VendorCheck(ctx context.Context, q VendorCheckQuery) (*VendorCheck, error) {
	v := new(VendorCheck)
	return v, c.get(ctx, "/api/vendor-check", q.Values(), v)
}
