package report

import (
	"strings"
	"sync"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/sfnt"
	"golang.org/x/image/math/fixed"
)

// A face is one of the fonts that PDFs embed, with what is needed to set text in it. The Go fonts have Latin, Greek and
// Cyrillic letters, and are under Go's own licence.
type face struct {
	name, style string // in the PDF
	ttf         []byte

	once   sync.Once
	widths map[rune]float64 // in em; has every character that the font has
}

var (
	regular = &face{name: "text", style: "", ttf: goregular.TTF}
	bold    = &face{name: "text", style: "B", ttf: gobold.TTF}
	mono    = &face{name: "mono", style: "", ttf: gomono.TTF}
)

// load reads the font's table of characters. All of the Go fonts' are below U+2700, but for some ligatures and the
// replacement character.
func (f *face) load() {
	f.widths = make(map[rune]float64, 1024)
	parsed, err := sfnt.Parse(f.ttf)
	if err != nil {
		panic("report: the embedded font " + f.name + f.style + ": " + err.Error()) // it is a constant of the program
	}
	var b sfnt.Buffer
	add := func(from, to rune) {
		for c := from; c <= to; c++ {
			g, err := parsed.GlyphIndex(&b, c)
			if err != nil || g == 0 {
				continue
			}
			if w, err := parsed.GlyphAdvance(&b, g, fixed.I(1000), font.HintingNone); err == nil {
				f.widths[c] = float64(w) / 64 / 1000
			}
		}
	}
	add(' ', 0x26ff)
	add(0xfb00, 0xfffd)
}

func (f *face) has(c rune) bool {
	f.once.Do(f.load)
	_, ok := f.widths[c]
	return ok
}

// width returns the width of text whose characters the font has, in units of the font's size.
func (f *face) width(s string) float64 {
	f.once.Do(f.load)
	w := 0.0
	for _, c := range s {
		w += f.widths[c]
	}
	return w
}

// printable replaces characters that the font lacks by their numbers, so that none disappears.
func (f *face) printable(s string) string {
	if !strings.ContainsFunc(s, func(c rune) bool { return c != '\n' && !f.has(c) }) {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if c == '\n' || f.has(c) {
			b.WriteRune(c)
		} else {
			b.WriteString(number(c))
		}
	}
	return b.String()
}

// wrap breaks text at spaces into lines of at most width, in units of the font's size. Words that are longer are broken
// where the line ends.
func (f *face) wrap(s string, width float64) []string {
	f.once.Do(f.load)
	var out []string
	for _, paragraph := range strings.Split(s, "\n") {
		line, at := "", 0.0
		space := f.widths[' ']
		for _, word := range strings.Fields(paragraph) {
			w := f.width(word)
			if line != "" && at+space+w > width {
				out = append(out, line)
				line, at = "", 0
			}
			if line != "" {
				line, at = line+" ", at+space
			}
			for w > width { // and at is 0
				n, part := 0, 0.0
				for i, c := range word {
					if part+f.widths[c] > width && i > 0 {
						break
					}
					part += f.widths[c]
					n = i + len(string(c))
				}
				out = append(out, word[:n])
				word, w = word[n:], w-part
				if word == "" {
					break
				}
			}
			line, at = line+word, at+w
		}
		out = append(out, line)
	}
	return out
}
