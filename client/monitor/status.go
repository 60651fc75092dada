package monitor

import (
	"time"
)

// A Status says how a monitor is doing.
type Status struct {
	Log string `json:"log"` // origin

	// Verified is the size of the newest checkpoint of which everything is audited, Root its root, and Audited the number of
	// leaves that are. Published is the size of the newest checkpoint that the log has shown.
	Verified  uint64 `json:"verified"`
	Root      Hash   `json:"root"`
	Audited   uint64 `json:"audited"`
	Published uint64 `json:"published"`

	// Lag is the number of published leaves that are not audited yet; Rate is how many were audited a second during this
	// catch-up, and Remaining how many seconds the rest will take. Both are zero when there is nothing to catch up with.
	Lag       uint64  `json:"lag"`
	Rate      float64 `json:"rate,omitempty"`
	Remaining float64 `json:"remaining_seconds,omitempty"`

	// Halted is the ID of the tamper finding that keeps the monitor from going on: it polls, and goes on by itself if the
	// log continues what was audited. It is empty if there is none.
	Halted string `json:"halted,omitempty"`

	Findings   uint64              `json:"findings"` // the newest sequence number
	ByClass    map[Class]uint64    `json:"by_class"`
	ByKind     map[Kind]uint64     `json:"by_kind"`
	BySeverity map[Severity]uint64 `json:"by_severity"`

	LastPoll    time.Time `json:"last_poll,omitzero"`    // when the last poll ended
	LastContact time.Time `json:"last_contact,omitzero"` // when the log last showed a good checkpoint
	LogClock    time.Time `json:"log_clock,omitzero"`    // the largest time in an audited leaf
	Error       string    `json:"error,omitempty"`       // why the last poll didn't end as it should
	Failures    uint64    `json:"failures,omitempty"`    // polls since the monitor was opened that didn't

	Witnesses []WitnessStatus `json:"witnesses,omitempty"`
}

// A WitnessStatus says what a witness has shown.
type WitnessStatus struct {
	Name  string    `json:"name"`
	Size  uint64    `json:"size"`            // of the newest checkpoint that it has shown
	Seen  time.Time `json:"seen,omitzero"`   // when it last showed one
	Error string    `json:"error,omitempty"` // why it didn't at the last poll
}

// Status returns how the monitor is doing.
func (m *Monitor) Status() Status {
	v := m.changed()
	s := Status{
		Log: v.Origin, Verified: v.Checkpoint.Size, Root: v.Checkpoint.Root, Audited: v.Audited, Published: v.Newest.Size,
		Lag: v.Newest.Size - v.Audited, Halted: v.Standing, Findings: v.Findings, LastContact: v.Contact,
		ByClass: make(map[Class]uint64), ByKind: make(map[Kind]uint64), BySeverity: make(map[Severity]uint64),
	}
	for k, n := range v.Counts {
		s.ByKind[k] = n
		s.ByClass[kinds[k].class] += n
		s.BySeverity[kinds[k].severity] += n
	}
	if v.Clock > 0 {
		s.LogClock = time.UnixMilli(v.Clock).UTC()
	}
	m.live.Lock()
	defer m.live.Unlock()
	s.LastPoll, s.Failures = m.live.lastPoll, m.live.failures
	if m.live.err != nil {
		s.Error = m.live.err.Error()
	}
	if s.Lag > 0 && m.live.rate > 0 {
		s.Rate, s.Remaining = m.live.rate, float64(s.Lag)/m.live.rate
	}
	for _, w := range m.cfg.Witnesses {
		ws := m.live.witness[w.Name]
		ws.Name = w.Name
		s.Witnesses = append(s.Witnesses, ws)
	}
	return s
}
