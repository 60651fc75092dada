package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

const (
	// maxBlob bounds a component of collateral. The largest are CRLs, which grow with the number of revoked platforms.
	maxBlob = 8 << 20

	// firstPoll and maxPoll are how often to ask for the proof of a submission that was answered 202. pollLimit is how
	// long, unless the context ends sooner: witnesses can be away for longer, but then nothing is lost by submitting
	// again later.
	firstPoll = 250 * time.Millisecond
	maxPoll   = 5 * time.Second
	pollLimit = 10 * time.Minute
)

// ErrNotLogged is wrapped by the error of [Client.Submit] when the log has accepted an entry, and has not published a
// checkpoint with it for a long time. Submitting it again continues the wait.
var ErrNotLogged = errors.New("accepted by the log, but not in a published checkpoint yet")

// Submit logs an entry, and returns the proof that it is logged: its Extra is the leaf, as the log made it from e.
//
// Submit repeats what is safe to repeat, with growing pauses: requests that were not answered, or answered with 429,
// 502, 503 or 504. The log recognises an entry that it already has, so that an entry is logged once however often it
// is submitted; the proof is then that of the first time. Any other answer is an error: a *[Problem] if the log gave a
// reason. When e is accepted and not published at once, Submit waits for that.
//
// The proof is checked to be for e, and to verify under the log policy if there is one. Whether e is genuine is for
// bundle.Check to say.
func (c *Client) Submit(ctx context.Context, e *record.Entry) (*checkpoint.Proof, error) {
	entry := e.Bytes()
	resp, err := c.do(ctx, request{
		method: http.MethodPost, url: c.at("add"), body: entry, contentType: "application/octet-stream",
		limit: checkpoint.MaxProof, auth: true,
	})
	if err != nil {
		return nil, err
	}
	if resp.status == http.StatusAccepted {
		if resp, err = c.await(ctx, resp); err != nil {
			return nil, err
		}
	}
	p, leaf, err := c.parseProof(resp)
	if err != nil {
		return nil, err
	}
	if got := entryOf(leaf); got == nil || !bytes.Equal(got.Bytes(), entry) {
		return nil, fmt.Errorf("the log answered with a proof for another entry, at index %d", p.Index)
	}
	return p, nil
}

// await polls the Location of a 202 until there is a proof.
func (c *Client) await(ctx context.Context, resp *response) (*response, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, pollLimit, ErrNotLogged)
	defer cancel()
	u, err := resp.from.Parse(resp.location)
	if err != nil || resp.location == "" {
		return nil, fmt.Errorf("the log answered 202 with the Location %q", resp.location)
	}
	// A location elsewhere could name anything that only this machine can reach.
	if u.Scheme != c.base.Scheme || u.Host != c.base.Host {
		return nil, fmt.Errorf("the log answered 202 with a Location at another host, %q", u.Host)
	}
	pause := firstPoll
	for {
		if err := c.sleep(ctx, max(pause, min(resp.retry, maxRetryAfter))); err != nil {
			return nil, context.Cause(ctx)
		}
		next, err := c.get(ctx, u, checkpoint.MaxProof)
		switch {
		case err == nil && next.status != http.StatusAccepted:
			return next, nil
		case err == nil:
			resp = next
		case isNotFound(err): // not published yet
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		default:
			return nil, err
		}
		pause = min(2*pause, maxPoll)
	}
}

// parseProof returns the verified proof in an answer, and the leaf in its extra data.
func (c *Client) parseProof(resp *response) (*checkpoint.Proof, record.Leaf, error) {
	p, err := checkpoint.ParseProof(resp.body)
	if err != nil {
		return nil, nil, fmt.Errorf("the log's answer: %w", err)
	}
	leaf, err := record.ParseLeaf(p.Extra)
	if err != nil {
		return nil, nil, fmt.Errorf("the log's answer: leaf %d: %w", p.Index, err)
	}
	cp, _, err := c.checkNote(p.Checkpoint)
	if err != nil {
		return nil, nil, fmt.Errorf("the log's answer: checkpoint: %w", err)
	}
	if err := checkpoint.VerifyInclusion(record.LeafHash(p.Extra), cp.Root, p.Index, cp.Size, p.Hashes); err != nil {
		return nil, nil, fmt.Errorf("the log's answer: %w", err)
	}
	return p, leaf, nil
}

