package monitor

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// stateVersion is that of all that is in the database. A database of another version is refused: it can be removed, and is
// then built again from the log.
const stateVersion = 2

// A state is what the monitor knows as of one commit. It is written in the same batch as everything that follows from
// the leaves below Audited, and as the findings about them, so that a crash loses and repeats nothing.
type state struct {
	Version int    `json:"version"`
	Origin  string `json:"origin"`

	// Audited is the number of leaves that were audited: each is proven to be in the tree of Newest.
	Audited uint64 `json:"audited"`
	// Checkpoint is the largest checkpoint of which everything is audited, and Newest the largest that the log has shown
	// and that continues it. While the monitor catches up, they differ.
	Checkpoint seenCheckpoint `json:"checkpoint"`
	Newest     seenCheckpoint `json:"newest"`

	// Findings is the number of findings, Counts that of each kind.
	Findings uint64          `json:"findings"`
	Counts   map[Kind]uint64 `json:"counts,omitempty"`

	// Standing is the ID of the tamper finding that the last poll ended with, and that keeps the monitor from going on;
	// empty if there is none.
	Standing string `json:"standing,omitempty"`

	// Contact is when the log last showed a good checkpoint, and Progress when leaves were last audited, or there were
	// none to audit, by the monitor's clock.
	Contact  time.Time `json:"contact,omitzero"`
	Progress time.Time `json:"progress,omitzero"`

	// Clock is the largest time in a leaf, in ms: the log's clock, by which it is told how old things are.
	Clock int64 `json:"clock"`

	// Covered is the largest size of a checkpoint in a time leaf.
	Covered uint64 `json:"covered"`

	// Sets are the newest collateral sets by kind of platform; MaxTCB the largest evaluation data number of a TCB info by
	// FMSPC, and MaxQE that of a QE identity. Old are sets that were logged after newer ones, by collateral id, until it is
	// known what for.
	Sets   map[string]currentSet `json:"sets,omitempty"`
	MaxTCB map[string]uint32     `json:"max_tcb,omitempty"`
	MaxQE  uint32                `json:"max_qe"`
	Old    map[string]oldSet     `json:"old,omitempty"`
}

// A seenCheckpoint is one that satisfies the log policy. The zero value is none.
type seenCheckpoint struct {
	Size uint64    `json:"size"`
	Root Hash      `json:"root"`
	Note string    `json:"note,omitempty"`
	At   time.Time `json:"at,omitzero"` // when the monitor first saw it, by its clock
}

type currentSet struct {
	ID      Hash   `json:"id"`
	Index   uint64 `json:"index"`
	TCB, QE uint32 // evaluation data numbers
	From    int64  `json:"from"` // s since 1970: when it came into force
}

type oldSet struct {
	Index uint64 `json:"index"`
	Since int64  `json:"since"` // ms, the log's clock
	Why   string `json:"why"`
}

// clone returns a copy that the audit may change. Maps are copied, values in them never modified.
func (s *state) clone() state {
	c := *s
	c.Counts, c.Sets, c.MaxTCB, c.Old = maps.Clone(s.Counts), maps.Clone(s.Sets), maps.Clone(s.MaxTCB), maps.Clone(s.Old)
	return c
}

func loadState(db *pebble.DB, origin string) (state, error) {
	s := state{
		Version: stateVersion, Origin: origin,
		Checkpoint: seenCheckpoint{Root: checkpoint.EmptyRoot()}, Newest: seenCheckpoint{Root: checkpoint.EmptyRoot()},
		Counts: map[Kind]uint64{}, Sets: map[string]currentSet{}, MaxTCB: map[string]uint32{}, Old: map[string]oldSet{},
	}
	v, closer, err := db.Get([]byte{prefixState})
	if errors.Is(err, pebble.ErrNotFound) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer closer.Close()
	// The version first: what else is in a state of another version, this one may not be able to read.
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(v, &version); err != nil {
		return s, fmt.Errorf("stored state: %w", err)
	}
	if version.Version != stateVersion {
		return s, fmt.Errorf("stored state of version %d, and this monitor knows version %d: remove the folder, and it is built again", version.Version, stateVersion)
	}
	if err := json.Unmarshal(v, &s); err != nil {
		return s, fmt.Errorf("stored state: %w", err)
	}
	switch {
	case s.Origin != origin:
		return s, fmt.Errorf("it is about log %q, not %q", s.Origin, origin)
	}
	return s, nil
}

