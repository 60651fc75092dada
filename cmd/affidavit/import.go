package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/imports"
	"github.com/affidavit-log/affidavit/log/record"
)

func nonceCommand() *command {
	return &command{
		name:  "nonce",
		usage: []string{"--log URL --out FILE [--log-policy FILE] [--session ID]"},
		short: "make a nonce for a vendor's attestation interface",
		about: `Asks the log for its freshness, chooses a session id, and prints the nonce that both
make: 64 hexadecimal digits. Pass it as the nonce to an attestation interface that takes
one from its caller. The quote that comes back is then no older than the log's checkpoint,
and "affidavit import" can make a record of it whose time is proven on both sides.

What the nonce is made of goes to --out, which "affidavit import --nonce" reads. Be
quick: a log takes records only for some minutes after their freshness.`,
		trusts: `With --log-policy, the keys that it lists; without it, the log, for a nonce that
its own records can be compared with. A wrong one makes the import fail, nothing else.`,
		examples: `  affidavit nonce --log https://log.example.org/2026 --out nonce.json
`,
		exits: map[int]string{exitGood: "the nonce was printed"},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			url := logFlag(fs)
			out := fs.String("out", "", "`FILE` for what the nonce is made of")
			policy := fs.String("log-policy", "", "`FILE` that says whose signatures make a checkpoint")
			id := fs.String("session", "", "`ID` of a session, 32 hexadecimal digits; random by default")
			return func(c *console, args []string) (int, error) {
				if err := require(fs, "log", "out"); err != nil {
					return 0, err
				}
				n := new(nonceFile)
				if fs.Changed("session") {
					var err error
					if n.session, err = record.ParseSessionID(*id); err != nil {
						return 0, usagef("--session %q: want 32 hexadecimal digits", clean(*id))
					}
				} else {
					rand.Read(n.session[:])
				}
				var cfg client.Config
				if *policy != "" {
					var err error
					if cfg.LogPolicy, err = readLogPolicy(c, *policy); err != nil {
						return 0, err
					}
				}
				l, err := client.New(*url, cfg)
				if err != nil {
					return 0, usagef("--log: %v", err)
				}
				ctx, stop := interruptible()
				defer stop()
				f, err := l.Freshness(ctx)
				if err != nil {
					return 0, err
				}
				n.freshness = f.Freshness
				b, err := n.marshal()
				if err != nil {
					return 0, err
				}
				if err := c.write(*out, b); err != nil {
					return 0, err
				}
				nonce := record.Nonce(n.freshness.Note, n.session)
				_, err = fmt.Fprintf(c.stdout, "%x\n", nonce)
				return exitGood, err
			}
		},
	}
}

// A nonceFile is what a nonce is made of.
type nonceFile struct {
	freshness record.Freshness
	session   record.SessionID
}

// nonceJSON is its file, which has one form: without spaces, members in this order.
type nonceJSON struct {
	Origin  string `json:"origin"`
	Size    uint64 `json:"size"`
	Root    string `json:"rootHash"` // base64
	Note    string `json:"note"`     // SHA-256 in hexadecimal
	Session string `json:"session"`
	Nonce   string `json:"nonce"`
}

const maxNonceFile = 4 << 10

func (n *nonceFile) marshal() ([]byte, error) {
	nonce := record.Nonce(n.freshness.Note, n.session)
	return json.Marshal(&nonceJSON{
		Origin: n.freshness.Origin, Size: n.freshness.Size, Root: base64.StdEncoding.EncodeToString(n.freshness.Root[:]),
		Note: hex.EncodeToString(n.freshness.Note[:]), Session: n.session.String(), Nonce: hex.EncodeToString(nonce[:]),
	})
}

