package sessionlog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/transparency-dev/merkle/compact"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// An index answers where things are in the log. One goroutine, the follower, reads every leaf back from the tree, and
// writes what it finds together with its position in one atomic batch. All of it follows from the leaves, so that a
// lost index is built again, and a crash loses nothing but time: writes aren't even synced.
//
// Whatever is asked twice of the log, such as whether a statement is in it, is only asked when the follower has caught
// up with what was appended before.
type index struct {
	l   *Log
	db  *pebble.DB
	dir string

	// The follower owns what follows, under run so that catchUp and the goroutine take turns.
	run_  sync.Mutex
	sets  bool           // there is newer collateral than what is in use, of a log whose storage is shared
	rng   *compact.Range // of the leaves up to the position, unless dirty
	times timesState     // likewise
	dirty bool           // a step has failed, and what it left must be read again

	pos  atomic.Pointer[position]
	good atomic.Int64 // nanoseconds since the epoch: when it was last known that nothing is missing

	mu       sync.Mutex // guards expected
	expected map[record.Digest]record.Leaf

	kicked chan struct{}
}

// A position is how far the follower is: at a size that the tree has had, with its root.
type position struct {
	size  uint64
	root  record.Digest
	whole bool          // the tree had this size when one integration was done, and not just on the way to it
	next  chan struct{} // closed when there is a newer position
}

// timesState is what the time leaves so far say.
type timesState struct {
	last    uint64 // index of the newest time leaf
	covered uint64 // size of the largest checkpoint in a time leaf
	any     bool   // there is a time leaf
	other   uint64 // 1 + index of the newest leaf that isn't a time leaf, 0 if there is none
}

// Keys begin with a byte for the kind. Integers are big endian, so that keys are in numerical order.
const (
	keyPosition   = 'P' // → size u64, root [32], timesState
	keyStatement  = 'S' // statement digest → index u64, SHA-256 of the entry
	keyNote       = 'N' // note digest → index u64, logged-at i64, size u64, root [32]
	keyCovering   = 'T' // size of the checkpoint u64 → index u64; only if it is larger than those of earlier leaves
	keyCollateral = 'C' // collateral id → index u64
	keyPlatform   = 'F' // FMSPC "-" CA → see platformValue: the newest collateral
	keyVendorKey  = 'K' // key id, vendor → index u64, SPKI
	keyRelease    = 'R' // image digest, vendor, 0, index u64 → nothing
	keyWithdrawn  = 'W' // statement digest of the release, vendor → index u64: the first
)

// indexVersion is written with the position. An index of another version is built again.
const indexVersion = 1

// indexCache is the size of the cache for the index's blocks. A record takes about 100 bytes of the index.
const indexCache = 64 << 20

// chunk bounds how many leaves the follower indexes in one batch.
const chunk = 2048

// openIndex opens or creates the index. An index that contradicts the tree is thrown away.
func openIndex(ctx context.Context, l *Log) (*index, error) {
	x := &index{l: l, dir: filepath.Join(l.cfg.Dir, "index"), expected: make(map[record.Digest]record.Leaf), kicked: make(chan struct{}, 1)}
	for attempt := 0; ; attempt++ {
		if err := x.open(); err != nil {
			return nil, fmt.Errorf("index %s (it can be removed, and is then built again): %w", x.dir, err)
		}
		err := x.restore(ctx)
		if err == nil {
			return x, nil
		}
		x.db.Close()
		if attempt > 0 || !errors.Is(err, errStaleIndex) {
			return nil, fmt.Errorf("index %s: %w", x.dir, err)
		}
		l.logger.Warn("building the index again", "reason", err)
		if err := os.RemoveAll(x.dir); err != nil {
			return nil, err
		}
	}
}

var errStaleIndex = errors.New("index is not of this tree")

