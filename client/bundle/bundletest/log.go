// Package bundletest is a log in memory, with witnesses, vendors and platforms of its own, for tests of what reads logs
// and bundles. It makes whatever it is told to, right or wrong, and checks nothing: no product code may use it.
package bundletest

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// LogOptions describes a log.
type LogOptions struct {
	Origin    string // "log.example.org/2026" by default
	Witnesses int    // number of witnesses; 0 makes "quorum none"
	Threshold int    // how many of them make a quorum; all by default
	MLDSA     bool   // log and witnesses have ML-DSA-44 keys beside their Ed25519 keys
}

// A Log is a log that does what it is told. It can be used concurrently.
type Log struct {
	tb     testing.TB
	Origin string

	// Keys are the log's; Witnesses has, for each witness, its keys.
	Keys      []*checkpoint.SigningKey
	Witnesses [][]*checkpoint.SigningKey

	policy string

	mu     sync.Mutex // guards the rest
	leaves [][]byte
	hashes []tlog.Hash
	// forgotten is the number of leaves that were dropped.
	forgotten uint64
	blobs     map[record.Digest][]byte
	note      []byte // the newest published checkpoint, for the handler
}

// Key returns a signing key that depends on its kind and name only.
func Key(tb testing.TB, kind checkpoint.Kind, name string) *checkpoint.SigningKey {
	tb.Helper()
	seed := sha256.Sum256(fmt.Appendf(nil, "%v %s", kind, name))
	k, err := checkpoint.GenerateKey(kind, name, bytes.NewReader(seed[:]))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// NewLog returns an empty log.
func NewLog(tb testing.TB, o LogOptions) *Log {
	tb.Helper()
	if o.Origin == "" {
		o.Origin = "log.example.org/2026"
	}
	if o.Threshold == 0 {
		o.Threshold = o.Witnesses
	}
	l := &Log{tb: tb, Origin: o.Origin, blobs: make(map[record.Digest][]byte)}
	var policy strings.Builder
	l.Keys = append(l.Keys, Key(tb, checkpoint.Ed25519, o.Origin))
	if o.MLDSA {
		l.Keys = append(l.Keys, Key(tb, checkpoint.CosignatureMLDSA44, o.Origin))
	}
	for _, k := range l.Keys {
		fmt.Fprintf(&policy, "log %s\n", k.VKey())
	}
	var names []string
	for i := range o.Witnesses {
		name := fmt.Sprintf("witness%d.example", i+1)
		keys := []*checkpoint.SigningKey{Key(tb, checkpoint.CosignatureEd25519, name)}
		fmt.Fprintf(&policy, "witness w%d %s\n", i+1, keys[0].VKey())
		member := fmt.Sprintf("w%d", i+1)
		if o.MLDSA {
			keys = append(keys, Key(tb, checkpoint.CosignatureMLDSA44, name))
			fmt.Fprintf(&policy, "witness w%d-pq %s\ngroup g%d any w%d w%d-pq\n", i+1, keys[1].VKey(), i+1, i+1, i+1)
			member = fmt.Sprintf("g%d", i+1)
		}
		l.Witnesses = append(l.Witnesses, keys)
		names = append(names, member)
	}
	if o.Witnesses == 0 {
		policy.WriteString("quorum none\n")
	} else {
		fmt.Fprintf(&policy, "group all-witnesses %d %s\nquorum all-witnesses\n", o.Threshold, strings.Join(names, " "))
	}
	l.policy = policy.String()
	return l
}

// Policy returns the log policy that names l, its witnesses and its quorum.
func (l *Log) Policy() *checkpoint.Policy {
	l.tb.Helper()
	p, err := checkpoint.ParsePolicy([]byte(l.policy))
	if err != nil {
		l.tb.Fatal(err)
	}
	return p
}

// Size returns the number of leaves.
func (l *Log) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.leaves))
}

// Append adds a leaf, and returns its index.
func (l *Log) Append(leaf []byte) uint64 {
	l.tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(len(l.leaves))
	hashes, err := tlog.StoredHashes(n, leaf, tlog.HashReaderFunc(l.readHashes))
	if err != nil {
		l.tb.Fatal(err)
	}
	l.hashes = append(l.hashes, hashes...)
	l.leaves = append(l.leaves, slices.Clone(leaf))
	return uint64(n)
}

// readHashes is a tlog.HashReaderFunc. l.mu is held.
func (l *Log) readHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x >= int64(len(l.hashes)) {
			return nil, fmt.Errorf("no stored hash %d", x)
		}
		hashes[i] = l.hashes[x]
	}
	return hashes, nil
}

// Leaf returns the leaf at index.
func (l *Log) Leaf(index uint64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.leaves[index])
}

// Forget drops the leaves below index, but not their hashes, so that a log can be larger than memory. They can't be asked
// for any more.
func (l *Log) Forget(index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; l.forgotten < index; l.forgotten++ {
		l.leaves[l.forgotten] = nil
	}
}

