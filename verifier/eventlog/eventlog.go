// Package eventlog parses logs of what a trust domain measured into its RTMRs,
// and replays them: the CC event log that firmware and boot loaders keep (ACPI
// table CCEL), and the log of dstack's interfaces (FORMAT.md, "Event logs").
//
// A log by itself says nothing. Once [Log.Check] has compared it with the registers
// of a verified quote, the digests in it, and their order within a register, are what
// code in the trust domain measured; what an event says is so only where it
// hashes to its digest ([Event.Hashed]).
//
// Everything is a function of its arguments. There is no use of
// github.com/google/go-eventlog here, since it accepts a log that has no events for
// a register, whatever the register's value, and reaches Protocol Buffers; tests
// compare with it.
package eventlog

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/affidavit-log/affidavit/log/record"
)

// Limits of a log. Those of real platforms have some 100 events in 64 KiB.
const (
	MaxSize   = 4 << 20 // in bytes
	maxEvents = 1 << 14
	maxAlgs   = 8
)

// Registers is the number of RTMRs.
const Registers = 4

// A Register is the value of an RTMR.
type Register = [sha512.Size384]byte

// ErrMalformed is wrapped by the errors of parsers.
var ErrMalformed = errors.New("malformed event log")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// An Event is one measurement.
type Event struct {
	RTMR   int // 0 to 3
	Type   uint32
	Digest Register
	Name   string // of dstack's runtime events, else empty
	Data   []byte // what was measured, or a description of it

	// Hashed is whether Digest is that of what the event says: of Name and Data
	// for dstack's runtime events, else of Data.
	Hashed bool
}

// A Log is a parsed log. Nothing in it may be modified.
type Log struct {
	Events []Event
	dstack bool
}

// Parse parses a log of one of FORMAT.md's media types. The error wraps
// ErrMalformed.
func Parse(mediaType string, b []byte) (*Log, error) {
	switch mediaType {
	case record.MediaTypeCCEL:
		return ParseCCEL(b)
	case record.MediaTypeDstackLog:
		return ParseDstack(b)
	}
	return nil, malformed("media type %.100q is none of an event log", mediaType)
}

// Is reports whether Parse knows a media type.
func Is(mediaType string) bool {
	return mediaType == record.MediaTypeCCEL || mediaType == record.MediaTypeDstackLog
}

// Replay returns what the events make of each register, and which registers have
// events.
func (l *Log) Replay() (r [Registers]Register, has [Registers]bool) {
	for i := range l.Events {
		e := &l.Events[i]
		h := sha512.New384()
		h.Write(r[e.RTMR][:])
		h.Write(e.Digest[:])
		h.Sum(r[e.RTMR][:0])
		has[e.RTMR] = true
	}
	return r, has
}

// A Mismatch error says that a log isn't that of the quote.
type Mismatch struct {
	RTMR      int
	Got, Want Register // by the log, and in the quote
}

func (e *Mismatch) Error() string {
	return fmt.Sprintf("the event log replays to RTMR%d %x, and the quote has %x", e.RTMR, e.Got, e.Want)
}

// Check compares a log with the registers of a verified quote. Every register for
// which there are events must be what they make of it, and the others zero: a log
// must not leave out all of a register. RTMR3 of a CCEL is an exception, since
// firmware has no events for what is measured later. It returns for which registers the log
// speaks. The error is a *Mismatch, unless rtmr isn't four registers.
func (l *Log) Check(rtmr [Registers][]byte) (covers [Registers]bool, err error) {
	got, has := l.Replay()
	for i := range got {
		if len(rtmr[i]) != len(got[i]) {
			return covers, fmt.Errorf("RTMR%d of %d bytes, want %d", i, len(rtmr[i]), len(got[i]))
		}
		if want := Register(rtmr[i]); got[i] != want && (has[i] || i < 3 || l.dstack) {
			return covers, &Mismatch{i, got[i], want}
		}
	}
	return has, nil
}

// dstackRuntime is the type of the events that dstack measures at run time.
const dstackRuntime = 0x08000001

// systemReady is dstack's last event of the boot. What comes after, the application
// measures, which could repeat any name.
const systemReady = "system-ready"

