package monitor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

// Reconcile compares a customer's own list of sessions with the log: it calls f with each session of the list, in its
// order, and then with each session in the log under one of the customer's pseudonyms that isn't in the list, until f
// returns false.
//
// A session that the log doesn't have was never logged, or not yet. One that it has under another pseudonym, vendor or
// number, or at another time, is mismatched.
func (m *Monitor) Reconcile(ctx context.Context, q *monitorapi.ReconcileRequest, f func(*monitorapi.Reconciled) bool) (*monitorapi.ReconcileSummary, error) {
	r, err := m.reader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.reconcile(ctx, q, f)
}

func (r *reader) reconcile(ctx context.Context, q *monitorapi.ReconcileRequest, f func(*monitorapi.Reconciled) bool) (*monitorapi.ReconcileSummary, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	tolerance := time.Duration(q.Tolerance) * time.Second
	if tolerance == 0 {
		tolerance = monitorapi.DefaultTolerance * time.Second
	}
	s := &monitorapi.ReconcileSummary{State: r.state, Rows: uint64(len(q.Rows)), SurplusChecked: len(q.Tenants) > 0}
	listed := make(map[Hash]bool, len(q.Rows))
	for i := range q.Rows {
		row := &q.Rows[i]
		listed[row.Session] = true
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		re, err := r.compareRow(ctx, row, tolerance)
		if err != nil {
			return nil, err
		}
		switch re.State {
		case monitorapi.StateMatched:
			s.Matched++
			if re.Record.Ended == nil {
				s.Open++
			}
		case monitorapi.StateMissing:
			s.Missing++
		default:
			s.Mismatched++
		}
		if !f(re) {
			return nil, nil
		}
	}

	counted := make(map[Hash]bool)
	tenants := slices.Clone(q.Tenants)
	slices.SortFunc(tenants, func(a, b Hash) int { return slices.Compare(a[:], b[:]) })
	for _, tenant := range slices.Compact(tenants) {
		stopped := false
		query := Query{Tenant: tenant.String(), Role: string(bundle.RoleStart), Since: q.Since, Until: q.Until}
		_, err := r.search(ctx, query, 0, func(rec *Record) bool {
			if counted[rec.Session] {
				return true
			}
			counted[rec.Session] = true
			s.Logged++
			if listed[rec.Session] {
				return true
			}
			s.Surplus++
			stopped = !f(&monitorapi.Reconciled{
				State: monitorapi.StateSurplus, Session: rec.Session, Record: rec,
				Problems: []string{"it is under your pseudonym, and not in your list"},
			})
			return !stopped
		})
		if err != nil || stopped {
			return nil, err
		}
	}
	return s, nil
}

// compareRow finds the start of a session, and compares it with the customer's row. If there are several, the one that
// agrees best with the row counts.
func (r *reader) compareRow(ctx context.Context, row *monitorapi.ReconcileRow, tolerance time.Duration) (*monitorapi.Reconciled, error) {
	best := &monitorapi.Reconciled{State: monitorapi.StateMissing, Line: row.Line, Session: row.Session}
	others, starts := 0, 0
	_, err := r.search(ctx, Query{Session: row.Session.String()}, maxOfSession, func(rec *Record) bool {
		if rec.Role != bundle.RoleStart {
			others++
			return true
		}
		starts++
		problems := rowProblems(row, rec, tolerance)
		if best.Record == nil || len(problems) < len(best.Problems) {
			best.Record, best.Problems = rec, problems
		}
		return len(best.Problems) > 0
	})
	switch {
	case err != nil:
		return nil, err
	case best.Record == nil && others > 0:
		best.Problems = []string{fmt.Sprintf("the log has %d other records of the session, and no start", others)}
	case best.Record == nil:
		best.Problems = []string{"the log has no record of the session"}
	case len(best.Problems) > 0:
		best.State = monitorapi.StateMismatched
	default:
		best.State = monitorapi.StateMatched
	}
	return best, nil
}

// maxOfSession bounds the steps in the index for one session: a vendor can log any number of records of one, and a
// customer's question must be answered nevertheless.
const maxOfSession = 10_000

// rowProblems says what in a start doesn't agree with the customer's row.
func rowProblems(row *monitorapi.ReconcileRow, rec *Record, tolerance time.Duration) (problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !rec.Genuine {
		bad("its start isn't genuine (%s)", rec.Reason)
	}
	if row.Vendor != rec.Vendor {
		bad("the vendor is %q in the log, %q in your list", rec.Vendor, row.Vendor)
	}
	if row.Sequence != 0 && row.Sequence != rec.Sequence {
		bad("the sequence number is %d in the log, %d in your list", rec.Sequence, row.Sequence)
	}
	if len(row.Tenants) > 0 && !slices.Contains(row.Tenants, rec.Tenant) {
		bad("it is under the pseudonym %s, which isn't yours", rec.Tenant)
	}
	lo, hi, what := rec.StartedOn, rec.StartedOn, "by the enclave's clock"
	if !rec.NotBefore.IsZero() && !rec.NotAfter.IsZero() {
		lo, hi, what = rec.NotBefore, rec.NotAfter, "as witnesses prove"
	}
	if row.Started.Before(lo.Add(-tolerance)) || row.Started.After(hi.Add(tolerance)) {
		if lo.Equal(hi) {
			bad("it started at %s %s, at %s in your list", isoTime(lo), what, isoTime(row.Started))
		} else {
			bad("its start was made between %s and %s %s, at %s in your list", isoTime(lo), isoTime(hi), what, isoTime(row.Started))
		}
	}
	return problems
}

func isoTime(t time.Time) string { return t.UTC().Format(time.RFC3339) }
