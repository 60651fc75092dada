package monitor

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// Prefixes of the index in the database. All of it follows from the leaves below the size that the state in the same
// database names, and is written in the same batches.
const (
	prefixRecord = 'R' // index → encodeRecord
	prefixKey    = 'k' // kind, 16 bytes of the value's hash, index → a part of a list, see part
	prefixCover  = 'V' // size of a checkpoint in a time leaf → index of the leaf, time: see indexer.timeLeaf
	prefixClass  = 'E' // evidence class → family, and a quote of the class
	prefixFamily = 'F' // family: FMSPC, "/", certificate authority → nothing
	prefixTimes  = 'D' // index of a leaf / timesLeaves → the first and the last time of admission among so many leaves, see span
	prefixCount  = 'N' // → the number of genuine records with evidence of hardware
)

// Kinds of keys: what records and other leaves are found by.
const (
	keySession  = 's'
	keyStart    = 'b' // statement digest of the start that a record names
	keyTenant   = 't'
	keyVendor   = 'v'
	keyRelease  = 'r'
	keyFMSPC    = 'f'
	keyPlatform = 'p'
	keyTCB      = 'u'
	keyAdvisory = 'a'
	keyModel    = 'm'

	// Of leaves that others refer to.
	keyNote       = 'n' // SHA-256 of a time leaf's note
	keyCollateral = 'c' // collateral id
	keyVendorKey  = 'y' // vendor and key id
	keyImage      = 'i' // vendor and image of a release
	keyWithdrawn  = 'w' // statement digest of the release that is withdrawn
)

// A postings names the list of all leaves with one value, in the log's order. It is the beginning of the keys of the
// list's parts, which end in the index of a part's first leaf. Values are hashed, which makes keys equally long, and
// keeps whoever chooses values from having two share a list.
type postings [18]byte

func stringPostings(kind byte, values ...string) (p postings) {
	h := hashStrings(values...)
	p[0], p[1] = prefixKey, kind
	copy(p[2:], h[:])
	return p
}

func hashPostings(kind byte, value [32]byte) (p postings) {
	h := sha256.Sum256(value[:])
	p[0], p[1] = prefixKey, kind
	copy(p[2:], h[:])
	return p
}

// at is the key for the part that begins with the leaf at index.
func (p postings) at(index uint64) []byte { return binary.BigEndian.AppendUint64(p[:], index) }

func recordKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixRecord}, index)
}

// A part is what one batch adds to a list: some hundred leaves that have a value in common take one key. Its value has for
// each leaf but the first by how much its index is larger than the one before, and for lists by which records are
// recalled what recallValue says of each.
type part struct {
	first, last uint64
	leaves      int
	value       []byte
}

// maxPart bounds the leaves of a part, which readers go through one by one.
const maxPart = 256

// recalls reports whether records are recalled by lists of a kind.
func recalls(kind byte) bool {
	switch kind {
	case keyRelease, keyFMSPC, keyPlatform, keyAdvisory:
		return true
	}
	return false
}

// recallValue is what the lists by which records are recalled hold of each: enough to count records and sessions
// without reading the records, of which there may be millions. It is a 2 for a genuine record with evidence of hardware
// that is about a session, and 16 bytes of the session's digest; a 1 for one without; else a 0.
func recallValue(r *Record) []byte {
	if !r.Genuine || r.EvidenceClass == (Hash{}) {
		return []byte{0}
	}
	if r.Session == (Hash{}) {
		return []byte{1}
	}
	return append([]byte{2}, short(record.Digest(r.Session))...)
}

// recordPostings calls f with the lists that r is in, with some maybe twice.
func recordPostings(r *Record, f func(p postings)) {
	hash := func(kind byte, h Hash) {
		if h != (Hash{}) {
			f(hashPostings(kind, h))
		}
	}
	text := func(kind byte, s string) {
		if s != "" {
			f(stringPostings(kind, s))
		}
	}
	hash(keySession, r.Session)
	hash(keyStart, r.Start)
	hash(keyTenant, r.Tenant)
	hash(keyRelease, r.Release)
	text(keyVendor, r.Vendor)
	text(keyFMSPC, r.FMSPC)
	text(keyPlatform, r.Platform)
	text(keyTCB, r.TCBStatus)
	for _, a := range r.Advisories {
		text(keyAdvisory, a)
	}
	for _, m := range r.Models {
		text(keyModel, m.Name)
		if m.ResponseModel != m.Name {
			text(keyModel, m.ResponseModel)
		}
		text(keyModel, m.Provider)
	}
}

// seenClasses is how many evidence classes and families an indexer remembers to have stored.
const seenClasses = 4096

