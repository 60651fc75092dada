package mirror

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// auditor is a source that has audited a world's log as far as it was published. It isn't the monitor, so that what it
// says can be wrong.
type auditor struct {
	w *bundletest.World

	mu     sync.Mutex // guards what follows
	size   uint64
	root   [32]byte
	note   []byte
	hashes []tlog.Hash
	n      int64
}

func newAuditor(w *bundletest.World) *auditor { return &auditor{w: w} }

// publish makes the log publish what it has, and audits it.
func (a *auditor) publish(t testing.TB) {
	t.Helper()
	note := a.w.Publish(a.w.Now)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.note, a.size = note, a.w.Size()
	for ; a.n < int64(a.size); a.n++ {
		h, err := tlog.StoredHashes(a.n, a.w.Leaf(uint64(a.n)), tlog.HashReaderFunc(a.read))
		if err != nil {
			t.Fatal(err)
		}
		a.hashes = append(a.hashes, h...)
	}
	a.root = a.w.Head(a.size).Root
}

func (a *auditor) read(indexes []int64) ([]tlog.Hash, error) {
	var h []tlog.Hash
	for _, x := range indexes {
		if x >= int64(len(a.hashes)) {
			return nil, fmt.Errorf("no hash %d", x)
		}
		h = append(h, a.hashes[x])
	}
	return h, nil
}

func (a *auditor) Verified() (uint64, [32]byte, []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.size, a.root, a.note
}

func (a *auditor) RootAt(size uint64) ([32]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if size == 0 {
		return checkpoint.EmptyRoot(), nil
	}
	if size > a.size {
		return [32]byte{}, fmt.Errorf("size %d isn't audited", size)
	}
	return tlog.TreeHash(int64(size), tlog.HashReaderFunc(a.read))
}

func (a *auditor) Tile(level uint8, n uint64, w int) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return tlog.ReadTileData(tlog.Tile{H: 8, L: int(level), N: int64(n), W: w}, tlog.HashReaderFunc(a.read))
}

// fill appends leaves that are distinct, and not records: the mirror doesn't look into them.
func fill(w *bundletest.World, to uint64) {
	for n := w.Size(); n < to; n++ {
		w.Append(fmt.Appendf(nil, "leaf %d", n))
	}
}

// rig is a world, its log over HTTP, and a mirror of it.
type rig struct {
	*auditor
	log *client.Client
	cfg Config
	m   *Mirror

	requests atomic.Int64
	// change edits what the log answers.
	change atomic.Pointer[func(path string, body []byte) []byte]
}

// tempDir returns a folder in memory, if there is such a file system: thousands of syncs take their time on disks.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "affidavit-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newRig(t testing.TB) *rig {
	t.Helper()
	w := bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 1})
	r := &rig{auditor: newAuditor(w)}
	h := w.Handler()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		r.requests.Add(1)
		change := r.change.Load()
		if change == nil {
			h.ServeHTTP(rw, req)
			return
		}
		req.Header.Del("Accept-Encoding")
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, req)
		body := answer.Body.Bytes()
		if answer.Header().Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(answer.Body)
			if err != nil {
				t.Error(err)
				return
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Error(err)
				return
			}
		}
		body = (*change)(req.URL.Path, body)
		if body == nil {
			http.NotFound(rw, req)
			return
		}
		rw.WriteHeader(answer.Code)
		rw.Write(body)
	}))
	t.Cleanup(srv.Close)
	var err error
	if r.log, err = client.New(srv.URL, client.Config{}); err != nil {
		t.Fatal(err)
	}
	r.cfg = Config{Dir: filepath.Join(tempDir(t), "mirror"), Origin: w.Origin, Source: r.auditor, Log: r.log, Logger: slog.New(slog.DiscardHandler)}
	r.open(t)
	return r
}

