package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	fnote "github.com/transparency-dev/formats/note"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/affidavit-log/affidavit/log/checkpoint"
)

func TestAddCheckpoint(t *testing.T) {
	l := newTestLog(t, "log.example/a", 20)
	w := startWitness(t, testConfig(t, l))
	hash := originHash(l.origin)
	w.do("GET", "/"+hash+"/checkpoint", nil).check(t, "monitoring before", 404, "")
	size := int64(0)
	for _, next := range []int64{0, 0, 1, 1, 2, 7, 8, 16, 20, 20} { // also the empty tree, and refreshes
		w.now.Add(1)
		lines := w.mustAdd(l, size, next)
		size = next
		a := w.do("GET", "/"+hash+"/checkpoint", nil)
		if want := string(l.note(size)) + lines; a.status != 200 || a.body != want {
			t.Fatalf("monitoring: %d\n%s\nwant\n%s", a.status, a.body, want)
		}
	}
	// Others' software opens what we serve.
	served := w.do("GET", "/"+hash+"/checkpoint", nil).body
	var verifiers []note.Verifier
	for _, k := range w.cfg.Keys {
		v, err := fnote.NewVerifierForCosignatureV1(k.VKey())
		if err != nil {
			t.Fatal(err)
		}
		verifiers = append(verifiers, v)
	}
	if n, err := note.Open([]byte(served), note.VerifierList(verifiers...)); err != nil || len(n.Sigs) != 2 {
		t.Errorf("x/mod and formats: %v", err)
	}
	for _, h := range []string{strings.ToUpper(hash), hash[1:], hash + "00", originHash("o:" + l.origin), originHash("other")} {
		w.do("GET", "/"+h+"/checkpoint", nil).check(t, "monitoring "+h, 404, "")
	}
	// The state survives.
	w.Close()
	cfg := w.cfg
	cfg.Init = false
	again := startWitness(t, cfg)
	if a := again.do("GET", "/"+hash+"/checkpoint", nil); a.body != served {
		t.Errorf("after a restart:\n%s\nwant\n%s", a.body, served)
	}
	again.add(l.request(16, 20)).check(t, "old size after a restart", 409, "20\n")
	l.grow(3, "")
	again.mustAdd(l, 20, 23)
}

