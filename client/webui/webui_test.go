package webui

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/html"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/log/record"
)

// A lab is a log, a monitor of it, and the monitor's pages.
type lab struct {
	*bundletest.World
	t       testing.TB
	m       *monitor.Monitor
	handler atomic.Pointer[http.Handler] // of the log
	cfg     Config
	ui      *UI
	url     string
	n       int
}

func newLab(t testing.TB, sessions int, edit ...func(*Config)) *lab {
	t.Helper()
	l := &lab{World: bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 2}), t: t}
	l.AddVendorKey(l.Vendor)
	l.AddVendorKey(l.Gateway)
	l.AddRelease(l.Vendor)
	l.AddRelease(l.Gateway)
	l.AddCollateral(l.Set)
	l.Tick(time.Second)
	l.AddTime()
	for range sessions {
		l.session()
	}
	l.name()
	l.AddStart() // has no end
	l.Tick(time.Second)
	l.AddTime()
	h := l.World.Handler()
	l.handler.Store(&h)
	log := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*l.handler.Load()).ServeHTTP(w, r) }))
	t.Cleanup(log.Close)
	c, err := client.New(log.URL, client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(l.Published()) }))
	t.Cleanup(w.Close)
	l.m, err = monitor.Open(monitor.Config{
		Log: c, LogPolicy: l.Policy(), Dir: t.TempDir(), Root: l.Root(), Appraisal: l.Appraisal(), Now: func() time.Time { return l.Now },
		Witnesses: []monitor.Witness{{Name: "w1", URL: w.URL}, {Name: "away", URL: "http://127.0.0.1:1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.m.Close() })
	l.cfg = Config{Monitor: l.m, LogPolicy: l.Policy(), Root: l.Root(), Appraisal: l.Appraisal(), Rate: 1e6, Burst: 1e6, Now: func() time.Time { return l.Now }}
	for _, e := range edit {
		e(&l.cfg)
	}
	l.serve()
	l.publish()
	return l
}

// serve serves the pages as they are configured.
func (l *lab) serve() {
	l.t.Helper()
	var err error
	if l.ui, err = New(l.cfg); err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = l.ui.Run(ctx) }()
	s := httptest.NewServer(l.ui)
	l.t.Cleanup(func() { cancel(); <-ended; s.Close() })
	l.url = s.URL
}

func (l *lab) publish() {
	l.t.Helper()
	l.Publish(l.Now)
	if err := l.m.Step(context.Background()); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) name() {
	l.n++
	label := fmt.Sprintf("webui %d", l.n)
	sum := sha256.Sum256([]byte(label))
	l.World.Session = record.SessionID(sum[:16])
	l.SessionKey = bundletest.KeyFrom(label)
	l.Tick(5 * time.Second)
}

func (l *lab) session() {
	l.name()
	start := l.AddStart()
	l.Tick(5 * time.Second)
	l.AddTime()
	l.Tick(time.Minute)
	run := l.AddModelRun(start)
	l.Tick(5 * time.Second)
	l.AddTime()
	l.Tick(time.Minute)
	l.AddFinal(start, []uint64{run})
	l.Tick(5 * time.Second)
	l.AddTime()
	l.Tick(time.Second)
}

// get asks for a page until it is finished.
func (l *lab) get(path string, header ...string) (*http.Response, string) {
	l.t.Helper()
	for {
		r, err := http.NewRequest("GET", l.url+path, nil)
		if err != nil {
			l.t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		resp, err := c.Do(r)
		if err != nil {
			l.t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			l.t.Fatal(err)
		}
		if strings.Contains(string(b), `http-equiv="refresh"`) {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		return resp, string(b)
	}
}

// check checks what holds for every page, and returns its links.
func check(t testing.TB, path, page string) (links []string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	ids, refs := make(map[string]bool), make(map[string]string)
	level, h1, mains := 0, 0, 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		attr := make(map[string]string)
		for _, a := range n.Attr {
			attr[a.Key] = a.Val
			if a.Key == "style" || strings.HasPrefix(a.Key, "on") {
				t.Errorf("%s: <%s> has an attribute %s, which the policy forbids", path, n.Data, a.Key)
			}
		}
		if id, ok := attr["id"]; ok {
			if ids[id] || id == "" {
				t.Errorf("%s: id %q twice or empty", path, id)
			}
			ids[id] = true
		}
		for _, a := range []string{"aria-labelledby", "aria-describedby", "for"} {
			for id := range strings.FieldsSeq(attr[a]) {
				refs[id] = a
			}
		}
		switch n.Data {
		case "h1", "h2", "h3", "h4":
			now := int(n.Data[1] - '0')
			if now > level+1 {
				t.Errorf("%s: <%s> after a heading of level %d", path, n.Data, level)
			}
			level = now
			if now == 1 {
				h1++
			}
		case "main":
			mains++
		case "script":
			if n.FirstChild != nil || !strings.HasPrefix(attr["src"], "/assets/") {
				t.Errorf("%s: a script that isn't our file", path)
			}
			links = append(links, attr["src"])
		case "link":
			if attr["rel"] == "stylesheet" {
				links = append(links, attr["href"])
			}
		case "style", "iframe", "object", "base":
			t.Errorf("%s: <%s>", path, n.Data)
		case "table":
			if n.FirstChild == nil || firstElement(n) != "caption" {
				t.Errorf("%s: a table without a caption", path)
			}
		case "th":
			if attr["scope"] == "" {
				t.Errorf("%s: <th> without a scope", path)
			}
		case "input", "select":
			if attr["id"] == "" || !strings.Contains(page, `<label for="`+attr["id"]+`"`) {
				t.Errorf("%s: <%s %s> without a label", path, n.Data, attr["name"])
			}
		case "img":
			t.Errorf("%s: <img>", path)
		case "a":
			href := attr["href"]
			switch {
			case strings.HasPrefix(href, "/"):
				links = append(links, href)
			case strings.HasPrefix(href, "#"):
				refs[href[1:]] = "href"
			default:
				t.Errorf("%s: a link to elsewhere: %q", path, href)
			}
		}
	}
	for id, a := range refs {
		if !ids[id] {
			t.Errorf("%s: %s names %q, which isn't there", path, a, id)
		}
	}
	if h1 != 1 || mains != 1 {
		t.Errorf("%s: %d <h1> and %d <main>, want one each", path, h1, mains)
	}
	return links
}

func firstElement(n *html.Node) string {
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		if c.Type == html.ElementNode {
			return c.Data
		}
	}
	return ""
}

// crawl follows all links, and returns the pages.
func (l *lab) crawl(more ...string) map[string]string {
	l.t.Helper()
	pages := make(map[string]string)
	queue := append([]string{"/"}, more...)
	for len(queue) > 0 {
		path := queue[0]
		queue = queue[1:]
		if _, ok := pages[path]; ok {
			continue
		}
		resp, body := l.get(path)
		pages[path] = body
		if resp.StatusCode != 200 {
			l.t.Errorf("%s: %s", path, resp.Status)
			continue
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none';") {
			l.t.Errorf("%s: Content-Security-Policy %q", path, csp)
		}
		if len(resp.Cookies()) > 0 {
			l.t.Errorf("%s: cookies", path)
		}
		if resp.Header.Get("ETag") == "" && !strings.HasPrefix(path, "/assets/") {
			l.t.Errorf("%s: no ETag", path)
		}
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") && resp.Header.Get("Content-Disposition") == "" {
			queue = append(queue, check(l.t, path, body)...)
		}
	}
	return pages
}

// Every link of every page leads somewhere, and every page is what screen readers and the policy ask for. A route without a
// page, a heading out of order, an id of the report's that is also the page's, or inline style makes this fail.
func TestCrawl(t *testing.T) {
	l := newLab(t, 2)
	l.Append([]byte("no leaf")) // a finding of class invalid
	l.publish()
	pages := l.crawl("/vendors?id="+l.Vendor.ID, "/recall?fmspc=00806f050000", "/search?role=final", "/findings?class=invalid&severity=&kind=")
	if len(pages) < 40 {
		t.Errorf("%d pages, want more", len(pages))
	}
	for path, want := range map[string][]string{
		"/":                                      {"Something in the log is invalid", "unsupported-leaf", "leaves verified", "w1", "away", "failed", "Newest records", "Records by day", l.Vendor.ID},
		"/findings?class=invalid":                {"unsupported-leaf"},
		"/search?role=final":                     {"End of a session", "/records/"},
		"/checkpoints":                           {"Checkpoints", fmt.Sprintf("/checkpoints/%d", l.Size()), "2026-"},
		fmt.Sprintf("/checkpoints/%d", l.Size()): {"is verified", "Who cosigned it", "witness", l.Origin + "\n"},
		"/vendors?id=" + l.Vendor.ID:             {"What a buyer asks", "Releases", "Starts without an end", "100 %"},
		"/vendors":                               {"Ask about a vendor"},
		"/recall":                                {"A vulnerable platform is not a breach"},
		"/recall?fmspc=00806f050000":             {"sessions touched"},
		fmt.Sprintf("/records/%d", 2):            {"Release", "Raw bytes"},
		"/findings?class=tamper":                 {"There are none of this sort"},
		"/search?vendor=" + urlOf(l):             {"Records:"},
		"/records/" + l.final() + "/ocsf":        {`"class_uid":2003`},
		"/records/" + l.final() + "/dsse":        {`"payloadType"`},
		"/records/" + l.final():                  {"meets your appraisal policy", "Actions", "REPORTDATA", "Model run", "Proven: not after", "qwen3-coder-480b", "figure-1"},
	} {
		body, ok := pages[path]
		if !ok {
			_, body = l.get(path)
		}
		for _, w := range want {
			if !strings.Contains(body, w) {
				t.Errorf("%s doesn't say %q", path, w)
			}
		}
	}
	// The bundle is one that an auditor's own check accepts.
	_, file := l.get("/records/" + l.final() + "/bundle")
	b, err := bundle.Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	if f, err := bundle.Check(b, l.Options()); err != nil || !f.Allowed() {
		t.Errorf("the bundle: %v, %v", f, err)
	}
}

func urlOf(l *lab) string { return strings.NewReplacer(":", "%3A", "/", "%2F").Replace(l.Vendor.ID) }

// final returns the index of the end of the last session.
func (l *lab) final() string {
	last := ""
	for r, err := range l.m.Search(context.Background(), monitor.Query{Role: string(bundle.RoleFinal)}) {
		if err != nil {
			l.t.Fatal(err)
		}
		last = fmt.Sprint(r.Index)
	}
	return last
}

// A log that lies is shown so in the first thing on the first page, and on every other page, too.
func TestLyingLog(t *testing.T) {
	l := newLab(t, 1)
	if _, page := l.get("/"); !strings.Contains(page, "Nothing is wrong with the log") {
		t.Fatal("an honest log isn't said to be good")
	}
	// Another log of the same name and keys, of the same size and with other entries.
	other := bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 2})
	other.Filler(int(l.Size()) + 5)
	other.Publish(l.Now)
	h := other.Handler()
	l.handler.Store(&h)
	_ = l.m.Step(context.Background())
	_, page := l.get("/")
	_, main, _ := strings.Cut(page, "<main")
	if !strings.HasPrefix(main[strings.Index(main, "<h1"):], `<h1 class="verdict bad"><span class="word">The log contradicts itself`) {
		t.Errorf("the page begins with %.300s", main)
	}
	for _, path := range []string{"/search", "/vendors", "/recall", "/findings", "/records/2"} {
		if _, page := l.get(path); !strings.Contains(page, "The log contradicts itself") {
			t.Errorf("%s doesn't say that the log lies", path)
		}
	}
	id := l.m.Status().Halted
	if _, page := l.get("/findings/" + id); strings.Count(page, "Signed note") < 2 || !strings.Contains(page, "Consistency proof") {
		t.Error("the finding's page doesn't have both notes")
	}
	l.crawl()
}

