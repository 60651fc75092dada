package sessionlog

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkStranger is what a request costs that comes without credentials: processor time of client and server together,
// over kept connections. "noop" is the same request to a server like the log's whose handler answers with as many bytes and
// does nothing else; what a stranger can make the log do is the difference.
func BenchmarkStranger(b *testing.B) {
	w := newWorld(b)
	w.cfg = func(c *Config) {
		c.CheckpointInterval, c.TimeInterval, c.Logger = 50*time.Millisecond, time.Minute, slog.New(slog.DiscardHandler)
	}
	s := w.open()
	entry := w.newTD().start(b, s.freshness()).Bytes()
	refusal := s.post(entry, "wrong", binaryType)
	if refusal.status != 401 {
		b.Fatal(refusal.status)
	}
	noop := httptest.NewUnstartedServer(nil)
	noop.Config = s.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(401)
		w.Write(refusal.body)
	}))
	noop.Start()
	defer noop.Close()
	for _, bb := range []struct {
		name, url, token string
		body             []byte
	}{
		{"empty/noop", noop.URL + "/add", "", nil},
		{"empty/add", s.url + "/add", "", nil},
		{"quote/noop", noop.URL + "/add", "wrong", entry},
		{"quote/add", s.url + "/add", "wrong", entry},
		{"longtoken/noop", noop.URL + "/add", string(bytes.Repeat([]byte("x"), maxToken)), nil},
		{"longtoken/add", s.url + "/add", string(bytes.Repeat([]byte("x"), maxToken)), nil},
	} {
		b.Run(bb.name, func(b *testing.B) {
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
			defer client.CloseIdleConnections()
			var next atomic.Int64
			var wg sync.WaitGroup
			runtime.GC()
			began := cpu()
			for range 16 {
				wg.Go(func() {
					for next.Add(1) <= int64(b.N) {
						req, err := http.NewRequest("POST", bb.url, bytes.NewReader(bb.body))
						if err != nil {
							b.Error(err)
							return
						}
						req.Header.Set("Content-Type", binaryType)
						if bb.token != "" {
							req.Header.Set("Authorization", "Bearer "+bb.token)
						}
						resp, err := client.Do(req)
						if err != nil {
							b.Error(err)
							return
						}
						io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if resp.StatusCode != 401 {
							b.Errorf("status %d", resp.StatusCode)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((cpu()-began).Nanoseconds())/1e3/float64(b.N), "cpu-us/req")
		})
	}
}
