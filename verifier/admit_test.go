package verifier_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// A submission is everything about one, admissible as newSubmission makes it.
type submission struct {
	*world
	admission            verifier.Admission
	set                  *tdx.Set
	admittedAt, judgedAt time.Time
	logged               time.Time // when freshness was
}

func newSubmission(t testing.TB) *submission {
	w := newWorld(t)
	s := &submission{world: w, set: w.set, admittedAt: now, judgedAt: now, logged: now.Add(-time.Minute)}
	s.admission = verifier.Admission{
		Origin: origin, VendorID: vendor,
		Freshness: func(note record.Digest) (time.Time, checkpoint.Checkpoint, bool) {
			for _, size := range []uint64{90, 105, 115} {
				if note == freshness(size).Note {
					return s.logged, checkpointOf(size), true
				}
			}
			return time.Time{}, checkpoint.Checkpoint{}, false
		},
		VendorKeys: func(v, id string) (ed25519.PublicKey, bool) {
			return public("release"), v == vendor && id == keyid("release")
		},
		ListedKeys: func(v, id string) (ed25519.PublicKey, bool) {
			return public("listed"), v == vendor && id == keyid("listed")
		},
		AllowImports: true,
	}
	return s
}

func (s *submission) admit(e *record.Entry) (*verifier.Admitted, error) {
	return s.verifier.Admit(e, s.set, s.admittedAt, s.judgedAt, &s.admission)
}

func (s *submission) importAt(t time.Time) { s.judgedAt = t }