// A poisoned monitor has text of somebody else's in everything that is text.
type poisoned struct {
	Monitor
	text string
}

func (p poisoned) finding(f *monitor.Finding) *monitor.Finding {
	g := *f
	g.Message, g.Subject = p.text, map[string]string{"vendor": p.text, p.text: p.text}
	g.Evidence = &monitor.Evidence{Notes: []string{p.text + "\n" + p.text}, Path: p.text, Served: []byte(p.text), Leaf: []byte("\x01\x01\x0c" + p.text)}
	return &g
}

func (p poisoned) Findings(after uint64, limit int) ([]*monitor.Finding, error) {
	fs, err := p.Monitor.Findings(after, limit)
	for i := range fs {
		fs[i] = p.finding(fs[i])
	}
	return fs, err
}

func (p poisoned) Finding(id string) (*monitor.Finding, error) {
	f, err := p.Monitor.Finding(id)
	return p.finding(f), err
}

func (p poisoned) record(r *monitor.Record) *monitor.Record {
	c := *r
	c.Vendor, c.ReleaseName, c.Reason, c.TCBStatus, c.Genuine = p.text, p.text, p.text, p.text, false
	c.Advisories = []string{p.text}
	c.Models = []monitor.Model{{Provider: p.text, Name: p.text, Execution: p.text}}
	return &c
}

