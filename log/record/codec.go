package record

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// A codec reads or writes JSON. Each structure has one table of members, used
// in both directions, so that what is written is what is read.
//
// It checks the grammar (RFC 8259) and UTF-8; each member exactly once with its
// exact name, each required one present, and each value within its type's alphabet
// and bounds. Only values that a table describes are read, so the tables bound
// the depth of nesting, too. It reads the grammar itself, since a decoder for any JSON
// takes half as long again, and a monitor reads millions of statements: fuzz targets compare
// it with encoding/json.
type codec struct {
	writing bool
	err     error
	path    string // where err happened

	// For reading.
	src           string // the whole input; strings that are read are parts of it
	pos           int    // in src
	escapes       bool   // whether strings may contain escape sequences
	predicateType string // what the predicate is read as

	// For writing.
	out []byte
}

var codecs = sync.Pool{New: func() any { return new(codec) }}

// readJSON calls read on b, which must hold one JSON value and no more.
func readJSON(b []byte, escapes bool, predicateType string, read func(*codec)) error {
	c := codecs.Get().(*codec)
	defer c.release()
	c.src, c.pos, c.escapes, c.predicateType = string(b), 0, escapes, predicateType
	if read(c); c.err == nil {
		if c.peek(); c.pos < len(c.src) {
			c.failf("trailing data after the JSON value")
		}
	}
	if c.err != nil && c.path != "" {
		return fmt.Errorf("%w: %s: %v", ErrMalformed, strings.TrimSuffix(c.path, "."), c.err)
	} else if c.err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, c.err)
	}
	return nil
}

// release returns c to the pool.
func (c *codec) release() {
	c.src, c.predicateType, c.path, c.err = "", "", "", nil
	codecs.Put(c)
}

// writeJSON returns what write appends.
func writeJSON(write func(*codec)) []byte {
	c := &codec{writing: true, out: make([]byte, 0, 4096)}
	write(c)
	return c.out
}

