// Package judge says what is known about an .affidavit bundle or a .tlog-proof, in words for people and in JSON for programs:
// what "affidavit verify" and the Verify page both answer. The verdict itself is package bundle's. Like that, it does no
// I/O, and compiles to WebAssembly.
package judge

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/printable"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Statuses of an [Answer], a [Disclosure] or a [Content].
const (
	Good      = "good"
	Refused   = "refused" // by the appraisal policy
	NotProven = "not-proven"
	Unread    = "unread"
)

// Options are what files are judged by.
type Options struct {
	Checker    *bundle.Checker
	LogPolicy  *checkpoint.Policy // the Checker's
	Collateral []byte             // in JSON, for a lone proof; nil if there is none

	// Hints end messages, with what can be done about it: a command and a page have different ways.
	Hints Hints
}

// Hints are phrases.
type Hints struct {
	OtherFile        string // after "neither an .affidavit bundle nor a .tlog-proof"
	CollateralFile   string // what Collateral came from, such as "the file of --collateral"
	CollateralNeeded string // after "can't be judged without the collateral …: "
}

// A Judgment is what is known about one file.
type Judgment struct {
	File      string             // its name
	LogPolicy *checkpoint.Policy // nil if the file is unread

	// One of these is set.
	Unread    error             // the file couldn't be read
	NotProven *bundle.NotProven // why it proves nothing
	Finding   *bundle.Finding
}

// File judges the contents of a file. Everything that is wrong with them is a NotProven: what can't be parsed proves as
// little as what is forged. It doesn't keep b.
func File(name string, b []byte, o *Options) *Judgment {
	j := &Judgment{File: name, LogPolicy: o.LogPolicy}
	f, err := find(b, o)
	j.Finding = f
	if err != nil && !errors.As(err, &j.NotProven) {
		j.NotProven = &bundle.NotProven{Rule: bundle.RuleBundle, Err: err}
	}
	return j
}

func find(b []byte, o *Options) (*bundle.Finding, error) {
	if IsBundle(b) {
		bun, err := bundle.Parse(b)
		if err != nil {
			return nil, err
		}
		return o.Checker.Check(bun)
	}
	if !IsProof(b) {
		return nil, errors.New("neither an .affidavit bundle nor a .tlog-proof" + o.Hints.OtherFile)
	}
	p, err := checkpoint.ParseProof(b)
	if err != nil {
		return nil, err
	}
	var collateral *tdx.Collateral
	if o.Collateral != nil {
		if collateral, err = tdx.ParseCollateralJSON(o.Collateral); err != nil {
			return nil, &bundle.NotProven{Rule: bundle.RuleCollateral, Err: fmt.Errorf("%s: %w", o.Hints.CollateralFile, tdx.Cause(err))}
		}
	} else if l, err := record.ParseLeaf(p.Extra); err == nil {
		if l, ok := l.(*record.RecordLeaf); ok && l.Collateral != (record.Digest{}) {
			return nil, &bundle.NotProven{Rule: bundle.RuleMissing, Index: &p.Index,
				Err: fmt.Errorf("its evidence can't be judged without the collateral %x: %s", l.Collateral, o.Hints.CollateralNeeded)}
		}
	}
	return o.Checker.CheckProof(p, collateral)
}

// IsBundle reports whether b is meant to be a bundle. That it is well-formed is for bundle.Parse to say.
func IsBundle(b []byte) bool { return bytes.HasPrefix(b, []byte("PK")) }

// IsProof reports whether b is meant to be a proof.
func IsProof(b []byte) bool { return bytes.HasPrefix(b, []byte("c2sp.org/tlog-proof@")) }

// Status is the verdict on the file.
func (j *Judgment) Status() string {
	switch {
	case j.Unread != nil:
		return Unread
	case j.Finding == nil:
		return NotProven
	case !j.Finding.Allowed():
		return Refused
	}
	return Good
}

// Reason is the word for why a file proves nothing, if NotProven is set: the verifier's if the evidence isn't genuine, else
// the broken rule.
func (j *Judgment) Reason() string {
	if e := new(verifier.NotGenuine); errors.As(j.NotProven, &e) {
		return e.Reason
	}
	return string(j.NotProven.Rule)
}

// Cause says in a sentence what Reason says in a word.
func (j *Judgment) Cause() string {
	err := j.NotProven.Err
	if e := new(verifier.NotGenuine); errors.As(err, &e) {
		err = e.Err
	}
	return printable.Line(strings.TrimPrefix(tdx.Cause(err).Error(), j.Reason()+": "))
}

