package client

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

const (
	// tileHeight makes tiles of 256 hashes: "Full tiles MUST be exactly 256 hashes wide" (c2sp.org/tlog-tiles).
	tileHeight = 8
	tileWidth  = 1 << tileHeight

	// maxEntryBundle is the size of the largest entry bundle: 256 entries of the largest size, each with its length.
	maxEntryBundle = tileWidth * (2 + record.MaxLeaf)

	// parallelReads bounds the requests that one call has under way.
	parallelReads = 8
)

// A Tree is a log as of one checkpoint. Whatever it returns is proven to be in that checkpoint's tree. It can be used
// concurrently.
type Tree struct {
	c       *Client
	note    []byte
	cp      checkpoint.Checkpoint
	checked *checkpoint.Checked // nil without a log policy
}

// Tree returns the log as of its newest checkpoint, verified under the log policy if there is one.
func (c *Client) Tree(ctx context.Context) (*Tree, error) {
	note, err := c.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	return c.TreeAt(note)
}

// TreeAt returns the log as of a checkpoint that the log has published, a signed note. It verifies the note under the
// log policy if there is one. Tiles are read from the log as they are needed.
func (c *Client) TreeAt(note []byte) (*Tree, error) {
	cp, checked, err := c.checkNote(note)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if cp.Size > math.MaxInt64/4 {
		return nil, fmt.Errorf("checkpoint: a tree of %d leaves", cp.Size) // package tlog computes with int64
	}
	if cp.Size == 0 && cp.Root != checkpoint.EmptyRoot() {
		return nil, errors.New("checkpoint: the root of size 0 is not that of the empty tree")
	}
	return &Tree{c: c, note: note, cp: cp, checked: checked}, nil
}

// Note returns the checkpoint's signed note. It must not be modified.
func (t *Tree) Note() []byte { return t.note }

// Checkpoint returns the checkpoint.
func (t *Tree) Checkpoint() checkpoint.Checkpoint { return t.cp }

// Checked returns what the checkpoint's signatures say, or nil if the client has no log policy.
func (t *Tree) Checked() *checkpoint.Checked { return t.checked }

// Leaf returns the leaf at index.
func (t *Tree) Leaf(ctx context.Context, index uint64) ([]byte, error) {
	for leaf, err := range t.Leaves(ctx, index, index+1) {
		return leaf, err
	}
	return nil, fmt.Errorf("index %d is not in the tree of size %d", index, t.cp.Size)
}

// Leaves returns the leaves from index from up to, not including, index to, which is at most the size of the tree. It
// stops after an error. Leaves may be kept, but not modified.
func (t *Tree) Leaves(ctx context.Context, from, to uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if from > to || to > t.cp.Size {
			yield(nil, fmt.Errorf("leaves from %d to %d are not in the tree of size %d", from, to, t.cp.Size))
			return
		}
		for from < to {
			n := from / tileWidth
			leaves, err := t.bundle(ctx, n, from%tileWidth, min(to-n*tileWidth, tileWidth))
			if err != nil {
				yield(nil, err)
				return
			}
			for _, leaf := range leaves {
				if !yield(leaf, nil) {
					return
				}
				from++
			}
		}
	}
}

// bundle returns the entries from lo up to hi of the n-th entry bundle, verified.
func (t *Tree) bundle(ctx context.Context, n, lo, hi uint64) ([][]byte, error) {
	width := int(min(t.cp.Size-n*tileWidth, tileWidth))
	tile := tlog.Tile{H: tileHeight, L: -1, N: int64(n), W: width}

	indexes := make([]int64, 0, hi-lo)
	for i := lo; i < hi; i++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, int64(n*tileWidth+i)))
	}
	hashes, err := t.hashes(ctx, indexes)
	if err != nil {
		return nil, err
	}
	verified := func(b []byte) ([][]byte, error) {
		entries, err := splitEntries(b, width)
		if err != nil {
			return nil, err
		}
		for i, e := range entries[lo:hi] {
			if record.LeafHash(e) != [32]byte(hashes[i]) {
				return nil, fmt.Errorf("entry %d is not the one in the tree", n*tileWidth+lo+uint64(i))
			}
		}
		return entries[lo:hi], nil
	}
	// A cache can be damaged: then the log is asked after all.
	if b, ok := t.c.tiles.get(t.cp.Origin, tile); ok {
		if entries, err := verified(b); err == nil {
			return entries, nil
		}
	}
	b, err := t.fetchTile(ctx, tile, maxEntryBundle)
	if err != nil {
		return nil, err
	}
	entries, err := verified(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tilePath(tile), err)
	}
	// Only the part that was asked for is verified; the cache verifies nothing, and whoever reads from it does.
	t.c.tiles.put(t.cp.Origin, tile, b)
	return entries, nil
}

