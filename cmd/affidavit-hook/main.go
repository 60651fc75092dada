// Command affidavit-hook hands one hook event of Cursor, Windsurf Cascade or Claude Code, in JSON on the standard input,
// to affidavit-recorder. Agents run it for every event and wait for it, so it is a small program of its own.
// "affidavit record hook" does the same, and with --install writes the agent's configuration, in which it puts this
// program if it lies beside it.
//
//	affidavit-hook --agent NAME [--socket PATH]
//
// It never changes what the agent does: it prints nothing, always exits with 0, and gives up after 20 ms. An event is
// lost if the recorder isn't there. With AFFIDAVIT_HOOK_DEBUG=1 in its environment it says why on the standard error.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/affidavit-log/affidavit/client/session/hooks/send"
)

func main() {
	if err := run(os.Args[1:], os.Stdin); err != nil && os.Getenv(send.Debug) != "" {
		fmt.Fprintf(os.Stderr, "affidavit-hook: %v\n", err)
	}
}

func run(args []string, stdin io.Reader) error {
	fs := flag.NewFlagSet("affidavit-hook", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	agent := fs.String("agent", "", "")
	socket := fs.String("socket", send.Socket, "")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return send.Event(send.Deadline, *socket, *agent, stdin)
}
