package printable

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func FuzzLine(f *testing.F) {
	for in, want := range map[string]string{
		"":                              "",
		"café, “ok” 日本":                 "café, “ok” 日本",
		"two\nlines\r":                  "two?lines?",
		"\x1b[31mred":                   "?[31mred",
		"\u009b31m":                     "?31m",
		"a\u202egnp.exe":                "a?gnp.exe",
		"zero\u200bwidth":               "zero?width",
		"no\u00a0break":                 "no?break",
		"\ufffd":                        "?",
		"a\xff\xfeb":                    "a?b",
		"cut \xe2\x80":                  "cut ?",
		strings.Repeat("long ", 10_000): strings.Repeat("long ", 10_000),
	} {
		if got := Line(in); got != want {
			f.Errorf("%q: %q, want %q", in, got, want)
		}
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Line(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }) {
			t.Errorf("%q: %q", s, got)
		}
		if again := Line(got); again != got {
			t.Errorf("%q: %q, and then %q", s, got, again)
		}
	})
}
