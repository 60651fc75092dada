package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// From a nonce to a disclosed response, as a person would: the interfaces' answers
// are files.
func TestImport(t *testing.T) {
	if testing.Short() {
		t.Skip("nothing to race")
	}
	l := sessiontest.New(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	must := func(want int, args ...string) string {
		t.Helper()
		status, out, errs := runCommand(t, args...)
		if status != want {
			t.Fatalf("affidavit %s: status %d, want %d\n%s%s", strings.Join(args, " "), status, want, out, errs)
		}
		return out + errs
	}
	token := write("token", testToken)
	must(exitGood, "keygen", "--type", "release", "--name", "importer", "--out", at("release.key"))
	must(exitGood, "sign", "--key", at("release.key"), "--out", at("key.entry"), "--vendor-key", "--vendor", "https://importer.example")
	must(exitGood, "submit", "--log", l.URL, "--token-file", token, at("key.entry"))

	nonce := strings.TrimSpace(must(exitGood, "nonce", "--log", l.URL, "--out", at("nonce.json")))
	seed := sha256.Sum256([]byte("proxy"))
	key := ed25519.NewKeyFromSeed(seed[:])
	address := []byte(key.Public().(ed25519.PublicKey))
	compose := sha256.Sum256([]byte("compose"))
	// What the proxy answers: a quote with the nonce in it, and the log of what was measured.
	o := tdxsim.QuoteOptions{}
	copy(o.ReportData[:], address)
	raw, _ := hex.DecodeString(nonce)
	copy(o.ReportData[32:], raw)
	var events []string
	for i := range 3 {
		d := sha512.Sum384([]byte("boot"))
		o.RTMR[i] = sha512.Sum384(append(make([]byte, 48), d[:]...))
		events = append(events, fmt.Sprintf(`{"imr":%d,"event_type":4,"digest":"%x","event":"","event_payload":""}`, i, d))
	}
	d := sha512.Sum384(slices.Concat([]byte{1, 0, 0, 8}, []byte(":compose-hash:"), compose[:]))
	o.RTMR[3] = sha512.Sum384(append(make([]byte, 48), d[:]...))
	events = append(events, fmt.Sprintf(`{"imr":3,"event_type":134217729,"digest":"","event":"compose-hash","event_payload":"%x"}`, compose))
	quote, err := l.Platform.Quote(o)
	if err != nil {
		t.Fatal(err)
	}
	report := write("report.json", fmt.Sprintf(`{"signing_address":"%x","signing_algo":"ed25519","intel_quote":"%x","event_log":[%s]}`, address, quote, strings.Join(events, ",")))
	hash := strings.Repeat("ab", 32)
	text := "deepseek-v3.1:" + hash + ":" + hash
	sig := ed25519.Sign(key, []byte(text))
	good := write("good.json", fmt.Sprintf(`{"text":%q,"signature":"%x","signing_address":"%x","signing_algo":"ed25519"}`, text, sig, address))
	sig[0] ^= 1
	bad := write("bad.json", fmt.Sprintf(`{"text":%q,"signature":"%x","signing_address":"%x","signing_algo":"ed25519"}`, text, sig, address))

	flags := []string{"import", "near", "--attestation", report, "--nonce", at("nonce.json"), "--key", at("release.key"), "--vendor", "https://importer.example",
		"--out", at("run.entry"), "--private", at("run.private"), "--evidence-dir", at("evidence"), "--tls-spki", hash, "--signature", good}
	if out := must(exitNotGenuine, append(slices.Clone(flags), "--signature", bad)...); !strings.Contains(out, "response 1: the Ed25519 signature does not verify") {
		t.Errorf("a bad signature: %s", out)
	}
	if _, err := os.Stat(at("run.entry")); err == nil {
		t.Error("an entry was written all the same")
	}
	must(exitGood, flags...)
	if out := must(exitGood, "inspect", at("run.entry")); !strings.Contains(out, "dstack-proxy/v1") {
		t.Error(out)
	}
	must(exitGood, "submit", "--log", l.URL, "--token-file", token, "--evidence-dir", at("evidence"), "--bundle", at("run.entry"))

	policy := write("log.policy", l.Policy().String())
	signer, err := record.ParseEntry(func() []byte { b, _ := os.ReadFile(at("key.entry")); return b }())
	if err != nil {
		t.Fatal(err)
	}
	pins := fmt.Sprintf("measurements:\n  - {name: dstack, mrtd: %x, rtmr0: any, rtmr1: any, rtmr2: any, rtmr3: any}\nrelease-keys:\n  - vendor: https://importer.example\n    keys: [%s]\n",
		tdxsim.Measurement("mrtd"), base64.StdEncoding.EncodeToString(signer.Statement().VendorKey.Key.SPKI))
	strict := write("strict.yaml", pins)
	lenient := write("lenient.yaml", pins+"profiles: [dstack-proxy/v1]\n")
	root := write("root.pem", string(l.PKI.RootPEM()))
	verify := func(status int, policyFile string, more ...string) string {
		t.Helper()
		return must(status, append([]string{"verify", "--log-policy", policy, "--appraisal-policy", policyFile, "--root", root, at("run.entry.affidavit")}, more...)...)
	}
	verify(exitRefused, strict)
	if out := verify(exitGood, lenient); !strings.Contains(out, "Its 4 events replay to the quote's") {
		t.Errorf("the event log isn't replayed: %s", out)
	}

	must(exitGood, "disclose", "--action", "0", "--out", at("one.json"), at("run.private"))
	if out := verify(exitGood, lenient, "--disclosure", at("one.json")); !strings.Contains(out, "by the key that the record's quote commits to") {
		t.Errorf("the response isn't shown: %s", out)
	}

	// An attestation that was asked for with another nonce is an import without a proven time only.
	must(exitGood, "nonce", "--log", l.URL, "--session", strings.Repeat("01", 16), "--out", at("another.json"))
	other := slices.Clone(flags)
	other[5] = at("another.json")
	if out := must(exitNotGenuine, other...); !strings.Contains(out, "wasn't asked for with the nonce") {
		t.Errorf("another nonce: %s", out)
	}
	must(exitGood, "import", "dstack", "--attestation", report, "--collected-on", "2026-11-24T07:00:00Z", "--key", at("release.key"), "--vendor", "https://importer.example", "--out", at("old.entry"))
	for _, args := range [][]string{
		{"import", "other", "--attestation", report, "--key", "k", "--vendor", "v", "--out", "o"},
		{"import", "near", "--attestation", report, "--key", "k", "--vendor", "https://v.example", "--out", "o"},
		{"import", "tinfoil", "--attestation", report, "--nonce", "n", "--key", "k", "--vendor", "https://v.example", "--out", "o"},
		{"import", "near", "--attestation", report, "--nonce", "n", "--signature", good, "--key", "k", "--vendor", "https://v.example", "--out", "o"},
		{"nonce", "--log", l.URL, "--out", "x", "--session", "1"},
	} {
		must(exitUsage, args...)
	}
}

func FuzzParseNonceFile(f *testing.F) {
	b, err := (&nonceFile{freshness: record.Freshness{Origin: "log.example.org/2026", Size: 7}}).marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := parseNonceFile(b)
		if err != nil {
			return
		}
		if again, err := n.marshal(); err != nil || string(again) != string(b) {
			t.Errorf("accepted two encodings: %s and %s", again, b)
		}
	})
}
