package monitor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

const (
	// clockTolerance is how far apart clocks of logs and witnesses may be (FORMAT.md, 10).
	clockTolerance = time.Minute

	// supersededGrace is how long a set may be used after a newer one: "one that was superseded at most 10 minutes before"
	// (FORMAT.md, 7).
	supersededGrace = 10 * time.Minute

	// maxAhead is how far ahead of the monitor's own clock a leaf's time may be and still move the log's clock.
	maxAhead = time.Hour

	// recentRecords is how many starts and model runs are kept in memory, at some 10 KB each.
	recentRecords = 2048

	// dueAtOnce bounds how much of what is due is looked at in one batch.
	dueAtOnce = 4096
)

// An audit applies the rules over several leaves, in the order of the log. It belongs to m.stepping; what it remembers
// between leaves is in the state, in the database, or a cache of that.
type audit struct {
	m    *Monitor
	tree *hashTree
	x    *indexer

	// recent are starts and model runs by statement.
	recent *simplelru.LRU[record.Digest, *verifier.PlacedRecord]

	// superseded has when sets were, by collateral id: in ms by the log's clock, 0 until it is known.
	superseded map[record.Digest]int64
	unknown    []record.Digest // those of which it isn't known yet

	// What the batch in the making has written, and the database doesn't show yet.
	statements map[string]uint64           // index of the first leaf with a statement
	ends       map[string][]byte           // as under prefixEnd
	sequences  map[string]*sequence        // by key
	runs       map[record.Digest][]openRun // of sessions
	pending    []pending                   // records of the batch that no time leaf covers
	closed     map[record.Digest]struct{}  // starts that have ended

	// anyRuns is whether there may be a model run in the database that names a start: most logs have none, and needn't be
	// looked through at the end of each session.
	anyRuns bool
}

type openRun struct {
	index     uint64
	statement record.Digest
}

// A pending record waits for a time leaf that covers it.
type pending struct {
	index      uint64
	admittedAt int64 // ms
	notBefore  int64 // s, 0 if none is proven
}

func newAudit(m *Monitor) (*audit, error) {
	a := &audit{m: m, superseded: make(map[record.Digest]int64)}
	var err error
	if a.tree, err = openTree(m.db, m.st.Audited); err != nil {
		return nil, err
	}
	root, err := a.tree.root(m.st.Audited)
	if err != nil {
		return nil, err
	}
	if m.st.Audited == m.st.Checkpoint.Size && root != m.st.Checkpoint.Root {
		return nil, fmt.Errorf("the stored tree of %d leaves has root %x, but the checkpoint that was audited has %v: the database is damaged", m.st.Audited, root, m.st.Checkpoint.Root)
	}
	if a.x, err = newIndexer(m.db); err != nil {
		return nil, err
	}
	if a.recent, err = simplelru.NewLRU[record.Digest, *verifier.PlacedRecord](recentRecords, nil); err != nil {
		return nil, err
	}
	a.reset()
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixRuns}, UpperBound: []byte{prefixRuns + 1}})
	if err != nil {
		return nil, err
	}
	a.anyRuns = it.First()
	return a, errors.Join(it.Close(), a.loadSuperseded())
}

func (a *audit) loadSuperseded() error {
	it, err := a.m.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixSuperseded}, UpperBound: []byte{prefixSuperseded + 1}})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if len(it.Key()) != 33 || len(it.Value()) != 8 {
			return errors.New("stored time of a collateral set is damaged")
		}
		id, at := record.Digest(it.Key()[1:]), int64(binary.BigEndian.Uint64(it.Value()))
		a.superseded[id] = at
		if at == 0 {
			a.unknown = append(a.unknown, id)
		}
	}
	return it.Error()
}

// reset forgets what the last batch has written.
func (a *audit) reset() {
	a.statements, a.ends, a.sequences = make(map[string]uint64), make(map[string][]byte), make(map[string]*sequence)
	a.runs, a.closed, a.pending = make(map[record.Digest][]openRun), make(map[record.Digest]struct{}), a.pending[:0]
}

