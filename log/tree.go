package sessionlog

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api/layout"
)

// tileWidth is the number of hashes in a full tile and of entries in a full bundle (c2sp.org/tlog-tiles: "Each
// full tile is 256 hashes wide").
const tileWidth = 256

// cachedTiles bounds the cache of tiles. With all its inner nodes a full tile takes 16 KiB, so the cache 16 MiB at
// most. A proof in a log of 2^32 leaves touches four tiles, and all but the lowest are shared by 65,536 leaves.
const cachedTiles = 1024

// cachedBundles bounds the cache of entry bundles, 2 MB each as a rule and 16 MB at most. Without it, each proof for an
// entry would read the 255 others beside it.
const cachedBundles = 16

// bundleData is an entry bundle as it was read, and the offset of each entry, and of the end. It is never modified.
type bundleData struct {
	data    []byte
	offsets []int
}

// A tileReader is the part of tessera.LogReader that a tree reads from.
type tileReader interface {
	ReadTile(ctx context.Context, level, index uint64, p uint8) ([]byte, error)
	ReadEntryBundle(ctx context.Context, index uint64, p uint8) ([]byte, error)
	IntegratedSize(ctx context.Context) (uint64, error)
}

// A partReader is a tileReader that reads a part of a full entry bundle: of a length from an offset, both in bytes. The
// error wraps io.ErrUnexpectedEOF if the bundle ends before that.
type partReader interface {
	ReadEntryPart(ctx context.Context, index uint64, offset int64, length int) ([]byte, error)
}

// cachedOffsets bounds the cache of where the entries of full bundles begin, 1 KiB each, so 32 MiB for the most recently
// used 8 million entries. With it the proof of an entry reads that entry, without it the 2 MB of its bundle.
const cachedOffsets = 32768

// entryOffsets says where each entry of a full bundle begins, and where the last ends. A bundle of 256 entries of 65,535
// bytes has 16 MiB.
type entryOffsets [tileWidth + 1]uint32

// A tree reads tiles and entry bundles of Tessera's log, and computes roots and proofs from them. Concurrent calls
// are fine.
//
// Which file holds a tile is less obvious than it looks. A crash in the middle of an integration leaves files behind
// for a size that the log never had: full tiles, and partial ones of some width. Later the log grows past that size
// with other entries, and such a file is then wrong although its name fits. The one file that can be trusted is that
// of the width which the tile has at an integrated size, since every integration writes it anew; any narrower width
// is a prefix of it. So that is the only file ever read, and narrower ones are cut from it, which also serves
// readers of partial tiles that Tessera's garbage collection has removed.
type tree struct {
	r       tileReader
	cache   *lru.Cache[tileID, *tile]
	bundles *lru.Cache[uint64, *bundleData]
	parts   partReader                        // r, if it is one
	offsets *lru.Cache[uint64, *entryOffsets] // of full bundles, by index

	// size is the largest integrated size seen. It never shrinks.
	size atomic.Uint64
}

type tileID struct{ level, index uint64 }

// A tile is a tile's hashes, and the inner nodes that they determine. It is never modified.
type tile struct {
	data  []byte                   // width times 32 bytes
	nodes [9][]([sha256.Size]byte) // by level in the tile; level 0 are the hashes themselves
}

func (t *tile) width() int { return len(t.nodes[0]) }

func newTree(r tileReader) *tree {
	c, err := lru.New[tileID, *tile](cachedTiles)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	b, err := lru.New[uint64, *bundleData](cachedBundles)
	if err != nil {
		panic(err)
	}
	o, err := lru.New[uint64, *entryOffsets](cachedOffsets)
	if err != nil {
		panic(err)
	}
	parts, _ := r.(partReader)
	return &tree{r: r, cache: c, bundles: b, parts: parts, offsets: o}
}

// refresh asks Tessera for the integrated size, and returns it.
func (t *tree) refresh(ctx context.Context) (uint64, error) {
	n, err := t.r.IntegratedSize(ctx)
	if err != nil {
		return 0, fmt.Errorf("integrated size: %w", err)
	}
	for {
		old := t.size.Load()
		if n < old {
			return 0, fmt.Errorf("integrated size went from %d back to %d", old, n)
		}
		if n == old || t.size.CompareAndSwap(old, n) {
			return n, nil
		}
	}
}

// widthAt returns how many hashes the tile has in a tree of the given size: 0 (no such tile) to 256.
func widthAt(id tileID, size uint64) uint64 {
	if id.level >= 8 {
		return 0 // 256^8 leaves are more than a uint64 can count
	}
	n := size >> (8 * id.level)
	first := id.index * tileWidth
	if id.index > n/tileWidth || n <= first {
		return 0
	}
	return min(n-first, tileWidth)
}

var errNoTile = errors.New("no such tile in the tree")

