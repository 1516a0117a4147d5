package memory

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"cairn"
)

// OpenVersion is cairn.BlockOpener's.
func (p *Place) OpenVersion(ctx context.Context, ds string, id cairn.VersionID) (cairn.BlockReader, error) {
	call := Call{Ability: "blocks", Dataset: ds, Stage: Begin}
	if err := p.ask(ctx, call); err != nil {
		return nil, err
	}
	var out *reader
	err := p.locked("open", ds, func(d *dataset) error {
		v, err := d.find("open", id)
		if err != nil {
			return err
		}
		if v.image == nil {
			return failed("open", ds+id.Name, cairn.KindInvalid, errors.New("a bookmark has no data"))
		}
		v.users++
		call.Stage = Body
		out = &reader{p: p, v: v, call: call}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// reader is an open snapshot.
type reader struct {
	p      *Place
	v      *version
	call   Call
	closed bool // guarded by p.mu
}

func (r *reader) Size() int64 { return r.v.image.size }

func (r *reader) check(ctx context.Context, off, length int64) error {
	if err := r.p.ask(ctx, r.call); err != nil {
		return err
	}
	if off < 0 || length < 0 || off > r.v.image.size-length {
		return failed("read", r.call.Dataset+r.v.Name, cairn.KindInvalid, fmt.Errorf("range %d+%d leaves its %d bytes", off, length, r.v.image.size))
	}
	return nil
}

func (r *reader) ReadAt(ctx context.Context, b []byte, off int64) error {
	if err := r.check(ctx, off, int64(len(b))); err != nil {
		return err
	}
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.closed {
		return failed("read", r.call.Dataset+r.v.Name, cairn.KindInvalid, errors.New("it is closed"))
	}
	if at := r.v.image.read(b, off); at >= 0 {
		return failed("read", r.call.Dataset+r.v.Name, cairn.KindDamaged, fmt.Errorf("block at %d", at))
	}
	return nil
}

func (r *reader) Extents(ctx context.Context, off, length int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		if err := r.check(ctx, off, length); err != nil {
			yield(cairn.Extent{}, err)
			return
		}
		for end := off + length; off < end; {
			e := r.extent(off, end)
			if !yield(e, nil) {
				return
			}
			off = e.End()
		}
	}
}

// extent is the longest run of one kind from off on; blocks of a snapshot never
// change.
func (r *reader) extent(off, end int64) cairn.Extent {
	kind := func(i int64) cairn.ExtentKind {
		if r.v.image.blocks[i] == nil {
			return cairn.ExtentHole
		}
		return cairn.ExtentData
	}
	i := off / cairn.BlockSize
	e := cairn.Extent{Offset: off, Kind: kind(i)}
	for i++; i*cairn.BlockSize < end && kind(i) == e.Kind; i++ {
	}
	e.Length = min(end, i*cairn.BlockSize) - off
	return e
}

func (r *reader) Close() error {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if !r.closed {
		r.closed = true
		r.v.users--
	}
	return nil
}
