package mirror

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	textType   = "text/plain; charset=utf-8"
	binaryType = "application/octet-stream"
	immutable  = "public, max-age=31536000, immutable" // tiles, bundles and blobs never change
	briefly    = "no-cache"                            // may be kept, must be asked for again
)

// zippedBundles bounds the cache of compressed bundles, which take about 1 MB each. It holds what several monitors that
// follow the mirror ask for one after the other.
const zippedBundles = 16

type zipCache = lru.Cache[tlog.Tile, []byte]

func newZipCache() *zipCache {
	c, err := lru.New[tlog.Tile, []byte](zippedBundles)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return c
}

// errNone says that the tree that is served hasn't what was asked for.
var errNone = errors.New("no such thing in the mirrored tree")

// Handler returns the interface for readers, which is that of c2sp.org/tlog-tiles, with blobs:
//
//	GET /checkpoint               text/plain; charset=utf-8, the newest checkpoint of which everything is stored
//	GET /tile/<L>/<N>[.p/<W>]     application/octet-stream
//	GET /tile/entries/<N>[.p/<W>] application/octet-stream, with gzip for who accepts it
//	GET /blob/<SHA-256>           application/octet-stream, a component of collateral
//
// Until there is a checkpoint, everything is answered 503. Nothing beyond the checkpoint's tree is served.
func (m *Mirror) Handler() http.Handler {
	mux := http.NewServeMux()
	get := func(pattern string, f func(w http.ResponseWriter, r *http.Request, h *head) error) {
		mux.HandleFunc("GET "+pattern, func(w http.ResponseWriter, r *http.Request) {
			// Everything here is public, also for a page of somebody else's that verifies it.
			w.Header().Set("Access-Control-Allow-Origin", "*")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			h := m.served.Load()
			if h == nil {
				w.Header().Set("Retry-After", "10")
				m.fail(w, r, http.StatusServiceUnavailable, errors.New("nothing is mirrored yet"))
				return
			}
			err := f(w, r, h)
			if now := m.served.Load(); errors.Is(err, fs.ErrNotExist) && now != h {
				err = f(w, r, now) // what h needs was pruned in this moment, and there is a wider one
			}
			switch {
			case err == nil:
			case errors.Is(err, errNone):
				m.fail(w, r, http.StatusNotFound, err)
			default:
				m.cfg.Logger.Error("mirror: a request failed", "path", r.URL.Path, "err", err)
				m.fail(w, r, http.StatusInternalServerError, errors.New("something is wrong here"))
			}
		})
	}
	get("/checkpoint", func(w http.ResponseWriter, r *http.Request, h *head) error {
		send(w, r, textType, briefly, h.note)
		return nil
	})
	get("/tile/{path...}", m.getTile)
	get("/blob/{digest}", m.getBlob)
	return mux
}

func (m *Mirror) fail(w http.ResponseWriter, r *http.Request, status int, err error) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, err.Error(), status)
}

// send answers with a resource.
func send(w http.ResponseWriter, r *http.Request, contentType, cache string, b []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", cache)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if r.Method != http.MethodHead {
		w.Write(b) // an error means that the client is gone
	}
}

func (m *Mirror) getTile(w http.ResponseWriter, r *http.Request, h *head) error {
	t, err := parseTile(r.PathValue("path"))
	if err != nil {
		return errNone
	}
	have := widthAt(t, h.Size)
	if have < uint64(t.W) {
		return errNone
	}
	if t.L >= 0 {
		b, err := m.tile(t, have)
		if err != nil {
			return err
		}
		send(w, r, binaryType, immutable, b)
		return nil
	}
	w.Header().Set("Vary", "Accept-Encoding")
	if !acceptsGzip(r) {
		b, err := m.tile(t, have)
		if err != nil {
			return err
		}
		send(w, r, binaryType, immutable, b)
		return nil
	}
	z, ok := m.zipped.Get(t)
	if !ok {
		b, err := m.tile(t, have)
		if err != nil {
			return err
		}
		if z, err = zip(b); err != nil {
			return err
		}
		m.zipped.Add(t, z)
	}
	w.Header().Set("Content-Encoding", "gzip")
	send(w, r, binaryType, immutable, z)
	return nil
}

// tile reads a tile or bundle, of which have hashes or entries are stored.
func (m *Mirror) tile(t tlog.Tile, have uint64) ([]byte, error) {
	stored := t
	stored.W = int(have)
	name := tilePath(stored)
	b, err := m.store.read(name)
	if err != nil {
		return nil, err
	}
	n := t.W * tlog.HashSize
	if t.L < 0 {
		n = 0
		for range t.W {
			if len(b) < n+2 {
				return nil, fmt.Errorf("%s is damaged", name)
			}
			n += 2 + (int(b[n])<<8 | int(b[n+1]))
		}
	}
	if len(b) < n {
		return nil, fmt.Errorf("%s is damaged", name)
	}
	return b[:n], nil
}

func zip(b []byte) ([]byte, error) {
	var buf bytes.Buffer
	g, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := g.Write(b); err != nil {
		return nil, err
	}
	if err := g.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// acceptsGzip reports whether the client asks for gzip (RFC 9110, section 12.5.3).
func acceptsGzip(r *http.Request) bool {
	for _, h := range r.Header.Values("Accept-Encoding") {
		for part := range strings.SplitSeq(h, ",") {
			coding, params, _ := strings.Cut(strings.TrimSpace(part), ";")
			if !strings.EqualFold(strings.TrimSpace(coding), "gzip") {
				continue
			}
			q, ok := strings.CutPrefix(strings.ToLower(strings.ReplaceAll(params, " ", "")), "q=")
			weight, err := strconv.ParseFloat(q, 64)
			return !ok || err == nil && weight > 0
		}
	}
	return false
}

func (m *Mirror) getBlob(w http.ResponseWriter, r *http.Request, _ *head) error {
	name := r.PathValue("digest")
	// Lowercase is the only spelling, also where file names are equal in any case.
	if b, err := hex.DecodeString(name); err != nil || len(b) != 32 || hex.EncodeToString(b) != name {
		return errNone
	}
	b, err := m.store.read(blobPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return errNone
	}
	if err != nil {
		return err
	}
	send(w, r, binaryType, immutable, b)
	return nil
}
