package verifypage_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"testing"

	"github.com/affidavit-log/affidavit/client/webui/verifypage"
	"github.com/affidavit-log/affidavit/client/webui/webuitest"
)

// again has the page judge the file that it was given before, as if it was chosen again, and returns how long it takes,
// in milliseconds.
const again = `(async () => {
	const e = document.querySelector("#files"), old = performance.getEntriesByName("verdict").length;
	const files = new DataTransfer();
	files.items.add(window.file);
	const start = performance.now();
	e.files = files.files;
	e.dispatchEvent(new Event("change"));
	while (performance.getEntriesByName("verdict").length === old) await new Promise(r => setTimeout(r, 1));
	return performance.getEntriesByName("verdict").at(-1).startTime - start;
})()`

// chosen has the page given a file, in base64, as soon as it is read: at DOMContentLoaded, with no driver in between.
const chosen = `addEventListener("DOMContentLoaded", () => {
	const files = new DataTransfer(), e = document.querySelector("#files");
	files.items.add(new File([Uint8Array.from(atob("%s"), c => c.charCodeAt(0))], "good.affidavit"));
	e.files = files.files;
	e.dispatchEvent(new Event("change"));
})`

// BenchmarkBrowser measures, in Chromium: "first", from navigation to the verdict on a file that is chosen as soon as the
// page is there; "next", from choosing another file to its verdict, in the same tab; "bare", from navigation to the end of
// loading of a page of the same size that does nothing. Each is in ms, beside what a run takes, which has the driver in it;
// "first" also has the ratio to "bare".
func BenchmarkBrowser(b *testing.B) {
	browser := webuitest.Start(b)
	f := newFixtures(b)
	page, err := verifypage.Page(verifypage.Options{Module: newModule(b), LogPolicy: f.logPolicy, AppraisalPolicy: f.appraisal, Root: f.root})
	if err != nil {
		b.Fatal(err)
	}
	write := func(name string, page []byte) string {
		if err := os.WriteFile(f.path(name), page, 0o600); err != nil {
			b.Fatal(err)
		}
		return (&url.URL{Scheme: "file", Path: f.path(name)}).String()
	}
	address := write("page.html", page)
	bare := append([]byte("<!DOCTYPE html><title>bare</title><script type=text/plain>"), page[len(page)/20:len(page)/20*19]...)
	bareAddress := write("bare.html", append(bare, "</script>"...))
	file, err := os.ReadFile(f.path("good.affidavit"))
	if err != nil {
		b.Fatal(err)
	}
	script := fmt.Sprintf(chosen, base64.StdEncoding.EncodeToString(file))
	baseline := 0.0
	b.Run("bare", func(b *testing.B) {
		sum := 0.0
		for b.Loop() {
			p := browser.Open(b, bareAddress, webuitest.View{})
			var t float64
			p.Eval("performance.getEntriesByType('navigation')[0].domComplete", &t)
			sum += t
		}
		baseline = sum / float64(b.N)
		b.ReportMetric(baseline, "ms")
	})
	b.Run("first", func(b *testing.B) {
		sum := 0.0
		for b.Loop() {
			p := browser.Open(b, "about:blank#first", webuitest.View{})
			p.Call("Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": script}, nil)
			p.Call("Page.navigate", map[string]any{"url": address}, nil)
			p.Wait("performance.getEntriesByName('verdict').length")
			var t float64
			p.Eval("performance.getEntriesByName('verdict')[0].startTime", &t)
			sum += t
		}
		b.ReportMetric(sum/float64(b.N), "ms")
		if baseline > 0 {
			b.ReportMetric(sum/float64(b.N)/baseline, "×bare")
		}
	})
	b.Run("next", func(b *testing.B) {
		p := browser.Open(b, address, webuitest.View{})
		p.Eval("document.querySelector('#files').addEventListener('change', e => { window.file ??= e.target.files[0]; }, { capture: true }), 0", nil)
		p.SetFiles("#files", f.path("good.affidavit"))
		p.Wait("performance.getEntriesByName('verdict').length")
		sum := 0.0
		for b.Loop() {
			var t float64
			p.Eval(again, &t)
			sum += t
		}
		b.ReportMetric(sum/float64(b.N), "ms")
	})
}
