package monitorapi

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/log/record"
)

// maxTolerance is a year: whoever doesn't care about times at all can leave that much room.
const maxTolerance = 366 * 24 * 3600

// Check checks that a request is within limits, and that no session is there twice.
func (q *ReconcileRequest) Check() error {
	switch {
	case len(q.Rows) > MaxRows:
		return fmt.Errorf("%d sessions, more than %d: split the list", len(q.Rows), MaxRows)
	case len(q.Tenants) > MaxTenants:
		return fmt.Errorf("%d pseudonyms, more than %d", len(q.Tenants), MaxTenants)
	case q.Tolerance < 0 || q.Tolerance > maxTolerance:
		return fmt.Errorf("a tolerance of %d seconds is not between 0 and %d", q.Tolerance, maxTolerance)
	}
	seen := make(map[Hash]int, len(q.Rows))
	for i := range q.Rows {
		r := &q.Rows[i]
		if first, ok := seen[r.Session]; ok {
			return fmt.Errorf("line %d: the session of line %d again", r.Line, first)
		}
		seen[r.Session] = r.Line
		if err := r.check(); err != nil {
			return fmt.Errorf("line %d: %w", r.Line, err)
		}
	}
	return checkRange(q.Since, q.Until, 0)
}

func (r *ReconcileRow) check() error {
	if r.Session == (Hash{}) {
		return errors.New("no session")
	}
	if err := record.CheckVendorID(r.Vendor); err != nil {
		return fmt.Errorf("vendor: %w", err)
	}
	if y := r.Started.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("started in the year %d", y)
	}
	if len(r.Tenants) > 4 {
		return fmt.Errorf("%d pseudonyms", len(r.Tenants))
	}
	return nil
}

// maxSequence is the largest integer in a statement (FORMAT.md, section 2.1).
const maxSequence = 1 << 53

// ParseSessions parses a customer's own list of sessions: CSV (RFC 4180) whose first line names the columns, or JSON lines
// if the first character is a brace. Columns, and members, are
//
//	session   a session id of 32 lowercase hexadecimal digits, or the digest of one, of 64
//	vendor    the vendor id, such as https://vendor.example
//	started   a time in RFC 3339
//	sequence  the session's number within tenant and month: optional
//	tenant    the pseudonym that the session must be under, of 64 hexadecimal digits: optional
//
// in any order. Others are refused, and so is a session that is there twice; optional values may be empty, or left out.
// The error names the line.
func ParseSessions(b []byte) ([]ReconcileRow, error) {
	b = bytes.TrimPrefix(b, []byte("\ufeff")) // spreadsheets write it
	var rows []ReconcileRow
	var err error
	if bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		rows, err = parseJSONSessions(b)
	} else {
		rows, err = parseCSVSessions(b)
	}
	if err != nil {
		return nil, err
	}
	q := ReconcileRequest{Rows: rows}
	return rows, q.Check()
}

var sessionColumns = []string{"session", "vendor", "started", "sequence", "tenant"}

func parseCSVSessions(b []byte) (rows []ReconcileRow, err error) {
	r := csv.NewReader(bytes.NewReader(b))
	r.ReuseRecord = true
	head, err := r.Read()
	if err == io.EOF {
		return nil, errors.New("the list is empty: its first line must name the columns, such as \"session,vendor,started\"")
	}
	if err != nil {
		return nil, err
	}
	columns := slices.Clone(head)
	for i, name := range columns {
		if !slices.Contains(sessionColumns, name) {
			return nil, fmt.Errorf("line 1: unknown column %.80q: columns are %s", name, strings.Join(sessionColumns, ", "))
		}
		if slices.Contains(columns[:i], name) {
			return nil, fmt.Errorf("line 1: column %q is there twice", name)
		}
	}
	for _, name := range sessionColumns[:3] {
		if !slices.Contains(columns, name) {
			return nil, fmt.Errorf("line 1: no column %q", name)
		}
	}
	for {
		fields, err := r.Read()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return nil, err // it names the line
		}
		line, _ := r.FieldPos(0)
		var t sessionText
		for i, name := range columns {
			*t.field(name) = fields[i]
		}
		if rows, err = t.add(rows, line); err != nil {
			return nil, err
		}
	}
}

