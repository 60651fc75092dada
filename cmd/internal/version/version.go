// Package version says what a command was built from.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// commit is what a release build sets: it is the same for all who build a commit, while what the toolchain writes of the
// repository isn't there in builds from a copy.
var commit string

// Line returns one line without a newline: the command's name, the module's version, the commit, and the toolchain. It is
// what the Go toolchain wrote into the binary, or a release build set.
func Line(command string) string {
	info, _ := debug.ReadBuildInfo()
	return line(command, commit, info)
}

// line is Line of a binary's information, which is nil in one that was built without modules.
func line(command, released string, info *debug.BuildInfo) string {
	version, commit, changed := "(devel)", "", ""
	if released != "" {
		commit = " " + released
	}
	if info != nil {
		if info.Main.Version != "" {
			version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				commit = " " + s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				changed = " with changes"
			}
		}
	}
	return fmt.Sprintf("%s %s%s%s (%s, %s/%s)", command, version, commit, changed, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
