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
//   - With SyncCalls, mounted by root on Linux 6.18 or later, sync(2) and syncfs(2)
//     do the same within a bounded time, and umount(2) returns when the last index
//     is on tape.
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
// syncfs(2) do not reach a FUSE file system that an ordinary user mounted, or that
// stands on an older kernel. A signal interrupts sync(2), no other sync.
//
// The attributes are listed in docs/guide/tape-mount.md.
package ltfsmount

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"cairn"
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape"
)

// Options choose how a tape is shown.
type Options struct {
	Drive      string // the drive's name, for the mount table and for unmounting
	Version    string // of this program
	UID, GID   uint32 // whose everything is
	FileMode   uint32 // permissions that files show; 0: 0644
	DirMode    uint32 // permissions that folders show; 0: 0755
	ReadOnly   bool
	AllowOther bool          // users other than the mounting one may use it
	SyncCalls  bool          // sync(2), syncfs(2) and umount(2) wait for the tape, where the kernel can (root only)
	SyncLimit  time.Duration // how long sync(2) waits; 0: DefaultSyncLimit
	Logger     *slog.Logger  // nil: none
}

// DefaultSyncLimit bounds sync(2), which the whole machine may wait for.
const DefaultSyncLimit = time.Minute

// Mount is a mounted tape.
type Mount struct {
	fs     *tape.FS
	opt    Options
	at     *attachment
	served chan struct{} // closed when the last request was answered
}

// Largest single request; the kernel's own limit is 1 MiB.
const maxRequest = 1 << 20

// Start mounts a file system on a folder. The caller closes the file system when
// Wait has returned.
func Start(f *tape.FS, dir string, o Options) (*Mount, error) {
	o = o.withDefaults()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, mountFailure(dir, err)
	}
	m := &Mount{fs: f, opt: o, served: make(chan struct{})}
	keep := 10 * time.Second // all changes come through the kernel
	options := &fusefs.Options{EntryTimeout: &keep, AttrTimeout: &keep, RootStableAttr: &fusefs.StableAttr{Ino: f.Root().Attr().UID, Mode: syscall.S_IFDIR}}
	options.MountOptions = fuse.MountOptions{MaxWrite: maxRequest, MaxReadAhead: maxRequest, IgnoreSecurityLabels: true,
		ExtraCapabilities: fuse.CAP_HANDLE_KILLPRIV_V2, // no file has privileges to take away: else each write asks for them first
		Logger:            slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug)}
	server := fuse.NewProtocolServer(fusefs.NewNodeFS(&node{m: m, n: f.Root()}, options), &options.MountOptions)
	if m.at, err = attach(dir, o); err != nil {
		return nil, mountFailure(dir, err)
	}
	d := &device{fd: int(m.at.dev.Fd()), ps: server, syncAll: m.syncAll, unmounts: m.beforeUnmount}
	go func() { // until it is unmounted, which Wait waits for
		d.serve()
		_ = m.at.dev.Close()
		close(m.served)
	}()
	return m, nil
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.SyncLimit == 0 {
		o.SyncLimit = DefaultSyncLimit
	}
	if o.FileMode == 0 {
		o.FileMode = 0o644
	}
	if o.DirMode == 0 {
		o.DirMode = 0o755
	}
	return o
}

// syncAll is sync(2) and syncfs(2). It waits for a bounded time: the whole machine
// may be waiting with it. The index it asked for is written all the same.
func (m *Mount) syncAll(ctx context.Context) syscall.Errno {
	bounded, cancel := context.WithTimeout(ctx, m.opt.SyncLimit)
	defer cancel()
	err := m.fs.Sync(bounded, syncpolicy.Manual, false)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		return syscall.EINTR
	case bounded.Err() != nil:
		m.opt.Logger.Warn("a sync of all file systems did not wait any longer for the tape", "tape", m.opt.Drive, "limit", m.opt.SyncLimit)
		return syscall.EIO
	}
	m.opt.Logger.Warn("a sync of all file systems failed on the tape", "tape", m.opt.Drive, "error", err)
	return errnoOf(err)
}

// beforeUnmount puts everything on tape while umount(2) waits. A failure is tried
// again, and told, by closing the file system.
func (m *Mount) beforeUnmount() { _ = m.fs.Sync(context.Background(), syncpolicy.Unmount, true) }

// SyncCalls reports whether sync(2), syncfs(2) and umount(2) reach the tape.
func (m *Mount) SyncCalls() bool { return m.at.sync }

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
func (m *Mount) Wait() { <-m.served }

// Unmount takes the file system away; KindBusy while somebody uses it.
func (m *Mount) Unmount() error {
	if err := m.at.detach(); err != nil {
		return &cairn.Error{Op: "unmount", Subject: m.at.dir, Kind: cairn.KindBusy, Err: err, Hint: "end the programs that use it"}
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
