package sessionlog

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/log/storage"
)

var errFault = errors.New("injected fault")

// Every write that matters fails a few times, or happens and is reported as failed. What is then in the log is whole, and
// what was acknowledged stays, also after a restart.
func TestStorageFaults(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"checkpoint", "candidate", "blob/", "index", "append"} {
		for _, when := range []string{"before", "after"} {
			t.Run(strings.TrimSuffix(what, "/")+" "+when, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				var faults atomic.Int32
				fail := func() error {
					if faults.Load() > 0 && faults.Add(-1) >= 0 {
						return errFault
					}
					return nil
				}
				w.cfg = func(cfg *Config) {
					cfg.retry = 10 * time.Millisecond
					switch what {
					case "index":
						cfg.batch = func(at string) error {
							if at == when {
								return fail()
							}
							return nil
						}
					case "append":
						cfg.addFn = func(next tessera.AddFn) tessera.AddFn {
							return func(ctx context.Context, e *tessera.Entry) tessera.IndexFuture {
								if when == "before" {
									if err := fail(); err != nil {
										return func() (tessera.Index, error) { return tessera.Index{}, err }
									}
									return next(ctx, e)
								}
								f := next(ctx, e)
								if err := fail(); err != nil {
									return func() (tessera.Index, error) { f(); return tessera.Index{}, err }
								}
								return f
							}
						}
					default:
						cfg.fault = func(at, name string) error {
							if at == when && strings.HasPrefix(name, what) {
								return fail()
							}
							return nil
						}
					}
				}
				s := w.open()
				f := s.freshness()
				sizes := []uint64{s.pub.size()}
				acked := map[record.Digest]uint64{}
				if what != "blob/" { // which are written for the first record only
					e := w.newTD().start(t, f)
					acked[e.StatementDigest()] = s.mustAdd(e).Index
				}
				faults.Store(3)
				for range 3 {
					e := w.newTD().start(t, f)
					waitFor(t, "proof in spite of faults", func() bool {
						a := s.add(e)
						switch a.status {
						case 200:
							acked[e.StatementDigest()] = s.checkProof(a.body).Index
							return true
						case 500, 503:
							return false
						}
						t.Fatalf("%d %s", a.status, a.body)
						return false
					})
					sizes = append(sizes, s.pub.size())
				}
				if faults.Load() > 0 {
					t.Errorf("%d faults didn't happen: the test tests nothing", faults.Load())
				}
				if !slices.IsSorted(sizes) {
					t.Errorf("published sizes went back: %v", sizes)
				}
				if err := s.Err(); err != nil {
					t.Fatalf("halted: %v", err)
				}
				check := func() {
					t.Helper()
					seen := map[record.Digest]int{}
					for i, raw := range s.audit() {
						leaf, err := record.ParseLeaf(raw)
						if err != nil {
							t.Fatal(err)
						}
						if c, ok := leaf.(*record.CollateralLeaf); ok {
							for _, d := range c.Components {
								if b, err := s.client.Blob(t.Context(), d); err != nil || sha256.Sum256(b) != d {
									t.Errorf("blob %x of leaf %d: %v", d, i, err)
								}
							}
						}
						if r, ok := leaf.(*record.RecordLeaf); ok {
							seen[r.Entry.StatementDigest()]++
							if want, ok := acked[r.Entry.StatementDigest()]; ok && want != uint64(i) {
								t.Errorf("acknowledged at %d, found at %d", want, i)
							}
						}
					}
					for d := range acked {
						if seen[d] != 1 {
							t.Errorf("statement %x is in the log %d times", d, seen[d])
						}
					}
				}
				check()
				s.close()
				s = w.open()
				check()
			})
		}
	}
}

