package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Run says how a stock is submitted.
type Run struct {
	URL      string   // of the log
	Tokens   []string // by vendor
	Clients  int      // connections, each with one request at a time
	Rate     float64  // requests a second; 0 is as fast as the answers come (a closed loop)
	Duration time.Duration
}

// A Result is what came of a run. Durations are in milliseconds.
type Result struct {
	Seconds  float64        `json:"seconds"`
	Admitted int            `json:"admitted"`           // answered with a proof
	Records  int            `json:"records"`            // distinct records among them
	Refused  int            `json:"refused"`            // invalid entries that the log refused, as it should
	Retries  int            `json:"retries"`            // answers of 503, after which the same entry was sent again
	Wrong    map[string]int `json:"wrong,omitempty"`    // what should not have happened, see Run.Do
	Rate     float64        `json:"admitted_per_s"`     //
	Bytes    int64          `json:"bytes_admitted"`     // of fresh entries
	Latency  Latency        `json:"latency_ms"`         // of admitted entries
	Behind   float64        `json:"behind_ms,omitzero"` // open loop: how late the last request was sent
}

// Latency is of requests that were admitted, from when they were to be sent until the end of the answer. In an open loop
// that is the schedule's time: a server that stalls delays the requests behind, and those wait too, whether or not a
// connection was free to send them (which is what "coordinated omission" leaves out).
type Latency struct {
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func latencyOf(d []time.Duration) Latency {
	if len(d) == 0 {
		return Latency{}
	}
	slices.Sort(d)
	at := func(q float64) float64 { return float64(d[min(int(q*float64(len(d))), len(d)-1)]) / 1e6 }
	return Latency{P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
}

// Do submits the stock, until it or the time is used up, and waits for the answers under way. Every answer is checked: a
// fresh entry must get an index that no other has, a duplicate the index of the entry that it repeats (unless that was
// not answered yet), and an invalid one must be refused; what isn't so is counted as wrong, by what it was.
func (r Run) Do(ctx context.Context, s *Stock) (*Result, error) {
	u, err := url.Parse(r.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not the URL of a log", r.URL)
	}
	if r.Clients < 1 {
		return nil, fmt.Errorf("%d clients: want at least 1", r.Clients)
	}
	d := &driver{r: r, url: u, s: s, index: make([]atomic.Int64, len(s.Items)), wrong: map[string]int{}, took: make([][]time.Duration, r.Clients)}
	d.began = time.Now()
	if r.Duration > 0 {
		d.end = d.began.Add(r.Duration)
	}
	var wg sync.WaitGroup
	for i := range r.Clients {
		wg.Go(func() { d.client(ctx, &d.took[i]) })
	}
	wg.Wait()
	took := time.Since(d.began)

	res := &Result{Seconds: took.Seconds(), Refused: int(d.refused.Load()), Retries: int(d.retries.Load()), Wrong: d.wrong, Behind: float64(d.behind.Load()) / 1e6}
	all := slices.Concat(d.took...)
	res.Admitted, res.Rate, res.Latency = len(all), float64(len(all))/took.Seconds(), latencyOf(all)
	seen := make(map[int64]int, len(all))
	for i := range s.Items {
		got := d.index[i].Load() - 1
		if got < 0 {
			continue
		}
		switch it := s.Items[i]; it.Kind {
		case Fresh:
			res.Bytes += int64(len(it.Entry))
			if other, ok := seen[got]; ok {
				d.complain(fmt.Sprintf("entries %d and %d are both at index %d", other, i, got))
			}
			seen[got] = i
		case Duplicate:
			if first := d.index[it.Of].Load() - 1; first >= 0 && first != got {
				d.complain("a duplicate got another index")
			}
		}
	}
	res.Records = len(seen)
	return res, ctx.Err()
}

// A driver is a run under way.
type driver struct {
	r     Run
	url   *url.URL
	s     *Stock
	began time.Time
	end   time.Time // zero: when the stock is used up

	next    atomic.Int64
	index   []atomic.Int64 // of each item that was admitted, plus one
	refused atomic.Int64
	retries atomic.Int64
	behind  atomic.Int64 // nanoseconds

	took [][]time.Duration // by client

	mu    sync.Mutex // guards wrong
	wrong map[string]int
}

func (d *driver) complain(what string) {
	d.mu.Lock()
	d.wrong[what]++
	d.mu.Unlock()
}

// client submits entries over one connection.
func (d *driver) client(ctx context.Context, took *[]time.Duration) {
	var c *conn
	defer func() { c.close() }()
	for {
		i := int(d.next.Add(1)) - 1
		if i >= len(d.s.Items) || ctx.Err() != nil {
			return
		}
		due := time.Now()
		if d.r.Rate > 0 {
			due = d.began.Add(time.Duration(float64(i) / d.r.Rate * 1e9))
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
			} else {
				d.behind.Store(int64(-wait))
			}
		}
		if !d.end.IsZero() && !due.Before(d.end) {
			return
		}
		it := &d.s.Items[i]
		for {
			if c == nil {
				var err error
				if c, err = dial(ctx, d.url); err != nil {
					d.complain("connecting: " + errorClass(err))
					time.Sleep(10 * time.Millisecond)
					break
				}
			}
			status, retryAfter, body, err := c.post(d.url, d.r.Tokens[it.Vendor], it.Entry)
			if err != nil {
				c.close()
				c = nil
				d.complain("connection: " + errorClass(err))
				break
			}
			if c.last {
				c.close()
				c = nil
			}
			if status == http.StatusServiceUnavailable && ctx.Err() == nil && (d.end.IsZero() || time.Now().Before(d.end)) {
				d.retries.Add(1)
				time.Sleep(retryAfter)
				continue
			}
			d.answered(i, status, body, time.Since(due), took)
			break
		}
	}
}

// answered checks an answer.
func (d *driver) answered(i, status int, body []byte, after time.Duration, took *[]time.Duration) {
	it := &d.s.Items[i]
	if it.Kind == Invalid {
		if status >= 400 && status < 500 {
			d.refused.Add(1)
		} else {
			d.complain(fmt.Sprintf("an invalid entry was answered %d", status))
		}
		return
	}
	if status != http.StatusOK {
		d.complain(fmt.Sprintf("status %d", status))
		return
	}
	index, err := proofIndex(body)
	if err != nil {
		d.complain(err.Error())
		return
	}
	d.index[i].Store(index + 1)
	*took = append(*took, after)
}

// proofIndex returns the index that a proof is for (c2sp.org/tlog-proof).
func proofIndex(b []byte) (int64, error) {
	rest, ok := bytes.CutPrefix(b, []byte("c2sp.org/tlog-proof@v1\n"))
	if ok && bytes.HasPrefix(rest, []byte("extra ")) {
		_, rest, ok = bytes.Cut(rest, []byte("\n"))
	}
	if ok {
		rest, ok = bytes.CutPrefix(rest, []byte("index "))
	}
	line, _, more := bytes.Cut(rest, []byte("\n"))
	n, err := strconv.ParseInt(string(line), 10, 64)
	if !ok || !more || err != nil || n < 0 {
		return 0, errors.New("an answer of 200 is not a proof")
	}
	return n, nil
}

// errorClass says what kind of error it is, without addresses.
func errorClass(err error) string {
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		return "timeout"
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "closed by the server"
	}
	if oe := (*net.OpError)(nil); errors.As(err, &oe) {
		return oe.Err.Error()
	}
	return err.Error()
}

