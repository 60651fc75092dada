package monitor

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// proves fails unless the evidence shows that the log forked, to somebody who has nothing but the log policy.
func (l *lab) proves(f *Finding) {
	l.t.Helper()
	e := f.Evidence
	if e == nil || len(e.Notes) != 2 {
		l.t.Fatalf("evidence %+v, want two notes", e)
	}
	var cps []checkpoint.Checkpoint
	for _, n := range e.Notes {
		c, err := l.Policy().CheckLog([]byte(n))
		if err != nil {
			l.t.Fatal(err)
		}
		cps = append(cps, c.Checkpoint)
	}
	small, large := cps[0], cps[1]
	if small.Size == large.Size {
		if small.Root == large.Root {
			l.t.Error("the two checkpoints are the same")
		}
		return
	}
	root, err := base64.StdEncoding.DecodeString(e.PrefixRoot)
	if err != nil || e.PrefixSize != small.Size {
		l.t.Fatalf("prefix %d, %q; want %d", e.PrefixSize, e.PrefixRoot, small.Size)
	}
	var hashes [][32]byte
	for _, s := range e.Consistency {
		h, err := checkpoint.ParseHash(s)
		if err != nil {
			l.t.Fatal(err)
		}
		hashes = append(hashes, h)
	}
	if err := checkpoint.VerifyConsistency([32]byte(root), large.Root, small.Size, large.Size, hashes); err != nil {
		l.t.Error(err)
	}
	if [32]byte(root) == small.Root {
		l.t.Error("the root in the proof is that of the smaller checkpoint: no fork")
	}
}

// stays fails unless the monitor audits nothing beyond size, says why, and repeats no finding.
func (l *lab) stays(size uint64) {
	l.t.Helper()
	before := l.findings()
	l.step()
	l.m.Close()
	l.open(func(c *Config) { *c = l.cfg })
	l.step()
	if after := l.findings(); len(after) != len(before) {
		for _, f := range after {
			l.t.Logf("%s %s: %s", f.ID, f.Kind, f.Message)
		}
		l.t.Errorf("%d findings, then %d", len(before), len(after))
	}
	s := l.m.Status()
	if s.Verified != size {
		l.t.Errorf("verified %d leaves, want %d", s.Verified, size)
	}
	if f, err := l.m.Finding(s.Halted); err != nil || f == nil || f.Class != ClassTamper {
		l.t.Errorf("status names finding %q as what it halts for: %+v, %v", s.Halted, f, err)
	}
}

// recovers fails unless the monitor goes on when the log is honest again.
func (l *lab) recovers() {
	l.t.Helper()
	n := len(l.findings())
	l.honest()
	l.Tick(time.Second)
	l.AddTime()
	l.publish()
	if s := l.m.Status(); s.Verified != l.Size() || s.Halted != "" {
		l.t.Errorf("verified %d of %d leaves, halted %q, error %q", s.Verified, l.Size(), s.Halted, s.Error)
	}
	if len(l.findings()) != n {
		l.t.Errorf("%d findings, then %d", n, len(l.findings()))
	}
}

// fork returns a lab whose log has the same keys and another history.
func fork(t *testing.T, o bundletest.LogOptions, sessions int) *lab {
	l := newLab(t, o)
	l.Tick(time.Second)
	l.AddTime()
	for range sessions {
		l.session()
	}
	l.Publish(l.Now)
	return l
}

func TestSplitViewOfTwoServers(t *testing.T) {
	for _, size := range []uint64{20, 300} {
		l := newLab(t, witnesses)
		l.session()
		l.open()
		l.publish()
		other := fork(t, witnesses, 1)
		other.fill(size)
		other.Publish(other.Now)
		size := l.m.Status().Verified
		h := other.World.Handler()
		l.mu.Lock()
		l.answer = func(rw http.ResponseWriter, r *http.Request) bool { h.ServeHTTP(rw, r); return true }
		l.mu.Unlock()
		l.step()
		l.proves(l.want(KindSplitView))
		l.stays(size)
		l.recovers()
	}
}

