package recorder

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/activity"
	"github.com/affidavit-log/affidavit/client/session/private"
	"github.com/affidavit-log/affidavit/log/record"
)

// A State is how far a session has got.
type State string

// States of a session. Actions are taken in the first two.
const (
	Starting  State = "starting"  // its start isn't in the log yet; what is reported waits in a spool
	Recording State = "recording" // its start is in the log
	Ending    State = "ending"    // its final record is being made
	Done      State = "done"      // its final record is in the log
)

// A Status is what can be said of a session. It is what the API answers.
type Status struct {
	ID           string     `json:"id"` // of the recorder; the session's own is known once it has a key
	State        State      `json:"state"`
	Agent        string     `json:"agent"`
	Conversation string     `json:"conversation"`
	Session      string     `json:"session,omitempty"`
	Key          string     `json:"key,omitempty"` // its key id, for a gateway that logs a record per call
	Actions      uint64     `json:"actions"`
	Start        *Reference `json:"start,omitempty"`
	Final        *Reference `json:"final,omitempty"`
	Error        string     `json:"error,omitempty"` // what is in the way, if something is being tried again

	uid int
}

// A Reference says where a record is in the log.
type Reference struct {
	Origin    string `json:"origin"`
	Index     uint64 `json:"index"`
	Statement string `json:"statement"`
}

func reference(r record.StatementRef) *Reference {
	return &Reference{r.Origin, r.Index, hex.EncodeToString(r.Statement[:])}
}

// A meta is what of a track survives the process, beside its journal and spool.
type meta struct {
	UID          int
	Agent        string
	Conversation string
	Request      *Request `json:",omitempty"`
	Session      string   // its id, once there is one
	Closing      string   // reason, if the conversation has ended
	Ending       bool     // the final is being made, with that reason
	Commit       string   `json:",omitempty"`
}

// A track is one session on its way. run owns its life; everything else reports to it.
type track struct {
	r    *Recorder
	id   string
	uid  int
	dir  string
	endC chan struct{} // closed once it must end

	ended atomic.Bool // endC is closed; set with mu held

	mu        sync.Mutex // guards the rest. It is held while actions are written to memory, which keeps their order
	m         meta
	st        State
	sess      *session.Session
	spool     *os.File // nil if there is none
	spoolSize int64
	seen      [2]map[activity.Key]struct{} // the older generation is dropped when the newer is full
	calls     map[string]string            // tool calls by operation and id: the source that reported them
	models    map[record.Model]uint64
	accepted  uint64
	last      time.Time // when something was last reported
	turnEnded bool
	closeAt   time.Time // when it ends, if its conversation has ended
	closedAt  time.Time // when that was, by the agent's clock
	named     bool      // the session has been told of the models
	problem   string
	changed   chan struct{} // closed and replaced when the state changes
}

// newTrack opens a session. r.mu is held.
func (r *Recorder) newTrack(o owner, q *Request) (*track, error) {
	if len(r.tracks) >= r.cfg.MaxSessions {
		return nil, fmt.Errorf("%w: %d sessions are open", ErrBusy, len(r.tracks))
	}
	if r.ctx.Err() != nil {
		return nil, fmt.Errorf("%w: it is stopping", ErrBusy)
	}
	var b [16]byte
	rand.Read(b[:])
	t := r.makeTrack(hex.EncodeToString(b[:]), meta{UID: o.uid, Agent: o.agent, Conversation: o.conversation, Request: q})
	if err := os.Mkdir(t.dir, 0o700); err != nil {
		return nil, err
	}
	if err := t.save(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(t.dir))
	}
	r.tracks[t.id], r.open[o] = t, t
	r.wg.Go(t.run)
	return t, nil
}

