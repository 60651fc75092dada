package verifier_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// attestationKey is that of a paravisor's virtual TPM.
var attestationKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// golden replaces what is random in claims.
func (*imports) golden(s string) string {
	sum := sha256.Sum256(attestationKey().N.Bytes())
	return strings.ReplaceAll(s, hex.EncodeToString(sum[:]), "(the key's SHA-256)")
}

func runtimeData(keys ...string) []byte {
	return []byte(`{"keys":[` + strings.Join(keys, ",") + `],"user-data":"00"}`)
}

func jwk(kid string, n *big.Int, e int) string {
	return fmt.Sprintf(`{"kid":%q,"key_ops":["sign"],"kty":"RSA","e":%q,"n":%q}`, kid,
		base64.RawURLEncoding.EncodeToString(big.NewInt(int64(e)).Bytes()), base64.RawURLEncoding.EncodeToString(n.Bytes()))
}

func hclKey() string { return jwk("HCLAkPub", attestationKey().N, attestationKey().E) }

// attest is a TPMS_ATTEST of a quote.
func attest(extra []byte) []byte {
	b := []byte{0xff, 'T', 'C', 'G', 0x80, 0x18, 0, 2, 1, 2}
	b = binary.BigEndian.AppendUint16(b, uint16(len(extra)))
	b = append(b, extra...)
	b = append(b, make([]byte, 17+8)...)
	b = append(b, 0, 0, 0, 1, 0x00, 0x0b, 3, 0xff, 0x40, 0)
	digest := sha256.Sum256([]byte("PCRs"))
	return append(append(b, 0, 32), digest[:]...)
}

func tpmSign(quoted []byte) []byte {
	sum := sha256.Sum256(quoted)
	sig, err := rsa.SignPKCS1v15(nil, attestationKey(), crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	b := []byte{0x00, 0x14, 0x00, 0x0b}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(sig))), sig...)
}

// imports makes entries of the profiles for what vendors already have. Tests edit
// what they are made of.
type imports struct {
	*world
	session   record.SessionID
	tls       *record.Digest
	log       []byte
	edit      func(*record.Statement)
	binding   func(record.Binding) // after REPORTDATA was made of it
	report    func(*[64]byte)
	key       string
	quote     tdxsim.QuoteOptions
	interval  *verifier.Interval
	withBytes bool // whoever verifies has the event log
}

func newImports(t testing.TB) *imports {
	i := &imports{world: newWorld(t), session: record.SessionID{7, 7}, key: "release"}
	fp := digest("proxy's TLS key")
	i.tls = &fp
	i.interval = &verifier.Interval{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute)}
	i.loggedKeys = []string{"release"}
	i.quote.MRTD = tdxsim.Measurement("mrtd")
	compose := digest("app compose")
	events := []string{}
	for r := range 3 {
		d := sha512.Sum384([]byte("firmware"))
		events = append(events, fmt.Sprintf(`{"imr":%d,"event_type":4,"digest":"%x","event":"","event_payload":"%x"}`, r, d, "firmware"))
		i.quote.RTMR[r] = sha512.Sum384(append(make([]byte, 48), d[:]...))
	}
	for _, e := range []struct {
		name    string
		payload []byte
	}{{"app-id", []byte{0x0a}}, {"compose-hash", compose[:]}, {"system-ready", nil}, {"os-image-hash", []byte{0xff}}} {
		d := sha512.Sum384(slices.Concat([]byte{1, 0, 0, 8, ':'}, []byte(e.name), []byte{':'}, e.payload))
		i.quote.RTMR[3] = sha512.Sum384(append(i.quote.RTMR[3][:], d[:]...))
		events = append(events, fmt.Sprintf(`{"imr":3,"event_type":134217729,"digest":"","event":%q,"event_payload":"%x"}`, e.name, e.payload))
	}
	i.log = []byte("[" + strings.Join(events, ",") + "]")
	return i
}

