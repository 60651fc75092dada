package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

func releaseCommand() *command {
	return &command{
		name: "release",
		usage: []string{
			"--key FILE --log URL --token-file FILE --out ENTRY --statement FILE",
			"--key FILE --log URL --token-file FILE --out ENTRY --vendor ID --image NAME@sha256:DIGEST --version VERSION --quote FILE",
		},
		short: "sign and log the release of an image, before it runs",
		about: `Says for everybody, once and for all, which measurements an image of yours has: signs a
release statement with the vendor's release key, and logs it. If the log doesn't know the
key yet, the key is logged first. Writes the entry to ENTRY before it is submitted, and
the proof that it is logged to ENTRY.tlog-proof; prints a line with index, statement
digest and proof for each entry that is logged, as "affidavit submit" does. Should it
be interrupted after the entry was written, go on with "affidavit submit".

The statement is a file of your own (--statement), or made from flags. Then the
measurements are those in a quote that a trust domain with the image has made, with any
REPORTDATA: MRTD, RTMR0 to RTMR3, MRCONFIGID, MROWNER and MROWNERCONFIG. Give --quote once
for each shape of machine whose measurements differ. What differs between honest runs
must be left open with --leave-open, and everything that is left open anybody can choose.

Only records logged after the release are covered by it. A release that turns out to be
bad is taken back by a release-withdrawn/v1 statement, see "affidavit sign".`,
		trusts: `The key file, and you: nobody checks that the image does what it should, and the quotes
are not verified ("affidavit appraise" does that). With --log-policy, the keys that it
lists; without it, the log, as in "affidavit submit".`,
		examples: `  affidavit release --key release.key --log https://log.example.org/2026 --token-file token \
      --out release.entry --statement release.json
  affidavit release --key release.key --log https://log.example.org/2026 --token-file token \
      --out release.entry --vendor https://vendor.example --version 2026.11.3 \
      --image sandbox@sha256:d1d14985a1ddb95c6f105adaf2e17db3e49a2a87a55d87da413a136be577c1ba \
      --quote quote.bin --leave-open rtmr3
`,
		exits: map[int]string{
			exitGood:       "the release is logged, and its proof was written",
			exitNotGenuine: "the log refused the key or the release",
		},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			r := new(releasing)
			key := fs.String("key", "", "`FILE` with the vendor's release key, from \"affidavit keygen --type release\"")
			passphrase := passphraseFlag(fs)
			url := logFlag(fs)
			token := fs.String("token-file", "", "`FILE` with the bearer token that the log's operator gave you")
			policy := fs.String("log-policy", "", "`FILE` that says whose signatures make an entry logged")
			fs.StringVar(&r.out, "out", "", "`ENTRY`, the file for the signed release, beside which goes its proof")
			fs.StringVar(&r.statement, "statement", "", "`FILE` with the release statement, which is signed as its exact bytes")
			fs.StringVar(&r.vendor, "vendor", "", "the vendor's `ID`, a URI")
			fs.StringVar(&r.image, "image", "", "`NAME@sha256:DIGEST` of the image")
			fs.StringVar(&r.version, "version", "", "`VERSION` of the image, in the vendor's words")
			fs.StringArrayVar(&r.quotes, "quote", nil, "`FILE` with a quote to take measurements from: raw, hexadecimal or base64; can be given again")
			fs.StringArrayVar(&r.open, "leave-open", nil, "`NAME` of a measurement that isn't constrained: rtmr0 to rtmr3, mrconfigid, mrowner, mrownerconfig; can be given again")
			fs.StringVar(&r.source, "source", "", "`URI` of the source code that the image was built from")
			fs.StringVar(&r.commit, "source-commit", "", "git commit `ID` of the source code")
			fs.BoolVar(&r.agentMeasured, "agent-measured", false, "state that the agent itself is part of the measured image, so that it can't act without a record of it")
			fs.StringVar(&r.notBefore, "not-before", "", "`TIME` from which the release is valid (default now)")
			fs.StringVar(&r.notAfter, "not-after", "", "`TIME` after which it isn't any more (default never)")
			plain := plainHTTPFlag(fs)
			return func(c *console, _ []string) (int, error) {
				if err := require(fs, "key", "log", "token-file", "out"); err != nil {
					return 0, err
				}
				made := []string{"vendor", "image", "version", "quote"}
				var given []string
				for _, name := range append(made, "leave-open", "source", "source-commit", "agent-measured", "not-before", "not-after") {
					if fs.Changed(name) {
						given = append(given, "--"+name)
					}
				}
				switch {
				case r.statement != "" && len(given) > 0:
					return 0, usagef("%s: for statements that this command makes, and %s is one already", strings.Join(given, ", "), clean(r.statement))
				case r.statement == "" && len(given) == 0:
					return 0, usagef("nothing to release: give --statement, or --vendor, --image, --version and --quote")
				case r.statement == "":
					if err := require(fs, made...); err != nil {
						return 0, err
					}
				}
				if r.out == "-" {
					return 0, usagef("--out -: want a file, beside which the proof goes")
				}
				cfg, err := submitConfig(c, *url, *token, *policy, *plain)
				if err != nil {
					return 0, err
				}
				private, err := c.readKey(*key, *passphrase)
				if err != nil {
					return 0, err
				}
				entry, err := r.make(c, private)
				if err != nil {
					return 0, err
				}
				l, err := client.New(*url, cfg)
				if err != nil {
					return 0, err
				}
				return r.log(c, l, private, entry)
			}
		},
	}
}

