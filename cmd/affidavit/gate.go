package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/log/record"
)

func gateCommand() *command {
	return &command{
		name: "gate",
		usage: []string{
			"--upstream URL --bundle FILE --log-policy FILE --appraisal-policy FILE [--listen ADDRESS]",
			"--upstream URL --log URL --statement DIGEST --log-policy FILE --appraisal-policy FILE",
			"--check --bundle FILE --log-policy FILE --appraisal-policy FILE [--json]",
		},
		short: "send code only to the trust domain of a session that is logged",
		about: `Listens on this machine, and forwards what it is sent to the vendor's endpoint: log
before use. It opens only if the start of the session is logged, genuine, allowed by the
appraisal policy, not too old, and names the key of the endpoint; and it forwards a
request only over a TLS connection whose far end has proven to have that key. Whatever
sits in between, with whatever certificate, gets nothing.

Give your agent or editor the address that is printed as its URL. The start's bundle
comes from the vendor (--bundle), or from the log (--log, with the --statement digest
that the vendor names). A gate is for one session: when it is older than --lifetime,
requests are refused, and the next session needs a gate of its own. A proxy that
HTTPS_PROXY names is used, and learns where connections go.

To know that a start was made for you and for nobody else, make a challenge with
"affidavit keygen --type challenge", give the vendor the digest that it prints, and the
gate the file (--challenge-file).

With --check it says whether it would open, and doesn't listen.`,
		trusts: `The same as "affidavit verify": the log policy's keys, the root certificate, and what the
appraisal policy names. Neither the log, nor the vendor's network, nor any certificate
authority. And that nobody else on this machine should be kept from using it: whoever can
connect to its address can send data to the session. It checks to whom data goes; what
becomes of it there, the session's final record says later.`,
		examples: `  affidavit gate --upstream https://agent.vendor.example --bundle start.affidavit \
      --log-policy log.policy --appraisal-policy ours.yaml --listen 127.0.0.1:8484
  affidavit gate --check --log https://log.example.org/2026 --log-policy log.policy \
      --appraisal-policy ours.yaml --challenge-file challenge \
      --statement 1fba29deac420237b409ee4216210521dafd071b8efab682e5a4dc7a20f5a845
`,
		exits: map[int]string{
			exitGood:       "the gate was open until it was interrupted; with --check: it would open",
			exitRefused:    "the start is logged and genuine, but refused: by the appraisal policy, for its age,\nor because it isn't of the session, vendor or challenge that was asked for",
			exitNotGenuine: "the start is not genuine, not logged, or not there",
		},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			o := new(opening)
			o.register(fs)
			return func(c *console, _ []string) (int, error) {
				if err := o.usage(fs); err != nil {
					return 0, err
				}
				if err := o.load(c); err != nil {
					return 0, err
				}
				ctx, stop := interruptible()
				defer stop()
				g, status, err := o.open(ctx, c)
				if g == nil {
					if *o.asJSON && err == nil {
						err = c.printJSON(o.json(nil, "", ""))
					}
					return status, err
				}
				defer g.Close()
				if o.check {
					return exitGood, o.wouldOpen(c, g)
				}
				return exitGood, o.serve(ctx, c, g)
			}
		},
	}
}

// An opening is what the flags of gate ask for.
type opening struct {
	cfg                                           client.GateConfig
	bundle, log, statement, session, challenge    string
	logPolicy, appraisalPolicy                    string
	upstream, listen, certificate, certificateKey string
	check                                         bool
	asJSON                                        *bool
	root                                          *string

	target *url.URL    // of upstream
	tls    *tls.Config // nil for http

	status int    // when it is closed
	why    string // likewise
}

