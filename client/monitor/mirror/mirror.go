// Package mirror keeps a full copy of a log that a monitor has audited, and serves it as a tiled log
// (c2sp.org/tlog-tiles): with it another monitor can audit the log, also when the log is gone. README.md is for operators.
//
// It follows what c2sp.org/tlog-mirror says of a mirror's copy, in that "the mirror MUST NOT sign or update its mirror
// checkpoint until all entries are durably committed", that it never goes back, and that every entry is authenticated
// before it is stored. It has no submission interface and no cosignature of its own: it takes entries from the log, and
// what it says by serving a checkpoint is what the appraising cosigner beside it can sign.
//
// Files have the names that tlog-tiles gives resources, so that any static file server can serve the directory too: the
// full tiles and bundles, the partial ones of the checkpoint's size, blobs under blob/, and checkpoint. Besides these
// there are progress.json and a folder tmp, which nobody needs to see.
package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

const (
	tileHeight = 8
	tileWidth  = client.TileWidth

	// batch is how many entry bundles are written between two syncs of their directories, and so what is read again after
	// a crash: 16,384 entries.
	batch = 64

	// parallel bounds the entry bundles in memory, which have a megabyte and a half each, or sixteen at worst.
	parallel = 4

	// look is how often Run looks whether the source has a newer checkpoint, which costs nothing; retry is the pause after
	// something went wrong, and blobPause that before asking for blobs again that the log didn't serve.
	look      = time.Second
	retry     = 10 * time.Second
	blobPause = 10 * time.Minute

	checkpointFile = "checkpoint"
	progressFile   = "progress.json"
)

// A Source has audited the log; a monitor is one. Its methods can be called concurrently.
type Source interface {
	// Verified returns the newest checkpoint of which everything is audited: size, root, and signed note, which is nil if
	// there is none yet. The size never shrinks, but may be smaller than that of a mirror that is older.
	Verified() (size uint64, root [32]byte, note []byte)

	// RootAt returns the root of the first size leaves, for a size up to that.
	RootAt(size uint64) ([32]byte, error)

	// Tile returns the first w hashes of a tile of the tree, as computed from the entries.
	Tile(level uint8, n uint64, w int) ([]byte, error)
}

// A BlobSource is a Source that has the components of collateral which it has verified, so that the log needn't be asked
// for them again.
type BlobSource interface {
	// Blob returns the component with a SHA-256.
	Blob(digest record.Digest) ([]byte, error)
}

// Config configures [Open]. All fields are required.
type Config struct {
	Dir    string // is made if there is none, and belongs to one mirror
	Origin string // the log's
	Source Source
	Log    *client.Client // where entries and blobs are read
	Logger *slog.Logger
}

// A Mirror is an open mirror. Update, and so Run, must not be called concurrently; everything else can.
type Mirror struct {
	cfg   Config
	store *store

	// served is the checkpoint that everything on disk is sufficient for, nil if there is none. It is replaced after its
	// file is durable.
	served atomic.Pointer[head]

	// mu guards what follows, which Update owns otherwise: blobs are noted while several bundles are copied at once.
	mu         sync.Mutex
	progress   progress
	blobsTried time.Time // when missing blobs were last asked for

	zipped *zipCache
}

// A head is a checkpoint with its note.
type head struct {
	checkpoint.Checkpoint
	note []byte
}

// A progress is what is durable beyond the checkpoint.
type progress struct {
	// Next is the number of entries, in full bundles, that are stored, and Root that of their tree.
	Next uint64 `json:"next"`
	Root string `json:"root,omitempty"` // hexadecimal

	// Missing are blobs that collateral leaves name and the log didn't serve. They are asked for again.
	Missing []string `json:"missing,omitempty"`
}

// Open opens a mirror, or begins one. It asks neither the log nor the source.
func Open(cfg Config) (*Mirror, error) {
	s, err := newStore(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	m := &Mirror{cfg: cfg, store: s, zipped: newZipCache()}
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("mirror %s: %w", cfg.Dir, err)
	}
	return m, nil
}

