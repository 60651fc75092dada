package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/cmd/internal/load"
)

// A report is what run prints with --json.
type report struct {
	*load.Result
	Server *serverReport `json:"server,omitempty"`
}

// serverReport is the operating system's account of the log's process during the run.
type serverReport struct {
	CPU           float64 `json:"cpu_us_per_record"`
	RSS           int64   `json:"resident_bytes"`
	Written       int64   `json:"written_bytes"`
	Amplification float64 `json:"written_per_byte_admitted"`
}

func submit(ctx context.Context, fs *pflag.FlagSet, args []string, stdout, stderr io.Writer) error {
	dir := fs.String("dir", "", "`DIR` that setup made")
	url := fs.String("log", "", "`URL` of the log")
	duration := fs.Duration("duration", 10*time.Second, "how `long` to submit, without the time for making the records")
	entries := fs.Int("entries", 0, "`N` records to make, which also ends the run; by default enough for the rate, or for 6,000 a second")
	clients := fs.Int("clients", 256, "`N` connections with one record each under way")
	rate := fs.Float64("rate", 0, "`N` records a second (an open loop), instead of as fast as the answers come; latency then counts from when a record was due")
	platforms := fs.Int("platforms", 100, "`N` platforms that come again and again")
	newPlatforms := fs.Float64("new-platforms", 0, "`SHARE` of records of a platform that comes only once, 0 to 1")
	duplicates := fs.Float64("duplicates", 0, "`SHARE` of records that were submitted before")
	invalid := fs.Float64("invalid", 0, "`SHARE` of records whose quote has a wrong signature")
	size := fs.Int("size", 7500, "`BYTES` of a record, about")
	seed := fs.Uint64("seed", 1, "`N` that decides which record is of which kind")
	pid := fs.Int("pid", 0, "`PID` of the log on this machine, whose processor time, memory and writes are then reported")
	asJSON := fs.Bool("json", false, "print JSON")
	if err := parse(fs, args, "dir", "log"); err != nil {
		return err
	}
	e, err := openEnvironment(*dir)
	if err != nil {
		return err
	}
	n := *entries
	if n == 0 {
		n = int(max(*duration, time.Second).Seconds()*cmp.Or(*rate, 6000)) + 1
	}
	r := load.Recipe{Entries: n, Platforms: *platforms, NewPlatforms: *newPlatforms, Duplicates: *duplicates, Invalid: *invalid, Size: *size, Vendors: e.ids, Seed: *seed}
	stock, err := e.stock(ctx, *url, r, stderr)
	if err != nil {
		return err
	}
	rep, err := measure(ctx, e, stock, load.Run{URL: *url, Clients: *clients, Rate: *rate, Duration: *duration}, *pid)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(rep)
	} else {
		rep.print(stdout)
	}
	if err == nil && len(rep.Wrong) > 0 {
		err = errWrong
	}
	return err
}

// stock makes entries that commit to the log's newest checkpoint.
func (e *environment) stock(ctx context.Context, url string, r load.Recipe, stderr io.Writer) (*load.Stock, error) {
	c, err := client.New(url, client.Config{})
	if err != nil {
		return nil, usageError{fmt.Errorf("--log: %w", err)}
	}
	f, err := c.Freshness(ctx)
	if err != nil {
		return nil, err
	}
	r.Freshness = f.Freshness
	var progress func(int)
	if file, ok := stderr.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		progress = func(made int) { fmt.Fprintf(stderr, "\rmaking records: %d of %d ", made, r.Entries) }
		defer fmt.Fprint(stderr, "\r\x1b[K")
	}
	return load.Make(e.pki, r, progress)
}

// measure submits a stock, with an eye on the process pid if it isn't 0.
func measure(ctx context.Context, e *environment, stock *load.Stock, run load.Run, pid int) (*report, error) {
	run.Tokens = e.tokens
	stop := func() (load.Usage, error) { return load.Usage{}, nil }
	if pid != 0 {
		var err error
		if stop, err = load.Watch(ctx, pid); err != nil {
			return nil, err
		}
	}
	res, err := run.Do(ctx, stock)
	u, uerr := stop()
	if err == nil {
		err = uerr
	}
	if err != nil {
		return nil, err
	}
	rep := &report{Result: res}
	if pid != 0 {
		rep.Server = &serverReport{RSS: u.RSS, Written: u.Written}
		if res.Admitted > 0 {
			rep.Server.CPU = float64(u.CPU.Microseconds()) / float64(res.Admitted)
			rep.Server.Amplification = float64(u.Written) / float64(res.Bytes)
		}
	}
	return rep, nil
}

func (r *report) print(w io.Writer) {
	fmt.Fprintf(w, "admitted   %d in %.1f s: %.0f/s, %.1f MB\n", r.Admitted, r.Seconds, r.Rate, float64(r.Bytes)/1e6)
	fmt.Fprintf(w, "latency    p50 %.1f, p90 %.1f, p99 %.1f, max %.1f ms\n", r.Latency.P50, r.Latency.P90, r.Latency.P99, r.Latency.Max)
	if r.Behind > 1 {
		fmt.Fprintf(w, "late       the last record was sent %.0f ms after it was due: the log, or this program, didn't keep up\n", r.Behind)
	}
	fmt.Fprintf(w, "refused    %d invalid records, as they must be\nbusy       %d answers of 503, after which the record was sent again\n", r.Refused, r.Retries)
	if s := r.Server; s != nil {
		fmt.Fprintf(w, "server     %.0f µs of processor time a record, %.0f MB resident, %.2f bytes written for each of the records'\n", s.CPU, float64(s.RSS)/1e6, s.Amplification)
	}
	for _, what := range slices.Sorted(maps.Keys(r.Wrong)) {
		fmt.Fprintf(w, "WRONG      %s: %d times\n", what, r.Wrong[what])
	}
}
