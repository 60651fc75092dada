package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/session/quote"
	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// lab is a log over HTTP with a vendor whose TD is this process.
type lab struct {
	*sessiontest.Log
	t testing.TB
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return &lab{sessiontest.New(t), t}
}

func (l *lab) config() Config { return l.configIn(sessiontest.Memory(l.t)) }

func (l *lab) configIn(dir string) Config {
	l.t.Helper()
	return Config{
		Log: l.Client(), Quotes: quote.Sim(l.Platform, l.Vendor.Quote()), Dir: dir, AnyFileSystem: checkMemory(dir) != nil, Vendor: l.Vendor.ID,
		Environment: record.Environment{Release: l.Vendor.Image, PersistentStorage: record.StorageNone},
		Now:         l.Time,
		pause:       func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
}

func (l *lab) options() Options {
	challenge := sha256.Sum256([]byte("challenge"))
	return Options{
		Tenant: record.TenantPseudonym([]byte("key"), l.Origin, l.Vendor.ID, "2026-11"), TenantEpoch: "2026-11", Sequence: 7,
		Channels: []record.Channel{TLSChannel([]byte("spki")), HPKEChannel([]byte("key"))}, Challenge: &challenge,
	}
}

func (l *lab) start(c Config) *Session {
	l.t.Helper()
	s, err := Start(context.Background(), c, l.options())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { s.Close() })
	return s
}

// good are options under which the strictest policy allows a session.
var good = FinishOptions{
	Retention: record.Retention{
		Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage"},
	},
	WorkspaceErased: true,
}

// finish ends s, and checks that its bundle proves what it should.
func (l *lab) finish(s *Session, o FinishOptions) *Result {
	l.t.Helper()
	r, err := s.Finish(context.Background(), o)
	if err != nil {
		l.t.Fatal(err)
	}
	l.check(r)
	return r
}

func (l *lab) check(r *Result) *bundle.Finding {
	l.t.Helper()
	f, err := bundle.Check(r.Bundle, l.Options())
	if err != nil {
		l.t.Fatal(err)
	}
	for _, refusal := range f.Refusals {
		l.t.Errorf("refused: %v", refusal)
	}
	if *f.Subject.Statement != r.Ref.Statement || f.Subject.Index != r.Ref.Index || r.Ref.Origin != l.Origin {
		l.t.Errorf("bundle of %d %x, want %v", f.Subject.Index, *f.Subject.Statement, r.Ref)
	}
	return f
}

// ends returns the ends of sessions in the log.
func (l *lab) ends() (n int) {
	for i := range l.Size() {
		leaf, err := record.ParseLeaf(l.Leaf(i))
		if err != nil {
			continue
		}
		if r, ok := leaf.(*record.RecordLeaf); ok && (r.Entry.Statement().Session != nil || r.Entry.Statement().Abandoned != nil) {
			n++
		}
	}
	return n
}

func action(i int) Action {
	return Action{
		Outcome: []string{"", record.OutcomeBlocked, record.OutcomeErrored}[i%3],
		SpanID:  [8]byte{1, byte(i >> 8), byte(i)},
		Attributes: map[string]any{
			"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": fmt.Sprintf("tool_%d", i), "gen_ai.usage.input_tokens": i,
			"gen_ai.tool.call.arguments": fmt.Sprintf(`{"path":"secret-%d"}`, i), "gen_ai.request.temperature": 0.5,
			"gen_ai.response.finish_reasons": []string{"stop", "ein \"Zitat\" ✓"}, "server.ok": true,
		},
		Result: fmt.Appendf(nil, "result-%d", i),
	}
}

func mustAct(t testing.TB, s *Session, n int) {
	t.Helper()
	for range n {
		want := s.Count()
		if i, err := s.Action(action(int(want))); err != nil || i != want {
			t.Fatalf("action %d: got index %d, %v", want, i, err)
		}
	}
}

