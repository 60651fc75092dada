package export

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A SyslogSender sends messages with octet counting over TCP (RFC 6587) or TLS
// (RFC 5425). Neither has a confirmation: what was written counts as taken once the
// connection has stayed open for two more seconds and the kernel has no more of it to
// send. What a receiver loses after that, nobody can know.
type SyslogSender struct {
	Addr string
	TLS  *tls.Config // nil for TCP

	// SettleTime is how long a connection must stay open after the last byte was sent; two
	// seconds if it is zero.
	SettleTime time.Duration

	conn net.Conn
	peer *peer
	buf  []byte
}

// A peer is the receiver's side of a connection. Syslog has it say nothing, so that
// whatever comes is the end.
type peer struct {
	done chan struct{} // closed at the end
	mu   sync.Mutex
	err  error // guarded by mu; io.EOF if the receiver has closed in order
}

func (p *peer) watch(c net.Conn) {
	defer close(p.done)
	_, err := io.Copy(io.Discard, c)
	if err == nil {
		err = io.EOF
	}
	p.mu.Lock()
	p.err = err
	p.mu.Unlock()
}

func (p *peer) ended() error {
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.err
	default:
		return nil
	}
}

const (
	syslogSettle = 2 * time.Second
	// syslogTimeout bounds how long a receiver may take to connect, to read a batch, and to
	// close its end.
	syslogTimeout = 30 * time.Second
)

func (s *SyslogSender) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syslogTimeout)
	defer cancel()
	var err error
	if s.TLS != nil {
		s.conn, err = (&tls.Dialer{Config: s.TLS}).DialContext(ctx, "tcp", s.Addr)
	} else {
		s.conn, err = new(net.Dialer).DialContext(ctx, "tcp", s.Addr)
	}
	if err != nil {
		s.conn = nil
		return err
	}
	s.peer = &peer{done: make(chan struct{})}
	go s.peer.watch(s.conn) // until Close or drop, which wait for it
	return nil
}

// drop ends the connection at once.
func (s *SyslogSender) drop() {
	if s.conn != nil {
		s.conn.Close()
		<-s.peer.done
		s.conn = nil
	}
}

var errClosed = errors.New("the receiver has closed the connection")

// Send implements Sender.
func (s *SyslogSender) Send(ctx context.Context, lines [][]byte) error {
	if err := s.Check(); err != nil {
		return err
	}
	if s.conn == nil {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	s.buf = s.buf[:0]
	for _, l := range lines {
		s.buf = AppendFrame(s.buf, l)
	}
	s.conn.SetWriteDeadline(time.Now().Add(syslogTimeout))
	if _, err := s.conn.Write(s.buf); err != nil {
		s.drop()
		return fmt.Errorf("%s: %w", s.Addr, err)
	}
	return s.acknowledged(ctx)
}

// acknowledged waits until the kernel has nothing more to send, where it says so.
func (s *SyslogSender) acknowledged(ctx context.Context) error {
	deadline := time.Now().Add(syslogTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		n, ok := unsent(s.conn)
		if !ok || n == 0 {
			return s.Check()
		}
		select {
		case <-s.peer.done:
			return s.Check()
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		if time.Now().After(deadline) {
			s.drop()
			return fmt.Errorf("%s: the receiver doesn't read what is sent to it", s.Addr)
		}
	}
}

// Check implements Sender.
func (s *SyslogSender) Check() error {
	if s.conn == nil {
		return nil
	}
	err := s.peer.ended()
	if err == nil {
		return nil
	}
	s.drop()
	if err == io.EOF {
		err = errClosed
	}
	return fmt.Errorf("%s: %w", s.Addr, err)
}

// Settle implements Sender.
func (s *SyslogSender) Settle() time.Duration {
	if s.SettleTime == 0 {
		return syslogSettle
	}
	return s.SettleTime
}

// Close implements Sender: it says that there will be no more, and gives the receiver
// a moment to close its end. That it does means nothing: it may have closed without
// having read everything.
func (s *SyslogSender) Close() error {
	if s.conn == nil {
		return nil
	}
	defer s.drop()
	c, ok := s.conn.(interface{ CloseWrite() error })
	if !ok || s.peer.ended() != nil {
		return nil
	}
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("%s: %w", s.Addr, err)
	}
	select {
	case <-s.peer.done:
	case <-time.After(s.Settle()):
	}
	return nil
}
