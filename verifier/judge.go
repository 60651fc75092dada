package verifier

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A report collects claims in the order of their importance, and refusals.
type report struct {
	p        *Policy
	claims   []Claim
	refusals []Refusal
}

func (r *report) claim(id, label, value string, source Source, status ClaimStatus, note string) {
	r.claims = append(r.claims, Claim{ID: id, Label: label, Value: value, Source: source, Status: status, Note: note})
}

func (r *report) refuse(code Code, field, got, want, format string, args ...any) {
	r.refusals = append(r.refusals, Refusal{Code: code, Field: field, Got: got, Want: want, Message: fmt.Sprintf(format, args...)})
}

// judged is the status of what a policy was asked about.
func judged(ok bool) ClaimStatus {
	if ok {
		return StatusHolds
	}
	return StatusFailed
}

// platform judges what Intel's rules say about the platform.
func (r *report) platform(root *tdx.Root, q *tdx.Quote, res *tdx.Result, at time.Time) {
	name, note := "Intel TDX", "Every signature verifies, from the root of the processor's maker to this quote."
	if !root.IsIntel() {
		name += ", made up"
		note = fmt.Sprintf("Verified under the root %x, which isn't Intel's: for tests and demonstrations. Nothing here is about real hardware.", root.Fingerprint())
	}
	r.claim("tee", "Confidential hardware", fmt.Sprintf("%s (quote version %d)", name, q.Version), SourceHardware, StatusHolds, note)

	ok := r.p.acceptsStatus(res.Status)
	if !ok {
		r.refuse(CodeTCBStatus, "tcb.statuses", string(res.Status), join(r.p.acceptedStatuses(), "or"),
			"the platform's TCB status was %s", res.Status)
	}
	note = "By Intel's data of " + date(res.CollateralFrom) + "."
	switch res.Status {
	case tdx.StatusUpToDate:
		note += " Says nothing about vulnerabilities that were published later."
	case tdx.StatusTDRelaunchAdvised, tdx.StatusTDRelaunchAdvisedConfigurationNeeded:
		note += " The platform was brought up to date after this TD was launched."
	default:
		note += " A platform with known vulnerabilities is not a breach."
	}
	r.claim("tcb", "Platform firmware (TCB status)", string(res.Status), SourceVerifier, judged(ok), note)
	r.advisories(res, at)
}

// collateral says by which data of Intel the platform was judged.
func (r *report) collateral(res *tdx.Result, at time.Time) {
	age, limit := at.Sub(res.CollateralFrom), r.p.collateralMaxAge
	old := limit > 0 && age > limit
	if old {
		r.refuse(CodeCollateralAge, "tcb.collateral-max-age", age.String(), "at most "+limit.String(),
			"the platform was judged by data of Intel that was %s old", age.Round(time.Second))
	}
	r.claim("tcb.collateral", "Intel's data about platforms", fmt.Sprintf("number %d, valid %s to %s", res.TCBEvaluationDataNumber, timestamp(res.CollateralFrom), timestamp(res.CollateralTo)),
		SourceVerifier, judged(!old), "")
}

func (r *report) advisories(res *tdx.Result, at time.Time) {
	const id, label = "advisories", "Security advisories that affect the platform"
	if len(res.Advisories) == 0 {
		r.claim(id, label, "none", SourceVerifier, StatusHolds, "")
		return
	}
	var list, tolerated []string
	seen := make(map[string]bool)
	ok := true
	for _, a := range res.Advisories {
		list = append(list, fmt.Sprintf("%s (%s)", clean(a.ID), a.Source))
		if seen[a.ID] {
			continue
		}
		seen[a.ID] = true
		until, known := r.p.tolerates(a.ID)
		switch {
		case !known:
			ok = false
			r.refuse(CodeAdvisory, "tcb.advisories", a.ID, "", "security advisory %s affects the %s", a.ID, parts[a.Source])
		case !at.Before(until):
			ok = false
			r.refuse(CodeAdvisory, "tcb.advisories", a.ID, "before "+date(until), "security advisory %s affects the %s, and is tolerated until %s only", a.ID, parts[a.Source], date(until))
		default:
			tolerated = append(tolerated, fmt.Sprintf("%s until %s", a.ID, date(until)))
		}
	}
	note := ""
	if tolerated != nil {
		note = "Your appraisal policy tolerates " + strings.Join(tolerated, ", ") + "."
	}
	r.claim(id, label, strings.Join(list, ", "), SourceVerifier, judged(ok), note)
}

