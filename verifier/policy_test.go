package verifier_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier"
)

const hex48 = "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1"

// fullPolicy has every key.
var fullPolicy = fmt.Sprintf(`# a comment
measurements:
  - name: "it's: reviewed"
    mrtd: %[1]s
    rtmr0: any
    rtmr1: "%[1]s"
    rtmr2: 000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
    rtmr3: any
    mrconfigid: %[1]s
    mrowner: any
    mrownerconfig: %[1]s
    mrseam: %[1]s
  - {name: other, mrtd: %[1]s, rtmr0: any, rtmr1: any, rtmr2: any, rtmr3: any}
release-keys:
  - vendor: https://vendor.example
    keys: [%[2]s, %[3]s]
tcb:
  statuses: [UpToDate, SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded, TDRelaunchAdvised, TDRelaunchAdvisedConfigurationNeeded]
  advisories:
    - id: INTEL-SA-00960
      until: 2027-01-31T00:00:00Z
  collateral-max-age: 720h
td:
  allow-debug: true
  allow-migratable: true
  allow-sept-ve: true
  allow-perfmon: true
  allow-reserved-attributes: true
  xfam: 00000000000602E7
  service-tds:
    - %[1]s
  require-known-service-td: true
platforms:
  - 00112233445566778899aabbccddeeff
  - 00000000000000000000000000000001
profiles: [statement/v1, vendor-signed/v1, unbound/v1]
time:
  allow-unproven: true
  max-width: 90m
models:
  execution: [tee, policy-zdr, unattested]
  allow-no-record: true
retention:
  enforcement: [technical, policy]
  allow-persistent-storage: true
  allow-unerased: true
appraisers:
  - %[4]s
`, hex48, spki64("release"), spki64("another"), vkey)

// keys finds the keys in fullPolicy.
var keys = regexp.MustCompile(`\b[a-z][a-z0-9-]+: `)

// vkey is that of an appraiser.
var vkey = func() string {
	k, err := checkpoint.NewVerifierKey(checkpoint.Ed25519, "appraiser.example", public("appraiser"))
	if err != nil {
		panic(err)
	}
	return k.String()
}()

func TestParsePolicy(t *testing.T) {
	p := parse(t, fullPolicy)
	if !p.NamesMeasurement() || !slices.Equal(p.Appraisers(), []string{vkey}) {
		t.Errorf("names a measurement: %v, appraisers %q", p.NamesMeasurement(), p.Appraisers())
	}
	again := parse(t, string(p.YAML()))
	if !reflect.DeepEqual(again, p) {
		t.Errorf("its canonical form is another policy:\n%s", p.YAML())
	}
	// Every key of the file must be in the canonical form: one that is forgotten
	// would be one that isn't evaluated.
	for _, key := range keys.FindAllString(fullPolicy, -1) {
		if !bytes.Contains(p.YAML(), []byte(strings.TrimSpace(key))) && key != "mrowner: " {
			t.Errorf("key %q isn't in the canonical form", key)
		}
	}
}

func TestStrictIsZero(t *testing.T) {
	for _, s := range []string{"", "\n", "# nothing\n", "---\n", "--- # nothing\n"} {
		if p := parse(t, s); !reflect.DeepEqual(p, verifier.StrictPolicy()) || len(p.YAML()) != 0 || p.NamesMeasurement() {
			t.Errorf("%q is the policy %q", s, p.YAML())
		}
	}
}

