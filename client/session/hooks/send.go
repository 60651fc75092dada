package hooks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Deadline is the longest that a hook may take from its start: the agent waits for it.
const Deadline = 20 * time.Millisecond

// EventHeader carries a random id of the invocation, so that an event that is sent twice counts once.
const EventHeader = "Affidavit-Event"

// Send hands the event that r has to the recorder that listens on the unix socket. It
// returns once the recorder has acknowledged it, or ctx is done. What was written by then
// reaches the recorder all the same.
func Send(ctx context.Context, socket, agent string, r io.Reader) error {
	if agents[agent] == nil {
		return fmt.Errorf("unknown agent %.40q", agent)
	}
	read := make(chan error, 1)
	var body []byte
	go func() { // reading may block for as long as the agent likes; the process ends before that
		var err error
		body, err = io.ReadAll(io.LimitReader(r, MaxEvent+1))
		read <- err
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-read:
		if err != nil {
			return err
		}
	}
	if len(body) == 0 {
		return errors.New("no event on the standard input")
	}
	if len(body) > MaxEvent {
		return fmt.Errorf("event of more than %d bytes", MaxEvent)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	if t, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(t); err != nil {
			return err
		}
	}
	var id [16]byte
	rand.Read(id[:])
	// One write of head and body, by hand: what is written when the deadline passes
	// arrives, so it is best written at once.
	head := "POST /hooks/" + agent + " HTTP/1.1\r\nHost: recorder\r\nContent-Type: application/json\r\nConnection: close\r\n" +
		EventHeader + ": " + hex.EncodeToString(id[:]) + "\r\nContent-Length: " + fmt.Sprint(len(body)) + "\r\n\r\n"
	buffers := net.Buffers{[]byte(head), body}
	if _, err := buffers.WriteTo(conn); err != nil {
		return err
	}
	var status [12]byte // HTTP/1.1 200
	if _, err := io.ReadFull(conn, status[:]); err != nil {
		return err
	}
	if s := string(status[9:]); s[0] != '2' {
		return fmt.Errorf("the recorder answered with status %s", s)
	}
	return nil
}
