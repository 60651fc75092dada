// Command demo shows the whole of Affidavit on this machine: a vendor whose
// enclave runs an AI coding session, a log, and an auditor who checks one file
// offline; and attacks, each of which is caught. Everything runs through the
// project's own commands, which are printed as a person would type them.
//
// The enclave's platform is made up, under a root that is made up too: this
// machine has no TDX hardware. What Intel hardware signed for real is appraised
// first.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	mocks "github.com/google/go-tdx-guest/testing"
	"github.com/google/go-tdx-guest/testing/testdata"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/bundle"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

var sh *shell

func main() {
	bin := flag.String("bin", "bin", "directory of the project's commands")
	dir := flag.String("dir", "demo-data", "directory for everything that the demo makes; emptied first")
	stay := flag.Bool("stay", false, "leave the log running until interrupted")
	flag.Parse()

	abs, err := filepath.Abs(*bin)
	check(err)
	empty(*dir)
	sh = &shell{bin: abs, dir: *dir}
	defer sh.stopAll()
	began := time.Now()

	realEvidence()
	pki, pcs := intel()
	keys()
	witnesses := theWitnesses()
	log := theLog(witnesses)
	vendor(log)
	name := session(log, witnesses)
	auditor(name)
	monitor := audit(log, witnesses)
	attacks(log, pki, name)
	fork(log, witnesses)
	recovery(pcs, monitor)
	evidence(name, monitor)

	fmt.Printf("\nDone in %.0f s. The files are in %s.\n", time.Since(began).Seconds(), *dir)
	if *stay {
		fmt.Printf("Until you press Ctrl-C, the log is at %s/, the monitor at %s/, and the made-up Intel's service at %s.\n", log.url, monitor.url, pcsURL)
		fmt.Printf("To record a session of your own: cd %s && %s --config recorder.yaml\n", *dir, filepath.Join(abs, "affidavit-recorder"))
		ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		<-ctx.Done()
		cancel()
	}
}

// realEvidence appraises a quote that an Intel machine signed in 2022.
func realEvidence() {
	chapter("1. A quote that real Intel hardware signed")
	say(`A published quote of a pre-production machine, with the collateral that Intel served for its family in June 2023.
Its signatures hold up to Intel's own root. Its firmware, though, is below every level that Intel recognises, so it is
refused: genuine silicon isn't enough.`)
	chain := func(header map[string][]string, name string) []byte {
		pem, err := url.QueryUnescape(header[name][0])
		check(err)
		return []byte(pem)
	}
	pck := chain(mocks.PckCrlHeader, "Sgx-Pck-Crl-Issuer-Chain")
	c := &tdx.Collateral{
		TCBInfo:      bytes.TrimSpace(testdata.TcbInfoBody),
		TCBInfoChain: chain(mocks.TcbInfoHeader, "Tcb-Info-Issuer-Chain"),
		QEIdentity:   bytes.TrimSpace(testdata.QeIdentityBody), QEIdentityChain: chain(mocks.QeIdentityHeader, "Sgx-Enclave-Identity-Issuer-Chain"),
		RootCRL: testdata.RootCrlBody,
		PCKCRL:  testdata.PckCrlBody, PCKCRLChain: pck,
	}
	json, err := c.JSON()
	check(err)
	// The published file ends in a remark that isn't part of the quote.
	quote, _, _ := bytes.Cut(testdata.RawQuote, []byte("\nextra bytes"))
	sh.write("intel-quote.bin", quote)
	sh.write("intel-collateral.json", json)
	sh.run(4, "affidavit", "appraise", "--quote", "intel-quote.bin", "--collateral", "intel-collateral.json", "--at", "2023-06-28T08:03:58Z")

	// Quotes of up-to-date machines with their collateral are not ours to ship.
	vectors := filepath.Join(os.Getenv("AFFIDAVIT_SHARED"), "vectors", "tdx", "real", "near-v4")
	quote, err = os.ReadFile(filepath.Join(vectors, "quote.bin"))
	if err != nil {
		return
	}
	json, err = os.ReadFile(filepath.Join(vectors, "collateral.json"))
	check(err)
	fmt.Println()
	say("And one of a machine in operation, from a published collection, as of September 2025. This one is good.")
	sh.write("intel-quote-2025.bin", quote)
	sh.write("intel-collateral-2025.json", json)
	sh.run(0, "affidavit", "appraise", "--quote", "intel-quote-2025.bin", "--collateral", "intel-collateral-2025.json", "--at", "2025-09-17T07:22:55Z")
}

