package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

func signCommand() *command {
	return &command{
		name: "sign",
		usage: []string{
			"--key FILE --out FILE STATEMENT.json",
			"--key FILE --out FILE --quote FILE STATEMENT.json",
			"--key FILE --out FILE --quote FILE --vendor ID --collected-on TIME [--source URI]",
			"--key FILE --out FILE --vendor-key --vendor ID",
		},
		short: "make an entry that a vendor's release key signs",
		about: `Signs a statement with a vendor's release key, and writes the entry for "affidavit
submit". The statement's digest, by which others refer to it, goes to the standard
output.

Statements are in-toto JSON, signed as the exact bytes of the file:
  release/v1             the expected measurements of an image, logged before its use
  release-withdrawn/v1   takes a release back
  session-abandoned/v1   a session that was started and will have no final record
  evidence/v1            an import: a TDX quote that commits to no statement; needs --quote

For an import the statement can be left out: it is made from --quote, --vendor,
--collected-on and --source. With --vendor-key the entry makes the key itself known
to the log, which must be logged before anything else that the key signs.

Records of sessions and model runs are signed inside the trust domain by the
recorder, and can't be made here.`,
		trusts: `The key file, and that you mean what the statement says. Nothing in the statement
is checked but its form and, for imports, the quote's digest and size.`,
		examples: `  affidavit sign --key release.key --out key.entry --vendor-key --vendor https://vendor.example
  affidavit sign --key release.key --out release.entry release.json
  affidavit sign --key release.key --out old.entry --quote quote.bin \
      --vendor https://vendor.example --collected-on 2026-03-05T10:50:03Z
`,
		exits:   map[int]string{exitGood: "the entry was written"},
		maxArgs: 1,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			s := new(signer)
			key := fs.String("key", "", "`FILE` with the vendor's release key, from \"affidavit keygen --type release\"")
			passphrase := passphraseFlag(fs)
			out := fs.String("out", "", "`FILE` for the entry")
			fs.BoolVar(&s.vendorKey, "vendor-key", false, "make the key itself known; takes no statement")
			fs.StringVar(&s.vendor, "vendor", "", "the vendor's `ID`, a URI, for statements that this command makes")
			fs.StringVar(&s.quote, "quote", "", "`FILE` with the TDX quote of an import: raw, hexadecimal or base64")
			fs.StringVar(&s.collectedOn, "collected-on", "", "`TIME` at which the quote was made, as the vendor says: RFC 3339, or seconds since 1970; the log judges the quote as of then")
			fs.StringVar(&s.source, "source", "", "`URI` of where the quote came from")
			return func(c *console, args []string) (int, error) {
				if err := require(fs, "key", "out"); err != nil {
					return 0, err
				}
				s.passphrase = *passphrase
				if err := s.check(args); err != nil {
					return 0, err
				}
				entry, err := s.sign(c, *key, args)
				if err != nil {
					return 0, err
				}
				if err := c.write(*out, entry.Bytes()); err != nil {
					return 0, err
				}
				digest := entry.StatementDigest()
				fmt.Fprintf(c.stdout, "%x\n", digest)
				return exitGood, nil
			}
		},
	}
}

// A signer is what the flags of sign ask for.
type signer struct {
	vendorKey                          bool
	vendor, quote, collectedOn, source string
	passphrase                         string // the name of a file
}

// check refuses flags that contradict each other.
func (s *signer) check(args []string) error {
	made := s.vendor != "" || s.collectedOn != "" || s.source != ""
	switch {
	case s.vendorKey && (len(args) > 0 || s.quote != "" || s.collectedOn != "" || s.source != ""):
		return usagef("--vendor-key takes --vendor, and neither a statement nor a quote")
	case s.vendorKey && s.vendor == "":
		return usagef("missing flag --vendor: whose key is it?")
	case s.vendorKey:
		return nil
	case len(args) > 0 && made:
		return usagef("--vendor, --collected-on and --source are for statements that this command makes, and %s is one already", args[0])
	case len(args) > 0:
		return nil
	case s.quote == "":
		return usagef("nothing to sign: give a statement, or --quote for an import, or --vendor-key")
	case s.vendor == "" || s.collectedOn == "":
		return usagef("missing flags: an import without a statement needs --vendor and --collected-on")
	}
	return nil
}