func TestSplitViewOfWitness(t *testing.T) {
	other := fork(t, witnesses, 1)
	for _, tt := range []struct {
		name  string
		ahead bool // the witness has seen more than the log shows
	}{{"behind", false}, {"ahead", true}} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, witnesses)
			if !tt.ahead {
				for range 3 {
					l.session()
				}
			}
			var asked string
			w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/evidence") {
					http.NotFound(rw, r)
					return
				}
				asked = r.URL.Path
				// What a witness shows: the log's signature and its own.
				rw.Write(l.Sign(other.Head(other.Size()), other.Now, 0))
			}))
			defer w.Close()
			l.open(func(c *Config) { c.Witnesses = []Witness{{Name: "w", URL: w.URL + "/monitor/"}} })
			l.publish()
			if tt.ahead {
				l.wantNone() // the log may yet show it
				for range 3 {
					l.session()
				}
				l.publish()
			}
			f := l.want(KindSplitView)
			l.proves(f)
			if !strings.HasPrefix(asked, "/monitor/") || !strings.HasSuffix(asked, "/checkpoint") || len(asked) != len("/monitor//checkpoint")+64 {
				t.Errorf("asked the witness for %q", asked)
			}
			l.step()
			l.want(KindSplitView)
		})
	}
}

// A fork that a witness refused to cosign is found by the evidence that it keeps.
func TestForkRefusedByWitness(t *testing.T) {
	other := fork(t, witnesses, 1)
	l := newLab(t, witnesses)
	for range 3 {
		l.session()
	}
	w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		good := l.Sign(l.Head(3), l.Now, 0)
		if !strings.HasSuffix(r.URL.Path, "/evidence") {
			rw.Write(good)
			return
		}
		forked := l.Sign(other.Head(other.Size()), other.Now)
		forged := bytes.Replace(forked, []byte("\n\n"), []byte("x\n\n"), 1)
		fmt.Fprintf(rw, "This log forked. This witness had cosigned:\n\n%s\nThen it was asked to cosign this:\n\nold 3\n\n%s\n%s\n%s", good, forked, forged, l.Origin)
	}))
	defer w.Close()
	l.open(func(c *Config) { c.Witnesses = []Witness{{Name: "w", URL: w.URL}} })
	l.publish()
	l.proves(l.want(KindSplitView))
	l.step()
	l.want(KindSplitView)
}

// Whatever is in a witness's text: notes that were written into it are found whole.
func FuzzNotesIn(f *testing.F) {
	f.Add([]byte("before"), []byte("log.example\n3\nroot\n"), []byte("after"))
	f.Fuzz(func(t *testing.T, before, body, after []byte) {
		for _, b := range [][]byte{before, body, after} {
			if bytes.Contains(b, []byte("log.example")) || bytes.Contains(b, []byte("\n\n")) || bytes.HasPrefix(b, []byte("\n")) || bytes.Contains(b, []byte("\u2014")) {
				return
			}
		}
		if body = bytes.TrimRight(body, "\n"); len(body) == 0 {
			return
		}
		note := append(append([]byte("log.example\n"), body...), "\n\n\u2014 log.example AAAA\n"...)
		text := slices.Concat(bytes.TrimRight(before, "\n"), []byte("\n\n"), note, []byte("\n"), note, after)
		if got := notesIn(text, "log.example"); len(got) != 2 || !bytes.Equal(got[0], note) || !bytes.HasPrefix(got[1], note) {
			t.Errorf("%q in %q", got, text)
		}
	})
}