var parts = map[tdx.Source]string{
	tdx.SourcePlatform: "platform", tdx.SourceModule: "TDX module", tdx.SourceQE: "quoting enclave",
}

// defaultXFAM has the extended features that TDX allows TDs, and that don't
// weaken them: x87, SSE, AVX, AVX-512, PT, PKU, PASID aside, CET, user
// interrupts, LBR, AMX (Intel TDX Module Base Architecture Specification,
// "XFAM").
const defaultXFAM = 0x0006dbe7

// td judges what the host configured for the TD.
func (r *report) td(q *tdx.Quote) {
	a := q.Body.TDAttributes
	flag := func(id, label string, bad, allowed bool, code Code, field, good, is, note, message string) {
		if !bad {
			r.claim(id, label, good, SourceHardware, StatusHolds, note)
			return
		}
		r.claim(id, label, is, SourceHardware, judged(allowed), note)
		if !allowed {
			r.refuse(code, field, is, good, "%s", message)
		}
	}
	flag("td.debug", "Debug mode", a.Debug(), r.p.allowDebug, CodeDebug, "td.allow-debug", "off", "on", "",
		"the TD is a debug TD: its host can read and change everything in it")
	flag("td.migratable", "Migration to other machines", a.Migratable(), r.p.allowMigratable, CodeMigratable, "td.allow-migratable", "impossible", "possible", "",
		"the TD can be migrated to another machine")
	flag("td.sept-ve", "Host interference by faults (SEPT_VE_DISABLE)", !a.SEPTVEDisable(), r.p.allowSEPTVE, CodeSEPTVE, "td.allow-sept-ve", "disabled", "not disabled", "",
		"SEPT_VE_DISABLE isn't set: the host can raise exceptions in the TD by taking pages away")

	const memory, label = "memory-encryption", "Memory encryption"
	if a.Debug() {
		r.claim(memory, label, "readable by the host", SourceHardware, judged(r.p.allowDebug), "In debug mode the host reads memory in the clear.")
	} else {
		r.claim(memory, label, "private memory is encrypted", SourceHardware, StatusHolds,
			"A TD that isn't in debug mode can't switch it off. Says nothing about memory that the TD shares with the host on purpose, or about devices.")
	}
}

// tdDetails judges the rest of the TD's configuration.
func (r *report) tdDetails(q *tdx.Quote) {
	a := q.Body.TDAttributes
	status := StatusHolds
	if a.PerfMon() && !r.p.allowPerfMon {
		status = StatusFailed
		r.refuse(CodePerfMon, "td.allow-perfmon", "set", "not set", "PERFMON is set: the TD may use performance monitoring")
	}
	if a.Reserved() != 0 && !r.p.allowReserved {
		status = StatusFailed
		r.refuse(CodeReserved, "td.allow-reserved-attributes", fmt.Sprintf("%#x", a.Reserved()), "0",
			"the TD has attributes whose meaning this verifier doesn't know: %#x", a.Reserved())
	}
	r.claim("td.attributes", "TD attributes", attributes(a), SourceHardware, status, "")

	xfam, allowed := binary.LittleEndian.Uint64(q.Body.XFAM[:]), uint64(defaultXFAM)
	if r.p.xfam != nil {
		allowed = *r.p.xfam
	}
	extra := xfam &^ allowed
	if extra != 0 {
		r.refuse(CodeXFAM, "td.xfam", fmt.Sprintf("%016x", xfam), fmt.Sprintf("within %016x", allowed),
			"the TD may use processor features that aren't allowed: %#x", extra)
	}
	r.claim("td.xfam", "Processor features (XFAM)", fmt.Sprintf("%016x", xfam), SourceHardware, judged(extra == 0), "")

	const id, label = "td.service-td", "Service TDs, such as for migration"
	switch s := q.Body.MRServiceTD; {
	case s == nil && r.p.requireServiceTD:
		r.claim(id, label, "unknown", SourceUnknown, StatusFailed, "Quotes with a TD report of TDX 1.0 don't say.")
		r.refuse(CodeServiceTD, "td.require-known-service-td", "unknown", "known", "the quote doesn't say whether a service TD is bound to the TD")
	case s == nil:
		r.claim(id, label, "unknown", SourceUnknown, StatusUnknown, "Quotes with a TD report of TDX 1.0 don't say.")
	case bytes.Equal(s, make([]byte, len(s))):
		r.claim(id, label, "none bound", SourceHardware, StatusHolds, "")
	default:
		ok := slices.ContainsFunc(r.p.serviceTDs, func(b []byte) bool { return bytes.Equal(b, s) })
		if !ok {
			r.refuse(CodeServiceTD, "td.service-tds", hex.EncodeToString(s), "none", "a service TD is bound to the TD that the appraisal policy doesn't name")
		}
		r.claim(id, label, hex.EncodeToString(s), SourceHardware, judged(ok), "A service TD can have access to the TD's state.")
	}
}