// TestPolicyExample parses the example of the documentation, and looks there for
// every key that there is.
func TestPolicyExample(t *testing.T) {
	doc, err := os.ReadFile("POLICY.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(doc)
	if p := parse(t, string(example[1])); !p.NamesMeasurement() {
		t.Errorf("the example names no measurement: %s", p.YAML())
	}
	for _, key := range keys.FindAllString(fullPolicy, -1) {
		if key = strings.TrimSuffix(key, ": "); !bytes.Contains(doc, []byte("`"+key+"`")) {
			t.Errorf("POLICY.md doesn't document %q", key)
		}
	}
}

func TestParsePolicyErrors(t *testing.T) {
	edit := func(old, new string) string {
		s := strings.Replace(fullPolicy, old, new, 1)
		if s == fullPolicy {
			t.Fatalf("no %q", old)
		}
		return s
	}
	for _, tt := range []struct {
		name, yaml string
		line       int
		key, want  string
	}{
		{"unknown key", "tcb: {statuses: [UpToDate]}\nTCB: {}\n", 2, "", `unknown key "TCB"`},
		{"unknown key further in", edit("collateral-max-age", "collateral-maxage"), 22, "tcb", `unknown key "collateral-maxage"`},
		{"unknown key in a list", edit("      until:", "      til:"), 21, "tcb.advisories[0]", `unknown key "til"`},
		{"duplicate key", "td:\n  allow-debug: false\n  allow-debug: true\n", 3, "td.allow-debug", "duplicate key, first on line 2"},
		{"duplicate group", fullPolicy + "td: {allow-debug: false}\n", 49, "td", "duplicate key"},
		{"anchor", "td: &a\n  allow-debug: true\n", 1, "td", "anchors"},
		{"alias", "profiles: &a [statement/v1]\nplatforms: *a\n", 1, "profiles", "anchors"},
		{"anchor in a scalar", "time:\n  max-width: &w 1h\n", 2, "time.max-width", "anchors"},
		{"merge key", "td:\n  <<: {allow-debug: true}\n", 2, "td", "merge"},
		{"tag", "td:\n  allow-debug: !!bool true\n", 2, "td.allow-debug", "tags"},
		{"tag of a mapping", "td: !!map {allow-debug: true}\n", 1, "td", "tags"},
		{"own tag", "time:\n  max-width: !x 1h\n", 2, "time.max-width", "tags"},
		{"non-specific tag", "td:\n  allow-debug: ! true\n", 2, "", "tags"},
		{"non-specific tag of text", "time:\n  max-width: ! \"1h\"\n", 2, "", "tags"},
		{"non-specific tag of a mapping", "td: ! {allow-debug: true}\n", 1, "", "tags"},
		{"non-specific tag of a block", "td: !\n  allow-debug: true\n", 1, "", "tags"},
		{"non-specific tag of a list", "models:\n  execution: ! [tee]\n", 2, "", "tags"},
		{"non-specific tag of a member", "models:\n  execution: [! tee]\n", 2, "", "tags"},
		{"non-specific tag of a key", "td:\n  ! allow-debug: true\n", 2, "", "tags"},
		{"non-specific tag, written out", "td:\n  allow-debug: !<!> true\n", 2, "", "tags"},
		{"non-specific tag of nothing", "!\n", 1, "", ""},
		{"two documents", "td: {allow-debug: true}\n---\ntd: {allow-debug: false}\n", 2, "", "second YAML document"},
		{"empty second document", "td: {allow-debug: true}\n---\n", 2, "", "second YAML document"},
		{"not YAML", "td: [", 0, "", "line 1"},
		{"line separator in a comment", "# strict\u2028td: {allow-debug: true}\n", 1, "", "U+2028"},
		{"next line in a comment", "td: {allow-perfmon: true}\n# strict\u0085time: {allow-unproven: true}\n", 2, "", "U+0085"},
		{"carriage return in a comment", "# strict\rtd: {allow-debug: true}\n", 1, "", "U+000D"},
		{"change of direction in a comment", "# \u202e\n", 1, "", "U+202E"},
		{"not UTF-8", "# \xff\n", 1, "", "U+FFFD"},
		{"scalar", "strict\n", 1, "", "is text, want a mapping"},
		{"list", "- td\n", 1, "", "is a list, want a mapping"},
		{"explicit null", "null\n", 1, "", "is empty, want a mapping"},
		{"empty mapping", "{}\n", 1, "", "is empty"},
		{"empty group", "td: {}\n", 1, "td", "is empty"},
		{"group without value", "td:\ntcb: {statuses: [UpToDate]}\n", 1, "td", "is empty, want a mapping"},
		{"group is a list", "td: [allow-debug]\n", 1, "td", "is a list, want a mapping"},
		{"empty list", "profiles: []\n", 1, "profiles", "empty list"},
		{"list is text", "profiles: statement/v1\n", 1, "profiles", "is text, want a list"},
		{"number as key", "1: 2\n", 1, "", "a key is a number"},
		{"boolean as key", "true: 2\n", 1, "", "a key is a boolean"},
		{"list as key", "[a]: 2\n", 1, "", "a key is a list"},
		{"boolean as text", edit("allow-debug: true", `allow-debug: "true"`), 24, "td.allow-debug", "is text, want true or false"},
		{"boolean of YAML 1.1", edit("allow-debug: true", "allow-debug: yes"), 24, "td.allow-debug", "is text, want true or false"},
		{"boolean in capitals", edit("allow-debug: true", "allow-debug: TRUE"), 24, "td.allow-debug", `"TRUE", want true or false`},
		{"boolean missing", edit("allow-debug: true", "allow-debug:"), 24, "td.allow-debug", "is empty"},
		{"short hex", edit("mrtd: "+hex48, "mrtd: "+hex48[2:]), 4, "measurements[0].mrtd", "want 96 hexadecimal digits"},
		{"long hex", edit("mrtd: "+hex48, "mrtd: "+hex48+"00"), 4, "measurements[0].mrtd", "want 96 hexadecimal digits"},
		{"not hex", edit("mrtd: "+hex48, "mrtd: x"+hex48[1:]), 4, "measurements[0].mrtd", "want 96 hexadecimal digits"},
		{"boolean as hex", edit("mrtd: "+hex48, "mrtd: true"), 4, "measurements[0].mrtd", "is a boolean, want 96"},
		{"mrtd any", edit("mrtd: "+hex48, "mrtd: any"), 3, "measurements[0]", `mrtd can't be "any"`},
		{"mrtd missing", edit("    mrtd: "+hex48+"\n", ""), 3, "measurements[0]", "has no mrtd"},
		{"rtmr3 missing", edit("    rtmr3: any\n", ""), 3, "measurements[0]", "has no rtmr3"},
		{"rtmr0 null", edit("rtmr0: any", "rtmr0: null"), 5, "measurements[0].rtmr0", "is empty"},
		{"name missing", edit(`name: "it's: reviewed"`+"\n    ", ""), 3, "measurements[0]", "has no name"},
		{"name twice", edit("name: other", `name: "it's: reviewed"`), 13, "measurements[1]", "is there twice"},
		{"name with a line break", edit(`"it's: reviewed"`, `"a\nb"`), 3, "measurements[0].name", "don't print"},
		{"name with a change of direction", edit(`"it's: reviewed"`, `"a\u202eb"`), 3, "measurements[0].name", "don't print"},
		{"vendor missing", edit("vendor: https://vendor.example\n    ", ""), 15, "release-keys[0]", "has no vendor"},
		{"vendor isn't one", edit("https://vendor.example", "http://vendor.example"), 15, "release-keys[0].vendor", "https://"},
		{"keys missing", edit("    keys: ["+spki64("release")+", "+spki64("another")+"]\n", ""), 15, "release-keys[0]", "has no keys"},
		{"vendor twice", edit("tcb:", "  - {vendor: https://vendor.example, keys: ["+spki64("release")+"]}\ntcb:"), 17, "release-keys[1]", "is there twice"},
		{"key twice", edit(spki64("another"), spki64("release")), 16, "release-keys[0].keys[1]", "is there twice"},
		{"key with spare bits", edit(spki64("release"), spareBits(spki64("release"))), 16, "release-keys[0].keys[0]", "isn't base64"},
		{"key with a line break", edit(spki64("release"), `"`+spki64("release")[:8]+`\n`+spki64("release")[8:]+`"`), 16, "release-keys[0].keys[0]", "don't print"},
		{"key of another kind", edit(spki64("release"), "AAAA"), 16, "release-keys[0].keys[0]", "SubjectPublicKeyInfo"},
		{"status unknown", edit("SWHardeningNeeded", "uptodate"), 18, "tcb.statuses[1]", `"uptodate", want UpToDate, SW`},
		{"status Revoked", edit("OutOfDate,", "Revoked,"), 18, "tcb.statuses[4]", `"Revoked", want`},
		{"status twice", edit("SWHardeningNeeded", "UpToDate"), 18, "tcb.statuses[1]", "is there twice"},
		{"advisory without end", edit("\n      until: 2027-01-31T00:00:00Z", ""), 20, "tcb.advisories[0]", "has no until"},
		{"advisory without id", edit("id: INTEL-SA-00960\n      ", ""), 20, "tcb.advisories[0]", "has no id"},
		{"advisory twice", edit("  collateral-max-age", "    - {id: INTEL-SA-00960, until: 2028-01-31T00:00:00Z}\n  collateral-max-age"), 22, "tcb.advisories[1]", "is there twice"},
		{"date without time", edit("2027-01-31T00:00:00Z", "2027-01-31"), 21, "tcb.advisories[0].until", "want a time in UTC"},
		{"fraction of a second", edit("2027-01-31T00:00:00Z", "2027-01-31T00:00:00.5Z"), 21, "tcb.advisories[0].until", "want a time in UTC"},
		{"time with zone", edit("2027-01-31T00:00:00Z", "2027-01-31T00:00:00+01:00"), 21, "tcb.advisories[0].until", "want a time in UTC"},
		{"duration without unit", edit("720h", "720"), 22, "tcb.collateral-max-age", "is a number, want a duration"},
		{"duration zero", edit("720h", "0s"), 22, "tcb.collateral-max-age", "want a positive duration"},
		{"duration negative", edit("720h", "-1h"), 22, "tcb.collateral-max-age", "want a positive duration"},
		{"XFAM too short", edit("00000000000602E7", "602e7"), 29, "td.xfam", "want 16 hexadecimal digits"},
		{"service TD twice", edit("  require-known-service-td", "    - "+hex48+"\n  require-known-service-td"), 32, "td.service-tds[1]", "is there twice"},
		{"platform twice", edit("00000000000000000000000000000001", "00112233445566778899AABBCCDDEEFF"), 35, "platforms[1]", "is there twice"},
		{"profile unknown", edit("unbound/v1", "unbound/v2"), 36, "profiles[2]", `"unbound/v2", want statement/v1, azure-paravisor/v1, dstack-proxy/v1, ita-nonce/v1, tls-hpke/v2, unbound/v1 or vendor-signed/v1`},
		{"class unknown", edit("policy-zdr", "zdr"), 41, "models.execution[1]", `"zdr", want`},
		{"enforcement unknown", edit("technical, policy", "technical, law"), 44, "retention.enforcement[1]", `"law", want`},
		{"appraiser isn't a vkey", edit(vkey, "example.com"), 48, "appraisers[0]", "vkey"},
		{"appraiser twice", fullPolicy + "  - " + vkey + "\n", 49, "appraisers[1]", "is there twice"},
		{"too long", "#" + strings.Repeat(" ", verifier.MaxPolicy), 0, "", "bytes are more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := verifier.ParsePolicy([]byte(tt.yaml))
			var e *verifier.PolicyError
			if p != nil || !errors.As(err, &e) {
				t.Fatalf("got %+v, %v; want a *PolicyError", p, err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q in it", err, tt.want)
			}
			if e.Line != tt.line || e.Key != tt.key {
				t.Errorf("line %d, key %q; want %d, %q (%v)", e.Line, e.Key, tt.line, tt.key, err)
			}
		})
	}
}

// spareBits changes the last bits of base64 that hold nothing.
func spareBits(s string) string {
	i := strings.IndexByte(s, '=') - 1
	return s[:i] + string(s[i]+1) + s[i+1:]
}

// FuzzParsePolicy: a policy has one meaning. Printed in its canonical form, it is
// the same policy, and that form is a fixed point.
func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(fullPolicy))
	f.Add([]byte(pinPolicy()))
	f.Add([]byte(releasePolicy("release")))
	f.Add([]byte("td: &a {allow-debug: true}\ntime: *a\n"))
	f.Add([]byte("a: !!binary aGk=\n<<: {}\n? [x]\n: - y\n...\n---\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := verifier.ParsePolicy(b)
		if err != nil {
			var e *verifier.PolicyError
			if p != nil || !errors.As(err, &e) || strings.ContainsAny(err.Error(), "\r") {
				t.Fatalf("got %+v, %q", p, err)
			}
			return
		}
		printed := p.YAML()
		again, err := verifier.ParsePolicy(printed)
		if err != nil {
			t.Fatalf("%v in the canonical form:\n%s", err, printed)
		}
		if !reflect.DeepEqual(again, p) || !bytes.Equal(again.YAML(), printed) {
			t.Fatalf("the canonical form is another policy:\n%s\n%s", printed, again.YAML())
		}
	})
}

