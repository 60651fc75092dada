package pcs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// put makes a set and writes its file.
func put(t testing.TB, s *service, path string, o tdxsim.CollateralOptions) *tdx.Collateral {
	t.Helper()
	c, err := s.pki.Collateral(o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, b); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDir fails if a set isn't chosen by family, authority and time, or if the
// choice depends on names of files.
func TestDir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		now := time.Now()
		dir := t.TempDir()
		path := func(name string) string { return filepath.Join(dir, name) }
		old := put(t, s, path("z.json"), tdxsim.CollateralOptions{IssueDate: now.Add(-90 * day)})
		current := put(t, s, path("m.json"), tdxsim.CollateralOptions{IssueDate: now.Add(-20 * day)})
		recovered := put(t, s, path("a.json"), tdxsim.CollateralOptions{IssueDate: now.Add(-10 * day), TCBEvaluationDataNumber: 19})
		put(t, s, path("n.json"), tdxsim.CollateralOptions{IssueDate: now.Add(-5 * day)}) // late, of the old number
		processor := put(t, s, path("p.json"), tdxsim.CollateralOptions{CA: ProcessorCA})
		other := put(t, s, path("o.json"), tdxsim.CollateralOptions{FMSPC: "00906ed50000"})
		put(t, s, path("not.collateral"), tdxsim.CollateralOptions{FMSPC: "00906ed50001"})
		if err := os.Mkdir(path("sub.json"), 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, s, path("sub.json/s.json"), tdxsim.CollateralOptions{FMSPC: "00906ed50001"})

		d := Dir(dir, s.root)
		if err := d.Check(); err != nil {
			t.Error(err)
		}
		for _, tt := range []struct {
			name      string
			fmspc, ca string
			at        time.Time
			want      *tdx.Collateral
		}{
			{"now", fmspc, PlatformCA, now, recovered},
			{"lower case", strings.ToLower(fmspc), PlatformCA, now, recovered},
			{"at its issue", fmspc, PlatformCA, now.Add(-10 * day), recovered},
			{"before its issue", fmspc, PlatformCA, now.Add(-10*day - time.Second), current},
			{"in the archive", fmspc, PlatformCA, now.Add(-61 * day), old},
			{"between", fmspc, PlatformCA, now.Add(-60 * day), nil},
			{"too early", fmspc, PlatformCA, now.Add(-91 * day), nil},
			{"too late", fmspc, PlatformCA, now.Add(25 * day), nil},
			{"other CA", fmspc, ProcessorCA, now, processor},
			{"other CA, earlier", fmspc, ProcessorCA, now.Add(-day), nil},
			{"other family", "00906ED50000", PlatformCA, now, other},
			{"not a JSON name, or in a subfolder", "00906ed50001", PlatformCA, now, nil},
		} {
			got, err := d.Collateral(context.Background(), tt.fmspc, tt.ca, tt.at)
			switch {
			case tt.want == nil:
				wantErr(t, err, ErrNoCollateral)
			case err != nil:
				t.Errorf("%s: %v", tt.name, err)
			case !bytes.Equal(got.TCBInfo, tt.want.TCBInfo) || !bytes.Equal(got.PCKCRL, tt.want.PCKCRL):
				t.Errorf("%s: another set", tt.name)
			}
		}
		_, err := get(d, now.Add(-60*day))
		var stale *tdx.StaleError
		if !errors.As(err, &stale) {
			t.Errorf("error %v doesn't say that there are sets for other times", err)
		}
		if _, err := d.Collateral(context.Background(), "..", PlatformCA, now); err == nil || errors.Is(err, ErrNoCollateral) {
			t.Errorf("bad FMSPC: %v", err)
		}
	})
}

