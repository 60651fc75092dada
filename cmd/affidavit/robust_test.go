package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/affidavit-log/affidavit/client/bundle/judge"
	"github.com/affidavit-log/affidavit/client/session"
)

// No command prints a private key or a token, whatever goes wrong with the file
// that holds it.
func TestNoSecretsInOutput(t *testing.T) {
	dir := fixtureDir(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	makeFile := func(kind, name string) (file string, contents []byte) {
		file = at(name)
		if status, _, stderr := runCommand(t, "keygen", "--type", kind, "--name", "secret.example", "--out", file); status != exitGood {
			t.Fatal(stderr)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return file, b
	}
	var files []string
	var secrets []string
	keep := func(file string, contents []byte) {
		files = append(files, file)
		// Any 16 characters of the key in a row would be a leak.
		text := strings.Join(strings.Fields(string(contents)), "")
		switch {
		case strings.HasPrefix(text, "PRIVATE+KEY+"):
			secrets = append(secrets, text[len(text)-24:len(text)-8], text[len(text)-40:len(text)-24])
		case strings.Contains(text, "PRIVATEKEY-----"):
			_, text, _ = strings.Cut(text, "PRIVATEKEY-----")
			text, _, _ = strings.Cut(text, "-----")
			der, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			seed := der[len(der)-32:]
			secrets = append(secrets, text[24:40], text[40:56], hex.EncodeToString(seed)[:16], base64.StdEncoding.EncodeToString(seed)[:16])
		default:
			secrets = append(secrets, text)
		}
	}
	for _, kind := range []string{"log", "log-ml-dsa", "witness", "witness-ml-dsa", "release", "session", "challenge"} {
		keep(makeFile(kind, kind+".secret"))
	}
	keep(at("token"), []byte(testToken))
	// Damaged keys are where parsers like to quote their input.
	for _, name := range slices.Clone(files) {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for how, damaged := range map[string][]byte{
			"cut":   b[:len(b)-6],
			"flip":  append(append(bytes.Clone(b[:len(b)/2]), '!'), b[len(b)/2+1:]...),
			"twice": append(bytes.Clone(b), b...),
			"quote": append([]byte("\""), b...),
		} {
			file := name + "." + how
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, file)
		}
	}
	for _, file := range files {
		for _, args := range [][]string{
			{"inspect", file},
			{"inspect", "--json", file},
			{"sign", "--key", file, "--out", at("out.entry"), at("release.json")},
			{"sign", "--key", at("release.secret"), "--out", at("out.entry"), file},
			{"submit", "--log", "http://127.0.0.1:1", "--token-file", file, at("missing.entry")},
			{"submit", "--log", "ftp://log.example", "--token-file", file, at("key.entry")},
			{"submit", "--log", "http://log.example", "--token-file", file, at("key.entry")},
			{"submit", "--log", "http://log.example", "--token-file", at("token"), file},
			{"verify", "--log-policy", file, "--appraisal-policy", file, file},
			{"verify", "--log-policy", at("log.policy"), "--appraisal-policy", file, file},
			{"verify", "--log-policy", at("log.policy"), "--appraisal-policy", at("ours.yaml"), "--root", at("root.der"), file},
			{"appraise", "--quote", file, "--collateral", file},
			{"appraise", "--quote", at("quote.bin"), "--collateral", file, "--root", at("root.der")},
			{"log-policy", "check", file},
			{"keygen", "--type", "log", "--name", "x", "--out", file},
			{"gate", "--check", "--bundle", at("begun.affidavit"), "--log-policy", at("log.policy"), "--appraisal-policy", at("ours.yaml"), "--challenge-file", file},
			{"gate", "--upstream", "https://agent.example", "--bundle", file, "--log-policy", at("log.policy"), "--appraisal-policy", at("strict.yaml"), "--tls-cert", file, "--tls-key", file},
			{"release", "--log", "http://127.0.0.1:1", "--token-file", file, "--key", file, "--out", at("out.entry"), "--statement", at("key.json")},
			{"release", "--log", "http://127.0.0.1:1", "--token-file", at("token"), "--key", at("release.secret"), "--out", at("out.entry"), "--statement", file},
			{"disclose", "--list", file},
			{"verify", "--log-policy", at("log.policy"), "--appraisal-policy", at("ours.yaml"), "--root", at("root.der"), "--disclosure", file, "--content", file, at("recorded.affidavit")},
		} {
			// A token looks like any word, so that a parser that is given one instead
			// of a policy can't know not to quote it.
			if token := at("token"); strings.HasPrefix(file, token) && (slices.Contains(args, "--log-policy") || slices.Contains(args, "check")) {
				continue
			}
			_, stdout, stderr := runCommand(t, args...)
			for _, secret := range secrets {
				if strings.Contains(stdout+stderr, secret) {
					t.Errorf("%v prints %q:\n%s%s", args, secret, stdout, stderr)
				}
			}
		}
	}
}

// A bit flipped anywhere in a bundle or proof makes it worthless, whatever the
// appraisal policy. Package bundle tries many more; this is the command.
func TestFlippedBits(t *testing.T) {
	dir := fixtureDir(t)
	for _, name := range []string{"session.affidavit", "release.tlog-proof"} {
		good, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		// In a lone proof, a flipped name or key ID of a signature makes it one by
		// an unknown key, which readers must ignore (c2sp.org/signed-note): the
		// others still satisfy the quorum. Signatures are package checkpoint's.
		end := len(good)
		if note := bytes.Index(good, []byte("\n\n\u2014 ")); !judge.IsBundle(good) {
			end = note
		}
		step := end/60 | 1
		for i := 0; i < end; i += step {
			b := bytes.Clone(good)
			b[i] ^= 1 << (i % 8)
			var out bytes.Buffer
			c := &console{stdin: bytes.NewReader(b), stdout: &out, stderr: &out, now: time.Now}
			args := verifyArgs(dir)
			args[len(args)-1] = "-"
			if status := run(c, args); status != exitNotGenuine {
				t.Fatalf("%s: bit %d of byte %d: exit status %d\n%.300s", name, i%8, i, status, out.String())
			}
		}
	}
}

// Whatever a file holds, inspect either refuses it or shows it in a form that
// is safe to print and to parse.
func FuzzInspect(f *testing.F) {
	files := newFixtures(f)
	seeds := 0
	for name, b := range files.all {
		if len(b) < 20000 {
			f.Add(b)
			seeds++
		} else if strings.HasSuffix(name, ".affidavit") && seeds == 0 {
			f.Add(b)
		}
	}
	if seeds == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, fields, err := decode(b)
		if err != nil {
			if kind != "" || fields != nil {
				t.Errorf("an error with a result: %q", kind)
			}
			return
		}
		j, err := json.Marshal(fields)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		var v map[string]json.RawMessage
		if err := json.Unmarshal(j, &v); err != nil {
			t.Fatalf("%s: %v in %s", kind, err, j)
		}
		if len(v) != len(fields) {
			t.Errorf("%s: a member twice in %s", kind, j)
		}
		var out bytes.Buffer
		fields.print(&out, "  ")
		if !utf8.Valid(out.Bytes()) {
			t.Errorf("%s: printed invalid UTF-8", kind)
		}
		for _, r := range out.String() {
			if r < ' ' && r != '\n' || r == 0x7f || r == 0x9b {
				t.Fatalf("%s: printed control character %#x", kind, r)
			}
		}
	})
}

