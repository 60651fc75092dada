package session

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/affidavit-log/affidavit/log/record"
)

// A Run records what a model server or a gateway does, for one session or for an interval. Its methods can be used
// concurrently.
type Run struct{ l *ledger }

// NewRun begins a model run, with a key and a journal of its own. Nothing is logged before Finish.
func NewRun(c Config) (*Run, error) {
	l, err := create(c, kindRun)
	if err != nil {
		return nil, err
	}
	return &Run{l}, nil
}

// ResumeRun goes on with a model run whose process has died, see [Journals] and [Run.ID].
func ResumeRun(c Config, id record.SessionID) (*Run, error) {
	l, err := open(c, kindRun, id)
	if err != nil {
		return nil, err
	}
	return &Run{l}, nil
}

// ID returns the name of the run's journal. It is in no record.
func (r *Run) ID() record.SessionID { return r.l.id }

// Key returns the public half of the run's key.
func (r *Run) Key() record.SessionKey { return r.l.sessionKey() }

// Call records a call that the model answered for a session, and returns its index in the tree. It is like
// [Session.Action]. Calls for sessions that aren't recorded have an id of the server's own choice.
func (r *Run) Call(session record.SessionID, a Action) (index uint64, err error) {
	return r.l.append([]Action{a}, func(int) record.SessionID { return session })
}

// Count returns the number of calls so far.
func (r *Run) Count() uint64 {
	r.l.mu.Lock()
	defer r.l.mu.Unlock()
	return r.l.documents.size
}

// Served says that the run serves the session whose start has the given statement digest. The record gets the root of
// a salted tree of them: who is served learns nothing about the others. A session that was named before isn't named
// again.
func (r *Run) Served(id record.SessionID, start record.Digest) error {
	l := r.l
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.frozen || l.end.entry != nil:
		return ErrEnded
	case l.servedID[id]:
		return nil
	}
	s := Served{ID: id, Start: start}
	l.enc.salt(s.Salt[:])
	if err := l.write(frameServed, s.marshal()); err != nil {
		return err
	}
	l.served.add(s.leaf())
	l.servedID[id] = true
	return nil
}

// RunOptions describe a model run. FORMAT.md, section 2.7, has the meaning of the fields.
type RunOptions struct {
	Provider      string
	RequestModel  string
	ResponseModel string         // optional
	Weights       *record.Digest // of the weights that were loaded; nil for a gateway, which doesn't know them
	BOM           *record.Document

	// Channel is the key by which those who were served have reached this TD.
	Channel record.Channel

	// Session is the one session that was served, and PeerKeyID its key's; for a run that serves many, Session is nil,
	// PeerKeyID empty, and [Run.Served] names them.
	Session   *record.ServedSession
	PeerKeyID string

	// Upstream is where a gateway went on to.
	Upstream []record.Upstream
}

// Finish logs the model-run record. It can be called again after an error, like [Session.Finish]. The record must be in
// the log after the starts of the sessions that it names, and before their ends.
func (r *Run) Finish(ctx context.Context, o RunOptions) (*Result, error) {
	l := r.l
	l.op.Lock()
	defer l.op.Unlock()
	return l.finish(ctx, func(ctx context.Context) (*record.Statement, error) {
		f, err := l.fresh(ctx, 0)
		if err != nil {
			return nil, err
		}
		env, err := l.environment(ctx, f)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if o.Session == nil && l.served.size == 0 {
			return nil, errors.New("model run that has served no session")
		}
		m := &record.ModelRun{
			Provider: o.Provider, RequestModel: o.RequestModel, ResponseModel: o.ResponseModel, Weights: o.Weights, BOM: o.BOM,
			Calls: l.documents.tree(), SessionKey: l.sessionKey(), Freshness: f, Environment: env,
			PeerKeyID: o.PeerKeyID, PeerChannel: o.Channel, Session: o.Session, Upstream: append([]record.Upstream{}, o.Upstream...),
		}
		if l.served.size > 0 {
			m.SessionsServed = new(l.served.tree())
		}
		return &record.Statement{Vendor: l.cfg.Vendor, ModelRun: m}, nil
	})
}

// Link returns what the session that was served says of a model run, in its own [Session.ModelRun]: o is what the run
// was finished with, calls the number of calls by the session's own count, and channel the key that its calls went to.
func Link(run record.Digest, o RunOptions, calls uint64, channel record.Channel) record.Model {
	return record.Model{
		Provider: o.Provider, RequestModel: o.RequestModel, ResponseModel: o.ResponseModel, Calls: calls,
		Execution: record.ExecutionTEE, Channel: channel, ModelRun: &run,
	}
}

// WriteFile writes the private file of the run: its calls and the sessions that it served, with their salts.
func (r *Run) WriteFile(w io.Writer) error { return r.l.writeFile(w) }

// Close leaves the run to be resumed, by this process or another.
func (r *Run) Close() error { return r.l.Close() }

// Remove destroys the key and removes the journal.
func (r *Run) Remove() error { return r.l.Remove() }

// A ServedProof shows the owner of a session that a model run has named it, and nothing about other sessions.
type ServedProof struct {
	Served
	Index uint64
	Tree  record.Tree
	Path  []record.Digest
}

// Verify checks that the session is in the tree of served sessions with this root and size, which come from a verified
// model-run statement (SessionsServed).
func (p *ServedProof) Verify(t record.Tree) error {
	if p.Tree != t {
		return fmt.Errorf("proof for a tree of size %d with root %x, not of size %d with root %x", p.Tree.Size, p.Tree.Root, t.Size, t.Root)
	}
	if p.Index >= t.Size {
		return fmt.Errorf("index %d in a tree of size %d", p.Index, t.Size)
	}
	d := record.Disclosure{Salt: p.Salt, Bytes: record.ServedSessionDocument(p.ID, p.Start), Index: p.Index, Tree: p.Tree, Path: p.Path}
	return d.Verify(t.Root, t.Size)
}

// ProveServed reads a model run's file, and returns the proof for one session.
func ProveServed(r io.Reader, id record.SessionID) (*ServedProof, error) {
	f, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	for {
		if _, _, err := f.Next(); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
	}
	var p *ServedProof
	var leaves []record.Digest
	for f.header.Served.Size > 0 {
		s, err := f.NextServed()
		if err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		if s.ID == id && p == nil {
			p = &ServedProof{Served: *s, Index: uint64(len(leaves)), Tree: f.header.Served}
		}
		leaves = append(leaves, s.leaf())
	}
	if p == nil {
		return nil, fmt.Errorf("session %s is not among those served", id)
	}
	p.Path = record.ActionProof(leaves, p.Index)
	return p, nil
}
