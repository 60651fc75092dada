package report

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Record returns the report on what a bundle or a proof shows: f is what package bundle found under the policies and the
// root in m.
func Record(f *bundle.Finding, m Meta) *Report {
	c := newContent(f, m)
	r := &Report{Title: "Attestation report", Subject: c.subject(), Date: m.Date.UTC(), Outcome: c.outcome(), Verdict: c.verdict()}
	r.Facts = c.facts()
	r.Sections = append(r.Sections, c.summary(r))
	if c.session() {
		r.Sections = append(r.Sections, c.contents(), c.questions(), c.retention(), c.teardown())
	} else {
		r.Sections = append(r.Sections, c.statement())
	}
	chain, annex := c.chain(), c.annex()
	r.Sections = append(r.Sections, chain, m.basis(), c.other(), annex)
	r.Sections = slices.DeleteFunc(r.Sections, func(s Section) bool { return s.ID == "" })
	return r
}

// A content is a finding on its way to a report.
type content struct {
	f      *bundle.Finding
	m      Meta
	claims map[string]*verifier.Claim
	start  *bundle.Leaf // of the session that the subject is the end of, or nil
	used   map[string]bool
}

func newContent(f *bundle.Finding, m Meta) *content {
	c := &content{f: f, m: m, claims: make(map[string]*verifier.Claim), used: make(map[string]bool)}
	for i := range f.Claims {
		c.claims[f.Claims[i].ID] = &f.Claims[i]
	}
	for _, l := range f.Leaves {
		if l.Role == bundle.RoleStart && l != f.Subject {
			c.start = l
		}
	}
	return c
}

// session reports whether the subject is about work in a trust domain, and not about a vendor's releases or keys.
func (c *content) session() bool {
	switch c.f.Subject.Role {
	case bundle.RoleRelease, bundle.RoleWithdrawal, bundle.RoleVendorKey:
		return false
	}
	return true
}

func (c *content) outcome() Outcome {
	if c.f.Allowed() {
		return Good
	}
	return Refused
}

// roleWords name what a record is about.
var roleWords = map[bundle.Role]string{
	bundle.RoleStart:      "Start of a session",
	bundle.RoleFinal:      "Session",
	bundle.RoleAbandoned:  "Session that was given up",
	bundle.RoleModelRun:   "Run of a model",
	bundle.RoleImport:     "Imported evidence",
	bundle.RoleRelease:    "Release of an image",
	bundle.RoleWithdrawal: "Withdrawal of a release",
	bundle.RoleVendorKey:  "Release key of a vendor",
}

func (c *content) subject() string {
	words := roleWords[c.f.Subject.Role]
	if k := c.claims["session.kind"]; k != nil && k.Value == "coding-session" {
		words = strings.Replace(words, "Session", "Coding session", 1)
		words = strings.Replace(words, "a session", "a coding session", 1)
	}
	if id := c.claims["session.id"]; id != nil {
		words += " " + clean(id.Value)
	}
	return words
}

// this names the subject in a sentence.
func (c *content) this() string {
	switch c.f.Subject.Role {
	case bundle.RoleStart:
		return "This start of a session"
	case bundle.RoleFinal:
		return "The record of this session"
	case bundle.RoleAbandoned:
		return "The record that this session was given up"
	case bundle.RoleModelRun:
		return "The record of this model run"
	case bundle.RoleImport:
		return "This imported evidence"
	case bundle.RoleRelease:
		return "This release"
	case bundle.RoleWithdrawal:
		return "This withdrawal of a release"
	}
	return "This release key"
}

func (c *content) verdict() string {
	var genuine string
	switch v := c.f.Subject.Verdict; {
	case v == nil || v.Quote == nil:
		genuine = "is signed with the vendor’s key"
	case v.Entry.Profile == record.ProfileUnbound:
		genuine = "holds a report of hardware that nothing ties to it"
	case v.Entry.Profile.Import():
		genuine = "holds a report of hardware that covers a key, and not what is said of it"
	case v.Entry.Profile != record.ProfileStatement:
		genuine = "holds a report of hardware that is tied to it by something else"
	case !c.m.Root.IsIntel():
		genuine = "comes from simulated hardware, for a test"
	default:
		genuine = "comes from genuine confidential hardware"
	}
	if c.f.Allowed() {
		return fmt.Sprintf("%s is in the log, %s, and meets your appraisal policy.", c.this(), genuine)
	}
	return fmt.Sprintf("%s is in the log and %s, but it is refused, for %s.", c.this(), genuine, count(uint64(len(c.reasons())), "reason", "reasons"))
}