// window audits leaves that are proven to be the next ones of the tree, and commits them. After an error the audit is
// worth nothing any more, and has to be made anew from the database: see Monitor.load.
func (a *audit) window(ctx context.Context, items []*item) error {
	m := a.m
	c := m.begin()
	defer c.b.Close()
	for _, it := range items {
		a.tree.append(tlog.Hash(it.hash))
	}
	for _, it := range items {
		if err := a.leaf(ctx, c, it); err != nil {
			return fmt.Errorf("leaf %d: %w", it.index, err)
		}
	}
	c.st.Audited = a.tree.size
	c.st.Progress = c.now
	if c.st.Audited == c.st.Newest.Size {
		// Whoever passed the leaves has compared the root.
		c.st.Checkpoint = c.st.Newest
	}
	if err := errors.Join(a.due(c), a.writeSequences(c), a.tree.write(c.b), a.x.finish(c.b)); err != nil {
		return err
	}
	if err := c.commit(); err != nil {
		return err
	}
	a.tree.committed()
	a.reset()
	return nil
}

// leaf audits one leaf.
func (a *audit) leaf(ctx context.Context, c *change, it *item) error {
	a.clock(c, it)
	var err error
	switch l := it.leaf.(type) {
	case *record.TimeLeaf:
		err = a.timeLeaf(c, it, l)
	case *record.CollateralLeaf:
		err = a.collateral(c, it)
	case *record.RecordLeaf:
		err = a.record(ctx, c, it, l)
	case *record.VendorLeaf:
		err = a.entry(ctx, c, it)
	}
	if err != nil {
		return err
	}
	for _, f := range it.findings {
		if _, err := c.add(f); err != nil {
			return err
		}
	}
	return nil
}

// clock moves the log's clock on, and says when sets were superseded: at the latest by the first time in a leaf that
// follows.
func (a *audit) clock(c *change, it *item) {
	t := it.time()
	if t == 0 || t > c.now.Add(maxAhead).UnixMilli() {
		return
	}
	c.st.Clock = max(c.st.Clock, t)
	for _, id := range a.unknown {
		a.superseded[id] = t
		// The error of a batch's Set is that of its later Commit.
		_ = c.b.Set(key(prefixSuperseded, id[:]), u64(uint64(t)), nil)
	}
	a.unknown = a.unknown[:0]
}

// entry audits what records and vendors' leaves have in common. It reports whether the statement is new by whether
// it.again is set.
func (a *audit) entry(ctx context.Context, c *change, it *item) error {
	if _, err := a.x.record(c.b, &judged{index: it.index, hash: it.hash, leaf: it.leaf, verdict: it.verdict, err: it.err, notBefore: it.notBefore, statement: it.statement}); err != nil {
		return err
	}
	if !a.m.cfg.LogPolicy.IsQuorumNone() {
		a.pending = append(a.pending, pending{it.index, it.time(), seconds(it.notBefore)})
	}
	first, ok, err := a.firstWith(it.statement)
	if err != nil {
		return err
	}
	if ok && first < it.index {
		it.again = true
		f := it.finding(KindDuplicateStatement, "", "leaf %d has the statement of leaf %d, which is the record", it.index, first)
		f.Evidence.Others = []uint64{first}
		return nil
	}
	k := string(short(it.statement))
	a.statements[k] = it.index
	return c.b.Set(key(prefixStatement, []byte(k)), u64(it.index), nil)
}

// firstWith returns the index of the first leaf so far with a statement.
func (a *audit) firstWith(statement record.Digest) (uint64, bool, error) {
	k := short(statement)
	if i, ok := a.statements[string(k)]; ok {
		return i, true, nil
	}
	return getU64(a.m.db, key(prefixStatement, k))
}

// record audits a record. One that isn't genuine is no start, end or model run.
func (a *audit) record(ctx context.Context, c *change, it *item, l *record.RecordLeaf) error {
	if err := a.entry(ctx, c, it); err != nil || it.again || it.verdict == nil {
		return err
	}
	if err := a.judgedBy(c, it, l); err != nil {
		return err
	}
	placed := &verifier.PlacedRecord{Origin: c.st.Origin, Index: it.index, Verdict: it.verdict}
	switch st := it.entry().Statement(); {
	case st.Start != nil:
		if err := a.open(c, it, placed); err != nil {
			return err
		}
		return a.sequence(c, it, &st.Start.SessionInfo)
	case st.ModelRun != nil:
		return a.modelRun(c, it, placed)
	case st.Session != nil:
		return a.end(ctx, c, it, placed, &st.Session.Start)
	case st.Abandoned != nil:
		return a.end(ctx, c, it, placed, &st.Abandoned.Start)
	}
	return nil
}

