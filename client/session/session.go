// Package session records an AI agent's session inside a trust domain (TD): it logs the start with the keys that customers
// will talk to, keeps what the agent does as private documents of which the log gets one salted root, and logs the end.
// See README.md for a way from nothing to a logged session.
//
// What is said here of guest memory and crashes holds for a crash of the process. When the TD ends, the session's key
// is gone with it, and nobody can finish the session.
package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
)

// Options describe one session. Fields are required unless they say otherwise; FORMAT.md, section 2.4, has their
// meaning.
type Options struct {
	Kind           string        // record.KindCodingSession by default
	Tenant         record.Digest // the customer's pseudonym for the month, see record.TenantPseudonym
	TenantEpoch    string        // its month, such as "2026-11"
	Sequence       uint64        // optional
	IsolationScope string        // record.IsolationSession by default

	// Channels are the keys that the customer will talk to: [TLSChannel] for the certificate that this TD serves. A
	// customer's gate sends nothing to any other key.
	Channels []record.Channel

	// Challenge is the customer's salted challenge: optional.
	Challenge *record.Digest
}

// TLSChannel returns the channel of a TLS certificate, given its SubjectPublicKeyInfo in DER (RawSubjectPublicKeyInfo of
// an x509.Certificate).
func TLSChannel(spki []byte) record.Channel {
	return record.Channel{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256(spki)}
}

// HPKEChannel returns the channel of an HPKE public key, encoded as RFC 9180 has it (SerializePublicKey).
func HPKEChannel(key []byte) record.Channel {
	return record.Channel{Type: record.ChannelHPKEKey, SHA256: sha256.Sum256(key)}
}

// A Session is a session that is being recorded. Its methods can be used concurrently.
type Session struct {
	l *ledger
	o Options // of a start that isn't made yet
}

// A PendingError says that a session's start is on its way into the log, and that it isn't known to have arrived.
// [Resume] sends it again, and [Discard] gives it up.
type PendingError struct {
	ID  record.SessionID
	Err error
}

func (e *PendingError) Error() string {
	return fmt.Sprintf("session %s isn't known to have started: %v", e.ID, e.Err)
}

// Unwrap returns e.Err.
func (e *PendingError) Unwrap() error { return e.Err }

// Start begins a session: it makes a key that never leaves the TD, and logs the start. When it returns, the start is in
// a published checkpoint, and customers may send their data.
//
// The error is a *[PendingError] if the start may be in the log all the same. Otherwise nothing is left of it.
func Start(ctx context.Context, c Config, o Options) (*Session, error) {
	if o.Kind == "" {
		o.Kind = record.KindCodingSession
	}
	if o.IsolationScope == "" {
		o.IsolationScope = record.IsolationSession
	}
	l, err := create(c, kindSession)
	if err != nil {
		return nil, err
	}
	s := &Session{l: l, o: o}
	if err := s.land(ctx); err != nil {
		if l.start.entry != nil {
			return nil, errors.Join(&PendingError{l.id, err}, l.Close())
		}
		return nil, errors.Join(err, l.Remove())
	}
	return s, nil
}

// Resume goes on with a session whose process has died, see [Journals]: no action that was acknowledged is missing. If
// its start wasn't known to be logged, Resume submits it again, and needs ctx for that.
//
// The error wraps [os.ErrNotExist] if there is no journal, such as after [Session.Remove], also if the process died in it.
// The error wraps [ErrNotStarted] if no start was ever submitted; the journal is then removed. It wraps [ErrInUse] if
// the session is open elsewhere, and is a *[PendingError] if the start still isn't known to be logged.
func Resume(ctx context.Context, c Config, id record.SessionID) (*Session, error) {
	l, err := open(c, kindSession, id)
	if err != nil {
		return nil, err
	}
	s := &Session{l: l}
	switch {
	case l.start.entry == nil:
		return nil, errors.Join(fmt.Errorf("session %s: %w", id, ErrNotStarted), l.Remove())
	case l.start.logged:
		return s, nil
	}
	st := l.start.entry.Statement().Start
	s.o = Options{
		Kind: st.Kind, Tenant: st.Tenant, TenantEpoch: st.TenantEpoch, Sequence: st.Sequence,
		IsolationScope: st.IsolationScope, Channels: st.Channels, Challenge: st.Challenge,
	}
	if err := s.land(ctx); err != nil {
		return nil, errors.Join(&PendingError{id, err}, l.Close())
	}
	return s, nil
}

