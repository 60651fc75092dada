package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// fixtures are the files that scripts find in their directory. All are made by
// tdxsim and bundletest, under a root of their own.
type fixtures struct {
	all map[string][]byte
	env map[string]string // digests and the like, for scripts' patterns

	session *bundletest.Session // the one in the files
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
	strong := bundletest.NewLog(t, bundletest.LogOptions{Witnesses: 4, Threshold: 3})
	f.all["strong.policy"] = []byte(strong.Policy().String())
	return f
}

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
// given without judging it. Paths below /busy answer 503 twice first, and those
// below /down always answer 500.
func (f *fixtures) serve() *httptest.Server {
	log := vendorsOnly(f.session.Handler())
	var busy atomic.Int32
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
