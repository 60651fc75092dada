package monitor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/verifier/pcs"
)

const (
	// staleTolerance is how long caches between a log and its readers may answer an older checkpoint: "short
	// (≤ seconds)" (c2sp.org/tlog-tiles), and some.
	staleTolerance = time.Minute

	// withheldAfter is how long a log may take to show a checkpoint that a witness has cosigned. Witnesses cosign before
	// the log publishes.
	withheldAfter = time.Hour

	// contactInterval is how often it is written that the log was there, when there is nothing else to write.
	contactInterval = time.Minute

	// pcsInterval is how often PCS is asked.
	pcsInterval = time.Hour

	// witnessTimeout bounds the time in which a witness answers, maxEvidence what it shows of forks, and maxKept how many
	// notes in that are looked at. Witnesses of ours keep 8 requests for a log, each with what they had cosigned.
	witnessTimeout = 10 * time.Second
	maxEvidence    = 4 << 20
	maxKept        = 64
)

// Step polls once: it reads the newest checkpoint, audits what is new, and asks the witnesses what they have seen. The
// error says what kept it from that, such as a log that can't be reached; what a log does wrong is a finding and no
// error. A log that contradicts itself is followed no further until it continues what was audited, see [Status.Halted].
func (m *Monitor) Step(ctx context.Context) error { return m.look(ctx, true, true) }

// look polls once, and asks the others too, if it is told to.
func (m *Monitor) look(ctx context.Context, witnesses, pcs bool) error {
	m.stepping.Lock()
	defer m.stepping.Unlock()
	if m.db == nil {
		return errClosed
	}
	if m.failed != nil {
		return m.failed
	}
	err := m.step(ctx, witnesses, pcs)
	if err != nil && ctx.Err() != nil {
		return err
	}
	m.live.Lock()
	m.live.lastPoll, m.live.err = m.cfg.Now().UTC(), err
	if err != nil {
		m.live.failures++
	}
	m.live.Unlock()
	return err
}

