package bundletest

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/log/record"
)

// Handler serves the log as it was when Publish was last called, as a log does. POST /add logs whatever
// entry it is given, with the world's collateral and time, and publishes.
func (w *World) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /checkpoint", func(rw http.ResponseWriter, r *http.Request) { rw.Write(w.Published()) })
	mux.HandleFunc("GET /freshness", func(rw http.ResponseWriter, r *http.Request) {
		var note []byte
		w.find(func(_ uint64, leaf record.Leaf) bool {
			if t, ok := leaf.(*record.TimeLeaf); ok {
				note = t.Note
			}
			return false
		})
		if note == nil {
			Problem(rw, http.StatusServiceUnavailable, "overloaded", nil)
			return
		}
		rw.Write(note)
	})
	mux.HandleFunc("GET /blob/{digest}", func(rw http.ResponseWriter, r *http.Request) {
		digest, err := hex.DecodeString(r.PathValue("digest"))
		if err != nil || len(digest) != sha256.Size {
			Problem(rw, http.StatusNotFound, "not-found", nil)
			return
		}
		w.mu.Lock()
		b, ok := w.blobs[record.Digest(digest)]
		w.mu.Unlock()
		if !ok {
			Problem(rw, http.StatusNotFound, "not-found", nil)
			return
		}
		rw.Write(b)
	})
	mux.HandleFunc("/evidence/{digest}", w.serveEvidence)
	mux.HandleFunc("GET /tile/{path...}", w.serveTile)
	mux.HandleFunc("GET /proof/{path...}", w.serveProof)
	mux.HandleFunc("POST /add", func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		e, err := record.ParseEntry(body)
		if err != nil {
			Problem(rw, http.StatusBadRequest, "malformed", map[string]any{"detail": err.Error()})
			return
		}
		index, ok := w.find(func(_ uint64, leaf record.Leaf) bool {
			old := entry(leaf)
			return old != nil && old.StatementDigest() == e.StatementDigest()
		})
		if ok {
			leaf, _ := record.ParseLeaf(w.Leaf(index))
			if string(entry(leaf).Bytes()) != string(e.Bytes()) {
				Problem(rw, http.StatusConflict, "statement-exists", map[string]any{"index": index})
				return
			}
		} else {
			index = w.Append(w.LeafFor(e))
			w.Publish(w.Now)
		}
		rw.Write(w.Proof(index, w.Published()).Bytes())
	})
	return mux
}

// serveEvidence keeps evidence for good.
func (w *World) serveEvidence(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch r.Method {
	case http.MethodPut:
		b, err := io.ReadAll(r.Body)
		sum := sha256.Sum256(b)
		if err != nil || hex.EncodeToString(sum[:]) != r.PathValue("digest") {
			Problem(rw, http.StatusBadRequest, "malformed", nil)
			return
		}
		if w.evidence == nil {
			w.evidence = make(map[string][]byte)
		}
		w.evidence[r.PathValue("digest")] = b
		rw.WriteHeader(http.StatusNoContent)
	default:
		b, ok := w.evidence[r.PathValue("digest")]
		if !ok {
			Problem(rw, http.StatusNotFound, "not-found", nil)
			return
		}
		rw.Write(b)
	}
}

// LeafFor returns the leaf that the world's log makes of an entry.
func (w *World) LeafFor(e *record.Entry) []byte {
	switch st := e.Statement(); {
	case st.Release != nil, st.Withdrawn != nil, st.VendorKey != nil:
		return (&record.VendorLeaf{AdmittedAt: w.ms(), Entry: e}).Bytes()
	}
	leaf := &record.RecordLeaf{Ruleset: record.RulesetV1, AdmittedAt: w.ms(), JudgedAt: w.ms(), Entry: e}
	if e.Quote() != nil {
		leaf.Collateral = w.CollateralID
	}
	return leaf.Bytes()
}

