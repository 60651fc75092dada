package client

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// AssembleBundle gathers the evidence for the leaf at index: the leaf itself, whatever it refers to that the log has,
// all under one checkpoint, with the components of collateral. The subject is a record, or a release or another leaf
// of a vendor. The result is well-formed, so that its Bytes are an .affidavit file; whether it proves anything is for
// bundle.Check to say.
//
// What cannot be judged without, such as the start of a session's final record, must be in the log. What only makes a
// bundle say more is left out if the log doesn't have it: releases, model runs, and the time leaf that covers a record,
// for which a bundle assembled a minute later will do.
//
// With appraisers in [Config], it waits for a checkpoint that they have cosigned; the error wraps ErrNotAppraised if there
// is none in time.
func (c *Client) AssembleBundle(ctx context.Context, index uint64) (*bundle.Bundle, error) {
	p, err := c.Proof(ctx, index)
	if err != nil {
		return nil, err
	}
	return c.assemble(ctx, p)
}

// AssembleBundleOf is [Client.AssembleBundle] for the entry with the given statement.
func (c *Client) AssembleBundleOf(ctx context.Context, statement record.Digest) (*bundle.Bundle, error) {
	p, err := c.ProofByStatement(ctx, statement)
	if err != nil {
		return nil, err
	}
	return c.assemble(ctx, p)
}

// assembler gathers leaves by index.
type assembler struct {
	c       *Client
	subject uint64
	leaves  map[uint64]record.Leaf
	queue   []uint64
	blobs   map[record.Digest][]byte
	bundled int            // bytes of evidence in blobs
	size    uint64         // of the largest checkpoint seen
	before  *bundle.Bundle // from the shard before, nil if nothing is there
}

func (c *Client) assemble(ctx context.Context, subject *checkpoint.Proof) (*bundle.Bundle, error) {
	a := &assembler{c: c, subject: subject.Index, leaves: make(map[uint64]record.Leaf), blobs: make(map[record.Digest][]byte)}
	if err := a.add(subject); err != nil {
		return nil, err
	}
	for len(a.queue) > 0 {
		index := a.queue[0]
		a.queue = a.queue[1:]
		if err := a.follow(ctx, index); err != nil {
			return nil, fmt.Errorf("leaf %d: %w", index, err)
		}
		if len(a.leaves) > bundle.MaxProofs {
			return nil, fmt.Errorf("leaf %d has more than %d linked leaves, too many for one bundle", subject.Index, bundle.MaxProofs)
		}
	}
	return a.finish(ctx)
}

// add takes up a leaf.
func (a *assembler) add(p *checkpoint.Proof) error {
	if _, ok := a.leaves[p.Index]; ok {
		return nil
	}
	leaf, err := record.ParseLeaf(p.Extra)
	if err != nil {
		return fmt.Errorf("leaf %d: %w", p.Index, err)
	}
	cp, _, err := a.c.checkNote(p.Checkpoint)
	if err != nil {
		return err
	}
	a.size = max(a.size, cp.Size)
	a.leaves[p.Index] = leaf
	a.queue = append(a.queue, p.Index)
	return nil
}

// need takes up a leaf that must be there.
func (a *assembler) need(what string, p *checkpoint.Proof, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return a.add(p)
}

// want takes up a leaf if the log has it.
func (a *assembler) want(what string, p *checkpoint.Proof, err error) error {
	if isNotFound(err) {
		return nil
	}
	return a.need(what, p, err)
}

// follow takes up what the leaf at index refers to.
func (a *assembler) follow(ctx context.Context, index uint64) error {
	switch leaf := a.leaves[index].(type) {
	case *record.CollateralLeaf:
		return a.components(ctx, leaf)

	case *record.VendorLeaf:
		if index == a.subject {
			if err := a.covering(ctx, index); err != nil {
				return err
			}
		}
		return a.vendorKey(ctx, leaf.Entry)

	case *record.RecordLeaf:
		if leaf.Collateral != (record.Digest{}) {
			p, err := a.c.ProofByCollateral(ctx, leaf.Collateral)
			if err := a.need("collateral", p, err); err != nil {
				return err
			}
		}
		if err := a.covering(ctx, index); err != nil {
			return err
		}
		if !leaf.Entry.Profile.InTD() {
			if err := a.vendorKey(ctx, leaf.Entry); err != nil {
				return err
			}
		}
		if err := a.evidence(ctx, leaf.Entry); err != nil {
			return err
		}
		return a.statement(ctx, index, leaf.Entry.Statement())
	}
	return nil
}

