package monitor

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// collateral makes a set with an evaluation data number, from when the world's clock is.
func (l *lab) collateral(number uint32) *tdx.Collateral {
	l.t.Helper()
	set, err := l.PKI.Collateral(tdxsim.CollateralOptions{TCBEvaluationDataNumber: number, IssueDate: l.Now.Truncate(time.Second)})
	if err != nil {
		l.t.Fatal(err)
	}
	return set
}

// Each row is an honest log in which one thing is wrong. TestHonest shows that nothing else is.
func TestRules(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(l *lab) (index uint64) // of the leaf that the first finding is about
		want []Kind
		also func(t *testing.T, f *Finding)
	}{
		{"nothing", func(l *lab) uint64 { l.session(); return 0 }, nil, nil},
		{"unparsable leaf", func(l *lab) uint64 { return l.Append([]byte("\x01\x01 a leaf")) }, []Kind{KindUnparsable}, func(t *testing.T, f *Finding) {
			if string(f.Evidence.Leaf) != "\x01\x01 a leaf" || f.Evidence.Checkpoint == "" || len(f.Evidence.Inclusion) == 0 {
				t.Errorf("evidence %+v", f.Evidence)
			}
		}},
		{"leaf of the future", func(l *lab) uint64 { return l.Append([]byte{1, 99, 0}) }, []Kind{KindUnsupported}, nil},
		{"quote for another statement", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) { d.KeepReportData = true })
		}, []Kind{KindInvalidRecord}, reasonIs("binding")},
		{"quote of a made-up platform", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) {
				d.Platform = tdxsim.NewPKI([]byte("another Intel"), bundletest.Epoch.Add(-time.Hour)).NewPlatform(tdxsim.PlatformOptions{})
			})
		}, []Kind{KindInvalidRecord}, reasonIs("root")},
		{"debug TD", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) { d.Quote.TDAttributes = new(tdxsim.AttrDebug | tdxsim.AttrSEPTVEDisable) })
		}, []Kind{KindInvalidRecord}, reasonIs("debug")},
		{"wrong signature", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) {
				e := d.Make(l.t)
				b := slices.Clone(e.Bytes())
				at := len(b) - len(e.Quote()) - 30 // in the signature, which comes before the evidence
				b[at] ^= 1
				var err error
				if d.Entry, err = record.ParseEntry(b); err != nil {
					l.t.Fatal(err)
				}
			})
		}, []Kind{KindInvalidRecord}, reasonIs("envelope")},
		{"release by an unknown key", func(l *lab) uint64 {
			v := bundletest.NewVendor("stranger")
			return l.AddRelease(v)
		}, []Kind{KindUnknownKey}, nil},
		{"release before its key", func(l *lab) uint64 {
			v := bundletest.NewVendor("stranger")
			i := l.AddRelease(v)
			l.AddVendorKey(v)
			l.AddWithdrawal(v, i)
			return i
		}, []Kind{KindUnknownKey}, nil},
		{"freshness of nowhere", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) { d.Statement.Start.Freshness.Note[0] ^= 1 })
		}, []Kind{KindFreshness}, nil},
		{"freshness of another log", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) { d.Statement.Start.Freshness.Origin = "other.example/log" })
		}, []Kind{KindFreshness}, nil},
		{"freshness with another root", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) { d.Statement.Start.Freshness.Root[0] ^= 1 })
		}, []Kind{KindInvalidRecord}, reasonIs("statement")},
		{"late", func(l *lab) uint64 { l.another(); l.Tick(20 * time.Minute); return l.AddStart() }, []Kind{KindStale}, nil},
		{"collateral that isn't there", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) { d.Collateral[0] ^= 1 })
		}, []Kind{KindCollateralLate}, nil},
		{"collateral that comes later", func(l *lab) uint64 {
			set := l.collateral(20)
			var id record.Digest
			other := bundletest.NewWorld(l.t, witnesses)
			other.AddCollateral(set)
			id = other.CollateralID
			l.another()
			i := l.AddStart(func(d *bundletest.Draft) { d.Collateral = id })
			l.AddCollateral(set)
			return i
		}, []Kind{KindCollateralLate}, nil},
		{"wrong collateral", func(l *lab) uint64 {
			old := l.CollateralID
			l.AddCollateral(l.collateral(20))
			l.AddTime()
			l.Tick(9 * time.Minute)
			l.AddTime()
			l.another()
			l.AddStart(func(d *bundletest.Draft) { d.Collateral = old }) // not yet
			l.Tick(2 * time.Minute)
			l.AddTime()
			l.another()
			return l.AddStart(func(d *bundletest.Draft) { d.Collateral = old })
		}, []Kind{KindWrongCollateral}, nil},
		{"collateral regress", func(l *lab) uint64 {
			l.AddCollateral(l.collateral(20))
			l.Tick(time.Minute)
			l.AddTime()
			i := l.AddCollateral(l.collateral(19))
			l.Tick(time.Second)
			l.another()
			l.AddStart()
			return i
		}, []Kind{KindCollateralRegress, KindWrongCollateral}, nil},
		{"collateral regress that nobody uses", func(l *lab) uint64 {
			l.AddCollateral(l.collateral(20))
			l.Tick(time.Minute)
			i := l.AddCollateral(l.collateral(19))
			l.Tick(11 * time.Minute)
			l.AddTime()
			return i
		}, []Kind{KindCollateralRegress}, nil},
		{"old collateral for an import", func(l *lab) uint64 {
			collected := l.Now.Add(-time.Minute).Truncate(time.Second)
			l.AddCollateral(l.collateral(20))
			set, err := l.PKI.Collateral(tdxsim.CollateralOptions{TCBEvaluationDataNumber: 17, IssueDate: bundletest.Epoch.Add(-30 * time.Minute)})
			if err != nil {
				l.t.Fatal(err)
			}
			l.Tick(time.Minute)
			l.AddCollateral(set)
			l.AddImport(collected)
			l.Tick(20 * time.Minute)
			l.AddTime()
			return 0
		}, nil, nil},
		{"collateral of another Intel", func(l *lab) uint64 {
			set, err := tdxsim.NewPKI([]byte("another Intel"), bundletest.Epoch.Add(-time.Hour)).Collateral(tdxsim.CollateralOptions{})
			if err != nil {
				l.t.Fatal(err)
			}
			i := l.AddCollateral(set)
			l.another()
			l.AddStart()
			return i
		}, []Kind{KindCollateralInvalid, KindInvalidRecord}, nil},
		{"collateral twice", func(l *lab) uint64 { return l.AddCollateral(l.Set) }, []Kind{KindDuplicateCollateral}, nil},
		{"duplicate statement", func(l *lab) uint64 {
			s := l.session()
			return l.Append(l.Leaf(s.start))
		}, []Kind{KindDuplicateStatement}, nil},
		{"duplicate note", func(l *lab) uint64 { return l.Append(l.Leaf(l.Size() - 1)) }, []Kind{KindDuplicateNote}, nil},
		{"time leaf without quorum", func(l *lab) uint64 {
			return l.Append((&record.TimeLeaf{LoggedAt: l.Now.UnixMilli(), Note: l.Sign(l.Head(3), l.Now, 0)}).Bytes())
		}, []Kind{KindBadTimeLeaf}, nil},
		{"time leaf without note", func(l *lab) uint64 {
			return l.Append((&record.TimeLeaf{LoggedAt: l.Now.UnixMilli(), Note: []byte("no note")}).Bytes())
		}, []Kind{KindBadTimeLeaf}, nil},
		{"time leaf of the future", func(l *lab) uint64 {
			cp := l.Head(3)
			cp.Size = 1000
			return l.Append((&record.TimeLeaf{LoggedAt: l.Now.UnixMilli(), Note: l.Sign(cp, l.Now)}).Bytes())
		}, []Kind{KindBadTimeLeaf}, nil},
		{"two finals", func(l *lab) uint64 {
			s := l.session()
			return l.AddFinal(s.start, nil)
		}, []Kind{KindTwoFinals}, nil},
		{"abandoned after its final", func(l *lab) uint64 {
			s := l.session()
			return l.AddAbandoned(s.start)
		}, []Kind{KindTwoFinals}, nil},
		{"abandoned", func(l *lab) uint64 {
			l.another()
			s := l.AddStart()
			l.AddAbandoned(s)
			l.AddTime()
			l.Tick(8 * 24 * time.Hour)
			l.AddTime()
			return 0
		}, nil, nil},
		{"final without a start", func(l *lab) uint64 {
			s := l.session()
			l.another()
			l.AddTime()
			return l.AddFinal(s.run, nil)
		}, []Kind{KindUnknownStart}, nil},
		{"final by another key", func(l *lab) uint64 {
			l.another()
			start := l.AddStart()
			l.AddTime()
			l.SessionKey = bundletest.KeyFrom("another")
			return l.AddFinal(start, nil)
		}, []Kind{KindPairMismatch}, nil},
		{"final on another platform", func(l *lab) uint64 {
			l.another()
			start := l.AddStart()
			l.AddTime()
			return l.AddFinal(start, nil, func(d *bundletest.Draft) {
				d.Platform = l.PKI.NewPlatform(tdxsim.PlatformOptions{Name: "another"})
			})
		}, []Kind{KindPairMismatch}, nil},
		{"unpaired start", func(l *lab) uint64 {
			l.another()
			i := l.AddStart()
			l.AddTime()
			l.Tick(7*24*time.Hour + time.Minute)
			l.AddTime()
			l.AddTime()
			return i
		}, []Kind{KindUnpairedStart}, nil},
		{"unnamed model run", func(l *lab) uint64 {
			l.another()
			start := l.AddStart()
			l.AddModelRun(start)
			l.AddTime()
			return l.AddFinal(start, nil)
		}, []Kind{KindModelRunMismatch}, nil},
		{"model run that isn't there", func(l *lab) uint64 {
			l.another()
			start := l.AddStart()
			run := l.AddModelRun(start)
			l.AddTime()
			return l.AddFinal(start, []uint64{run}, func(d *bundletest.Draft) {
				m := d.Statement.Session.Models[0]
				m.ModelRun = &record.Digest{1}
				d.Statement.Session.Models = append(d.Statement.Session.Models, m)
			})
		}, []Kind{KindModelRunMismatch}, nil},
		{"model run with another channel", func(l *lab) uint64 {
			l.another()
			start := l.AddStart()
			run := l.AddModelRun(start)
			l.AddTime()
			return l.AddFinal(start, []uint64{run}, func(d *bundletest.Draft) { d.Statement.Session.Models[0].Channel.SHA256[0] ^= 1 })
		}, []Kind{KindModelRunMismatch}, nil},
		{"sequence gap", func(l *lab) uint64 {
			for _, n := range []uint64{1, 2, 5, 7, 6} {
				l.numbered(n)
			}
			l.Tick(2 * time.Hour)
			l.AddTime()
			l.AddTime()
			l.numbered(8)
			return 0
		}, []Kind{KindSequenceGap}, nil},
		{"sequence out of order", func(l *lab) uint64 {
			for _, n := range []uint64{2, 4, 1, 3} {
				l.numbered(n)
			}
			l.Tick(2 * time.Hour)
			l.AddTime()
			return 0
		}, nil, nil},
		{"sequence twice", func(l *lab) uint64 { l.numbered(1); l.numbered(2); return l.numbered(1) }, []Kind{KindSequenceTwice}, nil},
		{"wide interval", func(l *lab) uint64 {
			l.another()
			i := l.AddStart()
			l.Tick(2 * time.Hour)
			l.AddTime()
			return i
		}, []Kind{KindWideInterval}, nil},
		{"admitted before it was made", func(l *lab) uint64 {
			l.another()
			return l.addTimed(func(d *bundletest.Draft) { d.Admitted = d.Admitted.Add(-2 * time.Minute) })
		}, []Kind{KindAdmittedAt, KindStale}, nil},
		{"admitted after it was seen", func(l *lab) uint64 {
			l.another()
			return l.addTimed(func(d *bundletest.Draft) { d.Admitted = d.Admitted.Add(2 * time.Minute) })
		}, []Kind{KindAdmittedAt}, nil},
		{"unknown release", func(l *lab) uint64 {
			l.another()
			i := l.AddStart(func(d *bundletest.Draft) { d.Statement.Start.Environment.Release.SHA256[0] ^= 1 })
			l.another()
			l.AddStart(func(d *bundletest.Draft) { d.Statement.Start.Environment.Release.SHA256[0] ^= 1 })
			return i
		}, []Kind{KindReleaseUnknown}, nil},
		{"other code than the release", func(l *lab) uint64 {
			l.another()
			return l.AddStart(func(d *bundletest.Draft) { d.Quote.MRTD[0] ^= 1 })
		}, []Kind{KindReleaseMismatch}, nil},
		{"release used after its withdrawal", func(l *lab) uint64 {
			l.another()
			l.AddStart()
			l.AddWithdrawal(l.Vendor, 2)
			l.another()
			return l.AddStart()
		}, []Kind{KindReleaseWithdrawnUsed}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, witnesses)
			index := tt.make(l)
			l.Tick(time.Second)
			l.AddTime()
			l.open()
			l.publish()
			if l.want(tt.want...) == nil {
				return
			}
			found := l.findings()
			f := found[slices.IndexFunc(found, func(f *Finding) bool { return f.Kind == tt.want[0] })]
			if f.Index != nil && *f.Index != index {
				t.Errorf("%s is about leaf %d, want %d", f.Kind, *f.Index, index)
			}
			if tt.also != nil {
				tt.also(t, f)
			}
			// A second monitor that reads the log in pieces finds the same, under the same names.
			ids := func() (ids []string) {
				for _, f := range l.findings() {
					ids = append(ids, f.ID)
				}
				slices.Sort(ids)
				return ids
			}
			want := ids()
			l.dir = t.TempDir()
			l.open()
			for size := uint64(1); size <= l.Size(); size += 3 {
				l.tamper("/checkpoint", func([]byte) []byte { return l.Sign(l.Head(size), l.Now) })
				l.step()
			}
			l.honest()
			l.step()
			if got := ids(); !slices.Equal(got, want) {
				for _, f := range l.findings() {
					t.Logf("%s %s: %s", f.ID, f.Kind, f.Message)
				}
				t.Errorf("leaf by leaf: findings %v, want %v", got, want)
			}
		})
	}
}

