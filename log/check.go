package sessionlog

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/sync/errgroup"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// CheckConfig configures [Check]. Exactly one of Dir and Tiles is required.
type CheckConfig struct {
	// Dir is a log's directory, as in [Config]. A process may have the log open.
	Dir string

	// Tiles is a directory in the layout of c2sp.org/tlog-tiles instead, with blobs below blob/, such as a mirror's. A
	// process may be updating it.
	Tiles string

	// LogPolicy, if it isn't nil, must accept the published checkpoint.
	LogPolicy *checkpoint.Policy

	// Progress, if it isn't nil, is called now and then with the number of entries that were audited, and of all.
	// Several calls can be under way at once.
	Progress func(done, all uint64)
}

// A CheckSeverity says what a finding of [Check] means.
type CheckSeverity string

const (
	// CheckDamage: what is stored isn't what the log has signed or must have.
	CheckDamage CheckSeverity = "damage"
	// CheckUnread: something couldn't be read, and may be as it should or not.
	CheckUnread CheckSeverity = "unread"
	// CheckHarmless: a leftover, which is never read, never served, and can stay.
	CheckHarmless CheckSeverity = "harmless"
)

// A CheckKind says what [Check] has found. Kinds are stable.
type CheckKind string

const (
	CheckpointMissing CheckKind = "checkpoint-missing" // nothing is published, though the log's time leaves say that something was
	CheckpointInvalid CheckKind = "checkpoint-invalid" // it can't be parsed, is of another log, or the log policy refuses it
	CheckpointOld     CheckKind = "checkpoint-old"     // a time leaf has a later one: it was rolled back
	CheckpointRoot    CheckKind = "checkpoint-root"    // the entries don't have the root that was published
	CandidateInvalid  CheckKind = "candidate-invalid"  // what was to be published last isn't of this tree
	StateMissing      CheckKind = "state-missing"      // the tree's state is missing or can't be parsed: the log can't append
	StateRoot         CheckKind = "state-root"         // the entries don't have the root of the tree's state
	EntriesLost       CheckKind = "entries-lost"       // the tree has fewer entries than were published
	BundleMissing     CheckKind = "bundle-missing"     // an entry bundle that must be there isn't
	BundleMalformed   CheckKind = "bundle-malformed"   // it doesn't consist of whole entries
	BundleShort       CheckKind = "bundle-short"       // it has fewer entries than it must have
	BundleSurplus     CheckKind = "bundle-surplus"     // it has more entries than it may have
	EntryChanged      CheckKind = "entry-changed"      // an entry isn't the one whose hash is in the tree
	TileMissing       CheckKind = "tile-missing"       // a tile of hashes that must be there isn't
	TileLength        CheckKind = "tile-length"        // a tile has too few or too many hashes, or a part of one
	TileChanged       CheckKind = "tile-changed"       // a tile has other hashes than what is below it gives
	BlobMissing       CheckKind = "blob-missing"       // a component of collateral that a leaf names isn't there
	BlobChanged       CheckKind = "blob-changed"       // it isn't the one that the leaf names
	MetaInvalid       CheckKind = "meta-invalid"       // the file that makes the directory a log's is of another log
	ReadError         CheckKind = "read-error"         // something couldn't be read
	OrphanTile        CheckKind = "orphan-tile"        // a tile or bundle of a size that the log doesn't have: left by a crash, or being written
	OldPartial        CheckKind = "old-partial"        // partial tiles and bundles for which there are wider ones
	TempFile          CheckKind = "temp-file"          // a file that was being written when the log crashed, or is now
	UnknownFile       CheckKind = "unknown-file"       // a file that isn't the log's
)

// A CheckFinding is one thing that [Check] has found.
type CheckFinding struct {
	Kind     CheckKind     `json:"kind"`
	Severity CheckSeverity `json:"severity"`
	Name     string        `json:"name,omitempty"`  // of the file or object
	Index    *uint64       `json:"index,omitempty"` // of the first entry that it concerns
	Text     string        `json:"text"`            // for people
}

// maxFindings bounds the findings that a report lists. All are counted.
const maxFindings = 1000

// A CheckReport is what [Check] has found.
type CheckReport struct {
	Origin     string `json:"origin"`
	Published  uint64 `json:"published"`  // size of the published checkpoint
	Integrated uint64 `json:"integrated"` // size of the tree
	Root       string `json:"root"`       // of the published checkpoint, in hexadecimal
	Bundles    uint64 `json:"bundles"`    // entry bundles that were audited
	Tiles      uint64 `json:"tiles"`      // tiles of hashes that were audited
	Blobs      uint64 `json:"blobs"`      // components of collateral that were audited

	Damage   uint64 `json:"damage"`   // number of findings of each severity
	Unread   uint64 `json:"unread"`   //
	Harmless uint64 `json:"harmless"` //

	// Findings are at most 1,000 of them, the gravest first, and otherwise by what they concern.
	Findings []CheckFinding `json:"findings"`
}

