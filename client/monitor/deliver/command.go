package deliver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/affidavit-log/affidavit/client/monitor"
	"github.com/affidavit-log/affidavit/client/printable"
)

// commandTimeout is how long a command may take if nothing else is said.
const commandTimeout = 30 * time.Second

// maxOutput bounds what is kept of a command's output.
const maxOutput = 4 << 10

// passed are the variables of the monitor's own environment that a command gets: nothing that could be a credential.
var passed = []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR"}

// A Command is a [Receiver] that runs a program for each finding, which it gets as JSON on its standard input. Exit status
// 0 acknowledges.
type Command struct {
	// Path is the program. No shell is involved, and there are no arguments: a finding quotes text that strangers have
	// written into a log.
	Path string

	// Timeout is how long it may run before it is killed, with all that it has started. It defaults to 30 seconds.
	Timeout time.Duration
}

// Send implements [Receiver]. The environment is PATH, HOME and the like, and AFFIDAVIT_FINDING_ID, _SEQ, _CLASS,
// _SEVERITY and _KIND, all of which are from fixed sets of characters.
func (c *Command) Send(ctx context.Context, f *monitor.Finding) error {
	input, err := json.Marshal(f)
	if err != nil {
		return err
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = commandTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Path)
	cmd.Stdin = bytes.NewReader(append(input, '\n'))
	out := new(tail)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	for _, name := range passed {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.Env = append(cmd.Env, "AFFIDAVIT_FINDING_ID="+f.ID, "AFFIDAVIT_FINDING_SEQ="+strconv.FormatUint(f.Seq, 10),
		"AFFIDAVIT_FINDING_CLASS="+string(f.Class), "AFFIDAVIT_FINDING_SEVERITY="+string(f.Severity), "AFFIDAVIT_FINDING_KIND="+string(f.Kind))
	together(cmd)
	// A program that it has left behind may hold its output open: it gets a moment, and is killed.
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		end(cmd)
	}
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success():
		return nil
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("killed after %v", timeout)
	}
	if text := strings.TrimSpace(out.String()); text != "" {
		return fmt.Errorf("%s: %w: %s", c.Path, err, printable.Excerpt(text, maxQuoted))
	}
	return fmt.Errorf("%s: %w", c.Path, err)
}

// tail is a writer that keeps the end of what is written.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p[max(0, len(p)-maxOutput):]...)
	if over := len(t.b) - maxOutput; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }
