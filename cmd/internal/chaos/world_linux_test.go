package chaos

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/client/monitor/monitorapi"
	"github.com/affidavit-log/affidavit/client/session"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/tdx/tdxsim"
)

const (
	origin   = "log.chaos.example/2026"
	vendorID = "https://vendor.example"
	token    = "the-token-of-the-vendor"
	seed     = "affidavit chaos"
)

var image = record.Image{Name: "pkg:oci/sandbox", SHA256: sha256.Sum256([]byte("sandbox"))}

// watched is a tenant on the monitor's watch list: each record that has it is one finding.
var watched = record.Digest(sha256.Sum256([]byte("watched")))

// A world is all that there is around a log, and the daemons, each a process. Its methods can be used concurrently, but for
// check.
type world struct {
	t        testing.TB
	dir, bin string
	pki      *tdxsim.PKI
	platform *tdxsim.Platform
	policy   *checkpoint.Policy
	logKey   *checkpoint.SigningKey
	client   *client.Client
	pcsURL   string
	socket   string // of the recorder
	agents   *http.Client

	log, monitor, recorder, exporter *daemon
	witnesses                        []*daemon

	// mu guards what was submitted and acknowledged.
	mu        sync.Mutex
	fresh     record.Freshness
	submitted map[record.Digest]*record.Entry
	acked     map[record.Digest]ack
	sessions  map[string]*agentSession // of the recorder, by its ids

	// What check has seen, which only it uses.
	leaves    *compact.Range
	seen      map[record.Digest]ack
	watchedAt map[uint64]bool // records with the watched tenant
	cosigned  map[string]uint64
	findings  []string
}

// An ack is where a leaf is, and which.
type ack struct {
	index uint64
	leaf  [32]byte
}

// An agentSession is what the recorder has acknowledged of a session.
type agentSession struct {
	conversation string
	actions      int // 0, 1, 2 …, with these numbers
}

var ranges = compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// shape says which daemons a world has.
type shape struct {
	witnesses, quorum           int
	monitor, recorder, exporter bool
	checkpoint, time            time.Duration
	dir                         string // where everything is; a temporary directory if empty

	// from is a directory with a world of before, as an earlier version has left it. It is copied, and goes on.
	from string
}

