package tape

import (
	"context"
	"errors"
	"iter"

	"cairn"
	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// Generation is one index that stands on the tape.
type Generation struct {
	Index *ltfs.Index // the whole index
	Copy  bool        // the index partition's copy
}

// History walks the generations on the tape, newest first: the index partition's
// copy, then every full index of the data partition. It looks at every place where
// an index may stand, not at back pointers, so that a torn or foreign index in
// between hides nothing. Each is read whole; hold what you need of it.
func (t *Tape) History(ctx context.Context) iter.Seq2[Generation, error] {
	return func(yield func(Generation, error) bool) {
		for _, letter := range []byte{t.label.IndexPart, t.label.DataPart} {
			part := t.number[letter]
			for mark := range t.filemarksBack(ctx, part, t.ends[letter].end) {
				ix, err := t.readIndexAt(ctx, ltfs.Location{Partition: letter, Block: mark + 1})
				var fe *ltfs.FormatError
				if errors.As(err, &fe) || errors.Is(err, drive.ErrEndOfData) {
					continue
				}
				if err != nil {
					yield(Generation{}, err)
					return
				}
				if !yield(Generation{Index: ix, Copy: letter == t.label.IndexPart}, nil) {
					return
				}
			}
			if err := ctx.Err(); err != nil {
				yield(Generation{}, &cairn.Error{Op: "read history of tape", Subject: t.subject, Kind: cairn.KindCanceled, Err: err})
				return
			}
		}
	}
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
	return nil, t.fail("find generation on tape", cairn.KindNotFound, "cairn tape history lists what there is", "there is no generation %d", generation)
}
