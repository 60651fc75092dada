package verifier_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

const (
	origin = "log.example.org/2026"
	vendor = "https://vendor.example"
)

var (
	epoch = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	// now is when the final record is admitted.
	now = epoch.Add(7*time.Hour + 3*time.Minute)
)

// sim is a made-up Intel with a platform, in force at epoch.
type sim struct {
	pki      *tdxsim.PKI
	platform *tdxsim.Platform
	verifier *verifier.Verifier
	set      *tdx.Set
}

var newSim = sync.OnceValue(func() *sim {
	pki := tdxsim.NewPKI([]byte("verifier tests"), epoch)
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		panic(err)
	}
	s := &sim{pki: pki, platform: pki.NewPlatform(tdxsim.PlatformOptions{Name: "one"}), verifier: verifier.New(root)}
	s.set = s.collateral(tdxsim.CollateralOptions{})
	return s
})

func (s *sim) collateral(o tdxsim.CollateralOptions) *tdx.Set {
	c, err := s.pki.Collateral(o)
	if err != nil {
		panic(err)
	}
	set, err := s.verifier.Compile(c)
	if err != nil {
		panic(err)
	}
	return set
}

// key returns a key by its name.
func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) ed25519.PublicKey { return key(name).Public().(ed25519.PublicKey) }

func spki64(name string) string { return base64.StdEncoding.EncodeToString(record.SPKI(public(name))) }

func keyid(name string) string { return record.KeyID(record.SPKI(public(name))) }

func digest(s string) record.Digest { return sha256.Sum256([]byte(s)) }

func digestp(s string) *record.Digest { d := digest(s); return &d }

// measured is what the default quotes have.
func measured() record.Measurement {
	m := record.Measurement{MRTD: tdxsim.Measurement("mrtd")}
	for i := range 3 {
		r := tdxsim.Measurement(fmt.Sprintf("rtmr%d", i))
		m.RTMR[i] = &r
	}
	return m
}

// A world is everything about one session, good as newWorld makes it. Tests
// change one thing, and then ask for entries.
type world struct {
	t testing.TB
	*sim

	info      record.SessionInfo
	start     record.Statement
	final     record.Statement
	run       record.Statement
	release   record.Statement
	withdrawn *record.Statement

	startQuote, finalQuote, runQuote tdxsim.QuoteOptions
	startKey, finalKey, runKey       string // that sign
	releaseKey, withdrawnKey         string
	startPlatform, finalPlatform     *tdxsim.Platform
	startInterval, finalInterval     *verifier.Interval
	startPlace, finalPlace, runPlace uint64
	loggedKeys                       []string // of the vendor
	policy                           string
	at                               time.Time
	withoutReleases                  bool
	finalSet                         *tdx.Set
}

const goodPolicy = `
measurements:
  - name: reviewed
    mrtd: %x
    rtmr0: any
    rtmr1: %x
    rtmr2: %x
    rtmr3: any
`

func pinPolicy() string {
	return fmt.Sprintf(goodPolicy, tdxsim.Measurement("mrtd"), tdxsim.Measurement("rtmr1"), tdxsim.Measurement("rtmr2"))
}

func releasePolicy(keys ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "release-keys:\n  - vendor: %s\n    keys:\n", vendor)
	for _, k := range keys {
		fmt.Fprintf(&b, "      - %s\n", spki64(k))
	}
	return b.String()
}

func freshness(size uint64) record.Freshness {
	cp := checkpointOf(size)
	return record.Freshness{Note: digest(fmt.Sprint("note", size)), Origin: cp.Origin, Size: cp.Size, Root: cp.Root}
}

func checkpointOf(size uint64) checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: origin, Size: size, Root: digest(fmt.Sprint("root", size))}
}