func (r *Recorder) makeTrack(id string, m meta) *track {
	return &track{
		r: r, id: id, uid: m.UID, dir: filepath.Join(r.cfg.Dir, "tracks", id), endC: make(chan struct{}), m: m, st: Starting,
		seen: [2]map[activity.Key]struct{}{{}, {}}, calls: make(map[string]string), models: make(map[record.Model]uint64),
		last: time.Now(), changed: make(chan struct{}),
	}
}

// save writes the meta file, at once or not at all. t.mu is held, or nobody knows t yet.
func (t *track) save() error {
	b, err := json.Marshal(&t.m)
	if err != nil {
		return err
	}
	return private.PutBytes(filepath.Join(t.dir, "meta"), b)
}

// recover takes up the tracks that a process left, and abandons sessions that no track
// has: those whose start was under way when the process died.
func (r *Recorder) recover() error {
	entries, err := os.ReadDir(filepath.Join(r.cfg.Dir, "tracks"))
	if err != nil {
		return err
	}
	known := make(map[string]bool)
	for _, e := range entries {
		dir := filepath.Join(r.cfg.Dir, "tracks", e.Name())
		b, err := os.ReadFile(filepath.Join(dir, "meta"))
		if errors.Is(err, fs.ErrNotExist) {
			// It died before the first event was acknowledged.
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		var m meta
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
		t := r.makeTrack(e.Name(), m)
		known[m.Session] = true
		r.tracks[t.id] = t
		switch {
		case m.Ending:
			t.ended.Store(true)
			close(t.endC)
		default:
			if m.Closing != "" {
				t.closeAt, t.closedAt = time.Now().Add(r.cfg.Linger), time.Now()
			}
			r.open[owner{m.UID, m.Agent, m.Conversation}] = t
		}
		r.wg.Go(t.run)
	}
	ids, _, err := session.Journals(r.cfg.Session.Dir)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !known[id.String()] {
			r.wg.Go(func() { r.abandon(id) })
		}
	}
	return nil
}

func (r *Recorder) abandon(id record.SessionID) {
	r.retry(func() error {
		s, err := session.Resume(r.ctx, r.cfg.Session, id)
		if errors.Is(err, session.ErrNotStarted) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := s.Abandon(r.ctx, record.AbandonedCrashed); err != nil {
			return errors.Join(err, s.Close())
		}
		return s.Remove()
	}, func(err error) {
		r.cfg.Log.Warn("a session that was left behind can't be abandoned yet", "session", id, "error", err)
	})
}

// retry calls f until it succeeds, and tells report of each failure. It returns false if
// the recorder closes first.
func (r *Recorder) retry(f func() error, report func(error)) bool {
	wait := firstRetry
	for {
		if err := r.net.Acquire(r.ctx, 1); err != nil {
			return false
		}
		err := f()
		r.net.Release(1)
		if err == nil {
			return true
		}
		if r.ctx.Err() != nil {
			return false
		}
		r.count(countRetries, 1)
		report(err)
		select {
		case <-r.ctx.Done():
			return false
		case <-time.After(wait):
		}
		wait = min(2*wait, longest)
	}
}

func (t *track) state() State { t.mu.Lock(); defer t.mu.Unlock(); return t.st }

// ending doesn't wait for t.mu: it is asked with Recorder.mu held.
func (t *track) ending() bool { return t.ended.Load() }

func (t *track) changes() <-chan struct{} { t.mu.Lock(); defer t.mu.Unlock(); return t.changed }

func (t *track) status() *Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &Status{
		ID: t.id, State: t.st, Agent: t.m.Agent, Conversation: t.m.Conversation, Session: t.m.Session, Actions: t.accepted, Error: t.problem, uid: t.uid,
	}
	if t.sess != nil && t.st != Starting {
		s.Start, s.Key = reference(t.sess.StartRef()), t.sess.Key().KeyID
	}
	return s
}

// set changes the state. t.mu is held.
func (t *track) set(s State) {
	t.st, t.problem = s, ""
	close(t.changed)
	t.changed = make(chan struct{})
}