func (p poisoned) Record(i uint64) (*monitor.Record, error) {
	r, err := p.Monitor.Record(i)
	if err != nil {
		return nil, err
	}
	return p.record(r), nil
}

func (p poisoned) Search(ctx context.Context, q monitor.Query) iter.Seq2[*monitor.Record, error] {
	return func(yield func(*monitor.Record, error) bool) {
		for r, err := range p.Monitor.Search(ctx, q) {
			if err == nil {
				r = p.record(r)
			}
			if !yield(r, err) {
				return
			}
		}
	}
}

func (p poisoned) Status() monitor.Status {
	s := p.Monitor.Status()
	s.Error = p.text
	for i := range s.Witnesses {
		s.Witnesses[i].Name, s.Witnesses[i].Error = p.text, p.text
	}
	return s
}

// Text of others is text: it makes no element, no attribute and no line that it isn't, and turns nothing around.
func TestHostileText(t *testing.T) {
	hostile := `<script>alert(1)</script><img src=x onerror="alert(2)">' onclick='x` + "\u202egnp.exe\u2066\x00\x1b\n\ufeff" + strings.Repeat("e\u0301\u0301\u0301\u0301\u0301\u0301", 40)
	l := newLab(t, 1)
	l.Append([]byte("no leaf"))
	l.publish()
	l.cfg.Monitor = poisoned{l.m, hostile}
	l.serve()
	paths := []string{"/", "/findings", "/search?role=final", "/vendors", "/vendors?id=" + l.Vendor.ID, "/recall?fmspc=00806f050000", "/records/2", "/records/" + l.final()}
	fs, err := l.m.Findings(0, 1)
	if err != nil || len(fs) != 1 {
		t.Fatal(fs, err)
	}
	paths = append(paths, "/findings/"+fs[0].ID, "/nowhere/%3Cscript%3E", "/search?vendor=%3Cscript%3Ealert(1)%3C/script%3E%E2%80%AE", "/search?by=vendor&value=%22%3E%3Cscript%3E")
	for _, path := range paths {
		_, page := l.get(path)
		check(t, path, page)
		if strings.Contains(page, "<script>") || strings.Contains(page, "<img") {
			t.Errorf("%s has hostile text as markup", path)
		}
		page = ownInput.ReplaceAllString(page, "")
		if i := strings.IndexFunc(page, func(c rune) bool {
			return c != '\n' && c < ' ' || c >= 0x202a && c <= 0x202e || c >= 0x2066 && c <= 0x2069 || c == 0xfeff
		}); i >= 0 {
			t.Errorf("%s has %q", path, page[max(0, i-60):i+10])
		}
	}
	if _, page := l.get("/"); !strings.Contains(page, "[U&#43;202E]gnp.exe") || !strings.Contains(page, "&lt;script&gt;") {
		t.Error("hostile text isn't shown")
	}
}

