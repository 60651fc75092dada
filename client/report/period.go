package report

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A Session is what a report on a period needs to know of one record. It is small, so that a source can stream many.
type Session struct {
	Name    string // of the file, or where else the record is
	Outcome Outcome
	Reason  string   // one sentence, unless the outcome is Good
	Codes   []string // of refusals, or the rule or reason for which it isn't proven

	// All that follows is of records that are proven, and zero otherwise. Statement is its digest, by which the same
	// record is counted once.
	Statement record.Digest
	Final     bool // the end of a session, and not a record of another kind
	Vendor    string
	ID        string // of the session
	Release   string // name of the image
	Known     bool   // the code is known to the reader
	Platform  string
	TCBStatus string
	Models    []SessionModel

	Interval   verifier.Interval // proven; zero times where nothing is
	AdmittedAt time.Time         // by the log

	Technical bool // retention is enforced by technical means, as known code says
	Erased    bool // known code reports erasure
}

// A SessionModel is a model that a session used.
type SessionModel struct {
	Name      string
	Execution string
	Proven    bool // by a record of its own
}

// SessionOf returns what a report on a period needs to know of a finding.
func SessionOf(name string, f *bundle.Finding) *Session {
	s := &Session{Name: name, Outcome: Good, Final: f.Subject.Role == bundle.RoleFinal, AdmittedAt: f.Subject.AdmittedAt()}
	if f.Subject.Statement != nil {
		s.Statement = *f.Subject.Statement
	}
	if f.Interval != nil {
		s.Interval = *f.Interval
	}
	if e := f.Subject.Entry(); e != nil {
		st := e.Statement()
		s.Vendor = st.Vendor
		if id, ok := st.SessionID(); ok {
			s.ID = id.String()
		}
		if env := st.Environment(); env != nil {
			s.Release = env.Release.Name
		}
		if st.Session != nil {
			for _, m := range st.Session.Models {
				s.Models = append(s.Models, SessionModel{Name: m.Provider + "/" + m.RequestModel, Execution: m.Execution})
			}
		}
	}
	if v := f.Subject.Verdict; v != nil {
		s.Known = v.Identity.Known()
		if v.TDX != nil {
			s.Platform, s.TCBStatus = v.TDX.PPID, string(v.TDX.Status)
		}
	}
	s.read(f.Claims, f.Refusals)
	return s
}

// read takes from claims and refusals what else there is to know. It needs the models.
func (s *Session) read(claims []verifier.Claim, refusals []verifier.Refusal) {
	for i := range claims {
		c := &claims[i]
		switch {
		case strings.HasPrefix(c.ID, "model."):
			var n int
			if _, err := fmt.Sscanf(c.ID, "model.%d", &n); err == nil && n < len(s.Models) {
				s.Models[n].Proven = c.Source == verifier.SourceVerifier && c.Status == verifier.StatusHolds
			}
		case c.ID == "code":
			s.Known = c.Status == verifier.StatusHolds
		case c.ID == "teardown":
			s.Erased = c.Source == verifier.SourceMeasuredCode && c.Value == "the measured code reports erasure"
		case c.ID == "retention":
			s.Technical = c.Source == verifier.SourceMeasuredCode && c.Status != verifier.StatusFailed
		}
	}
	if len(refusals) > 0 {
		s.Outcome, s.Reason = Refused, refusals[0].Message
		for _, r := range refusals {
			if !slices.Contains(s.Codes, string(r.Code)) {
				s.Codes = append(s.Codes, string(r.Code))
			}
		}
	}
}

// Judge sets the outcome of a record that was judged elsewhere, by its claims and refusals. With judged false nobody has
// judged it, since there was no appraisal policy.
func (s *Session) Judge(claims []verifier.Claim, refusals []verifier.Refusal, judged bool) {
	s.Outcome = Good
	s.read(claims, refusals)
	if !judged {
		s.Outcome, s.Reason = Unjudged, "the monitor has no appraisal policy, so that nobody judged the record"
	}
}

// UnprovenSession returns what a report on a period needs to know of a file that proves nothing.
func UnprovenSession(name string, e *bundle.NotProven) *Session {
	s := &Session{Name: name, Outcome: NotProven, Reason: causeOf(e), Codes: []string{string(e.Rule)}}
	if words, _, _ := strings.Cut(ruleWords[string(e.Rule)], ". "); words != "" {
		s.Reason = strings.TrimSuffix(words, ".") + ": " + s.Reason
	}
	if n := new(verifier.NotGenuine); errors.As(e, &n) {
		s.Codes = []string{n.Reason}
	}
	return s
}

