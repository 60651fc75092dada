package imports

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/decred/dcrd/dcrec/secp256k1/v4"
	"github.com/decred/dcrd/dcrec/secp256k1/v4/ecdsa"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/sessiontest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// A proxy is a stand-in for the proxy for a model server on dstack, with the
// interfaces that NEAR AI and Phala serve: it signs what it answers, and gives
// a quote for whatever nonce it gets.
type proxy struct {
	t        testing.TB
	platform *tdxsim.Platform
	quote    tdxsim.QuoteOptions
	events   []map[string]any
	compose  string
	model    string
	ecdsa    *secp256k1.PrivateKey
	ed25519  ed25519.PrivateKey
	tls      *record.Digest
	signed   map[string]string // texts by completion id
}

func newProxy(t testing.TB, p *tdxsim.Platform) *proxy {
	seed := sha256.Sum256([]byte("proxy"))
	x := &proxy{
		t: t, platform: p, model: "deepseek-ai/DeepSeek-V3.1", compose: `{"docker_compose_file":"services: {}"}`, signed: make(map[string]string),
		ecdsa: secp256k1.PrivKeyFromBytes(seed[:]), ed25519: ed25519.NewKeyFromSeed(seed[:]),
	}
	x.quote.MRTD = tdxsim.Measurement("dstack")
	extend := func(rtmr int, digest [48]byte, e map[string]any) {
		x.quote.RTMR[rtmr] = sha512.Sum384(append(x.quote.RTMR[rtmr][:], digest[:]...))
		e["imr"], e["digest"] = rtmr, hex.EncodeToString(digest[:])
		x.events = append(x.events, e)
	}
	for i := range 3 {
		extend(i, sha512.Sum384([]byte("boot")), map[string]any{"event_type": 4, "event": "", "event_payload": hex.EncodeToString([]byte("boot"))})
	}
	compose := sha256.Sum256([]byte(x.compose))
	for _, e := range []struct {
		name    string
		payload []byte
	}{{"app-id", []byte{0xab, 0xcd}}, {"compose-hash", compose[:]}, {"system-ready", nil}} {
		digest := sha512.Sum384(slices.Concat([]byte{1, 0, 0, 8}, []byte(":"+e.name+":"), e.payload))
		extend(3, digest, map[string]any{"event_type": 0x08000001, "event": e.name, "event_payload": hex.EncodeToString(e.payload)})
	}
	return x
}

// key returns what the proxy says of one of its keys.
func (x *proxy) key(algorithm string) (name string, raw []byte) {
	if algorithm == "ed25519" {
		raw = x.ed25519.Public().(ed25519.PublicKey)
		return hex.EncodeToString(raw), raw
	}
	raw = addressOf(x.ecdsa.PubKey().SerializeUncompressed())
	return fmt.Sprintf("0x%X", raw), raw
}

func (x *proxy) sign(algorithm, text string) string {
	if algorithm == "ed25519" {
		return hex.EncodeToString(ed25519.Sign(x.ed25519, []byte(text)))
	}
	hash := keccak256([]byte(fmt.Sprintf("\x19Ethereum Signed Message:\n%d%s", len(text), text)))
	sig := ecdsa.SignCompact(x.ecdsa, hash, false)
	return "0x" + hex.EncodeToString(append(sig[1:], sig[0]))
}

func (x *proxy) attestation(algorithm, nonce string) map[string]any {
	name, raw := x.key(algorithm)
	n, err := hex.DecodeString(nonce)
	if err != nil {
		x.t.Error(err)
	}
	o := x.quote
	if x.tls != nil {
		first := sha256.Sum256(append(slices.Clone(raw), x.tls[:]...))
		copy(o.ReportData[:], first[:])
	} else {
		copy(o.ReportData[:], raw)
	}
	copy(o.ReportData[32:], n)
	quote, err := x.platform.Quote(o)
	if err != nil {
		x.t.Error(err)
	}
	a := map[string]any{
		"model_name": x.model, "signing_address": name, "signing_algo": algorithm, "request_nonce": nonce,
		"intel_quote": hex.EncodeToString(append(quote, make([]byte, 100)...)), "event_log": x.events,
		"nvidia_payload": fmt.Sprintf(`{"nonce": %q, "evidence_list": [{"certificate": "", "evidence": ""}, {}], "arch": "HOPPER"}`, nonce),
		"info":           map[string]any{"tcb_info": map[string]any{"app_compose": x.compose}},
	}
	if x.tls != nil {
		a["tls_cert_fingerprint"] = hex.EncodeToString(x.tls[:])
	}
	return a
}

