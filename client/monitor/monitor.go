// Package monitor follows a log and redoes everything that it claims to have done: it recomputes the tree's root from the
// entries, verifies every record again with its own collateral, compares the log's checkpoints with all that it and the
// witnesses have seen before, and keeps an index of what it found. README.md beside this file says what it checks, what
// each kind of [Finding] means, and what the monitor itself trusts.
package monitor

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Config configures [Open]. Fields are required unless they name a default or are said to be optional.
type Config struct {
	// Log reads from the log. Its own log policy isn't used.
	Log *client.Client

	// LogPolicy says whose checkpoints to accept.
	LogPolicy *checkpoint.Policy

	// AllowQuorumNone accepts a log policy that says "quorum none". Without witnesses a log can show the monitor a
	// history of its own, and no time is proven.
	AllowQuorumNone bool

	// Origin is the log's. It defaults to that of the log policy, if it names only one.
	Origin string

	// Dir is where the monitor keeps what it knows, in its subfolder "db". Only one monitor can use it.
	Dir string

	// Root is what hardware is trusted under. It defaults to Intel's.
	Root *tdx.Root

	// Appraisal is optional. The audit doesn't depend on it: it is for those who ask which records are good enough.
	Appraisal *verifier.Policy

	// Watch has what to raise findings for although nothing is wrong. It is optional.
	Watch Watch

	// PCS is optional: what the log's collateral should be no older than.
	PCS pcs.Source

	// Witnesses are whom to ask which checkpoints of the log they have seen. They needn't be those of the log policy; a
	// checkpoint that one shows counts by the log's signature. Optional, and all the protection there is against a log
	// that shows the monitor another history than everybody else, if the log policy's quorum can be bribed.
	Witnesses []Witness

	// Interval is the time between polls. It defaults to 10 seconds.
	Interval time.Duration

	// MaxFreshnessAge is how old the checkpoint that a statement was made after may be at its admission. It defaults to
	// verifier.DefaultMaxFreshnessAge. An operator can admit older ones; they are findings, but not grave ones.
	MaxFreshnessAge time.Duration
	// MaxWidth is how wide the proven interval of a statement may be. It defaults to verifier.DefaultMaxWidth.
	MaxWidth time.Duration
	// UnpairedAfter is how long after its start, by the log's clock, a session must have ended. It defaults to 7 days.
	UnpairedAfter time.Duration
	// SequenceGrace is how long, by the log's clock, the starts of sessions that were numbered before others may be
	// missing. It defaults to an hour.
	SequenceGrace time.Duration
	// DeadAfter is how long no checkpoint may be readable, and a witness not be reached. It defaults to 15 minutes.
	DeadAfter time.Duration
	// FrozenAfter is how old the newest cosignature of a checkpoint may be. It defaults to an hour.
	FrozenAfter time.Duration
	// StaleAfter is how long records may be judged by collateral for which PCS has newer. It defaults to 48 hours.
	StaleAfter time.Duration

	// Workers is how many entries are verified at once. It defaults to the number of processors.
	Workers int
	// Reads is how many requests to the log may be under way at once. It defaults to 8.
	Reads int

	// HTTPClient asks the witnesses. It defaults to one with short timeouts.
	HTTPClient *http.Client

	// OnBundle, if it is set, is told each entry bundle that was read, or the beginning of the last one, once it is proven to
	// be in the log's tree, and before it is audited. Calls are made one after another, and hold up the audit; entries must
	// not be modified. A mirror keeps them.
	OnBundle func(n uint64, entries [][]byte)

	// Now is the monitor's clock. It defaults to time.Now.
	Now func() time.Time

	// Logger gets what went wrong and was survived. It defaults to none.
	Logger *slog.Logger

	fs vfs.FS // of tests
}

// A Witness is somebody who cosigns the log's checkpoints, and shows them.
type Witness struct {
	Name string // for people
	// URL is the witness's monitoring prefix (c2sp.org/tlog-witness, "Monitor Retrieval Mechanism").
	URL string
}

