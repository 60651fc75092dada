package check

import (
	"fmt"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Words say for people what an answer says for programs.
type Words struct {
	Title   string `json:"title"`   // the verdict in one or two words
	Lead    string `json:"lead"`    // the verdict in a sentence
	Subject string `json:"subject"` // what the file is about; empty if nothing is proven
	Why     string `json:"why"`     // when not proven: what is wrong, for people without cryptography
	Time    string `json:"time"`    // when the record was made, as far as that is proven

	Groups []Group           `json:"groups"` // who can vouch for a claim, the strongest first
	Marks  map[string]string `json:"marks"`  // words for the statuses of claims
	Roles  map[string]string `json:"roles"`  // words for what leaves are
}

// A Group is the claims that one kind of source vouches for.
type Group struct {
	Source verifier.Source `json:"source"`
	Title  string          `json:"title"`
	Note   string          `json:"note"`
}

var groups = []Group{
	{verifier.SourceHardware, "Proven by hardware", "In a report that the processor itself signed, under the root certificate named above."},
	{verifier.SourceVerifier, "Checked by this page", "Computed here, from the evidence in the file."},
	{verifier.SourceMeasuredCode, "Reported by known code", "Said by code inside the hardware's protection, which the appraisal policy identifies. As true as that code is good."},
	{verifier.SourceLog, "Stated by the log's operator", "Nobody else vouches for it."},
	{verifier.SourceVendor, "Claimed by the vendor", "Nothing here proves it."},
	{verifier.SourceUnknown, "Unknown", "Nobody vouches for it."},
}

var marks = map[string]string{
	string(verifier.StatusHolds):    "checked",
	string(verifier.StatusAsserted): "stated",
	string(verifier.StatusUnknown):  "not known",
	string(verifier.StatusFailed):   "failed",
}

// whys says what it means that a rule is broken.
var whys = map[string]string{
	string(bundle.RuleBundle):      "The file is damaged, was changed, or is no such file at all.",
	string(bundle.RuleCheckpoint):  "No log that the log policy names vouches for it, or not enough of the policy's witnesses do.",
	string(bundle.RuleInclusion):   "The log doesn't hold a record as it is in the file: the file was changed, or made up.",
	string(bundle.RuleLeaf):        "Something in the file can't be read.",
	string(bundle.RuleDuplicate):   "The file holds the same thing twice, and only one of them can count.",
	string(bundle.RuleSubject):     "The file is about something that says nothing by itself.",
	string(bundle.RuleUnlinked):    "The file holds something that has nothing to do with the record.",
	string(bundle.RuleMissing):     "The file lacks something without which the record can't be judged.",
	string(bundle.RuleCollateral):  "What the processor's maker says about its hardware doesn't check out: it was changed, or is not under the root certificate named here.",
	string(bundle.RuleTimeLeaf):    "A time stamp in the file is not by this log and its witnesses.",
	string(bundle.RuleConsistency): "The log's earlier and later states in the file contradict each other.",
	string(bundle.RuleFreshness):   "The record claims to have been made after a state of the log that isn't this log's.",
	string(bundle.RuleOrder):       "The records are in an order in which they can't have come about.",
	string(bundle.RuleVendorKey):   "A vendor's signature is by a key that the vendor had not logged before.",
	string(bundle.RuleGenuine):     "The record is not what it claims to be.",

	verifier.ReasonEnvelope:  "The record's signature is wrong: somebody changed the record, or another key signed it.",
	verifier.ReasonKey:       "The record is signed by a key that isn't known to be the vendor's.",
	verifier.ReasonBinding:   "The hardware's report is about another record than this one.",
	verifier.ReasonStatement: "The record contradicts itself, or the evidence that it comes with.",
	verifier.ReasonDebug:     "The environment was open to its host for debugging, so that the host could make it say anything.",

	string(tdx.ReasonParse):       "The hardware's report is damaged, or of a kind that isn't known here.",
	string(tdx.ReasonRoot):        "The hardware's report does not lead to the root certificate named here: other hardware, or none at all, made it.",
	string(tdx.ReasonChain):       "A certificate of the hardware's report is not what it should be.",
	string(tdx.ReasonSignature):   "A signature of the hardware's report is wrong: the report was changed, or made up.",
	string(tdx.ReasonExpired):     "Something that vouches for the hardware was out of date when the record was logged.",
	string(tdx.ReasonNotYetValid): "Something that vouches for the hardware was not valid yet when the record was logged.",
	string(tdx.ReasonRevoked):     "The processor's maker has revoked this platform, or a certificate of it.",
	string(tdx.ReasonFMSPC):       "What the processor's maker says in this file is about another kind of platform.",
	string(tdx.ReasonTCB):         "What the processor's maker says about this kind of platform is of a form that isn't known here.",
	string(tdx.ReasonNoLevel):     "The processor's maker doesn't list a platform with firmware as old as this one's.",
	string(tdx.ReasonModule):      "The platform ran a TDX module that the processor's maker doesn't list.",
	string(tdx.ReasonQE):          "The part of the platform that signs reports is not the one of the processor's maker.",
}

// Why says for people without cryptography what it means that a file is not proven, by the reason or rule of an answer. It
// is empty for a word that isn't one.
func Why(reason string) string { return whys[reason] }

func words(j *judge.Judgment) *Words {
	w := &Words{Groups: groups, Marks: marks, Roles: make(map[string]string, len(judge.Roles))}
	for role, text := range judge.Roles {
		w.Roles[string(role)] = text
	}
	switch j.Status() {
	case judge.Good:
		w.Title, w.Lead = "Good", "The log holds this record, its evidence is genuine, and the appraisal policy allows it."
	case judge.Refused:
		w.Title, w.Lead = "Refused", "The log holds this record and its evidence is genuine, but the appraisal policy refuses it."
	default:
		w.Title, w.Lead, w.Why = "Not proven", "This file doesn't prove what it should. Rely on nothing in it.", Why(j.Reason())
		return w
	}
	subject := j.Subject()
	w.Subject = strings.ToUpper(subject[:1]) + subject[1:]
	w.Time = interval(j)
	return w
}

// interval says when the statement was made, as far as that is proven.
func interval(j *judge.Judgment) string {
	i := j.Finding.Interval
	switch {
	case i == nil && j.LogPolicy.IsQuorumNone():
		return "No time is proven: the log policy asks for no witnesses."
	case i == nil || i.NotBefore.IsZero() && i.NotAfter.IsZero():
		return "No time is proven."
	case i.NotBefore.IsZero():
		return fmt.Sprintf("Made before %s, as witnesses prove; from when on is not proven.", moment(i.NotAfter))
	case i.NotAfter.IsZero():
		return fmt.Sprintf("Made after %s, as witnesses prove; until when is not proven.", moment(i.NotBefore))
	}
	from, to := i.NotBefore.UTC(), i.NotAfter.UTC()
	until := moment(to)
	if from.Format(time.DateOnly) == to.Format(time.DateOnly) {
		until = to.Format("15:04:05 MST")
	}
	return fmt.Sprintf("Made on %s between %s and %s (%s apart), as witnesses prove.", from.Format("2 January 2006"), from.Format("15:04:05"), until, seconds(to.Sub(from)))
}

// seconds writes a duration in words, in its two largest units.
func seconds(d time.Duration) string {
	var parts []string
	n := int64(d / time.Second)
	for _, unit := range []struct {
		seconds int64
		name    string
	}{{86400, "day"}, {3600, "hour"}, {60, "minute"}, {1, "second"}} {
		if k := n / unit.seconds; k > 0 && len(parts) < 2 {
			name := unit.name
			if k > 1 {
				name += "s"
			}
			parts = append(parts, fmt.Sprintf("%d %s", k, name))
		}
		n %= unit.seconds
	}
	if len(parts) == 0 {
		return "0 seconds"
	}
	return strings.Join(parts, " ")
}

func moment(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04:05 MST") }
