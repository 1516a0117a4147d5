//go:build linux

package ltfsmount

import (
	"context"
	"syscall"
	"time"

	fusefs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"cairn/internal/system/tape"
	"cairn/ltfs"
)

// node is a file, folder or link as the kernel knows it.
type node struct {
	fusefs.Inode
	m *Mount
	n *tape.Node
}

var _ = (interface {
	fusefs.NodeLookuper
	fusefs.NodeOpendirHandler
	fusefs.NodeGetattrer
	fusefs.NodeSetattrer
	fusefs.NodeCreater
	fusefs.NodeOpener
	fusefs.NodeMkdirer
	fusefs.NodeUnlinker
	fusefs.NodeRmdirer
	fusefs.NodeRenamer
	fusefs.NodeSymlinker
	fusefs.NodeReadlinker
	fusefs.NodeFsyncer
	fusefs.NodeStatfser
	fusefs.NodeGetxattrer
	fusefs.NodeSetxattrer
	fusefs.NodeRemovexattrer
	fusefs.NodeListxattrer
})((*node)(nil))

func (m *Mount) modeOf(a tape.Attr) uint32 {
	var mode uint32
	switch {
	case a.Dir:
		mode = syscall.S_IFDIR | m.opt.DirMode
	case a.Link:
		return syscall.S_IFLNK | 0o777
	default:
		mode = syscall.S_IFREG | m.opt.FileMode
	}
	if a.ReadOnly {
		mode &^= 0o222
	}
	return mode
}

func (n *node) fill(out *fuse.Attr, a tape.Attr) {
	out.Ino, out.Size, out.Blocks = a.UID, a.Size, (a.Size+511)/512
	out.Mode, out.Uid, out.Gid = n.m.modeOf(a), n.m.opt.UID, n.m.opt.GID
	out.Nlink = a.Links
	out.Blksize = uint32(n.m.fs.Tape().Label().BlockSize)
	out.Atime, out.Atimensec = kernelTime(a.Times.Access)
	out.Mtime, out.Mtimensec = kernelTime(a.Times.Modify)
	out.Ctime, out.Ctimensec = kernelTime(a.Times.Change)
}

func kernelTime(t ltfs.Timestamp) (sec uint64, nsec uint32) { return uint64(t.Sec), t.Nsec }

// enter makes the kernel's inode of a child.
func (n *node) enter(ctx context.Context, c *tape.Node, out *fuse.EntryOut) *fusefs.Inode {
	a := c.Attr()
	n.fill(&out.Attr, a)
	return n.NewInode(ctx, &node{m: n.m, n: c}, fusefs.StableAttr{Mode: n.m.modeOf(a) & syscall.S_IFMT, Ino: a.UID})
}

// Lookup finds a child.
func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	c, err := n.n.Lookup(name)
	if err != nil {
		return nil, errnoOf(err)
	}
	return n.enter(ctx, c, out), 0
}

// OpendirHandle opens a folder for reading.
func (n *node) OpendirHandle(context.Context, uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	return &folder{n: n}, 0, 0
}

// folder is an open folder: what it held when its reading began. The library calls
// it from one goroutine at a time.
type folder struct {
	n    *node
	list []tape.Entry // nil: not yet read
	next int
}

var _ = (interface {
	fusefs.FileReaddirenter
	fusefs.FileSeekdirer
})((*folder)(nil))

// Readdirent gives the next entry, nil behind the last one.
func (f *folder) Readdirent(context.Context) (*fuse.DirEntry, syscall.Errno) {
	if f.list == nil {
		f.list = f.n.n.List()
	}
	if f.next >= len(f.list) {
		return nil, 0
	}
	e := f.list[f.next]
	f.next++
	return &fuse.DirEntry{Name: e.Name, Ino: e.Attr.UID, Mode: f.n.m.modeOf(e.Attr), Off: uint64(f.next)}, 0
}

// Seekdir goes to behind an entry; at the beginning the folder is read anew.
func (f *folder) Seekdir(_ context.Context, off uint64) syscall.Errno {
	if off == 0 || f.list == nil {
		f.list = f.n.n.List()
	}
	f.next = int(min(off, uint64(len(f.list))))
	return 0
}

// Getattr tells size, times and mode.
func (n *node) Getattr(_ context.Context, _ fusefs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	n.fill(&out.Attr, n.n.Attr())
	return 0
}

