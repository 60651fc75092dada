package report

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// basis says what every result rests on, and what none can prove. It is in every report.
func (m *Meta) basis() Section {
	s := Section{ID: "basis", Title: "What this rests on, and what it can’t prove"}
	if m.Monitor != "" {
		return m.monitored(s)
	}
	hardware := "Hardware: nobody has extracted the machine’s keys by physical attack (TEE.fail and its kin). Whoever has them can forge the hardware’s reports, and no report shows that. An appraisal policy can ask for machines that you know."
	if !m.Root.IsIntel() {
		hardware += " Here the hardware is simulated, and its keys are a test’s."
	}
	items := []string{hardware, "Software: what your appraisal policy pins, or lets a vendor’s release key name, does what you think it does."}
	r := m.LogPolicy.Resilience()
	if m.LogPolicy.IsQuorumNone() {
		items = append(items, "Log: no witness is asked. The log alone vouches for its history, and can show everybody another one. No time is proven.")
	} else {
		items = append(items, fmt.Sprintf("Witnesses: every set of them that satisfies your log policy’s quorum (“%s”) has an honest one in it, whose clock is right.", clean(m.LogPolicy.Quorum())))
		operators := func(n int) string {
			atLeast := ""
			if !r.Exact {
				atLeast = "at least "
			}
			return fmt.Sprintf("%s%d of %d witness operators", atLeast, n, r.Operators)
		}
		switch {
		case r.SplitView < 0:
			items = append(items, "Two histories: the log can show two people two histories, and no witness has to lie for that.")
		case r.SplitView == 0:
			items = append(items, fmt.Sprintf("Two histories: one lying witness operator of %d is enough to let the log show two people two histories.", r.Operators))
		default:
			items = append(items, "Two histories: "+operators(r.SplitView)+" can lie, and the log still can’t show two people two histories.")
		}
		if r.Time <= 0 {
			items = append(items, fmt.Sprintf("Time: one lying witness operator of %d is enough to forge the proven time.", r.Operators))
		} else {
			items = append(items, "Time: "+operators(r.Time)+" can lie, and the proven time still holds.")
		}
	}
	s.Sections = []Section{{ID: "assumptions", Title: "Assumptions", Blocks: []Block{list(items...)}}, limits()}
	return s
}

func limits() Section {
	return Section{ID: "limits", Title: "What no such record can prove", Blocks: []Block{list(
		"Completeness: that no other record exists, such as a second end of the same session, or that a release was not withdrawn later. A monitor of the whole log can see that.",
		"Erasure: a report of it is the word of measured code. Nothing can prove that data is gone.",
		"Identity of a protected machine: hardware gives it none. That start and end are of the same one is the word of measured code.",
		"Compromise: an outdated machine is not a breach, and an up-to-date one is no proof against one.",
	)}}
}

// monitored is the basis of a report that takes a monitor's word.
func (m *Meta) monitored(s Section) Section {
	s.Sections = []Section{{ID: "assumptions", Title: "Assumptions", Blocks: []Block{list(
		"Monitor: "+clean(m.Monitor)+" verified every record, and says what it found. This report takes its word, and its policies: what it trusts is its operator’s choice. Whoever wants to trust nobody makes this report from the records’ files.",
		"Hardware: nobody has extracted the machines’ keys by physical attack (TEE.fail and its kin). Whoever has them can forge the hardware’s reports, and no report shows that.",
		"Software: what the monitor’s appraisal policy pins, or lets a vendor’s release key name, does what you think it does.",
		"Witnesses: every set of them that satisfies the quorum of the monitor’s log policy has an honest one in it, whose clock is right.",
	)}}, limits()}
	return s
}

// command is how to check a file again.
func (m *Meta) command(file string) string {
	args := append([]string{"affidavit", "verify"}, m.Args...)
	if len(m.Args) == 0 {
		args = append(args, "--log-policy", "FILE", "--appraisal-policy", "FILE")
	}
	args = append(args, file)
	for i := range args {
		args[i] = shell(args[i])
	}
	return strings.Join(args, " ")
}

