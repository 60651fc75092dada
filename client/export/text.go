package export

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxText is the length in bytes to which every text is cut, with "…" at its end:
// no statement is longer (record.MaxPayload), so that only what didn't come from
// one is ever cut.
const maxText = 16 << 10

// Clean returns s as every format has it: valid UTF-8 of at most maxText bytes, in
// which U+FFFD stands for each character that isn't printable. Line breaks, other
// controls, and characters that change the direction of text or can't be seen are
// not printable, nor are spaces other than U+0020. Spaces at both ends are gone.
//
// The text of a record is somebody else's. What reads an export shows it to people,
// puts it into files by the line, or into tables, and must not be led astray.
func Clean(s string) string {
	if len(s) <= maxText && plain(s) {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, string(utf8.RuneError)))
	s = strings.Trim(s, " ")
	return clip(s, maxText)
}

// plain reports whether s is printable ASCII without spaces at its ends.
func plain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e {
			return false
		}
	}
	return s == "" || s[0] != ' ' && s[len(s)-1] != ' '
}

// clip cuts s to at most limit bytes, at a character, with "…" at its end.
func clip(s string, limit int) string {
	const more = "…"
	if len(s) <= limit {
		return s
	}
	n := max(limit-len(more), 0)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.TrimRight(s[:n], " ") + more
}

// stamp returns t as RFC 3339 in UTC, with as many decimals as it has; "" for the
// zero time.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

const hexDigits = "0123456789abcdef"

// An encoder appends JSON to b. All of it is printable ASCII, so that it is the same
// in every character set, needs no byte order mark (RFC 5424, 6.4), has no line
// breaks, and can be put into HTML and scripts.
type encoder struct {
	b []byte

	// limit is the length in bytes to which texts are cut.
	limit int

	// full is the size of the event before it was shortened; 0 if it wasn't.
	full uint64
}

// key appends a member's name, one of ours in quotes and with its colon, and what
// separates it from what is before it. That is faster than putting it together: half
// of an event is names.
func (e *encoder) key(name string) {
	e.comma()
	e.b = append(e.b, name...)
}

// comma separates a value from the one before it.
func (e *encoder) comma() {
	switch e.b[len(e.b)-1] {
	case '{', '[', ':':
	default:
		e.b = append(e.b, ',')
	}
}

func (e *encoder) raw(s string) { e.b = append(e.b, s...) }
func (e *encoder) open(c byte)  { e.b = append(e.b, c) }
func (e *encoder) close(c byte) { e.b = append(e.b, c) }
func (e *encoder) object(k string) {
	e.key(k)
	e.open('{')
}
func (e *encoder) array(k string) {
	e.key(k)
	e.open('[')
}

// str appends a member whose value is a text.
func (e *encoder) str(name, value string) {
	e.key(name)
	e.text(value)
}

// opt is str if there is a value.
func (e *encoder) opt(name, value string) {
	if value != "" {
		e.str(name, value)
	}
}

// lit appends a member with a text of our own, which needs no escaping.
func (e *encoder) lit(name, value string) {
	e.key(name)
	b := append(e.b, '"')
	b = append(b, value...)
	e.b = append(b, '"')
}

func (e *encoder) num(name string, n uint64) {
	e.key(name)
	e.b = strconv.AppendUint(e.b, n, 10)
}

func (e *encoder) bool(name string, v bool) {
	e.key(name)
	if v {
		e.raw("true")
	} else {
		e.raw("false")
	}
}

// millis appends a time as OCSF's timestamp_t has it.
func (e *encoder) millis(name string, t time.Time) {
	if t.IsZero() {
		return
	}
	e.key(name)
	e.b = strconv.AppendInt(e.b, t.UnixMilli(), 10)
}

// stamp appends a time as RFC 3339, if there is one.
func (e *encoder) stamp(name string, t time.Time) {
	if t.IsZero() {
		return
	}
	e.key(name)
	e.b = append(e.b, '"')
	e.b = t.UTC().AppendFormat(e.b, time.RFC3339Nano)
	e.b = append(e.b, '"')
}

func (e *encoder) strs(name string, values []string) {
	if len(values) == 0 {
		return
	}
	e.array(name)
	for _, v := range values {
		e.comma()
		e.text(v)
	}
	e.close(']')
}

// escapes has the bytes that can't stand in a string as they are: those of JSON
// (RFC 8259, 7), those by which HTML and scripts could end (as encoding/json does),
// and what isn't ASCII.
var escapes = func() (t [256]bool) {
	for c := range t {
		t[c] = c < 0x20 || c > 0x7e || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&'
	}
	return
}()

// text appends a string.
func (e *encoder) text(s string) {
	if len(s) <= e.limit {
		safe := true
		for i := range len(s) {
			if escapes[s[i]] {
				safe = false
				break
			}
		}
		if safe && (s == "" || s[0] != ' ' && s[len(s)-1] != ' ') {
			b := append(e.b, '"')
			b = append(b, s...)
			e.b = append(b, '"')
			return
		}
	}
	s = clip(Clean(s), e.limit)
	b := append(e.b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case !escapes[c]:
			b = append(b, c)
			i++
		case e.full > 0: // a byte for a byte, so that the length is bounded
			b = append(b, '?')
			i++
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c < utf8.RuneSelf:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			b = appendEscape(b, r)
			i += n
		}
	}
	e.b = append(b, '"')
}

func appendEscape(b []byte, r rune) []byte {
	if r > 0xffff {
		r -= 0x10000
		return appendEscape(appendEscape(b, 0xd800+r>>10), 0xdc00+r&0x3ff)
	}
	return append(b, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
