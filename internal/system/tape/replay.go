package tape

import (
	"context"
	"errors"
	"io"

	"cairn/internal/system/tape/drive"
	"cairn/ltfs"
)

// trailing are the incremental indexes that stand behind a full one in the data
// partition, each following the one before.
type trailing struct {
	list   []*ltfs.Incremental
	behind uint64 // block behind the closing filemark of the last one; 0: there is none
	bytes  uint64
}

// following finds the incremental indexes behind the full index base, which is that
// of the data partition's last full one or an earlier one, up to a generation.
func (t *Tape) following(ctx context.Context, base *ltfs.Index, upTo uint64) (found trailing, err error) {
	at := ltfs.Location{Partition: t.label.DataPart, Block: base.Self.Block}
	if err := t.drive.Locate(ctx, drive.Position{Partition: t.number[at.Partition], Block: at.Block}); err != nil {
		return found, err
	}
	if err := t.drive.SpaceFilemarks(ctx, 1); err != nil { // base's closing one
		return found, ignoreEnd(err)
	}
	for next := base.Generation + 1; next <= upTo; next++ {
		if err := t.drive.SpaceFilemarks(ctx, 1); err != nil {
			return found, ignoreEnd(err)
		}
		r := &recordReader{ctx: ctx, t: t}
		counted := &countingReader{r: r}
		inc, err := ltfs.ReadIncremental(counted)
		if err != nil || inc.VolumeUUID != t.label.VolumeUUID || inc.Generation != next {
			return found, ctx.Err() // a full index, a torn one, or what does not follow
		}
		for !r.done { // to the filemark behind it, which a torn one lacks
			if _, err := io.Copy(io.Discard, r); err != nil {
				return found, err
			}
		}
		if !r.closed {
			return found, nil
		}
		here, err := t.drive.Position(ctx)
		if err != nil {
			return found, err
		}
		found.list, found.behind, found.bytes = append(found.list, inc), here.Block, found.bytes+counted.n
	}
	return found, nil
}

func ignoreEnd(err error) error {
	if errors.Is(err, drive.ErrEndOfData) {
		return nil
	}
	return err
}

type countingReader struct {
	r io.Reader
	n uint64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += uint64(n)
	return n, err
}

// replayTrailing brings the index that opening found up to date with the
// incremental indexes behind the last full one, as an fsync of a mount leaves them.
func (t *Tape) replayTrailing(ctx context.Context) error {
	end := t.ends[t.label.DataPart]
	if end.last == nil || end.extra == 0 || t.index.Generation != end.last.Generation {
		return nil
	}
	found, err := t.following(ctx, end.last, ^uint64(0))
	if err != nil || len(found.list) == 0 {
		return err
	}
	x, _ := t.index.Extension()
	if err := t.index.Replay(found.list...); err != nil {
		// One of them does not fit. The tree is spoilt: begin anew, without any.
		t.index, err = t.readIndexAt(ctx, end.last.Self)
		return err
	}
	x.IndexBytes += found.bytes
	x.OpenCount, x.Open = 0, nil
	t.index.SetExtension(x)
	t.replayed = len(found.list)
	end.extra = end.end - found.behind
	return nil
}

// incremental finds the generation of an incremental index, by replaying those
// behind the full one before it.
func (t *Tape) incremental(ctx context.Context, generation uint64) (*ltfs.Index, error) {
	for g, err := range t.History(ctx) {
		if err != nil {
			return nil, err
		}
		if g.Copy || g.Index.Generation > generation {
			continue
		}
		found, err := t.following(ctx, g.Index, generation)
		if err != nil || len(found.list) == 0 || found.list[len(found.list)-1].Generation != generation {
			return nil, err
		}
		if err := g.Index.Replay(found.list...); err != nil {
			return nil, t.formatFailure("replay index", err)
		}
		return g.Index, nil
	}
	return nil, nil
}
