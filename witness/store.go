package witness

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Buckets of the database. Its format is that of this package's README, "The
// state".
var (
	bucketMeta     = []byte("meta")     // "format" → stateFormat
	bucketNotes    = []byte("notes")    // origin → value
	bucketListed   = []byte("listed")   // origin → the log's entry in logs/v0 form
	bucketHeld     = []byte("held")     // origin → nothing, until recovered
	bucketEvidence = []byte("evidence") // SHA-256(origin), size, root → text
	buckets        = [][]byte{bucketMeta, bucketNotes, bucketListed, bucketHeld, bucketEvidence}
)

const stateFormat = "affidavit-witness/v1"

// maxBatch bounds how many writes share a transaction, and with it the time
// that the last of them waits for the first.
const maxBatch = 256

// value is what is kept of a log's last cosigned checkpoint: its size and root,
// to compare, and the whole note. Encoded: 8 bytes, 32 bytes, the rest.
type value struct {
	size uint64
	root [32]byte
	note []byte
}

func (v value) bytes() []byte {
	b := make([]byte, 0, 40+len(v.note))
	b = binary.BigEndian.AppendUint64(b, v.size)
	b = append(b, v.root[:]...)
	return append(b, v.note...)
}

func parseValue(b []byte) (value, error) {
	if len(b) < 40 {
		return value{}, fmt.Errorf("%d bytes", len(b))
	}
	return value{size: binary.BigEndian.Uint64(b), root: [32]byte(b[8:40]), note: b[40:]}, nil
}

// sizeAndRoot returns the first 40 bytes of a value.
func sizeAndRoot(size uint64, root [32]byte) (k [40]byte) {
	binary.BigEndian.PutUint64(k[:], size)
	copy(k[8:], root[:])
	return k
}

// errConflict says that the database doesn't hold what memory says it should.
var errConflict = errors.New("the recorded checkpoint isn't the expected one")

// A store is the database. One goroutine writes: it takes all writes that are
// waiting and commits them in one transaction, so that under load many share
// the cost of one, and a lone one waits for none. (bbolt's own Batch always
// waits some time for others.)
type store struct {
	db  *bolt.DB
	ops chan *op

	// update runs a write transaction and returns once it is durable. It is
	// db.Update, but for tests of failures.
	update func(func(*bolt.Tx) error) error

	// failed is closed after the first failed transaction, when err is set.
	// bbolt can't know then what is on disk, and no more is written.
	failed chan struct{}
	err    error

	// mu guards closed, and is held for reading by senders on ops.
	mu     sync.RWMutex
	closed bool
	done   chan struct{} // closed when the writer is done
}

// An op is a write. If apply returns an error, it must have changed nothing;
// the other writes of the transaction are committed.
type op struct {
	apply func(*bolt.Tx) error
	err   error
	done  chan struct{}
}

// openDB opens the database. Of a file that was cut off, bbolt reads pages that
// aren't there, which would end the process with a signal.
func openDB(path string) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("damaged, or cut off: %v", r)
		}
	}()
	return bolt.Open(path, 0o600, &bolt.Options{
		Timeout:      time.Second, // for the lock of a process that is just ending
		FreelistType: bolt.FreelistMapType,
		NoStatistics: true,
	})
}

func openStore(path string, init bool) (*store, error) {
	_, err := os.Stat(path)
	switch {
	case err == nil && init:
		return nil, fmt.Errorf("state %s exists: it needs no --init, and with it a lost one would go unnoticed at the next start", path)
	case errors.Is(err, fs.ErrNotExist) && !init:
		return nil, fmt.Errorf("state %s doesn't exist: a witness that has forgotten what it cosigned can be rolled back; restore it (see --recover), or begin a new witness with --init", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	db, err := openDB(path)
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("state %s: another process has it open", path)
	}
	if err != nil {
		return nil, fmt.Errorf("state %s: %w", path, err)
	}
	s := &store{db: db, update: db.Update, ops: make(chan *op, maxBatch), failed: make(chan struct{}), done: make(chan struct{})}
	if init {
		err = s.init(path)
	} else {
		err = s.check(path)
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	go s.write()
	return s, nil
}

func (s *store) init(path string) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		for _, b := range buckets {
			if _, err := tx.CreateBucket(b); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put([]byte("format"), []byte(stateFormat))
	})
	if err != nil {
		return fmt.Errorf("state %s: %w", path, err)
	}
	// The file is durable, but the name is only once its directory is.
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (s *store) check(path string) error {
	return s.db.View(func(tx *bolt.Tx) error {
		for _, b := range buckets {
			if tx.Bucket(b) == nil {
				return fmt.Errorf("state %s: not a witness's database, or --init didn't get to its end: no bucket %s", path, b)
			}
		}
		if f := tx.Bucket(bucketMeta).Get([]byte("format")); string(f) != stateFormat {
			return fmt.Errorf("state %s is of version %.60q, and this witness knows %q: use one that knows the state's version, never a new state", path, f, stateFormat)
		}
		return nil
	})
}

// do runs one write and returns once it is durable.
func (s *store) do(apply func(*bolt.Tx) error) error {
	o := &op{apply: apply, done: make(chan struct{})}
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return errors.New("the witness is closed")
	}
	s.ops <- o
	s.mu.RUnlock()
	<-o.done
	return o.err
}

