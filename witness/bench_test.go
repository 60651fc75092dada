package witness

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// manyLogs are n logs with the same records and key but other names.
func manyLogs(t testing.TB, n int, size int64) []*testLog {
	base := newTestLog(t, "base", size)
	logs := make([]*testLog, n)
	for i := range logs {
		l := *base
		l.origin = fmt.Sprintf("log.example/%d", i)
		seed := testKey(t, checkpoint.Ed25519, l.origin, 1)
		l.key = seed
		logs[i] = &l
	}
	return logs
}

// benchClients is how many connections ask at once: what a fsync takes is
// shared by all requests that wait for it.
const benchClients = 64

// rawClient sends requests that were made before over a kept connection, with
// as little work as possible: it shares the machine with the witness.
type rawClient struct {
	conn net.Conn
	r    *bufio.Reader
}

func newRawClient(t testing.TB, addr string) *rawClient {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &rawClient{c, bufio.NewReaderSize(c, 16<<10)}
}

func rawRequest(body []byte) []byte {
	return append(fmt.Appendf(nil, "POST /add-checkpoint HTTP/1.1\r\nHost: w\r\nContent-Length: %d\r\n\r\n", len(body)), body...)
}

func (c *rawClient) do(req []byte) (status int, err error) {
	if _, err := c.conn.Write(req); err != nil {
		return 0, err
	}
	line, err := c.r.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 {
		return 0, fmt.Errorf("status line %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length := 0
	for {
		if line, err = c.r.ReadSlice('\n'); err != nil {
			return 0, err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return 0, err
			}
		}
	}
	_, err = c.r.Discard(length)
	return status, err
}

// cpuTime is what this process has used, clients and server. On a machine that
// others use too it says more than the time that has passed.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// load sends b.N requests of reqs in turn over benchClients connections, and
// reports requests per second and latencies.
func load(b *testing.B, h http.Handler, reqs [][]byte) {
	ln := newLoopback(b)
	s := NewServer(h)
	go s.Serve(ln)
	defer s.Close()
	clients := make([]*rawClient, benchClients)
	for i := range clients {
		clients[i] = newRawClient(b, ln.Addr().String())
	}
	latencies := make([]time.Duration, len(reqs))
	b.ResetTimer()
	start, cpu := time.Now(), cpuTime(b)
	var wg sync.WaitGroup
	var next atomic.Int64
	for _, c := range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(reqs) {
					return
				}
				t := time.Now()
				status, err := c.do(reqs[i])
				latencies[i] = time.Since(t)
				if err != nil || status != 200 {
					b.Errorf("request %d: status %d, %v", i, status, err)
					return
				}
			}
		})
	}
	wg.Wait()
	d := time.Since(start)
	cpu = cpuTime(b) - cpu
	b.StopTimer()
	slices.Sort(latencies)
	b.ReportMetric(float64(len(reqs))/d.Seconds(), "req/s")
	b.ReportMetric(float64(cpu.Microseconds())/float64(len(reqs)), "cpu-us/req")
	b.ReportMetric(float64(latencies[len(latencies)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(latencies[len(latencies)*99/100].Microseconds())/1000, "p99-ms")
}

// addRequests are n requests to 1,000 logs in turn, each of which grows by one:
// to at most 500 records, then it is refreshed.
func addRequests(b *testing.B, logs []*testLog, n int) [][]byte {
	reqs := make([][]byte, n)
	for i := range reqs {
		l, old := logs[i%len(logs)], min(int64(i/len(logs)), logs[0].size)
		reqs[i] = rawRequest(l.request(old, min(old+1, l.size)))
	}
	return reqs
}

func benchWitness(b *testing.B, keys ...int) {
	logs := manyLogs(b, 1000, 500)
	cfg := testConfig(b, logs...)
	cfg.Keys = nil
	for _, i := range keys {
		cfg.Keys = append(cfg.Keys, testKeys(b)[i])
	}
	w, err := Open(cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	load(b, w.Handler(), addRequests(b, logs, b.N))
}

// BenchmarkAdd: 1,000 logs, kept connections, durable writes, by the keys with
// which the witness cosigns. Run it with -benchtime 20000x or so.
func BenchmarkAdd(b *testing.B) {
	b.Run("Ed25519", func(b *testing.B) { benchWitness(b, 0) })
	b.Run("ML-DSA-44", func(b *testing.B) { benchWitness(b, 1) })
	b.Run("both", func(b *testing.B) { benchWitness(b, 0, 1) })
}

// BenchmarkAddBaseline is what BenchmarkAdd can't be faster than: the same
// requests to a handler that reads the body, verifies one Ed25519 signature and
// makes the cosignatures, and does nothing else; and one that does nothing.
func BenchmarkAddBaseline(b *testing.B) {
	run := func(keys ...int) func(b *testing.B) {
		return func(b *testing.B) {
			logs := manyLogs(b, 1000, 500)
			all := testKeys(b)
			c := logs[0].checkpoint(1)
			n, err := checkpoint.ParseNote(logs[0].note(1))
			if err != nil {
				b.Fatal(err)
			}
			load(b, http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
				io.Copy(io.Discard, req.Body)
				var lines []byte
				if len(keys) > 0 {
					if _, err := logs[0].key.Verifier().Verify(n.Text, n.Signatures[0]); err != nil {
						b.Error(err)
					}
				}
				for _, i := range keys {
					line, err := all[i].Sign(c.Text(), time.Unix(1700000000, 0))
					if err != nil {
						b.Error(err)
					}
					lines = append(lines, line...)
				}
				rw.Header().Set("Content-Length", strconv.Itoa(len(lines)))
				rw.Write(lines)
			}), addRequests(b, logs, b.N))
		}
	}
	b.Run("nothing", run())
	b.Run("Ed25519", run(0))
	b.Run("ML-DSA-44", run(1))
	b.Run("both", run(0, 1))
}

