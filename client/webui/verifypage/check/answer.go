package check

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// An Answer is what is known about a file: the same, member for member, as "affidavit verify --json" prints (docs/cli.md).
type Answer struct {
	File      string `json:"file"`
	Status    string `json:"status"` // of the file: good, refused, or not-proven
	Exit      int    `json:"exit"`   // the command's exit status, in which disclosures count
	Allowed   bool   `json:"allowed"`
	Rule      string `json:"rule"`
	Reason    string `json:"reason"`
	Detail    string `json:"detail"`
	Index     uint64 `json:"index"`
	Role      string `json:"role"`
	Statement string `json:"statement"`
	Vendor    string `json:"vendor"`
	Session   string `json:"session"`

	Log         *Log               `json:"log"`
	Interval    *Interval          `json:"interval"`
	Refusals    []verifier.Refusal `json:"refusals"`
	Claims      []verifier.Claim   `json:"claims"`
	Leaves      []Leaf             `json:"leaves"`
	Disclosures []Disclosure       `json:"disclosures"`
	Assumptions []string           `json:"assumptions"`
	Limits      []string           `json:"limits"`
}

// Statuses of an Answer or a Disclosure.
const (
	Good      = "good"
	Refused   = "refused"
	NotProven = "not-proven"
)

// Log is the log's checkpoint.
type Log struct {
	Origin       string        `json:"origin"`
	Size         uint64        `json:"size"`
	Root         []byte        `json:"root"`
	Quorum       string        `json:"quorum"`
	Cosignatures []Cosignature `json:"cosignatures"`
	Survives     survives      `json:"survives"`
}

// A Cosignature is a witness's on the checkpoint.
type Cosignature struct {
	Witness string     `json:"witness"`
	Kind    string     `json:"kind"`
	Time    *time.Time `json:"time"`
}

// An Interval is a proven time.
type Interval struct {
	NotBefore *time.Time `json:"notBefore"`
	NotAfter  *time.Time `json:"notAfter"`
	Width     *int64     `json:"widthSeconds"`
}

// A Leaf is a record, or something else that the log holds, in the file.
type Leaf struct {
	Index     uint64    `json:"index"`
	Role      string    `json:"role"`
	LeafHash  string    `json:"leafHash"`
	Statement string    `json:"statement"`
	Interval  *Interval `json:"interval"`
}

// A Disclosure is an action that is shown to be the record's.
type Disclosure struct {
	File     string          `json:"file"`
	Status   string          `json:"status"` // good or not-proven
	Detail   string          `json:"detail"`
	Source   verifier.Source `json:"source"`
	Action   jsontext.Value  `json:"action"`
	Contents []struct{}      `json:"contents"` // empty: only the command compares contents
}

// survives counts operators. -1 means that no liar is needed.
type survives struct {
	Operators int  `json:"operators"`
	SplitView int  `json:"lyingBeforeSplitView"`
	Time      int  `json:"lyingBeforeForgedTime"`
	Outage    int  `json:"awayBeforeOutage"`
	Exact     bool `json:"exact"`
}

func survivesOf(p *checkpoint.Policy) survives {
	r := p.Resilience()
	return survives{r.Operators, r.SplitView, r.Time, r.Outage, r.Exact}
}

// An answer is what is known while it is found out.
type answer struct {
	file       string
	logPolicy  *checkpoint.Policy
	checker    *bundle.Checker
	collateral []byte // JSON, of a lone proof; may be nil

	// One of these is set.
	notProven *bundle.NotProven
	finding   *bundle.Finding

	disclosures []Disclosure
}

// check judges the contents of a file. Everything that is wrong with them is a NotProven: what can't be parsed proves as
// little as what is forged.
func (a *answer) check(b []byte) {
	f, err := a.find(b)
	a.finding = f
	if err != nil && !errors.As(err, &a.notProven) {
		a.notProven = &bundle.NotProven{Rule: bundle.RuleBundle, Err: err}
	}
}

