package sessionlog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
)

// A frozen log serves what it had, for ever, and takes nothing, whoever starts it.
func TestFreeze(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cfg = func(c *Config) { c.TimeInterval = time.Hour } // so that nothing but Freeze logs the last time leaf
	s := w.open()
	e := w.newTD().start(t, s.freshness())
	p := s.mustAdd(e)
	if a := s.get("/frozen"); a.status != 404 {
		t.Errorf("before: %d", a.status)
	}
	if _, err := Freeze(t.Context(), w.config()); !errors.Is(err, ErrInUse) {
		t.Errorf("an open log: %v", err)
	}
	s.close()

	cp, err := Freeze(t.Context(), w.config())
	if err != nil {
		t.Fatal(err)
	}
	s = w.open()
	leaves := s.audit()
	last, err := record.ParseLeaf(leaves[len(leaves)-1])
	if err != nil {
		t.Fatal(err)
	}
	tl, ok := last.(*record.TimeLeaf)
	if !ok || uint64(len(leaves)) != cp.Size {
		t.Fatalf("the last of %d leaves is a %T, the tree has %d", len(leaves), last, cp.Size)
	}
	if c, err := w.policy.Check(tl.Note); err != nil || c.Size <= p.Index {
		t.Errorf("the last time leaf doesn't cover leaf %d: %+v, %v", p.Index, c, err)
	}

	a := s.get("/frozen")
	if got, err := w.policy.CheckFrozen(a.body); err != nil || got.Size != cp.Size || got.Root != cp.Root {
		t.Errorf("%d %s: %+v, %v", a.status, a.body, got, err)
	}
	if a := s.get("/freshness"); a.status != 410 || a.name() != "frozen" {
		t.Errorf("freshness: %d %s", a.status, a.body)
	}
	// What was logged can still be had by whoever never got the answer, and nothing else goes in.
	if a := s.add(e); a.status != 200 || s.checkProof(a.body).Index != p.Index {
		t.Errorf("the same again: %d %s", a.status, a.body)
	}
	if a := s.add(w.newTD().start(t, record.Freshness{Origin: testOrigin, Size: cp.Size, Root: cp.Root, Note: tl.NoteDigest()})); a.status != 410 || a.name() != "frozen" {
		t.Errorf("something new: %d %s", a.status, a.body)
	}
	if n := s.metric("affidavit_log_frozen"); n != 1 {
		t.Errorf("metric %v", n)
	}
	if why := s.notReady(); why != "" {
		t.Errorf("not ready: %s", why)
	}
	if page := string(s.get("/").body); !strings.Contains(page, "This log has ended") {
		t.Error("the page says nothing of it")
	}
	s.close()

	// Nothing was appended by all that, and freezing it again changes nothing.
	again, err := Freeze(t.Context(), w.config())
	if err != nil || again.Size != cp.Size || again.Root != cp.Root {
		t.Errorf("again: %+v, %v; was %+v", again, err, cp)
	}
	// It needs no keys any more.
	w.cfg = func(c *Config) { c.Keys = nil }
	s = w.open()
	s.audit()
	s.close()
	if r, err := Check(t.Context(), CheckConfig{Dir: w.dir, LogPolicy: w.policy}); err != nil || r.Err() != nil {
		t.Errorf("%+v, %v", r, err)
	}
}

// Writing that a log is frozen fails, or happens and is reported as failed. Either way freezing it again is right, and
// in between it is either frozen or not.
func TestFreezeFaults(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := w.open()
			s.mustAdd(w.newTD().start(t, s.freshness()))
			s.close()
			w.cfg = func(c *Config) {
				c.fault = func(at, name string) error {
					if at == when && name == frozenName {
						return errFault
					}
					return nil
				}
			}
			if _, err := Freeze(t.Context(), w.config()); !errors.Is(err, errFault) {
				t.Fatalf("%v", err)
			}
			w.cfg = nil
			frozen, err := Frozen(w.dir)
			if err != nil || frozen != (when == "after") {
				t.Errorf("frozen: %v, %v", frozen, err)
			}
			s = w.open()
			if a := s.add(w.newTD().start(t, record.Freshness{Origin: testOrigin, Size: 1})); (a.name() == "frozen") != frozen {
				t.Errorf("%d %s", a.status, a.body)
			}
			s.close()
			cp, err := Freeze(t.Context(), w.config())
			if err != nil || cp.Size == 0 {
				t.Errorf("%+v, %v", cp, err)
			}
		})
	}
}

// A log isn't frozen without its quorum, and goes on as if nothing had been.
func TestFreezeWithoutQuorum(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	s.close()
	away, err := checkpoint.GenerateKey(checkpoint.CosignatureEd25519, "w.test", zeros{})
	if err != nil {
		t.Fatal(err)
	}
	w.policy = parsePolicy(t, "witness w "+away.VKey()+" http://127.0.0.1:1/\nquorum w\n")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Freeze(ctx, w.config()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if frozen, err := Frozen(w.dir); frozen || err != nil {
		t.Errorf("frozen: %v, %v", frozen, err)
	}
	w.policy = parsePolicy(t, "quorum none\n")
	s = w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A frozen log whose tree isn't the one that was frozen isn't opened, and neither is one with a statement that its log
// policy doesn't know.
func TestFrozenTreeChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	s.close()
	if _, err := Freeze(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	note := filepath.Join(w.dir, frozenName)
	b, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	s = w.open()
	s.mustAdd(w.newTD().start(t, s.freshness()))
	s.close()
	if err := os.WriteFile(note, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), w.config()); !errors.Is(err, ErrInconsistent) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(note, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), w.config()); !errors.Is(err, checkpoint.ErrMalformed) {
		t.Errorf("%v", err)
	}
}
