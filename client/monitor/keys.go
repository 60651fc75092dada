package monitor

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/affidavit-log/affidavit/log/record"
)

// The database's keys begin with a byte that says what they are; index.go has those of the index. Integers are
// big-endian, so that keys are in numerical order.
//
// Facts follow from one leaf and from nothing else, and are only used by leaves with larger indices. They may be written
// ahead of the state: what is written there after a crash is the same again. Everything else is written in the batch that
// audits the leaves which it follows from, together with the state.
const (
	prefixState   = 's' // → the state, JSON
	prefixFinding = 'f' // sequence number u64 → finding, JSON
	prefixID      = 'i' // id of a finding, 16 bytes → sequence number u64
	prefixTile    = 'r' // level u8, number u64 → hashes of the tree's tile, 32 bytes each, 1 to 256 of them
	prefixWitness = 'w' // SHA-256 of a note → a checkpoint that the log has signed and not shown yet, JSON
	prefixHistory = 'h' // size of a checkpoint u64 → when it was seen, its root, and who cosigned it: see remember
	prefixCursor  = 'd' // name → sequence number u64: how far a deliverer is

	prefixHistoryNote = 'H' // size of a checkpoint u64 → its note

	prefixStatement  = 'S' // 16 bytes of a statement's digest → index u64 of the first leaf with it
	prefixOpen       = 'o' // statement digest of a start or model run that others may yet name → see openLeaf
	prefixDue        = 'O' // ms since 1970 u64, what u8, rest → what is to be looked at when the log's clock is there
	prefixRuns       = 'm' // statement digest of a start, index u64 of a model run for it → statement digest of the run
	prefixEnd        = 'e' // 16 bytes of SHA-256 of vendor and start → index u64 and statement digest of its first end
	prefixSequence   = 'q' // 16 bytes of SHA-256 of vendor, tenant, month → see sequence
	prefixSuperseded = 'u' // collateral id → when it was superseded

	// Facts.
	prefixSet        = 'c' // collateral id → see setFact
	prefixBlob       = 'b' // SHA-256 → component of collateral
	prefixNote       = 't' // SHA-256 of a note in a time leaf → see noteFact
	prefixVendorKey  = 'K' // 16 bytes of SHA-256 of vendor and key id → index u64, public key
	prefixRelease    = 'L' // 16 bytes of SHA-256 of vendor and image, index u64 → entry
	prefixWithdrawal = 'W' // statement digest of the release, index u64 → entry
	prefixKeyEntry   = 'Y' // 16 bytes of SHA-256 of vendor, index u64 → vendor-key entry
)

func key(prefix byte, parts ...[]byte) []byte {
	k := make([]byte, 1, 41)
	k[0] = prefix
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}

func u64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// short is as much of a hash as it takes to tell 10^9 things apart that nobody could choose: 128 bits. Who logs two
// statements on purpose whose digests begin alike has found a collision of 128 bits, at a cost of 2^64, and gets a
// finding that says that they are one.
func short(d record.Digest) []byte { return d[:16] }

// hashed names things that are given as several strings.
func hashed(parts ...string) []byte {
	return short(record.Digest(hashStrings(parts...)))
}

func hashStrings(parts ...string) [32]byte {
	var b []byte
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}
