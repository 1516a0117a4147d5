package guest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"
)

// From the kernel's include/uapi/linux/io_uring.h and ublk_cmd.h.
const (
	sysSetup, sysEnter   = 425, 426
	setupSQE128          = 1 << 10
	enterGetEvents       = 1
	ringRequests         = 0x10000000 // offset of the requests in the ring's file
	ringCompletions      = 0x8000000
	opCommand            = 46
	ublkGetFeatures      = 2<<30 | 32<<16 | 'u'<<8 | 0x13
	featureUserRecovery  = 1 << 3
	featureUserCopy      = 1 << 7
	requestBytes         = 128
	commandAt, addressAt = 48, 48 + 8
)

// ringParams is struct io_uring_params.
type ringParams struct {
	sqEntries, cqEntries, flags, threadCPU, threadIdle, features, wqFD uint32
	_                                                                  [3]uint32
	sq, cq                                                             struct {
		head, tail, mask, entries, a, b, c, _ uint32 // sq: flags, dropped, array; cq: overflow, cqes, flags
		_                                     uint64
	}
}

// ublkFeatures asks the control device for the feature bits of the driver. It is a
// command of io_uring, so a ring of one request is made for it.
func ublkFeatures(control *os.File) (features uint64, err error) {
	p := ringParams{flags: setupSQE128}
	ring, _, errno := syscall.Syscall(sysSetup, 1, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return 0, fmt.Errorf("io_uring_setup: %w", errno)
	}
	defer func() { err = errors.Join(err, syscall.Close(int(ring))) }()
	at := func(offset int64, length uint32) []byte {
		m, mapErr := syscall.Mmap(int(ring), offset, int(length), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_POPULATE)
		err = errors.Join(err, mapErr)
		return m
	}
	sq, cq, requests := at(0, p.sq.c+4*p.sqEntries), at(ringCompletions, p.cq.b+16*p.cqEntries), at(ringRequests, requestBytes*p.sqEntries)
	answer, mapErr := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err = errors.Join(err, mapErr); err != nil {
		return 0, err
	}
	requests[0] = opCommand
	binary.NativeEndian.PutUint32(requests[4:], uint32(control.Fd()))
	binary.NativeEndian.PutUint32(requests[8:], ublkGetFeatures)
	binary.NativeEndian.PutUint32(requests[commandAt:], ^uint32(0)) // no device
	binary.NativeEndian.PutUint16(requests[commandAt+6:], 8)        // length of the answer
	binary.NativeEndian.PutUint64(requests[addressAt:], uint64(uintptr(unsafe.Pointer(&answer[0]))))
	binary.NativeEndian.PutUint32(sq[p.sq.c:], 0)
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&sq[p.sq.tail])), 1)
	if _, _, errno := syscall.Syscall6(sysEnter, ring, 1, 1, enterGetEvents, 0, 0); errno != 0 {
		return 0, fmt.Errorf("io_uring_enter: %w", errno)
	}
	if atomic.LoadUint32((*uint32)(unsafe.Pointer(&cq[p.cq.tail]))) != 1 {
		return 0, errors.New("no completion came")
	}
	if result := int32(binary.NativeEndian.Uint32(cq[p.cq.b+8:])); result < 0 {
		return 0, fmt.Errorf("GET_FEATURES: %w", syscall.Errno(-result))
	}
	return binary.NativeEndian.Uint64(answer), nil
}

// The driver tells its features, and has those that let a server be replaced
// without losing the device, and do its own copying.
func TestUblkFeatures(t *testing.T) {
	inside(t)
	run(t, "modprobe ublk_drv && udevadm settle")
	control, err := os.OpenFile("/dev/ublk-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := control.Close(); err != nil {
			t.Error(err)
		}
	}()
	features, err := ublkFeatures(control)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("features %#x", features)
	if features&featureUserRecovery == 0 || features&featureUserCopy == 0 {
		t.Errorf("features %#x lack user recovery or user copy", features)
	}
}
