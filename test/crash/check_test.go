package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"cairn"
	"cairn/internal/system/volume"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/testkit/fakedisk"
)

// after is a volume that was opened after a cut, and what it may be.
type after struct {
	l       *live
	w       workload
	h       *history
	cut     int
	disk    *fakedisk.Disk
	v       *volume.Volume
	dev     cairn.BlockDevice
	present []*version // by order
	blocks  []int64    // that any operation ever touched
	allowed func(sector int64) []uint32
	now     map[int64]uint32 // sectors of the head that are not zero
	killed  bool             // by the death of the process alone
	opened  int              // entry of the disk's log at which it was open
}

// check opens the volume on a disk as a cut left it and compares it with the
// model. A disk without a catalog is right as long as the volume was not made.
func (l *live) check(disk *fakedisk.Disk, cut int) error {
	a := &after{l: l, w: l.w, h: l.h, cut: cut, disk: disk, blocks: l.h.blocks(), allowed: l.allowedAt(cut)}
	return a.check("after the cut")
}

// checkKilled is check of a disk as the death of the process left it: every
// acknowledged write is there, flushed or not.
func (l *live) checkKilled(disk *fakedisk.Disk, cut int) error {
	if !l.h.sizes[0].doneAt(cut) {
		return nil // a place never opens a store whose making was cut off
	}
	a := &after{l: l, w: l.w, h: l.h, cut: cut, disk: disk, blocks: l.h.blocks(), killed: true,
		allowed: func(s int64) []uint32 { return l.h.allowedSince(s, cut, cut) }}
	return a.check("first boot")
}

