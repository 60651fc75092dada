package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// world is a log with two keys and witnesses a to f, of which e and f are one
// operator's.
type world struct {
	log, logML *SigningKey
	w          map[string]*SigningKey
	head       string // the policy's log and witness lines
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		log:   testKey(t, Ed25519, "example.com/log", 1),
		logML: testKey(t, CosignatureMLDSA44, "example.com/log", 2),
		w:     make(map[string]*SigningKey),
	}
	w.head = fmt.Sprintf("log %s\nlog %s https://log.example.com/\n", w.log.VKey(), w.logML.VKey())
	for i, name := range []string{"a", "b", "c", "d", "e", "f"} {
		kind, key := CosignatureEd25519, "witness.example/"+name
		if name == "e" || name == "f" {
			key = "witness.example/ef"
		}
		if name == "f" {
			kind = CosignatureMLDSA44
		}
		w.w[name] = testKey(t, kind, key, byte(10+i))
		w.head += fmt.Sprintf("witness %s %s\n", name, w.w[name].VKey())
	}
	return w
}

func (w *world) checkpoint() Checkpoint {
	return Checkpoint{Origin: "example.com/log", Size: 7, Root: testTree(7).root()}
}

// note is signed by the log's Ed25519 key, and cosigned at the times given as
// in "a5 b7".
func (w *world) note(t testing.TB, cosigned string) []byte {
	t.Helper()
	text := w.checkpoint().Text()
	lines := [][]byte{mustSign(t, w.log, text, 0)}
	for _, s := range strings.Fields(cosigned) {
		var at int64
		fmt.Sscan(s[1:], &at)
		var line []byte
		if at == 0 {
			l, err := w.w[s[:1]].Sign(text, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			line = l
		} else {
			line = mustSign(t, w.w[s[:1]], text, at)
		}
		lines = append(lines, line)
	}
	return mustNote(t, text, lines...)
}

func TestParsePolicyRefuses(t *testing.T) {
	w := newWorld(t)
	good := w.head + "group x 2 a b c\ngroup y any d x\nquorum y\n"
	mustPolicy(t, good) // otherwise every row below passes for the wrong reason
	l, a, b := w.log.VKey(), w.w["a"].VKey(), w.w["b"].VKey()
	// The same public key under another name and type.
	sameKey := func(k *SigningKey, kind Kind, name string) string {
		v, err := NewVerifierKey(kind, name, k.vkey.pub)
		if err != nil {
			t.Fatal(err)
		}
		return v.String()
	}
	for _, tt := range []struct{ name, text string }{
		{"empty", ""},
		{"no quorum", w.head},
		{"comment only", "# quorum none\n"},
		{"a private key", "PRIVATE+KEY+w+00000000+AQID\nquorum none\n"},
		{"a private key for a vkey", "log PRIVATE+KEY+w+00000000+AQID\nquorum none\n"},
		{"no final newline", "quorum none"},
		{"two quorums", "quorum none\nquorum none\n"},
		{"quorum twice", good + "quorum y\n"},
		{"quorum without name", "quorum\n"},
		{"quorum with two names", w.head + "quorum a b\n"},
		{"comment after data", "quorum none # comment\n"},
		{"quorum unknown", "quorum a\n"},
		{"quorum before its definition", "quorum a\nwitness a " + a + "\n"},
		{"unknown keyword", good + "logs x\n"},
		{"upper-case keyword", "Quorum none\n"},
		{"log without key", "log\nquorum none\n"},
		{"log with two URLs", "log " + l + " u v\nquorum none\n"},
		{"log key malformed", "log " + l + "A\nquorum none\n"},
		{"log key of type 04", "log " + a + "\nquorum none\n"},
		{"log twice", "log " + l + "\nlog " + l + "\nquorum none\n"},
		{"log key twice, other name", "log " + l + "\nlog " + sameKey(w.log, Ed25519, "other") + "\nquorum none\n"},
		{"witness without key", "witness a\nquorum none\n"},
		{"witness key of type 01", "witness a " + l + "\nquorum none\n"},
		{"witness with two URLs", "witness a " + a + " u v\nquorum none\n"},
		{"witness key twice", "witness a " + a + "\nwitness b " + a + "\nquorum none\n"},
		{"witness key twice, other name", "witness a " + a + "\nwitness b " + sameKey(w.w["a"], CosignatureEd25519, "other") + "\nquorum none\n"},
		{"witness name twice", "witness a " + a + "\nwitness a " + b + "\nquorum none\n"},
		{"witness called none", "witness none " + a + "\nquorum none\n"},
		{"group called none", w.head + "group none any a\nquorum a\n"},
		{"group called as a witness", w.head + "group a any b\nquorum a\n"},
		{"group twice", w.head + "group x any a\ngroup x any b\nquorum x\n"},
		{"group of none", w.head + "group x any none\nquorum x\n"},
		{"group without members", w.head + "group x any\nquorum x\n"},
		{"group without threshold", w.head + "group x a b\nquorum x\n"},
		{"threshold 0", w.head + "group x 0 a b\nquorum x\n"},
		{"threshold above n", w.head + "group x 3 a b\nquorum x\n"},
		{"threshold 02", w.head + "group x 02 a b\nquorum x\n"},
		{"threshold +1", w.head + "group x +1 a b\nquorum x\n"},
		{"threshold -1", w.head + "group x -1 a b\nquorum x\n"},
		{"threshold huge", w.head + "group x 18446744073709551617 a b\nquorum x\n"},
		{"threshold ALL", w.head + "group x ALL a b\nquorum x\n"},
		{"member twice in a group", w.head + "group x 2 a a\nquorum x\n"},
		{"member of two groups", w.head + "group x any a\ngroup y any a b\nquorum y\n"},
		{"group in two groups", w.head + "group x any a\ngroup y any x\ngroup z any x b\nquorum z\n"},
		{"member of itself", w.head + "group x any a x\nquorum x\n"},
		{"member defined later", w.head + "group x any y\ngroup y any a\nquorum x\n"},
		{"carriage return", "quorum none\r\n"},
		{"NUL", "quorum none\n#\x00\n"},
		{"DEL", "quorum none\n#\x7f\n"},
		{"form feed", "quorum\fnone\n"},
		{"no-break space as separator", "quorum\u00a0none\n"},
		{"line separator", "quorum none\u2028quorum none\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if p, err := ParsePolicy([]byte(tt.text)); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, %v; want ErrMalformed", p, err)
			}
		})
	}
}