// AddBlobs makes the log keep the components of a set.
func (l *Log) AddBlobs(c *tdx.Collateral) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range c.Components() {
		l.blobs[sha256.Sum256(b)] = b
	}
}

// Head returns the checkpoint of the first size leaves.
func (l *Log) Head(size uint64) checkpoint.Checkpoint {
	l.tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	cp := checkpoint.Checkpoint{Origin: l.Origin, Size: size, Root: checkpoint.EmptyRoot()}
	if size > 0 {
		root, err := tlog.TreeHash(int64(size), tlog.HashReaderFunc(l.readHashes))
		if err != nil {
			l.tb.Fatal(err)
		}
		cp.Root = root
	}
	return cp
}

// Sign returns a note of any checkpoint, signed by the log and by the given witnesses (all, if none is given) at a time.
func (l *Log) Sign(cp checkpoint.Checkpoint, at time.Time, witnesses ...int) []byte {
	l.tb.Helper()
	if len(witnesses) == 0 {
		for i := range l.Witnesses {
			witnesses = append(witnesses, i)
		}
	}
	keys := slices.Clone(l.Keys)
	for _, i := range witnesses {
		keys = append(keys, l.Witnesses[i]...)
	}
	return SignNote(l.tb, cp.Text(), at, keys...)
}

// SignNote returns a note of text with signatures by keys at a time.
func SignNote(tb testing.TB, text []byte, at time.Time, keys ...*checkpoint.SigningKey) []byte {
	tb.Helper()
	var lines [][]byte
	for _, k := range keys {
		line, err := k.Sign(text, at)
		if err != nil {
			tb.Fatal(err)
		}
		lines = append(lines, line)
	}
	note, err := checkpoint.Sign(text, lines...)
	if err != nil {
		tb.Fatal(err)
	}
	return note
}

// Publish signs the log as it is, and makes that what Handler serves.
func (l *Log) Publish(at time.Time) []byte {
	l.tb.Helper()
	note := l.Sign(l.Head(l.Size()), at)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note = note
	return note
}

// size returns the size in a note.
func (l *Log) size(note []byte) uint64 {
	l.tb.Helper()
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		l.tb.Fatal(err)
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		l.tb.Fatal(err)
	}
	return cp.Size
}

// Proof returns a proof for the leaf at index under a note of l.
func (l *Log) Proof(index uint64, note []byte) *checkpoint.Proof {
	l.tb.Helper()
	size := l.size(note)
	l.mu.Lock()
	defer l.mu.Unlock()
	hashes, err := tlog.ProveRecord(int64(size), int64(index), tlog.HashReaderFunc(l.readHashes))
	if err != nil {
		l.tb.Fatal(err)
	}
	p := &checkpoint.Proof{Extra: slices.Clone(l.leaves[index]), Index: index, Checkpoint: note}
	for _, h := range hashes {
		p.Hashes = append(p.Hashes, h)
	}
	return p
}

// Consistency returns the proof that the first size leaves are a prefix of those in a note.
func (l *Log) Consistency(size uint64, note []byte) (hashes [][32]byte) {
	l.tb.Helper()
	newSize := l.size(note)
	l.mu.Lock()
	defer l.mu.Unlock()
	if size == 0 || size == newSize {
		return nil
	}
	proof, err := tlog.ProveTree(int64(newSize), int64(size), tlog.HashReaderFunc(l.readHashes))
	if err != nil {
		l.tb.Fatal(err)
	}
	for _, h := range proof {
		hashes = append(hashes, h)
	}
	return hashes
}

// Bundle returns a bundle with the leaves at the given indices, all blobs that they name, and the consistency proofs
// for their time leaves.
func (l *Log) Bundle(subject uint64, note []byte, indices ...uint64) *bundle.Bundle {
	l.tb.Helper()
	b := &bundle.Bundle{Subject: subject, Blobs: make(map[record.Digest][]byte), Consistency: make(map[uint64][][32]byte)}
	indices = slices.Clone(indices)
	slices.Sort(indices)
	for _, index := range slices.Compact(indices) {
		p := l.Proof(index, note)
		b.Proofs = append(b.Proofs, p)
		leaf, err := record.ParseLeaf(p.Extra)
		if err != nil {
			continue // a test that wants such a leaf
		}
		switch leaf := leaf.(type) {
		case *record.TimeLeaf:
			size := l.size(leaf.Note)
			if hashes := l.Consistency(size, note); len(hashes) > 0 {
				b.Consistency[size] = hashes
			}
		case *record.CollateralLeaf:
			l.mu.Lock()
			for _, digest := range leaf.Components {
				b.Blobs[digest] = l.blobs[digest]
			}
			l.mu.Unlock()
		}
	}
	return b
}
