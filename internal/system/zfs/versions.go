package zfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cairn"
)

// Bookmark makes a bookmark, of a snapshot or of another bookmark.
func (s *side) Bookmark(ctx context.Context, name string, of cairn.VersionID, mark string, degrade bool) (cairn.Version, error) {
	const op = "bookmark"
	if err := checkMark(name, mark); err != nil {
		return cairn.Version{}, err
	}
	d, err := s.place.look(ctx, op, name, of)
	if err != nil {
		return cairn.Version{}, err
	}
	made, err := s.place.bookmark(ctx, d, of, mark)
	if err != nil || !degrade || !of.IsSnapshot() {
		return made, err
	}
	results, err := s.Destroy(ctx, name, []cairn.VersionID{of})
	return made, errors.Join(append(results, err)...)
}

func checkMark(dataset, mark string) error {
	if err := checkDataset(dataset); err != nil {
		return err
	}
	if !strings.HasPrefix(mark, "#") {
		return &cairn.Error{Op: "bookmark", Subject: dataset, Kind: cairn.KindInvalid, Err: fmt.Errorf("%q is no name of a bookmark", mark), Hint: "it begins with '#'"}
	}
	return checkVersion(dataset, cairn.VersionID{Name: mark})
}

// bookmark makes the bookmark, unless the name stands for the same version already.
func (p *Place) bookmark(ctx context.Context, d *dataset, of cairn.VersionID, mark string) (cairn.Version, error) {
	const op = "bookmark"
	if err := p.run(ctx, "bookmark", d.name()+of.Name, d.name()+mark); err != nil {
		err = p.failed(op, d.name()+mark, err)
		if !errors.Is(err, cairn.KindExists) {
			return cairn.Version{}, err
		}
		now, ferr := p.fresh(ctx, op, d.name())
		if ferr != nil {
			return cairn.Version{}, ferr
		}
		v := now.find(mark)
		if v == nil || v.guid != of.GUID {
			return cairn.Version{}, err
		}
		return now.listed(slices.IndexFunc(now.versions, func(o version) bool { return o.version == mark }), cairn.Want{}), nil
	}
	v := version{row: d.find(of.Name).row}
	v.version, v.kind, v.numbers[used], v.numbers[userrefs] = mark, "bookmark", 0, 0
	add := func(d *dataset) { d.versions = append(d.versions, v) }
	p.amend(d.name(), add)
	c := d.clone()
	add(c)
	c.sort()
	return c.listed(slices.IndexFunc(c.versions, func(o version) bool { return o.version == mark }), cairn.Want{}), nil
}

// destroyBookmark destroys one bookmark; callers have checked name and GUID.
func (p *Place) destroyBookmark(ctx context.Context, dataset, mark string) error {
	err := p.failed("destroy", dataset+mark, p.run(ctx, "destroy", dataset+mark))
	if err != nil && !errors.Is(err, cairn.KindNotFound) {
		p.forget(dataset)
		return err
	}
	p.gone(dataset, mark)
	return nil
}

// gone books that versions are no more.
func (p *Place) gone(name string, names ...string) {
	p.amend(name, func(d *dataset) {
		d.versions = slices.DeleteFunc(d.versions, func(v version) bool { return slices.Contains(names, v.version) })
	})
}

// Destroy lists the dataset anew, compares names and GUIDs, and destroys what
// nothing holds: all snapshots with one process, each bookmark with its own.
func (s *side) Destroy(ctx context.Context, name string, ids []cairn.VersionID) ([]error, error) {
	p := s.place
	d, err := p.fresh(ctx, "destroy", name)
	if err != nil {
		return nil, err
	}
	results := make([]error, len(ids))
	var at []int // of snapshots that can go
	for i, id := range ids {
		var free bool
		if free, results[i] = p.destroyable(d, id); !free {
			continue
		}
		if id.IsSnapshot() {
			at = append(at, i)
		} else {
			results[i] = p.destroyBookmark(ctx, name, id.Name)
		}
	}
	for _, chunk := range chunks(namesAt(ids, at), len(ids)) {
		p.destroySnapshots(ctx, name, chunk, func(k int, err error) { results[at[k]] = err })
		at = at[len(chunk):]
	}
	return results, nil
}

func namesAt(ids []cairn.VersionID, at []int) []string {
	names := make([]string, len(at))
	for i, k := range at {
		names[i] = ids[k].Name
	}
	return names
}