// readWidth reads the resource that read returns for a width, which must have at least want of its 256 parts. ok
// tells whether b is a complete resource of the width asked for. See tree for the width that is asked for.
func (t *tree) readWidth(ctx context.Context, id tileID, want uint64, read func(p uint8) ([]byte, error), ok func(b []byte, width int) bool) ([]byte, error) {
	size := t.size.Load()
	for range 4 {
		w := widthAt(id, size)
		if w < want {
			return nil, errNoTile
		}
		b, err := read(uint8(w % tileWidth)) // 0 means full
		if err == nil && ok(b, int(w)) {
			return b, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// The log may have grown meanwhile, so that garbage collection removed the partial file, or Tessera's
		// reader answered with the full one. Look again at the size it has now.
		now, serr := t.refresh(ctx)
		if serr != nil {
			return nil, serr
		}
		if now == size {
			if err == nil {
				err = fmt.Errorf("tile %d/%d is not %d wide", id.level, id.index, w)
			}
			return nil, err
		}
		size = now
	}
	return nil, fmt.Errorf("tile %d/%d changed too often", id.level, id.index)
}

// tile returns the tile with at least the given number of hashes, 1 to 256.
func (t *tree) tile(ctx context.Context, id tileID, width uint64) (*tile, error) {
	if c, ok := t.cache.Get(id); ok && uint64(c.width()) >= width {
		return c, nil
	}
	b, err := t.readWidth(ctx, id, width,
		func(p uint8) ([]byte, error) { return t.r.ReadTile(ctx, id.level, id.index, p) },
		func(b []byte, w int) bool { return len(b) == w*sha256.Size })
	if err != nil {
		return nil, fmt.Errorf("tile %d/%d: %w", id.level, id.index, err)
	}
	n := &tile{data: b}
	n.nodes[0] = make([][sha256.Size]byte, len(b)/sha256.Size)
	for i := range n.nodes[0] {
		copy(n.nodes[0][i][:], b[i*sha256.Size:])
	}
	for l := 1; l <= 8; l++ {
		below := n.nodes[l-1]
		n.nodes[l] = make([][sha256.Size]byte, len(below)/2)
		for i := range n.nodes[l] {
			n.nodes[l][i] = hashChildren(below[2*i], below[2*i+1])
		}
	}
	t.cache.Add(id, n)
	return n, nil
}

// hashChildren is RFC 6962's hash of an inner node.
func hashChildren(l, r [sha256.Size]byte) [sha256.Size]byte {
	var b [1 + 2*sha256.Size]byte
	b[0] = rfc6962.RFC6962NodeHashPrefix
	copy(b[1:], l[:])
	copy(b[1+sha256.Size:], r[:])
	return sha256.Sum256(b[:])
}

// node returns the hash of a complete subtree.
func (t *tree) node(ctx context.Context, id compact.NodeID) ([]byte, error) {
	level, in := uint64(id.Level/8), id.Level%8
	tid := tileID{level, id.Index >> (8 - in)}
	i := id.Index - tid.index<<(8-in)
	c, err := t.tile(ctx, tid, (i+1)<<in)
	if err != nil {
		return nil, err
	}
	return c.nodes[in][i][:], nil
}

func (t *tree) hashes(ctx context.Context, ids []compact.NodeID) ([][]byte, error) {
	h := make([][]byte, len(ids))
	for i, id := range ids {
		var err error
		if h[i], err = t.node(ctx, id); err != nil {
			return nil, err
		}
	}
	return h, nil
}

var rangeFactory = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// rangeAt returns the compact range of the first size leaves, from the tiles.
func (t *tree) rangeAt(ctx context.Context, size uint64) (*compact.Range, error) {
	h, err := t.hashes(ctx, compact.RangeNodes(0, size, nil))
	if err != nil {
		return nil, err
	}
	return rangeFactory.NewRange(0, size, h)
}

// root returns the root hash of the first size leaves, from the tiles.
func (t *tree) root(ctx context.Context, size uint64) ([sha256.Size]byte, error) {
	r, err := t.rangeAt(ctx, size)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return rangeRoot(r)
}

func rangeRoot(r *compact.Range) ([sha256.Size]byte, error) {
	if r.End() == 0 {
		return sha256.Sum256(nil), nil // RFC 6962: "The hash of an empty list is the hash of an empty string"
	}
	h, err := r.GetRootHash(nil)
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	return [sha256.Size]byte(h), nil
}

// inclusion returns the RFC 6962 proof of the leaf at index in the tree of the given size.
func (t *tree) inclusion(ctx context.Context, index, size uint64) ([][sha256.Size]byte, error) {
	n, err := proof.Inclusion(index, size)
	if err != nil {
		return nil, err
	}
	return t.proof(ctx, n)
}

// consistency returns the RFC 6962 proof between two sizes of the tree. It is empty if they are equal or the smaller
// is 0.
func (t *tree) consistency(ctx context.Context, from, to uint64) ([][sha256.Size]byte, error) {
	if from == 0 {
		return nil, nil // which later versions of the library refuse as meaningless
	}
	n, err := proof.Consistency(from, to)
	if err != nil {
		return nil, err
	}
	return t.proof(ctx, n)
}

func (t *tree) proof(ctx context.Context, n proof.Nodes) ([][sha256.Size]byte, error) {
	h, err := t.hashes(ctx, n.IDs)
	if err != nil {
		return nil, err
	}
	if h, err = n.Rehash(h, rfc6962.DefaultHasher.HashChildren); err != nil {
		return nil, err
	}
	p := make([][sha256.Size]byte, len(h))
	for i := range h {
		p[i] = [sha256.Size]byte(h[i])
	}
	return p, nil
}

// tileBytes returns the first width hashes of a tile, as served.
func (t *tree) tileBytes(ctx context.Context, id tileID, width uint64) ([]byte, error) {
	c, err := t.tile(ctx, id, width)
	if err != nil {
		return nil, err
	}
	return c.data[:width*sha256.Size], nil
}

// bundle returns an entry bundle with at least width entries.
func (t *tree) bundle(ctx context.Context, index, width uint64) (*bundleData, error) {
	if b, ok := t.bundles.Get(index); ok && uint64(len(b.offsets)) > width {
		return b, nil
	}
	var offsets []int
	b, err := t.readWidth(ctx, tileID{0, index}, width,
		func(p uint8) ([]byte, error) { return t.r.ReadEntryBundle(ctx, index, p) },
		func(b []byte, w int) (ok bool) {
			offsets, ok = bundleOffsets(b)
			return ok && len(offsets) == w+1
		})
	if err != nil {
		return nil, fmt.Errorf("bundle %d: %w", index, err)
	}
	d := &bundleData{b, offsets}
	t.bundles.Add(index, d)
	if t.parts != nil && len(offsets) == tileWidth+1 {
		o := new(entryOffsets)
		for i, off := range offsets {
			o[i] = uint32(off)
		}
		t.offsets.Add(index, o)
	}
	return d, nil
}

// bundleBytes returns the first width entries of a bundle, as served: each with its length before it.
func (t *tree) bundleBytes(ctx context.Context, index, width uint64) ([]byte, error) {
	b, err := t.bundle(ctx, index, width)
	if err != nil {
		return nil, err
	}
	return b.data[:b.offsets[width]], nil
}

// entry returns an entry without its length. It must not be modified.
func (b *bundleData) entry(i uint64) []byte {
	return b.data[b.offsets[i]+2 : b.offsets[i+1] : b.offsets[i+1]]
}

// leaf returns the bytes of the leaf at index, which must not be modified.
func (t *tree) leaf(ctx context.Context, index uint64) ([]byte, error) {
	n, i := index/tileWidth, index%tileWidth
	if t.parts != nil && !t.bundles.Contains(n) {
		if o, ok := t.offsets.Get(n); ok {
			b, err := t.parts.ReadEntryPart(ctx, n, int64(o[i])+2, int(o[i+1]-o[i])-2)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", index, err)
			}
			return b, nil
		}
	}
	b, err := t.bundle(ctx, n, i+1)
	if err != nil {
		return nil, err
	}
	return b.entry(index % tileWidth), nil
}

