package checkpoint

import (
	"fmt"
	"slices"
	"strings"
)

// A Resilience says what a policy's quorum survives. It counts operators: keys
// of one name, which are taken to lie, or to be away, all together.
type Resilience struct {
	// Operators is the number of operators on whom the quorum depends.
	Operators int

	// SplitView is the largest number of lying operators with whose help a log
	// still can't show two inconsistent trees that both satisfy the quorum. It
	// is -1 if no liar is needed for that, as with two of four.
	SplitView int

	// Time is the largest number of lying operators with whose help nobody can
	// forge [Policy.NotBefore] or [Policy.NotAfter]. It is -1 under "quorum
	// none", which proves no time.
	Time int

	// Outage is the largest number of operators who can be away, whoever they
	// are, while the others satisfy the quorum.
	Outage int

	// Exact is false if operators' keys are spread over so many groups that
	// counting would take too long. Then the numbers are lower bounds, computed
	// as if every key was its own operator. With at most 32 witnesses, each
	// operator's keys in one group, it is always true.
	Exact bool
}

// Resilience computes what the quorum survives.
func (p *Policy) Resilience() Resilience {
	if p.quorum == nil {
		return Resilience{SplitView: -1, Time: -1, Exact: true}
	}
	t := p.operators(false)
	if t.assignments(3) > maxAssignments || t.assignments(3)*t.nodes > maxVisits {
		// If operators have at most m keys, x of them have at most x*m.
		most := t.mostKeys()
		lines := p.operators(true)
		least := func(keys int) int { return (keys+most-1)/most - 1 }
		return Resilience{
			Operators: len(t.ops),
			SplitView: least(lines.minLiars()),
			Time:      least(lines.minQuorum()),
			Outage:    least(lines.minBlocking()),
		}
	}
	return Resilience{
		Operators: len(t.ops),
		SplitView: t.minLiars() - 1,
		Time:      t.minQuorum() - 1,
		Outage:    t.minBlocking() - 1,
		Exact:     true,
	}
}

// A Warning is something that [Policy.Lint] found.
type Warning struct {
	// Code is one of: quorum-none, no-log, unused, appraiser, operator-split,
	// shared-key, split-view, time, outage.
	Code string
	Text string // a sentence for the policy's author
}

// String returns the code and the text.
func (w Warning) String() string { return w.Code + ": " + w.Text }

// Lint looks for what a policy's author probably didn't mean. A policy without
// warnings has logs, uses all its witnesses, and survives one operator who lies
// and one who is away.
func (p *Policy) Lint() []Warning {
	var ws []Warning
	warn := func(code, format string, a ...any) { ws = append(ws, Warning{code, fmt.Sprintf(format, a...)}) }
	if len(p.logs) == 0 {
		warn("no-log", "the policy lists no log, so that no checkpoint satisfies it")
	}
	for _, l := range p.logs {
		for _, w := range p.witnesses {
			if string(l.Key.pub) == string(w.Key.pub) {
				warn("shared-key", "log %q and witness %q have the same public key: the log cosigns for itself", l.Key.name, w.Name)
			}
		}
	}
	if p.quorum == nil {
		warn("quorum-none", "no cosignature is needed: the log can show everybody another tree, and no time is proven")
		return ws
	}
	used := make(map[*node]bool)
	var walk func(n *node)
	walk = func(n *node) {
		used[n] = true
		if n.group != nil {
			for _, m := range n.group.members {
				walk(m)
			}
		}
	}
	walk(p.quorum)
	usedWitness, usedGroup := make(map[int]bool), make(map[*group]bool)
	for n := range used {
		if n.group != nil {
			usedGroup[n.group] = true
		} else {
			usedWitness[n.witness] = true
		}
	}
	for i, w := range p.witnesses {
		switch {
		case !usedWitness[i] && !w.Appraiser():
			warn("unused", "witness %q doesn't count towards the quorum", w.Name)
		case usedWitness[i] && w.Appraiser():
			warn("appraiser", "the appraiser %q counts towards the quorum: it cosigns only what was published, so that nothing would be", w.Name)
		}
	}
	for _, g := range p.groups {
		if !usedGroup[g] {
			warn("unused", "group %q doesn't count towards the quorum", g.name)
		}
	}

	t := p.operators(false)
	for op, leaves := range t.leaves {
		if leaves > 1 {
			warn("operator-split", "the keys of %q (%s) aren't in one group of their own, so that this operator counts %d times",
				t.ops[op], strings.Join(p.namesOf(t.ops[op], usedWitness), ", "), leaves)
		}
	}
	r := p.Resilience()
	switch {
	case r.SplitView < 0:
		warn("split-view", "two sets of honest witnesses without a common member satisfy the quorum: a log can show two trees")
	case r.SplitView == 0:
		warn("split-view", "with one lying operator, a log can show two trees")
	}
	if r.Time == 0 {
		warn("time", "one lying operator can forge the proven time")
	}
	if r.Outage == 0 {
		warn("outage", "the quorum survives nobody: it can't be met while one operator is away")
	}
	return ws
}

