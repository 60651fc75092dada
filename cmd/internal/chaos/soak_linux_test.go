package chaos

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/affidavit-log/affidavit/cmd/internal/load"
)

var soak = flag.Duration("soak", 0, "how `LONG` TestSoak runs; without it, it is left out")

// A usage is what a daemon holds at one time. What isn't known is -1.
type usage struct {
	goroutines, descriptors int
	memory                  int64 // resident
	disk                    int64 // of its state
	leaves                  uint64
}

// usage measures a daemon.
func (w *world) usage(d *daemon) usage {
	u := usage{-1, -1, -1, 0, w.leaves.End()}
	if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.pid())); err == nil {
		u.descriptors = len(fds)
	}
	if used, err := load.UsageOf(d.pid()); err == nil {
		u.memory = used.RSS
	}
	d.mu.Lock()
	priv := d.priv
	d.mu.Unlock()
	if priv != "" {
		if resp, err := http.Get("http://" + priv + "/metrics"); err == nil {
			for s := bufio.NewScanner(resp.Body); s.Scan(); {
				if n, ok := strings.CutPrefix(s.Text(), "go_goroutines "); ok {
					u.goroutines, _ = strconv.Atoi(n)
				}
			}
			resp.Body.Close()
		}
	}
	dirs := []string{d.state}
	if d == w.monitor {
		dirs = append(dirs, filepath.Join(w.dir, "mirror"))
	}
	for _, dir := range dirs {
		filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return nil // it is gone already
			}
			if fi, err := e.Info(); err == nil {
				u.disk += fi.Size()
			}
			return nil
		})
	}
	return u
}

// readers read as people with browsers and auditors do, until ctx is done.
func (w *world) readers(ctx context.Context, n int, pause time.Duration) (pages int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				w.mu.Lock()
				index := rand.N(uint64(len(w.acked) + 1))
				w.mu.Unlock()
				urls := []string{
					w.log.front.url() + "/", w.log.front.url() + "/checkpoint", fmt.Sprintf("%s/proof/%d", w.log.front.url(), index),
					w.monitor.front.url() + "/", fmt.Sprintf("%s/api/records/%d", w.monitor.front.url(), index), w.monitor.front.url() + "/api/findings",
					fmt.Sprintf("%s/api/bundles/%d", w.monitor.front.url(), index), w.monitor.front.url() + "/api/recall?advisory=INTEL-SA-00960",
				}
				req, err := http.NewRequestWithContext(ctx, "GET", urls[rand.N(len(urls))], nil)
				if err != nil {
					w.t.Error(err)
					return
				}
				if resp, err := http.DefaultClient.Do(req); err == nil {
					if rand.N(8) > 0 { // some close the window
						io.Copy(io.Discard, resp.Body)
					}
					resp.Body.Close()
					mu.Lock()
					pages++
					mu.Unlock()
					if resp.StatusCode >= 500 && resp.StatusCode != http.StatusServiceUnavailable {
						w.t.Errorf("%s: %s", req.URL, resp.Status)
					}
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	wg.Wait()
	return pages
}

// Vendors, agents, witnesses that come and go, a monitor, an exporter and readers work together for a long time. Goroutines,
// descriptors, memory and disk of each daemon don't grow but with the log, and everything is right in the end.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("make soak")
	}
	w := newWorld(t, shape{witnesses: 3, quorum: 2, monitor: true, recorder: true, exporter: true, checkpoint: time.Second, time: 10 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), *soak)
	defer cancel()
	var load sync.WaitGroup
	pages := 0
	load.Go(func() { w.vendors(ctx, 8, time.Second) })
	load.Go(func() { w.runAgents(ctx, 4, 50*time.Millisecond) })
	load.Go(func() { pages = w.readers(ctx, 4, 100*time.Millisecond) })
	gone := 0
	load.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Second):
			}
			d := w.witnesses[rand.N(len(w.witnesses))]
			if err := d.stop(); err != nil {
				t.Errorf("%s: %v", d.name, err)
			}
			gone++
			time.Sleep(rand.N(5 * time.Second))
			if err := d.start(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var lasting []*daemon // those that aren't restarted
	for _, d := range w.daemons() {
		if !slices.Contains(w.witnesses, d) {
			lasting = append(lasting, d)
		}
	}
	began := time.Now()
	samples := make(map[*daemon][]usage)
	tick := time.NewTicker(max(*soak/60, time.Second))
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		select {
		case <-ctx.Done():
		case <-tick.C:
			w.check()
			w.checkFindings()
			for _, d := range lasting {
				samples[d] = append(samples[d], w.usage(d))
			}
			if n%6 == 5 {
				var b bytes.Buffer
				for _, d := range lasting {
					u := samples[d][len(samples[d])-1]
					fmt.Fprintf(&b, "; %s %d goroutines, %d descriptors, %d MB, %d MB on disk", d.name, u.goroutines, u.descriptors, u.memory>>20, u.disk>>20)
				}
				t.Logf("%v: %d leaves%s", time.Since(began).Round(time.Second), w.leaves.End(), b.String())
			}
		}
	}
	load.Wait()
	_, acked := w.alive()
	t.Logf("%v: %d leaves, %d records acknowledged, %d sessions, %d answers to readers, witnesses were gone %d times", time.Since(began).Round(time.Second), w.leaves.End(), acked, len(w.sessions), pages, gone)
	// The middle third is compared with the last: what grows with time, and not only with the log, shows.
	var b bytes.Buffer
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\tgoroutines\t\tdescriptors\t\tmemory, MB\t\tdisk, B/leaf\t\t")
	for _, d := range lasting {
		s := samples[d]
		if len(s) < 9 {
			t.Fatalf("%d samples of %s", len(s), d.name)
		}
		third := len(s) / 3
		most := func(s []usage, f func(usage) int64) (m int64) {
			for _, u := range s {
				m = max(m, f(u))
			}
			return m
		}
		fmt.Fprintf(tw, "%s\t", d.name)
		for _, c := range []struct {
			what  string
			f     func(usage) int64
			slack int64
		}{
			{"goroutines", func(u usage) int64 { return int64(u.goroutines) }, 30},
			{"descriptors", func(u usage) int64 { return int64(u.descriptors) }, 30},
			{"MB of memory", func(u usage) int64 { return u.memory >> 20 }, 50},
			{"bytes on disk for each leaf", func(u usage) int64 { return u.disk / int64(max(u.leaves, 1)) }, 2000},
		} {
			before, after := most(s[third:2*third], c.f), most(s[2*third:], c.f)
			fmt.Fprintf(tw, "%d\t%d\t", before, after)
			if after > before*3/2+c.slack {
				t.Errorf("%s: %d %s in the second third of the time, and %d in the last", d.name, before, c.what, after)
			}
		}
		fmt.Fprintln(tw)
	}
	tw.Flush()
	t.Logf("the most in the second and in the last third:\n%s", b.String())
	w.checkMonitor()
	t.Logf("%d findings, %d events", len(w.findings), w.checkExporter())
	t.Logf("%d actions", w.checkRecorder())
	w.checkStorage()
}
