package chaos

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// compatDir is what an earlier version has left: see its README.
const compatDir = "../../../testdata/compat/v1"

var compat = flag.Bool("make-compat", false, "make testdata/compat/v1 anew with this version, instead of reading it")

// A compatManifest says what is in the log.
type compatManifest struct {
	Size    uint64
	Root    string
	Records map[string]uint64 // by statement: where
}

const compatAppraisal = `measurements:
  - name: compat
    mrtd: %x
    rtmr0: any
    rtmr1: any
    rtmr2: any
    rtmr3: any
`

// makeCompat makes what TestCompat reads.
func makeCompat(t *testing.T) {
	w := newWorld(t, shape{witnesses: 1, quorum: 1, monitor: true, recorder: true, exporter: true, checkpoint: 100 * time.Millisecond, time: 500 * time.Millisecond})
	for i := range 6 {
		tenant := watched
		if i%2 > 0 {
			tenant[0]++
		}
		if err := w.submit(t.Context(), w.start(tenant)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.session(t.Context(), "compat", 5, 0); err != nil {
		t.Fatal(err)
	}
	w.checkRecorder()
	w.checkMonitor()
	w.checkExporter()
	for _, d := range []*daemon{w.exporter, w.recorder, w.monitor, w.log, w.witnesses[0]} {
		if err := d.stop(); err != nil {
			t.Fatal(err)
		}
	}
	m := compatManifest{Records: make(map[string]uint64)}
	for d, a := range w.acked {
		m.Records[fmt.Sprintf("%x", d)] = a.index
	}
	root, err := w.leaves.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Size, m.Root = w.leaves.End(), fmt.Sprintf("%x", root)
	b, err := json.MarshalIndent(&m, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	w.write("manifest.json", append(b, '\n'))
	if err := os.RemoveAll(compatDir); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(w.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(w.dir, path)
		if err != nil {
			return err
		}
		// What is made anew, or says where it was made.
		if base := filepath.Base(rel); base == "lock" || base == "LOCK" || strings.HasSuffix(rel, ".stderr") || rel == "recorder.yaml" || strings.HasPrefix(rel, "log/tmp") {
			return nil
		}
		// Partial tiles that wider ones have superseded, which the log would remove in time.
		if dir, width := filepath.Split(rel); strings.HasSuffix(dir, ".p/") {
			n, err := strconv.Atoi(width)
			if err != nil {
				return err
			}
			others, err := os.ReadDir(filepath.Dir(path))
			if err != nil {
				return err
			}
			for _, o := range others {
				if k, err := strconv.Atoi(o.Name()); err == nil && k > n {
					return nil
				}
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		to := filepath.Join(compatDir, rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What an earlier version has left of a log, a witness, a monitor, and files for auditors and customers, this one goes on
// with: nothing that was acknowledged has changed, and the tree continues.
func TestCompat(t *testing.T) {
	if *compat {
		makeCompat(t)
		return
	}
	if testing.Short() {
		t.Skip("processes have no race detector")
	}
	w := newWorld(t, shape{witnesses: 1, quorum: 1, monitor: true, checkpoint: 100 * time.Millisecond, time: 500 * time.Millisecond, from: compatDir})
	b, err := os.ReadFile(filepath.Join(compatDir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m compatManifest
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	tree, err := w.client.Tree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if root, err := tree.Root(t.Context(), m.Size); err != nil || fmt.Sprintf("%x", root) != m.Root {
		t.Fatalf("the first %d leaves have the root %x, not %s: %v", m.Size, root, m.Root, err)
	}
	w.check()
	for text, index := range m.Records {
		d, err := parseDigest(text)
		if err != nil {
			t.Fatal(err)
		}
		if a, ok := w.seen[d]; !ok || a.index != index {
			t.Errorf("statement %s is at %d (%v), not at %d", text, a.index, ok, index)
		}
		if p, err := w.client.ProofByStatement(t.Context(), d); err != nil || p.Index != index {
			t.Errorf("the index of before doesn't find %s: %v", text, err)
		}
	}
	if len(m.Records) < 8 {
		t.Errorf("only %d records", len(m.Records))
	}
	w.checkWitness(0)
	// It goes on: a record after those of before, once there is a note that is young enough.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w.wait("a new record", func() bool {
		err := w.submit(ctx, w.start(watched))
		if p := new(client.Problem); errors.As(err, &p) && p.Name() == "stale-freshness" {
			if err := w.refresh(); err != nil {
				t.Fatal(err)
			}
			return false
		} else if err != nil {
			t.Fatal(err)
		}
		return true
	})
	w.checkMonitor()
	w.checkStorage()

	// What people have in their hands.
	w.write("appraisal.yaml", fmt.Appendf(nil, compatAppraisal, tdxsim.Measurement("mrtd")))
	bundles, _ := filepath.Glob(filepath.Join(compatDir, "out", "*.affidavit"))
	sessions, _ := filepath.Glob(filepath.Join(compatDir, "out", "*.session"))
	if len(bundles) != 1 || len(sessions) != 1 {
		t.Fatalf("bundles %v, sessions %v", bundles, sessions)
	}
	disclosures := filepath.Join(w.dir, "disclosures")
	for _, args := range [][]string{
		{"disclose", "--where", "outcome=executed", "--out-dir", disclosures, sessions[0]},
		{"verify", "--log-policy", filepath.Join(w.dir, "policy"), "--appraisal-policy", filepath.Join(w.dir, "appraisal.yaml"), "--root", filepath.Join(w.dir, "root.pem"), bundles[0]},
	} {
		out, err := exec.Command(filepath.Join(w.bin, "affidavit"), args...).CombinedOutput()
		// 3 is genuine and refused: the made-up vendor claims nothing that a strict reader asks for.
		if e := new(exec.ExitError); err != nil && !(args[0] == "verify" && errors.As(err, &e) && e.ExitCode() == 3) {
			t.Errorf("affidavit %s: %v\n%s", args[0], err, out)
		}
	}
}

// What a later version has made is refused, and the message says which version it is, and which this command knows.
func TestUnknownVersions(t *testing.T) {
	if testing.Short() || *compat {
		t.Skip("processes have no race detector")
	}
	w := newWorld(t, shape{witnesses: 1, quorum: 1, monitor: true, checkpoint: 100 * time.Millisecond, time: 500 * time.Millisecond, from: compatDir})
	for _, d := range w.daemons() {
		if err := d.stop(); err != nil {
			t.Fatal(err)
		}
	}
	later := func(name, from, to string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(from)) {
			t.Fatalf("%s has no %q", name, from)
		}
		w.write(name, bytes.ReplaceAll(b, []byte(from), []byte(to)))
	}
	refused := func(what string, err error, text string, words ...string) {
		t.Helper()
		if err == nil {
			t.Errorf("%s of a later version wasn't refused", what)
		}
		for _, word := range words {
			if !strings.Contains(text, word) {
				t.Errorf("%s: %q isn't said:\n%s", what, word, text)
			}
		}
	}
	later("log/affidavit-log", "affidavit-log/v1", "affidavit-log/v9")
	err := w.log.start()
	refused("log", err, fmt.Sprint(err), "affidavit-log/v9", "affidavit-log/v1")
	out, err := exec.Command(filepath.Join(w.bin, "affidavit-log"), "check", "--storage", "posix:"+w.log.state).CombinedOutput()
	refused("log, for check", err, string(out), "affidavit-log/v9", "affidavit-log/v1")
	later("w0/state.db", "affidavit-witness/v1", "affidavit-witness/v9")
	err = w.witnesses[0].start()
	refused("witness", err, fmt.Sprint(err), "affidavit-witness/v9", "affidavit-witness/v1")
	later("export/cursor", "cursor v1", "cursor v9")
	out, err = exec.Command(filepath.Join(w.bin, "affidavit"), "export", "--monitor", "http://127.0.0.1:1", "--out", filepath.Join(w.dir, "export/events"), "--cursor", filepath.Join(w.dir, "export/cursor")).CombinedOutput()
	refused("cursor", err, string(out), `version "9"`, "knows 1")

	sessions, _ := filepath.Glob(filepath.Join(compatDir, "out", "*.session"))
	b, err := os.ReadFile(sessions[0])
	if err != nil {
		t.Fatal(err)
	}
	w.write("later.session", bytes.Replace(b, []byte("affidavit-session/v1"), []byte("affidavit-session/v9"), 1))
	out, err = exec.Command(filepath.Join(w.bin, "affidavit"), "disclose", "--where", "outcome=executed", "--out", filepath.Join(w.dir, "d"), filepath.Join(w.dir, "later.session")).CombinedOutput()
	refused("session file", err, string(out), "affidavit-session/v9", "affidavit-session/v1")
}

func parseDigest(text string) (d record.Digest, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(d) {
		return d, fmt.Errorf("%q is not a digest: %w", text, err)
	}
	return record.Digest(b), nil
}
