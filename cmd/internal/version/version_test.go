package version

import (
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

// TestLine fails if the commit, or that the tree was changed after it, isn't said.
func TestLine(t *testing.T) {
	tail := " (" + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")"
	for _, tt := range []struct {
		name string
		info *debug.BuildInfo
		want string
	}{
		{"nothing known", nil, "affidavit-log (devel)"},
		{"version only", &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, "affidavit-log v1.2.3"},
		{"changed checkout", &debug.BuildInfo{Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "c0ffee"}, {Key: "vcs.modified", Value: "true"},
		}}, "affidavit-log (devel) c0ffee with changes"},
		{"clean checkout", &debug.BuildInfo{Settings: []debug.BuildSetting{
			{Key: "vcs.revision", Value: "c0ffee"}, {Key: "vcs.modified", Value: "false"},
		}}, "affidavit-log (devel) c0ffee"},
	} {
		if got := line("affidavit-log", "", tt.info); got != tt.want+tail {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want+tail)
		}
	}
	if got := line("affidavit-log", "c0ffee", nil); got != "affidavit-log (devel) c0ffee"+tail {
		t.Errorf("a release: %q", got)
	}
	if got := Line("affidavit-log"); !strings.HasPrefix(got, "affidavit-log ") || !strings.HasSuffix(got, tail) {
		t.Errorf("of this binary: %q", got)
	}
}