func (c *codec) failf(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// at adds a member's name to the error's path.
func (c *codec) at(name string) { c.path = name + "." + c.path }

// peek skips space, and returns what the next value or character is: the first character of a value, '0' for
// any number, or 0 at the end.
func (c *codec) peek() byte {
	for ; c.pos < len(c.src); c.pos++ {
		switch b := c.src[c.pos]; b {
		case ' ', '\t', '\r', '\n':
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			return '0'
		default:
			return b
		}
	}
	return 0
}

var kindNames = map[byte]string{
	'n': "null", 'f': "a boolean", 't': "a boolean", '"': "a string",
	'0': "a number", '{': "an object", '[': "an array",
}

// expect reports whether the next value is of the given kind, and fails if it isn't.
func (c *codec) expect(want byte) bool {
	if c.err != nil {
		return false
	}
	k := c.peek()
	if k == want {
		return true
	}
	if name, ok := kindNames[k]; ok {
		c.failf("%s, want %s", name, kindNames[want])
	} else {
		c.unexpected(kindNames[want])
	}
	return false
}

// unexpected fails at a character where something else has to be.
func (c *codec) unexpected(want string) {
	if c.pos >= len(c.src) {
		c.failf("unexpected EOF, want %s", want)
		return
	}
	r, _ := utf8.DecodeRuneInString(c.src[c.pos:])
	c.failf("invalid character %q at offset %d, want %s", r, c.pos, want)
}

// open reads the beginning of an object or an array.
func (c *codec) open(kind byte) bool {
	ok := c.expect(kind)
	if ok {
		c.pos++
	}
	return ok
}

// more reports whether there is another member or element in an object or array with the given end. It reads the comma
// before it, or the end.
func (c *codec) more(end byte, first bool) bool {
	if c.err != nil {
		return false
	}
	k := c.peek()
	if k == end {
		c.pos++
		return false
	}
	if first {
		return true
	}
	if k != ',' {
		c.unexpected("a comma or the end")
		return false
	}
	c.pos++
	if c.peek() == end {
		c.unexpected("a value after the comma")
		return false
	}
	return true
}

// word reads one of true, false and null, with whose first character the input goes on. What follows it is looked at by
// who comes next: only a comma or an end can.
func (c *codec) word(w string) bool {
	if !strings.HasPrefix(c.src[c.pos:], w) {
		c.unexpected(w)
		return false
	}
	c.pos += len(w)
	return true
}

// plain are the bytes that stand for themselves in a string, but for those of other characters than ASCII.
var plain = func() (t [256]bool) {
	for b := 0x20; b < 0x80; b++ {
		t[b] = b != '"' && b != '\\'
	}
	return t
}()

// string reads a string, which may be a member's name, and returns what is
// between the quotes.
func (c *codec) string() (string, bool) {
	if !c.expect('"') {
		return "", false
	}
	start := c.pos + 1
	ascii, escaped := true, false
	i := start
	for ; ; i++ {
		for i < len(c.src) && plain[c.src[i]] {
			i++
		}
		if i >= len(c.src) {
			c.pos = i
			c.unexpected("the end of the string")
			return "", false
		}
		b := c.src[i]
		if b == '"' {
			break
		}
		switch {
		case b >= 0x80:
			ascii = false
		case b == '\\':
			escaped = true
			i++ // what it escapes isn't the end
		default:
			c.pos = i
			c.unexpected("no control character in a string")
			return "", false
		}
	}
	s := c.src[start:i]
	c.pos = i + 1
	if !ascii && !utf8.ValidString(s) {
		c.failf("invalid UTF-8 in the string %.80q", s)
		return "", false
	}
	if !escaped {
		return s, true
	}
	if !c.escapes {
		c.failf("escape sequence in the string \"%.80s\"", s)
		return "", false
	}
	b, err := jsontext.AppendUnquote(nil, c.src[start-1:i+1])
	if err != nil {
		c.failf("%v", err)
		return "", false
	}
	return string(b), true
}

func (c *codec) putString(s string) {
	var err error
	if c.out, err = jsontext.AppendQuote(c.out, s); err != nil {
		c.failf("%v", err)
	}
}

// A field is one member of an object.
type field[T any] struct {
	name string
	// has reports whether an optional member is to be written. It is nil for required ones.
	has func(*T) bool
	// rw reads or writes the value.
	rw func(*codec, *T)
}

func req[T any](name string, rw func(*codec, *T)) field[T] {
	return field[T]{name: name, rw: rw}
}

func opt[T any](name string, has func(*T) bool, rw func(*codec, *T)) field[T] {
	return field[T]{name: name, has: has, rw: rw}
}

// object reads or writes an object with exactly these members: every required
// one, no other, none twice. The order is free for reading, that of the table
// for writing.
func object[T any](c *codec, fields []field[T], v *T) {
	if c.writing {
		sep := byte('{')
		for i := range fields {
			f := &fields[i]
			if f.has != nil && !f.has(v) {
				continue
			}
			c.out = append(c.out, sep, '"')
			c.out = append(c.out, f.name...)
			c.out = append(c.out, '"', ':')
			f.rw(c, v)
			sep = ','
		}
		if sep == '{' {
			c.out = append(c.out, sep)
		}
		c.out = append(c.out, '}')
		return
	}
	if !c.open('{') {
		return
	}
	var seen uint64
	next := 0
	for first := true; c.more('}', first); first = false {
		name, ok := c.name()
		if !ok {
			return
		}
		i := next
		if i >= len(fields) || fields[i].name != name {
			i = slices.IndexFunc(fields, func(f field[T]) bool { return f.name == name })
		}
		if i < 0 {
			c.failf("unknown member %.80q", name)
			return
		}
		if seen&(1<<i) != 0 {
			c.failf("duplicate member %q", name)
			return
		}
		seen |= 1 << i
		if fields[i].rw(c, v); c.err != nil {
			c.at(name)
			return
		}
		next = i + 1
	}
	if c.err != nil {
		return
	}
	for i := range fields {
		if fields[i].has == nil && seen&(1<<i) == 0 {
			c.failf("missing member %q", fields[i].name)
			return
		}
	}
}

// list reads or writes an array of min to max values.
func list[T any](c *codec, v *[]T, min, max int, rw func(*codec, *T)) {
	if c.writing {
		c.out = append(c.out, '[')
		for i := range *v {
			if i > 0 {
				c.out = append(c.out, ',')
			}
			rw(c, &(*v)[i])
		}
		c.out = append(c.out, ']')
		return
	}
	if !c.open('[') {
		return
	}
	*v = []T{}
	for first := true; c.more(']', first); first = false {
		if len(*v) == max {
			c.failf("more than %d values", max)
			return
		}
		*v = append(*v, *new(T))
		if rw(c, &(*v)[len(*v)-1]); c.err != nil {
			c.at(strconv.Itoa(len(*v) - 1))
			return
		}
	}
	if c.err == nil && len(*v) < min {
		c.failf("%d values, want at least %d", len(*v), min)
	}
}

// mapping reads or writes an object of up to max members whose names are data,
// in the order of their names for writing.
func mapping[T any](c *codec, m *map[string]T, max int, key func(string) error, rw func(*codec, *T)) {
	if c.writing {
		names := make([]string, 0, len(*m))
		for name := range *m {
			names = append(names, name)
		}
		slices.Sort(names)
		c.out = append(c.out, '{')
		for i, name := range names {
			if i > 0 {
				c.out = append(c.out, ',')
			}
			c.putString(name)
			c.out = append(c.out, ':')
			v := (*m)[name]
			rw(c, &v)
		}
		c.out = append(c.out, '}')
		return
	}
	if !c.open('{') {
		return
	}
	*m = make(map[string]T)
	for first := true; c.more('}', first); first = false {
		name, ok := c.name()
		if !ok {
			return
		}
		if err := key(name); err != nil {
			c.failf("member name: %v", err)
			return
		}
		if _, ok := (*m)[name]; ok {
			c.failf("duplicate member %q", name)
			return
		}
		if len(*m) == max {
			c.failf("more than %d members", max)
			return
		}
		var v T
		if rw(c, &v); c.err != nil {
			c.at(name)
			return
		}
		(*m)[name] = v
	}
}

// name reads a member's name, and the colon after it.
func (c *codec) name() (string, bool) {
	name, ok := c.string()
	if !ok {
		return "", false
	}
	if c.peek() != ':' {
		c.unexpected("a colon")
		return "", false
	}
	c.pos++
	return name, true
}

// null reads a null, if one is next, or writes one if it must.
func (c *codec) null(write bool) bool {
	if c.writing {
		if write {
			c.out = append(c.out, "null"...)
		}
		return write
	}
	if c.err != nil || c.peek() != 'n' {
		return false
	}
	c.word("null")
	return true
}

// maxInt is the largest integer: beyond it, a reader with IEEE doubles reads
// another number than one with integers.
const maxInt = 1 << 53

// integer reads or writes an integer from min to max in its only form.
func (c *codec) integer(v *uint64, min, max uint64) {
	if c.writing {
		c.out = strconv.AppendUint(c.out, *v, 10)
		return
	}
	n, neg, ok := c.number()
	if !ok {
		return
	}
	if neg || n < min || n > max {
		sign := ""
		if neg {
			sign = "-"
		}
		c.failf("%s%d is not from %d to %d", sign, n, min, max)
		return
	}
	*v = n
}

// number reads an integer within ±2^53, as magnitude and sign.
func (c *codec) number() (n uint64, neg, ok bool) {
	if !c.expect('0') {
		return 0, false, false
	}
	start := c.pos
	for c.pos < len(c.src) && strings.IndexByte("0123456789+-.eE", c.src[c.pos]) >= 0 {
		c.pos++
	}
	b := c.src[start:c.pos]
	digits := b
	if neg = b[0] == '-'; neg {
		digits = b[1:]
	}
	if digits == "" {
		c.failf("%q is not a number", b)
		return 0, false, false
	}
	for i := range len(digits) {
		d := digits[i]
		if d < '0' || d > '9' {
			c.failf("%.40s is not an integer without fraction and exponent", b)
			return 0, false, false
		}
		if n = n*10 + uint64(d-'0'); n > maxInt {
			c.failf("%.40s is beyond 2^53", b)
			return 0, false, false
		}
	}
	if digits[0] == '0' && len(digits) > 1 {
		c.failf("invalid character %q after a leading zero", digits[1])
		return 0, false, false
	}
	if neg && n == 0 {
		c.failf("-0 is not an integer in its only form")
		return 0, false, false
	}
	return n, neg, true
}

func (c *codec) bool(v *bool) {
	if c.writing {
		c.out = strconv.AppendBool(c.out, *v)
		return
	}
	if c.err != nil {
		return
	}
	switch c.peek() {
	case 't':
		*v = c.word("true")
	case 'f':
		*v = !c.word("false")
	default:
		c.expect('t')
	}
}

// checked reads a string that check accepts, or writes it.
func (c *codec) checked(v *string, check func(string) error) {
	if c.writing {
		c.putString(*v)
		return
	}
	s, ok := c.string()
	if !ok {
		return
	}
	if err := check(s); err != nil {
		c.failf("%v", err)
		return
	}
	*v = s
}

// enum reads or writes one of a few words.
func (c *codec) enum(v *string, words ...string) {
	if c.writing {
		c.putString(*v)
		return
	}
	s, ok := c.string()
	if !ok {
		return
	}
	for _, w := range words {
		if s == w {
			*v = w
			return
		}
	}
	c.failf("%.80q is not one of %s", s, strings.Join(words, ", "))
}

// constant reads or writes a string that has only one value.
func (c *codec) constant(s string) { c.enum(&s, s) }

// hex reads or writes exactly len(dst) bytes in lowercase hexadecimal.
func (c *codec) hex(dst []byte) {
	if c.writing {
		c.out = append(c.out, '"')
		c.out = hex.AppendEncode(c.out, dst)
		c.out = append(c.out, '"')
		return
	}
	s, ok := c.string()
	if !ok {
		return
	}
	if !decodeHex(dst, s) {
		c.failf("%.130q is not %d lowercase hexadecimal digits", s, 2*len(dst))
	}
}

// decodeHex reports whether s is exactly len(dst) bytes in lowercase hexadecimal.
func decodeHex(dst []byte, s string) bool {
	if len(s) != 2*len(dst) {
		return false
	}
	for i := range dst {
		h, l := unhex[s[2*i]], unhex[s[2*i+1]]
		if h|l > 15 {
			return false
		}
		dst[i] = h<<4 | l
	}
	return true
}

// unhex maps lowercase hexadecimal digits to their values, and other bytes to 255.
var unhex = func() (t [256]byte) {
	for i := range t {
		t[i] = 255
	}
	for i, d := range []byte("0123456789abcdef") {
		t[d] = byte(i)
	}
	return t
}()

func (c *codec) digest(d *Digest) { c.hex(d[:]) }

// strictBase64 refuses spare bits. It skips newlines, which codec.base64 looks
// for itself.
var strictBase64 = base64.StdEncoding.Strict()

// base64 reads or writes min to max bytes in the only base64 form: standard alphabet,
// padded, no spare bits, no newlines (RFC 4648, Section 4).
func (c *codec) base64(v *[]byte, min, max int) {
	if c.writing {
		c.out = append(c.out, '"')
		c.out = base64.StdEncoding.AppendEncode(c.out, *v)
		c.out = append(c.out, '"')
		return
	}
	s, ok := c.string()
	if !ok {
		return
	}
	if c.escapes && strings.ContainsAny(s, "\r\n") { // without escapes, there can't be one
		c.failf("newline in base64")
		return
	}
	if len(s) > base64.StdEncoding.EncodedLen(max) {
		c.failf("base64 of more than %d bytes", max)
		return
	}
	b, err := strictBase64.DecodeString(s)
	if err != nil {
		c.failf("%.100q is not strict base64: %v", s, err)
		return
	}
	if len(b) < min || len(b) > max {
		if min == max {
			c.failf("base64 of %d bytes, want %d", len(b), min)
		} else {
			c.failf("base64 of %d bytes, want %d to %d", len(b), min, max)
		}
		return
	}
	*v = b
}

// base64Digest reads or writes 32 bytes.
func (c *codec) base64Digest(d *Digest) {
	if c.writing {
		b := d[:]
		c.base64(&b, 32, 32)
		return
	}
	s, ok := c.string()
	if !ok {
		return
	}
	var tmp [33]byte // DecodedLen of 44 characters, of which one is padding
	if len(s) == 44 {
		var enc [44]byte
		copy(enc[:], s)
		if n, err := strictBase64.Decode(tmp[:], enc[:]); err == nil && n == 32 {
			copy(d[:], tmp[:])
			return
		}
	}
	c.failf("%.100q is not strict base64 of 32 bytes", s)
}

// timestampLayout is the only form of a time: RFC 3339, UTC as "Z", whole seconds.
const timestampLayout = "2006-01-02T15:04:05Z"

func (c *codec) time(t *time.Time) {
	if c.writing {
		c.putString(t.UTC().Format(timestampLayout))
		return
	}
	s, ok := c.string()
	if !ok {
		return
	}
	v, err := parseTime(s)
	if err != nil {
		c.failf("%v", err)
		return
	}
	*t = v
}

// parseTime parses a timestamp of the years 1970 to 9999.
func parseTime(s string) (time.Time, error) {
	bad := func() (time.Time, error) {
		return time.Time{}, fmt.Errorf("%.40q is not a time like 2026-11-24T07:00:03Z: UTC, whole seconds", s)
	}
	if len(s) != len(timestampLayout) {
		return bad()
	}
	for i := range len(s) {
		if l := timestampLayout[i]; '0' <= l && l <= '9' {
			if s[i] < '0' || s[i] > '9' {
				return bad()
			}
		} else if s[i] != l {
			return bad()
		}
	}
	two := func(i int) int { return int(s[i]-'0')*10 + int(s[i+1]-'0') }
	year, month, day := two(0)*100+two(2), two(5), two(8)
	hour, min, sec := two(11), two(14), two(17)
	if year < 1970 || month < 1 || month > 12 || day < 1 || hour > 23 || min > 59 || sec > 59 {
		return bad()
	}
	t := time.Date(year, time.Month(month), day, hour, min, sec, 0, time.UTC)
	if t.Day() != day { // February 30
		return bad()
	}
	return t, nil
}
