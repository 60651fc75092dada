package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/quote"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// fixtures are the files that scripts find in their directory. All are made by
// tdxsim and bundletest, under a root of their own.
type fixtures struct {
	all map[string][]byte
	env map[string]string // digests and the like, for scripts' patterns

	session   *bundletest.Session    // the one in the files
	appraiser *checkpoint.SigningKey // cosigns what is below /appraised
}

// witnessed describes the log of the fixtures: three witnesses, two needed.
var witnessed = bundletest.LogOptions{Witnesses: 3, Threshold: 2, MLDSA: true}

const testToken = "token-5c1ad0e2f9"

func newFixtures(t testing.TB) *fixtures {
	t.Helper()
	f := &fixtures{all: make(map[string][]byte), env: make(map[string]string)}
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}

	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	f.session = s
	f.all["session.affidavit"] = must(s.Bundle().Bytes())
	f.all["log.policy"] = []byte(s.Policy().String())
	f.all["ours.yaml"] = s.Appraisal().YAML()
	f.appraiser = bundletest.Key(t, checkpoint.CosignatureEd25519, "monitor.example/appraiser")
	f.all["appraised.yaml"] = s.Appraisal("appraisers:\n  - " + f.appraiser.VKey()).YAML()
	f.all["vendor.yaml"] = s.Appraisal("profiles: [vendor-signed/v1]", "time:", "  allow-unproven: true").YAML()
	f.all["root.der"] = s.PKI.Root()
	f.all["root.pem"] = s.PKI.RootPEM()
	f.all["token"] = []byte(testToken + "\n")
	f.all["collateral.json"] = must(s.Set.JSON())
	note := s.Publish(s.Now)
	f.all["checkpoint"] = note
	for name, index := range map[string]uint64{
		"start": s.Start, "final": s.Final, "run": s.ModelRun, "release": s.Release, "key": s.VendorKey,
		"time": s.FreshStart, "collateral": s.Collateral,
	} {
		leaf := s.Leaf(index)
		f.all[name+".leaf"] = leaf
		f.all[name+".tlog-proof"] = s.Proof(index, note).Bytes()
		f.env[strings.ToUpper(name)] = fmt.Sprint(index)
		if e := entryIn(t, leaf); e != nil {
			f.all[name+".entry"] = e.Bytes()
			f.all[name+".entry.json"] = e.JSON()
			f.all[name+".dsse"] = e.DSSE()
			f.all[name+".json"] = e.Payload
			digest := e.StatementDigest()
			f.env[strings.ToUpper(name)+"_STATEMENT"] = hex.EncodeToString(digest[:])
		}
	}
	f.env["SESSION"] = s.World.Session.String()

	quote := entryIn(t, f.all["final.leaf"]).Quote()
	q, err := tdx.ParseQuote(quote)
	if err != nil {
		t.Fatal(err)
	}
	f.all["quote.bin"] = quote
	f.all["quote.padded"] = append(append([]byte{}, quote...), make([]byte, 500)...)
	f.all["quote.base64"] = []byte(base64.StdEncoding.EncodeToString(quote) + "\n")
	digits := hex.EncodeToString(quote)
	f.all["quote.hex"] = []byte("0x" + digits[:64] + "\n  " + digits[64:] + "\r\n")
	f.env["MRTD"] = hex.EncodeToString(q.Body.MRTD)
	f.env["REPORTDATA"] = hex.EncodeToString(q.Body.ReportData)

	action := must((&record.Action{
		Session: s.World.Session, Time: bundletest.Epoch, TraceID: [16]byte{1}, SpanID: [8]byte{1}, Outcome: record.OutcomeBlocked,
		Attributes: map[string]any{"gen_ai.operation.name": "execute_tool"},
	}).Marshal())
	salt := [32]byte{1}
	root := record.ActionRoot([]record.Digest{record.ActionLeaf(salt, action)})
	f.all["disclosure.json"] = (&record.Disclosure{Salt: salt, Bytes: action, Tree: record.Tree{Size: 1, Root: root}}).JSON()

	measurements := func(b *tdx.TDBody) []byte {
		text := fmt.Sprintf("measurements:\n  - name: the sandbox\n    mrtd: \"%x\"\n", b.MRTD)
		for i, r := range b.RTMR {
			text += fmt.Sprintf("    rtmr%d: \"%x\"\n", i, r)
		}
		return []byte(text)
	}
	f.all["pinned.yaml"] = measurements(&q.Body)
	f.all["strict.yaml"] = []byte("tcb:\n  statuses: [UpToDate]\n")
	f.all["broken.yaml"] = []byte("measurments: []\n")
	f.all["outofdate.yaml"] = []byte("tcb:\n  statuses: [UpToDate, OutOfDate]\n" +
		"  advisories:\n    - {id: INTEL-SA-00960, until: 2027-01-31T00:00:00Z}\n")

	// A quote of a debug TD, and one whose platform is behind.
	debug := tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug
	f.all["debug.bin"] = must(s.Platform.Quote(tdxsim.QuoteOptions{TDAttributes: &debug}))
	pcesvn := uint16(11)
	old := s.PKI.NewPlatform(tdxsim.PlatformOptions{Name: "old", PCESVN: &pcesvn})
	f.all["old.bin"] = must(old.Quote(tdxsim.QuoteOptions{Version: 5, Body: 3}))
	f.all["foreign.bin"] = must(tdxsim.NewPKI([]byte("somebody else"), bundletest.Epoch).NewPlatform(tdxsim.PlatformOptions{}).Quote(tdxsim.QuoteOptions{}))

	// A session of which nothing but the measurements changed.
	evil := bundletest.NewSession(t, witnessed, bundletest.Steps{Final: func(d *bundletest.Draft) {
		d.Quote.MRTD = tdxsim.Measurement("another image")
	}})
	f.all["unknown-code.affidavit"] = must(evil.Bundle().Bytes())
	dbg := bundletest.NewSession(t, witnessed, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Quote.TDAttributes = &debug }})
	f.all["debug.affidavit"] = must(dbg.Bundle().Bytes())
	replay := bundletest.NewSession(t, witnessed, bundletest.Steps{Final: func(d *bundletest.Draft) { d.Replay = f.all["debug.bin"] }})
	f.all["replay.affidavit"] = must(replay.Bundle().Bytes())
	lone := bundletest.NewSession(t, bundletest.LogOptions{Origin: "lone.example.org/2026"}, bundletest.Steps{})
	f.all["lone.affidavit"] = must(lone.Bundle().Bytes())
	f.all["lone.policy"] = []byte(lone.Policy().String())
	other := bundletest.NewLog(t, bundletest.LogOptions{Origin: "other.example.org/2026", Witnesses: 3, Threshold: 2})
	f.all["other.policy"] = []byte(other.Policy().String())
	weak := bundletest.NewLog(t, bundletest.LogOptions{Witnesses: 2, Threshold: 1})
	f.all["weak.policy"] = []byte(weak.Policy().String())
	f.record(t)
	strong := bundletest.NewLog(t, bundletest.LogOptions{Witnesses: 4, Threshold: 3})
	f.all["strong.policy"] = []byte(strong.Policy().String())
	return f
}