// splitEntries returns the first width entries in b, an entry bundle: "sequences of big-endian uint16 length-prefixed
// log entries" (c2sp.org/tlog-tiles). b can be a longer bundle, when a partial one is not served any more.
func splitEntries(b []byte, width int) ([][]byte, error) {
	entries := make([][]byte, 0, width)
	for len(b) > 0 && len(entries) < tileWidth {
		if len(b) < 2 {
			return nil, errors.New("truncated entry bundle")
		}
		n := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+n {
			return nil, errors.New("truncated entry bundle")
		}
		entries = append(entries, b[2:2+n:2+n])
		b = b[2+n:]
	}
	if len(b) > 0 || len(entries) < width {
		return nil, fmt.Errorf("entry bundle with %d entries and %d bytes left over, want %d entries", len(entries), len(b), width)
	}
	return entries[:width], nil
}

// Proof returns a proof for the leaf at index under the tree's checkpoint. Its Extra is the leaf.
func (t *Tree) Proof(ctx context.Context, index uint64) (*checkpoint.Proof, error) {
	leaf, err := t.Leaf(ctx, index)
	if err != nil {
		return nil, err
	}
	hashes, err := t.inclusion(ctx, index)
	if err != nil {
		return nil, err
	}
	p := &checkpoint.Proof{Extra: leaf, Index: index, Hashes: hashes, Checkpoint: t.note}
	if err := checkpoint.VerifyInclusion(record.LeafHash(leaf), t.cp.Root, index, t.cp.Size, hashes); err != nil {
		return nil, err
	}
	return p, nil
}

// inclusion returns the inclusion proof for the leaf at index.
func (t *Tree) inclusion(ctx context.Context, index uint64) ([][32]byte, error) {
	if index >= t.cp.Size {
		return nil, fmt.Errorf("index %d is not in the tree of size %d", index, t.cp.Size)
	}
	proof, err := tlog.ProveRecord(int64(t.cp.Size), int64(index), t.reader(ctx))
	if err != nil {
		return nil, fmt.Errorf("inclusion proof of index %d: %w", index, err)
	}
	return arrays(proof), nil
}

// Consistency returns the proof that the tree of size leaves is a prefix of t: nothing if size is 0 or t's own.
func (t *Tree) Consistency(ctx context.Context, size uint64) ([][32]byte, error) {
	if size > t.cp.Size {
		return nil, fmt.Errorf("size %d is beyond the tree of size %d", size, t.cp.Size)
	}
	if size == 0 || size == t.cp.Size {
		return nil, nil
	}
	proof, err := tlog.ProveTree(int64(t.cp.Size), int64(size), t.reader(ctx))
	if err != nil {
		return nil, fmt.Errorf("consistency proof from size %d: %w", size, err)
	}
	return arrays(proof), nil
}

// Root returns the root of the tree's first size leaves, computed from the tiles.
func (t *Tree) Root(ctx context.Context, size uint64) ([32]byte, error) {
	if size > t.cp.Size {
		return [32]byte{}, fmt.Errorf("size %d is beyond the tree of size %d", size, t.cp.Size)
	}
	if size == 0 {
		return checkpoint.EmptyRoot(), nil
	}
	h, err := tlog.TreeHash(int64(size), t.reader(ctx))
	if err != nil {
		return [32]byte{}, fmt.Errorf("root of size %d: %w", size, err)
	}
	return h, nil
}

