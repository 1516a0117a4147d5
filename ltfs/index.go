package ltfs

import "iter"

// Location is a block of a partition.
type Location struct {
	Partition byte // the partition's letter, 'a' to 'z'
	Block     uint64
}

// IsZero reports whether l is no location.
func (l Location) IsZero() bool { return l.Partition == 0 }

// Lock is the volume's advisory lock.
type Lock uint8

// The lock states (format 2.3 and later).
const (
	Unlocked Lock = iota
	Locked
	PermLocked
)

var lockNames = [...]string{"unlocked", "locked", "permlocked"}

// String is the word in the index.
func (l Lock) String() string { return lockNames[l] }

// Index is one generation of a volume's index.
type Index struct {
	Version           string // as read; Version when written
	Creator           string
	Comment           string
	VolumeUUID        string
	Generation        uint64
	UpdateTime        Timestamp
	Self              Location // where this index stands
	Previous          Location // last full index before it in the data partition; zero in the first
	AllowPolicyUpdate bool
	Policy            *Policy // nil: all files go to the data partition
	HighestUID        uint64  // last file UID that was given out; 0 in format 1
	Lock              Lock
	Root              *Directory // its Name is the volume's name
	Unknown           []byte     // elements of the root that this package does not know, as they stood
}

// Times are the five times of a file or directory.
type Times struct {
	Creation, Change, Modify, Access, Backup Timestamp
}

// Directory is a directory with all below it.
type Directory struct {
	Name     string
	UID      uint64
	ReadOnly bool
	Times    Times
	XAttrs   []XAttr
	Dirs     []*Directory
	Files    []*File
	Unknown  []byte
}

// File is a regular file or a symbolic link.
type File struct {
	Name         string
	UID          uint64
	Length       uint64
	ReadOnly     bool
	OpenForWrite bool // was open for writing when the index was written
	IsSymlink    bool
	Symlink      string // target when IsSymlink
	Times        Times
	XAttrs       []XAttr
	Extents      []Extent // by FileOffset; gaps read as zeroes
	Unknown      []byte
}

// XAttr is an extended attribute.
type XAttr struct {
	Key   string
	Value []byte
}

// Extent maps a range of a file to the tape. It begins ByteOffset bytes into
// block StartBlock and goes on through the blocks that follow.
type Extent struct {
	FileOffset uint64
	StartBlock uint64
	ByteCount  uint64
	ByteOffset uint32
	Partition  byte
}

// All walks the tree in the order it stands in the index: a directory, its
// directories with all below them, then its files. Paths begin with '/' and the
// root's is "/". One of dir and file is nil.
func (ix *Index) All() iter.Seq2[string, Node] {
	return func(yield func(string, Node) bool) { walk("/", ix.Root, yield) }
}

// Node is what All yields: a directory or a file.
type Node struct {
	Dir  *Directory
	File *File
}

func walk(at string, d *Directory, yield func(string, Node) bool) bool {
	if !yield(at, Node{Dir: d}) {
		return false
	}
	prefix := at
	if prefix != "/" {
		prefix += "/"
	}
	for _, sub := range d.Dirs {
		if !walk(prefix+sub.Name, sub, yield) {
			return false
		}
	}
	for _, f := range d.Files {
		if !yield(prefix+f.Name, Node{File: f}) {
			return false
		}
	}
	return true
}
