package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/judge"
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
		var a *answer
		if b, err := c.read(name); err != nil {
			a = &answer{v: v, Judgment: &judge.Judgment{File: name, Unread: err}}
		} else {
			a = v.judge(name, b)
		}
		a.show(c, v.disclosures, v.contents)
		status = worse(status, a.status())
		count[a.status()]++
		var err error
		p.step(func() {
			if a.Unread != nil {
				c.complain("affidavit verify: %v", a.Unread)
			}
			switch {
			case v.asJSON:
				err = c.printJSON(a.json())
			case a.Unread == nil:
				if i > 0 {
					fmt.Fprintf(c.stdout, "\n%s\n\n", strings.Repeat("=", reportWidth))
				}
				a.print(c)
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

// An answer is what is known about one file, and what is disclosed of it.
type answer struct {
	*judge.Judgment
	v         *verification
	disclosed []*shown
}

// judge judges the contents of a file.
func (v *verification) judge(name string, b []byte) *answer {
	return &answer{v: v, Judgment: judge.File(name, b, &judge.Options{
		Checker: v.checker, LogPolicy: v.logPolicy, Collateral: v.collateral,
		Hints: judge.Hints{
			OtherFile:        `; "affidavit inspect" says what it is`,
			CollateralFile:   "the file of --collateral",
			CollateralNeeded: "give it with --collateral, or verify the .affidavit file",
		},
	})}
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
func (a *answer) verdict() int { return statuses[a.Status()] }

// statuses are the exit statuses for the words that scripts read.
var statuses = map[string]int{judge.Good: exitGood, judge.Refused: exitRefused, judge.NotProven: exitNotGenuine, judge.Unread: exitError}

func (a *answer) print(c *console) {
	w := c.stdout
	if f := a.NotProven; f != nil {
		c.headline(a.verdict(), fmt.Sprintf("NOT PROVEN (%s): %s", a.Reason(), a.Cause()))
		fmt.Fprintln(w)
		hang(w, "File:  ", clean(a.File))
		if f.Index != nil {
			hang(w, "Leaf:  ", fmt.Sprint(*f.Index))
		}
		fmt.Fprintln(w, "\nNothing in this file should be relied on.")
		a.printDisclosed(c)
		return
	}
	f := a.Finding
	if f.Allowed() {
		c.headline(a.verdict(), fmt.Sprintf("GOOD: %s: logged, genuine, and allowed by the appraisal policy.", a.Subject()))
	} else {
		c.headline(a.verdict(), fmt.Sprintf("REFUSED: %s: logged and genuine, but refused by the appraisal policy.", a.Subject()))
		printRefusals(w, f.Refusals)
	}
	fmt.Fprintln(w)
	hang(w, "File:  ", clean(a.File))
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
	for _, s := range a.Assumptions() {
		hang(w, "  - ", s)
	}
	fmt.Fprintf(w, "\nWhat no such file can prove\n")
	for _, s := range judge.Limits() {
		hang(w, "  - ", s)
	}
}

func (a *answer) printLeaf(w io.Writer, l *bundle.Leaf) {
	text := judge.Roles[l.Role]
	if l.Statement != nil {
		text += fmt.Sprintf(", statement %x", *l.Statement)
	}
	if l == a.Finding.Subject {
		text += " (the subject)"
	}
	if l.Verdict != nil && !l.Verdict.Allowed() && l != a.Finding.Subject {
		text += " (refused by the appraisal policy)"
	}
	hang(w, fmt.Sprintf("  %8d  ", l.Index), text)
}

// interval says when the statement was made, as far as that is proven.
func (a *answer) interval() string {
	i := a.Finding.Interval
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

func (a *answer) json() *judge.Answer {
	j := a.Answer()
	j.Exit = a.status()
	for _, s := range a.disclosed {
		j.Disclosures = append(j.Disclosures, s.json())
	}
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
	if judge.IsBundle(b) {
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