// TestStatuses has a row for each of the specification's conditions, each with
// the last cosigned size 5 of 9.
func TestStatuses(t *testing.T) {
	l := newTestLog(t, "log.example/a", 9)
	l2 := testKey(t, checkpoint.CosignatureMLDSA44, l.origin, 2) // the log's second key
	unknown := newTestLog(t, "log.example/unknown", 9)
	other := newTestLog(t, "log.example/b", 9)
	cfg := testConfig(t, l, other)
	cfg.Logs = append(cfg.Logs, Log{Origin: l.origin, Key: l2.Verifier()})
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 5)

	stranger := testKey(t, checkpoint.Ed25519, l.origin, 77) // another key of the log's name
	text := l.checkpoint(9).Text()
	good := string(l.request(5, 9))
	goodProof := b64(l.proof(5, 9)[0])
	sub := func(old, new string) []byte {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("nothing to replace for %q", old)
		}
		return []byte(strings.Replace(good, old, new, 1))
	}
	// signed signs what isn't a checkpoint of ours.
	signed := func(text string) []byte { return requestBody(5, l.proof(5, 9), l.sign([]byte(text))) }
	lines := strings.Split(string(text), "\n")
	corrupt := func(line string) string {
		i := len(line) - 12
		c := byte('A')
		if line[i] == c {
			c = 'B'
		}
		return line[:i] + string(c) + line[i+1:]
	}
	sigLine := string(l.note(9)[len(text)+1:])
	fork := l.fork(4).grow(5, "fork")
	zero := l.checkpoint(0)
	zero.Root[0] ^= 1
	ml := string(l.sign(text, l2)[len(text)+1:])
	for _, tt := range []struct {
		name   string
		body   []byte
		status int
	}{
		{"empty", nil, 400},
		{"no old line", []byte(good[strings.Index(good, "\n")+1:]), 400},
		{"old 05", sub("old 5\n", "old 05\n"), 400},
		{"old +5", sub("old 5\n", "old +5\n"), 400},
		{"old -5", sub("old 5\n", "old -5\n"), 400},
		{"old with two spaces", sub("old 5\n", "old  5\n"), 400},
		{"old with a space behind", sub("old 5\n", "old 5 \n"), 400},
		{"old with CR", sub("old 5\n", "old 5\r\n"), 400},
		{"old 2^63", sub("old 5\n", "old 9223372036854775808\n"), 400},
		{"Old", sub("old 5\n", "Old 5\n"), 400},
		{"old twice", sub("old 5\n", "old 5\nold 5\n"), 400},
		{"CR in a proof line", sub(goodProof, goodProof[:8]+"\r"+goodProof[8:]), 400},
		{"proof line without padding", sub(goodProof, strings.TrimRight(goodProof, "=")), 400},
		{"proof line of 31 bytes", sub(goodProof, base64.StdEncoding.EncodeToString(make([]byte, 31))), 400},
		{"spare bits in a proof line", sub(goodProof, goodProof[:42]+nextBase64(goodProof[42])+"="), 400},
		{"64 proof lines", requestBody(5, make([][32]byte, 64), l.note(9)), 400},
		{"63 proof lines", requestBody(5, make([][32]byte, 63), l.note(9)), 422},
		{"no empty line", sub("\n\nlog.example", "\nlog.example"), 400},
		{"no note", []byte(good[:strings.Index(good, "\n\n")+2]), 400},
		{"note without signature", []byte(good[:strings.Index(good, "—")]), 400},
		{"note cut short", []byte(good[:len(good)-1]), 400},
		{"trailing newline", []byte(good + "\n"), 400},
		{"spare bits in a signature", sub(sigLine, sigLine[:len(sigLine)-3]+nextBase64(sigLine[len(sigLine)-3])+"=\n"), 400},
		{"not UTF-8", sub("log.example", "log\xffexample"), 400},
		{"129 signatures", []byte(good + strings.Repeat("— x AAAAAAA=\n", 128)), 400},

		{"unknown log", unknown.request(5, 9), 404},
		{"unknown log, malformed checkpoint", requestBody(5, nil, unknown.sign([]byte(unknown.origin+"\n09\nx\n"))), 404},
		{"unknown log, old > size", unknown.request(0, 5), 404},

		{"unknown key", requestBody(5, l.proof(5, 9), l.sign(text, stranger)), 403},
		{"another known log's key", requestBody(5, l.proof(5, 9), l.sign(text, other.key)), 403},
		{"our own cosignature only", requestBody(5, l.proof(5, 9), l.sign(text, w.cfg.Keys[0])), 403},
		{"a bad signature", sub(sigLine, corrupt(sigLine)), 403},
		{"a bad one after a good one of the key", []byte(good + corrupt(sigLine)), 403},
		{"a bad one before a good one of the key", sub(sigLine, corrupt(sigLine)+sigLine), 403},
		{"a good one, and a bad one of the second key", []byte(good + corrupt(ml)), 403},
		{"signature over another text", sub("\n9\n", "\n8\n"), 403},
		{"bad signature and old > size", requestBody(10, nil, []byte(strings.Replace(string(l.note(9)), sigLine, corrupt(sigLine), 1))), 403},
		{"ML-DSA key over extension lines", requestBody(5, l.proof(5, 9), slices.Concat(text, []byte("ext\n\n"), []byte(ml))), 403},

		{"size 09", signed(strings.Replace(string(text), "\n9\n", "\n09\n", 1)), 400},
		{"size +9", signed(strings.Replace(string(text), "\n9\n", "\n+9\n", 1)), 400},
		{"size 2^63", signed(strings.Replace(string(text), "\n9\n", "\n9223372036854775808\n", 1)), 400},
		{"root of 31 bytes", signed(lines[0] + "\n9\n" + base64.StdEncoding.EncodeToString(make([]byte, 31)) + "\n"), 400},
		{"spare bits in the root", signed(lines[0] + "\n9\n" + lines[2][:42] + nextBase64(lines[2][42]) + "=\n"), 400},
		{"empty extension line", signed(string(text) + "\n"), 400},
		{"empty line before an extension", signed(string(text) + "\next\n"), 400},
		{"origin only", signed(lines[0] + "\n"), 400},
		{"old > size", requestBody(10, nil, l.note(9)), 400},
		{"old > size, old is the last", requestBody(5, nil, l.note(4)), 400},

		{"size 0, another root", requestBody(0, nil, l.sign(zero.Text())), 422}, // before 409
		{"size 0", requestBody(0, nil, l.note(0)), 409},
		{"old too small", l.request(4, 9), 409},
		{"old too large", l.request(6, 9), 409},
		{"old 0", l.request(0, 9), 409},
		{"old 0 with proof", requestBody(0, l.proof(5, 9), l.note(9)), 409},
		{"old too small, bad proof", requestBody(4, nil, l.note(9)), 409},

		{"no proof", requestBody(5, nil, l.note(9)), 422},
		{"proof too long", requestBody(5, append(l.proof(5, 9), [32]byte{}), l.note(9)), 422},
		{"another proof", requestBody(5, l.proof(5, 8), l.note(9)), 422},
		{"a fork", requestBody(5, fork.proof(5, 9), fork.note(9)), 422},
		{"same size, another root", requestBody(5, nil, fork.note(5)), 422},
		{"same size and root, with proof", requestBody(5, make([][32]byte, 1), l.note(5)), 422},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := w.add(tt.body)
			a.check(t, "answer", tt.status, "")
			if tt.status == 409 && (a.body != "5\n" || a.header.Get("Content-Type") != "text/x.tlog.size") {
				t.Errorf("body %q, type %q", a.body, a.header.Get("Content-Type"))
			}
			if strings.Contains(a.body, "— "+testName) {
				t.Error("the answer has a signature")
			}
		})
	}
	// Nothing of that has changed anything.
	if w.lookup(l.origin).head.Load().size != 5 {
		t.Fatal("a refused request advanced the witness")
	}
	for _, tt := range []struct {
		name string
		body []byte
	}{
		{"refresh", l.request(5, 5)},
		{"unknown signatures are ignored", requestBody(5, nil, append(l.note(5), "— "+l.origin+" AAAAAAA=\n— x AAAAAAA=\n"...))},
		{"the other key", requestBody(5, nil, l.sign(l.checkpoint(5).Text(), l2))},
		{"both keys, and one twice", requestBody(5, nil, l.sign(l.checkpoint(5).Text(), l.key, l2, l.key))},
		{"grow", l.request(5, 9)},
	} {
		w.add(tt.body).check(t, tt.name, 200, "— "+testName)
	}
	// A key's second line, valid as it is, isn't kept.
	a := w.add(requestBody(9, nil, l.sign(text, l2, l.key, l2, stranger)))
	if got := w.do("GET", "/"+originHash(l.origin)+"/checkpoint", nil).body; !strings.HasPrefix(got, string(text)) ||
		strings.Count(got, "— "+l.origin) != 2 || !strings.HasSuffix(got, sigLine+a.body) {
		t.Errorf("kept %s", got)
	}
	for _, m := range []string{"GET", "PUT"} {
		w.do(m, "/add-checkpoint", nil).check(t, m, 405, "")
	}
}

