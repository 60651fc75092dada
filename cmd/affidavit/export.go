package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/export"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
)

func exportCommand() *command {
	return &command{
		name: "export",
		usage: []string{
			"[--format FORMAT] --log-policy FILE --appraisal-policy FILE [--root FILE] [--out FILE] [--cursor FILE] BUNDLE...",
			"[--format FORMAT] --monitor URL [--since TIME] [--until TIME] [--vendor ID] [--tenant HEX] [--out FILE] [--cursor FILE]",
			"--follow --monitor URL --queue DIR --hec URL|--post URL|--syslog ADDRESS [--token-file FILE]",
		},
		short: "hand verified records to a SIEM or GRC system",
		about: `Verifies bundles as "affidavit verify" does, or asks a monitor, and writes what is
known in a format that other systems take in:

  ocsf     events of OCSF 1.8.0, one JSON object a line: a compliance finding for
           each record, the start and the end of sessions, their models, and the
           actions that --disclosure discloses; a detection finding for what proves
           nothing, and for what a monitor has found
  oscal    one assessment-results document of OSCAL, against objectives of our own
  csv      one row for each record, for spreadsheets
  syslog   the OCSF events in messages of RFC 5424
  in-toto  the DSSE envelopes as the vendors signed them
  svr      in-toto statements of what was verified; --sign-key signs them

Each BUNDLE is a file, or a directory that is searched for .affidavit and .tlog-proof
files. With --monitor and policies, each record's bundle is fetched from the monitor and
verified here; without policies the export is the monitor's word, and says so.

With --cursor the next run goes on where this one ended. Events have a metadata.uid that
never changes. A file given with --out gets each event exactly once, even if the export is
killed at any moment. A receiver whose answer is lost or unclear gets the event again,
with the same uid, by which it has to know it: over a network nothing can do better.
Events for a network wait in --queue DIR, through outages and restarts; the cursor
is in there, too. --follow goes on until it is stopped.`,
		trusts: `With policies, what "affidavit verify" trusts. With --monitor and no policies, the
monitor: that it has verified the log, and by its appraisal policy. What becomes of the
events in the system that takes them in, nobody here can know: the bundles are the
evidence.`,
		examples: `  affidavit export --log-policy log.policy --appraisal-policy ours.yaml *.affidavit > events.ndjson
  affidavit export --format oscal --monitor http://127.0.0.1:8474 --out results.json \
      --since 2026-11-01T00:00:00Z --until 2026-12-01T00:00:00Z
  affidavit export --follow --monitor http://127.0.0.1:8474 --queue /var/lib/affidavit/siem \
      --hec https://splunk.example:8088/services/collector/event --token-file hec.token
`,
		exits: map[int]string{
			exitGood:       "everything was exported, and every bundle is good; of what a monitor says, everything\nwas exported",
			exitRefused:    "everything was exported; a bundle is refused by the appraisal policy",
			exitNotGenuine: "everything was exported; a bundle is not genuine or not logged, of which the export\nsays only that",
		},
		maxArgs: many,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			x := new(exportJob)
			format := fs.String("format", "", "`FORMAT`: ocsf (the default), oscal, csv, syslog, in-toto or svr")
			x.trust = trustFlags(fs)
			fs.StringVar(&x.monitor, "monitor", "", "`URL` of a monitor whose records are exported, instead of bundles")
			fs.StringVar(&x.monitorToken, "monitor-token-file", "", "`FILE` with the token that the monitor asks for, which only you can read (mode 0600)")
			since := fs.String("since", "", "`TIME` from which on the log admitted the records")
			until := fs.String("until", "", "`TIME` before which the log admitted the records")
			fs.StringVar(&x.query.Vendor, "vendor", "", "only records of this vendor: its `ID`, a URI")
			fs.StringVar(&x.query.Tenant, "tenant", "", "only records of this customer: its pseudonym in `HEX`")
			fs.StringVar(&x.query.Session, "session", "", "only records of this session: its `ID` in hexadecimal")
			fs.StringVar(&x.query.Role, "role", "", "only records of this `ROLE`, such as final")
			fs.StringArrayVar(&x.disclosures, "disclosure", nil, "`FILE` with an action of the one bundle's session; can be given again")
			fs.StringVar(&x.out, "out", "", "`FILE` to append to, or to replace with oscal; the standard output by default")
			fs.StringVar(&x.cursorFile, "cursor", "", "`FILE` that says where the next run goes on; made if it isn't there")
			fs.StringVar(&x.queueDir, "queue", "", "`DIR` where events wait for a receiver; holds its cursor")
			fs.StringVar(&x.hec, "hec", "", "`URL` of a Splunk HTTP Event Collector")
			fs.StringVar(&x.post, "post", "", "`URL` to which lines are posted, as application/x-ndjson")
			fs.StringVar(&x.syslog, "syslog", "", "`ADDRESS` of a syslog receiver: tls://HOST:PORT or tcp://HOST:PORT")
			fs.StringVar(&x.tokenFile, "token-file", "", "`FILE` with the receiver's token, which only you can read (mode 0600)")
			fs.StringVar(&x.caFile, "ca", "", "`FILE` with the certificates that the receiver's is checked by, in PEM; the system's by default")
			fs.BoolVar(&x.follow, "follow", false, "go on with what comes, until stopped")
			fs.DurationVar(&x.interval, "interval", 10*time.Second, "`DURATION` between looks at the source, with --follow")
			fs.IntVar(&x.maxEvent, "max-event", 0, "`BYTES` of the largest event; larger ones are shortened, and say so; 7936 for syslog by default")
			fs.StringVar(&x.signKey, "sign-key", "", "`FILE` with the Ed25519 key that signs verification results")
			fs.StringVar(&x.passphrase, "passphrase-file", "", "`FILE` with the passphrase of a key that is encrypted (\"affidavit keygen --passphrase-file\")")
			fs.StringVar(&x.verifierID, "verifier-id", "", "`URI` of the verifier in verification results")
			fs.BoolVar(&x.plain, "allow-plain-http", false, "send events unencrypted to another machine")
			return func(c *console, args []string) (int, error) {
				x.c, x.format = c, export.Format(*format)
				if err := x.check(fs, args); err != nil {
					return 0, err
				}
				for _, t := range []struct {
					name, text string
					to         *time.Time
				}{{"since", *since, &x.query.Since}, {"until", *until, &x.query.Until}} {
					if t.text != "" {
						var err error
						if *t.to, err = parseTime(t.text); err != nil {
							return 0, usagef("--%s: %v", t.name, err)
						}
					}
				}
				if err := x.query.Normalize(); err != nil {
					return 0, usagef("%v", err)
				}
				return x.run(fs, args)
			}
		},
	}
}

