package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// A role is somebody who uses the tool, with a short manual.
type role struct{ name, short, text string }

// roleManuals are the manuals of "affidavit help ROLE". Lines that begin with two spaces and
// "affidavit" are commands, which a test holds against their flags.
var roleManuals = []role{
	{"auditor", "check evidence, and hand it on", `
You have been given .affidavit files, and want to know what they prove. You need three
things, none of them from whoever gave you the files:

1. The log policy: the log's keys, and the witnesses that you trust to notice if it
   lies. See how many of them may lie before it proves nothing:

  affidavit log-policy check log.policy

2. The appraisal policy: which code you expect to have run. Ask for the measurements,
   and it says how to pin them:

  affidavit verify --log-policy log.policy session.affidavit

3. Nothing else. No network, no account, no trust in the vendor or the log:

  affidavit verify --log-policy log.policy --appraisal-policy ours.yaml session.affidavit

The exit status is the verdict: 0 good, 3 genuine but refused by your policy, 4 not
genuine or not logged. What is only claimed is listed under who claims it.

A report for people, and events for your SIEM or GRC system:

  affidavit report --log-policy log.policy --appraisal-policy ours.yaml --html report.html \
      session.affidavit
  affidavit export --log-policy log.policy --appraisal-policy ours.yaml --format oscal --out \
      results.json sessions/

What no single file can show, a monitor of the whole log can: second ends of a session,
withdrawn releases, platforms that have become vulnerable. With one running:

  affidavit search --vendor https://vendor.example --since 2026-11-01T00:00:00Z
  affidavit recall --advisory INTEL-SA-01234
  affidavit export --follow --monitor http://127.0.0.1:8474 --out events.ndjson --cursor cursor

Before you send code to a vendor, have the gate check the session's start:

  affidavit gate --upstream https://agent.vendor.example --bundle start.affidavit \
      --log-policy log.policy --appraisal-policy ours.yaml
`},
	{"vendor", "log what your enclaves do", `
You run AI work in Intel TDX trust domains, and want your customers to be able to check
it. Once:

1. Make a release key, and keep it where you keep such keys. Its public half goes to your
   customers, and to the log's operator:

  affidavit keygen --type release --name https://vendor.example --out release.key > release.pub

2. Log the key, and a release for each image that you run:

  affidavit sign --key release.key --out key.entry --vendor-key --vendor https://vendor.example
  affidavit submit --log https://log.example.org/2026 --token-file token --log-policy \
      log.policy key.entry
  affidavit release --key release.key --log https://log.example.org/2026 --token-file token \
      --out release.entry --statement release.json

For each session, affidavit-recorder inside the trust domain logs its start before the
customer's first byte arrives, keeps its actions, and logs its end. An agent reports
what it does through a hook:

  affidavit record hook --agent claude-code --install

Hand the customer the session's .affidavit file, and see first what it will see:

  affidavit bundle --log https://log.example.org/2026 --log-policy log.policy --out \
      session.affidavit 73951
  affidavit verify --log-policy log.policy --appraisal-policy theirs.yaml session.affidavit

A single action can be shown without the others:

  affidavit disclose --action 3 --out action-3.json session.private
`},
	{"witness", "keep logs from forking", `
A witness cosigns a log's checkpoints if each continues the one before, and so keeps the
log from showing different people different histories. It sees no records, and needs a
small machine with a durable disk.

1. Make two keys of one name:

  affidavit keygen --type witness --name witness.example/w1 --out w1.key
  affidavit keygen --type witness-ml-dsa --name witness.example/w1 --out w1-ml-dsa.key

2. Run the witness, with --init the first time only:

  affidavit-witness --name witness.example/w1 --key w1.key --key w1-ml-dsa.key \
      --state w1.db --init --log-list logs.txt --listen :8080 --metrics-listen 127.0.0.1:8081

3. Give the public halves, which keygen printed, to whoever writes log policies.

Never run two witnesses with the same keys, and never an old copy of the state without
--recover: whoever makes a witness forget what it cosigned can fork a log. What a log
policy makes of you, "affidavit log-policy check" says:

  affidavit log-policy check log.policy
`},
}

