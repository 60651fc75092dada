package monitorapi

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
)

// Limits of one answer over HTTP.
const (
	// MaxRecords is the largest number of records in one answer, and of findings.
	MaxRecords = 1000
	// MaxResults is the largest number of results, each of which takes milliseconds to compute.
	MaxResults = 50
	// DefaultLimit is how many there are if nobody asks for a number.
	DefaultLimit = 50
	// MaxListed is the largest number of sessions or records that a recall or reappraisal lists.
	MaxListed = 1 << 20
	// MaxRows is the largest number of sessions in a customer's list.
	MaxRows = 100_000
	// MaxTenants is the largest number of pseudonyms in a request.
	MaxTenants = 10_000

	// maxValue bounds the values of a query; the longest are vendor ids and names of models (FORMAT.md, section 2.2).
	maxValue = 255
)

// A parameter is a member of a query and its name in a URL.
type parameter struct {
	name  string
	value *string
	parse func(string) (string, error) // its normal form
}

func (q *Query) parameters() []parameter {
	return []parameter{
		{"session", &q.Session, parseSession},
		{"statement", &q.Statement, parseDigest},
		{"tenant", &q.Tenant, parseDigest},
		{"vendor", &q.Vendor, parseVendor},
		{"release", &q.Release, parseDigest},
		{"fmspc", &q.FMSPC, parseFMSPC},
		{"platform", &q.Platform, parsePlatform},
		{"tcb-status", &q.TCBStatus, parseWord},
		{"advisory", &q.Advisory, parseWord},
		{"model", &q.Model, parseText},
		{"role", &q.Role, parseRole},
	}
}

// Normalize checks the query's values, and brings them into the form in which records have them: a session's id is
// replaced by its digest, and hexadecimal is lower case. The error names the value that can't be.
func (q *Query) Normalize() error {
	for _, p := range q.parameters() {
		if err := p.normalize(); err != nil {
			return err
		}
	}
	return checkRange(q.Since, q.Until, q.Limit)
}

func (p parameter) normalize() (err error) {
	if *p.value == "" {
		return nil
	}
	v, err := p.parse(*p.value)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	*p.value = v
	return nil
}

func checkRange(since, until time.Time, limit int) error {
	if !since.IsZero() && !until.IsZero() && !since.Before(until) {
		return fmt.Errorf("since %s is not before until %s", stamp(since), stamp(until))
	}
	if limit < 0 {
		return fmt.Errorf("limit %d is negative", limit)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func parseDigest(s string) (string, error) {
	h, err := ParseHash(s)
	return h.String(), err
}

func parseSession(s string) (string, error) {
	if id, err := record.ParseSessionID(s); err == nil {
		return Hash(id.Digest()).String(), nil
	}
	if _, err := ParseHash(s); err != nil {
		return "", fmt.Errorf("%.80q is neither a session id of 32 lowercase hexadecimal digits nor the digest of one, of 64", s)
	}
	return s, nil
}

func parseVendor(s string) (string, error) { return s, record.CheckVendorID(s) }

func parseHexOf(s string, size int) (string, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size {
		return "", fmt.Errorf("%.80q is not %d hexadecimal digits", s, 2*size)
	}
	return hex.EncodeToString(b), nil
}

func parseFMSPC(s string) (string, error)    { return parseHexOf(s, 6) }
func parsePlatform(s string) (string, error) { return parseHexOf(s, 16) }

// parseWord accepts what can be Intel's word: ASCII without spaces.
func parseWord(s string) (string, error) {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || len(s) > maxValue {
			return "", fmt.Errorf("%.80q is not a word", s)
		}
	}
	return s, nil
}

// parseText accepts what can be a name (FORMAT.md, section 2.2).
func parseText(s string) (string, error) {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' || len(s) > maxValue {
			return "", fmt.Errorf("%.80q is not a name", s)
		}
	}
	return s, nil
}

var roles = []bundle.Role{
	bundle.RoleStart, bundle.RoleFinal, bundle.RoleAbandoned, bundle.RoleModelRun, bundle.RoleImport, bundle.RoleRelease,
	bundle.RoleWithdrawal, bundle.RoleVendorKey,
}

