package monitor

import (
	"context"
	"errors"
	"slices"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

// Recall calls f with each session that q is about, in the order of the log, until f returns false, and counts all of
// them: also those that f isn't called with. The sessions are those with genuine records whose evidence of hardware has
// what q names.
//
// An advisory that became known later isn't in the collateral of its time. If today isn't nil, records are judged again,
// see [Monitor.Reappraise], and those which the advisory affects by either are touched.
func (m *Monitor) Recall(ctx context.Context, q monitorapi.RecallQuery, today *Today, f func(*monitorapi.TouchedSession) bool) (*monitorapi.RecallSummary, error) {
	r, err := m.reader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.recall(ctx, q, today.judge(r), f)
}

var errNoAdvisory = errors.New("a recall with collateral is about an advisory, and there is none")

// touched counts the touched records of a session. Sessions are told apart by 128 bits of their digest, as short has it.
type touched struct {
	session [16]byte
	first   uint64
	records uint64
}

func (r *reader) recall(ctx context.Context, q monitorapi.RecallQuery, today *judge, f func(*monitorapi.TouchedSession) bool) (*monitorapi.RecallSummary, error) {
	if err := q.Normalize(); err != nil {
		return nil, err
	}
	if today != nil && q.Advisory == "" {
		return nil, errNoAdvisory
	}
	s := &monitorapi.RecallSummary{State: r.state, Today: today != nil, Note: monitorapi.NotABreach}
	scope := Query{Vendor: q.Vendor, Tenant: q.Tenant, Since: q.Since, Until: q.Until}
	about := scope
	about.FMSPC, about.Platform, about.Release = q.FMSPC, q.Platform, q.Release
	if today == nil {
		about.Advisory = q.Advisory
	}

	var sessions []touched
	places := make(map[[16]byte]int)
	touch := func(index uint64, session []byte) {
		s.Records++
		if len(session) == 0 {
			s.WithoutSession++
			return
		}
		id := [16]byte(session)
		i, ok := places[id]
		if !ok {
			i = len(sessions)
			places[id] = i
			sessions = append(sessions, touched{session: id, first: index})
		}
		sessions[i].records++
	}
	var err error
	if lists, lerr := queryPostings(&about); lerr == nil && len(lists) == 1 && scope == (Query{}) && today == nil {
		err = r.recallList(ctx, lists[0], touch)
	} else {
		err = r.evidence(ctx, about, func(rec *Record) (bool, error) {
			if today != nil {
				now, err := today.class(rec.EvidenceClass)
				if err != nil {
					return false, err
				}
				if now.notCovered {
					s.NotCovered++
				}
				if !slices.Contains(rec.Advisories, q.Advisory) && !slices.Contains(now.Advisories, q.Advisory) {
					return true, nil
				}
			}
			touch(rec.Index, recallValue(rec)[1:])
			return true, nil
		})
	}
	if err != nil {
		return nil, err
	}
	clear(places)
	s.Sessions = uint64(len(sessions))
	if s.Examined, err = r.countEvidence(ctx, scope); err != nil {
		return nil, err
	}

	for _, t := range sessions {
		if t.first < q.After {
			continue
		}
		if q.Limit > 0 && s.Listed >= uint64(q.Limit) {
			break
		}
		rec, err := r.record(t.first)
		if err != nil {
			return nil, err
		}
		ts := &monitorapi.TouchedSession{Session: rec.Session, Records: t.records, First: rec}
		if today != nil {
			now, err := today.class(rec.EvidenceClass)
			if err != nil {
				return nil, err
			}
			ts.Today = &now.Judgement
		}
		s.Listed++
		if !f(ts) {
			return nil, nil
		}
	}
	return s, ctx.Err()
}

// recallList calls f with the index and the session of all records in a list that are evidence of hardware, as the
// list has it, see recallValue.
func (r *reader) recallList(ctx context.Context, p postings, f func(index uint64, session []byte)) error {
	l, err := r.list(p, r.state.Size)
	if err != nil {
		return err
	}
	n := 0
	for ok := l.seek(0); ok; ok = l.next() {
		if n++; n&1023 == 0 && ctx.Err() != nil {
			return errors.Join(ctx.Err(), l.close())
		}
		if l.recall[0] > 0 {
			f(l.index, l.recall[1:])
		}
	}
	return l.close()
}

// evidence calls f with the genuine records with evidence of hardware that q is about, in the order of the log, without
// what other leaves say of them.
func (r *reader) evidence(ctx context.Context, q Query, f func(*Record) (bool, error)) error {
	if err := q.Normalize(); err != nil {
		return err
	}
	lists, err := queryPostings(&q)
	if err != nil {
		return err
	}
	lo, hi, err := r.span(&q)
	if err != nil {
		return err
	}
	var next uint64
	return r.join(ctx, lists, lo, hi, 0, func(i uint64) (bool, error) {
		v, err := r.value(i)
		if err != nil || v == nil {
			return true, err
		}
		rec, err := decodeRecord(i, v)
		if err != nil {
			return false, err
		}
		if !rec.Genuine || rec.EvidenceClass == (Hash{}) || !matches(&q, rec) {
			return true, nil
		}
		return f(rec)
	}, &next)
}

// countEvidence returns how many records evidence would call f with.
func (r *reader) countEvidence(ctx context.Context, q Query) (n uint64, err error) {
	if q == (Query{}) {
		n, _, err = getU64(r.db, []byte{prefixCount})
		return n, err
	}
	err = r.evidence(ctx, q, func(*Record) (bool, error) {
		n++
		return true, nil
	})
	return n, err
}