// --- collateral

// collateral audits a collateral leaf: what it holds is Intel's, complete, and not older than what was logged before.
func (a *audit) collateral(c *change, it *item) error {
	id := record.Digest(sha256.Sum256(it.raw))
	if err := a.x.collateral(c.b, it.index, id); err != nil {
		return err
	}
	s := it.set
	switch {
	case it.again:
		it.finding(KindDuplicateCollateral, "", "leaf %d holds a collateral set that was logged before", it.index).with("collateral", Hash(id).String())
		return nil
	case s.Kind != "":
		it.finding(s.Kind, "", "collateral leaf %d can't be used: %s", it.index, clean(s.Reason)).with("collateral", Hash(id).String())
		return nil
	}
	cur, ok := c.st.Sets[s.platform()]
	why := ""
	switch {
	case s.TCB < c.st.MaxTCB[s.FMSPC]:
		why = fmt.Sprintf("TCB info for %s with evaluation data number %d, after one with %d", s.FMSPC, s.TCB, c.st.MaxTCB[s.FMSPC])
	case s.QE < c.st.MaxQE:
		why = fmt.Sprintf("a QE identity with evaluation data number %d, after one with %d", s.QE, c.st.MaxQE)
	case ok && s.TCB == cur.TCB && s.QE == cur.QE && s.From <= cur.From:
		why = fmt.Sprintf("a set for %s that isn't newer than the one in leaf %d", s.platform(), cur.Index)
	}
	if why != "" {
		// The log may log older sets for evidence that is imported. What it is for, the first record by it shows.
		c.st.Old[Hash(id).String()] = oldSet{Index: it.index, Since: c.st.Clock, Why: why}
		return nil
	}
	if ok {
		a.superseded[record.Digest(cur.ID)] = 0
		a.unknown = append(a.unknown, record.Digest(cur.ID))
		if err := c.b.Set(key(prefixSuperseded, cur.ID[:]), u64(0), nil); err != nil {
			return err
		}
	}
	c.st.Sets[s.platform()] = currentSet{ID: Hash(id), Index: it.index, TCB: s.TCB, QE: s.QE, From: s.From}
	c.st.MaxTCB[s.FMSPC] = max(c.st.MaxTCB[s.FMSPC], s.TCB)
	c.st.MaxQE = max(c.st.MaxQE, s.QE)
	return nil
}

// judgedBy audits which set a record was judged by: "A record uses the newest set for its platform that is in a
// collateral leaf, or one that was superseded at most 10 minutes before" (FORMAT.md, 7).
func (a *audit) judgedBy(c *change, it *item, l *record.RecordLeaf) error {
	res := it.verdict.TDX
	if res == nil {
		return nil
	}
	id := l.Collateral
	old, isOld := c.st.Old[Hash(id).String()]
	if it.entry().Statement().Evidence != nil {
		if isOld { // that is what it is for
			delete(c.st.Old, Hash(id).String())
		}
		return nil
	}
	cur, ok := c.st.Sets[res.FMSPC+"/"+res.PCKCA]
	if ok && cur.ID == Hash(id) {
		return nil
	}
	if isOld {
		a.regress(c, id, old, &it.index)
		delete(c.st.Old, Hash(id).String())
	} else if at, ok := a.superseded[id]; ok && (at == 0 || l.AdmittedAt-at <= supersededGrace.Milliseconds()) {
		return nil
	}
	f := it.finding(KindWrongCollateral, "", "record %d was judged by a collateral set that isn't the newest for its platform, and wasn't within %s before", it.index, supersededGrace).
		with("collateral", Hash(id).String())
	if ok {
		f.Message += fmt.Sprintf(": that is the set in leaf %d", cur.Index)
		f.Evidence.Others = []uint64{cur.Index}
	}
	return nil
}

// regress reports a set that is older than one before, and that wasn't logged for an import.
func (a *audit) regress(c *change, id record.Digest, old oldSet, by *uint64) {
	f := newFinding(KindCollateralRegress, fmt.Sprintf("leaf %d %x", old.Index, id), "collateral leaf %d goes back: it holds %s", old.Index, old.Why).
		at(old.Index).with("collateral", Hash(id).String())
	if by == nil {
		f.Message += "; no record was judged by it since"
		f.Severity = SeverityLow
	} else {
		f.evidence().Others = []uint64{*by}
	}
	c.later = append(c.later, f)
}