func TestParsePolicyAccepts(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct{ name, text, want string }{
		{"blanks and comments", "\n \t# comment\n\t" + "quorum \t none  \n#\n", "quorum none\n"},
		{"no logs", "quorum none\n", "quorum none\n"},
		{"logs after the quorum", "quorum none\nlog " + w.log.VKey() + "\n", "log " + w.log.VKey() + "\nquorum none\n"},
		{"a name with a hash", "witness #1 " + w.w["a"].VKey() + "\nquorum #1\n", "witness #1 " + w.w["a"].VKey() + "\nquorum #1\n"},
		{"opaque octets", "witness \xff\x80K\u212a " + w.w["a"].VKey() + " \xa0\nquorum \xff\x80K\u212a\n", "witness \xff\x80K\u212a " + w.w["a"].VKey() + " \xa0\nquorum \xff\x80K\u212a\n"},
		{"K and Kelvin differ", "witness K " + w.w["a"].VKey() + "\nwitness \u212a " + w.w["b"].VKey() + "\nquorum K\n", ""},
		{"names like keywords", w.head + "group all all a\ngroup any any all b\ngroup 1 1 any c\nquorum 1\n", w.head + "group all all a\ngroup any any all b\ngroup 1 any any c\nquorum 1\n"},
		{"numbers for all and any", w.head + "group x 3 a b c\ngroup y 1 x d\nquorum y\n", w.head + "group x all a b c\ngroup y any x d\nquorum y\n"},
		{"a quorum that is a member", w.head + "group x 2 a b c\ngroup y any x d\nquorum x\n", ""},
		{"one key as log and witness", "log " + w.logML.VKey() + "\nwitness a " + w.logML.VKey() + "\nquorum a\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParsePolicy([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				tt.want = tt.text
			}
			if p.String() != tt.want {
				t.Errorf("printed as %q, want %q", p, tt.want)
			}
		})
	}
	// "It is strongly recommended that an implementation supports at least up to
	// 32 logs, 32 witnesses, and 32 groups."
	var b strings.Builder
	for i := range 100 {
		name := fmt.Sprintf("n%d", i)
		fmt.Fprintf(&b, "log %s\n", testKey(t, Ed25519, name, byte(i)).VKey())
		fmt.Fprintf(&b, "witness w%d %s\n", i, testKey(t, CosignatureEd25519, name, byte(100+i)).VKey())
		fmt.Fprintf(&b, "group g%d all w%d\n", i, i)
	}
	b.WriteString("quorum g99\n")
	if p := mustPolicy(t, b.String()); len(p.Logs()) != 100 || len(p.Witnesses()) != 100 || len(p.groups) != 100 {
		t.Error("lost lines")
	}
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	p := mustPolicy(t, w.head+"group x 2 a b c\ngroup ef any e f\ngroup q all x ef\nquorum q\n")
	text := w.checkpoint().Text()
	good := w.note(t, "a5 b6 e7 f8")
	c, err := p.Check(good)
	if err != nil {
		t.Fatal(err)
	}
	if c.Log != "example.com/log" || c.Size != 7 || c.Root != w.checkpoint().Root || len(c.LogKeys) != 1 || string(c.Text) != string(text) {
		t.Errorf("%+v", c)
	}
	var got []string
	for _, s := range c.Cosignatures {
		got = append(got, fmt.Sprintf("%s%d", s.Witness, s.Timestamp))
		if s.Time.Unix() != int64(s.Timestamp) || s.Key.String() != w.w[s.Witness].VKey() {
			t.Errorf("cosignature %+v", s)
		}
	}
	if s := strings.Join(got, " "); s != "a5 b6 e7 f8" {
		t.Errorf("cosignatures %s", s)
	}

	stranger := testKey(t, CosignatureEd25519, "witness.example/a", 99) // a's name, another ID
	strangerLine := mustSign(t, stranger, text, 5)
	corrupt := func(line []byte) []byte {
		sigs, err := ParseSignatures(line)
		if err != nil {
			t.Fatal(err)
		}
		s := slices.Clone(sigs[0].Sig)
		s[len(s)-1] ^= 1
		return formatSignature(sigs[0].Name, sigs[0].KeyID, s)
	}
	forged := formatSignature("unknown.example", 5, []byte("not a signature"))
	other := Checkpoint{Origin: "example.com/other", Size: 7}
	ext := w.checkpoint()
	ext.Extensions = []string{"x"}
	edSigned := mustSign(t, w.log, ext.Text(), 0)
	for _, tt := range []struct {
		name string
		note []byte
		want error // nil for good
	}{
		{"unknown signatures", mustNote(t, text, strangerLine, forged, good[len(text)+1:]), nil},
		{"log's ML-DSA key only", mustNote(t, text, mustSign(t, w.logML, text, 9), mustSign(t, w.w["a"], text, 5), mustSign(t, w.w["c"], text, 5), mustSign(t, w.w["e"], text, 5)), nil},
		{"both log keys", append(slices.Clone(good), mustSign(t, w.logML, text, 9)...), nil},
		{"a witness twice", append(slices.Clone(good), mustSign(t, w.w["a"], text, 99)...), nil},
		{"one line twice", append(slices.Clone(good), mustSign(t, w.w["a"], text, 5)...), nil},
		{"a second line by a witness, invalid", append(slices.Clone(good), corrupt(mustSign(t, w.w["a"], text, 9))...), ErrBadSignature},
		{"an invalid line before a valid one", mustNote(t, text, corrupt(mustSign(t, w.w["a"], text, 9)), good[len(text)+1:]), ErrBadSignature},
		{"a witness not needed, invalid", append(slices.Clone(good), corrupt(mustSign(t, w.w["d"], text, 9))...), ErrBadSignature},
		{"the log's second key, invalid", append(slices.Clone(good), corrupt(mustSign(t, w.logML, text, 9))...), ErrBadSignature},
		{"not signed by the log", mustNote(t, text, mustSign(t, w.w["a"], text, 5), mustSign(t, w.w["b"], text, 5), mustSign(t, w.w["e"], text, 5)), ErrBadSignature},
		{"another log", mustNote(t, other.Text(), mustSign(t, w.log, other.Text(), 0)), ErrUnknownLog},
		{"not a checkpoint", mustNote(t, []byte("x\n"), mustSign(t, w.log, []byte("x\n"), 0)), ErrMalformed},
		{"not a note", []byte("x\n"), ErrMalformed},
		{"extension lines, Ed25519", mustNote(t, ext.Text(), edSigned, mustSign(t, w.w["a"], ext.Text(), 5), mustSign(t, w.w["b"], ext.Text(), 5), mustSign(t, w.w["e"], ext.Text(), 5)), nil},
		{"extension lines added under ML-DSA", mustNote(t, ext.Text(), edSigned, mustSign(t, w.w["f"], text, 5)), ErrBadSignature},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := p.Check(tt.note)
			if !errors.Is(err, tt.want) || (c == nil) != (err != nil) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}

	// Quorums under nested groups.
	for cosigned, want := range map[string]bool{
		"":               false,
		"a1 b1":          false,
		"a1 e1":          false,
		"a1 a2 e1":       false,
		"a1 d1 e1":       false,
		"e1 f1":          false,
		"a1 b1 e1":       true,
		"b1 c1 f1":       true,
		"b1 c1 f0":       true,
		"a1 b1 c1 d1 f1": true,
	} {
		note := w.note(t, cosigned)
		_, err := p.Check(note)
		var q *QuorumError
		if (err == nil) != want || (err != nil && !errors.As(err, &q)) {
			t.Errorf("%q: %v, want satisfied: %v", cosigned, err, want)
		}
		if c, err := p.CheckLog(note); err != nil || p.Satisfied(c) != want {
			t.Errorf("%q: CheckLog disagrees: %v", cosigned, err)
		}
	}
	_, err = p.Check(w.note(t, "b1 d1"))
	var q *QuorumError
	if !errors.As(err, &q) || q.Quorum != "q" || !slices.Equal(q.Cosigned, []string{"b"}) || !slices.Equal(q.Missing, []string{"a", "c", "e", "f"}) {
		t.Errorf("%#v", q)
	}
	// Of two logs, neither signs for the other; but what it signs must be valid.
	second := testKey(t, Ed25519, "example.com/other", 50)
	two := mustPolicy(t, w.head+"log "+second.VKey()+"\nquorum none\n")
	if _, err := two.Check(mustNote(t, text, mustSign(t, second, text, 0))); !errors.Is(err, ErrBadSignature) {
		t.Errorf("signed by another log of the policy: %v, want ErrBadSignature", err)
	}
	if c, err := two.Check(mustNote(t, text, mustSign(t, second, text, 0), mustSign(t, w.log, text, 0))); err != nil || len(c.LogKeys) != 1 || c.LogKeys[0].Name() != c.Origin {
		t.Errorf("signed by both logs: %+v, %v", c, err)
	}
	if _, err := two.Check(mustNote(t, text, corrupt(mustSign(t, second, text, 0)), mustSign(t, w.log, text, 0))); !errors.Is(err, ErrBadSignature) {
		t.Errorf("another log's signature is invalid: %v, want ErrBadSignature", err)
	}
	none := mustPolicy(t, w.head+"quorum none\n")
	if c, err := none.Check(w.note(t, "")); err != nil || !none.IsQuorumNone() || none.Quorum() != "none" {
		t.Error(err)
	} else if _, ok := none.NotBefore(c); ok {
		t.Error("quorum none proves a time")
	} else if _, ok := none.NotAfter(c); ok {
		t.Error("quorum none proves a time")
	}
	// A policy without logs is well-formed, and nothing satisfies it.
	if _, err := mustPolicy(t, "quorum none\n").Check(w.note(t, "")); !errors.Is(err, ErrUnknownLog) {
		t.Errorf("no logs: %v", err)
	}
}

