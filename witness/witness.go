// Package witness is a witness for transparency logs (c2sp.org/tlog-witness):
// it cosigns a log's checkpoints as long as they continue each other, and can
// be neither rolled back nor shown two histories.
//
// It serves any log that follows the specifications, and imports of this module
// only the package checkpoint.
package witness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// Config configures [Open]. Fields are required unless they name a default.
type Config struct {
	// Name is the witness's name, which all of its keys have.
	Name string

	// Keys are one or more cosignature keys. Each answer has a cosignature by
	// each key that can sign the checkpoint: ML-DSA-44 keys can't if it has
	// extension lines or an origin of more than 255 bytes.
	Keys []*checkpoint.SigningKey

	// State is the path of the database. It must exist, unless Init is set; then
	// it must not.
	State string

	// Init begins a new database. A witness that loses its database and begins
	// anew can be rolled back, so that this must be said once, by a person.
	Init bool

	// Logs are logs given by the operator, and further keys of logs. They are
	// known as long as they are given.
	Logs []Log

	// LogLists are paths or http(s) URLs of lists of logs, see [ParseLogList].
	// Logs of lists stay known even if a list loses them or changes.
	LogLists []string

	// LogListInterval is the time between two readings of the lists. It defaults
	// to an hour.
	LogListInterval time.Duration

	// PublicURL is the submission prefix as clients see it, for the public page.
	// It defaults to a relative reference.
	PublicURL string

	// Recover says that State was restored from a backup. The witness then
	// cosigns nothing for a log until it has found the checkpoint that the log
	// publishes, and has advanced to it if it bears an own cosignature: what it
	// cosigned since the backup must not be forgotten. Logs that haven't been
	// reached are tried again and again, also after a restart without Recover.
	Recover bool

	// RecoverFrom has paths or URLs, by origin, where checkpoints of the log may
	// be found; the largest with an own cosignature counts. The default for an
	// origin is https://<origin>/checkpoint.
	RecoverFrom map[string][]string

	// Approve is asked before a checkpoint is cosigned, once the log's signature
	// and the consistency with what was cosigned last are verified, if this
	// cosigner states more than that (c2sp.org/tlog-cosignature, "Additional
	// statements"). It may wait, for as long as ctx allows: meanwhile other
	// requests of the same log go on, and consistency is verified again
	// afterwards. It can be called concurrently. The checkpoint's signatures are
	// those of the log's keys, which were verified. An error keeps the
	// checkpoint from being cosigned: a [*DeferError] is answered 503, a
	// [*ForkError] 422, others 500. It is nil for a plain witness.
	Approve func(ctx context.Context, c checkpoint.Checkpoint, note *checkpoint.Note) error

	// Statement says for the public page what a cosignature states beyond
	// consistency, in a sentence or two.
	Statement string

	// HTTPClient fetches lists and checkpoints. It defaults to one with a
	// timeout of 20 seconds.
	HTTPClient *http.Client

	// Logger defaults to discarding.
	Logger *slog.Logger

	// Now defaults to [time.Now].
	Now func() time.Time
}

// A DeferError is an error of Config.Approve that may pass: the answer is 503
// with Retry-After.
type DeferError struct {
	Reason     string        // for the client
	RetryAfter time.Duration // rounded up to seconds, at least one
}

func (e *DeferError) Error() string { return e.Reason }

// A ForkError is an error of Config.Approve that says that the log has signed
// something that contradicts the checkpoint. The answer is 422, and the fork is
// counted and its evidence kept and shown, as with those that the witness finds
// itself.
type ForkError struct {
	Reason   string // for the client
	Evidence []byte // text with the other note and what else shows the contradiction; the request is added
}

func (e *ForkError) Error() string { return e.Reason }

// A Log is a log that a witness cosigns for.
type Log struct {
	Origin string
	Key    *checkpoint.VerifierKey // of kind Ed25519 or CosignatureMLDSA44

	// QPD is how many cosignatures the log may ask for in a day, 0 for any
	// number.
	QPD int
}

