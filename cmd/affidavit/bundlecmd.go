package main

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

func bundleCommand() *command {
	return &command{
		name:  "bundle",
		usage: []string{"--log URL [--log-policy FILE] [--appraisal-policy FILE] [--previous-log URL] [--out FILE] INDEX|STATEMENT-DIGEST"},
		short: "fetch the .affidavit file of a logged record",
		about: `Fetches a record and everything that it refers to from a log, with proofs under the
newest checkpoint, and writes one .affidavit file. The record is named by its index in
the log, or by the SHA-256 digest of its statement in hexadecimal. Anyone may do this;
no token is needed.

A file fetched a minute or more after the record was logged also holds the checkpoint
that proves by when it was logged.

If the appraisal policy by which the file will be judged requires appraisers, give it
with --appraisal-policy: they cosign what is published a little later, and the file is
written once they have.

A session that ended in the first days of a log of a year may have begun in the log of
the year before, which --previous-log then names. The file has proofs from both, and
the log policy that it is verified under has lines for both.`,
		trusts: `With --log-policy, the keys that it lists. Without it nothing: the file is only as
good as "affidavit verify" finds it to be.`,
		examples: `  affidavit bundle --log https://log.example.org/2026 --out session.affidavit 73934
  affidavit bundle --log https://log.example.org/2026 --log-policy log.policy \
      1fba29deac420237b409ee4216210521dafd071b8efab682e5a4dc7a20f5a845
`,
		exits: map[int]string{
			exitGood:       "the file was written",
			exitNotGenuine: "the log has no such record",
			exitError:      "an error, such as appraisers that haven't cosigned in time; try again later",
		},
		minArgs: 1, maxArgs: 1,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			url := logFlag(fs)
			policy := fs.String("log-policy", "", "`FILE` that says whose signatures make a record logged")
			appraisal := fs.String("appraisal-policy", "", "`FILE` whose appraisers must have cosigned the log's checkpoint")
			wait := fs.Duration("wait", time.Minute, "`TIME` to wait for the appraisers at most")
			previous := fs.String("previous-log", "", "`URL` of the log of the year before, in which the session may have begun")
			out := fs.String("out", "", "`FILE` to write (default the argument with .affidavit)")
			return func(c *console, args []string) (int, error) {
				if err := require(fs, "log"); err != nil {
					return 0, err
				}
				index, digest, err := parseName(args[0])
				if err != nil {
					return 0, err
				}
				var cfg client.Config
				if *policy != "" {
					if cfg.LogPolicy, err = readLogPolicy(c, *policy); err != nil {
						return 0, err
					}
				}
				if *wait <= 0 {
					return 0, usagef("--wait %v: want a positive time", *wait)
				}
				if *appraisal != "" {
					p, err := readAppraisalPolicy(c, *appraisal)
					if err != nil {
						return 0, err
					}
					for _, vkey := range p.Appraisers() {
						key, err := checkpoint.ParseVKey(vkey)
						if err != nil {
							return 0, fmt.Errorf("%s: appraiser: %w", *appraisal, err)
						}
						cfg.Appraisers = append(cfg.Appraisers, key)
					}
					cfg.AppraisersWait = *wait
				}
				if *previous != "" {
					if cfg.Previous, err = client.New(*previous, cfg); err != nil {
						return 0, usagef("--previous-log: %v", err)
					}
				}
				l, err := client.New(*url, cfg)
				if err != nil {
					return 0, usagef("--log: %v", err)
				}
				ctx, stop := interruptible()
				defer stop()
				var b *bundle.Bundle
				if digest != nil {
					b, err = l.AssembleBundleOf(ctx, *digest)
				} else {
					b, err = l.AssembleBundle(ctx, index)
				}
				if client.NotFound(err) {
					c.complain("affidavit bundle: %s: the log has no such record, or no published checkpoint covers it yet: %v", args[0], err)
					return exitNotGenuine, nil
				}
				if err != nil {
					return 0, err
				}
				file, err := b.Bytes()
				if err != nil {
					return 0, err
				}
				name := *out
				if name == "" {
					name = args[0] + ".affidavit"
				}
				if err := c.write(name, file); err != nil {
					return 0, err
				}
				if name != "-" {
					fmt.Fprintln(c.stdout, name)
				}
				return exitGood, nil
			}
		},
	}
}

// parseName parses what names a record in a log.
func parseName(s string) (index uint64, digest *record.Digest, err error) {
	if b, err := hex.DecodeString(s); err == nil && len(b) == len(record.Digest{}) {
		d := record.Digest(b)
		return 0, &d, nil
	}
	index, err = strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, nil, usagef("%q is neither an index nor a statement's SHA-256 in hexadecimal", clean(s))
	}
	return index, nil, nil
}
