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
// version reads, or all when id is zero. Snapshots that lack blocks are damaged
// from then on.
func (v *Volume) Verify(ctx context.Context, id cairn.VersionID) (cairn.Coverage, error) {
	start, size, err := v.verifyRange(id)
	if err != nil {
		return cairn.Coverage{}, failed("verify", v.o.Name+id.Name, err)
	}
	c, err := v.verify(ctx, id, start, size)
	return c, failed("verify", v.o.Name+id.Name, err)
}

func (v *Volume) verify(ctx context.Context, id cairn.VersionID, start uint64, size int64) (c cairn.Coverage, err error) {
	bad := map[uint64]*extent.Bitmap{} // by segment
	progress := watchdog.From(ctx)
	for _, x := range v.stack.since(start) {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		if err := v.verifySegment(x, &c, bad); err != nil {
			return c, err
		}
		if err := v.stack.trim(); err != nil {
			return c, err
		}
		progress.Level("checked", c.Checked)
	}
	lost, kept, hit := &extent.Bitmap{}, &extent.Bitmap{}, map[string]bool{}
	for _, r := range v.state().Versions {
		if !r.ID().IsSnapshot() || !id.IsZero() && r.ID() != id {
			continue
		}
		mine, all, err := v.lostTo(r, bad)
		if err != nil {
			return c, err
		}
		if mine.Count() > 0 {
			hit[r.Name] = true
		}
		lost.Union(mine)
		kept = all
	}
	v.noteDamaged(hit)
	for first, count := range lost.All() {
		c.Damaged = append(c.Damaged, cairn.Extent{Offset: int64(first) * blockSize, Length: int64(count) * blockSize, Kind: cairn.ExtentData})
	}
	c.Unchecked = size
	if !id.IsZero() {
		c.Unchecked = max(size-int64(kept.Count())*blockSize, 0)
	}
	c.Notes = append(c.Notes, "the head is plain and has no checksums: what is read from it was not checked; compare with a replica for that")
	return c, nil
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
	return nil
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
		if err := s.Union(kept); err != nil {
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
