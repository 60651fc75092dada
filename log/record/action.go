package record

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// MaxAction is the size in bytes of the largest action document.
const MaxAction = 64 << 10

// MaxDisclosure is the size in bytes of the largest disclosure in JSON: it has
// room for the document twice, in base64 and as it is.
const MaxDisclosure = 256 << 10

// An Action is an action document: what an agent did, for the session's owner.
// It is private; the log has only its salted hash.
type Action struct {
	Session SessionID
	Index   uint64 // of its leaf
	Time    time.Time
	TraceID [16]byte // W3C Trace Context; not zero
	SpanID  [8]byte
	Outcome string
	// Arguments, Result and Policy are digests of what the action was given, what came
	// of it, and the policy that was applied, each optional.
	Arguments, Result, Policy *Digest
	// Attributes have OpenTelemetry names, "gen_ai.operation.name" among them.
	// Values are string, int64, bool or []string.
	Attributes map[string]any
}

// Attribute names with rules of their own (OpenTelemetry semantic conventions
// for generative AI).
const (
	AttrOperationName  = "gen_ai.operation.name"
	AttrConversationID = "gen_ai.conversation.id"
)

const (
	maxAttributes     = 128
	maxAttributeValue = 8 << 10
	maxAttributeList  = 64
)

// actionFields are in alphabetical order, so that a document can be written by
// any JSON library that sorts members.
var actionFields = []field[Action]{
	optDigest("arguments", func(a *Action) **Digest { return &a.Arguments }),
	req("attributes", func(c *codec, a *Action) {
		mapping(c, &a.Attributes, maxAttributes, checkAttributeName, attribute)
	}),
	req("index", func(c *codec, a *Action) { c.integer(&a.Index, 0, maxInt) }),
	req("outcome", func(c *codec, a *Action) { c.enum(&a.Outcome, outcomes...) }),
	optDigest("policy", func(a *Action) **Digest { return &a.Policy }),
	optDigest("result", func(a *Action) **Digest { return &a.Result }),
	req("session", func(c *codec, a *Action) { sessionID(c, &a.Session) }),
	req("time", func(c *codec, a *Action) { c.time(&a.Time) }),
	req("trace", func(c *codec, a *Action) { object(c, traceFields, a) }),
}

var traceFields = []field[Action]{
	req("spanId", func(c *codec, a *Action) { c.hex(a.SpanID[:]) }),
	req("traceId", func(c *codec, a *Action) { c.hex(a.TraceID[:]) }),
}

// checkAttributeName checks for dot-separated words in lower case
// (OpenTelemetry, "Attribute naming").
func checkAttributeName(s string) error {
	if len(s) > maxName {
		return fmt.Errorf("attribute name of %d bytes, more than %d", len(s), maxName)
	}
	for word := range strings.SplitSeq(s, ".") {
		if checkAlphabet("word", word, maxName, wordChars) != nil {
			return fmt.Errorf("attribute name %.80q is not words in lower case with dots between", s)
		}
	}
	return nil
}

func checkAttributeValue(s string) error {
	if s == "" || len(s) > maxAttributeValue {
		return fmt.Errorf("attribute of %d bytes, want 1 to %d", len(s), maxAttributeValue)
	}
	return nil
}

func attributeString(c *codec, s *string) { c.checked(s, checkAttributeValue) }

// attribute reads or writes a string, an integer, a boolean or a list of strings.
func attribute(c *codec, v *any) {
	if c.writing {
		switch x := (*v).(type) {
		case string:
			c.putString(x)
		case int64:
			c.out = strconv.AppendInt(c.out, x, 10)
		case bool:
			c.bool(&x)
		case []string:
			list(c, &x, 1, maxAttributeList, attributeString)
		default:
			c.failf("attribute of type %T", x)
		}
		return
	}
	switch c.peek() {
	case '0':
		n, neg, ok := c.number()
		if !ok {
			return
		}
		if *v = int64(n); neg {
			*v = -int64(n)
		}
	case 't', 'f':
		var b bool
		c.bool(&b)
		*v = b
	case '[':
		var l []string
		list(c, &l, 1, maxAttributeList, attributeString)
		*v = l
	default:
		var s string
		attributeString(c, &s)
		*v = s
	}
}

