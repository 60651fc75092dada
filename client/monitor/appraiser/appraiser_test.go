package appraiser

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/witness"
)

const testName = "monitor.test/appraiser"

// A standIn is a source that says what the test tells it to about a log that lies in memory.
type standIn struct {
	log *bundletest.Log

	mu       sync.Mutex
	size     uint64
	note     []byte
	grown    chan struct{} // closed and replaced when the size grows
	disputes []Dispute
	err      error // of Disputes
	waits    atomic.Int64
}

func newStandIn(l *bundletest.Log) *standIn { return &standIn{log: l, grown: make(chan struct{})} }

// verify makes the first size leaves verified, as published by note, with more disputes.
func (s *standIn) verify(size uint64, more ...Dispute) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size, s.note = size, s.log.Sign(s.log.Head(size), time.Unix(1_800_000_000, 0))
	s.disputes = append(s.disputes, more...)
	close(s.grown)
	s.grown = make(chan struct{})
}

func (s *standIn) Verified() (uint64, [32]byte, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size, s.log.Head(s.size).Root, s.note
}

func (s *standIn) RootAt(size uint64) ([32]byte, error) {
	if n, _, _ := s.Verified(); size > n {
		return [32]byte{}, fmt.Errorf("size %d of %d", size, n)
	}
	return s.log.Head(size).Root, nil
}

func (s *standIn) Consistency(from, to uint64) ([][32]byte, error) {
	return s.log.Consistency(from, s.log.Sign(s.log.Head(to), time.Now())), nil
}