func (t *track) report(what string) func(error) {
	return func(err error) {
		t.r.cfg.Log.Warn(what, "track", t.id, "error", err)
		t.mu.Lock()
		t.problem = err.Error()
		t.mu.Unlock()
	}
}

func (t *track) rename(o owner) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m.Conversation = o.conversation
	if err := t.save(); err != nil {
		t.r.cfg.Log.Error("a session's conversation wasn't written down", "track", t.id, "error", err)
	}
}

// run starts the session, waits for its end, and finishes it.
func (t *track) run() {
	removed := false
	if !t.r.retry(func() error {
		err := t.start()
		if removed = errors.Is(err, errRemoved); removed {
			return os.RemoveAll(t.dir)
		}
		return err
	}, t.report("a session isn't started yet")) {
		return
	}
	if removed {
		t.r.mu.Lock()
		delete(t.r.tracks, t.id)
		t.r.mu.Unlock()
		return
	}
	t.r.count(countStarted, 1)
	select {
	case <-t.r.ctx.Done():
		return
	case <-t.endC:
	}
	t.mu.Lock()
	t.set(Ending)
	t.mu.Unlock()
	if !t.r.retry(t.finish, t.report("a session isn't finished yet")) {
		return
	}
	t.r.count(countFinished, 1)
}

// errRemoved says that a process before this one has finished the session, and died before the track was gone.
var errRemoved = errors.New("the session was finished")

