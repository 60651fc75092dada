package report

import (
	"fmt"
	"html"
	"math"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/verifier"
)

// A drawing is a picture of rectangles, lines and text, in units of a screen's pixel, that both printers print.
type drawing struct {
	w, h   float64
	shapes []shape
}

// A shape is one of a rectangle (W and H set), a polygon or line (Points), and a text.
type shape struct {
	x, y, w, h, r float64
	points        [][2]float64
	closed        bool
	fill, stroke  string // roles, empty for none
	width         float64
	dashed        bool

	text   string
	size   float64
	bold   bool
	anchor string // start, middle or end
}

func (d *drawing) rect(x, y, w, h, r float64, fill, stroke string) *shape {
	return d.add(shape{x: x, y: y, w: w, h: h, r: r, fill: fill, stroke: stroke, width: 1})
}

func (d *drawing) line(stroke string, width float64, points ...[2]float64) *shape {
	return d.add(shape{points: points, stroke: stroke, width: width})
}

func (d *drawing) polygon(fill string, points ...[2]float64) *shape {
	return d.add(shape{points: points, closed: true, fill: fill})
}

func (d *drawing) text(x, y, size float64, role, anchor, s string) *shape {
	return d.add(shape{x: x, y: y, size: size, fill: role, anchor: anchor, text: s})
}

func (d *drawing) add(s shape) *shape {
	d.shapes = append(d.shapes, s)
	return &d.shapes[len(d.shapes)-1]
}

// Widths of drawings: on a page, and on a telephone.
const (
	wide   = 720.0
	narrow = 340.0
)

// draw draws a figure.
func (f *Figure) draw(width float64) *drawing {
	switch {
	case f.Timeline != nil:
		return f.Timeline.draw(width)
	case f.Chain != nil:
		return f.Chain.draw(width)
	case f.Bars != nil:
		return f.Bars.draw(width)
	}
	return &drawing{w: width, h: 1}
}

