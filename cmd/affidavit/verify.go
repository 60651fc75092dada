package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

func verifyCommand() *command {
	return &command{
		name: "verify",
		usage: []string{
			"--log-policy FILE --appraisal-policy FILE [--root FILE] [--json] FILE...",
			"--log-policy FILE --appraisal-policy FILE --disclosure FILE [--content FILE] [--json] FILE",
		},
		short: "check .affidavit and .tlog-proof files, offline",
		about: `Checks each FILE, an .affidavit bundle or a .tlog-proof (told apart by content): that
the record is in the log, that genuine hardware made its evidence, and that the
appraisal policy allows it. Then it says what is proven and what is only claimed, each
with who vouches for it. It asks nobody: no network, no log, no vendor.

The appraisal policy must say which code you expect in the trust domain: by
measurements of an image that you reviewed, or by the release key of a vendor whom you
trust to name them. Without either anything could have run there, so that this command
refuses, and prints what could be pinned.

A .tlog-proof of a record holds no collateral; give the set that the log used with
--collateral, or ask for the .affidavit file, which holds all that is needed.

With --disclosure it also checks that single actions, of which somebody gave you
disclosures, are in the list that the file's record commits to, and shows them with who
vouches for them: the same as for the list. Of the other actions nothing is known but
their number. With --content it compares what somebody says an action was given, or
brought about, with the salted digest in the disclosed action.`,
		trusts: `The log policy's keys (a quorum of witnesses with at least one honest one in it), the
root certificate (Intel's unless --root names another), and the appraisal policy's
measurements or release keys. Neither the log's operator, nor the vendor, nor whoever
handed over the files. It assumes that nobody has extracted the platform's keys by
physical attack.`,
		examples: `  affidavit verify --log-policy log.policy --appraisal-policy ours.yaml session.affidavit
  affidavit verify --log-policy log.policy --appraisal-policy ours.yaml --json *.affidavit |
      jq -r 'select(.status != "good") | .file'
  affidavit verify --log-policy log.policy --appraisal-policy ours.yaml \
      --disclosure action-3.json session.affidavit
`,
		exits: map[int]string{
			exitGood:       "every file is logged, genuine, and allowed by the appraisal policy,\nand the disclosures are of its actions",
			exitRefused:    "a file is logged and genuine, but refused by the appraisal policy",
			exitNotGenuine: "a file is not genuine, not logged, damaged, or not such a file at all;\nor a disclosure or content is not of its actions",
		},
		minArgs: 1, maxArgs: many,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			trust := trustFlags(fs)
			disclosures := fs.StringArray("disclosure", nil, "`FILE` with an action of the session, see \"affidavit disclose\"; can be given again")
			contents := fs.StringArray("content", nil, "`FILE` with a content of a disclosed action, see \"affidavit disclose --reveal\"; can be given again")
			asJSON := jsonFlag(fs)
			return func(c *console, args []string) (int, error) {
				switch {
				case len(*contents) > 0 && len(*disclosures) == 0:
					return 0, usagef("--content without --disclosure: of which action?")
				case len(*disclosures) > 0 && len(args) > 1:
					return 0, usagef("--disclosure goes with one file, and here are %d: which session's is it?", len(args))
				}
				v, err := trust.verification(c, fs, args)
				if err != nil {
					return 0, err
				}
				v.asJSON, v.disclosures, v.contents = *asJSON, *disclosures, *contents
				return v.run(c, args)
			}
		},
	}
}

// trust is what the flags say that a command trusts which judges files.
type trust struct {
	logPolicy, appraisalPolicy, root, collateral *string
	quorumNone                                   *bool
}

func trustFlags(fs *pflag.FlagSet) trust {
	return trust{
		logPolicy:       fs.String("log-policy", "", "`FILE` that says whose signatures make a record logged"),
		appraisalPolicy: fs.String("appraisal-policy", "", "`FILE` that says which records are good enough, in YAML"),
		root:            rootFlag(fs),
		collateral:      fs.String("collateral", "", "`FILE` with the collateral of a lone .tlog-proof, in JSON"),
		quorumNone:      fs.Bool("allow-quorum-none", false, "accept a log policy without witnesses: no time is proven, and the log can show everybody another history"),
	}
}