// manPages returns all manual pages by file name, made of what help prints.
func manPages() map[string]string {
	pages := make(map[string]string)
	var b strings.Builder
	manHead(&b, "affidavit", "attestation records of confidential AI work, logged and checkable")
	_, text, _ := strings.Cut(mainHelp(), "\n\n")
	manText(&b, "DESCRIPTION", text)
	for _, r := range roleManuals {
		manText(&b, "FOR "+strings.ToUpper(r.name)+"S", r.text)
	}
	var also []string
	for _, cmd := range commands() {
		also = append(also, manName(cmd))
	}
	fmt.Fprintf(&b, ".SH SEE ALSO\n")
	for i, name := range also {
		end := ","
		if i == len(also)-1 {
			end = ""
		}
		fmt.Fprintf(&b, ".BR %s (1)%s\n", roff(name), end)
	}
	pages["affidavit.1"] = b.String()
	for _, cmd := range commands() {
		pages[manName(cmd)+".1"] = cmd.manPage()
	}
	return pages
}

func manName(cmd *command) string { return "affidavit-" + strings.ReplaceAll(cmd.name, " ", "-") }

// manPage is the command's manual page, in the man macros (man(7)).
func (cmd *command) manPage() string {
	var b strings.Builder
	manHead(&b, manName(cmd), cmd.short)
	b.WriteString(".SH SYNOPSIS\n")
	for i, u := range cmd.usage {
		if i > 0 {
			b.WriteString(".br\n")
		}
		fmt.Fprintf(&b, ".B affidavit %s\n%s\n", roff(cmd.name), roff(u))
	}
	manText(&b, "DESCRIPTION", cmd.about)
	manText(&b, "WHAT IT TRUSTS", cmd.trusts)
	b.WriteString(".SH OPTIONS\n")
	fs, _ := cmd.flags()
	fs.VisitAll(func(f *pflag.Flag) {
		value, text := flagText(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		fmt.Fprintf(&b, ".TP\n.BI \"%s\" \" %s\"\n%s\n", roff(name), roff(value), roff(text))
	})
	manText(&b, "EXAMPLES", cmd.examples)
	b.WriteString(".SH EXIT STATUS\n")
	exits := cmd.allExits()
	for _, code := range slices.Sorted(maps.Keys(exits)) {
		fmt.Fprintf(&b, ".TP\n.B %d\n%s\n", code, roff(strings.ReplaceAll(exits[code], "\n", " ")))
	}
	b.WriteString(".SH SEE ALSO\n.BR affidavit (1)\n")
	return b.String()
}

func manHead(b *strings.Builder, name, short string) {
	fmt.Fprintf(b, ".TH %s 1 \"\" \"affidavit\" \"Affidavit\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(name)), roff(name), roff(short))
}

// manText appends a section whose lines are kept as they are: our texts are wrapped, and
// their indentation means something.
func manText(b *strings.Builder, title, text string) {
	fmt.Fprintf(b, ".SH %s\n.nf\n", title)
	for line := range strings.Lines(strings.Trim(text, "\n")) {
		b.WriteString(roff(strings.TrimRight(line, "\n")) + "\n")
	}
	b.WriteString(".fi\n")
}

// roff escapes a line of text: backslashes, hyphens that are to be typed, and what would
// be a request at its beginning (groff(7)).
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// writeManPages writes all pages to a directory.
func writeManPages(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range manPages() {
		if err := writeFile(filepath.Join(dir, name), []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// flagText returns a flag's value, "" for a switch, and what it does.
func flagText(f *pflag.Flag) (value, text string) {
	value, text = pflag.UnquoteUsage(f)
	if f.Value.Type() == "bool" {
		value = ""
	}
	return value, text
}
