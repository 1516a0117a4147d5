package kernel

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// MemoryDisk makes a block device of size bytes that lies in memory: a loop device
// over an anonymous file. It is gone when the file, and whatever mounted it, are
// closed. Needs root and a free loop device.
func MemoryDisk(size int64) (*os.File, error) {
	backing, err := anonymous(size)
	if err != nil {
		return nil, err
	}
	defer backing.Close() //nolint:errcheck // the loop device holds it
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close() //nolint:errcheck // nothing was written
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		d, err := bind(fmt.Sprintf("/dev/loop%d", number), backing)
		if errors.Is(err, syscall.EBUSY) { // somebody else was faster
			continue
		}
		return d, err
	}
}

func anonymous(size int64) (*os.File, error) {
	fd, err := unix.MemfdCreate("cairn", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func bind(path string, backing *os.File) (*os.File, error) {
	d, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	c := unix.LoopConfig{Fd: uint32(backing.Fd())}
	c.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	copy(c.Info.File_name[:], "cairn")
	if err := unix.IoctlLoopConfigure(int(d.Fd()), &c); err != nil {
		return nil, errors.Join(os.NewSyscallError("LOOP_CONFIGURE", err), d.Close())
	}
	return d, nil
}
