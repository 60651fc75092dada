package webui

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/export"
	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/client/report"
	"github.com/affidavit-log/affidavit/log/record"
)

// How many things pages list.
const (
	shownFindings    = 50
	shownRecords     = 100
	shownNames       = 20
	shownNewest      = 10
	shownCheckpoints = 5
	shownGrave       = 10
	shownBars        = 62 // days; with more, months
)

// A verdict is the first thing on a page.
type verdict struct{ Tone, Word, Text string }

type logView struct {
	Status      monitor.Status
	Verdict     verdict
	Halted      *findingRow
	Grave       []findingRow
	GraveMore   uint64
	Recent      []findingRow
	Classes     []classCount
	Newest      []*monitor.Record
	Checkpoints []*monitor.Checkpoint
	Counted     uint64 // leaves
	Records     uint64
	Days        []dayRow
	Figures     []*report.Figure
	Vendors     []named
	Advisories  []named
	Form        findForm
}

type classCount struct {
	Class monitor.Class
	N     uint64
}

var classes = []monitor.Class{monitor.ClassTamper, monitor.ClassInvalid, monitor.ClassIdentity, monitor.ClassOperational}

func grave(c monitor.Class) bool { return c == monitor.ClassTamper || c == monitor.ClassInvalid }

func (u *UI) logPage(r *http.Request) (*answer, error) {
	if err := noParameters(r); err != nil {
		return nil, err
	}
	if _, err := u.advance(r.Context(), tallyRequest); err != nil {
		return nil, err
	}
	s := u.cfg.Monitor.Status()
	v := &logView{Status: s, Verdict: logVerdict(&s), Form: newFindForm("", "")}
	if s.Halted != "" {
		f, err := u.cfg.Monitor.Finding(s.Halted)
		if err != nil {
			return nil, err
		}
		if f != nil {
			row := u.row(f)
			v.Halted = &row
		}
	}
	for _, c := range classes {
		v.Classes = append(v.Classes, classCount{c, s.ByClass[c]})
		if !grave(c) || len(v.Grave) >= shownGrave {
			continue
		}
		refs, _ := u.tally.matching(0, shownGrave-len(v.Grave), func(x reference) bool { return x.class == c })
		rows, err := u.rows(refs)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if row.ID != s.Halted { // which is shown above them
				v.Grave = append(v.Grave, row)
			}
		}
	}
	v.GraveMore = s.ByClass[monitor.ClassTamper] + s.ByClass[monitor.ClassInvalid]
	if v.Halted != nil && v.GraveMore > 0 {
		v.GraveMore--
	}
	v.GraveMore -= min(v.GraveMore, uint64(len(v.Grave)))
	refs, _ := u.tally.matching(0, shownNewest, func(x reference) bool { return !grave(x.class) })
	var err error
	if v.Recent, err = u.rows(refs); err != nil {
		return nil, err
	}
	if v.Newest, err = u.newest(r.Context(), s.Audited); err != nil {
		return nil, err
	}
	if v.Checkpoints, err = u.cfg.Monitor.Checkpoints(0, shownCheckpoints); err != nil {
		return nil, err
	}
	t := &u.tally
	t.mu.Lock()
	v.Counted, v.Records, v.Days = t.next, t.records, dayRows(t.days)
	v.Vendors, v.Advisories = most(t.vendors, shownNames), most(t.advisories, shownNames)
	t.mu.Unlock()
	v.Figures = dayFigures(v.Days, "in the log")
	return u.answer("log", &layout{Title: "Log", Section: "log", Live: true}, v)
}

func logVerdict(s *monitor.Status) verdict {
	tamper, invalid := s.ByClass[monitor.ClassTamper], s.ByClass[monitor.ClassInvalid]
	switch {
	case s.Halted != "":
		return verdict{"bad", "The log contradicts itself", "The monitor follows it no further. Rely on nothing that was logged since, until it is explained."}
	case tamper > 0:
		return verdict{"bad", "The log has contradicted itself", fmt.Sprintf("There %s of class tamper. It has since continued what was audited, but what it did isn’t undone.", arePlural(tamper))}
	case invalid > 0:
		return verdict{"bad", "Something in the log is invalid", fmt.Sprintf("There %s of class invalid: it has what its rules forbid.", arePlural(invalid))}
	case s.Verified == 0 && s.Error != "":
		return verdict{"unknown", "Not known", "Nothing is audited yet, and the last look at the log failed: " + sentence(s.Error)}
	case s.Verified == 0:
		return verdict{"unknown", "Not known yet", "Nothing is audited yet."}
	case s.Error != "":
		return verdict{"claimed", "The last look failed", fmt.Sprintf("All %s audited so far are good, but the log couldn’t be followed: %s", plural(s.Verified, "leaf", "leaves"), sentence(s.Error))}
	}
	return verdict{"good", "Nothing is wrong with the log", fmt.Sprintf("%s of its tree were read, hashed into the root that it signed, and verified again.", plural(s.Verified, "leaf", "leaves"))}
}