func (x *index) open() error {
	o := &pebble.Options{Logger: pebbleLogger{x.l}, FormatMajorVersion: pebble.FormatNewest, CacheSize: indexCache}
	for i := range o.Levels {
		// Most statements that are looked up aren't there. Ten bits for each key answer 99 in 100 of these without a read.
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(x.dir, o)
	x.db = db
	return err
}

// pebbleLogger drops pebble's chatter.
type pebbleLogger struct{ l *Log }

func (p pebbleLogger) Infof(string, ...any) {}
func (p pebbleLogger) Errorf(format string, args ...any) {
	p.l.logger.Error("index", "err", fmt.Sprintf(format, args...))
}

// Fatalf must not return: pebble calls it when it can't go on, such as when its write-ahead log can't be written. A
// restart builds on what it finds.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	p.l.logger.Error("index: the process can't go on", "err", fmt.Sprintf(format, args...))
	os.Exit(1)
}

// restore reads the position and checks it against the tree.
func (x *index) restore(ctx context.Context) error {
	pos := &position{root: checkpoint.EmptyRoot(), next: make(chan struct{})}
	x.times = timesState{}
	v, err := x.get([]byte{keyPosition})
	if err != nil {
		return err
	}
	if v != nil {
		if len(v) != 1+8+32+8*4 || v[0] != indexVersion {
			return fmt.Errorf("%w: it has another version", errStaleIndex)
		}
		pos.size = binary.BigEndian.Uint64(v[1:])
		copy(pos.root[:], v[9:])
		u := func(i int) uint64 { return binary.BigEndian.Uint64(v[41+8*i:]) }
		x.times = timesState{last: u(0), covered: u(1), any: u(2) == 1, other: u(3)}
	}
	size := x.l.tree.size.Load()
	if pos.size > size {
		return fmt.Errorf("%w: it has %d leaves, the tree %d", errStaleIndex, pos.size, size)
	}
	pos.whole = pos.size == size
	if x.rng, err = x.l.tree.rangeAt(ctx, pos.size); err != nil {
		return err
	}
	root, err := rangeRoot(x.rng)
	if err != nil {
		return err
	}
	if root != pos.root {
		return fmt.Errorf("%w: the root of %d leaves is %x, not %x", errStaleIndex, pos.size, root, pos.root)
	}
	x.pos.Store(pos)
	return nil
}

func (x *index) close() error { return x.db.Close() }

// position returns the size of the tree that the index knows all about, and its root.
func (x *index) position() (uint64, record.Digest) {
	p := x.pos.Load()
	return p.size, p.root
}

// whole reports whether the position is one at which the tree has stood, so that partial tiles of its width were written.
func (x *index) whole() bool {
	p := x.pos.Load()
	return p.whole
}

// kick tells the follower that there may be new leaves.
func (x *index) kick() {
	select {
	case x.kicked <- struct{}{}:
	default:
	}
}

// expect remembers parsed leaves that are about to be appended, so that the follower needn't parse them again.
func (x *index) expect(batch []*pending) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range batch {
		x.expected[record.Digest(p.entry.LeafHash())] = p.leaf
	}
}

func (x *index) appended(p *pending) {
	if p.err != nil {
		x.unexpect(p)
	}
	x.kick()
}

// unexpect forgets a leaf that wasn't appended after all.
func (x *index) unexpect(p *pending) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.expected, record.Digest(p.entry.LeafHash()))
}

// take returns the leaf with the given hash if it is expected, and forgets it.
func (x *index) take(h record.Digest) record.Leaf {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := x.expected[h]
	delete(x.expected, h)
	return l
}

// wait waits until everything below size is indexed.
func (x *index) wait(ctx context.Context, size uint64) error {
	for {
		p := x.pos.Load()
		if p.size >= size {
			return nil
		}
		select {
		case <-p.next:
		case <-ctx.Done():
			return ctx.Err()
		case <-x.l.haltedc:
			return ErrClosed
		case <-x.l.ended:
			return ErrClosed
		}
	}
}

// poll is how often the follower looks for new leaves if nobody tells it of any.
const poll = time.Second

// run follows the tree until ctx is done.
func (x *index) run(ctx context.Context) {
	interval := poll
	if x.l.shared != nil {
		interval = sharedPoll // others append, too
	}
	t := time.NewTicker(interval)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-x.kicked:
		case <-t.C:
		}
		if x.l.Err() != nil {
			return
		}
		if err := x.catchUp(ctx); err != nil && ctx.Err() == nil && x.l.Err() == nil {
			if !failing || x.l.shared == nil { // a storage that is away for an hour is worth two lines
				x.l.logger.Error("index is behind the tree", "err", err)
			}
			failing = true
			x.l.metrics.storageErrors.WithLabelValues("index").Inc()
		} else if failing && err == nil {
			failing = false
			x.l.logger.Info("index has caught up again")
		}
	}
}

