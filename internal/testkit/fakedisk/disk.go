// Package fakedisk is a file system in memory that remembers everything: an
// implementation of blockio.FS for tests that cut the power. It logs each change
// and each sync; [Disk.Replay] walks the log and makes, at any entry, a disk as a
// power cut there could have left it.
//
// # What is durable
//
//   - Bytes and size of a file, from the moment its Sync returns. Until then each
//     512-byte sector holds, independently of all others, what it held at the last
//     successful Sync or after any of the changes since; the size likewise. Zeroed
//     and punched ranges count as changes of their sectors.
//   - A name (of a file or folder, made, renamed or removed), from the moment SyncDir
//     of its folder returns; a rename, when that was done for both folders. Until
//     then each name is as it was after any of its own changes; a rename shows in
//     both its places or in neither.
//   - After a Sync that failed, what it should have made durable stays visible, and
//     may or may not be on the disk; no later Sync makes it so.
//
// Real file systems promise more (ordered journals, names made durable by a
// file's own fsync); an engine that is right here relies on none of that.
//
// # Faults
//
// [Disk.OnCall] sees every call before it happens and can make it fail, or do
// something else first, so that a test decides how two activities interleave.
// [Disk.SetCapacity] makes writes fail with ENOSPC, [Disk.Lie] leaves out syncs. All methods may be used from
// several goroutines. A misuse by the test itself panics.
package fakedisk

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cairn/internal/mech/blockio"
)

// Op names a call.
type Op string

// The calls; those that change something or make it durable stand in the log.
const (
	OpCreate   Op = "create"
	OpOpen     Op = "open"
	OpRename   Op = "rename"
	OpRemove   Op = "remove"
	OpMkdir    Op = "mkdir"
	OpReadDir  Op = "readdir"
	OpStat     Op = "stat"
	OpSyncDir  Op = "syncdir"
	OpRead     Op = "read"
	OpWrite    Op = "write"
	OpSync     Op = "sync"
	OpTruncate Op = "truncate"
	OpAllocate Op = "allocate"
	OpPunch    Op = "punch"
	OpZero     Op = "zero"
	OpSeek     Op = "seek"
)

// Call is one call as OnCall sees it.
type Call struct {
	N    int // counts the calls since OnCall, from 0
	Op   Op
	Name string // as opened; the old one of a rename
	Off  int64
	Len  int64 // of a truncate: the new size
}

// Disk is a file system in memory. The zero Disk is not usable.
type Disk struct {
	mu       sync.RWMutex // guards all below
	tree     *tree        // as the running system sees it
	first    *tree        // as it was when the log began
	log      []Entry
	capacity int64
	handles  map[inode]int // open files

	calls  atomic.Int64
	onCall atomic.Pointer[func(Call) error]
	lies   atomic.Pointer[func() bool]
}

// New makes an empty disk of 1 TiB.
func New() *Disk { return fromTree(newTree()) }

func fromTree(t *tree) *Disk {
	return &Disk{tree: t, first: t.clone(), capacity: 1 << 40, handles: map[inode]int{}}
}

// OnCall sets what sees every call before it happens; an error of it is the
// call's. It holds no lock: it may call the disk, which comes back to it, and calls
// made at the same time see it at the same time. Nil sees nothing.
func (d *Disk) OnCall(f func(Call) error) {
	d.calls.Store(0)
	if f == nil {
		d.onCall.Store(nil)
		return
	}
	d.onCall.Store(&f)
}

// Lie makes each Sync and SyncDir for which f returns true succeed without doing
// anything, as if the program had left it out. f is asked in the caller's goroutine,
// so that it can look at the stack. Disks that a replay of this one makes lie too.
func (d *Disk) Lie(f func() bool) { d.lies.Store(&f) }

func (d *Disk) lying() bool {
	f := d.lies.Load()
	return f != nil && (*f)()
}

// Sub is a folder of the disk as a file system of its own. The log has whole names.
func (d *Disk) Sub(dir string) blockio.FS { return sub{d, dir} }

type sub struct {
	d   *Disk
	dir string
}

