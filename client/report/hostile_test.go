package report

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"golang.org/x/net/html"
)

// parsed is a page that the tests look at.
func parsed(t testing.TB, page string) *html.Node {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// checkPage checks what holds for every page: that it needs nothing else and runs nothing; that ids are unique, and
// references lead somewhere; that headings are in order; that tables and pictures say what they are.
func checkPage(t testing.TB, name, page string) *html.Node {
	t.Helper()
	doc := parsed(t, page)
	allowed := strings.Fields("html head meta title style body div header p h1 bdi main section h2 h3 span dl dt dd nav ol ul li a footer code pre figure figcaption svg desc text rect polyline polygon table caption thead tbody tr th td")
	attributes := strings.Fields("lang dir charset name content http-equiv class id aria-labelledby aria-label href role scope data-label tabindex viewbox viewBox xmlns x y width height rx points font-size text-anchor")
	ids := make(map[string]int)
	var references []string
	level, h1, mains := 0, 0, 0
	for n := range doc.Descendants() {
		if n.Type == html.CommentNode {
			t.Errorf("%s: a comment: %.80q", name, n.Data)
		}
		if n.Type != html.ElementNode {
			continue
		}
		if !slices.Contains(allowed, n.Data) {
			t.Errorf("%s: an element <%s>", name, n.Data)
		}
		for _, a := range n.Attr {
			if !slices.Contains(attributes, a.Key) {
				t.Errorf("%s: <%s %s=%.80q>", name, n.Data, a.Key, a.Val)
			}
			if a.Key == "href" && !strings.HasPrefix(a.Val, "#") {
				t.Errorf("%s: a link to %.80q", name, a.Val)
			}
		}
		if id := attr(n, "id"); id != "" {
			ids[id]++
		}
		references = append(references, strings.Fields(attr(n, "aria-labelledby"))...)
		if href := attr(n, "href"); href != "" {
			references = append(references, strings.TrimPrefix(href, "#"))
		}
		switch n.Data {
		case "h1", "h2", "h3":
			l := int(n.Data[1] - '0')
			if l > level+1 {
				t.Errorf("%s: heading %q of level %d after one of level %d", name, textIn(n), l, level)
			}
			if strings.TrimSpace(textIn(n)) == "" {
				t.Errorf("%s: an empty heading", name)
			}
			if level = l; l == 1 {
				h1++
			}
		case "main":
			mains++
		case "svg":
			if attr(n, "role") != "img" || attr(n, "aria-labelledby") == "" || n.FirstChild == nil || n.FirstChild.Data != "title" || strings.TrimSpace(textIn(n.FirstChild)) == "" {
				t.Errorf("%s: a picture without a title", name)
			}
			if d := n.FirstChild.NextSibling; d.Data != "desc" || len(strings.TrimSpace(textIn(d))) < 20 {
				t.Errorf("%s: a picture without a description", name)
			}
		case "table":
			if n.FirstChild == nil || n.FirstChild.NextSibling.Data != "caption" {
				t.Errorf("%s: a table without a caption", name)
			}
		case "th":
			if attr(n, "scope") == "" {
				t.Errorf("%s: a header cell without scope", name)
			}
		}
	}
	for id, n := range ids {
		if n > 1 {
			t.Errorf("%s: id %q is there %d times", name, id, n)
		}
	}
	for _, id := range references {
		if ids[id] == 0 {
			t.Errorf("%s: a reference to %q, which isn't there", name, id)
		}
	}
	if h1 != 1 || mains != 1 {
		t.Errorf("%s: %d first-level headings and %d main landmarks", name, h1, mains)
	}
	if strings.Contains(page, "ZgotmplZ") {
		t.Errorf("%s: the template refused a value", name)
	}
	for _, ban := range []string{"<script", "javascript:", "url(", "@import", "<link", "<iframe"} {
		if i := strings.Index(strings.ToLower(page), ban); i >= 0 {
			t.Errorf("%s: %q in %q", name, ban, page[max(0, i-40):min(len(page), i+60)])
		}
	}
	for _, c := range page {
		if c != '\n' && unprintable(c) && c != utf8.RuneError {
			t.Errorf("%s: the character U+%04X", name, c)
			break
		}
	}
	return doc
}

func TestPages(t *testing.T) {
	t.Parallel()
	for name, r := range cases(t) {
		checkPage(t, name, htmlOf(t, r))
	}
}

var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `</title></style></svg><script>1</script>`, `' onmouseover='x`, `{{.}}`, `&lt;b&gt;&#60;b&#62;`, `<!-- -->`, `]]>`,
	"line\nbreak\r\nand\ttab", "\x00\x01\x1b[31m\x7f\u0085", "admin\u202egnp.exe\u202c", "\u2066\u2067\u2068\u2069\u200e\u200f\u061c", "a\u200bb\ufeffc\u00ad", "\ufffe\uffff\U0010ffff",
	"\xff\xfe\xc0\xaf", "مرحبا שלום", "漢字かな交じり文", "😀👩‍👩‍👧", "e" + strings.Repeat("\u0301", 500), strings.Repeat("A", 16<<10), strings.Repeat("<b>", 500), strings.Repeat("\u202e", 400),
	`(unbalanced \( parens) Tj ET Q`, `endstream endobj`, "%PDF-1.7 /JS (app.alert)", `\\\\`, "=cmd|' /C calc'!A0", "https://evil.example/", "ﬁ ligature", "\u2028\u2029", "",
}

