// Package imports turns what vendors' attestation and signature interfaces answer
// today into entries of a log (FORMAT.md, "Binding profiles"): proxies for model
// servers on dstack, such as those of Phala, Redpill and NEAR AI, and Tinfoil's
// enclaves.
//
// It checks what it makes entries of, so that the log isn't asked to: that REPORTDATA
// is what the answer says, that the nonce is the one of the note and session, and
// that the attested key has signed every response. It doesn't verify quotes:
// that is the log's, and every reader's.
package imports

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/eventlog"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// MaxAttestation is the size in bytes of the largest answer of an attestation
// interface that is read. One with eight GPUs has some 500 KB a node.
const MaxAttestation = 16 << 20

// maxAttestations is how many nodes an answer may have.
const maxAttestations = 64

// maxQuote is more than a quote has with its padding.
const maxQuote = 1 << 16

// MediaTypeGPU is that of GPU evidence as dstack's proxies hand it out.
const MediaTypeGPU = "application/vnd.nvidia.gpu-evidence+json"

// An Attestation is the attestation of one key on one node.
type Attestation struct {
	Profile record.Profile
	Quote   []byte // without padding
	KeyType record.KeyType
	Key     []byte         // nil under ProfileTLSHPKE
	TLS     *record.Digest // that the quote commits to
	Nonce   record.Digest

	EventLog []byte // nil if there is none
	GPU      []byte // evidence of GPUs, nil if there is none
	GPUs     uint64 // how many, by that

	AppID       []byte // by the event log
	ComposeHash []byte // likewise, or of the app-compose file if there is no log
	Model       string // that the answer is about, if it says
}

// nodeJSON is the attestation of one node, of whichever vendor.
type nodeJSON struct {
	Model       string         `json:"model_name"`
	Address     string         `json:"signing_address"`
	Algorithm   string         `json:"signing_algo"`
	Quote       string         `json:"intel_quote"`
	RawQuote    string         `json:"quote"` // of dstack's GetQuote
	Nonce       string         `json:"request_nonce"`
	Fingerprint string         `json:"tls_cert_fingerprint"`
	EventLog    jsontext.Value `json:"event_log"` // a list, or the text of one
	NVIDIA      string         `json:"nvidia_payload"`
	Info        jsontext.Value `json:"info"`
}

