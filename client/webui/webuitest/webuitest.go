// Package webuitest drives a headless Chromium in tests of pages, over the pipe that its DevTools protocol can use
// (chromedevtools.github.io/devtools-protocol), so that neither a port nor a library is needed.
package webuitest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long anything may take that a browser is asked for. Machines that run tests are slow.
const patience = 60 * time.Second

// A Browser is a running Chromium.
type Browser struct {
	w io.Writer // commands, guarded by mu

	mu      sync.Mutex
	last    int
	waiting map[int]chan *message // by id; nil once the browser is gone
	pages   map[string]*Page      // by session
}

// message is a command, an answer to one, or an event.
type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// Start starts a Chromium that ends with the test. It skips the test if there is none.
func Start(tb testing.TB) *Browser {
	tb.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		tb.Skip("no chromium here: install it to run the tests of pages in a browser")
	}
	// The browser reads from descriptor 3 and writes to descriptor 4.
	theirIn, ourOut, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	ourIn, theirOut, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	args := []string{"--headless=new", "--remote-debugging-pipe", "--user-data-dir=" + tb.TempDir(), "--no-first-run", "--disable-gpu",
		"--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--force-color-profile=srgb"}
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium's sandbox can't be set up by root
	}
	cmd := exec.Command(path, append(args, "about:blank")...)
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	b := &Browser{w: ourOut, waiting: make(map[int]chan *message), pages: make(map[string]*Page)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.read(ourIn)
	}()
	tb.Cleanup(func() {
		b.call("", "Browser.close", nil, nil)
		ourOut.Close()
		exited := make(chan error, 1)
		go func() { exited <- cmd.Wait() }()
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-exited
		}
		ourIn.Close()
		<-done
		if tb.Failed() {
			for line := range strings.Lines(stderr.String()) {
				if !strings.Contains(line, "dbus/") { // which servers don't have
					tb.Logf("chromium: %s", line)
				}
			}
		}
	})
	return b
}

