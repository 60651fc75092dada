// Package serve is how a daemon faces a network: TLS whose certificate can be replaced while it runs, and bounds on what
// strangers can make it hold.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/cmd/internal/keys"
)

// DefaultConns is how many connections an address has at most if nobody says. An idle one takes some 20 kB with TLS, and a
// hostile one of HTTP/2 what http2Config allows.
const DefaultConns = 4096

// Options are the flags that all daemons with a public address have.
type Options struct {
	cert, key string
	conns     int
}

// Flags defines the flags of a daemon in f.
func Flags(f *pflag.FlagSet) *Options {
	o := new(Options)
	f.StringVar(&o.cert, "tls-cert", "", "PEM `FILE` with the certificate and its chain: serve https at the public address; read again when it changes")
	f.StringVar(&o.key, "tls-key", "", "PEM `FILE` (mode 0600) with the certificate's private key, which may be encrypted (--passphrase-file)")
	f.IntVar(&o.conns, "max-connections", DefaultConns, "`NUMBER` of connections to an address at most; to take another one, that which has waited longest for its client is closed")
	return o
}

// Check returns an error that names the flag that has a wrong value.
func (o *Options) Check() error {
	switch {
	case (o.cert == "") != (o.key == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case o.conns < 1:
		return fmt.Errorf("--max-connections %d: want one at least", o.conns)
	}
	return nil
}

// A Front is what stands before the handlers of a daemon.
type Front struct {
	conns int
	cert  *certificate // nil without TLS
	wants func() bool  // whether clients are asked for a certificate; nil is no
}

// Plain returns a front without TLS, for private addresses.
func (o *Options) Plain() *Front { return &Front{conns: o.conns} }

// Open reads the certificate, if there is one to be read, and looks for a new one until ctx is done. A certificate that
// can't be used is an error now; later it is logged, and the one before stays.
func (o *Options) Open(ctx context.Context, ring *keys.Ring, logger *slog.Logger) (*Front, error) {
	f := o.Plain()
	if o.cert == "" {
		return f, nil
	}
	f.cert = &certificate{certFile: o.cert, keyFile: o.key, ring: ring}
	if _, err := f.cert.load(); err != nil {
		return nil, err
	}
	logger.Info("certificate read", "file", o.cert, "not-after", f.cert.now.Load().Leaf.NotAfter)
	go f.cert.watch(ctx, logger)
	return f, nil
}

// AskClients makes the front ask clients for a certificate while wants says so. None is refused, and none is verified but
// that its key is the client's: it is for the handler to know keys (http.Request.TLS).
func (f *Front) AskClients(wants func() bool) { f.wants = wants }

// http2Config bounds what one connection of HTTP/2 can hold. Its streams are no more than what a busy client has under way,
// and those that were reset count until their handlers have ended, in package net/http. Together with the number of
// connections this bounds memory: a connection's streams share the receive buffer.
func http2Config() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          64,
		MaxReceiveBufferPerConnection: 256 << 10,
		MaxReceiveBufferPerStream:     128 << 10,
		MaxReadFrameSize:              16 << 10,
		SendPingTimeout:               30 * time.Second, // is somebody there?
		PingTimeout:                   10 * time.Second,
		WriteByteTimeout:              20 * time.Second,
	}
}

// Serve serves s at l until s is shut down or closed, and then returns nil. It sets what s has of TLS and HTTP/2, and its
// hooks for connections, which must not be set.
func (f *Front) Serve(s *http.Server, l net.Listener) error {
	b := &bound{Listener: l, max: f.conns}
	s.Handler = b.handler(s.Handler)
	s.ConnContext = b.connContext
	s.HTTP2 = http2Config()
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	var err error
	if f.cert == nil {
		err = s.Serve(b)
	} else {
		s.Protocols.SetHTTP2(true)
		s.TLSConfig = f.config()
		err = s.ServeTLS(b, "", "")
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (f *Front) config() *tls.Config {
	c := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.cert.now.Load(), nil },
	}
	if f.wants != nil {
		asking := c.Clone()
		asking.ClientAuth = tls.RequestClientCert
		asking.NextProtos = []string{"h2", "http/1.1"} // which package net/http adds to c only
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if f.wants() {
				return asking, nil
			}
			return nil, nil
		}
	}
	return c
}

// A certificate is read again when its files change.
type certificate struct {
	certFile, keyFile string
	ring              *keys.Ring
	now               atomic.Pointer[tls.Certificate]

	seen [2]stamp // of both files when they were last read; owned by whoever calls load
}

// stamp tells whether a file is another one than before. Replaced files have another inode, and so have those that a
// symbolic link led to.
type stamp struct {
	info os.FileInfo
}

func (s stamp) same(fi os.FileInfo) bool {
	return s.info != nil && os.SameFile(s.info, fi) && s.info.ModTime().Equal(fi.ModTime()) && s.info.Size() == fi.Size() && s.info.Mode() == fi.Mode()
}

// load reads the files if they have changed since they were last read without an error. A certificate and a key that don't
// belong together, as while they are being replaced one after the other, are an error.
func (c *certificate) load() (changed bool, err error) {
	ci, err := os.Stat(c.certFile)
	if err != nil {
		return false, err
	}
	ki, err := os.Stat(c.keyFile)
	if err != nil {
		return false, err
	}
	if c.seen[0].same(ci) && c.seen[1].same(ki) {
		return false, nil
	}
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return false, err
	}
	key, err := c.ring.Read(c.keyFile)
	if err != nil {
		return false, err
	}
	defer clear(key)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		// The error may quote what it parses.
		return false, fmt.Errorf("%s and %s: not a certificate and its private key, both in PEM", c.certFile, c.keyFile)
	}
	c.now.Store(&pair)
	c.seen = [2]stamp{{ci}, {ki}}
	return true, nil
}

// certPoll is how often the files are looked at.
const certPoll = time.Second

func (c *certificate) watch(ctx context.Context, logger *slog.Logger) {
	t := time.NewTicker(certPoll)
	defer t.Stop()
	var last string
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		changed, err := c.load()
		switch {
		case err != nil && err.Error() != last:
			last = err.Error()
			logger.Error("the new certificate can't be used; the one before stays", "err", err)
		case changed:
			last = ""
			logger.Info("certificate read", "file", c.certFile, "not-after", c.now.Load().Leaf.NotAfter)
		}
	}
}
