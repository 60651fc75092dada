package quote

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	guest "github.com/google/go-tdx-guest/client"
	"github.com/google/go-tdx-guest/client/linuxabi"

	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

var platform = sync.OnceValue(func() *tdxsim.Platform {
	return tdxsim.NewPKI([]byte("quote"), time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)).NewPlatform(tdxsim.PlatformOptions{})
})

// quoteFor returns what hardware would.
func quoteFor(t testing.TB, reportData [64]byte) []byte {
	t.Helper()
	q, err := platform().Quote(tdxsim.QuoteOptions{ReportData: reportData})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// ask asks s for a quote, and checks what it returns.
func ask(t *testing.T, s Source) {
	t.Helper()
	data := [64]byte{1, 2, 63: 3}
	q, err := s.Quote(t.Context(), data)
	if err != nil {
		t.Fatal(err)
	}
	if want := quoteFor(t, data); !bytes.Equal(q, want) {
		t.Errorf("got %d bytes, want the quote of %d bytes", len(q), len(want))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Quote(ctx, data); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

// provider is a stand-in for go-tdx-guest's configfs provider.
type provider struct {
	unsupported error
	answer      func([64]byte) ([]byte, error)
}

func (p *provider) IsSupported() error                         { return p.unsupported }
func (p *provider) GetRawQuote(data [64]byte) ([]uint8, error) { return p.answer(data) }

// wrongs are answers that are no quotes for what was asked.
func wrongs(t testing.TB) map[string]func([64]byte) []byte {
	return map[string]func([64]byte) []byte{
		"is empty":                        func([64]byte) []byte { return nil },
		"not a TDX quote: ":               func(d [64]byte) []byte { return quoteFor(t, d)[:700] },
		"bytes, is not a TDX quote":       func(d [64]byte) []byte { return append(quoteFor(t, d), 0, 1) },
		"commits to REPORTDATA 010200000": func(d [64]byte) []byte { d[63] ^= 1; return quoteFor(t, d) },
	}
}

func TestConfigFS(t *testing.T) {
	ask(t, fromProvider(&provider{answer: func(d [64]byte) ([]byte, error) { return quoteFor(t, d), nil }}))
	// Cloud platforms fill the buffer with zeros.
	ask(t, fromProvider(&provider{answer: func(d [64]byte) ([]byte, error) { return append(quoteFor(t, d), make([]byte, 3000)...), nil }}))
	for want, answer := range wrongs(t) {
		s := fromProvider(&provider{answer: func(d [64]byte) ([]byte, error) { return answer(d), nil }})
		if _, err := s.Quote(t.Context(), [64]byte{1, 2}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	busy := errors.New("device or resource busy")
	if _, err := fromProvider(&provider{answer: func([64]byte) ([]byte, error) { return nil, busy }}).Quote(t.Context(), probe); !errors.Is(err, busy) {
		t.Errorf("got %v, want the provider's", err)
	}
	if _, err := fromProvider(&provider{unsupported: busy}).Quote(t.Context(), probe); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	denied := &provider{answer: func([64]byte) ([]byte, error) {
		return nil, fmt.Errorf("mkdir: %w", fs.ErrPermission)
	}}
	if _, err := fromProvider(denied).Quote(t.Context(), probe); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "recorder's user") {
		t.Errorf("got %v, want what to do about permissions", err)
	}
}

// fakeDevice does what the kernels do that have a call for quotes: a report for REPORTDATA, and for a report a quote.
type fakeDevice struct {
	t              *testing.T
	pad            int
	status         uint64
	outLen         *uint32
	opened, closed int
	errno          error
}

func (d *fakeDevice) Open(string) error { d.opened++; return nil }
func (d *fakeDevice) Close() error      { d.closed++; return nil }
func (d *fakeDevice) Ioctl(cmd uintptr, arg any) (uintptr, error) {
	switch req := arg.(type) {
	case *linuxabi.TdxReportReq:
		if cmd != linuxabi.IocTdxGetReport {
			d.t.Errorf("command %#x for a report", cmd)
		}
		copy(req.TdReport[:], req.ReportData[:])
		return 0, nil
	case *linuxabi.TdxQuoteReq:
		if d.errno != nil {
			return 0, d.errno
		}
		hdr := req.Buffer.(*linuxabi.TdxQuoteHdr)
		q := append(quoteFor(d.t, [64]byte(hdr.Data[:64])), make([]byte, d.pad)...)
		copy(hdr.Data[:], q)
		hdr.OutLen, hdr.Status = uint32(len(q)), d.status
		if d.outLen != nil {
			hdr.OutLen = *d.outLen
		}
		return 0, nil
	}
	return 0, fmt.Errorf("unexpected request %T", arg)
}

var _ guest.Device = (*fakeDevice)(nil)

func TestDevice(t *testing.T) {
	d := &fakeDevice{t: t, pad: 100}
	s := fromDevice(func() (guest.Device, error) { return d, d.Open("") })
	ask(t, s)
	if d.opened != d.closed || d.opened == 0 {
		t.Errorf("opened %d times, closed %d times", d.opened, d.closed)
	}
	for want, edit := range map[string]func(*fakeDevice){
		"doesn't fit its buffer": func(d *fakeDevice) { d.outLen = new(uint32(1 << 30)) }, // a host that lies
		"busy":                   func(d *fakeDevice) { d.status = linuxabi.GetQuoteInFlight },
		"is empty":               func(d *fakeDevice) { d.outLen = new(uint32) },
		"use QuoteProvider":      func(d *fakeDevice) { d.errno = errors.New("invalid ioctl! use QuoteProvider") },
	} {
		d := &fakeDevice{t: t}
		edit(d)
		_, err := fromDevice(func() (guest.Device, error) { return d, nil }).Quote(t.Context(), probe)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	if _, err := fromDevice(func() (guest.Device, error) { return nil, errors.New("gone") }).Quote(t.Context(), probe); !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
}

// agent is a stand-in for dstack's guest agent: what it answers to a path and a body.
func agent(t *testing.T, name string, answer func(path string, body map[string]string) (int, any)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "q") // t.TempDir can be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, name)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]string
		if r.Method != "POST" || r.Header.Get("Content-Type") != "application/json" || json.NewDecoder(r.Body).Decode(&body) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		status, v := answer(r.URL.Path, body)
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return socket
}

// dstackAgent answers as dstack's documentation of its HTTP API has it, for both generations.
func dstackAgent(t *testing.T) func(path string, body map[string]string) (int, any) {
	return func(path string, body map[string]string) (int, any) {
		data, err := hex.DecodeString(body["report_data"])
		switch {
		case err != nil || len(data) != 64:
			return 400, map[string]string{"error": "report data"}
		case path == "/GetQuote":
		case path == "/prpc/Tappd.TdxQuote" && body["hash_algorithm"] == "raw":
		default:
			return 404, map[string]string{"error": "no such method"}
		}
		return 200, map[string]string{
			"quote": hex.EncodeToString(quoteFor(t, [64]byte(data))), "event_log": "[]", "report_data": body["report_data"], "vm_config": "{}",
		}
	}
}

func TestDstack(t *testing.T) {
	for _, name := range []string{"dstack.sock", "tappd.sock"} {
		s, err := Dstack(agent(t, name, dstackAgent(t)))
		if err != nil {
			t.Fatal(err)
		}
		ask(t, s)
	}
	for want, answer := range map[string]func(string, map[string]string) (int, any){
		`answered 500 to POST /GetQuote: "the quote provider is down"`: func(string, map[string]string) (int, any) {
			return 500, map[string]string{"error": "the quote provider is down"}
		},
		"quote provider":   func(string, map[string]string) (int, any) { return 200, map[string]string{"error": "quote provider"} },
		"not hexadecimal":  func(string, map[string]string) (int, any) { return 200, map[string]string{"quote": "0x12zz"} },
		"cannot unmarshal": func(string, map[string]string) (int, any) { return 200, []int{1} },
		"answered 302":     func(string, map[string]string) (int, any) { return 302, map[string]string{} },
		// An agent that hashes the report data, as tappd does by default.
		"commits to REPORTDATA": func(string, map[string]string) (int, any) {
			return 200, map[string]string{"quote": hex.EncodeToString(quoteFor(t, [64]byte{9}))}
		},
	} {
		s, err := Dstack(agent(t, "dstack.sock", answer))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Quote(t.Context(), probe); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// TestMissing: errors say what is missing.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	mkdir := func(path string) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := reportDir(filepath.Join(dir, "none"), filepath.Join(dir, "none/tsm/report")); err == nil || !strings.Contains(err.Error(), "without configfs") {
		t.Error(err)
	}
	empty := mkdir("empty")
	if err := reportDir(empty, empty+"/tsm/report"); err == nil || !strings.Contains(err.Error(), "mount -t configfs") {
		t.Error(err)
	}
	mkdir("other/usb_gadget")
	other := filepath.Join(dir, "other")
	if err := reportDir(other, other+"/tsm/report"); err == nil || !strings.Contains(err.Error(), "CONFIG_TSM_REPORTS") {
		t.Error(err)
	}
	mkdir("good/tsm/report")
	good := filepath.Join(dir, "good")
	if err := reportDir(good, good+"/tsm/report"); err != nil {
		t.Error(err)
	}
	if err := openDevice(filepath.Join(dir, "tdx_guest"), os.O_RDWR); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "tdx_guest isn't loaded") {
		t.Error(err)
	}
	if err := openDevice(os.DevNull, os.O_RDWR); err != nil {
		t.Error(err)
	}
	if _, err := findSocket([]string{filepath.Join(dir, "a.sock"), filepath.Join(dir, "b.sock")}); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "not in dstack") {
		t.Error(err)
	}
	if _, err := Dstack(good); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "not a socket") {
		t.Error(err)
	}
	if _, err := Dstack(filepath.Join(dir, "a.sock")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestDetect fails if something is chosen that doesn't work, or if made-up hardware is chosen at all.
func TestDetect(t *testing.T) {
	broken := fromProvider(&provider{answer: func([64]byte) ([]byte, error) { return nil, errors.New("invalid ioctl") }})
	works := fromProvider(&provider{answer: func(d [64]byte) ([]byte, error) { return quoteFor(t, d), nil }})
	absent := candidate{"absent", func() (Source, error) { return nil, ErrUnavailable }}
	s, err := detect(t.Context(), []candidate{absent,
		{"broken", func() (Source, error) { return broken, nil }},
		{"works", func() (Source, error) { return works, nil }},
		{"later", func() (Source, error) { t.Error("looked at a source after one that works"); return nil, ErrUnavailable }},
	})
	if err != nil || s != works {
		t.Errorf("got %v, %v", s, err)
	}
	_, err = detect(t.Context(), []candidate{absent, {"broken", func() (Source, error) { return broken, nil }}})
	if err == nil || !strings.Contains(err.Error(), "absent: not available\nbroken: configfs-tsm: invalid ioctl") {
		t.Errorf("got %v, want a line for each source", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := detect(ctx, []candidate{{"works", func() (Source, error) { return works, nil }}}); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
	// A simulator that the environment offers is not hardware.
	t.Setenv("DSTACK_SIMULATOR_ENDPOINT", agent(t, "dstack.sock", dstackAgent(t)))
	if s, err := Detect(t.Context()); err == nil {
		if _, ok := s.(*sim); ok || strings.Contains(fmt.Sprint(s), os.Getenv("DSTACK_SIMULATOR_ENDPOINT")) {
			t.Errorf("detected %v", s)
		}
	}
}

func TestSim(t *testing.T) {
	ask(t, Sim(platform(), tdxsim.QuoteOptions{ReportData: [64]byte{7}}))
	if _, err := Sim(platform(), tdxsim.QuoteOptions{Version: 3}).Quote(t.Context(), probe); err == nil {
		t.Error("a quote of version 3")
	}
}
