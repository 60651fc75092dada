package webui

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxText is the length in characters of the longest text of others that is shown whole, and maxMarks is how many marks one
// character can have: more would cover what stands above.
const maxText, maxMarks = 1000, 4

// show makes text of others fit to be shown on one line, as reports do: what doesn't print, or changes the direction of
// text, or piles up on other characters, is shown by its number, and long text is cut, visibly.
func show(s string) string { return showTo(s, maxText) }

func showTo(s string, limit int) string {
	var b strings.Builder
	n, marks := 0, 0
	for i, c := range s {
		shown := string(c)
		if unicode.Is(unicode.M, c) {
			marks++
		} else {
			marks = 0
		}
		_, width := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == utf8.RuneError && width == 1:
			shown = fmt.Sprintf("[0x%02X]", s[i])
		case c != ' ' && !unicode.IsPrint(c), marks > maxMarks:
			shown = fmt.Sprintf("[U+%04X]", c)
		}
		if n += utf8.RuneCountInString(shown); n > limit {
			fmt.Fprintf(&b, "… [%d more bytes]", len(s)-i)
			break
		}
		b.WriteString(shown)
	}
	return b.String()
}

// lines is show for text of several lines, such as a note.
func lines(s string) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i := range all {
		all[i] = showTo(all[i], 1<<14)
	}
	return strings.Join(all, "\n")
}

// sentence makes one of an error.
func sentence(s string) string {
	s = show(s)
	c, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return ""
	}
	return string(unicode.ToUpper(c)) + strings.TrimRight(s[n:], ".") + "."
}

// short cuts a digest where there is a link to all of it.
func short(s string) string {
	if len(s) > 16 {
		return show(s[:12]) + "…"
	}
	return show(s)
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// grouped prints a number with thin spaces between thousands.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

func plural(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(n) + " " + many
}
