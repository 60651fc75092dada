package verifier

import (
	"fmt"
	"strings"
	"time"
)

// A Rule is one rule of a policy, as it is in force.
type Rule struct {
	Key     string // in the policy's file, such as "tcb.statuses"
	Value   string // for people
	Default bool   // the policy says nothing about it
}

// Rules returns every rule that a policy can have, in the order of POLICY.md, with the
// value that is in force: those that the policy doesn't mention, too.
func (p *Policy) Rules() (rules []Rule) {
	add := func(key, value string, isDefault bool) { rules = append(rules, Rule{key, value, isDefault}) }
	list := func(key string, values []string, none string) {
		if len(values) == 0 {
			add(key, none, true)
			return
		}
		add(key, strings.Join(values, ", "), false)
	}
	allow := func(key string, is bool) {
		value := "no"
		if is {
			value = "yes"
		}
		add(key, value, !is)
	}
	duration := func(key string, d time.Duration, unless string) {
		if d == 0 {
			add(key, unless, true)
			return
		}
		add(key, d.String(), false)
	}

	var pinned, keys, advisories, services []string
	for _, m := range p.measurements {
		pinned = append(pinned, m.name)
	}
	for _, r := range p.releaseKeys {
		for _, k := range r.keys {
			keys = append(keys, r.vendor+" "+k.id)
		}
	}
	for _, a := range p.advisories {
		advisories = append(advisories, a.id+" until "+a.until.Format(timeLayout))
	}
	for _, b := range p.serviceTDs {
		services = append(services, fmt.Sprintf("%x", b))
	}
	list("measurements", pinned, "none is pinned")
	list("release-keys", keys, "none is trusted")
	add("tcb.statuses", strings.Join(texts(p.acceptedStatuses()), ", "), p.statuses == nil)
	list("tcb.advisories", advisories, "none is tolerated")
	duration("tcb.collateral-max-age", p.collateralMaxAge, "as long as Intel says that it is valid")
	allow("td.allow-debug", p.allowDebug)
	allow("td.allow-migratable", p.allowMigratable)
	allow("td.allow-sept-ve", p.allowSEPTVE)
	allow("td.allow-perfmon", p.allowPerfMon)
	allow("td.allow-reserved-attributes", p.allowReserved)
	xfam := uint64(defaultXFAM)
	if p.xfam != nil {
		xfam = *p.xfam
	}
	add("td.xfam", fmt.Sprintf("%016x", xfam), p.xfam == nil)
	list("td.service-tds", services, "none")
	allow("td.require-known-service-td", p.requireServiceTD)
	list("platforms", p.platforms, "any")
	add("profiles", strings.Join(texts(p.acceptedProfiles()), ", "), p.profiles == nil)
	allow("time.allow-unproven", p.allowUnproven)
	add("time.max-width", p.widest().String(), p.maxWidth == 0)
	add("models.execution", strings.Join(p.acceptedExecution(), ", "), p.execution == nil)
	allow("models.allow-no-record", p.allowUnlinked)
	add("retention.enforcement", strings.Join(p.acceptedEnforcement(), ", "), p.enforcement == nil)
	allow("retention.allow-persistent-storage", p.allowPersistent)
	allow("retention.allow-unerased", p.allowUnerased)
	list("appraisers", p.appraisers, "none is required")
	return rules
}