// Watch lists names. A record that has one is an identity finding.
type Watch struct {
	Vendors   []string        // vendor ids
	Tenants   []record.Digest // pseudonyms
	Releases  []record.Digest // SHA-256 of images
	Platforms []string        // PPIDs, lowercase hexadecimal
	Sessions  []record.Digest // session subjects, see record.SessionID.Digest
}

// A Monitor follows one log. All methods can be used concurrently.
type Monitor struct {
	cfg   Config
	db    *pebble.DB
	v     *verifier.Verifier
	audit *verifier.Policy // the lenient policy by which statements are compared with each other
	facts *facts

	// stepping is held by Step, and guards what it writes: the state, and the audit that goes with it.
	stepping sync.Mutex
	st       state
	a        *audit
	failed   error // after a failed write; only Open helps
	scanned  *scan // of Newest, if the log's hashes didn't prove it

	remembered int // checkpoints that were added to the history since the monitor was opened

	windowLeaves int         // how many leaves are audited in one batch
	buffers      chan []byte // free ones, see getBuffer

	opened   time.Time // when the monitor was opened
	written  time.Time // when the state was last written for its own sake
	askedPCS time.Time

	// view is what readers see: replaced after each commit, never modified.
	view atomic.Pointer[view]

	// live is what isn't worth writing: how the current poll is going.
	live struct {
		sync.Mutex
		lastPoll time.Time
		failures uint64 // polls
		err      error
		rate     float64 // leaves a second
		witness  map[string]WitnessStatus
	}

	kick   chan struct{} // asks Run for a poll
	closed chan struct{}
	close  sync.Once
}

// A view is a committed state.
type view struct {
	state
	next chan struct{} // closed when there is a newer view
}

// Open opens what a monitor knows about a log, or begins to learn. It doesn't ask the log.
func Open(cfg Config) (*Monitor, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("monitor: %w", err)
	}
	lenient, err := verifier.ParsePolicy([]byte(lenientPolicy))
	if err != nil {
		panic("monitor: " + err.Error()) // a constant
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, err
	}
	m := &Monitor{
		cfg: cfg, v: verifier.New(cfg.Root), audit: lenient, opened: cfg.Now(), windowLeaves: windowLeaves,
		buffers: make(chan []byte, cfg.Reads), kick: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	m.live.witness = make(map[string]WitnessStatus)
	dir := filepath.Join(cfg.Dir, "db")
	if m.db, err = openFS(dir, cfg.Logger, cfg.fs); err != nil {
		return nil, fmt.Errorf("monitor: %s: %w", dir, err)
	}
	if err := m.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("monitor: %s: %w", dir, err), m.db.Close())
	}
	return m, nil
}

// load reads the state.
func (m *Monitor) load() (err error) {
	if m.st, err = loadState(m.db, m.cfg.Origin); err != nil {
		return err
	}
	if m.facts, err = newFacts(m); err != nil {
		return err
	}
	if m.a, err = newAudit(m); err != nil {
		return err
	}
	m.publish()
	return nil
}

