package sessionlog

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// A stored is a log's directory that a test may damage.
type stored struct {
	t               testing.TB
	dir             string
	size, published int
	blob            record.Digest
}

// smallStored has full and partial tiles, and more entries than are published. bigStored has full tiles on two levels.
// Both are made once, by Tessera. Tests link their files into directories of their own.
var (
	smallStored = sync.OnceValues(func() (*stored, error) { return makeStored(2_500, 2_310) })
	bigStored   = sync.OnceValues(func() (*stored, error) { return makeStored(66_000, 65_800) })
)

func makeStored(size, published int) (*stored, error) {
	dir, err := os.MkdirTemp("", "stored")
	if err != nil {
		return nil, err
	}
	s := &stored{dir: dir, size: size, published: published}
	return s, s.make()
}

func (s *stored) make() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	put := func(name string, b []byte) error {
		file := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return os.WriteFile(file, b, 0o644)
	}
	driver, err := posix.New(ctx, posix.Config{Path: filepath.Join(s.dir, tesseraDir)})
	if err != nil {
		return err
	}
	skey, _, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		return err
	}
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).WithCheckpointInterval(100*time.Millisecond).WithCheckpointRepublishInterval(0).
		WithBatching(16_384, time.Second).WithGarbageCollectionInterval(0))
	if err != nil {
		return err
	}
	leaf := &record.CollateralLeaf{TEE: record.TEETDX}
	for i := range leaf.Components {
		b := fmt.Appendf(nil, "component %d", i)
		leaf.Components[i] = sha256.Sum256(b)
		if err := put(blobName(leaf.Components[i]), b); err != nil {
			return err
		}
	}
	s.blob = leaf.Components[3]
	add := func(from, to int) error {
		var futures []tessera.IndexFuture
		for i := from; i < to; i++ {
			b := fmt.Appendf(nil, "entry %d", i)
			switch i {
			case 1000:
				b = leaf.Bytes()
			case 2000:
				note, err := storedNote(checkpoint.Checkpoint{Origin: testOrigin, Size: 1500})
				if err != nil {
					return err
				}
				b = (&record.TimeLeaf{LoggedAt: 1, Note: note}).Bytes()
			}
			futures = append(futures, appender.Add(ctx, tessera.NewEntry(b)))
		}
		for _, f := range futures {
			if _, err := f(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := add(0, s.published); err != nil {
		return err
	}
	tr := newTree(reader)
	if _, err := tr.refresh(ctx); err != nil {
		return err
	}
	root, err := tr.root(ctx, uint64(s.published))
	if err != nil {
		return err
	}
	cp := checkpoint.Checkpoint{Origin: testOrigin, Size: uint64(s.published), Root: root}
	if err := add(s.published, s.size); err != nil {
		return err
	}
	if err := shutdown(ctx); err != nil {
		return err
	}
	published, err := storedNote(cp)
	if err != nil {
		return err
	}
	return errors.Join(put(publishedName, published), put(candidateName, cp.Text()), put(metaName, fmt.Appendf(nil, "affidavit-log/v1\norigin %s\nroot 00\n", testOrigin)))
}

func storedNote(cp checkpoint.Checkpoint) ([]byte, error) {
	line, err := commonKeys()[0].Sign(cp.Text(), time.Now())
	if err != nil {
		return nil, err
	}
	return checkpoint.Sign(cp.Text(), line)
}

// newStored returns a log that is as it should be.
func newStored(t testing.TB, made func() (*stored, error)) *stored {
	t.Helper()
	all, err := made()
	if err != nil {
		t.Fatal(err)
	}
	s := &stored{t: t, dir: t.TempDir(), size: all.size, published: all.published, blob: all.blob}
	linkAll(t, all.dir, s.dir)
	return s
}

// linkAll makes the files below one directory appear below another. Tests replace files, and never write into them.
func linkAll(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if rel == lockName {
			return nil // a lock is on the file, whatever it is called
		}
		return os.Link(file, filepath.Join(to, rel))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *stored) read(name string) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *stored) write(name string, b []byte) {
	s.t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", b, 0o644); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stored) remove(name string) {
	s.t.Helper()
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
		s.t.Fatal(err)
	}
}

