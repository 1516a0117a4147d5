package tape

import (
	"context"
	"fmt"
	"time"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// lostFolder is where data without a name is brought back, the name that other
// LTFS tools use.
const lostFolder = "_ltfs_lostandfound"

// Repair is what Recover did or would do, in sentences.
type Repair struct {
	Problems []string `json:"problems"` // what is wrong
	Actions  []string `json:"actions"`  // what is done about it; none: nothing can or needs to be
	Named    []string `json:"named"`    // paths brought back under the names that a torn or incremental index holds
	Files    []string `json:"unnamed"`  // brought back without a name, into _ltfs_lostandfound
}

// Check looks at everything the indexes say: the ends of both partitions, every
// index on the tape, the rules of the format, and every record that the current
// index names, which with data set is also read.
func (t *Tape) Check(ctx context.Context, data bool) ([]string, error) {
	problems := append([]string(nil), t.notes...)
	for g, err := range t.Walk(ctx, func(u Unreadable) {
		if u.Committed {
			problems = append(problems, "an index cannot be read, its generation is lost: "+u.String())
		}
	}) {
		if err != nil {
			return problems, err
		}
		if g.Index.Generation == t.index.Generation && g.Index.Self != t.index.Self && !sameTree(g.Index, t.index) {
			problems = append(problems, fmt.Sprintf("the two copies of generation %d differ", g.Index.Generation))
		}
	}
	for _, p := range t.index.Check(t.label) {
		problems = append(problems, p.String())
	}
	var pieces []piece
	for name, node := range t.index.All() {
		if node.File == nil {
			continue
		}
		for _, e := range node.File.Extents {
			pieces = append(pieces, piece{name, e})
		}
	}
	inTapeOrder(pieces)
	x := &extractor{t: t}
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return problems, &cairn.Error{Op: "check tape", Subject: t.subject, Kind: cairn.KindCanceled, Err: err}
		}
		err := t.checkExtent(p.extent)
		if err == nil && data {
			err = x.extent(ctx, p.extent, func([]byte, uint64) error { return nil })
		}
		if err != nil {
			problems = append(problems, p.name+": "+err.Error())
		}
	}
	return problems, nil
}

// sameTree compares what two copies of a generation say of the volume.
func sameTree(a, b *ltfs.Index) bool {
	changed := ltfs.Difference(a, b).Root
	return changed.Meta == nil && len(changed.Dirs) == 0 && len(changed.Files) == 0 && a.Root.Name == b.Root.Name
}

// checkExtent holds an extent against the end of its partition.
func (t *Tape) checkExtent(e ltfs.Extent) error {
	if e.ByteCount == 0 {
		return nil // the rules of the format have a word on it
	}
	end, last := t.ends[e.Partition], lastBlock(e, t.label.BlockSize)
	if end == nil || last >= end.end || last < e.StartBlock {
		return fmt.Errorf("its data ends at %c:%d, behind the end of the partition", e.Partition, last)
	}
	return nil
}

// lastBlock is the block that holds an extent's last byte.
func lastBlock(e ltfs.Extent, blockSize uint64) uint64 {
	return e.StartBlock + (uint64(e.ByteOffset)+max(e.ByteCount, 1)-1)/blockSize
}

// Recover brings a tape whose ends are out of order back to two partitions that
// end in an index. Data behind the last index of a partition gets its names back
// where an incremental index or a torn one behind it holds them; other data there
// becomes whole files under _ltfs_lostandfound; a torn index stays where it is and
// is passed over. Nothing that stands on the data partition is overwritten, and in
// the index partition nothing but its index. With dryRun nothing is written.
//
// A tape of which a partition has lost its label cannot be brought into order;
// then there are no actions.
func (t *Tape) Recover(ctx context.Context, dryRun bool, creator string, now time.Time) (Repair, error) {
	r := Repair{Problems: t.notes}
	if len(t.notes) == 0 || t.unnamed {
		return r, nil
	}
	s, err := t.salvage(ctx, &r, now)
	if err != nil {
		return r, err
	}
	if len(r.Files) > 0 {
		r.Actions = append(r.Actions, fmt.Sprintf("%d files without a name are put into %s", len(r.Files), lostFolder))
	}
	alone, err := t.onlyInIndexPartition(ctx)
	if err != nil {
		return r, err
	}
	if alone != nil {
		r.Actions = append(r.Actions, fmt.Sprintf("generation %d, of which only the index partition's copy is left, is written to the data partition, too", alone.Generation))
	}
	r.Actions = append(r.Actions, fmt.Sprintf("generation %d is written behind everything in the data partition and to the index partition", s.index.Generation+1))
	if dryRun {
		return r, nil
	}
	t.index, t.dirty = s.index, true
	if err := t.closeIndexes(ctx); err != nil {
		return r, err
	}
	if alone != nil {
		if err := t.preserve(ctx, alone); err != nil {
			return r, err
		}
	}
	if err := t.commit(ctx, creator, now); err != nil {
		return r, err
	}
	t.notes = nil
	return r, nil
}