// Problem answers with a problem document of the given name and members.
func Problem(rw http.ResponseWriter, status int, name string, members map[string]any) {
	m := map[string]any{"type": "https://affidavit-log.github.io/problems/" + name, "title": name, "status": status}
	for k, v := range members {
		m[k] = v
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.WriteHeader(status)
	rw.Write(b)
}

func entry(leaf record.Leaf) *record.Entry {
	switch l := leaf.(type) {
	case *record.RecordLeaf:
		return l.Entry
	case *record.VendorLeaf:
		return l.Entry
	}
	return nil
}

// Published returns the note that was last published.
func (l *Log) Published() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.note
}

// find returns the first published leaf for which ok says so. Leaves that cannot be parsed are skipped.
func (l *Log) find(ok func(index uint64, leaf record.Leaf) bool) (uint64, bool) {
	size := l.size(l.Published())
	for i := range size {
		leaf, err := record.ParseLeaf(l.Leaf(i))
		if err == nil && ok(i, leaf) {
			return i, true
		}
	}
	return 0, false
}

func (w *World) serveProof(rw http.ResponseWriter, r *http.Request) {
	kind, arg, _ := strings.Cut(r.PathValue("path"), "/")
	vendor := r.URL.Query().Get("vendor")
	var index uint64
	var ok bool
	isHex := func(d record.Digest) bool { return hex.EncodeToString(d[:]) == arg }
	switch kind {
	case "by-statement":
		index, ok = w.find(func(_ uint64, l record.Leaf) bool { e := entry(l); return e != nil && isHex(e.StatementDigest()) })
	case "by-note":
		index, ok = w.find(func(_ uint64, l record.Leaf) bool {
			t, is := l.(*record.TimeLeaf)
			return is && isHex(sha256.Sum256(t.Note))
		})
	case "by-collateral":
		index, ok = w.find(func(_ uint64, l record.Leaf) bool { c, is := l.(*record.CollateralLeaf); return is && isHex(c.ID()) })
	case "by-release":
		w.find(func(i uint64, l record.Leaf) bool { // the newest
			if e := entry(l); e != nil && e.Statement().Release != nil && e.Statement().Vendor == vendor && isHex(e.Statement().Release.Image.SHA256) {
				index, ok = i, true
			}
			return false
		})
	case "by-key":
		index, ok = w.find(func(_ uint64, l record.Leaf) bool {
			e := entry(l)
			return e != nil && e.Statement().VendorKey != nil && e.Statement().Vendor == vendor && e.KeyID == arg
		})
	case "covering":
		n, err := strconv.ParseUint(arg, 10, 64)
		if err != nil {
			break
		}
		index, ok = w.find(func(_ uint64, l record.Leaf) bool { t, is := l.(*record.TimeLeaf); return is && w.size(t.Note) > n })
	default:
		n, err := strconv.ParseUint(kind, 10, 64)
		index, ok = n, err == nil && n < w.size(w.Published())
	}
	if !ok {
		Problem(rw, http.StatusNotFound, "not-found", nil)
		return
	}
	rw.Write(w.Proof(index, w.Published()).Bytes())
}

// serveTile serves tiles and entry bundles of the width that the published size gives them, and of full width.
func (l *Log) serveTile(rw http.ResponseWriter, r *http.Request) {
	level, rest, _ := strings.Cut(r.PathValue("path"), "/")
	path := "tile/8/" + level + "/" + rest
	if level == "entries" {
		path = "tile/8/data/" + rest
	}
	t, err := tlog.ParseTilePath(path)
	if err != nil {
		Problem(rw, http.StatusNotFound, "not-found", nil)
		return
	}
	size := l.size(l.Published())
	if width := size>>(8*max(t.L, 0)) - uint64(t.N)<<8; width < uint64(t.W) || width > size {
		Problem(rw, http.StatusNotFound, "not-found", nil)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.L < 0 {
		rw.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(rw)
		defer z.Close()
		for _, leaf := range l.leaves[t.N<<8 : t.N<<8+int64(t.W)] {
			z.Write(binary.BigEndian.AppendUint16(nil, uint16(len(leaf))))
			z.Write(leaf)
		}
		return
	}
	b, err := tlog.ReadTileData(t, tlog.HashReaderFunc(l.readHashes))
	if err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	rw.Write(b)
}