func (a *after) check(boot string) error {
	l, cut := a.l, a.cut
	var err error
	a.v, err = l.openOn(a.disk, l.faults, boot)
	if err != nil {
		if made := l.h.sizes[0].span; !made.doneAt(cut) && errors.Is(err, cairn.KindNotFound) {
			return nil
		}
		return err
	}
	a.dev, a.opened = a.v.Device(), a.disk.Len()
	for _, step := range []func() error{a.checkVersions, a.checkContent, a.checkChanges, a.checkTable, a.goOn} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// checkTable: what the block hash table says is so, of every snapshot, and of the
// head, which a verification of everything compares too.
func (a *after) checkTable() error {
	if !a.w.hashes {
		return nil
	}
	for _, v := range a.present {
		if v.snapshot() {
			if err := a.l.askTable(a.v, v.id, false); err != nil {
				return err
			}
		}
	}
	if a.cut%3 > 0 {
		return nil
	}
	return a.l.askTable(a.v, cairn.VersionID{}, true)
}

// allowedAt is history.allowed for one cut, which is asked for once for each of
// the cut's outcomes.
func (l *live) allowedAt(cut int) func(sector int64) []uint32 {
	if l.allowed == nil || l.allowedCut != cut {
		l.allowed, l.allowedCut = map[int64][]uint32{}, cut
	}
	return func(s int64) []uint32 {
		ids, known := l.allowed[s]
		if !known {
			ids = l.h.allowed(s, cut)
			l.allowed[s] = ids
		}
		return ids
	}
}

// checkVersions compares the catalog with what the model allows.
func (a *after) checkVersions() error {
	l, err := catalog.Open(a.l.store(a.disk))
	if err != nil {
		return err
	}
	st := l.State()
	if err := l.Close(); err != nil {
		return err
	}
	found := map[cairn.VersionID]catalog.Version{}
	last := uint64(0)
	for _, v := range st.Versions {
		found[v.ID()] = v
		if v.Order < last {
			return fmt.Errorf("version %s stands before its elder", v.Name)
		}
		last = v.Order
		if v.Damaged {
			return fmt.Errorf("version %s is said to be damaged", v.Name)
		}
	}
	for _, v := range a.h.versions {
		if got, ok := st.Find(v.id.Name); ok && v.id.GUID == 0 { // a failed capture's
			known := *v
			known.id, known.order = got.ID(), got.Order
			v = &known
		}
		got, exists := found[v.id]
		delete(found, v.id)
		switch {
		case exists && !v.mayExist(a.cut):
			return fmt.Errorf("version %s is there, but must not be", v.id.Name)
		case !exists && v.mustExist(a.cut):
			return fmt.Errorf("version %s is gone", v.id.Name)
		case exists && (got.Order != v.order || got.Size != v.sectors*sectorSize):
			return fmt.Errorf("version %s has order %d and %d bytes, not %d and %d", v.id.Name, got.Order, got.Size, v.order, v.sectors*sectorSize)
		case exists:
			a.present = append(a.present, v)
		}
	}
	for id := range found {
		return fmt.Errorf("version %s was never made", id.Name)
	}
	return a.checkHeirs(st)
}

// checkHeirs: of a snapshot and the bookmark that takes its place, one is there.
func (a *after) checkHeirs(st *catalog.State) error {
	for _, v := range a.h.versions {
		if v.heir == nil || !v.heir.mayExist(a.cut) || !v.mustExist(v.gone.start) {
			continue
		}
		_, snap := st.Find(v.id.Name)
		_, mark := st.Find(v.heir.id.Name)
		if snap == mark && !v.heir.gone.begunAt(a.cut) {
			return fmt.Errorf("of %s and %s both or none are there", v.id.Name, v.heir.id.Name)
		}
	}
	return nil
}

// sectors is the head's size, when it is one that the cut allows.
func (a *after) sectors() (int64, error) {
	got := a.dev.Size() / sectorSize
	for i, s := range a.h.sizes {
		replaced := i+1 < len(a.h.sizes) && a.h.sizes[i+1].doneAt(a.cut)
		if s.begunAt(a.cut) && !replaced && got == s.sectors {
			return got, nil
		}
	}
	return 0, fmt.Errorf("the head has %d sectors", got)
}

func (a *after) checkContent() error {
	for _, v := range a.present {
		if !v.snapshot() {
			continue
		}
		if err := checkSnapshot(a.v, v, a.blocks); err != nil {
			return err
		}
	}
	sectors, err := a.sectors()
	if err != nil {
		return err
	}
	a.now = map[int64]uint32{}
	return readBlocks(a.dev.ReadAt, a.blocks, sectors, func(p []byte) error {
		for s, sector := range sectorsOf(p, a.blocks) {
			if id, _ := unstamp(sector, s); id != 0 {
				a.now[s] = id
			}
		}
		return same("head", p, a.blocks, sectors, a.allowed)
	})
}

// checkChanges looks at the change sets from each version to the next and to the
// head, and from the oldest to each.
func (a *after) checkChanges() error {
	for i, from := range a.present {
		if err := a.checkChange(from, nil); err != nil {
			return err
		}
		if i+1 < len(a.present) {
			if err := a.checkChange(from, a.present[i+1]); err != nil {
				return err
			}
		}
		if i > 1 {
			if err := a.checkChange(a.present[0], from); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *after) checkChange(from, to *version) error {
	id, what := cairn.VersionID{}, from.id.Name+" to head"
	if to != nil {
		id, what = to.id, from.id.Name+" to "+to.id.Name
	}
	changed := map[int64]bool{}
	for e, err := range a.v.Changed(context.Background(), from.id, id) {
		if err != nil {
			return err
		}
		for b := e.Offset / blockSize; b*blockSize < e.End(); b++ {
			changed[b] = true
		}
	}
	if err := a.missing(from, to, changed); err != nil {
		return fmt.Errorf("changes from %s: %w", what, err)
	}
	if err := a.excess(from, to, changed); err != nil {
		return fmt.Errorf("changes from %s: %w", what, err)
	}
	return nil
}

// missing: each block that differs is in the change set.
func (a *after) missing(from, to *version, changed map[int64]bool) error {
	size, now := a.dev.Size()/sectorSize, a.now
	if to != nil {
		size, now = to.sectors, to.content
	}
	for _, b := range a.blocks {
		if changed[b] {
			continue
		}
		for s := b * perBlock; s < min((b+1)*perBlock, size); s++ {
			was := from.content[s]
			if s >= from.sectors {
				was = never & 0xffffffff // grown: counts as changed
			}
			if now[s] != was {
				return fmt.Errorf("block %d is not among them, but sector %d held write %d and holds %d", b, s, was, now[s])
			}
		}
	}
	return nil
}

// excess: no block is in the change set that was neither written nor covered by an
// intent mark of the open interval. Sets that were closed before the cut are exact.
func (a *after) excess(from, to *version, changed map[int64]bool) error {
	end, sectors := a.cut, a.dev.Size()/sectorSize
	if to != nil {
		end, sectors = min(end, to.made.end), to.sectors
	}
	written, regions := a.h.written(from.made.start, end, min(a.w.active/regionSize/64, 16))
	if to != nil && !a.h.killed(from.made.start, end) {
		regions = nil
	}
	excess := int64(0)
	for b := range changed {
		grown := from.sectors != sectors && (b+1)*perBlock > min(from.sectors, sectors)
		switch {
		case written[b] || grown:
		case !regions[b*blockSize/regionSize]:
			return fmt.Errorf("block %d is among them, but was not written", b)
		default:
			excess++
		}
	}
	lives := int64(1 + len(a.h.kills))
	if limit := lives * (a.w.active + regionSize) / blockSize; excess > limit {
		return fmt.Errorf("%d blocks more than written, the limit is %d", excess, limit)
	}
	return nil
}

// goOn uses the volume after the cut: blocks are overwritten, a version is
// captured, the power is cut once more somewhere in that; snapshots stay as they
// were.
func (a *after) goOn() error {
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(uint64(a.cut), a.w.seed))
	sectors := a.dev.Size() / sectorSize
	id := uint32(1 << 30)
	for range min(12, len(a.blocks)) {
		b := a.blocks[rng.IntN(len(a.blocks))]
		if (b+1)*perBlock > sectors {
			continue
		}
		id++
		p := make([]byte, blockSize)
		stamp(p, b*perBlock, id)
		if err := a.dev.WriteAt(ctx, p, b*blockSize, []cairn.WriteFlags{0, cairn.FUA}[id%2]); err != nil {
			return fmt.Errorf("going on: %w", err)
		}
	}
	if _, err := a.v.Snapshot(ctx, "@later"); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	if err := a.snapshotsStand(a.v); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	again := a.disk.Replay()
	if a.killed { // before it was open again, what it relied on may not have been durable
		again.Seek(a.opened + rng.IntN(a.disk.Len()+1-a.opened))
	} else {
		again.Seek(rng.IntN(a.disk.Len() + 1))
	}
	v, err := a.l.openOn(again.Crash(fakedisk.Subset(rng.IntN(5))), 0, "after the second cut")
	if err != nil {
		return fmt.Errorf("after a second cut at %d: %w", again.Pos(), err)
	}
	if err := a.snapshotsStand(v); err != nil {
		return fmt.Errorf("after a second cut at %d: %w", again.Pos(), err)
	}
	for _, s := range v.Listing("v", cairn.Want{Versions: true}).Versions {
		if s.IsSnapshot() {
			if err := a.l.askTable(v, s.VersionID, false); err != nil {
				return fmt.Errorf("after a second cut at %d: %w", again.Pos(), err)
			}
		}
	}
	return nil
}

func (a *after) snapshotsStand(e *volume.Volume) error {
	for _, v := range a.present {
		if v.snapshot() {
			if err := checkSnapshot(e, v, a.blocks); err != nil {
				return err
			}
		}
	}
	return nil
}
