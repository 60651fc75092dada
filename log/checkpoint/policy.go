package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxPolicy is the size in bytes of the largest policy that [ParsePolicy]
// accepts. An ML-DSA-44 vkey takes 1.8 kB, so that hundreds fit.
const MaxPolicy = 1 << 20

// maxNesting limits how deep groups nest, for the sake of recursive functions.
const maxNesting = 64

// A Policy says which checkpoints are good: those that any one of its logs
// signed, and that a quorum of its witnesses cosigned (c2sp.org/tlog-policy).
type Policy struct {
	logs      []Log
	witnesses []Witness
	groups    []*group // in the order of the file
	quorum    *node    // nil for "quorum none"

	// keys holds what each known name and key ID stands for, so that a note's
	// signatures are looked up and verified once.
	keys map[keyRef]*knownKey
}

// A Log is a log line of a policy.
type Log struct {
	Key *VerifierKey // its name is the log's origin; Ed25519 or CosignatureMLDSA44
	URL string       // may be empty
}

// A Witness is a witness line of a policy. An operator with two keys has two.
type Witness struct {
	Name string       // the policy's name for it, opaque octets
	Key  *VerifierKey // CosignatureEd25519 or CosignatureMLDSA44
	URL  string       // submission prefix, may be empty
}

// AppraiserSuffix is what the names of appraisers' keys end with. An appraiser is a witness that cosigns a tree only once
// it has verified every entry in it, which is after it was published. So it has no place in a quorum: its line says who
// it is.
const AppraiserSuffix = "/appraiser"

// Appraiser reports whether w is an appraiser.
func (w Witness) Appraiser() bool { return strings.HasSuffix(w.Key.Name(), AppraiserSuffix) }

// A node is a witness or a group.
type node struct {
	name    string
	witness int    // index into Policy.witnesses, if group is nil
	group   *group // nil for a witness
	parent  *group // the one group it is a member of, or nil
	depth   int    // 0 for a witness
}

type group struct {
	name      string
	threshold int // 1 <= threshold <= len(members)
	members   []*node
}

type keyRef struct {
	name string
	id   uint32
}

type knownKey struct {
	key     *VerifierKey
	log     bool
	witness int // index into Policy.witnesses, or -1
}

// ParsePolicy parses a policy file. It is strict: anything that the
// specification doesn't allow is an error, which wraps [ErrMalformed] and
// names the line.
//
//   - Every line ends with a newline, also the last, so that a file cut short
//     isn't taken for a weaker policy.
//   - A log's key is of kind [Ed25519] or [CosignatureMLDSA44]; a witness's of
//     kind [CosignatureEd25519] or [CosignatureMLDSA44]. Ed25519 keys of type
//     01 are refused for witnesses, rather than silently taken for type 04.
//   - Thresholds are decimal without leading zeros, or all, or any.
//
// People write policies, so blanks and comments are free; [Policy.String]
// prints the one form without them.
func ParsePolicy(b []byte) (*Policy, error) {
	if len(b) > MaxPolicy {
		return nil, fmt.Errorf("%w policy: %d bytes, more than %d", ErrMalformed, len(b), MaxPolicy)
	}
	for i, c := range b {
		// "the allowed octet values are 0x09 (tab), 0x0A (newline), 0x20-0x7E,
		// and 0x80-0xFF" (tlog-policy, "Character set").
		if c != '\t' && c != '\n' && (c < 0x20 || c == 0x7f) {
			return nil, fmt.Errorf("%w policy: line %d: octet %#02x", ErrMalformed, 1+bytes.Count(b[:i], []byte("\n")), c)
		}
	}
	p := &parser{
		policy: &Policy{keys: make(map[keyRef]*knownKey)},
		nodes:  make(map[string]*node),
		logs:   make(map[string]bool),
		witns:  make(map[string]bool),
	}
	for n := 1; len(b) > 0; n++ {
		line, rest, ok := bytes.Cut(b, []byte("\n"))
		if !ok {
			return nil, fmt.Errorf("%w policy: line %d has no newline at its end", ErrMalformed, n)
		}
		b = rest
		// "whitespace", which in this specification means sequences of ASCII
		// space and tab characters *only*".
		fields := strings.FieldsFunc(string(line), isBlank)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if err := p.line(fields); err != nil {
			if bytes.Contains(line, []byte(privatePrefix)) {
				err = errors.New("a private key") // which must not be quoted in a log
			}
			return nil, fmt.Errorf("%w policy: line %d: %v", ErrMalformed, n, err)
		}
	}
	if !p.hasQuorum {
		return nil, fmt.Errorf("%w policy: no quorum line", ErrMalformed)
	}
	return p.policy, nil
}

