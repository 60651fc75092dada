package tdx

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// The signed texts are parsed with exact member names, and without duplicates.
// Members that aren't known are ignored, as Intel's library does: the text is
// signed, and Intel has added members without a new version (such as category
// and type of a component), which must not stop every verifier. Members that are
// known must be there, and not null, hence all the pointers; but see optional.

type tcbInfoJSON struct {
	ID                      *string                        `json:"id"`
	Version                 *uint32                        `json:"version"`
	IssueDate               *string                        `json:"issueDate"`
	NextUpdate              *string                        `json:"nextUpdate"`
	FMSPC                   *string                        `json:"fmspc"`
	PCEID                   *string                        `json:"pceId"`
	TCBType                 *uint32                        `json:"tcbType"`
	TCBEvaluationDataNumber *uint32                        `json:"tcbEvaluationDataNumber"`
	TDXModule               *moduleJSON                    `json:"tdxModule"`
	TDXModuleIdentities     optional[[]moduleIdentityJSON] `json:"tdxModuleIdentities"`
	TCBLevels               []tcbLevelJSON                 `json:"tcbLevels"`
}

type moduleJSON struct {
	MRSigner       *string `json:"mrsigner"`
	Attributes     *string `json:"attributes"`
	AttributesMask *string `json:"attributesMask"`
}

type moduleIdentityJSON struct {
	ID             *string        `json:"id"`
	MRSigner       *string        `json:"mrsigner"`
	Attributes     *string        `json:"attributes"`
	AttributesMask *string        `json:"attributesMask"`
	TCBLevels      []isvLevelJSON `json:"tcbLevels"`
}

type isvLevelJSON struct {
	TCB *struct {
		ISVSVN *uint16 `json:"isvsvn"`
	} `json:"tcb"`
	TCBDate     *string             `json:"tcbDate"`
	TCBStatus   *string             `json:"tcbStatus"`
	AdvisoryIDs optional[[]*string] `json:"advisoryIDs"`
}

type tcbLevelJSON struct {
	TCB *struct {
		SGX    []componentJSON `json:"sgxtcbcomponents"`
		PCESVN *uint16         `json:"pcesvn"`
		TDX    []componentJSON `json:"tdxtcbcomponents"`
	} `json:"tcb"`
	TCBDate     *string             `json:"tcbDate"`
	TCBStatus   *string             `json:"tcbStatus"`
	AdvisoryIDs optional[[]*string] `json:"advisoryIDs"`
}

type componentJSON struct {
	SVN      *uint8           `json:"svn"`
	Category optional[string] `json:"category"` // for people, like Type
	Type     optional[string] `json:"type"`
}

// An optional member can be absent, but not null, nor of another type.
type optional[T any] struct{ value *T }

// UnmarshalJSON implements json.Unmarshaler.
func (o *optional[T]) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return errors.New("null, want a value or no member")
	}
	o.value = new(T)
	return json.Unmarshal(b, o.value)
}

// A tcbInfo is a parsed TCB info of version 3 for TDX.
type tcbInfo struct {
	window     window
	fmspc      string // lowercase hex
	pceid      string // lowercase hex
	evaluation uint32
	module     moduleIdentity // for modules of version 0; no id, no levels
	identities []moduleIdentity
	levels     []tcbLevel // sorted, highest first; not empty
}

// A moduleIdentity is what TCB info says about the TDX modules of a version.
type moduleIdentity struct {
	id         string   // such as "TDX_01", in upper case
	mrsigner   [48]byte // of the module
	attributes [8]byte
	levels     []isvLevel // sorted, highest first; not empty
}

// An isvLevel is a TCB level of a TDX module or a quoting enclave.
type isvLevel struct {
	svn       uint16
	component Component // all but SVN
}

// A tcbLevel is a TCB level of a platform.
type tcbLevel struct {
	sgx       [16]byte
	pcesvn    uint16
	tdx       [16]byte
	component Component
}

// compare orders levels by SGX components, then PCESVN, then TDX components,
// each list lexicographically (operator> in Intel's TcbLevel.cpp).
func (l *tcbLevel) compare(m *tcbLevel) int {
	if c := bytes.Compare(l.sgx[:], m.sgx[:]); c != 0 {
		return c
	}
	if l.pcesvn != m.pcesvn {
		return int(l.pcesvn) - int(m.pcesvn)
	}
	return bytes.Compare(l.tdx[:], m.tdx[:])
}

// parseTCBInfo parses the signed text of TCB info. Errors have ReasonTCB.
func parseTCBInfo(text []byte) (*tcbInfo, error) {
	t, err := parseTCBInfoText(text)
	if err != nil {
		return nil, refuse(ReasonTCB, "TCB info: %w", err)
	}
	return t, nil
}