// nextBase64 returns a digit that differs from c in the last bit only.
func nextBase64(c byte) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	return string(digits[strings.IndexByte(digits, c)^1])
}

func TestFirstCheckpoint(t *testing.T) {
	l := newTestLog(t, "log.example/a", 9)
	w := startWitness(t, testConfig(t, l))
	a := w.add(l.request(5, 9))
	a.check(t, "never cosigned, old 5", 409, "0\n")
	w.add(requestBody(0, l.proof(5, 9), l.note(9))).check(t, "old 0 with proof", 422, "")
	zero := l.checkpoint(0)
	zero.Root[0] ^= 1
	w.add(requestBody(0, nil, l.sign(zero.Text()))).check(t, "size 0, another root", 422, "")
	w.mustAdd(l, 0, 9)
}

func TestBodySizes(t *testing.T) {
	l := newTestLog(t, "log.example/a", 9)
	w := startWitness(t, testConfig(t, l))
	// 16 signatures of 5 kB, as other logs' post-quantum keys may make.
	pq := l.note(9)
	for i := range 16 {
		pq = fmt.Appendf(pq, "— pq%d.example %s\n", i, base64.StdEncoding.EncodeToString(make([]byte, 4999)))
	}
	w.add(requestBody(0, nil, pq)).check(t, "16 signatures of 5 kB", 200, "— "+testName)
	fill := func(size int) []byte {
		b := requestBody(9, nil, l.note(9))
		for len(b) < size {
			n := min(size-len(b), 4000)
			if rest := size - len(b) - n; rest > 0 && rest < 100 {
				n -= 100
			}
			raw := (n - len("— x \n")) / 4 * 3
			line := "— x " + base64.StdEncoding.EncodeToString(make([]byte, raw))
			b = append(b, "— "+strings.Repeat("x", n-1-len(line))+line[len("— "):]+"\n"...)
		}
		return b
	}
	b := fill(maxBody)
	if len(b) != maxBody {
		t.Fatalf("made %d bytes", len(b))
	}
	w.add(b).check(t, "the largest body", 200, "— "+testName)
	w.add(fill(maxBody+1)).check(t, "one byte more", 413, "")
	// The same without a Content-Length.
	for _, size := range []int{maxBody, maxBody + 1} {
		req, err := http.NewRequest("POST", w.url+"/add-checkpoint", struct{ *bytes.Reader }{bytes.NewReader(fill(size))})
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = -1
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if want := map[int]int{maxBody: 200, maxBody + 1: 413}[size]; resp.StatusCode != want {
			t.Errorf("%d bytes, chunked: status %d, want %d", size, resp.StatusCode, want)
		}
	}
}

