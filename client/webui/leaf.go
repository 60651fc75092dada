package webui

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// A field is one of those that a leaf's bytes consist of.
type field struct {
	Offset, Size int
	Name         string
	Hex          string // of all bytes, unless Text has them
	Text         string // what text fields say, and what numbers mean
	Meaning      string
	Long         bool
}

// fields are a leaf's, in order, without a gap: together they are all of its bytes. What isn't as log/record/FORMAT.md and
// Intel's quote format have it is one field "rest": a leaf that doesn't parse is shown, too.
func fields(leaf []byte) []field {
	w := &walker{all: leaf}
	w.leaf()
	if w.at < len(w.all) {
		w.broken, w.end = false, 0
		w.take(len(w.all)-w.at, "rest", "bytes that no field accounts for", nil)
	}
	return w.fields
}

// A walker goes through bytes. Once something is missing, it takes nothing more.
type walker struct {
	all    []byte
	at     int
	end    int // of the structure that is walked, 0 for all
	broken bool
	fields []field
}

func (w *walker) left() int {
	if w.end > 0 {
		return w.end - w.at
	}
	return len(w.all) - w.at
}

// take takes n bytes as a field, and returns them, or nil if there aren't so many. say gives the text, nil for none.
func (w *walker) take(n int, name, meaning string, say func([]byte) string) []byte {
	if w.broken || n < 0 || n > w.left() {
		w.broken = true
		return nil
	}
	b := w.all[w.at : w.at+n]
	f := field{Offset: w.at, Size: n, Name: name, Meaning: meaning}
	if say != nil {
		f.Text = say(b)
	}
	// Text that is shown as it is needs no digits beside it, which a long one would hide in.
	if f.Text == "" || n <= 64 {
		f.Hex = hex.EncodeToString(b)
	}
	f.Long = n > 128
	w.fields = append(w.fields, f)
	w.at += n
	return b
}

func text(b []byte) string {
	if !utf8.Valid(b) {
		return ""
	}
	lines := strings.Split(string(b), "\n")
	for i := range lines {
		lines[i] = showTo(lines[i], 1<<16)
	}
	return strings.Join(lines, "\n")
}

func millis(b []byte) string {
	n := binary.BigEndian.Uint64(b)
	if n > 253_402_300_799_999 {
		return fmt.Sprint(n)
	}
	return time.UnixMilli(int64(n)).UTC().Format("2006-01-02 15:04:05.000 UTC")
}

func little(b []byte) string {
	switch len(b) {
	case 2:
		return fmt.Sprint(binary.LittleEndian.Uint16(b))
	case 4:
		return fmt.Sprint(binary.LittleEndian.Uint32(b))
	}
	return ""
}

func big(b []byte) string {
	n := uint64(0)
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return fmt.Sprint(n)
}

func word(words map[byte]string) func([]byte) string {
	return func(b []byte) string {
		if s, ok := words[b[0]]; ok {
			return fmt.Sprintf("%d, %s", b[0], s)
		}
		return fmt.Sprint(b[0])
	}
}

// number takes n bytes as a big-endian number.
func (w *walker) number(n int, name, meaning string, say func([]byte) string) int {
	b := w.take(n, name, meaning, say)
	v := 0
	for _, c := range b {
		v = v<<8 | int(c)
	}
	return v
}

// prefixed takes a length of n bytes, and a field of so many.
func (w *walker) prefixed(n int, name, meaning string, say func([]byte) string) {
	size := w.number(n, name+", length", "how many bytes follow", big)
	w.take(size, name, meaning, say)
}

func (w *walker) leaf() {
	w.take(1, "version", "of the leaf’s format (FORMAT.md, section 6)", big)
	kind := w.take(1, "kind", "what the leaf holds", word(map[byte]string{1: "record", 2: "time", 3: "collateral", 4: "release", 5: "release-withdrawn", 6: "vendor-key", 7: "record-digest"}))
	if kind == nil {
		return
	}
	switch kind[0] {
	case 1:
		w.prefixed(1, "ruleset", "the rules of admission that the log says to have followed", text)
		w.take(8, "admitted at", "when the log says that it admitted the entry; milliseconds since 1970", millis)
		w.take(8, "judged at", "the time for which the evidence was judged; equal, but for imports", millis)
		w.take(32, "collateral", "id of Intel’s data that the quote was judged by: SHA-256 of a collateral leaf", nil)
		w.entry()
	case 4, 5, 6:
		w.take(8, "admitted at", "when the log says that it admitted the entry; milliseconds since 1970", millis)
		w.entry()
	case 2:
		w.take(8, "logged at", "when the log says that it logged this; milliseconds since 1970", millis)
		w.take(w.left(), "note", "a checkpoint of this log with its cosignatures", text)
	case 3:
		w.take(1, "tee", "whose collateral", word(map[byte]string{1: "Intel TDX"}))
		w.number(2, "digests, length", "how many bytes follow", big)
		for _, c := range []string{"TCB info", "its issuer chain", "QE identity", "its issuer chain", "root CRL", "PCK CRL", "its issuer chain"} {
			w.take(32, "digest", "SHA-256 of the component: "+c, nil)
		}
	}
}

