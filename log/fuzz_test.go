package sessionlog

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/affidavit-log/affidavit/log/record"
)

// Whatever vendors file is accepted has no two vendors, tokens or keys that could be taken for each other.
func FuzzParseVendors(f *testing.F) {
	w := &world{t: f, relA: commonRelease()}
	good := w.vendorsYAML("{rate: 1, burst: 1}")
	if _, err := parseVendors([]byte(good)); err != nil {
		f.Fatal(err)
	}
	cert := fmt.Sprintf("vendors:\n- id: https://a.example\n  client-key-sha256: [%064x, %064x]\n", 1, 2)
	for _, s := range []string{good, cert, "", "vendors: []", "vendors:\n- id: https://a.example\n  id: https://b.example\n", good + "---\n" + good, "vendors: &a [*a]", "a: b"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseVendors(b)
		if err != nil {
			return
		}
		keys, clientKeys := map[string]bool{}, 0
		for id, v := range list.byID {
			if v.id != id || record.CheckVendorID(v.id) != nil || v.limiter == nil || v.quota.burst < 1 || !(v.quota.rate > 0) {
				t.Errorf("accepted %+v", v)
			}
			if v.token == [32]byte{} && len(v.clientKeys) == 0 || v.token != [32]byte{} && list.byToken[v.token] != v {
				t.Errorf("no way in, or somebody else's: %+v", v)
			}
			for _, k := range v.clientKeys {
				if list.byClientKey[k] != v {
					t.Errorf("client key %x is another's", k)
				}
				clientKeys++
			}
			for id, k := range v.keys {
				if keys[id] || record.KeyID(record.SPKI(k)) != id {
					t.Errorf("key %s", id)
				}
				keys[id] = true
			}
		}
		if len(list.byClientKey) != clientKeys || len(list.byToken) > len(list.byID) {
			t.Errorf("%d client keys of vendors, %d in all", clientKeys, len(list.byClientKey))
		}
	})
}

// Every index has one spelling in paths.
func FuzzTilePath(f *testing.F) {
	for _, s := range []string{"000", "000.p/1", "255.p/255", "x001/x234/067", "x001/x234/067.p/8", "001/234", "x000/001", "000.p/0", "000.p/256", "000.p/01", ".p/1", "1.p", "x1/000", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		index, width, err := parseTilePath(s)
		if err != nil {
			return
		}
		if got := tilePath(index, width); got != s {
			t.Errorf("%q was taken for %q", s, got)
		}
	})
}

// Path parameters have one spelling.
func FuzzPathParameters(f *testing.F) {
	for _, s := range []string{"0", "1", "01", "+1", "-1", "9223372036854775807", "9223372036854775808", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "E3B0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseIndex(s); err == nil && strconv.FormatUint(n, 10) != s {
			t.Errorf("index %q was taken for %d", s, n)
		}
		if d, err := parseDigest(s); err == nil && fmt.Sprintf("%x", d) != s {
			t.Errorf("digest %q was taken for %x", s, d)
		}
	})
}

// A bundle is cut where its entries end, and nowhere else.
func FuzzBundleOffsets(f *testing.F) {
	for _, b := range [][]byte{nil, {0}, {0, 0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 0, 2, 3, 4}, {255, 255}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		offsets, ok := bundleOffsets(b)
		if !ok {
			return
		}
		var again []byte
		d := &bundleData{b, offsets}
		for i := range uint64(len(offsets) - 1) {
			e := d.entry(i)
			again = append(binary.BigEndian.AppendUint16(again, uint16(len(e))), e...)
		}
		if !slices.Equal(again, b) {
			t.Errorf("%x was cut into %x", b, again)
		}
	})
}
