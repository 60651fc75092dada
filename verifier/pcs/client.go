package pcs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Config configures [New]. The zero value asks Intel, and remembers what it got
// in memory only.
type Config struct {
	// URL is that of a PCS or PCCS, such as "https://localhost:8081"; the path
	// of its API may follow. It defaults to IntelURL. The root's revocation list
	// comes from Intel's certificates host if that is the URL, else from the
	// service: /sgx/certification/v4/rootcacrl, or /IntelSGXRootCA.der if it
	// doesn't have the former.
	URL string

	// Root verifies what the service says. It defaults to Intel's.
	Root *tdx.Root

	// CacheDir is a folder for the newest set of each kind of platform, and,
	// in its subfolder "archive", the ones they replaced. It is created if it
	// doesn't exist. Only one client may use it. There is no cache on disk, and
	// no archive, if it is empty.
	CacheDir string

	// Archive is how many replaced sets are kept for each kind of platform. It
	// defaults to 64, two months if there is a new one every day.
	Archive int

	// RefreshEvery is how long [Client.Run] uses a set before it asks for a
	// newer one. It defaults to a day, which is also the longest.
	RefreshEvery time.Duration

	// HTTPClient does the requests, such as one that trusts a PCCS's
	// certificate. The default follows no redirects.
	HTTPClient *http.Client

	// Timeout bounds an attempt at a request, body included. It defaults to 20
	// seconds.
	Timeout time.Duration

	// Now is the clock that decides what is in force. It defaults to time.Now.
	Now func() time.Time

	// Logger gets what went wrong and was survived. It defaults to none.
	Logger *slog.Logger
}

const (
	// maxFetches bounds how many sets are fetched at the same time.
	maxFetches = 8

	// fetchTimeout bounds fetching one set, whatever the single requests take.
	fetchTimeout = 3 * time.Minute

	// A family that the service doesn't know isn't asked for again for
	// unknownFor, and a service that gives no usable answer for failedFor:
	// whoever submits quotes should not be able to have us flood it.
	unknownFor = 10 * time.Minute
	failedFor  = 5 * time.Second
	maxFailed  = 1024 // families that are remembered for that

	// minRefresh and maxRefresh bound how soon Run tries again, after a
	// failure or if the service has nothing that lasts.
	minRefresh = time.Minute
	maxRefresh = time.Hour
)

// A Client is a [Source] that asks a PCS or PCCS, and remembers the answers. A
// set is used from when it was fetched until it expires; [Client.Run] replaces it
// well before. What the client has it serves also while the service is down.
type Client struct {
	fetcher *fetcher
	root    *tdx.Root
	dir     string
	keep    int
	refresh time.Duration
	now     func() time.Time
	log     *slog.Logger
	archive *Directory // nil if dir is empty
	write   func(path string, b []byte) error

	ctx    context.Context // of fetches, canceled by Close
	cancel context.CancelFunc
	slots  chan struct{} // holds a token for each fetch under way
	wake   chan struct{} // tells Run that there is something new

	// mu guards the fields below. It is never held during input or output.
	mu     sync.Mutex
	closed bool
	sets   map[key]*entry // entries are replaced, never modified
	calls  map[key]*call  // under way
	failed *simplelru.LRU[key, failure]
	wg     sync.WaitGroup // of calls; added to only if closed is false
}

// An entry is the newest set of a key.
type entry struct {
	set *tdx.Set
	due time.Time // when Run should look for a newer one
}

// A call is a fetch under way, which all who want its result wait for.
type call struct {
	done chan struct{} // closed when set and err are final
	set  *tdx.Set
	err  error
}

// A failure is the last error of a key, and how long it stands.
type failure struct {
	err   error
	until time.Time
}

