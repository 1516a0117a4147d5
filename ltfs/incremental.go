package ltfs

import (
	"bytes"
	"io"
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
}

// ChangedFile is a file in an incremental index: new or changed as a whole, or
// deleted, in which case only its name counts.
type ChangedFile struct {
	File
	Deleted bool
}

// ReadIncremental reads an incremental index. Software is known that closes an
// existing directory's element right after its name; the tree it meant cannot be
// told with certainty, so such an index is refused.
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
	return inc, nil
}

func (d *decoder) incrementalChild(inc *Incremental, name string) (err error) {
	switch name {
	case "previousincrementallocation":
		inc.PreviousIncremental, err = d.location(name)
	case "directory":
		inc.Root, err = d.changedDirectory()
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
	meta, changed := &Directory{}, false
	err := d.children("directory", func(name string) (err error) {
		switch name {
		case "name":
			c.Name, err = d.nameText(name)
			return err
		case "fileuid":
			c.UID, err = d.number(name)
			return err
		case "deleted":
			c.Deleted = true
			return d.skip()
		case "contents":
			return d.changedContents(c)
		}
		changed = true
		switch name {
		case "readonly":
			meta.ReadOnly, err = d.boolean(name)
		case "extendedattributes":
			meta.XAttrs, err = d.xattrs()
		default:
			if t := meta.Times.field(name); t != nil {
				*t, err = d.timestamp(name)
				return err
			}
			err = d.unknown(&meta.Unknown)
		}
		return err
	})
	if changed {
		c.Meta = meta
	}
	return c, err
}

func (d *decoder) changedContents(c *ChangedDirectory) error {
	return d.children("contents", func(name string) error {
		switch name {
		case "file":
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
			c.Dirs = append(c.Dirs, sub)
			return d.checkName(sub.Name)
		case "fileuid", "contents":
			return d.fail("was written by software that closes a directory's element after its name, so <%s> stands one level too high; which tree was meant cannot be told", name)
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

// Apply turns the index before inc (full, or with earlier incrementals applied)
// into the one inc describes. It refuses an index of another volume or
// generation, and changes that do not fit the tree, such as the removal of a name
// that is not there, which known software writes for a rename. After an error ix is half
// changed and is to be thrown away.
func (inc *Incremental) Apply(ix *Index) error {
	const what = "incremental index"
	switch {
	case inc.VolumeUUID != ix.VolumeUUID:
		return formatError(what, "is of volume %s, the index before it of %s", inc.VolumeUUID, ix.VolumeUUID)
	case inc.Generation != ix.Generation+1:
		return formatError(what, "is generation %d and does not follow generation %d", inc.Generation, ix.Generation)
	}
	a := applier{highest: ix.HighestUID}
	if err := a.directory("/", ix.Root, inc.Root); err != nil {
		return err
	}
	ix.Creator, ix.Comment, ix.UpdateTime = inc.Creator, inc.Comment, inc.UpdateTime
	ix.Generation, ix.Self, ix.Previous, ix.Lock = inc.Generation, inc.Self, inc.Previous, inc.Lock
	ix.HighestUID = max(inc.HighestUID, a.highest)
	if problems := ix.uidProblems(); len(problems) > 0 {
		return formatError(what, "does not fit the index before it: %v", problems[0])
	}
	return nil
}

// uidProblems are those of Check that a wrong replay shows.
func (ix *Index) uidProblems() []Problem {
	c := &checker{ix: ix, uids: map[uint64]string{}}
	for at, node := range ix.All() {
		if node.Dir != nil {
			c.uid(at, node.Dir.UID)
			c.siblings(at, node.Dir)
		} else {
			c.uid(at, node.File.UID)
		}
	}
	return c.problems
}

type applier struct{ highest uint64 }

func misfit(at, name, why string) error {
	return formatError("incremental index", "%s in %s %s", strconv.Quote(name), at, why)
}

func (a *applier) directory(at string, d *Directory, c *ChangedDirectory) error {
	if c.UID != 0 && d.UID != 0 && c.UID != d.UID {
		return misfit(at, c.Name, "is another directory in the index before")
	}
	if c.Meta != nil {
		d.ReadOnly, d.Times, d.XAttrs, d.Unknown = c.Meta.ReadOnly, c.Meta.Times, c.Meta.XAttrs, c.Meta.Unknown
	}
	if at == "/" {
		d.Name = c.Name
	}
	// Removals first: a name can be taken over by something new.
	for _, f := range c.Files {
		if f.Deleted && !removeFile(d, f.Name) {
			return misfit(at, f.Name, "is removed and is not there")
		}
	}
	for _, sub := range c.Dirs {
		if sub.Deleted && !removeDir(d, sub.Name) {
			return misfit(at, sub.Name, "is removed and is not there")
		}
	}
	a.files(d, c.Files)
	for _, sub := range c.Dirs {
		if sub.Deleted {
			continue
		}
		if err := a.sub(at, d, sub); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) files(d *Directory, changed []*ChangedFile) {
	if len(changed) == 0 {
		return
	}
	place := make(map[string]int, len(d.Files))
	for i, f := range d.Files {
		place[f.Name] = i
	}
	for _, c := range changed {
		if c.Deleted {
			continue
		}
		a.highest = max(a.highest, c.UID)
		f := c.File
		if i, known := place[f.Name]; known {
			d.Files[i] = &f
			continue
		}
		place[f.Name] = len(d.Files)
		d.Files = append(d.Files, &f)
	}
}

func (a *applier) sub(at string, d *Directory, c *ChangedDirectory) error {
	next := at + c.Name + "/"
	for _, old := range d.Dirs {
		if old.Name == c.Name {
			return a.directory(next, old, c)
		}
	}
	if c.Meta == nil {
		return misfit(at, c.Name, "is said to be unchanged and is not there")
	}
	a.highest = max(a.highest, c.UID)
	fresh := &Directory{Name: c.Name, UID: c.UID}
	d.Dirs = append(d.Dirs, fresh)
	return a.directory(next, fresh, c)
}

func removeFile(d *Directory, name string) bool {
	n := len(d.Files)
	d.Files = slices.DeleteFunc(d.Files, func(f *File) bool { return f.Name == name })
	return len(d.Files) < n
}

func removeDir(d *Directory, name string) bool {
	n := len(d.Dirs)
	d.Dirs = slices.DeleteFunc(d.Dirs, func(s *Directory) bool { return s.Name == name })
	return len(d.Dirs) < n
}

// Difference describes how to is reached from from: to's Self and generation, and
// only the changed parts of the tree. The caller sets PreviousIncremental.
func Difference(from, to *Index) *Incremental {
	inc := &Incremental{
		Version: IncrementalVersion, Creator: to.Creator, Comment: to.Comment, VolumeUUID: to.VolumeUUID, Generation: to.Generation,
		UpdateTime: to.UpdateTime, Self: to.Self, Previous: to.Previous, HighestUID: to.HighestUID, Lock: to.Lock,
	}
	inc.Root, _ = differ(from.Root, to.Root)
	return inc
}

// differ compares two directories and reports whether anything below changed.
func differ(from, to *Directory) (*ChangedDirectory, bool) {
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
	return a.UID == b.UID && a.Length == b.Length && a.ReadOnly == b.ReadOnly && a.OpenForWrite == b.OpenForWrite &&
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
