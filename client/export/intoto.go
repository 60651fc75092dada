package export

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// PredicateSVR is the predicate type of a simple verification result
// (github.com/in-toto/attestation, spec/predicates/svr.md).
const PredicateSVR = "https://in-toto.io/attestation/svr/v0.1"

// DefaultVerifierID names this program and its rules as a verifier, to whoever
// chooses to trust its results. It changes when their meaning does.
const DefaultVerifierID = "https://affidavit-log.github.io/verifier/v1"

// An SVR makes verification results.
type SVR struct {
	// VerifierID is the URI of who says so; DefaultVerifierID if it is empty.
	VerifierID string

	// PolicySHA256 is the digest of the appraisal policy, in an extension field; none
	// if it is empty.
	PolicySHA256 string

	// At is when the records were verified.
	At time.Time

	// Key signs the results, if it is not nil: an auditor's own.
	Key ed25519.PrivateKey
}

// ErrNoSubject says that a record can't be the subject of a verification result:
// nothing is known of what its evidence is about.
var ErrNoSubject = errors.New("the record has no statement that a verification result could be about")

// properties are what a verification result can say of a record, by the claim that
// has to hold. The prefix is ours, as the predicate's specification asks.
var properties = []struct{ name, claim string }{
	{"AFFIDAVIT_GENUINE_TDX_QUOTE", "tee"},
	{"AFFIDAVIT_STATEMENT_BOUND_TO_HARDWARE", "binding"},
	{"AFFIDAVIT_CODE_IDENTIFIED", "code"},
	{"AFFIDAVIT_NOT_DEBUG", "td.debug"},
	{"AFFIDAVIT_NOT_MIGRATABLE", "td.migratable"},
	{"AFFIDAVIT_MEMORY_ENCRYPTED", "memory-encryption"},
	{"AFFIDAVIT_TCB_ACCEPTED", "tcb"},
	{"AFFIDAVIT_TIME_PROVEN", "time.proven"},
}

// Append appends the verification result of a record, in one line without its end:
// the statement or, if there is a key, its DSSE envelope. Its subject is the digest
// of the statement that the record logs.
func (s *SVR) Append(b []byte, r *Record) ([]byte, error) {
	if r.Statement == "" || r.Verdict == VerdictNotProven {
		return b, ErrNoSubject
	}
	if s.Key == nil {
		return s.statement(b, r), nil
	}
	payload := s.statement(nil, r)
	sig := ed25519.Sign(s.Key, record.PAE(record.PayloadType, payload))
	e := &encoder{b: b, limit: maxText}
	e.open('{')
	e.lit(`"payload":`, base64.StdEncoding.EncodeToString(payload))
	e.lit(`"payloadType":`, record.PayloadType)
	e.array(`"signatures":`)
	e.open('{')
	e.lit(`"keyid":`, record.NewSessionKey(s.Key.Public().(ed25519.PublicKey)).KeyID)
	e.lit(`"sig":`, base64.StdEncoding.EncodeToString(sig))
	e.raw("}]}")
	return e.b, nil
}

func (s *SVR) statement(b []byte, r *Record) []byte {
	e := &encoder{b: b, limit: maxText}
	e.open('{')
	e.lit(`"_type":`, "https://in-toto.io/Statement/v1")
	// The image isn't a subject: what was verified is one run of it.
	e.raw(`,"subject":[{"name":"statement","digest":{`)
	e.str(`"sha256":`, r.Statement)
	e.raw("}}]")
	e.lit(`"predicateType":`, PredicateSVR)
	e.object(`"predicate":`)
	e.object(`"verifier":`)
	e.str(`"id":`, orString(s.VerifierID, DefaultVerifierID))
	if s.PolicySHA256 != "" {
		e.raw(`,"policy":{"digest":{`)
		e.str(`"sha256":`, s.PolicySHA256)
		e.raw("}}")
	}
	if r.VerifiedBy != ByBundle {
		e.str(`"monitor":`, r.VerifiedBy)
	}
	e.close('}')
	e.stamp(`"timeCreated":`, s.At.Truncate(time.Second))
	e.array(`"properties":`)
	property := func(name string) {
		e.comma()
		e.text(name)
	}
	property("AFFIDAVIT_LOGGED")
	for _, p := range properties {
		for i := range r.Claims {
			if c := &r.Claims[i]; c.ID == p.claim && c.Status == verifier.StatusHolds {
				property(p.name)
			}
		}
	}
	for i := range r.Claims {
		if c := &r.Claims[i]; c.ID == "session.pair" && c.Source == verifier.SourceMeasuredCode && c.Status != verifier.StatusFailed {
			property("AFFIDAVIT_SESSION_PAIRED")
		}
	}
	if r.Verdict == VerdictGood {
		property("AFFIDAVIT_ALLOWED_BY_APPRAISAL_POLICY")
	}
	e.raw("]")
	e.object(`"affidavit":`)
	e.str(`"log":`, r.Log)
	e.num(`"index":`, r.Index)
	e.str(`"leaf":`, r.UID)
	e.lit(`"verdict":`, string(r.Verdict))
	e.raw("}}}")
	return e.b
}
