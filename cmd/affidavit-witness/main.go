// Command affidavit-witness is a transparency log witness (c2sp.org/tlog-witness):
// it cosigns the checkpoints of the logs that it is told of, as long as they
// continue each other. See witness/README.md for operators.
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
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/cmd/internal/observe"
	"github.com/affidavit-log/affidavit/cmd/internal/serve"
	"github.com/affidavit-log/affidavit/cmd/internal/version"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/witness"
)

const usage = `affidavit-witness cosigns checkpoints of transparency logs (c2sp.org/tlog-witness).

  affidavit-witness --name NAME --key FILE [--key FILE] --state FILE [--init]
      --log-list FILE|URL [--log VKEY] --listen ADDR [--metrics-listen ADDR]

Begin with two keys of one name, and run once with --init:

  affidavit keygen --type witness        --name witness.example/w1 --out w1.key
  affidavit keygen --type witness-ml-dsa --name witness.example/w1 --out w1-ml-dsa.key
  affidavit-witness --name witness.example/w1 --key w1.key --key w1-ml-dsa.key \
      --state w1.db --init --log-list logs.txt --listen :8080 --metrics-listen 127.0.0.1:8081

Never copy the keys to a second witness, and never run on an old copy of the state
without --recover: whoever makes a witness forget what it cosigned can fork a log.
The exit status is 64 for wrong usage, 1 if the witness couldn't start or had to stop.

`

