// Package report makes documents about records and sessions for people who know no cryptography, from what
// client/bundle finds in them.
//
// A document is a [Report], a value that says everything and looks like nothing. [Record], [Unproven] and [Period] make
// one, as pure functions of their arguments, and [Report.HTML] and [Report.PDF] print it: the same report always gives
// the same bytes. Neither knows a clock, a network or a file.
//
// Whatever a document shows names who vouches for it, in the words of verifier.Source, and its first section says what
// doesn't hold. Text of others, such as the name of a model that a vendor chose, is never more than text: characters
// that don't print or that change the direction of text are shown by their numbers, and long text is cut, visibly.
package report

import (
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A Report is the content of a document. Its fields hold text of others only in the form that package documentation
// promises. A Report is not modified by printing it.
type Report struct {
	Title    string    `json:"title"`    // such as "Attestation report"
	Subject  string    `json:"subject"`  // what it is about, such as "Coding session 1fba…"
	Date     time.Time `json:"date"`     // when the report was made; from Meta
	Outcome  Outcome   `json:"outcome"`  // the worst of what it is about
	Verdict  string    `json:"verdict"`  // one sentence
	Facts    []Fact    `json:"facts"`    // who and what, for the head of the document
	Sections []Section `json:"sections"` // the first one is the summary, with all that doesn't hold
}

// An Outcome is a verdict in a word, as "affidavit verify --json" has it.
type Outcome string

const (
	Good      Outcome = "good"       // logged, genuine, and allowed by the appraisal policy
	Refused   Outcome = "refused"    // logged and genuine, but refused by the appraisal policy
	NotProven Outcome = "not-proven" // not genuine, not logged, or damaged
	Unread    Outcome = "unread"     // the file couldn't be read
	Unjudged  Outcome = "unjudged"   // genuine, as a monitor says, which has no appraisal policy
)

// Word is the outcome for people.
func (o Outcome) Word() string {
	switch o {
	case Good:
		return "Good"
	case Refused:
		return "Refused"
	case NotProven:
		return "Not proven"
	case Unjudged:
		return "Not judged"
	}
	return "Not read"
}

// rank orders outcomes, the worst last, as the exit statuses of commands do.
func (o Outcome) rank() int {
	switch o {
	case Good:
		return 0
	case Refused:
		return 1
	case NotProven:
		return 3
	}
	return 2
}

// A Fact is a label and a value of the report's head.
type Fact struct {
	Label string `json:"label"`
	Value string `json:"value"`
}

// A Section is a part of a report with a heading.
type Section struct {
	ID       string    `json:"id"` // unique in the report
	Title    string    `json:"title"`
	Blocks   []Block   `json:"blocks,omitempty"`
	Sections []Section `json:"sections,omitempty"`
}

// A Kind says which fields of a [Block] are set.
type Kind string

const (
	KindText   Kind = "text"   // Text
	KindNotice Kind = "notice" // Text, Items and Tone: what a reader must not miss
	KindList   Kind = "list"   // Items
	KindGroups Kind = "groups" // Groups
	KindValues Kind = "values" // Values
	KindLegend Kind = "legend" // the sources, explained
	KindTable  Kind = "table"  // Table
	KindFigure Kind = "figure" // Figure
	KindCode   Kind = "code"   // Text: lines to copy
)

// A Block is a piece of a section.
type Block struct {
	Kind   Kind     `json:"kind"`
	Text   string   `json:"text,omitempty"`
	Tone   Tone     `json:"tone,omitempty"`
	Items  []string `json:"items,omitempty"`
	Groups []Group  `json:"groups,omitempty"`
	Values []Value  `json:"values,omitempty"`
	Table  *Table   `json:"table,omitempty"`
	Figure *Figure  `json:"figure,omitempty"`
}

// A Tone says how good what is shown is. Printers never show it by colour alone.
type Tone string

const (
	ToneGood    Tone = "good"    // proven
	ToneKnown   Tone = "known"   // reported by known code
	ToneClaimed Tone = "claimed" // only claimed
	ToneUnknown Tone = "unknown"
	ToneBad     Tone = "bad" // doesn't hold
)

// A Group is one of the answers on the first page: what is proven, and by whom; what is only claimed; and so on.
type Group struct {
	Title string   `json:"title"`
	By    string   `json:"by"` // who vouches
	Tone  Tone     `json:"tone"`
	Items []string `json:"items"`
}

// A Value is a claim with its source. The fields are those of verifier.Claim.
type Value struct {
	ID     string               `json:"id"`
	Label  string               `json:"label"`
	Value  string               `json:"value"`
	Source verifier.Source      `json:"source"`
	Status verifier.ClaimStatus `json:"status"`
	Note   string               `json:"note,omitempty"`
}

// A Table has a header, and rows of as many cells. The first cell of a row names it. Cells of columns in Numeric are
// numbers.
type Table struct {
	Caption string     `json:"caption"`
	Header  []string   `json:"header"`
	Numeric []bool     `json:"numeric,omitempty"`
	Rows    [][]string `json:"rows"`
	Tones   []Tone     `json:"tones,omitempty"` // of the rows; the text says the same
}

// A Figure is a picture, as data. Exactly one of the pointers is set.
type Figure struct {
	Title string `json:"title"`
	Alt   string `json:"alt"` // says in words what the picture shows

	Timeline *Timeline `json:"timeline,omitempty"`
	Chain    *Chain    `json:"chain,omitempty"`
	Bars     *Bars     `json:"bars,omitempty"`
}

// A Timeline compares times of different sources. Rows stand below each other.
type Timeline struct {
	Rows []TimelineRow `json:"rows"`
}

// A TimelineRow is a span of time. A bound that isn't known is nil.
type TimelineRow struct {
	Label string          `json:"label"`
	From  *time.Time      `json:"from"`
	To    *time.Time      `json:"to"`
	By    verifier.Source `json:"source"`
	Text  string          `json:"text"` // the bounds in words
}

// A Chain shows how trust gets from what the reader brings along to the record: each column from top to bottom, and all
// of them to the end.
type Chain struct {
	Columns []ChainColumn `json:"columns"`
	End     ChainLink     `json:"end"`
}

// A ChainColumn is one of the ways.
type ChainColumn struct {
	Title string      `json:"title"`
	Links []ChainLink `json:"links"`
}

// A ChainLink is a box of a chain, and whether it holds.
type ChainLink struct {
	Title string `json:"title"`
	Text  string `json:"text"`
	Tone  Tone   `json:"tone"`
}

// Bars is a chart of numbers, stacked where there are several series.
type Bars struct {
	Horizontal bool        `json:"horizontal,omitempty"` // one bar below the other, with labels of some length
	Labels     []string    `json:"labels"`
	Series     []BarSeries `json:"series"`
	Unit       string      `json:"unit"` // what is counted, such as "sessions"
}

// A BarSeries has a value for each label.
type BarSeries struct {
	Name   string   `json:"name"`
	Tone   Tone     `json:"tone"`
	Values []uint64 `json:"values"`
}

// Meta is what a report says beside what was found. It is needed to say what the result rests on, and how to get it
// again.
type Meta struct {
	Date time.Time // when the report is made; required
	Tool string    // what makes it, such as "affidavit v1.2.0"; optional

	LogPolicy *checkpoint.Policy // required, unless Monitor is set
	Appraisal *verifier.Policy   // likewise
	Root      *tdx.Root          // likewise

	// Monitor is the URL of the monitor on whose word a report on a period rests, which then says so. It is empty if the
	// records were checked where the report is made.
	Monitor string

	// Args are the command's arguments before the files that were checked, such as --log-policy and its file: what a
	// reader types to check again. Optional.
	Args []string

	// Files are those that the report is about, where there are any.
	Files []File
}

// A File is one that was checked.
type File struct {
	Name string
	Data []byte // may be nil; then it isn't attached to a PDF
	Size int64
	SHA  [32]byte // SHA-256
}

func text(format string) Block   { return Block{Kind: KindText, Text: format} }
func list(items ...string) Block { return Block{Kind: KindList, Items: items} }
func values(v ...Value) Block    { return Block{Kind: KindValues, Values: v} }
func code(s string) Block        { return Block{Kind: KindCode, Text: s} }
func table(t *Table) Block       { return Block{Kind: KindTable, Table: t} }
func figure(f *Figure) Block     { return Block{Kind: KindFigure, Figure: f} }
func notice(t Tone, s string, i ...string) Block {
	return Block{Kind: KindNotice, Tone: t, Text: s, Items: i}
}
