// Package recorder is the sidecar that records agents in other languages: it keeps one
// session for each conversation that an agent reports, whatever way it reports, and
// finishes it when the conversation ends. README.md says who is trusted with what.
package recorder

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/semaphore"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/client/session/inference"
	"github.com/affidavit-log/affidavit/client/session/private"
	"github.com/affidavit-log/affidavit/log/record"
)

// Config configures Open. Fields are required unless they name a default.
type Config struct {
	// Session is what all sessions have in common. Its Dir is set by Open.
	Session session.Config

	// Dir is a directory in guest memory, of the recorder's user alone: see session.Config.
	Dir string

	// Out is the directory for what is left of a session: ID.affidavit, its bundle, for
	// anybody, and ID.session, the private file, for the customer.
	Out string

	// Options describe a session that begins now, but for what a request says of it.
	Options func(now time.Time) (session.Options, error)

	// Models say where the models run that agents use.
	Models []Model

	// Retention is what is claimed of the customer's data. By default nothing is.
	Retention record.Retention

	// Erase erases the workspace before a final statement is made, which then says so. It is optional.
	Erase func(ctx context.Context) error

	// Linger is how long a session stays open after its conversation ended, for what is
	// reported late. It should be longer than an exporter's interval, and defaults to ten seconds.
	Linger time.Duration

	// Idle is how long nothing may be reported before a session is finished. It defaults to 30 minutes.
	Idle time.Duration

	// MaxSessions bounds the sessions that are open at a time. It defaults to 2,048.
	MaxSessions int

	// RunsWait bounds the time that the end of a session waits for the records of its model runs. It defaults to one
	// minute. A run whose record can't be had until then stays what the vendor says.
	RunsWait time.Duration

	// Log defaults to slog.Default.
	Log *slog.Logger

	// setModels is (*session.Session).SetModels, unless a test says otherwise.
	setModels func(*session.Session, []record.Model) error
}

// A Model says where calls go. Provider and Model are those of
// gen_ai.provider.name and gen_ai.request.model; "*" stands for any.
type Model struct {
	Provider, Model string
	Execution       string // record.ExecutionUnattested by default
	Channel         record.Channel
	ModelRun        *record.Digest // with record.ExecutionTEE, if it is known beforehand

	// Runs is the URL of the inference proxy whose key Channel is: with record.ExecutionTEE, and without ModelRun. At the
	// end of a session it is asked which runs have served the session, and the final record names them. It is https, or
	// http on this machine.
	Runs *url.URL

	gateway *gateway // of Runs
}

const (
	maxSpool    = 64 << 20 // bytes of events that wait for one session's start
	maxTraces   = 16_384   // traces whose conversation is remembered
	maxEdges    = 1024     // spans that aren't an agent's, remembered for each trace
	maxEnded    = 16_384   // conversations that are remembered after their end
	maxSeen     = 1 << 16  // keys in one of the two generations of a session's memory of them
	maxNetwork  = 64       // starts and ends under way at a time
	firstRetry  = time.Second
	longest     = time.Minute
	tickEvery   = time.Second
	maxAccepted = 1_000_000 // actions of a session, what package session is made for
)

// Nobody is the user id of a peer that has no credentials: one that came over TCP.
const Nobody = -1

// Errors that callers branch on.
var (
	// ErrBusy says that something can be tried again later.
	ErrBusy = errors.New("recorder is busy")
	// ErrNotFound says that there is no such session, or that it is another user's.
	ErrNotFound = errors.New("no such session")
	// ErrEnded says that a session has ended.
	ErrEnded = errors.New("session has ended")
)

// A Recorder keeps sessions. Its methods can be used concurrently.
type Recorder struct {
	cfg    Config
	hasher *activity.Hasher
	lock   *os.File
	ctx    context.Context // until Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	net    *semaphore.Weighted

	actions, duplicates atomic.Uint64

	// mu guards the rest. It is taken before a track's, and held for no longer than it takes to write a small
	// file to memory.
	mu     sync.Mutex
	tracks map[string]*track                // by id, until they are done
	open   map[owner]*track                 // those that take events
	traces *simplelru.LRU[traceID, *trace]  //
	ended  *simplelru.LRU[owner, time.Time] // when they ended
	done   *simplelru.LRU[string, *Status]  // by id
	counts map[string]uint64
}

