package volume

import (
	"context"
	"errors"
	"fmt"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/segment"
)

// Rollback makes the head read as the snapshot. It begins with one record that
// gives up newer versions and says what is under way: an opening after a crash
// finishes it.
func (v *Volume) Rollback(ctx context.Context, to cairn.VersionID, destroyNewer bool) error {
	v.admin.Lock()
	defer v.admin.Unlock()
	err := ctx.Err()
	if err == nil {
		err = v.mayRollBack(to)
	}
	if err == nil && v.state().Head.RollingBack != to.Name {
		err = v.beginRollback(ctx, to, destroyNewer)
	}
	if err == nil {
		err = withReserve(v.fs, func() error { return v.resumeRollback(ctx) })
	}
	return failed("roll back", v.o.Name+to.Name, err)
}

func (v *Volume) mayRollBack(to cairn.VersionID) error {
	if v.closed {
		return errClosed
	}
	st := v.state()
	v.mu.Lock()
	devices := v.devices
	v.mu.Unlock()
	switch {
	case !to.IsSnapshot():
		return &cairn.Error{Op: "roll back", Subject: to.Name, Kind: cairn.KindInvalid, Hint: "a bookmark has no data; name a snapshot"}
	case st.Head.Receiving != nil:
		return &cairn.Error{Op: "roll back", Subject: v.o.Name, Kind: cairn.KindBusy, Err: errors.New("a receive is pending"), Hint: "finish or abort it"}
	case st.Head.RollingBack != "" && st.Head.RollingBack != to.Name:
		return &cairn.Error{Op: "roll back", Subject: v.o.Name, Kind: cairn.KindBusy, Err: errors.New("a rollback to " + st.Head.RollingBack + " is not finished"), Hint: "finish it first"}
	case devices > 0:
		return &cairn.Error{Op: "roll back", Subject: v.o.Name, Kind: cairn.KindBusy, Err: errors.New("its device is open"), Hint: "detach it first"}
	}
	r, err := find(st, to)
	if err == nil && r.Damaged {
		err = damagedTarget(to.Name)
	}
	return err
}

func (v *Volume) beginRollback(ctx context.Context, to cairn.VersionID, destroyNewer bool) error {
	st := v.state()
	target, err := find(st, to)
	if err == nil {
		err = v.readable(ctx, target)
	}
	if err != nil {
		return err
	}
	d := newDestroyer(st)
	for _, r := range st.Versions {
		if r.Order <= target.Order {
			continue
		}
		if !destroyNewer {
			return &cairn.Error{Op: "roll back", Subject: to.Name, Kind: cairn.KindConflict, Err: fmt.Errorf("%s is newer", r.Name),
				Hint: "ask for newer versions to be destroyed, or destroy them first"}
		}
		if len(r.Leases) > 0 {
			return leasedBy(r, r.Leases[0])
		}
		if err := d.destroy(v, r.ID()); err != nil {
			return err
		}
	}
	return v.startRollback(to.Name, d.gone, nil)
}

// startRollback writes the record that makes a rollback certain. also may add to
// it.
func (v *Volume) startRollback(to string, gone []string, also func(*catalog.Head)) error {
	if err := v.activate(); err != nil {
		return err
	}
	v.doom(gone)
	defer v.undoom()
	return v.commit("roll back to "+to, func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		h.RollingBack = to
		if also != nil {
			also(h)
		}
		return catalog.Edit{GoneVersions: gone}
	})
}

// resumeRollback copies what the snapshot preserved back into the head, as often
// as it takes, and then begins a new interval: head and snapshot are equal. While
// it runs no write is admitted.
func (v *Volume) resumeRollback(ctx context.Context) error {
	name := v.state().Head.RollingBack
	if name == "" {
		return nil
	}
	v.gate.Lock()
	defer v.gate.Unlock()
	if err := v.carryOut(); err != nil {
		return err
	}
	v.persist.Lock()
	defer v.persist.Unlock()
	target, found := v.state().Find(name)
	if !found {
		return &cairn.Error{Op: "finish rollback", Subject: v.o.Name + name, Kind: cairn.KindDamaged, Err: errors.New("its snapshot is gone")}
	}
	if err := v.copyBack(ctx, target); err != nil {
		return err
	}
	return v.finishRollback(target)
}

