package ltfs

import (
	"bytes"
	"io"
	"path"
	"slices"
	"strconv"
)

// Incremental is an incremental index of format 2.5: what changed since the index
// before it. Few programs read it, so it is written only when a user asks for it;
// full indexes are what every LTFS reader understands.
type Incremental struct {
	Version             string
	Creator             string
	Comment             string
	VolumeUUID          string
	Generation          uint64
	UpdateTime          Timestamp
	Self                Location
	Previous            Location // last full index in the data partition
	PreviousIncremental Location // last incremental index since then; zero for the first
	HighestUID          uint64
	Lock                Lock
	Root                *ChangedDirectory
	// Repairs says, in sentences, what known defects of other software ReadIncremental
	// and Apply put right; none: it was as the format asks.
	Repairs []string
}

// ChangedDirectory is a directory in an incremental index. An unchanged one only
// leads to what changed below it; a changed one carries its own data in Meta, and
// so does a new one.
type ChangedDirectory struct {
	Name    string
	UID     uint64
	Deleted bool
	Meta    *Directory // times, read-only flag, attributes; no children. Nil when unchanged
	Dirs    []*ChangedDirectory
	Files   []*ChangedFile
	early   bool // its element ended behind its name; what followed was taken for it
}

// ChangedFile is a file in an incremental index: new or changed as a whole, or
// deleted, in which case only its name counts.
type ChangedFile struct {
	File
	Deleted bool
}

// ReadIncremental reads an incremental index. Software is known that closes an
// existing directory's element right after its name, so that the directory's
// identity and contents stand one level too high, behind it. They are taken for
// that directory, which Repairs says; Apply holds the identity against the tree.
func ReadIncremental(r io.Reader) (*Incremental, error) {
	d := &decoder{scanner: newScanner("incremental index", r), names: map[string]string{}}
	if err := d.root("ltfsincrementalindex"); err != nil {
		return nil, err
	}
	inc := &Incremental{}
	var err error
	if inc.Version, err = d.version(); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	err = d.children("ltfsincrementalindex", func(name string) error {
		if seen[name] {
			return d.fail("has <%.40s> twice", name)
		}
		seen[name] = true
		return d.incrementalChild(inc, name)
	})
	if err == nil {
		err = d.require("ltfsincrementalindex", seen, "volumeuuid", "generationnumber", "location", "previousgenerationlocation", "directory")
	}
	if err == nil {
		err = d.finish()
	}
	if err != nil {
		return nil, err
	}
	inc.noteEarly("/", inc.Root)
	return inc, nil
}

// noteEarly tells of each directory whose element ended too early.
func (inc *Incremental) noteEarly(at string, c *ChangedDirectory) {
	if c.early {
		inc.Repairs = append(inc.Repairs, "the element of directory "+strconv.Quote(at)+" ends behind its name; what stands behind it was taken for its own")
	}
	for _, sub := range c.Dirs {
		inc.noteEarly(path.Join(at, sub.Name), sub)
	}
}

func (d *decoder) incrementalChild(inc *Incremental, name string) (err error) {
	switch name {
	case "previousincrementallocation":
		inc.PreviousIncremental, err = d.location(name)
	case "directory":
		inc.Root, err = d.changedDirectory()
	case "fileuid", "contents", "readonly":
		if inc.Root == nil || !inc.Root.endsEarly() {
			return d.fail("has <%s> outside of a directory", name)
		}
		_, err = d.changedChild(inc.Root, name)
	default: // the rest is as in a full index
		var ix Index
		if err = d.indexChild(&ix, name); err != nil {
			return err
		}
		inc.take(name, &ix)
	}
	return err
}

// take copies the one field that a child of this name filled in.
func (inc *Incremental) take(name string, ix *Index) {
	switch name {
	case "creator":
		inc.Creator = ix.Creator
	case "comment":
		inc.Comment = ix.Comment
	case "volumeuuid":
		inc.VolumeUUID = ix.VolumeUUID
	case "generationnumber":
		inc.Generation = ix.Generation
	case "updatetime":
		inc.UpdateTime = ix.UpdateTime
	case "location":
		inc.Self = ix.Self
	case "previousgenerationlocation":
		inc.Previous = ix.Previous
	case "highestfileuid":
		inc.HighestUID = ix.HighestUID
	case "volumelockstate":
		inc.Lock = ix.Lock
	}
}

