package sessionlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/log/storage"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// A log lives in one place. A directory that it was moved from has the file movedName, and is never opened again; one that
// it is being moved to has the file migratingName, and can't be opened yet. The order is: everything is copied and audited
// there; the old place is closed; the new place is opened. So there is no moment with two.
const (
	movedName     = "moved"
	migratingName = "migrating"
)

// ErrMoved says that the log was moved away, and must not be started from where it was.
var ErrMoved = errors.New("the log was moved away")

// checkMoved refuses a directory that the log isn't in any more, or not yet.
func (l *Log) checkMoved(ctx context.Context) error {
	b, err := l.objects.Get(ctx, movedName)
	if err == nil {
		return fmt.Errorf("%w: %s says %q: two logs that go on under one name are a fork", ErrMoved, filepath.Join(l.cfg.Dir, movedName), b)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if l.cfg.Create {
		if _, err := l.objects.Get(ctx, migratingName); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("a log is being moved into %s: finish that with the same command, or remove the directory (%v)", l.cfg.Dir, err)
		}
	}
	return nil
}

// MigrateConfig configures [Migrate]. Exactly one of FromDir, FromTiles and FromURL, and all else is required, unless it says
// otherwise.
type MigrateConfig struct {
	FromDir   string // a log's directory, which no process has open unless the log is frozen
	FromTiles string // a directory in the layout of c2sp.org/tlog-tiles, such as a mirror's
	FromURL   string // prefix of a log that is served

	// Dir is the directory that the log moves to: it doesn't exist, is empty, or holds an earlier attempt of the same.
	Dir string

	LogPolicy *checkpoint.Policy // that the published checkpoint must satisfy
	Root      *tdx.Root          // that the log verifies quotes under, if it isn't copied from FromDir

	// TakeOver has the log move from FromTiles or FromURL although it isn't frozen. The caller knows that it will never
	// be started again where it was: its storage is lost, say. What was in it beyond the published checkpoint is.
	TakeOver bool

	Progress func(done, all uint64) // optional, as in CheckConfig
	Logger   *slog.Logger           // optional

	fault func(when, name string) error
}

// Migrate copies a log into another directory, and returns its published checkpoint. Every entry is hashed on the way, the
// tiles are computed anew, and what is then on disk is audited as [Check] does, all before the log can be opened there. The
// log at the source can't be opened any more after that, unless it is frozen: a log that has ended may lie anywhere.
//
// After an error, or if the process is killed, the same call goes on where it was, and until it has succeeded the log is
// where it was, or, in the last moment, nowhere. A call that has succeeded can be repeated.
func Migrate(ctx context.Context, c MigrateConfig) (checkpoint.Checkpoint, error) {
	m := &migration{c: c, logger: c.Logger}
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	defer func() {
		for _, f := range m.locks {
			f.Close()
		}
	}()
	cp, err := m.run(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return *cp, nil
}

type migration struct {
	c      MigrateConfig
	logger *slog.Logger
	locks  []*os.File
	from   repository
	name   string // of the source
	to     *storage.Posix
	meta   []byte
	frozen []byte // the source's statement that the log has ended, nil if it hasn't

	note []byte                // the published checkpoint
	cp   checkpoint.Checkpoint // that
	size uint64                // of the tree that is copied
	root [32]byte
}

func (m *migration) run(ctx context.Context) (*checkpoint.Checkpoint, error) {
	if m.c.LogPolicy == nil || m.c.Dir == "" {
		return nil, errors.New("a log policy and a destination must be given")
	}
	dir, err := filepath.Abs(m.c.Dir)
	if err != nil {
		return nil, err
	}
	m.c.Dir = dir
	if err := m.openSource(ctx); err != nil {
		return nil, err
	}
	if err := m.readSource(ctx); err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	done, err := m.openDestination(ctx)
	if err != nil || done {
		return &m.cp, err
	}
	if err := m.copyTree(ctx); err != nil {
		return nil, err
	}
	if err := m.copyHeads(ctx); err != nil {
		return nil, err
	}
	r, err := check(ctx, migrated{posixRepository{dirFiles{m.c.Dir}}}, CheckConfig{LogPolicy: m.c.LogPolicy, Progress: m.c.Progress})
	if err != nil {
		return nil, err
	}
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("%s isn't as it was written (remove it, and begin again): %w", m.c.Dir, err)
	}
	if r.Published != m.cp.Size || r.Integrated != m.size {
		return nil, fmt.Errorf("%s has %d leaves, of which %d are published; want %d and %d", m.c.Dir, r.Integrated, r.Published, m.size, m.cp.Size)
	}
	if err := m.closeSource(ctx); err != nil {
		return nil, err
	}
	if err := m.to.Put(ctx, storage.Meta, m.meta); err != nil {
		return nil, err
	}
	m.logger.Info("log moved", "origin", m.cp.Origin, "to", m.c.Dir, "size", m.size, "published", m.cp.Size)
	return &m.cp, nil
}

