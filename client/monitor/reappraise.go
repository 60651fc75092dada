package monitor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Today is collateral to judge past records by, and the time to judge them for.
type Today struct {
	root *tdx.Root
	sets map[string]*tdx.Set // by family
	at   time.Time
}

// NewToday verifies collateral under the monitor's root. There must be at least one set, at most one for each kind of
// platform, and each must be in force at the given time, or the monitor's present if that is zero: other collateral would
// judge every platform in the same way, namely not at all.
func (m *Monitor) NewToday(sets []*tdx.Collateral, at time.Time) (*Today, error) {
	if at.IsZero() {
		at = m.cfg.Now()
	}
	return newToday(m.cfg.Root, sets, at)
}

func newToday(root *tdx.Root, sets []*tdx.Collateral, at time.Time) (*Today, error) {
	if len(sets) == 0 {
		return nil, errors.New("no collateral")
	}
	t := &Today{root: root, sets: make(map[string]*tdx.Set), at: at.UTC()}
	for i, c := range sets {
		s, err := tdx.Compile(c, root)
		if err != nil {
			return nil, fmt.Errorf("collateral %d: %w", i+1, err)
		}
		if err := s.ValidAt(at); err != nil {
			return nil, fmt.Errorf("collateral %d: %w", i+1, err)
		}
		family := familyOf(s.FMSPC(), s.PCKCA())
		if t.sets[family] != nil {
			return nil, fmt.Errorf("collateral %d: a second set for FMSPC %s, %s CA", i+1, s.FMSPC(), s.PCKCA())
		}
		t.sets[family] = s
	}
	return t, nil
}

// parseToday returns what a request asks for.
func (m *Monitor) parseToday(q *monitorapi.ReappraiseRequest) (*Today, error) {
	sets := make([]*tdx.Collateral, len(q.Collateral))
	for i, b := range q.Collateral {
		var err error
		if sets[i], err = tdx.ParseCollateralJSON(b); err != nil {
			return nil, fmt.Errorf("collateral %d: %w", i+1, err)
		}
	}
	return m.NewToday(sets, q.At)
}

// A judge judges evidence classes, each once. It belongs to one reader.
//
// One quote of a class stands for all. The signatures of each record's quote were verified when it was audited, with
// results that collateral can't change; all else that decides is in the class, see evidenceClass.
type judge struct {
	t       *Today
	db      *pebble.Snapshot
	v       *tdx.Verifier
	classes map[Hash]*classJudgement
}

type classJudgement struct {
	monitorapi.Judgement
	notCovered bool
	err        *tdx.Error // if it isn't genuine
}

func (t *Today) judge(r *reader) *judge {
	if t == nil {
		return nil
	}
	return &judge{t: t, db: r.db, v: tdx.NewVerifier(t.root, 16), classes: make(map[Hash]*classJudgement)}
}

// class judges a class of evidence.
func (j *judge) class(class Hash) (*classJudgement, error) {
	if c, ok := j.classes[class]; ok {
		return c, nil
	}
	family, quote, err := readClass(j.db, class)
	if err != nil {
		return nil, err
	}
	c := &classJudgement{}
	if set := j.t.sets[family]; set == nil {
		c.notCovered = true
	} else if err := c.judge(j.v, quote, set, j.t.at); err != nil {
		return nil, err
	}
	j.classes[class] = c
	return c, nil
}

func (c *classJudgement) judge(v *tdx.Verifier, quote []byte, set *tdx.Set, at time.Time) error {
	q, err := tdx.ParseQuote(quote)
	if err != nil {
		return fmt.Errorf("stored quote: %w", err)
	}
	res, err := v.Verify(q, set, at)
	if err == nil {
		c.Judgement = monitorapi.Judgement{
			Genuine: true, TCBStatus: string(res.Status), TCBDate: utc(res.Platform.Date), Advisories: advisoryIDs(res),
		}
		return nil
	}
	if !errors.As(err, &c.err) {
		return err
	}
	c.Judgement = monitorapi.Judgement{Reason: string(c.err.Reason), Detail: c.err.Error(), TCBStatus: string(c.err.Status)}
	return nil
}

// readClass returns what is stored of a class: a kind of platforms, and a quote.
func readClass(db pebble.Reader, class Hash) (family string, quote []byte, err error) {
	v, closer, err := db.Get(classKey(class))
	if err != nil {
		return "", nil, fmt.Errorf("stored evidence class %s: %w", class, err)
	}
	defer closer.Close()
	d := &decoder{b: v}
	family = d.string()
	if d.bad {
		return "", nil, fmt.Errorf("stored evidence class %s is damaged", class)
	}
	return family, slices.Clone(d.b), nil
}

