package monitor

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/record"
)

// fullRecord has a value in every stored field.
func fullRecord() *Record {
	h := func(n byte) (h Hash) {
		for i := range h {
			h[i] = n + byte(i)
		}
		return h
	}
	at := time.Date(2026, 11, 24, 7, 0, 3, 250e6, time.UTC)
	return &Record{
		Index: 7, LeafHash: h(1), Statement: h(2), Role: bundle.RoleFinal, Profile: record.ProfileStatement,
		Vendor: "https://vendor.example", Session: h(3), Kind: record.KindCodingSession, Tenant: h(4), TenantEpoch: "2026-11",
		Sequence: 3, StartedOn: at.Truncate(time.Second), Release: h(5), ReleaseName: "pkg:oci/sandbox",
		Models: []Model{
			{Provider: "anthropic", Name: "claude", ResponseModel: "claude-1", Execution: record.ExecutionTEE, Record: true},
			{Provider: "other", Name: "m", Execution: record.ExecutionUnattested},
		},
		Retention: record.RetentionZero, Enforcement: record.EnforcementTechnical, Start: h(6),
		Genuine: true, HardwareBound: true, Reason: "made-up", FMSPC: "90c06f000000", Platform: "0102", TCBStatus: "OutOfDate",
		TCBDate: at.AddDate(-1, 0, 0), Advisories: []string{"INTEL-SA-00001", "INTEL-SA-00002"}, EvidenceClass: h(7), Collateral: h(8),
		AdmittedAt: at, JudgedAt: at.Add(-time.Hour), NotBefore: at.Add(-time.Minute),
	}
}

// A field that is forgotten in encodeRecord or decodeRecord, or read in another order, makes this fail.
func TestRecordEncoding(t *testing.T) {
	for _, r := range []*Record{fullRecord(), {}, {Index: 7, Role: bundle.RoleVendorKey, AdmittedAt: time.UnixMilli(1).UTC()}} {
		b := encodeRecord(r)
		got, err := decodeRecord(r.Index, b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" {
			t.Error(diff)
		}
		head := &Record{Index: r.Index}
		if err := decodeHead(head, b); err != nil {
			t.Fatal(err)
		}
		want := &Record{Index: r.Index, Genuine: r.Genuine, HardwareBound: r.HardwareBound, Role: r.Role, Session: r.Session, EvidenceClass: r.EvidenceClass, TCBStatus: r.TCBStatus}
		if diff := cmp.Diff(want, head); diff != "" {
			t.Error(diff)
		}
		if at, notBefore, err := decodeTimes(r.Index, b); err != nil || !at.Equal(r.AdmittedAt) || !notBefore.Equal(r.NotBefore) {
			t.Errorf("times %v and %v, want %v and %v: %v", at, notBefore, r.AdmittedAt, r.NotBefore, err)
		}
		for n := range b {
			if _, err := decodeRecord(r.Index, b[:n]); err == nil {
				t.Errorf("the first %d of %d bytes are accepted", n, len(b))
			}
		}
	}
}

// The stored form has one encoding: what is accepted is encoded to the same bytes. A decoder that accepts long
// integers, unknown flags, known words spelled out, or trailing bytes breaks this.
func FuzzRecord(f *testing.F) {
	f.Add(encodeRecord(fullRecord()))
	f.Add(encodeRecord(&Record{}))
	rng := rand.New(rand.NewPCG(1, 2))
	for range 8 {
		b := encodeRecord(fullRecord())
		b[rng.IntN(len(b))] ^= byte(1 << rng.IntN(8))
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(5, b)
		if err != nil {
			return
		}
		if got := encodeRecord(r); !bytes.Equal(got, b) {
			t.Errorf("two encodings of %+v:\n%x\n%x", r, got, b)
		}
	})
}