// poison puts s into all text of others that a finding has.
func poison(f *bundle.Finding, all ...string) *bundle.Finding {
	g := *f
	g.Claims, g.Refusals = nil, nil
	s := all[0]
	for i, c := range f.Claims {
		s = all[i%len(all)]
		c.Value, c.Note = s, s
		if strings.HasPrefix(c.ID, "model.") || c.ID == "vendor" {
			c.Label = s
		}
		g.Claims = append(g.Claims, c)
	}
	for i := range max(3, min(len(all), maxReasons)) {
		s := all[i%len(all)]
		g.Refusals = append(g.Refusals, verifier.Refusal{Code: verifier.Code(s), Field: s, Got: s, Want: s, Message: s})
	}
	g.Claims = append(g.Claims, verifier.Claim{ID: s, Label: s, Value: s, Source: verifier.Source(s), Status: verifier.ClaimStatus(s), Note: s})
	g.Log.Origin, g.Log.Quorum = s, s
	return &g
}

// shape is the page's elements, without text: what text of others must not change.
func elements(doc *html.Node) string {
	var b strings.Builder
	for n := range doc.Descendants() {
		// Digests are marked up as such, and pictures wrap text.
		if n.Type == html.ElementNode && !slices.Contains([]string{"code", "text", "rect", "polyline", "polygon"}, n.Data) {
			fmt.Fprintf(&b, "%s#%s ", n.Data, attr(n, "id"))
		}
	}
	return b.String()
}

// Text of others is nothing but text, in the page and in the PDF, and nothing of it is dropped without a sign.
func TestHostile(t *testing.T) {
	t.Parallel()
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	b, o := s.Bundle(), s.Options()
	f, err := bundle.Check(b, o)
	if err != nil {
		t.Fatal(err)
	}
	meta := func(h string) Meta {
		m := metaFor(t, o, b)
		m.Files[0].Name, m.Tool, m.Args = h+".affidavit", h, []string{"--log-policy", h}
		return m
	}
	plain := make(map[bool]string)
	for _, h := range []string{"", "plain"} {
		plain[h == ""] = elements(parsed(t, htmlOf(t, Record(poison(f, h), meta(h)))))
	}
	for i, h := range hostile {
		name := fmt.Sprintf("%d: %.30q", i, h)
		m := meta(h)
		page := htmlOf(t, Record(poison(f, h), m))
		if got, want := elements(checkPage(t, name, page)), plain[h == ""]; got != want {
			t.Errorf("%s: the page has other elements: %s", name, firstDifference(got, want))
		}
		// The same in the report on a file that proves nothing, and in one on a period.
		index := uint64(math.MaxUint64)
		checkPage(t, name, htmlOf(t, Unproven(&bundle.NotProven{Rule: bundle.Rule(h), Index: &index, Err: fmt.Errorf("%s", h)}, m)))
		p, err := Period(func(yield func(*Session, error) bool) {
			yield(&Session{Name: h, Outcome: Refused, Reason: h, Codes: []string{h}, Vendor: h, ID: h, Release: h, Platform: h, TCBStatus: h, Models: []SessionModel{{Name: h, Execution: h}, {Name: h, Execution: record.ExecutionTEE}}}, nil)
		}, Meta{Date: reportDate, Monitor: h + "x"})
		if err != nil {
			t.Fatal(err)
		}
		checkPage(t, name, htmlOf(t, p))
	}
	// A PDF is dearer, and has them all at once.
	r, m := Record(poison(f, hostile...), meta(hostile[1])), meta(hostile[1])
	var missing rune
	got := pdfText(t, pdfOf(t, r, m.Files...))
	for _, c := range got {
		if !regular.has(c) && !mono.has(c) {
			missing = c
		}
	}
	if missing != 0 {
		t.Errorf("the PDF has U+%04X, for which it has no glyph", missing)
	}
	for _, want := range []string{"<script>alert(1)</script>", "[U+202E]", "[U+6F22][U+5B57]", "[U+0645]", "[U+1F600]", "(unbalanced \\( parens) Tj ET Q", "more bytes]"} {
		if !strings.Contains(strings.Join(strings.Fields(got), ""), strings.Join(strings.Fields(want), "")) {
			t.Errorf("the PDF doesn't show %q", want)
		}
	}
}

