package tape

import (
	"cmp"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"cairn"
	"cairn/ltfs"
)

// Node is a file, folder or symbolic link of a file system. FS.mu guards all its
// fields.
//
// What a written index needs must not change while it is written: see snapshot.go.
type Node struct {
	fs     *FS
	parent *Node // nil: the root, or removed
	name   string
	gone   bool

	meta   ltfs.Directory // of a folder, without its entries
	names  map[string]*Node
	dirs   int             // folders among names
	frozen *ltfs.Directory // of a folder: with its entries, as the last index has it
	stale  bool            // frozen is not what the folder is now; so is every folder above
	next   *ltfs.Directory // of a folder: what the index being taken refers to, still to be filled in

	file    *ltfs.File // of a file or link; Length is what is on tape
	ownedAt uint64     // the snapshot after which file was copied: it is not in an index yet
	size    uint64     // as readers see it
	drafts  []*draft   // bytes not on tape, oldest first
	handles int
	writers int   // handles that may write
	closing int   // those of them that are being closed
	failed  error // data was lost; told once, to fsync or close
	marked  bool  // the newest index calls it partial
	epoch   uint64
}

// Attr is what is known about a node.
type Attr struct {
	UID      uint64
	Links    uint32 // names; of a folder also its own and its folders' parents
	Size     uint64
	Dir      bool
	Link     bool
	ReadOnly bool
	Times    ltfs.Times
	Partial  bool // open for writing, or not all on tape
	First    ltfs.Location
	HasData  bool // First is the place of its first byte on tape
}

// load builds the tree of an index.
func (f *FS) load(ix *ltfs.Index) {
	l := &loader{fs: f, seen: map[uint64]bool{}}
	for _, node := range ix.All() {
		l.highest = max(l.highest, uidOf(node))
		f.sync.lastSize += entryBytes
	}
	f.header.HighestUID = max(f.header.HighestUID, l.highest)
	f.root = l.dir(ix.Root, nil)
}

func uidOf(n ltfs.Node) uint64 {
	if n.Dir != nil {
		return n.Dir.UID
	}
	return n.File.UID
}

// loader gives every node an identity of its own: format 1 has none, and a
// damaged index may give one twice.
type loader struct {
	fs      *FS
	seen    map[uint64]bool
	highest uint64
}

func (l *loader) uid(uid uint64) uint64 {
	if uid == 0 || l.seen[uid] {
		l.fs.header.HighestUID++
		return l.fs.header.HighestUID
	}
	l.seen[uid] = true
	return uid
}

func (l *loader) dir(d *ltfs.Directory, parent *Node) *Node {
	n := &Node{fs: l.fs, parent: parent, name: d.Name, meta: *d, frozen: d, names: make(map[string]*Node, len(d.Dirs)+len(d.Files))}
	n.meta.Dirs, n.meta.Files = nil, nil
	if n.meta.UID = l.uid(d.UID); n.meta.UID != d.UID {
		n.spoil()
	}
	for _, sub := range d.Dirs {
		n.names[sub.Name] = l.dir(sub, n)
	}
	n.dirs = len(d.Dirs)
	for _, file := range d.Files {
		c := &Node{fs: l.fs, parent: n, name: file.Name, file: file, size: file.Length, marked: file.OpenForWrite}
		inOrder := func(a, b ltfs.Extent) int { return cmp.Compare(a.FileOffset, b.FileOffset) }
		if !slices.IsSortedFunc(file.Extents, inOrder) {
			slices.SortFunc(c.own().Extents, inOrder)
		}
		if uid := l.uid(file.UID); uid != file.UID {
			c.own().UID = uid
			n.spoil()
		}
		if file.OpenForWrite { // it is not any more: the next index says so
			c.own().OpenForWrite = false
			n.spoil()
		}
		n.names[file.Name] = c
	}
	return n
}

func (n *Node) isPartial() bool { return n.writers > n.closing || len(n.drafts) > 0 }

// notePartial keeps the list of partial files. A file that the newest index calls
// partial and that is whole now is a change: the next index says so.
func (n *Node) notePartial() {
	p := n.isPartial() && !n.gone
	if p {
		n.fs.partial[n] = true
	} else {
		delete(n.fs.partial, n)
	}
	if n.file.OpenForWrite != p && !n.gone {
		n.own().OpenForWrite = p
		n.parent.spoil()
	}
	if n.marked && !p && !n.gone && !n.fs.opt.ReadOnly {
		n.marked = false
		n.fs.changed(n)
	}
}

