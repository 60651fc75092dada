package verifier

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"testing"
)

// attestOf is a TPMS_ATTEST of a quote, from its parts.
func attestOf(signer, extra, clock, selection, digest []byte) []byte {
	b := []byte{0xff, 'T', 'C', 'G', 0x80, 0x18}
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(signer))), signer...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(extra))), extra...)
	b = append(append(b, clock...), selection...)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(digest))), digest...)
}

// There is one way to read a quote: its parts make the same bytes again, around
// the parts that say nothing.
func FuzzParseAttest(f *testing.F) {
	f.Add(attestOf([]byte{1}, make([]byte, 64), make([]byte, 25), []byte{0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0, 1}, make([]byte, 32)))
	f.Add(attestOf(nil, nil, make([]byte, 25), []byte{0, 0, 0, 0}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseAttest(b)
		if err != nil {
			if q != nil {
				t.Error("a quote beside an error")
			}
			return
		}
		signer := b[8:][:binary.BigEndian.Uint16(b[6:])]
		rest := b[8+len(signer)+2+len(q.extra):]
		if got := attestOf(signer, q.extra, rest[:25], rest[25:len(rest)-2-len(q.digest)], q.digest); !bytes.Equal(got, b) {
			t.Errorf("%x was read as %x", b, got)
		}
	})
}

// A key is the one that the data names by its id, and no other.
func FuzzRuntimeKey(f *testing.F) {
	n := base64.RawURLEncoding.EncodeToString(bytes.Repeat([]byte{0xc1}, 256))
	good := `{"keys":[{"kid":"HCLEkPub","kty":"RSA","e":"AQAB","n":"` + n + `"},{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":"` + n + `"}],"vm-configuration":{}}`
	if _, err := runtimeKey([]byte(good)); err != nil {
		f.Fatal(err)
	}
	for name, bad := range map[string]string{
		"two keys":           strings.Replace(good, "HCLEkPub", "HCLAkPub", 1),
		"no key":             strings.Replace(good, "HCLAkPub", "another", 1),
		"a key of 2040 bits": strings.Replace(good, n+`"}],`, n[:340]+`"}],`, 1),
		"exponent 1":         strings.ReplaceAll(good, "AQAB", "AQ"),
		"exponent 65536":     strings.ReplaceAll(good, "AQAB", "AQAA"),
		"an EC key":          strings.ReplaceAll(good, "RSA", "EC"),
		"keys twice":         strings.Replace(good, `"vm-configuration"`, `"keys"`, 1),
		"trailing data":      good + "{}",
		"not base64url":      strings.ReplaceAll(good, n, "+"+n[1:]),
	} {
		if _, err := runtimeKey([]byte(bad)); err == nil {
			f.Errorf("%s: accepted", name)
		}
		f.Add([]byte(bad))
	}
	f.Add([]byte(good + "\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := runtimeKey(b)
		if err != nil {
			return
		}
		if bits := k.N.BitLen(); bits < 2048 || bits > 4096 || k.E < 3 {
			t.Errorf("a key of %d bits, exponent %d", bits, k.E)
		}
	})
}
