//go:build linux

package monitor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
)

// What BenchmarkLargeLog is told by the environment.
const (
	envRecords = "AFFIDAVIT_MONITOR_RECORDS" // how many records
	envLarge   = "AFFIDAVIT_MONITOR_LARGE"   // of the process that audits: where the log is, and when it ends
)

// BenchmarkLargeLog makes a log of as many records as AFFIDAVIT_MONITOR_RECORDS says, some 6 GB for 1,000,000, and audits
// it in another process, whose memory is measured as the log grows; then it opens the monitor again, and asks it. The
// audit's rate is compared with bare verification in the same run.
func BenchmarkLargeLog(b *testing.B) {
	if large := os.Getenv(envLarge); large != "" {
		dir, now, _ := strings.Cut(large, "@")
		ms, err := strconv.ParseInt(now, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		auditLarge(b, dir, time.UnixMilli(ms).UTC())
		return
	}
	n, _ := strconv.Atoi(os.Getenv(envRecords))
	if n == 0 {
		b.Skipf("takes minutes and gigabytes: %s says how many records", envRecords)
	}
	l := newLab(b, witnesses)
	files := &logFiles{l: l, dir: b.TempDir()}
	began := time.Now()
	l.fillSessions(n/2, 1000, func() {
		files.full()
		l.Forget(files.size)
	})
	files.finish()
	b.Logf("%d records written in %s", n, time.Since(began).Round(time.Second))
	cmd := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkLargeLog$", "-test.benchtime=1x", "-test.timeout=3h", "-test.v")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s@%d", envLarge, files.dir, l.Now.UnixMilli()))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
}

// residentMB returns the process's resident memory, and the most that it ever was.
func residentMB(b *testing.B) (now, peak float64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			now = kb / 1024
		case "VmHWM:":
			peak = kb / 1024
		}
	}
	return now, peak
}

func auditLarge(b *testing.B, dir string, now time.Time) {
	Tune()
	l := newLab(b, witnesses)
	l.Now = now
	c := localClient(b, dir)
	edit := func(cfg *Config) { cfg.Log = c }
	const sample = 100_000
	cpu := processorTime(b)
	bare := bareVerifications(b, sample)
	bareCPU := processorTime(b) - cpu
	m := l.open(edit)

	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		next := uint64(0)
		for {
			select {
			case <-done:
				return
			case <-time.After(100 * time.Millisecond):
			}
			if st := m.Status(); st.Audited >= next {
				rss, peak := residentMB(b)
				b.Logf("%d leaves audited, %.0f a second: %.0f MB resident, %.0f MB at most; %d to go, in about %.0f s", st.Audited, st.Rate, rss, peak, st.Lag, st.Remaining)
				next = st.Audited + 125_000
			}
		}
	}()
	cpu = processorTime(b)
	began := time.Now()
	l.step()
	audit, auditCPU := time.Since(began), processorTime(b)-cpu
	close(done)
	<-watched
	l.wantNone()
	st := m.Status()
	_, peak := residentMB(b)
	m.Close()

	cpu = processorTime(b)
	bare += bareVerifications(b, sample)
	bareCPU += processorTime(b) - cpu
	bareRate := 2 * sample / bare.Seconds()
	rate := float64(st.Verified) / audit.Seconds()

	began = time.Now()
	m = l.open(edit)
	l.step()
	resume := time.Since(began)
	if again := m.Status(); again.Verified != st.Verified {
		b.Fatalf("%d leaves after a restart, %d before", again.Verified, st.Verified)
	}

	// Of each kind of search the slowest page.
	any1 := func(q Query) *Record {
		q.Limit = 1
		for r, err := range m.Search(b.Context(), q) {
			if err != nil {
				b.Fatal(err)
			}
			return r
		}
		b.Fatalf("no record for %+v", q)
		return nil
	}
	middle := any1(Query{After: st.Verified / 2})
	slowest := time.Duration(0)
	for name, q := range map[string]Query{
		"session": {Session: middle.Session.String()}, "statement": {Statement: middle.Statement.String()}, "tenant": {Tenant: middle.Tenant.String()},
		"vendor": {Vendor: middle.Vendor}, "release": {Release: middle.Release.String()}, "platform": {Platform: middle.Platform},
		"fmspc": {FMSPC: middle.FMSPC}, "status": {TCBStatus: middle.TCBStatus},
		"two keys":    {Tenant: middle.Tenant.String(), Platform: middle.Platform},
		"day":         {Since: middle.AdmittedAt, Until: middle.AdmittedAt.Add(time.Minute)},
		"tenant, day": {Tenant: middle.Tenant.String(), Since: middle.AdmittedAt},
		"nothing":     {Vendor: "https://nobody.example"},
	} {
		q.Limit = 100
		began := time.Now()
		n := 0
		for _, err := range m.Search(b.Context(), q) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		took := time.Since(began)
		b.Logf("search by %s: %d records in %s", name, n, took)
		slowest = max(slowest, took)
	}
	recall := time.Duration(0)
	for name, q := range map[string]monitorapi.RecallQuery{
		"release": {Release: middle.Release.String()}, "fmspc": {FMSPC: middle.FMSPC}, "platform": {Platform: middle.Platform},
	} {
		began := time.Now()
		s, err := m.Recall(b.Context(), q, nil, func(*monitorapi.TouchedSession) bool { return true })
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(began)
		b.Logf("recall by %s: %d sessions, all of them listed, in %s", name, s.Sessions, took)
		q.Limit = 100
		began = time.Now()
		if _, err = m.Recall(b.Context(), q, nil, func(*monitorapi.TouchedSession) bool { return true }); err != nil {
			b.Fatal(err)
		}
		took = time.Since(began)
		b.Logf("recall by %s: a page of 100 in %s", name, took)
		recall = max(recall, took)
	}
	var disk int64
	err := filepath.WalkDir(filepath.Join(l.dir, "db"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil {
			disk += i.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(rate, "records/s")
	b.ReportMetric(100*rate/bareRate, "%of-bare")
	b.ReportMetric(100*(bareCPU.Seconds()/(2*sample))/(auditCPU.Seconds()/float64(st.Verified)), "%of-bare-cpu")
	b.ReportMetric(peak, "MB-resident")
	b.ReportMetric(float64(disk)/float64(st.Verified), "B-disk/record")
	b.ReportMetric(float64(resume.Milliseconds()), "ms/resume")
	b.ReportMetric(float64(slowest.Microseconds())/1000, "ms/search")
	b.ReportMetric(float64(recall.Milliseconds()), "ms/recall")
	b.ReportMetric(0, "ns/op")
	if peak > 300 {
		b.Errorf("%.0f MB of memory", peak)
	}
}
