package webui

import (
	"fmt"
	"net/http"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

type checkpointsView struct {
	Rows     []*monitor.Checkpoint
	Verified uint64
	Older    string // link
}

// checkpointsPage lists the checkpoints that the monitor has seen, the largest first.
func (u *UI) checkpointsPage(r *http.Request) (*answer, error) {
	q, err := parameters(r, "before")
	if err != nil {
		return nil, err
	}
	before := uint64(0)
	if s := q.Get("before"); s != "" {
		if before, err = parseIndex(s); err != nil {
			return nil, err
		}
	}
	v := &checkpointsView{Verified: u.cfg.Monitor.Status().Verified}
	if v.Rows, err = u.cfg.Monitor.Checkpoints(before, shownRecords+1); err != nil {
		return nil, err
	}
	if len(v.Rows) > shownRecords {
		v.Rows = v.Rows[:shownRecords]
		v.Older = fmt.Sprintf("/checkpoints?before=%d", v.Rows[shownRecords-1].Size)
	}
	return u.answer("checkpoints", &layout{Title: "Checkpoints", Section: "log", Live: before == 0}, v)
}

type checkpointView struct {
	*monitor.Checkpoint
	Verified     bool
	Cosignatures []checkpoint.Cosignature
	Silent       []string // witnesses of the log policy that hadn't cosigned it
	Problem      string   // why it doesn't satisfy the log policy that is in force now
	Older        *monitor.Checkpoint
}

// checkpointPage shows one checkpoint, and who vouched for it.
func (u *UI) checkpointPage(r *http.Request) (*answer, error) {
	if err := noParameters(r); err != nil {
		return nil, err
	}
	size, err := parseIndex(r.PathValue("size"))
	if err != nil {
		return nil, err
	}
	c, err := u.cfg.Monitor.Checkpoint(size)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, fmt.Errorf("%w: the monitor has no checkpoint of size %d; it keeps those that it has seen, of long ago one a day", errNotFound, size)
	}
	v := &checkpointView{Checkpoint: c, Verified: size <= u.cfg.Monitor.Status().Verified}
	checked, err := u.cfg.LogPolicy.Check([]byte(c.Note))
	if err != nil {
		v.Problem = sentence(err.Error())
	} else {
		v.Cosignatures = checked.Cosignatures
		seen := make(map[string]bool)
		for _, s := range checked.Cosignatures {
			seen[s.Witness] = true
		}
		for _, w := range u.cfg.LogPolicy.Witnesses() {
			if !seen[w.Name] {
				seen[w.Name] = true
				v.Silent = append(v.Silent, w.Name)
			}
		}
	}
	older, err := u.cfg.Monitor.Checkpoints(size, 1)
	if err != nil {
		return nil, err
	}
	if len(older) > 0 {
		v.Older = older[0]
	}
	return u.answer("checkpoint", &layout{Title: fmt.Sprintf("Checkpoint of size %d", size), Section: "log"}, v)
}
