//go:build pkcs11

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// TestMain runs this binary as the command when a test asks for it: a module is loaded and initialised once in a process.
func TestMain(m *testing.M) {
	if os.Getenv("AFFIDAVIT_SIGNER_TEST") != "" {
		main()
	}
	os.Exit(m.Run())
}

// softHSM returns the module of SoftHSM and makes a token for the test.
func softHSM(t *testing.T) (module string) {
	t.Helper()
	for _, m := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm.so"} {
		if _, err := os.Stat(m); err == nil {
			module = m
			break
		}
	}
	if _, err := exec.LookPath("softhsm2-util"); err != nil || module == "" {
		t.Skip("SoftHSM isn't installed: apt-get install softhsm2")
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.CommandContext(t.Context(), "softhsm2-util", "--init-token", "--free", "--label", "affidavit", "--pin", "123456", "--so-pin", "654321").CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v: %s", err, out)
	}
	return module
}

// A buffer can be read while a command writes to it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func command(ctx context.Context, t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *buffer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.CommandContext(ctx, exe, args...)
	cmd.Env = append(os.Environ(), "AFFIDAVIT_SIGNER_TEST=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	stdout, stderr = new(buffer), new(buffer)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, stdout, stderr
}

// A log's key is made in a token, and signs the log's checkpoints, also after the signer was killed, and nothing else.
func TestToken(t *testing.T) {
	module := softHSM(t)
	dir := t.TempDir()
	pin, badPin, socket := filepath.Join(dir, "pin"), filepath.Join(dir, "bad"), filepath.Join(dir, "socket")
	for file, text := range map[string]string{pin: "123456\n", badPin: "111111\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const origin = "log.example/2026"
	args := func(more ...string) []string {
		return append([]string{"--module", module, "--token", "affidavit", "--pin-file", pin, "--key", "log-2026", "--type", "log", "--name", origin}, more...)
	}
	public, err := func() ([]byte, error) {
		cmd, out, errs := command(t.Context(), t, args("--generate")...)
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, errs)
		}
		return []byte(out.String()), nil
	}()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{args("--generate"), 1, "never replaced"},
		{args("--show", "--key", "other"), 1, "there are 0, want one"},
		{args("--show", "--token", "other"), 1, "no token"},
		{args("--show", "--pin-file", badPin), 1, "CKR_PIN_INCORRECT"},
		{args("--show", "--module", pin), 1, "not a PKCS #11 library"},
		{args("--show", "--socket", socket), 64, "want one of"},
		{args(), 64, "want one of"},
		{args("--show", "--type", "log-ml-dsa"), 64, "want log or witness"},
	} {
		cmd, _, errs := command(t.Context(), t, tt.args...)
		if err := cmd.Run(); cmd.ProcessState.ExitCode() != tt.status || !strings.Contains(errs.String(), tt.want) || strings.Contains(errs.String(), "111111") {
			t.Errorf("%q: %v: %s", tt.args, err, errs)
		}
	}
	cmd, shown, errs := command(t.Context(), t, args("--show")...)
	if err := cmd.Run(); err != nil || shown.String() != string(public) {
		t.Fatalf("%v: %s%s", err, shown, errs)
	}

	text := []byte(origin + "\n5\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n")
	var k *checkpoint.SigningKey
	for round := range 2 { // the second after a kill, which leaves the socket behind
		cmd, _, errs := command(t.Context(), t, args("--socket", socket)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for range 500 {
			if strings.Contains(errs.String(), "signing") {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if fi, err := os.Stat(socket); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("socket: %v, %v", fi, err)
		}
		if k == nil {
			if k, err = keys.Agent(checkpoint.Ed25519, origin, socket, public); err != nil {
				t.Fatalf("%v: %s", err, errs)
			}
			if !strings.Contains(errs.String(), k.VKey()) {
				t.Errorf("the vkey %s isn't in %s", k.VKey(), errs)
			}
		}
		line, err := k.Sign(text, time.Time{})
		if err != nil {
			t.Fatalf("round %d: %v: %s", round, err, errs)
		}
		note, err := checkpoint.ParseNote(append(append(bytes.Clone(text), '\n'), line...))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Verifier().Verify(note.Text, note.Signatures[0]); err != nil {
			t.Error(err)
		}
		for _, bad := range []string{
			"", "x", "other.example/2026" + string(text[len(origin):]), "cosignature/v1\ntime 5\n" + string(text), string(text) + "extension", "\x00\x00\x00\x20" + strings.Repeat("x", 60),
		} {
			if line, err := k.Sign([]byte(bad), time.Time{}); err == nil {
				t.Errorf("signed %q: %s", bad, line)
			}
		}
		if again, _, errs := command(t.Context(), t, args("--socket", socket)...); again.Run() == nil || !strings.Contains(errs.String(), "somebody answers") {
			t.Errorf("a second signer at the socket: %s", errs)
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
}

// What a witness's key signs is told from all else without a token.
func TestCheck(t *testing.T) {
	checkpointText := "log.example/a\n5\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
	s := &signer{token: &token{public: make([]byte, 32)}, kind: checkpoint.CosignatureEd25519, name: "witness.example/w"}
	if err := s.check([]byte("cosignature/v1\ntime 5\n" + checkpointText)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{checkpointText, "cosignature/v1\ntime 0\n" + checkpointText, "cosignature/v1\ntime 05\n" + checkpointText, "cosignature/v1\ntime -5\n" + checkpointText, "cosignature/v1\ntime 5\n", "cosignature/v1\ntime 5", "cosignature/v2\ntime 5\n" + checkpointText} {
		if err := s.check([]byte(bad)); err == nil {
			t.Errorf("would sign %q", bad)
		}
	}
	other, err := ssh.NewPublicKey(bytesKey(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sign(other, []byte("cosignature/v1\ntime 5\n"+checkpointText)); err == nil {
		t.Error("signed with a key that it doesn't have")
	}
	var _ agent.Agent = s
}

func bytesKey(b byte) ed25519.PublicKey { return bytes.Repeat([]byte{b}, ed25519.PublicKeySize) }
