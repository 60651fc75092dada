package check_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/client/webui/verifypage/check"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// A world is what a reader has at hand.
type world struct {
	rules check.Rules
	files map[string]check.File
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{files: make(map[string]check.File)}
	add := func(name string, b []byte) { w.files[name] = check.File{Name: name, Bytes: b} }
	salt := [32]byte{1}
	var action []byte
	var root record.Digest
	steps := func(edit func(*bundletest.Draft)) bundletest.Steps {
		return bundletest.Steps{Final: func(d *bundletest.Draft) {
			var err error
			if action, err = (&record.Action{
				Session: d.Statement.Session.ID, Time: bundletest.Epoch, TraceID: [16]byte{1}, SpanID: [8]byte{1}, Outcome: record.OutcomeExecuted,
				Attributes: map[string]any{"gen_ai.operation.name": "chat"},
			}).Marshal(); err != nil {
				t.Fatal(err)
			}
			root = record.ActionRoot([]record.Digest{record.ActionLeaf(salt, action)})
			d.Statement.Session.Actions = record.Actions{Tree: record.Tree{Size: 1, Root: root}}
			edit(d)
		}}
	}
	o := bundletest.LogOptions{Witnesses: 3, Threshold: 2}
	s := bundletest.NewSession(t, o, steps(func(*bundletest.Draft) {}))
	w.rules = check.Rules{LogPolicy: s.Policy().String(), AppraisalPolicy: string(s.Appraisal().YAML()), Root: string(s.PKI.RootPEM())}
	b, err := s.Bundle().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	add("good.affidavit", b)
	add("final.tlog-proof", s.Proof(s.Final, s.Publish(s.Now)).Bytes())
	collateral, err := s.Set.JSON()
	if err != nil {
		t.Fatal(err)
	}
	add("collateral.json", collateral)
	add("action.json", (&record.Disclosure{Salt: salt, Bytes: action, Tree: record.Tree{Size: 1, Root: root}}).JSON())
	debug := tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug
	refused := bundletest.NewSession(t, o, steps(func(d *bundletest.Draft) { d.Quote.TDAttributes = &debug }))
	if b, err = refused.Bundle().Bytes(); err != nil {
		t.Fatal(err)
	}
	add("refused.affidavit", b)
	add("log.policy", []byte(w.rules.LogPolicy))
	add("ours.yaml", []byte(w.rules.AppraisalPolicy))
	add("private.key", []byte("PRIVATE+KEY+log.example.org/2026+00000000+AAAA\n"))
	add("session.private", []byte("affidavit-session/v1\nand so on\n"))
	add("content.json", []byte(`{"content":{"action":0,"bytes":"","name":"arguments","salt":"","session":""}}`))
	add("nothing", []byte("nothing of the kind"))
	return w
}

func (w *world) check(names ...string) *check.Reply {
	var files []check.File
	for _, name := range names {
		files = append(files, w.files[name])
	}
	return new(check.Checker).Check(w.rules, files)
}

// Which files are taken for what, and what is refused before anything is judged.
func TestFiles(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		files   string
		status  string // empty if nothing is judged
		kinds   string
		problem string
	}{
		{"good.affidavit", judge.Good, "subject", ""},
		{"refused.affidavit", judge.Refused, "subject", ""},
		{"nothing", judge.NotProven, "unknown", ""},
		{"final.tlog-proof", judge.NotProven, "subject", ""},                             // without collateral
		{"final.tlog-proof collateral.json", judge.Refused, "subject collateral", ""},    // without its start
		{"collateral.json final.tlog-proof", judge.Refused, "collateral subject", ""},    // in any order
		{"action.json good.affidavit", judge.Good, "disclosure subject", ""},             // likewise
		{"good.affidavit nothing", "", "subject unknown", "nothing is neither a record"}, // whatever it is, it isn't checked
		{"good.affidavit refused.affidavit", "", "subject subject", "These are 2 records"},
		{"action.json", "", "disclosure", "A disclosure alone says nothing"},
		{"good.affidavit log.policy", "", "subject log-policy", "log.policy is a log policy"},
		{"good.affidavit ours.yaml", "", "subject appraisal-policy", "ours.yaml is an appraisal policy"},
		{"good.affidavit private.key", "", "subject private", "private.key holds a private key"},
		{"session.private", "", "private", "keep it to yourself"},
		{"good.affidavit content.json", "", "subject content", "affidavit verify --content"},
		{"", "", "", ""},
	} {
		r := w.check(strings.Fields(tt.files)...)
		status := ""
		if r.Answer != nil {
			status = r.Answer.Status
		}
		if status != tt.status || strings.Join(r.Files, " ") != tt.kinds {
			t.Errorf("%s: %q, files %v; want %q, %s; problems %v", tt.files, status, r.Files, tt.status, tt.kinds, r.Problems)
		}
		var messages []string
		for _, p := range r.Problems {
			messages = append(messages, p.Message)
		}
		if text := strings.Join(messages, " "); !strings.Contains(text, tt.problem) || (text == "") != (tt.problem == "") {
			t.Errorf("%s: problems %q, want %q", tt.files, text, tt.problem)
		}
	}
}