func TestCollidingKeyIDs(t *testing.T) {
	// Two keys of one name whose 32-bit IDs collide can't be made in a test, so
	// that the table is filled by hand.
	p := &parser{policy: &Policy{keys: map[keyRef]*knownKey{}}}
	k := testKey(t, Ed25519, "n", 1).Verifier()
	if _, err := p.known(k); err != nil {
		t.Fatal(err)
	}
	collision := *testKey(t, Ed25519, "n", 2).Verifier()
	collision.id = k.id
	if _, err := p.known(&collision); err == nil {
		t.Error("two keys for one name and ID")
	}
}

// TestTimesByDefinition compares with the definitions, for random cosignatures
// under random policies.
func TestTimesByDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		p := randomPolicy(rng, 1+rng.IntN(6), false)
		c := &Checked{}
		for range rng.IntN(12) {
			i := rng.IntN(len(p.witnesses))
			ts := uint64(rng.IntN(5))
			if rng.IntN(20) == 0 {
				ts = math.MaxInt64
			}
			c.Cosignatures = append(c.Cosignatures, Cosignature{index: i, Timestamp: ts})
		}
		satisfied := func(f func(ts uint64) bool) bool {
			have := make([]bool, len(p.witnesses))
			for _, s := range c.Cosignatures {
				have[s.index] = have[s.index] || s.Timestamp != 0 && f(s.Timestamp)
			}
			return p.quorum.satisfied(have)
		}
		var before, after uint64
		for ts := uint64(1); ts < 6; ts++ {
			try := ts
			if ts == 5 {
				try = math.MaxInt64
			}
			if satisfied(func(x uint64) bool { return x >= try }) {
				before = try
			}
			if after == 0 && satisfied(func(x uint64) bool { return x <= try }) {
				after = try
			}
		}
		if got, ok := p.NotBefore(c); ok != (before != 0) || ok && !got.Equal(posixTime(before)) {
			t.Fatalf("not before %v, %v; want %d under\n%v\n%+v", got, ok, before, p, c.Cosignatures)
		}
		if got, ok := p.NotAfter(c); ok != (after != 0) || ok && !got.Equal(posixTime(after)) {
			t.Fatalf("not after %v, %v; want %d under\n%v\n%+v", got, ok, after, p, c.Cosignatures)
		}
	}
}

