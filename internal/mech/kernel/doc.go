// Package kernel is every raw system call of Cairn behind Go functions: room and
// holes of files, whole-file locks, socket options, what a file system is, what identifies a file
// or block device. It is the only user of golang.org/x/sys.
//
// A function promises what the system call of its doc comment promises, with
// EINTR retried. Errors are system errors (syscall.Errno), wrapped at most in an
// *os.PathError; syscall.EOPNOTSUPP says that the file system or this operating
// system cannot. Numbers of ioctls and magics come from the Linux headers
// (linux/fs.h, linux/magic.h).
package kernel

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
