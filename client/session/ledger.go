package session

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/record"
)

// Config is what sessions of one recorder have in common. Fields are required unless they say otherwise.
type Config struct {
	// Log is where records are logged. It needs the vendor's token. A log policy in it lets the TD notice a log that
	// answers with nonsense; what is proven to customers doesn't rest on it.
	Log *client.Client

	// Quotes is the TD's source of quotes.
	Quotes QuoteSource

	// Dir is a directory in guest memory, in which each session gets its own. It must be on ramfs, or on a tmpfs that
	// isn't swapped out; anything else is refused with [ErrNotMemory]. Nobody but the recorder's user may be able to
	// read it: the sessions' keys are in it.
	Dir string

	// AnyFileSystem accepts a Dir that isn't known to be in memory: optional, for tests and demonstrations. On a disk
	// the key can be copied, and then anybody can sign for the session.
	AnyFileSystem bool

	// Vendor is the vendor's id, that whose token Log has.
	Vendor string

	// Environment is what the TD says it runs. Accelerators are left out: see below.
	Environment record.Environment

	// Accelerators returns the TD's accelerators, with the digests of evidence that they have made with the nonce, for
	// each statement anew. Type, binding and nonce are filled in. It is optional.
	Accelerators func(ctx context.Context, nonce record.Digest) ([]record.Accelerator, error)

	// Content names more attributes that hold content, beside those that [IsContent] knows. It is optional.
	Content []string

	// KeepContent keeps content in the journal and in the private file of the session's owner, beside the documents
	// that have only salted digests of it. Without it content is hashed and forgotten.
	KeepContent bool

	// Now is the TD's clock, time.Now by default. What it says goes into statements and documents, where it informs and
	// proves nothing. Nothing else depends on it.
	Now func() time.Time

	pause func(ctx context.Context, d time.Duration) error // sleeps, unless a test says otherwise
	wrap  func(file) file                                  // puts a test between the journal and its file
}

// A QuoteSource issues quotes of the TD that it runs in, as those of package quote do. It must be possible to use it
// concurrently.
type QuoteSource interface {
	// Quote returns a raw TDX quote, without padding, whose REPORTDATA is reportData. An error that wraps
	// [errors.ErrUnsupported] says that asking again is of no use.
	Quote(ctx context.Context, reportData [64]byte) ([]byte, error)
}

const (
	// freshPause is how often the log is asked for a note that covers the start. It makes one about once a minute.
	freshPause    = time.Second
	maxFreshPause = 5 * time.Second

	// settlePause is longer than a log takes for a submission, so that afterwards it has it or never will.
	settlePause = 15 * time.Second

	// maxStale bounds how often a statement is made anew because the log found it stale.
	maxStale = 3

	quoteAttempts = 3
	quotePause    = 500 * time.Millisecond
)