// A conn is one HTTP/1.1 connection. net/http's client would cost this machine as much as half of the server's work, and
// the two share its processors.
type conn struct {
	net.Conn
	r    *bufio.Reader
	buf  []byte
	last bool // the server has said that it closes the connection
}

func dial(ctx context.Context, u *url.URL) (*conn, error) {
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
	}
	var c net.Conn
	var err error
	nd := &net.Dialer{Timeout: 10 * time.Second}
	if u.Scheme == "https" {
		c, err = (&tls.Dialer{NetDialer: nd, Config: &tls.Config{NextProtos: []string{"http/1.1"}}}).DialContext(ctx, "tcp", addr)
	} else {
		c, err = nd.DialContext(ctx, "tcp", addr)
	}
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 32<<10)}, nil
}

func (c *conn) close() {
	if c != nil {
		c.Close()
	}
}

// answerTimeout is longer than a log holds a submission.
const answerTimeout = 60 * time.Second

// maxAnswer bounds an answer: a proof whose checkpoint has the cosignatures of many witnesses is some tens of kilobytes.
const maxAnswer = 1 << 20

func (c *conn) post(u *url.URL, token string, entry []byte) (status int, retryAfter time.Duration, body []byte, err error) {
	c.buf = fmt.Appendf(c.buf[:0], "POST %s/add HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n",
		u.EscapedPath(), u.Host, token, len(entry))
	c.buf = append(c.buf, entry...)
	return c.do()
}

func (c *conn) get(u *url.URL, path string) (status int, body []byte, err error) {
	c.buf = fmt.Appendf(c.buf[:0], "GET %s%s HTTP/1.1\r\nHost: %s\r\n\r\n", u.EscapedPath(), path, u.Host)
	status, _, body, err = c.do()
	return status, body, err
}

func (c *conn) do() (status int, retryAfter time.Duration, body []byte, err error) {
	c.SetDeadline(time.Now().Add(answerTimeout))
	if _, err := c.Write(c.buf); err != nil {
		return 0, 0, nil, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, 0, nil, err
	}
	defer resp.Body.Close()
	b := bytes.NewBuffer(c.buf[:0]) // the request has been sent
	if _, err := b.ReadFrom(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return 0, 0, nil, err
	}
	c.buf = b.Bytes()
	c.last = resp.Close
	retryAfter = 50 * time.Millisecond
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		retryAfter = time.Duration(min(s, 5)) * time.Second
	}
	return resp.StatusCode, retryAfter, c.buf, nil
}

// Proofs asks for the proofs of random records below size, over so many connections, for so long, and returns how many
// were answered a second. An answer that isn't the record's proof is an error.
func Proofs(ctx context.Context, logURL string, size int64, clients int, dur time.Duration, random func(int64) int64) (float64, Latency, error) {
	u, err := url.Parse(logURL)
	if err != nil {
		return 0, Latency{}, err
	}
	end := time.Now().Add(dur)
	began := time.Now()
	took := make([][]time.Duration, clients)
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			c, err := dial(ctx, u)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.close()
			for time.Now().Before(end) && ctx.Err() == nil {
				n := random(size)
				from := time.Now()
				status, body, err := c.get(u, "/proof/"+strconv.FormatInt(n, 10))
				if err == nil && status != http.StatusOK {
					err = fmt.Errorf("proof of %d: status %d", n, status)
				}
				if err == nil {
					var got int64
					if got, err = proofIndex(body); err == nil && got != n {
						err = fmt.Errorf("asked for the proof of %d, got that of %d", n, got)
					}
				}
				if err != nil {
					errs[i] = err
					return
				}
				took[i] = append(took[i], time.Since(from))
			}
		})
	}
	wg.Wait()
	all := slices.Concat(took...)
	return float64(len(all)) / time.Since(began).Seconds(), latencyOf(all), errors.Join(errs...)
}
