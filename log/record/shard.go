package record

import (
	"strconv"
	"strings"
	"time"
)

// ShardOverlap is how long after its start a session may end in the next shard
// of its log (FORMAT.md, 11).
const ShardOverlap = 7 * 24 * time.Hour

// NextShard reports whether next is the log that follows the log origin: both
// names end in a slash and a year of four digits, next's is one more, and all
// before it is the same, such as log.example.org/2026 and log.example.org/2027.
func NextShard(origin, next string) bool {
	a, y, ok := shard(origin)
	b, z, ok2 := shard(next)
	return ok && ok2 && a == b && z == y+1
}

func shard(origin string) (prefix string, year int, ok bool) {
	i := strings.LastIndexByte(origin, '/')
	if i <= 0 || len(origin)-i-1 != 4 {
		return "", 0, false
	}
	for _, c := range origin[i+1:] {
		if c < '0' || c > '9' {
			return "", 0, false
		}
	}
	year, err := strconv.Atoi(origin[i+1:])
	return origin[:i], year, err == nil
}