func (o *opening) register(fs *pflag.FlagSet) {
	fs.StringVar(&o.upstream, "upstream", "", "`URL` of the vendor's endpoint, with https")
	fs.StringVar(&o.listen, "listen", "127.0.0.1:0", "loopback `ADDRESS` and port to listen on; port 0 is any that is free")
	fs.StringVar(&o.certificate, "tls-cert", "", "`FILE` with a certificate chain in PEM, to listen with https instead of http")
	fs.StringVar(&o.certificateKey, "tls-key", "", "`FILE` with its private key in PEM")
	fs.StringVar(&o.bundle, "bundle", "", "`FILE` with the bundle of the session's start")
	fs.StringVar(&o.log, "log", "", "`URL` of the log, to fetch the bundle from")
	fs.StringVar(&o.statement, "statement", "", "`DIGEST` of the start's statement: required with --log")
	fs.StringVar(&o.session, "session", "", "`ID` of the session that it must be the start of")
	fs.StringVar(&o.cfg.Vendor, "vendor", "", "`ID` of the vendor that it must be the start of, a URI")
	fs.StringVar(&o.logPolicy, "log-policy", "", "`FILE` that says whose signatures make a record logged")
	fs.StringVar(&o.appraisalPolicy, "appraisal-policy", "", "`FILE` that says which starts are good enough, in YAML")
	o.root = rootFlag(fs)
	fs.BoolVar(&o.cfg.Check.AllowQuorumNone, "allow-quorum-none", false, "accept a log policy without witnesses: then the start's age is only the log's word")
	fs.DurationVar(&o.cfg.MaxAge, "max-age", 20*time.Minute, "`DURATION` that the start may be old when the gate opens, such as 20m")
	fs.DurationVar(&o.cfg.Lifetime, "lifetime", 24*time.Hour, "`DURATION` after the start during which the gate is open, such as 8h")
	fs.StringVar(&o.challenge, "challenge-file", "", "`FILE` with your challenge, which the start must have")
	fs.BoolVar(&o.check, "check", false, "say whether the gate would open, and don't listen")
	o.asJSON = jsonFlag(fs)
}

// usage checks the flags by themselves.
func (o *opening) usage(fs *pflag.FlagSet) error {
	required := []string{"upstream", "log-policy", "appraisal-policy"}
	if o.check {
		required = required[1:]
	}
	if err := require(fs, required...); err != nil {
		return err
	}
	switch {
	case (o.bundle == "") == (o.log == ""):
		return usagef("give the session's start: either --bundle, or --log with --statement")
	case o.log != "" && o.statement == "":
		return usagef("missing flag --statement: which start?")
	case o.check && (o.upstream != "" || fs.Changed("listen") || o.certificate != "" || o.certificateKey != ""):
		return usagef("--check doesn't listen: leave out --upstream, --listen, --tls-cert and --tls-key")
	case (o.certificate == "") != (o.certificateKey == ""):
		return usagef("--tls-cert and --tls-key go together")
	case o.cfg.MaxAge <= 0 || o.cfg.Lifetime <= 0:
		return usagef("--max-age and --lifetime: want more than nothing, such as 20m")
	}
	if o.statement != "" {
		_, digest, err := parseName(o.statement)
		if err != nil || digest == nil {
			return usagef("--statement %q: want a SHA-256 in hexadecimal", clean(o.statement))
		}
		if o.cfg.Statement = *digest; *digest == (record.Digest{}) {
			return usagef("--statement is zero, which is no statement's digest")
		}
	}
	if o.session != "" {
		if _, err := record.ParseSessionID(o.session); err != nil {
			return usagef("--session %q: want 32 hexadecimal digits", clean(o.session))
		}
	}
	if o.check {
		return nil
	}
	var err error
	if o.target, err = parseUpstream(o.upstream); err != nil {
		return err
	}
	return checkLoopback(o.listen)
}

// load reads the files that the flags name.
func (o *opening) load(c *console) (err error) {
	if o.cfg.Check.LogPolicy, err = readLogPolicy(c, o.logPolicy); err != nil {
		return err
	}
	if o.cfg.Check.Appraisal, err = readAppraisalPolicy(c, o.appraisalPolicy); err != nil {
		return err
	}
	if !o.cfg.Check.Appraisal.NamesMeasurement() {
		return usagef("%s names no measurement and no release key: which code do you expect? \"affidavit verify\" says what can be pinned", o.appraisalPolicy)
	}
	if o.cfg.Check.Root, err = readRoot(c, *o.root); err != nil {
		return err
	}
	if o.challenge != "" {
		digest, err := readChallenge(c, o.challenge)
		if err != nil {
			return err
		}
		o.cfg.Challenge = &digest
	}
	if o.certificate != "" {
		o.tls, err = readServerCertificate(c, o.certificate, o.certificateKey)
	}
	return err
}

