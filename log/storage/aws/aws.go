// Package aws keeps a log in S3 and MySQL, as Tessera's driver of that name does, with what several processes of one log
// share beside it. Aurora and MariaDB will do for MySQL, and for S3 any service that honours conditional writes.
//
// Tessera's driver gives entries their indices in one transaction of the database, integrates them into the tree once a
// second, whichever process gets to it, and writes tiles and bundles to the bucket. A log needs a promise that the driver
// doesn't make: that of two processes which append the same statement at the same time one learns of the other. A claim
// that is written before an entry is handed to the driver can't give it, since whoever wrote it may stall for as long as
// it likes before the driver's transaction. So [Storage.Append] is that transaction, with the keys of the entries in it:
// it writes to Tessera's tables SeqCoord and Seq exactly what Tessera would (schema version 1, which Tessera checks at
// the start and this package when it is compiled), and to the table AffidavitKeys who has which index. There is no claim
// without an entry, and none whose owner could die.
package aws

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/transparency-dev/tessera"
	driver "github.com/transparency-dev/tessera/storage/aws"

	"github.com/affidavit-log/affidavit/log/storage"
)

// What Append writes is that of this version of Tessera's schema, and this doesn't compile with another.
var _ [1]struct{} = [driver.SchemaCompatibilityVersion]struct{}{}

// Config says where a log is.
type Config struct {
	// Bucket is the log's own. Nothing else may be in it: Tessera's keys can't have a prefix, since a crash would then
	// leave the log stuck for good.
	Bucket string

	// Endpoint is the URL of another S3 service than Amazon's, "" for Amazon's. Instance metadata isn't asked for
	// anything then.
	Endpoint string

	// PathStyle puts the bucket's name into the path, as most other services want it.
	PathStyle bool

	// Region is that of the bucket. It defaults to what the environment says, and with an Endpoint to us-east-1.
	Region string

	// DSN is the database's, in the form of github.com/go-sql-driver/mysql: "user:password@tcp(host:3306)/database". The
	// user needs no more than to create, read and write tables of that database.
	DSN string
}

const (
	// maxConns bounds each of a process's two pools of connections, ours and Tessera's, whose own default is none at all.
	maxConns = 8

	// leaseTime is how long a publisher that isn't heard of keeps its lease.
	leaseTime = 5 * time.Second

	// maxOutstanding bounds what is sequenced and not yet integrated. Tessera reads all of that into memory at once.
	maxOutstanding = 16384

	// lockWait is how long a transaction waits for another one, in seconds, and idle how long the server lets a
	// connection be silent: a process that was stopped in a transaction holds up the others no longer than that.
	lockWait, idle = "5", "20"
)

// Storage is a log's bucket and database. It implements [storage.Shared].
type Storage struct {
	*Bucket
	cfg Config
	dsn string
	db  *sql.DB

	mu   sync.Mutex // held while the published object is written
	etag string     // of the published object as last seen, "" if there was none
}

var _ storage.Shared = (*Storage)(nil)

// Open connects to a log's bucket and database.
func Open(ctx context.Context, cfg Config) (*Storage, error) {
	b, err := OpenBucket(ctx, cfg)
	if err != nil {
		return nil, err
	}
	my, err := mysql.ParseDSN(cfg.DSN)
	if err != nil {
		// The text of a DSN has a password in it, and isn't shown.
		return nil, errors.New("the database's data source name is malformed, want user:password@tcp(host:port)/database")
	}
	if my.DBName == "" {
		return nil, errors.New("the database's data source name names no database")
	}
	my.ClientFoundRows = true // an UPDATE that changes nothing has found its row all the same
	my.InterpolateParams = true
	my.CheckConnLiveness = true
	if err := mysql.SetLogger(silent{}); err != nil { // also for Tessera's connections
		return nil, err
	}
	for d, v := range map[*time.Duration]time.Duration{&my.Timeout: 5 * time.Second, &my.ReadTimeout: 30 * time.Second, &my.WriteTimeout: 30 * time.Second} {
		if *d == 0 {
			*d = v
		}
	}
	// Without gap locks: else nobody could append while Tessera integrates, which reads its queue for update. What it
	// relies on holds all the same, since SeqCoord is locked until an appender commits: what is committed has no gaps.
	isolation, err := isolationVariable(ctx, my)
	if err != nil {
		return nil, err
	}
	if my.Params == nil {
		my.Params = map[string]string{}
	}
	my.Params[isolation] = "'READ-COMMITTED'"
	my.Params["innodb_lock_wait_timeout"] = lockWait
	my.Params["wait_timeout"] = idle
	s := &Storage{Bucket: b, cfg: cfg, dsn: my.FormatDSN()}
	if s.db, err = pool(my); err != nil {
		return nil, err
	}
	return s, nil
}

