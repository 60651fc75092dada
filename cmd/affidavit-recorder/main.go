// Command affidavit-recorder is the sidecar that records what agents do in a trust
// domain, and has it logged: it speaks OpenTelemetry, takes agents' hook events and
// plain HTTP, and can sit in front of a model server. See
// client/session/recorder/README.md for who is trusted with what.
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
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/affidavit-log/affidavit/client/session/inference"
	"github.com/affidavit-log/affidavit/client/session/otlp"
	"github.com/affidavit-log/affidavit/client/session/recorder"
	"github.com/affidavit-log/affidavit/cmd/internal/observe"
	"github.com/affidavit-log/affidavit/cmd/internal/version"
)

const usage = `affidavit-recorder records agents' sessions in a trust domain, and has them logged.

  affidavit-recorder --config FILE [--check]

A configuration to begin with (client/session/recorder/README.md explains every key):

  log: https://log.example/2026
  log-policy: /etc/affidavit/log.policy
  token-file: /etc/affidavit/token
  vendor: https://vendor.example
  quotes: auto                      # configfs-tsm, /dev/tdx_guest or dstack, whichever works
  release: {name: "pkg:oci/sandbox", sha256: "d1d1…"}
  persistent-storage: none
  tenants: {"2026-11": "1f27…"}     # what the customer gave you for the month
  dir: /run/affidavit-recorder      # tmpfs, this user's alone: keys are here
  out: /var/lib/affidavit-recorder  # bundles, and private files for the customer
  socket: /run/affidavit/recorder.sock
  users: [1000]                     # user ids of agents
  otlp-grpc: 127.0.0.1:4317
  otlp-http: 127.0.0.1:4318

Then tell the agent. Any one of these will do:

  OpenTelemetry   OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318
                  GitHub Copilot Chat: github.copilot.chat.otel.enabled, .otlpEndpoint
                  Claude Code: CLAUDE_CODE_ENABLE_TELEMETRY=1 OTEL_LOGS_EXPORTER=otlp
                  Codex: [otel] in config.toml; Gemini CLI: telemetry in settings.json
  hooks           affidavit record hook --agent cursor|windsurf|claude-code --install
  plain HTTP      curl --unix-socket /run/affidavit/recorder.sock http://recorder/openapi.yaml

A finished session is in the directory out: ID.affidavit, to check with
"affidavit verify", and ID.session, with every action and its salt, for the customer.
The exit status is 64 for wrong usage, 1 if the recorder couldn't start or had to stop.

`

// Bounds on connections, and with them on memory.
const (
	maxConns    = 2048
	maxOTLP     = 64 // gRPC connections, of up to eight requests of 16 MiB each
	readTimeout = 30 * time.Second
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	f := pflag.NewFlagSet("affidavit-recorder", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() { fmt.Fprint(stderr, usage, f.FlagUsages()) }
	config := f.String("config", "", "configuration `FILE`, YAML")
	check := f.Bool("check", false, "check the configuration and get a quote, but serve nothing")
	o := observe.Flags(f)
	showVersion := f.Bool("version", false, "print what this command was built from, and end")
	if err := f.Parse(args); errors.Is(err, pflag.ErrHelp) {
		return 0
	} else if err == nil && *showVersion {
		fmt.Fprintln(stdout, version.Line("affidavit-recorder"))
		return 0
	} else if err == nil && (*config == "" || f.NArg() > 0) {
		err = errors.New("want --config, and no other arguments")
		fmt.Fprintf(stderr, "affidavit-recorder: %v\nRun \"affidavit-recorder --help\" for usage.\n", err)
		return 64
	} else if err = errors.Join(err, o.Check()); err != nil {
		fmt.Fprintf(stderr, "affidavit-recorder: %v\nRun \"affidavit-recorder --help\" for usage.\n", err)
		return 64
	}
	log := o.Logger(stderr)
	if err := serve(ctx, log, o, *config, *check); err != nil {
		log.Error("stopped", "err", err)
		return 1
	}
	return 0
}

// serve runs until ctx is done, or something can't go on.
func serve(ctx context.Context, log *slog.Logger, o *observe.Options, name string, check bool) (err error) {
	read := func() (*recorder.File, error) {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		f, err := recorder.ParseFile(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return f, nil
	}
	f, err := read()
	if err != nil {
		return err
	}
	c, err := f.Config(ctx, read)
	if err != nil {
		return err
	}
	if _, err := c.Session.Quotes.Quote(ctx, [64]byte{}); err != nil {
		return fmt.Errorf("no quotes: %w", err)
	}
	if check {
		log.Info("the configuration is good, and there are quotes", "quotes", fmt.Sprint(c.Session.Quotes))
		return nil
	}
	c.Log = log
	rec, err := recorder.Open(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rec.Close()) }()
	var proxy *inference.Proxy
	if f.Inference != nil {
		ic, err := f.InferenceConfig(ctx)
		if err != nil {
			return err
		}
		ic.Log = log
		if proxy, err = inference.Open(ic); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, proxy.Close()) }()
	}

	mapper := &otlp.Mapper{Hasher: rec.Hasher(), Clear: make(map[string]bool), GeminiRelatives: f.GeminiRelatives}
	for _, n := range f.Clear {
		mapper.Clear[n] = true
	}
	telemetry := otlp.NewServer(mapper, recorder.Sink{Recorder: rec})
	api := recorder.NewAPI(rec, f.Admins)
	both := http.NewServeMux() // on the socket, where the kernel says who calls
	both.Handle("/v1/", recorder.WithPeer(telemetry))
	both.Handle("/", api)

	g, ctx := errgroup.WithContext(ctx)
	socket, err := recorder.Listen(f.Socket, append(f.Users, f.Admins...))
	if err != nil {
		return err
	}
	socket.Refused = func(uid int) { log.Warn("a user who may not report was refused", "uid", uid) }
	listen(g, ctx, netutil.LimitListener(socket, maxConns), o.Requests(log, both), readTimeout)
	m := &metrics{recorder: rec, mapper: mapper, proxy: proxy}
	for addr, h := range map[string]http.Handler{
		f.OTLPHTTP: o.Requests(log, recorder.Local(telemetry)), f.API: o.Requests(log, recorder.Local(api)), f.Metrics: m.handler(),
	} {
		if addr == "" {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		listen(g, ctx, netutil.LimitListener(l, maxConns), h, readTimeout)
	}
	if proxy != nil {
		l, err := net.Listen("tcp", f.Inference.Listen)
		if err != nil {
			return err
		}
		listen(g, ctx, netutil.LimitListener(l, maxConns), o.Requests(log, proxy), 0) // answers take as long as models take
	}
	if f.OTLPGRPC != "" {
		l, err := net.Listen("tcp", f.OTLPGRPC)
		if err != nil {
			return err
		}
		s := grpc.NewServer(otlp.GRPCOptions()...)
		telemetry.Register(s)
		g.Go(func() error { return s.Serve(netutil.LimitListener(l, maxOTLP)) })
		g.Go(func() error { <-ctx.Done(); s.GracefulStop(); return nil })
	}
	m.ready.Store(true)
	log.Info("recording", "socket", f.Socket, "otlp-grpc", f.OTLPGRPC, "otlp-http", f.OTLPHTTP, "dir", filepath.Clean(f.Dir))
	return g.Wait()
}

// listen serves h until ctx is done.
func listen(g *errgroup.Group, ctx context.Context, l net.Listener, h http.Handler, read time.Duration) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: read, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10}
	g.Go(func() error {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return s.Shutdown(ctx)
	})
}
