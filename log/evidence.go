package sessionlog

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
)

// Bounds of an evidence store unless its options say otherwise.
const (
	defaultEvidenceSize  = 4 << 20 // of one item: event logs have up to 256 KiB, evidence of eight GPUs some 500 KB
	defaultEvidenceTotal = 10 << 30
	evidenceUnnamed      = time.Hour   // how long what no entry names is kept
	evidencePruned       = time.Minute // the least time between two prunings
	evidenceAtOnce       = 4           // uploads under way
)

// EvidenceOptions configures [OpenEvidence].
type EvidenceOptions struct {
	// MaxSize bounds one item, in bytes. It defaults to 4 MiB.
	MaxSize int64

	// MaxTotal bounds all of them. What comes when it is reached is refused. It defaults to 10 GiB.
	MaxTotal int64

	// Keep is how long an item is kept that an entry names, counted from the entry. It is kept for good if Keep is zero.
	Keep time.Duration

	// now is the clock; tests set it.
	now func() time.Time
}

// An EvidenceStore keeps evidence that entries name by digest and that is too large for a leaf (FORMAT.md, "Evidence
// store"). It is no part of the tree: whatever it loses, no proof breaks, and readers hash what they get.
//
// What a vendor hands in waits in one folder until an entry is admitted that names it, and then moves to another. So
// nobody can fill it for long with what has nothing to do with the log.
type EvidenceStore struct {
	dir string
	o   EvidenceOptions

	// uploads has a place for each upload under way.
	uploads chan struct{}

	// mu guards what follows, and the moves of files.
	mu     sync.Mutex
	total  int64
	pruned time.Time
}

// The folders of an evidence store.
const (
	evidenceWaiting = "waiting"
	evidenceNamed   = "named"
)

// OpenEvidence opens the evidence store in dir, and makes it if there is none. One process at a time may have it open.
func OpenEvidence(dir string, o EvidenceOptions) (*EvidenceStore, error) {
	if o.MaxSize == 0 {
		o.MaxSize = defaultEvidenceSize
	}
	if o.MaxTotal == 0 {
		o.MaxTotal = defaultEvidenceTotal
	}
	if o.now == nil {
		o.now = time.Now
	}
	s := &EvidenceStore{dir: dir, o: o, uploads: make(chan struct{}, evidenceAtOnce)}
	for _, name := range []string{evidenceWaiting, evidenceNamed} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, fmt.Errorf("evidence store: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.prune()
}

func (s *EvidenceStore) path(folder string, d record.Digest) string {
	return filepath.Join(s.dir, folder, hex.EncodeToString(d[:]))
}

// prune removes what is too old, and counts what is left. mu is held.
func (s *EvidenceStore) prune() error {
	now := s.o.now()
	var total int64
	for _, f := range []struct {
		name string
		keep time.Duration
	}{{evidenceWaiting, evidenceUnnamed}, {evidenceNamed, s.o.Keep}} {
		entries, err := os.ReadDir(filepath.Join(s.dir, f.name))
		if err != nil {
			return fmt.Errorf("evidence store: %w", err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				continue // it was moved meanwhile
			}
			if f.keep > 0 && now.Sub(info.ModTime()) > f.keep {
				if err := os.Remove(filepath.Join(s.dir, f.name, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("evidence store: %w", err)
				}
				continue
			}
			if !strings.HasPrefix(e.Name(), "upload-") { // counted when it is whole
				total += info.Size()
			}
		}
	}
	s.total, s.pruned = total, now
	return nil
}

// put keeps what r has, if it hashes to d, until an entry names it.
func (s *EvidenceStore) put(d record.Digest, r io.Reader) error {
	select {
	case s.uploads <- struct{}{}:
		defer func() { <-s.uploads }()
	default:
		return fmt.Errorf("%w: %d uploads of evidence are under way", ErrOverloaded, evidenceAtOnce)
	}
	if _, err := s.find(d); err == nil {
		return nil
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, evidenceWaiting), "upload-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after a move there is nothing to remove
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, s.o.MaxSize+1))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	switch {
	case err != nil:
		return refuse("malformed", "the evidence didn't arrive whole: %v", err)
	case n > s.o.MaxSize:
		return refuse("too-large", "the evidence has more than %d bytes", s.o.MaxSize)
	case n == 0 || record.Digest(h.Sum(nil)) != d:
		return refuse("malformed", "what was sent has SHA-256 %x, not %x", h.Sum(nil), d)
	}
	// Its age counts from now, and pruning doesn't take it.
	now := s.o.now()
	if err := errors.Join(os.Chmod(f.Name(), 0o644), os.Chtimes(f.Name(), now, now)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.pruned) > evidencePruned {
		if err := s.prune(); err != nil {
			return err
		}
	}
	if s.total+n > s.o.MaxTotal {
		return refuse("quota-exceeded", "the log's evidence store is full: keep the evidence beside the bundle")
	}
	if err := os.Rename(f.Name(), s.path(evidenceWaiting, d)); err != nil {
		return err
	}
	s.total += n
	return nil
}

