package verifier_test

import (
	"slices"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

func TestPair(t *testing.T) {
	const good = tdxsim.AttrSEPTVEDisable
	both := func(a uint64) func(w *world) {
		return func(w *world) { w.startQuote.TDAttributes, w.finalQuote.TDAttributes = &a, &a }
	}
	for _, tt := range []struct {
		name   string
		edit   func(w *world)
		want   []verifier.Code
		memory verifier.ClaimStatus // of encryption throughout; empty: not claimed
	}{
		{"good", func(w *world) {}, nil, verifier.StatusAsserted},
		{"more measured into an RTMR since", func(w *world) {
			w.finalQuote.RTMR = [4][48]byte{tdxsim.Measurement("rtmr0"), tdxsim.Measurement("rtmr1"), tdxsim.Measurement("rtmr2"), {1}}
		}, nil, verifier.StatusAsserted},
		{"a start that didn't know its number", func(w *world) { w.start.Start.Sequence = 0 }, nil, verifier.StatusAsserted},
		// The records' own verdicts refuse it.
		{"debug", both(good | tdxsim.AttrDebug), nil, verifier.StatusFailed},
		{"debug allowed", func(w *world) {
			both(good | tdxsim.AttrDebug)(w)
			w.policy += "td: {allow-debug: true}\n"
		}, nil, verifier.StatusHolds},
		{"migratable", both(good | tdxsim.AttrMigratable), nil, verifier.StatusUnknown},
		{"debug at the end only", func(w *world) { w.finalQuote.TDAttributes = new(good | tdxsim.AttrDebug) }, []verifier.Code{verifier.CodePair}, ""},
		{"migratable at the start only", func(w *world) { w.startQuote.TDAttributes = new(good | tdxsim.AttrMigratable) }, []verifier.Code{verifier.CodePair}, ""},
		{"another session key", func(w *world) {
			w.finalKey = "other"
			w.final.Session.SessionKey = record.NewSessionKey(public("other"))
		}, []verifier.Code{verifier.CodePair}, ""},
		{"another session id", func(w *world) { w.final.Session.ID[0]++ }, []verifier.Code{verifier.CodePair}, ""},
		{"another vendor", func(w *world) { w.final.Vendor = "https://other.example" }, []verifier.Code{verifier.CodePair}, ""},
		{"another customer", func(w *world) { w.final.Session.Tenant[0]++ }, []verifier.Code{verifier.CodePair}, ""},
		{"another number", func(w *world) { w.final.Session.Sequence++ }, []verifier.Code{verifier.CodePair}, ""},
		{"another start time", func(w *world) { w.final.Session.StartedOn = w.info.StartedOn.Add(time.Second) }, []verifier.Code{verifier.CodePair}, ""},
		{"another scope", func(w *world) { w.final.Session.IsolationScope = record.IsolationProject }, []verifier.Code{verifier.CodePair}, ""},
		{"another release", func(w *world) { w.final.Session.Environment.Release.SHA256[0]++ }, []verifier.Code{verifier.CodePair}, ""},
		{"another storage", func(w *world) { w.final.Session.Environment.PersistentStorage = record.StorageEncryptedEphemeral }, []verifier.Code{verifier.CodePair}, ""},
		{"another egress policy", func(w *world) { w.final.Session.Environment.EgressPolicy = nil }, []verifier.Code{verifier.CodePair}, ""},
		{"another platform", func(w *world) { w.finalPlatform = w.pki.NewPlatform(tdxsim.PlatformOptions{Name: "two"}) }, []verifier.Code{verifier.CodePair}, ""},
		{"another platform after migration", func(w *world) {
			both(good | tdxsim.AttrMigratable)(w)
			w.finalPlatform = w.pki.NewPlatform(tdxsim.PlatformOptions{Name: "two"})
		}, nil, verifier.StatusUnknown},
		{"another MRTD", func(w *world) { w.finalQuote.MRTD = [48]byte{1} }, []verifier.Code{verifier.CodePair}, ""},
		{"another MRCONFIGID", func(w *world) { w.finalQuote.MRConfigID = [48]byte{1} }, []verifier.Code{verifier.CodePair}, ""},
		{"another XFAM", func(w *world) { w.finalQuote.XFAM = new(uint64(7)) }, []verifier.Code{verifier.CodePair}, ""},
		{"another start named", func(w *world) { w.final.Session.Start.Statement = digest("other") }, []verifier.Code{verifier.CodePair}, ""},
		{"another index named", func(w *world) { w.final.Session.Start.Index-- }, []verifier.Code{verifier.CodePair}, ""},
		{"another log named", func(w *world) { w.final.Session.Start.Origin = "log.example.org/2025" }, []verifier.Code{verifier.CodePair}, ""},
		{"end before start", func(w *world) { w.finalPlace = w.startPlace - 1 }, []verifier.Code{verifier.CodeOrder}, ""},
		{"end in the start's place", func(w *world) { w.finalPlace = w.startPlace }, []verifier.Code{verifier.CodeOrder}, ""},
		{"start after the end's freshness", func(w *world) {
			// The statement lies about the index, so that only the proven one shows it.
			w.startPlace, w.finalPlace = 115, 130
		}, []verifier.Code{verifier.CodeOrder, verifier.CodePair}, ""},
		{"older freshness at the end", func(w *world) { w.start.Start.Freshness = freshness(116) }, []verifier.Code{verifier.CodePair}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.edit(w)
			claims, refusals := verifier.Pair(w.place(w.startPlace, w.verifyStart()), w.place(w.finalPlace, w.verifyFinal()))
			if got := codes(refusals); !slices.Equal(got, tt.want) {
				t.Errorf("refusals %v, want %v", refusals, tt.want)
			}
			pair := claim(t, claims, "session.pair")
			if wantFailed := slices.Contains(tt.want, verifier.CodePair) || slices.Contains(tt.want, verifier.CodeOrder); (pair.Status == verifier.StatusFailed) != wantFailed {
				t.Errorf("claim %+v, want it failed: %v", pair, wantFailed)
			}
			i := slices.IndexFunc(claims, func(c verifier.Claim) bool { return c.ID == "memory-encryption.session" })
			if (i >= 0) != (tt.memory != "") || i >= 0 && claims[i].Status != tt.memory {
				t.Errorf("claims %+v, want memory encryption %q", claims, tt.memory)
			}
		})
	}
}

