package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/monitor/appraiser"
	"github.com/affidavit-log/affidavit/client/monitor/deliver"
	"github.com/affidavit-log/affidavit/client/monitor/mirror"
	"github.com/affidavit-log/affidavit/client/webui"
	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/cmd/internal/version"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/witness"
)

// A daemon is everything that one process runs.
type daemon struct {
	logger    *slog.Logger
	monitor   *monitor.Monitor
	receivers *deliver.Set
	mirror    *mirror.Mirror       // nil without --mirror
	appraiser *appraiser.Appraiser // nil without --appraiser-key
	pcs       *pcs.Client          // nil without --pcs-url
	ui        *webui.UI            // nil without --listen
}

// open turns flags into a daemon. Nothing is asked of anybody yet.
func (o *options) open(ring *keys.Ring, logger *slog.Logger, stdout io.Writer) (_ *daemon, err error) {
	d := &daemon{logger: logger}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	c := monitor.Config{
		Origin: o.origin, AllowQuorumNone: o.allowQuorumNone, Dir: o.dir, Witnesses: o.witnesses, Interval: o.interval,
		Workers: o.workers, Reads: o.reads, Logger: logger,
	}
	if c.LogPolicy, err = readFile(o.logPolicy, checkpoint.ParsePolicy); err != nil {
		return nil, err
	}
	if o.root != "" {
		if c.Root, err = readFile(o.root, tdx.ParseRoot); err != nil {
			return nil, err
		}
		if !c.Root.IsIntel() {
			logger.Warn("the root is not Intel's: nothing in this log is evidence of real hardware", "root", c.Root.String())
		}
	}
	if o.appraisalPolicy != "" {
		if c.Appraisal, err = readFile(o.appraisalPolicy, verifier.ParsePolicy); err != nil {
			return nil, err
		}
	}
	if o.watch != "" {
		if c.Watch, err = readFile(o.watch, parseWatch); err != nil {
			return nil, err
		}
	}
	if c.Log, err = client.New(o.log, client.Config{}); err != nil {
		return nil, err
	}
	if len(c.Witnesses) == 0 {
		logger.Warn("no --witness: whether the log shows others another history is only seen if they tell")
	}
	if o.pcsURL != "" {
		if d.pcs, err = pcs.New(pcs.Config{URL: o.pcsURL, Root: c.Root, CacheDir: filepath.Join(o.dir, "collateral"), Logger: logger}); err != nil {
			return nil, err
		}
		c.PCS = d.pcs
	}
	if o.mirror != "" {
		c.OnBundle = func(n uint64, entries [][]byte) { d.mirror.Offer(n, entries) } // not before anything runs
	}
	if d.monitor, err = monitor.Open(c); err != nil {
		return nil, err
	}
	if o.listen != "" {
		u := webui.Config{
			Monitor: d.monitor, LogPolicy: c.LogPolicy, AllowQuorumNone: o.allowQuorumNone, Root: c.Root, Appraisal: c.Appraisal,
			Tool: version.Line("affidavit-monitor"), Logger: logger,
		}
		if o.webToken != "" {
			if u.Token, err = keys.Token(o.webToken, minToken); err != nil {
				return nil, err
			}
		}
		if d.ui, err = webui.New(u); err != nil {
			return nil, err
		}
	}
	routes, err := o.routes(stdout)
	if err != nil {
		return nil, err
	}
	if d.receivers, err = deliver.New(d.monitor, logger, routes...); err != nil {
		return nil, err
	}
	if o.mirror != "" {
		if d.mirror, err = mirror.Open(mirror.Config{Dir: o.mirror, Origin: d.monitor.Origin(), Source: d.monitor, Log: c.Log, Logger: logger}); err != nil {
			return nil, err
		}
	}
	if len(o.appraiserKeys) > 0 {
		if err := d.openAppraiser(o, ring, c.LogPolicy); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// openAppraiser opens the cosigner, whose state is beside the monitor's.
func (d *daemon) openAppraiser(o *options, ring *keys.Ring, policy *checkpoint.Policy) (err error) {
	c := appraiser.Config{
		Witness: witness.Config{
			State: filepath.Join(o.dir, "appraiser.db"), Init: o.appraiserInit, Recover: o.appraiserRecover,
			RecoverFrom: map[string][]string{d.monitor.Origin(): {strings.TrimRight(o.log, "/") + "/checkpoint"}}, Logger: d.logger,
		},
		Source:         appraiser.FromMonitor(d.monitor),
		ExceptionsFile: o.exceptions,
	}
	for _, file := range o.appraiserKeys {
		k, err := ring.Signing(file)
		if err != nil {
			return err
		}
		c.Witness.Keys = append(c.Witness.Keys, k)
		c.Witness.Name = k.Name()
	}
	for _, l := range policy.Logs() {
		if l.Key.Name() == d.monitor.Origin() {
			c.Witness.Logs = append(c.Witness.Logs, witness.Log{Origin: l.Key.Name(), Key: l.Key})
		}
	}
	if d.appraiser, err = appraiser.Open(c); err != nil {
		return err
	}
	for _, k := range c.Witness.Keys {
		d.logger.Info("appraiser's key", "vkey", k.VKey())
	}
	return nil
}

// close closes what is open.
func (d *daemon) close() error {
	var errs []error
	if d.appraiser != nil {
		errs = append(errs, d.appraiser.Close())
	}
	if d.monitor != nil {
		errs = append(errs, d.monitor.Close())
	}
	if d.pcs != nil {
		d.pcs.Close()
	}
	return errors.Join(errs...)
}

// readFile parses a file.
func readFile[T any](name string, parse func([]byte) (T, error)) (v T, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return v, err
	}
	if v, err = parse(b); err != nil {
		return v, fmt.Errorf("%s: %w", name, err)
	}
	return v, nil
}

// minToken is how many characters a token has at least: whoever can reach the address can guess.
const minToken = 20

// listeners are the addresses that the daemon serves at. Each is nil if it isn't given.
type listeners struct{ api, public, metrics net.Listener }

func (o *options) bind() (*listeners, error) {
	l := new(listeners)
	for _, a := range []struct {
		flag, addr string
		to         *net.Listener
	}{{"listen", o.listen, &l.api}, {"public-listen", o.publicListen, &l.public}, {"metrics-listen", o.metricsListen, &l.metrics}} {
		if a.addr == "" {
			continue
		}
		var err error
		if *a.to, err = net.Listen("tcp", a.addr); err != nil {
			l.close()
			return nil, fmt.Errorf("--%s: %w", a.flag, err)
		}
	}
	return l, nil
}

// close closes what wasn't closed by a server.
func (l *listeners) close() {
	for _, x := range []net.Listener{l.api, l.public, l.metrics} {
		if x != nil {
			x.Close() // a second time does no harm
		}
	}
}

// apiHandler is the pages and the monitor's API, which tell whoever can reach them, and has the token if there is one, what
// is watched; and, if there is no address of their own for these, what is public.
func (d *daemon) apiHandler(public bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/", d.ui.Protect(d.monitor.Handler()))
	mux.Handle("GET /api/deliverers", d.ui.Protect(http.HandlerFunc(d.deliverers)))
	if !public || d.mirror == nil && d.appraiser == nil {
		mux.Handle("/", d.ui)
		return mux
	}
	for _, p := range webui.Patterns {
		mux.Handle(p, d.ui)
	}
	mux.Handle("/", d.publicHandler())
	return mux
}

// publicHandler is what the public may see: the mirror, as a log, and the appraising cosigner.
func (d *daemon) publicHandler() http.Handler {
	mux := http.NewServeMux()
	if d.mirror != nil {
		h := d.mirror.Handler()
		for _, p := range []string{"/checkpoint", "/tile/", "/blob/"} {
			mux.Handle(p, h)
		}
	}
	if d.appraiser != nil {
		mux.Handle("/", d.appraiser.Handler())
	}
	return mux
}
