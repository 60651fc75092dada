package record

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// shared returns the directory of the shared examples and vectors, which don't
// belong to this repository.
func shared(t testing.TB) string {
	dir := os.Getenv("AFFIDAVIT_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	if _, err := os.Stat(filepath.Join(dir, "examples")); err != nil {
		t.Skipf("no shared examples (set AFFIDAVIT_SHARED): %v", err)
	}
	return dir
}

// The published examples are valid as they are, and say the same without the
// spaces and in our order. A member that the tables drop or rename makes this fail.
func TestExamples(t *testing.T) {
	dir := filepath.Join(shared(t), "examples")
	for name, typ := range map[string]string{
		"session-start.json": PredicateSessionStart,
		"session.json":       PredicateSession,
		"model-run.json":     PredicateModelRun,
		"release.json":       PredicateRelease,
	} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			s, err := ParseStatement(b)
			if err != nil {
				t.Fatal(err)
			}
			if s.PredicateType != typ {
				t.Errorf("predicate type %s, want %s", s.PredicateType, typ)
			}
			again, err := s.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := normal(t, again), normal(t, b); !bytes.Equal(got, want) {
				t.Errorf("Marshal changed it:\n got %s\nwant %s", got, want)
			}
		})
	}
	t.Run("action-disclosure.json", func(t *testing.T) {
		b, err := os.ReadFile(filepath.Join(dir, "action-disclosure.json"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := ParseDisclosure(b)
		if err != nil {
			t.Fatal(err)
		}
		final, err := os.ReadFile(filepath.Join(dir, "session.json"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := ParseStatement(final)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.VerifySession(s.Session); err != nil {
			t.Error(err)
		}
		if doc, err := d.Action.Marshal(); err != nil || !bytes.Equal(doc, d.Bytes) {
			t.Errorf("the example's document isn't in our deterministic form: %s, %v", doc, err)
		}
		if got, want := normal(t, d.JSON()), normal(t, b); !bytes.Equal(got, want) {
			t.Errorf("JSON changed it:\n got %s\nwant %s", got, want)
		}
	})
	t.Run("pair", func(t *testing.T) {
		var ss [2]*Statement
		for i, name := range []string{"session-start.json", "session.json"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if ss[i], err = ParseStatement(b); err != nil {
				t.Fatal(err)
			}
		}
		if err := CheckPair(ss[0], ss[1]); err != nil {
			t.Error(err)
		}
	})
}

// normal returns b with sorted members and without spaces.
func normal(t testing.TB, b []byte) []byte {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
