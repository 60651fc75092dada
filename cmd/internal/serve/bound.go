package serve

import (
	"container/list"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
)

// A bound is a listener with at most max connections open. It never keeps a client waiting for another's to end: to take
// one more, it closes the connection that has waited longest for its client, be it for a request, for the rest of one, for
// a handshake, that the client reads its answer, or goes away. Somebody who opens connections and does nothing with them so closes their own,
// and clients that talk are served. Only if all of them wait for us is a new one closed.
type bound struct {
	net.Listener
	max int

	mu   sync.Mutex // guards what follows, and the fields of connections
	open int
	idle list.List // of *conn that wait for their clients, longest first
}

// A conn is a connection that was accepted.
type conn struct {
	net.Conn
	b *bound

	closed bool
	place  *list.Element // in b.idle; nil while we are at work for it
	work   int           // requests that we have got whole, and haven't answered
	writes int           // that are under way: until they end, we wait for the client to read
}

func (b *bound) Accept() (net.Conn, error) {
	for {
		nc, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: nc, b: b}
		var victim *conn
		b.mu.Lock()
		if b.open >= b.max {
			if e := b.idle.Front(); e != nil {
				victim = e.Value.(*conn)
				b.forget(victim)
			}
		}
		full := b.open >= b.max
		if !full {
			b.open++
			c.place = b.idle.PushBack(c)
		}
		b.mu.Unlock()
		if victim != nil {
			drop(victim.Conn)
		}
		if !full {
			return c, nil
		}
		drop(nc)
	}
}

// drop closes a connection at once, whatever is still to be sent. With a reset nothing of it stays in the kernel.
func drop(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0) //nolint:errcheck // it is being closed
	}
	c.Close()
}

// forget takes c off the books. b.mu is held.
func (b *bound) forget(c *conn) {
	if c.closed {
		return
	}
	c.closed = true
	b.open--
	if c.place != nil {
		b.idle.Remove(c.place)
		c.place = nil
	}
}

func (c *conn) Close() error {
	c.b.mu.Lock()
	c.b.forget(c)
	c.b.mu.Unlock()
	return c.Conn.Close()
}

// begin says that a request of c has arrived whole, and end that it was answered.
func (c *conn) begin() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.work++
	if c.place != nil {
		c.b.idle.Remove(c.place)
		c.place = nil
	}
}

func (c *conn) end() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.work--; c.work == 0 && c.place == nil && !c.closed {
		c.place = c.b.idle.PushBack(c)
	}
}

// Write says that we wait for the client until it has ended: one that doesn't read its answer makes room for others, too.
func (c *conn) Write(p []byte) (int, error) {
	c.b.mu.Lock()
	if c.writes++; c.place == nil && !c.closed {
		c.place = c.b.idle.PushBack(c)
	}
	c.b.mu.Unlock()
	n, err := c.Conn.Write(p)
	c.b.mu.Lock()
	if c.writes--; c.writes == 0 && c.work > 0 && c.place != nil {
		c.b.idle.Remove(c.place)
		c.place = nil
	}
	c.b.mu.Unlock()
	return n, err
}

// stir says that c has done something: it is the last to be closed.
func (c *conn) stir() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.place != nil {
		c.b.idle.MoveToBack(c.place)
	}
}

type connKey struct{}

func (b *bound) connContext(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, nc)
}

// handler keeps count of who waits for whom. A request that we have whole is ours to answer; while its body is on its way
// we wait for the client.
func (b *bound) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(*conn)
		if !ok {
			h.ServeHTTP(w, r)
			return
		}
		if r.Body == nil || r.Body == http.NoBody {
			c.begin()
			defer c.end()
		} else {
			c.stir()
			body := &body{ReadCloser: r.Body, c: c}
			defer body.done()
			r.Body = body
		}
		h.ServeHTTP(w, r)
	})
}

// A body tells its connection when it has ended.
type body struct {
	io.ReadCloser
	c     *conn
	whole sync.Once
	began bool
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.whole.Do(func() { b.began = true; b.c.begin() })
	}
	return n, err
}

// done is called when the handler has ended, and with it all reads.
func (b *body) done() {
	b.whole.Do(func() {}) // too late
	if b.began {
		b.c.end()
	}
}
