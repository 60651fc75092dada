package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// TestMain runs this binary as the command when a test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("AFFIDAVIT_WITNESS_TEST") != "" {
		main()
	}
	os.Exit(m.Run())
}

func genKey(t *testing.T, kind checkpoint.Kind, name string) (*checkpoint.SigningKey, string) {
	t.Helper()
	k, err := checkpoint.GenerateKey(kind, name, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := k.PrivateText()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return k, path
}

func TestUsage(t *testing.T) {
	_, ed := genKey(t, checkpoint.CosignatureEd25519, "w")
	_, logKey := genKey(t, checkpoint.Ed25519, "w")
	state := filepath.Join(t.TempDir(), "state")
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, _ := genKey(t, checkpoint.Ed25519, "log.example/a")
	good := []string{"--name", "w", "--key", ed, "--state", state, "--init", "--log", log.VKey(), "--listen", "127.0.0.1:0"}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"help", []string{"--help"}, 0, "keygen --type witness-ml-dsa"},
		{"version", []string{"--version"}, 0, "affidavit-witness "},
		{"nothing", nil, 64, "--name"},
		{"unknown flag", []string{"--nonsense"}, 64, "nonsense"},
		{"argument", append(good[:len(good):len(good)], "x"), 64, "unexpected argument \"x\""},
		{"no key", without(good, "--key"), 64, "--key or --ssh-agent-key is missing"},
		{"no log", without(good, "--log"), 64, "--log-list or --log is missing"},
		{"no state", without(good, "--state"), 64, "--state is missing"},
		{"no address", without(good, "--listen"), 64, "--listen or --bastion is missing"},
		{"recover from an unknown log", append(without(good, "--state"), "--state", state+"2", "--recover", "--recover-from", "x=y"), 1, "x is not a log of this witness"},
		{"malformed vkey", append(without(good, "--log"), "--log", "x"), 64, "--log: malformed vkey"},
		{"bastion without key", append(good[:len(good):len(good)], "--bastion", "b:443"), 64, "--bastion-key"},
		{"malformed recover-from", append(good[:len(good):len(good)], "--recover-from", "x"), 64, "ORIGIN=FILE|URL"},
		{"missing database", append(good[:6:6], good[7:]...), 1, "--init"},
		{"missing key file", append(without(good, "--key"), "--key", state+"x"), 1, "no such file"},
		{"log's key", append(without(good, "--key"), "--key", logKey), 1, "type 01"},
		{"malformed key file", append(without(good, "--key"), "--key", junk), 1, "malformed signing key"},
		{"key file that others can read", append(without(good, "--key"), "--key", "main.go"), 1, "chmod 600"},
		{"address in use or wrong", append(without(good, "--listen"), "--listen", "127.0.0.1:99999"), 1, "invalid port"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(tt.args, &stdout, &stderr)
		got := &stderr
		if tt.code == 0 {
			got = &stdout // help is what was asked for
		}
		if code != tt.code || !strings.Contains(got.String(), tt.want) {
			t.Errorf("%s: status %d, want %d and %q:\n%.600s", tt.name, code, tt.code, tt.want, got.String())
		}
	}
}

// without returns args without a flag and its value.
func without(args []string, flag string) (out []string) {
	for i := 0; i < len(args); i++ {
		if args[i] == flag {
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// TestRun starts the command as an operator does, has a checkpoint cosigned, and
// ends it with SIGTERM.
func TestRun(t *testing.T) {
	edKey, ed := genKey(t, checkpoint.CosignatureEd25519, "witness.example/w")
	mlKey, ml := genKey(t, checkpoint.CosignatureMLDSA44, "witness.example/w")
	log, _ := genKey(t, checkpoint.Ed25519, "log.example/a")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "--name", "witness.example/w", "--key", ed, "--key", ml, "--state", filepath.Join(t.TempDir(), "state"), "--init",
		"--log", log.VKey(), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "AFFIDAVIT_WITNESS_TEST=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	urls := make(map[string]string)
	lines := bufio.NewScanner(stderr)
	for len(urls) < 2 && lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "msg=listening what="); ok {
			what, addr, _ := strings.Cut(rest, " addr=")
			urls[what] = "http://" + addr
		}
	}
	c := checkpoint.Checkpoint{Origin: "log.example/a", Root: checkpoint.EmptyRoot()}
	line, err := log.Sign(c.Text(), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	note, err := checkpoint.Sign(c.Text(), line)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(urls["public"]+"/add-checkpoint", "", bytes.NewReader(append([]byte("old 0\n\n"), note...)))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("status %d: %s %v", resp.StatusCode, body, err)
	}
	p, err := checkpoint.ParsePolicy([]byte("log " + log.VKey() + "\nwitness ed " + edKey.VKey() + "\nwitness ml " + mlKey.VKey() + "\ngroup q all ed ml\nquorum q\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Check(append(note, body...)); err != nil {
		t.Error(err)
	}
	resp, err = http.Get(urls["metrics"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("metrics: status %d", resp.StatusCode)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
