package volume

import (
	"context"
	"errors"
	"io/fs"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/segment"
)

// renewCatalog writes a catalog of which copies were bad anew.
func (v *Volume) renewCatalog() {
	if !v.log.Worn() {
		return
	}
	v.o.Log.Error("blocks of the catalog were bad and were read from their copies", "volume", v.o.Name)
	if err := v.log.Compact(); err != nil {
		v.o.Log.Warn("cannot write the catalog anew", "volume", v.o.Name, "error", err)
	}
}

// loss is what a segment lacks: blocks that are known, or, when a header of it is
// unreadable, some that are not.
type loss struct {
	rec      catalog.Segment
	blocks   *extent.Bitmap // that it holds and cannot give; may be nil
	headless bool
}

// judgeDoubts looks at the blocks of a segment's last batch that are not whole. As
// long as the head still holds what was to be preserved the batch was never
// durable, and nothing is lost; else it was, and rotted since.
func (v *Volume) judgeDoubts(rec catalog.Segment, r segment.Recovered) loss {
	d := loss{rec: rec, blocks: &extent.Bitmap{}, headless: r.Damaged}
	p := make([]byte, blockSize)
	for _, doubt := range r.Doubts {
		held := v.readHead(p, int64(doubt.Block)*blockSize) == nil && doubt.Held(p)
		if held || v.o.Faults.has(FaultRotIsTorn) {
			r.Segment.Forget(doubt.Block)
			continue
		}
		d.blocks.Set(doubt.Block, 1)
	}
	return d
}

// complete answers a look-up that failed because a segment lacks blocks: which,
// is entered in the catalog and the stack. Any other error it gives back. Callers
// hold persist, or are alone.
func (v *Volume) complete(err error) error {
	var lacks incomplete
	if !errors.As(err, &lacks) {
		return err
	}
	x := lacks.x
	if x.knows() {
		return nil // somebody else was faster
	}
	if err := v.enterLoss(loss{rec: x.rec, headless: true}); err != nil {
		return err
	}
	x.tell()
	return nil
}

// mend completes what a look-up found incomplete, and tells whether to look again.
func (v *Volume) mend(err error) bool {
	var lacks incomplete
	if !errors.As(err, &lacks) {
		return false
	}
	v.persist.Lock()
	defer v.persist.Unlock()
	if err := v.complete(err); err != nil {
		v.o.Log.Error("cannot enter what a damaged segment lacks", "volume", v.o.Name, "segment", lacks.x.rec.ID, "error", err)
		return false
	}
	return true
}

func (x *stacked) knows() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.told || x.gone
}

func (x *stacked) tell() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.told = true
}

// union is every block preserved in the intervals from start on. Callers hold
// persist, or are alone.
func (v *Volume) union(start uint64) (*extent.Bitmap, error) {
	for {
		set, err := v.stack.union(start)
		if err == nil {
			return set, nil
		}
		if err := v.complete(err); err != nil {
			return nil, err
		}
	}
}

// enterLoss enters what a segment lacks: in one record the blocks that are missing
// become lost, and the snapshots that need any of them damaged.
func (v *Volume) enterLoss(d loss) error {
	gone := &extent.Bitmap{}
	if d.headless {
		var err error
		if gone, err = v.missing(d.rec.Interval); err != nil {
			return err
		}
	}
	v.o.Log.Error("a segment is damaged below what was durable", "volume", v.o.Name, "segment", d.rec.ID, "missing", gone.Count(), "unreadable", count(d.blocks))
	entered, err := v.writeSegment(catalog.Segment{Interval: d.rec.Interval, Heals: d.rec.ID}, lostRecords(gone))
	if err != nil {
		return err
	}
	hit, err := v.needing(d.rec, gone, d.blocks)
	if err != nil {
		return err
	}
	err = v.commit("damage", func(s *catalog.State, _ *catalog.Head) catalog.Edit {
		e := catalog.Edit{Versions: damagedVersions(s, hit)}
		if entered != nil {
			e.Segments = append(e.Segments, entered.rec)
		}
		for _, g := range s.Segments {
			if g.ID == d.rec.ID && d.headless {
				g.Damaged = true
				e.Segments = append(e.Segments, g)
			}
		}
		return e
	})
	if err != nil {
		return v.unwritten(entered, err)
	}
	if entered != nil {
		v.stack.push(entered)
	}
	return nil
}