// intel starts a made-up Intel with its provisioning certification service.
func intel() (*tdxsim.PKI, *tdxsim.PCS) {
	chapter("2. A made-up Intel, for want of TDX hardware")
	say("From here on, platforms, certificates and collateral are made up, under the root in demo-root.pem. Nothing else is.")
	pki := tdxsim.NewPKI([]byte(seed), since)
	sh.write("demo-root.pem", pki.RootPEM())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	pcs := pki.PCS(tdxsim.PCSOptions{})
	go http.Serve(l, pcs)
	pcsURL = "http://" + l.Addr().String()
	return pki, pcs
}

// The made-up Intel is made of a seed and the time since when it exists.
const seed = "affidavit-demo"

var since = time.Now().Add(-time.Hour).Truncate(time.Second)

var pcsURL string

// logKeys are the vkeys of the log, in the order of its key files.
var logKeys []string

// keys makes the log's keys and the vendor's release key, and what the log's
// operator and the auditor say about them.
func keys() {
	chapter("3. Keys, vendors, and what the auditor accepts")
	for _, kind := range []string{"log", "log-ml-dsa"} {
		logKeys = append(logKeys, sh.keygen(kind, origin, kind+".key"))
	}
	release := sh.keygen("release", vendorID, "release.key")

	token := strings.Repeat("demo", 8)
	sum := sha256.Sum256([]byte(token))
	sh.write("vendor.token", []byte(token+"\n"))
	sh.write("vendors.yaml", fmt.Appendf(nil, "vendors:\n  - id: %s\n    token-sha256: %s\n    release-keys:\n      - %s\n    quota: {rate: 100, burst: 200}\n",
		vendorID, hex.EncodeToString(sum[:]), release))
	sh.write("appraisal.yaml", fmt.Appendf(nil, appraisalPolicy, vendorID, release))
	show("appraisal.yaml")
}

// appraisalPolicy is the auditor's. The demo's session used a model whose
// provider only promises not to keep data, which a strict reader refuses.
const appraisalPolicy = `# What this auditor accepts: the rest is as strict as it gets.
release-keys:
  - vendor: %s
    keys: [%s]
models:
  execution: [tee, policy-zdr]
`

// theWitnesses starts four witnesses, and writes the log policy that asks for
// three of them.
func theWitnesses() []*server {
	chapter("4. Four independent witnesses, of which three must agree")
	var list, policy bytes.Buffer
	fmt.Fprintf(&list, "logs/v0\n\nvkey %s\nqpd 1000000\ncontact demo\n", logKeys[0])
	for _, k := range logKeys {
		fmt.Fprintf(&policy, "log %s\n", k)
	}
	sh.write("logs.txt", list.Bytes())

	var all []*server
	for i := 1; i <= 4; i++ {
		name := fmt.Sprintf("witness%d.demo.example", i)
		short := fmt.Sprintf("w%d", i)
		ed := sh.keygen("witness", name, short+".key")
		pq := sh.keygen("witness-ml-dsa", name, short+"-ml-dsa.key")
		w := sh.start("affidavit-witness", "--name", name, "--key", short+".key", "--key", short+"-ml-dsa.key",
			"--state", short+".db", "--init", "--log-list", "logs.txt", "--listen", "127.0.0.1:0")
		all = append(all, w)
		fmt.Fprintf(&policy, "witness %s-ed25519 %s %s\nwitness %s-ml-dsa %s %s\ngroup %s all %s-ed25519 %s-ml-dsa\n",
			short, ed, w.url, short, pq, w.url, short, short, short)
	}
	fmt.Fprint(&policy, "group three-of-four 3 w1 w2 w3 w4\nquorum three-of-four\n")
	sh.write("log.policy", policy.Bytes())
	sh.run(0, "affidavit", "log-policy", "check", "log.policy")
	return all
}

// theLog starts the log.
func theLog(witnesses []*server) *server {
	chapter("5. The log")
	log := sh.start("affidavit-log", "--init", "--origin", origin, "--key", "log.key", "--key", "log-ml-dsa.key", "--storage", "posix:log",
		"--log-policy", "log.policy", "--vendors", "vendors.yaml", "--root", "demo-root.pem", "--pcs-url", pcsURL,
		"--checkpoint-interval", "200ms", "--time-interval", "2s", "--listen", "127.0.0.1:0")
	fmt.Printf("  it listens on %s\n", log.url)
	return log
}

