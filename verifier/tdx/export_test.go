package tdx

import (
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

var (
	ParseTCBInfo    = parseTCBInfo
	ParseQEIdentity = parseQEIdentity
)

// Cached returns how many platforms v remembers.
func (v *Verifier) Cached() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.platforms.Len()
}

// ExpiredItems returns the parts of s that have expired at that time.
func (s *Set) ExpiredItems(at time.Time) map[string]bool {
	items := make(map[string]bool)
	for i := range s.windows {
		if err := s.windows[i].check(at); err != nil && err.Reason == ReasonExpired {
			items[s.windows[i].item] = true
		}
	}
	return items
}

// Encode writes a text that says what t says.
func (t *tcbInfo) Encode() []byte {
	const layout = "2006-01-02T15:04:05Z"
	var b strings.Builder
	fmt.Fprintf(&b, `{"id":"TDX","version":3,"tcbType":0,"issueDate":%q,"nextUpdate":%q,"fmspc":%q,"pceId":%q,"tcbEvaluationDataNumber":%d`,
		t.window.from.Format(layout), t.window.to.Format(layout), t.fmspc, t.pceid, t.evaluation)
	signer := func(m *moduleIdentity) string {
		return fmt.Sprintf(`"mrsigner":"%x","attributes":"%x","attributesMask":"0000000000000000"`, m.mrsigner, m.attributes)
	}
	component := func(c Component) string {
		quoted, err := json.Marshal([]any{c.Advisories, c.Status})
		if err != nil {
			panic(err) // strings only, that came from JSON
		}
		return fmt.Sprintf(`"tcbDate":%q,"advisoryIDs":%s,"tcbStatus":%s`, c.Date.Format(layout), list(quoted, 0), list(quoted, 1))
	}
	fmt.Fprintf(&b, `,"tdxModule":{%s}`, signer(&t.module))
	if len(t.identities) > 0 {
		var ids []string
		for i := range t.identities {
			m := &t.identities[i]
			var levels []string
			for _, l := range m.levels {
				levels = append(levels, fmt.Sprintf(`{"tcb":{"isvsvn":%d},%s}`, l.svn, component(l.component)))
			}
			id, err := json.Marshal(m.id)
			if err != nil {
				panic(err)
			}
			ids = append(ids, fmt.Sprintf(`{"id":%s,%s,"tcbLevels":[%s]}`, id, signer(m), strings.Join(levels, ",")))
		}
		fmt.Fprintf(&b, `,"tdxModuleIdentities":[%s]`, strings.Join(ids, ","))
	}
	svns := func(s [16]byte) string {
		var list []string
		for _, v := range s {
			list = append(list, fmt.Sprintf(`{"svn":%d}`, v))
		}
		return strings.Join(list, ",")
	}
	var levels []string
	for _, l := range t.levels {
		levels = append(levels, fmt.Sprintf(`{"tcb":{"sgxtcbcomponents":[%s],"pcesvn":%d,"tdxtcbcomponents":[%s]},%s}`,
			svns(l.sgx), l.pcesvn, svns(l.tdx), component(l.component)))
	}
	fmt.Fprintf(&b, `,"tcbLevels":[%s]}`, strings.Join(levels, ","))
	return []byte(b.String())
}

// list returns element i of a JSON list.
func list(b []byte, i int) []byte {
	var l []jsontext.Value
	if err := json.Unmarshal(b, &l); err != nil {
		panic(err)
	}
	return l[i]
}