// Rules that can't be used are problems with their own names, and nothing is judged.
func TestRules(t *testing.T) {
	w := newWorld(t)
	lone := bundletest.NewLog(t, bundletest.LogOptions{}).Policy().String()
	for _, tt := range []struct {
		name  string
		edit  func(*check.Rules)
		about string
		want  string
	}{
		{"no log policy", func(r *check.Rules) { r.LogPolicy = " \n" }, check.AboutLogPolicy, "is missing"},
		{"another file", func(r *check.Rules) { r.LogPolicy = r.AppraisalPolicy }, check.AboutLogPolicy, "not a log policy: malformed policy: line 1"},
		{"a private key", func(r *check.Rules) { r.LogPolicy = "log PRIVATE+KEY+x\n" }, check.AboutLogPolicy, "holds a private key"},
		{"no witnesses", func(r *check.Rules) { r.LogPolicy = lone }, check.AboutLogPolicy, "asks for no witnesses"},
		{"no appraisal policy", func(r *check.Rules) { r.AppraisalPolicy = "" }, check.AboutAppraisalPolicy, "is missing"},
		{"a typo", func(r *check.Rules) { r.AppraisalPolicy += "measurments: []\n" }, check.AboutAppraisalPolicy, "not an appraisal policy"},
		{"no measurement", func(r *check.Rules) { r.AppraisalPolicy = "tcb:\n  statuses: [UpToDate]\n" }, check.AboutAppraisalPolicy, "anything could have run"},
		{"not a certificate", func(r *check.Rules) { r.Root = "x" }, check.AboutRoot, "not a root certificate"},
	} {
		rules := w.rules
		tt.edit(&rules)
		// A Checker that knows good rules doesn't go on with them.
		c := new(check.Checker)
		if r := c.Check(w.rules, []check.File{w.files["good.affidavit"]}); r.Answer == nil || r.Answer.Status != judge.Good {
			t.Fatalf("under good rules: %v", r.Problems)
		}
		r := c.Check(rules, []check.File{w.files["good.affidavit"]})
		if r.Answer != nil || len(r.Problems) != 1 || r.Problems[0].About != tt.about || !strings.Contains(r.Problems[0].Message, tt.want) {
			t.Errorf("%s: answer %v, problems %v", tt.name, r.Answer, r.Problems)
		}
		for _, p := range r.Problems {
			if strings.Contains(p.Message, "PRIVATE+KEY+x") {
				t.Errorf("%s: the message quotes the key: %s", tt.name, p.Message)
			}
		}
	}
	rules := w.rules
	rules.LogPolicy, rules.AllowQuorumNone = lone, true
	if r := new(check.Checker).Check(rules, nil); len(r.Problems) > 0 || len(r.Notes) == 0 {
		t.Errorf("without witnesses, as asked for: problems %v, notes %v", r.Problems, r.Notes)
	}
	rules = w.rules
	rules.Root = ""
	r := new(check.Checker).Check(rules, []check.File{w.files["good.affidavit"]})
	if !r.Root.Intel || r.Answer == nil || r.Answer.Status != judge.NotProven {
		t.Errorf("under Intel's root: %+v, %v", r.Root, r.Problems)
	}
	if r := w.check(); r.Root.Intel || !slices.ContainsFunc(r.Notes, func(p check.Problem) bool { return p.About == check.AboutRoot }) {
		t.Errorf("nothing is said about a root that isn't Intel's: %v", r.Notes)
	}
}