func (c *Config) check() error {
	switch {
	case c.Log == nil:
		return errors.New("no log")
	case c.LogPolicy == nil:
		return errors.New("no log policy")
	case c.LogPolicy.IsQuorumNone() && !c.AllowQuorumNone:
		return errors.New(`the log policy says "quorum none": without witnesses the log can show the monitor a history of its own`)
	case c.Dir == "":
		return errors.New("no directory")
	}
	if c.Origin == "" {
		for _, l := range c.LogPolicy.Logs() {
			if c.Origin != "" && c.Origin != l.Key.Name() {
				return errors.New("the log policy names several logs: say which origin to follow")
			}
			c.Origin = l.Key.Name()
		}
	}
	if !policyNames(c.LogPolicy, c.Origin) {
		return fmt.Errorf("the log policy names no log %q", c.Origin)
	}
	for i, w := range c.Witnesses {
		u, err := url.Parse(w.URL)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return fmt.Errorf("witness %q: %q is not an http or https URL", w.Name, w.URL)
		}
		if w.Name == "" {
			c.Witnesses[i].Name = u.Host
		}
	}
	if c.Root == nil {
		c.Root = tdx.IntelRoot()
	}
	c.Interval = cmp.Or(c.Interval, 10*time.Second)
	c.MaxFreshnessAge = cmp.Or(c.MaxFreshnessAge, verifier.DefaultMaxFreshnessAge)
	c.MaxWidth = cmp.Or(c.MaxWidth, verifier.DefaultMaxWidth)
	c.UnpairedAfter = cmp.Or(c.UnpairedAfter, 7*24*time.Hour)
	c.SequenceGrace = cmp.Or(c.SequenceGrace, time.Hour)
	c.DeadAfter = cmp.Or(c.DeadAfter, 15*time.Minute)
	c.FrozenAfter = cmp.Or(c.FrozenAfter, time.Hour)
	c.StaleAfter = cmp.Or(c.StaleAfter, 48*time.Hour)
	for _, d := range []time.Duration{c.Interval, c.MaxFreshnessAge, c.MaxWidth, c.UnpairedAfter, c.SequenceGrace, c.DeadAfter, c.FrozenAfter, c.StaleAfter} {
		if d < 0 {
			return fmt.Errorf("a duration of %s", d)
		}
	}
	if c.Workers <= 0 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Reads <= 0 {
		c.Reads = 8
	}
	if c.HTTPClient == nil {
		c.HTTPClient = &http.Client{Timeout: 10 * time.Second}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func policyNames(p *checkpoint.Policy, origin string) bool {
	for _, l := range p.Logs() {
		if l.Key.Name() == origin {
			return true
		}
	}
	return false
}

// Sizes that bound the database's memory.
const (
	blockCache = 48 << 20
	memTable   = 32 << 20
)

// Tune sets the garbage collector of a process that does little else than to audit, unless GOGC and GOMEMLIMIT say how:
// it runs less often, which leaves more of the processors to signatures, and more often before memory gets large.
func Tune() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(176 << 20) // without the database's own memory, which is some 120 MB at most
	}
}

func openDB(dir string, logger *slog.Logger) (*pebble.DB, error) { return openFS(dir, logger, nil) }

// openFS opens the database in a file system, the machine's by default.
func openFS(dir string, logger *slog.Logger, fs vfs.FS) (*pebble.DB, error) {
	o := &pebble.Options{
		FS: fs, Logger: pebbleLogger{logger}, FormatMajorVersion: pebble.FormatNewest, CacheSize: blockCache, MemTableSize: memTable,
		// While a log is caught up with, everything that is written is rewritten by each level on its way down: fewer, larger
		// steps take less of the processors, which signatures need.
		LBaseMaxBytes: 256 << 20,
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings {
		// Half of what is stored are hashes. The rest is compressed once, at the bottom, where nearly all of it ends up.
		c := pebble.DBCompressionNone
		c.Levels[len(c.Levels)-1] = block.SnappyCompression
		return c
	})
	for i := range o.Levels {
		// Most statements that are looked up aren't there. Ten bits for each key answer 99 in 100 of these without a read.
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return pebble.Open(dir, o)
}

// pebbleLogger drops pebble's chatter.
type pebbleLogger struct{ l *slog.Logger }

func (pebbleLogger) Infof(string, ...any) {}
func (p pebbleLogger) Errorf(format string, args ...any) {
	p.l.Error("database", "err", fmt.Sprintf(format, args...))
}

// Fatalf must not return: pebble calls it when it can't go on, such as when its write-ahead log can't be written. A
// restart builds on what it finds.
func (p pebbleLogger) Fatalf(format string, args ...any) {
	p.l.Error("database: the process can't go on", "err", fmt.Sprintf(format, args...))
	os.Exit(1)
}

// Close ends Run, waits for a poll under way, and closes the database. Nothing else may be called afterwards.
func (m *Monitor) Close() error {
	m.close.Do(func() { close(m.closed) })
	m.stepping.Lock()
	defer m.stepping.Unlock()
	if m.db == nil {
		return nil
	}
	err := m.db.Close()
	m.db, m.a, m.facts = nil, nil, nil // what is in memory can go, whoever still holds m
	return err
}

// Run polls the log until ctx is done or the monitor is closed. What goes wrong is logged, and tried again, except with
// the database: then Run returns an error, and the monitor has to be opened again.
func (m *Monitor) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-m.closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	// Witnesses are asked meanwhile: a poll that somebody waits for, such as an appraiser, is not to wait for the slowest.
	heard := make(chan []witnessAnswer, 1)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	asked := false
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		all := false
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case answers := <-heard:
			asked = false
			err = m.heard(ctx, answers)
		case <-m.kick:
			err = m.look(ctx, false, false)
		case <-t.C:
			all = true
			err = m.look(ctx, false, true)
		}
		if err != nil && ctx.Err() == nil {
			if m.broken() {
				return err
			}
			m.cfg.Logger.Warn("poll", "log", m.cfg.Origin, "err", err)
		}
		if !all {
			continue
		}
		if !asked {
			asked = true
			asking.Go(func() { heard <- m.askWitnesses(ctx) })
		}
		t.Reset(m.cfg.Interval)
	}
}