func count(set *extent.Bitmap) uint64 {
	if set == nil {
		return 0
	}
	return set.Count()
}

// missing is every block that was written while the interval's change set was open
// and that no segment of that time has: what was in batches that are gone.
func (v *Volume) missing(interval uint64) (*extent.Bitmap, error) {
	gone, end, err := v.writtenIn(interval)
	if err != nil {
		v.o.Log.Error("cannot tell what was written in an interval; all of it counts as lost", "volume", v.o.Name, "error", err)
		gone, end = &extent.Bitmap{}, interval+1
		gone.Set(0, blocksOf(0, v.size).count)
	}
	for _, x := range v.stack.since(interval) {
		if x.rec.Interval >= end {
			continue // of a later snapshot, which may have had other content
		}
		have := &extent.Bitmap{}
		if _, err := x.rest(have); err != nil {
			return nil, err
		}
		gone.Subtract(have)
	}
	return gone, nil
}

// writtenIn is the change set that covers the interval, and the first interval
// that it does not cover.
func (v *Volume) writtenIn(interval uint64) (*extent.Bitmap, uint64, error) {
	st, open, _ := v.openChanges(cairn.VersionID{})
	for _, s := range st.Sets {
		if s.From <= interval && interval < s.To {
			set := &extent.Bitmap{}
			return set, s.To, v.readSet(s.ID, set)
		}
	}
	if interval < st.Head.Interval {
		return nil, 0, errors.New("no change set covers the interval")
	}
	return open, st.Head.NextID + v.nextID.Load(), nil
}

// needing names the snapshots that read one of the blocks from the segment, or
// would if it had them.
func (v *Volume) needing(rec catalog.Segment, gone, unreadable *extent.Bitmap) (map[string]bool, error) {
	hit := map[string]bool{}
	for _, r := range v.state().Versions {
		if !r.ID().IsSnapshot() || r.Start > rec.Interval {
			continue
		}
		need := gone.Clone()
		if unreadable != nil {
			need.Union(unreadable)
		}
		for _, x := range v.stack.since(r.Start) {
			if catalog.SegmentOrder(x.rec, rec) >= 0 {
				break
			}
			have := &extent.Bitmap{}
			if _, err := x.rest(have); err != nil {
				return nil, err
			}
			need.Subtract(have)
		}
		if _, _, some := need.Next(0, blocksOf(0, r.Size).count); some {
			hit[r.Name] = true
		}
	}
	return hit, nil
}

// damagedVersions are the named ones that were not known to be damaged.
func damagedVersions(s *catalog.State, names map[string]bool) (out []catalog.Version) {
	for _, r := range s.Versions {
		if names[r.Name] && r.ID().IsSnapshot() && !r.Damaged {
			r.Damaged = true
			out = append(out, r)
		}
	}
	return out
}

func lostRecords(set *extent.Bitmap) (recs []segment.Record) {
	for first, n := range set.All() {
		recs = append(recs, segment.Record{First: first, Count: n, Kind: segment.Lost})
	}
	return recs
}

// writeSegment makes a closed segment of the records, durable but not in the
// catalog yet; nil when there are none. rec gives its interval, the segment that it
// heals and its epoch: with none, its batches count as no marks.
func (v *Volume) writeSegment(rec catalog.Segment, recs []segment.Record) (*stacked, error) {
	if len(recs) == 0 {
		return nil, nil
	}
	rec.ID, rec.Incarnation = v.newID(), v.state().Head.Incarnation
	v.remove(numbered(segPrefix, rec.ID), numbered(indexPrefix, rec.ID))
	f, err := v.fs.Create(numbered(segPrefix, rec.ID))
	if err != nil {
		return nil, err
	}
	s := segment.New(f, v.ident(rec))
	err = v.fillSegment(s, rec, recs)
	if err = errors.Join(err, f.Close()); err != nil {
		v.removeNumbered([]uint64{rec.ID}, nil)
		return nil, err
	}
	rec.Closed, rec.Length = true, s.Length()
	return v.closedSegment(rec), nil
}

