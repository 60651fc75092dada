package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// TestSubmitRetries: who waits for a log that doesn't answer is told why, once.
func TestSubmitRetries(t *testing.T) {
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) <= 2 {
			w.Header().Set("Connection", "close")
			http.Error(w, "starting up\x1b[31m", http.StatusBadGateway)
			return
		}
		http.Error(w, "no", http.StatusForbidden)
	}))
	defer srv.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out, errs := runCommand(t, "submit", "--log", srv.URL, "--token-file", token, filepath.Join("..", "..", "testdata", "record", "entries", "session.bin"))
	if status != exitError || out != "" {
		t.Errorf("status %d, output %q", status, out)
	}
	if n := strings.Count(errs, "trying again"); n != 1 || !strings.Contains(errs, "502") || !strings.Contains(errs, "403") || strings.Contains(errs, "\x1b") {
		t.Errorf("it says %q", errs)
	}
}
