package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

func logPolicyCommand() *command {
	return &command{
		name:  "log-policy check",
		usage: []string{"[--json] FILE"},
		short: "check a log policy for mistakes, and say what it survives",
		about: `Parses a log policy (c2sp.org/tlog-policy), which says whose signatures make a
record logged: the log's own, and those of a quorum of witnesses. Then it says how
many witnesses could lie or be away before the policy proves nothing or accepts
nothing, and warns about what its author probably didn't mean, such as one
operator's keys counted twice.

Witnesses whose keys have the same name count as one operator. Appraisers, whose keys'
names end in /appraiser, cosign what they have verified after it was published, and
don't belong into a quorum.`,
		trusts:   `Nothing. It reads one file, and asks no witness whether it is there.`,
		examples: "  affidavit log-policy check log.policy\n",
		exits:    map[int]string{exitGood: "the policy is well-formed, and nothing is to be said against it"},
		minArgs:  1, maxArgs: 1,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			asJSON := jsonFlag(fs)
			return func(c *console, args []string) (int, error) {
				p, err := readLogPolicy(c, args[0])
				if err != nil {
					return 0, err
				}
				l := lint(args[0], p)
				if *asJSON {
					err = c.printJSON(l)
				} else {
					l.print(c)
				}
				if len(l.Warnings) > 0 {
					return exitError, err
				}
				return exitGood, err
			}
		},
	}
}

func readLogPolicy(c *console, name string) (*checkpoint.Policy, error) {
	b, err := c.readPublic(name)
	if err != nil {
		return nil, err
	}
	p, err := checkpoint.ParsePolicy(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// logPolicyJSON is a log policy and what there is to say about it.
type logPolicyJSON struct {
	File      string    `json:"file"`
	Logs      []keyLine `json:"logs"`
	Witnesses []keyLine `json:"witnesses"`
	// Appraisers are witnesses that cosign what they have verified, after it was published.
	Appraisers []keyLine      `json:"appraisers"`
	Quorum     string         `json:"quorum"` // "none" if no witness is asked
	Survives   judge.Survives `json:"survives"`
	Warnings   []warningLine  `json:"warnings"`
}

type keyLine struct {
	Name string `json:"name"`
	VKey string `json:"vkey"`
	Kind string `json:"kind"`
	URL  string `json:"url"`
}

type warningLine struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

func lint(file string, p *checkpoint.Policy) *logPolicyJSON {
	l := &logPolicyJSON{
		File: file, Logs: []keyLine{}, Witnesses: []keyLine{}, Appraisers: []keyLine{}, Quorum: p.Quorum(),
		Survives: judge.SurvivesOf(p), Warnings: []warningLine{},
	}
	for _, g := range p.Logs() {
		l.Logs = append(l.Logs, keyLine{g.Key.Name(), g.Key.String(), g.Key.Kind().String(), g.URL})
	}
	for _, w := range p.Witnesses() {
		list := &l.Witnesses
		if w.Appraiser() {
			list = &l.Appraisers
		}
		*list = append(*list, keyLine{w.Name, w.Key.String(), w.Key.Kind().String(), w.URL})
	}
	for _, w := range p.Lint() {
		l.Warnings = append(l.Warnings, warningLine{w.Code, w.Text})
	}
	return l
}

func (l *logPolicyJSON) print(c *console) {
	w := c.stdout
	switch n := len(l.Warnings); n {
	case 0:
		c.headline(exitGood, "GOOD: the log policy is well-formed, and nothing is to be said against it.")
	case 1:
		c.headline(exitRefused, "The log policy is well-formed, with 1 warning.")
	default:
		c.headline(exitRefused, fmt.Sprintf("The log policy is well-formed, with %d warnings.", n))
	}
	for _, warning := range l.Warnings {
		hang(w, "  - ", clean(warning.Code+": "+warning.Text))
	}
	fmt.Fprintln(w)
	for _, k := range l.Logs {
		hang(w, "  log        ", fmt.Sprintf("%s (%s)", clean(k.Name), k.Kind))
	}
	for _, k := range l.Witnesses {
		hang(w, "  witness    ", fmt.Sprintf("%s (%s)", clean(k.Name), k.Kind))
	}
	for _, k := range l.Appraisers {
		hang(w, "  appraiser  ", fmt.Sprintf("%s (%s): cosigns what it has verified, after publication", clean(k.Name), k.Kind))
	}
	hang(w, "  quorum     ", clean(l.Quorum))
	fmt.Fprintln(w)
	for _, sentence := range l.Survives.Sentences() {
		hang(w, "  ", sentence)
	}
}
