// Package client talks to a log: it submits entries, reads leaves from the log's tiles, and gathers the evidence for
// one record into a bundle.
//
// What a log answers is not trusted. With a log policy in [Config], every checkpoint, proof and leaf that a method
// returns was verified under it, as far as the method's comment says; a log that can lie to a client can still only
// withhold. Without one, answers are checked for consistency with the checkpoint that the log sent along, which shows
// mistakes and no malice. Either way it is bundle.Check that decides what a bundle proves, later and without a network.
package client

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// Config configures a [Client]. The zero value is for reading a public log without verifying its checkpoints.
type Config struct {
	// Token is the vendor's bearer token. It is sent with submissions and with nothing else, and never over plain HTTP
	// to another machine, see AllowPlainHTTP. [ReadToken] reads one from a file.
	Token string

	// LogPolicy says whose checkpoints to accept. If it is nil, checkpoints are not verified.
	LogPolicy *checkpoint.Policy

	// Appraisers are keys whose cosignatures the checkpoint of an assembled bundle must bear, such as those that an
	// appraisal policy requires (verifier.Policy.Appraisers). They cosign what is published a moment later, so that
	// assembling waits for them, for AppraisersWait at most, which defaults to a minute. The default is none.
	Appraisers     []*checkpoint.VerifierKey
	AppraisersWait time.Duration

	// Previous is a client of the shard before the log (record.NextShard). A session that ends in this log may have begun
	// there, and its bundle then needs both. The default is none.
	Previous *Client

	// CacheDir is a directory for tiles and entry bundles, which never change. It is created when needed, can be
	// shared by clients and processes, and can be deleted at any time. What is read from it is verified like what comes
	// from the network. If it is empty, a bounded cache in memory is all there is.
	CacheDir string

	// HTTPClient makes the requests. It defaults to one of the package's own, with bounded times to connect and for
	// headers. Its CheckRedirect is not used: submissions follow no redirects, and reads only such to https.
	HTTPClient *http.Client

	// Retrying is called when a request has failed that will be made again after a pause, with the reason, so that
	// somebody who waits can be told. It can be called concurrently, and is optional.
	Retrying func(err error, pause time.Duration)

	// AllowPlainHTTP lets the token travel unencrypted to hosts other than the loopback interface.
	AllowPlainHTTP bool
}

// A Client reads from and submits to one log. It can be used concurrently.
type Client struct {
	base  *url.URL // without trailing slash; set once, as are all fields but the caches'
	cfg   Config
	reads *http.Client // follows a few redirects
	adds  *http.Client // follows none
	tiles *tileCache
	sleep func(ctx context.Context, d time.Duration) error
}

// New returns a client for the log at the URL prefix logURL, such as "https://log.example.org/2026".
func New(logURL string, c Config) (*Client, error) {
	u, err := url.Parse(logURL)
	if err != nil {
		return nil, fmt.Errorf("log URL: %v", err)
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("log URL %q: the scheme is neither https nor http", logURL)
	case u.Host == "":
		return nil, fmt.Errorf("log URL %q names no host", logURL)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("log URL %q has more than a host and a path", u.Redacted())
	}
	if c.Token != "" {
		if err := checkToken(c.Token); err != nil {
			return nil, err
		}
		// Anyone on the path could take the token and submit in the vendor's name.
		if u.Scheme == "http" && !isLoopback(u.Hostname()) && !c.AllowPlainHTTP {
			return nil, fmt.Errorf("log URL %q: the token would travel unencrypted; use https", logURL)
		}
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""

	hc := c.HTTPClient
	if hc == nil {
		hc = &http.Client{Transport: sharedTransport()}
	}
	reads, adds := *hc, *hc
	adds.CheckRedirect = func(*http.Request, []*http.Request) error {
		return fmt.Errorf("%w: the log redirects submissions, which is not followed: give its own URL", errRedirect)
	}
	reads.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return fmt.Errorf("%w more than 3 times", errRedirect)
		}
		if r.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
			return fmt.Errorf("%w from https to %q", errRedirect, r.URL.Scheme)
		}
		return nil
	}
	return &Client{base: u, cfg: c, reads: &reads, adds: &adds, tiles: newTileCache(c.CacheDir), sleep: sleep}, nil
}

// sharedTransport returns the transport of clients that bring none: one for all, so that connections are reused.
var sharedTransport = sync.OnceValue(func() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	t.TLSHandshakeTimeout = 10 * time.Second
	t.ResponseHeaderTimeout = requestTimeout
	t.MaxIdleConnsPerHost = 64
	t.MaxResponseHeaderBytes = 64 << 10
	return t
})

// isLoopback reports whether host can only be this machine. A name is not resolved: only "localhost", which RFC 6761
// reserves, counts.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkToken refuses tokens that cannot be in a header. Such a token is mostly a wrong file.
func checkToken(token string) error {
	if len(token) > 4096 {
		return fmt.Errorf("the token has %d bytes, at most 4096 allowed", len(token))
	}
	for _, c := range []byte(token) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("the token holds the byte %#02x, which no bearer token can", c)
		}
	}
	return nil
}

// ReadToken returns the bearer token in a file, without the white space around it. A file that others than its owner can
// read or change is refused.
func ReadToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %#o: others can read or change it, and it is a secret; chmod 600 %s", file, fi.Mode().Perm(), file)
	}
	b, err := io.ReadAll(io.LimitReader(f, 64<<10))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", fmt.Errorf("%s: no token in it", file)
	}
	if err := checkToken(token); err != nil {
		return "", fmt.Errorf("%s: %v", file, err)
	}
	return token, nil
}