// A name of 16 KiB is cut, and says so; nothing else is lost.
func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                           "plain",
		"a\u202eb":                        "a[U+202E]b",
		"a\nb":                            "a[U+000A]b",
		"\xff":                            "\ufffd",
		"\U000e0001":                      "[U+E0001]",
		"שלום 漢字 😀":                       "שלום 漢字 😀",
		"no\u00a0break":                   "no[U+00A0]break",
		"\u2066x\u2069":                   "[U+2066]x[U+2069]",
		"zero\u200bwidth":                 "zero[U+200B]width",
		"soft\u00adhyphen":                "soft[U+00AD]hyphen",
		"e\u0301\u0323":                   "e\u0301\u0323",
		"x" + strings.Repeat("\u0301", 6): "x\u0301\u0301\u0301\u0301[U+0301][U+0301]",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
	long := strings.Repeat("é", 16<<10)
	if got := clean(strings.Repeat("\u202e", 5000)); utf8.RuneCountInString(got) > maxText+40 {
		t.Errorf("clean of what doesn't print has %d characters", utf8.RuneCountInString(got))
	}
	if got := clean(long); utf8.RuneCountInString(got) > maxText+40 || !strings.HasSuffix(got, fmt.Sprintf("… [%d more bytes]", len(long)-2*maxText)) {
		t.Errorf("clean of %d bytes ends with %q", len(long), got[len(got)-40:])
	}
}

// What a font lacks is shown by its number, and every character of the text is on some line.
func TestPrintable(t *testing.T) {
	if got, want := regular.printable("a漢😀ж"), "a[U+6F22][U+1F600]ж"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, own := range []string{"“”‘’–—…•−→×"} { // that our own words use
		for _, c := range own {
			if !regular.has(c) || !bold.has(c) {
				t.Errorf("the fonts have no %c", c)
			}
		}
	}
}

// FuzzText has any text where text of others can be.
func FuzzText(f *testing.F) {
	for _, h := range hostile {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := clean(s)
		if strings.ContainsFunc(strings.ReplaceAll(c, "\ufffd", ""), unprintable) || !utf8.ValidString(c) {
			t.Errorf("clean(%q) = %q, which doesn't print", s, c)
		}
		whole := !strings.Contains(c, " more bytes]")
		if clean(c) != c && whole {
			t.Errorf("clean(%q) = %q, and of that %q", s, c, clean(c))
		}
		// No two short texts look the same, unless one is written like a number.
		if whole && utf8.ValidString(s) && !strings.Contains(s, "[U+") && !strings.ContainsRune(s, utf8.RuneError) {
			back := regexp.MustCompile(`\[U\+([0-9A-F]+)\]`).ReplaceAllStringFunc(c, func(m string) string {
				n, err := strconv.ParseUint(m[3:len(m)-1], 16, 32)
				if err != nil {
					t.Fatal(err)
				}
				return string(rune(n))
			})
			if back != s {
				t.Errorf("clean(%q) = %q, which stands for %q", s, c, back)
			}
		}
		// Lines have all of the text but the space between words, and none is too long.
		squeeze := func(s string) string {
			return strings.Map(func(c rune) rune {
				if unicode.IsSpace(c) {
					return -1
				}
				return c
			}, s)
		}
		var got strings.Builder
		for _, l := range lay(regular, 9, 60, c) {
			for i, r := range l {
				got.WriteString(r.text)
				if i == len(l)-1 && r.at+r.width() > 60.5 && utf8.RuneCountInString(r.text) > 1 {
					t.Errorf("a line of %q is %.1f wide", c, r.at+r.width())
				}
			}
		}
		if squeeze(got.String()) != squeeze(regular.printable(c)) {
			t.Errorf("%q is laid out as %q", c, got.String())
		}
		r := &Report{Title: c, Subject: c, Date: reportDate, Outcome: Refused, Verdict: c, Facts: []Fact{{c, c}}, Sections: []Section{
			{ID: "summary", Title: "Summary", Blocks: []Block{notice(ToneBad, c, c, c), {Kind: KindGroups, Groups: []Group{{Title: c, By: c, Tone: ToneBad, Items: []string{c, c}}}}}},
			{ID: "rest", Title: "x" + c, Blocks: []Block{text(c), list(c), code(c), values(Value{ID: c, Label: c, Value: c, Note: c}), table(&Table{Caption: c, Header: []string{c, c}, Rows: [][]string{{c, c}}})}},
		}}
		page := htmlOf(t, r)
		for n := range parsed(t, page).Descendants() {
			if n.Type == html.ElementNode && slices.Contains([]string{"script", "img", "b", "iframe", "object", "link", "base", "form", "input"}, n.Data) {
				t.Errorf("<%s> from %q", n.Data, s)
			}
		}
	})
}