func TestWords(t *testing.T) {
	w := newWorld(t)
	r := w.check("good.affidavit", "action.json")
	if r.Words.Title != "Good" || !strings.HasPrefix(r.Words.Subject, "Final record of coding session ") ||
		r.Words.Time != "Made on 24 November 2026 between 07:01:16 and 07:02:21 UTC (1 minute 5 seconds apart), as witnesses prove." {
		t.Errorf("%+v", r.Words)
	}
	// Every claim has a group, a mark and, if it is about a leaf, a role.
	for _, c := range r.Answer.Claims {
		if !slices.ContainsFunc(r.Words.Groups, func(g check.Group) bool { return g.Source == c.Source }) || r.Words.Marks[string(c.Status)] == "" {
			t.Errorf("no words for the source or status of %+v", c)
		}
	}
	for _, l := range r.Answer.Leaves {
		if r.Words.Roles[l.Role] == "" {
			t.Errorf("no words for the role %q", l.Role)
		}
	}
	// The release doesn't say that the agent is measured, so that its list of actions is the vendor's.
	if d := r.Answer.Disclosures; len(d) != 1 || d[0].Status != judge.Good || d[0].Source != verifier.SourceVendor {
		t.Errorf("disclosures %+v", d)
	}
}

// Whoever adds a rule or a reason to packages bundle, verifier or tdx has to say on the page what it means.
func TestWhysAreComplete(t *testing.T) {
	n := 0
	for _, dir := range []string{"../../../bundle", "../../../../verifier", "../../../../verifier/tdx"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(node ast.Node) bool {
				v, ok := node.(*ast.ValueSpec)
				if !ok {
					return true
				}
				for i, name := range v.Names {
					isRule := strings.HasPrefix(name.Name, "Rule") && name.Name != "Ruleset"
					if !isRule && !strings.HasPrefix(name.Name, "Reason") || i >= len(v.Values) {
						continue
					}
					word, ok := v.Values[i].(*ast.BasicLit)
					if !ok {
						continue
					}
					s, err := strconv.Unquote(word.Value)
					if err != nil {
						t.Fatal(err)
					}
					n++
					if check.Why(s) == "" {
						t.Errorf("no words for %s.%s, %q", file.Name, name.Name, s)
					}
				}
				return true
			})
		}
	}
	if n < 30 {
		t.Errorf("only %d constants found", n) // they have other names now
	}
}

// Whatever the files are, there is either a problem or an answer, in JSON that a page can read; and only the one encoding
// of a bundle is good.
func FuzzCheck(f *testing.F) {
	w := newWorld(f)
	for _, file := range w.files {
		f.Add(file.Bytes, []byte(nil))
		f.Add(w.files["good.affidavit"].Bytes, file.Bytes)
	}
	good := string(w.files["good.affidavit"].Bytes)
	c := new(check.Checker)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		files := []check.File{{Name: "a", Bytes: a}}
		if len(b) > 0 {
			files = append(files, check.File{Name: "b", Bytes: b})
		}
		r := c.Check(w.rules, files)
		if (len(r.Problems) == 0) != (r.Answer != nil) || (r.Answer != nil) != (r.Words != nil) {
			t.Errorf("problems %v, answer %v", r.Problems, r.Answer)
		}
		if !json.Valid(r.JSON()) {
			t.Errorf("not JSON: %s", r.JSON())
		}
		if r.Answer != nil && r.Answer.Status == judge.Good && string(a) != good && string(b) != good {
			t.Errorf("good: %x, %x", a, b)
		}
	})
}

func TestFailed(t *testing.T) {
	var r check.Reply
	if err := json.Unmarshal(check.Failed(fmt.Errorf("index out of range")), &r); err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, "index out of range") {
		t.Errorf("%+v, %v", r, err)
	}
}
