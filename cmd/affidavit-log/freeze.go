package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	sessionlog "github.com/affidavit-log/affidavit/log"
)

const freezeUsage = `affidavit-log freeze ends a log, for good.

  affidavit-log freeze THE FLAGS THAT THE LOG RUNS WITH

Stop the log, and give the same flags as its service does, after the word "freeze". A last time leaf is
logged, so that every record has a bound of its time in the log itself; all that is in the log is
published, with fresh cosignatures by the witnesses, and with those of the appraisers, which are waited
for at most two minutes; and the log is marked as frozen. Only then it says so, and exits with 0. After
any error the command can be given again, also to renew the cosignatures of a frozen log.

A frozen log is started with the same flags as before (--key can be left out: keep the keys offline, or
destroy them). It serves what it has, answers new submissions 410, and shows a signed statement that it
has ended at /frozen, so that monitors don't take it for dead. No flag undoes this: to go on, begin the
next log.

The exit status is 64 for wrong usage, 1 if the log isn't frozen, or it isn't known.
`

// runFreeze ends the log that the flags are of.
func runFreeze(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if slices.Contains(args, "--help") {
		fmt.Fprint(stdout, freezeUsage)
		return 0
	}
	return with(args, stdout, stderr, func(d *daemon) error {
		if err := d.prepare(ctx); err != nil {
			return err
		}
		cp, err := sessionlog.Freeze(ctx, *d.cfg)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(stdout, "%s is frozen with %d leaves and the root %x\n", cp.Origin, cp.Size, cp.Root)
		return err
	})
}

// frozen reports whether the log that is to be opened is frozen, and so needs no keys.
func (o *options) frozen() bool {
	dir, ok := strings.CutPrefix(o.storage, "posix:")
	if !ok {
		return false
	}
	frozen, err := sessionlog.Frozen(dir)
	return frozen && err == nil
}