func arePlural(n uint64) string {
	if n == 1 {
		return "is 1 finding"
	}
	return "are " + grouped(n) + " findings"
}

// newest returns the newest records, newest first. Among 64 leaves there are enough, unless the log is nearly idle.
func (u *UI) newest(ctx context.Context, audited uint64) ([]*monitor.Record, error) {
	var all []*monitor.Record
	for r, err := range u.cfg.Monitor.Search(ctx, monitor.Query{After: audited - min(audited, 64), Limit: 64}) {
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	slices.Reverse(all)
	return all[:min(len(all), shownNewest)], nil
}

// row adds what a line in a list needs.
func (u *UI) row(f *monitor.Finding) findingRow {
	row := findingRow{Finding: f}
	if f.Index != nil {
		row.Link = u.recordLink(*f.Index)
	}
	return row
}

// recordLink is empty for a leaf that holds no entry, which has no page.
func (u *UI) recordLink(index uint64) string {
	if _, err := u.cfg.Monitor.Record(index); err != nil {
		return ""
	}
	return fmt.Sprintf("/records/%d", index)
}

func (u *UI) rows(refs []reference) ([]findingRow, error) {
	var rows []findingRow
	for _, x := range refs {
		found, err := u.cfg.Monitor.Findings(x.seq-1, 1)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			rows = append(rows, u.row(f))
		}
	}
	return rows, nil
}

// A dayRow is a day, or a month, with its records by what Intel says of their platforms.
type dayRow struct {
	Day                          string
	Records, Sum                 uint64
	UpToDate, Needs, Worse, None uint64
}

func dayRows(days map[string]*dayCount) []dayRow {
	length := len(time.DateOnly)
	if len(days) > shownBars {
		length = len("2006-01")
	}
	var rows []dayRow
	sum := uint64(0)
	for _, day := range slices.Sorted(maps.Keys(days)) {
		d := days[day]
		if label := day[:length]; len(rows) == 0 || rows[len(rows)-1].Day != label {
			rows = append(rows, dayRow{Day: label})
		}
		row := &rows[len(rows)-1]
		row.Records += d.records
		sum += d.records
		row.Sum = sum
		for status, n := range d.status {
			switch statusTone(status) {
			case "good":
				row.UpToDate += n
			case "bad":
				row.Worse += n
			case "unknown":
				row.None += n
			default:
				row.Needs += n
			}
		}
	}
	if len(rows) > shownBars {
		rows = rows[len(rows)-shownBars:]
	}
	return rows
}

// dayFigures draws growth, and TCB status over time.
func dayFigures(rows []dayRow, where string) []*report.Figure {
	if len(rows) == 0 {
		return nil
	}
	growth := &report.Bars{Unit: "records", Series: []report.BarSeries{{Name: "Records in all", Tone: report.ToneKnown}}}
	status := &report.Bars{Unit: "records", Series: []report.BarSeries{
		{Name: "Up to date", Tone: report.ToneGood},
		{Name: "Configuration or hardening needed", Tone: report.ToneClaimed},
		{Name: "Out of date or revoked", Tone: report.ToneBad},
		{Name: "No genuine evidence of hardware", Tone: report.ToneUnknown},
	}}
	var sums [4]uint64
	for _, r := range rows {
		growth.Labels, status.Labels = append(growth.Labels, r.Day), append(status.Labels, r.Day)
		growth.Series[0].Values = append(growth.Series[0].Values, r.Sum)
		for i, n := range []uint64{r.UpToDate, r.Needs, r.Worse, r.None} {
			status.Series[i].Values = append(status.Series[i].Values, n)
			sums[i] += n
		}
	}
	last := rows[len(rows)-1]
	return []*report.Figure{
		{Title: "Records by day, and what Intel says of their platforms", Bars: status, Alt: fmt.Sprintf(
			"Bars for %s to %s: %s up to date, %s in need of configuration or hardening, %s out of date or revoked, %s without genuine evidence of hardware.",
			rows[0].Day, last.Day, grouped(sums[0]), grouped(sums[1]), grouped(sums[2]), grouped(sums[3]))},
		{Title: "Growth: records " + where, Bars: growth, Alt: fmt.Sprintf("Bars that grow to %s on %s.", plural(last.Sum, "record", "records"), last.Day)},
	}
}

type findingsView struct {
	Status                monitor.Status
	Class, Severity, Kind string
	Classes               []monitor.Class
	Severities            []monitor.Severity
	Kinds                 []monitor.Kind
	Rows                  []findingRow
	Older                 string // link
	Known                 uint64
}

var severities = []monitor.Severity{monitor.SeverityCritical, monitor.SeverityHigh, monitor.SeverityMedium, monitor.SeverityLow, monitor.SeverityInfo}