// land logs the start.
func (s *Session) land(ctx context.Context) error {
	l := s.l
	l.op.Lock()
	defer l.op.Unlock()
	return l.land(ctx, &l.start, frameStart, frameStarted, func(ctx context.Context) (*record.Statement, error) {
		f, err := l.fresh(ctx, 0)
		if err != nil {
			return nil, err
		}
		env, err := l.environment(ctx, f)
		if err != nil {
			return nil, err
		}
		channels := s.o.Channels
		if channels == nil {
			channels = []record.Channel{}
		}
		return &record.Statement{
			Vendor: l.cfg.Vendor,
			Start: &record.SessionStart{
				SessionInfo: record.SessionInfo{
					ID: l.id, Kind: s.o.Kind, Tenant: s.o.Tenant, TenantEpoch: s.o.TenantEpoch, Sequence: s.o.Sequence,
					StartedOn: l.cfg.now(), IsolationScope: s.o.IsolationScope,
				},
				SessionKey: l.sessionKey(), Freshness: f, Environment: env, Channels: channels, Challenge: s.o.Challenge,
			},
		}, nil
	})
}

// ID returns the session's id.
func (s *Session) ID() record.SessionID { return s.l.id }

// Key returns the public half of the session's key. Model runs name its KeyID as their peer.
func (s *Session) Key() record.SessionKey { return s.l.sessionKey() }

// StartRef returns where the start is in the log. Customers, and model runs, name it by its Statement.
func (s *Session) StartRef() record.StatementRef {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.l.start.ref()
}

// StartBundle returns the bundle of the start, which a customer's gate checks.
func (s *Session) StartBundle(ctx context.Context) (*bundle.Bundle, error) {
	return s.l.cfg.Log.AssembleBundle(ctx, s.StartRef().Index)
}

// Action records an action, and returns its index in the tree. When it returns without an error, the action is in the
// journal, and survives the process. The error wraps [record.ErrMalformed] if the action isn't one that a document can
// say, and [ErrEnded] if the end of the session is being made.
func (s *Session) Action(a Action) (index uint64, err error) {
	return s.l.append([]Action{a}, func(int) record.SessionID { return s.l.id })
}

// Actions records several actions, in this order, with one write. It records all or none, and returns the index of the
// first.
func (s *Session) Actions(as []Action) (first uint64, err error) {
	return s.l.append(as, func(int) record.SessionID { return s.l.id })
}

// Count returns the number of actions so far.
func (s *Session) Count() uint64 {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.l.documents.size
}

// addModel adds m's calls to those of the same model, or m to the list.
func addModel(models []record.Model, m record.Model) []record.Model {
	for i := range models {
		o := &models[i]
		if o.Provider == m.Provider && o.RequestModel == m.RequestModel && o.ResponseModel == m.ResponseModel &&
			o.Execution == m.Execution && o.Channel == m.Channel && equal(o.ModelRun, m.ModelRun) {
			o.Calls += m.Calls
			return models
		}
	}
	return append(models, m)
}

func equal(a, b *record.Digest) bool { return a == b || a != nil && b != nil && *a == *b }

// ModelRun says that the session used a model, for m.Calls calls. With m.ModelRun it links the model's own record, which
// must have been logged after the session's start. Calls of the same model over the same channel with the same record
// add up.
//
// The error says that the model isn't one that a statement can name, or that the session has used so many that there
// is no room for it: then calls that are alike should be given as one.
func (s *Session) ModelRun(m record.Model) error {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen || l.end.entry != nil {
		return ErrEnded
	}
	models := addModel(slices.Clone(l.models), m)
	if err := s.fits(models); err != nil {
		return err
	}
	b, err := marshalModel(&m)
	if err != nil {
		return err
	}
	if err := l.write(frameModel, b); err != nil {
		return err
	}
	l.models = models
	return nil
}