// Bounds of what a period keeps, however many sessions there are and whatever is in them.
const (
	maxOutliers   = 100      // of each outcome, and listed
	firstOutliers = 25       // of these before the charts
	maxNames      = 2000     // different vendors, releases, models and codes that are told apart
	maxShown      = 15       // rows of a table of them
	maxSeconds    = 2 * 3600 // widths of intervals that are counted by the second
	maxBars       = 60
)

// A Tally sums sessions for a report on a period, in memory that grows by some 50 bytes a session. It is owned by one
// goroutine.
type Tally struct {
	outcomes map[Outcome]uint64
	total    uint64
	repeated uint64 // records that were there already
	seen     map[[12]byte]struct{}
	ends     map[[12]byte][4]byte // the end of a session, by vendor and session

	worst  map[Outcome][]*Session
	widest []*Session // of good ones, widest first
	twice  []*Session // a second end of a session

	days      map[int64]*dayTally
	undated   uint64
	logsClock uint64 // dated by the log's own clock only
	first     time.Time
	last      time.Time

	widths   [maxSeconds + 1]uint32
	wider    uint64 // than maxSeconds
	timed    uint64
	longest  time.Duration
	timeless uint64

	finals, known, technical, erased uint64
	codes, vendors, releases, models names
	platforms                        map[[8]byte]struct{}
	execution                        map[string][2]uint64 // by class: proven and not
}

type dayTally struct {
	outcomes map[Outcome]uint64
	tcb      map[tdx.Status]uint64
}

// names counts names of others, of which there may be as many as sessions.
type names struct {
	m     map[string]*nameTally
	other nameTally
}

type nameTally struct{ n, bad, proven uint64 }

func (t *names) at(name string) *nameTally {
	// The limit is on what a hostile vendor can make us keep.
	name = cleanTo(name, 120)
	if c, ok := t.m[name]; ok {
		return c
	}
	if len(t.m) >= maxNames {
		return &t.other
	}
	if t.m == nil {
		t.m = make(map[string]*nameTally)
	}
	c := new(nameTally)
	t.m[strings.Clone(name)] = c // not all of the statement that it is a part of
	return c
}

// top returns the names with the largest counts.
func (t *names) top() (all []string) {
	for n := range t.m {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(t.m[b].n, t.m[a].n), strings.Compare(a, b))
	})
	return all
}

// NewTally returns an empty tally.
func NewTally() *Tally {
	return &Tally{
		outcomes: make(map[Outcome]uint64), seen: make(map[[12]byte]struct{}), ends: make(map[[12]byte][4]byte),
		worst: make(map[Outcome][]*Session), days: make(map[int64]*dayTally), platforms: make(map[[8]byte]struct{}),
		execution: make(map[string][2]uint64),
	}
}

// Add counts a session. It may keep s, which must not be modified afterwards.
func (t *Tally) Add(s *Session) {
	if s.Statement != (record.Digest{}) {
		key := [12]byte(s.Statement[:12])
		if _, ok := t.seen[key]; ok {
			t.repeated++
			return
		}
		t.seen[key] = struct{}{}
		if s.Final {
			t.end(s)
		}
	}
	t.total++
	t.outcomes[s.Outcome]++
	if s.Outcome != Good {
		if len(t.worst[s.Outcome]) < maxOutliers {
			t.worst[s.Outcome] = append(t.worst[s.Outcome], s)
		}
		for _, c := range s.Codes {
			t.codes.at(c).n++
		}
	}
	if s.Outcome == NotProven || s.Outcome == Unread {
		return // nothing else is known
	}
	if s.Final {
		t.finals++
	}
	count := func(n *uint64, is bool) {
		if is {
			*n++
		}
	}
	count(&t.known, s.Known)
	count(&t.technical, s.Technical)
	count(&t.erased, s.Erased)
	for _, n := range []*nameTally{t.vendors.at(s.Vendor), t.releases.at(dash(s.Release))} {
		n.n++
		count(&n.bad, s.Outcome != Good)
	}
	if s.Platform != "" {
		sum := sha256.Sum256([]byte(s.Platform))
		if len(t.platforms) < 1<<20 {
			t.platforms[[8]byte(sum[:8])] = struct{}{}
		}
	}
	for _, m := range s.Models {
		class := m.Execution
		if _, ok := executionWords[class]; !ok { // there are no others in records
			class = "other"
		}
		e := t.execution[class]
		n := t.models.at(class + " " + m.Name) // no class has a space in it
		n.n++
		if m.Proven {
			e[0]++
			n.proven++
		} else {
			e[1]++
		}
		t.execution[class] = e
	}
	t.time(s)
}

