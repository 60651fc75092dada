package report

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// questions answers what a security officer asks.
func (c *content) questions() Section {
	s := Section{ID: "questions", Title: "What a security officer asks"}
	s.Sections = []Section{c.whereTo(), c.whoCan(), c.breach(), c.isolation()}
	return s
}

// known reports whether the software is known to the reader.
func (c *content) known() bool { return c.holds("code") }

// environment returns the statement's environment, or nil.
func (c *content) environment() *record.Environment {
	if e := c.f.Subject.Entry(); e != nil {
		return e.Statement().Environment()
	}
	return nil
}

func (c *content) whereTo() Section {
	s := Section{ID: "where", Title: "Where does the code go?"}
	var items []string
	if c.has("tee") {
		items = append(items, "Into a protected machine (a “trust domain”), whose memory the machine’s operator can’t read if the hardware works as its maker says.")
	}
	channels := c.has("channel.")
	if c.start != nil && c.start.Entry().Statement().Start != nil {
		channels = channels || len(c.start.Entry().Statement().Start.Channels) > 0
	}
	if channels {
		items = append(items, "The start of the session names the key of that machine’s connection. Whoever compared it before sending anything (“affidavit gate” does) talked to that machine and to nothing in between.")
	}
	classes := make(map[string]int)
	for _, m := range c.modelList() {
		classes[m.Execution]++
	}
	for _, class := range []string{record.ExecutionTEE, record.ExecutionPolicyZDR, record.ExecutionUnattested} {
		if n := classes[class]; n > 0 {
			items = append(items, fmt.Sprintf("To %s, %s (class “%s”).", count(uint64(n), "model", "models"), lowerFirst(executionWords[class]), class))
		}
	}
	switch env := c.environment(); {
	case env == nil:
	case env.EgressPolicy != nil:
		items = append(items, "Elsewhere only as far as the machine’s network rules allow. The record has their fingerprint; what they say, whoever has them can show.")
	default:
		items = append(items, "The record names no network rules, so that where else the code could go is not known.")
	}
	if len(items) == 0 {
		items = []string{"Not known from this record."}
	}
	s.Blocks = append(s.Blocks, list(items...), c.values("environment.egress-policy", "environment.storage", "channel.", "challenge"))
	return trimmed(s)
}

