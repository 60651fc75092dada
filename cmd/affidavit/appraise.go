package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

func appraiseCommand() *command {
	return &command{
		name:  "appraise",
		usage: []string{"--quote FILE --collateral FILE [--at TIME] [--root FILE] [--appraisal-policy FILE] [--json]"},
		short: "judge a bare TDX quote, without any record or log",
		about: `Checks that genuine Intel hardware made a TDX quote (version 4 or 5), by Intel's
rules and with Intel's collateral as it was in force at a time; then judges the
platform and the trust domain by an appraisal policy. The quote may be raw, in
hexadecimal or in base64, with zero padding.

The collateral file is the JSON form that quote verifiers exchange (members
tcb_info, qe_identity, their signatures and issuer chains, pck_crl, root_ca_crl).

Without --appraisal-policy the strict default holds: TCB status UpToDate, no debug,
no migration, SEPT_VE_DISABLE set. Measurements are always shown, and judged only if
a policy names some: without one, the hardware is known and the code is not.`,
		trusts: `The root certificate (Intel's, built in, unless --root names another), the time
given, and the appraisal policy. Nobody who carries quote and collateral. It assumes
that nobody has extracted this platform's keys by physical attack.`,
		examples: `  affidavit appraise --quote quote.bin --collateral collateral.json
  affidavit appraise --quote quote.hex --collateral collateral.json --at 2026-03-05T10:50:03Z --json
`,
		exits: map[int]string{
			exitGood:       "genuine, and allowed by the appraisal policy",
			exitRefused:    "genuine, but refused by the appraisal policy",
			exitNotGenuine: "not genuine: malformed, forged, revoked, unknown to Intel, or the collateral\ndoes not hold at that time",
		},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			quote := fs.String("quote", "", "`FILE` with the quote")
			collateral := fs.String("collateral", "", "`FILE` with Intel's collateral for the platform, in JSON")
			at := fs.String("at", "", "`TIME` to judge at: RFC 3339, or seconds since 1970 (default now)")
			root := rootFlag(fs)
			policy := fs.String("appraisal-policy", "", "`FILE` that says what is good enough, in YAML (default strict)")
			asJSON := jsonFlag(fs)
			return func(c *console, _ []string) (int, error) {
				if err := require(fs, "quote", "collateral"); err != nil {
					return 0, err
				}
				when := c.now().UTC()
				if *at != "" {
					var err error
					if when, err = parseTime(*at); err != nil {
						return 0, usagef("--at: %v", err)
					}
				}
				r, err := readRoot(c, *root)
				if err != nil {
					return 0, err
				}
				p := verifier.StrictPolicy()
				if *policy != "" {
					if p, err = readAppraisalPolicy(c, *policy); err != nil {
						return 0, err
					}
				}
				quoteBytes, err := c.read(*quote)
				if err != nil {
					return 0, err
				}
				collateralBytes, err := c.read(*collateral)
				if err != nil {
					return 0, err
				}
				a := appraise(quoteBytes, collateralBytes, r, when, p)
				a.file, a.policy = *quote, *policy
				if *asJSON {
					return a.status(), c.printJSON(a.json())
				}
				a.print(c)
				return a.status(), nil
			}
		},
	}
}

func rootFlag(fs *pflag.FlagSet) *string {
	return fs.String("root", "", "`FILE` with the root certificate to trust, PEM or DER (default Intel's)")
}

func jsonFlag(fs *pflag.FlagSet) *bool {
	return fs.Bool("json", false, "print one JSON object a line for each input, for scripts")
}

func readRoot(c *console, name string) (*tdx.Root, error) {
	if name == "" {
		return tdx.IntelRoot(), nil
	}
	b, err := c.readPublic(name)
	if err != nil {
		return nil, err
	}
	r, err := tdx.ParseRoot(b)
	if err != nil {
		return nil, fmt.Errorf("%s: not a root certificate: %w", name, tdx.Cause(err))
	}
	return r, nil
}

