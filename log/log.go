// Package sessionlog is the log: it admits entries, appends them to a Merkle tree, publishes signed checkpoints of the
// tree, and serves tiles and proofs. Tessera (github.com/transparency-dev/tessera) keeps the tree.
//
//	entry ── admission ──▶ sequencer ──▶ Tessera ──▶ follower ──▶ publisher ──▶ readers
//	            │                                        │             │
//	       collateral, vendors                         index       witnesses
//
// What is answered to a submitter is on disk, and stays there whatever happens to the process. The follower reads every
// leaf back from Tessera's files before the publisher signs the tree that holds it, so that what is signed is what
// readers will find, and the index answers for everything that is published.
//
// The package must be imported with its name spelled out: the folder is named log.
package sessionlog

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/log/storage"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Config configures [Open]. Fields are required unless they name a default.
type Config struct {
	// Origin is the first line of every checkpoint, a schema-less URL such as "log.example.org/2026". It can't change
	// during the life of the log.
	Origin string

	// Keys sign checkpoints. All are named Origin. One at least is of kind checkpoint.Ed25519, which public logs must
	// have (c2sp.org/tlog-tiles), and each should be in LogPolicy. To replace a key, give the old and the new one for
	// as long as readers' policies name only the old one.
	Keys []*checkpoint.SigningKey

	// Dir holds everything that the log keeps. One process at a time can have it open. It must be a local file system,
	// on which flock, rename and fsync mean what they say.
	Dir string

	// Shared is where the log is instead of in Dir, if several processes write to it. Dir is then this process's own, for
	// an index and for collateral, which it builds again if they are lost. Whoever calls Open closes it, after Shutdown.
	Shared storage.Shared

	// Objects are those of a log whose storage is shared, for a process that only reads them.
	Objects storage.Objects

	// Role is what this process does. It defaults to RoleAll. A log in Dir has no other, and RoleReader comes with Objects.
	// Keys are needed only by those that publish, VendorsFile and Collateral by those that admit.
	Role Role

	// Create makes a new log in Dir, which must not exist, be empty, or hold an earlier attempt. Without it a missing
	// log is an error: a log that starts anew under the keys of one that was lost is a fork.
	Create bool

	// LogPolicy says whose cosignatures a checkpoint needs before it is published, and where the witnesses are.
	LogPolicy *checkpoint.Policy

	// Appraisers are names of witness lines of LogPolicy that cosign only what is published, such as a monitor that has
	// verified every entry. They are asked after each publication, and their cosignatures join what is served; nothing
	// waits for them. They and other lines with their URLs must not count towards the quorum.
	Appraisers []string

	// AllowQuorumNone accepts a LogPolicy that asks for no cosignatures. Nothing then keeps the log from showing
	// different trees to different people, and no time is proven.
	AllowQuorumNone bool

	// VendorsFile is the path of the file that says who may submit, see vendors.go. It is read again when it changes.
	VendorsFile string

	// Root is what quotes and collateral are verified under. It can't change during the life of the log.
	Root *tdx.Root

	// Collateral is asked for the collateral by which quotes are judged now.
	Collateral pcs.Source

	// Archive is asked for the collateral of the past, for imports. It defaults to Collateral.
	Archive pcs.Source

	// PreviousShard is the URL prefix of the log of the year before, record.NextShard, if sessions that were started there
	// may end here. Its keys are in LogPolicy. Without it they may not.
	PreviousShard string

	// AllowImports admits evidence that isn't bound to a statement, or to a key only: entries of profiles for which
	// record.Profile.Import holds.
	AllowImports bool

	// Evidence keeps evidence that is too large for a leaf, see OpenEvidence. With nil nothing is kept.
	Evidence *EvidenceStore

	// CheckpointInterval is the least time between two checkpoints. After a pause the next one comes at once. It
	// defaults to one second, and must not be less than what the witnesses allow.
	CheckpointInterval time.Duration

	// TimeInterval is the time between two time leaves while there are new records or requests for freshness. It
	// defaults to one minute.
	TimeInterval time.Duration

	// MaxFreshnessAge is how old the checkpoint that a statement was made after may be when it is admitted. It
	// defaults to 10 minutes.
	MaxFreshnessAge time.Duration

	// AdmitLate admits statements whose checkpoint is older than MaxFreshnessAge, up to this age, for vendors that were
	// cut off from the log. Whoever verifies such a record sees that it is late. It defaults to none.
	AdmitLate time.Duration

	// MaxInFlight bounds the submissions that are being judged or appended. Beyond it they are answered 503, and so are
	// those of a vendor that has its share of them, see places. More of them don't raise the throughput, only the
	// latency. It defaults to 512.
	MaxInFlight int

	// MaxWait is how long a submission is held until a checkpoint covers its record. It defaults to 10 seconds.
	MaxWait time.Duration

	// WitnessBudget is the number of requests that a witness gets per day at most, which for a witness network is the
	// "qpd" of its log list. It defaults to no limit beyond CheckpointInterval.
	WitnessBudget int

	// Logger gets what happens. It defaults to none.
	Logger *slog.Logger

	// Registry collects the log's metrics. It defaults to a new one, see [Log.PrivateHandler].
	Registry *prometheus.Registry

	freezing bool // see Freeze

	now   func() time.Time                  // time.Now unless a test says otherwise
	fault func(when, name string) error     // see storage.Posix
	batch func(when string) error           // like fault, for the index
	wrap  func(tileReader) tileReader       // puts a test between Tessera's files and the log
	addFn func(tessera.AddFn) tessera.AddFn // puts a test between the sequencer and Tessera
	poll  time.Duration                     // how often the vendors file is looked at; a second
	retry time.Duration                     // pause after the storage has failed; a second
}

