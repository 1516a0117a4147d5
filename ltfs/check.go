package ltfs

import (
	"fmt"
	"sort"
)

// Problem is one thing in an index that breaks a rule of the format. Path is
// empty for the index as a whole.
type Problem struct {
	Path   string
	Reason string
}

// String renders "path: reason".
func (p Problem) String() string {
	if p.Path == "" {
		return p.Reason
	}
	return p.Path + ": " + p.Reason
}

// maxProblems bounds a report on a thoroughly broken index.
const maxProblems = 1000

// Check holds an index against the rules: pointers, identities, names that are
// taken twice, extents that overlap, leave the volume or have no place. label may
// be nil when it is not known. It reports at most 1000 problems.
func (ix *Index) Check(label *Label) []Problem {
	c := &checker{label: label, ix: ix, uids: map[uint64]string{}}
	c.head()
	for at, node := range ix.All() {
		if len(c.problems) >= maxProblems {
			break
		}
		c.node(at, node)
	}
	return c.problems
}

type checker struct {
	label    *Label
	ix       *Index
	uids     map[uint64]string
	problems []Problem
}

func (c *checker) add(path, format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, Problem{Path: path, Reason: fmt.Sprintf(format, args...)})
	}
}

func (c *checker) head() {
	ix := c.ix
	if ix.Generation == 0 {
		c.add("", "generation 0 does not exist")
	}
	if ix.Self.Block < FirstIndexBlock {
		c.add("", "the index says that it stands at block %d, inside the label", ix.Self.Block)
	}
	if !ix.Previous.IsZero() {
		if ix.Previous.Block < FirstIndexBlock {
			c.add("", "the index before is said to stand at block %d, inside the label", ix.Previous.Block)
		}
		if ix.Previous.Partition == ix.Self.Partition && ix.Previous.Block+2 >= ix.Self.Block {
			c.add("", "the index before is said to stand at or behind this one")
		}
	}
	if c.label == nil {
		return
	}
	if ix.VolumeUUID != c.label.VolumeUUID {
		c.add("", "the index is of volume %s, the label of %s", ix.VolumeUUID, c.label.VolumeUUID)
	}
	if !ix.Previous.IsZero() && ix.Previous.Partition != c.label.DataPart {
		c.add("", "the index before is said to stand outside the data partition")
	}
}

func (c *checker) node(at string, n Node) {
	if n.Dir != nil {
		c.uid(at, n.Dir.UID)
		c.siblings(at, n.Dir)
		return
	}
	c.uid(at, n.File.UID)
	if n.File.IsSymlink && len(n.File.Extents) > 0 {
		c.add(at, "is a symbolic link and has data")
	}
	c.extents(at, n.File)
}

func (c *checker) uid(at string, uid uint64) {
	if uid == 0 { // format 1 has none
		return
	}
	if other, taken := c.uids[uid]; taken {
		c.add(at, "has the file UID %d of %s", uid, other)
		return
	}
	c.uids[uid] = at
	if c.ix.HighestUID != 0 && uid > c.ix.HighestUID {
		c.add(at, "has file UID %d, above the highest that was given out (%d)", uid, c.ix.HighestUID)
	}
}

func (c *checker) siblings(at string, d *Directory) {
	names := make(map[string]bool, len(d.Dirs)+len(d.Files))
	see := func(name string) {
		if names[name] {
			c.add(at, "holds %q twice", name)
		}
		names[name] = true
	}
	for _, sub := range d.Dirs {
		see(sub.Name)
	}
	for _, f := range d.Files {
		see(f.Name)
	}
}

func (c *checker) extents(at string, f *File) {
	list := f.Extents
	if !sort.SliceIsSorted(list, func(i, j int) bool { return list[i].FileOffset < list[j].FileOffset }) {
		list = append([]Extent(nil), list...)
		sort.Slice(list, func(i, j int) bool { return list[i].FileOffset < list[j].FileOffset })
	}
	var end uint64
	for _, x := range list {
		next := x.FileOffset + x.ByteCount
		switch {
		case x.ByteCount == 0:
			c.add(at, "has an extent without bytes at offset %d", x.FileOffset)
		case next < x.FileOffset || next > f.Length:
			c.add(at, "has an extent beyond its length of %d bytes", f.Length)
		case x.FileOffset < end:
			c.add(at, "has extents that overlap at offset %d", x.FileOffset)
		}
		c.place(at, x)
		end = max(end, next)
	}
}

func (c *checker) place(at string, x Extent) {
	if x.StartBlock < 4 {
		c.add(at, "has data at block %d, inside the label", x.StartBlock)
	}
	if c.label == nil {
		return
	}
	if x.Partition != c.label.IndexPart && x.Partition != c.label.DataPart {
		c.add(at, "has data in partition %q, which the volume has not", x.Partition)
	}
	if uint64(x.ByteOffset) >= c.label.BlockSize {
		c.add(at, "has an extent that begins beyond its first block")
	}
}
