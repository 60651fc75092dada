// Package check is what the Verify page computes: from files, and the rules that a reader judges them by, an answer in
// words for people and in JSON for programs. It is a pure function of its arguments, compiled to WebAssembly for the page,
// and answers what "affidavit verify" answers.
package check

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/client/printable"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Rules are what a reader judges by.
type Rules struct {
	LogPolicy       string // c2sp.org/tlog-policy text
	AppraisalPolicy string // YAML (verifier/POLICY.md)
	Root            string // certificate in PEM; Intel's if it is blank
	AllowQuorumNone bool   // accept a log policy without witnesses
}

// A File is one that the reader gave.
type File struct {
	Name  string
	Bytes []byte
}

// A Reply is everything that the page shows, but where the rules came from, which only the page knows.
type Reply struct {
	// Problems are why nothing was judged; then Answer is nil. Notes are what a reader should know about rules that can
	// be used.
	Problems []Problem `json:"problems"`
	Notes    []Problem `json:"notes"`

	LogPolicy       LogPolicy       `json:"logPolicy"`
	AppraisalPolicy AppraisalPolicy `json:"appraisalPolicy"`
	Root            Root            `json:"root"`

	Files  []string      `json:"files"`  // kinds of the files, in order: subject, disclosure, or something else
	Words  *Words        `json:"words"`  // about Answer
	Answer *judge.Answer `json:"answer"` // as "affidavit verify --json" prints it; nil if there was no file to judge, too
}

// What a Problem is about.
const (
	AboutLogPolicy       = "log-policy"
	AboutAppraisalPolicy = "appraisal-policy"
	AboutRoot            = "root"
	AboutFiles           = "files"
)

// A Problem is about something that the reader gave, or should give.
type Problem struct {
	About   string `json:"about"`
	Message string `json:"message"`
}

// LogPolicy sums up a log policy. Without a usable one all but SHA256 is empty.
type LogPolicy struct {
	SHA256    string   `json:"sha256"` // of the text; empty if there is none
	Logs      []string `json:"logs"`   // origins
	Witnesses int      `json:"witnesses"`
	Survives  []string `json:"survives"` // sentences
}

// AppraisalPolicy sums up an appraisal policy.
type AppraisalPolicy struct {
	SHA256 string `json:"sha256"` // of the text; empty if there is none
}

// Root is the root of trust.
type Root struct {
	Name  string `json:"name"`  // with its fingerprint; empty if there is no usable one
	Intel bool   `json:"intel"` // whether it is Intel's, and so vouches for hardware
}

// A Checker checks files. It remembers facts about the rules that it was last called with, and no verdicts: what it
// replies doesn't depend on what it was asked before. It must not be used concurrently.
type Checker struct {
	rules *parsed // those of the last call; nil before
}

// parsed is rules, and what there is to say about them.
type parsed struct {
	Rules
	reply     Reply // without files
	logPolicy *checkpoint.Policy
	checker   *bundle.Checker // nil if a rule can't be used
}

// Check judges files, of which one is an .affidavit bundle or a .tlog-proof, and the others are disclosures of its actions,
// or collateral for a lone proof. Without files it only says what is to be said about the rules. It doesn't keep the
// files.
func (c *Checker) Check(rules Rules, files []File) *Reply {
	if c.rules == nil || c.rules.Rules != rules {
		c.rules = parse(rules)
	}
	r := c.rules.reply
	r.Problems, r.Notes, r.Files = slices.Clone(r.Problems), slices.Clone(r.Notes), []string{}
	m := r.sort(files)
	if len(r.Problems) > 0 || m == nil {
		return &r
	}
	j := judge.File(m.file.Name, m.file.Bytes, &judge.Options{
		Checker: c.rules.checker, LogPolicy: c.rules.logPolicy, Collateral: m.collateral,
		Hints: judge.Hints{CollateralFile: "the file with collateral", CollateralNeeded: "give it, too, or check the .affidavit file, which has it"},
	})
	r.Answer, r.Words = answer(j, m.disclosures), words(j)
	return &r
}

// answer is j for programs, with what the disclosures show.
func answer(j *judge.Judgment, disclosures []File) *judge.Answer {
	a := j.Answer()
	a.Exit = map[string]int{judge.Good: 0, judge.Refused: 3, judge.NotProven: 4}[a.Status]
	for _, f := range disclosures {
		s := judge.Disclosure{File: f.Name, Status: judge.Good, Contents: []judge.Content{}}
		if d, source, err := j.Disclosed(f.Bytes); err != nil {
			s.Status, s.Detail, a.Exit = judge.NotProven, err.Error(), 4
		} else {
			s.Action, s.Source = d.Bytes, source
		}
		a.Disclosures = append(a.Disclosures, s)
	}
	return a
}

