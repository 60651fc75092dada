package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

func vendorCheckCommand() *command {
	return &command{
		name:  "vendor-check",
		usage: []string{"[--monitor URL] --vendor ID [--since TIME] [--until TIME] [--json]"},
		short: "answer the questions of procurement about a vendor, from the log",
		about: `Says what share of a vendor's logged sessions are signed by hardware, from start to end;
in which classes their models ran; how up to date the platforms were; which sessions have
no end; how closely their times are proven; and what enforces retention. Each number
comes with what it is a part of.

It speaks of what was logged. Sessions that the vendor didn't log are not in it: compare
your own list, with "affidavit reconcile".`,
		trusts: trustsMonitor,
		examples: `  affidavit vendor-check --vendor https://vendor.example --since 2026-11-01T00:00:00Z
`,
		exits: map[int]string{
			exitGood:       "the answers were printed; whether they are good is for you to say",
			exitNotGenuine: "the log has no record of this vendor",
		},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			at := monitorFlag(fs)
			var q monitorapi.VendorCheckQuery
			fs.StringVar(&q.Vendor, "vendor", "", "`ID` of the vendor, a URI")
			p := periodFlags(fs)
			asJSON := jsonFlag(fs)
			return func(c *console, _ []string) (status int, err error) {
				if err := require(fs, "vendor"); err != nil {
					return 0, err
				}
				if q.Since, q.Until, err = p.parse(); err != nil {
					return 0, err
				}
				if err := q.Normalize(); err != nil {
					return 0, asUsage(err)
				}
				m, err := at.open()
				if err != nil {
					return 0, err
				}
				ctx, stop := interruptible()
				defer stop()
				v, err := m.VendorCheck(ctx, q)
				if err != nil {
					return 0, err
				}
				status = exitGood
				if v.Records.Of == 0 {
					c.complain("affidavit vendor-check: the log has no record of %s in that time", q.Vendor)
					status = exitNotGenuine
				}
				if *asJSON {
					return status, c.printJSON(v)
				}
				if status == exitGood {
					printVendorCheck(c.stdout, v)
				}
				return status, nil
			}
		},
	}
}

func printVendorCheck(w io.Writer, v *monitorapi.VendorCheck) {
	fmt.Fprintf(w, "%s in %s\n", clean(v.Vendor), audited(v.State))
	title := func(s string) { fmt.Fprintf(w, "\n%s\n", s) }
	line := func(label string, s monitorapi.Share, of string) {
		hang(w, fmt.Sprintf("  %-44s  ", label), share(s)+" "+of)
	}
	list := func(m map[string]monitorapi.Share, of string) {
		if len(m) == 0 {
			hang(w, "  ", "none")
		}
		for _, key := range slices.Sorted(maps.Keys(m)) {
			line(clean(key), m[key], of)
		}
	}

	title("Sessions")
	line("hardware-bound, every record of them", v.HardwareBound, "sessions")
	line("with start and end, both hardware-bound", v.Completed, "sessions")
	line("said to be abandoned", v.Abandoned, "sessions")
	line("started more than a day ago, without an end", v.Unpaired, "starts")
	line("started within a day, without an end so far", v.Open, "starts")

	title("Records")
	line("genuine", v.Records, "records")
	line("imports, which no session is bound to", v.Imports, "records")

	title("Models, by where sessions say that they ran")
	list(v.Models, "models used")
	line("of class tee, with a record of their own", v.ModelRuns, "models of class tee")

	title("Platforms, by Intel's data of their time")
	list(v.TCBStatuses, "records")
	if len(v.Advisories) > 0 {
		list(v.Advisories, "records")
	}
	hang(w, "  ", fmt.Sprintf("on %s; a vulnerable platform is not a breach", counted(v.Platforms, "platform", "platforms")))

	title("Retention, as ends of sessions claim it")
	list(v.Retention, "ends")
	line("enforced technically", v.Technical, "ends")

	i := v.Intervals
	title("How closely witnesses prove when records were made")
	line("proven on both sides", i.Proven, "hardware-bound records")
	line("within a minute", i.Minute, "proven")
	line("within ten minutes", i.TenMinutes, "proven")
	line("within an hour", i.Hour, "proven")
	line("more than an hour", i.Wider, "proven")
	if i.Proven.N > 0 {
		hang(w, "  ", fmt.Sprintf("median %s, 95 in 100 within %s, widest %s", seconds(i.Median), seconds(i.P95), seconds(i.Max)))
	}

	title("Images")
	line("with a logged release", v.Releases, "images that ran")
	line("with a withdrawn release", v.Withdrawn, "images that ran")
}

// share says a number, of how many, and the percentage, rounded down: 999 of 1,000 is not all.
func share(s monitorapi.Share) string {
	if s.Of == 0 {
		return "none of 0, of"
	}
	return fmt.Sprintf("%d of %d (%d.%d %%) of", s.N, s.Of, s.N*100/s.Of, s.N*1000/s.Of%10)
}

func seconds(s float64) string {
	return (time.Duration(s * float64(time.Second))).Round(time.Second).String()
}