// ownInput is what the reader typed: it stays as it is in its own field, which isolates it.
var ownInput = regexp.MustCompile(` value="[^"]*"`)

// The token opens the pages as a password or a bearer token; nothing is there without it.
func TestToken(t *testing.T) {
	l := newLab(t, 0, func(c *Config) { c.Token = "correct horse battery" })
	inner := httptest.NewServer(l.ui.Protect(http.NotFoundHandler()))
	defer inner.Close()
	for _, path := range []string{"/", "/findings", "/events", l.ui.style.path, "/records/2/bundle"} {
		resp, body := l.get(path)
		if resp.StatusCode != 401 || !strings.Contains(resp.Header.Get("WWW-Authenticate"), "Basic") || strings.Contains(body, l.Origin) {
			t.Errorf("%s without the token: %s", path, resp.Status)
		}
	}
	for _, bad := range []string{"Bearer wrong", "Bearer ", "correct horse battery", "Basic " + "d3Jvbmc6d3Jvbmc="} {
		if resp, _ := l.get("/", "Authorization", bad); resp.StatusCode != 401 {
			t.Errorf("%q opens", bad)
		}
	}
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth("anybody", "correct horse battery")
	for _, good := range []string{r.Header.Get("Authorization"), "Bearer correct horse battery"} {
		resp, _ := l.get("/", "Authorization", good)
		if resp.StatusCode != 200 || resp.Header.Get("Cache-Control") != "private, no-cache" {
			t.Errorf("%q: %s, %q", good, resp.Status, resp.Header.Get("Cache-Control"))
		}
	}
	if resp, err := http.Get(inner.URL); err != nil || resp.StatusCode != 401 {
		t.Error("what Protect protects is open", err)
	}
}

