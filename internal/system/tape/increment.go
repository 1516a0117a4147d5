package tape

import (
	"cairn/internal/policy/syncpolicy"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// increments is what a session knows about its incremental indexes (format 2.5).
type increments struct {
	last  ltfs.Location // since the last full index; zero: none
	bytes int64         // they take since the last full index
}

// leastIncrements is how much incremental indexes may take before a full one is due
// however small that is.
const leastIncrements = 1 << 20

// incremental reports whether the index that is due may be an incremental one: a
// program asked for it by fsync or close, the mount wants it so, and those since
// the last full index do not outgrow it.
func (f *FS) incremental(reason syncpolicy.Reason, both bool) bool {
	return f.opt.Fsync == FsyncIncremental && !both && (reason == syncpolicy.Fsync || reason == syncpolicy.OnClose) &&
		f.t.ends[f.t.label.DataPart].last != nil && f.increments.bytes <= max(f.sync.lastSize, leastIncrements)
}

// putIncrement writes what changed since the newest generation as an incremental
// index to the end of the data partition.
func (f *FS) putIncrement(ix *ltfs.Index) error {
	if err := f.atEnd(); err != nil {
		return err
	}
	if err := f.beforeData(); err != nil {
		return err
	}
	t := f.t
	letter, tail := t.label.DataPart, t.ends[t.label.DataPart]
	f.mu.Lock()
	before := &ltfs.Index{Root: f.indexed}
	f.mu.Unlock()
	ix.Previous = tail.last.Self
	ix.Self = ltfs.Location{Partition: letter, Block: tail.end + 1}
	inc := ltfs.Difference(before, ix)
	inc.PreviousIncremental = f.increments.last
	w := &recordWriter{ctx: f.ctx, t: t, at: drive.Position{Partition: t.number[letter], Block: tail.end + 1}}
	if err := t.mover.filemark(f.ctx, drive.Position{Partition: w.at.Partition, Block: tail.end}, true); err != nil {
		return err
	}
	size, err := inc.WriteTo(w)
	if err == nil {
		err = w.flush()
	}
	if err == nil {
		err = t.mover.filemark(f.ctx, w.at, false)
	}
	if err != nil {
		return t.formatFailure("write index to tape", err)
	}
	tail.extra += w.at.Block + 1 - tail.end
	tail.end = w.at.Block + 1
	f.mu.Lock()
	defer f.mu.Unlock()
	f.increments = increments{last: ix.Self, bytes: f.increments.bytes + size}
	f.sync.IndexBytes += size
	return nil
}

// fullAtEnd makes sure that the data partition ends in a full index of the newest
// generation: ix, which may stand there as an incremental one.
func (f *FS) fullAtEnd(ix *ltfs.Index) error {
	if f.t.ends[f.t.label.DataPart].inIndex() {
		return nil
	}
	if err := f.t.preserve(f.ctx, ix); err != nil {
		return err
	}
	ix.Self, ix.Previous = f.t.ends[f.t.label.DataPart].last.Self, f.t.ends[f.t.label.DataPart].last.Previous
	f.noteIndex(ix)
	return nil
}

// smallIncrement is what an incremental index takes, about.
const smallIncrement = 64 << 10

// pace tells how the budget for indexes stands. The caller holds mu.
func (f *FS) pace() syncpolicy.Pace {
	spent, next, limit := f.sync.IndexBytes, f.nextSize(), f.sync.Budget
	if f.opt.Fsync != FsyncIncremental || limit <= 0 {
		return syncpolicy.PaceOf(spent, next, limit)
	}
	if limit <= next {
		return syncpolicy.Exhausted
	}
	return syncpolicy.PaceOf(spent, smallIncrement, limit-next) // room for a full one is kept
}
