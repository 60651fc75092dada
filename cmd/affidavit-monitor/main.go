// Command affidavit-monitor follows a log and redoes everything that it claims to have done, so that nobody has to trust
// it. What it finds goes to files, webhooks and programs; what it has read it keeps in an index, which it answers
// questions from, and, if asked to, in a copy of the log. See client/monitor/README.md for what it checks.
//
// With --once it audits up to the newest checkpoint, and the exit status is the verdict: 0 good, 3 findings that don't
// concern the log's honesty, 4 the log or a record isn't what it should be, 64 wrong usage, 1 anything else.
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
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/cmd/internal/serve"
)

// Exit statuses, as those of affidavit.
const (
	exitGood       = 0
	exitError      = 1
	exitFindings   = 3
	exitNotGenuine = 4
	exitUsage      = 64
)

const (
	// shutdownTimeout is how long requests that are under way may take when the monitor stops.
	shutdownTimeout = 10 * time.Second

	// drainTimeout is how long --once waits for receivers. What they don't take stays queued for the next run.
	drainTimeout = 30 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, status, ok := parseFlags(args, stdout, stderr)
	if !ok {
		return status
	}
	monitor.Tune()
	logger := o.observe.Logger(stderr)
	fail := func(err error) int {
		logger.Error("stopped", "err", err)
		return exitError
	}

	// Before the database is opened, since it may take a while: an address that is in use is found out at once.
	listeners, err := o.bind()
	if err != nil {
		return fail(err)
	}
	defer listeners.close()
	ring, err := keys.Open(o.passphraseFile)
	if err != nil {
		return fail(err)
	}
	front, err := o.serve.Open(ctx, ring, logger)
	if err != nil {
		return fail(err)
	}
	d, err := o.open(ring, logger, stdout)
	if err != nil {
		return fail(err)
	}
	if o.once {
		status, err = d.once(ctx, o, stdout, stderr)
	} else {
		err = d.follow(ctx, o, front, listeners)
	}
	// Last: everything that writes has ended.
	if err := errors.Join(err, d.close()); err != nil {
		fail(err)
		if status == exitNotGenuine {
			return status // worse than not to know
		}
		return exitError
	}
	if !o.once {
		logger.Info("shut down")
	}
	return status
}

// once audits up to the newest checkpoint, and delivers what it finds.
func (d *daemon) once(ctx context.Context, o *options, stdout, stderr io.Writer) (int, error) {
	before := d.monitor.Status().Findings
	stopProgress := showProgress(d.monitor, stderr)
	pctx, stopLog := context.WithCancel(ctx)
	var progress sync.WaitGroup
	if !isTerminal(stderr) {
		progress.Go(func() { logProgress(pctx, d.monitor.Status, d.logger) })
	}
	err := d.monitor.Step(ctx)
	stopProgress()
	stopLog()
	progress.Wait()
	if ctx.Err() != nil {
		return exitError, errors.New("interrupted; what was audited so far is kept")
	}
	if err == nil && d.mirror != nil {
		err = d.mirror.Update(ctx)
	}
	dctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	// Also after a failed poll: that may be what was found.
	if derr := d.receivers.Drain(dctx); derr != nil {
		d.logger.Warn("not everything is delivered", "err", derr)
	}
	from := uint64(0)
	if o.onlyNew {
		from = before
	}
	sum, serr := d.summarise(from)
	if serr != nil {
		return exitError, serr
	}
	if !o.quiet() {
		if perr := d.print(stdout, before, sum); perr != nil {
			return exitError, perr
		}
	}
	return sum.status(), err
}

// follow polls, delivers, mirrors and serves until ctx is done, or something can't go on.
func (d *daemon) follow(ctx context.Context, o *options, front *serve.Front, l *listeners) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := d.monitor.Run(ctx); ctx.Err() == nil {
			return fmt.Errorf("the audit has ended: %w", err)
		}
		return nil
	})
	g.Go(func() error { d.receivers.Run(ctx); return nil })
	g.Go(func() error { logProgress(ctx, d.monitor.Status, d.logger); return nil })
	if d.mirror != nil {
		g.Go(func() error { d.mirror.Run(ctx); return nil })
	}
	if d.appraiser != nil {
		g.Go(func() error { return d.appraiser.Run(ctx) })
	}
	if d.pcs != nil {
		g.Go(func() error { d.pcs.Run(ctx); return nil })
	}
	if d.ui != nil {
		g.Go(func() error { return d.ui.Run(ctx) })
	}
	for _, s := range []struct {
		what    string
		l       net.Listener
		handler func() http.Handler
	}{
		{"pages and api", l.api, func() http.Handler { return d.apiHandler(l.public == nil) }}, {"public", l.public, d.publicHandler}, {"metrics", l.metrics, d.privateHandler},
	} {
		if s.l != nil {
			h, f := s.handler(), o.serve.Plain()
			if s.l != l.metrics {
				h, f = o.observe.Requests(d.logger, h), front
			}
			d.logger.Info("listening", "what", s.what, "addr", s.l.Addr().String())
			g.Go(func() error { return listen(ctx, s.l, f, h, d.logger) })
		}
	}
	return g.Wait()
}

// listen serves h until ctx is done, and then answers what is under way.
func listen(ctx context.Context, l net.Listener, front *serve.Front, h http.Handler, logger *slog.Logger) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       time.Minute,      // lists of sessions have megabytes
		WriteTimeout:      11 * time.Minute, // exports; the API bounds the time for each part itself
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- front.Serve(s, l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := s.Shutdown(end); err != nil {
		s.Close() // exports can be asked for again
	}
	return nil
}