func (r *rig) open(t testing.TB) {
	t.Helper()
	m, err := Open(r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.m = m
}

func (r *rig) update(t testing.TB) {
	t.Helper()
	if err := r.m.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// check reads everything that the mirror serves as another client does, and compares it with the log.
func (r *rig) check(t testing.TB) (size uint64) {
	t.Helper()
	srv := httptest.NewServer(r.m.Handler())
	defer srv.Close()
	c, err := client.New(srv.URL, client.Config{LogPolicy: r.w.Policy()})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := c.Tree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	size = tree.Checkpoint().Size
	n := uint64(0)
	for leaf, err := range tree.Leaves(t.Context(), 0, size) {
		if err != nil {
			t.Fatalf("of a mirror of size %d, leaf %d: %v", size, n, err)
		}
		if !bytes.Equal(leaf, r.w.Leaf(n)) {
			t.Fatalf("leaf %d is another one", n)
		}
		n++
	}
	if n != size {
		t.Fatalf("%d leaves of %d", n, size)
	}
	for _, at := range []uint64{1, size / 2, size - 1} {
		if _, err := tree.Consistency(t.Context(), min(at, size)); err != nil && size > 0 {
			t.Fatalf("consistency from %d: %v", at, err)
		}
	}
	return size
}

// files returns the files under the mirror's directory.
func (r *rig) files(t testing.TB) (names []string) {
	t.Helper()
	err := filepath.WalkDir(r.cfg.Dir, func(file string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(r.cfg.Dir, file)
			names = append(names, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestGrowth fails if a tile or bundle of some size isn't copied, or a partial one stays that nobody needs.
func TestGrowth(t *testing.T) {
	r := newRig(t)
	if _, ok := r.m.Size(); ok {
		t.Error("a new mirror has a size")
	}
	r.update(t) // nothing is audited yet
	for _, size := range []uint64{0, 1, 2, 255, 256, 257, 511, 512, 600, 600, 1100} {
		fill(r.w, size)
		r.publish(t)
		r.update(t)
		if size == 0 {
			continue
		}
		if got := r.check(t); got != size {
			t.Fatalf("mirrored %d, want %d", got, size)
		}
		want := []string{"checkpoint"}
		for level := -1; level < 0 || size>>(8*level) > 0; level++ {
			for n := int64(0); ; n++ {
				tile := tlog.Tile{H: 8, L: level, N: n}
				if tile.W = int(widthAt(tile, size)); tile.W == 0 {
					break
				}
				want = append(want, tilePath(tile))
			}
		}
		slices.Sort(want)
		got := slices.DeleteFunc(r.files(t), func(name string) bool { return name == progressFile })
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("at size %d there are %v, want %v", size, got, want)
		}
	}
	r.open(t)
	if got := r.check(t); got != 1100 {
		t.Errorf("opened again: %d", got)
	}
}

// TestStaticFiles: the directory itself is a log for a client that reads files, also when both log and monitor are gone.
func TestStaticFiles(t *testing.T) {
	r := newRig(t)
	set := r.w.AddCollateral(r.w.Set)
	fill(r.w, 700)
	r.publish(t)
	r.update(t)
	c, err := client.New("http://mirror.invalid", client.Config{LogPolicy: r.w.Policy(), HTTPClient: &http.Client{Transport: client.DirTransport(r.cfg.Dir)}})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := c.Tree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, err := range tree.Leaves(t.Context(), 0, 700) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	leaf, err := record.ParseLeaf(r.w.Leaf(set))
	if err != nil {
		t.Fatal(err)
	}
	for _, digest := range leaf.(*record.CollateralLeaf).Components {
		if _, err := c.Blob(t.Context(), digest); err != nil {
			t.Error(err)
		}
	}
	if n != 700 {
		t.Errorf("%d leaves", n)
	}
}

// TestEveryCrash stops the mirror at each step that makes something visible, once before it and once after, reopens it,
// and demands that what is served is complete, at the old size or the new one, and that the next update gets there.
func TestEveryCrash(t *testing.T) {
	broken := errors.New("the disk is gone")
	r := newRig(t)
	r.w.AddCollateral(r.w.Set)
	fill(r.w, 250)
	r.publish(t)
	r.update(t)
	before := r.cfg.Dir
	r.w.AddCollateral(r.w.Set) // whose blobs are there
	fill(r.w, 260)
	r.publish(t)
	for _, when := range []string{"before", "after"} {
		for stop := 1; ; stop++ {
			r.cfg.Dir = filepath.Join(tempDir(t), "mirror")
			if err := os.CopyFS(r.cfg.Dir, os.DirFS(before)); err != nil {
				t.Fatal(err)
			}
			r.open(t)
			var mu sync.Mutex
			steps := 0
			r.m.store.fault = func(at, path string) error {
				mu.Lock()
				defer mu.Unlock()
				if at == when {
					steps++
				}
				if steps >= stop { // and everything after it: the process is dead
					return broken
				}
				return nil
			}
			err := r.m.Update(t.Context())
			if err == nil {
				if stop < 10 {
					t.Fatalf("only %d steps", stop)
				}
				break
			}
			if !errors.Is(err, broken) {
				t.Fatal(err)
			}
			if got := r.check(t); got != 250 && got != 260 {
				t.Fatalf("%s step %d: serves %d", when, stop, got)
			}
			r.open(t)
			if got := r.check(t); got != 250 && got != 260 {
				t.Fatalf("%s step %d: reopened, serves %d", when, stop, got)
			}
			r.update(t)
			if got := r.check(t); got != 260 {
				t.Fatalf("%s step %d: updated again, serves %d", when, stop, got)
			}
		}
	}
}

// TestLyingLog: what isn't in the audited tree is never stored, and keeps the checkpoint where it is.
func TestLyingLog(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		edit       func([]byte) []byte
		want       string
	}{
		{"changed entry", "/tile/entries/001.p/44", func(b []byte) []byte { b[7] ^= 1; return b }, "isn't the one that was audited"},
		{"short bundle", "/tile/entries/001.p/44", func(b []byte) []byte { return b[:len(b)-1] }, "43 entries, want 44"},
		{"empty bundle", "/tile/entries/001.p/44", func(b []byte) []byte { return []byte{} }, "0 entries, want 44"},
		{"swapped entries", "/tile/entries/000", func(b []byte) []byte {
			return slices.Concat(b[8:16], b[:8], b[16:])
		}, "isn't the one that was audited"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t)
			fill(r.w, 20)
			r.publish(t)
			r.update(t)
			fill(r.w, 300)
			r.publish(t)
			edited := false
			edit := func(path string, body []byte) []byte {
				if path == tt.path {
					edited = true
					return tt.edit(body)
				}
				return body
			}
			r.change.Store(&edit)
			err := r.m.Update(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) || !edited {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			r.change.Store(nil)
			if got := r.check(t); got != 20 {
				t.Errorf("serves %d", got)
			}
			r.update(t)
			if got := r.check(t); got != 300 {
				t.Errorf("serves %d", got)
			}
		})
	}
}

// TestSurplus: entries beyond those asked for, which a log may serve, aren't stored.
func TestSurplus(t *testing.T) {
	r := newRig(t)
	fill(r.w, 20)
	r.publish(t)
	surplus := func(path string, body []byte) []byte {
		if path == "/tile/entries/000.p/20" {
			return append(body, 0, 1, 'x')
		}
		return body
	}
	r.change.Store(&surplus)
	r.update(t)
	if b, err := r.m.store.read("tile/entries/000.p/20"); err != nil || bytes.HasSuffix(b, []byte{'x'}) {
		t.Errorf("stored %q, %v", b, err)
	}
	r.check(t)
}

// TestMissingBlob: a blob that the log doesn't serve holds nothing up, and is asked for again, also after a restart.
func TestMissingBlob(t *testing.T) {
	r := newRig(t)
	r.w.AddCollateral(r.w.Set)
	r.publish(t)
	gone := sha256.Sum256(r.w.Set.Components()[2])
	name := hex.EncodeToString(gone[:])
	none := func(path string, body []byte) []byte {
		if path == "/blob/"+name {
			return nil
		}
		return body
	}
	r.change.Store(&none)
	r.update(t)
	r.check(t)
	if has, _ := r.m.store.has(blobPath(name)); has {
		t.Fatal("the blob is there")
	}
	r.open(t)
	r.change.Store(nil)
	r.update(t)
	if b, err := r.m.store.read(blobPath(name)); err != nil || sha256.Sum256(b) != gone {
		t.Errorf("not read again: %v", err)
	}
	if len(r.m.progress.Missing) > 0 {
		t.Errorf("still missing: %v", r.m.progress.Missing)
	}
}

// TestBlobsUnanswered: a log that can't be reached isn't one that has no blobs.
func TestBlobsUnanswered(t *testing.T) {
	r := newRig(t)
	r.w.AddCollateral(r.w.Set)
	r.publish(t)
	down := &net.DNSError{IsNotFound: true} // which isn't tried again
	transport := roundTripper(func(req *http.Request) (*http.Response, error) {
		if strings.HasPrefix(req.URL.Path, "/blob/") {
			return nil, down
		}
		return http.DefaultTransport.RoundTrip(req)
	})
	srv := httptest.NewServer(r.w.Handler())
	defer srv.Close()
	c, err := client.New(srv.URL, client.Config{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	r.m.cfg.Log = c
	if err := r.m.Update(t.Context()); err == nil {
		t.Error("a mirror without its blobs")
	}
	if _, ok := r.m.Size(); ok || len(r.m.progress.Missing) > 0 {
		t.Errorf("blobs count as missing: %v", r.m.progress.Missing)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestOtherHistories: a mirror doesn't go back, and doesn't go on in another tree.
func TestOtherHistories(t *testing.T) {
	r := newRig(t)
	fill(r.w, 300)
	r.publish(t)
	r.update(t)

	fresh := bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 1})
	other := newAuditor(fresh)
	fill(fresh, 100)
	other.publish(t)
	r.m.cfg.Source = other
	r.update(t) // a monitor that has begun anew
	if got := r.check(t); got != 300 {
		t.Errorf("went back to %d", got)
	}
	fresh.Append([]byte("another leaf"))
	fill(fresh, 400)
	other.publish(t)
	if err := r.m.Update(t.Context()); err == nil || !strings.Contains(err.Error(), "keep its directory as evidence") {
		t.Errorf("went on in a fork: %v", err)
	}
	if got := r.check(t); got != 300 {
		t.Errorf("serves %d", got)
	}

	cfg := r.cfg
	cfg.Origin = "log.example.org/other"
	if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), "log.example.org/other") {
		t.Errorf("opened for another log: %v", err)
	}
	// Tiles of another tree.
	if err := os.WriteFile(r.m.store.path("tile/0/001.p/44"), make([]byte, 44*32), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(r.cfg); err == nil {
		t.Error("opened with a damaged tile")
	}
}

// TestResume: a long copy that is interrupted goes on where it was, unless what is stored is of another history.
func TestResume(t *testing.T) {
	r := newRig(t)
	const size = batch*tileWidth + 3*tileWidth
	fill(r.w, size)
	r.publish(t)
	stop := func(path string, body []byte) []byte {
		if strings.HasPrefix(path, "/tile/entries/066") {
			return nil
		}
		return body
	}
	r.change.Store(&stop)
	if err := r.m.Update(t.Context()); err == nil {
		t.Fatal("not interrupted")
	}
	if _, ok := r.m.Size(); ok {
		t.Fatal("serves a part")
	}
	r.change.Store(nil)
	r.open(t)
	before := r.requests.Load()
	r.update(t)
	if n := r.requests.Load() - before; n > 5 {
		t.Errorf("%d requests for the last three bundles", n)
	}
	if got := r.check(t); got != size {
		t.Errorf("serves %d", got)
	}

	// A stored bundle under no checkpoint, of a history that isn't the one that is audited now.
	r = newRig(t)
	fill(r.w, 600)
	r.publish(t)
	if err := r.m.advance(func(p *progress) { p.Next, p.Root = 512, strings.Repeat("00", 32) }); err != nil {
		t.Fatal(err)
	}
	if err := r.m.store.write("tile/entries/000", []byte("something else")); err != nil {
		t.Fatal(err)
	}
	r.update(t)
	r.check(t)
}

// TestOffer: what the monitor has read isn't read again, unless it is damaged; and what is served can't be replaced.
func TestOffer(t *testing.T) {
	r := newRig(t)
	entries := func(from, to uint64) (es [][]byte) {
		for i := from; i < to; i++ {
			es = append(es, r.w.Leaf(i))
		}
		return es
	}
	fill(r.w, 600)
	r.publish(t)
	r.m.Offer(0, entries(0, 256))
	r.m.Offer(1, entries(256, 512))
	r.m.Offer(2, entries(512, 600))
	r.m.Offer(2, nil)
	before := r.requests.Load()
	r.update(t)
	if n := r.requests.Load() - before; n != 0 {
		t.Errorf("%d requests for what was offered", n)
	}
	r.check(t)

	fill(r.w, 1300)
	r.publish(t)
	r.m.Offer(0, [][]byte{[]byte("something else")})
	r.m.Offer(2, entries(512, 600)[:87])
	r.m.Offer(3, entries(767, 1023))
	r.m.Offer(4, entries(1024, 1280))
	if err := os.WriteFile(r.m.store.path("tile/entries/004"), []byte("torn"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.open(t) // after a crash
	before = r.requests.Load()
	r.update(t)
	if n := r.requests.Load() - before; n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
	if got := r.check(t); got != 1300 {
		t.Errorf("serves %d", got)
	}
}

// TestHTTP has what tlog-tiles asks of a log's answers.
func TestHTTP(t *testing.T) {
	r := newRig(t)
	do := func(method, path, accept string) *http.Response {
		req := httptest.NewRequest(method, path, nil)
		if accept != "" {
			req.Header.Set("Accept-Encoding", accept)
		}
		rec := httptest.NewRecorder()
		r.m.Handler().ServeHTTP(rec, req)
		return rec.Result()
	}
	if resp := do("GET", "/checkpoint", ""); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("before there is anything: %d", resp.StatusCode)
	}
	r.w.AddCollateral(r.w.Set)
	fill(r.w, 600)
	r.publish(t)
	r.update(t)
	// Published, and not mirrored.
	fill(r.w, 700)
	r.w.Publish(r.w.Now)

	digest := sha256.Sum256(r.w.Set.Components()[0])
	blob := "/blob/" + hex.EncodeToString(digest[:])
	for _, tt := range []struct {
		path, contentType, cache string
		size                     int // -1 for any
	}{
		{"/checkpoint", textType, briefly, -1},
		{"/tile/0/000", binaryType, immutable, 8192},
		{"/tile/0/000.p/1", binaryType, immutable, 32}, // of a full tile
		{"/tile/0/002.p/88", binaryType, immutable, 88 * 32},
		{"/tile/0/002.p/87", binaryType, immutable, 87 * 32},
		{"/tile/1/000.p/2", binaryType, immutable, 64},
		{"/tile/entries/002.p/88", binaryType, immutable, 88 * 10},
		{"/tile/entries/002.p/87", binaryType, immutable, 87 * 10},
		{"/tile/entries/001", binaryType, immutable, 256 * 10},
		{blob, binaryType, immutable, len(r.w.Set.Components()[0])},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			resp := do(method, tt.path, "")
			body, _ := io.ReadAll(resp.Body)
			want := tt.size
			if want < 0 {
				want = len(body)
			}
			if method == "HEAD" {
				want = 0
			}
			if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != tt.contentType || resp.Header.Get("Cache-Control") != tt.cache || len(body) != want {
				t.Errorf("%s %s: %d %v, %d bytes, want %d", method, tt.path, resp.StatusCode, resp.Header, len(body), want)
			}
		}
	}
	for range 2 { // from the disk, and from the cache
		resp := do("GET", "/tile/entries/002.p/87", "gzip")
		if resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("not compressed: %v", resp.Header)
		}
		z, err := gzip.NewReader(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(z); err != nil || len(b) != 870 {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	}
	if resp := do("GET", "/tile/entries/002.p/87", "gzip;q=0"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("compressed for who refuses it")
	}
	for _, path := range []string{
		"/tile/0/002", "/tile/0/002.p/89", "/tile/0/003", "/tile/0/003.p/1", "/tile/2/000.p/1", "/tile/1/000.p/3", "/tile/64/000", "/tile/63/000.p/1",
		"/tile/entries/002", "/tile/entries/002.p/89", "/tile/data/000", "/tile/00/000", "/tile/0/0", "/tile/0/000.p/0", "/tile/0/000.p/01", "/tile/0/000.p/256",
		"/tile/0/x000/000", "/tile/0/x999/x999/x999/x999/x999/x999/999", "/tile/0/x072/x057/x594/x037/x927/936", "/tile/-1/000", "/tile/entries/", "/tile/",
		"/blob/" + strings.Repeat("00", 32), strings.ToUpper(blob[:10]) + blob[10:], "/blob/x", "/progress.json", "/tmp/", "/", "/tile/8/0/000",
	} {
		if resp := do("GET", path, ""); resp.StatusCode != 404 {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
	if resp := do("POST", "/checkpoint", ""); resp.StatusCode != 405 {
		t.Errorf("POST: %d", resp.StatusCode)
	}
}

// TestReadersMeanwhile: whoever has a checkpoint of the mirror can read its tree, while the mirror goes on.
func TestReadersMeanwhile(t *testing.T) {
	r := newRig(t)
	fill(r.w, 250)
	r.publish(t)
	r.update(t)
	srv := httptest.NewServer(r.m.Handler())
	defer srv.Close()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				c, err := client.New(srv.URL, client.Config{LogPolicy: r.w.Policy()})
				if err != nil {
					t.Error(err)
					return
				}
				tree, err := c.Tree(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				size := tree.Checkpoint().Size
				for _, err := range tree.Leaves(t.Context(), 200, size) {
					if err != nil {
						t.Errorf("of size %d: %v", size, err)
						return
					}
				}
			}
		})
	}
	for size := uint64(251); size < 275; size++ {
		fill(r.w, size)
		r.publish(t)
		r.update(t)
	}
	close(done)
	wg.Wait()
}

func FuzzParseTile(f *testing.F) {
	for _, s := range []string{"0/000", "entries/x001/234.p/5", "63/999", "data/000", "entries/data/000", "0/x000/000", "5/000.p/256"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tile, err := parseTile(s)
		if err != nil {
			return
		}
		if got := tilePath(tile); got != "tile/"+s {
			t.Errorf("%q is read as %v, which is written %q", s, tile, got)
		}
		if w := widthAt(tile, 1<<40); w > tileWidth {
			t.Errorf("width %d", w)
		}
	})
}
