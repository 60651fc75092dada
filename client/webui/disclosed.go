package webui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier"
)

// maxDisclosures is how many disclosures are looked at at once.
const maxDisclosures = 16

// A disclosedAction is one that was disclosed to the reader, or what was taken for one.
type disclosedAction struct {
	File    string
	Problem string // why it isn't one of the record's
	Index   uint64
	Of      uint64 // actions of the record
	Source  string // who vouches for what it says
	Tone    string
	Fields  []subject
	Raw     string
}

var sourceWords = map[verifier.Source][2]string{
	verifier.SourceMeasuredCode: {"known code in protected hardware, which recorded the list that has it", "known"},
	verifier.SourceVendor:       {"the vendor’s, or that of software that nobody whom you trust has identified", "claimed"},
	verifier.SourceUnknown:      {"nobody’s whom you trust", "unknown"},
}

// committing reports whether a record has a list of actions, of which some may be disclosed.
func committing(r bundle.Role) bool { return r == bundle.RoleFinal || r == bundle.RoleModelRun }

// disclosurePage shows a record with actions that the reader was shown, and sends here to see whether they are in its list.
// Nothing of them is kept: not in memory beyond the answer, not on disk, not in a log.
func (u *UI) disclosurePage(r *http.Request) (*answer, error) {
	if err := noParameters(r); err != nil {
		return nil, err
	}
	r.Body = http.MaxBytesReader(nil, r.Body, maxDisclosures*(record.MaxDisclosure+1024))
	parts, err := r.MultipartReader() // which, unlike a parsed form, writes no temporary files
	if err != nil {
		return nil, badRequest{err}
	}
	var files []disclosedFile
	for {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, badRequest{err}
		}
		b, err := io.ReadAll(io.LimitReader(p, record.MaxDisclosure+1))
		switch {
		case err != nil:
			return nil, badRequest{err}
		case p.FormName() != "disclosure":
			return nil, badRequest{fmt.Errorf("there is no field %.80q", p.FormName())}
		case len(b) == 0 && p.FileName() == "": // no file was chosen
		case len(files) == maxDisclosures:
			return nil, badRequest{fmt.Errorf("these are more than %d files", maxDisclosures)}
		default:
			files = append(files, disclosedFile{p.FileName(), b})
		}
	}
	if len(files) == 0 {
		return nil, badRequest{errors.New("no file was chosen")}
	}
	a, err := u.record(r, files)
	if a != nil {
		a.status = http.StatusOK // which no browser keeps
	}
	return a, err
}

type disclosedFile struct {
	name  string
	bytes []byte
}

// disclosed checks disclosures against a record.
func disclosed(c *checked, files []disclosedFile) []disclosedAction {
	j := &judge.Judgment{File: "this record", NotProven: c.err, Finding: c.finding}
	var all []disclosedAction
	for _, f := range files {
		a := disclosedAction{File: f.name}
		d, source, err := j.Disclosed(f.bytes)
		if err != nil {
			a.Problem = sentence(err.Error())
			all = append(all, a)
			continue
		}
		a.Index, a.Of, a.Raw = d.Index, d.Tree.Size, text(d.Bytes)
		words, ok := sourceWords[source]
		if !ok {
			words = sourceWords[verifier.SourceUnknown]
		}
		a.Source, a.Tone = words[0], words[1]
		dec := json.NewDecoder(bytes.NewReader(d.Bytes)) // well-formed: it was parsed
		dec.UseNumber()
		a.Fields = flatten(nil, dec, "")
		all = append(all, a)
	}
	return all
}

// flatten reads a JSON value, and appends what is in it, each with its path, in the order of the text.
func flatten(to []subject, dec *json.Decoder, path string) []subject {
	t, err := dec.Token()
	if err != nil {
		return to
	}
	d, ok := t.(json.Delim)
	if !ok {
		return append(to, subject{Name: path, Value: fmt.Sprint(t)})
	}
	for n := 0; dec.More(); n++ {
		name := fmt.Sprintf("%s[%d]", path, n)
		if d == '{' {
			key, err := dec.Token()
			if err != nil {
				return to
			}
			if name = fmt.Sprint(key); path != "" {
				name = path + " › " + name
			}
		}
		to = flatten(to, dec, name)
	}
	_, _ = dec.Token() // the end, which is there
	return to
}
