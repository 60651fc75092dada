package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/affidavit-log/affidavit/client/session/hooks"
	"github.com/affidavit-log/affidavit/client/session/hooks/send"
)

func recordHookCommand() *command {
	return &command{
		name:  "record hook",
		usage: []string{"--agent NAME < EVENT", "--agent NAME --install [--scope user|project]", "--agent NAME --uninstall [--scope user|project]"},
		short: "hand an agent's hook event to the recorder",
		about: `Reads one hook event of Cursor, Windsurf Cascade or Claude Code, in JSON, from
the standard input, and hands it to affidavit-recorder. Agents run it: --install
writes their hook configuration, beside what is there already, and --uninstall
takes exactly that out again. If the program affidavit-hook lies beside this one,
agents run that: it does the same, and starts in a fraction of the time.

It never changes what the agent does: it prints nothing, always exits with 0, and
waits no longer than 20 ms for the recorder. An event is lost if the recorder isn't there. With
AFFIDAVIT_HOOK_DEBUG=1 in its environment it says why on the standard error.`,
		trusts: `Nothing. What an agent reports is the vendor's assertion, unless the release
says that the agent is measured.`,
		examples: `  affidavit record hook --agent cursor --install
  affidavit record hook --agent claude-code --install --scope project
  affidavit record hook --agent windsurf --uninstall
`,
		exits: map[int]string{exitGood: "always, for an event; the configuration was written, with --install and --uninstall"},
		setup: func(fs *pflag.FlagSet) func(*console, []string) (int, error) {
			agent := fs.String("agent", "", "`NAME` of the agent: "+strings.Join(hooks.Agents(), ", "))
			socket := fs.String("socket", send.Socket, "`PATH` of the recorder's socket")
			install := fs.Bool("install", false, "write the agent's hook configuration")
			uninstall := fs.Bool("uninstall", false, "remove what --install wrote")
			scope := fs.String("scope", hooks.ScopeUser, "`SCOPE` of the configuration: user (all projects) or project (this directory)")
			config := fs.String("config", "", "configuration `FILE`, instead of the agent's own place for the scope")
			return func(c *console, _ []string) (int, error) {
				if !*install && !*uninstall {
					if err := send.Event(send.Deadline, *socket, *agent, c.stdin); err != nil && os.Getenv(send.Debug) != "" {
						fmt.Fprintf(c.stderr, "affidavit record hook: %v\n", err)
					}
					return exitGood, nil
				}
				if *install && *uninstall {
					return 0, usagef("--install and --uninstall exclude each other")
				}
				if err := require(fs, "agent"); err != nil {
					return 0, err
				}
				base := "."
				if *scope == hooks.ScopeUser {
					var err error
					if base, err = os.UserHomeDir(); err != nil {
						return 0, err
					}
				}
				path, err := hooks.ConfigPath(*agent, *scope, base)
				if err != nil {
					return 0, usagef("%v", err)
				}
				if *config != "" {
					path = *config
				}
				command := ""
				if *install {
					self, err := os.Executable()
					if err != nil {
						return 0, err
					}
					s := *socket
					if !fs.Changed("socket") {
						s = "" // the default stays one place
					}
					command = hooks.Command(self, *agent, s)
				}
				if err := hooks.Install(*agent, path, command); err != nil {
					return 0, err
				}
				if *install {
					fmt.Fprintf(c.stdout, "%s: %s reports to the recorder\n", path, *agent)
				} else {
					fmt.Fprintf(c.stdout, "%s: %s no longer reports to the recorder\n", path, *agent)
				}
				return exitGood, nil
			}
		},
	}
}
