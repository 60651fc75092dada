package checkpoint

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// The example of c2sp.org/signed-note, "Verifier keys".
const (
	specVKey = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
	specNote = "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
	// The example of "Note", whose text has an empty line in it.
	poemNote = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n" +
		"— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
	// The example of c2sp.org/tlog-cosignature.
	sofaNote = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" +
		"— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n" +
		"— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)

func TestSpecVector(t *testing.T) {
	k, err := ParseVKey(specVKey)
	if err != nil {
		t.Fatal(err)
	}
	if k.String() != specVKey || k.KeyID() != 0x530d903a || k.Name() != "example.com/foo" || k.Kind() != Ed25519 {
		t.Errorf("parsed %v, ID %08x, kind %v", k, k.KeyID(), k.Kind())
	}
	n, err := ParseNote([]byte(specNote))
	if err != nil {
		t.Fatal(err)
	}
	if !k.Matches(n.Signatures[0]) {
		t.Fatal("the key doesn't match its signature")
	}
	if ts, err := k.Verify(n.Text, n.Signatures[0]); err != nil || ts != 0 {
		t.Errorf("timestamp %d, error %v", ts, err)
	}
	if _, err := k.Verify(bytes.ToUpper(n.Text), n.Signatures[0]); !errors.Is(err, ErrBadSignature) {
		t.Errorf("another text: %v, want ErrBadSignature", err)
	}
}

func TestParseNoteKeepsBytes(t *testing.T) {
	for _, s := range []string{specNote, poemNote, sofaNote} {
		n, err := ParseNote([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Bytes(); string(got) != s {
			t.Errorf("printed as %q, want %q", got, s)
		}
		if !strings.HasSuffix(string(n.Text), "\n") || strings.HasSuffix(string(n.Text), "\n\n") {
			t.Errorf("text %q", n.Text)
		}
	}
}

func TestParseNoteRefuses(t *testing.T) {
	sub := func(old, new string) func(string) string {
		return func(s string) string {
			if !strings.Contains(s, old) {
				panic("nothing to replace")
			}
			return strings.Replace(s, old, new, 1)
		}
	}
	for _, tt := range []struct {
		name string
		edit func(string) string
	}{
		{"no final newline", func(s string) string { return s[:len(s)-1] }},
		{"extra final newline", func(s string) string { return s + "\n" }},
		{"no signature", func(s string) string { return s[:strings.Index(s, "—")] }},
		{"no text", func(s string) string { return s[strings.Index(s, "—")-1:] }},
		{"no empty line", sub(".\n\n—", ".\n—")},
		{"carriage return", sub(".\n", ".\r\n")},
		{"tab", sub("This is", "This\tis")},
		{"NUL", sub("This is", "This\x00is")},
		{"not UTF-8", sub("This is", "This\xffis")},
		{"hyphen for em dash", sub("—", "-")},
		{"two spaces", sub("foo Uw", "foo  Uw")},
		{"space at the end", sub("QM=\n", "QM= \n")},
		{"no name", sub("— example.com/foo", "— ")},
		{"plus in the name", sub("com/foo ", "com/f+o ")},
		{"no-break space in the name", sub("com/foo ", "com/f\u00a0o ")},
		{"no padding", sub("QM=\n", "QM\n")},
		{"spare bits", sub("QM=\n", "QN=\n")},
		{"URL alphabet", sub("jOBH3", "-OBH3")},
		{"carriage return in base64", sub("jOBH3", "\rOBH3")},
		{"key ID only", sub("Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=", "Uw2QOg==")},
		{"empty signature", sub("Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=", "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n, err := ParseNote([]byte(tt.edit(specNote))); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %+v, %v; want ErrMalformed", n, err)
			}
		})
	}
}

func TestNoteLimits(t *testing.T) {
	// "nearly 5kB": SLH-DSA and the like; 4,999 bytes of signature each.
	line := func(i, size int) []byte {
		return formatSignature(fmt.Sprintf("witness%d.example", i), uint32(i), make([]byte, size))
	}
	build := func(n, size int) []byte {
		b := []byte("text\n\n")
		for i := range n {
			b = append(b, line(i, size)...)
		}
		return b
	}
	if b := build(16, 4999); len(b) < 107_000 {
		t.Fatalf("only %d bytes", len(b))
	} else if _, err := ParseNote(b); err != nil {
		t.Errorf("16 signatures of 5 kB: %v", err)
	}
	if _, err := ParseNote(build(MaxSignatures, 64)); err != nil {
		t.Errorf("%d signatures: %v", MaxSignatures, err)
	}
	if _, err := ParseNote(build(MaxSignatures+1, 64)); !errors.Is(err, ErrMalformed) {
		t.Errorf("%d signatures: %v, want ErrMalformed", MaxSignatures+1, err)
	}
	big := func(size int) []byte {
		rest := "\n\n" + string(line(0, 64))
		return []byte(strings.Repeat("x", size-len(rest)) + rest)
	}
	if _, err := ParseNote(big(MaxNote)); err != nil {
		t.Errorf("%d bytes: %v", MaxNote, err)
	}
	if _, err := ParseNote(big(MaxNote + 1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("%d bytes: %v, want ErrMalformed", MaxNote+1, err)
	}
}

func TestParseCheckpointRefuses(t *testing.T) {
	root := "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
	good := "example.com/behind the+sofa\n20852163\n" + root + "\next 1\n"
	if c, err := ParseCheckpoint([]byte(good)); err != nil {
		t.Fatal(err)
	} else if c.Origin != "example.com/behind the+sofa" || c.Size != 20852163 || len(c.Extensions) != 1 || string(c.Text()) != good {
		t.Errorf("parsed %+v", c)
	}
	short := base64.StdEncoding.EncodeToString(make([]byte, 31))
	long := base64.StdEncoding.EncodeToString(make([]byte, 33))
	for _, tt := range []struct{ name, text string }{
		{"empty", ""},
		{"two lines", "o\n1\n"},
		{"no final newline", "o\n1\n" + root},
		{"no origin", "\n1\n" + root + "\n"},
		{"no size", "o\n\n" + root + "\n"},
		{"size 09", "o\n09\n" + root + "\n"},
		{"size +9", "o\n+9\n" + root + "\n"},
		{"size -0", "o\n-0\n" + root + "\n"},
		{"size with space", "o\n 9\n" + root + "\n"},
		{"size 0x9", "o\n0x9\n" + root + "\n"},
		{"size 00", "o\n00\n" + root + "\n"},
		{"size in Arabic digits", "o\n٩\n" + root + "\n"},
		{"size 2^63", "o\n9223372036854775808\n" + root + "\n"},
		{"size 2^64+1", "o\n18446744073709551617\n" + root + "\n"},
		{"no root", "o\n1\n\n"},
		{"31 bytes of root", "o\n1\n" + short + "\n"},
		{"33 bytes of root", "o\n1\n" + long + "\n"},
		{"spare bits in the root", "o\n1\n" + root[:42] + "J=\n"},
		{"root without padding", "o\n1\n" + root[:43] + "\n"},
		{"carriage return", "o\n1\n" + root + "\r\n"},
		{"empty extension line", "o\n1\n" + root + "\n\n"},
		{"empty extension line before another", "o\n1\n" + root + "\n\nx\n"},
		{"control character in the origin", "o\x01\n1\n" + root + "\n"},
		{"origin isn't UTF-8", "o\xff\n1\n" + root + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if c, err := ParseCheckpoint([]byte(tt.text)); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %+v, %v; want ErrMalformed", c, err)
			}
		})
	}
	if _, err := ParseCheckpoint([]byte("o\n9223372036854775807\n" + root + "\n")); err != nil {
		t.Errorf("size 2^63-1: %v", err)
	}
	if _, err := ParseCheckpoint([]byte("o\n0\n" + root + "\n")); err != nil {
		t.Errorf("size 0: %v", err)
	}
}

