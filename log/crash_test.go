package sessionlog

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/checkpoint"
	"github.com/affidavit-log/affidavit/log/record"
	"github.com/affidavit-log/affidavit/verifier/pcs"
	"github.com/affidavit-log/affidavit/verifier/tdx"
)

// childEnv makes the test binary a log server, which a test can kill.
const childEnv = "AFFIDAVIT_LOG_TEST_CHILD"

type childConfig struct {
	Dir string
	childWorld
}

// A childWorld is what a log in another process needs of its world.
type childWorld struct {
	Vendors, PCS, Policy string
	Root                 []byte
	Keys                 []string
}

// forChild returns the world for another process, which gets the log's keys only if it signs.
func (w *world) forChild(signs bool) childWorld {
	w.t.Helper()
	c := childWorld{Vendors: w.vendors, PCS: w.pcsURL, Policy: w.policy.String(), Root: w.pki.Root()}
	for _, k := range w.keys {
		if !signs {
			break
		}
		text, err := k.PrivateText()
		if err != nil {
			w.t.Fatal(err)
		}
		c.Keys = append(c.Keys, text)
	}
	return c
}

// fill sets in cfg what is of the world.
func (c childWorld) fill(cfg *Config) (err error) {
	cfg.VendorsFile = c.Vendors
	if cfg.Root, err = tdx.ParseRoot(c.Root); err != nil {
		return err
	}
	if cfg.LogPolicy, err = checkpoint.ParsePolicy([]byte(c.Policy)); err != nil {
		return err
	}
	for _, text := range c.Keys {
		k, err := checkpoint.ParseSigningKey(text)
		if err != nil {
			return err
		}
		cfg.Keys = append(cfg.Keys, k)
	}
	cfg.Collateral, err = pcs.New(pcs.Config{URL: c.PCS, Root: cfg.Root})
	return err
}

// child is the server's main function.
func child(config string) error {
	var c childConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	cfg := Config{
		Origin: testOrigin, Dir: c.Dir, Create: Exists(c.Dir) != nil, AllowQuorumNone: true,
		CheckpointInterval: 20 * time.Millisecond, TimeInterval: 50 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if err := c.fill(&cfg); err != nil {
		return err
	}
	l, err := Open(context.Background(), cfg)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	return l.NewServer(l.Handler()).Serve(ln)
}

// A process that is killed in the middle of everything has lost nothing that it acknowledged, has nothing twice, and goes
// on with the same tree.
func TestKill(t *testing.T) {
	w := newWorld(t)
	cfg := childConfig{w.dir, w.forChild(true)}
	env, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	acked := map[record.Digest]uint64{}
	var pending []*record.Entry // which were submitted, and may be in the log
	var largest checkpoint.Checkpoint
	const rounds = 4
	for round := range rounds + 1 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+string(env))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = &testWriter{t: t}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			cmd.Wait()
			t.Fatalf("round %d: the log doesn't start again: %v", round, err)
		}
		s := &server{world: w, url: "http://" + strings.TrimSpace(line)}
		if s.client, err = client.New(s.url, client.Config{Token: tokenA, LogPolicy: w.policy}); err != nil {
			t.Fatal(err)
		}
		f := s.freshness()

		// What is there now continues what was there.
		leaves := s.audit()
		note, err := w.policy.Check(s.get("/checkpoint").body)
		if err != nil {
			t.Fatal(err)
		}
		if note.Size < largest.Size {
			t.Fatalf("round %d: size %d after %d", round, note.Size, largest.Size)
		}
		r := rangeFactory.NewEmptyRange(0)
		for _, leaf := range leaves[:largest.Size] {
			h := record.LeafHash(leaf)
			r.Append(h[:], nil)
		}
		if root, _ := rangeRoot(r); largest.Size > 0 && root != largest.Root {
			t.Fatalf("round %d: another tree of size %d", round, largest.Size)
		}
		seen := map[record.Digest]uint64{}
		for i, raw := range leaves {
			leaf, err := record.ParseLeaf(raw)
			if err != nil {
				t.Fatal(err)
			}
			if rl, ok := leaf.(*record.RecordLeaf); ok {
				d := rl.Entry.StatementDigest()
				if j, ok := seen[d]; ok {
					t.Errorf("round %d: a statement is at %d and at %d", round, j, i)
				}
				seen[d] = uint64(i)
			}
		}
		for d, i := range acked {
			if got, ok := seen[d]; !ok || got != i {
				t.Errorf("round %d: acknowledged at %d, now at %d (%v)", round, i, got, ok)
			}
		}
		for _, e := range pending { // each gets an index, the one that it may have
			p := s.mustAdd(e)
			d := e.StatementDigest()
			if i, ok := seen[d]; ok && i != p.Index {
				t.Errorf("round %d: a statement at %d was given the index %d", round, i, p.Index)
			}
			acked[d] = p.Index
		}
		pending = nil
		if round == rounds {
			cmd.Process.Kill()
			cmd.Wait()
			break
		}

		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for ctx.Err() == nil {
					e := w.newTD().start(t, f)
					req, _ := http.NewRequest("POST", s.url+"/add", strings.NewReader(string(e.Bytes())))
					req.Header.Set("Content-Type", binaryType)
					req.Header.Set("Authorization", "Bearer "+tokenA)
					mu.Lock()
					pending = append(pending, e)
					mu.Unlock()
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						return
					}
					b, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil || resp.StatusCode != 200 {
						return
					}
					p, err := checkpoint.ParseProof(b)
					if err != nil {
						return // cut off
					}
					c, err := w.policy.Check(p.Checkpoint)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					acked[e.StatementDigest()] = p.Index
					if c.Size > largest.Size {
						largest = c.Checkpoint
					}
					mu.Unlock()
				}
			})
		}
		time.Sleep(100*time.Millisecond + rand.N(200*time.Millisecond))
		cmd.Process.Kill()
		cmd.Wait()
		cancel()
		wg.Wait()
		var unknown []*record.Entry
		for _, e := range pending {
			if _, ok := acked[e.StatementDigest()]; !ok {
				unknown = append(unknown, e)
			}
		}
		t.Logf("round %d: %d leaves, %d acknowledged in all, %d unknown", round, note.Size, len(acked), len(unknown))
		pending = unknown
	}
	if len(acked) < 20 {
		t.Errorf("only %d were acknowledged: the test tests little", len(acked))
	}
}
