//go:build distributed

package sessionlog

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/transparency-dev/tessera"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/log/storage"
	"github.com/affidavit-log/affidavit/log/storage/aws"
)

// These tests run a log on MariaDB and versitygw, which must be there: see the target test-distributed in the Makefile.

// program returns the path of a program that a test needs.
func program(t testing.TB, name, how string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", filepath.Join(os.Getenv("HOME"), "go", "bin")) {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	t.Fatalf("%s is missing: %s", name, how)
	return ""
}

// A service is a process that a test stops and starts.
type service struct {
	t     testing.TB
	name  string
	args  []string
	ready func() error
	cmd   *exec.Cmd
	out   *bytes.Buffer
}

func (s *service) start() {
	s.t.Helper()
	s.out = &bytes.Buffer{}
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	var err error
	for range 600 {
		if err = s.ready(); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Fatalf("%s doesn't start: %v\n%s", s.name, err, s.out)
}

func (s *service) stop(sig os.Signal) {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(sig)
	s.cmd.Wait()
	s.cmd = nil
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// A cloud is a database server and an object store.
type cloud struct {
	t        testing.TB
	db, s3   *service
	dbAddr   string
	endpoint string
	buckets  string // directory
	dir      string
	n        int
}

// endCloud is called when all tests are done.
func endCloud() {
	if c := theCloud; c != nil {
		c.db.stop(syscall.SIGTERM)
		c.s3.stop(syscall.SIGTERM)
		os.RemoveAll(c.dir)
	}
}

// theCloud is started by the first test that needs one, and ended by the process's end.
var theCloud *cloud

func newCloud(t testing.TB) *cloud {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "minioadmin")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "minioadmin")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if theCloud != nil {
		theCloud.t, theCloud.db.t, theCloud.s3.t = t, t, t
		return theCloud
	}
	install := program(t, "mariadb-install-db", "apt-get install mariadb-server")
	server := program(t, "mariadbd", "apt-get install mariadb-server")
	gateway := program(t, "versitygw", "go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	dir, err := os.MkdirTemp("", "cloud")
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "db")
	out, err := exec.Command(install, "--no-defaults", "--user="+me.Username, "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c := &cloud{t: t, dbAddr: freePort(t), buckets: filepath.Join(dir, "s3"), dir: dir}
	_, port, _ := net.SplitHostPort(c.dbAddr)
	socket := filepath.Join(dir, "s.sock")
	c.db = &service{t: t, name: "mariadbd", args: []string{server, "--no-defaults", "--user=" + me.Username, "--datadir=" + data, "--socket=" + socket,
		"--port=" + port, "--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=256M"}}
	root, err := sql.Open("mysql", "root@unix("+socket+")/")
	if err != nil {
		t.Fatal(err)
	}
	c.db.ready = func() error {
		_, err := root.Exec("CREATE USER IF NOT EXISTS 'log'@'127.0.0.1' IDENTIFIED BY 'secret'")
		return err
	}
	s3 := freePort(t)
	c.endpoint = "http://" + s3
	if err := os.MkdirAll(c.buckets, 0o755); err != nil {
		t.Fatal(err)
	}
	c.s3 = &service{t: t, name: "versitygw", args: []string{gateway, "--access", "minioadmin", "--secret", "minioadmin", "--port", s3, "--quiet", "posix", c.buckets},
		ready: func() error {
			conn, err := net.Dial("tcp", s3)
			if err == nil {
				conn.Close()
			}
			return err
		}}
	c.db.start()
	c.s3.start()
	theCloud = c
	return c
}

// config returns a new bucket and a new database.
func (c *cloud) config() aws.Config {
	c.t.Helper()
	c.n++
	name := fmt.Sprintf("log%d", c.n)
	if err := os.MkdirAll(filepath.Join(c.buckets, name), 0o755); err != nil {
		c.t.Fatal(err)
	}
	socket := ""
	for _, a := range c.db.args {
		if s, ok := strings.CutPrefix(a, "--socket="); ok {
			socket = s
		}
	}
	local, err := sql.Open("mysql", "root@unix("+socket+")/")
	if err != nil {
		c.t.Fatal(err)
	}
	defer local.Close()
	for _, q := range []string{"CREATE DATABASE " + name, "GRANT ALL ON " + name + ".* TO 'log'@'127.0.0.1'"} {
		if _, err := local.Exec(q); err != nil {
			c.t.Fatal(err)
		}
	}
	return aws.Config{Bucket: name, Endpoint: c.endpoint, PathStyle: true, DSN: "log:secret@tcp(" + c.dbAddr + ")/" + name}
}

const frontendEnv = "AFFIDAVIT_LOG_TEST_FRONTEND"

type frontendConfig struct {
	AWS  aws.Config
	Role Role
	Dir  string
	childWorld
	Create, QuorumNone bool
	CheckpointInterval time.Duration
	MaxInFlight        int
	MaxWait            time.Duration
	Tessera            bool // nothing but Tessera, see tesseraMain
	Quiet              bool
}

func init() {
	if c := os.Getenv(frontendEnv); c != "" {
		fmt.Fprintln(os.Stderr, frontendMain(c))
		os.Exit(1)
	}
	atEnd = append(atEnd, endCloud)
}

// frontendMain is the main function of a process of the log.
func frontendMain(config string) error {
	var c frontendConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	if c.Tessera {
		return tesseraMain(c)
	}
	ctx := context.Background()
	level := slog.LevelInfo
	if c.Quiet {
		level = slog.LevelError
	}
	cfg := Config{
		Origin: testOrigin, Dir: c.Dir, Create: c.Create, AllowQuorumNone: c.QuorumNone, Role: c.Role,
		CheckpointInterval: c.CheckpointInterval, TimeInterval: time.Second, MaxInFlight: c.MaxInFlight, MaxWait: c.MaxWait,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
	}
	var err error
	if cfg.Role == RoleReader {
		cfg.Objects, err = aws.OpenBucket(ctx, c.AWS)
	} else {
		cfg.Shared, err = aws.Open(ctx, c.AWS)
	}
	if err != nil {
		return err
	}
	if err := c.fill(&cfg); err != nil {
		return err
	}
	l, err := Open(ctx, cfg)
	if err != nil {
		return err
	}
	public, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	private, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(public.Addr(), private.Addr())
	go l.NewServer(l.PrivateHandler()).Serve(private)
	return l.NewServer(l.Handler()).Serve(public)
}

// A frontend is a process of the log.
type frontend struct {
	*server
	name    string
	config  frontendConfig
	cmd     *exec.Cmd
	private string
}

func (w *world) frontendConfig(c aws.Config, role Role) frontendConfig {
	w.t.Helper()
	return frontendConfig{AWS: c, Role: role, Dir: tempDir(w.t), childWorld: w.forChild(role.publishes()),
		QuorumNone: w.policy.IsQuorumNone(), CheckpointInterval: 100 * time.Millisecond, MaxInFlight: 512, MaxWait: 20 * time.Second}
}

func (f *frontend) start(w *world) {
	w.t.Helper()
	env, err := json.Marshal(f.config)
	if err != nil {
		w.t.Fatal(err)
	}
	f.cmd = exec.Command(os.Args[0])
	f.cmd.Env = append(os.Environ(), frontendEnv+"="+string(env))
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	f.cmd.Stderr = &prefixWriter{w: &testWriter{t: w.t}, prefix: f.name}
	if err := f.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	cmd := f.cmd
	w.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		f.cmd.Wait()
		w.t.Fatalf("%s doesn't start: %v", f.name, err)
	}
	addrs := strings.Fields(line)
	s := &server{world: w, url: "http://" + addrs[0]}
	if s.client, err = client.New(s.url, client.Config{Token: w.token, LogPolicy: w.policy}); err != nil {
		w.t.Fatal(err)
	}
	f.server, f.private = s, "http://"+addrs[1]
	f.config.Create = false
}