// silent drops what the driver says of connections that ended, whose errors it returns as well.
type silent struct{}

func (silent) Print(...any) {}

func pool(my *mysql.Config) (*sql.DB, error) {
	c, err := mysql.NewConnector(my)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(maxConns)
	db.SetMaxIdleConns(maxConns)
	db.SetConnMaxIdleTime(10 * time.Second)
	return db, nil
}

// isolationVariable returns the name of the variable with a session's isolation level, of which MariaDB before 11.1 and
// MySQL from 8.0 on know one each.
func isolationVariable(ctx context.Context, my *mysql.Config) (string, error) {
	db, err := pool(my)
	if err != nil {
		return "", err
	}
	defer db.Close()
	var n int
	if err := db.QueryRowContext(ctx, "SELECT @@transaction_isolation IS NOT NULL").Scan(&n); err == nil {
		return "transaction_isolation", nil
	} else if e := (*mysql.MySQLError)(nil); !errors.As(err, &e) || e.Number != 1193 { // ER_UNKNOWN_SYSTEM_VARIABLE
		return "", away("connecting to the database", err)
	}
	return "tx_isolation", nil
}

// away makes an error of the database one that waiting may repair.
func away(what string, err error) error {
	return fmt.Errorf("%s: %w: %w", what, storage.ErrUnavailable, err)
}

// Create makes the tables of a new log beside Tessera's, if they aren't there, and checks that the bucket honours
// conditions.
func (s *Storage) Create(ctx context.Context) error {
	for _, q := range []string{
		`CREATE TABLE IF NOT EXISTS AffidavitState (
			id TINYINT UNSIGNED NOT NULL PRIMARY KEY,
			version BIGINT UNSIGNED NOT NULL,
			published MEDIUMBLOB, publishedSize BIGINT UNSIGNED NOT NULL,
			candidate BLOB,
			wanted BIGINT UNSIGNED NOT NULL,
			epoch BIGINT UNSIGNED NOT NULL, holder VARBINARY(64) NOT NULL, expires DATETIME(6) NOT NULL,
			keysFrom BIGINT UNSIGNED NOT NULL
		) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS AffidavitKeys (
			k VARBINARY(64) NOT NULL PRIMARY KEY,
			idx BIGINT UNSIGNED NOT NULL,
			v BINARY(32) NOT NULL,
			KEY (idx)
		) ENGINE=InnoDB`,
		`CREATE TABLE IF NOT EXISTS AffidavitNumbers (name VARBINARY(64) NOT NULL PRIMARY KEY, n INT UNSIGNED NOT NULL) ENGINE=InnoDB`,
		`INSERT IGNORE INTO AffidavitState VALUES (0, 1, NULL, 0, NULL, 0, 0, '', '2000-01-01', 0)`,
	} {
		if _, err := s.db.ExecContext(ctx, q); err != nil {
			return away("making tables", err)
		}
	}
	return s.probe(ctx)
}

// Driver returns Tessera's.
func (s *Storage) Driver(ctx context.Context) (tessera.Driver, error) {
	c := driver.Config{Bucket: s.cfg.Bucket, DSN: s.dsn, MaxOpenConns: maxConns, MaxIdleConns: maxConns}
	if s.cfg.Endpoint != "" || s.cfg.PathStyle || s.cfg.Region != "" {
		c.SDKConfig, c.S3Options = &s.sdk, s.options
	}
	return driver.New(ctx, c)
}

func (s *Storage) Objects() storage.Objects { return s.Bucket }

func (s *Storage) Close() error { return s.db.Close() }

// IntegratedSize returns the size of the tree.
func (s *Storage) IntegratedSize(ctx context.Context) (n uint64, err error) {
	if err := s.db.QueryRowContext(ctx, "SELECT seq FROM IntCoord WHERE id = 0").Scan(&n); err != nil {
		return 0, away("integrated size", err)
	}
	return n, nil
}

// sequenced is an element of what Tessera keeps for a batch until it is integrated: an encoding/gob of a slice of these.
// Gob goes by the names of the fields.
type sequenced struct {
	BundleData []byte
	LeafHash   []byte
}

