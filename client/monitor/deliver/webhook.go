package deliver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/printable"
)

const (
	// webhookTimeout bounds one attempt: "Consumers should respond within 15-30s" is what the specification suggests.
	webhookTimeout = 20 * time.Second

	// maxAnswer bounds what is read of an answer, of which only an error's beginning is of use.
	maxAnswer = 4 << 10

	// Tolerance is how far the time in a request may be from the receiver's clock. Within it, a replayed request is
	// known by its id.
	Tolerance = 5 * time.Minute

	// secretPrefix begins a secret, "for easy identification" (Standard Webhooks, "Signature scheme").
	secretPrefix = "whsec_"

	// "Random. At least 24 bytes (192 bits, 512 maximum)".
	minSecret, maxSecret = 24, 64
)

// Headers of a request, as Standard Webhooks 1.0.0 (standardwebhooks.com) names them.
const (
	HeaderID        = "webhook-id"        // the finding's ID, the same however often it is sent
	HeaderTimestamp = "webhook-timestamp" // seconds since the epoch, of this attempt
	HeaderSignature = "webhook-signature" // one or more "v1," and base64, separated by spaces
)

// A Payload is the body of a request.
type Payload struct {
	Type      string           `json:"type"`      // "finding." and the class
	Timestamp time.Time        `json:"timestamp"` // when it was found
	Data      *monitor.Finding `json:"data"`

	// EvidenceOmitted says that the receiver has refused a larger body, so that the evidence was left out. The monitor
	// has it, at /api/findings.
	EvidenceOmitted bool `json:"evidence_omitted,omitempty"`
}

// A Secret signs requests, and is shared with one receiver. Printing one doesn't show it.
type Secret struct{ key []byte }

// String returns a placeholder.
func (s Secret) String() string { return "whsec_(hidden)" }

// GoString returns a placeholder.
func (s Secret) GoString() string { return s.String() }

// ParseSecret parses "whsec_" and the base64 of 24 to 64 random bytes.
func ParseSecret(text string) (Secret, error) {
	enc, ok := strings.CutPrefix(text, secretPrefix)
	key, err := base64.StdEncoding.Strict().DecodeString(enc)
	// The decoder skips line breaks.
	if !ok || err != nil || base64.StdEncoding.EncodeToString(key) != enc {
		return Secret{}, errors.New("a webhook secret is whsec_ and base64, such as from: echo whsec_$(openssl rand -base64 32)")
	}
	if len(key) < minSecret || len(key) > maxSecret {
		return Secret{}, fmt.Errorf("the webhook secret has %d bytes, want %d to %d", len(key), minSecret, maxSecret)
	}
	return Secret{key}, nil
}

// ReadSecrets reads a file with one secret a line, which nobody else may read. While a secret is being replaced there
// are two, and requests are signed with both.
func ReadSecrets(file string) ([]Secret, error) {
	fi, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %#o: others can read the secret; chmod 600 %s", file, fi.Mode().Perm(), file)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var secrets []Secret
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		s, err := ParseSecret(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		secrets = append(secrets, s)
	}
	if len(secrets) == 0 || len(secrets) > 4 {
		return nil, fmt.Errorf("%s has %d secrets, want 1 to 4", file, len(secrets))
	}
	return secrets, nil
}

// Sign returns the signature of a request: "v1," and base64 of HMAC-SHA-256 over "{id}.{timestamp}.{body}". The id must
// hold no full stop.
func (s Secret) Sign(id string, at time.Time, body []byte) string {
	m := hmac.New(sha256.New, s.key)
	fmt.Fprintf(m, "%s.%d.%s", id, at.Unix(), body)
	return "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
}

// Verify is for receivers: it checks that a request with this header and body was signed with the secret within
// [Tolerance] of now. Whoever has seen the id before has seen the finding before.
func (s Secret) Verify(h http.Header, body []byte, now time.Time) error {
	t, err := strconv.ParseInt(h.Get(HeaderTimestamp), 10, 64)
	if err != nil {
		return fmt.Errorf("%s %q isn't a number of seconds", HeaderTimestamp, h.Get(HeaderTimestamp))
	}
	at := time.Unix(t, 0)
	if at.Before(now.Add(-Tolerance)) || at.After(now.Add(Tolerance)) {
		return fmt.Errorf("%s %d is more than %v from now", HeaderTimestamp, t, Tolerance)
	}
	want := s.Sign(h.Get(HeaderID), at, body)
	for sig := range strings.FieldsSeq(h.Get(HeaderSignature)) {
		if hmac.Equal([]byte(sig), []byte(want)) {
			return nil
		}
	}
	return errors.New("no signature by the secret")
}