// Errors of Open and Add. Other errors are for people.
var (
	// ErrInUse says that another process, or this one, has the directory open.
	ErrInUse = storage.ErrLocked
	// ErrNoLog says that there is no log in the directory, and that Config.Create is not set.
	ErrNoLog = errors.New("no log there")
	// ErrInconsistent says that the directory's tree contradicts what the log has signed: it lost data, and must not
	// go on.
	ErrInconsistent = errors.New("tree is inconsistent with what was signed")
	// ErrOverloaded says that there is too much to do. Trying again later is right.
	ErrOverloaded = errors.New("overloaded")
	// ErrClosed says that the log is shutting down or was halted.
	ErrClosed = errors.New("log is closed")
)

// An ExistsError says that the statement is in the log already, with another signature or other evidence.
type ExistsError struct{ Index uint64 }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("the statement is in the log already, at index %d, in another entry", e.Index)
}

// A Log is an open log. Its methods can be called concurrently.
type Log struct {
	cfg      Config // set once, with defaults
	logger   *slog.Logger
	lock     *os.File
	objects  storage.Objects
	posix    *storage.Posix // the same, nil if the storage is shared
	shared   *shared        // nil unless it is
	tree     *tree
	index    *index
	seq      *sequencer
	pub      *publisher
	coll     *collateral
	vendors  *vendors
	times    *timekeeper
	verifier *verifier.Verifier
	metrics  *metrics
	frozen   *frozen   // nil unless the log has ended; set once
	previous *previous // nil if no sessions of another log end here
	claims   claims
	zipped   *lru.Cache[bundleKey, []byte]
	flight   *places       // of submissions in flight
	judging  chan struct{} // one element for each entry that is being judged

	// uncertain says whether leaves may be in the tree that the index doesn't know of, because appending them failed, or
	// so it was reported.
	uncertain uncertainty

	// halted is set once when the log must not go on, and haltedc then closed.
	halted   atomic.Pointer[error]
	haltedc  chan struct{}
	haltOnce sync.Once

	ended         chan struct{} // closed when nothing more is to be waited for
	stopTessera   func(context.Context) error
	cancelTessera context.CancelFunc
	cancel        context.CancelFunc // ends the goroutines in tasks
	tasks         sync.WaitGroup

	mu      sync.Mutex     // guards closing, and additions to adding
	closing bool           // no more submissions
	adding  sync.WaitGroup // submissions that are under way
	closed  sync.Once
	closeEr error
}

// What a log in a directory keeps beside its objects, see storage.Posix.
const (
	metaName      = storage.Meta
	tesseraDir    = storage.TesseraDir
	publishedName = storage.Published
	candidateName = storage.Candidate
	tmpDir        = storage.TmpDir
	lockName      = storage.LockName
)

// batchAge is how long Tessera waits for more entries after the first. The sequencer hands over whole batches, so it
// need only be longer than that takes.
const batchAge = 2 * time.Millisecond