// New returns a client, with what is in its cache. It asks nobody. The error
// says what is wrong with the configuration or the cache folder; files in there
// that can't be used are logged and otherwise ignored.
func New(cfg Config) (*Client, error) {
	c := &Client{
		root: cfg.Root, dir: cfg.CacheDir, keep: cfg.Archive, refresh: cfg.RefreshEvery,
		now: cfg.Now, log: cfg.Logger, write: writeFile,
		slots: make(chan struct{}, maxFetches), wake: make(chan struct{}, 1),
		sets: make(map[key]*entry), calls: make(map[key]*call),
	}
	const day = 24 * time.Hour
	switch {
	case cfg.Archive < 0:
		return nil, fmt.Errorf("pcs: archive of %d sets", cfg.Archive)
	case cfg.RefreshEvery < 0 || cfg.RefreshEvery > day:
		return nil, fmt.Errorf("pcs: refresh every %v, want at least daily", cfg.RefreshEvery)
	case cfg.Timeout < 0:
		return nil, fmt.Errorf("pcs: timeout %v", cfg.Timeout)
	}
	setDefault(&cfg.URL, IntelURL)
	setDefault(&cfg.Timeout, 20*time.Second)
	setDefault(&c.keep, 64)
	setDefault(&c.refresh, day)
	if c.root == nil {
		c.root = tdx.IntelRoot()
	}
	if c.now == nil {
		c.now = time.Now
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = defaultClient()
	}
	var err error
	if c.fetcher, err = newFetcher(cfg.URL, cfg.HTTPClient, cfg.Timeout); err != nil {
		return nil, fmt.Errorf("pcs: %w", err)
	}
	if c.failed, err = simplelru.NewLRU[key, failure](maxFailed, nil); err != nil {
		return nil, fmt.Errorf("pcs: %w", err)
	}
	if c.dir != "" {
		archive := filepath.Join(c.dir, "archive")
		if err := os.MkdirAll(archive, 0o755); err != nil {
			return nil, fmt.Errorf("pcs: cache: %w", err)
		}
		c.archive = Dir(archive, c.root)
		if err := c.load(); err != nil {
			return nil, fmt.Errorf("pcs: cache: %w", err)
		}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	if *v == *new(T) {
		*v = def
	}
}

func defaultClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: maxHeader,
			TLSHandshakeTimeout:    10 * time.Second,
			IdleConnTimeout:        90 * time.Second,
		},
		// Neither service redirects, so an answer that does isn't from it.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Close stops what is under way and waits for it. The client can't fetch any
// more, but still serves what it has.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.fetcher.client.CloseIdleConnections()
}

// Collateral implements [Source]. It gives what it has if that is in force at
// the time; else it asks the service, once for all callers who want the same,
// and waits for the answer or the end of ctx. What the archive doesn't have of
// the past, the service doesn't have either.
func (c *Client) Collateral(ctx context.Context, fmspc, ca string, at time.Time) (*tdx.Collateral, error) {
	k, err := newKey(fmspc, ca)
	if err != nil {
		return nil, err
	}
	set, err := c.find(ctx, k, at)
	if err != nil {
		return nil, err
	}
	return set.Collateral(), nil
}

func (c *Client) find(ctx context.Context, k key, at time.Time) (*tdx.Set, error) {
	c.mu.Lock()
	current := c.sets[k]
	c.mu.Unlock()
	var stale error
	if current != nil {
		if stale = current.set.ValidAt(at); stale == nil {
			return current.set, nil
		}
	}
	if c.archive != nil {
		switch set, err := c.archive.find(k, at); {
		case err == nil:
			return set, nil
		case errors.Is(err, ErrUnreachable):
			c.log.Error("collateral archive", "err", err)
		}
	}
	if current != nil {
		if from, _ := current.set.Window(); at.Before(from) {
			return nil, fmt.Errorf("%w for FMSPC %s, %s CA: %w", ErrNoCollateral, k.fmspc, k.ca, stale)
		}
	}
	set, err := c.fetch(ctx, k, false)
	if err != nil {
		return nil, err
	}
	if err := set.ValidAt(at); err != nil {
		return nil, fmt.Errorf("%w for FMSPC %s, %s CA: %w", ErrNoCollateral, k.fmspc, k.ca, err)
	}
	return set, nil
}

// fetch gets the newest set from the service and adopts it, or waits for
// somebody else's fetch. Unless it is forced, it doesn't repeat what has just
// failed.
func (c *Client) fetch(ctx context.Context, k key, force bool) (*tdx.Set, error) {
	c.mu.Lock()
	if f, ok := c.failed.Get(k); ok && !force && c.now().Before(f.until) {
		c.mu.Unlock()
		return nil, f.err
	}
	cl := c.calls[k]
	if cl == nil {
		if c.closed {
			c.mu.Unlock()
			return nil, fmt.Errorf("%w: client closed", ErrUnreachable)
		}
		cl = &call{done: make(chan struct{})}
		c.calls[k] = cl
		c.wg.Go(func() { c.run(k, cl) })
	}
	c.mu.Unlock()

	select {
	case <-cl.done:
		return cl.set, cl.err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
	}
}