// --- sessions

// encodeOpen returns what is kept of a start, or a model run, that later leaves may have to be compared with: its
// statement, and what verifier.Pair compares of its quote. That is a quarter of the leaf.
func encodeOpen(p *verifier.PlacedRecord) []byte {
	e, q := p.Verdict.Entry, p.Verdict.Quote
	b := append(make([]byte, 0, 512+len(e.Payload)), u64(p.Index)...)
	part := func(v []byte) { b = append(append(b, byte(len(v))), v...) }
	part([]byte(p.Verdict.TDX.PPID))
	part(q.Body.TDAttributes[:])
	part(q.Body.XFAM[:])
	for _, m := range [][]byte{q.Body.MRTD, q.Body.MRConfigID, q.Body.MROwner, q.Body.MROwnerConfig} {
		part(m)
	}
	return append(b, e.Payload...)
}

// decodeOpen is the inverse of encodeOpen. The verdict has what was kept, and an entry with the statement and no
// signature.
func decodeOpen(origin string, b []byte) (*verifier.PlacedRecord, error) {
	damaged := errors.New("stored start or model run is damaged")
	if len(b) < 8 {
		return nil, damaged
	}
	index, b := binary.BigEndian.Uint64(b), bytes.Clone(b[8:])
	part := func() (v []byte) {
		n := 1
		if len(b) > 0 {
			n += int(b[0])
		}
		if len(b) < n {
			b = nil
			return nil
		}
		v, b = b[1:n], b[n:]
		return v
	}
	ppid, attributes, xfam := part(), part(), part()
	body := tdx.TDBody{MRTD: part(), MRConfigID: part(), MROwner: part(), MROwnerConfig: part()}
	if len(attributes) != 8 || len(xfam) != 8 || len(b) == 0 {
		return nil, damaged
	}
	copy(body.TDAttributes[:], attributes)
	copy(body.XFAM[:], xfam)
	st, err := record.ParseStatement(b)
	if err != nil || st.SessionKey() == nil {
		return nil, errors.Join(damaged, err)
	}
	e, err := record.NewEntry(record.ProfileStatement, b, st.SessionKey().KeyID, make([]byte, 64), record.NewQuoteEvidence([]byte{0}))
	if err != nil {
		return nil, errors.Join(damaged, err)
	}
	return &verifier.PlacedRecord{Origin: origin, Index: index, Verdict: &verifier.Verdict{
		Entry: e, Quote: &tdx.Quote{Body: body}, TDX: &tdx.Result{PPID: string(ppid)},
	}}, nil
}

// What is due.
const (
	dueStart = 's' // a start must have ended
	dueRun   = 'r' // a model run isn't kept any longer
	dueGap   = 'g' // missing numbers must have come
)

func dueKey(ms int64, what byte, rest []byte) []byte {
	return append(append(key(prefixDue, u64(uint64(ms))), what), rest...)
}

// open keeps a start, or a model run, until its session ends.
func (a *audit) open(c *change, it *item, p *verifier.PlacedRecord) error {
	what, value := byte(dueStart), u64(it.index)
	if run := it.entry().Statement().ModelRun; run != nil {
		what = dueRun
		if run.Session != nil {
			value = append(value, run.Session.Statement[:]...)
		}
	}
	a.recent.Add(it.statement, p)
	return errors.Join(
		c.b.Set(key(prefixOpen, it.statement[:]), encodeOpen(p), nil),
		c.b.Set(dueKey(it.time()+a.m.cfg.UnpairedAfter.Milliseconds(), what, it.statement[:]), value, nil))
}