// vendor logs the vendor's release key, and with it a release, before either is
// used.
func vendor(log *server) {
	chapter("6. The vendor publishes what its image measures, before it uses it")
	payload, err := release().Marshal()
	check(err)
	sh.write("release.json", payload)
	sh.run(0, "affidavit", "sign", "--vendor-key", "--vendor", vendorID, "--key", "release.key", "--out", "vendor-key.entry")
	sh.run(0, "affidavit", "sign", "--key", "release.key", "--out", "release.entry", "release.json")
	sh.run(0, "affidavit", "submit", "--log", log.url, "--token-file", "vendor.token", "--log-policy", "log.policy", "vendor-key.entry", "release.entry")
}

// session runs the recorder in the trust domain, and an agent beside it that
// reports what it does. It returns the name of the session's files, without ending.
func session(log *server, witnesses []*server) string {
	chapter("7. An AI coding session in a trust domain, recorded by a sidecar")
	// Keys and journal belong in guest memory; where there is none to be had, such
	// as on systems without /dev/shm, this demonstration makes do with a directory.
	memory, err := os.MkdirTemp("/dev/shm", "affidavit-demo-")
	anywhere := err != nil
	if anywhere {
		memory, err = os.MkdirTemp("", "affidavit-demo-")
		check(err)
	}
	sh.cleanup = append(sh.cleanup, memory)
	check(os.Mkdir(filepath.Join(sh.dir, "workspace"), 0o700))
	month := time.Now().UTC().Format("2006-01")
	socket := filepath.Join(memory, "recorder.sock")
	sh.write("recorder.yaml", fmt.Appendf(nil, recorderConfig, log.url, vendorID, seed, since.Unix(), image.Name, image.SHA256,
		month, tenant(month), filepath.Join(memory, "state"), anywhere, socket, os.Getuid(), sha256.Sum256([]byte("the TLS key of the trust domain")),
		sha256.Sum256([]byte("the TLS key of the model's provider"))))
	show("recorder.yaml")
	fmt.Println()
	recorder := sh.launch("affidavit-recorder", "--config", "recorder.yaml")
	recorder.await("the recorder's socket", func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	})

	spans := runAgent(socket)
	fmt.Printf("\n  An agent, which only knows OpenTelemetry, reported %d spans: models, files, a sub-agent, tests, a blocked call.\n", spans)
	say("Meanwhile one witness stops. Three are left, and three are enough.")
	witnesses[3].stop()

	var files []string
	recorder.await("the session's files", func() bool {
		files, _ = filepath.Glob(filepath.Join(sh.dir, "out", "*.affidavit"))
		return len(files) > 0
	})
	recorder.stop()
	name := filepath.Join("out", strings.TrimSuffix(filepath.Base(files[0]), ".affidavit"))
	fmt.Printf("  The recorder left %s.affidavit for the auditor, and %s.session for the customer alone.\n", name, name)
	return name
}

// recorderConfig is the sidecar's.
const recorderConfig = `log: %s
log-policy: log.policy
token-file: vendor.token
vendor: %s
quotes: "sim:%s:%d"            # made-up hardware
release: {name: "%s", sha256: "%x"}
persistent-storage: none
tenants: {"%s": "%x"}
dir: %s
any-file-system: %t
out: out
socket: %s
users: [%d]
channels:
  - sha256: %x
models:
  - provider: provider.example
    model: coder-large
    execution: policy-zdr
    channel: {sha256: %x}
retention: {claim: zero-data-retention, enforcement: technical, basis: [no-persistent-storage, ephemeral-keys]}
erase: [rm, -rf, workspace]
linger: 1s
`

// auditor checks the one file that the customer was given, and one action that
// the customer discloses.
func auditor(name string) {
	chapter("8. The auditor checks one file, with no network")
	verify := []string{"affidavit", "verify", "--log-policy", "log.policy", "--appraisal-policy", "appraisal.yaml", "--root", "demo-root.pem"}
	sh.run(0, append(verify, name+".affidavit")...)

	chapter("9. The customer discloses one action, and nothing of the others")
	sh.run(0, "affidavit", "disclose", "--where", "outcome=blocked", "--out", "blocked.json", name+".session")
	out := sh.quiet(0, append(verify, "--disclosure", "blocked.json", name+".affidavit")...)
	// The rest is as before.
	_, shown, _ := strings.Cut(out, "\nSHOWN")
	shown, _, ok := strings.Cut(shown, "\n\n")
	if !ok {
		fatalf("the disclosed action is not shown:\n%s", out)
	}
	for line := range strings.Lines("SHOWN" + shown + "\n") {
		fmt.Printf("  | %s", line)
	}
}

// once is the command by which a monitor audits the log and compares what
// witnesses have seen, once.
func once(log *server, witnesses []*server, dir string) []string {
	args := []string{"affidavit-monitor", "--log", log.url, "--log-policy", "log.policy", "--root", "demo-root.pem", "--dir", dir}
	for i, w := range witnesses[:3] {
		args = append(args, "--witness", fmt.Sprintf("w%d=%s", i+1, w.url))
	}
	return append(args, "--once")
}