// WebhookConfig configures [NewWebhook].
type WebhookConfig struct {
	// URL gets a POST for each finding. It is https, or http to this machine.
	URL string

	// Secrets sign: at least one.
	Secrets []Secret

	// AllowPlainHTTP lets findings travel unencrypted: what a log has done is public, but what somebody watches isn't.
	AllowPlainHTTP bool

	// Transport defaults to one with bounded times.
	Transport http.RoundTripper
}

// A Webhook is a [Receiver] that posts findings, signed, as Standard Webhooks 1.0.0 has it.
type Webhook struct {
	url     string
	host    string
	secrets []Secret
	client  *http.Client
}

// NewWebhook returns a webhook. It makes no request.
func NewWebhook(c WebhookConfig) (*Webhook, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return nil, errors.New("webhook: not a URL") // the error would show it, and with it, maybe, a token
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, fmt.Errorf("webhook at %q: want an https URL", u.Host)
	case u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("webhook at %q: a URL with a user or a fragment; the signature is what authenticates", u.Host)
	case u.Scheme == "http" && !loopback(u.Hostname()) && !c.AllowPlainHTTP:
		return nil, fmt.Errorf("webhook at %q: findings would travel unencrypted; use https", u.Host)
	case len(c.Secrets) == 0:
		return nil, fmt.Errorf("webhook at %q: no secret to sign with", u.Host)
	}
	t := c.Transport
	if t == nil {
		d := http.DefaultTransport.(*http.Transport).Clone()
		d.MaxResponseHeaderBytes = 64 << 10
		t = d
	}
	return &Webhook{url: c.URL, host: u.Host, secrets: c.Secrets, client: &http.Client{
		Transport: t,
		Timeout:   webhookTimeout,
		// A redirect turns a POST into a GET, or sends what was signed for one receiver to another.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// loopback reports whether host can only be this machine.
func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Send implements [Receiver]. Any answer from 200 to 299 acknowledges.
func (w *Webhook) Send(ctx context.Context, f *monitor.Finding) error {
	p := Payload{Type: "finding." + string(f.Class), Timestamp: f.FoundAt, Data: f}
	status, err := w.post(ctx, f.ID, p)
	if status == http.StatusRequestEntityTooLarge && f.Evidence != nil {
		// It would be too large for ever, and with it everything behind it would wait.
		short := *f
		short.Evidence = nil
		p.Data, p.EvidenceOmitted = &short, true
		_, err = w.post(ctx, f.ID, p)
	}
	return err
}

// post makes one request. The status is 0 if there was no answer.
func (w *Webhook) post(ctx context.Context, id string, p Payload) (int, error) {
	body, err := json.Marshal(p)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return 0, fmt.Errorf("webhook at %s: not a URL", w.host)
	}
	now := time.Now()
	var signatures []string
	for _, s := range w.secrets {
		signatures = append(signatures, s.Sign(id, now, body))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "affidavit-monitor")
	req.Header.Set(HeaderID, id)
	req.Header.Set(HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(HeaderSignature, strings.Join(signatures, " "))
	resp, err := w.client.Do(req)
	if err != nil {
		// The URL is often all that keeps others from posting to a receiver: it is in no log.
		if ue := new(url.Error); errors.As(err, &ue) {
			err = ue.Err
		}
		return 0, fmt.Errorf("webhook at %s: %w", w.host, err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer)) // an explanation that breaks off is still one
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return resp.StatusCode, nil
	}
	text := strings.TrimSpace(string(answer))
	if strings.HasPrefix(text, "<") {
		text = ""
	}
	err = fmt.Errorf("webhook at %s answered %d %s", w.host, resp.StatusCode, http.StatusText(resp.StatusCode))
	if text != "" {
		err = fmt.Errorf("%w: %s", err, printable.Excerpt(text, maxQuoted))
	}
	if after := retryAfter(resp.Header, now); after > 0 {
		err = &RetryError{After: after, Err: err}
	}
	return resp.StatusCode, err
}

// retryAfter returns the delay that a header asks for, in seconds or as a date (RFC 9110, section 10.2.3), or 0.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}