// A log that ends while a write keeps failing has lost nothing when it is opened again.
func TestFaultThenRestart(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"checkpoint", "candidate"} {
		for _, when := range []string{"before", "after"} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				var on atomic.Bool
				w.cfg = func(cfg *Config) {
					cfg.retry = 10 * time.Millisecond
					cfg.MaxWait = 50 * time.Millisecond
					cfg.fault = func(at, n string) error {
						if on.Load() && at == when && n == name {
							return errFault
						}
						return nil
					}
				}
				s := w.open()
				f := s.freshness()
				first := w.newTD().start(t, f)
				waitFor(t, "the first record", func() bool { return s.add(first).status == 200 })
				on.Store(true)
				e := w.newTD().start(t, f)
				if a := s.add(e); a.status != 202 {
					t.Fatalf("%d %s", a.status, a.body)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				defer cancel()
				s.http.Config.Shutdown(ctx)
				if err := s.Log.Shutdown(ctx); err == nil {
					t.Error("Shutdown says that all is published")
				}
				s.closed = true
				on.Store(false)
				s = w.open()
				waitFor(t, "publication after the restart", func() bool {
					return s.get(fmt.Sprintf("/proof/by-statement/%x", e.StatementDigest())).status == 200
				})
				s.audit()
			})
		}
	}
}

// A tree that lacks what was published, or signed, or that has something else there, isn't opened.
func TestDataLoss(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	f := s.freshness()
	s.mustAdd(w.newTD().start(t, f))
	s.close()
	tree := filepath.Join(w.dir, tesseraDir)
	snapshot := filepath.Join(t.TempDir(), "snapshot")
	if err := os.CopyFS(snapshot, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	s = w.open()
	s.mustAdd(w.newTD().start(t, f))
	s.close()

	restore := func(from string) {
		if err := os.RemoveAll(tree); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(tree, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
	}
	now := filepath.Join(t.TempDir(), "now")
	if err := os.CopyFS(now, os.DirFS(tree)); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, want error) {
		t.Helper()
		l, err := Open(t.Context(), w.config())
		if err == nil {
			l.Shutdown(t.Context())
		}
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	restore(snapshot)
	refused("older tree", ErrInconsistent)
	published := filepath.Join(w.dir, publishedName)
	note, err := os.ReadFile(published)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(published)
	refused("older tree without the published checkpoint", ErrInconsistent) // the candidate is still there
	os.WriteFile(published, note, 0o644)
	restore(now)
	os.RemoveAll(filepath.Join(tree, ".state"))
	refused("no tree state", ErrInconsistent)
	restore(now)

	// A bundle that isn't what its tiles say is found when it is read again.
	size := s.pub.size()
	bundle := filepath.Join(tree, layout.EntriesPath(0, uint8(size)))
	b, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)-1] ^= 1
	os.WriteFile(bundle, b, 0o644)
	os.RemoveAll(filepath.Join(w.dir, "index"))
	refused("changed bundle", nil) // the leaf may not even parse
	restore(now)
	w.open().audit()
}

// The index is the same when it is built from the tiles again.
func TestIndexRebuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	f := s.freshness()
	s.mustAdd(vendorKeyEntry(t, vendorA, s.relA))
	for i := range 3 {
		s.mustAdd(releaseEntry(t, vendorA, s.relA, fmt.Sprint(i)))
		s.mustAdd(w.newTD().start(t, f))
	}
	s.close()
	dir := filepath.Join(w.dir, "index")
	before := dump(t, dir)
	if len(before) < 15 {
		t.Fatalf("%d keys", len(before))
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s = w.open()
	s.close()
	after := dump(t, dir)
	if n := len(before); len(after) < n {
		t.Errorf("%d keys became %d", n, len(after))
	}
	for k, v := range before {
		// The second run may have logged another time leaf.
		if k[0] != keyPosition && !bytes.Equal(after[k], v) {
			t.Errorf("key %q: %x became %x", k, v, after[k])
		}
	}

	// An index that is ahead of the tree, or of another one, is thrown away.
	w2 := newWorld(t)
	s = w2.open()
	e := w2.newTD().start(t, s.freshness())
	i := s.mustAdd(e).Index
	s.close()
	dir2 := filepath.Join(w2.dir, "index")
	os.RemoveAll(dir2)
	if err := os.CopyFS(dir2, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s = w2.open()
	if p := s.mustAdd(e); p.Index != i {
		t.Errorf("with another log's index: %d became %d", i, p.Index)
	}
}

func dump(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{ReadOnly: true, Logger: pebbleLogger{&Log{logger: testLogger(t)}}})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	it, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer it.Close()
	m := map[string][]byte{}
	for ok := it.First(); ok; ok = it.Next() {
		m[string(it.Key())] = bytes.Clone(it.Value())
	}
	return m
}

