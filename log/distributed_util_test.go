//go:build distributed

package sessionlog

import (
	"crypto/rand"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func newTestSigner(t testing.TB) (note.Signer, string) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	s, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return s, vkey
}