// checkNote parses a checkpoint, and verifies it if there is a log policy.
func (c *Client) checkNote(note []byte) (checkpoint.Checkpoint, *checkpoint.Checked, error) {
	if c.cfg.LogPolicy != nil {
		checked, err := c.cfg.LogPolicy.Check(note)
		if err != nil {
			return checkpoint.Checkpoint{}, nil, err
		}
		return checked.Checkpoint, checked, nil
	}
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		return checkpoint.Checkpoint{}, nil, err
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	return cp, nil, err
}

// entryOf returns the entry in a leaf, or nil.
func entryOf(leaf record.Leaf) *record.Entry {
	switch l := leaf.(type) {
	case *record.RecordLeaf:
		return l.Entry
	case *record.VendorLeaf:
		return l.Entry
	}
	return nil
}

// Checkpoint returns the newest published checkpoint, a signed note, verified under the log policy if there is one.
// Nothing keeps the log from answering an older one than before: whoever follows a log has to compare.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	resp, err := c.get(ctx, c.at("checkpoint"), checkpoint.MaxNote)
	if err != nil {
		return nil, err
	}
	if _, _, err := c.checkNote(resp.body); err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	return resp.body, nil
}

// Freshness is a note of the log that is in a time leaf, for the next statement to commit to.
type Freshness struct {
	record.Freshness                     // what goes into the statement
	Note             []byte              // the signed note
	Checked          *checkpoint.Checked // nil without a log policy
}

// Freshness returns the newest note that is in a time leaf, verified under the log policy if there is one.
func (c *Client) Freshness(ctx context.Context) (*Freshness, error) {
	resp, err := c.get(ctx, c.at("freshness"), checkpoint.MaxNote)
	if err != nil {
		return nil, err
	}
	cp, checked, err := c.checkNote(resp.body)
	if err != nil {
		return nil, fmt.Errorf("freshness note: %w", err)
	}
	return &Freshness{
		Freshness: record.Freshness{Note: sha256.Sum256(resp.body), Origin: cp.Origin, Size: cp.Size, Root: cp.Root},
		Note:      resp.body,
		Checked:   checked,
	}, nil
}

// Proof returns a proof for the leaf at index under the newest checkpoint. Like that of all methods that return
// proofs, its Extra is the leaf, and it verifies under the log policy if there is one.
func (c *Client) Proof(ctx context.Context, index uint64) (*checkpoint.Proof, error) {
	p, _, err := c.proof(ctx, c.at("proof/"+strconv.FormatUint(index, 10)), nil)
	if err == nil && p.Index != index {
		return nil, fmt.Errorf("asked for index %d, the log answered with index %d", index, p.Index)
	}
	return p, err
}

// ProofByStatement returns a proof for the entry with the given statement, see [record.StatementDigest].
func (c *Client) ProofByStatement(ctx context.Context, statement record.Digest) (*checkpoint.Proof, error) {
	p, _, err := c.proof(ctx, c.at("proof/by-statement/"+hexString(statement)), func(l record.Leaf) bool {
		e := entryOf(l)
		return e != nil && e.StatementDigest() == statement
	})
	return p, err
}

// ProofByNote returns a proof for the time leaf that holds the note with the given SHA-256.
func (c *Client) ProofByNote(ctx context.Context, note record.Digest) (*checkpoint.Proof, error) {
	p, _, err := c.proof(ctx, c.at("proof/by-note/"+hexString(note)), func(l record.Leaf) bool {
		t, ok := l.(*record.TimeLeaf)
		return ok && sha256.Sum256(t.Note) == note
	})
	return p, err
}

