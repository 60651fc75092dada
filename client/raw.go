package client

import (
	"context"
	"net/http"
	"os"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// The methods in this file return what the log serves as it serves it, for those who audit the log: nothing is verified,
// nothing kept. They repeat what is worth repeating, like all others.

// TileWidth is the number of entries in a full entry bundle, and of hashes in a full tile: "Full tiles MUST be exactly
// 256 hashes wide" (c2sp.org/tlog-tiles).
const TileWidth = tileWidth

// RawCheckpoint returns what the log serves as its newest checkpoint.
func (c *Client) RawCheckpoint(ctx context.Context) ([]byte, error) {
	resp, err := c.get(ctx, c.at("checkpoint"), checkpoint.MaxNote)
	if err != nil {
		return nil, err
	}
	return resp.body, nil
}

// RawEntries returns what the log serves as its n-th entry bundle, of width entries, 1 to [TileWidth], and its path. It
// can be the full bundle when a partial one is asked for: logs "MAY delete any partial tile once the corresponding full
// tile is available" (c2sp.org/tlog-tiles).
func (c *Client) RawEntries(ctx context.Context, n uint64, width int) (b []byte, path string, err error) {
	// A byte more than the largest bundle, so that what is larger is seen and not refused.
	return c.raw(ctx, tlog.Tile{H: tileHeight, L: -1, N: int64(n), W: width}, maxEntryBundle+1)
}

// RawTile returns what the log serves as the n-th tile of a level, of width hashes, 1 to [TileWidth], and its path. It
// can be the full tile when a partial one is asked for.
func (c *Client) RawTile(ctx context.Context, level int, n uint64, width int) (b []byte, path string, err error) {
	return c.raw(ctx, tlog.Tile{H: tileHeight, L: level, N: int64(n), W: width}, tileWidth*tlog.HashSize+1)
}

func (c *Client) raw(ctx context.Context, tile tlog.Tile, limit int) ([]byte, string, error) {
	t := &Tree{c: c}
	b, err := t.fetchTile(ctx, tile, limit)
	return b, tilePath(tile), err
}

// SplitEntries returns all entries in an entry bundle: "sequences of big-endian uint16 length-prefixed log entries"
// (c2sp.org/tlog-tiles). It reports false if the last one is cut short. Entries point into b.
func SplitEntries(b []byte) (entries [][]byte, whole bool) {
	for len(b) >= 2 {
		n := 2 + (int(b[0])<<8 | int(b[1]))
		if len(b) < n {
			break
		}
		entries = append(entries, b[2:n:n])
		b = b[n:]
	}
	return entries, len(b) == 0
}

// DirTransport returns a transport for [Config.HTTPClient] that answers every request with the file of that path in a
// directory, as a mirror keeps them, whatever the host.
func DirTransport(dir string) http.RoundTripper {
	return http.NewFileTransportFS(os.DirFS(dir))
}