func (c *content) facts() []Fact {
	var facts []Fact
	if e := c.f.Subject.Entry(); e != nil {
		facts = append(facts, Fact{"Vendor", clean(e.Statement().Vendor)})
	}
	if id := c.claims["session.id"]; id != nil {
		facts = append(facts, Fact{"Session", clean(id.Value)})
	}
	return append(facts,
		Fact{"Log", fmt.Sprintf("%s, entry %s of %s", clean(c.f.Log.Origin), grouped(c.f.Subject.Index), grouped(c.f.Log.Size))},
		Fact{"Proven time", c.interval()},
		Fact{"Report made", moment(c.m.Date)},
	)
}

// interval says when the subject's statement was made, as far as that is proven.
func (c *content) interval() string {
	switch i := c.f.Interval; {
	case i == nil || i.NotBefore.IsZero() && i.NotAfter.IsZero():
		return "none"
	case i.NotBefore.IsZero():
		return "not after " + moment(i.NotAfter)
	case i.NotAfter.IsZero():
		return "not before " + moment(i.NotBefore)
	default:
		return bounds(i)
	}
}

// bounds prints both ends of an interval, the day once if it is the same.
func bounds(i *verifier.Interval) string {
	switch {
	case i.NotAfter.Sub(i.NotBefore) == 0:
		return moment(i.NotBefore) + ", to the second"
	case day(i.NotBefore) == day(i.NotAfter):
		return fmt.Sprintf("%s, %s to %s UTC", day(i.NotBefore), i.NotBefore.UTC().Format("15:04:05"), i.NotAfter.UTC().Format("15:04:05"))
	}
	return moment(i.NotBefore) + " to " + moment(i.NotAfter)
}

// value returns a claim as a value, once.
func (c *content) value(id string) (Value, bool) {
	cl := c.claims[id]
	if cl == nil || c.used[id] {
		return Value{}, false
	}
	c.used[id] = true
	return valueOf(cl), true
}

func valueOf(cl *verifier.Claim) Value {
	return Value{ID: clean(cl.ID), Label: clean(cl.Label), Value: clean(cl.Value), Source: verifier.Source(clean(string(cl.Source))), Status: verifier.ClaimStatus(clean(string(cl.Status))), Note: clean(cl.Note)}
}

// values returns the claims with the given ids, those that are there and that no section has shown yet. An id that ends in a dot stands for all that begin
// with it.
func (c *content) values(ids ...string) Block {
	b := Block{Kind: KindValues}
	for _, id := range ids {
		if !strings.HasSuffix(id, ".") {
			if v, ok := c.value(id); ok {
				b.Values = append(b.Values, v)
			}
			continue
		}
		for _, cl := range c.f.Claims {
			if strings.HasPrefix(cl.ID, id) {
				if v, ok := c.value(cl.ID); ok {
					b.Values = append(b.Values, v)
				}
			}
		}
	}
	return b
}

func (c *content) has(prefix string) bool {
	return slices.ContainsFunc(c.f.Claims, func(cl verifier.Claim) bool { return strings.HasPrefix(cl.ID, prefix) })
}

// holds reports whether a claim is there and was not found wrong, nor unknown.
func (c *content) holds(id string) bool {
	cl := c.claims[id]
	return cl != nil && cl.Status != verifier.StatusFailed && cl.Status != verifier.StatusUnknown
}

// Claims that a summary leaves out unless they don't hold: details of others, and what the head of the report says.
var details = []string{
	"session.id", "session.kind", "session.start", "session.sequence", "session.isolation", "freshness", "release", "platform.id",
	"tcb.collateral", "td.attributes", "td.xfam", "td.sept-ve", "measurement.", "environment.event-log", "environment.egress-policy", "channel.",
	"challenge", "output-commit", "time.started", "time.finished", "accelerator.", "peer", "model.weights", "model.calls", "sessions-served",
	"end", "release.validity", "release.measurements.", "release.source", "release.agent-measured",
}

func detail(id string) bool {
	return slices.ContainsFunc(details, func(d string) bool {
		return d == id || strings.HasSuffix(d, ".") && strings.HasPrefix(id, d)
	})
}

