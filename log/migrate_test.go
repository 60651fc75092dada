package sessionlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// oldAndNew returns a log with some records, and where it is to be moved.
func (w *world) oldAndNew() (before checkpoint.Checkpoint, to string) {
	w.t.Helper()
	s := w.open()
	f := s.freshness()
	for range 3 {
		s.mustAdd(w.newTD().start(w.t, f))
	}
	s.close()
	return w.published(w.dir), filepath.Join(tempDir(w.t), "new")
}

func (w *world) published(dir string) checkpoint.Checkpoint {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, publishedName))
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := w.policy.Check(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return c.Checkpoint
}

// A log that was moved goes on with the same tree, which its witnesses, who know the old one, cosign. Where it was it
// can't be started any more.
func TestMigrate(t *testing.T) {
	t.Parallel()
	w, _ := witnessed(t, 2, 2, nil)
	before, to := w.oldAndNew()
	from := w.dir
	c := MigrateConfig{FromDir: from, Dir: to, LogPolicy: w.policy}
	for range 2 { // and again, which changes nothing
		cp, err := Migrate(t.Context(), c)
		if err != nil || cp.Size != before.Size || cp.Root != before.Root {
			t.Fatalf("%+v, %v; want %+v", cp, err, before)
		}
	}
	if a, b := w.published(from), w.published(to); a.Root != b.Root {
		t.Errorf("%+v, %+v", a, b)
	}
	if _, err := Open(t.Context(), w.config()); !errors.Is(err, ErrMoved) || !strings.Contains(err.Error(), to) {
		t.Errorf("the old place: %v", err)
	}
	if _, err := Migrate(t.Context(), MigrateConfig{FromDir: from, Dir: to + "2", LogPolicy: w.policy}); !errors.Is(err, ErrMoved) {
		t.Errorf("moving it elsewhere as well: %v", err)
	}
	w.dir = to
	s := w.open()
	p := s.mustAdd(w.newTD().start(t, s.freshness()))
	if p.Index < before.Size {
		t.Errorf("index %d in a tree of %d", p.Index, before.Size)
	}
	s.audit()
	if root, err := s.tree.root(t.Context(), before.Size); err != nil || root != before.Root {
		t.Errorf("%x, %v; want %x", root, err, before.Root)
	}
	s.close()
	if r, err := Check(t.Context(), CheckConfig{Dir: to, LogPolicy: w.policy}); err != nil || r.Err() != nil || r.Blobs != 6 {
		t.Errorf("%+v, %v", r, err)
	}
}

// Every write of a migration fails once, or happens and is reported as failed, and the migration begins again, as after a
// kill there. In between the log is in at most one place, and at the end in the new one.
func TestMigrateFaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before, _ := w.oldAndNew()
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			for n := 0; ; n++ {
				dir := tempDir(t)
				from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
				linkAll(t, w.dir, from)
				puts := 0
				c := MigrateConfig{FromDir: from, Dir: to, LogPolicy: w.policy, fault: func(at, name string) error {
					if at != when {
						return nil
					}
					if puts++; puts == n+1 {
						return fmt.Errorf("%w: %s", errFault, name)
					}
					return nil
				}}
				_, err := Migrate(t.Context(), c)
				if err == nil {
					if n < 15 { // mark, 6 blobs, bundle, tile, version, state, candidate, checkpoint, moved, meta
						t.Errorf("only %d writes", n)
					}
					return
				}
				if !errors.Is(err, errFault) {
					t.Fatalf("write %d: %v", n, err)
				}
				places := 0
				for _, d := range []string{from, to} {
					_, moved := os.Stat(filepath.Join(d, movedName))
					if Exists(d) == nil && moved != nil {
						places++
					}
				}
				if places > 1 {
					t.Errorf("write %d: the log lives twice", n)
				}
				cp, err := Migrate(t.Context(), MigrateConfig{FromDir: from, Dir: to, LogPolicy: w.policy})
				if err != nil || cp.Root != before.Root {
					t.Fatalf("again after write %d: %+v, %v", n, cp, err)
				}
				if r, err := Check(t.Context(), CheckConfig{Dir: to, LogPolicy: w.policy}); err != nil || r.Err() != nil {
					t.Errorf("after write %d: %+v, %v", n, r, err)
				}
			}
		})
	}
}