// importPolicy pins what the quotes of imports have.
func importPolicy() string {
	return fmt.Sprintf("measurements:\n  - {name: reviewed, mrtd: %x, rtmr0: any, rtmr1: any, rtmr2: any, rtmr3: any}\n", tdxsim.Measurement("mrtd"))
}

// run is an imported model run.
func (i *imports) run(channel record.Channel) *record.Statement {
	root := record.ActionRoot([]record.Digest{record.ActionLeaf([32]byte{1}, record.ServedSessionDocument(i.session, record.Digest{}))})
	log := sha256.Sum256(i.log)
	return &record.Statement{Vendor: vendor, ModelRun: &record.ModelRun{
		Provider: "near", RequestModel: "deepseek-v3.1", Calls: record.Tree{Size: 2, Root: digest("calls")},
		SessionKey: record.NewSessionKey(public(i.key)), Freshness: freshness(115), PeerChannel: channel, SessionsServed: &record.Tree{Size: 1, Root: root},
		Environment: record.Environment{Release: record.Image{Name: "dstack-app:0a", SHA256: digest("app compose")}, EventLog: &log,
			Accelerators: []record.Accelerator{{Type: record.AcceleratorNVIDIA, Count: 8, Binding: record.BindingNonceChained,
				Nonce: record.Nonce(freshness(115).Note, i.session), Evidence: digest("gpu")}}},
	}}
}

// make signs an entry of profile p with the given quote's REPORTDATA.
func (i *imports) make(p record.Profile, st *record.Statement, b record.Binding, reportData [64]byte, more ...record.Evidence) *record.Entry {
	i.t.Helper()
	if i.report != nil {
		i.report(&reportData)
	}
	if i.edit != nil {
		i.edit(st)
	}
	i.quote.ReportData = reportData
	quote, err := i.platform.Quote(i.quote)
	if err != nil {
		i.t.Fatal(err)
	}
	if ev := st.Evidence; ev != nil {
		ev.MediaType, ev.SHA256, ev.Size = record.MediaTypeTDXQuote, sha256.Sum256(quote), uint64(len(quote))
	}
	evidence := []record.Evidence{record.NewQuoteEvidence(quote)}
	if b != nil {
		if i.binding != nil {
			i.binding(b)
		}
		evidence = append(evidence, record.NewBindingEvidence(b))
	}
	e, err := record.SignEntry(p, marshal(i.t, st), key(i.key), append(evidence, more...)...)
	if err != nil {
		i.t.Fatal(err)
	}
	return e
}

func (i *imports) logRef() record.Evidence {
	return record.NewDigestEvidence(record.EvidenceRef{SHA256: sha256.Sum256(i.log), Size: uint64(len(i.log)), MediaType: record.MediaTypeDstackLog})
}

func (i *imports) dstack() *record.Entry {
	address := digest("address")
	b := &record.DstackBinding{KeyType: record.KeySecp256k1, Key: address[:20], TLS: i.tls, Nonce: record.Nonce(freshness(115).Note, i.session), For: &i.session}
	channel := record.Channel{Type: record.ChannelTLSSPKI, SHA256: digest("proxy's TLS key")}
	return i.make(record.ProfileDstackProxy, i.run(channel), b, b.ReportData(), i.logRef())
}

func evidenceStatement() *record.Statement {
	return &record.Statement{Vendor: vendor, Evidence: &record.ImportedEvidence{CollectedOn: epoch.Add(time.Hour)}}
}

func (i *imports) dstackEvidence() *record.Entry {
	ed := digest("an Ed25519 key")
	b := &record.DstackBinding{KeyType: record.KeyEd25519, Key: ed[:], Nonce: digest("somebody's nonce")}
	return i.make(record.ProfileDstackProxy, evidenceStatement(), b, b.ReportData(), i.logRef())
}

