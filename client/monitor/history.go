package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// How much of the history is kept: the newest checkpoints, then the first that was seen in each hour, and before that in
// each day. A note has some kilobytes, and a busy log a new one each second: with six witnesses, the newest take some
// 20 MB, and a year 50 MB more.
const (
	historyNewest = 1000
	historyHours  = 90 * 24 * time.Hour
	historySize   = 8 + 32 + 1 + 8 + 8 // of a value, see remember
	historyThin   = 100                // checkpoints between two times that what is too much is looked for
)

// A Checkpoint is one that the log has shown, that satisfies the log policy, and that continues what was seen before.
type Checkpoint struct {
	Size uint64    `json:"size"`
	Root Hash      `json:"root"`
	At   time.Time `json:"at"`   // when the monitor first saw it, by its clock
	Note string    `json:"note"` // as it was first seen, with the cosignatures that it had then

	// Witnesses is how many of the log policy's had cosigned it, and First and Last when, by their clocks.
	Witnesses int       `json:"witnesses"`
	First     time.Time `json:"first,omitzero"`
	Last      time.Time `json:"last,omitzero"`
}

// Checkpoints returns up to limit of the checkpoints that the monitor has seen and kept, the largest first, of sizes below
// before; 0 is no bound.
func (m *Monitor) Checkpoints(before uint64, limit int) ([]*Checkpoint, error) {
	o := &pebble.IterOptions{LowerBound: []byte{prefixHistory}, UpperBound: []byte{prefixHistory + 1}}
	if before > 0 {
		o.UpperBound = key(prefixHistory, u64(before))
	}
	db := m.db.NewSnapshot() // a note may be removed meanwhile
	defer db.Close()
	it, err := db.NewIter(o)
	if err != nil {
		return nil, err
	}
	defer it.Close()
	var all []*Checkpoint
	for ok := it.Last(); ok && len(all) < limit; ok = it.Prev() {
		c, err := decodeHistory(db, it.Key(), it.Value())
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, it.Error()
}

// Checkpoint returns the kept checkpoint of a size, nil if there is none.
func (m *Monitor) Checkpoint(size uint64) (*Checkpoint, error) {
	db := m.db.NewSnapshot()
	defer db.Close()
	k := key(prefixHistory, u64(size))
	v, closer, err := db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return decodeHistory(db, k, v)
}

func decodeHistory(db pebble.Reader, k, v []byte) (*Checkpoint, error) {
	if len(k) != 9 || len(v) != historySize {
		return nil, fmt.Errorf("stored key %x is damaged", k)
	}
	c := &Checkpoint{Size: binary.BigEndian.Uint64(k[1:]), Root: Hash(v[8:40]), At: historyTime(v), Witnesses: int(v[40])}
	if first, last := binary.BigEndian.Uint64(v[41:]), binary.BigEndian.Uint64(v[49:]); last > 0 {
		c.First, c.Last = time.Unix(int64(first), 0).UTC(), time.Unix(int64(last), 0).UTC()
	}
	note, closer, err := db.Get(key(prefixHistoryNote, k[1:]))
	if err != nil {
		return nil, fmt.Errorf("note of the checkpoint of size %d: %w", c.Size, err)
	}
	defer closer.Close()
	c.Note = string(note)
	return c, nil
}

func historyTime(v []byte) time.Time { return time.UnixMilli(int64(binary.BigEndian.Uint64(v))).UTC() }

// remember adds a checkpoint to the history, in the batch that makes it the newest.
func (m *Monitor) remember(b *pebble.Batch, seen seenCheckpoint) error {
	names := make(map[string]bool)
	var first, last int64
	if checked, err := m.cfg.LogPolicy.Check([]byte(seen.Note)); err == nil {
		for _, c := range checked.Cosignatures {
			names[c.Witness] = true
			if t := c.Time.Unix(); !c.Time.IsZero() {
				if first == 0 || t < first {
					first = t
				}
				last = max(last, t)
			}
		}
	}
	v := append(u64(uint64(seen.At.UnixMilli())), seen.Root[:]...)
	v = append(append(append(v, byte(min(len(names), 255))), u64(uint64(first))...), u64(uint64(last))...)
	if err := b.Set(key(prefixHistory, u64(seen.Size)), v, nil); err != nil {
		return err
	}
	if err := b.Set(key(prefixHistoryNote, u64(seen.Size)), []byte(seen.Note), nil); err != nil {
		return err
	}
	if m.remembered++; m.remembered%historyThin != 1 {
		return nil
	}
	return m.thin(b, seen.At)
}

// thin removes what is too much of the history. Times and notes are apart, so that only the former are read.
func (m *Monitor) thin(b *pebble.Batch, now time.Time) error {
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixHistory}, UpperBound: []byte{prefixHistory + 1}})
	if err != nil {
		return err
	}
	defer it.Close()
	// From the newest to the oldest: one goes if the one before it, in time, is of the same hour or day.
	var last []byte
	var slot time.Time
	n := 0
	for ok := it.Last(); ok; ok = it.Prev() {
		if n++; n <= historyNewest {
			continue
		}
		k, v := append([]byte(nil), it.Key()...), it.Value()
		if len(k) != 9 || len(v) != historySize {
			return fmt.Errorf("stored key %x is damaged", k)
		}
		at, step := historyTime(v), time.Hour
		if now.Sub(at) > historyHours {
			step = 24 * time.Hour
		}
		if s := at.Truncate(step); last != nil && s.Equal(slot) {
			if err := b.Delete(last, nil); err != nil {
				return err
			}
			if err := b.Delete(key(prefixHistoryNote, last[1:]), nil); err != nil {
				return err
			}
		} else {
			slot = s
		}
		last = k
	}
	return it.Error()
}