// batchSize is more entries than the sequencer hands over at once.
const batchSize = 4096

// gcInterval is the time between two of Tessera's removals of superseded partial tiles. Each handles about 100 bundles
// of 256 entries, so that this keeps up with 6,400 entries a second; the default minute would with 430.
const gcInterval = 4 * time.Second

func (c *Config) setDefaults() error {
	if err := record.CheckOrigin(c.Origin); err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	classic := false
	for _, k := range c.Keys {
		if k.Name() != c.Origin {
			return fmt.Errorf("key %s is of %q, not of the origin %q", k.VKey(), k.Name(), c.Origin)
		}
		switch k.Kind() {
		case checkpoint.Ed25519:
			classic = true
		case checkpoint.CosignatureMLDSA44:
		default:
			return fmt.Errorf("key %s is a witness's (%v), not a log's", k.VKey(), k.Kind())
		}
	}
	c.Role = cmp.Or(c.Role, RoleAll)
	if err := c.checkRole(); err != nil {
		return err
	}
	if frozen, err := Frozen(c.Dir); !classic && (c.Role.publishes() || len(c.Keys) > 0) && (err != nil || !frozen || len(c.Keys) > 0) { // a frozen log signs nothing
		return fmt.Errorf("no key of kind %v, which checkpoints must be signed with", checkpoint.Ed25519)
	}
	switch {
	case c.Dir == "":
		return errors.New("no storage directory")
	case c.LogPolicy == nil:
		return errors.New("no log policy")
	case c.LogPolicy.IsQuorumNone() && !c.AllowQuorumNone:
		return errors.New("the log policy asks for no cosignatures (quorum none), which must be allowed explicitly")
	case c.VendorsFile == "" && c.Role.admits():
		return errors.New("no vendors file")
	case c.Root == nil:
		return errors.New("no root")
	case c.Collateral == nil && c.Role.admits():
		return errors.New("no source of collateral")
	}
	if err := c.checkAppraisers(); err != nil {
		return err
	}
	known := len(c.Keys) == 0
	for _, l := range c.LogPolicy.Logs() {
		for _, k := range c.Keys {
			known = known || l.Key.String() == k.VKey()
		}
	}
	if !known {
		return fmt.Errorf("the log policy names none of the keys of %q: nobody who follows it would accept a checkpoint", c.Origin)
	}
	for name, d := range map[string]*time.Duration{
		"checkpoint interval": &c.CheckpointInterval, "time interval": &c.TimeInterval,
		"freshness age": &c.MaxFreshnessAge, "age of late records": &c.AdmitLate, "wait": &c.MaxWait,
	} {
		if *d < 0 {
			return fmt.Errorf("negative %s %v", name, *d)
		}
	}
	if c.MaxInFlight < 0 {
		return fmt.Errorf("negative limit %d of submissions in flight", c.MaxInFlight)
	}
	c.CheckpointInterval = cmp.Or(c.CheckpointInterval, time.Second)
	c.TimeInterval = cmp.Or(c.TimeInterval, time.Minute)
	c.MaxFreshnessAge = cmp.Or(c.MaxFreshnessAge, verifier.DefaultMaxFreshnessAge)
	c.MaxWait = cmp.Or(c.MaxWait, 10*time.Second)
	c.MaxInFlight = cmp.Or(c.MaxInFlight, 512)
	if c.Archive == nil {
		c.Archive = c.Collateral
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	c.poll = cmp.Or(c.poll, vendorsPoll)
	c.retry = cmp.Or(c.retry, storageRetry)
	if c.now == nil {
		c.now = time.Now
	}
	return nil
}

// checkRole checks that the process can have its role where the log is.
func (c *Config) checkRole() error {
	switch c.Role {
	case RoleAll, RoleFrontend, RolePublisher, RoleReader:
	default:
		return fmt.Errorf("role %q is none of %s, %s, %s and %s", c.Role, RoleAll, RoleFrontend, RolePublisher, RoleReader)
	}
	switch reader := c.Role == RoleReader; {
	case c.Shared == nil && c.Objects == nil && c.Role != RoleAll:
		return fmt.Errorf("a log in a directory has one process, which does everything: it can't be a %s", c.Role)
	case c.Shared != nil && c.Objects != nil || c.Objects != nil != reader:
		return errors.New("objects alone are for readers, and for these only")
	case c.Create && !c.Role.publishes():
		return fmt.Errorf("a %s can't make a new log", c.Role)
	}
	return nil
}

// checkAppraisers checks that the named appraisers can be asked, and that publication doesn't depend on them.
func (c *Config) checkAppraisers() error {
	urls := c.appraiserURLs()
	for i, name := range c.Appraisers {
		n := slices.IndexFunc(c.LogPolicy.Witnesses(), func(w checkpoint.Witness) bool { return w.Name == name })
		switch {
		case slices.Contains(c.Appraisers[:i], name):
			return fmt.Errorf("appraiser %q is named twice", name)
		case n < 0:
			return fmt.Errorf("appraiser %q is no witness line of the log policy", name)
		case c.LogPolicy.Witnesses()[n].URL == "":
			return fmt.Errorf("appraiser %q has no URL in the log policy", name)
		}
	}
	for _, w := range c.LogPolicy.Witnesses() {
		if urls[trimURL(w.URL)] && c.LogPolicy.Counts(w.Name) {
			return fmt.Errorf("the quorum needs %q, which is an appraiser's: it cosigns only what is published, and nothing would ever be", w.Name)
		}
	}
	return nil
}

// appraiserURLs returns the URLs of the appraisers.
func (c *Config) appraiserURLs() map[string]bool {
	urls := map[string]bool{}
	for _, w := range c.LogPolicy.Witnesses() {
		if slices.Contains(c.Appraisers, w.Name) && w.URL != "" {
			urls[trimURL(w.URL)] = true
		}
	}
	return urls
}

// trimURL returns a submission prefix in the form in which it is compared and used.
func trimURL(s string) string { return strings.TrimRight(s, "/") }

// meta is the contents of the object storage.Meta.
func (c *Config) meta() []byte {
	return fmt.Appendf(nil, metaVersion+"\norigin %s\nroot %x\n", c.Origin, c.Root.Fingerprint())
}

// metaVersion is the first line of storage.Meta: the version of all that a log keeps. Those of other versions begin alike.
const (
	metaPrefix  = "affidavit-log/"
	metaVersion = metaPrefix + "v1"
)

// Open opens the log in c.Dir, or makes a new one if c.Create is set. It returns once the index has caught up with the
// tree, which after a loss of the index means reading every leaf, and with a log policy that names witnesses, once they
// were asked whether they have seen more than there is. The error wraps ErrInUse, ErrNoLog or ErrInconsistent in these
// cases. The caller must call [Log.Shutdown].
func Open(ctx context.Context, c Config) (_ *Log, err error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	l := &Log{cfg: c, logger: c.Logger, verifier: verifier.New(c.Root), flight: newPlaces(c.MaxInFlight), judging: make(chan struct{}, runtime.GOMAXPROCS(0)), haltedc: make(chan struct{}), ended: make(chan struct{}), zipped: newZipped()}
	l.claims.m = make(map[record.Digest]*claim)
	l.metrics = newMetrics(c.Registry, l)
	if l.previous, err = newPrevious(&c); err != nil {
		return nil, err
	}
	if c.Role.admits() {
		if l.vendors, err = newVendors(c.VendorsFile); err != nil {
			return nil, err
		}
	}

	here := c.Shared == nil && c.Objects == nil
	exists := false
	if here {
		err = Exists(c.Dir)
		exists = err == nil
		switch {
		case err != nil && (!errors.Is(err, ErrNoLog) || !c.Create):
			return nil, err
		case exists && c.Create:
			return nil, fmt.Errorf("%s holds a log already: it can't be created again", c.Dir)
		}
	}
	if c.Create || !here {
		if err := storage.MkdirSync(c.Dir); err != nil {
			return nil, err
		}
	}
	if l.lock, err = storage.LockDir(c.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.abandon()
		}
	}()
	if here {
		l.posix = storage.NewPosix(c.Dir)
		l.posix.Fault = c.fault
		l.objects = l.posix
		if err := l.posix.Clean(); err != nil {
			return nil, err
		}
		if err := l.checkMoved(ctx); err != nil {
			return nil, err
		}
		if exists {
			if err := l.checkMeta(ctx); err != nil {
				return nil, err
			}
		}
	} else {
		if l.objects = c.Objects; c.Shared != nil {
			l.objects = c.Shared.Objects()
		}
		if l.shared, err = newShared(l); err != nil {
			return nil, err
		}
		if exists, err = l.checkShared(ctx); err != nil {
			return nil, err
		}
	}
	if l.frozen, err = l.readFrozen(ctx); err != nil {
		return nil, err
	}
	open := l.openTessera
	switch {
	case l.shared != nil:
		open = l.openShared
	case l.frozen != nil:
		open = l.openFrozen
	}
	if err := open(ctx); err != nil {
		return nil, err
	}
	if _, err := l.tree.refresh(ctx); err != nil {
		return nil, err
	}
	if l.pub, err = newPublisher(ctx, l); err != nil {
		return nil, err
	}
	if l.coll, err = newCollateral(l); err != nil {
		return nil, err
	}
	if l.times, err = newTimekeeper(l); err != nil {
		return nil, err
	}
	if l.shared != nil {
		if err := l.shared.look(ctx); err != nil {
			return nil, err
		}
		if _, err := l.tree.refresh(ctx); err != nil {
			return nil, err
		}
	}
	if l.index, err = openIndex(ctx, l); err != nil {
		return nil, err
	}
	if err := l.index.catchUp(ctx); err != nil {
		return nil, err
	}
	if err := l.coll.load(ctx); err != nil {
		return nil, err
	}
	if err := l.times.load(ctx); err != nil {
		return nil, err
	}
	// The order matters for the end: tasks end by l.cancel, but the sequencer by its own close, before that.
	tctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	if l.frozen == nil {
		if err := l.pub.askWitnesses(ctx); err != nil {
			return nil, err
		}
	}
	if !exists { // and no witness knows a log under these keys
		if err := l.objects.Put(ctx, storage.Meta, c.meta()); err != nil {
			return nil, err
		}
	}
	tasks := []func(context.Context){l.index.run, l.pub.run, l.times.run, l.coll.run, l.watchVendors}
	switch {
	case c.freezing:
		tasks = tasks[:2]
	case l.frozen != nil:
		tasks = tasks[4:]
	case c.Role == RoleReader:
		tasks = tasks[:2]
	case c.Role == RolePublisher:
		tasks = tasks[:3]
	case c.Role == RoleFrontend:
		tasks = slices.Delete(tasks, 2, 3)
	}
	for _, task := range tasks {
		l.tasks.Go(func() { task(tctx) })
	}
	size, root := l.index.position()
	if l.frozen != nil {
		l.logger.Info("the log is frozen: it is served, and takes nothing any more")
	}
	l.logger.Info("log open", "origin", c.Origin, "size", size, "root", fmt.Sprintf("%x", root), "published", l.pub.size())
	return l, nil
}

