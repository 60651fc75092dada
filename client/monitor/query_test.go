package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
)

// A synth is an index of made-up records.
type synth struct {
	db   *pebble.DB
	x    *indexer
	size uint64
	all  []*Record // unless it would be too many
}

func newSynth(tb testing.TB) *synth {
	tb.Helper()
	db, err := openDB(tb.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { db.Close() })
	x, err := newIndexer(db)
	if err != nil {
		tb.Fatal(err)
	}
	return &synth{db: db, x: x}
}

// put adds a record at the next index.
func (s *synth) put(tb testing.TB, b *pebble.Batch, r *Record) {
	r.Index = s.size
	s.size++
	if err := s.x.put(b, r); err != nil {
		tb.Fatal(err)
	}
	if err := s.x.time(r); err != nil {
		tb.Fatal(err)
	}
	if r.Genuine && r.EvidenceClass != (Hash{}) {
		s.x.evidence++
	}
}

// commit commits a batch that records were put into.
func (s *synth) commit(tb testing.TB, b *pebble.Batch) {
	tb.Helper()
	if err := errors.Join(s.x.finish(b), b.Commit(pebble.NoSync)); err != nil {
		tb.Fatal(err)
	}
}

func (s *synth) reader(tb testing.TB) *reader {
	tb.Helper()
	r, err := newReader(s.db.NewSnapshot(), monitorapi.State{Log: "log.example.org/2026", Size: s.size})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.close() })
	return r
}

func made(kind byte, n uint64) (h Hash) {
	h[0] = kind
	binary.BigEndian.PutUint64(h[1:], n*0x9e3779b97f4a7c15) // so that the beginnings differ
	return h
}

// synthetic is a record of a log with sessions of three records each: start, final and model run, of 7 vendors on
// platforms of 5 kinds. Rare values are had by one record in 1,000.
func synthetic(rng *rand.Rand, i uint64) *Record {
	session := i / 3
	r := &Record{
		LeafHash: made('l', i), Statement: made('d', i), Profile: record.ProfileStatement,
		Vendor: fmt.Sprintf("https://vendor-%d.example", session%7), Session: made('s', session), Kind: record.KindCodingSession,
		Release: made('r', session%11), ReleaseName: "pkg:oci/sandbox", Genuine: true, HardwareBound: true,
		FMSPC: fmt.Sprintf("00000000000%d", rng.IntN(5)), Platform: fmt.Sprintf("%032x", rng.IntN(500)),
		TCBStatus: "UpToDate", TCBDate: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), EvidenceClass: made('e', uint64(rng.IntN(500))),
		Collateral: made('c', i/1000), AdmittedAt: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i) * 10 * time.Second),
		NotBefore: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(i)*10*time.Second - time.Minute),
	}
	r.JudgedAt = r.AdmittedAt
	if rng.IntN(4) == 0 {
		r.TCBStatus, r.Advisories = "OutOfDate", []string{"INTEL-SA-00001"}
	}
	if rng.IntN(1000) == 0 {
		r.Advisories = append(r.Advisories, "INTEL-SA-00002")
	}
	switch i % 3 {
	case 0:
		r.Role = bundle.RoleStart
	case 1:
		r.Role, r.Start = bundle.RoleModelRun, made('d', i-1)
		r.Models = []Model{{Provider: "provider", Name: fmt.Sprintf("model-%d", session%4), Record: true}}
	default:
		r.Role, r.Start = bundle.RoleFinal, made('d', i-2)
		r.Models = []Model{{Provider: "provider", Name: fmt.Sprintf("model-%d", session%4), Execution: record.ExecutionTEE, Record: true}}
		r.Retention, r.Enforcement = record.RetentionZero, record.EnforcementTechnical
	}
	if r.Role != bundle.RoleModelRun {
		r.Tenant, r.TenantEpoch, r.Sequence = made('t', session%97), "2026-11", session/97+1
	}
	return r
}

