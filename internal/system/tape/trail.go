package tape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// readIndexAt reads the full index whose first block stands at l.
func (t *Tape) readIndexAt(ctx context.Context, l ltfs.Location) (*ltfs.Index, error) {
	ix, _, err := t.readConstruct(ctx, l)
	return ix, err
}

// readConstruct reads the full index at l, and says whether a filemark closes it;
// the drive stands behind both then. Where that filemark was overwritten or
// cannot be read the index ended at its last, short record.
func (t *Tape) readConstruct(ctx context.Context, l ltfs.Location) (ix *ltfs.Index, closed bool, err error) {
	for _, untilShort := range []bool{false, true} {
		r, err := t.recordsAt(ctx, l)
		if err != nil {
			return nil, false, err
		}
		r.untilShort = untilShort
		if ix, err = ltfs.ReadIndex(r); err == nil {
			closed = r.closed
			break
		} else if untilShort || !lostToDamage(err) {
			return nil, false, err
		}
	}
	switch {
	case ix.VolumeUUID != t.label.VolumeUUID:
		return nil, false, &ltfs.FormatError{What: "index", Offset: -1, Reason: fmt.Sprintf("it is of volume %s, the label of %s", ix.VolumeUUID, t.label.VolumeUUID)}
	case ix.Self != l:
		return nil, false, &ltfs.FormatError{What: "index", Offset: -1, Reason: fmt.Sprintf("it says that it stands at %c:%d, it stands at %c:%d",
			ix.Self.Partition, ix.Self.Block, l.Partition, l.Block)}
	}
	return ix, closed, nil
}

// recordReader reads records up to the next filemark as one text.
type recordReader struct {
	ctx        context.Context
	t          *Tape
	rest       []byte
	done       bool
	closed     bool // a filemark ended it
	untilShort bool // a record shorter than the volume's blocks ends it, too
}

// recordsAt reads the text that begins at l.
func (t *Tape) recordsAt(ctx context.Context, l ltfs.Location) (*recordReader, error) {
	part, known := t.number[l.Partition]
	if !known {
		return nil, t.fail("read index", cairn.KindCorrupt, "", "there is no partition %c", l.Partition)
	}
	return &recordReader{ctx: ctx, t: t}, t.drive.Locate(ctx, drive.Position{Partition: part, Block: l.Block})
}

func (r *recordReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.done {
			return 0, io.EOF
		}
		n, err := r.t.drive.Read(r.ctx, r.t.buf)
		if errors.Is(err, drive.ErrFilemark) || errors.Is(err, drive.ErrEndOfData) {
			r.done, r.closed = true, errors.Is(err, drive.ErrFilemark)
			continue
		}
		if err != nil {
			return 0, err
		}
		r.rest = r.t.buf[:n]
		r.done = r.untilShort && uint64(n) < r.t.label.BlockSize
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// trail is the way back through a partition over the places where an index may
// begin: behind each filemark, and wherever an index or the medium's coherency
// attribute says that one stands, since a filemark may be damaged.
type trail struct {
	t       *Tape
	letter  byte
	from    uint64          // filemarks are looked for before this block
	mark    uint64          // the place behind the last one that was found; 0: none is waiting
	over    bool            // there are no more
	pointed map[uint64]bool // places that are pointed to
	last    uint64          // the place that was handed out last
	named   bool            // it was pointed to: an index was finished there
	failed  error           // why the drive could not look for more filemarks
}

// trailFrom begins behind block from.
func (t *Tape) trailFrom(ctx context.Context, letter byte, from uint64) *trail {
	r := &trail{t: t, letter: letter, from: from, last: from + 1, pointed: map[uint64]bool{}}
	if v, err := t.drive.Attribute(ctx, t.number[letter], ltfs.AttrCoherency); err == nil {
		if c, err := ltfs.ParseCoherency(v); err == nil && c.VolumeUUID == t.label.VolumeUUID {
			r.point(ltfs.Location{Partition: letter, Block: c.Block})
		}
	}
	return r
}

// point adds the place that an index names.
func (r *trail) point(l ltfs.Location) {
	if l.Partition == r.letter && l.Block >= ltfs.FirstIndexBlock && l.Block < r.last {
		r.pointed[l.Block] = true
	}
}

// next is the next place before those that were handed out; ok is false when there
// is none.
func (r *trail) next(ctx context.Context) (at ltfs.Location, ok bool) {
	if r.mark == 0 && !r.over {
		r.mark, r.over = r.filemark(ctx)
	}
	block := r.mark
	if len(r.pointed) > 0 {
		block = max(block, slices.Max(slices.Collect(maps.Keys(r.pointed))))
	}
	if block == 0 {
		return ltfs.Location{}, false
	}
	if block == r.mark {
		r.mark = 0
	}
	r.last, r.named = block, r.pointed[block]
	delete(r.pointed, block)
	return ltfs.Location{Partition: r.letter, Block: block}, true
}

// filemark finds the next filemark toward the beginning; none stands before the
// first index that matters.
func (r *trail) filemark(ctx context.Context) (behind uint64, over bool) {
	if r.from < ltfs.FirstIndexBlock {
		return 0, true
	}
	d := r.t.drive
	err := d.Locate(ctx, drive.Position{Partition: r.t.number[r.letter], Block: r.from})
	if err == nil {
		err = d.SpaceFilemarks(ctx, -1)
	}
	var at drive.Position
	if err == nil {
		at, err = d.Position(ctx)
	}
	if err != nil || at.Block+1 < ltfs.FirstIndexBlock {
		if cairn.KindOf(err) != cairn.KindNotFound {
			r.failed = err
		}
		return 0, true
	}
	r.from = at.Block
	return at.Block + 1, false
}

// examine walks back from the end of a partition to its newest readable full
// index, nil when there is none. pointer is where another index says that one
// stands.
func (t *Tape) examine(ctx context.Context, letter byte, pointer ltfs.Location) (*tail, *ltfs.Index, error) {
	end := &tail{}
	var err error
	if end.end, end.ended, err = t.endOf(ctx, letter); err != nil {
		return nil, nil, err
	}
	way := t.trailFrom(ctx, letter, end.end)
	way.point(pointer)
	for at, ok := way.next(ctx); ok; at, ok = way.next(ctx) {
		ix, closed, err := t.readConstruct(ctx, at)
		if err != nil && !lostToDamage(err) {
			return nil, nil, err
		}
		if err != nil { // data, a torn index, or one of another kind
			if end.torn == nil && t.wasIndex(ctx, at) {
				end.torn = fmt.Errorf("%c:%d: %w", at.Partition, at.Block, err)
			}
			continue
		}
		behind, err := t.drive.Position(ctx)
		if err != nil {
			return nil, nil, err
		}
		end.last, end.extra, end.open = head(ix), end.end-min(end.end, behind.Block), !closed
		return end, ix, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, &cairn.Error{Op: "open tape", Subject: t.subject, Kind: cairn.KindCanceled, Err: err}
	}
	end.extra = end.end - min(end.end, 4)
	return end, nil, nil
}

// endOf is the end of data of a partition, marked or not.
func (t *Tape) endOf(ctx context.Context, letter byte) (block uint64, marked bool, err error) {
	part := t.number[letter]
	at, err := t.drive.SeekEnd(ctx, part)
	if marked = cairn.KindOf(err) != cairn.KindDamaged; marked {
		return at.Block, true, err
	}
	if err = t.drive.Locate(ctx, drive.Position{Partition: part, Block: 1 << 62}); errors.Is(err, drive.ErrEndOfData) {
		at, err = t.drive.Position(ctx)
	}
	return at.Block, false, err
}
