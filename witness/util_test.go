package witness

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

func testKey(t testing.TB, kind checkpoint.Kind, name string, seed uint64) *checkpoint.SigningKey {
	t.Helper()
	var s [32]byte
	copy(s[:], strconv.FormatUint(seed, 10))
	k, err := checkpoint.GenerateKey(kind, name, rand.NewChaCha8(s))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// testLog is a log; what it proves is computed by the Go project's sumdb/tlog,
// not by the code under test.
type testLog struct {
	t      testing.TB
	origin string
	key    *checkpoint.SigningKey
	size   int64
	hashes []tlog.Hash
}

func newTestLog(t testing.TB, origin string, size int64) *testLog {
	l := &testLog{t: t, origin: origin, key: testKey(t, checkpoint.Ed25519, origin, 1)}
	l.grow(size, "")
	return l
}

// grow appends n records; logs that grow with different salts fork.
func (l *testLog) grow(n int64, salt string) *testLog {
	for range n {
		hs, err := tlog.StoredHashesForRecordHash(l.size, tlog.RecordHash(fmt.Appendf(nil, "%s%d", salt, l.size)), l)
		if err != nil {
			l.t.Fatal(err)
		}
		l.hashes = append(l.hashes, hs...)
		l.size++
	}
	return l
}

// fork returns a log with the same first n records.
func (l *testLog) fork(n int64) *testLog {
	f := newTestLog(l.t, l.origin, n)
	f.key = l.key
	return f
}

func (l *testLog) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range indexes {
		out = append(out, l.hashes[i])
	}
	return out, nil
}

func (l *testLog) checkpoint(size int64) checkpoint.Checkpoint {
	c := checkpoint.Checkpoint{Origin: l.origin, Size: uint64(size), Root: checkpoint.EmptyRoot()}
	if size > 0 {
		h, err := tlog.TreeHash(size, l)
		if err != nil {
			l.t.Fatal(err)
		}
		c.Root = h
	}
	return c
}

func (l *testLog) proof(old, size int64) [][32]byte {
	if old == 0 || old == size {
		return nil
	}
	p, err := tlog.ProveTree(size, old, l)
	if err != nil {
		l.t.Fatal(err)
	}
	var out [][32]byte
	for _, h := range p {
		out = append(out, h)
	}
	return out
}

func (l *testLog) sign(text []byte, keys ...*checkpoint.SigningKey) []byte {
	if len(keys) == 0 {
		keys = []*checkpoint.SigningKey{l.key}
	}
	var lines [][]byte
	for _, k := range keys {
		line, err := k.Sign(text, time.Unix(1, 0))
		if err != nil {
			l.t.Fatal(err)
		}
		lines = append(lines, line)
	}
	n, err := checkpoint.Sign(text, lines...)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

func (l *testLog) note(size int64) []byte { return l.sign(l.checkpoint(size).Text()) }

// request is the body of add-checkpoint from old to size.
func (l *testLog) request(old, size int64) []byte {
	return requestBody(old, l.proof(old, size), l.note(size))
}

func requestBody(old int64, proof [][32]byte, note []byte) []byte {
	b := fmt.Appendf(nil, "old %d\n", old)
	for _, h := range proof {
		b = fmt.Appendf(b, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
	}
	b = append(b, '\n')
	return append(b, note...)
}

// testWitness is a witness with both kinds of keys, behind a server.
type testWitness struct {
	*Witness
	t      testing.TB
	url    string
	client *http.Client
	cfg    Config
	now    *atomic.Int64
	logged *bytes.Buffer
}

const testName = "witness.example/w1"

func testKeys(t testing.TB) []*checkpoint.SigningKey {
	return []*checkpoint.SigningKey{
		testKey(t, checkpoint.CosignatureEd25519, testName, 100),
		testKey(t, checkpoint.CosignatureMLDSA44, testName, 101),
	}
}

func testConfig(t testing.TB, logs ...*testLog) Config {
	c := Config{Name: testName, Keys: testKeys(t), State: filepath.Join(t.TempDir(), "state.db"), Init: true}
	for _, l := range logs {
		c.Logs = append(c.Logs, Log{Origin: l.origin, Key: l.key.Verifier()})
	}
	return c
}

func startWitness(t testing.TB, cfg Config) *testWitness {
	t.Helper()
	w := &testWitness{t: t, now: new(atomic.Int64), logged: new(bytes.Buffer)}
	w.now.Store(1700000000)
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return time.Unix(w.now.Load(), 0) }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(&lockedWriter{w: w.logged}, nil))
	}
	w.cfg = cfg
	var err error
	if w.Witness, err = Open(cfg); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(w.Handler())
	s.Start()
	w.url, w.client = s.URL, s.Client()
	t.Cleanup(func() {
		s.Close()
		w.Close()
	})
	return w
}