func decodeFinding(b []byte) (*Finding, error) {
	f := new(Finding)
	if err := json.Unmarshal(b, f); err != nil {
		return nil, err
	}
	return f, nil
}

// seqOf returns the sequence number of the finding with an ID, if there is one.
func seqOf(db pebble.Reader, id string) (uint64, bool, error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != 16 {
		return 0, false, fmt.Errorf("%.80q is not the ID of a finding, 32 hexadecimal digits", id)
	}
	return getU64(db, key(prefixID, raw))
}

// getU64 returns the integer that a value begins with, if there is one.
func getU64(db pebble.Reader, k []byte) (uint64, bool, error) {
	v, closer, err := db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer closer.Close()
	if len(v) < 8 {
		return 0, false, fmt.Errorf("stored key %x is damaged", k)
	}
	return binary.BigEndian.Uint64(v), true, nil
}

// getJSON reads a value, and reports false if there is none.
func getJSON(db pebble.Reader, k []byte, to any) (bool, error) {
	v, closer, err := db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer closer.Close()
	if err := json.Unmarshal(v, to); err != nil {
		return false, fmt.Errorf("stored key %x: %w", k, err)
	}
	return true, nil
}

// A change is a batch in the making: findings and other writes, and the state as it will be. It belongs to m.stepping.
type change struct {
	m     *Monitor
	b     *pebble.Batch
	st    state
	found map[string]bool // IDs of findings in the batch
	later []*Finding      // about leaves other than the one at hand
	now   time.Time

	touched bool // something other than findings and state was written
}

// maxBatch is the size of batches that are used again. A window's has a megabyte or two.
const maxBatch = 4 << 20

func (m *Monitor) begin() *change {
	return &change{m: m, b: m.db.NewBatch(pebble.WithMaxRetainedSizeBytes(maxBatch)), st: m.st.clone(), found: make(map[string]bool), now: m.cfg.Now()}
}

// maxLeaves bounds the findings of one kind that carry their leaf: a log of bad records must not fill the disk. The log
// has the leaves, and the monitor their hashes.
const maxLeaves = 1000

// add writes a finding, unless it was written before, and returns its ID.
func (c *change) add(f *Finding) (string, error) {
	f.Log = c.st.Origin
	f.ID = f.id(f.Log)
	if c.found[f.ID] {
		return f.ID, nil
	}
	if _, ok, err := seqOf(c.m.db, f.ID); err != nil || ok {
		return f.ID, err
	}
	if f.Evidence != nil && c.st.Counts[f.Kind] >= maxLeaves {
		f.Evidence.Leaf, f.Evidence.Served = nil, nil
	}
	c.found[f.ID] = true
	c.st.Findings++
	c.st.Counts[f.Kind]++
	f.Seq, f.FoundAt = c.st.Findings, c.now.UTC()
	v, err := json.Marshal(f)
	if err != nil {
		return f.ID, err
	}
	id, err := hex.DecodeString(f.ID)
	if err != nil {
		return f.ID, err
	}
	if err := c.b.Set(key(prefixFinding, u64(f.Seq)), v, nil); err != nil {
		return f.ID, err
	}
	return f.ID, c.b.Set(key(prefixID, id), u64(f.Seq), nil)
}

// commit writes the batch with the state, and waits until it is durable.
func (c *change) commit() error {
	m := c.m
	v, err := json.Marshal(&c.st)
	if err != nil {
		return err
	}
	if err := c.b.Set([]byte{prefixState}, v, nil); err != nil {
		return err
	}
	if err := c.b.Commit(pebble.Sync); err != nil {
		// It may have been written, whatever was reported: what is in memory is worth nothing any more.
		m.failed = fmt.Errorf("database: %w; the monitor has to be opened again", err)
		return m.failed
	}
	m.st = c.st
	m.publish()
	return nil
}

// leaf adds the leaf to the evidence of a finding about a leaf.
func (f *Finding) leaf(raw []byte) *Finding {
	f.evidence().Leaf = raw
	return f
}

func setJSON(b *pebble.Batch, k []byte, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Set(k, raw, nil)
}