// shell quotes an argument for a shell. What a terminal can't show is shown by its number, since a name with control
// characters in it is no name to copy.
func shell(arg string) string {
	arg = clean(arg)
	if arg != "" && strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@,+") == "" {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// maxCommands is how many files the annex has commands and digests for.
const maxCommands = 50

// repeat says how to get the same result.
func (m *Meta) repeat() Section {
	s := Section{ID: "repeat", Title: "Repeat the check"}
	if m.Monitor != "" {
		s.Blocks = append(s.Blocks, text("Each record’s own file has the evidence. The monitor gives it out, and anybody can check it, with policies of their own:"),
			code("affidavit bundle --log "+shell("URL of the log")+" ENTRY\naffidavit report --log-policy FILE --appraisal-policy FILE --html FILE *.affidavit"))
		return s
	}
	s.Blocks = append(s.Blocks, text("The check needs no network, no account, and nothing from the vendor or the log: only the file, your two policies and the tool. Everybody gets the same result, at any time."))
	var b strings.Builder
	t := &Table{Caption: "Files", Header: []string{"File", "Bytes", "SHA-256"}, Numeric: []bool{false, true, false}}
	for i, f := range m.Files {
		if i == maxCommands {
			s.Blocks = append(s.Blocks, text(fmt.Sprintf("Of %s, the first %d are listed.", count(uint64(len(m.Files)), "file", "files"), maxCommands)))
			break
		}
		fmt.Fprintf(&b, "sha256sum %s\n%s\n", shell(f.Name), m.command(f.Name))
		t.Rows = append(t.Rows, []string{clean(f.Name), grouped(uint64(f.Size)), hexed(f.SHA[:])})
	}
	if len(m.Files) == 0 {
		b.WriteString(m.command("FILE") + "\n")
	}
	s.Blocks = append(s.Blocks, code(strings.TrimSuffix(b.String(), "\n")))
	if len(t.Rows) > 0 {
		s.Blocks = append(s.Blocks, table(t))
	}
	attached := 0
	for _, f := range m.Files {
		if f.Data != nil {
			attached++
		}
	}
	if attached > 0 {
		s.Blocks = append(s.Blocks, text(fmt.Sprintf("The PDF form of this report has %s attached; “pdfdetach -saveall” takes them out.", count(uint64(attached), "file", "files"))))
	}
	if m.Tool != "" {
		s.Blocks = append(s.Blocks, text("This report was made by "+clean(m.Tool)+"."))
	}
	return s
}

// trusted shows what the reader brought along.
func (m *Meta) trusted() Section {
	s := Section{ID: "policies", Title: "What you trust"}
	fp := m.Root.Fingerprint()
	name := "Intel’s, built into the tool"
	if !m.Root.IsIntel() {
		name = "not Intel’s"
	}
	appraisal, logPolicy := string(m.Appraisal.YAML()), m.LogPolicy.String()
	s.Blocks = append(s.Blocks,
		text(fmt.Sprintf("Root of the hardware’s certificates: %s, SHA-256 %s.", name, hexed(fp[:]))),
		text("Log policy, whose signatures make a record logged. Long keys are cut here. SHA-256 of the whole text: "+digestOf(logPolicy)), code(lines(logPolicy)),
		text("Appraisal policy, which records are good enough, without what it leaves at its strict default. SHA-256 of the whole text: "+digestOf(appraisal)), code(lines(appraisal)))
	return s
}

// annex has what somebody needs who checks again.
func (c *content) annex() Section {
	s := Section{ID: "annex", Title: "Annex"}
	f := c.f
	log := Section{ID: "log", Title: "The log"}
	log.Blocks = append(log.Blocks, text(fmt.Sprintf("The file’s proofs are under one state of the log %s, of %s, with root %s (hexadecimal) or %s (base64, as in the signed note). Quorum: %s.",
		clean(f.Log.Origin), count(f.Log.Size, "entry", "entries"), hexed(f.Log.Root[:]), base64.StdEncoding.EncodeToString(f.Log.Root[:]), clean(f.Log.Quorum))))
	keys := &Table{Caption: "Signatures on that state", Header: []string{"By", "Kind of key", "Key ID", "Time"}}
	for _, k := range f.Log.Keys {
		keys.Rows = append(keys.Rows, []string{"log " + clean(k.Name()), k.Kind().String(), keyID(k), ""})
	}
	for _, cs := range f.Log.Cosignatures {
		at := "none"
		if !cs.Time.IsZero() {
			at = moment(cs.Time)
		}
		keys.Rows = append(keys.Rows, []string{"witness " + clean(cs.Witness), cs.Key.Kind().String(), keyID(cs.Key), at})
	}
	for _, k := range f.Log.Appraisers {
		keys.Rows = append(keys.Rows, []string{"appraiser " + clean(k.Name()), k.Kind().String(), keyID(k), ""})
	}
	log.Blocks = append(log.Blocks, table(keys), text("The keys themselves are in the policies, below."))

	entries := Section{ID: "entries", Title: "Entries of the log in this file"}
	t := &Table{Caption: "Entries", Header: []string{"Entry", "What it is", "Leaf hash", "Statement, SHA-256"}, Numeric: []bool{true, false, false, false}}
	for _, l := range f.Leaves {
		st := "none"
		if l.Statement != nil {
			st = hexed(l.Statement[:])
		}
		what := leafWords[l.Role]
		if l == f.Subject {
			what += " (this record)"
		}
		t.Rows = append(t.Rows, []string{grouped(l.Index), what, hexed(l.Hash[:]), st})
	}
	entries.Blocks = append(entries.Blocks, table(t))
	s.Sections = []Section{c.m.repeat(), log, entries}
	if len(f.Refusals) > 0 {
		ref := Section{ID: "refusals", Title: "All refusals"}
		t := &Table{Caption: "Refusals", Header: []string{"Code", "Field", "Found", "Asked for", "In words"}}
		for _, r := range f.Refusals {
			t.Rows = append(t.Rows, []string{clean(string(r.Code)), clean(r.Field), dash(clean(r.Got)), dash(clean(r.Want)), sentence(r.Message)})
			t.Tones = append(t.Tones, ToneBad)
		}
		ref.Blocks = append(ref.Blocks, table(t))
		s.Sections = append(s.Sections, ref)
	}
	if v := c.values("td.attributes", "td.xfam", "measurement."); len(v.Values) > 0 {
		s.Sections = append(s.Sections, Section{ID: "measurements", Title: "Measurements", Blocks: []Block{
			text("What the hardware measured and how it was set up: MRTD is the fingerprint of what the protected machine started with, RTMR0 to RTMR3 those of what was loaded then."), v,
		}})
	}
	s.Sections = append(s.Sections, c.m.trusted(), wordList())
	return s
}

// keyID names a key as signed notes do: by its name and the hash of its kind and bytes. The policies have it whole.
func keyID(k *checkpoint.VerifierKey) string {
	return clean(fmt.Sprintf("%s+%08x", k.Name(), k.KeyID()))
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

var leafWords = map[bundle.Role]string{
	bundle.RoleStart:      "start of the session",
	bundle.RoleFinal:      "end of the session",
	bundle.RoleAbandoned:  "session given up",
	bundle.RoleModelRun:   "run of a model",
	bundle.RoleImport:     "imported evidence",
	bundle.RoleRelease:    "release",
	bundle.RoleWithdrawal: "withdrawal of a release",
	bundle.RoleVendorKey:  "vendor’s release key",
	bundle.RoleTime:       "witnessed time",
	bundle.RoleCollateral: "Intel’s data about machines",
}