func (p *Policy) namesOf(operator string, used map[int]bool) []string {
	var names []string
	for i, w := range p.witnesses {
		if used[i] && w.Key.name == operator {
			names = append(names, w.Name)
		}
	}
	return names
}

// maxAssignments bounds how many assignments of operators whose keys are in
// several places are tried one by one. Each takes about a microsecond.
const maxAssignments = 1 << 18

// maxVisits bounds how many nodes of the tree are visited for that, which takes
// some seconds: policies are also read by who only wants to know what a file is.
const maxVisits = maxAssignments * 128

// unreachable is more than any number of operators.
const unreachable = 1 << 20

// An opTree is a quorum in terms of operators. A group in which only one
// operator has keys is a leaf, since that operator decides it alone.
//
// The least numbers of operators that do something are computed bottom up, with
// cost 1 at each leaf, which is exact as long as each operator has one leaf. The
// states of operators with several leaves ("spread") are enumerated instead, and
// those leaves cost nothing or are impossible. Operators whose leaves have the
// same parents are alike, and only their number in each state matters.
type opTree struct {
	root    *opNode
	ops     []string // operators' key names
	leaves  []int    // number of leaves of each operator
	keys    []int    // number of witness lines of each operator
	nodes   int      // number of witness lines and groups
	classes [][]int  // spread operators, by equal parents
}

type opNode struct {
	op        int // if members is nil
	threshold int
	members   []*opNode
}

// operators returns the quorum's tree. If byKey, every key is an operator.
func (p *Policy) operators(byKey bool) *opTree {
	t := &opTree{}
	index := make(map[string]int)
	var build func(n *node) *opNode
	build = func(n *node) *opNode {
		t.nodes++
		if n.group == nil {
			k := p.witnesses[n.witness].Key
			name := k.name
			if byKey {
				name = k.String()
			}
			op, ok := index[name]
			if !ok {
				op = len(t.ops)
				index[name] = op
				t.ops = append(t.ops, name)
				t.keys = append(t.keys, 0)
			}
			t.keys[op]++
			return &opNode{op: op}
		}
		o := &opNode{threshold: n.group.threshold}
		single := true
		for _, m := range n.group.members {
			c := build(m)
			o.members = append(o.members, c)
			single = single && c.members == nil && c.op == o.members[0].op
		}
		if single {
			return o.members[0]
		}
		return o
	}
	t.root = build(p.quorum)
	t.leaves = make([]int, len(t.ops))
	parents := make([]string, len(t.ops)) // of an operator's leaves, in preorder
	groups := 0
	var walk func(n *opNode, parent int)
	walk = func(n *opNode, parent int) {
		if n.members == nil {
			t.leaves[n.op]++
			parents[n.op] += fmt.Sprint(parent, " ")
			return
		}
		groups++
		self := groups
		for _, m := range n.members {
			walk(m, self)
		}
	}
	walk(t.root, 0)
	class := make(map[string]int)
	for op, l := range t.leaves {
		if l < 2 {
			continue
		}
		c, ok := class[parents[op]]
		if !ok {
			c = len(t.classes)
			class[parents[op]] = c
			t.classes = append(t.classes, nil)
		}
		t.classes[c] = append(t.classes[c], op)
	}
	return t
}

func (t *opTree) mostKeys() int { return slices.Max(t.keys) }

// assignments returns how many assignments of states (2 or 3) to spread
// operators have to be tried, at most about maxAssignments*1000.
func (t *opTree) assignments(states int) int {
	n := 1
	for _, c := range t.classes {
		m := len(c)
		if states == 3 {
			n *= (m + 1) * (m + 2) / 2
		} else {
			n *= m + 1
		}
		if n > maxAssignments {
			return n
		}
	}
	return n
}

