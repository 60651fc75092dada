package tdx_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	guestdata "github.com/google/go-tdx-guest/testing/testdata"
)

func unix(s int64) time.Time { return time.Unix(s, 0) }

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(x, y)
}

// seedCollateral returns collateral in its JSON form.
func seedCollateral(tb testing.TB) [][]byte {
	_, c, _ := newScenario().make(tb)
	b, err := c.JSON()
	if err != nil {
		tb.Fatal(err)
	}
	all := [][]byte{b}
	for _, v := range vectors(tb) {
		all = append(all, v.collateral)
	}
	return all
}

// TestCollateralJSON checks that the JSON form holds everything, both ways.
func TestCollateralJSON(t *testing.T) {
	for _, b := range seedCollateral(t) {
		c, err := tdx.ParseCollateralJSON(b)
		if err != nil {
			t.Fatal(err)
		}
		again, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var x, y map[string]string
		if err := json.Unmarshal(b, &x); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &y); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(x, y) {
			t.Errorf("got %v, want %v", y, x)
		}
		c2, err := tdx.ParseCollateralJSON(again)
		if err != nil || !reflect.DeepEqual(c, c2) {
			t.Errorf("got %+v, %v; want %+v", c2, err, c)
		}
	}
}

func TestCollateralJSONErrors(t *testing.T) {
	_, c, _ := newScenario().make(t)
	good, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]string
	if err := json.Unmarshal(good, &members); err != nil {
		t.Fatal(err)
	}
	refused := func(name string, b []byte) {
		t.Helper()
		if c, err := tdx.ParseCollateralJSON(b); reasonOf(err) != tdx.ReasonCollateral {
			t.Errorf("%s: got %+v, %v", name, c, err)
		}
	}
	with := func(name, value string) []byte {
		m := make(map[string]string)
		for k, v := range members {
			m[k] = v
		}
		m[name] = value
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if c2, err := tdx.ParseCollateralJSON(with("pck_crl", members["pck_crl"])); err != nil || !reflect.DeepEqual(c, c2) {
		t.Fatalf("got %+v, %v", c2, err) // else the rows below pass for the wrong reason
	}
	for name, value := range members {
		quoted, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		member := append([]byte(`"`+name+`":`), quoted...)
		if !bytes.Contains(good, member) {
			t.Fatalf("%s isn't in the form expected", name)
		}
		refused(name+" missing", bytes.Replace(good, member, []byte(`"pck_certificate_chain":""`), 1))
		refused(name+" null", bytes.Replace(good, member, []byte(`"`+name+`":null`), 1))
		refused(name+" twice", bytes.Replace(good, []byte("{"), append([]byte("{"), append(member, ',')...), 1))
		refused(name+" in capitals", bytes.Replace(good, []byte(name), bytes.ToUpper([]byte(name)), 1))
	}
	refused("unknown member", with("x", ""))
	refused("trailing data", append(bytes.Clone(good), '{'))
	refused("not an object", []byte(`[]`))
	refused("empty", nil)
	refused("CRL not in hex", with("pck_crl", members["pck_crl"]+"0"))
	refused("text with another member", with("tcb_info", members["tcb_info"]+`,"x":{}`))
	refused("text with another signature", with("tcb_info", members["tcb_info"]+`,"signature":"`+members["tcb_info_signature"]+`","x":{}`))
	refused("text twice", with("tcb_info", members["tcb_info"]+`,"tcbInfo":`+members["tcb_info"]))
	refused("text with space", with("tcb_info", members["tcb_info"]+" "))
	refused("text a string", with("tcb_info", `"`+strings.ReplaceAll(members["tcb_info"], `"`, `\"`)+`"`))
	refused("text empty", with("qe_identity", ""))
	refused("text with duplicate members", with("qe_identity", `{"a":1,"a":1}`))
	refused("signature ends early", with("tcb_info_signature", members["tcb_info_signature"][2:]+`"}`))
	refused("signature not in hex", with("tcb_info_signature", strings.Repeat("x", 128)))
	refused("signature too short", with("tcb_info_signature", members["tcb_info_signature"][2:]))
	refused("signature with an escape", with("tcb_info_signature", members["tcb_info_signature"][6:]+`\u0030`))
	refused("signature empty", with("qe_identity_signature", ""))
}

