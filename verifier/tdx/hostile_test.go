package tdx_test

import (
	"flag"
	"fmt"
	"reflect"
	"runtime"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// FuzzQEIdentity checks that what a QE identity says doesn't depend on how its text is spaced, and that every error has a
// reason.
func FuzzQEIdentity(f *testing.F) {
	for _, o := range []tdxsim.CollateralOptions{{}, {QE: tdxsim.QEIdentity{Levels: []tdxsim.ISVLevel{{ISVSVN: 9, Status: "OutOfDate", Advisories: []string{"INTEL-SA-00001"}}}}}} {
		c, err := simPKI.Collateral(o)
		if err != nil {
			f.Fatal(err)
		}
		text := c.QEIdentity[len(`{"enclaveIdentity":`) : len(c.QEIdentity)-len(`,"signature":""}`)-128]
		if _, err := tdx.ParseQEIdentity(text); err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := tdx.ParseQEIdentity(b)
		if err != nil {
			if reasonOf(err) != tdx.ReasonQE {
				t.Errorf("error without reason: %v", err)
			}
			return
		}
		spaced := jsontext.Value(append([]byte(nil), b...))
		if err := spaced.Indent(); err != nil {
			t.Fatalf("accepted what isn't JSON: %v", err)
		}
		again, err := tdx.ParseQEIdentity(spaced)
		if err != nil || !reflect.DeepEqual(id, again) {
			t.Errorf("got %+v, %v for\n%s\nwant %+v", again, err, spaced, id)
		}
	})
}

var platforms = flag.Int("platforms", 400, "how many distinct platforms TestPlatformsBounded has; the long run has 1000000")

// However many platforms there are, the verifier remembers as many as it may, and its memory doesn't grow any more. All
// are genuine: of others nothing is remembered.
func TestPlatformsBounded(t *testing.T) {
	n := *platforms
	if testing.Short() {
		n = min(n, 200)
	}
	most := min(n/10, 10000)
	s := newScenario()
	_, c, root := s.make(t)
	set, err := tdx.Compile(c, root)
	if err != nil {
		t.Fatal(err)
	}
	v := tdx.NewVerifier(root, most)
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	empty, full := heap(), 0
	for i := range n {
		raw, err := s.pki.NewPlatform(tdxsim.PlatformOptions{Name: fmt.Sprint(i)}).Quote(s.quote)
		if err != nil {
			t.Fatal(err)
		}
		q, err := tdx.ParseQuote(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(q, set, s.at); err != nil {
			t.Fatal(i, err)
		}
		if i == most {
			full = heap() - empty
		}
	}
	if got := v.Cached(); got != most {
		t.Errorf("%d platforms remembered, want %d", got, most)
	}
	now := heap() - empty
	t.Logf("%d platforms: %d kB with %d remembered, %d kB at the end: %d bytes each", n, full>>10, most, now>>10, now/most)
	if now > full+full/4+2<<20 {
		t.Errorf("%d bytes with %d platforms seen, %d with %d", full, most, now, n)
	}
	// What isn't genuine pushes nothing out.
	raw, err := tdxsim.NewPKI([]byte("another"), simTime).NewPlatform(tdxsim.PlatformOptions{}).Quote(s.quote)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		q, err := tdx.ParseQuote(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(q, set, s.at); err == nil {
			t.Fatal("another root's platform was accepted")
		}
	}
	runtime.KeepAlive(v)
}
