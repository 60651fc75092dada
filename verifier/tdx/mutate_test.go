package tdx_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

// freshEnv says that this process is the other one of TestMutatedQuotes.
const freshEnv = "AFFIDAVIT_TDX_FRESH"

func TestMain(m *testing.M) {
	if os.Getenv(freshEnv) != "" {
		freshVerifier(os.Stdin, os.Stdout)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A genuineQuote is a quote that is accepted, and by what.
type genuineQuote struct {
	Raw        []byte
	Collateral *tdx.Collateral
	Root       []byte
	At         time.Time
}

func genuineQuotes(tb testing.TB) (all []genuineQuote) {
	for _, o := range []tdxsim.QuoteOptions{{}, {Version: 5}, {Version: 5, Body: 3}, {FreshQE: true}} {
		for _, name := range []string{"a", "b"} {
			s := newScenario()
			s.quote, s.platform.Name = o, name
			raw, c, _ := s.make(tb)
			all = append(all, genuineQuote{raw, c, s.pki.Root(), s.at})
		}
	}
	return all
}

// freshVerifier reads the genuine quotes, and then mutated ones, each with the number of its original, and says of each what
// a verifier says that has never seen anything.
func freshVerifier(r io.Reader, w io.Writer) {
	in, out := bufio.NewReader(r), bufio.NewWriter(w)
	read := func() []byte {
		var n uint32
		if binary.Read(in, binary.BigEndian, &n) != nil {
			return nil
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(in, b); err != nil {
			return nil
		}
		return b
	}
	var all []genuineQuote
	if json.Unmarshal(read(), &all) != nil {
		return
	}
	for b := read(); b != nil; b = read() {
		g := all[b[0]]
		root, err := tdx.ParseRoot(g.Root)
		if err == nil {
			var res *tdx.Result
			if res, err = verifyAll(b[1:], g.Collateral, root, g.At); err == nil {
				fmt.Fprintf(out, "%s\n", verdict(res, nil))
				out.Flush()
				continue
			}
		}
		fmt.Fprintf(out, "%s\n", verdict(nil, err))
		out.Flush()
	}
}

// verdict is all that is said of a quote, in one line.
func verdict(r *tdx.Result, err error) []byte {
	if err != nil {
		return fmt.Appendf(nil, "refused %s", reasonOf(err))
	}
	b, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return b
}

// mutate changes a quote at one to three places, some of them where the format has its sizes and types, some in ways that
// leave it genuine.
func mutate(r *rand.Rand, b []byte, others []genuineQuote) []byte {
	b = slices.Clone(b)
	for range 1 + r.IntN(3) {
		if len(b) < 700 {
			break
		}
		at := r.IntN(len(b))
		if r.IntN(2) == 0 { // near the boundaries of fields
			to := 48 + 584
			if b[0] == 5 {
				to = 54 + 584
			}
			at = min(len(b)-1, max(0, []int{0, 2, 4, 12, 48, 54, to, to + 4, to + 68, to + 132, to + 138, to + 138 + 384, to + 138 + 448, len(b) - 1}[r.IntN(14)]+r.IntN(9)-4))
		}
		switch r.IntN(10) {
		case 0:
			b[at] ^= 1 << r.IntN(8)
		case 1:
			b[at] = byte(r.Uint32())
		case 2:
			copy(b[at:], []byte{0xff, 0xff, 0xff, 0xff})
		case 3: // a piece of another quote in the same place
			o := others[r.IntN(len(others))].Raw
			if at < len(o) {
				copy(b[at:min(len(b), at+1+r.IntN(600))], o[at:])
			}
		case 4:
			b = b[:at]
		case 5:
			b = append(b, make([]byte, 1+r.IntN(8))...)
		case 6:
			b = slices.Insert(b, at, byte(r.Uint32()))
		case 7:
			b = slices.Delete(b, at, min(len(b), at+1+r.IntN(4)))
		case 8: // white space in the PEM, which isn't signed, with the sizes that it has then
			i := bytes.LastIndex(b, []byte("-----BEGIN"))
			if i < 0 {
				break
			}
			b = resized(slices.Insert(b, i, " \n\r\t"[r.IntN(4)]))
		default: // the rest of another quote, with its certificates
			o := others[r.IntN(len(others))].Raw
			i, j := bytes.Index(b, []byte("-----BEGIN")), bytes.Index(o, []byte("-----BEGIN"))
			if i < 0 || j < 0 {
				break
			}
			b = resized(append(b[:i:i], o[j:]...))
		}
	}
	return b
}

// resized writes the sizes anew that a quote's length says.
func resized(b []byte) []byte {
	to := 48 + 584
	if b[0] == 5 {
		to = 54 + int(binary.LittleEndian.Uint32(b[50:]))
	}
	inner := bytes.Index(b, []byte("-----BEGIN"))
	if to+140 > len(b) || inner < 6 {
		return b
	}
	binary.LittleEndian.PutUint32(b[to:], uint32(len(b)-to-4))
	binary.LittleEndian.PutUint32(b[to+4+128+2:], uint32(len(b)-to-4-128-6))
	binary.LittleEndian.PutUint32(b[inner-4:], uint32(len(b)-inner))
	return b
}

var mutations = flag.Int("mutations", 5000, "how many mutated quotes TestMutatedQuotes makes; the long run has 1000000")

// Of mutated quotes none makes a verifier panic that has seen all the others and remembers what it can, and what it says is
// what a fresh one says, in another process: of all that are accepted, and of some that are refused.
func TestMutatedQuotes(t *testing.T) {
	n := *mutations
	if testing.Short() {
		n = min(n, 1000)
	}
	all := genuineQuotes(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env, cmd.Stderr = append(os.Environ(), freshEnv+"=1"), os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(stdout)
	send := func(b []byte) {
		t.Helper()
		if _, err := stdin.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
			t.Fatal(err)
		}
	}
	setup, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	send(setup)

	root, err := tdx.ParseRoot(simPKI.Root())
	if err != nil {
		t.Fatal(err)
	}
	set, err := tdx.Compile(all[0].Collateral, root)
	if err != nil {
		t.Fatal(err)
	}
	v := tdx.NewVerifier(root, 2) // fewer than there are, so that it forgets, too
	accepted, asked, reasons := 0, 0, map[string]int{}
	r := rand.New(rand.NewPCG(2, 2))
	for i := range n {
		which := r.IntN(len(all))
		b := mutate(r, all[which].Raw, all)
		var res *tdx.Result
		q, err := tdx.ParseQuote(b)
		if err == nil {
			res, err = v.Verify(q, set, all[which].At)
		}
		got := verdict(res, err)
		if err == nil {
			accepted++
		} else {
			reasons[string(got)]++
			if r.IntN(100) > 0 && (r.IntN(10) > 0 || reasons[string(got)] > n/100) {
				continue
			}
		}
		asked++
		send(append([]byte{byte(which)}, b...))
		line, rerr := answers.ReadBytes('\n')
		if rerr != nil {
			t.Fatalf("mutation %d: the other process ended: %v", i, rerr)
		}
		if want := bytes.TrimSuffix(line, []byte("\n")); !bytes.Equal(got, want) {
			t.Errorf("mutation %d: %s\na fresh verifier: %s\n%x", i, got, want, b)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d mutated quotes, %d accepted, %d judged by the other process; %v", n, accepted, asked, reasons)
	if accepted == 0 || len(reasons) < 3 {
		t.Errorf("%d accepted, refusals %v: the mutations test too little", accepted, reasons)
	}
}
