package client

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	// cachedTiles bounds the tiles in memory: at 8 KiB each, 4 MiB.
	cachedTiles = 512
	// cachedEntries bounds the entry bundles in memory, which are larger: at 6 KiB a leaf, 12 MiB.
	cachedEntries = 8
)

// tileCache keeps tiles and entry bundles by the log's origin. It verifies nothing: readers do. It can be used
// concurrently, and by several processes: files are complete when they get their names.
type tileCache struct {
	dir     string // "" for none
	tiles   *lru.Cache[tileKey, []byte]
	entries *lru.Cache[tileKey, []byte]
}

type tileKey struct {
	origin string
	tile   tlog.Tile
}

func newTileCache(dir string) *tileCache {
	tiles, err := lru.New[tileKey, []byte](cachedTiles)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	entries, err := lru.New[tileKey, []byte](cachedEntries)
	if err != nil {
		panic(err)
	}
	return &tileCache{dir: dir, tiles: tiles, entries: entries}
}

func (c *tileCache) memory(t tlog.Tile) *lru.Cache[tileKey, []byte] {
	if t.L < 0 {
		return c.entries
	}
	return c.tiles
}

func (c *tileCache) get(origin string, t tlog.Tile) ([]byte, bool) {
	if b, ok := c.memory(t).Get(tileKey{origin, t}); ok {
		return b, true
	}
	if c.dir == "" || t.W != tileWidth {
		return nil, false
	}
	file := c.file(origin, t)
	info, err := os.Stat(file)
	if err != nil || info.Size() > maxEntryBundle {
		return nil, false
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, false
	}
	c.memory(t).Add(tileKey{origin, t}, b)
	return b, true
}

// put keeps b in memory, and, if it is a full tile, on disk. Partial tiles are not worth a file: the next checkpoint
// needs others. A cache that cannot be written is only slow, so errors are not reported.
func (c *tileCache) put(origin string, t tlog.Tile, b []byte) {
	c.memory(t).Add(tileKey{origin, t}, b)
	if c.dir == "" || t.W != tileWidth {
		return
	}
	file := c.file(origin, t)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".tmp-*")
	if err != nil {
		return
	}
	_, werr := tmp.Write(b)
	cerr := tmp.Close()
	if werr != nil || cerr != nil || os.Rename(tmp.Name(), file) != nil {
		os.Remove(tmp.Name())
	}
}

// file returns the file of a tile. The origin is hashed since it can hold anything.
func (c *tileCache) file(origin string, t tlog.Tile) string {
	sum := sha256.Sum256([]byte(origin))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:]), filepath.FromSlash(tilePath(t)))
}
