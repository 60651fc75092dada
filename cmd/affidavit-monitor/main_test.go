package main

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/affidavit-log/affidavit/client/bundle/bundletest"
	"github.com/affidavit-log/affidavit/client/monitor/deliver"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"affidavit-monitor": main})
}

// lab is a log with a session in it, served on this machine, and a receiver of webhooks.
type lab struct {
	t *testing.T

	mu     sync.Mutex // guards the rest
	w      *bundletest.World
	start  uint64
	change func(path string, body []byte) []byte // what is served instead; nil for 404

	secret   deliver.Secret
	down     bool     // the receiver
	received []string // ids of findings
	cosigned uint64   // size that the appraiser has cosigned
}

// newLab makes a log that began some minutes ago: the command has no clock but the machine's.
func newLab(t *testing.T) *lab {
	w := bundletest.NewWorld(t, bundletest.LogOptions{Witnesses: 1})
	w.Now = time.Now().Add(-10 * time.Minute).Truncate(time.Second)
	w.PKI = tdxsim.NewPKI([]byte("affidavit-monitor"), w.Now.Add(-time.Hour))
	w.Platform = w.PKI.NewPlatform(tdxsim.PlatformOptions{})
	set, err := w.PKI.Collateral(tdxsim.CollateralOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, w: w}
	tick := func() { w.Tick(5 * time.Second) }
	for _, v := range []*bundletest.Vendor{w.Vendor, w.Gateway} {
		w.AddVendorKey(v)
		w.AddRelease(v)
	}
	w.AddCollateral(set)
	tick()
	w.AddTime()
	tick()
	l.start = w.AddStart()
	tick()
	w.AddTime()
	tick()
	run := w.AddModelRun(l.start)
	tick()
	w.AddTime()
	tick()
	w.AddFinal(l.start, []uint64{run})
	tick()
	w.AddTime()
	tick()
	w.Publish(w.Now)
	return l
}

// serve serves the log.
func (l *lab) serve(rw http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	answer := httptest.NewRecorder()
	l.w.Handler().ServeHTTP(answer, r)
	if l.change != nil {
		body := answer.Body.Bytes()
		if answer.Header().Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(answer.Body)
			if err == nil {
				body, err = io.ReadAll(z)
			}
			if err != nil {
				l.t.Error(err)
			}
			answer.Header().Del("Content-Encoding")
		}
		if body = l.change(r.URL.Path, body); body == nil {
			http.NotFound(rw, r)
			return
		}
		answer.Body.Reset()
		answer.Body.Write(body)
	}
	maps.Copy(rw.Header(), answer.Header())
	rw.WriteHeader(answer.Code)
	rw.Write(answer.Body.Bytes())
}

// hook receives webhooks.
func (l *lab) hook(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		http.Error(rw, "out for lunch", http.StatusServiceUnavailable)
		return
	}
	var p deliver.Payload
	if err := l.secret.Verify(r.Header, body, time.Now()); err != nil {
		l.t.Errorf("webhook: %v", err)
	} else if err := json.Unmarshal(body, &p); err != nil || p.Data == nil || p.Data.ID != r.Header.Get(deliver.HeaderID) {
		l.t.Errorf("webhook: %s: %v", body, err)
	} else {
		l.received = append(l.received, p.Data.ID)
	}
}

// do changes the log, as the argument of "log" in a script says.
func (l *lab) do(what string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.w
	switch what {
	case "grow": // something that isn't a leaf, and a good one
		w.Append([]byte{1, byte(record.LeafRecord)})
		w.Tick(5 * time.Second)
		w.AddTime()
	case "good":
		w.Tick(5 * time.Second)
		w.AddTime()
	case "many":
		for range 600 {
			w.Tick(time.Millisecond)
			w.AddTime()
		}
	case "fork": // the same size, with another last leaf
		other := bundletest.NewLog(l.t, bundletest.LogOptions{Witnesses: 1})
		for i := range w.Size() - 1 {
			other.Append(w.Leaf(i))
		}
		other.Append([]byte("another leaf"))
		note := other.Publish(w.Now.Add(time.Second))
		l.change = func(path string, body []byte) []byte {
			if path == "/checkpoint" {
				return note
			}
			return body
		}
		return nil
	case "gone":
		l.change = func(string, []byte) []byte { return nil }
		return nil
	case "hook-down", "hook-up":
		l.down = what == "hook-down"
		return nil
	default:
		return fmt.Errorf("the log can't %q", what)
	}
	w.Publish(w.Now)
	return nil
}

