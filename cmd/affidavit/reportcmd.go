package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/client/report"
	"github.com/affidavit-log/affidavit/cmd/internal/version"
)

func reportCommand() *command {
	return &command{
		name: "report",
		usage: []string{
			"--log-policy FILE --appraisal-policy FILE [--root FILE] --html FILE|--pdf FILE|--json FILE|DIR...",
			"--monitor URL [--since TIME] [--until TIME] [--vendor ID] [--tenant HEX] --html FILE|--pdf FILE|--json",
		},
		short: "write a report for people who know no cryptography",
		about: `Checks files as "affidavit verify" does, and writes a report for a security officer and
an auditor: what is proven and by whom, what is only claimed, what is unknown, what the
result rests on, and how to repeat the check.

One file gives a report on its record, also if it is refused or proves nothing: then the
first lines say so. Several files, or a directory with .affidavit and .tlog-proof files,
give a report on all of them, what isn't good first.

The HTML page needs nothing else: no script, no font, no network. A PDF has the files
attached, up to 16 MiB of them. The same files, policies and --date give the same report,
byte for byte.

With --monitor the records of a period are those that a monitor has verified, and their
verdicts are the monitor's, which the report says. To trust no monitor, let "affidavit
search --bundles" fetch the files, and make the report from these.`,
		trusts: `As "affidavit verify": the log policy's keys, the root certificate, and the appraisal
policy's measurements or release keys. With --monitor, the monitor.`,
		examples: `  affidavit report --log-policy log.policy --appraisal-policy ours.yaml \
      --html report.html session.affidavit
  affidavit report --log-policy log.policy --appraisal-policy ours.yaml --pdf nov.pdf sessions/
  affidavit report --monitor http://127.0.0.1:8474 --since 2026-11-01T00:00:00Z --html november.html
`,
		exits: map[int]string{
			exitGood:       "every record is logged, genuine, and allowed by the appraisal policy",
			exitRefused:    "a record is logged and genuine, but refused by the appraisal policy;\nthe report is written, and says so",
			exitNotGenuine: "a file is not genuine, not logged, damaged, or not such a file at all;\nthe report is written, and says so",
		},
		maxArgs: many,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			trust := trustFlags(fs)
			var j reportJob
			fs.StringVar(&j.html, "html", "", "`FILE` to write, one page of HTML")
			fs.StringVar(&j.pdf, "pdf", "", "`FILE` to write, a PDF")
			date := fs.String("date", "", "`TIME` of the report (default now)")
			monitor := fs.String("monitor", "", "`URL` of a monitor whose word to take, in place of files")
			tokenFile := monitorTokenFlag(fs)
			var q monitorapi.Query
			p := periodFlags(fs)
			fs.StringVar(&q.Vendor, "vendor", "", "with --monitor: only records of the vendor with this `ID`")
			fs.StringVar(&q.Tenant, "tenant", "", "with --monitor: only records for the customer with this pseudonym, `HEX`")
			j.asJSON = jsonFlag(fs)
			return func(c *console, args []string) (_ int, err error) {
				j.c = c
				if j.html == "" && j.pdf == "" && !*j.asJSON {
					return 0, usagef("missing flag --html, --pdf or --json: where to?")
				}
				if j.html == "-" && (j.pdf == "-" || *j.asJSON) || j.pdf == "-" && *j.asJSON {
					return 0, usagef("two reports to the standard output")
				}
				j.meta.Tool, j.meta.Date = version.Line("affidavit"), c.now().UTC()
				if *date != "" {
					if j.meta.Date, err = parseTime(*date); err != nil {
						return 0, usagef("--date: %v", err)
					}
				}
				if q.Since, q.Until, err = p.parse(); err != nil {
					return 0, err
				}
				if *monitor != "" {
					for _, name := range []string{"log-policy", "appraisal-policy", "root", "collateral", "allow-quorum-none"} {
						if fs.Changed(name) {
							return 0, usagef("--monitor and --%s: a monitor judges by its own; for yours, fetch the files with \"affidavit search --bundles\"", name)
						}
					}
					if len(args) > 0 {
						return 0, usagef("--monitor and files: which ones?")
					}
					if err := asUsage(q.Normalize()); err != nil {
						return 0, err
					}
					return j.monitor(*monitor, *tokenFile, q)
				}
				for _, name := range []string{"since", "until", "vendor", "tenant", "monitor-token-file"} {
					if fs.Changed(name) {
						return 0, usagef("--%s goes with --monitor only", name)
					}
				}
				names, many, err := filesIn(args)
				if err != nil {
					return 0, err
				}
				if len(names) == 0 {
					return 0, usagef("missing argument: which files?")
				}
				if j.v, err = trust.verification(c, fs, names); err != nil {
					return 0, err
				}
				j.meta.LogPolicy, j.meta.Appraisal, j.meta.Root = j.v.logPolicy, j.v.appraisal, j.v.root
				fs.Visit(func(f *pflag.Flag) {
					switch f.Name {
					case "log-policy", "appraisal-policy", "root", "collateral":
						j.meta.Args = append(j.meta.Args, "--"+f.Name, f.Value.String())
					case "allow-quorum-none":
						j.meta.Args = append(j.meta.Args, "--"+f.Name)
					}
				})
				if many {
					return j.period(names)
				}
				return j.one(names[0])
			}
		},
	}
}

