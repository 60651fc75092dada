package judge

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// Scripts read the same members whatever became of a file, and never null for a list; and a file that proves nothing has no
// claims, however much of it was read.
func TestAnswer(t *testing.T) {
	o := bundletest.LogOptions{Witnesses: 3, Threshold: 2}
	debug := tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug
	hints := Hints{OtherFile: ": other", CollateralFile: "its file", CollateralNeeded: "fetch it"}
	judgment := func(steps bundletest.Steps, pick func(*bundletest.Session) []byte, collateral string) *Judgment {
		s := bundletest.NewSession(t, o, steps)
		opts := s.Options()
		checker, err := bundle.NewChecker(opts)
		if err != nil {
			t.Fatal(err)
		}
		j := &Options{Checker: checker, LogPolicy: opts.LogPolicy, Hints: hints}
		if collateral != "" {
			j.Collateral = []byte(collateral)
		}
		return File("a\u202eb", pick(s), j)
	}
	whole := func(s *bundletest.Session) []byte {
		b, err := s.Bundle().Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	proof := func(s *bundletest.Session) []byte { return s.Proof(s.Final, s.Publish(s.Now)).Bytes() }
	for _, tt := range []struct {
		name   string
		j      *Judgment
		status string
		detail string // a part
	}{
		{"good", judgment(bundletest.Steps{}, whole, ""), Good, ""},
		{"refused", judgment(bundletest.Steps{Final: func(d *bundletest.Draft) { d.Quote.TDAttributes = &debug }}, whole, ""), Refused, ""},
		{"another file", judgment(bundletest.Steps{}, func(*bundletest.Session) []byte { return []byte("x") }, ""), NotProven, "nor a .tlog-proof: other"},
		{"a lone proof", judgment(bundletest.Steps{}, proof, ""), NotProven, ": fetch it"},
		{"broken collateral", judgment(bundletest.Steps{}, proof, "{"), NotProven, "its file: "},
		{"unread", &Judgment{File: "a\u202eb", Unread: errors.New("no such file")}, Unread, "no such file"},
	} {
		a := tt.j.Answer()
		if a.Status != tt.status || !strings.Contains(a.Detail, tt.detail) || (a.Detail == "") != (tt.detail == "") {
			t.Errorf("%s: %s, %q", tt.name, a.Status, a.Detail)
		}
		if proven := tt.status == Good || tt.status == Refused; (len(a.Claims) > 0) != proven || (len(a.Limits) > 0) != proven || (a.Log != nil) != proven ||
			(a.Reason != "") != (tt.status == NotProven) || a.Allowed != (tt.status == Good) {
			t.Errorf("%s: %+v", tt.name, a)
		}
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range []string{"refusals", "claims", "leaves", "disclosures", "assumptions", "limits"} {
			if strings.Contains(string(b), `"`+list+`":null`) {
				t.Errorf("%s: %s is null", tt.name, list)
			}
		}
		for _, l := range a.Leaves {
			if Roles[bundle.Role(l.Role)] == "" {
				t.Errorf("%s: no words for the role %s", tt.name, l.Role)
			}
		}
		// A disclosure is checked against proven files only.
		if _, _, err := tt.j.Disclosed([]byte("{}")); err == nil {
			t.Errorf("%s: an empty disclosure is accepted", tt.name)
		}
	}
}