// newWorld starts a world.
func newWorld(t testing.TB, s shape) *world {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	w := &world{
		t: t, dir: s.dir, bin: bin, submitted: make(map[record.Digest]*record.Entry), acked: make(map[record.Digest]ack), sessions: make(map[string]*agentSession),
		leaves: ranges.NewEmptyRange(0), seen: make(map[record.Digest]ack), watchedAt: make(map[uint64]bool), cosigned: make(map[string]uint64),
	}
	since := time.Now().Add(-time.Hour).Truncate(time.Second)
	if s.from != "" {
		since = w.copyFrom(s.from)
	}
	w.write("since", fmt.Appendln(nil, since.Unix()))
	w.pki = tdxsim.NewPKI([]byte(seed), since)
	w.platform = w.pki.NewPlatform(tdxsim.PlatformOptions{})
	pcs := httptest.NewServer(w.pki.PCS(tdxsim.PCSOptions{Sets: []tdxsim.CollateralOptions{{IssueDate: time.Now().Add(-time.Hour).Truncate(time.Second)}}}))
	t.Cleanup(pcs.Close)
	w.pcsURL = pcs.URL
	w.write("root.pem", w.pki.RootPEM())
	_, release, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.write("token", []byte(token+"\n"))
	if s.from == "" {
		w.write("vendors.yaml", fmt.Appendf(nil, "vendors:\n  - id: %s\n    token-sha256: %x\n    release-keys: [%s]\n    quota: {rate: 100000, burst: 100000}\n",
			vendorID, sha256.Sum256([]byte(token)), base64.StdEncoding.EncodeToString(record.SPKI(release.Public().(ed25519.PublicKey)))))
	}
	w.write("watch", fmt.Appendf(nil, "tenant %x\n", watched))

	var policy, list bytes.Buffer
	for _, kind := range []checkpoint.Kind{checkpoint.Ed25519, checkpoint.CosignatureMLDSA44} {
		k := w.key(kind, origin, fmt.Sprintf("log%d.key", kind))
		if kind == checkpoint.Ed25519 {
			w.logKey = k
		}
		fmt.Fprintf(&policy, "log %s\n", k.VKey())
	}
	fmt.Fprintf(&list, "logs/v0\n\nvkey %s\nqpd 100000000\ncontact chaos\n", w.logKey.VKey())
	w.write("logs", list.Bytes())
	group := ""
	for i := range s.witnesses {
		name := fmt.Sprintf("w%d.chaos.example", i)
		k := w.key(checkpoint.CosignatureEd25519, name, fmt.Sprintf("w%d.key", i))
		d := w.daemon(fmt.Sprintf("witness%d", i), true, "affidavit-witness", "--name", name, "--key", fmt.Sprintf("w%d.key", i), "--state", fmt.Sprintf("w%d/state.db", i),
			"--log-list", "logs", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
		d.state = filepath.Join(w.dir, fmt.Sprintf("w%d", i))
		if s.from == "" {
			d.once = []string{"--init"}
			if err := os.Mkdir(d.state, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		w.witnesses = append(w.witnesses, d)
		fmt.Fprintf(&policy, "witness w%d %s %s\n", i, k.VKey(), d.front.url())
		group += fmt.Sprintf(" w%d", i)
	}
	if s.witnesses > 0 {
		fmt.Fprintf(&policy, "group all %d%s\nquorum all\n", s.quorum, group)
	} else {
		policy.WriteString("quorum none\n")
	}
	w.write("policy", policy.Bytes())
	if w.policy, err = checkpoint.ParsePolicy(policy.Bytes()); err != nil {
		t.Fatal(err)
	}
	storage := filepath.Join(w.dir, "log")
	w.log = w.daemon("log", true, "affidavit-log", "--origin", origin, "--key", "log1.key", "--key", "log6.key", "--storage", "posix:"+storage,
		"--log-policy", "policy", "--vendors", "vendors.yaml", "--root", "root.pem", "--pcs-url", w.pcsURL, "--checkpoint-interval", s.checkpoint.String(),
		"--time-interval", s.time.String(), "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--allow-quorum-none")
	if w.log.state = storage; s.from == "" {
		w.log.once = []string{"--init"}
	}
	hc := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: 30 * time.Second}
	t.Cleanup(hc.CloseIdleConnections)
	if w.client, err = client.New(w.log.front.url(), client.Config{Token: token, LogPolicy: w.policy, HTTPClient: hc}); err != nil {
		t.Fatal(err)
	}
	if s.monitor {
		w.monitor = w.daemon("monitor", true, "affidavit-monitor", "--log", w.log.front.url(), "--log-policy", "policy", "--root", "root.pem", "--dir", "monitor",
			"--watch", "watch", "--findings", "monitor/findings", "--interval", "100ms", "--mirror", "mirror", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
		w.monitor.state = filepath.Join(w.dir, "monitor")
	}
	if s.recorder {
		w.recorderDaemon(since)
	}
	if s.exporter {
		w.exporter = w.daemon("exporter", false, "affidavit", "export", "--follow", "--monitor", w.monitor.front.url(), "--interval", "100ms", "--out", "export/events", "--cursor", "export/cursor")
		w.exporter.state = filepath.Join(w.dir, "export")
		if err := os.MkdirAll(w.exporter.state, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range w.daemons() {
		if err := d.start(); err != nil {
			t.Fatal(err)
		}
	}
	w.wait("the first note", func() bool { return w.refresh() == nil })
	if s.from != "" {
		return w
	}

	// What monitors ask for before they are content: the vendor's key, and the release that its sessions name.
	k := record.NewSessionKey(release.Public().(ed25519.PublicKey))
	keyID := sha256.Sum256(record.SPKI(release.Public().(ed25519.PublicKey)))
	for _, st := range []*record.Statement{{
		PredicateType: record.PredicateVendorKey, Subjects: []record.Subject{{Name: record.SubjectKey, SHA256: keyID}}, Vendor: vendorID, VendorKey: &record.VendorKey{Key: k},
	}, {
		PredicateType: record.PredicateRelease, Subjects: []record.Subject{{Name: image.Name, SHA256: image.SHA256}}, Vendor: vendorID,
		Release: &record.Release{
			Image: image, Version: "1",
			Measurements: []record.Measurement{{MRTD: tdxsim.Measurement("mrtd"), RTMR: [4]*[48]byte{new(tdxsim.Measurement("rtmr0")), new(tdxsim.Measurement("rtmr1")), new(tdxsim.Measurement("rtmr2"))}}},
			Source:       &record.Source{URI: "git+https://vendor.example/sandbox", GitCommit: strings.Repeat("c2", 20)},
			NotBefore:    since.UTC(),
		},
	}} {
		payload, err := st.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		e, err := record.SignEntry(record.ProfileVendorSigned, payload, release)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.submit(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// copyFrom copies a world of before, and returns since when its made-up Intel exists.
func (w *world) copyFrom(dir string) time.Time {
	w.t.Helper()
	if err := os.CopyFS(w.dir, os.DirFS(dir)); err != nil {
		w.t.Fatal(err)
	}
	// Keys are read only if others can't.
	for _, pattern := range []string{"*.key", "token"} {
		names, _ := filepath.Glob(filepath.Join(w.dir, pattern))
		for _, name := range names {
			if err := os.Chmod(name, 0o600); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(w.dir, "since"))
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return time.Unix(n, 0)
}

// recorderDaemon has agents recorded on a socket, in memory as it should be.
func (w *world) recorderDaemon(since time.Time) {
	memory, err := os.MkdirTemp("/dev/shm", "affidavit-chaos-")
	if err != nil {
		memory = w.t.TempDir()
	}
	w.t.Cleanup(func() { os.RemoveAll(memory) })
	w.socket = filepath.Join(memory, "socket")
	month := time.Now().UTC().Format("2006-01")
	next := time.Now().UTC().AddDate(0, 0, 2).Format("2006-01")
	tenants := fmt.Sprintf(`"%s": "%x"`, month, sha256.Sum256([]byte("tenant")))
	if next != month {
		tenants += fmt.Sprintf(`, "%s": "%x"`, next, sha256.Sum256([]byte("tenant")))
	}
	w.write("recorder.yaml", fmt.Appendf(nil, `log: %s
log-policy: policy
token-file: token
vendor: %s
quotes: "sim:%s:%d"
release: {name: "%s", sha256: "%x"}
persistent-storage: none
tenants: {%s}
dir: %s
any-file-system: true
out: out
socket: %s
users: [%d]
linger: 100ms
idle: 1h
`, w.log.front.url(), vendorID, seed, since.Unix(), image.Name, image.SHA256, tenants, filepath.Join(memory, "state"), w.socket, os.Getuid()))
	w.agents = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: 16,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", w.socket)
		},
	}}
	w.t.Cleanup(w.agents.CloseIdleConnections)
	w.recorder = w.daemon("recorder", false, "affidavit-recorder", "--config", "recorder.yaml")
	w.recorder.state = memory
	w.recorder.ready = func() bool {
		c, err := net.Dial("unix", w.socket)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
}

// daemon makes a daemon that isn't started yet.
func (w *world) daemon(name string, fronted bool, args ...string) *daemon {
	f, err := os.OpenFile(filepath.Join(w.dir, name+".stderr"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	d := &daemon{t: w.t, name: name, bin: w.bin, args: args, dir: w.dir, log: f}
	if fronted {
		d.front = newFront(w.t)
	}
	w.t.Cleanup(func() {
		d.cleanup()
		f.Close()
	})
	return d
}

// daemons are all that there are, in the order in which they start.
func (w *world) daemons() []*daemon {
	all := slices.Clone(w.witnesses)
	for _, d := range []*daemon{w.log, w.monitor, w.recorder, w.exporter} {
		if d != nil {
			all = append(all, d)
		}
	}
	return all
}

func (w *world) write(name string, b []byte) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), b, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) key(kind checkpoint.Kind, name, file string) *checkpoint.SigningKey {
	w.t.Helper()
	if b, err := os.ReadFile(filepath.Join(w.dir, file)); err == nil { // of the world of before
		k, err := checkpoint.ParseSigningKey(strings.TrimSpace(string(b)))
		if err != nil {
			w.t.Fatal(err)
		}
		return k
	}
	k, err := checkpoint.GenerateKey(kind, name, rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	text, err := k.PrivateText()
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(file, []byte(text+"\n"))
	return k
}

// wait waits for something that daemons do.
func (w *world) wait(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			for _, d := range w.daemons() {
				w.t.Logf("%s said at last:\n%s", d.name, d.tail())
			}
			w.t.Fatal("never: " + what)
		}
	}
}

// refresh gets the newest note, to which statements commit.
func (w *world) refresh() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	f, err := w.client.Freshness(ctx)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.fresh = f.Freshness
	w.mu.Unlock()
	return nil
}

// start makes the start of a session.
func (w *world) start(tenant record.Digest) *record.Entry {
	w.mu.Lock()
	f := w.fresh
	w.mu.Unlock()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	info := record.SessionInfo{Kind: record.KindCodingSession, Tenant: tenant, TenantEpoch: now.Format("2006-01"), StartedOn: now, IsolationScope: record.IsolationSession}
	rand.Read(info.ID[:])
	payload, err := (&record.Statement{
		PredicateType: record.PredicateSessionStart, Subjects: []record.Subject{{Name: record.SubjectSession, SHA256: info.ID.Digest()}}, Vendor: vendorID,
		Start: &record.SessionStart{
			SessionInfo: info, SessionKey: record.NewSessionKey(key.Public().(ed25519.PublicKey)), Freshness: f,
			Environment: record.Environment{Release: image, PersistentStorage: record.StorageNone},
			Channels:    []record.Channel{{Type: record.ChannelTLSSPKI, SHA256: sha256.Sum256([]byte("tls"))}},
		},
	}).Marshal()
	if err != nil {
		panic(err)
	}
	q, err := w.platform.Quote(tdxsim.QuoteOptions{ReportData: record.ReportData(record.PayloadType, payload)})
	if err != nil {
		panic(err)
	}
	e, err := record.SignEntry(record.ProfileStatement, payload, key, record.NewQuoteEvidence(q))
	if err != nil {
		panic(err)
	}
	return e
}

// submit submits an entry as a vendor does, until it has a proof or ctx is done.
func (w *world) submit(ctx context.Context, e *record.Entry) error {
	d := e.StatementDigest()
	w.mu.Lock()
	w.submitted[d] = e
	w.mu.Unlock()
	p, err := w.client.Submit(ctx, e)
	if err != nil {
		return err
	}
	a := ack{p.Index, record.LeafHash(p.Extra)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if old, ok := w.acked[d]; ok && old != a {
		w.t.Errorf("a statement was acknowledged at %d and at %d", old.index, a.index)
	}
	w.acked[d] = a
	return nil
}

// vendors submits with n connections until ctx is done, and returns then. Every fourth record is of the watched tenant.
func (w *world) vendors(ctx context.Context, n int, pause time.Duration) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				tenant := watched
				if i%4 > 0 {
					rand.Read(tenant[:])
				}
				// Half of them give up soon, and don't know what has become of it; the others ask until they know.
				sctx, cancel := ctx, func() {}
				if i%2 == 0 {
					sctx, cancel = context.WithTimeout(ctx, time.Second/2)
				}
				err := w.submit(sctx, w.start(tenant))
				cancel()
				var p *client.Problem
				if errors.As(err, &p) && p.Name() == "stale-freshness" || i%16 == 0 {
					w.refresh()
				} else if err != nil && ctx.Err() == nil && p != nil {
					w.t.Errorf("a genuine record was refused: %v", err)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(pause):
				}
			}
		})
	}
	wg.Wait()
}

// problem is what the recorder answers instead.
type problem struct {
	status int
	body   string
}

func (p *problem) Error() string { return fmt.Sprintf("status %d: %s", p.status, p.body) }

// ask calls the recorder's API until there is an answer that isn't that it is busy, or ctx is done.
func (w *world) ask(ctx context.Context, method, path string, body, answer any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	for {
		err := func() error {
			req, err := http.NewRequestWithContext(ctx, method, "http://recorder"+path, bytes.NewReader(b))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := w.agents.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if resp.StatusCode/100 != 2 {
				return &problem{resp.StatusCode, string(text)}
			}
			return json.Unmarshal(text, answer)
		}()
		var p *problem
		if err == nil || errors.As(err, &p) && p.status != http.StatusServiceUnavailable && p.status != http.StatusInternalServerError {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// run has n agents report to the recorder until ctx is done: one session after another, each of some actions.
func (w *world) runAgents(ctx context.Context, n int, pause time.Duration) {
	var wg sync.WaitGroup
	for a := range n {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if err := w.session(ctx, fmt.Sprintf("agent %d session %d", a, i), 20+(a+i*7)%60, pause); err != nil && ctx.Err() == nil {
					w.t.Errorf("agent %d: %v", a, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// session reports one session, and asks for its end.
func (w *world) session(ctx context.Context, conversation string, actions int, pause time.Duration) error {
	var status struct{ ID string }
	if err := w.ask(ctx, "POST", "/sessions?wait=0", map[string]any{"conversation": conversation}, &status); err != nil {
		return err
	}
	w.mu.Lock()
	s := w.sessions[status.ID]
	if s == nil {
		s = &agentSession{conversation: conversation}
		w.sessions[status.ID] = s
	}
	w.mu.Unlock()
	for i := range actions {
		// Some of their size, so that writes of them go over pages.
		body := map[string]any{"actions": []any{map[string]any{
			"key": fmt.Sprint(i), "operation": "execute_tool", "arguments": strings.Repeat("x", i*100), "attributes": map[string]any{"test.number": i, "gen_ai.tool.name": "shell"},
		}}}
		var answer struct{ Accepted int }
		if err := w.ask(ctx, "POST", "/sessions/"+status.ID+"/actions", body, &answer); err != nil {
			return err
		}
		w.mu.Lock()
		s.actions = i + 1
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
	return w.ask(ctx, "POST", "/sessions/"+status.ID+"/finish?wait=0", map[string]any{}, new(struct{}))
}

// check compares the log with all that it has acknowledged, and with what it was at the last check.
func (w *world) check() {
	t := w.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w.mu.Lock()
	acked := make(map[record.Digest]ack, len(w.acked))
	for d, a := range w.acked {
		acked[d] = a
	}
	w.mu.Unlock()
	var tree *client.Tree
	w.wait("a checkpoint", func() (ok bool) { // while the log comes back
		var err error
		tree, err = w.client.Tree(ctx)
		return err == nil
	})
	c := tree.Checkpoint()
	old := w.leaves.End()
	if c.Size < old {
		t.Fatalf("the log went back from %d leaves to %d", old, c.Size)
	}
	if err := w.read(ctx, tree); err != nil {
		t.Fatal(err)
	}
	root, err := w.leaves.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(root, c.Root[:]) && c.Size > 0 {
		t.Fatalf("what was served of the first %d leaves isn't in the tree of %d", old, c.Size)
	}
	for d, a := range acked {
		if got, ok := w.seen[d]; !ok || got != a {
			t.Errorf("acknowledged at %d, and now at %d (%v), of %d leaves", a.index, got.index, ok, c.Size)
		}
	}
	// Provable, by another way than the tiles; some of all, chosen by the map's own chance.
	n := 0
	for d, a := range acked {
		p, err := w.client.ProofByStatement(ctx, d)
		if err != nil || p.Index != a.index || record.LeafHash(p.Extra) != a.leaf {
			t.Errorf("the proof of the leaf at %d: %v", a.index, err)
		}
		if n++; n == 5 {
			break
		}
	}
	for _, s := range tree.Checked().Cosignatures {
		w.cosigned[s.Key.Name()] = max(w.cosigned[s.Key.Name()], c.Size)
	}
}

// read takes in the leaves that are new in tree: each statement is there once.
func (w *world) read(ctx context.Context, tree *client.Tree) error {
	index := w.leaves.End()
	for raw, err := range tree.Leaves(ctx, index, tree.Checkpoint().Size) {
		if err != nil {
			return err
		}
		h := record.LeafHash(raw)
		if err := w.leaves.Append(h[:], nil); err != nil {
			return err
		}
		leaf, err := record.ParseLeaf(raw)
		if err != nil {
			return fmt.Errorf("leaf %d: %w", index, err)
		}
		var entry *record.Entry
		switch l := leaf.(type) {
		case *record.RecordLeaf:
			entry = l.Entry
		case *record.VendorLeaf:
			entry = l.Entry
		}
		if entry != nil {
			d := entry.StatementDigest()
			if other, ok := w.seen[d]; ok {
				w.t.Errorf("one statement is at %d and at %d", other.index, index)
			}
			w.seen[d] = ack{index, h}
			if s := entry.Statement().Start; s != nil && s.Tenant == watched {
				w.watchedAt[index] = true
			}
		}
		index++
	}
	return nil
}

// checkStorage has the log's own command check what is stored.
func (w *world) checkStorage() {
	w.t.Helper()
	cmd := exec.Command(filepath.Join(w.bin, "affidavit-log"), "check", "--storage", "posix:"+w.log.state, "--log-policy", filepath.Join(w.dir, "policy"))
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Errorf("affidavit-log check: %v\n%s", err, out)
	}
}

// checkWitness asks a witness what it knows: no less than it has cosigned; and it cosigns neither another tree of that
// size nor an older one.
func (w *world) checkWitness(i int) {
	t := w.t
	t.Helper()
	d := w.witnesses[i]
	get := func(method, path string, body []byte) (int, string) {
		req, err := http.NewRequest(method, d.front.url()+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b)
	}
	status, note := get("GET", fmt.Sprintf("/%x/checkpoint", sha256.Sum256([]byte(origin))), nil)
	most := w.cosigned[fmt.Sprintf("w%d.chaos.example", i)]
	if status == http.StatusNotFound && most == 0 {
		return
	}
	n, err := checkpoint.ParseNote([]byte(note))
	if status != 200 || err != nil {
		t.Errorf("%s answers %d %.200s: %v", d.name, status, note, err)
		return
	}
	c, err := checkpoint.ParseCheckpoint(n.Text)
	if err != nil || c.Size < most {
		t.Errorf("%s was rolled back: it knows a tree of %d leaves, and has cosigned one of %d: %v", d.name, c.Size, most, err)
	}
	for _, size := range []uint64{c.Size, c.Size - 1} {
		fork := checkpoint.Checkpoint{Origin: origin, Size: size, Root: sha256.Sum256([]byte("fork"))}
		line, err := w.logKey.Sign(fork.Text(), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		signed, err := checkpoint.Sign(fork.Text(), line)
		if err != nil {
			t.Fatal(err)
		}
		if status, answer := get("POST", "/add-checkpoint", fmt.Appendf(nil, "old %d\n\n%s", size, signed)); status == 200 {
			t.Errorf("%s cosigned another tree of %d leaves: %s", d.name, size, answer)
		}
	}
}

// finding is what a monitor's list and file have of one.
type finding struct {
	ID, Kind, Class, Message string
	Seq                      uint64
	Index                    *uint64
}

// checkFindings asks the monitor for its findings: those that it had are there, in their places.
func (w *world) checkFindings() (all []finding) {
	t := w.t
	t.Helper()
	c, err := monitorapi.NewClient(w.monitor.front.url(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for raw, err := range c.Findings(t.Context(), 0) {
		if err != nil {
			return nil // it isn't back yet
		}
		var f finding
		if err := json.Unmarshal(raw, &f); err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
		if f.Seq != uint64(len(all)) || ids[f.ID] {
			t.Errorf("finding %s is number %d, at place %d; there before: %v", f.ID, f.Seq, len(all), ids[f.ID])
		}
		ids[f.ID] = true
	}
	for i, id := range w.findings {
		if i >= len(all) || all[i].ID != id {
			t.Errorf("the finding %s, number %d, is no longer there", id, i+1)
			break
		}
	}
	w.findings = w.findings[:0]
	for _, f := range all {
		w.findings = append(w.findings, f.ID)
	}
	return all
}

// checkMonitor waits until the monitor has verified the whole log, and compares its findings with those that there should
// be, and its file of findings with its list.
func (w *world) checkMonitor() {
	t := w.t
	t.Helper()
	c, err := monitorapi.NewClient(w.monitor.front.url(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	w.check()
	w.wait("the monitor verifies the whole log", func() bool {
		s, err := c.State(ctx)
		return err == nil && s.Size >= w.leaves.End()
	})
	all := w.checkFindings()
	want := make(map[uint64]bool)
	for i := range w.watchedAt {
		want[i] = true
	}
	for _, f := range all {
		switch {
		case f.Kind == "watch-tenant" && f.Index != nil && want[*f.Index]:
			delete(want, *f.Index)
		case f.Class == "operational":
			t.Logf("finding: %s: %s", f.Kind, f.Message)
		default:
			t.Errorf("the monitor found what isn't so: %+v", f)
		}
	}
	if len(want) > 0 {
		t.Errorf("the monitor has not found %d of %d records of the watched tenant", len(want), len(w.watchedAt))
	}
	var lines []finding
	w.wait("all findings are delivered", func() bool {
		b, err := os.ReadFile(filepath.Join(w.dir, "monitor", "findings"))
		if err != nil {
			return len(all) == 0
		}
		lines = lines[:0]
		for line := range bytes.Lines(b) {
			var f finding
			if json.Unmarshal(line, &f) == nil {
				lines = append(lines, f)
			}
		}
		return len(lines) >= len(all)
	})
	all = w.checkFindings()
	for i, f := range lines {
		if i >= len(all) || f.ID != all[i].ID {
			t.Errorf("line %d of the file of findings is %s", i+1, f.ID)
			break
		}
	}
}

// checkRecorder ends all sessions, and compares what the recorder has left of them with what it had acknowledged.
func (w *world) checkRecorder() (actions int) {
	t := w.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wait("all sessions have ended", func() bool {
		// All that the recorder has, also of an agent that was stopped before it knew of its session.
		var list struct{ Sessions []struct{ ID, State string } }
		if w.ask(ctx, "GET", "/sessions", nil, &list) != nil {
			return false
		}
		for _, s := range list.Sessions {
			if s.State == "starting" || s.State == "recording" {
				if err := w.ask(ctx, "POST", "/sessions/"+s.ID+"/finish?wait=0", map[string]any{}, new(struct{})); err != nil {
					t.Errorf("finish: %v", err)
				}
			}
		}
		return len(list.Sessions) == 0
	})
	files, err := filepath.Glob(filepath.Join(w.dir, "out", "*.session"))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]map[int]int) // by conversation and number
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := session.NewReader(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for {
			_, a, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			c, _ := a.Attributes["affidavit.conversation"].(string)
			number, _ := a.Attributes["test.number"].(int64)
			if got[c] == nil {
				got[c] = make(map[int]int)
			}
			got[c][int(number)]++
			actions++
		}
		f.Close()
	}
	for _, s := range w.sessions {
		for i := range s.actions {
			if n := got[s.conversation][i]; n != 1 {
				t.Errorf("action %d of %s is there %d times", i, s.conversation, n)
			}
		}
		for i, n := range got[s.conversation] {
			if n != 1 || i > s.actions {
				t.Errorf("action %d of %s is there %d times, of %d that were acknowledged", i, s.conversation, n, s.actions)
			}
		}
	}
	return actions
}

// checkExporter waits until the exporter has everything, and compares that with an export at one go.
func (w *world) checkExporter() (events int) {
	t := w.t
	t.Helper()
	uids := func(b []byte) map[string]int {
		m := make(map[string]int)
		for line := range bytes.Lines(b) {
			var e struct{ Metadata struct{ UID string } }
			if err := json.Unmarshal(line, &e); err != nil || e.Metadata.UID == "" {
				t.Errorf("exported %.100s: %v", line, err)
			}
			m[e.Metadata.UID]++
		}
		return m
	}
	out, err := exec.Command(filepath.Join(w.bin, "affidavit"), "export", "--monitor", w.monitor.front.url()).Output()
	if err != nil {
		t.Fatalf("export: %v", err)
	}
	want := uids(out)
	file := filepath.Join(w.dir, "export", "events")
	var got map[string]int
	w.wait("everything is exported", func() bool {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		got = uids(b[:bytes.LastIndexByte(b, '\n')+1])
		return len(got) >= len(want)
	})
	for uid := range want {
		if got[uid] != 1 {
			t.Errorf("event %s was exported %d times", uid, got[uid])
		}
	}
	for uid, n := range got {
		if n != 1 {
			t.Errorf("event %s was exported %d times", uid, n)
		}
	}
	return len(got)
}

// alive counts what the vendors have got through.
func (w *world) alive() (submitted, acked int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.submitted), len(w.acked)
}