// TestAgainstSumDB compares with the Go project's notes: what we accept, it
// parses in the same way.
func TestAgainstSumDB(t *testing.T) {
	skey, vkey, err := note.GenerateKey(newRand(1), "example.org/log")
	if err != nil {
		t.Fatal(err)
	}
	ours, err := ParseSigningKey(skey)
	if err != nil {
		t.Fatal(err)
	}
	if ours.VKey() != vkey {
		t.Errorf("vkey %s, want %s", ours.VKey(), vkey)
	}
	if s, err := ours.PrivateText(); err != nil || s != skey {
		t.Errorf("printed another signing key, %v", err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := note.Sign(&note.Note{Text: "a\n\nb\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	mine := mustNote(t, []byte("a\n\nb\n"), mustSign(t, ours, []byte("a\n\nb\n"), 0))
	if !bytes.Equal(mine, theirs) { // Ed25519 is deterministic
		t.Errorf("signed\n%s, want\n%s", mine, theirs)
	}
	verifier, err := note.NewVerifier(ours.VKey())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(mine, note.VerifierList(verifier)); err != nil {
		t.Error(err)
	}
}

func FuzzParseNote(f *testing.F) {
	for _, s := range []string{specNote, poemNote, sofaNote} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseNote(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v isn't ErrMalformed", err)
			}
			return
		}
		if got := n.Bytes(); !bytes.Equal(got, b) {
			t.Errorf("accepted two encodings:\n%q\n%q", got, b)
		}
		for _, s := range n.Signatures {
			if got := formatSignature(s.Name, s.KeyID, s.Sig); !bytes.Equal(got, s.Line) {
				t.Errorf("accepted two signature lines:\n%q\n%q", got, s.Line)
			}
		}
		// Whatever we accept, the Go project's parser splits in the same way.
		theirs, err := note.Open(b, note.VerifierList())
		var unverified *note.UnverifiedNoteError
		if errors.As(err, &unverified) && unverified.Note.Text != string(n.Text) {
			t.Errorf("text %q, x/mod has %q", n.Text, unverified.Note.Text)
		} else if err == nil {
			t.Errorf("x/mod verified %+v without keys", theirs)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	n, err := ParseNote([]byte(sofaNote))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(n.Text)
	f.Add(append(bytes.Clone(n.Text), "extension\n"...))
	f.Add([]byte("o\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(b)
		if err != nil {
			return
		}
		if got := c.Text(); !bytes.Equal(got, b) {
			t.Errorf("accepted two encodings of %+v:\n%q\n%q", c, got, b)
		}
	})
}