func TestExtensionLines(t *testing.T) {
	l := newTestLog(t, "log.example/a", 9)
	w := startWitness(t, testConfig(t, l))
	c := l.checkpoint(9)
	c.Extensions = []string{"ext"}
	a := w.add(requestBody(0, nil, l.sign(c.Text())))
	a.check(t, "both keys", 200, "")
	verifyLines(t, w.cfg.Keys[:1], c, a.body, 0) // Ed25519 only
	cfg := testConfig(t, l)
	cfg.Keys = cfg.Keys[1:]
	only := startWitness(t, cfg)
	only.add(requestBody(0, nil, l.sign(c.Text()))).check(t, "ML-DSA only", 422, "extension")
	only.mustAdd(l, 0, 9)

	long := newTestLog(t, strings.Repeat("o", 256), 3)
	both := startWitness(t, testConfig(t, long))
	a = both.add(long.request(0, 3))
	a.check(t, "an origin of 256 bytes", 200, "")
	verifyLines(t, both.cfg.Keys[:1], long.checkpoint(3), a.body, 0)
}

func TestSignSubtree(t *testing.T) {
	l := newTestLog(t, "log.example/a", 14)
	unknown := newTestLog(t, "log.example/unknown", 14)
	w := startWitness(t, testConfig(t, l))
	lines := w.mustAdd(l, 0, 14)
	cosigned := slices.Concat(l.checkpoint(14).Text(), []byte("\n"), []byte(lines))
	// Proofs of subtrees by definition, of the tree's leaf hashes.
	leaves := make([][32]byte, 14)
	for i := range leaves {
		leaves[i] = tlog.RecordHash(fmt.Append(nil, i))
	}
	body := func(start, end int, note []byte) []byte {
		b := fmt.Appendf(nil, "subtree %d %d\n%s\n", start, end, b64(root(leaves[start:end])))
		for _, h := range subproof(leaves, start, end, true) {
			b = fmt.Appendf(b, "%s\n", b64(h))
		}
		return slices.Concat(b, []byte("\n"), note)
	}
	for start := range 14 {
		for end := start + 1; end <= 14; end++ {
			if !checkpoint.ValidSubtree(uint64(start), uint64(end)) {
				continue
			}
			a := w.do("POST", "/sign-subtree", body(start, end, cosigned))
			if a.status != 200 {
				t.Fatalf("[%d, %d): status %d: %s", start, end, a.status, a.body)
			}
			sigs, err := checkpoint.ParseSignatures([]byte(a.body))
			if err != nil || len(sigs) != 1 {
				t.Fatalf("[%d, %d): %q", start, end, a.body)
			}
			if err := w.cfg.Keys[1].Verifier().VerifySubtree(l.origin, uint64(start), uint64(end), root(leaves[start:end]), sigs[0]); err != nil {
				t.Errorf("[%d, %d): %v", start, end, err)
			}
		}
	}
	good := string(body(8, 13, cosigned))
	sub := func(old, new string) []byte {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("nothing to replace for %q", old)
		}
		return []byte(strings.Replace(good, old, new, 1))
	}
	w.do("POST", "/sign-subtree", []byte(good)).check(t, "good", 200, "")
	cut := strings.Index(lines, "\n") + 1
	for _, tt := range []struct {
		name   string
		body   []byte
		status int
	}{
		{"empty", nil, 400},
		{"start 08", sub("subtree 8 13", "subtree 08 13"), 400},
		{"two spaces", sub("subtree 8 13", "subtree 8  13"), 400},
		{"three numbers", sub("subtree 8 13", "subtree 8 13 14"), 400},
		{"not aligned", sub("subtree 8 13", "subtree 6 13"), 400},
		{"empty range", sub("subtree 8 13", "subtree 8 8"), 400},
		{"end before start", sub("subtree 8 13", "subtree 8 7"), 400},
		{"end > size", sub("subtree 8 13", "subtree 8 15"), 400},
		{"hash of 31 bytes", sub(b64(root(leaves[8:13])), base64.StdEncoding.EncodeToString(make([]byte, 31))), 400},
		{"malformed note", []byte(good[:len(good)-1]), 400},
		{"malformed checkpoint", sub("\n14\n", "\n014\n"), 400},
		{"unknown log", body(8, 13, unknown.sign(unknown.checkpoint(14).Text(), w.cfg.Keys[0])), 404},
		{"log's signature only", body(8, 13, l.note(14)), 403},
		{"bad own cosignature", sub("\n14\n", "\n15\n"), 403},
		{"one own cosignature bad", body(8, 13, slices.Concat(l.checkpoint(14).Text(), []byte("\n"), []byte(lines), l.sign(l.checkpoint(13).Text(), w.cfg.Keys[0])[len(l.checkpoint(13).Text())+1:])), 403},
		{"another hash", sub(b64(root(leaves[8:13])), b64(root(leaves[8:12]))), 422},
		{"another range", sub("subtree 8 13", "subtree 8 12"), 422},
		{"Ed25519 cosignature only", body(8, 13, slices.Concat(l.checkpoint(14).Text(), []byte("\n"), []byte(lines[:cut]))), 200},
		{"with the log's signature", body(8, 13, append(l.note(14), lines...)), 200},
	} {
		w.do("POST", "/sign-subtree", tt.body).check(t, tt.name, tt.status, "")
	}
	cfg := testConfig(t, l)
	cfg.Keys = cfg.Keys[:1]
	startWitness(t, cfg).do("POST", "/sign-subtree", []byte(good)).check(t, "no capable key", 404, "")
}