func TestAdmit(t *testing.T) {
	abandoned := func(s *submission) *record.Entry {
		return s.signVendor(&record.Statement{Vendor: vendor, Abandoned: &record.SessionAbandoned{
			ID: s.info.ID, Start: record.StatementRef{Origin: origin, Index: 100, Statement: digest("start")}, Reason: record.AbandonedLost, AbandonedOn: now,
		}}, "release")
	}
	for _, tt := range []struct {
		name    string
		entry   func(s *submission) *record.Entry
		problem verifier.Problem // empty: admitted
		reason  string
	}{
		{"start", func(s *submission) *record.Entry { return s.startEntry() }, "", ""},
		{"final", func(s *submission) *record.Entry { return s.finalEntry() }, "", ""},
		{"model run", func(s *submission) *record.Entry { return s.runEntry() }, "", ""},
		{"release", func(s *submission) *record.Entry { s.set = nil; return s.releaseEntry() }, "", ""},
		{"withdrawal", func(s *submission) *record.Entry { s.withdraw(); return s.signVendor(s.withdrawn, "release") }, "", ""},
		{"vendor key", func(s *submission) *record.Entry { return s.vendorKey("listed") }, "", ""},
		{"abandoned by the vendor", abandoned, "", ""},
		{"abandoned by the TD", func(s *submission) *record.Entry {
			f := s.final.Session
			return s.sign(s.platform, &record.Statement{Vendor: vendor, Abandoned: &record.SessionAbandoned{
				ID: s.info.ID, Start: record.StatementRef{Origin: origin, Index: 100, Statement: digest("start")}, Reason: record.AbandonedUnused, AbandonedOn: now,
				SessionKey: &f.SessionKey, Freshness: &f.Freshness, Environment: &f.Environment,
			}}, "session", tdxsim.QuoteOptions{})
		}, "", ""},
		{"import", func(s *submission) *record.Entry {
			s.importAt(epoch.Add(time.Hour))
			return s.imported(tdxsim.QuoteOptions{}, nil)
		}, "", ""},
		{"quote version 5", func(s *submission) *record.Entry {
			s.finalQuote.Version, s.finalQuote.Body = 5, 3
			return s.finalEntry()
		}, "", ""},
		// The appraisal policy's business, not the log's.
		{"out of date", func(s *submission) *record.Entry {
			l := tdxsim.DefaultLevels()
			l[0].Status = "OutOfDate"
			s.set = s.collateral(tdxsim.CollateralOptions{Levels: l})
			return s.finalEntry()
		}, "", ""},
		{"migratable", func(s *submission) *record.Entry {
			s.finalQuote.TDAttributes = new(tdxsim.AttrMigratable)
			return s.finalEntry()
		}, "", ""},
		{"freshness of ten minutes ago", func(s *submission) *record.Entry {
			s.logged = now.Add(-10 * time.Minute)
			return s.finalEntry()
		}, "", ""},
		{"late, as late as that may be", func(s *submission) *record.Entry {
			s.logged = now.Add(-time.Hour)
			s.admission.LateUntil = time.Hour
			return s.finalEntry()
		}, "", ""},
		{"freshness of a log whose clock is a minute ahead", func(s *submission) *record.Entry {
			s.logged = now.Add(time.Minute)
			return s.finalEntry()
		}, "", ""},

		{"not parsed", func(s *submission) *record.Entry { return new(record.Entry) }, verifier.ProblemMalformed, ""},
		{"import where none is allowed", func(s *submission) *record.Entry {
			s.importAt(epoch.Add(time.Hour))
			s.admission.AllowImports = false
			return s.imported(tdxsim.QuoteOptions{}, nil)
		}, verifier.ProblemImportsNotAllowed, ""},
		{"import from the future", func(s *submission) *record.Entry {
			s.importAt(now.Add(time.Second))
			return s.imported(tdxsim.QuoteOptions{}, func(ev *record.ImportedEvidence) { ev.CollectedOn = s.judgedAt })
		}, verifier.ProblemNotGenuine, verifier.ReasonStatement},
		{"import judged at another time", func(s *submission) *record.Entry {
			return s.imported(tdxsim.QuoteOptions{}, nil)
		}, verifier.ProblemNotGenuine, verifier.ReasonStatement},
		{"import, collected before its collateral", func(s *submission) *record.Entry {
			s.importAt(epoch.Add(-time.Hour))
			return s.imported(tdxsim.QuoteOptions{}, func(ev *record.ImportedEvidence) { ev.CollectedOn = s.judgedAt })
		}, verifier.ProblemNoCollateral, ""},
		{"import of a debug TD", func(s *submission) *record.Entry {
			s.importAt(epoch.Add(time.Hour))
			return s.imported(tdxsim.QuoteOptions{TDAttributes: new(tdxsim.AttrDebug)}, nil)
		}, verifier.ProblemNotGenuine, verifier.ReasonDebug},
		{"import under a key that isn't logged", func(s *submission) *record.Entry {
			s.importAt(epoch.Add(time.Hour))
			s.releaseKey = "listed"
			return s.imported(tdxsim.QuoteOptions{}, nil)
		}, verifier.ProblemUnknownKey, ""},
		{"another vendor's", func(s *submission) *record.Entry {
			s.admission.VendorID = "https://other.example"
			return s.finalEntry()
		}, verifier.ProblemVendorMismatch, ""},
		{"release under a key that isn't logged", func(s *submission) *record.Entry {
			s.releaseKey = "listed"
			return s.releaseEntry()
		}, verifier.ProblemUnknownKey, ""},
		{"abandoned by a key that isn't logged", func(s *submission) *record.Entry {
			s.admission.VendorKeys = func(string, string) (ed25519.PublicKey, bool) { return nil, false }
			return abandoned(s)
		}, verifier.ProblemUnknownKey, ""},
		{"vendor key that isn't listed", func(s *submission) *record.Entry { return s.vendorKey("release") }, verifier.ProblemUnknownKey, ""},
		{"freshness of another log", func(s *submission) *record.Entry {
			s.admission.Origin = "log.example.org/2027"
			return s.finalEntry()
		}, verifier.ProblemUnknownFreshness, ""},
		{"freshness unknown", func(s *submission) *record.Entry {
			s.final.Session.Freshness.Note = digest("other")
			return s.finalEntry()
		}, verifier.ProblemUnknownFreshness, ""},
		{"freshness of another size", func(s *submission) *record.Entry {
			s.final.Session.Freshness.Size++
			return s.finalEntry()
		}, verifier.ProblemNotGenuine, verifier.ReasonStatement},
		{"freshness of another root", func(s *submission) *record.Entry {
			s.final.Session.Freshness.Root[0]++
			return s.finalEntry()
		}, verifier.ProblemNotGenuine, verifier.ReasonStatement},
		{"freshness too old", func(s *submission) *record.Entry {
			s.logged = now.Add(-10*time.Minute - time.Millisecond)
			return s.finalEntry()
		}, verifier.ProblemStaleFreshness, ""},
		{"freshness older than configured", func(s *submission) *record.Entry {
			s.admission.MaxFreshnessAge = time.Minute - time.Millisecond
			return s.finalEntry()
		}, verifier.ProblemStaleFreshness, ""},
		{"later than late records may be", func(s *submission) *record.Entry {
			s.logged = now.Add(-time.Hour - time.Millisecond)
			s.admission.LateUntil = time.Hour
			return s.finalEntry()
		}, verifier.ProblemStaleFreshness, ""},
		{"freshness from the future", func(s *submission) *record.Entry {
			s.logged = now.Add(time.Minute + time.Millisecond)
			return s.finalEntry()
		}, verifier.ProblemStaleFreshness, ""},
		{"no collateral", func(s *submission) *record.Entry { s.set = nil; return s.finalEntry() }, verifier.ProblemNoCollateral, ""},
		{"collateral expired", func(s *submission) *record.Entry {
			s.set = s.collateral(tdxsim.CollateralOptions{IssueDate: epoch.AddDate(0, 0, -30)})
			return s.finalEntry()
		}, verifier.ProblemNoCollateral, ""},
		{"quote of another statement", func(s *submission) *record.Entry {
			s.finalQuote.ReportData = s.startEntry().ReportData()
			return s.finalEntry()
		}, verifier.ProblemNotGenuine, verifier.ReasonBinding},
		{"debug TD", func(s *submission) *record.Entry {
			s.finalQuote.TDAttributes = new(tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug)
			return s.finalEntry()
		}, verifier.ProblemNotGenuine, verifier.ReasonDebug},
		{"platform revoked", func(s *submission) *record.Entry {
			s.set = s.collateral(tdxsim.CollateralOptions{PCKCRL: tdxsim.CRL{Revoked: []*big.Int{s.platform.PCKSerial()}}})
			return s.finalEntry()
		}, verifier.ProblemNotGenuine, "revoked"},
		{"envelope forged", func(s *submission) *record.Entry {
			e := s.finalEntry()
			e, err := record.NewEntry(e.Profile, e.Payload, e.KeyID, flip(e.Signature, 63), e.Evidence...)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}, verifier.ProblemNotGenuine, verifier.ReasonEnvelope},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSubmission(t)
			e := tt.entry(s)
			a, err := s.admit(e)
			if tt.problem != "" {
				var problem *verifier.AdmissionError
				if a != nil || !errors.As(err, &problem) {
					t.Fatalf("got %+v, %v; want problem %s", a, err, tt.problem)
				}
				if problem.Problem != tt.problem || problem.Reason != tt.reason {
					t.Errorf("problem %s, reason %q; want %s, %q (%v)", problem.Problem, problem.Reason, tt.problem, tt.reason, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if a.Entry() != e || !a.AdmittedAt().Equal(s.admittedAt) || !a.JudgedAt().Equal(s.judgedAt) {
				t.Errorf("entry %p, admitted at %v, judged at %v", a.Entry(), a.AdmittedAt(), a.JudgedAt())
			}
			hasQuote := e.Quote() != nil
			if (a.TDX() != nil) != hasQuote || (a.Quote() != nil) != hasQuote || (a.Collateral() != nil) != hasQuote {
				t.Errorf("result %v, quote %v, collateral %v, though the entry has a quote: %v", a.TDX(), a.Quote(), a.Collateral(), hasQuote)
			}

			// What was admitted is genuine for every reader, whatever its policy.
			in := verifier.Input{Entry: e, Collateral: a.Collateral(), At: a.JudgedAt(), VendorKeys: []*record.Entry{s.vendorKey("release")}}
			if _, err := s.verifier.Verify(in, verifier.StrictPolicy()); err != nil {
				t.Errorf("admitted, but %v", err)
			}
		})
	}
}

// Leaves hold milliseconds: what is admitted must be judged the same from them.
func TestAdmitTimes(t *testing.T) {
	s := newSubmission(t)
	s.admittedAt = now.Add(1999 * time.Microsecond)
	s.judgedAt = now.Add(1001 * time.Microsecond)
	a, err := s.admit(s.finalEntry())
	if err != nil {
		t.Fatal(err)
	}
	if want := now.Add(time.Millisecond); !a.AdmittedAt().Equal(want) || !a.JudgedAt().Equal(want) {
		t.Errorf("admitted at %v, judged at %v; want %v", a.AdmittedAt(), a.JudgedAt(), want)
	}
	s.judgedAt = now
	if a, err := s.admit(s.finalEntry()); err == nil || a != nil {
		t.Errorf("judged at another time than admitted: %v", a)
	}
	// The last millisecond in which collateral is valid, and the first in which it isn't.
	_, to := s.set.Window()
	s.logged = to
	s.admittedAt = to.Add(-time.Nanosecond)
	s.judgedAt = s.admittedAt
	if _, err := s.admit(s.finalEntry()); err != nil {
		t.Error(err)
	}
	s.admittedAt, s.judgedAt = to, to
	var problem *verifier.AdmissionError
	if _, err := s.admit(s.finalEntry()); !errors.As(err, &problem) || problem.Problem != verifier.ProblemNoCollateral || !errors.As(err, new(*tdx.StaleError)) {
		t.Errorf("collateral that isn't valid any more: %v", err)
	}
}

// Cheap checks come first: nobody can have a log verify signatures for nothing.
func TestAdmitOrder(t *testing.T) {
	s := newSubmission(t)
	e := s.finalEntry()
	forged, err := record.NewEntry(e.Profile, e.Payload, e.KeyID, flip(e.Signature, 0), record.NewQuoteEvidence(make([]byte, 100)))
	if err != nil {
		t.Fatal(err)
	}
	s.admission.VendorID = "https://other.example"
	s.admission.Freshness = func(record.Digest) (time.Time, checkpoint.Checkpoint, bool) {
		t.Error("asked for freshness, though the vendor is wrong")
		return time.Time{}, checkpoint.Checkpoint{}, false
	}
	var problem *verifier.AdmissionError
	if _, err := s.admit(forged); !errors.As(err, &problem) || problem.Problem != verifier.ProblemVendorMismatch {
		t.Errorf("all wrong: %v, want the vendor", err)
	}
	s = newSubmission(t)
	s.logged = now.Add(-time.Hour)
	if _, err := s.admit(forged); !errors.As(err, &problem) || problem.Problem != verifier.ProblemStaleFreshness {
		t.Errorf("signature and freshness wrong: %v, want the freshness", err)
	}
	s = newSubmission(t)
	if _, err := s.admit(forged); !errors.As(err, &problem) || problem.Reason != verifier.ReasonEnvelope {
		t.Errorf("signature and quote wrong: %v, want the signature", err)
	}
}

// FuzzAdmit changes admissible entries. What is still admitted says the same: the
// statement, who signed it, and what hardware measured are untouched. (Nobody
// signs how the PCK chain in a quote is spaced, and anyone can negate the s of an
// ECDSA signature.)
func FuzzAdmit(f *testing.F) {
	s := newSubmission(f)
	s.importAt(now) // the only time at which all seeds are admissible
	originals := []*record.Entry{
		s.startEntry(), s.finalEntry(), s.runEntry(), s.releaseEntry(), s.vendorKey("listed"),
		s.imported(tdxsim.QuoteOptions{}, func(ev *record.ImportedEvidence) { ev.CollectedOn = now }),
	}
	for i, e := range originals {
		if _, err := s.admit(e); err != nil {
			f.Fatal(err)
		}
		n := uint16(len(e.Bytes()))
		for _, at := range []uint16{0, 5, 100, n / 2, n - 1, n - 700, n - 1200} {
			f.Add(uint8(i), at, []byte{1})
		}
		f.Add(uint8(i), uint16(0), []byte{})
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint16, xor []byte) {
		original := originals[int(which)%len(originals)]
		b := bytes.Clone(original.Bytes())
		for i, x := range xor {
			b[(int(at)+i)%len(b)] ^= x
		}
		e, err := record.ParseEntry(b)
		if err != nil {
			return
		}
		a, err := s.admit(e)
		if err != nil {
			if _, ok := err.(*verifier.AdmissionError); !ok || a != nil {
				t.Fatalf("got %v, %T %v", a, err, err)
			}
			return
		}
		if e.Profile != original.Profile || !bytes.Equal(e.Payload, original.Payload) || e.KeyID != original.KeyID ||
			!bytes.Equal(e.Signature, original.Signature) || len(e.Evidence) != len(original.Evidence) {
			t.Fatal("another statement or envelope was admitted")
		}
		if original.Quote() == nil {
			return
		}
		q, err := tdx.ParseQuote(original.Quote())
		if err != nil {
			t.Fatal(err)
		}
		signed := len(original.Quote()) - 4 - len(q.Signature) - len(q.AttestationKey) - 6 - len(q.QEReport) - len(q.QEReportSignature) - 2 - len(q.QEAuthData) - 6 - len(q.PCKChain)
		got := a.Quote()
		if !bytes.Equal(got.Raw()[:signed], q.Raw()[:signed]) || !bytes.Equal(got.AttestationKey, q.AttestationKey) ||
			!bytes.Equal(got.QEReport, q.QEReport) || !bytes.Equal(got.QEAuthData, q.QEAuthData) {
			t.Fatal("another quote was admitted")
		}
		if !strings.Contains(string(got.PCKChain), "BEGIN CERTIFICATE") || a.TDX().PPID == "" {
			t.Fatal("a quote without a platform was admitted")
		}
	})
}