// A larger tree, with unpublished entries, is moved with the process cancelled in the middle again and again.
func TestMigrateInterrupted(t *testing.T) {
	t.Parallel()
	s := newStored(t, bigStored)
	policy := parsePolicy(t, "quorum none\n")
	to := filepath.Join(t.TempDir(), "to")
	tries := 0
	for {
		tries++
		ctx, cancel := context.WithCancel(t.Context())
		var calls atomic.Int64 // entries are audited at the same time
		_, err := Migrate(ctx, MigrateConfig{FromDir: s.dir, Dir: to, LogPolicy: policy, Progress: func(done, all uint64) {
			if n := calls.Add(1); done < all && n == int64(tries) {
				cancel()
			}
		}})
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if Exists(to) == nil {
			t.Fatal("it is open before it is done")
		}
		if tries > 3 {
			tries = 1 << 20
		}
	}
	if tries < 3 {
		t.Errorf("only %d tries", tries)
	}
	r, err := Check(t.Context(), CheckConfig{Dir: to, LogPolicy: policy})
	if err != nil || r.Err() != nil || r.Integrated != 66_000 || r.Published != 65_800 || r.Harmless != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for _, name := range []string{"tessera/tile/1/000", "tessera/tile/2/000.p/1", "tessera/tile/0/257.p/208", "tessera/tile/entries/257.p/208"} {
		if got, err := os.ReadFile(filepath.Join(to, name)); err != nil || !bytes.Equal(got, s.read(name)) {
			t.Errorf("%s differs from Tessera's: %v", name, err)
		}
	}
}

// What isn't as it should be isn't moved, and nothing is moved onto something else.
func TestMigrateRefusals(t *testing.T) {
	t.Parallel()
	policy := parsePolicy(t, "quorum none\n")
	for _, tt := range []struct {
		name string
		edit func(s *stored, c *MigrateConfig)
		want string
	}{
		{"nothing wrong", func(*stored, *MigrateConfig) {}, ""},
		{"no log", func(s *stored, c *MigrateConfig) { s.remove(metaName) }, "no log there"},
		{"entry", func(s *stored, c *MigrateConfig) { s.edit("tessera/tile/entries/003", flip(50)) }, "tile/entries/003: its entries don't have the hashes"},
		{"surplus entry", func(s *stored, c *MigrateConfig) { s.edit("tessera/tile/entries/003", withEntry) }, "doesn't have 256 whole entries"},
		{"blob", func(s *stored, c *MigrateConfig) { s.edit(blobName(s.blob), flip(0)) }, "leaf 1000: tree is inconsistent"},
		{"no blob", func(s *stored, c *MigrateConfig) { s.remove(blobName(s.blob)) }, "leaf 1000: blob"},
		{"entries and tile", func(s *stored, c *MigrateConfig) {
			s.write("tessera/tile/entries/003", s.read("tessera/tile/entries/004"))
			s.write("tessera/tile/0/003", s.read("tessera/tile/0/004"))
		}, "audit it with check"},
		{"checkpoint", func(s *stored, c *MigrateConfig) { s.edit(publishedName, flip(-10)) }, "published checkpoint: "},
		{"no checkpoint", func(s *stored, c *MigrateConfig) { s.remove(publishedName) }, "published checkpoint: "},
		{"checkpoint of another tree", func(s *stored, c *MigrateConfig) { s.sign(checkpoint.Checkpoint{Origin: testOrigin, Size: 2310}) }, "checkpoint-root"},
		{"another log's name", func(s *stored, c *MigrateConfig) { s.write(metaName, []byte("affidavit-log/v1\norigin x\n")) }, "published checkpoint is of"},
		{"no state", func(s *stored, c *MigrateConfig) { s.remove("tessera/.state/treeState") }, "state is missing"},
		{"fewer entries", func(s *stored, c *MigrateConfig) { s.state(100, [32]byte{}) }, "it has 100 leaves, and 2310 are published"},
		{"a file in the way", func(s *stored, c *MigrateConfig) { s.inDir(c.Dir).write("photo.jpg", nil) }, "isn't empty: there is photo.jpg"},
		{"another migration", func(s *stored, c *MigrateConfig) { s.inDir(c.Dir).write(migratingName, []byte("x")) }, "holds another migration"},
		{"a log in the way", func(s *stored, c *MigrateConfig) { c.Dir = newStored(s.t, smallStored).dir }, "isn't empty"},
		{"onto itself", func(s *stored, c *MigrateConfig) { c.Dir = c.FromDir }, "in use"},
		{"two sources", func(s *stored, c *MigrateConfig) { c.FromURL = "http://127.0.0.1:1" }, "one source"},
		{"tiles of a log that may go on", func(s *stored, c *MigrateConfig) { c.FromTiles, c.FromDir = s.asTiles(), "" }, "isn't frozen"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newStored(t, smallStored)
			c := MigrateConfig{FromDir: s.dir, Dir: filepath.Join(t.TempDir(), "to"), LogPolicy: policy}
			tt.edit(s, &c)
			_, err := Migrate(t.Context(), c)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(s.dir, movedName)); (err == nil) != (tt.want == "") {
				t.Errorf("moved: %v", err)
			}
		})
	}
}