// edit changes a file.
func (s *stored) edit(name string, f func(b []byte) []byte) {
	s.t.Helper()
	s.write(name, f(s.read(name)))
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 1
		return b
	}
}

// entry appends an entry to a bundle.
func withEntry(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, 5), "extra"...)
}

func (s *stored) check(c CheckConfig) *CheckReport {
	s.t.Helper()
	c.Dir = s.dir
	r, err := Check(s.t.Context(), c)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func describe(fs []CheckFinding) string {
	var b strings.Builder
	for _, f := range fs {
		fmt.Fprintf(&b, "\n%s %s", f.Severity, f.String())
	}
	return b.String()
}

// Everything that can be wrong with what is stored is found, by its name, and nothing else is.
func TestCheck(t *testing.T) {
	t.Parallel()
	const (
		tiles   = "tessera/tile/"
		bundle7 = tiles + "entries/007"
		last    = tiles + "entries/009.p/196" // of 2,500
		tile7   = tiles + "0/007"
		edge0   = tiles + "0/009.p/196"
		edge1   = tiles + "1/000.p/9"
		big0    = tiles + "0/257.p/208" // of 66,000
		big1    = tiles + "1/001.p/1"
		big2    = tiles + "2/000.p/1"
		full1   = tiles + "1/000"
	)
	all, err := smallStored()
	if err != nil {
		t.Fatal(err)
	}
	blob := blobName(all.blob)
	policy := parsePolicy(t, "quorum none\n")
	small, big := smallStored, bigStored
	for _, tt := range []struct {
		name   string
		stored func() (*stored, error)
		damage func(s *stored)
		want   string // kinds and names of findings that aren't harmless
		index  int    // of the first, if that isn't 0
	}{
		{"nothing", small, func(s *stored) {}, "", 0},
		{"bit in an entry", small, func(s *stored) { s.edit(bundle7, flip(40)) }, "entry-changed " + bundle7, 1795},
		{"bit in the last entry", small, func(s *stored) { s.edit(last, flip(-1)) }, "entry-changed " + last, 2499},
		{"bit in a length", small, func(s *stored) { s.edit(bundle7, flip(1)) }, "bundle-malformed " + bundle7, 1792},
		{"surplus entry in a full bundle", small, func(s *stored) { s.edit(bundle7, withEntry) }, "bundle-surplus " + bundle7, 1792},
		{"surplus entry in a partial bundle", small, func(s *stored) { s.edit(last, withEntry) }, "bundle-surplus " + last, 2304},
		{"surplus byte", small, func(s *stored) { s.edit(bundle7, func(b []byte) []byte { return append(b, 0) }) }, "bundle-malformed " + bundle7, 1792},
		{"huge bundle", small, func(s *stored) {
			s.edit(bundle7, func(b []byte) []byte { return append(b, make([]byte, maxBundle)...) })
		}, "bundle-surplus " + bundle7, 1792},
		{"missing entry", small, func(s *stored) {
			s.edit(bundle7, func(b []byte) []byte { o, _ := bundleOffsets(b); return b[:o[255]] })
		}, "bundle-short " + bundle7, 1792},
		{"first entry missing", small, func(s *stored) {
			s.edit(bundle7, func(b []byte) []byte { o, _ := bundleOffsets(b); return b[o[1]:] })
		}, "bundle-short " + bundle7 + ", entry-changed " + bundle7, 1792},
		{"cut bundle", small, func(s *stored) { s.edit(bundle7, func(b []byte) []byte { return b[:len(b)-3] }) }, "bundle-malformed " + bundle7, 1792},
		{"empty bundle", small, func(s *stored) { s.write(bundle7, nil) }, "bundle-short " + bundle7, 1792},
		{"no bundle", small, func(s *stored) { s.remove(bundle7) }, "bundle-missing " + bundle7, 1792},
		{"no partial bundle", small, func(s *stored) { s.remove(last) }, "bundle-missing " + last, 2304},
		{"other bundle", small, func(s *stored) { s.write(bundle7, s.read(tiles+"entries/008")) }, "entry-changed " + bundle7, 1792},
		{"bundle is a folder", small, func(s *stored) {
			s.remove(bundle7)
			os.Mkdir(filepath.Join(s.dir, bundle7), 0o755)
		}, "read-error " + bundle7, 1792},
		{"bundle is a pipe", small, func(s *stored) {
			s.remove(bundle7)
			if err := syscall.Mkfifo(filepath.Join(s.dir, bundle7), 0o644); err != nil {
				s.t.Fatal(err)
			}
		}, "read-error " + bundle7, 1792},

		{"bit in a tile", small, func(s *stored) { s.edit(tile7, flip(33)) }, "tile-changed " + tile7, 1793},
		{"bit in a tile of level 1", big, func(s *stored) { s.edit(full1, flip(7*32)) }, "tile-changed " + full1, 1792},
		{"bit in a partial tile of level 0", small, func(s *stored) { s.edit(edge0, flip(0)) }, "tile-changed " + edge0, 2304},
		{"bit in a partial tile of level 1", small, func(s *stored) { s.edit(edge1, flip(31)) }, "tile-changed " + edge1, 0},
		{"bit in a partial tile of level 2", big, func(s *stored) { s.edit(big2, flip(0)) }, "tile-changed " + big2, 0},
		{"all partial tiles", big, func(s *stored) { s.edit(big0, flip(0)); s.edit(big1, flip(0)); s.edit(big2, flip(0)) },
			"tile-changed " + big2 + ", tile-changed " + big1 + ", tile-changed " + big0, 0},
		{"no tile", small, func(s *stored) { s.remove(tile7) }, "tile-missing " + tile7, 1792},
		{"no partial tile", small, func(s *stored) { s.remove(edge1) }, "tile-missing " + edge1, 0},
		{"no tile of level 1", big, func(s *stored) { s.remove(full1) }, "tile-missing " + full1, 0},
		{"short tile", small, func(s *stored) { s.edit(tile7, func(b []byte) []byte { return b[32:] }) }, "tile-length " + tile7, 1792},
		{"surplus hash in a full tile", small, func(s *stored) { s.edit(tile7, func(b []byte) []byte { return append(b, b[:32]...) }) }, "tile-length " + tile7, 1792},
		{"surplus hash in a partial tile", small, func(s *stored) { s.edit(edge0, func(b []byte) []byte { return append(b, b[:32]...) }) }, "tile-length " + edge0, 2304},
		{"entry and tile", small, func(s *stored) {
			s.edit(bundle7, flip(40))
			b := s.read(bundle7)
			o, _ := bundleOffsets(b)
			var tile []byte
			for _, h := range leafHashes(b, o) {
				tile = append(tile, h[:]...)
			}
			s.write(tile7, tile)
		}, "entry-changed " + tile7, 1792},
		{"entry and edge", small, func(s *stored) { s.edit(bundle7, flip(40)); s.edit(edge0, flip(0)) }, "entry-changed " + bundle7 + ", tile-changed " + edge0, 1795},
		{"unpublished entry", small, func(s *stored) { s.edit(last, flip(-100)) }, "entry-changed " + last, 2491},

		{"no blob", small, func(s *stored) { s.remove(blob) }, "blob-missing " + blob, 1000},
		{"wrong blob", small, func(s *stored) { s.edit(blob, flip(0)) }, "blob-changed " + blob, 1000},
		{"huge blob", small, func(s *stored) { s.write(blob, make([]byte, maxBlob+1)) }, "blob-changed " + blob, 1000},

		{"no checkpoint", small, func(s *stored) { s.remove(publishedName) }, "checkpoint-missing checkpoint", 0},
		{"no note", small, func(s *stored) { s.write(publishedName, []byte("x")) }, "checkpoint-invalid checkpoint", 0},
		{"huge checkpoint", small, func(s *stored) { s.write(publishedName, make([]byte, 1<<20)) }, "checkpoint-invalid checkpoint", 0},
		{"bad signature", small, func(s *stored) { s.edit(publishedName, flip(-10)) }, "checkpoint-invalid checkpoint", 0},
		{"other root", small, func(s *stored) { s.sign(checkpoint.Checkpoint{Origin: testOrigin, Size: 2310}) }, "checkpoint-root checkpoint", 0},
		{"older checkpoint", small, func(s *stored) {
			s.sign(checkpoint.Checkpoint{Origin: testOrigin, Size: 1, Root: record.LeafHash([]byte("entry 0"))})
		}, "checkpoint-old checkpoint", 0},
		{"lost entries", small, func(s *stored) { s.sign(checkpoint.Checkpoint{Origin: testOrigin, Size: 2501}) }, "entries-lost ", 2500},
		{"candidate ahead", small, func(s *stored) {
			s.write(candidateName, checkpoint.Checkpoint{Origin: testOrigin, Size: 2501}.Text())
		}, "entries-lost candidate", 2500},
		{"candidate of another tree", small, func(s *stored) {
			s.write(candidateName, checkpoint.Checkpoint{Origin: testOrigin, Size: 2500}.Text())
		}, "candidate-invalid candidate", 0},
		{"candidate of another log", small, func(s *stored) { s.write(candidateName, checkpoint.Checkpoint{Origin: "other"}.Text()) }, "candidate-invalid candidate", 0},
		{"no candidate", small, func(s *stored) { s.remove(candidateName) }, "", 0},
		{"torn candidate", small, func(s *stored) { s.write(candidateName, nil) }, "candidate-invalid candidate", 0},
		{"another log", small, func(s *stored) { s.write(metaName, []byte("affidavit-log/v1\norigin other\n")) }, "candidate-invalid candidate, checkpoint-invalid checkpoint", 0},
		{"no log", small, func(s *stored) { s.write(metaName, nil) }, "meta-invalid affidavit-log", 0},

		{"no state", small, func(s *stored) { s.remove("tessera/.state/treeState") }, "state-missing ", 0},
		{"torn state", small, func(s *stored) { s.write("tessera/.state/treeState", []byte("{")) }, "state-missing ", 0},
		{"state with another root", small, func(s *stored) { s.state(2500, [32]byte{}) }, "state-root ", 0},
		{"state behind", small, func(s *stored) { s.state(2309, [32]byte{}) }, "*entries-lost ", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStored(t, tt.stored)
			tt.damage(s)
			r := s.check(CheckConfig{LogPolicy: policy})
			var got []string
			var first *uint64
			for _, f := range r.Findings {
				if f.Severity != CheckHarmless {
					got = append(got, string(f.Kind)+" "+f.Name)
					if first == nil {
						first = f.Index
					}
				}
			}
			all := strings.Join(got, ", ")
			if want, ok := strings.CutPrefix(tt.want, "*"); ok {
				if !slices.Contains(got, want) {
					t.Errorf("found %q, not %q%s", all, want, describe(r.Findings))
				}
			} else if all != tt.want {
				t.Errorf("found %q, want %q%s", all, tt.want, describe(r.Findings))
			}
			if tt.index != 0 && (first == nil || *first != uint64(tt.index)) {
				t.Errorf("index %v, want %d%s", first, tt.index, describe(r.Findings))
			}
			if (r.Err() != nil) != (tt.want != "") {
				t.Errorf("error %v", r.Err())
			}
			if r.Bundles != uint64(s.size+255)/256 && !strings.Contains(tt.want, "state-missing") && !strings.HasPrefix(tt.want, "*") {
				t.Errorf("%d bundles audited: what was wrong hid the rest", r.Bundles)
			}
		})
	}
}

