package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/client/report"
	"github.com/affidavit-log/affidavit/verifier"
)

// A report on what a monitor says: the worst counts, and what a monitor didn't judge, or can't show, is never good.
func TestReportMonitor(t *testing.T) {
	yes, no := true, false
	base := func(i uint64) *monitorapi.Result {
		return &monitorapi.Result{Log: "log.example.org/2026", Allowed: &yes, Record: &monitorapi.Record{
			Index: i, Statement: monitorapi.Hash{byte(i), 1}, Role: "final", Vendor: "https://vendor.example", Genuine: true, Session: monitorapi.Hash{byte(i)},
			AdmittedAt: bundletest.Epoch, NotBefore: bundletest.Epoch, NotAfter: bundletest.Epoch.Add(time.Minute), TCBStatus: "UpToDate",
			Models: []monitorapi.Model{{Provider: "p", Name: "m", Execution: "tee"}},
		}, Claims: []verifier.Claim{{ID: "model.0", Source: verifier.SourceVerifier, Status: verifier.StatusHolds}}}
	}
	for _, tt := range []struct {
		name string
		edit func(*monitorapi.Result)
		want report.Outcome
		exit int
	}{
		{"good", func(*monitorapi.Result) {}, report.Good, exitGood},
		{"refused", func(r *monitorapi.Result) {
			r.Allowed, r.Refusals = &no, []verifier.Refusal{{Code: verifier.CodeDebug, Message: "the TD is a debug TD"}}
		}, report.Refused, exitRefused},
		{"refused without a reason", func(r *monitorapi.Result) { r.Allowed = &no }, report.Refused, exitRefused},
		{"not judged", func(r *monitorapi.Result) { r.Allowed = nil }, report.Unjudged, exitError},
		{"not proven", func(r *monitorapi.Result) { r.Rule, r.NotProven = "collateral", "it is not there" }, report.NotProven, exitNotGenuine},
		{"not genuine", func(r *monitorapi.Result) { r.Genuine, r.Reason = false, "binding" }, report.NotProven, exitNotGenuine},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked string
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.URL.Path + "?" + r.URL.RawQuery
				e := json.NewEncoder(w)
				for i := range uint64(3) {
					res := base(i)
					if i == 1 {
						tt.edit(res)
					}
					if err := e.Encode(res); err != nil {
						t.Error(err)
					}
				}
			}))
			defer srv.Close()
			page := filepath.Join(t.TempDir(), "a.html")
			var out, stderr bytes.Buffer
			c := &console{stdin: strings.NewReader(""), stdout: &out, stderr: &stderr, now: func() time.Time { return bundletest.Epoch }}
			status := run(c, []string{"report", "--monitor", srv.URL, "--since", "2026-11-01T00:00:00Z", "--vendor", "https://vendor.example", "--html", page, "--json"})
			if status != tt.exit {
				t.Errorf("exit status %d, want %d; %s", status, tt.exit, stderr.String())
			}
			var r report.Report
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			if r.Outcome != tt.want {
				t.Errorf("outcome %s, want %s", r.Outcome, tt.want)
			}
			html, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"This report takes the word of the monitor " + srv.URL, "3 sessions"} {
				if !strings.Contains(string(html), want) {
					t.Errorf("the page doesn't say %q", want)
				}
			}
			if tt.want != report.Good && !strings.Contains(string(html), "entry 1 of log.example.org/2026") {
				t.Error("the page doesn't name the record")
			}
			if want := "/api/results?"; !strings.HasPrefix(asked, want) || !strings.Contains(asked, "role=final") || !strings.Contains(asked, "since=2026-11-01") || !strings.Contains(asked, "vendor=https") {
				t.Errorf("asked for %s", asked)
			}
		})
	}
	// A monitor that fails halfway makes no report.
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "{\"index\":1}\nnonsense\n") }))
	defer srv.Close()
	page := filepath.Join(t.TempDir(), "a.html")
	c := &console{stdin: strings.NewReader(""), stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), now: time.Now}
	if status := run(c, []string{"report", "--monitor", srv.URL, "--html", page}); status != exitError {
		t.Errorf("exit status %d", status)
	}
	if _, err := os.Stat(page); err == nil {
		t.Error("there is a report on half of the records")
	}
}