func (s *stored) inDir(dir string) *stored { return &stored{t: s.t, dir: dir} }

// asTiles returns a directory with the published part of the log, as a mirror has it.
func (s *stored) asTiles() string {
	s.t.Helper()
	dir := s.t.TempDir()
	linkAll(s.t, filepath.Join(s.dir, "tessera/tile"), filepath.Join(dir, "tile"))
	m := s.inDir(dir)
	m.write(publishedName, s.read(publishedName))
	filepath.Walk(filepath.Join(s.dir, "blobs"), func(file string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			b, _ := os.ReadFile(file)
			m.write("blob/"+fi.Name(), b)
		}
		return err
	})
	return dir
}

// A log is begun again from what was published of it, from a mirror or over HTTP, when its storage is lost; or moved so if
// it is frozen.
func TestMigratePublished(t *testing.T) {
	t.Parallel()
	w, _ := witnessed(t, 2, 2, nil)
	edit := w.cfg
	w.cfg = func(c *Config) { edit(c); c.TimeInterval = time.Hour } // a log that isn't submitted to publishes nothing new
	s := w.open()
	f := s.freshness()
	for range 3 {
		s.mustAdd(w.newTD().start(t, f))
	}
	to := filepath.Join(tempDir(t), "lost")
	c := MigrateConfig{FromURL: s.url, Dir: to, LogPolicy: w.policy, Root: w.root, TakeOver: true}

	// While it runs it can't be taken over: here it publishes between the beginning and the end.
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/tile/0/") {
			s.mustAdd(w.newTD().start(t, f))
		}
		resp, err := http.Get(s.url + r.URL.Path)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		rw.WriteHeader(resp.StatusCode)
		io.Copy(rw, resp.Body)
	}))
	defer proxy.Close()
	running := c
	running.FromURL, running.Dir = proxy.URL, to+"2"
	if _, err := Migrate(t.Context(), running); err == nil || !strings.Contains(err.Error(), "it is running") {
		t.Errorf("a running log: %v", err)
	}

	cp, err := Migrate(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	w.dir = to
	s = w.open()
	p := s.mustAdd(w.newTD().start(t, s.freshness()))
	if root, err := s.tree.root(t.Context(), cp.Size); err != nil || root != cp.Root || p.Index < cp.Size {
		t.Errorf("%x, %v", root, err)
	}
	s.close()

	// A frozen one needs nobody's word, stays where it was, too, and is frozen where it goes.
	if cp, err = Freeze(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	s = w.open()
	c.FromURL, c.TakeOver, c.Dir = s.url, false, to+"3"
	if got, err := Migrate(t.Context(), c); err != nil || got.Root != cp.Root {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := Migrate(t.Context(), MigrateConfig{FromDir: w.dir, Dir: to + "4", LogPolicy: w.policy}); err != nil {
		t.Errorf("beside the process that serves it: %v", err)
	}
	s.close()
	for _, dir := range []string{to, to + "3", to + "4"} {
		w.dir = dir
		s := w.open()
		if a := s.get("/frozen"); a.status != 200 {
			t.Errorf("%s isn't frozen: %d", dir, a.status)
		}
		s.audit()
		s.close()
	}

	// From a mirror's directory.
	st := newStored(t, smallStored)
	to = filepath.Join(t.TempDir(), "to")
	policy := parsePolicy(t, "quorum none\n")
	got, err := Migrate(t.Context(), MigrateConfig{FromTiles: st.asTiles(), Dir: to, LogPolicy: policy, Root: w.root, TakeOver: true})
	if err != nil || got.Size != uint64(st.published) {
		t.Errorf("%+v, %v", got, err)
	}
	if r, err := Check(t.Context(), CheckConfig{Dir: to, LogPolicy: policy}); err != nil || r.Err() != nil || r.Integrated != got.Size {
		t.Errorf("%+v, %v", r, err)
	}
}