// TestDirChanges fails if a changed file isn't read again, or an unchanged one
// gets another address.
func TestDirChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		dir := t.TempDir()
		path := filepath.Join(dir, "c.json")
		d := Dir(dir, s.root)
		_, err := get(d, time.Now())
		wantErr(t, err, ErrNoCollateral)
		if err := d.Check(); !errors.Is(err, ErrNoCollateral) {
			t.Errorf("an empty directory is fine: %v", err)
		}

		put(t, s, path, tdxsim.CollateralOptions{})
		time.Sleep(scanInterval)
		first := mustGet(t, d, time.Now())
		time.Sleep(scanInterval)
		if mustGet(t, d, time.Now()) != first {
			t.Error("another address without a change")
		}
		// As many bytes, and the same time of modification.
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, path, tdxsim.CollateralOptions{TCBEvaluationDataNumber: 19})
		if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(scanInterval)
		second := mustGet(t, d, time.Now())
		if bytes.Equal(second.TCBInfo, first.TCBInfo) {
			t.Error("a replaced file isn't read again")
		}

		// Rewritten in place, to another size, at the same time.
		c, err := s.pki.Collateral(tdxsim.CollateralOptions{TCBEvaluationDataNumber: 2})
		if err != nil {
			t.Fatal(err)
		}
		b, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, info.ModTime()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(scanInterval)
		third := mustGet(t, d, time.Now())
		if bytes.Equal(third.TCBInfo, second.TCBInfo) {
			t.Error("a rewritten file isn't read again")
		}
		second = third

		// A bad file is named, and does no harm to the others.
		bad := filepath.Join(dir, "bad.json")
		if err := os.WriteFile(bad, []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		other := newServiceNamed(t, "another root")
		put(t, other, filepath.Join(dir, "foreign.json"), tdxsim.CollateralOptions{})
		if err := os.Symlink("nowhere", filepath.Join(dir, "dangling.json")); err != nil {
			t.Fatal(err)
		}
		err = d.Check()
		if err == nil {
			t.Fatal("bad files are fine")
		}
		for _, name := range []string{"bad.json", "foreign.json", "dangling.json"} {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("error doesn't name %s: %v", name, err)
			}
		}
		if mustGet(t, d, time.Now()) != second {
			t.Error("bad files do harm")
		}

		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(scanInterval)
		_, err = get(d, time.Now())
		wantErr(t, err, ErrNoCollateral)

		// Unlike an empty directory, a missing one isn't an answer.
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(scanInterval)
		_, err = get(d, time.Now())
		wantErr(t, err, ErrUnreachable)
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v doesn't say why", err)
		}
	})
}

func newServiceNamed(t testing.TB, seed string) *service {
	t.Helper()
	pki := tdxsim.NewPKI([]byte(seed), time.Now())
	root, err := tdx.ParseRoot(pki.Root())
	if err != nil {
		t.Fatal(err)
	}
	return &service{pki: pki, root: root}
}

// TestDirVectors serves the shared real vectors, each judged at its time. It
// fails if what dcap-qvl and dstack exchange can't be used as it is.
func TestDirVectors(t *testing.T) {
	shared := os.Getenv("AFFIDAVIT_SHARED")
	if shared == "" {
		shared = "../../../shared"
	}
	m, err := filepath.Glob(filepath.Join(shared, "vectors", "tdx", "real", "*", "collateral.json"))
	if err != nil || len(m) == 0 {
		t.Skipf("shared vectors not found: %v", err)
	}
	dir := t.TempDir()
	for _, path := range m {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(filepath.Dir(path))+".json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	d := Dir(dir, nil)
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
	for _, path := range m {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		set, err := parseFile(b, tdx.IntelRoot())
		if err != nil {
			t.Fatal(err)
		}
		from, _ := set.Window()
		got, err := d.Collateral(t.Context(), set.FMSPC(), set.PCKCA(), from)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if other, err := tdx.Compile(got, tdx.IntelRoot()); err != nil || newer(set, other) {
			t.Errorf("%s: an older set is given", path)
		}
	}
}