func action(c *codec, a *Action) {
	object(c, actionFields, a)
	if !c.writing && c.err == nil {
		if err := a.check(); err != nil {
			c.failf("%v", err)
		}
	}
}

func (a *Action) check() error {
	if a.TraceID == [16]byte{} || a.SpanID == [8]byte{} {
		return errors.New("trace: an id of zeros is not valid (W3C Trace Context)")
	}
	name, ok := a.Attributes[AttrOperationName].(string)
	if !ok {
		return errors.New("attributes: missing string " + AttrOperationName)
	}
	if err := checkToken(name); err != nil {
		return fmt.Errorf("attributes.%s: %v", AttrOperationName, err)
	}
	if id, ok := a.Attributes[AttrConversationID]; ok && id != a.Session.String() {
		return fmt.Errorf("attributes.%s %.80q is not the session %s", AttrConversationID, id, a.Session)
	}
	return nil
}

// ParseAction parses an action document, at most MaxAction bytes.
func ParseAction(b []byte) (*Action, error) {
	if len(b) > MaxAction {
		return nil, fmt.Errorf("%w: %w: action of %d bytes, more than %d", ErrMalformed, ErrTooLarge, len(b), MaxAction)
	}
	a := new(Action)
	if err := readJSON(b, true, "", func(c *codec) { action(c, a) }); err != nil {
		return nil, err
	}
	return a, nil
}

