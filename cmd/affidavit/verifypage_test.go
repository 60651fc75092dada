package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/client/webui/verifypage"
	"github.com/affidavit-log/affidavit/client/webui/verifypage/check"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// standInModule stands in for the WebAssembly module, which is there only if "make build" was run.
func standInModule() (*verifypage.Module, error) {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte("\x00asm\x01\x00\x00\x00")); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return &verifypage.Module{WASM: b.Bytes(), Exec: []byte("// runs it\n")}, nil
}

// withModule is main with a module.
func withModule(m *verifypage.Module, err error) func() {
	return func() {
		pageModule = func() (*verifypage.Module, error) { return m, err }
		main()
	}
}

// A pageCase is a file with rules, of which command and page must say the same.
type pageCase struct {
	name  string
	args  []string // of the command: flags, and the file at the end
	Rules check.Rules
	Files []check.File // the first is the file
}

// pageCases make cases of files in a directory.
type pageCases struct {
	t     *testing.T
	dir   string
	cases []pageCase
}

func (p *pageCases) path(name string) string { return filepath.Join(p.dir, name) }

func (p *pageCases) read(name string) []byte {
	p.t.Helper()
	b, err := os.ReadFile(p.path(name))
	if err != nil {
		p.t.Fatal(err)
	}
	return b
}