// modelList returns the models that the subject names.
func (c *content) modelList() []record.Model {
	if e := c.f.Subject.Entry(); e != nil && e.Statement().Session != nil {
		return e.Statement().Session.Models
	}
	return nil
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// trimmed drops blocks of values that have none.
func trimmed(s Section) Section {
	s.Blocks = slices.DeleteFunc(s.Blocks, func(b Block) bool { return b.Kind == KindValues && len(b.Values) == 0 })
	return s
}

func (c *content) whoCan() Section {
	s := Section{ID: "who", Title: "Who can access it?"}
	var items []string
	switch {
	case !c.has("tee"):
		s.Blocks = append(s.Blocks, text("There is no hardware evidence in this record, so that nothing is known about who can."))
		return s
	case c.claims["td.debug"] != nil && c.claims["td.debug"].Value != "off":
		items = append(items, "The operator of the machine: debug mode was on, in which the host reads and changes everything.")
	case c.claims["td.migratable"] != nil && c.claims["td.migratable"].Value != "impossible":
		items = append(items, "The operator of the machine can’t read its memory here, but the protected machine can be moved to another one, and who has access there is not known.")
	default:
		items = append(items, "Not the operator of the machine or the cloud, by reading memory: it is encrypted, debug mode was off, and the protected machine could not be moved.")
	}
	if c.known() {
		items = append(items, "The software inside can access everything. It is known which one it was: what it does with the code is for whoever reviewed it, or trusts who did.")
	} else if c.has("tee") {
		items = append(items, "The software inside can access everything, and it is not known which one it was.")
	}
	for _, m := range c.modelList() {
		if m.Execution != record.ExecutionTEE {
			items = append(items, "Providers of models outside of confidential hardware can access what is sent to them.")
			break
		}
	}
	items = append(items,
		"Whoever has extracted this machine’s keys by physical attack. It is assumed that nobody did; no record can show it.",
		"Who among the vendor’s people may use the machine’s own interfaces is not in the record. It depends on the software.")
	s.Blocks = append(s.Blocks, list(items...))
	return s
}

func (c *content) breach() Section {
	s := Section{ID: "breach", Title: "What happens in a breach?"}
	items := []string{}
	if c.holds("memory-encryption") {
		items = append(items, "Whoever breaks into the machine’s host, or into the cloud around it, finds the protected machine’s private memory encrypted. What the software sends elsewhere is not covered by that.")
	}
	if cl := c.claims["tcb"]; cl != nil {
		words, ok := tcbWords[tdx.Status(cl.Value)]
		if !ok {
			words = clean(cl.Value)
		}
		items = append(items, fmt.Sprintf("The machine’s firmware was %s. When a vulnerability becomes known later, “affidavit recall” lists the sessions on machines that have it. A vulnerable machine is not a breach: the record doesn’t say that somebody used the vulnerability.", words))
	}
	switch cl := c.claims["teardown"]; {
	case cl != nil && cl.Value == "the measured code reports erasure":
		items = append(items, "Of a session that is over, there should be nothing left to take: the measured code reports erasure of the workspace. That it is gone can’t be proven.")
	case cl != nil:
		items = append(items, "What is left of the session to take is not known: "+clean(cl.Value)+".")
	}
	items = append(items, "The record itself can’t be changed or taken back without notice: witnesses have signed the log that it is in, and whoever has this file can show it.")
	if n := c.m.LogPolicy; n.IsQuorumNone() {
		items[len(items)-1] = "The record itself is signed by the log only. Without witnesses, its operator could show somebody else a log without it."
	}
	s.Blocks = append(s.Blocks, list(items...))
	return s
}

func (c *content) isolation() Section {
	s := Section{ID: "isolation", Title: "Can isolation be proven?"}
	if !c.has("tee") {
		s.Blocks = append(s.Blocks, text("Not by this record: there is no hardware evidence in it."))
		return s
	}
	good := c.holds("td.debug") && c.holds("td.migratable") && c.claims["td.debug"].Value == "off" && c.claims["td.migratable"].Value == "impossible"
	if good && c.f.Allowed() {
		s.Blocks = append(s.Blocks, text("Isolation from the host, as far as hardware can prove it: yes. Genuine hardware says how the protected machine was set up, and with which software it started."))
	} else {
		s.Blocks = append(s.Blocks, text("Not for this record: see “Summary” for what doesn’t hold."))
	}
	if !c.m.Root.IsIntel() {
		s.Blocks = []Block{text("Not for this record: its hardware is simulated, for a test.")}
	}
	s.Blocks = append(s.Blocks, text("What no record can prove: that nobody attacked the machine physically; that there is no vulnerability that nobody has published; that the software does what it is expected to."))
	return s
}

func (c *content) retention() Section {
	s := Section{ID: "retention", Title: "Data retention"}
	cl := c.claims["retention"]
	switch {
	case cl == nil:
		s.Blocks = append(s.Blocks, nothing("how long data is kept"))
	case strings.Contains(cl.Value, "technical means") && cl.Source == verifier.SourceMeasuredCode:
		s.Blocks = append(s.Blocks, text("Enforced by technical means, says software that is known: it is built so that nothing is kept."))
	case strings.Contains(cl.Value, "technical means"):
		s.Blocks = append(s.Blocks, text("Said to be enforced by technical means, by software that is not known. Treat it as a promise."))
	default:
		s.Blocks = append(s.Blocks, text("Enforced by policy: a promise of the vendor, which no technology enforces."))
	}
	s.Blocks = append(s.Blocks, c.values("retention"))
	for _, m := range c.modelList() {
		if m.Execution != record.ExecutionTEE {
			s.Blocks = append(s.Blocks, text("This covers what happens in the protected machine. What the providers of models outside of confidential hardware keep is a matter of their promises; see “Models”."))
			break
		}
	}
	return trimmed(s)
}

func (c *content) teardown() Section {
	s := Section{ID: "teardown", Title: "Teardown"}
	v := c.values("teardown", "end", "session.isolation")
	if c.claims["teardown"] == nil {
		s.Blocks = append(s.Blocks, nothing("the erasure of its workspace"))
	} else {
		s.Blocks = append(s.Blocks, text("That data is gone can’t be proven by anybody. What there is, is the word of the software that was to erase it."))
	}
	s.Blocks = append(s.Blocks, v)
	return trimmed(s)
}

// timeline compares what is proven about time with what clocks said.
func (c *content) timeline() *Figure {
	t := &Timeline{}
	known := func(x time.Time) *time.Time {
		if x.IsZero() {
			return nil
		}
		x = x.UTC()
		return &x
	}
	add := func(label string, l *bundle.Leaf) {
		if l == nil || l.Interval == nil || l.Interval.NotBefore.IsZero() && l.Interval.NotAfter.IsZero() {
			return
		}
		i := l.Interval
		row := TimelineRow{Label: label, From: known(i.NotBefore), To: known(i.NotAfter), By: verifier.SourceVerifier}
		switch {
		case row.From == nil:
			row.Text = "not after " + moment(*row.To)
		case row.To == nil:
			row.Text = "not before " + moment(*row.From)
		default:
			row.Text = bounds(i)
		}
		t.Rows = append(t.Rows, row)
	}
	add("Start was made, proven", c.start)
	n := 0
	for _, l := range c.f.Leaves {
		if l.Role == bundle.RoleModelRun && l != c.f.Subject {
			if n++; n <= 5 { // more make no picture
				add(fmt.Sprintf("Model record %d, proven", n), l)
			}
		}
	}
	label := "Record was made, proven"
	if c.f.Subject.Role == bundle.RoleFinal {
		label = "End was made, proven"
	}
	add(label, c.f.Subject)
	if len(t.Rows) == 0 {
		return nil
	}
	from, to := c.clockTime("time.started"), c.clockTime("time.finished")
	if from != nil {
		by := c.claims["time.started"].Source
		row := TimelineRow{Label: "Session, by its own clock", From: from, To: to, By: by}
		if to == nil {
			row.To, row.Text = from, moment(*from)
		} else {
			row.Text = bounds(&verifier.Interval{NotBefore: *from, NotAfter: *to})
		}
		t.Rows = append(t.Rows, row)
	}
	if at := c.f.Subject.AdmittedAt(); !at.IsZero() {
		at = at.UTC()
		t.Rows = append(t.Rows, TimelineRow{Label: "Admitted, by the log’s clock", From: &at, To: &at, By: verifier.SourceLog, Text: moment(at)})
	}
	var alt []string
	for _, r := range t.Rows {
		alt = append(alt, r.Label+": "+r.Text+".")
	}
	return &Figure{Title: "Proven time and clocks", Alt: strings.Join(alt, " "), Timeline: t}
}

func (c *content) clockTime(id string) *time.Time {
	if cl := c.claims[id]; cl != nil {
		if t, ok := parseTime(cl.Value); ok {
			return &t
		}
	}
	return nil
}

func parseTime(s string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, s)
	return t.UTC(), err == nil
}

