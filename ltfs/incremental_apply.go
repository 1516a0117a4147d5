package ltfs

import (
	"slices"
	"strconv"
)

// Apply turns the index before inc (full, or with earlier incrementals applied)
// into the one inc describes. It refuses an index of another volume or
// generation, and changes that do not fit the tree, such as the removal of a name
// that is not there. Known software writes that for a rename, with the new name in
// place of the old one: where the identity of what moved is found in the directory,
// that is what is removed, and Repairs says so. After an error ix is half changed
// and is to be thrown away.
func (inc *Incremental) Apply(ix *Index) error { return ix.Replay(inc) }

// Replay is Apply for incremental indexes that follow each other; the rules that
// concern the whole tree are checked once, at the end.
func (ix *Index) Replay(list ...*Incremental) error {
	for _, inc := range list {
		if err := inc.apply(ix); err != nil {
			return err
		}
	}
	if problems := ix.uidProblems(); len(problems) > 0 {
		return formatError("incremental index", "does not fit the index before it: %v", problems[0])
	}
	return nil
}

func (inc *Incremental) apply(ix *Index) error {
	const what = "incremental index"
	switch {
	case inc.VolumeUUID != ix.VolumeUUID:
		return formatError(what, "is of volume %s, the index before it of %s", inc.VolumeUUID, ix.VolumeUUID)
	case inc.Generation != ix.Generation+1:
		return formatError(what, "is generation %d and does not follow generation %d", inc.Generation, ix.Generation)
	}
	a := applier{highest: ix.HighestUID, moved: map[string]uint64{}}
	a.collect(inc.Root)
	if err := a.directory("/", ix.Root, inc.Root); err != nil {
		return err
	}
	ix.Creator, ix.Comment, ix.UpdateTime = inc.Creator, inc.Comment, inc.UpdateTime
	ix.Generation, ix.Self, ix.Previous, ix.Lock = inc.Generation, inc.Self, inc.Previous, inc.Lock
	ix.HighestUID = max(inc.HighestUID, a.highest)
	inc.Repairs = append(inc.Repairs, a.repairs...)
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

type applier struct {
	highest uint64
	moved   map[string]uint64 // the identity of what the incremental index puts under a name; 0: of several
	repairs []string
}

// collect gathers the names that appear, with their identities.
func (a *applier) collect(c *ChangedDirectory) {
	note := func(name string, uid uint64) {
		if _, twice := a.moved[name]; twice {
			uid = 0
		}
		a.moved[name] = uid
	}
	for _, f := range c.Files {
		if !f.Deleted {
			note(f.Name, f.UID)
		}
	}
	for _, sub := range c.Dirs {
		if !sub.Deleted {
			note(sub.Name, sub.UID)
			a.collect(sub)
		}
	}
}

// removeFile takes a name out of a directory, or, where it is not there, the file
// that has moved to that name.
func (a *applier) removeFile(at string, d *Directory, name string) error {
	if takeFile(d, func(f *File) bool { return f.Name == name }) != nil {
		return nil
	}
	uid := a.moved[name]
	was := takeFile(d, func(f *File) bool { return uid != 0 && f.UID == uid })
	if was == nil {
		return misfit(at, name, "is removed and is not there")
	}
	a.repair(at, name, was.Name)
	return nil
}

// removeDir is removeFile for a directory.
func (a *applier) removeDir(at string, d *Directory, name string) error {
	if takeDir(d, func(s *Directory) bool { return s.Name == name }) != nil {
		return nil
	}
	uid := a.moved[name]
	was := takeDir(d, func(s *Directory) bool { return uid != 0 && s.UID == uid })
	if was == nil {
		return misfit(at, name, "is removed and is not there")
	}
	a.repair(at, name, was.Name)
	return nil
}

func (a *applier) repair(at, name, was string) {
	a.repairs = append(a.repairs, "the removal of "+strconv.Quote(name)+" in "+at+", where it is not, was taken for that of "+strconv.Quote(was)+", which moved to that name")
}

func takeFile(d *Directory, fits func(*File) bool) *File {
	i := slices.IndexFunc(d.Files, fits)
	if i < 0 {
		return nil
	}
	f := d.Files[i]
	d.Files = slices.Delete(d.Files, i, i+1)
	return f
}

func takeDir(d *Directory, fits func(*Directory) bool) *Directory {
	i := slices.IndexFunc(d.Dirs, fits)
	if i < 0 {
		return nil
	}
	sub := d.Dirs[i]
	d.Dirs = slices.Delete(d.Dirs, i, i+1)
	return sub
}

func misfit(at, name, why string) error {
	return formatError("incremental index", "%s in %s %s", strconv.Quote(name), at, why)
}

func (a *applier) directory(at string, d *Directory, c *ChangedDirectory) error {
	if c.UID != 0 && d.UID != 0 && c.UID != d.UID || c.early && c.UID != d.UID {
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
		if !f.Deleted {
			continue
		}
		if err := a.removeFile(at, d, f.Name); err != nil {
			return err
		}
	}
	for _, sub := range c.Dirs {
		if !sub.Deleted {
			continue
		}
		if err := a.removeDir(at, d, sub.Name); err != nil {
			return err
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