func TestTimes(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		quorum, cosigned string
		before, after    int64 // 0 for none
	}{
		{"group q 2 a b c\nquorum q\n", "a10 b20 c30", 20, 20},
		{"group q 3 a b c d\nquorum q\n", "a10 b20 c30 d40", 20, 30},
		{"group q any a b c\nquorum q\n", "a10 b20 c30", 30, 10},
		{"group q all a b c\nquorum q\n", "a10 b20 c30", 10, 30},
		{"quorum a\n", "a10", 10, 10},
		{"quorum a\n", "a10 a30 a20", 30, 10},                              // one witness, three cosignatures
		{"group ef any e f\ngroup q all ef a\nquorum q\n", "a10 f0", 0, 0}, // no time
		{"group ef any e f\ngroup q all ef a\nquorum q\n", "a10 f0 e20", 10, 20},
		{"group ef any e f\ngroup q all ef a\nquorum q\n", "a10 f0 f30", 10, 30},
		{"group x 2 a b c\ngroup ef any e f\ngroup q all x ef\nquorum q\n", "a10 b20 c30 e5 f25", 20, 20},
	} {
		p := mustPolicy(t, w.head+tt.quorum)
		c, err := p.Check(w.note(t, tt.cosigned))
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, got time.Time, ok bool, want int64) {
			if ok != (want != 0) || ok && got.Unix() != want {
				t.Errorf("%q, %s: %s %v, %v; want %d", tt.quorum, tt.cosigned, what, got, ok, want)
			}
		}
		got, ok := p.NotBefore(c)
		check("not before", got, ok, tt.before)
		got, ok = p.NotAfter(c)
		check("not after", got, ok, tt.after)
	}
	if got := posixTime(math.MaxInt64).Format(time.RFC3339); got != "9999-12-31T23:59:59Z" {
		t.Errorf("the largest timestamp is %s", got)
	}
}

