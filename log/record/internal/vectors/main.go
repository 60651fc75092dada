// Command vectors writes the test vectors of FORMAT.md, deterministically, into
// a directory. They are made with package record, whose tests read them back;
// their use is that other implementations can.
//
//	go run ./log/record/internal/vectors testdata/record
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: vectors DIRECTORY")
		os.Exit(64)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "vectors:", err)
		os.Exit(1)
	}
}

// run writes into a new directory, so that no vector of the past stays behind. It
// removes an old one, if that is what the directory is.
func run(dir string) error {
	old, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "vectors.json")); err != nil && len(old) > 0 {
		return fmt.Errorf("%s holds something else than vectors: %w", dir, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	g := &generator{dir: dir}
	g.basics()
	g.actions()
	g.statements()
	g.entries()
	g.leaves()
	g.refuseStatements()
	g.refuseBytes()
	g.refuseOthers()
	g.json("vectors.json", g.index)
	return g.err
}

// index is vectors.json.
type index struct {
	Comment         string            `json:"comment"`
	PAE             []paeVector       `json:"pae"`
	SessionID       map[string]string `json:"sessionIdDigest"`
	GPUNonce        gpuNonce          `json:"gpuNonce"`
	Nonce           nonceVector       `json:"nonce"`
	TenantPseudonym []pseudonym       `json:"tenantPseudonym"`
	VendorIDs       accepted          `json:"vendorIds"`
	Origins         accepted          `json:"origins"`
	ActionTree      actionTree        `json:"actionTree"`
	ServedSessions  actionTree        `json:"servedSessions"`
	EmptyRoot       string            `json:"emptyRoot"`
	Keys            map[string]string `json:"ed25519Seeds"`
	Statements      []statementVector `json:"statements"`
	Entries         []entryVector     `json:"entries"`
	Leaves          []leafVector      `json:"leaves"`
}

type paeVector struct {
	PayloadType     string `json:"payloadType"`
	Payload         string `json:"payload"`
	PAE             string `json:"pae"`
	StatementDigest string `json:"statementDigest"`
	ReportData      string `json:"reportData"`
}

type gpuNonce struct {
	SPKI       string `json:"spki"`
	NoteSHA256 string `json:"noteSha256"`
	Nonce      string `json:"nonce"`
}

type nonceVector struct {
	Session    string `json:"session"`
	NoteSHA256 string `json:"noteSha256"`
	Nonce      string `json:"nonce"`
}

type pseudonym struct {
	Key    string `json:"key"`
	Origin string `json:"origin"`
	Vendor string `json:"vendor"`
	Month  string `json:"month"`
	Input  string `json:"input"`
	Tenant string `json:"tenant"`
}

type accepted struct {
	Accept []string `json:"accept"`
	Refuse []string `json:"refuse"`
}

type actionTree struct {
	Leaves []actionLeaf `json:"leaves"`
	Root   string       `json:"rootHash"`
	Roots  []string     `json:"rootsOfPrefixes"`
	Paths  [][]string   `json:"inclusionPaths"`
}

type actionLeaf struct {
	Salt     string `json:"salt"`
	Document string `json:"document"`
	Hash     string `json:"hash"`
}

type statementVector struct {
	File            string `json:"file"`
	PredicateType   string `json:"predicateType"`
	StatementDigest string `json:"statementDigest"`
	ReportData      string `json:"reportData"`
}

type entryVector struct {
	File            string `json:"file"`
	JSON            string `json:"json"`
	DSSE            string `json:"dsse"`
	Profile         string `json:"profile"`
	Key             string `json:"key"`
	KeyID           string `json:"keyid"`
	StatementDigest string `json:"statementDigest"`
	SHA256          string `json:"sha256"`
}

type leafVector struct {
	File         string `json:"file"`
	Kind         string `json:"kind"`
	LeafHash     string `json:"leafHash"`
	CollateralID string `json:"collateralId,omitempty"`
	NoteSHA256   string `json:"noteSha256,omitempty"`
}

type generator struct {
	dir   string
	index index
	err   error

	session map[string]ed25519.PrivateKey // keys by name
	start   []byte                        // the start statement
	tree    record.Tree                   // of the actions
	served  record.Tree
	payload map[string][]byte

	bindings map[string]record.Binding // by statement
	entry    map[string]*record.Entry
	note     []byte // of the time leaf
	set      record.Digest
}

func (g *generator) fail(err error) {
	g.err = errors.Join(g.err, err)
}

func (g *generator) write(name string, b []byte) {
	path := filepath.Join(g.dir, filepath.FromSlash(name))
	g.fail(os.MkdirAll(filepath.Dir(path), 0o755))
	g.fail(os.WriteFile(path, b, 0o644))
}

func (g *generator) json(name string, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	g.fail(e.Encode(v))
	g.write(name, b.Bytes())
}

// made returns a digest that stands for something that we don't have.
func made(what string) record.Digest {
	return sha256.Sum256([]byte("affidavit test vector: " + what))
}

func madePtr(what string) *record.Digest {
	d := made(what)
	return &d
}

func hexOf(d record.Digest) string { return hex.EncodeToString(d[:]) }

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

const (
	logOrigin  = "log.example.org/2026"
	vendorID   = "https://vendor.example"
	gatewayID  = "https://gateway.example"
	sessionHex = "86d2a347fe8f13f25f63c3d992647032"
)

func (g *generator) key(name string) ed25519.PrivateKey {
	seed := made("Ed25519 seed of " + name)
	if g.session == nil {
		g.session = make(map[string]ed25519.PrivateKey)
		g.index.Keys = make(map[string]string)
	}
	g.index.Keys[name] = hex.EncodeToString(seed[:])
	k := ed25519.NewKeyFromSeed(seed[:])
	g.session[name] = k
	return k
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

func sessionKey(k ed25519.PrivateKey) record.SessionKey { return record.NewSessionKey(public(k)) }

func (g *generator) basics() {
	g.index.Comment = "Test vectors for log/record/FORMAT.md. Hexadecimal unless named otherwise; hashes in JSON statements and disclosures as there. Quotes in the entries are only the signed part of a TDX quote, with the right REPORTDATA and no signature."
	for _, v := range []struct{ typ, payload string }{
		{"http://example.com/HelloWorld", "hello world"},
		{record.PayloadType, "{}"},
		{record.PayloadType, "\u00e9"},
		{"", ""},
	} {
		p := []byte(v.payload)
		d := record.StatementDigest(v.typ, p)
		r := record.ReportData(v.typ, p)
		g.index.PAE = append(g.index.PAE, paeVector{v.typ, v.payload, hex.EncodeToString(record.PAE(v.typ, p)), hexOf(d), hex.EncodeToString(r[:])})
	}
	id, err := record.ParseSessionID(sessionHex)
	g.fail(err)
	g.index.SessionID = map[string]string{sessionHex: hexOf(id.Digest())}
	for _, name := range []string{"session key", "gateway key", "release key"} {
		g.key(name)
	}
	spki := record.SPKI(public(g.session["gateway key"]))
	note := made("freshness note")
	g.index.GPUNonce = gpuNonce{hex.EncodeToString(spki), hexOf(note), hexOf(record.GPUNonce(spki, note))}
	for _, v := range [][3]string{{logOrigin, vendorID, "2026-11"}, {logOrigin, vendorID, "2026-12"}, {"log.example.org/2026h", "ttps://vendor.example", "2026-11"}} {
		key := made("a customer's key")
		var input []byte
		for _, s := range v {
			input = append(input, byte(len(s)>>8), byte(len(s)))
			input = append(input, s...)
		}
		g.index.TenantPseudonym = append(g.index.TenantPseudonym, pseudonym{
			hexOf(key), v[0], v[1], v[2], hex.EncodeToString(input), hexOf(record.TenantPseudonym(key[:], v[0], v[1], v[2]))})
	}
	g.index.VendorIDs = accepted{
		Accept: []string{"https://vendor.example", "https://a-b.vendor.example/unit/7", "https://vendor.example/~X_y.z", "https://localhost"},
		Refuse: []string{"", "https://", "http://vendor.example", "https://Vendor.example", "https://vendor.example/", "https://vendor.example:443",
			"https://u@vendor.example", "https://vendor.example?x", "https://vendor.example#x", "https://vendor.example//x", "https://vendor.example/../x",
			"https://vendor.example/%41", "https://vendor..example", "https://-vendor.example", "https://vendor-.example", "https://vendor.example.", "https://v\u00e9ndor.example",
			"https://vendor.example/x y", "https://" + strings.Repeat("a", 64) + ".example", "https://vendor.example/" + strings.Repeat("a", 233)},
	}
	g.index.Origins = accepted{
		Accept: []string{"log.example.org/2026", "x", "https://log.example.org"},
		Refuse: []string{"", "log example", "log+1", "log\"1", "log\\1", "log\u00e9", "log\n", strings.Repeat("a", 256)},
	}
	for _, a := range []accepted{g.index.VendorIDs, g.index.Origins} {
		check := record.CheckVendorID
		if a.Accept[0] == logOrigin {
			check = record.CheckOrigin
		}
		for _, s := range a.Accept {
			g.fail(check(s))
		}
		for _, s := range a.Refuse {
			if check(s) == nil {
				g.fail(fmt.Errorf("%q is accepted", s))
			}
		}
	}
	empty := record.ActionRoot(nil)
	g.index.EmptyRoot = hexOf(empty)
}

// tree returns a tree of documents with its vectors.
func (g *generator) treeOf(what string, docs [][]byte) (record.Tree, actionTree, [][32]byte, []record.Digest) {
	var v actionTree
	var salts [][32]byte
	var hashes []record.Digest
	for i, doc := range docs {
		salt := made(fmt.Sprintf("salt %d of %s", i, what))
		h := record.ActionLeaf(salt, doc)
		salts, hashes = append(salts, salt), append(hashes, h)
		v.Leaves = append(v.Leaves, actionLeaf{hexOf(salt), string(doc), hexOf(h)})
	}
	for i := range hashes {
		v.Roots = append(v.Roots, hexOf(record.ActionRoot(hashes[:i+1])))
		path := []string{}
		for _, h := range record.ActionProof(hashes, uint64(i)) {
			path = append(path, hexOf(h))
		}
		v.Paths = append(v.Paths, path)
	}
	t := record.Tree{Size: uint64(len(hashes)), Root: record.ActionRoot(hashes)}
	v.Root = hexOf(t.Root)
	return t, v, salts, hashes
}

func (g *generator) actions() {
	id, _ := record.ParseSessionID(sessionHex)
	var docs [][]byte
	for i, v := range []struct {
		op, outcome string
		attributes  map[string]any
	}{
		{"chat", record.OutcomeExecuted, map[string]any{"gen_ai.provider.name": "phala", "gen_ai.request.model": "qwen3-coder-480b", "gen_ai.usage.input_tokens": int64(1204), "gen_ai.response.finish_reasons": []string{"stop", "tool_calls"}}},
		{"execute_tool", record.OutcomeExecuted, map[string]any{"gen_ai.tool.name": "read_file", "gen_ai.tool.type": "function"}},
		{"execute_tool", record.OutcomeExecuted, map[string]any{"gen_ai.tool.name": "edit \"file\" <\u00e9>", "gen_ai.tool.type": "function"}},
		{"execute_tool", record.OutcomeBlocked, map[string]any{"gen_ai.tool.name": "http_request", "gen_ai.tool.type": "extension", "error.type": "egress_denied"}},
		{"execute_tool", record.OutcomeTimedOut, map[string]any{"gen_ai.tool.name": "run_tests", "gen_ai.conversation.id": sessionHex}},
	} {
		a := &record.Action{Session: id, Index: uint64(i), Time: time.Date(2026, 11, 24, 7, 1, 10*i, 0, time.UTC), Outcome: v.outcome, Attributes: v.attributes}
		trace, span := made("trace"), made(fmt.Sprint("span ", i))
		copy(a.TraceID[:], trace[:])
		copy(a.SpanID[:], span[:])
		a.Attributes[record.AttrOperationName] = v.op
		if v.op == "execute_tool" {
			a.Arguments, a.Policy = madePtr(fmt.Sprint("arguments ", i)), madePtr("egress policy")
		}
		doc, err := a.Marshal()
		g.fail(err)
		docs = append(docs, doc)
	}
	var salts [][32]byte
	var hashes []record.Digest
	g.tree, g.index.ActionTree, salts, hashes = g.treeOf("actions", docs)
	for i := range docs {
		d := record.Disclosure{Salt: salts[i], Bytes: docs[i], Index: uint64(i), Tree: g.tree, Path: record.ActionProof(hashes, uint64(i))}
		b := d.JSON()
		p, err := record.ParseDisclosure(b)
		g.fail(err)
		if err == nil {
			g.fail(p.Verify(g.tree.Root, g.tree.Size))
		}
		g.write(fmt.Sprintf("disclosures/action-%d.json", i), b)
	}
	g.served, g.index.ServedSessions, _, _ = g.treeOf("sessions", [][]byte{
		record.ServedSessionDocument(id, made("start of one session")),
		record.ServedSessionDocument(record.SessionID{15: 1}, made("start of another")),
	})
}

// statement marshals s and remembers it by name.
func (g *generator) statement(name string, s *record.Statement) []byte {
	b, err := s.Marshal()
	if err != nil {
		g.fail(fmt.Errorf("%s: %w", name, err))
		return nil
	}
	if g.payload == nil {
		g.payload = make(map[string][]byte)
	}
	g.payload[name] = b
	file := "statements/" + name + ".json"
	g.write(file, b)
	p, err := record.ParseStatement(b)
	if err != nil {
		g.fail(err)
		return nil
	}
	d := record.StatementDigest(record.PayloadType, b)
	r := record.ReportData(record.PayloadType, b)
	g.index.Statements = append(g.index.Statements, statementVector{file, p.PredicateType, hexOf(d), hex.EncodeToString(r[:])})
	return b
}

func (g *generator) statements() {
	id, _ := record.ParseSessionID(sessionHex)
	at := func(s string) time.Time {
		t, err := time.Parse(time.RFC3339, s)
		g.fail(err)
		return t
	}
	fresh := func(size uint64) record.Freshness {
		return record.Freshness{Note: made("freshness note"), Origin: logOrigin, Size: size, Root: made(fmt.Sprint("root at ", size))}
	}
	env := record.Environment{
		Release:           record.Image{Name: "pkg:oci/sandbox", SHA256: made("sandbox image")},
		PersistentStorage: record.StorageNone,
		EgressPolicy:      madePtr("egress policy"),
		EventLog:          madePtr("event log"),
	}
	info := record.SessionInfo{
		ID: id, Kind: record.KindCodingSession,
		Tenant: record.TenantPseudonym(keyBytes("a customer's key"), logOrigin, vendorID, "2026-11"), TenantEpoch: "2026-11", Sequence: 41,
		StartedOn: at("2026-11-24T07:00:03Z"), IsolationScope: record.IsolationSession,
	}
	key := sessionKey(g.session["session key"])
	channels := []record.Channel{
		{Type: record.ChannelTLSSPKI, SHA256: made("TLS key")},
		{Type: record.ChannelHPKEKey, SHA256: made("HPKE key")},
	}
	g.start = g.statement("session-start", &record.Statement{Vendor: vendorID, Start: &record.SessionStart{
		SessionInfo: info, SessionKey: key, Freshness: fresh(73790), Environment: env, Channels: channels, Challenge: madePtr("challenge")}})
	ref := record.StatementRef{Origin: logOrigin, Index: 73811, Statement: record.StatementDigest(record.PayloadType, g.start)}
	// As sparse as it can be: no optional member, empty lists, an empty log.
	bare := info
	bare.Sequence = 0
	g.statement("session-start-minimal", &record.Statement{Vendor: vendorID, Start: &record.SessionStart{
		SessionInfo: bare, SessionKey: key,
		Freshness:   record.Freshness{Note: made("first note"), Origin: logOrigin, Root: record.ActionRoot(nil)},
		Environment: record.Environment{Release: env.Release, PersistentStorage: record.StorageEncryptedEphemeral}}})

	gateway := g.session["gateway key"]
	note := made("freshness note")
	gpus := record.Environment{
		Release: record.Image{Name: "pkg:oci/vllm-proxy", SHA256: made("gateway image")},
		Accelerators: []record.Accelerator{{Type: record.AcceleratorNVIDIA, Count: 8, Binding: record.BindingNonceChained,
			Nonce: record.GPUNonce(record.SPKI(public(gateway)), note), Evidence: made("GPU evidence")}},
	}
	channel := record.Channel{Type: record.ChannelTLSSPKI, SHA256: made("gateway TLS key")}
	run := g.statement("model-run", &record.Statement{Vendor: gatewayID, ModelRun: &record.ModelRun{
		Provider: "phala", RequestModel: "qwen3-coder-480b", ResponseModel: "qwen3-coder-480b",
		Weights: madePtr("weights"), BOM: &record.Document{MediaType: "application/vnd.cyclonedx+json", SHA256: made("bill of materials")},
		Calls: record.Tree{Size: 1, Root: made("one call")}, SessionKey: sessionKey(gateway), Freshness: fresh(73850), Environment: gpus,
		PeerKeyID: key.KeyID, PeerChannel: channel,
		Session: &record.ServedSession{ID: id, Statement: ref.Statement}, SessionsServed: &g.served}})
	g.statement("model-run-shared", &record.Statement{Vendor: gatewayID, ModelRun: &record.ModelRun{
		Provider: "phala", RequestModel: "qwen3-coder-480b",
		Calls: record.Tree{Size: 0, Root: record.ActionRoot(nil)}, SessionKey: sessionKey(gateway), Freshness: fresh(73850), Environment: gpus,
		PeerChannel: channel, SessionsServed: &g.served,
		Upstream: []record.Upstream{{Provider: "other", Execution: record.ExecutionTEE, Channel: channels[0], ModelRun: madePtr("upstream model run")},
			{Provider: "third", Execution: record.ExecutionPolicyZDR, Channel: channels[0]}}}})

	info.Sequence = 41
	final := record.Session{
		SessionInfo: info, FinishedOn: at("2026-11-24T07:02:40Z"), EndReason: record.EndCompleted, Start: ref,
		SessionKey: key, Freshness: fresh(73934), Environment: env,
		Models: []record.Model{
			{Provider: "phala", RequestModel: "qwen3-coder-480b", ResponseModel: "qwen3-coder-480b", Calls: 1, Execution: record.ExecutionTEE,
				Channel: channel, ModelRun: ptr(record.StatementDigest(record.PayloadType, run))},
		},
		Actions: record.Actions{Tree: g.tree, Counts: map[string]uint64{"chat": 1, "execute_tool": 4},
			Outcomes: map[string]uint64{record.OutcomeExecuted: 3, record.OutcomeBlocked: 1, record.OutcomeTimedOut: 1}},
		Retention:       record.Retention{Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage", "ephemeral-keys", "egress-allowlist"}},
		WorkspaceErased: true, OutputCommit: madePtr("output commit"),
	}
	g.statement("session", &record.Statement{Vendor: vendorID, Session: &final})
	final.Models = []record.Model{}
	final.Actions = record.Actions{Tree: record.Tree{Root: record.ActionRoot(nil)}}
	final.Retention = record.Retention{Claim: record.RetentionNone, Enforcement: record.EnforcementPolicy}
	final.WorkspaceErased, final.OutputCommit, final.EndReason, final.Sequence = false, nil, record.EndAborted, 0
	g.statement("session-minimal", &record.Statement{Vendor: vendorID, Session: &final})

	f := fresh(73934)
	g.statement("session-abandoned", &record.Statement{Vendor: vendorID, Abandoned: &record.SessionAbandoned{
		ID: id, Sequence: 41, Start: ref, Reason: record.AbandonedUnused, AbandonedOn: at("2026-11-24T09:00:00Z"),
		SessionKey: &key, Freshness: &f, Environment: &env}})
	g.statement("session-abandoned-vendor", &record.Statement{Vendor: vendorID, Abandoned: &record.SessionAbandoned{
		ID: id, Start: ref, Reason: record.AbandonedTerminated, AbandonedOn: at("2026-11-24T09:00:00Z")}})

	reg := func(b byte) *[48]byte { return (*[48]byte)(bytes.Repeat([]byte{b}, 48)) }
	release := g.statement("release", &record.Statement{Vendor: vendorID, Release: &record.Release{
		Image: env.Release, Version: "2026.11.3",
		Measurements: []record.Measurement{{MRTD: *reg(0xa1), RTMR: [4]*[48]byte{reg(0xb0), reg(0xb1), reg(0xb2), nil}, Note: "null: not constrained \u2713"},
			{MRTD: *reg(0xa2), RTMR: [4]*[48]byte{}, MRConfigID: reg(0xc0), MROwner: reg(0xd0), MROwnerConfig: reg(0)}},
		Source:     &record.Source{URI: "git+https://vendor.example/sandbox", GitCommit: strings.Repeat("c2", 20)},
		Provenance: &record.Document{MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json", SHA256: made("provenance")},
		NotBefore:  at("2026-11-20T00:00:00Z"), AgentMeasured: true}})
	notAfter := at("2027-11-20T00:00:00Z")
	g.statement("release-minimal", &record.Statement{Vendor: vendorID, Release: &record.Release{
		Image: env.Release, Version: "1", Measurements: []record.Measurement{{MRTD: *reg(0xa1)}}, NotBefore: at("2026-11-20T00:00:00Z"), NotAfter: &notAfter}})
	g.statement("release-withdrawn", &record.Statement{Vendor: vendorID, Withdrawn: &record.ReleaseWithdrawn{
		Image: env.Release, Statement: record.StatementDigest(record.PayloadType, release), Reason: "the egress filter let DNS through", WithdrawnOn: at("2026-12-01T12:00:00Z")}})
	g.statement("vendor-key", &record.Statement{Vendor: vendorID, VendorKey: &record.VendorKey{Key: sessionKey(g.session["release key"])}})
	evidence := func(name string, reportData [64]byte) {
		quote := quoteFor(reportData)
		g.statement(name, &record.Statement{Vendor: vendorID, Evidence: &record.ImportedEvidence{
			MediaType: record.MediaTypeTDXQuote, SHA256: sha256.Sum256(quote), Size: uint64(len(quote)), CollectedOn: at("2025-06-20T12:00:00Z"), Source: "https://vendor.example/attestation"}})
	}
	evidence("evidence", [64]byte{1, 2, 3})

	// Evidence of others, by profile.
	importer := sessionKey(g.session["release key"])
	imported := func(channel record.Channel) *record.ModelRun {
		return &record.ModelRun{
			Provider: "near", RequestModel: "deepseek-v3.1", Calls: record.Tree{Size: 1, Root: made("one signed response")},
			SessionKey: importer, Freshness: fresh(73850), PeerChannel: channel,
			Environment: record.Environment{Release: record.Image{Name: "dstack-app:f550fdfb4eb8ad787c1bcd423f091cbb4a4431ae", SHA256: made("app compose")}, EventLog: madePtr("event log")},
		}
	}
	tls := made("proxy TLS key")
	address := made("an address")
	linked := imported(record.Channel{Type: record.ChannelTLSSPKI, SHA256: tls})
	linked.PeerKeyID, linked.Session = key.KeyID, &record.ServedSession{ID: id, Statement: ref.Statement}
	g.statement("model-run-dstack", &record.Statement{Vendor: vendorID, ModelRun: linked})
	data := []byte("runtime data")
	alone := imported(record.Channel{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256(data)})
	_, _, _, hashes := g.treeOf("imported sessions", [][]byte{record.ServedSessionDocument(id, record.Digest{})})
	alone.SessionsServed = &record.Tree{Size: 1, Root: record.ActionRoot(hashes)}
	g.statement("model-run-ita", &record.Statement{Vendor: vendorID, ModelRun: alone})
	nonce := record.Nonce(note, id)
	g.index.Nonce = nonceVector{sessionHex, hexOf(note), hexOf(nonce)}
	g.bindings = map[string]record.Binding{
		"model-run-dstack": &record.DstackBinding{KeyType: record.KeySecp256k1, Key: address[:20], TLS: &tls, Nonce: nonce, For: &id},
		"evidence-dstack":  &record.DstackBinding{KeyType: record.KeyEd25519, Key: address[:], Nonce: made("somebody's nonce")},
		"model-run-ita":    &record.NonceBinding{Value: nonce[:], RuntimeData: data, For: &id},
		"evidence-ita":     &record.NonceBinding{Value: []byte("a verifier's nonce"), IssuedAt: []byte("2025-06-20 12:00:00 +0000 UTC"), RuntimeData: data},
		"session-start":    &record.VTPMBinding{RuntimeData: []byte(`{"keys":[]}`), Quoted: []byte("a TPM's quote"), Signature: []byte("its signature")},
	}
	evidence("evidence-dstack", g.bindings["evidence-dstack"].ReportData())
	evidence("evidence-ita", g.bindings["evidence-ita"].ReportData())
	evidence("evidence-tls-hpke", tlsHPKE())
}

func keyBytes(what string) []byte { d := made(what); return d[:] }

func ptr[T any](v T) *T { return &v }

// quoteFor is the part of a version 4 quote that is signed, zero but for version,
// attestation key type, TEE type and REPORTDATA: what this package needs of a
// quote is that it is bytes.
func quoteFor(reportData [64]byte) []byte {
	b := make([]byte, 48+584)
	b[0], b[2], b[4] = 4, 2, 0x81
	copy(b[48+520:], reportData[:])
	return b
}

// tlsHPKE is the REPORTDATA of profile tls-hpke/v2.
func tlsHPKE() (r [64]byte) {
	tls, hpke := made("TLS key"), made("HPKE key")
	copy(r[:32], tls[:])
	copy(r[32:], hpke[:])
	return r
}

func (g *generator) entries() {
	g.entry = make(map[string]*record.Entry)
	for _, v := range []struct {
		name    string // of the entry, and of the statement unless it has "@"; after that is the profile
		profile record.Profile
		key     string
		refs    []record.EvidenceRef
	}{
		{"session-start", record.ProfileStatement, "session key", nil},
		{"session", record.ProfileStatement, "session key", []record.EvidenceRef{{SHA256: made("event log"), Size: 50113, MediaType: "application/vnd.tcg.ccel"}}},
		{"session-abandoned", record.ProfileStatement, "session key", nil},
		{"model-run", record.ProfileStatement, "gateway key", []record.EvidenceRef{{SHA256: made("GPU evidence"), Size: 90210, MediaType: "application/vnd.nvidia.gpu-evidence+json"}}},
		{"session-abandoned-vendor", record.ProfileVendorSigned, "release key", nil},
		{"release", record.ProfileVendorSigned, "release key", nil},
		{"release-withdrawn", record.ProfileVendorSigned, "release key", nil},
		{"vendor-key", record.ProfileVendorSigned, "release key", nil},
		{"evidence", record.ProfileUnbound, "release key", nil},
		{"model-run-dstack", record.ProfileDstackProxy, "release key", []record.EvidenceRef{{SHA256: made("event log"), Size: 6741, MediaType: record.MediaTypeDstackLog}}},
		{"evidence-dstack", record.ProfileDstackProxy, "release key", []record.EvidenceRef{{SHA256: made("event log"), Size: 6741, MediaType: record.MediaTypeDstackLog}}},
		{"evidence-tls-hpke", record.ProfileTLSHPKE, "release key", nil},
		{"model-run-ita", record.ProfileITANonce, "release key", nil},
		{"evidence-ita", record.ProfileITANonce, "release key", []record.EvidenceRef{{SHA256: made("CCEL"), Size: 65536, MediaType: record.MediaTypeCCEL}}},
		{"session-start@azure", record.ProfileAzureParavisor, "session key", nil},
	} {
		statement, _, _ := strings.Cut(v.name, "@")
		payload := g.payload[statement]
		var ev []record.Evidence
		switch v.profile {
		case record.ProfileStatement:
			ev = append(ev, record.NewQuoteEvidence(quoteFor(record.ReportData(record.PayloadType, payload))))
		case record.ProfileUnbound:
			ev = append(ev, record.NewQuoteEvidence(quoteFor([64]byte{1, 2, 3})))
		case record.ProfileTLSHPKE:
			ev = append(ev, record.NewQuoteEvidence(quoteFor(tlsHPKE())))
		case record.ProfileDstackProxy, record.ProfileITANonce, record.ProfileAzureParavisor:
			b := g.bindings[statement]
			ev = append(ev, record.NewQuoteEvidence(quoteFor(b.ReportData())), record.NewBindingEvidence(b))
		}
		for _, r := range v.refs {
			ev = append(ev, record.NewDigestEvidence(r))
		}
		e, err := record.SignEntry(v.profile, payload, g.session[v.key], ev...)
		if err != nil {
			g.fail(fmt.Errorf("entry %s: %w", v.name, err))
			return
		}
		g.fail(e.VerifySignature(public(g.session[v.key])))
		g.entry[v.name] = e
		base := "entries/" + strings.ReplaceAll(v.name, "@", "-")
		g.write(base+".bin", e.Bytes())
		g.write(base+".json", e.JSON())
		g.write(base+".dsse.json", e.DSSE())
		g.index.Entries = append(g.index.Entries, entryVector{base + ".bin", base + ".json", base + ".dsse.json", string(v.profile), v.key, e.KeyID,
			hexOf(e.StatementDigest()), hexOf(sha256.Sum256(e.Bytes()))})
	}
}

func (g *generator) leaves() {
	if g.err != nil {
		return
	}
	leaf := func(name string, l record.Leaf) {
		b := l.Bytes()
		v := leafVector{File: "leaves/" + name + ".bin", Kind: l.Kind().String(), LeafHash: hexOf(record.LeafHash(b))}
		switch l := l.(type) {
		case *record.CollateralLeaf:
			v.CollateralID = hexOf(l.ID())
		case *record.TimeLeaf:
			v.NoteSHA256 = hexOf(l.NoteDigest())
		}
		g.write(v.File, b)
		g.index.Leaves = append(g.index.Leaves, v)
	}
	c := &record.CollateralLeaf{TEE: record.TEETDX}
	for i, what := range []string{"TCB info", "TCB info issuer chain", "QE identity", "QE identity issuer chain", "root CRL", "PCK CRL", "PCK CRL issuer chain"} {
		c.Components[i] = made(what)
	}
	g.set = c.ID()
	leaf("collateral", c)
	const at = 1795503605123 // 2026-11-24T07:00:05.123Z
	g.note = []byte("log.example.org/2026\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n\u2014 log.example.org/2026 bm90IGEgc2lnbmF0dXJl\n")
	leaf("time", &record.TimeLeaf{LoggedAt: at, Note: g.note})
	for _, name := range []string{"vendor-key", "release", "release-withdrawn"} {
		leaf(name, &record.VendorLeaf{AdmittedAt: at, Entry: g.entry[name]})
	}
	for _, name := range []string{"session-start", "model-run", "session", "session-abandoned"} {
		leaf(name, &record.RecordLeaf{Ruleset: record.RulesetV1, AdmittedAt: at, JudgedAt: at, Collateral: g.set, Entry: g.entry[name]})
	}
	leaf("session-abandoned-vendor", &record.RecordLeaf{Ruleset: record.RulesetV1, AdmittedAt: at, JudgedAt: at, Entry: g.entry["session-abandoned-vendor"]})
	ev := g.entry["evidence"]
	leaf("evidence", &record.RecordLeaf{Ruleset: record.RulesetV1, AdmittedAt: at, JudgedAt: ev.Statement().Evidence.CollectedOn.UnixMilli(), Collateral: g.set, Entry: ev})
}

// edit is one input that must be refused: a file among the vectors in which the
// only occurrence of old is replaced, or that is padded with spaces. bytes
// that aren't UTF-8 are in hexadecimal.
type edit struct {
	Name   string `json:"name"`
	Base   string `json:"base"`
	Old    string `json:"old,omitempty"`
	New    string `json:"new,omitempty"`
	NewHex string `json:"newHex,omitempty"`
	PadTo  int    `json:"padTo,omitempty"`
	Error  string `json:"error"` // part of what this implementation says
}

func (e edit) apply(b []byte) ([]byte, error) {
	if e.PadTo > 0 {
		return append(bytes.Clone(b), bytes.Repeat([]byte(" "), e.PadTo-len(b))...), nil
	}
	if n := bytes.Count(b, []byte(e.Old)); n != 1 {
		return nil, fmt.Errorf("%s: %q occurs %d times in %s", e.Name, e.Old, n, e.Base)
	}
	with := []byte(e.New)
	if e.NewHex != "" {
		with, _ = hex.DecodeString(e.NewHex)
	}
	return bytes.Replace(b, []byte(e.Old), with, 1), nil
}

// refused writes a list of edits, after checking that each is refused for its
// reason, and that nothing but the edit is.
func (g *generator) refused(name string, edits []edit, parse func([]byte) error) {
	seen := make(map[string]bool)
	for _, e := range edits {
		if seen[e.Name] {
			g.fail(fmt.Errorf("%s twice", e.Name))
		}
		seen[e.Name] = true
		base, err := os.ReadFile(filepath.Join(g.dir, filepath.FromSlash(e.Base)))
		g.fail(err)
		g.fail(parse(base))
		b, err := e.apply(base)
		if err != nil {
			g.fail(err)
			continue
		}
		err = parse(b)
		if !errors.Is(err, record.ErrMalformed) || !strings.Contains(err.Error(), e.Error) {
			g.fail(fmt.Errorf("%s: %s: error %v, want %q", name, e.Name, err, e.Error))
		}
	}
	g.json(name, edits)
}

// cut is an input that must be refused: a binary file of which Delete bytes at Offset (from
// the end if negative) are replaced.
type cut struct {
	Name   string `json:"name"`
	Base   string `json:"base"`
	Offset int    `json:"offset"`
	Delete int    `json:"delete"`
	Insert string `json:"insertHex"`
	Error  string `json:"error"`
}

func (c cut) apply(b []byte) []byte {
	at := c.Offset
	if at < 0 {
		at += len(b) + 1
	}
	with, err := hex.DecodeString(c.Insert)
	if err != nil {
		panic(err)
	}
	return bytes.Join([][]byte{b[:at], with, b[at+c.Delete:]}, nil)
}

func sha256Sum(b []byte) record.Digest { return sha256.Sum256(b) }

// refusedBytes is refused for binary files.
func (g *generator) refusedBytes(name string, cuts []cut, parse func([]byte) error) {
	for _, c := range cuts {
		base, err := os.ReadFile(filepath.Join(g.dir, filepath.FromSlash(c.Base)))
		g.fail(err)
		g.fail(parse(base))
		err = parse(c.apply(base))
		if !errors.Is(err, record.ErrMalformed) || !strings.Contains(err.Error(), c.Error) {
			g.fail(fmt.Errorf("%s: %s: error %v, want %q", name, c.Name, err, c.Error))
		}
	}
	g.json(name, cuts)
}
