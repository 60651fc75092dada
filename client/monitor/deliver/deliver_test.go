package deliver

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/affidavit-log/affidavit/client/monitor"
)

// memory is a source in memory, which outlives sets as a database does.
type memory struct {
	mu      sync.Mutex // guards the rest
	all     []*monitor.Finding
	changed chan struct{}
	cursors map[string]uint64
	broken  bool // fail to write
}

func newMemory() *memory {
	return &memory{changed: make(chan struct{}), cursors: make(map[string]uint64)}
}

func (m *memory) add(class monitor.Class, severity monitor.Severity) *monitor.Finding {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := uint64(len(m.all) + 1)
	f := &monitor.Finding{
		ID: fmt.Sprintf("%032x", seq), Seq: seq, Class: class, Severity: severity, Kind: "split-view", Log: "log.example/1",
		FoundAt: time.Date(2026, 11, 24, 7, 0, 0, 0, time.UTC), Message: "two trees <of one size>",
	}
	m.all = append(m.all, f)
	close(m.changed)
	m.changed = make(chan struct{})
	return f
}

func (m *memory) tamper() *monitor.Finding {
	return m.add(monitor.ClassTamper, monitor.SeverityCritical)
}

func (m *memory) Findings(after uint64, limit int) ([]*monitor.Finding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if after >= uint64(len(m.all)) {
		return nil, nil
	}
	return slices.Clone(m.all[after:min(len(m.all), int(after)+limit)]), nil
}

func (m *memory) Wait(ctx context.Context, after uint64) error {
	for {
		m.mu.Lock()
		n, changed := uint64(len(m.all)), m.changed
		m.mu.Unlock()
		if n > after {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (m *memory) Cursor(name string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cursors[name], nil
}

func (m *memory) SetCursor(name string, seq uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("disk full")
	}
	m.cursors[name] = seq
	return nil
}

// inbox is a receiver that fails when it is told to.
type inbox struct {
	mu   sync.Mutex
	got  []uint64
	at   []time.Time // of attempts
	fail func(attempt int, f *monitor.Finding) error
}

func (b *inbox) Send(_ context.Context, f *monitor.Finding) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = append(b.at, time.Now())
	if b.fail != nil {
		if err := b.fail(len(b.at), f); err != nil {
			return err
		}
	}
	b.got = append(b.got, f.Seq)
	return nil
}

func (b *inbox) seqs() []uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.got)
}

func newSet(t *testing.T, src Source, routes ...Route) *Set {
	t.Helper()
	s, err := New(src, slog.New(slog.DiscardHandler), routes...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start runs s in the bubble until the returned function is called.
func start(t *testing.T, s *Set) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	return func() { cancel(); <-done }
}

// TestOneBadReceiver: a receiver that is down gets everything once it is back, in order, also over a restart, and holds
// up no other.
func TestOneBadReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		for range 40 { // more than a page
			src.tamper()
		}
		down := true
		bad := &inbox{fail: func(_ int, f *monitor.Finding) error {
			if down && f.Seq > 3 {
				return errors.New("connection refused\x1b[2J")
			}
			return nil
		}}
		good := &inbox{}
		s := newSet(t, src, Route{Name: "bad", Receiver: bad}, Route{Name: "good", Receiver: good})
		stop := start(t, s)
		time.Sleep(time.Hour)
		src.tamper()
		synctest.Wait()
		if n := len(good.seqs()); n != 41 {
			t.Errorf("the good receiver has %d of 41", n)
		}
		st := s.Status(41)
		if st[0].LastError != "connection refused [2J" || st[0].Queue != 38 || st[0].Failed == 0 || st[0].NextAttempt.IsZero() {
			t.Errorf("status of the bad one: %+v", st[0])
		}
		if st[1].Queue != 0 || st[1].Delivered != 41 || st[1].Cursor != 41 || st[1].LastError != "" {
			t.Errorf("status of the good one: %+v", st[1])
		}
		stop()

		down = false
		s = newSet(t, src, Route{Name: "bad", Receiver: bad}, Route{Name: "good", Receiver: good})
		stop = start(t, s)
		synctest.Wait()
		stop()
		for i, b := range []*inbox{bad, good} {
			got := b.seqs()
			if len(got) != 41 {
				t.Errorf("receiver %d has %d of 41: %v", i, len(got), got)
			}
			for i, n := range got {
				if n != uint64(i+1) {
					t.Fatalf("receiver %d, not once and in order: %v", i, got)
				}
			}
		}
	})
}