// ParseDstack parses the answer of an attestation interface of dstack's proxies,
// with one node or many, or that of dstack's GetQuote, for which address, an Ethereum address or an Ed25519
// key in hexadecimal, says whose it is. Members that it doesn't know are ignored.
// Each attestation's REPORTDATA is what its other members say.
func ParseDstack(b []byte, address string) ([]*Attestation, error) {
	if len(b) > MaxAttestation {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), MaxAttestation)
	}
	var v struct {
		nodeJSON
		Gateway *nodeJSON  `json:"gateway_attestation"`
		Models  []nodeJSON `json:"model_attestations"`
		All     []nodeJSON `json:"all_attestations"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("not the JSON of an attestation: %w", err)
	}
	nodes := slices.Concat(v.Models, v.All)
	if v.Gateway != nil {
		nodes = append(nodes, *v.Gateway)
	}
	if v.nodeJSON.Quote != "" || v.RawQuote != "" {
		nodes = append([]nodeJSON{v.nodeJSON}, nodes...)
	}
	if len(nodes) == 0 || len(nodes) > maxAttestations {
		return nil, fmt.Errorf("attestations of %d nodes, want 1 to %d", len(nodes), maxAttestations)
	}
	var all []*Attestation
	for i := range nodes {
		a, err := nodes[i].parse(address)
		if err != nil {
			return nil, fmt.Errorf("attestation %d: %w", i, err)
		}
		// Answers for many nodes have the first of them again.
		if !slices.ContainsFunc(all, func(o *Attestation) bool { return bytes.Equal(o.Quote, a.Quote) }) {
			all = append(all, a)
		}
	}
	return all, nil
}

func (n *nodeJSON) parse(address string) (*Attestation, error) {
	a := &Attestation{Profile: record.ProfileDstackProxy, Model: n.Model}
	text := n.Quote
	if text == "" {
		text = n.RawQuote
	}
	raw, err := unhex(text)
	if err != nil {
		if raw, err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, errors.New("the quote is neither hexadecimal nor base64")
		}
	}
	body, err := a.quote(raw)
	if err != nil {
		return nil, err
	}
	if n.Address == "" {
		n.Address = address
	}
	if n.Address == "" {
		return nil, errors.New("it doesn't say which key signs responses: give its address")
	}
	if a.KeyType, a.Key, err = parseKey(n.Algorithm, n.Address); err != nil {
		return nil, err
	}
	if n.Fingerprint != "" {
		fp, err := unhex(n.Fingerprint)
		if err != nil || len(fp) != sha256.Size {
			return nil, fmt.Errorf("TLS fingerprint %.80q: want 32 bytes in hexadecimal", n.Fingerprint)
		}
		a.TLS = (*record.Digest)(fp)
	}
	copy(a.Nonce[:], body.ReportData[32:])
	if n.Nonce != "" {
		nonce, err := unhex(n.Nonce)
		if err != nil || !bytes.Equal(nonce, a.Nonce[:]) {
			return nil, fmt.Errorf("it is said to be for nonce %.80q, but the quote has %x", n.Nonce, a.Nonce)
		}
	}
	want := a.binding(nil).ReportData()
	if !bytes.Equal(want[:], body.ReportData) {
		return nil, fmt.Errorf("the quote has REPORTDATA %x, but key and TLS fingerprint call for %x", body.ReportData, want)
	}
	if err := a.log(n.EventLog, body); err != nil {
		return nil, err
	}
	if n.NVIDIA != "" {
		var gpu struct {
			Evidence []jsontext.Value `json:"evidence_list"`
		}
		if err := json.Unmarshal([]byte(n.NVIDIA), &gpu); err != nil || len(gpu.Evidence) == 0 || len(gpu.Evidence) > 64 {
			return nil, errors.New("nvidia_payload is not evidence of 1 to 64 GPUs")
		}
		a.GPU, a.GPUs = []byte(n.NVIDIA), uint64(len(gpu.Evidence))
	}
	return a, n.compose(a)
}

// quote takes a quote, and returns its body.
func (a *Attestation) quote(raw []byte) (*tdx.TDBody, error) {
	if len(raw) > maxQuote {
		return nil, fmt.Errorf("quote of %d bytes, more than %d", len(raw), maxQuote)
	}
	a.Quote = tdx.TrimPadding(raw)
	q, err := tdx.ParseQuote(a.Quote)
	if err != nil {
		return nil, fmt.Errorf("not a TDX quote: %w", tdx.Cause(err))
	}
	return &q.Body, nil
}

// log takes an event log, a JSON list or the text of one, and replays it.
func (a *Attestation) log(v jsontext.Value, body *tdx.TDBody) error {
	b := []byte(v)
	if len(b) > 0 && b[0] == '"' {
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return fmt.Errorf("event log: %w", err)
		}
		b = []byte(text)
	}
	if len(b) == 0 || string(b) == "null" || string(b) == "[]" {
		return nil
	}
	l, err := eventlog.ParseDstack(b)
	if err != nil {
		return err
	}
	var rtmr [eventlog.Registers][]byte
	copy(rtmr[:], body.RTMR[:])
	if _, err := l.Check(rtmr); err != nil {
		return err
	}
	a.EventLog, a.AppID, a.ComposeHash = bytes.Clone(b), l.Boot("app-id"), l.Boot("compose-hash")
	return nil
}

// compose compares the app-compose file, if there is one, with what was measured.
func (n *nodeJSON) compose(a *Attestation) error {
	var info struct {
		TCB jsontext.Value `json:"tcb_info"` // an object, or the text of one
	}
	if n.Info == nil || json.Unmarshal(n.Info, &info) != nil || info.TCB == nil {
		return nil
	}
	text := []byte(info.TCB)
	if text[0] == '"' {
		var s string
		if err := json.Unmarshal(text, &s); err != nil {
			return nil
		}
		text = []byte(s)
	}
	var tcb struct {
		AppCompose string `json:"app_compose"`
	}
	if json.Unmarshal(text, &tcb) != nil || tcb.AppCompose == "" {
		return nil
	}
	sum := sha256.Sum256([]byte(tcb.AppCompose))
	if a.ComposeHash != nil && !bytes.Equal(sum[:], a.ComposeHash) {
		return fmt.Errorf("app_compose has SHA-256 %x, but %x was measured", sum, a.ComposeHash)
	}
	a.ComposeHash = sum[:]
	return nil
}

// ParseTinfoil parses the attestation document of Tinfoil's enclaves.
func ParseTinfoil(b []byte) (*Attestation, error) {
	if len(b) > maxQuote*2 {
		return nil, fmt.Errorf("%d bytes, more than %d", len(b), maxQuote*2)
	}
	var v struct {
		Format string `json:"format"`
		Body   string `json:"body"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("not the JSON of an attestation document: %w", err)
	}
	const want = "https://tinfoil.sh/predicate/tdx-guest/v2"
	if v.Format != want {
		return nil, fmt.Errorf("format %.100q, want %q", v.Format, want)
	}
	packed, err := base64.StdEncoding.DecodeString(v.Body)
	if err != nil {
		return nil, errors.New("the body is not base64")
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, errors.New("the body is not gzip")
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxQuote+1))
	if err != nil {
		return nil, errors.New("the body is truncated")
	}
	a := &Attestation{Profile: record.ProfileTLSHPKE}
	_, err = a.quote(raw)
	if err != nil {
		return nil, err
	}
	return a, nil
}

