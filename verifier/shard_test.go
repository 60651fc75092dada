package verifier_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// shards returns the origins of the logs with the year before and after that of the tests' log.
func shards(t *testing.T) (previous, next string) {
	t.Helper()
	prefix, ok := strings.CutSuffix(origin, "2026")
	if !ok {
		t.Fatalf("the tests' log is %q", origin)
	}
	return prefix + "2025", prefix + "2027"
}

// The end of a session that was started in the shard before is admitted for seven days, if that has the start.
func TestAdmitPreviousStart(t *testing.T) {
	previous, next := shards(t)
	end := func(s *submission, in string) *record.Entry {
		return s.signVendor(&record.Statement{Vendor: vendor, Abandoned: &record.SessionAbandoned{
			ID: s.info.ID, Start: record.StatementRef{Origin: in, Index: 100, Statement: digest("start")}, Reason: record.AbandonedLost, AbandonedOn: now,
		}}, "release")
	}
	for _, tt := range []struct {
		name, in string
		asked    bool
		started  time.Time // zero: the shard before has no such start
		ok       bool
	}{
		{"in this log", origin, false, time.Time{}, true},
		{"in the shard before", previous, true, now.Add(-time.Hour), true},
		{"seven days ago", previous, true, now.Add(-7 * 24 * time.Hour), true},
		{"more than seven days ago", previous, true, now.Add(-7*24*time.Hour - time.Millisecond), false},
		{"not there", previous, true, time.Time{}, false},
		{"in the shard after", next, false, now, false},
		{"in another log", "other.example/2025", false, now, false},
	} {
		s := newSubmission(t)
		asked := false
		s.admission.PreviousStart = func(ref record.StatementRef) (time.Time, bool) {
			asked = true
			return tt.started, !tt.started.IsZero() && ref.Index == 100 && ref.Statement == digest("start")
		}
		_, err := s.admit(end(s, tt.in))
		var ae *verifier.AdmissionError
		if (err == nil) != tt.ok || err != nil && (!errors.As(err, &ae) || ae.Problem != verifier.ProblemUnknownStart) || asked != tt.asked {
			t.Errorf("%s: %v, asked %v", tt.name, err, asked)
		}
	}
	s := newSubmission(t)
	if _, err := s.admit(end(s, previous)); err == nil {
		t.Error("admitted by a log that takes none")
	}
}

// Start and end in two shards belong together as in one log, but that their indices say nothing, and times do.
func TestPairAcrossShards(t *testing.T) {
	previous, next := shards(t)
	for _, tt := range []struct {
		name    string
		origin  string
		after   time.Duration
		refusal verifier.Code
	}{
		{"an hour later", next, time.Hour, ""},
		{"seven days later", next, 7 * 24 * time.Hour, ""},
		{"too late", next, 7*24*time.Hour + time.Millisecond, verifier.CodeOrder},
		{"before the start", next, -time.Millisecond, verifier.CodeOrder},
		{"in the shard before", previous, time.Hour, verifier.CodePair},
		{"in another log", "other.example/2027", time.Hour, verifier.CodePair},
	} {
		w := newWorld(t)
		start := w.place(w.startPlace, w.verifyStart())
		start.AdmittedAt = now
		end := w.place(3, w.abandoned(false, nil)) // an index below the start's
		end.Origin, end.AdmittedAt = tt.origin, now.Add(tt.after)
		_, refusals := verifier.Pair(start, end)
		if (tt.refusal == "") != (len(refusals) == 0) || tt.refusal != "" && !slices.ContainsFunc(refusals, func(r verifier.Refusal) bool { return r.Code == tt.refusal }) {
			t.Errorf("%s: %v", tt.name, refusals)
		}
	}
}