func b64(h [32]byte) string { return base64.StdEncoding.EncodeToString(h[:]) }

func TestForkEvidence(t *testing.T) {
	l := newTestLog(t, "log.example/a", 40)
	quiet := newTestLog(t, "log.example/b", 1)
	w := startWitness(t, testConfig(t, l, quiet))
	w.mustAdd(l, 0, 7)
	hash := originHash(l.origin)
	w.do("GET", "/"+hash+"/evidence", nil).check(t, "before", 404, "")
	// Mistakes aren't forks.
	w.add(requestBody(7, nil, l.note(20))).check(t, "no proof", 422, "")
	w.add(requestBody(7, make([][32]byte, 4), l.note(20))).check(t, "garbage", 422, "")
	w.add(l.request(5, 20)).check(t, "old size", 409, "")
	// What the log hasn't signed doesn't count.
	fork := l.fork(3).grow(37, "fork")
	mallory := l.fork(3).grow(37, "fork")
	mallory.key = testKey(t, checkpoint.Ed25519, l.origin, 66)
	w.add(mallory.request(7, 20)).check(t, "not signed by the log", 403, "")
	w.do("GET", "/"+hash+"/evidence", nil).check(t, "after mistakes", 404, "")

	w.add(fork.request(7, 20)).check(t, "larger fork", 422, "")
	w.add(fork.request(7, 20)).check(t, "the same again", 422, "")
	w.add(fork.request(7, 7)).check(t, "fork of the same size", 422, "")
	w.add(fork.request(0, 7)).check(t, "fork of the same size, wrong old size", 409, "7\n")
	a := w.do("GET", "/"+hash+"/evidence", nil)
	a.check(t, "evidence", 200, string(l.note(7)))
	a.check(t, "evidence", 200, string(fork.request(7, 20)))
	a.check(t, "evidence", 200, string(fork.note(7)))
	if n := strings.Count(a.body, "This log forked"); n != 2 {
		t.Errorf("%d texts, want 2:\n%s", n, a.body)
	}
	metrics := httpGet(t, w.MetricsHandler(), "/metrics")
	if !strings.Contains(metrics, `affidavit_witness_log_forks_total{origin="log.example/a"} 2`) || !strings.Contains(metrics, `affidavit_witness_log_forks_total{origin="log.example/b"} 0`) {
		t.Error("the metric of forks isn't there")
	}
	w.do("GET", "/", nil).check(t, "page", 200, "forked")
	// Many forks don't fill the disk.
	for i := range int64(20) {
		w.add(fork.request(7, 21+i/2)).check(t, "fork", 422, "")
	}
	if n := strings.Count(w.do("GET", "/"+hash+"/evidence", nil).body, "This log forked"); n != maxEvidence {
		t.Errorf("%d texts kept, want %d", n, maxEvidence)
	}
	// The log can still be cosigned on the branch that was first, and the
	// evidence survives.
	w.mustAdd(l, 7, 40)
	w.Close()
	cfg := w.cfg
	cfg.Init = false
	again := startWitness(t, cfg)
	if n := strings.Count(again.do("GET", "/"+hash+"/evidence", nil).body, "This log forked"); n != maxEvidence {
		t.Errorf("%d texts after a restart, want %d", n, maxEvidence)
	}
}

