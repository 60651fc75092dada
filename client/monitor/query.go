package monitor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
)

// ErrNoRecord is wrapped by the error of [Monitor.Record], [Monitor.Verify] and [Monitor.Bundle] for a leaf that holds no
// entry, or isn't audited.
var ErrNoRecord = errors.New("no record")

// Search yields the records that q is about, in the order of the log: of all leaves that are audited when it begins. It
// stops after an error.
func (m *Monitor) Search(ctx context.Context, q Query) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		r, err := m.reader()
		if err != nil {
			yield(nil, err)
			return
		}
		defer r.close()
		left := q.Limit
		_, err = r.search(ctx, q, 0, func(rec *Record) bool {
			left--
			return yield(rec, nil) && left != 0
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// Record returns the record at index. The error wraps ErrNoRecord if there is none.
func (m *Monitor) Record(index uint64) (*Record, error) {
	r, err := m.reader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.record(index)
}

// State returns what is audited: the number of leaves, and the root of their tree.
func (m *Monitor) State() (monitorapi.State, error) {
	v := m.changed()
	root, err := m.RootAt(v.Audited)
	return monitorapi.State{Log: v.Origin, Size: v.Audited, Root: Hash(root)}, err
}

// reader returns a reader of what is audited now. It has to be closed.
func (m *Monitor) reader() (*reader, error) {
	state, err := m.State()
	if err != nil {
		return nil, err
	}
	// The snapshot is no older than the state, and may have more, which the reader leaves out.
	return newReader(m.db.NewSnapshot(), state)
}

// A reader answers one question from the index as of one state. It belongs to one goroutine.
type reader struct {
	db    *pebble.Snapshot
	state monitorapi.State

	records, covers *pebble.Iterator
	lists           *pebble.Iterator // of shortList, nil until it is needed
	listing         bool             // it is in use
	cover           cover            // that of the leaves in [from, cover.size)
	from            uint64           // the size of the cover before
}

func newReader(db *pebble.Snapshot, state monitorapi.State) (r *reader, err error) {
	r = &reader{db: db, state: state}
	if r.records, err = db.NewIter(&pebble.IterOptions{LowerBound: recordKey(0), UpperBound: recordKey(state.Size)}); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if r.covers, err = db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixCover}, UpperBound: []byte{prefixCover + 1}}); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *reader) close() error {
	var errs []error
	for _, it := range []*pebble.Iterator{r.records, r.covers, r.lists} {
		if it != nil {
			errs = append(errs, it.Close())
		}
	}
	return errors.Join(append(errs, r.db.Close())...)
}

// value returns the stored form of the record at index, nil if there is none. It is good until the next call. Calls with
// ascending indices are fast.
func (r *reader) value(index uint64) ([]byte, error) {
	if index >= r.state.Size {
		return nil, nil
	}
	it := r.records
	if !it.Valid() || index < r.at() || index-r.at() > nearby {
		it.SeekGE(recordKey(index))
	}
	for it.Valid() && r.at() < index {
		it.Next()
	}
	if it.Valid() && r.at() == index {
		return it.ValueAndErr()
	}
	return nil, it.Error()
}

// nearby is how many records are sooner passed one by one than by a seek, which takes ten times as long as a step.
const nearby = 12

// at returns the index of the record at the iterator's position, which is valid.
func (r *reader) at() uint64 { return binary.BigEndian.Uint64(r.records.Key()[1:]) }

// record returns the record at index, complete.
func (r *reader) record(index uint64) (*Record, error) {
	v, err := r.value(index)
	if err != nil {
		return nil, err
	}
	if v == nil {
		return nil, fmt.Errorf("%w at index %d of the %d leaves that are audited", ErrNoRecord, index, r.state.Size)
	}
	rec, err := decodeRecord(index, v)
	if err != nil {
		return nil, err
	}
	return rec, r.complete(rec)
}

// complete adds to a record what other leaves say: the bound of its time, and the end of a session.
func (r *reader) complete(rec *Record) error {
	if err := r.bound(rec); err != nil {
		return err
	}
	if rec.Role != bundle.RoleStart {
		return nil
	}
	end, err := r.ended(rec)
	if err == nil {
		rec.Ended = end
	}
	return err
}

// bound adds the time leaf that covers a record. Calls with ascending indices are fast.
func (r *reader) bound(rec *Record) error {
	if rec.Index < r.from || rec.Index >= r.cover.size {
		lower := binary.BigEndian.AppendUint64([]byte{prefixCover}, rec.Index+1)
		if !r.covers.SeekGE(lower) {
			return r.covers.Error()
		}
		c, err := decodeCover(r.covers.Key(), r.covers.Value())
		if err != nil {
			return err
		}
		// All that is known is that this cover is the first for indices from here on.
		r.cover, r.from = c, rec.Index
	}
	if r.cover.index < r.state.Size {
		index := r.cover.index
		rec.Covering, rec.NotAfter = &index, r.cover.notAfter
	}
	return nil
}