// An exportJob is what the flags of export ask for.
type exportJob struct {
	c      *console
	trust  trust
	format export.Format
	query  monitorapi.Query

	monitor, monitorToken, out, cursorFile, queueDir, hec, post, syslog string
	tokenFile, caFile, signKey, passphrase, verifierID                  string
	disclosures                                                         []string
	follow, plain                                                       bool
	interval                                                            time.Duration
	maxEvent                                                            int

	v      *verification      // nil if the monitor's word counts
	client *monitorapi.Client // nil for bundles
	seen   *export.Seen       // nil for a monitor
	cur    export.Cursor

	// mu guards what follows: bundles are judged concurrently.
	mu     sync.Mutex
	status int
	known  map[string]fileState // bundles that an earlier look has dealt with
}

// A fileState tells whether a file is still the one that it was.
type fileState struct {
	size int64
	mod  time.Time
}

// check finds mistakes of the command line.
func (x *exportJob) check(fs *pflag.FlagSet, args []string) error {
	receivers := 0
	for _, s := range []string{x.hec, x.post, x.syslog} {
		if s != "" {
			receivers++
		}
	}
	if x.format == "" {
		x.format = export.FormatOCSF
		if x.syslog != "" {
			x.format = export.FormatSyslog
		}
	}
	switch {
	case !slices.Contains(export.Formats, x.format):
		return usagef("--format %q: want ocsf, oscal, csv, syslog, in-toto or svr", x.format)
	case x.monitor == "" && x.monitorToken != "":
		return usagef("--monitor-token-file goes with --monitor")
	case x.monitor == "" && len(args) == 0:
		return usagef("missing argument: give bundles, or a monitor with --monitor")
	case x.monitor != "" && len(args) > 0:
		return usagef("unexpected argument %q: --monitor and bundles don't go together", args[0])
	case receivers > 1:
		return usagef("one of --hec, --post and --syslog, please: each receiver needs a queue of its own")
	case receivers == 1 && x.out != "":
		return usagef("--out and a receiver don't go together: each needs a cursor of its own")
	case receivers == 1 && x.queueDir == "":
		return usagef("missing flag --queue: where do events wait while the receiver is away?")
	case receivers == 1 && x.cursorFile != "":
		return usagef("--cursor doesn't go with a receiver: the cursor is in the queue")
	case receivers == 0 && x.queueDir != "":
		return usagef("--queue without a receiver: give --hec, --post or --syslog")
	case receivers == 1 && (x.format == export.FormatOSCAL || x.format == export.FormatCSV):
		return usagef("--format %s is for files: a receiver takes ocsf, syslog, in-toto or svr", x.format)
	case x.hec != "" && x.format != export.FormatOCSF:
		return usagef("--hec takes --format ocsf only")
	case x.syslog != "" && x.format != export.FormatSyslog:
		return usagef("--syslog takes --format syslog only")
	case x.post != "" && x.format == export.FormatSyslog:
		return usagef("--format syslog is for --syslog, or for a file")
	case x.follow && x.format == export.FormatOSCAL:
		return usagef("--follow doesn't go with oscal, which is one document")
	case x.follow && x.out != "" && x.cursorFile == "":
		return usagef("missing flag --cursor: how would the next --follow know where to go on?")
	case x.interval < 10*time.Millisecond:
		return usagef("--interval %s: want at least 10ms", x.interval)
	case x.maxEvent != 0 && x.maxEvent < export.MinEvent:
		return usagef("--max-event %d: want at least %d", x.maxEvent, export.MinEvent)
	case x.tokenFile != "" && x.hec == "" && x.post == "":
		return usagef("--token-file without --hec or --post")
	case x.hec != "" && x.tokenFile == "":
		return usagef("missing flag --token-file: a collector takes no events without a token")
	case (x.signKey != "" || x.verifierID != "") && x.format != export.FormatSVR:
		return usagef("--sign-key and --verifier-id go with --format svr only")
	case len(x.disclosures) > 0 && (len(args) != 1 || x.follow):
		return usagef("--disclosure goes with one bundle: which session's is it?")
	}
	for _, name := range []string{"hec", "post", "syslog"} {
		if text, _ := fs.GetString(name); text != "" {
			if err := x.address(name, text); err != nil {
				return err
			}
		}
	}
	return nil
}

