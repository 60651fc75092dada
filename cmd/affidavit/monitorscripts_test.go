package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// TestMonitorScripts runs the sessions in testdata/monitor, each beside a monitor at $MONITOR of a log with three whole
// sessions of one customer, one of another, and a start without an end; and a service at $PCS with the collateral of a TCB
// recovery that nobody saw coming.
func TestMonitorScripts(t *testing.T) {
	w := bundletest.NewWorld(t, witnessed)
	w.AddVendorKey(w.Vendor)
	w.AddVendorKey(w.Gateway)
	w.AddRelease(w.Vendor)
	w.AddRelease(w.Gateway)
	w.AddCollateral(w.Set)
	w.Tick(time.Second)
	w.AddTime()
	key := bytes.Repeat([]byte{5}, 32)
	pseudonym := record.TenantPseudonym(key, w.Origin, w.Vendor.ID, "2026-11")
	env := map[string]string{"VENDOR": w.Vendor.ID, "TENANT": hex.EncodeToString(pseudonym[:]), "ORIGIN": w.Origin}
	files := map[string][]byte{"tenant.key": []byte(hex.EncodeToString(key) + "\n"), "short.key": []byte("0505\n")}
	var rows []string
	begin := func(n int, tenant record.Digest) uint64 {
		label := fmt.Sprintf("session %d", n)
		sum := sha256.Sum256([]byte(label))
		w.Session, w.SessionKey = record.SessionID(sum[:16]), bundletest.KeyFrom(label)
		w.Tick(5 * time.Second)
		start := w.AddStart(func(d *bundletest.Draft) { d.Statement.Start.Tenant = tenant })
		rows = append(rows, fmt.Sprintf("%s,%s,%s", w.Session, w.Vendor.ID, w.Now.Format(time.RFC3339)))
		env[fmt.Sprintf("SESSION%d", n)] = w.Session.String()
		env[fmt.Sprintf("START%d", n)] = fmt.Sprint(start)
		w.Tick(5 * time.Second)
		w.AddTime()
		return start
	}
	for n := range 4 {
		tenant := pseudonym
		if n == 3 {
			tenant = record.Digest{3}
		}
		start := begin(n, tenant)
		run := w.AddModelRun(start)
		w.Tick(time.Second)
		w.AddTime()
		final := w.AddFinal(start, []uint64{run}, func(d *bundletest.Draft) { d.Statement.Session.Tenant = tenant })
		env[fmt.Sprintf("FINAL%d", n)] = fmt.Sprint(final)
		w.Tick(5 * time.Second)
		w.AddTime()
	}
	begin(4, record.Digest{4})
	note := w.Publish(w.Now)
	if note == nil {
		t.Fatal("nothing published")
	}
	log := httptest.NewServer(w.Handler())
	t.Cleanup(log.Close) // scripts go on after this function
	c, err := client.New(log.URL, client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := monitor.Open(monitor.Config{
		Log: c, LogPolicy: w.Policy(), Root: w.Root(), Dir: t.TempDir(), Now: func() time.Time { return w.Now },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	if err := m.Step(context.Background()); err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(m.Handler())
	t.Cleanup(api.Close)

	levels := tdxsim.DefaultLevels()
	levels[1].SGX, levels[1].PCESVN = levels[0].SGX, levels[0].PCESVN
	levels[1].Advisories = []string{"INTEL-SA-09999"}
	levels[0].SGX[0]++ // a firmware that nobody had
	recovery := tdxsim.CollateralOptions{Levels: levels, TCBEvaluationDataNumber: 30}
	set, err := w.PKI.Collateral(recovery)
	if err != nil {
		t.Fatal(err)
	}
	if files["recovery.json"], err = set.JSON(); err != nil {
		t.Fatal(err)
	}
	if files["same.json"], err = w.Set.JSON(); err != nil {
		t.Fatal(err)
	}
	pcs := httptest.NewServer(w.PKI.PCS(tdxsim.PCSOptions{Sets: []tdxsim.CollateralOptions{recovery}}))
	t.Cleanup(pcs.Close)
	nothing := httptest.NewServer(w.PKI.PCS(tdxsim.PCSOptions{Sets: []tdxsim.CollateralOptions{{FMSPC: "00806F050000"}}}))
	t.Cleanup(nothing.Close)

	const head = "session,vendor,started\n"
	files["mine.csv"] = []byte(head + strings.Join(rows[:3], "\n") + "\n")
	files["fewer.csv"] = []byte(head + strings.Join(rows[:2], "\n") + "\n")
	files["more.csv"] = []byte(head + strings.Join(rows[:3], "\n") + "\n" + strings.Repeat("0f", 16) + "," + w.Vendor.ID + ",2026-11-24T07:00:00Z\n")
	files["late.csv"] = []byte(head + strings.Replace(strings.Join(rows[:3], "\n"), "2026-11-24T07:", "2026-11-24T09:", 1) + "\n")
	files["broken.csv"] = []byte("session,vendor,started,name\n")
	files["log.policy"] = []byte(w.Policy().String())
	files["ours.yaml"] = w.Appraisal().YAML()
	files["root.der"] = w.PKI.Root()
	const token = "c8d2e1f09b7a65c4d3e2f1a0b9c8d7e6"
	private := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		m.Handler().ServeHTTP(rw, r)
	}))
	t.Cleanup(private.Close)
	files["monitor.token"] = []byte(token + "\n")
	env["MONITOR"], env["PCS"], env["NOPCS"], env["PRIVATE"] = api.URL, pcs.URL, nothing.URL, private.URL

	testscript.Run(t, testscript.Params{
		Dir:  "testdata/monitor",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": cmdStatus},
		Setup: func(e *testscript.Env) error {
			for name, data := range files {
				if err := os.WriteFile(filepath.Join(e.WorkDir, name), data, 0o600); err != nil {
					return err
				}
			}
			for name, value := range env {
				e.Setenv(name, value)
			}
			return nil
		},
	})
}