// filesIn returns the files that args name, those in directories included, and whether they make a report on many, which
// a directory does however few are in it.
func filesIn(args []string) (names []string, many bool, err error) {
	for _, arg := range args {
		info, err := os.Stat(arg)
		if err != nil || !info.IsDir() {
			names = append(names, arg) // what can't be read is said later
			continue
		}
		many = true
		entries, err := os.ReadDir(arg) // sorted
		if err != nil {
			return nil, false, fileError(arg, err)
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); ext == ".affidavit" || ext == ".tlog-proof" {
				names = append(names, filepath.Join(arg, e.Name()))
			}
		}
	}
	return names, many || len(names) > 1, nil
}

// A reportJob is one report on its way.
type reportJob struct {
	c         *console
	v         *verification
	meta      report.Meta
	html, pdf string
	asJSON    *bool
}

// maxAttached is the size in bytes of the files that a PDF has attached. More would make it a burden to send.
const maxAttached = 16 << 20

// one reports on one file.
func (j *reportJob) one(name string) (int, error) {
	b, err := j.c.read(name)
	if err != nil {
		return 0, err
	}
	j.meta.Files = []report.File{{Name: name, Data: b, Size: int64(len(b)), SHA: sha256.Sum256(b)}}
	a := j.v.judge(name, b)
	if a.Finding == nil {
		return a.status(), j.write(report.Unproven(a.NotProven, j.meta))
	}
	return a.status(), j.write(report.Record(a.Finding, j.meta))
}

// period reports on many files, of which one is in memory at a time, and those to attach.
func (j *reportJob) period(names []string) (int, error) {
	status, attached := exitGood, 0
	p := newProgress(j.c, "verified", len(names))
	sessions := func(yield func(*report.Session, error) bool) {
		for _, name := range names {
			s := &report.Session{Name: name}
			b, err := j.c.read(name)
			if err != nil {
				j.c.complain("affidavit report: %v", err)
				s.Outcome, s.Reason = report.Unread, err.Error()
				status = worse(status, exitError)
			} else {
				f := report.File{Name: name, Size: int64(len(b)), SHA: sha256.Sum256(b)}
				if attached += len(b); j.pdf != "" && attached <= maxAttached {
					f.Data = b
				}
				j.meta.Files = append(j.meta.Files, f)
				a := j.v.judge(name, b)
				if a.Finding != nil {
					s = report.SessionOf(name, a.Finding)
				} else {
					s = report.UnprovenSession(name, a.NotProven)
				}
				status = worse(status, a.status())
			}
			p.step(func() {})
			if !yield(s, nil) {
				return
			}
		}
	}
	r, err := j.sum(sessions)
	p.end()
	if err != nil {
		return 0, err
	}
	// Part of the files would look like all of them.
	if attached > maxAttached {
		for i := range j.meta.Files {
			j.meta.Files[i].Data = nil
		}
	}
	doc, err := r.Report(j.meta)
	if err != nil {
		return 0, err
	}
	return worse(status, outcomeStatus(doc.Outcome)), j.write(doc)
}

