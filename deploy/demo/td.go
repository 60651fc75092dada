package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

const (
	vendorID = "https://vendor.example"
	origin   = "log.demo.example/2026"
)

// image is the release that the demo's trust domain runs.
var image = record.Image{Name: "pkg:oci/coding-sandbox", SHA256: sha256.Sum256([]byte("coding-sandbox 2026.11.3"))}

// A trustDomain is an enclave of which the demo makes start records that the
// recorder wouldn't make: it holds a session key, and asks its platform for quotes.
type trustDomain struct {
	platform   *tdxsim.Platform
	attributes uint64 // TD attributes, which hardware puts into each quote
	key        ed25519.PrivateKey
	session    record.SessionInfo
}

func newTrustDomain(p *tdxsim.Platform, attributes uint64) *trustDomain {
	_, key, err := ed25519.GenerateKey(nil)
	check(err)
	td := &trustDomain{platform: p, attributes: attributes, key: key}
	td.session = record.SessionInfo{
		Kind:           record.KindCodingSession,
		TenantEpoch:    time.Now().UTC().Format("2006-01"),
		Sequence:       1,
		StartedOn:      time.Now().UTC().Truncate(time.Second),
		IsolationScope: record.IsolationSession,
	}
	_, err = rand.Read(td.session.ID[:])
	check(err)
	td.session.Tenant = tenant(td.session.TenantEpoch)
	return td
}

// tenant is the customer's pseudonym of a month: only the customer, who has the
// key, can compute it.
func tenant(month string) record.Digest {
	return record.TenantPseudonym([]byte("a key that the customer keeps"), origin, vendorID, month)
}

func (td *trustDomain) environment() record.Environment {
	return record.Environment{Release: image, PersistentStorage: record.StorageNone}
}

// quote asks the platform for a quote over a statement.
func (td *trustDomain) quote(payload []byte) []byte {
	q, err := td.platform.Quote(tdxsim.QuoteOptions{
		TDAttributes: &td.attributes,
		ReportData:   record.ReportData(record.PayloadType, payload),
	})
	check(err)
	return q
}

// seal signs a statement with the session key and has the hardware quote it.
func (td *trustDomain) seal(s *record.Statement) *record.Entry {
	payload, err := s.Marshal()
	check(err)
	e, err := record.SignEntry(record.ProfileStatement, payload, td.key, record.NewQuoteEvidence(td.quote(payload)))
	check(err)
	return e
}

// start makes the start record.
func (td *trustDomain) start(fresh record.Freshness) *record.Entry {
	return td.seal(&record.Statement{
		PredicateType: record.PredicateSessionStart,
		Subjects:      []record.Subject{{Name: record.SubjectSession, SHA256: td.session.ID.Digest()}},
		Vendor:        vendorID,
		Start: &record.SessionStart{
			SessionInfo: td.session,
			SessionKey:  record.NewSessionKey(td.key.Public().(ed25519.PublicKey)),
			Freshness:   fresh,
			Environment: td.environment(),
			Channels:    []record.Channel{{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256([]byte("the TLS key of the trust domain"))}},
		},
	})
}

// release is the vendor's public promise of what the image measures, made
// before the image is used.
func release() *record.Statement {
	var rtmr [4]*[48]byte
	for i, label := range []string{"rtmr0", "rtmr1", "rtmr2"} {
		m := tdxsim.Measurement(label)
		rtmr[i] = &m
	}
	return &record.Statement{
		PredicateType: record.PredicateRelease,
		Subjects:      []record.Subject{{Name: image.Name, SHA256: image.SHA256}},
		Vendor:        vendorID,
		Release: &record.Release{
			Image:   image,
			Version: "2026.11.3",
			Measurements: []record.Measurement{{
				MRTD: tdxsim.Measurement("mrtd"), RTMR: rtmr,
			}},
			Source:    &record.Source{URI: "git+https://vendor.example/coding-sandbox", GitCommit: "c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2c2"},
			NotBefore: time.Now().UTC().Add(-time.Hour).Truncate(time.Second),
		},
	}
}
