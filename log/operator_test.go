package sessionlog

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// TestVendorsErrors checks that what is said of a vendors file is about the file, not about our types.
func TestVendorsErrors(t *testing.T) {
	for _, tt := range []struct{ file, want string }{
		{"vendors:\n  - ids: https://v.example\n", "line 2: field ids not found"},
		{"vendors: 1\n", "line 1: cannot unmarshal"},
	} {
		_, err := parseVendors([]byte(tt.file))
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "struct") || strings.Contains(err.Error(), "sessionlog") {
			t.Errorf("%q: %v; want %q", tt.file, err, tt.want)
		}
	}
}

// TestWrongPath checks that a submitter who has the wrong URL is told so, and not that the method is wrong.
func TestWrongPath(t *testing.T) {
	h := new(Log).Handler()
	for _, tt := range []struct {
		method, path string
		status       int
	}{
		{"POST", "/2026/add", 404},
		{"GET", "/2026/checkpoint", 404},
		{"POST", "/checkpoint", 405},
		{"DELETE", "/proof/1", 405},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, http.NoBody))
		if w.Code != tt.status {
			t.Errorf("%s %s: %d, want %d: %s", tt.method, tt.path, w.Code, tt.status, w.Body)
		}
	}
}

// TestPageOfAbsentWitness checks that a witness that is away isn't shown as good because nothing was published since.
func TestPageOfAbsentWitness(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	w := &witness{name: "w", status: witnessStatus{size: 9, at: now.Add(-time.Minute)}}
	pub := &published{cp: checkpoint.Checkpoint{Size: 9}}
	if s := states([]*witness{w}, pub, now); !s[0].Good {
		t.Fatalf("%+v", s)
	}
	w.status.err = "connection refused"
	if s := states([]*witness{w}, pub, now); s[0].Good || !strings.Contains(s[0].State, "last cosigned 1m0s ago") {
		t.Errorf("%+v", s)
	}
}
