package memory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"cairn"
	"cairn/internal/mech/digest"
)

const sector = 512

// Endpoint offers the place with every ability.
func (p *Place) Endpoint() *cairn.Endpoint {
	formats := map[cairn.DatasetKind][]cairn.Format{cairn.KindVolume: {cairn.FormatBlocks}}
	return &cairn.Endpoint{
		Info:   cairn.Info{Place: p.name, Sends: formats, Accepts: formats, Clones: []cairn.DatasetKind{cairn.KindVolume}},
		Lister: p, Sender: p, Receiver: p, Snapshots: p, Bookmarks: p, Destroys: p, Leases: p, Estimates: p,
		Blocks: p, Changes: p, Rollbacks: p, Resizes: p, Renames: p, Verifies: p, Seals: p, Digests: p, Heals: p,
	}
}

// change runs one changing call on one dataset: hooks, look-up, and the change
// under the lock. A check that fails changes nothing.
func (p *Place) change(ctx context.Context, ability cairn.Ability, name string, do func(d *dataset) error) error {
	c := Call{Ability: ability, Dataset: name}
	for _, c.Stage = range []Stage{Begin, Commit} {
		if err := p.ask(ctx, c); err != nil {
			return err
		}
	}
	if err := p.locked(string(ability), name, do); err != nil {
		return err
	}
	c.Stage = Done
	return p.asked(ctx, c)
}

// asked consults the hooks after the change: the context no longer matters.
func (p *Place) asked(ctx context.Context, c Call) error {
	p.mu.Lock()
	hooks := p.hooks
	p.mu.Unlock()
	for _, h := range hooks {
		if err := h(ctx, c); err != nil {
			return p.failed(c, err)
		}
	}
	return nil
}

func (p *Place) locked(op, name string, do func(d *dataset) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := p.dataset(op, name)
	if err == nil {
		err = do(d)
	}
	var e *cairn.Error
	if errors.As(err, &e) && e.Place == "" {
		e.Place = p.name
	}
	return err
}

// List is cairn.Lister's.
func (p *Place) List(ctx context.Context, q cairn.Query) iter.Seq2[*cairn.Listing, error] {
	return func(yield func(*cairn.Listing, error) bool) {
		if err := p.ask(ctx, Call{Ability: "list", Stage: Begin}); err != nil {
			yield(nil, err)
			return
		}
		for _, name := range p.names(q) {
			if err := p.ask(ctx, Call{Ability: "list", Dataset: name, Stage: Body}); err != nil {
				yield(nil, err)
				return
			}
			if l := p.row(name, q.Want); l != nil && !yield(l, nil) {
				return
			}
		}
	}
}

func (p *Place) names(q cairn.Query) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := slices.Sorted(maps.Keys(p.datasets))
	return slices.DeleteFunc(names, func(n string) bool {
		return !q.Filter.Match(n) || q.Names != nil && !slices.Contains(q.Names, n)
	})
}

func (p *Place) row(name string, w cairn.Want) *cairn.Listing {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.datasets[name]
	if d == nil {
		return nil // gone since the listing began
	}
	l := d.listing(w)
	for parent := name; l.Dataset.Parent == ""; {
		i := strings.LastIndexByte(parent, '/')
		if i < 0 {
			break
		}
		if parent = parent[:i]; p.datasets[parent] != nil {
			l.Dataset.Parent = parent
		}
	}
	return l
}

// Snapshot is cairn.Snapshotter's.
func (p *Place) Snapshot(ctx context.Context, name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	if err := cairn.CheckVersionName(name); err != nil {
		return nil, err
	}
	if !strings.HasPrefix(name, "@") {
		return nil, failed("snapshot", name, cairn.KindInvalid, errors.New("a snapshot's name begins with '@'"))
	}
	call := Call{Ability: "snapshot", Stage: Begin}
	if err := p.ask(ctx, call); err != nil {
		return nil, err
	}
	call.Stage = Commit
	if err := p.ask(ctx, call); err != nil {
		return nil, err
	}
	out, err := p.captureAll(name, datasets, atomic)
	if err != nil {
		return nil, err
	}
	call.Stage = Done
	return out, p.asked(ctx, call)
}

func (p *Place) captureAll(name string, datasets []string, atomic bool) ([]cairn.Captured, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]cairn.Captured, len(datasets))
	for i, ds := range datasets {
		out[i] = cairn.Captured{Dataset: ds, Err: p.mayCapture(ds, name)}
		if out[i].Err != nil && atomic {
			return nil, out[i].Err
		}
	}
	now := time.Now()
	for i, ds := range datasets {
		if out[i].Err == nil {
			out[i].Version = p.datasets[ds].capture(cairn.VersionID{Name: name, GUID: newGUID()}, now).Version
		}
	}
	return out, nil
}

func (p *Place) mayCapture(ds, name string) error {
	d, err := p.dataset("snapshot", ds)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(d.versions, func(v *version) bool { return v.Name == name }) {
		return failed("snapshot", ds+name, cairn.KindExists, nil)
	}
	return nil
}