// Another name than this machine's own, over the loopback interface, is a web page that rebinds its name.
func TestRebinding(t *testing.T) {
	l := newLab(t, 0)
	r, _ := http.NewRequest("GET", l.url, nil)
	r.Host = "evil.example"
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 403 {
		t.Error(resp.Status, err)
	}
}

func TestRateLimit(t *testing.T) {
	var lim limits
	now := time.Unix(1e9, 0)
	for i := range 5 {
		if got := lim.allow("192.0.2.1:1000", now, 1, 3); got != (i < 3) {
			t.Errorf("request %d: %v", i, got)
		}
	}
	if !lim.allow("192.0.2.2:1000", now, 1, 3) || !lim.allow("[2001:db8::1]:5", now, 1, 1) {
		t.Error("another address is limited")
	}
	if lim.allow("[2001:db8::2]:6", now, 1, 1) {
		t.Error("an address of the same network isn't")
	}
	if !lim.allow("192.0.2.1:1000", now.Add(2*time.Second), 1, 3) {
		t.Error("limited for good")
	}
	for i := range 2 * maxAddresses {
		lim.allow(fmt.Sprintf("10.%d.%d.1:1", i/256, i%256), now, 1, 3)
	}
	if len(lim.by) > maxAddresses {
		t.Errorf("%d addresses are remembered", len(lim.by))
	}
	l := newLab(t, 0, func(c *Config) { c.Rate, c.Burst = 0.001, 2 })
	var got []int
	for range 3 {
		resp, _ := l.get("/search")
		got = append(got, resp.StatusCode)
	}
	if !slices.Equal(got, []int{200, 200, 429}) {
		t.Error(got)
	}
}

// A browser that has a page already gets it again only when it changed, and a page of the wrong method or size is refused.
func TestHTTP(t *testing.T) {
	l := newLab(t, 1)
	l.get("/") // counts
	resp, _ := l.get("/")
	tag := resp.Header.Get("ETag")
	if resp, body := l.get("/", "If-None-Match", tag); resp.StatusCode != 304 || body != "" {
		t.Errorf("the same page again: %s", resp.Status)
	}
	l.session()
	l.publish()
	if resp, _ := l.get("/", "If-None-Match", tag); resp.StatusCode != 200 {
		t.Errorf("another page: %s", resp.Status)
	}
	if resp, _ := l.get(l.ui.style.path); !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Error("the style isn't kept")
	}
	for path, want := range map[string]int{
		"/nowhere": 404, "/records/999999": 404, "/records/4": 404, "/records/02": 400, "/records/2/exe": 404, "/findings/abc": 404, "/findings/" + strings.Repeat("0", 32): 404,
		"/findings?class=x": 400, "/findings?before=-1": 400, "/checkpoints/3": 404, "/checkpoints?before=x": 400, "/findings?a=b": 400, "/search?release=x": 400, "/search?vendor=a&vendor=b": 400, "/recall?vendor=https%3A%2F%2Fv.example": 400,
		"/vendors?id=x": 400, "/?x=y": 400, "/search?vendor=" + strings.Repeat("a", maxQuery): 414, "/search?by=nothing&value=1": 400, "/search?by=index&value=2": 303, "/search?by=role&value=start": 303,
	} {
		if resp, _ := l.get(path); resp.StatusCode != want {
			t.Errorf("%.60s: %s, want %d", path, resp.Status, want)
		}
	}
	resp, err := http.Post(l.url, "text/plain", strings.NewReader("x"))
	if err != nil || resp.StatusCode != 405 {
		t.Error(resp.Status, err)
	}
	if resp, _ := l.get("/search?by=session&value=" + strings.Repeat("0", 64)); resp.Header.Get("Location") != "/search?session="+strings.Repeat("0", 64) {
		t.Errorf("location %q", resp.Header.Get("Location"))
	}
}