// randomPolicy makes a policy's quorum over n witnesses without keys, nested at
// random; if shared, some witnesses are of one operator.
func randomPolicy(rng *rand.Rand, n int, shared bool) *Policy {
	p := &Policy{}
	var free []*node
	for i := range n {
		name := fmt.Sprintf("op%d", i)
		if shared && i > 0 && rng.IntN(2) == 0 {
			name = fmt.Sprintf("op%d", rng.IntN(i))
		}
		p.witnesses = append(p.witnesses, Witness{Name: fmt.Sprint(i), Key: &VerifierKey{name: name, pub: []byte{byte(i)}}})
		free = append(free, &node{name: fmt.Sprint(i), witness: i})
	}
	for len(free) > 1 || rng.IntN(4) == 0 {
		rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
		k := 1 + rng.IntN(len(free))
		g := &group{name: fmt.Sprintf("g%d", len(p.groups)), members: slices.Clone(free[:k]), threshold: 1 + rng.IntN(k)}
		p.groups = append(p.groups, g)
		free = append(free[k:], &node{name: g.name, group: g})
	}
	p.quorum = free[0]
	return p
}

// TestResilienceByDefinition compares with trying everything: all sets of
// liars, and all ways to show honest operators one tree or the other.
func TestResilienceByDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 2000 {
		p := randomPolicy(rng, 1+rng.IntN(6), i%2 == 0)
		index := make(map[string]int)
		opOf := make([]int, len(p.witnesses))
		for i, w := range p.witnesses {
			if _, ok := index[w.Key.name]; !ok {
				index[w.Key.name] = len(index)
			}
			opOf[i] = index[w.Key.name]
		}
		ops := len(index)
		satisfied := func(have func(op int) bool) bool {
			h := make([]bool, len(p.witnesses))
			for i := range h {
				h[i] = have(opOf[i])
			}
			return p.quorum.satisfied(h)
		}
		split, quorum, blocking := ops, ops, ops
		for s := range 1 << ops {
			size := 0
			for op := range ops {
				size += s >> op & 1
			}
			if satisfied(func(op int) bool { return s>>op&1 == 1 }) {
				quorum = min(quorum, size)
			}
			if !satisfied(func(op int) bool { return s>>op&1 == 0 }) {
				blocking = min(blocking, size)
			}
			for a := range 1 << ops { // honest operators that see tree A
				if satisfied(func(op int) bool { return (s|a)>>op&1 == 1 }) && satisfied(func(op int) bool { return s>>op&1 == 1 || a>>op&1 == 0 }) {
					split = min(split, size)
				}
			}
		}
		want := Resilience{Operators: ops, SplitView: split - 1, Time: quorum - 1, Outage: blocking - 1, Exact: true}
		if got := p.Resilience(); got != want {
			t.Fatalf("got %+v, want %+v for operators %v under\n%v", got, want, opOf, quorumText(p))
		}
	}
}

