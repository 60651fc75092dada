package inference

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/quote"
	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	"github.com/affidavit-log/affidavit/log/record"
)

// lab is a log, a session that is served, and a model server.
type lab struct {
	*sessiontest.Log
	t       testing.TB
	session *session.Session
	cfg     Config
	model   func(w http.ResponseWriter, r *http.Request)
}

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{Log: sessiontest.New(t), t: t}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.model(w, r) }))
	t.Cleanup(server.Close)
	up, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir := sessiontest.Memory(t)
	config := func(v *bundletest.Vendor) session.Config {
		return session.Config{
			Log: l.Client(), Quotes: quote.Sim(l.Platform, v.Quote()), AnyFileSystem: true, Vendor: v.ID, Dir: filepath.Join(dir, "session"),
			Environment: record.Environment{Release: v.Image, PersistentStorage: record.StorageNone},
			Now:         l.Time,
		}
	}
	sc := config(l.Vendor)
	if err := os.Mkdir(sc.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l.session, err = session.Start(context.Background(), sc, session.Options{
		Tenant: record.TenantPseudonym([]byte("key"), l.Origin, l.Vendor.ID, "2026-11"), TenantEpoch: "2026-11",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.session.Close() })
	weights := record.Digest(sha256.Sum256([]byte("weights")))
	gc := config(l.Gateway)
	gc.Environment.PersistentStorage = ""
	l.cfg = Config{
		Session: gc, Dir: filepath.Join(dir, "gateway"), Out: filepath.Join(dir, "out"), Upstream: up, Provider: "example",
		Channel: session.TLSChannel([]byte("gateway")), Weights: &weights, Interval: time.Hour, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	l.model = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"id":"chatcmpl-1","object":"chat.completion","model":"qwen3-coder","choices":[{"message":{"content":"SECRET answer"}}],"usage":{"prompt_tokens":11,"completion_tokens":7}}`)
	}
	return l
}

func (l *lab) open() *Proxy {
	l.t.Helper()
	p, err := Open(l.cfg)
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

const question = `{"model":"qwen3","messages":[{"role":"user","content":"SECRET question"}]}`

func (l *lab) request(base, path, body string, named bool) *http.Request {
	r, err := http.NewRequest("POST", base+path, strings.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer model-token")
	if named {
		ref := l.session.StartRef()
		r.Header.Set(HeaderSession, l.session.ID().String())
		r.Header.Set(HeaderStart, hex.EncodeToString(ref.Statement[:]))
		r.Header.Set(HeaderKey, l.session.Key().KeyID)
	}
	return r
}

func (l *lab) do(r *http.Request) (int, string) {
	l.t.Helper()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// calls reads the private file of the only run.
func (l *lab) calls() (all []*record.Action, h *session.FileHeader) {
	l.t.Helper()
	files, _ := filepath.Glob(filepath.Join(l.cfg.Out, "*.session"))
	if len(files) != 1 {
		l.t.Fatalf("files %v, want one", files)
	}
	f, err := os.Open(files[0])
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	rd, err := session.NewReader(f)
	if err != nil {
		l.t.Fatal(err)
	}
	for {
		d, a, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return all, rd.Header()
		} else if err != nil {
			l.t.Fatal(err)
		}
		if strings.Contains(string(d.Document), "SECRET") {
			l.t.Errorf("content in the clear: %s", d.Document)
		}
		for _, c := range d.Contents {
			want := question
			if c.Name == session.ContentResult {
				want = ""
			}
			if want != "" && session.VerifyContent(a, c.Name, c.Salt, []byte(want)) != nil {
				l.t.Errorf("%s isn't the salted digest of what was sent", c.Name)
			}
		}
		all = append(all, a)
	}
}

// A record for an interval links with the session that it served, and both together are allowed
// by a policy that asks for models in a trusted execution environment.
func TestInterval(t *testing.T) {
	l := newLab(t)
	var auth, leaked string
	model := l.model
	l.model = func(w http.ResponseWriter, r *http.Request) {
		auth, leaked = r.Header.Get("Authorization"), r.Header.Get(HeaderSession)
		if b, _ := io.ReadAll(r.Body); string(b) != question {
			t.Errorf("the model got %s", b)
		}
		model(w, r)
	}
	p := l.open()
	srv := httptest.NewServer(p)
	defer srv.Close()
	for i := range 3 {
		if code, body := l.do(l.request(srv.URL, "/v1/chat/completions", question, i < 2)); code != 200 || !strings.Contains(body, "SECRET answer") {
			t.Fatalf("status %d: %s", code, body)
		}
	}
	if auth != "Bearer model-token" || leaked != "" {
		t.Errorf("the model got authorization %q, session %q", auth, leaked)
	}
	p.Flush()
	sessiontest.Until(t, "the record is logged", func() bool { _, n := p.Counts(); return n == 1 })
	r, err := http.Get(srv.URL + "/.affidavit/sessions/" + l.session.ID().String())
	if err != nil {
		t.Fatal(err)
	}
	var runs struct{ Runs []RunInfo }
	if err := json.NewDecoder(r.Body).Decode(&runs); err != nil || len(runs.Runs) != 1 {
		t.Fatalf("runs %+v, %v", runs, err)
	}
	r.Body.Close()
	info := runs.Runs[0]
	if info.Calls != 2 || info.RequestModel != "qwen3" || info.ResponseModel != "qwen3-coder" {
		t.Errorf("run %+v", info)
	}
	statement, err := hex.DecodeString(info.Statement)
	if err != nil {
		t.Fatal(err)
	}
	d := record.Digest(statement)
	err = l.session.ModelRun(record.Model{
		Provider: info.Provider, RequestModel: info.RequestModel, ResponseModel: info.ResponseModel, Calls: info.Calls,
		Execution: record.ExecutionTEE, Channel: l.cfg.Channel, ModelRun: &d,
	})
	if err != nil {
		t.Fatal(err)
	}
	result, err := l.session.Finish(context.Background(), session.FinishOptions{
		Retention:       record.Retention{Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage"}},
		WorkspaceErased: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := bundle.Check(result.Bundle, l.Options())
	if err != nil {
		t.Fatal(err)
	}
	for _, refusal := range f.Refusals {
		t.Errorf("refused: %v", refusal)
	}
	calls, h := l.calls()
	if len(calls) != 3 || h.Served.Size != 1 {
		t.Fatalf("%d calls of %d sessions, want 3 of 1", len(calls), h.Served.Size)
	}
	a := calls[0].Attributes
	if a["gen_ai.usage.input_tokens"] != int64(11) || a["gen_ai.usage.output_tokens"] != int64(7) || a["gen_ai.response.id"] != "chatcmpl-1" || a["http.response.status_code"] != int64(200) {
		t.Errorf("attributes %v", a)
	}
	if calls[0].Session != l.session.ID() || calls[2].Session == l.session.ID() {
		t.Errorf("sessions %s and %s", calls[0].Session, calls[2].Session)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(l.cfg.Dir, "journals")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestPerCall(t *testing.T) {
	l := newLab(t)
	l.cfg.Interval = 0
	p := l.open()
	srv := httptest.NewServer(p)
	defer srv.Close()
	if code, body := l.do(l.request(srv.URL, "/v1/chat/completions", question, true)); code != 200 {
		t.Fatalf("status %d: %s", code, body)
	}
	sessiontest.Until(t, "the record is logged", func() bool { _, n := p.Counts(); return n == 1 })
	if code, _ := l.do(l.request(srv.URL, "/v1/chat/completions", question, false)); code != 200 {
		t.Errorf("a call of nobody's: status %d", code)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if calls, _ := l.calls(); len(calls) != 1 || calls[0].Session != l.session.ID() {
		t.Errorf("calls %v", calls)
	}
}

// The parts of a stream arrive as they are sent, and the whole is recorded.
func TestStream(t *testing.T) {
	l := newLab(t)
	next := make(chan bool)
	l.model = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: {\"id\":\"s1\",\"model\":\"qwen3-coder\",\"choices\":[{\"delta\":{\"content\":\"SECRET %d\"}}]}\n\n", i)
			w.(http.Flusher).Flush()
			<-next
		}
		io.WriteString(w, "data: {\"id\":\"s1\",\"model\":\"qwen3-coder\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n")
	}
	p := l.open()
	srv := httptest.NewServer(p)
	defer srv.Close()
	resp, err := http.DefaultClient.Do(l.request(srv.URL, "/v1/chat/completions", question, true))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := b.ReadString('\n') // it would wait for ever if the proxy kept parts back
		if err != nil || !strings.Contains(line, fmt.Sprint("SECRET ", i)) {
			t.Fatalf("part %d: %q, %v", i, line, err)
		}
		b.ReadString('\n')
		next <- true
	}
	if _, err := io.ReadAll(b); err != nil {
		t.Fatal(err)
	}
	// Whoever has the end of the answer has an answer that is recorded.
	if n, _ := p.Counts(); n != 1 {
		t.Errorf("%d calls are recorded at the end of the answer", n)
	}
	p.Flush()
	sessiontest.Until(t, "the record is logged", func() bool { _, n := p.Counts(); return n == 1 })
	p.Close()
	calls, _ := l.calls()
	if a := calls[0].Attributes; a["gen_ai.usage.output_tokens"] != int64(3) || a["gen_ai.response.model"] != "qwen3-coder" || calls[0].Outcome != record.OutcomeExecuted {
		t.Errorf("attributes %v", a)
	}
}

// Calls that fail are calls, too; and a run that a process left behind is logged by the next.
func TestFailuresAndRestart(t *testing.T) {
	l := newLab(t)
	l.model = func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/embeddings":
			http.Error(w, "no", http.StatusTooManyRequests)
		case "/v1/completions":
			http.Error(w, "slow", http.StatusGatewayTimeout)
		default:
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
			panic(http.ErrAbortHandler)
		}
	}
	p := l.open()
	srv := httptest.NewServer(p)
	for _, path := range []string{"/v1/embeddings", "/v1/completions", "/v1/chat/completions"} {
		resp, err := http.DefaultClient.Do(l.request(srv.URL, path, question, true))
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	sessiontest.Until(t, "the calls are recorded", func() bool { n, _ := p.Counts(); return n == 3 })
	for _, h := range []string{HeaderSession, HeaderStart, HeaderKey} {
		r := l.request(srv.URL, "/v1/chat/completions", question, true)
		r.Header.Set(h, "nonsense")
		if code, _ := l.do(r); code != http.StatusBadRequest {
			t.Errorf("%s: nonsense: status %d", h, code)
		}
	}
	r := l.request(srv.URL, "/v1/chat/completions", "", true)
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("")), maxRequest+1
	if resp, err := http.DefaultTransport.RoundTrip(r); err == nil {
		if resp.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("too large: status %d", resp.StatusCode)
		}
		resp.Body.Close()
	}
	srv.Close()
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	p = l.open()
	sessiontest.Until(t, "the record is logged", func() bool { _, n := p.Counts(); return n == 1 })
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	calls, _ := l.calls()
	var got []string
	for _, a := range calls {
		got = append(got, fmt.Sprint(a.Attributes[record.AttrOperationName], " ", a.Outcome))
	}
	if want := "[embeddings errored text_completion timed_out chat errored]"; fmt.Sprint(got) != want {
		t.Errorf("calls %v, want %s", got, want)
	}
}
