package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

func searchCommand() *command {
	return &command{
		name: "search",
		usage: []string{
			"[--monitor URL] [--session ID|--tenant HEX|--vendor ID|--release HEX|--platform PPID|…] [--since TIME] [--until TIME] [--json]",
			"… --bundles DIR",
		},
		short: "find records in a log that a monitor follows",
		about: `Prints the records of a log that have all the given values, in the log's order: one line
each, with when it was made as far as witnesses prove that. The monitor must follow the
log. With --bundles it also writes the .affidavit file of each record, for "affidavit
verify" to check without trust in the monitor.

A session is named by its id, or by the id's digest, which is what --json shows.`,
		trusts: trustsMonitor + `
Not for the files of --bundles: what they prove, "affidavit verify" finds out.`,
		examples: `  affidavit search --vendor https://vendor.example --tcb-status OutOfDate --limit 100
  affidavit search --session 0f9a3c5e7d1b2846a0c2e4f688b1d3f5 --bundles evidence
`,
		exits: map[int]string{
			exitGood:       "records were found",
			exitNotGenuine: "there is no such record among those that the monitor has audited",
		},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			at := monitorFlag(fs)
			var q monitorapi.Query
			fs.StringVar(&q.Session, "session", "", "`ID` of a session, or the SHA-256 of it in hexadecimal")
			fs.StringVar(&q.Statement, "statement", "", "`DIGEST` of a statement")
			fs.StringVar(&q.Tenant, "tenant", "", "`HEX` of a customer's pseudonym")
			fs.StringVar(&q.Vendor, "vendor", "", "`ID` of a vendor, a URI")
			fs.StringVar(&q.Release, "release", "", "`HEX` of an image's SHA-256")
			fs.StringVar(&q.FMSPC, "fmspc", "", "`HEX` of a kind of platform")
			fs.StringVar(&q.Platform, "platform", "", "`PPID` of a platform, in hexadecimal")
			fs.StringVar(&q.TCBStatus, "tcb-status", "", "`STATUS` in Intel's words, by the collateral of its time")
			fs.StringVar(&q.Advisory, "advisory", "", "`ID` of a security advisory that was known then; see also \"affidavit recall\"")
			fs.StringVar(&q.Model, "model", "", "`NAME` of a model, or of who provides it")
			fs.StringVar(&q.Role, "role", "", "`WORD` for what the record is: start, final, abandoned, model-run, import, release, withdrawal or vendor-key")
			p := periodFlags(fs)
			fs.Uint64Var(&q.After, "after", 0, "skip the first `N` leaves of the log: to go on, the last index plus one")
			limit := fs.Uint("limit", 0, "print at most `N` records (default all)")
			dir := fs.String("bundles", "", "`DIR` for the .affidavit files of the records")
			asJSON := jsonFlag(fs)
			return func(c *console, _ []string) (status int, err error) {
				if q.Since, q.Until, err = p.parse(); err != nil {
					return 0, err
				}
				if *limit > 1<<30 {
					return 0, usagef("--limit: %d is too many", *limit)
				}
				q.Limit = int(*limit)
				if err := q.Normalize(); err != nil {
					return 0, asUsage(err)
				}
				m, err := at.open()
				if err != nil {
					return 0, err
				}
				if *dir != "" {
					if err := os.MkdirAll(*dir, 0o755); err != nil {
						return 0, fileError(*dir, err)
					}
				}
				return search(c, m, q, *dir, *asJSON)
			}
		},
	}
}

func search(c *console, m *monitorapi.Client, q monitorapi.Query, dir string, asJSON bool) (int, error) {
	ctx, stop := interruptible()
	defer stop()
	var t *table
	found := 0
	for r, err := range m.Records(ctx, q) {
		if err != nil {
			if t != nil {
				t.end()
			}
			return 0, err
		}
		found++
		if dir != "" {
			b, err := m.Bundle(ctx, r.Index)
			if err != nil {
				return 0, fmt.Errorf("record %d: %w", r.Index, err)
			}
			// A file that isn't a bundle would be found out later, by somebody who can't ask again.
			if _, err := bundle.Parse(b); err != nil {
				return 0, fmt.Errorf("record %d: the monitor's answer: %w", r.Index, err)
			}
			if err := writeFile(filepath.Join(dir, fmt.Sprintf("%d.affidavit", r.Index)), b); err != nil {
				return 0, err
			}
		}
		if asJSON {
			if err := c.printJSON(r); err != nil {
				return 0, err
			}
			continue
		}
		if t == nil {
			t = c.table("INDEX", "MADE", "WHAT", "VENDOR", "SESSION", "PLATFORM")
		}
		t.row(r.Index, made(r), r.Role, r.Vendor, brief(r.Session), platformStatus(r))
	}
	if t != nil {
		if err := t.end(); err != nil {
			return 0, err
		}
	}
	if found == 0 {
		c.complain("affidavit search: there is no such record among those that the monitor has audited")
		return exitNotGenuine, nil
	}
	if dir != "" && !asJSON {
		fmt.Fprintf(c.stdout, "\n%s in %s\n", counted(uint64(found), "file", "files"), clean(dir))
	}
	return exitGood, nil
}
