package session

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/log/record"
)

// An Action is something that an agent did, or a call that a model server answered.
type Action struct {
	Time    time.Time // the current time if it is zero
	TraceID [16]byte  // W3C Trace Context; the session's id if it is zero
	SpanID  [8]byte   // random if it is zero
	Outcome string    // such as record.OutcomeBlocked; record.OutcomeExecuted if it is empty

	// Attributes have OpenTelemetry names. "gen_ai.operation.name" must be among them. Values are string, int, int64,
	// float64 (written as a string), bool or []string. Those that hold content, see [IsContent], go into the document
	// as salted digests only. The map isn't kept.
	Attributes map[string]any

	// Arguments and Result are what the action was given and what came of it. They go into the document as salted
	// digests only. Nil means not known. They aren't kept, unless Config.KeepContent says so.
	Arguments, Result []byte

	// Policy is the digest of the policy that was applied, or nil.
	Policy *record.Digest
}

// Names of contents that have a place of their own in the action document. All others are attributes, whose digest is
// in an attribute of the same name with ".sha256" at its end.
const (
	ContentArguments = "arguments" // Action.Arguments, or the attribute gen_ai.tool.call.arguments
	ContentResult    = "result"    // Action.Result, or the attribute gen_ai.tool.call.result
)

// contentSuffix follows the name of an attribute whose value is the salted digest of content.
const contentSuffix = ".sha256"

// contentAttributes are the attributes of OpenTelemetry's semantic conventions for generative AI that hold what people
// and models write (opt-in there, and "likely to contain sensitive information"), with the names that older versions
// had.
var contentAttributes = map[string]string{
	"gen_ai.tool.call.arguments":    ContentArguments,
	"gen_ai.tool.call.result":       ContentResult,
	"gen_ai.input.messages":         "",
	"gen_ai.output.messages":        "",
	"gen_ai.system_instructions":    "",
	"gen_ai.tool.definitions":       "",
	"gen_ai.retrieval.documents":    "",
	"gen_ai.retrieval.query.text":   "",
	"gen_ai.evaluation.explanation": "",
	"gen_ai.prompt":                 "",
	"gen_ai.completion":             "",
	"gen_ai.request.messages":       "",
	"gen_ai.response.messages":      "",
}

// IsContent reports whether the attribute of this name holds content, so that documents have its salted digest only.
// [Config] can name more.
func IsContent(attribute string) bool {
	_, ok := contentAttributes[attribute]
	return ok
}

// contentLabel keeps the digests of contents apart from all other uses of SHA-256 by a TD, as do the labels in FORMAT.md.
const contentLabel = "affidavit/content/v1\x00"

// ContentDigest is the salted digest of content, such as an action's arguments:
// SHA-256("affidavit/content/v1" ‖ 0x00 ‖ salt ‖ content). The salt is random. Without it nobody can find out the content
// by guessing; with it and the content, everybody can check that the document meant this content.
func ContentDigest(salt [32]byte, content []byte) record.Digest {
	if len(content) <= 512 { // often; this allocates nothing
		b := append(make([]byte, 0, len(contentLabel)+32+512), contentLabel...)
		return sha256.Sum256(append(append(b, salt[:]...), content...))
	}
	h := sha256.New()
	h.Write([]byte(contentLabel))
	h.Write(salt[:])
	h.Write(content)
	return record.Digest(h.Sum(nil))
}

// A Content is something that an action document has only the salted digest of.
type Content struct {
	Name  string // ContentArguments, ContentResult, or an attribute's
	Salt  [32]byte
	Bytes []byte // nil unless it was kept
}

// digestIn returns the digest that an action document has of the content of this name, or false if it has none.
func digestIn(a *record.Action, name string) (record.Digest, bool) {
	var d *record.Digest
	switch name {
	case ContentArguments:
		d = a.Arguments
	case ContentResult:
		d = a.Result
	default:
		s, _ := a.Attributes[name+contentSuffix].(string)
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != 32 || hex.EncodeToString(b) != s {
			return record.Digest{}, false
		}
		return record.Digest(b), true
	}
	if d == nil {
		return record.Digest{}, false
	}
	return *d, true
}

