// Package keys reads what commands must keep secret: signing keys, TLS keys, tokens and passphrases, from files that
// nobody else can read, which may be encrypted, or from where only a signature comes back: an SSH agent.
//
// Encrypted files are those of age (age-encryption.org/v1) under a passphrase, armored, so that "age -d" opens them,
// too, should this program be gone. What is in them is the same text as in a file that isn't encrypted.
package keys

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

const (
	// maxFile bounds a secret file in bytes. TLS keys are the largest, of some kilobytes.
	maxFile = 64 << 10

	// minPassphrase is how many characters a passphrase has at least. It comes from a file, so that nobody has to
	// remember it: "openssl rand -base64 24" makes one.
	minPassphrase = 16

	// workFactor is the base-2 logarithm of scrypt's N for files that we make: 64 MiB and a quarter of a second. The age
	// command's own is 18, which takes 256 MiB, more than a daemon is often given.
	workFactor = 16

	// maxWorkFactor bounds what a file can make us spend: 1 GiB.
	maxWorkFactor = 20
)

// ReadFile returns the contents of a file that only its owner can read: with any permission for others, or for its
// group, it is refused. The caller may overwrite what it gets. "-" is no special name.
func ReadFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Of the open file, so that what is judged is what is read.
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := CheckMode(name, fi); err != nil {
		return nil, err
	}
	// Read into one buffer, since one that grows leaves copies behind.
	b := make([]byte, maxFile+1)
	n, err := io.ReadFull(f, b)
	switch {
	case err == nil:
		clear(b)
		return nil, fmt.Errorf("%s: more than %d bytes, which no secret of ours has", name, maxFile)
	case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF):
		clear(b)
		return nil, err
	}
	return b[:n:n], nil
}

// CheckMode refuses a secret file that others than its owner can read or write. Pipes, such as those of a shell's
// process substitution, have no other readers.
//
// A file right in $CREDENTIALS_DIRECTORY may be readable by its group. There the bit isn't what it seems: a service
// manager gives the service's user an access control list, whose mask is shown as the group's permission (systemd's
// LoadCredential), or makes the volume one of a group that only this process is in (a Kubernetes secret, "fsGroup").
func CheckMode(name string, fi os.FileInfo) error {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	switch {
	case dir != "" && filepath.Dir(name) == filepath.Clean(dir) && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 == 0o040:
		return nil
	case fi.IsDir():
		return fmt.Errorf("%s: is a directory, want a file", name)
	case fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %#o: others can read or change it, and it is a secret; chmod 600 %s", name, fi.Mode().Perm(), name)
	}
	return nil
}

// A Ring opens key files. Its zero value opens those that aren't encrypted.
type Ring struct {
	passphrase string
	most       int // the largest work factor that is accepted, if it isn't maxWorkFactor
}

// Open returns a ring for files that are encrypted under the passphrase in a file, or not at all. The name may be
// empty: then the ring opens only the latter.
func Open(passphraseFile string) (*Ring, error) {
	if passphraseFile == "" {
		return new(Ring), nil
	}
	b, err := ReadFile(passphraseFile)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	p := bytes.TrimRight(b, "\r\n")
	if len(p) < minPassphrase || bytes.ContainsAny(p, "\r\n") {
		return nil, fmt.Errorf("%s: want a passphrase of one line and at least %d characters, such as openssl rand -base64 24 makes", passphraseFile, minPassphrase)
	}
	return &Ring{passphrase: string(p)}, nil
}

// Read returns the contents of a key file, decrypted if need be. The caller should clear them once they are parsed.
func (r *Ring) Read(name string) ([]byte, error) {
	b, err := ReadFile(name)
	if err != nil {
		return nil, err
	}
	b, err = r.Decrypt(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

// Encrypted reports whether b is the contents of an encrypted file, of ours or as "age --armor" makes it.
func Encrypted(b []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(b), []byte(armor.Header)) }

// Decrypt returns what b holds if it is encrypted, else b. The error never holds any of it.
func (r *Ring) Decrypt(b []byte) ([]byte, error) {
	if !Encrypted(b) {
		return b, nil
	}
	if r.passphrase == "" {
		return nil, errors.New("is encrypted: give the file with its passphrase, --passphrase-file")
	}
	id, err := age.NewScryptIdentity(r.passphrase)
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(cmp.Or(r.most, maxWorkFactor))
	plain, err := age.Decrypt(armor.NewReader(bytes.NewReader(b)), id)
	if err != nil {
		return nil, fmt.Errorf("can't be decrypted with the passphrase: %w", err)
	}
	out := make([]byte, maxFile+1)
	n, err := io.ReadFull(plain, out)
	if err == nil || !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		clear(out)
		return nil, fmt.Errorf("the encrypted contents are damaged, or of more than %d bytes", maxFile)
	}
	return out[:n:n], nil
}

// Encrypt returns the contents of an encrypted file that [Ring.Decrypt] opens. It is an error if the ring has no
// passphrase.
func (r *Ring) Encrypt(plain []byte) ([]byte, error) { return r.encrypt(plain, workFactor) }

func (r *Ring) encrypt(plain []byte, factor int) ([]byte, error) {
	to, err := age.NewScryptRecipient(r.passphrase)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(factor)
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), a.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Signing reads a file with a log's, witness's or appraiser's signing key.
func (r *Ring) Signing(name string) (*checkpoint.SigningKey, error) {
	b, err := r.Read(name)
	if err != nil {
		return nil, err
	}
	defer clear(b)
	k, err := checkpoint.ParseSigningKeyBytes(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return k, nil
}

// ParseEd25519 parses PKCS #8 in PEM, as "affidavit keygen" makes it for sessions and releases. The error never holds
// the key.
func ParseEd25519(b []byte) (ed25519.PrivateKey, error) {
	const hint = "make one with \"affidavit keygen --type release\""
	if bytes.HasPrefix(b, []byte("PRIVATE+KEY+")) {
		return nil, errors.New("is a key of a log or witness, want a release key: " + hint)
	}
	block, rest := pem.Decode(b)
	if block == nil {
		return nil, errors.New("no PEM in it, want a PKCS #8 private key: " + hint)
	}
	defer clear(block.Bytes)
	switch {
	case block.Type == "PUBLIC KEY":
		return nil, errors.New("is a public key, want the private one")
	case block.Type != "PRIVATE KEY":
		return nil, fmt.Errorf("PEM block %.40q, want \"PRIVATE KEY\": %s", block.Type, hint)
	case len(bytes.TrimSpace(rest)) > 0:
		return nil, errors.New("more than one key in it")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// x509's errors may quote what they parse.
		return nil, errors.New("the private key is not well-formed PKCS #8")
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a %T, want Ed25519: %s", key, hint)
	}
	return k, nil
}

// Token reads a bearer token of at least least characters, without spaces, from a file of one line.
func Token(name string, least int) (string, error) {
	b, err := ReadFile(name)
	if err != nil {
		return "", err
	}
	defer clear(b)
	token := strings.TrimRight(string(b), "\r\n")
	if len(token) < least || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("%s: want one line of at least %d characters without spaces, such as openssl rand -hex 20 makes", name, least)
	}
	return token, nil
}
