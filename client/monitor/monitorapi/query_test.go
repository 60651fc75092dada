package monitorapi_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/log/record"
)

var digest = strings.Repeat("0a", 32)

func fullQuery() monitorapi.Query {
	return monitorapi.Query{
		Session: digest, Statement: digest, Tenant: digest, Vendor: "https://vendor.example", Release: digest, FMSPC: "90c06f000000",
		Platform: strings.Repeat("0b", 16), TCBStatus: "OutOfDate", Advisory: "INTEL-SA-00960", Model: "a model", Role: "model-run",
		Since: time.Date(2026, 11, 1, 0, 0, 0, 5e6, time.UTC), Until: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC), After: 7, Limit: 9,
	}
}

// A query survives the way through a URL. A parameter that is forgotten on one side would widen or lose what was asked.
func TestQueryValues(t *testing.T) {
	want := fullQuery()
	for i, v := 0, reflect.ValueOf(want); i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Errorf("the test leaves out %s", v.Type().Field(i).Name)
		}
	}
	got, err := monitorapi.ParseQuery(want.Values(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r := monitorapi.RecallQuery{Advisory: "A", FMSPC: want.FMSPC, Release: digest, Platform: want.Platform, Vendor: want.Vendor, Tenant: digest, Since: want.Since, Until: want.Until, After: 1, Limit: 2}
	if got, err := monitorapi.ParseRecallQuery(r.Values()); err != nil || got != r {
		t.Errorf("%+v, %v", got, err)
	}
	a := monitorapi.ReappraiseQuery{Vendor: want.Vendor, Tenant: digest, Since: want.Since, Until: want.Until, All: true, After: 1, Limit: 2}
	if got, err := monitorapi.ParseReappraiseQuery(a.Values()); err != nil || got != a {
		t.Errorf("%+v, %v", got, err)
	}
	c := monitorapi.VendorCheckQuery{Vendor: want.Vendor, Since: want.Since, Until: want.Until}
	if got, err := monitorapi.ParseVendorCheckQuery(c.Values()); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestQueryNormalize(t *testing.T) {
	id := record.SessionID{1}
	q := monitorapi.Query{Session: id.String(), FMSPC: "90C06F000000", Platform: strings.Repeat("AB", 16)}
	if err := q.Normalize(); err != nil {
		t.Fatal(err)
	}
	d := id.Digest()
	if q.Session != hex.EncodeToString(d[:]) || q.FMSPC != "90c06f000000" || q.Platform != strings.Repeat("ab", 16) {
		t.Errorf("%+v", q)
	}
	for _, bad := range []func(*monitorapi.Query){
		func(q *monitorapi.Query) { q.Session = digest[1:] },
		func(q *monitorapi.Query) { q.Session = strings.ToUpper(digest) },
		func(q *monitorapi.Query) { q.Tenant = id.String() },
		func(q *monitorapi.Query) { q.Vendor = "vendor" },
		func(q *monitorapi.Query) { q.FMSPC = "90c06f" },
		func(q *monitorapi.Query) { q.Platform = "0x" },
		func(q *monitorapi.Query) { q.TCBStatus = "Out of date" },
		func(q *monitorapi.Query) { q.Model = "a\nb" },
		func(q *monitorapi.Query) { q.Role = "Start" },
		func(q *monitorapi.Query) { q.Limit = -1 },
		func(q *monitorapi.Query) { q.Until = q.Since },
	} {
		q := fullQuery()
		bad(&q)
		if err := q.Normalize(); err == nil {
			t.Errorf("%+v is accepted", q)
		}
	}
}

// What is accepted means the same after it was written again: nothing that was asked is dropped on the way.
func FuzzParseQuery(f *testing.F) {
	q := fullQuery()
	f.Add(q.Values().Encode())
	f.Add("since=2026-11-24T07:00:00.5%2B01:00&limit=10")
	f.Add("fmspc=90C06F000000&platform=ABABABABABABABABABABABABABABABAB")
	f.Add("session=0102030405060708090a0b0c0d0e0f10&after=0")
	f.Add("vendor=https://a.example&vendor=https://b.example")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := url.ParseQuery(s)
		if err != nil {
			return
		}
		q, err := monitorapi.ParseQuery(v, 100)
		if err != nil {
			return
		}
		again, err := monitorapi.ParseQuery(q.Values(), 100)
		if err != nil || again != q {
			t.Errorf("%q is %+v, and then %+v, %v", s, q, again, err)
		}
		if q.Limit < 1 || q.Limit > 100 {
			t.Errorf("limit %d", q.Limit)
		}
		known := len(q.Values())
		for name := range v {
			if name == "after" && q.After == 0 || name == "limit" {
				continue
			}
			if !q.Values().Has(name) {
				t.Errorf("%q: %s has no effect", s, name)
			}
		}
		if known == 0 {
			t.Errorf("no limit in %+v", q)
		}
	})
}

