package volume

import (
	"context"

	"cairn/internal/mech/extent"
	"cairn/internal/mech/watchdog"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/hashes"
)

// reconciliation compares the head with the block hash table. A block that nobody
// wrote since and that holds something else was written behind the engine's back,
// or rotted: it counts as changed from then on, and to the snapshots that read it
// from there it is lost, which a replica can heal. Where there is doubt about the
// head, blocks of which the table knows nothing count as changed too.
type reconciliation struct {
	v       *Volume
	view    *hashes.View
	doubt   bool
	sealed  bool // nothing is entered: a replica's head is mended in place
	covered *extent.Bitmap
	foreign *extent.Bitmap
	unknown *extent.Bitmap
	missing *extent.Bitmap // of unknown, what the table should know
}

// reconcile compares the head with the table; nil without one that knows anything.
// It ends a doubt about the head.
func (v *Volume) reconcile(ctx context.Context) (*reconciliation, error) {
	if v.doubt() == "" {
		return v.reconcileHead(ctx, 0)
	}
	v.admin.Lock()
	defer v.admin.Unlock()
	return v.reconcileHead(ctx, internal)
}

// settleDoubt ends a doubt about the head where the table can. Callers hold admin.
func (v *Volume) settleDoubt(ctx context.Context) error {
	if v.doubt() == "" {
		return nil
	}
	_, err := v.reconcileHead(ctx, internal)
	return err
}

// relied is settleDoubt, and verified, for callers that do not hold admin.
func (v *Volume) relied(ctx context.Context) error {
	if v.doubt() != "" {
		if _, err := v.reconcile(ctx); err != nil {
			return err
		}
	}
	return v.verified()
}

// reconcileHead does it; by is internal when the caller holds admin.
func (v *Volume) reconcileHead(ctx context.Context, by writeKind) (*reconciliation, error) {
	view, err := v.tableView(nil)
	if err != nil || view == nil {
		return nil, err
	}
	x := &reconciliation{v: v, view: view, doubt: v.doubt() != "", sealed: v.state().Head.Sealed,
		covered: &extent.Bitmap{}, foreign: &extent.Bitmap{}, unknown: &extent.Bitmap{}, missing: &extent.Bitmap{}}
	v.mu.Lock()
	size := v.size
	v.mu.Unlock()
	progress := watchdog.From(ctx)
	for off := int64(0); off < size; off += windowBytes {
		err := v.withRoom(ctx, by, func() error { return x.window(off, min(windowBytes, size-off)) })
		if err != nil {
			return nil, err
		}
		progress.Level("compared with the block hash table", off)
	}
	if n := x.foreign.Count(); n > 0 {
		v.o.Log.Error("blocks of the head hold something else than was written", "volume", v.o.Name, "blocks", n)
	}
	if x.doubt {
		err = x.settle()
	}
	return x, err
}

// window compares a part of the head while nobody writes to it.
func (x *reconciliation) window(off, length int64) error {
	v := x.v
	v.gate.RLock()
	defer v.gate.RUnlock()
	if v.closed {
		return errClosed
	}
	if length = min(length, v.size-off); length <= 0 {
		return nil // it shrank meanwhile
	}
	blocks := blocksOf(off, length)
	v.claim(blocks)
	defer v.unclaim(blocks)
	buf := buffers.Get().(*[windowBytes]byte)
	defer buffers.Put(buf)
	p := buf[:length]
	bad, err := v.readWhat(p, off)
	if err != nil {
		return err
	}
	foreign, err := x.compare(blocks, p, bad)
	if err == nil && len(foreign) > 0 {
		// Blocks may have been written since the view was made.
		if x.view, err = v.tableView(nil); err == nil && x.view != nil {
			foreign, err = x.compare(blocks, p, bad)
		}
	}
	if err != nil || x.view == nil {
		return err
	}
	return x.enter(foreign)
}

// readWhat fills p from the head as far as it can be read, and tells which blocks
// of it cannot.
func (v *Volume) readWhat(p []byte, off int64) (bad map[uint64]bool, err error) {
	if start, _, err := v.head.Data(off); err != nil {
		return nil, err
	} else if start >= off+int64(len(p)) {
		clear(p)
		return nil, nil
	}
	if v.readHead(p, off) == nil {
		return nil, nil
	}
	bad = map[uint64]bool{}
	for at := 0; at < len(p); at += blockSize {
		if v.readHead(p[at:min(at+blockSize, len(p))], off+int64(at)) != nil {
			bad[uint64(off+int64(at))/blockSize] = true
		}
	}
	return bad, nil
}