func parse(rules Rules) *parsed {
	p := &parsed{Rules: rules, reply: Reply{Problems: []Problem{}, Notes: []Problem{}}}
	r := &p.reply
	logPolicy, appraisal, root := r.read(&rules)
	p.logPolicy = logPolicy
	if len(r.Problems) == 0 {
		var err error
		p.checker, err = bundle.NewChecker(bundle.Options{LogPolicy: logPolicy, Appraisal: appraisal, Root: root, AllowQuorumNone: rules.AllowQuorumNone})
		if err != nil {
			r.problem(AboutLogPolicy, "%v", err)
		}
	}
	return p
}

// JSON returns r for the page.
func (r *Reply) JSON() []byte {
	b, err := json.Marshal(r, json.Deterministic(true), jsontext.AllowInvalidUTF8(true))
	if err != nil {
		panic(err) // there are only strings and numbers in it
	}
	return b
}

// Failed is the reply in JSON if checking itself went wrong, for a reason that only somebody who can mend it understands.
func Failed(reason any) []byte {
	r := &Reply{Problems: []Problem{}, Notes: []Problem{}, Files: []string{}}
	r.problem(AboutFiles, "This page made a mistake, and says nothing about the file. Please report it: %v", reason)
	return r.JSON()
}

func (r *Reply) problem(about, format string, a ...any) {
	r.Problems = append(r.Problems, Problem{about, printable.Line(fmt.Sprintf(format, a...))})
}

func (r *Reply) note(about, format string, a ...any) {
	r.Notes = append(r.Notes, Problem{about, printable.Line(fmt.Sprintf(format, a...))})
}

// read parses the rules. Those that can't be used are problems.
func (r *Reply) read(rules *Rules) (*checkpoint.Policy, *verifier.Policy, *tdx.Root) {
	r.LogPolicy.Logs, r.LogPolicy.Survives = []string{}, []string{}
	private := false
	for _, s := range []struct{ about, text string }{
		{AboutLogPolicy, rules.LogPolicy}, {AboutAppraisalPolicy, rules.AppraisalPolicy}, {AboutRoot, rules.Root},
	} {
		// Parsers' messages would quote it.
		if strings.Contains(s.text, "PRIVATE+KEY+") || strings.Contains(s.text, "PRIVATE KEY-----") {
			r.problem(s.about, "This holds a private key, which doesn't belong here: keep it to yourself, and give its public half.")
			private = true
		}
	}
	if private {
		return nil, nil, nil
	}

	var logPolicy *checkpoint.Policy
	if strings.TrimSpace(rules.LogPolicy) == "" {
		r.problem(AboutLogPolicy, "A log policy is missing: whose signatures make a record logged?")
	} else {
		r.LogPolicy.SHA256 = digest(rules.LogPolicy)
		p, err := checkpoint.ParsePolicy([]byte(rules.LogPolicy))
		switch {
		case err != nil:
			r.problem(AboutLogPolicy, "This is not a log policy: %v.", err)
		case p.IsQuorumNone() && !rules.AllowQuorumNone:
			r.problem(AboutLogPolicy, "This log policy asks for no witnesses, so that the log alone vouches for its history, and no time is proven. Tick the box below it if that is good enough for you.")
		default:
			logPolicy = p
		}
		if err == nil {
			seen := make(map[string]bool) // a log may have two keys
			for _, l := range p.Logs() {
				if name := l.Key.Name(); !seen[name] {
					seen[name] = true
					r.LogPolicy.Logs = append(r.LogPolicy.Logs, printable.Line(name))
				}
			}
			r.LogPolicy.Witnesses = p.Resilience().Operators
			r.LogPolicy.Survives = judge.SurvivesOf(p).Sentences()
			for _, w := range p.Lint() {
				r.note(AboutLogPolicy, "%s%s.", strings.ToUpper(w.Text[:1]), w.Text[1:])
			}
		}
	}

	var appraisal *verifier.Policy
	if strings.TrimSpace(rules.AppraisalPolicy) == "" {
		r.problem(AboutAppraisalPolicy, "An appraisal policy is missing: which code do you expect to have run, and which platforms are good enough?")
	} else {
		r.AppraisalPolicy.SHA256 = digest(rules.AppraisalPolicy)
		p, err := verifier.ParsePolicy([]byte(rules.AppraisalPolicy))
		switch {
		case err != nil:
			r.problem(AboutAppraisalPolicy, "This is not an appraisal policy: %v.", err)
		case !p.NamesMeasurement():
			r.problem(AboutAppraisalPolicy, "This appraisal policy names no measurement and no release key, so that anything could have run: %s.", strings.TrimPrefix(verifier.WhatToPin,
				`the appraisal policy names neither "measurements" nor "release-keys": `))
		default:
			appraisal = p
		}
	}

	root := tdx.IntelRoot()
	if strings.TrimSpace(rules.Root) != "" {
		var err error
		if root, err = tdx.ParseRoot([]byte(rules.Root)); err != nil {
			r.problem(AboutRoot, "This is not a root certificate: %v.", tdx.Cause(err))
			return nil, nil, nil
		}
	}
	r.Root = Root{Name: printable.Line(root.String()), Intel: root.IsIntel()}
	if !r.Root.Intel {
		r.note(AboutRoot, "This is not Intel's root certificate. Nothing that is verified under it is evidence of Intel's hardware; whoever holds its key can make up everything.")
	}
	return logPolicy, appraisal, root
}