// summary is the first section: all that doesn't hold, and then what is proven, said, claimed and unknown.
func (c *content) summary(r *Report) Section {
	s := Section{ID: "summary", Title: "Summary"}
	if len(c.f.Refusals) > 0 {
		all := c.reasons()
		if n := len(all); n > maxReasons {
			all = append(all[:maxReasons], fmt.Sprintf("And %d more, in the annex.", n-maxReasons))
		}
		s.Blocks = append(s.Blocks, notice(ToneBad, "Why it is refused", briefly(all)...))
	}
	if !c.m.Root.IsIntel() && c.f.Subject.Verdict != nil && c.f.Subject.Verdict.Quote != nil {
		s.Blocks = append(s.Blocks, notice(ToneClaimed, "This is a test", "The evidence was verified under a root that is not Intel’s. Nothing here is about real hardware."))
	}
	if c.m.LogPolicy.IsQuorumNone() {
		s.Blocks = append(s.Blocks, notice(ToneBad, "No witnesses", "Your log policy asks for none: the log’s operator alone vouches for the log’s history, and no time is proven."))
	}
	groups := []Group{
		{Title: "Does not hold", By: "checked, and not so, or not good enough for your appraisal policy", Tone: ToneBad},
		{Title: "Proven", By: "by the hardware’s signature and the log’s witnesses, checked for this report", Tone: ToneGood},
		{Title: "Reported by known code", By: "by the software inside, which is the one that you trust", Tone: ToneKnown},
		{Title: "Only claimed", By: "by the vendor or the log’s operator; nothing here proves it", Tone: ToneClaimed},
		{Title: "Unknown", By: "nobody vouches for it", Tone: ToneUnknown},
	}
	add := func(t Tone, item string) {
		for i := range groups {
			if groups[i].Tone == t {
				groups[i].Items = append(groups[i].Items, item)
			}
		}
	}
	for i := range c.f.Claims {
		v := valueOf(&c.f.Claims[i])
		t := v.tone()
		if v.ID == "binding" && t == ToneGood && !c.bound() {
			t = ToneClaimed // that nothing binds it is no proof of anything
		}
		if t == ToneBad || !detail(v.ID) {
			add(t, cleanTo(c.brief(&v), maxBrief))
		}
	}
	if n := len(c.witnesses()); n > 0 {
		add(ToneGood, fmt.Sprintf("It is in the log %s, as %s confirm.", clean(c.f.Log.Origin), count(uint64(n), "witness", "witnesses")))
	} else {
		add(ToneClaimed, fmt.Sprintf("It is in the log %s, says the log’s operator alone.", clean(c.f.Log.Origin)))
	}
	if c.session() {
		if t := c.ownClock(); t != "" {
			tone := ToneClaimed
			if v := c.claims["time.started"]; v != nil && v.Source == verifier.SourceMeasuredCode {
				tone = ToneKnown
			}
			add(tone, t)
		}
	}
	if !c.session() {
		groups = slices.DeleteFunc(groups, func(g Group) bool { return len(g.Items) == 0 })
	} else {
		groups = slices.DeleteFunc(groups, func(g Group) bool { return len(g.Items) == 0 && g.Tone == ToneBad })
	}
	for i := range groups {
		switch n := len(groups[i].Items); {
		case n == 0:
			groups[i].Items = []string{"Nothing."}
		case n > maxItems:
			groups[i].Items = append(groups[i].Items[:maxItems-1], fmt.Sprintf("And %d more, below.", n-maxItems+1))
		}
	}
	s.Blocks = append(s.Blocks, Block{Kind: KindGroups, Groups: groups},
		text("Every value in this report names who vouches for it:"), Block{Kind: KindLegend})
	return s
}

// maxReasons and maxItems are how many refusals, and how many items of a group, the summary lists.
const maxReasons, maxItems = 20, 14

// briefly cuts what is too long for a summary.
func briefly(all []string) []string {
	cut := make([]string, len(all))
	for i, s := range all {
		cut[i] = cleanTo(s, maxBrief)
	}
	return cut
}