// VerifyContent checks that content, with its salt, is what the action document a has under the given name. A
// disclosed action reveals nothing of its content; this is how its owner reveals one, and no other.
func VerifyContent(a *record.Action, name string, salt [32]byte, content []byte) error {
	d, ok := digestIn(a, name)
	if !ok {
		return fmt.Errorf("the action has no digest of %.80q", name)
	}
	if got := ContentDigest(salt, content); got != d {
		return fmt.Errorf("%s have the salted digest %x, and the action has %x", name, got, d)
	}
	return nil
}

// Bounds of an action document (FORMAT.md, section 8.2).
const (
	maxAttributes     = 128
	maxAttributeName  = 255
	maxAttributeValue = 8 << 10
	maxAttributeList  = 64
	maxInteger        = 1 << 53
)

// maxContent bounds a content that is kept.
const maxContent = 1 << 20

// attr is an attribute as it goes into the document.
type attr struct {
	name  string
	value any
}

// encoder makes action documents. It allocates little: its buffers are used again. It must not be used concurrently.
type encoder struct {
	keep  bool            // keep contents
	extra map[string]bool // more attributes that are content

	attrs    []attr
	contents []Content
	scratch  []byte // contents that were something else than bytes

	rng    *mathrand.ChaCha8 // nil until the first salt
	salted int               // bytes that rng has given since it was seeded

	// date is how documents have the second that is dated; most actions share theirs with the one before.
	dated int64
	date  []byte
}

// reseedAfter is how many bytes of salts are made of one seed.
const reseedAfter = 1 << 20

// salt fills b with random bytes. They come from ChaCha8, a cryptographically strong generator that overwrites its key as
// it goes (math/rand/v2; c2sp.org/chacha8rand), seeded by the system: asking the system for the salts of an action takes as
// long as two of its hashes. Whoever could read the generator's state could read the salts in the journal beside it.
func (e *encoder) salt(b []byte) {
	if e.rng == nil || e.salted >= reseedAfter {
		var seed [32]byte
		rand.Read(seed[:]) // never fails (crypto/rand)
		e.rng, e.salted = mathrand.NewChaCha8(seed), 0
	}
	e.rng.Read(b) // never fails
	e.salted += len(b)
}

// appendTime appends t as documents have it.
func (e *encoder) appendTime(out []byte, t time.Time) []byte {
	if unix := t.Unix(); e.date == nil || e.dated != unix {
		e.date, e.dated = t.AppendFormat(e.date[:0], "2006-01-02T15:04:05Z"), unix
	}
	return append(out, e.date...)
}