// TestBackoff: pauses double up to their bound, and Retry-After makes them longer, up to its own.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		src.tamper()
		b := &inbox{fail: func(attempt int, _ *monitor.Finding) error {
			switch {
			case attempt <= 14:
				return errors.New("no")
			case attempt == 15:
				return fmt.Errorf("busy: %w", &RetryError{After: 20 * time.Minute, Err: errors.New("429")})
			case attempt == 16:
				return &RetryError{After: 1000 * time.Hour, Err: errors.New("429")}
			}
			return nil
		}}
		s := newSet(t, src, Route{Name: "b", Receiver: b})
		if err := s.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(b.at); i++ {
			pause := b.at[i].Sub(b.at[i-1])
			most := min(maxBackoff, firstBackoff<<(i-1))
			least := most / 2
			switch i {
			case 15:
				least, most = 20*time.Minute, 20*time.Minute
			case 16:
				least, most = maxRetryAfter, maxRetryAfter
			}
			if pause < least || pause > most {
				t.Errorf("pause %d: %v, want %v to %v", i, pause, least, most)
			}
		}
		if len(b.at) != 17 || s.Status(1)[0].LastError != "" {
			t.Errorf("%d attempts, %+v", len(b.at), s.Status(1))
		}
	})
}

// TestCursorNotWritten: what can't be noted is delivered again after a restart, and not before.
func TestCursorNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		src.tamper()
		src.broken = true
		b := &inbox{}
		for range 2 {
			s := newSet(t, src, Route{Name: "b", Receiver: b})
			stop := start(t, s)
			synctest.Wait()
			src.tamper()
			synctest.Wait()
			stop()
		}
		if want := []uint64{1, 2, 1, 2, 3}; !slices.Equal(b.seqs(), want) {
			t.Errorf("delivered %v, want %v", b.seqs(), want)
		}
	})
}

// TestDrain says who hasn't got everything.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		src.tamper()
		bad := &inbox{fail: func(int, *monitor.Finding) error { return errors.New("away") }}
		good := &inbox{}
		s := newSet(t, src, Route{Name: "bad", Receiver: bad}, Route{Name: "good", Receiver: good})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Drain(ctx); err == nil || !strings.Contains(err.Error(), "bad (away)") || strings.Contains(err.Error(), "good") {
			t.Errorf("error %v", err)
		}
		if len(good.seqs()) != 1 {
			t.Errorf("good has %v", good.seqs())
		}
	})
}

// TestGrace: an attempt that is under way when the monitor stops may end, but not for ever.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		src.tamper()
		for _, tt := range []struct {
			takes time.Duration
			done  bool
		}{{grace - time.Second, true}, {time.Hour, false}} {
			ctx, cancel := context.WithCancel(t.Context())
			done := false
			s := newSet(t, src, Route{Name: fmt.Sprintf("slow-%v", tt.done), Receiver: receiver(func(ctx context.Context, _ *monitor.Finding) error {
				if done = sleep(ctx, tt.takes); !done {
					return ctx.Err()
				}
				return nil
			})})
			go func() { time.Sleep(time.Millisecond); cancel() }()
			began := time.Now()
			s.Run(ctx)
			if took := time.Since(began); done != tt.done || took > grace+time.Second {
				t.Errorf("an attempt of %v: ended %v, after %v", tt.takes, done, took)
			}
			if c, _ := src.Cursor(fmt.Sprintf("slow-%v", tt.done)); (c == 1) != tt.done {
				t.Errorf("cursor %d", c)
			}
		}
	})
}

type receiver func(context.Context, *monitor.Finding) error

func (f receiver) Send(ctx context.Context, x *monitor.Finding) error { return f(ctx, x) }

