package session

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/affidavit-log/affidavit/log/record"
)

// badFile is a file whose next operations go wrong.
type badFile struct {
	file
	write    func(f file, b []byte, at int64) (int, error) // instead of the next write
	truncate error                                         // instead of the next truncation
}

func (f *badFile) WriteAt(b []byte, at int64) (int, error) {
	if w := f.write; w != nil {
		f.write = nil
		return w(f.file, b, at)
	}
	return f.file.WriteAt(b, at)
}

func (f *badFile) Truncate(n int64) error {
	if err := f.truncate; err != nil {
		f.truncate = nil
		return err
	}
	return f.file.Truncate(n)
}

var errBad = errors.New("no space left in memory")

// faults are the ways in which a write fails, and the worse one: that it succeeds and says it failed.
var faults = map[string]func(f file, b []byte, at int64) (int, error){
	"nothing":  func(f file, b []byte, at int64) (int, error) { return 0, errBad },
	"half":     func(f file, b []byte, at int64) (int, error) { n, _ := f.WriteAt(b[:len(b)/2], at); return n, errBad },
	"short":    func(f file, b []byte, at int64) (int, error) { return f.WriteAt(b[:len(b)-1], at) },
	"all, but": func(f file, b []byte, at int64) (int, error) { n, _ := f.WriteAt(b, at); return n, errBad },
}

// TestWriteFails: an action that was not acknowledged isn't there, and the next one is in its place.
func TestWriteFails(t *testing.T) {
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			var bad *badFile
			c := l.config()
			c.wrap = func(f file) file { bad = &badFile{file: f}; return bad }
			s := l.start(c)
			mustAct(t, s, 3)
			bad.write = fault
			if _, err := s.Actions([]Action{action(90), action(91)}); err == nil {
				t.Fatal("no error")
			}
			if s.Count() != 3 {
				t.Errorf("%d actions", s.Count())
			}
			bad.write = fault
			if err := s.ModelRun(record.Model{Provider: "p", RequestModel: "m", Execution: record.ExecutionUnattested, Channel: TLSChannel(nil)}); err == nil {
				t.Error("no error")
			}
			mustAct(t, s, 2)
			// A final whose journal fails isn't submitted.
			l.Adds, bad.write = nil, fault
			if _, err := s.Finish(t.Context(), good); err == nil || len(l.Adds) > 0 {
				t.Errorf("got %v after %d submissions", err, len(l.Adds))
			}
			mustAct(t, s, 1)
			s.Close()
			s, err := Resume(t.Context(), c, s.ID())
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.Count() != 6 {
				t.Errorf("%d actions after resuming", s.Count())
			}
			r := l.finish(s, good)
			if st := r.Entry.Statement().Session; st.Actions.Size != 6 || len(st.Models) != 0 {
				t.Errorf("final %+v", st)
			}
			// Everything in the file is right, and in its place.
			if _, err := Disclose(bytes.NewReader(ownersFile(t, s)), func(*record.Action) bool { return false }); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTruncateFails: when it isn't known what is in the journal, nothing more is written to it.
func TestTruncateFails(t *testing.T) {
	l := newLab(t)
	var bad *badFile
	c := l.config()
	c.wrap = func(f file) file { bad = &badFile{file: f}; return bad }
	s := l.start(c)
	mustAct(t, s, 3)
	bad.write, bad.truncate = faults["half"], errBad
	for range 2 {
		if _, err := s.Action(action(3)); !errors.Is(err, errBad) {
			t.Fatalf("got %v", err)
		}
	}
	s.Close()
	s, err := Resume(t.Context(), c, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mustAct(t, s, 1)
	if r := l.finish(s, good); r.Entry.Statement().Session.Actions.Size != 4 {
		t.Error("an acknowledged action is lost")
	}
}

// TestPlaceNotWritten: the end is logged, and the journal doesn't get to know where.
func TestPlaceNotWritten(t *testing.T) {
	l := newLab(t)
	var bad *badFile
	c := l.config()
	c.wrap = func(f file) file { bad = &badFile{file: f}; return bad }
	s := l.start(c)
	l.After = func(*record.Entry) bool { bad.write = faults["nothing"]; return false }
	if _, err := s.Finish(t.Context(), good); !errors.Is(err, errBad) {
		t.Fatalf("got %v", err)
	}
	l.After = nil
	s.Close()
	s, err := Resume(t.Context(), c, s.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l.finish(s, FinishOptions{})
	if l.ends() != 1 {
		t.Errorf("%d ends", l.ends())
	}
}

// TestSetModels: whether the write failed, or happened and was said to have failed, or happened just before the process
// died, saying again which models were used counts no call twice.
func TestSetModels(t *testing.T) {
	models := []record.Model{
		{Provider: "p", RequestModel: "m", Calls: 3, Execution: record.ExecutionPolicyZDR, Channel: TLSChannel([]byte("model"))},
		{Provider: "p", RequestModel: "n", Calls: 2, Execution: record.ExecutionUnattested, Channel: TLSChannel(nil)},
		{Provider: "p", RequestModel: "m", Calls: 4, Execution: record.ExecutionPolicyZDR, Channel: TLSChannel([]byte("model"))},
	}
	none := func(f file, b []byte, at int64) (int, error) { return f.WriteAt(b, at) }
	for name, fault := range map[string]func(f file, b []byte, at int64) (int, error){
		"nothing": faults["nothing"], "half": faults["half"], "all, but": faults["all, but"], "no failure": none,
	} {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " killed ", killed), func(t *testing.T) {
				l := newLab(t)
				var bad *badFile
				c := l.config()
				c.wrap = func(f file) file { bad = &badFile{file: f}; return bad }
				s := l.start(c)
				if err := s.ModelRun(models[1]); err != nil { // is replaced
					t.Fatal(err)
				}
				bad.write = fault
				if killed {
					bad.truncate = errBad // the process dies before it can take the write back
				}
				s.SetModels(models)
				if killed {
					s.Close()
					var err error
					if s, err = Resume(t.Context(), c, s.ID()); err != nil {
						t.Fatal(err)
					}
				}
				for range 2 {
					if err := s.SetModels(models); err != nil {
						t.Fatal(err)
					}
				}
				defer s.Close()
				r, err := s.Finish(t.Context(), good)
				if err != nil {
					t.Fatal(err)
				}
				st := r.Entry.Statement().Session
				if len(st.Models) != 2 || st.Models[0].Calls != 7 || st.Models[1].Calls != 2 {
					t.Errorf("models %+v", st.Models)
				}
				if err := s.SetModels(nil); !errors.Is(err, ErrEnded) {
					t.Errorf("after the end: %v", err)
				}
			})
		}
	}
}
