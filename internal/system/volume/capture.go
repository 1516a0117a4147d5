package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
)

// Snapshot captures the head under the name (with its '@'). Writes go on meanwhile
// but for the instant of the switch. For want of room it gives up older snapshots as
// a write does.
func (v *Volume) Snapshot(ctx context.Context, name string) (cairn.Version, error) {
	v.admin.Lock()
	defer v.admin.Unlock()
	subject := v.o.Name + name
	if err := v.settleDoubt(ctx); err != nil {
		return cairn.Version{}, failed("capture", subject, err)
	}
	if err := v.mayCapture(name); err != nil {
		return cairn.Version{}, failed("capture", subject, err)
	}
	if err := ctx.Err(); err != nil {
		return cairn.Version{}, failed("capture", subject, err)
	}
	var rec catalog.Version
	err := v.withRoom(ctx, internal, func() (err error) {
		rec, err = v.capture(catalog.Version{Name: name, GUID: newGUID(), Created: v.o.Now().UTC()}, nil)
		return err
	})
	return v.describe(rec), failed("capture", subject, err)
}

func (v *Volume) mayCapture(name string) error {
	if err := cairn.CheckVersionName(name); err != nil {
		return err
	}
	if !(cairn.VersionID{Name: name}).IsSnapshot() {
		return &cairn.Error{Op: "use version name", Subject: name, Kind: cairn.KindInvalid, Hint: "a capture makes a snapshot; bookmarks are made from snapshots"}
	}
	if v.closed {
		return errClosed
	}
	st := v.state()
	if _, found := st.Find(name); found {
		return &cairn.Error{Op: "use version name", Subject: name, Kind: cairn.KindExists}
	}
	if st.Head.Sealed {
		return v.sealedError()
	}
	return errors.Join(v.certain(), v.verified())
}

func (v *Volume) sealedError() error {
	return &cairn.Error{Op: "change", Subject: v.o.Name, Kind: cairn.KindConflict, Err: errors.New("it is a replica and sealed"),
		Hint: "unseal it (failover) to make it a volume of its own"}
}

// verified refuses what relies on a change set that may miss foreign writes.
func (v *Volume) verified() error {
	why := v.doubt()
	if why == "" {
		return nil
	}
	return &cairn.Error{Op: "rely on the change set", Subject: v.o.Name, Kind: cairn.KindUnverified, Err: errors.New(why),
		Hint: "compare its newest snapshot with a replica, cairn volume verify NAME@SNAP --against PLACE --heal: then just what others wrote counts as changed; or run cairn volume mark-dirty: then everything does"}
}

// doubt says why the head's continuity cannot be shown; empty when it can.
func (v *Volume) doubt() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.unverified
}

// switched is what a capture put aside, to be folded back when it fails.
type switched struct {
	dirty, kept *extent.Bitmap
	keep        uint64
	tracking    bool
	epoch       uint64
	size        int64
	current     *stacked
}

// capturing is a capture under way. Whoever has it holds the volume's admin.
type capturing struct {
	v        *Volume
	rec      catalog.Version
	set      uint64 // number of the closed change set; 0 when nothing was tracked
	old      switched
	switched bool
	also     func(*catalog.Head) // adds to the record that commits it; may be nil
}

// capture makes a version of the present head in the five steps of the engine's
// rules. also may add to the record that commits it. Callers hold admin.
func (v *Volume) capture(rec catalog.Version, also func(*catalog.Head)) (catalog.Version, error) {
	c, err := v.beginCapture(rec)
	if err != nil {
		return rec, err
	}
	c.also = also
	if err = c.pauseAndSwitch(); err == nil {
		err = c.gather()
	}
	if err == nil {
		err = c.commit()
	}
	if err != nil {
		c.giveUp()
	}
	return c.rec, err
}

// beginCapture is the first two steps: what the next version needs, and most of
// the dirty pages, while writes run.
func (v *Volume) beginCapture(rec catalog.Version) (*capturing, error) {
	if err := v.activate(); err != nil {
		return nil, err
	}
	c := &capturing{v: v, rec: rec, set: v.newID()}
	c.rec.Start = v.newID()
	c.rec.Order = c.rec.Start
	return c, v.flushAll()
}

// pauseAndSwitch is the third step, the only pause: it holds writes and waits for
// those under way.
func (c *capturing) pauseAndSwitch() error {
	began := time.Now()
	if !c.v.o.Faults.has(FaultNoDrain) {
		c.v.gate.Lock()
		defer c.v.gate.Unlock()
	}
	if err := c.v.carryOut(); err != nil {
		return err
	}
	c.switchOver()
	c.v.o.Log.Debug("switched", "volume", c.v.o.Name, "interval", c.rec.Start, "pause", time.Since(began))
	return nil
}

// switchOver makes what follows belong to the new interval. Callers hold gate, and
// have carried out what was staged.
func (c *capturing) switchOver() {
	v := c.v
	v.persist.Lock()
	defer v.persist.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	c.old = switched{v.dirty, v.kept, v.keep, v.tracking, v.epoch, v.size, v.current}
	c.switched, c.rec.Size = true, v.size
	if !v.tracking {
		c.set = 0
	}
	v.newEpoch()
	v.dirty, v.kept, v.marked = &extent.Bitmap{}, &extent.Bitmap{}, &extent.Bitmap{}
	v.closing = c.old.dirty
	v.keep, v.tracking, v.interval, v.current = blocksOf(0, v.size).count, true, c.rec.Start, nil
}

