package zfs

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"cairn"
)

// Mark is a hold, or a cursor bookmark, with its owner: what zrepl calls an
// abstraction.
type Mark struct {
	Dataset string
	Version cairn.VersionID // the held snapshot, or the bookmark itself
	Owner   string          // the job; of a foreign hold its tag; empty for zrepl's first cursors, which belong to no job
	Purpose cairn.Purpose
	Created time.Time // when a hold was made; of a cursor, when its version was
}

// tag is that of a hold, empty when the mark is a bookmark.
func (m Mark) tag() string {
	if m.Purpose == cairn.PurposeForeign {
		return m.Owner
	}
	return tagOf(m.Purpose, m.Owner)
}

// Marks lists the marks of the selected datasets, oldest first within a dataset.
func (p *Place) Marks(ctx context.Context, f cairn.Filter) ([]Mark, error) {
	var all []Mark
	for d, err := range p.list(ctx, cairn.Query{Filter: f, Want: cairn.Want{Versions: true, Leases: true}}) {
		if err != nil {
			return nil, err
		}
		of := d.marks()
		slices.SortStableFunc(of, func(a, b Mark) int { return a.Created.Compare(b.Created) })
		all = append(all, of...)
	}
	return all, nil
}

func (d *dataset) marks() []Mark {
	var all []Mark
	for i := range d.versions {
		v := &d.versions[i]
		created := time.Unix(v.created, 0).UTC()
		if l, ok := leaseOfBookmark(v.id()); ok {
			all = append(all, Mark{d.name(), v.id(), l.Owner, l.Purpose, created})
		} else if v.version == firstCursor {
			all = append(all, Mark{d.name(), v.id(), "", cairn.PurposeCursor, created})
		}
		for _, h := range v.holds {
			l := leaseOfTag(h.tag)
			all = append(all, Mark{d.name(), v.id(), l.Owner, l.Purpose, h.created})
		}
	}
	return all
}

// groups hands out the marks of one dataset at a time, after a look at the dataset
// as it is now. All are tried; the error joins what failed.
func (p *Place) groups(ctx context.Context, op string, marks []Mark, each func(d *dataset, m Mark) error) error {
	var all []error
	marks = slices.Clone(marks)
	slices.SortStableFunc(marks, func(a, b Mark) int { return cmp.Compare(a.Dataset, b.Dataset) })
	for len(marks) > 0 {
		n := 1
		for n < len(marks) && marks[n].Dataset == marks[0].Dataset {
			n++
		}
		d, err := p.fresh(ctx, op, marks[0].Dataset)
		if err != nil {
			all = append(all, err)
		} else {
			for _, m := range marks[:n] {
				all = append(all, each(d, m))
			}
		}
		marks = marks[n:]
	}
	return errors.Join(all...)
}

// Release ends the marks: holds are released, cursors destroyed. A mark that is not
// there any more is as wanted; one whose version has another GUID now is
// KindConflict and stays.
func (p *Place) Release(ctx context.Context, marks []Mark) error {
	return p.groups(ctx, "release", marks, p.releaseMark(ctx))
}

func (p *Place) releaseMark(ctx context.Context) func(d *dataset, m Mark) error {
	return func(d *dataset, m Mark) error {
		v := d.find(m.Version.Name)
		if v == nil {
			return nil
		}
		if v.guid != m.Version.GUID {
			return mismatch("release", v, m.Version)
		}
		if tag := m.tag(); tag != "" {
			if !v.hasTag(tag) {
				return nil
			}
			return p.release(ctx, d.name(), tag, []string{v.version})
		}
		if _, ok := leaseOfBookmark(v.id()); !ok && v.version != firstCursor {
			return &cairn.Error{Op: "release", Subject: d.name() + v.version, Kind: cairn.KindInvalid, Err: errors.New("it is no cursor")}
		}
		return p.destroyBookmark(ctx, d.name(), v.version)
	}
}

// Restore undoes Release. A cursor comes back while its snapshot, or another
// bookmark of its GUID, is there; else it is KindNotFound.
func (p *Place) Restore(ctx context.Context, marks []Mark) error {
	return p.groups(ctx, "restore", marks, func(d *dataset, m Mark) error { return p.mark(ctx, d, m) })
}

// mark makes a mark.
func (p *Place) mark(ctx context.Context, d *dataset, m Mark) error {
	if tag := m.tag(); tag != "" {
		if err := d.has("restore", []cairn.VersionID{m.Version}); err != nil {
			return err
		}
		if d.find(m.Version.Name).hasTag(tag) {
			return nil
		}
		return p.hold(ctx, d.name(), tag, []string{m.Version.Name})
	}
	if v := d.find(m.Version.Name); v != nil && v.guid == m.Version.GUID {
		return nil
	}
	for i := range d.versions {
		if v := &d.versions[i]; v.guid == m.Version.GUID {
			_, err := p.bookmark(ctx, d, v.id(), m.Version.Name)
			return err
		}
	}
	return &cairn.Error{Op: "restore", Subject: d.name() + m.Version.Name, Kind: cairn.KindNotFound,
		Err: errors.New("no version of GUID " + m.Version.GUID.String() + " is there any more"), Hint: "the cursor cannot come back; the next run finds the newest common version by itself"}
}

// Adopt gives marks to another job: the new one is made before the old one goes.
// Foreign holds are not ours to give.
func (p *Place) Adopt(ctx context.Context, marks []Mark, owner string) error {
	if err := checkOwner(owner); err != nil {
		return err
	}
	releaseMark := p.releaseMark(ctx)
	return p.groups(ctx, "adopt", marks, func(d *dataset, m Mark) error {
		if m.Purpose == cairn.PurposeForeign {
			return &cairn.Error{Op: "adopt", Subject: m.Dataset + m.Version.Name, Kind: cairn.KindInvalid, Err: errors.New("the hold " + m.Owner + " is of another program"), Hint: "release it with the program that made it"}
		}
		if m.Owner == owner {
			return nil
		}
		if err := d.has("adopt", []cairn.VersionID{m.Version}); err != nil {
			return err
		}
		n := m
		n.Owner = owner
		if m.tag() == "" {
			var err error
			if n.Version.Name, err = bookmarkOf(m.Purpose, owner, m.Version.GUID); err != nil {
				return err
			}
		}
		if err := p.mark(ctx, d, n); err != nil {
			return err
		}
		return releaseMark(d, m)
	})
}
