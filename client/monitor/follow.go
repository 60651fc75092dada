package monitor

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/record"
)

// Bounds of what is under way: entries of a window are audited in one batch.
const (
	windowLeaves = 512
	windowBytes  = 4 << 20
)

// A lie is an error that is a finding: the log contradicts what it signed, and there is no going on from there.
type lie struct {
	f *Finding
	// tiles are set if it is about the log's hashes, which didn't prove the tree: its entries may yet.
	tiles *remoteTiles
}

func (l *lie) Error() string { return l.f.Message }

// A bundled is an entry bundle that is proven to be in the tree.
type bundled struct {
	n      uint64
	leaves [][]byte // in buf, which is free once they are copied
	hashes []tlog.Hash
	buf    []byte
	tile   *Finding // the tile of these hashes that the log serves is another
}

// catchUp audits all leaves of the newest checkpoint. It fetches ahead, parses and verifies on all processors, and commits
// in order. An error is one of the network, a *lie, or one of the database; what was committed before it stays.
func (m *Monitor) catchUp(ctx context.Context) error {
	target := m.st.Newest
	if m.st.Audited >= target.Size {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	// A commit waits for the disk: there is work for two windows meanwhile.
	fetched, parsed, verified := make(chan []*item, 1), make(chan []*item, 1), make(chan []*item, 2)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	fail := func(err error) {
		if err == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}
	// A stage that fails closes what it sends to, so that what comes before is still committed; what is sent to it is
	// drained, since nobody sends after ctx is done.
	stage := func(from <-chan []*item, to chan<- []*item, f func([]*item) error) {
		wg.Go(func() {
			defer close(to)
			for items := range from {
				if err := f(items); err != nil {
					fail(err)
					cancel()
					for range from {
					}
					return
				}
				to <- items
			}
		})
	}
	swapped := make(chan *Finding, 64)
	wg.Go(func() {
		defer close(fetched)
		fail(m.fetch(ctx, target, fetched, swapped))
	})
	stage(fetched, parsed, func(items []*item) error {
		m.parallel(items, func(it *item) error { m.parse(it); return nil })
		for _, it := range items {
			if err := m.facts.learn(ctx, it); err != nil {
				return err
			}
		}
		return nil
	})
	stage(parsed, verified, func(items []*item) error { return m.parallel(items, m.judge) })

	var failed error
	started, from := time.Now(), m.st.Audited
	for items := range verified {
		if failed != nil {
			continue
		}
		if failed = m.a.window(ctx, items); failed != nil {
			cancel()
			continue
		}
		m.live.Lock()
		m.live.rate = float64(m.st.Audited-from) / max(time.Since(started).Seconds(), 1e-3)
		m.live.Unlock()
	}
	cancel()
	wg.Wait()
	close(swapped)
	if failed != nil {
		if m.failed == nil { // such as a leaf that had to be read again, and couldn't
			m.failed = m.load()
		}
		return failed
	}
	if err := m.report(slices.Collect(chanSeq(swapped))...); err != nil {
		return err
	}
	if len(errs) > 0 {
		return errs[0] // the others follow from it
	}
	if m.st.Audited < target.Size {
		return nil
	}
	err := m.a.settle()
	if err != nil && m.failed == nil {
		m.failed = m.load()
	}
	return err
}

func chanSeq[T any](c <-chan T) func(func(T) bool) {
	return func(yield func(T) bool) {
		for v := range c {
			if !yield(v) {
				return
			}
		}
	}
}

// report commits findings that aren't about leaves.
func (m *Monitor) report(found ...*Finding) error {
	if len(found) == 0 {
		return nil
	}
	c := m.begin()
	defer c.b.Close()
	for _, f := range found {
		if _, err := c.add(f); err != nil {
			return err
		}
	}
	return c.commit()
}

// parallel calls f for all items, on all processors, and returns the error for the first item that has one.
func (m *Monitor) parallel(items []*item, f func(*item) error) error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := 0
	for range min(m.cfg.Workers, len(items)) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(items) {
					return
				}
				errs[i] = f(items[i])
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// fetch reads the leaves from what is audited to the target, proves that they are in its tree, and sends them in windows.
// It sends nothing that isn't proven.
func (m *Monitor) fetch(ctx context.Context, target seenCheckpoint, to chan<- []*item, swapped chan<- *Finding) error {
	next := m.st.Audited
	scratch, err := openTree(m.db, next) // as the audit will see it
	if err != nil {
		return err
	}
	first, last := next/width, (target.Size-1)/width
	expect := &expectations{m: m, target: target, first: first}

	// Requests under way, in order.
	type answer struct {
		b   *bundled
		err error
	}
	ahead := make(chan chan answer, m.cfg.Reads-1)
	reading, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() {
		defer close(ahead)
		for n := first; n <= last; n++ {
			c := make(chan answer, 1)
			select {
			case ahead <- c:
			case <-reading.Done():
				return
			}
			// The hash that the bundle must have is read here, in order: one request is for 256 bundles.
			want, err := expect.full(reading, n)
			if err != nil {
				c <- answer{err: err}
				return
			}
			wg.Go(func() {
				b, err := m.readBundle(reading, target, n, want)
				c <- answer{b, err}
			})
		}
	})

	var items []*item
	size := 0
	send := func() bool {
		if len(items) == 0 {
			return true
		}
		select {
		case to <- items:
			items, size = nil, 0
			return true
		case <-ctx.Done():
			return false
		}
	}
	for c := range ahead {
		var a answer
		select {
		case a = <-c:
		case <-ctx.Done():
			return ctx.Err()
		}
		if a.err == nil && len(a.b.leaves) < width {
			a.err = m.proveLast(ctx, target, scratch, a.b, next)
		}
		if a.err != nil {
			send()
			return a.err
		}
		if m.cfg.OnBundle != nil {
			m.cfg.OnBundle(a.b.n, a.b.leaves)
		}
		if a.b.tile != nil {
			select {
			case swapped <- a.b.tile:
			default: // there are many; one is as good as a thousand
			}
		}
		for i, h := range a.b.hashes {
			index := a.b.n*width + uint64(i)
			if index < next {
				continue
			}
			scratch.append(h)
			// A copy, so that a record that is remembered doesn't keep its bundle, which is 256 times as large.
			items = append(items, &item{index: index, raw: slices.Clone(a.b.leaves[i]), hash: record.Digest(h)})
			size += len(a.b.leaves[i])
		}
		m.putBuffer(a.b.buf)
		clear(scratch.full)
		if len(items) >= m.windowLeaves || size >= windowBytes {
			if !send() {
				return ctx.Err()
			}
		}
	}
	if !send() {
		return ctx.Err()
	}
	return ctx.Err()
}