// A repository is where a log is stored, for reading.
type repository interface {
	// get returns an object. The error wraps fs.ErrNotExist if there is none, and errTooLong if it has more than limit bytes.
	get(ctx context.Context, name string, limit int64) ([]byte, error)

	// list calls f with the name of each object, in any order.
	list(ctx context.Context, f func(name string) error) error

	// state returns size and root of the tree that is integrated. ok is false if the repository keeps none, and is
	// complete up to what is published.
	state(ctx context.Context) (size uint64, root [32]byte, ok bool, err error)

	// tile returns the name of a tile or bundle whose path in a tiled log is given; blob that of a blob.
	tile(path string) string
	blob(d record.Digest) string

	// meta is the name of the file that has the origin, "" if there is none; candidate that of what is to be published.
	meta() string
	candidate() string

	// class says what an object is that is neither a tile nor a bundle: "" if the log has such objects.
	class(name string) CheckKind
}

var (
	errTooLong = errors.New("too long")
	errState   = errors.New("the tree's state is missing or malformed")
)

const (
	maxBundle = tileWidth * (2 + 1<<16 - 1)
	maxTile   = tileWidth * sha256.Size
	maxBlob   = 16 << 20
)

// Check audits what is stored against the published checkpoint. It reads every bundle, computes every tile and the
// roots from the entries, and compares them with what is stored; so it does with blobs and what collateral leaves name,
// and with every file that lies about. Where something differs it finds out which side the tree's root confirms. It reads
// only, needs a few hundred megabytes at most however large the log is, and takes no lock: what a process appends
// meanwhile is left for the next audit.
//
// The error says why nothing could be audited: it wraps ErrNoLog if there is no log. All else is in the report, see
// [CheckReport.Err].
func Check(ctx context.Context, c CheckConfig) (*CheckReport, error) {
	var repo repository
	switch {
	case c.Dir != "" && c.Tiles == "":
		if err := Exists(c.Dir); err != nil {
			return nil, err
		}
		repo = posixRepository{dirFiles{c.Dir}}
	case c.Tiles != "" && c.Dir == "":
		repo = tilesRepository{dirFiles{c.Tiles}}
		if _, err := repo.get(ctx, publishedName, 0); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s has no checkpoint", ErrNoLog, c.Tiles)
		}
	default:
		return nil, errors.New("either the log's directory or one with tiles must be given")
	}
	return check(ctx, repo, c)
}

func check(ctx context.Context, repo repository, c CheckConfig) (*CheckReport, error) {
	a := &audit{repo: repo, cfg: c, jobs: runtime.GOMAXPROCS(0), watched: map[tileID][][32]byte{}, blobs: map[record.Digest]bool{}}
	if err := a.run(ctx); err != nil {
		return nil, err
	}
	return a.finish(), nil
}

// Err returns nil if nothing is damaged, and everything could be read. Harmless leftovers are no error.
func (r *CheckReport) Err() error {
	switch {
	case r.Damage > 0:
		return fmt.Errorf("%d of what is stored is damaged: %s", r.Damage, r.Findings[0].String())
	case r.Unread > 0:
		return fmt.Errorf("%d of what is stored couldn't be read: %s", r.Unread, r.Findings[0].String())
	}
	return nil
}

func (f *CheckFinding) String() string {
	if f.Name == "" {
		return fmt.Sprintf("%s: %s", f.Kind, f.Text)
	}
	return fmt.Sprintf("%s: %s: %s", f.Kind, f.Name, f.Text)
}

// An audit is the state of one Check.
type audit struct {
	repo repository
	cfg  CheckConfig
	jobs int

	published *checkpoint.Checkpoint // nil if there is none, or it can't be parsed
	candidate *checkpoint.Checkpoint
	size      uint64    // of the tree that is audited
	root      *[32]byte // of that, nil if nothing says it
	state     *[32]byte // root of the tree's state, nil if there is none
	edge      map[tileID][][32]byte
	last      []byte // the partial entry bundle, if there is one; nil if there is none, or it couldn't be read

	mu      sync.Mutex // guards what follows
	report  CheckReport
	done    uint64
	watched map[tileID][][32]byte  // rows of hashes, as computed from the entries, that roots depend on
	blobs   map[record.Digest]bool // that were audited; bounded
	noted   uint64                 // the largest size in a time leaf
}

