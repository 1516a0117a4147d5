package main

import "syscall"

// isolated gives a child its own process group, so that Ctrl-C reaches it through
// us and in order, and has the kernel end it should we be killed.
func isolated() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