const sessionsCSV = `session,vendor,started,sequence,tenant
0102030405060708090a0b0c0d0e0f10,https://vendor.example,2026-11-24T07:00:00Z,1,
1112131415161718191a1b1c1d1e1f20,https://vendor.example,2026-11-24T08:00:00+01:00,,0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a
`

const sessionsJSON = `{"session":"0102030405060708090a0b0c0d0e0f10","vendor":"https://vendor.example","started":"2026-11-24T07:00:00Z","sequence":1}

{"started":"2026-11-24T08:00:00+01:00","vendor":"https://vendor.example","session":"1112131415161718191a1b1c1d1e1f20","sequence":null,"tenant":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a"}
`

func TestParseSessions(t *testing.T) {
	want := []monitorapi.ReconcileRow{
		{Line: 2, Session: sessionDigest("0102030405060708090a0b0c0d0e0f10"), Vendor: "https://vendor.example", Started: time.Date(2026, 11, 24, 7, 0, 0, 0, time.UTC), Sequence: 1},
		{Line: 3, Session: sessionDigest("1112131415161718191a1b1c1d1e1f20"), Vendor: "https://vendor.example", Started: time.Date(2026, 11, 24, 7, 0, 0, 0, time.UTC),
			Tenants: []monitorapi.Hash{monitorapi.Hash([]byte(strings.Repeat("\n", 32)))}},
	}
	for name, list := range map[string]string{
		"CSV":            sessionsCSV,
		"BOM and CRLF":   "\ufeff" + strings.ReplaceAll(sessionsCSV, "\n", "\r\n"),
		"other order":    "started,session,tenant,vendor,sequence\n2026-11-24T07:00:00Z,0102030405060708090a0b0c0d0e0f10,,https://vendor.example,1\n2026-11-24T07:00:00Z,\"1112131415161718191a1b1c1d1e1f20\"," + digest + ",https://vendor.example,\n",
		"digests":        "session,vendor,started,sequence,tenant\n" + want[0].Session.String() + ",https://vendor.example,2026-11-24T07:00:00Z,1,\n" + want[1].Session.String() + ",https://vendor.example,2026-11-24T07:00:00Z,," + digest + "\n",
		"no end of line": strings.TrimSuffix(sessionsCSV, "\n"),
	} {
		got, err := monitorapi.ParseSessions([]byte(list))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	want[0].Line = 1
	if got, err := monitorapi.ParseSessions([]byte(sessionsJSON)); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("JSON: %v %s", err, cmp.Diff(want, got))
	}

	const head = "session,vendor,started\n"
	const id = "0102030405060708090a0b0c0d0e0f10"
	for list, reason := range map[string]string{
		"":                                      "empty",
		"vendor,started\n":                      `no column "session"`,
		"session,vendor,started,name":           `unknown column "name"`,
		"session,vendor,started,started\n":      `"started" is there twice`,
		head + id + ",https://vendor.example\n": "wrong number of fields",
		head + id[1:] + ",https://vendor.example,2026-11-24T07:00:00Z\n":                                              "line 2: session",
		head + strings.ToUpper(id) + ",https://vendor.example,2026-11-24T07:00:00Z\n":                                 "line 2: session",
		head + id + ",vendor.example,2026-11-24T07:00:00Z\n":                                                          "line 2: vendor",
		head + id + ",https://vendor.example,24 Nov\n":                                                                "line 2: started",
		head + id + ",https://vendor.example,0001-01-01T00:00:00Z\n":                                                  "line 2: started in the year 1",
		head + id + ",https://vendor.example,2026-11-24T07:00:00Z\n" + id + ",https://b.example,2026-11-24T07:00:00Z": "line 3: the session of line 2 again",
		"session,vendor,started,sequence\n" + id + ",https://vendor.example,2026-11-24T07:00:00Z,0\n":                 "line 2: sequence",
		"session,vendor,started,sequence\n" + id + ",https://vendor.example,2026-11-24T07:00:00Z,+1\n":                "line 2: sequence",
		"session,vendor,started,tenant\n" + id + ",https://vendor.example,2026-11-24T07:00:00Z,aa\n":                  "line 2: tenant",
		`{"session":"` + id + `"}`:                        "line 1: started",
		`{"session":"` + id + `","name":"x"}`:             "line 1:",
		`{"session":"` + id + `","Session":"x"}`:          "line 1:",
		`{"session":"` + id + `","session":"` + id + `"}`: "line 1:",
		`{"session":1}`:                                   "line 1:",
		"{}\n{}":                                          "line 1: session",
	} {
		if _, err := monitorapi.ParseSessions([]byte(list)); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %v, want %q", list, err, reason)
		}
	}
}

