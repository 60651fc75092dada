package export

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func openQueue(t testing.TB, dir string, o QueueOptions) *Queue {
	t.Helper()
	q, err := OpenQueue(dir, [32]byte{9}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// fill queues lines "first" to "last-1", two in a frame with the cursor after them.
func fill(t testing.TB, q *Queue, first, last int) {
	t.Helper()
	for i := first; i < last; i += 2 {
		q.Write([]Line{{Data: []byte(fmt.Sprint(i))}})
		if i+1 < last {
			q.Write([]Line{{Data: []byte(fmt.Sprint(i + 1))}})
		}
		c := q.Cursor()
		c.Records = uint64(min(i+2, last))
		if err := q.Commit(c); err != nil {
			t.Fatal(err)
		}
	}
}

// drain reads everything that is there.
func drain(t testing.TB, q *Queue) (lines []string, after Place) {
	t.Helper()
	for {
		next, p, _, err := q.Next(3, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if after = p; len(next) == 0 {
			return lines, after
		}
		for _, l := range next {
			lines = append(lines, string(l))
		}
	}
}

func numbers(first, last int) (lines []string) {
	for i := first; i < last; i++ {
		lines = append(lines, fmt.Sprint(i))
	}
	return lines
}

// TestQueueCrash: after a crash at any byte of what was written last, the queue has
// what its cursor says, and with what the source yields from there everything is there
// once, in order.
func TestQueueCrash(t *testing.T) {
	for _, segment := range []int64{1, 1 << 20} {
		dir := t.TempDir()
		q := openQueue(t, dir, QueueOptions{Segment: segment})
		fill(t, q, 0, 5)
		q.Close()
		files, _ := filepath.Glob(filepath.Join(dir, "*"+segmentEnd))
		last := files[len(files)-1]
		whole, err := os.ReadFile(last)
		if err != nil {
			t.Fatal(err)
		}
		least := 0 // the first frame of a segment appears whole, or not at all
		for cut := len(whole); cut >= least; cut -= 7 {
			if cut == len(whole) {
				body, err := readFrame(bytes.NewReader(whole), 0, int64(len(whole)))
				if err != nil {
					t.Fatal(err)
				}
				least = frameHeader + len(body)
			}
			if err := os.WriteFile(last, whole[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			q := openQueue(t, dir, QueueOptions{Segment: 1 << 20})
			from := int(q.Cursor().Records)
			fill(t, q, from, 7)
			if got, _ := drain(t, q); !slices.Equal(got, numbers(0, 7)) {
				t.Fatalf("segment %d, cut at %d of %d, cursor %d: %v", segment, cut, len(whole), from, got)
			}
			q.Close()
		}
	}
}

// A line that was damaged where it lies is not skipped in silence.
func TestQueueDamage(t *testing.T) {
	dir := t.TempDir()
	q := openQueue(t, dir, QueueOptions{})
	fill(t, q, 0, 3)
	q.Close()
	files, _ := filepath.Glob(filepath.Join(dir, "*"+segmentEnd))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	last := int64(len(b)) // where the last frame begins
	for at := int64(0); at < int64(len(b)); {
		body, err := readFrame(bytes.NewReader(b), at, int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		last = at
		at += frameHeader + int64(len(body))
	}
	for i := int64(0); i < last; i += 5 {
		bad := bytes.Clone(b)
		bad[i] ^= 0x41
		if err := os.WriteFile(files[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if q, err := OpenQueue(dir, [32]byte{9}, QueueOptions{}); err == nil || !strings.Contains(err.Error(), "is damaged at byte") {
			t.Errorf("byte %d of %d: opened: %v", i, last, err)
			q.Close()
		}
	}
	if _, err := OpenQueue(t.TempDir(), [32]byte{9}, QueueOptions{}); err != nil {
		t.Error(err)
	}
}

// What was delivered stays delivered, its space is free, and another export can't have
// the queue.
func TestQueueDelivered(t *testing.T) {
	dir := t.TempDir()
	q := openQueue(t, dir, QueueOptions{Segment: 300, Limit: 3000})
	fill(t, q, 0, 30)
	if _, full := q.Backlog(); !full {
		t.Error("not full")
	}
	if _, err := OpenQueue(dir, [32]byte{9}, QueueOptions{}); err == nil {
		t.Error("opened twice")
	}
	waited := make(chan error)
	go func() { waited <- q.WaitRoom(t.Context()) }()
	lines, after, _, err := q.Next(20, 1<<20)
	for err == nil && len(lines) < 20 {
		var more [][]byte
		if more, after, _, err = q.Next(20-len(lines), 1<<20); err == nil {
			lines = append(lines, more...)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Delivered(after); err != nil {
		t.Fatal(err)
	}
	q.Next(3, 1<<20)
	if err := q.Rewind(); err != nil {
		t.Fatal(err)
	}
	if got, _ := drain(t, q); !slices.Equal(got, numbers(20, 30)) {
		t.Errorf("after a rewind %v", got)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*"+segmentEnd)); len(files) > 6 {
		t.Errorf("%d segments are left", len(files))
	}
	q.Close()
	if _, err := OpenQueue(dir, [32]byte{8}, QueueOptions{}); !errors.Is(err, ErrConfig) {
		t.Errorf("opened for another export: %v", err)
	}
	q = openQueue(t, dir, QueueOptions{Limit: 1})
	got, after := drain(t, q)
	if !slices.Equal(got, numbers(20, 30)) {
		t.Errorf("after a restart %v", got)
	}
	if err := q.Delivered(after); err != nil {
		t.Fatal(err)
	}
	if n, full := q.Backlog(); n != 0 || full {
		t.Errorf("backlog %d", n)
	}
	if err := q.WaitRoom(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case <-waited:
	case <-time.After(10 * time.Second):
		// Ten lines take less than 3000 bytes, so that Delivered made room.
		t.Error("WaitRoom waits although there is room")
	}
}

// A fake is a Sender that does what its script says, once for each Send.
type fake struct {
	script  []func(lines [][]byte) error
	settle  time.Duration
	lost    []error // of Check, in order
	got     []string
	times   []time.Time
	onClose error
}

func (f *fake) take(lines [][]byte) error {
	for _, l := range lines {
		f.got = append(f.got, string(l))
	}
	return nil
}

func (f *fake) Send(_ context.Context, lines [][]byte) error {
	f.times = append(f.times, time.Now())
	if len(f.script) > 0 {
		do := f.script[0]
		f.script = f.script[1:]
		return do(lines)
	}
	return f.take(lines)
}

func (f *fake) Check() error {
	if len(f.lost) == 0 {
		return nil
	}
	err := f.lost[0]
	f.lost = f.lost[1:]
	return err
}
func (f *fake) Settle() time.Duration { return f.settle }
func (f *fake) Close() error          { return f.onClose }

// TestDeliver: whatever the receiver answers, it gets each line at least once and in
// order, and what it took for sure it doesn't get again.
func TestDeliver(t *testing.T) {
	refuse := errors.New("nobody there")
	for _, tt := range []struct {
		name   string
		sender func() *fake
		want   []string // what it took, in order
		waits  []time.Duration
	}{
		{"at once", func() *fake { return &fake{} }, numbers(0, 6), []time.Duration{0}},
		{"refused connection", func() *fake {
			f := &fake{}
			f.script = []func([][]byte) error{func([][]byte) error { return refuse }, func([][]byte) error { return refuse }}
			return f
		}, numbers(0, 6), []time.Duration{0, time.Second, 2 * time.Second, 0}},
		{"took it and failed", func() *fake {
			f := &fake{}
			f.script = []func([][]byte) error{f.take, func(l [][]byte) error { f.take(l); return refuse }}
			return f
		}, append(numbers(0, 4), numbers(2, 6)...), []time.Duration{0, 0, time.Second}},
		{"busy", func() *fake {
			f := &fake{}
			f.script = []func([][]byte) error{func([][]byte) error { return &BusyError{90 * time.Second, refuse} }}
			return f
		}, numbers(0, 6), []time.Duration{0, 90 * time.Second}},
		{"denied for a while", func() *fake {
			f := &fake{}
			f.script = []func([][]byte) error{func([][]byte) error { return &DeniedError{refuse} }}
			return f
		}, numbers(0, 6), []time.Duration{0, time.Second}},
		{"lost after it was sent", func() *fake {
			f := &fake{settle: 2 * time.Second}
			f.lost = []error{nil, nil, refuse}
			return f
		}, append(numbers(0, 6), numbers(0, 6)...), []time.Duration{0, 0, 0, time.Second}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := openQueue(t, t.TempDir(), QueueOptions{})
				fill(t, q, 0, 6)
				q.Finish()
				f := tt.sender()
				if err := Deliver(t.Context(), q, f, DeliverOptions{Lines: 2}); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(f.got, tt.want) {
					t.Errorf("got %v, want %v", f.got, tt.want)
				}
				for i, want := range tt.waits[1:] {
					// A quarter less, so that exporters don't come back all at once.
					if wait := f.times[i+1].Sub(f.times[i]); wait < want*3/4 || wait > want {
						t.Errorf("wait %d is %v, want up to %v", i, wait, want)
					}
				}
				if n, _ := q.Backlog(); n != 0 {
					t.Errorf("%d bytes are left", n)
				}
			})
		})
	}
}

// TestDeliverRefused: an event that the receiver will never take holds up no other, and
// isn't lost.
func TestDeliverRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		q := openQueue(t, dir, QueueOptions{})
		fill(t, q, 0, 9)
		q.Finish()
		f := &fake{}
		picky := func(lines [][]byte) error {
			for _, l := range lines {
				if s := string(l); s == "3" || s == "8" {
					return &RefusedError{errors.New("bad event")}
				}
			}
			return f.take(lines)
		}
		for range 40 {
			f.script = append(f.script, picky)
		}
		if err := Deliver(t.Context(), q, f, DeliverOptions{Lines: 4}); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
		if want := []string{"0", "1", "2", "4", "5", "6", "7"}; !slices.Equal(f.got, want) {
			t.Errorf("got %v, want %v", f.got, want)
		}
		if b, _ := os.ReadFile(filepath.Join(dir, "refused")); string(b) != "3\n8\n" {
			t.Errorf("refused %q", b)
		}
	})
}

// TestGiveUp: an export that doesn't follow ends when the receiver takes nothing, and
// everything is still there for the next one.
func TestGiveUp(t *testing.T) {
	for _, tt := range []struct {
		err   error
		after time.Duration
	}{{errors.New("nobody there"), time.Minute}, {&DeniedError{errors.New("no such token")}, 0}} {
		synctest.Test(t, func(t *testing.T) {
			q := openQueue(t, t.TempDir(), QueueOptions{})
			fill(t, q, 0, 3)
			q.Finish()
			f := &fake{}
			for range 100 {
				f.script = append(f.script, func([][]byte) error { return tt.err })
			}
			start := time.Now()
			if err := Deliver(t.Context(), q, f, DeliverOptions{GiveUp: time.Minute}); !errors.Is(err, tt.err) {
				t.Fatal(err)
			}
			if d := time.Since(start); d < tt.after || d > 2*tt.after+time.Second {
				t.Errorf("gave up after %v", d)
			}
			q.Rewind()
			if got, _ := drain(t, q); len(got) != 3 {
				t.Errorf("%v are left", got)
			}
		})
	}
}

// collector is a Splunk HTTP Event Collector that keeps what it takes.
type collector struct {
	mu     sync.Mutex
	events []string // uids, as often as they came
	n      int
	answer func(n int) (status int, body string, take bool)
	tokens []string
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	status, body, take := http.StatusOK, `{"text":"Success","code":0}`, true
	if c.answer != nil {
		status, body, take = c.answer(c.n)
	}
	c.n++
	c.tokens = append(c.tokens, r.Header.Get("Authorization"))
	if take {
		d := json.NewDecoder(r.Body)
		for {
			var v struct {
				Time  json.Number
				Event struct{ Metadata struct{ UID string } }
			}
			if err := d.Decode(&v); err == io.EOF {
				break
			} else if err != nil {
				status = http.StatusBadRequest
				break
			}
			c.events = append(c.events, v.Event.Metadata.UID)
		}
	}
	w.WriteHeader(status)
	io.WriteString(w, body)
}

// uidsOf returns what an export of items to a file has.
func uidsOf(t testing.TB, items []*Item) (uids []string) {
	t.Helper()
	for line := range bytes.Lines(export(t, &Exporter{Format: FormatOCSF, Seen: NewSeen()}, items)) {
		uid, err := FormatOCSF.uid(line)
		if err != nil {
			t.Fatal(err)
		}
		uids = append(uids, uid)
	}
	return uids
}

// once drops what came before, as receivers do.
func once(uids []string) (out []string) {
	seen := make(map[string]bool)
	for _, u := range uids {
		if !seen[u] {
			seen[u] = true
			out = append(out, u)
		}
	}
	return out
}

// follow runs an export to a sender from what the queue in dir says, until ctx ends or
// everything is delivered.
func follow(ctx context.Context, t testing.TB, dir string, x *Exporter, items []*Item, s Sender) error {
	t.Helper()
	q, err := OpenQueue(dir, [32]byte{9}, QueueOptions{Segment: 20 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	delivered := make(chan error)
	go func() {
		delivered <- Deliver(ctx, q, s, DeliverOptions{Lines: 7, MinWait: time.Millisecond, MaxWait: 5 * time.Millisecond})
	}()
	cur := q.Cursor()
	err = x.Run(ctx, after(items, cur), q, &cur)
	q.Finish()
	return errors.Join(err, <-delivered)
}

// TestCollector: a collector that refuses, that takes events and reports a failure, and
// that takes them and says nothing of use, while the exporter is stopped and started
// again: it has each event, and after dropping what it has already, once and in order.
func TestCollector(t *testing.T) {
	items := numbered(60)
	want := uidsOf(t, items)
	for name, answer := range map[string]func(int) (int, string, bool){
		"good":             nil,
		"refused":          func(n int) (int, string, bool) { return 503, "", n%3 == 2 },
		"taken but failed": func(n int) (int, string, bool) { return []int{500, 200, 502}[n%3], `{"text":"Success","code":0}`, true },
		"taken, other code": func(n int) (int, string, bool) {
			return 200, []string{`{"text":"Server is busy","code":9}`, `{"code":0}`}[n%2], true
		},
		"taken, but no JSON": func(n int) (int, string, bool) { return 200, []string{"<html>", `{"code":0}`, ""}[n%3], true },
	} {
		t.Run(name, func(t *testing.T) {
			c := &collector{answer: answer}
			if name == "refused" {
				c.answer = func(n int) (int, string, bool) {
					if n%3 == 2 {
						return 200, `{"text":"Success","code":0}`, true
					}
					return 503, "", false
				}
			}
			srv := httptest.NewTLSServer(c)
			defer srv.Close()
			dir := t.TempDir()
			x := &Exporter{Format: FormatOCSF, Wrap: WrapHEC}
			runs := 0
			for {
				sender := &HTTPSender{URL: srv.URL, Splunk: true, Client: NewHTTPClient(srv.Client().Transport.(*http.Transport).Clone()), Token: func() (string, error) { return "secret", nil }}
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(runs+1)*15*time.Millisecond)
				err := follow(ctx, t, dir, x, items, sender)
				cancel()
				if runs++; err == nil {
					break
				}
				if !errors.Is(err, context.DeadlineExceeded) || runs > 500 {
					t.Fatal(err)
				}
			}
			if got := once(c.events); !slices.Equal(got, want) {
				t.Errorf("after %d runs %d events, want %d", runs, len(got), len(want))
			}
			if name == "good" && runs == 1 && len(c.events) != len(want) {
				t.Errorf("%d events arrived, want %d", len(c.events), len(want))
			}
			if c.tokens[0] != "Splunk secret" {
				t.Errorf("token %q", c.tokens[0])
			}
		})
	}
}

// TestHTTPAnswers: what an answer means for the lines.
func TestHTTPAnswers(t *testing.T) {
	var status int
	var body string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.Header().Set("Location", "https://elsewhere.example/")
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	defer srv.Close()
	refused := func(err error) bool { return errors.As(err, new(*RefusedError)) }
	denied := func(err error) bool { return errors.As(err, new(*DeniedError)) }
	busy := func(err error) bool {
		b := new(BusyError)
		return errors.As(err, &b) && b.After == 7*time.Second
	}
	other := func(err error) bool { return err != nil && !refused(err) && !denied(err) && !busy(err) }
	good := func(err error) bool { return err == nil }
	for _, tt := range []struct {
		status int
		body   string
		splunk bool
		want   func(error) bool
	}{
		{200, `{"code":0}`, true, good}, {200, `{"code":8}`, true, other}, {200, ``, true, other}, {200, ``, false, good}, {204, ``, false, good},
		{400, `{"text":"Invalid data format","code":6}`, true, refused}, {400, `{"text":"Incorrect index","code":7}`, true, denied}, {400, ``, false, refused},
		{401, ``, true, denied}, {403, ``, false, denied}, {404, ``, false, denied}, {302, ``, false, denied}, {413, ``, true, refused},
		{429, ``, false, busy}, {503, ``, true, busy}, {500, ``, true, other},
	} {
		status, body = tt.status, tt.body
		s := &HTTPSender{URL: srv.URL, Splunk: tt.splunk, Client: NewHTTPClient(new(http.Transport)), Token: func() (string, error) { return "", nil }}
		if err := s.Send(t.Context(), [][]byte{[]byte("{}")}); !tt.want(err) {
			t.Errorf("%d %s: %v", tt.status, tt.body, err)
		}
		s.Close()
	}
}

// A syslogServer takes messages with octet counting, and drops each connection after
// a number of them.
type syslogServer struct {
	l    net.Listener
	drop int // messages after which a connection is reset; 0 is never

	mu   sync.Mutex
	uids []string
	bad  error
}

func (s *syslogServer) serve() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			return
		}
		go s.read(c)
	}
}

func (s *syslogServer) read(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for n := 0; s.drop == 0 || n < s.drop; n++ {
		size, err := r.ReadString(' ')
		if err != nil {
			return
		}
		count, err := strconv.Atoi(strings.TrimSuffix(size, " "))
		message := make([]byte, max(count, 0))
		if err == nil {
			if _, err := io.ReadFull(r, message); err != nil {
				return
			}
		}
		uid, uerr := FormatSyslog.uid(message)
		s.mu.Lock()
		s.uids = append(s.uids, uid)
		s.bad = errors.Join(s.bad, err, uerr)
		s.mu.Unlock()
	}
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0) // a reset: what is under way gets lost
	}
}

