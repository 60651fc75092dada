package tdx_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// sharedVectors returns the folder of the shared TDX vectors, "" if there is none.
func sharedVectors() string {
	dir := os.Getenv("AFFIDAVIT_SHARED")
	if dir == "" {
		dir = "../../../shared"
	}
	dir = filepath.Join(dir, "vectors", "tdx")
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	return dir
}

// A vector is a case of the shared vectors, see their README.
type vector struct {
	name, folder      string
	quote, collateral []byte
	root              *tdx.Root
	At                int64  `json:"at"`
	Expect            string `json:"expect"`
	Status            string `json:"tcbStatus"`
	Reason            string `json:"reason"`
}

func vectors(tb testing.TB) []*vector {
	dir := sharedVectors()
	if dir == "" {
		return nil
	}
	read := func(path ...string) []byte {
		b, err := os.ReadFile(filepath.Join(append([]string{dir}, path...)...))
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	var vs []*vector
	for _, folder := range []string{"synthetic", "real"} {
		root := tdx.IntelRoot()
		if folder == "synthetic" {
			var err error
			if root, err = tdx.ParseRoot(read(folder, "root.der")); err != nil {
				tb.Fatal(err)
			}
		}
		entries, err := os.ReadDir(filepath.Join(dir, folder))
		if err != nil {
			tb.Fatal(err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			v := &vector{name: folder + "/" + e.Name(), folder: folder, root: root,
				quote:      read(folder, e.Name(), "quote.bin"),
				collateral: read(folder, e.Name(), "collateral.json"),
			}
			if err := json.Unmarshal(read(folder, e.Name(), "expected.json"), v); err != nil {
				tb.Fatal(err)
			}
			vs = append(vs, v)
		}
	}
	if len(vs) == 0 {
		tb.Fatalf("no vectors in %s", dir)
	}
	return vs
}

// verify does everything that a caller does with a quote and collateral.
func (v *vector) verify(quote []byte) (*tdx.Quote, *tdx.Result, error) {
	c, err := tdx.ParseCollateralJSON(v.collateral)
	if err != nil {
		return nil, nil, err
	}
	q, err := tdx.ParseQuote(quote)
	if err != nil {
		return nil, nil, err
	}
	set, err := tdx.Compile(c, v.root)
	if err != nil {
		return nil, nil, err
	}
	r, err := tdx.NewVerifier(v.root, 1).Verify(q, set, time.Unix(v.At, 0))
	return q, r, err
}

// reasons maps the vectors' classes of reasons to our words.
var reasons = map[string]tdx.Reason{
	"parse":    tdx.ReasonParse,
	"root":     tdx.ReasonRoot,
	"sig":      tdx.ReasonSignature,
	"crl sig":  tdx.ReasonSignature,
	"expired":  tdx.ReasonExpired,
	"future":   tdx.ReasonNotYetValid,
	"revoked":  tdx.ReasonRevoked,
	"Revoked":  tdx.ReasonRevoked,
	"fmspc":    tdx.ReasonFMSPC,
	"tcb":      tdx.ReasonTCB,
	"no level": tdx.ReasonNoLevel,
	"module":   tdx.ReasonModule,
	"qe":       tdx.ReasonQE,
}

// policyFlags are what a strict appraisal policy refuses in a genuine quote. The
// policy is package verifier's: here the quote must show what it looks for.
var policyFlags = map[string]func(tdx.TDAttributes) bool{
	"debug":      tdx.TDAttributes.Debug,
	"migratable": tdx.TDAttributes.Migratable,
	"sept_ve":    func(a tdx.TDAttributes) bool { return !a.SEPTVEDisable() },
}

func TestSharedVectors(t *testing.T) {
	vs := vectors(t)
	if vs == nil {
		t.Skip("no shared vectors: set AFFIDAVIT_SHARED to the folder that has vectors/tdx")
	}
	for _, v := range vs {
		t.Run(v.name, func(t *testing.T) {
			if v.name == "synthetic/trailing_bytes" {
				if _, _, err := v.verify(v.quote); reasonOf(err) != tdx.ReasonParse {
					t.Errorf("with padding: %v, want a parse error", err)
				}
			}
			q, r, err := v.verify(tdx.TrimPadding(v.quote))
			switch v.Expect {
			case "accept":
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				if string(r.Status) != v.Status {
					t.Errorf("status %s, want %s", r.Status, v.Status)
				}
				for name, flag := range policyFlags {
					if v.folder == "synthetic" && flag(q.Body.TDAttributes) {
						t.Errorf("TD attributes %x show %s", q.Body.TDAttributes, name)
					}
				}
			case "refuse-by-policy":
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				flag := policyFlags[v.Reason]
				if flag == nil {
					t.Fatalf("unknown reason %q", v.Reason)
				}
				if !flag(q.Body.TDAttributes) {
					t.Errorf("TD attributes %x don't show %s", q.Body.TDAttributes, v.Reason)
				}
				if v.Status != "" && string(r.Status) != v.Status {
					t.Errorf("status %s, want %s", r.Status, v.Status)
				}
			case "reject":
				want, ok := reasons[v.Reason]
				if !ok {
					t.Fatalf("unknown reason %q", v.Reason)
				}
				var e *tdx.Error
				if !errors.As(err, &e) {
					t.Fatalf("got %+v, %v; want an *Error", r, err)
				}
				t.Log(err)
				if e.Reason != want || string(e.Status) != v.Status {
					t.Errorf("reason %s, status %q; want %s, %q", e.Reason, e.Status, want, v.Status)
				}
			default:
				t.Fatalf("unknown expectation %q", v.Expect)
			}
		})
	}
}

// reasonOf returns the reason of err, "" if it isn't an *Error.
func reasonOf(err error) tdx.Reason {
	var e *tdx.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Reason
}