// Bookmark is cairn.Bookmarker's.
func (p *Place) Bookmark(ctx context.Context, ds string, of cairn.VersionID, name string, degrade bool) (made cairn.Version, err error) {
	if err := cairn.CheckVersionName(name); err != nil {
		return cairn.Version{}, err
	}
	if !strings.HasPrefix(name, "#") || !of.IsSnapshot() {
		return cairn.Version{}, failed("bookmark", ds+of.Name, cairn.KindInvalid, errors.New("a bookmark '#' is made of a snapshot '@'"))
	}
	err = p.change(ctx, "bookmark", ds, func(d *dataset) error {
		made, err = d.bookmark(of, name, degrade)
		return err
	})
	return made, err
}

func (d *dataset) bookmark(of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	i := slices.IndexFunc(d.versions, func(v *version) bool { return v.Name == name })
	if i >= 0 && d.versions[i].GUID != of.GUID {
		return cairn.Version{}, failed("bookmark", d.info.Name+name, cairn.KindExists, errors.New("it is a bookmark of another version"))
	}
	snap, err := d.find("bookmark", of)
	if err != nil {
		if i >= 0 && cairn.KindOf(err) == cairn.KindNotFound {
			return d.versions[i].Version, nil // the same call was made before
		}
		return cairn.Version{}, err
	}
	if degrade {
		if err := d.held(snap); err != nil {
			return cairn.Version{}, err
		}
	}
	var b *version
	if i >= 0 {
		b = d.versions[i]
	} else {
		b = &version{Version: snap.Version}
		b.Name, b.Unique = name, 0
		d.add(b)
	}
	if degrade {
		d.passCursors(snap, b)
		d.remove(snap)
	}
	return b.Version, nil
}

