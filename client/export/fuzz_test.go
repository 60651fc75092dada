package export

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// A cursor has one form, and whatever is accepted is written again as it was.
func FuzzParseCursor(f *testing.F) {
	f.Add([]byte(Cursor{Config: [32]byte{1}, Records: 1<<64 - 1, Findings: 3, Seen: 4, Output: 5}.String()))
	f.Add([]byte(Cursor{}.String()))
	f.Add([]byte(strings.Replace(Cursor{}.String(), "records 0", "records 00", 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCursor(b)
		if err != nil {
			if !errors.Is(err, ErrCursor) {
				t.Errorf("%v doesn't wrap ErrCursor", err)
			}
			return
		}
		if c.String() != string(b) {
			t.Errorf("accepted two forms of %+v: %q and %q", c, b, c.String())
		}
	})
}

// A field comes back as it was, over RFC 4180 and the apostrophes, and no program
// that takes a comma, a semicolon, a bar or nothing as a separator sees a formula.
func FuzzCSVField(f *testing.F) {
	for _, s := range []string{"", "plain", evil, "'", "''=", "a;=1", "a; '+1", `"-`, "  =1", "＝1", "a,b", "-1", "x '", "a | @b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := Clean(s)
		line := append(appendField(nil, want), ",end\r\n"...)
		r := csv.NewReader(bytes.NewReader(line))
		row, err := r.Read()
		if err != nil || len(row) != 2 {
			t.Fatalf("%q: %q, %v", line, row, err)
		}
		if got := restore(row[0]); got != want {
			t.Errorf("%q became %q in %q", want, got, line)
		}
		for cell := range strings.FieldsFuncSeq(string(line), separates) {
			if cell = strings.TrimLeft(cell, " "); cell != "" && strings.ContainsRune("=+-@＝＋－＠", firstRune(cell)) {
				t.Errorf("a cell %q in %q", cell, line)
			}
		}
	})
}

func firstRune(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}

// A text comes back from JSON as Clean has it, and the JSON is printable ASCII
// without anything that ends HTML or a script.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "plain", evil, "😀\u2028", "\ufffd", "\u0080\u009b", strings.Repeat("é", 9000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := &encoder{limit: maxText}
		e.text(s)
		var got string
		if err := json.Unmarshal(e.b, &got); err != nil {
			t.Fatalf("%v in %q", err, e.b)
		}
		if want := Clean(s); got != want {
			t.Errorf("%q became %q, want %q", s, got, want)
		}
		if again := Clean(got); again != got {
			t.Errorf("Clean(%q) = %q", got, again)
		}
		for _, c := range e.b {
			if c < 0x20 || c > 0x7e || c == '<' || c == '>' || c == '&' {
				t.Fatalf("byte %#x in %q", c, e.b)
			}
		}
		short := &encoder{limit: shortText, full: 1}
		short.text(s)
		if len(short.b) > shortText+2 || !json.Valid(short.b) {
			t.Errorf("%q shortened is %q", s, short.b)
		}
	})
}

// Whatever a message's parts are, frames one after another come apart as they were
// put together, and the message's text is the event.
func FuzzSyslog(f *testing.F) {
	f.Add("host", "text", 2003, 4, int64(1795503766000))
	f.Add(evil, evil, -1, 99, int64(-62135596800000))
	f.Add("", "\"] {", 0, 0, int64(1)<<62)
	f.Fuzz(func(t *testing.T, host, text string, class, severity int, ms int64) {
		e := &encoder{limit: maxText}
		e.open('{')
		e.str(`"message":`, text)
		e.close('}')
		ev := &Event{Class: class, Severity: severity, Time: time.UnixMilli(ms), JSON: e.b}
		message := Syslog{Hostname: host}.Append(nil, ev)
		stream := AppendFrame(AppendFrame(nil, message), []byte("next"))
		got, rest := frame(t, stream)
		if !bytes.Equal(got, message) {
			t.Fatalf("%q became %q", message, got)
		}
		if next, rest := frame(t, rest); string(next) != "next" || len(rest) > 0 {
			t.Errorf("next is %q, and then %q", next, rest)
		}
		// RFC 5424: six fields of printable ASCII without spaces, structured data, text.
		fields := strings.SplitN(string(message), " ", 7)
		if len(fields) != 7 || fields[1] == "" || fields[2] == "" || fields[3] != "affidavit" || fields[4] != "-" || !strings.HasPrefix(fields[5], "ocsf-") {
			t.Fatalf("%q", message)
		}
		data, after, ok := strings.Cut(fields[6], `"] `)
		if !ok || !strings.HasPrefix(data, "[origin ") || after != string(e.b) {
			t.Errorf("%q", fields[6])
		}
		for _, c := range message {
			if c < 0x20 || c > 0x7e {
				t.Fatalf("byte %#x in %q", c, message)
			}
		}
	})
}

// frame takes a frame off a stream (RFC 6587, 3.4.1).
func frame(t *testing.T, b []byte) (message, rest []byte) {
	t.Helper()
	n, after, ok := bytes.Cut(b, []byte(" "))
	size, err := strconv.Atoi(string(n))
	if !ok || err != nil || size > len(after) {
		t.Fatalf("no frame in %q", b)
	}
	return after[:size], after[size:]
}

// What a frame of the queue is parsed to, makes the same frame.
func FuzzQueueFrame(f *testing.F) {
	c := Cursor{Config: [32]byte{1}, Records: 7}
	f.Add(appendFrame(nil, c, appendPart(appendPart(nil, "a line"), "")))
	f.Add(appendFrame(nil, c, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readFrame(bytes.NewReader(b), 0, int64(len(b)))
		if err != nil {
			// The property is about bodies, which a checksum hides from the fuzzer.
			if len(b) < frameHeader {
				return
			}
			body = b[frameHeader:]
		}
		c, lines, err := parseFrame(body)
		if err != nil {
			return
		}
		var parts []byte
		for _, l := range lines {
			parts = appendPart(parts, l)
		}
		if again := appendFrame(nil, c, parts); !bytes.Equal(again[frameHeader:], body) {
			t.Errorf("two frames of one content: %q and %q", body, again[frameHeader:])
		}
	})
}