// placed returns a start or model run that was logged before, nil if there is none that is genuine.
func (a *audit) placed(ctx context.Context, c *change, statement record.Digest) (*verifier.PlacedRecord, error) {
	if p, ok := a.recent.Get(statement); ok {
		return p, nil
	}
	v, closer, err := a.m.db.Get(key(prefixOpen, statement[:]))
	if err == nil {
		defer closer.Close()
		return decodeOpen(c.st.Origin, v)
	}
	if !errors.Is(err, pebble.ErrNotFound) {
		return nil, err
	}
	index, ok, err := a.firstWith(statement)
	if err != nil || !ok {
		return nil, err
	}
	// It isn't kept any longer, as with the second end of a session: ask the log for the leaf again.
	it, err := a.again(ctx, index)
	if err != nil || it.verdict == nil || it.statement != statement {
		return nil, err
	}
	p := &verifier.PlacedRecord{Origin: c.st.Origin, Index: index, Verdict: it.verdict}
	a.recent.Add(statement, p)
	return p, nil
}

// again reads and judges a leaf that was audited before.
func (a *audit) again(ctx context.Context, index uint64) (*item, error) {
	n := index / width
	w := int(min(a.tree.size-n*width, width))
	raw, err := a.m.cfg.Log.RawEntries(ctx, n, w)
	if err != nil {
		return nil, fmt.Errorf("leaf %d, which was audited before: %w", index, err)
	}
	entries, _ := client.SplitEntries(raw.Body)
	if uint64(len(entries)) <= index%width {
		return nil, fmt.Errorf("leaf %d, which was audited before, isn't in %s any more", index, raw.Path)
	}
	it := &item{index: index, raw: entries[index%width]}
	it.hash = record.LeafHash(it.raw)
	own, err := a.tree.tile(tileID{0, n}, int(index%width)+1)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(own[index%width*hashSize:], it.hash[:]) {
		return nil, fmt.Errorf("leaf %d, which was audited before, isn't what is in %s any more", index, raw.Path)
	}
	a.m.parse(it)
	return it, a.m.judge(it)
}

// modelRun audits a model run.
func (a *audit) modelRun(c *change, it *item, p *verifier.PlacedRecord) error {
	if err := a.open(c, it, p); err != nil {
		return err
	}
	served := it.entry().Statement().ModelRun.Session
	if served == nil {
		return nil
	}
	// "`session-start` < `model-run`" (FORMAT.md, 11).
	if first, ok, err := a.firstWith(served.Statement); err != nil {
		return err
	} else if !ok || first > it.index {
		f := it.finding(KindUnknownStart, "", "model run %d names a start that isn't in the log before it, statement %x", it.index, served.Statement)
		f.Severity = SeverityMedium // the session may be in another log
		return nil
	}
	a.anyRuns = true
	a.runs[served.Statement] = append(a.runs[served.Statement], openRun{it.index, it.statement})
	return c.b.Set(key(prefixRuns, served.Statement[:], u64(it.index)), it.statement[:], nil)
}

// maxRuns bounds the model runs that a session's end is compared with.
const maxRuns = 1024

// runsOf returns the model runs that name a start.
func (a *audit) runsOf(start record.Digest) ([]openRun, error) {
	if _, ok := a.closed[start]; ok {
		return nil, nil // forgotten, though the database doesn't know yet
	}
	if !a.anyRuns {
		return nil, nil
	}
	prefix := key(prefixRuns, start[:])
	it, err := a.m.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: append(slices.Clone(prefix), u64(1<<63)...)})
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var runs []openRun
	for ok := it.First(); ok && len(runs) < maxRuns; ok = it.Next() {
		if len(it.Key()) != len(prefix)+8 || len(it.Value()) != 32 {
			return nil, errors.New("stored model run is damaged")
		}
		runs = append(runs, openRun{binary.BigEndian.Uint64(it.Key()[len(prefix):]), record.Digest(it.Value())})
	}
	return append(runs, a.runs[start]...), it.Error()
}

