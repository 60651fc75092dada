//go:build unix

package monitor

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/record"
)

// writeLog writes a log's files as a mirror keeps them.
func (l *lab) writeLog(dir string) {
	l.t.Helper()
	put := func(path string, b []byte) {
		name := filepath.Join(dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	size := l.Size()
	var hashes []tlog.Hash
	for level := 0; size>>(8*level) > 0; level++ {
		n := size >> (8 * level)
		var up []tlog.Hash
		for t := uint64(0); t*width < n; t++ {
			w := min(n-t*width, width)
			if level == 0 {
				var entries []byte
				for i := t * width; i < t*width+w; i++ {
					leaf := l.Leaf(i)
					entries = append(binary.BigEndian.AppendUint16(entries, uint16(len(leaf))), leaf...)
					hashes = append(hashes, tlog.Hash(record.LeafHash(leaf)))
				}
				put(client.EntriesPath(t, int(w)), entries)
			}
			tile := hashes[t*width : t*width+w]
			put(client.TilePath(level, t, int(w)), joinHashes(tile))
			if w == width {
				up = append(up, reduce(append([]tlog.Hash(nil), tile...)))
			}
		}
		hashes = up
	}
	for _, b := range l.Set.Components() {
		d := sha256.Sum256(b)
		put(fmt.Sprintf("blob/%x", d), b)
	}
	put("checkpoint", l.Publish(l.Now))
}

// BenchmarkAudit audits a log of sessions (start and final) from local files, on all processors, and compares that with
// the verifications which nobody can do without: two P-256 and one Ed25519 a record, on all processors as well.
func BenchmarkAudit(b *testing.B) {
	const sessions, together = 3000, 250
	l := newLab(b, witnesses)
	records := 0
	for range sessions / together {
		var started []session
		for range together {
			l.another()
			started = append(started, session{start: l.AddStart(), number: l.sessions})
		}
		l.Tick(2 * time.Second)
		l.AddTime()
		for _, s := range started {
			l.name(s.number)
			l.AddFinal(s.start, nil)
		}
		l.Tick(2 * time.Second)
		l.AddTime()
		records += 2 * together
	}
	dir := b.TempDir()
	l.writeLog(dir)
	c, err := client.New("http://log.example", client.Config{HTTPClient: &http.Client{Transport: client.DirTransport(dir)}})
	if err != nil {
		b.Fatal(err)
	}
	var audit, bare, resume, auditCPU, bareCPU time.Duration
	var n int
	for b.Loop() {
		n++
		l.dir = b.TempDir()
		baseline := func() {
			cpu := processorTime(b)
			bare += bareVerifications(b, records/2)
			bareCPU += processorTime(b) - cpu
		}
		baseline()
		m := l.open(func(cfg *Config) { cfg.Log = c })
		start, cpu := time.Now(), processorTime(b)
		l.step()
		audit += time.Since(start)
		auditCPU += processorTime(b) - cpu
		if n == 1 {
			l.wantNone()
			if m.Status().Verified != l.Size() {
				b.Fatal(m.Status())
			}
		}
		m.Close()
		baseline()
		start = time.Now()
		m = l.open(func(cfg *Config) { cfg.Log = c })
		l.step()
		resume += time.Since(start)
		m.Close()
	}
	rate := func(d time.Duration) float64 { return float64(records*n) / d.Seconds() }
	b.ReportMetric(rate(audit), "records/s")
	b.ReportMetric(rate(bare), "bare/s")
	b.ReportMetric(100*rate(audit)/rate(bare), "%of-bare")
	// On a machine that does other things too, processor time says more.
	b.ReportMetric(100*bareCPU.Seconds()/auditCPU.Seconds(), "%of-bare-cpu")
	b.ReportMetric(float64(resume.Milliseconds())/float64(n), "ms/resume")
	b.ReportMetric(0, "ns/op")
}

// processorTime returns the processor time that the process has taken.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bareVerifications verifies what n records need at least.
func bareVerifications(b *testing.B, n int) time.Duration {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	digest := sha256.Sum256([]byte("quote"))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		b.Fatal(err)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	msg := make([]byte, 2000)
	esig := ed25519.Sign(priv, msg)
	var next atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				ok := ed25519.Verify(pub, msg, esig)
				for range 2 {
					ok = ecdsa.VerifyASN1(&key.PublicKey, digest[:], sig) && ok
				}
				if !ok {
					panic("a signature doesn't verify")
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}