func (v *Volume) fillSegment(s *segment.Segment, rec catalog.Segment, recs []segment.Record) error {
	batch, err := s.Append(rec.Interval, rec.Epoch, recs)
	if err == nil && !v.o.Faults.has(FaultSkipSegmentSync) {
		err = s.Sync()
	}
	if err != nil {
		return err
	}
	s.Publish(batch)
	idx, err := v.fs.Create(numbered(indexPrefix, s.ID()))
	if err != nil {
		return err
	}
	if err := errors.Join(s.Seal(idx), idx.Close()); err != nil {
		return err
	}
	return v.syncDir()
}

// unwritten removes a segment whose record was not written.
func (v *Volume) unwritten(x *stacked, err error) error {
	if x != nil && v.log.InDoubt() == nil {
		v.removeNumbered([]uint64{x.rec.ID}, nil)
	}
	return err
}

// suspect answers a read of a snapshot that failed: whichever snapshots cannot
// read blocks of the run any more are damaged from now on, on record.
func (v *Volume) suspect(name string, blocks run) {
	st := v.state()
	if r, ok := st.Find(name); !ok || r.Damaged {
		return
	}
	hit := map[string]bool{}
	for _, r := range st.Versions {
		if r.ID().IsSnapshot() && !r.Damaged && v.unreadable(r, blocks) {
			hit[r.Name] = true
		}
	}
	v.noteDamaged(hit)
}

// noteDamaged enters in the catalog that the named snapshots are damaged.
func (v *Volume) noteDamaged(hit map[string]bool) {
	if len(damagedVersions(v.state(), hit)) == 0 {
		return
	}
	err := v.commit("damage", func(s *catalog.State, _ *catalog.Head) catalog.Edit {
		return catalog.Edit{Versions: damagedVersions(s, hit)}
	})
	for n := range hit {
		v.o.Log.Error("a snapshot has blocks that cannot be read", "volume", v.o.Name, "snapshot", n)
	}
	if err != nil {
		v.o.Log.Error("cannot enter in the catalog that snapshots are damaged", "volume", v.o.Name, "error", err)
	}
}

// unreadable tells whether the snapshot has preserved blocks in the run that
// cannot be read.
func (v *Volume) unreadable(r catalog.Version, blocks run) bool {
	end := min(blocks.first+blocks.count, blocksOf(0, r.Size).count)
	if blocks.first >= end {
		return false
	}
	v.stack.use.RLock()
	defer v.stack.use.RUnlock()
	found, err := v.stack.find(r.Start, run{blocks.first, end - blocks.first})
	if err != nil {
		return false // not for this reason
	}
	for _, x := range found {
		if x.seg != nil && x.seg.Read(x.Run, make([]byte, x.Count*blockSize)) != nil {
			return true
		}
	}
	return false
}

// readable refuses a rollback to a snapshot of which preserved blocks cannot be
// read: begun, it could not be finished.
func (v *Volume) readable(ctx context.Context, target catalog.Version) error {
	v.persist.Lock()
	set, err := v.union(target.Start)
	v.persist.Unlock()
	if err != nil {
		return err
	}
	for first, n := range set.Runs(0, blocksOf(0, target.Size).count) {
		for ; n > 0; first, n = first+min(n, windowBlocks), n-min(n, windowBlocks) {
			blocks := run{first, min(n, windowBlocks)}
			if err := ctx.Err(); err != nil {
				return err
			}
			if v.unreadable(target, blocks) {
				v.suspect(target.Name, blocks)
				return damagedTarget(target.Name)
			}
		}
	}
	return v.stack.trim()
}

func damagedTarget(name string) error {
	return &cairn.Error{Op: "roll back", Subject: name, Kind: cairn.KindDamaged, Err: errors.New("blocks of it are lost"),
		Hint: "heal it from a replica with cairn volume verify --against … --heal, or choose another snapshot"}
}

// setGone makes a change set that is not there a damaged one.
func setGone(id uint64, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &cairn.Error{Op: "read change set", Subject: numbered(setPrefix, id), Kind: cairn.KindDamaged, Err: err}
	}
	return err
}