func (m *Monitor) step(ctx context.Context, witnesses, pcs bool) error {
	err := m.poll(ctx)
	standing := m.st.Standing // a log that says nothing has taken nothing back
	if l := (*lie)(nil); errors.As(err, &l) {
		if standing, err = m.stand(l.f); err != nil {
			return err
		}
	} else if err == nil {
		standing = ""
	}
	if m.failed != nil {
		return m.failed
	}
	var werr, perr error
	if witnesses {
		werr = m.judgeWitnesses(ctx, m.askWitnesses(ctx))
	}
	if pcs {
		perr = m.askPCS(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, werr, perr, m.finish(standing))
}

// stand commits a finding that keeps the monitor from going on.
func (m *Monitor) stand(f *Finding) (id string, err error) {
	c := m.begin()
	defer c.b.Close()
	if id, err = c.add(f); err != nil {
		return "", err
	}
	if f.Class == ClassTamper {
		c.st.Standing = id
	}
	return c.st.Standing, c.commit()
}

// poll reads the newest checkpoint, and audits the leaves up to it.
func (m *Monitor) poll(ctx context.Context) error {
	note, err := m.cfg.Log.RawCheckpoint(ctx)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	checked, err := m.cfg.LogPolicy.Check(note)
	if err == nil && checked.Origin != m.cfg.Origin {
		err = fmt.Errorf("it is of log %q", checked.Origin)
	}
	if err != nil {
		// Once for each time that the log stops to show good ones, and each way of it.
		f := newFinding(KindBadCheckpoint, fmt.Sprintf("%s since %d", badNote(err), m.st.Contact.Unix()), "what the log serves as its checkpoint doesn't satisfy the log policy: %s", clean(err.Error()))
		f.Evidence = &Evidence{Path: "checkpoint", Served: note[:min(len(note), maxServed)]}
		return &lie{f: f}
	}
	seen := seenCheckpoint{Size: checked.Size, Root: checked.Root, Note: string(note), At: m.cfg.Now().UTC()}
	if err := m.accept(ctx, seen); err != nil {
		return err
	}
	m.st.Contact = m.cfg.Now().UTC()
	err = m.catchUp(ctx)
	if l := (*lie)(nil); errors.As(err, &l) && l.tiles != nil {
		// The entries may be right all the same.
		if err := m.scan(ctx, m.st.Newest, l.tiles); err != nil {
			return err
		}
		err = m.catchUp(ctx)
	}
	return err
}

// badNote is a word for why a note isn't good.
func badNote(err error) string {
	switch {
	case errors.Is(err, checkpoint.ErrMalformed):
		return "malformed"
	case errors.Is(err, checkpoint.ErrUnknownLog):
		return "unknown-log"
	case errors.Is(err, checkpoint.ErrBadSignature):
		return "bad-signature"
	case errors.As(err, new(*checkpoint.QuorumError)):
		return "quorum"
	}
	return "other-log"
}

// forkAbout is what the finding is about that the log signed a checkpoint which contradicts what was audited.
func forkAbout(size uint64, root [32]byte) string { return fmt.Sprintf("size %d root %x", size, root) }

// accept compares a checkpoint with the newest so far, and makes it the newest if it continues it.
func (m *Monitor) accept(ctx context.Context, seen seenCheckpoint) error {
	newest := m.st.Newest
	switch {
	case seen.Size < newest.Size:
		return m.smaller(ctx, seen)
	case seen.Size == newest.Size && seen.Root != newest.Root:
		f := newFinding(KindSameSizeFork, forkAbout(seen.Size, seen.Root), "the log signed two checkpoints of size %d, with roots %v and %v", seen.Size, newest.Root, seen.Root)
		f.Evidence = &Evidence{Notes: []string{newest.Note, seen.Note}}
		return &lie{f: f}
	case seen.Size == newest.Size:
		if newest.Note != "" {
			seen.At = newest.At
		}
		// The same checkpoint with other cosignatures.
		m.st.Newest = seen
		if m.st.Checkpoint.Size == seen.Size {
			m.st.Checkpoint = seen
		}
		return nil
	}
	if m.scanned != nil && m.scanned.target != seen.Root {
		m.scanned = nil
	}
	if err := m.continues(ctx, seen); err != nil {
		return err
	}
	c := m.begin()
	defer c.b.Close()
	c.st.Newest, c.st.Standing = seen, ""
	if err := m.remember(c.b, seen); err != nil {
		return err
	}
	return c.commit()
}

// smaller judges a checkpoint that is smaller than one that the log has shown.
func (m *Monitor) smaller(ctx context.Context, seen seenCheckpoint) error {
	newest := m.st.Newest
	var root [32]byte
	var err error
	if seen.Size <= m.st.Audited {
		root, err = m.a.tree.root(seen.Size)
	} else {
		r := &remoteTiles{m: m, ctx: ctx, target: newest}
		var h tlog.Hash
		h, err = tlog.TreeHash(int64(seen.Size), r.reader())
		root = h
		if r.err != nil {
			return r.err
		}
	}
	if err != nil {
		return err
	}
	if root != seen.Root {
		return &lie{f: m.fork(seen, root, newest, m.st.Audited)}
	}
	if now := m.cfg.Now(); now.Sub(newest.At) > staleTolerance {
		f := newFinding(KindRollback, fmt.Sprintf("size %d after %d", seen.Size, newest.Size), "the log shows a checkpoint of size %d, after one of size %d that it has shown %s before", seen.Size, newest.Size, now.Sub(newest.At).Round(time.Second))
		f.Evidence = &Evidence{Notes: []string{seen.Note, newest.Note}}
		return &lie{f: f}
	}
	return fmt.Errorf("the log answers an older checkpoint, of size %d after %d: some cache, as it seems", seen.Size, newest.Size)
}

// fork is the finding that the log signed a checkpoint of which another, that isn't smaller, had another root at its
// size.
func (m *Monitor) fork(small seenCheckpoint, root [32]byte, large seenCheckpoint, audited uint64) *Finding {
	f := newFinding(KindSplitView, forkAbout(small.Size, small.Root), "the log signed two checkpoints of which neither continues the other: one of size %d has root %v, and the first %d leaves of one of size %d have %x", small.Size, small.Root, small.Size, large.Size, root)
	f.Evidence = &Evidence{Notes: []string{small.Note, large.Note}, PrefixSize: small.Size, PrefixRoot: base64Hash(root)}
	if large.Size <= audited {
		if p, err := consistency(m.a.tree.tile, small.Size, large.Size); err == nil {
			f.Evidence.Consistency = base64Hashes(p)
		}
	}
	return f
}

// continues checks that a larger checkpoint continues what was audited, and the newest before.
func (m *Monitor) continues(ctx context.Context, seen seenCheckpoint) error {
	own, err := m.a.tree.root(m.st.Audited)
	if err != nil {
		return err
	}
	before := []seenCheckpoint{m.st.Newest}
	if m.st.Audited > 0 && m.st.Audited != m.st.Newest.Size {
		before = append(before, seenCheckpoint{Size: m.st.Audited, Root: own})
	}
	for _, b := range before {
		if b.Size == 0 {
			continue
		}
		r := &remoteTiles{m: m, ctx: ctx, target: seen}
		root, err := tlog.TreeHash(int64(b.Size), r.reader())
		if r.err != nil {
			return r.err
		}
		if err != nil {
			// What the log serves as hashes isn't of this tree. Its entries decide.
			return m.scan(ctx, seen, r)
		}
		if root != tlog.Hash(b.Root) {
			return &lie{f: m.forkBefore(ctx, b, root, seen)}
		}
	}
	return nil
}

// forkBefore is the finding that a larger checkpoint doesn't continue one that was seen before.
func (m *Monitor) forkBefore(ctx context.Context, b seenCheckpoint, root [32]byte, seen seenCheckpoint) *Finding {
	f := newFinding(KindSplitView, forkAbout(seen.Size, seen.Root), "the log's checkpoint of size %d doesn't continue one of size %d that it signed before: at that size its tree has root %x, not %v", seen.Size, b.Size, root, b.Root)
	f.Evidence = &Evidence{Notes: []string{b.Note, seen.Note}, PrefixSize: b.Size, PrefixRoot: base64Hash(root)}
	if b.Note == "" { // what was audited since the last checkpoint
		f.Evidence.Notes = []string{m.st.Checkpoint.Note, m.st.Newest.Note, seen.Note}
	}
	r := &remoteTiles{m: m, ctx: ctx, target: seen}
	if p, err := tlog.ProveTree(int64(seen.Size), int64(b.Size), r.reader()); err == nil {
		f.Evidence.Consistency = base64Hashes(hashArrays(p))
	}
	return f
}

// finish commits what the poll found out about the log's health.
func (m *Monitor) finish(standing string) error {
	c := m.begin()
	defer c.b.Close()
	st, now := &c.st, c.now
	write := st.Standing != standing
	st.Standing = standing
	if st.Audited >= st.Newest.Size && !st.Contact.IsZero() {
		st.Progress = now.UTC()
	}
	var found []*Finding
	contact := st.Contact
	if contact.IsZero() {
		contact = m.opened
	}
	if d := now.Sub(contact); d > m.cfg.DeadAfter {
		found = append(found, newFinding(KindDeadLog, fmt.Sprintf("since %d", st.Contact.Unix()), "the log has shown no good checkpoint for %s", d.Round(time.Second)))
	}
	if d := now.Sub(st.Progress); d > m.cfg.DeadAfter && st.Newest.Size > st.Audited && standing == "" && !st.Progress.IsZero() {
		found = append(found, newFinding(KindSlowLog, fmt.Sprintf("at %d", st.Audited), "no entries beyond the first %d could be audited for %s, though the log has shown a checkpoint of size %d", st.Audited, d.Round(time.Second), st.Newest.Size))
	}
	if t := m.newestCosignature(st.Newest.Note); !t.IsZero() && now.Sub(t) > m.cfg.FrozenAfter {
		f := newFinding(KindFrozenLog, fmt.Sprintf("size %d since %d", st.Newest.Size, t.Unix()), "the newest checkpoint that the log shows, of size %d, was last cosigned %s ago", st.Newest.Size, now.Sub(t).Round(time.Second))
		f.Evidence = &Evidence{Notes: []string{st.Newest.Note}}
		found = append(found, f)
	}
	for _, f := range found {
		if _, err := c.add(f); err != nil {
			return err
		}
	}
	if write || len(c.found) > 0 || now.Sub(m.written) >= contactInterval {
		m.written = now
		return c.commit()
	}
	m.st = c.st
	m.publish()
	return nil
}

// newestCosignature returns when a note was last cosigned, the zero time if nobody says.
func (m *Monitor) newestCosignature(note string) (t time.Time) {
	if note == "" {
		return t
	}
	checked, err := m.cfg.LogPolicy.Check([]byte(note))
	if err != nil {
		return t
	}
	for _, c := range checked.Cosignatures {
		if c.Time.After(t) {
			t = c.Time
		}
	}
	return t
}

// --- witnesses

// A shown checkpoint is one that a witness has shown, and that isn't compared with the tree yet since that is smaller.
type shown struct {
	Witness string         `json:"witness"`
	Seen    seenCheckpoint `json:"seen"`
}

// A witnessAnswer is what a witness shows.
type witnessAnswer struct {
	note []byte
	kept [][]byte // notes that the witness didn't cosign, and kept
	err  error
}

// askWitnesses reads what the witnesses show, in their order. It needs no lock, and takes as long as the slowest of them.
func (m *Monitor) askWitnesses(ctx context.Context) []witnessAnswer {
	answers := make([]witnessAnswer, len(m.cfg.Witnesses))
	var wg sync.WaitGroup
	for i, w := range m.cfg.Witnesses {
		wg.Go(func() {
			a := &answers[i]
			if a.note, a.err = m.askWitness(ctx, w, "checkpoint", checkpoint.MaxNote); a.err != nil {
				return
			}
			// Not every witness has this; its word for it isn't needed.
			if text, err := m.askWitness(ctx, w, "evidence", maxEvidence); err == nil {
				a.kept = notesIn(text, m.cfg.Origin)
			}
		})
	}
	wg.Wait()
	return answers
}

// heard judges what witnesses have answered in the meantime.
func (m *Monitor) heard(ctx context.Context, answers []witnessAnswer) error {
	m.stepping.Lock()
	defer m.stepping.Unlock()
	if m.db == nil {
		return errClosed
	}
	if m.failed != nil {
		return m.failed
	}
	return m.judgeWitnesses(ctx, answers)
}

// judgeWitnesses compares the checkpoints that witnesses have seen with what was audited.
func (m *Monitor) judgeWitnesses(ctx context.Context, answers []witnessAnswer) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c := m.begin()
	defer c.b.Close()
	var errs []error
	for i, w := range m.cfg.Witnesses {
		m.live.Lock()
		ws := m.live.witness[w.Name]
		m.live.Unlock()
		ws.Error = ""
		f, err := m.judgeWitness(c, w, answers[i].note, answers[i].err, &ws)
		if err != nil {
			return err
		}
		if f != nil {
			if _, err := c.add(f); err != nil {
				return err
			}
		}
		for _, note := range answers[i].kept {
			checked, err := m.cfg.LogPolicy.CheckLog(note)
			if err != nil || checked.Origin != m.cfg.Origin {
				continue // text that isn't the log's
			}
			if f, err = m.shown(c, w, checked, note); err != nil {
				return err
			}
			if f != nil {
				if _, err := c.add(f); err != nil {
					return err
				}
			}
		}
		if ws.Error != "" {
			errs = append(errs, fmt.Errorf("witness %s: %s", w.Name, ws.Error))
		}
		m.live.Lock()
		m.live.witness[w.Name] = ws
		m.live.Unlock()
	}
	for _, err := range errs {
		m.cfg.Logger.Warn("witness", "err", err)
	}
	changed, err := m.compareShown(c)
	if err != nil {
		return err
	}
	if changed || len(c.found) > 0 {
		return c.commit()
	}
	return nil
}

