package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// fixtureDir writes the fixtures to a directory of their own.
func fixtureDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, data := range newFixtures(tb).all {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

func verifyArgs(dir string) []string {
	at := func(name string) string { return filepath.Join(dir, name) }
	return []string{"verify", "--log-policy", at("log.policy"), "--appraisal-policy", at("ours.yaml"), "--root", at("root.der"), at("session.affidavit")}
}

// BenchmarkVerify is the work of "affidavit verify" for one bundle, with nothing
// remembered from before.
func BenchmarkVerify(b *testing.B) {
	args := verifyArgs(fixtureDir(b))
	for b.Loop() {
		var out bytes.Buffer
		if status := run(&console{stdout: &out, stderr: &out, now: time.Now}, args); status != exitGood {
			b.Fatal(status, out.String())
		}
	}
}

// BenchmarkVerifyProcess is the same as users see it: a whole process. The
// binary is built, since the test's own has more to initialise, and without cgo, as
// "make build" does it.
func BenchmarkVerifyProcess(b *testing.B) {
	dir := fixtureDir(b)
	bin := filepath.Join(dir, "affidavit.bin")
	build := exec.Command("go", "build", "-o", bin, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	for name, args := range map[string][]string{"verify": verifyArgs(dir), "version": {"version"}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if out, err := exec.Command(bin, args...).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
		})
	}
}
