package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/monitor/deliver"
	"github.com/affidavit-log/affidavit/cmd/internal/flags"
	"github.com/affidavit-log/affidavit/cmd/internal/observe"
	"github.com/affidavit-log/affidavit/cmd/internal/serve"
	"github.com/affidavit-log/affidavit/cmd/internal/version"
)

const usage = `affidavit-monitor follows a transparency log of attestation records, verifies everything in it again, and
says what it finds.

  affidavit-monitor --log URL --log-policy FILE --dir DIR [--once]

Look once, such as from cron; the exit status says whether the log is good:

  affidavit-monitor --log https://log.example/2026 --log-policy log.policy --dir ~/monitor --once

Follow the log, ask two witnesses what they have seen, and tell a SIEM:

  umask 077; echo whsec_$(openssl rand -base64 32) > soc.secret   # the SIEM gets it too
  affidavit-monitor --log https://log.example/2026 --log-policy log.policy --dir /var/lib/affidavit-monitor \
      --witness w1=https://w1.example --witness w2=https://w2.example \
      --webhook https://siem.example/hook --webhook-secret soc.secret --findings /var/log/affidavit/findings.jsonl \
      --listen 127.0.0.1:8474 --metrics-listen 127.0.0.1:8475

Several receivers of one kind have names, and each can have a filter:

  --webhook 'name=pager url=https://pager.example/v2 secret=pager.secret severity=critical'
  --webhook 'name=grc url=https://grc.example/in secret=grc.secret class=invalid,identity'

Keep a copy of the log, and serve it: another monitor audits it with --log URL-OF-THIS-MONITOR.

  affidavit-monitor … --mirror /srv/mirror --public-listen :8476

Questions to the index: affidavit search, recall, reappraise, reconcile and vendor-check, with --monitor http://127.0.0.1:8474.

A file for --watch has a line for each name; a record that has it is a finding of class identity:

  vendor https://vendor.example
  tenant SHA-256       # your pseudonym of the month, from affidavit inspect
  release SHA-256      # of the image
  platform PPID
  session SHA-256      # of the session's subject, or the session id

Exit status:
  0   with --once: no findings, or only such of severity info; else: it was told to stop
  1   it couldn't start, the log can't be read, or it had to stop
  3   with --once: findings, but none of class tamper or invalid
  4   with --once: findings of class tamper or invalid: the log, or a record in it, isn't what it should be
  64  wrong usage
With --once, 4 comes before 1, and 1 before 3.
`

// options is what the command line says.
type options struct {
	log, origin, logPolicy, dir, root string
	appraisalPolicy, watch, pcsURL    string
	witnesses                         []monitor.Witness
	allowQuorumNone                   bool

	once, onlyNew  bool
	interval       time.Duration
	workers, reads int

	receivers []receiver

	mirror                              string
	listen, publicListen, metricsListen string
	appraiserKeys                       []string
	passphraseFile                      string
	appraiserInit, appraiserRecover     bool
	exceptions                          string
	webToken                            string

	observe *observe.Options
	serve   *serve.Options
}

// quiet reports whether standard output is for a program to read.
func (o *options) quiet() bool {
	return slices.ContainsFunc(o.receivers, func(r receiver) bool { return r.kind == kindFindings && r.target == "-" })
}

