package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/client/imports"
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
	signed bool // the record's attested key signed what the action says was answered

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

// status is that of the disclosure and its contents.
func (s *shown) status() int {
	status := statuses[statusOf(s.unread, s.err)]
	for _, c := range s.contents {
		status = worse(status, statuses[statusOf(c.unread, c.err)])
	}
	return status
}

// statusOf returns the word for what couldn't be read, or shows nothing.
func statusOf(unread, err error) string {
	switch {
	case unread != nil:
		return judge.Unread
	case err != nil:
		return judge.NotProven
	}
	return judge.Good
}

// detailOf says why, if it isn't good.
func detailOf(unread, err error) string {
	if err := cmp.Or(unread, err); err != nil {
		return err.Error()
	}
	return ""
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
		if s.d, s.source, s.err = a.Disclosed(b); s.err == nil {
			// A response that the run's attested key signed.
			if s.signed, s.err = imports.Signed(a.Finding.Subject.Entry(), s.d.Action); s.err != nil {
				s.d = nil
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
			if s.signed {
				hang(w, "  ", "(The signature in it is by the key that the record's quote commits to. It covers hashes of request and response, which whoever has both can compare.)")
			}
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

func (s *shown) json() judge.Disclosure {
	j := judge.Disclosure{File: s.file, Status: statusOf(s.unread, s.err), Detail: detailOf(s.unread, s.err), Contents: []judge.Content{}}
	if s.d != nil {
		j.Source, j.Action = s.source, s.d.Bytes
	}
	for _, c := range s.contents {
		item := judge.Content{File: c.file, Status: statusOf(c.unread, c.err), Detail: detailOf(c.unread, c.err)}
		if item.Status == judge.Good {
			item.Name, item.Bytes = c.r.Name, c.r.Bytes
		}
		j.Contents = append(j.Contents, item)
	}
	return j
}
