package sessionlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// A witness is asked for cosignatures by one worker, so that a slow one delays nobody else and never has two requests
// of this log at once. All keys that the policy lists with one URL are one witness's.
//
// An appraiser is a witness that is asked about what is published, instead of about the candidate. It says 503 while it is
// behind, which is no failure, and tells when to come again.
//
// What a witness answers is not trusted. Its body is bounded, its cosignatures are verified, and its word alone never
// stops the log: only what this log has signed does.
type witness struct {
	l      *Log
	p      *publisher
	name   string // as the policy has it
	url    string
	keys   []*checkpoint.VerifierKey
	budget *rate.Limiter
	client *http.Client

	appraiser bool // asked about what is published, and nothing waits for it

	mu     sync.Mutex // guards what follows, held briefly
	want   *candidate // the newest that was offered
	status witnessStatus
	wake   chan struct{} // has an element when want has changed

	// The worker owns what follows.
	size uint64 // what it has cosigned, as far as is known
}

// witnessStatus is what the page and the metrics say of a witness.
type witnessStatus struct {
	size uint64    // it has cosigned
	at   time.Time // when it did so for this process
	err  string    // why it didn't the last time, "" if it did

	// Of an appraiser: since when it has been saying that it is behind, the zero time if it cosigned; and whether the
	// operator was told.
	behind time.Time
	told   bool
}

// cosignatures are a witness's verified signature lines for a candidate, by vkey.
type cosignatures struct {
	from  *witness
	cand  *candidate
	lines map[string][]byte
}

const (
	// witnessTimeout bounds a request to a witness. Public witnesses answer within a second; one that doesn't within
	// this time is asked again later.
	witnessTimeout = 10 * time.Second

	// maxWitnessAnswer bounds a witness's answer: signatures of its keys, or a checkpoint.
	maxWitnessAnswer = checkpoint.MaxNote

	// witnessBackoff and maxWitnessBackoff bound the pauses after failures.
	witnessBackoff    = 250 * time.Millisecond
	maxWitnessBackoff = 2 * time.Minute

	// behindWarning is how long an appraiser may be behind before the operator is told. A moment is normal.
	behindWarning = time.Minute

	// maxClaims is how often a witness may say in a row that it has another size than we thought before it counts as
	// failing. Once is normal after a restart; twice if another process of ours was at work between.
	maxClaims = 3
)

// newWitnesses returns the log policy's witnesses that can be asked, and its appraisers.
func newWitnesses(l *Log, p *publisher) (witnesses, appraisers []*witness) {
	byURL := map[string]*witness{}
	client := &http.Client{
		Timeout: witnessTimeout,
		// A witness answers for itself.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			MaxIdleConnsPerHost:    2,
			IdleConnTimeout:        5 * time.Minute,
			MaxResponseHeaderBytes: 16 << 10,
			ForceAttemptHTTP2:      true,
		},
	}
	for _, w := range l.cfg.LogPolicy.Witnesses() {
		if w.URL == "" {
			continue // cosignatures by it may come another way, but not from here
		}
		url := trimURL(w.URL)
		x := byURL[url]
		if x == nil {
			x = &witness{l: l, p: p, name: w.Name, url: url, client: client, wake: make(chan struct{}, 1), budget: rate.NewLimiter(rate.Inf, 1)}
			byURL[url] = x
			if p.appraising[url] {
				x.appraiser = true
				appraisers = append(appraisers, x)
			} else {
				if n := l.cfg.WitnessBudget; n > 0 {
					// An hour's worth may come at once, after a quiet time.
					x.budget = rate.NewLimiter(rate.Limit(float64(n)/(24*60*60)), max(1, n/24))
				}
				witnesses = append(witnesses, x)
			}
		}
		x.keys = append(x.keys, w.Key)
	}
	return witnesses, appraisers
}

