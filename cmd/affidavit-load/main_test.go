package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sessionlog "github.com/affidavit-log/affidavit/log"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

func command(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(t.Context(), args, &out, &errs); got != want {
		t.Fatalf("%v: status %d, want %d\n%s%s", args, got, want, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// A log under the set-up's root admits what run submits, and its every answer is as it must be.
func TestRunAgainstALog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "load")
	command(t, 0, "setup", "--dir", dir, "--vendors", "2")
	env, err := openEnvironment(dir)
	if err != nil {
		t.Fatal(err)
	}
	intel := httptest.NewServer(env.pcs())
	defer intel.Close()
	url := openLog(t, dir, intel.URL)

	out, _ := command(t, 0, "run", "--dir", dir, "--log", url, "--entries", "60", "--clients", "8", "--duplicates", "0.2", "--invalid", "0.2", "--new-platforms", "0.1",
		"--pid", "0", "--json")
	var rep report
	if err := json.Unmarshal([]byte(out), &rep); err != nil {
		t.Fatal(err)
	}
	if rep.Admitted+rep.Refused != 60 || rep.Refused == 0 || rep.Records == 0 || rep.Records >= rep.Admitted || rep.Latency.P50 <= 0 {
		t.Errorf("%s", out)
	}
	out, _ = command(t, 0, "run", "--dir", dir, "--log", url, "--rate", "200", "--duration", "100ms", "--clients", "4")
	if !strings.Contains(out, "admitted") || strings.Contains(out, "WRONG") {
		t.Error(out)
	}
}

func openLog(t *testing.T, dir, intelURL string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, rootFile))
	if err != nil {
		t.Fatal(err)
	}
	root, err := tdx.ParseRoot(b)
	if err != nil {
		t.Fatal(err)
	}
	src, err := pcs.New(pcs.Config{URL: intelURL, Root: root})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.Close)
	key, err := checkpoint.GenerateKey(checkpoint.Ed25519, benchOrigin, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	policy, err := checkpoint.ParsePolicy([]byte("log " + key.VKey() + "\nquorum none\n"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := sessionlog.Open(t.Context(), sessionlog.Config{
		Origin: benchOrigin, Keys: []*checkpoint.SigningKey{key}, Dir: filepath.Join(dir, "log"), Create: true, LogPolicy: policy, AllowQuorumNone: true,
		VendorsFile: filepath.Join(dir, vendorsFile), Root: root, Collateral: src, CheckpointInterval: 20 * time.Millisecond, TimeInterval: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(l.Handler())
	t.Cleanup(func() {
		srv.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := l.Shutdown(ctx); err != nil {
			t.Error(err)
		}
	})
	return srv.URL
}

// A log that answers nonsense is status 3.
func TestWrongAnswers(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "load")
	command(t, 0, "setup", "--dir", dir)
	env, err := openEnvironment(dir)
	if err != nil {
		t.Fatal(err)
	}
	intel := httptest.NewServer(env.pcs())
	defer intel.Close()
	good := openLog(t, dir, intel.URL)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Write([]byte("c2sp.org/tlog-proof@v1\nindex 5\n\n"))
			return
		}
		http.Redirect(w, r, good+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	out, _ := command(t, exitWrong, "run", "--dir", dir, "--log", srv.URL, "--entries", "3")
	if !strings.Contains(out, "WRONG") || !strings.Contains(out, "both at index 5") {
		t.Error(out)
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"affidavit load setup", nil},
		{`no command "walk"`, []string{"walk"}},
		{"--dir is required", []string{"setup"}},
		{"want 1 to 1000", []string{"setup", "--dir", "x", "--vendors", "0"}},
		{"unknown flag", []string{"run", "--speed", "9"}},
		{"unexpected argument", []string{"run", "fast"}},
		{"--log is required", []string{"run", "--dir", "x"}},
	} {
		if _, stderr := command(t, exitUsage, tt.args...); !strings.Contains(stderr, tt.want) {
			t.Errorf("%v: %q", tt.args, stderr)
		}
	}
	dir := t.TempDir()
	if _, stderr := command(t, exitError, "run", "--dir", dir, "--log", "http://127.0.0.1:1"); !strings.Contains(stderr, "affidavit load setup") {
		t.Error(stderr)
	}
	if _, stderr := command(t, exitError, "setup", "--dir", dir); !strings.Contains(stderr, "exists") {
		t.Error(stderr) // another set-up's root may be a log's
	}
	if out, _ := command(t, 0, "run", "--help"); !strings.Contains(out, "--rate") {
		t.Error(out)
	}
}

// Benchmarks' output becomes figures; what is missing is said.
func TestFigures(t *testing.T) {
	text := `goos: linux
pkg: github.com/affidavit-log/affidavit/verifier/tdx
BenchmarkVerifyKnownPlatform-2   	    100	    200 ns/op
BenchmarkVerifyKnownPlatform-2   	    100	    180 ns/op
BenchmarkP256VerifyTwice-2       	    100	    150 ns/op
pkg: github.com/affidavit-log/affidavit/client/monitor
BenchmarkAudit-2	1	5 ns/op	82.5 %of-bare	7000 records/s
BenchmarkQuestions/search/day-2	1	3000000 ns/op
BenchmarkQuestions/search/model-2	1	12000000 ns/op
PASS
`
	g := goResults{}
	var shown bytes.Buffer
	g.read(strings.NewReader(text), &shown)
	figures, err := goFigures(g)
	if err == nil || !strings.Contains(err.Error(), "verifier/tdx ParseQuote") {
		t.Errorf("what is missing: %v", err)
	}
	want := map[string]Figure{
		"verify a quote of a known platform":                                       {Value: 1.2, Target: "<= 1.1", Base: 150},
		"audit / bare verifications on all processors, rate":                       {Value: 82.5, Target: ">= 80"},
		"the slowest search (AFFIDAVIT_BENCH_RECORDS=1000000 for 10 million keys)": {Value: 12, Target: "<= 10"},
	}
	for _, f := range figures {
		w, ok := want[f.Name]
		if ok && (f.Value != w.Value || f.Target != w.Target || f.Base != w.Base) {
			t.Errorf("%+v, want %+v", f, w)
		}
		delete(want, f.Name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	for i, f := range []Figure{{Value: 1, Target: "<= 1"}, {Value: 1.01, Target: "<= 1"}, {Value: 5, Target: ">= 4"}, {Value: 3, Target: ">= 4"}, {Value: 3}} {
		if got := f.met(); got != []string{"yes", "no", "yes", "no", ""}[i] {
			t.Errorf("%+v: %q", f, got)
		}
	}
	var table bytes.Buffer
	printFigures(&table, figures)
	if !strings.Contains(table.String(), "| 82.5") {
		t.Error(table.String())
	}
}
