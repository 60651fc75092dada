package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/cmd/internal/version"
)

func helpCommand() *command {
	return &command{
		name:  "help",
		usage: []string{"[COMMAND|auditor|vendor|witness]", "--man DIR"},
		short: "explain the tool, one command, or what to do",
		about: `Prints the page of one command, a short manual with examples for one role, or the
list of commands. With --man it writes all of them as manual pages for man(1).`,
		trusts:   `Nothing.`,
		examples: "  affidavit help auditor\n  affidavit help verify\n  affidavit help --man /usr/local/share/man/man1\n",
		exits:    map[int]string{exitGood: "the page was printed, or the pages were written"},
		maxArgs:  2,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			man := fs.String("man", "", "`DIR` for manual pages, one for the tool and one for each command")
			return func(c *console, args []string) (int, error) {
				if *man != "" {
					if len(args) > 0 {
						return 0, usagef("--man and a command don't go together: it writes all pages")
					}
					return exitGood, writeManPages(*man)
				}
				if len(args) == 0 {
					fmt.Fprint(c.stdout, mainHelp())
					return exitGood, nil
				}
				for _, r := range roleManuals {
					if len(args) == 1 && args[0] == r.name {
						fmt.Fprintf(c.stdout, "affidavit for %ss: %s\n%s", r.name, r.short, r.text)
						return exitGood, nil
					}
				}
				cmd, rest, err := find(args)
				if err != nil {
					return 0, usagef("%v", err)
				}
				if len(rest) > 0 {
					return 0, usagef("unexpected argument %q", rest[0])
				}
				fmt.Fprint(c.stdout, cmd.page())
				return exitGood, nil
			}
		},
	}
}

func versionCommand() *command {
	return &command{
		name:     "version",
		usage:    []string{""},
		short:    "print the version of this command",
		about:    `Prints the module version and the commit that this command was built from.`,
		trusts:   `What the Go toolchain wrote into the binary when it was built.`,
		examples: "  affidavit version\n",
		exits:    map[int]string{exitGood: "the version was printed"},
		setup: func(*pflag.FlagSet) func(*console, []string) (int, error) {
			return func(c *console, _ []string) (int, error) {
				fmt.Fprintln(c.stdout, version.Line("affidavit"))
				return exitGood, nil
			}
		},
	}
}

// mainHelp is the page of the tool.
func mainHelp() string {
	var b strings.Builder
	b.WriteString(`affidavit: attestation records of confidential AI work, logged and checkable

Hardware signs what an AI session did, a public log keeps the record, and this
command checks it: offline, without trust in the vendor or the log.

Usage: affidavit COMMAND [FLAGS] [ARGUMENTS]

`)
	for _, g := range groups() {
		fmt.Fprintf(&b, "%s:\n", g.title)
		for _, cmd := range g.commands {
			fmt.Fprintf(&b, "  %-18s %s\n", cmd.name, cmd.short)
		}
		b.WriteString("\n")
	}
	b.WriteString("Short manuals, with examples:\n")
	for _, r := range roleManuals {
		fmt.Fprintf(&b, "  %-24s %s\n", "affidavit help "+r.name, r.short)
	}
	b.WriteString(`
Examples:
  affidavit verify --log-policy log.policy --appraisal-policy ours.yaml session.affidavit
  affidavit inspect session.affidavit

Exit status:
  0   good
  1   anything else, such as a file that can't be read
  3   genuine, but refused by the appraisal policy
  4   not genuine, or not logged
  64  wrong usage
Over several inputs the worst counts: 4, then 1, then 3.

Two policies, never mixed up: the log policy says whose signatures make a record
logged; the appraisal policy says which records are good enough for you.
Private keys and tokens are read from files, never from flags.
A file named "-" is the standard input.
"affidavit help COMMAND" explains a command; --json on most of them is for scripts.
`)
	return b.String()
}

// page is the command's help page.
func (cmd *command) page() string {
	var b strings.Builder
	fmt.Fprintf(&b, "affidavit %s: %s\n\n", cmd.name, cmd.short)
	for i, u := range cmd.usage {
		lead := "Usage: affidavit " + cmd.name + " "
		if i > 0 {
			lead = "       " + lead[len("Usage: "):]
		}
		hang(&b, lead, u)
	}
	fmt.Fprintf(&b, "\n%s\n\nWhat it trusts:\n%s\n", strings.TrimSpace(cmd.about), indent(cmd.trusts))
	fs, _ := cmd.flags()
	b.WriteString("\nFlags:\n")
	fs.VisitAll(func(f *pflag.Flag) {
		value, text := flagText(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		hang(&b, fmt.Sprintf("  %-26s  ", strings.TrimSpace(name+" "+value)), text)
	})
	fmt.Fprintf(&b, "\nExamples:\n%s", cmd.examples)
	b.WriteString("\nExit status:\n")
	exits := cmd.allExits()
	for _, code := range slices.Sorted(maps.Keys(exits)) {
		text := strings.ReplaceAll(exits[code], "\n", "\n      ")
		fmt.Fprintf(&b, "  %-3d %s\n", code, text)
	}
	return b.String()
}

// allExits returns what all exit statuses of the command mean.
func (cmd *command) allExits() map[int]string {
	exits := map[int]string{
		exitUsage: "wrong usage: an unknown or missing flag, too many or too few arguments",
		exitError: "anything else, such as a file that can't be read",
	}
	maps.Copy(exits, cmd.exits)
	return exits
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ")
}