// chain shows what the result rests on, as a picture.
func (c *content) chain() Section {
	s := Section{ID: "chain", Title: "The chain of trust"}
	s.Blocks = append(s.Blocks, text("Trust starts with what you brought along, at the top, and every step below it was checked. Neither the vendor nor whoever gave you this file has to be trusted for that."))
	tone := func(ids ...string) Tone {
		t := ToneGood
		for _, id := range ids {
			switch cl := c.claims[id]; {
			case cl == nil || cl.Status == verifier.StatusUnknown:
				if t == ToneGood {
					t = ToneUnknown
				}
			case cl.Status == verifier.StatusFailed:
				t = ToneBad
			}
		}
		return t
	}
	say := func(id string) string {
		if cl := c.claims[id]; cl != nil {
			return clean(cl.Value)
		}
		return "unknown"
	}
	ch := &Chain{End: ChainLink{Title: "This record", Text: c.subject(), Tone: map[Outcome]Tone{Good: ToneGood, Refused: ToneBad}[c.outcome()]}}
	if v := c.f.Subject.Verdict; v != nil && v.Quote != nil {
		root := ChainLink{"Intel’s root certificate", "Built into this tool", ToneGood}
		if !c.m.Root.IsIntel() {
			root = ChainLink{"A test’s root certificate", "Not Intel’s", ToneBad}
		}
		binding := tone("binding")
		if binding == ToneGood && !c.bound() {
			binding = ToneClaimed
		}
		ch.Columns = append(ch.Columns, ChainColumn{"Hardware", []ChainLink{
			root,
			{"The machine’s certificate", "Processor " + short(platform(c.f.Subject)) + ", firmware " + say("tcb"), tone("tcb", "advisories", "platform.id")},
			{"The hardware’s report", "Debug mode " + say("td.debug") + ", move " + say("td.migratable"), tone("td.debug", "td.migratable", "memory-encryption")},
			{"The signed statement", "Covered by the report: " + say("binding"), binding},
		}})
		policy := ChainLink{"Your appraisal policy", "Names the software that you expect", ToneGood}
		if !c.m.Appraisal.NamesMeasurement() {
			policy = ChainLink{"Your appraisal policy", "Names no software", ToneBad}
		}
		middle := ChainLink{"Expected fingerprints", "Pinned by your policy", tone("code")}
		switch {
		case v.Identity.By == "release":
			middle = ChainLink{"The vendor’s release", clean(v.Identity.Name) + ", in the log", tone("code")}
		case !v.Identity.Known():
			middle = ChainLink{"Expected fingerprints", "None that match", ToneBad}
		}
		ch.Columns = append(ch.Columns, ChainColumn{"Software", []ChainLink{
			policy, middle, {"Measured software", "Identity: " + say("code"), tone("code")},
		}})
	} else {
		ch.Columns = append(ch.Columns, ChainColumn{"Signature", []ChainLink{
			{"The vendor’s release key", "In your policy, or in the log as the vendor’s", ToneGood}, {"The signed statement", "Covered by the key’s signature", ToneGood},
		}})
	}
	witnesses := ChainLink{"Your log policy", fmt.Sprintf("Names %s", count(uint64(c.m.LogPolicy.Resilience().Operators), "witness operator", "witness operators")), ToneGood}
	state := ChainLink{"State of the log", fmt.Sprintf("Signed by the log and by %s", count(uint64(len(c.witnesses())), "witness", "witnesses")), ToneGood}
	if c.m.LogPolicy.IsQuorumNone() {
		witnesses, state = ChainLink{"Your log policy", "Asks for no witnesses", ToneBad}, ChainLink{"State of the log", "Signed by the log alone", ToneClaimed}
	}
	column := ChainColumn{"Log and time", []ChainLink{
		witnesses, state,
		{"Place in the log", fmt.Sprintf("Entry %s of %s", grouped(c.f.Subject.Index), grouped(c.f.Log.Size)), ToneGood},
	}}
	if c.has("time.proven") {
		column.Links = append(column.Links, ChainLink{"Time", c.interval(), tone("time.proven")})
	}
	ch.Columns = append(ch.Columns, column)

	var alt []string
	words := map[Tone]string{ToneGood: "holds", ToneBad: "does not hold", ToneUnknown: "unknown", ToneClaimed: "only claimed", ToneKnown: "reported"}
	for _, col := range ch.Columns {
		var links []string
		for _, l := range col.Links {
			links = append(links, fmt.Sprintf("%s (%s; %s)", l.Title, l.Text, words[l.Tone]))
		}
		alt = append(alt, col.Title+": "+strings.Join(links, ", then ")+".")
	}
	s.Blocks = append(s.Blocks, figure(&Figure{Title: "From what you trust to this record", Alt: strings.Join(alt, " "), Chain: ch}))
	return s
}