func reasonIs(want string) func(*testing.T, *Finding) {
	return func(t *testing.T, f *Finding) {
		if f.Subject["reason"] != want {
			t.Errorf("reason %q, want %q: %s", f.Subject["reason"], want, f.Message)
		}
	}
}

// numbered logs the start of a session with a number, and its abandonment.
func (l *lab) numbered(n uint64) uint64 {
	l.another()
	i := l.AddStart(func(d *bundletest.Draft) { d.Statement.Start.Sequence = n })
	l.AddAbandoned(i)
	l.AddTime()
	return i
}

// addTimed logs a start with another time, which is judged then.
func (l *lab) addTimed(edit func(*bundletest.Draft)) uint64 {
	return l.AddStart(func(d *bundletest.Draft) {
		edit(d)
		d.Judged = d.Admitted
	})
}

func TestMissingBlob(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func([]byte) []byte
	}{
		{"not served", func([]byte) []byte { return nil }},
		{"another", func(b []byte) []byte { return append(b, '\n') }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, witnesses)
			l.another()
			l.AddStart()
			l.open()
			blob := Hash(sha256Of(l.Set.QEIdentity)).String()
			l.tamper("/blob/"+blob, tt.edit)
			l.publish()
			f := l.want(KindCollateralBlob, KindInvalidRecord)
			if !strings.Contains(f.Message, blob) {
				t.Errorf("message %q doesn't name the blob", f.Message)
			}
			if s := l.m.Status(); s.Verified != l.Size() {
				t.Errorf("status %+v", s)
			}
		})
	}
}