func (u *UI) findingsPage(r *http.Request) (*answer, error) {
	q, err := parameters(r, "class", "severity", "kind", "before")
	if err != nil {
		return nil, err
	}
	v := &findingsView{Class: q.Get("class"), Severity: q.Get("severity"), Kind: q.Get("kind"), Classes: classes, Severities: severities}
	if v.Class != "" && !slices.Contains(classes, monitor.Class(v.Class)) {
		return nil, badRequest{fmt.Errorf("%.80q is no class of findings", v.Class)}
	}
	if v.Severity != "" && !slices.Contains(severities, monitor.Severity(v.Severity)) {
		return nil, badRequest{fmt.Errorf("%.80q is no severity", v.Severity)}
	}
	if v.Kind != "" && !slices.Contains(monitor.Kinds(), monitor.Kind(v.Kind)) {
		return nil, badRequest{fmt.Errorf("%.80q is no kind of findings", v.Kind)}
	}
	before := uint64(0)
	if s := q.Get("before"); s != "" {
		if before, err = parseIndex(s); err != nil {
			return nil, err
		}
	}
	if _, err := u.advance(r.Context(), tallyRequest); err != nil {
		return nil, err
	}
	v.Status = u.cfg.Monitor.Status()
	v.Kinds = slices.Sorted(maps.Keys(v.Status.ByKind))
	if v.Kind != "" && !slices.Contains(v.Kinds, monitor.Kind(v.Kind)) {
		v.Kinds = append(v.Kinds, monitor.Kind(v.Kind))
	}
	refs, more := u.tally.matching(before, shownFindings, func(x reference) bool {
		return (v.Class == "" || x.class == monitor.Class(v.Class)) && (v.Severity == "" || x.severity == monitor.Severity(v.Severity)) && (v.Kind == "" || x.kind == monitor.Kind(v.Kind))
	})
	if v.Rows, err = u.rows(refs); err != nil {
		return nil, err
	}
	if more {
		q.Set("before", strconv.FormatUint(refs[len(refs)-1].seq, 10))
		v.Older = "/findings?" + q.Encode()
	}
	u.tally.mu.Lock()
	v.Known = u.tally.seq
	u.tally.mu.Unlock()
	return u.answer("findings", &layout{Title: "Findings", Section: "findings", Live: before == 0}, v)
}

type findingView struct {
	findingRow
	Subject []subject
	Others  []link
	Fields  []field
	Served  string
	Known   bool // the monitor's README has the kind
}

type subject struct{ Name, Value, Link string }

type link struct {
	Index uint64
	Link  string
}

// subjectLinks are what pages there are about the names in a finding.
var subjectLinks = map[string]string{
	"vendor": "vendor", "session": "session", "tenant": "tenant", "release": "release", "platform": "platform", "statement": "statement",
}

func (u *UI) finding(r *http.Request) (*monitor.Finding, error) {
	id := r.PathValue("id")
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, errNotFound
	}
	f, err := u.cfg.Monitor.Finding(id)
	if err != nil {
		return nil, err
	}
	if f == nil {
		return nil, fmt.Errorf("%w: no finding has the id %s", errNotFound, id)
	}
	return f, nil
}

func (u *UI) findingPage(r *http.Request) (*answer, error) {
	if err := noParameters(r); err != nil {
		return nil, err
	}
	id, wantJSON := strings.CutSuffix(r.PathValue("id"), ".json")
	r.SetPathValue("id", id)
	f, err := u.finding(r)
	if err != nil {
		return nil, err
	}
	if wantJSON {
		b, err := json.MarshalIndent(f, "", "  ")
		return &answer{body: append(b, '\n'), typ: "application/json", file: "finding-" + f.ID + ".json"}, err
	}
	v := &findingView{findingRow: u.row(f)}
	for _, name := range slices.Sorted(maps.Keys(f.Subject)) {
		s := subject{Name: name, Value: f.Subject[name]}
		if p, ok := subjectLinks[name]; ok {
			s.Link = searchLink(p, s.Value)
		}
		v.Subject = append(v.Subject, s)
	}
	if e := f.Evidence; e != nil {
		for _, i := range e.Others {
			v.Others = append(v.Others, link{i, u.recordLink(i)})
		}
		if len(e.Leaf) > 0 {
			v.Fields = fields(e.Leaf)
		}
		if len(e.Served) > 0 {
			v.Served = fmt.Sprintf("%x", e.Served)
			if t := text(e.Served); t != "" {
				v.Served = t
			}
		}
	}
	return u.answer("finding", &layout{Title: "Finding " + string(f.Kind), Section: "findings"}, v)
}

// searchLink returns the link for a search, or nothing if the value can't be searched for.
func searchLink(name, value string) string {
	v := url.Values{name: {value}}
	if _, err := monitorapi.ParseQuery(v, shownRecords); err != nil {
		return ""
	}
	return "/search?" + v.Encode()
}

