package recorder

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/inference"
	"github.com/affidavit-log/affidavit/log/record"
)

// nameModels tells the session which models it used. It may do so again, in this process or the next: what is said last
// counts, so that no call is counted twice.
func (t *track) nameModels() error {
	r := t.r
	t.mu.Lock()
	s, counted, named := t.sess, maps.Clone(t.models), t.named
	t.mu.Unlock()
	if named {
		return nil
	}
	err := r.setModels(s, r.link(s, counted))
	if err != nil && !errors.Is(err, session.ErrEnded) { // then a process before this one has told it
		return err
	}
	t.mu.Lock()
	t.named = true
	t.mu.Unlock()
	return nil
}

// setModels gives the session all of the models, if there is room for them. If not, the runs with the fewest calls lose
// their names first, and then models their own, so that no call goes unmentioned, and none looks better than it is.
func (r *Recorder) setModels(s *session.Session, models []record.Model) error {
	for {
		err := r.cfg.setModels(s, models)
		if !errors.Is(err, record.ErrTooLarge) {
			return err
		}
		if models = fewer(models); models == nil {
			return err
		}
	}
}

// fewer returns models with about a quarter less to say, or nil if nothing is left to leave out.
func fewer(models []record.Model) []record.Model {
	slices.SortStableFunc(models, func(a, b record.Model) int { return cmp.Compare(b.Calls, a.Calls) })
	named := 0
	for _, m := range models {
		if m.ModelRun != nil {
			named++
		}
	}
	if named > 0 {
		keep := named * 3 / 4
		for i := range models {
			if models[i].ModelRun != nil {
				if keep--; keep < 0 {
					models[i].ModelRun = nil
				}
			}
		}
		return merge(models)
	}
	other := record.Model{Provider: "other", RequestModel: "other", Execution: record.ExecutionUnattested, Channel: record.Channel{Type: record.ChannelTLSSPKI}}
	rest := slices.DeleteFunc(models, func(m record.Model) bool {
		is := m.Provider == other.Provider && m.RequestModel == other.RequestModel
		if is {
			other.Calls += m.Calls
		}
		return is
	})
	if len(rest) == 0 {
		return nil
	}
	keep := len(rest) * 3 / 4 // fewer than there are
	for _, m := range rest[keep:] {
		other.Calls += m.Calls
	}
	return append(rest[:keep:keep], other)
}

// merge adds up entries that differ in the number of calls only.
func merge(models []record.Model) (merged []record.Model) {
	at := make(map[record.Model]int)
	for _, m := range models {
		k := m
		k.Calls = 0
		if i, ok := at[k]; ok {
			merged[i].Calls += m.Calls
			continue
		}
		at[k] = len(merged)
		merged = append(merged, m)
	}
	return merged
}

// A gateway is who answers for the runs of some models.
type gateway struct {
	client  *inference.Client
	channel record.Channel
}

// link returns the models that a session used: those that the agent has reported, as they were counted, but for those
// whose gateway has records of its own, which come in the place of as many calls. Calls for which no record was had stay
// as they are: said to run in confidential hardware, with nothing that shows it.
func (r *Recorder) link(s *session.Session, counted map[record.Model]uint64) []record.Model {
	var models []record.Model
	reported := make(map[*gateway][]record.Model)
	for m, calls := range counted {
		m.Calls = calls
		if c := r.configured(&m); c != nil && c.gateway != nil && m.Channel == c.Channel {
			reported[c.gateway] = append(reported[c.gateway], m)
			continue
		}
		models = append(models, m)
	}
	asked := make(map[*gateway]bool)
	for i := range r.cfg.Models {
		g := r.cfg.Models[i].gateway
		if g == nil || asked[g] {
			continue
		}
		asked[g] = true
		// Asked even if the agent has reported no call: the gateway knows better.
		shown := r.runs(s, g, reported[g])
		left := make(map[string]uint64) // calls with a record, by the model that was asked for
		for _, m := range shown {
			left[m.RequestModel] += m.Calls
		}
		models = append(models, shown...)
		for _, m := range reported[g] {
			n := min(m.Calls, left[m.RequestModel])
			left[m.RequestModel] -= n
			if m.Calls -= n; m.Calls > 0 {
				r.cfg.Log.Warn("calls of a model have no record of their own", "session", s.ID(), "model", m.RequestModel, "calls", m.Calls)
				r.count(countUnlinked, int(m.Calls))
				models = append(models, m)
			}
		}
	}
	// In the same order every time.
	slices.SortFunc(models, func(a, b record.Model) int {
		return cmp.Or(strings.Compare(a.Provider, b.Provider), strings.Compare(a.RequestModel, b.RequestModel),
			strings.Compare(a.ResponseModel, b.ResponseModel), strings.Compare(digestText(a.ModelRun), digestText(b.ModelRun)))
	})
	return models
}