func quorumText(p *Policy) string {
	s := p.String()
	return s[strings.Index(s, "group"):]
}

func TestResilienceKnown(t *testing.T) {
	flat := func(k, n, keysEach int) *Policy {
		g := &group{name: "q", threshold: k}
		p := &Policy{groups: []*group{g}, quorum: &node{name: "q", group: g}}
		for i := range n {
			p.witnesses = append(p.witnesses, Witness{Name: fmt.Sprint(i), Key: &VerifierKey{name: fmt.Sprint(i / keysEach), pub: []byte{byte(i)}}})
			g.members = append(g.members, &node{name: fmt.Sprint(i), witness: i})
		}
		return p
	}
	for _, tt := range []struct {
		name string
		p    *Policy
		want Resilience
	}{
		{"1 of 1", flat(1, 1, 1), Resilience{1, 0, 0, 0, true}},
		{"2 of 3", flat(2, 3, 1), Resilience{3, 0, 1, 1, true}},
		{"3 of 4", flat(3, 4, 1), Resilience{4, 1, 2, 1, true}},
		{"2 of 4", flat(2, 4, 1), Resilience{4, -1, 1, 2, true}},
		{"17 of 32", flat(17, 32, 1), Resilience{32, 1, 16, 15, true}},
		{"32 of 32", flat(32, 32, 1), Resilience{32, 31, 31, 0, true}},
		{"22 of 32", flat(22, 32, 1), Resilience{32, 11, 21, 10, true}},
		// 16 operators with two keys each in a flat group: 22 keys are 11 operators.
		{"22 of 32, two keys each", flat(22, 32, 2), Resilience{16, 5, 10, 5, true}},
	} {
		if got := tt.p.Resilience(); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	// Operators spread so widely that it isn't exact, but quick and not too high.
	p := &Policy{}
	top := &group{name: "q", threshold: 8}
	p.quorum = &node{name: "q", group: top}
	for i := range 16 {
		g := &group{name: fmt.Sprintf("g%d", i), threshold: 2}
		for j := range 2 {
			n := 2*i + j
			p.witnesses = append(p.witnesses, Witness{Name: fmt.Sprint(n), Key: &VerifierKey{name: fmt.Sprint((i + 5*j) % 16), pub: []byte{byte(n)}}})
			g.members = append(g.members, &node{witness: n})
		}
		top.members = append(top.members, &node{group: g})
	}
	if got := p.Resilience(); got.Exact || got.Operators != 16 || got.SplitView > 15 || got.Time > 15 {
		t.Errorf("spread: %+v", got)
	}
	// Few enough of them to try them all, but each try would visit thousands of witnesses: that took a minute.
	p = &Policy{}
	top = &group{name: "q", threshold: 23}
	p.quorum = &node{name: "q", group: top}
	add := func(g *group, operator string) {
		n := len(p.witnesses)
		p.witnesses = append(p.witnesses, Witness{Name: fmt.Sprint(n), Key: &VerifierKey{name: operator, pub: fmt.Append(nil, n)}})
		g.members = append(g.members, &node{witness: n})
	}
	for i := range 22 {
		g := &group{name: fmt.Sprintf("g%d", i), threshold: 2}
		add(g, fmt.Sprintf("spread %d", i%11))
		add(g, fmt.Sprintf("single %d", i))
		top.members = append(top.members, &node{group: g})
	}
	g := &group{name: "rest", threshold: 4000}
	for i := range 5000 {
		add(g, fmt.Sprintf("rest %d", i))
	}
	top.members = append(top.members, &node{group: g})
	// Exact would be 3032, 4032 and 0.
	if got := p.Resilience(); got.Exact || got.Operators != 5033 || got.SplitView > 3032 || got.Time > 4032 || got.Outage != 0 {
		t.Errorf("spread, and many: %+v", got)
	}
}

func TestLint(t *testing.T) {
	w := newWorld(t)
	appraiser := "witness m " + testKey(t, CosignatureEd25519, "monitor.example"+AppraiserSuffix, 20).VKey() + "\n"
	for _, tt := range []struct {
		quorum string
		want   []string
	}{
		{appraiser + "group ef any e f\ngroup q 4 a b c d ef\nquorum q\n", nil},
		{appraiser + "group ef any e f\ngroup q 4 a b c d ef m\nquorum q\n", []string{"appraiser"}},
		{"quorum none\n", []string{"quorum-none"}},
		{"quorum a\n", []string{"outage", "split-view", "time", "unused", "unused", "unused", "unused", "unused"}},
		{"group ef any e f\ngroup q 4 a b c d ef\nquorum q\n", nil},
		{"group ef all e f\ngroup q 4 a b c d ef\nquorum q\n", nil},
		{"group q 4 a b c d e f\nquorum q\n", []string{"operator-split", "split-view"}},
		{"group x any e a\ngroup y any f b\ngroup q all x y c d\nquorum q\n", []string{"operator-split", "outage"}},
		{"group ef any e f\ngroup q 3 a b c d ef\nquorum q\n", []string{"split-view"}},
		{"group ef any e f\ngroup q 2 a b c d ef\nquorum q\n", []string{"split-view"}},
		{"group ef any e f\ngroup q any a b c d ef\nquorum q\n", []string{"split-view", "time"}},
		{"group ef any e f\ngroup q all a b c d ef\nquorum q\n", []string{"outage"}},
		{"group ef any e f\ngroup q 3 a b c d\nquorum q\n", []string{"unused", "unused", "unused"}},
	} {
		var got []string
		p := mustPolicy(t, w.head+tt.quorum)
		for _, x := range p.Lint() {
			got = append(got, x.Code)
		}
		slices.Sort(got)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q: %v, want %v", tt.quorum, p.Lint(), tt.want)
		}
	}
	p := mustPolicy(t, "witness a "+w.logML.VKey()+"\nquorum a\n")
	if got := p.Lint()[0].Code; got != "no-log" {
		t.Errorf("no log: %v", p.Lint())
	}
	p = mustPolicy(t, "log "+w.logML.VKey()+"\nwitness a "+w.logML.VKey()+"\nquorum a\n")
	if got := p.Lint()[0]; got.Code != "shared-key" || got.String() != got.Code+": "+got.Text {
		t.Errorf("a log that is its witness: %v", p.Lint())
	}
}

