package ltfs

import (
	"encoding/base64"
	"strings"
)

// checkName refuses what could lead out of the tree or cannot be a name.
func (d *decoder) checkName(name string) error {
	if err := CheckName(name); err != nil {
		return d.fail("has a bad name: %v", err)
	}
	return nil
}

func (d *decoder) directory() (*Directory, error) {
	dir := &Directory{}
	err := d.children("directory", func(name string) (err error) {
		switch name {
		case "name":
			dir.Name, err = d.nameText(name)
		case "fileuid":
			dir.UID, err = d.number(name)
		case "readonly":
			dir.ReadOnly, err = d.boolean(name)
		case "extendedattributes":
			dir.XAttrs, err = d.xattrs()
		case "contents":
			err = d.contents(dir)
		default:
			if t := dir.Times.field(name); t != nil {
				*t, err = d.timestamp(name)
				return err
			}
			err = d.unknown(&dir.Unknown)
		}
		return err
	})
	return dir, err
}

func (d *decoder) contents(dir *Directory) error {
	return d.children("contents", func(name string) error {
		switch name {
		case "file":
			f, err := d.file()
			if err != nil {
				return err
			}
			if err := d.checkName(f.Name); err != nil {
				return err
			}
			dir.Files = append(dir.Files, f)
			return nil
		case "directory":
			sub, err := d.directory()
			if err != nil {
				if d.torn && CheckName(sub.Name) == nil {
					dir.Dirs = append(dir.Dirs, sub)
				}
				return err
			}
			if err := d.checkName(sub.Name); err != nil {
				return err
			}
			dir.Dirs = append(dir.Dirs, sub)
			return nil
		}
		return d.fail("has <%.40s> in <contents>", name)
	})
}

// field finds the time an element names, nil when it names none.
func (t *Times) field(name string) *Timestamp {
	switch name {
	case "creationtime":
		return &t.Creation
	case "changetime":
		return &t.Change
	case "modifytime":
		return &t.Modify
	case "accesstime":
		return &t.Access
	case "backuptime":
		return &t.Backup
	}
	return nil
}

func (d *decoder) file() (*File, error) {
	return d.fileWith(nil)
}

// fileWith reads a file whose children another reader sees first.
func (d *decoder) fileWith(first func(name string) (taken bool, err error)) (*File, error) {
	f := &File{}
	err := d.children("file", func(name string) (err error) {
		if first != nil {
			if taken, err := first(name); taken || err != nil {
				return err
			}
		}
		switch name {
		case "name":
			f.Name, err = d.nameText(name)
		case "length":
			f.Length, err = d.number(name)
		case "fileuid":
			f.UID, err = d.number(name)
		case "readonly":
			f.ReadOnly, err = d.boolean(name)
		case "openforwrite":
			f.OpenForWrite, err = d.boolean(name)
		case "extendedattributes":
			f.XAttrs, err = d.xattrs()
		case "extentinfo":
			f.Extents, err = d.extents()
		case "symlink":
			f.IsSymlink = true
			f.Symlink, err = d.nameText(name)
		default:
			if t := f.Times.field(name); t != nil {
				*t, err = d.timestamp(name)
				return err
			}
			err = d.unknown(&f.Unknown)
		}
		return err
	})
	return f, err
}

func (d *decoder) extents() (list []Extent, err error) {
	err = d.children("extentinfo", func(name string) error {
		if name != "extent" {
			return d.fail("has <%.40s> in <extentinfo>", name)
		}
		x, err := d.extent()
		if list == nil {
			list = make([]Extent, 0, 1)
		}
		list = append(list, x)
		return err
	})
	return list, err
}

func (d *decoder) extent() (x Extent, err error) {
	var seen uint
	err = d.children("extent", func(name string) (err error) {
		switch name {
		case "fileoffset":
			x.FileOffset, err = d.number(name)
		case "partition":
			x.Partition, err = d.partition()
			seen |= 1
		case "startblock":
			x.StartBlock, err = d.number(name)
			seen |= 2
		case "byteoffset":
			var v uint64
			if v, err = d.number(name); v > 1<<32-1 {
				return d.fail("<byteoffset> is beyond any block")
			}
			x.ByteOffset = uint32(v)
		case "bytecount":
			x.ByteCount, err = d.number(name)
			seen |= 4
		default:
			err = d.fail("has <%.40s> in <extent>", name)
		}
		return err
	})
	if err == nil && seen != 7 {
		err = d.fail("<extent> lacks its partition, block or count")
	}
	return x, err
}

func (d *decoder) xattrs() (list []XAttr, err error) {
	err = d.children("extendedattributes", func(name string) error {
		if name != "xattr" {
			return d.fail("has <%.40s> in <extendedattributes>", name)
		}
		x, err := d.xattr()
		list = append(list, x)
		return err
	})
	return list, err
}

func (d *decoder) xattr() (x XAttr, err error) {
	err = d.children("xattr", func(name string) (err error) {
		switch name {
		case "key":
			x.Key, err = d.nameText(name)
			if known, ok := d.names[x.Key]; ok {
				x.Key = known
			} else if len(d.names) < 1000 {
				d.names[x.Key] = x.Key
			}
		case "value":
			x.Value, err = d.value()
		default:
			err = d.fail("has <%.40s> in <xattr>", name)
		}
		return err
	})
	return x, err
}

func (d *decoder) value() ([]byte, error) {
	kind, _ := attribute(d.attrs, "type")
	coded := string(kind) == "base64"
	text, err := d.leaf("value")
	if err != nil || !coded {
		return []byte(text), err
	}
	// White space may break the text into lines.
	value, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		return nil, d.fail("<value> is not base64 as it says: %v", err)
	}
	return value, nil
}