// catchUp indexes all that is integrated now. Errors of the storage are returned, and nothing is lost by them. Where the
// leaves contradict the tree the log is halted, since it would sign what readers can't verify.
func (x *index) catchUp(ctx context.Context) error {
	x.run_.Lock()
	defer x.run_.Unlock()
	size, err := x.l.tree.refresh(ctx)
	if err != nil {
		return err
	}
	if x.dirty {
		// The last batch may have been written, whatever was reported.
		old := x.pos.Load()
		if err := x.restore(ctx); err != nil {
			if errors.Is(err, errStaleIndex) {
				x.l.halt(fmt.Errorf("index: %w", err))
			}
			return err
		}
		if err := x.l.times.load(ctx); err != nil {
			return err
		}
		x.dirty = false
		close(old.next)
		x.l.pub.kick()
	}
	logged := time.Now()
	for pos := x.pos.Load(); pos.size < size; pos = x.pos.Load() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := x.step(ctx, pos, min(size, pos.size+chunk), size); err != nil {
			x.dirty = true
			return err
		}
		if now := time.Now(); now.Sub(logged) > 5*time.Second {
			logged = now
			x.l.logger.Info("indexing", "position", x.pos.Load().size, "size", size)
		}
	}
	x.good.Store(time.Now().UnixNano())
	if x.sets && x.l.coll.ready.Load() {
		// Another process may have logged it, and records must use the newest.
		if err := x.l.coll.load(ctx); err != nil {
			return err
		}
		x.sets = false
	}
	return nil
}

// errHalt is wrapped by errors after which the log can't go on.
var errHalt = errors.New("halt")

// step indexes the leaves up to end.
func (x *index) step(ctx context.Context, pos *position, end, size uint64) error {
	b := &batch{x.db.NewBatch(), x, make(map[string]bool), make(map[string]platformValue)}
	defer b.Close()
	times := x.times
	var timeLeaves []timeLeaf
	err := x.l.tree.leaves(ctx, pos.size, end, func(i uint64, raw []byte) error {
		h := record.LeafHash(raw)
		if err := x.rng.Append(h[:], nil); err != nil {
			return err
		}
		leaf := x.take(h)
		if leaf == nil {
			var err error
			if leaf, err = record.ParseLeaf(append([]byte(nil), raw...)); err != nil {
				return fmt.Errorf("%w: leaf %d: %w", errHalt, i, err)
			}
		}
		if t, ok := leaf.(*record.TimeLeaf); ok {
			tl, err := x.applyTime(b, i, t, &times)
			if err != nil {
				return fmt.Errorf("%w: leaf %d: %w", errHalt, i, err)
			}
			timeLeaves = append(timeLeaves, tl)
			return nil
		}
		times.other = i + 1
		return x.apply(ctx, b, i, leaf)
	})
	if errors.Is(err, errHalt) {
		x.l.halt(err)
	}
	if err != nil {
		return err
	}
	root, err := rangeRoot(x.rng)
	if err != nil {
		return err
	}
	// The root of the entries must be the root of the tiles. Tessera computed the one from the other before it wrote
	// either; this is what it wrote.
	if tiles, err := x.l.tree.root(ctx, end); err != nil {
		return err
	} else if tiles != root {
		err := fmt.Errorf("%w: the root of the first %d entries is %x, but that of their tiles is %x", ErrInconsistent, end, root, tiles)
		x.l.halt(err)
		return err
	}
	v := append([]byte{indexVersion}, u64(end)...)
	v = append(v, root[:]...)
	var anyTime uint64
	if times.any {
		anyTime = 1
	}
	for _, n := range []uint64{times.last, times.covered, anyTime, times.other} {
		v = append(v, u64(n)...)
	}
	if err := b.Set([]byte{keyPosition}, v, nil); err != nil {
		return err
	}
	if err := x.commit(b.Batch); err != nil {
		return err
	}
	x.times = times
	x.sets = x.sets || len(b.platforms) > 0 && x.l.shared != nil
	for _, t := range timeLeaves {
		x.l.times.logged(t)
	}
	x.l.times.progress(times)
	x.pos.Store(&position{end, root, end == size, make(chan struct{})})
	close(pos.next)
	x.l.pub.kick()
	return nil
}

