package appraiser

import (
	"context"
	"fmt"

	"github.com/affidavit-log/affidavit/client/monitor"
)

// A Monitor is what [FromMonitor] takes: a *monitor.Monitor.
type Monitor interface {
	Verified() (size uint64, root [32]byte, note []byte)
	RootAt(size uint64) ([32]byte, error)
	WaitVerified(ctx context.Context, size uint64) error
	Consistency(from, to uint64) ([][32]byte, error)
	Tile(level uint8, n uint64, w int) ([]byte, error)
	Findings(after uint64, limit int) ([]*monitor.Finding, error)
}

// disputing are the kinds of findings that keep trees with the entry from being cosigned: what a log that keeps to the
// admission rules doesn't hold, whatever its vendors do. Two ends of a session, a gap in a numbering or a withdrawn
// release say something about a vendor; if they counted here, any vendor could stop the appraiser. README.md has the same
// list.
var disputing = map[monitor.Kind]bool{
	monitor.KindUnparsable:        true,
	monitor.KindUnsupported:       true, // it could not be verified
	monitor.KindInvalidRecord:     true,
	monitor.KindUnknownKey:        true,
	monitor.KindFreshness:         true,
	monitor.KindBadTimeLeaf:       true,
	monitor.KindWrongCollateral:   true,
	monitor.KindCollateralLate:    true,
	monitor.KindCollateralInvalid: true,
	monitor.KindCollateralBlob:    true,
	monitor.KindCollateralRegress: true,
}

// FromMonitor returns the Source that a monitor is. Its method Run must be running.
func FromMonitor(m Monitor) Source { return source{m} }

type source struct{ Monitor }

// findingsPage is how many findings are read at once.
const findingsPage = 256

// Disputes implements Source. The cursor is the sequence number of the last finding that was read.
func (s source) Disputes(cursor uint64) ([]Dispute, uint64, error) {
	found, err := s.Findings(cursor, findingsPage)
	if err != nil {
		return nil, 0, err
	}
	var ds []Dispute
	for _, f := range found {
		cursor = f.Seq
		if f.Index == nil || !disputing[f.Kind] {
			continue
		}
		const width = 256
		n, w := *f.Index/width, int(*f.Index%width)+1
		tile, err := s.Tile(0, n, w)
		if err != nil {
			return nil, 0, fmt.Errorf("hash of leaf %d: %w", *f.Index, err)
		}
		// The message may quote the entry; the kind and the finding's ID say enough for the public.
		ds = append(ds, Dispute{Index: *f.Index, LeafHash: [32]byte(tile[32*(w-1):]), Reason: fmt.Sprintf("%s, finding %s", f.Kind, f.ID)})
	}
	return ds, cursor, nil
}
