package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

func reappraiseCommand() *command {
	return &command{
		name: "reappraise",
		usage: []string{
			"[--monitor URL] --collateral FILE [--collateral FILE…] [--vendor ID] [--tenant HEX] [--all] [--json]",
			"[--monitor URL] --pcs-url URL [--root FILE] [--vendor ID] [--tenant HEX] [--all] [--json]",
		},
		short: "judge past records by today's collateral, and say what changed",
		about: `Has the monitor judge every past record's platform by today's collateral, and lists those
that it judges otherwise than the collateral of their time did. "Platform vulnerable
then" means that Intel has since published an advisory which affects the platform as it
was, or calls its firmware worse. It doesn't mean that anybody used the vulnerability.

Collateral is for one kind of platform: give one FILE for each, or let --pcs-url fetch
them for all kinds in the log. Records of other kinds are counted, and not judged.`,
		trusts: trustsMonitor + `
Collateral is checked by the monitor, under its root certificate.`,
		examples: `  affidavit reappraise --pcs-url https://api.trustedservices.intel.com
  affidavit reappraise --collateral today.json --vendor https://vendor.example --json
`,
		exits: map[int]string{
			exitGood:    "no record is judged worse",
			exitRefused: "records are judged worse: their platforms were vulnerable then, were revoked since,\nor aren't recognised any more",
		},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			at := monitorFlag(fs)
			t := todayFlags(fs)
			var q monitorapi.ReappraiseQuery
			fs.StringVar(&q.Vendor, "vendor", "", "only records of the vendor with this `ID`")
			fs.StringVar(&q.Tenant, "tenant", "", "only records under this pseudonym, in `HEX`")
			p := periodFlags(fs)
			fs.BoolVar(&q.All, "all", false, "list records that are judged as before, too")
			asJSON := jsonFlag(fs)
			return func(c *console, _ []string) (status int, err error) {
				if !t.given() {
					return 0, usagef("missing flag --collateral or --pcs-url: what is today's data?")
				}
				if q.Since, q.Until, err = p.parse(); err != nil {
					return 0, err
				}
				q.Limit = monitorapi.MaxListed
				if err := q.Normalize(); err != nil {
					return 0, asUsage(err)
				}
				m, err := at.open()
				if err != nil {
					return 0, err
				}
				return reappraise(c, m, q, t, *asJSON)
			}
		},
	}
}

func reappraise(c *console, m *monitorapi.Client, q monitorapi.ReappraiseQuery, t today, asJSON bool) (int, error) {
	ctx, stop := interruptible()
	defer stop()
	request, whole, err := t.request(ctx, c, m)
	if err != nil {
		return 0, err
	}
	var tab *table
	var bad error
	s, err := m.Reappraise(ctx, q, request, func(re *monitorapi.Reappraised) bool {
		if asJSON {
			bad = c.printJSON(&monitorapi.ReappraiseLine{Record: re})
			return bad == nil
		}
		if tab == nil {
			tab = c.table("INDEX", "MADE", "WHAT", "SESSION", "VENDOR", "THEN", "BY TODAY'S DATA", "MEANING")
		}
		r := re.Record
		now := judgement(&re.Now)
		tab.row(r.Index, made(r), r.Role, brief(r.Session), r.Vendor, judgedThen(r), now, re.Change.Meaning())
		return true
	})
	if err := c.endTable(tab, bad, err); err != nil {
		return 0, err
	}
	status, worseRecords, worseSessions := exitGood, uint64(0), uint64(0)
	for _, change := range monitorapi.Changes {
		if change.Worse() {
			worseRecords += s.Records[change]
			worseSessions += s.Sessions[change]
		}
	}
	if worseRecords > 0 {
		status = exitRefused
	}
	if !whole {
		status = worse(status, exitError)
	}
	if asJSON {
		return status, c.printJSON(&monitorapi.ReappraiseLine{Summary: s})
	}
	w := c.stdout
	if worseRecords == 0 {
		c.headline(status, fmt.Sprintf("No record is judged worse by today's data, of %d with evidence of hardware%s.", s.Examined, within(q.Vendor, q.Tenant)))
	} else {
		c.headline(status, fmt.Sprintf("%d of %s with evidence of hardware%s judged worse by today's data, in %s.",
			worseRecords, counted(s.Examined, "record", "records"), within(q.Vendor, q.Tenant), counted(worseSessions, "session", "sessions")))
	}
	for _, change := range monitorapi.Changes {
		if n := s.Records[change]; n > 0 {
			hang(w, "  ", fmt.Sprintf("%d of %d %s (%s).", n, s.Examined, change.Meaning(), counted(s.Sessions[change], "session", "sessions")))
		}
	}
	hang(w, "  ", fmt.Sprintf("Judged for %s, %s of platforms as the evidence shows them.", stamp(s.At), counted(s.Classes, "state", "states")))
	hang(w, "  ", audited(s.State)+".")
	hang(w, "  ", s.Note)
	return status, nil
}