// covering takes up the time leaf that bounds the time of the leaf at index from above.
func (a *assembler) covering(ctx context.Context, index uint64) error {
	p, err := a.c.ProofCovering(ctx, index)
	return a.want("covering time leaf", p, err)
}

// statement takes up what a record's statement refers to.
func (a *assembler) statement(ctx context.Context, index uint64, s *record.Statement) error {
	if f := s.Freshness(); f != nil {
		p, err := a.c.ProofByNote(ctx, f.Note)
		if err := a.need("freshness note", p, err); err != nil {
			return err
		}
	}
	if e := s.Environment(); e != nil {
		// A release logged after the record says nothing about it. A log that can, finds the newest one before it.
		p, err := a.c.proofByRelease(ctx, s.Vendor, e.Release.SHA256, url.Values{"before": {strconv.FormatUint(index, 10)}})
		if err != nil || p.Index < index {
			if err := a.want("release", p, err); err != nil {
				return err
			}
		}
	}
	var start *record.Digest
	var runs []*record.Digest
	switch {
	case s.Session != nil:
		start = &s.Session.Start.Statement
		for _, m := range s.Session.Models {
			runs = append(runs, m.ModelRun)
		}
	case s.Abandoned != nil:
		start = &s.Abandoned.Start.Statement
	case s.ModelRun != nil:
		if s.ModelRun.Session != nil {
			start = &s.ModelRun.Session.Statement
		}
		for _, u := range s.ModelRun.Upstream {
			runs = append(runs, u.ModelRun)
		}
	}
	for _, run := range runs {
		if run == nil {
			continue
		}
		p, err := a.c.ProofByStatement(ctx, *run)
		if err := a.want("model run", p, err); err != nil {
			return err
		}
	}
	if start != nil {
		p, err := a.c.ProofByStatement(ctx, *start)
		if isNotFound(err) && a.c.cfg.Previous != nil {
			return a.previous(ctx, *start)
		}
		return a.need("start of the session", p, err)
	}
	return nil
}

// previous takes up the bundle of a session's start from the shard before the log.
func (a *assembler) previous(ctx context.Context, start record.Digest) error {
	if a.before != nil {
		return nil
	}
	b, err := a.c.cfg.Previous.AssembleBundleOf(ctx, start)
	if err != nil {
		return fmt.Errorf("start of the session, in the shard before: %w", err)
	}
	a.before = b
	return nil
}

// vendorKey takes up the leaf that makes the key of a vendor's entry known.
func (a *assembler) vendorKey(ctx context.Context, e *record.Entry) error {
	if e.Statement().VendorKey != nil {
		return nil
	}
	p, err := a.c.ProofByKey(ctx, e.Statement().Vendor, e.KeyID)
	return a.need("vendor key", p, err)
}

