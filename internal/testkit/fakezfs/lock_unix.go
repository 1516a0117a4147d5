//go:build linux || darwin || freebsd || netbsd || openbsd

package fakezfs

import (
	"os"
	"syscall"
)

// The ways to lock a file.
const (
	shared    = syscall.LOCK_SH
	exclusive = syscall.LOCK_EX
	atOnce    = syscall.LOCK_NB
)

func lockFile(f *os.File, how int) error { return syscall.Flock(int(f.Fd()), how) }
