package client

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/printable"
	"github.com/affidavit-log/affidavit/log/record"
)

const (
	// defaultStartAge is how old a start may be when a gate opens. It leaves room for the log's limit on the age of a
	// note (10 minutes), and for as much again until the customer begins.
	defaultStartAge = 20 * time.Minute

	// defaultLifetime is how long a gate stays open after the start. Whoever works longer starts another session.
	defaultLifetime = 24 * time.Hour

	// clockSkew is how far a witness's clock may be ahead of the customer's.
	clockSkew = time.Minute
)

// GateConfig configures [NewGate]. Fields are required unless they say otherwise.
type GateConfig struct {
	// Bundle is the bundle of the session's start. If it is nil, Log and Statement name it.
	Bundle *bundle.Bundle

	// Log is where the start's bundle is read, and Statement the digest of the start's statement. The log isn't
	// trusted. With a Bundle, Log isn't used, and Statement, if it isn't zero, must be the bundle's.
	Log       *Client
	Statement record.Digest

	// Check says whom to trust, and which starts are good enough. Its appraisal policy must name a measurement or a
	// release key.
	Check bundle.Options

	// MaxAge is how old the start may be when the gate opens, as far as witnesses prove it: from the time before which
	// it wasn't made. It defaults to 20 minutes. Under a log policy that asks for no witnesses, the age is what the log
	// says.
	MaxAge time.Duration

	// Lifetime is how long after the start connections are made. It defaults to 24 hours.
	Lifetime time.Duration

	// Challenge is the digest of the customer's own challenge, which the start must have: optional. It shows that the
	// start was made for this customer, and after it was given to the vendor: see [ChallengeDigest].
	Challenge *record.Digest

	// Vendor is the id of the vendor that the start must be of: optional, since release keys in the appraisal policy
	// are a vendor's.
	Vendor string

	// TLS is where the configuration of connections begins: optional. Its own checks are made, too: unless it says
	// InsecureSkipVerify, the peer's certificate must also verify for its name. If TLS is nil, the attested key alone
	// identifies the peer, whatever its certificate says.
	TLS *tls.Config

	// Proxy is used for connections, as in http.Transport: optional. A proxy sees where they go, and no more.
	Proxy func(*http.Request) (*url.URL, error)

	// Now is the customer's clock, time.Now by default.
	Now func() time.Time
}

// ErrGate is wrapped by the errors of a gate that doesn't open, and of connections that it doesn't let through: nothing
// was sent.
var ErrGate = errors.New("gate is closed")

// ChallengeDigest is the digest of a customer's challenge (FORMAT.md, section 9), which goes to the vendor before the
// session starts, and into [GateConfig]. Salt and challenge are random, and stay with the customer.
func ChallengeDigest(salt, challenge [32]byte) record.Digest {
	b := append([]byte("affidavit/challenge/v1\x00"), salt[:]...)
	return sha256.Sum256(append(b, challenge[:]...))
}

// A Gate lets data through to one session's trust domain and to nobody else: to a TLS peer whose key is in the session's
// start, which was checked to be logged, genuine, good enough and fresh before the first byte. It can be used
// concurrently.
//
// A gate checks to whom data goes. What becomes of it there the session's final record says, later, and nothing but
// the measured code enforces.
type Gate struct {
	c       GateConfig
	finding *bundle.Finding
	start   *record.SessionStart
	since   time.Time // since when the session's age counts
	http    *http.Transport
}

// NewGate checks the start of a session, and returns a gate to it. The error wraps [ErrGate], unless the start's bundle
// could not be read.
func NewGate(ctx context.Context, c GateConfig) (*Gate, error) {
	if c.MaxAge == 0 {
		c.MaxAge = defaultStartAge
	}
	if c.Lifetime == 0 {
		c.Lifetime = defaultLifetime
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Check.Appraisal != nil && !c.Check.Appraisal.NamesMeasurement() {
		return nil, fmt.Errorf("%w: the appraisal policy names neither a measurement nor a release key, so that any code would do", ErrGate)
	}
	b := c.Bundle
	if b == nil {
		if c.Log == nil || c.Statement == (record.Digest{}) {
			return nil, fmt.Errorf("%w: neither the start's bundle nor a log and the start's statement", ErrGate)
		}
		var err error
		if b, err = c.Log.AssembleBundleOf(ctx, c.Statement); err != nil {
			return nil, fmt.Errorf("bundle of the session's start: %w", err)
		}
	}
	f, err := bundle.Check(b, c.Check)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGate, err)
	}
	g := &Gate{c: c, finding: f}
	if err := g.judge(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGate, err)
	}
	g.http = &http.Transport{
		Proxy:                 c.Proxy,
		DialContext:           sharedTransport().DialContext,
		TLSClientConfig:       g.TLSConfig(),
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
	return g, nil
}

