package monitor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// serveAPI serves the lab's monitor, and returns its URL and a client.
func (l *lab) serveAPI() (string, *monitorapi.Client) {
	l.t.Helper()
	s := httptest.NewServer(l.m.Handler())
	l.t.Cleanup(s.Close)
	c, err := monitorapi.NewClient(s.URL, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return s.URL, c
}

// get asks the API, and returns status, media type, body and cursor.
func get(t *testing.T, url string) (status int, typ, body, after string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(b), resp.Trailer.Get(monitorapi.AfterTrailer)
}

// What the monitor assembles from its index and finds out about each record is what an auditor finds out who has the
// log assemble the bundle. A link that the index doesn't follow, or a wrong one, makes this fail.
func TestResultsAreThoseOfAuditors(t *testing.T) {
	l := newLab(t, witnesses)
	for range 2 {
		l.session()
	}
	l.another()
	start := l.AddStart()
	l.Tick(time.Minute)
	l.AddTime()
	l.AddAbandoned(start)
	l.AddImport(l.Now.Add(-time.Minute))
	l.Tick(time.Second)
	l.AddTime()
	l.another()
	l.AddStart() // covered by no time leaf yet
	policy := l.Appraisal()
	l.open(func(c *Config) { c.Appraisal = policy })
	l.publish()
	_, api := l.serveAPI()

	log, err := client.New(l.url, client.Config{LogPolicy: l.Policy()})
	if err != nil {
		t.Fatal(err)
	}
	checker, err := bundle.NewChecker(l.Options())
	if err != nil {
		t.Fatal(err)
	}
	seen, allowed := make(map[bundle.Role]int), 0
	for res, err := range api.Results(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		seen[res.Role]++
		b, err := log.AssembleBundle(t.Context(), res.Index)
		if err != nil {
			t.Fatal(err)
		}
		f, err := checker.Check(b)
		if err != nil {
			t.Fatalf("%s %d: %v", res.Role, res.Index, err)
		}
		if res.NotProven != "" || res.Allowed == nil || *res.Allowed != f.Allowed() {
			t.Errorf("%s %d: %+v, the auditor finds %v", res.Role, res.Index, res, f.Refusals)
			continue
		}
		if *res.Allowed {
			allowed++
		}
		if diff := cmp.Diff(f.Claims, res.Claims); diff != "" {
			t.Errorf("%s %d: %s", res.Role, res.Index, diff)
		}
		if diff := cmp.Diff(f.Refusals, res.Refusals); diff != "" {
			t.Errorf("%s %d: %s", res.Role, res.Index, diff)
		}
		i := f.Subject.Interval
		if i == nil {
			i = &verifier.Interval{}
		}
		if !res.NotBefore.Equal(i.NotBefore) || res.Covering != nil && !res.NotAfter.Equal(i.NotAfter) {
			t.Errorf("%s %d: made from %s to %s, the auditor finds %v", res.Role, res.Index, res.NotBefore, res.NotAfter, *i)
		}

		file, err := api.Bundle(t.Context(), res.Index)
		if err != nil {
			t.Fatal(err)
		}
		own, err := bundle.Parse(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := checker.Check(own); err != nil {
			t.Errorf("%s %d: %v", res.Role, res.Index, err)
		}
	}
	want := map[bundle.Role]int{
		bundle.RoleStart: 4, bundle.RoleFinal: 2, bundle.RoleModelRun: 2, bundle.RoleAbandoned: 1, bundle.RoleImport: 1,
		bundle.RoleRelease: 2, bundle.RoleVendorKey: 2,
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
	if allowed < 6 {
		t.Errorf("only %d results are good", allowed)
	}
}

// Who has read the whole log knows more than a bundle that somebody else has put together: a second end of a session, and
// a withdrawal.
func TestResultsKnowTheWholeLog(t *testing.T) {
	l := newLab(t, witnesses)
	good, twice := l.session(), l.session()
	l.AddFinal(twice.start, nil, func(d *bundletest.Draft) { d.Statement.Session.EndReason = record.EndAborted })
	l.Tick(time.Second)
	l.AddTime()
	withdrawn := l.session()
	policy := l.Appraisal()
	l.open(func(c *Config) { c.Appraisal = policy })
	l.publish()
	codes := func(index uint64) (codes []verifier.Code) {
		t.Helper()
		res, err := l.m.Verify(t.Context(), index)
		if err != nil {
			t.Fatal(err)
		}
		if res.NotProven != "" {
			t.Fatalf("record %d: %s", index, res.NotProven)
		}
		for _, r := range res.Refusals {
			codes = append(codes, r.Code)
		}
		return codes
	}
	for _, index := range []uint64{good.start, good.run, good.final, withdrawn.final} {
		if got := codes(index); len(got) > 0 {
			t.Errorf("record %d: %v", index, got)
		}
	}
	if got := codes(twice.final); !slices.Contains(got, verifier.CodeTwoFinals) {
		t.Errorf("a second end: %v", got)
	}
	var release uint64
	for rec, err := range l.m.Search(t.Context(), Query{Vendor: l.Vendor.ID, Role: "release"}) {
		if err != nil {
			t.Fatal(err)
		}
		release = rec.Index
	}
	l.AddWithdrawal(l.Vendor, release)
	l.Tick(time.Second)
	l.AddTime()
	l.publish()
	if got := codes(withdrawn.final); !slices.Contains(got, verifier.CodeRelease) && !slices.Contains(got, verifier.CodeMeasurement) {
		t.Errorf("after the withdrawal: %v", got)
	}
}

// Without an appraisal policy nobody says what is allowed.
func TestResultWithoutPolicy(t *testing.T) {
	l := newLab(t, witnesses)
	s := l.session()
	l.open()
	l.publish()
	res, err := l.m.Verify(t.Context(), s.final)
	if err != nil || res.Allowed != nil || res.Refusals != nil || len(res.Claims) == 0 || res.NotProven != "" {
		t.Errorf("%+v, %v", res, err)
	}
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var back Result
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(res, &back); diff != "" {
		t.Errorf("JSON and back: %s", diff)
	}
}

// A record that isn't genuine is found, with the reason and without what nobody vouches for.
func TestRecordNotGenuine(t *testing.T) {
	l := newLab(t, witnesses)
	l.another()
	i := l.AddStart(func(d *bundletest.Draft) { d.KeepReportData = true })
	l.Tick(time.Second)
	l.AddTime()
	policy := l.Appraisal()
	l.open(func(c *Config) { c.Appraisal = policy })
	l.publish()
	rec, err := l.m.Record(i)
	if err != nil || rec.Genuine || rec.HardwareBound || rec.Reason != verifier.ReasonBinding || rec.Platform != "" || rec.TCBStatus != "" || rec.EvidenceClass != (Hash{}) {
		t.Errorf("%+v, %v", rec, err)
	}
	res, err := l.m.Verify(t.Context(), i)
	if err != nil || res.Rule != bundle.RuleGenuine || res.NotProven == "" || res.Allowed == nil || *res.Allowed {
		t.Errorf("%+v, %v", res, err)
	}
	c, err := l.m.VendorCheck(t.Context(), monitorapi.VendorCheckQuery{Vendor: l.Vendor.ID})
	if err != nil || c.HardwareBound != (monitorapi.Share{N: 0, Of: 1}) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAPIPages(t *testing.T) {
	l := newLab(t, witnesses)
	for range 3 {
		l.session()
	}
	l.open()
	l.publish()
	url, api := l.serveAPI()
	var want []*Record
	for rec, err := range l.m.Search(t.Context(), Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, rec)
	}
	if len(want) != 13 {
		t.Fatalf("%d records", len(want))
	}
	for _, limit := range []int{0, 1, 5, 13, 100} {
		var got []*Record
		for rec, err := range api.Records(t.Context(), Query{Limit: limit}) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, rec)
		}
		n := len(want)
		if limit > 0 {
			n = min(n, limit)
		}
		if diff := cmp.Diff(want[:n], got); diff != "" {
			t.Errorf("limit %d: %s", limit, diff)
		}
	}
	// By hand, as with curl.
	var got []uint64
	after := "0"
	for pages := 0; after != ""; pages++ {
		if pages > 10 {
			t.Fatal("no end")
		}
		status, typ, body, next := get(t, url+"/api/records?limit=4&after="+after)
		if status != 200 || typ != "application/jsonl" {
			t.Fatalf("%d %s", status, typ)
		}
		for s := bufio.NewScanner(strings.NewReader(body)); s.Scan(); {
			var r Record
			if err := json.Unmarshal(s.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			got = append(got, r.Index)
		}
		after = next
	}
	if len(got) != len(want) || !slices.IsSorted(got) {
		t.Errorf("%v", got)
	}
	// One record, by all of its values, in each way to ask.
	final := want[len(want)-1]
	q := Query{
		Session: l.World.Session.String(), Statement: final.Statement.String(), Tenant: final.Tenant.String(), Vendor: final.Vendor,
		Release: final.Release.String(), FMSPC: strings.ToUpper(final.FMSPC), Platform: strings.ToUpper(final.Platform),
		TCBStatus: final.TCBStatus, Model: final.Models[0].Provider, Role: "final", Since: final.AdmittedAt, Until: final.AdmittedAt.Add(time.Millisecond),
	}
	n := 0
	for rec, err := range api.Records(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if diff := cmp.Diff(final, rec); diff != "" {
			t.Error(diff)
		}
	}
	if n != 1 {
		t.Errorf("%d records have all the values of one", n)
	}
	if rec, err := api.Record(t.Context(), final.Index); err != nil || !cmp.Equal(rec, final) {
		t.Errorf("%+v, %v", rec, err)
	}
	if s, err := api.State(t.Context()); err != nil || s.Size != l.Size() || s.Root != Hash(l.Head(l.Size()).Root) || s.Log != l.Origin {
		t.Errorf("%+v, %v", s, err)
	}
	if b, err := api.Status(t.Context()); err != nil || !bytes.Contains(b, []byte(`"verified":`)) {
		t.Errorf("%s, %v", b, err)
	}
	if f, err := api.Families(t.Context()); err != nil || !cmp.Equal(f, []monitorapi.Family{{FMSPC: strings.ToLower(tdxsim.DefaultFMSPC), CA: "platform"}}) {
		t.Errorf("%+v, %v", f, err)
	}
}

// The findings come in pages, too.
func TestAPIFindings(t *testing.T) {
	l := newLab(t, witnesses)
	l.open(func(c *Config) { c.Watch.Vendors = []string{l.Vendor.ID} })
	for range 4 {
		l.session()
	}
	l.publish()
	url, api := l.serveAPI()
	want := l.findings()
	if len(want) < 8 {
		t.Fatalf("%d findings", len(want))
	}
	i := 0
	for raw, err := range api.Findings(t.Context(), 2) {
		if err != nil {
			t.Fatal(err)
		}
		var f Finding
		if err := json.Unmarshal(raw, &f); err != nil {
			t.Fatal(err)
		}
		if f.ID != want[2+i].ID {
			t.Errorf("finding %d is %s", i, f.ID)
		}
		i++
	}
	if i != len(want)-2 {
		t.Errorf("%d findings of %d", i, len(want)-2)
	}
	if status, _, body, _ := get(t, url+"/api/findings?after=1&limit=2"); status != 200 || strings.Count(body, "\n") != 2 {
		t.Errorf("%d %s", status, body)
	}
}

// After a TCB recovery of Intel, a recall by today's data finds the sessions from before, and a reappraisal lists their
// records as made on platforms that were vulnerable then. The log's own data doesn't know.
func TestRecoveryOverHTTP(t *testing.T) {
	l := newLab(t, witnesses)
	s1, s2 := l.session(), l.session()
	l.open()
	l.publish()
	_, api := l.serveAPI()
	levels := tdxsim.DefaultLevels()
	levels[1].SGX, levels[1].PCESVN = levels[0].SGX, levels[0].PCESVN
	levels[0].SGX[0]++ // a newer firmware, which nobody had
	levels[1].Advisories = append(levels[1].Advisories, "INTEL-SA-09999")
	set, err := l.PKI.Collateral(tdxsim.CollateralOptions{Levels: levels, TCBEvaluationDataNumber: 30, IssueDate: l.Now})
	if err != nil {
		t.Fatal(err)
	}
	l.Tick(time.Hour)
	b, err := set.JSON()
	if err != nil {
		t.Fatal(err)
	}
	today := &monitorapi.ReappraiseRequest{Collateral: []json.RawMessage{b}}
	q := monitorapi.RecallQuery{Advisory: "INTEL-SA-09999"}
	sum, err := api.Recall(t.Context(), q, nil, func(*monitorapi.TouchedSession) bool { return true })
	if err != nil || sum.Sessions != 0 || sum.Examined != 6 {
		t.Errorf("without today's data: %+v, %v", sum, err)
	}
	var first []uint64
	sum, err = api.Recall(t.Context(), q, today, func(ts *monitorapi.TouchedSession) bool {
		first = append(first, ts.First.Index)
		if ts.Records != 3 || ts.Today == nil || !slices.Contains(ts.Today.Advisories, "INTEL-SA-09999") {
			t.Errorf("%+v", ts)
		}
		return true
	})
	if err != nil || sum.Sessions != 2 || !slices.Equal(first, []uint64{s1.start, s2.start}) {
		t.Errorf("%+v, %v: %v", sum, err, first)
	}
	n := 0
	rs, err := api.Reappraise(t.Context(), monitorapi.ReappraiseQuery{Vendor: l.Vendor.ID}, today, func(re *monitorapi.Reappraised) bool {
		n++
		if re.Change != monitorapi.ChangeVulnerable || re.Change.Meaning() != "platform vulnerable then" || re.Record.TCBStatus != "UpToDate" || re.Now.TCBStatus != "OutOfDate" {
			t.Errorf("%+v", re)
		}
		return true
	})
	if err != nil || n != 4 || rs.Examined != 4 || rs.Records[monitorapi.ChangeVulnerable] != 4 || rs.Sessions[monitorapi.ChangeVulnerable] != 2 {
		t.Errorf("%+v, %v: %d records", rs, err, n)
	}
	if strings.Contains(strings.ToLower(rs.Note), "breached") || !strings.Contains(rs.Note, "not a breach") {
		t.Errorf("note %q", rs.Note)
	}
	// Stopping early is no error, and there is no summary.
	if rs, err := api.Reappraise(t.Context(), monitorapi.ReappraiseQuery{}, today, func(*monitorapi.Reappraised) bool { return false }); err != nil || rs != nil {
		t.Errorf("%+v, %v", rs, err)
	}
	// Old data is refused, not used.
	l.Tick(60 * 24 * time.Hour)
	if _, err := api.Reappraise(t.Context(), monitorapi.ReappraiseQuery{}, today, nil); err == nil || !strings.Contains(err.Error(), "answered 400") {
		t.Errorf("expired collateral: %v", err)
	}
}

// The customer's own list, with its own key, against the log.
func TestReconcileOverHTTP(t *testing.T) {
	l := newLab(t, witnesses)
	key := bytes.Repeat([]byte{7}, 32)
	pseudonym := record.TenantPseudonym(key, l.Origin, l.Vendor.ID, "2026-11")
	mine := func(d *bundletest.Draft) {
		if st := d.Statement.Start; st != nil {
			st.Tenant = pseudonym
		}
	}
	var list strings.Builder
	list.WriteString("session,vendor,started\n")
	for range 2 {
		s := l.session(mine)
		rec, err := record.ParseLeaf(l.Leaf(s.start))
		if err != nil {
			t.Fatal(err)
		}
		st := rec.(*record.RecordLeaf).Entry.Statement()
		fmt.Fprintf(&list, "%s,%s,%s\n", st.Start.ID, st.Vendor, st.Start.StartedOn.Format(time.RFC3339))
	}
	l.session(mine) // not in the list
	l.session()     // somebody else's
	fmt.Fprintf(&list, "%s,%s,2026-11-24T07:00:00Z\n", strings.Repeat("0f", 16), l.Vendor.ID)
	l.open()
	l.publish()
	_, api := l.serveAPI()
	rows, err := monitorapi.ParseSessions([]byte(list.String()))
	if err != nil {
		t.Fatal(err)
	}
	q := &monitorapi.ReconcileRequest{Rows: rows}
	if q.Tenants, err = monitorapi.Pseudonyms(rows, key, l.Origin, time.Time{}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	var states []monitorapi.ReconcileState
	sum, err := api.Reconcile(t.Context(), q, func(re *monitorapi.Reconciled) bool {
		states = append(states, re.State)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []monitorapi.ReconcileState{monitorapi.StateMatched, monitorapi.StateMatched, monitorapi.StateMissing, monitorapi.StateSurplus}
	if !slices.Equal(states, want) || sum.Matched != 2 || sum.Missing != 1 || sum.Surplus != 1 || sum.Logged != 3 {
		t.Errorf("%v, %+v", states, sum)
	}
	c, err := api.VendorCheck(t.Context(), monitorapi.VendorCheckQuery{Vendor: l.Vendor.ID})
	if err != nil || c.HardwareBound != (monitorapi.Share{N: 4, Of: 4}) || c.Completed.N != 4 || c.Releases != (monitorapi.Share{N: 1, Of: 1}) || c.Intervals.Proven.N != 8 {
		t.Errorf("%+v, %v", c, err)
	}
}

// What isn't understood isn't answered, and what is too much is refused.
func TestAPIProblems(t *testing.T) {
	l := newLab(t, witnesses)
	l.session()
	l.open()
	l.publish()
	url, _ := l.serveAPI()
	for _, tt := range []struct {
		method, path, typ, body string
		status                  int
		name                    string
	}{
		{"GET", "/api/records?vendr=https://a.example", "", "", 400, "malformed"},
		{"GET", "/api/records?vendor=a", "", "", 400, "malformed"},
		{"GET", "/api/records?vendor=https://a.example&vendor=https://b.example", "", "", 400, "malformed"},
		{"GET", "/api/records?vendor=", "", "", 400, "malformed"},
		{"GET", "/api/records?limit=0", "", "", 400, "malformed"},
		{"GET", "/api/records?limit=1001", "", "", 400, "malformed"},
		{"GET", "/api/results?limit=51", "", "", 400, "malformed"},
		{"GET", "/api/records?limit=+5", "", "", 400, "malformed"},
		{"GET", "/api/records?after=-1", "", "", 400, "malformed"},
		{"GET", "/api/records?since=2026-11-24T07:00:00Z&until=2026-11-24T07:00:00Z", "", "", 400, "malformed"},
		{"GET", "/api/records?role=boss", "", "", 400, "malformed"},
		{"GET", "/api/records/x", "", "", 400, "malformed"},
		{"GET", "/api/records/007", "", "", 400, "malformed"},
		{"GET", "/api/records/99999", "", "", 404, "not-found"},
		{"GET", fmt.Sprintf("/api/records/%d", l.Size()-1), "", "", 404, "not-found"}, // a time leaf
		{"GET", "/api/bundles/99999", "", "", 404, "not-found"},
		{"GET", "/api/results/99999", "", "", 404, "not-found"},
		{"GET", "/api/nothing", "", "", 404, "not-found"},
		{"POST", "/api/records", "", "", 404, "not-found"},
		{"GET", "/api/findings?limit=5000", "", "", 400, "malformed"},
		{"GET", "/api/recall", "", "", 400, "malformed"},
		{"GET", "/api/recall?vendor=https://a.example", "", "", 400, "malformed"},
		{"GET", "/api/vendor-check", "", "", 400, "malformed"},
		{"POST", "/api/recall?fmspc=000000000000", "application/json", `{"collateral":[]}`, 400, "malformed"},
		{"POST", "/api/reappraise", "text/plain", `{"collateral":[]}`, 415, "unsupported-media-type"},
		{"POST", "/api/reappraise", "application/json", `{"collateral":[]}`, 400, "malformed"},
		{"POST", "/api/reappraise", "application/json", `{"colateral":[]}`, 400, "malformed"},
		{"POST", "/api/reappraise", "application/json", `{"collateral":[{}]}`, 400, "malformed"},
		{"POST", "/api/reappraise", "application/json", `{"collateral":[` + strings.Repeat("{},", maxSets) + `{}]}`, 400, "malformed"},
		{"POST", "/api/reappraise", "application/json", strings.Repeat(" ", maxCollateralBody+1), 413, "too-large"},
		{"POST", "/api/reconcile", "application/json", `{"rows":[{"line":1}]}`, 400, "malformed"},
		{"POST", "/api/reconcile", "application/json", `{"rows":[]} {}`, 400, "malformed"},
		{"POST", "/api/reconcile?vendor=x", "application/json", `{"rows":[]}`, 400, "malformed"},
	} {
		req, err := http.NewRequest(tt.method, url+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.typ != "" {
			req.Header.Set("Content-Type", tt.typ)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var p monitorapi.Problem
		err = json.NewDecoder(resp.Body).Decode(&p)
		resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || p.Status != tt.status || p.Type != problemPrefix+tt.name || p.Detail == "" || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s: %d %+v, %v; want %d %s", tt.method, tt.path, resp.StatusCode, p, err, tt.status, tt.name)
		}
	}
}

// Requests beyond what can be answered at once are sent away, and heavy ones don't keep light ones out.
func TestAPIOverload(t *testing.T) {
	a := &api{asking: make(chan struct{}, 1), heavy: make(chan struct{}, 1)}
	entered, leave := make(chan struct{}), make(chan struct{})
	h := a.handle(a.heavy, func(http.ResponseWriter, *http.Request) error {
		close(entered)
		<-leave
		return nil
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}()
	<-entered
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if rec.Code != 503 || rec.Header().Get("Retry-After") == "" {
		t.Errorf("%d, Retry-After %q", rec.Code, rec.Header().Get("Retry-After"))
	}
	rec = httptest.NewRecorder()
	a.handle(a.asking, func(w http.ResponseWriter, _ *http.Request) error { return writeJSON(w, 1) }).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	if rec.Code != 200 {
		t.Errorf("a light request: %d", rec.Code)
	}
	close(leave)
	<-done
}

// An answer that breaks off isn't taken for a whole one.
func TestAPIBreaksOff(t *testing.T) {
	a := &api{m: &Monitor{cfg: Config{Logger: slog.New(slog.DiscardHandler)}}, asking: make(chan struct{}, 4)}
	mux := http.NewServeMux()
	broken := func(v any) handler {
		return func(w http.ResponseWriter, _ *http.Request) error {
			l := newLines(w)
			for range 2000 {
				l.line(v)
			}
			return l.end(fmt.Errorf("the disk is gone"))
		}
	}
	mux.Handle("/api/records", a.handle(a.asking, broken(&Record{Role: bundle.RoleStart})))
	mux.Handle("/api/recall", a.handle(a.asking, broken(&monitorapi.RecallLine{Touched: &monitorapi.TouchedSession{}})))
	mux.HandleFunc("/api/reappraise", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"reappraised":{"change":"same"}}` + "\n")) // no summary
	})
	s := httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = nil
	s.Start()
	defer s.Close()
	c, err := monitorapi.NewClient(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range c.Records(t.Context(), Query{Limit: 100_000}) {
		last = err
	}
	if last == nil {
		t.Error("records that break off are an answer")
	}
	if _, err := c.Recall(t.Context(), monitorapi.RecallQuery{Advisory: "A"}, nil, func(*monitorapi.TouchedSession) bool { return true }); err == nil {
		t.Error("a recall that breaks off is an answer")
	}
	if _, err := c.Reappraise(t.Context(), monitorapi.ReappraiseQuery{}, &monitorapi.ReappraiseRequest{}, func(*monitorapi.Reappraised) bool { return true }); err == nil || !strings.Contains(err.Error(), "no summary") {
		t.Errorf("a reappraisal without a summary: %v", err)
	}
}

// A web page whose name resolves to this machine doesn't get to ask.
func TestAPIHost(t *testing.T) {
	l := newLab(t, witnesses)
	l.open()
	url, _ := l.serveAPI()
	for host, want := range map[string]int{
		"": 200, "localhost": 200, "localhost:8474": 200, "127.0.0.1": 200, "[::1]:8474": 200,
		"evil.example": 403, "evil.example:8474": 403, "10.0.0.1": 403, "localhost.evil.example": 403,
	} {
		req, err := http.NewRequest("GET", url+"/api/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%q: %d, want %d", host, resp.StatusCode, want)
		}
	}
}

// The index doesn't depend on how often the monitor was restarted, and is built again from the log if it is lost.
func TestIndexAfterRestarts(t *testing.T) {
	l := newLab(t, witnesses)
	l.open()
	for range 3 {
		l.session()
		l.publish()
		if err := l.m.Close(); err != nil {
			t.Fatal(err)
		}
		l.open()
	}
	l.session()
	l.publish()
	answers := func() (records []*Record, sum *monitorapi.RecallSummary) {
		t.Helper()
		for rec, err := range l.m.Search(t.Context(), Query{Since: bundletest.Epoch}) {
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, rec)
		}
		sum, err := l.m.Recall(t.Context(), monitorapi.RecallQuery{FMSPC: tdxsim.DefaultFMSPC}, nil, func(*monitorapi.TouchedSession) bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		return records, sum
	}
	records, sum := answers()
	if sum.Examined != 12 || sum.Records != 12 || sum.Sessions != 4 || len(records) != 16 {
		t.Errorf("%d records, %+v", len(records), sum)
	}
	for _, rec := range records {
		if rec.Covering == nil {
			t.Errorf("record %d has no time", rec.Index)
		}
	}
	l.m.Close()
	l.dir = t.TempDir()
	l.open()
	l.step()
	again, sum2 := answers()
	if diff := cmp.Diff(records, again) + cmp.Diff(sum, sum2); diff != "" {
		t.Errorf("built again: %s", diff)
	}
}
