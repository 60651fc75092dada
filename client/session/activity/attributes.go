package activity

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds on the attributes of one action. An action document has at most 128
// attributes and 64 KiB (FORMAT.md, section 8.2); a value that has to be escaped takes twice
// its bytes, and the recorder adds a few attributes of its own.
const (
	MaxAttributes = 100
	maxName       = 128
	maxValue      = 1 << 10
	maxList       = 64
	maxBytes      = 24 << 10 // of all names and values
)

// Names of our own.
const (
	AttrWithheld     = "affidavit.withheld"          // names of attributes whose values may be content
	AttrDropped      = "affidavit.dropped"           // number of attributes that broke a bound
	AttrKey          = "affidavit.event.key"         // Key
	AttrAgent        = "affidavit.agent"             // Event.Agent
	AttrSource       = "affidavit.source"            // Event.Source
	AttrConversation = "affidavit.conversation"      // Event.Conversation
	AttrStart        = "affidavit.reported.start"    // by the agent's clock
	AttrEnd          = "affidavit.reported.end"      // by the agent's clock
	AttrDuration     = "affidavit.reported.duration" // in milliseconds
)

// maxInteger is the largest integer of an action document.
const maxInteger = 1 << 53

// An Attributes collects the attributes of one action within the bounds.
type Attributes struct {
	m        map[string]any
	bytes    int
	dropped  int64
	withheld []string
}

// NewAttributes returns an empty set that expects n attributes.
func NewAttributes(n int) *Attributes {
	return &Attributes{m: make(map[string]any, min(n, MaxAttributes)+8)}
}

// Reset empties a for another event. The map that Map returned before is untouched.
func (a *Attributes) Reset(n int) {
	*a = Attributes{m: make(map[string]any, min(n, MaxAttributes)+8), withheld: a.withheld[:0]}
}

// room reports whether an attribute of this name and size still fits, and counts it.
func (a *Attributes) room(name string, size int) (string, bool) {
	name, ok := attributeName(name)
	// Package session gives this ending to the digest of content, which must not meet another attribute.
	ok = ok && !strings.HasSuffix(name, ".sha256")
	if ok {
		_, twice := a.m[name]
		ok = !twice && len(a.m) < MaxAttributes && a.bytes+len(name)+size <= maxBytes
	}
	if !ok {
		a.dropped++
		return "", false
	}
	a.bytes += len(name) + size
	return name, true
}

// String adds a string. Bytes that aren't text are replaced; what is longer than the
// bound is cut. An empty one is left out: an action document can't have it.
func (a *Attributes) String(name, v string) { a.text(name, v, maxValue) }

func (a *Attributes) text(name, v string, limit int) {
	if v = Text(v, limit); v == "" {
		return
	}
	if name, ok := a.room(name, len(v)); ok {
		a.m[name] = v
	}
}

// Int adds an integer, or its decimal form if it is too large for JSON.
func (a *Attributes) Int(name string, v int64) {
	if v < -maxInteger || v > maxInteger {
		a.String(name, strconv.FormatInt(v, 10))
		return
	}
	if name, ok := a.room(name, 8); ok {
		a.m[name] = v
	}
}

// Bool adds true or false.
func (a *Attributes) Bool(name string, v bool) {
	if name, ok := a.room(name, 1); ok {
		a.m[name] = v
	}
}

// Float adds a floating-point number as a string (FORMAT.md, section 8.2).
func (a *Attributes) Float(name string, v float64) {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		a.dropped++
		return
	}
	a.String(name, strconv.FormatFloat(v, 'g', -1, 64))
}

// Strings adds a list; empty strings are left out, and so is what is over the bound.
func (a *Attributes) Strings(name string, v []string) {
	if len(v) > maxList {
		a.dropped++
		v = v[:maxList]
	}
	size, list := 0, make([]string, 0, len(v))
	for _, s := range v {
		if s = Text(s, maxValue); s != "" {
			list = append(list, s)
			size += len(s)
		}
	}
	if len(list) == 0 {
		return
	}
	if name, ok := a.room(name, size); ok {
		a.m[name] = list
	}
}

// Withhold remembers that an attribute was there whose value may be content.
func (a *Attributes) Withhold(name string) {
	name, ok := attributeName(name)
	if !ok || len(a.withheld) == maxList || a.bytes+len(name) > maxBytes {
		a.dropped++
		return
	}
	a.bytes += len(name)
	a.withheld = append(a.withheld, name)
}

// Drop counts n attributes that weren't looked at.
func (a *Attributes) Drop(n int) { a.dropped += int64(n) }

// Map returns the attributes, which belong to the caller from now on.
func (a *Attributes) Map() map[string]any {
	if len(a.withheld) > 0 {
		slices.Sort(a.withheld)
		a.m[AttrWithheld] = slices.Clone(slices.Compact(a.withheld))
	}
	if a.dropped > 0 {
		a.m[AttrDropped] = a.dropped
	}
	return a.m
}

// Content adds content of another kind than arguments and result, such as system
// instructions. The session puts its salted digest into the document, not the content.
// The name must be one that package session takes for content.
func (a *Attributes) Content(name string, v []byte) {
	if len(v) == 0 {
		return
	}
	const digest = 64 + len(".sha256")
	if name, ok := a.room(name, digest); ok {
		a.m[name] = string(v)
	}
}

// attributeName makes an attribute name of s: words of a-z, 0-9 and _ with dots
// between (FORMAT.md, section 8.2). Names that can't be made into one aren't kept.
func attributeName(s string) (string, bool) {
	if s == "" || len(s) > maxName {
		return "", false
	}
	good, word := true, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_':
			word++
		case c == '.':
			if word == 0 {
				return "", false
			}
			word = 0
		default:
			good = false
			word++
		}
	}
	if word == 0 {
		return "", false
	}
	if good {
		return s, true
	}
	b := []byte(s)
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case c == '.' || c == '_' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
		default:
			b[i] = '_'
		}
	}
	return string(b), true
}

// Text makes a string of at most limit bytes that is valid UTF-8 and has no control
// characters, which a document would have to escape at six bytes each.
func Text(s string, limit int) string {
	clean := true
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f {
			clean = false
			break
		}
	}
	if clean {
		if len(s) > limit {
			s = s[:limit]
		}
		return s
	}
	if len(s) > 2*limit { // bounds the work below; each rune of s takes at least one byte
		s = s[:2*limit]
	}
	var b strings.Builder
	for _, r := range s {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			r = ' '
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
