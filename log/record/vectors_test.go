package record

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var vectorDir = filepath.Join("..", "..", "testdata", "record")

func vector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(vectorDir, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectorsIn returns the vectors that match pattern. Having none is fatal.
func vectorsIn(t testing.TB, pattern string) map[string][]byte {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(vectorDir, filepath.FromSlash(pattern)))
	if err != nil || len(names) == 0 {
		t.Fatalf("no vectors %s: %v", pattern, err)
	}
	m := make(map[string][]byte)
	for _, name := range names {
		m[filepath.Base(name)] = vector(t, filepath.Base(filepath.Dir(name))+"/"+filepath.Base(name))
	}
	return m
}

func vectorJSON(t testing.TB, name string, v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(vector(t, name)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func unhexString(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type vectorIndex struct {
	Comment string
	PAE     []struct{ PayloadType, Payload, PAE, StatementDigest, ReportData string }
	SessionIDDigest,
	Ed25519Seeds map[string]string
	GPUNonce                   struct{ SPKI, NoteSHA256, Nonce string }
	Nonce                      struct{ Session, NoteSHA256, Nonce string }
	TenantPseudonym            []struct{ Key, Origin, Vendor, Month, Input, Tenant string }
	VendorIDs, Origins         struct{ Accept, Refuse []string }
	ActionTree, ServedSessions vectorTree
	EmptyRoot                  string
	Statements                 []struct{ File, PredicateType, StatementDigest, ReportData string }
	Entries                    []struct{ File, JSON, DSSE, Profile, Key, KeyID, StatementDigest, SHA256 string }
	Leaves                     []struct{ File, Kind, LeafHash, CollateralID, NoteSHA256 string }
}

type vectorTree struct {
	Leaves          []struct{ Salt, Document, Hash string }
	RootHash        string
	RootsOfPrefixes []string
	InclusionPaths  [][]string
}

// The vectors say what FORMAT.md does: each hash is computed here once more, from
// the standard library.
func TestVectors(t *testing.T) {
	var v vectorIndex
	vectorJSON(t, "vectors.json", &v)
	equal := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	sum := func(b ...[]byte) string {
		h := sha256.Sum256(bytes.Join(b, nil))
		return hex.EncodeToString(h[:])
	}
	reportData := func(pae []byte) string {
		h := sha512.Sum512(append([]byte("affidavit/reportdata/v1\x00"), pae...))
		return hex.EncodeToString(h[:])
	}
	pae := func(typ string, payload []byte) []byte {
		return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(typ), typ, len(payload), payload)
	}

	// DSSE's own example, to be sure that PAE is DSSE's.
	if got := v.PAE[0].PAE; got != hex.EncodeToString([]byte("DSSEv1 29 http://example.com/HelloWorld 11 hello world")) {
		t.Errorf("PAE of DSSE's example: %s", got)
	}
	for _, p := range v.PAE {
		want := pae(p.PayloadType, []byte(p.Payload))
		equal("PAE", p.PAE, hex.EncodeToString(want))
		equal("PAE", hex.EncodeToString(PAE(p.PayloadType, []byte(p.Payload))), p.PAE)
		equal("digest", p.StatementDigest, sum(want))
		equal("REPORTDATA", p.ReportData, reportData(want))
	}
	for id, want := range v.SessionIDDigest {
		equal("session id", want, sum([]byte(id)))
		parsed, err := ParseSessionID(id)
		if d := parsed.Digest(); err != nil || hex.EncodeToString(d[:]) != want {
			t.Errorf("digest of session id %s: %x, %v", id, d, err)
		}
	}
	equal("GPU nonce", v.GPUNonce.Nonce, sum([]byte("affidavit/gpu-nonce/v1\x00"), unhexString(t, v.GPUNonce.SPKI), unhexString(t, v.GPUNonce.NoteSHA256)))
	nonce := GPUNonce(unhexString(t, v.GPUNonce.SPKI), Digest(unhexString(t, v.GPUNonce.NoteSHA256)))
	equal("GPU nonce", hex.EncodeToString(nonce[:]), v.GPUNonce.Nonce)
	equal("nonce", v.Nonce.Nonce, sum([]byte("affidavit/nonce/v1\x00"), unhexString(t, v.Nonce.NoteSHA256), unhexString(t, v.Nonce.Session)))
	nonce = Nonce(Digest(unhexString(t, v.Nonce.NoteSHA256)), SessionID(unhexString(t, v.Nonce.Session)))
	equal("nonce", hex.EncodeToString(nonce[:]), v.Nonce.Nonce)
	seen := map[string]bool{}
	for _, p := range v.TenantPseudonym {
		mac := hmac.New(sha256.New, unhexString(t, p.Key))
		mac.Write(unhexString(t, p.Input))
		equal("tenant", p.Tenant, hex.EncodeToString(mac.Sum(nil)))
		got := TenantPseudonym(unhexString(t, p.Key), p.Origin, p.Vendor, p.Month)
		equal("tenant", hex.EncodeToString(got[:]), p.Tenant)
		if seen[p.Tenant] {
			t.Errorf("pseudonym %s twice", p.Tenant) // the lengths keep parts apart
		}
		seen[p.Tenant] = true
	}
	for _, s := range v.VendorIDs.Accept {
		if err := CheckVendorID(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range v.VendorIDs.Refuse {
		if err := CheckVendorID(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("vendor id %q: %v", s, err)
		}
	}
	for _, s := range v.Origins.Accept {
		if err := CheckOrigin(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range v.Origins.Refuse {
		if err := CheckOrigin(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("origin %q: %v", s, err)
		}
	}
	equal("empty root", v.EmptyRoot, sum())
	for _, tree := range []vectorTree{v.ActionTree, v.ServedSessions} {
		var hashes []Digest
		for i, l := range tree.Leaves {
			equal("action leaf", l.Hash, sum([]byte{0}, unhexString(t, l.Salt), []byte(l.Document)))
			h := ActionLeaf([32]byte(unhexString(t, l.Salt)), []byte(l.Document))
			equal("action leaf", hex.EncodeToString(h[:]), l.Hash)
			hashes = append(hashes, h)
			root := ActionRoot(hashes)
			equal("root", hex.EncodeToString(root[:]), tree.RootsOfPrefixes[i])
		}
		equal("root", tree.RootsOfPrefixes[len(hashes)-1], tree.RootHash)
		for i, path := range tree.InclusionPaths {
			var got []string
			for _, h := range ActionProof(hashes, uint64(i)) {
				got = append(got, hex.EncodeToString(h[:]))
			}
			equal("path", fmt.Sprint(got), fmt.Sprint(path))
		}
	}

	for _, sv := range v.Statements {
		b := vector(t, sv.File)
		s, err := ParseStatement(b)
		if err != nil {
			t.Errorf("%s: %v", sv.File, err)
			continue
		}
		equal(sv.File, s.PredicateType, sv.PredicateType)
		equal(sv.File, sv.StatementDigest, sum(pae(PayloadType, b)))
		equal(sv.File, sv.ReportData, reportData(pae(PayloadType, b)))
	}

	for _, ev := range v.Entries {
		b := vector(t, ev.File)
		e, err := ParseEntry(b)
		if err != nil {
			t.Errorf("%s: %v", ev.File, err)
			continue
		}
		equal(ev.File, string(e.Profile), ev.Profile)
		equal(ev.File, e.KeyID, ev.KeyID)
		equal(ev.File, sum(b), ev.SHA256)
		d := e.StatementDigest()
		equal(ev.File, hex.EncodeToString(d[:]), ev.StatementDigest)
		key := ed25519.NewKeyFromSeed(unhexString(t, v.Ed25519Seeds[ev.Key]))
		if err := e.VerifySignature(key.Public().(ed25519.PublicKey)); err != nil {
			t.Errorf("%s: %v", ev.File, err)
		}
		if !ed25519.Verify(key.Public().(ed25519.PublicKey), pae(PayloadType, e.Payload), e.Signature) {
			t.Errorf("%s: signature", ev.File)
		}
		if e.Profile == ProfileStatement { // in the vectors' stand-ins, REPORTDATA is where a quote has it
			rd := e.ReportData()
			if !bytes.Equal(e.Quote()[48+520:48+584], rd[:]) {
				t.Errorf("%s: REPORTDATA", ev.File)
			}
		}
		fromJSON, err := ParseEntryJSON(vector(t, ev.JSON))
		if err != nil || !bytes.Equal(fromJSON.Bytes(), b) {
			t.Errorf("%s: not the entry of %s: %v", ev.JSON, ev.File, err)
		}
		env, err := ParseEnvelope(vector(t, ev.DSSE))
		if err != nil || !reflect.DeepEqual(env, e.Envelope()) {
			t.Errorf("%s: not the envelope of %s: %v", ev.DSSE, ev.File, err)
		}
		if !bytes.Equal(e.JSON(), vector(t, ev.JSON)) || !bytes.Equal(e.DSSE(), vector(t, ev.DSSE)) {
			t.Errorf("%s: JSON forms differ", ev.File)
		}
	}

	for _, lv := range v.Leaves {
		b := vector(t, lv.File)
		l, err := ParseLeaf(b)
		if err != nil {
			t.Errorf("%s: %v", lv.File, err)
			continue
		}
		equal(lv.File, l.Kind().String(), lv.Kind)
		equal(lv.File, lv.LeafHash, sum([]byte{0}, b))
		h := LeafHash(b)
		equal(lv.File, hex.EncodeToString(h[:]), lv.LeafHash)
		if !bytes.Equal(reencode(l), b) {
			t.Errorf("%s: encodes to other bytes", lv.File)
		}
		switch l := l.(type) {
		case *CollateralLeaf:
			id := l.ID()
			equal(lv.File, hex.EncodeToString(id[:]), lv.CollateralID)
			equal(lv.File, lv.CollateralID, sum(b))
		case *TimeLeaf:
			d := l.NoteDigest()
			equal(lv.File, hex.EncodeToString(d[:]), lv.NoteSHA256)
		}
	}

	for name, b := range vectorsIn(t, "disclosures/*.json") {
		d, err := ParseDisclosure(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := d.Verify(Digest(unhexString(t, v.ActionTree.RootHash)), 5); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(d.JSON(), b) {
			t.Errorf("%s: JSON differs", name)
		}
	}
}

// reencode encodes the fields of a leaf, without the bytes that it was parsed from.
func reencode(l Leaf) []byte {
	switch l := l.(type) {
	case *RecordLeaf:
		c := *l
		c.raw = nil
		return c.Bytes()
	case *TimeLeaf:
		c := *l
		c.raw = nil
		return c.Bytes()
	case *CollateralLeaf:
		c := *l
		c.raw = nil
		return c.Bytes()
	case *VendorLeaf:
		c := *l
		c.raw = nil
		return c.Bytes()
	}
	panic(fmt.Sprintf("leaf %T", l))
}

// Every row of the refuse-*.json vectors is one change to an input that is
// good, and is refused for that change's reason.
func TestRefuse(t *testing.T) {
	text := func(name string, parse func([]byte) error) {
		var rows []struct {
			Name, Base, Old, New, NewHex, Error string
			PadTo                               int
		}
		vectorJSON(t, name, &rows)
		for _, row := range rows {
			t.Run(strings.TrimSuffix(name, ".json")+"/"+row.Name, func(t *testing.T) {
				b := vector(t, row.Base)
				if err := parse(b); err != nil {
					t.Fatal(err) // otherwise the row passes for the wrong reason
				}
				with := []byte(row.New)
				if row.NewHex != "" {
					with = unhexString(t, row.NewHex)
				}
				if row.PadTo > 0 {
					b = append(b, bytes.Repeat([]byte(" "), row.PadTo-len(b))...)
				} else if n := bytes.Count(b, []byte(row.Old)); n != 1 {
					t.Fatalf("%q occurs %d times", row.Old, n)
				} else {
					b = bytes.Replace(b, []byte(row.Old), with, 1)
				}
				checkRefused(t, parse(b), row.Error)
			})
		}
	}
	text("refuse-statements.json", func(b []byte) error { _, err := ParseStatement(b); return err })
	text("refuse-entries-json.json", func(b []byte) error { _, err := ParseEntryJSON(b); return err })
	text("refuse-disclosures.json", func(b []byte) error { _, err := ParseDisclosure(b); return err })

	binary := func(name string, parse func([]byte) error) {
		var rows []struct {
			Name, Base, InsertHex, Error string
			Offset, Delete               int
		}
		vectorJSON(t, name, &rows)
		for _, row := range rows {
			t.Run(strings.TrimSuffix(name, ".json")+"/"+row.Name, func(t *testing.T) {
				b := vector(t, row.Base)
				if err := parse(b); err != nil {
					t.Fatal(err)
				}
				at := row.Offset
				if at < 0 {
					at += len(b) + 1
				}
				b = bytes.Join([][]byte{b[:at], unhexString(t, row.InsertHex), b[at+row.Delete:]}, nil)
				checkRefused(t, parse(b), row.Error)
			})
		}
	}
	binary("refuse-entries.json", func(b []byte) error { _, err := ParseEntry(b); return err })
	binary("refuse-leaves.json", func(b []byte) error { _, err := ParseLeaf(b); return err })
}

func checkRefused(t *testing.T, err error, want string) {
	t.Helper()
	if !errors.Is(err, ErrMalformed) {
		t.Fatalf("error %v, want ErrMalformed", err)
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("refused for another reason: %v, want %q", err, want)
	}
}