// binding is what the quote's REPORTDATA is made of.
func (a *Attestation) binding(id *record.SessionID) record.Binding {
	return &record.DstackBinding{KeyType: a.KeyType, Key: a.Key, TLS: a.TLS, Nonce: a.Nonce, For: id}
}

// Signs reports whether a is of the key that a response says has signed it.
func (a *Attestation) Signs(r *Response) bool {
	return a.KeyType == r.KeyType && bytes.Equal(a.Key, r.Key)
}

// Fresh reports whether the quote was asked for with the nonce of a note and session.
func (a *Attestation) Fresh(note record.Digest, id record.SessionID) bool {
	return a.Profile == record.ProfileDstackProxy && a.Nonce == record.Nonce(note, id)
}

// files returns what is too large for a leaf, by digest items in their order.
func (a *Attestation) files() (refs []record.Evidence, files map[record.Digest][]byte) {
	files = make(map[record.Digest][]byte)
	var list []record.EvidenceRef
	add := func(b []byte, mediaType string) {
		if b == nil {
			return
		}
		ref := record.EvidenceRef{SHA256: sha256.Sum256(b), Size: uint64(len(b)), MediaType: mediaType}
		files[ref.SHA256] = b
		list = append(list, ref)
	}
	add(a.EventLog, record.MediaTypeDstackLog)
	add(a.GPU, MediaTypeGPU)
	slices.SortFunc(list, func(a, b record.EvidenceRef) int { return bytes.Compare(a.SHA256[:], b.SHA256[:]) })
	for _, ref := range list {
		refs = append(refs, record.NewDigestEvidence(ref))
	}
	return refs, files
}

// An Import is an entry with what belongs to it.
type Import struct {
	Entry *record.Entry

	// Evidence has what the entry names by digest: for the log's evidence store, or
	// for bundles.
	Evidence map[record.Digest][]byte

	// Private is the owner's file of a model run, a session file: the responses, with
	// what it takes to show one of them. Its header names no place in a log.
	Private []byte
}

// Evidence makes an entry of type evidence/v1, for an attestation whose nonce isn't
// of a note: when it was made, only collected says. source is a URI, or empty.
func (a *Attestation) Evidence(vendor string, key ed25519.PrivateKey, collected time.Time, source string) (*Import, error) {
	sum := sha256.Sum256(a.Quote)
	st := &record.Statement{Vendor: vendor, Evidence: &record.ImportedEvidence{
		MediaType: record.MediaTypeTDXQuote, SHA256: sum, Size: uint64(len(a.Quote)), CollectedOn: collected.UTC().Truncate(time.Second), Source: source,
	}}
	refs, files := a.files()
	evidence := []record.Evidence{record.NewQuoteEvidence(a.Quote)}
	if a.Profile == record.ProfileDstackProxy {
		evidence = append(evidence, record.NewBindingEvidence(a.binding(nil)))
	}
	e, err := sign(a.Profile, st, key, append(evidence, refs...))
	if err != nil {
		return nil, err
	}
	return &Import{Entry: e, Evidence: files}, nil
}

func sign(p record.Profile, st *record.Statement, key ed25519.PrivateKey, evidence []record.Evidence) (*record.Entry, error) {
	payload, err := st.Marshal()
	if err != nil {
		return nil, err
	}
	return record.SignEntry(p, payload, key, evidence...)
}

// A Run is what a model run's statement says beside the attestation.
type Run struct {
	Vendor          string
	Key             ed25519.PrivateKey // the vendor's release key
	Provider, Model string             // with Model empty, the one that the responses name

	Freshness record.Freshness
	ID        record.SessionID

	// Start is the statement of the session's start, with its key, if it has one in
	// the log.
	Start     *record.Digest
	PeerKeyID string

	// Channel is the key at the other end of the connection, if the quote doesn't
	// commit to one.
	Channel record.Channel

	Responses []*Response
	Now       time.Time
}

