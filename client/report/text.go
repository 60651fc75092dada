package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// maxText is the length in characters of the longest text of others that is shown whole; the verifier's claims keep a
// lower limit. In the summary it is maxBrief, since what has no end hides what comes after.
const maxText, maxBrief = 1000, 320

// clean makes text of others fit to be shown on one line. What doesn't print, or changes the direction of text, or piles
// up on other characters until it covers what stands above, is shown by its number, so that nothing disappears and nothing
// moves or hides what stands beside it.
func clean(s string) string { return cleanTo(s, maxText) }

// maxMarks is how many marks one character can have. Vietnamese and Hebrew need two or three.
const maxMarks = 4

// cleanTo is clean with another limit, in characters that are shown.
func cleanTo(s string, limit int) string {
	if len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return unprintable(c) || unicode.Is(unicode.M, c) }) {
		return s
	}
	var b strings.Builder
	n, marks := 0, 0
	for i, c := range s {
		shown := string(c)
		if unicode.Is(unicode.M, c) {
			marks++
		} else {
			marks = 0
		}
		if c != utf8.RuneError && (unprintable(c) || marks > maxMarks) {
			shown = number(c)
		}
		if n += utf8.RuneCountInString(shown); n > limit {
			fmt.Fprintf(&b, "… [%d more bytes]", len(s)-i)
			break
		}
		b.WriteString(shown)
	}
	return b.String()
}

// number shows a character by its number, as the Unicode standard writes it.
func number(c rune) string { return fmt.Sprintf("[U+%04X]", c) }

// unprintable reports whether c is no letter, mark, number, punctuation, symbol or space. Format characters, among them
// all that change the direction of text, are none.
func unprintable(c rune) bool { return c != ' ' && !unicode.IsPrint(c) || c == utf8.RuneError }

// maxLine is how much is shown of a line of a policy. Only post-quantum keys are longer, of kilobytes that nobody reads.
const maxLine = 240

// lines is clean for text of several lines, such as a policy that the reader brought along.
func lines(s string) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	for i := range all {
		all[i] = cleanTo(strings.ReplaceAll(all[i], "\t", "    "), maxLine)
	}
	return strings.Join(all, "\n")
}

// short cuts a digest that stands in a sentence. The annex has all of it.
func short(digits string) string {
	if len(digits) > 12 {
		return digits[:8] + "…"
	}
	return digits
}

// shorten cuts long words of hexadecimal digits.
func shorten(s string) string {
	words := strings.Fields(s)
	for i, w := range words {
		trimmed := strings.TrimRight(w, ",.)")
		if len(trimmed) >= 32 && strings.Trim(trimmed, "0123456789abcdef") == "" {
			words[i] = short(trimmed) + w[len(trimmed):]
		}
	}
	return strings.Join(words, " ")
}

// moment prints a time to the second.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// span prints a length of time.
func span(d time.Duration) string {
	if d < 0 {
		return "−" + span(-d)
	}
	d = d.Round(time.Second)
	h, m, s := int(d/time.Hour), int(d/time.Minute)%60, int(d/time.Second)%60
	switch {
	case h >= 48:
		return fmt.Sprintf("%d days", (h+12)/24)
	case h > 0 && m > 0:
		return fmt.Sprintf("%d h %d min", h, m)
	case h > 0:
		return fmt.Sprintf("%d h", h)
	case m > 0 && s > 0:
		return fmt.Sprintf("%d min %d s", m, s)
	case m > 0:
		return fmt.Sprintf("%d min", m)
	}
	return fmt.Sprintf("%d s", s)
}

// count prints a number with its noun.
func count(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return grouped(n) + " " + many
}

// grouped prints a number with thin groups of three digits.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// sentence makes a refusal's message a sentence.
func sentence(s string) string {
	s = clean(strings.TrimSpace(s))
	if s == "" {
		return s
	}
	r, n := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(r)) + s[n:]
	if !strings.HasSuffix(s, ".") && !strings.HasSuffix(s, "…") {
		s += "."
	}
	return s
}

