package monitor

import (
	"maps"
	"slices"
)

// Kinds returns all kinds of findings that there are, sorted.
func Kinds() []Kind { return slices.Sorted(maps.Keys(kinds)) }

// Class returns the class of findings of the kind, "" if there is no such kind.
func (k Kind) Class() Class { return kinds[k].class }

// Severity returns the severity of findings of the kind, "" if there is no such kind.
func (k Kind) Severity() Severity { return kinds[k].severity }