// run does a call. It belongs to the client and not to the caller who happened
// to be first, who may lose patience before the others.
func (c *Client) run(k key, cl *call) {
	ctx, cancel := context.WithTimeout(c.ctx, fetchTimeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		cl.set, cl.err = c.update(ctx, k)
		<-c.slots
	case <-ctx.Done():
		cl.err = fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
	}
	c.mu.Lock()
	delete(c.calls, k)
	switch {
	case cl.err == nil:
		c.failed.Remove(k)
	case errors.Is(cl.err, ErrNoCollateral):
		c.failed.Add(k, failure{cl.err, c.now().Add(unknownFor)})
	default:
		c.failed.Add(k, failure{cl.err, c.now().Add(failedFor)})
	}
	c.mu.Unlock()
	close(cl.done)
}

// update fetches a set and adopts it. There is never more than one update of
// the same key.
func (c *Client) update(ctx context.Context, k key) (*tdx.Set, error) {
	fetched, err := c.fetcher.fetch(ctx, k)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	current := c.sets[k]
	c.mu.Unlock()

	now := c.now()
	set, file, err := c.check(fetched, k, now)
	if err != nil {
		return nil, fmt.Errorf("%w: unusable collateral: %w", ErrUnreachable, err)
	}
	if current != nil && current.set.ValidAt(now) == nil && rolledBack(current.set, set) {
		return nil, fmt.Errorf("%w: it has TCB evaluation data numbers %d and %d (QE), and had %d and %d", ErrUnreachable,
			set.TCBEvaluationDataNumber(), set.QEEvaluationDataNumber(),
			current.set.TCBEvaluationDataNumber(), current.set.QEEvaluationDataNumber())
	}
	same := current != nil && sameBytes(current.set, set)
	if same {
		set = current.set // callers recognise it by its address
	}
	if c.dir != "" {
		if current != nil && !same {
			c.shelve(k, current.set)
		}
		// Without the file, the set is as good as before, until a restart. It is
		// written also if nothing changed, since its time tells a restarted
		// client when it was fetched, and the last attempt may have failed.
		if err := c.write(filepath.Join(c.dir, k.String()+".json"), file); err != nil {
			c.log.Error("collateral cache", "key", k.String(), "err", err)
		}
	}
	c.mu.Lock()
	c.sets[k] = &entry{set, c.due(set, now)}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default: // Run is already told
	}
	return set, nil
}

// check verifies that a set is what was asked for, and usable. It also returns
// the set's file.
func (c *Client) check(fetched *tdx.Collateral, k key, now time.Time) (*tdx.Set, []byte, error) {
	set, err := tdx.Compile(fetched, c.root)
	if err != nil {
		return nil, nil, err
	}
	if got := setKey(set); got != k {
		return nil, nil, fmt.Errorf("it is for %s, not %s", got, k)
	}
	if err := set.ValidAt(now); err != nil {
		return nil, nil, err
	}
	file, err := fetched.JSON()
	if err != nil {
		return nil, nil, err
	}
	return set, file, nil
}

func sameBytes(a, b *tdx.Set) bool {
	x, y := a.Collateral().Components(), b.Collateral().Components()
	return slices.EqualFunc(x[:], y[:], bytes.Equal)
}

// due returns when a set that was fetched at a time should be refreshed: before
// the interval is over, not at the same time as everybody else, and in the first
// half of what is left of its life.
func (c *Client) due(set *tdx.Set, fetched time.Time) time.Time {
	wait := c.refresh - rand.N(c.refresh/8+1)
	_, to := set.Window()
	wait = min(wait, to.Sub(fetched)/2)
	return fetched.Add(max(wait, minRefresh))
}

