//go:build unix

package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/verifier"
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
// "json" is the baseline: encoding/json makes the same events, out of structs that are
// filled in already, on as many processors.
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
		before := cpuTime()
		if err := x.Run(b.Context(), src, out, new(Cursor)); err != nil {
			b.Fatal(err)
		}
		report(b, before)
		b.ReportMetric(float64(out.bytes)/float64(b.N), "B/record")
	})
	b.Run("json", func(b *testing.B) {
		var events []any
		OCSF{}.Events(nil, FromFinding(f), func(ev *Event) {
			d := json.NewDecoder(bytes.NewReader(ev.JSON))
			d.UseNumber()
			var v map[string]any
			if err := d.Decode(&v); err != nil {
				b.Fatal(err)
			}
			events = append(events, structOf(v).Interface())
		})
		b.ReportAllocs()
		before := cpuTime()
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
		report(b, before)
	})
}

// report gives the rate, and the processor time that a record takes, which doesn't
// depend on what else the machine does: two processors need at most 40 µs for 50,000
// records a second.
func report(b *testing.B, before time.Duration) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/record")
}

// cpuTime is the processor time that this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// structOf returns a struct with the members of a JSON value, as somebody would declare
// it who encodes such values with encoding/json.
func structOf(v any) reflect.Value {
	switch v := v.(type) {
	case map[string]any:
		var fields []reflect.StructField
		var values []reflect.Value
		for name, member := range v {
			value := structOf(member)
			fields = append(fields, reflect.StructField{Name: fmt.Sprintf("F%d", len(fields)), Type: value.Type(), Tag: reflect.StructTag(`json:"` + strings.ReplaceAll(name, `"`, "") + `"`)})
			values = append(values, value)
		}
		s := reflect.New(reflect.StructOf(fields)).Elem()
		for i, value := range values {
			s.Field(i).Set(value)
		}
		return s
	case []any:
		s := make([]any, len(v))
		for i := range v {
			s[i] = structOf(v[i]).Interface()
		}
		return reflect.ValueOf(s)
	case json.Number:
		n, _ := v.Int64()
		return reflect.ValueOf(n)
	}
	return reflect.ValueOf(v)
}

// TestMemory: memory doesn't grow with the number of records, in lines or in OSCAL's
// one document.
func TestMemory(t *testing.T) {
	const n = 20_000
	var early, late uint64
	live := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	src := func(yield func(*Item, error) bool) {
		for i := range n {
			switch i {
			case n / 10:
				early = live()
			case n - 1:
				late = live()
			}
			r := &Record{
				UID: fmt.Sprintf("%064x", i), Verdict: VerdictGood, VerifiedBy: ByBundle, Log: "log.example.org/2026", Index: uint64(i), Role: bundle.RoleFinal,
				Bundle: fmt.Sprintf("%d.affidavit", i), Models: []Model{{Provider: "p", Name: "m"}}, AdmittedAt: testTime,
				Claims: []verifier.Claim{{ID: "tee", Value: "no", Source: verifier.SourceHardware, Status: verifier.StatusFailed}},
			}
			if !yield(&Item{Load: func() (*Record, error) { return r, nil }}, nil) {
				return
			}
		}
	}
	check := func(what string) {
		t.Helper()
		// What is under way at once is a few hundred records of a few thousand bytes.
		if late > early+4<<20 {
			t.Errorf("%s: %d bytes after a tenth, %d at the end", what, early, late)
		}
	}
	if err := (&Exporter{Format: FormatOCSF}).Run(t.Context(), src, new(discard), new(Cursor)); err != nil {
		t.Fatal(err)
	}
	check("OCSF")
	d, err := NewOSCAL(OSCALOptions{At: testTime, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	x := &Exporter{Format: FormatOSCAL, Each: func(r *Record, _ *Finding) error { return d.Add(r) }}
	if err := x.Run(t.Context(), src, new(discard), new(Cursor)); err != nil {
		t.Fatal(err)
	}
	check("OSCAL")
	before := live()
	count := new(counter)
	if err := d.Write(count); err != nil {
		t.Fatal(err)
	}
	if early, late = before, live(); count.n < n*1000 {
		t.Errorf("a document of %d bytes for %d records", count.n, n)
	}
	check("writing OSCAL")
}

type counter struct{ n int }

func (c *counter) Write(b []byte) (int, error) { c.n += len(b); return len(b), nil }