// An indexer writes the index, leaf by leaf in the order of the log: record for leaves with an entry, timeLeaf, collateral.
// It belongs to the goroutine that does, and to one database: after a batch that failed to commit it must be made anew.
type indexer struct {
	db *pebble.DB

	// covered is the largest size of a checkpoint in a time leaf so far: all leaves below are covered by an earlier one.
	covered uint64

	evidence uint64 // what prefixCount says
	counted  uint64 // what it says in the database, or in the batch

	parts map[postings]*part // of the batch in the making
	buf   []byte             // for one encoded record, which batches copy

	times map[uint64]span                  // of leaves in the batch, see prefixTimes
	seen  *simplelru.LRU[string, struct{}] // keys of classes and families that are in the database, or in a batch
}

// timesLeaves is how many leaves have one span: readers go through some ten thousand of these for ten million leaves, and
// through the records of those at the edges of what they want.
const timesLeaves = 1024

// A span is the first and the last time at which the log says that it admitted some records, in ms since 1970. In an honest
// log they follow each other; in others they overlap, and searches by time find the same, more slowly.
type span struct{ first, last int64 }

// newIndexer returns an indexer that continues what is in the database.
func newIndexer(db *pebble.DB) (*indexer, error) {
	seen, err := simplelru.NewLRU[string, struct{}](seenClasses, nil)
	if err != nil {
		return nil, err
	}
	x := &indexer{db: db, times: make(map[uint64]span), seen: seen, parts: make(map[postings]*part)}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixCover}, UpperBound: []byte{prefixCover + 1}})
	if err != nil {
		return nil, err
	}
	if it.Last() {
		c, err := decodeCover(it.Key(), it.Value())
		if err != nil {
			return nil, errors.Join(err, it.Close())
		}
		x.covered = c.size
	}
	if err := it.Close(); err != nil {
		return nil, err
	}
	x.evidence, _, err = getU64(db, []byte{prefixCount})
	x.counted = x.evidence
	return x, err
}

// finish adds to the batch what is written once for all of its leaves. It comes last.
func (x *indexer) finish(b *pebble.Batch) error {
	for p, part := range x.parts {
		if err := b.Set(p.at(part.first), part.value, nil); err != nil {
			return err
		}
	}
	clear(x.parts)
	for n, s := range x.times {
		if err := b.Set(timesKey(n), encodeSpan(s), nil); err != nil {
			return err
		}
	}
	clear(x.times)
	if x.evidence == x.counted {
		return nil
	}
	x.counted = x.evidence
	return b.Set([]byte{prefixCount}, u64(x.evidence), nil)
}

// add adds a leaf to a list. Recall is what recallValue says of it, for lists that have it.
func (x *indexer) add(b *pebble.Batch, p postings, index uint64, recall []byte) error {
	l := x.parts[p]
	if l != nil && l.last == index {
		return nil
	}
	if l != nil && l.leaves == maxPart {
		if err := b.Set(p.at(l.first), l.value, nil); err != nil {
			return err
		}
		l = nil
	}
	if l == nil {
		l = &part{first: index}
		x.parts[p] = l
	} else {
		l.value = binary.AppendUvarint(l.value, index-l.last)
	}
	l.last = index
	l.leaves++
	if recalls(p[1]) {
		l.value = append(l.value, recall...)
	}
	return nil
}

// record adds a leaf with an entry, and returns its summary.
func (x *indexer) record(b *pebble.Batch, j *judged) (*Record, error) {
	r := newRecord(j)
	if err := x.put(b, r); err != nil {
		return nil, err
	}
	if err := x.time(r); err != nil {
		return nil, err
	}
	if v := j.verdict; v != nil && v.TDX != nil {
		if err := x.class(b, r, v.Quote, v.TDX); err != nil {
			return nil, err
		}
	}
	e := entryOf(j.leaf)
	switch st := e.Statement(); {
	case st.VendorKey != nil:
		return r, b.Set(vendorKeyPostings(st.Vendor, st.VendorKey.Key.KeyID).at(j.index), nil, nil)
	case st.Release != nil:
		return r, b.Set(imagePostings(st.Vendor, st.Release.Image.SHA256).at(j.index), nil, nil)
	case st.Withdrawn != nil:
		return r, b.Set(hashPostings(keyWithdrawn, st.Withdrawn.Statement).at(j.index), nil, nil)
	}
	return r, nil
}

func vendorKeyPostings(vendor, keyid string) postings {
	return stringPostings(keyVendorKey, vendor, keyid)
}

func imagePostings(vendor string, image record.Digest) postings {
	return stringPostings(keyImage, vendor, string(image[:]))
}