// read hands out what the browser says, until it says no more.
func (b *Browser) read(r io.Reader) {
	in := bufio.NewReader(r)
	for {
		raw, err := in.ReadBytes(0)
		if err != nil {
			break
		}
		m := new(message)
		if json.Unmarshal(raw[:len(raw)-1], m) != nil {
			continue
		}
		b.mu.Lock()
		answer, page := b.waiting[m.ID], b.pages[m.SessionID]
		delete(b.waiting, m.ID)
		b.mu.Unlock()
		switch {
		case m.ID != 0 && answer != nil:
			answer <- m
		case m.Method != "" && page != nil:
			page.event(m)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.waiting {
		close(c)
	}
	b.waiting = nil
}

// call has the browser run a method, with its result in result unless that is nil.
func (b *Browser) call(session, method string, params, result any) error {
	m := &message{SessionID: session, Method: method}
	if params != nil {
		var err error
		if m.Params, err = json.Marshal(params); err != nil {
			return err
		}
	}
	answer := make(chan *message, 1)
	b.mu.Lock()
	if b.waiting == nil {
		b.mu.Unlock()
		return fmt.Errorf("%s: the browser is gone", method)
	}
	b.last++
	m.ID = b.last
	b.waiting[m.ID] = answer
	raw, err := json.Marshal(m)
	if err == nil {
		_, err = b.w.Write(append(raw, 0))
	}
	b.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	select {
	case m, ok := <-answer:
		switch {
		case !ok:
			return fmt.Errorf("%s: the browser is gone", method)
		case m.Error != nil:
			return fmt.Errorf("%s: %s", method, m.Error.Message)
		case result != nil:
			return json.Unmarshal(m.Result, result)
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("%s: no answer", method)
	}
}

// View is how a page is looked at.
type View struct {
	Width, Height int // in CSS pixels; 1280 by 800 if zero
	Dark          bool
	Offline       bool // without a network
}

// A Page is a tab.
type Page struct {
	tb      testing.TB
	b       *Browser
	session string

	mu       sync.Mutex
	console  []string // errors and warnings
	requests []string
}

// Open opens a tab at an address, and waits until the page is loaded.
func (b *Browser) Open(tb testing.TB, url string, v View) *Page {
	tb.Helper()
	p := &Page{tb: tb, b: b}
	var target struct{ TargetID string }
	if err := b.call("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		tb.Fatal(err)
	}
	var session struct{ SessionID string }
	if err := b.call("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &session); err != nil {
		tb.Fatal(err)
	}
	p.session = session.SessionID
	b.mu.Lock()
	b.pages[p.session] = p
	b.mu.Unlock()
	tb.Cleanup(func() { b.call("", "Target.closeTarget", map[string]any{"targetId": target.TargetID}, nil) })
	for _, domain := range []string{"Page", "Runtime", "Log", "Network", "DOM"} {
		p.Call(domain+".enable", nil, nil)
	}
	p.Look(v)
	p.Call("Page.navigate", map[string]any{"url": url}, nil)
	p.Wait("location.href !== 'about:blank' && document.readyState === 'complete'")
	return p
}

// Look changes how the page is looked at.
func (p *Page) Look(v View) {
	p.tb.Helper()
	if v.Width == 0 {
		v.Width, v.Height = 1280, 800
	}
	p.Call("Emulation.setDeviceMetricsOverride", map[string]any{"width": v.Width, "height": v.Height, "deviceScaleFactor": 1, "mobile": v.Width < 600}, nil)
	scheme := "light"
	if v.Dark {
		scheme = "dark"
	}
	p.Call("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]any{"name": "prefers-color-scheme", "value": scheme}}}, nil)
	p.Call("Network.emulateNetworkConditions", map[string]any{"offline": v.Offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}, nil)
}

// event keeps what tests ask for.
func (p *Page) event(m *message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch m.Method {
	case "Runtime.consoleAPICalled":
		var e struct {
			Type string
			Args []struct{ Value, Description any }
		}
		json.Unmarshal(m.Params, &e)
		if e.Type == "error" || e.Type == "warning" || e.Type == "assert" {
			p.console = append(p.console, fmt.Sprintf("%s: %v", e.Type, e.Args))
		}
	case "Runtime.exceptionThrown":
		p.console = append(p.console, "exception: "+string(m.Params))
	case "Log.entryAdded":
		var e struct {
			Entry struct{ Level, Text, URL string }
		}
		json.Unmarshal(m.Params, &e)
		if e.Entry.Level == "error" || e.Entry.Level == "warning" {
			p.console = append(p.console, fmt.Sprintf("%s: %s %s", e.Entry.Level, e.Entry.Text, e.Entry.URL))
		}
	case "Network.requestWillBeSent":
		var e struct {
			Request struct{ URL string }
		}
		json.Unmarshal(m.Params, &e)
		p.requests = append(p.requests, e.Request.URL)
	}
}

// Console returns the errors and warnings so far, thrown exceptions and those of the browser included.
func (p *Page) Console() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.console)
}

// Requests returns the addresses of all requests so far, that of the page included.
func (p *Page) Requests() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Call runs a method of the DevTools protocol on the page. The result may be nil.
func (p *Page) Call(method string, params, result any) {
	p.tb.Helper()
	if params == nil {
		params = struct{}{}
	}
	if err := p.b.call(p.session, method, params, result); err != nil {
		p.tb.Fatal(err)
	}
}

// eval evaluates an expression. The error is the browser's; what the page throws is in the result.
func (p *Page) eval(expression string) (value json.RawMessage, thrown string, err error) {
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err = p.b.call(p.session, "Runtime.evaluate", map[string]any{"expression": expression, "awaitPromise": true, "returnByValue": true, "allowUnsafeEvalBlockedByCSP": false}, &r)
	if e := r.ExceptionDetails; e != nil {
		thrown = e.Text + " " + e.Exception.Description
	}
	return r.Result.Value, thrown, err
}

// Eval evaluates a JavaScript expression, waits for it if it is a promise, and puts its value into out unless that is nil.
func (p *Page) Eval(expression string, out any) {
	p.tb.Helper()
	value, thrown, err := p.eval(expression)
	if err != nil || thrown != "" {
		p.tb.Fatalf("%s: %v %s", expression, err, thrown)
	}
	if out != nil {
		if err := json.Unmarshal(value, out); err != nil {
			p.tb.Fatalf("%s: %v in %s", expression, err, value)
		}
	}
}

// Wait waits until a JavaScript expression is true. Until then it may throw, since the page may be on its way.
func (p *Page) Wait(expression string) {
	p.tb.Helper()
	var value json.RawMessage
	var thrown string
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if value, thrown, err = p.eval("!!(" + expression + ")"); string(value) == "true" {
			return
		}
	}
	p.tb.Fatalf("not in time: %s: %s %s %v; the page says: %s; the console: %q", expression, value, thrown, err, p.Text("body"), p.Console())
}

// Text returns what people can read of the first element that a selector finds, or "" if there is none.
func (p *Page) Text(selector string) string {
	p.tb.Helper()
	var s string
	p.Eval(fmt.Sprintf("document.querySelector(%s)?.innerText ?? ''", quote(selector)), &s)
	return s
}

// SetFiles chooses files, by their absolute paths, for an input element.
func (p *Page) SetFiles(selector string, files ...string) {
	p.tb.Helper()
	var object struct{ Result struct{ ObjectID string } }
	p.Call("Runtime.evaluate", map[string]any{"expression": "document.querySelector(" + quote(selector) + ")"}, &object)
	p.Call("DOM.setFileInputFiles", map[string]any{"files": files, "objectId": object.Result.ObjectID}, nil)
}

// Key presses a key, such as "Tab".
func (p *Page) Key(name string, code int) {
	p.tb.Helper()
	for _, kind := range []string{"rawKeyDown", "keyUp"} {
		p.Call("Input.dispatchKeyEvent", map[string]any{"type": kind, "key": name, "code": name, "windowsVirtualKeyCode": code}, nil)
	}
}

// Screenshot returns a picture, in PNG, of the whole page, however long.
func (p *Page) Screenshot() []byte {
	p.tb.Helper()
	var shot struct{ Data string }
	p.Call("Page.captureScreenshot", map[string]any{"format": "png", "captureBeyondViewport": true}, &shot)
	b, err := base64.StdEncoding.DecodeString(shot.Data)
	if err != nil {
		p.tb.Fatal(err)
	}
	return b
}

// PDF returns the page as it would be printed.
func (p *Page) PDF() []byte {
	p.tb.Helper()
	var pdf struct{ Data string }
	p.Call("Page.printToPDF", map[string]any{"printBackground": false, "preferCSSPageSize": true}, &pdf)
	b, err := base64.StdEncoding.DecodeString(pdf.Data)
	if err != nil {
		p.tb.Fatal(err)
	}
	return b
}

// Clean fails the test if the console has errors, or if the page made a request to anything but what has one of the
// prefixes.
func (p *Page) Clean(prefixes ...string) {
	p.tb.Helper()
	for _, line := range p.Console() {
		p.tb.Errorf("on the console: %s", line)
	}
	for _, url := range p.Requests() {
		if !slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(url, prefix) }) {
			p.tb.Errorf("the page made a request to %s", url)
		}
	}
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}
