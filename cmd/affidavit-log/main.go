// Command affidavit-log is the log: it admits vendors' attestation records, appends them to a transparency log, and
// serves checkpoints, tiles and proofs. See log/README.md for operators.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/affidavit-log/affidavit/cmd/internal/flags"
	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/cmd/internal/observe"
	"github.com/affidavit-log/affidavit/cmd/internal/serve"
	"github.com/affidavit-log/affidavit/cmd/internal/version"
	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Exit statuses.
const (
	exitUsage = 64
	exitError = 1
)

// shutdownTimeout is how long a shutdown may take: a checkpoint interval and slow witnesses, and as long as a supervisor
// lets us.
const shutdownTimeout = 25 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// setTesseraLogger has Tessera speak through a logger: it uses klog, which has one for the whole process. Tests, in which
// several logs run in one process, keep it quiet.
var setTesseraLogger = func(l *slog.Logger) { klog.SetSlogLogger(l) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 {
		if command, ok := commands[args[0]]; ok {
			return command(ctx, args[1:], stdout, stderr)
		}
	}
	return with(args, stdout, stderr, func(d *daemon) error {
		if err := d.prepare(ctx); err != nil {
			return err
		}
		return d.run(ctx)
	})
}

// with calls do with what the flags say, and returns the exit status.
func with(args []string, stdout, stderr io.Writer, do func(*daemon) error) int {
	o, status, ok := parseFlags(args, stdout, stderr)
	if !ok {
		return status
	}
	d := &daemon{options: o, logger: o.observe.Logger(stderr)}
	setTesseraLogger(d.logger.With("from", "tessera"))
	defer d.close()
	if err := do(d); err != nil {
		d.logger.Error("stopped", "err", err)
		return exitError
	}
	return 0
}

// A daemon is a log with what it is served by.
type daemon struct {
	*options
	logger *slog.Logger
	front  *serve.Front
	cfg    *sessionlog.Config
	source *pcs.Client // nil unless a collateral service is used
}

// prepare reads keys and certificates and turns flags into the log's configuration. close is to be called whatever it returns.
func (d *daemon) prepare(ctx context.Context) error {
	ring, err := keys.Open(d.passphraseFile)
	if err != nil {
		return err
	}
	if d.front, err = d.serve.Open(ctx, ring, d.logger); err != nil {
		return err
	}
	d.cfg, d.source, err = d.config(ctx, ring, d.logger)
	return err
}

func (d *daemon) close() {
	if d.cfg != nil && d.cfg.Shared != nil {
		d.cfg.Shared.Close()
	}
	if d.source != nil {
		d.source.Close()
	}
}

// run opens the log and serves it until ctx is done or a server fails, and shuts it down.
func (d *daemon) run(ctx context.Context) error {
	// Before the log is opened: a log that was made, and cosigned, by a process that then couldn't listen is in the way of
	// the next attempt.
	public, err := net.Listen("tcp", d.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	defer public.Close()
	var private net.Listener
	if d.metricsListen != "" {
		if private, err = net.Listen("tcp", d.metricsListen); err != nil {
			return fmt.Errorf("--metrics-listen: %w", err)
		}
		defer private.Close()
	}
	if d.traces != "" {
		end, err := startTraces(ctx, d.traces, d.traceRatio, d.origin, d.logger)
		if err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_ = end(ctx) // spans are no reason to fail
		}()
	}
	log, err := sessionlog.Open(ctx, *d.cfg)
	if err != nil {
		return err
	}
	for _, k := range d.cfg.Keys {
		d.logger.Info("key", "vkey", k.VKey())
	}

	handler := log.Handler()
	if d.traces != "" {
		handler = traced(handler)
	}
	d.front.AskClients(log.AsksForCertificates)
	g, gctx := errgroup.WithContext(ctx)
	var servers []*http.Server
	for _, s := range []struct {
		what    string
		l       net.Listener
		front   *serve.Front
		handler http.Handler
	}{{"public", public, d.front, d.observe.Requests(d.logger, handler)}, {"private", private, d.serve.Plain(), log.PrivateHandler()}} {
		if s.l == nil {
			continue
		}
		d.logger.Info("listening", "what", s.what, "addr", s.l.Addr().String())
		srv := log.NewServer(s.handler)
		srv.ErrorLog = slog.NewLogLogger(d.logger.Handler(), slog.LevelDebug)
		servers = append(servers, srv)
		g.Go(func() error { return s.front.Serve(srv, s.l) })
	}
	if d.source != nil {
		g.Go(func() error { d.source.Run(gctx); return nil })
	}
	<-gctx.Done() // a signal, or a server that failed
	d.logger.Info("shutting down")
	if err := d.shutDown(log, servers, g); err != nil {
		return err
	}
	d.logger.Info("shut down")
	return nil
}