func parseTCBInfoText(text []byte) (*tcbInfo, error) {
	var j tcbInfoJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return nil, err
	}
	if j.ID == nil || *j.ID != "TDX" {
		return nil, fmt.Errorf("id %s, want \"TDX\"", show(j.ID))
	}
	if j.Version == nil || *j.Version != 3 {
		return nil, fmt.Errorf("version %s, want 3", show(j.Version))
	}
	// TcbInfo.cpp knows no other type, that is, no other way to compare levels.
	if j.TCBType == nil || *j.TCBType != 0 {
		return nil, fmt.Errorf("tcbType %s, want 0", show(j.TCBType))
	}
	if j.TCBEvaluationDataNumber == nil {
		return nil, fmt.Errorf("tcbEvaluationDataNumber missing")
	}
	t := &tcbInfo{evaluation: *j.TCBEvaluationDataNumber}
	var err error
	if t.window, err = parseWindow("TCB info", j.IssueDate, j.NextUpdate); err != nil {
		return nil, err
	}
	var fmspc [6]byte
	if err := parseHex("fmspc", j.FMSPC, fmspc[:]); err != nil {
		return nil, err
	}
	t.fmspc = hex.EncodeToString(fmspc[:])
	var pceid [2]byte
	if err := parseHex("pceId", j.PCEID, pceid[:]); err != nil {
		return nil, err
	}
	t.pceid = hex.EncodeToString(pceid[:])
	if j.TDXModule == nil {
		return nil, fmt.Errorf("tdxModule missing")
	}
	if err := t.module.parse(j.TDXModule); err != nil {
		return nil, fmt.Errorf("tdxModule: %w", err)
	}
	if identities := j.TDXModuleIdentities.value; identities != nil {
		for i := range *identities {
			if err := t.addIdentity(&(*identities)[i]); err != nil {
				return nil, fmt.Errorf("tdxModuleIdentities[%d]: %w", i, err)
			}
		}
		if len(t.identities) == 0 {
			return nil, fmt.Errorf("tdxModuleIdentities is empty")
		}
	}
	for i := range j.TCBLevels {
		l, err := parseTCBLevel(&j.TCBLevels[i])
		if err != nil {
			return nil, fmt.Errorf("tcbLevels[%d]: %w", i, err)
		}
		t.levels = append(t.levels, l)
	}
	if len(t.levels) == 0 {
		return nil, fmt.Errorf("no tcbLevels")
	}
	// Whoever serves the info may have changed nothing, not even the order, but
	// Intel doesn't promise one: its library keeps levels in a sorted set, and
	// refuses two that are equal, whose order would decide.
	slices.SortFunc(t.levels, func(a, b tcbLevel) int { return b.compare(&a) })
	for i := 1; i < len(t.levels); i++ {
		if t.levels[i].compare(&t.levels[i-1]) == 0 {
			return nil, fmt.Errorf("two TCB levels with the same SVNs")
		}
	}
	return t, nil
}

// addIdentity parses a module identity and adds it to t.
func (t *tcbInfo) addIdentity(j *moduleIdentityJSON) error {
	if j.ID == nil {
		return fmt.Errorf("id missing")
	}
	m := moduleIdentity{id: strings.ToUpper(*j.ID)}
	if t.identity(m.id) != nil {
		return fmt.Errorf("second identity with id %q", m.id)
	}
	if err := m.parse(&moduleJSON{j.MRSigner, j.Attributes, j.AttributesMask}); err != nil {
		return err
	}
	levels, err := parseISVLevels(j.TCBLevels)
	if err != nil {
		return err
	}
	// TdxModuleIdentity.cpp keeps levels in a sorted set without duplicates.
	slices.SortFunc(levels, func(a, b isvLevel) int { return int(b.svn) - int(a.svn) })
	for i := 1; i < len(levels); i++ {
		if levels[i].svn == levels[i-1].svn {
			return fmt.Errorf("two TCB levels with isvsvn %d", levels[i].svn)
		}
	}
	m.levels = levels
	t.identities = append(t.identities, m)
	return nil
}

// identity returns the module identity with that id, or nil.
func (t *tcbInfo) identity(id string) *moduleIdentity {
	for i := range t.identities {
		if t.identities[i].id == id {
			return &t.identities[i]
		}
	}
	return nil
}