// Exit statuses.
const (
	exitUsage = 64
	exitError = 1
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	o, status, ok := parseFlags(args, stdout, stderr)
	if !ok {
		return status
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	logger := o.observe.Logger(stderr)
	fail := func(err error) int {
		logger.Error("stopped", "err", err)
		return exitError
	}

	ring, err := keys.Open(o.passphraseFile)
	if err != nil {
		return fail(err)
	}
	front, err := o.serve.Open(ctx, ring, logger)
	if err != nil {
		return fail(err)
	}
	c, err := o.config(ring, logger)
	if err != nil {
		return fail(err)
	}
	w, err := witness.Open(*c)
	if err != nil {
		return fail(err)
	}
	defer w.Close()
	for _, k := range c.Keys {
		logger.Info("key", "vkey", k.VKey())
	}

	g, ctx := errgroup.WithContext(ctx)
	public := o.observe.Requests(logger, w.Handler())
	if o.bastion != "" {
		key, err := witness.LoadBastionKey(o.bastionKey)
		if err != nil {
			return fail(err)
		}
		b := &witness.Bastion{Addr: o.bastion, Key: key, Handler: public, Logger: logger}
		g.Go(func() error { return b.Run(ctx) })
	}
	g.Go(func() error { return w.Run(ctx) })
	g.Go(func() error { return listen(ctx, logger, "public", o.listen, front, public) })
	g.Go(func() error {
		return listen(ctx, logger, "metrics", o.metricsListen, o.serve.Plain(), w.MetricsHandler())
	})
	if err := g.Wait(); err != nil {
		return fail(err)
	}
	logger.Info("shut down")
	return 0
}

// listen serves h at addr until ctx is done, and then answers what is under way. Without an address it does nothing.
func listen(ctx context.Context, logger *slog.Logger, what, addr string, front *serve.Front, h http.Handler) error {
	if addr == "" {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s address: %w", what, err)
	}
	logger.Info("listening", "what", what, "addr", l.Addr().String())
	s := witness.NewServer(h)
	ended := make(chan error, 1)
	go func() { ended <- front.Serve(s, l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return s.Shutdown(end)
}

// config turns flags into the witness's configuration, and reads the keys.
func (o *options) config(ring *keys.Ring, logger *slog.Logger) (*witness.Config, error) {
	c := &witness.Config{
		Name: o.name, State: o.state, Init: o.init, Logs: o.knownLogs, LogLists: o.logLists, LogListInterval: o.logListInterval,
		PublicURL: o.publicURL, Recover: o.recover, RecoverFrom: o.recoverFrom, Logger: logger,
	}
	for _, name := range o.keys {
		k, err := ring.Signing(name)
		if err != nil {
			return nil, err
		}
		c.Keys = append(c.Keys, k)
	}
	for _, name := range o.agentKeys {
		k, err := keys.AgentFile(checkpoint.CosignatureEd25519, o.name, name)
		if err != nil {
			return nil, err
		}
		c.Keys = append(c.Keys, k)
	}
	return c, nil
}

// options is what the command line says.
type options struct {
	name, state, listen, metricsListen string
	passphraseFile                     string
	publicURL, bastion, bastionKey     string
	keys, agentKeys, logLists          []string
	logListInterval                    time.Duration
	init, recover                      bool
	observe                            *observe.Options
	serve                              *serve.Options

	knownLogs   []witness.Log
	recoverFrom map[string][]string // by origin
}

// parseFlags returns what args say, or, if there is nothing to run, the exit status.
func parseFlags(args []string, stdout, stderr io.Writer) (*options, int, bool) {
	o := &options{recoverFrom: make(map[string][]string)}
	f := pflag.NewFlagSet("affidavit-witness", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.SortFlags = false
	f.Usage = func() { fmt.Fprint(stdout, usage, f.FlagUsagesWrapped(100)) }
	f.StringVar(&o.name, "name", "", "`NAME` of the witness, such as witness.example/w1; all keys have it")
	f.StringArrayVar(&o.keys, "key", nil, "`FILE` (mode 0600) with a signing key of type 04 (Ed25519) or 06 (ML-DSA-44); repeatable")
	f.StringVar(&o.passphraseFile, "passphrase-file", "", "`FILE` (mode 0600) with the passphrase of keys that are encrypted (affidavit keygen --passphrase-file)")
	f.StringArrayVar(&o.agentKeys, "ssh-agent-key", nil, "OpenSSH public key `FILE` of an Ed25519 key in the agent at $SSH_AUTH_SOCK; repeatable")
	f.StringVar(&o.state, "state", "", "database `FILE` with what was cosigned; keep it on a durable disk")
	f.BoolVar(&o.init, "init", false, "begin a new database; refused if it exists")
	f.StringArrayVar(&o.logLists, "log-list", nil, "`FILE|URL` with logs in the witness network's form logs/v0; only ever adds; repeatable")
	f.DurationVar(&o.logListInterval, "log-list-interval", time.Hour, "`TIME` between two readings of the lists")
	logs := f.StringArray("log", nil, "`VKEY` of a log whose origin is the key's name, without rate limit; repeatable, also for further keys of a log")
	f.StringVar(&o.listen, "listen", "", "`ADDR` of the public interface, such as :443 with --tls-cert; without that, put TLS in front of it")
	f.StringVar(&o.metricsListen, "metrics-listen", "", "private `ADDR` for metrics, health and profiling, such as 127.0.0.1:8081")
	f.StringVar(&o.publicURL, "public-url", "", "`URL` of the public interface, for its page")
	f.StringVar(&o.bastion, "bastion", "", "`HOST:PORT` of a bastion (c2sp.org/https-bastion) to be reached through, with or without --listen")
	f.StringVar(&o.bastionKey, "bastion-key", "", "PEM `FILE` with the Ed25519 key for the bastion, made if absent; not a witness key")
	f.BoolVar(&o.recover, "recover", false, "the state was restored from a backup: first advance to what the logs' checkpoints show that was cosigned")
	recoverFrom := f.StringArray("recover-from", nil, "`ORIGIN=FILE|URL` of a log's checkpoint, instead of https://ORIGIN/checkpoint; repeatable")
	o.serve = serve.Flags(f)
	o.observe = observe.Flags(f)
	showVersion := f.Bool("version", false, "print what this command was built from, and end")

	wrong := func(err error) (*options, int, bool) {
		fmt.Fprintf(stderr, "affidavit-witness: %v\nTry --help.\n", err)
		return nil, exitUsage, false
	}
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return nil, 0, false
	} else if err != nil {
		return wrong(err)
	}
	if *showVersion {
		fmt.Fprintln(stdout, version.Line("affidavit-witness"))
		return nil, 0, false
	}
	if err := errors.Join(o.observe.Check(), o.serve.Check()); err != nil {
		return wrong(err)
	}
	for _, need := range []struct {
		met  bool
		what string
	}{
		{f.NArg() == 0, fmt.Sprintf("unexpected argument %q", f.Arg(0))},
		{o.name != "", "--name is missing"},
		{o.state != "", "--state is missing"},
		{len(o.keys)+len(o.agentKeys) > 0, "no key: --key or --ssh-agent-key is missing"},
		{len(o.logLists)+len(*logs) > 0, "no log: --log-list or --log is missing"},
		{o.listen != "" || o.bastion != "", "no address: --listen or --bastion is missing"},
		{(o.bastion == "") == (o.bastionKey == ""), "--bastion and --bastion-key go together"},
		{o.logListInterval > 0, "--log-list-interval must be positive"},
	} {
		if !need.met {
			return wrong(errors.New(need.what))
		}
	}
	for _, s := range *logs {
		k, err := checkpoint.ParseVKey(s)
		if err != nil {
			return wrong(fmt.Errorf("--log: %w", err))
		}
		o.knownLogs = append(o.knownLogs, witness.Log{Origin: k.Name(), Key: k})
	}
	for _, s := range *recoverFrom {
		origin, where, ok := strings.Cut(s, "=")
		if !ok || origin == "" || where == "" {
			return wrong(fmt.Errorf("--recover-from %q, want ORIGIN=FILE|URL", s))
		}
		o.recoverFrom[origin] = append(o.recoverFrom[origin], where)
	}
	return o, 0, true
}