func ownersFile(t testing.TB, s interface{ WriteFile(io.Writer) error }) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.WriteFile(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestSession is a session from its start to a disclosure of one action, as a vendor and its customer have it.
func TestSession(t *testing.T) {
	l := newLab(t)
	c := l.config()
	egress, events := sha256.Sum256([]byte("egress")), sha256.Sum256([]byte("events"))
	c.Environment.EgressPolicy = &egress
	s := l.start(c)
	sb, err := s.StartBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if f, err := bundle.Check(sb, l.Options()); err != nil || !f.Allowed() || f.Subject.Role != bundle.RoleStart {
		t.Fatalf("start: %v, %v", f, err)
	}
	mustAct(t, s, 5)
	if first, err := s.Actions([]Action{action(5), action(6)}); err != nil || first != 5 {
		t.Fatalf("got %d, %v", first, err)
	}
	m := record.Model{Provider: "p", RequestModel: "m", Calls: 3, Execution: record.ExecutionTEE, Channel: TLSChannel([]byte("model"))}
	m.Execution = record.ExecutionPolicyZDR
	for range 2 {
		if err := s.ModelRun(m); err != nil {
			t.Fatal(err)
		}
	}
	o := good
	o.Commit, o.EventLog, o.EndReason = strings.Repeat("ab", 20), &events, record.EndTimeout
	r, err := s.Finish(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	f, err := bundle.Check(r.Bundle, l.Options())
	if err != nil {
		t.Fatal(err)
	}
	if f.Allowed() || f.Refusals[0].Code != verifier.CodeModelExecution {
		t.Errorf("a session with a model in no TEE: refusals %v", f.Refusals)
	}
	st := f.Subject.Entry().Statement().Session
	start := f.Leaves[slices.IndexFunc(f.Leaves, func(l *bundle.Leaf) bool { return l.Role == bundle.RoleStart })]
	if got := start.Entry().Statement().Start; *got.Challenge != *l.options().Challenge || !slices.Equal(got.Channels, l.options().Channels) || got.Sequence != 7 {
		t.Errorf("start %+v", got)
	}
	if len(st.Models) != 1 || st.Models[0].Calls != 6 || *st.Environment.EventLog != events || *st.Environment.EgressPolicy != egress ||
		st.EndReason != record.EndTimeout || !st.WorkspaceErased || st.Sequence != 7 {
		t.Errorf("final %+v", st)
	}
	if st.Actions.Size != 7 || st.Actions.Counts["execute_tool"] != 7 || st.Actions.Outcomes["blocked"] != 2 || st.Actions.Outcomes["executed"] != 3 {
		t.Errorf("actions %+v", st.Actions)
	}
	if _, err := s.Action(action(7)); !errors.Is(err, ErrEnded) {
		t.Errorf("action after the end: %v", err)
	}
	if err := s.ModelRun(m); !errors.Is(err, ErrEnded) {
		t.Errorf("model after the end: %v", err)
	}
	if _, err := s.Abandon(t.Context(), record.AbandonedUnused); !errors.Is(err, ErrEnded) {
		t.Errorf("abandoned after the end: %v", err)
	}
	again, err := s.Finish(t.Context(), FinishOptions{})
	if err != nil || again.Ref != r.Ref || l.ends() != 1 {
		t.Errorf("finished again: %v, %v, %d ends in the log", again, err, l.ends())
	}

	file := ownersFile(t, s)
	if bytes.Contains(file, []byte("secret")) || bytes.Contains(file, []byte("result-")) {
		t.Error("content in clear")
	}
	fr, err := NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	h := fr.Header()
	commitment := sha256.Sum256(append(h.CommitSalt[:], h.Commit...))
	if *h.End != r.Ref || *h.Start != s.StartRef() || h.Documents != st.Actions.Tree || h.Commit != o.Commit || commitment != *st.OutputCommit {
		t.Errorf("header %+v", h)
	}
	var salts []Content
	for range 4 {
		d, _, err := fr.Next()
		if err != nil {
			t.Fatal(err)
		}
		salts = d.Contents
	}
	ds, err := Disclose(bytes.NewReader(file), func(a *record.Action) bool { return a.Index == 3 })
	if err != nil || len(ds) != 1 {
		t.Fatal(ds, err)
	}
	// The disclosure reveals no arguments, and their owner can still show what they were.
	d, err := record.ParseDisclosure(ds[0].JSON())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.VerifySession(st); err != nil {
		t.Error(err)
	}
	if len(salts) != 2 || salts[0].Name != ContentArguments || salts[1].Name != ContentResult {
		t.Fatalf("contents %+v", salts)
	}
	if err := VerifyContent(d.Action, ContentArguments, salts[0].Salt, []byte(`{"path":"secret-3"}`)); err != nil {
		t.Error(err)
	}
	if err := VerifyContent(d.Action, ContentArguments, salts[0].Salt, []byte(`{"path":"secret-4"}`)); err == nil {
		t.Error("other arguments verify")
	}
	if err := VerifyContent(d.Action, "gen_ai.input.messages", salts[0].Salt, nil); err == nil {
		t.Error("content verifies that the action doesn't have")
	}

	dir := s.l.dir()
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Remove: %v", err)
	}
}

func TestKeepContent(t *testing.T) {
	l := newLab(t)
	c := l.config()
	c.KeepContent, c.Content = true, []string{"vendor.prompt"}
	s := l.start(c)
	a := action(1)
	a.Attributes["vendor.prompt"] = "what people write"
	a.Attributes["gen_ai.input.messages"] = []string{"one", "two"}
	if _, err := s.Action(a); err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(bytes.NewReader(ownersFile(t, s)))
	if err != nil {
		t.Fatal(err)
	}
	d, act, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range d.Contents {
		got[c.Name] = string(c.Bytes)
	}
	want := map[string]string{
		"arguments": `{"path":"secret-1"}`, "result": "result-1", "vendor.prompt": "what people write", "gen_ai.input.messages": `["one","two"]`,
	}
	if !maps.Equal(got, want) {
		t.Errorf("kept %q", got)
	}
	for _, secret := range want {
		if bytes.Contains(d.Document, []byte(secret)) {
			t.Errorf("the document has %q in clear", secret)
		}
	}
	if _, ok := act.Attributes["vendor.prompt.sha256"]; !ok {
		t.Errorf("attributes %v", act.Attributes)
	}
}

// TestEncoder compares documents with record's own, and what is refused with what record refuses.
func TestEncoder(t *testing.T) {
	id := record.SessionID{1, 2, 3}
	now := time.Date(2026, 11, 24, 7, 0, 0, 999, time.FixedZone("", 3600))
	var e encoder
	rnd := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "a.b", "gen_ai.tool.name", "x_1.y", "A", "a..b", "a.", ".a", "", "é", strings.Repeat("a", 255), strings.Repeat("a", 256)}
	values := []any{"s", "", "\"quoted\\ ✓ \u2028 \x7f\n", "bad \xff", strings.Repeat("x", 8192), strings.Repeat("x", 8193), int64(5), int64(-1 << 53), int64(1<<53 + 1),
		true, false, []string{"a", "b"}, []string{}, []string{""}, slices.Repeat([]string{"a"}, 64), slices.Repeat([]string{"a"}, 65), struct{}{}, nil}
	operations := []any{"chat", "execute_tool", "", "Chat", 5, nil, "a b"}
	outcomes := []string{record.OutcomeExecuted, record.OutcomeBlocked, record.OutcomeDenied, record.OutcomeErrored, record.OutcomeTimedOut, "other"}
	accepted := 0
	for range 4000 {
		pick := func(n int) int { // mostly what is fine
			if rnd.IntN(8) > 0 {
				return rnd.IntN(min(n, 4))
			}
			return rnd.IntN(n)
		}
		a := Action{Time: now, TraceID: [16]byte{9}, SpanID: [8]byte{8}, Outcome: outcomes[pick(len(outcomes))], Attributes: map[string]any{}}
		for range rnd.IntN(4) {
			v := values[rnd.IntN(len(values))]
			if rnd.IntN(4) > 0 {
				v = "fine"
			}
			a.Attributes[names[pick(len(names))]] = v
		}
		if rnd.IntN(40) == 0 {
			for i := range 127 + rnd.IntN(3) {
				a.Attributes[fmt.Sprintf("n%d", i)] = true
			}
		}
		if rnd.IntN(20) == 0 {
			for i := range 9 {
				a.Attributes[fmt.Sprintf("long%d", i)] = strings.Repeat("x", 8192)
			}
		}
		a.Attributes[record.AttrOperationName] = operations[pick(len(operations))%2]
		if rnd.IntN(10) == 0 {
			a.Attributes[record.AttrOperationName] = operations[rnd.IntN(len(operations))]
		}
		if rnd.IntN(5) == 0 {
			a.Attributes[record.AttrConversationID] = []string{id.String(), "other"}[rnd.IntN(2)]
		}
		if rnd.IntN(2) == 0 {
			a.Policy = &record.Digest{7}
		}
		index := uint64(rnd.IntN(1000))
		want := &record.Action{Session: id, Index: index, Time: now, TraceID: a.TraceID, SpanID: a.SpanID, Outcome: a.Outcome, Policy: a.Policy, Attributes: a.Attributes}
		doc, wantErr := want.Marshal()
		b, leaf, _, _, err := e.append([]byte("before"), &a, id, index, now)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("got %v, record says %v, for %v", err, wantErr, a)
		}
		if err != nil {
			if !errors.Is(err, record.ErrMalformed) {
				t.Errorf("%v is not ErrMalformed", err)
			}
			continue
		}
		accepted++
		d, err := parseDocument(b[len("before"):])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(d.Document, doc) {
			t.Fatalf("got  %s\nwant %s", d.Document, doc)
		}
		if leaf != record.ActionLeaf(d.Salt, doc) {
			t.Fatal("wrong leaf hash")
		}
	}
	if accepted < 1000 || accepted > 3900 {
		t.Errorf("%d of 4000 accepted: the test is one-sided", accepted)
	}
	// With contents, the document is still one that record accepts.
	a := action(3)
	b, _, _, _, err := e.append(nil, &a, id, 3, now)
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseDocument(b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.check(&FileHeader{Session: &id}, 3); err != nil {
		t.Error(err)
	}
	for name, a := range map[string]Action{
		"digest twice": {Attributes: map[string]any{record.AttrOperationName: "chat", "gen_ai.prompt": "x", "gen_ai.prompt.sha256": "y"}},
		"year":         {Time: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), Attributes: map[string]any{record.AttrOperationName: "chat"}},
		"before 1970":  {Time: time.Unix(-1, 0), Attributes: map[string]any{record.AttrOperationName: "chat"}},
	} {
		if _, _, _, _, err := e.append(nil, &a, id, 0, now); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTree(t *testing.T) {
	var tr tree
	var leaves []record.Digest
	for n := range uint64(300) {
		want := record.Tree{Size: n, Root: record.ActionRoot(leaves)}
		if got := tr.tree(); got != want {
			t.Fatalf("size %d: got %v, want %v", n, got, want)
		}
		leaf := sha256.Sum256([]byte{byte(n), byte(n >> 8)})
		leaves = append(leaves, leaf)
		tr.add(leaf)
	}
	if len(tr.peaks) > 9 {
		t.Errorf("%d hashes are kept for 300 leaves", len(tr.peaks))
	}
}

func TestConfig(t *testing.T) {
	l := newLab(t)
	for name, edit := range map[string]func(*Config){
		"no log": func(c *Config) { c.Log = nil }, "no quotes": func(c *Config) { c.Quotes = nil }, "no directory": func(c *Config) { c.Dir = "" },
		"vendor":       func(c *Config) { c.Vendor = "vendor" },
		"content":      func(c *Config) { c.Content = []string{record.AttrOperationName} },
		"accelerators": func(c *Config) { c.Environment.Accelerators = []record.Accelerator{{}} },
		"disk":         func(c *Config) { c.Dir, c.AnyFileSystem = "/", false },
		"missing":      func(c *Config) { c.Dir += "/missing" },
	} {
		c := l.config()
		edit(&c)
		if s, err := Start(t.Context(), c, l.options()); err == nil {
			s.Remove()
			t.Errorf("%s: started", name)
		}
	}
	if err := checkMemory("/"); !errors.Is(err, ErrNotMemory) {
		t.Skipf("the root directory of this machine: %v", err)
	}
	if len(l.Adds) != 0 {
		t.Errorf("%d records were submitted", len(l.Adds))
	}
}

func TestAbandon(t *testing.T) {
	l := newLab(t)
	s := l.start(l.config())
	r, err := s.Abandon(t.Context(), record.AbandonedUnused)
	if err != nil {
		t.Fatal(err)
	}
	l.check(r)
	if _, err := s.Finish(t.Context(), good); !errors.Is(err, ErrEnded) {
		t.Errorf("finished after: %v", err)
	}
	if _, err := s.Action(action(0)); !errors.Is(err, ErrEnded) {
		t.Errorf("action after: %v", err)
	}
	again, err := s.Abandon(t.Context(), record.AbandonedLost)
	if err != nil || again.Ref != r.Ref || l.ends() != 1 {
		t.Errorf("again: %v, %v", again, err)
	}
}

// TestModelRun links a model run with a session, under the strictest policy.
func TestModelRun(t *testing.T) {
	l := newLab(t)
	s := l.start(l.config())
	gc := l.config()
	gc.Vendor, gc.Quotes = l.Gateway.ID, quote.Sim(l.Platform, l.Gateway.Quote())
	gc.Environment = record.Environment{Release: l.Gateway.Image}
	evidence := sha256.Sum256([]byte("gpu"))
	gc.Accelerators = func(_ context.Context, nonce record.Digest) ([]record.Accelerator, error) {
		return []record.Accelerator{{Count: 8, Evidence: evidence}}, nil
	}
	run, err := NewRun(gc)
	if err != nil {
		t.Fatal(err)
	}
	weights := sha256.Sum256([]byte("weights"))
	channel := TLSChannel([]byte("the gateway's key"))
	o := RunOptions{
		Provider: "gateway", RequestModel: "coder", ResponseModel: "coder-1", Weights: &weights, Channel: channel,
		Session: &record.ServedSession{ID: s.ID(), Statement: s.StartRef().Statement}, PeerKeyID: s.Key().KeyID,
	}
	for range 3 {
		if _, err := run.Call(s.ID(), Action{Attributes: map[string]any{record.AttrOperationName: "chat"}}); err != nil {
			t.Fatal(err)
		}
	}
	other := record.SessionID{5}
	for _, id := range []record.SessionID{other, s.ID(), other} {
		if err := run.Served(id, record.Digest{byte(id[0])}); err != nil {
			t.Fatal(err)
		}
	}
	id := run.ID()
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Resume(t.Context(), gc, id); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a run was resumed as a session: %v", err)
	}
	if run, err = ResumeRun(gc, id); err != nil {
		t.Fatal(err)
	}
	if _, runs, err := Journals(gc.Dir); err != nil || !slices.Equal(runs, []record.SessionID{id}) {
		t.Errorf("journals: %v, %v", runs, err)
	}
	if run.Count() != 3 {
		t.Errorf("%d calls after resuming", run.Count())
	}
	rr, err := run.Finish(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	m := rr.Entry.Statement().ModelRun
	if m.SessionsServed.Size != 2 || m.Calls.Size != 3 || m.Environment.Accelerators[0].Nonce != record.GPUNonce(run.Key().SPKI, m.Freshness.Note) {
		t.Errorf("model run %+v", m)
	}
	if err := s.ModelRun(Link(rr.Ref.Statement, o, 3, channel)); err != nil {
		t.Fatal(err)
	}
	mustAct(t, s, 1)
	l.finish(s, good) // fails if either side doesn't name the other

	file := ownersFile(t, run)
	p, err := ProveServed(bytes.NewReader(file), other)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Verify(*m.SessionsServed); err != nil {
		t.Error(err)
	}
	p.Start[0]++
	if err := p.Verify(*m.SessionsServed); err == nil {
		t.Error("another start verifies")
	}
	if _, err := ProveServed(bytes.NewReader(file), record.SessionID{6}); err == nil {
		t.Error("a session that was not served is proven")
	}
	if err := run.Served(record.SessionID{7}, record.Digest{}); !errors.Is(err, ErrEnded) {
		t.Errorf("served after the end: %v", err)
	}

	// A run that names many sessions, and none of them in clear.
	many, err := NewRun(gc)
	if err != nil {
		t.Fatal(err)
	}
	o.Session, o.PeerKeyID = nil, ""
	if _, err := many.Finish(t.Context(), o); err == nil {
		t.Error("a run without a session is logged")
	}
	if err := many.Served(s.ID(), s.StartRef().Statement); err != nil {
		t.Fatal(err)
	}
	mr, err := many.Finish(t.Context(), o)
	if err != nil || bytes.Contains(mr.Entry.Payload, []byte(s.ID().String())) {
		t.Errorf("got %v", err)
	}
}

// TestModelsFit: a session can't use so many models that it could not be finished.
func TestModelsFit(t *testing.T) {
	l := newLab(t)
	s := l.start(l.config())
	n := 0
	for {
		m := record.Model{Provider: "p", RequestModel: fmt.Sprintf("%d %s", n, strings.Repeat("m", 200)), Calls: 1 << 52, Execution: record.ExecutionPolicyZDR, Channel: TLSChannel([]byte("model"))}
		if err := s.ModelRun(m); err != nil {
			if !errors.Is(err, record.ErrTooLarge) {
				t.Error(err)
			}
			break
		}
		n++
	}
	many := make([]record.Model, 65)
	for i := range many {
		many[i] = record.Model{Provider: "p", RequestModel: fmt.Sprint(i), Execution: record.ExecutionUnattested, Channel: TLSChannel(nil)}
	}
	if err := s.SetModels(many); !errors.Is(err, record.ErrTooLarge) {
		t.Errorf("65 models: %v", err)
	}
	if err := s.ModelRun(record.Model{Provider: "\n"}); !errors.Is(err, record.ErrMalformed) {
		t.Errorf("got %v", err)
	}
	for i := range 70 { // of which 64 could be counted apart
		a := action(i)
		a.Attributes[record.AttrOperationName] = fmt.Sprintf("%d_%s", i, strings.Repeat("o", 60))
		if _, err := s.Action(a); err != nil {
			t.Fatal(err)
		}
	}
	basis := make([]string, 16)
	for i := range basis {
		basis[i] = fmt.Sprintf("%d%s", i, strings.Repeat("b", 61))
	}
	o := good
	o.Retention.Basis, o.Commit, o.EventLog = basis, strings.Repeat("a", 64), &record.Digest{}
	r, err := s.Finish(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if st := r.Entry.Statement().Session; len(st.Models) != n || n < 10 || st.Actions.Counts != nil || st.Actions.Outcomes["executed"] != 24 {
		t.Errorf("%d models of %d, actions %+v", len(st.Models), n, st.Actions)
	}
}

func problem(name string, status int) func(http.ResponseWriter, *http.Request, *record.Entry) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ *record.Entry) bool {
		bundletest.Problem(w, status, name, map[string]any{"reason": "tcb"})
		return true
	}
}

