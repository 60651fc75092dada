package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

//go:embed report.html.tmpl
var page string

//go:embed style.css
var style string

// stylesheet is style with the colours.
var stylesheet = sync.OnceValue(func() template.CSS {
	var b strings.Builder
	colours := func(scheme string, dark int) string {
		var b strings.Builder
		b.WriteString(":root { color-scheme: " + scheme + ";")
		for _, r := range roles {
			fmt.Fprintf(&b, " --%s: %s;", r, palette[r][dark])
		}
		return b.String() + " }\n"
	}
	// Paper is light, whatever the screen is.
	b.WriteString(colours("light dark", 0) + "@media screen and (prefers-color-scheme: dark) {\n" + colours("dark", 1) + "}\n")
	b.WriteString(style)
	for _, r := range roles {
		fmt.Fprintf(&b, ".f-%s { fill: var(--%[1]s); } .s-%[1]s { stroke: var(--%[1]s); } .t-%[1]s { fill: var(--%[1]s); }\n", r)
	}
	b.WriteString(".f-none { fill: none; } .thick { stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; } .dashed { stroke-dasharray: 4 3; }\n" +
		".hidden { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }\n")
	return template.CSS(b.String())
})

// funcs are the template's. Each that returns HTML escapes all that it is given.
var funcs = template.FuncMap{
	"style":   func() template.CSS { return stylesheet() },
	"tone":    func(o Outcome) Tone { return o.tone() },
	"rich":    rich,
	"badge":   badge,
	"moment":  moment,
	"sources": func() []sourceText { return sources },
	"svg":     func(*Figure) template.HTML { return "" }, // replaced for each document, whose figures it numbers
}

var pageTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(funcs).Parse(page))
})

func (o Outcome) tone() Tone {
	if o == Good {
		return ToneGood
	}
	return ToneBad
}

// HTML writes the report as one page that needs nothing else: no script, no font, no picture from elsewhere.
func (r *Report) HTML(w io.Writer) error {
	b, err := r.execute("report")
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// Fragment returns what is in the report's page between its head and its foot, for another page: the sections, whose ids
// are those of [Section] and begin with "figure-" for figures, with headings from the second level on. It looks as it
// should with [Stylesheet], and has no style of its own, so that it doesn't depend on a page's Content-Security-Policy.
func (r *Report) Fragment() (template.HTML, error) {
	b, err := r.execute("content")
	return template.HTML(b), err
}

// Stylesheet returns the style of reports' pages, in CSS. Others use it to look alike.
func Stylesheet() string { return string(stylesheet()) }

// HTML returns the figure as SVG elements, one for wide and one for narrow screens, whose ids begin with id.
func (f *Figure) HTML(id string) template.HTML {
	return template.HTML(f.draw(wide).svg("wide", id, f.Title, f.Alt) + f.draw(narrow).svg("narrow", id+"-narrow", f.Title, f.Alt))
}

// execute returns a template's whole output: a page of which a part is missing says less than none.
func (r *Report) execute(name string) ([]byte, error) {
	t, err := pageTemplate().Clone()
	if err != nil {
		return nil, err
	}
	n := 0
	t.Funcs(template.FuncMap{"svg": func(f *Figure) template.HTML {
		n++
		return f.HTML(fmt.Sprintf("figure-%d", n))
	}})
	var b bytes.Buffer
	err = t.ExecuteTemplate(&b, name, r)
	return b.Bytes(), err
}

// longWord is the length from which on a word is broken where a line ends, and not before it.
const longWord = 40

// rich escapes text, and marks words that are to be copied, such as digests.
func rich(s string) template.HTML {
	var b strings.Builder
	for i, word := range strings.Split(s, " ") {
		if i > 0 {
			b.WriteByte(' ')
		}
		before, core, after := codeIn(word)
		if core == "" && utf8.RuneCountInString(word) > longWord {
			before, core = "", word // which can be broken anywhere
		}
		b.WriteString(template.HTMLEscapeString(before))
		if core != "" {
			b.WriteString("<code>" + template.HTMLEscapeString(core) + "</code>")
		}
		b.WriteString(template.HTMLEscapeString(after))
	}
	return template.HTML(b.String())
}

// codeIn finds a digest, a key or an identity in a word, with what stands around it.
func codeIn(word string) (before, core, after string) {
	core = strings.TrimLeft(word, "(“")
	before = word[:len(word)-len(core)]
	trimmed := strings.TrimRight(core, ").,;:”")
	core, after = trimmed, core[len(trimmed):]
	digits := 0
	for _, c := range core {
		switch {
		case c >= '0' && c <= '9':
			digits++
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', strings.ContainsRune("+/=", c):
		default:
			return word, "", ""
		}
	}
	if len(core) < 16 || digits < 2 {
		return word, "", ""
	}
	return before, core, after
}

// badge shows who vouches for a value, and if it doesn't hold.
func badge(v Value) template.HTML {
	s := sourceOf(v.Source)
	out := ""
	if v.Status == "failed" {
		out = `<span class="src bad">Does not hold</span> `
	}
	return template.HTML(out + `<span class="src ` + string(s.Tone) + `">` + template.HTMLEscapeString(s.Word) + `</span>`)
}

// IsNumeric reports whether column i holds numbers.
func (t *Table) IsNumeric(i int) bool { return i < len(t.Numeric) && t.Numeric[i] }

// Tone returns the tone of row i, or nothing.
func (t *Table) Tone(i int) Tone {
	if i < len(t.Tones) {
		return t.Tones[i]
	}
	return ""
}
