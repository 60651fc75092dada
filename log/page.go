package sessionlog

import (
	"bytes"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

// pageData is what the page shows. It is all public.
type pageData struct {
	Origin     string
	Size       uint64
	Published  bool
	RootHash   string
	At         string
	Vkeys      []pageKey
	Root       string
	RootIntel  bool
	Quorum     string
	Witnesses  []pageWitness
	Appraisers []pageWitness
	Halted     bool
	Frozen     bool
	Imports    bool
	Freshness  string
}

type pageKey struct{ Kind, Short, Vkey string }

type pageWitness struct {
	Name, State string
	Good        bool
}

// getPage is the page for people.
func (l *Log) getPage(w http.ResponseWriter, r *http.Request) error {
	d := pageData{
		Origin:    l.cfg.Origin,
		Root:      l.cfg.Root.String(),
		RootIntel: l.cfg.Root.IsIntel(),
		Quorum:    l.cfg.LogPolicy.Quorum(),
		Halted:    l.Err() != nil,
		Frozen:    l.frozen != nil,
		Imports:   l.cfg.AllowImports,
		Freshness: l.cfg.MaxFreshnessAge.String(),
	}
	if l.cfg.LogPolicy.IsQuorumNone() {
		d.Quorum = ""
	}
	var keys []*checkpoint.VerifierKey
	for _, k := range l.cfg.Keys {
		keys = append(keys, k.Verifier())
	}
	if len(keys) == 0 { // a process that signs nothing
		for _, x := range l.cfg.LogPolicy.Logs() {
			keys = append(keys, x.Key)
		}
	}
	for _, k := range keys {
		v := k.String()
		short := v
		if len(short) > 200 {
			short = short[:72] + "…"
		}
		d.Vkeys = append(d.Vkeys, pageKey{k.Kind().String(), short, v})
	}
	pub := l.pub.now.Load()
	if pub != nil {
		d.Published, d.Size, d.RootHash = true, pub.cp.Size, fmt.Sprintf("%x", pub.cp.Root)
		if !pub.at.IsZero() {
			d.At = pub.at.UTC().Format(time.RFC3339)
		}
	}
	d.Witnesses = append(states(l.pub.witnesses, pub, l.cfg.now()), l.pub.unreachable()...)
	d.Appraisers = states(l.pub.appraisers, pub, l.cfg.now())
	var b bytes.Buffer
	if err := page.Execute(&b, d); err != nil {
		return err
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	w.Header().Set("Referrer-Policy", "no-referrer")
	return send(w, r, "text/html; charset=utf-8", briefly, b.Bytes())
}

// states says of each witness or appraiser how far behind what is published it is.
func states(ws []*witness, pub *published, now time.Time) []pageWitness {
	var all []pageWitness
	for _, w := range ws {
		w.mu.Lock()
		s := w.status
		w.mu.Unlock()
		x := pageWitness{Name: w.name}
		switch {
		case s.at.IsZero() && s.err == "" && s.behind.IsZero():
			x.State = "not asked yet"
		case s.at.IsZero() && !s.behind.IsZero() && s.err == "":
			x.State = "is behind, has not cosigned since the log was started"
		case s.at.IsZero():
			x.State = "has not cosigned since the log was started"
		case s.err != "":
			// Nothing is published without a quorum, so that its size may look up to date.
			x.State = fmt.Sprintf("doesn't answer or doesn't cosign, last cosigned %s ago", now.Sub(s.at).Round(time.Second))
		case pub != nil && s.size < pub.cp.Size:
			x.State = fmt.Sprintf("%d leaves behind, last cosigned %s ago", pub.cp.Size-s.size, now.Sub(s.at).Round(time.Second))
		default:
			x.State, x.Good = fmt.Sprintf("cosigned %s ago", now.Sub(s.at).Round(time.Second)), true
		}
		all = append(all, x)
	}
	return all
}

// unreachable returns the witness lines of the policy without a URL.
func (p *publisher) unreachable() []pageWitness {
	var all []pageWitness
	for _, w := range p.l.cfg.LogPolicy.Witnesses() {
		if w.URL == "" {
			all = append(all, pageWitness{Name: w.Name, State: "has no address in the log policy, and isn't asked"})
		}
	}
	return all
}

var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Origin}} – transparency log</title>
<style>
:root { color-scheme: light dark; --fg: #1c2024; --soft: #5f6b76; --line: #d9dee3; --bg: #fbfcfd; --card: #fff; --good: #1a7f4b; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e9ec; --soft: #98a3ad; --line: #2d343b; --bg: #14181c; --card: #1b2026; --good: #4cc38a; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 2.25rem 0 .6rem; }
p { margin: .5rem 0; }
.soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.25rem; }
.size { font-size: 2.2rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.2; }
.bad { color: var(--bad); } .good { color: var(--good); }
code { font: .82rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .45rem .75rem .45rem 0; border-top: 1px solid var(--line); }
tr:first-child td, tr:first-child th { border-top: 0; }
th { font-weight: 500; color: var(--soft); width: 9.5rem; }
a { color: inherit; }
</style>
</head>
<body>
<main>
<h1>{{.Origin}}</h1>
<p class="soft">A transparency log of attestation records: what ran in confidential AI sessions, as signed by hardware.
Anyone can check every record; nobody has to take this page's word.</p>
{{if .Halted}}<p class="card bad"><strong>This log was halted.</strong> It serves what was published and takes nothing new.</p>{{end}}
{{if .Frozen}}<p class="card"><strong>This log has ended.</strong> It takes nothing any more, and stays readable. It has said so in <a href="frozen">a signed statement</a>.</p>{{end}}
<div class="card">
{{if .Published}}<div class="size">{{.Size}}</div>
<div class="soft">leaves published{{if .At}}, last at {{.At}}{{end}}</div>
<p><code>{{.RootHash}}</code></p>{{else}}<p>Nothing is published yet: the witnesses' quorum isn't met.</p>{{end}}
</div>

