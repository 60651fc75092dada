package main

import (
	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/monitor/appraiser"
	"github.com/affidavit-log/affidavit/log/record"
)

// disputed are the kinds of findings about a leaf that a log which follows its rules wouldn't have. What vendors do
// wrong, such as two ends of a session, is for whoever relies on the record: the log is right to hold it.
var disputed = map[monitor.Kind]bool{
	monitor.KindUnparsable:        true,
	monitor.KindUnsupported:       true, // it wasn't verified
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

// audited is a monitor as the source of an appraiser.
type audited struct{ *monitor.Monitor }

// Disputes implements [appraiser.Source]. The cursor is a finding's sequence number.
func (a audited) Disputes(cursor uint64) (ds []appraiser.Dispute, next uint64, err error) {
	page, err := a.Findings(cursor, 100)
	if err != nil {
		return nil, cursor, err
	}
	for _, f := range page {
		cursor = f.Seq
		if f.Index == nil || !disputed[f.Kind] {
			continue
		}
		n := *f.Index
		tile, err := a.Tile(0, n/256, int(n%256)+1)
		if err != nil {
			return nil, cursor, err
		}
		d := appraiser.Dispute{Index: n, Reason: string(f.Kind) + ": " + f.Message}
		copy(d.LeafHash[:], tile[len(tile)-len(record.Digest{}):])
		ds = append(ds, d)
	}
	return ds, cursor, nil
}