// attributes names what is set.
func attributes(a tdx.TDAttributes) string {
	var set []string
	for _, f := range []struct {
		is   bool
		name string
	}{
		{a.Debug(), "DEBUG"}, {a.LASS(), "LASS"}, {a.SEPTVEDisable(), "SEPT_VE_DISABLE"}, {a.Migratable(), "MIGRATABLE"},
		{a.PKS(), "PKS"}, {a.KeyLocker(), "KL"}, {a.TPA(), "TPA"}, {a.PerfMon(), "PERFMON"},
	} {
		if f.is {
			set = append(set, f.name)
		}
	}
	if x := a.Reserved(); x != 0 {
		set = append(set, fmt.Sprintf("reserved %#x", x))
	}
	if set == nil {
		set = []string{"none"}
	}
	return fmt.Sprintf("%x (%s)", a[:], strings.Join(set, ", "))
}

// machine says which platform it was, and what a quote can't say about it.
func (r *report) machine(res *tdx.Result) {
	named := slices.Contains(r.p.platforms, res.PPID)
	note := "Your appraisal policy names no platforms, so that any will do."
	switch {
	case named:
		note = "Your appraisal policy names this platform."
	case r.p.platforms != nil:
		note = "Your appraisal policy doesn't name this platform."
		r.refuse(CodePlatform, "platforms", res.PPID, "a platform that the appraisal policy names", "the platform %s isn't one that the appraisal policy names", res.PPID)
	}
	// The certificate of the platform says it, not the quote's fields.
	r.claim("platform.id", "Platform", fmt.Sprintf("PPID %s, FMSPC %s", res.PPID, res.FMSPC), SourceVerifier, judged(named || r.p.platforms == nil), note)

	note = "Assumption: nobody extracted this platform's keys by physical means (TEE.fail, WireTap, Battering RAM and their kin). Whoever has them can forge quotes, and no quote shows that."
	if named {
		note += " That you know the platform helps if you know who guards it."
	}
	r.claim("platform.physical", "Physical attacks on the platform", "assumed not to have happened", SourceUnknown, StatusUnknown, note)
	r.claim("platform.location", "Where the platform is", "unknown", SourceUnknown, StatusUnknown, "A quote doesn't say where a platform is, or who operates it.")
}

// measured shows the measurements.
func (r *report) measured(q *tdx.Quote) {
	for _, f := range (&measurements{}).fields() {
		b := f.of(&q.Body)
		value, note := hex.EncodeToString(b), ""
		switch f.name {
		case "mrconfigid", "mrowner", "mrownerconfig":
			if bytes.Equal(b, make([]byte, len(b))) {
				continue
			}
			note = "Set by the host, not measured."
		case "mrseam":
			note = "The TDX module, which Intel signed."
		}
		r.claim("measurement."+f.name, strings.ToUpper(f.name), value, SourceHardware, StatusHolds, note)
	}
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02") }

func timestamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// maxValue is the length in runes of the longest text of others in a claim.
const maxValue = 300

// clean makes text of others fit to be shown: characters that don't print, or
// that change the direction of text, are replaced.
func clean(s string) string {
	if utf8.ValidString(s) && len(s) <= maxValue && !strings.ContainsFunc(s, unprintable) {
		return s
	}
	var b strings.Builder
	n := 0
	for _, c := range s {
		if n++; n > maxValue {
			b.WriteRune('…')
			break
		}
		if unprintable(c) {
			c = utf8.RuneError
		}
		b.WriteRune(c)
	}
	return b.String()
}

func unprintable(c rune) bool { return !unicode.IsPrint(c) && c != ' ' || c == utf8.RuneError }

func plural(n uint64, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + one + "s"
}
