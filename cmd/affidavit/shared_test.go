package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestSharedVectors runs appraise, as scripts do, over every case of the shared
// vectors: quotes of real hardware under Intel's root, and made-up ones.
func TestSharedVectors(t *testing.T) {
	shared := os.Getenv("AFFIDAVIT_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	dir := filepath.Join(shared, "vectors", "tdx")
	cases, err := filepath.Glob(filepath.Join(dir, "*", "*", "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) == 0 {
		t.Skipf("no vectors in %s: set AFFIDAVIT_SHARED", dir)
	}
	for _, file := range cases {
		folder := filepath.Dir(file)
		t.Run(filepath.Base(filepath.Dir(folder))+"/"+filepath.Base(folder), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var want struct {
				At        int64
				Expect    string
				TCBStatus string
			}
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			args := []string{"appraise", "--json", "--at", fmt.Sprint(want.At),
				"--quote", filepath.Join(folder, "quote.bin"), "--collateral", filepath.Join(folder, "collateral.json")}
			if filepath.Base(filepath.Dir(folder)) == "synthetic" {
				args = append(args, "--root", filepath.Join(dir, "synthetic", "root.der"))
			}
			status, stdout, stderr := runCommand(t, args...)
			var got struct {
				Genuine, Allowed  bool
				TCBStatus, Reason string
				Refusals          []any
				MRTD, ReportData  string
				QuoteVersion      int
			}
			if err := json.Unmarshal([]byte(stdout), &got); err != nil {
				t.Fatalf("%v in %q; stderr %q", err, stdout, stderr)
			}
			if got.TCBStatus != want.TCBStatus && want.TCBStatus != "" {
				t.Errorf("TCB status %q, want %q", got.TCBStatus, want.TCBStatus)
			}
			var wantStatus int
			switch want.Expect {
			case "accept":
				// Strict means UpToDate; everything else is genuine and refused.
				if wantStatus = exitRefused; want.TCBStatus == "UpToDate" {
					wantStatus = exitGood
				}
			case "refuse-by-policy":
				wantStatus = exitRefused
			case "reject":
				wantStatus = exitNotGenuine
			default:
				t.Fatalf("unknown expectation %q", want.Expect)
			}
			if status != wantStatus {
				t.Errorf("exit status %d, want %d: %s", status, wantStatus, stdout)
			}
			if got.Genuine != (wantStatus != exitNotGenuine) || got.Allowed != (wantStatus == exitGood) {
				t.Errorf("genuine %v, allowed %v", got.Genuine, got.Allowed)
			}
			if (got.Reason == "") == (status == exitNotGenuine) {
				t.Errorf("reason %q", got.Reason)
			}
			if (len(got.Refusals) > 0) != (wantStatus == exitRefused) {
				t.Errorf("refusals %v", got.Refusals)
			}
			if got.Genuine && (len(got.MRTD) != 96 || len(got.ReportData) != 128 || got.QuoteVersion < 4) {
				t.Errorf("fields are missing in %s", stdout)
			}
		})
	}
}