// wouldOpen says that the gate would open.
func (o *opening) wouldOpen(c *console, g *client.Gate) error {
	if *o.asJSON {
		return c.printJSON(o.json(g, "", ""))
	}
	c.headline(exitGood, "OPEN: "+o.summary(g))
	return nil
}

// serve says where the gate listens, and forwards until it is interrupted.
func (o *opening) serve(ctx context.Context, c *console, g *client.Gate) error {
	h, err := g.Handler(o.target)
	if err != nil {
		return usagef("--upstream: %v", err)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", o.listen, err)
	}
	address := "http://" + l.Addr().String()
	if o.tls != nil {
		address = "https://" + l.Addr().String()
		l = tls.NewListener(l, o.tls)
	}
	if *o.asJSON {
		err = c.printJSON(o.json(g, address, o.target.String()))
	} else {
		fmt.Fprintln(c.stdout, address)
		fmt.Fprintf(c.stderr, "open until %s: %s\n", stamp(o.until(g)), o.summary(g))
	}
	if c.flush != nil {
		err = errors.Join(err, c.flush())
	}
	if err != nil {
		l.Close()
		return err
	}
	// A page in a browser on this machine can send requests here, too.
	return serveGate(ctx, l, http.NewCrossOriginProtection().Handler(h))
}

// open returns the gate, or nil with the status and a message printed. The error
// says that it couldn't be known.
func (o *opening) open(ctx context.Context, c *console) (*client.Gate, int, error) {
	o.cfg.Now, o.cfg.Proxy = c.now, http.ProxyFromEnvironment
	closed := func(status int, err error) (*client.Gate, int, error) {
		o.status, o.why = status, clean(strings.TrimPrefix(err.Error(), client.ErrGate.Error()+": "))
		c.complain("affidavit gate: closed: %s", o.why)
		return nil, status, nil
	}
	switch {
	case o.bundle != "":
		b, err := c.read(o.bundle)
		if err != nil {
			return nil, 0, err
		}
		if o.cfg.Bundle, err = bundle.Parse(b); err != nil {
			return closed(exitNotGenuine, fmt.Errorf("%s: %w", o.bundle, err))
		}
	default:
		var err error
		// Under the reader's own log policy a log that lies is found out at once.
		if o.cfg.Log, err = client.New(o.log, client.Config{LogPolicy: o.cfg.Check.LogPolicy}); err != nil {
			return nil, 0, usagef("--log: %v", err)
		}
	}
	g, err := client.NewGate(ctx, o.cfg)
	switch {
	case errors.Is(err, bundle.ErrQuorumNone):
		return nil, 0, usagef("%s: %v; give --allow-quorum-none if that is good enough for you", o.logPolicy, bundle.ErrQuorumNone)
	case client.NotFound(err):
		return closed(exitNotGenuine, fmt.Errorf("the log has no such start, or no published checkpoint covers it yet: %w", err))
	case errors.As(err, new(*bundle.NotProven)):
		return closed(exitNotGenuine, err)
	case errors.Is(err, client.ErrGate):
		return closed(exitRefused, err)
	case err != nil:
		return nil, 0, err
	}
	if id := g.Start().ID.String(); o.session != "" && id != o.session {
		g.Close()
		return closed(exitRefused, fmt.Errorf("the start is of session %s, not of %s", id, o.session))
	}
	return g, exitGood, nil
}

func (o *opening) summary(g *client.Gate) string {
	e := g.Finding().Subject.Entry()
	return fmt.Sprintf("session %s of %s, logged at index %d, allowed by the appraisal policy", g.Start().ID, clean(e.Statement().Vendor), g.Finding().Subject.Index)
}