// changed counts a change of a node for what a power cut would lose.
func (f *FS) changed(n *Node) {
	f.risk.Changes++
	f.touched(n)
}

func (f *FS) touched(n *Node) {
	if f.risk.Since.IsZero() {
		f.risk.Since = time.Now()
	}
	if n.file != nil {
		if n.epoch != f.epoch {
			n.epoch = f.epoch
			f.risk.Files++
		}
		if n.parent != nil {
			n.parent.spoil()
		}
	} else {
		n.spoil()
	}
	f.wake()
}

func (n *Node) path() string {
	if n.parent == nil {
		return "/"
	}
	var parts []string
	for ; n.parent != nil; n = n.parent {
		parts = append(parts, n.name)
	}
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}

// Root is the top folder.
func (f *FS) Root() *Node { return f.root }

// Lookup finds an entry of a folder.
func (n *Node) Lookup(name string) (*Node, error) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	c := n.names[name]
	if c == nil {
		return nil, refuse("find on tape", name, cairn.KindNotFound, syscall.ENOENT)
	}
	return c, nil
}

// Entry is a line of a folder.
type Entry struct {
	Name string
	Node *Node
	Attr Attr
}

// List is what a folder holds, by identity, which is the order of making.
func (n *Node) List() []Entry {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	list := make([]Entry, 0, len(n.names))
	for name, c := range n.names {
		list = append(list, Entry{name, c, c.attr()})
	}
	slices.SortFunc(list, func(a, b Entry) int { return cmp.Compare(a.Attr.UID, b.Attr.UID) })
	return list
}

// Attr tells what is known about a node.
func (n *Node) Attr() Attr {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	return n.attr()
}

func (n *Node) attr() Attr {
	if n.file == nil {
		a := Attr{UID: n.meta.UID, Links: 2 + uint32(n.dirs), Dir: true, ReadOnly: n.meta.ReadOnly, Times: n.meta.Times}
		if n.gone {
			a.Links = 0
		}
		return a
	}
	a := Attr{UID: n.file.UID, Links: 1, Size: n.size, Link: n.file.IsSymlink, ReadOnly: n.file.ReadOnly, Times: n.file.Times, Partial: n.isPartial()}
	if n.gone {
		a.Links = 0
	}
	if a.Link {
		a.Size = uint64(len(n.file.Symlink))
	}
	if len(n.file.Extents) > 0 {
		e := n.file.Extents[0]
		a.First, a.HasData = ltfs.Location{Partition: e.Partition, Block: e.StartBlock}, true
	}
	return a
}

// times is the node's, for changing.
func (n *Node) times() *ltfs.Times {
	if n.file == nil {
		n.preserve()
		return &n.meta.Times
	}
	return &n.own().Times
}

func stamp() ltfs.Timestamp { return ltfs.TimestampOf(time.Now()) }

// enter checks that a name may be made in a folder. The caller holds mu.
func (n *Node) enter(op, name string) error {
	if err := n.fs.writable(op); err != nil {
		return err
	}
	switch {
	case n.gone:
		return refuse(op, name, cairn.KindNotFound, syscall.ENOENT)
	case utf8.RuneCountInString(name) > ltfs.MaxNameRunes:
		return refuse(op, name, cairn.KindInvalid, syscall.ENAMETOOLONG)
	case ltfs.CheckName(name) != nil:
		return refuse(op, name, cairn.KindInvalid, syscall.EILSEQ)
	}
	return nil
}

func (n *Node) add(name string, c *Node) {
	n.preserve()
	n.names[name] = c
	if c.file == nil {
		n.dirs++
	}
	c.parent, c.name = n, name
	now := stamp()
	n.meta.Times.Modify, n.meta.Times.Change = now, now
	n.fs.changed(n)
	n.fs.changed(c)
}

func (f *FS) newUID() uint64 {
	f.header.HighestUID++
	return f.header.HighestUID
}

func newTimes() ltfs.Times {
	now := stamp()
	return ltfs.Times{Creation: now, Change: now, Modify: now, Access: now, Backup: now}
}

// make adds a new node to a folder.
func (n *Node) make(op, name string, build func() *Node) (*Node, error) {
	f := n.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := n.enter(op, name); err != nil {
		return nil, err
	}
	if n.names[name] != nil {
		return nil, refuse(op, name, cairn.KindExists, syscall.EEXIST)
	}
	if f.left >= 0 && f.left < f.reserve() {
		return nil, refuse(op, name, cairn.KindSpace, syscall.ENOSPC)
	}
	c := build()
	n.add(name, c)
	return c, nil
}

