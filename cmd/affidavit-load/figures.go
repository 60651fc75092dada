package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// A Figure is one measured value, and what was asked of it.
type Figure struct {
	Name     string  `json:"name"`
	Unit     string  `json:"unit,omitempty"`
	Value    float64 `json:"value"`
	Target   string  `json:"target,omitempty"`   // such as "<= 400" or ">= 4500"
	Baseline string  `json:"baseline,omitempty"` // what a ratio's denominator is, measured in the same run
	Base     float64 `json:"baseline_value,omitempty"`
}

// met says whether the target is met: "yes", "no", or "" without one.
func (f Figure) met() string {
	op, bound, ok := strings.Cut(f.Target, " ")
	if !ok {
		return ""
	}
	v, err := strconv.ParseFloat(bound, 64)
	if err != nil {
		return ""
	}
	if op == "<=" && f.Value <= v || op == ">=" && f.Value >= v {
		return "yes"
	}
	return "no"
}

// printFigures prints figures as a table, which is Markdown too.
func printFigures(w io.Writer, figures []Figure) {
	m := thisMachine()
	fmt.Fprintf(w, "%s, %d processors, %s\n\n", m.CPU, m.Processors, m.Go)
	rows := [][]string{{"figure", "value", "", "asked for", "met"}}
	for _, f := range figures {
		name := f.Name
		if f.Baseline != "" {
			name += " / " + f.Baseline
		}
		rows = append(rows, []string{name, strconv.FormatFloat(f.Value, 'f', decimals(f.Value), 64), f.Unit, f.Target, f.met()})
	}
	width := make([]int, 5)
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for i, r := range rows {
		for j, c := range r {
			fmt.Fprintf(w, "| %s%s ", c, strings.Repeat(" ", width[j]-len([]rune(c))))
		}
		fmt.Fprintln(w, "|")
		if i == 0 {
			for j := range r {
				fmt.Fprintf(w, "|%s", strings.Repeat("-", width[j]+2))
			}
			fmt.Fprintln(w, "|")
		}
	}
}

func decimals(v float64) int {
	switch {
	case v >= 100:
		return 0
	case v >= 10:
		return 1
	}
	return 2
}

// A machine says where figures come from.
type machine struct {
	CPU        string `json:"cpu"`
	Processors int    `json:"processors"`
	Go         string `json:"go"`
	OS         string `json:"os"`
}

func thisMachine() machine {
	m := machine{CPU: runtime.GOARCH, Processors: runtime.NumCPU(), Go: runtime.Version(), OS: runtime.GOOS}
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}

// goPackages have the benchmarks that figures come from.
var goPackages = []string{
	"./verifier/tdx", "./verifier/tdx/tdxsim", "./verifier", "./log", "./log/record", "./log/checkpoint", "./client/bundle", "./client/session",
	"./client/session/otlp", "./client/session/recorder", "./client/monitor", "./client/report", "./client/export", "./cmd/affidavit", "./witness",
}

// goResults are the benchmarks' values, by package and name without "Benchmark", then by unit: the least and the most
// of all rounds.
type goResults map[string]map[string][2]float64

// runGo runs the benchmarks of this checkout. One process a round, so that a slow spell of the machine hits a figure and
// its baseline alike.
func runGo(ctx context.Context, rounds int, benchtime string, stderr io.Writer) (goResults, error) {
	results := goResults{}
	for range rounds {
		cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-p", "1", "-run", "^$", "-bench", ".", "-benchtime", benchtime}, goPackages...)...)
		cmd.Stderr = stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		var all bytes.Buffer
		results.read(io.TeeReader(out, &all), stderr)
		if err := cmd.Wait(); err != nil {
			return nil, fmt.Errorf("go test: %w\n%s", err, all.Bytes())
		}
	}
	return results, nil
}

// read reads the output of "go test -bench", and shows its benchmarks.
func (g goResults) read(r io.Reader, show io.Writer) {
	pkg := ""
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 2 && f[0] == "pkg:":
			_, pkg, _ = strings.Cut(f[1], "affidavit-log/affidavit/")
		case len(f) >= 4 && strings.HasPrefix(f[0], "Benchmark"):
			fmt.Fprintln(show, lines.Text())
			name := strings.TrimPrefix(f[0], "Benchmark")
			if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of processors
				name = name[:i]
			}
			key := pkg + " " + name
			if g[key] == nil {
				g[key] = map[string][2]float64{}
			}
			for i := 2; i+1 < len(f); i += 2 {
				v, err := strconv.ParseFloat(f[i], 64)
				if err != nil {
					continue
				}
				m, ok := g[key][f[i+1]]
				if !ok {
					m = [2]float64{v, v}
				}
				g[key][f[i+1]] = [2]float64{min(m[0], v), max(m[1], v)}
			}
		}
	}
	io.Copy(io.Discard, r)
}

// A goFigure is computed of benchmarks.
type goFigure struct {
	name, unit string
	target     string
	of         string // package and benchmark; those that end in "/" are all below it, of which the slowest counts
	value      string // unit of the benchmark; "ns/op" unless given
	scale      float64
	most       bool   // the most of all rounds counts, as for a rate
	by         string // the baseline: another benchmark, of which value is taken too
	byName     string
}

// unitOf returns the benchmark's unit of the value.
func (f goFigure) unitOf() string { return cmp.Or(f.value, "ns/op") }