// Every form of a quote gives the same quote.
func FuzzDecodeQuote(f *testing.F) {
	files := newFixtures(f)
	for _, name := range []string{"quote.bin", "debug.bin", "old.bin"} {
		f.Add(files.all[name])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		raw, q, err := decodeQuote(b)
		if err != nil {
			return
		}
		if !bytes.Equal(q.Raw(), raw) {
			t.Fatal("the quote isn't its bytes")
		}
		for _, form := range [][]byte{
			append(bytes.Clone(raw), make([]byte, 64)...),
			[]byte(hex.EncodeToString(raw)),
			[]byte("0X" + strings.ToUpper(hex.EncodeToString(raw)) + "\n"),
			[]byte(base64.StdEncoding.EncodeToString(raw)),
			[]byte(base64.RawURLEncoding.EncodeToString(raw)),
		} {
			again, _, err := decodeQuote(form)
			if err != nil || !bytes.Equal(again, raw) {
				t.Fatalf("%.40q: %v", form, err)
			}
		}
	})
}

// There is one file for each content: else two could be handed out for the same.
func FuzzParseRevealed(f *testing.F) {
	good, err := (&revealed{Action: 3, Content: session.Content{Name: "arguments", Salt: [32]byte{1}, Bytes: []byte("ls <\x1b>\xff")}}).marshal()
	if err != nil {
		f.Fatal(err)
	}
	if _, err := parseRevealed(good); err != nil {
		f.Fatal(err) // otherwise nothing below says anything
	}
	f.Add(good)
	f.Add(append(bytes.Clone(good), '\n'))
	f.Add(bytes.Replace(good, []byte(":3,"), []byte(":3.0,"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRevealed(b)
		if err != nil {
			return
		}
		if again, err := r.marshal(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%q is also %q (%v)", b, again, err)
		}
	})
}