// isBlank is called with runes, but octets with the high bit set are opaque: as
// parts of runes or as invalid ones they are never blanks.
func isBlank(r rune) bool { return r == ' ' || r == '\t' }

// parser is the state of ParsePolicy.
type parser struct {
	policy    *Policy
	nodes     map[string]*node // "Witnesses and groups share a single namespace"
	logs      map[string]bool  // public keys of log lines
	witns     map[string]bool  // public keys of witness lines
	hasQuorum bool
}

func (p *parser) line(f []string) error {
	switch f[0] {
	case "log":
		return p.log(f)
	case "witness":
		return p.witness(f)
	case "group":
		return p.group(f)
	case "quorum":
		return p.quorum(f)
	}
	return fmt.Errorf("unknown keyword %.100q", f[0])
}

func (p *parser) log(f []string) error {
	if len(f) != 2 && len(f) != 3 {
		return errors.New("want: log <vkey> [<url>]")
	}
	key, err := ParseVKey(f[1])
	if err != nil {
		return err
	}
	if key.kind != Ed25519 && key.kind != CosignatureMLDSA44 {
		return fmt.Errorf("log %q: key is of type %02x (%v), want 01 or 06", key.name, byte(key.kind), key.kind)
	}
	// "Two vkeys are considered *duplicate* if they wrap the same underlying
	// public key, even if they differ by key name and key id."
	if p.logs[string(key.pub)] {
		return fmt.Errorf("log %q: its public key is that of another log line", key.name)
	}
	p.logs[string(key.pub)] = true
	known, err := p.known(key)
	if err != nil {
		return err
	}
	known.log = true
	l := Log{Key: known.key}
	if len(f) == 3 {
		l.URL = f[2]
	}
	p.policy.logs = append(p.policy.logs, l)
	return nil
}

func (p *parser) witness(f []string) error {
	if len(f) != 3 && len(f) != 4 {
		return errors.New("want: witness <name> <vkey> [<url>]")
	}
	if err := p.define(f[1]); err != nil {
		return err
	}
	key, err := ParseVKey(f[2])
	if err != nil {
		return err
	}
	if key.kind != CosignatureEd25519 && key.kind != CosignatureMLDSA44 {
		return fmt.Errorf("witness %q: key is of type %02x (%v), want 04 or 06", f[1], byte(key.kind), key.kind)
	}
	if p.witns[string(key.pub)] {
		return fmt.Errorf("witness %q: its public key is that of another witness line", f[1])
	}
	p.witns[string(key.pub)] = true
	known, err := p.known(key)
	if err != nil {
		return err
	}
	known.witness = len(p.policy.witnesses)
	w := Witness{Name: f[1], Key: known.key}
	if len(f) == 4 {
		w.URL = f[3]
	}
	p.nodes[f[1]] = &node{name: f[1], witness: len(p.policy.witnesses)}
	p.policy.witnesses = append(p.policy.witnesses, w)
	return nil
}

func (p *parser) group(f []string) error {
	if len(f) < 4 {
		return errors.New("want: group <name> all|any|<k> and members")
	}
	if err := p.define(f[1]); err != nil {
		return err
	}
	n := len(f) - 3
	g := &group{name: f[1]}
	switch f[2] {
	case "all":
		g.threshold = n
	case "any":
		g.threshold = 1
	default:
		k, err := parseDecimal(f[2], uint64(n))
		if err != nil || k < 1 {
			return fmt.Errorf("group %q: threshold %.100q, want all, any, or a number from 1 to its %d members", f[1], f[2], n)
		}
		g.threshold = int(k)
	}
	self := &node{name: f[1], group: g}
	for _, name := range f[3:] {
		m, ok := p.nodes[name]
		switch {
		case name == "none":
			return fmt.Errorf("group %q: none can't be a member", f[1])
		case !ok:
			return fmt.Errorf("group %q: member %q isn't defined on a preceding line", f[1], name)
		case m.parent != nil:
			// "Each defined name can be listed as a group member at most once."
			return fmt.Errorf("group %q: %q is already a member of group %q", f[1], name, m.parent.name)
		}
		m.parent = g
		g.members = append(g.members, m)
		self.depth = max(self.depth, m.depth+1)
	}
	if self.depth > maxNesting {
		return fmt.Errorf("group %q: groups nest deeper than %d", f[1], maxNesting)
	}
	p.nodes[f[1]] = self
	p.policy.groups = append(p.policy.groups, g)
	return nil
}