// Setattr sets size, times and the read-only flag; owners are not stored.
func (n *node) Setattr(_ context.Context, _ fusefs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok {
		if err := n.n.Truncate(size); err != nil {
			return errnoOf(err)
		}
	}
	if mode, ok := in.GetMode(); ok {
		if readonly := mode&0o222 == 0; readonly != n.n.Attr().ReadOnly && !n.n.Attr().Link {
			if err := n.n.SetReadOnly(readonly); err != nil {
				return errnoOf(err)
			}
		}
	}
	access, setAccess := in.GetATime()
	modify, setModify := in.GetMTime()
	if setAccess || setModify {
		err := n.n.SetTimes(func(t *ltfs.Times) {
			if setAccess {
				t.Access = ltfs.TimestampOf(access)
			}
			if setModify {
				t.Modify = ltfs.TimestampOf(modify)
			}
			t.Change = ltfs.TimestampOf(time.Now())
		})
		if err != nil {
			return errnoOf(err)
		}
	}
	n.fill(&out.Attr, n.n.Attr())
	return 0
}

// Create makes and opens a file.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fusefs.Inode, fusefs.FileHandle, uint32, syscall.Errno) {
	c, err := n.n.Create(name)
	if err != nil {
		return nil, nil, 0, errnoOf(err)
	}
	if mode&0o222 == 0 {
		if err := c.SetReadOnly(true); err != nil {
			return nil, nil, 0, errnoOf(err)
		}
	}
	h, err := c.Open(flags&syscall.O_ACCMODE != syscall.O_RDONLY, false)
	if err != nil {
		return nil, nil, 0, errnoOf(err)
	}
	return n.enter(ctx, c, out), &file{h}, 0, 0
}

// Open opens a file.
func (n *node) Open(_ context.Context, flags uint32) (fusefs.FileHandle, uint32, syscall.Errno) {
	h, err := n.n.Open(flags&syscall.O_ACCMODE != syscall.O_RDONLY, flags&syscall.O_TRUNC != 0)
	if err != nil {
		return nil, 0, errnoOf(err)
	}
	if n.m.opt.ReadOnly {
		return &file{h}, fuse.FOPEN_KEEP_CACHE, 0
	}
	return &file{h}, 0, 0
}

// Mkdir makes a folder.
func (n *node) Mkdir(ctx context.Context, name string, _ uint32, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	c, err := n.n.Mkdir(name)
	if err != nil {
		return nil, errnoOf(err)
	}
	return n.enter(ctx, c, out), 0
}

// Symlink makes a symbolic link.
func (n *node) Symlink(ctx context.Context, target, name string, out *fuse.EntryOut) (*fusefs.Inode, syscall.Errno) {
	c, err := n.n.Symlink(name, target)
	if err != nil {
		return nil, errnoOf(err)
	}
	return n.enter(ctx, c, out), 0
}

// Readlink tells a link's target.
func (n *node) Readlink(context.Context) ([]byte, syscall.Errno) {
	target, err := n.n.Readlink()
	return []byte(target), errnoOf(err)
}

// Unlink removes a file or link.
func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return errnoOf(n.n.Remove(name, false))
}

// Rmdir removes a folder.
func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return errnoOf(n.n.Remove(name, true))
}

// Rename moves an entry.
func (n *node) Rename(_ context.Context, name string, to fusefs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	const noReplace = 1 // RENAME_NOREPLACE
	target, ok := to.(*node)
	if !ok || flags&^noReplace != 0 {
		return syscall.EINVAL
	}
	return errnoOf(n.n.Rename(name, target.n, newName, flags&noReplace != 0))
}

// Fsync makes a file or folder durable, its index too.
func (n *node) Fsync(ctx context.Context, _ fusefs.FileHandle, _ uint32) syscall.Errno {
	return errnoOf(n.n.Fsync(lasting(ctx)))
}

// Statfs tells the room for data.
func (n *node) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	total, left := n.m.fs.Room()
	const unit = 4096
	out.Bsize, out.Frsize, out.NameLen = unit, unit, ltfs.MaxNameRunes
	out.Blocks, out.Bfree, out.Bavail = uint64(total)/unit, uint64(left)/unit, uint64(left)/unit
	return 0
}

// file is an open file.
type file struct{ h *tape.Handle }

var _ = (interface {
	fusefs.FileReader
	fusefs.FileWriter
	fusefs.FileFlusher
	fusefs.FileReleaser
})((*file)(nil))

// Read reads up to the end of the file.
func (f *file) Read(ctx context.Context, p []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	n, err := f.h.Node().Read(lasting(ctx), p, uint64(off))
	if err != nil {
		return nil, errnoOf(err)
	}
	return fuse.ReadResultData(p[:n]), 0
}

// Write takes all of p.
func (f *file) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if err := f.h.Write(lasting(ctx), p, uint64(off)); err != nil {
		return 0, errnoOf(err)
	}
	return uint32(len(p)), 0
}

// Flush is a close(2), which waits for it.
func (f *file) Flush(ctx context.Context) syscall.Errno { return errnoOf(f.h.Flush(lasting(ctx))) }

// Release is the end of the open file, which nobody waits for.
func (f *file) Release(context.Context) syscall.Errno {
	f.h.Close()
	return 0
}