// sign publishes another checkpoint.
func (s *stored) sign(cp checkpoint.Checkpoint) {
	s.t.Helper()
	note, err := storedNote(cp)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(publishedName, note)
}

func (s *stored) state(size uint64, root [32]byte) {
	s.t.Helper()
	b, err := json.Marshal(map[string]any{"size": size, "root": root[:]})
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("tessera/.state/treeState", b)
}

// What a crash leaves behind is named as harmless, and so are strangers' files.
func TestCheckLeftovers(t *testing.T) {
	t.Parallel()
	s := newStored(t, smallStored)
	if r := s.check(CheckConfig{}); r.Harmless != 1 || r.Findings[0].Kind != OldPartial {
		t.Fatalf("%+v", r) // the widths of earlier batches
	}
	for name, want := range map[string]CheckKind{
		"tessera/tile/entries/009":             OrphanTile,
		"tessera/tile/0/010.p/7":               OrphanTile,
		"tessera/tile/0/009.p/197":             OrphanTile,
		"tessera/tile/7/x123/456":              OrphanTile,
		"tessera/tile/entries/0031234567":      TempFile,
		"tessera/tile/0/009.p/1961234567":      TempFile,
		"tmp/put-1":                            TempFile,
		"tessera/.state/treeState12345":        TempFile,
		"tessera/checkpoint12345":              TempFile,
		"tessera/tile/entries/.DS_Store":       UnknownFile,
		"tessera/tile/00/000":                  UnknownFile,
		"tessera/tile/0/1/2":                   UnknownFile,
		"blobs/00/" + strings.Repeat("f", 64):  UnknownFile,
		"notes.txt":                            UnknownFile,
		"blobs/ff/" + strings.Repeat("f", 64):  "",
		"index/000001.log":                     "",
		"tessera/tile/entries/008.p/3":         OldPartial,
		"collateral/00606A000000-platform.bin": "",
	} {
		s.write(name, []byte("x"))
		r := s.check(CheckConfig{})
		s.remove(name)
		if r.Err() != nil {
			t.Errorf("%s: %v", name, r.Err())
		}
		i := slices.IndexFunc(r.Findings, func(f CheckFinding) bool { return f.Name == name })
		switch {
		case want == "" || want == OldPartial:
			if i >= 0 {
				t.Errorf("%s: %s", name, describe(r.Findings))
			}
		case i < 0 || r.Findings[i].Kind != want || r.Findings[i].Severity != CheckHarmless:
			t.Errorf("%s: want %s, got%s", name, want, describe(r.Findings))
		}
	}
}