func (p *parser) quorum(f []string) error {
	if len(f) != 2 {
		return errors.New("want: quorum <name>|none")
	}
	if p.hasQuorum {
		return errors.New("a second quorum line")
	}
	p.hasQuorum = true
	if f[1] == "none" {
		return nil
	}
	n, ok := p.nodes[f[1]]
	if !ok {
		return fmt.Errorf("quorum %q isn't defined on a preceding line", f[1])
	}
	p.policy.quorum = n
	return nil
}

// define checks that a witness or group can be called name.
func (p *parser) define(name string) error {
	if name == "none" {
		return errors.New(`the name "none" is reserved`)
	}
	if _, ok := p.nodes[name]; ok {
		return fmt.Errorf("the name %q is already defined", name)
	}
	return nil
}

// known returns the entry of key, made if need be.
func (p *parser) known(key *VerifierKey) (*knownKey, error) {
	ref := keyRef{key.name, key.id}
	k, ok := p.policy.keys[ref]
	if !ok {
		k = &knownKey{key: key, witness: -1}
		p.policy.keys[ref] = k
	} else if !bytes.Equal(k.key.pub, key.pub) {
		// A 32-bit key ID is easy to collide with. No note could be signed by
		// both keys, and it would be up to chance which one is verified.
		return nil, fmt.Errorf("another key is also called %s+%08x", key.name, key.id)
	}
	return k, nil
}

// String returns the policy without comments, in the order logs, witnesses,
// groups, quorum, as [ParsePolicy] parses it.
func (p *Policy) String() string {
	var b strings.Builder
	line := func(fields ...string) {
		b.WriteString(strings.TrimRight(strings.Join(fields, " "), " "))
		b.WriteByte('\n')
	}
	for _, l := range p.logs {
		line("log", l.Key.String(), l.URL)
	}
	for _, w := range p.witnesses {
		line("witness", w.Name, w.Key.String(), w.URL)
	}
	for _, g := range p.groups {
		k := strconv.Itoa(g.threshold)
		switch g.threshold {
		case len(g.members):
			k = "all"
		case 1:
			k = "any"
		}
		fields := []string{"group", g.name, k}
		for _, m := range g.members {
			fields = append(fields, m.name)
		}
		line(fields...)
	}
	line("quorum", p.Quorum())
	return b.String()
}

// Logs returns the log lines, in order. A log with two keys has two.
func (p *Policy) Logs() []Log { return slices.Clone(p.logs) }

// Witnesses returns the witness lines, in order.
func (p *Policy) Witnesses() []Witness { return slices.Clone(p.witnesses) }

// Quorum returns the name on the quorum line, "none" if no cosignature is
// needed.
func (p *Policy) Quorum() string {
	if p.quorum == nil {
		return "none"
	}
	return p.quorum.name
}

// Counts reports whether the witness line with the given name counts towards
// the quorum: whether it is the quorum, or a member of it at any depth.
func (p *Policy) Counts(name string) bool {
	var in func(n *node) bool
	in = func(n *node) bool {
		if n.group == nil {
			return n.name == name
		}
		return slices.ContainsFunc(n.group.members, in)
	}
	return p.quorum != nil && in(p.quorum)
}

// IsQuorumNone reports whether the policy asks for no cosignatures.
func (p *Policy) IsQuorumNone() bool { return p.quorum == nil }