// Disclosed checks that the file, whatever its status, commits to the action that a disclosure shows, and returns the
// disclosure with who vouches for the action: the same as for the list that it is in. Of b it keeps what the disclosure
// has.
func (j *Judgment) Disclosed(b []byte) (*record.Disclosure, verifier.Source, error) {
	d, err := record.ParseDisclosure(b)
	if err != nil {
		return nil, "", err
	}
	if err := j.commits(d); err != nil {
		return nil, "", err
	}
	source := verifier.SourceUnknown
	for _, claim := range j.Finding.Claims {
		if claim.ID == "actions" || claim.ID == "model.calls" {
			source = claim.Source
		}
	}
	return d, source, nil
}

// commits checks that the subject of j's finding commits to the action of d.
func (j *Judgment) commits(d *record.Disclosure) error {
	if j.Finding == nil {
		return errors.New("the file that it would be checked against proves nothing")
	}
	switch e := j.Finding.Subject.Entry(); {
	case e == nil:
	case e.Statement().Session != nil:
		return d.VerifySession(e.Statement().Session)
	case e.Statement().ModelRun != nil:
		// Each call of a model names the session that it was for.
		return d.Verify(e.Statement().ModelRun.Calls.Root, e.Statement().ModelRun.Calls.Size)
	}
	return fmt.Errorf("%s is about the %s, which commits to no actions: use the bundle of the final record", printable.Line(j.File), Roles[j.Finding.Subject.Role])
}

// Roles has words for what a leaf is. It is not to be modified.
var Roles = map[bundle.Role]string{
	bundle.RoleStart:      "start of a session",
	bundle.RoleFinal:      "final record of a session",
	bundle.RoleAbandoned:  "abandoned session",
	bundle.RoleModelRun:   "model run",
	bundle.RoleImport:     "imported evidence",
	bundle.RoleRelease:    "release of an image",
	bundle.RoleWithdrawal: "withdrawal of a release",
	bundle.RoleVendorKey:  "vendor's release key",
	bundle.RoleTime:       "checkpoint with its time",
	bundle.RoleCollateral: "collateral from the processor's maker",
}

// Subject says what the file is about, if Finding is set.
func (j *Judgment) Subject() string {
	l := j.Finding.Subject
	text := Roles[l.Role]
	e := l.Entry()
	if e == nil {
		return text
	}
	st := e.Statement()
	if id, ok := st.SessionID(); ok {
		kind := "session"
		if st.Session != nil && st.Session.Kind == record.KindCodingSession || st.Start != nil && st.Start.Kind == record.KindCodingSession {
			kind = "coding session"
		}
		text = strings.Replace(fmt.Sprintf("%s %s", text, id), "a session", kind, 1)
	}
	return fmt.Sprintf("%s, of %s", text, printable.Line(st.Vendor))
}

// HardwareAssumption is what no quote can show.
const HardwareAssumption = "nobody has extracted this platform's keys by physical attack (TEE.fail and its kin)."

// Assumptions are what a finding rests on, each a sentence or two.
func (j *Judgment) Assumptions() []string {
	list := []string{
		"Hardware: " + HardwareAssumption,
		"Code: what the appraisal policy pins, or lets a vendor's release key name, does what you think it does.",
	}
	s := SurvivesOf(j.LogPolicy)
	if s.Operators == 0 {
		return append(list, s.Sentences()...)
	}
	list = append(list, fmt.Sprintf("Witnesses: every set of them that satisfies the log policy's quorum %q has an honest one in it, whose clock is right.", printable.Line(j.LogPolicy.Quorum())))
	return append(list, s.Sentences()[:2]...)
}

// Limits are what no such file can prove.
func Limits() []string {
	return []string{
		"Completeness: that no other record exists, such as a second end of the same session, or that a release was not withdrawn later. A monitor of the whole log can see that.",
		"Erasure: a report of it is the word of measured code; nothing can prove that data is gone.",
		"Identity of a trust domain: hardware gives it none. That start and end are of the same one is the word of measured code.",
		"Compromise: an outdated platform is not a breach, and an up-to-date one is no proof against one.",
	}
}

// Survives is how many operators of witnesses can lie or be away before a log policy proves nothing or accepts nothing. -1
// means that no liar is needed.
type Survives struct {
	Operators int  `json:"operators"`
	SplitView int  `json:"lyingBeforeSplitView"`
	Time      int  `json:"lyingBeforeForgedTime"`
	Outage    int  `json:"awayBeforeOutage"`
	Exact     bool `json:"exact"`
}

// SurvivesOf returns what p survives.
func SurvivesOf(p *checkpoint.Policy) Survives {
	r := p.Resilience()
	return Survives{r.Operators, r.SplitView, r.Time, r.Outage, r.Exact}
}