func digestText(d *record.Digest) string {
	if d == nil {
		return ""
	}
	return hex.EncodeToString(d[:])
}

// Pauses between questions to a gateway.
const (
	firstAsk   = 200 * time.Millisecond
	longestAsk = 5 * time.Second
)

// runs asks a gateway for the records of the session's runs until none is pending and all reported calls are in one, or
// the time is up. It returns those that are what they should be.
func (r *Recorder) runs(s *session.Session, g *gateway, reported []record.Model) []record.Model {
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.RunsWait)
	defer cancel()
	want := make(map[string]uint64)
	for _, m := range reported {
		want[m.RequestModel] += m.Calls
	}
	checked := make(map[string]*record.Model) // by statement; nil if it isn't what it should be
	flushed := false
	var last error
	for wait := firstAsk; ; wait = min(2*wait, longestAsk) {
		if !flushed {
			last = g.client.Flush(ctx)
			flushed = last == nil
		}
		var answer *inference.Runs
		if flushed {
			answer, last = g.client.Runs(ctx, s.ID())
		}
		if last == nil {
			last = r.checkRuns(ctx, s, g, answer.Runs, checked)
		}
		if last == nil {
			have := make(map[string]uint64)
			for _, m := range checked {
				if m != nil {
					have[m.RequestModel] += m.Calls
				}
			}
			missing := answer.Pending > 0
			for model, n := range want {
				missing = missing || have[model] < n
			}
			if !missing {
				break
			}
			flushed = answer.Pending == 0 // a call that was under way may have opened another run
		}
		select {
		case <-ctx.Done():
			if last == nil {
				last = errors.New("some calls have no record yet")
			}
			r.cfg.Log.Warn("a session's model runs aren't all known", "session", s.ID(), "error", last)
		case <-time.After(wait):
			continue
		}
		break
	}
	var shown []record.Model
	for _, m := range checked {
		if m != nil {
			shown = append(shown, *m)
		}
	}
	return shown
}

// checkRuns looks up in the log what a gateway says of runs, and puts those into checked that weren't there. The error is
// one of the log's; a run that isn't what it should be is reported, and nil.
func (r *Recorder) checkRuns(ctx context.Context, s *session.Session, g *gateway, runs []inference.RunInfo, checked map[string]*record.Model) error {
	for _, info := range runs {
		if _, known := checked[info.Statement]; known {
			continue
		}
		d, err := parseDigest("statement", info.Statement)
		if err == nil && d == nil {
			err = errors.New("no statement")
		}
		var m *record.Model
		if err == nil {
			p, perr := r.cfg.Session.Log.ProofByStatement(ctx, *d)
			if perr != nil {
				return fmt.Errorf("the record of model run %s: %w", info.Statement, perr)
			}
			m, err = linkRun(s, g.channel, info.Calls, p.Index, p.Extra)
		}
		if err != nil {
			r.cfg.Log.Error("a model run isn't what the gateway says", "session", s.ID(), "run", info.Statement, "error", err)
		}
		checked[info.Statement] = m
	}
	return nil
}

// linkRun returns what the session says of a run whose record is in leaf, or an error if the run isn't by whom the
// session's calls went to, or not about the session: then the two would contradict each other, which readers refuse.
func linkRun(s *session.Session, channel record.Channel, calls, index uint64, leaf []byte) (*record.Model, error) {
	l, err := record.ParseLeaf(leaf)
	if err != nil {
		return nil, err
	}
	rl, ok := l.(*record.RecordLeaf)
	if !ok || rl.Entry.Statement().ModelRun == nil {
		return nil, errors.New("the log has another record under its name")
	}
	mr, start := rl.Entry.Statement().ModelRun, s.StartRef()
	o := session.RunOptions{Provider: mr.Provider, RequestModel: mr.RequestModel, ResponseModel: mr.ResponseModel}
	switch {
	case mr.PeerChannel != channel:
		return nil, fmt.Errorf("its channel is %s %x, and the calls went to %s %x", mr.PeerChannel.Type, mr.PeerChannel.SHA256, channel.Type, channel.SHA256)
	case index <= start.Index:
		return nil, fmt.Errorf("it was logged at index %d, before the session's start at %d", index, start.Index)
	case mr.Session != nil && (mr.Session.ID != s.ID() || mr.Session.Statement != start.Statement || mr.PeerKeyID != s.Key().KeyID):
		return nil, errors.New("it served another session")
	case mr.Session != nil:
		calls = mr.Calls.Size // all of them
	case calls == 0 || calls > mr.Calls.Size:
		return nil, fmt.Errorf("%d calls of the session, of %d in all", calls, mr.Calls.Size)
	}
	return new(session.Link(rl.Entry.StatementDigest(), o, calls, channel)), nil
}