// offer asks for cosignatures of c instead of what was offered before.
func (w *witness) offer(c *candidate) {
	w.mu.Lock()
	w.want = c
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run asks the witness for cosignatures of what is offered until ctx is done.
func (w *witness) run(ctx context.Context) {
	var done *candidate // needs no more requests
	backoff := witnessBackoff
	for {
		w.mu.Lock()
		c := w.want
		w.mu.Unlock()
		if c == done || c == nil {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}
			continue
		}
		if err := w.budget.Wait(ctx); err != nil {
			return
		}
		// While the budget made us wait, something newer may have come.
		w.mu.Lock()
		c = w.want
		w.mu.Unlock()
		if c == nil {
			continue
		}
		began := time.Now()
		lines, err := w.cosign(ctx, c)
		if ctx.Err() != nil {
			return
		}
		w.note(c, began, err)
		if err == nil {
			done, backoff = c, witnessBackoff
			select {
			case w.p.cosigned <- cosignatures{w, c, lines}:
			case <-ctx.Done():
				return
			}
			continue
		}
		pause := backoff/2 + rand.N(backoff/2+1)
		r := (*retryAfter)(nil)
		switch {
		case errors.As(err, &r) && w.appraiser && r.status == http.StatusServiceUnavailable:
			// It is behind, and knows best for how long. Pauses that grew would keep it behind.
			pause, backoff = min(max(r.after, witnessBackoff), maxWitnessBackoff), witnessBackoff
		case errors.As(err, &r):
			pause = max(pause, min(r.after, maxWitnessBackoff))
			fallthrough
		default:
			backoff = min(2*backoff, maxWitnessBackoff)
		}
		if w.appraiser && errors.Is(err, errNewCandidate) && w.hasNewer(c) {
			continue // somebody else had it cosign that already; checkpoints are public
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// hasNewer reports whether something else than c is wanted.
func (w *witness) hasNewer(c *candidate) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.want != c
}

// note records how a request went.
func (w *witness) note(c *candidate, began time.Time, err error) {
	if w.appraiser {
		w.noteAppraiser(c, began, err)
		return
	}
	w.mu.Lock()
	before := w.status.err
	if err == nil {
		w.status = witnessStatus{size: c.cp.Size, at: w.l.cfg.now()}
	} else {
		w.status.err = err.Error()
	}
	after := w.status.err
	w.mu.Unlock()
	m := w.l.metrics
	if err == nil {
		m.witnessRequests.WithLabelValues(w.name, "cosigned").Inc()
		m.witnessSeconds.WithLabelValues(w.name).Observe(time.Since(began).Seconds())
		m.witnessSize.WithLabelValues(w.name).Set(float64(c.cp.Size))
	} else {
		m.witnessRequests.WithLabelValues(w.name, "failed").Inc()
	}
	// A witness that is away for a day is worth two lines, not thousands.
	switch {
	case before == "" && after != "":
		w.l.logger.Warn("witness doesn't cosign", "witness", w.name, "err", err)
	case before != "" && after == "":
		w.l.logger.Info("witness cosigns again", "witness", w.name, "size", c.cp.Size)
	}
}

// noteAppraiser is note for an appraiser, which is behind every so often.
func (w *witness) noteAppraiser(c *candidate, began time.Time, err error) {
	r := (*retryAfter)(nil)
	behind := errors.As(err, &r) && r.status == http.StatusServiceUnavailable
	now := w.l.cfg.now()
	w.mu.Lock()
	before := w.status
	switch {
	case err == nil:
		w.status = witnessStatus{size: c.cp.Size, at: now}
	case behind:
		if w.status.behind.IsZero() {
			w.status.behind = now
		}
		w.status.err = ""
	default:
		w.status.err = err.Error()
	}
	tell := behind && !w.status.told && now.Sub(w.status.behind) >= behindWarning || w.status.err != "" && before.err == ""
	w.status.told = err != nil && (w.status.told || tell)
	w.mu.Unlock()
	m := w.l.metrics
	result := "failed"
	switch {
	case err == nil:
		result = "cosigned"
		m.appraiserSeconds.WithLabelValues(w.name).Observe(time.Since(began).Seconds())
		m.appraiserSize.WithLabelValues(w.name).Set(float64(c.cp.Size))
	case behind:
		result = "behind"
	}
	m.appraiserRequests.WithLabelValues(w.name, result).Inc()
	switch {
	case tell:
		w.l.logger.Warn("appraiser doesn't cosign", "appraiser", w.name, "size", c.cp.Size, "err", err)
	case err == nil && before.told:
		w.l.logger.Info("appraiser cosigns again", "appraiser", w.name, "size", c.cp.Size)
	}
}

// retryAfter is an error of a witness that may say when to come again.
type retryAfter struct {
	error
	status int
	after  time.Duration // 0 if it didn't
}

// cosign asks for cosignatures of c (c2sp.org/tlog-witness, "add-checkpoint").
func (w *witness) cosign(ctx context.Context, c *candidate) (map[string][]byte, error) {
	for range maxClaims {
		if w.size > c.cp.Size {
			return nil, w.isAhead(ctx, w.size)
		}
		proof, err := w.l.tree.consistency(ctx, w.size, c.cp.Size)
		if err != nil {
			return nil, err
		}
		var body bytes.Buffer
		fmt.Fprintf(&body, "old %d\n", w.size)
		for _, h := range proof {
			body.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
		}
		body.WriteByte('\n')
		body.Write(c.note)
		status, answer, header, err := w.request(ctx, http.MethodPost, w.url+"/add-checkpoint", body.Bytes())
		if err != nil {
			return nil, err
		}
		switch status {
		case http.StatusOK:
			lines, err := w.verify(c, answer)
			if err == nil {
				w.size = c.cp.Size
			}
			return lines, err
		case http.StatusConflict:
			// "The response body MUST consist of the tree size of the latest cosigned checkpoint in decimal, followed by
			// a newline".
			s, ok := strings.CutSuffix(string(answer), "\n")
			size, err := checkpoint.ParseSize(s)
			if !ok || err != nil {
				return nil, fmt.Errorf("conflict with size %.40q", answer)
			}
			if size == w.size {
				return nil, fmt.Errorf("conflict, but the witness has the size %d that was given", size)
			}
			w.size = size
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			n, err := strconv.ParseUint(header.Get("Retry-After"), 10, 20)
			if err != nil {
				n = 0
			}
			return nil, &retryAfter{fmt.Errorf("status %d: %.200q", status, answer), status, time.Duration(n) * time.Second}
		case http.StatusUnprocessableEntity:
			// It has another tree of this size. If this log has signed that, it is all over.
			if err := w.compare(ctx); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("the witness refuses the proof from its size %d: %.200q", w.size, answer)
		default:
			return nil, fmt.Errorf("status %d: %.200q", status, answer)
		}
	}
	return nil, errors.New("the witness keeps changing its size")
}

// verify returns the cosignatures in an answer, by the keys that the policy lists for the witness.
func (w *witness) verify(c *candidate, answer []byte) (map[string][]byte, error) {
	sigs, err := checkpoint.ParseSignatures(answer)
	if err != nil {
		return nil, err
	}
	lines := map[string][]byte{}
	for _, s := range sigs {
		for _, k := range w.keys {
			if !k.Matches(s) {
				continue
			}
			at, err := k.Verify(c.text, s)
			if err != nil {
				return nil, err
			}
			// "a witness answer to add-checkpoint MUST NOT have timestamp 0".
			if at == 0 {
				return nil, fmt.Errorf("cosignature by %s without a time", k.Name())
			}
			lines[k.String()] = s.Line
		}
	}
	if len(lines) == 0 {
		return nil, errors.New("no cosignature by a key that the log policy lists")
	}
	return lines, nil
}

// request does an HTTP request with a bounded answer.
func (w *witness) request(ctx context.Context, method, url string, body []byte) (int, []byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("User-Agent", "affidavit-log")
	resp, err := w.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxWitnessAnswer+1))
	if err != nil {
		return 0, nil, nil, err
	}
	if len(b) > maxWitnessAnswer {
		return 0, nil, nil, fmt.Errorf("answer of more than %d bytes", maxWitnessAnswer)
	}
	return resp.StatusCode, b, resp.Header, nil
}