func (j *reportJob) sum(sessions iter.Seq2[*report.Session, error]) (*report.Tally, error) {
	t := report.NewTally()
	for s, err := range sessions {
		if err != nil {
			return nil, err
		}
		t.Add(s)
	}
	return t, nil
}

// outcomeStatus is the exit status for a report's outcome.
func outcomeStatus(o report.Outcome) int {
	switch o {
	case report.Good:
		return exitGood
	case report.Refused:
		return exitRefused
	case report.NotProven:
		return exitNotGenuine
	}
	return exitError
}

// monitor reports on the records that a monitor finds.
func (j *reportJob) monitor(url, tokenFile string, q monitorapi.Query) (int, error) {
	m, err := openMonitor(url, tokenFile)
	if err != nil {
		return 0, err
	}
	j.meta.Monitor = m.URL()
	ctx, stop := interruptible()
	defer stop()
	r, err := j.sum(monitored(ctx, m, q))
	if err != nil {
		return 0, err
	}
	doc, err := r.Report(j.meta)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", m.URL(), err)
	}
	return outcomeStatus(doc.Outcome), j.write(doc)
}

// monitored yields the records of sessions that a monitor finds: their final records, unless the query asks for others.
func monitored(ctx context.Context, m *monitorapi.Client, q monitorapi.Query) iter.Seq2[*report.Session, error] {
	if q.Role == "" {
		q.Role = "final"
	}
	return func(yield func(*report.Session, error) bool) {
		for r, err := range m.Results(ctx, q) {
			if err != nil {
				yield(nil, err)
				return
			}
			if r.Record == nil {
				yield(nil, errors.New("the monitor answered a result without a record"))
				return
			}
			if !yield(sessionIn(r), nil) {
				return
			}
		}
	}
}

// sessionIn is what a monitor says of a record.
func sessionIn(r *monitorapi.Result) *report.Session {
	name := fmt.Sprintf("entry %d of %s", r.Index, r.Log)
	if r.Rule != "" || !r.Genuine {
		s := &report.Session{Name: name, Outcome: report.NotProven, Reason: r.NotProven, Codes: []string{string(r.Rule)}}
		if s.Reason == "" {
			s.Reason, s.Codes = "the record is not genuine: "+r.Reason, []string{r.Reason}
		}
		return s
	}
	s := &report.Session{
		Name: name, Statement: [32]byte(r.Statement), Final: r.Role == "final", Vendor: r.Vendor, ID: r.Session.String(), Release: r.ReleaseName,
		Platform: r.Platform, TCBStatus: r.TCBStatus, AdmittedAt: r.AdmittedAt,
	}
	s.Interval.NotBefore, s.Interval.NotAfter = r.NotBefore, r.NotAfter
	for _, m := range r.Models {
		s.Models = append(s.Models, report.SessionModel{Name: m.Provider + "/" + m.Name, Execution: m.Execution})
	}
	s.Judge(r.Claims, r.Refusals, r.Allowed != nil)
	if r.Allowed != nil && !*r.Allowed && s.Outcome == report.Good {
		s.Outcome, s.Reason = report.Refused, "the monitor says that its appraisal policy does not allow the record, and not why"
	}
	return s
}

// write writes the report wherever it was asked for. A file is there whole or not at all.
func (j *reportJob) write(r *report.Report) error {
	for _, out := range []struct {
		name  string
		print func(w io.Writer) error
	}{
		{j.html, r.HTML},
		{j.pdf, func(w io.Writer) error { return r.PDF(w, j.meta.Files...) }},
	} {
		if out.name == "" {
			continue
		}
		var b bytes.Buffer
		if err := out.print(&b); err != nil {
			return fmt.Errorf("%s: %w", out.name, err)
		}
		if err := j.c.write(out.name, b.Bytes()); err != nil {
			return err
		}
		if out.name != "-" && !*j.asJSON {
			fmt.Fprintln(j.c.stdout, clean(out.name))
		}
	}
	if *j.asJSON {
		return j.c.printJSON(r)
	}
	if j.html != "-" && j.pdf != "-" {
		j.c.headline(outcomeStatus(r.Outcome), strings.ToUpper(r.Outcome.Word())+": "+clean(r.Verdict))
	}
	return nil
}
