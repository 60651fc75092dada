package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

func addVectors(f *testing.F, pattern string) {
	for _, b := range vectorsIn(f, pattern) {
		f.Add(b)
	}
}

// What is accepted passes a second check that shares no code with the first
// (encoding/json's tokens), and its fields hold all that it says: written again it is the same
// JSON value.
func FuzzParseStatement(f *testing.F) {
	addVectors(f, "statements/*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStatement(b)
		if err != nil {
			return
		}
		if len(b) > MaxPayload || !utf8.Valid(b) || bytes.IndexByte(b, '\\') >= 0 {
			t.Errorf("accepted %d bytes, UTF-8 %t", len(b), utf8.Valid(b))
		}
		checkStrict(t, b, func(path string) bool {
			return strings.HasPrefix(path, ".predicate.measurements.") || path == ".predicate.notAfter"
		})
		again, err := s.Marshal()
		if err != nil {
			t.Fatalf("accepted %s, but not what Marshal makes of it: %v", b, err)
		}
		if got, want := normal(t, again), normal(t, b); !bytes.Equal(got, want) {
			t.Errorf("not all of it was read:\n got %s\nwant %s", got, want)
		}
		s2, err := ParseStatement(again)
		if err != nil {
			t.Fatal(err)
		}
		// The order of members and of subjects' keys aside, nothing differs.
		if !reflect.DeepEqual(s, s2) {
			t.Errorf("parsed again it is another statement:\n%+v\n%+v", s, s2)
		}
	})
}

var integer = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

// checkStrict fails t unless b is one JSON value without duplicate names, also
// in other case, without nulls but where mayBeNull says, and with integers within ±2^53 only.
func checkStrict(t *testing.T, b []byte, mayBeNull func(path string) bool) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var value func(path string)
	value = func(path string) {
		tok, err := d.Token()
		if err != nil {
			t.Fatalf("encoding/json refuses it at %s: %v", path, err)
		}
		switch tok := tok.(type) {
		case json.Delim:
			seen := map[string]bool{}
			for d.More() {
				p := path
				if tok == '{' {
					name, err := d.Token()
					if err != nil {
						t.Fatal(err)
					}
					if key := name.(string); seen[key] {
						t.Errorf("%s.%s twice", path, key)
					} else {
						seen[key] = true
						p += "." + key
					}
				}
				value(p)
			}
			if _, err := d.Token(); err != nil {
				t.Fatal(err)
			}
		case json.Number:
			n, ok := new(big.Int).SetString(tok.String(), 10)
			if !ok || !integer.MatchString(tok.String()) || n.CmpAbs(big.NewInt(1<<53)) > 0 {
				t.Errorf("%s: integer %s", path, tok)
			}
		case nil:
			if !mayBeNull(path) {
				t.Errorf("%s: null", path)
			}
		}
	}
	value("")
	if _, err := d.Token(); err != io.EOF {
		t.Errorf("trailing data: %v", err)
	}
}

// There is one encoding: the parts make the same bytes again, and so does the
// JSON form.
func FuzzParseEntry(f *testing.F) {
	addVectors(f, "entries/*.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntry(b)
		if err != nil {
			return
		}
		again, err := NewEntry(e.Profile, e.Payload, e.KeyID, e.Signature, e.Evidence...)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Bytes(), b) || !bytes.Equal(e.Bytes(), b) {
			t.Errorf("accepted two encodings:\n%x\n%x", again.Bytes(), b)
		}
		if again, err = ParseEntryJSON(e.JSON()); err != nil || !bytes.Equal(again.Bytes(), b) {
			t.Errorf("the JSON form is another entry: %v", err)
		}
		env, err := ParseEnvelope(e.DSSE())
		if err != nil || !reflect.DeepEqual(env, e.Envelope()) {
			t.Errorf("the envelope differs: %v", err)
		}
	})
}