// fill adds n synthetic records, and a time leaf after every 100.
func (s *synth) fill(tb testing.TB, n int, keep bool) {
	tb.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	b := s.db.NewBatch()
	for i := range uint64(n) {
		r := synthetic(rng, i)
		s.put(tb, b, r)
		if keep {
			s.all = append(s.all, r)
		}
		if i%100 == 99 {
			if err := s.x.timeLeaf(b, s.size, record.Digest(made('n', i)), s.size-5, r.AdmittedAt.Add(time.Minute)); err != nil {
				tb.Fatal(err)
			}
			s.size++ // the time leaf's
			if keep {
				s.all = append(s.all, nil)
			}
		}
		if i%5000 == 4999 {
			s.commit(tb, b)
			b = s.db.NewBatch()
		}
	}
	s.commit(tb, b)
}

func (s *synth) matching(q Query) (want []uint64) {
	for i, r := range s.all {
		if r != nil && uint64(i) >= q.After && matches(&q, r) {
			want = append(want, uint64(i))
		}
	}
	if q.Limit > 0 && len(want) > q.Limit {
		want = want[:q.Limit]
	}
	return want
}

// randomQuery asks for some of the values of a record, so that there is something to find, and sometimes for others.
func randomQuery(rng *rand.Rand, from, other *Record) (q Query) {
	pick := func() *Record {
		if rng.IntN(8) == 0 {
			return other
		}
		return from
	}
	for range 1 + rng.IntN(3) {
		r := pick()
		switch rng.IntN(12) {
		case 0:
			q.Session = r.Session.String()
		case 1:
			if r.Tenant != (Hash{}) {
				q.Tenant = r.Tenant.String()
			}
		case 2:
			q.Vendor = r.Vendor
		case 3:
			q.Release = r.Release.String()
		case 4:
			q.FMSPC = r.FMSPC
		case 5:
			q.Platform = r.Platform
		case 6:
			q.TCBStatus = r.TCBStatus
		case 7:
			if len(r.Advisories) > 0 {
				q.Advisory = r.Advisories[0]
			}
		case 8:
			if len(r.Models) > 0 {
				q.Model = r.Models[0].Name
			}
		case 9:
			q.Role = string(r.Role)
		case 10:
			q.Since = r.AdmittedAt.Add(-time.Hour)
		case 11:
			q.Until = r.AdmittedAt.Add(24 * time.Hour)
		}
	}
	if !q.Since.IsZero() && !q.Until.IsZero() && !q.Since.Before(q.Until) {
		q.Until = time.Time{}
	}
	return q
}

// A search finds exactly what looking at every record finds, in one go or page by page. An index key that isn't written,
// a list that is left too early, an hour that is left out, or a cursor that is off by one makes this fail.
func TestSearchFindsAll(t *testing.T) {
	s := newSynth(t)
	s.fill(t, 3000, true)
	// A log whose clock jumps: searches by time must not rely on its order.
	b := s.db.NewBatch()
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		r := synthetic(rng, s.size)
		r.AdmittedAt = r.AdmittedAt.Add(time.Duration(rng.IntN(240)-120) * time.Hour)
		s.put(t, b, r)
		s.all = append(s.all, r)
	}
	s.commit(t, b)
	r := s.reader(t)
	records := slices.DeleteFunc(slices.Clone(s.all), func(r *Record) bool { return r == nil })
	empty := 0
	for range 80 {
		q := randomQuery(rng, records[rng.IntN(len(records))], records[rng.IntN(len(records))])
		want := s.matching(q)
		if len(want) == 0 {
			empty++
		}
		var got []uint64
		next, err := r.search(t.Context(), q, 0, func(rec *Record) bool {
			got = append(got, rec.Index)
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) || next != s.size {
			t.Fatalf("%+v:\ngot  %v, next %d\nwant %v", q, got, next, want)
		}

		// Page by page, with few steps in each.
		got = nil
		pages := 0
		for q := q; q.After < s.size; pages++ {
			left := 7
			next, err := r.search(t.Context(), q, 300, func(rec *Record) bool {
				got = append(got, rec.Index)
				left--
				return left > 0
			})
			if err != nil {
				t.Fatal(err)
			}
			if next <= q.After {
				t.Fatalf("%+v: goes on at %d", q, next)
			}
			q.After = next
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v: %d pages:\ngot  %v\nwant %v", q, pages, got, want)
		}
	}
	if empty > 40 {
		t.Errorf("%d of 80 queries find nothing", empty)
	}
}