// add adds a finding. It can be called concurrently.
func (a *audit) add(kind CheckKind, s CheckSeverity, name string, index *uint64, format string, args ...any) {
	f := CheckFinding{Kind: kind, Severity: s, Name: name, Index: index, Text: fmt.Sprintf(format, args...)}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := &a.report
	switch s {
	case CheckDamage:
		r.Damage++
	case CheckUnread:
		r.Unread++
	default:
		r.Harmless++
	}
	if len(r.Findings) == 2*maxFindings {
		a.trim()
	}
	r.Findings = append(r.Findings, f)
}

var gravity = map[CheckSeverity]int{CheckDamage: 0, CheckUnread: 1, CheckHarmless: 2}

// trim keeps the gravest findings.
func (a *audit) trim() {
	slices.SortStableFunc(a.report.Findings, func(x, y CheckFinding) int {
		if d := gravity[x.Severity] - gravity[y.Severity]; d != 0 {
			return d
		}
		if x.Index != nil && y.Index != nil && *x.Index != *y.Index {
			if *x.Index < *y.Index {
				return -1
			}
			return 1
		}
		return strings.Compare(x.Name, y.Name)
	})
	a.report.Findings = a.report.Findings[:min(len(a.report.Findings), maxFindings)]
}

func (a *audit) finish() *CheckReport {
	a.trim()
	if a.report.Findings == nil {
		a.report.Findings = []CheckFinding{}
	}
	return &a.report
}

// failed adds the finding for an error of the repository, and reports whether it was one that isn't about the object.
func (a *audit) failed(kind CheckKind, name string, index *uint64, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		a.add(kind, CheckDamage, name, index, "it isn't there")
		return
	}
	a.add(ReadError, CheckUnread, name, index, "%v", err)
}

func (a *audit) run(ctx context.Context) error {
	if err := a.heads(ctx); err != nil {
		return err
	}
	if err := a.authenticate(ctx); err != nil {
		return err
	}
	if err := a.tree(ctx); err != nil {
		return err
	}
	a.compare()
	return a.leftovers(ctx)
}

// heads reads what says which tree there should be, and the tree's right edge, which changes as the log grows.
func (a *audit) heads(ctx context.Context) error {
	if meta := a.repo.meta(); meta != "" {
		b, err := a.repo.get(ctx, meta, 1<<16)
		if err != nil {
			return err
		}
		lines := strings.Split(string(b), "\n")
		if origin, ok := strings.CutPrefix(lines[min(1, len(lines)-1)], "origin "); ok && lines[0] == metaVersion {
			a.report.Origin = origin
		} else {
			a.add(MetaInvalid, CheckDamage, meta, nil, "it begins with %.40q, and this command knows logs of version %s", lines[0], metaVersion)
		}
	}
	for attempt := 0; ; attempt++ {
		published, problem, err := a.readPublished(ctx)
		if err != nil {
			return err
		}
		size, root, ok, serr := a.repo.state(ctx)
		switch {
		case serr != nil && ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(serr, errState):
		case serr != nil:
			return fmt.Errorf("reading the tree's state: %w", serr)
		}
		a.published, a.size, a.root, a.state = published, size, nil, nil
		switch {
		case ok:
			a.root, a.state = &root, &root
			if published != nil && published.Size == size {
				a.root = &published.Root // signed
			}
		case published != nil:
			a.size, a.root = published.Size, &published.Root
		}
		missing, err := a.readEdge(ctx)
		if err != nil {
			return err
		}
		if missing && attempt < 10 {
			// A process that has the log open may have removed what was just superseded.
			again, _, _, err := a.repo.state(ctx)
			now, _, perr := a.readPublished(ctx)
			if err == nil && perr == nil && (again != size || now != nil && published != nil && now.Size != published.Size) {
				continue
			}
		}
		if problem != nil {
			a.add(problem.Kind, problem.Severity, problem.Name, nil, "%s", problem.Text)
		}
		if serr != nil {
			a.add(StateMissing, CheckDamage, "", nil, "%v", serr)
		}
		break
	}
	if p := a.published; p != nil {
		a.report.Published, a.report.Root = p.Size, hex.EncodeToString(p.Root[:])
		if a.report.Origin == "" {
			a.report.Origin = p.Origin
		} else if a.report.Origin != p.Origin {
			a.add(CheckpointInvalid, CheckDamage, publishedName, nil, "it is of the log %q, not %q", p.Origin, a.report.Origin)
		}
		if p.Size > a.size {
			size := a.size
			a.add(EntriesLost, CheckDamage, "", &size, "the tree has %d entries, and %d were published: going on from here would fork the log", a.size, p.Size)
		}
	}
	a.report.Integrated = a.size
	a.readCandidate(ctx)
	return nil
}