// end audits the end of a session.
func (a *audit) end(ctx context.Context, c *change, it *item, p *verifier.PlacedRecord, ref *record.StatementRef) error {
	if ref.Origin != c.st.Origin {
		return nil // its start is in another log, whose monitor knows
	}
	st := it.entry().Statement()
	// "Two finals for one start […] both fail" (FORMAT.md, 11). Another vendor's is no end of it.
	k := string(hashed(st.Vendor, string(ref.Statement[:])))
	other, ok := a.ends[k]
	if !ok {
		v, closer, err := a.m.db.Get(key(prefixEnd, []byte(k)))
		if err == nil {
			other, ok = bytes.Clone(v), true
			closer.Close()
		} else if !errors.Is(err, pebble.ErrNotFound) {
			return err
		}
	}
	if ok && len(other) == 40 && !bytes.Equal(other[8:], it.statement[:]) {
		first := binary.BigEndian.Uint64(other)
		f := it.finding(KindTwoFinals, "", "the session whose start is statement %x has two ends, leaves %d and %d: neither counts", ref.Statement, first, it.index)
		f.Evidence.Others = []uint64{first}
	} else if !ok {
		v := append(u64(it.index), it.statement[:]...)
		a.ends[k] = v
		if err := c.b.Set(key(prefixEnd, []byte(k)), v, nil); err != nil {
			return err
		}
	}

	start, err := a.placed(ctx, c, ref.Statement)
	if err != nil {
		return err
	}
	if start == nil || start.Verdict.Entry.Statement().Start == nil {
		it.finding(KindUnknownStart, "", "leaf %d ends a session whose start isn't in the log before it as a genuine record, statement %x", it.index, ref.Statement)
		return nil
	}
	_, refusals := verifier.Pair(start, p)
	if len(refusals) > 0 {
		f := it.finding(KindPairMismatch, "", "leaf %d doesn't belong to the start that it names, leaf %d: %s", it.index, start.Index, messages(refusals))
		f.Evidence.Others = []uint64{start.Index}
	}
	if st.Session != nil {
		if err := a.composition(ctx, c, it, start, p, st.Session); err != nil {
			return err
		}
	}
	if start.Verdict.Entry.Statement().Vendor != st.Vendor {
		return nil
	}
	return a.closeSession(c, ref.Statement, start)
}

// closeSession forgets what was kept for a session's end.
func (a *audit) closeSession(c *change, statement record.Digest, start *verifier.PlacedRecord) error {
	runs, err := a.runsOf(statement)
	if err != nil {
		return err
	}
	a.closed[statement] = struct{}{}
	for _, r := range runs {
		// What is due for the run finds nothing later.
		if err := errors.Join(c.b.Delete(key(prefixOpen, r.statement[:]), nil), c.b.Delete(key(prefixRuns, statement[:], u64(r.index)), nil)); err != nil {
			return err
		}
	}
	delete(a.runs, statement)
	return c.b.Delete(key(prefixOpen, statement[:]), nil)
}