// There is one encoding of a binding, and a session of its own is what its nonce
// must be fresh for.
func FuzzParseBinding(f *testing.F) {
	for _, b := range vectorsIn(f, "entries/*.bin") {
		e, err := ParseEntry(b)
		if err != nil {
			f.Fatal(err)
		}
		if e.Binding() != nil {
			f.Add(string(e.Profile), e.Evidence[1].Data)
		}
	}
	f.Fuzz(func(t *testing.T, profile string, b []byte) {
		v, err := ParseBinding(Profile(profile), b)
		if err != nil {
			if v != nil || !errors.Is(err, ErrMalformed) {
				t.Errorf("%v beside %v", v, err)
			}
			return
		}
		if got := NewBindingEvidence(v).Data; !bytes.Equal(got, b) {
			t.Errorf("accepted two encodings:\n%x\n%x", got, b)
		}
		if _, ok := v.Session(); !ok && Fresh(v, Digest{}) {
			t.Error("fresh for no session")
		}
	})
}

// What an entry's JSON form says is in the entry, and the entry's own JSON form
// says the same.
func FuzzParseEntryJSON(f *testing.F) {
	addVectors(f, "entries/*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEntryJSON(b)
		if err != nil {
			return
		}
		checkStrict(t, b, func(string) bool { return false })
		if got, want := normal(t, e.JSON()), normal(t, b); !bytes.Equal(got, want) {
			t.Errorf("not all of it was read:\n got %s\nwant %s", got, want)
		}
		again, err := ParseEntryJSON(e.JSON())
		if err != nil || !bytes.Equal(again.Bytes(), e.Bytes()) {
			t.Errorf("the entry's JSON form is another entry: %v", err)
		}
		if again, err = ParseEntry(e.Bytes()); err != nil || !reflect.DeepEqual(again, e) {
			t.Errorf("the canonical form is another entry: %v", err)
		}
	})
}

// There is one encoding: the fields make the same bytes again.
func FuzzParseLeaf(f *testing.F) {
	addVectors(f, "leaves/*.bin")
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseLeaf(b)
		if err != nil {
			if l != nil {
				t.Error("a leaf beside an error")
			}
			return
		}
		if got := reencode(l); !bytes.Equal(got, b) || !bytes.Equal(l.Bytes(), b) {
			t.Errorf("accepted two encodings:\n%x\n%x", got, b)
		}
		if b[1] != byte(l.Kind()) {
			t.Errorf("kind %s from %d", l.Kind(), b[1])
		}
	})
}

// A disclosure is the same after JSON, its document says what its fields do, and it
// verifies for its own tree at most.
func FuzzParseDisclosure(f *testing.F) {
	addVectors(f, "disclosures/*.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseDisclosure(b)
		if err != nil {
			return
		}
		checkStrict(t, b, func(string) bool { return false })
		checkStrict(t, d.Bytes, func(string) bool { return false })
		again, err := ParseDisclosure(d.JSON())
		if err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("after JSON it is another disclosure: %v", err)
		}
		doc, err := d.Action.Marshal()
		if err != nil {
			t.Fatalf("document %s: %v", d.Bytes, err)
		}
		if got, want := normal(t, doc), normal(t, d.Bytes); !bytes.Equal(got, want) {
			t.Errorf("not all of the document was read:\n got %s\nwant %s", got, want)
		}
		if d.Verify(d.Tree.Root, d.Tree.Size) == nil {
			d.Salt[0] ^= 1
			if d.Verify(d.Tree.Root, d.Tree.Size) == nil {
				t.Error("verifies with two salts")
			}
		}
	})
}

// Documents by themselves, since a mutation of base64 seldom is one.
func FuzzParseAction(f *testing.F) {
	for _, b := range vectorsIn(f, "disclosures/*.json") {
		d, err := ParseDisclosure(b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(d.Bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAction(b)
		if err != nil {
			return
		}
		checkStrict(t, b, func(string) bool { return false })
		doc, err := a.Marshal()
		if err != nil {
			t.Fatalf("accepted %s, but not what Marshal makes of it: %v", b, err)
		}
		if got, want := normal(t, doc), normal(t, b); !bytes.Equal(got, want) {
			t.Errorf("not all of it was read:\n got %s\nwant %s", got, want)
		}
		if again, err := ParseAction(doc); err != nil || !reflect.DeepEqual(again, a) {
			t.Errorf("parsed again it is another action: %v", err)
		}
	})
}