// start logs the start, or takes up a session that was started, and gives it what is in
// the spool.
func (t *track) start() error {
	r := t.r
	t.mu.Lock()
	m := t.m
	t.mu.Unlock()
	var s *session.Session
	if m.Session != "" {
		id, err := record.ParseSessionID(m.Session)
		if err != nil {
			return err
		}
		s, err = session.Resume(r.ctx, r.cfg.Session, id)
		if m.Ending && errors.Is(err, fs.ErrNotExist) {
			// finish removes a journal once all is in Out, and the track after that.
			return errRemoved
		} else if err != nil {
			return err
		}
	} else {
		o, err := r.cfg.Options(r.cfg.Session.Now())
		if err != nil {
			return err
		}
		if q := m.Request; q != nil {
			if q.Tenant != nil {
				o.Tenant, o.TenantEpoch = *q.Tenant, q.TenantEpoch
			}
			if q.Sequence != 0 {
				o.Sequence = q.Sequence
			}
			if q.Challenge != nil {
				o.Challenge = q.Challenge
			}
		}
		var pending *session.PendingError
		if s, err = session.Start(r.ctx, r.cfg.Session, o); errors.As(err, &pending) {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.m.Session = pending.ID.String()
			return errors.Join(err, t.save())
		} else if err != nil {
			return err
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m.Session = s.ID().String()
	err := t.save()
	// What is in the spool was marked when it came; from here on what counts is what the session has.
	t.seen, t.accepted = [2]map[activity.Key]struct{}{{}, {}}, 0
	clear(t.calls)
	clear(t.models)
	if err == nil && s.Count() > 0 {
		err = t.remember(s)
	}
	if err == nil {
		t.sess = s
		if err = t.flush(); err != nil {
			t.sess = nil
		}
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	t.set(Recording)
	return nil
}

// remember takes from the session's documents what was in memory when the process died.
// t.mu is held.
func (t *track) remember(s *session.Session) error {
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(s.WriteFile(pw)) }()
	defer pr.Close()
	f, err := session.NewReader(pr)
	if err != nil {
		return err
	}
	for {
		_, a, err := f.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		var k activity.Key
		if text, ok := a.Attributes[activity.AttrKey].(string); ok {
			if b, err := hex.DecodeString(text); err == nil && len(b) == len(k) {
				copy(k[:], b)
			}
		}
		source, _ := a.Attributes[activity.AttrSource].(string)
		call, _ := a.Attributes["gen_ai.tool.call.id"].(string)
		operation, _ := a.Attributes[record.AttrOperationName].(string)
		t.accept(k, operation, call, source, a.Attributes)
	}
}

// flush gives the session what is in the spool. t.mu is held.
func (t *track) flush() error {
	name := filepath.Join(t.dir, "spool")
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for {
		events, rest, err := readFrame(b)
		if errors.Is(err, errCutOff) {
			break
		} else if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		b = rest
		if _, _, err := t.write(events); err != nil {
			return err
		}
	}
	if t.spool != nil {
		t.spool.Close()
		t.spool = nil
	}
	t.spoolSize = 0
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A frame is length [4], CRC-32C [4] and events as encoding/gob has them.
func appendFrame(b []byte, events []activity.Event) ([]byte, error) {
	w := bytes.NewBuffer(append(b, 0, 0, 0, 0, 0, 0, 0, 0))
	if err := gob.NewEncoder(w).Encode(events); err != nil {
		return nil, err
	}
	f := w.Bytes()
	binary.BigEndian.PutUint32(f[len(b):], uint32(len(f)-len(b)-8))
	binary.BigEndian.PutUint32(f[len(b)+4:], crc32.Checksum(f[len(b)+8:], castagnoli))
	return f, nil
}

// errCutOff says that no whole frame is left: what is there was being written when the process died, and nobody was told
// that it counts. The kernel copies a write page by page from its front, and a kill ends it between two pages.
var errCutOff = errors.New("no whole frame")

// readFrame returns the events of the frame that b begins with, and what follows it. A frame that is whole and says
// nothing is an error that isn't errCutOff: what comes after it may have been acknowledged.
func readFrame(b []byte) (events []activity.Event, rest []byte, err error) {
	if len(b) < 8 {
		return nil, nil, errCutOff
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if uint64(len(b)-8) < n {
		return nil, nil, errCutOff
	}
	if crc32.Checksum(b[8:8+n], castagnoli) != binary.BigEndian.Uint32(b[4:]) {
		return nil, nil, errors.New("wrong checksum of a frame")
	}
	if err := gob.NewDecoder(bytes.NewReader(b[8 : 8+n])).Decode(&events); err != nil {
		return nil, nil, err
	}
	return events, b[8+n:], nil
}

// openSpool opens the spool, without what was cut off at its end: a frame that is written after that would be taken for
// the rest of it, and what was acknowledged would be lost. t.mu is held.
func (t *track) openSpool() error {
	name := filepath.Join(t.dir, "spool")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(f)
	rest := b
	for err == nil {
		var r []byte
		if _, r, err = readFrame(rest); err == nil {
			rest = r
		}
	}
	if errors.Is(err, errCutOff) {
		err = f.Truncate(int64(len(b) - len(rest)))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	t.spool, t.spoolSize = f, int64(len(b)-len(rest))
	return nil
}

func init() { gob.Register([]string(nil)) }

// take records events, or spools them until the session has started. When it returns without an
// error, they survive the process. dropped is the number of those that no document can say.
func (t *track) take(events []activity.Event) (dropped int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended.Load() {
		return 0, ErrEnded
	}
	if t.accepted+uint64(len(events)) > maxAccepted {
		return len(events), nil
	}
	t.last = time.Now()
	if t.st != Starting {
		duplicates, dropped, err := t.write(events)
		t.tally(len(events)-duplicates-dropped, duplicates)
		return dropped, err
	}
	fresh := slices.DeleteFunc(slices.Clone(events), func(e activity.Event) bool { return e.Operation == "" || t.known(&e) })
	fresh = unique(fresh)
	if len(fresh) > 0 {
		frame, err := appendFrame(nil, fresh)
		if err != nil {
			return 0, err
		}
		if t.spool == nil {
			if err := t.openSpool(); err != nil {
				return 0, err
			}
		}
		if t.spoolSize+int64(len(frame)) > maxSpool {
			return 0, fmt.Errorf("%w: the session's start is slow, and its spool full", ErrBusy)
		}
		if _, err := t.spool.WriteAt(frame, t.spoolSize); err != nil {
			err = errors.Join(err, t.spool.Close())
			t.spool = nil // what is there of the frame is cut off when it is opened again
			return 0, err
		}
		t.spoolSize += int64(len(frame))
		for i := range fresh {
			// Only the key: what the session accepts is counted when it does.
			t.mark(fresh[i].Key)
		}
	}
	t.tally(len(fresh), len(events)-len(fresh))
	return 0, nil
}

func (t *track) tally(actions, duplicates int) {
	t.r.actions.Add(uint64(max(actions, 0)))
	t.r.duplicates.Add(uint64(max(duplicates, 0)))
}

// unique drops events that come twice in one request.
func unique(events []activity.Event) []activity.Event {
	seen := make(map[activity.Key]bool, len(events))
	return slices.DeleteFunc(events, func(e activity.Event) bool {
		twice := seen[e.Key]
		seen[e.Key] = true
		return twice
	})
}

func callKey(operation, id string) string { return operation + "\x00" + id }

// known reports whether the event was delivered before, or its tool call was reported by
// another source. t.mu is held.
func (t *track) known(e *activity.Event) bool {
	if _, ok := t.seen[0][e.Key]; ok {
		return true
	}
	if _, ok := t.seen[1][e.Key]; ok {
		return true
	}
	if e.CallID == "" {
		return false
	}
	// Agents number their calls anew, so an id may well come twice from one source.
	source, ok := t.calls[callKey(e.Operation, e.CallID)]
	return ok && source != e.Source
}

func (t *track) mark(k activity.Key) {
	if len(t.seen[0]) >= maxSeen {
		t.seen[0], t.seen[1] = make(map[activity.Key]struct{}), t.seen[0]
	}
	t.seen[0][k] = struct{}{}
}

// accept remembers an action that the session has. t.mu is held.
func (t *track) accept(k activity.Key, operation, call, source string, attributes map[string]any) {
	t.mark(k)
	t.accepted++
	if call != "" {
		if len(t.calls) >= maxSeen {
			clear(t.calls)
		}
		t.calls[callKey(operation, call)] = source
	}
	if activity.IsModelCall(operation) {
		if m, ok := t.r.model(attributes); ok {
			if _, ok := t.models[m]; !ok && len(t.models) >= maxModels {
				m = record.Model{Provider: "other", RequestModel: "other", Execution: record.ExecutionUnattested, Channel: m.Channel}
				if _, ok := t.models[m]; !ok {
					m.Channel = record.Channel{Type: record.ChannelTLSSPKI}
				}
			}
			t.models[m]++
		}
	}
}

// maxModels is how many models a session tells apart; a statement has room for 64.
const maxModels = 48

// model is what a statement says of the model that an action called.
func (r *Recorder) model(attributes map[string]any) (record.Model, bool) {
	get := func(k string) string { s, _ := attributes[k].(string); return name(s) }
	m := record.Model{Provider: get("gen_ai.provider.name"), RequestModel: get("gen_ai.request.model"), ResponseModel: get("gen_ai.response.model")}
	if m.Provider == "" {
		m.Provider = get("gen_ai.system")
	}
	if m.RequestModel == "" {
		m.RequestModel = m.ResponseModel
	}
	if m.RequestModel == "" {
		return m, false
	}
	if m.Provider == "" {
		m.Provider = "unknown"
	}
	m.Execution, m.Channel.Type = record.ExecutionUnattested, record.ChannelTLSSPKI
	if c := r.configured(&m); c != nil {
		m.Execution, m.Channel, m.ModelRun = c.Execution, c.Channel, c.ModelRun
	}
	return m, true
}

// configured returns what the configuration says of where a model runs, or nil.
func (r *Recorder) configured(m *record.Model) *Model {
	for i := range r.cfg.Models {
		c := &r.cfg.Models[i]
		if (c.Provider == "*" || c.Provider == m.Provider) && (c.Model == "*" || c.Model == m.RequestModel) {
			return c
		}
	}
	return nil
}

// name makes a *name* of s (FORMAT.md, section 2.2).
func name(s string) string {
	b := []byte(strings.TrimSpace(s))
	if len(b) > 255 {
		b = b[:255]
	}
	for i, c := range b {
		if c < 0x20 || c > 0x7e || c == '"' || c == '\\' {
			b[i] = '?'
		}
	}
	return strings.TrimSpace(string(b))
}

// write gives events to the session. t.mu is held.
func (t *track) write(events []activity.Event) (duplicates, dropped int, err error) {
	actions := make([]session.Action, 0, len(events))
	fresh := make([]*activity.Event, 0, len(events))
	batch := make(map[activity.Key]struct{}, len(events))
	for i := range events {
		e := &events[i]
		if e.Operation == "" {
			continue
		}
		if _, twice := batch[e.Key]; twice || t.known(e) {
			duplicates++
			continue
		}
		batch[e.Key] = struct{}{}
		actions = append(actions, t.action(e))
		fresh = append(fresh, e)
	}
	if len(actions) == 0 {
		return duplicates, 0, nil
	}
	_, err = t.sess.Actions(actions)
	switch {
	case errors.Is(err, record.ErrMalformed):
		// One that can't be said must not keep the others out.
		for i := range actions {
			switch _, err := t.sess.Action(actions[i]); {
			case errors.Is(err, record.ErrMalformed):
				t.r.cfg.Log.Warn("an event can't be an action", "track", t.id, "error", err)
				t.mark(fresh[i].Key)
				dropped++
				continue
			case err != nil:
				return duplicates, dropped, err
			}
			t.accept(fresh[i].Key, fresh[i].Operation, fresh[i].CallID, fresh[i].Source, actions[i].Attributes)
		}
		return duplicates, dropped, nil
	case errors.Is(err, session.ErrEnded):
		return duplicates, 0, ErrEnded
	case err != nil:
		return duplicates, 0, err
	}
	for i, e := range fresh {
		t.accept(e.Key, e.Operation, e.CallID, e.Source, actions[i].Attributes)
	}
	return duplicates, 0, nil
}

// action makes a session's action of an event.
func (t *track) action(e *activity.Event) session.Action {
	a := e.Attributes
	if a == nil {
		a = make(map[string]any, 8)
	}
	a[record.AttrOperationName] = e.Operation
	a[record.AttrConversationID] = t.m.Session
	a[activity.AttrKey] = e.Key.String()
	a[activity.AttrAgent] = e.Agent
	a[activity.AttrSource] = e.Source
	if c := activity.Text(t.m.Conversation, 256); c != "" {
		a[activity.AttrConversation] = c
	}
	return session.Action{
		TraceID: e.Trace, SpanID: e.Span, Outcome: e.Outcome, Attributes: a, Arguments: e.Arguments, Result: e.Result,
	}
}

// touch says that something was reported; turn that the agent waits for its user.
func (t *track) touch(turn bool, latest time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.turnEnded = time.Now(), turn
	if !t.closeAt.IsZero() && latest.After(t.closedAt) && !t.ended.Load() {
		// The conversation goes on.
		t.closeAt, t.m.Closing = time.Time{}, ""
		if err := t.save(); err != nil {
			t.r.cfg.Log.Error("a session's state wasn't written down", "track", t.id, "error", err)
		}
	}
}

// conversationEnded ends the session after the time for late events.
func (t *track) conversationEnded(reason string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended.Load() {
		return
	}
	t.last = time.Now()
	if at.IsZero() {
		at = t.last
	}
	t.closeAt, t.closedAt, t.m.Closing = t.last.Add(t.r.cfg.Linger), at, reason
	if err := t.save(); err != nil {
		t.r.cfg.Log.Error("a session's end wasn't written down", "track", t.id, "error", err)
	}
}

// expire ends the session if its time has come.
func (t *track) expire(now time.Time) {
	t.mu.Lock()
	reason := ""
	switch {
	case t.ended.Load():
	case !t.closeAt.IsZero() && !now.Before(t.closeAt):
		reason = t.m.Closing
	case now.Sub(t.last) >= t.r.cfg.Idle && t.turnEnded:
		reason = activity.Completed
	case now.Sub(t.last) >= t.r.cfg.Idle:
		reason = activity.Timeout
	}
	t.mu.Unlock()
	if reason != "" {
		t.end(reason, "")
	}
}

// end takes no more events, and makes run finish the session.
func (t *track) end(reason, commit string) {
	r := t.r
	r.mu.Lock()
	defer r.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended.Load() {
		return
	}
	if reason == "" {
		reason = activity.Completed
	}
	t.m.Closing, t.m.Commit, t.m.Ending = reason, commit, true
	if err := t.save(); err != nil {
		r.cfg.Log.Error("a session's end wasn't written down", "track", t.id, "error", err)
	}
	t.ended.Store(true)
	close(t.endC)
	o := owner{t.uid, t.m.Agent, t.m.Conversation}
	if r.open[o] == t {
		delete(r.open, o)
	}
	at := t.closedAt
	if at.IsZero() {
		at = time.Now()
	}
	r.ended.Add(o, at)
}

// finish logs the final record, and leaves the bundle and the private file in Out.
func (t *track) finish() error {
	r := t.r
	t.mu.Lock()
	m, s := t.m, t.sess
	t.mu.Unlock()
	if err := t.nameModels(); err != nil {
		return err
	}
	o := session.FinishOptions{EndReason: m.Closing, Retention: r.cfg.Retention, Commit: m.Commit}
	if r.cfg.Erase != nil {
		if err := r.cfg.Erase(r.ctx); err != nil {
			return fmt.Errorf("erase the workspace: %w", err)
		}
		o.WorkspaceErased = true
	}
	result, err := s.Finish(r.ctx, o)
	if err != nil {
		return err
	}
	b, err := result.Bundle.Bytes()
	if err != nil {
		return err
	}
	name := filepath.Join(r.cfg.Out, s.ID().String())
	if err := private.Put(name+".session", s.WriteFile); err != nil {
		return err
	}
	if err := private.PutBytes(name+".affidavit", b); err != nil {
		return err
	}
	st := t.status()
	st.State, st.Error, st.Start, st.Final = Done, "", reference(s.StartRef()), reference(result.Ref)
	if err := errors.Join(s.Remove(), os.RemoveAll(t.dir)); err != nil {
		r.cfg.Log.Error("a finished session's key isn't removed", "track", t.id, "error", err)
	}
	r.mu.Lock()
	delete(r.tracks, t.id)
	r.done.Add(t.id, st)
	t.mu.Lock()
	t.set(Done)
	t.sess = nil
	t.mu.Unlock()
	r.mu.Unlock()
	r.cfg.Log.Info("session finished", "session", st.Session, "index", result.Ref.Index, "actions", st.Actions, "reason", m.Closing)
	return nil
}

// close leaves the track to the next process.
func (t *track) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []error
	if t.spool != nil {
		all = append(all, t.spool.Close())
	}
	if t.sess != nil {
		all = append(all, t.sess.Close())
	}
	return errors.Join(all...)
}

// startBundle is the bundle of the session's start, which a customer's gate checks.
func (t *track) startBundle(ctx context.Context) ([]byte, error) {
	t.mu.Lock()
	s := t.sess
	t.mu.Unlock()
	if s == nil {
		return nil, fmt.Errorf("%w: the session isn't started yet", ErrBusy)
	}
	b, err := s.StartBundle(ctx)
	if err != nil {
		return nil, err
	}
	return b.Bytes()
}