func newWorld(t testing.TB) *world {
	image := record.Image{Name: "pkg:oci/sandbox", SHA256: digest("image")}
	w := &world{
		t: t, sim: newSim(),
		startKey: "session", finalKey: "session", runKey: "gateway", releaseKey: "release", withdrawnKey: "release",
		startPlace: 100, runPlace: 110, finalPlace: 120,
		loggedKeys: []string{"release"}, policy: releasePolicy("release"),
		at:            now,
		startInterval: &verifier.Interval{NotBefore: epoch.Add(7*time.Hour - time.Minute), NotAfter: epoch.Add(7*time.Hour + time.Minute)},
		finalInterval: &verifier.Interval{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Minute)},
	}
	w.startPlatform, w.finalPlatform, w.finalSet = w.platform, w.platform, w.set
	w.info = record.SessionInfo{
		ID: record.SessionID{1, 2, 3}, Kind: record.KindCodingSession, Tenant: digest("tenant"), TenantEpoch: "2026-11", Sequence: 41,
		StartedOn: epoch.Add(7 * time.Hour), IsolationScope: record.IsolationSession,
	}
	env := record.Environment{Release: image, PersistentStorage: record.StorageNone, EgressPolicy: digestp("egress"), EventLog: digestp("event log")}
	channel := record.Channel{Type: record.ChannelTLSSPKI, SHA256: digest("channel")}
	w.start = record.Statement{Vendor: vendor, Start: &record.SessionStart{
		SessionInfo: w.info, SessionKey: record.NewSessionKey(public("session")), Freshness: freshness(90), Environment: env,
		Channels: []record.Channel{{Type: record.ChannelTLSSPKI, SHA256: digest("customer's channel")}}, Challenge: digestp("challenge"),
	}}
	w.final = record.Statement{Vendor: vendor, Session: &record.Session{
		SessionInfo: w.info, FinishedOn: now.Add(-20 * time.Second), EndReason: record.EndCompleted,
		Start:      record.StatementRef{Origin: origin, Index: 100},
		SessionKey: record.NewSessionKey(public("session")), Freshness: freshness(115), Environment: env,
		Models:          []record.Model{{Provider: "phala", RequestModel: "qwen3-coder", ResponseModel: "qwen3-coder-480b", Calls: 2, Execution: record.ExecutionTEE, Channel: channel}},
		Actions:         record.Actions{Tree: record.Tree{Size: 5, Root: digest("actions")}, Outcomes: map[string]uint64{record.OutcomeBlocked: 1, record.OutcomeExecuted: 4}},
		Retention:       record.Retention{Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"ephemeral-keys"}},
		WorkspaceErased: true, OutputCommit: digestp("commit"),
	}}
	gateway := env
	gateway.PersistentStorage, gateway.EgressPolicy, gateway.EventLog = "", nil, nil
	runKey := record.NewSessionKey(public("gateway"))
	gateway.Accelerators = []record.Accelerator{{Type: record.AcceleratorNVIDIA, Count: 8, Binding: record.BindingNonceChained,
		Nonce: record.GPUNonce(runKey.SPKI, freshness(105).Note), Evidence: digest("gpu")}}
	w.run = record.Statement{Vendor: vendor, ModelRun: &record.ModelRun{
		Provider: "phala", RequestModel: "qwen3-coder", ResponseModel: "qwen3-coder-480b", Weights: digestp("weights"),
		Calls: record.Tree{Size: 2, Root: digest("calls")}, SessionKey: runKey, Freshness: freshness(105), Environment: gateway,
		PeerKeyID: keyid("session"), PeerChannel: channel, Session: &record.ServedSession{ID: w.info.ID},
	}}
	w.release = record.Statement{Vendor: vendor, Release: &record.Release{
		Version: "2026.11.3", Measurements: []record.Measurement{measured()}, AgentMeasured: true, NotBefore: epoch.AddDate(0, 0, -4),
	}}
	w.release.Subjects = []record.Subject{{Name: image.Name, SHA256: image.SHA256}}
	return w
}

