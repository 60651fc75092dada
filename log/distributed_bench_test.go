//go:build distributed

package sessionlog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	driver "github.com/transparency-dev/tessera/storage/aws"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/log/storage/aws"
)

// tesseraMain is what Tessera's conformance server for AWS is at its core: an entry is added without a look at it, and
// answered with its index once that is durable.
func tesseraMain(c frontendConfig) error {
	ctx := context.Background()
	s, err := aws.Open(ctx, c.AWS)
	if err != nil {
		return err
	}
	d, err := s.Driver(ctx)
	if err != nil {
		return err
	}
	signer, err := newSigner()
	if err != nil {
		return err
	}
	a, _, _, err := tessera.NewAppender(ctx, d, tessera.NewAppendOptions().WithCheckpointSigner(signer).WithCheckpointInterval(time.Second).
		WithBatching(512, 300*time.Millisecond).WithPushback(10*driver.DefaultPushbackMaxOutstanding)) // batching and pushback as that server has them
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), l.Addr())
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		i, err := a.Add(r.Context(), tessera.NewEntry(b))()
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d", i.Index)
	}))
}

// BenchmarkDistributed submits records to one process, to two, and to Tessera's driver behind a handler that verifies
// nothing, all answered once they have a durable index (202), and with the load generator, the database, and the object
// store on the same machine. Each is measured twice, in turns.
func BenchmarkDistributed(b *testing.B) {
	const entries, clients = 6000, 256
	cloud := newCloud(b)
	w := newWorld(b)
	submit := func(f record.Freshness, fs ...*frontend) float64 {
		b.Helper()
		all := make([][]byte, entries)
		for i := range all {
			all[i] = w.newTD().start(b, f).Bytes()
		}
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
		defer client.CloseIdleConnections()
		var next, retried atomic.Int64
		var wg sync.WaitGroup
		began := time.Now()
		for c := range clients {
			wg.Go(func() {
				for i := next.Add(1) - 1; i < entries; i = next.Add(1) - 1 {
					for {
						req, _ := http.NewRequest("POST", fs[c%len(fs)].url+"/add", bytes.NewReader(all[i]))
						req.Header.Set("Content-Type", binaryType)
						req.Header.Set("Authorization", "Bearer "+tokenA)
						resp, err := client.Do(req)
						if err != nil {
							b.Error(err)
							return
						}
						body, _ := io.ReadAll(resp.Body)
						resp.Body.Close()
						if resp.StatusCode == 503 {
							retried.Add(1)
							time.Sleep(20 * time.Millisecond)
							continue
						}
						if resp.StatusCode != 200 && resp.StatusCode != 202 {
							b.Errorf("status %d: %s", resp.StatusCode, body)
						}
						break
					}
				}
			})
		}
		wg.Wait()
		rate := entries / time.Since(began).Seconds()
		b.Logf("%d processes: %.0f/s, %d answers to come again", len(fs), rate, retried.Load())
		return rate
	}
	start := func(name string, c aws.Config, create, bare bool) *frontend {
		f := &frontend{name: name, config: w.frontendConfig(c, RoleAll)}
		f.config.Create, f.config.Tessera, f.config.Quiet = create, bare, true
		f.config.CheckpointInterval, f.config.MaxWait = time.Second, time.Millisecond
		f.start(w)
		return f
	}
	for range b.N {
		var one, two, bare float64
		for range 2 {
			t := start("tessera", cloud.config(), false, true)
			bare += submit(record.Freshness{Origin: testOrigin, Root: [32]byte{1}, Size: 1}, t) / 2
			t.kill()
			c := cloud.config()
			f := start("one", c, true, false)
			waitFor(b, "readiness", f.ready)
			freshness := f.freshness()
			submit2 := func(fs ...*frontend) float64 { return submit(freshness, fs...) / 2 }
			one += submit2(f)
			g := start("two", c, false, false)
			waitFor(b, "readiness", g.ready)
			two += submit2(f, g)
			f.kill()
			g.kill()
		}
		b.ReportMetric(one, "one/s")
		b.ReportMetric(two, "two/s")
		b.ReportMetric(bare, "tessera/s")
		b.ReportMetric(two/one, "two/one")
		b.ReportMetric(max(one, two)/bare, "ours/tessera")
	}
}