// TestBodies checks bodies that aren't as Intel serves them. The signature is
// over the text, so that space around it doesn't matter; what can't be written in
// the JSON form isn't.
func TestBodies(t *testing.T) {
	s := newScenario()
	raw, c, root := s.make(t)
	body := string(c.TCBInfo)
	sig := body[len(body)-128-2 : len(body)-2]
	text := strings.TrimSuffix(strings.TrimPrefix(body, `{"tcbInfo":`), `,"signature":"`+sig+`"}`)
	for _, tt := range []struct {
		name, body string
		reason     tdx.Reason
	}{
		{"as served", body, ""},
		{"spaces", " { \"tcbInfo\" :\n" + text + " ,\t\"signature\": \"" + sig + "\" }\r\n", ""},
		{"signature first", `{"signature":"` + sig + `","tcbInfo":` + text + `}`, ""},
		{"signature in capitals", strings.Replace(body, sig, strings.ToUpper(sig), 1), ""},
		{"space inside the text", strings.Replace(body, text, strings.Replace(text, ":", ": ", 1), 1), tdx.ReasonSignature},
		{"escape inside the text", strings.Replace(body, `"UpToDate"`, `"\u0055pToDate"`, 1), tdx.ReasonSignature},
		{"third member", strings.Replace(body, `{"tcbInfo"`, `{"x":1,"tcbInfo"`, 1), tdx.ReasonCollateral},
		{"text twice", `{"tcbInfo":` + text + "," + body[1:], tdx.ReasonCollateral},
		{"signature twice", strings.TrimSuffix(body, "}") + `,"signature":"` + sig + `"}`, tdx.ReasonCollateral},
		{"no signature", `{"tcbInfo":` + text + `}`, tdx.ReasonCollateral},
		{"signature null", `{"tcbInfo":` + text + `,"signature":null}`, tdx.ReasonCollateral},
		{"no text", `{"signature":"` + sig + `"}`, tdx.ReasonCollateral},
		{"text a string", `{"tcbInfo":"x","signature":"` + sig + `"}`, tdx.ReasonCollateral},
		{"text of the other", strings.Replace(body, "tcbInfo", "enclaveIdentity", 1), tdx.ReasonCollateral},
		{"trailing data", body + "{}", tdx.ReasonCollateral},
		{"truncated", body[:len(body)-1], tdx.ReasonCollateral},
		{"empty", "", tdx.ReasonCollateral},
		{"null", "null", tdx.ReasonCollateral},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := *c
			c.TCBInfo = []byte(tt.body)
			r, err := verifyAll(raw, &c, root, s.at)
			if tt.reason != "" {
				checkOutcome(t, r, err, "", tt.reason)
				if tt.reason == tdx.ReasonCollateral {
					if _, err := c.JSON(); err == nil {
						t.Error("has a JSON form")
					}
				}
				return
			}
			checkOutcome(t, r, err, tdx.StatusUpToDate, "")
			b, err := c.JSON()
			if (err == nil) != (tt.name == "as served" || tt.name == "signature in capitals") {
				t.Errorf("JSON: %v", err)
			}
			if err == nil {
				if c2, err := tdx.ParseCollateralJSON(b); err != nil || !reflect.DeepEqual(&c, c2) {
					t.Errorf("got %+v, %v; want %+v", c2, err, c)
				}
			}
		})
	}
}