// ended returns the index of the first end of the session that a start began, nil if there is none. As in package
// verifier, only what is genuine and by the same vendor is an end.
func (r *reader) ended(start *Record) (index *uint64, err error) {
	err = r.scan(hashPostings(keyStart, start.Statement), start.Index, func(i uint64) (bool, error) {
		v, err := r.value(i)
		if err != nil || v == nil {
			return true, err
		}
		rec, err := decodeRecord(i, v)
		if err != nil {
			return false, err
		}
		end := rec.Role == bundle.RoleFinal || rec.Role == bundle.RoleAbandoned
		if !end || !rec.Genuine || rec.Start != start.Statement || rec.Vendor != start.Vendor {
			return true, nil
		}
		index = &i
		return false, nil
	})
	return index, err
}

// scan calls f with the indices in a posting list, from after on, until it returns false.
func (r *reader) scan(p postings, after uint64, f func(index uint64) (bool, error)) error {
	l, err := r.shortList(p, r.state.Size)
	if err != nil {
		return err
	}
	for ok := l.seek(after); ok; ok = l.next() {
		if ok, err := f(l.index); !ok || err != nil {
			return errors.Join(err, l.close())
		}
	}
	return l.close()
}

// first returns the lowest index in a posting list whose record or leaf f accepts.
func (r *reader) first(p postings) (index uint64, ok bool, err error) {
	err = r.scan(p, 0, func(i uint64) (bool, error) {
		index, ok = i, true
		return false, nil
	})
	return index, ok, err
}

// queryPostings returns the lists that hold all records which q is about.
func queryPostings(q *Query) (lists []postings, err error) {
	hash := func(kind byte, s string) {
		if s == "" {
			return
		}
		h, e := monitorapi.ParseHash(s)
		err = errors.Join(err, e)
		lists = append(lists, hashPostings(kind, h))
	}
	text := func(kind byte, s string) {
		if s != "" {
			lists = append(lists, stringPostings(kind, s))
		}
	}
	hash(keySession, q.Session)
	hash(keyTenant, q.Tenant)
	hash(keyRelease, q.Release)
	text(keyPlatform, q.Platform)
	text(keyModel, q.Model)
	text(keyAdvisory, q.Advisory)
	text(keyVendor, q.Vendor)
	text(keyFMSPC, q.FMSPC)
	text(keyTCB, q.TCBStatus)
	return lists, err
}

// matches reports whether a record has all the values of a query.
func matches(q *Query, r *Record) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	hash := func(want string, have Hash) bool { return want == "" || want == have.String() }
	return hash(q.Session, r.Session) && hash(q.Statement, r.Statement) && hash(q.Tenant, r.Tenant) &&
		is(q.Vendor, r.Vendor) && hash(q.Release, r.Release) && is(q.FMSPC, r.FMSPC) && is(q.Platform, r.Platform) &&
		is(q.TCBStatus, r.TCBStatus) && is(q.Role, string(r.Role)) &&
		(q.Advisory == "" || slices.Contains(r.Advisories, q.Advisory)) &&
		(q.Model == "" || slices.ContainsFunc(r.Models, func(m Model) bool {
			return m.Name == q.Model || m.ResponseModel == q.Model || m.Provider == q.Model
		})) &&
		(q.Since.IsZero() || !r.AdmittedAt.Before(q.Since)) && (q.Until.IsZero() || r.AdmittedAt.Before(q.Until))
}

// search calls f with the records that q is about, in the order of the log, until it returns false. It gives up after
// some number of steps in the index, each a microsecond or so, if steps isn't zero. It returns where to go on: a cursor
// for q.After, or the number of audited leaves at the end. q.Limit is for the caller.
func (r *reader) search(ctx context.Context, q Query, steps int, f func(*Record) bool) (next uint64, err error) {
	if err := q.Normalize(); err != nil {
		return 0, err
	}
	lo, hi, err := r.span(&q)
	if err != nil {
		return 0, err
	}
	lo = max(lo, q.After)
	if q.Statement != "" {
		h, err := monitorapi.ParseHash(q.Statement)
		if err != nil {
			return 0, err
		}
		// The first leaf with a statement is the record.
		i, ok, err := getU64(r.db, key(prefixStatement, short(record.Digest(h))))
		if err != nil || !ok || i < lo || i >= hi {
			return r.state.Size, err
		}
		lo, hi = i, i+1
	}
	lists, err := queryPostings(&q)
	if err != nil {
		return 0, err
	}
	err = r.join(ctx, lists, lo, hi, steps, func(i uint64) (bool, error) {
		v, err := r.value(i)
		if err != nil || v == nil {
			return true, err
		}
		rec, err := decodeRecord(i, v)
		if err != nil {
			return false, err
		}
		if !matches(&q, rec) {
			return true, nil
		}
		if err := r.complete(rec); err != nil {
			return false, err
		}
		return f(rec), nil
	}, &next)
	return next, err
}

