package report

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"codeberg.org/go-pdf/fpdf"
)

// The page is A4, in millimetres.
const (
	pageWidth, pageHeight = 210.0, 297.0
	marginX, marginTop    = 18.0, 18.0
	bottom                = pageHeight - 20
	textWidth             = pageWidth - 2*marginX
	point                 = 25.4 / 72 // in millimetres
	bodySize, bodyLead    = 9.5, 4.7
	smallSize, smallLead  = 8.2, 4.0
	monoScale             = 0.88 // the monospaced font looks larger
	panelPad              = 3.0
)

// PDF writes the report as a PDF 1.x document, A4, with the given files attached. Files without data are not. The same
// arguments always give the same bytes.
func (r *Report) PDF(w io.Writer, attach ...File) error {
	f := fpdf.New("P", "mm", "A4", "")
	d := &document{f: f, y: marginTop}
	// Without these, maps' order and the clock would be in the file.
	f.SetCatalogSort(true)
	f.SetCreationDate(r.Date.UTC())
	f.SetModificationDate(r.Date.UTC())
	f.SetTitle(plane(r.Outcome.Word()+": "+r.Subject), true)
	f.SetSubject(plane(r.Title), true)
	f.SetCreator("affidavit report", true)
	f.SetLang("en")
	f.SetMargins(0, 0, 0)
	f.SetAutoPageBreak(false, 0)
	f.SetCellMargin(0)
	for _, face := range []*face{regular, bold, mono} {
		// A copy, since the library writes into it, and reports may be made at the same time.
		f.AddUTF8FontFromBytes(face.name, face.style, bytes.Clone(face.ttf))
	}
	var files []fpdf.Attachment
	for _, a := range attach {
		if a.Data != nil {
			files = append(files, fpdf.Attachment{Content: a.Data, Filename: plane(base(a.Name)), Description: fmt.Sprintf("SHA-256 %x", a.SHA)})
		}
	}
	f.SetAttachments(files)
	f.AddPage()
	d.report(r)
	d.footers(r)
	// A document of which a part is missing says less than none.
	var b bytes.Buffer
	if err := f.Output(&b); err != nil {
		return fmt.Errorf("PDF: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// base is the last element of a file's name, for readers that write attachments to where it says.
func base(name string) string {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	if name == "" || name == "-" || name == "." || name == ".." {
		return "bundle.affidavit"
	}
	return name
}

// plane makes text fit for the document's outline and information, which fpdf writes as UTF-16 of one unit a character.
func plane(s string) string {
	var b strings.Builder
	for _, c := range clean(s) {
		if c > 0xffff {
			b.WriteString(number(c))
		} else {
			b.WriteRune(c)
		}
	}
	return b.String()
}

// A document is a PDF on which text grows from top to bottom.
type document struct {
	f *fpdf.Fpdf
	y float64 // below what was written
}

// A run is text of one font on a line, and a line what stands beside each other.
type run struct {
	face *face
	size float64 // points
	text string
	at   float64 // millimetres from the line's start
}

type line []run

// lay breaks text into lines of a width in millimetres. Words that are to be copied are set in the monospaced font.
func lay(face *face, size, width float64, s string) []line {
	var out []line
	for _, paragraph := range strings.Split(s, "\n") {
		var l line
		at := 0.0
		space := face.width(" ") * size * point
		for _, word := range strings.Fields(paragraph) {
			var parts []run
			before, core, after := codeIn(word)
			for _, p := range []run{{face: face, size: size, text: before}, {face: mono, size: size * monoScale, text: core}, {face: face, size: size, text: after}} {
				if p.text != "" {
					p.text = p.face.printable(p.text)
					parts = append(parts, p)
				}
			}
			w := 0.0
			for _, p := range parts {
				w += p.width()
			}
			if at > 0 && at+space+w > width {
				out, l, at = append(out, l), nil, 0
			}
			if at > 0 {
				if last := &l[len(l)-1]; last.face == face && parts[0].face == face {
					last.text += " "
				}
				at += space
			}
			for _, p := range parts {
				for at+p.width() > width { // a word that is longer than a line
					n := p.fit(width - at)
					if n == 0 && at > 0 {
						out, l, at = append(out, l), nil, 0
						continue
					}
					first := p
					first.text, p.text, first.at = p.text[:n], p.text[n:], at
					out, l, at = append(out, append(l, first)), nil, 0
				}
				if p.text == "" {
					continue
				}
				p.at = at
				at += p.width()
				if n := len(l); n > 0 && l[n-1].face == p.face && strings.HasSuffix(l[n-1].text, " ") {
					l[n-1].text += p.text
				} else {
					l = append(l, p)
				}
			}
		}
		out = append(out, l)
	}
	return out
}

func (r *run) width() float64 { return r.face.width(r.text) * r.size * point }

// fit returns how many bytes of the run's text fit into a width; at least one character's if the width is a line's.
func (r *run) fit(width float64) int {
	w := 0.0
	for i, c := range r.text {
		w += r.face.width(string(c)) * r.size * point
		if w > width {
			if i == 0 && width > 20 {
				return len(string(c))
			}
			return i
		}
	}
	return len(r.text)
}

func rgb(role string) (int, int, int) {
	n, err := strconv.ParseUint(strings.TrimPrefix(palette[role][0], "#"), 16, 32)
	if err != nil {
		panic("report: no colour " + role)
	}
	return int(n >> 16), int(n >> 8 & 0xff), int(n & 0xff)
}

// put writes a line with its baseline at y.
func (d *document) put(x, y float64, role string, l line) {
	r, g, b := rgb(role)
	d.f.SetTextColor(r, g, b)
	for _, p := range l {
		d.f.SetFont(p.face.name, p.face.style, p.size)
		d.f.Text(x+p.at, y, p.text)
	}
}

// say writes one line that fits.
func (d *document) say(x, y, size float64, face *face, role, s string) {
	d.put(x, y, role, line{{face: face, size: size, text: face.printable(s)}})
}

func (d *document) fill(role string, x, y, w, h float64) {
	r, g, b := rgb(role)
	d.f.SetFillColor(r, g, b)
	d.f.Rect(x, y, w, h, "F")
}

func (d *document) rule(role string, x, y, w, width float64) {
	r, g, b := rgb(role)
	d.f.SetDrawColor(r, g, b)
	d.f.SetLineWidth(width)
	d.f.Line(x, y, x+w, y)
}

// need begins a page if the rest of this one is smaller than h. What is larger than a page begins where it is.
func (d *document) need(h float64) {
	if d.y+h > bottom && d.y > marginTop && h < bottom-marginTop {
		d.page()
	}
}

func (d *document) page() {
	d.f.AddPage()
	d.y = marginTop
}

// lines writes lines below each other, over pages if need be.
func (d *document) lines(x, lead float64, role string, all []line) {
	for _, l := range all {
		if d.y+lead > bottom {
			d.page()
		}
		d.put(x, d.y+lead*0.74, role, l)
		d.y += lead
	}
}

func (d *document) paragraph(s string) {
	all := lay(regular, bodySize, textWidth-14, s)
	d.need(min(float64(len(all)), 3) * bodyLead)
	d.lines(marginX, bodyLead, "ink", all)
	d.y += 1.8
}

func (d *document) heading(level int, s string) {
	size, lead, before, keep := 15.0, 7.0, 8.0, 30.0
	if level > 1 {
		size, lead, before, keep = 11, 5.4, 5, 24
	}
	if d.y > marginTop {
		d.y += before
	}
	d.need(keep)
	d.f.SetFont(bold.name, bold.style, size)
	d.f.Bookmark(plane(s), level-1, d.y)
	if level == 1 {
		d.rule("ink", marginX, d.y, textWidth, 0.5)
		d.y += 2.5
	}
	d.lines(marginX, lead, "ink", lay(bold, size, textWidth, s))
	d.y += 1
}

func (d *document) report(r *Report) {
	d.say(marginX, d.y+3, 8.5, regular, "muted", strings.ToUpper(r.Title))
	d.y += 5.5
	d.lines(marginX, 6.6, "ink", lay(bold, 14, textWidth, r.Subject))
	d.y += 3
	d.f.SetFont(bold.name, bold.style, 12)
	first := &r.Sections[0]
	d.f.Bookmark(plane(first.Title), 0, d.y)
	d.panel(r.Outcome.tone(), lay(bold, 9, textWidth-12, strings.ToUpper(r.Outcome.Word())), lay(bold, 12.5, textWidth-12, r.Verdict), 6)
	for i := range first.Blocks {
		if first.Blocks[i].Kind == KindNotice {
			d.block(&first.Blocks[i])
		}
	}
	d.y += 1.5
	for _, f := range r.Facts {
		v := lay(regular, 9, textWidth-30, f.Value)
		d.need(float64(len(v)) * 4.4)
		if d.y+4.4 <= bottom {
			d.say(marginX, d.y+3.2, 9, regular, "muted", f.Label)
		}
		d.lines(marginX+30, 4.4, "ink", v)
	}
	d.y += 3
	for i := range first.Blocks {
		if first.Blocks[i].Kind != KindNotice {
			d.block(&first.Blocks[i])
		}
	}
	d.subsections(first)
	for i := range r.Sections[1:] {
		s := &r.Sections[i+1]
		d.heading(1, s.Title)
		for j := range s.Blocks {
			d.block(&s.Blocks[j])
		}
		d.subsections(s)
	}
}

func (d *document) subsections(s *Section) {
	for i := range s.Sections {
		d.heading(2, s.Sections[i].Title)
		for j := range s.Sections[i].Blocks {
			d.block(&s.Sections[i].Blocks[j])
		}
	}
}

// panel writes a head and lines on a coloured ground. It grows over pages.
func (d *document) panel(t Tone, head, body []line, lead float64) {
	d.need(min(float64(len(head))*5+float64(len(body))*lead+2*panelPad, 60))
	strip := func(h float64) {
		if d.y+h > bottom {
			d.page()
		}
		d.fill(string(t)+"-soft", marginX, d.y, textWidth, h)
		d.fill(string(t), marginX, d.y, 2, h)
	}
	strip(panelPad)
	d.y += panelPad
	for _, l := range head {
		strip(5)
		d.put(marginX+6, d.y+3.6, string(t), l)
		d.y += 5
	}
	for _, l := range body {
		strip(lead)
		d.put(marginX+6, d.y+lead*0.74, "ink", l)
		d.y += lead
	}
	strip(panelPad - 0.6)
	d.y += panelPad - 0.6 + 2.5
}

func (d *document) block(b *Block) {
	switch b.Kind {
	case KindText:
		d.paragraph(b.Text)
	case KindNotice:
		var body []line
		for _, s := range b.Items {
			body = append(body, bullet(lay(regular, bodySize, textWidth-12, s), len(b.Items) > 1, textWidth-12, s)...)
		}
		d.panel(b.Tone, lay(bold, 10, textWidth-12, b.Text), body, bodyLead)
	case KindList:
		for _, s := range b.Items {
			all := bullet(nil, true, textWidth-14, s)
			d.need(min(float64(len(all)), 3) * bodyLead)
			d.lines(marginX, bodyLead, "ink", all)
			d.y += 0.9
		}
		d.y += 1.5
	case KindGroups:
		d.groups(b.Groups)
	case KindLegend:
		d.need(40)
		for _, s := range sources {
			text := lay(regular, 9, textWidth-28, s.Text)
			d.need(float64(len(text))*4.4 + 1.4)
			d.badge(marginX, d.y+3.2, s.Tone, s.Word)
			d.lines(marginX+28, 4.4, "ink", text)
			d.y += 1.4
		}
		d.y += 2
	case KindValues:
		d.values(b.Values)
	case KindTable:
		d.table(b.Table)
	case KindFigure:
		d.figure(b.Figure)
	case KindCode:
		d.code(b.Text)
	}
}

// bullet lays out an item of a list. With dot false it is plain text, already laid out.
func bullet(plain []line, dot bool, width float64, s string) []line {
	if !dot {
		return plain
	}
	all := lay(regular, bodySize, width-4, s)
	for i := range all {
		for j := range all[i] {
			all[i][j].at += 4
		}
	}
	if len(all) > 0 {
		all[0] = append(line{{face: regular, size: bodySize, text: "•", at: 0.6}}, all[0]...)
	}
	return all
}

// badge shows who vouches, in a frame, and returns its width.
func (d *document) badge(x, baseline float64, t Tone, word string) float64 {
	l := line{{face: bold, size: 7.2, text: bold.printable(word)}}
	w := l[0].width() + 3.4
	r, g, b := rgb(string(t))
	d.f.SetDrawColor(r, g, b)
	d.f.SetLineWidth(0.25)
	sr, sg, sb := rgb(string(t) + "-soft")
	d.f.SetFillColor(sr, sg, sb)
	switch t {
	case ToneClaimed:
		d.f.SetDashPattern([]float64{0.9, 0.6}, 0)
	case ToneUnknown:
		d.f.SetDashPattern([]float64{0.3, 0.6}, 0)
	case ToneBad:
		d.f.SetLineWidth(0.5)
	}
	d.f.RoundedRect(x, baseline-3.1, w, 4.3, 0.9, "1234", "FD")
	d.f.SetDashPattern(nil, 0)
	d.put(x+1.7, baseline, string(t), l)
	return w
}

// badges are what stands beside a value.
func badges(v *Value) (words []string, tones []Tone) {
	if v.tone() == ToneBad {
		words, tones = append(words, "Does not hold"), append(tones, ToneBad)
	}
	s := sourceOf(v.Source)
	return append(words, s.Word), append(tones, s.Tone)
}

func (d *document) values(all []Value) {
	const labelWidth, gap, by = 44.0, 4.0, 25.0
	width := textWidth - labelWidth - by - 2*gap
	d.rule("line", marginX, d.y, textWidth, 0.2)
	for i := range all {
		v := &all[i]
		label := lay(regular, 9, labelWidth, v.Label)
		value := lay(regular, bodySize, width, v.Value)
		var note []line
		if v.Note != "" {
			note = lay(regular, smallSize, width, v.Note)
		}
		h := max(float64(len(label))*4.4, float64(len(value))*bodyLead+float64(len(note))*smallLead) + 3
		d.need(h)
		d.y += 1.5
		words, tones := badges(v)
		for j, w := range words {
			width := bold.width(w)*7.2*point + 3.4
			d.badge(marginX+textWidth-width, d.y+3.4+float64(j)*5.2, tones[j], w)
		}
		top := d.y
		if h < bottom-marginTop {
			d.lines(marginX, 4.4, "muted", label)
			below := d.y
			d.y = top
			d.lines(marginX+labelWidth+gap, bodyLead, "ink", value)
			d.lines(marginX+labelWidth+gap, smallLead, "muted", note)
			d.y = max(d.y, below, top+float64(len(words))*5.2)
		} else { // one column after the other
			d.lines(marginX, 4.4, "muted", label)
			d.lines(marginX+labelWidth+gap, bodyLead, "ink", value)
			d.lines(marginX+labelWidth+gap, smallLead, "muted", note)
		}
		d.y += 1.5
		d.rule("line", marginX, d.y, textWidth, 0.2)
	}
	d.y += 3
}

// groups stand two beside each other; the one of what doesn't hold has a row of its own.
func (d *document) groups(all []Group) {
	const gap = 5.0
	type laid struct {
		g            *Group
		title, by    []line
		items        [][]line
		height, wide float64
	}
	layGroup := func(g *Group, width float64) laid {
		l := laid{g: g, wide: width, title: lay(bold, 10.5, width-8, g.Title), by: lay(regular, 8, width-8, g.By)}
		l.height = 3.5 + float64(len(l.title))*5 + float64(len(l.by))*3.8 + 1 + 3
		for _, s := range g.Items {
			item := bulletOf(regular, 8.8, width-8, s)
			l.items = append(l.items, item)
			l.height += float64(len(item))*4.2 + 0.7
		}
		return l
	}
	var rows [][]laid
	var row []laid
	for i := range all {
		if all[i].Tone == ToneBad {
			rows = append(rows, []laid{layGroup(&all[i], textWidth)})
			continue
		}
		if row = append(row, layGroup(&all[i], (textWidth-gap)/2)); len(row) == 2 {
			rows, row = append(rows, row), nil
		}
	}
	if row != nil {
		rows = append(rows, row)
	}
	for _, row := range rows {
		h := 0.0
		for _, l := range row {
			h = max(h, l.height)
		}
		if h > bottom-marginTop { // no panel is larger than a page
			for _, l := range row {
				d.lines(marginX, 5, string(l.g.Tone), l.title)
				d.lines(marginX, 3.8, "muted", l.by)
				for _, item := range l.items {
					d.lines(marginX, 4.2, "ink", item)
				}
				d.y += 3
			}
			continue
		}
		d.need(h)
		top := d.y
		for i, l := range row {
			x := marginX + float64(i)*(l.wide+gap)
			ground := "panel"
			if l.g.Tone == ToneBad {
				ground = "bad-soft"
			}
			d.fill(ground, x, top, l.wide, h)
			d.fill(string(l.g.Tone), x, top, l.wide, 1)
			d.y = top + 3.5
			d.lines(x+4, 5, string(l.g.Tone), l.title)
			d.lines(x+4, 3.8, "muted", l.by)
			d.y++
			for _, item := range l.items {
				d.lines(x+4, 4.2, "ink", item)
				d.y += 0.7
			}
		}
		d.y = top + h + gap - 1
	}
}

func bulletOf(face *face, size, width float64, s string) []line {
	all := lay(face, size, width-3.5, s)
	for i := range all {
		for j := range all[i] {
			all[i][j].at += 3.5
		}
	}
	all[0] = append(line{{face: face, size: size, text: "•", at: 0.4}}, all[0]...)
	return all
}

func (d *document) table(t *Table) {
	const size, lead, gap = 8.4, 4.1, 3.0
	cols := len(t.Header)
	// A column is as wide as its widest cell, up to a limit; if they don't fit, the wide ones give way.
	want := make([]float64, cols)
	for i, h := range t.Header {
		want[i] = bold.width(bold.printable(h))*size*point + 0.5
		for r, row := range t.Rows {
			if r == 200 {
				break // enough to judge by
			}
			w := 0.0
			for _, l := range lay(regular, size, 1e6, row[i]) {
				if len(l) > 0 {
					last := &l[len(l)-1]
					w = max(w, last.at+last.width()+0.5)
				}
			}
			want[i] = max(want[i], w)
		}
	}
	widths := share(want, textWidth-gap*float64(cols-1)-2)
	x := make([]float64, cols)
	for i := 1; i < cols; i++ {
		x[i] = x[i-1] + widths[i-1] + gap
	}
	cells := func(face *face, row []string) (all [][]line, n int) {
		for i, c := range row {
			l := lay(face, size, widths[i], c)
			all, n = append(all, l), max(n, len(l))
		}
		return all, n
	}
	draw := func(all [][]line, role string, k int) {
		for i, c := range all {
			if k >= len(c) || len(c[k]) == 0 {
				continue
			}
			at := marginX + 2 + x[i]
			if t.IsNumeric(i) {
				last := &c[k][len(c[k])-1]
				at += widths[i] - last.at - last.width()
			}
			d.put(at, d.y+lead*0.74, role, c[k])
		}
		d.y += lead
	}
	head, n := cells(bold, t.Header)
	header := func() {
		for k := range n {
			draw(head, "muted", k)
		}
		d.y += 0.8
		d.rule("muted", marginX, d.y, textWidth, 0.3)
		d.y += 1
	}
	d.need(30)
	d.lines(marginX, bodyLead+0.6, "ink", lay(bold, bodySize, textWidth, t.Caption))
	header()
	for r, row := range t.Rows {
		all, lines := cells(regular, row)
		if h := float64(lines)*lead + 2; d.y+h > bottom && h < bottom-marginTop-20 {
			d.page()
			header()
		}
		for k := range lines {
			if d.y+lead > bottom {
				d.page()
				header()
			}
			if t.Tone(r) == ToneBad {
				d.fill("bad", marginX, d.y, 0.9, lead)
			}
			draw(all, "ink", k)
		}
		d.y += 0.7
		d.rule("line", marginX, d.y, textWidth, 0.2)
		d.y += 1
	}
	d.y += 3
}

// share divides a width among columns that want some: those that want less than an equal part of what is left get it.
func share(want []float64, total float64) []float64 {
	widths := make([]float64, len(want))
	order := make([]int, len(want))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case want[a] < want[b]:
			return -1
		case want[a] > want[b]:
			return 1
		}
		return 0
	})
	left := total
	for n, i := range order {
		widths[i] = min(want[i], left/float64(len(order)-n))
		left -= widths[i]
	}
	return widths
}

