package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client"
	"github.com/affidavit-log/affidavit/log/record"
)

func submitCommand() *command {
	return &command{
		name:  "submit",
		usage: []string{"--log URL --token-file FILE [--log-policy FILE] [--bundle] [--out-dir DIR] ENTRY..."},
		short: "log entries, and keep the proofs",
		about: `Submits entries, in their binary or JSON form, and writes for each ENTRY the proof
that it is logged to ENTRY.tlog-proof. With --bundle it also gathers the evidence for
each into ENTRY.affidavit, the file that an auditor needs.

What is safe to repeat is repeated: the log knows an entry that it already has, and
answers with the proof of the first time. Run the same command again after any
interruption. Entries are submitted in the order given, each once the one before is
logged, because a key must be logged before the releases that it signs, and a session's
start before its end. With --jobs several are under way at once, for entries that
don't refer to each other.`,
		trusts: `With --log-policy, the keys that it lists: a proof that doesn't verify is not written.
Without it, the log: its proofs are only checked for consistency with what it says
itself, and "affidavit verify" is what finds a lie later.`,
		examples: `  affidavit submit --log https://log.example.org/2026 --token-file token key.entry release.entry
  affidavit submit --log https://log.example.org/2026 --token-file token \
      --log-policy log.policy --bundle start.entry final.entry
`,
		exits: map[int]string{
			exitGood:       "every entry is logged, and its files were written",
			exitNotGenuine: "the log refused an entry: malformed, not genuine, stale, or a statement that is\nlogged already with other evidence",
		},
		minArgs: 1, maxArgs: many,
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			s := new(submission)
			url := logFlag(fs)
			token := fs.String("token-file", "", "`FILE` with the bearer token that the log's operator gave you")
			policy := fs.String("log-policy", "", "`FILE` that says whose signatures make an entry logged")
			fs.BoolVar(&s.bundle, "bundle", false, "also assemble an .affidavit file for each entry")
			fs.StringVar(&s.dir, "out-dir", "", "`DIR` for the files, instead of beside each entry")
			fs.StringVar(&s.evidence, "evidence-dir", "", "`DIR` with evidence by its SHA-256, from \"affidavit import\": what the entries name is handed to the log's store first")
			fs.IntVar(&s.jobs, "jobs", 1, "`N` entries under way at once")
			plain := plainHTTPFlag(fs)
			return func(c *console, args []string) (int, error) {
				if err := require(fs, "log", "token-file"); err != nil {
					return 0, err
				}
				if s.jobs < 1 || s.jobs > 256 {
					return 0, usagef("--jobs %d: want 1 to 256", s.jobs)
				}
				cfg, err := submitConfig(c, *url, *token, *policy, *plain)
				if err != nil {
					return 0, err
				}
				cfg.Retrying = func(err error, _ time.Duration) { s.retrying(err) }
				if s.client, err = client.New(*url, cfg); err != nil {
					return 0, err
				}
				return s.run(c, args)
			}
		},
	}
}

// submitConfig returns what a client needs to submit, from the values of flags.
func submitConfig(c *console, url, token, policy string, plain bool) (client.Config, error) {
	cfg := client.Config{AllowPlainHTTP: plain}
	if _, err := client.New(url, cfg); err != nil {
		return cfg, usagef("--log: %v", err)
	}
	b, err := c.readSecret(token)
	if err != nil {
		return cfg, err
	}
	if cfg.Token = strings.TrimSpace(string(b)); cfg.Token == "" {
		return cfg, fmt.Errorf("%s: no token in it", token)
	}
	if policy != "" {
		cfg.LogPolicy, err = readLogPolicy(c, policy)
	}
	return cfg, err
}

func logFlag(fs *pflag.FlagSet) *string {
	return fs.String("log", "", "`URL` of the log, such as https://log.example.org/2026")
}

func plainHTTPFlag(fs *pflag.FlagSet) *bool {
	return fs.Bool("allow-plain-http", false, "send the token unencrypted to another machine")
}

// interruptible returns a context that ends when the user presses Ctrl-C.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// A submission is what the flags of submit ask for.
type submission struct {
	client *client.Client
	bundle bool
	dir    string
	jobs   int

	evidence string // directory, or empty

	// retrying is told why a request has to be made again. It is set before the first.
	retrying func(error)
}

// An entryFile is an entry to submit.
type entryFile struct {
	name  string
	entry *record.Entry
}

