package hooks

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Scopes of a hook configuration.
const (
	ScopeUser    = "user"    // all projects of the user
	ScopeProject = "project" // the project in the current directory
)

// paths are of the configuration files, below the home directory and below the project.
var paths = map[string]struct{ user, project string }{
	"cursor":      {".cursor/hooks.json", ".cursor/hooks.json"},
	"windsurf":    {".codeium/windsurf/hooks.json", ".windsurf/hooks.json"},
	"claude-code": {".claude/settings.json", ".claude/settings.json"},
}

// ConfigPath is the agent's hook configuration file in a scope; base is the home
// directory of the user, or the root of the project.
func ConfigPath(agent, scope, base string) (string, error) {
	p, ok := paths[agent]
	switch {
	case !ok:
		return "", fmt.Errorf("unknown agent %.40q", agent)
	case scope == ScopeUser:
		return filepath.Join(base, filepath.FromSlash(p.user)), nil
	case scope == ScopeProject:
		return filepath.Join(base, filepath.FromSlash(p.project)), nil
	}
	return "", fmt.Errorf("unknown scope %.40q", scope)
}

// small is the executable that does nothing but send events.
const small = "affidavit-hook"

// Command is the shell command that an agent runs for an event: affidavit-hook, if it lies
// beside the executable at path, which is affidavit's; else that with `record hook`, which
// does the same and takes longer to start.
func Command(path, agent, socket string) string {
	c := quote(path) + " record hook"
	beside := filepath.Join(filepath.Dir(path), small+filepath.Ext(path))
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && (info.Mode()&0o111 != 0 || runtime.GOOS == "windows") {
		c = quote(beside)
	}
	c += " --agent " + agent
	if socket != "" {
		c += " --socket " + quote(socket)
	}
	return c
}

// quote quotes s for a POSIX shell, if it must be.
func quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// mine matches commands that Install wrote, whatever the executable's folder.
func mine(agent string) *regexp.Regexp {
	return regexp.MustCompile(`^'?(?:.*/)?affidavit[^/ ]*'?(?: record hook)? --agent ` + regexp.QuoteMeta(agent) + `(?: |$)`)
}

// An entry is a member of an object whose order is kept.
type entry struct {
	name  string
	value jsontext.Value
}

func entries(b []byte) ([]entry, error) {
	members, order, err := object(b, 0)
	if err != nil {
		return nil, err
	}
	var l []entry
	for _, k := range order {
		l = append(l, entry{k, members[k]})
	}
	return l, nil
}