// migrated is a directory that isn't a log's yet.
type migrated struct{ posixRepository }

func (migrated) meta() string { return "" }

func (m *migration) openSource(ctx context.Context) error {
	var err error
	switch c := m.c; {
	case c.FromDir != "" && c.FromTiles == "" && c.FromURL == "":
		if err := Exists(c.FromDir); err != nil {
			return err
		}
		if m.c.FromDir, err = filepath.Abs(c.FromDir); err != nil {
			return err
		}
		m.from, m.name = posixRepository{dirFiles{m.c.FromDir}}, "posix:"+m.c.FromDir
	case c.FromTiles != "" && c.FromDir == "" && c.FromURL == "":
		if m.c.FromTiles, err = filepath.Abs(c.FromTiles); err != nil {
			return err
		}
		m.from, m.name = tilesRepository{dirFiles{m.c.FromTiles}}, m.c.FromTiles
	case c.FromURL != "" && c.FromDir == "" && c.FromTiles == "":
		m.name = strings.TrimRight(c.FromURL, "/")
		m.from = newURLRepository(m.name)
	default:
		return errors.New("one source must be given")
	}
	m.frozen, err = m.from.get(ctx, frozenName, checkpoint.MaxNote)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		m.frozen = nil
	case err != nil:
		return fmt.Errorf("%s: %w", m.name, err)
	}
	if m.frozen == nil && m.c.FromDir != "" {
		// Nobody may append meanwhile. A frozen log may well be served.
		lock, err := storage.LockDir(m.c.FromDir)
		if err != nil {
			return err
		}
		m.locks = append(m.locks, lock)
	}
	return nil
}

