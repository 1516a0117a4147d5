package tape

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"cairn"
	"cairn/ltfs"
)

// Generation is one index that stands on the tape.
type Generation struct {
	Index *ltfs.Index // the whole index
	Copy  bool        // the index partition's copy
}

// Unreadable is a place where an index stands, or is said to stand, that cannot be
// read.
type Unreadable struct {
	At        ltfs.Location
	Why       error
	Committed bool // a later index or the medium's attributes name it; else it was torn while it was written
}

// String renders "b:11: why".
func (u Unreadable) String() string {
	return fmt.Sprintf("%c:%d: %v", u.At.Partition, u.At.Block, u.Why)
}

// History walks the generations on the tape, newest first: the index partition's
// copy, then every full index of the data partition. It looks at every place where
// an index may stand: behind filemarks, and where pointers lead that a damaged
// filemark does not hide. A torn or foreign index in between hides nothing. Each is
// read whole; hold what you need of it.
func (t *Tape) History(ctx context.Context) iter.Seq2[Generation, error] {
	return t.Walk(ctx, func(Unreadable) {})
}

// Walk is History, and tells of the indexes that are damaged.
func (t *Tape) Walk(ctx context.Context, unreadable func(Unreadable)) iter.Seq2[Generation, error] {
	return func(yield func(Generation, error) bool) {
		var pointers []ltfs.Location
		for _, letter := range []byte{t.label.IndexPart, t.label.DataPart} {
			way := t.trailFrom(ctx, letter, t.ends[letter].end)
			if last := t.ends[letter].last; last != nil {
				way.point(last.Self)
			}
			for _, p := range append(pointers, t.index.Self, t.index.Previous) {
				way.point(p)
			}
			for at, ok := way.next(ctx); ok; at, ok = way.next(ctx) {
				ix, err := t.readIndexAt(ctx, at)
				switch {
				case err == nil:
					way.point(ix.Previous)
					pointers = append(pointers, ix.Previous)
					if !yield(Generation{Index: ix, Copy: letter == t.label.IndexPart}, nil) {
						return
					}
				case !lostToDamage(err) || ctx.Err() != nil:
					yield(Generation{}, err)
					return
				case t.wasIndex(ctx, at):
					unreadable(Unreadable{at, err, way.named})
				}
			}
			if way.failed != nil {
				unreadable(Unreadable{ltfs.Location{Partition: letter, Block: way.from}, way.failed, true})
			}
			if err := ctx.Err(); err != nil {
				yield(Generation{}, &cairn.Error{Op: "read history of tape", Subject: t.subject, Kind: cairn.KindCanceled, Err: err})
				return
			}
		}
	}
}

// wasIndex tells an index that is damaged from file data and from an incremental
// index, which are no generations.
func (t *Tape) wasIndex(ctx context.Context, at ltfs.Location) bool {
	kind, err := t.kindAt(ctx, at)
	return err != nil || kind == fullIndex
}

// recordKind is what a record begins as.
type recordKind uint8

const (
	fileData recordKind = iota
	fullIndex
	incrementalIndex
)

func kindOfRecord(record []byte) recordKind {
	head := record[:min(len(record), 512)]
	switch {
	case bytes.Contains(head, []byte("<ltfsincrementalindex")):
		return incrementalIndex
	case bytes.Contains(head, []byte("<ltfsindex")):
		return fullIndex
	}
	return fileData
}

// kindAt reads the first record at a place; an error when the drive cannot.
func (t *Tape) kindAt(ctx context.Context, at ltfs.Location) (recordKind, error) {
	r, err := t.recordsAt(ctx, at)
	if err != nil {
		return fileData, err
	}
	head := make([]byte, 512)
	n, err := r.Read(head)
	if n == 0 && r.done { // a filemark: nothing stands here
		return fileData, nil
	}
	return kindOfRecord(head[:n]), err
}

// At finds the newest index of a generation; KindNotFound when the tape has none.
func (t *Tape) At(ctx context.Context, generation uint64) (*ltfs.Index, error) {
	if t.index.Generation == generation {
		return t.index, nil
	}
	for g, err := range t.History(ctx) {
		if err != nil {
			return nil, err
		}
		if g.Index.Generation == generation {
			return g.Index, nil
		}
	}
	if ix, err := t.incremental(ctx, generation); ix != nil || err != nil {
		return ix, err
	}
	return nil, t.fail("find generation on tape", cairn.KindNotFound, "cairn tape history lists what there is", "there is no generation %d", generation)
}
