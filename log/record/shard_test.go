package record

import "testing"

func TestNextShard(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"log.example/2026", "log.example/2027", true},
		{"log.example/a/2026", "log.example/a/2027", true},
		{"log.example/1999", "log.example/2000", true},
		{"log.example/2027", "log.example/2026", false},
		{"log.example/2026", "log.example/2026", false},
		{"log.example/2026", "log.example/2028", false},
		{"log.example/2026", "other.example/2027", false},
		{"log.example/a/2026", "log.example/b/2027", false},
		{"log.example/9999", "log.example/10000", false},
		{"log.example/+999", "log.example/1000", false},
		{"log.example/0x10", "log.example/0x11", false},
		{"/2026", "/2027", false},
		{"2026", "2027", false},
		{"log.example", "log.example", false},
	} {
		if got := NextShard(tt.a, tt.b); got != tt.want {
			t.Errorf("%q, %q: %v", tt.a, tt.b, got)
		}
	}
}
