package export

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An HTTPSender posts events: to a Splunk HTTP Event Collector, or as JSON lines to
// anything.
type HTTPSender struct {
	URL    string
	Client *http.Client

	// Splunk says that the receiver is an HTTP Event Collector. Lines are then those of
	// WrapHEC, and an answer counts as good only if its code is 0.
	Splunk bool

	// Token returns the receiver's token; it is asked each time, so that a new one counts
	// at once. Empty is none.
	Token func() (string, error)
}

// WrapHEC wraps an event as Splunk's HTTP Event Collector takes it.
func WrapHEC(b []byte, ev *Event) []byte {
	b = append(b, `{"time":`...)
	ms := ev.Time.UnixMilli()
	if ms < 0 {
		ms = 0
	}
	b = strconv.AppendInt(b, ms/1000, 10)
	b = append(b, '.')
	b = append(b, fmt.Sprintf("%03d", ms%1000)...)
	b = append(b, `,"source":"affidavit","sourcetype":"affidavit:ocsf","event":`...)
	b = append(b, ev.JSON...)
	return append(b, '}')
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// Send implements Sender.
func (s *HTTPSender) Send(ctx context.Context, lines [][]byte) error {
	body := append(bytes.Join(lines, []byte("\n")), '\n')
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	token, err := s.Token()
	if err != nil {
		return err
	}
	scheme, contentType := "Bearer ", "application/x-ndjson"
	if s.Splunk {
		scheme, contentType = "Splunk ", "application/json"
	}
	req.Header.Set("Content-Type", contentType)
	if token != "" {
		req.Header.Set("Authorization", scheme+token)
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		if err != nil {
			return fmt.Errorf("the receiver's answer broke off: %w", err)
		}
		if !s.Splunk {
			return nil
		}
		// {"text":"Success","code":0}
		var v struct{ Code *int }
		if json.Unmarshal(answer, &v) != nil || v.Code == nil {
			return fmt.Errorf("the receiver answered %d without a code: %s", resp.StatusCode, Clean(string(answer)))
		}
		if *v.Code != 0 {
			return fmt.Errorf("the receiver answered code %d: %s", *v.Code, Clean(string(answer)))
		}
		return nil
	}
	err = fmt.Errorf("the receiver answered %d: %s", resp.StatusCode, clip(Clean(string(answer)), 500))
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed:
		return &DeniedError{err}
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity, http.StatusUnsupportedMediaType:
		if s.Splunk && resp.StatusCode == http.StatusBadRequest && denied(answer) {
			return &DeniedError{err}
		}
		return &RefusedError{err}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return &BusyError{retryAfter(resp.Header.Get("Retry-After")), err}
	}
	if resp.StatusCode/100 == 3 {
		return &DeniedError{fmt.Errorf("the receiver redirects to %q: give that address, if it is the right one", Clean(resp.Header.Get("Location")))}
	}
	return err
}

// denied reports whether a collector's answer to a bad request is about the sender:
// codes 1 to 4 are about tokens, 7 and 10 about the index or channel (Splunk,
// "Possible error codes").
func denied(answer []byte) bool {
	var v struct{ Code int }
	if json.Unmarshal(answer, &v) != nil {
		return false
	}
	switch v.Code {
	case 1, 2, 3, 4, 7, 10, 11:
		return true
	}
	return false
}

// retryAfter parses the header (RFC 9110, 10.2.3); the form with a date is rare, and
// ignored.
func retryAfter(s string) time.Duration {
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Second
}

// NewHTTPClient returns a client that follows no redirect, since a token is for whom
// it was given to, and waits for an answer a minute.
func NewHTTPClient(t *http.Transport) *http.Client {
	return &http.Client{
		Transport:     t,
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Check implements Sender.
func (s *HTTPSender) Check() error { return nil }

// Settle implements Sender.
func (s *HTTPSender) Settle() time.Duration { return 0 }

// Close implements Sender.
func (s *HTTPSender) Close() error {
	s.Client.CloseIdleConnections()
	return nil
}