// readPublished returns the published checkpoint, nil if there is none that can be used, and what is wrong with it.
func (a *audit) readPublished(ctx context.Context) (*checkpoint.Checkpoint, *CheckFinding, error) {
	wrong := func(err error) (*checkpoint.Checkpoint, *CheckFinding, error) {
		return nil, &CheckFinding{Kind: CheckpointInvalid, Severity: CheckDamage, Name: publishedName, Text: err.Error()}, nil
	}
	b, err := a.repo.get(ctx, publishedName, checkpoint.MaxNote)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, nil
	case errors.Is(err, errTooLong):
		return wrong(err)
	case err != nil:
		return nil, nil, fmt.Errorf("published checkpoint: %w", err)
	}
	n, err := checkpoint.ParseNote(b)
	if err != nil {
		return wrong(err)
	}
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		return wrong(err)
	}
	if a.cfg.LogPolicy != nil {
		if _, err := a.cfg.LogPolicy.Check(b); err != nil {
			// Its size and root are still what is to be compared with.
			return &cp, &CheckFinding{Kind: CheckpointInvalid, Severity: CheckDamage, Name: publishedName, Text: err.Error()}, nil
		}
	}
	return &cp, nil, nil
}

func (a *audit) readCandidate(ctx context.Context) {
	name := a.repo.candidate()
	if name == "" {
		return
	}
	b, err := a.repo.get(ctx, name, 1<<16)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil && !errors.Is(err, errTooLong):
		a.failed(CandidateInvalid, name, nil, err)
		return
	}
	cp, perr := checkpoint.ParseCheckpoint(b)
	switch {
	case err != nil || perr != nil:
		a.add(CandidateInvalid, CheckDamage, name, nil, "%v", cmp.Or(err, perr))
	case a.report.Origin != "" && cp.Origin != a.report.Origin:
		a.add(CandidateInvalid, CheckDamage, name, nil, "it is of the log %q", cp.Origin)
	case cp.Size > a.size:
		// Of a running log it may be newer than the tree that is audited.
		if now, _, ok, err := a.repo.state(ctx); err == nil && ok && cp.Size <= now {
			return
		}
		size := a.size
		a.add(EntriesLost, CheckDamage, name, &size, "the tree has %d entries, and a checkpoint of %d may have been signed: going on from here would fork the log", a.size, cp.Size)
	default:
		a.candidate = &cp
	}
}

// edgeTiles returns the partial tiles of a tree, from the highest level, which begins at leaf 0, to the lowest.
func edgeTiles(size uint64) []tileID {
	var ids []tileID
	for level := uint64(8); level > 0; {
		level--
		if n := size >> (8 * level); n%tileWidth != 0 {
			ids = append(ids, tileID{level, n / tileWidth})
		}
	}
	return ids
}

func hashesPath(id tileID, width uint64) string {
	return layout.TilePath(id.level, id.index, uint8(width%tileWidth))
}

func bundlePath(index, width uint64) string { return layout.EntriesPath(index, uint8(width%tileWidth)) }

// readEdge reads the partial tiles and the partial bundle, and reports whether one is missing.
func (a *audit) readEdge(ctx context.Context) (missing bool, err error) {
	a.edge, a.last = map[tileID][][32]byte{}, nil
	for _, id := range edgeTiles(a.size) {
		b, err := a.repo.get(ctx, a.repo.tile(hashesPath(id, widthAt(id, a.size))), maxTile)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		missing = missing || errors.Is(err, fs.ErrNotExist)
		if err == nil {
			if row, ok := parseRow(b, widthAt(id, a.size)); ok {
				a.edge[id] = row
			}
		}
	}
	if w := a.size % tileWidth; w != 0 {
		b, err := a.repo.get(ctx, a.repo.tile(bundlePath(a.size/tileWidth, w)), maxBundle)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		missing = missing || errors.Is(err, fs.ErrNotExist)
		if err == nil {
			a.last = b
		}
	}
	return missing, nil
}

func parseRow(b []byte, width uint64) ([][32]byte, bool) {
	if uint64(len(b)) != width*sha256.Size {
		return nil, false
	}
	row := make([][32]byte, width)
	for i := range row {
		copy(row[i][:], b[i*sha256.Size:])
	}
	return row, true
}

// rowRoot returns the hash of the tree over a row whose length is a power of two.
func rowRoot(row [][32]byte) [32]byte {
	row = slices.Clone(row)
	for len(row) > 1 {
		for i := range len(row) / 2 {
			row[i] = hashChildren(row[2*i], row[2*i+1])
		}
		row = row[:len(row)/2]
	}
	return row[0]
}