func parseJSONSessions(b []byte) (rows []ReconcileRow, err error) {
	line := 0
	for text := range bytes.Lines(b) {
		line++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		var j struct {
			Session  string         `json:"session"`
			Vendor   string         `json:"vendor"`
			Started  string         `json:"started"`
			Sequence jsontext.Value `json:"sequence"`
			Tenant   string         `json:"tenant"`
		}
		if err := json.Unmarshal(text, &j, json.RejectUnknownMembers(true)); err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		t := sessionText{session: j.Session, vendor: j.Vendor, started: j.Started, sequence: string(j.Sequence), tenant: j.Tenant}
		if j.Sequence.Kind() == 'n' {
			t.sequence = ""
		}
		if rows, err = t.add(rows, line); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// A sessionText is a row of a list as it is written.
type sessionText struct{ session, vendor, started, sequence, tenant string }

func (t *sessionText) field(name string) *string {
	switch name {
	case "session":
		return &t.session
	case "vendor":
		return &t.vendor
	case "started":
		return &t.started
	case "sequence":
		return &t.sequence
	}
	return &t.tenant
}

// add parses the row in a line, and appends it.
func (t *sessionText) add(rows []ReconcileRow, line int) ([]ReconcileRow, error) {
	bad := func(format string, args ...any) ([]ReconcileRow, error) {
		return nil, fmt.Errorf("line %d: %w", line, fmt.Errorf(format, args...))
	}
	if len(rows) >= MaxRows {
		return bad("more than %d sessions: split the list", MaxRows)
	}
	digest, err := parseSession(t.session)
	if err != nil {
		return bad("session: %w", err)
	}
	r := ReconcileRow{Line: line, Vendor: t.vendor}
	if r.Session, err = ParseHash(digest); err != nil {
		return bad("session: %w", err)
	}
	if r.Started, err = time.Parse(time.RFC3339, t.started); err != nil {
		return bad("started: %.80q is not a time such as 2026-11-24T07:00:03Z", t.started)
	}
	r.Started = r.Started.UTC()
	if t.sequence != "" {
		n, err := strconv.ParseUint(t.sequence, 10, 64)
		if err != nil || n == 0 || n > maxSequence || strconv.FormatUint(n, 10) != t.sequence {
			return bad("sequence: %.80q is not a number from 1", t.sequence)
		}
		r.Sequence = n
	}
	if t.tenant != "" {
		h, err := ParseHash(t.tenant)
		if err != nil {
			return bad("tenant: %w", err)
		}
		r.Tenants = []Hash{h}
	}
	if err := r.check(); err != nil {
		return bad("%w", err)
	}
	return append(rows, r), nil
}

// epochMargin is how far the customer's and the enclave's clocks may be apart where months meet.
const epochMargin = time.Hour

// Pseudonyms sets the pseudonyms of a customer in its list of sessions, and returns all that belong to the vendors in the
// list and the months that it spans, and those from since to until if these aren't zero: the Tenants of a
// [ReconcileRequest]. The key stays with the customer: who knows it can find all of the customer's sessions.
//
// A row that names a pseudonym itself keeps it.
func Pseudonyms(rows []ReconcileRow, key []byte, origin string, since, until time.Time) ([]Hash, error) {
	if len(key) < 32 {
		return nil, fmt.Errorf("the key has %d bytes, and needs at least 32 (FORMAT.md, section 9)", len(key))
	}
	if err := record.CheckOrigin(origin); err != nil {
		return nil, err
	}
	var vendors []string
	first, last := since, until
	for i := range rows {
		r := &rows[i]
		vendors = append(vendors, r.Vendor)
		if first.IsZero() || r.Started.Before(first) {
			first = r.Started
		}
		if r.Started.After(last) {
			last = r.Started
		}
		if len(r.Tenants) > 0 {
			continue
		}
		for _, t := range []time.Time{r.Started.Add(-epochMargin), r.Started, r.Started.Add(epochMargin)} {
			if h := Hash(record.TenantPseudonym(key, origin, r.Vendor, month(t))); !slices.Contains(r.Tenants, h) {
				r.Tenants = append(r.Tenants, h)
			}
		}
	}
	slices.Sort(vendors)
	vendors = slices.Compact(vendors)
	if first.IsZero() || last.Before(first) {
		last = first
	}
	var all []Hash
	for t := time.Date(first.Year(), first.Month(), 1, 0, 0, 0, 0, time.UTC); !t.After(last) && len(vendors) > 0; t = t.AddDate(0, 1, 0) {
		for _, v := range vendors {
			if len(all) >= MaxTenants {
				return nil, fmt.Errorf("the list spans more than %d pseudonyms, one for each vendor and month: split it", MaxTenants)
			}
			all = append(all, Hash(record.TenantPseudonym(key, origin, v, month(t))))
		}
	}
	return all, nil
}

func month(t time.Time) string { return t.UTC().Format("2006-01") }
