//go:build unix

package deliver

import (
	"os/exec"
	"syscall"
)

// together makes cmd lead a process group, all of which is killed when its time is up.
func together(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// end kills what cmd has left behind. Something has, so that the group's number can't be another's by now.
func end(cmd *exec.Cmd) { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