// A search stops when its caller has gone.
func TestSearchCancelled(t *testing.T) {
	s := newSynth(t)
	s.fill(t, 3000, false)
	r := s.reader(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, q := range []Query{{}, {Vendor: "https://vendor-1.example"}, {TCBStatus: "UpToDate", Vendor: "https://vendor-1.example"}} {
		n := 0
		if _, err := r.search(ctx, q, 0, func(*Record) bool { n++; return true }); err == nil && n > 2000 {
			t.Errorf("%+v: %d records after the end", q, n)
		}
	}
}

// The time of a record is bounded by the first time leaf whose checkpoint covers it, whatever other time leaves there
// are. Taking the smallest checkpoint, or the newest leaf, makes this fail.
func TestCovering(t *testing.T) {
	s := newSynth(t)
	rng := rand.New(rand.NewPCG(5, 6))
	type timeLeaf struct {
		index, size uint64
		at          time.Time
	}
	var leaves []timeLeaf
	b := s.db.NewBatch()
	for s.size < 2000 {
		if rng.IntN(10) > 0 {
			r := synthetic(rng, s.size)
			s.put(t, b, r)
			s.all = append(s.all, r)
			continue
		}
		// Most sizes are old; some are the present one; a log can also name sizes that it has named before.
		l := timeLeaf{s.size, s.size - uint64(rng.IntN(int(min(s.size, 200))+1)), time.Unix(1e9+int64(rng.IntN(1e6)), 0).UTC()}
		if rng.IntN(10) == 0 {
			l.at = time.Time{} // witnesses without clocks
		}
		leaves = append(leaves, l)
		if err := s.x.timeLeaf(b, l.index, record.Digest(made('n', l.index)), l.size, l.at); err != nil {
			t.Fatal(err)
		}
		s.size++
		s.all = append(s.all, nil)
		if rng.IntN(20) == 0 { // continue with another indexer, as after a restart
			s.commit(t, b)
			var err error
			if s.x, err = newIndexer(s.db); err != nil {
				t.Fatal(err)
			}
			b = s.db.NewBatch()
		}
	}
	s.commit(t, b)
	r := s.reader(t)
	for n := range 4000 {
		i := uint64(n)
		if n >= 2000 {
			i = uint64(rng.IntN(2000)) // out of order, too
		}
		if s.all[i] == nil {
			continue
		}
		rec, err := r.record(i)
		if err != nil {
			t.Fatal(err)
		}
		var want timeLeaf
		k := slices.IndexFunc(leaves, func(l timeLeaf) bool { return l.size > i })
		if k < 0 {
			if rec.Covering != nil || !rec.NotAfter.IsZero() {
				t.Fatalf("record %d: covered by %d, and no leaf covers it", i, *rec.Covering)
			}
			continue
		}
		want = leaves[k]
		if rec.Covering == nil || *rec.Covering != want.index || !rec.NotAfter.Equal(want.at) {
			t.Fatalf("record %d: covered by %v at %v, want %+v", i, rec.Covering, rec.NotAfter, want)
		}
	}
}

// What is in the database beyond the state that an answer is about isn't in the answer.
func TestReaderEndsAtItsState(t *testing.T) {
	s := newSynth(t)
	s.fill(t, 299, true)
	all := s.size
	s.size = 150 // in the middle of a session: 148 and 149 are its start and model run, 150 its final
	r := s.reader(t)
	s.size = all
	n := 0
	if _, err := r.search(t.Context(), Query{}, 0, func(rec *Record) bool {
		n++
		if rec.Index >= 150 || rec.Covering != nil && *rec.Covering >= 150 || rec.Ended != nil && *rec.Ended >= 150 {
			t.Errorf("%+v", rec)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	if n != 149 { // one is a time leaf
		t.Errorf("%d records", n)
	}
	if _, err := r.record(150); err == nil {
		t.Error("a record that isn't there yet")
	}
}

// A start's end is the first one that is genuine, by its vendor, and for this start.
func TestEnded(t *testing.T) {
	s := newSynth(t)
	rng := rand.New(rand.NewPCG(7, 8))
	b := s.db.NewBatch()
	put := func(edit func(*Record)) uint64 {
		r := synthetic(rng, 0)
		r.Statement, r.Start = made('d', s.size), Hash{}
		edit(r)
		s.put(t, b, r)
		return r.Index
	}
	start := put(func(r *Record) {})
	end := func(r *Record) { r.Role, r.Start = bundle.RoleFinal, made('d', start) }
	put(func(r *Record) { end(r); r.Role = bundle.RoleModelRun })
	put(func(r *Record) { end(r); r.Vendor = "https://other.example" })
	put(func(r *Record) { end(r); r.Genuine = false })
	put(func(r *Record) { end(r); r.Start[20] ^= 1 }) // the same list, another start
	want := put(func(r *Record) { end(r); r.Role = bundle.RoleAbandoned })
	put(end)
	s.commit(t, b)
	rec, err := s.reader(t).record(start)
	if err != nil {
		t.Fatal(err)
	}
	if rec.Ended == nil || *rec.Ended != want {
		t.Errorf("ended at %v, want %d", rec.Ended, want)
	}
}

func TestRecall(t *testing.T) {
	s := newSynth(t)
	s.fill(t, 3000, true)
	b := s.db.NewBatch()
	rng := rand.New(rand.NewPCG(9, 10))
	for _, edit := range []func(*Record){
		func(r *Record) { r.Genuine = false }, // nobody vouches for what it says
		func(r *Record) { r.EvidenceClass = Hash{} },
		func(r *Record) { r.Role, r.Session, r.Start = bundle.RoleImport, Hash{}, Hash{} }, // touched, and no session
	} {
		r := synthetic(rng, 0)
		r.Advisories = []string{"INTEL-SA-00002"}
		edit(r)
		s.put(t, b, r)
		s.all = append(s.all, r)
	}
	s.commit(t, b)
	for _, q := range []monitorapi.RecallQuery{
		{Advisory: "INTEL-SA-00001"},
		{Advisory: "INTEL-SA-00002"},
		{Advisory: "INTEL-SA-00003"},
		{FMSPC: "000000000003"},
		{Platform: fmt.Sprintf("%032X", 42)},
		{Release: made('r', 3).String()},
		{Release: made('r', 3).String(), Advisory: "INTEL-SA-00001"},
		{Advisory: "INTEL-SA-00001", Vendor: "https://vendor-2.example"},
		{Advisory: "INTEL-SA-00001", Tenant: made('t', 5).String(), Since: time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC)},
		{Advisory: "INTEL-SA-00001", Limit: 3, After: 500},
	} {
		norm := q
		if err := norm.Normalize(); err != nil {
			t.Fatal(err)
		}
		scope := Query{Vendor: q.Vendor, Tenant: q.Tenant, Since: q.Since}
		about := scope
		about.Advisory, about.FMSPC, about.Platform, about.Release = norm.Advisory, norm.FMSPC, norm.Platform, norm.Release
		want := monitorapi.RecallSummary{State: monitorapi.State{Log: "log.example.org/2026", Size: s.size}, Note: monitorapi.NotABreach}
		first := make(map[Hash]uint64)
		records := make(map[Hash]uint64)
		var order []Hash
		for _, r := range s.all {
			if r == nil || !r.Genuine || r.EvidenceClass == (Hash{}) {
				continue
			}
			if matches(&scope, r) {
				want.Examined++
			}
			if !matches(&about, r) {
				continue
			}
			want.Records++
			if r.Session == (Hash{}) {
				want.WithoutSession++
				continue
			}
			if _, ok := first[r.Session]; !ok {
				first[r.Session] = r.Index
				order = append(order, r.Session)
			}
			records[r.Session]++
		}
		want.Sessions = uint64(len(order))
		order = slices.DeleteFunc(order, func(h Hash) bool { return first[h] < q.After })
		if q.Limit > 0 {
			order = order[:min(len(order), q.Limit)]
		}
		want.Listed = uint64(len(order))

		i := 0
		got, err := s.reader(t).recall(t.Context(), q, nil, func(ts *monitorapi.TouchedSession) bool {
			if i < len(order) {
				h := order[i]
				if ts.Session != h || ts.First.Index != first[h] || ts.Records != records[h] || ts.First.Index < 2900 && ts.First.Covering == nil {
					t.Errorf("%+v: session %d is %+v, %+v", q, i, ts, ts.First)
				}
			}
			i++
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&want, got); diff != "" || i != len(order) {
			t.Errorf("%+v: %d sessions, want %d\n%s", q, i, len(order), diff)
		}
	}
	if _, err := s.reader(t).recall(t.Context(), monitorapi.RecallQuery{Vendor: "https://vendor-2.example"}, nil, nil); err == nil {
		t.Error("a recall of nothing")
	}
}

// benchSize is the number of records in benchmarks. They have about ten keys each.
func benchSize() int {
	n, err := strconv.Atoi(os.Getenv("AFFIDAVIT_BENCH_RECORDS"))
	if err != nil || n < 1 {
		return 50_000
	}
	return n
}

// cpuPerOp returns a function that reports how much processor time the process has used for each operation: on a machine
// that does other things, too, wall time says little.
func cpuPerOp(b *testing.B) func() {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/1000/float64(b.N), "cpu-ms/op") }
}

// The figures of the plan are for 10 million keys and 1 million records: AFFIDAVIT_BENCH_RECORDS=1000000.
func BenchmarkQuestions(b *testing.B) {
	s := newSynth(b)
	n := benchSize()
	began := time.Now()
	s.fill(b, n, false)
	if err := s.db.Flush(); err != nil {
		b.Fatal(err)
	}
	wrote := time.Since(began)
	if err := s.db.Compact(b.Context(), []byte{0}, []byte{0xff}, true); err != nil {
		b.Fatal(err)
	}
	keys := 0
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range uint64(3000) {
		recordPostings(synthetic(rng, i), func(postings) { keys++ })
	}
	b.Logf("%d records, about %d index keys, %.0f records/s written", n, n*keys/3000, float64(n)/wrote.Seconds())
	middle := uint64(n / 2 / 3)
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n/2) * 10 * time.Second)
	for _, tt := range []struct {
		name string
		q    Query
	}{
		{"session", Query{Session: made('s', middle).String()}},
		{"tenant", Query{Tenant: made('t', 5).String()}},
		{"vendor", Query{Vendor: "https://vendor-3.example"}},
		{"vendor-late", Query{Vendor: "https://vendor-3.example", After: uint64(n) - uint64(n)/10}},
		{"platform", Query{Platform: fmt.Sprintf("%032x", 77)}},
		{"advisory-rare", Query{Advisory: "INTEL-SA-00002"}},
		{"vendor-and-tcb", Query{Vendor: "https://vendor-3.example", TCBStatus: "OutOfDate"}},
		{"vendor-advisory-model", Query{Vendor: "https://vendor-3.example", Advisory: "INTEL-SA-00002", Model: "model-1"}},
		{"tenant-of-other-vendor", Query{Tenant: made('t', 5).String(), Platform: fmt.Sprintf("%032x", 77)}},
		{"hour", Query{Since: at, Until: at.Add(time.Hour)}},
		{"day-and-role", Query{Since: at, Until: at.Add(24 * time.Hour), Role: "final"}},
		{"nothing", Query{Vendor: "https://nobody.example", TCBStatus: "UpToDate"}},
	} {
		b.Run("search/"+tt.name, func(b *testing.B) {
			defer cpuPerOp(b)()
			for b.Loop() {
				r, err := newReader(s.db.NewSnapshot(), monitorapi.State{Size: s.size})
				if err != nil {
					b.Fatal(err)
				}
				left := 100
				if _, err := r.search(b.Context(), tt.q, pageSteps, func(*Record) bool { left--; return left > 0 }); err != nil {
					b.Fatal(err)
				}
				r.close()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/page")
		})
	}
	for _, tt := range []struct {
		name string
		q    monitorapi.RecallQuery
	}{
		{"advisory-quarter", monitorapi.RecallQuery{Advisory: "INTEL-SA-00001", Limit: 1000}},
		{"advisory-rare", monitorapi.RecallQuery{Advisory: "INTEL-SA-00002", Limit: 1000}},
		{"fmspc", monitorapi.RecallQuery{FMSPC: "000000000003", Limit: 1000}},
		{"release", monitorapi.RecallQuery{Release: made('r', 3).String(), Limit: 1000}},
		{"advisory-of-vendor", monitorapi.RecallQuery{Advisory: "INTEL-SA-00001", Vendor: "https://vendor-2.example", Limit: 1000}},
	} {
		b.Run("recall/"+tt.name, func(b *testing.B) {
			defer cpuPerOp(b)()
			for b.Loop() {
				r, err := newReader(s.db.NewSnapshot(), monitorapi.State{Size: s.size})
				if err != nil {
					b.Fatal(err)
				}
				if _, err := r.recall(b.Context(), tt.q, nil, func(*monitorapi.TouchedSession) bool { return true }); err != nil {
					b.Fatal(err)
				}
				r.close()
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/recall")
		})
	}
	question := func(name string, records int, f func(r *reader) error) {
		b.Run(name, func(b *testing.B) {
			defer cpuPerOp(b)()
			for b.Loop() {
				r, err := newReader(s.db.NewSnapshot(), monitorapi.State{Size: s.size})
				if err != nil {
					b.Fatal(err)
				}
				if err := f(r); err != nil {
					b.Fatal(err)
				}
				r.close()
			}
			b.ReportMetric(float64(records)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}

	// Each of the evidence classes gets a quote, which today's collateral is about.
	room := newMachineRoom(b, rng, 20)
	for class := range uint64(500) {
		p := room.platforms[rng.IntN(len(room.platforms))]
		v := append(appendString(nil, familyOf(lowerHex(p.FMSPC()), p.CA())), roomQuote(b, rng, p)...)
		if err := s.db.Set(classKey(made('e', class)), v, pebble.NoSync); err != nil {
			b.Fatal(err)
		}
	}
	now := roomFrom.AddDate(0, 1, 0)
	today, err := newToday(room.root, room.sets(b, rng, now, 1), now)
	if err != nil {
		b.Fatal(err)
	}
	question("reappraise", n, func(r *reader) error {
		sum, err := r.reappraise(b.Context(), monitorapi.ReappraiseQuery{Limit: 1000}, today.judge(r), func(*monitorapi.Reappraised) bool { return true })
		if err == nil && (sum.Examined != uint64(n) || sum.Listed == 0) {
			err = fmt.Errorf("%+v", sum)
		}
		return err
	})

	// A customer with ten thousand sessions, or as many as there are.
	list := &monitorapi.ReconcileRequest{Tenants: []Hash{made('t', 5)}}
	for k := range uint64(min(10_000, n/3)) {
		session := k * (uint64(n) / 3) / uint64(min(10_000, n/3))
		list.Rows = append(list.Rows, monitorapi.ReconcileRow{
			Session: made('s', session), Vendor: fmt.Sprintf("https://vendor-%d.example", session%7), Started: at,
		})
	}
	question("reconcile", len(list.Rows), func(r *reader) error {
		sum, err := r.reconcile(b.Context(), list, func(*monitorapi.Reconciled) bool { return true })
		if err == nil && (sum.Missing > 0 || sum.Surplus == 0) {
			err = fmt.Errorf("%+v", sum)
		}
		return err
	})
	question("vendor-check", n/7, func(r *reader) error {
		c, err := r.vendorCheck(b.Context(), monitorapi.VendorCheckQuery{Vendor: "https://vendor-3.example"})
		if err == nil && c.Records.Of < uint64(n)/8 {
			err = fmt.Errorf("%+v", c)
		}
		return err
	})
}

// Lists that are gone through within each other, by the reader's one iterator or their own, keep their places.
func TestNestedScans(t *testing.T) {
	s := newSynth(t)
	s.fill(t, 5000, true)
	r := s.reader(t)
	for outer := range 3 {
		var got, want []uint64
		vendor := fmt.Sprintf("https://vendor-%d.example", outer)
		for _, rec := range s.all {
			if rec != nil && rec.Vendor == vendor {
				want = append(want, rec.Index)
			}
		}
		err := r.scan(stringPostings(keyVendor, vendor), 0, func(i uint64) (bool, error) {
			got = append(got, i)
			_, ok, err := r.first(hashPostings(keySession, s.all[i].Session))
			if !ok {
				t.Errorf("record %d isn't in the list of its session", i)
			}
			return true, err
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d records, want %d: %v", vendor, len(got), len(want), err)
		}
	}
}