// parameters returns a request's parameters: only the given ones, each once. Empty ones, which forms send, count as not
// given, and days count from their beginning.
func parameters(r *http.Request, names ...string) (url.Values, error) {
	all, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badRequest{err}
	}
	q := make(url.Values)
	for name, values := range all {
		switch {
		case len(names) > 0 && !slices.Contains(names, name):
			return nil, badRequest{fmt.Errorf("there is no parameter %.80q", name)}
		case len(values) != 1:
			return nil, badRequest{fmt.Errorf("%.80q is there twice", name)}
		}
		value := strings.TrimSpace(values[0])
		if name == "since" || name == "until" {
			if t, err := time.Parse(time.DateOnly, value); err == nil {
				value = t.Format(time.RFC3339)
			}
		}
		if value != "" {
			q.Set(name, value)
		}
	}
	return q, nil
}

func noParameters(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return badRequest{errors.New("this page has no parameters")}
	}
	return nil
}

func parseIndex(s string) (uint64, error) {
	i, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(i, 10) != s {
		return 0, badRequest{fmt.Errorf("%.80q is not a number in decimal", s)}
	}
	return i, nil
}

// A findForm finds things by one key.
type findForm struct {
	By, Value string
	Keys      []formKey
	Error     string
}

type formKey struct{ Name, Label, Hint string }

// findKeys are what can be searched for; those of the search page's form, and two that have pages of their own.
var findKeys = []formKey{
	{"index", "Index", "the number of a leaf"},
	{"session", "Session", "id (32 hex digits), or its digest (64)"},
	{"statement", "Statement", "digest, 64 hex digits"},
	{"vendor", "Vendor", "such as https://vendor.example"},
	{"tenant", "Tenant", "pseudonym, 64 hex digits"},
	{"release", "Release", "SHA-256 of the image"},
	{"platform", "Platform", "PPID in hex"},
	{"fmspc", "Kind of platform", "FMSPC, 12 hex digits"},
	{"tcb-status", "TCB status", "such as OutOfDate"},
	{"advisory", "Advisory", "such as INTEL-SA-00837"},
	{"model", "Model", "name"},
	{"role", "Role", "start, final, abandoned, model-run, import, release, withdrawal, vendor-key"},
	{"finding", "Finding", "id, 32 hex digits"},
}

func newFindForm(by, value string) findForm {
	if by == "" {
		by = "session"
	}
	return findForm{By: by, Value: value, Keys: findKeys}
}

type formField struct{ Name, Label, Hint, Value, Type string }

type searchView struct {
	Find    findForm
	Fields  []formField
	Asked   bool
	Pending bool
	Error   string
	Records []*monitor.Record
	Next    string // link
	After   uint64
	Query   string
}

// find turns the form with one key into the address of what it finds.
func find(q url.Values) (string, error) {
	by, value := q.Get("by"), q.Get("value")
	switch {
	case value == "":
		return "/search", nil
	case by == "index":
		i, err := parseIndex(value)
		return fmt.Sprintf("/records/%d", i), err
	case by == "finding":
		return "/findings/" + url.PathEscape(strings.ToLower(value)), nil
	case !slices.ContainsFunc(findKeys, func(k formKey) bool { return k.Name == by }):
		return "", badRequest{fmt.Errorf("nothing can be found by %.80q", by)}
	}
	parsed, err := monitorapi.ParseQuery(url.Values{by: {value}}, shownRecords)
	if err != nil {
		return "", badRequest{err}
	}
	v := parsed.Values()
	v.Del("limit")
	return "/search?" + v.Encode(), nil
}

func searchFields(q url.Values) []formField {
	var fs []formField
	for _, k := range findKeys {
		if k.Name != "index" && k.Name != "finding" {
			fs = append(fs, formField{k.Name, k.Label, k.Hint, q.Get(k.Name), "text"})
		}
	}
	return append(fs, timeFields(q)...)
}

func timeFields(q url.Values) []formField {
	return []formField{
		{"since", "Admitted from", "a day, or a time such as 2026-11-24T07:00:03Z", q.Get("since"), "text"},
		{"until", "Admitted before", "likewise", q.Get("until"), "text"},
	}
}