// SetModels says which models the session used, all of them, in the place of what was said before: for who counts calls
// itself, and must not have them counted twice when it says it again after a crash. Entries that are alike add up.
//
// The error wraps [record.ErrTooLarge] if there is no room for so many in the statement, and what was said before stays.
func (s *Session) SetModels(ms []record.Model) error {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen || l.end.entry != nil {
		return ErrEnded
	}
	var models []record.Model
	for _, m := range ms {
		models = addModel(models, m)
	}
	if err := s.fits(models); err != nil {
		return err
	}
	b, err := marshalModels(models)
	if err != nil {
		return err
	}
	if err := l.write(frameModels, b); err != nil {
		return err
	}
	l.models = models
	return nil
}

// maxModels bounds the models of a statement (FORMAT.md, section 2.5).
const maxModels = 64

// fits refuses models that can't be in the statement. l.mu is held.
func (s *Session) fits(models []record.Model) error {
	if len(models) > maxModels {
		return fmt.Errorf("%w: %d models, more than %d", record.ErrTooLarge, len(models), maxModels)
	}
	l := s.l
	// The statement as it would be, with room for larger numbers and counts, shows it.
	f := l.start.entry.Statement().Start.Freshness
	f.Size = l.start.index + 1
	b, err := s.final(FinishOptions{}, f, record.Environment{}, models).Marshal()
	if err != nil {
		return err
	}
	if len(b) > record.MaxPayload-reserved {
		return fmt.Errorf("%w: no room for another model", record.ErrTooLarge)
	}
	return nil
}

// reserved is the room in a statement for what isn't known before the end: digits, an event log, accelerators, the
// list of reasons for retention, and the commitment to a commit.
const reserved = 8 << 10

// FinishOptions describe the end of a session.
type FinishOptions struct {
	EndReason string // record.EndCompleted by default

	// Retention is what is claimed about the customer's data. By default nothing is claimed.
	Retention record.Retention

	// WorkspaceErased says that the workspace has been erased, before Finish was called.
	WorkspaceErased bool

	// Commit is the id of the git commit that the session made, in hexadecimal: optional. The statement commits to it,
	// and the owner's file has the salt.
	Commit string

	// EventLog is the digest of the event log, if there is a newer one than in Config.Environment: optional.
	EventLog *record.Digest
}

