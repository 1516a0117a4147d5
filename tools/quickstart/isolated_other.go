//go:build unix && !linux

package main

import "syscall"

// isolated gives a child its own process group, so that Ctrl-C reaches it through
// us and in order.
func isolated() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