// A releasing is what the flags of release ask for.
type releasing struct {
	out, statement         string
	vendor, image, version string
	quotes, open           []string
	source, commit         string
	agentMeasured          bool
	notBefore, notAfter    string
}

// make returns the signed release.
func (r *releasing) make(c *console, key ed25519.PrivateKey) (*record.Entry, error) {
	name := "the statement of this release"
	var payload []byte
	var err error
	if r.statement != "" {
		name = r.statement
		payload, err = c.readPublic(name)
	} else {
		payload, err = r.payload(c)
	}
	if err != nil {
		return nil, err
	}
	st, err := record.ParseStatement(payload)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if st.Release == nil {
		return nil, fmt.Errorf("%s: a %s statement, and no release: use \"affidavit sign\"", name, clean(st.PredicateType))
	}
	entry, err := record.SignEntry(record.ProfileVendorSigned, payload, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return entry, nil
}

// payload returns the statement that the flags describe.
func (r *releasing) payload(c *console) ([]byte, error) {
	if err := record.CheckVendorID(r.vendor); err != nil {
		return nil, usagef("--vendor %q: %v", clean(r.vendor), err)
	}
	release := &record.Release{Version: r.version, AgentMeasured: r.agentMeasured, NotBefore: c.now().UTC().Truncate(time.Second)}
	var err error
	if release.Image, err = parseImage(r.image); err != nil {
		return nil, err
	}
	if r.notBefore != "" {
		if release.NotBefore, err = parseTime(r.notBefore); err != nil {
			return nil, usagef("--not-before: %v", err)
		}
	}
	if r.notAfter != "" {
		t, err := parseTime(r.notAfter)
		if err != nil {
			return nil, usagef("--not-after: %v", err)
		}
		release.NotAfter = &t
	}
	if (r.source == "") != (r.commit == "") {
		return nil, usagef("--source and --source-commit go together")
	}
	if r.source != "" {
		release.Source = &record.Source{URI: r.source, GitCommit: r.commit}
	}
	for _, name := range r.open {
		if !slices.Contains(openable, strings.ToLower(name)) {
			return nil, usagef("--leave-open %q: want one of %s", clean(name), strings.Join(openable, ", "))
		}
	}
	for _, name := range r.quotes {
		b, err := c.readPublic(name)
		if err != nil {
			return nil, err
		}
		_, q, err := decodeQuote(b)
		if err != nil {
			return nil, fmt.Errorf("%s: not a TDX quote: %w", name, tdx.Cause(err))
		}
		if q.Body.TDAttributes.Debug() {
			fmt.Fprintf(c.stderr, "warning: %s is of a debug trust domain, which no log admits: its measurements are those of the same image without debug\n", clean(name))
		}
		m := r.measurement(q)
		if !slices.ContainsFunc(release.Measurements, func(o record.Measurement) bool { return reflect.DeepEqual(o, m) }) {
			release.Measurements = append(release.Measurements, m)
		}
	}
	st := &record.Statement{PredicateType: record.PredicateRelease, Vendor: r.vendor, Release: release}
	payload, err := st.Marshal()
	if err != nil {
		return nil, usagef("the statement of this release: %v", err)
	}
	return payload, nil
}

// openable are the measurements that --leave-open names. MRTD is not one: without it
// anything could be the image.
var openable = []string{"rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid", "mrowner", "mrownerconfig"}

// measurement returns what q measures, but for what is left open.
func (r *releasing) measurement(q *tdx.Quote) record.Measurement {
	m := record.Measurement{MRTD: [48]byte(q.Body.MRTD)}
	values := [][]byte{q.Body.RTMR[0], q.Body.RTMR[1], q.Body.RTMR[2], q.Body.RTMR[3], q.Body.MRConfigID, q.Body.MROwner, q.Body.MROwnerConfig}
	for i, to := range []**[48]byte{&m.RTMR[0], &m.RTMR[1], &m.RTMR[2], &m.RTMR[3], &m.MRConfigID, &m.MROwner, &m.MROwnerConfig} {
		if !slices.ContainsFunc(r.open, func(name string) bool { return strings.EqualFold(name, openable[i]) }) {
			*to = new([48]byte(values[i]))
		}
	}
	return m
}

// parseImage parses NAME@sha256:DIGEST.
func parseImage(s string) (record.Image, error) {
	i := strings.LastIndex(s, "@sha256:")
	if i > 0 {
		if b, err := hex.DecodeString(s[i+len("@sha256:"):]); err == nil && len(b) == len(record.Digest{}) {
			return record.Image{Name: s[:i], SHA256: record.Digest(b)}, nil
		}
	}
	return record.Image{}, usagef("--image %q: want NAME@sha256: and 64 hexadecimal digits", clean(s))
}

// log logs the key if need be, and then the entry.
func (r *releasing) log(c *console, l *client.Client, key ed25519.PrivateKey, entry *record.Entry) (int, error) {
	ctx, stop := interruptible()
	defer stop()
	failed := func(what string, err error) (int, error) {
		status, _ := submitStatus(err)
		c.complain("affidavit release: %s: %v", what, err)
		return status, nil
	}
	vendor := entry.Statement().Vendor
	_, err := l.ProofByKey(ctx, vendor, entry.KeyID)
	if client.NotFound(err) {
		err = r.logKey(ctx, c, l, vendor, key)
		if err != nil {
			return failed("the release key", err)
		}
	}
	if err != nil {
		return failed("asking the log for the release key", err)
	}
	// A release that is made again says another time, so this one is kept whatever comes.
	if err := c.write(r.out, entry.Bytes()); err != nil {
		return 0, err
	}
	proof, err := l.Submit(ctx, entry)
	if err != nil {
		status, err := failed("the release", err)
		if status != exitNotGenuine {
			c.complain("affidavit release: %s is the signed release: go on with \"affidavit submit\"", r.out)
		}
		return status, err
	}
	name := r.out + ".tlog-proof"
	if err := writeFile(name, proof.Bytes()); err != nil {
		return 0, err
	}
	printLogged(c, proof, entry, name)
	return exitGood, nil
}

// logKey makes the key known to the log.
func (r *releasing) logKey(ctx context.Context, c *console, l *client.Client, vendor string, key ed25519.PrivateKey) error {
	payload, err := vendorKeyStatement(vendor, key)
	if err != nil {
		return err
	}
	entry, err := record.SignEntry(record.ProfileVendorSigned, payload, key)
	if err != nil {
		return err
	}
	proof, err := l.Submit(ctx, entry)
	if err != nil {
		return err
	}
	name := r.out + ".key.tlog-proof"
	if err := writeFile(name, proof.Bytes()); err != nil {
		return err
	}
	printLogged(c, proof, entry, name)
	return nil
}

func printLogged(c *console, proof *checkpoint.Proof, entry *record.Entry, file string) {
	fmt.Fprintf(c.stdout, "%d %x %s\n", proof.Index, entry.StatementDigest(), file)
}