// end finds sessions with two ends, which no file alone shows.
func (t *Tally) end(s *Session) {
	sum := sha256.Sum256([]byte(s.Vendor + "\x00" + s.ID))
	key, statement := [12]byte(sum[:12]), [4]byte(s.Statement[:4])
	if other, ok := t.ends[key]; ok && other != statement {
		if len(t.twice) < maxOutliers {
			t.twice = append(t.twice, s)
		}
		return
	}
	t.ends[key] = statement
}

func (t *Tally) time(s *Session) {
	from, to := s.Interval.NotBefore, s.Interval.NotAfter
	at := to
	switch {
	case !to.IsZero():
	case !from.IsZero():
		at = from
	case !s.AdmittedAt.IsZero():
		at = s.AdmittedAt
		t.logsClock++
	}
	if at.IsZero() {
		t.undated++
	} else {
		if t.first.IsZero() || at.Before(t.first) {
			t.first = at
		}
		if at.After(t.last) {
			t.last = at
		}
		n := at.Unix() / 86400
		d := t.days[n]
		if d == nil {
			d = &dayTally{outcomes: make(map[Outcome]uint64), tcb: make(map[tdx.Status]uint64)}
			t.days[n] = d
		}
		d.outcomes[s.Outcome]++
		if s.TCBStatus != "" {
			status := tdx.Status(s.TCBStatus)
			if _, ok := tcbWords[status]; !ok {
				status = "other"
			}
			d.tcb[status]++
		}
	}
	if from.IsZero() || to.IsZero() {
		t.timeless++
		return
	}
	width := max(to.Sub(from), 0)
	t.timed++
	t.longest = max(t.longest, width)
	if sec := int64(width / time.Second); sec <= maxSeconds {
		t.widths[sec]++
	} else {
		t.wider++
	}
	if s.Outcome != Good {
		return // it is an outlier anyway
	}
	const keep = 10
	if len(t.widest) == keep && width <= t.widest[keep-1].width() {
		return
	}
	i, _ := slices.BinarySearchFunc(t.widest, width, func(s *Session, w time.Duration) int {
		if s.width() >= w { // the first one comes first
			return -1
		}
		return 1
	})
	t.widest = slices.Insert(t.widest, i, s)
	t.widest = t.widest[:min(len(t.widest), keep)]
}

func (s *Session) width() time.Duration { return s.Interval.NotAfter.Sub(s.Interval.NotBefore) }

// quantile returns a width that a share of the intervals don't exceed.
func (t *Tally) quantile(share float64) string {
	want := uint64(share*float64(t.timed) + 0.999999)
	sum := uint64(0)
	for sec, n := range t.widths {
		if sum += uint64(n); sum >= want {
			return span(time.Duration(sec) * time.Second)
		}
	}
	return "more than " + span(maxSeconds*time.Second)
}

// Period returns the report on all sessions that seq yields. The error is seq's first, or says that there are none.
func Period(seq iter.Seq2[*Session, error], m Meta) (*Report, error) {
	t := NewTally()
	for s, err := range seq {
		if err != nil {
			return nil, err
		}
		t.Add(s)
	}
	return t.Report(m)
}

// outcomeOrder is from the worst on.
var outcomeOrder = []Outcome{NotProven, Unread, Unjudged, Refused, Good}