func (s sub) Create(name string) (blockio.File, error) { return s.d.Create(path.Join(s.dir, name)) }
func (s sub) Open(name string, write bool) (blockio.File, error) {
	return s.d.Open(path.Join(s.dir, name), write)
}
func (s sub) Rename(oldName, newName string) error {
	return s.d.Rename(path.Join(s.dir, oldName), path.Join(s.dir, newName))
}
func (s sub) Remove(name string) error              { return s.d.Remove(path.Join(s.dir, name)) }
func (s sub) Mkdir(name string) error               { return s.d.Mkdir(path.Join(s.dir, name)) }
func (s sub) ReadDir(name string) ([]string, error) { return s.d.ReadDir(path.Join(s.dir, name)) }
func (s sub) Stat(name string) (fs.FileInfo, error) { return s.d.Stat(path.Join(s.dir, name)) }
func (s sub) SyncDir(name string) error             { return s.d.SyncDir(path.Join(s.dir, name)) }
func (s sub) Space() (free, total int64, err error) { return s.d.Space() }

// SetCapacity sets the room of the disk in bytes; less than is in use makes every
// write that needs room fail with ENOSPC.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.capacity = bytes
}

// Len is the number of log entries so far.
func (d *Disk) Len() int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.log)
}

// Log returns the entries so far.
func (d *Disk) Log() []Entry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Clone(d.log)
}

// call counts a call and asks whether it may happen. The lock is not held.
func (d *Disk) call(op Op, name string, off, length int64) error {
	f := d.onCall.Load()
	if f == nil {
		return nil
	}
	if err := (*f)(Call{int(d.calls.Add(1) - 1), op, name, off, length}); err != nil {
		return pathError(op, name, err)
	}
	return nil
}

func pathError(op Op, name string, err error) error {
	return &fs.PathError{Op: string(op), Path: name, Err: err}
}

// place finds the folder of name and its last part.
func (d *Disk) place(op Op, name string) (dir inode, last string, err error) {
	clean := path.Clean(name)
	if clean == "." || name == "" || !fs.ValidPath(clean) {
		return 0, "", pathError(op, name, fs.ErrInvalid)
	}
	folder, last := path.Split(clean)
	dir, err = d.tree.find(strings.TrimSuffix(folder, "/"))
	if err != nil {
		return 0, "", pathError(op, name, err)
	}
	if d.tree.nodes[dir].entries == nil {
		return 0, "", pathError(op, name, syscall.ENOTDIR)
	}
	return dir, last, nil
}

// Create makes a file.
func (d *Disk) Create(name string) (blockio.File, error) {
	if err := d.call(OpCreate, name, 0, 0); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ino, err := d.make(OpCreate, name, &node{content: &content{}})
	if err != nil {
		return nil, err
	}
	return d.open(ino, name, true), nil
}

