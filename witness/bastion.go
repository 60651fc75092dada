package witness

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// A Bastion serves a handler through a bastion (c2sp.org/https-bastion), for
// witnesses without a public address. Clients then use the prefix
// https://<bastion host>/<hex SHA-256 of the public key>.
type Bastion struct {
	Addr    string             // host:port of the bastion's backend endpoint
	Key     ed25519.PrivateKey // authenticates this backend; not a witness key
	Handler http.Handler
	Logger  *slog.Logger

	// RootCAs verify the bastion. It defaults to the system's.
	RootCAs *x509.CertPool
}

// Prefix returns the path segment under which the bastion serves the backend.
func (b *Bastion) Prefix() string {
	h := sha256.Sum256(b.Key.Public().(ed25519.PublicKey))
	return hex.EncodeToString(h[:])
}

// Run connects to the bastion and serves, and connects again when the connection
// ends, until ctx is done.
func (b *Bastion) Run(ctx context.Context) error {
	const least, most = time.Second, time.Minute
	wait := least
	for {
		start := time.Now()
		err := b.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(start) > most {
			wait = least
		}
		b.Logger.Error("bastion connection ended", "bastion", b.Addr, "err", err, "retry", wait)
		// Jitter, so that the backends of a bastion that restarts don't all
		// return at once.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + mrand.N(wait/2)):
		}
		wait = min(2*wait, most)
	}
}

// serve serves one connection until it ends.
func (b *Bastion) serve(ctx context.Context) error {
	cert, err := selfSigned(b.Key)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(b.Addr)
	if err != nil {
		return err
	}
	// "A backend connects to the bastion's backend endpoint with TLS 1.3,
	// specifying the ALPN protocol bastion/0."
	d := tls.Dialer{
		NetDialer: &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second},
		Config: &tls.Config{
			ServerName:   host,
			RootCAs:      b.RootCAs,
			MinVersion:   tls.VersionTLS13,
			NextProtos:   []string{"bastion/0"},
			Certificates: []tls.Certificate{cert},
		},
	}
	dialCtx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	conn, err := d.DialContext(dialCtx, "tcp", b.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if p := conn.(*tls.Conn).ConnectionState().NegotiatedProtocol; p != "bastion/0" {
		return fmt.Errorf("%s isn't a bastion: it chose the protocol %q", b.Addr, p)
	}
	b.Logger.Info("connected to bastion", "bastion", b.Addr, "prefix", b.Prefix())
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	err = b.server().Serve(&oneListener{conn: conn, closed: make(chan struct{})})
	if errors.Is(err, net.ErrClosed) {
		return errors.New("closed")
	}
	return err
}

// server returns a server for the connection. "After opening the connection, the
// backend starts serving HTTP/2 traffic on it as if it was a client-initiated
// connection." For net/http that is HTTP/2 without TLS, on a connection that
// happens to be one of TLS.
func (b *Bastion) server() *http.Server {
	s := NewServer(b.Handler)
	s.Protocols = new(http.Protocols)
	s.Protocols.SetUnencryptedHTTP2(true)
	// The connection must stay while nobody asks, and pings tell whether the
	// bastion is still there. Zero would stand for ReadTimeout here.
	s.ReadHeaderTimeout, s.IdleTimeout = forever, forever
	s.HTTP2 = &http.HTTP2Config{SendPingTimeout: time.Minute, PingTimeout: 15 * time.Second}
	return s
}

const forever = 10 * 365 * 24 * time.Hour

// A oneListener accepts one connection, and ends when that does.
type oneListener struct {
	conn   net.Conn
	taken  bool // used by one goroutine, that of Serve
	once   sync.Once
	closed chan struct{}
}

func (l *oneListener) Accept() (net.Conn, error) {
	if !l.taken {
		l.taken = true
		return &plainConn{l.conn, l}, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }

// plainConn hides that a connection is a *tls.Conn, and tells its listener when
// it is closed.
type plainConn struct {
	net.Conn
	l *oneListener
}

func (c *plainConn) Close() error {
	c.l.Close()
	return c.Conn.Close()
}

// selfSigned returns a client certificate: "The backend MUST present as its
// client certificate an Ed25519 certificate containing the backend public key.
// The backend certificate MAY be self-signed."
func selfSigned(key ed25519.PrivateKey) (tls.Certificate, error) {
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "bastion backend"},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(30 * 24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// LoadBastionKey reads a backend's Ed25519 key from a PKCS #8 PEM file, which is
// made, readable by its owner only, if it doesn't exist.
func LoadBastionKey(path string) (ed25519.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeBastionKey(path)
	}
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, fmt.Errorf("%s: not one PEM block of type PRIVATE KEY", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %v", path, err)
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: %T, want an Ed25519 key", path, k)
	}
	return key, nil
}

func makeBastionKey(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if e := f.Sync(); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return key, err
}
