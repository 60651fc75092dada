package bundle_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// shards are a session that began in one log and ended in the next.
type shards struct {
	old, new       *bundletest.World
	start, final   uint64
	oldAll, newAll []uint64
	oldNote        []byte
	oldFinal       uint64 // a second end, 0 if there is none
	policy         *checkpoint.Policy
}

func newShards(t *testing.T, next string, pause time.Duration, secondEnd bool) *shards {
	t.Helper()
	s := &shards{old: bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 2}), new: bundletest.NewWorld(t, bundletest.LogOptions{Origin: next, Witnesses: 2})}
	w := s.old
	begin := func(w *bundletest.World) []uint64 {
		all := []uint64{w.AddVendorKey(w.Vendor), w.AddRelease(w.Vendor), w.AddCollateral(w.Set)}
		w.Tick(5 * time.Second)
		return append(all, w.AddTime())
	}
	s.oldAll = begin(w)
	w.Tick(5 * time.Second)
	s.start = w.AddStart()
	w.Tick(5 * time.Second)
	s.oldAll = append(s.oldAll, s.start, w.AddTime())
	if secondEnd {
		s.oldFinal = w.AddAbandoned(s.start)
		w.Tick(5 * time.Second)
		s.oldAll = append(s.oldAll, s.oldFinal, w.AddTime())
	}
	s.oldNote = w.Publish(w.Now)
	started, err := record.ParseLeaf(w.Leaf(s.start))
	if err != nil {
		t.Fatal(err)
	}

	n := s.new
	n.Now = w.Now.Add(pause - time.Minute)
	s.newAll = begin(n)
	n.Now = w.Now.Add(pause)
	s.final = n.AddFinal(s.newAll[1], nil, func(d *bundletest.Draft) {
		d.Statement.Session.SessionInfo = started.(*record.RecordLeaf).Entry.Statement().Start.SessionInfo
		d.Statement.Session.Start = record.StatementRef{Origin: w.Origin, Index: s.start, Statement: w.Statement(s.start)}
	})
	n.Tick(5 * time.Second)
	s.newAll = append(s.newAll, s.final, n.AddTime())
	n.Tick(5 * time.Second)
	if s.policy, err = checkpoint.ParsePolicy([]byte("log " + w.Keys[0].VKey() + "\n" + n.Policy().String())); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *shards) bundle() *bundle.Bundle {
	b := s.new.Log.Bundle(s.final, s.new.Publish(s.new.Now), s.newAll...)
	b.Previous = s.old.Log.Bundle(s.start, s.oldNote, s.oldAll...)
	return b
}

func (s *shards) options() bundle.Options {
	o := s.new.Options()
	o.LogPolicy = s.policy
	return o
}

// A session that began in one shard and ended in the next is proven by one file, whose encoding is one.
func TestShards(t *testing.T) {
	s := newShards(t, "log.example.org/2027", time.Hour, false)
	file, err := s.bundle().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := b.Bytes(); err != nil || !bytes.Equal(again, file) {
		t.Errorf("another encoding: %v", err)
	}
	f, err := bundle.Check(b, s.options())
	if err != nil {
		t.Fatal(err)
	}
	if !f.Allowed() || f.Previous == nil || f.Previous.Subject.Index != s.start || f.Log.Origin != "log.example.org/2027" {
		t.Errorf("refusals %v, previous %+v", f.Refusals, f.Previous)
	}
	if i := slices.IndexFunc(f.Claims, func(c verifier.Claim) bool { return c.ID == "session.pair" }); i < 0 || f.Claims[i].Value != "yes" {
		t.Errorf("claims %+v", f.Claims)
	}
	// A file of version 1 stays what it was.
	b.Previous = nil
	if file, err = b.Bytes(); err != nil || bytes.Contains(file, []byte("affidavit-bundle/v2")) {
		t.Errorf("%v", err)
	}
	if f, err := bundle.Check(b, s.options()); err != nil || f.Allowed() {
		t.Errorf("allowed without its start: %v", err)
	}
}

// What the other shard says is checked as strictly as the rest, and must have to do with it.
func TestShardsRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		next   string
		pause  time.Duration
		second bool
		edit   func(s *shards, b *bundle.Bundle)
		rule   bundle.Rule   // not proven
		code   verifier.Code // refused
	}{
		{"seven days later", "log.example.org/2027", 7*24*time.Hour - time.Minute, false, nil, "", ""},
		{"eight days later", "log.example.org/2027", 8 * 24 * time.Hour, false, nil, "", verifier.CodeOrder},
		{"ended in both", "log.example.org/2027", time.Hour, true, nil, "", verifier.CodeTwoFinals},
		{"not the next year", "log.example.org/2028", time.Hour, false, nil, bundle.RuleUnlinked, ""},
		{"another operator", "log.example.com/2027", time.Hour, false, nil, bundle.RuleUnlinked, ""},
		{"the old log isn't trusted", "log.example.org/2027", time.Hour, false, func(s *shards, _ *bundle.Bundle) { s.policy = s.new.Policy() }, bundle.RuleCheckpoint, ""},
		{"a leaf there isn't", "log.example.org/2027", time.Hour, false, func(_ *shards, b *bundle.Bundle) {
			p := *b.Previous.Proofs[4]
			p.Hashes = slices.Clone(p.Hashes)
			p.Hashes[0][0] ^= 1
			b.Previous.Proofs[4] = &p
		}, bundle.RuleInclusion, ""},
		{"about something else", "log.example.org/2027", time.Hour, false, func(s *shards, b *bundle.Bundle) {
			b.Previous = s.old.Log.Bundle(s.oldAll[1], s.oldNote, s.oldAll[0], s.oldAll[1], s.oldAll[5])
		}, bundle.RuleUnlinked, ""},
		{"nested twice", "log.example.org/2027", time.Hour, false, func(_ *shards, b *bundle.Bundle) {
			p := *b.Previous
			p.Previous = b.Previous
			b.Previous = &p
		}, bundle.RuleBundle, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShards(t, tt.next, tt.pause, tt.second)
			b := s.bundle()
			if tt.edit != nil {
				tt.edit(s, b)
			}
			f, err := bundle.Check(b, s.options())
			var n *bundle.NotProven
			switch {
			case tt.rule != "":
				if !errors.As(err, &n) || n.Rule != tt.rule {
					t.Errorf("%v, want rule %s", err, tt.rule)
				}
			case err != nil:
				t.Error(err)
			case tt.code == "" && !f.Allowed() || tt.code != "" && !slices.ContainsFunc(f.Refusals, func(r verifier.Refusal) bool { return r.Code == tt.code }):
				t.Errorf("refusals %v, want %q", f.Refusals, tt.code)
			}
		})
	}
}

// The two versions of the file are told apart by what is in it, and neither passes for the other.
func TestShardsVersion(t *testing.T) {
	s := newShards(t, "log.example.org/2027", time.Hour, false)
	file, err := s.bundle().Bytes()
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.Replace(file, []byte("affidavit-bundle/v2"), []byte("affidavit-bundle/v1"), 1)
	if _, err := bundle.Parse(first); !errors.Is(err, bundle.ErrMalformed) {
		t.Errorf("version 1 with another bundle: %v", err)
	}
	b := s.bundle()
	b.Previous = nil
	if file, err = b.Bytes(); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Parse(bytes.Replace(file, []byte("affidavit-bundle/v1"), []byte("affidavit-bundle/v2"), 1)); !errors.Is(err, bundle.ErrMalformed) {
		t.Errorf("version 2 without: %v", err)
	}
	if !strings.Contains(string(file), "affidavit-bundle/v1") {
		t.Error("no version")
	}
}