// parseFlags returns what args say, or, if there is nothing to run, the exit status.
func parseFlags(args []string, stdout, stderr io.Writer) (*options, int, bool) {
	o := &options{}
	f := flags.New("affidavit-monitor")
	s := f.In("The log")
	s.StringVar(&o.log, "log", "", "`URL` of the log, or of a mirror of it")
	s.StringVar(&o.logPolicy, "log-policy", "", "`FILE` that says whose checkpoints to accept (c2sp.org/tlog-policy)")
	s.StringVar(&o.origin, "origin", "", "`NAME` of the log, if the log policy has several")
	s.BoolVar(&o.allowQuorumNone, "allow-quorum-none", false, "accept a log policy that needs no cosignatures: the log can then show this monitor a history of its own")
	witnesses := s.StringArray("witness", nil, "`NAME=URL` of a witness's monitoring interface, to compare what it has seen; repeatable, and any witness will do")
	s.StringVar(&o.dir, "dir", "", "`DIR` for what the monitor knows: the index, findings, how far it is; made if there is none")
	s = f.In("What to check")
	s.StringVar(&o.root, "root", "", "`FILE` (PEM or DER) with the root that quotes are verified under, instead of Intel's; for tests and demonstrations")
	s.StringVar(&o.pcsURL, "pcs-url", "", "`URL` of Intel's PCS or of a PCCS: is the log's collateral the newest?")
	s.StringVar(&o.watch, "watch", "", "`FILE` with names to raise findings for, see above")
	s.StringVar(&o.appraisalPolicy, "appraisal-policy", "", "`FILE` that says which records are good enough for you (YAML); answers have its verdict, findings don't depend on it")
	s = f.In("Where findings go; each repeatable, see above")
	lines := s.StringArray("findings", nil, "`FILE` for JSON lines, - for standard output; or 'name=… file=… class=… severity=…'")
	hooks := s.StringArray("webhook", nil, "`URL` to post to; or 'name=… url=… secret=FILE class=… severity=… plain-http=yes'")
	secret := s.String("webhook-secret", "", "`FILE` (mode 0600) with the secret that signs for --webhook URL: whsec_ and base64, see client/monitor/deliver/README.md")
	commands := s.StringArray("on-finding", nil, "`PROGRAM` to run, with the finding as JSON on its standard input; or 'name=… program=… class=… severity=… timeout=…'")
	s = f.In("How")
	s.BoolVar(&o.once, "once", false, "audit up to the newest checkpoint, deliver, and end")
	s.BoolVar(&o.onlyNew, "only-new", false, "with --once: let only findings of this run decide the exit status, not those from before; a log that still contradicts itself isn't good either way")
	s.DurationVar(&o.interval, "interval", 10*time.Second, "time between two looks at the log")
	s.IntVar(&o.workers, "workers", 0, "entries verified at once; 0 is one for each processor")
	s.IntVar(&o.reads, "reads", 0, "requests to the log at once; 0 is 8")
	showVersion := s.Bool("version", false, "print what this command was built from, and end")
	s = f.In("What to serve")
	s.StringVar(&o.listen, "listen", "", "`ADDR` of the pages for people (/) and the API (/api/), such as 127.0.0.1:8474; whoever reaches it sees all findings and what is watched. Without --public-listen, what is public is served there, too")
	s.StringVar(&o.webToken, "web-token-file", "", "`FILE` (mode 0600) with a token that the pages and the API ask for: the password of basic authentication, with any user name, or a bearer token; put TLS in front of them")
	s.StringVar(&o.publicListen, "public-listen", "", "`ADDR` of what is public, the mirror and the appraiser; put TLS in front of it")
	s.StringVar(&o.metricsListen, "metrics-listen", "", "private `ADDR` for metrics, health, readiness and profiling")
	s.StringVar(&o.mirror, "mirror", "", "`DIR` for a full copy of the log; made if there is none")
	s.StringArrayVar(&o.appraiserKeys, "appraiser-key", nil, "`FILE` (mode 0600) with a key to cosign, by c2sp.org/tlog-witness, trees of which every entry was verified; its name ends in /appraiser; repeatable for Ed25519 and ML-DSA-44")
	s.StringVar(&o.passphraseFile, "passphrase-file", "", "`FILE` (mode 0600) with the passphrase of keys that are encrypted (affidavit keygen --passphrase-file)")
	s.BoolVar(&o.appraiserInit, "appraiser-init", false, "begin what the appraiser remembers to have cosigned; refused if it exists")
	s.BoolVar(&o.appraiserRecover, "appraiser-recover", false, "what the appraiser remembers was restored from a backup: first advance to what the log's checkpoint shows that it has cosigned")
	s.StringVar(&o.exceptions, "exceptions", "", "`FILE` with entries that the appraiser cosigns although they are disputed, see client/monitor/appraiser/README.md")
	o.serve = serve.Flags(s)
	s = f.In("What the operator sees")
	o.observe = observe.Flags(s)

	wrong := func(err error) (*options, int, bool) {
		fmt.Fprintf(stderr, "affidavit-monitor: %v\nTry --help.\n", err)
		return nil, exitUsage, false
	}
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		f.Help(stdout, usage)
		return nil, exitGood, false
	} else if err != nil {
		return wrong(err)
	}
	if *showVersion {
		fmt.Fprintln(stdout, version.Line("affidavit-monitor"))
		return nil, exitGood, false
	}
	if err := errors.Join(o.observe.Check(), o.serve.Check()); err != nil {
		return wrong(err)
	}
	for _, w := range *witnesses {
		name, url, ok := strings.Cut(w, "=")
		if !ok || name == "" || url == "" || strings.Contains(name, "/") {
			return wrong(fmt.Errorf("--witness %q, want NAME=URL", w))
		}
		o.witnesses = append(o.witnesses, monitor.Witness{Name: name, URL: url})
	}
	for _, k := range []struct {
		kind   kind
		values []string
	}{{kindFindings, *lines}, {kindWebhook, *hooks}, {kindCommand, *commands}} {
		for _, v := range k.values {
			r, err := parseReceiver(k.kind, v)
			if err != nil {
				return wrong(err)
			}
			if k.kind == kindWebhook && r.secret == "" {
				r.secret = *secret
			}
			o.receivers = append(o.receivers, r)
		}
	}
	for _, need := range []struct {
		met  bool
		what string
	}{
		{f.NArg() == 0, fmt.Sprintf("unexpected argument %q", f.Arg(0))},
		{o.log != "", "--log is missing"},
		{o.logPolicy != "", "--log-policy is missing"},
		{o.dir != "", "--dir is missing"},
		{o.interval > 0, "--interval must be positive"},
		{o.workers >= 0 && o.reads >= 0, "--workers and --reads can't be negative"},
		{o.once || !o.onlyNew, "--only-new goes with --once"},
		{!o.once || o.listen+o.publicListen+o.metricsListen == "", "--once serves nothing: leave out the addresses"},
		{!o.once || len(o.appraiserKeys) == 0, "--once cosigns nothing: leave out --appraiser-key"},
		{len(o.appraiserKeys) == 0 || o.listen+o.publicListen != "", "--appraiser-key needs --public-listen or --listen"},
		{len(o.appraiserKeys) > 0 || o.exceptions == "" && !o.appraiserInit && !o.appraiserRecover, "--exceptions, --appraiser-init and --appraiser-recover go with --appraiser-key"},
		{o.publicListen == "" || o.mirror != "" || len(o.appraiserKeys) > 0, "--public-listen has nothing to serve: --mirror or --appraiser-key is missing"},
		{o.webToken == "" || o.listen != "", "--web-token-file goes with --listen"},
		{*secret == "" || len(*hooks) > 0, "--webhook-secret goes with --webhook"},
	} {
		if !need.met {
			return wrong(errors.New(need.what))
		}
	}
	seen := make(map[string]bool)
	for _, r := range o.receivers {
		if seen[r.name] {
			return wrong(fmt.Errorf("two receivers named %q: tell them apart by name=…, as in --help", r.name))
		}
		seen[r.name] = true
		if r.kind == kindWebhook && r.secret == "" {
			return wrong(fmt.Errorf("--webhook %s: no secret to sign with: --webhook-secret or secret=… is missing", r.name))
		}
	}
	return o, exitGood, true
}

