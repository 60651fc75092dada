package bundle_test

import (
	"crypto/sha256"
	"fmt"
	"runtime"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// TestUpstream: what a bundle says of a gateway in confidential hardware depends on where that sent calls on to.
func TestUpstream(t *testing.T) {
	var backend uint64
	var named *record.Digest
	channel := record.Channel{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256([]byte("backend"))}
	upstream := func(d *bundletest.Draft) {
		d.Statement.ModelRun.Upstream = []record.Upstream{{Provider: "backend", Execution: record.ExecutionTEE, Channel: channel, ModelRun: named}}
	}
	s := session(t, bundletest.Steps{ModelRun: upstream})
	f := wantRefusal(t, s.Bundle(), s.Options(), verifier.CodeModelRun)
	if c := claim(t, f, "model.0"); c.Status != verifier.StatusFailed {
		t.Errorf("claim %+v, though nothing is known about the backend", c)
	}
	b := s.Log.Bundle(s.ModelRun, s.Publish(s.Now), s.GatewayKey, s.GatewayRelease, s.VendorKey, s.Release, s.Collateral, s.FreshStart, s.Start, s.CoverStart, s.ModelRun, s.CoverModelRun)
	wantRefusal(t, b, s.Options(), verifier.CodeModelRun)
	wantAllowed(t, b, s.Options("models: {allow-no-record: true}"))

	// The backend's record, which was made before the gateway's.
	named = new(record.Digest)
	s = session(t, bundletest.Steps{ModelRun: upstream, BeforeModelRun: func(s *bundletest.Session) {
		backend = s.AddModelRun(s.Start, func(d *bundletest.Draft) { d.Statement.ModelRun.PeerChannel = channel })
		*named = s.Statement(backend)
	}})
	if c := claim(t, wantAllowed(t, s.Bundle(backend), s.Options()), "model.0"); c.Source != verifier.SourceVerifier || c.Status != verifier.StatusHolds {
		t.Errorf("claim %+v", c)
	}
	wantRefusal(t, s.Bundle(), s.Options(), verifier.CodeModelRun)
}

// TestLargeCollateral: sets of collateral that share a large component must not be held in memory all at once, nor all
// be tried when the first doesn't verify.
func TestLargeCollateral(t *testing.T) {
	const size, sets = 4 << 20, 16
	s := session(t, bundletest.Steps{})
	indices := s.Indices()
	var runs []uint64
	for i := range sets {
		set := *s.Set
		set.RootCRL, set.TCBInfo = make([]byte, size), []byte{byte(i)}
		indices = append(indices, s.AddCollateral(&set))
		runs = append(runs, s.AddModelRun(s.Start, func(d *bundletest.Draft) { d.Statement.ModelRun.Provider = fmt.Sprint(i) }))
	}
	indices = append(indices, runs...)
	indices = append(indices, s.AddFinal(s.Start, runs))
	b := s.Log.Bundle(s.Start, s.Publish(s.Now), indices...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	wantRule(t, b, s.Options(), bundle.RuleCollateral)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 6*size {
		t.Errorf("%d bytes for a component of %d", n, size)
	}
}