type prefixWriter struct {
	w      io.Writer
	prefix string
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		fmt.Fprintf(p.w, "%s: %s", p.prefix, line)
	}
	return len(b), nil
}

func (f *frontend) kill() {
	f.cmd.Process.Kill()
	f.cmd.Wait()
}

// ready asks for the readiness of a process.
func (f *frontend) ready() bool {
	resp, err := http.Get(f.private + "/ready")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == 200
}

// A submission is what is known of an entry that was submitted.
type submission struct {
	entry *record.Entry
	acked bool
	index uint64
	leaf  []byte
}

// A load submits records to processes of the log, some of them to two at once, until it is stopped.
type load struct {
	w     *world
	f     record.Freshness
	mu    sync.Mutex // guards what follows
	all   []*submission
	urls  func() []string
	acked atomic.Int64
}

// post submits an entry and records what was answered.
func (l *load) post(url string, s *submission) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "POST", url+"/add", bytes.NewReader(s.entry.Bytes()))
	req.Header.Set("Content-Type", binaryType)
	req.Header.Set("Authorization", "Bearer "+tokenA)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d: %s", resp.StatusCode, b)
	}
	p, err := checkpoint.ParseProof(b)
	if err != nil {
		return err
	}
	if _, err := p.Verify(record.LeafHash(p.Extra), l.w.policy); err != nil {
		l.w.t.Errorf("proof: %v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.acked && (s.index != p.Index || !bytes.Equal(s.leaf, p.Extra)) {
		l.w.t.Errorf("a statement was acknowledged at %d and at %d", s.index, p.Index)
	}
	s.acked, s.index, s.leaf = true, p.Index, p.Extra
	l.acked.Add(1)
	return nil
}