// TestCompileRetainsCopy checks that who supplied the collateral can't change it
// afterwards.
func TestCompileRetainsCopy(t *testing.T) {
	_, c, root := newScenario().make(t)
	set, err := tdx.Compile(c, root)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Clone(c.TCBInfo)
	c.TCBInfo[0], c.PCKCRL = 'x', nil
	if !bytes.Equal(set.Collateral().TCBInfo, want) || len(set.Collateral().PCKCRL) == 0 {
		t.Error("the set changed with its input")
	}
	if set.FMSPC() != "90c06f000000" || set.PCEID() != "0000" || set.PCKCA() != tdx.CAPlatform ||
		set.TCBEvaluationDataNumber() != 18 || set.QEEvaluationDataNumber() != 18 || set.Root() != root {
		t.Errorf("got %q, %q, %q, %d, %d", set.FMSPC(), set.PCEID(), set.PCKCA(), set.TCBEvaluationDataNumber(), set.QEEvaluationDataNumber())
	}
}

// FuzzParseCollateral checks that accepted collateral survives its JSON form, and
// that nothing panics on the way to a set.
func FuzzParseCollateral(f *testing.F) {
	for _, b := range seedCollateral(f) {
		f.Add(b)
	}
	_, _, root := newScenario().make(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := tdx.ParseCollateralJSON(b)
		if err != nil {
			if reasonOf(err) != tdx.ReasonCollateral {
				t.Errorf("error without reason: %v", err)
			}
			return
		}
		again, err := c.JSON()
		if err != nil {
			t.Fatalf("accepted, but has no JSON form: %v", err)
		}
		c2, err := tdx.ParseCollateralJSON(again)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range c.Components() {
			if !bytes.Equal(part, c2.Components()[i]) {
				t.Errorf("component %d isn't the same:\n%q\n%q", i, part, c2.Components()[i])
			}
		}
		if _, err := tdx.Compile(c, root); err != nil && reasonOf(err) == "" {
			t.Errorf("error without reason: %v", err)
		}
	})
}

// seedTCBInfos returns signed texts of TCB info.
func seedTCBInfos(tb testing.TB) [][]byte {
	var texts [][]byte
	add := func(body []byte) {
		var b struct {
			TCBInfo json.RawMessage `json:"tcbInfo"`
		}
		if err := json.Unmarshal(body, &b); err != nil {
			tb.Fatal(err)
		}
		texts = append(texts, b.TCBInfo)
	}
	add(guestdata.TcbInfoBody)
	for _, b := range seedCollateral(tb) {
		c, err := tdx.ParseCollateralJSON(b)
		if err != nil {
			tb.Fatal(err)
		}
		add(c.TCBInfo)
	}
	return texts
}

// edits calls f with texts that have one thing in the JSON text changed: a member
// missing, null, or with a name in other case, at any depth.
func edits(t *testing.T, text []byte, f func(what string, edited []byte)) {
	var root any
	if err := json.Unmarshal(text, &root); err != nil {
		t.Fatal(err)
	}
	emit := func(what string) {
		b, err := json.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		f(what, b)
	}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case []any:
			for i := range min(len(v), 2) {
				walk(path+"[]", v[i])
			}
		case map[string]any:
			for name, old := range v {
				delete(v, name)
				emit(path + "." + name + " missing")
				v[strings.ToUpper(name)] = old
				emit(path + "." + name + " upper")
				delete(v, strings.ToUpper(name))
				v[name] = nil
				emit(path + "." + name + " null")
				v[name] = old
				walk(path+"."+name, old)
			}
		}
	}
	walk("", root)
}

// TestTCBInfoMembers takes away, nulls and misspells every member of TCB info.
func TestTCBInfoMembers(t *testing.T) {
	s := newScenario()
	s.collateral.Levels = levels(tdx.StatusUpToDate)
	s.collateral.Modules = module(tdx.StatusUpToDate)
	_, c, _ := s.make(t)
	text := c.TCBInfo[len(`{"tcbInfo":`) : len(c.TCBInfo)-len(`,"signature":""}`)-128]
	n := 0
	edits(t, text, func(what string, edited []byte) {
		n++
		_, err := tdx.ParseTCBInfo(edited)
		optional := false
		for _, member := range []string{".tdxModuleIdentities ", ".advisoryIDs ", ".category ", ".type "} {
			optional = optional || strings.Contains(what, member) && !strings.HasSuffix(what, " null")
		}
		switch {
		case optional && err != nil:
			t.Errorf("%s: %v", what, err)
		case !optional && reasonOf(err) != tdx.ReasonTCB:
			t.Errorf("%s: got %v", what, err)
		}
	})
	if n < 100 {
		t.Errorf("only %d edits", n)
	}
}

