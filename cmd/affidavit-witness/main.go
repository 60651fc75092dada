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
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

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

// maxConns bounds connections to each address, and with them memory: each may
// hold a request of some kilobytes.
const maxConns = 4096

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c := witness.Config{Logger: slog.New(slog.NewTextHandler(stderr, nil))}
	f := pflag.NewFlagSet("affidavit-witness", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.SortFlags = false
	f.Usage = func() { fmt.Fprint(stdout, usage, f.FlagUsagesWrapped(100)) }
	f.StringVar(&c.Name, "name", "", "`NAME` of the witness, such as witness.example/w1; all keys have it")
	keys := f.StringArray("key", nil, "`FILE` with a signing key of type 04 (Ed25519) or 06 (ML-DSA-44); repeatable")
	agentKeys := f.StringArray("ssh-agent-key", nil, "OpenSSH public key `FILE` of an Ed25519 key in the agent at $SSH_AUTH_SOCK; repeatable")
	f.StringVar(&c.State, "state", "", "database `FILE` with what was cosigned; keep it on a durable disk")
	f.BoolVar(&c.Init, "init", false, "begin a new database; refused if it exists")
	f.StringArrayVar(&c.LogLists, "log-list", nil, "`FILE|URL` with logs in the witness network's form logs/v0; only ever adds; repeatable")
	f.DurationVar(&c.LogListInterval, "log-list-interval", time.Hour, "`TIME` between two readings of the lists")
	logs := f.StringArray("log", nil, "`VKEY` of a log whose origin is the key's name, without rate limit; repeatable, also for further keys of a log")
	listen := f.String("listen", "", "`ADDR` of the public interface, such as :8080; put TLS in front of it")
	metricsListen := f.String("metrics-listen", "", "private `ADDR` for metrics, health and profiling, such as 127.0.0.1:8081")
	f.StringVar(&c.PublicURL, "public-url", "", "`URL` of the public interface, for its page")
	bastionAddr := f.String("bastion", "", "`HOST:PORT` of a bastion (c2sp.org/https-bastion) to be reached through, with or without --listen")
	bastionKey := f.String("bastion-key", "", "PEM `FILE` with the Ed25519 key for the bastion, made if absent; not a witness key")
	f.BoolVar(&c.Recover, "recover", false, "the state was restored from a backup: first advance to what the logs' checkpoints show that was cosigned")
	recoverFrom := f.StringArray("recover-from", nil, "`ORIGIN=FILE|URL` of a log's checkpoint, instead of https://ORIGIN/checkpoint; repeatable")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return 0
	} else if err != nil {
		return wrong(stderr, err)
	}
	for _, need := range []struct {
		met  bool
		what string
	}{
		{f.NArg() == 0, fmt.Sprintf("unexpected argument %q", f.Arg(0))},
		{c.Name != "", "--name is missing"},
		{c.State != "", "--state is missing"},
		{len(*keys)+len(*agentKeys) > 0, "no key: --key or --ssh-agent-key is missing"},
		{len(c.LogLists)+len(*logs) > 0, "no log: --log-list or --log is missing"},
		{*listen != "" || *bastionAddr != "", "no address: --listen or --bastion is missing"},
		{(*bastionAddr == "") == (*bastionKey == ""), "--bastion and --bastion-key go together"},
		{c.LogListInterval > 0, "--log-list-interval must be positive"},
	} {
		if !need.met {
			return wrong(stderr, errors.New(need.what))
		}
	}
	fail := func(err error) int {
		c.Logger.Error("stopped", "err", err)
		return 1
	}
	for _, name := range *keys {
		b, err := os.ReadFile(name)
		if err != nil {
			return fail(err)
		}
		k, err := checkpoint.ParseSigningKey(string(b))
		if err != nil {
			return fail(fmt.Errorf("%s: %w", name, err))
		}
		if fi, err := os.Stat(name); err == nil && fi.Mode()&0o077 != 0 {
			c.Logger.Warn("others can read this key", "file", name, "mode", fi.Mode())
		}
		c.Keys = append(c.Keys, k)
	}
	for _, name := range *agentKeys {
		b, err := os.ReadFile(name)
		if err != nil {
			return fail(err)
		}
		k, err := witness.AgentKey(c.Name, os.Getenv("SSH_AUTH_SOCK"), b)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", name, err))
		}
		c.Keys = append(c.Keys, k)
	}
	for _, s := range *logs {
		k, err := checkpoint.ParseVKey(s)
		if err != nil {
			return wrong(stderr, fmt.Errorf("--log: %w", err))
		}
		c.Logs = append(c.Logs, witness.Log{Origin: k.Name(), Key: k})
	}
	c.RecoverFrom = make(map[string][]string)
	for _, s := range *recoverFrom {
		origin, where, ok := strings.Cut(s, "=")
		if !ok || origin == "" || where == "" {
			return wrong(stderr, fmt.Errorf("--recover-from %q, want ORIGIN=FILE|URL", s))
		}
		c.RecoverFrom[origin] = append(c.RecoverFrom[origin], where)
	}

	w, err := witness.Open(c)
	if err != nil {
		return fail(err)
	}
	defer w.Close()
	for _, k := range c.Keys {
		c.Logger.Info("key", "vkey", k.VKey())
	}
	g, ctx := errgroup.WithContext(ctx)
	serve := func(what, addr string, h http.Handler) error {
		if addr == "" {
			return nil
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return fmt.Errorf("%s address: %w", what, err)
		}
		c.Logger.Info("listening", "what", what, "addr", l.Addr().String())
		l = netutil.LimitListener(l, maxConns)
		s := witness.NewServer(h)
		g.Go(func() error {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error { // answers what is under way, and ends
			<-ctx.Done()
			end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return s.Shutdown(end)
		})
		return nil
	}
	if *bastionAddr != "" {
		key, err := witness.LoadBastionKey(*bastionKey)
		if err != nil {
			return fail(err)
		}
		b := &witness.Bastion{Addr: *bastionAddr, Key: key, Handler: w.Handler(), Logger: c.Logger}
		g.Go(func() error { return b.Run(ctx) })
	}
	g.Go(func() error { return w.Run(ctx) })
	g.Go(func() error { return serve("public", *listen, w.Handler()) })
	g.Go(func() error { return serve("metrics", *metricsListen, w.MetricsHandler()) })
	if err := g.Wait(); err != nil {
		return fail(err)
	}
	c.Logger.Info("shut down")
	return 0
}

func wrong(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "affidavit-witness: %v\nTry --help.\n", err)
	return 64
}
