package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

const (
	width    = client.TileWidth // of tiles
	hashSize = tlog.HashSize
)

// A tileID names a tile of hashes.
type tileID struct {
	level uint8
	n     uint64
}

func (t tileID) key() []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixTile, t.level}, t.n)
}

// A hashTree is the log's tree as the monitor has computed it from the entries. Tiles are kept in the database, which
// takes 32 bytes an entry, so that any root and any proof can be computed without the log. It is owned by the goroutine
// that commits audited leaves.
type hashTree struct {
	size uint64
	// edge has for each level the hashes of its last tile, less than a full one. Their number follows from size.
	edge [][]tlog.Hash
	// full are tiles that were filled since the last commit.
	full map[tileID][]byte
	db   *pebble.DB
}

// openTree reads the edge of a tree of a size.
func openTree(db *pebble.DB, size uint64) (*hashTree, error) {
	t := &hashTree{size: size, full: make(map[tileID][]byte), db: db}
	for level := uint8(0); size>>(8*level) > 0; level++ {
		n := size >> (8 * level)
		w := int(n % width)
		if w == 0 {
			t.edge = append(t.edge, nil)
			continue
		}
		b, err := readTile(db, tileID{level, n / width}, w)
		if err != nil {
			return nil, err
		}
		t.edge = append(t.edge, splitHashes(b))
	}
	return t, nil
}

func readTile(db pebble.Reader, id tileID, w int) ([]byte, error) {
	v, closer, err := db.Get(id.key())
	if err != nil {
		return nil, fmt.Errorf("stored tile %d of level %d: %w", id.n, id.level, err)
	}
	defer closer.Close()
	if len(v) < w*hashSize || len(v)%hashSize != 0 {
		return nil, fmt.Errorf("stored tile %d of level %d has %d bytes, want %d", id.n, id.level, len(v), w*hashSize)
	}
	return append([]byte(nil), v[:w*hashSize]...), nil
}

func splitHashes(b []byte) []tlog.Hash {
	hashes := make([]tlog.Hash, len(b)/hashSize)
	for i := range hashes {
		copy(hashes[i][:], b[i*hashSize:])
	}
	return hashes
}

func joinHashes(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*hashSize)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

// reduce returns the root of a full subtree with the given leaves, whose number is a power of two. It overwrites them.
func reduce(h []tlog.Hash) tlog.Hash {
	for len(h) > 1 {
		for i := range len(h) / 2 {
			h[i] = tlog.NodeHash(h[2*i], h[2*i+1])
		}
		h = h[:len(h)/2]
	}
	return h[0]
}

// append adds the hash of a leaf.
func (t *hashTree) append(h tlog.Hash) {
	t.size++
	for level := uint8(0); ; level++ {
		if int(level) == len(t.edge) {
			t.edge = append(t.edge, nil)
		}
		t.edge[level] = append(t.edge[level], h)
		if len(t.edge[level]) < width {
			return
		}
		n := t.size>>(8*(level+1)) - 1
		t.full[tileID{level, n}] = joinHashes(t.edge[level])
		h = reduce(t.edge[level])
		t.edge[level] = t.edge[level][:0]
	}
}

// write adds to the batch what has changed since the last one.
func (t *hashTree) write(b *pebble.Batch) error {
	for id, data := range t.full {
		if err := b.Set(id.key(), data, nil); err != nil {
			return err
		}
	}
	for level, hashes := range t.edge {
		if len(hashes) == 0 {
			continue
		}
		id := tileID{uint8(level), t.size >> (8 * (level + 1))}
		if err := b.Set(id.key(), joinHashes(hashes), nil); err != nil {
			return err
		}
	}
	return nil
}

// committed forgets what is in the database.
func (t *hashTree) committed() { clear(t.full) }

// tile returns the first w hashes of a tile.
func (t *hashTree) tile(id tileID, w int) ([]byte, error) {
	if b, ok := t.full[id]; ok {
		return b[:w*hashSize], nil
	}
	if int(id.level) < len(t.edge) && id.n == t.size>>(8*(id.level+1)) {
		if len(t.edge[id.level]) < w {
			return nil, errors.New("tile beyond the tree")
		}
		return joinHashes(t.edge[id.level][:w]), nil
	}
	return readTile(t.db, id, w)
}

// root returns the root of the first size leaves.
func (t *hashTree) root(size uint64) ([32]byte, error) { return rootOf(t.tile, t.size, size) }

// tiles reads tiles of a tree, of which the first w hashes are asked for.
type tiles func(id tileID, w int) ([]byte, error)

// ReadHashes implements tlog.HashReader.
func (t tiles) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		level, n := tlog.SplitStoredHashIndex(x)
		span := 1 << (level % 8)
		first := uint64(n) << (level % 8)
		off := int(first % width)
		b, err := t(tileID{uint8(level / 8), first / width}, off+span)
		if err != nil {
			return nil, err
		}
		hashes[i] = reduce(splitHashes(b[off*hashSize : (off+span)*hashSize]))
	}
	return hashes, nil
}

// rootOf returns the root of the first size leaves of a tree of which has leaves are known.
func rootOf(t tiles, has, size uint64) ([32]byte, error) {
	if size > has {
		return [32]byte{}, fmt.Errorf("size %d is beyond the %d leaves that were audited", size, has)
	}
	if size == 0 {
		return checkpoint.EmptyRoot(), nil
	}
	return tlog.TreeHash(int64(size), t)
}

// consistency returns the proof that the first from leaves are a prefix of the first to.
func consistency(t tiles, from, to uint64) ([][32]byte, error) {
	if from == 0 || from == to {
		return nil, nil
	}
	p, err := tlog.ProveTree(int64(to), int64(from), t)
	if err != nil {
		return nil, err
	}
	return hashArrays(p), nil
}

// inclusion returns the proof that the leaf at index is in the tree of the first size.
func inclusion(t tiles, index, size uint64) ([][32]byte, error) {
	p, err := tlog.ProveRecord(int64(size), int64(index), t)
	if err != nil {
		return nil, err
	}
	return hashArrays(p), nil
}

func hashArrays(hashes []tlog.Hash) [][32]byte {
	a := make([][32]byte, len(hashes))
	for i, h := range hashes {
		a[i] = h
	}
	return a
}