// BenchmarkAdmit is a final record of a platform that was seen before, as most
// are. The quoting enclave's signature differs each time, as on real platforms.
func BenchmarkAdmit(b *testing.B) {
	s := newSubmission(b)
	var entries []*record.Entry
	s.finalQuote.FreshQE = true
	for range 64 {
		e := s.finalEntry()
		if _, err := s.admit(e); err != nil {
			b.Fatal(err)
		}
		entries = append(entries, e)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := s.admit(entries[i%len(entries)]); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkParseAndAdmit starts with bytes, as the log does.
func BenchmarkParseAndAdmit(b *testing.B) {
	s := newSubmission(b)
	raw := s.finalEntry().Bytes()
	b.ReportAllocs()
	for b.Loop() {
		e, err := record.ParseEntry(raw)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.admit(e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBareCryptography is the floor of BenchmarkAdmit: what it can't do
// without.
func BenchmarkBareCryptography(b *testing.B) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256([]byte("quote"))
	sig, err := ecdsa.SignASN1(rand.Reader, k, sum[:])
	if err != nil {
		b.Fatal(err)
	}
	e := newSubmission(b).finalEntry()
	pae, pub := record.PAE(e.PayloadType, e.Payload), public("session")
	b.ReportAllocs()
	for b.Loop() {
		for range 2 { // the quoting enclave's and the quote's
			if !ecdsa.VerifyASN1(&k.PublicKey, sum[:], sig) {
				b.Fatal("P-256")
			}
		}
		if !ed25519.Verify(pub, pae, e.Signature) {
			b.Fatal("Ed25519")
		}
	}
}

// What CheckRelease refuses, Verify refuses too, for the same reason, and nothing else about the release: a log's reader
// sees what a record's does.
func TestCheckRelease(t *testing.T) {
	for _, tt := range []struct {
		name   string
		edit   func(s *submission)
		refuse bool
	}{
		{"as released", func(*submission) {}, false},
		{"withdrawn", func(s *submission) { s.withdraw() }, true},
		{"other code", func(s *submission) { s.finalQuote.MRTD[0] ^= 1 }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSubmission(t)
			tt.edit(s)
			in := s.finalInput()
			in.Collateral, in.At = s.set, s.judgedAt
			a, err := s.admit(in.Entry)
			if err != nil {
				t.Fatal(err)
			}
			got := s.verifier.CheckRelease(a, in)
			if (len(got) > 0) != tt.refuse {
				t.Errorf("refusals %v", got)
			}
			v := s.must(s.verifier.Verify(in, verifier.StrictPolicy()))
			var want []verifier.Refusal
			for _, r := range v.Refusals {
				if r.Code == verifier.CodeRelease {
					want = append(want, r)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("refusals differ (-Verify +CheckRelease):\n%s", diff)
			}
		})
	}
}

// A signature on a release is looked up the second time, and by what the entry is, not by its key.
func TestVendorSignatureCache(t *testing.T) {
	w := newWorld(t)
	in := w.finalInput()
	p := parse(t, releasePolicy("release"))
	if v := w.must(w.verifier.Verify(in, p)); v.Identity.By != "release" {
		t.Fatalf("identity %+v", v.Identity)
	}
	r := *in.Releases[0]
	r.Signature = flip(r.Signature, 3)
	in.Releases = []*record.Entry{&r}
	for range 2 {
		if v := w.must(w.verifier.Verify(in, p)); v.Identity.Known() {
			t.Errorf("a release with a wrong signature identifies the code: %+v", v.Identity)
		}
	}
}