func (p *pageCases) write(name string, b []byte) {
	p.t.Helper()
	if err := os.WriteFile(p.path(name), b, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// add adds a case. The file has the flags --collateral or --disclosure with the names of the others.
func (p *pageCases) add(logPolicy, appraisal, root, file string, others ...string) {
	p.t.Helper()
	c := pageCase{
		name:  strings.Join(append([]string{file, logPolicy, appraisal, root}, others...), " "),
		args:  []string{"verify", "--json", "--log-policy", p.path(logPolicy), "--appraisal-policy", p.path(appraisal)},
		Rules: check.Rules{LogPolicy: string(p.read(logPolicy)), AppraisalPolicy: string(p.read(appraisal))},
		Files: []check.File{{Name: p.path(file), Bytes: p.read(file)}},
	}
	if root != "" {
		c.args = append(c.args, "--root", p.path(root))
		c.Rules.Root = string(p.read(root))
	}
	if logPolicy == "lone.policy" {
		c.args, c.Rules.AllowQuorumNone = append(c.args, "--allow-quorum-none"), true
	}
	for _, name := range others {
		flag := "--disclosure"
		if name == "collateral.json" {
			flag = "--collateral"
		}
		c.args = append(c.args, flag, p.path(name))
		c.Files = append(c.Files, check.File{Name: p.path(name), Bytes: p.read(name)})
	}
	c.args = append(c.args, p.path(file))
	p.cases = append(p.cases, c)
}

// compare checks that the page says what the command says: package check as it is, and compiled to WebAssembly. Both have
// their answers from package judge, so that what this can find is rules that are read differently, files that are taken for
// something else, disclosures and exit statuses that are added differently, and what a compiler does.
func (p *pageCases) compare() {
	p.t.Helper()
	var native [][]byte
	checker := new(check.Checker)
	statuses := make(map[string]int)
	for _, c := range p.cases {
		reply := checker.Check(c.Rules, c.Files)
		native = append(native, reply.JSON())
		status, stdout, stderr := runCommand(p.t, c.args...)
		var want, got map[string]any
		if err := json.Unmarshal([]byte(stdout), &want); err != nil {
			p.t.Fatalf("%s: %v; stderr %s", c.name, err, stderr)
		}
		if reply.Answer == nil {
			p.t.Errorf("%s: the page says only %v, and the command %v", c.name, reply.Problems, want)
			continue
		}
		b, err := json.Marshal(reply.Answer)
		if err != nil {
			p.t.Fatal(err)
		}
		if err := json.Unmarshal(b, &got); err != nil {
			p.t.Fatal(err)
		}
		if reply.Answer.Exit != status {
			p.t.Errorf("%s: exit status %d, the command's is %d", c.name, reply.Answer.Exit, status)
		}
		// Two messages name flags of the command.
		for _, m := range []map[string]any{want, got} {
			detail := m["detail"].(string)
			detail, _, _ = strings.Cut(detail, `; "affidavit inspect"`)
			detail, _, _ = strings.Cut(detail, ": give it")
			m["detail"] = strings.Replace(detail, "of --collateral", "with collateral", 1)
		}
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if !reflect.DeepEqual(want[name], got[name]) {
				p.t.Errorf("%s: %s is\n%v, and the command's is\n%v", c.name, name, got[name], want[name])
			}
		}
		if len(got) != len(want) {
			p.t.Errorf("%s: %d members, and the command has %d", c.name, len(got), len(want))
		}
		statuses[reply.Answer.Status]++
	}
	p.t.Logf("%d cases: %v", len(p.cases), statuses)

	for i, reply := range p.wasm() {
		if !bytes.Equal(reply, native[i]) {
			p.t.Fatalf("%s: WebAssembly says\n%s, want\n%s", p.cases[i].name, reply, native[i])
		}
	}
}

// runner runs the module in Node.js, as the page runs it in a browser.
const runner = `
"use strict";
const fs = require("fs"), dir = process.argv[2];
globalThis.crypto ??= require("crypto").webcrypto;
require(dir + "/wasm_exec.js");
(async () => {
	const go = new Go();
	const { instance } = await WebAssembly.instantiate(require("zlib").gunzipSync(fs.readFileSync(dir + "/verify.wasm.gz")), go.importObject);
	go.run(instance);
	const out = [];
	for (const c of JSON.parse(fs.readFileSync(dir + "/cases.json"))) {
		const files = c.Files.map(f => ({ name: f.Name, bytes: new Uint8Array(Buffer.from(f.Bytes, "base64")) }));
		const r = c.Rules;
		out.push(affidavitCheck({ logPolicy: r.LogPolicy, appraisalPolicy: r.AppraisalPolicy, root: r.Root, allowQuorumNone: r.AllowQuorumNone }, files));
	}
	fs.writeFileSync(dir + "/replies", out.join("\n"));
	process.exit(0);
})();
`

// realModule compiles the module, as "make build" does.
var realModule = sync.OnceValues(func() (*verifypage.Module, error) {
	dir, err := os.MkdirTemp("", "module")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("go", "run", "../../client/webui/verifypage/mkmodule", "--out", dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkmodule: %w: %s", err, out)
	}
	return verifypage.ReadModule(os.DirFS(dir))
})

// wasm returns what the module replies to each case.
func (p *pageCases) wasm() [][]byte {
	p.t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		p.t.Skip("no node here: install Node.js to check the WebAssembly module, too")
	}
	module, err := realModule()
	if err != nil {
		p.t.Fatal(err)
	}
	dir := p.t.TempDir()
	cases, err := json.Marshal(p.cases)
	if err != nil {
		p.t.Fatal(err)
	}
	for name, b := range map[string][]byte{"cases.json": cases, "runner.js": []byte(runner), verifypage.WASMFile: module.WASM, verifypage.ExecFile: module.Exec} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	if out, err := exec.Command(node, filepath.Join(dir, "runner.js"), dir).CombinedOutput(); err != nil {
		p.t.Fatalf("node: %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "replies"))
	if err != nil {
		p.t.Fatal(err)
	}
	replies := bytes.Split(b, []byte("\n"))
	if len(replies) != len(p.cases) {
		p.t.Fatalf("%d replies to %d cases", len(replies), len(p.cases))
	}
	return replies
}

// The page's verdicts are the command's, on everything that the command's own tests have.
func TestVerifyPageVerdicts(t *testing.T) {
	if testing.Short() {
		t.Skip("everything here happens one after the other, which the race detector has nothing to say about")
	}
	p := &pageCases{t: t, dir: t.TempDir()}
	f := newFixtures(t)
	for name, b := range f.all {
		p.write(name, b)
	}
	flipped := make(map[string]bool)
	for _, name := range []string{"session.affidavit", "final.tlog-proof"} {
		b := f.all[name]
		for i := 0; i < len(b); i += len(b)/5 + 1 {
			damaged := bytes.Clone(b)
			damaged[i] ^= 1
			name := fmt.Sprintf("flip-%d-%s", i, name)
			p.write(name, damaged)
			flipped[name] = true
		}
	}
	p.write("empty", nil)
	p.write("short.affidavit", f.all["session.affidavit"][:1000])
	for _, name := range slices.Sorted(maps.Keys(flipped)) {
		p.add("log.policy", "ours.yaml", "root.pem", name)
	}
	var files []string
	for name := range f.all {
		if strings.HasSuffix(name, ".affidavit") || strings.HasSuffix(name, ".tlog-proof") {
			files = append(files, name)
		}
	}
	slices.Sort(files)
	if len(files) < 15 {
		t.Fatalf("only %v", files) // the fixtures have other names now
	}
	for _, name := range append([]string{"empty", "short.affidavit", "quote.bin", "final.leaf", "checkpoint", "final.dsse", "root.pem"}, files...) {
		p.add("log.policy", "ours.yaml", "root.pem", name)
	}
	for i, name := range files {
		if strings.HasSuffix(name, ".tlog-proof") {
			p.add("log.policy", "pinned.yaml", "root.pem", name, "collateral.json")
		}
		if i%3 != 0 {
			continue
		}
		p.add("log.policy", "pinned.yaml", "root.pem", name)
		p.add("log.policy", "vendor.yaml", "root.pem", name)
		p.add("other.policy", "ours.yaml", "root.pem", name)
		p.add("log.policy", "ours.yaml", "", name)
		p.add("lone.policy", "ours.yaml", "root.pem", name)
	}
	p.add("lone.policy", "ours.yaml", "root.pem", "lone.affidavit")
	out := filepath.Join(p.dir, "disclosed")
	if status, _, stderr := runCommand(t, "disclose", "--action", "0-4", "--out-dir", out, p.path("session.private")); status != exitGood {
		t.Fatal(stderr)
	}
	for i := range 5 {
		p.add("log.policy", "ours.yaml", "root.pem", "recorded.affidavit", fmt.Sprintf("disclosed/action-%d.json", i))
	}
	p.add("log.policy", "ours.yaml", "root.pem", "recorded.affidavit", "disclosed/action-1.json", "disclosure.json", "disclosed/action-2.json")
	for _, name := range []string{"session.affidavit", "begun.affidavit", "ran.affidavit", "debug.affidavit", "replay.affidavit"} {
		p.add("log.policy", "ours.yaml", "root.pem", name, "disclosed/action-3.json")
	}
	p.compare()
}

// So are those on every quote of the shared vectors, in records of their own.
func TestSharedVerifyPage(t *testing.T) {
	if testing.Short() {
		t.Skip("everything here happens one after the other, which the race detector has nothing to say about")
	}
	shared := os.Getenv("AFFIDAVIT_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	dir := filepath.Join(shared, "vectors", "tdx")
	folders, err := filepath.Glob(filepath.Join(dir, "*", "*", "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(folders) == 0 {
		t.Skipf("no vectors in %s: set AFFIDAVIT_SHARED", dir)
	}
	p := &pageCases{t: t, dir: t.TempDir()}
	root, err := os.ReadFile(filepath.Join(dir, "synthetic", "root.der"))
	if err != nil {
		t.Fatal(err)
	}
	p.write("root.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root}))
	good, bad := 0, 0
	for _, file := range folders {
		folder := filepath.Dir(file)
		read := func(name string) []byte {
			t.Helper()
			b, err := os.ReadFile(filepath.Join(folder, name))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		var want struct {
			At     int64
			Expect string
		}
		if err := json.Unmarshal(read("expected.json"), &want); err != nil {
			t.Fatal(err)
		}
		set, err := tdx.ParseCollateralJSON(read("collateral.json"))
		if err != nil {
			t.Fatal(err)
		}
		quote := tdx.TrimPadding(read("quote.bin")) // which no entry has
		sum := sha256.Sum256(quote)
		w := bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 1})
		key := w.AddVendorKey(w.Vendor)
		collateral := w.AddCollateral(set)
		w.Tick(time.Minute)
		index := w.AddImport(time.Unix(want.At, 0).UTC(), func(d *bundletest.Draft) {
			d.Statement.Subjects[0].SHA256 = sum
			d.Statement.Evidence.SHA256, d.Statement.Evidence.Size = sum, uint64(len(quote))
			d.Replay = quote
		})
		w.Tick(time.Minute)
		cover := w.AddTime()
		b, err := w.Bundle(index, w.Publish(w.Now), key, collateral, index, cover).Bytes()
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(filepath.Dir(folder)) + "-" + filepath.Base(folder)
		p.write(name, b)
		p.write("log.policy", []byte(w.Policy().String()))
		p.write("ours.yaml", w.Appraisal("profiles: [unbound/v1]", "time:", "  allow-unproven: true").YAML())
		r := ""
		if strings.HasPrefix(name, "synthetic") {
			r = "root.pem"
		}
		p.add("log.policy", "ours.yaml", r, name)
		reply := new(check.Checker).Check(p.cases[len(p.cases)-1].Rules, p.cases[len(p.cases)-1].Files)
		switch {
		case reply.Answer == nil:
			t.Fatalf("%s: %v", name, reply.Problems)
		case (reply.Answer.Status == judge.NotProven) != (want.Expect == "reject"):
			t.Errorf("%s: %s (%s), want to %s it", name, reply.Answer.Status, reply.Answer.Detail, want.Expect)
		case reply.Answer.Status == judge.NotProven && reply.Answer.Rule != "genuine" && reply.Answer.Rule != "collateral":
			t.Errorf("%s: %s, not because of the quote", name, reply.Answer.Rule)
		case reply.Answer.Status == judge.NotProven:
			bad++
		default:
			good++
		}
	}
	t.Logf("%d genuine, %d not", good, bad)
	p.compare()
}
