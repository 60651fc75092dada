package recorder

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/session/quote"
)

const config = `
log: http://127.0.0.1:1/log
token-file: TOKEN
vendor: https://vendor.example
quotes: sim:bundletest:1795503600
release: {name: "pkg:oci/sandbox", sha256: "d1d14985a1ddb95c6f105adaf2e17db3e49a2a87a55d87da413a136be577c1ba"}
persistent-storage: none
tenants: {"2026-11": "1f27ebed7017a1e6490a97e553b0fdd656dcd0f07710275dc1911eb51416eba5"}
models:
  - {provider: anthropic, model: "*", execution: policy-zdr, channel: {sha256: "1f27ebed7017a1e6490a97e553b0fdd656dcd0f07710275dc1911eb51416eba5"}}
dir: /run/affidavit-recorder
out: /var/lib/affidavit-recorder
socket: /run/affidavit/recorder.sock
users: [1000]
otlp-grpc: 127.0.0.1:4317
otlp-http: "[::1]:4318"
linger: 3s
erase: ["rm", "-rf", "/srv/sandbox"]
`

func TestFile(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("a-token-of-some-length-0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	good := strings.Replace(config, "TOKEN", token, 1)
	f, err := ParseFile([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	read := func() (*File, error) { return ParseFile([]byte(strings.Replace(good, "2026-11", "2026-12", 1))) }
	c, err := f.Config(context.Background(), read)
	if err != nil {
		t.Fatal(err)
	}
	if c.Linger != 3*time.Second || c.Models[0].Execution != "policy-zdr" || c.Erase == nil || c.Session.Environment.Release.Name != "pkg:oci/sandbox" {
		t.Errorf("%+v", c)
	}
	if _, err := c.Session.Quotes.Quote(context.Background(), [64]byte{1}); err != nil {
		t.Error(err)
	}
	for now, ok := range map[string]bool{"2026-11-24T07:00:00Z": true, "2026-12-01T00:00:00Z": true, "2027-01-01T00:00:00Z": false} {
		at, _ := time.Parse(time.RFC3339, now)
		if o, err := c.Options(at); (err == nil) != ok || ok && o.TenantEpoch != now[:7] {
			t.Errorf("%s: %+v, %v", now, o, err)
		}
	}
	for name, edit := range map[string][2]string{
		"unknown key":             {"vendor:", "vendr:"},
		"no users":                {"users: [1000]", "users: []"},
		"every address":           {"127.0.0.1:4317", "0.0.0.0:4317"},
		"a name":                  {"127.0.0.1:4317", "localhost:4317"},
		"storage":                 {"persistent-storage: none", "persistent-storage: some"},
		"no quotes":               {"quotes: sim:bundletest:1795503600", "quotes: \"\""},
		"a second document":       {"erase:", "---\nerase:"},
		"no directory for keys":   {"dir: /run/affidavit-recorder", ""},
		"not a release's digest":  {"d1d14985", "D1D14985"},
		"no such quotes":          {"sim:bundletest:1795503600", "magic"},
		"execution":               {"policy-zdr", "trusted"},
		"model without a channel": {`, channel: {sha256: "1f27ebed7017a1e6490a97e553b0fdd656dcd0f07710275dc1911eb51416eba5"}`, ""},
	} {
		text := strings.Replace(good, edit[0], edit[1], 1)
		if text == good {
			t.Fatalf("%s: nothing was edited", name)
		}
		f, err := ParseFile([]byte(text))
		if err == nil {
			_, err = f.Config(context.Background(), read)
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	var _ quote.Source = c.Session.Quotes
}