func (x *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	algorithm := q.Get("signing_algo")
	if algorithm == "" {
		algorithm = "ecdsa"
	}
	var answer any
	switch id, isSignature := strings.CutPrefix(r.URL.Path, "/v1/signature/"); {
	case r.URL.Path == "/v1/chat/completions":
		body, _ := io.ReadAll(r.Body)
		id := fmt.Sprintf("chatcmpl-%d", len(x.signed))
		response := fmt.Appendf(nil, `{"id":%q,"choices":[]}`, id)
		x.signed[id] = fmt.Sprintf("%s:%x:%x", x.model, sha256.Sum256(body), sha256.Sum256(response))
		w.Write(response)
		return
	case isSignature:
		name, _ := x.key(algorithm)
		answer = map[string]string{"text": x.signed[id], "signature": x.sign(algorithm, x.signed[id]), "signing_address": name, "signing_algo": algorithm, "signature_kind": "provider_tee"}
	case r.URL.Path == "/v1/attestation/report":
		answer = map[string]any{"model_attestations": []any{x.attestation(algorithm, q.Get("nonce"))}}
	default:
		http.NotFound(w, r)
		return
	}
	json.NewEncoder(w).Encode(answer)
}

func fetch(t testing.TB, url, body string) []byte {
	t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp.Status, err)
	}
	return b
}

// A round is one way through the interfaces: nonce in, quote and signatures out.
type round struct {
	*sessiontest.Log
	proxy  *proxy
	client *client.Client
	url    string
	fresh  record.Freshness
	id     record.SessionID
	raw    []byte
	a      *Attestation
	run    Run
}