// readBundle reads the n-th entry bundle as of the target, and checks everything about it that can be checked by itself.
// want is the root of its hashes, if it is a full one.
func (m *Monitor) readBundle(ctx context.Context, target seenCheckpoint, n uint64, want *tlog.Hash) (*bundled, error) {
	w := int(min(target.Size-n*width, width))
	raw, err := m.cfg.Log.RawEntriesInto(ctx, n, w, m.getBuffer())
	if err != nil {
		return nil, m.unserved(err, raw.Path, n*width, target)
	}
	entries, whole := client.SplitEntries(raw.Body)
	switch {
	case len(entries) > raw.Width || len(entries) == raw.Width && !whole:
		return nil, &lie{f: served(KindSurplusEntries, raw, target, "%s has more in it than %d entries", raw.Path, raw.Width)}
	case len(entries) < raw.Width:
		return nil, &lie{f: served(KindMalformed, raw, target, "%s has %d whole entries, want %d", raw.Path, len(entries), raw.Width)}
	}
	b := &bundled{n: n, leaves: entries[:w], hashes: make([]tlog.Hash, w), buf: raw.Body}
	for i, e := range b.leaves {
		b.hashes[i] = tlog.Hash(record.LeafHash(e))
	}
	if want != nil && reduce(slices.Clone(b.hashes)) != *want {
		return nil, m.localise(ctx, target, b, raw)
	}
	tile, err := m.cfg.Log.RawTile(ctx, 0, n, w)
	if err != nil {
		return nil, m.unserved(err, tile.Path, n*width, target)
	}
	own := joinHashes(b.hashes)
	if len(tile.Body) != tile.Width*hashSize || !bytes.Equal(tile.Body[:len(own)], own) {
		b.tile = served(KindSwappedTile, tile, target, "%s doesn't hold the hashes of the log's entries, which are those of the tree", tile.Path)
	}
	return b, nil
}

// Bundles are read into buffers that are used again: new ones of a megabyte or two would have to be cleared, and the
// collector would run for them all the time.
const maxBuffer = 4 << 20 // larger ones aren't kept

func (m *Monitor) getBuffer() []byte {
	select {
	case b := <-m.buffers:
		return b
	default:
		return nil
	}
}

func (m *Monitor) putBuffer(b []byte) {
	if cap(b) > maxBuffer {
		return
	}
	select {
	case m.buffers <- b[:0]:
	default:
	}
}