// address checks the address of a receiver.
func (x *exportJob) address(name, text string) error {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil {
		return usagef("--%s %q is no address", name, text)
	}
	secure, insecure := "https", "http"
	if name == "syslog" {
		secure, insecure = "tls", "tcp"
		if u.Port() == "" || u.Path != "" || u.RawQuery != "" {
			return usagef("--syslog %q: want tls://HOST:PORT or tcp://HOST:PORT", text)
		}
	}
	switch ip := net.ParseIP(u.Hostname()); {
	case u.Scheme == secure:
		return nil
	case u.Scheme != insecure:
		return usagef("--%s %q: want %s://…", name, text, secure)
	case x.plain || u.Hostname() == "localhost" || ip != nil && ip.IsLoopback():
		return nil
	}
	return usagef("--%s %q would send events unencrypted to another machine: use %s, or give --allow-plain-http", name, text, secure)
}

// config is a digest of what makes the export another one: what a cursor is good for.
func (x *exportJob) config() [32]byte {
	v := map[string]any{"format": x.format, "monitor": x.monitor, "query": x.query, "max": x.maxEvent}
	if x.v != nil {
		v["appraisal"], v["log"] = x.v.appraisal.YAML(), x.v.logPolicy.String()
	}
	b, _ := json.Marshal(v) // strings and numbers
	return sha256.Sum256(b)
}