// ModelRun makes an entry of type model-run/v1. It refuses an attestation whose nonce
// isn't that of the note and session, and responses that the attested key hasn't signed.
func (a *Attestation) ModelRun(o Run) (*Import, error) {
	if !a.Fresh(o.Freshness.Note, o.ID) {
		return nil, fmt.Errorf("the quote has nonce %x, want %x: it wasn't asked for with the nonce of this note and session", a.Nonce, record.Nonce(o.Freshness.Note, o.ID))
	}
	if len(a.ComposeHash) != sha256.Size {
		return nil, errors.New("neither an event log nor an app-compose file says which application it is")
	}
	docs, err := a.documents(&o)
	if err != nil {
		return nil, err
	}
	leaves := make([]record.Digest, len(docs))
	for i := range docs {
		leaves[i] = record.ActionLeaf(docs[i].Salt, docs[i].Document)
	}
	run := &record.ModelRun{
		Provider: o.Provider, RequestModel: o.Model, Calls: record.Tree{Size: uint64(len(docs)), Root: record.ActionRoot(leaves)},
		SessionKey: record.NewSessionKey(o.Key.Public().(ed25519.PublicKey)), Freshness: o.Freshness, PeerChannel: o.Channel,
		Environment: record.Environment{Release: record.Image{Name: "dstack-app", SHA256: record.Digest(a.ComposeHash)}},
	}
	if len(a.AppID) > 0 && len(a.AppID) <= 64 {
		run.Environment.Release.Name = "dstack-app:" + hex.EncodeToString(a.AppID)
	}
	if a.TLS != nil {
		run.PeerChannel = record.Channel{Type: record.ChannelTLSSPKI, SHA256: *a.TLS}
	}
	if run.PeerChannel.Type == "" {
		return nil, errors.New("the quote commits to no TLS key: say which key was at the other end of your connection")
	}
	if a.EventLog != nil {
		sum := sha256.Sum256(a.EventLog)
		run.Environment.EventLog = &sum
	}
	if a.GPU != nil {
		run.Environment.Accelerators = []record.Accelerator{{
			Type: record.AcceleratorNVIDIA, Count: a.GPUs, Binding: record.BindingNonceChained, Nonce: a.Nonce, Evidence: sha256.Sum256(a.GPU),
		}}
	}
	h := &session.FileHeader{Kind: session.FileModelRun, Documents: run.Calls}
	var served []session.Served
	if o.Start != nil {
		run.Session, run.PeerKeyID = &record.ServedSession{ID: o.ID, Statement: *o.Start}, o.PeerKeyID
	} else {
		s := session.Served{ID: o.ID}
		rand.Read(s.Salt[:])
		served = append(served, s)
		run.SessionsServed = &record.Tree{Size: 1, Root: record.ActionRoot([]record.Digest{record.ActionLeaf(s.Salt, record.ServedSessionDocument(s.ID, s.Start))})}
		h.Served = *run.SessionsServed
	}
	refs, files := a.files()
	evidence := append([]record.Evidence{record.NewQuoteEvidence(a.Quote), record.NewBindingEvidence(a.binding(&o.ID))}, refs...)
	e, err := sign(a.Profile, &record.Statement{Vendor: o.Vendor, ModelRun: run}, o.Key, evidence)
	if err != nil {
		return nil, err
	}
	var private bytes.Buffer
	if err := session.WriteFile(&private, h, docs, served); err != nil {
		return nil, err
	}
	return &Import{Entry: e, Evidence: files, Private: private.Bytes()}, nil
}

// documents makes an action document of each response, and finds the model.
func (a *Attestation) documents(o *Run) ([]session.Document, error) {
	var trace [16]byte
	rand.Read(trace[:])
	var docs []session.Document
	for i, r := range o.Responses {
		if err := VerifyText(a.KeyType, a.Key, r.Text, r.Signature); err != nil {
			return nil, fmt.Errorf("response %d: %w", i, err)
		}
		if o.Model == "" {
			o.Model = r.Model
		}
		if r.Model != "" && r.Model != o.Model {
			return nil, fmt.Errorf("response %d is of model %.80q, not of %.80q: a record is about one model", i, r.Model, o.Model)
		}
		act := &record.Action{
			Session: o.ID, Index: uint64(i), Time: o.Now.UTC().Truncate(time.Second), TraceID: trace, Outcome: record.OutcomeExecuted,
			Attributes: map[string]any{
				record.AttrOperationName: "chat", attrProvider: o.Provider, attrModel: o.Model,
				AttrText: r.Text, AttrSignature: hex.EncodeToString(r.Signature),
			},
		}
		rand.Read(act.SpanID[:])
		if r.ID != "" {
			act.Attributes[attrResponseID] = r.ID
		}
		doc, err := act.Marshal()
		if err != nil {
			return nil, fmt.Errorf("response %d: %w", i, err)
		}
		d := session.Document{Document: doc}
		rand.Read(d.Salt[:])
		docs = append(docs, d)
	}
	if o.Model == "" {
		o.Model = a.Model
	}
	if strings.TrimSpace(o.Model) == "" {
		return nil, errors.New("neither the responses nor the attestation say which model it is: name it")
	}
	return docs, nil
}