func (s *standIn) WaitVerified(ctx context.Context, size uint64) error {
	s.waits.Add(1)
	defer s.waits.Add(-1)
	for {
		s.mu.Lock()
		n, grown := s.size, s.grown
		s.mu.Unlock()
		if n >= size {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Disputes has pages of two.
func (s *standIn) Disputes(cursor uint64) ([]Dispute, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, 0, s.err
	}
	end := min(cursor+2, uint64(len(s.disputes)))
	return s.disputes[cursor:end], end, nil
}

// dispute returns a dispute about a leaf of l.
func dispute(l *bundletest.Log, index uint64, reason string) Dispute {
	return Dispute{Index: index, LeafHash: record.LeafHash(l.Leaf(index)), Reason: reason}
}

// A harness is an appraiser of a log in memory.
type harness struct {
	t    *testing.T
	log  *bundletest.Log
	src  *standIn
	cfg  Config
	a    *Appraiser
	url  string
	keys []*checkpoint.SigningKey
	size uint64 // that it has cosigned
}

func newHarness(t *testing.T, leaves int, edit ...func(*Config)) *harness {
	t.Helper()
	h := &harness{t: t, log: bundletest.NewLog(t, bundletest.LogOptions{Origin: testOrigin, MLDSA: true, Witnesses: 1})}
	h.grow(leaves)
	h.src = newStandIn(h.log)
	for _, kind := range []checkpoint.Kind{checkpoint.CosignatureEd25519, checkpoint.CosignatureMLDSA44} {
		h.keys = append(h.keys, bundletest.Key(t, kind, testName))
	}
	h.cfg = Config{Source: h.src, Wait: 20 * time.Millisecond, disputeRetry: time.Second,
		Witness: witness.Config{Name: testName, Keys: h.keys, State: filepath.Join(t.TempDir(), "state.db"), Init: true}}
	for _, k := range h.log.Keys {
		h.cfg.Witness.Logs = append(h.cfg.Witness.Logs, witness.Log{Origin: testOrigin, Key: k.Verifier()})
	}
	for _, e := range edit {
		e(&h.cfg)
	}
	h.open()
	return h
}

func (h *harness) grow(n int) {
	for range n {
		h.log.Append(fmt.Appendf(nil, "leaf %d", h.log.Size()))
	}
}

// open opens the appraiser, again if it is open.
func (h *harness) open() {
	h.t.Helper()
	if h.a != nil {
		if err := h.a.Close(); err != nil {
			h.t.Fatal(err)
		}
		h.cfg.Witness.Init = false
	}
	var err error
	if h.a, err = Open(h.cfg); err != nil {
		h.t.Fatal(err)
	}
	srv := httptest.NewServer(h.a.Handler())
	h.t.Cleanup(func() { srv.Close(); h.a.Close() })
	h.url = srv.URL
}

// ask asks for a cosignature of a note, and returns the status, the body and the header.
func (h *harness) ask(old uint64, proof [][32]byte, note []byte) (int, string, http.Header) {
	h.t.Helper()
	body := fmt.Appendf(nil, "old %d\n", old)
	for _, p := range proof {
		body = fmt.Appendf(body, "%s\n", base64.StdEncoding.EncodeToString(p[:]))
	}
	body = append(append(body, '\n'), note...)
	resp, err := http.Post(h.url+"/add-checkpoint", "text/plain", bytes.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

// want asks for the tree of the given size, and checks the status and the answer.
func (h *harness) want(size uint64, status int, contains string) http.Header {
	h.t.Helper()
	note := h.log.Sign(h.log.Head(size), time.Unix(1_800_000_000, 0))
	got, body, header := h.ask(h.size, h.log.Consistency(h.size, note), note)
	if got != status || !strings.Contains(body, contains) {
		h.t.Errorf("size %d: status %d, %q; want %d and %q", size, got, body, status, contains)
		return header
	}
	if status != 200 {
		return header
	}
	h.size = size
	sigs, err := checkpoint.ParseSignatures([]byte(body))
	if err != nil || len(sigs) != len(h.keys) {
		h.t.Fatalf("%q: %d signatures, %v", body, len(sigs), err)
	}
	for i, k := range h.keys {
		if at, err := k.Verifier().Verify(h.log.Head(size).Text(), sigs[i]); err != nil || at == 0 {
			h.t.Errorf("signature %d: at %d, %v", i, at, err)
		}
	}
	return header
}

func (h *harness) get(path string) (int, string) {
	h.t.Helper()
	resp, err := http.Get(h.url + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// It cosigns what is verified, and nothing before; a restart changes nothing of that.
func TestAppraise(t *testing.T) {
	h := newHarness(t, 40)
	h.want(5, 503, "verified 0 of 5 entries")
	h.src.verify(10)
	if ra := h.want(11, 503, "verified 10 of 11 entries").Get("Retry-After"); ra != "1" {
		t.Errorf("Retry-After %q", ra)
	}
	h.want(7, 200, "") // an earlier tree of what is verified, which was published too
	h.want(10, 200, "")
	h.want(10, 200, "")
	h.open()
	h.want(11, 503, "")
	h.src.verify(40)
	h.want(40, 200, "")
	if status, body, _ := h.ask(0, nil, h.log.Sign(h.log.Head(3), time.Now())); status != 409 || body != "40\n" {
		t.Errorf("back to 3: %d %q", status, body)
	}
	if status, body := h.get("/"); status != 200 || !strings.Contains(body, "verified every entry") || !strings.Contains(body, h.a.exceptionsPath()) {
		t.Errorf("page: %d %s", status, body)
	}
	if status, body := h.get(h.a.exceptionsPath()); status != 200 || body != header {
		t.Errorf("exceptions: %d %q", status, body)
	}
}

// How far behind it is tells when to come again, within bounds.
func TestRetryAfter(t *testing.T) {
	for _, tt := range []struct {
		size, want uint64
		after      time.Duration
	}{{10, 11, 0}, {0, 40_000, 10 * time.Second}, {0, 1 << 62, time.Minute}} {
		var d *witness.DeferError
		if err := later(tt.size, tt.want); !errors.As(err, &d) || d.RetryAfter != tt.after {
			t.Errorf("%d of %d: %v", tt.size, tt.want, d.RetryAfter)
		}
	}
}

// A request for a tree that is about to be verified waits for it, for a bounded time, and so do only so many.
func TestWait(t *testing.T) {
	h := newHarness(t, 40, func(c *Config) { c.Wait = time.Minute })
	done := make(chan struct{})
	go func() { defer close(done); h.want(20, 200, "") }()
	for h.src.waits.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	h.src.verify(20)
	<-done

	// Strangers can take all places; what is verified is cosigned nevertheless.
	ctx, cancel := context.WithCancel(t.Context())
	note := h.log.Sign(h.log.Head(40), time.Now())
	var wg sync.WaitGroup
	for range maxWaiting {
		wg.Go(func() {
			body := "old 20\n"
			for _, p := range h.log.Consistency(20, note) {
				body += base64.StdEncoding.EncodeToString(p[:]) + "\n"
			}
			req, err := http.NewRequestWithContext(ctx, "POST", h.url+"/add-checkpoint", strings.NewReader(body+"\n"+string(note)))
			if err != nil {
				t.Error(err)
				return
			}
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	for h.src.waits.Load() < maxWaiting {
		time.Sleep(time.Millisecond)
	}
	h.want(30, 503, "verified 20 of 30 entries")
	h.want(20, 200, "")
	cancel()
	wg.Wait()
	for h.src.waits.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	h.src.verify(40)
	h.want(40, 200, "")
}

// A disputed entry stops it until it is excepted, by index and leaf hash, and the exception is public and stays.
func TestDispute(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exceptions")
	tick := time.Now()
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(header+s), 0o644); err != nil {
			t.Fatal(err)
		}
		tick = tick.Add(time.Second)
		if err := os.Chtimes(file, tick, tick); err != nil {
			t.Fatal(err)
		}
	}
	write("")
	h := newHarness(t, 40, func(c *Config) { c.ExceptionsFile = file })
	h.src.verify(30, dispute(h.log, 25, "its quote is forged"), dispute(h.log, 12, "a leaf that isn't one"), dispute(h.log, 28, "late"))
	h.want(12, 200, "") // doesn't hold it
	if ra := h.want(13, 503, "entry 12 is disputed and not excepted: a leaf that isn't one").Get("Retry-After"); ra != "1" {
		t.Errorf("Retry-After %q", ra)
	}
	h.want(30, 503, "entry 12")
	if d := h.a.Blocked(); d == nil || d.Index != 12 {
		t.Errorf("blocked by %+v", d)
	}
	h.open()
	h.want(30, 503, "entry 12")

	line := func(index uint64, hash [32]byte) string {
		return fmt.Sprintf("exception %d %x 2026-11-24 looked into, see ticket %d\n", index, hash, index)
	}
	wrong := line(12, dispute(h.log, 13, "").LeafHash)
	write(wrong)
	h.want(13, 503, "entry 12")
	right := wrong + line(12, dispute(h.log, 12, "").LeafHash)
	write(right)
	h.want(25, 200, "")
	if d := h.a.Blocked(); d != nil {
		t.Errorf("blocked by %+v", d)
	}
	h.want(30, 503, "entry 25")
	right += line(25, dispute(h.log, 25, "").LeafHash) + line(28, dispute(h.log, 28, "").LeafHash)
	write(right)
	if status, body := h.get(h.a.exceptionsPath()); status != 200 || body != header+right {
		t.Errorf("exceptions: %d %q", status, body)
	}
	h.want(30, 200, "")

	// Taken back, they hold and are shown; also without the file.
	write("")
	h.src.verify(35)
	h.want(35, 200, "")
	if _, body := h.get(h.a.exceptionsPath()); body != header+right {
		t.Errorf("exceptions %q", body)
	}
	h.cfg.ExceptionsFile = ""
	h.open()
	h.want(35, 200, "")
	if _, body := h.get(h.a.exceptionsPath()); body != header+right {
		t.Errorf("exceptions without the file %q", body)
	}

	// What isn't known isn't approved.
	h.src.mu.Lock()
	h.src.err = errors.New("the database is gone")
	h.src.mu.Unlock()
	h.want(35, 500, "internal error")
}

// However many disputes there are, a bounded number is held, and all must be excepted.
func TestManyDisputes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exceptions")
	text := header
	n := maxPending + 50
	h := newHarness(t, n+10)
	for i := range uint64(n) {
		d := dispute(h.log, i, "bad")
		h.src.disputes = append(h.src.disputes, d)
		if i != uint64(n)-1 {
			text += fmt.Sprintf("exception %d %x 2026-11-24 x\n", i, d.LeafHash)
		}
	}
	h.src.verify(uint64(n) + 5)
	h.want(uint64(n)+5, 503, "entry 0 ")
	if p := len(h.a.pending); p < maxPending || p > maxPending+2 {
		t.Errorf("%d pending", p)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	h.cfg.ExceptionsFile = file
	h.open()
	h.want(uint64(n)+5, 503, fmt.Sprintf("entry %d ", n-1))
	h.want(uint64(n)-1, 200, "")
}

// A checkpoint that isn't of the published tree is evidence that the log forked, whether or not the appraiser has
// cosigned it.
func TestFork(t *testing.T) {
	h := newHarness(t, 30)
	h.src.verify(10)
	h.want(10, 200, "")
	h.src.verify(30)
	fork := bundletest.NewLog(t, bundletest.LogOptions{Origin: testOrigin, MLDSA: true, Witnesses: 1})
	for i := range uint64(25) {
		if i < 10 {
			fork.Append(h.log.Leaf(i))
		} else {
			fork.Append([]byte("another leaf"))
		}
	}
	at := time.Unix(1_800_000_000, 0)
	note := fork.Sign(fork.Head(25), at)
	proof := fork.Consistency(10, note)
	if status, body, _ := h.ask(10, proof, note); status != 422 || !strings.Contains(body, "another tree") {
		t.Errorf("%d %q", status, body)
	}
	path := strings.TrimSuffix(h.a.exceptionsPath(), "exceptions") + "evidence"
	status, e := h.get(path)
	root := h.log.Head(25).Root
	for _, want := range []string{string(h.src.note), "old 10\n", string(fork.Head(25).Text()), fmt.Sprintf("%x", root)} {
		if status != 200 || !strings.Contains(e, want) {
			t.Errorf("evidence, status %d, doesn't have %q:\n%s", status, want, e)
		}
	}
	// The proof in it is one.
	var hashes [][32]byte
	_, rest, _ := strings.Cut(e, "shows:\n\n")
	for l := range strings.Lines(rest) {
		var p []byte
		if _, err := fmt.Sscanf(l, "%x\n", &p); err != nil || len(p) != 32 {
			break
		}
		hashes = append(hashes, [32]byte(p))
	}
	if err := checkpoint.VerifyConsistency(root, h.log.Head(30).Root, 25, 30, hashes); err != nil {
		t.Errorf("%v: %d hashes", err, len(hashes))
	}
	// It goes on with the branch that it has verified, and knows a fork of what it has cosigned as any witness does.
	h.want(30, 200, "")
	other := fork.Sign(fork.Head(25), at)
	if status, _, _ := h.ask(25, nil, other); status != 409 {
		t.Errorf("status %d", status)
	}
	same := bundletest.NewLog(t, bundletest.LogOptions{Origin: testOrigin, MLDSA: true, Witnesses: 1})
	for range 30 {
		same.Append([]byte("x"))
	}
	if status, _, _ := h.ask(30, nil, same.Sign(same.Head(30), at)); status != 422 {
		t.Errorf("same size: status %d", status)
	}
	if _, e := h.get(path); strings.Count(e, "This log forked") != 2 {
		t.Errorf("evidence:\n%s", e)
	}
}

func TestOpen(t *testing.T) {
	h := newHarness(t, 1)
	for name, edit := range map[string]func(*Config){
		"a witness's name": func(c *Config) { c.Witness.Name = "monitor.test/w" },
		"no name but that": func(c *Config) { c.Witness.Name = NameSuffix },
		"keys of others":   func(c *Config) { c.Witness.Name = "other.test/appraiser" },
		"no log":           func(c *Config) { c.Witness.Logs = nil },
		"two logs": func(c *Config) {
			c.Witness.Logs = append(c.Witness.Logs, witness.Log{Origin: "b", Key: bundletest.Key(t, checkpoint.Ed25519, "b").Verifier()})
		},
		"log lists": func(c *Config) { c.Witness.LogLists = []string{"list"} },
		"approval": func(c *Config) {
			c.Witness.Approve = func(context.Context, checkpoint.Checkpoint, *checkpoint.Note) error { return nil }
		},
		"no source":     func(c *Config) { c.Source = nil },
		"no exceptions": func(c *Config) { c.ExceptionsFile = filepath.Join(t.TempDir(), "none") },
	} {
		c := h.cfg
		c.Witness.State = filepath.Join(t.TempDir(), "state.db")
		c.Witness.Logs = append([]witness.Log(nil), h.cfg.Witness.Logs...)
		edit(&c)
		if a, err := Open(c); err == nil {
			a.Close()
			t.Errorf("%s: opened", name)
		}
	}
}
