package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/log/record"
)

func discloseCommand() *command {
	return &command{
		name: "disclose",
		usage: []string{
			"--action N|--where KEY=VALUE --out FILE [--reveal NAME] SESSION-FILE",
			"--action N|--where KEY=VALUE --out-dir DIR [--reveal NAME] SESSION-FILE",
			"--list [--action N|--where KEY=VALUE] SESSION-FILE",
		},
		short: "show single actions of a session, and nothing of the others",
		about: `Takes actions out of the private file of a session's owner, and writes a disclosure
for each: the action's document, its salt, and the hashes that lead from it to the root
that the session's final record commits to. Whoever has the session's bundle can check
it with "affidavit verify BUNDLE --disclosure FILE", and learns nothing of the other
actions but how many there are.

Actions are chosen by their index (--action 3, --action 3-7; again for more), or by
what they say (--where; again for more, and all must hold). The KEY of --where is the
name of an attribute, such as gen_ai.tool.name, or one of index, outcome, session,
time, traceId, spanId. --list shows what would be chosen, and writes nothing.

What an action was given and what came of it are in its document as salted digests only,
so that a disclosure doesn't have them: it can be handed on with the arguments withheld,
and is as verifiable as with them. If the file has them, --reveal writes them, with their
salts, to files of their own, which "affidavit verify --content" compares with the
digests. Attributes are disclosed as they are: look with "affidavit inspect" at what you
hand on.`,
		trusts: `The session file, which is checked to be whole, and consistent with the root in its
first lines. Whether that root is the logged one is for "affidavit verify" to say.`,
		examples: `  affidavit disclose --list session.private
  affidavit disclose --action 3 --out action.json session.private
  affidavit disclose --where outcome=blocked --where gen_ai.tool.name=http_request \
      --out-dir disclosed --reveal arguments session.private
`,
		exits:   map[int]string{exitGood: "the disclosures were written, or listed"},
		minArgs: 1, maxArgs: 1,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			d := new(disclosing)
			actions := fs.StringArray("action", nil, "`N`, an action's index, or a range such as 3-7; can be given again")
			where := fs.StringArray("where", nil, "`KEY=VALUE` that an action must have; can be given again")
			fs.StringVar(&d.out, "out", "", "`FILE` for the disclosure of one action")
			fs.StringVar(&d.dir, "out-dir", "", "`DIR` for action-N.json of each action, which is made if it doesn't exist")
			fs.StringArrayVar(&d.reveal, "reveal", nil, "`NAME` of a content to write too: arguments, result, or an attribute's; can be given again")
			fs.BoolVar(&d.list, "list", false, "print a line for each action: index, time, outcome, operation, tool, contents that can be revealed")
			return func(c *console, args []string) (int, error) {
				writes := fs.Changed("out") || fs.Changed("out-dir")
				switch {
				case len(*actions) > 0 && len(*where) > 0:
					return 0, usagef("--action and --where: choose by one of them")
				case d.list && (writes || len(d.reveal) > 0):
					return 0, usagef("--list writes nothing: leave out --out, --out-dir and --reveal")
				case !d.list && len(*actions) == 0 && len(*where) == 0:
					return 0, usagef("missing flag --action or --where: which action? --list shows all")
				case !d.list && !writes:
					return 0, usagef("missing flag --out or --out-dir")
				case fs.Changed("out") && fs.Changed("out-dir"):
					return 0, usagef("--out and --out-dir: choose one")
				case d.out == "-" && len(d.reveal) > 0:
					return 0, usagef("--out - has no room for what --reveal writes: name a file")
				}
				var err error
				if d.chosen, err = parseChoice(*actions, *where); err != nil {
					return 0, err
				}
				return d.run(c, args[0])
			}
		},
	}
}

// A disclosing is what the flags of disclose ask for.
type disclosing struct {
	out, dir string
	reveal   []string
	list     bool
	chosen   func(*record.Action) bool
}

