package report

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

var monitoredMeta = Meta{Date: reportDate, Monitor: "https://monitor.example"}

// find returns the first table with a caption.
func find(t testing.TB, r *Report, caption string) *Table {
	t.Helper()
	var walk func(all []Section) *Table
	walk = func(all []Section) *Table {
		for _, s := range all {
			for _, b := range s.Blocks {
				if b.Table != nil && b.Table.Caption == caption {
					return b.Table
				}
			}
			if f := walk(s.Sections); f != nil {
				return f
			}
		}
		return nil
	}
	f := walk(r.Sections)
	if f == nil {
		t.Fatalf("no table %q", caption)
	}
	return f
}

func ofAll(all ...*Session) *Tally {
	t := NewTally()
	for _, s := range all {
		t.Add(s)
	}
	return t
}

func made(n int, o Outcome) *Session {
	at := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, n)
	s := &Session{Name: fmt.Sprint("file ", n), Outcome: o, Final: true, Vendor: "v", ID: fmt.Sprint(n), Statement: sha256.Sum256(fmt.Append(nil, n))}
	s.Interval = verifier.Interval{NotBefore: at, NotAfter: at.Add(time.Minute)}
	if o != Good {
		s.Reason = "reason " + fmt.Sprint(n)
	}
	return s
}

// The verdict is the worst, and the numbers add up.
func TestPeriodVerdict(t *testing.T) {
	for _, tt := range []struct {
		all     []Outcome
		outcome Outcome
		verdict string
	}{
		{[]Outcome{Good}, Good, "The one session is good: in the log, genuine, and allowed by your appraisal policy."},
		{[]Outcome{Good, Good}, Good, "All 2 sessions are good: in the log, genuine, and allowed by your appraisal policy."},
		{[]Outcome{Good, Refused}, Refused, "Of 2 sessions, 1 is not good: 1 refused by the appraisal policy."},
		{[]Outcome{Refused, NotProven, Good, Refused}, NotProven, "Of 4 sessions, 3 are not good: 1 not proven and 2 refused by the appraisal policy."},
		{[]Outcome{Refused, Unread}, Unread, "Of 2 sessions, 2 are not good: 1 not read and 1 refused by the appraisal policy."},
		{[]Outcome{Good, Unjudged}, Unjudged, "Of 2 sessions, 1 is not good: 1 not judged."},
	} {
		tally := NewTally()
		for i, o := range tt.all {
			tally.Add(made(i, o))
		}
		r, err := tally.Report(monitoredMeta)
		if err != nil {
			t.Fatal(err)
		}
		if r.Outcome != tt.outcome || r.Verdict != tt.verdict {
			t.Errorf("%v: %s, %q; want %s, %q", tt.all, r.Outcome, r.Verdict, tt.outcome, tt.verdict)
		}
		screen := firstScreen(t, htmlOf(t, r))
		for i, o := range tt.all {
			if o != Good && !strings.Contains(screen, fmt.Sprintf("file %d: %s. Reason %d.", i, strings.ToLower(o.Word()), i)) {
				t.Errorf("%v: the first section doesn't name number %d:\n%s", tt.all, i, screen)
			}
		}
	}
	if _, err := NewTally().Report(monitoredMeta); err == nil {
		t.Error("a report on nothing")
	}
	boom := errors.New("boom")
	if _, err := Period(func(yield func(*Session, error) bool) { _ = yield(made(1, Good), nil) && yield(nil, boom) }, monitoredMeta); !errors.Is(err, boom) {
		t.Errorf("got %v, want the source's error", err)
	}
}

// The same record counts once, and a session with two ends is seen, though each file by itself is good.
func TestTwice(t *testing.T) {
	a, again, other := made(1, Good), made(1, Good), made(1, Good)
	other.Statement[0]++
	other.Name = "the other end"
	r, err := ofAll(a, again, other, made(2, Good)).Report(monitoredMeta)
	if err != nil {
		t.Fatal(err)
	}
	if r.Outcome != Refused || !strings.Contains(r.Verdict, "All 3 sessions are good") || !strings.Contains(r.Verdict, "1 session has two ends") {
		t.Errorf("%s, %q", r.Outcome, r.Verdict)
	}
	screen := firstScreen(t, htmlOf(t, r))
	for _, want := range []string{"Two ends of one session", "1 file was about a record that was there already"} {
		if !strings.Contains(screen, want) {
			t.Errorf("the first section doesn't say %q", want)
		}
	}
	if tab := find(t, r, "What is not good, the worst first"); tab.Rows[0][0] != "the other end" || tab.Rows[0][1] != "two ends" {
		t.Errorf("the outliers are %v", tab.Rows)
	}
	// Another vendor's session with the same id is no end of it.
	other.Vendor = "somebody else"
	if r, err := ofAll(a, other).Report(monitoredMeta); err != nil || r.Outcome != Good {
		t.Errorf("%v, %v", r, err)
	}
}

// The worst come first, and what is too much is counted, not dropped.
func TestOutliers(t *testing.T) {
	tally := NewTally()
	for i := range 300 {
		tally.Add(made(i, []Outcome{Refused, NotProven, Good}[i%3]))
	}
	r, err := tally.Report(monitoredMeta)
	if err != nil {
		t.Fatal(err)
	}
	first, rest := find(t, r, "What is not good, the worst first"), find(t, r, "What is not good, the worst first, continued")
	if len(first.Rows) != firstOutliers || len(first.Rows)+len(rest.Rows) != maxOutliers {
		t.Errorf("%d and %d rows", len(first.Rows), len(rest.Rows))
	}
	for _, row := range append(first.Rows, rest.Rows...) {
		if row[1] != "not proven" {
			t.Errorf("%v stands before what isn't proven", row)
		}
	}
	if page := htmlOf(t, r); !strings.Contains(page, "Of 200 that are not good, the first 100 of the worst kinds are listed") {
		t.Error("it isn't said how many are missing")
	}
}