// verification reads what the flags of fs name. The files with the given names are those to be judged: what could be
// pinned comes from them.
func (t trust) verification(c *console, fs *pflag.FlagSet, names []string) (*verification, error) {
	v := new(verification)
	if !fs.Changed("appraisal-policy") {
		return nil, v.whatToPin(c, "missing flag --appraisal-policy: which code do you expect?", names)
	}
	if err := require(fs, "log-policy"); err != nil {
		return nil, err
	}
	var err error
	if v.logPolicy, err = readLogPolicy(c, *t.logPolicy); err != nil {
		return nil, err
	}
	if v.appraisal, err = readAppraisalPolicy(c, *t.appraisalPolicy); err != nil {
		return nil, err
	}
	if v.root, err = readRoot(c, *t.root); err != nil {
		return nil, err
	}
	if *t.collateral != "" {
		if v.collateral, err = c.read(*t.collateral); err != nil {
			return nil, err
		}
	}
	if !v.appraisal.NamesMeasurement() {
		return nil, v.whatToPin(c, fmt.Sprintf("%s names no measurement and no release key: which code do you expect?", *t.appraisalPolicy), names)
	}
	v.checker, err = bundle.NewChecker(bundle.Options{
		LogPolicy: v.logPolicy, Appraisal: v.appraisal, Root: v.root, AllowQuorumNone: *t.quorumNone,
	})
	if errors.Is(err, bundle.ErrQuorumNone) {
		return nil, usagef("%s: %v; give --allow-quorum-none if that is good enough for you", *t.logPolicy, err)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// A verification is what the flags of verify ask for.
type verification struct {
	logPolicy  *checkpoint.Policy
	appraisal  *verifier.Policy
	root       *tdx.Root
	collateral []byte // JSON, nil if none
	asJSON     bool

	disclosures, contents []string // names of files

	checker *bundle.Checker
}

func (v *verification) run(c *console, names []string) (int, error) {
	status := exitGood
	count := make(map[int]int)
	p := newProgress(c, "verified", len(names))
	for i, name := range names {
		a := &answer{file: name, v: v}
		b, err := c.read(name)
		if err != nil {
			a.unread = err
		} else {
			a.check(b)
		}
		a.show(c, v.disclosures, v.contents)
		status = worse(status, a.status())
		count[a.status()]++
		p.step(func() {
			if a.unread != nil {
				c.complain("affidavit verify: %v", a.unread)
			}
			switch {
			case v.asJSON:
				err = c.printJSON(a.json())
			case a.unread == nil:
				err = nil
				if i > 0 {
					fmt.Fprintf(c.stdout, "\n%s\n\n", strings.Repeat("=", reportWidth))
				}
				a.print(c)
			default:
				err = nil
			}
		})
		if err != nil {
			return 0, err
		}
	}
	p.end()
	if len(names) > 1 && !v.asJSON {
		fmt.Fprintf(c.stdout, "\n%s\n\n", strings.Repeat("=", reportWidth))
		text := fmt.Sprintf("%d files: %d good, %d refused by the appraisal policy, %d not proven", len(names),
			count[exitGood], count[exitRefused], count[exitNotGenuine])
		if n := count[exitError]; n > 0 {
			text += fmt.Sprintf(", %d not read", n)
		}
		c.headline(status, text+".")
	}
	return status, nil
}

// isBundle tells the two kinds of files apart. What is neither is taken for a
// proof, whose parser then says what is wrong.
func isBundle(b []byte) bool { return bytes.HasPrefix(b, []byte("PK")) }

// An answer is what is known about one file.
type answer struct {
	file string
	v    *verification

	// One of these is set.
	unread    error             // the file couldn't be read
	notProven *bundle.NotProven // why it proves nothing
	finding   *bundle.Finding

	disclosed []*shown
}

// status is the verdict on the file and on what is disclosed of it.
func (a *answer) status() int {
	status := a.verdict()
	for _, s := range a.disclosed {
		status = worse(status, s.status())
	}
	return status
}

// verdict is the verdict on the file alone.
func (a *answer) verdict() int {
	switch {
	case a.unread != nil:
		return exitError
	case a.finding == nil:
		return exitNotGenuine
	case !a.finding.Allowed():
		return exitRefused
	}
	return exitGood
}

// check judges the contents of a file. Everything that is wrong with them is a
// NotProven: what can't be parsed proves as little as what is forged.
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
		return a.v.checker.Check(bun)
	}
	if !bytes.HasPrefix(b, []byte("c2sp.org/tlog-proof@")) {
		return nil, errors.New("neither an .affidavit bundle nor a .tlog-proof; \"affidavit inspect\" says what it is")
	}
	p, err := checkpoint.ParseProof(b)
	if err != nil {
		return nil, err
	}
	var collateral *tdx.Collateral
	if a.v.collateral != nil {
		if collateral, err = tdx.ParseCollateralJSON(a.v.collateral); err != nil {
			return nil, &bundle.NotProven{Rule: bundle.RuleCollateral, Err: fmt.Errorf("the file of --collateral: %w", tdxCause(err))}
		}
	} else if l, err := record.ParseLeaf(p.Extra); err == nil {
		if l, ok := l.(*record.RecordLeaf); ok && l.Collateral != (record.Digest{}) {
			return nil, &bundle.NotProven{Rule: bundle.RuleMissing, Index: &p.Index,
				Err: fmt.Errorf("its evidence can't be judged without the collateral %x: give it with --collateral, or verify the .affidavit file", l.Collateral)}
		}
	}
	return a.v.checker.CheckProof(p, collateral)
}

