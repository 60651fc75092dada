package keys

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

const passphrase = "correct horse battery staple"

func write(t testing.TB, text string, mode os.FileMode) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return name
}

// Whatever others can read or write is refused, before it is read.
func TestReadFile(t *testing.T) {
	for _, mode := range []os.FileMode{0o600, 0o400, 0o700} {
		if b, err := ReadFile(write(t, "secret", mode)); err != nil || string(b) != "secret" {
			t.Errorf("mode %#o: %q, %v", mode, b, err)
		}
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666} {
		if b, err := ReadFile(write(t, "secret", mode)); err == nil || !strings.Contains(err.Error(), "chmod 600") || strings.Contains(err.Error(), "secret\x00") || b != nil {
			t.Errorf("mode %#o: %q, %v", mode, b, err)
		}
	}
	if _, err := ReadFile(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("directory: %v", err)
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if b, err := ReadFile(write(t, strings.Repeat("x", maxFile), 0o600)); err != nil || len(b) != maxFile {
		t.Errorf("largest file: %d bytes, %v", len(b), err)
	}
	if _, err := ReadFile(write(t, strings.Repeat("x", maxFile+1), 0o600)); err == nil {
		t.Error("a file beyond the limit was read")
	}
	// A shell's <(command) is a pipe.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.WriteString("secret")
	w.Close()
	if b, err := ReadFile("/dev/fd/" + strconv.Itoa(int(r.Fd()))); err != nil || string(b) != "secret" {
		t.Errorf("pipe: %q, %v", b, err)
	}
}

func TestRing(t *testing.T) {
	key, err := checkpoint.GenerateKey(checkpoint.Ed25519, "log.example/a", rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := key.PrivateText()
	if err != nil {
		t.Fatal(err)
	}
	text += "\n"
	ring, err := Open(write(t, passphrase+"\n", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := ring.Encrypt([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if !Encrypted(sealed) || Encrypted([]byte(text)) || bytes.Contains(sealed, []byte("PRIVATE")) || bytes.Contains(sealed, []byte("log.example")) {
		t.Errorf("encrypted: %s", sealed)
	}
	file := write(t, string(sealed), 0o600)
	// The ring with a passphrase reads both, the one without only what isn't encrypted.
	for _, name := range []string{file, write(t, text, 0o600)} {
		if k, err := ring.Signing(name); err != nil || k.VKey() != key.VKey() {
			t.Errorf("%v, %v", k, err)
		}
	}
	if _, err := new(Ring).Signing(file); err == nil || !strings.Contains(err.Error(), "--passphrase-file") || !strings.HasPrefix(err.Error(), file) {
		t.Errorf("without a passphrase: %v", err)
	}
	wrong, err := Open(write(t, passphrase+"!", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Signing(file); err == nil || !strings.Contains(err.Error(), "passphrase") {
		t.Errorf("with another passphrase: %v", err)
	}
	if _, err := ring.Signing(write(t, string(sealed), 0o644)); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("encrypted, and everybody can read it: %v", err)
	}
	// Any byte that changes is noticed.
	if sealed, err = ring.encrypt([]byte(text), 4); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(sealed); i += 37 {
		b := bytes.Clone(sealed)
		b[i] ^= 1
		if got, err := ring.Decrypt(b); err == nil && !bytes.Equal(got, b) && string(got) != text {
			t.Errorf("byte %d changed: %q", i, got)
		}
	}
	if _, err := new(Ring).Encrypt([]byte("x")); err == nil {
		t.Error("encrypted without a passphrase")
	}
}

func TestOpen(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"short", "passphrase\n", 0o600, "at least 16 characters"},
		{"two lines", passphrase + "\n" + passphrase + "\n", 0o600, "one line"},
		{"readable", passphrase, 0o644, "chmod 600"},
	} {
		if r, err := Open(write(t, tt.text, tt.mode)); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "horse") {
			t.Errorf("%s: %v, %v", tt.name, r, err)
		}
	}
}

// A file that would take all memory to open is refused.
func TestWorkFactor(t *testing.T) {
	ring := &Ring{passphrase: passphrase}
	sealed, err := ring.encrypt([]byte("x"), 10)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := ring.Decrypt(sealed); err != nil || string(b) != "x" {
		t.Fatalf("%q, %v", b, err)
	}
	ring.most = 9
	if _, err := ring.Decrypt(sealed); err == nil || !strings.Contains(err.Error(), "work factor") {
		t.Errorf("%v", err)
	}
}

// The age command opens what we encrypt. It can't be given a passphrase but by a terminal, so that this is for machines
// with both it and script(1).
func TestAgeCommand(t *testing.T) {
	for _, tool := range []string{"age", "script"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s isn't installed", tool)
		}
	}
	ring := &Ring{passphrase: passphrase}
	sealed, err := ring.encrypt([]byte("plain text\n"), 10)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "script", "-qec", "age -d "+write(t, string(sealed), 0o600), "/dev/null")
	cmd.Stdin = strings.NewReader(passphrase + "\n")
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("plain text")) {
		t.Errorf("%v: %s", err, out)
	}
}

// What is decrypted is what was encrypted, and no error has any of it.
func FuzzDecrypt(f *testing.F) {
	ring := &Ring{passphrase: passphrase, most: 4}
	for _, text := range []string{"", "x", strings.Repeat("secret ", 100)} {
		b, err := ring.encrypt([]byte(text), 4)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("PRIVATE+KEY+x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ring.Decrypt(b)
		if err != nil {
			if strings.Contains(err.Error(), "secret secret") {
				t.Errorf("the error quotes what it is about: %v", err)
			}
			return
		}
		if !Encrypted(b) {
			if !bytes.Equal(got, b) {
				t.Error("changed what isn't encrypted")
			}
			return
		}
		// Nobody but who has the passphrase can make a file that opens: it must hold one of the seeds.
		if s := string(got); s != "" && s != "x" && s != strings.Repeat("secret ", 100) {
			t.Errorf("opened a forgery: %q", got)
		}
	})
}

// Fails if the exception is wider than a group's reading in that one directory.
func TestCredentialsDirectory(t *testing.T) {
	name := write(t, "secret", 0o440)
	if _, err := ReadFile(name); err == nil {
		t.Error("a file that its group can read was read outside of the directory")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(name)+"/")
	if _, err := ReadFile(name); err != nil {
		t.Error(err)
	}
	for _, mode := range []os.FileMode{0o444, 0o460, 0o404, 0o450} {
		if _, err := ReadFile(write(t, "secret", mode)); err == nil {
			t.Errorf("mode %#o was accepted", mode)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(name); err == nil {
			t.Errorf("mode %#o was accepted in the directory", mode)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(filepath.Dir(name)))
	if err := os.Chmod(name, 0o440); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(name); err == nil {
		t.Error("accepted below the directory, too")
	}
}
