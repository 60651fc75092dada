package report

import (
	"io"
	"runtime"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
)

// BenchmarkReport has what a report on one file costs, beside the check that it is about.
func BenchmarkReport(b *testing.B) {
	s := bundletest.NewSession(b, witnessed, bundletest.Steps{})
	raw, err := s.Bundle().Bytes()
	if err != nil {
		b.Fatal(err)
	}
	o := s.Options()
	parsed, err := bundle.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	m := metaFor(b, o, parsed)
	check := func(b *testing.B) *bundle.Finding {
		p, err := bundle.Parse(raw)
		if err != nil {
			b.Fatal(err)
		}
		f, err := bundle.Check(p, o) // a new checker each time, as the command has
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	f := check(b)
	r := Record(f, m)
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			check(b)
		}
	})
	b.Run("html", func(b *testing.B) {
		for b.Loop() {
			if err := Record(f, m).HTML(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pdf", func(b *testing.B) {
		for b.Loop() {
			if err := r.PDF(io.Discard, m.Files...); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			r := Record(check(b), m)
			if err := r.HTML(io.Discard); err != nil {
				b.Fatal(err)
			}
			if err := r.PDF(io.Discard, m.Files...); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkPeriod sums 100,000 sessions into a page and a PDF. The metric MB is the live heap while the tally is there.
func BenchmarkPeriod(b *testing.B) {
	o := bundletest.NewSession(b, witnessed, bundletest.Steps{}).Options()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		t := NewTally()
		for s := range sessions(100_000) {
			t.Add(s)
		}
		r, err := t.Report(Meta{Date: reportDate, LogPolicy: o.LogPolicy, Appraisal: o.Appraisal, Root: o.Root})
		if err != nil {
			b.Fatal(err)
		}
		if err := r.HTML(io.Discard); err != nil {
			b.Fatal(err)
		}
		if err := r.PDF(io.Discard); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(t)
		b.StartTimer()
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "MB")
}
