package bundletest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// Epoch is when worlds begin.
var Epoch = time.Date(2026, 11, 24, 7, 0, 0, 0, time.UTC)

// A Vendor is a vendor with a release key and one image.
type Vendor struct {
	ID    string
	Key   ed25519.PrivateKey
	Image record.Image
	Label string // of the measurements, see [tdxsim.Measurement]

	KeyIndex, ReleaseIndex uint64 // of the leaves that World.AddVendor has made
}

// KeyFrom returns an Ed25519 key that depends on label only.
func KeyFrom(label string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("bundletest key " + label))
	return ed25519.NewKeyFromSeed(seed[:])
}

// NewVendor returns a vendor. Everything about it follows from its name.
func NewVendor(name string) *Vendor {
	return &Vendor{
		ID:    "https://" + name + ".example",
		Key:   KeyFrom(name),
		Image: record.Image{Name: "pkg:oci/" + name, SHA256: sha256.Sum256([]byte("image of " + name))},
		Label: name,
	}
}

// A World is a log with a vendor who has a platform, and a clock that moves when it is told to. Its methods add leaves
// to the log and return their indices.
type World struct {
	*Log
	PKI      *tdxsim.PKI
	Platform *tdxsim.Platform
	Now      time.Time

	Vendor  *Vendor // runs the sessions
	Gateway *Vendor // runs the models

	Session    record.SessionID
	SessionKey ed25519.PrivateKey

	Set          *tdx.Collateral
	CollateralID record.Digest

	// Fresh is the newest freshness, that of the last time leaf.
	Fresh record.Freshness

	evidence map[string][]byte // of the stand-in's evidence store, by digest; guarded by Log.mu
}