var goTable = []goFigure{
	{name: "verify a quote of a known platform", byName: "two bare P-256 verifications", of: "verifier/tdx VerifyKnownPlatform", by: "verifier/tdx P256VerifyTwice", target: "<= 1.1"},
	{name: "verify a quote of a new platform", byName: "two bare P-256 verifications", of: "verifier/tdx VerifyCold", by: "verifier/tdx P256VerifyTwice", target: "<= 4"},
	{name: "go-tdx-guest v0.3.1 with collateral and CRLs", byName: "the same by us", of: "verifier/tdx GoTDXGuestFull", by: "verifier/tdx VerifyKnownPlatform", target: ">= 10"},
	{name: "parse a quote", unit: "µs", of: "verifier/tdx ParseQuote", scale: 1e-3, target: "<= 2"},
	{name: "Tessera's bare Appender, leaves of a record's size, 256 at a time", unit: "leaves/s", of: "log Appender", value: "entries/s", most: true},
	{name: "add over HTTP without witnesses, 256 clients", byName: "Tessera's bare Appender", of: "log Add/checkpoint=100ms/clients=256", by: "log Appender", value: "entries/s", most: true},
	{name: "from candidate to publication with four witnesses", unit: "ms", of: "log Publish/witnesses=4", value: "ms/publication"},
	{name: "proof of a random record from disk, in process, p50", unit: "µs", of: "log Proof/random", value: "µs/p50", target: "<= 200"},
	{name: "proofs of random records over HTTP, clients in the same process", unit: "proofs/s", of: "log Proof/http", value: "proofs/s", most: true},
	{name: "check a bundle, warm", unit: "ms", of: "client/bundle CheckWarm", scale: 1e-6, target: "<= 0.5"},
	{name: "check a bundle, cold", unit: "ms", of: "client/bundle CheckCold", scale: 1e-6, target: "<= 5"},
	{name: "check a bundle, warm", byName: "its signatures alone", of: "client/bundle CheckWarm", by: "client/bundle BareCryptoWarm"},
	{name: "affidavit verify, as a process", unit: "ms", of: "cmd/affidavit VerifyProcess/verify", scale: 1e-6, target: "<= 40"},
	{name: "record an action", unit: "µs", of: "client/session Action/fastest_spell", value: "ns/action", scale: 1e-3, target: "<= 5"},
	{name: "record an action / one write and two hashes of as many bytes", of: "client/session Action/fastest_spell", value: "actions/baseline"},
	{name: "finish a session of 10,000 actions, without quote and network", unit: "ms", of: "client/session Finish", scale: 1e-6, target: "<= 50"},
	{name: "spans from one exporter", unit: "spans/s", of: "client/session/recorder Record/1", value: "spans/s", most: true, target: ">= 50000"},
	{name: "spans from four exporters", unit: "spans/s", of: "client/session/recorder Record/4", value: "spans/s", most: true, target: ">= 50000"},
	{name: "decode and map spans", byName: "protobuf alone", of: "client/session/otlp Spans/mapped", by: "client/session/otlp Spans/protobuf"},
	{name: "records audited", unit: "records/s", of: "client/monitor Audit", value: "records/s", most: true},
	{name: "audit / bare verifications on all processors, rate", unit: "%", of: "client/monitor Audit", value: "%of-bare", most: true, target: ">= 80"},
	{name: "audit / bare verifications, processor time", unit: "%", of: "client/monitor Audit", value: "%of-bare-cpu", most: true, target: ">= 80"},
	{name: "the slowest search (AFFIDAVIT_BENCH_RECORDS=1000000 for 10 million keys)", unit: "ms", of: "client/monitor Questions/search/", scale: 1e-6, target: "<= 10"},
	{name: "the slowest recall (likewise)", unit: "ms", of: "client/monitor Questions/recall/", scale: 1e-6, target: "<= 2000"},
	{name: "a report in HTML and PDF with its check", unit: "ms", of: "client/report Report/all", scale: 1e-6, target: "<= 200"},
	{name: "a report in HTML and PDF with its check", byName: "the check", of: "client/report Report/all", by: "client/report Report/check"},
	{name: "a report on 100,000 sessions", unit: "ms", of: "client/report Period", scale: 1e-6, target: "<= 5000"},
	{name: "its memory", unit: "MB", of: "client/report Period", value: "MB", most: true, target: "<= 300"},
	{name: "records exported to OCSF", unit: "records/s", of: "client/export OCSF/affidavit", value: "records/s", most: true, target: ">= 50000"},
	{name: "export a record to OCSF", byName: "encoding/json alone", of: "client/export OCSF/affidavit", by: "client/export OCSF/json"},
}

// goFigures computes the table. A benchmark that is missing is an error, beside the figures that aren't.
func goFigures(g goResults) ([]Figure, error) {
	var out []Figure
	var errs []error
	get := func(key string, t goFigure) (float64, bool) {
		unit := t.unitOf()
		pick := func(m [2]float64) float64 {
			if t.most {
				return m[1]
			}
			return m[0]
		}
		if !strings.HasSuffix(key, "/") {
			m, ok := g[key][unit]
			return pick(m), ok
		}
		var v float64
		found := false
		for k := range g {
			if m, ok := g[k][unit]; ok && strings.HasPrefix(k, key) {
				v, found = max(v, pick(m)), true
			}
		}
		return v, found
	}
	for _, t := range goTable {
		v, ok := get(t.of, t)
		if !ok {
			errs = append(errs, fmt.Errorf("benchmark %s has no %s", t.of, t.unitOf()))
			continue
		}
		f := Figure{Name: t.name, Unit: t.unit, Target: t.target, Value: v * cmp.Or(t.scale, 1), Baseline: t.byName}
		if t.by != "" {
			if f.Base, ok = get(t.by, t); !ok || f.Base == 0 {
				errs = append(errs, fmt.Errorf("benchmark %s has no %s", t.by, t.unitOf()))
				continue
			}
			f.Value = v / f.Base
		}
		out = append(out, f)
	}
	return out, errors.Join(errs...)
}