// A Checked is a checkpoint whose signatures were verified under a policy.
type Checked struct {
	Checkpoint
	Text []byte // the signed text
	Log  string // the log's name, equal to Origin

	// LogKeys are the log's keys that signed, at least one, in the order of the
	// note.
	LogKeys []*VerifierKey

	// Cosignatures are the verified ones of the policy's witnesses, in the
	// order of the note. A witness that cosigned twice is there twice.
	Cosignatures []Cosignature
}

// A Cosignature is a verified cosignature of a policy's witness.
type Cosignature struct {
	Witness   string       // the policy's name for the witness
	Key       *VerifierKey // the key that made it
	Timestamp uint64       // POSIX seconds, 0 if the witness stated no time
	Time      time.Time    // the same, UTC; the zero Time for 0

	index int // into Policy.witnesses
}

// maxTime is the end of year 9999, the last second that RFC 3339 can express.
const maxTime = 253402300799

// posixTime converts a timestamp. Timestamps may be as large as 2^63-1, for
// which time.Unix overflows; those beyond year 9999 become its end, which keeps
// the order and is as absurd.
func posixTime(timestamp uint64) time.Time {
	if timestamp == 0 {
		return time.Time{}
	}
	return time.Unix(int64(min(timestamp, maxTime)), 0).UTC()
}

// A QuorumError says that a checkpoint lacks cosignatures.
type QuorumError struct {
	Quorum   string   // the name on the policy's quorum line
	Cosigned []string // the policy's names of witnesses that cosigned, sorted
	Missing  []string // those of witnesses that count and didn't, sorted
}

func (e *QuorumError) Error() string {
	have := "none"
	if len(e.Cosigned) > 0 {
		have = strings.Join(e.Cosigned, ", ")
	}
	return fmt.Sprintf("quorum %q isn't met: cosigned by %s; not by %s", e.Quorum, have, strings.Join(e.Missing, ", "))
}

// Check verifies a signed checkpoint: that one of the policy's logs with the
// checkpoint's origin as its name signed it, and that the quorum of witnesses
// cosigned it.
//
// Signatures by keys that the policy doesn't list are ignored. Each one that
// names a listed key is verified, also if it is the second by that key, and
// must be valid: "If a signature from a known key fails to verify, clients
// SHOULD reject the whole note" (c2sp.org/signed-note). A cosignature without a
// time (timestamp 0) counts towards the quorum, since it makes the same
// statement about consistency; it doesn't count in [Policy.NotBefore] and
// [Policy.NotAfter].
//
// The error wraps [ErrMalformed], [ErrUnknownLog] or [ErrBadSignature], or is a
// *[QuorumError].
func (p *Policy) Check(note []byte) (*Checked, error) {
	c, err := p.CheckLog(note)
	if err != nil {
		return nil, err
	}
	if !p.Satisfied(c) {
		return nil, p.quorumError(c)
	}
	return c, nil
}

// CheckLog is [Policy.Check] without the quorum: for logs, monitors and others
// who collect cosignatures. [Policy.Satisfied] tells whether there are enough.
func (p *Policy) CheckLog(note []byte) (*Checked, error) {
	n, err := ParseNote(note)
	if err != nil {
		return nil, err
	}
	cp, err := ParseCheckpoint(n.Text)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(p.logs, func(l Log) bool { return l.Key.name == cp.Origin }) {
		return nil, fmt.Errorf("%w %.300q", ErrUnknownLog, cp.Origin)
	}
	c := &Checked{Checkpoint: cp, Text: n.Text, Log: cp.Origin}
	for _, sig := range n.Signatures {
		known, ok := p.keys[keyRef{sig.Name, sig.KeyID}]
		if !ok {
			continue
		}
		timestamp, err := known.key.verify(n.Text, &cp, sig)
		if err != nil {
			return nil, err
		}
		if known.log && known.key.name == cp.Origin && !slices.Contains(c.LogKeys, known.key) {
			c.LogKeys = append(c.LogKeys, known.key)
		}
		if known.witness >= 0 {
			c.Cosignatures = append(c.Cosignatures, Cosignature{
				Witness:   p.witnesses[known.witness].Name,
				Key:       known.key,
				Timestamp: timestamp,
				Time:      posixTime(timestamp),
				index:     known.witness,
			})
		}
	}
	if len(c.LogKeys) == 0 {
		return nil, fmt.Errorf("%w: not signed by a key of log %.300q", ErrBadSignature, cp.Origin)
	}
	return c, nil
}