// shutDown ends the servers, then the log, then what g runs.
func (d *daemon) shutDown(log *sessionlog.Log, servers []*http.Server, g *errgroup.Group) error {
	end, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	var errs []error
	for _, s := range servers { // submissions under way get their proofs first
		errs = append(errs, s.Shutdown(end))
	}
	errs = append(errs, log.Shutdown(end), log.Err())
	if d.source != nil {
		d.source.Close()
	}
	return errors.Join(append(errs, g.Wait())...)
}

// config turns flags into the log's configuration. The client is nil unless a collateral service is used.
func (o *options) config(ctx context.Context, ring *keys.Ring, logger *slog.Logger) (*sessionlog.Config, *pcs.Client, error) {
	evidence, err := o.evidence.open()
	if err != nil {
		return nil, nil, err
	}
	c := &sessionlog.Config{
		Origin:             o.origin,
		Create:             o.init,
		AllowQuorumNone:    o.allowQuorumNone,
		VendorsFile:        o.vendors,
		AllowImports:       o.allowImports,
		Evidence:           evidence,
		PreviousShard:      o.previousShard,
		CheckpointInterval: o.checkpointInterval,
		TimeInterval:       o.timeInterval,
		MaxFreshnessAge:    o.maxFreshnessAge,
		AdmitLate:          o.admitLate,
		MaxInFlight:        o.maxInFlight,
		MaxWait:            o.maxWait,
		WitnessBudget:      o.witnessBudget,
		Appraisers:         o.appraisers,
		Logger:             logger,
	}
	if err := o.openStorage(ctx, c); err != nil {
		return nil, nil, err
	}
	for _, file := range o.keys {
		k, err := ring.Signing(file)
		if err != nil {
			return nil, nil, err
		}
		c.Keys = append(c.Keys, k)
	}
	for _, file := range o.agentKeys {
		k, err := keys.AgentFile(checkpoint.Ed25519, o.origin, file)
		if err != nil {
			return nil, nil, err
		}
		c.Keys = append(c.Keys, k)
	}
	policy, err := os.ReadFile(o.logPolicy)
	if err != nil {
		return nil, nil, err
	}
	if c.LogPolicy, err = checkpoint.ParsePolicy(policy); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.logPolicy, err)
	}
	c.Root = tdx.IntelRoot()
	if o.root != "" {
		b, err := os.ReadFile(o.root)
		if err != nil {
			return nil, nil, err
		}
		if c.Root, err = tdx.ParseRoot(b); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", o.root, err)
		}
		if !c.Root.IsIntel() {
			logger.Warn("the root is not Intel's: nothing in this log is evidence of real hardware", "root", c.Root.String())
		}
	}

	if c.Role == sessionlog.RoleReader || c.Role == sessionlog.RolePublisher {
		return c, nil, nil // they judge nothing
	}
	var dir *pcs.Directory
	if o.collateralDir != "" {
		dir = pcs.Dir(o.collateralDir, c.Root)
		if err := dir.Check(); err != nil {
			return nil, nil, fmt.Errorf("--collateral-dir: %w", err)
		}
		if o.pcsURL == "" {
			c.Collateral = dir
			return c, nil, nil
		}
	}
	client, err := pcs.New(pcs.Config{URL: o.pcsURL, Root: c.Root, CacheDir: filepath.Join(c.Dir, "collateral"), Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	c.Collateral = client
	if dir != nil {
		c.Archive = either{dir, client}
	}
	return c, client, nil
}

// either asks the second source for what the first doesn't have.
type either struct{ first, second pcs.Source }

func (e either) Collateral(ctx context.Context, fmspc, ca string, at time.Time) (*tdx.Collateral, error) {
	c, err := e.first.Collateral(ctx, fmspc, ca, at)
	if errors.Is(err, pcs.ErrNoCollateral) {
		return e.second.Collateral(ctx, fmspc, ca, at)
	}
	return c, err
}

type options struct {
	origin, storage, logPolicy, vendors, root string
	stateDir, database, role                  string
	listen, metricsListen                     string
	pcsURL, collateralDir, previousShard      string
	passphraseFile                            string
	keys, agentKeys, appraisers               []string
	init, allowQuorumNone, allowImports       bool
	evidence                                  evidenceOptions
	checkpointInterval, timeInterval          time.Duration
	maxFreshnessAge, admitLate, maxWait       time.Duration
	maxInFlight, witnessBudget                int
	traces                                    string
	traceRatio                                float64
	observe                                   *observe.Options
	serve                                     *serve.Options
}

const usage = `affidavit-log runs a transparency log of attestation records, or with "check" audits what one
has stored, with "migrate" moves one to another storage, and with "freeze" ends one for good.

  affidavit-log --origin NAME --key FILE [--key FILE] --storage posix:DIR
      --log-policy FILE --vendors FILE --listen ADDR [--metrics-listen ADDR] [--init]

A first log, on this machine, without witnesses:

  affidavit keygen --type log        --name log.example/2026 --out log.key        # prints a vkey
  affidavit keygen --type log-ml-dsa --name log.example/2026 --out log-ml-dsa.key # another one
  printf 'log VKEY\nlog VKEY\nquorum none\n' > log.policy     # with the vkeys; c2sp.org/tlog-policy
  cat > vendors.yaml <<END
  vendors:
    - id: https://vendor.example
      token-sha256: $(echo -n TOKEN | sha256sum | cut -c1-64)
      release-keys: [SPKI IN BASE64]     # printed by affidavit keygen --type release
      quota: {rate: 100, burst: 200}     # submissions a second
  END
  affidavit-log --init --origin log.example/2026 --key log.key --key log-ml-dsa.key \
      --storage posix:/var/lib/affidavit-log --log-policy log.policy --allow-quorum-none \
      --vendors vendors.yaml --listen 127.0.0.1:8080 --metrics-listen 127.0.0.1:8081

Give --init only once. A log that starts anew under the keys of one that was lost is a fork,
and so is one on an old copy of its directory: witnesses will refuse it, for good.
The exit status is 64 for wrong usage, 1 if the log couldn't start or had to stop, else 0.
`

func parseFlags(args []string, stdout, stderr io.Writer) (*options, int, bool) {
	o := &options{}
	f := flags.New("affidavit-log")
	s := f.In("Identity and storage")
	s.StringVar(&o.origin, "origin", "", "`NAME` of the log, the first line of its checkpoints; a URL without scheme")
	s.StringArrayVar(&o.keys, "key", nil, "`FILE` (mode 0600) with a signing key named like the log: one Ed25519, better with an ML-DSA-44 one beside it; repeatable, also for the old and the new key while keys are rotated")
	s.StringVar(&o.passphraseFile, "passphrase-file", "", "`FILE` (mode 0600) with the passphrase of keys that are encrypted (affidavit keygen --passphrase-file)")
	s.StringArrayVar(&o.agentKeys, "ssh-agent-key", nil, "OpenSSH public key `FILE` of an Ed25519 key in the agent at $SSH_AUTH_SOCK, such as affidavit-signer in front of a PKCS #11 token; repeatable")
	s.StringVar(&o.storage, "storage", "", "`WHERE` the log is: posix:DIR, a directory on a local disk that is this log's alone, or aws:BUCKET[?endpoint=URL&path-style=true&region=NAME], an S3 bucket that is this log's alone, with a MySQL database")
	s.StringVar(&o.database, "database", "", "`FILE` (mode 0600) with the data source name of the log's MySQL database, user:password@tcp(host:3306)/name; with aws:")
	s.StringVar(&o.stateDir, "state-dir", "", "`DIR` of this process's own, for an index and collateral, which it builds again if they are lost; with aws:")
	s.StringVar(&o.role, "role", "all", "`ROLE` of this process among those of a log that isn't in a directory: all; frontend (admits and serves); publisher (publishes and serves); reader (serves, from the bucket alone)")
	s.BoolVar(&o.init, "init", false, "make a new log; refused if there is one")
	s.StringVar(&o.listen, "listen", "", "public `ADDR`, such as 127.0.0.1:8080, or :443 with --tls-cert; without that, put TLS in front of it")
	s.StringVar(&o.metricsListen, "metrics-listen", "", "private `ADDR` for metrics, health, readiness and profiling")
	o.serve = serve.Flags(s)
	s = f.In("Witnesses")
	s.StringVar(&o.logPolicy, "log-policy", "", "`FILE` that says whose cosignatures a checkpoint needs (c2sp.org/tlog-policy)")
	s.StringArrayVar(&o.appraisers, "appraiser", nil, "`NAME` of a witness line of the log policy, outside of the quorum, that cosigns only what is published, such as a monitor's; asked after publication, and waited for by nobody; repeatable")
	s.BoolVar(&o.allowQuorumNone, "allow-quorum-none", false, "accept a log policy that needs no cosignatures: no time is then proven, and nothing keeps the log from showing two histories")
	s.IntVar(&o.witnessBudget, "witness-budget", 0, "`REQUESTS` to each witness per day at most, what witnesses call qpd; 0 is one for each checkpoint")
	s = f.In("Submissions")
	s.StringVar(&o.vendors, "vendors", "", "`FILE` that lists who may submit (YAML, see above); read again when it changes")
	s.StringVar(&o.root, "root", "", "`FILE` (PEM or DER) with the root that quotes are verified under, instead of Intel's; for tests and demonstrations")
	s.StringVar(&o.pcsURL, "pcs-url", "", "`URL` of Intel's PCS or of a PCCS; Intel's is the default unless --collateral-dir is given")
	s.StringVar(&o.collateralDir, "collateral-dir", "", "`DIR` with collateral as JSON files: all there is, or with --pcs-url the archive for imports")
	s.StringVar(&o.previousShard, "previous-shard", "", "`URL` of the log of the year before (its keys are in the log policy, too): sessions that were started there may end here, for seven days")
	s.BoolVar(&o.allowImports, "allow-imports", false, "admit evidence that isn't bound to a statement, or to a key only (FORMAT.md, section 4); evidence/v1 is judged at the time it was collected")
	o.evidence.flags(s)
	s = f.In("Times and limits")
	s.DurationVar(&o.checkpointInterval, "checkpoint-interval", time.Second, "least time between checkpoints; not less than the witnesses allow")
	s.DurationVar(&o.timeInterval, "time-interval", time.Minute, "time between time leaves while there is traffic")
	s.DurationVar(&o.maxFreshnessAge, "max-freshness-age", 10*time.Minute, "how old the checkpoint may be that a statement was made after")
	s.DurationVar(&o.admitLate, "admit-late", 0, "admit statements whose checkpoint is older than that, up to this age; they stay visibly late")
	s.IntVar(&o.maxInFlight, "max-in-flight", 512, "submissions judged or appended at once, shared among the vendors; more are answered 503")
	s.DurationVar(&o.maxWait, "max-wait", 10*time.Second, "how long a submission waits for a proof before it is answered 202")
	s = f.In("What the operator sees")
	o.observe = observe.Flags(s)
	s.StringVar(&o.traces, "otlp-traces", "", "`URL` of an OpenTelemetry collector's HTTP receiver, such as http://127.0.0.1:4318/v1/traces, that spans of requests go to")
	s.Float64Var(&o.traceRatio, "trace-ratio", 0.01, "`SHARE` of requests that are traced, from 0 to 1")
	showVersion := s.Bool("version", false, "print what this command was built from, and end")
	wrong := func(err error) (*options, int, bool) {
		fmt.Fprintf(stderr, "affidavit-log: %v\nTry --help.\n", err)
		return nil, exitUsage, false
	}
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		f.Help(stdout, usage)
		return nil, 0, false
	} else if err != nil {
		return wrong(err)
	}
	if *showVersion {
		fmt.Fprintln(stdout, version.Line("affidavit-log"))
		return nil, 0, false
	}
	if err := errors.Join(o.observe.Check(), o.serve.Check()); err != nil {
		return wrong(err)
	}
	if o.traces != "" {
		if err := checkTraces(o.traces); err != nil {
			return wrong(err)
		}
	}
	if !(o.traceRatio >= 0 && o.traceRatio <= 1) {
		return wrong(fmt.Errorf("--trace-ratio %v is not between 0 and 1", o.traceRatio))
	}
	if f.NArg() > 0 {
		return wrong(fmt.Errorf("unexpected argument %q", f.Arg(0)))
	}
	for _, need := range []struct {
		flag  string
		given bool
	}{
		{"origin", o.origin != ""}, {"key", len(o.keys)+len(o.agentKeys) > 0 || o.role == "frontend" || o.role == "reader" || o.frozen()}, {"storage", o.storage != ""}, {"log-policy", o.logPolicy != ""},
		{"vendors", o.vendors != "" || o.role == "publisher" || o.role == "reader"}, {"listen", o.listen != ""},
	} {
		if !need.given {
			return wrong(fmt.Errorf("--%s is missing", need.flag))
		}
	}
	if strings.Contains(o.origin, "://") {
		return wrong(fmt.Errorf("--origin %q: want a URL without its scheme, such as log.example.org/2026", o.origin))
	}
	if o.checkpointInterval <= 0 || o.timeInterval <= 0 || o.maxFreshnessAge <= 0 || o.admitLate < 0 || o.maxWait <= 0 || o.maxInFlight <= 0 || o.witnessBudget < 0 {
		return wrong(errors.New("times and limits must be positive"))
	}
	return o, 0, true
}