// endpoint is the TLS endpoint of the trust domain that the recorded session runs in.
var endpoint = sync.OnceValue(func() *httptest.Server {
	return httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s: %d bytes received", r.Method, r.URL.Path, len(b))
	}))
})

// record adds a session that the recorder's own code has made: its bundles, and its
// owner's private file.
func (f *fixtures) record(t testing.TB) {
	t.Helper()
	w := bundletest.NewWorld(t, witnessed)
	w.AddVendorKey(w.Vendor)
	w.AddRelease(w.Vendor)
	w.AddCollateral(w.Set)
	w.AddTime()
	w.Publish(w.Now)
	log := w.Handler()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		log.ServeHTTP(rw, r)
		if r.Method == http.MethodPost { // a time leaf, which a real log makes a minute later
			w.Tick(2 * time.Second)
			w.AddTime()
			w.Tick(2 * time.Second)
			w.Publish(w.Now)
		}
	}))
	defer srv.Close()
	l, err := client.New(srv.URL, client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	challenge := challengeDigest(testChallenge)
	ctx := context.Background()
	cfg := session.Config{
		Log: l, Quotes: quote.Sim(w.Platform, w.Vendor.Quote()), Dir: t.TempDir(), AnyFileSystem: true, Vendor: w.Vendor.ID,
		Environment: record.Environment{Release: w.Vendor.Image, PersistentStorage: record.StorageNone},
		KeepContent: true, Now: func() time.Time { return w.Now },
	}
	s, err := session.Start(ctx, cfg, session.Options{
		Tenant: record.TenantPseudonym([]byte("key"), w.Origin, w.Vendor.ID, "2026-11"), TenantEpoch: "2026-11",
		Channels: []record.Channel{session.TLSChannel(endpoint().Certificate().RawSubjectPublicKeyInfo)}, Challenge: &challenge,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	save := func(name string, b *bundle.Bundle, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if f.all[name], err = b.Bytes(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := s.StartBundle(ctx)
	save("begun.affidavit", b, err)
	for i, a := range []session.Action{
		{Attributes: map[string]any{"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}},
		{Attributes: map[string]any{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "read_file"}, Result: []byte("package main\n")},
		{Attributes: map[string]any{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "http_request", "error.type": "egress_denied"},
			Outcome: record.OutcomeBlocked, Arguments: []byte(`{"url":"https://evil.example/"}`)},
		{Attributes: map[string]any{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "sh\u202ell tool", "tags": []string{"a\u009b31m", "b"}},
			Outcome: record.OutcomeErrored, Arguments: []byte("rm \x1b[2J\xff")},
		{Attributes: map[string]any{"gen_ai.operation.name": "chat", "gen_ai.usage.output_tokens": 42}},
	} {
		a.Time = w.Now.Add(time.Duration(i) * time.Second)
		if _, err := s.Action(a); err != nil {
			t.Fatal(err)
		}
	}
	var file bytes.Buffer
	if err := s.WriteFile(&file); err != nil {
		t.Fatal(err)
	}
	f.all["early.private"] = bytes.Clone(file.Bytes())
	// The call of a model for the session, in a record of its own.
	run, err := session.NewRun(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer run.Close()
	if _, err := run.Call(s.ID(), session.Action{Attributes: map[string]any{"gen_ai.operation.name": "chat"}, Time: w.Now}); err != nil {
		t.Fatal(err)
	}
	ran, err := run.Finish(ctx, session.RunOptions{
		Provider: "gateway", RequestModel: "m", Weights: &challenge, Channel: session.TLSChannel([]byte("its key")),
		Session: &record.ServedSession{ID: s.ID(), Statement: s.StartRef().Statement}, PeerKeyID: s.Key().KeyID,
	})
	if err != nil {
		t.Fatal(err)
	}
	save("ran.affidavit", ran.Bundle, nil)
	file.Reset()
	if err := run.WriteFile(&file); err != nil {
		t.Fatal(err)
	}
	f.all["run.private"] = bytes.Clone(file.Bytes())
	r, err := s.Finish(ctx, session.FinishOptions{WorkspaceErased: true, Retention: record.Retention{
		Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	save("recorded.affidavit", r.Bundle, nil)
	file.Reset()
	if err := s.WriteFile(&file); err != nil {
		t.Fatal(err)
	}
	f.all["session.private"] = file.Bytes()
	f.all["challenge"] = []byte(testChallenge + "\n")
	f.env["RECORDED"] = s.ID().String()
	f.env["BEGUN"] = fmt.Sprintf("%x", s.StartRef().Statement)
	f.env["ENDPOINT"] = endpoint().URL
}

// testChallenge is a salt and a challenge.
const testChallenge = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" +
	"202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"

func entryIn(t testing.TB, leaf []byte) *record.Entry {
	t.Helper()
	l, err := record.ParseLeaf(leaf)
	if err != nil {
		t.Fatal(err)
	}
	switch l := l.(type) {
	case *record.RecordLeaf:
		return l.Entry
	case *record.VendorLeaf:
		return l.Entry
	}
	return nil
}

// serve runs a log that holds the session of the fixtures, and takes what it is
// given without judging it. Paths below /busy answer 503 twice first, those below
// /down always answer 500, and /appraised/checkpoint has an appraiser's
// cosignature when it is asked for a second time.
func (f *fixtures) serve() *httptest.Server {
	log := vendorsOnly(f.session.Handler())
	var busy, appraised atomic.Int32
	mux := http.NewServeMux()
	mux.Handle("/", log)
	mux.Handle("/busy/", http.StripPrefix("/busy", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if busy.Add(1) <= 2 {
			w.Header().Set("Retry-After", "0")
			bundletest.Problem(w, http.StatusServiceUnavailable, "overloaded", nil)
			return
		}
		log.ServeHTTP(w, r)
	})))
	mux.Handle("/appraised/", http.StripPrefix("/appraised", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		log.ServeHTTP(w, r)
		if r.URL.Path == "/checkpoint" && appraised.Add(1) > 1 {
			n, err := checkpoint.ParseNote(f.session.Published())
			if err != nil {
				panic(err)
			}
			line, err := f.appraiser.Sign(n.Text, f.session.Now)
			if err != nil {
				panic(err)
			}
			w.Write(line)
		}
	})))
	mux.HandleFunc("/down/", func(w http.ResponseWriter, r *http.Request) {
		bundletest.Problem(w, http.StatusInternalServerError, "internal", map[string]any{"detail": "the disk is full"})
	})
	return httptest.NewServer(mux)
}

// vendorsOnly adds to a log what it needs to refuse submissions: a token, and a
// dislike of imports.
func vendorsOnly(log http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
			if err != nil {
				return
			}
			if r.Header.Get("Authorization") != "Bearer "+testToken {
				bundletest.Problem(w, http.StatusUnauthorized, "unauthorized", map[string]any{"detail": "no vendor has this token"})
				return
			}
			if e, err := record.ParseEntry(b); err == nil && e.Profile == record.ProfileUnbound {
				bundletest.Problem(w, http.StatusUnprocessableEntity, "not-genuine", map[string]any{"detail": "the quote has expired", "reason": "expired"})
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(b))
		}
		log.ServeHTTP(w, r)
	})
}

// selfSigned writes a certificate for this machine and its key to dir.
func selfSigned(t testing.TB, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}