func arrays(hashes []tlog.Hash) [][32]byte {
	a := make([][32]byte, len(hashes))
	for i, h := range hashes {
		a[i] = h
	}
	return a
}

// hashes returns stored hashes that are proven to be in the tree.
func (t *Tree) hashes(ctx context.Context, indexes []int64) ([]tlog.Hash, error) {
	return t.reader(ctx).ReadHashes(indexes)
}

// reader returns a reader of hashes that verifies tiles against the root.
func (t *Tree) reader(ctx context.Context) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		tree := tlog.Tree{N: int64(t.cp.Size), Hash: t.cp.Root}
		r := &tileReader{t: t, ctx: ctx}
		hashes, err := tlog.TileHashReader(tree, r).ReadHashes(indexes)
		if err != nil && r.cached && ctx.Err() == nil {
			// The cache is not trusted, and if it is damaged, not needed.
			r = &tileReader{t: t, ctx: ctx, noCache: true}
			hashes, err = tlog.TileHashReader(tree, r).ReadHashes(indexes)
		}
		return hashes, err
	})
}

// tileReader is a [tlog.TileReader], whose methods don't take the context of the call that they serve.
type tileReader struct {
	t       *Tree
	ctx     context.Context
	noCache bool // ask the log for all tiles
	cached  bool // whether a tile came from the cache

	fetched []bool // by index into the tiles of the last ReadTiles: whether the log was asked
}

func (r *tileReader) Height() int { return tileHeight }

func (r *tileReader) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	r.fetched = make([]bool, len(tiles))
	g, ctx := errgroup.WithContext(r.ctx)
	g.SetLimit(parallelReads)
	for i, tile := range tiles {
		size := tile.W * tlog.HashSize
		if b, ok := r.t.c.tiles.get(r.t.cp.Origin, tile); ok && !r.noCache && len(b) == size {
			data[i], r.cached = b, true
			continue
		}
		r.fetched[i] = true
		g.Go(func() error {
			b, err := r.t.fetchTile(ctx, tile, tileWidth*tlog.HashSize)
			if err != nil {
				return err
			}
			if len(b) < size || len(b)%tlog.HashSize != 0 {
				return fmt.Errorf("%s: %d bytes, want %d", tilePath(tile), len(b), size)
			}
			data[i] = b[:size:size]
			return nil
		})
	}
	return data, g.Wait()
}

func (r *tileReader) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	for i, tile := range tiles {
		if r.fetched[i] {
			r.t.c.tiles.put(r.t.cp.Origin, tile, data[i])
		}
	}
}

// fetchTile reads a tile or an entry bundle from the log. If the log has only the full one by now, that is what it
// returns: logs "MAY delete any partial tile once the corresponding full tile is available" (c2sp.org/tlog-tiles).
func (t *Tree) fetchTile(ctx context.Context, tile tlog.Tile, limit int) ([]byte, error) {
	resp, err := t.c.get(ctx, t.c.at(tilePath(tile)), limit)
	if isNotFound(err) && tile.W < tileWidth {
		full := tile
		full.W = tileWidth
		if resp2, err2 := t.c.get(ctx, t.c.at(tilePath(full)), limit); err2 == nil || !isNotFound(err2) {
			resp, err = resp2, err2
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tilePath(tile), err)
	}
	return resp.body, nil
}

// tilePath returns the path of a tile below the log's prefix: tile/<L>/<N>[.p/<W>], with "entries" for <L> in the path
// of entry bundles.
func tilePath(t tlog.Tile) string {
	level := "entries"
	if t.L >= 0 {
		level = fmt.Sprint(t.L)
	}
	n := fmt.Sprintf("%03d", t.N%1000)
	for rest := t.N / 1000; rest > 0; rest /= 1000 {
		n = fmt.Sprintf("x%03d/%s", rest%1000, n)
	}
	partial := ""
	if t.W != tileWidth {
		partial = fmt.Sprintf(".p/%d", t.W)
	}
	return fmt.Sprintf("tile/%s/%s%s", level, n, partial)
}
