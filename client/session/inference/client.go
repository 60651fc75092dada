package inference

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
)

// A Client asks a Proxy which runs have served a session. It can be used concurrently.
type Client struct {
	base *url.URL
	http *http.Client
}

const (
	// maxAnswer bounds an answer: some ten thousand runs.
	maxAnswer = 4 << 20
	// askTimeout is for one question.
	askTimeout = 10 * time.Second
)

// NewClient returns a Client of the proxy at base. It talks only to whoever has the TLS key that channel names: the key
// that the proxy's records name, too. A certificate's issuer and names don't count, since the key says more. Plain http
// is for a proxy on this machine, and loopback addresses only.
func NewClient(base *url.URL, channel record.Channel) (*Client, error) {
	t := &http.Transport{MaxConnsPerHost: 4, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: askTimeout}
	switch base.Scheme {
	case "http":
		if ip := net.ParseIP(base.Hostname()); ip == nil || !ip.IsLoopback() {
			return nil, fmt.Errorf("%s: plain http goes to a loopback address only", base.Redacted())
		}
	case "https":
		if channel.Type != record.ChannelTLSSPKI {
			return nil, fmt.Errorf("%s: channel of type %q, want %s", base.Redacted(), channel.Type, record.ChannelTLSSPKI)
		}
		t.TLSClientConfig = &tls.Config{
			MinVersion: tls.VersionTLS13,
			// The check of names and issuers gives way to a stricter one.
			InsecureSkipVerify: true,
			VerifyConnection: func(s tls.ConnectionState) error {
				if got := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo); got != channel.SHA256 {
					return fmt.Errorf("the proxy has the key %x, want %x", got, channel.SHA256)
				}
				return nil
			},
		}
	default:
		return nil, fmt.Errorf("%s: want https", base.Redacted())
	}
	if base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("%s isn't the URL of a proxy", base.Redacted())
	}
	c := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Client{base, c}, nil
}

// Runs returns the records of the runs that have served the session, so far. What it says proves nothing; the records do.
func (c *Client) Runs(ctx context.Context, id record.SessionID) (*Runs, error) {
	b, err := c.do(ctx, http.MethodGet, http.StatusOK, "sessions", id.String())
	if err != nil {
		return nil, err
	}
	r := new(Runs)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: answer: %w", c.base.Redacted(), err)
	}
	return r, nil
}

// Flush has the proxy log what it has, without waiting for it.
func (c *Client) Flush(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, http.StatusAccepted, "flush")
	return err
}

// Close lets go of connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func (c *Client) do(ctx context.Context, method string, want int, path ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(append([]string{".affidavit"}, path...)...).String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode != want:
		return nil, fmt.Errorf("%s answered with status %d", c.base.Redacted(), resp.StatusCode)
	case len(b) > maxAnswer:
		return nil, errors.New(c.base.Redacted() + " answered with too much")
	}
	return b, nil
}