func (u *UI) searchPage(r *http.Request) (*answer, error) {
	q, err := parameters(r)
	if err != nil {
		return nil, err
	}
	v := &searchView{Find: newFindForm(q.Get("by"), q.Get("value"))}
	l := &layout{Title: "Search", Section: "search"}
	refuse := func(err error) (*answer, error) {
		v.Error, l.Title = sentence(err.Error()), "Search: not understood"
		a, rerr := u.answer("search", l, v)
		if rerr == nil {
			a.status = http.StatusBadRequest
		}
		return a, rerr
	}
	if q.Has("by") || q.Has("value") {
		v.Fields = searchFields(nil)
		to, err := find(q)
		if err != nil {
			return refuse(err)
		}
		return &answer{redirect: to}, nil
	}
	v.Fields = searchFields(q)
	if len(q) == 0 {
		return u.answer("search", l, v)
	}
	query, err := monitorapi.ParseQuery(q, shownRecords)
	if err != nil {
		return refuse(err)
	}
	query.Limit = shownRecords + 1 // one more tells whether there is more
	v.Asked, v.After = true, query.After
	var words []string
	for _, f := range v.Fields {
		if f.Value != "" {
			words = append(words, f.Label+" "+f.Value)
		}
	}
	v.Query = strings.Join(words, ", ")
	s := u.cfg.Monitor.Status()
	key := "search?" + query.Values().Encode()
	got, pending, err := u.jobs.get(r.Context(), key, s.Audited, time.Now(), func(ctx context.Context) (any, error) {
		var all []*monitor.Record
		for rec, err := range u.cfg.Monitor.Search(ctx, query) {
			if err != nil {
				return nil, err
			}
			all = append(all, rec)
		}
		return all, nil
	})
	if err != nil {
		return nil, tooLong(err)
	}
	if v.Pending, l.Refresh = pending, pending; !pending {
		v.Records = got.([]*monitor.Record)
		if len(v.Records) > shownRecords {
			v.Records = v.Records[:shownRecords]
			next := query
			next.Limit, next.After = 0, v.Records[shownRecords-1].Index+1
			v.Next = "/search?" + next.Values().Encode()
		}
	}
	l.Title = "Search: " + show(v.Query)
	return u.answer("search", l, v)
}

// tooLong says what to do about a question that reads too much.
func tooLong(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: the question takes too long; narrow it down, or ask the command affidavit", err)
	}
	return err
}

type recordView struct {
	Record   *monitor.Record
	Verdict  string // of the monitor's audit, for records whose bundle can't be had
	Fragment any
	Strict   bool
	Problem  string
	Linked   []linked
	Fields   []field
	Size     int

	Committing     bool // the record has a list of actions
	Disclosed      []disclosedAction
	MaxDisclosures int
}

// A linked is a leaf that belongs to a record.
type linked struct {
	Index              uint64
	Link               string
	Role               bundle.Role
	Admitted, From, To time.Time
	This               bool
}

// A checked is a record's bundle with what came of checking it.
type checked struct {
	bundle  *bundle.Bundle
	leaf    []byte
	finding *bundle.Finding
	err     *bundle.NotProven
}

func (u *UI) check(ctx context.Context, index uint64) (*checked, error) {
	b, err := u.cfg.Monitor.Bundle(ctx, index)
	if err != nil {
		return nil, err
	}
	c := &checked{bundle: b}
	for _, p := range b.Proofs {
		if p.Index == index {
			c.leaf = p.Extra
		}
	}
	c.finding, err = u.checker.Check(b)
	if err != nil && !errors.As(err, &c.err) {
		return nil, err
	}
	return c, nil
}

// report returns the report on what was checked, as of the newest time that the log's checkpoint proves, so that the same
// state gives the same page.
func (u *UI) report(c *checked, at time.Time, index uint64) (*report.Report, error) {
	file, err := c.bundle.Bytes()
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%d.affidavit", index)
	m := report.Meta{
		Date: at, Tool: u.cfg.Tool, LogPolicy: u.cfg.LogPolicy, Appraisal: u.policy, Root: u.cfg.Root,
		Args:  []string{"--log-policy", "log.policy"},
		Files: []report.File{{Name: name, Size: int64(len(file)), SHA: sha256.Sum256(file)}},
	}
	if u.cfg.Appraisal != nil {
		m.Args = append(m.Args, "--appraisal-policy", "appraisal.yaml")
	}
	if !u.cfg.Root.IsIntel() {
		m.Args = append(m.Args, "--root", "root.pem")
	}
	if c.err != nil {
		return report.Unproven(c.err, m), nil
	}
	return report.Record(c.finding, m), nil
}

func (u *UI) recordPage(r *http.Request) (*answer, error) {
	if err := noParameters(r); err != nil {
		return nil, err
	}
	return u.record(r, nil)
}

// record shows a record, and actions that were disclosed to the reader.
func (u *UI) record(r *http.Request, files []disclosedFile) (*answer, error) {
	index, err := parseIndex(r.PathValue("index"))
	if err != nil {
		return nil, err
	}
	rec, err := u.cfg.Monitor.Record(index)
	if err != nil {
		return nil, err
	}
	v := &recordView{Record: rec, Strict: u.cfg.Appraisal == nil, Committing: committing(rec.Role), MaxDisclosures: maxDisclosures}
	c, err := u.check(r.Context(), index)
	if err != nil {
		if r.Context().Err() != nil {
			return nil, err
		}
		// The log's leaves may be out of reach, or no checkpoint covers the record yet; the index has its summary.
		u.cfg.Logger.Warn("assembling a bundle", "index", index, "err", err)
		v.Problem = sentence(err.Error())
	} else {
		rep, err := u.report(c, u.reportDate(), index)
		if err != nil {
			return nil, err
		}
		if v.Fragment, err = rep.Fragment(); err != nil {
			return nil, err
		}
		v.Fields, v.Size = fields(c.leaf), len(c.leaf)
		v.Linked = u.linked(c, rec)
		v.Disclosed = disclosed(c, files)
	}
	return u.answer("record", &layout{Title: fmt.Sprintf("Record %d", index), Section: "search"}, v)
}