// composition audits the models of a session by the records of the model runs.
func (a *audit) composition(ctx context.Context, c *change, it *item, start, final *verifier.PlacedRecord, s *record.Session) error {
	runs := make(map[record.Digest]*verifier.PlacedRecord)
	var take func(d record.Digest, by string) error
	take = func(d record.Digest, by string) error {
		if _, ok := runs[d]; ok || len(runs) >= maxRuns {
			return nil
		}
		p, err := a.placed(ctx, c, d)
		if err != nil {
			return err
		}
		if p == nil || p.Verdict.Entry.Statement().ModelRun == nil {
			it.finding(KindModelRunMismatch, fmt.Sprintf("leaf %d %x run %x", it.index, it.hash, d), "record %d: %s names a model run that isn't in the log before it as a genuine record, statement %x", it.index, by, d)
			return nil
		}
		runs[d] = p
		for _, u := range p.Verdict.Entry.Statement().ModelRun.Upstream {
			if u.ModelRun != nil {
				if err := take(*u.ModelRun, fmt.Sprintf("model run %d", p.Index)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	for _, m := range s.Models {
		if m.ModelRun != nil {
			if err := take(*m.ModelRun, "it"); err != nil {
				return err
			}
		}
	}
	open, err := a.runsOf(s.Start.Statement)
	if err != nil {
		return err
	}
	for _, r := range open {
		if err := take(r.statement, "it"); err != nil {
			return err
		}
	}
	var all []*verifier.PlacedRecord
	for _, p := range runs {
		all = append(all, p)
	}
	if _, refusals := verifier.ModelRuns(start, final, all, a.m.audit); len(refusals) > 0 {
		f := it.finding(KindModelRunMismatch, "", "record %d and the model runs of its session contradict each other: %s", it.index, messages(refusals))
		for _, p := range all {
			f.Evidence.Others = append(f.Evidence.Others, p.Index)
		}
		slices.Sort(f.Evidence.Others)
	}
	return nil
}

func messages(refusals []verifier.Refusal) string {
	var all []string
	for i, r := range refusals {
		if i == 5 {
			all = append(all, fmt.Sprintf("and %d more", len(refusals)-i))
			break
		}
		all = append(all, clean(r.Message))
	}
	return strings.Join(all, "; ")
}

// --- time

// timeLeaf audits a time leaf, and the times of the records that it is the first to cover.
func (a *audit) timeLeaf(c *change, it *item, l *record.TimeLeaf) error {
	if it.note != nil && it.byLog && it.note.Size <= it.index {
		// Whatever else is wrong with it: what the log signed must be a prefix of its tree.
		root, err := a.tree.root(it.note.Size)
		if err != nil {
			return err
		}
		if root != it.note.Root {
			f := it.finding(KindSplitView, forkAbout(it.note.Size, it.note.Root), "the checkpoint of size %d in time leaf %d, which the log signed, has root %v, but the log's first %d leaves have %x",
				it.note.Size, it.index, it.note.Root, it.note.Size, root)
			f.Evidence.Notes, f.Evidence.PrefixSize, f.Evidence.PrefixRoot = []string{string(l.Note), c.st.Newest.Note}, it.note.Size, base64Hash(root)
			return nil
		}
	}
	if it.note == nil || it.noteErr != nil {
		it.finding(KindBadTimeLeaf, "", "time leaf %d holds no earlier checkpoint that satisfies the log policy: %s", it.index, clean(it.noteErr.Error()))
		return nil
	}
	if it.again {
		it.finding(KindDuplicateNote, "", "time leaf %d holds a note that was logged before", it.index)
		return nil
	}
	if nb := it.note.NotBefore; nb != 0 && l.LoggedAt < nb*1000-clockTolerance.Milliseconds() {
		it.finding(KindAdmittedAt, "", "the log says that it logged time leaf %d at %s, but its note was not made before %s", it.index, timestamp(l.LoggedAt), timestamp(nb*1000))
	}
	if err := a.x.timeLeaf(c.b, it.index, it.noteDigest, it.note.Size, fromSeconds(it.note.NotAfter)); err != nil {
		return err
	}
	return a.cover(c, it)
}

// cover judges the times of the records that a time leaf is the first to cover.
func (a *audit) cover(c *change, it *item) error {
	if it.note.Size <= c.st.Covered {
		return nil
	}
	if it.note.NotAfter != 0 {
		if err := a.coverStored(c, it); err != nil {
			return err
		}
	}
	rest := a.pending[:0]
	for _, p := range a.pending {
		if p.index < it.note.Size {
			a.covered(c, it, p)
		} else {
			rest = append(rest, p)
		}
	}
	a.pending = rest
	c.st.Covered = it.note.Size
	return nil
}

// coverStored judges the times of those that were audited in earlier batches, as the index has them. What is below Covered
// was covered, maybe by another leaf of this batch.
func (a *audit) coverStored(c *change, it *item) error {
	iter, err := a.m.db.NewIter(&pebble.IterOptions{LowerBound: recordKey(c.st.Covered), UpperBound: recordKey(it.note.Size)})
	if err != nil {
		return err
	}
	for ok := iter.First(); ok; ok = iter.Next() {
		index := binary.BigEndian.Uint64(iter.Key()[1:])
		admittedAt, notBefore, err := decodeTimes(index, iter.Value())
		if err != nil {
			return errors.Join(err, iter.Close())
		}
		a.covered(c, it, pending{index, max(admittedAt.UnixMilli(), 0), seconds(notBefore)})
	}
	return iter.Close()
}

// covered judges the time of a record.
func (a *audit) covered(c *change, it *item, p pending) {
	na := it.note.NotAfter
	if na == 0 {
		return
	}
	tolerance := clockTolerance.Milliseconds()
	about := fmt.Sprintf("leaf %d", p.index)
	add := func(f *Finding) {
		f.evidence().Others = []uint64{it.index}
		c.later = append(c.later, f.at(p.index))
	}
	if p.admittedAt > na*1000+tolerance {
		add(newFinding(KindAdmittedAt, about, "the log says that it admitted leaf %d at %s, but witnesses had seen it in the log at %s", p.index, timestamp(p.admittedAt), timestamp(na*1000)))
	}
	if p.notBefore == 0 {
		return
	}
	if p.admittedAt < p.notBefore*1000-tolerance {
		add(newFinding(KindAdmittedAt, about, "the log says that it admitted leaf %d at %s, but witnesses prove that the statement was not made before %s", p.index, timestamp(p.admittedAt), timestamp(p.notBefore*1000)))
	}
	if w := time.Duration(na-p.notBefore) * time.Second; w > a.m.cfg.MaxWidth || w < -clockTolerance {
		add(newFinding(KindWideInterval, about, "the statement in leaf %d was made between %s and %s, which is %s wide, more than %s", p.index, timestamp(p.notBefore*1000), timestamp(na*1000), w, a.m.cfg.MaxWidth))
	}
}

func timestamp(ms int64) string { return fromMillis(ms).Format(time.RFC3339) }

// --- what is due

// settle looks at what is due after the last leaf: what a batch writes is only looked at after it.
func (a *audit) settle() error {
	for {
		c := a.m.begin()
		if err := errors.Join(a.due(c), a.writeSequences(c)); err != nil {
			c.b.Close()
			return err
		}
		if c.b.Empty() {
			return c.b.Close()
		}
		err := c.commit()
		a.reset()
		if err := errors.Join(err, c.b.Close()); err != nil {
			return err
		}
	}
}

// due looks at what is due by the log's clock, as far as it was written in earlier batches, and adds what was found
// about other leaves than those of the batch.
func (a *audit) due(c *change) error {
	for id, old := range c.st.Old {
		if c.st.Clock-old.Since > supersededGrace.Milliseconds() {
			h, err := parseHash(id)
			if err != nil {
				return err
			}
			a.regress(c, record.Digest(h), old, nil)
			delete(c.st.Old, id)
		}
	}
	if c.st.Clock > 0 {
		if err := a.dueUntil(c); err != nil {
			return err
		}
	}
	for _, f := range c.later {
		if _, err := c.add(f); err != nil {
			return err
		}
	}
	return nil
}

func (a *audit) dueUntil(c *change) error {
	it, err := a.m.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixDue}, UpperBound: key(prefixDue, u64(uint64(c.st.Clock)))})
	if err != nil {
		return err
	}
	defer it.Close()
	n := 0
	for ok := it.First(); ok && n < dueAtOnce; ok = it.Next() {
		n++
		k := bytes.Clone(it.Key())
		if len(k) < 10 {
			return errors.New("stored due date is damaged")
		}
		switch rest := k[10:]; k[9] {
		case dueStart:
			err = a.dueStart(c, record.Digest(rest))
		case dueRun:
			err = c.b.Delete(key(prefixOpen, rest), nil)
			if v := it.Value(); len(v) == 8+32 { // index, and the start of the session that it is for
				err = errors.Join(err, c.b.Delete(key(prefixRuns, v[8:], v[:8]), nil))
			}
		case dueGap:
			err = a.dueGap(c, rest)
		}
		if err := errors.Join(err, c.b.Delete(k, nil)); err != nil {
			return err
		}
	}
	return it.Error()
}

// dueStart reports a start that should have ended.
func (a *audit) dueStart(c *change, statement record.Digest) error {
	if _, ok := a.closed[statement]; ok {
		return nil
	}
	v, closer, err := a.m.db.Get(key(prefixOpen, statement[:]))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	defer closer.Close()
	p, err := decodeOpen(c.st.Origin, v)
	if err != nil {
		return err
	}
	st := p.Verdict.Entry.Statement()
	f := newFinding(KindUnpairedStart, fmt.Sprintf("statement %x", statement), "the session that started with record %d has no end after %s: neither a final record nor word that it was abandoned", p.Index, a.m.cfg.UnpairedAfter).
		at(p.Index).with("vendor", clean(st.Vendor)).with("statement", Hash(statement).String())
	if id, ok := st.SessionID(); ok {
		f.with("session", Hash(id.Digest()).String())
	}
	if st.Start != nil {
		f.with("tenant", Hash(st.Start.Tenant).String())
	}
	c.later = append(c.later, f)
	// A later end asks the log for the start again.
	return c.b.Delete(key(prefixOpen, statement[:]), nil)
}

func parseHash(s string) (h Hash, err error) {
	err = h.UnmarshalText([]byte(s))
	return h, err
}