func (c *Config) check() error {
	switch {
	case c.Log == nil:
		return errors.New("no log")
	case c.Quotes == nil:
		return errors.New("no source of quotes")
	case c.Dir == "":
		return errors.New("no directory")
	case len(c.Environment.Accelerators) > 0:
		return errors.New("accelerators in the environment: their nonce differs from statement to statement, see Config.Accelerators")
	}
	if err := record.CheckVendorID(c.Vendor); err != nil {
		return err
	}
	for _, name := range c.Content {
		if !isAttributeName(name+contentSuffix) || name == ContentArguments || name == ContentResult || name == record.AttrOperationName || name == record.AttrConversationID {
			return fmt.Errorf("attribute %.80q can't be content", name)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.pause == nil {
		c.pause = pause
	}
	if c.AnyFileSystem {
		return nil
	}
	return checkMemory(c.Dir)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// now returns the TD's time as statements have it.
func (c *Config) now() time.Time { return c.Now().UTC().Truncate(time.Second) }

// pending is a record on its way into the log.
type pending struct {
	entry  *record.Entry // nil until it is made
	logged bool
	index  uint64
	origin string
}

// ref returns where the record is.
func (p *pending) ref() record.StatementRef {
	return record.StatementRef{Origin: p.origin, Index: p.index, Statement: p.entry.StatementDigest()}
}

// ledger is what sessions and model runs have in common: a key, a journal, a tree of documents, and records that get
// logged once.
type ledger struct {
	cfg  Config
	kind byte
	id   record.SessionID // of the session; random for a model run
	key  ed25519.PrivateKey

	// op is held while records are made and submitted, which takes long. It is locked before mu.
	op sync.Mutex

	mu        sync.Mutex // guards the rest
	j         *journal
	enc       encoder
	buf       []byte
	documents tree
	counts    map[string]uint64 // by operation; nil once there are too many
	outcomes  map[string]uint64
	start     pending // changed with op and mu held
	end       pending // likewise
	commit    commit
	frozen    bool // the end is being made
	models    []record.Model
	served    tree
	servedID  map[record.SessionID]bool
}

// maxCounts bounds the operations that are counted apart (FORMAT.md, section 2.5).
const maxCounts = 64

func newLedger(cfg Config) *ledger {
	l := &ledger{
		cfg: cfg, counts: make(map[string]uint64), outcomes: make(map[string]uint64), servedID: make(map[record.SessionID]bool),
	}
	l.enc.keep = cfg.KeepContent
	for _, name := range cfg.Content {
		if l.enc.extra == nil {
			l.enc.extra = make(map[string]bool)
		}
		l.enc.extra[name] = true
	}
	return l
}

// create makes a key and a journal.
func create(cfg Config, kind byte) (*ledger, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := newLedger(cfg)
	h := header{kind: kind}
	rand.Read(h.id[:]) // never fails
	rand.Read(h.seed[:])
	l.adopt(&h)
	var err error
	if l.j, err = createJournal(l.dir(), h.marshal()); err != nil {
		return nil, err
	}
	if cfg.wrap != nil {
		l.j.f = cfg.wrap(l.j.f)
	}
	return l, nil
}

func (l *ledger) adopt(h *header) {
	l.kind, l.id, l.key = h.kind, h.id, ed25519.NewKeyFromSeed(h.seed[:])
}

func (l *ledger) dir() string { return filepath.Join(l.cfg.Dir, l.id.String()) }

// open reads the journal that a process left behind.
func open(cfg Config, kind byte, id record.SessionID) (*ledger, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	l := newLedger(cfg)
	l.id = id
	var err error
	if l.j, err = openJournal(l.dir(), l.replay); err != nil {
		return nil, err
	}
	if l.kind != kind || l.id != id {
		err := fmt.Errorf("%w journal: of another session, or of another kind", ErrCorrupt)
		return nil, errors.Join(err, l.j.close())
	}
	if cfg.wrap != nil {
		l.j.f = cfg.wrap(l.j.f)
	}
	return l, nil
}

// Journals returns the sessions and model runs that have a journal in dir: those that are open, and those that a
// process left behind when it died.
func Journals(dir string) (sessions, runs []record.SessionID, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		id, err := record.ParseSessionID(e.Name())
		if err != nil {
			continue
		}
		f, err := os.Open(filepath.Join(dir, e.Name(), journalName))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, nil, err
		}
		kind := make([]byte, 1)
		_, err = f.ReadAt(kind, int64(len(journalMagic)+frameOverhead))
		f.Close()
		switch {
		case err == nil && kind[0] == kindSession:
			sessions = append(sessions, id)
		case err == nil && kind[0] == kindRun:
			runs = append(runs, id)
		}
	}
	return sessions, runs, nil
}

// Discard removes the journal of a session or model run that isn't open, and destroys its key: for one that can't or
// needn't be finished. It is like [Session.Remove] without [Resume], which asks the log.
func Discard(dir string, id record.SessionID) error {
	j, err := openJournal(filepath.Join(dir, id.String()), func(frameType, []byte) error { return nil })
	if err != nil {
		return err
	}
	return j.destroy()
}

// replay takes up a frame.
func (l *ledger) replay(t frameType, b []byte) error {
	entry := func(p *pending, b []byte) error {
		e, err := record.ParseEntry(append([]byte(nil), b...))
		switch {
		case err != nil:
			return fmt.Errorf("%w journal: %w", ErrCorrupt, err)
		case p.logged || p.entry != nil && p.entry.StatementDigest() != e.StatementDigest():
			return fmt.Errorf("%w journal: two statements for one place", ErrCorrupt)
		}
		p.entry = e
		return nil
	}
	logged := func(p *pending, b []byte) (err error) {
		if p.entry == nil || p.logged {
			return fmt.Errorf("%w journal: the place of no record", ErrCorrupt)
		}
		p.index, p.origin, err = parseLogged(b)
		p.logged = err == nil
		return err
	}
	switch t {
	case frameHeader:
		var h header
		if err := h.parse(b); err != nil {
			return err
		}
		l.adopt(&h)
		return nil
	case frameStart:
		return entry(&l.start, b)
	case frameStarted:
		return logged(&l.start, b)
	case frameAction:
		d, err := parseDocument(b)
		if err != nil {
			return err
		}
		a, err := record.ParseAction(d.Document)
		if err != nil {
			return fmt.Errorf("%w journal: %w", ErrCorrupt, err)
		}
		if a.Index != l.documents.size {
			return fmt.Errorf("%w journal: action %d in the place of %d", ErrCorrupt, a.Index, l.documents.size)
		}
		l.documents.add(record.ActionLeaf(d.Salt, d.Document))
		l.count(a.Attributes[record.AttrOperationName].(string), a.Outcome) // ParseAction has checked the type
		return nil
	case frameModel:
		m, err := parseModel(b)
		if err == nil {
			l.models = addModel(l.models, m)
		}
		return err
	case frameModels:
		ms, err := parseModels(b)
		if err == nil {
			l.models = ms
		}
		return err
	case frameServed:
		s, err := parseServed(b)
		if err == nil {
			l.served.add(s.leaf())
			l.servedID[s.ID] = true
		}
		return err
	case frameEnd:
		c, e, err := parseEnd(b)
		if err != nil {
			return err
		}
		l.commit = c
		return entry(&l.end, e)
	case frameEnded:
		return logged(&l.end, b)
	case frameRefused:
		for _, p := range []*pending{&l.start, &l.end} {
			if p.entry != nil && !p.logged && len(b) == 32 && p.entry.StatementDigest() == record.Digest(b) {
				*p = pending{}
				return nil
			}
		}
		return fmt.Errorf("%w journal: refusal of no record", ErrCorrupt)
	}
	return fmt.Errorf("%w journal: frame of type %d", ErrCorrupt, t)
}

func (l *ledger) count(operation, outcome string) {
	l.outcomes[outcome]++
	if l.counts == nil {
		return
	}
	if _, ok := l.counts[operation]; !ok && len(l.counts) == maxCounts {
		l.counts = nil
		return
	}
	l.counts[operation]++
}

// append writes documents, all or none, and returns the index of the first.
func (l *ledger) append(as []Action, session func(i int) record.SessionID) (first uint64, err error) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen || l.end.entry != nil {
		return 0, ErrEnded
	}
	type done struct {
		leaf               record.Digest
		operation, outcome string
	}
	var one [1]done
	all := one[:0]
	first = l.documents.size
	l.buf = l.buf[:0]
	for i := range as {
		var d done
		start := len(l.buf)
		l.buf = beginFrame(l.buf, frameAction)
		l.buf, d.leaf, d.operation, d.outcome, err = l.enc.append(l.buf, &as[i], session(i), first+uint64(i), now)
		if err != nil {
			if len(as) > 1 {
				err = fmt.Errorf("number %d of %d: %w", i, len(as), err)
			}
			return 0, err
		}
		endFrame(l.buf, start)
		all = append(all, d)
	}
	if err := l.j.write(l.buf); err != nil {
		return 0, err
	}
	for _, d := range all {
		l.documents.add(d.leaf)
		l.count(d.operation, d.outcome)
	}
	if cap(l.buf) > 1<<20 {
		l.buf = nil // one large action must not be paid for by all
	}
	return first, nil
}