// Create makes an empty file.
func (n *Node) Create(name string) (*Node, error) {
	return n.make("create on tape", name, func() *Node {
		return &Node{fs: n.fs, file: &ltfs.File{Name: name, UID: n.fs.newUID(), Times: newTimes()}}
	})
}

// Mkdir makes a folder.
func (n *Node) Mkdir(name string) (*Node, error) {
	return n.make("make folder on tape", name, func() *Node {
		return &Node{fs: n.fs, names: map[string]*Node{}, meta: ltfs.Directory{Name: name, UID: n.fs.newUID(), Times: newTimes()}}
	})
}

// Symlink makes a symbolic link.
func (n *Node) Symlink(name, target string) (*Node, error) {
	if !utf8.ValidString(target) || target == "" {
		return nil, refuse("make link on tape", name, cairn.KindInvalid, syscall.EILSEQ)
	}
	return n.make("make link on tape", name, func() *Node {
		return &Node{fs: n.fs, file: &ltfs.File{Name: name, UID: n.fs.newUID(), Times: newTimes(), IsSymlink: true, Symlink: target}}
	})
}

// Readlink is the target of a symbolic link.
func (n *Node) Readlink() (string, error) {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	if n.file == nil || !n.file.IsSymlink {
		return "", refuse("read link on tape", n.name, cairn.KindInvalid, syscall.EINVAL)
	}
	return n.file.Symlink, nil
}

// Remove takes an entry out of a folder; dir says that it is to be a folder. An
// open file stays readable for who has it open.
func (n *Node) Remove(name string, dir bool) error {
	const op = "remove from tape"
	f := n.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writable(op); err != nil {
		return err
	}
	c := n.names[name]
	switch {
	case c == nil:
		return refuse(op, name, cairn.KindNotFound, syscall.ENOENT)
	case dir && c.file != nil:
		return refuse(op, name, cairn.KindInvalid, syscall.ENOTDIR)
	case !dir && c.file == nil:
		return refuse(op, name, cairn.KindInvalid, syscall.EISDIR)
	case len(c.names) > 0:
		return refuse(op, name, cairn.KindBusy, syscall.ENOTEMPTY)
	}
	n.take(name)
	return nil
}

// leave takes an entry's name away.
func (n *Node) leave(name string) {
	n.preserve()
	if n.names[name].file == nil {
		n.dirs--
	}
	delete(n.names, name)
}

// take removes what must be removable.
func (n *Node) take(name string) {
	c := n.names[name]
	n.leave(name)
	now := stamp()
	n.meta.Times.Modify, n.meta.Times.Change = now, now
	n.fs.changed(n)
	c.gone = true
	if c.file != nil {
		c.notePartial()
		if c.handles == 0 {
			c.drop()
		}
	}
	c.parent = nil
}

// Rename moves an entry; what stood in its place is replaced, unless keep.
func (n *Node) Rename(name string, to *Node, newName string, keep bool) error {
	const op = "rename on tape"
	f := n.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := to.enter(op, newName); err != nil {
		return err
	}
	c, old := n.names[name], to.names[newName]
	if c == nil {
		return refuse(op, name, cairn.KindNotFound, syscall.ENOENT)
	}
	if c == old {
		return nil
	}
	for up := to; up != nil; up = up.parent {
		if up == c {
			return refuse(op, name, cairn.KindInvalid, syscall.EINVAL)
		}
	}
	if old != nil {
		if errno := replaceable(c, old, keep); errno != 0 {
			return refuse(op, newName, cairn.KindExists, errno)
		}
		to.take(newName)
	}
	n.leave(name)
	now := stamp()
	n.meta.Times.Modify, n.meta.Times.Change = now, now
	f.changed(n)
	if c.file != nil {
		c.own().Name = newName
	} else {
		c.preserve()
		c.meta.Name = newName
		c.stale = true
	}
	c.times().Change = now
	to.add(newName, c)
	to.spoil()
	return nil
}

func replaceable(c, old *Node, keep bool) syscall.Errno {
	switch {
	case keep:
		return syscall.EEXIST
	case c.file == nil && old.file != nil:
		return syscall.ENOTDIR
	case c.file != nil && old.file == nil:
		return syscall.EISDIR
	case len(old.names) > 0:
		return syscall.ENOTEMPTY
	}
	return 0
}