// Exists returns nil if there is a log in dir, and an error that wraps ErrNoLog if there isn't.
func Exists(dir string) error {
	_, err := os.Stat(filepath.Join(dir, storage.Meta))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s (a new log must be asked for; a log whose disk is missing must not be made anew)", ErrNoLog, dir)
	}
	return err
}

func (l *Log) checkMeta(ctx context.Context) error {
	got, err := l.objects.Get(ctx, storage.Meta)
	if err != nil {
		return err
	}
	if version, _, _ := strings.Cut(string(got), "\n"); strings.HasPrefix(version, metaPrefix) && version != metaVersion {
		return fmt.Errorf("%s is a log of version %s, and this command knows %s: use one that knows the log's version", l.cfg.Dir, version, metaVersion)
	}
	if want := l.cfg.meta(); string(got) != string(want) {
		return fmt.Errorf("%s is another log than configured: it says %q, not %q", l.cfg.Dir, got, want)
	}
	if _, err := os.Stat(filepath.Join(l.cfg.Dir, storage.TesseraDir, ".state", "treeState")); err != nil {
		return fmt.Errorf("%w: the tree's state is missing: %w", ErrInconsistent, err)
	}
	return nil
}

// openTessera starts Tessera and the sequencer.
func (l *Log) openTessera(context.Context) error {
	dir := filepath.Join(l.cfg.Dir, storage.TesseraDir)
	if err := storage.MkdirSync(dir); err != nil {
		return err
	}
	appender, reader, err := l.startTessera(
		func(ctx context.Context) (tessera.Driver, error) { return posix.New(ctx, posix.Config{Path: dir}) },
		tessera.NewAppendOptions().
			WithCheckpointInterval(min(max(l.cfg.CheckpointInterval, 100*time.Millisecond), time.Second)).
			WithBatching(batchSize, batchAge))
	if err != nil {
		return err
	}
	l.tree = newTree(l.wrapped(posixReader{reader, dir}))
	add := appender.Add
	if l.cfg.addFn != nil {
		add = l.cfg.addFn(add)
	}
	l.seq = newSequencer(add, l)
	return nil
}