func list(b jsontext.Value) ([]jsontext.Value, error) {
	d := jsontext.NewDecoder(bytes.NewReader(b))
	if d.PeekKind() != '[' {
		return nil, errors.New("not a list")
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	var l []jsontext.Value
	for d.PeekKind() != ']' {
		v, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		l = append(l, bytes.Clone(v))
	}
	return l, nil
}

func joinObject(l []entry) jsontext.Value {
	b := []byte{'{'}
	for i, e := range l {
		if i > 0 {
			b = append(b, ',')
		}
		b, _ = jsontext.AppendQuote(b, e.name) // from a decoder: valid UTF-8
		b = append(b, ':')
		b = append(b, e.value...)
	}
	return append(b, '}')
}

func joinList(l []jsontext.Value) jsontext.Value {
	return append(append([]byte{'['}, bytes.Join(byteSlices(l), []byte{','})...), ']')
}

func byteSlices(l []jsontext.Value) [][]byte {
	s := make([][]byte, len(l))
	for i := range l {
		s[i] = l[i]
	}
	return s
}

// Edit returns the configuration with our hooks, or without them if command is "".
// Everything else in it keeps its place and its value. config is nil if there is no file;
// the result is nil if nothing is left that is worth a file.
func Edit(agent string, config []byte, command string) ([]byte, error) {
	ag := agents[agent]
	if ag == nil {
		return nil, fmt.Errorf("unknown agent %.40q", agent)
	}
	var top []entry
	if len(bytes.TrimSpace(config)) > 0 {
		var err error
		if top, err = entries(config); err != nil {
			return nil, err
		}
	}
	i := slices.IndexFunc(top, func(e entry) bool { return e.name == "hooks" })
	var events []entry
	if i >= 0 {
		var err error
		if events, err = entries(top[i].value); err != nil {
			return nil, fmt.Errorf("hooks: %w", err)
		}
	}
	var kept []entry
	for _, e := range events {
		l, err := list(e.value)
		if err != nil {
			return nil, fmt.Errorf("hooks.%s: %v", e.name, err)
		}
		rest, removed, err := without(agent, l)
		if err != nil {
			return nil, fmt.Errorf("hooks.%s: %w", e.name, err)
		}
		switch {
		case !removed:
			kept = append(kept, e)
		case len(rest) > 0 || command != "" && slices.Contains(ag.ours, e.name):
			kept = append(kept, entry{e.name, joinList(rest)})
		}
	}
	if command != "" {
		for _, name := range ag.ours {
			j := slices.IndexFunc(kept, func(e entry) bool { return e.name == name })
			if j < 0 {
				kept = append(kept, entry{name, jsontext.Value("[]")})
				j = len(kept) - 1
			}
			l, err := list(kept[j].value)
			if err != nil {
				return nil, err
			}
			kept[j].value = joinList(append(l, hook(agent, name, command)))
		}
	}
	switch {
	case i >= 0 && len(kept) == 0 && len(events) > 0 && agent != "cursor":
		top = slices.Delete(top, i, i+1)
	case i >= 0:
		top[i].value = joinObject(kept)
	case len(kept) > 0:
		if agent == "cursor" && !slices.ContainsFunc(top, func(e entry) bool { return e.name == "version" }) {
			top = append(top, entry{"version", jsontext.Value("1")})
		}
		top = append(top, entry{"hooks", joinObject(kept)})
	}
	out := joinObject(top)
	if command == "" {
		switch string(compact(out)) {
		case `{}`, `{"version":1,"hooks":{}}`, `{"hooks":{}}`:
			return nil, nil
		}
	}
	if err := out.Indent(jsontext.WithIndent("  ")); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return append(out, '\n'), nil
}

func compact(v jsontext.Value) jsontext.Value {
	v = bytes.Clone(v)
	if v.Compact() != nil {
		return nil
	}
	return v
}

// hook is one hook as the agent's configuration has it.
func hook(agent, event, command string) jsontext.Value {
	quoted, _ := jsontext.AppendQuote(nil, command) // a path that isn't UTF-8 is mangled; Install refuses it
	q := string(quoted)
	switch agent {
	case "claude-code":
		h := `{"hooks":[{"type":"command","command":` + q + `,"timeout":5}]}`
		if strings.HasSuffix(event, "ToolUse") || strings.HasSuffix(event, "ToolUseFailure") {
			h = `{"matcher":"*",` + h[1:]
		}
		return jsontext.Value(h)
	case "windsurf":
		return jsontext.Value(`{"command":` + q + `,"show_output":false}`)
	}
	return jsontext.Value(`{"command":` + q + `}`)
}

// without takes our hooks out of an event's list. In Claude Code's, a hook is in a
// group with a matcher; a group that had nothing but ours goes too.
func without(agent string, l []jsontext.Value) (rest []jsontext.Value, removed bool, err error) {
	ours := mine(agent)
	isOurs := func(v jsontext.Value) bool {
		if v.Kind() != '{' {
			return false
		}
		m, _, err := object(v, 0)
		return err == nil && ours.MatchString(scalar(m["command"]))
	}
	for _, v := range l {
		if agent != "claude-code" {
			if isOurs(v) {
				removed = true
				continue
			}
			rest = append(rest, v)
			continue
		}
		group, err := entries(v)
		i := slices.IndexFunc(group, func(e entry) bool { return e.name == "hooks" })
		if err != nil || i < 0 {
			rest = append(rest, v) // not ours, and not ours to judge
			continue
		}
		hooks, err := list(group[i].value)
		if err != nil {
			rest = append(rest, v)
			continue
		}
		others := slices.DeleteFunc(slices.Clone(hooks), isOurs)
		switch {
		case len(others) == len(hooks):
			rest = append(rest, v)
		case len(others) > 0:
			group[i].value = joinList(others)
			rest = append(rest, joinObject(group))
			removed = true
		default:
			removed = true
		}
	}
	return rest, removed, nil
}

// Install writes our hooks into the configuration file at path, beside the user's own, and
// makes the file if there is none. Uninstall, with an empty command, removes exactly ours, and the file
// if nothing else was in it. The file is replaced at once, or not at all.
func Install(agent, path, command string) error {
	// A link is followed: people keep their configuration elsewhere.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	mode := fs.FileMode(0o644)
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if command == "" {
			return nil
		}
	case err != nil:
		return err
	default:
		if info, err := os.Stat(path); err == nil {
			mode = info.Mode().Perm()
		}
	}
	if !utf8.ValidString(command) {
		return fmt.Errorf("the path of this program or of the socket is not UTF-8: %q", command)
	}
	b, err := Edit(agent, old, command)
	if err != nil {
		return fmt.Errorf("%s: %w; the file was left as it is", path, err)
	}
	if b == nil {
		return os.Remove(path)
	}
	if bytes.Equal(b, old) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".affidavit-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
