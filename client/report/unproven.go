package report

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/verifier"
)

// Unproven returns the report on a file that proves nothing. Nothing that the file says about itself is in it.
func Unproven(e *bundle.NotProven, m Meta) *Report {
	words := ruleWords[string(e.Rule)]
	if words == "" {
		words = "A rule is broken: " + clean(string(e.Rule)) + "."
	}
	first, _, _ := strings.Cut(words, ". ")
	r := &Report{
		Title: "Attestation report", Subject: "A file that proves nothing", Date: m.Date.UTC(), Outcome: NotProven,
		Verdict: "Nothing in this file is proven: " + lowerFirst(strings.TrimSuffix(first, ".")) + ".",
	}
	if len(m.Files) == 1 {
		r.Subject = "The file " + clean(m.Files[0].Name)
	}
	r.Facts = []Fact{{"Broken rule", clean(string(e.Rule))}, {"Report made", moment(m.Date)}}
	if e.Index != nil {
		r.Facts = append([]Fact{{"Log entry", grouped(*e.Index)}}, r.Facts...)
	}
	s := Section{ID: "summary", Title: "Summary"}
	// The verdict has the first sentence.
	_, more, _ := strings.Cut(words, ". ")
	detail := sentence(causeOf(e))
	if n := new(verifier.NotGenuine); errors.As(e, &n) {
		detail = fmt.Sprintf("%s (reason: %s)", detail, clean(n.Reason))
	}
	s.Blocks = []Block{
		notice(ToneBad, "Why nothing is proven", slices.DeleteFunc([]string{more, "In detail: " + detail}, func(s string) bool { return s == "" })...),
		notice(ToneUnknown, "What to do", "Rely on nothing in this file. Ask whoever gave it to you for another copy, or fetch it from the log with “affidavit bundle”."),
		{Kind: KindGroups, Groups: []Group{
			{Title: "Proven", By: "by evidence that was checked for this report", Tone: ToneGood, Items: []string{"Nothing."}},
			{Title: "Only claimed", By: "by whoever made the file", Tone: ToneClaimed, Items: []string{"Everything in the file. It is left out of this report."}},
			{Title: "Unknown", By: "nobody vouches for it", Tone: ToneUnknown, Items: []string{
				"Who made the file, and why it proves nothing: damage on the way looks the same as forgery.",
				"Whether there is a good record of the same session.",
			}},
		}},
	}
	annex := Section{ID: "annex", Title: "Annex", Sections: []Section{m.repeat(), m.trusted(), wordList()}}
	r.Sections = []Section{s, m.basis(), annex}
	return r
}

// causeOf says in a sentence what is wrong, without the words of the rule.
func causeOf(e *bundle.NotProven) string {
	err := e.Err
	if n := new(verifier.NotGenuine); errors.As(err, &n) {
		err = n.Err
	}
	if err == nil {
		return "unknown"
	}
	return clean(strings.TrimSpace(err.Error()))
}
