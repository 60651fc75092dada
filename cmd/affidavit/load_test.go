package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// load runs the program beside this one with the same arguments, and ends as that does.
func TestLoadRunsItsProgram(t *testing.T) {
	dir := t.TempDir()
	var out, errs bytes.Buffer
	c := &console{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, flush: func() error { return nil }}
	if _, err := loadCommand().runProgram(c, dir, []string{"run"}); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without the program: %v", err)
	}
	if status, err := loadCommand().runProgram(c, dir, []string{"--help"}); status != exitGood || err != nil || !strings.Contains(out.String(), "affidavit load setup") {
		t.Errorf("help without the program: %d, %v, %q", status, err, out.String())
	}
	out.Reset()
	script := "#!/bin/sh\necho \"$1 $2\"; echo wrong >&2; exit 3\n"
	if err := os.WriteFile(filepath.Join(dir, "affidavit-load"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	status, err := loadCommand().runProgram(c, dir, []string{"run", "--help"})
	if status != 3 || err != nil || out.String() != "run --help\n" || errs.String() != "wrong\n" {
		t.Errorf("status %d, %v, %q, %q", status, err, out.String(), errs.String())
	}
}
