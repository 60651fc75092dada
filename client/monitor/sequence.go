package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/affidavit-log/affidavit/log/record"
)

// A sequence is which numbers a vendor's sessions for a tenant in a month have used. They start with 1 and leave none
// out, by the vendor's assertion; sessions that run at the same time may be logged in another order.
type sequence struct {
	Vendor string `json:"v"`
	Tenant Hash   `json:"t"`
	Month  string `json:"m"`

	// Next is the smallest number that hasn't come, and Ahead the ranges beyond it that have, in order, with gaps between.
	Next  uint64      `json:"n"`
	Ahead [][2]uint64 `json:"a,omitempty"`
	// Missed are ranges below Next that were reported as missing.
	Missed [][2]uint64 `json:"g,omitempty"`
	// Due says that the first gap will be looked at.
	Due bool `json:"d,omitempty"`

	changed bool
}

// maxRanges bounds the ranges of a sequence. Beyond it, the oldest gaps are reported at once, or forgotten.
const maxRanges = 256

// use marks a number as used, and reports false if it was already.
func (s *sequence) use(n uint64) bool {
	s.changed = true
	if n < s.Next {
		for i, r := range s.Missed {
			if n < r[0] || n > r[1] {
				continue
			}
			var rest [][2]uint64
			if n > r[0] {
				rest = append(rest, [2]uint64{r[0], n - 1})
			}
			if n < r[1] {
				rest = append(rest, [2]uint64{n + 1, r[1]})
			}
			s.Missed = slices.Replace(s.Missed, i, i+1, rest...)
			return true
		}
		return false
	}
	i, found := slices.BinarySearchFunc(s.Ahead, n, func(r [2]uint64, n uint64) int {
		switch {
		case r[1] < n:
			return -1
		case r[0] > n:
			return 1
		}
		return 0
	})
	if found {
		return false
	}
	s.Ahead = slices.Insert(s.Ahead, i, [2]uint64{n, n})
	if i+1 < len(s.Ahead) && s.Ahead[i+1][0] == n+1 {
		s.Ahead[i][1] = s.Ahead[i+1][1]
		s.Ahead = slices.Delete(s.Ahead, i+1, i+2)
	}
	if i > 0 && s.Ahead[i-1][1] == n-1 {
		s.Ahead[i-1][1] = s.Ahead[i][1]
		s.Ahead = slices.Delete(s.Ahead, i, i+1)
	}
	if s.Ahead[0][0] == s.Next {
		s.Next = s.Ahead[0][1] + 1
		s.Ahead = slices.Delete(s.Ahead, 0, 1)
	}
	return true
}

// miss gives up on the first gap, and returns it.
func (s *sequence) miss() (gap [2]uint64) {
	s.changed = true
	gap = [2]uint64{s.Next, s.Ahead[0][0] - 1}
	s.Next = s.Ahead[0][1] + 1
	s.Ahead = slices.Delete(s.Ahead, 0, 1)
	s.Missed = append(s.Missed, gap)
	if len(s.Missed) > maxRanges {
		s.Missed = slices.Delete(s.Missed, 0, len(s.Missed)-maxRanges)
	}
	return gap
}

// sequence audits the number of a session.
func (a *audit) sequence(c *change, it *item, info *record.SessionInfo) error {
	if info.Sequence == 0 {
		return nil
	}
	vendor := it.entry().Statement().Vendor
	id := hashed(vendor, string(info.Tenant[:]), info.TenantEpoch)
	s, err := a.readSequence(id)
	if err != nil {
		return err
	}
	if s == nil {
		s = &sequence{Vendor: vendor, Tenant: Hash(info.Tenant), Month: info.TenantEpoch, Next: 1}
		a.sequences[string(id)] = s
	}
	if !s.use(info.Sequence) {
		it.finding(KindSequenceTwice, "", "record %d starts session %d of tenant %x in %s, a number that another session of vendor %s had before", it.index, info.Sequence, info.Tenant, info.TenantEpoch, clean(vendor))
		return nil
	}
	if len(s.Ahead) > maxRanges {
		a.gap(c, s)
	}
	return a.watchGap(c, s, id)
}

// watchGap has the first gap looked at when its grace is over.
func (a *audit) watchGap(c *change, s *sequence, id []byte) error {
	if s.Due || len(s.Ahead) == 0 {
		return nil
	}
	s.Due, s.changed = true, true
	return c.b.Set(dueKey(c.st.Clock+a.m.cfg.SequenceGrace.Milliseconds(), dueGap, id), u64(0), nil)
}

// dueGap reports the first gap of a sequence, if it is still there.
func (a *audit) dueGap(c *change, id []byte) error {
	s, err := a.readSequence(id)
	if err != nil || s == nil {
		return err
	}
	s.Due, s.changed = false, true
	if len(s.Ahead) > 0 {
		a.gap(c, s)
	}
	return a.watchGap(c, s, id)
}

func (a *audit) gap(c *change, s *sequence) {
	g := s.miss()
	what := fmt.Sprintf("session %d", g[0])
	if g[1] > g[0] {
		what = fmt.Sprintf("sessions %d to %d", g[0], g[1])
	}
	c.later = append(c.later, newFinding(KindSequenceGap, fmt.Sprintf("%q %v %s %d", s.Vendor, s.Tenant, s.Month, g[0]),
		"the start of %s of tenant %v in %s isn't in the log, but later numbers of vendor %s are", what, s.Tenant, s.Month, clean(s.Vendor)).
		with("vendor", clean(s.Vendor)).with("tenant", s.Tenant.String()))
}

// readSequence returns what is known of a sequence, nil if nothing. It is the batch's own.
func (a *audit) readSequence(id []byte) (*sequence, error) {
	if s, ok := a.sequences[string(id)]; ok {
		return s, nil
	}
	v, closer, err := a.m.db.Get(key(prefixSequence, id))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	s := new(sequence)
	if err := json.Unmarshal(v, s); err != nil {
		return nil, fmt.Errorf("stored sequence: %w", err)
	}
	a.sequences[string(id)] = s
	return s, nil
}

func (a *audit) writeSequences(c *change) error {
	for id, s := range a.sequences {
		if !s.changed {
			continue
		}
		v, err := json.Marshal(s)
		if err != nil {
			return err
		}
		if err := c.b.Set(key(prefixSequence, []byte(id)), v, nil); err != nil {
			return err
		}
	}
	return nil
}