func parseRole(s string) (string, error) {
	names := make([]string, len(roles))
	for i, r := range roles {
		if names[i] = string(r); names[i] == s {
			return s, nil
		}
	}
	return "", fmt.Errorf("%.80q is none of %s", s, strings.Join(names, ", "))
}

// Values returns q as the parameters of a URL. It is the inverse of ParseQuery for a query that Normalize accepts.
func (q *Query) Values() url.Values {
	v := make(url.Values)
	for _, p := range q.parameters() {
		p.put(v)
	}
	putRange(v, q.Since, q.Until, q.After, q.Limit)
	return v
}

func (p parameter) put(v url.Values) {
	if *p.value != "" {
		v.Set(p.name, *p.value)
	}
}

func putRange(v url.Values, since, until time.Time, after uint64, limit int) {
	if !since.IsZero() {
		v.Set("since", stamp(since))
	}
	if !until.IsZero() {
		v.Set("until", stamp(until))
	}
	if after > 0 {
		v.Set("after", strconv.FormatUint(after, 10))
	}
	if limit > 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
}

// ParseQuery returns the query in the parameters of a URL, normalized. Unknown parameters, and those that are there
// twice, are an error. The limit is at most limit, and DefaultLimit if there is none.
func ParseQuery(v url.Values, limit int) (Query, error) {
	var q Query
	p := newParser(v)
	p.take(q.parameters())
	q.Since, q.Until = p.time("since"), p.time("until")
	q.After, q.Limit = p.after(), p.limit(DefaultLimit, limit)
	if err := p.end(); err != nil {
		return Query{}, err
	}
	return q, q.Normalize()
}

// A parser takes the parameters of a URL, and remembers the first error.
type parser struct {
	v   url.Values
	got map[string]bool
	err error
}

func newParser(v url.Values) *parser { return &parser{v: v, got: make(map[string]bool)} }

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

func (p *parser) text(name string) string {
	p.got[name] = true
	switch vs := p.v[name]; {
	case len(vs) == 0:
		return ""
	case len(vs) > 1:
		p.fail("%s: there twice", name)
		return ""
	case vs[0] == "":
		p.fail("%s: empty", name)
		return ""
	default:
		return vs[0]
	}
}

func (p *parser) take(params []parameter) {
	for _, param := range params {
		*param.value = p.text(param.name)
	}
}

func (p *parser) time(name string) time.Time {
	s := p.text(name)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	// Other years can't be written again, and aren't those of any log.
	if err != nil || t.UTC().Year() < 1970 || t.UTC().Year() > 9999 {
		p.fail("%s: %.80q is not a time such as 2026-11-24T07:00:03Z, between the years 1970 and 9999", name, s)
		return time.Time{}
	}
	return t.UTC()
}

func (p *parser) number(name string) (n uint64, ok bool) {
	s := p.text(name)
	if s == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || strconv.FormatUint(n, 10) != s {
		p.fail("%s: %.80q is not a number in decimal", name, s)
		return 0, false
	}
	return n, true
}

func (p *parser) after() uint64 { n, _ := p.number("after"); return n }

func (p *parser) limit(standard, largest int) int {
	n, ok := p.number("limit")
	if !ok {
		return standard
	}
	if n < 1 || n > uint64(largest) {
		p.fail("limit: %d is not between 1 and %d", n, largest)
		return standard
	}
	return int(n)
}

func (p *parser) flag(name string) bool {
	switch s := p.text(name); s {
	case "":
		return false
	case "true", "false":
		return s == "true"
	default:
		p.fail("%s: %.80q is neither true nor false", name, s)
		return false
	}
}

// end returns the first error. A parameter that nobody asked for is one: a narrower question that isn't understood must
// not be answered as a wider one.
func (p *parser) end() error {
	for name := range p.v {
		if !p.got[name] {
			p.fail("unknown parameter %.80q", name)
		}
	}
	return p.err
}

// ParseFindingsQuery returns the cursor and the limit in the parameters of a request for findings.
func ParseFindingsQuery(v url.Values) (after uint64, limit int, err error) {
	p := newParser(v)
	after, limit = p.after(), p.limit(DefaultLimit, MaxRecords)
	return after, limit, p.end()
}