func newRound(t testing.TB, algorithm string, edit func(*proxy)) *round {
	t.Helper()
	r := &round{Log: sessiontest.New(t), id: record.SessionID{1, 2, 3}}
	r.proxy = newProxy(t, r.Platform)
	if edit != nil {
		edit(r.proxy)
	}
	srv := httptest.NewServer(r.proxy)
	t.Cleanup(srv.Close)
	r.url, r.client = srv.URL, r.Client()
	f, err := r.client.Freshness(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.fresh = f.Freshness
	r.raw = fetch(t, fmt.Sprintf("%s/v1/attestation/report?model=m&signing_algo=%s&nonce=%x", srv.URL, algorithm, record.Nonce(f.Freshness.Note, r.id)), "")
	all, err := ParseDstack(r.raw, "")
	if err != nil || len(all) != 1 {
		t.Fatal(len(all), err)
	}
	r.a = all[0]
	r.run = Run{
		Vendor: r.Vendor.ID, Key: r.Vendor.Key, Provider: "near", Freshness: f.Freshness, ID: r.id, Now: r.Time(),
		Channel: record.Channel{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256([]byte("seen by the client"))},
	}
	for i := range 3 {
		answer := fetch(t, srv.URL+"/v1/chat/completions", fmt.Sprintf(`{"n":%d}`, i))
		var v struct{ ID string }
		if err := json.Unmarshal(answer, &v); err != nil {
			t.Fatal(err)
		}
		response, err := ParseResponse(fetch(t, srv.URL+"/v1/signature/"+v.ID+"?signing_algo="+algorithm, ""))
		if err != nil {
			t.Fatal(err)
		}
		if response.ID = v.ID; !r.a.Signs(response) || response.ResponseHash != sha256.Sum256(answer) || response.Model != r.proxy.model {
			t.Errorf("%+v", response)
		}
		r.run.Responses = append(r.run.Responses, response)
	}
	return r
}

// From the nonce to a bundle with a proven interval, in which each response can be
// shown: against a stand-in of the interfaces.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	fp := record.Digest(sha256.Sum256([]byte("the proxy's TLS key")))
	for _, tt := range []struct {
		name, algorithm string
		edit            func(*proxy)
	}{
		{"ECDSA", "ecdsa", nil},
		{"Ed25519", "ed25519", nil},
		{"ECDSA and TLS", "ecdsa", func(x *proxy) { x.tls = &fp }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRound(t, tt.algorithm, tt.edit)
			made, err := r.a.ModelRun(r.run)
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			if len(made.Evidence) != 2 {
				t.Errorf("%d files, want the event log and the GPUs' evidence", len(made.Evidence))
			}
			for _, b := range made.Evidence {
				if err := r.client.PutEvidence(ctx, b); err != nil {
					t.Fatal(err)
				}
			}
			p, err := r.client.Submit(ctx, made.Entry)
			if err != nil {
				t.Fatal(err)
			}
			b, err := r.client.AssembleBundle(ctx, p.Index)
			if err != nil {
				t.Fatal(err)
			}
			file, err := b.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if b, err = bundle.Parse(file); err != nil {
				t.Fatal(err)
			}
			check := func(policy string) *bundle.Finding {
				t.Helper()
				pol, err := verifier.ParsePolicy([]byte(policy))
				if err != nil {
					t.Fatal(err)
				}
				f, err := bundle.Check(b, bundle.Options{LogPolicy: r.Policy(), Appraisal: pol, Root: r.World.Root()})
				if err != nil {
					t.Fatal(err)
				}
				return f
			}
			pins := fmt.Sprintf("measurements:\n  - {name: dstack, mrtd: %x, rtmr0: any, rtmr1: any, rtmr2: any, rtmr3: any}\nrelease-keys:\n  - vendor: %s\n    keys: [%s]\n",
				tdxsim.Measurement("dstack"), r.Vendor.ID, base64.StdEncoding.EncodeToString(record.SPKI(r.Vendor.Key.Public().(ed25519.PublicKey))))
			f := check(pins + "profiles: [dstack-proxy/v1]\n")
			if !f.Allowed() || f.Interval == nil || f.Interval.NotBefore.IsZero() || f.Interval.NotAfter.IsZero() || f.Interval.NotAfter.Sub(f.Interval.NotBefore) > time.Minute {
				t.Errorf("interval %+v, refusals %+v", f.Interval, f.Refusals)
			}
			for id, want := range map[string]verifier.Source{
				"event-log": verifier.SourceVerifier, "event-log.compose-hash": verifier.SourceHardware, "key.responses": verifier.SourceVerifier,
				"model": verifier.SourceVendor, "model.calls": verifier.SourceVendor, "time.responses": verifier.SourceUnknown,
			} {
				i := slices.IndexFunc(f.Claims, func(c verifier.Claim) bool { return c.ID == id })
				if i < 0 || f.Claims[i].Source != want {
					t.Errorf("claim %s: %d, want source %s", id, i, want)
				}
			}
			// By default no import is good enough.
			if f := check(pins); f.Allowed() || f.Refusals[0].Code != verifier.CodeProfile {
				t.Errorf("default policy: %+v", f.Refusals)
			}

			// The owner shows one response, and nothing of the others.
			ds, err := session.Disclose(bytes.NewReader(made.Private), func(a *record.Action) bool { return a.Index == 1 })
			if err != nil || len(ds) != 1 {
				t.Fatal(len(ds), err)
			}
			run := f.Subject.Entry()
			calls := run.Statement().ModelRun.Calls
			if err := ds[0].Verify(calls.Root, calls.Size); err != nil || calls.Size != 3 {
				t.Errorf("%d calls: %v", calls.Size, err)
			}
			if ok, err := Signed(run, ds[0].Action); !ok || err != nil {
				t.Errorf("signed: %v %v", ok, err)
			}
			text := ds[0].Action.Attributes[AttrText].(string)
			ds[0].Action.Attributes[AttrText] = strings.Replace(text, text[len(text)-1:], "g", 1)
			if ok, err := Signed(run, ds[0].Action); !ok || err == nil {
				t.Errorf("another text: %v %v", ok, err)
			}
		})
	}
}