// A Witness is an open witness. Its methods can be called concurrently.
type Witness struct {
	cfg   Config
	store *store
	m     *metrics

	// mu guards logs and byHash. Logs are added, and never removed. It isn't
	// held during I/O.
	mu     sync.RWMutex
	logs   map[string]*logState
	byHash map[[32]byte]*logState // by SHA-256(origin)

	page pageCache
}

// logState is what a witness knows about a log.
type logState struct {
	origin string
	keys   []*checkpoint.VerifierKey // immutable
	qpd    int

	// Nil if there is no limit. Anybody can send a log's public checkpoints
	// again, so that refreshing and subtrees have budgets of their own: a
	// stranger can't use up those for growing.
	grow, refresh, subtree *rate.Limiter

	// mu is held from comparing the size until the new one is durable, so that
	// the requests of one log wait for each other.
	mu    sync.Mutex
	forks map[[40]byte]bool // kept evidence, by size and root; guarded by mu

	// head is the last cosigned checkpoint, nil if there is none. It is replaced
	// under mu, after it is durable.
	head atomic.Pointer[head]

	held      atomic.Bool // not cosigned for until recovered
	forkCount atomic.Int64
}

// head is a cosigned checkpoint.
type head struct {
	size      uint64
	root      [32]byte
	timestamp uint64 // of the newest own cosignature
}