func (i *imports) tlsHPKE() *record.Entry {
	var r [64]byte
	tls, hpke := digest("TLS"), digest("HPKE")
	copy(r[:], tls[:])
	copy(r[32:], hpke[:])
	return i.make(record.ProfileTLSHPKE, evidenceStatement(), nil, r)
}

func (i *imports) ita() *record.Entry {
	nonce := record.Nonce(freshness(115).Note, i.session)
	b := &record.NonceBinding{Value: nonce[:], RuntimeData: []byte("SPKI"), For: &i.session}
	return i.make(record.ProfileITANonce, i.run(record.Channel{Type: record.ChannelTLSSPKI, SHA256: digest("SPKI")}), b, b.ReportData())
}

func (i *imports) itaEvidence() *record.Entry {
	b := &record.NonceBinding{Value: []byte("a verifier's nonce"), IssuedAt: []byte("2026-11-24 00:59:59 +0000 UTC"), RuntimeData: []byte("data")}
	return i.make(record.ProfileITANonce, evidenceStatement(), b, b.ReportData())
}

func (i *imports) azure() *record.Entry {
	st := i.start
	start := *st.Start
	start.StartedOn = now.Truncate(time.Second)
	st.Start, i.key = &start, "session"
	want := record.ReportData(record.PayloadType, marshal(i.t, &st))
	quoted := attest(want[:])
	b := &record.VTPMBinding{RuntimeData: runtimeData(jwk("HCLEkPub", attestationKey().N, 3), hclKey()), Quoted: quoted, Signature: tpmSign(quoted)}
	return i.make(record.ProfileAzureParavisor, &st, b, b.ReportData())
}

func (i *imports) in(e *record.Entry) verifier.Input {
	in := i.input(e, now, i.interval)
	if ev := e.Statement().Evidence; ev != nil {
		in.At, in.Interval = ev.CollectedOn, &verifier.Interval{NotAfter: now}
	}
	in.Releases = nil
	if i.withBytes {
		in.Evidence = map[record.Digest][]byte{sha256.Sum256(i.log): i.log}
	}
	return in
}

var profileCases = []struct {
	name string
	make func(*imports) *record.Entry
}{
	{"dstack-proxy/v1, model run", (*imports).dstack},
	{"dstack-proxy/v1, evidence", (*imports).dstackEvidence},
	{"ita-nonce/v1, model run", (*imports).ita},
	{"ita-nonce/v1, evidence", (*imports).itaEvidence},
	{"tls-hpke/v2, evidence", (*imports).tlsHPKE},
	{"azure-paravisor/v1, session start", (*imports).azure},
}

// What each profile binds and what it doesn't is in a golden file, word for word.
func TestProfileClaims(t *testing.T) {
	var b bytes.Buffer
	for _, tt := range profileCases {
		i := newImports(t)
		i.withBytes = true
		i.policy = importPolicy()
		v, err := i.verify(i.in(tt.make(i)))
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		fmt.Fprintf(&b, "# %s\n", tt.name)
		for _, c := range v.Claims {
			if c.ID == "platform.id" { // from here on they are those of any quote
				break
			}
			fmt.Fprintf(&b, "%-8s %-13s %-25s %s: %s\n", c.Status, c.Source, c.ID, c.Label, i.golden(c.Value))
			if c.Note != "" {
				fmt.Fprintf(&b, "%-8s %-13s %-25s   %s\n", "", "", "", c.Note)
			}
		}
		for _, r := range v.Refusals {
			fmt.Fprintf(&b, "REFUSED  %s: %s: got %q, want %q\n         %s\n", r.Code, r.Field, r.Got, r.Want, r.Message)
		}
		b.WriteByte('\n')
		// The code is known, and still nothing that the statement says is its word.
		if !v.Identity.Known() {
			t.Errorf("%s: the code isn't known", tt.name)
		}
		for _, c := range v.Claims {
			if c.Source == verifier.SourceMeasuredCode {
				t.Errorf("%s: %s is the measured code's word", tt.name, c.ID)
			}
		}
		if !slices.Contains(codes(v.Refusals), verifier.CodeProfile) {
			t.Errorf("%s: a policy that doesn't name the profile accepts it", tt.name)
		}
	}
	file := filepath.Join("..", "testdata", "verifier", "profiles.golden")
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for i := range gotLines {
			if i >= len(wantLines) || gotLines[i] != wantLines[i] {
				t.Fatalf("%s, line %d (run with -update if the change is meant):\n got %q\nwant %q", file, i+1, gotLines[i], wantLines[min(i, len(wantLines)-1)])
			}
		}
		t.Fatalf("%s has more lines", file)
	}
}

