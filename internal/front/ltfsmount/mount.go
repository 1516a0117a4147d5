//go:build linux

// Package ltfsmount shows a tape as a mounted file system, through FUSE. It turns
// the kernel's requests into calls of system/tape's FS and adds LTFS's virtual
// extended attributes; what a sync promises is decided and kept there.
//
// # What it promises
//
//   - fsync of a file or folder returns when data and an index that names it are on
//     tape. With close-sync a close(2) does the same, and tells its error.
//   - The attribute user.ltfs.sync, written or read, syncs before it returns.
//   - Nothing is cached that a lost write could belie: what is read after a full
//     tape refused bytes is what the tape has.
//   - The attribute user.ltfs.vendor.cairn.atRisk says what a power cut now would
//     lose.
//
// # What can go wrong
//
// No /dev/fuse, or no right to mount: KindUnsupported or KindPermission. Owners
// and modes other than the read-only flag are not part of LTFS: setting them
// succeeds and is forgotten, hard links and device files are refused. sync(2) and
// syncfs(2) do not reach an ordinary FUSE file system. A signal does not interrupt
// a sync that was begun.
//
// The attributes are listed in docs/guide/tape-mount.md.
package ltfsmount

import (
	"context"
	"errors"
	"io/fs"
	"log"
	"os"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"cairn"
	"cairn/internal/system/tape"
)

// Options choose how a tape is shown.
type Options struct {
	Drive    string // the drive's name, for the mount table and for unmounting
	Version  string // of this program
	UID, GID uint32 // whose everything is
	ReadOnly bool
	Log      *log.Logger // what the FUSE library has to say; nil: nothing
}

// Mount is a mounted tape.
type Mount struct {
	fs     *tape.FS
	opt    Options
	dir    string
	server *fuse.Server
}

// Largest single request; the kernel's own limit is 1 MiB.
const maxRequest = 1 << 20

// Start mounts a file system on a folder. The caller closes the file system when
// Wait has returned.
func Start(f *tape.FS, dir string, o Options) (*Mount, error) {
	m := &Mount{fs: f, opt: o, dir: dir}
	keep := 10 * time.Second // all changes come through the kernel
	options := &fusefs.Options{EntryTimeout: &keep, AttrTimeout: &keep, RootStableAttr: &fusefs.StableAttr{Ino: f.Root().Attr().UID, Mode: syscall.S_IFDIR}}
	options.MountOptions = fuse.MountOptions{
		AllowOther: os.Geteuid() == 0, DirectMount: true, DirectMountFlags: syscall.MS_NOSUID | syscall.MS_NODEV,
		FsName: "ltfs:" + o.Drive, Name: "ltfs", MaxWrite: maxRequest, MaxReadAhead: maxRequest, IgnoreSecurityLabels: true,
		Options: []string{"default_permissions"}, Logger: o.Log,
	}
	if o.ReadOnly {
		options.DirectMountFlags |= syscall.MS_RDONLY
		if os.Geteuid() != 0 { // the helper wants it as a word, the kernel as a flag
			options.Options = append(options.Options, "ro")
		}
	}
	server, err := fusefs.Mount(dir, &node{m: m, n: f.Root()}, options)
	if err != nil {
		return nil, mountFailure(dir, err)
	}
	m.server = server
	return m, nil
}

func mountFailure(dir string, err error) error {
	e := &cairn.Error{Op: "mount on", Subject: dir, Kind: cairn.KindIO, Err: err}
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		e.Kind, e.Hint = cairn.KindPermission, "mount as root, or install fusermount3"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENODEV):
		e.Kind, e.Hint = cairn.KindUnsupported, "it needs /dev/fuse and an existing folder; as another user than root also fusermount3"
	}
	return e
}

// Wait returns when it was unmounted, by whomever.
func (m *Mount) Wait() { m.server.Wait() }

// Unmount takes the file system away; KindBusy while somebody uses it.
func (m *Mount) Unmount() error {
	if err := m.server.Unmount(); err != nil {
		return &cairn.Error{Op: "unmount", Subject: m.dir, Kind: cairn.KindBusy, Err: err, Hint: "end the programs that use it"}
	}
	return nil
}

// errnoOf is an error in the kernel's words. Only what the file system itself
// refuses has a number of its own: an error below is an I/O error, whatever it
// wraps.
func errnoOf(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	var e *cairn.Error
	if errors.As(err, &e) {
		if errno, ok := e.Err.(syscall.Errno); ok { //nolint:errorlint // one that is wrapped deeper is the drive's
			return errno
		}
	}
	switch cairn.KindOf(err) {
	case cairn.KindSpace:
		return syscall.ENOSPC
	case cairn.KindPermission:
		return syscall.EROFS
	}
	return syscall.EIO
}

// lasting is a request's context without its interruption: the kernel interrupts
// for every signal, and a close or write that says EINTR breaks programs.
func lasting(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