// final returns the final statement but for what l.environment adds. l.mu is held.
func (s *Session) final(o FinishOptions, f record.Freshness, env record.Environment, models []record.Model) *record.Statement {
	l := s.l
	start := l.start.entry.Statement()
	// Start and final must agree, whatever the configuration says now.
	env.Release, env.PersistentStorage, env.EgressPolicy = start.Start.Environment.Release, start.Start.Environment.PersistentStorage, start.Start.Environment.EgressPolicy
	if o.EventLog != nil {
		env.EventLog = o.EventLog
	}
	if o.EndReason == "" {
		o.EndReason = record.EndCompleted
	}
	if o.Retention.Claim == "" {
		o.Retention = record.Retention{Claim: record.RetentionNone, Enforcement: record.EnforcementPolicy}
	}
	st := &record.Session{
		SessionInfo: start.Start.SessionInfo,
		FinishedOn:  latest(start.Start.StartedOn, l.cfg.now()), // a clock may be set back
		EndReason:   o.EndReason,
		Start:       l.start.ref(),
		SessionKey:  l.sessionKey(), Freshness: f, Environment: env,
		Models:          append([]record.Model{}, models...),
		Actions:         record.Actions{Tree: l.documents.tree(), Counts: maps.Clone(l.counts), Outcomes: maps.Clone(l.outcomes)},
		Retention:       o.Retention,
		WorkspaceErased: o.WorkspaceErased,
	}
	if l.commit.id != "" {
		h := sha256.New()
		h.Write(l.commit.salt[:])
		io.WriteString(h, l.commit.id)
		st.OutputCommit = new(record.Digest(h.Sum(nil)))
	}
	return &record.Statement{Vendor: start.Vendor, Session: st}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// A Result is a session's end.
type Result struct {
	Ref    record.StatementRef // of the final, abandoned or model-run record
	Entry  *record.Entry
	Bundle *bundle.Bundle // what it proves, for the customer and its auditors
}

// Finish ends the session: it freezes the actions, and logs the final record. It waits until the log has a note that
// covers the start, which can take a minute after Start.
//
// After an error Finish can be called again, in this process or after [Resume], and goes on where it was: there is never
// a second final record. Until the final statement is made, actions are accepted again. Once it is, it stays, and the
// options of later calls don't count. Finish can also be called again after it has succeeded, for a bundle that may
// say more.
//
// The owner's private file is written by [Session.WriteFile].
func (s *Session) Finish(ctx context.Context, o FinishOptions) (*Result, error) {
	if o.Commit != "" && !isCommit(o.Commit) {
		return nil, fmt.Errorf("commit %.80q is not a git object id", o.Commit)
	}
	return s.finish(ctx, func(f record.Freshness, env record.Environment) *record.Statement {
		if s.l.commit = (commit{id: o.Commit}); o.Commit != "" {
			rand.Read(s.l.commit.salt[:])
		}
		st := s.final(o, f, env, s.l.models)
		if b, err := st.Marshal(); errors.Is(err, record.ErrTooLarge) || len(b) > record.MaxPayload {
			st.Session.Actions.Counts = nil // optional, and up to 5 KB
		}
		return st
	}, func(st *record.Statement) bool { return st.Session != nil })
}

// Abandon ends the session without a final record: reason is one of the record.Abandoned constants. It can be called
// again like [Session.Finish], but not after it, nor the other way around.
func (s *Session) Abandon(ctx context.Context, reason string) (*Result, error) {
	return s.finish(ctx, func(f record.Freshness, env record.Environment) *record.Statement {
		l := s.l
		start := l.start.entry.Statement()
		env.Release, env.PersistentStorage, env.EgressPolicy = start.Start.Environment.Release, start.Start.Environment.PersistentStorage, start.Start.Environment.EgressPolicy
		l.commit = commit{}
		return &record.Statement{Vendor: start.Vendor, Abandoned: &record.SessionAbandoned{
			ID: l.id, Sequence: start.Start.Sequence, Start: l.start.ref(), Reason: reason,
			AbandonedOn: latest(start.Start.StartedOn, l.cfg.now()),
			SessionKey:  new(l.sessionKey()), Freshness: &f, Environment: &env,
		}}
	}, func(st *record.Statement) bool { return st.Abandoned != nil })
}

// finish logs the end that statement returns, which is called with l.mu held. is tells whether an end is of its kind.
func (s *Session) finish(ctx context.Context, statement func(record.Freshness, record.Environment) *record.Statement, is func(*record.Statement) bool) (*Result, error) {
	l := s.l
	l.op.Lock()
	defer l.op.Unlock()
	if l.end.entry != nil && !is(l.end.entry.Statement()) {
		return nil, ErrEnded
	}
	return l.finish(ctx, func(ctx context.Context) (*record.Statement, error) {
		f, err := l.fresh(ctx, l.start.index+1)
		if err != nil {
			return nil, err
		}
		env, err := l.environment(ctx, f)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return statement(f, env), nil
	})
}

// finish logs the end, and assembles its bundle. l.op is held.
func (l *ledger) finish(ctx context.Context, statement func(context.Context) (*record.Statement, error)) (*Result, error) {
	if !l.end.logged {
		l.mu.Lock()
		l.frozen = true
		l.mu.Unlock()
		err := l.land(ctx, &l.end, frameEnd, frameEnded, statement)
		l.mu.Lock()
		l.frozen = false // the end's entry is what counts from here
		l.mu.Unlock()
		if err != nil {
			return nil, err
		}
	}
	r := &Result{Ref: l.end.ref(), Entry: l.end.entry}
	var err error
	if r.Bundle, err = l.cfg.Log.AssembleBundle(ctx, r.Ref.Index); err != nil {
		return nil, fmt.Errorf("the end is logged, at index %d; its bundle: %w", r.Ref.Index, err)
	}
	return r, nil
}

// WriteFile writes the private file of the session's owner: the documents of all actions with their salts, and what
// was kept of their content. See README.md for its format, and [NewReader]. It can be called at any time; before the end
// is logged, what it writes is for actions so far, and shows nothing of the end.
func (s *Session) WriteFile(w io.Writer) error { return s.l.writeFile(w) }

// Close leaves the session to be resumed, by this process or another.
func (s *Session) Close() error { return s.l.Close() }

// Remove destroys the key and removes the journal, with all salts and documents: call it when the owner has its file.
func (s *Session) Remove() error { return s.l.Remove() }