// judge checks what the start says.
func (g *Gate) judge() error {
	f, l := g.finding, g.finding.Subject
	if l.Role != bundle.RoleStart {
		return fmt.Errorf("the bundle is about a %s record, not about the start of a session", l.Role)
	}
	if !f.Allowed() {
		return fmt.Errorf("the start is refused: %s", f.Refusals[0].Message)
	}
	if !l.Verdict.Identity.Known() { // a refusal, too; but this is what a gate is for
		return errors.New("nobody whom the appraisal policy trusts has identified the code")
	}
	for _, other := range f.Leaves {
		if other.Role == bundle.RoleFinal || other.Role == bundle.RoleAbandoned {
			return fmt.Errorf("the session has ended: %s record at index %d", other.Role, other.Index)
		}
	}
	st := l.Entry().Statement()
	g.start = st.Start
	if g.c.Statement != (record.Digest{}) && *l.Statement != g.c.Statement {
		return fmt.Errorf("the start is %x, not %x", *l.Statement, g.c.Statement)
	}
	if g.c.Vendor != "" && st.Vendor != g.c.Vendor {
		return fmt.Errorf("the start is of vendor %q, not of %q", st.Vendor, g.c.Vendor)
	}
	if want := g.c.Challenge; want != nil {
		switch got := g.start.Challenge; {
		case got == nil:
			return errors.New("the start has no challenge")
		case *got != *want:
			return fmt.Errorf("the start has another challenge, %x, not %x", *got, *want)
		}
	}
	switch {
	case f.Interval != nil && !f.Interval.NotBefore.IsZero():
		g.since = f.Interval.NotBefore
	case g.c.Check.LogPolicy.IsQuorumNone():
		g.since = l.AdmittedAt()
	default:
		return errors.New("no witnesses prove how old the start is")
	}
	if len(g.start.Channels) == 0 {
		return errors.New("the start names no key to talk to")
	}
	return g.age(g.c.MaxAge)
}

// age checks that the start is at most limit old.
func (g *Gate) age(limit time.Duration) error {
	switch age := g.c.Now().Sub(g.since); {
	case age > limit:
		return fmt.Errorf("the start is %s old, more than %s", age.Round(time.Second), limit)
	case age < -clockSkew:
		return fmt.Errorf("the start is from the future, by %s: this machine's clock, or the witnesses', is wrong", -age.Round(time.Second))
	}
	return nil
}

// Finding returns what the start's bundle proves.
func (g *Gate) Finding() *bundle.Finding { return g.finding }

// Start returns the start's statement. It must not be modified.
func (g *Gate) Start() *record.SessionStart { return g.start }

// CheckChannel checks that the session names the key: its type is record.ChannelTLSSPKI, and key the
// SubjectPublicKeyInfo in DER; or record.ChannelHPKEKey, and key its encoding. Whoever encrypts to an HPKE key calls it
// before. Every call checks that the session isn't too old, too.
func (g *Gate) CheckChannel(typ string, key []byte) error {
	if err := g.age(g.c.Lifetime); err != nil {
		return fmt.Errorf("%w: %w", ErrGate, err)
	}
	digest := sha256.Sum256(key)
	if !slices.Contains(g.start.Channels, record.Channel{Type: typ, SHA256: digest}) {
		return fmt.Errorf("%w: the peer's key, %s %x, is not one that the session's start names", ErrGate, typ, digest)
	}
	return nil
}