// readSource reads which log is to be moved, and refuses one that could live on where it is.
func (m *migration) readSource(ctx context.Context) (err error) {
	if m.note, err = m.from.get(ctx, publishedName, checkpoint.MaxNote); err != nil {
		return fmt.Errorf("published checkpoint: %w", err)
	}
	checked, err := m.c.LogPolicy.Check(m.note)
	if err != nil {
		return fmt.Errorf("published checkpoint: %w", err)
	}
	m.cp = checked.Checkpoint
	size, root, ok, err := m.from.state(ctx)
	if err != nil {
		return err
	}
	if !ok {
		size, root = m.cp.Size, m.cp.Root
	}
	if size < m.cp.Size {
		return fmt.Errorf("%w: it has %d leaves, and %d are published", ErrInconsistent, size, m.cp.Size)
	}
	m.size, m.root = size, root
	if m.frozen != nil {
		last, err := m.c.LogPolicy.CheckFrozen(m.frozen)
		if err != nil {
			return fmt.Errorf("%s: %w", frozenName, err)
		}
		if last.Origin != m.cp.Origin || last.Size != m.cp.Size || last.Root != m.cp.Root || last.Size != size {
			return fmt.Errorf("%w: it was frozen with %d leaves, and has %d, of which %d are published", ErrInconsistent, last.Size, size, m.cp.Size)
		}
	}
	if m.c.FromDir != "" {
		if m.meta, err = m.from.get(ctx, metaName, 1<<16); err != nil {
			return err
		}
		if !bytes.HasPrefix(m.meta, fmt.Appendf(nil, metaVersion+"\norigin %s\n", m.cp.Origin)) {
			return fmt.Errorf("%s says %q, but the published checkpoint is of %q", metaName, m.meta, m.cp.Origin)
		}
		moved, err := m.from.get(ctx, movedName, 1<<16)
		if err == nil && !bytes.Equal(moved, m.movedText()) {
			return fmt.Errorf("%w: %s says %q", ErrMoved, movedName, moved)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if m.frozen == nil && !m.c.TakeOver {
		return errors.New("the log isn't frozen, and nothing here can keep it from going on where it is: that must be taken on explicitly")
	}
	if m.c.Root == nil {
		return errors.New("the root of quotes must be given")
	}
	m.meta = (&Config{Origin: m.cp.Origin, Root: m.c.Root}).meta()
	return nil
}

func (m *migration) movedText() []byte {
	return fmt.Appendf(nil, "affidavit-moved/v1\nto posix:%s\nsize %d\nroot %x\n", m.c.Dir, m.size, m.root)
}

// openDestination takes the destination, or reports that everything was done before.
func (m *migration) openDestination(ctx context.Context) (done bool, err error) {
	if err := storage.MkdirSync(m.c.Dir); err != nil {
		return false, err
	}
	lock, err := storage.LockDir(m.c.Dir)
	if err != nil {
		return false, err
	}
	m.locks = append(m.locks, lock)
	m.to = storage.NewPosix(m.c.Dir)
	m.to.Fault = m.c.fault
	mark := fmt.Appendf(nil, "affidavit-migration/v1\norigin %s\nfrom %s\n", m.cp.Origin, m.name)
	got, err := m.to.Get(ctx, migratingName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		entries, err := os.ReadDir(m.c.Dir)
		if err != nil {
			return false, err
		}
		for _, e := range entries {
			if e.Name() != storage.LockName && e.Name() != storage.TmpDir {
				return false, fmt.Errorf("%s isn't empty: there is %s", m.c.Dir, e.Name())
			}
		}
		return false, m.to.Put(ctx, migratingName, mark)
	case err != nil:
		return false, err
	case !bytes.Equal(got, mark):
		return false, fmt.Errorf("%s holds another migration: %q", m.c.Dir, got)
	}
	meta, err := m.to.Get(ctx, storage.Meta)
	if errors.Is(err, fs.ErrNotExist) {
		return false, m.to.Clean()
	}
	if err == nil && !bytes.Equal(meta, m.meta) {
		err = fmt.Errorf("%s holds another log: %q", m.c.Dir, meta)
	}
	return err == nil, err
}

// migrationChunk is how many bundles are under way at once at most, a few of them in memory.
const migrationChunk = 64

// copyTree copies the entries, and writes the tiles that follow from them.
func (m *migration) copyTree(ctx context.Context) error {
	rows := make([][][32]byte, 9) // of the partial tiles, by level
	put := func(id tileID) error {
		row := rows[id.level]
		b := make([]byte, 0, len(row)*sha256.Size)
		for _, h := range row {
			b = append(b, h[:]...)
		}
		return m.to.Put(ctx, hashesPath(id, uint64(len(row))), b)
	}
	var push func(id tileID, h [32]byte) error // a hash of the tile id
	push = func(id tileID, h [32]byte) error {
		rows[id.level] = append(rows[id.level], h)
		if len(rows[id.level]) < tileWidth {
			return nil
		}
		if err := put(id); err != nil {
			return err
		}
		sum := rowRoot(rows[id.level])
		rows[id.level] = nil
		return push(tileID{id.level + 1, id.index / tileWidth}, sum)
	}
	full := m.size / tileWidth
	for from := uint64(0); from < full; from += migrationChunk {
		n := min(full-from, migrationChunk)
		sums := make([][32]byte, n)
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(2 * runtime.GOMAXPROCS(0))
		for i := range n {
			g.Go(func() error {
				row, err := m.copyBundle(gctx, from+i, tileWidth)
				if err == nil {
					sums[i] = rowRoot(row)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i, sum := range sums {
			if err := push(tileID{1, (from + uint64(i)) / tileWidth}, sum); err != nil {
				return err
			}
		}
		if f := m.c.Progress; f != nil {
			f((from+n)*tileWidth, m.size)
		}
	}
	if w := m.size % tileWidth; w > 0 {
		var err error
		if rows[0], err = m.copyBundle(ctx, full, w); err != nil {
			return err
		}
	}
	for _, id := range edgeTiles(m.size) {
		if id.level > 0 {
			if err := put(id); err != nil {
				return err
			}
		}
	}
	root := rootAt(m.size, func(id tileID) [][32]byte { return rows[id.level] })
	if root == nil || *root != m.root {
		return fmt.Errorf("%w: the %d entries of %s have the root %x, and it should be %x: audit it with check", ErrInconsistent, m.size, m.name, root, m.root)
	}
	return nil
}

// copyBundle copies an entry bundle, what its leaves name, and its tile, in this order, unless the tile is there. It returns
// the hashes.
func (m *migration) copyBundle(ctx context.Context, index, width uint64) ([][32]byte, error) {
	tile, bundle := hashesPath(tileID{0, index}, width), bundlePath(index, width)
	b, err := m.to.Get(ctx, tile)
	if err == nil {
		if row, ok := parseRow(b, width); ok {
			return row, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s: %s: %s: audit it with check", ErrInconsistent, m.name, bundle, fmt.Sprintf(format, args...))
	}
	if b, err = m.from.get(ctx, m.from.tile(bundle), maxBundle); err != nil {
		return nil, fmt.Errorf("%s: %s: %w", m.name, bundle, err)
	}
	offsets, ok := bundleOffsets(b)
	if !ok || uint64(len(offsets)-1) != width {
		return nil, wrong("it doesn't have %d whole entries", width)
	}
	row := leafHashes(b, offsets)
	t, err := m.from.get(ctx, m.from.tile(tile), maxTile)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", m.name, tile, err)
	}
	if want, ok := parseRow(t, width); !ok || !slices.Equal(row, want) {
		return nil, wrong("its entries don't have the hashes of %s", tile)
	}
	for i := range row {
		leaf := b[offsets[i]+2 : offsets[i+1]]
		if len(leaf) < 2 || record.LeafKind(leaf[1]) != record.LeafCollateral {
			continue
		}
		parsed, err := record.ParseLeaf(leaf)
		if err != nil {
			continue // it has been so since it was logged
		}
		for _, d := range parsed.(*record.CollateralLeaf).Components {
			if err := m.copyBlob(ctx, d); err != nil {
				return nil, fmt.Errorf("leaf %d: %w", index*tileWidth+uint64(i), err)
			}
		}
	}
	if err := m.to.Put(ctx, bundle, b); err != nil {
		return nil, err
	}
	return row, m.to.Put(ctx, tile, t)
}

func (m *migration) copyBlob(ctx context.Context, d record.Digest) error {
	if b, err := m.to.Get(ctx, blobObject(d)); err == nil && sha256.Sum256(b) == d {
		return nil
	}
	b, err := m.from.get(ctx, m.from.blob(d), maxBlob)
	if err != nil {
		return fmt.Errorf("blob %x: %w", d, err)
	}
	if got := sha256.Sum256(b); got != d {
		return fmt.Errorf("%w: blob %x has the digest %x", ErrInconsistent, d, got)
	}
	return m.to.Put(ctx, blobObject(d), b)
}

// copyHeads writes what makes the tiles a tree that Tessera can go on with, and what is published.
func (m *migration) copyHeads(ctx context.Context) error {
	state, err := json.Marshal(struct {
		Size uint64 `json:"size"`
		Root []byte `json:"root"`
	}{m.size, m.root[:]})
	if err != nil {
		return err
	}
	type object struct {
		name string
		data []byte
	}
	puts := []object{{storage.TesseraDir + "/.state/version", []byte("1")}, {storage.TesseraDir + "/.state/treeState", state}}
	if name := m.from.candidate(); name != "" {
		b, err := m.from.get(ctx, name, 1<<16)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil { // it may have been signed, and witnesses may have seen it
			puts = append(puts, object{storage.Candidate, b})
		}
	}
	if m.frozen != nil {
		puts = append(puts, object{frozenName, m.frozen})
	}
	puts = append(puts, object{storage.Published, m.note})
	for _, p := range puts {
		if err := m.to.Put(ctx, p.name, p.data); err != nil {
			return err
		}
	}
	return nil
}

// closeSource makes sure that the log doesn't go on where it was.
func (m *migration) closeSource(ctx context.Context) error {
	switch {
	case m.frozen != nil:
		return nil
	case m.c.FromDir != "":
		from := storage.NewPosix(m.c.FromDir)
		from.Fault = m.c.fault
		return from.Put(ctx, movedName, m.movedText())
	}
	// All that can be seen from here is whether it has gone on.
	note, err := m.from.get(ctx, publishedName, checkpoint.MaxNote)
	if err != nil {
		return fmt.Errorf("%s: published checkpoint: %w", m.name, err)
	}
	now, err := m.c.LogPolicy.Check(note)
	if err != nil {
		return fmt.Errorf("%s: published checkpoint: %w", m.name, err)
	}
	if now.Size != m.cp.Size || now.Root != m.cp.Root {
		return fmt.Errorf("%s has published %d leaves, and had %d when the migration began: it is running: stop it, and give the same command again", m.name, now.Size, m.cp.Size)
	}
	return nil
}

// A urlRepository is a log that is served.
type urlRepository struct {
	prefix string
	client *http.Client
	tilesRepository
}

func newURLRepository(prefix string) *urlRepository {
	return &urlRepository{prefix: prefix, client: &http.Client{Timeout: time.Minute}}
}

// urlAttempts is how often something is asked for when the network or the server fails.
const urlAttempts = 5

func (r *urlRepository) get(ctx context.Context, name string, limit int64) (b []byte, err error) {
	for i := range urlAttempts {
		var again bool
		if b, again, err = r.once(ctx, name, limit); err == nil || !again || ctx.Err() != nil {
			return b, err
		}
		t := time.NewTimer(time.Duration(100<<(2*i)) * time.Millisecond)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil, ctx.Err()
		case <-t.C:
		}
	}
	return nil, err
}

func (r *urlRepository) once(ctx context.Context, name string, limit int64) (b []byte, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.prefix+"/"+name, nil)
	if err != nil {
		return nil, false, err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, true, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, false, fmt.Errorf("%s: %w", req.URL, fs.ErrNotExist)
	case resp.StatusCode != http.StatusOK:
		return nil, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("%s: status %d", req.URL, resp.StatusCode)
	}
	b, err = io.ReadAll(io.LimitReader(resp.Body, limit+1)) // what is left after decompression
	switch {
	case err != nil:
		return nil, true, fmt.Errorf("%s: %w", req.URL, err)
	case int64(len(b)) > limit:
		return nil, false, fmt.Errorf("%s: %w", req.URL, errTooLong)
	}
	return b, false, nil
}

func (r *urlRepository) list(context.Context, func(string) error) error { return errors.ErrUnsupported }