// TestSyslogServer: over TCP and TLS, to a receiver that stays, and to one that breaks
// connections in the middle.
func TestSyslogServer(t *testing.T) {
	items := numbered(40)
	want := uidsOf(t, items)
	certs := httptest.NewUnstartedServer(nil)
	certs.StartTLS()
	defer certs.Close()
	roots := x509.NewCertPool()
	roots.AddCert(certs.Certificate())
	for _, drop := range []int{0, 9} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("drop %d, TLS %v", drop, secure), func(t *testing.T) {
				t.Parallel() // they wait for connections to settle
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				sender := &SyslogSender{Addr: l.Addr().String(), SettleTime: 50 * time.Millisecond}
				srv := &syslogServer{l: l, drop: drop}
				if secure {
					srv.l = tls.NewListener(l, &tls.Config{Certificates: certs.TLS.Certificates})
					sender.TLS = &tls.Config{RootCAs: roots, ServerName: "example.com"}
				}
				defer srv.l.Close()
				go srv.serve()
				x := &Exporter{Format: FormatSyslog, OCSF: OCSF{MaxEvent: MinEvent}}
				if err := follow(t.Context(), t, t.TempDir(), x, items, sender); err != nil {
					t.Fatal(err)
				}
				srv.mu.Lock()
				defer srv.mu.Unlock()
				if srv.bad != nil {
					t.Error(srv.bad)
				}
				got := once(srv.uids)
				if drop > 0 { // not in order, since they were sent again
					slices.Sort(got)
					want := slices.Sorted(slices.Values(want))
					if !slices.Equal(got, want) {
						t.Errorf("%d events, want %d", len(got), len(want))
					}
					return
				}
				if !slices.Equal(srv.uids, want) {
					t.Errorf("%d events arrived, want %d, each once", len(srv.uids), len(want))
				}
			})
		}
	}
}
