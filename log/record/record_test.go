package record

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/mod/sumdb/tlog"
)

// nullable and optional are the members that may be null or missing, by their path
// without list indexes. FORMAT.md has the same lists.
var (
	nullable = []string{
		"predicate.measurements.rtmr", "predicate.measurements.mrConfigId",
		"predicate.measurements.mrOwner", "predicate.measurements.mrOwnerConfig", "predicate.notAfter",
	}
	optional = []string{
		"predicate.session.sequence", "predicate.challenge",
		"predicate.environment.egressPolicy", "predicate.environment.eventLog", "predicate.environment.accelerators",
		"predicate.models.responseModel", "predicate.models.modelRun", "predicate.actions.counts", "predicate.actions.outcomes",
		"predicate.model.responseModel", "predicate.model.weights", "predicate.model.bom",
		"predicate.upstream.modelRun",
		"predicate.measurements.mrOwner", "predicate.measurements.mrOwnerConfig", "predicate.measurements.note",
		"predicate.source", "predicate.provenance", "predicate.agentMeasured",
		"predicate.actions.counts.chat", "predicate.actions.counts.execute_tool",
		"predicate.actions.outcomes.executed", "predicate.actions.outcomes.blocked", "predicate.actions.outcomes.timed_out",
	}
	// optionalIn are optional in some predicate types only.
	optionalIn = map[string][]string{
		PredicateModelRun: {"predicate.sessionsServed"}, // with a session beside it
	}
)

// node is a JSON value as a list of members or elements, so that it can be
// written again with one thing changed.
type node struct {
	raw      string // a scalar
	members  []member
	elements []*node
	object   bool
	array    bool
}

type member struct {
	name  string
	value *node
}

func parseNode(t *testing.T, d *json.Decoder) *node {
	tok, err := d.Token()
	if err != nil {
		t.Fatal(err)
	}
	switch tok {
	case json.Delim('{'):
		n := &node{object: true}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				t.Fatal(err)
			}
			n.members = append(n.members, member{name.(string), parseNode(t, d)})
		}
		d.Token()
		return n
	case json.Delim('['):
		n := &node{array: true}
		for d.More() {
			n.elements = append(n.elements, parseNode(t, d))
		}
		d.Token()
		return n
	}
	b, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	return &node{raw: string(b)}
}