// load reads the checkpoint, and makes sure that it belongs to the tiles.
func (m *Mirror) load() error {
	note, err := m.store.read(checkpointFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		h, err := m.parse(note)
		if err != nil {
			return fmt.Errorf("stored checkpoint: %w", err)
		}
		if err := m.verify(h.Checkpoint); err != nil {
			return err
		}
		m.served.Store(h)
		if err := m.pruneAll(h.Size); err != nil {
			return err
		}
	}
	b, err := m.store.read(progressFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &m.progress); err != nil {
		return fmt.Errorf("%s: %v; without it, everything since the checkpoint is read from the log again", progressFile, err)
	}
	return nil
}

// parse parses a note of the log. Its signatures are the monitor's to verify, before, and everybody's after.
func (m *Mirror) parse(note []byte) (*head, error) {
	n, err := checkpoint.ParseNote(note)
	if err != nil {
		return nil, err
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	if cp.Origin != m.cfg.Origin {
		return nil, fmt.Errorf("it is of the log %q, not %q", cp.Origin, m.cfg.Origin)
	}
	if cp.Size > math.MaxInt64/4 {
		return nil, fmt.Errorf("a tree of %d leaves", cp.Size) // package tlog computes with int64
	}
	return &head{cp, note}, nil
}

// verify checks that the stored tiles give a checkpoint's root.
func (m *Mirror) verify(cp checkpoint.Checkpoint) error {
	root := tlog.Hash(checkpoint.EmptyRoot())
	if cp.Size > 0 {
		var err error
		reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
			hashes := make([]tlog.Hash, len(indexes))
			for i, x := range indexes {
				t := tlog.TileForIndex(tileHeight, x)
				t.W = int(widthAt(t, cp.Size))
				b, err := m.store.read(tilePath(t))
				if err != nil {
					return nil, err
				}
				if len(b) != t.W*tlog.HashSize {
					return nil, fmt.Errorf("%s has %d bytes", tilePath(t), len(b))
				}
				if hashes[i], err = tlog.HashFromTile(t, b, x); err != nil {
					return nil, err
				}
			}
			return hashes, nil
		})
		if root, err = tlog.TreeHash(int64(cp.Size), reader); err != nil {
			return fmt.Errorf("stored tiles: %w", err)
		}
	}
	if root != tlog.Hash(cp.Root) {
		return fmt.Errorf("the stored tiles don't have the root of the checkpoint of size %d", cp.Size)
	}
	return nil
}

// Size returns the size of the tree that is served, and whether there is one.
func (m *Mirror) Size() (uint64, bool) {
	h := m.served.Load()
	if h == nil {
		return 0, false
	}
	return h.Size, true
}

