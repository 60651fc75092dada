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

func TestExcerpt(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"not\x1b[2J\nb", "not [2J b"},
		{"a\u202eb\xff", "a b?"},
		{"0123456789", "0123456789"},
		{"0123456789a", "0123456789…"},
		{"012345678é", "012345678…"}, // no half characters
	} {
		if got := Excerpt(tt.in, 10); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.in, got, tt.want)
		}
	}
}
