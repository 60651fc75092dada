package record

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Strings have few alphabets, and none needs an escape sequence in JSON
// (FORMAT.md, "Strings").

// maxName is the size in bytes of the longest name, and the most that a TLS
// vector with a one-byte length can hold.
const maxName = 255

// nameChars and the others below tell which bytes a string may contain.
var (
	nameChars   = alphabet(" !#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~")
	uriChars    = alphabet("!#$%&'()*+,-./0123456789:;=?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~")
	schemeChars = alphabet("+-.0123456789abcdefghijklmnopqrstuvwxyz") // RFC 3986, Section 3.1, in lower case
	labelChars  = alphabet("-0123456789abcdefghijklmnopqrstuvwxyz")
	wordChars   = alphabet("_0123456789abcdefghijklmnopqrstuvwxyz")
	tokenChars  = alphabet("-._0123456789abcdefghijklmnopqrstuvwxyz")
	mediaChars  = alphabet("!#$&-^_.+0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") // RFC 6838, Section 4.2
	pathChars   = alphabet("-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")      // RFC 3986, unreserved
)

func alphabet(s string) *[256]bool {
	var a [256]bool
	for i := range len(s) {
		a[s[i]] = true
	}
	return &a
}

// checkAlphabet reports an empty string, one longer than max bytes, and any
// byte that isn't in a.
func checkAlphabet(what, s string, max int, a *[256]bool) error {
	if s == "" {
		return fmt.Errorf("empty %s", what)
	}
	if len(s) > max {
		return fmt.Errorf("%s %.40q… has %d bytes, more than %d", what, s, len(s), max)
	}
	for i := range len(s) {
		if !a[s[i]] {
			return fmt.Errorf("%s %.80q contains %q", what, s, s[i:i+1])
		}
	}
	return nil
}

// checkName checks the name of an image, model, provider or the like:
// printable ASCII but quotes and backslashes, no space at the ends.
func checkName(s string) error {
	if err := checkAlphabet("name", s, maxName, nameChars); err != nil {
		return err
	}
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return fmt.Errorf("name %q begins or ends with a space", s)
	}
	return nil
}

// checkToken checks a word of an open vocabulary.
func checkToken(s string) error { return checkAlphabet("word", s, 64, tokenChars) }

func checkMediaType(s string) error {
	if err := checkAlphabet("media type", strings.Replace(s, "/", "", 1), 127, mediaChars); err != nil {
		return err
	}
	if i := strings.IndexByte(s, '/'); i <= 0 || i == len(s)-1 {
		return fmt.Errorf("media type %q is not a type and a subtype", s)
	}
	return nil
}

func checkURI(s string) error {
	if err := checkAlphabet("URI", s, 512, uriChars); err != nil {
		return err
	}
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok || rest == "" || scheme == "" || scheme[0] < 'a' || scheme[0] > 'z' ||
		checkAlphabet("scheme", scheme, maxName, schemeChars) != nil {
		return fmt.Errorf("URI %q does not begin with a scheme in lower case", s)
	}
	return nil
}

// checkText checks a sentence for people: Unicode without quotation marks,
// backslashes, control and format characters.
func checkText(s string) error {
	const max = 512
	if s == "" {
		return fmt.Errorf("empty text")
	}
	if len(s) > max {
		return fmt.Errorf("text of %d bytes, more than %d", len(s), max)
	}
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"),
			r < 0x20, r == '"', r == '\\', 0x7f <= r && r <= 0x9f,
			r == 0xad, r == 0x61c, 0x180b <= r && r <= 0x180f,
			0x200b <= r && r <= 0x200f, 0x2028 <= r && r <= 0x202e, 0x2060 <= r && r <= 0x206f,
			0xe000 <= r && r <= 0xf8ff, 0xfe00 <= r && r <= 0xfe0f,
			r == 0xfeff, 0xfff0 <= r && r <= 0xfffb, r&0xfffe == 0xfffe, 0xfdd0 <= r && r <= 0xfdef,
			r >= 0xe0000:
			return fmt.Errorf("text contains the character %U", r)
		}
	}
	return nil
}

// CheckVendorID reports whether id is a vendor's identifier: "https://", a host
// in lower case, and optionally a path; at most 255 bytes; no port, user, query, fragment,
// percent-encoding, dot segment or slash at the end, so that two identifiers
// that look alike in a URI library are the same string. Nothing is fetched from it.
func CheckVendorID(id string) error {
	rest, ok := strings.CutPrefix(id, "https://")
	if !ok {
		return fmt.Errorf("%w: vendor id %.80q does not begin with https://", ErrMalformed, id)
	}
	if len(id) > maxName {
		return fmt.Errorf("%w: vendor id %.40q… has %d bytes, more than %d", ErrMalformed, id, len(id), maxName)
	}
	host, path, hasPath := strings.Cut(rest, "/")
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' ||
			checkAlphabet("label", label, 63, labelChars) != nil {
			return fmt.Errorf("%w: vendor id %q has no host name in lower case", ErrMalformed, id)
		}
	}
	if !hasPath {
		return nil
	}
	for p := range strings.SplitSeq(path, "/") {
		if err := checkAlphabet("path segment", p, maxName, pathChars); err != nil || p == "." || p == ".." {
			return fmt.Errorf("%w: vendor id %q has a path that is not plain segments", ErrMalformed, id)
		}
	}
	return nil
}

// CheckOrigin reports whether origin can be a log's: 1 to 255 bytes of
// printable ASCII without space, quotation mark, backslash and "+"
// (c2sp.org/signed-note forbids spaces and "+" in key names).
func CheckOrigin(origin string) error {
	for i := range len(origin) {
		if c := origin[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '+' {
			return fmt.Errorf("%w: origin %.80q contains %q", ErrMalformed, origin, origin[i:i+1])
		}
	}
	if origin == "" || len(origin) > maxName {
		return fmt.Errorf("%w: origin of %d bytes, want 1 to %d", ErrMalformed, len(origin), maxName)
	}
	return nil
}

// ParseSessionID parses 32 lowercase hexadecimal digits.
func ParseSessionID(s string) (SessionID, error) {
	var id SessionID
	if !decodeHex(id[:], s) {
		return SessionID{}, fmt.Errorf("%w: session id %.80q is not 32 lowercase hexadecimal digits", ErrMalformed, s)
	}
	return id, nil
}

// checkMonth checks a month such as "2026-11".
func checkMonth(s string) error {
	if _, err := parseTime(s + "-01T00:00:00Z"); err != nil || len(s) != len("2026-11") {
		return fmt.Errorf("%.40q is not a month like 2026-11", s)
	}
	return nil
}
