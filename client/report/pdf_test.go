package report

import (
	"bytes"
	"compress/zlib"
	"io"
	"regexp"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
)

// streams returns the decompressed streams of a PDF, in the order of the file.
func streams(t testing.TB, pdf []byte) (all [][]byte) {
	t.Helper()
	for {
		i := bytes.Index(pdf, []byte("\nstream\n"))
		if i < 0 {
			return all
		}
		pdf = pdf[i+len("\nstream\n"):]
		end := bytes.Index(pdf, []byte("\nendstream"))
		if r, err := zlib.NewReader(bytes.NewReader(pdf[:end])); err == nil {
			if b, err := io.ReadAll(r); err == nil {
				all = append(all, b)
			}
		}
		pdf = pdf[end:]
	}
}

var escaped = regexp.MustCompile(`(?s)\\(.)`)

var textOp = regexp.MustCompile(`(?s)BT ([0-9.-]+) ([0-9.-]+) Td \(((?:\\.|[^\\)])*)\) Tj`)

// pdfText returns the text of a PDF in the order in which it is written, which is that in which it is read aloud.
func pdfText(t testing.TB, pdf []byte) string {
	t.Helper()
	var out strings.Builder
	for _, s := range streams(t, pdf) {
		for _, m := range textOp.FindAllSubmatch(s, -1) {
			raw := escaped.ReplaceAllFunc(m[3], func(b []byte) []byte {
				if b[1] == 'r' {
					return []byte{'\r'}
				}
				return b[1:]
			})
			units := make([]uint16, len(raw)/2)
			for i := range units {
				units[i] = uint16(raw[2*i])<<8 | uint16(raw[2*i+1])
			}
			out.WriteString(string(utf16.Decode(units)) + " ")
		}
	}
	return out.String()
}

// The PDF says what the page says, has the file attached whole, and is the same each time.
func TestPDF(t *testing.T) {
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	b, o := s.Bundle(), s.Options()
	r, m := reportOn(t, b, o), metaFor(t, o, b)
	pdf := pdfOf(t, r, m.Files...)
	if again := pdfOf(t, reportOn(t, b, o), m.Files...); !bytes.Equal(pdf, again) {
		t.Error("the same report gives another PDF")
	}
	found := false
	for _, s := range streams(t, pdf) {
		found = found || bytes.Equal(s, m.Files[0].Data)
	}
	if !found {
		t.Error("the file isn't attached, or not whole")
	}
	text := strings.Join(strings.Fields(pdfText(t, pdf)), " ")
	at := 0
	for _, want := range []string{r.Title, "Good", "meets your appraisal policy", "Nothing here is about real hardware", "Proven", "Only claimed", "Unknown", "Identity and measurement", "Time", "Models",
		"What the agent did", "Memory encryption throughout", "Where does the code go?", "Who can access it?", "What happens in a breach?", "Can isolation be proven?", "Data retention", "Teardown",
		"The chain of trust", "Assumptions", "Repeat the check", "affidavit verify"} {
		i := strings.Index(strings.ToLower(text[at:]), strings.ToLower(want))
		if i < 0 {
			t.Fatalf("%q is not there, or not in the order of the page", want)
		}
		at += i
	}
	for _, bad := range []string{"/JavaScript", "/JS", "/URI", "/Launch", "/OpenAction", "http://", "/AA"} {
		if bytes.Contains(pdf, []byte(bad)) && bad != "/OpenAction" { // fpdf sets the zoom with it
			t.Errorf("the PDF has %s", bad)
		}
	}
}

// Each value of the content is in the PDF, whole, whatever page breaks and line breaks do to it.
func TestPDFIsComplete(t *testing.T) {
	t.Parallel()
	squeeze := func(s string) string { return strings.Join(strings.Fields(s), "") }
	for name, r := range cases(t) {
		text := squeeze(pdfText(t, pdfOf(t, r)))
		check := func(s string) {
			t.Helper()
			if s = squeeze(regular.printable(s)); !strings.Contains(text, s) {
				t.Errorf("%s: %.200q is not in the PDF", name, s)
			}
		}
		var walk func(all []Section)
		walk = func(all []Section) {
			for _, s := range all {
				for _, b := range s.Blocks {
					if b.Kind == KindText {
						check(b.Text)
					}
					for _, i := range b.Items {
						check(i)
					}
					for _, g := range b.Groups {
						for _, i := range g.Items {
							check(i)
						}
					}
				}
				walk(s.Sections)
			}
		}
		check(r.Verdict)
		walk(r.Sections)
	}
}

func TestBase(t *testing.T) {
	for name, want := range map[string]string{
		"a.affidavit": "a.affidavit", "/x/y/a.affidavit": "a.affidavit", `c:\x\a.affidavit`: "a.affidavit", "../..": "bundle.affidavit", "-": "bundle.affidavit", "x/": "bundle.affidavit",
	} {
		if got := base(name); got != want {
			t.Errorf("base(%q) = %q, want %q", name, got, want)
		}
	}
}