// Mkdir makes a folder.
func (d *Disk) Mkdir(name string) error {
	if err := d.call(OpMkdir, name, 0, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := d.make(OpMkdir, name, &node{entries: map[string]inode{}})
	return err
}

func (d *Disk) make(op Op, name string, n *node) (inode, error) {
	dir, last, err := d.place(op, name)
	if err != nil {
		return 0, err
	}
	if d.tree.nodes[dir].entries[last] != 0 {
		return 0, pathError(op, name, syscall.EEXIST)
	}
	if d.tree.room() >= d.capacity {
		return 0, pathError(op, name, syscall.ENOSPC)
	}
	d.tree.last++
	ino := d.tree.last
	d.tree.nodes[ino] = n
	d.record(Entry{Op: op, Name: name, node: ino, links: []link{{dir, last, ino}}})
	return ino, nil
}

// record logs an entry, and applies its links.
func (d *Disk) record(e Entry) {
	d.tree.apply(e.links)
	d.log = append(d.log, e)
}

func (d *Disk) open(ino inode, name string, write bool) *file {
	d.handles[ino]++
	return &file{disk: d, node: ino, name: name, write: write}
}

// Open opens a file.
func (d *Disk) Open(name string, write bool) (blockio.File, error) {
	if err := d.call(OpOpen, name, 0, 0); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ino, err := d.tree.find(path.Clean(name))
	switch {
	case err != nil:
		return nil, pathError(OpOpen, name, err)
	case d.tree.nodes[ino].content == nil:
		return nil, pathError(OpOpen, name, syscall.EISDIR)
	}
	return d.open(ino, name, write), nil
}

// Rename renames a file or folder.
func (d *Disk) Rename(oldName, newName string) error {
	if err := d.call(OpRename, oldName, 0, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	from, last, err := d.place(OpRename, oldName)
	if err != nil {
		return err
	}
	to, newLast, err := d.place(OpRename, newName)
	if err != nil {
		return err
	}
	ino := d.tree.nodes[from].entries[last]
	if ino == 0 {
		return pathError(OpRename, oldName, syscall.ENOENT)
	}
	old := d.tree.nodes[to].entries[newLast]
	if old == ino && d.tree.nodes[ino].content != nil {
		return nil
	}
	if old != 0 {
		if err := d.tree.replaceable(ino, old); err != nil {
			return pathError(OpRename, newName, err)
		}
	}
	d.record(Entry{Op: OpRename, Name: oldName, To: newName, node: ino, links: []link{{from, last, 0}, {to, newLast, ino}}})
	d.drop(old)
	return nil
}

// Remove unlinks a file or an empty folder.
func (d *Disk) Remove(name string) error {
	if err := d.call(OpRemove, name, 0, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, last, err := d.place(OpRemove, name)
	if err != nil {
		return err
	}
	ino := d.tree.nodes[dir].entries[last]
	if ino == 0 {
		return pathError(OpRemove, name, syscall.ENOENT)
	}
	if len(d.tree.nodes[ino].entries) > 0 {
		return pathError(OpRemove, name, syscall.ENOTEMPTY)
	}
	d.record(Entry{Op: OpRemove, Name: name, node: ino, links: []link{{dir, last, 0}}})
	d.drop(ino)
	return nil
}

// drop frees a file that has neither a name nor an open handle.
func (d *Disk) drop(ino inode) {
	if ino != 0 && d.handles[ino] == 0 && !d.tree.named(ino) {
		delete(d.tree.nodes, ino)
	}
}

// folder finds an existing folder.
func (d *Disk) folder(op Op, name string) (inode, error) {
	ino, err := d.tree.find(path.Clean(name))
	switch {
	case name == "" || !fs.ValidPath(path.Clean(name)):
		return 0, pathError(op, name, fs.ErrInvalid)
	case err != nil:
		return 0, pathError(op, name, err)
	case d.tree.nodes[ino].entries == nil:
		return 0, pathError(op, name, syscall.ENOTDIR)
	}
	return ino, nil
}

// ReadDir lists the names in a folder.
func (d *Disk) ReadDir(name string) ([]string, error) {
	if err := d.call(OpReadDir, name, 0, 0); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ino, err := d.folder(OpReadDir, name)
	if err != nil {
		return nil, err
	}
	return d.tree.names(ino), nil
}

// SyncDir makes the entries of a folder durable.
func (d *Disk) SyncDir(name string) error {
	if err := d.call(OpSyncDir, name, 0, 0); err != nil {
		return err
	}
	if d.lying() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ino, err := d.folder(OpSyncDir, name)
	if err != nil {
		return err
	}
	d.record(Entry{Op: OpSyncDir, Name: name, node: ino})
	return nil
}

// Stat describes a file or folder.
func (d *Disk) Stat(name string) (fs.FileInfo, error) {
	if err := d.call(OpStat, name, 0, 0); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ino, err := d.tree.find(path.Clean(name))
	if err != nil {
		return nil, pathError(OpStat, name, err)
	}
	n := d.tree.nodes[ino]
	info := info{name: path.Base(name), dir: n.entries != nil}
	if n.content != nil {
		info.size = n.content.size
	}
	return info, nil
}

// Space tells the bytes free and in all.
func (d *Disk) Space() (free, total int64, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return max(0, d.capacity-d.tree.room()), d.capacity, nil
}

type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) IsDir() bool        { return i.dir }
func (i info) Sys() any           { return nil }

func (i info) Mode() fs.FileMode {
	if i.dir {
		return fs.ModeDir | 0o700
	}
	return 0o600
}
