package monitor

import (
	"testing"
	"time"
)

// The history has each checkpoint that the log has shown, as it was first seen, also after a restart, and it doesn't grow
// without bound: without the newest, one an hour, and of long ago one a day, the first each.
func TestHistory(t *testing.T) {
	l := newLab(t, witnesses)
	m := l.open()
	var sizes []uint64
	for range 3 {
		l.Filler(5)
		l.Tick(time.Second)
		l.Publish(l.Now)
		if err := m.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := m.Step(t.Context()); err != nil { // the same again
			t.Fatal(err)
		}
		sizes = append(sizes, l.Size())
	}
	all, err := m.Checkpoints(0, 100)
	if err != nil || len(all) != len(sizes) {
		t.Fatalf("%d checkpoints, want %d: %v", len(all), len(sizes), err)
	}
	for i, c := range all {
		checked, err := m.cfg.LogPolicy.Check([]byte(c.Note))
		if err != nil || checked.Size != c.Size || c.Size != sizes[len(sizes)-1-i] || Hash(checked.Root) != c.Root || c.At.IsZero() || c.Witnesses != 2 || c.First.IsZero() || c.Last.Before(c.First) {
			t.Errorf("checkpoint %d: %+v, %v", i, c, err)
		}
	}
	if before, err := m.Checkpoints(sizes[1], 100); err != nil || len(before) != 1 || before[0].Size != sizes[0] {
		t.Errorf("before %d: %v, %v", sizes[1], before, err)
	}
	if c, err := m.Checkpoint(sizes[1]); err != nil || c.Size != sizes[1] {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := m.Checkpoint(sizes[1] + 1); err != nil || c != nil {
		t.Errorf("one that wasn't there: %v, %v", c, err)
	}

	// Half a year in which the log shows a checkpoint each half hour.
	b := m.db.NewBatch()
	from := l.Now
	const days, step = 182, 30 * time.Minute
	for i := range uint64(days * 48) {
		if err := m.remember(b, seenCheckpoint{Size: 1000 + i, At: from.Add(time.Duration(i) * step), Note: "a note"}); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			if err := b.Commit(nil); err != nil {
				t.Fatal(err)
			}
			b = m.db.NewBatch()
		}
	}
	if err := b.Commit(nil); err != nil {
		t.Fatal(err)
	}
	b = m.db.NewBatch()
	now := from.Add(days * 24 * time.Hour)
	if err := m.thin(b, now); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(nil); err != nil {
		t.Fatal(err)
	}
	if all, err = m.Checkpoints(0, 1e6); err != nil {
		t.Fatal(err)
	}
	hours := int((historyHours - historyNewest*step) / time.Hour)
	if want := historyNewest + hours + days - int(historyHours/(24*time.Hour)); len(all) < want-10 || len(all) > want+10 {
		t.Errorf("%d checkpoints are kept, want about %d", len(all), want)
	}
	// The newest are all there, and the oldest of all is the first of its day.
	for i := range historyNewest {
		if all[i].Size != all[0].Size-uint64(i) {
			t.Fatalf("size %d is missing", all[0].Size-uint64(i))
		}
	}
	if last := all[len(all)-1]; last.Size != sizes[0] {
		t.Errorf("the oldest is of size %d, want %d", last.Size, sizes[0])
	}
	notes := 0
	it, err := m.db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if it.Key()[0] == prefixHistoryNote {
			notes++
		}
	}
	if err := it.Close(); err != nil || notes != len(all) {
		t.Errorf("%d notes of %d checkpoints, %v", notes, len(all), err)
	}
}
