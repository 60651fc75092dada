package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// MaxPolicy is the size in bytes of the largest appraisal policy. A thousand
// sets of measurements fit.
const MaxPolicy = 1 << 20

// anyValue in place of a measurement says that it isn't constrained.
const anyValue = "any"

// A PolicyError says what is wrong with an appraisal policy, and where.
type PolicyError struct {
	Line int    // from 1; 0 if it isn't about a line
	Key  string // such as "tcb.statuses"; empty if it isn't about a key
	Err  error
}

func (e *PolicyError) Error() string {
	s := "appraisal policy: "
	if e.Line > 0 {
		s += fmt.Sprintf("line %d: ", e.Line)
	}
	if e.Key != "" {
		s += e.Key + ": "
	}
	return s + e.Err.Error()
}

// Unwrap returns e.Err.
func (e *PolicyError) Unwrap() error { return e.Err }

// ParsePolicy parses an appraisal policy, as POLICY.md specifies it: one YAML
// document without anchors, aliases, merge keys and tags, with known keys only,
// none of them twice, none of them empty. An empty document is [StrictPolicy].
//
// The error is a *[PolicyError].
func ParsePolicy(b []byte) (*Policy, error) {
	if len(b) > MaxPolicy {
		return nil, &PolicyError{Err: fmt.Errorf("%d bytes are more than %d", len(b), MaxPolicy)}
	}
	if err := checkCharacters(b); err != nil {
		return nil, err
	}
	root, err := decodeYAML(b)
	if err != nil {
		return nil, err
	}
	p := new(Policy)
	if root == nil {
		return p, nil
	}
	if err := p.parse(root); err != nil {
		return nil, err
	}
	if err := checkTags(root, b); err != nil {
		return nil, err
	}
	return p, nil
}

// checkCharacters refuses what doesn't print. YAML 1.1 has more line breaks than
// editors show, such as U+2028 and a lone carriage return: what looks like the rest
// of a comment would be in force.
func checkCharacters(b []byte) error {
	line := 1
	s := strings.TrimPrefix(string(b), "\ufeff")
	for i, c := range s {
		switch {
		case c == '\n':
			line++
		case c == '\t', c == '\r' && strings.HasPrefix(s[i:], "\r\n"):
		case unprintable(c):
			return &PolicyError{Line: line, Err: fmt.Errorf("character %U, which doesn't print", c)}
		}
	}
	return nil
}

// decodeYAML returns the node of the only document in b, nil if there is none.
func decodeYAML(b []byte) (root *yaml.Node, err error) {
	d := yaml.NewDecoder(bytes.NewReader(b))
	var doc, more yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, &PolicyError{Err: err} // names the line itself
	case doc.Kind != yaml.DocumentNode || len(doc.Content) != 1:
		return nil, &PolicyError{Err: errors.New("not a YAML document")}
	}
	switch err := d.Decode(&more); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, &PolicyError{Err: err}
	default:
		return nil, &PolicyError{Line: more.Line, Err: errors.New("a second YAML document")}
	}
	root = doc.Content[0]
	// A document of comments, or of nothing but "---", is empty.
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" && root.Value == "" && root.Style == 0 && root.Anchor == "" {
		return nil, checkTags(root, b)
	}
	return root, nil
}

// checkTags refuses the non-specific tag, "!" alone, of which the decoder leaves no
// trace: in YAML it makes a string of what looks like something else. A node that
// begins with an exclamation mark has a tag: no plain scalar begins with one.
func checkTags(n *yaml.Node, policy []byte) error {
	return checkNode(n, strings.Split(strings.TrimPrefix(string(policy), "\ufeff"), "\n"))
}

func checkNode(n *yaml.Node, lines []string) error {
	if n.Line >= 1 && n.Line <= len(lines) {
		if line := []rune(lines[n.Line-1]); n.Column >= 1 && n.Column <= len(line) && line[n.Column-1] == '!' {
			return &PolicyError{Line: n.Line, Err: errors.New("tags aren't allowed")}
		}
	}
	for _, c := range n.Content {
		if err := checkNode(c, lines); err != nil {
			return err
		}
	}
	return nil
}

// A field is a node with its place in the policy.
type field struct {
	key string
	n   *yaml.Node
}

func (f field) fail(format string, args ...any) error {
	return &PolicyError{Line: f.n.Line, Key: f.key, Err: fmt.Errorf(format, args...)}
}