// compare looks at the blocks, whose content is p. foreign are those that hold
// something else than they should.
func (x *reconciliation) compare(blocks run, p []byte, bad map[uint64]bool) (foreign []run, err error) {
	for i := range blocks.count {
		b := blocks.first + i
		e, err := x.view.Entry(b)
		if err != nil {
			return nil, err
		}
		for _, set := range []*extent.Bitmap{x.unknown, x.covered, x.missing} {
			set.Clear(b, 1)
		}
		switch {
		case e == hashes.Unknown || bad[b]:
			x.unknown.Set(b, 1)
			if !x.view.Apart(b) {
				x.missing.Set(b, 1)
			}
		case x.view.Of(p[i*blockSize:min((i+1)*blockSize, uint64(len(p)))]) == e:
			x.covered.Set(b, 1)
		default:
			foreign = extend(foreign, b)
		}
	}
	return foreign, nil
}

// enter makes durable that blocks changed, and that snapshots have lost what they
// held.
func (x *reconciliation) enter(foreign []run) error {
	v := x.v
	for _, r := range foreign {
		x.foreign.Set(r.first, r.count)
	}
	if x.sealed || len(foreign) == 0 {
		return nil
	}
	preserve, mark := v.admit(foreign)
	if len(preserve)+len(mark) == 0 {
		return nil
	}
	if err := v.activate(); err != nil {
		return err
	}
	lost := &extent.Bitmap{}
	for _, r := range preserve {
		lost.Set(r.first, r.count)
	}
	return v.durable(&request{preserve: lostRecords(lost), mark: mark})
}

// markRuns is how many runs of blocks are marked at once.
const markRuns = 4096

// markUnknown lets what nobody can vouch for count as changed.
func (x *reconciliation) markUnknown() error {
	v := x.v
	v.gate.RLock()
	defer v.gate.RUnlock()
	var waiting []run
	mark := func() error {
		unsure, more := v.admit(waiting)
		waiting = waiting[:0]
		if unsure = append(unsure, more...); len(unsure) == 0 {
			return nil
		}
		return v.durable(&request{mark: unsure})
	}
	for first, count := range x.unknown.All() {
		if waiting = append(waiting, run{first, count}); len(waiting) == markRuns {
			if err := mark(); err != nil {
				return err
			}
		}
	}
	return mark()
}

// settle ends the doubt. Snapshots that read from the head what nobody can vouch for
// are damaged. As long as a replica could still vouch for it, since the table has
// gaps, the doubt remains. Callers hold admin.
func (x *reconciliation) settle() error {
	v := x.v
	if x.sealed && x.foreign.Count()+x.unknown.Count() > 0 {
		return nil // a replica's head has to be right before anything is received on it
	}
	hit := map[string]bool{}
	for _, r := range v.state().Versions {
		if !r.ID().IsSnapshot() {
			continue
		}
		doubtful, gaps, err := x.doubtful(r)
		if err != nil {
			return err
		}
		if gaps {
			v.o.Log.Warn("the block hash table has gaps: the volume stays unverified", "volume", v.o.Name, "unknown", x.missing.Count())
			return nil
		}
		if doubtful {
			hit[r.Name] = true
		}
	}
	return x.endDoubt(hit)
}

// endDoubt puts on record that the head is known again.
func (x *reconciliation) endDoubt(hit map[string]bool) error {
	v := x.v
	if err := v.activate(); err != nil {
		return err
	}
	if err := x.markUnknown(); err != nil {
		return err
	}
	err := v.commit("compared with the block hash table", func(s *catalog.State, h *catalog.Head) catalog.Edit {
		h.Unverified = ""
		return catalog.Edit{Versions: damagedVersions(s, hit)}
	})
	if err != nil {
		return err
	}
	v.o.Log.Info("the head was compared with the block hash table", "volume", v.o.Name, "differ", x.foreign.Count(), "unknown", x.unknown.Count(), "damaged snapshots", len(hit))
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unverified, v.continuity = "", continuityHashes
	return nil
}

// doubtful tells whether the snapshot lost blocks, or reads some from the head of
// which the table knows nothing; gaps are such of a snapshot that it should know.
func (x *reconciliation) doubtful(r catalog.Version) (doubtful, gaps bool, err error) {
	v := x.v
	v.persist.Lock()
	kept, err := v.union(r.Start)
	v.persist.Unlock()
	if err != nil {
		return false, false, err
	}
	reads := func(set *extent.Bitmap) bool {
		left := set.Clone()
		left.Subtract(kept)
		_, _, some := left.Next(0, blocksOf(0, r.Size).count)
		return some
	}
	if r.Start <= x.view.AsOf() && reads(x.missing) {
		return true, true, nil
	}
	for first, count := range x.foreign.Runs(0, blocksOf(0, r.Size).count) {
		if v.unreadable(r, run{first, count}) {
			return true, false, nil
		}
	}
	return reads(x.unknown), false, nil
}
