package session

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
)

// cpu returns a function that reports the processor time of each operation since, which other processes on the machine
// change less than the time that passes.
func cpu(b *testing.B) func(operations int) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func(operations int) {
		b.ReportMetric(float64((used()-before).Nanoseconds())/float64(operations), "cpu-ns/action")
	}
}

// BenchmarkAction is what an action costs the agent, beside what the system alone takes to put as many bytes into the
// journal's file system and to hash them. Run both together: machines differ.
func BenchmarkAction(b *testing.B) {
	l := newLab(b)
	c := l.config()
	a := action(1)
	delete(a.Attributes, "gen_ai.response.finish_reasons")
	b.Run("action", func(b *testing.B) {
		s := l.start(c)
		b.ReportAllocs()
		report := cpu(b)
		for b.Loop() {
			if _, err := s.Action(a); err != nil {
				b.Fatal(err)
			}
		}
		report(int(s.Count()))
		b.ReportMetric(float64(s.l.j.size)/float64(s.Count()), "journal-B/op")
		s.Remove()
	})
	// The fastest of many short spells says what an action costs on a machine that others use, too: what they do only
	// ever adds time. The baseline is what no recorder can do without: one write of as many bytes, and two hashes.
	b.Run("fastest spell", func(b *testing.B) {
		s := l.start(c)
		defer s.Remove()
		f, err := os.Create(filepath.Join(c.Dir, "spell"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		data := make([]byte, 664)
		var at int64
		const n = 50
		best := [2]time.Duration{time.Hour, time.Hour}
		for b.Loop() {
			begun := time.Now()
			for range n {
				if _, err := s.Action(a); err != nil {
					b.Fatal(err)
				}
			}
			middle := time.Now()
			for range n {
				sha256.Sum256(data)
				sha256.Sum256(data[:100])
				if _, err := f.WriteAt(data, at); err != nil {
					b.Fatal(err)
				}
				at += int64(len(data))
			}
			best[0], best[1] = min(best[0], middle.Sub(begun)), min(best[1], time.Since(middle))
		}
		b.ReportMetric(float64(best[0].Nanoseconds())/n, "ns/action")
		b.ReportMetric(float64(best[1].Nanoseconds())/n, "ns/baseline")
		b.ReportMetric(float64(best[0])/float64(best[1]), "actions/baseline")
	})
	b.Run("batch of 64", func(b *testing.B) {
		s := l.start(c)
		as := make([]Action, 64)
		for i := range as {
			as[i] = a
		}
		b.ReportAllocs()
		report := cpu(b)
		for b.Loop() {
			if _, err := s.Actions(as); err != nil {
				b.Fatal(err)
			}
		}
		report(int(s.Count()))
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(s.Count()), "ns/action")
		s.Remove()
	})
	b.Run("baseline write and hash", func(b *testing.B) {
		f, err := os.Create(filepath.Join(c.Dir, "baseline"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		data := make([]byte, 700)
		var at int64
		report := cpu(b)
		for b.Loop() {
			sha256.Sum256(data)
			if _, err := f.WriteAt(data, at); err != nil {
				b.Fatal(err)
			}
			at += int64(len(data))
		}
		report(b.N)
	})
	b.Run("baseline record.Action.Marshal", func(b *testing.B) {
		doc := &record.Action{Session: record.SessionID{1}, Time: l.Now, TraceID: [16]byte{1}, SpanID: a.SpanID, Outcome: "executed",
			Arguments: &record.Digest{}, Result: &record.Digest{}, Attributes: map[string]any{record.AttrOperationName: "chat", "gen_ai.tool.name": "x", "server.ok": true}}
		report := cpu(b)
		for b.Loop() {
			if _, err := doc.Marshal(); err != nil {
				b.Fatal(err)
			}
		}
		report(b.N)
	})
}

// BenchmarkFinish is what the end of a session of 10,000 actions takes without quote and network: the root, the final
// statement, its signature, and the owner's file.
func BenchmarkFinish(b *testing.B) {
	l := newLab(b)
	s := l.start(l.config())
	for i := range 100 {
		as := make([]Action, 100)
		for k := range as {
			as[k] = action(100*i + k)
		}
		if _, err := s.Actions(as); err != nil {
			b.Fatal(err)
		}
	}
	f := s.l.start.entry.Statement().Start.Freshness
	f.Size = s.l.start.index + 1
	for b.Loop() {
		payload, err := s.final(good, f, record.Environment{}, nil).Marshal()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := record.SignEntry(record.ProfileStatement, payload, s.l.key, record.NewQuoteEvidence([]byte{1})); err != nil {
			b.Fatal(err)
		}
		if err := s.WriteFile(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMemory: a session of many actions takes no more memory than one of few.
func TestMemory(t *testing.T) {
	l := newLab(t)
	s := l.start(l.config())
	as := make([]Action, 1000)
	for i := range as {
		as[i] = action(i)
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	if _, err := s.Actions(as); err != nil {
		t.Fatal(err)
	}
	before := heap()
	for range 50 {
		if _, err := s.Actions(as); err != nil {
			t.Fatal(err)
		}
	}
	// 50,000 hashes would be 1.6 MB, and the documents 40 MB.
	if after := heap(); after > before+1<<20 {
		t.Errorf("%s for 50,000 actions", fmt.Sprint(after-before, " bytes"))
	}
	if s.Count() != 51000 {
		t.Errorf("%d actions", s.Count())
	}
}
