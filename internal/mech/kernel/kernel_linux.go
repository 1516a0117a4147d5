package kernel

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Datasync makes data and size durable (fdatasync).
func Datasync(f *os.File) error {
	return retry(func() error { return unix.Fdatasync(int(f.Fd())) })
}

// Allocate reserves room without changing size or content.
func Allocate(f *os.File, off, length int64) error {
	return fallocate(f, unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// Punch frees the range's room; it reads as zeroes afterwards.
func Punch(f *os.File, off, length int64) error {
	return fallocate(f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

// Zero makes the range read as zeroes and keeps its room.
func Zero(f *os.File, off, length int64) error {
	return fallocate(f, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, off, length)
}

func fallocate(f *os.File, mode uint32, off, length int64) error {
	return retry(func() error { return unix.Fallocate(int(f.Fd()), mode, off, length) })
}

// Data finds the next data at or after off and its end; both are size when only a
// hole follows. Where holes cannot be told, all is data.
func Data(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return size, size, nil
	case errors.Is(err, syscall.EINVAL):
		return off, size, nil
	case err != nil:
		return 0, 0, err
	}
	end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return min(start, size), min(end, size), nil
}

// Space tells the bytes free for this user and in all, on the file system of path.
func Space(path string) (free, total int64, err error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(path, &st) }); err != nil {
		return 0, 0, err
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Blocks) * st.Bsize, nil
}

var magics = map[uint32]string{
	0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0xf2f52010: "f2fs", 0xca451a4e: "bcachefs", 0x2fc12fc1: "zfs",
	0x01021994: "tmpfs", 0x858458f6: "ramfs", 0x6969: "nfs", 0x794c7630: "overlay", 0xff534d42: "cifs", 0xfe534d42: "smb",
	0x517b: "smb", 0x00c36400: "ceph", 0x65735546: "fuse", 0x01021997: "9p", 0x73717368: "squashfs", 0x4d44: "vfat",
}

// FileSystem names the file system that path lies on; an unknown one by its magic
// number in hex.
func FileSystem(path string) (string, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(path, &st) }); err != nil {
		return "", err
	}
	if name := magics[uint32(st.Type)]; name != "" {
		return name, nil
	}
	return fmt.Sprintf("0x%x", uint32(st.Type)), nil
}

// Lock takes the whole-file lock (flock) or fails at once with
// syscall.EWOULDBLOCK. It ends when f is closed or the process ends.
func Lock(f *os.File) error {
	return retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
}

// FreeBind lets a socket be bound to an address that no interface has (IP_FREEBIND
// of ip(7), which the kernel heeds for IPv6 sockets too).
func FreeBind(c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1) })
	return errors.Join(err, failed)
}

// DeviceSize is the size of an open block device in bytes.
func DeviceSize(f *os.File) (int64, error) {
	var size uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, errno
	}
	return int64(size), nil
}

// DeviceSector is the logical sector size of an open block device in bytes.
func DeviceSector(f *os.File) (int, error) {
	return unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
}

// OpenDevice opens a block device for us alone: syscall.EBUSY when it is mounted
// or otherwise in use (O_EXCL).
func OpenDevice(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|syscall.O_EXCL, 0)
}

// OpenDirect opens the file or block device that f is once more, past the page
// cache (O_DIRECT of open(2)): syscall.EINVAL where the file system cannot. What
// goes through both is coherent: the kernel writes back and drops the pages in
// between.
func OpenDirect(f *os.File) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR|unix.O_DIRECT, 0)
}

// Identify describes an open file or block device.
func Identify(f *os.File) (Identity, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(int(f.Fd()), &st) }); err != nil {
		return Identity{}, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Identity{}, err
	}
	id := Identity{Device: st.Dev, Inode: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(), Boot: strings.TrimSpace(string(boot))}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return id, nil
	}
	id.Block, id.Device, id.Inode, id.Mtime, id.Ctime = true, st.Rdev, 0, 0, 0
	if id.Size, err = DeviceSize(f); err != nil {
		return Identity{}, err
	}
	sys := fmt.Sprintf("/sys/dev/block/%d:%d/", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	id.DiskSeq, _ = readNumber(sys+"diskseq", 0) // absent on partitions and old kernels: unknown
	writes, err := readNumber(sys+"stat", 4)
	if err != nil {
		return Identity{}, err
	}
	discards, _ := readNumber(sys+"stat", 11) // absent on old kernels
	id.Writes = writes + discards
	return id, nil
}

// readNumber reads the field (from 0) of a sysfs file of decimal numbers.
func readNumber(path string, field int) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(text))
	if field >= len(fields) {
		return 0, fmt.Errorf("%s has %d fields", path, len(fields))
	}
	return strconv.ParseUint(fields[field], 10, 64)
}
