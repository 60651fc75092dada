package client

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// A bundle is assembled under a checkpoint that the appraisers have cosigned, which comes late, or not at all.
func TestAssembleAppraised(t *testing.T) {
	s := bundletest.NewSession(t, witnessed, bundletest.Steps{})
	s.Publish(s.Now)
	keys := []*checkpoint.SigningKey{
		bundletest.Key(t, checkpoint.CosignatureEd25519, "monitor.example/appraiser"),
		bundletest.Key(t, checkpoint.CosignatureMLDSA44, "other.example/appraiser"),
	}
	n, err := checkpoint.ParseNote(s.Published())
	if err != nil {
		t.Fatal(err)
	}
	line := func(k *checkpoint.SigningKey, text []byte) []byte {
		l, err := k.Sign(text, s.Now)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	asked := 0
	var served func(asked int) []byte // what is served as the checkpoint
	h := s.Handler()
	newClient := func(wait time.Duration) (*Client, *time.Duration) {
		asked = 0
		c := serve(t, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/checkpoint" {
				asked++
				rw.Write(served(asked))
				return
			}
			h.ServeHTTP(rw, r)
		}), Config{LogPolicy: s.Policy(), AppraisersWait: wait, Appraisers: []*checkpoint.VerifierKey{keys[0].Verifier(), keys[1].Verifier()}})
		slept := new(time.Duration)
		c.sleep = func(ctx context.Context, d time.Duration) error { *slept += d; return ctx.Err() }
		return c, slept
	}
	both := slices.Concat(s.Published(), line(keys[0], n.Text), line(keys[1], n.Text))
	served = func(asked int) []byte {
		switch {
		case asked < 4:
			return s.Published()
		case asked < 6: // one of two isn't enough
			return slices.Concat(s.Published(), line(keys[1], n.Text))
		}
		return both
	}
	c, slept := newClient(0)
	b, err := c.AssembleBundle(t.Context(), s.Final)
	if err != nil {
		t.Fatal(err)
	}
	if asked != 6 || *slept > 10*time.Second {
		t.Errorf("asked %d times in %v", asked, *slept)
	}
	f, err := bundle.Check(b, s.Options("appraisers:\n  - "+keys[0].VKey()+"\n  - "+keys[1].VKey()))
	if err != nil || !f.Allowed() || len(f.Log.Appraisers) != 2 {
		t.Errorf("%+v, %v", f, err)
	}

	// What isn't there in time is an error, and no bundle.
	served = func(int) []byte { return slices.Concat(s.Published(), line(keys[0], n.Text)) }
	for wait, want := range map[time.Duration]time.Duration{0: time.Minute, time.Second: time.Second} {
		c, slept = newClient(wait)
		if b, err := c.AssembleBundle(t.Context(), s.Final); !errors.Is(err, ErrNotAppraised) || b != nil {
			t.Errorf("without the second: %v", err)
		}
		if *slept < want || *slept > want+time.Second {
			t.Errorf("waited %v, want %v", *slept, want)
		}
	}
	// Nor does a signature of something else do, or one by another key of that name.
	served = func(int) []byte { return append(slices.Clone(both), line(keys[0], s.Head(3).Text())...) }
	c, _ = newClient(time.Second)
	if _, err := c.AssembleBundle(t.Context(), s.Final); err == nil || errors.Is(err, ErrNotAppraised) {
		t.Errorf("with a signature of something else: %v", err)
	}
	served = func(int) []byte {
		return slices.Concat(s.Published(), line(keys[1], n.Text), line(bundletest.Key(t, checkpoint.CosignatureMLDSA44, keys[0].Name()), n.Text))
	}
	c, _ = newClient(time.Second)
	if _, err := c.AssembleBundle(t.Context(), s.Final); !errors.Is(err, ErrNotAppraised) {
		t.Errorf("with another key of the name: %v", err)
	}
}