// isAhead is called when a witness says that it has cosigned a tree larger than the candidate's. It returns an error in
// any case, since the candidate won't be cosigned.
func (w *witness) isAhead(ctx context.Context, size uint64) error {
	if err := w.compare(ctx); err != nil {
		return err
	}
	w.size = 0 // its word alone; ask again
	return fmt.Errorf("the witness says that it has cosigned the size %d, and doesn't show it", size)
}

// errNewCandidate says that the witness has cosigned a later tree of this log than the candidate.
var errNewCandidate = errors.New("the witness has cosigned a later tree of this log")

// compare fetches the checkpoint that the witness has cosigned last, and halts the log if this log has signed it and it
// isn't consistent with the tree: data was lost, or somebody else uses the key. It returns an error that says so, or
// errNewCandidate, or nil if there is nothing to compare.
func (w *witness) compare(ctx context.Context) error {
	// "GET <monitoring prefix>/<lowercase hex SHA-256(origin)>/checkpoint". Policies name submission prefixes; with
	// most witnesses they are the same.
	url := fmt.Sprintf("%s/%x/checkpoint", w.url, sha256.Sum256([]byte(w.l.cfg.Origin)))
	status, note, _, err := w.request(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if status == http.StatusNotFound {
		return nil // "404 if never cosigned", or no such interface
	}
	if status != http.StatusOK {
		return fmt.Errorf("asking for what it has cosigned: status %d", status)
	}
	cp, err := w.ownCheckpoint(note)
	if err != nil {
		return fmt.Errorf("asking for what it has cosigned: %w", err)
	}
	if _, err := w.l.tree.refresh(ctx); err != nil {
		return err
	}
	if err := w.p.checkTree(ctx, cp); err != nil {
		if errors.Is(err, ErrInconsistent) {
			err = fmt.Errorf("witness %s has cosigned a checkpoint that this log has signed: %w", w.name, err)
			w.l.halt(err)
		}
		return err
	}
	w.size = cp.Size
	w.p.mu.Lock()
	w.p.ahead = max(w.p.ahead, cp.Size)
	w.p.mu.Unlock()
	w.p.kick()
	w.mu.Lock()
	c := w.want
	w.mu.Unlock()
	if c != nil && cp.Size > c.cp.Size {
		return fmt.Errorf("%w, of size %d", errNewCandidate, cp.Size)
	}
	return nil
}

// ownCheckpoint returns the checkpoint in a note if one of this log's keys signed it.
func (w *witness) ownCheckpoint(note []byte) (checkpoint.Checkpoint, error) {
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	for _, k := range w.l.cfg.Keys {
		for _, s := range n.Signatures {
			if k.Verifier().Matches(s) {
				if _, err := k.Verifier().Verify(n.Text, s); err == nil {
					return cp, nil
				}
			}
		}
	}
	return checkpoint.Checkpoint{}, errors.New("no key of this log signed it")
}

// askTimeout bounds how long a start waits for witnesses to say what they have cosigned.
const askTimeout = 5 * time.Second

// askWitnesses compares what every witness has cosigned with the tree, and fails if this log has signed something that
// isn't consistent with it. A witness that doesn't answer is no reason not to start: it won't cosign a fork later.
func (p *publisher) askWitnesses(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for _, w := range p.all() {
		wg.Go(func() {
			// What halts the log was logged by that.
			if err := w.compare(ctx); err != nil && !errors.Is(err, errNewCandidate) && !errors.Is(err, ErrInconsistent) {
				p.l.logger.Warn("witness wasn't asked what it has seen", "witness", w.name, "err", err)
			}
		})
	}
	wg.Wait()
	return p.l.Err()
}