func TestRateLimits(t *testing.T) {
	l := newTestLog(t, "log.example/a", 60)
	cfg := testConfig(t, l)
	cfg.Logs[0].QPD = 240 // one in 6 minutes, 10 at once
	w := startWitness(t, cfg)
	for i := range int64(10) {
		w.mustAdd(l, i, i+1)
	}
	a := w.add(l.request(10, 11))
	a.check(t, "11th growth", 429, "")
	if a.header.Get("Retry-After") != "360" {
		t.Errorf("Retry-After %q, want 360", a.header.Get("Retry-After"))
	}
	// Refreshing, which strangers can do, has another budget; and neither a
	// conflict nor a bad request costs anything.
	for range 10 {
		w.mustAdd(l, 10, 10)
	}
	w.add(l.request(10, 10)).check(t, "11th refresh", 429, "")
	w.add(l.request(9, 11)).check(t, "conflict", 409, "10\n")
	w.now.Add(359)
	w.add(l.request(10, 11)).check(t, "too early", 429, "")
	w.now.Add(1)
	w.mustAdd(l, 10, 11)
	w.add(l.request(11, 12)).check(t, "again", 429, "")
}

func TestOneWinner(t *testing.T) {
	l := newTestLog(t, "log.example/a", 60)
	w := startWitness(t, testConfig(t, l))
	w.mustAdd(l, 0, 7)
	// 50 writers want to grow the log from 7, each to another size.
	bodies := make([][]byte, 50)
	for i := range bodies {
		bodies[i] = l.request(7, 8+int64(i))
	}
	answers := make([]answer, 50)
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range bodies {
		wg.Go(func() {
			<-start
			answers[i] = w.add(bodies[i])
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, a := range answers {
		switch a.status {
		case 200:
			if winner >= 0 {
				t.Errorf("sizes %d and %d both won", 8+winner, 8+i)
			}
			winner = i
			verifyLines(t, w.cfg.Keys, l.checkpoint(8+int64(i)), a.body, 0)
		case 409:
		default:
			t.Errorf("status %d: %s", a.status, a.body)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	for i, a := range answers {
		if i != winner && a.body != fmt.Sprintf("%d\n", 8+winner) {
			t.Errorf("409 says %q, the winner is %d", a.body, 8+winner)
		}
	}
}

// TestWriteFails makes the transaction fail, once before and once after it was
// committed. Nothing may be answered, nor cosigned until the state has been read
// again; and then what was written holds.
func TestWriteFails(t *testing.T) {
	for _, written := range []bool{false, true} {
		t.Run(fmt.Sprint("written ", written), func(t *testing.T) {
			l := newTestLog(t, "log.example/a", 20)
			w := startWitness(t, testConfig(t, l))
			w.mustAdd(l, 0, 7)
			failure := errors.New("disk on fire")
			update := w.store.update
			w.store.update = func(f func(*bolt.Tx) error) error {
				if written {
					if err := update(f); err != nil {
						t.Error(err)
					}
				}
				return failure
			}
			a := w.add(l.request(7, 9))
			a.check(t, "failed write", 500, "internal error")
			if strings.Contains(a.body, "fire") {
				t.Error("the answer tells internals")
			}
			// The disk is well again, but what is on it is unknown.
			w.store.update = update
			for range 2 {
				a := w.add(l.request(7, 8)) // a smaller size than may be on disk
				a.check(t, "after the failure", 503, "")
				if strings.Contains(a.body, "— ") {
					t.Fatal("cosigned after a failed write")
				}
			}
			w.do("GET", "/health", nil).check(t, "health", 503, "")
			if err := w.Run(t.Context()); !errors.Is(err, failure) {
				t.Errorf("Run: %v", err)
			}
			if err := w.Err(); !errors.Is(err, failure) {
				t.Errorf("Err: %v", err)
			}
			w.Close()
			cfg := w.cfg
			cfg.Init = false
			again := startWitness(t, cfg)
			if written {
				again.add(l.request(7, 8)).check(t, "a smaller size than what was written", 409, "9\n")
				again.mustAdd(l, 9, 20)
			} else {
				again.mustAdd(l, 7, 8)
			}
		})
	}
}

// TestConflictInDatabase changes the database behind the witness's back.
func TestConflictInDatabase(t *testing.T) {
	l := newTestLog(t, "log.example/a", 20)
	w := startWitness(t, testConfig(t, l))
	w.mustAdd(l, 0, 7)
	err := w.store.do(func(tx *bolt.Tx) error {
		c := l.checkpoint(9)
		return tx.Bucket(bucketNotes).Put([]byte(l.origin), value{9, c.Root, l.note(9)}.bytes())
	})
	if err != nil {
		t.Fatal(err)
	}
	w.add(l.request(7, 8)).check(t, "conflict", 500, "")
	if got, err := w.store.note(l.origin); err != nil || !bytes.Equal(got, l.note(9)) {
		t.Error("the witness overwrote what it didn't expect")
	}
}

func TestOpen(t *testing.T) {
	l := newTestLog(t, "log.example/a", 20)
	good := testConfig(t, l)
	for _, tt := range []struct {
		name string
		edit func(c *Config)
		want string
	}{
		{"missing database", func(c *Config) { c.Init = false }, "--init"},
		{"missing directory", func(c *Config) { c.State = filepath.Join(c.State, "x") }, ""},
		{"no key", func(c *Config) { c.Keys = nil }, "needs a key"},
		{"log's key", func(c *Config) { c.Keys[0] = testKey(t, checkpoint.Ed25519, testName, 5) }, "type 01"},
		{"another name", func(c *Config) { c.Name = "other" }, "isn't the witness's"},
		{"a key twice", func(c *Config) { c.Keys[1] = c.Keys[0] }, "twice"},
		{"log twice", func(c *Config) { c.Logs = append(c.Logs, c.Logs[0]) }, "twice"},
		{"witness's key as log's", func(c *Config) { c.Logs[0].Key = c.Keys[0].Verifier() }, "type 04"},
		{"no origin", func(c *Config) { c.Logs[0].Origin = "" }, "origin"},
		{"origin of two lines", func(c *Config) { c.Logs[0].Origin = "a\nb" }, "origin"},
		{"origin isn't UTF-8", func(c *Config) { c.Logs[0].Origin = "a\xff" }, "origin"},
		{"long origin", func(c *Config) { c.Logs[0].Origin = strings.Repeat("o", maxOrigin+1) }, "origin"},
		{"negative limit", func(c *Config) { c.Logs[0].QPD = -1 }, "queries"},
		{"list that isn't there", func(c *Config) { c.LogLists = []string{filepath.Join(t.TempDir(), "list")} }, "no such file"},
	} {
		c := good
		c.State = filepath.Join(t.TempDir(), "state.db")
		c.Keys, c.Logs = slices.Clone(c.Keys), slices.Clone(c.Logs)
		tt.edit(&c)
		w, err := Open(c)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if err == nil {
			w.Close()
		}
	}
	w := startWitness(t, good)
	if _, err := Open(good); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("--init on an existing database: %v", err)
	}
	second := good
	second.Init = false
	if _, err := Open(second); err == nil {
		t.Error("two witnesses on one database")
	}
	w.mustAdd(l, 0, 5)
	w.Close()
	// Files that aren't a witness's database.
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("x"), 1<<16), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{garbage, empty, t.TempDir()} {
		second.State = path
		if w, err := Open(second); err == nil {
			t.Errorf("opened %s", path)
			w.Close()
		}
	}
	// A value that isn't its note.
	second.State = good.State
	db, err := bolt.Open(good.State, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b := bytes.Clone(tx.Bucket(bucketNotes).Get([]byte(l.origin)))
		b[7]--
		return tx.Bucket(bucketNotes).Put([]byte(l.origin), b)
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := Open(second); err == nil || !strings.Contains(err.Error(), "isn't the recorded checkpoint") {
		t.Errorf("a changed size: %v", err)
	}
}

func TestPages(t *testing.T) {
	l := newTestLog(t, "log.example/<b>&", 20)
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, formatLogList(Log{Origin: "listed origin", Key: testKey(t, checkpoint.Ed25519, "listed", 3).Verifier(), QPD: 5}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(t, l)
	cfg.LogLists = []string{list}
	cfg.PublicURL = "https://witness.example/w1"
	w := startWitness(t, cfg)
	w.mustAdd(l, 0, 17)
	w.do("GET", "/health", nil).check(t, "health", 200, "ok")
	a := w.do("GET", "/", nil)
	for _, want := range []string{testName, "log.example/&lt;b&gt;&amp;", ">17<", "2023-11-14T22:13:20Z", originHash(l.origin) + "/checkpoint",
		"POST https://witness.example/w1/add-checkpoint", "listed origin", "1h0m0s"} {
		a.check(t, "page", 200, want)
	}
	for _, k := range cfg.Keys {
		a.check(t, "page", 200, strings.ReplaceAll(k.VKey(), "+", "&#43;"))
	}
	if a.header.Get("Content-Security-Policy") == "" {
		t.Error("no Content-Security-Policy")
	}
	if strings.Contains(a.body, list) {
		t.Error("the page shows a path of this machine")
	}
	w.do("GET", "/nothing", nil).check(t, "unknown path", 404, "")
	w.do("GET", "/metrics", nil).check(t, "metrics on the public address", 404, "")
	w.do("GET", "/debug/pprof/", nil).check(t, "profiles on the public address", 404, "")
	w.add([]byte("junk"))
	w.add(newTestLog(t, "log.example/hostile", 3).request(0, 3))
	m := httpGet(t, w.MetricsHandler(), "/metrics")
	for _, want := range []string{
		`affidavit_witness_log_size{origin="log.example/<b>&"} 17`,
		`affidavit_witness_requests_total{call="add-checkpoint",status="200"} 1`,
		`affidavit_witness_requests_total{call="add-checkpoint",status="400"} 1`,
		`affidavit_witness_requests_total{call="add-checkpoint",status="404"} 1`,
		"affidavit_witness_logs 2", "affidavit_witness_logs_held 0", "affidavit_witness_state_failed 0",
		"affidavit_witness_log_list_read_seconds{", "go_goroutines",
	} {
		if !strings.Contains(m, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if strings.Contains(m, "hostile") {
		t.Error("a request made a label")
	}
	if s := httpGet(t, w.MetricsHandler(), "/debug/pprof/"); !strings.Contains(s, "goroutine") {
		t.Error("no profiles on the private address")
	}
}