// askWitness reads what a witness shows about this log, of at most limit bytes: nil if there is nothing.
func (m *Monitor) askWitness(ctx context.Context, w Witness, what string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, witnessTimeout)
	defer cancel()
	h := sha256.Sum256([]byte(m.cfg.Origin))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(w.URL, "/")+"/"+hex.EncodeToString(h[:])+"/"+what, nil)
	if err != nil {
		return nil, err
	}
	resp, err := m.cfg.HTTPClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound: // "If the witness has never cosigned a checkpoint for that log"
		return nil, nil
	default:
		return nil, fmt.Errorf("answered %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	return b, nil
}

// notesIn returns what looks like a log's signed notes in a text for people, at most maxKept: from a line that is the
// origin, after an empty one, to the last of the signature lines after the next empty line.
func notesIn(text []byte, origin string) (notes [][]byte) {
	var note []byte
	state := 0 // 0: outside; 1: in the note's text; 2: in its signatures
	empty := true
	for line := range bytes.Lines(text) {
		switch {
		case state == 2 && bytes.HasPrefix(line, []byte("\u2014 ")):
			note = append(note, line...)
		case state == 1:
			note = append(note, line...)
			if len(line) == 1 {
				state = 2
			}
		default:
			if state == 2 {
				notes = append(notes, note)
				note, state = nil, 0
			}
			if len(notes) == maxKept {
				return notes
			}
			if empty && string(line) == origin+"\n" {
				note, state = bytes.Clone(line), 1
			}
		}
		empty = len(line) == 1
	}
	if state == 2 {
		notes = append(notes, note)
	}
	return notes
}