// write appends one frame. l.mu is held.
func (l *ledger) write(t frameType, payload []byte) error { return l.j.write(frame(t, payload)) }

// sessionKey returns the public key.
func (l *ledger) sessionKey() record.SessionKey {
	return record.NewSessionKey(l.key.Public().(ed25519.PublicKey))
}

// fresh returns a note of the log whose checkpoint covers size leaves, for a statement to name. It waits until there is
// one.
func (l *ledger) fresh(ctx context.Context, size uint64) (record.Freshness, error) {
	for d := freshPause; ; d = d * 3 / 2 {
		f, err := l.cfg.Log.Freshness(ctx)
		if err != nil {
			return record.Freshness{}, err
		}
		// The shard before has its own checkpoints, which covered the start when it was logged.
		if f.Size >= size || l.start.logged && record.NextShard(l.start.origin, f.Origin) {
			return f.Freshness, nil
		}
		if err := l.cfg.pause(ctx, d); err != nil {
			return record.Freshness{}, fmt.Errorf("waiting for a note of the log that covers %d leaves, the newest has %d: %w", size, f.Size, err)
		}
		d = min(d, maxFreshPause)
	}
}

// environment returns what the TD runs, with the evidence of its accelerators.
func (l *ledger) environment(ctx context.Context, f record.Freshness) (record.Environment, error) {
	env := l.cfg.Environment
	if l.cfg.Accelerators == nil {
		return env, nil
	}
	nonce := record.GPUNonce(l.sessionKey().SPKI, f.Note)
	accelerators, err := l.cfg.Accelerators(ctx, nonce)
	if err != nil {
		return env, fmt.Errorf("evidence of accelerators: %w", err)
	}
	env.Accelerators = append([]record.Accelerator(nil), accelerators...)
	for i := range env.Accelerators {
		a := &env.Accelerators[i]
		a.Type, a.Binding, a.Nonce = record.AcceleratorNVIDIA, record.BindingNonceChained, nonce
	}
	return env, nil
}