// put writes a record, and adds it to the lists that it is in.
func (x *indexer) put(b *pebble.Batch, r *Record) error {
	x.buf = appendRecord(x.buf[:0], r)
	err := b.Set(recordKey(r.Index), x.buf, nil)
	recall := recallValue(r)
	recordPostings(r, func(p postings) {
		if err == nil {
			err = x.add(b, p, r.Index, recall)
		}
	})
	return err
}

// timeLeaf adds a time leaf: the digest of its note, and the size of the checkpoint in it. notAfter is what the note
// proves (checkpoint.Policy.NotAfter), zero if nothing.
//
// A record's time is bounded by the first time leaf whose checkpoint covers it. Only leaves whose checkpoint is larger
// than all before are the first for any record, and so one seek by size finds a record's, and no record has to be
// written again when it is covered.
func (x *indexer) timeLeaf(b *pebble.Batch, index uint64, note record.Digest, size uint64, notAfter time.Time) error {
	if err := b.Set(hashPostings(keyNote, note).at(index), nil, nil); err != nil {
		return err
	}
	if size <= x.covered || size > index {
		return nil
	}
	x.covered = size
	v := binary.BigEndian.AppendUint64(nil, index)
	return b.Set(binary.BigEndian.AppendUint64([]byte{prefixCover}, size), appendTime(v, notAfter), nil)
}

// collateral adds a collateral leaf.
func (x *indexer) collateral(b *pebble.Batch, index uint64, id record.Digest) error {
	return b.Set(hashPostings(keyCollateral, id).at(index), nil, nil)
}

// class keeps one quote of each evidence class, by which the class is judged again, and the kinds of platforms there are.
func (x *indexer) class(b *pebble.Batch, r *Record, q *tdx.Quote, res *tdx.Result) error {
	family := familyOf(res.FMSPC, res.PCKCA)
	if err := x.once(b, append([]byte{prefixFamily}, family...), nil); err != nil {
		return err
	}
	x.evidence++
	class := classKey(r.EvidenceClass)
	if x.seen.Contains(string(class)) {
		return nil // before the quote is copied, for nearly every record
	}
	return x.once(b, class, append(appendString(nil, family), q.Raw()...))
}

// familyOf names a kind of platforms that one set of collateral is for.
func familyOf(fmspc, ca string) string { return fmspc + "/" + ca }

func classKey(class Hash) []byte { return append([]byte{prefixClass}, class[:]...) }

// once writes a key unless it is known to be there.
func (x *indexer) once(b *pebble.Batch, key, value []byte) error {
	if _, ok := x.seen.Get(string(key)); ok {
		return nil
	}
	switch _, closer, err := x.db.Get(key); {
	case err == nil:
		closer.Close()
	case errors.Is(err, pebble.ErrNotFound):
		if err := b.Set(key, value, nil); err != nil {
			return err
		}
	default:
		return err
	}
	x.seen.Add(string(key), struct{}{})
	return nil
}

func timesKey(n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{prefixTimes}, n) }

// time widens the span of the leaves around r.
func (x *indexer) time(r *Record) error {
	n, at := r.Index/timesLeaves, r.AdmittedAt.UnixMilli()
	s, ok := x.times[n]
	if !ok {
		var err error
		if s, ok, err = readSpan(x.db, n); err != nil {
			return err
		}
	}
	if !ok {
		s = span{at, at}
	}
	x.times[n] = span{min(s.first, at), max(s.last, at)}
	return nil
}

func encodeSpan(s span) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(s.first)), uint64(s.last))
}

func decodeSpan(b []byte) (span, error) {
	if len(b) != 16 {
		return span{}, errors.New("stored times of leaves are damaged")
	}
	return span{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))}, nil
}

func readSpan(r pebble.Reader, n uint64) (s span, ok bool, err error) {
	v, closer, err := r.Get(timesKey(n))
	if errors.Is(err, pebble.ErrNotFound) {
		return span{}, false, nil
	}
	if err != nil {
		return span{}, false, err
	}
	defer closer.Close()
	s, err = decodeSpan(v)
	return s, err == nil, err
}

// A cover is a time leaf that is the first to cover records: those below size that no earlier one covers.
type cover struct {
	size, index uint64
	notAfter    time.Time
}

func decodeCover(key, value []byte) (c cover, err error) {
	if len(key) != 9 || len(value) < 9 {
		return c, errors.New("stored time leaf is damaged")
	}
	c.size, c.index = binary.BigEndian.Uint64(key[1:]), binary.BigEndian.Uint64(value)
	d := &decoder{b: value[8:]}
	c.notAfter = d.time()
	if d.bad || len(d.b) > 0 {
		return c, fmt.Errorf("stored time leaf %d is damaged", c.index)
	}
	return c, nil
}