<h2>Keys</h2>
<table>{{range .Vkeys}}<tr><th>{{.Kind}}</th><td>{{if eq .Short .Vkey}}<code>{{.Vkey}}</code>{{else}}<details><summary><code>{{.Short}}</code></summary><code>{{.Vkey}}</code></details>{{end}}</td></tr>{{end}}</table>
<p class="soft">Take keys from someone you trust, not from here.</p>

<h2>Hardware root</h2>
<table><tr><th>{{if .RootIntel}}Intel{{else}}<span class="bad">not Intel's</span>{{end}}</th><td>{{.Root}}</td></tr></table>
{{if not .RootIntel}}<p class="bad">Under this root nothing is evidence of real hardware: this log is for tests or demonstrations.</p>{{end}}

<h2>Witnesses</h2>
{{if .Witnesses}}<table>{{range .Witnesses}}<tr><th>{{.Name}}</th><td>{{if .Good}}<span class="good">{{.State}}</span>{{else}}{{.State}}{{end}}</td></tr>{{end}}</table>
{{if .Quorum}}<p class="soft">A checkpoint is published once the quorum “{{.Quorum}}” has cosigned it.</p>{{end}}{{end}}
{{if not .Quorum}}<p>This log asks for no cosignatures. Nothing keeps it from showing different histories to different people, and no time is proven.</p>{{end}}

{{if .Appraisers}}<h2>Appraisers</h2>
<table>{{range .Appraisers}}<tr><th>{{.Name}}</th><td>{{if .Good}}<span class="good">{{.State}}</span>{{else}}{{.State}}{{end}}</td></tr>{{end}}</table>
<p class="soft">They cosign what is published, late, once they have verified every entry in it. Nothing waits for them.</p>{{end}}

<h2>Interface</h2>
<table>
<tr><th><a href="checkpoint">checkpoint</a></th><td>the signed tree head (<a href="https://c2sp.org/tlog-checkpoint">c2sp.org/tlog-checkpoint</a>)</td></tr>
<tr><th>tile/…</th><td>hashes and leaves (<a href="https://c2sp.org/tlog-tiles">c2sp.org/tlog-tiles</a>); collateral at blob/&lt;sha256&gt;</td></tr>
<tr><th><a href="freshness">freshness</a></th><td>the checkpoint for the next statement to be made after; usable for {{.Freshness}}</td></tr>
<tr><th>proof/&lt;index&gt;</th><td>a leaf with its proof (<a href="https://c2sp.org/tlog-proof">c2sp.org/tlog-proof</a>); also proof/by-statement/&lt;sha256&gt;</td></tr>
<tr><th>POST add</th><td>for vendors{{if .Imports}}; evidence that isn't bound to a statement is taken too, and marked as such{{end}}</td></tr>
</table>
</main>
</body>
</html>
`))
