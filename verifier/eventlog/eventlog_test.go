package eventlog

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/log/record"
)

// specID begins every CCEL, with SHA-256 and SHA-384 digests.
func specID() []byte {
	body := append(slices.Clone(specIDSignature), 0, 0, 0, 0, 0, 2, 0, 2)
	body = binary.LittleEndian.AppendUint32(body, 2)
	for _, alg := range [][2]uint16{{0x000b, 32}, {algSHA384, 48}} {
		body = binary.LittleEndian.AppendUint16(body, alg[0])
		body = binary.LittleEndian.AppendUint16(body, alg[1])
	}
	body = append(body, 0)
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = binary.LittleEndian.AppendUint32(b, evNoAction)
	b = append(b, make([]byte, 20)...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

// event2 is a TCG_PCR_EVENT2 with both digests, the second of data.
func event2(register, typ uint32, data string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, register)
	b = binary.LittleEndian.AppendUint32(b, typ)
	b = binary.LittleEndian.AppendUint32(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 0x000b)
	b = append(b, make([]byte, 32)...)
	b = binary.LittleEndian.AppendUint16(b, algSHA384)
	digest := sha512.Sum384([]byte(data))
	b = append(b, digest[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func ccelOf(events ...[]byte) []byte { return bytes.Join(append([][]byte{specID()}, events...), nil) }

// extend is a register after data's digests.
func extend(data ...string) (r Register) {
	for _, d := range data {
		digest := sha512.Sum384([]byte(d))
		r = sha512.Sum384(append(r[:], digest[:]...))
	}
	return r
}

func slicesOf(r [Registers]Register) (s [Registers][]byte) {
	for i := range r {
		s[i] = r[i][:]
	}
	return s
}

func TestCCEL(t *testing.T) {
	good := ccelOf(event2(1, 4, "a"), event2(2, 4, "b"), event2(1, 13, "c"), event2(3, evNoAction, "not extended"), event2(3, 4, "d"))
	want := [Registers]Register{extend("a", "c"), extend("b"), extend("d")}
	for _, pad := range []string{"", "\x00\x00", strings.Repeat("\xff", 100)} {
		l, err := ParseCCEL(append(slices.Clone(good), pad...))
		if err != nil {
			t.Fatal(err)
		}
		if got, has := l.Replay(); got != want || has != [Registers]bool{true, true, true, false} || len(l.Events) != 4 || !l.Events[2].Hashed {
			t.Errorf("pad %q: %x %v %+v", pad, got, has, l.Events)
		}
		// RTMR3 isn't firmware's.
		quoted := want
		quoted[3] = Register{1}
		if covers, err := l.Check(slicesOf(quoted)); err != nil || covers[3] {
			t.Errorf("%v %v", covers, err)
		}
		for i := range 3 {
			quoted := want
			quoted[i][0] ^= 1
			if _, err := l.Check(slicesOf(quoted)); !errors.As(err, new(*Mismatch)) {
				t.Errorf("RTMR%d: %v", i, err)
			}
		}
		trimmed, err := TrimCCEL(append(slices.Clone(good), pad...))
		if err != nil || !bytes.Equal(trimmed, good) {
			t.Errorf("trimmed %q: %d bytes, want %d, %v", pad, len(trimmed), len(good), err)
		}
	}
	// A log can't leave out all of a register: go-eventlog lets that pass.
	l, err := ParseCCEL(ccelOf(event2(1, 4, "a")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Check(slicesOf([Registers]Register{extend("a"), {1}})); !errors.As(err, new(*Mismatch)) {
		t.Errorf("a register without events: %v", err)
	}
	if _, err := l.Check(slicesOf([Registers]Register{extend("a")})); err != nil {
		t.Error(err)
	}

	for _, tt := range []struct {
		name string
		b    []byte
	}{
		{"empty", nil},
		{"no events", ccelOf()},
		{"without a Spec ID event", event2(1, 4, "a")},
		{"truncated", good[:len(good)-1]},
		{"padding that isn't", append(slices.Clone(good), 0xff, 0xff, 0)},
		{"register 0", ccelOf(event2(0, 4, "a"))},
		{"register 5", ccelOf(event2(5, 4, "a"))},
		{"an undeclared algorithm", bytes.Replace(good, []byte{0x0b, 0, 0, 0}, []byte{0x04, 0, 0, 0}, 1)},
		{"no SHA-384", ccelOf([]byte("\x01\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))},
		{"9 digests", ccelOf([]byte("\x01\x00\x00\x00\x04\x00\x00\x00\x09\x00\x00\x00"))},
		{"another signature", bytes.Replace(good, []byte("Event03"), []byte("Event02"), 1)},
		{"SHA-384 of 32 bytes", bytes.Replace(good, []byte{0x0c, 0, 48, 0}, []byte{0x0c, 0, 32, 0}, 1)},
		{"too large", make([]byte, MaxSize+1)},
		{"event of 4 GiB", ccelOf(append(event2(1, 4, "")[:12+2+32+2+48], 0xff, 0xff, 0xff, 0xff))},
	} {
		if l, err := ParseCCEL(tt.b); !errors.Is(err, ErrMalformed) || l != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func runtimeEvent(name, payload, digest string) string {
	return fmt.Sprintf(`{"imr":3,"event_type":134217729,"digest":%q,"event":%q,"event_payload":%q}`, digest, name, hex.EncodeToString([]byte(payload)))
}

func TestDstack(t *testing.T) {
	digest := runtimeDigest("compose-hash", []byte("one"))
	plain := sha512.Sum384([]byte("firmware"))
	log := "[" + strings.Join([]string{
		fmt.Sprintf(`{"imr":0,"event_type":1,"digest":"%x","event":"","event_payload":"%x","more":1}`, plain, "firmware"),
		runtimeEvent("compose-hash", "one", hex.EncodeToString(digest[:])),
		runtimeEvent("compose-hash", "two", ""), // the first counts
		runtimeEvent("system-ready", "", ""),
		runtimeEvent("app-id", "the application's", ""),
	}, ",") + "]"
	l, err := ParseDstack([]byte(log))
	if err != nil {
		t.Fatal(err)
	}
	if string(l.Boot("compose-hash")) != "one" || l.Boot("app-id") != nil || l.Boot("absent") != nil {
		t.Errorf("boot: %q %q", l.Boot("compose-hash"), l.Boot("app-id"))
	}
	r, has := l.Replay()
	if r[0] != extend("firmware") || has != [Registers]bool{true, false, false, true} || !l.Events[0].Hashed {
		t.Errorf("%x %v", r, has)
	}
	if _, err := l.Check(slicesOf(r)); err != nil {
		t.Error(err)
	}
	for i := range r {
		q := r
		q[i][47] ^= 1
		if _, err := l.Check(slicesOf(q)); !errors.As(err, new(*Mismatch)) {
			t.Errorf("RTMR%d: %v", i, err)
		}
	}
	for _, tt := range []struct{ name, old, new string }{
		{"a payload that the digest isn't of", hex.EncodeToString([]byte("one")), hex.EncodeToString([]byte("two"))},
		{"a name that the digest isn't of", `"compose-hash"`, `"compose-hash2"`},
		{"register 4", `"imr":0`, `"imr":4`},
		{"register -1", `"imr":0`, `"imr":-1`},
		{"no digest", hex.EncodeToString(plain[:]), ""},
		{"a digest of 47 bytes", hex.EncodeToString(plain[:]), hex.EncodeToString(plain[:47])},
		{"a digest that isn't hexadecimal", hex.EncodeToString(plain[:]), "x"},
		{"a payload that isn't hexadecimal", hex.EncodeToString([]byte("firmware")), "x"},
		{"a register twice", `"imr":0`, `"imr":0,"imr":1`},
		{"no list", "[", ""},
	} {
		s := strings.Replace(log, tt.old, tt.new, 1)
		if l, err := ParseDstack([]byte(s)); !errors.Is(err, ErrMalformed) || l != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if _, err := ParseDstack([]byte("[]")); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := Parse("text/plain", []byte(log)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// registersOf returns the RTMRs of a version 4 quote.
func registersOf(quote []byte) (r [Registers][]byte) {
	for i := range r {
		r[i] = quote[48+328+48*i:][:48]
	}
	return r
}

// What real platforms measured replays to what their quotes have.
func TestSharedEventLogs(t *testing.T) {
	shared := os.Getenv("AFFIDAVIT_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(shared, "vectors", name))
		if err != nil {
			t.Skipf("no vectors in %s: set AFFIDAVIT_SHARED", shared)
		}
		return b
	}
	check := func(name string, l *Log, quote []byte, want [Registers]bool) {
		t.Helper()
		r := registersOf(quote)
		if covers, err := l.Check(r); err != nil || covers != want {
			t.Errorf("%s: %v %v", name, covers, err)
		}
		for i := range r {
			if !want[i] {
				continue
			}
			r[i] = bytes.Clone(r[i])
			r[i][0] ^= 1
			if _, err := l.Check(r); !errors.As(err, new(*Mismatch)) {
				t.Errorf("%s: with another RTMR%d: %v", name, i, err)
			}
			r[i][0] ^= 1
		}
	}
	ccel := read("ccel/ccel_data.dat")
	l, err := ParseCCEL(ccel)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, ccel, l)
	quote := read("ccel/cos-113-tdx-quote.dat")
	check("ccel", l, quote, [Registers]bool{true, true, true, false})
	// One byte of any event's digest is enough.
	at := bytes.Index(ccel, l.Events[7].Digest[:])
	ccel[at] ^= 1
	if l, err = ParseCCEL(ccel); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Check(registersOf(quote)); !errors.As(err, new(*Mismatch)) {
		t.Errorf("ccel with another digest: %v", err)
	}

	for name, want := range map[string][2]string{
		"dstack/quote-report.json": {"3763bc34552cf3a27ff71ad5f7a90471562a1a2df552dfc1998cba2d60da27e7", ""},
		"dstack/tdx-lite-getquote.json": {"86b0e55f2fa8e4fb69d890f14f54d5612707646e2573d54e0d2ddaaade77caa9",
			"07a2388c7a6a1b6a646d443f1517990a4ec294471d63146cda9d56972765051d"},
	} {
		var v struct {
			Quote string
			Log   string `json:"event_log"`
		}
		if err := json.Unmarshal(read(name), &v); err != nil {
			t.Fatal(err)
		}
		quote, err := hex.DecodeString(v.Quote)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ParseDstack([]byte(v.Log))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		check(name, l, quote, [Registers]bool{true, true, true, true})
		if got := [2]string{hex.EncodeToString(l.Boot("compose-hash")), hex.EncodeToString(l.Boot("os-image-hash"))}; got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// checkLog is what holds for every log that is accepted: it is that of the registers
// that it replays to, and of no others.
func checkLog(t *testing.T, l *Log) {
	r, has := l.Replay()
	if covers, err := l.Check(slicesOf(r)); err != nil || covers != has {
		t.Fatalf("its own registers: %v %v", covers, err)
	}
	for i := range r {
		if !has[i] {
			continue
		}
		q := r
		q[i][13] ^= 0x10
		if _, err := l.Check(slicesOf(q)); err == nil {
			t.Errorf("RTMR%d isn't compared", i)
		}
	}
	for _, e := range l.Events {
		if e.Name != "" && (!e.Hashed || e.Digest != runtimeDigest(e.Name, e.Data)) {
			t.Errorf("%+v", e)
		}
		if e.Name == "" && e.Hashed && e.Type != dstackRuntime && sha512.Sum384(e.Data) != e.Digest {
			t.Errorf("%+v", e)
		}
	}
}

func FuzzParseCCEL(f *testing.F) {
	f.Add(ccelOf(event2(1, 4, "a"), event2(2, 4, "b"), event2(3, evNoAction, "x")))
	f.Add(append(ccelOf(event2(4, 4, "a")), 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := ParseCCEL(b)
		if err != nil {
			return
		}
		checkLog(t, l)
		trimmed, err := TrimCCEL(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseCCEL(trimmed)
		if err != nil {
			t.Fatal(err)
		}
		r1, _ := l.Replay()
		if r2, _ := again.Replay(); r1 != r2 || len(again.Events) != len(l.Events) {
			t.Error("another log without its padding")
		}
	})
}

func FuzzParseDstack(f *testing.F) {
	f.Add([]byte("[" + runtimeEvent("compose-hash", "one", "") + "," + runtimeEvent("system-ready", "", "") + "]"))
	f.Add([]byte(`[{"imr":0,"event_type":4,"digest":"` + strings.Repeat("00", 48) + `","event":"","event_payload":"00000000"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := Parse(record.MediaTypeDstackLog, b)
		if err != nil {
			return
		}
		checkLog(t, l)
		if v := l.Boot("compose-hash"); v != nil && !bytes.Contains(bytes.ToLower(b), []byte(hex.EncodeToString(v))) {
			t.Errorf("%x comes from nowhere", v)
		}
	})
}