func readAppraisalPolicy(c *console, name string) (*verifier.Policy, error) {
	b, err := c.readPublic(name)
	if err != nil {
		return nil, err
	}
	p, err := verifier.ParsePolicy(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return p, nil
}

// An appraisal is the answer about one quote.
type appraisal struct {
	file, policy string
	at           time.Time
	root         *tdx.Root

	quote *tdx.Quote // nil if it couldn't be parsed

	// One of these is set.
	reason  string // why the quote isn't genuine: one of tdx's reasons
	verdict *verifier.Appraisal

	tcbStatus tdx.Status // known for revoked platforms too
	detail    error      // of reason
}

// appraise judges a quote and collateral in the forms that files have.
func appraise(quote, collateral []byte, root *tdx.Root, at time.Time, p *verifier.Policy) *appraisal {
	a := &appraisal{at: at, root: root}
	fail := func(reason tdx.Reason, err error) *appraisal {
		if e := new(tdx.Error); errors.As(err, &e) {
			reason, a.tcbStatus, err = e.Reason, e.Status, e.Err
		}
		a.reason, a.detail = string(reason), err
		return a
	}
	_, q, err := decodeQuote(quote)
	if err != nil {
		return fail(tdx.ReasonParse, err)
	}
	a.quote = q
	// Evidence can't be judged genuine with collateral that can't be used, and
	// whoever made the collateral may be whom we have to fear.
	col, err := tdx.ParseCollateralJSON(collateral)
	if err != nil {
		return fail(tdx.ReasonCollateral, err)
	}
	v := verifier.New(root)
	set, err := v.Compile(col)
	if err != nil {
		return fail(tdx.ReasonCollateral, err)
	}
	verdict, err := v.Appraise(q, set, at, p)
	if err != nil {
		return fail(tdx.ReasonParse, err)
	}
	a.verdict, a.tcbStatus = verdict, verdict.TDX.Status
	return a
}

func (a *appraisal) status() int {
	switch {
	case a.verdict == nil:
		return exitNotGenuine
	case !a.verdict.Allowed():
		return exitRefused
	}
	return exitGood
}

// appraisalJSON is the answer for scripts. Every member is always there, empty
// where nothing is known.
type appraisalJSON struct {
	Quote           string             `json:"quote"` // the file's name
	Genuine         bool               `json:"genuine"`
	Allowed         bool               `json:"allowed"`
	Reason          string             `json:"reason"` // a word, when not genuine
	Detail          string             `json:"detail"` // a sentence, when not genuine
	TCBStatus       tdx.Status         `json:"tcbStatus"`
	Advisories      []string           `json:"advisories"`
	Refusals        []verifier.Refusal `json:"refusals"`
	At              time.Time          `json:"at"`
	Root            string             `json:"root"`            // SHA-256 of the root certificate
	AppraisalPolicy string             `json:"appraisalPolicy"` // the file's name, or "strict"
	quoteFields
	Platform *componentJSON   `json:"platform"`
	Module   *componentJSON   `json:"module"`
	QE       *componentJSON   `json:"qe"`
	Claims   []verifier.Claim `json:"claims"`
}

type componentJSON struct {
	Status     tdx.Status `json:"tcbStatus"`
	Date       string     `json:"tcbDate"`
	Advisories []string   `json:"advisories"`
}

func componentOf(c tdx.Component) *componentJSON {
	if c.Status == "" {
		return nil
	}
	return &componentJSON{c.Status, stamp(c.Date), append([]string{}, c.Advisories...)}
}

func (a *appraisal) json() *appraisalJSON {
	fingerprint := a.root.Fingerprint()
	j := &appraisalJSON{
		Quote: a.file, At: a.at, Root: hex.EncodeToString(fingerprint[:]), AppraisalPolicy: "strict",
		Reason: a.reason, TCBStatus: a.tcbStatus,
		Advisories: []string{}, Refusals: []verifier.Refusal{}, Claims: []verifier.Claim{},
	}
	if a.policy != "" {
		j.AppraisalPolicy = a.policy
	}
	if a.quote != nil {
		j.quoteFields = fieldsOf(a.quote)
	}
	if a.detail != nil {
		j.Detail = a.detail.Error()
	}
	if v := a.verdict; v != nil {
		j.Genuine, j.Allowed = true, v.Allowed()
		j.Advisories = advisoryIDs(v.TDX)
		j.Refusals = append(j.Refusals, v.Refusals...)
		j.Claims = append(j.Claims, v.Claims...)
		j.Platform, j.Module, j.QE = componentOf(v.TDX.Platform), componentOf(v.TDX.Module), componentOf(v.TDX.QE)
	}
	return j
}

// advisoryIDs lists each advisory once, in order.
func advisoryIDs(r *tdx.Result) []string {
	ids := []string{}
	for _, a := range r.Advisories {
		if !slices.Contains(ids, a.ID) {
			ids = append(ids, a.ID)
		}
	}
	return ids
}

func (a *appraisal) print(c *console) {
	w := c.stdout
	switch {
	case a.verdict == nil:
		c.headline(a.status(), fmt.Sprintf("NOT GENUINE (%s): %s", a.reason, clean(a.detail.Error())))
	case !a.verdict.Allowed():
		c.headline(a.status(), fmt.Sprintf("REFUSED: genuine hardware made this quote, but the appraisal policy refuses it (TCB status %s).", a.tcbStatus))
		printRefusals(w, a.verdict.Refusals)
	default:
		c.headline(a.status(), fmt.Sprintf("GOOD: genuine hardware made this quote, and the appraisal policy allows it (TCB status %s).", a.tcbStatus))
	}
	fmt.Fprintf(w, "\nJudged as of %s, under %s.\n", stamp(a.at), clean(a.root.String()))
	if a.verdict == nil {
		if a.quote != nil {
			fmt.Fprintf(w, "\nWhat the quote says, which nothing vouches for:\n")
			printQuote(w, a.quote)
		}
		return
	}
	printClaims(w, a.verdict.Claims)
	fmt.Fprintln(w)
	hang(w, "Assumed: ", judge.HardwareAssumption)
	if !a.verdict.Identity.Known() {
		hang(w, "Limit:   ", "no policy names these measurements, so what code ran in the trust domain is not known.")
	}
	hang(w, "Limit:   ", "a quote holds no time: when it was made is not known.")
}

// stamp prints a time for people and scripts alike.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