// Salvaged is the tree that a recovery would write, for reading from a tape that
// cannot or must not be written: with it, Extract brings back what stands behind the
// last index. A tape in order has its current index.
func (t *Tape) Salvaged(ctx context.Context, now time.Time) (*ltfs.Index, error) {
	if len(t.notes) == 0 {
		return t.index, nil
	}
	s, err := t.salvage(ctx, &Repair{}, now)
	if err != nil {
		return nil, err
	}
	return s.index, nil
}

// salvage collects what stands behind the last indexes, and leaves the tape as it
// is.
func (t *Tape) salvage(ctx context.Context, r *Repair, now time.Time) (*salvage, error) {
	s := &salvage{t: t, repair: r, now: ltfs.TimestampOf(now)}
	if err := s.run(ctx); err != nil {
		return nil, err
	}
	opened := t.index
	t.index = s.index
	err := s.place()
	t.index = opened
	return s, err
}

// closeIndexes writes the filemark that an index at the end of the data partition
// lacks.
func (t *Tape) closeIndexes(ctx context.Context) error {
	end := t.ends[t.label.DataPart]
	if !end.open || end.extra > 0 {
		return nil
	}
	t.mover.forget()
	if err := t.mover.filemark(ctx, drive.Position{Partition: t.number[t.label.DataPart], Block: end.end}, true); err != nil {
		return err
	}
	end.end, end.open = end.end+1, false
	return nil
}

// onlyInIndexPartition is the index partition's index when the data partition, the
// only one that keeps what is past, has no readable copy of that generation.
func (t *Tape) onlyInIndexPartition(ctx context.Context) (*ltfs.Index, error) {
	last := t.ends[t.label.IndexPart].last
	if last == nil {
		return nil, nil
	}
	var only *ltfs.Index
	for g, err := range t.History(ctx) {
		switch {
		case err != nil:
			return nil, err
		case g.Copy:
			only = g.Index
		case g.Index.Generation == last.Generation:
			return nil, nil
		}
	}
	return only, nil
}

// keepCurrent makes sure, before the first change, that the current generation
// stands in the data partition: other software may leave it in the index partition
// only, where the next index takes its place.
func (t *Tape) keepCurrent(ctx context.Context) error {
	index, data := t.ends[t.label.IndexPart].last, t.ends[t.label.DataPart].last
	if t.dirty || index == nil || data == nil || index.Generation <= data.Generation {
		return nil
	}
	return t.preserve(ctx, t.index)
}

// preserve writes a generation to the end of the data partition as it is.
func (t *Tape) preserve(ctx context.Context, ix *ltfs.Index) error {
	copied, data := *ix, t.ends[t.label.DataPart]
	copied.Previous = ltfs.Location{}
	if data.last != nil {
		copied.Previous = data.last.Self
	}
	t.mover.forget()
	return t.writeIndex(ctx, &copied, t.label.DataPart, data.end)
}

// Rollback makes the tree of an older generation the current one, in a new
// generation; nothing on the tape is lost, and rolling forward is the same call.
func (t *Tape) Rollback(ctx context.Context, generation uint64, creator string, now time.Time) error {
	if len(t.notes) > 0 {
		return t.fail("roll back tape", cairn.KindDamaged, "cairn tape check --repair first", "it is out of order")
	}
	old, err := t.At(ctx, generation)
	if err != nil {
		return err
	}
	if err := t.keepCurrent(ctx); err != nil {
		return err
	}
	current, highest := t.index.Generation, t.index.HighestUID
	copied := *old
	copied.Generation, copied.HighestUID = current, max(highest, old.HighestUID)
	t.index, t.dirty = &copied, true
	return t.Commit(ctx, creator, fmt.Sprintf("Rollback to generation %d", generation), now)
}
