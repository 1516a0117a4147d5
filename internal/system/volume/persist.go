package volume

import (
	"errors"
	"slices"
	"sync"

	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/changes"
	"cairn/internal/system/volume/segment"
)

// regionBlocks is how far a mark is rounded out: 1 MiB. It is a tunable, marks on
// disk are in blocks.
const regionBlocks = 256

// Marks reach 16 MiB ahead of a sequential writer, but never more than a 64th of
// the active set.
const (
	markAhead      = 16 * regionBlocks
	markAheadShare = 64
)

// run is a run of blocks.
type run struct{ first, count uint64 }

// request is what one write needs durable before it may touch the origin.
type request struct {
	preserve []segment.Record
	mark     []run
	done     chan outcome
}

// outcome ends a request's wait: it was served, or it leads the next commit.
type outcome struct {
	err  error
	lead bool
}

// group collects requests: whoever comes first commits for all that wait.
type group struct {
	mu      sync.Mutex // guards what follows
	waiting []*request
	leading bool
}

// durable returns once the request is durable and in the indexes.
func (v *Volume) durable(r *request) error {
	g := &v.group
	r.done = make(chan outcome, 1)
	g.mu.Lock()
	g.waiting = append(g.waiting, r)
	wait := g.leading
	g.leading = true
	g.mu.Unlock()
	if wait {
		if o := <-r.done; !o.lead {
			return o.err
		}
	}
	g.mu.Lock()
	batch := g.waiting
	g.waiting = nil
	g.mu.Unlock()
	err := v.groupCommit(batch)
	for _, other := range batch {
		if other != r {
			other.done <- outcome{err: err}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) > 0 {
		g.waiting[0].done <- outcome{lead: true}
	} else {
		g.leading = false
	}
	return err
}

func (v *Volume) groupCommit(batch []*request) error {
	v.persist.Lock()
	defer v.persist.Unlock()
	var recs []segment.Record
	for _, r := range batch {
		recs = append(recs, r.preserve...)
	}
	if len(recs) > 0 {
		if err := v.preserve(recs); err != nil {
			return err
		}
	}
	marks := v.marksFor(batch)
	if marks.Count() == 0 {
		return nil
	}
	if err := v.mark(marks); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range batch {
		for _, m := range r.mark {
			v.dirty.Set(m.first, m.count)
		}
	}
	return nil
}

// marksFor is the blocks to mark: regions, or where those of one batch are more
// than the active set, no more than was asked for.
func (v *Volume) marksFor(batch []*request) *extent.Bitmap {
	regions, exact := &extent.Bitmap{}, &extent.Bitmap{}
	for _, r := range batch {
		for _, m := range r.mark {
			exact.Set(m.first, m.count)
			m = v.region(m)
			regions.Set(m.first, m.count)
		}
	}
	if int64(regions.Count())*blockSize > max(v.o.ActiveBytes, regionBlocks*blockSize) {
		return exact
	}
	return regions
}

// region rounds a mark out to whole regions. Where the region before is marked
// already the writer is taken to be sequential, and marked ahead of.
func (v *Volume) region(m run) run {
	first := m.first / regionBlocks * regionBlocks
	end := (m.first + m.count + regionBlocks - 1) / regionBlocks * regionBlocks
	ahead := min(uint64(v.o.ActiveBytes)/blockSize/markAheadShare, markAhead) / regionBlocks * regionBlocks
	v.mu.Lock()
	defer v.mu.Unlock()
	if first > 0 && v.marked.Has(first-1) {
		end += ahead
	}
	return run{first, end - first}
}

// preserve makes the records durable and lets readers find them. A batch whose
// sync failed is written anew into another segment: what the first one holds of
// it is in doubt.
func (v *Volume) preserve(recs []segment.Record) error {
	batch, err := v.append(recs)
	if err != nil && !errors.Is(err, errAppend) {
		v.o.Log.Warn("sync of a segment failed, its last batch is written anew", "volume", v.o.Name, "segment", v.current.rec.ID, "error", err)
		if err := v.abandonCurrent(); err != nil {
			return err
		}
		batch, err = v.append(recs)
	}
	if err != nil {
		return err
	}
	if !v.o.Faults.has(FaultPublishLate) {
		v.current.open.Publish(batch)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range recs {
		v.kept.Set(r.First, r.Count)
		v.dirty.Set(r.First, r.Count)
	}
	return nil
}

// abandonCurrent ends the segment whose sync failed at the length known durable,
// on record: no recovery may find the batch in doubt that lies behind it.
func (v *Volume) abandonCurrent() error {
	x := v.current
	if x.open.Length() > 0 {
		return v.sealCurrent()
	}
	err := v.commit("abandon segment", func(*catalog.State, *catalog.Head) catalog.Edit {
		return catalog.Edit{GoneSegments: []uint64{x.rec.ID}}
	})
	if err != nil {
		return err
	}
	v.current = nil
	err = v.stack.drop([]uint64{x.rec.ID})
	v.remove(numbered(segPrefix, x.rec.ID))
	return err
}

// errAppend marks errors after which the same segment can go on.
var errAppend = errors.New("append")

func (v *Volume) append(recs []segment.Record) (segment.Batch, error) {
	if err := v.needSegment(recs); err != nil {
		return segment.Batch{}, errors.Join(errAppend, err)
	}
	batch, err := v.current.open.Append(v.interval, v.epoch, recs)
	if err != nil {
		return segment.Batch{}, errors.Join(errAppend, err)
	}
	if v.o.Faults.has(FaultSkipSegmentSync) {
		return batch, nil
	}
	err = v.current.open.Sync()
	if err != nil && v.o.Faults.has(FaultRetrySync) {
		err = v.current.open.Sync()
	}
	if err != nil {
		v.current.open.CutBack()
	}
	return batch, err
}

// segmentSlack is how much longer than a full segment its file is, so that it can
// hold the batch that fills it.
const segmentSlack = 8 << 20

// needSegment begins a segment when there is none with room for the records.
func (v *Volume) needSegment(recs []segment.Record) error {
	if v.current != nil && v.current.open.Length() < v.o.SegmentBytes && v.current.open.Fits(recs) {
		return nil
	}
	if err := v.sealCurrent(); err != nil {
		// Without its index the segment is read by its headers at the next opening.
		v.o.Log.Warn("cannot write the index of a full segment", "volume", v.o.Name, "error", err)
		v.current = nil
	}
	id := v.newID()
	name := numbered(segPrefix, id)
	f, err := v.fs.Create(name)
	if err != nil {
		return err
	}
	rec := catalog.Segment{ID: id, Interval: v.interval, Incarnation: v.state().Head.Incarnation, Extended: true}
	s := segment.New(f, v.ident(rec))
	if err = s.Extend(max(v.o.SegmentBytes+segmentSlack, segment.Bytes(recs))); err == nil {
		err = v.syncDir()
	}
	if err == nil {
		err = v.commit("new segment", func(*catalog.State, *catalog.Head) catalog.Edit {
			return catalog.Edit{Segments: []catalog.Segment{rec}}
		})
	}
	if err != nil {
		err = errors.Join(err, f.Close())
		v.remove(name)
		return err
	}
	v.current = &stacked{rec: rec, in: &v.stack, id: v.ident(rec), open: s}
	v.stack.push(v.current)
	return nil
}

// sealCurrent closes the segment that takes blocks, if there is one, and writes
// its index file. Callers hold persist.
func (v *Volume) sealCurrent() error {
	x := v.current
	if x == nil || x.open.Length() == 0 {
		return nil
	}
	if err := v.seal(x); err != nil {
		return err
	}
	v.current = nil
	return nil
}

// seal writes the index of a segment that takes no more blocks.
func (v *Volume) seal(x *stacked) error {
	rec, s := x.rec, x.open
	name := numbered(indexPrefix, rec.ID)
	v.remove(name)
	f, err := v.fs.Create(name)
	if err != nil {
		return err
	}
	if err = s.Seal(f); err == nil {
		err = v.syncDir()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	rec.Closed, rec.Length, rec.Epoch = true, s.Length(), s.Epoch()
	err = v.commit("close segment", func(st *catalog.State, _ *catalog.Head) catalog.Edit {
		if !slices.ContainsFunc(st.Segments, func(g catalog.Segment) bool { return g.ID == rec.ID }) {
			return catalog.Edit{} // given up meanwhile
		}
		return catalog.Edit{Segments: []catalog.Segment{rec}}
	})
	if err == nil {
		if terr := s.Trim(); terr != nil {
			v.o.Log.Warn("a closed segment's file stays longer than it has to be", "volume", v.o.Name, "segment", rec.ID, "error", terr)
		}
		if serr := x.seal(rec.Length, rec.Epoch); serr != nil {
			v.o.Log.Warn("an index that was just written cannot be read", "volume", v.o.Name, "segment", rec.ID, "error", serr)
		}
	}
	return err
}

// mark makes marks durable. A log whose sync failed is left for the checkpoint to
// replace, and the marks go into a new one.
func (v *Volume) mark(set *extent.Bitmap) error {
	v.mu.Lock()
	full := int64(v.marked.Count()+set.Count())*blockSize > v.o.ActiveBytes && v.marked.Count() > 0 &&
		v.closing == nil // a checkpoint would drop marks that an uncommitted capture's fold-back needs
	v.mu.Unlock()
	if full && !v.o.Faults.has(FaultUnboundedMarks) {
		if err := v.checkpoint("checkpoint", func(*catalog.Head) {}); err != nil {
			v.o.Log.Warn("cannot write a checkpoint; more would count as changed after a crash", "volume", v.o.Name, "error", err)
		}
	}
	err := v.appendMarks(set)
	if err != nil && !errors.Is(err, errAppend) {
		v.rotate()
		err = v.appendMarks(set)
	}
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.marked.Union(set)
	return nil
}

func (v *Volume) appendMarks(set *extent.Bitmap) error {
	if v.marks == nil {
		return v.beginMarks(set)
	}
	if err := v.marks.Append(v.interval, set); err != nil {
		return errors.Join(errAppend, err)
	}
	return v.syncMarks()
}

// beginMarks makes the epoch's log with its first marks. It gets its name once it
// is durable: a log of that name that is empty was cut off.
func (v *Volume) beginMarks(set *extent.Bitmap) error {
	name := numbered(marksPrefix, v.epoch)
	v.remove(name + newSuffix)
	f, err := v.fs.Create(name + newSuffix)
	if err != nil {
		return errors.Join(errAppend, err)
	}
	v.marks = changes.NewMarks(f, v.store, v.epoch)
	if err := v.marks.Append(v.interval, set); err != nil {
		err = errors.Join(errAppend, err, v.marks.Close())
		v.marks = nil
		v.remove(name + newSuffix)
		return err
	}
	if err := v.syncMarks(); err != nil {
		return err
	}
	if err := v.fs.Rename(name+newSuffix, name); err != nil {
		return err
	}
	return v.syncDir()
}

func (v *Volume) syncMarks() error {
	if v.o.Faults.has(FaultSkipMarkSync) {
		return nil
	}
	return v.marks.Sync()
}

// rotate begins a new epoch: whatever is admitted from now on needs a fresh mark.
// It gives the change set as of this instant. Callers hold persist.
func (v *Volume) rotate() *extent.Bitmap {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.newEpoch()
	if !v.o.Faults.has(FaultKeepMarked) {
		v.marked = &extent.Bitmap{}
	}
	return v.dirty.Clone()
}

// newEpoch puts the log of marks aside. Callers hold persist and mu.
func (v *Volume) newEpoch() {
	if v.marks != nil {
		v.oldMarks = append(v.oldMarks, v.epoch)
		if err := v.marks.Close(); err != nil {
			v.o.Log.Warn("cannot close a log of marks", "volume", v.o.Name, "error", err)
		}
		v.marks = nil
	}
	v.epoch++
}

// checkpoint makes the exact change set durable in place of the marks that led to
// it, with what else the caller changes in the same record. Callers hold persist.
func (v *Volume) checkpoint(why string, also func(*catalog.Head)) error {
	set := v.rotate()
	if v.o.Faults.has(FaultDropMarksEarly) {
		v.dropOldMarks()
	}
	id := uint64(0)
	if v.tracking {
		id = v.newID()
		if err := v.writeSet(id, set); err != nil {
			return err
		}
	}
	old := v.state().Head.Checkpoint
	err := v.commit(why, func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		h.Checkpoint, h.Epoch = id, v.epoch-1
		also(h)
		return catalog.Edit{}
	})
	if err != nil {
		return err
	}
	v.dropOldMarks()
	if old != 0 {
		v.remove(numbered(setPrefix, old))
	}
	return nil
}

func (v *Volume) dropOldMarks() {
	for _, e := range v.oldMarks {
		v.remove(numbered(marksPrefix, e), numbered(marksPrefix, e)+newSuffix)
	}
	v.oldMarks = nil
}

// writeSet writes a change set under a new name and makes it durable.
func (v *Volume) writeSet(id uint64, set *extent.Bitmap) error {
	f, err := v.fs.Create(numbered(setPrefix, id))
	if err != nil {
		return err
	}
	if err = changes.WriteSet(f, v.store, id, set); err == nil && !v.o.Faults.has(FaultCommitBeforeSet) {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		v.remove(numbered(setPrefix, id))
		return err
	}
	return v.syncDir()
}

func (v *Volume) readSet(id uint64, into *extent.Bitmap) error {
	f, err := v.fs.Open(numbered(setPrefix, id), false)
	if err != nil {
		return setGone(id, err)
	}
	return errors.Join(changes.ReadSet(f, v.store, id, into), f.Close())
}