// judgeWitness takes up what a witness has shown.
func (m *Monitor) judgeWitness(c *change, w Witness, note []byte, err error, ws *WitnessStatus) (*Finding, error) {
	if err != nil {
		ws.Error = clean(err.Error())
		since := ws.Seen
		if since.IsZero() {
			since = m.opened
		}
		if d := c.now.Sub(since); d > m.cfg.DeadAfter {
			return newFinding(KindWitnessSilent, fmt.Sprintf("%q since %d", w.Name, since.Unix()), "witness %s couldn't be asked for %s: %s", clean(w.Name), d.Round(time.Second), ws.Error), nil
		}
		return nil, nil
	}
	ws.Seen = c.now.UTC()
	if note == nil {
		return nil, nil
	}
	// Its own cosignature and the log's signature are all that it has to show.
	checked, err := m.cfg.LogPolicy.CheckLog(note)
	if err == nil && checked.Origin != m.cfg.Origin {
		err = fmt.Errorf("it is of log %q", checked.Origin)
	}
	if err != nil {
		ws.Error = clean(err.Error())
		f := newFinding(KindBadWitnessNote, fmt.Sprintf("%q %s", w.Name, badNote(err)), "what witness %s shows isn't a checkpoint that this log signed: %s", clean(w.Name), ws.Error)
		f.Evidence = &Evidence{Path: w.URL, Served: note[:min(len(note), maxServed)]}
		return f, nil
	}
	ws.Size = checked.Size
	return m.shown(c, w, checked, note)
}