// Append implements [storage.Shared].
func (s *Storage) Append(ctx context.Context, leaves []storage.Leaf, known, epoch uint64) ([]storage.Outcome, error) {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, away("appending", err)
	}
	defer tx.Rollback()
	// From here to the end one process at a time.
	var next uint64
	if err := tx.QueryRowContext(ctx, "SELECT next FROM SeqCoord WHERE id = 0 FOR UPDATE").Scan(&next); err != nil {
		return nil, away("appending", err)
	}
	var integrated, from uint64
	if err := tx.QueryRowContext(ctx, "SELECT i.seq, a.keysFrom FROM IntCoord i, AffidavitState a WHERE i.id = 0 AND a.id = 0").Scan(&integrated, &from); err != nil {
		return nil, away("appending", err)
	}
	switch {
	case known < from:
		return nil, fmt.Errorf("%w: it knows %d leaves, keys are kept from %d on", storage.ErrBehind, known, from)
	case next-integrated > maxOutstanding:
		return nil, fmt.Errorf("%w: %d leaves", storage.ErrPushback, next-integrated)
	}
	if epoch != 0 {
		var now uint64
		if err := tx.QueryRowContext(ctx, "SELECT epoch FROM AffidavitState WHERE id = 0 LOCK IN SHARE MODE").Scan(&now); err != nil {
			return nil, away("appending", err)
		}
		if now != epoch {
			return nil, storage.ErrFenced
		}
	}
	taken, err := keys(ctx, tx, leaves)
	if err != nil {
		return nil, err
	}
	outcomes := make([]storage.Outcome, len(leaves))
	var batch []sequenced
	var rows []any
	for i, l := range leaves {
		if o, ok := taken[string(l.Key)]; ok {
			o.Dup = true
			outcomes[i] = o
			continue
		}
		older, err := raise(ctx, tx, l.AtLeast)
		if err != nil {
			return nil, err
		}
		if older != nil {
			outcomes[i].Older = older
			continue
		}
		o := storage.Outcome{Index: next + uint64(len(batch)), Value: l.Value}
		batch = append(batch, sequenced{l.Entry.MarshalBundleData(o.Index), l.Entry.LeafHash()})
		rows = append(rows, l.Key, o.Index, l.Value[:])
		taken[string(l.Key)], outcomes[i] = o, o
	}
	if len(batch) == 0 {
		return outcomes, nil
	}
	var v bytes.Buffer
	if err := gob.NewEncoder(&v).Encode(batch); err != nil {
		return nil, err
	}
	for _, q := range []struct {
		text string
		args []any
	}{
		{"INSERT INTO AffidavitKeys (k, idx, v) VALUES (?,?,?)" + strings.Repeat(",(?,?,?)", len(batch)-1), rows},
		{"INSERT INTO Seq (id, seq, v) VALUES (0, ?, ?)", []any{next, v.Bytes()}},
		{"UPDATE SeqCoord SET next = ? WHERE id = 0", []any{next + uint64(len(batch))}},
	} {
		if _, err := tx.ExecContext(ctx, q.text, q.args...); err != nil {
			return nil, away("appending", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return nil, away("appending", err)
	}
	return outcomes, nil
}

// keys returns who has the keys of leaves.
func keys(ctx context.Context, tx *sql.Tx, leaves []storage.Leaf) (map[string]storage.Outcome, error) {
	taken := make(map[string]storage.Outcome, len(leaves))
	if len(leaves) == 0 {
		return taken, nil
	}
	args := make([]any, len(leaves))
	for i, l := range leaves {
		args[i] = l.Key
	}
	rows, err := tx.QueryContext(ctx, "SELECT k, idx, v FROM AffidavitKeys WHERE k IN (?"+strings.Repeat(",?", len(leaves)-1)+")", args...)
	if err != nil {
		return nil, away("appending", err)
	}
	defer rows.Close()
	for rows.Next() {
		var k, v []byte
		var o storage.Outcome
		if err := rows.Scan(&k, &o.Index, &v); err != nil {
			return nil, away("appending", err)
		}
		if copy(o.Value[:], v) != len(o.Value) {
			return nil, fmt.Errorf("a row of AffidavitKeys has a value of %d bytes", len(v))
		}
		taken[string(k)] = o
	}
	if err := rows.Err(); err != nil {
		return nil, away("appending", err)
	}
	return taken, nil
}

// raise raises numbers to what a leaf has, unless one of them is larger.
func raise(ctx context.Context, tx *sql.Tx, numbers []storage.Number) (older *storage.Number, err error) {
	for _, n := range numbers {
		var now uint32
		err := tx.QueryRowContext(ctx, "SELECT n FROM AffidavitNumbers WHERE name = ?", n.Name).Scan(&now)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, away("appending", err)
		}
		if now > n.N {
			return &storage.Number{Name: n.Name, N: now}, nil
		}
	}
	for _, n := range numbers {
		if _, err := tx.ExecContext(ctx, "INSERT INTO AffidavitNumbers VALUES (?, ?) ON DUPLICATE KEY UPDATE n = VALUES(n)", n.Name, n.N); err != nil {
			return nil, away("appending", err)
		}
	}
	return nil, nil
}