// unserved makes a lie of the log's refusal to serve what a checkpoint covers.
func (m *Monitor) unserved(err error, path string, index uint64, target seenCheckpoint) error {
	if !client.Refused(err) {
		return err
	}
	f := newFinding(KindMissingEntries, path, "%s isn't served, though the checkpoint of size %d covers it: %s", path, target.Size, clean(err.Error())).at(index)
	f.Evidence = &Evidence{Notes: []string{target.Note}, Path: path}
	return &lie{f: f}
}

// served is a finding about what a log serves.
func served(kind Kind, raw client.Raw, target seenCheckpoint, format string, args ...any) *Finding {
	f := newFinding(kind, raw.Path+" "+fmt.Sprintf("%x", digestShort(raw.Body)), format, args...)
	f.Evidence = &Evidence{Notes: []string{target.Note}, Path: raw.Path, Served: slices.Clone(raw.Body[:min(len(raw.Body), maxServed)])}
	return f
}

func digestShort(b []byte) []byte {
	h := record.LeafHash(b)
	return h[:16]
}

// localise finds out which entry of a bundle isn't the one in the tree, by the log's own hashes, which are proven to be
// in it.
func (m *Monitor) localise(ctx context.Context, target seenCheckpoint, b *bundled, raw client.Raw) error {
	var indexes []int64
	for i := range b.hashes {
		indexes = append(indexes, tlog.StoredHashIndex(0, int64(b.n*width)+int64(i)))
	}
	r := &remoteTiles{m: m, ctx: ctx, target: target}
	hashes, err := r.read(indexes)
	if r.err != nil {
		return r.err
	}
	if err != nil {
		return &lie{f: served(KindWrongRoot, raw, target, "the entries in %s don't have the root in the checkpoint of size %d, and neither do the hashes that the log serves: %s", raw.Path, target.Size, clean(err.Error()))}
	}
	for i, h := range hashes {
		if h == b.hashes[i] {
			continue
		}
		index := b.n*width + uint64(i)
		f := newFinding(KindChangedEntry, fmt.Sprintf("leaf %d %x", index, b.hashes[i]), "%s has another entry at index %d than the tree of size %d: its leaf hash is %x, want %x", raw.Path, index, target.Size, b.hashes[i], h).at(index)
		f.Evidence = &Evidence{Notes: []string{target.Note}, Path: raw.Path, Served: slices.Clone(b.leaves[i][:min(len(b.leaves[i]), maxServed)])}
		return &lie{f: f}
	}
	return &lie{f: served(KindWrongRoot, raw, target, "the entries in %s give another root than the checkpoint of size %d, though all hashes agree", raw.Path, target.Size)}
}

// proveLast proves the bundle at the end of the tree: with it, the root must be the checkpoint's.
func (m *Monitor) proveLast(ctx context.Context, target seenCheckpoint, scratch *hashTree, b *bundled, next uint64) error {
	t := scratch.clone()
	for i, h := range b.hashes {
		if b.n*width+uint64(i) >= next {
			t.append(h)
		}
	}
	root, err := t.root(t.size)
	if err != nil {
		return err
	}
	own, err := t.tile(tileID{0, b.n}, len(b.hashes))
	if err != nil {
		return err
	}
	if t.size == target.Size && root == target.Root && bytes.Equal(own, joinHashes(b.hashes)) {
		return nil
	}
	return m.localise(ctx, target, b, client.Raw{Path: bundlePath(b), Body: nil})
}

func bundlePath(b *bundled) string { return client.EntriesPath(b.n, len(b.hashes)) }

// clone returns a tree that can be appended to without changing t. What isn't at its edge can't be read from it.
func (t *hashTree) clone() *hashTree {
	c := &hashTree{size: t.size, full: make(map[tileID][]byte), db: t.db}
	for _, e := range t.edge {
		c.edge = append(c.edge, slices.Clone(e))
	}
	return c
}

// expectations has the roots that full entry bundles must have to be in the target's tree.
type expectations struct {
	m      *Monitor
	target seenCheckpoint
	first  uint64

	from   uint64
	hashes []tlog.Hash // of bundles from on
}

// full returns the root of the n-th bundle, nil if it isn't full. It is to be called for each n in order.
func (x *expectations) full(ctx context.Context, n uint64) (*tlog.Hash, error) {
	if n >= x.target.Size/width {
		return nil, nil
	}
	if n >= x.from+uint64(len(x.hashes)) {
		if err := x.read(ctx, n); err != nil {
			return nil, err
		}
	}
	return &x.hashes[n-x.from], nil
}