// TestQEIdentityMembers does the same with QE identity.
func TestQEIdentityMembers(t *testing.T) {
	s := newScenario()
	s.collateral.QE.Levels = qe(tdx.StatusUpToDate)
	_, c, _ := s.make(t)
	text := c.QEIdentity[len(`{"enclaveIdentity":`) : len(c.QEIdentity)-len(`,"signature":""}`)-128]
	n := 0
	edits(t, text, func(what string, edited []byte) {
		n++
		_, err := tdx.ParseQEIdentity(edited)
		optional := strings.Contains(what, ".advisoryIDs ") && !strings.HasSuffix(what, " null")
		switch {
		case optional && err != nil:
			t.Errorf("%s: %v", what, err)
		case !optional && reasonOf(err) != tdx.ReasonQE:
			t.Errorf("%s: got %v", what, err)
		}
	})
	if n < 45 {
		t.Errorf("only %d edits", n)
	}
}

// TestTCBInfoValues changes single values of TCB info.
func TestTCBInfoValues(t *testing.T) {
	text := string(seedTCBInfos(t)[1])
	if _, err := tdx.ParseTCBInfo([]byte(text)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		old, new string
		ok       bool
	}{
		{`"version":3`, `"version":2`, false},
		{`"version":3`, `"version":4`, false},
		{`"version":3`, `"version":"3"`, false},
		{`"version":3`, `"version":3.0`, false},
		{`"id":"TDX"`, `"id":"SGX"`, false},
		{`"id":"TDX"`, `"id":"tdx"`, false},
		{`"tcbType":0`, `"tcbType":1`, false},
		{`"tcbType":0`, `"tcbType":-0`, false},
		{`"tcbType":0`, `"tcbType":0,"tcbType":0`, false},
		{`"tcbType":0`, `"tcbType":0,"TCBType":1`, true}, // unknown, like any other
		{`"tcbType":0`, `"tcbType":0,"new":{"a":[null]}`, true},
		{`"tcbType":0`, `"tcbType":0,"new":{"a":1,"a":1}`, false},
		{`"svn":3`, `"svn":256`, false},
		{`"svn":3`, `"svn":-1`, false},
		{`"svn":3`, `"svn":"3"`, false},
		{`"svn":3`, `"svn":255`, true},
		{`"pcesvn":13`, `"pcesvn":65536`, false},
		{`"pcesvn":13`, `"pcesvn":65535`, true},
		{`"isvsvn":5`, `"isvsvn":65536`, false},
		{`"fmspc":"90C06F000000"`, `"fmspc":"90C06F00000"`, false},
		{`"fmspc":"90C06F000000"`, `"fmspc":"90C06F00000000"`, false},
		{`"fmspc":"90C06F000000"`, `"fmspc":"90C06F00000x"`, false},
		{`"pceId":"0000"`, `"pceId":"000"`, false},
		{`"issueDate":"2026-06-01T00:00:00Z"`, `"issueDate":"2026-06-01T00:00:00+00:00"`, false},
		{`"issueDate":"2026-06-01T00:00:00Z"`, `"issueDate":"2026-06-01T00:00:00.5Z"`, false},
		{`"issueDate":"2026-06-01T00:00:00Z"`, `"issueDate":"2026-06-31T00:00:00Z"`, false},
		{`"issueDate":"2026-06-01T00:00:00Z"`, `"issueDate":"2026-6-01T00:00:00Z"`, false},
		{`"tcbDate":"2026-06-01T00:00:00Z"`, `"tcbDate":"2026-06-01"`, false},
		{`"advisoryIDs":["INTEL-SA-00960"]`, `"advisoryIDs":[null]`, false},
		{`"advisoryIDs":["INTEL-SA-00960"]`, `"advisoryIDs":[""]`, false},
		{`"advisoryIDs":["INTEL-SA-00960"]`, `"advisoryIDs":[]`, true},
		{`"advisoryIDs":["INTEL-SA-00960"]`, `"advisoryIDs":"INTEL-SA-00960"`, false},
		{`"sgxtcbcomponents":[`, `"sgxtcbcomponents":[{"svn":1},`, false},
		{`"tdxtcbcomponents":[`, `"tdxtcbcomponents":[{"svn":1},`, false},
		{`"tdxModule":{`, `"tdxModule":[{`, false},
		{`"UpToDate"`, `"uptodate"`, false},
		{`{`, `{}{`, false},
	} {
		edited := strings.Replace(text, tt.old, tt.new, 1)
		if tt.new == `"uptodate"` { // the first is a module's: take the platform's
			i := strings.LastIndex(text, tt.old)
			edited = text[:i] + tt.new + text[i+len(tt.old):]
		}
		if edited == text {
			t.Errorf("%s isn't there", tt.old)
			continue
		}
		if _, err := tdx.ParseTCBInfo([]byte(edited)); (err == nil) != tt.ok || err != nil && reasonOf(err) != tdx.ReasonTCB {
			t.Errorf("%s: got %v", tt.new, err)
		}
	}
}