func parseNonceFile(b []byte) (*nonceFile, error) {
	if len(b) > maxNonceFile {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), maxNonceFile)
	}
	var j nonceJSON
	err := json.Unmarshal(b, &j, json.RejectUnknownMembers(true))
	n := &nonceFile{freshness: record.Freshness{Origin: j.Origin, Size: j.Size}}
	if err == nil {
		n.session, err = record.ParseSessionID(j.Session)
	}
	note, err1 := hex.DecodeString(j.Note)
	root, err2 := base64.StdEncoding.DecodeString(j.Root)
	if err == nil {
		err = errors.Join(err1, err2)
	}
	copy(n.freshness.Note[:], note)
	copy(n.freshness.Root[:], root)
	if again, merr := n.marshal(); err != nil || merr != nil || !bytes.Equal(again, b) {
		return nil, errors.New(`not what "affidavit nonce --out" writes`)
	}
	return n, nil
}

// vendors are those whose answers import reads, with the provider's name in records.
var importable = map[string]string{"near": "near", "dstack": "dstack", "tinfoil": "tinfoil"}

func importCommand() *command {
	return &command{
		name: "import",
		usage: []string{
			"near|dstack --attestation FILE --nonce FILE [--signature FILE...] --key FILE --vendor ID --out FILE",
			"near|dstack|tinfoil --attestation FILE --collected-on TIME --key FILE --vendor ID --out FILE",
		},
		short: "make an entry of evidence that a vendor's interface gives already",
		about: `Reads what today's attestation and signature interfaces answer, checks it, and writes
an entry for "affidavit submit", under a binding profile of its own: weaker than a
record that a vendor's enclave makes for the log, and visibly so. No appraisal policy
accepts it unless it names the profile.

  near     NEAR AI's interfaces, /v1/attestation/report and /v1/signature/ID
  dstack   those of other proxies for models on dstack (Phala, Redpill, gateways in
           front of them), or dstack's own GetQuote (then with --address)
  tinfoil  the attestation document of Tinfoil's enclaves

With --nonce, the attestation was asked for with the nonce that "affidavit nonce" printed:
the entry is a model run, whose proven time is that of the key's attestation. Each
--signature is the answer for one response, which the attested key must have signed. The
signed texts, which have hashes of prompts, stay in the --private file: the log gets
their salted root, and "affidavit disclose" shows single ones.

With --collected-on instead, the entry says only that there was this quote; the log
judges it by Intel's data of that time, and nothing proves the time from below.

Event logs and GPU evidence are too large for a log. --evidence-dir keeps them, by
SHA-256; "affidavit submit --evidence-dir" hands them to a log that has a store.`,
		trusts: `The key file, and what you say of provider and model. What the interfaces answer is
checked: quote and key, nonce, event log, every signature. Whether the quote is genuine
is for the log, and for "affidavit verify".`,
		examples: `  affidavit import near --nonce nonce.json --attestation report.json --signature s1.json \
      --signature s2.json --key release.key --vendor https://vendor.example \
      --out run.entry --private run.private --evidence-dir evidence
  affidavit import tinfoil --attestation attestation.json --collected-on 2026-11-24T12:00:00Z \
      --key release.key --vendor https://vendor.example --out tinfoil.entry
`,
		exits: map[int]string{
			exitGood:       "the entry was written",
			exitNotGenuine: "what the interfaces answered doesn't hold together: another nonce, a signature by another\nkey, an event log of another quote",
		},
		minArgs: 1, maxArgs: 1,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			o := new(importing)
			fs.StringVar(&o.attestation, "attestation", "", "`FILE` with the answer of the attestation interface")
			fs.StringArrayVar(&o.signatures, "signature", nil, "`FILE` with the answer of the signature interface for one response; can be given again")
			fs.StringVar(&o.nonce, "nonce", "", "`FILE` that \"affidavit nonce\" wrote")
			fs.StringVar(&o.collectedOn, "collected-on", "", "`TIME` at which the attestation was made, if not with --nonce: RFC 3339, or seconds since 1970")
			fs.StringVar(&o.key, "key", "", "`FILE` with your release key, from \"affidavit keygen --type release\"")
			passphrase := passphraseFlag(fs)
			fs.StringVar(&o.vendor, "vendor", "", "your vendor `ID`: whose credentials will submit the entry")
			fs.StringVar(&o.out, "out", "", "`FILE` for the entry")
			fs.StringVar(&o.private, "private", "", "`FILE` for the signed responses, which only you keep; needed with --signature")
			fs.StringVar(&o.evidenceDir, "evidence-dir", "", "`DIR` for event log and GPU evidence, which is made if it doesn't exist")
			fs.StringVar(&o.provider, "provider", "", "`NAME` of the model's provider in the record; near or dstack by default")
			fs.StringVar(&o.model, "model", "", "`NAME` of the model, if neither signatures nor attestation say it")
			fs.StringVar(&o.start, "start", "", "`FILE` with the entry of the session's start, if it is in the log: a record of that session")
			fs.StringVar(&o.channel, "tls-spki", "", "`HEX` SHA-256 of the SPKI at the other end of your connection, if the quote commits to none")
			fs.StringVar(&o.address, "address", "", "`HEX` of the key that signs, for an answer that doesn't name it")
			fs.StringVar(&o.source, "source", "", "`URI` of the attestation interface, for the record of an import with --collected-on")
			return func(c *console, args []string) (int, error) {
				if err := require(fs, "attestation", "key", "vendor", "out"); err != nil {
					return 0, err
				}
				if err := o.check(args[0]); err != nil {
					return 0, err
				}
				made, err := o.make(c, args[0], *passphrase)
				if err != nil {
					return 0, err
				}
				if made == nil {
					return exitNotGenuine, nil
				}
				return exitGood, o.write(c, made)
			}
		},
	}
}