// parseChoice returns what --action or --where choose.
func parseChoice(actions, where []string) (func(*record.Action) bool, error) {
	var tests []func(*record.Action) bool
	for _, s := range actions {
		from, to, isRange := strings.Cut(s, "-")
		if !isRange {
			to = from
		}
		lo, err1 := strconv.ParseUint(from, 10, 53)
		hi, err2 := strconv.ParseUint(to, 10, 53)
		if err1 != nil || err2 != nil || lo > hi {
			return nil, usagef("--action %q: want an index, or a range such as 3-7", clean(s))
		}
		tests = append(tests, func(a *record.Action) bool { return a.Index >= lo && a.Index <= hi })
	}
	if len(actions) > 0 {
		return func(a *record.Action) bool {
			return slices.ContainsFunc(tests, func(test func(*record.Action) bool) bool { return test(a) })
		}, nil
	}
	for _, s := range where {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" || value == "" {
			return nil, usagef("--where %q: want KEY=VALUE, such as outcome=blocked", clean(s))
		}
		tests = append(tests, func(a *record.Action) bool { return slices.Contains(valuesOf(a, key), value) })
	}
	return func(a *record.Action) bool {
		return !slices.ContainsFunc(tests, func(test func(*record.Action) bool) bool { return !test(a) })
	}, nil
}

// valuesOf returns the values that an action has under a key, as text. Names of
// attributes and of other members can't be confused: operation, say, is an
// attribute, and its name has dots.
func valuesOf(a *record.Action, key string) []string {
	switch key {
	case "index":
		return []string{strconv.FormatUint(a.Index, 10)}
	case "outcome":
		return []string{a.Outcome}
	case "session":
		return []string{a.Session.String()}
	case "time":
		return []string{stamp(a.Time)}
	case "traceId":
		return []string{hexed(a.TraceID[:])}
	case "spanId":
		return []string{hexed(a.SpanID[:])}
	}
	switch v := a.Attributes[key].(type) {
	case nil:
		return nil
	case []string:
		return v
	default:
		return []string{fmt.Sprint(v)}
	}
}

// An extract is an action that was chosen, with its contents.
type extract struct {
	*record.Disclosure
	contents []session.Content
}

func (d *disclosing) run(c *console, name string) (int, error) {
	f, err := c.open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r, err := session.NewReader(f)
	if err != nil {
		return 0, fileError(name, err)
	}
	var leaves []record.Digest
	var chosen []extract
	for {
		doc, a, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, fileError(name, err)
		}
		if d.list {
			if d.chosen(a) {
				fmt.Fprintln(c.stdout, actionLine(a, doc.Contents))
			}
			continue
		}
		leaves = append(leaves, record.ActionLeaf(doc.Salt, doc.Document))
		if d.chosen(a) {
			chosen = append(chosen, extract{
				&record.Disclosure{Salt: doc.Salt, Bytes: doc.Document, Index: a.Index, Tree: r.Header().Documents, Action: a}, doc.Contents,
			})
		}
	}
	switch {
	case d.list:
		return exitGood, nil
	case len(chosen) == 0:
		return 0, fmt.Errorf("%s: none of its %s was chosen: --list shows them", name, count(len(leaves), "action"))
	case len(chosen) > 1 && d.dir == "":
		return 0, fmt.Errorf("%s: %d actions were chosen, and --out takes one: give --out-dir", name, len(chosen))
	}
	// Nothing is written before it is known that everything can be.
	for _, e := range chosen {
		for _, want := range d.reveal {
			i := slices.IndexFunc(e.contents, func(c session.Content) bool { return c.Name == want })
			switch {
			case i < 0:
				return 0, fmt.Errorf("%s: action %d has no content %q", name, e.Index, clean(want))
			case e.contents[i].Bytes == nil:
				return 0, fmt.Errorf("%s: the recorder kept only the digest of %s of action %d", name, clean(want), e.Index)
			}
		}
	}
	if r.Header().End == nil {
		fmt.Fprintf(c.stderr, "warning: %s was written before the session's end was logged: a disclosure from it verifies only if no action came after\n", clean(name))
	}
	if d.dir != "" {
		if err := os.MkdirAll(d.dir, 0o700); err != nil {
			return 0, fileError(d.dir, err)
		}
	}
	p := paths{leaves: leaves}
	for _, e := range chosen {
		e.Path = p.of(e.Index)
		out := d.out
		if d.dir != "" {
			out = filepath.Join(d.dir, fmt.Sprintf("action-%d.json", e.Index))
		}
		if out == "-" {
			_, err := c.stdout.Write(append(e.JSON(), '\n'))
			return exitGood, err
		}
		if err := writeFileMode(out, e.JSON(), 0o600); err != nil {
			return 0, err
		}
		fmt.Fprintln(c.stdout, out)
		for _, content := range e.contents {
			if !slices.Contains(d.reveal, content.Name) {
				continue
			}
			b, err := (&revealed{Session: e.Action.Session, Action: e.Index, Content: content}).marshal()
			if err != nil {
				return 0, err
			}
			out := strings.TrimSuffix(out, ".json") + "." + content.Name + ".json"
			if err := writeFileMode(out, b, 0o600); err != nil {
				return 0, err
			}
			fmt.Fprintln(c.stdout, out)
		}
	}
	return exitGood, nil
}