func (d *decoder) changedDirectory() (*ChangedDirectory, error) {
	c := &ChangedDirectory{}
	err := d.children("directory", func(name string) error {
		known, err := d.changedChild(c, name)
		if known || err != nil {
			return err
		}
		return d.unknown(&c.meta().Unknown)
	})
	return c, err
}

// changedChild reads what belongs to a directory; known is false when it does not.
func (d *decoder) changedChild(c *ChangedDirectory, name string) (known bool, err error) {
	switch name {
	case "name":
		c.Name, err = d.nameText(name)
	case "fileuid":
		c.UID, err = d.number(name)
	case "deleted":
		c.Deleted = true
		err = d.skip()
	case "contents":
		err = d.changedContents(c)
	case "readonly":
		c.meta().ReadOnly, err = d.boolean(name)
	case "extendedattributes":
		c.meta().XAttrs, err = d.xattrs()
	default:
		var none Times
		if none.field(name) == nil {
			return false, nil
		}
		*c.meta().Times.field(name), err = d.timestamp(name)
	}
	return true, err
}

// meta is Meta, made when there is none: the directory's own data changed.
func (c *ChangedDirectory) meta() *Directory {
	if c.Meta == nil {
		c.Meta = &Directory{}
	}
	return c.Meta
}

// endsEarly reports whether what follows a directory's element belongs into it:
// the element holds a name and nothing else, or this was found so before.
func (c *ChangedDirectory) endsEarly() bool {
	c.early = c.early || c.UID == 0 && !c.Deleted && c.Meta == nil && len(c.Dirs)+len(c.Files) == 0
	return c.early
}

func (d *decoder) changedContents(c *ChangedDirectory) error {
	var before *ChangedDirectory // the directory right before
	return d.children("contents", func(name string) error {
		switch name {
		case "file":
			before = nil
			f, err := d.changedFile()
			if err != nil {
				return err
			}
			c.Files = append(c.Files, f)
			return d.checkName(f.Name)
		case "directory":
			sub, err := d.changedDirectory()
			if err != nil {
				return err
			}
			c.Dirs, before = append(c.Dirs, sub), sub
			return d.checkName(sub.Name)
		}
		if before != nil && name != "name" && name != "deleted" && before.endsEarly() {
			if known, err := d.changedChild(before, name); known || err != nil {
				return err
			}
		}
		return d.fail("has <%.40s> in <contents>", name)
	})
}

func (d *decoder) changedFile() (*ChangedFile, error) {
	c := &ChangedFile{}
	f, err := d.fileWith(func(name string) (bool, error) {
		if name != "deleted" {
			return false, nil
		}
		c.Deleted = true
		return true, d.skip()
	})
	if err != nil {
		return nil, err
	}
	c.File = *f
	return c, nil
}

// Difference describes how to is reached from from: to's Self and generation, and
// only the changed parts of the tree. The caller sets PreviousIncremental.
func Difference(from, to *Index) *Incremental {
	inc := &Incremental{
		Version: IncrementalVersion, Creator: to.Creator, Comment: to.Comment, VolumeUUID: to.VolumeUUID, Generation: to.Generation,
		UpdateTime: to.UpdateTime, Self: to.Self, Previous: to.Previous, HighestUID: to.HighestUID, Lock: to.Lock,
	}
	if inc.Root, _ = differ(from.Root, to.Root); inc.Root == nil { // one and the same
		inc.Root = &ChangedDirectory{Name: to.Root.Name, UID: to.Root.UID}
	}
	return inc
}

