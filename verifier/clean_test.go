package verifier

import (
	"strings"
	"testing"
)

// What others wrote must not look like something that we say.
func TestClean(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"pkg:oci/sandbox 2026", "pkg:oci/sandbox 2026"},
		{"größer 模型", "größer 模型"},
		{"a\nb\rc\td\x1b[31me\x00", "a�b�c�d�[31me�"},
		{"abc\u202edef\u2066g\u200bh\u2028i", "abc�def�g�h�i"},
		{"\xff\xc3", "��"},
		{"a\u00a0b", "a�b"}, // looks like a space
		{strings.Repeat("a", maxValue), strings.Repeat("a", maxValue)},
		{strings.Repeat("a", maxValue+1), strings.Repeat("a", maxValue) + "…"},
		{strings.Repeat("ä", maxValue), strings.Repeat("ä", maxValue)},
		{"", ""},
	} {
		if got := clean(tt.in); got != tt.want {
			t.Errorf("clean(%q) = %q, want %q", tt.in, got, tt.want)
		}
		if again := clean(clean(tt.in)); len([]rune(tt.in)) <= maxValue && again != tt.want {
			t.Errorf("clean(clean(%q)) = %q, want %q", tt.in, again, tt.want)
		}
	}
}
