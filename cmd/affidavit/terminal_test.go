package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
)

// TestNothingSteersTerminals: neither a file nor its name gets control or format characters into what is printed, be it
// a report, JSON or an error.
func TestNothingSteersTerminals(t *testing.T) {
	const evil = "\u009b31m\u202egpj.\u2066\U000e0041\u007f"
	dir := t.TempDir()
	files := []string{filepath.Join(dir, "there is no "+evil+"\x1b[2J")}
	for name, content := range map[string]string{
		"statement" + evil: `{"_type":"` + evil + `\\n"}`,
		"checkpoint" + evil: "log.example" + strings.TrimSuffix(evil, "\u007f") + "\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n" +
			"\n\u2014 n\u202e AAAAAAAA\n",
		"nothing\x1b[2J": evil,
		"policy" + evil:  "tcb:\n  statuses: ['" + evil + "']\n",
		"proof" + evil:   "c2sp.org/tlog-proof@v1\nindex " + evil + "\n\n",
		"members" + evil: `{"` + evil + `":1}`,
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	logPolicy := filepath.Join(dir, "log.policy")
	if err := os.WriteFile(logPolicy, []byte("quorum none\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	decoded := 0
	for _, file := range files {
		for _, args := range [][]string{
			{"inspect", file}, {"inspect", "--json", file}, {"log-policy", "check", file}, {evil},
			{"verify", "--log-policy", logPolicy, "--appraisal-policy", file, file},
			{"appraise", "--quote", file, "--collateral", file}, {"appraise", "--json", "--quote", file, "--collateral", file},
		} {
			var out bytes.Buffer
			status := run(&console{stdin: strings.NewReader(""), stdout: &out, stderr: &out, now: time.Now}, args)
			if strings.ContainsFunc(out.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
				t.Errorf("%q prints %q", args, out.String())
			}
			if args[0] == "inspect" && status == exitGood {
				decoded++
			}
			if status == exitGood && args[1] == "--json" {
				var v struct{ Origin, File string }
				if err := json.Unmarshal(out.Bytes(), &v); err != nil || v.File != file || !strings.Contains(v.Origin, "\u009b31m\u202egpj.") {
					t.Errorf("%q prints %s: %v", args, out.Bytes(), err)
				}
			}
		}
	}
	if decoded != 2 {
		t.Errorf("%d files were decoded, want the checkpoint twice", decoded)
	}
}