// broken reports whether a write has failed.
func (m *Monitor) broken() bool {
	m.stepping.Lock()
	defer m.stepping.Unlock()
	return m.failed != nil
}

// Poll asks Run for a poll now.
func (m *Monitor) Poll() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// changed returns the newest committed state.
func (m *Monitor) changed() *view { return m.view.Load() }

// publish shows readers what was committed. m.stepping is held.
func (m *Monitor) publish() {
	if old := m.view.Swap(&view{state: m.st, next: make(chan struct{})}); old != nil {
		close(old.next)
	}
}

// WaitVerified waits until a checkpoint of at least the given size is audited. It asks for a poll, and so again whenever
// one ended without that; Run must be running, or somebody else call Step. The error is that of ctx, or says that the
// monitor is closed.
func (m *Monitor) WaitVerified(ctx context.Context, size uint64) error {
	for {
		v := m.changed()
		if v.Checkpoint.Size >= size {
			return nil
		}
		m.Poll()
		t := time.NewTimer(time.Second)
		select {
		case <-v.next:
		case <-t.C:
		case <-m.closed:
			t.Stop()
			return errClosed
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		t.Stop()
	}
}

var errClosed = errors.New("monitor is closed")

// Wait waits until there is a finding with a larger sequence number. The error is that of ctx, or says that the monitor
// is closed.
func (m *Monitor) Wait(ctx context.Context, after uint64) error {
	for {
		v := m.changed()
		if v.Findings > after {
			return nil
		}
		select {
		case <-v.next:
		case <-m.closed:
			return errClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Origin returns the log's name.
func (m *Monitor) Origin() string { return m.cfg.Origin }

// Verified returns the newest checkpoint of which everything is audited: every leaf below size, and that their root is
// the checkpoint's. Note is the signed note, nil if nothing was audited yet; then size is 0.
func (m *Monitor) Verified() (size uint64, root [32]byte, note []byte) {
	v := m.changed()
	if v.Checkpoint.Note == "" {
		return 0, checkpoint.EmptyRoot(), nil
	}
	return v.Checkpoint.Size, v.Checkpoint.Root, []byte(v.Checkpoint.Note)
}

// stored reads the tiles in the database.
func (m *Monitor) stored(id tileID, w int) ([]byte, error) { return readTile(m.db, id, w) }

// RootAt returns the root of the log's first size leaves, as the monitor has computed it from the entries. It is an error
// if not so many are audited.
func (m *Monitor) RootAt(size uint64) ([32]byte, error) {
	return rootOf(m.stored, m.changed().Audited, size)
}

// Consistency returns the proof that the first from leaves are a prefix of the first to, of those that are audited.
func (m *Monitor) Consistency(from, to uint64) ([][32]byte, error) {
	if has := m.changed().Audited; from > to || to > has {
		return nil, fmt.Errorf("sizes %d and %d are not among the %d leaves that were audited", from, to, has)
	}
	return consistency(m.stored, from, to)
}

// Inclusion returns the proof that the leaf at index is in the tree of the first size leaves, of those that are audited.
func (m *Monitor) Inclusion(index, size uint64) ([][32]byte, error) {
	if has := m.changed().Audited; index >= size || size > has {
		return nil, fmt.Errorf("index %d and size %d are not among the %d leaves that were audited", index, size, has)
	}
	return inclusion(m.stored, index, size)
}

// Tile returns the first w hashes, 1 to 256, of a tile of the log's tree, as the monitor has computed it.
func (m *Monitor) Tile(level uint8, n uint64, w int) ([]byte, error) {
	if w < 1 || w > width || level > 7 || n > m.changed().Audited>>(8*level)/width {
		return nil, fmt.Errorf("no tile %d of level %d and width %d in a tree of %d leaves", n, level, w, m.changed().Audited)
	}
	return m.stored(tileID{level, n}, w)
}

// Findings returns at most limit findings with sequence numbers larger than after, in their order.
func (m *Monitor) Findings(after uint64, limit int) ([]*Finding, error) {
	v := m.changed()
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: key(prefixFinding, u64(after+1)), UpperBound: key(prefixFinding, u64(v.Findings+1))})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var found []*Finding
	for ok := it.First(); ok && len(found) < limit; ok = it.Next() {
		f, err := decodeFinding(it.Value())
		if err != nil {
			return nil, fmt.Errorf("finding %d: %w", binary.BigEndian.Uint64(it.Key()[1:]), err)
		}
		if err := m.prove(v, f); err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, it.Error()
}

// Finding returns the finding with the given ID, nil if there is none.
func (m *Monitor) Finding(id string) (*Finding, error) {
	seq, ok, err := seqOf(m.db, id)
	if err != nil || !ok {
		return nil, err
	}
	found, err := m.Findings(seq-1, 1)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	return found[0], nil
}

// prove adds to a finding about a leaf the proof that it is in the newest audited checkpoint.
func (m *Monitor) prove(v *view, f *Finding) error {
	if f.Evidence == nil || f.Evidence.Leaf == nil || f.Index == nil || *f.Index >= v.Checkpoint.Size {
		return nil
	}
	p, err := inclusion(m.stored, *f.Index, v.Checkpoint.Size)
	if err != nil {
		return fmt.Errorf("finding %d: %w", f.Seq, err)
	}
	f.Evidence.Inclusion, f.Evidence.Checkpoint = base64Hashes(p), v.Checkpoint.Note
	return nil
}

// Cursor returns how far the deliverer of a name is: a sequence number that SetCursor has set, or 0.
func (m *Monitor) Cursor(name string) (uint64, error) {
	v, closer, err := m.db.Get(key(prefixCursor, []byte(name)))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	if len(v) != 8 {
		return 0, fmt.Errorf("stored cursor %q is damaged", name)
	}
	return binary.BigEndian.Uint64(v), nil
}

// SetCursor makes it durable that the deliverer of a name has delivered all findings up to seq.
func (m *Monitor) SetCursor(name string, seq uint64) error {
	return m.db.Set(key(prefixCursor, []byte(name)), u64(seq), pebble.Sync)
}

// lenientPolicy refuses only what contradicts itself: the audit's business is what was logged, not what is good enough.
var lenientPolicy = strings.TrimSpace(`
tcb:
  statuses: [UpToDate, SWHardeningNeeded, ConfigurationNeeded, ConfigurationAndSWHardeningNeeded, OutOfDate, OutOfDateConfigurationNeeded, TDRelaunchAdvised, TDRelaunchAdvisedConfigurationNeeded]
profiles: [statement/v1, azure-paravisor/v1, dstack-proxy/v1, ita-nonce/v1, tls-hpke/v2, vendor-signed/v1, unbound/v1]
time:
  allow-unproven: true
models:
  execution: [tee, policy-zdr, unattested]
  allow-no-record: true
`) + "\n"