// until is when the gate closes by itself.
func (o *opening) until(g *client.Gate) time.Time {
	since := g.Finding().Subject.AdmittedAt()
	if i := g.Finding().Interval; i != nil && !i.NotBefore.IsZero() {
		since = i.NotBefore
	}
	return since.Add(o.cfg.Lifetime)
}

// gateJSON is a gate for scripts.
type gateJSON struct {
	Open      bool            `json:"open"`
	Detail    string          `json:"detail"` // when it isn't open: a sentence
	Exit      int             `json:"exit"`   // the exit status of --check
	URL       string          `json:"url"`    // to send requests to; empty with --check
	Upstream  string          `json:"upstream"`
	Session   string          `json:"session"`
	Vendor    string          `json:"vendor"`
	Statement string          `json:"statement"` // the start's digest
	Index     uint64          `json:"index"`
	Interval  *judge.Interval `json:"interval"`
	Until     *time.Time      `json:"until"` // when it closes by itself
}

func (o *opening) json(g *client.Gate, address, upstream string) *gateJSON {
	if g == nil {
		return &gateJSON{Detail: o.why, Exit: o.status}
	}
	f, until := g.Finding(), o.until(g)
	return &gateJSON{
		Open: true, URL: address, Upstream: upstream, Session: g.Start().ID.String(), Vendor: f.Subject.Entry().Statement().Vendor,
		Statement: hexed(f.Subject.Statement[:]), Index: f.Subject.Index, Interval: judge.IntervalOf(f.Interval), Until: &until,
	}
}

// parseUpstream parses where a gate leads to. That it is https is for client.Gate
// to insist on.
func parseUpstream(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, usagef("--upstream %q is not a URL", clean(s))
	}
	if u.Scheme != "https" || u.Host == "" {
		return nil, usagef("--upstream %q: want the vendor's https URL; over anything else no key could be checked", clean(u.Redacted()))
	}
	return u, nil
}

// checkLoopback refuses addresses that other machines can reach: who connects isn't
// asked who it is. A name could come to mean another address.
func checkLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return usagef("--listen %q: want an address and a port, such as 127.0.0.1:8484", clean(address))
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return usagef("--listen %q: want a loopback address, such as 127.0.0.1 or [::1]: whoever can connect can use the gate", clean(address))
	}
	return nil
}

// readServerCertificate reads what a gate needs to listen with https.
func readServerCertificate(c *console, cert, key string) (*tls.Config, error) {
	certPEM, err := c.readPublic(cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := c.readSecret(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		// The error may quote what it parses.
		return nil, fmt.Errorf("%s and %s: not a certificate and its private key, both in PEM", cert, key)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}, nil
}

// serveGate serves until ctx ends, and then lets requests that are under way finish
// for a moment.
func serveGate(ctx context.Context, l net.Listener, h http.Handler) error {
	// No limit on the time of a whole request or answer: models take minutes.
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := srv.Shutdown(last); err != nil {
		srv.Close()
	}
	<-failed // http.ErrServerClosed
	return nil
}

// challengeLabel keeps digests of challenges apart from all others (FORMAT.md,
// section 9).
const challengeLabel = "affidavit/challenge/v1\x00"

// challengeDigest is what a start says of the customer's challenge. secret is 64
// bytes, of which the first half is the salt, in hexadecimal.
func challengeDigest(secret string) record.Digest {
	b, _ := hex.DecodeString(secret) // checked by readChallenge
	return sha256.Sum256(append([]byte(challengeLabel), b...))
}

func readChallenge(c *console, name string) (record.Digest, error) {
	b, err := c.readSecret(name)
	if err != nil {
		return record.Digest{}, err
	}
	secret := strings.TrimSpace(string(b))
	if raw, err := hex.DecodeString(secret); err != nil || len(raw) != 64 {
		return record.Digest{}, fmt.Errorf("%s: want 128 hexadecimal digits, as \"affidavit keygen --type challenge\" makes them", name)
	}
	return challengeDigest(secret), nil
}