func (a *answer) find(b []byte) (*bundle.Finding, error) {
	if isBundle(b) {
		bun, err := bundle.Parse(b)
		if err != nil {
			return nil, err
		}
		return a.checker.Check(bun)
	}
	if !isProof(b) {
		return nil, errors.New("neither an .affidavit bundle nor a .tlog-proof")
	}
	p, err := checkpoint.ParseProof(b)
	if err != nil {
		return nil, err
	}
	var collateral *tdx.Collateral
	if a.collateral != nil {
		if collateral, err = tdx.ParseCollateralJSON(a.collateral); err != nil {
			return nil, &bundle.NotProven{Rule: bundle.RuleCollateral, Err: fmt.Errorf("the file with collateral: %w", tdxCause(err))}
		}
	} else if l, err := record.ParseLeaf(p.Extra); err == nil {
		if l, ok := l.(*record.RecordLeaf); ok && l.Collateral != (record.Digest{}) {
			return nil, &bundle.NotProven{Rule: bundle.RuleMissing, Index: &p.Index,
				Err: fmt.Errorf("its evidence can't be judged without the collateral %x: give it, too, or check the .affidavit file, which has it", l.Collateral)}
		}
	}
	return a.checker.CheckProof(p, collateral)
}

// show checks a disclosure against what a found.
func (a *answer) show(f File) {
	s := Disclosure{File: f.Name, Status: Good, Contents: []struct{}{}}
	d, err := record.ParseDisclosure(f.Bytes)
	if err == nil {
		err = a.commits(d)
	}
	if err != nil {
		s.Status, s.Detail = NotProven, err.Error()
	} else {
		s.Action, s.Source = d.Bytes, verifier.SourceUnknown
		for _, claim := range a.finding.Claims {
			if claim.ID == "actions" || claim.ID == "model.calls" {
				s.Source = claim.Source
			}
		}
	}
	a.disclosures = append(a.disclosures, s)
}

// commits checks that the subject of a's finding commits to the action of d.
func (a *answer) commits(d *record.Disclosure) error {
	if a.finding == nil {
		return errors.New("the file that it would be checked against proves nothing")
	}
	switch e := a.finding.Subject.Entry(); {
	case e == nil:
	case e.Statement().Session != nil:
		return d.VerifySession(e.Statement().Session)
	case e.Statement().ModelRun != nil:
		return d.Verify(e.Statement().ModelRun.Calls.Root, e.Statement().ModelRun.Calls.Size)
	}
	return fmt.Errorf("%s is about the %s, which commits to no actions: use the bundle of the final record", clean(a.file), roles[a.finding.Subject.Role])
}

func (a *answer) status() string {
	switch {
	case a.finding == nil:
		return NotProven
	case !a.finding.Allowed():
		return Refused
	}
	return Good
}

// exit is the command's exit status.
func (a *answer) exit() int {
	status := map[string]int{Good: 0, Refused: 3, NotProven: 4}[a.status()]
	for _, d := range a.disclosures {
		if d.Status == NotProven {
			status = 4
		}
	}
	return status
}

func (a *answer) json() *Answer {
	j := &Answer{
		File: a.file, Status: a.status(), Exit: a.exit(), Refusals: []verifier.Refusal{}, Claims: []verifier.Claim{}, Leaves: []Leaf{},
		Disclosures: append([]Disclosure{}, a.disclosures...), Assumptions: []string{}, Limits: []string{},
	}
	if f := a.notProven; f != nil {
		j.Rule, j.Reason, j.Detail = string(f.Rule), a.reason(), a.cause()
		if f.Index != nil {
			j.Index = *f.Index
		}
		return j
	}
	f := a.finding
	j.Allowed = f.Allowed()
	j.Index, j.Role = f.Subject.Index, string(f.Subject.Role)
	if e := f.Subject.Entry(); e != nil {
		st := e.Statement()
		j.Vendor = st.Vendor
		if id, ok := st.SessionID(); ok {
			j.Session = id.String()
		}
	}
	j.Interval = intervalOf(f.Interval)
	j.Refusals = append(j.Refusals, f.Refusals...)
	j.Claims = append(j.Claims, f.Claims...)
	j.Log = &Log{
		Origin: f.Log.Origin, Size: f.Log.Size, Root: f.Log.Root[:], Quorum: f.Log.Quorum,
		Cosignatures: []Cosignature{}, Survives: survivesOf(a.logPolicy),
	}
	for _, s := range f.Log.Cosignatures {
		j.Log.Cosignatures = append(j.Log.Cosignatures, Cosignature{s.Witness, s.Key.Kind().String(), optionalTime(s.Time)})
	}
	for _, l := range f.Leaves {
		leaf := Leaf{Index: l.Index, Role: string(l.Role), LeafHash: hex.EncodeToString(l.Hash[:]), Interval: intervalOf(l.Interval)}
		if l.Statement != nil {
			leaf.Statement = hex.EncodeToString(l.Statement[:])
		}
		if l == f.Subject {
			j.Statement = leaf.Statement
		}
		j.Leaves = append(j.Leaves, leaf)
	}
	j.Assumptions, j.Limits = a.assumptions(), limits()
	return j
}