// paths returns inclusion paths in the tree of leaves. It is record.ActionProof for
// many of them: that hashes the whole tree for each.
type paths struct {
	leaves []record.Digest
	roots  map[[2]int]record.Digest // of subtrees, by the bounds of their leaves
}

func (p *paths) of(index uint64) (path []record.Digest) {
	if p.roots == nil {
		p.roots = make(map[[2]int]record.Digest)
	}
	for lo, hi := 0, len(p.leaves); hi-lo > 1; {
		// RFC 6962, Section 2.1: "let k be the largest power of two smaller than n".
		mid := lo + 1<<(bits.Len(uint(hi-lo-1))-1)
		sibling := [2]int{mid, hi}
		if int(index) < mid {
			hi = mid
		} else {
			sibling = [2]int{lo, mid}
			lo = mid
		}
		root, ok := p.roots[sibling]
		if !ok {
			root = record.ActionRoot(p.leaves[sibling[0]:sibling[1]])
			p.roots[sibling] = root
		}
		path = append(path, root)
	}
	slices.Reverse(path)
	return path
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// actionLine is an action for people and scripts: fields with spaces between, "-"
// where there is nothing to say.
func actionLine(a *record.Action, contents []session.Content) string {
	field := func(v any) string {
		if s, _ := v.(string); s != "" {
			return strings.ReplaceAll(clean(s), " ", "_")
		}
		return "-"
	}
	var kept []string
	for _, c := range contents {
		if c.Bytes != nil {
			kept = append(kept, c.Name)
		}
	}
	return fmt.Sprintf("%d %s %s %s %s %s", a.Index, stamp(a.Time), a.Outcome,
		field(a.Attributes[record.AttrOperationName]), field(a.Attributes["gen_ai.tool.name"]), field(strings.Join(kept, ",")))
}

// A revealed is one content of a disclosed action, as its owner hands it on.
type revealed struct {
	Session record.SessionID
	Action  uint64
	session.Content
}

// revealedJSON is the file of a revealed, which has one form: without spaces, and
// with its members in this order.
type revealedJSON struct {
	Content struct {
		Action  uint64 `json:"action"`
		Bytes   string `json:"bytes"` // base64
		Name    string `json:"name"`
		Salt    string `json:"salt"` // base64
		Session string `json:"session"`
	} `json:"content"`
}

// maxRevealed is more than any content's file has: 1 MiB in base64.
const maxRevealed = 2 << 20

var errRevealed = errors.New("malformed content")

func (r *revealed) marshal() ([]byte, error) {
	var j revealedJSON
	j.Content.Action, j.Content.Name, j.Content.Session = r.Action, r.Name, r.Session.String()
	j.Content.Bytes = base64.StdEncoding.EncodeToString(r.Bytes)
	j.Content.Salt = base64.StdEncoding.EncodeToString(r.Salt[:])
	return json.Marshal(&j)
}

func parseRevealed(b []byte) (*revealed, error) {
	if len(b) > maxRevealed {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", errRevealed, len(b), maxRevealed)
	}
	// The error of the parser could quote a content, which may be a secret.
	var j revealedJSON
	if err := json.Unmarshal(b, &j, json.RejectUnknownMembers(true)); err != nil {
		if e := new(jsontext.SyntacticError); errors.As(err, &e) {
			return nil, fmt.Errorf("%w: JSON error at byte %d", errRevealed, e.ByteOffset)
		}
		return nil, fmt.Errorf("%w: want {\"content\":{action, bytes, name, salt, session}}", errRevealed)
	}
	r := &revealed{Action: j.Content.Action}
	r.Name = j.Content.Name
	var err error
	if r.Session, err = record.ParseSessionID(j.Content.Session); err != nil {
		return nil, fmt.Errorf("%w: session: %w", errRevealed, err)
	}
	salt, err := base64.StdEncoding.Strict().DecodeString(j.Content.Salt)
	if err != nil || len(salt) != len(r.Salt) {
		return nil, fmt.Errorf("%w: the salt is not 32 bytes in base64", errRevealed)
	}
	copy(r.Salt[:], salt)
	if r.Bytes, err = base64.StdEncoding.Strict().DecodeString(j.Content.Bytes); err != nil {
		return nil, fmt.Errorf("%w: bytes are not base64", errRevealed)
	}
	if again, err := r.marshal(); err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: not in its only form, as \"affidavit disclose\" writes it", errRevealed)
	}
	return r, nil
}