func TestFilter(t *testing.T) {
	src := newMemory()
	for _, c := range Classes {
		for _, s := range Severities {
			src.add(c, s)
		}
	}
	src.add(monitor.ClassTamper, "apocalyptic")
	for _, tt := range []struct {
		f    Filter
		want int
	}{
		{Filter{}, 21},
		{Filter{Classes: []monitor.Class{monitor.ClassTamper}}, 6},
		{Filter{Classes: []monitor.Class{monitor.ClassTamper, monitor.ClassIdentity}, Least: monitor.SeverityHigh}, 5},
		{Filter{Least: monitor.SeverityInfo}, 21},
		{Filter{Least: monitor.SeverityCritical}, 5},
	} {
		b := &inbox{}
		s := newSet(t, src, Route{Name: "b", Filter: tt.f, Receiver: b})
		if err := s.Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		src.cursors = make(map[string]uint64)
		if len(b.got) != tt.want {
			t.Errorf("%+v: %d findings, want %d", tt.f, len(b.got), tt.want)
		}
	}
	for _, r := range [][]Route{
		{{Name: "a", Filter: Filter{Least: "worse"}}}, {{Name: "a", Filter: Filter{Classes: []monitor.Class{"fraud"}}}},
		{{Name: "a b"}}, {{Name: ""}}, {{Name: strings.Repeat("a", 41)}}, {{Name: "a"}, {Name: "a"}},
	} {
		if _, err := New(src, slog.New(slog.DiscardHandler), r...); err == nil {
			t.Errorf("accepted %+v", r)
		}
	}
}

const secretText = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func secret(t testing.TB, text string) Secret {
	t.Helper()
	s, err := ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSpecification has the example of the specification's reference libraries.
func TestSpecification(t *testing.T) {
	s := secret(t, secretText)
	got := s.Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestWebhook: what arrives is signed by each secret over id, time and body, and nothing else verifies.
func TestWebhook(t *testing.T) {
	old, fresh := secret(t, secretText), secret(t, "whsec_"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32)))
	var got []*http.Request
	var bodies [][]byte
	status := http.StatusNoContent
	header := http.Header{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, bodies = append(got, r), append(bodies, b)
		for k, v := range header {
			w.Header()[k] = v
		}
		w.WriteHeader(status)
		if status >= 300 {
			io.WriteString(w, "go away\n\x1b[31m")
		}
	}))
	defer srv.Close()
	w, err := NewWebhook(WebhookConfig{URL: srv.URL + "/hook?token=sesame", Secrets: []Secret{fresh, old}})
	if err != nil {
		t.Fatal(err)
	}
	src := newMemory()
	f := src.tamper()
	if err := w.Send(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	r, body := got[0], bodies[0]
	if r.Method != "POST" || r.URL.RawQuery != "token=sesame" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get(HeaderID) != f.ID {
		t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
	}
	var p Payload
	if err := json.Unmarshal(body, &p); err != nil || p.Type != "finding.tamper" || p.Data.Seq != 1 || p.Data.Message != f.Message {
		t.Errorf("body %s: %v", body, err)
	}
	now := time.Now()
	for _, s := range []Secret{old, fresh} {
		if err := s.Verify(r.Header, body, now); err != nil {
			t.Errorf("not verified: %v", err)
		}
	}
	other := secret(t, "whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 24)))
	for _, tt := range []struct {
		name string
		edit func(h http.Header, body []byte) (Secret, []byte, time.Time)
	}{
		{"other secret", func(h http.Header, b []byte) (Secret, []byte, time.Time) { return other, b, now }},
		{"other body", func(h http.Header, b []byte) (Secret, []byte, time.Time) { return old, append(b, ' '), now }},
		{"other id", func(h http.Header, b []byte) (Secret, []byte, time.Time) { h.Set(HeaderID, "x"); return old, b, now }},
		{"replayed later", func(h http.Header, b []byte) (Secret, []byte, time.Time) {
			return old, b, now.Add(Tolerance + 2*time.Second)
		}},
		{"from the future", func(h http.Header, b []byte) (Secret, []byte, time.Time) {
			return old, b, now.Add(-Tolerance - 2*time.Second)
		}},
		{"replayed with a new time", func(h http.Header, b []byte) (Secret, []byte, time.Time) {
			h.Set(HeaderTimestamp, fmt.Sprint(now.Unix()+3))
			return old, b, now
		}},
		{"no time", func(h http.Header, b []byte) (Secret, []byte, time.Time) { h.Del(HeaderTimestamp); return old, b, now }},
		{"no signature", func(h http.Header, b []byte) (Secret, []byte, time.Time) { h.Del(HeaderSignature); return old, b, now }},
	} {
		h := r.Header.Clone()
		s, b, at := tt.edit(h, slices.Clone(body))
		if err := s.Verify(h, b, at); err == nil {
			t.Errorf("%s: verified", tt.name)
		}
	}

	for _, tt := range []struct {
		status int
		retry  string
		after  time.Duration
	}{
		{500, "", 0}, {404, "", 0}, {429, "7", 7 * time.Second}, {503, time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), 59 * time.Minute},
		{503, "soon", 0}, {302, "", 0}, {410, "", 0},
	} {
		status, header = tt.status, http.Header{"Location": {srv.URL + "/elsewhere"}}
		if tt.retry != "" {
			header.Set("Retry-After", tt.retry)
		}
		before := len(got)
		err := w.Send(t.Context(), f)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(tt.status)) || !strings.Contains(err.Error(), "go away") ||
			strings.Contains(err.Error(), "sesame") || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("%d: error %q", tt.status, err)
		}
		var retry *RetryError
		if errors.As(err, &retry); (retry != nil) != (tt.after > 0) || retry != nil && (retry.After < tt.after || retry.After > tt.after+time.Minute) {
			t.Errorf("%d: %v", tt.status, retry)
		}
		if len(got) != before+1 {
			t.Errorf("%d: %d requests", tt.status, len(got)-before)
		}
	}
	srv.Close()
	if err := w.Send(t.Context(), f); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("the error of a receiver that is gone: %v", err)
	}
}

