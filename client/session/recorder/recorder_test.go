package recorder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/otlp"
	"github.com/affidavit-log/affidavit/client/session/quote"
	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	"github.com/affidavit-log/affidavit/log/record"
)

// lab is a log over HTTP, and a vendor whose TD is this process.
type lab struct {
	*sessiontest.Log
	t testing.TB
}

func newLab(t testing.TB) *lab {
	t.Helper()
	return &lab{sessiontest.New(t), t}
}

func (l *lab) config(dir string) Config {
	l.t.Helper()
	return Config{
		Session: session.Config{
			Log: l.Client(), Quotes: quote.Sim(l.Platform, l.Vendor.Quote()), AnyFileSystem: true, Vendor: l.Vendor.ID,
			Environment: record.Environment{Release: l.Vendor.Image, PersistentStorage: record.StorageNone},
			Now:         l.Time,
		},
		Dir: filepath.Join(dir, "run"), Out: filepath.Join(dir, "out"),
		Options: func(time.Time) (session.Options, error) {
			return session.Options{Tenant: record.TenantPseudonym([]byte("key"), l.Origin, l.Vendor.ID, "2026-11"), TenantEpoch: "2026-11"}, nil
		},
		Models: []Model{{Provider: "*", Model: "*", Channel: session.TLSChannel([]byte("gateway"))}},
		Erase:  func(context.Context) error { return nil },
		Retention: record.Retention{
			Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage"},
		},
		Linger: 100 * time.Millisecond,
		Log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func (l *lab) open(c Config) *Recorder {
	l.t.Helper()
	r, err := Open(c)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

// outcome is what is left of a session.
type outcome struct {
	finding *bundle.Finding
	session *record.Session
	actions []*record.Action
}

// results checks all bundles in out against their private files.
func (l *lab) results(out string) (all []outcome) {
	l.t.Helper()
	files, err := filepath.Glob(filepath.Join(out, "*.affidavit"))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			l.t.Fatal(err)
		}
		bu, err := bundle.Parse(b)
		if err != nil {
			l.t.Fatal(err)
		}
		f, err := bundle.Check(bu, l.Options())
		if err != nil {
			l.t.Fatal(err)
		}
		var o outcome
		o.finding = f
		for _, p := range bu.Proofs {
			leaf, err := record.ParseLeaf(p.Extra)
			if err != nil {
				l.t.Fatal(err)
			}
			if r, ok := leaf.(*record.RecordLeaf); ok && r.Entry.Statement().Session != nil {
				o.session = r.Entry.Statement().Session
			}
		}
		private, err := os.Open(strings.TrimSuffix(name, ".affidavit") + ".session")
		if err != nil {
			l.t.Fatal(err)
		}
		rd, err := session.NewReader(private)
		if err != nil {
			l.t.Fatal(err)
		}
		for {
			_, a, err := rd.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				l.t.Fatal(err)
			}
			o.actions = append(o.actions, a)
		}
		private.Close()
		if o.session == nil || o.session.Actions.Size != uint64(len(o.actions)) || rd.Header().Documents.Root != o.session.Actions.Root {
			l.t.Fatalf("%s: the private file isn't what the final statement commits to", name)
		}
		all = append(all, o)
	}
	return all
}

func operations(as []*record.Action) map[string]int {
	m := make(map[string]int)
	for _, a := range as {
		m[a.Attributes[record.AttrOperationName].(string)+" "+a.Outcome]++
	}
	return m
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "otlp", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// spans are those of a trace of Copilot Chat, with other ids and another conversation for each n.
func spans(t testing.TB, n int) *tracepb.TracesData {
	t.Helper()
	td, err := otlp.DecodeTraces(fixture(t, "copilot-chat.traces.json"), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range td.ResourceSpans[0].ScopeSpans[0].Spans {
		s.TraceId[0], s.TraceId[1], s.TraceId[2] = byte(n>>8), byte(n), 1
		for _, kv := range s.Attributes {
			if kv.Key == "gen_ai.conversation.id" {
				kv.Value = &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: fmt.Sprint("conversation ", n)}}
			}
		}
	}
	return td
}

var wantCopilot = map[string]int{
	"chat executed": 2, "execute_tool executed": 2, "execute_tool errored": 1, "execute_tool blocked": 1, "execute_tool timed_out": 1, "invoke_agent executed": 2,
}

// split gives each span a request of its own.
func split(td *tracepb.TracesData) (all []*tracepb.TracesData) {
	rs := td.ResourceSpans[0]
	for _, s := range rs.ScopeSpans[0].Spans {
		all = append(all, &tracepb.TracesData{ResourceSpans: []*tracepb.ResourceSpans{{
			Resource: rs.Resource, ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{s}}},
		}}})
	}
	return all
}

// send maps spans and has them taken, as an exporter does: again if the recorder is busy.
func send(t testing.TB, r *Recorder, m *otlp.Mapper, td *tracepb.TracesData) (rejected int) {
	t.Helper()
	events, edges, invalid := m.Spans(td)
	if invalid != 0 {
		t.Fatalf("%d invalid spans", invalid)
	}
	for range 1000 {
		n, err := r.Take(1000, events, edges)
		if err == nil {
			return n
		} else if !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the recorder stays busy")
	return 0
}

// A trace, in the order in which it is exported, becomes a session; one that
// comes in any order, span by span and twice, becomes the same.
func TestTrace(t *testing.T) {
	l := newLab(t)
	c := l.config(sessiontest.Memory(t))
	r := l.open(c)
	m := &otlp.Mapper{Hasher: r.Hasher()}
	if n := send(t, r, m, spans(t, 0)); n != 0 {
		t.Errorf("%d spans rejected", n)
	}
	const shuffled = 12
	for n := 1; n <= shuffled; n++ {
		parts := split(spans(t, n))
		all := append(slices.Clone(parts), parts...)
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, p := range all {
			send(t, r, m, p)
		}
	}
	sessiontest.Until(t, "sessions finish", func() bool { return r.Counts()["sessions_finished"] == shuffled+1 })
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	results := l.results(c.Out)
	if len(results) != shuffled+1 {
		t.Fatalf("%d sessions, want %d", len(results), shuffled+1)
	}
	for _, o := range results {
		if got := operations(o.actions); !maps.Equal(got, wantCopilot) {
			t.Errorf("actions %v, want %v", got, wantCopilot)
		}
		// Nothing but where the model runs is refused: a model of which nothing is known can't be made good.
		if n := len(o.finding.Refusals); n != 1 || !strings.Contains(fmt.Sprint(o.finding.Refusals), "unattested") {
			t.Errorf("refused: %v", o.finding.Refusals)
		}
		if o.session.EndReason != record.EndCompleted || !o.session.WorkspaceErased {
			t.Errorf("end %s, erased %v", o.session.EndReason, o.session.WorkspaceErased)
		}
		if len(o.session.Models) != 1 || o.session.Models[0].Calls != 2 || o.session.Models[0].ResponseModel != "gpt-4o-2024-08-06" ||
			o.session.Models[0].Execution != record.ExecutionUnattested || o.session.Models[0].Channel != session.TLSChannel([]byte("gateway")) {
			t.Errorf("models %+v", o.session.Models)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(c.Dir, "tracks")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if left, _ := os.ReadDir(filepath.Join(c.Dir, "journals")); len(left) != 0 {
		t.Errorf("keys left behind: %v", left)
	}
}