// components reads the blobs of a collateral leaf.
func (a *assembler) components(ctx context.Context, leaf *record.CollateralLeaf) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelReads)
	blobs := make([][]byte, len(leaf.Components))
	for i, digest := range leaf.Components {
		if _, ok := a.blobs[digest]; ok {
			continue
		}
		g.Go(func() (err error) {
			blobs[i], err = a.c.Blob(ctx, digest)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, digest := range leaf.Components {
		if blobs[i] != nil {
			a.blobs[digest] = blobs[i]
		}
	}
	return nil
}

// ErrNotAppraised is wrapped by the error of [Client.AssembleBundle] when no checkpoint of the log had the cosignatures of
// all of [Config.Appraisers] in time. The appraisers may be behind, or refuse what the log holds.
var ErrNotAppraised = errors.New("not cosigned by the required appraisers")

const (
	// appraisersWait is the default of Config.AppraisersWait. Logs publish, and appraisers verify, within seconds.
	appraisersWait = time.Minute

	// appraiserPoll is how often to look for an appraiser's cosignature. The checkpoint of a busy log changes every second,
	// and has the cosignature for a part of that.
	appraiserPoll = 250 * time.Millisecond
)

// tree returns the log as of a checkpoint that covers all that was seen, and that the appraisers have cosigned.
func (a *assembler) tree(ctx context.Context) (*Tree, error) {
	pause, waited := firstPoll, time.Duration(0)
	for {
		tree, err := a.c.Tree(ctx)
		if err != nil {
			return nil, err
		}
		if tree.cp.Size < a.size {
			// An answer from a cache or another frontend can be older than what we have seen.
			if pause > maxPoll {
				return nil, fmt.Errorf("the log's checkpoint of size %d is older than one of size %d that it has shown before", tree.cp.Size, a.size)
			}
			if err := a.c.sleep(ctx, pause); err != nil {
				return nil, err
			}
			pause *= 2
			continue
		}
		missing, err := a.c.missingAppraisers(tree.note)
		if err != nil {
			return nil, fmt.Errorf("checkpoint: %w", err)
		}
		if missing == nil {
			return tree, nil
		}
		if waited >= cmp.Or(a.c.cfg.AppraisersWait, appraisersWait) {
			return nil, fmt.Errorf("checkpoint of size %d: %w: %s has not cosigned it", tree.cp.Size, ErrNotAppraised, missing.Name())
		}
		waited += appraiserPoll
		if err := a.c.sleep(ctx, appraiserPoll); err != nil {
			return nil, err
		}
	}
}

// missingAppraisers returns the first required key that hasn't cosigned a note, or nil. A cosignature by one of the keys
// that doesn't verify is an error: nobody would accept the note.
func (c *Client) missingAppraisers(note []byte) (*checkpoint.VerifierKey, error) {
	if len(c.cfg.Appraisers) == 0 {
		return nil, nil
	}
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		return nil, err
	}
	for _, key := range c.cfg.Appraisers {
		signed := false
		for _, sig := range n.Signatures {
			if !key.Matches(sig) {
				continue
			}
			if _, err := key.Verify(n.Text, sig); err != nil {
				return nil, err
			}
			signed = true
		}
		if !signed {
			return key, nil
		}
	}
	return nil, nil
}

// finish puts all leaves under one checkpoint.
func (a *assembler) finish(ctx context.Context) (*bundle.Bundle, error) {
	tree, err := a.tree(ctx)
	if err != nil {
		return nil, err
	}

	b := &bundle.Bundle{Subject: a.subject, Blobs: a.blobs, Consistency: make(map[uint64][][32]byte), Previous: a.before}
	for _, index := range slices.Sorted(maps.Keys(a.leaves)) {
		p, err := tree.Proof(ctx, index)
		if err != nil {
			return nil, err
		}
		// The leaf that was followed came with a proof under another checkpoint.
		if leaf := a.leaves[index]; sha256.Sum256(p.Extra) != sha256.Sum256(leaf.Bytes()) {
			return nil, fmt.Errorf("the log has shown two different leaves at index %d", index)
		}
		b.Proofs = append(b.Proofs, p)

		t, ok := a.leaves[index].(*record.TimeLeaf)
		if !ok {
			continue
		}
		cp, _, err := a.c.checkNote(t.Note)
		if err != nil {
			return nil, fmt.Errorf("time leaf %d: %w", index, err)
		}
		hashes, err := tree.Consistency(ctx, cp.Size)
		if err != nil {
			return nil, err
		}
		if err := checkpoint.VerifyConsistency(cp.Root, tree.cp.Root, cp.Size, tree.cp.Size, hashes); err != nil {
			return nil, fmt.Errorf("the checkpoint in time leaf %d is not a prefix of the log: %w", index, err)
		}
		if len(hashes) > 0 {
			b.Consistency[cp.Size] = hashes
		}
	}
	if _, err := b.Bytes(); err != nil {
		return nil, err
	}
	return b, nil
}