// TLSConfig returns a configuration for TLS clients, whose handshakes fail unless the peer has proven to have a key
// that the start names. It is the caller's, but VerifyConnection, InsecureSkipVerify, MinVersion and ClientSessionCache
// must stay as they are.
func (g *Gate) TLSConfig() *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true} // the key is checked below, and is all that counts
	if g.c.TLS != nil {
		c = g.c.TLS.Clone()
	}
	also := c.VerifyConnection
	c.MinVersion = max(c.MinVersion, tls.VersionTLS13)
	c.MaxVersion = 0
	c.ClientSessionCache = nil // each connection is checked by a whole handshake
	// VerifyConnection is called "for all connections, including resumptions, regardless of InsecureSkipVerify", before
	// the client's last message of the handshake, so that nothing of the application's was sent.
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return fmt.Errorf("%w: the peer has no certificate", ErrGate)
		}
		if err := g.CheckChannel(record.ChannelTLSSPKI, s.PeerCertificates[0].RawSubjectPublicKeyInfo); err != nil {
			return err
		}
		if also != nil {
			return also(s)
		}
		return nil
	}
	return c
}

// RoundTrip implements [http.RoundTripper]: it sends a request over a connection that the gate lets through. Requests
// that are not for https are refused.
func (g *Gate) RoundTrip(r *http.Request) (*http.Response, error) {
	err := error(nil)
	switch {
	case r.URL.Scheme != "https":
		err = fmt.Errorf("%w: %q is not an https URL", ErrGate, r.URL.Scheme)
	default:
		// A connection that was let through earlier may have been kept for longer than it should be used.
		if err = g.age(g.c.Lifetime); err != nil {
			err = fmt.Errorf("%w: %w", ErrGate, err)
		}
	}
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	return g.http.RoundTrip(r)
}

// Close closes connections that are not in use.
func (g *Gate) Close() { g.http.CloseIdleConnections() }

// Handler returns a reverse proxy to target, the vendor's https endpoint, over connections that the gate lets through:
// for programs that can be given another URL, and nothing else. A request that isn't let through is answered 502 with
// the reason, and isn't sent.
//
// Whoever can reach the handler can use it: it should listen on the loopback interface only. It refuses requests whose
// Host isn't an address or name of that interface, which is how a web page would get at it (DNS rebinding).
func (g *Gate) Handler(target *url.URL) (http.Handler, error) {
	if target.Scheme != "https" || target.Host == "" || target.User != nil || target.RawQuery != "" || target.Fragment != "" {
		return nil, fmt.Errorf("target %q is not an https URL of a host and a path", target.Redacted())
	}
	p := &httputil.ReverseProxy{
		Transport: g,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = target.Host
		},
		FlushInterval: -1, // models answer in streams
		ModifyResponse: func(resp *http.Response) error {
			return stay(resp, target)
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			http.Error(w, "affidavit gate: "+printable.Excerpt(err.Error(), maxQuoted), http.StatusBadGateway)
		},
		// Errors in the middle of an answer end the connection, which is all that can be done then.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := (&url.URL{Host: r.Host}).Hostname(); !isLoopback(host) {
			http.Error(w, "affidavit gate: for programs on this machine only", http.StatusForbidden)
			return
		}
		p.ServeHTTP(w, r)
	}), nil
}

// stay keeps clients behind the gate: they follow redirects by themselves, past it. A redirect within the target is
// made one within the gate, and others are errors. Headers that have browsers and clients go elsewhere are dropped.
func stay(resp *http.Response, target *url.URL) error {
	for _, h := range []string{"Alt-Svc", "Refresh", "Link", "Content-Location"} {
		resp.Header.Del(h)
	}
	location := resp.Header.Get("Location")
	if location == "" {
		return nil
	}
	u, err := resp.Request.URL.Parse(location)
	if err != nil || u.Scheme != target.Scheme || u.Host != target.Host {
		return fmt.Errorf("%w: the peer redirects to another place", ErrGate)
	}
	base := strings.TrimRight(target.Path, "/")
	path, ok := strings.CutPrefix(u.EscapedPath(), base)
	if !ok || path != "" && path[0] != '/' {
		return fmt.Errorf("%w: the peer redirects out of %s", ErrGate, target.Path)
	}
	// "//host" would be another place again.
	back := "/" + strings.TrimLeft(path, "/")
	if u.RawQuery != "" {
		back += "?" + u.RawQuery
	}
	resp.Header.Set("Location", back)
	return nil
}
