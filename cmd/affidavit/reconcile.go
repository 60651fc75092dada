package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

func reconcileCommand() *command {
	return &command{
		name: "reconcile",
		usage: []string{
			"[--monitor URL] --sessions FILE [--tenant-key-file FILE] [--tenant HEX] [--since TIME] [--until TIME] [--json]",
		},
		short: "compare your own list of sessions with a log",
		about: `Compares your own list of the sessions that you had with what was logged: sessions that
the log doesn't have, sessions about which it says something else, and sessions under
your pseudonym that you know nothing of.

FILE is CSV with a first line that names the columns, or JSON lines with members of the
same names: session (the id, or its SHA-256, in hexadecimal), vendor (the vendor's URI),
started (RFC 3339), and optionally sequence and tenant (a pseudonym).

Your pseudonyms follow from your key, which never leaves this command: FILE of
--tenant-key-file has at least 32 bytes in hexadecimal. Without it, and without
--tenant, nobody can tell which other sessions in the log are yours.

The list is sent to the monitor, which compares it and keeps nothing: it should be yours.`,
		trusts: trustsMonitor,
		examples: `  affidavit reconcile --sessions november.csv --tenant-key-file tenant.key \
      --since 2026-11-01T00:00:00Z --until 2026-12-01T00:00:00Z
  affidavit reconcile --sessions november.jsonl --json
`,
		exits: map[int]string{
			exitGood:       "every session of the list is logged as the list has it, and there are no others",
			exitRefused:    "a session is logged otherwise, or there is one that isn't in the list",
			exitNotGenuine: "a session of the list is not logged",
		},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			at := monitorFlag(fs)
			sessions := fs.String("sessions", "", "`FILE` with your list of sessions, CSV or JSON lines")
			keyFile := fs.String("tenant-key-file", "", "`FILE` with your pseudonyms' key, in hexadecimal")
			tenants := fs.StringArray("tenant", nil, "`HEX` of a pseudonym of yours; can be given again")
			origin := fs.String("origin", "", "`ORIGIN` of the log, for your pseudonyms (default what the monitor says)")
			p := periodFlags(fs)
			tolerance := fs.Duration("tolerance", monitorapi.DefaultTolerance*time.Second, "`DURATION` that your clock may be off (default 5m)")
			asJSON := jsonFlag(fs)
			return func(c *console, _ []string) (status int, err error) {
				if err := require(fs, "sessions"); err != nil {
					return 0, err
				}
				r := &monitorapi.ReconcileRequest{Tolerance: int64(*tolerance / time.Second)}
				if r.Tolerance < 1 {
					return 0, usagef("--tolerance: %s is less than a second", *tolerance)
				}
				if r.Since, r.Until, err = p.parse(); err != nil {
					return 0, err
				}
				for _, t := range *tenants {
					h, err := monitorapi.ParseHash(t)
					if err != nil {
						return 0, usagef("--tenant: %v", err)
					}
					r.Tenants = append(r.Tenants, h)
				}
				b, err := c.readPublic(*sessions)
				if err != nil {
					return 0, err
				}
				if r.Rows, err = monitorapi.ParseSessions(b); err != nil {
					return 0, fmt.Errorf("%s: %w", *sessions, err)
				}
				m, err := at.open()
				if err != nil {
					return 0, err
				}
				return reconcile(c, m, r, *keyFile, *origin, *asJSON)
			}
		},
	}
}

func reconcile(c *console, m *monitorapi.Client, r *monitorapi.ReconcileRequest, keyFile, origin string, asJSON bool) (int, error) {
	ctx, stop := interruptible()
	defer stop()
	if keyFile != "" {
		b, err := c.readSecret(keyFile)
		if err != nil {
			return 0, err
		}
		key, err := parseTenantKey(b)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", keyFile, err)
		}
		if origin == "" {
			s, err := m.State(ctx)
			if err != nil {
				return 0, err
			}
			origin = s.Log
		}
		tenants, err := monitorapi.Pseudonyms(r.Rows, key, origin, r.Since, r.Until)
		if err != nil {
			return 0, err
		}
		r.Tenants = append(r.Tenants, tenants...)
	}
	if err := r.Check(); err != nil {
		return 0, asUsage(err)
	}
	var tab *table
	var bad error
	s, err := m.Reconcile(ctx, r, func(re *monitorapi.Reconciled) bool {
		if asJSON {
			bad = c.printJSON(&monitorapi.ReconcileLine{Session: re})
			return bad == nil
		}
		if re.State == monitorapi.StateMatched {
			return true
		}
		if tab == nil {
			tab = c.table("LINE", "SESSION", "STATE", "INDEX", "WHY")
		}
		line, index := "", ""
		if re.Line > 0 {
			line = fmt.Sprint(re.Line)
		}
		if re.Record != nil {
			index = fmt.Sprint(re.Record.Index)
		}
		tab.row(line, brief(re.Session), re.State, index, strings.Join(re.Problems, "; "))
		return true
	})
	if err := c.endTable(tab, bad, err); err != nil {
		return 0, err
	}
	status := exitGood
	if s.Mismatched > 0 || s.Surplus > 0 {
		status = exitRefused
	}
	if s.Missing > 0 {
		status = worse(status, exitNotGenuine)
	}
	if asJSON {
		return status, c.printJSON(&monitorapi.ReconcileLine{Summary: s})
	}
	w := c.stdout
	if status == exitGood {
		c.headline(status, fmt.Sprintf("All %s of your list logged as you have them.", counted(s.Rows, "session", "sessions")))
	} else {
		c.headline(status, "Your list and the log differ.")
	}
	hang(w, "  ", fmt.Sprintf("Of %s in your list: %d matched, %d missing from the log, %d logged otherwise.",
		counted(s.Rows, "session", "sessions"), s.Matched, s.Missing, s.Mismatched))
	if s.Open > 0 {
		hang(w, "  ", fmt.Sprintf("%d of %d matched have no end in the log so far.", s.Open, s.Matched))
	}
	if s.SurplusChecked {
		hang(w, "  ", fmt.Sprintf("Of %s in the log under your pseudonyms, %d are not in your list.", counted(s.Logged, "session", "sessions"), s.Surplus))
	} else {
		hang(w, "  ", "Whether the log has more sessions of yours isn't known: give --tenant-key-file or --tenant.")
	}
	hang(w, "  ", audited(s.State)+".")
	return status, nil
}

// parseTenantKey parses the key of a customer's pseudonyms. The error never holds it.
func parseTenantKey(b []byte) ([]byte, error) {
	key, err := hex.DecodeString(string(bytes.TrimSpace(b)))
	if err != nil {
		return nil, errors.New("not hexadecimal: make a key with \"openssl rand -hex 32\", and keep it for as long as you want to find your sessions")
	}
	if len(key) < 32 {
		return nil, fmt.Errorf("%d bytes, want at least 32 (FORMAT.md, section 9)", len(key))
	}
	return key, nil
}