// shelve puts a set that is about to be replaced into the archive, and drops the
// oldest ones beyond the bound. What fails is logged: fresh collateral is worth
// more than an archive without gaps.
func (c *Client) shelve(k key, set *tdx.Set) {
	file, err := set.Collateral().JSON()
	if err != nil {
		c.log.Error("collateral archive", "key", k.String(), "err", err)
		return
	}
	// Names sort by time.
	from, _ := set.Window()
	sum := sha256.Sum256(file)
	name := fmt.Sprintf("%s-%s-%x.json", k, from.UTC().Format("20060102T150405Z"), sum[:8])
	if err := c.write(filepath.Join(c.archive.path, name), file); err != nil {
		c.log.Error("collateral archive", "key", k.String(), "err", err)
	}
	names, err := filepath.Glob(filepath.Join(c.archive.path, k.String()+"-*.json"))
	if err != nil {
		c.log.Error("collateral archive", "key", k.String(), "err", err)
	}
	slices.Sort(names)
	for _, old := range names[:max(0, len(names)-c.keep)] {
		if err := os.Remove(old); err != nil {
			c.log.Error("collateral archive", "key", k.String(), "err", err)
		}
	}
	c.archive.rescan()
}

// load reads the cache.
func (c *Client) load() error {
	for _, dir := range []string{c.dir, c.archive.path} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if strings.HasPrefix(e.Name(), tempPrefix) {
				// A write that a crash cut short.
				if err := os.Remove(path); err != nil {
					return err
				}
				continue
			}
			name, ok := strings.CutSuffix(e.Name(), ".json")
			if !ok || e.IsDir() || dir != c.dir {
				continue
			}
			k, set, err := c.loadFile(name, path)
			if err != nil {
				c.log.Warn("collateral cache: file ignored", "file", path, "err", err)
				continue
			}
			fetched := c.now()
			if info, err := e.Info(); err == nil && info.ModTime().Before(fetched) {
				fetched = info.ModTime()
			}
			c.sets[k] = &entry{set, c.due(set, fetched)}
		}
	}
	return nil
}

func (c *Client) loadFile(name, path string) (key, *tdx.Set, error) {
	fmspc, ca, _ := strings.Cut(name, "-")
	k, err := newKey(fmspc, ca)
	if err != nil {
		return key{}, nil, err
	}
	b, err := readFile(path)
	if err != nil {
		return key{}, nil, err
	}
	set, err := parseFile(b, c.root)
	if err != nil {
		return key{}, nil, err
	}
	if got := setKey(set); got != k {
		return key{}, nil, fmt.Errorf("it is for %s", got)
	}
	return k, set, nil
}

// Run refreshes what the client has, at least daily and well before it expires,
// until ctx is done. It is to be called once; all refreshing is done by the
// goroutine that calls it, and logged if it fails.
func (c *Client) Run(ctx context.Context) {
	failures := make(map[key]int)
	retry := make(map[key]time.Time) // not before
	for {
		now := c.now()
		next := now.Add(c.refresh)
		var due []key
		c.mu.Lock()
		for k, e := range c.sets {
			at := e.due
			if r := retry[k]; r.After(at) {
				at = r
			}
			if !at.After(now) {
				due = append(due, k)
			} else if at.Before(next) {
				next = at
			}
		}
		c.mu.Unlock()

		if len(due) > 0 {
			for k, err := range c.refreshAll(ctx, due) {
				if err == nil {
					delete(failures, k)
					delete(retry, k)
					continue
				}
				if ctx.Err() != nil {
					return
				}
				wait := min(minRefresh<<min(failures[k], 10), maxRefresh)
				wait -= rand.N(wait / 4)
				failures[k]++
				retry[k] = c.now().Add(wait)
				c.log.Warn("collateral refresh", "key", k.String(), "failures", failures[k], "again", wait, "err", err)
			}
			continue
		}
		timer := time.NewTimer(next.Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-c.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// refreshAll fetches sets and returns the errors by key, nil for success.
func (c *Client) refreshAll(ctx context.Context, keys []key) map[key]error {
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	for i, k := range keys {
		wg.Go(func() { _, errs[i] = c.fetch(ctx, k, true) })
	}
	wg.Wait()
	m := make(map[key]error)
	for i, k := range keys {
		m[k] = errs[i]
	}
	return m
}

// tempPrefix starts the names of files that are being written.
const tempPrefix = ".tmp-"

// writeFile writes a file so that after a crash it is there as a whole, or what
// was there before is. An error doesn't mean that nothing was written.
func writeFile(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()           // closing twice is harmless
			_ = os.Remove(f.Name()) // it may be renamed already
		}
	}()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
