package sessionlog

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/affidavit-log/affidavit/log/record"
)

// BenchmarkAdd submits entries over HTTP with 256 clients, each of which waits for its proof. What is verified, logged,
// cosigned (by nobody), proven and sent is the real thing; load generator and log share the machine. BenchmarkAppender
// is what Tessera alone does with leaves of the same size.
func BenchmarkAdd(b *testing.B) {
	for _, bb := range []struct {
		name     string
		interval time.Duration
		clients  int
	}{{"checkpoint=100ms/clients=256", 100 * time.Millisecond, 256}, {"checkpoint=20ms/clients=256", 20 * time.Millisecond, 256}, {"checkpoint=20ms/clients=1", 20 * time.Millisecond, 1}} {
		b.Run(bb.name, func(b *testing.B) {
			w := newWorld(b)
			w.cfg = func(c *Config) {
				c.CheckpointInterval, c.TimeInterval, c.Logger = bb.interval, time.Minute, slog.New(slog.DiscardHandler)
			}
			s := w.open()
			f := s.freshness()
			s.mustAdd(w.newTD().start(b, f))
			entries := make([][]byte, b.N)
			var wg sync.WaitGroup
			var next atomic.Int64
			for range 4 {
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						entries[i] = w.newTD().start(b, f).Bytes()
					}
				})
			}
			wg.Wait()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: bb.clients}}
			defer client.CloseIdleConnections()
			next.Store(0)
			b.SetBytes(int64(len(entries[0])))
			b.ResetTimer()
			for range bb.clients {
				wg.Go(func() {
					for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
						req, _ := http.NewRequest("POST", s.url+"/add", bytes.NewReader(entries[i]))
						req.Header.Set("Content-Type", binaryType)
						req.Header.Set("Authorization", "Bearer "+tokenA)
						resp, err := client.Do(req)
						if err != nil {
							b.Error(err)
							return
						}
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if resp.StatusCode != 200 {
							b.Errorf("status %d", resp.StatusCode)
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkAppender appends leaves of a record's size with Tessera's Appender, with as many waiting at once as
// BenchmarkAdd has clients.
func BenchmarkAppender(b *testing.B) {
	w := newWorld(b)
	size := len(w.newTD().start(b, record.Freshness{Origin: testOrigin, Root: [32]byte{1}, Size: 1}).Bytes())
	skey, _, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		b.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: tempDir(b)})
	if err != nil {
		b.Fatal(err)
	}
	a, shutdown, _, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().WithCheckpointSigner(signer).
		WithCheckpointInterval(100*time.Millisecond).WithBatching(256, 10*time.Millisecond))
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	var next atomic.Int64
	b.SetBytes(int64(size))
	b.ResetTimer()
	for range 256 {
		wg.Go(func() {
			leaf := make([]byte, size)
			rand.Read(leaf)
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				leaf = bytes.Clone(leaf)
				leaf[0], leaf[1], leaf[2], leaf[3] = byte(i), byte(i>>8), byte(i>>16), byte(i>>24)
				if _, err := a.Add(ctx, tessera.NewEntry(leaf))(); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	if err := shutdown(ctx); err != nil {
		b.Error(err)
	}
}

// BenchmarkPublish has four witnesses on this machine cosign each checkpoint with both kinds of keys, three of which are
// needed, and reports how long that takes from the candidate to its publication.
func BenchmarkPublish(b *testing.B) {
	for _, witnesses := range []int{0, 4} {
		b.Run(fmt.Sprintf("witnesses=%d", witnesses), func(b *testing.B) {
			w := newWorld(b)
			if witnesses > 0 {
				w, _ = witnessed(b, witnesses, 3, nil)
			}
			edit := w.cfg
			w.cfg = func(c *Config) {
				if edit != nil {
					edit(c)
				}
				c.CheckpointInterval, c.TimeInterval, c.Logger = time.Millisecond, time.Minute, slog.New(slog.DiscardHandler)
			}
			s := w.open()
			f := s.freshness()
			s.mustAdd(w.newTD().start(b, f))
			sum, count := s.metric("affidavit_log_publish_seconds_sum"), s.metric("affidavit_log_publish_seconds_count")
			for b.Loop() {
				s.mustAdd(w.newTD().start(b, f))
			}
			sum, count = s.metric("affidavit_log_publish_seconds_sum")-sum, s.metric("affidavit_log_publish_seconds_count")-count
			b.ReportMetric(sum/count*1000, "ms/publication")
		})
	}
}
