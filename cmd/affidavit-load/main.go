// Command affidavit-load puts a log of one's own under load, with records of made-up hardware, and measures it. "affidavit
// load" runs it if it lies beside that command, which itself has no code for making evidence up.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/cmd/internal/version"
)

const usage = `affidavit-load puts a log of yours under load, with records of made-up hardware.

  affidavit load setup --dir DIR [--vendors N]        make a root, vendors and their tokens
  affidavit load intel --dir DIR --listen ADDR        serve the made-up Intel's collateral
  affidavit load run   --dir DIR --log URL [...]      submit records, and print what came of them
  affidavit load bench --bin DIR [...]                measure everything that docs/performance.md states

A log that is to take such records is a test's, and has the made-up root:

  affidavit load setup --dir load
  affidavit load intel --dir load --listen 127.0.0.1:8090 &
  affidavit-log --init ... --root load/root.pem --vendors load/vendors.yaml --pcs-url http://127.0.0.1:8090 &
  affidavit load run --dir load --log http://127.0.0.1:8080 --duration 60s --pid PID-OF-THE-LOG

Every answer is checked: a record's index is its own, a duplicate gets the first one's, an
invalid record is refused. The exit status is 3 if one wasn't so, 64 for wrong usage, 1 for
anything else that failed, else 0. "affidavit load COMMAND --help" lists the flags.
`

// Exit statuses.
const (
	exitError = 1
	exitWrong = 3 // the log did what it must not
	exitUsage = 64
)

// A usageError is the user's.
type usageError struct{ error }

// errWrong says that the log gave wrong answers, which were printed.
var errWrong = errors.New("the log gave wrong answers, see above")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	commands := map[string]func(context.Context, *pflag.FlagSet, []string, io.Writer, io.Writer) error{
		"setup": setup, "intel": intel, "run": submit, "bench": bench,
	}
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	switch args[0] {
	case "help", "--help", "-h":
		fmt.Fprint(stdout, usage)
		return 0
	case "--version":
		fmt.Fprintln(stdout, version.Line("affidavit-load"))
		return 0
	}
	f := commands[args[0]]
	if f == nil {
		fmt.Fprintf(stderr, "affidavit-load: no command %q\n\n%s", args[0], usage)
		return exitUsage
	}
	fs := pflag.NewFlagSet("affidavit-load "+args[0], pflag.ContinueOnError)
	fs.SortFlags = false
	fs.SetOutput(io.Discard)
	err := f(ctx, fs, args[1:], stdout, stderr)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(stdout, "Flags of affidavit load %s:\n%s", args[0], fs.FlagUsagesWrapped(100))
		return 0
	}
	fmt.Fprintf(stderr, "affidavit-load %s: %v\n", args[0], err)
	if errors.As(err, new(usageError)) {
		fmt.Fprintf(stderr, "Run \"affidavit load %s --help\" for the flags.\n", args[0])
		return exitUsage
	}
	if errors.Is(err, errWrong) {
		return exitWrong
	}
	return exitError
}

// parse parses the arguments of a command that takes flags only, of which some are required.
func parse(fs *pflag.FlagSet, args []string, required ...string) error {
	if err := fs.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return err
	} else if err != nil {
		return usageError{err}
	}
	if fs.NArg() > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	for _, name := range required {
		if fs.Lookup(name).Value.String() == "" {
			return usageError{fmt.Errorf("--%s is required", name)}
		}
	}
	return nil
}