// parse sets what a module identity has in common with the module of version 0.
// The mask of attributes must be well-formed, but isn't used, see checkModule.
func (m *moduleIdentity) parse(j *moduleJSON) error {
	if err := parseHex("mrsigner", j.MRSigner, m.mrsigner[:]); err != nil {
		return err
	}
	if err := parseHex("attributes", j.Attributes, m.attributes[:]); err != nil {
		return err
	}
	var mask [8]byte
	return parseHex("attributesMask", j.AttributesMask, mask[:])
}

// parseTCBLevel parses a TCB level of a platform. An unknown status is refused
// here, as in TcbLevel.cpp.
func parseTCBLevel(j *tcbLevelJSON) (l tcbLevel, err error) {
	if j.TCB == nil || j.TCB.PCESVN == nil {
		return l, fmt.Errorf("tcb or pcesvn missing")
	}
	l.pcesvn = *j.TCB.PCESVN
	if err := parseComponents("sgxtcbcomponents", j.TCB.SGX, &l.sgx); err != nil {
		return l, err
	}
	if err := parseComponents("tdxtcbcomponents", j.TCB.TDX, &l.tdx); err != nil {
		return l, err
	}
	if l.component, err = parseComponent(j.TCBStatus, j.TCBDate, j.AdvisoryIDs); err != nil {
		return l, err
	}
	if !l.component.Status.valid() {
		return l, fmt.Errorf("unknown tcbStatus %q", l.component.Status)
	}
	return l, nil
}

func parseComponents(name string, j []componentJSON, svns *[16]byte) error {
	if len(j) != len(svns) {
		return fmt.Errorf("%d %s, want %d", len(j), name, len(svns))
	}
	for i, c := range j {
		if c.SVN == nil {
			return fmt.Errorf("%s[%d] without svn", name, i)
		}
		svns[i] = *c.SVN
	}
	return nil
}

// parseISVLevels parses a non-empty list of levels of a module or an enclave.
func parseISVLevels(j []isvLevelJSON) ([]isvLevel, error) {
	if len(j) == 0 {
		return nil, fmt.Errorf("no tcbLevels")
	}
	levels := make([]isvLevel, len(j))
	for i := range j {
		if j[i].TCB == nil || j[i].TCB.ISVSVN == nil {
			return nil, fmt.Errorf("tcbLevels[%d]: tcb or isvsvn missing", i)
		}
		c, err := parseComponent(j[i].TCBStatus, j[i].TCBDate, j[i].AdvisoryIDs)
		if err != nil {
			return nil, fmt.Errorf("tcbLevels[%d]: %w", i, err)
		}
		levels[i] = isvLevel{*j[i].TCB.ISVSVN, c}
	}
	return levels, nil
}

// parseComponent parses what all levels have in common. Whether the status is
// known is for the caller to check.
func parseComponent(status, date *string, advisories optional[[]*string]) (c Component, err error) {
	if status == nil {
		return c, fmt.Errorf("tcbStatus missing")
	}
	c.Status = Status(*status)
	if c.Date, err = parseDate("tcbDate", date); err != nil {
		return c, err
	}
	if advisories.value != nil {
		for i, a := range *advisories.value {
			if a == nil || *a == "" {
				return c, fmt.Errorf("advisoryIDs[%d] is null or empty", i)
			}
			c.Advisories = append(c.Advisories, *a)
		}
	}
	return c, nil
}

func parseWindow(item string, from, to *string) (window, error) {
	f, err := parseDate("issueDate", from)
	if err != nil {
		return window{}, err
	}
	t, err := parseDate("nextUpdate", to)
	if err != nil {
		return window{}, err
	}
	return window{item, f, t}, nil
}

// parseDate parses a time in the one form that Intel uses.
func parseDate(name string, s *string) (time.Time, error) {
	const layout = "2006-01-02T15:04:05Z"
	if s == nil {
		return time.Time{}, fmt.Errorf("%s missing", name)
	}
	t, err := time.Parse(layout, *s)
	if err != nil || t.Format(layout) != *s {
		return time.Time{}, fmt.Errorf("%s %q isn't of the form %s", name, *s, layout)
	}
	return t, nil
}

// parseHex decodes s, in either case, into all of dst.
func parseHex(name string, s *string, dst []byte) error {
	if s == nil {
		return fmt.Errorf("%s missing", name)
	}
	if len(*s) != 2*len(dst) {
		return fmt.Errorf("%s of %d hexadecimal digits, want %d", name, len(*s), 2*len(dst))
	}
	if _, err := hex.Decode(dst, []byte(*s)); err != nil {
		return fmt.Errorf("%s: %v", name, err)
	}
	return nil
}

// show renders a member for an error message.
func show[T any](p *T) string {
	if p == nil {
		return "missing"
	}
	return fmt.Sprintf("%#v", *p)
}
