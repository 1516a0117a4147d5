package zfs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"cairn"
)

// SetLease makes holds, or cursor bookmarks, of a named set. What is new is made
// before what is old goes.
func (s *side) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	return s.place.setLease(ctx, set)
}

func (p *Place) setLease(ctx context.Context, set cairn.LeaseSet) error {
	const op = "lease"
	if err := checkOwner(set.Owner); err != nil {
		return err
	}
	d, err := p.look(ctx, op, set.Dataset, set.Versions...)
	if err != nil {
		return err
	}
	switch set.Purpose {
	case cairn.PurposeStep, cairn.PurposeReceived, cairn.PurposePin:
		return p.setHolds(ctx, d, tagOf(set.Purpose, set.Owner), set.Versions)
	case cairn.PurposeCursor, cairn.PurposeTentative:
		return p.setCursors(ctx, d, set)
	}
	return &cairn.Error{Op: op, Subject: set.Dataset, Kind: cairn.KindUnsupported,
		Err: errors.New("ZFS keeps no " + set.Purpose.String() + " leases"), Hint: "they live in the memory of the process that hosts the place"}
}

func (v *version) hasTag(tag string) bool {
	return slices.ContainsFunc(v.holds, func(h hold) bool { return h.tag == tag })
}

func (p *Place) setHolds(ctx context.Context, d *dataset, tag string, ids []cairn.VersionID) error {
	var missing, surplus []string
	for _, id := range ids {
		switch {
		case !id.IsSnapshot():
			return &cairn.Error{Op: "lease", Subject: d.name() + id.Name, Kind: cairn.KindInvalid, Err: errors.New("zfs holds snapshots only")}
		case !d.find(id.Name).hasTag(tag):
			missing = append(missing, id.Name)
		}
	}
	for i := range d.versions {
		v := &d.versions[i]
		if v.hasTag(tag) && !slices.Contains(ids, v.id()) {
			surplus = append(surplus, v.version)
		}
	}
	if err := p.hold(ctx, d.name(), tag, missing); err != nil {
		return err
	}
	return p.release(ctx, d.name(), tag, surplus)
}

// whole are full names of versions of one dataset.
func whole(dataset string, versions []string) []string {
	all := make([]string, len(versions))
	for i, v := range versions {
		all[i] = dataset + v
	}
	return all
}

// hold holds all snapshots or none. zfs goes on after the first that fails; a tag
// that is there already is as wanted.
func (p *Place) hold(ctx context.Context, name, tag string, snapshots []string) error {
	if len(snapshots) == 0 {
		return nil
	}
	err := p.run(ctx, append([]string{"hold", tag}, whole(name, snapshots)...)...)
	if err == nil {
		p.amend(name, func(d *dataset) { d.book(tag, snapshots) })
		return nil
	}
	p.forget(name)
	err = p.failed("lease", name+snapshots[0], err)
	if ctx.Err() != nil {
		return err
	}
	d, ferr := p.fresh(ctx, "lease", name)
	if ferr != nil {
		return ferr
	}
	var held []string
	for _, s := range snapshots {
		if v := d.find(s); v != nil && v.hasTag(tag) {
			held = append(held, s)
		}
	}
	if len(held) == len(snapshots) {
		return nil
	}
	return errors.Join(err, p.release(ctx, name, tag, held))
}

// book notes a hold that was just made.
func (d *dataset) book(tag string, snapshots []string) {
	for _, s := range snapshots {
		if v := d.find(s); v != nil && !v.hasTag(tag) {
			v.holds = append(v.holds, hold{tag, time.Now().UTC()})
			v.numbers[userrefs]++
		}
	}
}

// release lets snapshots go; a tag or a snapshot that is not there is as wanted.
func (p *Place) release(ctx context.Context, name, tag string, snapshots []string) error {
	if len(snapshots) == 0 {
		return nil
	}
	err := p.run(ctx, append([]string{"release", tag}, whole(name, snapshots)...)...)
	if err == nil {
		p.amend(name, func(d *dataset) { d.unbook(tag, snapshots) })
		return nil
	}
	p.forget(name)
	if ctx.Err() == nil && releasedBefore(err) {
		return nil
	}
	return p.failed("lease", name+snapshots[0], err)
}

// releasedBefore reports whether every complaint is about a hold that is not there.
func releasedBefore(err error) bool {
	const begin = "cannot release hold"
	_, text, found := strings.Cut(err.Error(), begin)
	if !found {
		return false
	}
	for part := range strings.SplitSeq(text, begin) {
		if !strings.Contains(part, "no such tag") && !strings.Contains(part, "does not exist") {
			return false
		}
	}
	return true
}

func (d *dataset) unbook(tag string, snapshots []string) {
	for _, s := range snapshots {
		if v := d.find(s); v != nil && v.hasTag(tag) {
			v.holds = slices.DeleteFunc(v.holds, func(h hold) bool { return h.tag == tag })
			v.numbers[userrefs]--
		}
	}
}

// setCursors makes the bookmarks that are the set's cursors, then destroys those it
// had before. A tentative cursor that is the last trace of its version stays until
// the set is released: the step that is beginning may stand on it.
func (p *Place) setCursors(ctx context.Context, d *dataset, set cairn.LeaseSet) error {
	want := map[string]bool{}
	for _, id := range set.Versions {
		name, err := bookmarkOf(set.Purpose, set.Owner, id.GUID)
		if err != nil {
			return err
		}
		want[name] = true
		if v := d.find(name); v != nil && v.guid == id.GUID {
			continue
		}
		if _, err := p.bookmark(ctx, d, id, name); err != nil {
			return err
		}
	}
	for i := range d.versions {
		v := &d.versions[i]
		l, ok := leaseOfBookmark(v.id())
		if !ok || l.Owner != set.Owner || l.Purpose != set.Purpose || want[v.version] {
			continue
		}
		if set.Purpose == cairn.PurposeTentative && len(want) > 0 && d.alone(v) {
			continue
		}
		if err := p.destroyBookmark(ctx, d.name(), v.version); err != nil {
			return err
		}
	}
	return nil
}

// alone reports whether no other version has the GUID.
func (d *dataset) alone(v *version) bool {
	return !slices.ContainsFunc(d.versions, func(o version) bool { return o.guid == v.guid && o.version != v.version })
}
