package session_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/client/session/quote"
	"github.com/affidavit-log/affidavit/log/record"
)

// A session in a trust domain, from its start to the files for the customer: the way of README.md.
func Example() {
	inTrustDomain := func(ctx context.Context, cert *x509.Certificate, image record.Image, pseudonym record.Digest, challenge *record.Digest, bundleFile, privateFile io.Writer) error {
		token, err := client.ReadToken("/etc/affidavit/token")
		if err != nil {
			return err
		}
		log, err := client.New("https://log.example.org/2026", client.Config{Token: token})
		if err != nil {
			return err
		}
		quotes, err := quote.Detect(ctx)
		if err != nil {
			return err
		}
		s, err := session.Start(ctx, session.Config{
			Log: log, Quotes: quotes, Dir: "/run/affidavit", Vendor: "https://vendor.example",
			Environment: record.Environment{Release: image, PersistentStorage: record.StorageNone},
		}, session.Options{
			Tenant: pseudonym, TenantEpoch: "2026-11", Challenge: challenge,
			Channels: []record.Channel{session.TLSChannel(cert.RawSubjectPublicKeyInfo)},
		})
		if err != nil {
			return err // a *session.PendingError names what to resume
		}
		fmt.Printf("the customer's gate opens for %x\n", s.StartRef().Statement)

		_, err = s.Action(session.Action{
			Outcome:    record.OutcomeBlocked,
			Attributes: map[string]any{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "http_request"},
			Arguments:  []byte(`{"url":"https://elsewhere.example"}`),
		})
		if err != nil {
			return err
		}

		r, err := s.Finish(ctx, session.FinishOptions{
			Retention: record.Retention{
				Claim: record.RetentionZero, Enforcement: record.EnforcementTechnical, Basis: []string{"no-persistent-storage"},
			},
			WorkspaceErased: true,
		})
		if err != nil {
			return err // to be called again
		}
		b, err := r.Bundle.Bytes()
		if err != nil {
			return err
		}
		if _, err := bundleFile.Write(b); err != nil {
			return err
		}
		if err := s.WriteFile(privateFile); err != nil {
			return err
		}
		return s.Remove()
	}
	_ = inTrustDomain // needs a trust domain
}