func (x *exportJob) run(fs *pflag.FlagSet, names []string) (int, error) {
	var err error
	if x.monitor == "" || fs.Changed("appraisal-policy") || fs.Changed("log-policy") {
		if x.v, err = x.trust.verification(x.c, fs, names); err != nil {
			return 0, err
		}
	}
	if x.monitor != "" {
		if x.client, err = openMonitor(x.monitor, x.monitorToken); err != nil {
			return 0, err
		}
		x.monitor = x.client.URL()
	}
	x.known = make(map[string]fileState)
	ctx, stop := interruptible()
	defer stop()
	if x.queueDir != "" {
		return x.toReceiver(ctx, names)
	}
	if x.cur, err = x.readCursor(); err != nil {
		return 0, err
	}
	if x.client == nil {
		if err := x.openSeen(x.cursorFile); err != nil {
			return 0, err
		}
		defer x.seen.Close()
	}
	if x.format == export.FormatOSCAL {
		return x.oscal(ctx, names)
	}
	e, err := x.exporter()
	if err != nil {
		return 0, err
	}
	var out export.Output
	if x.out != "" && x.out != "-" {
		out, err = export.OpenFile(x.out, x.format, x.cur, x.cursorFile)
		if err != nil {
			return 0, fileError(x.out, err)
		}
	} else {
		out = &export.StreamOutput{Format: x.format, W: x.c.stdout, Flush: x.c.flush, Cursor: x.cursorFile}
	}
	defer out.Close()
	if err := x.export(ctx, e, out, names); err != nil {
		return 0, err
	}
	return x.status, nil
}

func (x *exportJob) readCursor() (export.Cursor, error) {
	config := x.config()
	if x.cursorFile == "" {
		return export.Cursor{Config: config}, nil
	}
	return export.ReadCursor(x.cursorFile, config)
}

// openSeen opens what says which bundles were exported, beside the cursor.
func (x *exportJob) openSeen(beside string) (err error) {
	if beside == "" {
		x.seen = export.NewSeen()
		return nil
	}
	x.seen, err = export.OpenSeen(beside+".seen", x.cur.Seen)
	return err
}

func (x *exportJob) exporter() (*export.Exporter, error) {
	e := &export.Exporter{Format: x.format, Monitor: x.monitor, Seen: x.seen, OCSF: export.OCSF{MaxEvent: x.maxEvent}}
	e.Each = func(r *export.Record, _ *export.Finding) error {
		x.count(r)
		return nil
	}
	switch x.format {
	case export.FormatSyslog:
		if x.maxEvent == 0 {
			e.OCSF.MaxEvent = export.MinEvent
		}
		e.Syslog.Hostname, _ = os.Hostname() // without one there is none in the messages
	case export.FormatSVR:
		e.SVR = export.SVR{VerifierID: x.verifierID, At: x.c.now(), PolicySHA256: x.policyDigest()}
		if x.signKey != "" {
			var err error
			if e.SVR.Key, err = x.c.readKey(x.signKey, x.passphrase); err != nil {
				return nil, err
			}
		}
	}
	if x.hec != "" {
		e.Wrap = export.WrapHEC
	}
	return e, nil
}

func (x *exportJob) policyDigest() string {
	if x.v == nil {
		return ""
	}
	sum := sha256.Sum256(x.v.appraisal.YAML())
	return hex.EncodeToString(sum[:])
}

// count makes the verdict on a bundle part of the exit status.
func (x *exportJob) count(r *export.Record) {
	if r == nil || x.client != nil {
		return
	}
	status := map[export.Verdict]int{export.VerdictRefused: exitRefused, export.VerdictNotProven: exitNotGenuine}[r.Verdict]
	x.mu.Lock()
	defer x.mu.Unlock()
	x.status = worse(x.status, status)
}

// problem complains about something that doesn't end the export.
func (x *exportJob) problem(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.c.complain("affidavit export: %v", err)
	x.status = worse(x.status, exitError)
}

// report complains about a receiver, which gets everything all the same, once it is
// back.
func (x *exportJob) report(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.c.complain("affidavit export: %v", err)
}

