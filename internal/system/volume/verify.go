package volume

import (
	"context"
	"errors"
	"fmt"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/volume/catalog"
)

// Verify reads every preserved block and compares it with its checksum: those one
// version reads, or all when id is zero. With a block hash table it reads the whole
// version too, or the head, and compares it with that. Snapshots that lack blocks
// are damaged from then on. Without a version the table gets what it did not know
// of the newest snapshot, and a head that others wrote to is reconciled.
func (v *Volume) Verify(ctx context.Context, id cairn.VersionID) (cairn.Coverage, error) {
	c, err := v.verifyAll(ctx, id)
	return c, failed("verify", v.o.Name+id.Name, err)
}

func (v *Volume) verifyAll(ctx context.Context, id cairn.VersionID) (cairn.Coverage, error) {
	var found *reconciliation
	if id.IsZero() {
		var err error
		if found, err = v.reconcile(ctx); err != nil {
			return cairn.Coverage{}, err
		}
	}
	start, size, err := v.verifyRange(id)
	if err != nil {
		return cairn.Coverage{}, err
	}
	k := v.checks(id, size)
	if err = k.segments(ctx, start); err == nil {
		err = k.table(ctx, found)
	}
	if err != nil {
		return k.c, err
	}
	v.noteDamaged(k.hit)
	return k.result(), nil
}

// checking is a Verify under way.
type checking struct {
	v    *Volume
	id   cairn.VersionID // zero: everything
	size int64
	c    cairn.Coverage
	lost *extent.Bitmap  // blocks that are bad
	kept *extent.Bitmap  // that the version, or the newest snapshot, does not read from the head
	hit  map[string]bool // snapshots that have bad blocks

	covered uint64 // blocks compared with the table
	end     int64  // bytes of what was compared with it
}

func (v *Volume) checks(id cairn.VersionID, size int64) *checking {
	return &checking{v: v, id: id, size: size, lost: &extent.Bitmap{}, kept: &extent.Bitmap{}, hit: map[string]bool{}}
}

// result makes the coverage of what was found.
func (k *checking) result() cairn.Coverage {
	for first, count := range k.lost.Runs(0, blocksOf(0, k.size).count) {
		k.c.Damaged = append(k.c.Damaged, cairn.Extent{Offset: int64(first) * blockSize, Length: int64(count) * blockSize, Kind: cairn.ExtentData})
	}
	return k.c
}

// segments compares preserved blocks with their checksums.
func (k *checking) segments(ctx context.Context, start uint64) error {
	v := k.v
	bad := map[uint64]*extent.Bitmap{} // by segment
	progress := watchdog.From(ctx)
	for _, x := range v.stack.since(start) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.verifySegment(x, &k.c, bad); err != nil {
			return err
		}
		if err := v.stack.trim(); err != nil {
			return err
		}
		progress.Level("checked", k.c.Checked)
	}
	for _, r := range v.state().Versions {
		if !r.ID().IsSnapshot() || !k.id.IsZero() && r.ID() != k.id {
			continue
		}
		mine, all, err := v.lostTo(r, bad)
		if err != nil {
			return err
		}
		if mine.Count() > 0 {
			k.hit[r.Name] = true
		}
		k.lost.Union(mine)
		k.kept = all
	}
	k.c.Unchecked = k.size
	if !k.id.IsZero() {
		k.c.Unchecked = max(k.size-int64(k.kept.Count())*blockSize, 0)
	}
	return nil
}

// verifySegment checks one segment, holding off only for so long that it is
// dropped.
func (v *Volume) verifySegment(x *stacked, c *cairn.Coverage, bad map[uint64]*extent.Bitmap) error {
	for {
		err := v.checkSegment(x, c, bad)
		if !v.mend(err) {
			return err
		}
	}
}

func (v *Volume) checkSegment(x *stacked, c *cairn.Coverage, bad map[uint64]*extent.Bitmap) error {
	v.stack.use.RLock()
	defer v.stack.use.RUnlock()
	s, err := x.get()
	if errors.Is(err, errDropped) {
		return nil
	}
	if err != nil {
		return err
	}
	checked, damaged, headless := s.Check()
	c.Checked += checked
	if damaged.Count() > 0 {
		bad[x.rec.ID] = damaged
	}
	if headless {
		c.Notes = append(c.Notes, fmt.Sprintf("segment %d has an unreadable header; its index still tells what it holds", x.rec.ID))
	}
	return x.put()
}

// lostTo is the blocks that the snapshot reads from a place where they are bad,
// and all that it does not read from the head.
func (v *Volume) lostTo(r catalog.Version, bad map[uint64]*extent.Bitmap) (lost, kept *extent.Bitmap, err error) {
	lost, kept = &extent.Bitmap{}, &extent.Bitmap{}
	v.stack.use.RLock()
	defer v.stack.use.RUnlock()
	for _, x := range v.stack.since(r.Start) {
		if set := bad[x.rec.ID]; set != nil {
			mine := set.Clone()
			mine.Subtract(kept)
			for first, count := range mine.Runs(0, blocksOf(0, r.Size).count) {
				lost.Set(first, count)
			}
		}
		s, err := x.get()
		if err != nil {
			return nil, nil, err
		}
		if err := errors.Join(s.Union(kept), x.put()); err != nil {
			return nil, nil, err
		}
	}
	return lost, kept, nil
}

func (v *Volume) verifyRange(id cairn.VersionID) (start uint64, size int64, err error) {
	v.mu.Lock()
	size = v.size
	v.mu.Unlock()
	if id.IsZero() {
		return 0, size, nil
	}
	r, err := find(v.state(), id)
	if err == nil && !id.IsSnapshot() {
		err = &cairn.Error{Op: "verify", Subject: id.Name, Kind: cairn.KindInvalid, Hint: "a bookmark has no data"}
	}
	return r.Start, r.Size, err
}
