package export

import (
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
)

// discard is an Output that counts.
type discard struct{ lines, bytes int }

func (d *discard) Write(lines []Line) error {
	for _, l := range lines {
		d.lines++
		d.bytes += len(l.Data)
	}
	return nil
}
func (d *discard) Commit(Cursor) error { return nil }
func (d *discard) Close() error        { return nil }

// BenchmarkOCSF exports verified findings of whole sessions: per record five events.
// "json" is the baseline: the same events by encoding/json, from maps that are there
// already, on as many processors.
func BenchmarkOCSF(b *testing.B) {
	s := bundletest.NewSession(b, bundletest.LogOptions{Witnesses: 3, Threshold: 2}, bundletest.Steps{})
	f, err := bundle.Check(s.Bundle(), s.Options())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("affidavit", func(b *testing.B) {
		b.ReportAllocs()
		out := new(discard)
		item := &Item{Load: func() (*Record, error) { return FromFinding(f), nil }}
		src := func(yield func(*Item, error) bool) {
			for range b.N {
				if !yield(item, nil) {
					return
				}
			}
		}
		x := &Exporter{Format: FormatOCSF}
		if err := x.Run(b.Context(), src, out, new(Cursor)); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
		b.ReportMetric(float64(out.bytes)/float64(b.N), "B/record")
	})
	b.Run("json", func(b *testing.B) {
		var events []map[string]any
		OCSF{}.Events(nil, FromFinding(f), func(ev *Event) {
			d := json.NewDecoder(bytes.NewReader(ev.JSON))
			d.UseNumber()
			var v map[string]any
			if err := d.Decode(&v); err != nil {
				b.Fatal(err)
			}
			events = append(events, v)
		})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			e := json.NewEncoder(io.Discard)
			for pb.Next() {
				for _, v := range events {
					if err := e.Encode(v); err != nil {
						b.Error(err)
						return
					}
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	})
}
