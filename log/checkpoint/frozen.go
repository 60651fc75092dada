package checkpoint

import (
	"bytes"
	"fmt"
)

// frozenHeader is the first line of a log's statement that it has ended. No
// checkpoint has a name as its second line, so that neither can be taken for the
// other, though the same keys sign both.
const frozenHeader = "affidavit-frozen/v1\n"

// FrozenText returns the text of the note by which the log c.Origin says that it
// has ended with the tree c, and will never sign a larger one: the line
// "affidavit-frozen/v1" and the lines of the checkpoint. Keys of kind [Ed25519]
// sign it.
func (c Checkpoint) FrozenText() []byte { return append([]byte(frozenHeader), c.Text()...) }

// CheckFrozen verifies the note by which a log says that it has ended, and
// returns its last tree. The note is signed by an Ed25519 key of a log of the
// policy. Witnesses don't sign it: the tree is what they have cosigned in the
// log's last checkpoint, and whoever sees a log sign a larger tree than this has
// two contradicting signatures of the log.
//
// The error wraps [ErrMalformed], [ErrUnknownLog] or [ErrBadSignature].
func (p *Policy) CheckFrozen(note []byte) (Checkpoint, error) {
	n, err := ParseNote(note)
	if err != nil {
		return Checkpoint{}, err
	}
	text, ok := bytes.CutPrefix(n.Text, []byte(frozenHeader))
	if !ok {
		return Checkpoint{}, fmt.Errorf("%w: not a log's statement that it has ended: it doesn't begin with %q", ErrMalformed, frozenHeader)
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return Checkpoint{}, err
	}
	known, signed := false, false
	for _, l := range p.logs {
		if l.Key.name != c.Origin {
			continue
		}
		known = true
		for _, sig := range n.Signatures {
			if l.Key.kind != Ed25519 || !l.Key.Matches(sig) {
				continue
			}
			if _, err := l.Key.Verify(n.Text, sig); err != nil {
				return Checkpoint{}, err
			}
			signed = true
		}
	}
	switch {
	case !known:
		return Checkpoint{}, fmt.Errorf("%w %.300q", ErrUnknownLog, c.Origin)
	case !signed:
		return Checkpoint{}, fmt.Errorf("%w: not signed by an Ed25519 key of log %.300q", ErrBadSignature, c.Origin)
	}
	return c, nil
}
