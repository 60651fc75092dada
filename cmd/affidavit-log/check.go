package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/affidavit-log/affidavit/cmd/internal/flags"
	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// exitDamage is the status of a check that found damage.
const exitDamage = 4

// commands are what affidavit-log does instead of running a log.
var commands = map[string]func(ctx context.Context, args []string, stdout, stderr io.Writer) int{
	"check": runCheck, "freeze": runFreeze, "migrate": runMigrate,
}

const checkUsage = `affidavit-log check audits what a log has stored against its published checkpoint.

  affidavit-log check --storage posix:DIR [--log-policy FILE] [--json]
  affidavit-log check --dir DIR           [--log-policy FILE] [--json]

Every entry is read, every tile of hashes and the roots are computed from them and compared with what
is stored, and so are the blobs that collateral leaves name, the published checkpoint and the one that
was to be published. Nothing is written, and no lock is taken: a log that runs is audited as far as it
was integrated when the audit began. Memory doesn't grow with the log.

Each finding is a line: its severity, kind, file, and what it means. Only "damage" and "unread" ask for
anything; what is "harmless", such as what a crash left behind, can stay. Kinds are stable.

The exit status is 0 if nothing is damaged, 4 if something is, 1 if something couldn't be read and
nothing that could is damaged, or there is no log, and 64 for wrong usage.
`

func runCheck(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flags.New("affidavit-log check")
	s := f.In("Flags")
	storage := s.String("storage", "", "`posix:DIR`, the log's storage")
	dir := s.String("dir", "", "`DIR` in the layout of c2sp.org/tlog-tiles instead, such as a monitor's mirror")
	policyFile := s.String("log-policy", "", "`FILE` that the published checkpoint must satisfy (c2sp.org/tlog-policy)")
	asJSON := s.Bool("json", false, "print the report as one JSON object")
	fail := func(err error) int {
		fmt.Fprintf(stderr, "affidavit-log check: %v\n", err)
		return exitError
	}
	wrong := func(err error) int {
		fmt.Fprintf(stderr, "affidavit-log check: %v\nTry --help.\n", err)
		return exitUsage
	}
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		f.Help(stdout, checkUsage)
		return 0
	} else if err != nil {
		return wrong(err)
	}
	if f.NArg() > 0 {
		return wrong(fmt.Errorf("unexpected argument %q", f.Arg(0)))
	}
	if (*storage == "") == (*dir == "") {
		return wrong(errors.New("give either --storage or --dir"))
	}
	c := sessionlog.CheckConfig{Tiles: *dir}
	if *storage != "" {
		var ok bool
		if c.Dir, ok = strings.CutPrefix(*storage, "posix:"); !ok || c.Dir == "" {
			return wrong(fmt.Errorf("--storage %q: want posix:DIR", *storage))
		}
	}
	if *policyFile != "" {
		b, err := os.ReadFile(*policyFile)
		if err != nil {
			return fail(err)
		}
		if c.LogPolicy, err = checkpoint.ParsePolicy(b); err != nil {
			return fail(fmt.Errorf("%s: %w", *policyFile, err))
		}
	}
	var done func()
	c.Progress, done = progress(stderr, "entries audited")
	r, err := sessionlog.Check(ctx, c)
	done()
	if err != nil {
		return fail(err)
	}
	if *asJSON {
		b, err := json.Marshal(r)
		if err != nil {
			return fail(err)
		}
		if _, err := fmt.Fprintf(stdout, "%s\n", b); err != nil {
			return fail(err)
		}
	} else if err := printReport(stdout, r); err != nil {
		return fail(err)
	}
	switch {
	case r.Damage > 0:
		return exitDamage
	case r.Unread > 0:
		return exitError
	}
	return 0
}

func printReport(w io.Writer, r *sessionlog.CheckReport) error {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%-8s %s", f.Severity, f.Kind)
		if f.Name != "" {
			fmt.Fprintf(&b, " %s", f.Name)
		}
		fmt.Fprintf(&b, ": %s\n", f.Text)
	}
	if n := r.Damage + r.Unread + r.Harmless - uint64(len(r.Findings)); n > 0 {
		fmt.Fprintf(&b, "and %d more\n", n)
	}
	fmt.Fprintf(&b, "%s: %d entries published, %d stored; %d bundles, %d tiles and %d blobs audited: ", r.Origin, r.Published, r.Integrated, r.Bundles, r.Tiles, r.Blobs)
	switch {
	case r.Damage > 0:
		fmt.Fprintf(&b, "DAMAGED (%d)", r.Damage)
	case r.Unread > 0:
		fmt.Fprintf(&b, "%d couldn't be read, and the rest is as it should be", r.Unread)
	default:
		b.WriteString("all as it should be")
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// progress returns what shows progress on a terminal, at most some times a second, and what ends it.
func progress(w io.Writer, what string) (show func(done, all uint64), end func()) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, func() {}
	}
	var mu sync.Mutex // guards what follows
	var last time.Time
	show = func(done, all uint64) {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < 200*time.Millisecond {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "\r%d of %d %s\x1b[K", done, all, what)
	}
	return show, func() {
		if !last.IsZero() {
			fmt.Fprint(w, "\r\x1b[K")
		}
	}
}
