package export

import (
	"strconv"
	"strings"
)

// A column is one of the CSV export's.
type column struct {
	name  string
	value func(*Record) string
}

// columns are those of FORMATS.md, in its order. New ones go to the end.
var columns = []column{
	{"leaf_hash", func(r *Record) string { return r.UID }},
	{"verdict", func(r *Record) string { return string(r.Verdict) }},
	{"role", func(r *Record) string { return string(r.Role) }},
	{"log", func(r *Record) string { return r.Log }},
	{"index", func(r *Record) string {
		if r.Log == "" { // evidence that isn't proven is nowhere
			return ""
		}
		return strconv.FormatUint(r.Index, 10)
	}},
	{"statement", func(r *Record) string { return r.Statement }},
	{"vendor", func(r *Record) string { return r.Vendor }},
	{"session_id", func(r *Record) string { return r.Session }},
	{"tenant", func(r *Record) string { return r.Tenant }},
	{"tenant_epoch", func(r *Record) string { return r.TenantEpoch }},
	{"sequence", func(r *Record) string { return optional(r.Sequence) }},
	{"not_before", func(r *Record) string { return stamp(r.NotBefore) }},
	{"not_after", func(r *Record) string { return stamp(r.NotAfter) }},
	{"admitted_at", func(r *Record) string { return stamp(r.AdmittedAt) }},
	{"started_on", func(r *Record) string { return stamp(r.StartedOn) }},
	{"finished_on", func(r *Record) string { return stamp(r.FinishedOn) }},
	{"end_reason", func(r *Record) string { return r.EndReason }},
	{"tcb_status", func(r *Record) string { return r.TCBStatus }},
	{"advisories", func(r *Record) string { return strings.Join(r.Advisories, "; ") }},
	{"fmspc", func(r *Record) string { return r.FMSPC }},
	{"platform", func(r *Record) string { return r.Platform }},
	{"release_name", func(r *Record) string { return r.ReleaseName }},
	{"release", func(r *Record) string { return r.Release }},
	{"models", func(r *Record) string {
		var b strings.Builder
		for i := range r.Models {
			m := &r.Models[i]
			if i > 0 {
				b.WriteString("; ")
			}
			b.WriteString(m.Provider + "/" + m.name())
			if m.Execution != "" {
				b.WriteString(" (" + m.Execution + ")")
			}
		}
		return b.String()
	}},
	{"actions", func(r *Record) string {
		if r.Actions == nil {
			return ""
		}
		return strconv.FormatUint(*r.Actions, 10)
	}},
	{"blocked", func(r *Record) string {
		if r.Actions == nil {
			return ""
		}
		return strconv.FormatUint(r.Blocked, 10)
	}},
	{"retention", func(r *Record) string { return r.Retention }},
	{"enforcement", func(r *Record) string { return r.Enforcement }},
	{"profile", func(r *Record) string { return string(r.Profile) }},
	{"refusals", func(r *Record) string {
		var b strings.Builder
		for i := range r.Refusals {
			if i > 0 {
				b.WriteString("; ")
			}
			b.WriteString(r.Refusals[i].String())
		}
		if r.Verdict == VerdictNotProven {
			b.WriteString(r.Reason + ": " + r.Detail)
		}
		return b.String()
	}},
	{"bundle", func(r *Record) string { return r.Bundle }},
	{"bundle_sha256", func(r *Record) string { return r.BundleSHA256 }},
	{"verified_by", func(r *Record) string { return r.VerifiedBy }},
}

func optional(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// AppendCSVHeader appends the line with the names of the columns.
func AppendCSVHeader(b []byte) []byte {
	for i, c := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, c.name...)
	}
	return append(b, '\r', '\n')
}

// AppendCSV appends a record as one line (RFC 4180). No field has a line break in it.
func AppendCSV(b []byte, r *Record) []byte {
	return append(appendRow(b, r), '\r', '\n')
}

// appendRow appends the line without its end.
func appendRow(b []byte, r *Record) []byte {
	for i, c := range columns {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendField(b, Clean(c.value(r)))
	}
	return b
}

// appendField appends a field in the form of RFC 4180, neutralised: an apostrophe
// stands before whatever a spreadsheet could take for the beginning of a formula.
// That is at the beginning of the field, and also after what another program takes
// for a separator: a semicolon where the decimal sign is a comma, or a quotation mark.
// Spaces in between change nothing. An apostrophe in such a place gets one, too, so
// that removing them restores the text.
func appendField(b []byte, s string) []byte {
	if !strings.ContainsAny(s, "\",;|'=+-@＝＋－＠") {
		return append(b, s...)
	}
	b = append(b, '"')
	start := true
	for _, r := range s {
		switch r {
		case '=', '+', '-', '@', '\'', '＝', '＋', '－', '＠':
			if start {
				b = append(b, '\'')
			}
			start = false
		case ' ':
		default:
			start = separates(r)
		}
		if r == '"' {
			b = append(b, '"')
		}
		b = append(b, string(r)...)
	}
	return append(b, '"')
}

// separates reports whether some program may begin a new cell after r.
func separates(r rune) bool { return r == ',' || r == ';' || r == '"' || r == '|' }

// restore undoes what appendField does beside the quoting of RFC 4180: it is what a
// reader who wants the exact text does (FORMATS.md).
func restore(s string) string {
	var b strings.Builder
	start := true
	for _, r := range s {
		switch {
		case r == '\'' && start:
			start = false
			continue
		case r == ' ':
		default:
			start = separates(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}
