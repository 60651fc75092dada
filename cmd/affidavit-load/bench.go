package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/cmd/internal/load"
)

// A bencher runs a log with four witnesses on this machine, and measures it from outside.
type bencher struct {
	bin, dir string
	env      *environment
	pcsURL   string
	figures  []Figure
	stderr   io.Writer
	seconds  time.Duration
}

const benchOrigin = "log.bench.example/2026"

func bench(ctx context.Context, fs *pflag.FlagSet, args []string, stdout, stderr io.Writer) error {
	bin := fs.String("bin", "bin", "`DIR` of the project's commands")
	dir := fs.String("dir", "", "`DIR` on the disk to measure, for what the log keeps; by default one below the directory for temporary files, and removed")
	duration := fs.Duration("duration", 60*time.Second, "how `long` admission is measured; the other runs take a third of it")
	jsonFile := fs.String("json", "", "`FILE` for the figures as JSON")
	rounds := fs.Int("rounds", 3, "`N` rounds of the Go benchmarks, of which the best counts; 0 leaves them out")
	benchtime := fs.String("benchtime", "300ms", "`TIME` of each Go benchmark a round")
	only := fs.Bool("go-only", false, "the Go benchmarks alone")
	if err := parse(fs, args); err != nil {
		return err
	}
	b := &bencher{stderr: stderr, seconds: *duration}
	var err error
	if b.bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	if *dir == "" {
		if *dir, err = os.MkdirTemp("", "affidavit-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(*dir)
	}
	if b.dir, err = filepath.Abs(*dir); err != nil {
		return err
	}
	if !*only {
		if err := b.system(ctx); err != nil {
			return err
		}
	}
	var missing error
	if *rounds > 0 {
		results, err := runGo(ctx, *rounds, *benchtime, stderr)
		if err != nil {
			return err
		}
		var figures []Figure
		figures, missing = goFigures(results)
		b.figures = append(b.figures, figures...)
	}
	printFigures(stdout, b.figures)
	if *jsonFile == "" {
		return missing
	}
	j, err := json.MarshalIndent(struct {
		Machine machine  `json:"machine"`
		Figures []Figure `json:"figures"`
	}{thisMachine(), b.figures}, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(missing, os.WriteFile(*jsonFile, append(j, '\n'), 0o644))
}

// system measures the log as a whole.
func (b *bencher) system(ctx context.Context) error {
	dir := filepath.Join(b.dir, "load")
	if err := makeEnvironment(dir, 4); err != nil {
		return err
	}
	var err error
	if b.env, err = openEnvironment(dir); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go serve(sctx, l, b.env.pcs())
	b.pcsURL = "http://" + l.Addr().String()
	if err := b.admission(ctx); err != nil {
		return fmt.Errorf("admission: %w", err)
	}
	if err := b.latency(ctx); err != nil {
		return fmt.Errorf("latency: %w", err)
	}
	return nil
}

// admission measures a log that gets as much as it can take, then its proofs and what it keeps.
func (b *bencher) admission(ctx context.Context) error {
	n, err := b.start(ctx, "full", "100ms")
	if err != nil {
		return err
	}
	defer n.stop()
	rep, err := b.run(ctx, n, load.Run{Clients: 448, Duration: b.seconds}, 6000)
	if err != nil {
		return err
	}
	b.add("synchronous verified admission with proof", "records/s", rep.Rate, ">= 4500")
	b.add("its latency, p99", "ms", rep.Latency.P99, "<= 400")
	b.add("its latency, p50", "ms", rep.Latency.P50, "")
	b.add("its processor time in the log", "µs/record", rep.Server.CPU, "<= 330")
	b.add("its resident memory", "MB", float64(rep.Server.RSS)/1e6, "<= 300")
	b.add("bytes written for each admitted, at full rate", "", rep.Server.Amplification, "<= 1.2")
	// Garbage collection takes what it needs, but it must end.
	var size int64
	for range 60 {
		last := size
		if size, err = diskUsage(filepath.Join(b.dir, "full", "log", "tessera")); err != nil {
			return err
		}
		if size == last {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Second):
		}
	}
	b.add("bytes kept for each of the leaves', after garbage collection", "", float64(size)/float64(rep.Bytes), "<= 1.1")
	rate, lat, err := load.Proofs(ctx, n.url, int64(rep.Records), 16, b.seconds/6, rand.Int64N)
	if err != nil {
		return err
	}
	b.add("proofs of random records over HTTP", "proofs/s", rate, ">= 5000")
	b.add("their latency from 16 clients, p50", "ms", lat.P50, "")
	return nil
}

// latency measures how long records take at rates that leave the log time.
func (b *bencher) latency(ctx context.Context) error {
	for _, run := range []struct {
		name, interval string
		rate           float64
		p50, p99       string
		amplification  string
	}{
		{"private", "20ms", 100, "<= 60", "<= 150", "<= 3"},
		{"private, busy", "100ms", 4000, "", "<= 250", ""},
		{"public", "1s", 100, "<= 700", "", ""},
	} {
		n, err := b.start(ctx, strings.ReplaceAll(run.name, ", ", "-"), run.interval)
		if err != nil {
			return err
		}
		rep, err := b.run(ctx, n, load.Run{Clients: 448, Rate: run.rate, Duration: b.seconds / 3}, run.rate)
		n.stop()
		if err != nil {
			return err
		}
		what := fmt.Sprintf("from POST to cosigned proof, checkpoints every %s, %.0f records/s", run.interval, run.rate)
		b.add(what+", p50", "ms", rep.Latency.P50, run.p50)
		b.add(what+", p99", "ms", rep.Latency.P99, run.p99)
		if run.amplification != "" {
			b.add("bytes written for each admitted, at that rate", "", rep.Server.Amplification, run.amplification)
		}
	}
	return nil
}

// run makes as many records as the rate asks for, and submits them.
func (b *bencher) run(ctx context.Context, n *network, run load.Run, rate float64) (*report, error) {
	count := int(run.Duration.Seconds()*rate) + 1
	fmt.Fprintf(b.stderr, "making %d records, then submitting for %v\n", count, run.Duration)
	stock, err := b.env.stock(ctx, n.url, load.Recipe{Entries: count, Platforms: 100, NewPlatforms: 0.001, Duplicates: 0.01, Size: 7500, Vendors: b.env.ids, Seed: 1}, b.stderr)
	if err != nil {
		return nil, err
	}
	run.URL = n.url
	rep, err := measure(ctx, b.env, stock, run, n.log.Process.Pid)
	if err != nil {
		return nil, err
	}
	rep.print(b.stderr)
	if len(rep.Wrong) > 0 {
		return nil, errWrong
	}
	return rep, nil
}

func (b *bencher) add(name, unit string, value float64, target string) {
	b.figures = append(b.figures, Figure{Name: name, Unit: unit, Value: value, Target: target})
}

// A network is a log with its witnesses.
type network struct {
	url   string
	log   *exec.Cmd
	procs []*exec.Cmd
}

func (n *network) stop() {
	for i := len(n.procs) - 1; i >= 0; i-- {
		n.procs[i].Process.Signal(syscall.SIGTERM)
		n.procs[i].Wait()
	}
}

// start makes and starts four witnesses with both kinds of keys, and a log that needs three of them.
func (b *bencher) start(ctx context.Context, name, interval string) (_ *network, err error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	n := &network{}
	defer func() {
		if err != nil {
			n.stop()
		}
	}()
	keygen := func(kind, name, file string) (string, error) {
		cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "affidavit"), "keygen", "--type", kind, "--name", name, "--out", file)
		cmd.Dir = dir
		cmd.Stderr = b.stderr
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	ed, err := keygen("log", benchOrigin, "log.key")
	if err != nil {
		return nil, err
	}
	pq, err := keygen("log-ml-dsa", benchOrigin, "log-ml-dsa.key")
	if err != nil {
		return nil, err
	}
	policy := fmt.Sprintf("log %s\nlog %s\n", ed, pq)
	write := func(name, text string) error { return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644) }
	if err := write("logs.txt", "logs/v0\n\nvkey "+ed+"\nqpd 100000000\ncontact bench\n"); err != nil {
		return nil, err
	}
	for i := 1; i <= 4; i++ {
		w := fmt.Sprintf("w%d", i)
		full := w + ".bench.example"
		ed, err := keygen("witness", full, w+".key")
		if err != nil {
			return nil, err
		}
		pq, err := keygen("witness-ml-dsa", full, w+"-ml-dsa.key")
		if err != nil {
			return nil, err
		}
		url, _, err := b.daemon(dir, n, "affidavit-witness", "--name", full, "--key", w+".key", "--key", w+"-ml-dsa.key",
			"--state", w+".db", "--init", "--log-list", "logs.txt", "--listen", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		policy += fmt.Sprintf("witness %s-ed %s %s\nwitness %s-pq %s %s\ngroup %s all %s-ed %s-pq\n", w, ed, url, w, pq, url, w, w, w)
	}
	if err := write("log.policy", policy+"group three 3 w1 w2 w3 w4\nquorum three\n"); err != nil {
		return nil, err
	}
	n.url, n.log, err = b.daemon(dir, n, "affidavit-log", "--init", "--origin", benchOrigin, "--key", "log.key", "--key", "log-ml-dsa.key", "--storage", "posix:log",
		"--log-policy", "log.policy", "--vendors", filepath.Join(b.env.dir, vendorsFile), "--root", filepath.Join(b.env.dir, rootFile), "--pcs-url", b.pcsURL,
		"--checkpoint-interval", interval, "--time-interval", "30s", "--listen", "127.0.0.1:0")
	return n, err
}

var listening = regexp.MustCompile(`\baddr="?(127\.0\.0\.1:\d+)`)

// daemon starts a daemon and waits until it says where it listens. What it says goes to a file.
func (b *bencher) daemon(dir string, n *network, command string, args ...string) (url string, cmd *exec.Cmd, err error) {
	cmd = exec.Command(filepath.Join(b.bin, command), args...)
	cmd.Dir = dir
	out, err := cmd.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	n.procs = append(n.procs, cmd)
	r := bufio.NewReader(out)
	var said bytes.Buffer
	for {
		line, err := r.ReadString('\n')
		said.WriteString(line)
		if m := listening.FindStringSubmatch(line); m != nil {
			file, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.log", command, cmd.Process.Pid)))
			if err != nil {
				return "", nil, err
			}
			go func() {
				defer file.Close()
				file.Write(said.Bytes())
				io.Copy(file, r)
			}()
			return "http://" + m[1], cmd, nil
		}
		if err != nil {
			return "", nil, fmt.Errorf("%s ended before it listened: %s", command, said.String())
		}
	}
}

// diskUsage returns the bytes in all files of a directory.
func diskUsage(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if os.IsNotExist(err) {
				return nil // garbage collection is at work
			}
			return err
		}
		info, err := d.Info()
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