// BenchmarkMemory reports the resident memory of a witness of its own process
// size: 10,000 logs, each cosigned once with both keys.
func BenchmarkMemory(b *testing.B) {
	const n = 10000
	logs := manyLogs(b, n, 2)
	list := filepath.Join(b.TempDir(), "list")
	text := []byte("logs/v0\n")
	for _, l := range logs {
		text = append(text, bytes.TrimPrefix(formatLogList(Log{l.origin, l.key.Verifier(), 86400}), []byte("logs/v0\n"))...)
	}
	if err := os.WriteFile(list, text, 0o600); err != nil {
		b.Fatal(err)
	}
	state := filepath.Join(b.TempDir(), "state.db")
	for b.Loop() {
		os.Remove(state)
		url, cmd := startCrashing(b, state, "", "WITNESS_TEST_LIST="+list)
		pid := cmd.Process.Pid
		reqs := make([][]byte, n)
		for i, l := range logs {
			reqs[i] = rawRequest(l.request(0, 2))
		}
		var wg sync.WaitGroup
		for i := range 16 {
			c := newRawClient(b, strings.TrimPrefix(url, "http://"))
			wg.Go(func() {
				for j := i; j < n; j += 16 {
					if status, err := c.do(reqs[j]); err != nil || status != 200 {
						b.Errorf("status %d, %v", status, err)
						return
					}
				}
			})
		}
		wg.Wait()
		fi, err := os.Stat(state)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(fi.Size())/1e6, "state-MB")
		b.ReportMetric(residentMB(b, pid, "VmRSS"), "rss-MB")
		b.ReportMetric(residentMB(b, pid, "VmHWM"), "peak-MB")
		b.ReportMetric(residentMB(b, pid, "RssAnon"), "anon-MB")
		cmd.Process.Kill()
		cmd.Wait()
	}
}

func residentMB(b *testing.B, pid int, field string) float64 {
	s, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Skip(err)
	}
	_, rest, _ := strings.Cut(string(s), field+":")
	var kb float64
	fmt.Sscan(rest, &kb)
	return kb / 1000
}