// reportDate is when what a page shows was last true: when the monitor last looked.
func (u *UI) reportDate() time.Time {
	if t := u.cfg.Monitor.Status().LastContact; !t.IsZero() {
		return t.UTC().Truncate(24 * time.Hour)
	}
	return u.cfg.Now().UTC().Truncate(24 * time.Hour)
}

func (u *UI) linked(c *checked, rec *monitor.Record) []linked {
	var all []linked
	if c.finding != nil {
		for _, l := range c.finding.Leaves {
			x := linked{Index: l.Index, Role: l.Role, Admitted: l.AdmittedAt(), This: l.Index == rec.Index}
			if l.Entry() != nil && !x.This {
				x.Link = fmt.Sprintf("/records/%d", l.Index)
			}
			if l.Interval != nil {
				x.From, x.To = l.Interval.NotBefore, l.Interval.NotAfter
			}
			all = append(all, x)
		}
	} else {
		all = append(all, linked{Index: rec.Index, Role: rec.Role, Admitted: rec.AdmittedAt, From: rec.NotBefore, To: rec.NotAfter, This: true})
	}
	if rec.Ended != nil {
		if e, err := u.cfg.Monitor.Record(*rec.Ended); err == nil {
			all = append(all, linked{Index: e.Index, Link: fmt.Sprintf("/records/%d", e.Index), Role: e.Role, Admitted: e.AdmittedAt, From: e.NotBefore, To: e.NotAfter})
		}
	}
	return all
}

// download answers with a record's bundle, or something made of it.
func (u *UI) download(r *http.Request) (*answer, error) {
	if err := noParameters(r); err != nil {
		return nil, err
	}
	what := r.PathValue("download")
	if !slices.Contains([]string{"bundle", "report", "ocsf", "dsse"}, what) {
		return nil, errNotFound
	}
	index, err := parseIndex(r.PathValue("index"))
	if err != nil {
		return nil, err
	}
	c, err := u.check(r.Context(), index)
	if err != nil {
		return nil, err
	}
	file, err := c.bundle.Bytes()
	if err != nil {
		return nil, err
	}
	switch what {
	case "bundle":
		return &answer{body: file, typ: "application/zip", file: fmt.Sprintf("%d.affidavit", index)}, nil
	case "report":
		rep, err := u.report(c, u.cfg.Now(), index)
		if err != nil {
			return nil, err
		}
		var b strings.Builder
		if err := rep.HTML(&b); err != nil {
			return nil, err
		}
		return &answer{body: []byte(b.String()), typ: "text/html; charset=utf-8", file: fmt.Sprintf("%d-report.html", index)}, nil
	case "ocsf":
		sum := sha256.Sum256(file)
		var rec *export.Record
		if c.err != nil {
			rec = export.FromNotProven(sum, string(c.err.Rule), c.err.Error(), u.cfg.Now())
		} else {
			rec = export.FromFinding(c.finding)
		}
		rec.Bundle, rec.BundleSHA256 = fmt.Sprintf("%d.affidavit", index), fmt.Sprintf("%x", sum)
		var b []byte
		export.OCSF{}.Events(nil, rec, func(ev *export.Event) { b = append(append(b, ev.JSON...), '\n') })
		return &answer{body: b, typ: "application/jsonl", file: fmt.Sprintf("%d-ocsf.jsonl", index)}, nil
	default:
		e, err := entryOf(c.leaf)
		if err != nil {
			return nil, err
		}
		return &answer{body: e.DSSE(), typ: "application/json", file: fmt.Sprintf("%d-dsse.json", index)}, nil
	}
}

func entryOf(leaf []byte) (*record.Entry, error) {
	l, err := record.ParseLeaf(leaf)
	if err != nil {
		return nil, err
	}
	switch l := l.(type) {
	case *record.RecordLeaf:
		return l.Entry, nil
	case *record.VendorLeaf:
		return l.Entry, nil
	}
	return nil, monitor.ErrNoRecord
}

type vendorView struct {
	ID       string
	Fields   []formField
	Vendors  []named
	Pending  bool
	Stale    bool // the figures are of a smaller log
	Audited  uint64
	Result   *vendorResult
	Figures  []*report.Figure
	Days     []dayRow
	Groups   []questions
	Unpaired string // link to the findings
}

// A vendorResult is what a pass over a vendor's records gives.
type vendorResult struct {
	check    *monitorapi.VendorCheck
	Releases []*monitor.Record
	Open     []*monitor.Record // starts without an end, the newest
	OpenAll  uint64
	days     map[string]*dayCount
}

// questions are rows of a table with shares.
type questions struct {
	Title string
	Rows  []question
}

type question struct {
	Text, Note string
	Share      monitorapi.Share
	Value      string // instead of a share
	Tone       string
}