// A sourceError is one of the source, which may be better next time.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// export exports what there is and, if it follows, what comes.
func (x *exportJob) export(ctx context.Context, e *export.Exporter, out export.Output, names []string) error {
	reported := ""
	for {
		err := e.Run(ctx, x.source(ctx, names), out, &x.cur)
		switch {
		case ctx.Err() != nil && x.follow && errors.Is(context.Cause(ctx), context.Canceled):
			return nil // somebody has stopped it
		case err == nil:
			reported = ""
		case !x.follow || !errors.As(err, new(sourceError)):
			return err
		case err.Error() != reported: // once, not every few seconds
			reported = err.Error()
			x.report(fmt.Errorf("%w; trying again", err))
		}
		if !x.follow {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), context.Canceled) {
				return nil
			}
			return context.Cause(ctx)
		case <-time.After(x.interval):
		}
	}
}

func (x *exportJob) source(ctx context.Context, names []string) iter.Seq2[*export.Item, error] {
	if x.client != nil {
		return x.monitored(ctx)
	}
	return x.bundles(names)
}

// settles is how long a record waits for the time leaf that covers it, so that its
// event says when it was made. A log logs one about every minute.
const settles = 15 * time.Minute

// monitored yields a monitor's records and findings after the cursor.
func (x *exportJob) monitored(ctx context.Context) iter.Seq2[*export.Item, error] {
	return func(yield func(*export.Item, error) bool) {
		q := x.query
		q.After = x.cur.Records
		early := func(r *monitorapi.Record) bool {
			return (x.follow || x.cursorFile != "" || x.queueDir != "") && r.NotAfter.IsZero() && r.Genuine && x.c.now().Sub(r.AdmittedAt) < settles
		}
		if x.v != nil || x.format == export.FormatInToto {
			for r, err := range x.client.Records(ctx, q) {
				if err != nil {
					yield(nil, sourceError{err})
					return
				}
				if early(r) {
					break
				}
				if !yield(&export.Item{Load: func() (*export.Record, error) { return x.fetch(ctx, r) }, Records: r.Index + 1}, nil) {
					return
				}
			}
		} else {
			for r, err := range x.client.Results(ctx, q) {
				if err != nil {
					yield(nil, sourceError{err})
					return
				}
				if r.Record == nil {
					yield(nil, sourceError{errors.New("the monitor's answer has a result without a record")})
					return
				}
				if early(r.Record) {
					break
				}
				if !yield(&export.Item{Load: func() (*export.Record, error) { return export.FromResult(r, x.monitor), nil }, Records: r.Index + 1}, nil) {
					return
				}
			}
		}
		for raw, err := range x.client.Findings(ctx, x.cur.Findings) {
			f := new(export.Finding)
			if err == nil {
				err = json.Unmarshal(raw, f)
			}
			if err != nil {
				yield(nil, sourceError{err})
				return
			}
			item := &export.Item{Findings: f.Seq}
			if x.about(f) {
				item.Finding = f
			}
			if !yield(item, nil) {
				return
			}
		}
	}
}

// about reports whether a finding is in what the flags ask for. One that names no
// vendor, customer or session is about the log, and so about all of them.
func (x *exportJob) about(f *export.Finding) bool {
	for name, want := range map[string]string{"vendor": x.query.Vendor, "tenant": x.query.Tenant} {
		if got := f.Subject[name]; want != "" && got != "" && got != want {
			return false
		}
	}
	return (x.query.Since.IsZero() || !f.FoundAt.Before(x.query.Since)) && (x.query.Until.IsZero() || f.FoundAt.Before(x.query.Until))
}

// fetch gets a record's bundle from the monitor, and judges it if there are policies.
func (x *exportJob) fetch(ctx context.Context, m *monitorapi.Record) (*export.Record, error) {
	b, err := x.client.Bundle(ctx, m.Index)
	if err != nil {
		return nil, sourceError{fmt.Errorf("the bundle of record %d: %w", m.Index, err)}
	}
	name := fmt.Sprintf("%d.affidavit", m.Index)
	if x.v != nil {
		r, err := x.judge(name, b)
		if err == nil && r.UID != m.LeafHash.String() && r.Verdict != export.VerdictNotProven {
			return nil, sourceError{fmt.Errorf("the monitor's bundle of record %d is that of record %d", m.Index, r.Index)}
		}
		return r, err
	}
	e := subjectIn(b)
	if e == nil {
		return nil, sourceError{fmt.Errorf("the monitor's bundle of record %d is none", m.Index)}
	}
	digest := e.StatementDigest()
	return &export.Record{UID: m.LeafHash.String(), Verdict: export.VerdictGenuine, VerifiedBy: x.monitor, Statement: hex.EncodeToString(digest[:]), Envelope: e.DSSE()}, nil
}

