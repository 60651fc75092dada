package verifypage_test

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/affidavit-log/affidavit/client/webui/verifypage"
	"github.com/affidavit-log/affidavit/client/webui/webuitest"
)

// A reader is somebody with the page open.
type reader struct {
	*webuitest.Page
	f *fixtures
}

// give chooses files, and waits for what the page makes of them.
func (r *reader) give(names ...string) {
	r.Page.Eval("document.querySelector('#result').replaceChildren(), document.querySelector('#files-say').replaceChildren(), 0", nil)
	var paths []string
	for _, name := range names {
		paths = append(paths, r.f.path(name))
	}
	r.SetFiles("#files", paths...)
	r.Wait("document.querySelector('#verdict') || document.querySelector('#files-say').textContent")
}

// rule chooses a file for a rule, and waits until the page says that it comes from there.
func (r *reader) rule(id, name string) {
	r.SetFiles("#"+id+"-file", r.f.path(name))
	r.Wait(fmt.Sprintf("document.querySelector('#%s .from').textContent.includes('%s')", id, name))
}

// TestBrowser is an auditor's way through the page, in Chromium, from a file, without a network. With
// AFFIDAVIT_SCREENSHOTS it leaves pictures in that directory.
func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("the module is compiled without the race detector in any case")
	}
	b := webuitest.Start(t)
	f := newFixtures(t)
	write := func(name string, o verifypage.Options) string {
		o.Module = newModule(t)
		page, err := verifypage.Page(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(f.path(name), page, 0o600); err != nil {
			t.Fatal(err)
		}
		return (&url.URL{Scheme: "file", Path: f.path(name)}).String()
	}
	bare := write("bare.html", verifypage.Options{})
	ours := write("ours.html", verifypage.Options{LogPolicy: f.logPolicy, AppraisalPolicy: f.appraisal, Root: f.root, Version: "affidavit v1.2.3"})
	open := func(t *testing.T, address string, v webuitest.View) *reader {
		v.Offline = true
		return &reader{b.Open(t, address, v), f}
	}
	contains := func(t *testing.T, what, text string, want ...string) {
		t.Helper()
		for _, s := range want {
			if !strings.Contains(text, s) {
				t.Errorf("%s doesn't say %q: %s", what, s, text)
			}
		}
	}

	// Loading the page is what takes long, so that these share one.
	r := open(t, ours, webuitest.View{})
	t.Run("verdicts", func(t *testing.T) {
		r.Wait("document.querySelector('#root .from').textContent")
		contains(t, "the page", r.Text("#shipped"), "log policy, appraisal policy, and root certificate came with this page", "Whoever made the page chose them")
		for _, tt := range []struct {
			files  string
			status string // class of the verdict
			want   []string
		}{
			{"good.affidavit", "good", []string{"Good", "Final record of coding session", "as witnesses prove", "Proven by hardware", "came with this page", "Not under Intel’s root certificate"}},
			{"tampered.affidavit", "not-proven", []string{"Not proven", "Rely on nothing in it", "The log doesn't hold a record as it is in the file", "(inclusion)"}},
			{"damaged.affidavit", "not-proven", []string{"Not proven", "The file is damaged, was changed, or is no such file at all", "(bundle)"}},
			{"replay.affidavit", "not-proven", []string{"Not proven", "The hardware's report is about another record", "(binding)"}},
			{"refused.affidavit", "refused", []string{"Refused", "Why it is refused", "debug"}},
			{"nothing.txt", "not-proven", []string{"is no such file at all", "neither an .affidavit bundle nor a .tlog-proof"}},
			{"good.affidavit action.json", "good", []string{"Good", "Action 2, disclosed", "execute_tool"}},
			{"good.affidavit foreign.json", "good", []string{"Not an action of this record"}},
		} {
			r.give(strings.Fields(tt.files)...)
			text := r.Text("#result")
			contains(t, tt.files, text, tt.want...)
			var class string
			if r.Eval("document.querySelector('.verdict')?.className ?? ''", &class); class != "verdict "+tt.status {
				t.Errorf("%s: the verdict has the class %q, want %s; the page says %s", tt.files, class, tt.status, r.Text("#files-say"))
			}
			var focused string
			if r.Eval("document.activeElement.id", &focused); focused != "verdict" {
				t.Errorf("%s: the focus is on %q, want the verdict", tt.files, focused)
			}
			contains(t, "the status line", r.Text("#live"), strings.Fields(tt.files)[0])
		}

		// What was checked doesn't look like what failed.
		r.give("good.affidavit")
		var same bool
		if r.Eval("getComputedStyle(document.querySelector('.holds .mark')).color === getComputedStyle(document.querySelector('.verdict.good')).color", &same); !same {
			t.Error("the mark of a claim that holds has another colour than a good verdict")
		}
		// A disclosure that comes later is of the record that is there.
		r.give("good.affidavit")
		r.give("action.json")
		contains(t, "with a later disclosure", r.Text("#result"), "Good", "Action 2, disclosed")
		r.give("huge.affidavit")
		contains(t, "with a huge file", r.Text("#files-say"), "larger than 16 MiB", "not read")
		if text := r.Text("#result"); text != "" {
			t.Errorf("a verdict is left beside a file that wasn't read: %s", text)
		}
		// Several records at once are a list, the worst first, of which each can be looked at.
		r.give("good.affidavit", "tampered.affidavit", "nothing.txt", "refused.affidavit")
		r.Wait("document.querySelector('#verdict')?.textContent.includes('4 records')")
		contains(t, "several records", r.Text("#result"), "2 not proven, 1 refused, 1 good", "came with this page", "Not under Intel’s root certificate")
		var rows []string
		r.Eval("Array.from(document.querySelectorAll('.verdicts tbody tr'), e => e.querySelector('button').textContent + ' ' + e.querySelector('.status').className)", &rows)
		if got, want := strings.Join(rows, ", "), "tampered.affidavit status not-proven, nothing.txt status not-proven, refused.affidavit status refused, good.affidavit status good"; got != want {
			t.Errorf("the list is %s, want %s", got, want)
		}
		r.Eval("document.querySelectorAll('.verdicts button')[3].click()", nil)
		contains(t, "one of them", r.Text(".full"), "Good", "Final record of coding session", "Proven by hardware")
		r.rule("log-policy", "other.policy")
		r.Wait("document.querySelector('#verdict')?.parentElement.textContent.includes('4 not proven')")
		r.Eval("document.querySelector('#log-policy .reset').click()", nil)
		r.Wait("document.querySelector('#verdict')?.parentElement.textContent.includes('1 good')")
		r.give("good.affidavit", "refused.affidavit", "action.json")
		contains(t, "several records and a disclosure", r.Text("#files-say"), "These are 2 records")
		// Rules don't come with the record.
		r.give("good.affidavit", "log.policy")
		contains(t, "with a policy beside the record", r.Text("#files-say"), "log.policy is a log policy", "not from whoever gave you the record")
		// Other rules are in force at once.
		r.give("good.affidavit")
		r.rule("log-policy", "other.policy")
		r.Wait("document.querySelector('.verdict.not-proven')")
		contains(t, "under another log policy", r.Text("#result"), "No log that the log policy names vouches for it", "Yours, from the file other.policy")
		r.Eval("document.querySelector('#log-policy .reset').click()", nil)
		r.Wait("document.querySelector('.verdict.good')")
		r.Clean(ours)
	})

	t.Run("own rules", func(t *testing.T) {
		r := open(t, bare, webuitest.View{})
		r.Wait("document.querySelector('#log-policy .say').textContent")
		contains(t, "a page without rules", r.Text("#rules"), "A log policy is missing", "An appraisal policy is missing", "Intel’s")
		r.give("good.affidavit")
		contains(t, "a page without rules", r.Text("#files-say"), "Nothing was checked")
		r.rule("log-policy", "log.policy")
		// Pasted, as people type.
		r.Eval(fmt.Sprintf(`(e => { e.value = %q; e.dispatchEvent(new Event("input")); })(document.querySelector("#appraisal-policy-text"))`, f.appraisal), nil)
		// The vendor's hardware isn't Intel's.
		r.Wait("document.querySelector('.verdict.not-proven')")
		r.rule("root", "root.der")
		r.Wait("document.querySelector('.verdict.good')")
		contains(t, "the verdict", r.Text("#result"), "Yours, from the file log.policy", "Yours, as you typed or pasted it", "Yours, from the file root.der", "Not under Intel’s root certificate")
		if text := r.Text("#shipped"); text != "" {
			t.Errorf("rules are said to have come with the page: %s", text)
		}
		r.rule("appraisal-policy", "nothing.txt")
		r.Wait("document.querySelector('#appraisal-policy.bad')")
		if text := r.Text("#result"); text != "" {
			t.Errorf("a verdict without an appraisal policy: %s", text)
		}
		r.Clean(bare)
	})

	t.Run("hostile text", func(t *testing.T) {
		r.give("hostile.affidavit", "action.json")
		text := r.Text("#result")
		contains(t, "the page", text, "<img src=x onerror=alert(1)>", "‹U+202E›", "‹U+2066›", "‹U+0305›")
		if strings.ContainsAny(text, "\u202e\u2066") {
			t.Error("characters that turn the direction of text around are left in the page")
		}
		var raw string
		r.Eval("document.querySelector('.raw pre').textContent", &raw)
		contains(t, "the JSON", raw, `\u202e`)
		if strings.Contains(raw, "\u202e") {
			t.Error("characters that turn the direction of text around are left in the JSON")
		}
		var n int
		if r.Eval("document.querySelectorAll('main img, main script').length", &n); n != 0 {
			t.Errorf("%d elements were made of text", n)
		}
		r.Clean(ours)
	})

	// The policy of the page is in force: no other script, no request, no eval, no style from elsewhere.
	t.Run("content security", func(t *testing.T) {
		r := open(t, ours, webuitest.View{})
		r.Wait("document.querySelector('#root .from').textContent")
		var got []string
		r.Eval(`(async () => {
			const blocked = [];
			addEventListener("securitypolicyviolation", e => blocked.push(e.effectiveDirective));
			const s = document.createElement("script"); s.textContent = "window.evil = 1"; document.body.append(s);
			const i = document.createElement("img"); i.src = "https://example.com/x.png"; document.body.append(i);
			const c = document.createElement("style"); c.textContent = "body{display:none}"; document.head.append(c);
			const b = document.createElement("button"); b.setAttribute("onclick", "window.evil = 2"); document.body.append(b); b.click();
			const f = document.createElement("iframe"); f.src = "https://example.com/"; document.body.append(f);
			const m = document.createElement("form"); m.action = "https://example.com/"; document.body.append(m); m.submit();
			let evil = "";
			try { new Function("window.evil = 3")(); } catch (e) { evil = "eval blocked"; }
			try { await fetch("https://example.com/"); } catch {}
			for (let i = 0; i < 1000 && new Set(blocked).size < 8; i++) await new Promise(r => setTimeout(r, 20));
			return [String(window.evil), evil, ...new Set(blocked)].sort();
		})()`, &got)
		want := "connect-src eval blocked form-action frame-src img-src script-src script-src-attr script-src-elem style-src-elem undefined"
		if s := strings.Join(got, " "); s != want {
			t.Errorf("got  %s\nwant %s", s, want)
		}
		for _, u := range r.Requests() {
			if strings.HasPrefix(u, "https:") {
				t.Logf("blocked: %s", u)
			}
		}
	})

	// With the keyboard alone.
	t.Run("keyboard", func(t *testing.T) {
		r.Eval("document.activeElement.blur()", nil)
		seen := make(map[string]bool)
		for range 20 {
			r.Key("Tab", 9)
			var id string
			r.Eval(`(e => e.id || e.tagName + " " + e.textContent.trim())(document.activeElement)`, &id)
			seen[id] = true
		}
		for _, id := range []string{"files", "SUMMARY Show or change the log policy", "SUMMARY Show or change the appraisal policy", "SUMMARY Show or change the root certificate"} {
			if !seen[id] {
				t.Errorf("the Tab key doesn't reach %q, only %v", id, seen)
			}
		}
		// Nothing is without a name.
		var nameless []string
		r.Eval(`Array.from(document.querySelectorAll("button, input, textarea, summary")).filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute("aria-label"))).map(e => e.outerHTML)`, &nameless)
		if len(nameless) > 0 {
			t.Errorf("without a name for screen readers: %v", nameless)
		}
		r.Clean(ours)
	})

	t.Run("layout", func(t *testing.T) {
		dir := os.Getenv("AFFIDAVIT_SCREENSHOTS")
		picture := func(name string, b []byte) {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		for _, files := range []string{"good.affidavit action.json", "hostile.affidavit action.json foreign.json", "refused.affidavit", "tampered.affidavit", "replay.affidavit good.affidavit refused.affidavit"} {
			r.give(strings.Fields(files)...)
			name, _, _ := strings.Cut(files, ".")
			for _, width := range []int{320, 390, 820, 1440} {
				r.Look(webuitest.View{Width: width, Height: width * 3 / 4, Offline: true})
				var over int
				if r.Eval("document.documentElement.scrollWidth - document.documentElement.clientWidth", &over); over > 0 {
					t.Errorf("at a width of %d, with %s, the page is %d pixels too wide", width, files, over)
				}
				if dir == "" {
					continue
				}
				picture(fmt.Sprintf("%s-%d-light.png", name, width), r.Screenshot())
				r.Look(webuitest.View{Width: width, Height: width * 3 / 4, Offline: true, Dark: true})
				picture(fmt.Sprintf("%s-%d-dark.png", name, width), r.Screenshot())
			}
			if dir != "" {
				picture(name+".pdf", r.PDF())
			}
		}
		r.Clean(ours)
	})
}