// TestStartRefused: a start that the log refuses leaves nothing, or can be tried again.
func TestStartRefused(t *testing.T) {
	l := newLab(t)
	c := l.config()
	l.Gate = problem("unauthorized", 401)
	_, err := Start(t.Context(), c, l.options())
	var p *PendingError
	if !errors.As(err, &p) {
		t.Fatalf("got %v, want a PendingError", err)
	}
	if _, err := Resume(t.Context(), c, p.ID); !errors.As(err, &p) {
		t.Fatalf("resumed while refused: %v", err)
	}
	if _, err := Start(t.Context(), c, l.options()); !errors.As(err, &p) {
		t.Fatal(err)
	}
	if err := Discard(c.Dir, p.ID); err != nil {
		t.Error(err)
	}
	left, _, err := Journals(c.Dir)
	if err != nil || len(left) != 1 || left[0] == p.ID {
		t.Fatalf("left: %v, %v", left, err)
	}
	p.ID = left[0]
	l.Gate, l.Adds = nil, nil
	s, err := Resume(t.Context(), c, p.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range l.Adds {
		if !bytes.Equal(e.Bytes(), l.Adds[0].Bytes()) {
			t.Error("another start was submitted")
		}
	}
	mustAct(t, s, 2)
	l.finish(s, good)

	// An image that nobody can name.
	c = l.config()
	c.Environment.Release.Name = "\n"
	if _, err := Start(t.Context(), c, l.options()); !errors.Is(err, record.ErrMalformed) || errors.As(err, &p) {
		t.Errorf("got %v", err)
	}
	// No quote.
	c = l.config()
	c.Quotes = quote.Sim(l.Platform, tdxsim.QuoteOptions{Version: 3})
	if _, err := Start(t.Context(), c, l.options()); err == nil || errors.As(err, &p) {
		t.Errorf("got %v", err)
	}
	if s, runs, err := Journals(c.Dir); err != nil || len(s)+len(runs) != 0 {
		t.Errorf("left behind: %v, %v, %v", s, runs, err)
	}
}

// TestStale: a statement that became too old before the log had it is made anew, and only then.
func TestStale(t *testing.T) {
	l := newLab(t)
	c := l.config()
	var pauses []time.Duration
	c.pause = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	s := l.start(c)
	mustAct(t, s, 3)
	stale := problem("stale-freshness", 422)
	n := 0
	l.Gate = func(w http.ResponseWriter, r *http.Request, e *record.Entry) bool {
		if n++; n > 2 {
			return false
		}
		l.Covered() // so that there is a newer note
		return stale(w, r, e)
	}
	l.Adds = nil
	l.finish(s, good)
	if len(l.Adds) != 3 || !bytes.Equal(l.Adds[0].Bytes(), l.Adds[1].Bytes()) || l.Adds[2].StatementDigest() == l.Adds[0].StatementDigest() {
		t.Errorf("%d submissions", len(l.Adds))
	}
	if !slices.Contains(pauses, settlePause) {
		t.Error("made another final without waiting for the first")
	}
	if l.ends() != 1 {
		t.Errorf("%d ends", l.ends())
	}

	// The first final arrives late: it is the one.
	s = l.start(c)
	n = 0
	l.Gate = func(w http.ResponseWriter, r *http.Request, e *record.Entry) bool {
		n++
		if n == 1 {
			return stale(w, r, e)
		}
		return false
	}
	l.Adds = nil
	l.finish(s, good)
	if len(l.Adds) != 2 || !bytes.Equal(l.Adds[0].Bytes(), l.Adds[1].Bytes()) {
		t.Errorf("%d submissions", len(l.Adds))
	}

	// It doesn't go on for ever.
	s = l.start(c)
	l.Gate, l.Adds = stale, nil
	if _, err := s.Finish(t.Context(), good); err == nil || len(l.Adds) != 2*maxStale+2 {
		t.Errorf("got %v after %d submissions", err, len(l.Adds))
	}
	// Refused by the rules of genuineness: not anew, by this process.
	s = l.start(func() Config { l.Gate = nil; return c }())
	l.Gate, l.Adds = problem("not-genuine", 422), nil
	if _, err := s.Finish(t.Context(), good); err == nil || len(l.Adds) != 1 {
		t.Errorf("got %v after %d submissions", err, len(l.Adds))
	}
	// Later the same statement is tried with a new quote, and no other.
	l.Gate, n = func(w http.ResponseWriter, r *http.Request, e *record.Entry) bool {
		n++
		return n == 1 && problem("not-genuine", 422)(w, r, e)
	}, 0
	l.finish(s, good)
	for _, e := range l.Adds {
		if e.StatementDigest() != l.Adds[0].StatementDigest() {
			t.Error("another statement was submitted")
		}
	}
}

// TestLostAnswers: whatever answer is lost, there is one start and one end, and every acknowledged action is in it.
func TestLostAnswers(t *testing.T) {
	l := newLab(t)
	c := l.config()
	lost := 0
	l.After = func(*record.Entry) bool { lost++; return lost%2 == 1 }
	s := l.start(c) // client.Submit repeats by itself
	mustAct(t, s, 4)
	ctx, cancel := context.WithCancel(t.Context())
	l.After = func(*record.Entry) bool { cancel(); return true }
	if _, err := s.Finish(ctx, good); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	l.After = nil
	if _, err := s.Action(action(4)); !errors.Is(err, ErrEnded) {
		t.Errorf("an action after the final was made: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Resume(t.Context(), c, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l.Covered()
	r := l.finish(s, FinishOptions{EndReason: record.EndAborted}) // doesn't count any more
	if st := r.Entry.Statement().Session; l.ends() != 1 || st.Actions.Size != 4 || st.EndReason != record.EndCompleted {
		t.Errorf("%d ends, final %+v", l.ends(), st)
	}
}

// TestFinishWaits: a final is made only after a note that covers the start, and what happens until then can be undone.
func TestFinishWaits(t *testing.T) {
	l := newLab(t)
	l.Idle = true
	c := l.config()
	waits := 0
	c.pause = func(ctx context.Context, d time.Duration) error {
		if d != freshPause && d > maxFreshPause {
			t.Errorf("pause of %v", d)
		}
		if waits++; waits == 3 {
			l.Mu.Lock()
			l.Covered()
			l.Mu.Unlock()
		}
		return ctx.Err()
	}
	s := l.start(c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Finish(ctx, good); err == nil {
		t.Fatal("finished")
	}
	mustAct(t, s, 1) // accepted again
	r := l.finish(s, good)
	if st := r.Entry.Statement().Session; waits < 3 || st.Freshness.Size <= st.Start.Index || st.Actions.Size != 1 {
		t.Errorf("after %d pauses: %+v", waits, st)
	}
}

// TestClock: a clock that is set back doesn't keep a session from its end.
func TestClock(t *testing.T) {
	l := newLab(t)
	c := l.config()
	s := l.start(c)
	s.l.cfg.Now = func() time.Time { return bundletest.Epoch.Add(-time.Hour) }
	mustAct(t, s, 1)
	r, err := s.Finish(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if st := r.Entry.Statement().Session; !st.FinishedOn.Equal(st.StartedOn) {
		t.Errorf("finished on %v", st.FinishedOn)
	}
}

// TestConcurrent records from many goroutines, and checks that each index is there once. Run with -race.
func TestConcurrent(t *testing.T) {
	l := newLab(t)
	s := l.start(l.config())
	var wg sync.WaitGroup
	seen := make([]bool, 400)
	var mu sync.Mutex
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				index, err := s.Action(action(g*50 + i))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if seen[index] {
					t.Errorf("index %d twice", index)
				}
				seen[index] = true
				mu.Unlock()
				if i == 25 {
					if err := s.WriteFile(io.Discard); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if s.Count() != 400 {
		t.Errorf("%d actions", s.Count())
	}
	l.finish(s, good)
	if _, err := Disclose(bytes.NewReader(ownersFile(t, s)), func(*record.Action) bool { return false }); err != nil {
		t.Error(err)
	}
}

func TestInUse(t *testing.T) {
	l := newLab(t)
	c := l.config()
	s := l.start(c)
	if _, err := Resume(t.Context(), c, s.ID()); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	if err := Discard(c.Dir, s.ID()); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
	if _, err := Resume(t.Context(), c, record.SessionID{1}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	info, err := os.Stat(filepath.Join(s.l.dir(), journalName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("journal: %v, %v", info.Mode(), err)
	}
}

// TestNotStarted: a journal without a start is removed.
func TestNotStarted(t *testing.T) {
	l := newLab(t)
	c := l.config()
	led, err := create(c, kindSession)
	if err != nil {
		t.Fatal(err)
	}
	led.Close()
	if _, err := Resume(t.Context(), c, led.id); !errors.Is(err, ErrNotStarted) {
		t.Errorf("got %v", err)
	}
	if s, _, _ := Journals(c.Dir); len(s) != 0 {
		t.Errorf("left behind: %v", s)
	}
}

// TestRemoveDestroysKey fails if the key's bytes stay in the file when it goes.
func TestRemoveDestroysKey(t *testing.T) {
	l := newLab(t)
	s := l.start(l.config())
	f, err := os.Open(filepath.Join(s.l.dir(), journalName))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seed := slices.Clone(s.l.key.Seed())
	before, _ := io.ReadAll(f)
	if err := s.Remove(); err != nil {
		t.Fatal(err)
	}
	after := make([]byte, len(before))
	f.ReadAt(after, 0)
	if !bytes.Contains(before, seed) || bytes.Contains(after, seed) {
		t.Errorf("the seed %s is still there", hex.EncodeToString(seed[:4]))
	}
	if _, err := s.Action(action(0)); err == nil {
		t.Error("an action after Remove")
	}
}