// reasons are the refusals as sentences, each once: what it means, and what exactly it is.
func (c *content) reasons() []string {
	var all []string
	for _, r := range c.f.Refusals {
		s := sentence(r.Message)
		if m := meaning(string(r.Code)); m != "" {
			s = m + " In detail: " + lowerFirst(s)
		}
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// bound reports whether the hardware's report covers the subject's statement.
func (c *content) bound() bool {
	e := c.f.Subject.Entry()
	return e != nil && e.Profile == record.ProfileStatement
}

// ownClock says in a sentence what the session's own clock said.
func (c *content) ownClock() string {
	a, b := c.claims["time.started"], c.claims["time.finished"]
	if a == nil || a.Status == verifier.StatusFailed {
		return ""
	}
	if b == nil {
		return "It started at " + clock(a.Value) + ", by its own clock."
	}
	if b.Status == verifier.StatusFailed {
		return ""
	}
	return fmt.Sprintf("It ran from %s to %s, by its own clock.", clock(a.Value), clock(b.Value))
}

// clock prints a time of a claim's value as the rest of the report does.
func clock(value string) string {
	if t, ok := parseTime(value); ok {
		return moment(t)
	}
	return clean(value)
}

func (c *content) witnesses() []string {
	var names []string
	// A witness has a key of each kind, all of one name.
	for _, s := range c.f.Log.Cosignatures {
		if name := s.Key.Name(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// brief says a value in a short sentence. Where it doesn't know a nicer one, it is label and value.
func (c *content) brief(v *Value) string {
	failed := v.Status == verifier.StatusFailed
	plain := strings.TrimSuffix(v.Label+": "+shorten(v.Value), ".") + "."
	if v.Value == "" {
		plain = v.Label + "."
	}
	switch {
	case failed && v.Note != "" && v.Source != verifier.SourceHardware:
		return strings.TrimSuffix(plain, ".") + ". " + shorten(v.Note)
	case !failed && strings.HasPrefix(v.ID, "model."):
		if i, err := strconv.Atoi(strings.TrimPrefix(v.ID, "model.")); err == nil && i < len(c.modelList()) {
			m := &c.modelList()[i]
			how := lowerFirst(executionWords[m.Execution])
			if v.Source == verifier.SourceVerifier {
				how += ", as its own record shows"
			}
			return fmt.Sprintf("Model %s, %s: %s.", clean(m.Provider+"/"+m.RequestModel), count(m.Calls, "call", "calls"), how)
		}
	case v.ID == "time.proven" && v.Status == verifier.StatusUnknown && c.interval() != "none":
		return "When exactly it was made. It is only proven that it was " + c.interval() + "."
	case v.ID == "binding" && !failed && !c.bound():
		return "Nothing ties what it says to hardware: " + v.Value + "."
	case failed, v.Status == verifier.StatusUnknown && v.ID != "platform.physical" && v.ID != "actions.completeness" && v.ID != "platform.location":
		return plain
	}
	switch v.ID {
	case "tee":
		if !c.m.Root.IsIntel() {
			return "The evidence is from simulated Intel TDX hardware."
		}
		return "Genuine confidential hardware of Intel (TDX) made the evidence."
	case "code":
		if d := c.claims["td.debug"]; d != nil && d.Value != "off" {
			return "The software that was started is known: " + v.Value + ". In debug mode the host can have changed it since."
		}
		return "The software that ran is known: " + v.Value + "."
	case "tcb":
		if words, ok := tcbWords[tdx.Status(v.Value)]; ok {
			return "The machine’s firmware was " + words + ", by Intel’s data of that time."
		}
	case "advisories":
		if v.Value == "none" {
			return "No security advisory that Intel had published by then affected it."
		}
	case "binding":
		return "The hardware’s signature covers the whole statement."
	case "td.debug":
		if v.Value == "off" {
			return "Debug mode, in which the host could look inside, was off."
		}
	case "td.migratable":
		if v.Value == "impossible" {
			return "It could not be moved to another machine."
		}
	case "memory-encryption":
		if v.Status == verifier.StatusHolds && v.Value == "private memory is encrypted" {
			return "The memory of the protected machine was encrypted."
		}
	case "memory-encryption.session":
		if v.Value == "private memory was encrypted" {
			return "Memory was encrypted from start to end."
		}
	case "session.pair":
		if v.Value == "yes" {
			return "The session’s start and end were on the same protected machine, with the same key."
		}
	case "time.proven":
		return "The record was made between two times that witnesses signed: " + c.interval() + "."
	case "vendor":
		return "The vendor is " + v.Value + "."
	case "session.tenant":
		return "Which customer it was for: " + shorten(v.Value) + ", a pseudonym."
	case "actions":
		n, _, _ := strings.Cut(v.Value, ",")
		return "The list of what the agent did: " + n + "."
	case "actions.completeness":
		if v.Status == verifier.StatusUnknown {
			return "Whether the list of actions is complete."
		}
	case "platform.physical":
		return "Whether somebody attacked the hardware physically. It is assumed that nobody did."
	case "platform.location":
		return "Where the machine stands, and who operates it."
	case "teardown":
		if v.Value == "the measured code reports erasure" {
			return "The measured code reports erasure of the workspace."
		}
	case "retention":
		return "Data retention: " + v.Value + "."
	case "environment.storage":
		if v.Value == "none" {
			return "Nothing that is written outlives the protected machine: it has no storage."
		}
	case "td.service-td":
		if v.Status == verifier.StatusHolds {
			return "No service with access to its state was attached: " + v.Value + "."
		}
	}
	return plain
}

// statement shows what a vendor's entry says.
func (c *content) statement() Section {
	s := Section{ID: "statement", Title: "What it says"}
	var ids []string
	for _, cl := range c.f.Claims {
		ids = append(ids, cl.ID)
	}
	s.Blocks = append(s.Blocks, c.values(ids...))
	return s
}

// contents are the five things that a record must say.
func (c *content) contents() Section {
	s := Section{ID: "contents", Title: "What the record says"}
	s.Blocks = append(s.Blocks, text("Five things make a record of confidential work: which software on which machine, when, with which models, with which actions, and whether memory was encrypted throughout."))
	s.Sections = []Section{c.identity(), c.time(), c.models(), c.actions(), c.memory()}
	return s
}

// nothing is what a section says whose subject the record doesn't mention.
func nothing(what string) Block {
	return notice(ToneUnknown, "Unknown", "This record says nothing about "+what+".")
}

func (c *content) identity() Section {
	s := Section{ID: "identity", Title: "1. Identity and measurement"}
	s.Blocks = append(s.Blocks, text("The hardware measures the software that it starts: it computes fingerprints of it. If they equal those that you expect, it is that software which ran, unchanged. The fingerprints themselves are in the annex."))
	v := c.values("tee", "code", "release", "binding", "tcb", "advisories", "platform.id", "tcb.collateral", "td.sept-ve", "td.service-td", "accelerator.")
	if len(v.Values) == 0 {
		s.Blocks = append(s.Blocks, nothing("hardware or software"))
		return s
	}
	s.Blocks = append(s.Blocks, v)
	return s
}

func (c *content) time() Section {
	s := Section{ID: "time", Title: "2. Time"}
	if i := c.f.Interval; i != nil && !i.NotBefore.IsZero() && !i.NotAfter.IsZero() {
		s.Blocks = append(s.Blocks, text(fmt.Sprintf("Hardware reports hold no time. Independent witnesses sign the log’s state with theirs: the statement holds a fingerprint of one such state, so it was made later, and it is part of a later one, so it was made earlier. Between the two lie %s.", span(i.NotAfter.Sub(i.NotBefore)))))
	} else {
		s.Blocks = append(s.Blocks, text("Hardware reports hold no time. Independent witnesses could prove one, by what they sign before and after; here they don’t prove both ends."))
	}
	if fig := c.timeline(); fig != nil {
		s.Blocks = append(s.Blocks, figure(fig))
	}
	v := c.values("time.", "freshness", "late")
	if len(v.Values) == 0 {
		s.Blocks = append(s.Blocks, nothing("time"))
		return s
	}
	if at := c.f.Subject.AdmittedAt(); !at.IsZero() {
		v.Values = append(v.Values, Value{ID: "log.admitted-at", Label: "Admitted to the log", Value: moment(at), Source: verifier.SourceLog, Status: verifier.StatusAsserted, Note: "By the log’s own clock."})
	}
	s.Blocks = append(s.Blocks, v)
	return s
}

func (c *content) models() Section {
	s := Section{ID: "models", Title: "3. Models"}
	v := c.values("model.", "models", "model", "upstream.", "peer", "sessions-served")
	if len(v.Values) == 0 {
		s.Blocks = append(s.Blocks, nothing("models"))
		return s
	}
	s.Blocks = append(s.Blocks, text("A model in confidential hardware (class “tee”) has a record of its own, which is judged like this one, and each of the two names the other. With a model of class “policy-zdr” the provider promises not to keep what it is sent; with one of class “unattested” nothing is known."), v)
	t := &Table{Caption: "Records of models in the file", Header: []string{"Model", "Log entry", "Software", "Firmware", "Judged"}, Numeric: []bool{false, true, false, false, false}}
	for _, l := range c.f.Leaves {
		if l.Role != bundle.RoleModelRun || l.Verdict == nil || l == c.f.Subject {
			continue
		}
		judged, tone := "allowed", ToneGood
		if !l.Verdict.Allowed() {
			judged, tone = "refused", ToneBad
		}
		t.Rows = append(t.Rows, []string{claimOf(l, "model"), grouped(l.Index), claimOf(l, "code"), claimOf(l, "tcb"), judged})
		t.Tones = append(t.Tones, tone)
	}
	if len(t.Rows) > 0 {
		s.Blocks = append(s.Blocks, table(t))
	}
	return s
}

// claimOf returns the value of a claim about a leaf.
func claimOf(l *bundle.Leaf, id string) string {
	if l.Verdict != nil {
		for _, cl := range l.Verdict.Claims {
			if cl.ID == id {
				return clean(cl.Value)
			}
		}
	}
	return "unknown"
}

func (c *content) actions() Section {
	s := Section{ID: "actions", Title: "4. What the agent did"}
	v := c.values("actions", "actions.", "model.calls")
	if len(v.Values) == 0 {
		s.Blocks = append(s.Blocks, nothing("actions of an agent"))
		return s
	}
	s.Blocks = append(s.Blocks, text("The actions themselves stay private. The record has their number and a fingerprint of the whole list, so that nothing in it can be changed, and a single action can be shown to somebody later and proven to be in it. “affidavit verify --disclosure” checks one."), v)
	return s
}

func (c *content) memory() Section {
	s := Section{ID: "memory", Title: "5. Memory encryption throughout"}
	final := c.f.Subject
	if c.start == nil || c.start.Verdict == nil || final.Verdict == nil || final.Verdict.Quote == nil {
		v := c.values("memory-encryption", "memory-encryption.session", "td.debug", "td.migratable", "session.pair")
		if len(v.Values) == 0 {
			s.Blocks = append(s.Blocks, nothing("the encryption of memory"))
			return s
		}
		if c.has("memory-encryption") {
			s.Blocks = append(s.Blocks, text("The hardware reported once. What held at another time, this record alone does not show."), v)
		} else {
			s.Blocks = append(s.Blocks, nothing("the encryption of memory"), v)
		}
		return s
	}
	s.Blocks = append(s.Blocks, text("The hardware reported twice: when the session started, and when it ended. A protected machine’s settings never change while it runs. If both reports are of the same machine, which the session’s key ties together, they held throughout."))
	t := &Table{Caption: "The two reports of the hardware", Header: []string{"", "At the start", "At the end", "Needed"}}
	row := func(label, a, b, needed string, ok bool) {
		tone := ToneGood
		if !ok {
			tone = ToneBad
		}
		t.Rows = append(t.Rows, []string{label, a, b, needed})
		t.Tones = append(t.Tones, tone)
	}
	both := func(id, label, want, needed string) {
		a, b := claimOf(c.start, id), claimOf(final, id)
		row(label, a, b, needed, a == want && b == want)
	}
	both("td.debug", "Debug mode", "off", "off")
	both("td.migratable", "Move to another machine", "impossible", "impossible")
	both("memory-encryption", "Memory", "private memory is encrypted", "encrypted")
	a, b := sessionKey(c.start), sessionKey(final)
	row("Session’s key", short(a), short(b), "the same", a == b && a != "")
	a, b = platform(c.start), platform(final)
	row("Machine’s processor (PPID)", short(a), short(b), "the same", a == b && a != "")
	s.Blocks = append(s.Blocks, table(t), c.values("memory-encryption.session", "memory-encryption", "session.pair", "td.debug", "td.migratable"))
	return s
}

func sessionKey(l *bundle.Leaf) string {
	if e := l.Entry(); e != nil {
		if k := e.Statement().SessionKey(); k != nil {
			return clean(k.KeyID)
		}
	}
	return ""
}

func platform(l *bundle.Leaf) string {
	if l.Verdict == nil || l.Verdict.TDX == nil {
		return ""
	}
	return clean(l.Verdict.TDX.PPID)
}

// other is what no section has shown.
func (c *content) other() Section {
	s := Section{ID: "other", Title: "Other values"}
	var b Block
	b.Kind = KindValues
	for _, cl := range c.f.Claims {
		if v := valueOf(&cl); !c.used[cl.ID] {
			c.used[cl.ID] = true
			b.Values = append(b.Values, v)
		}
	}
	if len(b.Values) == 0 {
		return Section{}
	}
	s.Blocks = append(s.Blocks, b)
	return s
}

func hexed(b []byte) string { return hex.EncodeToString(b) }

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hexed(sum[:])
}