// bundles yields files, and those in directories.
func (x *exportJob) bundles(names []string) iter.Seq2[*export.Item, error] {
	return func(yield func(*export.Item, error) bool) {
		for _, name := range names {
			stop := false
			one := func(name string, info fs.FileInfo) bool {
				if info != nil {
					state := fileState{info.Size(), info.ModTime()}
					x.mu.Lock()
					old, known := x.known[name]
					if x.follow {
						x.known[name] = state
					}
					x.mu.Unlock()
					if known && old == state {
						return true
					}
				}
				item := new(export.Item)
				item.Load = func() (*export.Record, error) { return x.load(name, item), nil }
				stop = !yield(item, nil)
				return !stop
			}
			info, err := os.Stat(name)
			if name == "-" || err != nil || !info.IsDir() {
				if name == "-" || err != nil {
					info = nil
				}
				if !one(name, info) {
					return
				}
				continue
			}
			err = filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				if ext := filepath.Ext(path); d.IsDir() || ext != ".affidavit" && ext != ".tlog-proof" {
					return nil
				}
				info, err := d.Info()
				if err != nil {
					return nil // it has gone meanwhile
				}
				if !one(path, info) {
					return fs.SkipAll
				}
				return nil
			})
			if stop {
				return
			}
			if err != nil {
				yield(nil, sourceError{err})
				return
			}
		}
	}
}

// load judges a file. One that can't be read is complained about, and is no record.
func (x *exportJob) load(name string, item *export.Item) *export.Record {
	b, err := x.c.read(name)
	if err != nil {
		x.problem(err)
		x.mu.Lock()
		delete(x.known, name)
		x.mu.Unlock()
		return nil
	}
	sum := sha256.Sum256(b)
	file := hex.EncodeToString(sum[:])
	if len(x.disclosures) == 0 && x.seen.Has("file", file) {
		return nil
	}
	r, err := x.judge(name, b)
	if err != nil {
		x.problem(err)
		return nil
	}
	item.File = file
	if !x.wanted(r) {
		return nil
	}
	return r
}

// judge verifies a bundle as verify does.
func (x *exportJob) judge(name string, b []byte) (*export.Record, error) {
	a := x.v.judge(name, b)
	sum := sha256.Sum256(b)
	if a.Finding == nil {
		r := export.FromNotProven(sum, a.Reason(), a.Cause(), x.c.now())
		r.Bundle = filepath.Base(name)
		return r, nil
	}
	r := export.FromFinding(a.Finding)
	r.Bundle, r.BundleSHA256 = filepath.Base(name), hex.EncodeToString(sum[:])
	if e := a.Finding.Subject.Entry(); e != nil && x.format == export.FormatInToto {
		r.Envelope = e.DSSE()
	}
	for _, file := range x.disclosures {
		d, err := x.disclosure(a, file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		r.Disclosed = append(r.Disclosed, d.Action)
	}
	return r, nil
}

func (x *exportJob) disclosure(a *answer, file string) (*record.Disclosure, error) {
	b, err := x.c.read(file)
	if err != nil {
		return nil, err
	}
	d, _, err := a.Disclosed(b)
	return d, err
}

// wanted reports whether the flags ask for a bundle's record. What isn't proven is
// wanted always: nobody knows whose it is.
func (x *exportJob) wanted(r *export.Record) bool {
	q := &x.query
	if r.Verdict == export.VerdictNotProven {
		return true
	}
	if id, err := record.ParseSessionID(r.Session); q.Session != "" && (err != nil || monitorapi.Hash(id.Digest()).String() != q.Session) {
		return false
	}
	return (q.Vendor == "" || r.Vendor == q.Vendor) && (q.Tenant == "" || r.Tenant == q.Tenant) && (q.Role == "" || string(r.Role) == q.Role) &&
		(q.Since.IsZero() || !r.AdmittedAt.Before(q.Since)) && (q.Until.IsZero() || r.AdmittedAt.Before(q.Until))
}

// nowhere is an Output for what has no lines.
type nowhere struct{}

func (nowhere) Write([]export.Line) error  { return nil }
func (nowhere) Commit(export.Cursor) error { return nil }
func (nowhere) Close() error               { return nil }

// oscal writes one document.
func (x *exportJob) oscal(ctx context.Context, names []string) (int, error) {
	d, err := export.NewOSCAL(export.OSCALOptions{
		At: x.c.now(), Since: x.query.Since, Until: x.query.Until, PolicySHA256: x.policyDigest(), Monitor: x.monitor,
	})
	if err != nil {
		return 0, err
	}
	defer d.Close()
	e, err := x.exporter()
	if err != nil {
		return 0, err
	}
	e.Each = func(r *export.Record, f *export.Finding) error {
		if f != nil {
			return d.AddFinding(f)
		}
		x.count(r)
		if x.seen != nil && !x.seen.Add("event", r.UID) {
			return nil
		}
		return d.Add(r)
	}
	if err := e.Run(ctx, x.source(ctx, names), nowhere{}, &x.cur); err != nil {
		return 0, err
	}
	if x.out == "" || x.out == "-" {
		err = d.Write(x.c.stdout)
		if err == nil && x.c.flush != nil {
			err = x.c.flush()
		}
	} else {
		err = writeStream(x.out, d.Write)
	}
	if err == nil && x.cursorFile != "" {
		err = export.WriteCursor(x.cursorFile, x.cur)
	}
	return x.status, err
}

// writeStream is writeFile for what isn't in memory.
func writeStream(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".affidavit-*")
	if err != nil {
		return fileError(name, err)
	}
	defer os.Remove(f.Name())
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fileError(name, err)
	}
	return nil
}