// A policy that names the profile, and trusts the key of who imports, allows it;
// nobody else's key does.
func TestProfileAllowed(t *testing.T) {
	for _, tt := range profileCases {
		i := newImports(t)
		i.policy = importPolicy() + releasePolicy("release") + "time: {allow-unproven: true}\nprofiles: [dstack-proxy/v1, ita-nonce/v1, tls-hpke/v2, azure-paravisor/v1]\n"
		v, err := i.verify(i.in(tt.make(i)))
		if err != nil || !v.Allowed() {
			t.Errorf("%s: %v %+v", tt.name, err, v.Refusals)
			continue
		}
		if v.Entry.Profile.InTD() {
			continue
		}
		i.policy = strings.Replace(i.policy, spki64("release"), spki64("another"), 1)
		if v, err = i.verify(i.in(tt.make(i))); err != nil || !slices.Equal(codes(v.Refusals), []verifier.Code{verifier.CodeReleaseKey}) {
			t.Errorf("%s, another key: %v %v", tt.name, err, codes(v.Refusals))
		}
		in := i.in(tt.make(i))
		in.VendorKeys = nil
		if _, err := i.verify(in); reason(err) != verifier.ReasonKey {
			t.Errorf("%s, key not logged: %v", tt.name, err)
		}
	}
}