func (l *load) run(ctx context.Context, workers int) {
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				s := &submission{entry: l.w.newTD().start(l.w.t, l.f)}
				l.mu.Lock()
				l.all = append(l.all, s)
				l.mu.Unlock()
				urls := l.urls()
				rand.Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] })
				if rand.N(4) > 0 {
					urls = urls[:1]
				}
				var both sync.WaitGroup
				for _, u := range urls {
					both.Go(func() {
						if l.post(u, s) != nil {
							time.Sleep(50 * time.Millisecond)
						}
					})
				}
				both.Wait()
			}
		})
	}
	wg.Wait()
}

// Processes of one log that are killed, a database that is restarted, and an object store that stops and returns, under
// load: what was acknowledged is there once, at its index, with its bytes, and is proven by every process; no published
// checkpoint was taken back, and all of them are of one tree.
func TestDistributed(t *testing.T) {
	cloud := newCloud(t)
	w, _ := witnessed(t, 3, 2, nil)
	cfg := cloud.config()
	a := &frontend{name: "a", config: w.frontendConfig(cfg, RoleAll)}
	b := &frontend{name: "b", config: w.frontendConfig(cfg, RoleAll)}
	r := &frontend{name: "reader", config: w.frontendConfig(cfg, RoleReader)}
	r.config.AWS.DSN = ""
	a.config.Create = true
	a.start(w)
	waitFor(t, "readiness", a.ready)
	b.start(w)
	r.start(w)
	var mu sync.Mutex // guards the frontends' addresses
	l := &load{w: w, f: a.freshness()}
	l.urls = func() []string {
		mu.Lock()
		defer mu.Unlock()
		return []string{a.url, b.url}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx, 24) })
	// What is published anywhere is of one tree, and doesn't go back.
	seen := map[uint64][32]byte{}
	wg.Go(func() {
		last := map[string]uint64{}
		for ctx.Err() == nil {
			mu.Lock()
			urls := []string{a.url, b.url, r.url}
			mu.Unlock()
			for _, u := range urls {
				resp, err := http.Get(u + "/checkpoint")
				if err != nil {
					continue
				}
				note, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					continue
				}
				c, err := w.policy.Check(note)
				if err != nil {
					t.Error(err)
					continue
				}
				if c.Size < last[u] {
					t.Errorf("%s went back from %d to %d", u, last[u], c.Size)
				}
				last[u] = c.Size
				if root, ok := seen[c.Size]; ok && root != c.Root {
					t.Errorf("two trees of size %d", c.Size)
				}
				seen[c.Size] = c.Root
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	progress := func(what string) {
		t.Helper()
		began, n := time.Now(), l.acked.Load()
		waitFor(t, "acknowledgements after "+what, func() bool { return l.acked.Load() >= n+50 })
		waitFor(t, "readiness after "+what, func() bool { return a.ready() && b.ready() && r.ready() })
		t.Logf("%s: recovered within %v, %d acknowledged", what, time.Since(began).Round(10*time.Millisecond), l.acked.Load())
	}
	restart := func(f *frontend) {
		f.kill()
		mu.Lock()
		defer mu.Unlock()
		f.start(w)
	}
	progress("the start")
	restart(a) // the publisher
	progress("a kill of the publisher")

	cloud.db.stop(syscall.SIGTERM)
	waitFor(t, "word of the database's absence", func() bool { return !a.ready() && !b.ready() })
	if !r.ready() {
		t.Error("a reader needs the database")
	}
	cloud.db.start()
	progress("a restart of the database")

	cloud.s3.stop(syscall.SIGKILL)
	time.Sleep(2 * time.Second)
	cloud.s3.start()
	progress("an absence of the object store")

	cloud.db.stop(syscall.SIGKILL)
	cloud.db.start()
	progress("a crash of the database")
	restart(b)
	progress("a kill of the other")

	cancel()
	wg.Wait()
	for _, s := range l.all { // each gets an index, the one that it may have
		waitFor(t, "an answer", func() bool {
			urls := l.urls()
			return s.acked || l.post(urls[rand.N(len(urls))], s) == nil
		})
	}
	checkDistributed(t, l, seen, a, b, r)
}

// checkDistributed audits the log through each process.
func checkDistributed(t *testing.T, l *load, seen map[uint64][32]byte, all ...*frontend) {
	t.Helper()
	var leaves [][]byte
	var largest uint64
	for _, s := range l.all {
		largest = max(largest, s.index+1)
	}
	for _, f := range all {
		waitFor(t, "the last record at "+f.name, func() bool {
			c, err := l.w.policy.Check(f.get("/checkpoint").body)
			return err == nil && c.Size >= largest
		})
		got := f.audit()
		for i := range min(len(got), len(leaves)) {
			if !bytes.Equal(got[i], leaves[i]) {
				t.Fatalf("%s has another leaf %d", f.name, i)
			}
		}
		if len(got) > len(leaves) {
			leaves = got
		}
	}
	rng := rangeFactory.NewEmptyRange(0)
	at := map[record.Digest]uint64{}
	var times int
	once := map[record.Digest]bool{}
	var newest int64
	for i, raw := range leaves {
		h := record.LeafHash(raw)
		if err := rng.Append(h[:], nil); err != nil {
			t.Fatal(err)
		}
		if want, ok := seen[uint64(i)+1]; ok {
			if root, err := rangeRoot(rng); err != nil || root != want {
				t.Errorf("a published checkpoint of size %d is of another tree", i+1)
			}
		}
		leaf, err := record.ParseLeaf(raw)
		if err != nil {
			t.Fatal(err)
		}
		var d record.Digest
		switch leaf := leaf.(type) {
		case *record.RecordLeaf:
			d = leaf.Entry.StatementDigest()
			at[d] = uint64(i)
		case *record.TimeLeaf:
			times++
			d = leaf.NoteDigest()
			if leaf.LoggedAt < newest {
				t.Errorf("time leaf %d is of an earlier time than the one before", i)
			}
			newest = leaf.LoggedAt
		case *record.CollateralLeaf:
			d = leaf.ID()
		}
		if once[d] {
			t.Errorf("leaf %d is there a second time", i)
		}
		once[d] = true
	}
	for _, s := range l.all {
		d := s.entry.StatementDigest()
		i, ok := at[d]
		switch {
		case !ok:
			t.Errorf("acknowledged at %d, and not there", s.index)
		case i != s.index:
			t.Errorf("acknowledged at %d, is at %d", s.index, i)
		case !bytes.Equal(leaves[i], s.leaf):
			t.Errorf("leaf %d is another than was acknowledged", i)
		}
	}
	for range 50 {
		s := l.all[rand.N(len(l.all))]
		for _, f := range all {
			path := fmt.Sprintf("/proof/by-statement/%x", s.entry.StatementDigest())
			waitFor(t, f.name+": "+path, func() bool { return f.get(path).status == 200 })
			if p := f.checkProof(f.get(path).body); p.Index != s.index {
				t.Errorf("%s: proof of %d, not %d", f.name, p.Index, s.index)
			}
		}
	}
	t.Logf("%d leaves, %d records, %d time leaves, %d checkpoints seen", len(leaves), len(l.all), times, len(seen))
}

// Roles: a frontend admits without keys, a publisher publishes for it, and a reader needs no database. Freshness that is
// asked for at a process that doesn't publish is made by the one that does.
func TestRoles(t *testing.T) {
	cloud := newCloud(t)
	w, _ := witnessed(t, 3, 2, nil)
	cfg := cloud.config()
	p := &frontend{name: "publisher", config: w.frontendConfig(cfg, RolePublisher)}
	p.config.Create = true
	p.config.Vendors, p.config.PCS = "", ""
	p.start(w)
	f := &frontend{name: "frontend", config: w.frontendConfig(cfg, RoleFrontend)}
	f.start(w)
	r := &frontend{name: "reader", config: w.frontendConfig(cfg, RoleReader)}
	r.config.AWS.DSN = ""
	r.start(w)
	waitFor(t, "readiness", f.ready)
	e := w.newTD().start(t, f.freshness())
	if a := p.add(e); a.status != 404 && a.status != 405 {
		t.Errorf("a publisher took a submission: %d", a.status)
	}
	if a := r.add(e); a.status != 404 && a.status != 405 {
		t.Errorf("a reader took a submission: %d", a.status)
	}
	proof := f.mustAdd(e)
	// Read where it wasn't written, at once.
	for _, x := range []*frontend{p, f} {
		for _, path := range []string{fmt.Sprintf("/proof/%d", proof.Index), fmt.Sprintf("/proof/by-statement/%x", e.StatementDigest())} {
			if a := x.get(path); a.status != 200 {
				t.Errorf("%s: %s: %d %s", x.name, path, a.status, a.body)
			}
		}
	}
	waitFor(t, "the record at the reader", func() bool { return r.get(fmt.Sprintf("/proof/%d", proof.Index)).status == 200 })
	if got := r.checkProof(r.get(fmt.Sprintf("/proof/%d", proof.Index)).body); got.Index != proof.Index {
		t.Error("another proof")
	}
	// The same statement with another signature or other evidence.
	before, err := f.client.Freshness(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "newer freshness", func() bool {
		now, err := f.client.Freshness(t.Context())
		return err == nil && !bytes.Equal(now.Note, before.Note)
	})
	if a := r.get("/tile/0/000.p/1"); a.status != 200 || !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("a reader's tile: %d %v", a.status, a.header)
	}
	if a := r.get("/checkpoint"); !strings.Contains(a.header.Get("Cache-Control"), "no-cache") {
		t.Errorf("a reader's checkpoint: %v", a.header)
	}
}

// The storage alone: keys are taken once, numbers don't decrease, and what a publisher writes that has lost its lease is
// refused, in the database and in the bucket.
func TestSharedStorage(t *testing.T) {
	cloud := newCloud(t)
	cfg := cloud.config()
	ctx := t.Context()
	open := func() *aws.Storage {
		s, err := aws.Open(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	one, two := open(), open()
	if err := one.Create(ctx); err != nil {
		t.Fatal(err)
	}
	testShared(t, one, two)
}

// testShared tests two views of one new storage.
func testShared(t *testing.T, one, two storage.Shared) {
	ctx := t.Context()
	driver, err := one.Driver(ctx)
	if err != nil {
		t.Fatal(err)
	}
	tctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signer, err := newSigner()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := tessera.NewAppender(tctx, driver, tessera.NewAppendOptions().WithCheckpointSigner(signer).WithCheckpointInterval(time.Second)); err != nil {
		t.Fatal(err)
	}

	leaf := func(key string, value byte, numbers ...storage.Number) storage.Leaf {
		return storage.Leaf{Entry: tessera.NewEntry([]byte("leaf " + key)), Key: []byte(key), Value: [32]byte{value}, AtLeast: numbers}
	}
	// Both at once, many times.
	var mu sync.Mutex
	index := map[string]uint64{}
	owner := map[uint64]string{}
	fresh := 0
	var wg sync.WaitGroup
	for _, s := range []storage.Shared{one, two} {
		wg.Go(func() {
			for round := range 20 {
				var batch []storage.Leaf
				for i := range 10 {
					batch = append(batch, leaf(fmt.Sprintf("%d-%d", round, i), 1))
				}
				rand.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
				var got []storage.Outcome
				for {
					var err error
					if got, err = s.Append(ctx, batch, 0, 0); err == nil {
						break
					} else if !errors.Is(err, storage.ErrUnavailable) {
						t.Error(err)
						return
					}
				}
				mu.Lock()
				for i, o := range got {
					k := string(batch[i].Key)
					if old, ok := index[k]; ok && old != o.Index {
						t.Errorf("%s is at %d and at %d", k, old, o.Index)
					}
					if old, ok := owner[o.Index]; ok && old != k {
						t.Errorf("index %d is of %s and of %s", o.Index, old, k)
					}
					index[k], owner[o.Index] = o.Index, k
					if !o.Dup {
						fresh++
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if fresh != 200 || len(index) != 200 {
		t.Errorf("%d leaves appended, %d known", fresh, len(index))
	}
	waitFor(t, "integration", func() bool { n, err := two.IntegratedSize(ctx); return err == nil && n == 200 })

	o, err := two.Append(ctx, []storage.Leaf{leaf("0-0", 2)}, 0, 0)
	if err != nil || !o[0].Dup || o[0].Value != [32]byte{1} || o[0].Index != index["0-0"] {
		t.Errorf("%+v, %v", o, err)
	}
	n := func(v uint32) storage.Number { return storage.Number{Name: "n", N: v} }
	for _, tt := range []struct {
		key   string
		n     uint32
		older bool
	}{{"n5", 5, false}, {"n4", 4, true}, {"n5b", 5, false}, {"n6", 6, false}, {"n5c", 5, true}} {
		o, err := one.Append(ctx, []storage.Leaf{leaf(tt.key, 1, n(tt.n))}, 0, 0)
		if err != nil || (o[0].Older != nil) != tt.older {
			t.Errorf("%s: %+v, %v", tt.key, o, err)
		}
	}

	// Leases.
	e1, err := one.Lease(ctx, "one")
	if err != nil || e1 == 0 {
		t.Fatal(e1, err)
	}
	if e, err := two.Lease(ctx, "two"); err != nil || e != 0 {
		t.Fatalf("two holders: %d, %v", e, err)
	}
	if e, err := one.Lease(ctx, "one"); err != nil || e != e1 {
		t.Errorf("renewed: %d, %v", e, err)
	}
	if err := one.SetCandidate(ctx, e1, []byte("candidate")); err != nil {
		t.Error(err)
	}
	published := func(want string) {
		t.Helper()
		st, err := two.State(ctx)
		if err != nil || string(st.Published) != want || string(st.Candidate) != "candidate" {
			t.Errorf("state %+v, %v", st, err)
		}
		if b, err := one.Objects().Get(ctx, storage.Published); err != nil || string(b) != want {
			t.Errorf("object %q, %v", b, err)
		}
	}
	if err := one.Publish(ctx, e1, []byte("ten"), 10); err != nil {
		t.Fatal(err)
	}
	published("ten")
	if err := one.Release(ctx, e1); err != nil {
		t.Fatal(err)
	}
	e2, err := two.Lease(ctx, "two")
	if err != nil || e2 <= e1 {
		t.Fatalf("after the release: %d, %v", e2, err)
	}
	if err := two.Publish(ctx, e2, []byte("twenty"), 20); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"candidate":   one.SetCandidate(ctx, e1, []byte("stale")),
		"checkpoint":  one.Publish(ctx, e1, []byte("thirty"), 30),
		"earlier one": two.Publish(ctx, e2, []byte("ten"), 10),
		"time leaf":   func() error { _, err := one.Append(ctx, []storage.Leaf{leaf("late", 1)}, 0, e1); return err }(),
	} {
		if !errors.Is(err, storage.ErrFenced) {
			t.Errorf("a late %s: %v", what, err)
		}
	}
	published("twenty")
	if err := two.Publish(ctx, e2, []byte("twenty"), 20); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := two.Publish(ctx, e2, []byte("twenty, more cosignatures"), 20); err != nil {
		t.Error(err)
	}
	published("twenty, more cosignatures")

	v, err := one.Version(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Want(ctx); err != nil {
		t.Error(err)
	}
	if now, err := two.Version(ctx); err != nil || now == v {
		t.Errorf("version %d, %v", now, err)
	}
	// Keys that are forgotten: whoever doesn't know their leaves can't append.
	if err := two.Forget(ctx, 100); err != nil {
		t.Fatal(err)
	}
	if _, err := one.Append(ctx, []storage.Leaf{leaf("0-0", 1)}, 99, 0); !errors.Is(err, storage.ErrBehind) {
		t.Errorf("an appender that is behind: %v", err)
	}

	// Objects.
	objects := one.Objects()
	if _, err := objects.Get(ctx, "blob/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := objects.Put(ctx, "blob/some", []byte("x")); err != nil {
		t.Error(err)
	}
	var names []string
	for name, err := range objects.List(ctx, storage.BlobPrefix) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if len(names) != 1 || names[0] != "blob/some" {
		t.Errorf("blobs %q", names)
	}
	tiles := 0
	for _, err := range objects.List(ctx, storage.TilePrefix) {
		if err != nil {
			t.Fatal(err)
		}
		tiles++
	}
	if tiles == 0 {
		t.Error("no tiles")
	}
}