// statusRanks orders TCB statuses, the best first. Two configurations can't be compared in general; what matters is that
// a change of firmware outweighs one of configuration.
var statusRanks = map[string]int{
	string(tdx.StatusUpToDate):                             0,
	string(tdx.StatusSWHardeningNeeded):                    1,
	string(tdx.StatusConfigurationNeeded):                  2,
	string(tdx.StatusConfigurationAndSWHardeningNeeded):    3,
	string(tdx.StatusTDRelaunchAdvised):                    4,
	string(tdx.StatusTDRelaunchAdvisedConfigurationNeeded): 5,
	string(tdx.StatusOutOfDate):                            6,
	string(tdx.StatusOutOfDateConfigurationNeeded):         7,
}

// compare says how today's judgement of a record differs from that of its time.
func compare(rec *Record, now *classJudgement) *monitorapi.Reappraised {
	re := &monitorapi.Reappraised{Record: rec, Now: now.Judgement}
	if now.notCovered {
		re.Change = monitorapi.ChangeNotCovered
		return re
	}
	if !now.Genuine {
		switch now.err.Reason {
		case tdx.ReasonRevoked:
			re.Change = monitorapi.ChangeRevoked
		case tdx.ReasonExpired, tdx.ReasonNotYetValid:
			re.Change = monitorapi.ChangeExpired
		default:
			re.Change = monitorapi.ChangeUnrecognised
		}
		return re
	}
	for _, a := range now.Advisories {
		if !slices.Contains(rec.Advisories, a) {
			re.New = append(re.New, a)
		}
	}
	for _, a := range rec.Advisories {
		if !slices.Contains(now.Advisories, a) {
			re.Gone = append(re.Gone, a)
		}
	}
	before, after := statusRanks[rec.TCBStatus], statusRanks[now.TCBStatus]
	switch {
	case len(re.New) > 0 || after > before:
		re.Change = monitorapi.ChangeVulnerable
	case len(re.Gone) > 0 || after < before:
		re.Change = monitorapi.ChangeBetter
	default:
		re.Change = monitorapi.ChangeSame
	}
	return re
}

// Reappraise judges past records by today's collateral, and calls f with those whose judgement changed, in the order of
// the log, until f returns false; and it counts all of them. The result for each record is that of verifying its quote
// again with that collateral; but evidence that is the same in everything that Intel's rules look at is judged once.
func (m *Monitor) Reappraise(ctx context.Context, q monitorapi.ReappraiseQuery, today *Today, f func(*monitorapi.Reappraised) bool) (*monitorapi.ReappraiseSummary, error) {
	r, err := m.reader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.reappraise(ctx, q, today.judge(r), f)
}

func (r *reader) reappraise(ctx context.Context, q monitorapi.ReappraiseQuery, today *judge, f func(*monitorapi.Reappraised) bool) (*monitorapi.ReappraiseSummary, error) {
	if err := q.Normalize(); err != nil {
		return nil, err
	}
	s := &monitorapi.ReappraiseSummary{
		State: r.state, At: today.t.at, Note: monitorapi.NotABreach,
		Records: make(map[monitorapi.Change]uint64), Sessions: make(map[monitorapi.Change]uint64),
	}
	gravest := make(map[[16]byte]uint8) // of each session, by place in Changes
	classes := make(map[Hash]struct{})
	stopped := false
	err := r.evidence(ctx, Query{Vendor: q.Vendor, Tenant: q.Tenant, Since: q.Since, Until: q.Until}, func(rec *Record) (bool, error) {
		now, err := today.class(rec.EvidenceClass)
		if err != nil {
			return false, err
		}
		classes[rec.EvidenceClass] = struct{}{}
		re := compare(rec, now)
		s.Examined++
		s.Records[re.Change]++
		if rec.Session != (Hash{}) {
			id, rank := [16]byte(rec.Session[:16]), uint8(slices.Index(monitorapi.Changes, re.Change))
			if old, ok := gravest[id]; !ok || rank < old {
				gravest[id] = rank
			}
		}
		if re.Change == monitorapi.ChangeSame && !q.All || rec.Index < q.After || q.Limit > 0 && s.Listed >= uint64(q.Limit) {
			return true, nil
		}
		if err := r.complete(rec); err != nil {
			return false, err
		}
		s.Listed++
		stopped = !f(re)
		return !stopped, nil
	})
	if err != nil || stopped {
		return nil, err
	}
	for _, rank := range gravest {
		s.Sessions[monitorapi.Changes[rank]]++
	}
	s.Classes = uint64(len(classes))
	return s, nil
}
