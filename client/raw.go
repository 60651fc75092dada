package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
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

// RawEntries returns what the log serves as its n-th entry bundle, of width entries, 1 to [TileWidth]. If the log has
// only the full bundle by now, it is that: logs "MAY delete any partial tile once the corresponding full tile is
// available" (c2sp.org/tlog-tiles). What is larger than any bundle can be is cut off, a byte too late.
func (c *Client) RawEntries(ctx context.Context, n uint64, width int) (Raw, error) {
	return c.RawEntriesInto(ctx, n, width, nil)
}

// RawEntriesInto is RawEntries for those who read a whole log: the body is in buf, if its capacity is enough with 512 bytes
// to spare, which spares an allocation of a megabyte or two for each bundle.
func (c *Client) RawEntriesInto(ctx context.Context, n uint64, width int, buf []byte) (Raw, error) {
	return c.raw(ctx, tlog.Tile{H: tileHeight, L: -1, N: int64(n), W: width}, maxEntryBundle+1, buf)
}

// RawTile returns what the log serves as the n-th tile of a level, of width hashes, 1 to [TileWidth], or as the full
// tile.
func (c *Client) RawTile(ctx context.Context, level int, n uint64, width int) (Raw, error) {
	return c.raw(ctx, tlog.Tile{H: tileHeight, L: level, N: int64(n), W: width}, tileWidth*tlog.HashSize+1, nil)
}

// Raw is what a log has answered.
type Raw struct {
	Body  []byte
	Path  string // what was asked, below the log's URL
	Width int    // of the tile or bundle that this should be: the one asked for, or 256
}

func (c *Client) raw(ctx context.Context, tile tlog.Tile, limit int, into []byte) (Raw, error) {
	get := func() ([]byte, error) {
		resp, err := c.do(ctx, request{method: http.MethodGet, url: c.at(tilePath(tile)), limit: limit, cut: true, into: into})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tilePath(tile), err)
		}
		return resp.body, nil
	}
	b, err := get()
	if isNotFound(err) && tile.W < tileWidth {
		partial := tile
		tile.W = tileWidth
		if b2, err2 := get(); err2 == nil || !isNotFound(err2) {
			b, err = b2, err2
		} else {
			tile = partial
		}
	}
	return Raw{b, tilePath(tile), tile.W}, err
}

// RawBlob returns what the log serves as the component of collateral with the given SHA-256.
func (c *Client) RawBlob(ctx context.Context, digest record.Digest) (Raw, error) {
	path := "blob/" + hexString(digest)
	resp, err := c.do(ctx, request{method: http.MethodGet, url: c.at(path), limit: maxBlob, cut: true})
	if err != nil {
		return Raw{Path: path}, err
	}
	return Raw{Body: resp.body, Path: path}, nil
}

// Refused reports whether err is the log's own answer that it won't give what was asked for: a client error other than
// an overload, so that asking again soon would give the same.
func Refused(err error) bool {
	var p *Problem
	return errors.As(err, &p) && p.Status >= 400 && p.Status < 500 && p.Status != http.StatusTooManyRequests && p.Status != http.StatusRequestTimeout
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
// directory, as a mirror keeps them, whatever the host. It gives files as they are, without the pipe and the guesses of
// [http.NewFileTransportFS], and nothing but files.
func DirTransport(dir string) http.RoundTripper { return dirTransport{os.DirFS(dir)} }

type dirTransport struct{ fs fs.FS }

func (t dirTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body.Close()
	}
	resp := &http.Response{
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header), Request: r, Body: http.NoBody,
	}
	status := func(code int) (*http.Response, error) {
		resp.StatusCode, resp.Status = code, fmt.Sprintf("%d %s", code, http.StatusText(code))
		return resp, nil
	}
	if r.Method != http.MethodGet {
		return status(http.StatusMethodNotAllowed)
	}
	f, err := t.fs.Open(strings.TrimPrefix(r.URL.Path, "/"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return status(http.StatusNotFound)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		f.Close()
		return status(http.StatusNotFound)
	}
	resp.ContentLength, resp.Body = info.Size(), f
	resp.Header.Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	return status(http.StatusOK)
}

// EntriesPath returns the path of an entry bundle below the log's URL.
func EntriesPath(n uint64, width int) string {
	return tilePath(tlog.Tile{H: tileHeight, L: -1, N: int64(n), W: width})
}

// TilePath returns the path of a tile of hashes below the log's URL.
func TilePath(level int, n uint64, width int) string {
	return tilePath(tlog.Tile{H: tileHeight, L: level, N: int64(n), W: width})
}