// rootAt returns the root of the first size leaves, given rows of hashes, nil if one that is needed isn't there.
func rootAt(size uint64, row func(tileID) [][32]byte) *[32]byte {
	var hashes [][]byte
	for _, n := range compact.RangeNodes(0, size, nil) {
		level, in := uint64(n.Level/8), n.Level%8
		id := tileID{level, n.Index >> (8 - in)}
		first := (n.Index - id.index<<(8-in)) << in
		r := row(id)
		if uint64(len(r)) < first+1<<in {
			return nil
		}
		h := rowRoot(r[first : first+1<<in])
		hashes = append(hashes, h[:])
	}
	rng, err := rangeFactory.NewRange(0, size, hashes)
	if err != nil {
		return nil
	}
	root, err := rangeRoot(rng)
	if err != nil {
		return nil
	}
	return &root
}

// authenticate finds out which of the partial tiles are those of the root, and replaces others by what is below them,
// if that has it. If none are, nothing above an entry is to be trusted.
func (a *audit) authenticate(ctx context.Context) error {
	if a.root == nil || a.size == 0 {
		a.edge = map[tileID][][32]byte{}
		return nil
	}
	ids := edgeTiles(a.size)
	stored := func(id tileID) [][32]byte { return a.edge[id] }
	if root := rootAt(a.size, stored); root != nil && *root == *a.root {
		return nil
	}
	// Each tile is as it is stored or as it follows from the tiles or entries below. There are eight at most.
	below := map[tileID][][32]byte{}
	for _, id := range ids {
		width := widthAt(id, a.size)
		if id.level == 0 {
			if offsets, ok := bundleOffsets(a.last); ok && uint64(len(offsets)) > width {
				below[id] = leafHashes(a.last, offsets)[:width]
			}
			continue
		}
		var row [][32]byte
		for i := range width {
			b, err := a.repo.get(ctx, a.repo.tile(hashesPath(tileID{id.level - 1, id.index*tileWidth + i}, tileWidth)), maxTile)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			child, ok := parseRow(b, tileWidth)
			if err != nil || !ok {
				break
			}
			row = append(row, rowRoot(child))
		}
		if uint64(len(row)) == width {
			below[id] = row
		}
	}
	for choice := range 1 << len(ids) {
		row := func(id tileID) [][32]byte {
			if choice>>slices.Index(ids, id)&1 == 1 {
				return below[id]
			}
			return a.edge[id]
		}
		if root := rootAt(a.size, row); root == nil || *root != *a.root {
			continue
		}
		right := map[tileID][][32]byte{}
		for _, id := range ids {
			right[id] = row(id)
		}
		a.edge = right
		return nil
	}
	a.edge = map[tileID][][32]byte{}
	return nil
}

func leafHashes(bundle []byte, offsets []int) [][32]byte {
	row := make([][32]byte, len(offsets)-1)
	for i := range row {
		row[i] = record.LeafHash(bundle[offsets[i]+2 : offsets[i+1]])
	}
	return row
}

// tree audits all tiles and bundles, and keeps the rows that the roots depend on.
func (a *audit) tree(ctx context.Context) error {
	watch := func(size uint64) {
		for _, n := range compact.RangeNodes(0, size, nil) {
			a.watched[tileID{uint64(n.Level / 8), n.Index >> (8 - n.Level%8)}] = nil
		}
	}
	watch(a.size)
	if a.published != nil && a.published.Size <= a.size {
		watch(a.published.Size)
	}
	if a.candidate != nil {
		watch(a.candidate.Size)
	}
	for _, id := range edgeTiles(a.size) {
		width := widthAt(id, a.size)
		stored, err := a.row(ctx, id, width)
		if err != nil {
			return err
		}
		trusted := a.edge[id]
		got, err := a.children(ctx, id, width, trusted, stored)
		if err != nil {
			return err
		}
		switch {
		case stored == nil || slices.Equal(stored, got):
		case trusted != nil:
			a.tileChanged(id, width, stored, got)
		default:
			a.contradiction(id, width, stored, got)
		}
	}
	return nil
}

// row reads the row of hashes of a tile. If it can't be used it is nil, and a finding says why.
func (a *audit) row(ctx context.Context, id tileID, width uint64) ([][32]byte, error) {
	name := a.repo.tile(hashesPath(id, width))
	first := id.first()
	b, err := a.repo.get(ctx, name, maxTile)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	a.mu.Lock()
	a.report.Tiles++
	a.mu.Unlock()
	if errors.Is(err, fs.ErrNotExist) && width < tileWidth {
		// A process that has the log open may have superseded it since. The wider one was compared when it was written.
		if now, _, ok, serr := a.repo.state(ctx); serr == nil && ok && now > a.size {
			return a.edge[id], nil
		}
	}
	switch {
	case errors.Is(err, errTooLong):
		a.add(TileLength, CheckDamage, name, &first, "it has more than %d bytes", width*sha256.Size)
		return nil, nil
	case err != nil:
		a.failed(TileMissing, name, &first, err)
		return nil, nil
	}
	row, ok := parseRow(b, width)
	if !ok {
		a.add(TileLength, CheckDamage, name, &first, "it has %d bytes, not %d", len(b), width*sha256.Size)
	}
	return row, nil
}