// Sentences says what a quorum survives, in words.
func (s Survives) Sentences() []string {
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

// An Answer is a [Judgment] for programs (docs/cli.md, "affidavit verify"). Every member is always there; null or empty where
// nothing is known.
type Answer struct {
	File      string `json:"file"`
	Status    string `json:"status"`    // of the file: good, refused, not-proven, or unread
	Exit      int    `json:"exit"`      // what the command's exit status would be for this file alone, in which disclosures count
	Allowed   bool   `json:"allowed"`   // by the appraisal policy
	Rule      string `json:"rule"`      // when not proven: what was broken
	Reason    string `json:"reason"`    // when not proven: the verifier's word if it has one, else the rule
	Detail    string `json:"detail"`    // when not proven or unread: a sentence
	Index     uint64 `json:"index"`     // of the subject, or of the leaf that isn't proven
	Role      string `json:"role"`      // of the subject, such as "final"
	Statement string `json:"statement"` // the subject's digest
	Vendor    string `json:"vendor"`
	Session   string `json:"session"`

	Log         *Log               `json:"log"`
	Interval    *Interval          `json:"interval"` // the proven time, or null
	Refusals    []verifier.Refusal `json:"refusals"`
	Claims      []verifier.Claim   `json:"claims"`
	Leaves      []Leaf             `json:"leaves"`
	Disclosures []Disclosure       `json:"disclosures"` // that were given
	Assumptions []string           `json:"assumptions"`
	Limits      []string           `json:"limits"`
}

// Log is the log's checkpoint.
type Log struct {
	Origin       string        `json:"origin"`
	Size         uint64        `json:"size"`
	Root         []byte        `json:"root"` // base64
	Quorum       string        `json:"quorum"`
	Cosignatures []Cosignature `json:"cosignatures"`
	Survives     Survives      `json:"survives"`
}

// A Cosignature is a witness's on the checkpoint.
type Cosignature struct {
	Witness string     `json:"witness"`
	Kind    string     `json:"kind"`
	Time    *time.Time `json:"time"` // null if the witness stated none
}

// An Interval is a proven time.
type Interval struct {
	NotBefore *time.Time `json:"notBefore"`
	NotAfter  *time.Time `json:"notAfter"`
	Width     *int64     `json:"widthSeconds"` // null unless both ends are proven
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
	Status   string          `json:"status"` // good, not-proven or unread
	Detail   string          `json:"detail"`
	Source   verifier.Source `json:"source"` // who vouches for the action; empty unless it is shown
	Action   jsontext.Value  `json:"action"` // the document; null unless it is shown
	Contents []Content       `json:"contents"`
}

// A Content is what a disclosed action was given, or brought about.
type Content struct {
	File   string `json:"file"`
	Status string `json:"status"` // good, not-proven or unread
	Detail string `json:"detail"`
	Name   string `json:"name"`
	Bytes  []byte `json:"bytes"` // base64; null unless it is the action's
}

// IntervalOf returns i, which may be nil, for programs.
func IntervalOf(i *verifier.Interval) *Interval {
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

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// Answer returns j for programs. Exit and Disclosures are the caller's to fill in.
func (j *Judgment) Answer() *Answer {
	a := &Answer{
		File: j.File, Status: j.Status(), Refusals: []verifier.Refusal{}, Claims: []verifier.Claim{}, Leaves: []Leaf{},
		Disclosures: []Disclosure{}, Assumptions: []string{}, Limits: []string{},
	}
	if j.Unread != nil {
		a.Detail = j.Unread.Error()
		return a
	}
	if f := j.NotProven; f != nil {
		a.Rule, a.Reason, a.Detail = string(f.Rule), j.Reason(), j.Cause()
		if f.Index != nil {
			a.Index = *f.Index
		}
		return a
	}
	f := j.Finding
	a.Allowed = f.Allowed()
	a.Index, a.Role = f.Subject.Index, string(f.Subject.Role)
	if e := f.Subject.Entry(); e != nil {
		st := e.Statement()
		a.Vendor = st.Vendor
		if id, ok := st.SessionID(); ok {
			a.Session = id.String()
		}
	}
	a.Interval = IntervalOf(f.Interval)
	a.Refusals = append(a.Refusals, f.Refusals...)
	a.Claims = append(a.Claims, f.Claims...)
	a.Log = &Log{
		Origin: f.Log.Origin, Size: f.Log.Size, Root: f.Log.Root[:], Quorum: f.Log.Quorum,
		Cosignatures: []Cosignature{}, Survives: SurvivesOf(j.LogPolicy),
	}
	for _, s := range f.Log.Cosignatures {
		a.Log.Cosignatures = append(a.Log.Cosignatures, Cosignature{s.Witness, s.Key.Kind().String(), optionalTime(s.Time)})
	}
	for _, l := range f.Leaves {
		leaf := Leaf{Index: l.Index, Role: string(l.Role), LeafHash: hex.EncodeToString(l.Hash[:]), Interval: IntervalOf(l.Interval)}
		if l.Statement != nil {
			leaf.Statement = hex.EncodeToString(l.Statement[:])
		}
		if l == f.Subject {
			a.Statement = leaf.Statement
		}
		a.Leaves = append(a.Leaves, leaf)
	}
	a.Assumptions, a.Limits = j.Assumptions(), Limits()
	return a
}