// Nothing beyond the published size is served, and everything within it is, however far the tree has grown since and
// whatever a crash has left behind.
func TestServedSize(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var stuck atomic.Bool
	w.cfg = func(cfg *Config) {
		cfg.MaxWait = time.Millisecond
		cfg.retry = 10 * time.Millisecond
		cfg.fault = func(at, name string) error {
			if stuck.Load() && at == "before" && name == publishedName {
				return errFault
			}
			return nil
		}
	}
	s := w.open()
	f := s.freshness()
	add := func(n int) {
		t.Helper()
		done := make(chan answer, n)
		for range n {
			e := w.newTD().start(t, f)
			go func() { done <- s.add(e) }()
		}
		for range n {
			if a := <-done; a.status != 202 && a.status != 200 {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
	}
	add(5)
	waitFor(t, "publication", func() bool { size, _ := s.index.position(); return s.pub.size() == size && size > 5 })
	stuck.Store(true)
	size := s.pub.size()
	width := size
	want := s.audit()
	add(300)
	if n := s.tree.size.Load(); n < 300 {
		t.Fatalf("the tree has %d leaves", n)
	}
	if s.pub.size() != size {
		t.Fatalf("published %d", s.pub.size())
	}

	tree := filepath.Join(w.dir, tesseraDir)
	// What garbage collection does, and what a crash leaves behind: a partial bundle and tile of a width that the log
	// never had when it had it.
	for _, p := range []string{layout.EntriesPath(0, 0), layout.TilePath(0, 0, 0)} {
		if err := os.RemoveAll(filepath.Join(tree, p+".p")); err != nil {
			t.Fatal(err)
		}
	}
	orphan := filepath.Join(tree, layout.TilePath(0, 0, uint8(width)))
	os.MkdirAll(filepath.Dir(orphan), 0o755)
	os.WriteFile(orphan, bytes.Repeat([]byte{0xee}, int(width)*32), 0o644)
	orphan = filepath.Join(tree, layout.EntriesPath(0, uint8(width)))
	os.MkdirAll(filepath.Dir(orphan), 0o755)
	os.WriteFile(orphan, bytes.Repeat([]byte{0, 1, 0xee}, int(width)), 0o644)
	s.tree.cache.Purge()
	s.tree.bundles.Purge()

	if got := s.audit(); !slices.EqualFunc(got, want, bytes.Equal) {
		t.Error("the published leaves have changed")
	}
	for i, leaf := range want {
		if p := s.checkProof(s.get(fmt.Sprintf("/proof/%d", i)).body); !bytes.Equal(p.Extra, leaf) {
			t.Errorf("leaf %d", i)
		}
		// Any narrower tile and bundle is a prefix.
		if i > 0 {
			a := s.get(fmt.Sprintf("/tile/0/000.p/%d", i))
			if a.status != 200 || len(a.body) != i*32 {
				t.Errorf("tile of width %d: %d, %d bytes", i, a.status, len(a.body))
			}
			for j := range i {
				if h := record.LeafHash(want[j]); !bytes.Equal(h[:], a.body[j*32:j*32+32]) {
					t.Errorf("tile of width %d: hash %d", i, j)
				}
			}
		}
	}
	for _, path := range []string{
		fmt.Sprintf("/tile/0/000.p/%d", width+1), fmt.Sprintf("/tile/entries/000.p/%d", width+1), "/tile/0/000", "/tile/entries/000",
		"/tile/0/001.p/1", "/tile/1/000.p/1", "/tile/entries/001.p/1", fmt.Sprintf("/proof/%d", size), "/tile/7/000.p/1", "/tile/8/000.p/1", "/tile/63/000.p/1",
		"/tile/0/000.p/0", "/tile/0/000.p/256", "/tile/0/000.p/01", "/tile/0/x000/000.p/1", "/tile/00/000.p/1", "/tile/0/0", "/tile/64/000",
		"/tile/0/x18/446", "/tile/0/x018/x446/x744/x073/x709/x551/615.p/1", "/tile/0/x072/x057/x594/x037/x927/936", "/tile/-1/000.p/1",
	} {
		if a := s.get(path); a.status != 404 {
			t.Errorf("%s: status %d", path, a.status)
		}
	}
	for _, path := range []string{"/.state/treeState", "/tessera/checkpoint", "/lock", "/candidate", "/index", "/blob/../candidate", "/tile/../candidate"} {
		if a := s.get(path); a.status != 404 && a.status != 400 {
			t.Errorf("%s: status %d: %s", path, a.status, a.body)
		}
	}
	stuck.Store(false)
	waitFor(t, "publication of the rest", func() bool { return s.pub.size() >= 300 })
	s.audit()
	if a := s.get("/tile/0/000"); a.status != 200 || len(a.body) != 8192 {
		t.Errorf("full tile: %d, %d bytes", a.status, len(a.body))
	}
	if a := s.get("/tile/1/000.p/1"); a.status != 200 || len(a.body) != 32 {
		t.Errorf("tile of level 1: %d, %d bytes", a.status, len(a.body))
	}
}

// Resources have the types, the caching and the compression that c2sp.org/tlog-tiles asks for.
func TestHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	for _, tt := range []struct{ path, contentType, cache string }{
		{"/checkpoint", "text/plain; charset=utf-8", "no-cache"},
		{"/freshness", "text/plain; charset=utf-8", "no-store"},
		{"/tile/0/000.p/1", "application/octet-stream", "immutable"},
		{"/tile/entries/000.p/1", "application/octet-stream", "immutable"},
		{"/proof/0", "text/plain; charset=utf-8", "no-cache"},
		{"/", "text/html; charset=utf-8", "no-cache"},
	} {
		a := s.get(tt.path)
		h := a.header
		if a.status != 200 || h.Get("Content-Type") != tt.contentType || !strings.Contains(h.Get("Cache-Control"), tt.cache) ||
			h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v", tt.path, a.status, h)
		}
	}
	if body := string(s.get("/").body); !strings.Contains(body, testOrigin) || !strings.Contains(body, "not Intel") || !strings.Contains(body, "no cosignatures") ||
		!strings.Contains(body, fmt.Sprintf("%x", w.root.Fingerprint())) || strings.Contains(body, "<script") {
		t.Errorf("page:\n%s", body)
	}
	plain := s.raw("/tile/entries/000.p/1", "identity")
	zipped := s.raw("/tile/entries/000.p/1", "br, gzip;q=0.5")
	if plain.header.Get("Content-Encoding") != "" || zipped.header.Get("Content-Encoding") != "gzip" || zipped.header.Get("Vary") != "Accept-Encoding" {
		t.Errorf("%v, %v", plain.header, zipped.header)
	}
	if got := gunzip(t, zipped.body); !bytes.Equal(got, plain.body) {
		t.Error("the compressed bundle is another")
	}
	if a := s.raw("/tile/entries/000.p/1", "gzip;q=0"); a.header.Get("Content-Encoding") != "" {
		t.Error("gzip;q=0 was answered with gzip")
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := storage.NewPosix(dir)
	get := func(name string) ([]byte, error) { return s.Get(t.Context(), name) }
	put := func(name string, b []byte) error { return s.Put(t.Context(), name, b) }
	if _, err := get("a/b/c"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, v := range []string{"one", "two"} {
		if err := put("a/b/c", []byte(v)); err != nil {
			t.Fatal(err)
		}
		if b, err := get("a/b/c"); err != nil || string(b) != v {
			t.Errorf("%q, %v", b, err)
		}
	}
	s.Fault = func(when, _ string) error {
		if when == "before" {
			return errFault
		}
		return nil
	}
	if err := put("a/b/c", []byte("three")); !errors.Is(err, errFault) {
		t.Error(err)
	}
	if b, _ := get("a/b/c"); string(b) != "two" {
		t.Errorf("after a failed write: %q", b)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, storage.TmpDir)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := put("a/b", []byte("a directory is there")); err == nil {
		t.Error("a file replaced a directory")
	}
}
