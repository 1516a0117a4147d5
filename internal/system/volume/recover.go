package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"cairn"
	"cairn/internal/mech/extent"
	"cairn/internal/system/volume/catalog"
	"cairn/internal/system/volume/changes"
	"cairn/internal/system/volume/segment"
)

// recover brings memory in line with the store. After a clean stop it only reads.
func (v *Volume) recover() error {
	st := v.log.State()
	v.size = st.Head.Size
	v.interval = st.Head.Interval
	v.nextID.Store(st.Head.NextID)
	v.tracking = len(st.Versions) > 0
	files, err := v.files()
	if err != nil {
		return err
	}
	v.epoch = max(st.Head.Epoch, slices.Max(append(files.marks, 0))) + 1
	if st.Head.Clean && allClosed(st) {
		err = v.load(st)
	} else {
		err = v.repair(st, files)
	}
	if err != nil {
		return err
	}
	v.sweep(files)
	return v.aim()
}

// files is what lies in the store's folder.
type files struct {
	all   []string
	marks []uint64 // epochs
}

func (v *Volume) files() (files, error) {
	names, err := v.fs.ReadDir(".")
	if err != nil {
		return files{}, err
	}
	f := files{all: names}
	for _, n := range names {
		if hex, ok := strings.CutPrefix(n, marksPrefix); ok {
			if epoch, err := strconv.ParseUint(hex, 16, 64); err == nil {
				f.marks = append(f.marks, epoch)
			}
		}
	}
	slices.Sort(f.marks)
	return f, nil
}

// allClosed is false when a segment could not be closed by the time of a clean
// stop: what it holds has to be looked at.
func allClosed(st *catalog.State) bool {
	return !slices.ContainsFunc(st.Segments, func(g catalog.Segment) bool { return !g.Closed })
}

// load takes over what a clean stop left.
func (v *Volume) load(st *catalog.State) error {
	for _, rec := range st.Segments {
		v.stack.push(v.closedSegment(rec))
	}
	if st.Head.Checkpoint == 0 {
		return nil
	}
	if err := v.readSet(st.Head.Checkpoint, v.dirty); err != nil {
		v.allDirty(err)
	}
	return nil
}

// allDirty is the answer to a change set that cannot be read.
func (v *Volume) allDirty(err error) {
	v.o.Log.Error("the change set is damaged; everything counts as changed", "volume", v.o.Name, "error", err)
	v.dirty.Set(0, blocksOf(0, v.size).count)
}

func (v *Volume) ident(rec catalog.Segment) segment.Identity {
	return segment.Identity{Store: v.store, Segment: rec.ID, Incarnation: rec.Incarnation}
}

func (v *Volume) closedSegment(rec catalog.Segment) *stacked {
	return &stacked{rec: rec, in: &v.stack, id: v.ident(rec), sealed: true, length: rec.Length, epoch: rec.Epoch, told: rec.Damaged}
}

func (v *Volume) recoverSegment(rec catalog.Segment) (segment.Recovered, error) {
	f, err := v.fs.Open(numbered(segPrefix, rec.ID), true)
	if err != nil {
		return segment.Recovered{}, err
	}
	r, err := segment.Recover(f, v.ident(rec), rec.Length, rec.Extended)
	if err == nil {
		// A killed process may have left good batches that are not on disk yet.
		err = f.Sync()
	}
	if err != nil {
		return r, errors.Join(err, f.Close())
	}
	return r, nil
}

// repair finishes what a crash cut off. Higher intervals than the open one belong
// to captures that were never committed: their blocks and marks join the open
// interval's.
func (v *Volume) repair(st *catalog.State, files files) error {
	err := v.log.Compact()
	if errors.Is(err, cairn.KindSpace) {
		err = v.log.Rewrite()
	}
	if err == nil {
		err = v.log.Raise(storeFormat)
	}
	if err != nil {
		return err
	}
	if st.Head.Checkpoint != 0 && v.tracking {
		if err := v.readSet(st.Head.Checkpoint, v.dirty); err != nil {
			v.allDirty(err)
		}
	}
	edit, damaged, err := v.repairSegments(st)
	if err != nil {
		return err
	}
	if err := v.readMarks(st, files.marks); err != nil {
		return err
	}
	if !v.tracking {
		v.dirty = &extent.Bitmap{}
	}
	if v.o.cramped && len(damaged) == 0 {
		v.postpone(st, files.marks)
		return nil
	}
	if err := v.commitRepair(st, edit); err != nil {
		return err
	}
	for _, d := range damaged {
		if err := v.enterLoss(d); err != nil {
			return err
		}
	}
	return nil
}

// repairSegments fills the stack, closes segments that a crash left open and
// takes their batches as marks. damaged are those that lack blocks.
func (v *Volume) repairSegments(st *catalog.State) (edit catalog.Edit, damaged []loss, err error) {
	for _, rec := range st.Segments {
		if v.o.Faults.has(FaultDropFoldBack) && rec.Interval > st.Head.Interval {
			edit.GoneSegments = append(edit.GoneSegments, rec.ID)
			continue
		}
		if rec.Closed {
			x := v.closedSegment(rec)
			v.stack.push(x)
			if err := v.countClosed(st, x); err != nil {
				return edit, nil, err
			}
			continue
		}
		r, err := v.recoverSegment(rec)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			edit.GoneSegments = append(edit.GoneSegments, rec.ID)
			damaged = append(damaged, loss{rec: rec, headless: true})
			v.unmarked(st, rec)
			continue
		case err != nil:
			return edit, nil, err
		}
		if r.Damaged {
			v.unmarked(st, rec)
		}
		if v.o.cramped && len(r.Doubts) > 0 {
			return edit, nil, cutBatch(rec)
		}
		if d := v.judgeDoubts(rec, r); d.headless || d.blocks.Count() > 0 {
			damaged = append(damaged, d)
		}
		for _, m := range r.Marks {
			if rec.Interval >= st.Head.Interval && m.Epoch > st.Head.Epoch && !v.o.Faults.has(FaultBatchesNoMarks) {
				v.dirty.Union(m.Blocks)
			}
		}
		v.epoch = max(v.epoch, r.Segment.Epoch()+1)
		if r.Segment.Length() == 0 {
			edit.GoneSegments = append(edit.GoneSegments, rec.ID)
			if err := r.Segment.Close(); err != nil {
				return edit, nil, err
			}
			continue
		}
		v.stack.push(&stacked{rec: rec, in: &v.stack, id: v.ident(rec), open: r.Segment})
	}
	return edit, damaged, nil
}