// Version implements [storage.Shared].
func (s *Storage) Version(ctx context.Context) (n uint64, err error) {
	if err := s.db.QueryRowContext(ctx, "SELECT version FROM AffidavitState WHERE id = 0").Scan(&n); err != nil {
		return 0, away("shared state", err)
	}
	return n, nil
}

// State implements [storage.Shared].
func (s *Storage) State(ctx context.Context) (*storage.State, error) {
	st := &storage.State{}
	err := s.db.QueryRowContext(ctx, "SELECT version, published, candidate, wanted FROM AffidavitState WHERE id = 0").
		Scan(&st.Version, &st.Published, &st.Candidate, &st.Wanted)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("the database has no state of a log: %w", fs.ErrNotExist)
	}
	if err != nil {
		return nil, away("shared state", err)
	}
	return st, nil
}

// Lease implements [storage.Shared]. The time is the database's, so that processes' clocks don't matter.
func (s *Storage) Lease(ctx context.Context, holder string) (uint64, error) {
	// Assignments are made from left to right.
	r, err := s.db.ExecContext(ctx, `UPDATE AffidavitState SET epoch = IF(holder = ?, epoch, epoch+1), holder = ?, expires = UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND
		WHERE id = 0 AND (holder = ? OR expires < UTC_TIMESTAMP(6))`, holder, holder, leaseTime.Microseconds(), holder)
	if err != nil {
		return 0, away("lease", err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return 0, err
	}
	var epoch uint64
	err = s.db.QueryRowContext(ctx, "SELECT epoch FROM AffidavitState WHERE id = 0 AND holder = ?", holder).Scan(&epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, away("lease", err)
	}
	return epoch, nil
}

// Release implements [storage.Shared].
func (s *Storage) Release(ctx context.Context, epoch uint64) error {
	if _, err := s.db.ExecContext(ctx, "UPDATE AffidavitState SET holder = '', expires = '2000-01-01' WHERE id = 0 AND epoch = ?", epoch); err != nil {
		return away("lease", err)
	}
	return nil
}

// fenced does an UPDATE of the state, and returns ErrFenced if it doesn't find its row.
func (s *Storage) fenced(ctx context.Context, query string, args ...any) error {
	r, err := s.db.ExecContext(ctx, query, args...)
	if err != nil {
		return away("shared state", err)
	}
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		err = storage.ErrFenced
	}
	return err
}

// SetCandidate implements [storage.Shared].
func (s *Storage) SetCandidate(ctx context.Context, epoch uint64, text []byte) error {
	return s.fenced(ctx, "UPDATE AffidavitState SET candidate = ? WHERE id = 0 AND epoch = ?", text, epoch)
}

// Publish implements [storage.Shared]. The object is replaced only in the state in which it was seen before the row was,
// so that whoever was overtaken in between fails: the order is to look at the object, change or check the row, and write
// the object if it is still what it was.
func (s *Storage) Publish(ctx context.Context, epoch uint64, note []byte, size uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fenced(ctx, "UPDATE AffidavitState SET published = ?, publishedSize = ?, version = version+1 WHERE id = 0 AND epoch = ? AND publishedSize <= ?", note, size, epoch, size); err != nil {
		return err
	}
	for range 3 {
		tag, err := s.replace(ctx, storage.Published, note, s.etag)
		if err == nil {
			s.etag = tag
			return nil
		}
		if !errors.Is(err, errChanged) {
			return err
		}
		old, tag, err := s.get(ctx, storage.Published)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.etag = tag
		if bytes.Equal(old, note) {
			return nil
		}
		if err := s.fenced(ctx, "UPDATE AffidavitState SET published = published WHERE id = 0 AND epoch = ? AND published = ?", epoch, note); err != nil {
			return err
		}
	}
	return away("published checkpoint", errors.New("the object changes all the time"))
}

// Want implements [storage.Shared].
func (s *Storage) Want(ctx context.Context) error {
	return s.fenced(ctx, "UPDATE AffidavitState SET wanted = wanted+1, version = version+1 WHERE id = 0")
}

// Forget implements [storage.Shared].
func (s *Storage) Forget(ctx context.Context, before uint64) error {
	if err := s.fenced(ctx, "UPDATE AffidavitState SET keysFrom = GREATEST(keysFrom, ?) WHERE id = 0", before); err != nil {
		return err
	}
	for {
		// Small transactions, so that nobody waits for this one.
		r, err := s.db.ExecContext(ctx, "DELETE FROM AffidavitKeys WHERE idx < ? LIMIT 2000", before)
		if err != nil {
			return away("forgetting keys", err)
		}
		if n, err := r.RowsAffected(); err != nil || n < 2000 {
			return err
		}
	}
}
