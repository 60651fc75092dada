package client

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// All of a bundle is in its entries, or it isn't whole; and entries are what their lengths say.
func FuzzSplitEntries(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 'a', 0, 0, 0, 2, 'b', 'c'})
	f.Add([]byte{0, 1, 'a', 0})
	f.Add([]byte{0, 2, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, whole := SplitEntries(b)
		var again []byte
		for _, e := range entries {
			again = append(binary.BigEndian.AppendUint16(again, uint16(len(e))), e...)
		}
		if !bytes.HasPrefix(b, again) || whole != (len(again) == len(b)) {
			t.Errorf("%d entries, whole %v, of %x", len(entries), whole, b)
		}
		if rest := b[len(again):]; len(rest) >= 2 && len(rest) >= 2+int(binary.BigEndian.Uint16(rest)) {
			t.Errorf("there is another entry in %x", rest)
		}
	})
}
