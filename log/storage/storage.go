// Package storage is where a log keeps what must last: its tree, its objects, and the state that several processes of
// one log share. [Posix] is a directory on one machine; the packages aws and gcp below this one are Tessera's
// distributed storages with what a log needs beside them.
package storage

import (
	"context"
	"errors"
	"iter"

	"github.com/transparency-dev/tessera"
)

// Names of objects. Tiles and entry bundles have those of c2sp.org/tlog-tiles: "tile/<L>/<N>[.p/<W>]" and
// "tile/entries/<N>[.p/<W>]".
const (
	// Meta says which log this is. It is the last object that is made for a new log.
	Meta = "affidavit-log"
	// Published is the published checkpoint, with the witnesses' cosignatures: what readers and caches fetch.
	Published = "checkpoint"
	// BlobPrefix begins the names of blobs, which end in the SHA-256 of their contents in lowercase hexadecimal.
	BlobPrefix = "blob/"
	// TilePrefix begins the names of tiles and entry bundles.
	TilePrefix = "tile/"
)

// ErrUnavailable is wrapped by errors of a storage that may go away by themselves, such as those of a network. What was
// being written was written, or not.
var ErrUnavailable = errors.New("storage is unavailable")

// Objects are named bytes. Names are slash-separated. Every Put is atomic, and durable before it returns: a reader, also
// after a loss of power, finds the old bytes or the new ones. Concurrent calls are fine; two Puts of one name leave
// either one.
type Objects interface {
	// Get returns an object's bytes. The error wraps fs.ErrNotExist if there is none.
	Get(ctx context.Context, name string) ([]byte, error)

	// Put creates or replaces an object. After an error it has its old bytes or the new ones.
	Put(ctx context.Context, name string, data []byte) error

	// List yields the names of the objects that begin with prefix, which begins with TilePrefix or BlobPrefix, in no
	// particular order. An error is the last that is yielded.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// A Digest is a SHA-256.
type Digest = [32]byte

// A Shared is the storage of a log that several processes write to. Every method is atomic: other processes see all of
// its effect or none. Errors wrap ErrUnavailable unless their documentation says otherwise, or something is wrong that
// waiting won't repair.
type Shared interface {
	Objects() Objects

	// Create prepares the storage for a new log, if it isn't. There must be no object Meta.
	Create(ctx context.Context) error

	// Driver returns Tessera's driver for the tree. The appender must integrate what Append sequences; nothing is added
	// through it. Its options are to be set by the caller.
	Driver(ctx context.Context) (tessera.Driver, error)

	// IntegratedSize returns the size of the tree, whose tiles are all in Objects.
	IntegratedSize(ctx context.Context) (uint64, error)

	// Append gives leaves the next indices, in their order, each unless its key is taken, and in one transaction takes
	// their keys. Outcomes are in the leaves' order. After an error it isn't known whether that happened, and calling
	// Append again with the same leaves tells: they then have taken their own keys.
	//
	// The error wraps ErrBehind if known is less than what keys are kept for, ErrPushback if too much is sequenced but
	// not integrated, and ErrFenced if epoch isn't 0 and not that of the lease. Nothing was sequenced then.
	Append(ctx context.Context, leaves []Leaf, known, epoch uint64) ([]Outcome, error)

	// State returns what the log's processes share, see State.
	State(ctx context.Context) (*State, error)

	// Version returns a number that is another whenever the published checkpoint or the wish for freshness has changed.
	Version(ctx context.Context) (uint64, error)

	// Lease takes the publisher's lease for holder, or renews it, for as long as it says from now on. It returns its
	// epoch, which grows with every new holder, and 0 if somebody else has it.
	Lease(ctx context.Context, holder string) (epoch uint64, err error)

	// Release gives a lease back.
	Release(ctx context.Context, epoch uint64) error

	// SetCandidate makes text the checkpoint that is about to be signed. The error wraps ErrFenced if epoch isn't that
	// of the lease.
	SetCandidate(ctx context.Context, epoch uint64, text []byte) error

	// Publish makes note the published checkpoint, of the given size, first in the shared state and then in Objects,
	// where an earlier one never replaces it. The error wraps ErrFenced if epoch isn't that of the lease, or if a larger
	// one is published. It may be called again after an error, and with what is published already.
	Publish(ctx context.Context, epoch uint64, note []byte, size uint64) error

	// Want tells the publisher that somebody asks for freshness.
	Want(ctx context.Context) error

	// Forget lets go of the keys of leaves before an index. Whoever appends must know all of these otherwise.
	Forget(ctx context.Context, before uint64) error

	Close() error
}

// Errors of Shared.
var (
	// ErrFenced says that another process has the publisher's lease.
	ErrFenced = errors.New("another process has the publisher's lease")
	// ErrPushback says that more must be integrated before more is sequenced.
	ErrPushback = errors.New("too much is sequenced and not yet integrated")
	// ErrBehind says that the caller must follow the tree further before it appends.
	ErrBehind = errors.New("the index is too far behind to append")
)

// A Leaf is to be appended.
type Leaf struct {
	Entry *tessera.Entry

	// Key is what no two leaves share, at most 64 bytes, and Value tells apart what comes with the same key.
	Key   []byte
	Value Digest

	// AtLeast are numbers that never decrease among leaves that name them. A leaf with a smaller one than before isn't
	// appended.
	AtLeast []Number
}

// A Number is a named number. Names have at most 64 bytes.
type Number struct {
	Name string
	N    uint32
}

// An Outcome says what became of a leaf.
type Outcome struct {
	Index uint64 // of the leaf, or of the one that has its key
	Value Digest // that of the leaf which has the key
	Dup   bool   // another leaf had the key before

	// Older is set if one of the leaf's numbers is smaller than what was appended before. The leaf isn't in the log.
	Older *Number
}

// A State is what the processes of a log share.
type State struct {
	Version   uint64
	Published []byte // the published note, nil if there is none
	Candidate []byte // the text of the checkpoint that is being signed and cosigned, or was last; nil if there is none
	Wanted    uint64 // a number that grows when somebody asks for freshness
}