// Marshal returns the action document in a deterministic form: members sorted,
// no spaces. The error wraps ErrMalformed if ParseAction would refuse the result.
func (a *Action) Marshal() ([]byte, error) {
	var err error
	b := writeJSON(func(c *codec) { action(c, a); err = c.err })
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if _, err := ParseAction(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ActionLeaf is the hash of an action's leaf, SHA-256(0x00 ‖ salt ‖ doc). The salt is
// random and keeps doc from being guessed from the hashes around a disclosed one.
func ActionLeaf(salt [32]byte, doc []byte) Digest {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(salt[:])
	h.Write(doc)
	return Digest(h.Sum(nil))
}

// nodeHash is the hash of an inner node (RFC 6962, Section 2.1).
func nodeHash(l, r Digest) Digest {
	var b [65]byte
	b[0] = 1
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

// split is the largest power of two below n, which is at least 2.
func split(n int) int {
	k := 1
	for k<<1 < n {
		k <<= 1
	}
	return k
}

// ActionRoot is the RFC 6962 root of a tree with these leaf hashes.
func ActionRoot(leaves []Digest) Digest {
	switch len(leaves) {
	case 0:
		return emptyRoot
	case 1:
		return leaves[0]
	}
	k := split(len(leaves))
	return nodeHash(ActionRoot(leaves[:k]), ActionRoot(leaves[k:]))
}

// ActionProof is the inclusion path of the leaf at index, from its sibling up
// to the root's child (RFC 6962, Section 2.1.1). It panics if there is no such
// leaf.
func ActionProof(leaves []Digest, index uint64) []Digest {
	if index >= uint64(len(leaves)) {
		panic(fmt.Sprintf("record: proof of action %d among %d", index, len(leaves)))
	}
	if len(leaves) == 1 {
		return nil
	}
	k := split(len(leaves))
	if index < uint64(k) {
		return append(ActionProof(leaves[:k], index), ActionRoot(leaves[k:]))
	}
	return append(ActionProof(leaves[k:], index-uint64(k)), ActionRoot(leaves[:k]))
}

// ServedSessionDocument is the document that stands for a session in a model
// run's tree sessionsServed, in whose place action documents stand in a session's tree.
func ServedSessionDocument(id SessionID, start Digest) []byte {
	return writeJSON(func(c *codec) { object(c, servedFields, &ServedSession{id, start}) })
}

// A Disclosure shows one action of a session's tree.
type Disclosure struct {
	Salt   [32]byte
	Bytes  []byte // the action document
	Index  uint64
	Tree   Tree     // Size is above Index
	Path   []Digest // from the leaf's sibling up
	Action *Action  // parsed from Bytes
}

// maxPath is the longest path in a tree of 2^53 leaves.
const maxPath = 53

var disclosureFields = []field[Disclosure]{
	req("bytes", func(c *codec, d *Disclosure) { c.base64(&d.Bytes, 1, MaxAction) }),
	req("inclusionPath", func(c *codec, d *Disclosure) {
		list(c, &d.Path, 0, maxPath, (*codec).base64Digest)
	}),
	req("index", func(c *codec, d *Disclosure) { c.integer(&d.Index, 0, maxInt) }),
	req("rootHash", func(c *codec, d *Disclosure) { c.base64Digest(&d.Tree.Root) }),
	req("salt", func(c *codec, d *Disclosure) { c.base64Digest((*Digest)(&d.Salt)) }),
	req("treeSize", func(c *codec, d *Disclosure) { c.integer(&d.Tree.Size, 1, maxInt) }),
}

// disclosureFile is a disclosure with a readable copy of its document beside it.
type disclosureFile struct {
	copy *Action
	raw  []byte // the copy, for writing
	d    *Disclosure
}

var disclosureFileFields = []field[disclosureFile]{
	opt("action", func(f *disclosureFile) bool { return f.raw != nil }, func(c *codec, f *disclosureFile) {
		if c.writing {
			c.out = append(c.out, f.raw...)
			return
		}
		f.copy = new(Action)
		action(c, f.copy)
	}),
	req("disclosure", func(c *codec, f *disclosureFile) { object(c, disclosureFields, f.d) }),
}

// ParseDisclosure parses a disclosure in JSON (FORMAT.md, "Disclosure"), at most
// MaxDisclosure bytes, and the action document in it. The readable copy, if there is one, must
// say the same as the document. It doesn't check the path: see Verify.
func ParseDisclosure(b []byte) (*Disclosure, error) {
	if len(b) > MaxDisclosure {
		return nil, fmt.Errorf("%w: %w: disclosure of %d bytes, more than %d", ErrMalformed, ErrTooLarge, len(b), MaxDisclosure)
	}
	d := new(Disclosure)
	f := disclosureFile{d: d}
	if err := readJSON(b, true, "", func(c *codec) { object(c, disclosureFileFields, &f) }); err != nil {
		return nil, err
	}
	var err error
	if d.Action, err = ParseAction(d.Bytes); err != nil {
		return nil, fmt.Errorf("disclosure.bytes: %w", err)
	}
	if f.copy != nil && !reflect.DeepEqual(f.copy, d.Action) {
		return nil, fmt.Errorf("%w: action says something else than disclosure.bytes", ErrMalformed)
	}
	if d.Action.Index != d.Index {
		return nil, fmt.Errorf("%w: disclosure.index %d, but the document's index is %d", ErrMalformed, d.Index, d.Action.Index)
	}
	if d.Index >= d.Tree.Size {
		return nil, fmt.Errorf("%w: disclosure.index %d is not below treeSize %d", ErrMalformed, d.Index, d.Tree.Size)
	}
	return d, nil
}

// JSON returns the disclosure in JSON, deterministically, with the readable
// copy.
func (d *Disclosure) JSON() []byte {
	doc := bytes.Clone(d.Bytes)
	v := jsontext.Value(doc)
	if err := v.Compact(); err != nil {
		v = nil // not from ParseDisclosure; nothing to copy
	}
	return writeJSON(func(c *codec) { object(c, disclosureFileFields, &disclosureFile{raw: v, d: d}) })
}

// Verify checks that the document is in the tree with this root and size, at the
// disclosure's index. Root and size come from a statement that the caller has
// verified, not from the disclosure, which must say the same.
func (d *Disclosure) Verify(root Digest, size uint64) error {
	if d.Tree.Root != root || d.Tree.Size != size {
		return fmt.Errorf("disclosure is for a tree of size %d with root %x, not of size %d with root %x", d.Tree.Size, d.Tree.Root, size, root)
	}
	path := make([][]byte, len(d.Path))
	for i := range d.Path {
		path[i] = d.Path[i][:]
	}
	leaf := ActionLeaf(d.Salt, d.Bytes)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, d.Index, size, leaf[:], path, root[:]); err != nil {
		return fmt.Errorf("action %d is not in the tree: %w", d.Index, err)
	}
	return nil
}

// VerifySession is Verify for the actions of s, and checks that the document is
// about s.
func (d *Disclosure) VerifySession(s *Session) error {
	if d.Action.Session != s.ID {
		return fmt.Errorf("action of session %s, not of %s", d.Action.Session, s.ID)
	}
	return d.Verify(s.Actions.Root, s.Actions.Size)
}
