//go:build distributed

package sessionlog

import (
	"crypto/rand"

	"golang.org/x/mod/sumdb/note"
)

// newSigner returns a key for Tessera's own checkpoints.
func newSigner() (note.Signer, error) {
	skey, _, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		return nil, err
	}
	return note.NewSigner(skey)
}