// shown compares a checkpoint that the log signed, and that a witness shows, with the tree, or keeps it until that is as
// large.
func (m *Monitor) shown(c *change, w Witness, checked *checkpoint.Checked, note []byte) (*Finding, error) {
	s := shown{w.Name, seenCheckpoint{Size: checked.Size, Root: checked.Root, Note: string(note), At: c.now.UTC()}}
	if checked.Size <= m.st.Checkpoint.Size {
		return m.compare(s)
	}
	// Once for each tree.
	k := key(prefixWitness, shownKey(s))
	if ok, err := getJSON(m.db, k, new(shown)); err != nil || ok {
		return nil, err
	}
	c.touched = true
	return nil, setJSON(c.b, k, &s)
}

func shownKey(s shown) []byte {
	h := hashStrings(fmt.Sprint(s.Seen.Size), string(s.Seen.Root[:]))
	return h[:]
}

// compare compares a checkpoint that a witness has shown with the tree, which is at least as large.
func (m *Monitor) compare(s shown) (*Finding, error) {
	root, err := m.a.tree.root(s.Seen.Size)
	if err != nil || root == s.Seen.Root {
		return nil, err
	}
	f := m.fork(s.Seen, root, m.st.Checkpoint, m.st.Audited)
	f.Message += "; witness " + clean(s.Witness) + " has seen the former"
	return f, nil
}