// givesUp is how long a receiver may take nothing before an export ends that doesn't
// follow. What is in the queue then, the next one sends.
const givesUp = time.Minute

// toReceiver exports into the queue, and from there to the receiver.
func (x *exportJob) toReceiver(ctx context.Context, names []string) (int, error) {
	sender, err := x.sender()
	if err != nil {
		return 0, err
	}
	q, err := export.OpenQueue(x.queueDir, x.config(), export.QueueOptions{})
	if err != nil {
		return 0, err
	}
	defer q.Close()
	x.cur = q.Cursor()
	if x.client == nil {
		if err := x.openSeen(filepath.Join(x.queueDir, "bundles")); err != nil {
			return 0, err
		}
		defer x.seen.Close()
	}
	e, err := x.exporter()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	delivered := make(chan error, 1)
	go func() {
		o := export.DeliverOptions{Report: x.report}
		if !x.follow {
			o.GiveUp = givesUp
		}
		err := export.Deliver(ctx, q, sender, o)
		if err != nil && ctx.Err() == nil && !errors.Is(err, export.ErrRefused) {
			cancel(err)
		}
		delivered <- err
	}()
	err = x.export(ctx, e, q, names)
	if err != nil {
		cancel(err)
	}
	q.Finish()
	if derr := <-delivered; err == nil && derr != nil && (ctx.Err() == nil || !errors.Is(derr, context.Canceled) || !x.follow) {
		err = derr
	}
	if err != nil {
		return 0, err
	}
	return x.status, nil
}

func (x *exportJob) sender() (export.Sender, error) {
	roots := (*x509.CertPool)(nil) // the system's
	if x.caFile != "" {
		b, err := x.c.read(x.caFile)
		if err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s: no certificate in PEM in it", x.caFile)
		}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	if x.syslog != "" {
		u, err := url.Parse(x.syslog)
		if err != nil {
			return nil, err
		}
		s := &export.SyslogSender{Addr: u.Host}
		if u.Scheme == "tls" {
			config.ServerName = u.Hostname()
			s.TLS = config
		}
		return s, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	s := &export.HTTPSender{URL: x.hec + x.post, Splunk: x.hec != "", Client: export.NewHTTPClient(transport), Token: x.token}
	_, err := x.token()
	return s, err
}

// token reads the receiver's token, from a file that nobody else can read.
func (x *exportJob) token() (string, error) {
	if x.tokenFile == "" {
		return "", nil
	}
	b, err := x.c.readSecret(x.tokenFile)
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s: no token in it", x.tokenFile)
	}
	return token, nil
}