// A blob that can't be read for a while is no finding, and nothing is audited without it.
func TestBlobLater(t *testing.T) {
	l := newLab(t, witnesses)
	l.another()
	l.AddStart()
	l.open()
	l.mu.Lock()
	l.answer = func(rw http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/blob/") {
			rw.WriteHeader(http.StatusMovedPermanently)
			return true
		}
		return false
	}
	l.mu.Unlock()
	l.Publish(l.Now)
	if err := l.m.Step(t.Context()); err == nil {
		t.Error("a blob that can't be read is no error")
	}
	l.honest()
	l.publish()
	l.wantNone()
	if s := l.m.Status(); s.Verified != l.Size() {
		t.Errorf("status %+v", s)
	}
}

func TestWatch(t *testing.T) {
	l := newLab(t, witnesses)
	s := l.session()
	start, err := record.ParseLeaf(l.Leaf(s.start))
	if err != nil {
		t.Fatal(err)
	}
	st := entryOf(start).Statement()
	l.open(func(c *Config) {
		c.Watch = Watch{
			Vendors: []string{l.Gateway.ID}, Tenants: []record.Digest{st.Start.Tenant}, Releases: []record.Digest{l.Vendor.Image.SHA256},
			Sessions: []record.Digest{st.Start.ID.Digest()}, Platforms: []string{"none"},
		}
	})
	l.publish()
	l.want(
		KindWatchVendor, KindWatchVendor, KindWatchVendor, // key, release, model run
		KindWatchTenant, KindWatchTenant, // start, final
		KindWatchRelease, KindWatchRelease, KindWatchRelease, // release, start, final
		KindWatchSession, KindWatchSession, KindWatchSession, // start, model run, final
	)
	for _, f := range l.findings() {
		if f.Class != ClassIdentity || f.Severity != SeverityInfo {
			t.Errorf("%+v", f)
		}
	}
}
