// Package kernel is every raw system call of Cairn behind Go functions: room and
// holes of files, whole-file locks, socket options, what a file system is, what identifies a file
// or block device, commands for SCSI devices. It is the only user of golang.org/x/sys.
//
// A function promises what the system call of its doc comment promises, with
// EINTR retried. Errors are system errors (syscall.Errno), wrapped at most in an
// *os.PathError; syscall.EOPNOTSUPP says that the file system or this operating
// system cannot. Numbers of ioctls and magics come from the Linux headers
// (linux/fs.h, linux/magic.h, scsi/sg.h).
package kernel

import "time"

// Identity is what tells whether a file or block device is the one seen before,
// and whether something wrote to it meanwhile. Times are Unix nanoseconds.
type Identity struct {
	Device  uint64 // the device node's number for a block device, else the file system's
	Inode   uint64 // zero for a block device
	Size    int64
	Mtime   int64
	Ctime   int64
	Block   bool   // a block device
	Boot    string // identity of the running boot
	DiskSeq uint64 // block device: the kernel's never reused disk number, 0 unknown
	Writes  uint64 // block device: writes plus discards completed since boot
}

// SCSICommand is one command for a SCSI device.
type SCSICommand struct {
	CDB     []byte // 6 to 16 bytes
	In, Out []byte // room for what comes, or what goes; not both
	Sense   []byte // room for the sense
	Limit   time.Duration
}

// SCSIAnswer is what came of it. Host and Driver are the kernel's own words
// (DID_… and DRIVER_… of scsi/scsi_status.h), 0 when the device was reached.
type SCSIAnswer struct {
	Status       uint8
	Host, Driver uint16
	SenseLength  int
	Residual     int // bytes of In or Out that were not moved
}
