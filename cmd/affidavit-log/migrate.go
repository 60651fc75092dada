package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/cmd/internal/flags"
	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

const migrateUsage = `affidavit-log migrate moves a log to another storage: same entries, same tree, same checkpoint.

  affidavit-log migrate --from posix:DIR --to posix:DIR --log-policy FILE
  affidavit-log migrate --from URL|DIR   --to posix:DIR --log-policy FILE [--take-over]

Stop the log first. Every entry is hashed on the way, the tiles of hashes are computed anew, blobs, the
published checkpoint with its cosignatures and the one that was to be published come along, and what is
then stored is audited, as "affidavit-log check" does. Only after that the log can be started at the new
place, with the same keys and flags but for --storage.

A log never lives twice. Where it was there is then a file "moved", and it can't be started there again.
A frozen log is copied: it stays readable where it is, and is frozen where it goes.

A URL, or a directory in the layout of c2sp.org/tlog-tiles such as a monitor's mirror, has only what was
published, and nothing there can be marked as moved. Unless the log is frozen, --take-over is needed: you
know that it will never be started again where it was. Entries that were answered 202 and never published
are lost then, and a log whose witnesses know more than you have won't start.

After an error, or a kill, give the same command again: it goes on where it was. If the source turns out
to be damaged, "affidavit-log check" says where.

The exit status is 64 for wrong usage, 1 if the log wasn't moved, else 0.
`

func runMigrate(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flags.New("affidavit-log migrate")
	s := f.In("Flags")
	from := s.String("from", "", "`posix:DIR`, http(s)://…, or DIR: where the log is")
	to := s.String("to", "", "`posix:DIR`, where it moves to: nothing is there, or an earlier attempt of the same")
	policyFile := s.String("log-policy", "", "`FILE` that the published checkpoint must satisfy (c2sp.org/tlog-policy)")
	rootFile := s.String("root", "", "`FILE` with the root that the log verifies quotes under, if that isn't Intel's; with --from posix:DIR it is known")
	takeOver := s.Bool("take-over", false, "the log at the URL or in the mirror will never be started again where it was")
	wrong := func(err error) int {
		fmt.Fprintf(stderr, "affidavit-log migrate: %v\nTry --help.\n", err)
		return exitUsage
	}
	fail := func(err error) int {
		fmt.Fprintf(stderr, "affidavit-log migrate: %v\n", err)
		return exitError
	}
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		f.Help(stdout, migrateUsage)
		return 0
	} else if err != nil {
		return wrong(err)
	}
	if f.NArg() > 0 {
		return wrong(fmt.Errorf("unexpected argument %q", f.Arg(0)))
	}
	for name, v := range map[string]string{"from": *from, "to": *to, "log-policy": *policyFile} {
		if v == "" {
			return wrong(fmt.Errorf("--%s is missing", name))
		}
	}
	c := sessionlog.MigrateConfig{TakeOver: *takeOver, Logger: slog.New(slog.NewTextHandler(stderr, nil))}
	var ok bool
	if c.Dir, ok = strings.CutPrefix(*to, "posix:"); !ok || c.Dir == "" {
		return wrong(fmt.Errorf("--to %q: want posix:DIR", *to))
	}
	if dir, ok := strings.CutPrefix(*from, "posix:"); ok {
		c.FromDir = dir
	} else if strings.HasPrefix(*from, "https://") || strings.HasPrefix(*from, "http://") {
		c.FromURL = *from
	} else {
		c.FromTiles = *from
	}
	b, err := os.ReadFile(*policyFile)
	if err != nil {
		return fail(err)
	}
	if c.LogPolicy, err = checkpoint.ParsePolicy(b); err != nil {
		return fail(fmt.Errorf("%s: %w", *policyFile, err))
	}
	c.Root = tdx.IntelRoot()
	if *rootFile != "" {
		if b, err = os.ReadFile(*rootFile); err != nil {
			return fail(err)
		}
		if c.Root, err = tdx.ParseRoot(b); err != nil {
			return fail(fmt.Errorf("%s: %w", *rootFile, err))
		}
	}
	var done func()
	c.Progress, done = progress(stderr, "entries")
	cp, err := sessionlog.Migrate(ctx, c)
	done()
	if err != nil {
		return fail(err)
	}
	if _, err := fmt.Fprintf(stdout, "%s is at %s now, with %d leaves published and the root %x\n", cp.Origin, *to, cp.Size, cp.Root); err != nil {
		return fail(err)
	}
	return 0
}