// An owner is whose conversation it is: two users, or two agents, may have given theirs the same name.
type owner struct {
	uid                 int
	agent, conversation string
}

type traceID struct {
	uid int
	id  [16]byte
}

// A trace is what is remembered of a W3C trace. Guarded by Recorder.mu.
type trace struct {
	owner owner
	known bool                // owner is known
	edges map[[8]byte][8]byte // parents of spans that aren't an agent's
	agent map[[8]byte]bool    // spans that are an agent's
	tops  map[[8]byte]string  // ends of agents below a span that hasn't come yet, with the reason for the end
}

// Names of counters, beside those of otlp.Mapper.
const (
	countActions    = "actions"
	countDuplicates = "duplicates"
	countLate       = "late"
	countRefused    = "refused"
	countStarted    = "sessions_started"
	countFinished   = "sessions_finished"
	countRetries    = "retries"
	countUnknown    = "unknown_events"
	countUnlinked   = "unlinked_calls" // of models that are said to have records, and no record was had
)

// Open takes up what a process that died left in c.Dir, and returns a Recorder. Only
// one can use a directory at a time.
func Open(c Config) (_ *Recorder, err error) {
	if c.Linger == 0 {
		c.Linger = 10 * time.Second
	}
	if c.Idle == 0 {
		c.Idle = 30 * time.Minute
	}
	if c.RunsWait == 0 {
		c.RunsWait = time.Minute
	}
	if c.setModels == nil {
		c.setModels = (*session.Session).SetModels
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = 2048
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Options == nil || c.Out == "" || c.Dir == "" {
		return nil, errors.New("recorder: Options, Dir and Out are required")
	}
	if c.Session.Now == nil {
		c.Session.Now = time.Now
	}
	c.Models = slices.Clone(c.Models)
	gateways := make(map[string]*gateway)
	for i := range c.Models {
		m := &c.Models[i]
		if m.Execution == "" {
			m.Execution = record.ExecutionUnattested
		}
		if m.Runs == nil {
			continue
		}
		if m.Execution != record.ExecutionTEE || m.ModelRun != nil {
			return nil, fmt.Errorf("model %s of %s: a proxy that has records of runs goes with execution tee, and without a record that is known beforehand", m.Model, m.Provider)
		}
		name := fmt.Sprint(m.Runs, m.Channel)
		if gateways[name] == nil {
			cl, err := inference.NewClient(m.Runs, m.Channel)
			if err != nil {
				return nil, err
			}
			gateways[name] = &gateway{cl, m.Channel}
		}
		m.gateway = gateways[name]
	}
	c.Session.Dir = filepath.Join(c.Dir, "journals")
	for _, d := range []string{c.Session.Dir, filepath.Join(c.Dir, "tracks")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(c.Out, 0o700); err != nil {
		return nil, err
	}
	r := &Recorder{
		cfg: c, net: semaphore.NewWeighted(maxNetwork), tracks: make(map[string]*track), open: make(map[owner]*track), counts: make(map[string]uint64),
	}
	r.traces, _ = simplelru.NewLRU[traceID, *trace](maxTraces, nil) // the errors are about sizes below one
	r.ended, _ = simplelru.NewLRU[owner, time.Time](maxEnded, nil)
	r.done, _ = simplelru.NewLRU[string, *Status](maxEnded, nil)
	if r.lock, err = lock(filepath.Join(c.Dir, "lock")); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			r.lock.Close()
		}
	}()
	secret, err := loadSecret(filepath.Join(c.Dir, "secret"))
	if err != nil {
		return nil, err
	}
	r.hasher = activity.NewHasher(secret)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if err := r.recover(); err != nil {
		r.cancel()
		return nil, err
	}
	r.wg.Go(r.tick)
	return r, nil
}