func FuzzParsePolicy(f *testing.F) {
	w := newWorld(f)
	f.Add([]byte(w.head + "# comment\n\ngroup x 2 a b c\n group\tef any e f\ngroup q all x ef\nquorum q\n"))
	f.Add([]byte("quorum none\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePolicy(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v isn't ErrMalformed", err)
			}
			return
		}
		text := p.String()
		again, err := ParsePolicy([]byte(text))
		if err != nil {
			t.Fatalf("printed what doesn't parse: %v\n%s", err, text)
		}
		if again.String() != text {
			t.Errorf("printed differently the second time:\n%s\n%s", text, again)
		}
		if a, b := p.Resilience(), again.Resilience(); a != b {
			t.Errorf("resilience %+v, then %+v", a, b)
		}
		if a, b := slices.Sorted(maps.Keys(codes(p))), slices.Sorted(maps.Keys(codes(again))); !slices.Equal(a, b) {
			t.Errorf("warnings %v, then %v", a, b)
		}
	})
}

func codes(p *Policy) map[string]bool {
	m := make(map[string]bool)
	for _, w := range p.Lint() {
		m[w.Code] = true
	}
	return m
}

// benchNote has n witnesses, each with an Ed25519 and an ML-DSA-44 key.
func benchNote(b *testing.B, n int) (*Policy, []byte, *world) {
	w := &world{log: testKey(b, Ed25519, "example.com/log", 1)}
	var s strings.Builder
	fmt.Fprintf(&s, "log %s\n", w.log.VKey())
	text := w.checkpoint().Text()
	lines := [][]byte{mustSign(b, w.log, text, 0)}
	group := fmt.Sprintf("group q %d", (2*n+2)/3)
	for i := range n {
		name := fmt.Sprintf("witness.example/%d", i)
		for j, kind := range kinds[1:] {
			k := testKey(b, kind, name, byte(2*i+j+2))
			fmt.Fprintf(&s, "witness w%d-%d %s\n", i, j, k.VKey())
			lines = append(lines, mustSign(b, k, text, 1700000000))
		}
		fmt.Fprintf(&s, "group w%d any w%d-0 w%d-1\n", i, i, i)
		group += fmt.Sprintf(" w%d", i)
	}
	fmt.Fprintf(&s, "%s\nquorum q\n", group)
	return mustPolicy(b, s.String()), mustNote(b, text, lines...), w
}

