package volume

import (
	"context"
	"errors"
	"iter"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
)

// Changed yields the extents written after from and up to to, or up to now when to
// is zero.
func (v *Volume) Changed(ctx context.Context, from, to cairn.VersionID) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		fail := func(err error) {
			yield(cairn.Extent{}, failed("tell changes of", v.o.Name+from.Name+to.Name, err))
		}
		set, size, err := v.changedSet(from, to)
		if err != nil {
			fail(err)
			return
		}
		for first, count := range set.Runs(0, blocksOf(0, size).count) {
			if err := ctx.Err(); err != nil {
				fail(err)
				return
			}
			off := int64(first) * blockSize
			e := cairn.Extent{Offset: off, Length: min(int64(first+count)*blockSize, size) - off, Kind: cairn.ExtentData}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// changedSet is the blocks written between two versions, and the size of the
// newer one.
func (v *Volume) changedSet(from, to cairn.VersionID) (*extent.Bitmap, int64, error) {
	if to.IsZero() {
		if err := v.verified(); err != nil {
			return nil, 0, err
		}
	}
	return v.knownChanges(from, to)
}

// knownChanges is changedSet without regard to what others may have written.
func (v *Volume) knownChanges(from, to cairn.VersionID) (*extent.Bitmap, int64, error) {
	st, set, size := v.openChanges(to)
	newer := catalog.Version{Start: st.Head.NextID, Size: size}
	older, err := find(st, from)
	if err != nil {
		return nil, 0, err
	}
	if !to.IsZero() {
		newer, err = find(st, to)
	}
	if err != nil {
		return nil, 0, err
	}
	if newer.Start < older.Start {
		return nil, 0, &cairn.Error{Op: "compare", Subject: from.Name + " with " + to.Name, Kind: cairn.KindInvalid, Hint: "name the older version first"}
	}
	return set, newer.Size, v.addChanges(st, older, newer, set)
}

// addChanges adds what closed change sets, and the sizes, say was written between
// two versions.
func (v *Volume) addChanges(st *catalog.State, older, newer catalog.Version, set *extent.Bitmap) error {
	for _, s := range st.Sets {
		if s.From < older.Start || s.To > newer.Start {
			continue
		}
		if err := v.addSet(s.ID, newer.Size, set); err != nil {
			return err
		}
	}
	if older.Size != newer.Size && !v.o.Faults.has(FaultGrowUnmarked) {
		first := uint64(min(older.Size, newer.Size)) / blockSize
		set.Set(first, blocksOf(0, max(older.Size, newer.Size)).count-first)
	}
	return nil
}

// openChanges gives the catalog's state and, for the head, the open change set
// that belongs to it.
func (v *Volume) openChanges(to cairn.VersionID) (*catalog.State, *extent.Bitmap, int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	st := v.state()
	if !to.IsZero() {
		return st, &extent.Bitmap{}, v.size
	}
	set := v.dirty.Clone()
	v.stage.Add(set)
	if v.closing != nil {
		set.Union(v.closing)
	}
	return st, set, v.size
}

// addSet adds a stored change set; one that is damaged counts as everything.
func (v *Volume) addSet(id uint64, size int64, into *extent.Bitmap) error {
	err := v.readSet(id, into)
	if errors.Is(err, cairn.KindDamaged) {
		v.o.Log.Error("a change set is damaged; everything counts as changed", "volume", v.o.Name, "set", id, "error", err)
		into.Set(0, blocksOf(0, size).count)
		return nil
	}
	return err
}