// loadSecret returns the secret of keys, which must outlive the process: an exporter
// may send again after it has died.
func loadSecret(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, 32)
		rand.Read(b)
		return b, private.PutBytes(path, b)
	}
	if err == nil && len(b) != 32 {
		err = fmt.Errorf("%s: %d bytes, want 32", path, len(b))
	}
	return b, err
}

// Hasher makes keys that stay the same for this recorder.
func (r *Recorder) Hasher() *activity.Hasher { return r.hasher }

// Close stops. Sessions that are open are taken up by the next Open.
func (r *Recorder) Close() error {
	r.mu.Lock()
	r.cancel() // with mu held, so that no session is begun afterwards
	r.mu.Unlock()
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []error
	for _, t := range r.tracks {
		all = append(all, t.close())
	}
	for i := range r.cfg.Models {
		if g := r.cfg.Models[i].gateway; g != nil {
			g.client.Close()
		}
	}
	return errors.Join(append(all, r.lock.Close())...)
}

func (r *Recorder) count(what string, n int) {
	if n == 0 {
		return
	}
	r.mu.Lock()
	r.counts[what] += uint64(n)
	r.mu.Unlock()
}

// Counts returns counters, and gauges of sessions by state.
func (r *Recorder) Counts() map[string]uint64 {
	r.mu.Lock()
	c := maps.Clone(r.counts)
	c[countActions], c[countDuplicates] = r.actions.Load(), r.duplicates.Load()
	for _, s := range []State{Starting, Recording, Ending} {
		c["sessions_"+string(s)] = 0
	}
	tracks := slices.Collect(maps.Values(r.tracks))
	r.mu.Unlock()
	for _, t := range tracks {
		c["sessions_"+string(t.state())]++
	}
	return c
}

// Take records events that a peer with this user id reported, and returns when they survive the
// process. rejected is the number of those that were late, or that no session can take.
// The error wraps ErrBusy if some weren't taken and all may be sent again.
func (r *Recorder) Take(uid int, events []activity.Event, edges []activity.Edge) (rejected int, err error) {
	type batch struct {
		t      *track
		events []activity.Event
		end    string // reason, if the conversation ended
		at     time.Time
		turn   bool
		latest time.Time
	}
	var batches []*batch
	byTrack := make(map[*track]*batch)
	late, refused := 0, 0

	r.mu.Lock()
	// What the request says of traces comes first: in a batch, the span that names the conversation is often the last.
	for i := range events {
		if e := &events[i]; e.Conversation != "" && e.Source == activity.SourceSpan {
			t := r.trace(uid, e.Trace)
			if !t.known {
				t.owner, t.known = owner{uid, e.Agent, e.Conversation}, true
				r.adopt(uid, e)
			}
		}
	}
	for i := range events {
		e := &events[i]
		o := owner{uid, e.Agent, e.Conversation}
		if e.Conversation == "" || e.Source == activity.SourceSpan {
			if t := r.trace(uid, e.Trace); t.known && e.Conversation == "" {
				o = t.owner
			} else if e.Conversation == "" {
				// Until the trace names its conversation, it is one of its own.
				o.conversation = "trace:" + hex.EncodeToString(e.Trace[:])
			}
		}
		t, isLate, err := r.track(o, e)
		if err != nil {
			refused++
			continue
		}
		if isLate {
			late++
			continue
		}
		b := byTrack[t]
		if b == nil {
			b = &batch{t: t}
			byTrack[t] = b
			batches = append(batches, b)
		}
		b.events = append(b.events, *e)
		if e.Time.After(b.latest) {
			b.latest = e.Time
		}
		switch e.Kind {
		case activity.Close:
			b.end, b.at = e.EndReason, e.Time
		case activity.TurnEnd:
			b.turn = true
		default:
			b.turn = false
		}
		if e.Source == activity.SourceSpan {
			if reason := r.agentSpan(uid, e); reason != "" {
				b.end, b.at = reason, e.Time
			}
		}
	}
	ends := r.edges(uid, edges)
	r.counts[countLate] += uint64(late)
	r.counts[countRefused] += uint64(refused)
	r.mu.Unlock()

	busy := refused > 0
	for _, b := range batches {
		n, err := b.t.take(b.events)
		switch {
		case errors.Is(err, ErrEnded):
			// It was closed under our hands: the exporter sends again, and is late or opens another.
			busy = true
			continue
		case err != nil:
			r.cfg.Log.Error("actions weren't recorded", "track", b.t.id, "error", err)
			busy = true
			continue
		}
		rejected += n
		if b.end != "" {
			b.t.conversationEnded(b.end, b.at)
		} else {
			b.t.touch(b.turn, b.latest)
		}
	}
	for t, reason := range ends {
		t.conversationEnded(reason, time.Time{})
	}
	if busy {
		return 0, fmt.Errorf("%w: %d sessions are open, of at most %d, or one of them is ending", ErrBusy, len(byTrack), r.cfg.MaxSessions)
	}
	return rejected + late, nil
}