// leaves calls f with the bytes of each leaf in [from, to), in order, which must not be modified.
func (t *tree) leaves(ctx context.Context, from, to uint64, f func(index uint64, leaf []byte) error) error {
	for from < to {
		n := from / tileWidth
		end := min(to, (n+1)*tileWidth)
		b, err := t.bundle(ctx, n, end-n*tileWidth)
		if err != nil {
			return err
		}
		for ; from < end; from++ {
			if err := f(from, b.entry(from%tileWidth)); err != nil {
				return err
			}
		}
	}
	return nil
}

// bundleOffsets returns the offset of each entry of a bundle and of its end, and whether it consists of whole entries
// (c2sp.org/tlog-tiles: "sequences of big-endian uint16 length-prefixed log entries").
func bundleOffsets(b []byte) ([]int, bool) {
	offsets := make([]int, 1, tileWidth+1)
	for off := 0; off < len(b); offsets = append(offsets, off) {
		if len(b)-off < 2 {
			return nil, false
		}
		off += 2 + int(binary.BigEndian.Uint16(b[off:]))
		if off > len(b) {
			return nil, false
		}
	}
	return offsets, true
}

// parseTilePath parses what follows "/tile/entries/" or "/tile/<L>/": the index in groups of three digits, and
// ".p/<W>" for a partial resource. There is one spelling for every index (c2sp.org/tlog-tiles: "zero-padded 3-digit
// path elements. All but the last path element MUST begin with an x").
func parseTilePath(p string) (index, width uint64, err error) {
	index, w, err := layout.ParseTileIndexPartial(p)
	if err != nil {
		return 0, 0, err
	}
	width = uint64(w)
	if w == 0 {
		width = tileWidth
	}
	want := layout.NWithSuffix(0, index, w)
	if want != p {
		return 0, 0, fmt.Errorf("tile index %q is not spelled %q", p, want)
	}
	return index, width, nil
}