// A page that waits hears of a change of the log, and of nothing else.
func TestEvents(t *testing.T) {
	l := newLab(t, 0)
	l.get("/")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", l.url+"/events", nil)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatal(got)
	}
	s := bufio.NewScanner(resp.Body)
	next := func() string {
		for s.Scan() {
			if data, ok := strings.CutPrefix(s.Text(), "data: "); ok {
				return data
			}
		}
		t.Fatal(s.Err())
		return ""
	}
	first := next()
	l.session()
	l.publish()
	if second := next(); second == first || !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(second) {
		t.Errorf("%q, then %q", first, second)
	}
	_, page := l.get("/")
	if !strings.Contains(page, l.ui.script.path) || !strings.Contains(page, `data-live="state"`) {
		t.Error("the log page doesn't listen")
	}
}

// The fields of a leaf are all of its bytes, in order, whatever the leaf is.
func TestFieldsAreTheLeaf(t *testing.T) {
	l := newLab(t, 1)
	for i := range l.Size() {
		leaf := l.Leaf(i)
		checkFields(t, leaf)
		for _, f := range fields(leaf) {
			if strings.Contains(f.Name, "rest") {
				t.Errorf("leaf %d: %q of %d bytes at %d", i, f.Name, f.Size, f.Offset)
			}
		}
	}
}

func checkFields(t testing.TB, leaf []byte) {
	t.Helper()
	at := 0
	for _, f := range fields(leaf) {
		if f.Offset != at || f.Size < 0 {
			t.Fatalf("field %q at %d with %d bytes, after %d", f.Name, f.Offset, f.Size, at)
		}
		at += f.Size
		if f.Hex != "" && f.Hex != fmt.Sprintf("%x", leaf[f.Offset:at]) {
			t.Fatalf("field %q: %s", f.Name, f.Hex)
		}
		if f.Hex == "" && f.Text == "" && f.Size > 0 {
			t.Fatalf("field %q shows nothing", f.Name)
		}
	}
	if at != len(leaf) {
		t.Fatalf("fields end at %d of %d", at, len(leaf))
	}
}

func FuzzFields(f *testing.F) {
	l := bundletest.NewSession(f, bundletest.LogOptions{Witnesses: 1}, bundletest.Steps{})
	for _, i := range l.Indices() {
		f.Add(l.Leaf(i))
	}
	f.Add([]byte{})
	f.Add([]byte("0\x040")) // ends within a field
	f.Fuzz(func(t *testing.T, leaf []byte) { checkFields(t, leaf) })
}