// trace returns what is known of a trace. r.mu is held.
func (r *Recorder) trace(uid int, id [16]byte) *trace {
	k := traceID{uid, id}
	t, ok := r.traces.Get(k)
	if !ok {
		t = new(trace)
		r.traces.Add(k, t)
	}
	return t
}

// adopt gives a session that was opened for a trace to the conversation that the trace
// turns out to belong to, unless that has one already. r.mu is held.
func (r *Recorder) adopt(uid int, e *activity.Event) {
	from := owner{uid, e.Agent, "trace:" + hex.EncodeToString(e.Trace[:])}
	to := owner{uid, e.Agent, e.Conversation}
	t, ok := r.open[from]
	if !ok || r.open[to] != nil {
		return
	}
	delete(r.open, from)
	r.open[to] = t
	t.rename(to)
}

// track returns the session that takes events of o, and opens one if there is none.
// r.mu is held.
func (r *Recorder) track(o owner, e *activity.Event) (t *track, late bool, err error) {
	if t = r.open[o]; t != nil && !t.ending() {
		return t, false, nil
	}
	if t != nil {
		delete(r.open, o)
	}
	if at, ok := r.ended.Get(o); ok && !e.Time.IsZero() && !e.Time.After(at) {
		return nil, true, nil
	}
	t, err = r.newTrack(o, nil)
	return t, false, err
}

// agentSpan remembers an agent's span. If it is the end of an agent that has a parent, which
// may be a sub-agent or not, it returns the reason for the end of the conversation if it is known
// already that nothing of an agent is above it. r.mu is held.
func (r *Recorder) agentSpan(uid int, e *activity.Event) (reason string) {
	t := r.trace(uid, e.Trace)
	if t.agent == nil {
		t.agent = make(map[[8]byte]bool)
	}
	if len(t.agent) < 8*maxEdges {
		t.agent[e.Span] = true
	}
	delete(t.tops, e.Span) // what is below this span is a sub-agent
	if e.Operation != activity.OpInvokeAgent || e.Parent == ([8]byte{}) {
		return ""
	}
	at, top := t.above(e.Parent)
	switch {
	case top:
		return e.EndReason
	case t.agent[at]:
		return ""
	}
	if t.tops == nil {
		t.tops = make(map[[8]byte]string)
	}
	if len(t.tops) < maxEdges {
		t.tops[at] = e.EndReason
	}
	return ""
}

// above goes up from span as far as is known. top means that it got to the top without
// meeting an agent's span.
func (t *trace) above(span [8]byte) (at [8]byte, top bool) {
	for range maxEdges { // spans may say that they are above each other
		parent, ok := t.edges[span]
		if !ok {
			return span, false
		}
		if parent == ([8]byte{}) {
			return span, true
		}
		span = parent
	}
	return span, false
}

// edges remembers spans that aren't an agent's. It returns the sessions whose conversation
// has ended, as is known now, with the reasons. r.mu is held.
func (r *Recorder) edges(uid int, edges []activity.Edge) map[*track]string {
	var ends map[*track]string
	for _, e := range edges {
		t, ok := r.traces.Get(traceID{uid, e.Trace})
		if !ok {
			t = r.trace(uid, e.Trace)
		}
		if t.edges == nil {
			t.edges = make(map[[8]byte][8]byte)
		}
		if len(t.edges) >= maxEdges {
			continue
		}
		t.edges[e.Span] = e.Parent
		reason, waiting := t.tops[e.Span]
		if !waiting {
			continue
		}
		delete(t.tops, e.Span)
		at, top := t.above(e.Span)
		switch {
		case !top && !t.agent[at]:
			t.tops[at] = reason
		case top && t.known:
			if s := r.open[t.owner]; s != nil {
				if ends == nil {
					ends = make(map[*track]string)
				}
				ends[s] = reason
			}
		}
	}
	return ends
}