// One thing wrong in what the interfaces answer, and there is no entry.
func TestModelRunRefuses(t *testing.T) {
	t.Parallel()
	r := newRound(t, "ecdsa", nil)
	if _, err := r.a.ModelRun(r.run); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		edit func(*Attestation, *Run)
		want string
	}{
		{"another session", func(_ *Attestation, o *Run) { o.ID[0]++ }, "wasn't asked for with the nonce"},
		{"another note", func(_ *Attestation, o *Run) { o.Freshness.Note[0]++ }, "wasn't asked for with the nonce"},
		{"another response", func(_ *Attestation, o *Run) { o.Responses[1].Text = "x" + o.Responses[1].Text }, "signed by address"},
		{"another signature", func(_ *Attestation, o *Run) { o.Responses[1].Signature[5] ^= 1 }, "response 1"},
		{"a signature with another recovery id", func(_ *Attestation, o *Run) { o.Responses[1].Signature[64] ^= 1 }, "response 1"},
		{"another key", func(a *Attestation, _ *Run) { a.Key[3] ^= 1 }, "signed by address"},
		{"two models", func(_ *Attestation, o *Run) { o.Model = "another" }, "a record is about one model"},
		{"no channel", func(_ *Attestation, o *Run) { o.Channel = record.Channel{} }, "commits to no TLS key"},
		{"no application", func(a *Attestation, _ *Run) { a.ComposeHash = nil }, "which application"},
		{"a vendor id that is none", func(_ *Attestation, o *Run) { o.Vendor = "near" }, "vendor"},
	} {
		a, o := *r.a, r.run
		a.Key = slices.Clone(a.Key)
		o.Responses = nil
		for _, resp := range r.run.Responses {
			c := *resp
			c.Signature = slices.Clone(c.Signature)
			o.Responses = append(o.Responses, &c)
		}
		tt.edit(&a, &o)
		if _, err := a.ModelRun(o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}

	compose := sha256.Sum256([]byte(r.proxy.compose))
	for _, tt := range []struct{ name, old, new, want string }{
		{"another address", `"signing_address":"0x`, `"signing_address":"0x00`, "bytes, want 20"},
		{"another algorithm", `"ecdsa"`, `"rsa"`, "signing algorithm"},
		{"another nonce", `"request_nonce":"`, `"request_nonce":"00`, "it is said to be for nonce"},
		{"a TLS fingerprint that the quote hasn't", `"signing_algo"`, `"tls_cert_fingerprint":"` + strings.Repeat("00", 32) + `","signing_algo"`, "call for"},
		{"another application in the log", hex.EncodeToString(compose[:]), strings.Repeat("00", 32), "digest"},
		{"another app-compose file", "docker_compose_file", "docker_compose_filx", "was measured"},
		{"a quote cut off", `"intel_quote":"04`, `"intel_quote":"05`, "not a TDX quote"},
		{"no quote", `"intel_quote"`, `"intel_quot"`, "quote"},
		{"no GPUs", `evidence_list`, `evidence`, "GPUs"},
	} {
		b := strings.Replace(string(r.raw), tt.old, tt.new, 1)
		if _, err := ParseDstack([]byte(b), ""); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// The shapes in which others than NEAR AI answer.
func TestShapes(t *testing.T) {
	pki := tdxsim.NewPKI([]byte("shapes"), bundletest.Epoch)
	x := newProxy(t, pki.NewPlatform(tdxsim.PlatformOptions{}))
	nonce := strings.Repeat("07", 32)
	ec, ed := x.attestation("ecdsa", nonce), x.attestation("ed25519", nonce)
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	text := map[string]any{}
	for k, v := range ec {
		text[k] = v
	}
	text["event_log"] = string(marshal(ec["event_log"]))
	text["info"] = map[string]any{"tcb_info": string(marshal(map[string]any{"app_compose": x.compose}))}
	delete(text, "request_nonce")
	delete(text, "nvidia_payload")
	delete(text, "signing_algo")
	all := map[string]any{"all_attestations": []any{ec, ed}}
	for k, v := range ec {
		all[k] = v
	}
	for _, tt := range []struct {
		name string
		v    any
		want int
	}{
		{"one", ec, 1}, {"event log as text, no algorithm", text, 1}, {"all of many, the first of them twice", all, 2},
		{"gateway and model", map[string]any{"gateway_attestation": ec, "model_attestations": []any{ed}}, 2},
	} {
		got, err := ParseDstack(marshal(tt.v), "")
		if err != nil || len(got) != tt.want || got[0].EventLog == nil || len(got[0].ComposeHash) != 32 || hex.EncodeToString(got[0].Nonce[:]) != nonce {
			t.Errorf("%s: %d, %v", tt.name, len(got), err)
		}
	}
	bare := map[string]any{"quote": ec["intel_quote"], "event_log": text["event_log"], "report_data": "", "vm_config": "{}"}
	if _, err := ParseDstack(marshal(bare), ""); err == nil {
		t.Error("dstack's own answer without an address")
	}
	name, _ := x.key("ecdsa")
	if got, err := ParseDstack(marshal(bare), name); err != nil || len(got) != 1 {
		t.Errorf("dstack's own answer: %v", err)
	}

	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	quote, _ := hex.DecodeString(ec["intel_quote"].(string))
	z.Write(quote)
	z.Close()
	doc := marshal(map[string]string{"format": "https://tinfoil.sh/predicate/tdx-guest/v2", "body": base64.StdEncoding.EncodeToString(packed.Bytes())})
	a, err := ParseTinfoil(doc)
	if err != nil || a.Profile != record.ProfileTLSHPKE {
		t.Fatal(err)
	}
	made, err := a.Evidence("https://vendor.example", bundletest.KeyFrom("tinfoil"), bundletest.Epoch, "https://inference.example/.well-known/tinfoil-attestation")
	if err != nil || made.Entry.Profile != record.ProfileTLSHPKE || len(made.Entry.Evidence) != 1 {
		t.Error(err)
	}
	for _, bad := range []string{
		strings.Replace(string(doc), "tdx-guest", "sev-snp-guest", 1), strings.Replace(string(doc), `"body":"`, `"body":"A`, 1), "[]",
	} {
		if _, err := ParseTinfoil([]byte(bad)); err == nil {
			t.Errorf("accepted %.80s", bad)
		}
	}
}

// web3.js documents what this key's signature of this text is.
func TestOthersSignature(t *testing.T) {
	sig, err := unhex("0xb91467e570a6466aa9e9876cbcd013baba02900b8979d43fe208a4a4f339f5fd6007e74cd82e037b800186422fc2da167c747ef045e5d18a5f5d4300f8e1a0291c")
	if err != nil {
		t.Fatal(err)
	}
	key, err := unhex("0x2c7536E3605D9C16a7a3D7b1898e529396a65c23")
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyText(record.KeySecp256k1, key, "Some data", sig); err != nil {
		t.Error(err)
	}
	sig[64] -= 27 // as some libraries write it
	if err := VerifyText(record.KeySecp256k1, key, "Some data", sig); err != nil {
		t.Error(err)
	}
	for i := range sig {
		sig[i] ^= 4
		if err := VerifyText(record.KeySecp256k1, key, "Some data", sig); err == nil {
			t.Errorf("byte %d changed", i)
		}
		sig[i] ^= 4
	}
	if err := VerifyText(record.KeySecp256k1, key, "Some data.", sig); err == nil {
		t.Error("another text")
	}
}

// What is accepted names its parts in the text that is signed.
func FuzzParseResponse(f *testing.F) {
	h := strings.Repeat("ab", 32)
	for _, text := range []string{h + ":" + h, "model:" + h + ":" + h, "org/model:8b:" + h + ":" + h, h, ":" + h + ":" + h} {
		f.Add(fmt.Appendf(nil, `{"text":%q,"signature":"0x00","signing_address":"0x%s","signing_algo":"ecdsa"}`, text, h[:40]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseResponse(b)
		if err != nil {
			return
		}
		want := fmt.Sprintf("%x:%x", r.RequestHash, r.ResponseHash)
		if r.Model != "" {
			want = r.Model + ":" + want
		}
		if !strings.EqualFold(r.Text, want) || len(r.Key) != 20 && len(r.Key) != 32 {
			t.Errorf("%q is said to be %q by %x", r.Text, want, r.Key)
		}
	})
}

// An attestation that is accepted is its quote's, and makes an entry that parses.
func FuzzParseDstackAttestation(f *testing.F) {
	pki := tdxsim.NewPKI([]byte("fuzz"), bundletest.Epoch)
	x := newProxy(f, pki.NewPlatform(tdxsim.PlatformOptions{}))
	for _, algorithm := range []string{"ecdsa", "ed25519"} {
		b, err := json.Marshal(x.attestation(algorithm, strings.Repeat("07", 32)))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "")
	}
	f.Fuzz(func(t *testing.T, b []byte, address string) {
		all, err := ParseDstack(b, address)
		if err != nil {
			return
		}
		for _, a := range all {
			if want := a.binding(nil).ReportData(); !bytes.Contains(a.Quote, want[:]) {
				t.Errorf("REPORTDATA %x isn't in the quote", want)
			}
			if _, err := a.Evidence("https://vendor.example", bundletest.KeyFrom("fuzz"), bundletest.Epoch, ""); err != nil {
				t.Error(err)
			}
		}
	})
}