// A kind is one of receivers, and the flag for it.
type kind string

const (
	kindFindings kind = "findings"
	kindWebhook  kind = "webhook"
	kindCommand  kind = "on-finding"
)

// targets has the word for what a receiver is, by its kind.
var targets = map[kind]string{kindFindings: "file", kindWebhook: "url", kindCommand: "program"}

// A receiver is one value of a flag.
type receiver struct {
	kind         kind
	name, target string
	filter       deliver.Filter
	secret       string
	plainHTTP    bool
	timeout      time.Duration
}

// parseReceiver parses the value of a flag: the target alone, or words of the form key=value, in any order.
func parseReceiver(k kind, value string) (receiver, error) {
	r := receiver{kind: k, name: string(k)}
	fail := func(format string, args ...any) (receiver, error) {
		return receiver{}, fmt.Errorf("--%s %w", k, fmt.Errorf(format, args...))
	}
	allowed := map[kind][]string{
		kindFindings: {"name", "file", "class", "severity"},
		kindWebhook:  {"name", "url", "class", "severity", "secret", "plain-http"},
		kindCommand:  {"name", "program", "class", "severity", "timeout"},
	}[k]
	// A URL can have an equals sign, and then has more before it than a key.
	if key, _, ok := strings.Cut(value, "="); !ok || !slices.Contains(allowed, strings.TrimSpace(key)) {
		if strings.ContainsAny(value, " \t\n") {
			return fail("%q has a space: write it as 'name=… %s=…'", value, targets[k])
		}
		value = targets[k] + "=" + value
	}
	seen := make(map[string]bool)
	for word := range strings.FieldsSeq(value) {
		key, v, ok := strings.Cut(word, "=")
		switch {
		case !ok || !slices.Contains(allowed, key):
			return fail("%q: want words of the form KEY=VALUE with %s", word, strings.Join(allowed, ", "))
		case v == "":
			return fail("%s= has no value", key)
		case seen[key]:
			return fail("%s= is given twice", key)
		}
		seen[key] = true
		switch key {
		case "name":
			r.name = v
		case targets[k]:
			r.target = v
		case "class":
			for c := range strings.SplitSeq(v, ",") {
				if !slices.Contains(deliver.Classes, monitor.Class(c)) {
					return fail("class %q is none of %v", c, deliver.Classes)
				}
				r.filter.Classes = append(r.filter.Classes, monitor.Class(c))
			}
		case "severity":
			r.filter.Least = monitor.Severity(v)
			if !slices.Contains(deliver.Severities, r.filter.Least) {
				return fail("severity %q is none of %v", v, deliver.Severities)
			}
		case "secret":
			r.secret = v
		case "plain-http":
			if v != "yes" {
				return fail("plain-http=%s: it is yes, or left out", v)
			}
			r.plainHTTP = true
		case "timeout":
			d, err := time.ParseDuration(v)
			if err != nil || d <= 0 || d > time.Hour {
				return fail("timeout=%s: want a time up to 1h, such as 30s", v)
			}
			r.timeout = d
		}
	}
	if r.target == "" {
		return fail("%q: %s= is missing", value, targets[k])
	}
	return r, nil
}

// routes returns the receivers.
func (o *options) routes(stdout io.Writer) ([]deliver.Route, error) {
	var routes []deliver.Route
	for _, r := range o.receivers {
		route := deliver.Route{Name: r.name, Filter: r.filter}
		switch r.kind {
		case kindFindings:
			route.Receiver = deliver.File(r.target)
			if r.target == "-" {
				route.Receiver = deliver.Lines{W: stdout}
			}
		case kindWebhook:
			secrets, err := deliver.ReadSecrets(r.secret)
			if err != nil {
				return nil, err
			}
			w, err := deliver.NewWebhook(deliver.WebhookConfig{URL: r.target, Secrets: secrets, AllowPlainHTTP: r.plainHTTP})
			if err != nil {
				return nil, err
			}
			route.Receiver = w
		case kindCommand:
			route.Receiver = &deliver.Command{Path: r.target, Timeout: r.timeout}
		}
		routes = append(routes, route)
	}
	return routes, nil
}