func (x *index) commit(b *pebble.Batch) error {
	if f := x.l.cfg.batch; f != nil {
		if err := f("before"); err != nil {
			return err
		}
	}
	if err := b.Commit(pebble.NoSync); err != nil {
		return err
	}
	if f := x.l.cfg.batch; f != nil {
		return f("after")
	}
	return nil
}

// get returns a copy of a value, nil if there is none.
func (x *index) get(key []byte) ([]byte, error) { return get(x.db, key) }

func get(r pebble.Reader, key []byte) ([]byte, error) {
	v, c, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	defer c.Close()
	return append([]byte{}, v...), nil
}

func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func digestKey(kind byte, d record.Digest) []byte { return append([]byte{kind}, d[:]...) }

func vendorKeyKey(vendor, keyid string) []byte {
	return append(append([]byte{keyVendorKey}, keyid...), "\x00"+vendor...)
}

func releasePrefix(vendor string, image record.Digest) []byte {
	return append(append(digestKey(keyRelease, image), vendor...), 0)
}

func withdrawnKey(vendor string, release record.Digest) []byte {
	return append(digestKey(keyWithdrawn, release), vendor...)
}

// A batch is what a step writes.
type batch struct {
	*pebble.Batch
	x *index

	// What was written so far, since a batch can't be read.
	wrote     map[string]bool // keys that setFirst has set
	platforms map[string]platformValue
}

// setFirst sets a key unless it is there, in the index or in the batch: the lowest index is the one that counts.
func (b *batch) setFirst(key []byte, value ...[]byte) error {
	if b.wrote[string(key)] {
		return nil
	}
	if old, err := b.x.get(key); err != nil || old != nil {
		return err
	}
	b.wrote[string(key)] = true
	return b.Set(key, slices.Concat(value...), nil)
}

// apply writes what a leaf other than a time leaf adds to the index.
func (x *index) apply(ctx context.Context, b *batch, i uint64, leaf record.Leaf) error {
	var e *record.Entry
	switch leaf := leaf.(type) {
	case *record.CollateralLeaf:
		return x.applyCollateral(ctx, b, i, leaf)
	case *record.RecordLeaf:
		e = leaf.Entry
	case *record.VendorLeaf:
		e = leaf.Entry
	default:
		return fmt.Errorf("%w: leaf %d of unexpected type %T", errHalt, i, leaf)
	}
	sum := sha256.Sum256(e.Bytes())
	digest := e.StatementDigest()
	if err := b.setFirst(digestKey(keyStatement, digest), u64(i), sum[:]); err != nil {
		return err
	}
	st := e.Statement()
	switch {
	case st.VendorKey != nil:
		k := &st.VendorKey.Key
		return b.setFirst(vendorKeyKey(st.Vendor, k.KeyID), u64(i), record.SPKI(k.PublicKey))
	case st.Release != nil:
		return b.Set(append(releasePrefix(st.Vendor, st.Release.Image.SHA256), u64(i)...), nil, nil)
	case st.Withdrawn != nil:
		return b.setFirst(withdrawnKey(st.Vendor, st.Withdrawn.Statement), u64(i))
	}
	return nil
}

// A timeLeaf is what the rest of the log wants to know of a time leaf.
type timeLeaf struct {
	index    uint64
	loggedAt time.Time
	cp       checkpoint.Checkpoint
	note     []byte
}

