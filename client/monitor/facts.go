package monitor

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Facts are what records refer to: collateral, notes in time leaves, vendors' keys, releases. Each follows from one leaf,
// and has its index, so that a record sees only what was logged before it. They are written before the records behind
// them are verified, and ahead of the state, see keys.go.
//
// A fact is only written once its leaf is proven to be in the tree: then it is the same whenever it is written.
type facts struct {
	m *Monitor

	sets  *lru.Cache[record.Digest, usableSet]
	notes *lru.Cache[record.Digest, *noteFact]
	keys  *lru.Cache[string, keyFact]

	// mu keeps what was logged about images and vendors from being read while something is added to it.
	mu      sync.Mutex
	images  *lru.Cache[string, *image]
	vendors *lru.Cache[string, []placedEntry] // vendor-key entries

	// compiling is held while a set is compiled, so that workers don't all compile the same.
	compiling sync.Mutex
}

// Numbers of facts kept in memory. A compiled set takes some 50 KB, a release some 5 KB.
const (
	cachedSets   = 64
	cachedNotes  = 4096
	cachedKeys   = 1024
	cachedImages = 512
)

func newFacts(m *Monitor) (*facts, error) {
	f := &facts{m: m}
	var err1, err2, err3, err4, err5 error
	f.sets, err1 = lru.New[record.Digest, usableSet](cachedSets)
	f.notes, err2 = lru.New[record.Digest, *noteFact](cachedNotes)
	f.keys, err3 = lru.New[string, keyFact](cachedKeys)
	f.images, err4 = lru.New[string, *image](cachedImages)
	f.vendors, err5 = lru.New[string, []placedEntry](cachedImages)
	return f, errors.Join(err1, err2, err3, err4, err5)
}

// A usableSet is a compiled set with its leaf.
type usableSet struct {
	set  *tdx.Set
	fact *setFact
}

// A setFact is a collateral leaf.
type setFact struct {
	Index uint64 `json:"index"`
	FMSPC string `json:"fmspc,omitempty"`
	CA    string `json:"ca,omitempty"`
	TCB   uint32 `json:"tcb,omitempty"` // evaluation data numbers
	QE    uint32 `json:"qe,omitempty"`
	From  int64  `json:"from,omitempty"` // s since 1970: when it comes into force

	Components [7]Hash `json:"components"`

	// Kind is set if the set can't be used: collateral-missing-blob or collateral-invalid, with the reason.
	Kind   Kind   `json:"kind,omitempty"`
	Reason string `json:"reason,omitempty"`
}

func (s *setFact) platform() string { return s.FMSPC + "/" + s.CA }

// A noteFact is a time leaf whose note is a checkpoint.
type noteFact struct {
	Index     uint64 `json:"index"`
	LoggedAt  int64  `json:"logged_at"` // ms
	Origin    string `json:"origin"`
	Size      uint64 `json:"size"`
	Root      Hash   `json:"root"`
	NotBefore int64  `json:"not_before"` // s since 1970 that witnesses prove, 0 if none
	NotAfter  int64  `json:"not_after"`
}

// A keyFact is a vendor-key leaf.
type keyFact struct {
	index uint64
	pub   ed25519.PublicKey
}

// An image has what a vendor has logged about one.
type image struct {
	releases, withdrawals []placedEntry // in the log's order
}

type placedEntry struct {
	index uint64
	entry *record.Entry
}

// before returns the entries logged before index.
func before(entries []placedEntry, index uint64) (found []*record.Entry) {
	for _, e := range entries {
		if e.index < index {
			found = append(found, e.entry)
		}
	}
	return found
}

// put writes a fact that isn't there, and reports false if there is one of an earlier leaf.
func (f *facts) put(k []byte, index uint64, value []byte) (bool, error) {
	old, ok, err := getU64(f.m.db, k)
	if err != nil || ok && old < index {
		return false, err
	}
	return true, f.m.db.Set(k, append(u64(index), value...), pebble.NoSync)
}

// learn writes the facts of a leaf.
func (f *facts) learn(ctx context.Context, it *item) error {
	switch l := it.leaf.(type) {
	case *record.TimeLeaf:
		if it.note == nil {
			return nil
		}
		v, err := json.Marshal(it.note)
		if err != nil {
			return err
		}
		first, err := f.put(key(prefixNote, it.noteDigest[:]), it.index, v)
		it.again = !first
		return err
	case *record.CollateralLeaf:
		return f.learnSet(ctx, it, l)
	case *record.VendorLeaf:
		return f.learnVendor(it, l)
	}
	return nil
}

