package verifypage_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/webui/verifypage"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// markup is what a vendor might call a model to make a page say something else. Names in statements are ASCII; in actions,
// any text goes.
const (
	markup  = "<img src=x onerror=alert(1)><script>alert(2)</script>"
	hostile = markup + " \u202edooG\u2066 z\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309"
)

// fixtures are files that readers have, in a directory.
type fixtures struct {
	dir string

	logPolicy, appraisal, root string
}

func (f *fixtures) path(name string) string { return filepath.Join(f.dir, name) }

func newFixtures(t testing.TB) *fixtures {
	t.Helper()
	f := &fixtures{dir: t.TempDir()}
	write := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(f.path(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	witnessed := bundletest.LogOptions{Witnesses: 3, Threshold: 2, MLDSA: true}
	// The third action of the session is disclosed.
	var actions [][]byte
	var hashes []record.Digest
	salt := [32]byte{1}
	commit := func(d *bundletest.Draft) {
		actions, hashes = nil, nil
		for i := range 5 {
			b, err := (&record.Action{
				Index: uint64(i), Session: d.Statement.Session.ID, Time: bundletest.Epoch, TraceID: [16]byte{1}, SpanID: [8]byte{1}, Outcome: record.OutcomeBlocked,
				Attributes: map[string]any{"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": hostile},
			}).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			actions, hashes = append(actions, b), append(hashes, record.ActionLeaf(salt, b))
		}
		d.Statement.Session.Actions = record.Actions{Tree: record.Tree{Size: 5, Root: record.ActionRoot(hashes)}}
	}
	bundleOf := func(edit func(*bundletest.Draft)) (*bundletest.Session, []byte) {
		t.Helper()
		s := bundletest.NewSession(t, witnessed, bundletest.Steps{Final: func(d *bundletest.Draft) {
			commit(d)
			edit(d)
		}})
		b, err := s.Bundle().Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return s, b
	}

	s, good := bundleOf(func(*bundletest.Draft) {})
	write("good.affidavit", good)
	f.logPolicy, f.appraisal, f.root = s.Policy().String(), string(s.Appraisal().YAML()), string(s.PKI.RootPEM())
	write("log.policy", []byte(f.logPolicy))
	write("ours.yaml", []byte(f.appraisal))
	write("root.pem", []byte(f.root))
	write("root.der", s.PKI.Root())
	d := &record.Disclosure{Salt: salt, Bytes: actions[2], Index: 2, Tree: record.Tree{Size: 5, Root: record.ActionRoot(hashes)}, Path: record.ActionProof(hashes, 2)}
	write("action.json", d.JSON())
	foreign := &record.Disclosure{Salt: salt, Bytes: actions[0], Tree: record.Tree{Size: 1, Root: record.ActionRoot(hashes[:1])}}
	write("foreign.json", foreign.JSON())

	// What the session used is another model, in an otherwise well-formed file.
	b := s.Bundle()
	for _, p := range b.Proofs {
		if p.Index == b.Subject {
			p.Extra = bytes.Replace(p.Extra, []byte("qwen3-coder-480b"), []byte("qwen3-coder-999b"), 1)
		}
	}
	tampered, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	write("tampered.affidavit", tampered)
	write("damaged.affidavit", flip(bytes.Clone(good), len(good)/2))
	_, replay := bundleOf(func(d *bundletest.Draft) {
		b, err := s.Platform.Quote(tdxsim.QuoteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		d.Replay = b
	})
	write("replay.affidavit", replay)
	debug := tdxsim.AttrSEPTVEDisable | tdxsim.AttrDebug
	_, refused := bundleOf(func(d *bundletest.Draft) { d.Quote.TDAttributes = &debug })
	write("refused.affidavit", refused)
	_, evil := bundleOf(func(d *bundletest.Draft) { d.Statement.Session.Models[0].RequestModel = markup })
	write("hostile.affidavit", evil)

	write("other.policy", []byte(bundletest.NewLog(t, bundletest.LogOptions{Origin: "other.example.org/2026", Witnesses: 3, Threshold: 2}).Policy().String()))
	write("nothing.txt", []byte("nothing of the kind\n"))
	huge, err := os.Create(f.path("huge.affidavit"))
	if err != nil {
		t.Fatal(err)
	}
	if err := huge.Truncate(3 << 30); err != nil { // a hole, which takes no room
		t.Fatal(err)
	}
	huge.Close()
	return f
}

func flip(b []byte, i int) []byte {
	b[i] ^= 1
	return b
}

// module compiles the module, as "make build" does.
var module = sync.OnceValues(func() (*verifypage.Module, error) {
	dir, err := os.MkdirTemp("", "module")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("go", "run", "./mkmodule", "--out", dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mkmodule: %w: %s", err, out)
	}
	return verifypage.ReadModule(os.DirFS(dir))
})

func newModule(t testing.TB) *verifypage.Module {
	t.Helper()
	m, err := module()
	if err != nil {
		t.Fatal(err)
	}
	return m
}
