package verifypage_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/affidavit-log/affidavit/client/webui/verifypage"
)

// maxModule is the size in bytes that the compressed module may have, so that the page stays fit for mail.
const maxModule = 3_000_000

func newPage(t *testing.T, o verifypage.Options) string {
	t.Helper()
	o.Module = newModule(t)
	page, err := verifypage.Page(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

func TestModule(t *testing.T) {
	if testing.Short() {
		t.Skip("the module is compiled without the race detector in any case")
	}
	m := newModule(t)
	if len(m.WASM) > maxModule {
		t.Errorf("the module has %d bytes compressed, more than %d", len(m.WASM), maxModule)
	}
	t.Logf("the module has %d bytes compressed", len(m.WASM))
	sum, err := m.Sum()
	if err != nil {
		t.Fatal(err)
	}
	// What the page says about the module is what somebody gets who compiles it by hand.
	file := filepath.Join(t.TempDir(), "verify.wasm")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", file, "./wasm")
	cmd.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(b) != sum {
		t.Error("two builds of the module differ")
	}
	if bytes.Contains(b, []byte("encoding/json.")) {
		t.Error("encoding/json is in the module, which has another JSON package already")
	}

	for name, dir := range map[string]fstest.MapFS{
		"empty": {}, "no module": {verifypage.ExecFile: {}}, "no script": {verifypage.WASMFile: {}},
	} {
		if _, err := verifypage.ReadModule(dir); !errors.Is(err, verifypage.ErrNoModule) {
			t.Errorf("%s: %v, want ErrNoModule", name, err)
		}
	}
	if _, err := verifypage.Page(verifypage.Options{Module: &verifypage.Module{WASM: b, Exec: m.Exec}}); err == nil {
		t.Error("a module that isn't compressed was taken")
	}
}

// The scripts and styles that the page has are the ones that its policy allows, all of them; and it has no others.
func TestContentSecurityPolicy(t *testing.T) {
	page := newPage(t, verifypage.Options{LogPolicy: "# <script>alert(1)</script> '\"&\n", AppraisalPolicy: "</textarea><style>*{}</style>"})
	m := regexp.MustCompile(`<meta http-equiv="Content-Security-Policy" content="([^"]*)">`).FindStringSubmatchIndex(page)
	if m == nil {
		t.Fatal("no policy")
	}
	if i := strings.Index(page, "<style"); i < m[0] {
		t.Error("the policy comes after what it is for")
	}
	policy := html.UnescapeString(page[m[2]:m[3]])
	directives := make(map[string][]string)
	for _, d := range strings.Split(policy, "; ") {
		words := strings.Fields(d)
		directives[words[0]] = words[1:]
	}
	for name, want := range map[string]string{"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'"} {
		if got := strings.Join(directives[name], " "); got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	for name, values := range directives {
		for _, v := range values {
			if v != "'none'" && v != "'wasm-unsafe-eval'" && !strings.HasPrefix(v, "'sha256-") {
				t.Errorf("%s allows %s", name, v)
			}
		}
	}
	for tag, directive := range map[string]string{"script": "script-src", "style": "style-src"} {
		var want []string
		for _, e := range regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(page, -1) {
			sum := sha256.Sum256([]byte(e[1]))
			want = append(want, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
		}
		got := slices.DeleteFunc(slices.Clone(directives[directive]), func(s string) bool { return s == "'wasm-unsafe-eval'" })
		want = slices.Compact(want) // those after the parts of the module are the same
		if !slices.Equal(got, want) || len(want) == 0 {
			t.Errorf("%s allows %v, and the page has %v", directive, got, want)
		}
	}
	if n, parts := strings.Count(page, "<script"), strings.Count(page, "<data hidden"); n != 2+parts || parts < 2 {
		t.Errorf("%d script elements and %d parts of the module, want Go's, ours, and one for each part", n, parts)
	}
	for _, word := range []string{" src=", " href=", " style=", " onclick=", " onload=", "javascript:", "http://", "@import", "url("} {
		body := page[:strings.Index(page, `<data hidden`)] + page[strings.LastIndex(page, "<script>"):]
		if strings.Contains(body, word) {
			t.Errorf("the page has %q in it", word)
		}
	}
}

func TestPage(t *testing.T) {
	o := verifypage.Options{LogPolicy: "log 1\n", AppraisalPolicy: "a: 2\n", Root: "-----BEGIN", Version: "v1 <2>"}
	page := newPage(t, o)
	if again := newPage(t, o); again != page {
		t.Error("the same options make different pages")
	}
	for _, s := range []string{"\nlog 1\n</textarea>", "\na: 2\n</textarea>", "\n-----BEGIN</textarea>", "v1 &lt;2&gt;"} {
		if !strings.Contains(page, s) {
			t.Errorf("the page lacks %q", s)
		}
	}
	for _, bad := range []string{"a\r\nb\n", "\x00", "\xff"} {
		for _, o := range []verifypage.Options{{LogPolicy: bad}, {AppraisalPolicy: bad}, {Root: bad}} {
			o.Module = newModule(t)
			if _, err := verifypage.Page(o); !errors.Is(err, verifypage.ErrNotText) {
				t.Errorf("%q: %v, want ErrNotText", bad, err)
			}
		}
	}
	m := *newModule(t)
	for _, bad := range []string{"</script>", "<!--", "</SCRIPT", "\r"} {
		m.Exec = []byte(bad)
		if _, err := verifypage.Page(verifypage.Options{Module: &m}); err == nil {
			t.Errorf("a script with %q in it was taken", bad)
		}
	}
}
