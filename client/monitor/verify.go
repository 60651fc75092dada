package monitor

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// Verify returns the record at index with all that is known about it, computed anew: the monitor assembles the record's
// bundle from the log's leaves, and checks it as an auditor would, under its own policies. The error wraps ErrNoRecord if
// there is no record, or none yet that an audited checkpoint covers.
func (m *Monitor) Verify(ctx context.Context, index uint64) (*Result, error) {
	a, err := m.assembly()
	if err != nil {
		return nil, err
	}
	defer a.close()
	return a.result(ctx, index)
}

// Bundle returns the bundle of the record at index, which is for bundle.Check to judge. The error is as for Verify.
func (m *Monitor) Bundle(ctx context.Context, index uint64) (*bundle.Bundle, error) {
	a, err := m.assembly()
	if err != nil {
		return nil, err
	}
	defer a.close()
	return a.bundle(ctx, index)
}

// Results is Search, and Verify for what it finds.
func (m *Monitor) Results(ctx context.Context, q Query) iter.Seq2[*Result, error] {
	return func(yield func(*Result, error) bool) {
		a, err := m.assembly()
		if err != nil {
			yield(nil, err)
			return
		}
		defer a.close()
		if _, err := a.results(ctx, q, 0, func(res *Result) bool { return yield(res, nil) }); err != nil {
			yield(nil, err)
		}
	}
}

// An assembly assembles bundles under one checkpoint. It belongs to one goroutine.
type assembly struct {
	*reader
	m       *Monitor
	tree    *client.Tree
	checker *bundle.Checker
}

func (m *Monitor) assembly() (*assembly, error) {
	r, err := m.reader()
	if err != nil {
		return nil, err
	}
	a := &assembly{reader: r, m: m}
	if err := a.open(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return a, nil
}

func (a *assembly) open() (err error) {
	size, _, note := a.m.Verified()
	if size == 0 {
		return fmt.Errorf("%w: no checkpoint is audited yet", ErrNoRecord)
	}
	// Leaves up to here are read, and no further: what a bundle holds is under this checkpoint.
	a.state.Size = min(a.state.Size, size)
	if a.tree, err = a.m.cfg.Log.TreeAt(note); err != nil {
		return err
	}
	appraisal := a.m.cfg.Appraisal
	if appraisal == nil {
		appraisal = a.m.audit
	}
	a.checker, err = bundle.NewChecker(bundle.Options{
		LogPolicy: a.m.cfg.LogPolicy, AllowQuorumNone: a.m.cfg.AllowQuorumNone, Appraisal: appraisal, Root: a.m.cfg.Root,
	})
	return err
}

// results calls f with the results for what q finds, and returns where to go on, see reader.search.
func (a *assembly) results(ctx context.Context, q Query, steps int, f func(*Result) bool) (next uint64, err error) {
	left := q.Limit
	var bad error
	next, err = a.search(ctx, q, steps, func(rec *Record) bool {
		res, err := a.result(ctx, rec.Index)
		if err != nil {
			bad = err
			return false
		}
		left--
		return f(res) && left != 0
	})
	return next, errors.Join(err, bad)
}

func (a *assembly) result(ctx context.Context, index uint64) (*Result, error) {
	b, err := a.bundle(ctx, index)
	if err != nil {
		return nil, err
	}
	rec, err := a.record(index)
	if err != nil {
		return nil, err
	}
	res := &Result{Record: rec, Log: a.state.Log, Size: a.tree.Checkpoint().Size, Claims: []verifier.Claim{}}
	f, err := a.checker.Check(b)
	if e := new(bundle.NotProven); errors.As(err, &e) {
		res.Rule, res.NotProven = e.Rule, e.Error()
		if a.m.cfg.Appraisal != nil {
			res.Allowed = new(bool)
		}
		return res, nil
	}
	if err != nil {
		return nil, err
	}
	res.Claims = f.Claims
	if a.m.cfg.Appraisal != nil {
		allowed := f.Allowed()
		res.Allowed, res.Refusals = &allowed, f.Refusals
	}
	return res, nil
}

// maxExtra bounds the leaves of each kind in a bundle that are there only because they name its subject: anybody whom a
// log admits can log such leaves, and must not make a bundle too large to be made.
const maxExtra = 8

// bundle assembles what the index knows to belong to the leaf at index: what client.AssembleBundle gathers, and besides
// what only somebody finds who has read the whole log: withdrawals of the release, other ends of the session, and model
// runs for it that it doesn't name.
func (a *assembly) bundle(ctx context.Context, subject uint64) (*bundle.Bundle, error) {
	if _, err := a.record(subject); err != nil {
		return nil, err
	}
	leaves := make(map[uint64]record.Leaf)
	queue := []uint64{subject}
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		if _, ok := leaves[i]; ok {
			continue
		}
		raw, err := a.tree.Leaf(ctx, i)
		if err != nil {
			return nil, err
		}
		if leaves[i], err = record.ParseLeaf(raw); err != nil {
			return nil, fmt.Errorf("leaf %d: %w", i, err)
		}
		if len(leaves) > bundle.MaxProofs {
			return nil, fmt.Errorf("leaf %d has more than %d linked leaves, too many for one bundle", subject, bundle.MaxProofs)
		}
		more, err := a.linked(i, leaves[i], subject)
		if err != nil {
			return nil, fmt.Errorf("leaf %d: %w", i, err)
		}
		queue = append(queue, more...)
	}
	return a.prove(leaves, subject)
}