func TestHonestWitness(t *testing.T) {
	l := newLab(t, witnesses)
	var note []byte
	status := http.StatusOK
	w := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.WriteHeader(status)
		rw.Write(note)
	}))
	defer w.Close()
	l.open(func(c *Config) { c.Witnesses = []Witness{{Name: "w", URL: w.URL}} })
	status = http.StatusNotFound
	l.publish()
	status = http.StatusOK
	note = l.Sign(l.Head(3), l.Now, 0)
	l.step()
	l.session()
	note = l.Sign(l.Head(l.Size()), l.Now, 0) // ahead of what is published
	l.step()
	if got := l.m.Status().Witnesses; len(got) != 1 || got[0].Size != l.Size() || got[0].Error != "" {
		t.Errorf("witnesses %+v", got)
	}
	l.publish()
	l.wantNone()

	// The log goes on elsewhere, and shows nothing of it.
	l.session()
	note = l.Sign(l.Head(l.Size()), l.Now, 0)
	l.step()
	published := l.m.Status().Published
	l.Tick(withheldAfter + time.Minute)
	l.tamper("/checkpoint", func([]byte) []byte { return l.Sign(l.Head(published), l.Now) }) // an idle log's
	l.step()
	l.want(KindWithheld)
	l.honest()

	note = []byte("nothing\n")
	l.publish()
	l.want(KindWithheld, KindBadWitnessNote)
	status = http.StatusInternalServerError
	l.Tick(l.m.cfg.DeadAfter + time.Minute)
	l.publish()
	l.want(KindWithheld, KindBadWitnessNote, KindWitnessSilent)
}

func TestRollback(t *testing.T) {
	for _, tt := range []struct {
		name string
		size uint64
	}{{"to the beginning", 3}, {"to nothing", 0}, {"by one", 1 << 20}} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, witnesses)
			l.session()
			l.open()
			l.publish()
			size := l.Size()
			small := min(tt.size, size-1)
			l.tamper("/checkpoint", func([]byte) []byte { return l.Sign(l.Head(small), l.Now) })
			if err := l.m.Step(context.Background()); err == nil {
				t.Error("an older checkpoint is no error")
			}
			l.wantNone() // it may be a cache's
			l.Tick(2 * time.Minute)
			l.step()
			f := l.want(KindRollback)
			if e := f.Evidence; len(e.Notes) != 2 || e.Notes[0] != string(l.Sign(l.Head(small), l.Now)) {
				t.Errorf("evidence %+v", e)
			}
			l.stays(size)
			l.recovers()
		})
	}
}

func TestSameSizeFork(t *testing.T) {
	l := newLab(t, witnesses)
	l.session()
	l.open()
	l.publish()
	size := l.Size()
	l.tamper("/checkpoint", func([]byte) []byte {
		cp := l.Head(size)
		cp.Root[5] ^= 1
		return l.Sign(cp, l.Now)
	})
	l.step()
	l.proves(l.want(KindSameSizeFork))
	l.stays(size)
	l.recovers()
}

// A time leaf whose checkpoint is of another tree, signed by the log, is a fork that the log itself has logged.
func TestForkInTimeLeaf(t *testing.T) {
	l := newLab(t, witnesses)
	l.session()
	cp := l.Head(l.Size())
	cp.Root[0] ^= 1
	note := l.Sign(cp, l.Now)
	l.Append((&record.TimeLeaf{LoggedAt: l.Now.UnixMilli(), Note: note}).Bytes())
	l.open()
	l.publish()
	if f := l.want(KindSplitView); f.Evidence.Notes[0] != string(note) || *f.Index != l.Size()-1 {
		t.Errorf("finding %+v", f)
	}
}

func TestBadCheckpoint(t *testing.T) {
	for _, tt := range []struct {
		name string
		note func(l *lab) []byte
	}{
		{"no quorum", func(l *lab) []byte { return l.Sign(l.Head(l.Size()), l.Now, 0) }},
		{"malformed", func(l *lab) []byte { return []byte("hello\n") }},
		{"of another log", func(l *lab) []byte {
			o := bundletest.NewLog(l.t, bundletest.LogOptions{Origin: "other.example/log"})
			return o.Sign(o.Head(0), l.Now)
		}},
		{"changed", func(l *lab) []byte { return []byte(strings.Replace(string(l.Published()), "\n", "\n1", 1)) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, witnesses)
			l.open()
			l.publish()
			size := l.Size()
			l.session()
			bad := tt.note(l)
			l.tamper("/checkpoint", func([]byte) []byte { return bad })
			l.step()
			f := l.want(KindBadCheckpoint)
			if string(f.Evidence.Served) != string(bad) {
				t.Errorf("evidence %q", f.Evidence.Served)
			}
			l.step()
			l.want(KindBadCheckpoint)
			if s := l.m.Status(); s.Verified != size {
				t.Errorf("verified %d leaves, want %d", s.Verified, size)
			}
			l.recovers()
		})
	}
}

