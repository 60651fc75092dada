package eventlog

import (
	"bytes"
	"crypto"
	"testing"

	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
)

// theirs is what go-eventlog finds in a log, without what isn't extended.
func theirs(b []byte) ([]tcg.Event, error) {
	l, err := tcg.ParseEventLog(b, tcg.ParseOpts{AllowPadding: true})
	if err != nil {
		return nil, err
	}
	var events []tcg.Event
	for _, e := range l.Events(register.HashSHA384) {
		if e.Type != evNoAction {
			events = append(events, e)
		}
	}
	return events, nil
}

// go-eventlog finds the same events, and its replay ends in the same registers.
func TestOracle(t *testing.T) {
	b := ccelOf(event2(1, 4, "a"), event2(2, 13, "b"), event2(3, evNoAction, "x"), event2(1, 13, "c"), event2(3, 4, "d"))
	l, err := ParseCCEL(b)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, b, l)
	r, _ := l.Replay()
	check := func(r [Registers]Register) error {
		var bank register.RTMRBank
		for i := range 3 {
			bank.RTMRs = append(bank.RTMRs, register.RTMR{Index: i, Digest: r[i][:]})
		}
		_, err := tcg.ParseAndReplay(b, bank.MRs(), tcg.ParseOpts{AllowPadding: true})
		return err
	}
	if err := check(r); err != nil {
		t.Error(err)
	}
	r[1][0] ^= 1
	if err := check(r); err == nil {
		t.Error("go-eventlog accepts another RTMR1")
	}
}

func compare(t *testing.T, b []byte, l *Log) {
	t.Helper()
	events, err := theirs(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(events) != len(l.Events) {
		t.Fatalf("%d events, go-eventlog has %d", len(l.Events), len(events))
	}
	for i, e := range events {
		got := &l.Events[i]
		if e.Index != got.RTMR+1 || uint32(e.Type) != got.Type || !bytes.Equal(e.Digest, got.Digest[:]) || !bytes.Equal(e.Data, got.Data) {
			t.Errorf("event %d: %+v, go-eventlog has %+v", i, got, e)
		}
		h := crypto.SHA384.New()
		h.Write(e.Data)
		if hashed := bytes.Equal(h.Sum(nil), e.Digest); hashed != got.Hashed {
			t.Errorf("event %d: hashed %v", i, got.Hashed)
		}
	}
}