// prove makes a bundle of leaves.
func (a *assembly) prove(leaves map[uint64]record.Leaf, subject uint64) (*bundle.Bundle, error) {
	cp := a.tree.Checkpoint()
	b := &bundle.Bundle{Subject: subject, Blobs: make(map[record.Digest][]byte), Consistency: make(map[uint64][][32]byte)}
	for _, i := range slices.Sorted(maps.Keys(leaves)) {
		hashes, err := a.m.Inclusion(i, cp.Size)
		if err != nil {
			return nil, err
		}
		b.Proofs = append(b.Proofs, &checkpoint.Proof{Extra: leaves[i].Bytes(), Index: i, Hashes: hashes, Checkpoint: a.tree.Note()})
		switch l := leaves[i].(type) {
		case *record.CollateralLeaf:
			for _, digest := range l.Components {
				if b.Blobs[digest], err = a.m.Blob(digest); err != nil {
					return nil, fmt.Errorf("leaf %d: component %x: %w", i, digest, err)
				}
			}
		case *record.TimeLeaf:
			old, err := noteCheckpoint(l.Note)
			if err != nil {
				return nil, fmt.Errorf("leaf %d: %w", i, err)
			}
			if old.Size == 0 || old.Size >= cp.Size {
				continue
			}
			if b.Consistency[old.Size], err = a.m.Consistency(old.Size, cp.Size); err != nil {
				return nil, err
			}
		}
	}
	_, err := b.Bytes() // it is well-formed, or the error says why it can't be
	return b, err
}

func noteCheckpoint(note []byte) (checkpoint.Checkpoint, error) {
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return checkpoint.ParseCheckpoint(n.Text)
}

