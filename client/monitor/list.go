package monitor

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// A list goes through the indices of a posting list, in the log's order. It begins before the first one: seek comes first.
// It has to be closed.
type list struct {
	p  postings
	it *pebble.Iterator
	hi uint64 // where it ends

	index  uint64  // the one that it is at
	recall []byte  // what recallValue says of that, for lists that have it; good until the next call
	rest   []byte  // of the part
	in     bool    // it is at an index, or was at a part's last
	shared *reader // whose iterator it is, which has no bounds of this list; nil if it is the list's own
	err    error
}

// list returns a reader of the indices below hi in a posting list.
func (r *reader) list(p postings, hi uint64) (*list, error) {
	it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: p.at(0), UpperBound: p.at(hi)})
	if err != nil {
		return nil, err
	}
	return &list{p: p, it: it, hi: hi}, nil
}

// shortList is list for looking at an index or two, which is less work than to make an iterator: it uses one that the reader
// keeps, if no other list does.
func (r *reader) shortList(p postings, hi uint64) (*list, error) {
	if r.listing {
		return r.list(p, hi)
	}
	if r.lists == nil {
		it, err := r.db.NewIter(&pebble.IterOptions{LowerBound: []byte{prefixKey}, UpperBound: []byte{prefixKey + 1}})
		if err != nil {
			return nil, err
		}
		r.lists = it
	}
	r.listing = true
	return &list{p: p, it: r.lists, hi: hi, shared: r}, nil
}

// close returns the error that the list ended with, if there was one.
func (l *list) close() error {
	if l.shared != nil {
		l.shared.listing = false
		return l.err
	}
	return errors.Join(l.err, l.it.Close())
}

// next goes on by one index. It reports false after the last, and for an error.
func (l *list) next() bool {
	if !l.in || l.err != nil {
		return false
	}
	if len(l.rest) == 0 {
		return l.load(l.it.Next())
	}
	d := &decoder{b: l.rest}
	before := l.index
	if l.index += d.uvarint(); l.index <= before {
		d.bad = true
	}
	return l.take(d)
}

// load goes to the first index of the part that the iterator is at, if it is at one.
func (l *list) load(valid bool) bool {
	l.in = valid
	if !valid {
		l.err = l.it.Error()
		return false
	}
	if k := l.it.Key(); l.shared != nil && !bytes.HasPrefix(k, l.p[:]) { // the end of this list
		l.in = false
		return false
	}
	v, err := l.it.ValueAndErr()
	if err != nil {
		l.err = err
		return false
	}
	l.index = binary.BigEndian.Uint64(l.it.Key()[len(l.p):])
	return l.take(&decoder{b: v})
}

// take reads what comes with an index.
func (l *list) take(d *decoder) bool {
	if recalls(l.p[1]) {
		all := d.b
		switch what := d.byte(); {
		case what == 2:
			d.take(16)
		case what > 2:
			d.bad = true
		}
		l.recall = all[:len(all)-len(d.b)]
	}
	if l.rest = d.b; d.bad {
		l.err = fmt.Errorf("stored list %x is damaged after record %d", l.p[:], l.index)
		return false
	}
	return l.index < l.hi
}

// seek goes to the first index from at on, which mustn't be lower than where the list is. It reports false if there is
// none, and for an error.
func (l *list) seek(at uint64) bool {
	// It may be in this part. Others are looked for: that takes as long as some hundred indices.
	for l.in && l.err == nil {
		if l.index >= at {
			return l.index < l.hi
		}
		if len(l.rest) == 0 {
			break
		}
		if !l.next() {
			return false
		}
	}
	if l.err != nil || at >= l.hi {
		return false
	}
	// The last part that begins by then, or else the first one after it.
	ok := l.it.SeekLT(l.p.at(at + 1))
	if !ok || l.shared != nil && !bytes.HasPrefix(l.it.Key(), l.p[:]) {
		ok = l.it.SeekGE(l.p.at(0))
	}
	for ok = l.load(ok); ok; ok = l.next() {
		if l.index >= at {
			return true
		}
	}
	return false
}
