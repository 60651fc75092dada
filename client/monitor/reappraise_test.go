package monitor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// A machine room has platforms of two kinds and both authorities, with all sorts of firmware.
type machineRoom struct {
	pki       *tdxsim.PKI
	root      *tdx.Root
	platforms []*tdxsim.Platform
}

var roomFrom = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

var roomFMSPCs = []string{tdxsim.DefaultFMSPC, "00806F050000"}

func newMachineRoom(t testing.TB, rng *rand.Rand, n int) *machineRoom {
	t.Helper()
	m := &machineRoom{pki: tdxsim.NewPKI([]byte("machine room"), roomFrom)}
	var err error
	if m.root, err = tdx.ParseRoot(m.pki.Root()); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		pcesvn, qesvn := uint16(4+rng.IntN(12)), uint16(1+rng.IntN(5))
		svns := tdxsim.DefaultSVNs
		for k := range svns {
			svns[k] = uint8(max(0, int(svns[k])+1-rng.IntN(3)))
		}
		tee := [16]byte{uint8(rng.IntN(7)), []uint8{0, 1, 1, 1, 3}[rng.IntN(5)], uint8(1 + rng.IntN(2))}
		o := tdxsim.PlatformOptions{
			Name: fmt.Sprint(i), FMSPC: roomFMSPCs[rng.IntN(2)], CA: []string{tdxsim.PlatformCA, tdxsim.ProcessorCA}[rng.IntN(2)],
			SVNs: &svns, PCESVN: &pcesvn, TEETCBSVN: &tee, QE: tdxsim.QEOptions{ISVSVN: &qesvn},
		}
		if rng.IntN(4) == 0 {
			o.NotAfter = roomFrom.AddDate(0, 3, 0) // not valid any more when it is judged again
		}
		m.platforms = append(m.platforms, m.pki.NewPlatform(o))
	}
	return m
}

// sets returns collateral for all kinds of platforms, issued at a time, with levels that grow with the generation.
func (m *machineRoom) sets(t testing.TB, rng *rand.Rand, at time.Time, generation uint8) (sets []*tdx.Collateral) {
	t.Helper()
	status := func() string {
		return []string{"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"}[rng.IntN(6)]
	}
	for _, fmspc := range roomFMSPCs {
		for _, ca := range []string{tdxsim.PlatformCA, tdxsim.ProcessorCA} {
			o := tdxsim.CollateralOptions{
				FMSPC: fmspc, CA: ca, IssueDate: at.AddDate(0, 0, -1), TCBEvaluationDataNumber: uint32(18 + generation),
				Levels: []tdxsim.Level{
					{SGX: [16]byte{2, 2, 1, 1, 3, 0, 0, 4}, TDX: [16]byte{2 + generation, 0, 2}, PCESVN: 9 + uint16(generation), Status: "UpToDate"},
					{SGX: [16]byte{1, 1, 1, 1, 2, 0, 0, 2}, TDX: [16]byte{1, 0, 1}, PCESVN: 7, Status: status(), Advisories: []string{"INTEL-SA-00960", fmt.Sprintf("INTEL-SA-0110%d", generation)}},
					{TDX: [16]byte{0, 0, 1}, PCESVN: 5, Status: status(), Advisories: []string{"INTEL-SA-00837"}},
				},
				Modules: []tdxsim.ModuleIdentity{
					{ID: "TDX_01", Levels: []tdxsim.ISVLevel{
						{ISVSVN: 3 + uint16(generation), Status: "UpToDate"},
						{ISVSVN: 1, Status: "OutOfDate", Advisories: []string{"INTEL-SA-01036"}},
					}},
				},
				QE: tdxsim.QEIdentity{Levels: []tdxsim.ISVLevel{
					{ISVSVN: 2 + uint16(generation), Status: "UpToDate"}, {ISVSVN: 1, Status: "OutOfDate", Advisories: []string{"INTEL-SA-02000"}},
				}},
			}
			if generation == 0 || fmspc != tdxsim.DefaultFMSPC { // who has that module isn't known any more
				o.Modules = append(o.Modules, tdxsim.ModuleIdentity{ID: "TDX_03", Levels: []tdxsim.ISVLevel{{ISVSVN: 0, Status: "UpToDate"}}})
			}
			if generation > 0 {
				for _, p := range m.platforms {
					if rng.IntN(10) == 0 {
						o.PCKCRL.Revoked = append(o.PCKCRL.Revoked, new(big.Int).Set(p.PCKSerial()))
					}
				}
			}
			c, err := m.pki.Collateral(o)
			if err != nil {
				t.Fatal(err)
			}
			sets = append(sets, c)
		}
	}
	return sets
}