// compareShown compares what was too large before, and reports what the log doesn't show.
func (m *Monitor) compareShown(c *change) (changed bool, err error) {
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixWitness}, UpperBound: []byte{prefixWitness + 1}})
	if err != nil {
		return false, err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		var s shown
		k := append([]byte(nil), it.Key()...)
		if _, err := getJSON(m.db, k, &s); err != nil {
			return false, err
		}
		var f *Finding
		switch {
		case s.Seen.Size <= m.st.Checkpoint.Size:
			if f, err = m.compare(s); err != nil {
				return false, err
			}
			changed = true
			if err := c.b.Delete(k, nil); err != nil {
				return false, err
			}
		case s.Seen.Size == m.st.Newest.Size && s.Seen.Root != m.st.Newest.Root:
			f = newFinding(KindSplitView, forkAbout(s.Seen.Size, s.Seen.Root), "the log signed two checkpoints of size %d: it shows one with root %v, and witness %s has seen one with %v", s.Seen.Size, m.st.Newest.Root, clean(s.Witness), s.Seen.Root)
			f.Evidence = &Evidence{Notes: []string{s.Seen.Note, m.st.Newest.Note}}
		case s.Seen.Size > m.st.Newest.Size && c.now.Sub(s.Seen.At) > withheldAfter:
			f = newFinding(KindWithheld, forkAbout(s.Seen.Size, s.Seen.Root), "witness %s has seen a checkpoint of size %d, and %s later the log still shows one of size %d", clean(s.Witness), s.Seen.Size, c.now.Sub(s.Seen.At).Round(time.Second), m.st.Newest.Size)
			f.Evidence = &Evidence{Notes: []string{m.st.Newest.Note, s.Seen.Note}}
		}
		if f != nil {
			if _, err := c.add(f); err != nil {
				return false, err
			}
		}
	}
	return changed || c.touched, it.Error()
}

// --- PCS

// askPCS compares the log's newest collateral with what Intel publishes.
func (m *Monitor) askPCS(ctx context.Context) error {
	now := m.cfg.Now()
	if m.cfg.PCS == nil || now.Sub(m.askedPCS) < pcsInterval {
		return nil
	}
	m.askedPCS = now
	c := m.begin()
	defer c.b.Close()
	var errs []error
	for platform, cur := range m.st.Sets {
		fmspc, ca, _ := strings.Cut(platform, "/")
		col, err := m.cfg.PCS.Collateral(ctx, fmspc, ca, now)
		if errors.Is(err, pcs.ErrNoCollateral) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("collateral of %s: %w", platform, err))
			continue
		}
		set, err := m.v.Compile(col)
		if err != nil {
			errs = append(errs, fmt.Errorf("collateral of %s: %w", platform, err))
			continue
		}
		from, _ := set.Window()
		tcb, qe := set.TCBEvaluationDataNumber(), set.QEEvaluationDataNumber()
		// What counts is when the log last had an occasion.
		if tcb <= cur.TCB && qe <= cur.QE || m.st.Clock < from.Add(m.cfg.StaleAfter).UnixMilli() {
			continue
		}
		f := newFinding(KindCollateralStale, fmt.Sprintf("%s %d %d", platform, tcb, qe), "the log judges platforms %s by evaluation data numbers %d (TCB info) and %d (QE identity), leaf %d, though Intel has published %d and %d at %s", platform, cur.TCB, cur.QE, cur.Index, tcb, qe, from.Format(time.RFC3339)).
			at(cur.Index).with("collateral", cur.ID.String())
		if _, err := c.add(f); err != nil {
			return err
		}
	}
	if len(c.found) > 0 {
		if err := c.commit(); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}