// Run follows the source until ctx is done. What goes wrong is logged, and tried again.
func (m *Mirror) Run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := look
		if err := m.Update(ctx); err != nil && ctx.Err() == nil {
			m.cfg.Logger.Warn("mirror: not up to date", "err", err)
			pause = retry
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// Update copies everything up to the source's verified checkpoint, and then serves that. It can be interrupted at any
// point, and goes on there the next time. A checkpoint that is older than the one served changes nothing.
func (m *Mirror) Update(ctx context.Context) error {
	_, _, note := m.cfg.Source.Verified()
	if note == nil {
		return nil
	}
	to, err := m.parse(note)
	if err != nil {
		return fmt.Errorf("the monitor's checkpoint: %w", err)
	}
	var from uint64
	if h := m.served.Load(); h != nil {
		// "In this case, the mirror MUST NOT rewind the checkpoint and MUST instead skip the update" (tlog-mirror).
		if to.Size < h.Size || string(to.note) == string(h.note) {
			return m.blobsAgain(ctx)
		}
		// The monitor may have begun anew since, and have been shown something else.
		root, err := m.cfg.Source.RootAt(h.Size)
		if err != nil {
			return err
		}
		if root != h.Root {
			return fmt.Errorf("the mirror's tree of %d leaves isn't the one that the monitor has audited: keep its directory as evidence, and begin another", h.Size)
		}
		from = h.Size
	}
	if err := m.copyEntries(ctx, from, to.Size); err != nil {
		return err
	}
	if err := m.copyTiles(from, to.Size); err != nil {
		return err
	}
	// Also that blobs are missing must be known before a checkpoint says that everything is there.
	if len(m.progress.Missing) > 0 {
		if err := m.advance(func(*progress) {}); err != nil {
			return err
		}
	}
	if err := m.store.sync(); err != nil {
		return err
	}
	if err := m.verify(to.Checkpoint); err != nil {
		return err
	}
	// Last: everything that it covers is durable.
	if err := m.store.write(checkpointFile, to.note); err != nil {
		return err
	}
	if err := m.store.sync(); err != nil {
		return err
	}
	m.served.Store(to)
	if err := m.prune(from, to.Size); err != nil {
		m.cfg.Logger.Warn("mirror: old partial tiles stay", "err", err)
	}
	return m.blobsAgain(ctx)
}

// copyEntries stores the entry bundles of the leaves in [from, to), and the blobs that they name.
func (m *Mirror) copyEntries(ctx context.Context, from, to uint64) error {
	from, err := m.resume(from/tileWidth*tileWidth, to)
	if err != nil {
		return err
	}
	bundles := (to + tileWidth - 1) / tileWidth
	for begin := from / tileWidth; begin < bundles; begin += batch {
		end := min(begin+batch, bundles)
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for n := begin; n < end; n++ {
			g.Go(func() error { return m.copyBundle(gctx, n, int(min(to-n*tileWidth, tileWidth))) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if err := m.store.sync(); err != nil {
			return err
		}
		if end*tileWidth >= to {
			break // the checkpoint says that they are there
		}
		root, err := m.cfg.Source.RootAt(end * tileWidth)
		if err != nil {
			return err
		}
		if err := m.advance(func(p *progress) { p.Next, p.Root = end*tileWidth, hex.EncodeToString(root[:]) }); err != nil {
			return err
		}
	}
	return nil
}

// resume returns how many entries are stored of those that are needed: more than from if an update was interrupted.
func (m *Mirror) resume(from, to uint64) (uint64, error) {
	m.mu.Lock()
	next, stored := m.progress.Next, m.progress.Root
	m.mu.Unlock()
	if next <= from || next > to {
		return from, nil
	}
	root, err := m.cfg.Source.RootAt(next)
	if err != nil {
		return 0, err
	}
	if hex.EncodeToString(root[:]) != stored {
		// They are of a history that a monitor audited that isn't there any more, and that was never served here.
		return from, nil
	}
	return next, nil
}

// advance changes what is durable beyond the checkpoint.
func (m *Mirror) advance(change func(*progress)) error {
	m.mu.Lock()
	change(&m.progress)
	b, err := json.Marshal(&m.progress)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.store.write(progressFile, b); err != nil {
		return err
	}
	return m.store.sync()
}

// copyBundle stores the n-th entry bundle, of w entries, if each is the one in the audited tree.
func (m *Mirror) copyBundle(ctx context.Context, n uint64, w int) error {
	hashes, err := m.cfg.Source.Tile(0, n, w)
	if err != nil {
		return err
	}
	name := tilePath(tlog.Tile{H: tileHeight, L: -1, N: int64(n), W: w})
	if b, err := m.store.read(name); err == nil {
		if entries, err := proven(b, n, hashes); err == nil && size(entries) == len(b) {
			if err := m.copyBlobsOf(ctx, entries); err != nil {
				return err
			}
			return m.store.keep(name)
		}
	}
	raw, err := m.cfg.Log.RawEntries(ctx, n, w)
	if err != nil {
		return err
	}
	entries, err := proven(raw.Body, n, hashes)
	if err != nil {
		return fmt.Errorf("%s: %w", raw.Path, err)
	}
	if err := m.copyBlobsOf(ctx, entries); err != nil {
		return err
	}
	return m.store.write(name, raw.Body[:size(entries)])
}

// proven returns the entries in the n-th bundle that have the given hashes. It is an error if there are fewer, or others.
func proven(b []byte, n uint64, hashes []byte) ([][]byte, error) {
	w := len(hashes) / tlog.HashSize
	entries, _ := client.SplitEntries(b)
	if len(entries) < w {
		return nil, fmt.Errorf("%d entries, want %d", len(entries), w)
	}
	for i, e := range entries[:w] {
		if record.LeafHash(e) != [32]byte(hashes[i*tlog.HashSize:]) {
			return nil, fmt.Errorf("entry %d isn't the one that was audited", n*tileWidth+uint64(i))
		}
	}
	return entries[:w], nil
}

// size returns the size of a bundle with these entries.
func size(entries [][]byte) (n int) {
	for _, e := range entries {
		n += 2 + len(e)
	}
	return n
}

// Offer takes an entry bundle, or the beginning of one, that the monitor has just read, so that the log needn't be asked
// for it again. It is looked at again when it is needed, and may be wrong. Offer can be called concurrently with
// everything.
func (m *Mirror) Offer(n uint64, entries [][]byte) {
	name := tilePath(tlog.Tile{H: tileHeight, L: -1, N: int64(n), W: len(entries)})
	if h := m.served.Load(); len(entries) == 0 || h != nil && n*tileWidth+uint64(len(entries)) <= h.Size {
		return // what is served isn't touched
	}
	if has, err := m.store.has(name); err != nil || has {
		return // it may be durable already, and a draft isn't
	}
	b := make([]byte, 0, size(entries))
	for _, e := range entries {
		b = binary.BigEndian.AppendUint16(b, uint16(len(e)))
		b = append(b, e...)
	}
	if err := m.store.draft(name, b); err != nil {
		m.cfg.Logger.Debug("mirror: a bundle will be read again", "err", err)
	}
}

// copyBlobsOf stores the components of the sets among entries.
func (m *Mirror) copyBlobsOf(ctx context.Context, entries [][]byte) error {
	for _, e := range entries {
		// Others need no parsing.
		if len(e) < 2 || e[1] != byte(record.LeafCollateral) {
			continue
		}
		if leaf, err := record.ParseLeaf(e); err == nil {
			if c, ok := leaf.(*record.CollateralLeaf); ok {
				if err := m.copyBlobs(ctx, c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func blobPath(digest string) string { return "blob/" + digest }

// copyBlobs stores the components of a set. Those that the log doesn't have are a finding of the monitor's, and don't
// keep the mirror from going on.
func (m *Mirror) copyBlobs(ctx context.Context, c *record.CollateralLeaf) error {
	for _, digest := range c.Components {
		name := hex.EncodeToString(digest[:])
		if has, err := m.store.has(blobPath(name)); err != nil || has {
			if err != nil {
				return err
			}
			continue
		}
		b, err := m.blob(ctx, digest)
		if err == nil {
			if err := m.store.write(blobPath(name), b); err != nil {
				return err
			}
			continue
		}
		if unanswered(ctx, err) {
			return err
		}
		m.cfg.Logger.Warn("mirror: a component of collateral is missing", "blob", name, "err", err)
		m.mu.Lock()
		if !slices.Contains(m.progress.Missing, name) {
			m.progress.Missing = append(m.progress.Missing, name)
		}
		m.blobsTried = time.Now()
		m.mu.Unlock()
	}
	return nil
}

// blob returns a component, from the source if it has it, or from the log.
func (m *Mirror) blob(ctx context.Context, digest record.Digest) ([]byte, error) {
	if s, ok := m.cfg.Source.(BlobSource); ok {
		if b, err := s.Blob(digest); err == nil && sha256.Sum256(b) == digest {
			return b, nil
		}
	}
	return m.cfg.Log.Blob(ctx, digest)
}

// unanswered reports whether an error says nothing about what the log has.
func unanswered(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.As(err, new(*url.Error))
}

// blobsAgain asks for blobs that were missing.
func (m *Mirror) blobsAgain(ctx context.Context) error {
	m.mu.Lock()
	missing := slices.Clone(m.progress.Missing)
	wait := time.Since(m.blobsTried) < blobPause
	if !wait {
		m.blobsTried = time.Now()
	}
	m.mu.Unlock()
	if len(missing) == 0 || wait {
		return nil
	}
	var still []string
	for _, name := range missing {
		digest, err := hex.DecodeString(name)
		if err != nil || len(digest) != sha256.Size {
			continue
		}
		b, err := m.blob(ctx, record.Digest(digest))
		if err != nil {
			still = append(still, name)
			continue
		}
		if err := m.store.write(blobPath(name), b); err != nil {
			return err
		}
	}
	if err := m.store.sync(); err != nil {
		return err
	}
	return m.advance(func(p *progress) { p.Missing = still })
}

// copyTiles stores the tiles of hashes that the tree of size to has and that of size from hasn't.
func (m *Mirror) copyTiles(from, to uint64) error {
	for level := uint8(0); to>>(8*level) > 0; level++ {
		for n := from >> (8 * level) / tileWidth; ; n++ {
			t := tlog.Tile{H: tileHeight, L: int(level), N: int64(n)}
			t.W = int(widthAt(t, to))
			if t.W == 0 {
				break
			}
			b, err := m.cfg.Source.Tile(level, n, t.W)
			if err != nil {
				return err
			}
			if err := m.store.write(tilePath(t), b); err != nil {
				return err
			}
		}
	}
	return nil
}

// prune removes partial tiles and bundles of the tree of size from that the tree of size to hasn't. Nobody needs them:
// the handler takes narrower tiles from wider ones.
func (m *Mirror) prune(from, to uint64) error {
	for level := -1; level < 0 || to>>(8*level) > 0; level++ {
		for _, size := range []uint64{from, to} {
			t := tlog.Tile{H: tileHeight, L: level, N: int64(size >> (8 * max(level, 0)) / tileWidth), W: 1}
			if err := m.pruneTile(path.Dir(tilePath(t)), t, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// pruneTile removes what is in the folder of a tile's partial ones, except that of the tree of a size.
func (m *Mirror) pruneTile(folder string, t tlog.Tile, size uint64) error {
	files, err := os.ReadDir(m.store.path(folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	keep := widthAt(t, size)
	if keep == tileWidth {
		return m.store.remove(folder)
	}
	for _, f := range files {
		if f.Name() != strconv.FormatUint(keep, 10) {
			if err := m.store.remove(path.Join(folder, f.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// pruneAll is prune when it isn't known what was before: an update that was interrupted leaves partial tiles of its size.
func (m *Mirror) pruneAll(size uint64) error {
	root := m.store.path("tile")
	return filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.IsDir() || !strings.HasSuffix(file, ".p") {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		t, err := parseTile(strings.TrimSuffix(name, ".p"))
		if err != nil {
			return nil // not ours
		}
		if err := m.pruneTile("tile/"+name, t, size); err != nil {
			return err
		}
		return filepath.SkipDir
	})
}

// widthAt returns how many hashes, or entries, a tile has in a tree of a size: 0, if there is no such tile, to 256.
func widthAt(t tlog.Tile, size uint64) uint64 {
	have := size >> (8 * max(t.L, 0))
	if uint64(t.N) > have/tileWidth { // so that the product doesn't overflow
		return 0
	}
	return min(have-uint64(t.N)*tileWidth, tileWidth)
}

// tilePath returns the path of a tile, or of a bundle if its level is -1, below the log's prefix (c2sp.org/tlog-tiles).
// Package tlog has the height in it, and another word for entries.
func tilePath(t tlog.Tile) string {
	rest := strings.TrimPrefix(t.Path(), "tile/8/")
	if t.L < 0 {
		rest = "entries/" + strings.TrimPrefix(rest, "data/")
	}
	return "tile/" + rest
}

// parseTile parses a path below "tile/", with the only spelling that it has.
func parseTile(p string) (tlog.Tile, error) {
	if rest, ok := strings.CutPrefix(p, "entries/"); ok {
		p = "data/" + rest
	} else if strings.HasPrefix(p, "data/") {
		return tlog.Tile{}, errors.New("not a tile")
	}
	return tlog.ParseTilePath("tile/8/" + p)
}