// An importing is what the flags of import ask for.
type importing struct {
	attestation, nonce, collectedOn, key, vendor, out, private, evidenceDir string
	provider, model, start, channel, address, source                        string
	signatures                                                              []string
}

func (o *importing) check(kind string) error {
	if _, ok := importable[kind]; !ok {
		return usagef("%q: want one of %s", clean(kind), strings.Join(slices.Sorted(maps.Keys(importable)), ", "))
	}
	run := o.nonce != ""
	switch {
	case run == (o.collectedOn != ""):
		return usagef("missing flag --nonce or --collected-on, one of them: was the attestation made with a nonce of \"affidavit nonce\", or else when?")
	case run && kind == "tinfoil":
		return usagef("--nonce: Tinfoil's attestations have none; say when it was made with --collected-on")
	case !run && (len(o.signatures) > 0 || o.private != "" || o.start != "" || o.channel != "" || o.model != "" || o.provider != ""):
		return usagef("--signature, --private, --start, --tls-spki, --model and --provider are for imports with --nonce")
	case run && o.source != "":
		return usagef("--source is for imports with --collected-on")
	case len(o.signatures) > 0 && o.private == "":
		return usagef("missing flag --private: where the signed responses are kept, which the record only has the root of")
	}
	if err := record.CheckVendorID(o.vendor); err != nil {
		return usagef("--vendor %q: %v", clean(o.vendor), err)
	}
	return nil
}

