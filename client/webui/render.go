package webui

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"net/url"
	"sync"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/client/report"
)

//go:embed page.html.tmpl
var pageText string

// A layout is what is around a page's content.
type layout struct {
	Title   string
	Section string // of the navigation: log, findings, search, vendors, recall
	Refresh bool   // the page isn't finished, and loads itself again
	Live    bool   // the page has parts that change with the log

	Origin        string
	Alarm         string // what is wrong with the log, on pages about something else
	Style, Script string
	Body          template.HTML
}

var funcs = template.FuncMap{
	"show": show, "lines": lines, "short": short, "grouped": grouped, "moment": moment,
	"date":    func(t time.Time) string { return t.UTC().Format(time.DateOnly) },
	"iso":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	"search":  func(name, value string) string { return "/search?" + url.Values{name: {value}}.Encode() },
	"vendor":  func(id string) string { return "/vendors?" + url.Values{"id": {id}}.Encode() },
	"recall":  func(name, value string) string { return "/recall?" + url.Values{name: {value}}.Encode() },
	"role":    func(r bundle.Role) string { return roleWords[r] },
	"percent": percent,
	"tone":    statusTone,
	"class":   func(c monitor.Class) string { return classTones[c] },
	"meaning": func(c monitor.Class) string { return classMeanings[c] },
	"hash":    func(h monitorapi.Hash) string { return h.String() },
	"deref":   func(n *uint64) uint64 { return *n },
	"minus":   func(a, b uint64) int64 { return int64(a - b) },
	"figure":  func(id string, f *report.Figure) template.HTML { return f.HTML(id) },
	"size":    func(n int) uint64 { return uint64(n) },
	"dict": func(pairs ...any) map[string]any {
		m := make(map[string]any)
		for i := 0; i+1 < len(pairs); i += 2 {
			m[pairs[i].(string)] = pairs[i+1]
		}
		return m
	},
}

// A findingRow is a line of a list of findings. Link is to the record that it is about, if there is one.
type findingRow struct {
	*monitor.Finding
	Link string
}

var pages = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("pages").Funcs(funcs).Option("missingkey=error").Parse(pageText))
})

// prepare parses the templates and has each made safe, which package template otherwise does when it is first used: no reader
// waits for it.
var prepare = sync.OnceFunc(func() {
	for _, t := range pages().Templates() {
		_ = t.Execute(io.Discard, nil) // which fails, but for that
	}
})

// render returns a page. A page of which a part is missing says less than none.
func (u *UI) render(name string, l *layout, data any) ([]byte, error) {
	var b bytes.Buffer
	if err := pages().ExecuteTemplate(&b, name, data); err != nil {
		return nil, err
	}
	l.Body, l.Style, l.Script = template.HTML(b.String()), u.style.path, u.script.path
	var out bytes.Buffer
	if err := pages().ExecuteTemplate(&out, "layout", l); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// answer renders a page of the monitor's.
func (u *UI) answer(name string, l *layout, data any) (*answer, error) {
	s := u.cfg.Monitor.Status()
	l.Origin = s.Log
	if l.Section != "log" {
		switch n := s.ByClass[monitor.ClassTamper]; {
		case s.Halted != "":
			l.Alarm = "The log contradicts itself: the monitor follows it no further."
		case n > 0:
			l.Alarm = fmt.Sprintf("The log has contradicted what it signed: %s of class tamper.", plural(n, "finding", "findings"))
		}
	}
	body, err := u.render(name, l, data)
	if err != nil {
		return nil, err
	}
	return &answer{body: body, typ: "text/html; charset=utf-8", pending: l.Refresh}, nil
}

var roleWords = map[bundle.Role]string{
	bundle.RoleStart:      "Start of a session",
	bundle.RoleFinal:      "End of a session",
	bundle.RoleAbandoned:  "Session given up",
	bundle.RoleModelRun:   "Model run",
	bundle.RoleImport:     "Imported evidence",
	bundle.RoleRelease:    "Release",
	bundle.RoleWithdrawal: "Withdrawal of a release",
	bundle.RoleVendorKey:  "Vendor’s key",
	bundle.RoleTime:       "Time",
	bundle.RoleCollateral: "Intel’s data",
}

var classTones = map[monitor.Class]string{
	monitor.ClassTamper: "bad", monitor.ClassInvalid: "bad", monitor.ClassIdentity: "known", monitor.ClassOperational: "claimed",
}

var classMeanings = map[monitor.Class]string{
	monitor.ClassTamper:      "the log contradicts what it signed, or shows different things to different readers",
	monitor.ClassInvalid:     "something was logged that the rules forbid",
	monitor.ClassIdentity:    "something concerns a name on the watch list",
	monitor.ClassOperational: "the log works badly, or something is missing that may still come",
}

func percent(s monitorapi.Share) string {
	switch {
	case s.Of == 0:
		return "–"
	case s.N == s.Of:
		return "100 %"
	case s.N == 0:
		return "0 %"
	}
	// Rounding must not make all or nothing of some.
	return fmt.Sprintf("%.1f %%", min(max(float64(s.N)*100/float64(s.Of), 0.1), 99.9))
}

// statusTone says how a TCB status looks.
func statusTone(status string) string {
	switch status {
	case "":
		return "unknown"
	case "UpToDate":
		return "good"
	case "OutOfDate", "OutOfDateConfigurationNeeded", "Revoked":
		return "bad"
	}
	return "claimed"
}
