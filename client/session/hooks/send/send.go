// Package send hands a hook's event to the recorder. It is apart from package hooks, and imports little, because an agent
// waits for each hook: a process that has nothing else in it starts in a fraction of the time.
//
// A hook must never change what its agent does: it prints nothing, always exits with 0, and gives up after Deadline.
package send

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"time"
)

const (
	// Deadline is the longest that a hook waits, since the agent waits for it: for the event, and then for the recorder.
	// Half a millisecond is usual. On a machine that is so busy that the hook itself is kept waiting, it may take twice as
	// long, rather than lose an event that it has read.
	Deadline = 20 * time.Millisecond

	// Header carries a random id of the invocation, so that an event that is sent twice counts once.
	Header = "Affidavit-Event"

	// MaxEvent is the size in bytes of the largest hook event, which may hold the whole text of a file that the agent
	// read.
	MaxEvent = 16 << 20

	// Socket is where affidavit-recorder listens, unless its configuration says otherwise.
	Socket = "/run/affidavit/recorder.sock"

	// Debug is an environment variable. If it isn't empty, a hook says on the standard error why an event is lost.
	Debug = "AFFIDAVIT_HOOK_DEBUG"
)

// Agents lists the agents whose hooks are known.
func Agents() []string { return []string{"cursor", "windsurf", "claude-code"} }

// Event hands the event that r has to the recorder that listens on the unix socket. It returns once the recorder has
// acknowledged it, or when it has waited for as long as wait for the event or for the recorder: hooks wait for Deadline.
// What was written by then reaches the recorder all the same. A panic becomes an error: it would end the process with
// status 2, by which a hook tells Claude Code and Windsurf to stop.
func Event(wait time.Duration, socket, agent string, r io.Reader) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	body, err := read(ctx, agent, r)
	if err != nil {
		return err
	}
	// What was read late is still handed over.
	ctx, cancel = context.WithTimeout(context.Background(), wait)
	defer cancel()
	return hand(ctx, socket, agent, body)
}

// read reads an event to its end.
func read(ctx context.Context, agent string, r io.Reader) (body []byte, err error) {
	if !slices.Contains(Agents(), agent) {
		return nil, fmt.Errorf("unknown agent %.40q", agent)
	}
	type event struct {
		body []byte
		err  error
	}
	done := make(chan event, 1)
	go func() { // reading may block for as long as the agent likes; the process ends before that
		b, err := io.ReadAll(io.LimitReader(r, MaxEvent+1))
		done <- event{b, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case e := <-done:
		switch {
		case e.err != nil:
			return nil, e.err
		case len(e.body) == 0:
			return nil, errors.New("no event on the standard input")
		case len(e.body) > MaxEvent:
			return nil, fmt.Errorf("event of more than %d bytes", MaxEvent)
		}
		return e.body, nil
	}
}

// hand writes an event to the recorder, and waits for its answer.
func hand(ctx context.Context, socket, agent string, body []byte) error {
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
	// The id need not be a secret, only another one than those of the agent's other events; crypto/rand takes longer to
	// start than the rest of the process.
	id := fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	// One write of head and body, by hand: what is written when the deadline passes arrives, so it is best written at
	// once.
	head := "POST /hooks/" + agent + " HTTP/1.1\r\nHost: recorder\r\nContent-Type: application/json\r\nConnection: close\r\n" +
		Header + ": " + id + "\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n"
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
