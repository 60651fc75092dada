// Package verifypage makes the Verify page: one HTML file that checks .affidavit bundles in the reader's browser, offline,
// with the code that "affidavit verify" runs, compiled to WebAssembly.
//
// The page makes no request at all, and works from a disk as well as from a server. Its Content-Security-Policy allows
// the scripts that are in it, by their hashes, and nothing else.
package verifypage

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/affidavit-log/affidavit/client/bundle"
)

// A Module is what the page runs.
type Module struct {
	WASM []byte // package wasm, compiled for js/wasm, and compressed with gzip
	Exec []byte // wasm_exec.js of the Go release that compiled it
}

// Names of the files that a Module comes in.
const (
	WASMFile = "verify.wasm.gz"
	ExecFile = "wasm_exec.js"
)

// ErrNoModule says that a program was built without the module, which isn't in the repository.
var ErrNoModule = errors.New(`this program was built without the page's WebAssembly module: build it with "make build", which makes the module first`)

// ErrNotText says that a rule can't be put into a page unchanged.
var ErrNotText = errors.New("not plain text: want UTF-8, with line feeds alone (and no carriage returns) between lines")

// module has the files of a Module if they were there when the program was built, see module/README.md.
//
//go:embed module
var module embed.FS

// Embedded returns the module that was there when the program was built. The error is ErrNoModule if there was none.
func Embedded() (*Module, error) {
	dir, err := fs.Sub(module, "module")
	if err != nil {
		return nil, err
	}
	return ReadModule(dir)
}

// ReadModule returns the module whose files are in a directory. The error is ErrNoModule if one of them isn't.
func ReadModule(dir fs.FS) (*Module, error) {
	var m Module
	for name, b := range map[string]*[]byte{WASMFile: &m.WASM, ExecFile: &m.Exec} {
		var err error
		if *b, err = fs.ReadFile(dir, name); errors.Is(err, fs.ErrNotExist) {
			return nil, ErrNoModule
		} else if err != nil {
			return nil, err
		}
	}
	return &m, nil
}

// Sum returns the SHA-256 of the module, uncompressed: that of the file which "go build" makes.
func (m *Module) Sum() ([32]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(m.WASM))
	if err != nil {
		return [32]byte{}, fmt.Errorf("the WebAssembly module: %w", err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return [32]byte{}, fmt.Errorf("the WebAssembly module: %w", err)
	}
	return [32]byte(h.Sum(nil)), nil
}

// Options say what is in a page.
type Options struct {
	Module *Module // required

	// The rules that readers find in the page, and can replace. All may be empty. They must be text, in UTF-8, with line
	// feeds alone between lines, since HTML keeps nothing else; they are not checked otherwise.
	LogPolicy       string // c2sp.org/tlog-policy text
	AppraisalPolicy string // YAML
	Root            string // certificate in PEM; without it, the page trusts Intel's

	// Version says what made the page, in a few words. It may be empty.
	Version string
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

// The module is in the page in parts of partSize bytes, so that a browser unpacks and compiles it while it reads. After each is
// partScript, which hands it over.
const (
	partSize   = 192 << 10
	partScript = "affidavitPart(document.currentScript)"
)

// page is parsed when it is needed: a command that has this package in it starts sooner.
var page = sync.OnceValue(func() *template.Template { return template.Must(template.New("page").Parse(pageHTML)) })

// Page returns the page. The same options always give the same bytes.
func Page(o Options) ([]byte, error) {
	sum, err := o.Module.Sum()
	if err != nil {
		return nil, err
	}
	for _, s := range []string{o.LogPolicy, o.AppraisalPolicy, o.Root} {
		if !utf8.ValidString(s) || strings.ContainsAny(s, "\r\x00") {
			return nil, ErrNotText
		}
	}
	script := ascii(pageJS, `\u{%X}`)
	data := struct {
		Policy       string // Content-Security-Policy
		Style        template.CSS
		Exec, Script template.JS
		Part         template.JS     // after each part of the module
		Module       []template.HTML // its parts
		MaxFile      int

		LogPolicy, AppraisalPolicy, Root string
		ModuleSum, Version               string
	}{
		Style: template.CSS(pageCSS), Exec: template.JS(o.Module.Exec), Script: template.JS(script),
		Part: partScript, MaxFile: bundle.MaxSize,
		LogPolicy: o.LogPolicy, AppraisalPolicy: o.AppraisalPolicy, Root: o.Root,
		ModuleSum: hex.EncodeToString(sum[:]), Version: o.Version,
	}
	for part := range slices.Chunk(o.Module.WASM, partSize) {
		// Browsers parse a long attribute sooner than long text. In a string, package template would escape each "+".
		data.Module = append(data.Module, template.HTML(`<data hidden value="`+base64.StdEncoding.EncodeToString(part)+`"></data>`))
	}
	for _, s := range []string{string(data.Exec), script, pageCSS} {
		// What a browser hashes is what its parser makes of the text.
		if strings.ContainsAny(s, "\r\x00") || strings.Contains(s, "<!--") || strings.Contains(strings.ToLower(s), "</s") {
			return nil, errors.New("a script or style has text in it that HTML would change")
		}
	}
	// "wasm-unsafe-eval" allows WebAssembly, and not eval (CSP Level 3, section 8.4).
	data.Policy = fmt.Sprintf("default-src 'none'; script-src %s %s %s 'wasm-unsafe-eval'; style-src %s; base-uri 'none'; form-action 'none'",
		pin(string(data.Exec)), pin(script), pin(partScript), pin(pageCSS))
	var b bytes.Buffer
	if err := page().Execute(&b, data); err != nil {
		return nil, err
	}
	return []byte(ascii(b.String(), "&#x%X;")), nil
}

// ascii writes characters that aren't ASCII in another way: a browser decodes megabytes of ASCII much faster than the same
// with a few other characters in them.
func ascii(s, format string) string {
	var b strings.Builder
	for _, c := range s {
		if c < utf8.RuneSelf {
			b.WriteByte(byte(c))
		} else {
			fmt.Fprintf(&b, format, c)
		}
	}
	return b.String()
}

// pin returns the source expression that allows an inline script or style of this text.
func pin(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}