// linked returns the indices of what belongs into a bundle with the leaf at i.
func (a *assembly) linked(i uint64, leaf record.Leaf, subject uint64) (more []uint64, err error) {
	one := func(p postings) {
		if err != nil {
			return
		}
		var j uint64
		var ok bool
		if j, ok, err = a.first(p); ok {
			more = append(more, j)
		}
	}
	statement := func(d record.Digest) {
		if err != nil {
			return
		}
		var j uint64
		var ok bool
		if j, ok, err = getU64(a.db, key(prefixStatement, short(d))); ok && j < a.state.Size {
			more = append(more, j)
		}
	}

	e := entryOf(leaf)
	if e == nil {
		return nil, nil
	}
	st := e.Statement()
	rl, isRecord := leaf.(*record.RecordLeaf)
	if isRecord || i == subject {
		rec := &Record{Index: i}
		if err := a.bound(rec); err != nil {
			return nil, err
		}
		if rec.Covering != nil {
			more = append(more, *rec.Covering)
		}
	}
	if !e.Profile.InTD() && st.VendorKey == nil {
		one(vendorKeyPostings(st.Vendor, e.KeyID))
	}
	if !isRecord {
		return more, err
	}
	if rl.Collateral != (record.Digest{}) {
		one(hashPostings(keyCollateral, rl.Collateral))
	}
	if f := st.Freshness(); f != nil {
		one(hashPostings(keyNote, f.Note))
	}
	if env := st.Environment(); env != nil && err == nil {
		var found []uint64
		if found, err = a.release(i, st.Vendor, env.Release.SHA256); err == nil {
			more = append(more, found...)
		}
	}
	switch {
	case st.Session != nil:
		statement(st.Session.Start.Statement)
		for _, m := range st.Session.Models {
			if m.ModelRun != nil {
				statement(*m.ModelRun)
			}
		}
	case st.Abandoned != nil:
		statement(st.Abandoned.Start.Statement)
	case st.ModelRun != nil:
		if st.ModelRun.Session != nil {
			statement(st.ModelRun.Session.Statement)
		}
		for _, u := range st.ModelRun.Upstream {
			if u.ModelRun != nil {
				statement(*u.ModelRun)
			}
		}
	}
	if err != nil || i != subject {
		return more, err
	}
	// What names the same start as the subject: other ends of the session, and runs of models for it.
	var start record.Digest
	switch {
	case st.Session != nil:
		start = st.Session.Start.Statement
	case st.Abandoned != nil:
		start = st.Abandoned.Start.Statement
	default:
		return more, nil
	}
	for _, runs := range []bool{false, true} {
		found, err := a.extra(hashPostings(keyStart, start), func(rec *Record) bool {
			if rec.Start != Hash(start) {
				return false
			}
			if rec.Role == bundle.RoleModelRun {
				return runs && st.Session != nil
			}
			return !runs && rec.Vendor == st.Vendor
		})
		if err != nil {
			return nil, err
		}
		more = append(more, found...)
	}
	return more, nil
}

// release returns the newest release of an image that a vendor had logged before a record, and what withdraws it.
func (a *assembly) release(before uint64, vendor string, image record.Digest) (found []uint64, err error) {
	var release *Record
	err = a.scan(imagePostings(vendor, image), 0, func(j uint64) (bool, error) {
		if j >= before {
			return false, nil
		}
		v, err := a.value(j)
		if err != nil || v == nil {
			return true, err
		}
		rec, err := decodeRecord(j, v)
		if err == nil && rec.Genuine && rec.Role == bundle.RoleRelease && rec.Vendor == vendor && rec.Release == Hash(image) {
			release = rec
		}
		return true, err
	})
	if err != nil || release == nil {
		return nil, err
	}
	found = append(found, release.Index)
	more, err := a.extra(hashPostings(keyWithdrawn, release.Statement), func(rec *Record) bool {
		return rec.Role == bundle.RoleWithdrawal && rec.Vendor == vendor
	})
	return append(found, more...), err
}

// extra returns the first few genuine records in a list that f accepts.
func (a *assembly) extra(p postings, f func(*Record) bool) (found []uint64, err error) {
	err = a.scan(p, 0, func(j uint64) (bool, error) {
		v, err := a.value(j)
		if err != nil || v == nil {
			return true, err
		}
		rec, err := decodeRecord(j, v)
		if err == nil && rec.Genuine && f(rec) {
			found = append(found, j)
		}
		return len(found) < maxExtra, err
	})
	return found, err
}
