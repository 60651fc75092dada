package sessionlog

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	mocks "github.com/google/go-tdx-guest/testing"
	"github.com/google/go-tdx-guest/testing/testdata"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// importOf returns an entry for a quote that isn't bound to a statement.
func importOf(t testing.TB, key ed25519.PrivateKey, quote []byte, collected time.Time) *record.Entry {
	sum := sha256.Sum256(quote)
	return vendorEntry(t, key, record.ProfileUnbound, &record.Statement{
		PredicateType: record.PredicateEvidence,
		Subjects:      []record.Subject{{Name: record.SubjectEvidence, SHA256: sum}},
		Vendor:        vendorA,
		Evidence: &record.ImportedEvidence{
			MediaType: record.MediaTypeTDXQuote, SHA256: sum, Size: uint64(len(quote)),
			CollectedOn: collected.UTC().Truncate(time.Second),
		},
	}, record.NewQuoteEvidence(quote))
}

// importer opens a log that takes imports, under Intel's root, with collateral from a directory.
func importer(t *testing.T, collateral map[string][]byte) *server {
	t.Helper()
	w := newWorld(t)
	dir := t.TempDir()
	for name, b := range collateral {
		if err := os.WriteFile(filepath.Join(dir, name+".json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.root = tdx.IntelRoot()
	src := pcs.Dir(dir, w.root)
	if err := src.Check(); err != nil {
		t.Fatal(err)
	}
	w.cfg = func(c *Config) { c.AllowImports, c.Collateral = true, src }
	s := w.open()
	s.mustAdd(vendorKeyEntry(t, vendorA, s.relA))
	return s
}

// A quote that Intel hardware signed years ago goes in with the collateral of its time, and comes out in a bundle that an
// auditor can check under Intel's root. What the vectors call not genuine is refused.
func TestSharedImports(t *testing.T) {
	t.Parallel()
	shared := os.Getenv("AFFIDAVIT_SHARED")
	if shared == "" {
		shared = "../../shared"
	}
	dir := filepath.Join(shared, "vectors", "tdx", "real")
	cases, err := os.ReadDir(dir)
	if err != nil {
		t.Skipf("no vectors in %s: set AFFIDAVIT_SHARED", dir)
	}
	collateral := map[string][]byte{}
	type vector struct {
		name, expect, reason string
		at                   time.Time
		quote                []byte
	}
	var vectors []vector
	for _, c := range cases {
		read := func(name string) []byte {
			b, err := os.ReadFile(filepath.Join(dir, c.Name(), name))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		var want struct {
			At             int64
			Expect, Reason string
		}
		if err := json.Unmarshal(read("expected.json"), &want); err != nil {
			t.Fatal(err)
		}
		collateral[c.Name()] = read("collateral.json")
		vectors = append(vectors, vector{c.Name(), want.Expect, want.Reason, time.Unix(want.At, 0), read("quote.bin")})
	}
	s := importer(t, collateral)
	accepted := 0
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			e := importOf(t, s.relA, tdx.TrimPadding(v.quote), v.at)
			a := s.add(e)
			if v.expect != "accept" {
				if a.status != 422 || a.name() != "not-genuine" || a.problem.Reason == "" {
					t.Errorf("%s: %d %s", v.expect, a.status, a.body)
				}
				return
			}
			if a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			accepted++
			p := s.checkProof(a.body)
			leaf, err := record.ParseLeaf(p.Extra)
			if err != nil {
				t.Fatal(err)
			}
			r := leaf.(*record.RecordLeaf)
			if r.JudgedAt != v.at.UnixMilli() || time.Since(time.UnixMilli(r.AdmittedAt)) > time.Hour {
				t.Errorf("judged at %d, admitted at %d", r.JudgedAt, r.AdmittedAt)
			}
			b, err := s.client.AssembleBundle(t.Context(), p.Index)
			if err != nil {
				t.Fatal(err)
			}
			f, err := bundle.Check(b, bundle.Options{LogPolicy: s.policy, AllowQuorumNone: true, Appraisal: verifier.StrictPolicy()})
			if err != nil {
				t.Fatal(err)
			}
			if f.Subject.Index != p.Index || len(f.Claims) == 0 {
				t.Errorf("finding %+v", f)
			}
			// At another time the collateral of then isn't in force.
			if a := s.add(importOf(t, s.relA, tdx.TrimPadding(v.quote), v.at.AddDate(0, 3, 0))); a.status != 422 {
				t.Errorf("three months later: %d %s", a.status, a.body)
			}
			if a := s.add(e); a.status != 200 || s.checkProof(a.body).Index != p.Index {
				t.Errorf("again: %d", a.status)
			}
		})
	}
	if accepted == 0 {
		t.Error("no vector was accepted")
	}
}

// The quote that comes with go-tdx-guest is of a machine whose firmware Intel didn't recognise even then.
func TestImportRefused(t *testing.T) {
	t.Parallel()
	chain := func(header map[string][]string, name string) []byte {
		pem, err := url.QueryUnescape(header[name][0])
		if err != nil {
			t.Fatal(err)
		}
		return []byte(pem)
	}
	c := &tdx.Collateral{
		TCBInfo: testdata.TcbInfoBody, TCBInfoChain: chain(mocks.TcbInfoHeader, "Tcb-Info-Issuer-Chain"),
		QEIdentity: testdata.QeIdentityBody, QEIdentityChain: chain(mocks.QeIdentityHeader, "Sgx-Enclave-Identity-Issuer-Chain"),
		RootCRL: testdata.RootCrlBody, PCKCRL: testdata.PckCrlBody, PCKCRLChain: chain(mocks.PckCrlHeader, "Sgx-Pck-Crl-Issuer-Chain"),
	}
	w := newWorld(t)
	w.root = tdx.IntelRoot()
	src := &switchSource{c: c}
	w.cfg = func(c *Config) { c.AllowImports, c.Collateral = true, src }
	s := w.open()
	s.mustAdd(vendorKeyEntry(t, vendorA, s.relA))
	at := time.Date(2023, 6, 28, 8, 3, 58, 0, time.UTC)
	// What follows the signature data, whose size is in the quote, isn't part of it.
	const body = 48 + 584
	quote := testdata.RawQuote[:body+4+binary.LittleEndian.Uint32(testdata.RawQuote[body:])]
	a := s.add(importOf(t, s.relA, quote, at))
	if a.status != 422 || a.name() != "not-genuine" || a.problem.Reason != string(tdx.ReasonNoLevel) {
		t.Errorf("%d %s", a.status, a.body)
	}
	a = s.add(importOf(t, s.relA, quote, time.Now().Add(time.Hour)))
	if a.status != 422 || a.name() != "not-genuine" || a.problem.Reason != "statement" {
		t.Errorf("collected in the future: %d %s", a.status, a.body)
	}
	a = s.add(importOf(t, s.relA, quote, at.AddDate(-1, 0, 0)))
	if a.status != 422 || a.name() != "no-collateral" {
		t.Errorf("collected before its collateral: %d %s", a.status, a.body)
	}
}

// A set of the past that an import brings in never replaces the one in use.
func TestArchiveIsNotCurrent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now, archive := new(switchSource), new(switchSource)
	now.set(t, w, 18, 0)
	archive.set(t, w, 17, -20*24*time.Hour)
	w.cfg = func(c *Config) { c.AllowImports, c.Collateral, c.Archive = true, now, archive }
	s := w.open()
	s.mustAdd(vendorKeyEntry(t, vendorA, s.relA))
	current := collateralOf(t, s.mustAdd(w.newTD().start(t, s.freshness())).Extra)
	q := w.newTD().start(t, s.freshness()).Quote()
	old := collateralOf(t, s.mustAdd(importOf(t, s.relA, q, time.Now().Add(-10*24*time.Hour))).Extra)
	if old == current {
		t.Fatal("the import was judged by the set in use")
	}
	for range 2 {
		if got := collateralOf(t, s.mustAdd(w.newTD().start(t, s.freshness())).Extra); got != current {
			t.Errorf("after the import: %x", got)
		}
		s.close()
		s = w.open()
	}
}
