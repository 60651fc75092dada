package checkpoint

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"
	"time"
)

func frozenKeys(t testing.TB) (log, other *SigningKey, p *Policy) {
	t.Helper()
	var err error
	if log, err = GenerateKey(Ed25519, "log.example/1", rand.Reader); err != nil {
		t.Fatal(err)
	}
	if other, err = GenerateKey(Ed25519, "log.example/2", rand.Reader); err != nil {
		t.Fatal(err)
	}
	if p, err = ParsePolicy([]byte("log " + log.VKey() + "\nquorum none\n")); err != nil {
		t.Fatal(err)
	}
	return log, other, p
}

func signed(t testing.TB, text []byte, keys ...*SigningKey) []byte {
	t.Helper()
	var lines [][]byte
	for _, k := range keys {
		line, err := k.Sign(text, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	note, err := Sign(text, lines...)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

func TestCheckFrozen(t *testing.T) {
	log, other, p := frozenKeys(t)
	cp := Checkpoint{Origin: log.Name(), Size: 7, Root: [32]byte{1}}
	good := signed(t, cp.FrozenText(), log)
	if got, err := p.CheckFrozen(good); err != nil || got.Origin != cp.Origin || got.Size != cp.Size || got.Root != cp.Root {
		t.Fatalf("%+v, %v", got, err)
	}
	elsewhere := cp
	elsewhere.Origin = other.Name()
	for _, tt := range []struct {
		name string
		note []byte
		want error
	}{
		{"a checkpoint", signed(t, cp.Text(), log), ErrMalformed},
		{"no note", cp.FrozenText(), ErrMalformed},
		{"a header alone", signed(t, []byte(frozenHeader), log), ErrMalformed},
		{"another log", signed(t, elsewhere.FrozenText(), other), ErrUnknownLog},
		{"another log's word", signed(t, cp.FrozenText(), other), ErrBadSignature},
		{"the log's word about another", signed(t, elsewhere.FrozenText(), log), ErrUnknownLog},
		{"a changed size", bytes.Replace(good, []byte("\n7\n"), []byte("\n8\n"), 1), ErrBadSignature},
	} {
		if _, err := p.CheckFrozen(tt.note); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	// Neither is ever taken for the other.
	if _, err := p.CheckLog(good); !errors.Is(err, ErrMalformed) {
		t.Errorf("a log's last word is a checkpoint: %v", err)
	}
}

func FuzzCheckFrozen(f *testing.F) {
	log, _, p := frozenKeys(f)
	cp := Checkpoint{Origin: log.Name(), Size: 7}
	f.Add(cp.FrozenText())
	f.Add(cp.Text())
	f.Add([]byte("affidavit-frozen/v1\n1\n1\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		line, err := log.Sign(text, time.Time{})
		if err != nil {
			return
		}
		note, err := Sign(text, line)
		if err != nil {
			return
		}
		c, err := p.CheckFrozen(note)
		if err != nil {
			return
		}
		if got := c.FrozenText(); !bytes.Equal(got, text) {
			t.Errorf("accepted two encodings of %+v:\n%q\n%q", c, got, text)
		}
		if _, err := ParseCheckpoint(text); err == nil {
			t.Errorf("%q is a checkpoint, too", text)
		}
	})
}