// find returns the file of an item. The error wraps fs.ErrNotExist if there is none.
func (s *EvidenceStore) find(d record.Digest) (string, error) {
	name := s.path(evidenceNamed, d)
	_, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		name = s.path(evidenceWaiting, d)
		_, err = os.Stat(name)
	}
	return name, err
}

// keep moves what an admitted entry names to what is kept. Errors are for the operator's log: the entry is good without.
func (s *EvidenceStore) keep(e *record.Entry) error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, ev := range e.Evidence {
		ref, err := ev.Ref()
		if err != nil {
			continue
		}
		s.mu.Lock()
		from, to := s.path(evidenceWaiting, ref.SHA256), s.path(evidenceNamed, ref.SHA256)
		now := s.o.now()
		if err := os.Rename(from, to); err == nil || errors.Is(err, fs.ErrNotExist) {
			// Named again, it is kept for longer.
			err = os.Chtimes(to, now, now)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		} else {
			errs = append(errs, err)
		}
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}

// putEvidence answers PUT /evidence/{sha256}.
func (l *Log) putEvidence(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := l.tryPutEvidence(w, r); err != nil {
		l.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (l *Log) tryPutEvidence(w http.ResponseWriter, r *http.Request) error {
	s := l.cfg.Evidence
	if s == nil {
		return refuse("not-found", "this log keeps no evidence")
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	v := l.vendors.authenticate(token, r.TLS)
	if v == nil {
		return refuse("unauthorized", "evidence is kept for vendors only: it needs the header Authorization: Bearer TOKEN")
	}
	d, err := parseDigest(r.PathValue("digest"))
	if err != nil {
		return err
	}
	if r.ContentLength > s.o.MaxSize {
		return refuse("too-large", "the evidence has more than %d bytes", s.o.MaxSize)
	}
	if res := v.limiter.Reserve(); res.Delay() > 0 {
		delay := res.Delay()
		res.Cancel()
		return &httpError{"quota-exceeded", fmt.Sprintf("vendor %s may submit %v entries a second, and evidence counts as one", v.id, v.quota.rate), delay}
	}
	return s.put(d, http.MaxBytesReader(w, r.Body, s.o.MaxSize+1))
}

// getEvidence answers GET /evidence/{sha256}.
func (l *Log) getEvidence(w http.ResponseWriter, r *http.Request) error {
	d, err := parseDigest(r.PathValue("digest"))
	if err != nil {
		return err
	}
	if l.cfg.Evidence == nil {
		return refuse("not-found", "this log keeps no evidence")
	}
	name, err := l.cfg.Evidence.find(d)
	var b []byte
	if err == nil {
		b, err = os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) { // it was moved in between
			if name, err = l.cfg.Evidence.find(d); err == nil {
				b, err = os.ReadFile(name)
			}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return refuse("not-found", "no evidence %x, or not any more", d)
	}
	if err != nil {
		return err
	}
	return send(w, r, binaryType, immutable, b)
}
