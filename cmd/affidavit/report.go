package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/affidavit-log/affidavit/verifier"
)

// reportWidth is where text for people is wrapped: what a page in a small font
// or a terminal of common size shows.
const reportWidth = 100

// labelWidth is the width of the longest label that stands beside its value;
// longer ones stand above.
const labelWidth = 28

// sources lists who can vouch for a claim, the strongest first, in the words
// that a reader needs who has never heard of attestation.
var sources = []struct {
	source verifier.Source
	title  string
}{
	{verifier.SourceHardware, "Proven by hardware: in a report that the processor's maker vouches for"},
	{verifier.SourceVerifier, "Checked by this command: computed from the evidence in front of it"},
	{verifier.SourceMeasuredCode, "Reported by known code: inside the hardware's protection, identified by what you trust"},
	{verifier.SourceLog, "Stated by the log's operator"},
	{verifier.SourceVendor, "Claimed by the vendor: nothing here proves it"},
	{verifier.SourceUnknown, "Unknown: nobody vouches for it"},
}

// marks say at the left margin what became of a claim.
var marks = map[verifier.ClaimStatus]string{
	verifier.StatusHolds:    "ok",
	verifier.StatusAsserted: "said",
	verifier.StatusUnknown:  "?",
	verifier.StatusFailed:   "NO",
}

// printClaims prints claims, grouped by who vouches for them. Within a group
// they keep their order, which is that of their importance.
func printClaims(w io.Writer, claims []verifier.Claim) {
	width := 0
	for _, c := range claims {
		if n := len([]rune(clean(c.Label))); n <= labelWidth {
			width = max(width, n)
		}
	}
	for _, s := range sources {
		first := true
		for _, c := range claims {
			if c.Source != s.source {
				continue
			}
			if first {
				fmt.Fprintf(w, "\n%s\n", s.title)
				first = false
			}
			text := clean(c.Value)
			if c.Note != "" {
				if text != "" {
					text += "\n"
				}
				text += "(" + clean(c.Note) + ")"
			}
			lead, label := fmt.Sprintf("  %-4s  ", marks[c.Status]), clean(c.Label)
			if len([]rune(label)) > width {
				fmt.Fprintln(w, lead+label)
				lead, label = strings.Repeat(" ", len(lead)), ""
			}
			hang(w, fmt.Sprintf("%s%-*s  ", lead, width, label), text)
		}
	}
}

// hang prints text after lead, wrapped, with later lines under the first.
func hang(w io.Writer, lead, text string) {
	indent := len([]rune(lead))
	for i, line := range wrap(text, reportWidth-indent) {
		if i > 0 {
			lead = strings.Repeat(" ", indent)
		}
		fmt.Fprintln(w, strings.TrimRight(lead+line, " "))
	}
}

// wrap breaks text at spaces into lines of at most width characters. Words that
// are longer, such as digests, stay whole, so that they can be copied.
func wrap(text string, width int) []string {
	var lines []string
	for _, paragraph := range strings.Split(text, "\n") {
		line, n := "", 0
		for _, word := range strings.Fields(paragraph) {
			l := len([]rune(word))
			if n > 0 && n+1+l > width {
				lines = append(lines, line)
				line, n = "", 0
			}
			if n > 0 {
				line, n = line+" ", n+1
			}
			line, n = line+word, n+l
		}
		lines = append(lines, line)
	}
	return lines
}

// A verdict line is coloured only where a person sees it.
const (
	green  = "\x1b[1;32m"
	yellow = "\x1b[1;33m"
	red    = "\x1b[1;31m"
	plain  = "\x1b[0m"
)

// headline prints the verdict on one line, in the colour of its status.
func (c *console) headline(status int, text string) {
	if c.colour {
		colour := map[int]string{exitGood: green, exitRefused: yellow}[status]
		if colour == "" {
			colour = red
		}
		text = colour + text + plain
	}
	fmt.Fprintln(c.stdout, text)
}

// printRefusals prints why an appraisal policy refuses.
func printRefusals(w io.Writer, refusals []verifier.Refusal) {
	for _, r := range refusals {
		hang(w, "  - ", clean(r.Message))
		hang(w, "    ", fmt.Sprintf("(%s: got %s, want %s)", clean(r.Field), clean(r.Got), clean(r.Want)))
	}
}