func (s *signer) sign(c *console, keyFile string, args []string) (*record.Entry, error) {
	key, err := c.readKey(keyFile, s.passphrase)
	if err != nil {
		return nil, err
	}

	var quote []byte
	if s.quote != "" {
		b, err := c.readPublic(s.quote)
		if err != nil {
			return nil, err
		}
		// An entry holds the quote as hardware made it, without padding.
		if quote, _, err = decodeQuote(b); err != nil {
			return nil, fmt.Errorf("%s: not a TDX quote: %w", s.quote, tdx.Cause(err))
		}
	}

	name := "statement"
	var payload []byte
	switch {
	case s.vendorKey:
		payload, err = vendorKeyStatement(s.vendor, key)
	case len(args) == 0:
		payload, err = s.importStatement(quote)
	default:
		name = args[0]
		payload, err = c.readPublic(name)
	}
	if err != nil {
		return nil, err
	}
	st, err := record.ParseStatement(payload)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	profile := record.ProfileVendorSigned
	switch {
	case st.Start != nil, st.Session != nil, st.ModelRun != nil, st.Abandoned != nil && st.Abandoned.SessionKey != nil:
		return nil, fmt.Errorf("%s: a %s statement is signed inside the trust domain, by the recorder; this command signs a vendor's statements", name, clean(st.PredicateType))
	case st.Evidence != nil && quote == nil:
		return nil, fmt.Errorf("%s: an import needs its evidence: give --quote FILE", name)
	case st.Evidence != nil:
		profile = record.ProfileUnbound
	case quote != nil:
		return nil, fmt.Errorf("%s: a %s statement has no evidence: leave out --quote", name, clean(st.PredicateType))
	}
	var evidence []record.Evidence
	if quote != nil {
		evidence = append(evidence, record.NewQuoteEvidence(quote))
	}
	entry, err := record.SignEntry(profile, payload, key, evidence...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return entry, nil
}

// vendorKeyStatement says that key is a release key of the vendor.
func vendorKeyStatement(vendor string, key ed25519.PrivateKey) ([]byte, error) {
	if err := record.CheckVendorID(vendor); err != nil {
		return nil, usagef("--vendor %q: %v", clean(vendor), err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	st := &record.Statement{
		PredicateType: record.PredicateVendorKey,
		Subjects:      []record.Subject{{Name: record.SubjectKey, SHA256: sha256.Sum256(spki)}},
		Vendor:        vendor,
		VendorKey:     &record.VendorKey{Key: record.NewSessionKey(key.Public().(ed25519.PublicKey))},
	}
	return st.Marshal()
}

// importStatement says where a quote comes from.
func (s *signer) importStatement(quote []byte) ([]byte, error) {
	if err := record.CheckVendorID(s.vendor); err != nil {
		return nil, usagef("--vendor %q: %v", clean(s.vendor), err)
	}
	at, err := parseTime(s.collectedOn)
	if err != nil {
		return nil, usagef("--collected-on: %v", err)
	}
	st := &record.Statement{
		PredicateType: record.PredicateEvidence,
		Subjects:      []record.Subject{{Name: record.SubjectEvidence, SHA256: sha256.Sum256(quote)}},
		Vendor:        s.vendor,
		Evidence: &record.ImportedEvidence{
			MediaType: record.MediaTypeTDXQuote, SHA256: sha256.Sum256(quote), Size: uint64(len(quote)),
			CollectedOn: at, Source: s.source,
		},
	}
	payload, err := st.Marshal()
	if err != nil {
		return nil, usagef("the statement of this import: %v", err)
	}
	return payload, nil
}