func (q *RecallQuery) parameters() []parameter {
	return []parameter{
		{"advisory", &q.Advisory, parseWord},
		{"fmspc", &q.FMSPC, parseFMSPC},
		{"release", &q.Release, parseDigest},
		{"platform", &q.Platform, parsePlatform},
		{"vendor", &q.Vendor, parseVendor},
		{"tenant", &q.Tenant, parseDigest},
	}
}

// Normalize is [Query.Normalize] for a recall.
func (q *RecallQuery) Normalize() error {
	for _, p := range q.parameters() {
		if err := p.normalize(); err != nil {
			return err
		}
	}
	if q.Advisory == "" && q.FMSPC == "" && q.Release == "" && q.Platform == "" {
		return fmt.Errorf("a recall is about an advisory, fmspc, release or platform, and there is none")
	}
	return checkRange(q.Since, q.Until, q.Limit)
}

// Values returns q as the parameters of a URL.
func (q *RecallQuery) Values() url.Values {
	v := make(url.Values)
	for _, p := range q.parameters() {
		p.put(v)
	}
	putRange(v, q.Since, q.Until, q.After, q.Limit)
	return v
}

// ParseRecallQuery is [ParseQuery] for a recall.
func ParseRecallQuery(v url.Values) (RecallQuery, error) {
	var q RecallQuery
	p := newParser(v)
	p.take(q.parameters())
	q.Since, q.Until = p.time("since"), p.time("until")
	q.After, q.Limit = p.after(), p.limit(MaxRecords, MaxListed)
	if err := p.end(); err != nil {
		return RecallQuery{}, err
	}
	return q, q.Normalize()
}

func (q *ReappraiseQuery) parameters() []parameter {
	return []parameter{{"vendor", &q.Vendor, parseVendor}, {"tenant", &q.Tenant, parseDigest}}
}

// Normalize is [Query.Normalize] for a reappraisal.
func (q *ReappraiseQuery) Normalize() error {
	for _, p := range q.parameters() {
		if err := p.normalize(); err != nil {
			return err
		}
	}
	return checkRange(q.Since, q.Until, q.Limit)
}

// Values returns q as the parameters of a URL.
func (q *ReappraiseQuery) Values() url.Values {
	v := make(url.Values)
	for _, p := range q.parameters() {
		p.put(v)
	}
	if q.All {
		v.Set("all", "true")
	}
	putRange(v, q.Since, q.Until, q.After, q.Limit)
	return v
}

// ParseReappraiseQuery is [ParseQuery] for a reappraisal.
func ParseReappraiseQuery(v url.Values) (ReappraiseQuery, error) {
	var q ReappraiseQuery
	p := newParser(v)
	p.take(q.parameters())
	q.All = p.flag("all")
	q.Since, q.Until = p.time("since"), p.time("until")
	q.After, q.Limit = p.after(), p.limit(MaxRecords, MaxListed)
	if err := p.end(); err != nil {
		return ReappraiseQuery{}, err
	}
	return q, q.Normalize()
}

// Normalize is [Query.Normalize] for a vendor check.
func (q *VendorCheckQuery) Normalize() error {
	if q.Vendor == "" {
		return fmt.Errorf("vendor: missing")
	}
	if _, err := parseVendor(q.Vendor); err != nil {
		return fmt.Errorf("vendor: %w", err)
	}
	return checkRange(q.Since, q.Until, 0)
}

// Values returns q as the parameters of a URL.
func (q *VendorCheckQuery) Values() url.Values {
	v := make(url.Values)
	parameter{"vendor", &q.Vendor, nil}.put(v)
	putRange(v, q.Since, q.Until, 0, 0)
	return v
}

// ParseVendorCheckQuery is [ParseQuery] for a vendor check.
func ParseVendorCheckQuery(v url.Values) (VendorCheckQuery, error) {
	var q VendorCheckQuery
	p := newParser(v)
	q.Vendor = p.text("vendor")
	q.Since, q.Until = p.time("since"), p.time("until")
	if err := p.end(); err != nil {
		return VendorCheckQuery{}, err
	}
	return q, q.Normalize()
}