// What isn't printable is shown by its number, and what is long is cut.
func TestShow(t *testing.T) {
	for in, want := range map[string]string{
		"plain":    "plain",
		"a\u202eb": "a[U+202E]b",
		"a\nb":     "a[U+000A]b",
		"\xff":     "[0xFF]",
		"\ufffd":   "\ufffd",
		"漢 é":      "漢 é",
	} {
		if got := show(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := show(strings.Repeat("x", 5000)); len(got) > 1100 || !strings.HasSuffix(got, "more bytes]") {
		t.Errorf("%d bytes", len(got))
	}
	if !bytes.Equal([]byte(grouped(1234567)), []byte("1\u202f234\u202f567")) || grouped(12) != "12" {
		t.Error(grouped(1234567))
	}
}

// An action that was disclosed is shown in full beside its record, and anything else isn't taken for one. Nothing is kept.
func TestDisclosedActions(t *testing.T) {
	hostile := "<script>alert(1)</script>\u202e\nsecond line"
	l := newLab(t, 0)
	l.name()
	start := l.AddStart()
	l.Tick(time.Second)
	l.AddTime()
	salt := [32]byte{1}
	var actions [][]byte
	var hashes []record.Digest
	final := l.AddFinal(start, nil, func(d *bundletest.Draft) {
		for i := range uint64(3) {
			b, err := (&record.Action{
				Index: i, Session: d.Statement.Session.ID, Time: bundletest.Epoch, TraceID: [16]byte{1}, SpanID: [8]byte{1}, Outcome: record.OutcomeExecuted,
				Attributes: map[string]any{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": hostile},
			}).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			actions, hashes = append(actions, b), append(hashes, record.ActionLeaf(salt, b))
		}
		d.Statement.Session.Actions = record.Actions{Tree: record.Tree{Size: 3, Root: record.ActionRoot(hashes)}}
	})
	l.Tick(time.Second)
	l.AddTime()
	l.publish()
	tree := record.Tree{Size: 3, Root: record.ActionRoot(hashes)}
	good := (&record.Disclosure{Salt: salt, Bytes: actions[1], Index: 1, Tree: tree, Path: record.ActionProof(hashes, 1)}).JSON()
	moved := (&record.Disclosure{Salt: salt, Bytes: actions[1], Index: 2, Tree: tree, Path: record.ActionProof(hashes, 2)}).JSON()
	post := func(path string, files map[string][]byte) (int, string) {
		t.Helper()
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for name, content := range files {
			f, err := w.CreateFormFile("disclosure", name)
			if err != nil {
				t.Fatal(err)
			}
			f.Write(content)
		}
		w.Close()
		resp, err := http.Post(l.url+path, w.FormDataContentType(), &b)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		page, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == 200 && resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s may be kept: %q", path, resp.Header.Get("Cache-Control"))
		}
		return resp.StatusCode, string(page)
	}
	path := fmt.Sprintf("/records/%d/actions", final)
	status, page := post(path, map[string][]byte{"mine.json": good})
	check(t, path, page)
	for _, want := range []string{"Action 1 of 3, disclosed", "exactly this action", "mine.json", "gen_ai.tool.name", "&lt;script&gt;alert(1)", "[U&#43;202E]", "second line", "execute_tool", "known code"} {
		if status != 200 || !strings.Contains(page, want) {
			t.Errorf("%d: the page doesn't say %q", status, want)
		}
	}
	if strings.Contains(page, "<script>alert") {
		t.Error("text of an action is markup")
	}
	for name, b := range map[string][]byte{"moved": moved, "changed": bytes.Replace(good, []byte("AQ"), []byte("Ag"), 1), "no disclosure": []byte("{}"), "long": bytes.Repeat([]byte("x"), record.MaxDisclosure+1)} {
		if status, page := post(path, map[string][]byte{"x": b}); status != 200 || !strings.Contains(page, "Not an action of this record") || strings.Contains(page, "exactly this action") {
			t.Errorf("%s: %d, %t", name, status, strings.Contains(page, "exactly this action"))
		}
	}
	if status, page := post(fmt.Sprintf("/records/%d/actions", start), map[string][]byte{"x": good}); status != 200 || !strings.Contains(page, "commits to no actions") {
		t.Errorf("of a start: %d", status)
	}
	many := make(map[string][]byte)
	for i := range maxDisclosures + 1 {
		many[fmt.Sprint(i)] = good
	}
	for name, files := range map[string]map[string][]byte{"none": {}, "too many": many, "too large": {"x": bytes.Repeat([]byte("x"), 8<<20)}} {
		if status, _ := post(path, files); status != 400 {
			t.Errorf("%s: %d", name, status)
		}
	}
	if resp, err := http.Post(l.url+path, "application/json", bytes.NewReader(good)); err != nil || resp.StatusCode != 400 {
		t.Error("not a form:", resp.Status, err)
	}
	if _, page := l.get(fmt.Sprintf("/records/%d", final)); strings.Contains(page, "execute_tool") {
		t.Error("a disclosed action is still there")
	}
}

// BenchmarkRecordPage has what the page of a record costs, its check included, beside a handler that does nothing.
func BenchmarkRecordPage(b *testing.B) {
	l := newLab(b, 2)
	trivial := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("ok")) })
	for _, tt := range []struct {
		name, path string
		h          http.Handler
	}{{"trivial", "/", trivial}, {"record", "/records/" + l.final(), l.ui}, {"report", "/records/" + l.final() + "/report", l.ui}} {
		b.Run(tt.name, func(b *testing.B) {
			for b.Loop() {
				rec := httptest.NewRecorder()
				tt.h.ServeHTTP(rec, httptest.NewRequest("GET", tt.path, nil))
				if rec.Code != 200 {
					b.Fatal(rec.Code)
				}
			}
		})
	}
}