// BenchmarkCheck checks a note with a log signature and two cosignatures each of
// eight witnesses; BenchmarkCheckBaseline verifies the same signatures and does
// nothing else.
func BenchmarkCheck(b *testing.B) {
	p, note, _ := benchNote(b, 8)
	for b.Loop() {
		if _, err := p.Check(note); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheckBaseline(b *testing.B) {
	p, note, _ := benchNote(b, 8)
	c, err := p.Check(note)
	if err != nil {
		b.Fatal(err)
	}
	n, err := ParseNote(note)
	if err != nil {
		b.Fatal(err)
	}
	type work struct {
		key *VerifierKey
		sig NoteSignature
	}
	var todo []work
	for _, s := range n.Signatures {
		todo = append(todo, work{p.keys[keyRef{s.Name, s.KeyID}].key, s})
	}
	for b.Loop() {
		for _, w := range todo {
			if _, err := w.key.verify(c.Text, &c.Checkpoint, w.sig); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkParsePolicy(b *testing.B) {
	p, _, _ := benchNote(b, 16)
	text := []byte(p.String())
	for b.Loop() {
		if _, err := ParsePolicy(text); err != nil {
			b.Fatal(err)
		}
	}
}

func TestPolicyCounts(t *testing.T) {
	key := func(i int) string { return testKey(t, CosignatureEd25519, "w.example", byte(200+i)).VKey() }
	lines := "witness a " + key(1) + "\nwitness b " + key(2) + "\nwitness c " + key(3) + "\nwitness d " + key(4) + "\n" +
		"group ab any a b\ngroup abc all ab c\ngroup other all d\n"
	for quorum, want := range map[string]string{"abc": "abc", "ab": "ab", "d": "d", "other": "d", "none": ""} {
		p, err := ParsePolicy([]byte(lines + "quorum " + quorum + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, name := range []string{"a", "b", "c", "d", "ab", "abc", "x"} {
			if p.Counts(name) {
				got += name
			}
		}
		if got != want {
			t.Errorf("quorum %s: %q count, want %q", quorum, got, want)
		}
	}
}