// The JSON form has only clean text, too.
func TestHostileJSON(t *testing.T) {
	t.Parallel()
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	f, err := bundle.Check(s.Bundle(), s.Options())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hostile {
		b, err := json.Marshal(Record(poison(f, h), metaFor(t, s.Options(), s.Bundle())))
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		var walk func(v any)
		walk = func(v any) {
			switch v := v.(type) {
			case string:
				if strings.ContainsFunc(v, func(c rune) bool { return c != '\n' && c != utf8.RuneError && unprintable(c) }) {
					t.Errorf("%.40q is in the content as %.80q", h, v)
				}
			case []any:
				for _, x := range v {
					walk(x)
				}
			case map[string]any:
				for _, x := range v {
					walk(x)
				}
			}
		}
		walk(v)
	}
}

// luminance and contrast are those of WCAG 2.2.
func luminance(hex string) float64 {
	n, _ := strconv.ParseUint(hex[1:], 16, 32)
	channel := func(c uint64) float64 {
		f := float64(c&0xff) / 255
		if f <= 0.04045 {
			return f / 12.92
		}
		return math.Pow((f+0.055)/1.055, 2.4)
	}
	return 0.2126*channel(n>>16) + 0.7152*channel(n>>8) + 0.0722*channel(n)
}

func contrast(a, b string) float64 {
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// Text has a contrast of at least 4.5 to 1 on all grounds that it stands on, in light and dark, as the page's own style
// sheet has the colours.
func TestContrast(t *testing.T) {
	css := string(stylesheet())
	roots := regexp.MustCompile(`:root \{[^}]*\}`).FindAllString(css, -1)
	if len(roots) != 2 {
		t.Fatalf("%d sets of colours", len(roots))
	}
	for i, scheme := range []string{"light", "dark"} {
		colour := make(map[string]string)
		for _, m := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`).FindAllStringSubmatch(roots[i], -1) {
			colour[m[1]] = m[2]
		}
		check := func(text, ground string, least float64) {
			t.Helper()
			if got := contrast(colour[text], colour[ground]); got < least {
				t.Errorf("%s: %s on %s has a contrast of %.2f", scheme, text, ground, got)
			}
		}
		tones := []string{"good", "known", "claimed", "unknown", "bad"}
		for _, ground := range []string{"paper", "panel"} {
			for _, text := range append([]string{"ink", "muted"}, tones...) {
				check(text, ground, 4.5)
			}
		}
		for _, tone := range tones {
			check("ink", tone+"-soft", 4.5)
			check("muted", tone+"-soft", 4.5)
			check(tone, tone+"-soft", 4.5)
			check("paper", tone, 4.5) // marks in pictures
		}
	}
	if used := regexp.MustCompile(`var\(--([a-z-]+)\)`).FindAllStringSubmatch(css, -1); len(used) == 0 {
		t.Error("the style sheet uses no colours")
	} else {
		for _, m := range used {
			if _, ok := palette[m[1]]; !ok {
				t.Errorf("the style sheet uses a colour %q", m[1])
			}
		}
	}
	if m := regexp.MustCompile(`[^-]#[0-9a-f]{3,6}\b`).FindAllString(strings.Join(strings.Split(css, "\n")[4:], "\n"), -1); m != nil {
		t.Errorf("colours outside of the palette: %q", m)
	}
}