// first returns the index of the first leaf below a tile.
func (id tileID) first() uint64 { return id.index << (8 * (id.level + 1)) }

// full audits a full tile and everything below it. The tree says that its hash is want, unless that is nil. It returns
// that hash, or if nothing says it, the one that follows from the entries.
func (a *audit) full(ctx context.Context, id tileID, want *[32]byte) ([32]byte, error) {
	stored, err := a.row(ctx, id, tileWidth)
	if err != nil {
		return [32]byte{}, err
	}
	var trusted [][32]byte
	if stored != nil && want != nil && rowRoot(stored) == *want {
		trusted = stored
	}
	got, err := a.children(ctx, id, tileWidth, trusted, stored)
	if err != nil {
		return [32]byte{}, err
	}
	sum := rowRoot(got)
	first := id.first()
	switch {
	case trusted != nil:
		return *want, nil
	case want == nil:
		if stored != nil && !slices.Equal(stored, got) {
			a.contradiction(id, tileWidth, stored, got)
		}
		return sum, nil
	case sum == *want:
		if stored != nil {
			a.tileChanged(id, tileWidth, stored, got)
		}
		return sum, nil
	case stored != nil && slices.Equal(stored, got):
		a.add(EntryChanged, CheckDamage, a.repo.tile(hashesPath(id, tileWidth)), &first,
			"of the entries %d to %d, and of the tiles over them, some were changed: they agree with each other, but not with the rest of the tree", first, first+1<<(8*(id.level+1))-1)
	case stored != nil:
		a.contradiction(id, tileWidth, stored, got)
	}
	return *want, nil
}

func (a *audit) tileChanged(id tileID, width uint64, stored, got [][32]byte) {
	i, n := differ(stored, got)
	first := id.first() + i<<(8*id.level)
	a.add(TileChanged, CheckDamage, a.repo.tile(hashesPath(id, width)), &first, "%s not what is below it gives, the first at %d", count(n, "hash is", "hashes are"), i)
}

func (a *audit) contradiction(id tileID, width uint64, stored, got [][32]byte) {
	i, n := differ(stored, got)
	first := id.first() + i<<(8*id.level)
	a.add(TileChanged, CheckDamage, a.repo.tile(hashesPath(id, width)), &first,
		"%s not what is below it gives, the first at %d, and nothing that is undamaged says which of the two is right", count(n, "hash is", "hashes are"), i)
}

// differ returns where two rows of one length differ first, and in how many places.
func differ(x, y [][32]byte) (first, n uint64) {
	for i := range x {
		if x[i] != y[i] {
			if n == 0 {
				first = uint64(i)
			}
			n++
		}
	}
	return first, n
}

func count(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + many
}

// children audits what is below a tile, and returns the row that the tile should have: trusted, if that isn't nil.
// stored is what the tile has, nil if it can't be used.
func (a *audit) children(ctx context.Context, id tileID, width uint64, trusted, stored [][32]byte) ([][32]byte, error) {
	got, err := a.below(ctx, id, width, trusted, stored)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.watched[id]; ok {
		a.watched[id] = got
	}
	return got, nil
}

func (a *audit) below(ctx context.Context, id tileID, width uint64, trusted, stored [][32]byte) ([][32]byte, error) {
	if id.level == 0 {
		return a.bundle(ctx, id.index, width, trusted, stored)
	}
	got := make([][32]byte, width)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(1)
	if id.level == 1 {
		g.SetLimit(a.jobs) // entry bundles are nearly all there is to read
	}
	for i := range width {
		g.Go(func() (err error) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var want *[32]byte
			if trusted != nil {
				want = &trusted[i]
			}
			got[i], err = a.full(ctx, tileID{id.level - 1, id.index*tileWidth + i}, want)
			return err
		})
	}
	return got, g.Wait()
}