// Words for what a leaf is.
var roles = map[bundle.Role]string{
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

// subject says what the file is about.
func (a *answer) subject() string {
	l := a.finding.Subject
	text := roles[l.Role]
	e := l.Entry()
	if e == nil {
		return text
	}
	st := e.Statement()
	if id, ok := st.SessionID(); ok {
		text = fmt.Sprintf("%s %s", text, id)
		if st.Session != nil && st.Session.Kind == record.KindCodingSession || st.Start != nil && st.Start.Kind == record.KindCodingSession {
			text = strings.Replace(text, "a session", "coding session", 1)
		} else {
			text = strings.Replace(text, "a session", "session", 1)
		}
	}
	return fmt.Sprintf("%s, of %s", text, clean(st.Vendor))
}

func (a *answer) print(c *console) {
	w := c.stdout
	if f := a.notProven; f != nil {
		c.headline(a.verdict(), fmt.Sprintf("NOT PROVEN (%s): %s", a.reason(), a.cause()))
		fmt.Fprintln(w)
		hang(w, "File:  ", clean(a.file))
		if f.Index != nil {
			hang(w, "Leaf:  ", fmt.Sprint(*f.Index))
		}
		fmt.Fprintln(w, "\nNothing in this file should be relied on.")
		a.printDisclosed(c)
		return
	}
	f := a.finding
	if f.Allowed() {
		c.headline(a.verdict(), fmt.Sprintf("GOOD: %s: logged, genuine, and allowed by the appraisal policy.", a.subject()))
	} else {
		c.headline(a.verdict(), fmt.Sprintf("REFUSED: %s: logged and genuine, but refused by the appraisal policy.", a.subject()))
		printRefusals(w, f.Refusals)
	}
	fmt.Fprintln(w)
	hang(w, "File:  ", clean(a.file))
	hang(w, "Log:   ", fmt.Sprintf("%s, leaf %d of a tree of %d", clean(f.Log.Origin), f.Subject.Index, f.Log.Size))
	hang(w, "Time:  ", a.interval())
	hang(w, "Root:  ", clean(a.v.root.String()))
	a.printDisclosed(c)
	printClaims(w, f.Claims)

	fmt.Fprintf(w, "\nRecords in this file\n")
	for _, l := range f.Leaves {
		a.printLeaf(w, l)
	}
	fmt.Fprintf(w, "\nWhat this rests on\n")
	for _, s := range a.assumptions() {
		hang(w, "  - ", s)
	}
	fmt.Fprintf(w, "\nWhat no such file can prove\n")
	for _, s := range a.limits() {
		hang(w, "  - ", s)
	}
}

func (a *answer) printLeaf(w io.Writer, l *bundle.Leaf) {
	text := roles[l.Role]
	if l.Statement != nil {
		text += fmt.Sprintf(", statement %x", *l.Statement)
	}
	if l == a.finding.Subject {
		text += " (the subject)"
	}
	if l.Verdict != nil && !l.Verdict.Allowed() && l != a.finding.Subject {
		text += " (refused by the appraisal policy)"
	}
	hang(w, fmt.Sprintf("  %8d  ", l.Index), text)
}

// interval says when the statement was made, as far as that is proven.
func (a *answer) interval() string {
	i := a.finding.Interval
	switch {
	case i == nil && a.v.logPolicy.IsQuorumNone():
		return "none is proven: the log policy asks for no witnesses"
	case i == nil || i.NotBefore.IsZero() && i.NotAfter.IsZero():
		return "none is proven"
	case i.NotBefore.IsZero():
		return fmt.Sprintf("made before %s, as witnesses prove; from when on is not proven", stamp(i.NotAfter))
	case i.NotAfter.IsZero():
		return fmt.Sprintf("made after %s, as witnesses prove; until when is not proven", stamp(i.NotBefore))
	}
	return fmt.Sprintf("made between %s and %s (%s), as witnesses prove", stamp(i.NotBefore), stamp(i.NotAfter), i.NotAfter.Sub(i.NotBefore).Round(time.Second))
}

func (a *answer) assumptions() []string {
	list := []string{
		"Hardware: " + assumeHardware,
		"Code: what the appraisal policy pins, or lets a vendor's release key name, does what you think it does.",
	}
	s := survivesOf(a.v.logPolicy)
	if s.Operators == 0 {
		return append(list, s.sentences()...)
	}
	list = append(list, fmt.Sprintf("Witnesses: every set of them that satisfies the log policy's quorum %q has an honest one in it, whose clock is right.", clean(a.v.logPolicy.Quorum())))
	return append(list, s.sentences()[:2]...)
}

func (a *answer) limits() []string {
	return []string{
		"Completeness: that no other record exists, such as a second end of the same session, or that a release was not withdrawn later. A monitor of the whole log can see that.",
		"Erasure: a report of it is the word of measured code; nothing can prove that data is gone.",
		"Identity of a trust domain: hardware gives it none. That start and end are of the same one is the word of measured code.",
		"Compromise: an outdated platform is not a breach, and an up-to-date one is no proof against one.",
	}
}

// reason is the word for why a file proves nothing: the verifier's if the
// evidence isn't genuine, else the broken rule.
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

// answerJSON is the answer for scripts. Every member is always there; null or
// empty where nothing is known.
type answerJSON struct {
	File      string `json:"file"`
	Status    string `json:"status"`    // good, refused, not-proven, or unread
	Exit      int    `json:"exit"`      // what the exit status would be for this file alone
	Allowed   bool   `json:"allowed"`   // by the appraisal policy
	Rule      string `json:"rule"`      // when not proven: what was broken
	Reason    string `json:"reason"`    // when not proven: the verifier's word if it has one, else the rule
	Detail    string `json:"detail"`    // when not proven or unread: a sentence
	Index     uint64 `json:"index"`     // of the subject, or of the leaf that isn't proven
	Role      string `json:"role"`      // of the subject, such as "final"
	Statement string `json:"statement"` // the subject's digest
	Vendor    string `json:"vendor"`
	Session   string `json:"session"`

	Log         *logJSON           `json:"log"`
	Interval    *intervalJSON      `json:"interval"` // the proven time, or null
	Refusals    []verifier.Refusal `json:"refusals"`
	Claims      []verifier.Claim   `json:"claims"`
	Leaves      []leafJSON         `json:"leaves"`
	Disclosures []disclosedJSON    `json:"disclosures"` // that were given
	Assumptions []string           `json:"assumptions"`
	Limits      []string           `json:"limits"`
}

type logJSON struct {
	Origin       string            `json:"origin"`
	Size         uint64            `json:"size"`
	Root         []byte            `json:"root"` // base64
	Quorum       string            `json:"quorum"`
	Cosignatures []cosignatureJSON `json:"cosignatures"`
	Survives     survives          `json:"survives"`
}

type cosignatureJSON struct {
	Witness string     `json:"witness"`
	Kind    string     `json:"kind"`
	Time    *time.Time `json:"time"` // null if the witness stated none
}

type intervalJSON struct {
	NotBefore *time.Time `json:"notBefore"`
	NotAfter  *time.Time `json:"notAfter"`
	Width     *int64     `json:"widthSeconds"` // null unless both ends are proven
}

type leafJSON struct {
	Index     uint64        `json:"index"`
	Role      string        `json:"role"`
	LeafHash  string        `json:"leafHash"`
	Statement string        `json:"statement"`
	Interval  *intervalJSON `json:"interval"`
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func intervalOf(i *verifier.Interval) *intervalJSON {
	if i == nil {
		return nil
	}
	j := &intervalJSON{NotBefore: optionalTime(i.NotBefore), NotAfter: optionalTime(i.NotAfter)}
	if j.NotBefore != nil && j.NotAfter != nil {
		width := int64(i.NotAfter.Sub(i.NotBefore) / time.Second)
		j.Width = &width
	}
	return j
}

func (a *answer) json() *answerJSON {
	j := &answerJSON{
		File: a.file, Exit: a.status(), Refusals: []verifier.Refusal{}, Claims: []verifier.Claim{}, Leaves: []leafJSON{},
		Assumptions: []string{}, Limits: []string{}, Disclosures: []disclosedJSON{}, Status: word(a.verdict()),
	}
	for _, s := range a.disclosed {
		j.Disclosures = append(j.Disclosures, s.json())
	}
	if a.unread != nil {
		j.Detail = a.unread.Error()
		return j
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
	j.Log = &logJSON{
		Origin: f.Log.Origin, Size: f.Log.Size, Root: f.Log.Root[:], Quorum: f.Log.Quorum,
		Cosignatures: []cosignatureJSON{}, Survives: survivesOf(a.v.logPolicy),
	}
	for _, s := range f.Log.Cosignatures {
		j.Log.Cosignatures = append(j.Log.Cosignatures, cosignatureJSON{s.Witness, s.Key.Kind().String(), optionalTime(s.Time)})
	}
	for _, l := range f.Leaves {
		leaf := leafJSON{Index: l.Index, Role: string(l.Role), LeafHash: hexed(l.Hash[:]), Interval: intervalOf(l.Interval)}
		if l.Statement != nil {
			leaf.Statement = hexed(l.Statement[:])
		}
		if l == f.Subject {
			j.Statement = leaf.Statement
		}
		j.Leaves = append(j.Leaves, leaf)
	}
	j.Assumptions, j.Limits = a.assumptions(), a.limits()
	return j
}

// whatToPin returns a usage error that says what an appraisal policy must name,
// with what the first readable file has to offer. That comes from whom the
// policy is meant to check, which is said too.
func (v *verification) whatToPin(c *console, problem string, names []string) error {
	var b strings.Builder
	b.WriteString(problem + `
Without an expected measurement or a trusted release key anything could have run in the
trust domain. Put one of these into the appraisal policy:

  # 1. the measurements of an image that you reviewed or reproduced:
`)
	vendor := "https://vendor.example"
	var q *tdx.Quote
	for _, name := range names {
		raw, err := c.read(name)
		if err != nil {
			continue
		}
		e := subjectIn(raw)
		if e == nil || e.Quote() == nil {
			continue
		}
		if q, err = tdx.ParseQuote(e.Quote()); err != nil {
			continue
		}
		fmt.Fprintf(&b, `  # WARNING: these values come from %s itself, which nobody has
  # verified. Pin them only after you got the same ones from a build of your own, or
  # from somebody whom you trust. Else you trust whoever made that file.
`, clean(name))
		vendor = clean(e.Statement().Vendor)
		break
	}
	b.WriteString("  measurements:\n    - name: the image that I reviewed\n")
	for i, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} {
		switch {
		case q == nil && i == 0:
			fmt.Fprintf(&b, "      %s: 96 hexadecimal digits\n", name)
		case q == nil:
			fmt.Fprintf(&b, "      %s: 96 hexadecimal digits, or any\n", name)
		case i == 0:
			fmt.Fprintf(&b, "      %s: \"%x\"\n", name, q.Body.MRTD)
		default:
			fmt.Fprintf(&b, "      %s: \"%x\"\n", name, q.Body.RTMR[i-1])
		}
	}
	fmt.Fprintf(&b, `
  # 2. or the release key of a vendor whom you trust to say what its images measure.
  # Get it from the vendor, and not out of the file:
  release-keys:
    - vendor: %s
      keys: [the key in base64, as "affidavit keygen --type release" printed it]
`, vendor)
	return usagef("%s", b.String())
}

// subjectIn returns the entry that a bundle or proof is about, or nil. Nothing
// about it is verified.
func subjectIn(b []byte) *record.Entry {
	var extra []byte
	if isBundle(b) {
		bun, err := bundle.Parse(b)
		if err != nil {
			return nil
		}
		for _, p := range bun.Proofs {
			if p.Index == bun.Subject {
				extra = p.Extra
			}
		}
	} else if p, err := checkpoint.ParseProof(b); err == nil {
		extra = p.Extra
	}
	leaf, err := record.ParseLeaf(extra)
	if err != nil {
		return nil
	}
	switch l := leaf.(type) {
	case *record.RecordLeaf:
		return l.Entry
	case *record.VendorLeaf:
		return l.Entry
	}
	return nil
}