// NewWorld returns a world whose log is empty.
func NewWorld(tb testing.TB, o LogOptions) *World {
	tb.Helper()
	w := &World{
		Log:        NewLog(tb, o),
		PKI:        tdxsim.NewPKI([]byte("bundletest"), Epoch.Add(-time.Hour)),
		Now:        Epoch,
		Vendor:     NewVendor("sandbox"),
		Gateway:    NewVendor("gateway"),
		Session:    record.SessionID(sha256Bytes("session id")[:16]),
		SessionKey: KeyFrom("session"),
	}
	w.Platform = w.PKI.NewPlatform(tdxsim.PlatformOptions{})
	set, err := w.PKI.Collateral(tdxsim.CollateralOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	w.Set = set
	return w
}

func sha256Bytes(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// Root returns the root that the world's platforms are trusted under.
func (w *World) Root() *tdx.Root {
	w.tb.Helper()
	root, err := tdx.ParseRoot(w.PKI.Root())
	if err != nil {
		w.tb.Fatal(err)
	}
	return root
}

// Options returns options under which what NewSession makes is good. Lines are added to the appraisal policy.
func (w *World) Options(lines ...string) bundle.Options {
	w.tb.Helper()
	return bundle.Options{
		LogPolicy:       w.Policy(),
		AllowQuorumNone: len(w.Witnesses) == 0,
		Appraisal:       w.Appraisal(lines...),
		Root:            w.Root(),
	}
}

// Appraisal returns the strictest appraisal policy that trusts the release keys of the world's vendors, with lines
// added.
func (w *World) Appraisal(lines ...string) *verifier.Policy {
	w.tb.Helper()
	var b strings.Builder
	b.WriteString("release-keys:\n")
	for _, v := range []*Vendor{w.Vendor, w.Gateway} {
		fmt.Fprintf(&b, "  - vendor: %s\n    keys: [%s]\n", v.ID, base64.StdEncoding.EncodeToString(record.SPKI(v.Key.Public().(ed25519.PublicKey))))
	}
	for _, l := range lines {
		b.WriteString(l + "\n")
	}
	p, err := verifier.ParsePolicy([]byte(b.String()))
	if err != nil {
		w.tb.Fatalf("%v in\n%s", err, b.String())
	}
	return p
}

// Tick moves the clock.
func (w *World) Tick(d time.Duration) { w.Now = w.Now.Add(d) }

func (w *World) ms() int64 { return w.Now.UnixMilli() }

// AddTime signs the log as it is and logs the note.
func (w *World) AddTime() uint64 {
	w.tb.Helper()
	return w.AddNote(w.Sign(w.Head(w.Size()), w.Now))
}

// AddNote logs a note of a checkpoint in a time leaf, and makes it the one that is fresh.
func (w *World) AddNote(note []byte) uint64 {
	w.tb.Helper()
	cp := w.Head(w.size(note))
	w.Fresh = record.Freshness{Note: sha256.Sum256(note), Origin: cp.Origin, Size: cp.Size, Root: cp.Root}
	return w.Append((&record.TimeLeaf{LoggedAt: w.ms(), Note: note}).Bytes())
}

// AddCollateral logs a set, and makes it the one that records are judged with.
func (w *World) AddCollateral(set *tdx.Collateral) uint64 {
	w.tb.Helper()
	w.AddBlobs(set)
	leaf := &record.CollateralLeaf{TEE: record.TEETDX}
	for i, b := range set.Components() {
		leaf.Components[i] = sha256.Sum256(b)
	}
	w.Set, w.CollateralID = set, leaf.ID()
	return w.Append(leaf.Bytes())
}

// AddVendorKey logs the vendor's key.
func (w *World) AddVendorKey(v *Vendor, edit ...func(*Draft)) uint64 {
	key := record.NewSessionKey(v.Key.Public().(ed25519.PublicKey))
	digest, err := hex.DecodeString(key.KeyID)
	if err != nil {
		w.tb.Fatal(err)
	}
	return w.addVendor(v, &record.Statement{
		PredicateType: record.PredicateVendorKey,
		Subjects:      []record.Subject{{Name: record.SubjectKey, SHA256: record.Digest(digest)}},
		Vendor:        v.ID,
		VendorKey:     &record.VendorKey{Key: key},
	}, edit)
}

// AddRelease logs a release of the vendor's image.
func (w *World) AddRelease(v *Vendor, edit ...func(*Draft)) uint64 {
	m := record.Measurement{MRTD: tdxsim.Measurement(v.Label + " mrtd")}
	for i := range 3 {
		rtmr := tdxsim.Measurement(fmt.Sprintf("%s rtmr%d", v.Label, i))
		m.RTMR[i] = &rtmr
	}
	return w.addVendor(v, &record.Statement{
		PredicateType: record.PredicateRelease,
		Subjects:      []record.Subject{{Name: v.Image.Name, SHA256: v.Image.SHA256}},
		Vendor:        v.ID,
		Release: &record.Release{
			Image: v.Image, Version: "2026.11.3", Measurements: []record.Measurement{m}, NotBefore: Epoch.AddDate(0, 0, -4),
		},
	}, edit)
}

// AddWithdrawal logs the withdrawal of the release at index.
func (w *World) AddWithdrawal(v *Vendor, release uint64, edit ...func(*Draft)) uint64 {
	return w.addVendor(v, &record.Statement{
		PredicateType: record.PredicateReleaseWithdrawn,
		Subjects:      []record.Subject{{Name: v.Image.Name, SHA256: v.Image.SHA256}},
		Vendor:        v.ID,
		Withdrawn: &record.ReleaseWithdrawn{
			Image: v.Image, Statement: w.Statement(release), Reason: "a test withdraws it", WithdrawnOn: w.Now.Truncate(time.Second),
		},
	}, edit)
}

// Statement returns the digest of the statement in the leaf at index.
func (w *World) Statement(index uint64) record.Digest {
	w.tb.Helper()
	leaf, err := record.ParseLeaf(w.Leaf(index))
	if err != nil {
		w.tb.Fatal(err)
	}
	switch l := leaf.(type) {
	case *record.RecordLeaf:
		return l.Entry.StatementDigest()
	case *record.VendorLeaf:
		return l.Entry.StatementDigest()
	}
	w.tb.Fatalf("leaf %d has no statement", index)
	return record.Digest{}
}

// A Draft is an entry and its leaf before they are made. Tests edit it.
type Draft struct {
	Statement *record.Statement
	Profile   record.Profile
	Key       ed25519.PrivateKey // signs

	// Quote and Platform make the evidence, if Platform is not nil, and Replay replaces it. ReportData is overwritten
	// unless KeepReportData is set.
	Quote          tdxsim.QuoteOptions
	Platform       *tdxsim.Platform
	KeepReportData bool
	Replay         []byte

	Admitted, Judged time.Time
	Collateral       record.Digest

	// Entry, if it is not nil, is logged instead of what would be made.
	Entry *record.Entry
}

// Make returns d's entry.
func (d *Draft) Make(tb testing.TB) *record.Entry {
	tb.Helper()
	if d.Entry != nil {
		return d.Entry
	}
	payload, err := d.Statement.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	var evidence []record.Evidence
	switch {
	case d.Replay != nil:
		evidence = append(evidence, record.NewQuoteEvidence(d.Replay))
	case d.Platform != nil:
		if !d.KeepReportData {
			d.Quote.ReportData = record.ReportData(record.PayloadType, payload)
		}
		quote, err := d.Platform.Quote(d.Quote)
		if err != nil {
			tb.Fatal(err)
		}
		evidence = append(evidence, record.NewQuoteEvidence(quote))
	}
	e, err := record.SignEntry(d.Profile, payload, d.Key, evidence...)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

func (w *World) addVendor(v *Vendor, s *record.Statement, edits []func(*Draft)) uint64 {
	w.tb.Helper()
	d := &Draft{Statement: s, Profile: record.ProfileVendorSigned, Key: v.Key, Admitted: w.Now}
	for _, edit := range edits {
		edit(d)
	}
	return w.Append((&record.VendorLeaf{AdmittedAt: d.Admitted.UnixMilli(), Entry: d.Make(w.tb)}).Bytes())
}

func (w *World) addRecord(v *Vendor, s *record.Statement, edits []func(*Draft)) uint64 {
	w.tb.Helper()
	d := &Draft{
		Statement: s, Profile: record.ProfileStatement, Key: w.SessionKey, Platform: w.Platform, Quote: v.Quote(),
		Admitted: w.Now, Judged: w.Now, Collateral: w.CollateralID,
	}
	for _, edit := range edits {
		edit(d)
	}
	e := d.Make(w.tb)
	judged := d.Admitted.UnixMilli()
	if ev := e.Statement().Evidence; ev != nil {
		judged = ev.CollectedOn.UnixMilli()
	}
	leaf := (&record.RecordLeaf{
		Ruleset: record.RulesetV1, AdmittedAt: d.Admitted.UnixMilli(), JudgedAt: judged, Collateral: d.Collateral, Entry: e,
	}).Bytes()
	// Package record makes no leaf with a wrong time: it follows version, kind, ruleset, and the time of admission.
	binary.BigEndian.PutUint64(leaf[2+1+len(record.RulesetV1)+8:], uint64(d.Judged.UnixMilli()))
	return w.Append(leaf)
}

// Quote returns the options of a quote with the measurements of the vendor's image.
func (v *Vendor) Quote() tdxsim.QuoteOptions {
	o := tdxsim.QuoteOptions{MRTD: tdxsim.Measurement(v.Label + " mrtd")}
	for i := range 3 {
		o.RTMR[i] = tdxsim.Measurement(fmt.Sprintf("%s rtmr%d", v.Label, i))
	}
	return o
}

func (w *World) info(started time.Time) record.SessionInfo {
	month := started.Format("2006-01")
	return record.SessionInfo{
		ID: w.Session, Kind: record.KindCodingSession, TenantEpoch: month, StartedOn: started.Truncate(time.Second),
		Tenant:         record.TenantPseudonym([]byte("the customer's key"), w.Origin, w.Vendor.ID, month),
		IsolationScope: record.IsolationSession,
	}
}

func environment(v *Vendor) record.Environment {
	egress, events := sha256.Sum256([]byte("egress policy")), sha256.Sum256([]byte("event log"))
	return record.Environment{Release: v.Image, PersistentStorage: record.StorageNone, EgressPolicy: &egress, EventLog: &events}
}

func channel(name string) record.Channel {
	return record.Channel{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256([]byte("channel of " + name))}
}

// AddStart logs the start of the session.
func (w *World) AddStart(edit ...func(*Draft)) uint64 {
	return w.addRecord(w.Vendor, &record.Statement{
		PredicateType: record.PredicateSessionStart,
		Subjects:      []record.Subject{{Name: record.SubjectSession, SHA256: w.Session.Digest()}},
		Vendor:        w.Vendor.ID,
		Start: &record.SessionStart{
			SessionInfo: w.info(w.Now),
			SessionKey:  record.NewSessionKey(w.SessionKey.Public().(ed25519.PublicKey)),
			Freshness:   w.Fresh,
			Environment: environment(w.Vendor),
			Channels:    []record.Channel{channel("sandbox")},
		},
	}, edit)
}

// AddModelRun logs a model run for the session whose start is at index.
func (w *World) AddModelRun(start uint64, edit ...func(*Draft)) uint64 {
	key := KeyFrom("model run")
	weights := sha256.Sum256([]byte("weights"))
	env := environment(w.Gateway)
	return w.addRecord(w.Gateway, &record.Statement{
		PredicateType: record.PredicateModelRun,
		Subjects:      []record.Subject{{Name: record.SubjectSession, SHA256: w.Session.Digest()}},
		Vendor:        w.Gateway.ID,
		ModelRun: &record.ModelRun{
			Provider: "gateway", RequestModel: "qwen3-coder-480b", ResponseModel: "qwen3-coder-480b", Weights: &weights,
			Calls:       record.Tree{Size: 1, Root: sha256.Sum256([]byte("calls"))},
			SessionKey:  record.NewSessionKey(key.Public().(ed25519.PublicKey)),
			Freshness:   w.Fresh,
			Environment: env,
			PeerKeyID:   record.NewSessionKey(w.SessionKey.Public().(ed25519.PublicKey)).KeyID,
			PeerChannel: channel("gateway"),
			Session:     &record.ServedSession{ID: w.Session, Statement: w.Statement(start)},
		},
	}, append([]func(*Draft){func(d *Draft) { d.Key = key }}, edit...))
}

// AddFinal logs the end of the session whose start is at index, and which used the model of the given runs.
func (w *World) AddFinal(start uint64, runs []uint64, edit ...func(*Draft)) uint64 {
	w.tb.Helper()
	leaf, err := record.ParseLeaf(w.Leaf(start))
	if err != nil {
		w.tb.Fatal(err)
	}
	var models []record.Model
	for _, run := range runs {
		digest := w.Statement(run)
		models = append(models, record.Model{
			Provider: "gateway", RequestModel: "qwen3-coder-480b", ResponseModel: "qwen3-coder-480b", Calls: 1,
			Execution: record.ExecutionTEE, Channel: channel("gateway"), ModelRun: &digest,
		})
	}
	info := w.info(w.Now)
	if r, ok := leaf.(*record.RecordLeaf); ok && r.Entry.Statement().Start != nil {
		info = r.Entry.Statement().Start.SessionInfo
	}
	return w.addRecord(w.Vendor, &record.Statement{
		PredicateType: record.PredicateSession,
		Subjects:      []record.Subject{{Name: record.SubjectSession, SHA256: w.Session.Digest()}},
		Vendor:        w.Vendor.ID,
		Session: &record.Session{
			SessionInfo: info,
			FinishedOn:  w.Now.Truncate(time.Second),
			EndReason:   record.EndCompleted,
			Start:       record.StatementRef{Origin: w.Origin, Index: start, Statement: w.Statement(start)},
			SessionKey:  record.NewSessionKey(w.SessionKey.Public().(ed25519.PublicKey)),
			Freshness:   w.Fresh,
			Environment: environment(w.Vendor),
			Models:      models,
			Actions:     record.Actions{Tree: record.Tree{Size: 5, Root: sha256.Sum256([]byte("actions"))}},
			Retention: record.Retention{
				Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage"},
			},
			WorkspaceErased: true,
		},
	}, edit)
}

// AddAbandoned logs that the session whose start is at index was abandoned, as said by the vendor.
func (w *World) AddAbandoned(start uint64, edit ...func(*Draft)) uint64 {
	return w.addRecord(w.Vendor, &record.Statement{
		PredicateType: record.PredicateSessionAbandoned,
		Subjects:      []record.Subject{{Name: record.SubjectSession, SHA256: w.Session.Digest()}},
		Vendor:        w.Vendor.ID,
		Abandoned: &record.SessionAbandoned{
			ID:     w.Session,
			Start:  record.StatementRef{Origin: w.Origin, Index: start, Statement: w.Statement(start)},
			Reason: record.AbandonedCrashed, AbandonedOn: w.Now.Truncate(time.Second),
		},
	}, append([]func(*Draft){func(d *Draft) {
		d.Profile, d.Key, d.Platform, d.Collateral = record.ProfileVendorSigned, w.Vendor.Key, nil, record.Digest{}
	}}, edit...))
}

// AddImport logs a quote that is not bound to a statement, collected and judged at a time.
func (w *World) AddImport(collected time.Time, edit ...func(*Draft)) uint64 {
	w.tb.Helper()
	quote, err := w.Platform.Quote(w.Vendor.Quote())
	if err != nil {
		w.tb.Fatal(err)
	}
	digest := sha256.Sum256(quote)
	return w.addRecord(w.Vendor, &record.Statement{
		PredicateType: record.PredicateEvidence,
		Subjects:      []record.Subject{{Name: record.SubjectEvidence, SHA256: digest}},
		Vendor:        w.Vendor.ID,
		Evidence: &record.ImportedEvidence{
			MediaType: record.MediaTypeTDXQuote, SHA256: digest, Size: uint64(len(quote)), CollectedOn: collected,
		},
	}, append([]func(*Draft){func(d *Draft) {
		d.Profile, d.Key, d.Replay, d.Judged = record.ProfileUnbound, w.Vendor.Key, quote, collected
	}}, edit...))
}

// A Session is a world in which a session took place, with the indices of its leaves. Leaves of other sessions lie in
// between.
type Session struct {
	*World
	VendorKey, Release, GatewayKey, GatewayRelease, Collateral uint64

	FreshStart, Start, CoverStart, ModelRun, CoverModelRun, Final, CoverFinal uint64
}

// Steps are what makes a session, one after another. Tests leave out some, put others in between, or edit drafts.
type Steps struct {
	NoModelRun     bool
	Start          func(*Draft)
	ModelRun       func(*Draft)
	Final          func(*Draft)
	BeforeModelRun func(*Session)
	Between        func(*Session) // after CoverModelRun, before Final
	After          func(*Session) // after Final, before CoverFinal
}

func edits(edit func(*Draft)) []func(*Draft) {
	if edit == nil {
		return nil
	}
	return []func(*Draft){edit}
}

// Filler logs n leaves of no importance.
func (w *World) Filler(n int) {
	for range n {
		w.Append(fmt.Appendf(nil, "filler %d", w.Size()))
	}
}

// NewSession makes a world with a session in it.
func NewSession(tb testing.TB, o LogOptions, steps Steps) *Session {
	tb.Helper()
	s := &Session{World: NewWorld(tb, o)}
	s.VendorKey = s.AddVendorKey(s.Vendor)
	s.GatewayKey = s.AddVendorKey(s.Gateway)
	s.Release = s.AddRelease(s.Vendor)
	s.GatewayRelease = s.AddRelease(s.Gateway)
	s.Collateral = s.AddCollateral(s.Set)
	s.Filler(300)

	s.Tick(5 * time.Second)
	s.FreshStart = s.AddTime()
	s.Filler(3)
	s.Tick(5 * time.Second)
	s.Start = s.AddStart(edits(steps.Start)...)
	s.Filler(2)
	s.Tick(5 * time.Second)
	s.CoverStart = s.AddTime()
	s.CoverModelRun = s.CoverStart

	var runs []uint64
	if !steps.NoModelRun {
		s.Tick(time.Minute)
		if steps.BeforeModelRun != nil {
			steps.BeforeModelRun(s)
		}
		s.ModelRun = s.AddModelRun(s.Start, edits(steps.ModelRun)...)
		s.Filler(1)
		s.Tick(time.Second)
		s.CoverModelRun = s.AddTime()
		runs = append(runs, s.ModelRun)
	}
	if steps.Between != nil {
		steps.Between(s)
	}
	s.Tick(time.Minute)
	s.Final = s.AddFinal(s.Start, runs, edits(steps.Final)...)
	if steps.After != nil {
		steps.After(s)
	}
	s.Filler(2)
	s.Tick(5 * time.Second)
	s.CoverFinal = s.AddTime()
	s.Filler(4)
	s.Tick(5 * time.Second)
	return s
}

// Indices returns the indices of all leaves that belong into the bundle of the final record.
func (s *Session) Indices() []uint64 {
	all := []uint64{s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart, s.CoverModelRun, s.Final, s.CoverFinal}
	if s.ModelRun != 0 {
		all = append(all, s.GatewayKey, s.GatewayRelease, s.ModelRun)
	}
	return all
}

// Bundle publishes the log and returns the bundle of the final record.
func (s *Session) Bundle(extra ...uint64) *bundle.Bundle {
	s.tb.Helper()
	return s.Log.Bundle(s.Final, s.Publish(s.Now), append(s.Indices(), extra...)...)
}