// audit has a monitor verify the whole log again, once, and another one follow it,
// which it returns.
func audit(log *server, witnesses []*server) *server {
	chapter("10. Nobody has to trust the log, either: a monitor verifies every entry again")
	sh.run(0, once(log, witnesses, "audit-1")...)
	say("From here on it follows the log, answers questions, and keeps a copy that other monitors can audit.")
	monitor := sh.start("affidavit-monitor", "--log", log.url, "--log-policy", "log.policy", "--root", "demo-root.pem", "--dir", "monitor",
		"--appraisal-policy", "appraisal.yaml", "--interval", "1s", "--mirror", "mirror", "--listen", "127.0.0.1:0")
	sh.run(0, "affidavit", "search", "--monitor", monitor.url, "--vendor", vendorID)
	return monitor
}

// attacks shows that what must not work doesn't.
func attacks(log *server, pki *tdxsim.PKI, name string) {
	chapter("11. Attack: somebody changes a record in the file")
	say("The forger takes care that the file stays well formed, and writes that another model was used.")
	b, err := bundle.Parse(sh.read(name + ".affidavit"))
	check(err)
	for _, p := range b.Proofs {
		p.Extra = bytes.Replace(p.Extra, []byte(`"coder-large"`), []byte(`"coder-cheap"`), 1)
	}
	forged, err := b.Bytes()
	check(err)
	sh.write("forged.affidavit", forged)
	sh.run(4, "affidavit", "verify", "--log-policy", "log.policy", "--appraisal-policy", "appraisal.yaml", "--root", "demo-root.pem", "forged.affidavit")

	chapter("12. Attack: the quote of one session is replayed for another")
	honest := newTrustDomain(pki.NewPlatform(tdxsim.PlatformOptions{}), tdxsim.AttrSEPTVEDisable)
	stolen := honest.start(freshness(log)).Quote()
	thief := newTrustDomain(pki.NewPlatform(tdxsim.PlatformOptions{}), tdxsim.AttrSEPTVEDisable)
	other := thief.start(freshness(log))
	replay, err := record.SignEntry(record.ProfileStatement, other.Payload, thief.key, record.NewQuoteEvidence(stolen))
	check(err)
	sh.write("replayed.entry", replay.Bytes())
	sh.run(4, "affidavit", "submit", "--log", log.url, "--token-file", "vendor.token", "replayed.entry")

	chapter("13. Attack: the trust domain runs in debug mode, where the host can read its memory")
	debug := newTrustDomain(pki.NewPlatform(tdxsim.PlatformOptions{}), tdxsim.AttrSEPTVEDisable|tdxsim.AttrDebug)
	sh.write("debug.entry", debug.start(freshness(log)).Bytes())
	sh.run(4, "affidavit", "submit", "--log", log.url, "--token-file", "vendor.token", "debug.entry")
}

// fork has the log's operator sign a second history, and shows it to the
// witnesses.
func fork(log *server, witnesses []*server) {
	chapter("14. Attack: the log's operator signs another history of the same size")
	c, err := client.New(log.url, client.Config{})
	check(err)
	signed, err := c.Checkpoint(context.Background())
	check(err)
	n, err := checkpoint.ParseNote(signed)
	check(err)
	cp, err := checkpoint.ParseCheckpoint(n.Text)
	check(err)
	cp.Root = sha256.Sum256([]byte("another history"))
	key, err := checkpoint.ParseSigningKey(string(bytes.TrimSpace(sh.read("log.key"))))
	check(err)
	line, err := key.Sign(cp.Text(), time.Now())
	check(err)
	note, err := checkpoint.Sign(cp.Text(), line)
	check(err)
	for i, w := range witnesses[:3] {
		status, answer := post(w.url+"/add-checkpoint", fmt.Appendf(nil, "old %d\n\n%s", cp.Size, note))
		fmt.Printf("  witness %d answers %d: %s\n", i+1, status, strings.TrimSpace(answer))
		if status == http.StatusOK {
			fatalf("witness %d cosigned a fork", i+1)
		}
	}
	resp, err := http.Get(fmt.Sprintf("%s/%x/evidence", witnesses[0].url, sha256.Sum256([]byte(origin))))
	check(err)
	evidence, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	check(err)
	if resp.StatusCode != http.StatusOK || !bytes.Contains(evidence, note) {
		fatalf("witness 1 kept no evidence of the fork: %s", resp.Status)
	}
	say("None cosigns it, and each keeps both signed checkpoints as evidence, for anybody to fetch:")
	for line := range strings.Lines(string(evidence)) {
		if len(line) > 100 {
			line = line[:97] + "...\n"
		}
		fmt.Printf("  | %s", line)
	}
	say("A monitor that asks the witnesses finds it there.")
	sh.run(4, once(log, witnesses, "audit-2")...)
}