func sessionDigest(id string) monitorapi.Hash {
	s, err := record.ParseSessionID(id)
	if err != nil {
		panic(err)
	}
	return monitorapi.Hash(s.Digest())
}

// A list that is accepted says the same when it is written again in the other notation.
func FuzzParseSessions(f *testing.F) {
	f.Add([]byte(sessionsCSV))
	f.Add([]byte(sessionsJSON))
	f.Add([]byte("session,vendor,started\n\"" + digest + "\",https://a.example,2026-11-24T07:00:00.25Z\n"))
	f.Add([]byte("{\"session\":\"\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, err := monitorapi.ParseSessions(b)
		if err != nil {
			return
		}
		var csv, jsonl strings.Builder
		csv.WriteString("tenant,sequence,started,vendor,session\n")
		for i, r := range rows {
			tenant, sequence := "", ""
			member := ""
			if len(r.Tenants) > 0 {
				tenant = r.Tenants[0].String()
				member += `,"tenant":"` + tenant + `"`
			}
			if r.Sequence > 0 {
				sequence = fmt.Sprint(r.Sequence)
				member += `,"sequence":` + sequence
			}
			started := r.Started.Format(time.RFC3339Nano)
			fmt.Fprintf(&csv, "%s,%s,%s,%s,%s\n", tenant, sequence, started, r.Vendor, r.Session)
			fmt.Fprintf(&jsonl, `{"session":"%s","vendor":"%s","started":"%s"%s}`+"\n", r.Session, r.Vendor, started, member)
			rows[i].Line = 0
		}
		for _, text := range []string{csv.String(), jsonl.String()} {
			if len(rows) == 0 {
				continue
			}
			again, err := monitorapi.ParseSessions([]byte(text))
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			for i := range again {
				again[i].Line = 0
			}
			if diff := cmp.Diff(rows, again); diff != "" {
				t.Errorf("%q as %q: %s", b, text, diff)
			}
		}
	})
}

