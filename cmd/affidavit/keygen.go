package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// keyKinds maps the types of keys that have a name and a signed-note form.
var keyKinds = map[string]checkpoint.Kind{
	"log":            checkpoint.Ed25519,
	"log-ml-dsa":     checkpoint.CosignatureMLDSA44,
	"witness":        checkpoint.CosignatureEd25519,
	"witness-ml-dsa": checkpoint.CosignatureMLDSA44,
}

func keygenCommand() *command {
	return &command{
		name:  "keygen",
		usage: []string{"--type TYPE --name NAME --out FILE"},
		short: "make a key for a log, a witness, a vendor's releases, or a session; or a challenge",
		about: `Makes a key pair from the system's random numbers. The private key goes to a new
FILE that only you can read (mode 0600); a file that exists is never overwritten.
The public key goes to the standard output, and nothing else does.

With --passphrase-file the private key is encrypted, in the format of age
(age-encryption.org/v1, armored, with a passphrase). Whatever reads such a key takes
the same flag; "age -d" opens it, too. "openssl rand -base64 24" makes a passphrase.
Keep the two apart: a passphrase beside the key protects copies of the key only.

Types:
  log              Ed25519, signs a log's checkpoints (c2sp.org/signed-note type 01)
  log-ml-dsa       ML-DSA-44, signs the same checkpoints, safe from quantum computers (type 06)
  witness          Ed25519, cosigns the checkpoints of logs (type 04)
  witness-ml-dsa   ML-DSA-44, cosigns the checkpoints of logs (type 06)
  release          Ed25519, a vendor's: signs releases and imports (PKCS #8 PEM)
  session          Ed25519, signs one session; the recorder in the trust domain makes its own,
                   so this is for tests
  challenge        a customer's: random bytes that the start of a session must answer to

The public key of a log or witness is a vkey, the form that log policies use. That
of a release or session key is its SubjectPublicKeyInfo in base64, the form that
appraisal policies and the log's file of vendors use. That of a challenge is the digest
for the vendor, which the session's start will have ("affidavit gate --challenge-file").`,
		trusts: `The random numbers of this machine, and that nobody else can read FILE.`,
		examples: `  affidavit keygen --type log --name log.example.org/2026 --out log.key
  affidavit keygen --type log-ml-dsa --name log.example.org/2026 --out log-pq.key
  affidavit keygen --type release --name vendor.example --out release.key > release.pub
`,
		exits: map[int]string{exitGood: "the key was made"},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			kind := fs.String("type", "", "`TYPE` of the key: log, log-ml-dsa, witness, witness-ml-dsa, release, session or challenge")
			name := fs.String("name", "", "`NAME` of the key: a log's origin, or a witness's name; others hold no name, and need none")
			out := fs.String("out", "", "new `FILE` for the private key")
			passphrase := fs.String("passphrase-file", "", "encrypt the private key under the passphrase of one line in `FILE`, which only you can read")
			return func(c *console, _ []string) (int, error) {
				if err := require(fs, "type", "out"); err != nil {
					return 0, err
				}
				ring, err := keys.Open(*passphrase) // before a key is made that couldn't be kept
				if err != nil {
					return 0, err
				}
				private, public, err := makeKey(*kind, *name)
				if err != nil {
					return 0, err
				}
				if *passphrase != "" {
					plain := private
					if private, err = ring.Encrypt(plain); err != nil {
						return 0, err
					}
					clear(plain)
				}
				if err := writeKey(*out, private); err != nil {
					return 0, err
				}
				fmt.Fprintln(c.stdout, public)
				return exitGood, nil
			}
		},
	}
}

// makeKey returns the contents of a private key file and the public key.
func makeKey(kind, name string) (private []byte, public string, err error) {
	if k, ok := keyKinds[kind]; ok {
		if name == "" {
			return nil, "", usagef("missing flag --name: a %s key is known by its name, such as log.example.org/2026", kind)
		}
		if scheme, rest, ok := strings.Cut(name, "://"); ok {
			return nil, "", usagef("--name %q: an origin or name is a URL without its scheme (c2sp.org/tlog-checkpoint): leave out %s://, as in %s", clean(name), clean(scheme), clean(rest))
		}
		key, err := checkpoint.GenerateKey(k, name, rand.Reader)
		if errors.Is(err, checkpoint.ErrMalformed) {
			return nil, "", usagef("--name %q: %v", clean(name), err)
		}
		if err != nil {
			return nil, "", err
		}
		text, err := key.PrivateText()
		if err != nil {
			return nil, "", err
		}
		return []byte(text + "\n"), key.VKey(), nil
	}
	if kind == "challenge" {
		secret := make([]byte, 64)
		rand.Read(secret) // never fails
		digest := challengeDigest(hexed(secret))
		return []byte(hexed(secret) + "\n"), hexed(digest[:]), nil
	}
	if kind != "session" && kind != "release" {
		return nil, "", usagef("--type %q: want log, log-ml-dsa, witness, witness-ml-dsa, release, session or challenge", clean(kind))
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, "", err
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}); err != nil {
		return nil, "", err
	}
	return b.Bytes(), base64.StdEncoding.EncodeToString(spki), nil
}

func writeKey(name string, private []byte) error {
	err := writeNew(name, private, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and a key is never overwritten: move it away, or choose another --out", name)
	}
	return err
}
