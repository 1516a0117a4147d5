package tape

import (
	"bytes"
	"errors"
	"slices"
	"syscall"

	"cairn"
	"cairn/ltfs"
)

// SetTimes changes times; edit gets them all.
func (n *Node) SetTimes(edit func(*ltfs.Times)) error {
	return n.set("set times on tape", func() bool {
		edit(n.times())
		return true
	})
}

// SetReadOnly changes the read-only flag.
func (n *Node) SetReadOnly(on bool) error {
	return n.set("set flag on tape", func() bool {
		if n.file == nil {
			n.meta.ReadOnly = on
		} else {
			n.own().ReadOnly = on
		}
		n.times().Change = stamp()
		return true
	})
}

func (n *Node) set(op string, edit func() (changed bool)) error {
	f := n.fs
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writable(op); err != nil {
		return err
	}
	if n.file == nil {
		n.preserve()
	}
	if edit() {
		f.changed(n)
	}
	return nil
}

// ErrNoXAttr says that a node has no attribute of that name.
var ErrNoXAttr = errors.New("there is no such attribute")

func (n *Node) xattrs() []ltfs.XAttr {
	if n.file == nil {
		return n.meta.XAttrs
	}
	return n.file.XAttrs
}

// XAttrs are the stored extended attributes.
func (n *Node) XAttrs() []ltfs.XAttr {
	n.fs.mu.Lock()
	defer n.fs.mu.Unlock()
	return n.xattrs()
}

// MaxXAttr is the longest value of a stored attribute, the limit of other LTFS
// software.
const MaxXAttr = 4096

// SetXAttr stores an attribute, or with a nil value removes it (ErrNoXAttr when
// there is none).
func (n *Node) SetXAttr(key string, value []byte) error {
	switch {
	case len(value) > MaxXAttr:
		return refuse("set attribute on tape", key, cairn.KindInvalid, syscall.E2BIG)
	case ltfs.CheckName(key) != nil:
		return refuse("set attribute on tape", key, cairn.KindInvalid, syscall.EINVAL)
	}
	missing := false
	err := n.set("set attribute on tape", func() bool {
		old := n.xattrs()
		i := slices.IndexFunc(old, func(x ltfs.XAttr) bool { return x.Key == key })
		if missing = i < 0 && value == nil; missing {
			return false
		}
		list := slices.Clone(old) // the old one may be in an index that is being written
		switch {
		case value == nil:
			list = slices.Delete(list, i, i+1)
		case i < 0:
			list = append(list, ltfs.XAttr{Key: key, Value: bytes.Clone(value)})
		default:
			list[i].Value = bytes.Clone(value)
		}
		if n.file == nil {
			n.meta.XAttrs = list
		} else {
			n.own().XAttrs = list
		}
		n.times().Change = stamp()
		return true
	})
	if missing {
		return ErrNoXAttr
	}
	return err
}

// SetVolumeName renames the LTFS volume.
func (f *FS) SetVolumeName(name string) error {
	if name != "" && ltfs.CheckName(name) != nil {
		return refuse("name tape", name, cairn.KindInvalid, syscall.EINVAL)
	}
	return f.root.set("name tape", func() bool {
		f.root.meta.Name, f.root.name = name, name
		return true
	})
}

// VolumeName is the LTFS volume's name.
func (f *FS) VolumeName() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.root.meta.Name
}