// tick finishes sessions whose time has come.
func (r *Recorder) tick() {
	t := time.NewTicker(tickEvery)
	defer t.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case now := <-t.C:
			r.mu.Lock()
			tracks := slices.Collect(maps.Values(r.tracks))
			r.mu.Unlock()
			for _, t := range tracks {
				t.expire(now)
			}
		}
	}
}

// Request describes a session that is asked for.
type Request struct {
	Agent        string
	Conversation string // one of its own if empty
	Tenant       *record.Digest
	TenantEpoch  string
	Sequence     uint64
	Challenge    *record.Digest
}

// Begin opens a session, or returns the one that the conversation has. It is on its way; see Wait.
func (r *Recorder) Begin(uid int, q Request) (*Status, error) {
	if q.Conversation == "" {
		var id [16]byte
		rand.Read(id[:])
		q.Conversation = "session:" + hex.EncodeToString(id[:])
	}
	o := owner{uid, q.Agent, q.Conversation}
	r.mu.Lock()
	t := r.open[o]
	var err error
	if t == nil || t.ending() {
		t, err = r.newTrack(o, &q)
	}
	r.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return t.status(), nil
}

// find returns the session with this id, if it is the user's.
func (r *Recorder) find(uid int, all bool, id string) (*track, *Status, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tracks[id]; t != nil && (all || t.uid == uid) {
		return t, nil, nil
	}
	if s, ok := r.done.Get(id); ok && (all || s.uid == uid) {
		return nil, s, nil
	}
	return nil, nil, ErrNotFound
}

// Status returns the state of a session. With all, another user's too.
func (r *Recorder) Status(uid int, all bool, id string) (*Status, error) {
	t, s, err := r.find(uid, all, id)
	if t != nil {
		s = t.status()
	}
	return s, err
}

// Wait returns the state of a session once it is no longer in the state from, or ctx is done.
func (r *Recorder) Wait(ctx context.Context, uid int, all bool, id string, from ...State) (*Status, error) {
	for {
		t, s, err := r.find(uid, all, id)
		if err != nil || t == nil {
			return s, err
		}
		changed := t.changes()
		if s = t.status(); !slices.Contains(from, s.State) {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return s, nil
		case <-r.ctx.Done():
			return s, nil
		case <-changed:
		}
	}
}

// List returns the sessions that aren't done, of a user or, with all, of everybody.
func (r *Recorder) List(uid int, all bool) []*Status {
	r.mu.Lock()
	tracks := slices.Collect(maps.Values(r.tracks))
	r.mu.Unlock()
	l := []*Status{}
	for _, t := range tracks {
		if all || t.uid == uid {
			l = append(l, t.status())
		}
	}
	slices.SortFunc(l, func(a, b *Status) int { return strings.Compare(a.ID, b.ID) })
	return l
}

// Add records events of one session. It is like Take, but the session is known, and
// must not have ended. dropped is the number of those that no action document can say.
func (r *Recorder) Add(uid int, id string, events []activity.Event) (dropped int, err error) {
	t, _, err := r.find(uid, false, id)
	if err != nil {
		return 0, err
	}
	if t == nil || t.ending() {
		return 0, ErrEnded
	}
	n, err := t.take(events)
	if err != nil {
		return 0, err
	}
	t.touch(false, time.Now())
	return n, nil
}

// Finish ends a session now.
func (r *Recorder) Finish(uid int, all bool, id, reason, commit string) (*Status, error) {
	t, s, err := r.find(uid, all, id)
	if err != nil || t == nil {
		return s, err
	}
	t.end(reason, commit)
	return t.status(), nil
}
