package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
)

var (
	seedFlag = flag.Uint64("seed", 0, "what is broken and when is decided by this `NUMBER`; 0 is one by chance")
	rounds   = flag.Int("rounds", 3, "rounds of TestChaos")
)

// Daemons that are killed at any moments, or just when they have written something, under load, and started again, have
// lost nothing that they acknowledged, and have nothing twice. The log has its leaves at the same places with the same
// bytes, each statement once, provable, and its storage is whole; no witness was rolled back, or cosigns two trees; the
// monitor has each finding once; sessions have each acknowledged action once; each event is exported once.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("processes have no race detector")
	}
	if *seedFlag == 0 {
		*seedFlag = rand.Uint64()
	}
	rng := rand.New(rand.NewPCG(*seedFlag, 0))
	defer func() {
		if t.Failed() {
			fmt.Fprintf(os.Stderr, "once more: make chaos SEED=%d ROUNDS=%d\n", *seedFlag, *rounds)
		}
	}()
	w := newWorld(t, shape{witnesses: 3, quorum: 2, monitor: true, recorder: true, exporter: true, checkpoint: 50 * time.Millisecond, time: 200 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var load sync.WaitGroup
	load.Go(func() { w.vendors(ctx, 8, 5*time.Millisecond) })
	load.Go(func() { w.runAgents(ctx, 4, 2*time.Millisecond) })
	kills := make(map[string]int)
	points := 0
	began := time.Now()
	for round := range *rounds {
		// Everything that a round does is decided before it.
		type hit struct {
			d     *daemon
			after time.Duration // by the clock
			event int           // or when that many things have happened to its files
		}
		var hits []hit
		for _, d := range w.daemons() {
			share := 0.3
			if d == w.log {
				share = 0.8
			}
			h := hit{d: d, after: time.Duration(rng.IntN(400)) * time.Millisecond}
			if rng.IntN(2) == 0 {
				h.event = 1 + rng.IntN(60)
			}
			if rng.Float64() < share {
				hits = append(hits, h)
			}
		}
		rng.Shuffle(len(hits), func(i, j int) { hits[i], hits[j] = hits[j], hits[i] })
		down := time.Duration(rng.IntN(100)) * time.Millisecond
		suspend := rng.IntN(4) == 0

		var mu sync.Mutex
		var said []string
		var wg sync.WaitGroup
		for _, h := range hits {
			wg.Go(func() {
				when := fmt.Sprintf("after %v", h.after)
				if h.event > 0 {
					if what := h.d.event(h.event, time.Second); what != "" {
						when = fmt.Sprintf("at %d: %s", h.event, what)
						mu.Lock()
						points++
						mu.Unlock()
					} else {
						when = fmt.Sprintf("before event %d", h.event)
					}
				} else {
					time.Sleep(h.after)
				}
				if suspend { // it stands still for a while, with everything half done, before it dies
					h.d.signal(syscall.SIGSTOP)
					time.Sleep(20 * time.Millisecond)
					when += ", suspended"
				}
				h.d.kill()
				mu.Lock()
				said = append(said, h.d.name+" "+when)
				kills[strings.TrimRight(h.d.name, "0123456789")]++
				mu.Unlock()
			})
		}
		wg.Wait()
		time.Sleep(down)
		if round%10 == 9 && len(hits) > 0 {
			w.checkStorage() // as the kill left it, or while it goes on
		}
		for _, h := range hits {
			if err := h.d.start(); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		w.check()
		for i := range w.witnesses {
			w.checkWitness(i)
		}
		w.checkFindings()
		submitted, acked := w.alive()
		t.Logf("round %d: %s; %d leaves, %d submitted, %d acknowledged", round, strings.Join(said, "; "), w.leaves.End(), submitted, acked)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	time.Sleep(200 * time.Millisecond) // the last that was restarted gets something to do
	cancel()
	load.Wait()
	// Whatever had no answer gets the place that it has, or one.
	w.check()
	w.mu.Lock()
	unknown := 0
	for d, e := range w.submitted {
		if _, ok := w.acked[d]; !ok {
			unknown++
			w.mu.Unlock()
			err := w.submit(t.Context(), e)
			w.mu.Lock()
			// After ten minutes it is too late for one that has never got in.
			var p *client.Problem
			if errors.As(err, &p) && p.Name() == "stale-freshness" {
				if a, ok := w.seen[d]; ok {
					t.Errorf("a record is at %d, and refused as stale", a.index)
				}
			} else if err != nil {
				t.Errorf("a record without an answer, submitted again: %v", err)
			}
		}
	}
	w.mu.Unlock()
	w.check()
	w.checkMonitor()
	events := w.checkExporter()
	actions := w.checkRecorder()
	w.check()
	w.checkStorage()
	for _, d := range []*daemon{w.exporter, w.recorder, w.monitor, w.log} {
		if err := d.stop(); err != nil {
			t.Errorf("%s: %v\n%s", d.name, err, d.tail())
		}
	}
	w.checkStorage()
	_, acked := w.alive()
	t.Logf("seed %d: %d rounds in %v, kills %v, %d of them when a file had changed; %d leaves, %d records acknowledged, %d of which had no answer at first; %d findings; %d sessions with %d actions; %d events",
		*seedFlag, *rounds, time.Since(began).Round(time.Second), kills, points, w.leaves.End(), acked, unknown, len(w.findings), len(w.sessions), actions, events)
	if acked < 10 { // few on a busy machine, and not a measure of speed
		t.Errorf("only %d records were acknowledged: the test tests little", acked)
	}
}