func (n *node) String() string {
	var parts []string
	switch {
	case n.object:
		for _, m := range n.members {
			parts = append(parts, fmt.Sprintf("%q:%s", m.name, m.value))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case n.array:
		for _, e := range n.elements {
			parts = append(parts, e.String())
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	return n.raw
}

// walk calls f for each member and each element, with its path, and a function that
// replaces the parent's content for the time of one call.
func (n *node) walk(path string, f func(path string, parent *node, i int)) {
	for i, m := range n.members {
		p := strings.TrimPrefix(path+"."+m.name, ".")
		f(p, n, i)
		m.value.walk(p, f)
	}
	for i, e := range n.elements {
		f(path, n, i)
		e.walk(path, f)
	}
}

// Each member of each statement, one after the other, is left out, made null, given
// twice, in another case, and of another type. A table that forgets
// one of the checks for one member makes this fail.
func TestEveryMember(t *testing.T) {
	for name, b := range vectorsIn(t, "statements/*.json") {
		t.Run(name, func(t *testing.T) {
			d := json.NewDecoder(bytes.NewReader(b))
			d.UseNumber()
			root := parseNode(t, d)
			s, err := ParseStatement([]byte(root.String()))
			if err != nil {
				t.Fatal(err)
			}
			try := func(what, path string, ok bool) {
				t.Helper()
				_, err := ParseStatement([]byte(root.String()))
				if ok != (err == nil) || err != nil && !errors.Is(err, ErrMalformed) {
					t.Errorf("%s %s: %v", path, what, err)
				}
			}
			root.walk("", func(path string, parent *node, i int) {
				isNullable := slices.Contains(nullable, path)
				if parent.array {
					e := parent.elements[i]
					parent.elements[i] = &node{raw: "null"}
					try("with a null element", path, isNullable)
					parent.elements[i] = e
					return
				}
				old := parent.members
				m := old[i]
				with := func(value *node) []member {
					l := slices.Clone(old)
					l[i] = member{m.name, value}
					return l
				}

				parent.members = slices.Delete(slices.Clone(old), i, i+1)
				try("left out", path, slices.Contains(optional, path) || slices.Contains(optionalIn[s.PredicateType], path) && s.ModelRun.Session != nil)
				parent.members = with(&node{raw: "null"})
				try("null", path, isNullable && !strings.HasSuffix(path, ".rtmr"))
				parent.members = append(slices.Clone(old), m)
				try("twice", path, false)
				parent.members = slices.Clone(old)
				parent.members[i].name = strings.ToUpper(m.name[:1]) + m.name[1:]
				if parent.members[i].name == m.name { // "_type"
					parent.members[i].name = "_Type"
				}
				try("in another case", path, false)
				for _, v := range []string{`""`, `-0`, `1.5`, `-1`, `9007199254740993`, `{"x":1}`, `[{}]`} {
					parent.members = with(&node{raw: v})
					try("as "+v, path, v == `{"x":1}` && path == "predicate.actions.counts")
				}
				// Of another type: an object as list, a list as object, a number as string…
				var other string
				switch v := m.value; {
				case v.object:
					other = "[" + v.String() + "]"
				case v.array:
					other = `{"x":` + v.String() + `}`
				case strings.HasPrefix(v.raw, `"`):
					other = "[" + v.raw + "]"
				default:
					other = `"` + v.raw + `"`
				}
				parent.members = with(&node{raw: other})
				try("as "+other, path, false)
				parent.members = old
			})
			try("unchanged", "", true)
		})
	}
}

// A statement that is parsed and written is the same, also when what follows
// from the rest is left out.
func TestMarshal(t *testing.T) {
	for name, b := range vectorsIn(t, "statements/*.json") {
		s, err := ParseStatement(b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Marshal()
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: Marshal differs: %v\n got %s\nwant %s", name, err, got, b)
		}
		again, err := ParseStatement(got)
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%s: parsed again it differs: %v", name, err)
		}
		s.PredicateType, s.Subjects = "", nil
		for _, k := range []*SessionKey{s.SessionKey(), vendorKeyOf(s)} {
			if k != nil {
				k.KeyID, k.SPKI = "", nil
			}
		}
		if got, err := s.Marshal(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: Marshal without what follows differs: %v\n got %s\nwant %s", name, err, got, b)
		}
	}
}

func vendorKeyOf(s *Statement) *SessionKey {
	if s.VendorKey == nil {
		return nil
	}
	return &s.VendorKey.Key
}

// Marshal makes nothing that ParseStatement refuses.
func TestMarshalRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Statement)
		want string
	}{
		{"no vendor", func(s *Statement) { s.Vendor = "" }, "vendor.id"},
		{"two predicates", func(s *Statement) { s.Session = new(Session) }, "with the fields of"},
		{"no predicate", func(s *Statement) { s.Start = nil }, "with the fields of"},
		{"another type", func(s *Statement) { s.PredicateType = PredicateSession }, "with the fields of"},
		{"another subject", func(s *Statement) { s.Subjects[0].SHA256[0]++ }, `subject "session"`},
		{"quotation mark", func(s *Statement) { s.Start.Environment.Release.Name = `a"b` }, "escape sequence"},
		{"invalid UTF-8", func(s *Statement) { s.Start.Environment.Release.Name = "a\xff" }, "invalid UTF-8"},
		{"no key", func(s *Statement) { s.Start.SessionKey = SessionKey{} }, "base64"},
		{"key id of another key", func(s *Statement) { s.Start.SessionKey.SPKI = bytes.Repeat([]byte{1}, 44) }, "Ed25519"},
		{"year 10000", func(s *Statement) { s.Start.StartedOn = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "time like"},
		{"sequence beyond 2^53", func(s *Statement) { s.Start.Sequence = 1<<53 + 1 }, "beyond 2^53"},
		{"too large", func(s *Statement) {
			s.Start.Environment.Accelerators = slices.Repeat([]Accelerator{{}}, 100)
		}, "ErrTooLarge or bounds"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ParseStatement(vector(t, "statements/session-start.json"))
			if err != nil {
				t.Fatal(err)
			}
			tt.edit(s)
			_, err = s.Marshal()
			if !errors.Is(err, ErrMalformed) || tt.name != "too large" && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// A time with another zone or a fraction is written in UTC, without it.
func TestMarshalTime(t *testing.T) {
	s, err := ParseStatement(vector(t, "statements/session-start.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := s.Start.StartedOn
	s.Start.StartedOn = want.Add(time.Millisecond).In(time.FixedZone("", 3600))
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = ParseStatement(b); err != nil || !s.Start.StartedOn.Equal(want) {
		t.Errorf("%v, %v; want %v", s.Start.StartedOn, err, want)
	}
}

// The bounds themselves are accepted; one more is refused (TestRefuse).
func TestBounds(t *testing.T) {
	b := vector(t, "statements/session.json")
	for _, r := range [][2]string{
		{`"sequence":41`, `"sequence":9007199254740992`},
		{`"sequence":41`, `"sequence":1`},
		{`"calls":1`, `"calls":0`},
		{`"execute_tool":4`, `"execute_tool":0`},
		{`"pkg:oci/sandbox"`, `"` + strings.Repeat("a", 255) + `"`},
		{`"ephemeral-keys"`, `"` + strings.Repeat("a", 64) + `"`},
		{"2026-11-24T07:02:40Z", "2028-02-29T23:59:59Z"},
		{"2026-11-24T07:02:40Z", "2026-11-24T07:00:03Z"},
		{"2026-11-24T07:02:40Z", "9999-12-31T23:59:59Z"},
		{"2026-11-24T07:00:03Z", "1970-01-01T00:00:00Z"},
		{`"index":73811`, `"index":73933`},
		{`"index":73811`, `"index": 73811`},
		{`"start":{"origin":"log.example.org/2026","index":73811`, `"start":{"origin":"log.example.org/2025","index":99999999`},
	} {
		if n := strings.Count(string(b), r[0]); n != 1 {
			t.Errorf("%q occurs %d times", r[0], n)
		}
		if _, err := ParseStatement(bytes.Replace(b, []byte(r[0]), []byte(r[1]), 1)); err != nil {
			t.Errorf("%s: %v", r[1], err)
		}
	}
	padded := append(bytes.Clone(b), bytes.Repeat([]byte(" "), MaxPayload-len(b))...)
	if _, err := ParseStatement(padded); err != nil {
		t.Errorf("statement of 16 KiB: %v", err)
	}
	if _, err := ParseStatement(append(padded, ' ')); !errors.Is(err, ErrTooLarge) {
		t.Errorf("statement of 16 KiB and a byte: %v, want ErrTooLarge", err)
	}
}

// The order of members is free, the predicate before its type included.
func TestMemberOrder(t *testing.T) {
	for name, b := range vectorsIn(t, "statements/*.json") {
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		root := parseNode(t, d)
		var reverse func(*node)
		reverse = func(n *node) {
			slices.Reverse(n.members)
			for _, m := range n.members {
				reverse(m.value)
			}
			for _, e := range n.elements {
				reverse(e)
			}
		}
		reverse(root)
		got, err := ParseStatement([]byte(root.String()))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want, err := ParseStatement(b)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: reversed it is another statement: %v", name, err)
		}
	}
}

// A statement doesn't refer to the caller's bytes: a server can use its buffer again.
func TestStatementRetainsNothing(t *testing.T) {
	b := vector(t, "statements/session.json")
	s, err := ParseStatement(b)
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] = 'x'
	}
	if after, err := s.Marshal(); err != nil || !bytes.Equal(after, before) {
		t.Errorf("statement changed with the bytes that it was parsed from: %v", err)
	}
}

func TestStatementAccessors(t *testing.T) {
	for name, want := range map[string][4]bool{ // freshness, key, environment, session
		"session-start":            {true, true, true, true},
		"session":                  {true, true, true, true},
		"session-abandoned":        {true, true, true, true},
		"session-abandoned-vendor": {false, false, false, true},
		"model-run":                {true, true, true, true},
		"model-run-shared":         {true, true, true, false},
		"release":                  {},
		"release-withdrawn":        {},
		"vendor-key":               {},
		"evidence":                 {},
	} {
		s, err := ParseStatement(vector(t, "statements/"+name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		_, id := s.SessionID()
		if got := [4]bool{s.Freshness() != nil, s.SessionKey() != nil, s.Environment() != nil, id}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestUnsupported(t *testing.T) {
	b := vector(t, "statements/session-start.json")
	_, err := ParseStatement(bytes.Replace(b, []byte("session-start/v1"), []byte("session-start/v2"), 1))
	entry := vector(t, "entries/session.bin")
	entry[0] = 9
	_, err2 := ParseEntry(entry)
	leaf := vector(t, "leaves/session.bin")
	leaf[1] = byte(LeafRecordDigest)
	_, err3 := ParseLeaf(leaf)
	leaf[1] = byte(LeafRecord)
	leaf[bytes.Index(leaf, []byte("statement/v1"))+11] = '2'
	_, err4 := ParseLeaf(leaf)
	for _, err := range []error{err, err2, err3, err4} {
		var u *UnsupportedError
		if !errors.As(err, &u) || !errors.Is(err, ErrMalformed) {
			t.Errorf("error %v, want an *UnsupportedError that is ErrMalformed", err)
		}
	}
}

func TestCheckPair(t *testing.T) {
	parse := func(name string) *Statement {
		s, err := ParseStatement(vector(t, "statements/"+name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, name := range []string{"session", "session-minimal", "session-abandoned", "session-abandoned-vendor"} {
		if err := CheckPair(parse("session-start"), parse(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := NewSessionKey(ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey))
	for _, tt := range []struct {
		name, final string
		edit        func(start, final *Statement)
		want        string
	}{
		{"vendor", "session", func(a, b *Statement) { b.Vendor += "x" }, "vendor.id"},
		{"id", "session", func(a, b *Statement) { b.Session.ID[0]++ }, "session.id"},
		{"id of an abandoned one", "session-abandoned-vendor", func(a, b *Statement) { b.Abandoned.ID[0]++ }, "session.id"},
		{"kind", "session", func(a, b *Statement) { b.Session.Kind = KindModelRun }, "session.kind"},
		{"tenant", "session", func(a, b *Statement) { b.Session.Tenant[0]++ }, "session.tenant"},
		{"month", "session", func(a, b *Statement) { b.Session.TenantEpoch = "2026-12" }, "session.tenantEpoch"},
		{"sequence", "session", func(a, b *Statement) { b.Session.Sequence++ }, "session.sequence"},
		{"sequence of an abandoned one", "session-abandoned", func(a, b *Statement) { b.Abandoned.Sequence++ }, "session.sequence"},
		{"time", "session", func(a, b *Statement) { b.Session.StartedOn = b.Session.StartedOn.Add(time.Second) }, "session.startedOn"},
		{"isolation", "session", func(a, b *Statement) { b.Session.IsolationScope = IsolationProject }, "session.isolationScope"},
		{"key", "session", func(a, b *Statement) { b.Session.SessionKey = other }, "sessionKey.keyid"},
		{"key of an abandoned one", "session-abandoned", func(a, b *Statement) { b.Abandoned.SessionKey = &other }, "sessionKey.keyid"},
		{"release", "session", func(a, b *Statement) { b.Session.Environment.Release.SHA256[0]++ }, "environment.release"},
		{"storage", "session", func(a, b *Statement) { b.Session.Environment.PersistentStorage = StoragePersistent }, "environment.persistentStorage"},
		{"egress", "session", func(a, b *Statement) { b.Session.Environment.EgressPolicy = nil }, "environment.egressPolicy"},
		{"freshness backwards", "session", func(a, b *Statement) { a.Start.Freshness.Size = b.Session.Freshness.Size + 1 }, "freshness"},
		{"two finals", "session", func(a, b *Statement) { *a = *b }, "start is not"},
		{"two starts", "session", func(a, b *Statement) { *b = *a }, "final is neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := parse("session-start"), parse(tt.final)
			tt.edit(a, b)
			if err := CheckPair(a, b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestVerifySignature(t *testing.T) {
	e, err := ParseEntry(vector(t, "entries/session.bin"))
	if err != nil {
		t.Fatal(err)
	}
	var v vectorIndex
	vectorJSON(t, "vectors.json", &v)
	key := ed25519.NewKeyFromSeed(unhexString(t, v.Ed25519Seeds["session key"])).Public().(ed25519.PublicKey)
	if err := e.VerifySignature(key); err != nil {
		t.Fatal(err)
	}
	other := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	if err := e.VerifySignature(other); err == nil || !strings.Contains(err.Error(), "signed by key "+e.KeyID) {
		t.Errorf("another key: %v", err)
	}
	if err := e.VerifySignature(key[:31]); err == nil {
		t.Error("a short key is taken")
	}
	b := bytes.Clone(e.Bytes())
	at := bytes.Index(b, e.Signature)
	for i := range 64 * 8 {
		b[at+i/8] ^= 1 << (i % 8)
		e, err := ParseEntry(b)
		if err != nil {
			t.Fatal(err)
		}
		if e.VerifySignature(key) == nil {
			t.Errorf("signature verifies with bit %d flipped", i)
		}
		b[at+i/8] ^= 1 << (i % 8)
	}
}

// The largest entry makes the largest leaf; a byte more is too large, as entry
// and as leaf.
func TestLargest(t *testing.T) {
	payload := vector(t, "statements/session-start.json")
	small, err := ParseEntry(vector(t, "entries/session-start.bin"))
	if err != nil {
		t.Fatal(err)
	}
	quote := make([]byte, MaxEntry-(len(small.Bytes())-len(small.Quote())))
	largest, err := NewEntry(ProfileStatement, payload, small.KeyID, small.Signature, NewQuoteEvidence(quote))
	if err != nil {
		t.Fatal(err)
	}
	leaf := (&RecordLeaf{Ruleset: RulesetV1, AdmittedAt: 1, JudgedAt: 1, Collateral: Digest{1}, Entry: largest}).Bytes()
	if len(leaf) != MaxLeaf {
		t.Errorf("the largest entry makes a leaf of %d bytes", len(leaf))
	}
	if _, err := ParseLeaf(leaf); err != nil {
		t.Error(err)
	}
	if e, err := ParseEntryJSON(largest.JSON()); err != nil || !bytes.Equal(e.Bytes(), largest.Bytes()) {
		t.Errorf("the largest entry in JSON: %v", err)
	}
	tooLarge := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrTooLarge) || !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, want ErrTooLarge", what, err)
		}
	}
	_, err = NewEntry(ProfileStatement, payload, small.KeyID, small.Signature, NewQuoteEvidence(make([]byte, len(quote)+1)))
	tooLarge("entry", err)
	_, err = NewEntry(ProfileStatement, payload, small.KeyID, small.Signature, NewQuoteEvidence(make([]byte, 1<<16)))
	tooLarge("quote of 65,536 bytes", err)
	_, err = NewEntry(ProfileStatement, make([]byte, MaxPayload+1), small.KeyID, small.Signature)
	tooLarge("payload", err)
	_, err = ParseLeaf(append(leaf, 0))
	tooLarge("leaf of 65,536 bytes", err)
	_, err = ParseEntryJSON(make([]byte, MaxEntryJSON+1))
	tooLarge("entry in JSON", err)
	_, err = ParseEnvelope(make([]byte, MaxEntryJSON+1))
	tooLarge("envelope", err)
	_, err = ParseAction(make([]byte, MaxAction+1))
	tooLarge("action", err)
	_, err = ParseDisclosure(make([]byte, MaxDisclosure+1))
	tooLarge("disclosure", err)
	b := (&TimeLeaf{LoggedAt: 1, Note: make([]byte, MaxNote)}).Bytes()
	if len(b) != MaxLeaf {
		t.Errorf("the largest note makes a leaf of %d bytes", len(b))
	}
	_, err = ParseLeaf(append(b, 0))
	tooLarge("time leaf of 65,536 bytes", err)
}

// A leaf whose bytes ParseLeaf would refuse can't be made.
func TestLeafPanics(t *testing.T) {
	entry := func(name string) *Entry {
		e, err := ParseEntry(vector(t, "entries/"+name+".bin"))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	start, release, abandoned, imported := entry("session-start"), entry("release"), entry("session-abandoned-vendor"), entry("evidence")
	collected := imported.Statement().Evidence.CollectedOn.UnixMilli()
	c := Digest{1}
	for name, l := range map[string]Leaf{
		"ruleset":              &RecordLeaf{Ruleset: "", AdmittedAt: 1, JudgedAt: 1, Collateral: c, Entry: start},
		"times":                &RecordLeaf{Ruleset: RulesetV1, AdmittedAt: 2, JudgedAt: 1, Collateral: c, Entry: start},
		"negative time":        &RecordLeaf{Ruleset: RulesetV1, AdmittedAt: -1, JudgedAt: -1, Collateral: c, Entry: start},
		"no collateral":        &RecordLeaf{Ruleset: RulesetV1, AdmittedAt: 1, JudgedAt: 1, Entry: start},
		"collateral, no quote": &RecordLeaf{Ruleset: RulesetV1, AdmittedAt: 1, JudgedAt: 1, Collateral: c, Entry: abandoned},
		"import judged now":    &RecordLeaf{Ruleset: RulesetV1, AdmittedAt: collected + 1, JudgedAt: collected + 1, Collateral: c, Entry: imported},
		"release as record":    &RecordLeaf{Ruleset: RulesetV1, AdmittedAt: 1, JudgedAt: 1, Entry: release},
		"record as release":    &VendorLeaf{AdmittedAt: 1, Entry: start},
		"release at no time":   &VendorLeaf{AdmittedAt: maxMilliseconds + 1, Entry: release},
		"no note":              &TimeLeaf{LoggedAt: 1},
		"long note":            &TimeLeaf{LoggedAt: 1, Note: make([]byte, MaxNote+1)},
		"note at no time":      &TimeLeaf{LoggedAt: -1, Note: []byte("x")},
		"collateral of no TEE": &CollateralLeaf{},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			l.Bytes()
		})
	}
}

// An append to a part of an entry doesn't write into the next part.
func TestPartsAreClipped(t *testing.T) {
	b := vector(t, "leaves/session.bin")
	want := bytes.Clone(b)
	l, err := ParseLeaf(b)
	if err != nil {
		t.Fatal(err)
	}
	e := l.(*RecordLeaf).Entry
	for _, p := range [][]byte{e.Payload, e.Signature, e.Quote(), e.Evidence[1].Data} {
		_ = append(p, "xxxx"...)
	}
	if !bytes.Equal(b, want) {
		t.Error("an append changed the leaf")
	}
	if &e.Bytes()[0] != &b[recordHeaderLen] {
		t.Error("Bytes copies")
	}
}

// Long vectors can't overflow a length prefix unseen.
func TestDigestEvidence(t *testing.T) {
	for _, ref := range []EvidenceRef{
		{Digest{1}, 1, strings.Repeat("a", 256) + "/b"},
		{Digest{1}, 0, "a/b"},
		{Digest{1}, 1<<53 + 1, "a/b"},
		{Digest{1}, 1, ""},
		{Digest{1}, 1, "a/b/c"},
	} {
		if got, err := NewDigestEvidence(ref).Ref(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: %v, %v", ref, got, err)
		}
	}
	ref := EvidenceRef{Digest{1}, 1 << 53, "a/b"}
	if got, err := NewDigestEvidence(ref).Ref(); err != nil || got != ref {
		t.Errorf("%v: %v, %v", ref, got, err)
	}
	if _, err := NewQuoteEvidence([]byte("x")).Ref(); err == nil {
		t.Error("a quote is a digest")
	}
}

// TestSmallOrder: keys for which signatures can be made without a private key are no
// keys, in none of their encodings.
func TestSmallOrder(t *testing.T) {
	// For the neutral element, R = 0 and S = 0 are a signature of anything.
	neutral := make([]byte, 32)
	neutral[0] = 1
	if !ed25519.Verify(neutral, []byte("anything"), append(bytes.Clone(neutral), make([]byte, 32)...)) {
		t.Error("crypto/ed25519 has become stricter: is this refusal still needed?")
	}
	for _, y := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		for _, sign := range []byte{0, 0x80} {
			pub, err := hex.DecodeString(y)
			if err != nil {
				t.Fatal(err)
			}
			pub[31] |= sign
			if _, err := ParseSPKI(SPKI(pub)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%x: got %v", pub, err)
			}
			pub[1]++
			if _, err := ParseSPKI(SPKI(pub)); err != nil {
				t.Errorf("%x: %v", pub, err)
			}
		}
	}
}

func TestParseSPKI(t *testing.T) {
	pub := ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey)
	if got, err := ParseSPKI(SPKI(pub)); err != nil || !got.Equal(pub) {
		t.Errorf("%x, %v", got, err)
	}
	for _, b := range [][]byte{nil, pub, SPKI(pub)[:43], append(SPKI(pub), 0)} {
		if _, err := ParseSPKI(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", b, err)
		}
	}
}

// Roots and paths are those of RFC 6962 as golang.org/x/mod/sumdb/tlog has it,
// for all small trees, and a path proves nothing but its own leaf.
func TestActionTreeAgainstSumDB(t *testing.T) {
	var docs [][]byte
	var salts [][32]byte
	var hashes []Digest
	var stored []tlog.Hash
	for n := uint64(1); n <= 40; n++ {
		a := Action{Session: SessionID{1}, Index: n - 1, Time: time.Unix(1, 0), Outcome: OutcomeExecuted,
			TraceID: [16]byte{1}, SpanID: [8]byte{1}, Attributes: map[string]any{AttrOperationName: "chat"}}
		doc, err := a.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		salt := [32]byte{byte(n)}
		docs, salts = append(docs, doc), append(salts, salt)
		hashes = append(hashes, ActionLeaf(salt, doc))
		reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			var h []tlog.Hash
			for _, i := range indexes {
				h = append(h, stored[i])
			}
			return h, nil
		})
		more, err := tlog.StoredHashes(int64(n-1), append(salt[:], doc...), reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
		want, err := tlog.TreeHash(int64(n), reader)
		if err != nil {
			t.Fatal(err)
		}
		root := ActionRoot(hashes)
		if root != Digest(want) {
			t.Fatalf("root of %d actions: %x, want %x", n, root, want)
		}
		for i := range n {
			path := ActionProof(hashes, i)
			var p tlog.RecordProof
			for _, h := range path {
				p = append(p, tlog.Hash(h))
			}
			if err := tlog.CheckRecord(p, int64(n), want, int64(i), tlog.Hash(hashes[i])); err != nil {
				t.Fatalf("path of action %d of %d: %v", i, n, err)
			}
			d := &Disclosure{Salt: salts[i], Bytes: docs[i], Index: i, Tree: Tree{n, root}, Path: path}
			b := d.JSON()
			d, err := ParseDisclosure(b)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Verify(root, n); err != nil {
				t.Fatal(err)
			}
			for _, edit := range []func(d *Disclosure){
				func(d *Disclosure) { d.Salt[31] ^= 1 },
				func(d *Disclosure) { d.Bytes = append(bytes.Clone(d.Bytes), ' ') },
				func(d *Disclosure) { d.Path = append(slices.Clone(d.Path), Digest{}) },
				func(d *Disclosure) { d.Index ^= 1 },
				func(d *Disclosure) { d.Tree.Size++ },
				func(d *Disclosure) { d.Tree.Root[0] ^= 1 },
			} {
				c := *d
				edit(&c)
				if c.Verify(root, n) == nil {
					t.Fatalf("changed disclosure of action %d of %d verifies", i, n)
				}
			}
		}
	}
	if ActionRoot(nil) != sha256sum(nil) {
		t.Error("root of no actions")
	}
}

func TestVerifySession(t *testing.T) {
	s, err := ParseStatement(vector(t, "statements/session.json"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDisclosure(vector(t, "disclosures/action-3.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.VerifySession(s.Session); err != nil {
		t.Error(err)
	}
	s.Session.ID[0]++
	if d.VerifySession(s.Session) == nil {
		t.Error("an action of another session is taken")
	}
}

// A disclosure without its readable copy is the same.
func TestDisclosureWithoutCopy(t *testing.T) {
	b := vector(t, "disclosures/action-3.json")
	want, err := ParseDisclosure(b)
	if err != nil {
		t.Fatal(err)
	}
	bare := append([]byte("{"), b[bytes.Index(b, []byte(`"disclosure":`)):]...)
	if got, err := ParseDisclosure(bare); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

// Counts that only their sum makes too large are refused, whatever their order.
func TestSums(t *testing.T) {
	for range 8 { // Go's order of maps differs from run to run
		if err := checkSum("counts", map[string]uint64{"a": 1 << 53, "b": 1 << 53}, 1<<53); err == nil {
			t.Error("sum 2^54 in a tree of 2^53")
		}
	}
	m := map[string]uint64{}
	for i := range maxCounts {
		m[fmt.Sprint(i)] = maxInt
	}
	if err := checkSum("counts", m, maxInt); err == nil {
		t.Error("the largest sum overflows")
	}
}

// The parts of an entry have one order and one length each: cryptobyte's own
// reading of the layout in FORMAT.md.
func TestEntryLayout(t *testing.T) {
	e, err := ParseEntry(vector(t, "entries/session.bin"))
	if err != nil {
		t.Fatal(err)
	}
	var b cryptobyte.Builder
	b.AddUint8(1)
	b.AddUint8(12)
	b.AddBytes([]byte("statement/v1"))
	b.AddUint8(28)
	b.AddBytes([]byte("application/vnd.in-toto+json"))
	b.AddUint16(uint16(len(e.Payload)))
	b.AddBytes(e.Payload)
	b.AddUint8(64)
	b.AddBytes([]byte(e.KeyID))
	b.AddUint16(64)
	b.AddBytes(e.Signature)
	b.AddUint16(uint16(len(e.Evidence[0].Data) + len(e.Evidence[1].Data) + 6))
	b.AddUint8(1)
	b.AddUint16(uint16(len(e.Evidence[0].Data)))
	b.AddBytes(e.Evidence[0].Data)
	b.AddUint8(2)
	b.AddUint16(32 + 8 + 1 + 24)
	ref, err := e.Evidence[1].Ref()
	if err != nil {
		t.Fatal(err)
	}
	b.AddBytes(ref.SHA256[:])
	b.AddUint64(ref.Size)
	b.AddUint8(24)
	b.AddBytes([]byte(ref.MediaType))
	if got := b.BytesOrPanic(); !bytes.Equal(got, e.Bytes()) {
		t.Errorf("layout differs:\n got %x\nwant %x", e.Bytes(), got)
	}
}
