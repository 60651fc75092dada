// Package flags has a command's flags in groups, each with a title in the help.
package flags

import (
	"fmt"
	"io"

	"github.com/spf13/pflag"
)

// A Set is the flags of one command. Make it with [New].
type Set struct {
	*pflag.FlagSet
	groups []group
}

type group struct {
	title string
	flags *pflag.FlagSet
}

// New returns the flags of a command, none so far. It prints nothing by itself.
func New(command string) *Set {
	f := pflag.NewFlagSet(command, pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	return &Set{FlagSet: f}
}

// In begins a group. Flags are to be defined in what it returns, and appear in that order.
func (s *Set) In(title string) *pflag.FlagSet {
	f := pflag.NewFlagSet(title, pflag.ContinueOnError)
	f.SortFlags = false
	s.groups = append(s.groups, group{title, f})
	return f
}

// Parse parses the arguments of the command, by the flags of all groups. The error is pflag.ErrHelp if they ask for help.
func (s *Set) Parse(args []string) error {
	for _, g := range s.groups {
		s.AddFlagSet(g.flags)
	}
	return s.FlagSet.Parse(args)
}

// Help prints usage, and the flags group by group.
func (s *Set) Help(w io.Writer, usage string) {
	fmt.Fprint(w, usage)
	for _, g := range s.groups {
		fmt.Fprintf(w, "\n%s:\n%s", g.title, g.flags.FlagUsagesWrapped(100))
	}
}