// seal gets a quote over a statement, and signs it.
func (l *ledger) seal(ctx context.Context, payload []byte) (*record.Entry, error) {
	for i := 1; ; i++ {
		q, err := l.cfg.Quotes.Quote(ctx, record.ReportData(record.PayloadType, payload))
		if err == nil {
			return record.SignEntry(record.ProfileStatement, payload, l.key, record.NewQuoteEvidence(q))
		}
		if i == quoteAttempts || ctx.Err() != nil || errors.Is(err, errors.ErrUnsupported) {
			return nil, fmt.Errorf("quote: %w", err)
		}
		if err := l.cfg.pause(ctx, time.Duration(i)*quotePause); err != nil {
			return nil, err
		}
	}
}

// land brings a record into the log: p's, or one of the statement that statement returns. The record's bytes are in the
// journal before they are submitted, and what is in the journal is submitted again, by this process or the next, until
// the log has it. So there is never a second statement in its place, unless the log can't admit the first any more: its
// freshness is too old, and can't become younger. l.op is held.
func (l *ledger) land(ctx context.Context, p *pending, before, after frameType, statement func(context.Context) (*record.Statement, error)) error {
	settled, quoted := false, false
	for stale := 0; ; {
		if p.entry == nil {
			st, err := statement(ctx)
			if err != nil {
				return err
			}
			payload, err := st.Marshal()
			if err != nil {
				return err
			}
			if err := l.keep(ctx, p, before, payload); err != nil {
				return err
			}
			settled, quoted = false, true
		}
		index, err := l.submit(ctx, p.entry)
		if err == nil {
			origin := p.entry.Statement().Freshness().Origin // the log admits its own notes only
			l.mu.Lock()
			defer l.mu.Unlock()
			p.index, p.origin, p.logged = index, origin, true
			// Should this fail, the next process submits the record again, and gets the same answer.
			return l.write(after, marshalLogged(index, origin))
		}
		var problem *client.Problem
		switch errors.As(err, &problem); {
		case problem == nil:
			return err
		case problem.Name() == "stale-freshness" && !settled:
			// An earlier request may still be under way in the log.
			if err := l.cfg.pause(ctx, settlePause); err != nil {
				return err
			}
			settled = true
		case problem.Name() == "stale-freshness" && stale < maxStale:
			stale++
			digest := p.entry.StatementDigest()
			l.mu.Lock()
			werr := l.write(frameRefused, digest[:])
			if werr == nil {
				*p = pending{}
			}
			l.mu.Unlock()
			if werr != nil {
				return werr
			}
		case problem.Name() == "not-genuine" && !quoted:
			// The quote of another process, which may have met the platform in another state. The statement stays
			// the same.
			if err := l.keep(ctx, p, before, p.entry.Payload); err != nil {
				return err
			}
			quoted = true
		default:
			return err
		}
	}
}

// keep seals a statement and puts the entry into the journal.
func (l *ledger) keep(ctx context.Context, p *pending, t frameType, payload []byte) error {
	e, err := l.seal(ctx, payload)
	if err != nil {
		return err
	}
	b := e.Bytes()
	l.mu.Lock()
	defer l.mu.Unlock()
	if t == frameEnd {
		b = marshalEnd(&l.commit, b)
	}
	if err := l.write(t, b); err != nil {
		return err
	}
	p.entry = e
	return nil
}

// submit logs an entry and returns its index.
func (l *ledger) submit(ctx context.Context, e *record.Entry) (uint64, error) {
	proof, err := l.cfg.Log.Submit(ctx, e)
	var problem *client.Problem
	if errors.As(err, &problem) && problem.Name() == "statement-exists" {
		// With another quote: a process before this one was refused, so it thought.
		proof, err = l.cfg.Log.ProofByStatement(ctx, e.StatementDigest())
	}
	if err != nil {
		return 0, err
	}
	return proof.Index, nil
}

// Close leaves the journal for another process to resume.
func (l *ledger) Close() error {
	l.op.Lock()
	defer l.op.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.j.close()
}

// Remove destroys the key and removes the journal. What is in it can't be had again: its owner's file must have been
// written before. A session that has started and has neither a final nor an abandoned record stays so for ever.
func (l *ledger) Remove() error {
	l.op.Lock()
	defer l.op.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.key)
	return l.j.destroy()
}