// read reads the roots of the bundles from n to the end of its tile, and proves them by the target's root.
func (x *expectations) read(ctx context.Context, n uint64) error {
	if x.m.scanned != nil && x.m.scanned.target == x.target.Root {
		x.from, x.hashes = x.m.scanned.from, x.m.scanned.hashes
		return nil
	}
	var indexes []int64
	for i := n; i < min((n/width+1)*width, x.target.Size/width); i++ {
		indexes = append(indexes, tlog.StoredHashIndex(8, int64(i)))
	}
	r := &remoteTiles{m: x.m, ctx: ctx, target: x.target}
	hashes, err := r.read(indexes)
	if r.err != nil {
		return r.err
	}
	if err != nil {
		return &lie{r.swapped(nil), r}
	}
	x.from, x.hashes = n, hashes
	return nil
}

// remoteTiles reads tiles from the log, for package tlog, which proves them.
type remoteTiles struct {
	m      *Monitor
	ctx    context.Context
	target seenCheckpoint
	err    error // of reading
	all    []servedTile
}

type servedTile struct {
	id  tileID
	w   int
	raw client.Raw
}

// read returns stored hashes of the target's tree. If err isn't of reading, r.err is nil: then the tiles aren't those of
// the tree.
func (r *remoteTiles) read(indexes []int64) ([]tlog.Hash, error) {
	return r.reader().ReadHashes(indexes)
}

func (r *remoteTiles) reader() tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: int64(r.target.Size), Hash: tlog.Hash(r.target.Root)}, r)
}

func (r *remoteTiles) Height() int                     { return 8 }
func (r *remoteTiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (r *remoteTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		raw, err := r.m.cfg.Log.RawTile(r.ctx, t.L, uint64(t.N), t.W)
		if err != nil {
			r.err = r.m.unserved(err, raw.Path, uint64(t.N)<<(8*(t.L+1)), r.target)
			return nil, err
		}
		r.all = append(r.all, servedTile{tileID{uint8(t.L), uint64(t.N)}, t.W, raw})
		if len(raw.Body) != raw.Width*hashSize {
			return nil, fmt.Errorf("%s has %d bytes, want %d", raw.Path, len(raw.Body), raw.Width*hashSize)
		}
		data[i] = raw.Body[:t.W*hashSize]
	}
	return data, nil
}

// swapped is the finding that a tile isn't that of the tree. If that isn't nil, it says which.
func (r *remoteTiles) swapped(tree *hashTree) *Finding {
	t := r.all[len(r.all)-1]
	for _, s := range r.all {
		if tree == nil {
			break
		}
		if own, err := tree.tile(s.id, s.w); err == nil && !bytes.HasPrefix(s.raw.Body, own) {
			t = s
			break
		}
	}
	return served(KindSwappedTile, t.raw, r.target, "%s doesn't hold the hashes of the log's entries, which are those of the tree", t.raw.Path)
}

// A scan is what the entries alone say about a checkpoint's tree, for when the log's hashes say nothing.
type scan struct {
	target Hash // root
	from   uint64
	hashes []tlog.Hash // roots of full bundles
}

// scan computes the root of a checkpoint from what is audited and the entries that follow, without the log's hashes,
// which r has read. It returns a *lie if that isn't the checkpoint's, else it reports those hashes.
func (m *Monitor) scan(ctx context.Context, target seenCheckpoint, r *remoteTiles) error {
	t, err := openTree(m.db, m.st.Audited)
	if err != nil {
		return err
	}
	first := t.size / width
	s := &scan{target: target.Root, from: first}
	for n := first; n*width < target.Size; n++ {
		w := int(min(target.Size-n*width, width))
		raw, err := m.cfg.Log.RawEntries(ctx, n, w)
		if err != nil {
			return m.unserved(err, raw.Path, n*width, target)
		}
		entries, _ := client.SplitEntries(raw.Body)
		if len(entries) < w {
			return &lie{f: served(KindMalformed, raw, target, "%s has %d whole entries, want %d", raw.Path, len(entries), raw.Width)}
		}
		hashes := make([]tlog.Hash, w)
		for i := range hashes {
			hashes[i] = tlog.Hash(record.LeafHash(entries[i]))
			if n*width+uint64(i) >= t.size {
				t.append(hashes[i])
			}
		}
		maps.DeleteFunc(t.full, func(id tileID, _ []byte) bool { return id.level == 0 })
		if w == width {
			s.hashes = append(s.hashes, reduce(hashes))
		}
	}
	root, err := t.root(t.size)
	if err != nil {
		return err
	}
	if root != target.Root {
		f := newFinding(KindWrongRoot, fmt.Sprintf("size %d root %v", target.Size, target.Root), "the root of the log's first %d entries is %x, but the checkpoint has %v, and the hashes that the log serves don't tell why", target.Size, root, target.Root)
		f.Evidence = &Evidence{Notes: []string{m.st.Newest.Note, target.Note}}
		return &lie{f: f}
	}
	m.scanned = s
	return m.report(r.swapped(t))
}