// Satisfied reports whether the cosignatures of c, which p made, satisfy the
// quorum.
func (p *Policy) Satisfied(c *Checked) bool {
	if p.quorum == nil {
		return true
	}
	have := make([]bool, len(p.witnesses))
	for _, s := range c.Cosignatures {
		have[s.index] = true
	}
	return p.quorum.satisfied(have)
}

// satisfied reports whether the witnesses with have[index] satisfy n.
func (n *node) satisfied(have []bool) bool {
	if n.group == nil {
		return have[n.witness]
	}
	count := 0
	for _, m := range n.group.members {
		if m.satisfied(have) {
			count++
		}
	}
	return count >= n.group.threshold
}

func (p *Policy) quorumError(c *Checked) *QuorumError {
	e := &QuorumError{Quorum: p.Quorum()}
	cosigned := make(map[int]bool)
	for _, s := range c.Cosignatures {
		cosigned[s.index] = true
	}
	var walk func(n *node)
	walk = func(n *node) {
		switch {
		case n.group != nil:
			for _, m := range n.group.members {
				walk(m)
			}
		case cosigned[n.witness]:
			e.Cosigned = append(e.Cosigned, n.name)
		default:
			e.Missing = append(e.Missing, n.name)
		}
	}
	walk(p.quorum)
	slices.Sort(e.Cosigned)
	slices.Sort(e.Missing)
	return e
}

// NotBefore returns the time before which the note that c came from can't have
// existed: the largest T such that the witnesses whose cosignatures have a
// nonzero time >= T satisfy the quorum. It reports false if no T does, and
// always under "quorum none".
//
// It holds if every set of witnesses that satisfies the quorum has an honest
// one, with a right clock; see [Policy.Resilience]. It is about the note with
// these cosignatures, of which somebody knew the hash; the tree is older.
//
// A witness line that cosigned several times counts with its latest time, since
// each of its cosignatures is part of the note. An operator's two keys are two
// lines: policies should put them into a group of their own.
func (p *Policy) NotBefore(c *Checked) (time.Time, bool) {
	times := make([]uint64, len(p.witnesses))
	for _, s := range c.Cosignatures {
		times[s.index] = max(times[s.index], s.Timestamp)
	}
	return p.bound(times, func(a, b uint64) int {
		// Latest first; zero, no time, is never >= T.
		switch {
		case a > b:
			return -1
		case a < b:
			return 1
		}
		return 0
	})
}

// NotAfter returns the time after which the tree with c's root can't have been
// made: the smallest T such that the witnesses whose cosignatures have a
// nonzero time <= T satisfy the quorum. It reports false if no T does, and
// always under "quorum none".
//
// It holds under the same assumption as [Policy.NotBefore]. A witness line that
// cosigned several times counts with its earliest time: it had seen the tree by
// then.
func (p *Policy) NotAfter(c *Checked) (time.Time, bool) {
	times := make([]uint64, len(p.witnesses))
	for _, s := range c.Cosignatures {
		if t := times[s.index]; s.Timestamp != 0 && (t == 0 || s.Timestamp < t) {
			times[s.index] = s.Timestamp
		}
	}
	return p.bound(times, func(a, b uint64) int {
		// Earliest first; zero, no time, is never <= T, hence after all others.
		switch {
		case a-1 < b-1: // 0-1 is the largest number
			return -1
		case a-1 > b-1:
			return 1
		}
		return 0
	})
}

// bound returns the first time, in the order of cmp, at which the quorum is
// satisfied. A group of threshold k is satisfied when its k-th member is.
func (p *Policy) bound(times []uint64, cmp func(a, b uint64) int) (time.Time, bool) {
	if p.quorum == nil {
		return time.Time{}, false
	}
	var at func(n *node) uint64
	at = func(n *node) uint64 {
		if n.group == nil {
			return times[n.witness]
		}
		ts := make([]uint64, len(n.group.members))
		for i, m := range n.group.members {
			ts[i] = at(m)
		}
		slices.SortFunc(ts, cmp)
		return ts[n.group.threshold-1]
	}
	t := at(p.quorum)
	return posixTime(t), t != 0
}