// Days are counted by the proven time, and statuses of firmware beside them; nothing falls between the bars.
func TestOverTime(t *testing.T) {
	for _, days := range []int{1, 2, 30, 59, 60, 61, 400, 5000} {
		tally := NewTally()
		want := uint64(0)
		for i := 0; i < days; i += max(1, days/37) {
			s := made(i, Good)
			s.TCBStatus = []string{"UpToDate", "OutOfDate", "Something"}[i%3]
			tally.Add(s)
			want++
		}
		r, err := tally.Report(monitoredMeta)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		walk := func(all []Section) {
			for _, s := range all {
				for _, b := range s.Blocks {
					if b.Figure == nil || s.ID != "over-time" {
						continue
					}
					n++
					sum := uint64(0)
					for _, x := range b.Figure.Bars.Series {
						for _, v := range x.Values {
							sum += v
						}
					}
					if sum != want {
						t.Errorf("%d days: %q has %d sessions, want %d", days, b.Figure.Title, sum, want)
					}
					if len(b.Figure.Bars.Labels) > maxBars {
						t.Errorf("%d days: %d bars", days, len(b.Figure.Bars.Labels))
					}
				}
			}
		}
		walk(r.Sections)
		if n != 2 {
			t.Errorf("%d days: %d charts", days, n)
		}
	}
}

// Quantiles of widths are exact to the second.
func TestQuantile(t *testing.T) {
	tally := NewTally()
	for i := 1; i <= 100; i++ {
		s := made(i, Good)
		s.Interval.NotAfter = s.Interval.NotBefore.Add(time.Duration(i) * time.Second)
		tally.Add(s)
	}
	for share, want := range map[float64]string{0.5: "50 s", 0.99: "1 min 39 s", 0.01: "1 s", 1: "1 min 40 s"} {
		if got := tally.quantile(share); got != want {
			t.Errorf("quantile(%v) = %q, want %q", share, got, want)
		}
	}
	if w := tally.widest; len(w) != 10 || w[0].width() != 100*time.Second || w[9].width() != 91*time.Second {
		t.Errorf("the widest are %v", w)
	}
	tally.Add(&Session{Outcome: Good, Interval: verifier.Interval{NotBefore: reportDate, NotAfter: reportDate.Add(9 * time.Hour)}})
	if got := tally.quantile(1); got != "more than 2 h" {
		t.Errorf("quantile(1) = %q", got)
	}
}

// What a finding says gets into a period whole.
func TestSessionOf(t *testing.T) {
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	f, err := bundle.Check(s.Bundle(), s.Options())
	if err != nil {
		t.Fatal(err)
	}
	got := SessionOf("a", f)
	if got.Outcome != Good || !got.Final || got.Vendor != s.Vendor.ID || got.ID != s.World.Session.String() || got.Release != s.Vendor.Image.Name || !got.Known ||
		got.TCBStatus != "UpToDate" || got.Interval != *f.Interval || !got.Technical || !got.Erased || got.Platform == "" || got.AdmittedAt.IsZero() || got.Statement != *f.Subject.Statement {
		t.Errorf("%+v", got)
	}
	if len(got.Models) != 1 || got.Models[0] != (SessionModel{"gateway/qwen3-coder-480b", record.ExecutionTEE, true}) {
		t.Errorf("models %+v", got.Models)
	}
	// Code that nobody knows reports nothing.
	s = bundletest.NewSession(t, witnessed, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Quote.MRTD[0]++ }})
	if f, err = bundle.Check(s.Bundle(), s.Options()); err != nil {
		t.Fatal(err)
	}
	if got = SessionOf("a", f); got.Outcome != Refused || got.Known || got.Technical || got.Erased || got.Reason == "" || len(got.Codes) == 0 {
		t.Errorf("%+v", got)
	}
	// A record that nobody judged isn't good.
	got.Judge(nil, nil, false)
	if got.Outcome != Unjudged {
		t.Errorf("%+v", got)
	}
}

// A hostile vendor can have as many names as sessions. They cost no more than their number.
func TestPeriodIsBounded(t *testing.T) {
	var before, after runtime.MemStats
	tally := NewTally()
	runtime.GC()
	runtime.ReadMemStats(&before)
	const n = 3000
	big := strings.Repeat("x", 8<<10)
	for i := range n {
		s := made(i%400, Refused)
		name := fmt.Sprint(i, big)
		s.Name, s.Vendor, s.ID, s.Release, s.Platform, s.Reason, s.TCBStatus = name, name, name, name, name, name, name
		s.Statement = sha256.Sum256([]byte(name))
		s.Codes, s.Models = []string{name}, []SessionModel{{name, name, false}}
		tally.Add(s)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 20<<20 {
		t.Errorf("the tally of %d sessions holds %d bytes", n, grown)
	}
	r, err := tally.Report(monitoredMeta)
	if err != nil {
		t.Fatal(err)
	}
	if page := htmlOf(t, r); len(page) > 1<<20 {
		t.Errorf("a page of %d bytes", len(page))
	}
	sum := uint64(0)
	for _, row := range find(t, r, "Vendors").Rows {
		var k uint64
		if _, err := fmt.Sscan(strings.ReplaceAll(row[1], ",", ""), &k); err != nil {
			t.Fatal(err)
		}
		sum += k
	}
	if sum != n {
		t.Errorf("the table of vendors has %d records, want %d", sum, n)
	}
}
