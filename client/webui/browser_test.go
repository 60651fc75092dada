package webui

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/webui/webuitest"
)

// TestBrowser looks at all kinds of pages in Chromium: no error in the console, no request to anybody else, nothing wider
// than the window of a telephone. With AFFIDAVIT_SCREENSHOTS it looks at them as on a tablet and a screen, too, and leaves
// pictures in that directory.
func TestBrowser(t *testing.T) {
	b := webuitest.Start(t)
	l := newLab(t, 2)
	shots := os.Getenv("AFFIDAVIT_SCREENSHOTS")
	views := []webuitest.View{{Width: 390, Height: 844}, {Width: 820, Height: 1180, Dark: true}, {Width: 1440, Height: 900}}
	look := func(name string, p *webuitest.Page) {
		t.Helper()
		looks := views
		if shots == "" {
			looks = views[:1] // where things are too wide, if they are
		}
		for _, v := range looks {
			p.Look(v)
			var over string
			p.Eval(`(() => {
				if (document.documentElement.scrollWidth <= innerWidth) return "";
				const wide = [...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > innerWidth + 1);
				return document.documentElement.scrollWidth + ": " + wide.slice(0, 3).map((e) => e.tagName + "." + e.getAttribute("class") + " " + e.textContent.slice(0, 40)).join("; ");
			})()`, &over)
			if over != "" {
				t.Errorf("%s at %d is wider than the window: %s", name, v.Width, over)
			}
			if shots != "" {
				if err := os.WriteFile(filepath.Join(shots, fmt.Sprintf("webui-%s-%d.png", name, v.Width)), p.Screenshot(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		p.Clean(l.url, "data:")
	}
	// One tab goes to all pages: what takes long is to open one.
	p := b.Open(t, l.url+"/search", webuitest.View{})
	visit := func(path string) {
		t.Helper()
		p.Call("Page.navigate", map[string]any{"url": l.url + path}, nil)
		p.Wait(fmt.Sprintf("location.href === %q && document.readyState === 'complete'", l.url+path))
	}
	l.get("/vendors?id=" + l.Vendor.ID) // computed before it is looked at
	l.get("/recall?fmspc=90c06f000000")
	l.get("/search?role=final")
	for name, path := range map[string]string{
		"record": "/records/" + l.final(), "search": "/search?role=final", "vendor": "/vendors?id=" + l.Vendor.ID, "recall": "/recall?fmspc=90c06f000000",
	} {
		visit(path)
		if name == "record" {
			p.Eval(`document.querySelectorAll("details").forEach((d) => d.open = true), 0`, nil)
		}
		look(name, p)
	}

	// An auditor's way: from the log page by search to a record and its report. Meanwhile the log grows.
	visit("/")
	look("log", p)
	before := p.Text(".tiles li")
	l.session()
	l.publish()
	p.Wait(fmt.Sprintf("document.querySelector('.tiles li').innerText !== %q", before))
	p.Eval(`document.querySelector("#find-by").value = "session", document.querySelector("#find-value").value = "`+l.World.Session.String()+`", document.querySelector(".find button").click(), 0`, nil)
	p.Wait(`location.pathname === "/search" && [...document.querySelectorAll("td")].some((e) => e.innerText.includes("End of a session"))`)
	p.Eval(`[...document.querySelectorAll("tr")].find((e) => e.innerText.includes("End of a session")).querySelector("a").click(), 0`, nil)
	p.Wait(`document.querySelector(".verdict .word")?.innerText.toUpperCase().startsWith("GOOD")`)
	var report string
	p.Eval(`fetch(document.querySelector(".downloads a[href$=report]").href).then((r) => r.text())`, &report)
	if !strings.Contains(report, "meets your appraisal policy") || !strings.Contains(report, l.World.Session.String()) {
		t.Errorf("the report is %.200q", report)
	}
	p.Clean(l.url, "data:")

	// The first key is to skip what is the same on all pages, and focus can be seen.
	visit("/findings")
	p.Key("Tab", 9)
	var focus string
	p.Eval(`document.activeElement.textContent + " " + getComputedStyle(document.activeElement).outlineStyle`, &focus)
	if focus != "Skip to the content solid" {
		t.Errorf("focus is at %q", focus)
	}

	// A log that begins to lie is shown so on a page that is open, in what is seen without scrolling.
	p.Look(views[0])
	visit("/")
	other := bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 2})
	other.Filler(int(l.Size()) + 5)
	other.Publish(l.Now)
	var h http.Handler = other.Handler()
	l.handler.Store(&h)
	if err := l.m.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.Wait(`document.querySelector("h1.verdict.bad") && document.querySelector("h1.verdict").getBoundingClientRect().bottom < innerHeight && document.querySelector("#live").innerText.includes("contradicts itself")`)
	look("lying", p)
	visit("/findings/" + l.m.Status().Halted)
	look("finding", p)
}
