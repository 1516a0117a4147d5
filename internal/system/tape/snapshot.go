package tape

import (
	"cmp"
	"slices"

	"cairn/ltfs"
)

// Taking an index's tree. The live tree goes on changing while an index is written,
// and even while its tree is taken: that of a million new files takes longer than a
// reader should wait. So at one moment only a promise of the tree is made, and the
// folders that changed since the index before are filled in one after the other, mu
// given up in between. Whoever changes a folder, or a file in one, before its turn
// fills it in first (preserve). What an index has of a file is never changed: the
// file is copied first (own).

// sliceEntries is how many entries are filled in before mu is given up.
const sliceEntries = 2000

// spoil says that a folder's frozen form is out of date, and those above it.
func (n *Node) spoil() {
	for ; n != nil && !n.stale; n = n.parent {
		n.stale = true
	}
}

// own is the node's file for changing.
func (n *Node) own() *ltfs.File {
	if n.ownedAt != n.fs.snapshot {
		if n.parent != nil {
			n.parent.preserve()
		}
		c := *n.file
		c.Extents = slices.Clone(c.Extents)
		n.file, n.ownedAt = &c, n.fs.snapshot
	}
	return n.file
}

// beginTree promises the tree as it is now; fillTree keeps the promise. The caller
// holds mu.
func (f *FS) beginTree() *ltfs.Directory {
	f.snapshot++
	for n := range f.partial {
		n.marked = true
	}
	if !f.root.stale && f.root.frozen != nil {
		return f.root.frozen
	}
	return f.root.promise()
}

// fillTree fills in what beginTree promised. Its cost is that of what changed.
func (f *FS) fillTree() {
	for f.fillSlice(sliceEntries) {
	}
}

// fillSlice fills in folders with some entries, and reports whether there are more.
func (f *FS) fillSlice(entries int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for entries > 0 && len(f.promised) > 0 {
		last := len(f.promised) - 1
		n := f.promised[last]
		f.promised = f.promised[:last]
		if n.next != nil {
			entries -= 1 + n.fill()
		}
	}
	return len(f.promised) > 0
}

func (n *Node) promise() *ltfs.Directory {
	n.next = &ltfs.Directory{UID: n.meta.UID}
	n.fs.promised = append(n.fs.promised, n)
	return n.next
}

// fill makes a folder's form for an index, of its entries' forms and promises, and
// returns how many entries it has.
func (n *Node) fill() int {
	d := n.next
	*d = n.meta
	for _, c := range n.names {
		switch {
		case c.file != nil:
			d.Files = append(d.Files, c.file)
		case c.stale || c.frozen == nil:
			d.Dirs = append(d.Dirs, c.promise())
		default:
			d.Dirs = append(d.Dirs, c.frozen)
		}
	}
	slices.SortFunc(d.Dirs, func(a, b *ltfs.Directory) int { return cmp.Compare(a.UID, b.UID) })
	slices.SortFunc(d.Files, func(a, b *ltfs.File) int { return cmp.Compare(a.UID, b.UID) })
	n.frozen, n.next, n.stale = d, nil, false
	return len(n.names)
}

// preserve fills in a folder, and those above it, before one of them is changed
// while a tree is being taken. The caller holds mu.
func (n *Node) preserve() {
	if len(n.fs.promised) == 0 {
		return
	}
	if n.parent != nil {
		n.parent.preserve()
	}
	if n.next != nil {
		n.fill()
	}
}