// That start and end were the same TD is for the code to say.
func TestPairSource(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy func(w *world) (start, final string)
		want   verifier.Source
	}{
		{"code known", func(w *world) (string, string) { return w.policy, w.policy }, verifier.SourceMeasuredCode},
		{"code of the start not known", func(w *world) (string, string) { return "", w.policy }, verifier.SourceVendor},
		{"code of the end not known", func(w *world) (string, string) { return w.policy, "" }, verifier.SourceVendor},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			startPolicy, finalPolicy := tt.policy(w)
			w.policy = startPolicy
			start := w.verifyStart()
			w.policy = finalPolicy
			claims, refusals := verifier.Pair(w.place(w.startPlace, start), w.place(w.finalPlace, w.verifyFinal()))
			if refusals != nil {
				t.Fatal(refusals)
			}
			for _, id := range []string{"session.pair", "memory-encryption.session"} {
				if c := claim(t, claims, id); c.Source != tt.want || c.Status != verifier.StatusAsserted {
					t.Errorf("claim %+v, want it asserted by %s", c, tt.want)
				}
			}
		})
	}
}

func TestPairWithoutStart(t *testing.T) {
	w := newWorld(t)
	final := w.place(w.finalPlace, w.verifyFinal())
	claims, refusals := verifier.Pair(nil, final)
	if got := codes(refusals); !slices.Equal(got, []verifier.Code{verifier.CodeStartMissing}) {
		t.Errorf("refusals %v", refusals)
	}
	if c := claim(t, claims, "session.pair"); c.Status != verifier.StatusFailed {
		t.Errorf("claim %+v", c)
	}
	start := w.place(w.startPlace, w.verifyStart())
	for name, records := range map[string][2]*verifier.PlacedRecord{
		"a start is no end": {nil, start}, "an end is no start": {final, final}, "two starts": {start, start},
	} {
		if _, refusals := verifier.Pair(records[0], records[1]); !slices.Contains(codes(refusals), verifier.CodePair) {
			t.Errorf("%s: refusals %v", name, refusals)
		}
	}
}