// Destroy is cairn.Destroyer's.
func (p *Place) Destroy(ctx context.Context, ds string, ids []cairn.VersionID) (results []error, err error) {
	results = make([]error, len(ids))
	err = p.change(ctx, "destroy", ds, func(d *dataset) error {
		for i, id := range ids {
			v, err := d.find("destroy", id)
			switch {
			case err == nil:
				results[i] = d.destroy(v)
			case cairn.KindOf(err) != cairn.KindNotFound:
				results[i] = err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// SetLease is cairn.Leaser's.
func (p *Place) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	return p.change(ctx, "lease", set.Dataset, func(d *dataset) error {
		for _, id := range set.Versions {
			if _, err := d.find("lease", id); err != nil {
				return err
			}
		}
		key := leaseKey{set.Owner, set.Purpose}
		if len(set.Versions) == 0 {
			delete(d.leases, key)
			return nil
		}
		d.leases[key] = slices.Clone(set.Versions)
		return nil
	})
}

// Estimate is cairn.Estimator's.
func (p *Place) Estimate(ctx context.Context, steps []cairn.Step) ([]int64, error) {
	if err := p.ask(ctx, Call{Ability: "estimate", Stage: Begin}); err != nil {
		return nil, err
	}
	sizes := make([]int64, len(steps))
	for i, s := range steps {
		err := p.locked("estimate", s.Dataset, func(d *dataset) error {
			_, set, err := d.step(s)
			sizes[i] = int64(len(set)) * cairn.BlockSize
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return sizes, nil
}

// Changed is cairn.Changer's.
func (p *Place) Changed(ctx context.Context, ds string, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		if err := p.ask(ctx, Call{Ability: "changes", Dataset: ds, Stage: Begin}); err != nil {
			yield(cairn.Extent{}, err)
			return
		}
		var extents []cairn.Extent
		if err := p.locked("compare", ds, func(d *dataset) (err error) {
			extents, err = d.diff(from, to)
			return err
		}); err != nil {
			yield(cairn.Extent{}, err)
			return
		}
		for _, e := range extents {
			if err := p.ask(ctx, Call{Ability: "changes", Dataset: ds, Stage: Body}); err != nil {
				yield(cairn.Extent{}, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (d *dataset) diff(from, to cairn.VersionID) ([]cairn.Extent, error) {
	a, err := d.find("compare", from)
	if err != nil {
		return nil, err
	}
	size := d.head.size
	var b *version
	if !to.IsZero() {
		if b, err = d.find("compare", to); err != nil {
			return nil, err
		}
		size = b.Size
		if b.Order < a.Order {
			return nil, failed("compare", d.info.Name+to.Name, cairn.KindInvalid, fmt.Errorf("it is older than %s", from))
		}
	}
	return d.changed(a.Order, b).extents(max(size, a.Size)), nil
}

// Rollback is cairn.Rollbacker's.
func (p *Place) Rollback(ctx context.Context, ds string, to cairn.VersionID, destroyNewer bool) error {
	return p.change(ctx, "rollback", ds, func(d *dataset) error {
		v, err := d.find("roll back", to)
		switch {
		case err != nil:
			return err
		case v.image == nil:
			return failed("roll back", ds+to.Name, cairn.KindInvalid, errors.New("a bookmark has no data"))
		case d.receiving || d.partial != nil:
			return failed("roll back", ds, cairn.KindBusy, errors.New("a receive is pending"))
		}
		var newer []*version
		for _, o := range d.versions {
			if o.Order > v.Order {
				newer = append(newer, o)
			}
		}
		if len(newer) > 0 && !destroyNewer {
			return failed("roll back", ds+to.Name, cairn.KindConflict, fmt.Errorf("%d newer versions, the newest is %s", len(newer), d.newest()))
		}
		for _, o := range newer {
			if err := d.held(o); err != nil {
				return err
			}
		}
		for _, o := range newer {
			d.remove(o)
		}
		d.head, d.dirty = v.image.clone(), blockSet{}
		return nil
	})
}

// Resize is cairn.Resizer's.
func (p *Place) Resize(ctx context.Context, ds string, size int64) error {
	if size < 0 || size%sector != 0 {
		return failed("resize", ds, cairn.KindInvalid, fmt.Errorf("%d is no multiple of the sector of %d bytes", size, sector))
	}
	return p.change(ctx, "resize", ds, func(d *dataset) error {
		if d.info.Sealed {
			return failed("resize", ds, cairn.KindPermission, errors.New("the volume is sealed"))
		}
		d.head = d.head.clone()
		d.head.resize(size, d.dirty)
		return nil
	})
}

// Rename is cairn.Renamer's.
func (p *Place) Rename(ctx context.Context, from, to string) error {
	if err := cairn.CheckDatasetName(to); err != nil {
		return err
	}
	return p.change(ctx, "rename", from, func(d *dataset) error {
		switch {
		case from == to:
			return nil
		case p.datasets[to] != nil:
			return failed("rename", from, cairn.KindExists, fmt.Errorf("%s is there", to))
		case d.receiving:
			return failed("rename", from, cairn.KindBusy, errors.New("a receive is running"))
		}
		delete(p.datasets, from)
		d.info.Name = to
		p.datasets[to] = d
		for _, clone := range p.datasets {
			if clone.info.Origin.Dataset == from {
				clone.info.Origin.Dataset = to
			}
		}
		return nil
	})
}

// Seal is cairn.Sealer's.
func (p *Place) Seal(ctx context.Context, ds string, sealed bool) error {
	return p.change(ctx, "seal", ds, func(d *dataset) error {
		d.info.Sealed = sealed
		return nil
	})
}

// Verify is cairn.Verifier's.
func (p *Place) Verify(ctx context.Context, ds string, id cairn.VersionID) (cairn.Coverage, error) {
	var c cairn.Coverage
	err := p.change(ctx, "verify", ds, func(d *dataset) error {
		if !id.IsZero() {
			v, err := d.find("verify", id)
			if err == nil {
				v.verify(&c)
			}
			return err
		}
		for _, v := range d.versions {
			v.verify(&c)
		}
		c.Unchecked += d.head.size
		c.Notes = append(c.Notes, "the head is plain: it has no checksums")
		return nil
	})
	slices.SortFunc(c.Damaged, func(a, b cairn.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	return c, err
}

func (v *version) verify(c *cairn.Coverage) {
	if v.image == nil {
		c.Notes = append(c.Notes, v.Name+" is a bookmark: it has no data")
		return
	}
	c.Checked += v.image.size
	for i, b := range v.image.blocks {
		off := int64(i) * cairn.BlockSize
		e := cairn.Extent{Offset: off, Length: min(cairn.BlockSize, v.image.size-off), Kind: cairn.ExtentData}
		if b != nil && !b.sound() && !slices.Contains(c.Damaged, e) {
			c.Damaged = append(c.Damaged, e)
		}
	}
}

// Digest is cairn.Digester's.
func (p *Place) Digest(ctx context.Context, ds string, id cairn.VersionID, q cairn.DigestQuery) iter.Seq2[cairn.Digest, error] {
	return func(yield func(cairn.Digest, error) bool) {
		err := p.change(ctx, "digest", ds, func(*dataset) error { return nil })
		var r cairn.BlockReader
		if err == nil {
			r, err = p.OpenVersion(ctx, ds, id)
		}
		if err != nil {
			yield(cairn.Digest{}, err)
			return
		}
		defer func() { _ = r.Close() }() // never fails
		for d, err := range digest.Of(ctx, r, q) {
			if !yield(d, err) {
				return
			}
		}
	}
}

// Heal is cairn.Healer's.
func (p *Place) Heal(ctx context.Context, ds string, id cairn.VersionID, patches []cairn.Patch, o cairn.HealOptions) ([]cairn.Mending, error) {
	out := make([]cairn.Mending, len(patches))
	err := p.change(ctx, "heal", ds, func(d *dataset) error {
		v, err := d.find("heal", id)
		if err == nil && v.image == nil {
			err = &cairn.Error{Op: "heal", Subject: ds + id.Name, Kind: cairn.KindDegraded}
		}
		for i, patch := range patches {
			if err == nil {
				out[i], err = v.image.heal(patch, o.DryRun)
			}
		}
		return err
	})
	return out, err
}
