package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// A shown is a disclosure that is checked against what a file proves.
type shown struct {
	file     string
	contents []*shownContent // that are of its action

	// One of these is set.
	unread error // the file couldn't be read
	err    error // why it shows nothing
	d      *record.Disclosure

	// source is who vouches for the action, the same as for the list that it is in.
	source verifier.Source
}

// A shownContent is a content that is compared with the digest in a disclosed
// action.
type shownContent struct {
	file   string
	unread error // the file couldn't be read
	err    error // why it isn't what the action had
	r      *revealed
}

func (s *shown) status() int {
	status := exitGood
	switch {
	case s.unread != nil:
		status = exitError
	case s.d == nil:
		status = exitNotGenuine
	}
	for _, c := range s.contents {
		status = worse(status, c.status())
	}
	return status
}

func (c *shownContent) status() int {
	switch {
	case c.unread != nil:
		return exitError
	case c.err != nil:
		return exitNotGenuine
	}
	return exitGood
}

// word is what scripts read for a status.
func word(status int) string {
	return map[int]string{exitGood: "good", exitRefused: "refused", exitNotGenuine: "not-proven", exitError: "unread"}[status]
}

// show checks the disclosures and contents that the flags of verify name against
// the finding of a, the only file.
func (a *answer) show(c *console, disclosures, contents []string) {
	for _, name := range disclosures {
		s := &shown{file: name}
		a.disclosed = append(a.disclosed, s)
		b, err := c.read(name)
		if err != nil {
			c.complain("affidavit verify: %v", err)
			s.unread = err
			continue
		}
		d, err := record.ParseDisclosure(b)
		if err == nil {
			err = a.commits(d)
		}
		if s.err = err; err != nil {
			continue
		}
		s.d, s.source = d, verifier.SourceUnknown
		for _, claim := range a.finding.Claims {
			if claim.ID == "actions" || claim.ID == "model.calls" {
				s.source = claim.Source
			}
		}
	}
	for _, name := range contents {
		content := &shownContent{file: name}
		var of *shown // by default the first, to have a place to say what is wrong
		b, err := c.read(name)
		switch {
		case err != nil:
			c.complain("affidavit verify: %v", err)
			content.unread = err
		default:
			if content.r, content.err = parseRevealed(b); content.err == nil {
				of, content.err = a.compare(content.r)
			}
		}
		if of == nil {
			of = a.disclosed[0]
		}
		of.contents = append(of.contents, content)
	}
}

// commits checks that the subject of a's finding commits to the action of d.
func (a *answer) commits(d *record.Disclosure) error {
	if a.finding == nil {
		return errors.New("the file that it would be checked against proves nothing")
	}
	switch e := a.finding.Subject.Entry(); {
	case e == nil:
	case e.Statement().Session != nil:
		return d.VerifySession(e.Statement().Session)
	case e.Statement().ModelRun != nil:
		// Each call of a model names the session that it was for.
		return d.Verify(e.Statement().ModelRun.Calls.Root, e.Statement().ModelRun.Calls.Size)
	}
	return fmt.Errorf("%s is about the %s, which commits to no actions: use the bundle of the final record", clean(a.file), roles[a.finding.Subject.Role])
}

// compare checks that r is a content of one of the disclosed actions, and returns
// which.
func (a *answer) compare(r *revealed) (*shown, error) {
	for _, s := range a.disclosed {
		if s.d == nil || s.d.Index != r.Action || s.d.Action.Session != r.Session {
			continue
		}
		return s, session.VerifyContent(s.d.Action, r.Name, r.Salt, r.Bytes)
	}
	return nil, fmt.Errorf("of action %d of session %s, of which no disclosure is shown", r.Action, r.Session)
}

