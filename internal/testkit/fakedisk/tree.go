package fakedisk

import (
	"maps"
	"slices"
	"strings"
	"syscall"
)

// inode identifies a file or folder, whatever its name.
type inode int

const root inode = 1

// node is a file (content is set) or a folder (entries is set).
type node struct {
	content *content
	entries map[string]inode
}

// tree is the state of a file system.
type tree struct {
	nodes map[inode]*node
	last  inode
}

func newTree() *tree {
	return &tree{nodes: map[inode]*node{root: {entries: map[string]inode{}}}, last: root}
}

// link sets one name in one folder; 0 removes it.
type link struct {
	dir  inode
	name string
	to   inode
}

// slot is a place for a name.
type slot struct {
	dir  inode
	name string
}

func (l link) slot() slot { return slot{l.dir, l.name} }

func (t *tree) clone() *tree {
	out := &tree{nodes: make(map[inode]*node, len(t.nodes)), last: t.last}
	for ino, n := range t.nodes {
		if n.content != nil {
			out.nodes[ino] = &node{content: n.content.clone()}
		} else {
			out.nodes[ino] = &node{entries: maps.Clone(n.entries)}
		}
	}
	return out
}

// find walks a clean path; "" and "." are the root. It fails with ENOENT or
// ENOTDIR.
func (t *tree) find(name string) (inode, error) {
	at := root
	if name == "" || name == "." {
		return at, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		switch n := t.nodes[at]; {
		case n.entries == nil:
			return 0, syscall.ENOTDIR
		case n.entries[part] == 0:
			return 0, syscall.ENOENT
		default:
			at = n.entries[part]
		}
	}
	return at, nil
}

func (t *tree) apply(links []link) {
	for _, l := range links {
		if l.to == 0 {
			delete(t.nodes[l.dir].entries, l.name)
		} else {
			t.nodes[l.dir].entries[l.name] = l.to
		}
	}
}

func (t *tree) names(dir inode) []string {
	return slices.Sorted(maps.Keys(t.nodes[dir].entries))
}

// named tells whether any folder holds the inode.
func (t *tree) named(ino inode) bool {
	for _, n := range t.nodes {
		for _, to := range n.entries {
			if to == ino {
				return true
			}
		}
	}
	return false
}

// replaceable tells whether a rename may put ino in the place of old. Folders are
// never replaced, as with os.Rename.
func (t *tree) replaceable(ino, old inode) error {
	switch {
	case t.nodes[old].entries != nil:
		return syscall.EEXIST
	case t.nodes[ino].entries != nil:
		return syscall.ENOTDIR
	}
	return nil
}

// room is the bytes in use.
func (t *tree) room() int64 {
	var pages int64
	for _, n := range t.nodes {
		if n.content != nil {
			pages += n.content.pages
		}
	}
	return pages * pageSize
}

// prune forgets what no name leads to.
func (t *tree) prune() {
	seen := map[inode]bool{}
	var walk func(ino inode)
	walk = func(ino inode) {
		seen[ino] = true
		for _, to := range t.nodes[ino].entries {
			walk(to)
		}
	}
	walk(root)
	maps.DeleteFunc(t.nodes, func(ino inode, _ *node) bool { return !seen[ino] })
}
