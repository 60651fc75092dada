package main

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

func recallCommand() *command {
	return &command{
		name: "recall",
		usage: []string{
			"[--monitor URL] --advisory ID|--fmspc HEX|--release HEX|--platform PPID [--vendor ID] [--tenant HEX] [--json]",
			"[--monitor URL] --advisory ID --collateral FILE|--pcs-url URL [--json]",
		},
		short: "say which sessions a vulnerability, an image or a platform touches",
		about: `Lists the sessions that ran on platforms which a security advisory affects, on a kind of
platform, on one platform, or in an image; and counts them beside how many there are.

When a session was logged, an advisory may not have been known. Give today's collateral
with --collateral or --pcs-url, and records are judged by it too, as "affidavit
reappraise" does.

A vulnerable platform is not a breach: that a session is touched says that the platform
had the vulnerability, and nothing about whether anybody used it.`,
		trusts: trustsMonitor + `
Collateral is checked by the monitor, under its root certificate.`,
		examples: `  affidavit recall --advisory INTEL-SA-00960 --pcs-url https://api.trustedservices.intel.com
  affidavit recall --release 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --json
`,
		exits: map[int]string{
			exitGood:    "no record is touched",
			exitRefused: "records are touched",
		},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			at := monitorFlag(fs)
			var q monitorapi.RecallQuery
			fs.StringVar(&q.Advisory, "advisory", "", "`ID` of a security advisory, such as INTEL-SA-00960")
			fs.StringVar(&q.FMSPC, "fmspc", "", "`HEX` of a kind of platform")
			fs.StringVar(&q.Release, "release", "", "`HEX` of an image's SHA-256")
			fs.StringVar(&q.Platform, "platform", "", "`PPID` of a platform, in hexadecimal")
			fs.StringVar(&q.Vendor, "vendor", "", "only sessions of the vendor with this `ID`")
			fs.StringVar(&q.Tenant, "tenant", "", "only sessions under this pseudonym, in `HEX`")
			p := periodFlags(fs)
			t := todayFlags(fs)
			asJSON := jsonFlag(fs)
			return func(c *console, _ []string) (status int, err error) {
				if q.Since, q.Until, err = p.parse(); err != nil {
					return 0, err
				}
				q.Limit = monitorapi.MaxListed
				if err := q.Normalize(); err != nil {
					return 0, asUsage(err)
				}
				if t.given() && q.Advisory == "" {
					return 0, usagef("--collateral and --pcs-url go with --advisory: kinds of platforms and images don't change")
				}
				m, err := at.open()
				if err != nil {
					return 0, err
				}
				return recall(c, m, q, t, *asJSON)
			}
		},
	}
}

func recall(c *console, m *monitorapi.Client, q monitorapi.RecallQuery, t today, asJSON bool) (int, error) {
	ctx, stop := interruptible()
	defer stop()
	var request *monitorapi.ReappraiseRequest
	status := exitGood
	if t.given() {
		var whole bool
		var err error
		if request, whole, err = t.request(ctx, c, m); err != nil {
			return 0, err
		}
		if !whole {
			status = exitError
		}
	}
	var tab *table
	var bad error
	s, err := m.Recall(ctx, q, request, func(ts *monitorapi.TouchedSession) bool {
		if asJSON {
			bad = c.printJSON(&monitorapi.RecallLine{Touched: ts})
			return bad == nil
		}
		if tab == nil {
			head := []any{"SESSION", "RECORDS", "FIRST", "MADE", "VENDOR", "PLATFORM THEN"}
			if request != nil {
				head = append(head, "BY TODAY'S DATA")
			}
			tab = c.table(head...)
		}
		row := []any{brief(ts.Session), ts.Records, ts.First.Index, made(ts.First), ts.First.Vendor, judgedThen(ts.First)}
		if ts.Today != nil {
			row = append(row, judgement(ts.Today))
		}
		tab.row(row...)
		return true
	})
	if err := c.endTable(tab, bad, err); err != nil {
		return 0, err
	}
	if s.Records > 0 {
		status = worse(status, exitRefused)
	}
	if asJSON {
		return status, c.printJSON(&monitorapi.RecallLine{Summary: s})
	}
	w := c.stdout
	if s.Records == 0 {
		c.headline(status, fmt.Sprintf("No session is touched by %s.", recallSubject(q)))
	} else {
		c.headline(status, fmt.Sprintf("%s touched by %s.", areTouched(s.Sessions), recallSubject(q)))
	}
	hang(w, "  ", fmt.Sprintf("%d of %s with evidence of hardware%s.", s.Records, counted(s.Examined, "genuine record", "genuine records"), within(q.Vendor, q.Tenant)))
	if s.WithoutSession > 0 {
		hang(w, "  ", fmt.Sprintf("%d of these belong to no single session, such as imports.", s.WithoutSession))
	}
	if s.Today && s.NotCovered > 0 {
		hang(w, "  ", fmt.Sprintf("%s on platforms for which there was no collateral; they were judged by that of their time alone.", areMade(s.NotCovered)))
	}
	if q.Advisory != "" && !s.Today {
		hang(w, "  ", "Judged by the collateral of their time: an advisory that was published later shows with --collateral or --pcs-url only.")
	}
	hang(w, "  ", audited(s.State)+".")
	hang(w, "  ", s.Note)
	return status, nil
}

func areTouched(n uint64) string {
	if n == 1 {
		return "1 session is"
	}
	return fmt.Sprintf("%d sessions are", n)
}

func areMade(n uint64) string {
	if n == 1 {
		return "1 record was made"
	}
	return fmt.Sprintf("%d records were made", n)
}

func recallSubject(q monitorapi.RecallQuery) string {
	var parts []string
	for _, p := range []struct{ what, value string }{
		{"advisory ", q.Advisory}, {"FMSPC ", q.FMSPC}, {"image ", q.Release}, {"platform ", q.Platform},
	} {
		if p.value != "" {
			parts = append(parts, p.what+clean(p.value))
		}
	}
	return strings.Join(parts, " and ")
}

func within(vendor, tenant string) string {
	text := ""
	if vendor != "" {
		text += " of " + clean(vendor)
	}
	if tenant != "" {
		text += " under the pseudonym " + clean(tenant)
	}
	return text
}

// judgedThen says how a platform was judged by the collateral of its time.
func judgedThen(r *monitorapi.Record) string {
	return strings.Join(append([]string{r.TCBStatus}, r.Advisories...), " ")
}

func judgement(j *monitorapi.Judgement) string {
	if !j.Genuine {
		return strings.TrimSpace(j.TCBStatus + " " + j.Reason)
	}
	return strings.Join(append([]string{j.TCBStatus}, j.Advisories...), " ")
}