// files writes what it takes to audit the log, and what it doesn't.
func (l *lab) files(dir string) error {
	key, err := bundletest.Key(l.t, checkpoint.CosignatureEd25519, "monitor.example/appraiser").PrivateText()
	if err != nil {
		return err
	}
	plain, err := bundletest.Key(l.t, checkpoint.CosignatureEd25519, "monitor.example").PrivateText()
	if err != nil {
		return err
	}
	other := bundletest.NewLog(l.t, bundletest.LogOptions{Origin: "log.example.org/other", Witnesses: 1})
	alone := bundletest.NewLog(l.t, bundletest.LogOptions{})
	for name, text := range map[string]string{
		"log.policy": l.w.Policy().String(), "other.policy": other.Policy().String(), "quorum-none.policy": alone.Policy().String(),
		"root.der": string(l.w.PKI.Root()), "secret": secretText + "\n", "appraiser.key": key + "\n", "witness.key": plain + "\n",
		"watch": "vendor " + l.w.Vendor.ID + "\n",
		"page":  "#!/bin/sh\necho $AFFIDAVIT_FINDING_KIND >> " + filepath.Join(dir, "pages") + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(dir, "page"), 0o700)
}

const secretText = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// TestRefusals: a file or value that is wrong is named, and nothing is begun.
func TestRefusals(t *testing.T) {
	l := newLab(t)
	log := httptest.NewServer(http.HandlerFunc(l.serve))
	defer log.Close()
	dir := t.TempDir()
	if err := l.files(dir); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	for name, from := range map[string]string{"open-secret": "secret", "open.key": "appraiser.key"} {
		b, err := os.ReadFile(in(from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(in(name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	good := map[string]string{"log": log.URL, "log-policy": in("log.policy"), "root": in("root.der"), "dir": in("m"), "once": "true"}
	for _, tt := range []struct {
		name  string
		edits map[string]string // "" removes a flag
		want  string            // "" for a good run
	}{
		{"good", nil, ""}, // otherwise every row could fail for another reason
		{"no log policy", map[string]string{"log-policy": in("none")}, in("none")},
		{"a secret as log policy", map[string]string{"log-policy": in("secret")}, "secret: malformed policy"},
		{"a log policy as root", map[string]string{"root": in("log.policy")}, "log.policy: "},
		{"a secret as watch list", map[string]string{"watch": in("secret")}, "secret: line 1: want a kind and a name"},
		{"a watch list as appraisal policy", map[string]string{"appraisal-policy": in("watch")}, "watch: appraisal policy"},
		{"not a URL", map[string]string{"log": "not-a-url"}, "not-a-url"},
		{"another origin", map[string]string{"origin": "log.example.org/2027"}, "names no log"},
		{"quorum none", map[string]string{"log-policy": in("quorum-none.policy")}, "quorum none"},
		{"another log's folder", map[string]string{"log-policy": in("other.policy")}, "it is about log"},
		{"a folder that is a file", map[string]string{"dir": in("secret")}, "secret"},
		{"not a PCS", map[string]string{"pcs-url": "ftp://pcs.example"}, "ftp"},
		{"a secret that others can read", map[string]string{"webhook": "https://siem.example", "webhook-secret": in("open-secret")}, "chmod 600"},
		{"a webhook unencrypted", map[string]string{"webhook": "http://siem.example", "webhook-secret": in("secret")}, "would travel unencrypted"},
		{"a name of a receiver", map[string]string{"findings": "name=SOC file=" + in("f")}, "lowercase"},
		{"a key that others can read", map[string]string{"once": "", "listen": "127.0.0.1:0", "appraiser-key": in("open.key"), "appraiser-init": "true"}, "chmod 600"},
		{"a plain witness's key", map[string]string{"once": "", "listen": "127.0.0.1:0", "appraiser-key": in("witness.key"), "appraiser-init": "true"}, "must end in /appraiser"},
		{"an address in use", map[string]string{"once": "", "listen": taken.Addr().String()}, "--listen: "},
		{"a metrics address in use", map[string]string{"once": "", "metrics-listen": taken.Addr().String()}, "--metrics-listen: "},
	} {
		flags := maps.Clone(good)
		maps.Copy(flags, tt.edits)
		var args []string
		for k, v := range flags {
			if v != "" {
				args = append(args, "--"+k+"="+v)
			}
		}
		var out, errs bytes.Buffer
		status := run(t.Context(), args, &out, &errs)
		want := exitError
		if tt.want == "" {
			want = exitGood
		}
		if status != want || !strings.Contains(errs.String(), tt.want) {
			t.Errorf("%s: status %d, want %q: %s", tt.name, status, tt.want, &errs)
		}
	}
}

// TestScripts runs the sessions in testdata. Each has a log of its own at $LOG, what it takes to audit it, addresses at
// $API, $PUBLIC and $METRICS that were free a moment ago, and a receiver at $HOOK.
func TestScripts(t *testing.T) {
	type labKey struct{}
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			l := newLab(t)
			var err error
			if l.secret, err = deliver.ParseSecret(secretText); err != nil {
				return err
			}
			e.Values[labKey{}] = l
			log, hook := httptest.NewServer(http.HandlerFunc(l.serve)), httptest.NewServer(http.HandlerFunc(l.hook))
			e.Defer(log.Close)
			e.Defer(hook.Close)
			e.Setenv("LOG", log.URL)
			e.Setenv("HOOK", hook.URL)
			e.Setenv("ORIGIN", l.w.Origin)
			for _, name := range []string{"API", "PUBLIC", "METRICS"} {
				free, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					return err
				}
				e.Setenv(name, free.Addr().String())
				free.Close()
			}
			return l.files(e.WorkDir)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// log WHAT changes the log.
			"log": func(ts *testscript.TestScript, neg bool, args []string) {
				ts.Check(ts.Value(labKey{}).(*lab).do(args[0]))
			},
			// status N COMMAND… runs a command that must exit with N.
			"status": func(ts *testscript.TestScript, neg bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				got := "0"
				if err != nil {
					got = strings.TrimPrefix(err.Error(), "exit status ")
				}
				if got != args[0] {
					ts.Fatalf("status %s, want %s", got, args[0])
				}
			},
			// until URL REGEXP asks until the answer matches.
			"until": func(ts *testscript.TestScript, neg bool, args []string) {
				re := regexp.MustCompile(args[1])
				var last string
				for wait := time.Now().Add(time.Minute); time.Now().Before(wait); time.Sleep(20 * time.Millisecond) {
					if resp, err := http.Get(args[0]); err == nil {
						b, _ := io.ReadAll(resp.Body)
						resp.Body.Close()
						if last = fmt.Sprintf("%d %s", resp.StatusCode, b); re.MatchString(last) {
							return
						}
					} else {
						last = err.Error()
					}
				}
				ts.Fatalf("%s: %.2000s", args[0], last)
			},
			// cosign ADDR STATUS REGEXP asks for a cosignature on the log's newest checkpoint.
			"cosign": func(ts *testscript.TestScript, neg bool, args []string) {
				l := ts.Value(labKey{}).(*lab)
				l.mu.Lock()
				note := l.w.Published()
				body := fmt.Appendf(nil, "old %d\n", l.cosigned)
				for _, h := range l.w.Consistency(l.cosigned, note) {
					body = fmt.Appendf(body, "%s\n", base64.StdEncoding.EncodeToString(h[:]))
				}
				size := l.w.Size()
				l.mu.Unlock()
				resp, err := http.Post("http://"+args[0]+"/add-checkpoint", "text/plain", bytes.NewReader(slices.Concat(body, []byte("\n"), note)))
				ts.Check(err)
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				ts.Check(err)
				if fmt.Sprint(resp.StatusCode) != args[1] || !regexp.MustCompile(args[2]).Match(b) {
					ts.Fatalf("%d %s", resp.StatusCode, b)
				}
				if resp.StatusCode == 200 {
					l.cosigned = size
				}
			},
			// received N: the receiver has been sent N findings, each once.
			"received": func(ts *testscript.TestScript, neg bool, args []string) {
				l := ts.Value(labKey{}).(*lab)
				l.mu.Lock()
				defer l.mu.Unlock()
				if got := fmt.Sprint(len(l.received)); got != args[0] || len(slices.Compact(slices.Sorted(slices.Values(l.received)))) != len(l.received) {
					ts.Fatalf("received %v, want %s", l.received, args[0])
				}
			},
		},
	})
}