// append appends to out what the journal keeps of an action, and the file for the session's owner: a zero byte, the
// salt and the document, whose hash is the leaf's, and the contents. It returns the bounds of the first part in out.
//
// The document is the same, byte for byte, as record.Action.Marshal makes it, which takes ten times as long since it
// parses what it has made; tests compare the two.
func (e *encoder) append(out []byte, a *Action, session record.SessionID, index uint64, now time.Time) (b []byte, leaf record.Digest, operation, outcome string, err error) {
	fail := func(format string, args ...any) ([]byte, record.Digest, string, string, error) {
		return out, leaf, "", "", fmt.Errorf("%w: action: %w", record.ErrMalformed, fmt.Errorf(format, args...))
	}
	e.attrs, e.contents, e.scratch = e.attrs[:0], e.contents[:0], e.scratch[:0]
	if cap(e.scratch) > 1<<20 {
		e.scratch = nil
	}
	var arguments, result *record.Digest
	content := func(name string, bytes []byte) record.Digest {
		c := Content{Name: name}
		e.salt(c.Salt[:])
		if e.keep {
			c.Bytes = bytes
		}
		e.contents = append(e.contents, c)
		return ContentDigest(c.Salt, bytes)
	}
	if a.Arguments != nil {
		arguments = new(content(ContentArguments, a.Arguments))
	}
	if a.Result != nil {
		result = new(content(ContentResult, a.Result))
	}
	for name, value := range a.Attributes {
		place, is := contentAttributes[name]
		if !is && !e.extra[name] {
			e.attrs = append(e.attrs, attr{name, value})
			continue
		}
		at := len(e.scratch)
		if e.scratch, err = appendContent(e.scratch, value); err != nil {
			return fail("attribute %.80q: %w", name, err)
		}
		bytes := e.scratch[at:len(e.scratch):len(e.scratch)]
		switch {
		case place == ContentArguments && arguments == nil:
			arguments = new(content(place, bytes))
		case place == ContentResult && result == nil:
			result = new(content(place, bytes))
		default:
			d := content(name, bytes)
			e.attrs = append(e.attrs, attr{name + contentSuffix, hex.EncodeToString(d[:])})
		}
	}
	if len(e.attrs) > maxAttributes {
		return fail("%d attributes, more than %d", len(e.attrs), maxAttributes)
	}
	slices.SortFunc(e.attrs, func(a, b attr) int { return strings.Compare(a.name, b.name) })
	slices.SortFunc(e.contents, func(a, b Content) int { return strings.Compare(a.Name, b.Name) })

	// A length, filled in below; the leaf's prefix, as in RFC 6962; the salt.
	size := len(out)
	out = append(out, 0, 0, 0, 0)
	start := len(out)
	out = append(out, 0)
	out = append(out, make([]byte, 32)...)
	e.salt(out[start+1 : start+33])
	doc := len(out)

	out = append(out, '{')
	if arguments != nil {
		out = appendDigest(out, `"arguments":`, arguments)
		out = append(out, ',')
	}
	out = append(out, `"attributes":{`...)
	for i, attr := range e.attrs {
		if i > 0 {
			if attr.name == e.attrs[i-1].name {
				return fail("attribute %.80q twice: it is also the digest of content", attr.name)
			}
			out = append(out, ',')
		}
		if !isAttributeName(attr.name) {
			return fail("attribute name %.80q is not words in lower case with dots between", attr.name)
		}
		out = append(out, '"')
		out = append(out, attr.name...)
		out = append(out, '"', ':')
		if out, err = appendValue(out, attr.value); err != nil {
			return fail("attribute %s: %w", attr.name, err)
		}
		switch attr.name {
		case record.AttrOperationName:
			if operation, _ = attr.value.(string); !isWord(operation) {
				return fail("attribute %s: %.80q is not a word", attr.name, operation)
			}
		case record.AttrConversationID:
			if id, _ := attr.value.(string); id != session.String() {
				return fail("attribute %s: %.80q is not the session %s", attr.name, id, session)
			}
		}
	}
	if operation == "" {
		return fail("no attribute %s", record.AttrOperationName)
	}
	if index > maxInteger {
		return fail("index %d", index)
	}
	out = append(out, `},"index":`...)
	out = strconv.AppendUint(out, index, 10)
	switch outcome = a.Outcome; outcome {
	case "":
		outcome = record.OutcomeExecuted
	case record.OutcomeExecuted, record.OutcomeBlocked, record.OutcomeDenied, record.OutcomeErrored, record.OutcomeTimedOut:
	default:
		return fail("outcome %.80q", outcome)
	}
	out = append(out, `,"outcome":"`...)
	out = append(out, outcome...)
	out = append(out, '"')
	if a.Policy != nil {
		out = appendDigest(out, `,"policy":`, a.Policy)
	}
	if result != nil {
		out = appendDigest(out, `,"result":`, result)
	}
	out = append(out, `,"session":"`...)
	out = hex.AppendEncode(out, session[:])
	t := a.Time
	if t.IsZero() {
		t = now
	}
	t = t.UTC()
	if t.Unix() < 0 || t.Year() > 9999 {
		return fail("time %v is not in the years 1970 to 9999", t)
	}
	out = append(out, `","time":"`...)
	out = e.appendTime(out, t)
	span, trace := a.SpanID, a.TraceID
	for span == [8]byte{} {
		e.salt(span[:])
	}
	if trace == [16]byte{} {
		trace = session // random, too
	}
	for trace == [16]byte{} { // a model server's own choice
		e.salt(trace[:])
	}
	out = append(out, `","trace":{"spanId":"`...)
	out = hex.AppendEncode(out, span[:])
	out = append(out, `","traceId":"`...)
	out = hex.AppendEncode(out, trace[:])
	out = append(out, `"}}`...)
	if n := len(out) - doc; n > record.MaxAction {
		return fail("document of %d bytes, more than %d", n, record.MaxAction)
	}
	putUint32(out[size:], uint32(len(out)-start))
	leaf = sha256.Sum256(out[start:])

	out = append(out, byte(len(e.contents)))
	for _, c := range e.contents {
		if len(c.Name) > maxAttributeName || !isAttributeName(c.Name) {
			return fail("name of content %.80q", c.Name)
		}
		out = append(out, byte(len(c.Name)))
		out = append(out, c.Name...)
		out = append(out, c.Salt[:]...)
		if c.Bytes == nil {
			out = append(out, 0)
			continue
		}
		if len(c.Bytes) > maxContent {
			return fail("%s of %d bytes, more than the %d that can be kept", c.Name, len(c.Bytes), maxContent)
		}
		out = append(out, 1)
		out = appendUint32(out, uint32(len(c.Bytes)))
		out = append(out, c.Bytes...)
	}
	return out, leaf, operation, outcome, nil
}

