// Command affidavit makes, submits, fetches and checks attestation records of
// confidential AI work. It is the tool for vendors, auditors and customers, and
// for their scripts; docs/cli.md is its manual and its contract.
//
// The exit status is the verdict: 0 good, 3 genuine but refused by the appraisal
// policy, 4 not genuine or not logged, 64 wrong usage, 1 anything else.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// Exit statuses. Scripts depend on them; 64 is EX_USAGE of sysexits.h.
const (
	exitGood       = 0
	exitError      = 1
	exitRefused    = 3
	exitNotGenuine = 4
	exitUsage      = 64
)

// groups lists every command for the people who need it. It is a function
// because the help command itself reads it.
func groups() []group {
	return []group{
		{"Auditors and customers", []*command{verifyCommand(), reportCommand(), exportCommand(), inspectCommand(), appraiseCommand(), bundleCommand(), gateCommand(), discloseCommand()}},
		{"With a monitor", []*command{searchCommand(), recallCommand(), reappraiseCommand(), reconcileCommand(), vendorCheckCommand()}},
		{"Vendors", []*command{keygenCommand(), releaseCommand(), signCommand(), submitCommand(), nonceCommand(), importCommand(), recordHookCommand()}},
		{"Anyone", []*command{logPolicyCommand(), loadCommand(), verifyPageCommand(), completionCommand(), versionCommand(), helpCommand()}},
	}
}

type group struct {
	title    string
	commands []*command
}

func commands() (all []*command) {
	for _, g := range groups() {
		all = append(all, g.commands...)
	}
	return all
}

func main() { os.Exit(mainAt(time.Now)) }

// mainAt is main with a clock.
func mainAt(now func() time.Time) int {
	out := bufio.NewWriter(os.Stdout)
	c := &console{
		stdin: os.Stdin, stdout: out, stderr: after{os.Stderr, out}, flush: out.Flush, now: now,
		progress: term.IsTerminal(int(os.Stderr.Fd())),
		// no-color.org: any non-empty value of NO_COLOR switches colour off.
		colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
	}
	status := run(c, os.Args[1:])
	// A verdict that nobody can read isn't one to act on.
	if err := out.Flush(); err != nil {
		fmt.Fprintf(os.Stderr, "affidavit: %v\n", fileError("standard output", err))
		if status != exitUsage {
			status = worse(status, exitError)
		}
	}
	return status
}

// after is a writer to w that first flushes what was written to out, so that a
// terminal shows things in the order in which they were said.
type after struct {
	w   io.Writer
	out *bufio.Writer
}

func (a after) Write(b []byte) (int, error) {
	a.out.Flush() // its error comes again at the end
	return a.w.Write(b)
}

// run finds the command that args name, parses its flags, runs it, and turns
// its error into a message and an exit status.
func run(c *console, args []string) int {
	if len(args) == 0 {
		fmt.Fprint(c.stderr, mainHelp())
		return exitUsage
	}
	if args[0] == "--help" || args[0] == "-h" {
		args[0] = "help"
	}
	if args[0] == "--version" {
		args[0] = "version"
	}
	cmd, args, err := find(args)
	if err != nil {
		c.complain("affidavit: %v\nRun \"affidavit help\" for the list of commands.", err)
		return exitUsage
	}
	status, err := cmd.run(c, args)
	if err == nil {
		return status
	}
	c.complain("affidavit %s: %v", cmd.name, err)
	if !errors.As(err, new(*usageError)) {
		return exitError
	}
	fmt.Fprintf(c.stderr, "Run \"affidavit %s --help\" for usage.\n", cmd.name)
	return exitUsage
}

// find returns the command that the first words of args name, and what follows.
func find(args []string) (*command, []string, error) {
	var names []string
	for _, cmd := range commands() {
		words := strings.Fields(cmd.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == cmd.name {
			return cmd, args[len(words):], nil
		}
		// "affidavit log-policy --help" means the only command of that name.
		if len(words) > 1 && args[0] == words[0] {
			if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
				return nil, nil, fmt.Errorf("unknown command %q: did you mean %q?", args[0]+" "+args[1], cmd.name)
			}
			return cmd, args[1:], nil
		}
		names = append(names, cmd.name)
	}
	if strings.HasPrefix(args[0], "-") {
		return nil, nil, fmt.Errorf("flag %s before a command: write the command first, as in \"affidavit verify %s\"", args[0], args[0])
	}
	for _, name := range names {
		if strings.HasPrefix(name, args[0]) || strings.HasPrefix(args[0], name) || oneEdit(name, args[0]) {
			return nil, nil, fmt.Errorf("unknown command %q: did you mean %q?", args[0], name)
		}
	}
	return nil, nil, fmt.Errorf("unknown command %q", args[0])
}

