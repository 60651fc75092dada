package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/affidavit-log/affidavit/log/record"
)

func newKey() (ed25519.PublicKey, ed25519.PrivateKey, error) { return ed25519.GenerateKey(nil) }

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// vendorKey returns the entry by which a vendor makes its release key known.
func vendorKey(t *testing.T, vendor string, key ed25519.PrivateKey) *record.Entry {
	k := record.NewSessionKey(key.Public().(ed25519.PublicKey))
	id, err := hex.DecodeString(k.KeyID)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := (&record.Statement{
		PredicateType: record.PredicateVendorKey,
		Subjects:      []record.Subject{{Name: record.SubjectKey, SHA256: record.Digest(id)}},
		Vendor:        vendor,
		VendorKey:     &record.VendorKey{Key: k},
	}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.SignEntry(record.ProfileVendorSigned, payload, key)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