// applyTime writes what a time leaf adds to the index.
func (x *index) applyTime(b *batch, i uint64, leaf *record.TimeLeaf, t *timesState) (timeLeaf, error) {
	tl, err := parseTimeLeaf(i, leaf)
	if err != nil {
		return tl, err
	}
	if err := b.setFirst(digestKey(keyNote, leaf.NoteDigest()), u64(i), u64(uint64(leaf.LoggedAt)), u64(tl.cp.Size), tl.cp.Root[:]); err != nil {
		return tl, err
	}
	if !t.any || tl.cp.Size > t.covered {
		t.covered = tl.cp.Size
		if err := b.Set(append([]byte{keyCovering}, u64(tl.cp.Size)...), u64(i), nil); err != nil {
			return tl, err
		}
	}
	t.last, t.any = i, true
	return tl, nil
}

func parseTimeLeaf(i uint64, leaf *record.TimeLeaf) (timeLeaf, error) {
	n, err := checkpoint.ParseNote(leaf.Note)
	if err != nil {
		return timeLeaf{}, err
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		return timeLeaf{}, err
	}
	return timeLeaf{i, time.UnixMilli(leaf.LoggedAt), cp, leaf.Note}, nil
}

// indexAt returns the index at the start of a value.
func (x *index) indexAt(key []byte) (uint64, bool, error) {
	v, err := x.get(key)
	if v == nil || err != nil {
		return 0, false, err
	}
	return binary.BigEndian.Uint64(v), true, nil
}

// statement returns where a statement is, and the SHA-256 of the entry that holds it.
func (x *index) statement(d record.Digest) (i uint64, entry record.Digest, ok bool, err error) {
	v, err := x.get(digestKey(keyStatement, d))
	if v == nil || err != nil {
		return 0, entry, false, err
	}
	return binary.BigEndian.Uint64(v), record.Digest(v[8:]), true, nil
}

// note returns what is known of the time leaf with a note.
func (x *index) note(d record.Digest) (t timeLeaf, ok bool, err error) {
	v, err := x.get(digestKey(keyNote, d))
	if v == nil || err != nil {
		return t, false, err
	}
	t.index = binary.BigEndian.Uint64(v)
	t.loggedAt = time.UnixMilli(int64(binary.BigEndian.Uint64(v[8:])))
	t.cp = checkpoint.Checkpoint{Origin: x.l.cfg.Origin, Size: binary.BigEndian.Uint64(v[16:]), Root: [32]byte(v[24:])}
	return t, true, nil
}

// covering returns the first time leaf whose checkpoint covers the leaf at an index.
func (x *index) covering(i uint64) (uint64, bool, error) {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: append([]byte{keyCovering}, u64(i+1)...), UpperBound: []byte{keyCovering + 1}})
	if err != nil {
		return 0, false, err
	}
	defer it.Close()
	if !it.First() {
		return 0, false, it.Error()
	}
	return binary.BigEndian.Uint64(it.Value()), true, nil
}

// release returns the newest release of a vendor for an image among the leaves before an index.
func (x *index) release(vendor string, image record.Digest, before uint64) (uint64, bool, error) {
	prefix := releasePrefix(vendor, image)
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: append(slices.Clone(prefix), u64(before)...)})
	if err != nil {
		return 0, false, err
	}
	defer it.Close()
	if !it.Last() {
		return 0, false, it.Error()
	}
	return binary.BigEndian.Uint64(it.Key()[len(prefix):]), true, nil
}

// vendorKey returns where a release key of a vendor is, and the key.
func (x *index) vendorKey(vendor, keyid string) (i uint64, spki []byte, ok bool, err error) {
	if b, err := hex.DecodeString(keyid); err != nil || len(b) != sha256.Size {
		return 0, nil, false, nil // it can't be a key id, and must not run into the vendor
	}
	v, err := x.get(vendorKeyKey(vendor, keyid))
	if v == nil || err != nil {
		return 0, nil, false, err
	}
	return binary.BigEndian.Uint64(v), v[8:], true, nil
}

// platforms returns the newest collateral of every kind of platform.
func (x *index) platforms() ([]platformValue, error) {
	it, err := x.db.NewIter(&pebble.IterOptions{LowerBound: []byte{keyPlatform}, UpperBound: []byte{keyPlatform + 1}})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var v []platformValue
	for ok := it.First(); ok; ok = it.Next() {
		v = append(v, parsePlatformValue(it.Value()))
	}
	return v, it.Error()
}
