package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"sync"

	"cairn"
	"cairn/internal/format/blocks"
	"cairn/internal/mech/extent"
)

// Send opens the stream of one version, full or incremental. It reads only what
// changed, and holds one MiB of it.
func (v *Volume) Send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	s, err := v.send(ctx, step, accept)
	return s, failed("send", v.o.Name+step.To.Name, err)
}

func (v *Volume) send(ctx context.Context, step cairn.Step, accept []cairn.Format) (*cairn.Stream, error) {
	if !slices.Contains(accept, cairn.FormatBlocks) {
		return nil, &cairn.Error{Op: "send", Subject: step.To.Name, Kind: cairn.KindUnsupported, Hint: "a volume sends " + string(cairn.FormatBlocks)}
	}
	if len(step.Via) > 0 {
		return nil, &cairn.Error{Op: "send", Subject: step.To.Name, Kind: cairn.KindUnsupported, Hint: "a stream of a volume carries one version; send one step per version"}
	}
	if err := v.relied(ctx); err != nil {
		return nil, err
	}
	r, err := v.OpenVersion(ctx, step.To)
	if err != nil {
		return nil, err
	}
	s, err := v.stream(ctx, step, r)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return s, nil
}

func (v *Volume) stream(ctx context.Context, step cairn.Step, r *Reader) (*cairn.Stream, error) {
	to, err := find(v.state(), step.To)
	if err != nil {
		return nil, err
	}
	if to.Damaged {
		return nil, &cairn.Error{Op: "send", Subject: to.Name, Kind: cairn.KindDamaged, Err: errors.New("blocks of it are lost"), Hint: "send a newer snapshot"}
	}
	var set *extent.Bitmap
	if !step.From.IsZero() {
		if set, _, err = v.changedSet(step.From, step.To); err != nil {
			return nil, err
		}
	}
	r.head = v.bulk
	b := &body{ctx: ctx, r: r, full: set == nil}
	b.w, err = blocks.NewWriter(&b.buf, blocks.Header{Size: r.size, Sector: v.sector, From: step.From, To: to.ID(), Created: to.Created},
		blocks.WriterOptions{Resume: step.Resume})
	if err != nil {
		return nil, err
	}
	b.table = v.updateTable(to)
	b.next, b.stop = iter.Pull2(b.extents(set, b.w.Position()))
	return &cairn.Stream{Body: b, Header: cairn.StreamHeader{Format: cairn.FormatBlocks, Dataset: step.Dataset, Kind: cairn.KindVolume,
		From: step.From, To: v.describe(to), Volume: r.size, Resume: b.w.Position(), Size: -1}}, nil
}

// body makes the stream as it is read.
type body struct {
	ctx  context.Context
	r    *Reader
	full bool
	mu   sync.Mutex // guards what follows: Close may come while Read runs
	w    *blocks.Writer
	buf  bytes.Buffer
	next func() (cairn.Extent, error, bool)
	stop func()
	data []byte
	err  error

	table *tableUpdate // takes what is read; may be nil
}

// Read gives the next bytes of the stream.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.buf.Len() == 0 {
		if b.err != nil {
			return 0, b.err
		}
		b.err = b.produce()
	}
	return b.buf.Read(p)
}

// produce writes one more extent into the buffer, io.EOF after the last.
func (b *body) produce() error {
	if err := b.ctx.Err(); err != nil {
		return failed("send", b.r.v.o.Name+b.r.name, err)
	}
	e, err, more := b.next()
	if err != nil {
		return err
	}
	if !more {
		if err := b.w.End(); err != nil {
			return err
		}
		b.table.finish()
		return io.EOF
	}
	if e.Kind == cairn.ExtentData {
		if b.data == nil {
			b.data = make([]byte, windowBytes)
		}
		p := b.data[:e.Length]
		if err := b.r.ReadAt(b.ctx, p, e.Offset); err != nil {
			return err
		}
		b.table.data(e.Offset, p)
		return b.w.Data(e.Offset, p)
	}
	b.table.zero(e.Offset, e.Length)
	switch {
	case b.full:
		return nil // what no record covers reads as zeroes
	case e.Kind == cairn.ExtentHole:
		return b.w.Discard(e.Offset, e.Length)
	}
	return b.w.Zero(e.Offset, e.Length)
}

// shortRun is below which asking for holes costs more than reading.
const shortRun = 64 << 10

// extents yields what the stream carries from the position on, data in pieces of
// at most a window. A nil set is everything.
func (b *body) extents(set *extent.Bitmap, from int64) iter.Seq2[cairn.Extent, error] {
	return func(yield func(cairn.Extent, error) bool) {
		if set == nil {
			b.pieces(from, b.r.size-from, yield)
			return
		}
		first := uint64(from) / blockSize
		for f, n := range set.Runs(first, blocksOf(0, b.r.size).count-min(first, blocksOf(0, b.r.size).count)) {
			off := int64(f) * blockSize
			length := min(int64(n)*blockSize, b.r.size-off)
			if length < shortRun {
				if !yield(cairn.Extent{Offset: off, Length: length, Kind: cairn.ExtentData}, nil) {
					return
				}
			} else if !b.pieces(off, length, yield) {
				return
			}
		}
	}
}

func (b *body) pieces(off, length int64, yield func(cairn.Extent, error) bool) bool {
	for e, err := range b.r.Extents(b.ctx, off, length) {
		if err != nil {
			yield(e, err)
			return false
		}
		for e.Kind == cairn.ExtentData && e.Length > windowBytes {
			piece := cairn.Extent{Offset: e.Offset, Length: windowBytes, Kind: e.Kind}
			if !yield(piece, nil) {
				return false
			}
			e.Offset, e.Length = e.Offset+windowBytes, e.Length-windowBytes
		}
		if !yield(e, nil) {
			return false
		}
	}
	return true
}

// Close ends the stream and releases the version.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop()
	b.table.end()
	b.buf.Reset()
	b.err = &cairn.Error{Op: "read stream", Subject: b.r.name, Kind: cairn.KindCanceled, Hint: "it was closed"}
	return b.r.Close()
}

// Estimate is the bytes of data that the stream would carry, before compression.
func (v *Volume) Estimate(ctx context.Context, step cairn.Step) (int64, error) {
	if !step.From.IsZero() {
		set, size, err := v.changedSet(step.From, step.To)
		if err != nil {
			return -1, failed("estimate", v.o.Name+step.To.Name, err)
		}
		return min(int64(set.Count())*blockSize, size), nil
	}
	r, err := v.OpenVersion(ctx, step.To)
	if err != nil {
		return -1, failed("estimate", v.o.Name+step.To.Name, err)
	}
	defer func() { _ = r.Close() }() // never fails
	var sum int64
	for e, err := range r.Extents(ctx, 0, r.size) {
		if err != nil {
			return -1, err
		}
		if e.Kind == cairn.ExtentData {
			sum += e.Length
		}
	}
	return sum, nil
}