// reason is the word for why a file proves nothing: the verifier's if the evidence isn't genuine, else the broken rule.
func (a *answer) reason() string {
	if e := new(verifier.NotGenuine); errors.As(a.notProven, &e) {
		return e.Reason
	}
	return string(a.notProven.Rule)
}

// cause says in a sentence what reason says in a word.
func (a *answer) cause() string {
	err := a.notProven.Err
	if e := new(verifier.NotGenuine); errors.As(err, &e) {
		err = e.Err
	}
	return clean(strings.TrimPrefix(tdxCause(err).Error(), a.reason()+": "))
}

func (a *answer) assumptions() []string {
	list := []string{
		"Hardware: nobody has extracted this platform's keys by physical attack (TEE.fail and its kin).",
		"Code: what the appraisal policy pins, or lets a vendor's release key name, does what you think it does.",
	}
	s := survivesOf(a.logPolicy)
	if s.Operators == 0 {
		return append(list, s.sentences()...)
	}
	list = append(list, fmt.Sprintf("Witnesses: every set of them that satisfies the log policy's quorum %q has an honest one in it, whose clock is right.", clean(a.logPolicy.Quorum())))
	return append(list, s.sentences()[:2]...)
}

func limits() []string {
	return []string{
		"Completeness: that no other record exists, such as a second end of the same session, or that a release was not withdrawn later. A monitor of the whole log can see that.",
		"Erasure: a report of it is the word of measured code; nothing can prove that data is gone.",
		"Identity of a trust domain: hardware gives it none. That start and end are of the same one is the word of measured code.",
		"Compromise: an outdated platform is not a breach, and an up-to-date one is no proof against one.",
	}
}

func (s survives) sentences() []string {
	if s.Operators == 0 {
		return []string{
			"No witness is asked: the log alone vouches for its history, and can show everybody another one.",
			"No time is proven.",
		}
	}
	atLeast := ""
	if !s.Exact {
		atLeast = "at least "
	}
	sentence := func(n int, none, some string) string {
		if n <= 0 {
			return fmt.Sprintf(none, s.Operators)
		}
		return fmt.Sprintf(some, fmt.Sprintf("%s%d of %d witness operators", atLeast, n, s.Operators))
	}
	split := sentence(s.SplitView,
		"Split view: one lying witness operator of %d is enough to let the log show two people two histories.",
		"Split view: %s can lie, and the log still can't show two people two histories.")
	if s.SplitView < 0 {
		split = "Split view: the log can show two people two histories, and no witness has to lie for that."
	}
	return []string{
		split,
		sentence(s.Time,
			"Time: one lying witness operator of %d is enough to forge the proven time.",
			"Time: %s can lie, and the proven time still holds."),
		sentence(s.Outage,
			"Outage: while one of %d witness operators is away, the log can't publish.",
			"Outage: %s can be away, and the log still publishes."),
	}
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func intervalOf(i *verifier.Interval) *Interval {
	if i == nil {
		return nil
	}
	j := &Interval{NotBefore: optionalTime(i.NotBefore), NotAfter: optionalTime(i.NotAfter)}
	if j.NotBefore != nil && j.NotAfter != nil {
		width := int64(i.NotAfter.Sub(i.NotBefore) / time.Second)
		j.Width = &width
	}
	return j
}

// clean makes text of others fit to stand in a sentence of ours: one line, and nothing that could hide or turn around
// what follows.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