// startTessera starts Tessera on what driver returns, whose context ends with the log.
func (l *Log) startTessera(driver func(context.Context) (tessera.Driver, error), opts *tessera.AppendOptions) (_ *tessera.Appender, _ tessera.LogReader, err error) {
	// Tessera wants to publish checkpoints of its own. Its garbage collection and its shutdown need them; nobody else
	// gets to see them, so a key that exists only in this process will do.
	skey, _, err := note.GenerateKey(rand.Reader, l.cfg.Origin)
	if err != nil {
		return nil, nil, err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	d, err := driver(ctx)
	if err != nil {
		return nil, nil, err
	}
	opts.WithCheckpointSigner(signer).WithCheckpointRepublishInterval(0).WithGarbageCollectionInterval(gcInterval)
	appender, shutdown, reader, err := tessera.NewAppender(ctx, d, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the tree: %w", err)
	}
	l.stopTessera, l.cancelTessera = shutdown, cancel
	return appender, reader, nil
}

// halt stops the log for good: it goes on serving what it has published, and does nothing else.
func (l *Log) halt(err error) {
	l.haltOnce.Do(func() {
		l.halted.Store(&err)
		l.logger.Error("log halted", "err", err)
		close(l.haltedc)
	})
}

// Halted returns a channel that is closed when the log has found that it must not go on, such as when a witness has
// seen a tree that isn't this one. It then goes on serving what was published. See [Log.Err].
func (l *Log) Halted() <-chan struct{} { return l.haltedc }

// Err returns why the log was halted, or nil.
func (l *Log) Err() error {
	if p := l.halted.Load(); p != nil {
		return *p
	}
	return nil
}

// abandon releases what a failed Open has taken.
func (l *Log) abandon() {
	if l.cancel != nil {
		l.cancel()
		l.tasks.Wait()
	}
	if l.pub != nil {
		l.pub.stop()
	}
	if l.seq != nil {
		l.seq.close()
	}
	if l.cancelTessera != nil {
		l.cancelTessera()
	}
	if l.index != nil {
		l.index.close()
	}
	l.lock.Close()
}

// Shutdown ends the log: it refuses new submissions, finishes those under way, publishes what was appended if the
// witnesses answer in time, and releases the directory. If ctx ends before that, what was appended is still in the tree,
// and is published after the next start. Requests to the handlers should have ended before, as http.Server.Shutdown has it.
func (l *Log) Shutdown(ctx context.Context) error {
	l.closed.Do(func() { l.closeEr = l.shutdown(ctx) })
	return l.closeEr
}

func (l *Log) shutdown(ctx context.Context) error {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	var errs []error

	done := make(chan struct{})
	go func() { l.adding.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, fmt.Errorf("submissions are still under way: %w", ctx.Err()))
	}
	if l.seq != nil {
		l.seq.close()
	}
	if l.Err() == nil && !l.cfg.freezing { // Freeze has done so, or given up
		if err := l.index.catchUp(ctx); err != nil {
			errs = append(errs, err)
		} else if !l.leading() { // whoever is will publish it
		} else if err := l.pub.flush(ctx); err != nil {
			errs = append(errs, fmt.Errorf("what was appended last is not published: %w", err))
		}
	}
	close(l.ended)
	l.cancel()
	l.tasks.Wait()
	l.pub.stop()
	// "first call the shutdown function that is returned, and then cancel the context" (tessera.NewAppender).
	if l.stopTessera != nil {
		if err := l.stopTessera(ctx); err != nil {
			errs = append(errs, fmt.Errorf("tree: %w", err))
		}
		l.cancelTessera()
	}
	if err := l.index.close(); err != nil {
		errs = append(errs, err)
	}
	if err := l.lock.Close(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// begin counts a submission, unless there are to be no more.
func (l *Log) begin() error {
	if err := l.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	if l.frozen != nil || l.cfg.freezing {
		return ErrFrozen
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing {
		return ErrClosed
	}
	l.adding.Add(1)
	return nil
}
