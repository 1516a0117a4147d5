package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
)

// Destroy removes versions in one record per call; the segments of a snapshot
// pass to its older neighbour. The errors are in the order of ids.
func (v *Volume) Destroy(ctx context.Context, ids []cairn.VersionID) ([]error, error) {
	v.admin.Lock()
	defer v.admin.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, failed("destroy", v.o.Name, err)
	}
	if v.closed {
		return nil, errClosed
	}
	results := make([]error, len(ids))
	d := newDestroyer(v.state())
	for i, id := range ids {
		results[i] = failed("destroy", v.o.Name+id.Name, d.destroy(v, id))
	}
	e := d.edit()
	if len(e.GoneVersions) == 0 {
		return results, nil
	}
	return results, failed("destroy", v.o.Name, v.giveUp("destroy", e))
}

// destroyer gathers what goes in one record. Each decision sees the ones before.
type destroyer struct {
	st       *catalog.State
	versions map[string]catalog.Version // that are left
	marks    map[cairn.GUID][]string    // bookmarks of each GUID
	heirs    map[string]catalog.Version // bookmarks that took over a lease
	gone     []string
}

func newDestroyer(st *catalog.State) *destroyer {
	d := &destroyer{st: st, versions: make(map[string]catalog.Version, len(st.Versions)), marks: map[cairn.GUID][]string{}, heirs: map[string]catalog.Version{}}
	for _, r := range st.Versions {
		d.put(r)
	}
	return d
}

func (d *destroyer) put(r catalog.Version) {
	d.versions[r.Name] = r
	if r.ID().IsBookmark() && !slices.Contains(d.marks[r.GUID], r.Name) {
		d.marks[r.GUID] = append(d.marks[r.GUID], r.Name)
	}
}

// destroy takes a version out, or says why not. One that is gone is no error.
func (d *destroyer) destroy(v *Volume, id cairn.VersionID) error {
	r, found := d.versions[id.Name]
	if !found {
		return nil
	}
	if err := agree(r, id); err != nil {
		return err
	}
	if err := v.inUse(d.st, r); err != nil {
		return err
	}
	if err := d.bequeath(r); err != nil {
		return err
	}
	delete(d.versions, r.Name)
	delete(d.heirs, r.Name)
	d.gone = append(d.gone, r.Name)
	return nil
}

// bequeath passes a cursor's lease to a bookmark of the same GUID, with which it is
// content. Any other lease holds the version.
func (d *destroyer) bequeath(r catalog.Version) error {
	heir, ok := d.twin(r)
	for _, l := range r.Leases {
		if l.Purpose != cairn.PurposeCursor || !ok {
			return leasedBy(r, l)
		}
		if !slices.Contains(heir.Leases, l) {
			heir.Leases = append(slices.Clone(heir.Leases), l)
		}
	}
	if len(r.Leases) > 0 {
		d.versions[heir.Name], d.heirs[heir.Name] = heir, heir
	}
	return nil
}

// leasedBy says who relies on a version, and until when.
func leasedBy(r catalog.Version, l cairn.Lease) error {
	hint := l.Owner + " has to release it"
	switch l.Purpose {
	case cairn.PurposeStep, cairn.PurposeTentative:
		hint = "it can go when " + l.Owner + " has replicated it"
	case cairn.PurposeCursor:
		hint = "increments stand on it: it can go when " + l.Owner + " has replicated a newer version"
	case cairn.PurposeReceived:
		hint = "increments stand on it: it can go when " + l.Owner + " has received a newer version"
	}
	return &cairn.Error{Op: "give up", Subject: r.Name, Kind: cairn.KindBusy, Err: fmt.Errorf("leased by %s (%v)", l.Owner, l.Purpose), Hint: hint}
}

// twin finds another version, a bookmark, with the GUID of r.
func (d *destroyer) twin(r catalog.Version) (catalog.Version, bool) {
	for _, name := range d.marks[r.GUID] {
		if b, left := d.versions[name]; left && name != r.Name {
			return b, true
		}
	}
	return catalog.Version{}, false
}

func (d *destroyer) edit() catalog.Edit {
	e := catalog.Edit{GoneVersions: d.gone}
	for _, h := range d.heirs {
		e.Versions = append(e.Versions, h)
	}
	return e
}

// inUse refuses what is being read, or what a receive stands on.
func (v *Volume) inUse(st *catalog.State, r catalog.Version) error {
	if v.reading(r.Name) {
		return &cairn.Error{Op: "give up", Subject: r.Name, Kind: cairn.KindBusy, Err: errors.New("it is being read")}
	}
	if rc := st.Head.Receiving; rc != nil && r.ID() == rc.From && !v.o.Faults.has(FaultBaseUnpinned) {
		return &cairn.Error{Op: "give up", Subject: r.Name, Kind: cairn.KindBusy, Err: fmt.Errorf("a receive of %s stands on it", rc.To.Name),
			Hint: "finish or abort the receive"}
	}
	return nil
}

