package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

func completionCommand() *command {
	return &command{
		name:  "completion",
		usage: []string{"bash|zsh|fish"},
		short: "print a script that completes commands in a shell",
		about: `Prints a script by which the shell completes commands and their flags, made of the
same table as their help pages. It runs nothing when it completes, and holds no names of
files.`,
		trusts: `Nothing.`,
		examples: `  affidavit completion bash > ~/.local/share/bash-completion/completions/affidavit
  affidavit completion zsh > "${fpath[1]}/_affidavit"
  affidavit completion fish > ~/.config/fish/completions/affidavit.fish
`,
		exits:   map[int]string{exitGood: "the script was printed"},
		minArgs: 1, maxArgs: 1,
		setup: func(*pflag.FlagSet) func(*console, []string) (int, error) {
			return func(c *console, args []string) (int, error) {
				print, ok := map[string]func(io.Writer){"bash": completeBash, "zsh": completeZsh, "fish": completeFish}[args[0]]
				if !ok {
					return 0, usagef("shell %q: want bash, zsh or fish", args[0])
				}
				print(c.stdout)
				return exitGood, nil
			}
		},
	}
}

// firstWords returns the first words of all commands, and the second ones of those that
// have two, by the first.
func firstWords() (first []string, second map[string][]string) {
	second = make(map[string][]string)
	for _, cmd := range commands() {
		words := strings.Fields(cmd.name)
		if !slices.Contains(first, words[0]) {
			first = append(first, words[0])
		}
		if len(words) > 1 {
			second[words[0]] = append(second[words[0]], words[1])
		}
	}
	return first, second
}

// topics are what help explains.
func topics() (names []string) {
	for _, r := range roleManuals {
		names = append(names, r.name)
	}
	first, _ := firstWords()
	return append(names, first...)
}

// shellQuoted is s as one word of bash and zsh.
func shellQuoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func completeBash(w io.Writer) {
	first, second := firstWords()
	fmt.Fprintf(w, `# bash completion for affidavit, by "affidavit completion bash"
_affidavit() {
	local cur=${COMP_WORDS[COMP_CWORD]} cmd=${COMP_WORDS[1]} at=2 words=
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		COMPREPLY=($(compgen -W %s -- "$cur"))
		return
	fi
	case $cmd in
`, shellQuoted(strings.Join(first, " ")))
	for _, name := range first {
		if len(second[name]) > 0 {
			fmt.Fprintf(w, "\t%s) words=%s; cmd=\"$cmd ${COMP_WORDS[2]}\"; at=3 ;;\n", name, shellQuoted(strings.Join(second[name], " ")))
		}
	}
	fmt.Fprintf(w, "\thelp) words=%s ;;\n\tcompletion) words='bash zsh fish' ;;\n", shellQuoted(strings.Join(topics(), " ")))
	io.WriteString(w, `	esac
	if [ -n "$words" ] && [ "$COMP_CWORD" -eq 2 ]; then
		COMPREPLY=($(compgen -W "$words" -- "$cur"))
		return
	fi
	case $cur in
	-*) ;;
	*) return ;; # the shell's own completion of file names
	esac
	case $cmd in
`)
	for _, cmd := range commands() {
		var flags []string
		fs, _ := cmd.flags()
		fs.VisitAll(func(f *pflag.Flag) { flags = append(flags, "--"+f.Name) })
		fmt.Fprintf(w, "\t%s) words=%s ;;\n", shellQuoted(cmd.name), shellQuoted(strings.Join(flags, " ")))
	}
	io.WriteString(w, `	esac
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _affidavit affidavit
`)
}

func completeZsh(w io.Writer) {
	first, second := firstWords()
	shorts := make(map[string]string)
	for _, cmd := range commands() {
		shorts[strings.Fields(cmd.name)[0]] = cmd.short
	}
	io.WriteString(w, `#compdef affidavit
# zsh completion for affidavit, by "affidavit completion zsh"
_affidavit() {
	local -a commands
	commands=(
`)
	for _, name := range first {
		fmt.Fprintf(w, "\t\t%s\n", shellQuoted(name+":"+shorts[name]))
	}
	io.WriteString(w, `	)
	if (( CURRENT == 2 )); then
		_describe command commands
		return
	fi
	local cmd=$words[2]
	case $cmd in
`)
	for _, name := range first {
		if len(second[name]) > 0 {
			fmt.Fprintf(w, "\t%s)\n\t\tif (( CURRENT == 3 )); then compadd %s; return; fi\n\t\tcmd=\"$cmd $words[3]\"; shift words; (( CURRENT-- )) ;;\n", name, strings.Join(second[name], " "))
		}
	}
	fmt.Fprintf(w, "\thelp) compadd %s; return ;;\n\tcompletion) compadd bash zsh fish; return ;;\n", strings.Join(topics(), " "))
	io.WriteString(w, `	esac
	shift words; (( CURRENT-- ))
	case $cmd in
`)
	// In a specification of _arguments brackets and colons have a meaning.
	spec := strings.NewReplacer(`\`, `\\`, "[", `\[`, "]", `\]`, ":", `\:`)
	for _, cmd := range commands() {
		fmt.Fprintf(w, "\t%s) _arguments", shellQuoted(cmd.name))
		fs, _ := cmd.flags()
		fs.VisitAll(func(f *pflag.Flag) {
			value, text := flagText(f)
			s := "--" + f.Name + "[" + spec.Replace(text) + "]"
			if value != "" {
				s += ":" + spec.Replace(value) + ":"
				if value == "FILE" || value == "DIR" {
					s += "_files"
				}
			}
			if f.Value.Type() == "stringArray" {
				s = "*" + s
			}
			fmt.Fprintf(w, " %s", shellQuoted(s))
		})
		fmt.Fprintf(w, " '*:file:_files' ;;\n")
	}
	io.WriteString(w, "\tesac\n}\n_affidavit \"$@\"\n")
}

func completeFish(w io.Writer) {
	io.WriteString(w, "# fish completion for affidavit, by \"affidavit completion fish\"\n")
	first, second := firstWords()
	for _, name := range first {
		short := ""
		for _, cmd := range commands() {
			if strings.Fields(cmd.name)[0] == name {
				short = cmd.short
			}
		}
		fmt.Fprintf(w, "complete -c affidavit -n __fish_use_subcommand -f -a %s -d %s\n", name, fishQuoted(short))
		if len(second[name]) > 0 {
			fmt.Fprintf(w, "complete -c affidavit -n '__fish_seen_subcommand_from %s' -a %s\n", name, fishQuoted(strings.Join(second[name], " ")))
		}
	}
	fmt.Fprintf(w, "complete -c affidavit -n '__fish_seen_subcommand_from help' -f -a %s\n", fishQuoted(strings.Join(topics(), " ")))
	fmt.Fprintf(w, "complete -c affidavit -n '__fish_seen_subcommand_from completion' -f -a 'bash zsh fish'\n")
	for _, cmd := range commands() {
		fs, _ := cmd.flags()
		name := strings.Fields(cmd.name)[0]
		fs.VisitAll(func(f *pflag.Flag) {
			value, text := flagText(f)
			takes := ""
			if value != "" {
				takes = " -r"
			}
			fmt.Fprintf(w, "complete -c affidavit -n '__fish_seen_subcommand_from %s' -l %s%s -d %s\n", name, f.Name, takes, fishQuoted(text))
		})
	}
}

// fishQuoted is s as one word of fish, which knows two escapes in quotes.
func fishQuoted(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(s) + "'"
}
