package monitor

import (
	"testing"

	"golang.org/x/mod/sumdb/tlog"
)

// OpenSynthetic returns a monitor whose index holds n made-up records, for what is built on top of it. It follows no log:
// what is in the leaves can't be asked for.
func OpenSynthetic(tb testing.TB, n int) *Monitor {
	l := newLab(tb, witnesses)
	m := l.open()
	x, err := newIndexer(m.db)
	if err != nil {
		tb.Fatal(err)
	}
	s := &synth{db: m.db, x: x}
	s.fill(tb, n, false)
	tree, err := openTree(m.db, 0)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range s.size {
		tree.append(tlog.Hash(made('l', i)))
	}
	b := m.db.NewBatch()
	if err := tree.write(b); err != nil {
		tb.Fatal(err)
	}
	if err := b.Commit(nil); err != nil {
		tb.Fatal(err)
	}
	m.st.Audited = s.size
	m.st.Checkpoint.Size, m.st.Newest.Size = s.size, s.size
	m.publish()
	return m
}