// cutBatch refuses to postpone what has to be judged by what the head holds now:
// once that is overwritten nothing would tell a batch that was cut off from rot.
func cutBatch(rec catalog.Segment) error {
	return &cairn.Error{Op: "recover segment", Subject: fmt.Sprint(rec.ID), Kind: cairn.KindSpace, Err: errors.New("its last batch was cut off, and there is no room to note that")}
}

// countClosed takes a closed segment as marks when it may hold some that no
// checkpoint covers.
func (v *Volume) countClosed(st *catalog.State, x *stacked) error {
	v.epoch = max(v.epoch, x.rec.Epoch+1)
	if x.rec.Interval < st.Head.Interval || x.rec.Epoch <= st.Head.Epoch {
		return nil
	}
	whole, err := x.rest(v.dirty)
	if err == nil && !whole {
		v.unmarked(st, x.rec)
	}
	return err
}

// unmarked answers a segment that lacks batches: those of the open interval were
// the marks of their blocks.
func (v *Volume) unmarked(st *catalog.State, rec catalog.Segment) {
	if rec.Interval >= st.Head.Interval {
		v.allDirty(fmt.Errorf("segment %d, which also held marks, lacks batches", rec.ID))
	}
}

func (v *Volume) readMarks(st *catalog.State, epochs []uint64) error {
	if !v.tracking {
		return nil
	}
	for _, e := range epochs {
		if e <= st.Head.Epoch {
			continue
		}
		f, err := v.fs.Open(numbered(marksPrefix, e), false)
		if err != nil {
			return err
		}
		whole, err := changes.ReadMarks(f, v.store, e, st.Head.Interval, v.dirty)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if !whole {
			v.allDirty(fmt.Errorf("marks of epoch %d are unreadable", e))
		}
	}
	return nil
}

// postpone leaves everything as the crash left it, where there is no room to write
// it anew: memory knows what the marks and batches say, and they stay until the next
// checkpoint. Should there be none, the next opening reads them again.
func (v *Volume) postpone(st *catalog.State, epochs []uint64) {
	v.o.Log.Warn("there is no room to write down what was recovered; give the store room, or destroy snapshots", "volume", v.o.Name)
	for _, e := range epochs {
		if e > st.Head.Epoch {
			v.oldMarks = append(v.oldMarks, e)
		}
	}
}

// commitRepair makes the repaired state durable: a checkpoint in place of the
// marks, and this opening.
func (v *Volume) commitRepair(st *catalog.State, edit catalog.Edit) error {
	id := uint64(0)
	if v.tracking {
		id = v.newID()
		v.remove(numbered(setPrefix, id))
		if err := v.writeSet(id, v.dirty); err != nil {
			return err
		}
	}
	err := v.commit("repair", func(_ *catalog.State, h *catalog.Head) catalog.Edit {
		h.Incarnation++
		h.Checkpoint, h.Epoch = id, v.epoch-1
		h.Unverified = v.unverified
		return edit
	})
	if err != nil {
		return err
	}
	v.active.Store(true)
	for _, x := range v.stack.all() {
		if x.rec.Closed {
			continue
		}
		if err := v.seal(x); err != nil {
			v.o.Log.Warn("cannot write the index of a segment", "volume", v.o.Name, "error", err)
		}
	}
	return nil
}

// sweep removes what the catalog does not know. Logs of marks are in the
// checkpoint by now, but for those that wait for the next.
func (v *Volume) sweep(files files) {
	st := v.log.State()
	keep := map[string]bool{headName: true, lockName: true, catalog.Name: true}
	for _, g := range st.Segments {
		keep[numbered(segPrefix, g.ID)], keep[numbered(indexPrefix, g.ID)] = true, true
	}
	for _, s := range st.Sets {
		keep[numbered(setPrefix, s.ID)] = true
	}
	keep[numbered(setPrefix, st.Head.Checkpoint)] = true
	for _, e := range v.oldMarks {
		keep[numbered(marksPrefix, e)] = true
	}
	if t := st.Head.Hashes; t != nil {
		keep[numbered(hashPrefix, t.Table)] = true
	}
	for _, n := range files.all {
		if !keep[n] && ours(n) {
			v.remove(n)
		}
	}
}

// ours says whether a file is one that the engine made: others are left alone.
func ours(name string) bool {
	if name == catalog.NewName {
		return true
	}
	for _, p := range []string{segPrefix, indexPrefix, setPrefix, marksPrefix, hashPrefix} {
		if hex, ok := strings.CutPrefix(strings.TrimSuffix(name, newSuffix), p); ok && len(hex) == 16 {
			return true
		}
	}
	return false
}