func (w *walker) entry() {
	w.take(1, "entry version", "of the entry’s format (FORMAT.md, section 5): what was submitted begins here", big)
	w.prefixed(1, "profile", "who signs, and how evidence is bound to the statement", text)
	w.prefixed(1, "payload type", "DSSE’s; signed with the payload", text)
	w.prefixed(2, "payload", "the statement, in the bytes that were signed", text)
	w.prefixed(1, "key id", "SHA-256 of the signing key’s SPKI", text)
	w.prefixed(2, "signature", "Ed25519, over DSSE’s pre-authentication encoding of payload type and payload", nil)
	end := w.number(2, "evidence, length", "how many bytes of evidence follow", big)
	if end > w.left() {
		w.broken = true
	}
	for !w.broken && w.left() > 0 {
		typ := w.take(1, "evidence type", "what the item is", word(map[byte]string{1: "TDX quote", 2: "digest of evidence that isn’t in the log"}))
		size := w.number(2, "evidence item, length", "how many bytes follow", big)
		switch {
		case w.broken || size > w.left():
			w.broken = true
		case typ[0] == 1:
			w.end = w.at + size
			w.quote()
			if w.at < w.end {
				w.broken = false
				w.take(w.end-w.at, "quote, rest", "bytes that no field accounts for", nil)
			}
			w.end = 0
		case typ[0] == 2:
			w.take(32, "evidence digest", "SHA-256 of the evidence, which the statement names", nil)
			w.take(8, "evidence size", "in bytes; a hint", big)
			w.prefixed(1, "evidence media type", "a hint", text)
		default:
			w.take(size, "evidence item", "of a type that isn’t known", nil)
		}
	}
}

// quote goes through a quote (Intel TDX DCAP Quoting Library API, appendix 3).
func (w *walker) quote() {
	version := w.take(2, "quote: version", "of the quote’s format", little)
	w.take(2, "quote: attestation key type", "2 is ECDSA with P-256", little)
	w.take(4, "quote: TEE type", "0x81 is TDX", func(b []byte) string { return fmt.Sprintf("%#x", binary.LittleEndian.Uint32(b)) })
	w.take(2, "quote: QE SVN", "reserved in current quotes", little)
	w.take(2, "quote: PCE SVN", "reserved in current quotes", little)
	w.take(16, "quote: QE vendor", "who made the quoting enclave; this is Intel’s id in every quote that is accepted", nil)
	w.take(20, "quote: user data", "of the quoting enclave’s choice", nil)
	if version == nil {
		return
	}
	tdx15 := false
	if binary.LittleEndian.Uint16(version) == 5 {
		typ := w.take(2, "quote: body type", "2 is a TD report of TDX 1.0, 3 of TDX 1.5", little)
		w.take(4, "quote: body size", "how many bytes the TD report has", little)
		tdx15 = bytes.Equal(typ, []byte{3, 0})
	}
	for _, f := range []struct {
		size          int
		name, meaning string
	}{
		{16, "TEE_TCB_SVN", "security versions of the TDX module and the platform when the TD was launched"},
		{48, "MRSEAM", "measurement of the TDX module"},
		{48, "MRSIGNERSEAM", "who signed the TDX module; zero is Intel"},
		{8, "SEAMATTRIBUTES", "attributes of the TDX module; zero in production"},
		{8, "TDATTRIBUTES", "how the host configured the TD; the first byte says if it can be debugged"},
		{8, "XFAM", "processor features that the TD can use"},
		{48, "MRTD", "measurement of what the TD was launched with"},
		{48, "MRCONFIGID", "set by the host at launch, not measured"},
		{48, "MROWNER", "set by the host at launch"},
		{48, "MROWNERCONFIG", "set by the host at launch"},
		{48, "RTMR0", "measured while it ran: by firmware, about its configuration"},
		{48, "RTMR1", "measured while it ran: boot loader and kernel"},
		{48, "RTMR2", "measured while it ran: command line, initial file system, applications"},
		{48, "RTMR3", "measured while it ran: for applications"},
		{64, "REPORTDATA", "chosen by the code in the TD: under statement/v1 the hash of the whole statement"},
	} {
		w.take(f.size, "TD report: "+f.name, f.meaning, nil)
	}
	if tdx15 {
		w.take(16, "TD report: TEE_TCB_SVN_2", "security versions at the time of the quote", nil)
		w.take(48, "TD report: MRSERVICETD", "measurement of service TDs that are bound to this one; zero if none are", nil)
	}
	w.take(4, "quote: signature data, size", "how many bytes follow", little)
	w.take(64, "quote: signature", "by the attestation key, over everything before the signature data’s size", nil)
	w.take(64, "quote: attestation key", "a point of P-256, made by the quoting enclave", nil)
	w.take(2, "quote: certification data type", "6 is a QE report", little)
	w.take(4, "quote: certification data size", "how many bytes follow", little)
	w.take(384, "quote: QE report", "what the processor says of the quoting enclave, and a hash of the attestation key", nil)
	w.take(64, "quote: QE report signature", "by the platform’s PCK", nil)
	if auth := w.take(2, "quote: QE authentication data, size", "how many bytes follow", little); auth != nil {
		w.take(int(binary.LittleEndian.Uint16(auth)), "quote: QE authentication data", "hashed with the attestation key into the QE report", nil)
	}
	w.take(2, "quote: inner certification data type", "5 is a chain of certificates", little)
	w.take(4, "quote: inner certification data size", "how many bytes follow", little)
	w.take(w.left(), "quote: PCK chain", "the platform’s certificate, the CA that issued it, and the root", text)
}