// abandonedBy is the end of a session that the vendor gave up, or the TD did.
func (w *world) abandoned(byTD bool, edit func(*record.SessionAbandoned)) *verifier.Verdict {
	w.t.Helper()
	a := &record.SessionAbandoned{
		ID: w.info.ID, Start: record.StatementRef{Origin: origin, Index: w.startPlace, Statement: w.startEntry().StatementDigest()},
		Reason: record.AbandonedCrashed, AbandonedOn: now,
	}
	if byTD {
		f := w.final.Session
		a.SessionKey, a.Freshness, a.Environment = &f.SessionKey, &f.Freshness, &f.Environment
	}
	if edit != nil {
		edit(a)
	}
	st := &record.Statement{Vendor: vendor, Abandoned: a}
	if !byTD {
		return w.must(w.verify(w.input(w.signVendor(st, "release"), now, nil)))
	}
	return w.must(w.verify(w.input(w.sign(w.finalPlatform, st, w.finalKey, w.finalQuote), now, w.finalInterval)))
}

func TestPairAbandoned(t *testing.T) {
	w := newWorld(t)
	start := w.place(w.startPlace, w.verifyStart())
	for _, tt := range []struct {
		name   string
		byTD   bool
		edit   func(*record.SessionAbandoned)
		want   []verifier.Code
		source verifier.Source
	}{
		{"by the vendor", false, nil, nil, verifier.SourceVendor},
		{"by the TD", true, nil, nil, verifier.SourceMeasuredCode},
		{"another session", false, func(a *record.SessionAbandoned) { a.ID[0]++ }, []verifier.Code{verifier.CodePair}, verifier.SourceVerifier},
		{"another start", false, func(a *record.SessionAbandoned) { a.Start.Statement[0]++ }, []verifier.Code{verifier.CodePair}, verifier.SourceVerifier},
		{"another key", true, func(a *record.SessionAbandoned) {
			k := record.NewSessionKey(public("other"))
			a.SessionKey, w.finalKey = &k, "other"
		}, []verifier.Code{verifier.CodePair}, verifier.SourceVerifier},
	} {
		t.Run(tt.name, func(t *testing.T) {
			claims, refusals := verifier.Pair(start, w.place(w.finalPlace, w.abandoned(tt.byTD, tt.edit)))
			if got := codes(refusals); !slices.Equal(got, tt.want) {
				t.Errorf("refusals %v, want %v", refusals, tt.want)
			}
			if c := claim(t, claims, "session.pair"); c.Source != tt.source {
				t.Errorf("claim %+v, want source %s", c, tt.source)
			}
		})
	}
}