// Open opens or begins a witness's state, and reads the lists of logs. A list
// that is a file must be readable; one at a URL may be read later, by
// [Witness.Run].
func Open(cfg Config) (*Witness, error) {
	if cfg.LogListInterval == 0 {
		cfg.LogListInterval = time.Hour
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{Timeout: 20 * time.Second}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := checkKeys(cfg.Name, cfg.Keys); err != nil {
		return nil, err
	}
	for origin := range cfg.RecoverFrom {
		if len(cfg.RecoverFrom[origin]) == 0 {
			return nil, fmt.Errorf("no place to recover %q from", origin)
		}
	}
	s, err := openStore(cfg.State, cfg.Init)
	if err != nil {
		return nil, err
	}
	w := &Witness{
		cfg:    cfg,
		store:  s,
		logs:   make(map[string]*logState),
		byHash: make(map[[32]byte]*logState),
	}
	w.m = newMetrics(w)
	if err := w.load(); err != nil {
		s.close()
		return nil, err
	}
	return w, nil
}

func checkKeys(name string, keys []*checkpoint.SigningKey) error {
	if len(keys) == 0 {
		return errors.New("a witness needs a key")
	}
	for i, k := range keys {
		if k.Kind() != checkpoint.CosignatureEd25519 && k.Kind() != checkpoint.CosignatureMLDSA44 {
			return fmt.Errorf("key %v is of type %02x (%v), want a witness's: 04 or 06", k, byte(k.Kind()), k.Kind())
		}
		if k.Name() != name {
			return fmt.Errorf("%v: the key's name isn't the witness's, %q", k, name)
		}
		for _, other := range keys[:i] {
			if k.KeyID() == other.KeyID() {
				return fmt.Errorf("%v is given twice", k)
			}
		}
	}
	return nil
}

// load fills w from its configuration, its database and its lists.
func (w *Witness) load() error {
	// What lists said earlier comes first, with their quotas: a key that the
	// operator gives for such a log is a further one. Logs of the operator come
	// before the lists of now, which can't change them.
	known, err := w.store.listed()
	if err != nil {
		return err
	}
	for _, l := range known {
		if err := w.add(l); err != nil {
			return err
		}
	}
	for i, l := range w.cfg.Logs {
		for _, other := range w.cfg.Logs[:i] {
			if l.Origin == other.Origin && l.Key != nil && other.Key != nil && l.Key.String() == other.Key.String() {
				return fmt.Errorf("log key %s is given twice", l.Key)
			}
		}
		if err := w.addConfigured(l); err != nil {
			return err
		}
	}
	for _, where := range w.cfg.LogLists {
		// The log list may be unreachable when the machine starts; what it said
		// before is in the database. A file that can't be read is a mistake.
		if err := w.readList(context.Background(), where); err != nil {
			if !isURL(where) {
				return fmt.Errorf("log list %s: %w", where, err)
			}
			w.cfg.Logger.Error("log list not read, will try again", "list", where, "err", err)
		}
	}
	if w.cfg.Recover {
		// A misspelled origin would be recovered from its default place.
		for origin := range w.cfg.RecoverFrom {
			if w.logs[origin] == nil {
				return fmt.Errorf("to be recovered: %s is not a log of this witness", origin)
			}
		}
		return w.holdAll()
	}
	return nil
}

// headOf checks a stored value and returns its head.
func (w *Witness) headOf(v value) (*head, error) {
	n, err := checkpoint.ParseNote(v.note)
	if err != nil {
		return nil, err
	}
	c, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	if c.Size != v.size || c.Root != v.root {
		return nil, errors.New("the note isn't the recorded checkpoint")
	}
	h := &head{size: c.Size, root: c.Root}
	for _, s := range n.Signatures {
		for _, k := range w.cfg.Keys {
			if k.Verifier().Matches(s) && len(s.Sig) > 8 {
				h.timestamp = max(h.timestamp, cosignatureTime(s))
			}
		}
	}
	return h, nil
}

// addConfigured adds a log or a log's key that the operator gave. A log that a
// list once named with the same key has no quota as long as it is given.
func (w *Witness) addConfigured(l Log) error {
	if err := checkLog(l); err != nil {
		return err
	}
	s := w.logs[l.Origin]
	if s == nil {
		return w.add(l)
	}
	if slices.ContainsFunc(s.keys, func(k *checkpoint.VerifierKey) bool { return k.String() == l.Key.String() }) {
		s.qpd, s.grow, s.refresh, s.subtree = 0, nil, nil, nil
		return nil
	}
	s.keys = append(s.keys, l.Key)
	return nil
}

// maxOrigin is the length in bytes of the longest origin. Notes could hold longer
// ones; the database's keys and the metrics' labels had better not.
const maxOrigin = 1024

func checkLog(l Log) error {
	if l.Key == nil {
		return fmt.Errorf("log %q: no key", l.Origin)
	}
	if l.Origin == "" || len(l.Origin) > maxOrigin || !utf8.ValidString(l.Origin) || strings.ContainsFunc(l.Origin, func(r rune) bool { return r < 0x20 }) {
		return fmt.Errorf("log %.300q: the origin must be a line of UTF-8 of 1 to %d bytes", l.Origin, maxOrigin)
	}
	if k := l.Key.Kind(); k != checkpoint.Ed25519 && k != checkpoint.CosignatureMLDSA44 {
		return fmt.Errorf("log %q: key is of type %02x (%v), want a log's: 01 or 06", l.Origin, byte(k), k)
	}
	if l.QPD < 0 || l.QPD > math.MaxInt32 {
		return fmt.Errorf("log %q: %d queries per day", l.Origin, l.QPD)
	}
	return nil
}

// addListed adds a log of a list. A log that is known stays as it is: whoever
// controls a list must not be able to replace a log's key, or to slow it down.
func (w *Witness) addListed(l Log) error {
	s := w.lookup(l.Origin)
	if s == nil {
		return w.add(l)
	}
	if !slices.ContainsFunc(s.keys, func(k *checkpoint.VerifierKey) bool { return k.String() == l.Key.String() }) {
		w.cfg.Logger.Warn("log list has another key for a known log; ignored", "origin", l.Origin, "vkey", l.Key)
	}
	return nil
}

// add adds a log that isn't known, with what the database has about it.
func (w *Witness) add(l Log) error {
	s := &logState{origin: l.Origin, keys: []*checkpoint.VerifierKey{l.Key}, qpd: l.QPD}
	if l.QPD > 0 {
		limit := rate.Limit(float64(l.QPD) / (24 * 60 * 60))
		burst := max(10, l.QPD/24) // an hour's worth, to catch up with
		s.grow, s.refresh, s.subtree = rate.NewLimiter(limit, burst), rate.NewLimiter(limit, burst), rate.NewLimiter(limit, burst)
	}
	r, err := w.store.read(l.Origin)
	if err != nil {
		return fmt.Errorf("state of %q: %v", l.Origin, err)
	}
	if r.value != nil {
		h, err := w.headOf(*r.value)
		if err != nil {
			return fmt.Errorf("state of %q: %v", l.Origin, err)
		}
		s.head.Store(h)
	}
	s.held.Store(r.held)
	s.forks = r.forks
	s.forkCount.Store(int64(len(r.forks)))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logs[l.Origin] = s
	w.byHash[sha256.Sum256([]byte(l.Origin))] = s
	return nil
}

func (w *Witness) lookup(origin string) *logState {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.logs[origin]
}

// all returns all logs, sorted by origin.
func (w *Witness) all() []*logState {
	w.mu.RLock()
	all := make([]*logState, 0, len(w.logs))
	for _, l := range w.logs {
		all = append(all, l)
	}
	w.mu.RUnlock()
	slices.SortFunc(all, func(a, b *logState) int { return strings.Compare(a.origin, b.origin) })
	return all
}

// Run reads the lists of logs from time to time, and retries to recover logs,
// until ctx is done. If writing the state fails, it returns that error at once:
// what is on disk is then unknown, the witness cosigns nothing any more, and
// has to be opened anew.
func (w *Witness) Run(ctx context.Context) error {
	list := time.NewTicker(w.cfg.LogListInterval)
	defer list.Stop()
	retry := time.NewTicker(time.Minute)
	defer retry.Stop()
	w.recoverHeld(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.store.failed:
			return w.store.failure()
		case <-list.C:
			w.readLists(ctx, w.cfg.LogLists)
		case <-retry.C:
			w.readLists(ctx, w.m.failedLists())
			w.recoverHeld(ctx)
		}
	}
}