// Report returns the report on what was added. The error says that it is nothing.
func (t *Tally) Report(m Meta) (*Report, error) {
	if t.total == 0 {
		return nil, errors.New("no sessions to report on")
	}
	r := &Report{Title: "Attestation report on a period", Date: m.Date.UTC(), Outcome: Good}
	for o, n := range t.outcomes {
		if n > 0 && o.rank() > r.Outcome.rank() {
			r.Outcome = o
		}
	}
	if len(t.twice) > 0 && r.Outcome == Good {
		r.Outcome = Refused // as a file with both ends would be
	}
	r.Subject = t.counted(t.total)
	if !t.first.IsZero() {
		r.Subject += ", " + day(t.first)
		if day(t.first) != day(t.last) {
			r.Subject += " to " + day(t.last)
		}
	}
	r.Verdict = t.verdict()
	r.Facts = t.facts(m)
	r.Sections = []Section{t.summary(m)}
	outliers, more := t.outliers()
	if outliers.ID != "" {
		r.Sections = append(r.Sections, outliers)
	}
	overTime, numbers := t.overTime()
	r.Sections = append(r.Sections, overTime, t.intervals(), t.modelUse(), t.tables(), m.basis())
	annex := Section{ID: "annex", Title: "Annex", Sections: []Section{m.repeat()}}
	for _, s := range []Section{more, numbers} {
		if s.ID != "" {
			annex.Sections = append(annex.Sections, s)
		}
	}
	if m.Monitor == "" {
		annex.Sections = append(annex.Sections, m.trusted())
	}
	annex.Sections = append(annex.Sections, wordList())
	r.Sections = append(r.Sections, annex)
	return r, nil
}

// counted prints a number of sessions, or of records if there are others among them.
func (t *Tally) counted(n uint64) string {
	if t.finals+t.outcomes[NotProven]+t.outcomes[Unread] < t.total {
		return count(n, "record", "records")
	}
	return count(n, "session", "sessions")
}

func (t *Tally) verdict() string {
	bad := t.total - t.outcomes[Good]
	if bad == 0 {
		all := "All " + t.counted(t.total) + " are good"
		if t.total == 1 {
			all = "The one session is good"
		}
		s := all + ": in the log, genuine, and allowed by your appraisal policy"
		if n := len(t.twice); n > 0 {
			s += ", but " + count(uint64(n), "session has two ends", "sessions have two ends")
		}
		return s + "."
	}
	var parts []string
	for _, o := range outcomeOrder[:4] {
		if n := t.outcomes[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", grouped(n), map[Outcome]string{
				NotProven: "not proven", Unread: "not read", Unjudged: "not judged", Refused: "refused by the appraisal policy",
			}[o]))
		}
	}
	return fmt.Sprintf("Of %s, %s good: %s.", t.counted(t.total), map[bool]string{true: "1 is not", false: grouped(bad) + " are not"}[bad == 1], and(parts))
}

func (t *Tally) facts(m Meta) []Fact {
	var f []Fact
	if len(t.vendors.m) > 0 {
		top := t.vendors.top()
		name := top[0]
		if n := len(top); n > 1 {
			name = fmt.Sprintf("%s and %s", name, count(uint64(n-1), "other", "others"))
		}
		f = append(f, Fact{"Vendor", name})
	}
	if !t.first.IsZero() {
		f = append(f, Fact{"Period", moment(t.first) + " to " + moment(t.last)})
	}
	if m.Monitor != "" {
		f = append(f, Fact{"Source", "the monitor " + clean(m.Monitor) + ", by its word"})
	}
	return append(f, Fact{"Report made", moment(m.Date)})
}

// maxFirst is how many outliers the summary names.
const maxFirst = 8