// giveUp removes versions (and puts others in their place) in one record, then
// what nothing needs any more. On a full disk it has the reserve. Callers hold
// admin and have asked a destroyer.
func (v *Volume) giveUp(why string, e catalog.Edit) error {
	return withReserve(v.fs, func() error { return v.giveUpOnce(why, e) })
}

func (v *Volume) giveUpOnce(why string, e catalog.Edit) error {
	if err := v.activate(); err != nil {
		return err
	}
	if v.o.Faults.has(FaultUnlinkBeforeCommit) {
		v.unlinkEarly(e)
	}
	v.doom(e.GoneVersions)
	defer v.undoom()
	segments, sets, err := v.commitGone(why, e)
	if err != nil {
		return err
	}
	if err := v.switchNewest(segments); err != nil {
		return err
	}
	v.removeNumbered(segments, sets)
	return nil
}

// commitGone commits the edit and what it makes garbage. Segments of the open
// interval are marks too: before they may go, a checkpoint has to take their
// place, in the same record.
func (v *Volume) commitGone(why string, e catalog.Edit) (segments, sets []uint64, err error) {
	v.persist.Lock()
	defer v.persist.Unlock()
	st := v.state()
	after := st.After(e)
	segments, sets = after.Garbage()
	if v.o.Faults.has(FaultDestroyDropsBlocks) {
		segments = append(segments, ownSegments(st, e.GoneVersions)...)
	}
	if v.o.Faults.has(FaultDegradeDropsChanges) && len(e.GoneVersions) > 0 && len(e.Versions) > 0 {
		for _, s := range st.Sets {
			sets = append(sets, s.ID)
		}
	}
	e.GoneSegments, e.GoneSets = segments, sets
	checkpoint := uint64(0)
	if len(after.Versions) > 0 && marksIn(st, segments) {
		checkpoint = v.newID()
		if err := v.writeSet(checkpoint, v.rotate()); err != nil {
			return nil, nil, err
		}
	}
	err = v.commit(why, func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		if checkpoint != 0 {
			h.Checkpoint, h.Epoch = checkpoint, v.epoch-1
		}
		return e
	})
	if err != nil {
		return nil, nil, err
	}
	if v.current != nil && slices.Contains(segments, v.current.rec.ID) {
		v.current = nil
	}
	if checkpoint != 0 {
		v.dropOldMarks()
		v.remove(numbered(setPrefix, st.Head.Checkpoint))
	}
	return segments, sets, nil
}

// marksIn reports whether one of the segments may hold the only mark of a write in
// the open interval.
func marksIn(st *catalog.State, ids []uint64) bool {
	for _, g := range st.Segments {
		if g.Interval >= st.Head.Interval && slices.Contains(ids, g.ID) {
			return true
		}
	}
	return false
}

// removeNumbered unlinks segments with their indexes, and change sets.
func (v *Volume) removeNumbered(segments, sets []uint64) {
	for _, id := range segments {
		v.remove(numbered(segPrefix, id), numbered(indexPrefix, id))
	}
	for _, id := range sets {
		v.remove(numbered(setPrefix, id))
	}
}

// doom ends the readers of versions that go, and keeps new ones away until undoom.
func (v *Volume) doom(names []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doomed = map[string]bool{}
	for _, n := range names {
		v.doomed[n] = true
	}
	for r := range v.readers {
		if v.doomed[r.name] {
			r.gone.Store(true)
		}
	}
}

func (v *Volume) undoom() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doomed = nil
}

// unlinkEarly is FaultUnlinkBeforeCommit.
func (v *Volume) unlinkEarly(e catalog.Edit) {
	v.removeNumbered(v.state().After(e).Garbage())
}

// ownSegments is what FaultDestroyDropsBlocks drops: the segments that were
// written while the versions were the newest.
func ownSegments(s *catalog.State, gone []string) []uint64 {
	var ids []uint64
	for i, r := range s.Versions {
		end := s.Head.NextID
		if i+1 < len(s.Versions) {
			end = s.Versions[i+1].Start
		}
		for _, g := range s.Segments {
			if slices.Contains(gone, r.Name) && r.ID().IsSnapshot() && g.Interval >= r.Start && g.Interval < end {
				ids = append(ids, g.ID)
			}
		}
	}
	return ids
}

// switchNewest brings what writes see in line with the catalog after versions
// went. Before it, writes only preserve more than they need.
func (v *Volume) switchNewest(segments []uint64) error {
	v.gate.Lock()
	defer v.gate.Unlock()
	v.persist.Lock()
	defer v.persist.Unlock()
	if err := v.stack.drop(segments); err != nil {
		v.o.Log.Warn("cannot close a segment", "volume", v.o.Name, "error", err)
	}
	return v.aim()
}