// Boot returns the payload of the first of dstack's runtime events with a name that
// was measured before the system was ready, or nil. Later ones are the application's.
func (l *Log) Boot(name string) []byte {
	for i := range l.Events {
		switch e := &l.Events[i]; {
		case e.RTMR != 3 || e.Type != dstackRuntime:
		case e.Name == name:
			return e.Data
		case e.Name == systemReady:
			return nil
		}
	}
	return nil
}

// runtimeDigest is SHA-384(type ‖ ":" ‖ event ‖ ":" ‖ payload).
func runtimeDigest(name string, payload []byte) (d Register) {
	h := sha512.New384()
	b := binary.LittleEndian.AppendUint32(nil, dstackRuntime)
	h.Write(append(b, ':'))
	h.Write([]byte(name))
	h.Write([]byte{':'})
	h.Write(payload)
	h.Sum(d[:0])
	return d
}

// ParseDstack parses the event_log of dstack's interfaces, JSON.
func ParseDstack(b []byte) (*Log, error) {
	if len(b) > MaxSize {
		return nil, malformed("%d bytes, more than %d", len(b), MaxSize)
	}
	var list []struct {
		IMR     uint32 `json:"imr"`
		Type    uint32 `json:"event_type"`
		Digest  string `json:"digest"`
		Event   string `json:"event"`
		Payload string `json:"event_payload"`
	}
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, malformed("%v", err)
	}
	if len(list) == 0 || len(list) > maxEvents {
		return nil, malformed("%d events, want 1 to %d", len(list), maxEvents)
	}
	l := &Log{Events: make([]Event, len(list)), dstack: true}
	for i, v := range list {
		e := &l.Events[i]
		if v.IMR >= Registers {
			return nil, malformed("event %d: register %d", i, v.IMR)
		}
		e.RTMR, e.Type = int(v.IMR), v.Type
		var err error
		if e.Data, err = hex.DecodeString(v.Payload); err != nil {
			return nil, malformed("event %d: its payload is not hexadecimal", i)
		}
		digest, err := hex.DecodeString(v.Digest)
		if err != nil {
			return nil, malformed("event %d: its digest is not hexadecimal", i)
		}
		runtime := v.Type == dstackRuntime
		switch {
		case len(digest) == len(e.Digest):
			e.Digest = Register(digest)
		case len(digest) != 0 || !runtime:
			return nil, malformed("event %d: digest of %d bytes, want %d", i, len(digest), len(e.Digest))
		}
		if !runtime {
			e.Hashed = sha512.Sum384(e.Data) == e.Digest
			continue
		}
		e.Name = v.Event
		// "The digest of an event of type 0x08000001 is …, whatever digest says"
		// (FORMAT.md): one that says something else is no log of dstack's.
		want := runtimeDigest(e.Name, e.Data)
		if len(digest) != 0 && e.Digest != want {
			return nil, malformed("event %d, %.80q: digest %x, want %x", i, e.Name, e.Digest, want)
		}
		e.Digest, e.Hashed = want, true
	}
	return l, nil
}

// What the TCG's specification calls by these names (TCG PC Client Platform
// Firmware Profile, section 10).
const (
	evNoAction   = 3
	algSHA384    = 0x000c
	specIDHeader = 28 // of TCG_EfiSpecIdEvent before the algorithms
)

var specIDSignature = []byte("Spec ID Event03\x00")

// littleEndian reads integers and bytes.
type littleEndian struct {
	b  []byte
	ok bool
}

func (r *littleEndian) bytes(n uint32) []byte {
	if !r.ok || uint64(n) > uint64(len(r.b)) {
		r.ok = false
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *littleEndian) uint8() uint8 {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *littleEndian) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *littleEndian) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// ParseCCEL parses the log area of ACPI table CCEL: a TCG2 log in the crypto-agile
// format, whose measurement registers 1 to 4 are RTMR0 to RTMR3 (Intel, Guest
// Hypervisor Communication Interface, 4.3.3; UEFI 2.10, 38.4.1).
func ParseCCEL(b []byte) (*Log, error) {
	l, _, err := parseCCEL(b)
	return l, err
}