func (t *Tally) summary(m Meta) Section {
	s := Section{ID: "summary", Title: "Summary"}
	var first []string
	for _, o := range outcomeOrder[:4] {
		for _, w := range t.worst[o] {
			if len(first) < maxFirst {
				first = append(first, fmt.Sprintf("%s: %s. %s", clean(w.Name), strings.ToLower(o.Word()), sentence(cleanTo(w.Reason, 300))))
			}
		}
	}
	if n := t.total - t.outcomes[Good]; n > 0 {
		if left := n - uint64(len(first)); left > 0 {
			first = append(first, fmt.Sprintf("And %s more, below.", grouped(left)))
		}
		s.Blocks = append(s.Blocks, notice(ToneBad, "What is not good", first...))
	}
	if n := len(t.twice); n > 0 {
		s.Blocks = append(s.Blocks, notice(ToneBad, "Two ends of one session", fmt.Sprintf("%s, so that none of them counts. They are listed below.", count(uint64(n), "session has a second, different end", "sessions have a second, different end"))))
	}
	if m.Root != nil && !m.Root.IsIntel() {
		s.Blocks = append(s.Blocks, notice(ToneClaimed, "This is a test", "The evidence was verified under a root that is not Intel’s. Nothing here is about real hardware."))
	}
	if m.Monitor != "" {
		s.Blocks = append(s.Blocks, notice(ToneClaimed, "A monitor’s word", "This report takes the word of the monitor "+clean(m.Monitor)+" for what it verified."))
	}
	genuine := t.total - t.outcomes[NotProven] - t.outcomes[Unread]
	of := func(n uint64, what string) string {
		return fmt.Sprintf("%s: %s of %s.", what, grouped(n), grouped(genuine))
	}
	proven := []string{of(genuine-t.outcomes[Refused]-t.outcomes[Unjudged], "In the log, genuine, and allowed"), of(t.known, "The software that ran is known"), of(t.timed, "Time proven on both sides")}
	if t.timed > 0 {
		proven = append(proven, fmt.Sprintf("Half of the proven intervals are no wider than %s; the widest is %s.", t.quantile(0.5), span(t.longest)))
	}
	up, judged := uint64(0), uint64(0)
	for _, d := range t.days {
		for status, n := range d.tcb {
			judged += n
			if status == tdx.StatusUpToDate {
				up += n
			}
		}
	}
	proven = append(proven, fmt.Sprintf("Machine’s firmware up to date at the time: %s of %s.", grouped(up), grouped(judged)))
	tee := t.execution[record.ExecutionTEE]
	proven = append(proven, fmt.Sprintf("Models in confidential hardware, with records of their own: %s.", grouped(tee[0])))
	known := []string{of(t.technical, "No data kept, by technical means"), of(t.erased, "Erasure of the workspace reported by measured code")}
	claimed := []string{fmt.Sprintf("Models said to be in confidential hardware, without such a record: %s.", grouped(tee[1]))}
	for _, class := range []string{record.ExecutionPolicyZDR, record.ExecutionUnattested} {
		e := t.execution[class]
		claimed = append(claimed, fmt.Sprintf("Models elsewhere (class “%s”): %s.", class, grouped(e[0]+e[1])))
	}
	claimed = append(claimed, "Who the vendors and their customers are.")
	unknown := []string{
		"Whether these are all sessions that there were. “affidavit reconcile” compares a list of your own with the log.",
		"Whether somebody attacked the hardware physically. It is assumed that nobody did.",
		"Where the machines stand, and who operates them.",
	}
	if t.undated > 0 {
		unknown = append(unknown, fmt.Sprintf("When %s took place.", t.counted(t.undated)))
	}
	s.Blocks = append(s.Blocks, Block{Kind: KindGroups, Groups: []Group{
		{Title: "Proven", By: "by hardware’s signatures and the log’s witnesses", Tone: ToneGood, Items: proven},
		{Title: "Reported by known code", By: "by software that is the one that you trust", Tone: ToneKnown, Items: known},
		{Title: "Only claimed", By: "by vendors; nothing here proves it", Tone: ToneClaimed, Items: claimed},
		{Title: "Unknown", By: "nobody vouches for it", Tone: ToneUnknown, Items: unknown},
	}})
	if t.repeated > 0 {
		s.Blocks = append(s.Blocks, text(fmt.Sprintf("%s about a record that was there already, and not counted again.", map[bool]string{true: "1 file was", false: grouped(t.repeated) + " files were"}[t.repeated == 1])))
	}
	return s
}

