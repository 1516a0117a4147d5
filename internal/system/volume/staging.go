package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"cairn"
	"cairn/internal/mech/blockio"
	"cairn/internal/system/volume/stage"
)

const (
	stageName = "stage"
	// stageBytes is the longest write that is staged. What is longer is worth a
	// barrier of its own.
	stageBytes = 64 << 10
)

// openStage makes staging possible where the running boot has an identity: what
// the kernel held is believed only while it is the same kernel.
func (v *Volume) openStage() error {
	id := stage.Identity{Store: v.store, Boot: v.o.Boot}
	if id.Boot == "" {
		of, _, err := blockio.Identify(v.head)
		if err != nil {
			return err
		}
		id.Boot = of.Boot
	}
	v.staging = id.Boot != ""
	if v.o.Faults.has(FaultStageOfAnyBoot) {
		id.Boot = "any"
	}
	v.stage = stage.New(v.fs, stageName, id)
	v.stage.Unended = v.o.Faults.has(FaultKeepStage)
	return nil
}

// stageWrite takes the write of whole blocks instead of carrying it out, if that
// is allowed and saves a barrier. Callers hold gate and a claim of r.
func (v *Volume) stageWrite(r run, p []byte) (done bool, err error) {
	if !v.staging || !v.stage.Holds(r.first, r.count) && !v.firstTouch(r) {
		return false, nil
	}
	for {
		err := v.stage.Put(r.first, p)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, stage.ErrFull):
			if err := v.carryOut(); err != nil {
				return false, err
			}
		default:
			if !errors.Is(err, stage.ErrBroken) {
				v.o.Log.Warn("writes cannot be staged any more; each waits for its own barrier", "volume", v.o.Name, "error", err)
			}
			return false, nil
		}
	}
}

// firstTouch tells whether a block of r needs a barrier before it is written: the
// newest snapshot still needs it, or no durable mark covers it.
func (v *Volume) firstTouch(r run) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for b := r.first; b < r.first+r.count; b++ {
		if b < v.keep && !v.kept.Has(b) || v.tracking && !v.dirty.Has(b) && !v.marked.Has(b) {
			return true
		}
	}
	return false
}

// carryOut carries out every write that was staged before the call. Where it fails
// they stay staged, and the next call goes on. Callers hold gate.
func (v *Volume) carryOut() error {
	v.carrying.Lock()
	defer v.carrying.Unlock()
	for again := true; again; {
		var round *stage.Round
		if round, again = v.stage.Begin(); round == nil {
			break
		}
		if err := v.overwrite(round.Blocks()); err != nil {
			return err
		}
		v.stage.End()
	}
	return v.stage.Discard()
}

// overwrite preserves and marks what the blocks, ascending, need and writes them to
// the head.
func (v *Volume) overwrite(list []stage.Block) error {
	var runs []run
	for _, b := range list {
		runs = extend(runs, b.No)
	}
	if err := v.protect(runs); err != nil {
		return err
	}
	for _, b := range list {
		if _, err := v.head.WriteAt(b.Data, int64(b.No)*blockSize); err != nil {
			if blockio.Kind(err) != cairn.KindSpace {
				return v.failFlush(err) // it was acknowledged
			}
			return fmt.Errorf("%w: %w", errOrigin, err)
		}
	}
	return nil
}

// settle carries out what is staged, giving up snapshots for room where the rules
// allow it.
func (v *Volume) settle(ctx context.Context, k writeKind) error {
	return v.withRoom(ctx, k, func() error {
		v.gate.RLock()
		defer v.gate.RUnlock()
		if v.closed {
			return errClosed
		}
		return v.carryOut()
	})
}

// flushAll makes every acknowledged write durable. What came meanwhile is carried
// out too, so that little is left to whoever stops writes next. Callers hold admin.
func (v *Volume) flushAll() error {
	ctx := context.Background()
	if err := v.settle(ctx, internal); err != nil {
		return err
	}
	if err := v.flush(); err != nil {
		return err
	}
	v.stage.Hasten()
	return v.settle(ctx, internal)
}

// restage carries out what a process that died had staged, in this boot. Where there
// is no room for that it stays staged.
func (v *Volume) restage(ctx context.Context) error {
	list, err := v.stage.Recover()
	if err != nil {
		return err
	}
	if v.state().Head.RollingBack != "" || v.o.Faults.has(FaultForgetStage) {
		list = nil
	}
	slices.SortStableFunc(list, func(a, b stage.Block) int { return cmp.Compare(a.No, b.No) })
	newest := list[:0]
	for i, b := range list {
		if last := i+1 == len(list) || list[i+1].No != b.No; last && int64(b.No+1)*blockSize <= v.size {
			newest = append(newest, b)
		}
	}
	if len(newest) > 0 {
		err := v.withRoom(ctx, internal, func() error {
			if err := v.activate(); err != nil {
				return err
			}
			return v.overwrite(newest)
		})
		if v.o.cramped && blockio.Kind(err) == cairn.KindSpace {
			v.o.Log.Warn("there is no room for writes that a process which died had acknowledged: they stay staged", "volume", v.o.Name, "blocks", len(newest))
			return v.stage.Adopt()
		}
		if err != nil {
			return err
		}
	}
	v.remove(stageName)
	return nil
}

// readCurrent fills p with what the head holds from off on, staged writes
// included. Callers hold gate.
func (v *Volume) readCurrent(p []byte, off int64) error {
	r := blocksOf(off, int64(len(p)))
	staged := v.stage.Look(r.first, r.count) // first: what is not staged any more is in the head
	if err := v.readHead(p, off); err != nil {
		return err
	}
	for _, b := range staged {
		at := int64(b.No)*blockSize - off
		copy(p[max(at, 0):], b.Data[max(-at, 0):])
	}
	return nil
}
