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
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// logFiles writes a log's files as a mirror keeps them, as it grows.
type logFiles struct {
	l    *lab
	dir  string
	size uint64        // whose full tiles are written
	edge [][]tlog.Hash // of the tree of that size
}

func (f *logFiles) put(path string, b []byte) {
	f.l.t.Helper()
	name := filepath.Join(f.dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		f.l.t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		f.l.t.Fatal(err)
	}
}

// bundle writes an entry bundle, and returns its hashes.
func (f *logFiles) bundle(n uint64, w int) (hashes []tlog.Hash) {
	var entries []byte
	for i := n * width; i < n*width+uint64(w); i++ {
		leaf := f.l.Leaf(i)
		entries = append(binary.BigEndian.AppendUint16(entries, uint16(len(leaf))), leaf...)
		hashes = append(hashes, tlog.Hash(record.LeafHash(leaf)))
	}
	f.put(client.EntriesPath(n, w), entries)
	return hashes
}

// full writes what full bundles there are.
func (f *logFiles) full() {
	for ; f.size+width <= f.l.Size(); f.size += width {
		n := f.size / width
		hashes := f.bundle(n, width)
		f.put(client.TilePath(0, n, width), joinHashes(hashes))
		up := reduce(hashes)
		for level := 1; ; level++ {
			if len(f.edge) < level {
				f.edge = append(f.edge, nil)
			}
			f.edge[level-1] = append(f.edge[level-1], up)
			n /= width
			if len(f.edge[level-1]) < width {
				break
			}
			f.put(client.TilePath(level, n, width), joinHashes(f.edge[level-1]))
			up = reduce(f.edge[level-1])
			f.edge[level-1] = nil
		}
	}
}

// finish writes the rest: partial tiles, blobs, and the checkpoint.
func (f *logFiles) finish() {
	f.full()
	size := f.l.Size()
	if w := int(size % width); w > 0 {
		f.put(client.TilePath(0, size/width, w), joinHashes(f.bundle(size/width, w)))
	}
	for i, hashes := range f.edge {
		if level := i + 1; len(hashes) > 0 {
			f.put(client.TilePath(level, size>>(8*(level+1)), len(hashes)), joinHashes(hashes))
		}
	}
	for _, b := range f.l.Set.Components() {
		f.put(fmt.Sprintf("blob/%x", sha256.Sum256(b)), b)
	}
	f.put("checkpoint", f.l.Publish(f.l.Now))
}

// fillSessions logs sessions of a start and a final, some at a time, of 1,000 tenants on 16 platforms, and a time leaf
// after all starts, and all finals, of some. It calls then after each.
func (l *lab) fillSessions(sessions, together int, then func()) {
	var platforms []*tdxsim.Platform
	for i := range byte(16) {
		o := tdxsim.PlatformOptions{PPID: &[16]byte{1, i}}
		platforms = append(platforms, l.PKI.NewPlatform(o))
	}
	numbers := make([]uint64, 1000)
	for left := sessions; left > 0; left -= together {
		var started []session
		for range min(together, left) {
			l.another()
			number := l.sessions
			start := l.AddStart(func(d *bundletest.Draft) {
				tenant := number % len(numbers)
				numbers[tenant]++
				d.Platform = platforms[number%len(platforms)]
				d.Statement.Start.Tenant, d.Statement.Start.Sequence = sha256.Sum256(fmt.Append(nil, "tenant ", tenant)), numbers[tenant]
			})
			started = append(started, session{start: start, number: number})
		}
		l.Tick(2 * time.Second)
		l.AddTime()
		for _, s := range started {
			l.name(s.number)
			l.AddFinal(s.start, nil, func(d *bundletest.Draft) { d.Platform = platforms[s.number%len(platforms)] })
		}
		l.Tick(2 * time.Second)
		l.AddTime()
		then()
	}
}

// localClient reads a log from its files.
func localClient(tb testing.TB, dir string) *client.Client {
	c, err := client.New("http://log.example", client.Config{HTTPClient: &http.Client{Transport: client.DirTransport(dir)}})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// BenchmarkAudit audits a log of sessions (start and final) from local files, on all processors, and compares that with
// the verifications which nobody can do without: two P-256 and one Ed25519 a record, on all processors as well.
func BenchmarkAudit(b *testing.B) {
	const sessions, together = 10_000, 250
	const records = 2 * sessions
	Tune()
	l := newLab(b, witnesses)
	files := &logFiles{l: l, dir: b.TempDir()}
	l.fillSessions(sessions, together, files.full)
	files.finish()
	l.Forget(l.Size()) // a monitor doesn't have the log in memory
	runtime.GC()
	c := localClient(b, files.dir)
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