// destroyable reports whether the version is there and nothing keeps it.
func (p *Place) destroyable(d *dataset, id cairn.VersionID) (bool, error) {
	if err := checkVersion(d.name(), id); err != nil {
		return false, err
	}
	v := d.find(id.Name)
	busy := func(why string) (bool, error) {
		return false, &cairn.Error{Op: "destroy", Subject: d.name() + id.Name, Kind: cairn.KindBusy, Err: errors.New(why)}
	}
	switch {
	case v == nil:
		return false, nil
	case v.guid != id.GUID:
		return false, mismatch("destroy", v, id)
	case v.held() != nil:
		return false, v.held()
	case p.used(d.name(), id):
		return busy("a running stream or reader needs it")
	case d.token() != "" && d.partial().From.GUID == v.guid && id.IsSnapshot():
		return busy("a receive that was cut stands on it")
	}
	return true, nil
}

// destroySnapshots destroys snapshots of one dataset. zfs destroys all or none of
// them, so that after a failure halves are tried.
func (p *Place) destroySnapshots(ctx context.Context, dataset string, names []string, result func(i int, err error)) {
	plain := make([]string, len(names))
	for i, n := range names {
		plain[i] = n[1:]
	}
	err := p.failed("destroy", dataset+names[0], p.run(ctx, "destroy", dataset+"@"+strings.Join(plain, ",")))
	switch {
	case err == nil || len(names) == 1 && errors.Is(err, cairn.KindNotFound):
		p.gone(dataset, names...)
	case len(names) == 1 || ctx.Err() != nil:
		p.forget(dataset)
		for i := range names {
			result(i, err)
		}
	default:
		half := len(names) / 2
		p.destroySnapshots(ctx, dataset, names[:half], result)
		p.destroySnapshots(ctx, dataset, names[half:], func(i int, err error) { result(half+i, err) })
	}
}

// Rollback rolls the head back. zfs itself refuses what stands in the way, but only
// after it has destroyed what does not: so holds are looked at first.
func (s *side) Rollback(ctx context.Context, name string, to cairn.VersionID, destroyNewer bool) error {
	const op = "roll back"
	p := s.place
	if err := checkVersion(name, to); err != nil {
		return err
	}
	d, err := p.fresh(ctx, op, name)
	if err == nil {
		err = d.has(op, []cairn.VersionID{to})
	}
	if err != nil {
		return err
	}
	if !to.IsSnapshot() {
		return &cairn.Error{Op: op, Subject: name + to.Name, Kind: cairn.KindInvalid, Err: errors.New("a bookmark has no data")}
	}
	args := []string{"rollback"}
	for i := range d.versions {
		v := &d.versions[i]
		if v.order <= d.find(to.Name).order {
			continue
		}
		if !destroyNewer {
			return &cairn.Error{Op: op, Subject: name + to.Name, Kind: cairn.KindConflict, Err: fmt.Errorf("%s is newer", v.version), Hint: "destroying newer versions has to be asked for"}
		}
		if free, err := p.destroyable(d, v.id()); !free {
			return err
		}
		args = []string{"rollback", "-r"}
	}
	defer p.forget(name)
	return p.failed(op, name+to.Name, p.run(ctx, append(args, name+to.Name)...))
}

// Rename renames a dataset with everything below it.
func (s *side) Rename(ctx context.Context, from, to string) error {
	const op = "rename"
	if err := errors.Join(checkDataset(from), checkDataset(to)); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return s.place.failed(op, from, err)
	}
	if _, err := s.place.look(ctx, op, from); err != nil {
		return err // no parents are made for what is not there
	}
	if err := s.parents(ctx, op, to); err != nil {
		return err
	}
	defer s.place.forgetBelow(from)
	return s.place.failed(op, from, s.place.run(ctx, "rename", from, to))
}

// Seal sets readonly, which keeps every write but a receive's away.
func (s *side) Seal(ctx context.Context, name string, sealed bool) error {
	value := map[bool]string{true: "on", false: "off"}[sealed]
	return s.set(ctx, "seal", name, readonlyProperty+"="+value)
}

// Resize sets the size of a zvol.
func (s *side) Resize(ctx context.Context, name string, size int64) error {
	if size <= 0 || size%sector != 0 {
		return &cairn.Error{Op: "resize", Subject: name, Kind: cairn.KindInvalid, Err: fmt.Errorf("%d bytes are no multiple of %d", size, sector)}
	}
	d, err := s.place.look(ctx, "resize", name)
	if err != nil {
		return err
	}
	if d.kindOf() != cairn.KindZvol {
		return &cairn.Error{Op: "resize", Subject: name, Kind: cairn.KindUnsupported, Err: errors.New("it is a filesystem"), Hint: "set its quota instead"}
	}
	return s.set(ctx, "resize", name, fmt.Sprintf("volsize=%d", size))
}

// sector is the unit of a zvol's size.
const sector = 512

func (s *side) set(ctx context.Context, op, name, assignment string) error {
	if err := checkDataset(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return s.place.failed(op, name, err)
	}
	defer s.place.forgetBelow(name) // properties are inherited
	return s.place.failed(op, name, s.place.run(ctx, "set", assignment, name))
}
