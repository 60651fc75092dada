package session

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// checkMemory refuses directories whose files could reach a disk: those that aren't on tmpfs or ramfs, and those on a
// tmpfs that may be swapped out to one.
func checkMemory(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch int64(st.Type) {
	case unix.RAMFS_MAGIC:
		return nil // is never swapped out
	case unix.TMPFS_MAGIC:
	default:
		return fmt.Errorf("%w: %s is on a file system of type %#x", ErrNotMemory, dir, st.Type)
	}
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	area := swapArea(swaps)
	if area == "" || noSwap(dir) {
		return nil
	}
	return fmt.Errorf("%w: %s may be swapped out to %s: turn swapping off, or mount it with noswap", ErrNotMemory, dir, area)
}

// swapArea returns the first swap area in /proc/swaps that isn't itself in memory.
func swapArea(swaps []byte) string {
	for i, line := range strings.Split(string(swaps), "\n") {
		if name, _, ok := strings.Cut(line, " "); i > 0 && ok && !strings.HasPrefix(name, "/dev/zram") {
			return name
		}
	}
	return ""
}

// noSwap reports whether dir's file system is mounted with noswap (Linux 6.4 and later).
func noSwap(dir string) bool {
	var st unix.Stat_t
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || unix.Stat(dir, &st) != nil {
		return false
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
	// "36 35 98:0 /root /mnt rw,noatime master:1 - tmpfs none rw,noswap" (proc_pid_mountinfo(5))
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		mount, super, ok := strings.Cut(s.Text(), " - ")
		fields, options := strings.Fields(mount), strings.Fields(super)
		if ok && len(fields) > 2 && len(options) > 2 && fields[2] == dev {
			return strings.Contains(","+options[len(options)-1]+",", ",noswap,")
		}
	}
	return false
}

// lock keeps other processes from using the same journal. It ends with the process.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%s: %w", f.Name(), ErrInUse)
	}
	return err
}