// and joins words as a sentence does.
func and(words []string) string {
	switch n := len(words); n {
	case 0:
		return ""
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
}

// glossary explains the words that the verifier's own values have, and that people ask about.
var glossary = [][]string{
	{"Trust domain, TD", "The protected machine: a virtual machine whose memory the processor encrypts, and which its host can’t look into."},
	{"TDX", "Intel’s technology for that. Processors with it can prove that a machine is protected."},
	{"Quote", "The hardware’s report: what the processor signed about a trust domain, once it was asked."},
	{"Measurement (MRTD, RTMR)", "A fingerprint of software, which the hardware takes as it starts the software."},
	{"TCB status", "How far a machine’s firmware was up to date, as the processor’s maker publishes it."},
	{"PPID, FMSPC", "The identity of a processor, and of its kind."},
	{"Statement", "What is signed: the text of the record itself."},
	{"Log, entry, leaf", "A public list to which entries are only ever added. A leaf is an entry in it."},
	{"Checkpoint, witness", "The signed state of a log, and who signs it independently, with a time, so that the log can’t show two people two lists."},
	{"Log policy", "Your file that says whose signatures make an entry logged."},
	{"Appraisal policy", "Your file that says which records are good enough for you."},
}

// words explains the words that a report can't do without.
func wordList() Section {
	return Section{ID: "words", Title: "Words", Blocks: []Block{table(&Table{Caption: "What the words mean", Header: []string{"Word", "Meaning"}, Rows: glossary})}}
}

// A sourceText explains one of the verifier's sources to people.
type sourceText struct {
	Source verifier.Source
	Word   string // beside each value
	Text   string // once
	Tone   Tone
}

// sources are the sources that claims can have, the strongest first.
var sources = []sourceText{
	{verifier.SourceHardware, "Hardware", "The processor itself signed this, and its maker’s certificates show that it is a genuine one.", ToneGood},
	{verifier.SourceVerifier, "Checked", "Computed from the evidence while this report was made. Whoever repeats the check gets the same.", ToneGood},
	{verifier.SourceMeasuredCode, "Known code", "Said by the software that ran inside the protected machine. Which software that was is proven, and your appraisal policy trusts it. The statement is as good as that software.", ToneKnown},
	{verifier.SourceLog, "Log", "Said by the operator of the log. Nothing else shows it.", ToneClaimed},
	{verifier.SourceVendor, "Vendor", "Said by the vendor, or by software that nobody whom you trust has identified. Nothing here proves it.", ToneClaimed},
	{verifier.SourceUnknown, "Unknown", "Nobody vouches for this.", ToneUnknown},
}

func sourceOf(s verifier.Source) sourceText {
	for _, t := range sources {
		if t.Source == s {
			return t
		}
	}
	// A source that this package doesn't know must not look better than none.
	return sourceText{s, clean(string(s)), "", ToneUnknown}
}

// tone is how good a value is.
func (v *Value) tone() Tone {
	switch {
	case v.Status == verifier.StatusFailed:
		return ToneBad
	case v.Status == verifier.StatusUnknown:
		return ToneUnknown
	}
	return sourceOf(v.Source).Tone
}

// tcbWords say what Intel's words for the state of a platform mean.
var tcbWords = map[tdx.Status]string{
	tdx.StatusUpToDate:                             "up to date",
	tdx.StatusSWHardeningNeeded:                    "software has to help against a known vulnerability",
	tdx.StatusConfigurationNeeded:                  "the machine is not configured as it should be",
	tdx.StatusConfigurationAndSWHardeningNeeded:    "the machine is not configured as it should be, and software has to help against a known vulnerability",
	tdx.StatusOutOfDate:                            "out of date: security updates are missing",
	tdx.StatusOutOfDateConfigurationNeeded:         "out of date, and not configured as it should be",
	tdx.StatusTDRelaunchAdvised:                    "updated since the protected machine was started, which should be started anew",
	tdx.StatusTDRelaunchAdvisedConfigurationNeeded: "updated since the protected machine was started, and not configured as it should be",
	tdx.StatusRevoked:                              "revoked",
}

// executionWords say what the classes mean in which models run.
var executionWords = map[string]string{
	"tee":        "In confidential hardware",
	"policy-zdr": "Elsewhere, on a promise not to keep what it is sent",
	"unattested": "Elsewhere; nothing is known about what is kept",
}

// ruleWords say what a broken rule of package bundle means.
var ruleWords = map[string]string{
	"bundle":      "The file is damaged, or not a file of this kind.",
	"checkpoint":  "The log’s own signature, or those of the witnesses whom your log policy asks for, are not there or not right. Nothing shows that the record is in the log.",
	"inclusion":   "The file does not show that the record is in the log.",
	"leaf":        "An entry in the file can’t be read.",
	"duplicate":   "The file has the same thing twice, in two places of the log.",
	"subject":     "The file is about an entry of the log that says nothing by itself.",
	"unlinked":    "The file has something in it that nothing refers to.",
	"missing":     "The file lacks something that is needed to judge the record.",
	"collateral":  "The data of the processor’s maker, by which the hardware is judged, is not genuine or not valid.",
	"time-leaf":   "The evidence for the time is not a state of this log that your log policy accepts.",
	"consistency": "The file does not show that an earlier state of the log is part of the later one: either the file is damaged, or the log has shown two histories.",
	"freshness":   "What the record says about when it was made does not fit the evidence for it.",
	"order":       "The entries are in an order in which they can’t have come about.",
	"vendor-key":  "Something is signed by a key that the vendor had not logged as its own.",
	"genuine":     "The record is not what it claims to be: the hardware’s signature, or what it covers, does not check.",
}

// codeWords say what a refusal's code means.
var codeWords = map[verifier.Code]string{
	verifier.CodeNoMeasurement:  "The appraisal policy doesn’t say which software it expects.",
	verifier.CodeMeasurement:    "The software that ran is not one that the appraisal policy trusts.",
	verifier.CodeRelease:        "The release that the record names isn’t the one that ran, or was withdrawn.",
	verifier.CodeReleaseKey:     "Signed by a release key that the appraisal policy doesn’t trust.",
	verifier.CodeTCBStatus:      "The machine’s firmware was not in a state that the appraisal policy accepts.",
	verifier.CodeAdvisory:       "A security advisory affected the machine that the appraisal policy doesn’t tolerate.",
	verifier.CodeCollateralAge:  "The machine was judged by data that is older than the appraisal policy allows.",
	verifier.CodeDebug:          "Debug mode was on: the host could read and change everything.",
	verifier.CodeMigratable:     "The protected machine could be moved to another one.",
	verifier.CodeSEPTVE:         "The host could disturb the protected machine by faults.",
	verifier.CodePerfMon:        "The protected machine could use performance monitoring.",
	verifier.CodeReserved:       "The protected machine had settings of unknown meaning.",
	verifier.CodeXFAM:           "The protected machine could use processor features that aren’t allowed.",
	verifier.CodeServiceTD:      "Another protected machine had, or may have had, access to the state of this one.",
	verifier.CodePlatform:       "The machine is not one that the appraisal policy names.",
	verifier.CodeProfile:        "The hardware’s report doesn’t cover the statement in a way that the appraisal policy accepts.",
	verifier.CodeTimeUnproven:   "The time is not proven.",
	verifier.CodeTimeWidth:      "The proven time is too wide.",
	verifier.CodeClock:          "The record’s own clock contradicts the proven time.",
	verifier.CodeModelExecution: "A model ran in a way that the appraisal policy doesn’t accept.",
	verifier.CodeModelRun:       "A model’s own record is missing, or isn’t good, or says something else.",
	verifier.CodeAccelerator:    "Evidence of accelerators is not bound to this record.",
	verifier.CodeEventLog:       "An event log that was given is not that of the hardware’s report.",
	verifier.CodeRetention:      "Retention is not enforced as the appraisal policy asks.",
	verifier.CodeStorage:        "What the software writes can outlive the session.",
	verifier.CodeErasure:        "The workspace wasn’t reported as erased.",
	verifier.CodeStartMissing:   "The end of a session without its start.",
	verifier.CodePair:           "Start and end don’t belong together.",
	verifier.CodeOrder:          "Records that belong together are in an impossible order.",
	verifier.CodeTwoFinals:      "A session has two ends.",
	bundle.CodeAdmittedAt:       "The log’s own time contradicts the proven one.",
	bundle.CodeAppraiser:        "An appraiser that the appraisal policy asks for has not signed.",
}

// meaning says what a code, or a rule, means.
func meaning(code string) string {
	if s := codeWords[verifier.Code(code)]; s != "" {
		return s
	}
	if s := reasonWords[code]; s != "" {
		return s
	}
	first, _, _ := strings.Cut(ruleWords[code], ". ")
	return first
}

// reasonWords say what the verifier's words for evidence that isn't genuine mean. Those of a rule of package bundle are
// its.
var reasonWords = map[string]string{
	verifier.ReasonEnvelope:       "The signature on the statement is wrong.",
	verifier.ReasonKey:            "Signed by a key that isn’t known to be the vendor’s.",
	verifier.ReasonBinding:        "The hardware’s signature is about another statement.",
	verifier.ReasonStatement:      "The statement contradicts itself, or its evidence.",
	string(tdx.ReasonParse):       "The hardware’s report can’t be read.",
	string(tdx.ReasonRoot):        "The hardware’s certificates are not under the root that you trust.",
	string(tdx.ReasonChain):       "The hardware’s certificates don’t check.",
	string(tdx.ReasonSignature):   "A signature of the hardware’s report, or of the data that it is judged by, is wrong.",
	string(tdx.ReasonExpired):     "The data by which the machine was judged was not valid any more.",
	string(tdx.ReasonNotYetValid): "The data by which the machine was judged was not valid yet.",
	string(tdx.ReasonRevoked):     "The machine’s certificate was revoked.",
	string(tdx.ReasonFMSPC):       "The data is about another kind of machine.",
	string(tdx.ReasonTCB):         "The data of the processor’s maker does not fit the machine.",
	string(tdx.ReasonNoLevel):     "The machine’s firmware is below all that the processor’s maker knows.",
	string(tdx.ReasonModule):      "The processor’s TDX module is not one that its maker knows.",
	string(tdx.ReasonQE):          "The part of the hardware that signs reports is not its maker’s.",
}