// outliers are what isn't good or is unusual, and for the annex those that are too many for a first look.
func (t *Tally) outliers() (s, more Section) {
	s, more = Section{ID: "outliers", Title: "Outliers"}, Section{ID: "more-outliers", Title: "More of what is not good"}
	if len(t.codes.m) > 0 {
		tab := &Table{Caption: "Why they are not good", Header: []string{"Code", "Meaning", "Records"}, Numeric: []bool{false, false, true}}
		for _, name := range t.codes.top() {
			if len(tab.Rows) < maxShown {
				tab.Rows = append(tab.Rows, []string{name, dash(meaning(name)), grouped(t.codes.m[name].n)})
			}
		}
		s.Blocks = append(s.Blocks, table(tab))
	}
	tab := &Table{Caption: "What is not good, the worst first", Header: []string{"Record", "Judged", "Why", "Vendor", "Proven time"}}
	shown := uint64(0)
	row := func(w *Session, judged, why string) {
		when := "none"
		if i := &w.Interval; !i.NotBefore.IsZero() && !i.NotAfter.IsZero() {
			when = bounds(i)
		} else if !i.NotAfter.IsZero() {
			when = "not after " + moment(i.NotAfter)
		}
		tab.Rows = append(tab.Rows, []string{cleanTo(w.Name, 120), judged, why, dash(cleanTo(w.Vendor, 120)), when})
		tab.Tones = append(tab.Tones, ToneBad)
	}
	for _, w := range t.twice {
		row(w, "two ends", "Another end of the same session, "+clean(w.ID)+", is there, too.")
	}
	for _, o := range outcomeOrder[:4] {
		for _, w := range t.worst[o] {
			if shown++; shown > maxOutliers {
				break
			}
			row(w, strings.ToLower(o.Word()), sentence(cleanTo(w.Reason, 300)))
		}
	}
	if len(tab.Rows) > 0 {
		rest := *tab
		if len(tab.Rows) > firstOutliers {
			tab.Rows, rest.Rows = tab.Rows[:firstOutliers], tab.Rows[firstOutliers:]
			tab.Tones, rest.Tones = tab.Tones[:firstOutliers], tab.Tones[firstOutliers:]
			rest.Caption += ", continued"
			more.Blocks = append(more.Blocks, table(&rest))
		}
		s.Blocks = append(s.Blocks, table(tab))
		if len(more.Blocks) > 0 {
			s.Blocks = append(s.Blocks, text(fmt.Sprintf("The annex has %s.", count(uint64(len(rest.Rows)), "more", "more"))))
		}
		if n := t.total - t.outcomes[Good]; n > maxOutliers {
			more.Blocks = append(more.Blocks, text(fmt.Sprintf("Of %s that are not good, the first %d of the worst kinds are listed. “affidavit verify --json” lists all.", grouped(n), maxOutliers)))
		}
	}
	if len(t.widest) > 1 {
		tab := &Table{Caption: "The widest proven intervals among the good ones", Header: []string{"Record", "Width", "Proven time", "Vendor"}, Numeric: []bool{false, true}}
		for _, w := range t.widest {
			tab.Rows = append(tab.Rows, []string{cleanTo(w.Name, 120), span(w.width()), bounds(&w.Interval), cleanTo(w.Vendor, 120)})
		}
		s.Blocks = append(s.Blocks, table(tab))
	}
	if len(s.Blocks) == 0 {
		s.ID = ""
	}
	if len(more.Blocks) == 0 {
		more.ID = ""
	}
	return s, more
}

// buckets divides the period into bars of as many days each as it takes.
func (t *Tally) buckets() (labels []string, of func(day int64) int, each string) {
	lo, hi := t.first.Unix()/86400, t.last.Unix()/86400
	size := int64(1)
	for _, size = range []int64{1, 7, 30, 90, 365, 3650, 36500, 365000} {
		if (hi-lo)/size < maxBars {
			break
		}
	}
	for d := lo; d <= hi; d += size {
		at := time.Unix(d*86400, 0).UTC()
		if size == 1 && (hi-lo) < 300 {
			labels = append(labels, at.Format("Jan 2"))
		} else {
			labels = append(labels, day(at))
		}
	}
	each = "a day"
	if size == 7 {
		each = "a week"
	} else if size > 7 {
		each = fmt.Sprintf("in %d days", size)
	}
	return labels, func(d int64) int { return int((d - lo) / size) }, each
}

