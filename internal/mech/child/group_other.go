//go:build !unix

package child

import "os/exec"

func ownGroup(*exec.Cmd) {}

// terminate has no gentle form here; kill follows after the grace.
func terminate(*exec.Cmd) {}

func kill(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