// advisory is what the made-up Intel finds out after the session.
const advisory = "INTEL-SA-99001"

// recovery has the made-up Intel publish an advisory with a TCB recovery, and
// finds the sessions that it touches.
func recovery(pcs *tdxsim.PCS, monitor *server) {
	chapter("15. Intel publishes a vulnerability: which sessions does it touch?")
	say("A TCB recovery: the firmware that was up to date this morning has a hole, " + advisory + ", and newer firmware closes it.")
	levels := tdxsim.DefaultLevels()
	patched := levels[0]
	patched.SGX[0]++ // the microcode, which has the hole
	levels[0].Status, levels[0].Advisories = string(tdx.StatusOutOfDate), []string{advisory}
	pcs.Swap(tdxsim.CollateralOptions{
		IssueDate: time.Now().Truncate(time.Second), TCBEvaluationDataNumber: tdxsim.DefaultTCBEvaluationDataNumber + 1,
		Levels: append([]tdxsim.Level{patched}, levels...),
	})
	sh.run(3, "affidavit", "reappraise", "--monitor", monitor.url, "--pcs-url", pcsURL, "--root", "demo-root.pem")
	sh.run(3, "affidavit", "recall", "--monitor", monitor.url, "--advisory", advisory, "--pcs-url", pcsURL, "--root", "demo-root.pem")
}

// evidence hands what was verified to people and to their systems.
func evidence(name string, monitor *server) {
	chapter("16. Evidence for people, and for their systems")
	verify := []string{"--log-policy", "log.policy", "--appraisal-policy", "appraisal.yaml", "--root", "demo-root.pem"}
	for _, args := range [][]string{
		{"report", "--html", "report.html"},
		{"report", "--pdf", "report.pdf"},
		{"export", "--format", "ocsf", "--out", "events.ndjson"},
		{"export", "--format", "oscal", "--out", "assessment-results.json"},
	} {
		sh.run(0, append(append(append([]string{"affidavit"}, args...), verify...), name+".affidavit")...)
	}
	say("And a page that makes the same check in a reader's browser, also without a network: drop the .affidavit file on it.")
	sh.run(0, append(append([]string{"affidavit", "verify-page"}, verify...), "--out", "verify.html")...)
	sh.run(0, "affidavit", "vendor-check", "--monitor", monitor.url, "--vendor", vendorID)
	fmt.Printf("\n  To look at, in %s: report.html, report.pdf, verify.html.\n", sh.dir)
	fmt.Printf("  The monitor's pages are at %s/ while it runs: make demo DEMOFLAGS=--stay\n", monitor.url)
}

func post(url string, body []byte) (status int, answer string) {
	resp, err := http.Post(url, "text/plain", bytes.NewReader(body))
	check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	check(err)
	return resp.StatusCode, string(b)
}

// freshness asks the log for its newest checkpoint that is itself in the log.
func freshness(log *server) record.Freshness {
	c, err := client.New(log.url, client.Config{})
	check(err)
	f, err := c.Freshness(context.Background())
	check(err)
	return f.Freshness
}

// empty makes the demo's directory anew. It removes only what a demo left
// there, never a directory that holds something else.
func empty(dir string) {
	const marker = "made-by-the-demo"
	if files, _ := os.ReadDir(dir); len(files) > 0 {
		if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
			fatalf("%s is not empty and not a demo's: give another --dir", dir)
		}
		check(os.RemoveAll(dir))
	}
	check(os.MkdirAll(dir, 0o755))
	check(os.WriteFile(filepath.Join(dir, marker), nil, 0o644))
}

func chapter(title string) { fmt.Printf("\n== %s\n", title) }

func say(text string) { fmt.Printf("  %s\n", strings.ReplaceAll(text, "\n", "\n  ")) }

func show(file string) {
	fmt.Printf("\n  %s:\n", file)
	for line := range strings.Lines(string(sh.read(file))) {
		fmt.Printf("  | %s", line)
	}
}

// check ends the demo with an error that nobody expected.
func check(err error) {
	if err != nil {
		fatalf("%v", err)
	}
}

func fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "demo: "+format+"\n", args...)
	if sh != nil {
		sh.stopAll()
	}
	os.Exit(1)
}