// overTime has charts, and for the annex the numbers in them.
func (t *Tally) overTime() (s, numbers Section) {
	s, numbers = Section{ID: "over-time", Title: "Over time"}, Section{ID: "numbers", Title: "Numbers in the charts"}
	if len(t.days) == 0 {
		s.Blocks = append(s.Blocks, notice(ToneUnknown, "Unknown", "Nothing says when the sessions took place."))
		return s, Section{}
	}
	if t.logsClock > 0 {
		s.Blocks = append(s.Blocks, text(fmt.Sprintf("Days are those of the proven time; for %s without one they are by the log’s own clock.", t.counted(t.logsClock))))
	}
	labels, of, each := t.buckets()
	chart := func(title, unit string, series []BarSeries) {
		series = slices.DeleteFunc(series, func(b BarSeries) bool { return !slices.ContainsFunc(b.Values, func(n uint64) bool { return n > 0 }) })
		if len(series) == 0 {
			return
		}
		b := &Bars{Labels: labels, Series: series, Unit: unit}
		s.Blocks = append(s.Blocks, figure(&Figure{Title: title, Alt: b.alt(), Bars: b}))
		tab := &Table{Caption: title, Header: []string{"From"}, Numeric: []bool{false}}
		for _, x := range series {
			tab.Header, tab.Numeric = append(tab.Header, x.Name), append(tab.Numeric, true)
		}
		for i, l := range labels {
			row, any := []string{l}, false
			for _, x := range series {
				row, any = append(row, grouped(x.Values[i])), any || x.Values[i] > 0
			}
			if any {
				tab.Rows = append(tab.Rows, row)
			}
		}
		numbers.Blocks = append(numbers.Blocks, table(tab))
	}
	var outcomes []BarSeries
	for _, o := range []Outcome{Good, Refused, Unjudged} {
		b := BarSeries{Name: o.Word(), Tone: map[Outcome]Tone{Good: ToneGood, Refused: ToneBad, Unjudged: ToneUnknown}[o], Values: make([]uint64, len(labels))}
		for d, day := range t.days {
			b.Values[of(d)] += day.outcomes[o]
		}
		outcomes = append(outcomes, b)
	}
	chart("Proven records "+each, "records", outcomes)
	groups := []struct {
		name string
		tone Tone
		is   []tdx.Status
	}{
		{"Up to date", ToneGood, []tdx.Status{tdx.StatusUpToDate}},
		{"Relaunch advised", ToneKnown, []tdx.Status{tdx.StatusTDRelaunchAdvised, tdx.StatusTDRelaunchAdvisedConfigurationNeeded}},
		{"Configuration or hardening needed", ToneClaimed, []tdx.Status{tdx.StatusConfigurationNeeded, tdx.StatusSWHardeningNeeded, tdx.StatusConfigurationAndSWHardeningNeeded}},
		{"Out of date", ToneBad, []tdx.Status{tdx.StatusOutOfDate, tdx.StatusOutOfDateConfigurationNeeded}},
		{"Other", ToneUnknown, []tdx.Status{tdx.StatusRevoked, "other"}},
	}
	var status []BarSeries
	for _, g := range groups {
		b := BarSeries{Name: g.name, Tone: g.tone, Values: make([]uint64, len(labels))}
		for d, day := range t.days {
			for _, st := range g.is {
				b.Values[of(d)] += day.tcb[st]
			}
		}
		status = append(status, b)
	}
	chart("Firmware of the machines (TCB status), records "+each, "records", status)
	return s, numbers
}

// alt says in words what a chart shows.
func (b *Bars) alt() string {
	var parts []string
	for _, s := range b.Series {
		sum, most := uint64(0), 0
		for i, v := range s.Values {
			sum += v
			if v > s.Values[most] {
				most = i
			}
		}
		parts = append(parts, fmt.Sprintf("%s: %s %s in all, most at %s with %s", s.Name, grouped(sum), b.Unit, b.Labels[most], grouped(s.Values[most])))
	}
	return "Bar chart. " + strings.Join(parts, "; ") + ". The annex has the numbers."
}

func (t *Tally) intervals() Section {
	s := Section{ID: "intervals", Title: "How exact the proven times are"}
	edges := []struct {
		label string
		upTo  int
	}{{"up to 10 s", 10}, {"up to 30 s", 30}, {"up to 1 min", 60}, {"up to 2 min", 120}, {"up to 5 min", 300}, {"up to 15 min", 900}, {"up to 1 h", 3600}, {"up to 2 h", maxSeconds}}
	b := &Bars{Horizontal: true, Unit: "records", Series: []BarSeries{{Name: "Records", Tone: ToneKnown}}}
	sec := 0
	for _, e := range edges {
		n := uint64(0)
		for ; sec <= e.upTo; sec++ {
			n += uint64(t.widths[sec])
		}
		b.Labels, b.Series[0].Values = append(b.Labels, e.label), append(b.Series[0].Values, n)
	}
	b.Labels, b.Series[0].Values = append(b.Labels, "wider", "not proven on both sides"), append(b.Series[0].Values, t.wider, t.timeless)
	if t.timed == 1 {
		s.Blocks = append(s.Blocks, text("A record’s time is proven to lie between two times that witnesses signed. The one interval is "+span(t.longest)+" wide."))
	}
	if t.timed > 1 {
		s.Blocks = append(s.Blocks, text(fmt.Sprintf("A record’s time is proven to lie between two times that witnesses signed. Half of the %s intervals are no wider than %s, 99 of 100 no wider than %s, and the widest is %s.",
			grouped(t.timed), t.quantile(0.5), t.quantile(0.99), span(t.longest))))
	}
	var alt []string
	for i, l := range b.Labels {
		alt = append(alt, l+": "+grouped(b.Series[0].Values[i]))
	}
	s.Blocks = append(s.Blocks, figure(&Figure{Title: "Records by the width of their proven interval", Alt: "Bar chart. " + strings.Join(alt, "; ") + ".", Bars: b}))
	return s
}