// An opState is what a spread operator does.
type opState uint8

const (
	free  opState = iota // not spread: costs 1
	out                  // does nothing
	in                   // does it, its cost is already counted
	onlyA                // honest, sees tree A
	onlyB                // honest, sees tree B
	both                 // lies, its cost is already counted
)

// enumerate calls f with every assignment of states to spread operators, and
// the number of operators in the costly state, up to exchange of like operators.
func (t *opTree) enumerate(states []opState, costly opState, f func(state []opState, cost int)) {
	state := make([]opState, len(t.ops))
	var class func(c, cost int)
	class = func(c, cost int) {
		if c == len(t.classes) {
			f(state, cost)
			return
		}
		ops := t.classes[c]
		var fill func(i, s, cost int) // operators i… get states s…, in order
		fill = func(i, s, cost int) {
			if i == len(ops) {
				class(c+1, cost)
				return
			}
			for ; s < len(states); s++ {
				state[ops[i]] = states[s]
				add := 0
				if states[s] == costly {
					add = 1
				}
				fill(i+1, s, cost+add)
			}
		}
		fill(0, 0, cost)
	}
	class(0, 0)
}

// minQuorum returns the least number of operators who satisfy the quorum alone.
func (t *opTree) minQuorum() int {
	return t.minimum(func(threshold, _ int) int { return threshold })
}

// minBlocking returns the least number of operators without whom the quorum
// can't be satisfied.
func (t *opTree) minBlocking() int {
	return t.minimum(func(threshold, members int) int { return members - threshold + 1 })
}

// minimum returns the least number of operators who achieve the root, where a
// group is achieved when need(threshold, members) of its members are.
func (t *opTree) minimum(need func(threshold, members int) int) int {
	best := unreachable
	t.enumerate([]opState{out, in}, in, func(state []opState, cost int) {
		var visit func(n *opNode) int
		visit = func(n *opNode) int {
			if n.members == nil {
				switch state[n.op] {
				case in:
					return 0
				case out:
					return unreachable
				}
				return 1
			}
			costs := make([]int, len(n.members))
			for i, m := range n.members {
				costs[i] = visit(m)
			}
			slices.Sort(costs)
			return sum(costs[:need(n.threshold, len(costs))])
		}
		best = min(best, cost+visit(t.root))
	})
	return best
}

// A split says whether a node can be satisfied for tree A and for tree B, and
// at what cost for both at once. With no limit on liars both would be possible
// exactly if each is, and each alone costs nothing: all honest operators that
// aren't spread can be shown the same tree.
type split struct {
	a, b bool
	both int // if a && b
}

// minLiars returns the least number of operators who have to lie, by cosigning
// two inconsistent trees, for both to satisfy the quorum.
func (t *opTree) minLiars() int {
	best := unreachable
	t.enumerate([]opState{onlyA, onlyB, both}, both, func(state []opState, cost int) {
		if cost >= best {
			return
		}
		var visit func(n *opNode) split
		visit = func(n *opNode) split {
			if n.members == nil {
				switch state[n.op] {
				case onlyA:
					return split{a: true}
				case onlyB:
					return split{b: true}
				case both:
					return split{a: true, b: true}
				}
				return split{a: true, b: true, both: 1}
			}
			a, b := 0, 0 // members that can only be satisfied for A, for B
			var costs []int
			for _, m := range n.members {
				switch s := visit(m); {
				case s.a && s.b:
					costs = append(costs, s.both)
				case s.a:
					a++
				case s.b:
					b++
				}
			}
			slices.Sort(costs)
			k := n.threshold
			s := split{a: a+len(costs) >= k, b: b+len(costs) >= k}
			if !s.a || !s.b {
				return s
			}
			// Of the members that can be satisfied for either, some must be for
			// both, and the rest is divided between A and B.
			m := 0
			for max(0, k-a-m)+max(0, k-b-m) > len(costs)-m {
				m++
			}
			s.both = sum(costs[:m])
			return s
		}
		if s := visit(t.root); s.a && s.b {
			best = min(best, cost+s.both)
		}
	})
	return best
}

func sum(ns []int) int {
	total := 0
	for _, n := range ns {
		total += n
	}
	return min(total, unreachable)
}