// make returns nil if what the interfaces answered doesn't hold together, which it has
// said.
func (o *importing) make(c *console, kind, passphrase string) (*imports.Import, error) {
	key, err := c.readKey(o.key, passphrase)
	if err != nil {
		return nil, err
	}
	b, err := c.readPublic(o.attestation)
	if err != nil {
		return nil, err
	}
	bad := func(name string, err error) (*imports.Import, error) {
		c.complain("affidavit import: %s: %v", name, clean(err.Error()))
		return nil, nil
	}
	var all []*imports.Attestation
	if kind == "tinfoil" {
		a, err := imports.ParseTinfoil(b)
		if err != nil {
			return bad(o.attestation, err)
		}
		all = append(all, a)
	} else if all, err = imports.ParseDstack(b, o.address); err != nil {
		return bad(o.attestation, err)
	}
	if o.nonce == "" {
		at, err := parseTime(o.collectedOn)
		if err != nil {
			return nil, usagef("--collected-on: %v", err)
		}
		if len(all) > 1 {
			return nil, fmt.Errorf("%s: attestations of %d nodes, and an entry has one: cut the others out", o.attestation, len(all))
		}
		return all[0].Evidence(o.vendor, key, at, o.source)
	}
	run, err := o.run(c, kind, key)
	if err != nil {
		return nil, err
	}
	for _, name := range o.signatures {
		b, err := c.readPublic(name)
		if err != nil {
			return nil, err
		}
		r, err := imports.ParseResponse(b)
		if err != nil {
			return bad(name, err)
		}
		run.Responses = append(run.Responses, r)
	}
	a, err := choose(all, run)
	if err != nil {
		return bad(o.attestation, err)
	}
	made, err := a.ModelRun(*run)
	if err != nil {
		return bad(o.attestation, err)
	}
	return made, nil
}

// choose returns the attestation of the key that signed the responses.
func choose(all []*imports.Attestation, run *imports.Run) (*imports.Attestation, error) {
	if len(run.Responses) == 0 {
		if len(all) > 1 {
			return nil, fmt.Errorf("attestations of %d nodes: a signature says which of them it is", len(all))
		}
		return all[0], nil
	}
	// The gateway and the model may have the same nonce, and keys of their own.
	for _, a := range all {
		if !slices.ContainsFunc(run.Responses, func(r *imports.Response) bool { return !a.Signs(r) }) {
			return a, nil
		}
	}
	return nil, errors.New("no attestation in it is of the one key that all signatures are said to be by")
}

// run collects what a model run's statement says beside the attestation.
func (o *importing) run(c *console, kind string, key ed25519.PrivateKey) (*imports.Run, error) {
	b, err := c.readPublic(o.nonce)
	if err != nil {
		return nil, err
	}
	n, err := parseNonceFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.nonce, err)
	}
	run := &imports.Run{
		Vendor: o.vendor, Key: key, Provider: importable[kind], Model: o.model, Freshness: n.freshness, ID: n.session, Now: c.now(),
	}
	if o.provider != "" {
		run.Provider = o.provider
	}
	if o.channel != "" {
		b, err := hex.DecodeString(o.channel)
		if err != nil || len(b) != 32 {
			return nil, usagef("--tls-spki %q: want a SHA-256 in hexadecimal", clean(o.channel))
		}
		run.Channel = record.Channel{Type: record.ChannelTLSSPKI, SHA256: record.Digest(b)}
	}
	if o.start == "" {
		return run, nil
	}
	b, err = c.readPublic(o.start)
	if err != nil {
		return nil, err
	}
	e, err := parseEntry(b)
	if err != nil {
		return nil, fmt.Errorf("%s: not an entry: %w", o.start, err)
	}
	start := e.Statement().Start
	if start == nil || start.ID != n.session {
		return nil, fmt.Errorf("%s: not the start of session %s, which the nonce was made for", o.start, n.session)
	}
	digest := e.StatementDigest()
	run.Start, run.PeerKeyID = &digest, start.SessionKey.KeyID
	return run, nil
}

func (o *importing) write(c *console, made *imports.Import) error {
	if o.evidenceDir != "" {
		if err := os.MkdirAll(o.evidenceDir, 0o755); err != nil {
			return fileError(o.evidenceDir, err)
		}
		for digest, b := range made.Evidence {
			if err := writeFile(filepath.Join(o.evidenceDir, hexed(digest[:])), b); err != nil {
				return err
			}
		}
	}
	if o.private != "" {
		if err := writeFileMode(o.private, made.Private, 0o600); err != nil {
			return err
		}
	}
	if err := c.write(o.out, made.Entry.Bytes()); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.stdout, "%x\n", made.Entry.StatementDigest())
	return err
}
