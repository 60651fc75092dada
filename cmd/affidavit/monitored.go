package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/cmd/internal/keys"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// What the commands have in common that ask a monitor.

const trustsMonitor = `The monitor, which should be your own: it answers from what it has verified itself,
and its answers aren't signed.`

// A monitorAt is where a monitor is, and the file with the token that it asks for.
type monitorAt struct{ url, tokenFile *string }

func monitorFlag(fs *pflag.FlagSet) monitorAt {
	return monitorAt{
		fs.String("monitor", monitorapi.DefaultURL, "`URL` of the monitor (default "+monitorapi.DefaultURL+")"), monitorTokenFlag(fs),
	}
}

func monitorTokenFlag(fs *pflag.FlagSet) *string {
	return fs.String("monitor-token-file", "", "`FILE` with the token that the monitor asks for, which only you can read (mode 0600)")
}

// open returns a client of the monitor.
func (m monitorAt) open() (*monitorapi.Client, error) { return openMonitor(*m.url, *m.tokenFile) }

func openMonitor(url, tokenFile string) (*monitorapi.Client, error) {
	m, err := monitorapi.NewClient(url, nil)
	if err != nil {
		return nil, usagef("--monitor: %v", err)
	}
	if tokenFile == "" {
		return m, nil
	}
	token, err := keys.Token(tokenFile, 1)
	if err != nil {
		return nil, fmt.Errorf("--monitor-token-file: %w", err)
	}
	if m, err = m.WithToken(token); err != nil {
		return nil, usagef("--monitor: %v", err)
	}
	return m, nil
}

// asUsage turns what a query's Normalize has against it into the caller's mistake.
func asUsage(err error) error {
	if err == nil {
		return nil
	}
	return usagef("%v", err)
}

// A period is what --since and --until say: when the log admitted something.
type period struct{ since, until *string }

func periodFlags(fs *pflag.FlagSet) period {
	return period{
		fs.String("since", "", "only what the log admitted at this `TIME` or later"),
		fs.String("until", "", "only what the log admitted before this `TIME`"),
	}
}

func (p period) parse() (since, until time.Time, err error) {
	if since, err = flagTime("since", *p.since); err == nil {
		until, err = flagTime("until", *p.until)
	}
	return since, until, err
}

func flagTime(flag, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := parseTime(value)
	if err != nil {
		return t, usagef("--%s: %v", flag, err)
	}
	return t, nil
}

// today is what says how platforms are judged by now.
type today struct {
	files         *[]string
	pcs, root, at *string
}

func todayFlags(fs *pflag.FlagSet) today {
	return today{
		files: fs.StringArray("collateral", nil, "`FILE` with today's collateral for one kind of platform, in JSON; can be given again"),
		pcs:   fs.String("pcs-url", "", "`URL` of Intel's PCS, or a PCCS, that has today's collateral for all platforms in the log"),
		root:  fs.String("root", "", "`FILE` with the root certificate that --pcs-url serves under, PEM or DER (default Intel's)"),
		at:    fs.String("at", "", "`TIME` for which to judge (default the monitor's present)"),
	}
}

func (t today) given() bool { return len(*t.files) > 0 || *t.pcs != "" }

// request reads the collateral. Whole reports whether there is some for all kinds of platforms that it was asked for.
func (t today) request(ctx context.Context, c *console, m *monitorapi.Client) (r *monitorapi.ReappraiseRequest, whole bool, err error) {
	r, whole = &monitorapi.ReappraiseRequest{}, true
	if r.At, err = flagTime("at", *t.at); err != nil {
		return nil, false, err
	}
	if len(*t.files) > 0 && *t.pcs != "" {
		return nil, false, usagef("--collateral and --pcs-url: which one?")
	}
	for _, name := range *t.files {
		b, err := c.read(name)
		if err != nil {
			return nil, false, err
		}
		if _, err := tdx.ParseCollateralJSON(b); err != nil {
			return nil, false, fmt.Errorf("%s: %w", name, tdx.Cause(err))
		}
		r.Collateral = append(r.Collateral, json.RawMessage(b))
	}
	if *t.pcs == "" {
		return r, true, nil
	}
	root, err := readRoot(c, *t.root)
	if err != nil {
		return nil, false, err
	}
	at := r.At
	if at.IsZero() {
		at = c.now()
	}
	source, err := pcs.New(pcs.Config{URL: *t.pcs, Root: root, Now: c.now})
	if err != nil {
		return nil, false, usagef("--pcs-url: %v", err)
	}
	defer source.Close()
	families, err := m.Families(ctx)
	if err != nil {
		return nil, false, err
	}
	for _, f := range families {
		set, err := source.Collateral(ctx, f.FMSPC, f.CA, at)
		if err != nil {
			c.complain("warning: no collateral for FMSPC %s, %s CA: %v", f.FMSPC, f.CA, err)
			whole = false
			continue
		}
		b, err := set.JSON()
		if err != nil {
			return nil, false, err
		}
		r.Collateral = append(r.Collateral, b)
	}
	if len(r.Collateral) == 0 {
		return nil, false, errors.New("there is no collateral for any kind of platform in the log")
	}
	return r, whole, nil
}

// A table is for people: columns with two spaces between. What is in it may come from the log.
type table struct{ w *tabwriter.Writer }

func (c *console) table(head ...any) *table {
	t := &table{tabwriter.NewWriter(c.stdout, 0, 0, 2, ' ', 0)}
	t.row(head...)
	return t
}

func (t *table) row(cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		text := clean(fmt.Sprint(cell))
		if text == "" {
			text = "-"
		}
		fmt.Fprint(t.w, text)
	}
	fmt.Fprintln(t.w)
}

func (t *table) end() error { return t.w.Flush() }

// endTable ends a table of what a monitor sent, which is nil if nothing came, and returns what went wrong first: printing a
// line, asking the monitor, or printing the table.
func (c *console) endTable(t *table, printing, asking error) error {
	var ending error
	if t != nil {
		ending = t.end()
		fmt.Fprintln(c.stdout)
	}
	return cmp.Or(printing, asking, ending)
}

// brief is as much of a hash as people compare, and as --json has in full.
func brief(h monitorapi.Hash) string {
	if h == (monitorapi.Hash{}) {
		return ""
	}
	return h.String()[:16] + "…"
}

// made says when a record was made, as far as it is proven, or else when the log says that it admitted it.
func made(r *monitorapi.Record) string {
	switch {
	case r.NotBefore.IsZero() && r.NotAfter.IsZero():
		return "admitted " + stamp(r.AdmittedAt)
	case r.NotAfter.IsZero():
		return "after " + stamp(r.NotBefore)
	case r.NotBefore.IsZero():
		return "before " + stamp(r.NotAfter)
	}
	return fmt.Sprintf("%s + %s", stamp(r.NotBefore), r.NotAfter.Sub(r.NotBefore).Round(time.Second))
}

// platformStatus says in a word how the platform was judged.
func platformStatus(r *monitorapi.Record) string {
	if !r.Genuine {
		return "NOT GENUINE: " + r.Reason
	}
	return r.TCBStatus
}

func audited(s monitorapi.State) string {
	return fmt.Sprintf("log %s, of which %s are audited", clean(s.Log), counted(s.Size, "leaf", "leaves"))
}

func counted(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