// material is files, sorted by what they are.
type material struct {
	file        File // a bundle or a proof, or what can't be told
	collateral  []byte
	disclosures []File
}

// sort finds out what files are, and returns nil if there is nothing to judge. Rules among them are a problem: whoever
// hands over a record would like to hand over the rules for it, too.
func (r *Reply) sort(files []File) *material {
	var m material
	subjects := 0
	for _, f := range files {
		name := printable.Line(f.Name)
		kind := kindOf(f.Bytes)
		r.Files = append(r.Files, string(kind))
		switch kind {
		case kindSubject:
			subjects++
			m.file = f
		case kindDisclosure:
			m.disclosures = append(m.disclosures, f)
		case kindCollateral:
			m.collateral = f.Bytes
		case kindLogPolicy:
			r.problem(AboutFiles, "%s is a log policy. Rules go into their own fields below, and only if they come from somebody whom you trust: not from whoever gave you the record.", name)
		case kindAppraisalPolicy:
			r.problem(AboutFiles, "%s is an appraisal policy. Rules go into their own fields below, and only if they come from somebody whom you trust: not from whoever gave you the record.", name)
		case kindContent:
			r.problem(AboutFiles, "%s is the content of an action, which this page doesn't compare: use \"affidavit verify --content\".", name)
		case kindPrivate:
			r.problem(AboutFiles, "%s holds a private key, or all the actions of a session: keep it to yourself. Disclosures of single actions come out of it with \"affidavit disclose\".", name)
		default:
			if len(files) == 1 {
				subjects++
				m.file = f // says itself that it is none
				break
			}
			r.problem(AboutFiles, "%s is neither a record (.affidavit or .tlog-proof), nor a disclosure of one of its actions.", name)
		}
	}
	switch {
	case subjects > 1:
		r.problem(AboutFiles, "These are %d records: give each with what belongs to it by itself.", subjects)
	case subjects == 0 && len(files) > 0 && len(r.Problems) == 0:
		r.problem(AboutFiles, "A disclosure alone says nothing: give the session's .affidavit file with it.")
	}
	if subjects != 1 {
		return nil
	}
	return &m
}

type kind string

const (
	kindUnknown         kind = "unknown"
	kindSubject         kind = "subject"
	kindDisclosure      kind = "disclosure"
	kindCollateral      kind = "collateral"
	kindContent         kind = "content"
	kindLogPolicy       kind = "log-policy"
	kindAppraisalPolicy kind = "appraisal-policy"
	kindPrivate         kind = "private"
)

// kindOf tells kinds of files apart. Whether a file is well-formed is for its parser to say.
func kindOf(b []byte) kind {
	if judge.IsBundle(b) || judge.IsProof(b) {
		return kindSubject
	}
	text := bytes.TrimSpace(b)
	if !utf8.Valid(text) || len(text) == 0 {
		return kindUnknown
	}
	first, _, _ := bytes.Cut(text, []byte("\n"))
	switch {
	case bytes.Contains(text, []byte("PRIVATE+KEY+")), bytes.Contains(text, []byte("PRIVATE KEY-----")), string(first) == "affidavit-session/v1":
		return kindPrivate
	case text[0] == '{':
		// The first error, of whatever isn't JSON, leaves all of them nil.
		var members map[string]any
		if len(text) > maxJSON || json.Unmarshal(text, &members) != nil {
			return kindUnknown
		}
		has := func(name string) bool { _, ok := members[name]; return ok }
		switch {
		case has("disclosure"):
			return kindDisclosure
		case has("tcb_info"):
			return kindCollateral
		case has("content"):
			return kindContent
		}
		return kindUnknown
	}
	if _, err := checkpoint.ParsePolicy(b); err == nil {
		return kindLogPolicy
	}
	if _, err := verifier.ParsePolicy(b); err == nil {
		return kindAppraisalPolicy
	}
	return kindUnknown
}

// maxJSON bounds JSON that is looked into only to know what it is. Disclosures are much smaller, and collateral is some
// 30 kB.
const maxJSON = 4 << 20

func digest(text string) string {
	d := sha256.Sum256([]byte(text))
	return hex.EncodeToString(d[:])
}
