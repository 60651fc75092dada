//go:build !unix

package deliver

import "os/exec"

// There are no process groups here: what a command starts can outlive it.
func together(*exec.Cmd) {}
func end(*exec.Cmd)      {}