func (d *document) code(s string) {
	size := 7.8
	var all []line
	for _, l := range strings.Split(s, "\n") {
		p := run{face: mono, size: size, text: mono.printable(l)}
		for {
			n := p.fit(textWidth - 8)
			part := p
			part.text = p.text[:n]
			all = append(all, line{part})
			if p.text = p.text[n:]; p.text == "" {
				break
			}
		}
	}
	d.need(min(float64(len(all)), 6)*3.9 + 4)
	strip := func(h float64) {
		if d.y+h > bottom {
			d.page()
		}
		d.fill("panel", marginX, d.y, textWidth, h)
	}
	strip(2)
	d.y += 2
	for _, l := range all {
		strip(3.9)
		d.put(marginX+4, d.y+2.9, "ink", l)
		d.y += 3.9
	}
	strip(2)
	d.y += 4.5
}

func (d *document) figure(fig *Figure) {
	g := fig.draw(wide)
	scale := textWidth / wide
	d.need(min(g.h*scale+8, bottom-marginTop-1))
	d.lines(marginX, bodyLead+1.4, "ink", lay(bold, bodySize, textWidth, fig.Title))
	x0, y0 := marginX, d.y
	for i := range g.shapes {
		s := &g.shapes[i]
		if s.text != "" {
			face := regular
			if s.bold {
				face = bold
			}
			size := s.size * scale / point
			text := face.printable(s.text)
			x := x0 + s.x*scale
			switch w := face.width(text) * size * point; s.anchor {
			case "middle":
				x -= w / 2
			case "end":
				x -= w
			}
			d.put(x, y0+s.y*scale, s.fill, line{{face: face, size: size, text: text}})
			continue
		}
		how := ""
		if s.fill != "" {
			r, gr, b := rgb(s.fill)
			d.f.SetFillColor(r, gr, b)
			how += "F"
		}
		if s.stroke != "" {
			r, gr, b := rgb(s.stroke)
			d.f.SetDrawColor(r, gr, b)
			d.f.SetLineWidth(s.width * scale)
			how += "D"
		}
		if s.dashed {
			d.f.SetDashPattern([]float64{4 * scale, 3 * scale}, 0)
		}
		switch {
		case s.points != nil && s.closed:
			var p []fpdf.PointType
			for _, at := range s.points {
				p = append(p, fpdf.PointType{X: x0 + at[0]*scale, Y: y0 + at[1]*scale})
			}
			d.f.Polygon(p, how)
		case s.points != nil:
			for j := 1; j < len(s.points); j++ {
				a, b := s.points[j-1], s.points[j]
				d.f.Line(x0+a[0]*scale, y0+a[1]*scale, x0+b[0]*scale, y0+b[1]*scale)
			}
		case s.r > 0:
			r := min(s.r, s.w/2, s.h/2)
			d.f.RoundedRect(x0+s.x*scale, y0+s.y*scale, s.w*scale, s.h*scale, r*scale, "1234", how)
		default:
			d.f.Rect(x0+s.x*scale, y0+s.y*scale, s.w*scale, s.h*scale, how)
		}
		if s.dashed {
			d.f.SetDashPattern(nil, 0)
		}
	}
	d.y = y0 + g.h*scale + 5
}

// footers numbers the pages, once it is known how many there are.
func (d *document) footers(r *Report) {
	n := d.f.PageCount()
	left := lay(regular, 7.6, textWidth-24, r.Title+", "+r.Subject+". Made "+moment(r.Date)+".")
	if len(left) > 1 {
		left = left[:1]
	}
	for i := 1; i <= n; i++ {
		d.f.SetPage(i)
		d.rule("line", marginX, pageHeight-14, textWidth, 0.2)
		for _, l := range left {
			d.put(marginX, pageHeight-10, "muted", l)
		}
		page := fmt.Sprintf("Page %d of %d", i, n)
		d.say(marginX+textWidth-regular.width(page)*7.6*point, pageHeight-10, 7.6, regular, "muted", page)
	}
}