func TestEnds(t *testing.T) {
	w := newWorld(t)
	final := w.place(w.finalPlace, w.verifyFinal())
	again := w.place(w.finalPlace+1, final.Verdict)
	if r := verifier.Ends([]*verifier.PlacedRecord{final, again}); r != nil {
		t.Errorf("the same statement twice: %v", r)
	}
	abandoned := w.place(w.finalPlace+2, w.abandoned(false, nil))
	if r := verifier.Ends([]*verifier.PlacedRecord{final, abandoned}); !slices.Equal(codes(r), []verifier.Code{verifier.CodeTwoFinals}) {
		t.Errorf("a final, and given up: %v", r)
	}
	// Whoever may submit could give up other people's sessions.
	foreign := w.signVendor(&record.Statement{Vendor: "https://rival.example", Abandoned: &record.SessionAbandoned{
		ID: w.info.ID, Start: record.StatementRef{Origin: origin, Index: w.startPlace, Statement: w.startEntry().StatementDigest()},
		Reason: record.AbandonedCrashed, AbandonedOn: now,
	}}, "rival")
	rival := w.place(w.finalPlace+2, &verifier.Verdict{Entry: foreign})
	if r := verifier.Ends([]*verifier.PlacedRecord{final, rival}); r != nil {
		t.Errorf("a final, and given up by another vendor: %v", r)
	}
	w.final.Session.WorkspaceErased = false
	other := w.place(w.finalPlace+3, w.verifyFinal())
	if r := verifier.Ends([]*verifier.PlacedRecord{final, other}); !slices.Equal(codes(r), []verifier.Code{verifier.CodeTwoFinals}) {
		t.Errorf("two finals: %v", r)
	}
	start := w.place(w.startPlace, w.verifyStart())
	if r := verifier.Ends([]*verifier.PlacedRecord{start, final}); r != nil {
		t.Errorf("start and final: %v", r)
	}
}