// svg prints the drawing as an element for HTML.
func (d *drawing) svg(class, id, title, desc string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="%s" role="img" aria-labelledby="%s-t %[2]s-d" viewBox="0 0 %s %s" xmlns="http://www.w3.org/2000/svg"><title id="%[2]s-t">%[5]s</title><desc id="%[2]s-d">%[6]s</desc>`,
		class, id, num(d.w), num(d.h), html.EscapeString(title), html.EscapeString(desc))
	for _, s := range d.shapes {
		switch {
		case s.text != "":
			class := "t-" + s.fill
			if s.bold {
				class += " b"
			}
			fmt.Fprintf(&b, `<text class="%s" x="%s" y="%s" font-size="%s" text-anchor="%s">%s</text>`, class, num(s.x), num(s.y), num(s.size), s.anchor, html.EscapeString(s.text))
		case s.points != nil:
			tag := "polyline"
			if s.closed {
				tag = "polygon"
			}
			var p []string
			for _, at := range s.points {
				p = append(p, num(at[0])+","+num(at[1]))
			}
			fmt.Fprintf(&b, `<%s class="%s" points="%s"/>`, tag, s.classes(), strings.Join(p, " "))
		default:
			fmt.Fprintf(&b, `<rect class="%s" x="%s" y="%s" width="%s" height="%s" rx="%s"/>`, s.classes(), num(s.x), num(s.y), num(s.w), num(s.h), num(s.r))
		}
	}
	b.WriteString("</svg>")
	return b.String()
}

func (s *shape) classes() string {
	c := []string{"f-none"}
	if s.fill != "" {
		c[0] = "f-" + s.fill
	}
	if s.stroke != "" {
		c = append(c, "s-"+s.stroke)
		if s.width >= 2 {
			c = append(c, "thick")
		}
	}
	if s.dashed {
		c = append(c, "dashed")
	}
	return strings.Join(c, " ")
}

// num prints a coordinate.
func num(f float64) string {
	s := fmt.Sprintf("%.1f", f)
	return strings.TrimSuffix(s, ".0")
}

// margin is how much wider a browser's font may be than ours.
const margin = 1.14

// fits shortens text to a width.
func fits(f *face, s string, size, width float64) string {
	width /= margin * size
	if f.width(s) <= width {
		return s
	}
	r := []rune(s)
	for len(r) > 1 && f.width(string(r)+"…") > width {
		r = r[:len(r)-1]
	}
	return strings.TrimSpace(string(r)) + "…"
}

// steps are the distances that ticks of a time axis can have.
var steps = []time.Duration{
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
	2 * 24 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour, 30 * 24 * time.Hour, 90 * 24 * time.Hour, 365 * 24 * time.Hour,
}

func (t *Timeline) draw(width float64) *drawing {
	d := &drawing{w: width}
	small := width < wide
	left, right := 232.0, width-14
	rowHeight, barAt := 40.0, 8.0
	if small {
		left, rowHeight, barAt = 8, 56, 30
	}
	// The axis covers all bounds, and some more.
	var from, to time.Time
	for _, r := range t.Rows {
		for _, at := range []*time.Time{r.From, r.To} {
			if at == nil {
				continue
			}
			if from.IsZero() || at.Before(from) {
				from = *at
			}
			if to.IsZero() || at.After(to) {
				to = *at
			}
		}
	}
	pad := max(to.Sub(from)/20, time.Second)
	from, to = from.Add(-pad), to.Add(pad)
	x := func(at time.Time) float64 {
		return left + (right-left)*at.Sub(from).Seconds()/to.Sub(from).Seconds()
	}
	ticks := 6.0
	if small {
		ticks = 4
	}
	step := steps[len(steps)-1]
	for _, s := range steps {
		if to.Sub(from).Seconds()/s.Seconds() <= ticks {
			step = s
			break
		}
	}
	top := 26.0
	bottom := top + rowHeight*float64(len(t.Rows))
	layout := "15:04:05"
	switch {
	case step >= 24*time.Hour:
		layout = time.DateOnly
	case step >= time.Minute:
		layout = "15:04"
	}
	for at := from.Truncate(step).Add(step); at.Before(to); at = at.Add(step) {
		d.line("line", 1, [2]float64{x(at), top}, [2]float64{x(at), bottom})
		// A label stays within the picture.
		px := min(max(x(at), left+22), right-22)
		d.text(px, top-8, 11, "muted", "middle", at.UTC().Format(layout))
	}
	// What is proven of the record itself is drawn through, for comparison.
	for i := range t.Rows {
		if i+1 < len(t.Rows) && t.Rows[i+1].By == verifier.SourceVerifier || t.Rows[i].By != verifier.SourceVerifier {
			continue
		}
		for _, at := range []*time.Time{t.Rows[i].From, t.Rows[i].To} {
			if at != nil {
				d.line("good", 1, [2]float64{x(*at), top}, [2]float64{x(*at), bottom}).dashed = true
			}
		}
		break
	}
	for i, r := range t.Rows {
		y := top + rowHeight*float64(i)
		role := string(sourceOf(r.By).Tone)
		if small {
			label, when := fits(bold, r.Label, 12.5, right-left), fits(regular, r.Text, 11, right-left)
			w := max(bold.width(label)*12.5, regular.width(when)*11) * margin
			d.rect(left-2, y+3, min(w, right-left)+4, 28, 0, "paper", "") // lines don't cross it
			d.text(left, y+14, 12.5, "ink", "start", label).bold = true
			d.text(left, y+27, 11, "muted", "start", when)
		} else {
			d.text(0, y+17, 12.5, "ink", "start", fits(bold, r.Label, 12.5, left-12)).bold = true
			d.text(0, y+32, 11, "muted", "start", fits(regular, strings.TrimSuffix(strings.TrimPrefix(r.Text, day(from)+", "), " UTC"), 11, left-12))
		}
		a, b := left, right
		if r.From != nil {
			a = x(*r.From)
		}
		if r.To != nil {
			b = x(*r.To)
		}
		mid, h := y+barAt+11, 16.0
		if small {
			mid = y + 42
		}
		switch {
		case r.From != nil && r.To != nil && r.From.Equal(*r.To):
			d.polygon(role, [2]float64{a, mid - 8}, [2]float64{a + 7, mid}, [2]float64{a, mid + 8}, [2]float64{a - 7, mid})
		case r.By == verifier.SourceVerifier:
			d.rect(a, mid-h/2, max(b-a, 3), h, 2, role, "")
			// An open end points to where it goes on.
			if r.From == nil {
				d.polygon("paper", [2]float64{a, mid - 8}, [2]float64{a + 8, mid - 8}, [2]float64{a, mid}, [2]float64{a + 8, mid + 8}, [2]float64{a, mid + 8})
			}
			if r.To == nil {
				d.polygon("paper", [2]float64{b, mid - 8}, [2]float64{b - 8, mid - 8}, [2]float64{b, mid}, [2]float64{b - 8, mid + 8}, [2]float64{b, mid + 8})
			}
		default:
			s := d.rect(a, mid-h/2, max(b-a, 3), h, 2, role+"-soft", role)
			s.dashed = true
		}
	}
	d.line("line", 1, [2]float64{left, top}, [2]float64{right, top})
	d.line("line", 1, [2]float64{left, bottom}, [2]float64{right, bottom})
	key := "Solid: proven by witnesses. Dashed or diamond: what a clock said. Times in UTC, " + day(from) + "."
	if day(from) != day(to) {
		key = "Solid: proven by witnesses. Dashed or diamond: what a clock said. Times in UTC."
	}
	y := bottom + 18
	for _, l := range regular.wrap(key, width/11/margin) {
		d.text(0, y, 11, "muted", "start", l)
		y += 15
	}
	d.h = y - 6
	return d
}

// mark draws what a tone means, in a circle.
func (d *drawing) mark(x, y float64, t Tone) {
	role := string(t)
	d.rect(x-7, y-7, 14, 14, 7, role, "")
	switch t {
	case ToneGood:
		d.line("paper", 2, [2]float64{x - 3.2, y + 0.2}, [2]float64{x - 0.8, y + 2.8}, [2]float64{x + 3.4, y - 2.6})
	case ToneBad:
		d.line("paper", 2, [2]float64{x - 2.8, y - 2.8}, [2]float64{x + 2.8, y + 2.8})
		d.line("paper", 2, [2]float64{x - 2.8, y + 2.8}, [2]float64{x + 2.8, y - 2.8})
	default:
		d.text(x, y+3.8, 10.5, "paper", "middle", map[Tone]string{ToneUnknown: "?", ToneClaimed: "!", ToneKnown: "i"}[t]).bold = true
	}
}

// box draws a link, and returns its height. If it isn't shown, it is only measured.
func (d *drawing) box(l ChainLink, x, y, w, h float64, show bool) float64 {
	const pad, size, lead = 10.0, 11.5, 15.0
	title := bold.wrap(l.Title, (w-2*pad-20)/12.5/margin)
	body := regular.wrap(l.Text, (w-2*pad)/size/margin)
	if len(body) > 4 {
		body = append(body[:3], fits(regular, body[3]+" …", size, w-2*pad))
	}
	need := pad + 16*float64(len(title)) + lead*float64(len(body)) + pad - 3
	if !show {
		return need
	}
	h = max(h, need)
	d.rect(x, y, w, h, 5, string(l.Tone)+"-soft", string(l.Tone))
	ty := y + pad + 11
	for _, s := range title {
		d.text(x+pad, ty, 12.5, "ink", "start", s).bold = true
		ty += 16
	}
	for _, s := range body {
		d.text(x+pad, ty, size, "ink", "start", s)
		ty += lead
	}
	d.mark(x+w-pad-5, y+pad+6, l.Tone)
	return h
}

func (d *drawing) arrow(x, from, to float64) {
	d.line("muted", 2, [2]float64{x, from}, [2]float64{x, to - 5})
	d.polygon("muted", [2]float64{x - 4.5, to - 6}, [2]float64{x + 4.5, to - 6}, [2]float64{x, to})
}

func (c *Chain) draw(width float64) *drawing {
	d := &drawing{w: width}
	const gap = 22.0
	y := 0.0
	if width < wide {
		for _, col := range c.Columns {
			d.text(1, y+16, 13, "ink", "start", col.Title).bold = true
			y += 26
			for i, l := range col.Links {
				if i > 0 {
					d.arrow(width/2, y, y+gap)
					y += gap
				}
				y += d.box(l, 1, y, width-2, 0, true)
			}
			d.arrow(width/2, y, y+gap)
			y += gap + 6
		}
		d.text(1, y+12, 12.5, "muted", "start", "Together:")
		y += 22
		y += d.box(c.End, 1, y, width-2, 0, true)
		d.h = y + 2
		return d
	}
	n := float64(len(c.Columns))
	w := (width - 2 - (n-1)*18) / n
	rows := 0
	for _, col := range c.Columns {
		rows = max(rows, len(col.Links))
	}
	heights := make([]float64, rows)
	for _, col := range c.Columns {
		for i, l := range col.Links {
			heights[i] = max(heights[i], d.box(l, 0, 0, w, 0, false))
		}
	}
	bottom := 26.0
	for _, h := range heights {
		bottom += h + gap
	}
	for i, col := range c.Columns {
		x, y := 1+float64(i)*(w+18), 26.0
		d.text(x, 16, 13, "ink", "start", col.Title).bold = true
		for j, l := range col.Links {
			d.box(l, x, y, w, heights[j], true)
			y += heights[j]
			to := y + gap
			if j == len(col.Links)-1 {
				to = bottom
			}
			d.arrow(x+w/2, y, to)
			y += gap
		}
	}
	h := d.box(c.End, 1, bottom, width-2, 0, true)
	d.h = bottom + h + 2
	return d
}

// nice returns a round number that is at least n, and the distance of ticks up to it.
func nice(n float64) (top, step float64) {
	if n <= 4 {
		return max(n, 1), 1
	}
	step = math.Pow(10, math.Floor(math.Log10(n/4)))
	for _, f := range []float64{1, 2, 5, 10} {
		if n/(step*f) <= 5 {
			step *= f
			break
		}
	}
	return math.Ceil(n/step) * step, step
}

// legend draws the names of series, if there is more than one, and returns the height that they take.
func (b *Bars) legend(d *drawing, width float64) float64 {
	if len(b.Series) < 2 {
		return 0
	}
	x, y := 0.0, 12.0
	for _, s := range b.Series {
		name := fits(regular, s.Name, 11.5, width-30)
		w := 22 + regular.width(name)*11.5*margin + 14
		if x > 0 && x+w > width {
			x, y = 0, y+20
		}
		d.rect(x, y-10, 12, 12, 2, string(s.Tone), "")
		d.text(x+18, y, 11.5, "ink", "start", name)
		x += w
	}
	return y + 14
}

func (b *Bars) draw(width float64) *drawing {
	d := &drawing{w: width}
	totals := make([]float64, len(b.Labels))
	for _, s := range b.Series {
		for i, v := range s.Values {
			totals[i] += float64(v)
		}
	}
	highest := 0.0
	for _, t := range totals {
		highest = max(highest, t)
	}
	if b.Horizontal {
		y := b.legend(d, width)
		left := 0.0
		for _, l := range b.Labels {
			left = max(left, regular.width(l)*12*margin)
		}
		left = min(left, width*0.42) + 10
		number := regular.width(grouped(uint64(highest)))*11.5*margin + 10
		for i, l := range b.Labels {
			d.text(0, y+15, 12, "ink", "start", fits(regular, l, 12, left-8))
			x := left
			for _, s := range b.Series {
				if w := (width - left - number) * float64(s.Values[i]) / max(highest, 1); w > 0 {
					d.rect(x, y+3, max(w, 1.5), 17, 2, string(s.Tone), "")
					x += max(w, 1.5)
				}
			}
			d.text(x+6, y+16, 11.5, "muted", "start", grouped(uint64(totals[i])))
			y += 26
		}
		d.h = y + 2
		return d
	}
	top := b.legend(d, width) + 8
	limit, step := nice(highest)
	left := regular.width(grouped(uint64(limit)))*11*margin + 10
	height := 150.0
	bottom := top + height
	for v := 0.0; v <= limit; v += step {
		y := bottom - height*v/limit
		d.line("line", 1, [2]float64{left, y}, [2]float64{width, y})
		d.text(left-6, y+4, 11, "muted", "end", grouped(uint64(v)))
	}
	slot := (width - left) / float64(max(len(b.Labels), 1))
	gap := max(min(slot*0.2, 6), slot-48) // few bars are no wider for that
	labelWidth := 0.0
	for _, l := range b.Labels {
		labelWidth = max(labelWidth, regular.width(l)*11*margin+10)
	}
	every := max(int(math.Ceil(labelWidth/slot)), 1)
	for i, l := range b.Labels {
		x, y := left+slot*float64(i)+gap/2, bottom
		for _, s := range b.Series {
			if h := height * float64(s.Values[i]) / limit; h > 0 {
				h = max(h, 1.5) // what is there is seen
				d.rect(x, y-h, slot-gap, h, 0, string(s.Tone), "")
				y -= h
			}
		}
		if i%every == 0 {
			at := min(max(x+(slot-gap)/2, left+labelWidth/2-5), width-labelWidth/2+5)
			d.text(at, bottom+17, 11, "muted", "middle", l)
		}
	}
	d.line("muted", 1, [2]float64{left, bottom}, [2]float64{width, bottom})
	d.h = bottom + 24
	return d
}

// roles are the names of colours: of ink, paper and what is between; and for each tone one that is read on paper, and a
// soft one behind text.
var roles = []string{
	"ink", "muted", "line", "panel", "paper",
	"good", "good-soft", "known", "known-soft", "claimed", "claimed-soft", "unknown", "unknown-soft", "bad", "bad-soft",
}

// palette has the colours for light and dark.
var palette = map[string][2]string{
	"ink": {"#1a2230", "#e8ecf2"}, "muted": {"#545e6e", "#a5afbd"}, "line": {"#d3d9e2", "#353e4b"},
	"panel": {"#f4f6f9", "#1a2028"}, "paper": {"#ffffff", "#12161c"},
	"good": {"#0a6a4d", "#5fd0a6"}, "good-soft": {"#e4f3ec", "#14322a"},
	"known": {"#1c5a9e", "#86b8f2"}, "known-soft": {"#e6eff9", "#172a40"},
	"claimed": {"#855300", "#e8b65e"}, "claimed-soft": {"#fbf1dd", "#362a12"},
	"unknown": {"#56606e", "#aeb8c5"}, "unknown-soft": {"#eceff3", "#262d37"},
	"bad": {"#ab211a", "#ff9f96"}, "bad-soft": {"#fbe9e7", "#44201d"},
}
