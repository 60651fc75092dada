package session

import "testing"

func TestSwap(t *testing.T) {
	const head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	for in, want := range map[string]string{
		"": "", head: "", head + "/dev/zram0 partition 1 0 100\n": "", head + "/dev/sda2 partition 1 0 -2\n": "/dev/sda2",
		head + "/dev/zram0 partition 1 0 100\n/swapfile file 1 0 -2\n": "/swapfile",
	} {
		if got := swapArea([]byte(in)); got != want {
			t.Errorf("%q: got %q", in, got)
		}
	}
}