func (u *UI) vendorPage(r *http.Request) (*answer, error) {
	q, err := parameters(r, "id", "since", "until")
	if err != nil {
		return nil, err
	}
	if _, err := u.advance(r.Context(), tallyRequest); err != nil {
		return nil, err
	}
	v := &vendorView{ID: q.Get("id"), Fields: append([]formField{{"id", "Vendor", "such as https://vendor.example", q.Get("id"), "text"}}, timeFields(q)...)}
	u.tally.mu.Lock()
	v.Vendors = most(u.tally.vendors, shownRecords)
	u.tally.mu.Unlock()
	l := &layout{Title: "Vendors", Section: "vendors"}
	if v.ID == "" {
		return u.answer("vendors", l, v)
	}
	q.Del("id")
	q.Set("vendor", v.ID)
	query, err := monitorapi.ParseVendorCheckQuery(q)
	if err != nil {
		return nil, badRequest{err}
	}
	v.Audited = u.cfg.Monitor.Status().Audited
	l.Title = "Vendor " + show(v.ID)
	got, pending, err := u.jobs.get(r.Context(), "vendor?"+query.Values().Encode(), v.Audited, time.Now(), func(ctx context.Context) (any, error) {
		return u.vendor(ctx, query)
	})
	if err != nil {
		return nil, tooLong(err)
	}
	if v.Pending, l.Refresh = pending, pending; !pending {
		v.Result = got.(*vendorResult)
		v.Stale = v.Result.check.Size != v.Audited
		v.Days = dayRows(v.Result.days)
		v.Figures = dayFigures(v.Days, "of the vendor")
		v.Groups = procurement(v.Result.check)
	}
	return u.answer("vendors", l, v)
}

func (u *UI) vendor(ctx context.Context, q monitorapi.VendorCheckQuery) (*vendorResult, error) {
	check, err := u.cfg.Monitor.VendorCheck(ctx, q)
	if err != nil {
		return nil, err
	}
	res := &vendorResult{check: check, days: make(map[string]*dayCount)}
	for rec, err := range u.cfg.Monitor.Search(ctx, monitor.Query{Vendor: q.Vendor, Since: q.Since, Until: q.Until}) {
		if err != nil {
			return nil, err
		}
		addDay(res.days, rec)
		switch {
		case rec.Role == bundle.RoleRelease || rec.Role == bundle.RoleWithdrawal:
			res.Releases = lastOf(append(res.Releases, rec))
		case rec.Role == bundle.RoleStart && rec.Ended == nil:
			res.OpenAll++
			res.Open = lastOf(append(res.Open, rec))
		}
	}
	slices.Reverse(res.Releases)
	slices.Reverse(res.Open)
	return res, nil
}

// lastOf keeps the newest records.
func lastOf(rs []*monitor.Record) []*monitor.Record { return rs[max(0, len(rs)-shownRecords):] }

// Check is for the template.
func (r *vendorResult) Check() *monitorapi.VendorCheck { return r.check }

// procurement puts a check into questions.
func procurement(c *monitorapi.VendorCheck) []questions {
	seconds := func(s float64) string { return (time.Duration(s * float64(time.Second))).Round(time.Second).String() }
	groups := []questions{
		{"Is the evidence real?", []question{
			{Text: "Records that are genuine", Share: c.Records, Note: "of all that were logged"},
			{Text: "Sessions signed by hardware throughout", Share: c.HardwareBound, Note: "all records genuine, with a start; of all sessions"},
			{Text: "Imports", Share: c.Imports, Note: "evidence that nothing ties to a statement; of all records"},
		}},
		{"Are sessions complete?", []question{
			{Text: "With a start and an end, both signed by hardware", Share: c.Completed, Note: "of all sessions"},
			{Text: "Given up", Share: c.Abandoned, Note: "of all sessions"},
			{Text: "Starts without an end, older than a day", Share: c.Unpaired, Note: "of all starts", Tone: toneIf(c.Unpaired.N > 0, "claimed")},
			{Text: "Starts without an end so far", Share: c.Open, Note: "of all starts"},
		}},
		{"Where do models run?", shares(c.Models, "models of class ", "of all that sessions name", func(class string) string {
			return map[string]string{record.ExecutionTEE: "good", record.ExecutionUnattested: "claimed"}[class]
		})},
		{"What becomes of the customer’s data?", shares(c.Retention, "", "of all ended sessions", nil)},
		{"How is the hardware?", shares(c.TCBStatuses, "TCB status ", "of records with evidence of hardware", statusTone)},
		{"Which advisories affected it?", shares(c.Advisories, "", "of records with evidence of hardware", func(string) string { return "claimed" })},
		{"When was it, provably?", []question{
			{Text: "With a proven interval", Share: c.Intervals.Proven, Note: "of records signed by hardware"},
			{Text: "Up to a minute wide", Share: c.Intervals.Minute, Note: "of those"},
			{Text: "Up to ten minutes", Share: c.Intervals.TenMinutes, Note: "of those"},
			{Text: "Up to an hour", Share: c.Intervals.Hour, Note: "of those"},
			{Text: "Wider", Share: c.Intervals.Wider, Note: "of those", Tone: toneIf(c.Intervals.Wider.N > 0, "claimed")},
			{Text: "Median, 95 % and largest width", Value: seconds(c.Intervals.Median) + ", " + seconds(c.Intervals.P95) + ", " + seconds(c.Intervals.Max)},
		}},
		{"Is the code known?", []question{
			{Text: "Images whose release was logged", Share: c.Releases, Note: "of all images that sessions ran", Tone: toneIf(c.Releases.N < c.Releases.Of, "claimed")},
			{Text: "Images of which a release was withdrawn", Share: c.Withdrawn, Note: "likewise", Tone: toneIf(c.Withdrawn.N > 0, "claimed")},
		}},
		{"How large is it?", []question{
			{Text: "Platforms", Value: grouped(c.Platforms)},
			{Text: "Customers’ pseudonyms", Value: grouped(c.Tenants), Note: "which change each month"},
		}},
	}
	groups[2].Rows = append(groups[2].Rows, question{Text: "Models of class tee with a record of their own", Share: c.ModelRuns, Note: "of all of that class"})
	groups[3].Rows = append(groups[3].Rows, question{Text: "Enforced technically", Share: c.Technical, Note: "of all ended sessions, as measured code or the vendor says"})
	return slices.DeleteFunc(groups, func(g questions) bool { return len(g.Rows) == 0 })
}

