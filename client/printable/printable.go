// Package printable makes text of others fit to stand beside ours: files, their names and servers may say anything.
package printable

import (
	"strings"
	"unicode"
)

// Line returns s with a question mark for each character that doesn't print, line breaks among them, and for each run of
// bytes that is not UTF-8. The result is one line, in which nothing steers a terminal, or hides or turns around what
// follows.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// Excerpt returns s as a part of a sentence: what doesn't print is a space, and after about most bytes there is an ellipsis,
// since what has no end hides what comes after.
func Excerpt(s string, most int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