type lockedWriter struct {
	mu atomic.Bool
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	for !l.mu.CompareAndSwap(false, true) {
	}
	defer l.mu.Store(false)
	return l.w.Write(b)
}

// answer is what a call got.
type answer struct {
	status int
	header http.Header
	body   string
}

func (w *testWitness) do(method, path string, body []byte) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), method, w.url+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

func (w *testWitness) add(body []byte) answer {
	w.t.Helper()
	return w.do("POST", "/add-checkpoint", body)
}

// mustAdd adds a checkpoint and verifies the answer's cosignatures.
func (w *testWitness) mustAdd(l *testLog, old, size int64) string {
	w.t.Helper()
	a := w.add(l.request(old, size))
	if a.status != 200 {
		w.t.Fatalf("add %d to %d: status %d: %s", old, size, a.status, a.body)
	}
	verifyLines(w.t, w.cfg.Keys, l.checkpoint(size), a.body, w.cfg.Now().Unix())
	return a.body
}

// verifyLines checks that lines are exactly one cosignature by each key, at the
// time at (any if 0).
func verifyLines(t testing.TB, keys []*checkpoint.SigningKey, c checkpoint.Checkpoint, lines string, at int64) {
	t.Helper()
	sigs, err := checkpoint.ParseSignatures([]byte(lines))
	if err != nil {
		t.Fatal(err)
	}
	if len(sigs) != len(keys) {
		t.Fatalf("%d lines, want %d:\n%s", len(sigs), len(keys), lines)
	}
	for i, k := range keys {
		ts, err := k.Verifier().Verify(c.Text(), sigs[i])
		if err != nil || ts == 0 || at != 0 && ts != uint64(at) {
			t.Errorf("key %d: timestamp %d, %v", i, ts, err)
		}
	}
}

func (a answer) check(t testing.TB, what string, status int, contains string) {
	t.Helper()
	if a.status != status || !strings.Contains(a.body, contains) {
		t.Errorf("%s: status %d, body %.300q; want %d and %q", what, a.status, a.body, status, contains)
	}
}

func httpGet(t testing.TB, h http.Handler, path string) string {
	t.Helper()
	r := httptest.NewRecorder()
	h.ServeHTTP(r, httptest.NewRequest("GET", path, nil))
	if r.Code != 200 {
		t.Errorf("%s: status %d", path, r.Code)
	}
	return r.Body.String()
}

// root and subproof are the definitions of RFC 6962, section 2.1, and of
// draft-ietf-plants-merkle-tree-certs-03, section 4.4.1.
func root(leaves [][32]byte) [32]byte {
	if len(leaves) == 1 {
		return leaves[0]
	}
	k := half(len(leaves))
	return tlog.NodeHash(root(leaves[:k]), root(leaves[k:]))
}

func subproof(leaves [][32]byte, start, end int, known bool) [][32]byte {
	if start == 0 && end == len(leaves) {
		if known {
			return nil
		}
		return [][32]byte{root(leaves)}
	}
	k := half(len(leaves))
	switch {
	case end <= k:
		return append(subproof(leaves[:k], start, end, known), root(leaves[k:]))
	case k <= start:
		return append(subproof(leaves[k:], start-k, end-k, known), root(leaves[:k]))
	default:
		return append(subproof(leaves[k:], 0, end-k, false), root(leaves[:k]))
	}
}

func half(n int) int {
	k := 1
	for 2*k < n {
		k *= 2
	}
	return k
}

// clone returns a log with the same records and key.
func (l *testLog) clone() *testLog {
	c := *l
	c.hashes = slices.Clone(l.hashes)
	return &c
}

// truncate returns a log with l's first n records.
func (l *testLog) truncate(n int64) *testLog {
	c := *l
	c.size = n
	c.hashes = slices.Clone(l.hashes[:tlog.StoredHashCount(n)])
	return &c
}

func newLoopback(t testing.TB) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// fatalTB is a testing.TB for a process that isn't a test.
type fatalTB struct{ testing.TB }

func (*fatalTB) Helper()           {}
func (*fatalTB) Fatal(args ...any) { panic(fmt.Sprint(args...)) }