func (t *Tally) modelUse() Section {
	s := Section{ID: "models", Title: "Models"}
	if len(t.models.m) == 0 {
		s.Blocks = append(s.Blocks, text("No session used a model."))
		return s
	}
	s.Blocks = append(s.Blocks, text("Each model of each session counts once. In confidential hardware means: with a record of its own that is good. What sessions only say is counted apart."))
	tee, zdr, un := t.execution[record.ExecutionTEE], t.execution[record.ExecutionPolicyZDR], t.execution[record.ExecutionUnattested]
	b := &Bars{Horizontal: true, Unit: "uses", Labels: []string{"In confidential hardware", "Promise not to keep", "Nothing known"}, Series: []BarSeries{
		{Name: "Proven by a record of its own", Tone: ToneGood, Values: []uint64{tee[0], zdr[0], un[0]}},
		{Name: "Only claimed", Tone: ToneClaimed, Values: []uint64{tee[1], zdr[1], un[1]}},
	}}
	s.Blocks = append(s.Blocks, figure(&Figure{Title: "Uses of models by execution class", Bars: b, Alt: fmt.Sprintf(
		"Bar chart. In confidential hardware: %s proven and %s only claimed; with a promise not to keep: %s; nothing known: %s.",
		grouped(tee[0]), grouped(tee[1]), grouped(zdr[0]+zdr[1]), grouped(un[0]+un[1]))}))
	tab := &Table{Caption: "Models", Header: []string{"Model", "Class", "Uses", "Of these proven"}, Numeric: []bool{false, false, true, true}}
	rest := t.models.other
	for i, key := range t.models.top() {
		n := t.models.m[key]
		if i >= maxShown {
			rest.n, rest.proven = rest.n+n.n, rest.proven+n.proven
			continue
		}
		class, name, _ := strings.Cut(key, " ")
		tab.Rows = append(tab.Rows, []string{name, class, grouped(n.n), grouped(n.proven)})
	}
	if rest.n > 0 {
		tab.Rows = append(tab.Rows, []string{"Others", "", grouped(rest.n), grouped(rest.proven)})
	}
	s.Blocks = append(s.Blocks, table(tab))
	return s
}

func (t *Tally) tables() Section {
	s := Section{ID: "tables", Title: "Vendors and software"}
	add := func(caption, label string, all *names) {
		tab := &Table{Caption: caption, Header: []string{label, "Records", "Not good"}, Numeric: []bool{false, true, true}}
		rest := all.other
		for i, name := range all.top() {
			n := all.m[name]
			if i >= maxShown {
				rest.n, rest.bad = rest.n+n.n, rest.bad+n.bad
				continue
			}
			tab.Rows = append(tab.Rows, []string{name, grouped(n.n), grouped(n.bad)})
			tone := Tone("")
			if n.bad > 0 {
				tone = ToneBad
			}
			tab.Tones = append(tab.Tones, tone)
		}
		if rest.n > 0 {
			tab.Rows = append(tab.Rows, []string{"Others", grouped(rest.n), grouped(rest.bad)})
		}
		if len(tab.Rows) > 0 {
			s.Blocks = append(s.Blocks, table(tab))
		}
	}
	add("Vendors", "Vendor", &t.vendors)
	add("Releases of software, as the records name them", "Image", &t.releases)
	s.Blocks = append(s.Blocks, text(fmt.Sprintf("The records are from %s. A file that is not proven is in none of these tables.", count(uint64(len(t.platforms)), "machine", "machines"))))
	return s
}
