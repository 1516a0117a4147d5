//go:build unix

package child

import (
	"os/exec"
	"syscall"
)

// ownGroup lets the program lead a process group of its own.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// terminate asks the whole group to end. A stopped process handles TERM only when
// it goes on.
func terminate(cmd *exec.Cmd) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // fails when it has ended: as wanted
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT)
}

// kill ends the whole group.
func kill(cmd *exec.Cmd) {
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}