// One thing changed in any of them, and it isn't genuine.
func TestProfileRefuses(t *testing.T) {
	for _, tt := range profileCases {
		for at := 0; at < 64; at += 7 {
			i := newImports(t)
			i.report = func(r *[64]byte) { r[at] ^= 1 }
			_, err := i.verify(i.in(tt.make(i)))
			if tt.name != "tls-hpke/v2, evidence" && reason(err) != verifier.ReasonBinding {
				t.Errorf("%s, byte %d of REPORTDATA: %v", tt.name, at, err)
			}
		}
		// And one byte of the quote that hardware signed.
		i := newImports(t)
		e := tt.make(i)
		quote := flip(e.Quote(), 48+136)
		ev := append([]record.Evidence{record.NewQuoteEvidence(quote)}, e.Evidence[1:]...)
		st := *e.Statement()
		if st.Evidence != nil {
			imported := *st.Evidence
			imported.SHA256, st.Subjects = sha256.Sum256(quote), nil
			st.Evidence = &imported
		}
		e, err := record.SignEntry(e.Profile, marshal(t, &st), key(i.key), ev...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.verify(i.in(e)); reason(err) != "quote-signature" && reason(err) != "signature" {
			t.Errorf("%s, one byte of the quote: %v", tt.name, err)
		}
	}
	another := digest("another")
	for _, tt := range []struct {
		name string
		make func(*imports) *record.Entry
		edit func(*imports)
		want string
	}{
		{"another session", (*imports).dstack, func(i *imports) {
			i.binding = func(b record.Binding) { b.(*record.DstackBinding).For = &record.SessionID{8} }
		}, verifier.ReasonBinding},
		{"another note", (*imports).dstack, func(i *imports) {
			i.edit = func(s *record.Statement) { s.ModelRun.Freshness = freshness(114) }
		}, verifier.ReasonBinding},
		{"another address", (*imports).dstack, func(i *imports) {
			i.binding = func(b record.Binding) { b.(*record.DstackBinding).Key = another[:20] }
		}, verifier.ReasonBinding},
		{"an Ed25519 key for an address", (*imports).dstackEvidence, func(i *imports) {
			i.binding = func(b record.Binding) {
				d := b.(*record.DstackBinding)
				d.KeyType, d.Key = record.KeySecp256k1, d.Key[:20]
			}
		}, verifier.ReasonBinding},
		{"a TLS key that the quote doesn't commit to", (*imports).dstackEvidence, func(i *imports) {
			i.binding = func(b record.Binding) { b.(*record.DstackBinding).TLS = &another }
		}, verifier.ReasonBinding},
		{"another channel than the bound one", (*imports).dstack, func(i *imports) {
			i.edit = func(s *record.Statement) { s.ModelRun.PeerChannel.SHA256 = another }
		}, verifier.ReasonBinding},
		{"the bound TLS key as HPKE key", (*imports).dstack, func(i *imports) {
			i.edit = func(s *record.Statement) { s.ModelRun.PeerChannel.Type = record.ChannelHPKEKey }
		}, verifier.ReasonBinding},
		{"any channel where none is bound", (*imports).dstack, func(i *imports) {
			i.tls = nil
			i.edit = func(s *record.Statement) { s.ModelRun.PeerChannel.SHA256 = another }
		}, ""},
		{"other runtime data than the channel", (*imports).ita, func(i *imports) {
			i.edit = func(s *record.Statement) { s.ModelRun.PeerChannel.SHA256 = another }
		}, verifier.ReasonBinding},
		{"bytes moved between nonce and data", (*imports).ita, func(i *imports) {
			i.binding = func(b record.Binding) {
				n := b.(*record.NonceBinding)
				n.IssuedAt, n.RuntimeData = n.RuntimeData[:1], n.RuntimeData[1:]
			}
		}, verifier.ReasonBinding},
		{"another key of the virtual TPM", (*imports).azure, func(i *imports) {
			i.binding = func(b record.Binding) {
				v := b.(*record.VTPMBinding)
				v.RuntimeData = runtimeData(jwk("HCLAkPub", new(big.Int).Add(attestationKey().N, big.NewInt(2)), attestationKey().E))
			}
		}, verifier.ReasonBinding},
		{"another quote of the virtual TPM", (*imports).azure, func(i *imports) {
			i.binding = func(b record.Binding) {
				v := b.(*record.VTPMBinding)
				v.Quoted = attest(make([]byte, 64))
				v.Signature = tpmSign(v.Quoted)
			}
		}, verifier.ReasonBinding},
		{"a quote that the virtual TPM didn't sign", (*imports).azure, func(i *imports) {
			i.binding = func(b record.Binding) {
				v := b.(*record.VTPMBinding)
				v.Quoted = flip(v.Quoted, len(v.Quoted)-1)
			}
		}, verifier.ReasonBinding},
		{"something else that the virtual TPM signed", (*imports).azure, func(i *imports) {
			i.binding = func(b record.Binding) {
				v := b.(*record.VTPMBinding)
				v.Quoted[5] = 0x17 // TPM_ST_ATTEST_CERTIFY
				v.Signature = tpmSign(v.Quoted)
			}
		}, verifier.ReasonBinding},
	} {
		i := newImports(t)
		tt.edit(i)
		if _, err := i.verify(i.in(tt.make(i))); reason(err) != tt.want || (err == nil) != (tt.want == "") {
			t.Errorf("%s: %v, want reason %q", tt.name, err, tt.want)
		}
	}
}

// An event log that isn't the quote's is refused under any policy, and so is an
// application that the statement names and that wasn't measured.
func TestEventLogs(t *testing.T) {
	policy := importPolicy() + releasePolicy("release") + "time: {allow-unproven: true}\nprofiles: [dstack-proxy/v1]\n"
	for _, tt := range []struct {
		name string
		make func(*imports) *record.Entry
		edit func(*imports)
		want []verifier.Code
	}{
		{"good", (*imports).dstack, func(*imports) {}, nil},
		{"good, with evidence", (*imports).dstackEvidence, func(*imports) {}, nil},
		{"another event", (*imports).dstack, func(i *imports) { i.log = bytes.Replace(i.log, []byte(`"0a"`), []byte(`"0b"`), 1) }, []verifier.Code{verifier.CodeEventLog}},
		{"another event, with evidence", (*imports).dstackEvidence, func(i *imports) { i.log = bytes.Replace(i.log, []byte(`"ff"`), []byte(`"fe"`), 1) }, []verifier.Code{verifier.CodeEventLog}},
		{"not a log", (*imports).dstack, func(i *imports) { i.log = []byte("{") }, []verifier.Code{verifier.CodeEventLog}},
		{"another application", (*imports).dstack, func(i *imports) {
			i.edit = func(s *record.Statement) { s.ModelRun.Environment.Release.SHA256 = digest("another") }
		}, []verifier.Code{verifier.CodeRelease}},
		{"another GPU nonce", (*imports).dstack, func(i *imports) {
			i.edit = func(s *record.Statement) {
				s.ModelRun.Environment.Accelerators[0].Nonce = record.GPUNonce(record.SPKI(public("release")), freshness(115).Note)
			}
		}, []verifier.Code{verifier.CodeAccelerator}},
	} {
		i := newImports(t)
		i.withBytes, i.policy = true, policy
		tt.edit(i)
		v, err := i.verify(i.in(tt.make(i)))
		if err != nil || !slices.Equal(codes(v.Refusals), tt.want) {
			t.Errorf("%s: %v %+v", tt.name, err, v.Refusals)
		}
	}
}

// An import doesn't make a session's model one that ran in confidential hardware:
// the link is shown as the vendor's word.
func TestImportedRunOfSession(t *testing.T) {
	i := newImports(t)
	i.policy = releasePolicy("release") + importPolicy() + "profiles: [statement/v1, dstack-proxy/v1]\n"
	i.session = i.info.ID
	m := &i.final.Session.Models[0]
	m.Provider, m.RequestModel, m.ResponseModel, m.Channel = "near", "deepseek-v3.1", "", record.Channel{Type: record.ChannelTLSSPKI, SHA256: digest("proxy's TLS key")}
	i.edit = func(s *record.Statement) {
		s.ModelRun.SessionsServed, s.ModelRun.PeerKeyID = nil, keyid("session")
		s.ModelRun.Session = &record.ServedSession{ID: i.info.ID, Statement: i.startEntry().StatementDigest()}
	}
	e := i.dstack()
	d := e.StatementDigest()
	m.ModelRun = &d
	run := i.place(i.runPlace, i.must(i.verify(i.in(e))))
	claims, refusals := verifier.ModelRuns(i.place(i.startPlace, i.verifyStart()), i.place(i.finalPlace, i.verifyFinal()), []*verifier.PlacedRecord{run}, parse(t, i.policy))
	if c := claim(t, claims, "model.0"); len(refusals) > 0 || c.Source != verifier.SourceVendor || c.Status != verifier.StatusAsserted || !strings.Contains(c.Note, "isn't shown by that") {
		t.Errorf("%+v %+v", c, refusals)
	}
}

func TestAdmitProfiles(t *testing.T) {
	for _, tt := range profileCases {
		i := newImports(t)
		e := tt.make(i)
		at := now
		if ev := e.Statement().Evidence; ev != nil {
			at = ev.CollectedOn
		}
		s := newSubmission(t)
		s.judgedAt = at
		if _, err := s.admit(e); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		s.admission.AllowImports = false
		_, err := s.admit(e)
		ae := new(verifier.AdmissionError)
		if want := e.Profile.Import(); want != (errors.As(err, &ae) && ae.Problem == verifier.ProblemImportsNotAllowed) || want != (err != nil) {
			t.Errorf("%s, no imports: %v", tt.name, err)
		}
	}
}