// A log that a process has open, and appends to, is audited up to what it had when the audit began.
func TestCheckRunningLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.mustAdd(w.newTD().start(t, s.freshness()))
			}
		}
	})
	var last uint64
	for range 20 {
		r, err := Check(t.Context(), CheckConfig{Dir: w.dir, LogPolicy: w.policy})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Err(); err != nil || r.Published < last {
			t.Errorf("size %d after %d: %v%s", r.Published, last, err, describe(r.Findings))
		}
		last = r.Published
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	s.close()
	r, err := Check(t.Context(), CheckConfig{Dir: w.dir, LogPolicy: w.policy})
	if err != nil {
		t.Fatal(err)
	}
	if r.Err() != nil || r.Published != r.Integrated || r.Published <= last || r.Blobs != 6 || r.Origin != testOrigin { // the two chains of the simulated PCS are one
		t.Errorf("%+v", r)
	}
}

// An empty directory is no clean log, and an audit can be interrupted.
func TestCheckNothing(t *testing.T) {
	t.Parallel()
	if _, err := Check(t.Context(), CheckConfig{Dir: t.TempDir()}); !errors.Is(err, ErrNoLog) {
		t.Errorf("%v", err)
	}
	if _, err := Check(t.Context(), CheckConfig{Tiles: t.TempDir()}); !errors.Is(err, ErrNoLog) {
		t.Errorf("%v", err)
	}
	if _, err := Check(t.Context(), CheckConfig{}); err == nil {
		t.Error("nothing to check was checked")
	}
	s := newStored(t, smallStored)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Check(ctx, CheckConfig{Dir: s.dir, Progress: func(done, all uint64) {
		if done > 1000 {
			cancel()
		}
	}}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
