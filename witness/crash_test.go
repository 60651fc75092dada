package witness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// TestMain runs this binary as a witness when TestKill9 and others ask for it.
func TestMain(m *testing.M) {
	if state := os.Getenv("WITNESS_TEST_STATE"); state != "" {
		os.Exit(crashingWitness(state, os.Getenv("WITNESS_TEST_DIE")))
	}
	os.Exit(m.Run())
}

// crashingWitness serves the log of the tests below until it is killed. If die
// is "persisted", it kills itself with SIGKILL right after the transaction that
// takes a log beyond size 10 has been committed, before anybody knows.
func crashingWitness(state, die string) int {
	t := &fatalTB{}
	l := newTestLog(t, "log.example/a", 0)
	_, err := os.Stat(state)
	cfg := Config{Name: testName, Keys: testKeys(t), State: state, Init: errors.Is(err, os.ErrNotExist)}
	cfg.Logs = []Log{{Origin: l.origin, Key: l.key.Verifier()}}
	if list := os.Getenv("WITNESS_TEST_LIST"); list != "" {
		cfg.LogLists = []string{list}
	}
	w, err := Open(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if die == "persisted" {
		update := w.store.update
		w.store.update = func(f func(*bolt.Tx) error) error {
			err := update(f)
			if r, _ := w.store.read(l.origin); r.value != nil && r.value.size > 10 {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			return err
		}
	}
	s := NewServer(w.Handler())
	ln := newLoopback(t)
	fmt.Println(ln.Addr())
	s.Serve(ln)
	return 1
}

// startCrashing starts a witness process and returns its URL.
func startCrashing(t testing.TB, state, die string, env ...string) (url string, cmd *exec.Cmd) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(exe)
	cmd.Env = append(append(os.Environ(), env...), "WITNESS_TEST_STATE="+state, "WITNESS_TEST_DIE="+die)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // if the test ended early
		cmd.Process.Kill()
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the witness didn't start: %v", err)
	}
	return "http://" + strings.TrimSpace(line), cmd
}

func post(url string, body []byte) (status int, answer string, err error) {
	resp, err := http.Post(url+"/add-checkpoint", "", bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// TestKill9BetweenPersistAndAnswer kills the witness when it has written a
// checkpoint and hasn't answered. It must know that checkpoint afterwards.
func TestKill9BetweenPersistAndAnswer(t *testing.T) {
	l := newTestLog(t, "log.example/a", 30)
	state := filepath.Join(t.TempDir(), "state.db")
	url, cmd := startCrashing(t, state, "persisted")
	if status, body, err := post(url, l.request(0, 10)); err != nil || status != 200 {
		t.Fatal(status, body, err)
	}
	if status, body, err := post(url, l.request(10, 20)); err == nil {
		t.Fatalf("answered %d %s though it was killed", status, body)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("it ended well, want SIGKILL")
	}
	url, _ = startCrashing(t, state, "")
	// Neither the old size nor a fork of it.
	fork := l.fork(10).grow(20, "fork")
	for _, body := range [][]byte{l.request(10, 15), fork.request(10, 20), fork.request(10, 30)} {
		if status, answer, err := post(url, body); err != nil || status != 409 || answer != "20\n" {
			t.Errorf("status %d %q, %v; want 409 and 20", status, answer, err)
		}
	}
	if status, body, err := post(url, l.request(20, 30)); err != nil || status != 200 {
		t.Error(status, body, err)
	}
}

// TestKill9UnderLoad kills the witness again and again while writers try to
// grow the log, each on a branch of its own. All cosignatures that were ever
// answered must be of one branch, and sizes must never fall.
func TestKill9UnderLoad(t *testing.T) {
	const rounds, writers, per = 6, 4, 25
	state := filepath.Join(t.TempDir(), "state.db")
	base := newTestLog(t, "log.example/a", 0)
	branch := base.fork(0) // what was cosigned so far
	cosigned := int64(0)
	answers := 0
	for round := range rounds {
		url, cmd := startCrashing(t, state, "")
		// The witness knows the last answer, or one that it couldn't give.
		var known int64
		if status, body, err := post(url, branch.request(0, 0)); err != nil {
			t.Fatal(err)
		} else if status == 409 {
			fmt.Sscan(body, &known)
		}
		if known < cosigned {
			t.Fatalf("round %d: the witness knows size %d, but cosigned %d", round, known, cosigned)
		}
		// Each writer continues with its own records, from what is known on.
		logs := make([]*testLog, writers)
		for i := range logs {
			logs[i] = branch.clone()
			logs[i].grow(per, fmt.Sprintf("round %d writer %d ", round, i))
		}
		type win struct {
			writer int
			size   int64
		}
		var mu sync.Mutex
		var wins []win
		var wg sync.WaitGroup
		for i, l := range logs {
			wg.Go(func() {
				old := known
				for size := known + 1; size <= l.size; size++ {
					status, _, err := post(url, l.request(old, size))
					if err != nil {
						return
					}
					if status == 200 {
						mu.Lock()
						wins = append(wins, win{i, size})
						mu.Unlock()
						old = size
					} else {
						return // another writer was first
					}
				}
			})
		}
		time.Sleep(time.Duration(20+round*25) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		wg.Wait()
		answers += len(wins)
		for _, w := range wins {
			if w.writer != wins[0].writer {
				t.Fatalf("round %d: writers %d and %d were both cosigned", round, w.writer, wins[0].writer)
			}
			cosigned = max(cosigned, w.size)
		}
		// What is on disk decides which branch goes on: the winner's if there
		// was an answer, else perhaps one that never got its answer.
		r := readState(t, state, base.origin)
		if r == nil {
			continue
		}
		if int64(r.size) < cosigned {
			t.Fatalf("round %d: size %d on disk, but %d was cosigned", round, r.size, cosigned)
		}
		for i, l := range logs {
			if c := l.checkpoint(int64(r.size)); c.Root == r.root {
				if len(wins) > 0 && i != wins[0].writer && int64(r.size) > known {
					t.Fatalf("round %d: the disk has writer %d's tree, %d was answered", round, i, wins[0].writer)
				}
				branch = l.truncate(int64(r.size))
				r = nil
				break
			}
		}
		if r != nil {
			t.Fatalf("round %d: the disk has a tree of size %d that nobody asked for", round, r.size)
		}
	}
	if answers == 0 {
		t.Error("no round got an answer; the test shows nothing")
	}
	t.Logf("%d answers in %d rounds", answers, rounds)
}

// readState reads what a dead witness left behind.
func readState(t *testing.T, path, origin string) *value {
	t.Helper()
	s, err := openStore(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	r, err := s.read(origin)
	if err != nil {
		t.Fatal(err)
	}
	return r.value
}