func (f *facts) learnVendor(it *item, l *record.VendorLeaf) error {
	switch st := l.Entry.Statement(); {
	case st.VendorKey != nil:
		// The statement vouches for its key by its own signature, and only then is it one.
		k := &st.VendorKey.Key
		if l.Entry.KeyID != k.KeyID || l.Entry.VerifySignature(k.PublicKey) != nil {
			return nil
		}
		if _, err := f.put(key(prefixVendorKey, hashed(st.Vendor, k.KeyID)), it.index, k.PublicKey); err != nil {
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.vendors.Remove(st.Vendor)
		return f.m.db.Set(key(prefixKeyEntry, hashed(st.Vendor), u64(it.index)), l.Entry.Bytes(), pebble.NoSync)
	case st.Release != nil:
		return f.addToImage(key(prefixRelease, hashed(st.Vendor, string(st.Release.Image.SHA256[:]))), st.Vendor, st.Release.Image.SHA256, it, l)
	case st.Withdrawn != nil:
		return f.addToImage(key(prefixWithdrawal, hashed(st.Vendor, string(st.Withdrawn.Image.SHA256[:]))), st.Vendor, st.Withdrawn.Image.SHA256, it, l)
	}
	return nil
}

func (f *facts) addToImage(prefix []byte, vendor string, digest record.Digest, it *item, l *record.VendorLeaf) error {
	// What isn't signed by the vendor says nothing about its images.
	pub, ok, err := f.vendorKey(vendor, l.Entry.KeyID, it.index)
	if err != nil || !ok || l.Entry.VerifySignature(pub) != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.images.Remove(vendor + "\x00" + string(digest[:]))
	return f.m.db.Set(append(prefix, u64(it.index)...), l.Entry.Bytes(), pebble.NoSync)
}

// vendorKey returns a vendor's key that was logged before index.
func (f *facts) vendorKey(vendor, keyid string, index uint64) (ed25519.PublicKey, bool, error) {
	name := string(hashed(vendor, keyid))
	k, ok := f.keys.Get(name)
	if !ok {
		v, closer, err := f.m.db.Get(key(prefixVendorKey, []byte(name)))
		if errors.Is(err, pebble.ErrNotFound) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		defer closer.Close()
		if len(v) != 8+ed25519.PublicKeySize {
			return nil, false, fmt.Errorf("stored key of vendor %q is damaged", vendor)
		}
		k = keyFact{binary.BigEndian.Uint64(v), append([]byte(nil), v[8:]...)}
		f.keys.Add(name, k)
	}
	return k.pub, k.index < index, nil
}

// image returns what a vendor has logged about an image.
func (f *facts) image(vendor string, digest record.Digest) (*image, error) {
	name := vendor + "\x00" + string(digest[:])
	if i, ok := f.images.Get(name); ok {
		return i, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := hashed(vendor, string(digest[:]))
	i := new(image)
	var err error
	if i.releases, err = f.entries(key(prefixRelease, id)); err != nil {
		return nil, err
	}
	if i.withdrawals, err = f.entries(key(prefixWithdrawal, id)); err != nil {
		return nil, err
	}
	f.images.Add(name, i)
	return i, nil
}

// maxEntries bounds how many releases of one image, withdrawals of them, and keys of one vendor count: the first.
const maxEntries = 64

// entries returns the entries whose keys have a prefix, and end in the index.
func (f *facts) entries(prefix []byte) (found []placedEntry, err error) {
	it, err := f.m.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: append(prefix[:len(prefix):len(prefix)], u64(1<<63)...)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	for ok := it.First(); ok && len(found) < maxEntries; ok = it.Next() {
		if len(it.Key()) != len(prefix)+8 {
			continue
		}
		e, err := record.ParseEntry(append([]byte(nil), it.Value()...))
		if err != nil {
			return nil, fmt.Errorf("stored entry: %w", err)
		}
		found = append(found, placedEntry{binary.BigEndian.Uint64(it.Key()[len(prefix):]), e})
	}
	return found, it.Error()
}

// keysOf returns the entries that make a vendor's keys known.
func (f *facts) keysOf(vendor string) ([]placedEntry, error) {
	if k, ok := f.vendors.Get(vendor); ok {
		return k, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k, err := f.entries(key(prefixKeyEntry, hashed(vendor)))
	if err == nil {
		f.vendors.Add(vendor, k)
	}
	return k, err
}

// note returns the time leaf with a note, nil if there is none before index.
func (f *facts) note(digest record.Digest, index uint64) (*noteFact, error) {
	n, ok := f.notes.Get(digest)
	if !ok {
		v, closer, err := f.m.db.Get(key(prefixNote, digest[:]))
		if errors.Is(err, pebble.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		defer closer.Close()
		n = new(noteFact)
		if len(v) < 8 || json.Unmarshal(v[8:], n) != nil {
			return nil, fmt.Errorf("stored note %x is damaged", digest)
		}
		f.notes.Add(digest, n)
	}
	if n.Index >= index {
		return nil, nil
	}
	return n, nil
}

func (n *noteFact) checkpoint() checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: n.Origin, Size: n.Size, Root: n.Root}
}

// setFact returns the collateral leaf with an id, nil if there is none before index.
func (f *facts) setFact(id record.Digest, index uint64) (*setFact, error) {
	v, closer, err := f.m.db.Get(key(prefixSet, id[:]))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	s := new(setFact)
	if len(v) < 8 || json.Unmarshal(v[8:], s) != nil {
		return nil, fmt.Errorf("stored collateral %x is damaged", id)
	}
	if s.Index >= index {
		return nil, nil
	}
	return s, nil
}

// set returns the compiled set with an id, nil if it can't be used or there is none before index.
func (f *facts) set(id record.Digest, index uint64) (*tdx.Set, *setFact, error) {
	if s, ok := f.sets.Get(id); ok && s.fact.Index < index {
		return s.set, s.fact, nil
	}
	fact, err := f.setFact(id, index)
	if err != nil || fact == nil || fact.Kind != "" {
		return nil, fact, err
	}
	f.compiling.Lock()
	defer f.compiling.Unlock()
	if s, ok := f.sets.Get(id); ok {
		return s.set, fact, nil
	}
	var parts [7][]byte
	for i, d := range fact.Components {
		v, closer, err := f.m.db.Get(key(prefixBlob, d[:]))
		if err != nil {
			return nil, nil, fmt.Errorf("stored component %v of collateral %x: %w", d, id, err)
		}
		parts[i] = append([]byte(nil), v...)
		closer.Close()
	}
	s, err := f.m.v.Compile(collateralOf(parts))
	if err != nil {
		return nil, nil, fmt.Errorf("stored collateral %x: %w", id, err)
	}
	f.sets.Add(id, usableSet{s, fact})
	return s, fact, nil
}

func collateralOf(p [7][]byte) *tdx.Collateral {
	return &tdx.Collateral{
		TCBInfo: p[0], TCBInfoChain: p[1], QEIdentity: p[2], QEIdentityChain: p[3], RootCRL: p[4], PCKCRL: p[5], PCKCRLChain: p[6],
	}
}

// learnSet reads the components of a collateral leaf, and writes the fact. The error is one of the network or of the
// database; what is wrong with the set is in the fact.
func (f *facts) learnSet(ctx context.Context, it *item, l *record.CollateralLeaf) error {
	id := record.Digest(sha256.Sum256(it.raw))
	if old, err := f.setFact(id, it.index); err != nil {
		return err
	} else if old != nil {
		it.again = true
		return nil
	}
	fact := &setFact{Index: it.index}
	it.set, it.setID = fact, id
	var parts [7][]byte
	for i, d := range l.Components {
		fact.Components[i] = Hash(d)
		b, problem, err := f.blob(ctx, d)
		if err != nil {
			return fmt.Errorf("collateral leaf %d: %w", it.index, err)
		}
		if problem != "" && fact.Kind == "" {
			fact.Kind, fact.Reason = KindCollateralBlob, fmt.Sprintf("component %d: %s", i, problem)
		}
		parts[i] = b
	}
	if fact.Kind == "" {
		if s, err := f.m.v.Compile(collateralOf(parts)); err != nil {
			fact.Kind, fact.Reason = KindCollateralInvalid, err.Error()
		} else {
			from, _ := s.Window()
			fact.FMSPC, fact.CA, fact.TCB, fact.QE, fact.From = s.FMSPC(), s.PCKCA(), s.TCBEvaluationDataNumber(), s.QEEvaluationDataNumber(), from.Unix()
			f.sets.Add(id, usableSet{s, fact})
		}
	}
	v, err := json.Marshal(fact)
	if err != nil {
		return err
	}
	_, err = f.put(key(prefixSet, id[:]), it.index, v)
	return err
}

// blob returns a component, from the database or from the log, or says what is wrong with what the log serves.
func (f *facts) blob(ctx context.Context, d record.Digest) (b []byte, problem string, err error) {
	v, closer, err := f.m.db.Get(key(prefixBlob, d[:]))
	if err == nil {
		defer closer.Close()
		return append([]byte(nil), v...), "", nil
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return nil, "", err
	}
	raw, err := f.m.cfg.Log.RawBlob(ctx, d)
	if client.Refused(err) {
		return nil, fmt.Sprintf("the blob %x isn't served: %v", d, err), nil
	}
	if err != nil {
		return nil, "", err
	}
	if got := sha256.Sum256(raw.Body); got != d {
		return nil, fmt.Sprintf("what is served as the blob %x has digest %x", d, got), nil
	}
	return raw.Body, "", f.m.db.Set(key(prefixBlob, d[:]), raw.Body, pebble.NoSync)
}

// Blob returns a component of the log's collateral, by its SHA-256, as the monitor has kept it. It is an error if the
// audit hasn't come to a leaf that names it.
func (m *Monitor) Blob(digest record.Digest) ([]byte, error) {
	v, closer, err := m.db.Get(key(prefixBlob, digest[:]))
	if err != nil {
		return nil, fmt.Errorf("blob %x: %w", digest, err)
	}
	defer closer.Close()
	return append([]byte(nil), v...), nil
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

func fromSeconds(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}
