package sessionlog

import (
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
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
