package observe

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func options(t *testing.T, args ...string) *Options {
	t.Helper()
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o := Flags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o
}

// Fails if the id isn't in the answer, differs from line to line, or is repeated though somebody forged lines with it.
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		kept       bool
	}{
		{"none", "", false},
		{"a proxy's", "0f3c9a77-B2d1", true},
		{"the longest", strings.Repeat("a", 64), true},
		{"too long", strings.Repeat("a", 65), false},
		{"too short", "1234567", false},
		{"a forged field", "12345678 level=ERROR", false},
		{"not ASCII", "1234567\u00e9", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			o := options(t, "--log-format=json", "--access-log")
			logger := o.Logger(&out).With("from", "test")
			h := o.Requests(logger, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
					t.Errorf("the server's connection can't be reached: %v", err)
				}
				logger.WarnContext(r.Context(), "inside")
				w.WriteHeader(http.StatusTeapot)
				io.WriteString(w, "short")
			}))
			s := httptest.NewServer(h)
			defer s.Close()
			r, _ := http.NewRequest("GET", s.URL+"/path?token=secret", nil)
			if tt.sent != "" {
				r.Header.Set("X-Request-Id", tt.sent)
			}
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			s.Close() // what is logged after the answer is there
			id := resp.Header.Get("X-Request-Id")
			if tt.kept != (id == tt.sent) || !regexp.MustCompile(`^[0-9A-Za-z-]{8,64}$`).MatchString(id) {
				t.Errorf("sent %q, answered %q", tt.sent, id)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if len(lines) != 2 {
				t.Fatalf("want two lines, got\n%s", &out)
			}
			for _, line := range lines {
				var v struct {
					Msg, Request, From, Method, Path string
					Status, Bytes                    int
				}
				if err := json.Unmarshal([]byte(line), &v); err != nil || v.Request != id {
					t.Errorf("%v: %s", err, line)
				}
				if v.Msg == "answered" && (v.Status != http.StatusTeapot || v.Bytes != 5 || v.Method != "GET" || v.Path != "/path") {
					t.Errorf("got %s", line)
				}
			}
			if strings.Contains(out.String(), "secret") {
				t.Errorf("the query is logged: %s", &out)
			}
		})
	}
}

// Fails if requests are logged that nobody asked for, or a wrong word is taken for a format.
func TestFlags(t *testing.T) {
	var out bytes.Buffer
	o := options(t)
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	o.Requests(o.Logger(&out), http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if out.Len() > 0 || w.Header().Get("X-Request-Id") == "" {
		t.Errorf("logged %q; header %v", &out, w.Header())
	}
	if err := options(t, "--log-format=JSON").Check(); err == nil || !strings.Contains(err.Error(), `"JSON"`) {
		t.Errorf("got %v", err)
	}
	if options(t).Logger(io.Discard).Enabled(t.Context(), slog.LevelDebug) || !options(t, "--debug").Logger(io.Discard).Enabled(t.Context(), slog.LevelDebug) {
		t.Error("--debug has no effect, or is always on")
	}
}