// bundle audits an entry bundle, and what its leaves name.
func (a *audit) bundle(ctx context.Context, index, width uint64, trusted, stored [][32]byte) ([][32]byte, error) {
	name := a.repo.tile(bundlePath(index, width))
	first := index * tileWidth
	fallback := trusted
	if fallback == nil {
		fallback = stored
	}
	if fallback == nil {
		fallback = make([][32]byte, width)
	}
	var b []byte
	var err error
	if width < tileWidth && a.last != nil {
		b = a.last
	} else {
		b, err = a.repo.get(ctx, name, maxBundle)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	defer a.progress(width)
	switch {
	case errors.Is(err, errTooLong):
		a.add(BundleSurplus, CheckDamage, name, &first, "it has more than the %d bytes that %d entries can have", maxBundle, tileWidth)
		return fallback, nil
	case err != nil:
		a.failed(BundleMissing, name, &first, err)
		return fallback, nil
	}
	offsets, ok := bundleOffsets(b)
	if !ok {
		offsets = wholeEntries(b)
		a.add(BundleMalformed, CheckDamage, name, &first, "after %s comes a part of one", count(uint64(len(offsets)-1), "entry", "entries"))
	}
	switch n := uint64(len(offsets) - 1); {
	case n < width:
		if ok {
			a.add(BundleShort, CheckDamage, name, &first, "it has %s, not %d", count(n, "entry", "entries"), width)
		}
	case n > width:
		a.add(BundleSurplus, CheckDamage, name, &first, "it has %s, not %d", count(n, "entry", "entries"), width)
		offsets = offsets[:width+1]
	}
	got := leafHashes(b, offsets)
	for i := range got {
		if ok && trusted != nil && trusted[i] != got[i] {
			at := first + uint64(i)
			_, n := differ(trusted[:len(got)], got)
			a.add(EntryChanged, CheckDamage, name, &at, "%s not what the tree has, the first at %d", count(n, "entry is", "entries are"), at)
			break
		}
	}
	for i := range got {
		if trusted == nil || trusted[i] == got[i] {
			if err := a.leaf(ctx, first+uint64(i), b[offsets[i]+2:offsets[i+1]]); err != nil {
				return nil, err
			}
		}
	}
	if trusted != nil {
		return trusted, nil
	}
	return append(got, fallback[len(got):]...), nil
}

// wholeEntries is bundleOffsets up to the first entry that isn't whole.
func wholeEntries(b []byte) []int {
	offsets := []int{0}
	for off := 0; len(b)-off >= 2; offsets = append(offsets, off) {
		off += 2 + (int(b[off])<<8 | int(b[off+1]))
		if off > len(b) || len(offsets) > tileWidth {
			break
		}
	}
	return offsets
}

func (a *audit) progress(width uint64) {
	a.mu.Lock()
	a.done += width
	a.report.Bundles++
	done := a.done
	a.mu.Unlock()
	if f := a.cfg.Progress; f != nil {
		f(done, a.size)
	}
}

// rememberedBlobs bounds the memory for blobs that were audited. Beyond it they are audited again when a leaf names them.
const rememberedBlobs = 1 << 18

// leaf audits what a leaf says of the storage: that blobs are there, and that a checkpoint was published.
func (a *audit) leaf(ctx context.Context, index uint64, b []byte) error {
	if len(b) < 2 {
		return nil
	}
	switch record.LeafKind(b[1]) {
	case record.LeafTime, record.LeafCollateral:
	default:
		return nil
	}
	leaf, err := record.ParseLeaf(b)
	if err != nil {
		return nil // what was logged is for monitors to judge
	}
	switch leaf := leaf.(type) {
	case *record.TimeLeaf:
		n, err := checkpoint.ParseNote(leaf.Note)
		if err != nil {
			return nil
		}
		if cp, err := checkpoint.ParseCheckpoint(n.Text); err == nil {
			a.mu.Lock()
			a.noted = max(a.noted, cp.Size)
			a.mu.Unlock()
		}
	case *record.CollateralLeaf:
		for _, d := range leaf.Components {
			if err := a.checkBlob(ctx, index, d); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *audit) checkBlob(ctx context.Context, index uint64, d record.Digest) error {
	a.mu.Lock()
	seen := a.blobs[d]
	if len(a.blobs) >= rememberedBlobs {
		clear(a.blobs)
	}
	a.blobs[d] = true
	if !seen {
		a.report.Blobs++
	}
	a.mu.Unlock()
	if seen {
		return nil
	}
	name := a.repo.blob(d)
	b, err := a.repo.get(ctx, name, maxBlob)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errTooLong):
		a.add(BlobChanged, CheckDamage, name, &index, "it has more than %d bytes", maxBlob)
	case err != nil:
		a.failed(BlobMissing, name, &index, err)
	case sha256.Sum256(b) != d:
		a.add(BlobChanged, CheckDamage, name, &index, "its SHA-256 is %x", sha256.Sum256(b))
	}
	return nil
}

// compare compares the roots of what was read with those that were signed.
func (a *audit) compare() {
	row := func(id tileID) [][32]byte { return a.watched[id] }
	if p := a.published; p != nil && p.Size <= a.size {
		if root := rootAt(p.Size, row); root == nil || *root != p.Root {
			a.add(CheckpointRoot, CheckDamage, publishedName, nil, "of %d entries it has the root %x, and what is stored %s", p.Size, p.Root, rootText(root))
		}
	}
	if c := a.candidate; c != nil {
		if root := rootAt(c.Size, row); root == nil || *root != c.Root {
			a.add(CandidateInvalid, CheckDamage, a.repo.candidate(), nil, "of %d entries it has the root %x, and what is stored %s", c.Size, c.Root, rootText(root))
		}
	}
	if a.state != nil {
		if root := rootAt(a.size, row); root == nil || *root != *a.state {
			a.add(StateRoot, CheckDamage, "", nil, "of %d entries the tree's state has the root %x, and what is stored %s", a.size, *a.state, rootText(root))
		}
	}
	switch {
	case a.published == nil && a.report.Damage == 0 && a.noted > 0:
		a.add(CheckpointMissing, CheckDamage, publishedName, nil, "nothing is published, but a time leaf has a checkpoint of %d entries that was", a.noted)
	case a.published != nil && a.noted > a.published.Size && a.published.Size <= a.size:
		a.add(CheckpointOld, CheckDamage, publishedName, nil, "it has %d entries, and a time leaf has one of %d that was published before", a.published.Size, a.noted)
	}
}

func rootText(root *[32]byte) string {
	if root == nil {
		return "too little to give one"
	}
	return fmt.Sprintf("gives %x", *root)
}

// leftovers looks at the names of everything that is stored.
func (a *audit) leftovers(ctx context.Context) error {
	// The log may have grown since: what was written then is no orphan.
	size := a.size
	if now, _, ok, err := a.repo.state(ctx); err == nil && ok && now > size {
		size = now
	}
	prefix := strings.TrimSuffix(a.repo.tile("tile/"), "/") + "/"
	var partials uint64
	err := a.repo.list(ctx, func(name string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			switch kind := a.repo.class(name); kind {
			case "":
			case TempFile:
				a.add(kind, CheckHarmless, name, nil, "it was being written when the log crashed, or is now")
			default:
				a.add(kind, CheckHarmless, name, nil, "it isn't the log's")
			}
			return nil
		}
		id, width, ok := parseResource(rest)
		have := widthAt(id, size)
		switch {
		case !ok && isTemp(rest):
			a.add(TempFile, CheckHarmless, name, nil, "it was being written when the log crashed, or is now")
		case !ok:
			a.add(UnknownFile, CheckHarmless, name, nil, "it isn't the log's")
		case width > have:
			first := id.first()
			a.add(OrphanTile, CheckHarmless, name, &first, "the tree has %d entries, and no such resource: it is being written, or was when the log crashed; it isn't served, and is overwritten when the log gets there", size)
		case width < have && width < tileWidth:
			partials++
		}
		return nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		a.add(ReadError, CheckUnread, "", nil, "listing what is stored: %v", err)
	}
	if partials > 0 {
		a.add(OldPartial, CheckHarmless, "", nil, "%s superseded by wider ones, and not removed yet", count(partials, "partial tile or bundle is", "partial tiles and bundles are"))
	}
	return nil
}

// parseResource parses what follows "tile/" in the path of a tile or bundle, which counts as of level 0.
func parseResource(path string) (id tileID, width uint64, ok bool) {
	level, rest, ok := strings.Cut(path, "/")
	if !ok {
		return id, 0, false
	}
	if level != "entries" {
		n, err := strconv.ParseUint(level, 10, 6)
		if err != nil || strconv.FormatUint(n, 10) != level {
			return id, 0, false
		}
		id.level = n
	}
	index, width, err := parseTilePath(rest)
	if err != nil {
		return id, 0, false
	}
	id.index = index
	return id, width, true
}

// isTemp reports whether a path is that of a tile or bundle with digits behind, as Tessera writes them first.
func isTemp(path string) bool {
	for i := len(path) - 1; i > 0 && path[i] >= '0' && path[i] <= '9'; i-- {
		if _, _, ok := parseResource(path[:i]); ok {
			return true
		}
	}
	return false
}

// parseState parses Tessera's state of a tree on POSIX.
func parseState(b []byte) (size uint64, root [32]byte, err error) {
	var s struct {
		Size *uint64 `json:"size"`
		Root []byte  `json:"root"`
	}
	if err := json.Unmarshal(bytes.TrimSpace(b), &s); err != nil || s.Size == nil || len(s.Root) != len(root) {
		return 0, root, fmt.Errorf("%w: %.80q", errState, b)
	}
	return *s.Size, [32]byte(s.Root), nil
}