// oneEdit reports whether a and b differ by one inserted, deleted, changed or
// transposed byte.
func oneEdit(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	a, b = a[i:], b[i:]
	switch len(b) - len(a) {
	case 0:
		return len(a) > 0 && a[1:] == b[1:] || len(a) > 1 && a[0] == b[1] && a[1] == b[0] && a[2:] == b[2:]
	case 1:
		return a == b[1:]
	}
	return false
}

// A console is what a command may touch besides files and the network.
type console struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	flush          func() error // shows what was written to stdout; nil if that isn't buffered
	now            func() time.Time

	// progress is whether stderr is a terminal that a person watches, and
	// colour whether stdout is one that wants colour.
	progress, colour bool
}

// A usageError is the caller's mistake on the command line: exit status 64.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, a ...any) error { return &usageError{fmt.Sprintf(format, a...)} }

// A command is one verb of the tool, with everything that its help page says.
type command struct {
	name     string   // one or two words
	usage    []string // what follows the name, one line for each form
	short    string   // for the list of commands
	about    string   // what it does
	trusts   string   // what its answer rests on
	examples string
	exits    map[int]string // what 0, 3 and 4 mean here; 1 and 64 mean the same everywhere

	// args bounds the number of arguments that aren't flags.
	minArgs, maxArgs int

	// setup declares the flags, and returns what runs once they are parsed. The
	// status counts only if the error is nil.
	setup func(*pflag.FlagSet) func(c *console, args []string) (status int, err error)

	// program, if not empty, is another program that does all of it.
	program string
}

const many = int(^uint(0) >> 1)

// flags returns a new flag set of the command and what runs it.
func (cmd *command) flags() (*pflag.FlagSet, func(*console, []string) (int, error)) {
	fs := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.SortFlags = false
	do := cmd.setup(fs)
	fs.BoolP("help", "h", false, "print this page")
	return fs, do
}

func (cmd *command) run(c *console, args []string) (int, error) {
	if cmd.program != "" {
		exe, err := os.Executable()
		if err != nil {
			return 0, err
		}
		return cmd.runProgram(c, filepath.Dir(exe), args)
	}
	fs, do := cmd.flags()
	given := make(map[string]bool)
	err := fs.ParseAll(args, func(f *pflag.Flag, value string) error {
		// A second value would silently replace the first, and with it, say, the
		// policy that the caller believes to be in force. A list takes all of them.
		if given[f.Name] && f.Value.Type() != "stringArray" {
			return fmt.Errorf("flag --%s is given twice", f.Name)
		}
		given[f.Name] = true
		if value == "" && f.Value.Type() != "bool" {
			return fmt.Errorf("flag --%s has an empty value", f.Name)
		}
		return fs.Set(f.Name, value)
	})
	if help, _ := fs.GetBool("help"); help || errors.Is(err, pflag.ErrHelp) {
		fmt.Fprint(c.stdout, cmd.page())
		return exitGood, nil
	}
	if err != nil {
		return 0, usagef("%v", err)
	}
	switch n := fs.NArg(); {
	case n < cmd.minArgs:
		return 0, usagef("missing argument: usage is \"affidavit %s %s\"", cmd.name, cmd.usage[0])
	case n > cmd.maxArgs && cmd.maxArgs == 0:
		return 0, usagef("unexpected argument %q: %s takes flags only", fs.Arg(0), cmd.name)
	case n > cmd.maxArgs:
		return 0, usagef("unexpected argument %q", fs.Arg(cmd.maxArgs))
	}
	return do(c, fs.Args())
}

// require returns a usage error that names the flags of fs among names that
// have no value.
func require(fs *pflag.FlagSet, names ...string) error {
	var missing []string
	for _, name := range names {
		if !fs.Changed(name) {
			missing = append(missing, "--"+name)
		}
	}
	switch len(missing) {
	case 0:
		return nil
	case 1:
		return usagef("missing flag %s", missing[0])
	}
	return usagef("missing flags %s", strings.Join(missing, ", "))
}

// worse returns the status of two inputs together. An input that couldn't be
// judged at all outranks a refusal, and is outranked by proof of a fake.
func worse(a, b int) int {
	rank := map[int]int{exitGood: 0, exitRefused: 1, exitError: 2, exitNotGenuine: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