// copyBack writes every preserved block of the snapshot into the head and flushes.
// It can be repeated: the segments stay until that is done.
func (v *Volume) copyBack(ctx context.Context, target catalog.Version) error {
	if size, err := v.head.Size(); err != nil {
		return err
	} else if size < target.Size {
		if err := v.head.Truncate(target.Size); err != nil {
			return err
		}
	}
	set, err := v.union(target.Start)
	if err != nil {
		return err
	}
	buf := make([]byte, windowBytes)
	for first, count := range set.Runs(0, blocksOf(0, target.Size).count) {
		for count > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(count, windowBlocks)
			if err := v.copyRun(target, run{first, n}, buf[:n*blockSize]); err != nil {
				return err
			}
			first, count = first+n, count-n
		}
	}
	return v.flush()
}

func (v *Volume) copyRun(target catalog.Version, r run, buf []byte) error {
	v.stack.use.RLock()
	defer v.stack.use.RUnlock()
	found, err := v.stack.find(target.Start, r)
	if err != nil {
		return err
	}
	for _, x := range found {
		if x.seg == nil {
			continue
		}
		off := int64(x.First) * blockSize
		length := min(int64(x.Count)*blockSize, target.Size-off)
		if x.Kind == segment.Zero {
			if err := v.zero(off, length, cairn.MayUnmap); err != nil {
				return err
			}
			continue
		}
		p := buf[:x.Count*blockSize]
		if err := x.seg.Read(x.Run, p); err != nil {
			return err
		}
		if _, err := v.head.WriteAt(p[:length], off); err != nil {
			return err
		}
	}
	return nil
}

// finishRollback commits that head and snapshot are equal: nothing changed since,
// and nothing preserved since is needed.
func (v *Volume) finishRollback(target catalog.Version) error {
	v.rollTableBack(target)
	interval := v.newID()
	var segments, sets []uint64
	old := v.state().Head.Checkpoint
	v.mu.Lock()
	v.newEpoch()
	v.mu.Unlock()
	err := v.commit("rolled back to "+target.Name, func(s *catalog.State, h *catalog.Head) catalog.Edit {
		h.RollingBack, h.Size, h.Interval, h.Checkpoint, h.Epoch = "", target.Size, interval, 0, v.epoch-1
		if t := h.Hashes; t != nil && t.AsOf >= target.Start {
			h.Hashes = t.As(interval, target.Size)
		}
		var e catalog.Edit
		for _, r := range s.Versions {
			if r.Start == target.Start {
				r.Start = interval
				e.Versions = append(e.Versions, r)
			}
		}
		for _, g := range s.Segments {
			if g.Interval >= target.Start {
				segments = append(segments, g.ID)
			}
		}
		for _, g := range s.Sets {
			if g.From >= target.Start {
				sets = append(sets, g.ID)
			}
		}
		e.GoneSegments, e.GoneSets = segments, sets
		return e
	})
	if err != nil {
		return err
	}
	v.current = nil
	if err := v.stack.drop(segments); err != nil {
		v.o.Log.Warn("cannot close a segment", "volume", v.o.Name, "error", err)
	}
	v.mu.Lock()
	v.size, v.interval = target.Size, interval
	v.dirty, v.marked = &extent.Bitmap{}, &extent.Bitmap{}
	v.mu.Unlock()
	v.removeNumbered(segments, append(sets, old))
	v.dropOldMarks()
	if err := v.aim(); err != nil {
		return err
	}
	return v.cutHead()
}

// cutHead gives the file of a head of our own the volume's size.
func (v *Volume) cutHead() error {
	if v.state().Store.Origin != "" {
		return nil
	}
	return v.head.Truncate(v.size)
}