// The customer's pseudonyms are those of FORMAT.md for each vendor and month, and a session at the turn of a month may
// be under either's.
func TestPseudonyms(t *testing.T) {
	key := []byte(strings.Repeat("k", 32))
	const origin = "log.example.org/2026"
	of := func(vendor, month string) monitorapi.Hash {
		return monitorapi.Hash(record.TenantPseudonym(key, origin, vendor, month))
	}
	rows := []monitorapi.ReconcileRow{
		{Vendor: "https://a.example", Started: time.Date(2026, 10, 15, 0, 0, 0, 0, time.UTC)},
		{Vendor: "https://b.example", Started: time.Date(2026, 10, 31, 23, 59, 0, 0, time.UTC)},
		{Vendor: "https://a.example", Started: time.Date(2026, 10, 16, 0, 0, 0, 0, time.UTC), Tenants: []monitorapi.Hash{{1}}},
	}
	all, err := monitorapi.Pseudonyms(rows, key, origin, time.Time{}, time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	var want []monitorapi.Hash
	for _, month := range []string{"2026-10", "2026-11", "2026-12"} {
		want = append(want, of("https://a.example", month), of("https://b.example", month))
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Error(diff)
	}
	for i, want := range [][]monitorapi.Hash{
		{of("https://a.example", "2026-10")},
		{of("https://b.example", "2026-10"), of("https://b.example", "2026-11")},
		{{1}},
	} {
		if diff := cmp.Diff(want, rows[i].Tenants); diff != "" {
			t.Errorf("row %d: %s", i, diff)
		}
	}
	if _, err := monitorapi.Pseudonyms(rows, key[1:], origin, time.Time{}, time.Time{}); err == nil {
		t.Error("a short key")
	}
	if _, err := monitorapi.Pseudonyms(rows, key, "", time.Time{}, time.Time{}); err == nil {
		t.Error("no origin")
	}
	if _, err := monitorapi.Pseudonyms(rows, key, origin, time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)); err == nil {
		t.Error("more months than anybody has sessions in")
	}
	if all, err := monitorapi.Pseudonyms(nil, key, origin, time.Time{}, time.Time{}); err != nil || len(all) != 0 {
		t.Errorf("an empty list: %v, %v", all, err)
	}
}

func TestNewClient(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8474", "ftp://host", "http://", "http://host?x=y", "http://host#x", ":"} {
		if _, err := monitorapi.NewClient(bad, nil); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	c, err := monitorapi.NewClient("https://host/prefix/", nil)
	if err != nil || c.URL() != "https://host/prefix" {
		t.Errorf("%v, %v", c, err)
	}
}

func TestWithToken(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(other.Close)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") != "Bearer secret":
			rw.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path == "/moved/api/records/1":
			http.Redirect(rw, r, other.URL, http.StatusFound)
		default:
			io.WriteString(rw, `{"index":1}`)
		}
	}))
	t.Cleanup(s.Close)
	record := func(base, token string) error {
		t.Helper()
		c, err := monitorapi.NewClient(base, nil)
		if err == nil && token != "" {
			c, err = c.WithToken(token)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Record(t.Context(), 1)
		return err
	}
	var p *monitorapi.Problem
	if err := record(s.URL, ""); !errors.As(err, &p) || p.Status != http.StatusUnauthorized {
		t.Errorf("without a token: %v", err)
	}
	if err := record(s.URL, "secret"); err != nil {
		t.Errorf("with the token: %v", err)
	}
	if err := record(s.URL+"/moved", "secret"); !errors.As(err, &p) || p.Status != http.StatusFound || elsewhere.Load() != 0 {
		t.Errorf("a redirect: %v, and %d requests elsewhere", err, elsewhere.Load())
	}
	c, err := monitorapi.NewClient("http://monitor.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WithToken("secret"); err == nil {
		t.Error("a token would go to another machine unencrypted")
	}
	for _, bad := range []string{"https://:secret@host", "https://x:secret@host?x=y"} {
		if _, err := monitorapi.NewClient(bad, nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