func (s *submission) run(c *console, names []string) (int, error) {
	// Nothing is submitted before everything could be read, so that a mistyped
	// name doesn't leave half of the work done.
	var files []entryFile
	outputs := make(map[string]string)
	for _, name := range names {
		b, err := c.readPublic(name)
		if err != nil {
			return 0, err
		}
		entry, err := parseEntry(b)
		if err != nil {
			return 0, fmt.Errorf("%s: not an entry: %w", name, err)
		}
		if other, ok := outputs[s.output(name)]; ok {
			return 0, usagef("%s and %s would be written to the same file %s.tlog-proof", other, name, s.output(name))
		}
		outputs[s.output(name)] = name
		files = append(files, entryFile{name, entry})
	}
	if s.dir != "" {
		if info, err := os.Stat(s.dir); err != nil {
			return 0, fileError(s.dir, err)
		} else if !info.IsDir() {
			return 0, fmt.Errorf("%s: not a directory", s.dir)
		}
	}

	ctx, stop := interruptible()
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := newProgress(c, "logged", len(files))
	todo := make(chan entryFile)
	var wg sync.WaitGroup

	// mu guards status and skipped, and is held while a worker prints.
	var mu sync.Mutex
	status, done := exitGood, 0
	var told sync.Once
	s.retrying = func(err error) {
		told.Do(func() {
			mu.Lock()
			defer mu.Unlock()
			p.clear()
			fmt.Fprintf(c.stderr, "affidavit submit: the log can't be reached, or is busy; trying again for a while: %s\n", clean(err.Error()))
			p.draw()
		})
	}
	for range min(s.jobs, len(files)) {
		wg.Go(func() {
			for f := range todo {
				line, err := s.one(ctx, f)
				mu.Lock()
				done++
				p.step(func() {
					if err == nil {
						fmt.Fprintln(c.stdout, line)
						return
					}
					c.complain("affidavit submit: %s: %v", f.name, err)
					code, hopeless := submitStatus(err)
					status = worse(status, code)
					// No other entry would fare better, so don't make the user
					// wait for the same error a thousand times.
					if hopeless {
						cancel()
					}
				})
				mu.Unlock()
			}
		})
	}
	for _, f := range files {
		select {
		case todo <- f:
			continue
		case <-ctx.Done():
		}
		break
	}
	close(todo)
	wg.Wait()
	p.end()
	if done < len(files) {
		fmt.Fprintf(c.stderr, "affidavit submit: %d of %d entries were not submitted: run the same command again\n", len(files)-done, len(files))
		status = worse(status, exitError)
	}
	return status, nil
}

// output returns the name of what is written for an entry, without extension.
func (s *submission) output(name string) string {
	if name == "-" {
		name = "stdin"
	}
	if s.dir != "" {
		return filepath.Join(s.dir, filepath.Base(name))
	}
	return name
}

// one submits an entry, writes its files, and returns what to say about it.
func (s *submission) one(ctx context.Context, f entryFile) (string, error) {
	if err := s.putEvidence(ctx, f.entry); err != nil {
		return "", err
	}
	proof, err := s.client.Submit(ctx, f.entry)
	if err != nil {
		return "", err
	}
	name := s.output(f.name) + ".tlog-proof"
	if err := writeFile(name, proof.Bytes()); err != nil {
		return "", err
	}
	line := fmt.Sprintf("%d %x %s", proof.Index, f.entry.StatementDigest(), name)
	if !s.bundle {
		return line, nil
	}
	b, err := s.client.AssembleBundle(ctx, proof.Index)
	if err != nil {
		return "", fmt.Errorf("logged at index %d, but its bundle could not be assembled: %w", proof.Index, err)
	}
	file, err := b.Bytes()
	if err != nil {
		return "", err
	}
	name = s.output(f.name) + ".affidavit"
	return line + " " + name, writeFile(name, file)
}

// putEvidence hands the log what an entry names by digest, as far as it is in the
// directory. The log forgets what no entry names, so that it comes before the entry.
func (s *submission) putEvidence(ctx context.Context, e *record.Entry) error {
	if s.evidence == "" {
		return nil
	}
	for _, ev := range e.Evidence {
		ref, err := ev.Ref()
		if err != nil {
			continue
		}
		name := filepath.Join(s.evidence, hexed(ref.SHA256[:]))
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fileError(name, err)
		}
		if sha256.Sum256(b) != ref.SHA256 {
			return fmt.Errorf("%s: its SHA-256 is not its name", name)
		}
		if err := s.client.PutEvidence(ctx, b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// submitStatus returns the exit status for an error of a submission, and whether
// other entries would fail likewise.
func submitStatus(err error) (status int, hopeless bool) {
	p := new(client.Problem)
	if !errors.As(err, &p) {
		// A proof that doesn't verify is about the log, as is one that it owes.
		return exitError, true
	}
	switch p.Status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return exitNotGenuine, false
	}
	return exitError, true
}

// parseEntry parses an entry in its binary or JSON form.
func parseEntry(b []byte) (*record.Entry, error) {
	if bytes.HasPrefix(bytes.TrimSpace(b), []byte("{")) {
		return record.ParseEntryJSON(b)
	}
	return record.ParseEntry(b)
}

// A progress is a line on the terminal that counts. It isn't there if stderr is
// none, or if there is nothing to count.
type progress struct {
	c           *console
	what        string
	done, total int
	shown       bool
}

func newProgress(c *console, what string, total int) *progress {
	p := &progress{c: c, what: what, total: total}
	p.shown = c.progress && total > 1
	p.draw()
	return p
}

// step counts one more, and lets say print in between.
func (p *progress) step(say func()) {
	p.clear()
	say()
	if p.c.flush != nil {
		p.c.flush() // its error comes again at the end
	}
	p.done++
	p.draw()
}

func (p *progress) end() { p.clear() }

func (p *progress) draw() {
	if p.shown {
		fmt.Fprintf(p.c.stderr, "%s %d of %d", p.what, p.done, p.total)
	}
}

func (p *progress) clear() {
	if p.shown {
		fmt.Fprint(p.c.stderr, "\r\x1b[K")
	}
}