func TestModelRuns(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(w *world)
		want   []verifier.Code
		source verifier.Source
		status verifier.ClaimStatus
	}{
		{"good", func(w *world) {}, nil, verifier.SourceVerifier, verifier.StatusHolds},
		{"for many sessions", func(w *world) {
			m := w.run.ModelRun
			m.Session, m.PeerKeyID, m.SessionsServed = nil, "", &record.Tree{Size: 9, Root: digest("sessions")}
			m.Calls.Size = 100
		}, nil, verifier.SourceVendor, verifier.StatusAsserted},
		{"for many sessions, but too few calls", func(w *world) {
			m := w.run.ModelRun
			m.Session, m.PeerKeyID, m.SessionsServed = nil, "", &record.Tree{Size: 9, Root: digest("sessions")}
			m.Calls.Size = 1
		}, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"for many sessions, but of another channel", func(w *world) {
			m := w.run.ModelRun
			m.Session, m.PeerKeyID, m.SessionsServed = nil, "", &record.Tree{Size: 9, Root: digest("sessions")}
			m.PeerChannel.SHA256[0]++
		}, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"in debug mode, which is allowed", func(w *world) {
			w.runQuote.TDAttributes = new(tdxsim.AttrDebug | tdxsim.AttrSEPTVEDisable)
			w.policy += "td: {allow-debug: true}\n"
		}, nil, verifier.SourceVendor, verifier.StatusAsserted},
		{"another session", func(w *world) { w.run.ModelRun.Session.ID[0]++ }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"another start", func(w *world) { w.run.ModelRun.Session.Statement = digest("other") }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"another session key", func(w *world) { w.run.ModelRun.PeerKeyID = keyid("other") }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"another channel", func(w *world) { w.run.ModelRun.PeerChannel.SHA256[0]++ }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"another model", func(w *world) { w.run.ModelRun.RequestModel = "small" }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"another answering model", func(w *world) { w.run.ModelRun.ResponseModel = "small" }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"another provider", func(w *world) { w.run.ModelRun.Provider = "other" }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"more calls", func(w *world) { w.run.ModelRun.Calls.Size = 3 }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"before the start", func(w *world) { w.runPlace = w.startPlace - 1 }, []verifier.Code{verifier.CodeOrder}, verifier.SourceVerifier, verifier.StatusFailed},
		{"in the start's place", func(w *world) { w.runPlace = w.startPlace }, []verifier.Code{verifier.CodeOrder}, verifier.SourceVerifier, verifier.StatusFailed},
		{"in the end's place", func(w *world) { w.runPlace = w.finalPlace }, []verifier.Code{verifier.CodeOrder}, verifier.SourceVerifier, verifier.StatusFailed},
		{"after the end", func(w *world) { w.runPlace = w.finalPlace + 1 }, []verifier.Code{verifier.CodeOrder}, verifier.SourceVerifier, verifier.StatusFailed},
		{"not there", func(w *world) {
			w.final.Session.Models[0].ModelRun = digestp("other")
			w.run.ModelRun.PeerKeyID = keyid("other")
		}, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVendor, verifier.StatusFailed},
		{"not there, but one that the session doesn't name", func(w *world) {
			w.final.Session.Models[0].ModelRun = digestp("other")
			w.policy += "models: {allow-no-record: true}\n"
		}, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVendor, verifier.StatusAsserted},
		{"not there, allowed", func(w *world) {
			w.final.Session.Models[0].ModelRun = digestp("other")
			w.run.ModelRun.PeerKeyID = keyid("other")
			w.policy += "models: {allow-no-record: true}\n"
		}, nil, verifier.SourceVendor, verifier.StatusAsserted},
		{"not allowed itself", func(w *world) { w.runQuote.TDAttributes = new(tdxsim.AttrMigratable | tdxsim.AttrSEPTVEDisable) }, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVendor, verifier.StatusFailed},
		{"not allowed itself, allowed without", func(w *world) {
			w.runQuote.TDAttributes = new(tdxsim.AttrMigratable | tdxsim.AttrSEPTVEDisable)
			w.policy += "models: {allow-no-record: true}\n"
		}, nil, verifier.SourceVendor, verifier.StatusAsserted},
		{"contradicted, allowed without", func(w *world) {
			w.run.ModelRun.Calls.Size = 3
			w.policy += "models: {allow-no-record: true}\n"
		}, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVerifier, verifier.StatusFailed},
		{"upstream without attestation", func(w *world) {
			w.run.ModelRun.Upstream = []record.Upstream{{Provider: "cloud", Execution: record.ExecutionUnattested, Channel: w.run.ModelRun.PeerChannel}}
		}, []verifier.Code{verifier.CodeModelRun}, verifier.SourceVendor, verifier.StatusFailed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.edit(w)
			start, final, run := w.place(w.startPlace, w.verifyStart()), w.place(w.finalPlace, w.verifyFinal()), w.place(w.runPlace, w.verifyRun())
			claims, refusals := verifier.ModelRuns(start, final, []*verifier.PlacedRecord{start, run}, parse(t, w.policy))
			if got := codes(refusals); !slices.Equal(got, tt.want) {
				t.Errorf("refusals %v, want %v", refusals, tt.want)
			}
			if c := claim(t, claims, "model.0"); len(claims) != 1 || c.Source != tt.source || c.Status != tt.status {
				t.Errorf("claims %+v, want it %s by %s", claims, tt.status, tt.source)
			}
		})
	}
}