func (w *Witness) readLists(ctx context.Context, lists []string) {
	for _, where := range lists {
		if err := w.readList(ctx, where); err != nil && ctx.Err() == nil {
			w.cfg.Logger.Error("log list not read, will try again", "list", where, "err", err)
		}
	}
}

// Err returns why the witness has stopped cosigning, nil if it hasn't.
func (w *Witness) Err() error {
	select {
	case <-w.store.failed:
		return w.store.failure()
	default:
		return nil
	}
}

// Close closes the state. Servers of w's handlers must have been shut down.
func (w *Witness) Close() error { return w.store.close() }

// sign returns w's cosignature lines for a checkpoint: at least one.
func (w *Witness) sign(c *checkpoint.Checkpoint, text []byte, now time.Time) ([]byte, error) {
	if now.Unix() <= 0 {
		return nil, fmt.Errorf("the clock says %v", now) // timestamp 0 must not be answered
	}
	var lines bytes.Buffer
	for _, k := range w.cfg.Keys {
		if !canSign(k, c) {
			continue
		}
		line, err := k.Sign(text, now)
		if err != nil {
			return nil, err
		}
		lines.Write(line)
	}
	return lines.Bytes(), nil
}

// canSign reports whether k can cosign c.
func canSign(k *checkpoint.SigningKey, c *checkpoint.Checkpoint) bool {
	return k.Kind() != checkpoint.CosignatureMLDSA44 || len(c.Extensions) == 0 && len(c.Origin) <= 255
}
