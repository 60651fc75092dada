package sessionlog

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
)

// fill appends n record leaves of the given length that nothing has verified: the follower and readers don't care.
func (s *server) fill(b testing.TB, n, size int) {
	b.Helper()
	d := s.newTD()
	f := s.freshness()
	good := d.start(b, f)
	s.mustAdd(good)
	quote := record.NewQuoteEvidence(good.Quote())
	if size < len(good.Bytes()) {
		quote = record.NewQuoteEvidence(good.Quote()[:max(1, len(good.Quote())-(len(good.Bytes())-size))])
	}
	var wg sync.WaitGroup
	leaves := make(chan *record.RecordLeaf, 256)
	go func() {
		defer close(leaves)
		for range n {
			rnd := rand.Uint64()
			copy(d.info.ID[:], strconv.AppendUint(nil, rnd, 16))
			st := &record.Statement{
				PredicateType: record.PredicateSessionStart, Vendor: d.vendor,
				Subjects: []record.Subject{{Name: record.SubjectSession, SHA256: d.info.ID.Digest()}},
				Start: &record.SessionStart{
					SessionInfo: d.info, SessionKey: good.Statement().Start.SessionKey, Freshness: f,
					Environment: record.Environment{Release: testImage, PersistentStorage: record.StorageNone},
				},
			}
			payload, err := st.Marshal()
			if err != nil {
				b.Error(err)
				return
			}
			e, err := record.NewEntry(record.ProfileStatement, payload, good.KeyID, good.Signature, quote)
			if err != nil {
				b.Error(err)
				return
			}
			now := time.Now().UnixMilli()
			leaves <- &record.RecordLeaf{Ruleset: record.RulesetV1, AdmittedAt: now, JudgedAt: now, Collateral: record.Digest{1}, Entry: e}
		}
	}()
	sem := make(chan struct{}, 4096)
	for leaf := range leaves {
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			p, err := s.seq.append(leaf, appending{})
			if err != nil {
				b.Error(err)
				return
			}
			<-p.done
			if p.err != nil {
				b.Error(p.err)
			}
		})
	}
	wg.Wait()
	for end := time.Now().Add(time.Minute); s.pub.size() < uint64(n) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if s.pub.size() < uint64(n) {
		b.Fatalf("only %d of %d leaves were published", s.pub.size(), n)
	}
}

// BenchmarkProof makes the proofs of random records of a log whose records don't fit into the caches: in process, and over
// HTTP with 16 clients. AFFIDAVIT_BENCH_LEAVES makes a larger log. How the figures grow with it is O(log n).
func BenchmarkProof(b *testing.B) {
	n := 20_000
	if s := os.Getenv("AFFIDAVIT_BENCH_LEAVES"); s != "" {
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	w := newWorld(b)
	w.cfg = func(c *Config) {
		c.CheckpointInterval, c.TimeInterval, c.Logger = 100*time.Millisecond, time.Minute, slog.New(slog.DiscardHandler)
	}
	s := w.open()
	began := time.Now()
	s.fill(b, n, 7500)
	b.Logf("%d leaves appended, followed and published at %.0f/s", n, float64(n)/time.Since(began).Seconds())
	b.Run("random", func(b *testing.B) {
		var took []time.Duration
		for b.Loop() {
			i := rand.Uint64N(uint64(n))
			from := time.Now()
			if _, err := s.proof(b.Context(), s.pub.now.Load(), i, nil); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(from))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2])/1e3, "µs/p50")
	})
	b.Run("http", func(b *testing.B) {
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
		defer client.CloseIdleConnections()
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				resp, err := client.Get(fmt.Sprintf("%s/proof/%d", s.url, rand.Uint64N(uint64(n))))
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					b.Errorf("status %d", resp.StatusCode)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "proofs/s")
	})
}
