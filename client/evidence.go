package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"

	"github.com/affidavit-log/affidavit/log/record"
)

// MaxEvidence is the size in bytes of the largest evidence that a Client sends to, or takes from, a log's evidence store.
const MaxEvidence = 8 << 20

// maxBundled bounds the evidence that AssembleBundle takes into a bundle, all together: a bundle has at most 16 MiB, and
// an auditor can do without.
const maxBundled = 6 << 20

// Evidence returns what a log keeps of evidence that an entry names by digest. NotFound reports whether it doesn't, or
// not any more.
func (c *Client) Evidence(ctx context.Context, digest record.Digest) ([]byte, error) {
	resp, err := c.get(ctx, c.at("evidence/"+hexString(digest)), MaxEvidence)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(resp.body); got != digest {
		return nil, fmt.Errorf("the evidence %x has digest %x", digest, got)
	}
	return resp.body, nil
}

// PutEvidence gives a log evidence to keep. It must come before the entry that names it: a log forgets what no entry names.
func (c *Client) PutEvidence(ctx context.Context, b []byte) error {
	if len(b) > MaxEvidence {
		return fmt.Errorf("evidence of %d bytes, more than %d", len(b), MaxEvidence)
	}
	digest := sha256.Sum256(b)
	_, err := c.do(ctx, request{
		method: http.MethodPut, url: c.at("evidence/" + hexString(digest)), body: b, contentType: "application/octet-stream",
		limit: 1 << 10, auth: true,
	})
	return err
}

// evidence takes up what an entry names by digest, as far as the log has it and there is room. That it has none is no
// error: a bundle is good without.
func (a *assembler) evidence(ctx context.Context, e *record.Entry) error {
	for _, ev := range e.Evidence {
		ref, err := ev.Ref()
		if err != nil || ref.Size > uint64(maxBundled-a.bundled) {
			continue
		}
		if _, ok := a.blobs[ref.SHA256]; ok {
			continue
		}
		b, err := a.c.Evidence(ctx, ref.SHA256)
		var p *Problem
		switch {
		case err == nil:
			if len(b) <= maxBundled-a.bundled {
				a.blobs[ref.SHA256] = b
				a.bundled += len(b)
			}
		case errors.As(err, &p): // no store, or it isn't there
		default:
			return fmt.Errorf("evidence: %w", err)
		}
	}
	return nil
}