// plain refuses what gives a node another meaning than it seems to have.
func (f field) plain() error {
	switch {
	case f.n.Kind == yaml.AliasNode:
		return f.fail("aliases aren't allowed")
	case f.n.Anchor != "":
		return f.fail("anchors aren't allowed")
	case f.n.Style&yaml.TaggedStyle != 0:
		return f.fail("tags aren't allowed")
	}
	return nil
}

func (f field) is() string {
	switch f.n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch f.n.ShortTag() {
		case "!!null":
			return "empty"
		case "!!bool":
			return "a boolean"
		case "!!int", "!!float":
			return "a number"
		case "!!timestamp":
			return "a time"
		}
		return "text"
	}
	return "an alias"
}

// mapping calls one of set for every key, in the order of the file.
func (f field) mapping(set map[string]func(field) error) error {
	if err := f.plain(); err != nil {
		return err
	}
	if f.n.Kind != yaml.MappingNode {
		return f.fail("is %s, want a mapping", f.is())
	}
	if len(f.n.Content) == 0 {
		return f.fail("is empty: leave the key out for its default")
	}
	seen := make(map[string]int)
	for i := 0; i < len(f.n.Content); i += 2 {
		k, v := f.n.Content[i], f.n.Content[i+1]
		kf := field{f.key, k}
		if err := kf.plain(); err != nil {
			return err
		}
		if k.ShortTag() == "!!merge" {
			return kf.fail("merge keys aren't allowed")
		}
		if k.Kind != yaml.ScalarNode || k.ShortTag() != "!!str" {
			return kf.fail("a key is %s, want text", kf.is())
		}
		vf := field{k.Value, v}
		if f.key != "" {
			vf.key = f.key + "." + k.Value
		}
		kf.key = vf.key
		if line, ok := seen[k.Value]; ok {
			return kf.fail("duplicate key, first on line %d", line)
		}
		seen[k.Value] = k.Line
		parse, ok := set[k.Value]
		if !ok {
			kf.key = f.key
			return kf.fail("unknown key %q", k.Value)
		}
		if err := parse(vf); err != nil {
			return err
		}
	}
	return nil
}

// list calls add for every element of a list that isn't empty.
func (f field) list(add func(field) error) error {
	if err := f.plain(); err != nil {
		return err
	}
	if f.n.Kind != yaml.SequenceNode {
		return f.fail("is %s, want a list", f.is())
	}
	if len(f.n.Content) == 0 {
		return f.fail("is an empty list: leave the key out for its default")
	}
	for i, n := range f.n.Content {
		if err := add(field{fmt.Sprintf("%s[%d]", f.key, i), n}); err != nil {
			return err
		}
	}
	return nil
}

// scalar returns the text of a scalar that YAML takes for one of the given
// types.
func (f field) scalar(want string, tags ...string) (string, error) {
	if err := f.plain(); err != nil {
		return "", err
	}
	if f.n.Kind == yaml.ScalarNode {
		for _, tag := range tags {
			if f.n.ShortTag() == tag {
				return f.n.Value, nil
			}
		}
	}
	return "", f.fail("is %s, want %s", f.is(), want)
}

// timeLayout is the one form of a time in a policy: UTC, in whole seconds.
const timeLayout = "2006-01-02T15:04:05Z"

// maxText is the length in bytes of the longest text in a policy.
const maxText = 2000

func (f field) text() (string, error) {
	s, err := f.scalar("text", "!!str")
	switch {
	case err != nil:
		return "", err
	case s == "" || len(s) > maxText:
		return "", f.fail("text of %d bytes, want 1 to %d", len(s), maxText)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable):
		return "", f.fail("%q has characters that don't print", s)
	}
	return s, nil
}

func (f field) bool(b *bool) error {
	s, err := f.scalar("true or false", "!!bool")
	if err != nil {
		return err
	}
	switch s {
	case "true":
		*b = true
	case "false":
		*b = false
	default:
		return f.fail("%q, want true or false", s)
	}
	return nil
}

