package load

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Usage is what the operating system says that a process has used (proc(5); Linux only).
type Usage struct {
	CPU     time.Duration // user and system
	RSS     int64         // bytes now
	PeakRSS int64         // bytes since it started
	Written int64         // bytes that it caused to be written to storage
}

// clockTick is the unit of times in /proc, which Linux has fixed at a hundredth of a second for programs.
const clockTick = 10 * time.Millisecond

// UsageOf reads the usage of a process.
func UsageOf(pid int) (Usage, error) {
	var u Usage
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, fmt.Errorf("process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything. utime and stime are fields 14 and 15.
	_, rest, ok := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" "))
	f := strings.Fields(string(rest))
	if !ok || len(f) < 13 {
		return u, fmt.Errorf("process %d: %q is not understood", pid, stat)
	}
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return u, fmt.Errorf("process %d: %w", pid, err)
		}
		u.CPU += time.Duration(n) * clockTick
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return u, fmt.Errorf("process %d: %w", pid, err)
	}
	u.RSS, u.PeakRSS = procField(status, "VmRSS:")<<10, procField(status, "VmHWM:")<<10
	io, err := os.ReadFile(dir + "/io")
	if err != nil {
		return u, fmt.Errorf("process %d: %w", pid, err)
	}
	u.Written = procField(io, "write_bytes:")
	return u, nil
}

// procField returns a number in a file of "name value" lines.
func procField(b []byte, name string) int64 {
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// Watch samples a process until stop is called, which returns what it used meanwhile: RSS is the largest seen.
func Watch(ctx context.Context, pid int) (stop func() (Usage, error), err error) {
	first, err := UsageOf(pid)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	largest := first.RSS
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			if u, err := UsageOf(pid); err == nil {
				largest = max(largest, u.RSS)
			}
		}
	})
	return func() (Usage, error) {
		cancel()
		wg.Wait()
		last, err := UsageOf(pid)
		if err != nil {
			return Usage{}, err
		}
		return Usage{CPU: last.CPU - first.CPU, RSS: max(largest, last.RSS), PeakRSS: last.PeakRSS, Written: last.Written - first.Written}, nil
	}, nil
}
