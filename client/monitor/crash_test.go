package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// faulty fills the log with leaves that are findings, and a session every so often.
func (l *lab) faulty(size uint64) {
	for l.Size() < size {
		if l.Size()%300 == 0 {
			l.session()
			l.another()
			l.AddStart(func(d *bundletest.Draft) { d.KeepReportData = true })
		}
		l.Append([]byte{1, 1, byte(l.Size()), byte(l.Size() >> 8)})
	}
	l.Publish(l.Now)
}

// ids returns the findings' IDs, by sequence number, which must be 1, 2, 3 and so on.
func (l *lab) ids() (ids []string) {
	l.t.Helper()
	for i, f := range l.findings() {
		if f.Seq != uint64(i+1) {
			l.t.Errorf("finding %d of the list has sequence number %d", i+1, f.Seq)
		}
		ids = append(ids, f.ID)
	}
	return ids
}

// What a disk holds at any moment, without what wasn't synced, is a state from which the audit finds what it would have
// found: nothing twice, nothing not at all. An unsynced commit, a finding outside of its leaves' batch, or a fact that
// depends on the state would show.
func TestCrash(t *testing.T) {
	l := newLab(t, witnesses)
	l.faulty(1500)
	disk := vfs.NewCrashableMem()
	m := l.open(func(c *Config) { c.fs = disk })
	m.windowLeaves = 1 // a bundle a batch

	var clones []*vfs.MemFS
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		r := rand.New(rand.NewPCG(1, 2))
		for len(clones) < 200 {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			clones = append(clones, disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: r.IntN(101), RNG: r}))
		}
	})
	l.step()
	close(stop)
	wg.Wait()
	want := l.ids()
	if len(want) < 1400 {
		t.Fatalf("%d findings", len(want))
	}
	m.Close()
	if len(clones) > 6 {
		step := len(clones) / 6
		var some []*vfs.MemFS
		for i := 0; i < len(clones); i += step {
			some = append(some, clones[i])
		}
		clones = some
	}
	for i, clone := range clones {
		m := l.open(func(c *Config) { c.fs = clone })
		before := m.Status()
		l.step()
		if got := l.ids(); !slices.Equal(got, want) {
			t.Errorf("after crash %d, with %d leaves audited and %d findings: %d findings, want the %d of an audit without a crash", i, before.Audited, before.Findings, len(got), len(want))
		}
		if s := m.Status(); s.Verified != l.Size() {
			t.Errorf("after crash %d: status %+v", i, s)
		}
		m.Close()
	}
}

// A monitor is killed again and again in the middle of its audit. What it has in the end is what another has that was
// left alone.
func TestKill(t *testing.T) {
	if dir := os.Getenv("MONITOR_TEST_DIR"); dir != "" {
		victim(t, dir)
		return
	}
	l := newLab(t, witnesses)
	l.faulty(1200)
	if err := os.WriteFile(l.dir+"/policy", []byte(l.Policy().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.dir+"/root", l.PKI.Root(), 0o600); err != nil {
		t.Fatal(err)
	}
	killed := 0
	for i := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "MONITOR_TEST_DIR="+l.dir, "MONITOR_TEST_URL="+l.url)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(60+80*i) * time.Millisecond)
		cmd.Process.Kill()
		if err := cmd.Wait(); err == nil {
			break // it was quicker
		} else if e := new(exec.ExitError); !errors.As(err, &e) || e.ExitCode() >= 0 {
			t.Fatalf("%v\n%s", err, out.String())
		}
		killed++
	}
	if killed == 0 {
		t.Error("the monitor was never killed")
	}
	l.open()
	l.step()
	got := l.ids()
	l.m.Close()
	l.dir = t.TempDir()
	l.open()
	l.step()
	if want := l.ids(); !slices.Equal(got, want) {
		t.Errorf("%d findings, want the %d of an audit that nobody killed", len(got), len(want))
	}
}

// victim audits until it is killed.
func victim(t *testing.T, dir string) {
	read := func(name string) []byte {
		b, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	policy, err := checkpoint.ParsePolicy(read("policy"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := tdx.ParseRoot(read("root"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(os.Getenv("MONITOR_TEST_URL"), client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(Config{Log: c, LogPolicy: policy, Root: root, Dir: dir, Now: func() time.Time { return bundletest.Epoch.Add(time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	m.windowLeaves = 1
	if err := m.Step(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// A database that contradicts itself, or is of another log, is refused rather than built upon.
func TestDamagedState(t *testing.T) {
	l := newLab(t, witnesses)
	l.session()
	m := l.open()
	l.publish()
	if err := m.db.Delete(tileID{0, 0}.key(), nil); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if _, err := Open(l.cfg); err == nil || !strings.Contains(err.Error(), "stored tile") {
		t.Errorf("a database without a tile was opened: %v", err)
	}
	other := l.cfg
	other.Dir = t.TempDir()
	m, err := Open(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	good, closer, err := m.db.Get([]byte{prefixState})
	if err != nil {
		t.Fatal(err)
	}
	good = bytes.Clone(good)
	closer.Close()
	// Of a later version, which has made something else of a field.
	later := bytes.Replace(good, fmt.Appendf(nil, `"version":%d,"origin":"`, stateVersion), []byte(`"version":9,"origin":9,"was":"`), 1)
	if bytes.Equal(later, good) {
		t.Fatalf("%s", good)
	}
	set := func(v []byte) {
		t.Helper()
		if err := m.db.Set([]byte{prefixState}, v, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(later)
	if _, err := loadState(m.db, m.st.Origin); err == nil || !strings.Contains(err.Error(), "version 9, and this monitor knows version 2") {
		t.Errorf("a state of a later version: %v", err)
	}
	set(good)
	m.Close()
	stranger := bundletest.NewLog(t, bundletest.LogOptions{Origin: "other.example/log", Witnesses: 1})
	other.LogPolicy, other.Origin = stranger.Policy(), ""
	if _, err := Open(other); err == nil || !strings.Contains(err.Error(), "is about log") {
		t.Errorf("the database of another log was opened: %v", err)
	}
}
