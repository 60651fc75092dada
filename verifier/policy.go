package verifier

import (
	"bytes"
	"crypto/ed25519"
	"slices"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// DefaultMaxWidth is how wide the proven interval of a statement may be unless a
// policy says otherwise. Freshness is at most minutes old when a log admits a
// statement, and a log timestamps about once a minute; an hour leaves room for
// slow witnesses.
const DefaultMaxWidth = time.Hour

// A Policy is an appraisal policy: which genuine records are good enough for one
// reader. The zero value is the strictest: it accepts nothing but UpToDate
// platforms without open advisories, TDs in the recommended configuration,
// statement/v1 records with proven times, models in TEEs with records of their
// own, and technical retention; and it names no measurement, so that
// [Verifier.Verify] refuses everything. POLICY.md documents the fields.
//
// A Policy is immutable and can be used concurrently.
type Policy struct {
	measurements []measurementSet
	releaseKeys  []releaseKeys

	statuses         []tdx.Status // nil: UpToDate
	advisories       []toleratedAdvisory
	collateralMaxAge time.Duration // 0: as long as Intel says that it is valid

	allowDebug, allowMigratable, allowSEPTVE, allowPerfMon, allowReserved bool
	xfam                                                                  *uint64 // nil: defaultXFAM
	serviceTDs                                                            [][]byte
	requireServiceTD                                                      bool

	platforms []string         // lower case hex PPIDs; nil: any
	profiles  []record.Profile // nil: statement/v1

	allowUnproven bool
	maxWidth      time.Duration // 0: DefaultMaxWidth

	execution     []string // nil: tee
	allowUnlinked bool

	enforcement                    []string // nil: technical
	allowPersistent, allowUnerased bool

	appraisers []string
}

// A measurementSet is a set of measurements that a reader pins. A nil field
// matches anything.
type measurementSet struct {
	name string
	measurements
}

// measurements are what a quote's fields must equal; nil is not constrained.
type measurements struct {
	mrtd                                       []byte
	rtmr                                       [4][]byte
	mrConfigID, mrOwner, mrOwnerConfig, mrSEAM []byte
}

type releaseKeys struct {
	vendor string
	keys   []releaseKey
}

type releaseKey struct {
	id  string // record.KeyID
	pub ed25519.PublicKey
}

type toleratedAdvisory struct {
	id    string
	until time.Time
}

// StrictPolicy returns the zero Policy.
func StrictPolicy() *Policy { return new(Policy) }

// NamesMeasurement reports whether the policy pins a measurement or trusts a
// release key. Without either nothing identifies the code that ran, and
// [Verifier.Verify] refuses every record.
func (p *Policy) NamesMeasurement() bool { return len(p.measurements)+len(p.releaseKeys) > 0 }

// WhatToPin tells a person what a policy needs that names no measurement.
const WhatToPin = `the appraisal policy names neither "measurements" nor "release-keys": ` +
	`pin the measurements (mrtd, rtmr0 to rtmr3) of the image that you reviewed, or the release key of a vendor that you trust to name them`

// Appraisers returns the verifier keys (vkeys) of the appraisers whose
// signatures the policy requires beside its own rules, all of them. Package
// bundle evaluates them.
func (p *Policy) Appraisers() []string { return slices.Clone(p.appraisers) }

// acceptsStatus reports whether the policy accepts a TCB status.
func (p *Policy) acceptsStatus(s tdx.Status) bool {
	if p.statuses == nil {
		return s == tdx.StatusUpToDate
	}
	return slices.Contains(p.statuses, s)
}

func (p *Policy) acceptedStatuses() []tdx.Status {
	if p.statuses == nil {
		return []tdx.Status{tdx.StatusUpToDate}
	}
	return p.statuses
}

// tolerates returns until when the policy tolerates an advisory.
func (p *Policy) tolerates(id string) (until time.Time, ok bool) {
	for _, a := range p.advisories {
		if a.id == id {
			return a.until, true
		}
	}
	return time.Time{}, false
}

func (p *Policy) acceptedProfiles() []record.Profile {
	if p.profiles == nil {
		return []record.Profile{record.ProfileStatement}
	}
	return p.profiles
}

func (p *Policy) acceptedExecution() []string {
	if p.execution == nil {
		return []string{record.ExecutionTEE}
	}
	return p.execution
}

func (p *Policy) acceptedEnforcement() []string {
	if p.enforcement == nil {
		return []string{record.EnforcementTechnical}
	}
	return p.enforcement
}

func (p *Policy) widest() time.Duration {
	if p.maxWidth == 0 {
		return DefaultMaxWidth
	}
	return p.maxWidth
}

// trusts returns the vendor's release key with the given id, if the policy
// trusts it.
func (p *Policy) trusts(vendor, keyid string) (ed25519.PublicKey, bool) {
	for _, v := range p.releaseKeys {
		if v.vendor != vendor {
			continue
		}
		for _, k := range v.keys {
			if k.id == keyid {
				return k.pub, true
			}
		}
	}
	return nil, false
}

// match returns which fields of the quote differ from m, nil if none does.
func (m *measurements) match(b *tdx.TDBody) (differ []string) {
	for _, f := range m.fields() {
		if f.want != nil && !bytes.Equal(f.want, f.of(b)) {
			differ = append(differ, f.name)
		}
	}
	return differ
}

// free returns the names of those fields that identify code and that m doesn't
// constrain.
func (m *measurements) free() (names []string) {
	fields := m.fields()
	for _, f := range fields[:identifying] {
		if f.want == nil {
			names = append(names, f.name)
		}
	}
	return names
}

// identifying is the number of those of [measurements.fields] that measure code.
// The host sets the others but MRSEAM, which is the TDX module's.
const identifying = 5

type measuredField struct {
	name string
	want []byte
	of   func(*tdx.TDBody) []byte
}

func (m *measurements) fields() [9]measuredField {
	return [...]measuredField{
		{"mrtd", m.mrtd, func(b *tdx.TDBody) []byte { return b.MRTD }},
		{"rtmr0", m.rtmr[0], func(b *tdx.TDBody) []byte { return b.RTMR[0] }},
		{"rtmr1", m.rtmr[1], func(b *tdx.TDBody) []byte { return b.RTMR[1] }},
		{"rtmr2", m.rtmr[2], func(b *tdx.TDBody) []byte { return b.RTMR[2] }},
		{"rtmr3", m.rtmr[3], func(b *tdx.TDBody) []byte { return b.RTMR[3] }},
		{"mrconfigid", m.mrConfigID, func(b *tdx.TDBody) []byte { return b.MRConfigID }},
		{"mrowner", m.mrOwner, func(b *tdx.TDBody) []byte { return b.MROwner }},
		{"mrownerconfig", m.mrOwnerConfig, func(b *tdx.TDBody) []byte { return b.MROwnerConfig }},
		{"mrseam", m.mrSEAM, func(b *tdx.TDBody) []byte { return b.MRSEAM }},
	}
}

// join lists words for people: "a", "a or b", "a, b or c".
func join[S ~string](words []S, last string) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" " + last + " ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}