// differ compares two directories and reports whether anything below changed.
// Trees may share what did not.
func differ(from, to *Directory) (*ChangedDirectory, bool) {
	if from == to {
		return nil, false
	}
	c := &ChangedDirectory{Name: to.Name, UID: to.UID}
	if from == nil || from.ReadOnly != to.ReadOnly || from.Times != to.Times || !equalXAttrs(from.XAttrs, to.XAttrs) || !bytes.Equal(from.Unknown, to.Unknown) {
		c.Meta = &Directory{ReadOnly: to.ReadOnly, Times: to.Times, XAttrs: to.XAttrs, Unknown: to.Unknown}
	}
	if from == nil {
		from = &Directory{}
	}
	differFiles(from, to, c)
	old := map[string]*Directory{}
	for _, sub := range from.Dirs {
		old[sub.Name] = sub
	}
	for _, sub := range to.Dirs {
		was := old[sub.Name]
		if was != nil && was.UID != sub.UID {
			c.Dirs = append(c.Dirs, &ChangedDirectory{Name: sub.Name, Deleted: true})
			was = nil
		}
		delete(old, sub.Name)
		if changed, any := differ(was, sub); any {
			c.Dirs = append(c.Dirs, changed)
		}
	}
	for _, sub := range from.Dirs {
		if old[sub.Name] != nil {
			c.Dirs = append(c.Dirs, &ChangedDirectory{Name: sub.Name, Deleted: true})
		}
	}
	return c, c.Meta != nil || len(c.Dirs) > 0 || len(c.Files) > 0
}

func differFiles(from, to *Directory, c *ChangedDirectory) {
	old := map[string]*File{}
	for _, f := range from.Files {
		old[f.Name] = f
	}
	for _, f := range to.Files {
		if was := old[f.Name]; was == nil || !equalFiles(was, f) {
			c.Files = append(c.Files, &ChangedFile{File: *f})
		}
		delete(old, f.Name)
	}
	for _, f := range from.Files {
		if old[f.Name] != nil {
			c.Files = append(c.Files, &ChangedFile{File: File{Name: f.Name}, Deleted: true})
		}
	}
}

func equalXAttrs(a, b []XAttr) bool {
	return slices.EqualFunc(a, b, func(x, y XAttr) bool { return x.Key == y.Key && bytes.Equal(x.Value, y.Value) })
}

func equalFiles(a, b *File) bool {
	return a == b || a.UID == b.UID && a.Length == b.Length && a.ReadOnly == b.ReadOnly && a.OpenForWrite == b.OpenForWrite &&
		a.IsSymlink == b.IsSymlink && a.Symlink == b.Symlink && a.Times == b.Times && equalXAttrs(a.XAttrs, b.XAttrs) &&
		slices.Equal(a.Extents, b.Extents) && bytes.Equal(a.Unknown, b.Unknown)
}

// WriteTo writes the incremental index in format 2.5.0.
func (inc *Incremental) WriteTo(w io.Writer) (int64, error) {
	e := newEncoder(w)
	e.raw(xmlDeclaration + `<ltfsincrementalindex version="` + IncrementalVersion + `">` + "\n")
	e.text("creator", inc.Creator)
	if inc.Comment != "" {
		e.text("comment", inc.Comment)
	}
	e.text("volumeuuid", inc.VolumeUUID)
	e.number("generationnumber", inc.Generation)
	e.time("updatetime", inc.UpdateTime)
	e.location("location", inc.Self)
	e.location("previousgenerationlocation", inc.Previous)
	if !inc.PreviousIncremental.IsZero() {
		e.location("previousincrementallocation", inc.PreviousIncremental)
	}
	e.number("highestfileuid", inc.HighestUID)
	e.text("volumelockstate", inc.Lock.String())
	e.changedDirectory(inc.Root)
	e.raw("</ltfsincrementalindex>\n")
	return e.finish()
}

func (e *encoder) changedDirectory(c *ChangedDirectory) {
	e.raw("<directory>\n")
	e.name("name", c.Name)
	if c.Deleted {
		e.raw("<deleted/>\n</directory>\n")
		return
	}
	if c.Meta != nil {
		e.boolean("readonly", c.Meta.ReadOnly)
		e.times(&c.Meta.Times)
	}
	e.number("fileuid", c.UID)
	if c.Meta != nil {
		e.xattrs(c.Meta.XAttrs)
	}
	e.raw("<contents>\n")
	for _, sub := range c.Dirs {
		e.changedDirectory(sub)
	}
	for _, f := range c.Files {
		if !f.Deleted {
			e.file(&f.File)
			continue
		}
		e.raw("<file>\n")
		e.name("name", f.Name)
		e.raw("<deleted/>\n</file>\n")
	}
	e.raw("</contents>\n")
	if c.Meta != nil {
		e.bytes(c.Meta.Unknown)
	}
	e.raw("</directory>\n")
}