// write is the writer.
func (s *store) write() {
	defer close(s.done)
	var batch []*op
	for first := range s.ops {
		batch = append(batch[:0], first)
	collect:
		for len(batch) < maxBatch {
			select {
			case o, ok := <-s.ops:
				if !ok {
					break collect
				}
				batch = append(batch, o)
			default:
				break collect
			}
		}
		if s.err == nil {
			err := s.update(func(tx *bolt.Tx) error {
				for _, o := range batch {
					o.err = o.apply(tx)
				}
				return nil
			})
			if err != nil {
				s.err = fmt.Errorf("writing the state: %w", err)
				close(s.failed)
			}
		}
		for _, o := range batch {
			if s.err != nil {
				o.err = s.err
			}
			close(o.done)
		}
	}
}

// failure returns the error after which failed was closed.
func (s *store) failure() error {
	<-s.failed
	return s.err
}

func (s *store) close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.ops)
	s.mu.Unlock()
	<-s.done
	return s.db.Close()
}

// advance replaces the value of a log, if it is old (nil if there must be
// none), and returns once that is durable.
func (s *store) advance(origin string, old *head, new value) error {
	b := new.bytes() // outside of the one writer
	return s.do(func(tx *bolt.Tx) error { return putNote(tx, origin, old, b) })
}

func putNote(tx *bolt.Tx, origin string, old *head, value []byte) error {
	bucket := tx.Bucket(bucketNotes)
	have := bucket.Get([]byte(origin))
	if old == nil && have != nil {
		return errConflict
	}
	if old != nil {
		want := sizeAndRoot(old.size, old.root)
		if !bytes.HasPrefix(have, want[:]) {
			return errConflict
		}
	}
	return bucket.Put([]byte(origin), value)
}

// note returns the last cosigned note of a log, nil if there is none.
func (s *store) note(origin string) ([]byte, error) {
	var note []byte
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketNotes).Get([]byte(origin))
		if b == nil {
			return nil
		}
		v, err := parseValue(b)
		note = bytes.Clone(v.note) // b is valid during the transaction only
		return err
	})
	return note, err
}

// record is all that the database has about a log.
type record struct {
	value *value // nil if it was never cosigned for
	held  bool
	forks map[[40]byte]bool // kept evidence, by size and root; nil if none
}

func (s *store) read(origin string) (r record, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(bucketNotes).Get([]byte(origin)); b != nil {
			v, err := parseValue(bytes.Clone(b))
			if err != nil {
				return err
			}
			r.value = &v
		}
		r.held = tx.Bucket(bucketHeld).Get([]byte(origin)) != nil
		hash := sha256.Sum256([]byte(origin))
		c := tx.Bucket(bucketEvidence).Cursor()
		for k, _ := c.Seek(hash[:]); bytes.HasPrefix(k, hash[:]); k, _ = c.Next() {
			if len(k) != 32+40 {
				return fmt.Errorf("evidence key of %d bytes", len(k))
			}
			if r.forks == nil {
				r.forks = make(map[[40]byte]bool)
			}
			r.forks[[40]byte(k[32:])] = true
		}
		return nil
	})
	return r, err
}

// addEvidence keeps the text that proves a fork, which shows the size and root.
func (s *store) addEvidence(origin string, sizeRoot [40]byte, text []byte) error {
	hash := sha256.Sum256([]byte(origin))
	key := append(hash[:], sizeRoot[:]...)
	return s.do(func(tx *bolt.Tx) error { return tx.Bucket(bucketEvidence).Put(key, text) })
}

// evidence returns the texts kept about a log.
func (s *store) evidence(origin string) (texts [][]byte, err error) {
	hash := sha256.Sum256([]byte(origin))
	err = s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketEvidence).Cursor()
		for k, v := c.Seek(hash[:]); bytes.HasPrefix(k, hash[:]); k, v = c.Next() {
			texts = append(texts, bytes.Clone(v))
		}
		return nil
	})
	return texts, err
}

// hold records that nothing may be cosigned for the logs until released.
func (s *store) hold(origins []string) error {
	return s.do(func(tx *bolt.Tx) error {
		for _, o := range origins {
			if err := tx.Bucket(bucketHeld).Put([]byte(o), []byte{}); err != nil {
				return err
			}
		}
		return nil
	})
}

// release ends the hold of a log, and replaces its value as advance does if
// there is a new one.
func (s *store) release(origin string, old *head, new *value) error {
	return s.do(func(tx *bolt.Tx) error {
		if new != nil {
			if err := putNote(tx, origin, old, new.bytes()); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketHeld).Delete([]byte(origin))
	})
}

// listed returns the logs that lists have ever named.
func (s *store) listed() (logs []Log, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketListed).ForEach(func(k, b []byte) error {
			l, err := ParseLogList(b)
			if err != nil || len(l) != 1 || l[0].Origin != string(k) {
				return fmt.Errorf("state: listed log %q: %d entries, %v", k, len(l), err)
			}
			logs = append(logs, l[0])
			return nil
		})
	})
	return logs, err
}

// addListed records logs of a list, and if hold is set that they have to be
// recovered first.
func (s *store) addListed(logs []Log, hold bool) error {
	return s.do(func(tx *bolt.Tx) error {
		for _, l := range logs {
			if err := tx.Bucket(bucketListed).Put([]byte(l.Origin), formatLogList(l)); err != nil {
				return err
			}
			if hold {
				if err := tx.Bucket(bucketHeld).Put([]byte(l.Origin), []byte{}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
