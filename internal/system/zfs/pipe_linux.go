package zfs

import (
	"os"
	"syscall"
)

// pipeBytes is what an ordinary user may make a pipe: half as many switches
// between the programs as with the usual 64 KiB cost CPU time.
const pipeBytes = 1 << 20

// enlarge makes the pipe to a program hold more. Where it is refused the pipe works
// as it is.
func enlarge(pipe any) {
	f, ok := pipe.(*os.File)
	if !ok {
		return
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	const setPipeSize = 1031 // F_SETPIPE_SZ of linux/fcntl.h
	_ = raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, pipeBytes)
	})
}