// ProofByCollateral returns a proof for the collateral leaf with the given id.
func (c *Client) ProofByCollateral(ctx context.Context, id record.Digest) (*checkpoint.Proof, error) {
	p, _, err := c.proof(ctx, c.at("proof/by-collateral/"+hexString(id)), func(l record.Leaf) bool {
		l2, ok := l.(*record.CollateralLeaf)
		return ok && l2.ID() == id
	})
	return p, err
}

// ProofByRelease returns a proof for the vendor's newest release of an image, given by its SHA-256.
func (c *Client) ProofByRelease(ctx context.Context, vendor string, image record.Digest) (*checkpoint.Proof, error) {
	return c.proofByRelease(ctx, vendor, image, url.Values{})
}

func (c *Client) proofByRelease(ctx context.Context, vendor string, image record.Digest, query url.Values) (*checkpoint.Proof, error) {
	query.Set("vendor", vendor)
	u := c.at("proof/by-release/" + hexString(image))
	u.RawQuery = query.Encode()
	p, _, err := c.proof(ctx, u, func(l record.Leaf) bool {
		e := entryOf(l)
		return e != nil && e.Statement().Release != nil && e.Statement().Vendor == vendor && e.Statement().Release.Image.SHA256 == image
	})
	return p, err
}

// ProofByKey returns a proof for the leaf by which the vendor has made a release key known.
func (c *Client) ProofByKey(ctx context.Context, vendor, keyid string) (*checkpoint.Proof, error) {
	if b, err := hex.DecodeString(keyid); err != nil || len(b) != sha256.Size {
		return nil, fmt.Errorf("key id %q is not a SHA-256 in hexadecimal", keyid)
	}
	u := c.at("proof/by-key/" + keyid)
	u.RawQuery = url.Values{"vendor": {vendor}}.Encode()
	p, _, err := c.proof(ctx, u, func(l record.Leaf) bool {
		e := entryOf(l)
		return e != nil && e.Statement().VendorKey != nil && e.Statement().Vendor == vendor && e.KeyID == keyid
	})
	return p, err
}

// ProofCovering returns a proof for the first time leaf whose checkpoint covers index. The log answers 404 until there
// is one, which [NotFound] tells.
func (c *Client) ProofCovering(ctx context.Context, index uint64) (*checkpoint.Proof, error) {
	p, _, err := c.proof(ctx, c.at("proof/covering/"+strconv.FormatUint(index, 10)), func(l record.Leaf) bool {
		t, ok := l.(*record.TimeLeaf)
		if !ok {
			return false
		}
		cp, _, err := c.checkNote(t.Note)
		return err == nil && cp.Size > index
	})
	return p, err
}

// NotFound reports whether err says that the log doesn't have what was asked for.
func NotFound(err error) bool { return isNotFound(err) }

// Blob returns the component of collateral with the given SHA-256.
func (c *Client) Blob(ctx context.Context, digest record.Digest) ([]byte, error) {
	resp, err := c.get(ctx, c.at("blob/"+hexString(digest)), maxBlob)
	if err != nil {
		return nil, err
	}
	if got := sha256.Sum256(resp.body); got != digest {
		return nil, fmt.Errorf("the blob %x has digest %x", digest, got)
	}
	return resp.body, nil
}

// proof reads a proof, whose leaf must be the one that was asked for.
func (c *Client) proof(ctx context.Context, u *url.URL, want func(record.Leaf) bool) (*checkpoint.Proof, record.Leaf, error) {
	resp, err := c.get(ctx, u, checkpoint.MaxProof)
	if err != nil {
		return nil, nil, err
	}
	if resp.status != http.StatusOK {
		return nil, nil, fmt.Errorf("GET %s: answered %d", u.Path, resp.status)
	}
	p, leaf, err := c.parseProof(resp)
	if err != nil {
		return nil, nil, fmt.Errorf("GET %s: %w", u.Path, err)
	}
	if want != nil && !want(leaf) {
		return nil, nil, fmt.Errorf("GET %s: the log answered with another leaf, index %d", u.Path, p.Index)
	}
	return p, leaf, nil
}

func hexString(d record.Digest) string { return hex.EncodeToString(d[:]) }