func toneIf(cond bool, tone string) string {
	if cond {
		return tone
	}
	return ""
}

func shares(m map[string]monitorapi.Share, prefix, note string, tone func(string) string) []question {
	var rows []question
	for _, k := range slices.Sorted(maps.Keys(m)) {
		q := question{Text: prefix + k, Share: m[k], Note: note}
		if tone != nil {
			q.Tone = tone(k)
		}
		rows = append(rows, q)
	}
	return rows
}

type recallView struct {
	Fields     []formField
	Advisories []named
	Asked      bool
	Pending    bool
	Error      string
	Query      string
	Result     *recallResult
	Next       string
	Note       string
}

type recallResult struct {
	Summary  *monitorapi.RecallSummary
	Sessions []*monitorapi.TouchedSession
}

func recallFields(q url.Values) []formField {
	var fs []formField
	for _, name := range []string{"advisory", "fmspc", "release", "platform", "vendor", "tenant"} {
		for _, k := range findKeys {
			if k.Name == name {
				fs = append(fs, formField{k.Name, k.Label, k.Hint, q.Get(k.Name), "text"})
			}
		}
	}
	return append(fs, timeFields(q)...)
}

func (u *UI) recallPage(r *http.Request) (*answer, error) {
	q, err := parameters(r)
	if err != nil {
		return nil, err
	}
	if _, err := u.advance(r.Context(), tallyRequest); err != nil {
		return nil, err
	}
	v := &recallView{Fields: recallFields(q), Note: monitorapi.NotABreach}
	u.tally.mu.Lock()
	v.Advisories = most(u.tally.advisories, shownNames)
	u.tally.mu.Unlock()
	l := &layout{Title: "Recall", Section: "recall"}
	if len(q) == 0 {
		return u.answer("recall", l, v)
	}
	query, err := monitorapi.ParseRecallQuery(q)
	if err != nil {
		v.Error = sentence(err.Error())
		a, rerr := u.answer("recall", l, v)
		if rerr == nil {
			a.status = http.StatusBadRequest
		}
		return a, rerr
	}
	query.Limit = shownRecords + 1
	var words []string
	for _, f := range v.Fields {
		if f.Value != "" {
			words = append(words, f.Label+" "+f.Value)
		}
	}
	v.Query, v.Asked = strings.Join(words, ", "), true
	l.Title = "Recall: " + show(v.Query)
	got, pending, err := u.jobs.get(r.Context(), "recall?"+query.Values().Encode(), u.cfg.Monitor.Status().Audited, time.Now(), func(ctx context.Context) (any, error) {
		res := new(recallResult)
		var err error
		res.Summary, err = u.cfg.Monitor.Recall(ctx, query, nil, func(t *monitorapi.TouchedSession) bool {
			res.Sessions = append(res.Sessions, t)
			return true
		})
		return res, err
	})
	if err != nil {
		return nil, tooLong(err)
	}
	if v.Pending, l.Refresh = pending, pending; !pending {
		res := *got.(*recallResult)
		if len(res.Sessions) > shownRecords {
			res.Sessions = res.Sessions[:shownRecords]
			next := query
			next.Limit, next.After = 0, res.Sessions[shownRecords-1].First.Index+1
			v.Next = "/recall?" + next.Values().Encode()
		}
		v.Result = &res
	}
	return u.answer("recall", l, v)
}