// hex parses n bytes in hexadecimal. YAML takes some of them for numbers, so the
// text counts.
func (f field) hex(n int) ([]byte, error) {
	s, err := f.scalar(fmt.Sprintf("%d hexadecimal digits", 2*n), "!!str", "!!int", "!!float")
	if err != nil {
		return nil, err
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != n {
		return nil, f.fail("%q, want %d hexadecimal digits", shorten(s), 2*n)
	}
	return b, nil
}

func (f field) duration() (time.Duration, error) {
	s, err := f.scalar(`a duration such as "90m"`, "!!str")
	if err != nil {
		return 0, err
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, f.fail(`%q, want a positive duration such as "90m" or "720h"`, shorten(s))
	}
	return d, nil
}

func (f field) time() (time.Time, error) {
	s, err := f.scalar("a time such as 2027-01-31T00:00:00Z", "!!str", "!!timestamp")
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(timeLayout, s)
	if err != nil || t.Format(timeLayout) != s { // Parse takes fractions of a second, too
		return time.Time{}, f.fail("%q, want a time in UTC such as 2027-01-31T00:00:00Z", shorten(s))
	}
	return t, nil
}

// words parses a list of different words out of allowed.
func words[S ~string](dst *[]S, allowed ...S) func(field) error {
	return func(f field) error {
		return f.list(func(f field) error {
			s, err := f.text()
			if err != nil {
				return err
			}
			ok := false
			for _, a := range allowed {
				ok = ok || string(a) == s
			}
			if !ok {
				return f.fail("%q, want %s", shorten(s), join(allowed, "or"))
			}
			return appendNew(f, dst, S(s))
		})
	}
}

// appendNew appends s, which must not be there yet.
func appendNew[S ~string](f field, dst *[]S, s S) error {
	for _, t := range *dst {
		if t == s {
			return f.fail("%q is there twice", s)
		}
	}
	*dst = append(*dst, s)
	return nil
}

func shorten(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

// acceptableStatuses are the TCB statuses that a policy can accept: all that a
// genuine quote can have.
var acceptableStatuses = []tdx.Status{
	tdx.StatusUpToDate, tdx.StatusSWHardeningNeeded, tdx.StatusConfigurationNeeded, tdx.StatusConfigurationAndSWHardeningNeeded,
	tdx.StatusOutOfDate, tdx.StatusOutOfDateConfigurationNeeded, tdx.StatusTDRelaunchAdvised, tdx.StatusTDRelaunchAdvisedConfigurationNeeded,
}

func (p *Policy) parse(root *yaml.Node) error {
	boolean := func(b *bool) func(field) error { return func(f field) error { return f.bool(b) } }
	duration := func(d *time.Duration) func(field) error {
		return func(f field) (err error) { *d, err = f.duration(); return err }
	}
	group := func(set map[string]func(field) error) func(field) error {
		return func(f field) error { return f.mapping(set) }
	}
	return field{"", root}.mapping(map[string]func(field) error{
		"measurements": func(f field) error { return f.list(p.parseMeasurements) },
		"release-keys": func(f field) error { return f.list(p.parseReleaseKeys) },
		"tcb": group(map[string]func(field) error{
			"statuses":           words(&p.statuses, acceptableStatuses...),
			"advisories":         func(f field) error { return f.list(p.parseAdvisory) },
			"collateral-max-age": duration(&p.collateralMaxAge),
		}),
		"td": group(map[string]func(field) error{
			"allow-debug":               boolean(&p.allowDebug),
			"allow-migratable":          boolean(&p.allowMigratable),
			"allow-sept-ve":             boolean(&p.allowSEPTVE),
			"allow-perfmon":             boolean(&p.allowPerfMon),
			"allow-reserved-attributes": boolean(&p.allowReserved),
			"xfam":                      p.parseXFAM,
			"service-tds":               func(f field) error { return f.list(p.parseServiceTD) },
			"require-known-service-td":  boolean(&p.requireServiceTD),
		}),
		"platforms": func(f field) error { return f.list(p.parsePlatform) },
		"profiles":  words(&p.profiles, record.Profiles()...),
		"time": group(map[string]func(field) error{
			"allow-unproven": boolean(&p.allowUnproven),
			"max-width":      duration(&p.maxWidth),
		}),
		"models": group(map[string]func(field) error{
			"execution":       words(&p.execution, record.ExecutionTEE, record.ExecutionPolicyZDR, record.ExecutionUnattested),
			"allow-no-record": boolean(&p.allowUnlinked),
		}),
		"retention": group(map[string]func(field) error{
			"enforcement":              words(&p.enforcement, record.EnforcementTechnical, record.EnforcementPolicy),
			"allow-persistent-storage": boolean(&p.allowPersistent),
			"allow-unerased":           boolean(&p.allowUnerased),
		}),
		"appraisers": func(f field) error { return f.list(p.parseAppraiser) },
	})
}

func (p *Policy) parseMeasurements(f field) error {
	var m measurementSet
	parsed := make(map[string]bool)
	value := func(dst *[]byte) func(field) error {
		return func(f field) (err error) {
			parsed[f.key[strings.LastIndexByte(f.key, '.')+1:]] = true
			if f.n.Kind == yaml.ScalarNode && f.n.Value == anyValue {
				_, err := f.text()
				return err
			}
			*dst, err = f.hex(48)
			return err
		}
	}
	err := f.mapping(map[string]func(field) error{
		"name":          func(f field) (err error) { m.name, err = f.text(); return err },
		"mrtd":          value(&m.mrtd),
		"rtmr0":         value(&m.rtmr[0]),
		"rtmr1":         value(&m.rtmr[1]),
		"rtmr2":         value(&m.rtmr[2]),
		"rtmr3":         value(&m.rtmr[3]),
		"mrconfigid":    value(&m.mrConfigID),
		"mrowner":       value(&m.mrOwner),
		"mrownerconfig": value(&m.mrOwnerConfig),
		"mrseam":        value(&m.mrSEAM),
	})
	if err != nil {
		return err
	}
	if m.name == "" {
		return f.fail("has no name")
	}
	for _, name := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"} {
		if !parsed[name] {
			return f.fail("has no %s: give its value, or say %q", name, anyValue)
		}
	}
	// MRTD measures the firmware, which measures the rest into the RTMRs. With
	// firmware of an attacker's choice they can have any value.
	if m.mrtd == nil {
		return f.fail("mrtd can't be %q: whoever chooses it chooses the RTMRs", anyValue)
	}
	for _, o := range p.measurements {
		if o.name == m.name {
			return f.fail("name %q is there twice", m.name)
		}
	}
	p.measurements = append(p.measurements, m)
	return nil
}

func (p *Policy) parseReleaseKeys(f field) error {
	var r releaseKeys
	err := f.mapping(map[string]func(field) error{
		"vendor": func(f field) (err error) {
			if r.vendor, err = f.text(); err != nil {
				return err
			}
			if err := record.CheckVendorID(r.vendor); err != nil {
				return f.fail("%v", err)
			}
			return nil
		},
		"keys": func(f field) error {
			return f.list(func(f field) error {
				s, err := f.text()
				if err != nil {
					return err
				}
				// Line breaks, which the decoder skips, aren't text.
				der, err := base64.StdEncoding.Strict().DecodeString(s)
				if err != nil {
					return f.fail("%q isn't base64", shorten(s))
				}
				pub, err := record.ParseSPKI(der)
				if err != nil {
					return f.fail("%v", err)
				}
				k := releaseKey{id: record.KeyID(record.SPKI(pub)), pub: pub}
				for _, o := range r.keys {
					if o.id == k.id {
						return f.fail("%q is there twice", s)
					}
				}
				r.keys = append(r.keys, k)
				return nil
			})
		},
	})
	switch {
	case err != nil:
		return err
	case r.vendor == "":
		return f.fail("has no vendor")
	case r.keys == nil:
		return f.fail("has no keys")
	}
	for _, o := range p.releaseKeys {
		if o.vendor == r.vendor {
			return f.fail("vendor %q is there twice", r.vendor)
		}
	}
	p.releaseKeys = append(p.releaseKeys, r)
	return nil
}

func (p *Policy) parseAdvisory(f field) error {
	var a toleratedAdvisory
	err := f.mapping(map[string]func(field) error{
		"id":    func(f field) (err error) { a.id, err = f.text(); return err },
		"until": func(f field) (err error) { a.until, err = f.time(); return err },
	})
	switch {
	case err != nil:
		return err
	case a.id == "":
		return f.fail("has no id")
	case a.until.IsZero():
		return f.fail("has no until: an advisory is tolerated for a time only")
	}
	if _, ok := p.tolerates(a.id); ok {
		return f.fail("advisory %q is there twice", a.id)
	}
	p.advisories = append(p.advisories, a)
	return nil
}

// parseXFAM parses the mask as a number, unlike a quote's bytes.
func (p *Policy) parseXFAM(f field) error {
	b, err := f.hex(8)
	if err != nil {
		return err
	}
	x := binary.BigEndian.Uint64(b)
	p.xfam = &x
	return nil
}

func (p *Policy) parseServiceTD(f field) error {
	b, err := f.hex(48)
	if err != nil {
		return err
	}
	for _, o := range p.serviceTDs {
		if bytes.Equal(o, b) {
			return f.fail("%x is there twice", b)
		}
	}
	p.serviceTDs = append(p.serviceTDs, b)
	return nil
}

func (p *Policy) parsePlatform(f field) error {
	b, err := f.hex(16)
	if err != nil {
		return err
	}
	return appendNew(f, &p.platforms, hex.EncodeToString(b))
}

func (p *Policy) parseAppraiser(f field) error {
	s, err := f.text()
	if err != nil {
		return err
	}
	if _, err := checkpoint.ParseVKey(s); err != nil {
		return f.fail("%v", err)
	}
	return appendNew(f, &p.appraisers, s)
}

// YAML returns the policy in its canonical form: fields in the order of
// POLICY.md, without those that have their default. [ParsePolicy] returns an
// equal policy for it.
func (p *Policy) YAML() []byte {
	w := new(printer)
	if len(p.measurements) > 0 {
		w.line(0, "measurements:")
		for _, m := range p.measurements {
			w.line(1, "- name: %s", quote(m.name))
			for i, f := range m.fields() {
				switch {
				case f.want != nil:
					w.line(2, "%s: %q", f.name, hex.EncodeToString(f.want))
				case i < identifying:
					w.line(2, "%s: %s", f.name, anyValue)
				}
			}
		}
	}
	if len(p.releaseKeys) > 0 {
		w.line(0, "release-keys:")
		for _, r := range p.releaseKeys {
			w.line(1, "- vendor: %s", quote(r.vendor))
			w.line(2, "keys:")
			for _, k := range r.keys {
				w.line(3, "- %q", base64.StdEncoding.EncodeToString(record.SPKI(k.pub)))
			}
		}
	}
	w.group("tcb", func() {
		printWords(w, "statuses", p.statuses)
		if len(p.advisories) > 0 {
			w.line(1, "advisories:")
			for _, a := range p.advisories {
				w.line(2, "- id: %s", quote(a.id))
				w.line(3, "until: %s", a.until.Format(timeLayout))
			}
		}
		w.duration("collateral-max-age", p.collateralMaxAge)
	})
	w.group("td", func() {
		w.bool("allow-debug", p.allowDebug)
		w.bool("allow-migratable", p.allowMigratable)
		w.bool("allow-sept-ve", p.allowSEPTVE)
		w.bool("allow-perfmon", p.allowPerfMon)
		w.bool("allow-reserved-attributes", p.allowReserved)
		if p.xfam != nil {
			w.line(1, `xfam: "%016x"`, *p.xfam)
		}
		if len(p.serviceTDs) > 0 {
			w.line(1, "service-tds:")
			for _, b := range p.serviceTDs {
				w.line(2, `- "%x"`, b)
			}
		}
		w.bool("require-known-service-td", p.requireServiceTD)
	})
	if len(p.platforms) > 0 {
		w.line(0, "platforms:")
		for _, id := range p.platforms {
			w.line(1, "- %q", id)
		}
	}
	if len(p.profiles) > 0 {
		w.line(0, "profiles: [%s]", strings.Join(texts(p.profiles), ", "))
	}
	w.group("time", func() {
		w.bool("allow-unproven", p.allowUnproven)
		w.duration("max-width", p.maxWidth)
	})
	w.group("models", func() {
		printWords(w, "execution", p.execution)
		w.bool("allow-no-record", p.allowUnlinked)
	})
	w.group("retention", func() {
		printWords(w, "enforcement", p.enforcement)
		w.bool("allow-persistent-storage", p.allowPersistent)
		w.bool("allow-unerased", p.allowUnerased)
	})
	if len(p.appraisers) > 0 {
		w.line(0, "appraisers:")
		for _, a := range p.appraisers {
			w.line(1, "- %s", quote(a))
		}
	}
	return w.Bytes()
}

type printer struct{ bytes.Buffer }

func (w *printer) line(indent int, format string, args ...any) {
	w.WriteString(strings.Repeat("  ", indent))
	fmt.Fprintf(w, format, args...)
	w.WriteByte('\n')
}

// group prints a mapping, or nothing if fill prints nothing.
func (w *printer) group(name string, fill func()) {
	start := w.Len()
	w.line(0, "%s:", name)
	filled := w.Len()
	fill()
	if w.Len() == filled {
		w.Truncate(start)
	}
}

func (w *printer) bool(name string, b bool) {
	if b {
		w.line(1, "%s: true", name)
	}
}

func (w *printer) duration(name string, d time.Duration) {
	if d != 0 {
		w.line(1, "%s: %s", name, d)
	}
}

func printWords[S ~string](w *printer, name string, words []S) {
	if len(words) > 0 {
		w.line(1, "%s: [%s]", name, strings.Join(texts(words), ", "))
	}
}

func texts[S ~string](words []S) []string {
	s := make([]string, len(words))
	for i, w := range words {
		s[i] = string(w)
	}
	return s
}

// quote returns printable text in single quotes, in which YAML knows no escape
// but the doubled quote.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