// aim sets which blocks writes have to preserve, and whether they are tracked.
// Callers hold gate and persist, or are alone.
func (v *Volume) aim() error {
	st := v.state()
	kept, keep := &extent.Bitmap{}, uint64(0)
	if newest, ok := st.NewestSnapshot(); ok {
		var err error
		if kept, err = v.union(newest.Start); err != nil {
			return err
		}
		keep = blocksOf(0, newest.Size).count
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.kept, v.keep, v.tracking = kept, keep, len(st.Versions) > 0
	if !v.tracking {
		v.dirty, v.marked = &extent.Bitmap{}, &extent.Bitmap{}
	}
	return nil
}

// Bookmark makes a bookmark of a snapshot; with degrade in place of it.
func (v *Volume) Bookmark(ctx context.Context, of cairn.VersionID, name string, degrade bool) (cairn.Version, error) {
	v.admin.Lock()
	defer v.admin.Unlock()
	if err := ctx.Err(); err != nil {
		return cairn.Version{}, failed("bookmark", v.o.Name+of.Name, err)
	}
	rec, err := v.bookmark(of, name, degrade)
	return v.describe(rec), failed("bookmark", v.o.Name+of.Name, err)
}

func (v *Volume) bookmark(of cairn.VersionID, name string, degrade bool) (catalog.Version, error) {
	if v.closed {
		return catalog.Version{}, errClosed
	}
	if err := cairn.CheckVersionName(name); err != nil {
		return catalog.Version{}, err
	}
	if !(cairn.VersionID{Name: name}).IsBookmark() {
		return catalog.Version{}, &cairn.Error{Op: "use version name", Subject: name, Kind: cairn.KindInvalid, Hint: "a bookmark's name begins with '#'"}
	}
	st := v.state()
	mark, exists := st.Find(name)
	if exists && mark.GUID != of.GUID {
		return mark, &cairn.Error{Op: "use version name", Subject: name, Kind: cairn.KindExists, Err: fmt.Errorf("it is %v", mark.GUID)}
	}
	snap, err := find(st, of)
	if exists && (!degrade || errors.Is(err, cairn.KindNotFound)) {
		return mark, nil
	}
	if err != nil {
		return mark, err
	}
	if !of.IsSnapshot() {
		return mark, &cairn.Error{Op: "use version", Subject: of.Name, Kind: cairn.KindInvalid, Hint: "bookmarks are made from snapshots"}
	}
	rec := snap
	rec.Name, rec.Damaged, rec.Leases = name, false, mark.Leases
	if !degrade {
		return rec, v.giveUp("bookmark "+name, catalog.Edit{Versions: []catalog.Version{rec}})
	}
	d := newDestroyer(st)
	d.put(rec)
	d.heirs[rec.Name] = rec
	if err := d.destroy(v, of); err != nil {
		return mark, err
	}
	return d.versions[rec.Name], v.giveUp("degrade "+snap.Name, d.edit())
}

// SetLease makes the named set hold exactly the versions.
func (v *Volume) SetLease(ctx context.Context, set cairn.LeaseSet) error {
	v.admin.Lock()
	defer v.admin.Unlock()
	if err := ctx.Err(); err != nil {
		return failed("lease", v.o.Name, err)
	}
	return failed("lease", v.o.Name, v.setLease(set))
}

func (v *Volume) setLease(set cairn.LeaseSet) error {
	if v.closed {
		return errClosed
	}
	st := v.state()
	lease := cairn.Lease{Owner: set.Owner, Purpose: set.Purpose}
	want := map[string]bool{}
	for _, id := range set.Versions {
		r, err := find(st, id)
		if err != nil {
			return err
		}
		want[r.Name] = true
	}
	var changed []catalog.Version
	for _, r := range st.Versions {
		has := slices.Contains(r.Leases, lease)
		if has == want[r.Name] {
			continue
		}
		leases := slices.DeleteFunc(slices.Clone(r.Leases), func(l cairn.Lease) bool { return l == lease })
		if want[r.Name] {
			leases = append(leases, lease)
		}
		r.Leases = leases
		changed = append(changed, r)
	}
	if len(changed) == 0 {
		return nil
	}
	if err := v.activate(); err != nil {
		return err
	}
	return v.commit("lease", func(*catalog.State, *catalog.Head) catalog.Edit { return catalog.Edit{Versions: changed} })
}

// SetSealed seals or unseals the head.
func (v *Volume) SetSealed(ctx context.Context, sealed bool) error {
	v.admin.Lock()
	defer v.admin.Unlock()
	if err := ctx.Err(); err != nil {
		return failed("seal", v.o.Name, err)
	}
	if v.closed {
		return errClosed
	}
	st := v.state()
	if st.Head.Sealed == sealed {
		return nil
	}
	if st.Head.Receiving != nil {
		return &cairn.Error{Op: "seal", Subject: v.o.Name, Kind: cairn.KindBusy, Err: errors.New("a receive is pending"), Hint: "finish or abort it"}
	}
	if err := v.activate(); err != nil {
		return failed("seal", v.o.Name, err)
	}
	v.gate.Lock()
	defer v.gate.Unlock()
	if err := v.carryOut(); err != nil {
		return failed("seal", v.o.Name, err)
	}
	return failed("seal", v.o.Name, v.commit("seal", func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		h.Sealed = sealed
		return catalog.Edit{}
	}))
}
