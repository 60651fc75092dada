package record

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// FORMAT.md has a row for each member that the vectors have, and they have all
// (TestEveryMember).
func TestFormatDocumentsEveryMember(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := func(path string) bool { return bytes.Contains(doc, []byte("`"+path+"`")) }
	var walk func(n *node, path string)
	walk = func(n *node, path string) {
		for _, m := range n.members {
			switch {
			case path == "actions.counts": // names are data
			case path == "":
				walk(m.value, m.name)
			default:
				walk(m.value, path+"."+m.name)
			}
		}
		for _, e := range n.elements {
			walk(e, path+"[]")
		}
		if n.object || n.array && len(n.elements) > 0 {
			return
		}
		if n.array {
			path += "[]"
		}
		if !documented(path) && !documented(strings.TrimSuffix(path, ".sha256")) && !strings.HasPrefix(path, "actions.outcomes.") {
			t.Errorf("no row for `%s`", path)
		}
	}
	for _, b := range vectorsIn(t, "statements/*.json") {
		root := parseBytes(t, b)
		for _, m := range root.members {
			if m.name == "predicate" {
				walk(m.value, "")
			} else if !documented(m.name) {
				t.Errorf("no row for `%s`", m.name)
			}
		}
	}
	for _, b := range vectorsIn(t, "disclosures/*.json") {
		for _, m := range parseBytes(t, b).members {
			if m.name == "disclosure" {
				walk(m.value, "disclosure")
				continue
			}
			for _, m := range m.value.members {
				if !strings.HasPrefix(m.name, "trace") && !documented(m.name) {
					t.Errorf("no row for `%s`", m.name)
				}
			}
		}
	}
}

func parseBytes(t *testing.T, b []byte) *node {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return parseNode(t, d)
}

// FORMAT.md's words are the code's.
func TestFormatConstants(t *testing.T) {
	doc, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	words := append([]string{
		reportDataLabel, SchemeSalted, RulesetV1, MediaTypeTDXQuote, statementType, predicatePrefix, PayloadType,
		string(ProfileStatement), string(ProfileVendorSigned), string(ProfileUnbound), string(ProfileDstackProxy), string(ProfileTLSHPKE),
		string(ProfileITANonce), string(ProfileAzureParavisor), nonceLabel, MediaTypeCCEL, MediaTypeDstackLog,
		KindCodingSession, KindModelRun, IsolationSession, IsolationWorktree, IsolationProject,
		EndCompleted, EndAborted, EndTimeout, ExecutionTEE, ExecutionPolicyZDR, ExecutionUnattested,
		StorageNone, StorageEncryptedEphemeral, StoragePersistent, ChannelTLSSPKI, ChannelHPKEKey,
		RetentionZero, RetentionLimited, RetentionNone, EnforcementTechnical, EnforcementPolicy,
		AbandonedUnused, AbandonedCrashed, AbandonedTerminated, AbandonedLost, AcceleratorNVIDIA, BindingNonceChained, TEEIntelTDX,
		"65,472", "65,535", "131,072", "16,384", "262,144", "65,536", "65,525", "253,402,300,799,999", "9,007,199,254,740,992",
	}, outcomes...)
	for _, w := range words {
		if !bytes.Contains(doc, []byte(w)) {
			t.Errorf("FORMAT.md doesn't have %q", w)
		}
	}
	if MaxEntry != 65472 || MaxLeaf != 65535 || MaxEntryJSON != 131072 || MaxPayload != 16384 || MaxDisclosure != 262144 ||
		MaxAction != 65536 || MaxNote != 65525 || maxMilliseconds != 253402300799999 || maxInt != 9007199254740992 {
		t.Error("a bound differs from the one in FORMAT.md")
	}
}