// editEntries changes the entries in a bundle.
func editEntries(edit func([][]byte) [][]byte) func([]byte) []byte {
	return func(b []byte) []byte {
		entries, _ := client.SplitEntries(b)
		var out []byte
		for _, e := range edit(entries) {
			out = append(binary.BigEndian.AppendUint16(out, uint16(len(e))), e...)
		}
		return out
	}
}

func TestEntries(t *testing.T) {
	changed := func(entries [][]byte) [][]byte {
		e := slices.Clone(entries[3])
		e[len(e)-1] ^= 1
		entries[3] = e
		return entries
	}
	for _, tt := range []struct {
		name   string
		tamper func([]byte) []byte
		kind   Kind
		index  uint64 // in the bundle
	}{
		{"changed", editEntries(changed), KindChangedEntry, 3},
		{"swapped", editEntries(func(e [][]byte) [][]byte { e[5], e[6] = e[6], e[5]; return e }), KindChangedEntry, 5},
		{"one missing", editEntries(func(e [][]byte) [][]byte { return e[:len(e)-1] }), KindMalformed, 0},
		{"cut short", func(b []byte) []byte { return b[:len(b)-1] }, KindMalformed, 0},
		{"empty", func([]byte) []byte { return []byte{} }, KindMalformed, 0},
		{"one too many", editEntries(func(e [][]byte) [][]byte { return append(e, e[0]) }), KindSurplusEntries, 0},
		{"bytes left over", func(b []byte) []byte { return append(b, 0) }, KindSurplusEntries, 0},
		{"not served", func([]byte) []byte { return nil }, KindMissingEntries, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, full := range []bool{true, false} {
				l := newLab(t, witnesses)
				l.session()
				if full {
					l.fill(300)
				}
				path := "/tile/entries/000"
				if !full {
					path = "/" + client.EntriesPath(0, int(l.Size()))
				}
				l.tamper(path, tt.tamper)
				l.open()
				l.publish()
				f := l.want(tt.kind)
				if tt.kind == KindChangedEntry && (f.Index == nil || *f.Index != tt.index) {
					t.Errorf("found at %v, want %d", f.Index, tt.index)
				}
				if len(f.Evidence.Notes) != 1 || f.Evidence.Path != strings.TrimPrefix(path, "/") {
					t.Errorf("evidence %+v", f.Evidence)
				}
				l.stays(0)
				l.recovers()
			}
		})
	}
}

// What is before a lie is audited all the same.
func TestLieInTheMiddle(t *testing.T) {
	l := newLab(t, witnesses)
	l.session()
	l.fill(400)
	l.tamper("/"+client.EntriesPath(1, 144), func(b []byte) []byte { return b[:100] })
	l.open()
	l.publish()
	l.want(KindMalformed)
	if s := l.m.Status(); s.Audited != 256 || s.Verified != 0 || s.Published != l.Size() {
		t.Errorf("status %+v", s)
	}
	if got, err := l.m.RootAt(256); err != nil || got != l.Head(256).Root {
		t.Errorf("root %x, %v", got, err)
	}
	l.stays(0)
	l.recovers()
}