// FuzzTCBInfo checks that what is understood of an accepted TCB info is all there
// is to it: written anew from that, it is understood the same.
func FuzzTCBInfo(f *testing.F) {
	for _, b := range seedTCBInfos(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := tdx.ParseTCBInfo(b)
		if err != nil {
			if reasonOf(err) != tdx.ReasonTCB {
				t.Errorf("error without reason: %v", err)
			}
			return
		}
		again, err := tdx.ParseTCBInfo(info.Encode())
		if err != nil {
			t.Fatalf("written anew, %s is refused: %v", info.Encode(), err)
		}
		if !reflect.DeepEqual(info, again) {
			t.Errorf("got %+v, want %+v", again, info)
		}
	})
}

// TestQEIdentityValues changes single values of a QE identity.
func TestQEIdentityValues(t *testing.T) {
	_, c, _ := newScenario().make(t)
	text := string(c.QEIdentity[len(`{"enclaveIdentity":`) : len(c.QEIdentity)-len(`,"signature":""}`)-128])
	if _, err := tdx.ParseQEIdentity([]byte(text)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		old, new string
		ok       bool
	}{
		{`"version":2`, `"version":1`, false},
		{`"version":2`, `"version":3`, false},
		{`"version":2`, `"version":2,"version":2`, false},
		{`"version":2`, `"version":2,"new":null`, true},
		{`"id":"TD_QE"`, `"id":"QE"`, false},
		{`"id":"TD_QE"`, `"id":"QVE"`, false},
		{`"isvprodid":2`, `"isvprodid":65538`, false},
		{`"isvsvn":4`, `"isvsvn":-4`, false},
		{`"miscselect":"00000000"`, `"miscselect":"000000"`, false},
		{`"UpToDate"`, `"SWHardeningNeeded"`, false},
		{`"tcbLevels":[`, `"tcbLevels":[{},`, false},
		{`{`, `[`, false},
	} {
		edited := strings.Replace(text, tt.old, tt.new, 1)
		if edited == text {
			t.Errorf("%s isn't there", tt.old)
			continue
		}
		if _, err := tdx.ParseQEIdentity([]byte(edited)); (err == nil) != tt.ok || err != nil && reasonOf(err) != tdx.ReasonQE {
			t.Errorf("%s: got %v", tt.new, err)
		}
	}
}