// TestTooLarge: evidence doesn't hold up what comes after it.
func TestTooLarge(t *testing.T) {
	var bodies []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(b))
		if len(b) > 1000 {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	}))
	defer srv.Close()
	w, err := NewWebhook(WebhookConfig{URL: srv.URL, Secrets: []Secret{secret(t, secretText)}})
	if err != nil {
		t.Fatal(err)
	}
	f := newMemory().tamper()
	f.Evidence = &monitor.Evidence{Leaf: make([]byte, 2000)}
	if err := w.Send(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	if len(bodies) != 2 || !strings.Contains(bodies[1], `"evidence_omitted":true`) || strings.Contains(bodies[1], `"evidence":`) || f.Evidence == nil {
		t.Errorf("bodies %v", bodies)
	}
	f.Evidence, f.Message = nil, strings.Repeat("x", 1000)
	if err := w.Send(t.Context(), f); err == nil || len(bodies) != 3 {
		t.Errorf("%v after %d requests", err, len(bodies))
	}
}

func TestWebhookRefusals(t *testing.T) {
	s := []Secret{secret(t, secretText)}
	for _, tt := range []WebhookConfig{
		{URL: "http://siem.example/hook", Secrets: s}, {URL: "https://siem.example/hook"}, {URL: "ftp://siem.example", Secrets: s}, {URL: "/hook", Secrets: s},
		{URL: "https://user:password@siem.example", Secrets: s}, {URL: "https://siem.example/%zz", Secrets: s}, {URL: "", Secrets: s},
	} {
		if _, err := NewWebhook(tt); err == nil || strings.Contains(err.Error(), "password") || strings.Contains(err.Error(), "/hook") {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	for _, tt := range []WebhookConfig{
		{URL: "https://siem.example/hook", Secrets: s}, {URL: "http://[::1]:8080/", Secrets: s}, {URL: "http://siem.example/hook", Secrets: s, AllowPlainHTTP: true},
	} {
		if _, err := NewWebhook(tt); err != nil {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	if got := fmt.Sprintf("%v %+v %#v %s", s[0], s, s[0], s[0]); strings.Contains(got, "MfKQ") || strings.Contains(got, "0x31") || strings.Contains(got, "49") {
		t.Errorf("a secret is printed: %s", got)
	}
}

func TestReadSecrets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	for _, tt := range []struct {
		text string
		mode os.FileMode
		want int // secrets; 0 for an error
	}{
		{secretText + "\n", 0o600, 1}, {"\n" + secretText + "\n" + secretText, 0o400, 2}, {secretText, 0o640, 0}, {secretText, 0o604, 0},
		{"", 0o600, 0}, {"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 0o600, 0}, {"whsec_AAAA", 0o600, 0}, {secretText + " x", 0o600, 0},
		{strings.Repeat(secretText+"\n", 5), 0o600, 0}, {"whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 65)), 0o600, 0},
		{strings.TrimSuffix(secretText, "w") + "x=", 0o600, 0},
	} {
		os.Remove(file)
		if err := os.WriteFile(file, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, tt.mode); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecrets(file)
		if (err != nil) != (tt.want == 0) || len(got) != tt.want || err != nil && strings.Contains(err.Error(), "MfKQ") {
			t.Errorf("%q with mode %o: %d, %v", tt.text, tt.mode, len(got), err)
		}
	}
}

// TestFile: one line for each finding, whatever a crash has left behind.
func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "findings.jsonl")
	src := newMemory()
	one, two, three := src.tamper(), src.tamper(), src.tamper()
	send := func(f *monitor.Finding) {
		t.Helper()
		if err := File(name).Send(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	line := func(f *monitor.Finding) string {
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(b) + "\n"
	}
	for _, tt := range []struct{ name, before, after string }{
		{"no file", "", line(two)},
		{"another before", line(one), line(one) + line(two)},
		{"there already", line(one) + line(two), line(one) + line(two)},
		{"there, with other proofs", line(one) + strings.Replace(line(two), "two trees", "2 trees", 1), line(one) + strings.Replace(line(two), "two trees", "2 trees", 1)},
		{"cut short", line(one) + line(two)[:70], line(one) + line(two)},
		{"cut very short", line(one) + "{", line(one) + line(two)},
		{"cut before the end of the line", line(one) + strings.TrimSuffix(line(two), "\n"), line(one) + line(two)},
		{"cut short, and other proofs", line(one) + line(two)[:70] + "other", line(one) + line(two)},
		{"cut line of another", line(one)[:70], line(one)[:70] + "\n" + line(two)},
		{"there already, and later ones", line(one) + line(two) + line(three), line(one) + line(two) + line(three)},
		{"there at first, and later ones", line(two) + line(three), line(two) + line(three)},
		{"there already, and a later one cut short", line(one) + line(two) + line(three)[:70], line(one) + line(two) + line(three)[:70]},
		{"later ones, of another monitor", line(one) + line(three), line(one) + line(three) + line(two)},
		{"there already, many later ones", line(two) + strings.Repeat(line(three), 3*lastLine/len(line(three))), line(two) + strings.Repeat(line(three), 3*lastLine/len(line(three)))},
		{"not ours", "root:x:0:0", "root:x:0:0\n" + line(two)},
		{"empty line", "\n", "\n" + line(two)},
	} {
		os.Remove(name)
		if tt.before != "" {
			if err := os.WriteFile(name, []byte(tt.before), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		send(two)
		if got, err := os.ReadFile(name); err != nil || string(got) != tt.after {
			t.Errorf("%s: %.999q, want %.999q", tt.name, got, tt.after)
		}
	}
	// Rotated between two findings.
	os.Remove(name)
	send(one)
	if err := os.Rename(name, name+".1"); err != nil {
		t.Fatal(err)
	}
	send(two)
	if got, _ := os.ReadFile(name); string(got) != line(two) {
		t.Errorf("after a rotation: %q", got)
	}
	if err := File(filepath.Join(name, "x")).Send(t.Context(), one); err == nil {
		t.Error("no error for a file that can't be")
	}
	var b bytes.Buffer
	if err := (Lines{&b}).Send(t.Context(), one); err != nil || b.String() != line(one) {
		t.Errorf("%q, %v", &b, err)
	}
}

// FuzzParseSecret: a secret has one spelling.
func FuzzParseSecret(f *testing.F) {
	f.Add(secretText)
	f.Add("whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 25)))
	f.Add(secretText[:20] + "\n" + secretText[20:])
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSecret(text)
		if err != nil {
			return
		}
		if got := "whsec_" + base64.StdEncoding.EncodeToString(s.key); got != text || len(s.key) < minSecret || len(s.key) > maxSecret {
			t.Errorf("%q is read as %q", text, got)
		}
	})
}
