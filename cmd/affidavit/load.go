package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/pflag"
)

func loadCommand() *command {
	return &command{
		name:  "load",
		usage: []string{"setup --dir DIR [--vendors N]", "intel --dir DIR --listen ADDR", "run --dir DIR --log URL [--clients N | --rate N] [--duration TIME] [--pid PID]", "bench [--bin DIR] [--json FILE]"},
		short: "put a log of yours under load, and measure it",
		about: `Runs the program affidavit-load, which lies beside this one, with the same
arguments: this program has no code that makes evidence up. setup makes a root of
made-up hardware, vendors and their tokens for a log that is only for tests; intel
serves the made-up Intel's collateral to that log; run submits records, as fast as
the answers come or at a rate, checks every answer, and prints rate, latency, and
what the operating system says that the log used; bench starts a log and witnesses of
its own and measures all that docs/performance.md states.

"affidavit load" alone prints a whole example, "affidavit load run --help" the flags.`,
		trusts: "Nothing: the records are made up, under a root that is made up too.",
		examples: `  affidavit load setup --dir load
  affidavit load run --dir load --log http://127.0.0.1:8080 --rate 1000 --duration 60s
`,
		exits: map[int]string{
			exitGood:    "every record was answered as it must be",
			exitRefused: "the log gave a wrong answer, such as one index for two records",
		},
		maxArgs: many,
		setup: func(*pflag.FlagSet) func(*console, []string) (int, error) {
			return func(*console, []string) (int, error) { return exitError, nil } // program runs instead
		},
		program: "affidavit-load",
	}
}

// runProgram runs another program of this project with the arguments args. It is looked for beside this one, and nowhere
// else: a program of that name that came from another place isn't ours.
func (cmd *command) runProgram(c *console, dir string, args []string) (int, error) {
	path, err := exec.LookPath(filepath.Join(dir, cmd.program))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, exec.ErrNotFound) {
		if slices.Contains(args, "--help") || slices.Contains(args, "-h") {
			fmt.Fprint(c.stdout, cmd.page())
			return exitGood, nil
		}
		return 0, fmt.Errorf("%s is not in %s, beside this program: \"make build\" puts both into one directory", cmd.program, dir)
	}
	if err != nil {
		return 0, err
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	p := exec.Command(path, args...)
	p.Stdin, p.Stdout, p.Stderr = c.stdin, c.stdout, c.stderr
	if c.progress { // it looks for itself whether that is a terminal
		p.Stdout, p.Stderr = os.Stdout, os.Stderr
	}
	err = p.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode(), nil
	}
	return exitGood, err
}