// gather is the fourth step: what was written up to the switch, and the closed
// change set, become durable.
func (c *capturing) gather() error {
	v := c.v
	if !v.o.Faults.has(FaultSkipHeadFlush) {
		if err := v.flush(); err != nil {
			return err
		}
	}
	if old := c.old.current; old != nil && old.open.Length() > 0 {
		if err := v.seal(old); err != nil {
			v.o.Log.Warn("cannot write the index of a segment", "volume", v.o.Name, "error", err)
		}
	}
	if c.set == 0 {
		return nil
	}
	return v.writeSet(c.set, c.old.dirty)
}

// commit is the fifth step: only now the version exists.
func (c *capturing) commit() error {
	v := c.v
	checkpoint := v.state().Head.Checkpoint
	err := v.commit("capture "+c.rec.Name, func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		e := captured(h, c.rec, c.set, c.old.epoch)
		if c.also != nil {
			c.also(h)
		}
		return e
	})
	if err != nil {
		return err
	}
	v.persist.Lock()
	defer v.persist.Unlock()
	v.mu.Lock()
	v.closing = nil
	v.mu.Unlock()
	v.dropOldMarks()
	if checkpoint != 0 {
		v.remove(numbered(setPrefix, checkpoint))
	}
	return nil
}

// captured is the edit that makes a version, and what becomes of the head with it:
// the change set, whose marks are those up to the epoch, takes the place of the
// checkpoint.
func captured(h *catalog.Head, rec catalog.Version, set, epoch uint64) catalog.Edit {
	e := catalog.Edit{Versions: []catalog.Version{rec}}
	if set != 0 {
		e.Sets = []catalog.Set{{ID: set, From: h.Interval, To: rec.Start}}
	}
	h.Interval, h.Checkpoint, h.Epoch = rec.Start, 0, epoch
	h.NextID = max(h.NextID, rec.Start+1, set+1)
	return e
}

// giveUp ends a capture that was not committed.
func (c *capturing) giveUp() {
	if c.switched && c.v.certain() == nil {
		c.v.foldBack(c.old)
	}
}

// foldBack undoes a switch whose capture was not committed: what was gathered
// since joins what was gathered before. Nothing is dropped.
func (v *Volume) foldBack(old switched) {
	v.gate.Lock()
	defer v.gate.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closing = nil
	if !v.o.Faults.has(FaultLoseFoldBack) {
		v.dirty.Union(old.dirty)
	}
	v.kept.Union(old.kept)
	v.keep, v.tracking = old.keep, old.tracking
	if v.keep == 0 {
		v.kept = &extent.Bitmap{}
	}
	if !v.tracking {
		v.dirty, v.marked = &extent.Bitmap{}, &extent.Bitmap{}
	}
}

// MarkDirty makes every block count as changed, and so ends the state unverified:
// the next incremental stream carries everything. Snapshots whose data the doubt
// concerns are damaged from now on.
func (v *Volume) MarkDirty(ctx context.Context) error {
	v.admin.Lock()
	defer v.admin.Unlock()
	if err := ctx.Err(); err != nil {
		return failed("mark dirty", v.o.Name, err)
	}
	return failed("mark dirty", v.o.Name, v.markDirty())
}

func (v *Volume) markDirty() error {
	if v.closed {
		return errClosed
	}
	if err := v.activate(); err != nil {
		return err
	}
	v.gate.Lock()
	defer v.gate.Unlock()
	v.persist.Lock()
	defer v.persist.Unlock()
	doubt := v.unverified != ""
	if v.tracking {
		v.mu.Lock()
		v.dirty.Set(0, blocksOf(0, v.size).count)
		v.mu.Unlock()
	}
	err := v.checkpoint("mark dirty", func(h *catalog.Head) { h.Unverified, h.FailedFlush = "", "" })
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.unverified = ""
	v.mu.Unlock()
	if !doubt {
		return nil
	}
	return v.commit("foreign writes", func(s *catalog.State, _ *catalog.Head) catalog.Edit {
		var e catalog.Edit
		for _, r := range s.Versions {
			if r.ID().IsSnapshot() {
				r.Damaged = true
				e.Versions = append(e.Versions, r)
			}
		}
		return e
	})
}

// describe is a catalog's version as the contracts know it.
func (v *Volume) describe(r catalog.Version) cairn.Version {
	c := cairn.Version{VersionID: r.ID(), Order: r.Order, Created: r.Created, Size: r.Size, Leases: r.Leases}
	if r.Damaged && c.IsSnapshot() {
		c.State = cairn.StateDamaged
	}
	return c
}

// find gives the version that id names; name and GUID must agree.
func find(s *catalog.State, id cairn.VersionID) (catalog.Version, error) {
	r, ok := s.Find(id.Name)
	if !ok {
		return r, &cairn.Error{Op: "find version", Subject: id.Name, Kind: cairn.KindNotFound}
	}
	return r, agree(r, id)
}

// agree makes sure that the version's GUID is the one meant.
func agree(r catalog.Version, id cairn.VersionID) error {
	if r.GUID == id.GUID {
		return nil
	}
	return &cairn.Error{Op: "find version", Subject: id.Name, Kind: cairn.KindConflict,
		Err: fmt.Errorf("its GUID is %v, not %v", r.GUID, id.GUID), Hint: "list the versions again; the name was reused"}
}