// quote makes a TD's quote.
func roomQuote(t testing.TB, rng *rand.Rand, p *tdxsim.Platform) []byte {
	t.Helper()
	o := tdxsim.QuoteOptions{Version: 4 + rng.IntN(2), FreshQE: rng.IntN(2) == 0}
	o.ReportData[0] = uint8(rng.IntN(256))
	if o.Version == 5 && rng.IntN(2) == 0 {
		o.Body = 3
		o.TEETCBSVN2 = &[16]byte{uint8(3 + rng.IntN(4)), 1, 2}
	}
	b, err := p.Quote(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compileAll(t testing.TB, sets []*tdx.Collateral, root *tdx.Root) map[string]*tdx.Set {
	t.Helper()
	compiled := make(map[string]*tdx.Set)
	for _, c := range sets {
		s, err := tdx.Compile(c, root)
		if err != nil {
			t.Fatal(err)
		}
		compiled[familyOf(s.FMSPC(), s.PCKCA())] = s
	}
	return compiled
}

// Judging a class once gives the result of verifying every record's quote again: that is what makes it sound. A class
// that leaves out something that Intel's rules look at, such as the TCB SVNs of the quote, makes this fail; so does a
// change of the rules that makes them look at more.
func TestReappraiseIsFullVerification(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	room := newMachineRoom(t, rng, 32)
	then := roomFrom.AddDate(0, 0, 1)
	now := roomFrom.AddDate(0, 6, 0)
	thenSets := compileAll(t, room.sets(t, rng, then, 0), room.root)
	todaySets := room.sets(t, rng, now, 1)
	if len(todaySets) != 4 {
		t.Fatal(len(todaySets))
	}
	todaySets = todaySets[:3] // nothing for one kind
	compiledToday := compileAll(t, todaySets, room.root)

	s := newSynth(t)
	b := s.db.NewBatch()
	v := tdx.NewVerifier(room.root, 100)
	quotes := make(map[uint64]*tdx.Quote)
	families := make(map[uint64]string)
	records := make(map[uint64]*Record)
	for range 160 {
		p := room.platforms[rng.IntN(len(room.platforms))]
		q, err := tdx.ParseQuote(roomQuote(t, rng, p))
		if err != nil {
			t.Fatal(err)
		}
		family := familyOf(lowerHex(p.FMSPC()), p.CA())
		res, err := v.Verify(q, thenSets[family], then)
		if err != nil {
			continue // it wasn't admitted
		}
		r := synthetic(rng, s.size)
		r.Role, r.FMSPC, r.Platform, r.TCBStatus, r.Advisories = bundle.RoleStart, res.FMSPC, res.PPID, string(res.Status), advisoryIDs(res)
		r.EvidenceClass = evidenceClass(q, res.PCKChain)
		s.put(t, b, r)
		s.x.evidence-- // class counts it
		if err := s.x.class(b, r, q, res); err != nil {
			t.Fatal(err)
		}
		quotes[r.Index], families[r.Index], records[r.Index] = q, family, r
	}
	s.commit(t, b)
	if len(records) < 60 {
		t.Fatalf("only %d quotes were genuine", len(records))
	}

	today, err := newToday(room.root, todaySets, now)
	if err != nil {
		t.Fatal(err)
	}
	r := s.reader(t)
	changes := make(map[monitorapi.Change]uint64)
	listed := 0
	sum, err := r.reappraise(t.Context(), monitorapi.ReappraiseQuery{All: true}, today.judge(r), func(re *monitorapi.Reappraised) bool {
		listed++
		i := re.Record.Index
		changes[re.Change]++
		set := compiledToday[families[i]]
		if set == nil {
			if re.Change != monitorapi.ChangeNotCovered {
				t.Errorf("record %d: %s without collateral", i, re.Change)
			}
			return true
		}
		want := monitorapi.Judgement{}
		full, err := v.Verify(quotes[i], set, now)
		if e := new(tdx.Error); errors.As(err, &e) {
			want.Reason, want.Detail, want.TCBStatus = string(e.Reason), e.Error(), string(e.Status)
		} else if err != nil {
			t.Fatal(err)
		} else {
			want = monitorapi.Judgement{Genuine: true, TCBStatus: string(full.Status), TCBDate: full.Platform.Date, Advisories: advisoryIDs(full)}
		}
		if diff := cmp.Diff(want, re.Now); diff != "" {
			t.Errorf("record %d: verifying it again says otherwise: %s", i, diff)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if listed != len(records) || sum.Examined != uint64(listed) || sum.Listed != uint64(listed) || !cmp.Equal(sum.Records, changes) {
		t.Errorf("%d listed of %d: %+v, %v", listed, len(records), sum, changes)
	}
	if sum.Classes >= sum.Examined || sum.Classes < 5 {
		t.Errorf("%d classes of %d records: nothing is tested", sum.Classes, sum.Examined)
	}
	for _, c := range monitorapi.Changes {
		// Nothing gets better as levels grow, but for luck.
		if changes[c] == 0 && c != monitorapi.ChangeBetter {
			t.Errorf("no record is %s: %v", c, changes)
		}
	}

	// A recall by today's data finds the records that either data says the advisory affects.
	touched := make(map[Hash]uint64)
	for i, rec := range records {
		hit := slices.Contains(rec.Advisories, "INTEL-SA-01101")
		if set := compiledToday[families[i]]; set != nil {
			if full, err := v.Verify(quotes[i], set, now); err == nil && slices.Contains(advisoryIDs(full), "INTEL-SA-01101") {
				hit = true
			}
		}
		if hit {
			touched[rec.Session]++
		}
	}
	if len(touched) == 0 {
		t.Error("the advisory affects nothing")
	}
	rs, err := r.recall(t.Context(), monitorapi.RecallQuery{Advisory: "INTEL-SA-01101"}, today.judge(r), func(ts *monitorapi.TouchedSession) bool {
		if touched[ts.Session] != ts.Records || ts.Today == nil {
			t.Errorf("%+v, want %d records", ts, touched[ts.Session])
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	if rs.Sessions != uint64(len(touched)) || rs.NotCovered != changes[monitorapi.ChangeNotCovered] || rs.Examined != sum.Examined {
		t.Errorf("%+v, want %d sessions", rs, len(touched))
	}
	if rs, err := r.recall(t.Context(), monitorapi.RecallQuery{Advisory: "INTEL-SA-01101"}, nil, nil); err != nil || rs.Sessions != 0 {
		t.Errorf("without today's data: %+v, %v", rs, err)
	}
}

func lowerHex(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'F' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// Every field of the evidence that the rules look at is in the class, and what changes from quote to quote is not.
func TestEvidenceClass(t *testing.T) {
	pki := tdxsim.NewPKI([]byte("class"), roomFrom)
	p := pki.NewPlatform(tdxsim.PlatformOptions{})
	class := func(p *tdxsim.Platform, o tdxsim.QuoteOptions) Hash {
		b, err := p.Quote(o)
		if err != nil {
			t.Fatal(err)
		}
		q, err := tdx.ParseQuote(b)
		if err != nil {
			t.Fatal(err)
		}
		return evidenceClass(q, sha256.Sum256(q.PCKChain))
	}
	base := class(p, tdxsim.QuoteOptions{Version: 5, Body: 3})
	for name, same := range map[string]tdxsim.QuoteOptions{
		"report data":  {Version: 5, Body: 3, ReportData: [64]byte{1}},
		"measurement":  {Version: 5, Body: 3, MRTD: [48]byte{1}},
		"QE signature": {Version: 5, Body: 3, FreshQE: true},
	} {
		if class(p, same) != base {
			t.Errorf("another %s is another class", name)
		}
	}
	svn := tdxsim.DefaultTEETCBSVN
	svn[2]++
	for name, other := range map[string]tdxsim.QuoteOptions{
		"version":     {Version: 4},
		"body":        {Version: 5, Body: 2},
		"TEE TCB SVN": {Version: 5, Body: 3, TEETCBSVN: &svn, TEETCBSVN2: &tdxsim.DefaultTEETCBSVN},
		"current SVN": {Version: 5, Body: 3, TEETCBSVN2: &svn},
	} {
		if class(p, other) == base {
			t.Errorf("another %s is the same class", name)
		}
	}
	qesvn, attributes := uint16(3), tdxsim.DefaultQEAttributes
	attributes[8] ^= 1
	for name, o := range map[string]tdxsim.PlatformOptions{
		"platform":      {Name: "other"},
		"QE SVN":        {QE: tdxsim.QEOptions{ISVSVN: &qesvn}},
		"QE attributes": {QE: tdxsim.QEOptions{Attributes: &attributes}},
		"module signer": {MRSignerSEAM: [48]byte{1}},
		"module":        {SEAMAttributes: [8]byte{1}},
	} {
		if class(pki.NewPlatform(o), tdxsim.QuoteOptions{Version: 5, Body: 3}) == base {
			t.Errorf("another %s is the same class", name)
		}
	}
}

// Collateral that can judge nothing is refused, rather than to find that nothing changed.
func TestNewToday(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	room := newMachineRoom(t, rng, 1)
	sets := room.sets(t, rng, roomFrom, 0)
	other, err := tdx.ParseRoot(tdxsim.NewPKI([]byte("other"), roomFrom).Root())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newToday(room.root, sets, roomFrom); err != nil {
		t.Fatal(err)
	}
	for name, try := range map[string]func() error{
		"none":       func() error { _, err := newToday(room.root, nil, roomFrom); return err },
		"expired":    func() error { _, err := newToday(room.root, sets, roomFrom.AddDate(0, 6, 0)); return err },
		"early":      func() error { _, err := newToday(room.root, sets, roomFrom.AddDate(0, -6, 0)); return err },
		"twice":      func() error { _, err := newToday(room.root, append(sets, sets[0]), roomFrom); return err },
		"other root": func() error { _, err := newToday(other, sets, roomFrom); return err },
	} {
		if try() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestReconcile(t *testing.T) {
	s := newSynth(t)
	rng := rand.New(rand.NewPCG(15, 16))
	b := s.db.NewBatch()
	base := time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)
	tenant := made('t', 1)
	start := func(n uint64, edit func(*Record)) *Record {
		r := synthetic(rng, 0)
		r.Session, r.Statement, r.Start, r.Tenant, r.Sequence = made('s', n), made('d', 1000+n), Hash{}, tenant, n
		r.AdmittedAt, r.StartedOn = base.Add(time.Duration(n)*time.Minute), base.Add(time.Duration(n)*time.Minute)
		r.NotBefore = r.AdmittedAt.Add(-time.Minute)
		if edit != nil {
			edit(r)
		}
		s.put(t, b, r)
		return r
	}
	good := start(1, nil)
	end := synthetic(rng, 2)
	end.Session, end.Start, end.Vendor = good.Session, good.Statement, good.Vendor
	s.put(t, b, end)
	start(2, nil)
	start(3, func(r *Record) { r.Genuine, r.Reason = false, "binding" })
	start(4, func(r *Record) { r.Genuine, r.Reason = false, "binding" }) // somebody's worthless copy,
	start(4, nil)                                                        // which doesn't hide the real one
	start(5, func(r *Record) { r.Role = bundle.RoleFinal })
	start(6, nil)                                                                // surplus
	start(7, func(r *Record) { r.Tenant = made('t', 2) })                        // not ours
	start(8, func(r *Record) { r.AdmittedAt = r.AdmittedAt.AddDate(0, 0, -20) }) // before
	start(9, func(r *Record) { r.Session[20] = 1 })                              // another session in the same list of keys
	if err := s.x.timeLeaf(b, s.size, record.Digest{1}, s.size, base.Add(10*time.Minute)); err != nil {
		t.Fatal(err)
	}
	s.size++
	s.commit(t, b)
	row := func(n uint64, edit func(*monitorapi.ReconcileRow)) monitorapi.ReconcileRow {
		r := monitorapi.ReconcileRow{
			Line: int(n) + 1, Session: made('s', n), Vendor: "https://vendor-0.example", Started: base.Add(time.Duration(n) * time.Minute), Sequence: n,
			Tenants: []Hash{made('t', 77), tenant},
		}
		if edit != nil {
			edit(&r)
		}
		return r
	}
	for _, tt := range []struct {
		name     string
		row      monitorapi.ReconcileRow
		state    monitorapi.ReconcileState
		problems int
	}{
		{"as logged", row(1, nil), monitorapi.StateMatched, 0},
		{"without what is optional", row(1, func(r *monitorapi.ReconcileRow) { r.Sequence, r.Tenants = 0, nil }), monitorapi.StateMatched, 0},
		{"never logged", row(100, nil), monitorapi.StateMissing, 1},
		{"no start", row(5, nil), monitorapi.StateMissing, 1},
		{"not genuine", row(3, nil), monitorapi.StateMismatched, 1},
		{"a worthless copy beside it", row(4, nil), monitorapi.StateMatched, 0},
		{"other vendor", row(2, func(r *monitorapi.ReconcileRow) { r.Vendor = "https://vendor-1.example" }), monitorapi.StateMismatched, 1},
		{"other number", row(2, func(r *monitorapi.ReconcileRow) { r.Sequence = 9 }), monitorapi.StateMismatched, 1},
		{"other tenant", row(2, func(r *monitorapi.ReconcileRow) { r.Tenants = []Hash{made('t', 2)} }), monitorapi.StateMismatched, 1},
		// The interval is from one minute before the admission until ten past.
		{"a little early", row(2, func(r *monitorapi.ReconcileRow) { r.Started = base.Add(time.Minute - 5*time.Minute) }), monitorapi.StateMatched, 0},
		{"too early", row(2, func(r *monitorapi.ReconcileRow) { r.Started = base.Add(time.Minute - 5*time.Minute - time.Second) }), monitorapi.StateMismatched, 1},
		{"a little late", row(2, func(r *monitorapi.ReconcileRow) { r.Started = base.Add(15 * time.Minute) }), monitorapi.StateMatched, 0},
		{"too late", row(2, func(r *monitorapi.ReconcileRow) { r.Started = base.Add(15*time.Minute + time.Second) }), monitorapi.StateMismatched, 1},
		{"all wrong", row(2, func(r *monitorapi.ReconcileRow) {
			r.Vendor, r.Sequence, r.Tenants, r.Started = "https://vendor-1.example", 9, []Hash{made('t', 2)}, base.AddDate(1, 0, 0)
		}), monitorapi.StateMismatched, 4},
	} {
		var got []*monitorapi.Reconciled
		sum, err := s.reader(t).reconcile(t.Context(), &monitorapi.ReconcileRequest{Rows: []monitorapi.ReconcileRow{tt.row}}, func(re *monitorapi.Reconciled) bool {
			got = append(got, re)
			return true
		})
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if len(got) != 1 || got[0].State != tt.state || len(got[0].Problems) != tt.problems || (got[0].Record == nil) != (tt.state == monitorapi.StateMissing) {
			t.Errorf("%s: %+v", tt.name, got)
		}
		if sum.Rows != 1 || sum.Matched+sum.Missing+sum.Mismatched != 1 || sum.SurplusChecked || sum.Surplus != 0 {
			t.Errorf("%s: %+v", tt.name, sum)
		}
	}

	q := &monitorapi.ReconcileRequest{
		Rows:    []monitorapi.ReconcileRow{row(1, nil), row(2, nil), row(4, nil), row(100, nil)},
		Tenants: []Hash{tenant, made('t', 99), tenant}, Since: base.AddDate(0, 0, -1),
	}
	var surplus []Hash
	sum, err := s.reader(t).reconcile(t.Context(), q, func(re *monitorapi.Reconciled) bool {
		if re.State == monitorapi.StateSurplus {
			surplus = append(surplus, re.Session)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	odd := made('s', 9)
	odd[20] = 1
	if want := []Hash{made('s', 3), made('s', 6), odd}; !slices.Equal(surplus, want) {
		t.Errorf("surplus %v, want %v", surplus, want)
	}
	want := &monitorapi.ReconcileSummary{
		State: monitorapi.State{Log: "log.example.org/2026", Size: s.size},
		Rows:  4, Matched: 3, Missing: 1, Open: 2, SurplusChecked: true, Logged: 6, Surplus: 3,
	}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Error(diff)
	}
}

func TestVendorCheck(t *testing.T) {
	s := newSynth(t)
	rng := rand.New(rand.NewPCG(17, 18))
	b := s.db.NewBatch()
	base := time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)
	const vendor = "https://vendor-0.example"
	put := func(session uint64, role bundle.Role, after time.Duration, edit func(*Record)) *Record {
		r := synthetic(rng, 0)
		r.Role, r.Session, r.Statement, r.Start, r.Tenant = role, made('s', session), made('d', s.size), Hash{}, made('t', session%2)
		r.AdmittedAt, r.NotBefore = base.Add(after), base.Add(after-30*time.Second)
		r.TCBStatus, r.Advisories, r.Platform, r.Release, r.Models = "UpToDate", nil, "aa", made('r', 1), nil
		if edit != nil {
			edit(r)
		}
		s.put(t, b, r)
		return r
	}
	covered := func(at time.Duration) {
		t.Helper()
		if err := s.x.timeLeaf(b, s.size, record.Digest(made('n', s.size)), s.size, base.Add(at)); err != nil {
			t.Fatal(err)
		}
		s.size++
	}
	final := func(start *Record, claim, enforcement string, models ...Model) func(*Record) {
		return func(r *Record) {
			r.Start, r.Retention, r.Enforcement, r.Models = start.Statement, claim, enforcement, models
		}
	}
	tee := Model{Provider: "p", Name: "m", Execution: record.ExecutionTEE, Record: true}
	alone := tee
	alone.Record = false
	zdr := Model{Provider: "p", Name: "n", Execution: record.ExecutionPolicyZDR}

	release := put(0, bundle.RoleRelease, 0, func(r *Record) {
		r.Session, r.Tenant, r.EvidenceClass, r.HardwareBound, r.FMSPC, r.Platform, r.TCBStatus = Hash{}, Hash{}, Hash{}, false, "", "", ""
	})
	if err := b.Set(imagePostings(vendor, record.Digest(release.Release)).at(release.Index), nil, nil); err != nil {
		t.Fatal(err)
	}
	one := put(1, bundle.RoleStart, 0, nil)
	covered(20 * time.Second) // 50 s wide
	put(1, bundle.RoleFinal, time.Minute, final(one, record.RetentionZero, record.EnforcementTechnical, tee, zdr))
	two := put(2, bundle.RoleStart, 2*time.Minute, func(r *Record) { r.TCBStatus, r.Advisories, r.Platform = "OutOfDate", []string{"INTEL-SA-1"}, "bb" })
	covered(4 * time.Minute) // 3.5 and 2.5 min
	put(2, bundle.RoleFinal, 5*time.Minute, func(r *Record) {
		final(two, record.RetentionZero, record.EnforcementPolicy, alone)(r)
		r.Genuine, r.HardwareBound = false, false // not what it says it is
	})
	three := put(3, bundle.RoleStart, 6*time.Minute, func(r *Record) { r.Release = made('r', 2) })
	put(3, bundle.RoleAbandoned, 7*time.Minute, func(r *Record) {
		r.Start, r.HardwareBound, r.EvidenceClass, r.Release = three.Statement, false, Hash{}, Hash{}
	})
	put(4, bundle.RoleStart, 8*time.Minute, nil) // unpaired
	covered(3 * time.Hour)
	put(0, bundle.RoleImport, 9*time.Minute, func(r *Record) { r.Session, r.HardwareBound, r.Tenant, r.Release = Hash{}, false, Hash{}, Hash{} })
	put(5, bundle.RoleStart, 48*time.Hour, nil) // open, and nothing covers it
	put(6, bundle.RoleStart, 48*time.Hour, func(r *Record) { r.Vendor = "https://vendor-1.example" })
	s.commit(t, b)

	got, err := s.reader(t).vendorCheck(t.Context(), monitorapi.VendorCheckQuery{Vendor: vendor})
	if err != nil {
		t.Fatal(err)
	}
	type share = monitorapi.Share
	want := &monitorapi.VendorCheck{
		State: monitorapi.State{Log: "log.example.org/2026", Size: s.size}, Vendor: vendor,
		Records: share{N: 9, Of: 10}, Imports: share{N: 1, Of: 10},
		HardwareBound: share{N: 4, Of: 5}, Completed: share{N: 1, Of: 5}, Abandoned: share{N: 1, Of: 5},
		// The start of session 2 has only an end that isn't genuine.
		Unpaired: share{N: 2, Of: 5}, Open: share{N: 1, Of: 5},
		Models:      map[string]share{"tee": {N: 1, Of: 2}, "policy-zdr": {N: 1, Of: 2}},
		ModelRuns:   share{N: 1, Of: 1},
		TCBStatuses: map[string]share{"UpToDate": {N: 6, Of: 7}, "OutOfDate": {N: 1, Of: 7}},
		Advisories:  map[string]share{"INTEL-SA-1": {N: 1, Of: 7}},
		Retention:   map[string]share{"zero-data-retention, technical": {N: 1, Of: 1}},
		Technical:   share{N: 1, Of: 1},
		Intervals: monitorapi.IntervalWidths{
			Proven: share{N: 5, Of: 6}, Minute: share{N: 1, Of: 5}, TenMinutes: share{N: 2, Of: 5}, Hour: share{Of: 5}, Wider: share{N: 2, Of: 5},
			Median: 210, P95: 3*3600 - 330, Max: 3*3600 - 330,
		},
		Releases: share{N: 1, Of: 2}, Withdrawn: share{Of: 2}, Platforms: 2, Tenants: 2,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = s.reader(t).vendorCheck(t.Context(), monitorapi.VendorCheckQuery{Vendor: vendor, Until: base.Add(90 * time.Second)})
	if err != nil || got.Records.Of != 3 || got.Completed != (share{N: 1, Of: 1}) {
		t.Errorf("%+v, %v", got, err)
	}
}