func TestSwappedTile(t *testing.T) {
	flip := func(b []byte) []byte { b[40] ^= 1; return b }
	for _, tt := range []struct {
		name, path string
		kinds      []Kind
	}{
		{"level 0", "/tile/0/000", []Kind{KindSwappedTile}},
		{"level 0, partial", "/tile/0/001.p/72", []Kind{KindSwappedTile}},
		{"level 1", "/tile/1/000.p/1", []Kind{KindSwappedTile}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, witnesses)
			l.session()
			l.fill(328)
			l.open()
			if tt.path == "/tile/1/000.p/1" {
				flip = func(b []byte) []byte { b[4] ^= 1; return b }
			}
			l.tamper(tt.path, flip)
			l.publish()
			f := l.want(tt.kinds...)
			if "/"+f.Evidence.Path != tt.path {
				t.Errorf("evidence is about %s", f.Evidence.Path)
			}
			// The entries prove the tree by themselves.
			if s := l.m.Status(); s.Verified != l.Size() {
				t.Errorf("verified %d of %d leaves", s.Verified, l.Size())
			}
			// So they do when the log grows, and its hashes don't prove what it had.
			l.session()
			l.Publish(l.Now)
			l.step()
			if s := l.m.Status(); s.Verified != l.Size() {
				t.Errorf("verified %d of %d leaves", s.Verified, l.Size())
			}
			for _, f := range l.findings() {
				if f.Kind != KindSwappedTile {
					t.Errorf("%s: %s", f.Kind, f.Message)
				}
			}
		})
	}
}

func TestDeadAndFrozenLog(t *testing.T) {
	l := newLab(t, witnesses)
	l.session()
	l.open(func(c *Config) {
		var err error
		if c.Log, err = client.New("http://"+unused(t), client.Config{HTTPClient: &http.Client{Transport: hopeless{}}}); err != nil {
			t.Fatal(err)
		}
	})
	dead := func() {
		if err := l.m.Step(context.Background()); err == nil {
			t.Error("a dead log is no error")
		}
	}
	dead()
	l.wantNone()
	l.Tick(time.Hour)
	dead()
	l.want(KindDeadLog)
	l.Tick(time.Hour)
	dead()
	l.want(KindDeadLog)
	if l.m.Status().Error == "" {
		t.Error("status says nothing of the error")
	}
	l.m.Close()

	l.open()
	l.publish()
	l.want(KindDeadLog)
	l.Tick(2 * time.Hour)
	l.step()
	l.want(KindDeadLog, KindFrozenLog)
	l.Publish(l.Now) // cosigned again at the same size
	l.step()
	l.want(KindDeadLog, KindFrozenLog)
	if s := l.m.Status(); s.Verified != l.Size() {
		t.Errorf("status %+v", s)
	}
}

func TestEmptyLog(t *testing.T) {
	l := &lab{World: bundletest.NewWorld(t, witnesses), t: t, dir: t.TempDir(), reads: make(map[string]int)}
	l.url = l.serve(l.World.Handler())
	l.open()
	l.publish()
	l.step()
	l.wantNone()
	if size, root, note := l.m.Verified(); size != 0 || root != checkpoint.EmptyRoot() || string(note) != string(l.Published()) {
		t.Errorf("verified %d, %x, %q", size, root, note)
	}
	l.Tick(time.Minute)
	l.AddVendorKey(l.Vendor)
	l.publish()
	l.wantNone()
	if s := l.m.Status(); s.Verified != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestSlowLog(t *testing.T) {
	l := newLab(t, witnesses)
	l.open()
	l.publish()
	l.session()
	l.Publish(l.Now)
	l.mu.Lock()
	l.answer = func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/tile/entries") {
			return false
		}
		rw.WriteHeader(http.StatusMovedPermanently) // leads nowhere
		return true
	}
	l.mu.Unlock()
	fail := func() {
		if err := l.m.Step(context.Background()); err == nil {
			t.Error("entries that can't be read are no error")
		}
	}
	fail()
	l.wantNone()
	l.Tick(20 * time.Minute)
	fail()
	l.want(KindSlowLog)
	l.recovers()
}

// hopeless is a transport that reaches nobody, for good.
type hopeless struct{}

func (hopeless) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, &netDNSError
}
