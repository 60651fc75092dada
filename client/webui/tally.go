package webui

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/client/monitor"
)

// Limits of a tally. Who logs records chooses vendors, and the log chooses days: what is beyond is counted together.
const (
	maxDays       = 10_000
	maxNames      = 1_000
	maxReferences = 200_000 // of findings, 64 bytes each; the oldest are forgotten

	// tallyRequest is how many records a request counts, in a few milliseconds; tallyRun is how many Run does at once.
	tallyRequest = 64
	tallyRun     = 2_000
)

// A tally counts what the index has, in passes that go on where the last one ended, since nothing in a log changes.
type tally struct {
	// advancing is held while records are read, which takes a while, and mu, which guards all that follows, while they are
	// counted, so that pages don't wait for reading. Whoever holds both took advancing first.
	advancing sync.Mutex
	mu        sync.Mutex

	next       uint64 // leaves below are counted
	records    uint64
	days       map[string]*dayCount
	vendors    map[string]uint64
	advisories map[string]uint64

	seq        uint64 // findings up to here are known
	references []reference
}

type dayCount struct {
	records uint64
	status  map[string]uint64 // by TCB status; "" has no evidence of hardware, or none that is genuine
}

// A reference is what the filter of the list of findings needs to know.
type reference struct {
	seq      uint64
	class    monitor.Class
	severity monitor.Severity
	kind     monitor.Kind
}

func (t *tally) init() {
	t.days, t.vendors, t.advisories = make(map[string]*dayCount), make(map[string]uint64), make(map[string]uint64)
}

func (t *tally) counted() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}

// advance counts up to limit more records and findings, and reports whether there may be more. If somebody else is at it,
// it does nothing.
func (u *UI) advance(ctx context.Context, limit int) (bool, error) {
	t := &u.tally
	if !t.advancing.TryLock() {
		return true, nil
	}
	defer t.advancing.Unlock()
	t.mu.Lock()
	seq, next := t.seq, t.next
	t.mu.Unlock()
	found, err := u.cfg.Monitor.Findings(seq, limit)
	if err != nil {
		return false, err
	}
	var records []*monitor.Record
	for r, err := range u.cfg.Monitor.Search(ctx, monitor.Query{After: next, Limit: limit}) {
		if err != nil {
			return false, err
		}
		records = append(records, r)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range found {
		t.references = append(t.references, reference{f.Seq, f.Class, f.Severity, f.Kind})
		t.seq = f.Seq
	}
	if n := len(t.references) - maxReferences; n > 0 {
		t.references = slices.Delete(t.references, 0, n)
	}
	for _, r := range records {
		t.next = r.Index + 1
		t.count(r)
	}
	return len(records) == limit || len(found) == limit, nil
}

func (t *tally) count(r *monitor.Record) {
	t.records++
	addDay(t.days, r)
	addName(t.vendors, r.Vendor)
	for _, a := range r.Advisories {
		addName(t.advisories, a)
	}
}

func addDay(days map[string]*dayCount, r *monitor.Record) {
	day := r.AdmittedAt.UTC().Format(time.DateOnly)
	d := days[day]
	if d == nil {
		if len(days) >= maxDays {
			return
		}
		d = &dayCount{status: make(map[string]uint64)}
		days[day] = d
	}
	d.records++
	d.status[r.TCBStatus]++
}

func addName(m map[string]uint64, name string) {
	if _, ok := m[name]; ok || len(m) < maxNames {
		m[name]++
	}
}

// A named is a name with a number.
type named struct {
	Name string
	N    uint64
}

// most returns the names with the largest numbers.
func most(m map[string]uint64, n int) []named {
	var all []named
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, named{k, m[k]})
	}
	slices.SortStableFunc(all, func(a, b named) int { return cmp.Compare(b.N, a.N) })
	return all[:min(n, len(all))]
}

// matching returns up to n references that f accepts, newest first, with sequence numbers below before (0 is no bound), and
// whether there are more.
func (t *tally) matching(before uint64, n int, f func(reference) bool) (found []reference, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := len(t.references) - 1; i >= 0; i-- {
		r := t.references[i]
		if before > 0 && r.seq >= before || !f(r) {
			continue
		}
		if len(found) == n {
			return found, true
		}
		found = append(found, r)
	}
	return found, false
}