// TestRules: the rules in force are shown, all of them, and those that the policy doesn't mention are told apart.
func TestRules(t *testing.T) {
	doc, err := os.ReadFile("POLICY.md")
	if err != nil {
		t.Fatal(err)
	}
	strict := verifier.StrictPolicy().Rules()
	for _, r := range strict {
		if !r.Default || r.Value == "" {
			t.Errorf("%+v", r)
		}
		key := r.Key[strings.LastIndexByte(r.Key, '.')+1:]
		if !bytes.Contains(doc, []byte(key)) {
			t.Errorf("%q isn't documented", r.Key)
		}
	}
	full := parse(t, fullPolicy)
	shown := make(map[string]bool)
	for i, r := range full.Rules() {
		if r.Default || r.Key != strict[i].Key || r.Value == strict[i].Value {
			t.Errorf("%+v, and by default %+v", r, strict[i])
		}
		_, key, nested := strings.Cut(r.Key, ".")
		if !nested {
			key = r.Key
		}
		shown[key] = true
	}
	// Every key of the file but those of lists' members and of groups is a rule.
	for line := range strings.Lines(string(full.YAML())) {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || indent > 2 || strings.HasPrefix(key, "- ") || indent == 0 && value == "" && !shown[key] && slices.Contains([]string{"tcb", "td", "time", "models", "retention"}, key) {
			continue
		}
		if !shown[key] {
			t.Errorf("%q isn't shown", key)
		}
	}
}