// printDisclosed prints what the disclosures show: single actions, each with who
// vouches for it.
func (a *answer) printDisclosed(c *console) {
	w := c.stdout
	for _, s := range a.disclosed {
		if s.unread != nil {
			continue
		}
		fmt.Fprintln(w)
		if s.d == nil {
			c.headline(exitNotGenuine, fmt.Sprintf("NOT SHOWN: %s: %s", clean(s.file), clean(strings.TrimPrefix(s.err.Error(), "malformed: "))))
		} else {
			act := s.d.Action
			c.headline(exitGood, fmt.Sprintf("SHOWN: action %d of %d of session %s, from %s", act.Index, s.d.Tree.Size, act.Session, clean(s.file)))
			for _, src := range sources {
				if src.source == s.source {
					fmt.Fprintf(w, "%s\n", src.title)
				}
			}
			actionFields(act).print(w, "  ")
			hang(w, "  ", "(That the record's list has exactly this action was checked. What the action says is the word of its source.)")
		}
		for _, content := range s.contents {
			switch {
			case content.unread != nil:
			case content.err != nil:
				c.headline(exitNotGenuine, fmt.Sprintf("NOT SHOWN: %s: %s", clean(content.file), clean(content.err.Error())))
			default:
				c.headline(exitGood, fmt.Sprintf("SHOWN: %s of action %d, %d bytes, from %s", clean(content.r.Name), content.r.Action, len(content.r.Bytes), clean(content.file)))
				printContent(c, content.r.Bytes)
			}
		}
	}
}

func printContent(c *console, b []byte) {
	if !utf8.Valid(b) {
		fmt.Fprintln(c.stdout, "  (not text)")
		return
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(b), "\n"), "\n") {
		fmt.Fprintln(c.stdout, "  "+clean(line))
	}
}

// actionFields are the members of an action that it has.
func actionFields(a *record.Action) fields {
	f := fields{{"index", a.Index}, {"session", a.Session.String()}, {"time", a.Time}, {"outcome", a.Outcome}}
	attributes := fields{}
	for _, name := range slices.Sorted(maps.Keys(a.Attributes)) {
		attributes = append(attributes, field{name, a.Attributes[name]})
	}
	f = append(f, field{"attributes", attributes})
	for _, d := range []struct {
		name   string
		digest *record.Digest
	}{{"arguments", a.Arguments}, {"result", a.Result}, {"policy", a.Policy}} {
		if d.digest != nil {
			f = append(f, field{d.name, fmt.Sprintf("withheld; digest %x", *d.digest)})
		}
	}
	return append(f, field{"traceId", hexed(a.TraceID[:])}, field{"spanId", hexed(a.SpanID[:])})
}

// disclosedJSON is a disclosure for scripts.
type disclosedJSON struct {
	File     string          `json:"file"`
	Status   string          `json:"status"` // good, not-proven or unread
	Detail   string          `json:"detail"`
	Source   verifier.Source `json:"source"` // who vouches for the action; empty unless it is shown
	Action   json.RawMessage `json:"action"` // the document; null unless it is shown
	Contents []contentJSON   `json:"contents"`
}

// contentJSON is a content of a disclosed action for scripts.
type contentJSON struct {
	File   string `json:"file"`
	Status string `json:"status"` // good, not-proven or unread
	Detail string `json:"detail"`
	Name   string `json:"name"`
	Bytes  []byte `json:"bytes"` // base64; null unless it is the action's
}

func (s *shown) json() disclosedJSON {
	j := disclosedJSON{File: s.file, Status: word(exitGood), Contents: []contentJSON{}}
	switch {
	case s.unread != nil:
		j.Status, j.Detail = word(exitError), s.unread.Error()
	case s.d == nil:
		j.Status, j.Detail = word(exitNotGenuine), s.err.Error()
	default:
		j.Source, j.Action = s.source, s.d.Bytes
	}
	for _, c := range s.contents {
		item := contentJSON{File: c.file, Status: word(c.status())}
		switch {
		case c.unread != nil:
			item.Detail = c.unread.Error()
		case c.err != nil:
			item.Detail = c.err.Error()
		default:
			item.Name, item.Bytes = c.r.Name, c.r.Bytes
		}
		j.Contents = append(j.Contents, item)
	}
	return j
}