// parseCCEL also returns how many bytes of padding there are.
func parseCCEL(b []byte) (l *Log, rest int, err error) {
	malformed := func(format string, args ...any) (*Log, int, error) { return nil, 0, malformed(format, args...) }
	if len(b) > MaxSize {
		return malformed("%d bytes, more than %d", len(b), MaxSize)
	}
	r := &littleEndian{b, true}
	sizes, err := parseSpecID(r)
	if err != nil {
		return nil, 0, err
	}
	l = new(Log)
	for len(r.b) > 0 && !padding(r.b) {
		if len(l.Events) == maxEvents {
			return malformed("more than %d events", maxEvents)
		}
		index, typ, count := r.uint32(), r.uint32(), r.uint32()
		if !r.ok || count > maxAlgs {
			return malformed("event %d: truncated, or %d digests", len(l.Events), count)
		}
		e := Event{Type: typ}
		found := false
		for range count {
			alg := r.uint16()
			size, known := sizes[alg]
			if !known {
				return malformed("event %d: a digest of algorithm %#04x, which the log doesn't declare", len(l.Events), alg)
			}
			digest := r.bytes(uint32(size))
			if r.ok && alg == algSHA384 {
				if found {
					return malformed("event %d: two SHA-384 digests", len(l.Events))
				}
				e.Digest, found = Register(digest), true
			}
		}
		e.Data = r.bytes(r.uint32())
		switch {
		case !r.ok:
			return malformed("event %d is truncated", len(l.Events))
		case typ == evNoAction:
			continue // "not extended" (TCG PFP, EV_NO_ACTION)
		case index < 1 || index > Registers:
			return malformed("event %d: measurement register %d", len(l.Events), index)
		case !found:
			return malformed("event %d has no SHA-384 digest", len(l.Events))
		}
		e.RTMR = int(index - 1)
		e.Hashed = sha512.Sum384(e.Data) == e.Digest
		l.Events = append(l.Events, e)
	}
	if len(l.Events) == 0 {
		return malformed("no events")
	}
	return l, len(r.b), nil
}

// parseSpecID reads the first event, which declares the sizes of digests.
func parseSpecID(r *littleEndian) (map[uint16]uint16, error) {
	r.uint32() // index
	typ := r.uint32()
	r.bytes(20) // digest
	body := &littleEndian{r.bytes(r.uint32()), true}
	if !r.ok || typ != evNoAction {
		return nil, malformed("it doesn't begin with a Spec ID event")
	}
	if signature := body.bytes(16); !bytes.Equal(signature, specIDSignature) {
		return nil, malformed("signature %q, want %q", signature, specIDSignature)
	}
	body.bytes(specIDHeader - 16 - 4) // platform class, version, errata, size of integers
	n := body.uint32()
	if !body.ok || n < 1 || n > maxAlgs {
		return nil, malformed("Spec ID event with %d algorithms", n)
	}
	sizes := make(map[uint16]uint16)
	for range n {
		alg, size := body.uint16(), body.uint16()
		if _, twice := sizes[alg]; twice || !body.ok || size == 0 || size > 64 {
			return nil, malformed("Spec ID event: algorithm %#04x with digests of %d bytes", alg, size)
		}
		sizes[alg] = size
	}
	if vendor := body.bytes(uint32(body.uint8())); !body.ok || len(body.b) > 0 {
		return nil, malformed("Spec ID event with %d bytes of the vendor's, and %d after", len(vendor), len(body.b))
	}
	if sizes[algSHA384] != sha512.Size384 {
		return nil, malformed("no SHA-384 digests, of which RTMRs are made")
	}
	return sizes, nil
}

// padding reports whether the rest of a log area is unused: all 0xFF, or all zeros.
func padding(b []byte) bool {
	if b[0] != 0x00 && b[0] != 0xff {
		return false
	}
	return len(bytes.Trim(b, string(b[:1]))) == 0
}

// TrimCCEL returns a log area without its padding. The error wraps ErrMalformed.
func TrimCCEL(b []byte) ([]byte, error) {
	_, rest, err := parseCCEL(b)
	if err != nil {
		return nil, err
	}
	return b[:len(b)-rest], nil
}
