package main

import (
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/webui/verifypage"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// pageModule is what the page runs. Tests of this command have another, since the real one isn't in the repository.
var pageModule = verifypage.Embedded

func verifyPageCommand() *command {
	return &command{
		name:  "verify-page",
		usage: []string{"[--log-policy FILE] [--appraisal-policy FILE] [--root FILE] --out FILE"},
		short: "make a web page that checks .affidavit files, offline",
		about: `Writes one HTML file that does what "affidavit verify" does, in the reader's browser:
whoever opens it drops an .affidavit file on it, and disclosures of its actions, and
gets the verdict. It has this command's code in it, compiled to WebAssembly. It makes no
request, works without a network and from a disk, and can be put on any site.

The policies, and the root certificate if one is given, go into the page, for readers to
judge by. The page tells them that whoever made it chose these, shows their SHA-256, and
takes the reader's own instead. Without policies, readers have to bring theirs.

The same command with the same files makes the same page, byte for byte.`,
		trusts: `Nothing itself: it judges nothing. Whoever opens the page trusts whoever made it, as they
would trust a program; an auditor should make their own.`,
		examples: `  affidavit verify-page --log-policy log.policy --appraisal-policy ours.yaml --out verify.html
  affidavit verify-page --out verify.html
`,
		exits: map[int]string{exitGood: "the page was written"},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			logPolicy := fs.String("log-policy", "", "`FILE` that says whose signatures make a record logged, to go into the page")
			appraisalPolicy := fs.String("appraisal-policy", "", "`FILE` that says which records are good enough, to go into the page")
			root := fs.String("root", "", "`FILE` with the root certificate that the page trusts, PEM or DER (default Intel's)")
			out := fs.String("out", "", "`FILE` to write the page to")
			return func(c *console, _ []string) (int, error) {
				if err := require(fs, "out"); err != nil {
					return 0, err
				}
				o := verifypage.Options{Version: pageVersion()}
				for _, f := range []struct {
					name  string
					into  *string
					check func([]byte) (string, error)
				}{
					{*logPolicy, &o.LogPolicy, c.pageLogPolicy}, {*appraisalPolicy, &o.AppraisalPolicy, pageAppraisalPolicy}, {*root, &o.Root, pageRoot},
				} {
					if f.name == "" {
						continue
					}
					b, err := c.readPublic(f.name)
					if err != nil {
						return 0, err
					}
					if *f.into, err = f.check(b); err != nil {
						return 0, fmt.Errorf("%s: %w", f.name, err)
					}
				}
				var err error
				if o.Module, err = pageModule(); err != nil {
					return 0, err
				}
				page, err := verifypage.Page(o)
				if errors.Is(err, verifypage.ErrNotText) {
					return 0, fmt.Errorf("a policy or certificate is %w", err)
				}
				if err != nil {
					return 0, err
				}
				if err := c.write(*out, page); err != nil {
					return 0, err
				}
				if *out != "-" {
					fmt.Fprintf(c.stdout, "%s: %d bytes, SHA-256 %x\n", clean(*out), len(page), sha256.Sum256(page))
				}
				return exitGood, nil
			}
		},
	}
}

// pageVersion is the version of the module that this command was built from. It is the same on every platform.
func pageVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return "affidavit " + info.Main.Version
	}
	return "affidavit"
}

func (c *console) pageLogPolicy(b []byte) (string, error) {
	p, err := checkpoint.ParsePolicy(b)
	if err != nil {
		return "", err
	}
	if p.IsQuorumNone() {
		c.complain("warning: the log policy asks for no witnesses: readers of the page will have to accept that before it judges anything")
	}
	return string(b), nil
}

func pageAppraisalPolicy(b []byte) (string, error) {
	p, err := verifier.ParsePolicy(b)
	if err == nil && !p.NamesMeasurement() {
		err = errors.New(verifier.WhatToPin)
	}
	return string(b), err
}

func pageRoot(b []byte) (string, error) {
	if _, err := tdx.ParseRoot(b); err != nil {
		return "", tdx.Cause(err)
	}
	if block, _ := pem.Decode(b); block == nil {
		b = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b})
	}
	return string(b), nil
}
