package export

import (
	"bufio"
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// oscalVersion is that of NIST's schema which the tests validate against.
const oscalVersion = "1.2.1"

// oscalNS is the namespace of our properties (OSCAL, "Property name qualification").
const oscalNS = "https://affidavit-log.github.io/oscal"

// uuidNS is the namespace of our UUIDs, itself UUIDv5 of oscalNS in the URL namespace
// (RFC 9562, 6.6).
var uuidNS = uuid5([16]byte{0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}, oscalNS)

// uuid5 returns a UUID of version 5 (RFC 9562, 5.5).
func uuid5(ns [16]byte, name string) (u [16]byte) {
	h := sha1.New()
	h.Write(ns[:])
	io.WriteString(h, name)
	copy(u[:], h.Sum(nil))
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return u
}

// uuidOf returns the UUID of a thing of ours, from what it is and what it is about.
func uuidOf(kind, content string) string {
	u := uuid5(uuidNS, kind+"/"+content)
	s := hexOf(u[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// An oscalObjective is what records are assessed for: ours, never a control of a
// catalogue. Whether a control is satisfied is for an assessor to say, who knows more
// of the system than its attestations.
type oscalObjective struct {
	id, title, description string
	controls               []string // related ones of NIST SP 800-53 Rev. 5
	claims                 []string // that have to pass; "model." stands for all that begin so
}

var objectives = []oscalObjective{
	{"affidavit-isolation", "Isolation by hardware", "The record was made in a genuine trust domain that is not in debug mode and can't be migrated, with encrypted memory, and its statement is bound to the hardware.",
		[]string{"sc-39", "sc-28", "sc-7"}, []string{"tee", "binding", "td.debug", "td.migratable", "memory-encryption", "memory-encryption.session"}},
	{"affidavit-platform", "Platform firmware", "The platform's TCB status and the security advisories that affect it are such as the appraisal policy accepts. A vulnerable platform is not a breach, and an up-to-date one is no proof against one.",
		[]string{"si-2", "si-7"}, []string{"tcb", "advisories"}},
	{"affidavit-code", "Identity of the code", "The code that ran is one that the reader pinned, or that a release under a trusted key names.",
		[]string{"si-7", "cm-14"}, []string{"code", "release"}},
	{"affidavit-time", "Time", "Witnesses bound when the statement was made.",
		[]string{"au-8", "au-10"}, []string{"freshness", "time.proven"}},
	{"affidavit-pairing", "Whole sessions", "The end of the session and its start belong together.",
		[]string{"au-10", "au-12"}, []string{"session.pair"}},
	{"affidavit-models", "Models", "Every model that the session used ran in a class that the appraisal policy accepts, as checked evidence shows.",
		[]string{"sa-9", "sc-39"}, []string{"model."}},
	{"affidavit-retention", "Data retention", "What is reported about storage, retention and erasure is such as the appraisal policy accepts. Erasure itself can't be proven.",
		[]string{"sc-28", "si-12", "mp-6"}, []string{"environment.storage", "retention", "teardown"}},
}

// Two more objectives are judged otherwise.
var (
	objectiveAppraisal = oscalObjective{"affidavit-appraisal", "Appraisal policy", "The record is logged, genuine, and allowed by the appraisal policy.",
		[]string{"ca-2", "au-10"}, nil}
	objectiveLog = oscalObjective{"affidavit-log-integrity", "Integrity of the log", "The monitor, which verifies every entry of the log again, has found nothing wrong.",
		[]string{"au-9", "au-10"}, nil}
)

// judge says what a record shows about an objective; false if it has nothing to do
// with it.
func (o *oscalObjective) judge(r *Record) (status checkStatus, applies bool) {
	if r.Verdict == VerdictNotProven {
		return checkFail, true
	}
	rank := [...]int{checkPass: 0, checkWarning: 1, checkUnknown: 2, checkFail: 3}
	status = checkPass
	for i := range r.Claims {
		c := &r.Claims[i]
		ours := slices.Contains(o.claims, c.ID)
		if !ours && strings.HasPrefix(c.ID, "model.") && o.claims[0] == "model." {
			// model.0, model.1, …, and not model.calls of a model run.
			_, err := strconv.ParseUint(c.ID[len("model."):], 10, 64)
			ours = err == nil
		}
		if !ours {
			continue
		}
		applies = true
		if s := statusOf(c, r); rank[s] > rank[status] {
			status = s
		}
	}
	return status, applies
}

// OSCALOptions describes an assessment.
type OSCALOptions struct {
	// At is when the records were assessed.
	At time.Time

	// Since and Until bound the assessment's period. Zero ones are taken from the records.
	Since, Until time.Time

	// PolicySHA256 is the digest of the appraisal policy, empty if there is none.
	PolicySHA256 string

	// Monitor is the URL of the monitor whose findings are in the assessment, or empty.
	Monitor string

	// Dir is for temporary files; the system's if it is empty.
	Dir string
}

// An OSCAL makes one assessment-results document of any number of records. It keeps
// the parts that grow with them in temporary files. Close removes these.
type OSCAL struct {
	o OSCALOptions

	components, observations, resources *spool
	failing                             []*spool // by objective: observations that don't satisfy it
	counts                              []counts // likewise
	all                                 []*oscalObjective

	records, alerts uint64
	advisories      map[string]uint64
	first, last     time.Time
	content         hash.Hash // of all UUIDs, so that equal assessments have equal ones

	e encoder
}

type counts struct{ passed, tolerated, failed, unknown uint64 }

// NewOSCAL returns an OSCAL without records.
func NewOSCAL(o OSCALOptions) (*OSCAL, error) {
	d := &OSCAL{o: o, advisories: make(map[string]uint64), content: sha256.New(), e: encoder{limit: maxText}}
	for i := range objectives {
		d.all = append(d.all, &objectives[i])
	}
	d.all = append(d.all, &objectiveAppraisal)
	if o.Monitor != "" {
		d.all = append(d.all, &objectiveLog)
	}
	d.counts = make([]counts, len(d.all))
	d.failing = make([]*spool, len(d.all))
	spools := []**spool{&d.components, &d.observations, &d.resources}
	for i := range d.failing {
		spools = append(spools, &d.failing[i])
	}
	for _, s := range spools {
		var err error
		if *s, err = newSpool(o.Dir); err != nil {
			d.Close()
			return nil, err
		}
	}
	fmt.Fprintf(d.content, "%s\n%s\n%s\n%s\n", o.Monitor, o.PolicySHA256, stamp(o.Since), stamp(o.Until))
	return d, nil
}

// Close frees what the document needs.
func (d *OSCAL) Close() {
	for _, s := range append([]*spool{d.components, d.observations, d.resources}, d.failing...) {
		if s != nil {
			s.close()
		}
	}
}

// A spool is a temporary file of JSON values, separated by commas.
type spool struct {
	f *os.File
	w *bufio.Writer
	n uint64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, ".affidavit-oscal-*")
	if err != nil {
		return nil, err
	}
	return &spool{f: f, w: bufio.NewWriterSize(f, 32<<10)}, nil
}

func (s *spool) add(b []byte) error {
	if s.n++; s.n > 1 {
		if err := s.w.WriteByte(','); err != nil {
			return err
		}
	}
	_, err := s.w.Write(b)
	return err
}

// copyTo writes the spool's values.
func (s *spool) copyTo(w io.Writer) error {
	if err := s.w.Flush(); err != nil {
		return err
	}
	if _, err := s.f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := io.Copy(w, s.f)
	return err
}

func (s *spool) close() {
	s.f.Close()
	os.Remove(s.f.Name())
}

// prop appends a property, if it has a value.
func (e *encoder) prop(name, value string) {
	if value = Clean(value); value == "" {
		return
	}
	e.comma()
	e.open('{')
	e.lit(`"name":`, name)
	e.lit(`"ns":`, oscalNS)
	e.str(`"value":`, value)
	e.close('}')
}

// reset begins a value of its own.
func (d *OSCAL) reset() *encoder {
	d.e.b = append(d.e.b[:0], '{')
	return &d.e
}

const toolUUIDName = "affidavit verifier"

// Add adds a record. The same one must not be added twice.
func (d *OSCAL) Add(r *Record) error {
	d.records++
	at := r.at()
	if at.IsZero() {
		at = r.CheckedAt
	}
	d.see(at)
	observation, component := uuidOf("observation", r.UID), uuidOf("component", r.UID)
	fmt.Fprintln(d.content, observation, r.Verdict)

	// Markup fields hold nothing but our own words and digests: they are Markdown,
	// which a reader may turn into links and HTML.
	what := "Log record " + r.UID
	if _, err := hex.DecodeString(r.Session); err == nil && r.Session != "" {
		what = "Confidential AI session " + r.Session
	}
	e := d.reset()
	e.lit(`"uuid":`, component)
	e.lit(`"type":`, "service")
	e.lit(`"title":`, what)
	e.lit(`"description":`, "What the record "+r.UID+" is about.")
	e.raw(`,"status":{"state":"operational"}}`)
	if err := d.components.add(e.b); err != nil {
		return err
	}

	var resource string
	if r.Bundle != "" {
		resource = uuidOf("resource", r.Bundle+"\n"+r.BundleSHA256)
		e = d.reset()
		e.lit(`"uuid":`, resource)
		e.lit(`"title":`, "Evidence for the record "+r.UID)
		e.array(`"rlinks":`)
		e.open('{')
		e.str(`"href":`, (&url.URL{Path: Clean(r.Bundle)}).String())
		e.lit(`"media-type":`, "application/octet-stream")
		if r.BundleSHA256 != "" {
			e.raw(`,"hashes":[{"algorithm":"SHA-256"`)
			e.str(`"value":`, r.BundleSHA256)
			e.raw("}]")
		}
		e.raw("}]}")
		if err := d.resources.add(e.b); err != nil {
			return err
		}
	}

	e = d.reset()
	e.lit(`"uuid":`, observation)
	e.lit(`"title":`, r.title())
	e.lit(`"description":`, "Everything that the evidence shows about the record was verified, and judged by the appraisal policy.")
	e.array(`"props":`)
	e.prop("verdict", string(r.Verdict))
	e.prop("leaf-hash", r.UID)
	if r.Log != "" {
		e.prop("log-origin", r.Log)
		e.prop("log-index", strconv.FormatUint(r.Index, 10))
	}
	e.prop("role", string(r.Role))
	e.prop("vendor", r.Vendor)
	e.prop("tenant", r.Tenant)
	e.prop("tcb-status", r.TCBStatus)
	e.prop("fmspc", r.FMSPC)
	for _, a := range r.Advisories {
		e.prop("advisory", a)
		if _, known := d.advisories[a]; known || len(d.advisories) < maxRisks {
			d.advisories[a]++
		}
	}
	e.prop("not-before", stamp(r.NotBefore))
	e.prop("not-after", stamp(r.NotAfter))
	for i := range r.Models {
		e.prop("model", r.Models[i].Provider+"/"+r.Models[i].name())
	}
	for i := range r.Refusals {
		e.prop("refusal", r.Refusals[i].String())
	}
	if r.Verdict == VerdictNotProven {
		e.prop("refusal", r.Reason+": "+r.Detail)
	}
	e.prop("verified-by", r.VerifiedBy)
	e.close(']')
	e.raw(`,"methods":["TEST"],"types":["control-objective"],"origins":[{"actors":[{"type":"tool"`)
	e.lit(`"actor-uuid":`, uuidOf("component", toolUUIDName))
	e.raw(`}]}],"subjects":[{"type":"component"`)
	e.lit(`"subject-uuid":`, component)
	e.raw(`}]`)
	if resource != "" {
		e.array(`"relevant-evidence":`)
		e.open('{')
		e.lit(`"href":`, "#"+resource)
		e.lit(`"description":`, "Offline evidence bundle: record, quote, collateral, proofs.")
		e.raw("}]")
	}
	e.stamp(`"collected":`, d.or(at))
	e.close('}')
	if err := d.observations.add(e.b); err != nil {
		return err
	}

	for i, o := range d.all {
		switch o {
		case &objectiveAppraisal:
			status := map[Verdict]checkStatus{VerdictGood: checkPass, VerdictGenuine: checkUnknown}[r.Verdict]
			if r.Verdict == VerdictRefused || r.Verdict == VerdictNotProven {
				status = checkFail
			}
			if err := d.count(i, status, observation); err != nil {
				return err
			}
		case &objectiveLog:
		default:
			if status, applies := o.judge(r); applies {
				if err := d.count(i, status, observation); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// maxRisks bounds the number of advisories that become risks; Intel has published a
// few hundred about processors.
const maxRisks = 10_000

// see widens the period so that it has a time in it.
func (d *OSCAL) see(t time.Time) {
	if t.IsZero() {
		return
	}
	if d.first.IsZero() || t.Before(d.first) {
		d.first = t
	}
	if t.After(d.last) {
		d.last = t
	}
}

func (d *OSCAL) or(t time.Time) time.Time {
	if t.IsZero() {
		return d.o.At
	}
	return t
}

// count counts what an observation says about an objective.
func (d *OSCAL) count(i int, s checkStatus, observation string) error {
	c := &d.counts[i]
	switch s {
	case checkPass:
		c.passed++
		return nil
	case checkWarning:
		c.tolerated++
		return nil
	case checkFail:
		c.failed++
	default:
		c.unknown++
	}
	return d.failing[i].add([]byte(`{"observation-uuid":"` + observation + `"}`))
}

// AddFinding adds what the monitor found.
func (d *OSCAL) AddFinding(f *Finding) error {
	d.alerts++
	d.see(f.FoundAt)
	observation := uuidOf("observation", "finding/"+f.ID)
	fmt.Fprintln(d.content, observation)
	e := d.reset()
	e.lit(`"uuid":`, observation)
	e.lit(`"title":`, "Finding of the log's monitor")
	e.lit(`"description":`, "The monitor found something that an honest log and its vendors would not do.")
	e.array(`"props":`)
	e.prop("finding-id", f.ID)
	e.prop("class", f.Class)
	e.prop("severity", f.Severity)
	e.prop("kind", f.Kind)
	e.prop("message", f.Message)
	e.prop("log-origin", f.Log)
	if f.Index != nil {
		e.prop("log-index", strconv.FormatUint(*f.Index, 10))
	}
	for i, k := range slices.Sorted(maps.Keys(f.Subject)) {
		if i == 64 {
			break
		}
		e.prop("subject", k+"="+f.Subject[k])
	}
	e.prop("verified-by", d.o.Monitor)
	e.close(']')
	e.raw(`,"methods":["TEST"],"types":["finding"]`)
	e.stamp(`"collected":`, d.or(f.FoundAt))
	e.close('}')
	if err := d.observations.add(e.b); err != nil {
		return err
	}
	if i := slices.Index(d.all, &objectiveLog); i >= 0 {
		// Others are about names that somebody watches, or about how well the log works.
		if f.Class == "tamper" || f.Class == "invalid" {
			return d.count(i, checkFail, observation)
		}
		return d.count(i, checkWarning, observation)
	}
	return nil
}

// Write writes the document.
func (d *OSCAL) Write(w io.Writer) error {
	out := bufio.NewWriterSize(w, 64<<10)
	content := hexOf(d.content.Sum(nil))
	plan := uuidOf("resource", "assessment plan")
	start, end := d.o.Since, d.o.Until
	if start.IsZero() {
		start = d.or(d.first)
	}
	if end.IsZero() {
		end = d.or(d.last)
	}
	flush := func() error {
		_, err := out.Write(d.e.b)
		d.e.b = d.e.b[:0]
		return err
	}
	e := d.reset()
	e.object(`"assessment-results":`)
	e.lit(`"uuid":`, uuidOf("assessment-results", content))
	e.object(`"metadata":`)
	e.lit(`"title":`, "Attested AI session evidence")
	e.stamp(`"last-modified":`, d.o.At)
	e.lit(`"version":`, "1")
	e.lit(`"oscal-version":`, oscalVersion)
	e.close('}')
	e.object(`"import-ap":`)
	e.lit(`"href":`, "#"+plan)
	e.close('}')
	e.array(`"results":`)
	e.open('{')
	e.lit(`"uuid":`, uuidOf("result", content))
	e.lit(`"title":`, "Confidential AI work, verified")
	e.lit(`"description":`, fmt.Sprintf("%d records of attested AI work, each verified again. Objectives are those of affidavit; controls are named as related only, and none is declared satisfied.", d.records))
	e.stamp(`"start":`, start)
	e.stamp(`"end":`, end)
	e.array(`"props":`)
	e.prop("records", strconv.FormatUint(d.records, 10))
	e.prop("appraisal-policy-sha256", d.o.PolicySHA256)
	e.prop("monitor", d.o.Monitor)
	e.close(']')
	e.object(`"local-definitions":`)
	if d.components.n > 0 {
		e.array(`"components":`)
		if err := cmp.Or(flush(), d.components.copyTo(out)); err != nil {
			return err
		}
		e.raw("],")
	}
	e.raw(`"assessment-assets":{"components":[{"uuid":"` + uuidOf("component", toolUUIDName) + `","type":"software","title":"affidavit verifier","description":"Verifier that needs no network.","status":{"state":"operational"},"props":[`)
	e.b = append(e.b, "{\"name\":\"version\""...)
	e.str(`"value":`, Version())
	e.raw(`}]}],"assessment-platforms":[{"uuid":"` + uuidOf("platform", toolUUIDName) + `","title":"auditor workstation"}]}}`)

	related := make(map[string]bool)
	for _, o := range d.all {
		for _, c := range o.controls {
			related[c] = true
		}
	}
	e.object(`"reviewed-controls":`)
	e.lit(`"description":`, "Controls of NIST SP 800-53 Rev. 5 to which the objectives are related. The assessment says nothing about whether they are satisfied.")
	e.raw(`,"control-selections":[{"description":"Related controls.","include-controls":[`)
	for i, c := range slices.Sorted(maps.Keys(related)) {
		if i > 0 {
			e.raw(",")
		}
		e.raw(`{"control-id":"` + c + `"}`)
	}
	e.raw(`]}],"control-objective-selections":[{"description":"Objectives of affidavit.","include-objectives":[`)
	for i, o := range d.all {
		if i > 0 {
			e.raw(",")
		}
		e.raw(`{"objective-id":"` + o.id + `"}`)
	}
	e.raw(`]}]}`)

	summary := uuidOf("observation", "summary/"+content)
	e.array(`"observations":`)
	e.open('{')
	e.lit(`"uuid":`, summary)
	e.lit(`"title":`, "All records of the assessment")
	e.lit(`"description":`, fmt.Sprintf("%d records and %d findings of the log's monitor were looked at.", d.records, d.alerts))
	e.raw(`,"methods":["TEST"],"types":["control-objective"]`)
	e.stamp(`"collected":`, d.or(d.last))
	e.close('}')
	if d.observations.n > 0 {
		e.raw(",")
		if err := cmp.Or(flush(), d.observations.copyTo(out)); err != nil {
			return err
		}
	}
	e.raw("]")
	if len(d.advisories) > 0 {
		e.raw(`,"risks":[`)
		for i, a := range slices.Sorted(maps.Keys(d.advisories)) {
			if i > 0 {
				e.raw(",")
			}
			e.raw(`{"uuid":"` + uuidOf("risk", content+a) + `","title":"Platforms with an open security advisory","description":"Records were made on platforms that a security advisory of their maker affects.",` +
				`"statement":"A vulnerable platform is not a breach. Whether the vulnerability was used, no attestation shows.","props":[`)
			e.b = append(e.b, `{"name":"records","ns":"`+oscalNS+`","value":"`+strconv.FormatUint(d.advisories[a], 10)+`"}`...)
			e.prop("advisory", orUnknown(a))
			e.raw(`],"status":"open"}`)
		}
		e.raw("]")
	}
	e.raw(`,"findings":[`)
	for i, o := range d.all {
		if i > 0 {
			e.raw(",")
		}
		if err := d.finding(o, &d.counts[i], d.failing[i], summary, content, out, flush); err != nil {
			return err
		}
	}
	e.raw(`]}],"back-matter":{"resources":[{"uuid":"` + plan + `","title":"Assessment plan","description":"There is no document: each record is verified, and judged by the reader's appraisal policy."}`)
	if d.resources.n > 0 {
		e.raw(",")
		if err := cmp.Or(flush(), d.resources.copyTo(out)); err != nil {
			return err
		}
	}
	e.raw("]}}}\n")
	return cmp.Or(flush(), out.Flush())
}

// finding appends the finding about one objective.
func (d *OSCAL) finding(o *oscalObjective, c *counts, failing *spool, summary, content string, out io.Writer, flush func() error) error {
	e := &d.e
	state, reason, text := "satisfied", "pass", "Every record to which it applies passed."
	// The monitor's silence is what its objective asks for; of records, there must be some.
	nothing := c.passed+c.tolerated+c.failed+c.unknown == 0 && o != &objectiveLog
	switch {
	case c.failed > 0:
		state, reason, text = "not-satisfied", "fail", fmt.Sprintf("%d of the records don't satisfy it.", c.failed)
		if o == &objectiveLog {
			text = fmt.Sprintf("There are %d findings.", c.failed)
		}
	case c.unknown > 0:
		state, reason, text = "not-satisfied", "other", fmt.Sprintf("Nothing contradicts it, but the evidence of %d records doesn't show it.", c.unknown)
	case nothing:
		state, reason, text = "not-satisfied", "other", "No record is about it."
	case o == &objectiveLog:
		text = "The monitor has found nothing that contradicts it."
	}
	e.raw(`{"uuid":"` + uuidOf("finding", content+o.id) + `"`)
	e.lit(`"title":`, o.title)
	e.lit(`"description":`, o.description+" "+text)
	e.array(`"props":`)
	e.prop("passed", strconv.FormatUint(c.passed, 10))
	e.prop("tolerated", strconv.FormatUint(c.tolerated, 10))
	e.prop("failed", strconv.FormatUint(c.failed, 10))
	e.prop("unknown", strconv.FormatUint(c.unknown, 10))
	for _, control := range o.controls {
		e.prop("related-control", control)
	}
	e.raw(`],"target":{"type":"objective-id","target-id":"` + o.id + `","status":{"state":"` + state + `","reason":"` + reason + `"}},"related-observations":[`)
	if failing.n == 0 {
		e.raw(`{"observation-uuid":"` + summary + `"}]}`)
		return nil
	}
	if err := cmp.Or(flush(), failing.copyTo(out)); err != nil {
		return err
	}
	e.raw("]}")
	return nil
}