// join calls f with the indices in [lo, hi) that are in all lists, or of all records if there are none, in ascending
// order, until it returns false. It leaps from one list's next index to where the other lists go on, so that the
// shortest list bounds the work if the lists are long for different reasons. It gives up after some number of steps, if
// that isn't zero. next is set to where it stopped.
func (r *reader) join(ctx context.Context, lists []postings, lo, hi uint64, steps int, f func(uint64) (bool, error), next *uint64) error {
	*next = r.state.Size
	if lo >= hi {
		return nil
	}
	if len(lists) == 0 {
		return r.all(ctx, lo, hi, steps, f, next)
	}
	its := make([]*list, len(lists))
	defer func() {
		for _, l := range its {
			if l != nil {
				l.close()
			}
		}
	}()
	for k, p := range lists {
		var err error
		if its[k], err = r.list(p, hi); err != nil {
			return err
		}
		if !its[k].seek(lo) {
			return its[k].err
		}
	}
	at := its[0].index
	for n, agree, k := 0, 0, 0; ; n++ {
		if n&1023 == 1023 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if steps > 0 && n >= steps {
			*next = at
			return nil
		}
		l := its[k]
		if l.index < at && !l.seek(at) {
			return l.err
		}
		if l.index > at {
			at, agree = l.index, 0
		}
		if agree++; agree == len(its) {
			ok, err := f(at)
			if err != nil {
				return err
			}
			if !ok {
				*next = at + 1
				return nil
			}
			at, agree = at+1, 0
		}
		k = (k + 1) % len(its)
	}
}

// all is join without lists.
func (r *reader) all(ctx context.Context, lo, hi uint64, steps int, f func(uint64) (bool, error), next *uint64) error {
	n := 0
	for ok := r.records.SeekGE(recordKey(lo)); ok; ok = r.records.Next() {
		i := r.at()
		if i >= hi {
			break
		}
		if n++; n&1023 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if steps > 0 && n > steps {
			*next = i
			return nil
		}
		ok, err := f(i)
		if err != nil {
			return err
		}
		if !ok {
			*next = i + 1
			return nil
		}
		// f may have used the iterator.
		if !r.records.Valid() || r.at() != i {
			r.records.SeekGE(recordKey(i))
		}
	}
	return r.records.Error()
}

// span returns indices lo and hi such that all records that a query's times allow are in [lo, hi).
func (r *reader) span(q *Query) (lo, hi uint64, err error) {
	if q.Since.IsZero() && q.Until.IsZero() {
		return 0, r.state.Size, nil
	}
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: timesKey(0), UpperBound: timesKey(r.state.Size/timesLeaves + 1)})
	if err != nil {
		return 0, 0, err
	}
	lo = r.state.Size
	for ok := it.First(); ok; ok = it.Next() {
		s, err := decodeSpan(it.Value())
		if err == nil && len(it.Key()) != 9 {
			err = errors.New("stored times of leaves are damaged")
		}
		if err != nil {
			return 0, 0, errors.Join(err, it.Close())
		}
		if !q.Since.IsZero() && s.last < q.Since.UnixMilli() || !q.Until.IsZero() && s.first > q.Until.UnixMilli() {
			continue
		}
		n := binary.BigEndian.Uint64(it.Key()[1:])
		lo, hi = min(lo, n*timesLeaves), (n+1)*timesLeaves
	}
	return lo, min(hi, r.state.Size), it.Close()
}

// families returns the kinds of platforms that there is evidence of.
func (r *reader) families() (families []monitorapi.Family, err error) {
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixFamily}, UpperBound: []byte{prefixFamily + 1}})
	if err != nil {
		return nil, err
	}
	for ok := it.First(); ok; ok = it.Next() {
		fmspc, ca, ok := strings.Cut(string(it.Key()[1:]), "/")
		if !ok {
			return nil, errors.Join(errors.New("stored family is damaged"), it.Close())
		}
		families = append(families, monitorapi.Family{FMSPC: fmspc, CA: ca})
	}
	return families, it.Close()
}

// Families returns the kinds of platforms that made quotes in the log: what collateral would have to be for to judge
// all of its records.
func (m *Monitor) Families() ([]monitorapi.Family, error) {
	r, err := m.reader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.families()
}