func appendDigest(out []byte, name string, d *record.Digest) []byte {
	out = append(out, name...)
	out = append(out, `{"sha256":"`...)
	out = hex.AppendEncode(out, d[:])
	return append(out, `"}`...)
}

// appendValue appends the value of an attribute in JSON.
func appendValue(out []byte, v any) ([]byte, error) {
	switch x := v.(type) {
	case string:
		return appendString(out, x)
	case int:
		return appendInt(out, int64(x))
	case int64:
		return appendInt(out, x)
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return out, fmt.Errorf("the number %v", x)
		}
		return appendString(out, strconv.FormatFloat(x, 'g', -1, 64))
	case bool:
		return strconv.AppendBool(out, x), nil
	case []string:
		if len(x) == 0 || len(x) > maxAttributeList {
			return out, fmt.Errorf("%d values, want 1 to %d", len(x), maxAttributeList)
		}
		sep := byte('[')
		for _, s := range x {
			out = append(out, sep)
			var err error
			if out, err = appendString(out, s); err != nil {
				return out, err
			}
			sep = ','
		}
		return append(out, ']'), nil
	}
	return out, fmt.Errorf("value of type %T", v)
}

func appendInt(out []byte, n int64) ([]byte, error) {
	if n > maxInteger || n < -maxInteger {
		return out, fmt.Errorf("%d is beyond 2^53", n)
	}
	return strconv.AppendInt(out, n, 10), nil
}

func appendString(out []byte, s string) ([]byte, error) {
	if s == "" || len(s) > maxAttributeValue {
		return out, fmt.Errorf("string of %d bytes, want 1 to %d", len(s), maxAttributeValue)
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			if !utf8.ValidString(s) {
				return out, errors.New("not UTF-8")
			}
			return jsontext.AppendQuote(out, s)
		}
	}
	out = append(out, '"')
	out = append(out, s...)
	return append(out, '"'), nil
}

// appendContent appends what the digest of an attribute's value covers: a string's bytes, and the JSON of other values.
func appendContent(out []byte, v any) (_ []byte, err error) {
	switch x := v.(type) {
	case string:
		return append(out, x...), nil
	case []string:
		// Content has no bounds, and may be anything.
		out = append(out, '[')
		for i, s := range x {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = jsontext.AppendQuote(out, strings.ToValidUTF8(s, "\uFFFD")); err != nil {
				return out, err
			}
		}
		return append(out, ']'), nil
	case []byte:
		return append(out, x...), nil
	case float64:
		quoted, err := appendValue(nil, x)
		return append(out, bytes.Trim(quoted, `"`)...), err
	}
	return appendValue(out, v)
}

// isAttributeName reports whether s is words of a-z, 0-9 and _ with dots between.
func isAttributeName(s string) bool {
	if len(s) == 0 || len(s) > maxAttributeName {
		return false
	}
	dot := true
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			dot = false
		case c == '.' && !dot:
			dot = true
		default:
			return false
		}
	}
	return !dot
}

// isWord reports whether s is a word of FORMAT.md, section 2.2.
func isWord(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return true
}
