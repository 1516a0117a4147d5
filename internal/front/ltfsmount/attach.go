//go:build linux

package ltfsmount

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"cairn/internal/mech/kernel"
)

// attachment is an open /dev/fuse whose file system is mounted on a folder.
type attachment struct {
	dev  *os.File
	dir  string
	sync bool // of the type fuseblk: sync(2), syncfs(2) and umount(2) reach us
}

// attach mounts on a folder: as root by mount(2), else through fusermount3.
func attach(dir string, o Options) (*attachment, error) {
	if os.Geteuid() != 0 {
		return attachByProgram(dir, o)
	}
	if o.SyncCalls {
		a, err := attachSyncable(dir, o)
		if err == nil {
			return a, nil
		}
		o.Logger.Warn("sync(2) will not reach the tape: it could not be mounted as the type fuseblk", "folder", dir, "error", err)
	}
	dev, err := mountFUSE("ltfs:"+o.Drive, dir, "fuse.ltfs", o, "")
	if err != nil {
		return nil, err
	}
	return &attachment{dev: dev, dir: dir}, nil
}

// attachSyncable mounts as the type fuseblk, the only one whose sync(2) Linux
// hands on (since 6.18; facts of the kernel in docs/decisions/1801). It wants a
// block device to stand on, which is never read.
func attachSyncable(dir string, o Options) (*attachment, error) {
	const pageBytes = 4096
	disk, err := kernel.MemoryDisk(pageBytes)
	if err != nil {
		return nil, err
	}
	defer disk.Close() //nolint:errcheck // the mount holds it
	dev, err := mountFUSE(disk.Name(), dir, "fuseblk.ltfs", o, ",blksize="+strconv.Itoa(pageBytes))
	if err != nil {
		return nil, err
	}
	return &attachment{dev: dev, dir: dir, sync: true}, nil
}

func mountFUSE(source, dir, kind string, o Options, more string) (*os.File, error) {
	dev, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	flags := uintptr(syscall.MS_NOSUID | syscall.MS_NODEV)
	if o.ReadOnly {
		flags |= syscall.MS_RDONLY
	}
	// Fd makes reads of the device block a thread, which costs less than the
	// runtime's poller when every request is waited for.
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,default_permissions,max_read=%d", dev.Fd(), syscall.S_IFDIR, os.Geteuid(), os.Getegid(), maxRequest)
	if o.AllowOther {
		options += ",allow_other"
	}
	if err := syscall.Mount(source, dir, kind, flags, options+more); err != nil {
		return nil, errors.Join(os.NewSyscallError("mount", err), dev.Close())
	}
	return dev, nil
}

// attachByProgram lets the set-uid program mount, which hands /dev/fuse over
// through a socket.
func attachByProgram(dir string, o Options) (*attachment, error) {
	program, err := exec.LookPath("fusermount3")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", syscall.EPERM, err)
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "fusermount3"), os.NewFile(uintptr(pair[1]), "fusermount3")
	defer ours.Close()   //nolint:errcheck // what comes through it counts
	defer theirs.Close() //nolint:errcheck // as above
	words := []string{"default_permissions", "nosuid", "nodev", "subtype=ltfs", "fsname=" + strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace("ltfs:"+o.Drive), "max_read=" + strconv.Itoa(maxRequest)}
	if o.ReadOnly {
		words = append(words, "ro")
	}
	if o.AllowOther {
		words = append(words, "allow_other")
	}
	cmd := exec.Command(program, "-o", strings.Join(words, ","), "--", dir)
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	cmd.ExtraFiles = []*os.File{theirs}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	dev, err := receiveFile(ours)
	if err != nil {
		return nil, err
	}
	return &attachment{dev: dev, dir: dir}, nil
}

// receiveFile takes one open file from a socket.
func receiveFile(socket *os.File) (*os.File, error) {
	c, err := net.FileConn(socket)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // what came through it counts
	unix, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("no unix socket")
	}
	control := make([]byte, syscall.CmsgSpace(4))
	_, n, _, _, err := unix.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("no open file came from fusermount3 (%w)", err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(fds[0]), "/dev/fuse"), nil
}

// detach unmounts; it fails while somebody uses the file system.
func (a *attachment) detach() error {
	err := syscall.Unmount(a.dir, 0)
	if !errors.Is(err, syscall.EPERM) {
		return err
	}
	if out, err := exec.Command("fusermount3", "-u", "--", a.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
