package appraiser

import (
	"context"
	"errors"
	"testing"

	"github.com/affidavit-log/affidavit/client/monitor"
)

// A findings is a Monitor of which only findings and tiles are asked.
type findings struct {
	list []*monitor.Finding
	err  error
}

func (f *findings) Verified() (uint64, [32]byte, []byte)           { panic("not asked") }
func (f *findings) RootAt(uint64) ([32]byte, error)                { panic("not asked") }
func (f *findings) WaitVerified(context.Context, uint64) error     { panic("not asked") }
func (f *findings) Consistency(uint64, uint64) ([][32]byte, error) { panic("not asked") }
func (f *findings) Findings(after uint64, n int) ([]*monitor.Finding, error) {
	return f.list[after:min(int(after)+n, len(f.list))], f.err
}

// Tile has the hash of leaf i in its byte i.
func (f *findings) Tile(level uint8, n uint64, w int) ([]byte, error) {
	if level != 0 || w > 256 {
		return nil, errors.New("no such tile")
	}
	b := make([]byte, 32*w)
	for i := range w {
		b[32*i], b[32*i+1] = byte(n), byte(i)
	}
	return b, nil
}

// What a log may not hold is disputed; what its vendors, its operator or its witnesses did is not.
func TestFromMonitor(t *testing.T) {
	f := &findings{}
	index := uint64(0)
	add := func(k monitor.Kind, at bool) {
		x := &monitor.Finding{Seq: uint64(len(f.list)) + 1, Kind: k, ID: "id", Message: "it says \"this\""}
		if at {
			i := index
			x.Index = &i
		}
		index++
		f.list = append(f.list, x)
	}
	for _, k := range []monitor.Kind{monitor.KindTwoFinals, monitor.KindSequenceGap, monitor.KindDuplicateStatement, monitor.KindWatchVendor,
		monitor.KindReleaseWithdrawnUsed, monitor.KindStale, monitor.KindWideInterval, monitor.KindSplitView} {
		add(k, true)
	}
	add(monitor.KindInvalidRecord, false) // about no leaf
	for range findingsPage {
		add(monitor.KindUnpairedStart, true)
	}
	want := index
	add(monitor.KindInvalidRecord, true)
	add(monitor.KindUnparsable, true)
	s := FromMonitor(f)
	var ds []Dispute
	cursor := uint64(0)
	for {
		more, next, err := s.Disputes(cursor)
		if err != nil {
			t.Fatal(err)
		}
		if next == cursor {
			break
		}
		ds, cursor = append(ds, more...), next
	}
	if len(ds) != 2 || ds[0].Index != want || ds[1].Index != want+1 || ds[0].Reason != "invalid-record, finding id" {
		t.Fatalf("%+v", ds)
	}
	if h := ds[1].LeafHash; h[0] != byte((want+1)>>8) || h[1] != byte(want+1) {
		t.Errorf("leaf hash %x of leaf %d", h, want+1)
	}
	if cursor != uint64(len(f.list)) {
		t.Errorf("cursor %d of %d", cursor, len(f.list))
	}
	f.err = errors.New("gone")
	if _, _, err := s.Disputes(0); err == nil {
		t.Error("an error was lost")
	}
}
