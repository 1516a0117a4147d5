package kernel

import (
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The generic SCSI interface of the kernel's include/uapi/scsi/sg.h, version 3.
const (
	sgIO              = 0x2285
	sgSetReservedSize = 0x2275
	sgGetReservedSize = 0x2272
	sgNone            = -1
	sgToDevice        = -2
	sgFromDevice      = -3
)

// sgHeader is struct sg_io_hdr.
type sgHeader struct {
	interfaceID, direction             int32
	commandLength, maxSense            uint8
	vectors                            uint16
	dataLength                         uint32
	data, command, sense               unsafe.Pointer
	timeout, flags                     uint32
	packID                             int32
	user                               unsafe.Pointer
	status, masked, message, senseUsed uint8
	host, driver                       uint16
	residual                           int32
	duration, info                     uint32
}

// OpenSCSI opens a generic SCSI node for us alone: syscall.EBUSY when somebody else
// has it open. The error is a system error for what is not such a node.
func OpenSCSI(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_EXCL|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	// Non-blocking only while opening; a command blocks until it has ended.
	if err := unix.SetNonblock(fd, false); err != nil {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ReserveSCSI asks for a buffer of the kernel for transfers of n bytes and returns
// how long it became.
func ReserveSCSI(f *os.File, n int) (int, error) {
	if err := unix.IoctlSetPointerInt(int(f.Fd()), sgSetReservedSize, n); err != nil {
		return 0, err
	}
	return unix.IoctlGetInt(int(f.Fd()), sgGetReservedSize)
}

// SCSI sends one command and waits for its end (SG_IO). The kernel aborts it when
// it took longer than its limit.
func SCSI(f *os.File, c SCSICommand) (SCSIAnswer, error) {
	var pins runtime.Pinner
	defer pins.Unpin()
	at := func(b []byte) unsafe.Pointer {
		if len(b) == 0 {
			return nil
		}
		p := unsafe.Pointer(unsafe.SliceData(b))
		pins.Pin(p)
		return p
	}
	h := &sgHeader{interfaceID: 'S', direction: sgNone, commandLength: uint8(len(c.CDB)), command: at(c.CDB),
		maxSense: uint8(min(len(c.Sense), 252)), sense: at(c.Sense), timeout: uint32(min(c.Limit/time.Millisecond, 1<<31))}
	switch {
	case len(c.In) > 0:
		h.direction, h.dataLength, h.data = sgFromDevice, uint32(len(c.In)), at(c.In)
	case len(c.Out) > 0:
		h.direction, h.dataLength, h.data = sgToDevice, uint32(len(c.Out)), at(c.Out)
	}
	if err := withoutSignals(func() syscall.Errno {
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), sgIO, uintptr(unsafe.Pointer(h)))
		return errno
	}); err != nil {
		return SCSIAnswer{}, err
	}
	return SCSIAnswer{Status: h.status, Host: h.host, Driver: h.driver, SenseLength: int(h.senseUsed), Residual: int(h.residual)}, nil
}

// withoutSignals runs a system call on a thread that takes no signals. One that
// arrives in SG_IO makes the kernel leave the command under way and, as Go's
// signals restart system calls, send it a second time: a record would be on the
// tape twice.
func withoutSignals(call func() syscall.Errno) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return err
	}
	errno := call()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
		return err
	}
	if errno != 0 {
		return errno
	}
	return nil
}