func marshal(t testing.TB, s *record.Statement) []byte {
	t.Helper()
	b, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) sign(p *tdxsim.Platform, s *record.Statement, keyName string, o tdxsim.QuoteOptions) *record.Entry {
	w.t.Helper()
	payload := marshal(w.t, s)
	if o.ReportData == [64]byte{} {
		o.ReportData = record.ReportData(record.PayloadType, payload)
	}
	quote, err := p.Quote(o)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := record.SignEntry(record.ProfileStatement, payload, key(keyName), record.NewQuoteEvidence(quote))
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) signVendor(s *record.Statement, keyName string) *record.Entry {
	w.t.Helper()
	e, err := record.SignEntry(record.ProfileVendorSigned, marshal(w.t, s), key(keyName))
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func (w *world) startEntry() *record.Entry {
	w.t.Helper()
	return w.sign(w.startPlatform, &w.start, w.startKey, w.startQuote)
}

func (w *world) runEntry() *record.Entry {
	w.t.Helper()
	if s := w.run.ModelRun.Session; s != nil && s.Statement == (record.Digest{}) {
		s.Statement = w.startEntry().StatementDigest()
	}
	return w.sign(w.platform, &w.run, w.runKey, w.runQuote)
}

func (w *world) finalEntry() *record.Entry {
	w.t.Helper()
	s := w.final.Session
	if s.Start.Statement == (record.Digest{}) {
		s.Start.Statement = w.startEntry().StatementDigest()
	}
	for i := range s.Models {
		if m := &s.Models[i]; m.Execution == record.ExecutionTEE && m.ModelRun == nil {
			d := w.runEntry().StatementDigest()
			m.ModelRun = &d
		}
	}
	return w.sign(w.finalPlatform, &w.final, w.finalKey, w.finalQuote)
}

func (w *world) releaseEntry() *record.Entry {
	w.t.Helper()
	return w.signVendor(&w.release, w.releaseKey)
}

func (w *world) withdraw() {
	w.withdrawn = &record.Statement{Vendor: vendor, Subjects: w.release.Subjects, Withdrawn: &record.ReleaseWithdrawn{
		Statement: w.releaseEntry().StatementDigest(), Reason: "leaks", WithdrawnOn: now,
	}}
}

func (w *world) vendorKey(name string) *record.Entry {
	w.t.Helper()
	return w.signVendor(&record.Statement{Vendor: vendor, VendorKey: &record.VendorKey{Key: record.NewSessionKey(public(name))}}, name)
}

// imported is evidence that isn't bound to a statement.
func (w *world) imported(o tdxsim.QuoteOptions, edit func(*record.ImportedEvidence)) *record.Entry {
	w.t.Helper()
	o.ReportData[0] = 1
	quote, err := w.platform.Quote(o)
	if err != nil {
		w.t.Fatal(err)
	}
	ev := &record.ImportedEvidence{MediaType: record.MediaTypeTDXQuote, SHA256: sha256.Sum256(quote), Size: uint64(len(quote)), CollectedOn: epoch.Add(time.Hour), Source: "https://vendor.example/old"}
	if edit != nil {
		edit(ev)
	}
	e, err := record.SignEntry(record.ProfileUnbound, marshal(w.t, &record.Statement{Vendor: vendor, Evidence: ev}), key(w.releaseKey), record.NewQuoteEvidence(quote))
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

func parse(t testing.TB, yaml string) *verifier.Policy {
	t.Helper()
	p, err := verifier.ParsePolicy([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (w *world) input(e *record.Entry, at time.Time, i *verifier.Interval) verifier.Input {
	w.t.Helper()
	in := verifier.Input{Entry: e, Collateral: w.finalSet, At: at, Interval: i}
	if !w.withoutReleases {
		in.Releases = []*record.Entry{w.releaseEntry()}
	}
	if w.withdrawn != nil {
		in.Withdrawn = []*record.Entry{w.signVendor(w.withdrawn, w.withdrawnKey)}
	}
	for _, k := range w.loggedKeys {
		in.VendorKeys = append(in.VendorKeys, w.vendorKey(k))
	}
	return in
}

func (w *world) verify(in verifier.Input) (*verifier.Verdict, error) {
	w.t.Helper()
	return w.verifier.Verify(in, parse(w.t, w.policy))
}

func (w *world) must(v *verifier.Verdict, err error) *verifier.Verdict {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) verifyStart() *verifier.Verdict {
	w.t.Helper()
	return w.must(w.verify(w.input(w.startEntry(), epoch.Add(7*time.Hour+30*time.Second), w.startInterval)))
}

func (w *world) verifyRun() *verifier.Verdict {
	w.t.Helper()
	return w.must(w.verify(w.input(w.runEntry(), now.Add(-2*time.Minute), &verifier.Interval{NotBefore: now.Add(-3 * time.Minute), NotAfter: now})))
}

func (w *world) finalInput() verifier.Input {
	w.t.Helper()
	return w.input(w.finalEntry(), w.at, w.finalInterval)
}

func (w *world) verifyFinal() *verifier.Verdict {
	w.t.Helper()
	return w.must(w.verify(w.finalInput()))
}

func (w *world) place(index uint64, v *verifier.Verdict) *verifier.PlacedRecord {
	return &verifier.PlacedRecord{Origin: origin, Index: index, Verdict: v}
}

func codes(rs []verifier.Refusal) []verifier.Code {
	var c []verifier.Code
	for _, r := range rs {
		c = append(c, r.Code)
	}
	slices.Sort(c)
	return slices.Compact(c)
}

func claim(t testing.TB, cs []verifier.Claim, id string) verifier.Claim {
	t.Helper()
	for _, c := range cs {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no claim %q", id)
	return verifier.Claim{}
}

// reason returns the reason of a *NotGenuine, "" for another error or none.
func reason(err error) string {
	if e := new(verifier.NotGenuine); errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// flip returns b with one bit of the byte at i changed.
func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}