// TestUpstream: a gateway in confidential hardware says nothing about where it sent calls on to, without the records of
// that.
func TestUpstream(t *testing.T) {
	const holds, asserted, failed = verifier.StatusHolds, verifier.StatusAsserted, verifier.StatusFailed
	for _, tt := range []struct {
		name string
		// edit changes the gateway's upstream, the record that it names, and the place of that record.
		edit   func(w *world, u *record.Upstream, next *record.ModelRun, place *uint64)
		policy string
		want   verifier.Code
		source verifier.Source
		status verifier.ClaimStatus
	}{
		{"good", func(*world, *record.Upstream, *record.ModelRun, *uint64) {}, "", "", verifier.SourceVerifier, holds},
		{"none named", func(_ *world, u *record.Upstream, _ *record.ModelRun, _ *uint64) { u.ModelRun = nil }, "", verifier.CodeModelRun, verifier.SourceVerifier, failed},
		{"not there", func(_ *world, u *record.Upstream, _ *record.ModelRun, _ *uint64) { u.ModelRun = digestp("other") }, "", verifier.CodeModelRun, verifier.SourceVerifier, failed},
		{"not there, allowed", func(_ *world, u *record.Upstream, _ *record.ModelRun, _ *uint64) { u.ModelRun = nil }, "models: {allow-no-record: true}\n", "", verifier.SourceVendor, asserted},
		{"zero retention by promise, allowed", func(_ *world, u *record.Upstream, _ *record.ModelRun, _ *uint64) {
			u.Execution, u.ModelRun = record.ExecutionPolicyZDR, nil
		}, "models: {execution: [tee, policy-zdr]}\n", "", verifier.SourceVendor, asserted},
		{"another channel", func(_ *world, u *record.Upstream, _ *record.ModelRun, _ *uint64) { u.Channel.SHA256[0]++ }, "", verifier.CodeModelRun, verifier.SourceVerifier, failed},
		{"another channel, allowed without", func(_ *world, u *record.Upstream, _ *record.ModelRun, _ *uint64) { u.Channel.SHA256[0]++ }, "models: {allow-no-record: true}\n", verifier.CodeModelRun, verifier.SourceVerifier, failed},
		{"for another session", func(_ *world, _ *record.Upstream, next *record.ModelRun, _ *uint64) {
			next.Session.Statement = digest("other")
		}, "", verifier.CodeModelRun, verifier.SourceVerifier, failed},
		{"for many sessions", func(_ *world, _ *record.Upstream, next *record.ModelRun, _ *uint64) {
			next.Session, next.PeerKeyID, next.SessionsServed = nil, "", &record.Tree{Size: 9, Root: digest("sessions")}
		}, "", "", verifier.SourceVendor, asserted},
		{"not allowed itself", func(_ *world, _ *record.Upstream, next *record.ModelRun, _ *uint64) {
			next.Environment.Release.SHA256[0]++
		}, "", verifier.CodeModelRun, verifier.SourceVerifier, failed},
		{"before the start", func(w *world, _ *record.Upstream, _ *record.ModelRun, place *uint64) { *place = w.startPlace - 1 }, "", verifier.CodeOrder, verifier.SourceVerifier, failed},
		{"after the end", func(w *world, _ *record.Upstream, _ *record.ModelRun, place *uint64) { *place = w.finalPlace + 1 }, "", verifier.CodeOrder, verifier.SourceVerifier, failed},
		{"sent on to where nothing is known", func(_ *world, _ *record.Upstream, next *record.ModelRun, _ *uint64) {
			next.Upstream = []record.Upstream{{Provider: "cloud", Execution: record.ExecutionTEE, Channel: next.PeerChannel}}
		}, "", verifier.CodeModelRun, verifier.SourceVerifier, failed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.policy += tt.policy
			start := w.place(w.startPlace, w.verifyStart())
			next := *w.run.ModelRun
			next.Provider = "backend"
			next.PeerChannel.SHA256 = digest("backend's channel")
			next.Session = &record.ServedSession{ID: w.info.ID, Statement: start.Verdict.Entry.StatementDigest()}
			u := record.Upstream{Provider: "backend", Execution: record.ExecutionTEE, Channel: next.PeerChannel, ModelRun: new(record.Digest)}
			place := w.startPlace + 1
			tt.edit(w, &u, &next, &place)
			e := w.sign(w.platform, &record.Statement{Vendor: vendor, ModelRun: &next}, w.runKey, w.runQuote)
			if u.ModelRun != nil && *u.ModelRun == (record.Digest{}) {
				*u.ModelRun = e.StatementDigest()
			}
			w.run.ModelRun.Upstream = []record.Upstream{u}
			runs := []*verifier.PlacedRecord{
				w.place(place, w.must(w.verify(w.input(e, now, w.finalInterval)))), w.place(w.runPlace, w.verifyRun()),
			}
			p := parse(t, w.policy)
			claims, refusals := verifier.ModelRuns(start, w.place(w.finalPlace, w.verifyFinal()), runs, p)
			if got := codes(refusals); tt.want == "" && got != nil || tt.want != "" && !slices.Contains(got, tt.want) {
				t.Errorf("refusals %v, want %v", refusals, tt.want)
			}
			if c := claim(t, claims, "model.0"); c.Source != tt.source || c.Status != tt.status {
				t.Errorf("claim %+v, want it %s by %s", c, tt.status, tt.source)
			}

			// The same of the gateway's record by itself, whose place in a session nobody knows.
			claims, refusals = verifier.Upstreams(runs[1], runs, p)
			if got := slices.Contains(codes(refusals), verifier.CodeModelRun); got != (tt.want == verifier.CodeModelRun) {
				t.Errorf("of the record by itself: refusals %v, want %v", refusals, tt.want)
			}
			if u.Execution == record.ExecutionTEE && tt.want != verifier.CodeOrder {
				if c := claim(t, claims, "upstream.0"); c.Source != tt.source || c.Status != tt.status {
					t.Errorf("claim %+v, want it %s by %s", c, tt.status, tt.source)
				}
			}
		})
	}
}

// TestUpstreamMesh: runs that each name the one before sixteen times are looked at once each.
func TestUpstreamMesh(t *testing.T) {
	w := newWorld(t)
	start := w.place(w.startPlace, w.verifyStart())
	served := &record.ServedSession{ID: w.info.ID, Statement: start.Verdict.Entry.StatementDigest()}
	var runs []*verifier.PlacedRecord
	for i := range uint64(20) {
		run := *w.run.ModelRun
		run.Session, run.Upstream = served, nil
		if i > 0 {
			d := runs[i-1].Verdict.Entry.StatementDigest()
			for range 16 {
				run.Upstream = append(run.Upstream, record.Upstream{Provider: "phala", Execution: record.ExecutionTEE, Channel: run.PeerChannel, ModelRun: &d})
			}
		}
		e := w.sign(w.platform, &record.Statement{Vendor: vendor, ModelRun: &run}, w.runKey, w.runQuote)
		runs = append(runs, w.place(w.startPlace+1, w.must(w.verify(w.input(e, now, w.finalInterval)))))
	}
	w.final.Session.Models[0].ModelRun = new(runs[19].Verdict.Entry.StatementDigest())
	claims, refusals := verifier.ModelRuns(start, w.place(w.finalPlace, w.verifyFinal()), runs, parse(t, w.policy))
	if refusals != nil {
		t.Error(refusals)
	}
	if c := claim(t, claims, "model.0"); c.Source != verifier.SourceVerifier || c.Status != verifier.StatusHolds {
		t.Errorf("claim %+v", c)
	}
}

// Models of other classes have no records.
func TestModelRunsOfOtherClasses(t *testing.T) {
	w := newWorld(t)
	w.final.Session.Models[0].Execution = record.ExecutionPolicyZDR
	final := w.place(w.finalPlace, w.verifyFinal())
	if claims, refusals := verifier.ModelRuns(nil, final, nil, parse(t, w.policy)); claims != nil || refusals != nil {
		t.Errorf("got %v, %v", claims, refusals)
	}
	start := w.place(w.startPlace, w.verifyStart())
	if claims, refusals := verifier.ModelRuns(nil, start, nil, parse(t, w.policy)); claims != nil || refusals != nil {
		t.Errorf("of a start: %v, %v", claims, refusals)
	}
}

func TestMerge(t *testing.T) {
	c := func(id, value string) verifier.Claim { return verifier.Claim{ID: id, Value: value} }
	got := verifier.Merge([]verifier.Claim{c("a", "1"), c("model.0", "1"), c("platform.id", "1")}, []verifier.Claim{c("x", "2"), c("model.0", "2"), c("y", "2")})
	want := []verifier.Claim{c("a", "1"), c("model.0", "2"), c("x", "2"), c("y", "2"), c("platform.id", "1")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
